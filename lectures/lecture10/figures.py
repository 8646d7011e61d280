"""Draw the figures of lecture 10, and compute the numbers that its slides print.

    python -m lectures.drawing lecture10 [FOLDER]

Distances are exact: closed forms, quadrature, linear programmes of seminar 10. Trained networks are drawn
from arrays that `trained_models.py` stored. What the deck claims is tested in `tests/test_lecture10.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from scipy import optimize, signal, special, stats

from dgm_utils import weights
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
    figure,
    fixed,
    hide_left,
    log_ticks,
    paint,
)
from lectures.lecture10.trained_models import (
    BOUNDS,
    DISTANCES,
    LONGER,
    METER_C,
    METER_SIGMA,
    METER_WIDTHS,
    RADIUS,
    RING,
    RING_SHOWN,
    SHIPPED,
)
from tools.definitions import seminar

FOLDER = Path(__file__).parent / "figures"
LOG_2 = np.log(2)
S10 = seminar(10, "transport_plan", "transport_dual")


@cache
def trained() -> dict[str, np.ndarray]:
    """Return the arrays that `trained_models` stored."""
    return read_arrays(FOLDER / "trained_models.npz")


# --- A perfect discriminator ------------------------------------------------------------------------------

PIXELS, REACH = 481, 2.4  # of the grid, from -REACH to REACH
CELL = 2 * REACH / (PIXELS - 1)


def arcs() -> tuple[np.ndarray, np.ndarray]:
    """Return points on the two arcs, (200, 2) each: data, and samples."""
    angle = np.linspace(-0.9, 0.9, 200)
    data = np.stack([np.cos(angle) * 1.2 - 2.2, np.sin(angle) * 1.6], axis=1)
    samples = np.stack([2.2 - np.cos(angle) * 1.2, np.sin(angle) * 1.6], axis=1)
    return data, samples


def gap() -> float:
    """Return the distance of the two arcs."""
    data, samples = arcs()
    return float(np.linalg.norm(data[:, None] - samples, axis=2).min())


@cache
def perfect_discriminator() -> np.ndarray:
    """Return the smooth D of the theorem on the grid: an indicator, blurred by a bump; x_2 in rows."""
    axis = np.linspace(-REACH, REACH, PIXELS)
    points = np.stack(np.meshgrid(axis, axis), axis=2)
    data, _ = arcs()
    away = np.full((PIXELS, PIXELS), np.inf)
    for point in data:
        away = np.minimum(away, np.linalg.norm(points - point, axis=2))
    radius = gap() / 4
    square = (points**2).sum(axis=2) / radius**2
    bump = np.where(square < 1, np.exp(-1 / np.maximum(1 - square, 1e-9)), 0)
    blurred = signal.fftconvolve((away < gap() / 2).astype(float), bump / bump.sum(), mode="same")
    return blurred.clip(0, 1).round(6)


@figure
def perfect() -> Figure:
    """Draw the theorem's discriminator around two arcs, and its value along a line."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2)
    axis = np.linspace(-REACH, REACH, PIXELS)[::4]
    values = perfect_discriminator()[::4, ::4]
    shades = ("#ffffff", "#f0f6fb", "#e3eef8", "#d3e4f3", "#c2daee", "#b1d0e9")
    left.contourf(axis, axis, values, levels=[-1, 0.01, 0.25, 0.5, 0.75, 0.99, 2], colors=shades)
    for points, colour, name, x in zip(arcs(), (BLUE, RED), ("data", "samples"), (-1.75, 1.75), strict=True):
        left.plot(*points.T, color=colour, linewidth=3.5)
        left.text(x, -1.62, name, color=colour, ha="center")
    left.axhline(0, color=MUTED, linestyle="--", linewidth=1.2)
    left.text(-1.75, 1.5, "$D=1$", ha="center")
    left.text(1.75, 1.5, "$D=0$", ha="center")
    left.set(xlim=(-REACH, REACH), ylim=(-1.8, 1.9), xticks=[], yticks=[])
    line = perfect_discriminator()[PIXELS // 2]
    right.plot(np.linspace(-REACH, REACH, PIXELS), line, color=INK)
    for points, colour in zip(arcs(), (BLUE, RED), strict=True):
        at = points[len(points) // 2, 0]
        right.axvline(at, color=colour, linewidth=2)
    right.text(-0.93, 0.5, "data", color=BLUE)
    right.text(0.93, 0.5, "samples", color=RED, ha="right")
    right.set(title="$D$ along the dashed line", xlim=(-REACH, REACH), xlabel="$x_1$", yticks=[0, 0.5, 1])
    return figure


@figure
def vanishing() -> Figure:
    """Draw the generator's gradient under both losses while discriminators of two lines train."""
    figure, panel = canvas(SLIDE_WIDTH, 172)
    for trace in trained()["vanishing"]:
        steps, minimax, non_saturating, epsilon = trace.T
        panel.plot(steps, np.abs(minimax).round(6), color=RED, linewidth=1.5)
        panel.plot(steps, np.abs(non_saturating).round(5), color=BLUE, linewidth=1.5)
        known = epsilon < 0.95
        bound = epsilon[known] / (1 - epsilon[known])
        panel.plot(steps[known], bound.round(6), "--", color=MUTED, linewidth=1.1)
    panel.axhline(1, color=GREEN, linestyle=":", linewidth=2)
    panel.set(xscale="log", yscale="log", xlabel="steps of the discriminator", xlim=(1, 20_000))
    panel.set_title("$|$ gradient in $\\theta$ $|$")
    log_ticks(panel.xaxis, 1, 10, 100, 1000)
    last = trained()["vanishing"][:, -1].mean(axis=0)
    panel.text(3300, abs(last[2]), "non-saturating", color=BLUE, va="center")
    panel.text(3300, 0.85, "$W_1$", color="#00775a", va="top")
    panel.text(210, abs(last[1]) * 12, "minimax", color=RED, va="center", ha="right")
    panel.text(1000, last[3] * 22, "bound, $M=1$", color=MUTED, va="center")
    log_ticks(panel.yaxis, 0.001, 0.01, 0.1, 1, 10)
    return figure


def jsd_of_normals(shift: float, sigma: float = 1.0) -> float:
    """Return the JSD of N(0, sigma^2) and N(shift, sigma^2) in nats, by quadrature."""
    x = np.linspace(-12 * sigma, shift + 12 * sigma, 20_001)
    first, second = (stats.norm.pdf(x, at, sigma) + 1e-300 for at in (0, shift))
    middle = (first + second) / 2
    parts = [special.rel_entr(density, middle).sum() for density in (first, second)]
    return float(sum(parts) / 2 * (x[1] - x[0]))


@figure
def blur() -> Figure:
    """Draw the JSD of two blurred points against their distance."""
    figure, panel = canvas(SLIDE_WIDTH, 165)
    shifts = np.linspace(0, 8, 161)
    curves = ((0.25, RED, RED, 1.25, 0.3), (1.0, ORANGE, BROWN, 2.1, 0.5), (3.0, BLUE, BLUE, 4.9, 0.34))
    for sigma, colour, dark, x, y in curves:
        panel.plot(shifts, [round(jsd_of_normals(shift, sigma), 5) for shift in shifts], color=colour)
        panel.text(x, y, f"$\\sigma={sigma:g}$", color=dark, ha="right")
    panel.plot([0, 8], [LOG_2, LOG_2], color=INK, linewidth=1.6)
    panel.plot(0, 0, "o", color=INK, markersize=7)
    panel.plot(0, LOG_2, "o", color=INK, markersize=7, markerfacecolor="white")
    panel.text(7.95, LOG_2 - 0.045, "no noise", ha="right", va="top")
    panel.set(xlim=(-0.1, 8), ylim=(-0.03, 0.76), xlabel="distance of the points", title="JSD, nats")
    panel.set_yticks([0, LOG_2], ["0", "$\\log 2$"])
    return figure


# --- Mode collapse ----------------------------------------------------------------------------------------


@figure
def strip() -> Figure:
    """Draw samples of one GAN during training on the ring."""
    figure, axes = canvas(SLIDE_WIDTH, 160, columns=len(RING_SHOWN[10]))
    angle = np.arange(8) * np.pi / 4
    centres = RING["radius"] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for panel, step, samples in zip(axes, RING_SHOWN[10], trained()["ring_10"], strict=True):
        for centre in centres:
            panel.add_patch(Circle(centre, RADIUS, facecolor=FRAME, edgecolor=MUTED, linewidth=0.6))
        panel.plot(*samples.round(2).T, ".", color=BLUE, markersize=3)
        panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[], title=f"{step:,}")
        panel.spines[:].set(visible=True, color=FRAME)
    axes[0].set_title(f"{RING_SHOWN[10][0]:,} steps")
    return figure


def missing_modes(k: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return reverse KL and JSD in nats when k of the equal modes are covered equally."""
    share = k / modes
    jsd = (np.log(4 / (1 + share)) + share * np.log(share / (1 + share))) / 2
    return -np.log(share), jsd


@figure
def missing() -> Figure:
    """Draw what a missing mode costs."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 140, columns=2)
    k = np.arange(1, 9)
    reverse, jsd = missing_modes(k, np.array(8.0))
    left.plot(k, reverse.round(5), "o-", color=RED)
    left.plot(k, jsd.round(5), "s-", color=PURPLE)
    left.text(2.2, 1.55, "$\\mathrm{KL}(p\\,\\Vert\\,\\pi)$", color=RED)
    left.text(1.1, 0.6, "JSD", color="#8a4f70")
    left.set(title="nats", xlabel="covered modes of 8", ylim=(-0.08, 2.2))
    modes = np.array([2, 4, 8, 16, 32, 64, 128, 256, 512, 1000.0])
    reverse, jsd = missing_modes(modes - 1, modes)
    right.plot(modes, reverse, "o-", color=RED)
    right.plot(modes, jsd, "s-", color=PURPLE)
    right.set(xscale="log", yscale="log", title="the first missing mode, nats", xlabel="modes, $C$")
    log_ticks(right.xaxis, 2, 10, 100, 1000)
    log_ticks(right.yaxis, 0.001, 0.01, 0.1)
    return figure


APART = 5.0  # modes of the target at -APART and APART


def target(x: np.ndarray, apart: float = APART) -> np.ndarray:
    """Return the density of two equal normals."""
    return (stats.norm.pdf(x, -apart) + stats.norm.pdf(x, apart)) / 2


def divergence(name: str, mean: float, scale: float, apart: float = APART) -> float:
    """Return KL(target || fit), KL(fit || target) or JSD of a normal, nats, by quadrature."""
    x = np.linspace(-25, 25, 2001)
    real, fit = target(x, apart) + 1e-300, stats.norm.pdf(x, mean, scale) + 1e-300
    middle = (real + fit) / 2
    pairs = {"forward": [(real, fit)], "reverse": [(fit, real)], "jsd": [(real, middle), (fit, middle)]}[name]
    return float(np.mean([special.rel_entr(a, b).sum() * (x[1] - x[0]) for a, b in pairs]))


@cache
def best_normal(name: str) -> tuple[float, float]:
    """Return mean and deviation of the best single normal, best of several starts."""
    found = [
        optimize.minimize(
            lambda u: divergence(name, u[0], np.exp(u[1])),
            (mean, np.log(scale)),
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 2000},
        )
        for mean in (0.0, 1.0, APART)
        for scale in (1.0, 3.0)
    ]
    best = min(found, key=lambda result: result.fun)
    return float(best.x[0]), float(np.exp(best.x[1]))


@figure
def fits() -> Figure:
    """Draw one normal fitted to two modes by three divergences."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=3)
    names = {
        "forward": "$\\mathrm{KL}(\\pi\\,\\Vert\\,p)$",
        "jsd": "JSD",
        "reverse": "$\\mathrm{KL}(p\\,\\Vert\\,\\pi)$",
    }
    x = np.linspace(-9, 9, 400)
    for panel, (name, title) in zip(axes, names.items(), strict=True):
        mean, scale = best_normal(name)
        panel.fill_between(x, target(x).round(5), color=PALE)
        panel.plot(x, stats.norm.pdf(x, round(abs(mean), 3), round(scale, 3)).round(5), color=RED)
        panel.set(title=title, xlim=(-9, 9), ylim=(0, 0.43), xticks=[-APART, 0, APART])
        hide_left(panel)
    return figure


# --- DCGAN ------------------------------------------------------------------------------------------------


def contributions(size: int, kernel: int, stride: int, padding: int) -> np.ndarray:
    """Return how many kernel entries reach each place of a transposed convolution's output, on a line."""
    counts = np.zeros(stride * (size - 1) + kernel, dtype=int)
    for start in range(0, stride * size, stride):
        counts[start : start + kernel] += 1
    return counts[padding : len(counts) - padding]


def cells(panel: Axes, x: float, y: float, count: int, colour: str, face: str = "white") -> None:
    """Draw a row of unit cells from (x, y)."""
    for place in range(count):
        panel.add_patch(Rectangle((x + place, y), 1, 0.8, facecolor=face, edgecolor=colour, linewidth=1.4))


@figure
def transposed() -> Figure:
    """Draw what a transposed convolution does, and how often its kernels overlap."""
    figure, (left, middle, right) = canvas(SLIDE_WIDTH, 205, columns=3, width_ratios=[2.1, 1, 1])
    colours = (BLUE, ORANGE, GREEN)
    faces = ("#d7e8f5", "#fbeccb", "#cdeee3")
    for index, (colour, face) in enumerate(zip(colours, faces, strict=True)):
        cells(left, 2 * index + 1.5, 5.6, 1, colour, face)
        start = 2 * index
        height = 3.9 - 0.95 * index
        cells(left, start, height, 4, colour, face)
        left.annotate(
            "", (start + 2, height + 0.85), (2 * index + 2, 5.55),
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6},
        )  # fmt: skip
    cells(left, 0, 0.3, 1, FRAME, PALE)
    cells(left, 7, 0.3, 1, FRAME, PALE)
    cells(left, 1, 0.3, 6, INK)
    left.text(8.3, 6, "input, 3", va="center")
    left.text(8.3, 3.3, "kernel, width 4,\nshifted by 2", va="center")
    left.text(8.3, 0.7, "sum: 6\n(2 cut off)", va="center")
    left.set(xlim=(-0.2, 12.6), ylim=(0, 6.6))
    bare(left)
    for panel, kernel, padding in ((middle, 4, 1), (right, 3, 1)):
        line = contributions(4, kernel, 2, padding)
        grid = np.outer(line, line)
        shades = {1: "#eef4f9", 2: "#b9d5ea", 4: "#5397c8"}
        for (row, column), value in np.ndenumerate(grid):
            panel.add_patch(
                Rectangle((column, -row), 1, 1, facecolor=shades[value], edgecolor="white", linewidth=1)
            )
            white = "white" if value == 4 else INK
            panel.text(
                column + 0.5, 0.5 - row, str(value), ha="center", va="center", fontsize=13, color=white
            )
        panel.set(xlim=(0, 8), ylim=(-7, 1), aspect="equal", title=f"kernel {kernel}, stride 2")
        bare(panel)
    return figure


def maps(panel: Axes, x: float, side: float, depth: float, colour: str, face: str, words: str) -> None:
    """Draw a stack of feature maps as a block, with its size below."""
    for layer in range(3):
        shift = layer * depth
        panel.add_patch(
            Rectangle(
                (x + shift, 2.6 - side / 2 + shift),
                side * 0.4,
                side,
                facecolor=face,
                edgecolor=colour,
                lw=1.4,
            )
        )
    panel.text(x + side * 0.2 + depth, 0.55, words, ha="center", va="top", fontsize=14)


@figure
def architecture() -> Figure:
    """Draw the networks of seminar 10's DCGAN at 28x28."""
    figure, axes = canvas(SLIDE_WIDTH, 178, rows=2)
    sizes = {28: "1 × 28 × 28", 14: "16 × 14 × 14", 7: "32 × 7 × 7"}
    generator = ((0.8, 0.5, 0.0, "64"), (3.6, 1.1, 0.13, sizes[7]))
    generator += ((7.0, 2.0, 0.1, sizes[14]), (10.8, 3.2, 0.0, sizes[28]))
    discriminator = ((0.8, 3.2, 0.0, sizes[28]), (4.6, 2.0, 0.1, sizes[14]))
    discriminator += ((8.0, 1.1, 0.13, sizes[7]), (11.4, 0.5, 0.0, "logit"))
    rows = (
        ("$G$", BLUE, "#d7e8f5", generator, ("linear, BN, ReLU", "×2, BN, ReLU", "×2, tanh")),
        ("$D$", RED, "#fbe3d6", discriminator, ("÷2, leaky", "÷2, BN, leaky", "linear")),
    )
    for panel, (name, colour, face, blocks, arrows) in zip(axes, rows, strict=True):
        panel.text(-0.4, 2.4, name, fontsize=20, va="center", ha="right")
        for x, side, depth, words in blocks:
            maps(panel, x, side, depth, colour, face, words)
        for (x, side, depth, _), (end, *_), words in zip(blocks, blocks[1:], arrows, strict=False):
            start = x + side * 0.4 + 2 * depth + 0.12
            arrow = FancyArrowPatch(
                (start, 2.6), (end - 0.1, 2.6), arrowstyle="-|>", mutation_scale=14, color=MUTED
            )
            panel.add_patch(arrow)
            panel.text((start + end) / 2, 2.95, words, ha="center", fontsize=14, color=INK)
        panel.set(xlim=(-1, 13.2), ylim=(-0.6, 4.4))
        bare(panel)
    return figure


@figure
def samples() -> Figure:
    """Draw samples of seminar 10's shipped generators."""
    rows = {"DCGAN": trained()["shipped_dcgan"], "WGAN,\nclipping": trained()["shipped_wgan"]}
    figure, axes = canvas(SLIDE_WIDTH, 212, columns=12, rows=4)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for index, (name, images) in enumerate(rows.items()):
        for panel, image in zip(axes[2 * index : 2 * index + 2].flat, images[:24], strict=True):
            paint(panel, image / 255)
        axes[2 * index][0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


# --- Wasserstein distance ---------------------------------------------------------------------------------


@cache
def two_clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Return eight data points and eight samples in the plane, float64."""
    generator = torch.Generator().manual_seed(242)
    real = torch.randn(8, 2, generator=generator, dtype=torch.float32).double() * torch.tensor([1.2, 1.1])
    fake = torch.randn(8, 2, generator=generator, dtype=torch.float32).double() * torch.tensor([0.9, 0.7])
    return real, fake + torch.tensor([1.0, 0.2])


@cache
def cost() -> torch.Tensor:
    """Return the distances of the two clouds, (8, 8)."""
    return torch.cdist(*two_clouds(), compute_mode="donot_use_mm_for_euclid_dist")


@cache
def optimal_plan() -> tuple[float, np.ndarray]:
    """Return W1 of the clouds and an optimal plan."""
    value, plan = S10.transport_plan(cost())
    return float(value), plan.numpy()


def arrows(panel: Axes, plan: np.ndarray, colour: str = MUTED) -> None:
    """Draw both clouds and an arrow for each positive entry of a plan."""
    real, fake = (points.numpy() for points in two_clouds())
    for i, j in np.argwhere(plan > 1e-9):
        panel.annotate(
            "", fake[j], real[i],
            arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "shrinkA": 5, "shrinkB": 5},
        )  # fmt: skip
    panel.plot(*real.T, "o", color=BLUE, markersize=9)
    panel.plot(*fake.T, "s", color=RED, markersize=8)


def matrix(panel: Axes, plan: np.ndarray, title: str = "") -> None:
    """Draw a plan as a matrix of squares, darker for more mass."""
    for (row, column), mass in np.ndenumerate(plan):
        share = min(1.0, mass * len(plan))
        shade = tuple(round(1 - share * (1 - part), 3) for part in (0.05, 0.30, 0.54))
        panel.add_patch(Rectangle((column, -row), 1, 1, facecolor=shade, edgecolor=FRAME, linewidth=0.7))
    panel.set(xlim=(-0.1, len(plan) + 0.1), ylim=(-len(plan) + 0.9, 1.1), aspect="equal", title=title)
    bare(panel)


@figure
def plan() -> Figure:
    """Draw the optimal plan as arrows and as a matrix."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 185, columns=2, width_ratios=[1.5, 1])
    _, optimal = optimal_plan()
    arrows(left, optimal)
    left.text(0.02, 0.98, "data $x_i$", color=BLUE, transform=left.transAxes)
    left.text(0.75, 0.98, "samples $y_j$", color=RED, transform=left.transAxes)
    left.margins(0.1)
    bare(left)
    matrix(right, optimal)
    right.set_title("$\\gamma_{ij}$", fontsize=17)
    right.set_ylabel("data $i$", color=BLUE)
    right.set_xlabel("samples $j$", color=RED)
    return figure


@figure
def shift() -> Figure:
    """Draw divergences against the shift, for two lines and for two normals."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 145, columns=2)
    theta = np.linspace(-2, 2, 5)
    left.plot(theta, np.abs(theta), color=GREEN)
    left.plot([-2, 2], [LOG_2, LOG_2], color=PURPLE)
    left.plot(0, LOG_2, "o", color=PURPLE, markersize=8, markerfacecolor="white")
    left.plot(0, 0, "o", color=PURPLE, markersize=8)
    left.text(-1.45, 1.6, "$W_1$", color="#00775a")
    left.text(1.95, LOG_2 + 0.1, "JSD", color="#8a4f70", ha="right")
    left.text(0, 1.75, "KL $=\\infty$", color=RED, ha="center")
    left.set(title="two lines", xlabel="$\\theta$", ylim=(-0.1, 2.1), xticks=[-2, 0, 2])
    shifts = np.linspace(0, 7, 141)
    right.plot(shifts, shifts, color=GREEN)
    right.plot(shifts, [round(jsd_of_normals(each), 5) for each in shifts], color=PURPLE)
    right.plot(shifts, (shifts**2 / 2).round(4), color=RED)
    right.text(1.75, 2.55, "KL", color=RED, ha="right")
    right.text(3.0, 2.35, "$W_1$", color="#00775a")
    right.text(6.9, LOG_2 + 0.12, "JSD", color="#8a4f70", ha="right")
    right.set(title="$N(0,1)$ and $N(\\theta,1)$", xlabel="$\\theta$", xlim=(0, 7), ylim=(-0.1, 3))
    return figure


LINE_DATA = ((-2.2, 0.5), (3.0, 0.5))  # mean and deviation of the parts, equal weights
LINE_SAMPLES = (0.6, 0.7)


def line_cdfs(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distribution functions of data and samples on the line."""
    return np.mean([stats.norm.cdf(t, *part) for part in LINE_DATA], axis=0), stats.norm.cdf(t, *LINE_SAMPLES)


def line_w1() -> float:
    """Return W1 on the line: the area between the distribution functions."""
    t = np.linspace(-8, 10, 200_001)
    first, second = line_cdfs(t)
    return float(np.abs(first - second).sum() * (t[1] - t[0]))


@figure
def area() -> Figure:
    """Draw both distribution functions, the area between them, and the quantile plan."""
    figure, panel = canvas(SLIDE_WIDTH, 128)
    t = np.linspace(-4, 5, 500)
    first, second = line_cdfs(t)
    panel.fill_between(t, first.round(5), second.round(5), color=PALE)
    panel.plot(t, first.round(5), color=BLUE)
    panel.plot(t, second.round(5), color=RED)
    fine = np.linspace(-8, 10, 200_001)
    cdfs = line_cdfs(fine)
    for u in np.linspace(0.1, 0.9, 5):
        start, end = (round(float(np.interp(u, cdf, fine)), 3) for cdf in cdfs)
        panel.annotate(
            "", (end, u), (start, u), arrowprops={"arrowstyle": "-|>", "color": MUTED, "linewidth": 1.4}
        )
    panel.text(-1.9, 0.52, "$F_\\pi$", color=BLUE, ha="right")
    panel.text(0.5, 0.72, "$F_p$", color=RED, ha="right")
    panel.set(xlim=(-4, 5), ylim=(0, 1.02), yticks=[0, 1], xlabel="$t$")
    return figure


@cache
def dual() -> tuple[float, np.ndarray]:
    """Return the dual's value for the clouds and the potentials v of the samples."""
    value, _, end = S10.transport_dual(cost())
    return float(value), end.numpy()


def critic(points: np.ndarray) -> np.ndarray:
    """Return D(x) = min_j ||x - y_j|| - v_j of the clouds, (..., 2) -> (...)."""
    fake, (_, v) = two_clouds()[1].numpy(), dual()
    return (np.linalg.norm(points[..., None, :] - fake, axis=-1) - v).min(axis=-1)


@figure
def potential() -> Figure:
    """Draw the optimal critic on the line and in the plane."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 180, columns=2)
    t = np.linspace(-4.5, 5, 951)
    real, fake = (
        np.mean([stats.norm.pdf(t, *part) for part in LINE_DATA], axis=0),
        stats.norm.pdf(t, *LINE_SAMPLES),
    )
    first, second = line_cdfs(t)
    slope = np.sign((second - first).round(9))  # of D: falls where mass is moved to the right
    heights = np.concatenate([[0], np.cumsum(slope[1:] * np.diff(t))])
    left.fill_between(t, (3 * real).round(4), color="#cfe3f2")
    left.fill_between(t, (3 * fake).round(4), color="#f6d5c2")
    left.plot(t, (heights - heights.min() - 0.5).round(3), color=INK)
    left.text(-2.2, 1.35, "data", color=BLUE, ha="right")
    left.text(3.4, 1.35, "data", color=BLUE)
    left.text(0.6, 1.85, "samples", color=RED, ha="center")
    left.text(-4.3, 2.6, "$D$", color=INK)
    left.set(xlim=(-4.5, 5), xlabel="$x$")
    hide_left(left)
    axis_x, axis_y = np.linspace(-2.6, 2.8, 110), np.linspace(-1.8, 2.2, 80)
    points = np.stack(np.meshgrid(axis_x, axis_y), axis=2)
    levels = critic(points).round(5)
    right.contour(axis_x, axis_y, levels, levels=14, colors=[FRAME], linewidths=1.2, linestyles="solid")
    arrows(right, optimal_plan()[1])
    right.set(aspect="equal")
    bare(right)
    return figure


# --- WGAN -------------------------------------------------------------------------------------------------


def clip_bound(c: float, widths: tuple[int, ...]) -> float:
    """Return the bound of the Lipschitz constant of an MLP with weights in [-c, c]; the last width is 1."""
    widths = np.array([*widths, 1], dtype=float)
    return float(np.prod(c * np.sqrt(widths[1:] * widths[:-1])))


@figure
def clipped() -> Figure:
    """Draw the weights of a clipped critic, and the gradients of its layers for three bounds."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 155, columns=2)
    counts = trained()["clipped_weights_0.1"]
    edges = np.linspace(-1, 1, len(counts) + 1)
    left.bar(edges[:-1], (100 * counts / counts.sum()).round(3), 2 / len(counts), align="edge", color=BLUE)
    left.set(title="share of the weights, %, $c=0.1$", xlabel="weight$\\,/\\,c$", xticks=[-1, 0, 1])
    for c, traces, colour in zip(
        BOUNDS, trained()["clipped_gradients"], (RED, PURPLE, ORANGE, BLUE), strict=True
    ):
        layer = np.arange(1, traces.shape[1] + 1)
        for trace in traces:
            right.plot(layer, trace, color=colour, linewidth=1.4)
        at = np.exp(np.log(traces[:, 0]).mean())
        right.text(
            0.8, at, f"$c={c:g}$", color=BROWN if colour == ORANGE else colour, ha="right", va="center"
        )
    right.set(yscale="log", title="gradient at a layer's input", xlabel="linear layer", xlim=(-0.6, 7.2))
    right.set_xticks(range(1, trained()["clipped_gradients"].shape[2] + 1))
    right.set_ylim(1e-6, 4e6)
    log_ticks(right.yaxis, 0.0001, 0.01, 1, 100, 10_000)
    return figure


def best_clipped_slope() -> float:
    """Return the largest slope along x_1 of the meter's critics: the sum over all paths, c each step."""
    return METER_C ** len(METER_WIDTHS) * float(np.prod(METER_WIDTHS[1:]))


def meter_ratios() -> np.ndarray:
    """Return each critic's value over the true W1, (starts, distances)."""
    return trained()["meter"][..., 0] / np.array(DISTANCES)


@figure
def meter() -> Figure:
    """Draw what clipped critics and discriminators say of a normal and its shifted copy."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 185, columns=2)
    for line in trained()["meter"]:
        left.plot(DISTANCES, line[:, 0].round(4), ".-", color=BLUE, linewidth=1.2)
        right.plot(DISTANCES, line[:, 1].round(4), ".-", color=RED, linewidth=1.2)
    shifts = np.linspace(0, 6, 121)
    exact = [round(jsd_of_normals(shift, METER_SIGMA), 5) for shift in shifts]
    right.plot(shifts, exact, ":", color=MUTED, linewidth=1.8)
    slope = best_clipped_slope()
    left.plot([0, 12 / slope], [0, 12], "--", color=MUTED, linewidth=1.8)
    left.text(3.0, 10.6, f"best clipped critic: {slope:.1f}$\\,W_1$", color=INK)
    left.text(6, 7.1, "found in training", color=BLUE, ha="right")
    left.set(title="critic's value", xlabel="true $W_1$", ylim=(0, 12), xlim=(0, 6.2))
    right.set(title="discriminator: $(\\log 4-$ loss$)/2$", xlabel="true $W_1$", ylim=(0, 0.8), xlim=(0, 6.2))
    right.set_yticks([0, LOG_2], ["0", "$\\log 2$"])
    return figure


def sinkhorn_plan(epsilon: float, sweeps: int = 50_000) -> np.ndarray:
    """Return the plan of the clouds that is regularised by entropy; u and v in units of epsilon."""
    kernel = np.exp(-(cost().numpy() - cost().numpy().min()) / epsilon)  # no underflow from 0.05 on
    n, m = kernel.shape
    right = np.ones(m)
    for _ in range(sweeps):
        left = 1 / (n * (kernel @ right))
        off = m * right * (left @ kernel) - 1
        if np.abs(off).max() < 1e-10:
            break
        right = 1 / (m * (left @ kernel))
    return left[:, None] * kernel * right


EPSILONS = (1.0, 0.2, 0.05)


@figure
def sinkhorn() -> Figure:
    """Draw regularised plans, and their cost against epsilon."""
    figure, axes = canvas(SLIDE_WIDTH, 135, columns=4, width_ratios=[1, 1, 1, 1.7])
    for panel, epsilon in zip(axes, EPSILONS, strict=False):
        matrix(panel, sinkhorn_plan(epsilon), f"$\\varepsilon={epsilon:g}$")
    epsilons = np.geomspace(0.05, 3, 14)
    costs = [(sinkhorn_plan(each) * cost().numpy()).sum() for each in epsilons]
    exact = optimal_plan()[0]
    right = axes[3]
    right.plot(epsilons, np.round(costs, 5), color=BLUE)
    right.plot(
        epsilons, np.minimum(exact + epsilons * np.log(8), 99).round(4), "--", color=MUTED, linewidth=1.4
    )
    right.axhline(exact, color=GREEN, linestyle=":", linewidth=2)
    right.set(xscale="log", title="cost", xlabel="$\\varepsilon$", ylim=(exact - 0.05, max(costs) + 0.2))
    log_ticks(right.xaxis, 0.05, 0.2, 1)
    right.text(3, exact + 0.01, "$W_1$", color="#00775a", ha="right", va="bottom")
    return figure


# --- Numbers ----------------------------------------------------------------------------------------------


def packed(name: str, k: int, a: float = 0.2) -> float:
    """Return TV between U[0, 1]^k and k samples of a generator that misses a share, or is uneven."""
    if name == "missing":
        return 1 - (1 - a) ** k
    high = np.arange(k + 1)  # of the k samples, so many in the half of density 1 + 2 a
    ratio = (1 + 2 * a) ** high * (1 - 2 * a) ** (k - high)
    return float(stats.binom.pmf(high, k, 0.5) @ np.maximum(ratio - 1, 0))


@cache
def flip() -> float:
    """Return the half distance of the modes from which JSD prefers one of them to both."""

    def gain(apart: float) -> float:
        covering = optimize.minimize_scalar(
            lambda s: divergence("jsd", 0, s, apart), bounds=(1, 8), method="bounded"
        )
        choosing = optimize.minimize(
            lambda u: divergence("jsd", u[0], np.exp(u[1]), apart), (apart, 0.0), method="Nelder-Mead"
        )
        return covering.fun - choosing.fun

    return float(optimize.brentq(gain, 3.5, 5, xtol=1e-3))


def ends(values: np.ndarray, digits: int) -> list[str]:
    """Return the smallest and the largest of several starts."""
    return fixed([values.min(), values.max()], digits)


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    last = np.abs(trained()["vanishing"][:, -1])
    slope = (jsd_of_normals(6.01) - jsd_of_normals(5.99)) / 0.02
    near, far = np.abs(trained()["vanishing_elsewhere"][..., 2])
    gradients = trained()["clipped_gradients"]
    within = gradients[:, :, 1] / gradients[:, :, -1]  # layer 2 over layer 7: five matrices of 64 x 64
    longer = trained()["meter_longer"] / np.array([DISTANCES[0], DISTANCES[-1]])
    stored = {name: weights.facts(file) for name, file in SHIPPED.items()}
    five = weights.facts("seminar10-seeds")
    return {
        "perfect_gap": fixed(gap(), 2),
        "vanishing_steps": f"{trained()['vanishing'][0, -1, 0]:,.0f}",
        "vanishing_minimax": ends(1e4 * last[:, 1], 1),
        "vanishing_saturating": ends(last[:, 2], 1),
        "vanishing_near": ends(near, 0),
        "vanishing_far": ends(far, 1),
        "ring_near": ends(100 * trained()["ring_10_modes"][:, -1, 1], 0),
        "ring_greedy": ends(trained()["ring_10_modes"][:, -1, 0], 0),
        "ring_even": ends(trained()["ring_1_modes"][:, -1, 0], 0),
        "missing_one": fixed([float(part) for part in missing_modes(np.array(7.0), np.array(8.0))], 3),
        "fit_apart": fixed(APART, 0),
        "fit_flip": fixed(flip(), 1),
        "packed_missing": fixed([packed("missing", k) for k in (1, 2, 4)], 2),
        "packed_uneven": fixed([packed("uneven", k) for k in (1, 2, 4)], 2),
        "plan_cost": fixed(optimal_plan()[0], 3),
        "plan_independent": fixed(cost().mean().item(), 3),
        "dual_value": fixed(dual()[0], 3),
        "jsd_normals": fixed([jsd_of_normals(each) for each in (2, 4, 6)], 3),
        "jsd_slope": fixed(slope, 3),
        "area_cost": fixed(line_w1(), 3),
        "clip_bounds": [
            f"{clip_bound(c, (2, 512, 512, 512)):,.{digits}f}"
            for c, digits in ((0.01, 1), (0.03, 0), (0.1, 0))
        ],
        "clip_share": ends(100 * trained()["clipped_shares"][BOUNDS.index(0.1)], 0),
        "clip_down": ends(1 / within[0], 0),
        "clip_flat": ends(within[1], 2),
        "clip_up": ends(within[2], 0),
        "meter_near": ends(meter_ratios()[:, 0], 1),
        "meter_far": ends(meter_ratios()[:, -1], 2),
        "meter_steps": f"{LONGER:,}",
        "meter_near_longer": ends(longer[:, 0], 1),
        "meter_far_longer": ends(longer[:, 1], 1),
        "meter_best": fixed(best_clipped_slope(), 1),
        "meter_bound": fixed(clip_bound(METER_C, METER_WIDTHS), 2),
        "shipped_fid": [fixed(facts["fid"], 0) for facts in stored.values()],
        "shipped_seconds": [fixed(facts["seconds"], 0) for facts in stored.values()],
        "seeds_fid": fixed([five["fid_min"], five["fid_max"]], 1),
        "floors_fid": fixed(trained()["shipped_floors"], 1),
    }
