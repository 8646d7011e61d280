"""Draw the figures of lecture 11, and compute the numbers that its slides print.

    python -m lectures.drawing lecture11 [FOLDER]

Matrices, divergences and discs are exact; critics and scores are drawn from arrays that `measured.py` stored.
What the deck claims is tested in `tests/test_lecture11.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy import optimize

from dgm_utils import metrics
from lectures.arrays import read_arrays
from lectures.drawing import (
    BLUE,
    BROWN,
    FRAME,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    RED,
    SLIDE_WIDTH,
    bare,
    canvas,
    digits,
    figure,
    fixed,
    hide_left,
    log_ticks,
    paint,
)
from lectures.lecture11.measured import KINDS, LIMIT, POINTS, SIZES, WEIGHT
from tools.definitions import seminar

S11 = seminar(11, "power_iteration", "DIVERGENCES")

FOLDER = Path(__file__).parent / "figures"


@cache
def measured() -> dict[str, np.ndarray]:
    """Return the arrays that `measured` stored."""
    return read_arrays(FOLDER / "measured.npz")


def ends(values: np.ndarray, digits: int) -> list[str]:
    """Return the smallest and the largest value."""
    return fixed([values.min(), values.max()], digits)


# --- Critics ----------------------------------------------------------------------------------------------


def segments(panel: Axes, x: np.ndarray, y: np.ndarray, title: str) -> None:
    """Draw level lines of the critic, 0.4 apart, and segments from samples to data."""
    axis = np.linspace(-LIMIT, LIMIT, POINTS)
    values = measured()["penalty_values"].T.round(4)
    levels = np.arange(np.floor(values.min()), values.max(), 0.4)
    panel.contour(axis, axis, values, levels=levels, colors=MUTED, linewidths=0.8, linestyles="solid")
    lines = np.stack([x, y], axis=1).round(4)
    panel.add_collection(LineCollection(lines, colors=BLUE, linewidths=1))
    panel.plot(*x.T.round(4), ".", color=RED, markersize=4)
    panel.plot(*y.T.round(4), ".", color=INK, markersize=4)
    panel.set(aspect="equal", xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[], title=title)
    panel.spines[:].set(visible=True, color=FRAME)


@figure
def penalty_geometry() -> Figure:
    """Draw the plan's and independent segments on a critic's level lines, and the slopes along both."""
    arrays = measured()
    figure, (left, middle, right) = canvas(SLIDE_WIDTH, 225, columns=3, width_ratios=[1, 1, 1.15])
    x, y = arrays["penalty_x"], arrays["penalty_y"]
    shown = slice(0, None, 10)
    segments(left, x[shown], y[shown], "the best plan")
    segments(middle, x[shown], arrays["penalty_other"][shown], "independent pairs")
    bins = np.linspace(-1.2, 1.2, 25)
    for name, colour in (("independent", ORANGE), ("plan", BLUE)):
        right.hist(arrays[f"penalty_{name}"][1].round(4), bins=bins, color=colour, alpha=0.75)
    right.text(-1.1, 90, "independent", color=BROWN)
    right.text(0.9, 300, "plan", color=BLUE, ha="right")
    right.set(title="slope from $y$ to $x$", xticks=[-1, 0, 1])
    hide_left(right)
    return figure


NAMES = {"clip": "clipping", "penalty": "penalty", "spectral": "spectral"}


def critics() -> dict[str, np.ndarray]:
    """Return for each kind of critic its seeds' steepest slope, product of norms, and value over both."""
    rows = {kind: measured()[f"lipschitz_{kind}"] for kind in KINDS}
    return {
        kind: np.column_stack([row[:, 0], row[:, 1], row[:, 2] / row[:, 0], row[:, 2] / row[:, 1]])
        for kind, row in rows.items()
    }


@figure
def lipschitz() -> Figure:
    """Draw the steepest slope, the product of the layers' norms, and the value over both, five seeds each."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 165, columns=2)
    for place, kind in enumerate(KINDS):
        steepest, product, value, bound = critics()[kind].T
        left.plot(np.full(5, place - 0.12), steepest, "o", color=BLUE, fillstyle="none")
        left.plot(np.full(5, place + 0.12), product, "s", color=RED, fillstyle="none")
        right.plot(np.full(5, place - 0.12), value, "o", color=BLUE, fillstyle="none")
        right.plot(np.full(5, place + 0.12), bound, "s", color=RED, fillstyle="none")
    left.set(yscale="log", xlim=(-0.5, 2.5), title="slopes", ylim=(0.5, 25))
    left.set_xticks(range(3), NAMES.values())
    log_ticks(left.yaxis, 0.5, 1, 2, 5, 10, 20)
    left.text(2.45, 15, "product of norms", color=RED, ha="right")
    left.text(2.45, 7.2, "steepest found", color=BLUE, ha="right")
    left.axhline(1, color=MUTED, linewidth=1.2, linestyle=":")
    right.axhline(measured()["distance"], color=INK, linewidth=1.4, linestyle="--")
    right.text(2.45, float(measured()["distance"]) + 0.05, "$W_1$", ha="right")
    right.set(xlim=(-0.5, 2.5), title="value / slope", ylim=(0, 1.7))
    right.set_xticks(range(3), NAMES.values())
    return figure


@figure
def samples() -> Figure:
    """Draw samples of the three shipped generators of digits."""
    titles = {"dcgan": "DCGAN", "wgan_gp": "WGAN-GP", "sngan": "SNGAN"}
    rows = {title: measured()[f"samples_{name}"] / 255 for name, title in titles.items()}
    return digits(rows, SLIDE_WIDTH, 190, levels=8)


# --- Layers -----------------------------------------------------------------------------------------------

RATIOS = (0.5, 0.8, 0.95)
ROUNDS = 40


def matrix(ratio: float, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix with singular values 1, ratio, from 0.7 ratio down, and its left singular vectors."""
    generator = np.random.default_rng(1)
    left, right = (np.linalg.qr(generator.normal(size=(size, size)))[0] for _ in range(2))
    values = np.r_[1, ratio, ratio * np.linspace(0.7, 0.1, size - 2)]
    return left @ np.diag(values) @ right.T, left


def estimates_of(weight: np.ndarray, u: np.ndarray, rounds: int) -> np.ndarray:
    """Return the estimates of the largest singular value after each round, from u."""
    return S11.power_iteration(torch.from_numpy(weight), rounds, torch.from_numpy(u))[0].numpy()


def power_bound(left: np.ndarray, u: np.ndarray, ratio: float, rounds: int) -> np.ndarray:
    """Return the theorem's bound on 1 - (estimate / largest)^2 after each round."""
    parts = left.T @ u
    tangent = (parts[1:] ** 2).sum() / parts[0] ** 2
    return ratio ** (4 * np.arange(1, rounds + 1) - 2) * tangent


def start(left: np.ndarray) -> np.ndarray:
    """Return the unit vector with equal parts along all left singular vectors."""
    return left.sum(axis=1) / len(left) ** 0.5


@figure
def power_iteration() -> Figure:
    """Draw the error of power iteration against the rounds, with the bound, for three gaps."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 240, columns=2)
    rounds = np.arange(1, ROUNDS + 1)
    for ratio, colour in zip(RATIOS, (BLUE, GREEN, RED), strict=True):
        weight, vectors = matrix(ratio)
        estimates = estimates_of(weight, start(vectors), ROUNDS)
        error = 1 - estimates**2
        kept = error > 1e-10
        left.plot(rounds[kept], error[kept], "o", color=colour, markersize=4)
        left.plot(rounds, power_bound(vectors, start(vectors), ratio, ROUNDS), color=colour, linewidth=1.6)
        right.plot(rounds, estimates.round(5), color=colour, label=f"{ratio:g}")
    left.set(yscale="log", ylim=(1e-8, 1e3), xlabel="rounds", title="$1-\\hat\\sigma_k^2/\\sigma_1^2$")
    log_ticks(left.yaxis, 1e-8, 1e-4, 1)
    left.yaxis.set_ticklabels(["$10^{-8}$", "$10^{-4}$", "1"])
    right.axhline(1, color=MUTED, linewidth=1.2, linestyle=":")
    right.set(xlabel="rounds", title="$\\hat\\sigma_k/\\sigma_1$", ylim=(0, 1.05))
    right.legend(title="$\\sigma_2/\\sigma_1$", loc="lower right", title_fontsize=15)
    return figure


def channel_penalty() -> float:
    """Return the mean of (|w| - 1)^2 over pixels of a random critic w of norm one on 28 x 28 grey pixels."""
    w = np.random.default_rng(0).normal(size=784)
    w /= np.linalg.norm(w)
    return float(((np.abs(w) - 1) ** 2).mean())


def seam_norm() -> float:
    """Return the norm of a 4 x 4 kernel of quarters, stride 2, on 8 x 8 pixels padded by 2 around."""
    layer = torch.nn.Conv2d(1, 1, 4, 2, 2, bias=False, padding_mode="circular").double()
    torch.nn.init.constant_(layer.weight, 0.25)
    with torch.no_grad():
        images = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
        return torch.linalg.matrix_norm(layer(images).flatten(1), 2).item()


# --- f-divergences ----------------------------------------------------------------------------------------


ORDER = ("Pearson", "KL", "2 JSD", "Hellinger", "reverse KL")  # from covering to seeking
DIVERGENCES = {name: S11.DIVERGENCES[name] for name in ORDER}


@figure
def conjugates() -> Figure:
    """Draw three convex functions with tangents, which meet the axis at minus the conjugate."""
    figure, axes = canvas(SLIDE_WIDTH, 172, columns=3)
    t = np.linspace(0.005, 4, 400)
    touching = {"KL": (0.3, 1, 2.2), "reverse KL": (0.4, 1, 2.5), "Hellinger": (0.3, 1, 3)}
    titles = {"KL": "forward KL, $t\\log t$", "reverse KL": "reverse KL, $-\\log t$"}
    windows = {"KL": (-2.6, 4), "reverse KL": (-1.7, 2.6), "Hellinger": (-0.9, 1.1)}
    for panel, (name, points) in zip(axes, touching.items(), strict=True):
        divergence = DIVERGENCES[name]
        panel.axhline(0, color=FRAME, linewidth=1)
        for point, colour in zip(points, (RED, ORANGE, GREEN), strict=True):
            s = divergence.derivative(torch.tensor(float(point)))
            intercept = -divergence.conjugate(s).item()
            panel.plot(
                [0, 4], np.round([intercept, intercept + 4 * s.item()], 4), color=colour, linewidth=1.6
            )
            panel.plot([point], [divergence.f(torch.tensor(float(point)))], "o", color=colour, markersize=5)
            panel.plot([0], [intercept], "s", color=colour, markersize=6, clip_on=False)
        panel.plot(t, divergence.f(torch.from_numpy(t)).numpy().round(4), color=BLUE)
        panel.set(xlim=(0, 4), ylim=windows[name], xlabel="$t$", xticks=[0, 1, 2, 3, 4])
        panel.set_title(titles.get(name, "Hellinger, $(\\sqrt{t}-1)^2$"))
    axes[0].text(0.25, -2.4, "$-f^*(s)$", color=INK)
    return figure


GRID = np.linspace(-12, 12, 4001)
HALVES = (2.0, 3.0)  # half the distance of the target's two modes


def log_normal(mean: float, std: float) -> np.ndarray:
    """Return the log-density of a normal on the grid."""
    return -(((GRID - mean) / std) ** 2) / 2 - np.log(std) - np.log(2 * np.pi) / 2


def log_target(half: float) -> np.ndarray:
    """Return the log-density of the mixture that is fitted: 0.6 of it at -half, 0.4 at half."""
    return np.logaddexp(np.log(0.6) + log_normal(-half, 0.6), np.log(0.4) + log_normal(half, 0.6))


def divergence_of(name: str, log_pi: np.ndarray, log_p: np.ndarray) -> float:
    """Return D_f(pi || p) by a sum over the grid, written without a ratio of the densities."""
    pi, p = np.exp(log_pi), np.exp(log_p)
    gap = log_pi - log_p
    log_middle = np.logaddexp(log_pi, log_p) - np.log(2)
    integrand = {
        "Pearson": np.exp(np.minimum(2 * log_pi - log_p, 600)) - 2 * pi + p,
        "KL": pi * gap,
        "2 JSD": pi * (log_pi - log_middle) + p * (log_p - log_middle),
        "Hellinger": (np.exp(log_pi / 2) - np.exp(log_p / 2)) ** 2,
        "reverse KL": -p * gap,
    }[name]
    return float(integrand.sum() * (GRID[1] - GRID[0]))


@cache
def best_gaussian(name: str, half: float) -> tuple[float, float, float]:
    """Return mean, deviation and divergence of the normal that is nearest to the target, of nine starts."""
    log_pi = log_target(half)
    starts = [(mean, log_std) for mean in (-half, 0.0, half) for log_std in (-0.5, 0.2, 0.8)]

    def loss(p: np.ndarray) -> float:
        return divergence_of(name, log_pi, log_normal(p[0], np.exp(p[1])))

    options = {"xatol": 1e-7, "fatol": 1e-12}
    found = [optimize.minimize(loss, at, method="Nelder-Mead", options=options) for at in starts]
    best = min(found, key=lambda result: result.fun)
    return float(best.x[0]), float(np.exp(best.x[1])), float(best.fun)


FIT_COLOURS = dict(zip(DIVERGENCES, (PURPLE, BLUE, GREEN, ORANGE, RED), strict=True))


@figure
def fits() -> Figure:
    """Draw two mixtures, and the normal that is nearest to each in each of five divergences."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=5, rows=2)
    kept = slice(500, 3501, 5)  # the grid from -9 to 9
    for line, half in zip(axes, HALVES, strict=True):
        for panel, name in zip(line, DIVERGENCES, strict=True):
            mean, std, _ = best_gaussian(name, half)
            panel.fill_between(GRID[kept], np.exp(log_target(half))[kept].round(4), color=FRAME)
            panel.plot(GRID[kept], np.exp(log_normal(mean, std))[kept].round(4), color=FIT_COLOURS[name])
            panel.set(xlim=(-7, 7), ylim=(0, 0.75), xticks=[])
            hide_left(panel)
            if half == HALVES[0]:
                panel.set_title(name)
    return figure


def target_moments(half: float) -> tuple[float, float]:
    """Return mean and deviation of the mixture."""
    return -0.2 * half, float(np.sqrt(0.36 + half**2 - (0.2 * half) ** 2))


# --- Scores -----------------------------------------------------------------------------------------------


def line_with_errors(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return intercept and slope in 1/N of the FID of a set, weighted by its points' errors, and theirs."""
    mean, error = measured()[f"bias_{name}"].T
    inverse = 1 / np.array(SIZES[2:])
    fit, covariance = np.polyfit(inverse, mean[2:], 1, w=1 / error[2:], cov="unscaled")
    return fit[::-1], np.sqrt(np.diag(covariance))[::-1]


def line(name: str) -> tuple[float, float]:
    """Return intercept and slope of the fitted line."""
    intercept, slope = line_with_errors(name)[0]
    return float(intercept), float(slope)


def with_error(value: float, error: float) -> str:
    """Return a value with its error, both cut at the error's first digit; a leading 1 keeps one more."""
    place = int(np.floor(np.log10(error / 2)))
    shown = (round(value, -place), round(error, -place))
    return " ± ".join(f"{part:,.{max(0, -place)}f}" for part in shown)


@figure
def fid_bias() -> Figure:
    """Draw FID against 1/N with the line that is fitted from N = 500 on, of real and of blurred images."""
    figure, axes = canvas(SLIDE_WIDTH, 176, columns=2)
    for panel, name, title in ((axes[0], "real", "real images"), (axes[1], "blurred", "the same, blurred")):
        mean, error = measured()[f"bias_{name}"].T
        intercept, slope = line(name)
        inverse = 1 / np.array(SIZES)
        panel.plot([0, 0.0105], [intercept, intercept + 0.0105 * slope], color=MUTED, linewidth=1.6)
        panel.errorbar(inverse, mean, error, fmt="o", color=BLUE, markersize=5)
        panel.plot([0], [intercept], "s", color=RED, markersize=8, clip_on=False)
        panel.set(xlim=(0, 0.0105), title=f"FID of {title}", xlabel="$1/N$")
        panel.set_xticks([0, 1 / 1000, 1 / 200, 1 / 100], ["0", "1/1000", "1/200", "1/100"])
        panel.set_ylim(min(0, intercept), None)
    return figure


def discs() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return data on a ring and samples: of one mode, too wide, and that with an outlier."""
    generator = np.random.default_rng(3)

    def ring(n: int, low: float = 0.0, high: float = 2 * np.pi) -> np.ndarray:
        angle = generator.uniform(low, high, n)
        return 2 * np.c_[np.cos(angle), np.sin(angle)] + 0.12 * generator.normal(size=(n, 2))

    data = ring(80)
    narrow, wide = ring(60, 0, 1.2), generator.uniform(-3.2, 3.2, (60, 2))
    # One alone in the middle reaches to its third neighbour: across the ring's whole inside.
    outlier = np.r_[data, [[0, 0]]]
    return {"one mode": (data, narrow), "too wide": (data, wide), "one outlier": (outlier, wide)}


NEIGHBOUR = 3


def radii(points: np.ndarray) -> np.ndarray:
    """Return the distance of each point to its k-th neighbour."""
    return np.sort(np.linalg.norm(points[:, None] - points, axis=-1), axis=1)[:, NEIGHBOUR]


@figure
def precision_recall() -> Figure:
    """Draw the balls around data on a ring, and samples inside and outside of them."""
    figure, axes = canvas(SLIDE_WIDTH, 130, columns=3)
    for panel, (title, (data, samples)) in zip(axes, discs().items(), strict=True):
        for centre, radius in zip(data.round(4), radii(data).round(4), strict=True):
            panel.add_patch(Circle(centre, radius, facecolor=PALE, edgecolor="none"))
        panel.plot(*data.T.round(4), ".", color=INK, markersize=4)
        inside = (np.linalg.norm(samples[:, None] - data, axis=-1) <= radii(data)).any(axis=1)
        panel.plot(*samples[inside].T.round(4), "o", color=BLUE, markersize=4)
        panel.plot(*samples[~inside].T.round(4), "x", color=RED, markersize=5)
        panel.set(aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), title=title)
        bare(panel)
    return figure


def disc_scores() -> np.ndarray:
    """Return precision and recall of the three kinds, (3, 2)."""
    pairs = (map(torch.from_numpy, pair) for pair in discs().values())
    return np.array([metrics.precision_recall(data, samples, k=NEIGHBOUR) for data, samples in pairs])


SETS = {
    "test": "other test images",
    "memorised": "memorised: training images",
    "one": "one image a class, repeated",
    "missing": "only digits 0 to 4",
    "background": "training images, background + 0.1",
    "noise": "uniform noise",
}


@figure
def fooled() -> Figure:
    """Draw four images of each set that the scores judge."""
    figure, axes = canvas(SLIDE_WIDTH, 92, columns=len(SETS), width_ratios=[1] * len(SETS))
    titles = ("test", "training", "one a class", "0 to 4", "grey ground", "noise")
    for panel, name, title in zip(axes, SETS, titles, strict=True):
        images = measured()[f"set_{name}"][:4] / 255
        paint(panel, np.concatenate([np.concatenate(images[:2], 1), np.concatenate(images[2:], 1)]), levels=6)
        panel.set_title(title, fontsize=15)
    return figure


def random_covariances(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two random covariances."""
    generator = torch.Generator().manual_seed(0)
    parts = (
        torch.randn(size, 2 * size, generator=generator, dtype=torch.float64) / size**0.5 for _ in range(2)
    )
    first, second = (part @ part.T for part in parts)
    return first, second


def by_eigvalsh() -> tuple[float, float]:
    """Return the trace of the root of a product of covariances, by a symmetric routine and rightly."""
    first, second = random_covariances()
    wrong = torch.linalg.eigvalsh(first @ second).clamp(min=0).sqrt().sum()
    right = torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum()
    return wrong.item(), right.item()


GAUSSIAN_SIZES = (100, 500, 5000)


@cache
def gaussian_fid() -> np.ndarray:
    """Return mean and standard error of the FID of two samples of N(0, I) in 64 dimensions, by size."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for size in GAUSSIAN_SIZES:
        values = [
            metrics.frechet_distance(
                *(metrics.feature_statistics(torch.randn(size, 64, generator=generator)) for _ in range(2))
            )
            for _ in range(20)
        ]
        rows.append([np.mean(values), np.std(values, ddof=1) / 20**0.5])
    return np.array(rows)


def score_cells() -> list[str]:
    """Return the rows of the table of sets: name, Inception score, FID, precision, recall."""
    cells = []
    for name, (score, distance, precision, recall) in zip(SETS.values(), measured()["fooled"], strict=True):
        cells += [name, fixed(score, 2), fixed(distance, 1), fixed(precision, 2), fixed(recall, 2)]
    return cells


def critic_cells() -> list[str]:
    """Return the rows of the table of critics: smallest and largest of the seeds."""
    cells = []
    for kind, values in critics().items():
        cells.append(NAMES[kind])
        cells += [
            "–".join(ends(column, digits)) for column, digits in zip(values.T, (2, 2, 2, 2), strict=True)
        ]
    return cells


def bias_cells(name: str) -> list[str]:
    """Return FID at N = 1000, the line's end at 1/N = 0, its slope, all with errors, and the trace."""
    mean, error = measured()[f"bias_{name}"][SIZES.index(1000)]
    ends = map(with_error, *line_with_errors(name))
    return [with_error(mean, error), *ends, fixed(measured()[f"trace_{name}"], 0)]


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    arrays = measured()
    means, share = arrays["penalty_means"], 100 * arrays["batch_norm"]
    apart = arrays["penalty_independent"][1]  # slopes along independent pairs, seed 0
    nearest = {half: [best_gaussian(name, half) for name in DIVERGENCES] for half in HALVES}
    moments = [
        [
            name,
            *(
                cell
                for half in HALVES
                for cell in (*fixed(nearest[half][i][:2], 2), fixed(nearest[half][i][2], 3))
            ),
        ]
        for i, name in enumerate(DIVERGENCES)
    ]
    return {
        "plan": [*ends(means[:, 0], 3), *ends(means[:, 1], 3)],
        "independent": [
            *ends(means[:, 2], 3),
            with_error(means[:, 3].mean(), apart.std(ddof=1) / len(apart) ** 0.5),
            fixed(100 * (apart < 0).mean(), 0),
        ],
        "channel_penalty": fixed(channel_penalty(), 2),
        "batch_share": ends(share[:, 0], 2),
        "batch_error": ends(share[:, 1], 1),
        "convolution": [*ends(arrays["convolutions"][:, 0], 2), *ends(arrays["convolutions"][:, 1], 2)],
        "critics": critic_cells(),
        "distance": fixed(arrays["distance"], 2),
        "saturated": ends(100 * arrays["lipschitz_clip"][:, 4], 0),
        "scaling": ends(arrays["lipschitz_penalty"][:, 2] / (2 * WEIGHT), 4),
        "fits": [cell for row in moments for cell in row],
        "target": [cell for half in HALVES for cell in fixed(target_moments(half), 2)],
        "sorted_score": fixed(arrays["sorted_score"], 2),
        "true_score": fixed(arrays["fooled"][0, 0], 2),
        "bias_real": bias_cells("real"),
        "bias_blurred": bias_cells("blurred"),
        "precision": fixed(disc_scores()[:, 0], 2),
        "recall": fixed(disc_scores()[:, 1], 2),
        "fooled": score_cells(),
        "ordered_halves": fixed(arrays["ordered_halves"], 1),
        "floor": ends(arrays["floors"], 1),
        "one_once": fixed(arrays["one_once"], 2),
        "constant_features": fixed(arrays["constant_features"], 0),
        "seam": fixed(seam_norm(), 2),
        "eigvalsh": fixed(by_eigvalsh(), 2),
        "gaussian_fid": fixed(gaussian_fid()[:, 0], 2),
        "gaussian_fid_error": fixed(gaussian_fid()[:, 1].max(), 2),
    }
