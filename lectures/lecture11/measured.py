"""Train the critics and measure the scores that lecture 11 shows, and store what its figures draw.

    python -m lectures.lecture11.measured [PART ...]

About five minutes on two quiet CPU cores; with names of parts (see PARTS), only those are made anew. The
figures are drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from dgm_utils import checks, data, metrics, train, weights
from lectures.arrays import make_arrays
from tools.definitions import seminar

S10 = seminar(10, "Classifier", "dcgan_generator", "dcgan_discriminator", "critic_loss", "ClippedStep")
S11 = seminar(11, "gradient_penalty", "convolution_norm", "plane_critic")  # and the copy of Generator
STORED = Path(__file__).parent / "figures" / "measured.npz"

# --- Critics in the plane ---------------------------------------------------------------------------------

WEIGHT = 10.0  # of the penalty
STEPS, BATCH = 1500, 256
CLIP = 0.1
SEEDS = range(5)
LIMIT, POINTS = 3.0, 61
PAIRS = 400
KINDS = ("clip", "penalty", "spectral")


def real(n: int, seed: int | None = None) -> Tensor:
    """Return n points of the data: eight Gaussians on a circle."""
    return data.eight_gaussians().sample(n, seed=seed)


def fake(n: int) -> Tensor:
    """Return n points of a generator that stands still: one Gaussian in the middle."""
    return 0.5 * torch.randn(n, 2)


@cache
def trained_critic(kind: str, seed: int) -> nn.Module:
    """Return a critic after STEPS steps between the data and the generator that stands still."""
    torch.manual_seed(seed)
    spectral = nn.utils.parametrizations.spectral_norm
    critic = S11.plane_critic(spectral if kind == "spectral" else nn.Identity())

    def loss(x: Tensor) -> dict[str, Tensor]:
        y = fake(len(x))
        value = S10.critic_loss(critic(x), critic(y))
        extra = WEIGHT * S11.gradient_penalty(critic, x, y) if kind == "penalty" else 0.0
        return {"loss": value + extra}

    step = train.one_cycle(loss, critic, 2e-3, STEPS)
    step = S10.ClippedStep(step, critic, CLIP) if kind == "clip" else step
    for _ in range(STEPS):
        step(real(BATCH))
    return critic.eval()


def slopes(critic: nn.Module, x: Tensor) -> Tensor:
    """Return the critic's gradients at points, (B, 2)."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(critic(x).sum(), x)[0]


def matched(n: int = PAIRS) -> tuple[Tensor, Tensor]:
    """Return points of data and generator, paired by the best plan of the two samples."""
    x, y = real(n, seed=7), fake(n)
    rows, columns = optimize.linear_sum_assignment(torch.cdist(x, y).numpy())
    return x[rows], y[columns]


def on_segments(critic: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norm of the gradient at random points between pairs, and its slope from y to x."""
    share = torch.rand(len(x), 1)
    gradient = slopes(critic, share * x + (1 - share) * y)
    ahead = (x - y) / (x - y).norm(dim=1, keepdim=True)
    return gradient.norm(dim=1), (gradient * ahead).sum(dim=1)


def penalty() -> dict[str, np.ndarray]:
    """Train the critic with the penalty from five seeds; look at one of them on a grid and on segments."""
    found, rows = {}, []
    for seed in SEEDS:
        critic = trained_critic("penalty", seed)
        torch.manual_seed(100)
        x, y = matched()
        plan = on_segments(critic, x, y)
        other = y[torch.randperm(len(y))]
        independent = on_segments(critic, x, other)
        rows.append([part.mean().item() for part in (*plan, *independent)])
        print(seed, rows[-1], flush=True)
        if seed == 0:
            line = torch.linspace(-LIMIT, LIMIT, POINTS)
            grid = torch.cartesian_prod(line, line)
            found |= {
                "penalty_norms": slopes(critic, grid).norm(dim=1).view(POINTS, POINTS).numpy(),
                "penalty_values": critic(grid).detach().view(POINTS, POINTS).numpy(),
                "penalty_x": x.numpy(),
                "penalty_y": y.numpy(),
                "penalty_other": other.numpy(),
                "penalty_plan": torch.stack(plan).numpy(),
                "penalty_independent": torch.stack(independent).numpy(),
            }
    return {name: array.astype(np.float32) for name, array in found.items()} | {
        "penalty_means": np.array(rows)
    }


def norm_product(critic: nn.Module) -> float:
    """Return the product of the spectral norms of a critic's layers: a bound on its Lipschitz constant."""
    layers = [layer.weight for layer in critic if isinstance(layer, nn.Linear)]
    return float(np.prod([torch.linalg.matrix_norm(weight.detach(), 2).item() for weight in layers]))


def lipschitz() -> dict[str, np.ndarray]:
    """Train three kinds of critic from five seeds: constants, bounds, and how much of W1 each one sees."""
    torch.manual_seed(0)
    x, y = real(2000), fake(2000)
    found = {"distance": np.array(metrics.wasserstein(x, y))}
    for kind in KINDS:
        rows = []
        for seed in SEEDS:
            critic = trained_critic(kind, seed)
            torch.manual_seed(100)
            steepest = checks.lipschitz(critic, torch.cat([x, y]).float())
            value = -S10.critic_loss(critic(x), critic(y)).item()
            mean = slopes(critic, torch.cat([x, y])).norm(dim=1).mean().item()
            saturated = np.nan
            if kind == "clip":
                entries = torch.cat([p.detach().flatten() for p in critic.parameters()]).abs()
                saturated = (entries > 0.99 * CLIP).double().mean().item()
            rows.append([steepest, norm_product(critic), value, mean, saturated])
            print(kind, seed, rows[-1], flush=True)
        found[f"lipschitz_{kind}"] = np.array(rows)
    return found


# --- Layers -----------------------------------------------------------------------------------------------


def convolutions() -> dict[str, np.ndarray]:
    """Measure the true norms of the convolutions of a critic whose reshaped kernels have norm one."""
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        critic = S10.dcgan_discriminator(28, 16, "spectral")
        for _ in range(100):
            critic(torch.randn(2, 1, 28, 28))  # each access in training mode is one step of the iteration
        layers = [layer for layer in critic.eval() if isinstance(layer, nn.Conv2d)]
        rows.append(
            [S11.convolution_norm(layer, size, 300) for layer, size in zip(layers, (28, 14), strict=True)]
        )
        print(rows[-1], flush=True)
    return {"convolutions": np.array(rows)}


def batch_norm() -> dict[str, np.ndarray]:
    """Measure, in a random critic with batch norm, what an example's score owes to the other examples.

    Columns: the share of the squared gradient of one score that lies on other images, and the error of the
    gradient of the batch's sum of scores, which the penalty's code takes, relative to the image's own.
    """
    images = data.load_images("mnist").test.images[:64].float() / 127.5 - 1
    rows = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        critic = S10.dcgan_discriminator(28, 16, "batch")
        x = images.clone().requires_grad_()
        scores = critic(x)
        whole = torch.autograd.grad(scores.sum(), x, retain_graph=True)[0]
        share, error = [], []
        for i in range(len(x)):
            gradient = torch.autograd.grad(scores[i], x, retain_graph=True)[0]
            share.append(1 - (gradient[i].square().sum() / gradient.square().sum()).item())
            error.append(((whole[i] - gradient[i]).norm() / gradient[i].norm()).item())
        rows.append([np.mean(share), np.mean(error)])
        print(rows[-1], flush=True)
    return {"batch_norm": np.array(rows)}


# --- Scores of samples ------------------------------------------------------------------------------------

COUNTED = 5000  # images of each set and of the reference
SIZES = (100, 200, 500, 1000, 2000, 5000)
REPEATS = 40
SHOWN = 8  # images of each set that are stored
SPLITS = range(1, 11)  # seeds of the random halves whose distance is the floor


def classifier() -> nn.Module:
    """Return the classifier of 28 x 28 digits that ships with the course."""
    return weights.load(nn.ModuleDict({str(size): S10.Classifier(size) for size in (28, 16, 8)}), CLASSIFIER)[
        "28"
    ].eval()


CLASSIFIER = "seminar10-classifier"


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the features of uint8 images, (N, 64)."""
    return torch.cat([model.features(part.float() / 255) for part in images.split(1000)])


def halves(seed: int) -> tuple[Tensor, Tensor]:
    """Return the test images in two halves at random: in their own order they are two laws."""
    images = data.load_images("mnist").test.images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[:COUNTED]], images[order[COUNTED:]]


def sets() -> dict[str, Tensor]:
    """Return the sets of images that the scores judge, each (COUNTED, 1, 28, 28), uint8."""
    splits = data.load_images("mnist")
    train_images, labels = splits.train
    first = torch.stack([train_images[labels == digit][0] for digit in range(10)])
    generator = torch.Generator().manual_seed(0)
    return {
        "test": halves(0)[1],
        "memorised": train_images[:COUNTED],
        "one": first.repeat(COUNTED // 10, 1, 1, 1),
        "missing": train_images[labels < 5][:COUNTED],
        "background": (train_images[:COUNTED].int() + 26).clamp(max=255).to(torch.uint8),
        "noise": torch.randint(0, 256, (COUNTED, 1, 28, 28), generator=generator, dtype=torch.uint8),
    }


@torch.no_grad()
def fooled() -> dict[str, np.ndarray]:
    """Measure Inception score, FID, precision and recall of each set, on the classifier's features.

    One half of the test images, at random, is the reference. FID between ten other pairs of halves is the
    floor; between the halves in the order of the file, what two laws would add.
    """
    model, test = classifier(), data.load_images("mnist").test.images
    reference = features_of(model, halves(0)[0])
    found, rows = {}, []
    for name, images in sets().items():
        features = features_of(model, images)
        score, _ = metrics.inception_score(model.head(features), splits=1)
        rows.append([score, distance_of(features, reference), *metrics.precision_recall(reference, features)])
        found[f"set_{name}"] = images[:SHOWN, 0].numpy()
        print(name, rows[-1], flush=True)
    logits = model.head(features_of(model, halves(0)[1])).double()
    in_order = logits[logits.argmax(1).argsort()]
    parts = [metrics.inception_score(part, splits=1)[0] for part in in_order.tensor_split(10)]
    once = features_of(model, sets()["one"][:10])
    floors = [distance_of(*(features_of(model, half) for half in halves(seed))) for seed in SPLITS]
    return found | {
        "fooled": np.array(rows),
        "one_once": np.array(metrics.precision_recall(reference, once)),
        "sorted_score": np.array(np.mean(parts)),
        "floors": np.array(floors),
        "ordered_halves": np.array(distance_of(*(features_of(model, part) for part in test.split(COUNTED)))),
    }


def distance_of(first: Tensor, second: Tensor) -> float:
    """Return FID of two sets of features."""
    return metrics.frechet_distance(*map(metrics.feature_statistics, (first, second)))


def blurred(images: Tensor) -> Tensor:
    """Return images after a mean over 3 x 3 pixels: a set that is not the data, by a known change."""
    return nn.functional.avg_pool2d(images.float(), 3, stride=1, padding=1).round().to(torch.uint8)


@torch.no_grad()
def bias() -> dict[str, np.ndarray]:
    """Measure FID of real and of blurred images against 50,000 training images, for several sizes N."""
    model, splits = classifier(), data.load_images("mnist")
    reference = metrics.feature_statistics(features_of(model, splits.train.images))
    pool = torch.cat([splits.valid.images, splits.test.images])
    found = {}
    for name, change in (("real", lambda images: images), ("blurred", blurred)):
        features = features_of(model, change(pool))
        torch.manual_seed(0)
        rows = []
        for size in SIZES:
            values = [
                metrics.frechet_distance(
                    metrics.feature_statistics(features[torch.randperm(len(features))[:size]]), reference
                )
                for _ in range(REPEATS)
            ]
            rows.append([np.mean(values), np.std(values, ddof=1) / REPEATS**0.5])
        mean, covariance = metrics.feature_statistics(features)
        found["constant_features"] = np.array((reference[1].diagonal() == 0).sum().item())
        found[f"bias_{name}"] = np.array(rows)
        found[f"trace_{name}"] = np.array(covariance.trace().item())
        found[f"whole_{name}"] = np.array(metrics.frechet_distance((mean, covariance), reference))
        print(name, rows, found[f"trace_{name}"], found[f"whole_{name}"], flush=True)
    return found


GENERATORS = {"dcgan": "seminar10-dcgan", "wgan_gp": "seminar11-wgan-gp", "sngan": "seminar11-sngan"}
SAMPLES = 12  # of each generator


def samples() -> dict[str, np.ndarray]:
    """Draw samples of the shipped generators of 28 x 28 digits, uint8 (SAMPLES, 28, 28) each."""
    found = {}
    for name, file in GENERATORS.items():
        generator = weights.load(S11.Generator(S10.dcgan_generator(28, 16, 64), 64), file)
        torch.manual_seed(0)
        images = (generator.sample(SAMPLES) + 1) / 2
        found[f"samples_{name}"] = (255 * images[:, 0]).round().to(torch.uint8).numpy()
    return found


PARTS: dict[str, Callable[[], dict[str, np.ndarray]]] = {
    "penalty": penalty,
    "lipschitz": lipschitz,
    "convolutions": convolutions,
    "batch_norm": batch_norm,
    "fooled": fooled,
    "bias": bias,
    "samples": samples,
}


if __name__ == "__main__":
    make_arrays(PARTS, STORED, sys.argv[1:])
