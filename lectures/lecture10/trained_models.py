"""Train the small models that lecture 10 shows, and store what its figures draw.

    python -m lectures.lecture10.trained_models [PART ...]

A few minutes on two quiet CPU cores; with names of parts (see PARTS), only those are made anew. The figures
are drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, metrics, nets, train, weights
from lectures.arrays import make_arrays
from tools.definitions import seminar

S9 = seminar(9, "Generator", "players")
S10 = seminar(
    10, "small_images", "dcgan_generator", "Classifier", "fid", "critic_loss", "ClippedStep"
)  # fmt: skip
STORED = Path(__file__).parent / "figures" / "trained_models.npz"
SEEDS = 5


def scalar_network(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """Return an MLP whose single output is a logit or a score, (B, widths[0]) -> (B,)."""
    return nn.Sequential(nets.mlp(*widths, 1, activation=activation), nn.Flatten(0))


# --- Two lines: what a better discriminator tells the generator --------------------------------------------

SHIFT = 1.0  # between the lines: theta of the generator, which stands still
OTHER_SHIFTS = (0.25, 4.0)
LINE_STEPS, LINE_BATCH = 3000, 256


def line_gradients(discriminator: nn.Module, shift: float = SHIFT) -> list[float]:
    """Return d/dtheta of the minimax and the non-saturating loss, and epsilon of the theorem, over p.

    The generator is G_theta(t) = (theta, t), so its Jacobian is the first unit vector: M = 1.
    """
    t = (torch.arange(512) + 0.5) / 512
    x = torch.stack([torch.full_like(t, shift), t], dim=1).requires_grad_()
    logit = discriminator(x)
    (slope,) = torch.autograd.grad(logit.sum(), x)
    probability = logit.sigmoid()
    minimax = -(probability * slope[:, 0]).mean()
    non_saturating = -((1 - probability) * slope[:, 0]).mean()
    steepness = (probability * (1 - probability))[:, None] * slope
    epsilon = torch.maximum(probability, steepness.norm(dim=1)).max()
    return [value.item() for value in (minimax, non_saturating, epsilon)]


def line_training(seed: int, shift: float = SHIFT) -> np.ndarray:
    """Train one discriminator of the two lines; return step and `line_gradients` at some steps."""
    torch.manual_seed(seed)
    discriminator = scalar_network(2, 64, 64, activation=nn.Tanh)  # smooth, as the theorem asks

    def loss(t: Tensor) -> dict[str, Tensor]:
        real, fake = t
        real, fake = (torch.stack([torch.full_like(u, at), u], 1) for at, u in ((0.0, real), (shift, fake)))
        return {"loss": S9.discriminator_loss(discriminator(real), discriminator(fake))}

    step = train.gradient_step(loss, torch.optim.Adam(discriminator.parameters(), 1e-3))
    kept = set(np.geomspace(1, LINE_STEPS, 40).round().astype(int).tolist())
    rows = []
    for number in range(1, LINE_STEPS + 1):
        step(torch.rand(2, LINE_BATCH))
        if number in kept:
            rows.append([number, *line_gradients(discriminator, shift)])
    return np.array(rows)


def vanishing() -> dict[str, np.ndarray]:
    """Train the discriminators of all seeds."""
    return {"vanishing": np.stack([line_training(seed) for seed in range(SEEDS)]).astype(np.float32)}


def vanishing_elsewhere() -> dict[str, np.ndarray]:
    """Train them for lines that are nearer and farther; keep the ends, (shifts, starts, 4)."""
    ends = [[line_training(seed, shift)[-1] for seed in range(SEEDS)] for shift in OTHER_SHIFTS]
    return {"vanishing_elsewhere": np.array(ends, dtype=np.float32)}


# --- A ring of eight Gaussians: a GAN that collapses -------------------------------------------------------

RING = {"radius": 2.0, "scale": 0.05}
RING_BATCH = 128
# Steps of the generator for one of the discriminator -> steps of the generator after which samples are kept
RING_SHOWN = {1: (200, 1000, 2000, 3000, 4000, 6000), 10: (1000, 2000, 3000, 4000, 5000, 6000)}
DRAWN, COUNTED = 300, 2500  # samples in a panel, samples for the count of modes
RADIUS, LEAST = 3 * 0.05, 20  # a mode counts with 20 of 2,500 samples within three deviations


def modes(samples: Tensor) -> metrics.ModeCoverage:
    """Count the captured modes of the ring."""
    angle = torch.arange(8) * (math.pi / 4)
    centres = RING["radius"] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return metrics.mode_coverage(samples, centres, radius=RADIUS, least=LEAST)


def ring_training(seed: int, moves: int) -> tuple[list[np.ndarray], list[list[float]]]:
    """Train a GAN on the ring, the discriminator at every `moves`-th step; return samples and coverage."""
    torch.manual_seed(seed)
    ring = data.eight_gaussians(**RING)
    generator = S9.Generator(nets.mlp(2, 64, 64, 2, activation=nn.ReLU), 2)
    discriminator = scalar_network(2, 64, 64)
    losses = S9.players(generator, discriminator, S9.discriminator_loss, S9.non_saturating_loss)
    discriminate, generate = (
        train.gradient_step(loss, torch.optim.Adam(model.parameters(), 1e-3, (0.5, 0.99)))
        for loss, model in zip(losses, (discriminator, generator), strict=True)
    )
    step = train.alternate(discriminator=(discriminate, moves), generator=generate)
    shown, coverage = [], []
    for number in range(1, RING_SHOWN[moves][-1] + 1):
        step(ring.sample(RING_BATCH))
        if number in RING_SHOWN[moves]:
            samples = generator.sample(COUNTED)
            shown.append(samples[:DRAWN].numpy())
            coverage.append([float(value) for value in modes(samples)])
    return shown, coverage


def ring() -> dict[str, np.ndarray]:
    """Train the GAN from five starts in both ways; keep the pictures of the first start."""
    found = {}
    for moves in RING_SHOWN:
        runs = [ring_training(seed, moves) for seed in range(SEEDS)]
        for seed, (_, coverage) in enumerate(runs):
            print(moves, seed, [f"{int(n)} ({100 * share:.0f} %)" for n, share in coverage], flush=True)
        found[f"ring_{moves}"] = np.stack(runs[0][0]).astype(np.float16)
        found[f"ring_{moves}_modes"] = np.array([coverage for _, coverage in runs], dtype=np.float32)
    return found


# --- Clipped critics ---------------------------------------------------------------------------------------

BOUNDS = (0.01, 0.03, 0.1, 0.3)  # c of the deep critics
HIDDEN, DEPTH, CLIP_STEPS = 64, 6, 2000


def ring_and_copy(n: int) -> tuple[Tensor, Tensor]:
    """Return samples of the ring, wide, and of a copy moved by 1 along the first axis."""
    ring = data.eight_gaussians()
    return ring.sample(n), ring.sample(n) + torch.tensor([1.0, 0.0])


Pairs = Callable[[int], tuple[Tensor, Tensor]]


def clipped_critic(critic: nn.Module, c: float, pairs: Pairs, steps: int, batch: int = 256) -> nn.Module:
    """Train a critic with clipping on what pairs(n) draws: n real examples, n samples."""

    def loss(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": S10.critic_loss(*map(critic, batch))}

    with torch.no_grad():  # begin inside the box
        for parameter in critic.parameters():
            parameter.clamp_(-c, c)
    optimizer = torch.optim.RMSprop(critic.parameters(), 5e-4)
    step = S10.ClippedStep(train.gradient_step(loss, optimizer), critic, c)
    for _ in range(steps):
        step(pairs(batch))
    return critic.eval()


def layer_gradients(critic: nn.Module, x: Tensor) -> list[float]:
    """Return the mean norm of the score's gradient with respect to the input of each linear layer."""
    inputs: list[Tensor] = []
    layers = [layer for layer in critic.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for layer in layers]
    score = critic(x.requires_grad_())
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(score.sum(), inputs)
    return [gradient.norm(dim=1).mean().item() for gradient in gradients]


def clipped() -> dict[str, np.ndarray]:
    """Train a deep critic for each bound and each start; keep weights and the gradients of the layers."""
    found, rows, shares = {}, [], []
    for c in BOUNDS:
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            critic = clipped_critic(scalar_network(2, *(HIDDEN,) * DEPTH), c, ring_and_copy, CLIP_STEPS)
            entries = torch.cat([p.detach().flatten() for p in critic.parameters() if p.ndim == 2])
            real, fake = ring_and_copy(2000)
            rows.append(layer_gradients(critic, torch.cat([real, fake])))
            shares.append((entries.abs() > 0.99 * c).float().mean().item())
            print(c, seed, f"{shares[-1]:.3f}", " ".join(f"{g:.1e}" for g in rows[-1]), flush=True)
            if seed == 0:
                found[f"clipped_weights_{c}"] = np.histogram(entries / c, bins=41, range=(-1, 1))[0]
    shape = (len(BOUNDS), SEEDS)
    found["clipped_gradients"] = np.array(rows, dtype=np.float32).reshape(*shape, -1)
    found["clipped_shares"] = np.array(shares, dtype=np.float32).reshape(shape)
    return found


# --- What a critic's loss measures -------------------------------------------------------------------------

DISTANCES = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
METER_C, METER_STEPS, METER_BATCH = 0.1, 400, 128
LONGER = 4000  # steps, to see whether it is their number that is short
METER_WIDTHS, METER_SIGMA = (2, 64, 64), 0.5


def normal_and_copy(n: int, shift: float) -> tuple[Tensor, Tensor]:
    """Return samples of a round normal and of a copy moved along the first axis: W1 is the shift."""
    real, fake = METER_SIGMA * torch.randn(2, n, 2)
    return real, fake + torch.tensor([shift, 0.0])


def measured(shift: float) -> list[float]:
    """Train a clipped critic and a discriminator; return their estimates of W1 and of the JSD."""
    pairs = partial(normal_and_copy, shift=shift)
    critic = clipped_critic(scalar_network(*METER_WIDTHS), METER_C, pairs, METER_STEPS, METER_BATCH)
    discriminator = scalar_network(*METER_WIDTHS)

    def loss(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        return {"loss": S9.discriminator_loss(*map(discriminator, batch))}

    step = train.gradient_step(loss, torch.optim.Adam(discriminator.parameters(), 1e-3))
    for _ in range(METER_STEPS):
        step(pairs(METER_BATCH))
    with torch.no_grad():  # on fresh samples
        real, fake = pairs(10_000)
        estimate = -S10.critic_loss(critic(real), critic(fake))
        value = -S9.discriminator_loss(discriminator(real), discriminator(fake))
    return [estimate.item(), (value.item() + math.log(4)) / 2]


def meter() -> dict[str, np.ndarray]:
    """Train from each start at each distance; (starts, distances, 2)."""
    values = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        values.append([measured(shift) for shift in DISTANCES])
        print(seed, np.round(values[-1], 3).tolist(), flush=True)
    return {"meter": np.array(values, dtype=np.float32)}


def meter_longer() -> dict[str, np.ndarray]:
    """Train critics ten times as long, at the smallest and the largest distance; (starts, 2)."""
    values = np.zeros((SEEDS, 2), dtype=np.float32)
    for seed, row in enumerate(values):
        for place, shift in enumerate((DISTANCES[0], DISTANCES[-1])):
            torch.manual_seed(seed)
            pairs = partial(normal_and_copy, shift=shift)
            critic = clipped_critic(scalar_network(*METER_WIDTHS), METER_C, pairs, LONGER, METER_BATCH)
            with torch.no_grad():
                real, fake = pairs(10_000)
                row[place] = -S10.critic_loss(critic(real), critic(fake))
        print(seed, row, flush=True)
    return {"meter_longer": values}


# --- The models of seminar 10 that ship --------------------------------------------------------------------

SHIPPED = {"dcgan": "seminar10-dcgan", "wgan": "seminar10-wgan"}
WIDTH, CODES, SHIPPED_SAMPLES = 16, 64, 24
JUDGED = (16, 28)  # sizes for which a floor is computed


def floors() -> list[float]:
    """Return the FID of 10,000 training images to the test images, by the shipped classifiers."""
    classifiers = nn.ModuleDict({str(size): S10.Classifier(size) for size in (28, 16, 8)})
    weights.load(classifiers, "seminar10-classifier").eval()
    splits = data.load_images("mnist")
    torch.manual_seed(0)
    known = splits.train.images[torch.randperm(len(splits.train.images))[:10_000]]
    found = []
    for size in JUDGED:
        classifier, parts = classifiers[str(size)], (known, splits.test.images)
        images, test = (S10.small_images(part, size).float() / 255 for part in parts)
        found.append(S10.fid(classifier, images, S10.feature_moments(classifier, test)))
    return found


def shipped() -> dict[str, np.ndarray]:
    """Return samples of both shipped generators as bytes, in the order of their noise, and the floors."""
    found = {}
    for name, stored in SHIPPED.items():
        generator = S9.Generator(S10.dcgan_generator(28, WIDTH, CODES), CODES)
        weights.load(generator, stored)
        torch.manual_seed(0)
        images = (generator.sample(SHIPPED_SAMPLES) + 1) / 2
        found[f"shipped_{name}"] = (255 * images[:, 0]).round().to(torch.uint8).numpy()
    return found | {"shipped_floors": np.array(floors(), dtype=np.float32)}


PARTS = {
    "vanishing": vanishing,
    "vanishing_elsewhere": vanishing_elsewhere,
    "ring": ring,
    "clipped": clipped,
    "meter": meter,
    "meter_longer": meter_longer,
    "shipped": shipped,
}


if __name__ == "__main__":
    make_arrays(PARTS, STORED, sys.argv[1:])
