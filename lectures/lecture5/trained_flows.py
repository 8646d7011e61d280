"""Train the flows that lecture 5 shows and store what its figures draw.

    python -m lectures.lecture5.trained_flows [moons] [digits] [planes] [vae] [glow]

Some minutes on two CPU cores; all parts when none is named. `glow` trains nothing: it measures
the weights that ship with the course. The figures are drawn from the stored arrays.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, metrics, nets, train, weights
from tools.definitions import seminar

S = seminar(5, "FlowVAE")
FIGURES = Path(__file__).parent / "figures"
Arrays = dict[str, np.ndarray]


def mean_and_error(values: Tensor) -> np.ndarray:
    """Return the mean of values (n,) and its standard error."""
    return np.array([values.mean().item(), (values.std() / len(values) ** 0.5).item()])


def run(step: Callable, batches: Callable[[], object], steps: int, name: str) -> None:
    """Take the steps, each with a fresh batch; print the loss ten times."""
    for number in range(1, steps + 1):
        terms = step(batches())
        if number % (steps // 10) == 0:
            print(f"{name}: step {number}, loss {terms['loss'].item():.3f}", flush=True)


# --- Couplings on the moons -------------------------------------------------------------------------------

MOONS = data.moons()
MOON_STEPS, MOON_BATCH, SHOWN = 3000, 256, 500
REACH, LINES = 3.0, 13  # of the grid in noise space that is carried back


def moon_flow(couplings: int = 8) -> nn.Module:
    """Return couplings that move the two coordinates in turn."""
    return S.Flow(S.realnvp(torch.tensor([True, False]), (64, 64), couplings))


def train_moons() -> Arrays:
    """Train by forward KL; store points after every layer, and how far the density is from the target's."""
    torch.manual_seed(0)
    flow = moon_flow()
    step = train.one_cycle(lambda x: {"loss": -flow.log_prob(x).mean()}, flow, 5e-3, MOON_STEPS, clip=10.0)
    run(step, lambda: MOONS.sample(MOON_BATCH), MOON_STEPS, "moons")
    test = MOONS.sample(20_000)
    path = [MOONS.sample(SHOWN)]
    with torch.no_grad():
        nats = mean_and_error(-flow.log_prob(test))
        entropy = mean_and_error(-MOONS.log_prob(test))
        kl = mean_and_error(MOONS.log_prob(test) - flow.log_prob(test))
        for layer in flow.layers:
            path.append(layer(path[-1])[0])
    print(f"moons: {nats} nats, entropy {entropy}, KL {kl}", flush=True)
    drawn = flow.sample(SHOWN)
    return {
        "path": torch.stack(path).numpy(),
        "drawn": drawn.numpy(),
        "nats": nats,
        "entropy": entropy,
        "kl": kl,
    }


# --- Couplings on 8 x 8 digits ----------------------------------------------------------------------------

LEVELS, PIXELS = 16, 64
COLUMNS = 12  # of 28 x 28 images in a row of a figure
DIGIT_STEPS, DIGIT_BATCH, COUPLINGS, WIDTH = 3000, 128, 8, 256


def digit_flow(scaled: bool) -> nn.Module:
    """Return RealNVP on 64 logits if `scaled`, else NICE: as many couplings, and a scaling at either end."""
    board = S.checkerboard(8, 8).flatten()
    if scaled:
        return S.Flow([S.Logit(), S.ActNorm(PIXELS), *S.realnvp(board, (WIDTH, WIDTH), COUPLINGS)])
    layers = []
    for number in range(COUPLINGS):
        network = nets.mlp(PIXELS // 2, WIDTH, WIDTH, PIXELS // 2)
        nn.init.zeros_(network[-1].weight)  # first the identity, as in `realnvp`
        nn.init.zeros_(network[-1].bias)
        layers.append(S.AdditiveCoupling(board if number % 2 == 0 else ~board, network))
    return S.Flow([S.Logit(), S.ActNorm(PIXELS), *layers, S.ActNorm(PIXELS)])


def bits(flow: nn.Module, images: Tensor) -> np.ndarray:
    """Return bits/dim of test images, uint8, with fresh noise, and its standard error."""
    log_p = metrics.log_likelihoods(flow.log_prob, data.dequantize(images, levels=LEVELS))
    return mean_and_error(metrics.bits_per_dim(-log_p, images[0].numel(), levels=LEVELS))


def train_digits() -> Arrays:
    """Train NICE and RealNVP alike; store samples, bits/dim, and what the pixels are like."""
    splits = data.load_images("mnist")
    known, test = (S.small_digits(part.images) for part in (splits.train, splits.test))
    base = S.baselines(known, test, LEVELS)
    stored = {
        "test": test[:32, 0].numpy(),
        "counts": torch.bincount(known.flatten().long(), minlength=LEVELS).numpy(),
        "pixels": np.float64(base["independent pixels"]),
        "zlib": np.float64(base["zlib"]),
        "logit_bits": np.float64(logit_bits(test)),
    }
    large = [(part.images.int() * LEVELS // 256).to(torch.uint8) for part in (splits.train, splits.test)]
    for levels, (known_large, test_large) in {
        256: (torch.cat([splits.train.images, splits.valid.images]), splits.test.images),
        LEVELS: large,
    }.items():
        base = S.baselines(known_large, test_large, levels)
        stored |= {f"large_{levels}_pixels": base["independent pixels"], f"large_{levels}_zlib": base["zlib"]}
    images = known.flatten(1)
    for name in ("nice", "realnvp"):
        torch.manual_seed(0)
        flow = digit_flow(scaled=name == "realnvp")

        def loss(y: Tensor, flow: nn.Module = flow) -> dict[str, Tensor]:
            return {"loss": -flow.log_prob(y).mean()}

        def batch() -> Tensor:
            return data.dequantize(images[torch.randint(len(images), (DIGIT_BATCH,))], levels=LEVELS)

        with torch.no_grad():  # ActNorm depends on data
            S.initialise(flow, batch())
        run(train.one_cycle(loss, flow, 2e-3, DIGIT_STEPS, clip=50.0), batch, DIGIT_STEPS, name)
        stored[f"{name}_bits"] = bits(flow, test.flatten(1))
        drawn = (flow.sample(64, PIXELS) * LEVELS).floor().clamp(0, LEVELS - 1)
        stored[name] = drawn.view(-1, 8, 8).to(torch.uint8).numpy()
        print(f"{name}: bits/dim {stored[f'{name}_bits']}", flush=True)
    return stored


def logit_bits(images: Tensor) -> float:
    """Return by how many bits/dim the figure is off when the log-slope of the logit is forgotten."""
    _, log_det = S.Logit()(data.dequantize(images, levels=LEVELS, seed=0))
    return (log_det.mean() / (images[0].numel() * math.log(2))).item()


# --- Planar flows in the plane, by reverse KL -------------------------------------------------------------


class PlanarFlows(nn.Module):
    """Train several flows at once: a diagonal Gaussian and T planar layers each, on z (runs, B, 2)."""

    def __init__(self, runs: int, layers: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(runs, 1, 2))
        self.log_scale = nn.Parameter(torch.zeros(runs, 1, 2))
        self.u, self.w = (nn.Parameter(torch.randn(layers, runs, 1, 2) / 2**0.5) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(layers, runs, 1))

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return z_T and log q(z_T) in nats, (runs, B)."""
        z = self.mean + self.log_scale.exp() * noise
        log_q = S.log_normal(noise) - self.log_scale.sum(dim=2)
        for u, w, b in zip(self.u, self.w, self.b, strict=True):
            z, log_det = S.planar(z, u, w, b)
            log_q = log_q - log_det
        return z, log_q

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q at given points (runs, B, 2), by the inverse of every layer, (runs, B)."""
        for u, w, b in zip(self.u.flip(0), self.w.flip(0), self.b.flip(0), strict=True):
            z = S.planar_inverse(z, u, w, b)
        return self((z - self.mean) * (-self.log_scale).exp())[1]


def fit_planar(target: Callable, runs: int, layers: int, steps: int, seed: int) -> PlanarFlows:
    """Minimise E[log q + energy(z, run)] for every run; the energy is heated at first, so that modes stay."""
    torch.manual_seed(seed)
    flows = PlanarFlows(runs, layers)
    taken = 0

    def loss(noise: Tensor) -> dict[str, Tensor]:
        nonlocal taken
        taken += 1
        z, log_q = flows(noise)
        weight = min(1.0, HEAT_START + taken / (0.5 * steps))
        return {"loss": (log_q + weight * target(z)).mean(dim=1).sum()}

    step = train.one_cycle(loss, flows, 1e-2, steps)
    run(step, lambda: torch.randn(runs, 512, 2), steps, f"planar {layers}")
    return flows.double()


def kl_estimates(flows: PlanarFlows, energy: Callable, log_z: Tensor, n: int = 20_000) -> np.ndarray:
    """Return E_q[log q + energy] + log Z in nats and its standard error for each run, (runs, 2)."""
    with torch.no_grad():
        z, log_q = flows(torch.randn(len(flows.mean), n, 2, dtype=torch.float64))
        excess = log_q + energy(z) + log_z[:, None]
    return np.stack([mean_and_error(values) for values in excess])


HEAT_START = 0.01  # the energy's weight at the first step
LIMIT, POINTS = 6.0, 121  # the window of the densities
ENERGY_LAYERS, ENERGY_STEPS = (2, 8, 32), 4000
BANANA_LAYERS, BANANA_STEPS, SEEDS = (0, 1, 2, 4, 8, 16), 3000, 5
SCALE, SEEN = 0.3, 1.5  # of x given z, and the x that was seen


def grid() -> Tensor:
    """Return the points of the window, first coordinate fastest, (POINTS^2, 2), in double precision."""
    side = torch.linspace(-LIMIT, LIMIT, POINTS, dtype=torch.float64)
    return torch.cartesian_prod(side, side).flip(1)


def log_mass(log_values: Tensor) -> Tensor:
    """Return the logarithm of the integral over the window of exp(log_values), (..., POINTS^2)."""
    return log_values.logsumexp(dim=-1) + 2 * math.log(2 * LIMIT / (POINTS - 1))


def energies(z: Tensor) -> Tensor:
    """Return the four energies at z (4, B, 2), with a wall outside |z1| = 4, which makes all normalisable."""
    inside = torch.stack([data.energy(points, number) for number, points in enumerate(z, start=1)])
    return inside + 50 * (z[..., 0].abs() - 4).clamp(min=0) ** 2


def banana(z: Tensor) -> Tensor:
    """Return -log p(x, z) for p(z) = N(0, I), x given z ~ N(z2 + z1^2, SCALE^2), x = SEEN; (..., 2)."""
    residual = (SEEN - z[..., 1] - z[..., 0] ** 2) / SCALE
    return residual**2 / 2 + math.log(SCALE) + math.log(2 * math.pi) / 2 - S.log_normal(z)


def train_planes() -> Arrays:
    """Fit planar flows to the four energies and to an exact posterior; store log-densities and KL."""
    stored = {}
    targets = -energies(grid().expand(4, -1, -1))
    for layers in ENERGY_LAYERS:
        flows = fit_planar(energies, 4, layers, ENERGY_STEPS, seed=0)
        kl = kl_estimates(flows, energies, log_mass(targets))
        log_q = flows.log_prob(grid().expand(4, -1, -1))
        print(f"energies, {layers}: KL {kl.round(3).tolist()}, mass {log_mass(log_q).exp()}", flush=True)
        stored[f"energy_kl_{layers}"] = kl
        stored[f"energy_{layers}"] = log_q.view(4, POINTS, POINTS).clip(min=-30).numpy().round(2)
    log_p = log_mass(-banana(grid()))
    for layers in BANANA_LAYERS:
        flows = fit_planar(banana, SEEDS, layers, BANANA_STEPS, seed=1)
        kl = kl_estimates(flows, banana, log_p.expand(SEEDS))
        best = int(kl[:, 0].argsort()[SEEDS // 2])  # the median run is drawn
        log_q = flows.log_prob(grid().expand(SEEDS, -1, -1))[best]
        print(f"banana, {layers}: KL {kl.round(3).tolist()}, mass {log_mass(log_q).exp()}", flush=True)
        stored[f"banana_kl_{layers}"] = kl
        stored[f"banana_{layers}"] = log_q.view(POINTS, POINTS).clip(min=-30).numpy().round(2)
    return stored


# --- A VAE with a planar posterior ------------------------------------------------------------------------

LATENT, VAE_LAYERS, VAE_STEPS, VAE_BATCH = 16, (0, 4, 16), 2000, 128
WEIGHTS, TESTED = 500, 1000  # importance weights for each of so many test images


def flow_vae(layers: int) -> nn.Module:
    """Return a VAE of binary 28 x 28 digits with so many planar layers in its posterior."""
    flow = S.AmortisedPlanar(LATENT, layers)
    encoder = nets.mlp(784, 256, 256, 2 * LATENT + flow.context)
    return S.FlowVAE(encoder, nets.mlp(LATENT, 256, 256, 784), flow, LATENT)


def train_vae() -> Arrays:
    """Train VAEs that differ in the depth of their posterior; store bound, estimate of log p, samples."""
    splits = data.load_images("mnist")
    images = splits.train.images.flatten(1)
    test = data.binarize(splits.test.images[:TESTED].flatten(1), seed=0)
    stored = {"steps": np.int64(VAE_STEPS), "batch": np.int64(VAE_BATCH), "images": np.int64(len(images))}
    stored |= {"latent": np.int64(LATENT), "layers": np.array(VAE_LAYERS)}
    for layers in VAE_LAYERS:
        torch.manual_seed(0)
        model = flow_vae(layers)

        def batch() -> Tensor:
            return data.binarize(images[torch.randint(len(images), (VAE_BATCH,))])

        step = train.one_cycle(S.negative_elbo(model), model, 2e-3, VAE_STEPS, clip=50.0)
        run(step, batch, VAE_STEPS, f"vae {layers}")
        with torch.no_grad():
            log_weights = torch.cat([model.log_weights(part, WEIGHTS) for part in test.split(50)], dim=1)
            drawn = model.decode(torch.randn(COLUMNS, LATENT))
        elbo = log_weights.mean(dim=0)
        log_p = metrics.importance_weighted_log_likelihood(log_weights)
        stored |= {f"elbo_{layers}": elbo.numpy(), f"log_p_{layers}": log_p.numpy()}
        stored[f"drawn_{layers}"] = (drawn * 15).round().view(-1, 28, 28).to(torch.uint8).numpy()
        print(f"vae {layers}: elbo {mean_and_error(elbo)}, log p {mean_and_error(log_p)}", flush=True)
    return stored


# --- The Glow that ships ----------------------------------------------------------------------------------

GLOW = {"levels": 2, "steps": 8, "width": 64}  # of the weights that ship, as seminar 5 sets them
TEMPERATURES = (0.6, 0.8, 1.0)
JUDGED = 1000  # images for the way there and back, and samples for the share outside the cube


def glow_flow() -> nn.Module:
    """Return the flow on 28 x 28 images whose weights ship."""
    return S.Flow([S.Logit(), S.Glow((1, 28, 28), **GLOW)])


def grey(images: Tensor) -> np.ndarray:
    """Return images (n, 784) or (n, 1, 28, 28) in [0, 1] as grey levels, (n, 28, 28)."""
    return (images * LEVELS).floor().clamp(0, LEVELS - 1).view(-1, 28, 28).to(torch.uint8).numpy()


@torch.no_grad()
def returned_and_outside(flow: nn.Module, images: Tensor) -> Arrays:
    """Return what images lose by f and g, and how many sampled pixels leave the cube of pixels."""
    y = data.dequantize(images, levels=LEVELS).flatten(1)
    parts = [(part, flow.inverse(flow(part.view(-1, 1, 28, 28))[0]).flatten(1)) for part in y.split(100)]
    drawn = torch.cat([flow.sample(100, y.shape[1]).flatten(1) for _ in parts])
    outside = (drawn < 0) | (drawn > 1)
    shares = outside.double().mean(dim=1)
    return {
        "judged": np.int64(len(y)),
        "round_trip": np.float64(max((back - part).abs().max().item() for part, back in parts)),
        "levels_changed": np.int64(sum((grey(back) != grey(part)).sum() for part, back in parts)),
        "pixels_outside": mean_and_error(shares),
        "images_outside": mean_and_error(outside.any(dim=1).double()),
    }


@torch.no_grad()
def measure_glow() -> Arrays:
    """Measure the shipped Glow on all test images; store samples, and images with half of the code new."""
    torch.manual_seed(0)
    flow = weights.load(glow_flow(), "seminar5-glow").eval()
    test = (data.load_images("mnist").test.images.int() * LEVELS // 256).to(torch.uint8)
    shown = test[:COLUMNS]
    z, _ = flow(data.dequantize(shown, levels=LEVELS))
    first = math.prod(flow.layers[1].shapes[0])
    noise = torch.randn(COLUMNS, z.shape[1])
    fine = torch.cat([noise[:, :first], z[:, first:]], dim=1)
    coarse = torch.cat([z[:, :first], noise[:, first:]], dim=1)
    share = torch.linspace(0, 1, COLUMNS)[:, None]
    ends = z[[0, 7]]  # two test images, a seven and a nine
    norm = (1 - share) * ends[0].norm() + share * ends[1].norm()
    path = (1 - share) * ends[0] + share * ends[1]
    path = path * norm / path.norm(dim=1, keepdim=True)  # noise of 784 coordinates lives on a shell
    drawn = {f"drawn_{t}": grey(flow.inverse(t * noise)) for t in TEMPERATURES}
    stored = drawn | {
        "test": shown[:, 0].numpy(),
        "returned": grey(flow.inverse(z)),
        "fine_redrawn": grey(flow.inverse(fine)),
        "coarse_redrawn": grey(flow.inverse(coarse)),
        "path": grey(flow.inverse(path)),
        "parameters": np.int64(sum(p.numel() for p in flow.parameters())),
        "bits": bits(flow, test),
    }
    stored |= returned_and_outside(flow, test[:JUDGED])
    print(f"glow: bits/dim {stored['bits']}, round trip {stored['round_trip']:.1e}", flush=True)
    return stored


PARTS = {
    "moons": train_moons,
    "digits": train_digits,
    "planes": train_planes,
    "vae": train_vae,
    "glow": measure_glow,
}


def store(name: str) -> None:
    """Run one part and store its arrays."""
    arrays = {
        key: value.astype(np.float32) if np.ndim(value) > 1 and value.dtype == np.float64 else value
        for key, value in PARTS[name]().items()
    }
    np.savez_compressed(FIGURES / f"{name}.npz", **arrays)


if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        store(part)
