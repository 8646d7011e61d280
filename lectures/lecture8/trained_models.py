"""Fit the priors and train the small models that lecture 8 shows, and store what its figures draw.

    python -m lectures.lecture8.trained_models [PART ...]

About fifteen minutes on two quiet CPU cores; with names of parts (see PARTS), only those are made anew. The
figures are drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from dgm_utils import data, nets, train, weights
from lectures.arrays import make_arrays
from lectures.lecture3.vae_digits import aggregate_on_grid, as_bytes, trained
from tools.definitions import seminar

S3, S8 = seminar(3, "VAE", "negative_elbo"), seminar(8, "PriorVAE", "free_bits")
STORED = Path(__file__).parent / "figures" / "trained_models.npz"

# --- Priors for the codes of a trained encoder ------------------------------------------------------------

POINTS, LIMIT = 321, 4.0  # of the grid on which lecture 3 stored log q(z)
COMPONENTS = (1, 10, 100)  # of the mixtures and VampPriors
STEPS, CODES = 1000, 256  # a step of a prior's fit sees so many codes
# How a VampPrior's pseudo-inputs begin: training images; the same, one of them first moved until its
# posterior is near N(0, I); all of them moved until theirs are near the components of the fitted mixture.
VAMP_STARTS, VAMP_SEEDS, PULLS = ("images", "one broad", "mixture"), 2, 1000


def grid() -> Tensor:
    """Return the points of lecture 3's grid, z_1 in rows, (321^2, 2)."""
    line = torch.linspace(-LIMIT, LIMIT, POINTS)
    return torch.cartesian_prod(line, line)


def mixture_log_prob(z: Tensor, mean: Tensor, std: Tensor, log_w: Tensor) -> Tensor:
    """Return log sum_c w_c N(z; mean_c, std_c^2) in nats: (B, d), three times (C, ...) -> (B,)."""
    parts = log_w + Normal(mean, std).log_prob(z[:, None]).sum(dim=2)
    return parts.logsumexp(dim=1)


@torch.no_grad()
def train_codes(d: int, seed: int = 1) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return the shipped VAE, the binarised training images, and mean and std of their codes."""
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images])
    x = data.binarize(images, seed=seed).flatten(1)
    model = trained(S3, d)
    return model, x, *model.posterior(x)


def fit(parameters: list[Tensor], log_prob: object, mean: Tensor, std: Tensor, lr: float) -> None:
    """Maximise the mean of log p(z) over draws of the aggregate posterior: forward KL to the family."""
    optimizer = torch.optim.Adam(parameters, lr)
    for step in range(STEPS):
        rows = torch.randint(len(mean), (CODES,))
        z = mean[rows] + std[rows] * torch.randn(CODES, mean.shape[1])
        loss = -log_prob(z).mean()
        optimizer.param_groups[0]["lr"] = lr * (1 - step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"  last loss {loss.item():.3f}", flush=True)


def on_grid(log_prob: object) -> Tensor:
    """Return a log-density on lecture 3's grid."""
    return torch.cat([log_prob(part) for part in grid().split(5000)])


def kept(log_p: Tensor) -> np.ndarray:
    """Return log-densities to be stored: where there is no mass, one value that packs well."""
    return log_p.clamp(min=-40).numpy().astype(np.float16)


def cross_entropy(log_prob: object, mean: Tensor, std: Tensor) -> float:
    """Return -E log p(z) over draws of the aggregate posterior, five of each code, in nats."""
    draws = (mean + std * torch.randn_like(std) for _ in range(5))
    return -np.mean([log_prob(part).mean().item() for z in draws for part in z.split(5000)])


def pull(prior: nn.Module, rows: Tensor, mean: Tensor, std: Tensor) -> None:
    """Move the pseudo-inputs `rows` until their posteriors are near N(mean, std^2): KL(target || answer)."""
    optimizer = torch.optim.Adam([prior.raw], 0.05)
    target = Normal(mean, std)
    for _ in range(PULLS):
        at, spread = prior.parts()
        loss = kl_divergence(target, Normal(at[rows], spread[rows])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def best_vamp(
    model: nn.Module, x: Tensor, mean: Tensor, std: Tensor, mixture: nn.Module
) -> tuple[nn.Module, np.ndarray]:
    """Return the VampPrior with the smallest cross-entropy of all starts, and those of all, in order."""
    count, found = len(mixture.means), []
    for start in VAMP_STARTS:
        for seed in range(VAMP_SEEDS):
            torch.manual_seed(seed)
            vamp = S8.VampPrior(model.encoder, x[torch.randperm(len(x))[:count]])
            if start == "one broad":
                pull(vamp, torch.arange(1), torch.zeros(1, 2), torch.ones(1, 2))
            if start == "mixture":
                pull(vamp, torch.arange(count), *(part.detach() for part in mixture.parts()))
                with torch.no_grad():
                    vamp.logits.copy_(mixture.logits)
            fit([vamp.raw, vamp.logits], vamp.log_prob, mean, std, 0.05)
            with torch.no_grad():
                found.append((cross_entropy(vamp.log_prob, mean, std), vamp))
            print(f"  {start}, {count}, seed {seed}: {found[-1][0]:.4f}", flush=True)
    return min(found, key=lambda pair: pair[0])[1], np.array([value for value, _ in found])


def fitted_priors(
    model: nn.Module, x: Tensor, mean: Tensor, std: Tensor
) -> tuple[dict[str, nn.Module], dict[str, np.ndarray]]:
    """Return the priors by name, fitted to the codes, and the cross-entropies of each VampPrior's starts."""
    found, starts = {"standard": S8.StandardPrior(2)}, {}
    for count in COMPONENTS:
        torch.manual_seed(0)
        mixture = S8.MixturePrior(count, 2)
        with torch.no_grad():  # begin on codes, wide enough to cover the plane together
            mixture.means.copy_(mean[torch.randperm(len(x))[:count]])
            mixture.log_variances.fill_(-math.log(count))
        fit(list(mixture.parameters()), mixture.log_prob, mean, std, 0.02)
        found[f"mixture_{count}"] = mixture
        if count > 1:
            name = f"vamp_{count}"
            found[name], starts[f"starts_{name}"] = best_vamp(model, x, mean, std, mixture)
    torch.manual_seed(0)
    flow = S8.AutoregressivePrior(2, [64, 64], layers=6)
    fit(list(flow.parameters()), flow.log_prob, mean, std, 2e-3)
    return found | {"maf": flow}, starts


def plane() -> dict[str, np.ndarray]:
    """Fit priors to the aggregate posterior of lecture 3's plane, the encoder fixed.

    Return log-densities on the grid, and E -log p(z): a grid is too coarse for narrow components.
    """
    model, x, mean, std = train_codes(2)
    model.requires_grad_(False)
    rate = S3.standard_normal_kl(mean, std).sum(dim=1).mean()  # of all training images, closed form
    found = {"plane_rate": rate.numpy(), "widths_codes": std[:: len(std) // 500].numpy()}
    priors, starts = fitted_priors(model, x, mean, std)
    for name, prior in priors.items():
        with torch.no_grad():
            torch.manual_seed(0)
            found[f"fit_{name}"] = kept(on_grid(prior.log_prob))
            found[f"cross_{name}"] = np.array(cross_entropy(prior.log_prob, mean, std))
            print(name, found[f"cross_{name}"], flush=True)
            if name.startswith("vamp"):
                found[f"widths_{name}"] = prior.parts()[1].numpy()
    return found | starts


# --- Standard prior and VampPrior, trained with their encoders ---------------------------------------------

PSEUDO, JOINT_STEPS, JOINT_BATCH, JOINT_STARTS = 50, 3000, 100, 2  # 5 passes over the training images


def joint_training(start: int, images: Tensor, *, learnt: bool) -> nn.Module:
    """Train from one start, with the standard prior or with a VampPrior; fresh binarisation in each batch."""
    torch.manual_seed(start)  # the same networks for both priors
    encoder = nets.mlp(784, 200, 200, 4, activation=nn.Tanh)
    decoder = nets.mlp(2, 200, 200, 784, activation=nn.Tanh)
    share = images.float().mean(dim=0).flatten() / 255
    with torch.no_grad():
        decoder[-1].bias.copy_(torch.logit(share.clamp(0.001, 0.999)))
    chosen = data.binarize(images[torch.randperm(len(images))[:PSEUDO]]).flatten(1)
    prior = S8.VampPrior(encoder, chosen) if learnt else S8.StandardPrior(2)
    model = S8.PriorVAE(encoder, decoder, prior, 2)
    step = train.one_cycle(S3.negative_elbo(model), model, 2e-3, JOINT_STEPS)
    for _ in range(JOINT_STEPS):
        rows = torch.randint(len(images), (JOINT_BATCH,))
        step(data.binarize(images[rows]).flatten(1))
    return model.eval()


@torch.no_grad()
def judged(models: dict[str, nn.Module], test: Tensor) -> list[float]:
    """Return -ELBO of both on test images, the gain, its standard error, both rates: one draw an image."""
    torch.manual_seed(0)
    parts = [model.elbo(test) for model in models.values()]
    bounds = [reconstruction - kl for reconstruction, kl in parts]
    gain = bounds[1] - bounds[0]
    line = [-bounds[0].mean(), -bounds[1].mean(), gain.mean(), gain.std() / len(gain) ** 0.5]
    return [float(value) for value in [*line, *(kl.mean() for _, kl in parts)]]


@torch.no_grad()
def pictures(name: str, model: nn.Module, known: Tensor) -> dict[str, np.ndarray]:
    """Return what the figures show of one model: codes, prior, samples, and its pseudo-inputs."""
    mean, std = model.posterior(known)
    torch.manual_seed(3)
    found = {
        f"joint_{name}_q": kept(aggregate_on_grid(mean, std)),
        f"joint_{name}_p": kept(on_grid(model.prior.log_prob)),
        f"joint_{name}_widths": std[:: len(std) // 500].numpy(),
        f"joint_{name}_samples": as_bytes(model.decode(model.prior.sample(10))),
    }
    if name == "vamp":
        at, widths = model.prior.parts()
        drawn = torch.multinomial(model.prior.logits.softmax(dim=0), 10, replacement=True)  # by their weights
        found |= {"joint_inputs": as_bytes(model.prior.pseudo_inputs()[drawn])}
        found |= {"joint_means": at.numpy(), "joint_stds": widths.numpy()}
        found["joint_weights"] = model.prior.logits.softmax(dim=0).numpy()
    return found


def joint() -> dict[str, np.ndarray]:
    """Train both priors from several starts; judge on test images, keep the pictures of the first start."""
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images])
    test = data.binarize(splits.test.images, seed=0).flatten(1)
    known = data.binarize(images, seed=1).flatten(1)
    found, rows = {}, []
    for start in range(JOINT_STARTS):
        models = {name: joint_training(start, images, learnt=name == "vamp") for name in ("standard", "vamp")}
        rows.append(judged(models, test))
        print(start, rows[-1], flush=True)
        if start == 0:
            for name, model in models.items():
                found |= pictures(name, model, known)
    return found | {"joint": np.array(rows)}


# --- The models of seminar 8 that ship ---------------------------------------------------------------------

SHIPPED = {"standard": "seminar8-standard", "vamp": "seminar8-vamp"}
SHIPPED_CODES, SHIPPED_COMPONENTS, SHIPPED_SAMPLES = 50, 50, 20


@torch.no_grad()
def shipped() -> dict[str, np.ndarray]:
    """Return the decoder's probabilities at draws of the prior, from the weights of seminar 8."""
    found = {}
    for name, stored in SHIPPED.items():
        encoder = nets.mlp(784, 200, 200, 2 * SHIPPED_CODES, activation=nn.Tanh)
        decoder = nets.mlp(SHIPPED_CODES, 200, 200, 784, activation=nn.Tanh)
        blank = torch.zeros(SHIPPED_COMPONENTS, 784)
        prior = S8.VampPrior(encoder, blank) if name == "vamp" else S8.StandardPrior(SHIPPED_CODES)
        model = weights.load(S8.PriorVAE(encoder, decoder, prior, SHIPPED_CODES), stored).eval()
        torch.manual_seed(0)
        found[f"shipped_{name}"] = as_bytes(model.decode(model.prior.sample(SHIPPED_SAMPLES)))
    return found


# --- The aggregate posterior as prior: who gains? ---------------------------------------------------------

HELD = (100, 1000, 10_000, 60_000)  # components: codes of so many training images
JUDGED = 500  # images of each kind


@torch.no_grad()
def memory() -> dict[str, np.ndarray]:
    """Return mean KL(q(z|x) || q_n(z)), one draw each, for images in the mixture q_n and for others."""
    found = {}
    for d in (2, 50):
        model, _, mean, std = train_codes(d)
        test = data.binarize(data.load_images("mnist").test.images[:JUDGED], seed=0).flatten(1)
        torch.manual_seed(0)
        order = torch.randperm(len(mean))
        mean, std = mean[order], std[order]
        kinds = {"seen": (mean[:JUDGED], std[:JUDGED]), "new": model.posterior(test)}
        rows = []
        for n in HELD:
            line = [n]
            for at, spread in kinds.values():
                at, spread = at[:n], spread[:n]
                z = at + spread * torch.randn_like(at)
                log_q = Normal(at, spread).log_prob(z).sum(dim=1)
                uniform = torch.full((n,), -math.log(n))
                log_p = torch.cat(
                    [mixture_log_prob(part, mean[:n], std[:n], uniform) for part in z.split(10)]
                )
                gaps = log_q - log_p
                line += [gaps.mean().item(), gaps.std().item() / len(gaps) ** 0.5]
            rows.append(line)
        z = [at + spread * torch.randn_like(at) for at, spread in kinds.values()]
        standard = []
        for draw, (at, spread) in zip(z, kinds.values(), strict=True):
            gaps = (Normal(at, spread).log_prob(draw) - Normal(0.0, 1.0).log_prob(draw)).sum(dim=1)
            standard += [gaps.mean().item(), gaps.std().item() / len(gaps) ** 0.5]
        found |= {f"memory_{d}": np.array(rows), f"standard_{d}": np.array(standard)}
        print(d, rows, standard, flush=True)
    return found


# --- A VAE of four numbers whose bound is exact -----------------------------------------------------------

M, RHO = 4, 0.8
SIGMA = RHO * torch.ones(M, M) + (1 - RHO) * torch.eye(M)  # covariance of the data, mean 0
TOY_STEPS, RAMP, FLOOR, RATE = 2000, 400, 0.5, 0.01  # ramp of the annealing; free nats; of the gradient
STARTS = 5
LATE = 0.3  # weight of z in the decoder where the encoder starts late
TRAININGS = ("plain", "annealed", "free bits", "aggressive", "no reading")
TRAININGS += ("late", "late aggressive", "late no reading")


def toy_parts(V: Tensor, w: Tensor, log_s: Tensor, a: Tensor, log_r: Tensor) -> tuple[Tensor, Tensor]:
    """Return exact mean reconstruction and mean KL, nats, over x ~ N(0, SIGMA).

    Decoder x_i | x_1:i-1, z ~ N(sum_j V_ij x_j + w_i z, s_i^2), encoder z | x ~ N(a.x, r^2), prior N(0, 1).
    """
    left = torch.eye(M, dtype=w.dtype) - V - torch.outer(w, a)  # the residual is left x - w r epsilon
    square = ((left @ SIGMA.to(w) * left).sum(dim=1)) + w**2 * (2 * log_r).exp()
    reconstruction = -(log_s + 0.5 * math.log(2 * math.pi) + square / (2 * (2 * log_s).exp())).sum()
    return reconstruction, 0.5 * (a @ SIGMA.to(w) @ a + (2 * log_r).exp() - 1 - 2 * log_r)


def reading(V: Tensor, w: Tensor, log_s: Tensor) -> Tensor:
    """Return b of the model's own posterior mean b.x, by Bayes' rule for normals, (M,)."""
    weighted = w * (-2 * log_s).exp()
    return weighted @ (torch.eye(M, dtype=w.dtype) - V) / (1 + weighted @ w)


def spread(b: Tensor) -> float:
    """Return the standard deviation of b.x over the data."""
    return (b @ SIGMA.to(b) @ b).sqrt().item()


def toy_training(kind: str, seed: int) -> np.ndarray:
    """Train by plain gradient steps on the exact bound; return KL, bound and two spreads at every step.

    In the kinds that begin with "late" the decoder uses z already, and the encoder says next to nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    single = {"generator": generator, "dtype": torch.float32}
    start = [0.1 * torch.randn(shape, **single).double() for shape in ((M, M), M, M, M, ())]
    start[2], start[4] = 0 * start[2], 0 * start[4]  # s_i = r = 1
    if kind.startswith("late"):
        start[1], start[3] = LATE + start[1], 0.1 * start[3]
        kind = kind.removeprefix("late").strip() or "plain"
    parameters = [part.requires_grad_() for part in start]
    mask = torch.zeros(M, M).double() if kind == "no reading" else torch.ones(M, M).double().tril(-1)

    def parts() -> tuple[Tensor, Tensor]:
        return toy_parts(mask * parameters[0], *parameters[1:])

    rows = []
    for step in range(TOY_STEPS):
        if kind == "aggressive" and step < RAMP:  # ten steps of the encoder for one of the decoder
            for _ in range(10):
                reconstruction, kl = parts()
                move(parameters[3:], kl - reconstruction)
        reconstruction, kl = parts()
        V, w, log_s, a, _ = (part.detach() for part in parameters)
        seen = [spread(reading(mask * V, w, log_s)), spread(a)]
        rows.append([kl.item(), (reconstruction - kl).item(), *seen])
        weight = min(1.0, step / RAMP) if kind == "annealed" else 1.0
        charged = kl.clamp(min=FLOOR) if kind == "free bits" else kl
        move(parameters, weight * charged - reconstruction)
    return np.array(rows)


def move(parameters: list[Tensor], loss: Tensor) -> None:
    """Take one step of gradient descent."""
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= RATE * gradient


def toy() -> dict[str, np.ndarray]:
    """Train the VAE of four numbers in every way from every start; keep every tenth step."""
    return {
        f"toy_{kind.replace(' ', '_')}": np.stack(
            [np.vstack([trace[::10], trace[-1:]]) for trace in (toy_training(kind, s) for s in range(STARTS))]
        ).astype(np.float32)
        for kind in TRAININGS
    }


# --- A beta-VAE on sprites --------------------------------------------------------------------------------

UNITS, BETAS, SPRITE_STEPS = 8, (1, 8), 2000
SHOWN, PLACES = 4, 7  # units of each model, values of a unit


def sprite_vae() -> nn.Module:
    """Return an untrained convolutional VAE for images of 32 by 32."""
    encoder = nn.Sequential(
        nn.Unflatten(1, (1, 32, 32)),
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 2 * UNITS)),
    )
    decoder = nn.Sequential(
        *(nn.Linear(UNITS, 128), nn.ReLU(), nn.Linear(128, 512), nn.ReLU(), nn.Unflatten(1, (32, 4, 4))),
        *(nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Flatten()),
    )
    return S3.VAE(encoder, decoder, UNITS)


def sprites() -> dict[str, np.ndarray]:
    """Train one VAE for each beta; return rate, distortion and what the most used units do."""
    images, _ = data.sprites()
    images = images.flatten(1).float() / 255
    found = {}
    for beta in BETAS:
        torch.manual_seed(0)
        model, count = sprite_vae(), iter(range(SPRITE_STEPS))

        def loss(x: Tensor, model: nn.Module = model, beta: float = beta, count: object = count) -> dict:
            reconstruction, kl = (part.mean() for part in model.elbo(x))
            weight = beta * min(1, 4 * next(count) / SPRITE_STEPS)  # annealed: at once, all units would die
            return {"loss": weight * kl - reconstruction, "reconstruction": reconstruction, "kl": kl}

        step = train.one_cycle(loss, model, 1e-3, SPRITE_STEPS)
        for _ in range(SPRITE_STEPS):
            terms = step(images[torch.randint(len(images), (64,))])
        print(beta, {name: float(value) for name, value in terms.items()}, flush=True)
        found |= traversals(model.eval(), images, beta)
    return found


@torch.no_grad()
def traversals(model: nn.Module, images: Tensor, beta: int) -> dict[str, np.ndarray]:
    """Return rate and distortion over all images, and decodings along the units of the largest KL."""
    torch.manual_seed(0)
    parts = [model.elbo(part) for part in images.split(1024)]
    distortion = -torch.cat([part[0] for part in parts]).mean().item()
    rate = torch.cat([part[1] for part in parts]).mean().item()
    means, stds = (
        torch.cat(list(part)) for part in zip(*map(model.posterior, images.split(1024)), strict=True)
    )
    kl = S3.standard_normal_kl(means, stds).mean(dim=0)
    code = means[2500]
    rows = []
    for unit in kl.argsort(descending=True)[:SHOWN]:
        z = code.repeat(PLACES, 1)
        z[:, unit] = torch.linspace(-2, 2, PLACES)
        rows.append(model.decode(z))
    pictures = (torch.stack(rows) * 255).round().to(torch.uint8)
    return {
        f"sprites_{beta}": pictures.numpy(),
        f"sprites_{beta}_kl": kl.sort(descending=True).values.numpy(),
        f"sprites_{beta}_rd": np.array([rate, distortion]),
    }


PARTS = {"plane": plane, "joint": joint, "shipped": shipped, "memory": memory, "toy": toy, "sprites": sprites}


if __name__ == "__main__":
    make_arrays(PARTS, STORED, sys.argv[1:])
