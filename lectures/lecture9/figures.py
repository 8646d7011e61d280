"""Draw the figures of lecture 9, and compute the numbers that its slides print.

    python -m lectures.drawing lecture9 [FOLDER]

Densities, divergences and games are exact; networks are drawn from the arrays that `measured.py` stored. What
the deck claims is tested in `tests/test_lecture9.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

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
    SKY,
    SLIDE_WIDTH,
    canvas,
    digits,
    draw_pixels,
    figure,
    fixed,
    hide_left,
    log_ticks,
)
from lectures.lecture9 import measured
from lectures.lecture9.measured import METHODS

FOLDER = Path(__file__).parent / "figures"


@cache
def stored() -> dict[str, np.ndarray]:
    """Return the arrays that `measured` stored."""
    return read_arrays(measured.STORED)


# --- Covariances of codes ---------------------------------------------------------------------------------


def covariances(method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return Cov[mu] and Cov of the codes of each seed, (seeds, d, d), by the theorem of total covariance."""
    of_means = stored()[f"{method}_mean_covariance"]
    return of_means, of_means + np.eye(measured.UNITS) * stored()[f"{method}_noise"][:, None]


def heat(panel: Axes, matrix: np.ndarray) -> None:
    """Draw a matrix: blue above zero, red below, nine levels up to 1.2 either way."""
    shades = (
        "#8f3200",
        "#d55e00",
        "#e99b63",
        "#f7d8c2",
        "#ffffff",
        "#cfe3f1",
        "#7fb5da",
        "#0072b2",
        "#003f66",
    )
    levels = np.clip(np.round(matrix / 1.2 * 4), -4, 4) + 4
    draw_pixels(panel, levels, lambda level: shades[int(level)])
    panel.spines[:].set(visible=True, color=FRAME)


@figure
def covariances_seen() -> Figure:
    """Draw covariances of means and of codes, three methods, the first seed of each."""
    figure, axes = canvas(SLIDE_WIDTH, 130, columns=6)
    for pair, method in zip(axes.reshape(3, 2), METHODS, strict=True):
        for panel, matrices, what in zip(pair, covariances(method), ("means", "codes"), strict=True):
            heat(panel, matrices[0])
            panel.set_xlabel(what)
        pair[0].set_title(method, loc="left")
    return figure


@figure
def samples() -> Figure:
    """Draw samples of the three VAEs: probabilities of pixels."""
    return digits(
        {method: stored()[f"{method}_samples"] / 255 for method in measured.DECODED},
        SLIDE_WIDTH,
        190,
        levels=6,
    )


AXIS = np.linspace(-6, 6, 601)
CELL = (AXIS[1] - AXIS[0]) ** 2


def normal(x: np.ndarray, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    """Return the density of N(mean, std^2)."""
    return np.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))


def mixture(points: np.ndarray, variance: float) -> np.ndarray:
    """Return the density of a mixture of round normals at `points`, (n, 2), on the grid."""
    parts = [np.outer(normal(AXIS, x, variance**0.5), normal(AXIS, y, variance**0.5)) for x, y in points]
    return np.mean(parts, axis=0)


def clouds() -> dict[str, np.ndarray]:
    """Return four densities of the plane with mean 0 and covariance I, on the grid, z_1 in rows."""
    noise = 0.05
    corners = np.sqrt(1 - noise) * np.array([(a, b) for a in (-1, 1) for b in (-1, 1)])
    angles = 2 * np.pi * np.arange(60) / 60
    ring = np.sqrt(2 * (1 - noise)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    along, across = AXIS[:, None] + AXIS, AXIS[:, None] - AXIS
    long, short = np.sqrt(2 - noise), np.sqrt(noise)
    lines = [
        normal(along / 2**0.5, 0, first) * normal(across / 2**0.5, 0, second)
        for first, second in ((long, short), (short, long))
    ]
    return {
        "normal": np.outer(normal(AXIS), normal(AXIS)),
        "four blobs": mixture(corners, noise),
        "ring": mixture(ring, noise),
        "cross": np.mean(lines, axis=0),
    }


def total_correlation(q: np.ndarray) -> float:
    """Return KL(q || product of its marginals) in nats, of a density on the grid."""
    side = CELL**0.5
    product = np.outer(q.sum(1) * side, q.sum(0) * side)
    seen = q > 1e-200
    return float((q[seen] * np.log(q[seen] / product[seen])).sum() * CELL)


@figure
def uncorrelated() -> Figure:
    """Draw four densities with covariance I and their total correlations."""
    figure, axes = canvas(SLIDE_WIDTH, 176, columns=4)
    blues = ("#e3eef8", "#b9d5ea", "#86b9dc", "#5397c8", "#2b73ae", "#0c4d8a")
    inner = slice(150, 451, 3)
    for panel, (name, q) in zip(axes, clouds().items(), strict=True):
        q = q[inner, inner]
        levels = np.r_[np.array([0.03, 0.12, 0.3, 0.5, 0.7, 0.9]) * q.max(), 100]
        panel.contourf(AXIS[inner], AXIS[inner], q.T.round(5), levels=levels, colors=blues)
        panel.set(aspect="equal", xlim=(-3, 3), ylim=(-3, 3), xticks=[], yticks=[], title=name)
        panel.set_xlabel(f"TC = {fixed(abs(total_correlation(clouds()[name])), 2)}")
        panel.spines[:].set(visible=True, color=FRAME)
    return figure


# --- Rotation ---------------------------------------------------------------------------------------------

MEASURES = {"MIG": BLUE, "SAP": GREEN, "DCI-D": PURPLE}


@figure
def rotation() -> Figure:
    """Draw a cloud of codes, the same rotated, and three measures against the angle."""
    figure, (left, middle, right) = canvas(SLIDE_WIDTH, 235, columns=3, width_ratios=[1, 1, 1.35])
    z = np.random.default_rng(0).normal(size=(900, 2))
    angle = np.pi / 6
    turned = z @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stripes = np.digitize(z[:, 0], (-1.0, -0.3, 0.3, 1.0))
    for panel, codes, title in ((left, z, "$z$"), (middle, turned, "$Rz$, by $30\\degree$")):
        for stripe, colour in enumerate((BLUE, SKY, GREEN, ORANGE, RED)):
            part = codes[stripes == stripe].round(3)
            panel.plot(*part.T, ".", color=colour, markersize=4)
        panel.set(aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), xticks=[], yticks=[], title=title)
        panel.spines[:].set(visible=True, color=FRAME)
    scores = stored()["rotation"]  # (seeds, angles, measures)
    angles = np.array(measured.ANGLES)
    for k, (name, colour) in enumerate(MEASURES.items()):
        mean, spread = scores[..., k].mean(0), scores[..., k].std(0, ddof=1)
        right.fill_between(
            angles, (mean - spread).round(4), (mean + spread).round(4), color=colour, alpha=0.25, lw=0
        )
        right.plot(angles, mean.round(4), color=colour)
        right.text(
            92, mean[-1] + {"MIG": -0.07, "SAP": 0.0, "DCI-D": 0.05}[name], name, color=colour, va="center"
        )
    right.axhline(1.12, color=INK, linestyle="--", linewidth=1.6)
    right.text(45, 1.15, "log-likelihood, shifted: constant", ha="center", va="bottom", fontsize=14)
    right.set(xlim=(0, 118), ylim=(-0.02, 1.3), xticks=[0, 30, 45, 60, 90], yticks=[0, 0.5, 1])
    right.set(xlabel="angle of $R$, degrees")
    return figure


# --- The ratio --------------------------------------------------------------------------------------------


def log_ratio(x: np.ndarray) -> np.ndarray:
    """Return log N(x; 0, 1) - log N(x; 1, 2^2)."""
    return -(x**2) / 2 + (x - 1) ** 2 / 8 + np.log(2)


def ratio_errors() -> np.ndarray:
    """Return each seed's root mean square error of the logit where both densities exceed 0.02."""
    x = measured.RATIO_GRID
    seen = np.minimum(normal(x), normal(x, 1, 2)) > 0.02
    gaps = stored()["ratio"] - log_ratio(x)
    return np.sqrt((gaps[:, seen] ** 2).mean(axis=1))


def ratio_outside() -> list[float]:
    """Return the smallest and the largest error of the five logits at x = 5 and at x = 9, in nats."""
    x = measured.RATIO_GRID
    gaps = np.abs(stored()["ratio"] - log_ratio(x))
    return [end for at in (5, 9) for end in np.sort(gaps[:, np.abs(x - at).argmin()])[[0, -1]]]


@figure
def ratio() -> Figure:
    """Draw two densities, the logarithm of their ratio, and logits of trained classifiers."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 200, columns=2)
    x = measured.RATIO_GRID
    for mean, std, colour, name, at in ((0, 1, BLUE, "$\\pi$", 0.8), (1, 2, BROWN, "$p$", 3.2)):
        left.plot(x, normal(x, mean, std).round(5), color=colour)
        left.text(at, normal(np.array(at), mean, std) + 0.03, name, color=colour, fontsize=18)
    hide_left(left)
    left.set(xlim=(-7, 9), ylim=(0, 0.44), xlabel="$x$", title="two densities")
    seen = np.minimum(normal(x), normal(x, 1, 2)) > 0.02
    right.axvspan(x[seen].min(), x[seen].max(), color=PALE, lw=0)
    right.plot(x, log_ratio(x).round(4), color=INK, linestyle="--")
    for logits in stored()["ratio"]:
        right.plot(x, logits.round(4), color=RED, linewidth=1.2)
    right.set(xlim=(-7, 9), ylim=(-14, 2.5), xlabel="$x$", title="$\\log\\pi/p$, and five logits")
    return figure


# --- Discriminators and divergences -----------------------------------------------------------------------

LINE = np.linspace(-30, 40, 70_001)  # for quadrature
STEP = LINE[1] - LINE[0]


def mean_of(density: np.ndarray, values: np.ndarray) -> float:
    """Return the expectation of values under a density, both on LINE."""
    return float((density * np.where(density > 0, values, 0)).sum() * STEP)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    """Return KL(p || q) in nats, by quadrature on LINE."""
    return mean_of(p, np.log(np.maximum(p, 1e-300) / np.maximum(q, 1e-300)))


def jsd(p: np.ndarray, q: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence in nats, by quadrature on LINE."""
    return (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2


@figure
def best_discriminator() -> Figure:
    """Draw two densities and the best discriminator, for a distant and for a close model."""
    figure, axes = canvas(SLIDE_WIDTH, 245, columns=2, rows=2, height_ratios=[1, 0.85], sharex=True)
    x = np.linspace(-7, 7, 561)
    data = 0.4 * normal(x, 1, 0.6) + 0.6 * normal(x, 3, 0.7)
    models = (normal(x, -2.5, 1.0), 0.45 * normal(x, 1.2, 0.7) + 0.55 * normal(x, 3.1, 0.8))
    for (upper, lower), model, title in zip(axes.T, models, ("far", "near"), strict=True):
        upper.fill_between(x, data.round(5), color=BLUE, alpha=0.25, lw=0)
        upper.plot(x, data.round(5), color=BLUE)
        upper.plot(x, model.round(5), color=ORANGE)
        upper.set(title=title, ylim=(0, 0.48))
        hide_left(upper)
        lower.plot(x, (data / (data + model)).round(5), color=INK)
        lower.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.4)
        lower.set(ylim=(-0.04, 1.04), yticks=[0, 0.5, 1], xlabel="$x$", xlim=(-6, 6))
    axes[0][0].text(3.9, 0.3, "$\\pi$", color=BLUE, fontsize=18)
    axes[0][0].text(-4.4, 0.3, "$p$", color=BROWN, fontsize=18)
    axes[1][0].set_ylabel("$D^\\ast$", rotation=0, labelpad=14, va="center")
    return figure


SHIFTS = (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)


@cache
def shifted(mu: float) -> dict[str, float]:
    """Return divergences of N(0, 1), the data, and N(mu, 1), the model, in nats."""
    data, model = normal(LINE), normal(LINE, mu)
    middle = (data + model) / 2
    return {"kl": mu**2 / 2, "jsd": jsd(data, model), "soft": kl(middle, data)}


def slopes(mu: float) -> dict[str, float]:
    """Return the derivatives of twice the JSD and twice KL(M || data) in the shift, by the theorem.

    The density of the model moves with mu: its derivative is (x - mu) p.
    """
    model = normal(LINE, mu)
    log_d = -np.logaddexp(0, LINE * mu - mu**2 / 2)  # log D*, whose logit is log(data / model)
    log_not_d = -np.logaddexp(0, mu**2 / 2 - LINE * mu)
    moved = (LINE - mu) * model
    return {"jsd": float((moved * log_not_d).sum() * STEP), "soft": float(-(moved * log_d).sum() * STEP)}


@figure
def shift() -> Figure:
    """Draw the Jensen-Shannon divergence of two normals against their shift, and its slope."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 200, columns=2)
    mus = np.linspace(0, 8, 81)
    left.plot(mus, np.round([shifted(mu)["jsd"] for mu in mus], 4), color=BLUE)
    left.plot(mus, (mus**2 / 2).round(4), color=MUTED, linewidth=1.6)
    left.axhline(np.log(2), color=INK, linestyle=":", linewidth=1.4)
    left.text(0.25, np.log(2) + 0.02, "$\\log 2$", va="bottom")
    left.text(1.6, 0.88, "KL", color=MUTED)
    left.text(4.6, 0.56, "JSD", color=BLUE)
    left.set(xlim=(0, 8), ylim=(0, 1), xlabel="shift $\\mu$", title="nats")
    right.plot(mus, np.round([slopes(mu)["jsd"] / 2 for mu in mus], 4), color=BLUE)
    right.set(xlim=(0, 8), ylim=(0, 0.27), xlabel="shift $\\mu$", title="slope of the JSD in $\\mu$")
    return figure


@figure
def divergences() -> Figure:
    """Draw twice the JSD and twice the KL of the mixture to the data against the shift, and their slopes."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2)
    mus = np.linspace(0, 8, 81)
    for name, colour in (("jsd", RED), ("soft", BLUE)):
        left.plot(mus, np.round([2 * shifted(mu)[name] for mu in mus], 4), color=colour)
        right.plot(mus, np.round([slopes(mu)[name] for mu in mus], 4), color=colour)
    left.plot(mus, (mus**2 / 2).round(4), color=MUTED, linewidth=1.6)
    left.text(3.5, 9.5, "$\\mathrm{KL}(\\pi\\,\\Vert\\,p)$", color=MUTED, ha="right")
    left.text(5.6, 7.6, "$2\\,\\mathrm{KL}(M\\,\\Vert\\,\\pi)$:\nnon-saturating", color=BLUE, va="center")
    left.text(5.2, 1.7, "$2\\,\\mathrm{JSD}$: minimax", color=RED, va="bottom")
    left.set(xlim=(0, 8), ylim=(0, 15), xlabel="shift $\\mu$", title="what is descended, nats")
    right.set(xlim=(0, 8), ylim=(0, 8.2), xlabel="shift $\\mu$", title="its slope in $\\mu$")
    return figure


# --- The game in one dimension ----------------------------------------------------------------------------

DATA = (2.0, 1.0)  # mean and deviation of the data of the half-steps
GRID = torch.linspace(-8, 10, 3601, dtype=torch.double)  # for quadrature
WIDTH = (GRID[1] - GRID[0]).item()


def gaussian(mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Return the density of N(mean, std^2) on GRID."""
    z = (GRID - mean) / std
    return torch.exp(-(z**2) / 2) / (std * np.sqrt(2 * np.pi))


def logit(w: Tensor, x: Tensor) -> Tensor:
    """Return a quadratic logit w_0 + w_1 u + w_2 u^2, u = x / 2; it contains the best one for two normals."""
    return w[0] + w[1] * x / 2 + w[2] * (x / 2) ** 2


def value(w: Tensor, data: Tensor, model: Tensor) -> Tensor:
    """Return V of the discriminator with weights w, by quadrature."""
    ell = logit(w, GRID)
    return -((data * F.softplus(-ell)).sum() + (model * F.softplus(ell)).sum()) * WIDTH


def ascend(w: Tensor, data: Tensor, model: Tensor, steps: int, rate: float) -> tuple[Tensor, list[float]]:
    """Return the discriminator's weights after gradient steps up V, and V before each step."""
    values = []
    for _ in range(steps):
        w = w.detach().requires_grad_()
        v = value(w, data, model)
        values.append(v.item())
        w = w + rate * torch.autograd.grad(v, w)[0]
    return w.detach(), values


@cache
def judged(mu: float, steps: int = 3000) -> tuple[np.ndarray, list[np.ndarray]]:
    """Train D on N(0, 1) against N(mu, 1); return V at each step, and D on GRID after 10, 100, 1000."""
    data, model = gaussian(0.0, 1.0), gaussian(mu, 1.0)
    w, values, curves = torch.zeros(3, dtype=torch.double), [], []
    for until in (10, 90, 900, steps - 1000):
        w, more = ascend(w, data, model, until, 0.1)
        values += more
        curves.append(torch.sigmoid(logit(w, GRID)).numpy())
    return np.array(values), curves[:3]


@figure
def value_of_the_game() -> Figure:
    """Draw V against steps of D for three shifts, and D on its way."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 190, columns=2)
    for mu, colour in ((1.0, BLUE), (2.0, GREEN), (4.0, RED)):
        values, _ = judged(mu)
        steps = np.unique(np.geomspace(1, len(values), 200).astype(int))
        left.plot(steps, values[steps - 1].round(4), color=colour)
        best = 2 * shifted(mu)["jsd"] - np.log(4)
        left.axhline(best, color=colour, linestyle="--", linewidth=1.4)
        left.text(2900, best - 0.04, f"$\\mu={mu:g}$", color=colour, va="top", ha="right")
    left.set(xscale="log", xlim=(1, 3000), ylim=(-1.5, 0.2), xlabel="steps of $D$", title="$V(G,D)$, nats")
    log_ticks(left.xaxis, 1, 10, 100, 1000)
    x = GRID.numpy()
    _, curves = judged(4.0)
    for curve, colour, steps in zip(curves, (SKY, BLUE, PURPLE), (10, 100, 1000), strict=True):
        right.plot(x[::8], curve[::8].round(4), color=colour)
        right.text(4.6, {10: 0.66, 100: 0.44, 1000: 0.22}[steps], f"{steps} steps", color=colour)
    best = 1 / (1 + np.exp(4 * x - 8))
    right.plot(x[::8], best[::8].round(4), color=INK, linestyle="--")
    right.set(xlim=(-4, 8), ylim=(-0.03, 1.03), xlabel="$x$", title="$D$ for $\\mu=4$; dashed $D^\\ast$")
    return figure


D_STEPS, G_STEPS, D_RATE, G_RATE = 100, 10, 1.0, 0.05


def half_step_states() -> list[tuple[Tensor, Tensor]]:
    """Return weights of D and (a, b) of G(z) = a + b z after half-steps, D first, from a fixed start."""
    data = gaussian(*DATA)
    w, g = torch.zeros(3, dtype=torch.double), torch.tensor([-1.0, 1.0], dtype=torch.double)
    states = []
    for _ in range(12):
        w, _ = ascend(w, data, gaussian(*g), D_STEPS, D_RATE)
        states.append((w, g))
        for _ in range(G_STEPS):
            g = g.detach().requires_grad_()
            loss = (gaussian(*g) * F.softplus(-logit(w, GRID))).sum() * WIDTH
            g = g - G_RATE * torch.autograd.grad(loss, g)[0]
        g = g.detach()
        states.append((w, g))
    return states


@figure
def half_steps() -> Figure:
    """Draw a GAN in one dimension, half-step by half-step, with the pull on its samples."""
    figure, axes = canvas(SLIDE_WIDTH, 255, columns=3, rows=2, sharex=True, sharey=True)
    states = half_step_states()
    shown = (0, 1, 2, 5, 10, 23)
    x = GRID.numpy()
    keep = slice(0, None, 12)
    for panel, number in zip(axes.flat, shown, strict=True):
        w, g = states[number]
        panel.fill_between(x[keep], gaussian(*DATA).numpy()[keep].round(4), color=BLUE, alpha=0.25, lw=0)
        panel.plot(x[keep], gaussian(*g).numpy()[keep].round(4), color=ORANGE)
        d = torch.sigmoid(logit(w, GRID)).numpy()
        panel.plot(x[keep], d[keep].round(4), color=INK, linewidth=1.8)
        samples = g[0] + g[1] * torch.tensor([-1.5, -0.75, 0.0, 0.75, 1.5], dtype=torch.double)
        pull = torch.sigmoid(-logit(w, samples)) * (w[1] / 2 + w[2] * samples / 2)
        for at, strength in zip(samples.numpy().round(3), pull.numpy().round(3), strict=True):
            panel.plot(at, -0.12, "o", color=ORANGE, markersize=5)
            panel.annotate(
                "",
                (float(np.clip(at + 0.6 * strength, -5, 5)), -0.12),
                (at, -0.12),
                arrowprops={"arrowstyle": "->", "color": RED, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
            )
        mover = "D" if number % 2 == 0 else "G"
        panel.set(xlim=(-4.5, 5), ylim=(-0.22, 1.05), yticks=[0, 0.5, 1])
        panel.set_title(f"half-step {number + 1}: ${mover}$ moved", fontsize=15)
    return figure


@figure
def generator_losses() -> Figure:
    """Draw both losses of the generator against the logit of a fake sample, and their slopes."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 138, columns=2)
    ell = np.linspace(-6, 6, 241)
    curves = {
        "minimax": (-np.logaddexp(0, ell), -1 / (1 + np.exp(-ell)), RED),
        "non-saturating": (np.logaddexp(0, -ell), -1 / (1 + np.exp(ell)), BLUE),
    }
    for loss, slope, colour in curves.values():
        left.plot(ell, loss.round(4), color=colour)
        right.plot(ell, slope.round(4), color=colour)
    left.text(-1.6, 2.9, "non-saturating", color=BLUE)
    left.text(-3.9, -2.9, "minimax", color=RED)
    right.text(-3.9, -0.35, "minimax", color=RED)
    right.text(1.4, -0.35, "non-saturating", color=BLUE)
    for panel, title in ((left, "loss, nats"), (right, "slope in the logit")):
        panel.axvline(-np.log(99), color=MUTED, linestyle=":", linewidth=1.4)
        panel.set(title=title, xlabel="logit of $D(G(z))$", xlim=(-6, 6))
    left.set_ylim(-6, 6)
    right.set_ylim(-1.05, 0.05)
    return figure


# --- Games ------------------------------------------------------------------------------------------------

ETA, GAME_STEPS, DIRAC_STEPS = 0.2, 60, 150


def path(slope_a: Callable, slope_b: Callable, alternate: bool, steps: int) -> np.ndarray:
    """Return the points of gradient steps: a descends, b ascends; b sees the new a if they alternate."""
    a, b = 1.0, 0.0
    points = [(a, b)]
    for _ in range(steps):
        new = a - ETA * slope_a(a, b)
        b = b + ETA * slope_b(new if alternate else a, b)
        a = new
        points.append((a, b))
    return np.array(points)


def product_path(alternate: bool) -> np.ndarray:
    """Return a path of the game V = a b."""
    return path(lambda a, b: b, lambda a, b: a, alternate, GAME_STEPS)


def dirac_path(alternate: bool) -> np.ndarray:
    """Return a path of the smallest GAN, V = -log 2 - softplus(a b)."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + np.exp(-x))

    return path(lambda a, b: -b * sigmoid(a * b), lambda a, b: -a * sigmoid(a * b), alternate, DIRAC_STEPS)


@figure
def bilinear() -> Figure:
    """Draw paths of the product game and of the smallest GAN."""
    figure, axes = canvas(SLIDE_WIDTH, 240, columns=3)
    panels = (
        ("$V=ab$, simultaneous", [(product_path(False), RED)]),
        ("$V=ab$, alternating", [(product_path(True), BLUE)]),
        ("smallest GAN, both", [(dirac_path(False), RED), (dirac_path(True), BLUE)]),
    )
    for panel, (title, paths) in zip(axes, panels, strict=True):
        for points, colour in paths:
            panel.plot(*points.T.round(4), ".-", color=colour, linewidth=1.2, markersize=5)
        panel.plot(1, 0, "o", color=INK, markersize=7)
        panel.plot(0, 0, "+", color=INK, markersize=11)
        panel.set(title=title, aspect="equal", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4), xlabel="$a$")
        panel.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    axes[0].set_ylabel("$b$", rotation=0, labelpad=8)
    return figure


# --- Networks ---------------------------------------------------------------------------------------------


@figure
def plane() -> Figure:
    """Draw samples of a GAN on two moons as it trains, with either loss."""
    figure, axes = canvas(SLIDE_WIDTH, 218, columns=len(measured.SNAPSHOTS), rows=2)
    moons = stored()["plane_data"]
    for panel, steps in zip(axes[0], measured.SNAPSHOTS, strict=True):
        panel.set_title(f"{steps:,} steps", fontsize=15)
    for line, (name, title) in zip(axes, measured.LOSSES.items(), strict=True):
        for panel, samples in zip(line, stored()[f"plane_{name}"], strict=True):
            panel.plot(*moons.T.round(2), ".", color=SKY, markersize=2)
            panel.plot(*samples.T.round(2), ".", color=RED, markersize=2)
            panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
            panel.spines[:].set(visible=True, color=FRAME)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
    return figure


@figure
def by_heart() -> Figure:
    """Draw V on the points that trained D, and on fresh ones, of one and the same normal."""
    figure, panel = canvas(SLIDE_WIDTH * 0.88, 130)
    traces = stored()["by_heart"]  # (seeds, records, 2)
    steps = measured.HEART_EVERY * np.arange(traces.shape[1])
    for k, (name, colour, at) in enumerate((("training points", RED, 0.8), ("fresh points", BLUE, -3.0))):
        values = traces[..., k]
        panel.fill_between(
            steps, values.min(0).round(3), values.max(0).round(3), color=colour, alpha=0.25, lw=0
        )
        panel.plot(steps, values.mean(0).round(3), color=colour)
        panel.text(steps[-1], at, name, color=colour, ha="right", va="center")
    panel.axhline(-np.log(4), color=INK, linestyle=":", linewidth=1.4)
    panel.text(4, -np.log(4) - 0.12, "$-\\log 4$", va="top")
    panel.set(xlim=(0, steps[-1]), ylim=(-6, 1.6), xlabel="steps of $D$", ylabel="$V$, nats")
    return figure


# --- Numbers ----------------------------------------------------------------------------------------------


def with_spread(values: np.ndarray, digits: int) -> str:
    """Return mean and standard deviation of several runs for a slide."""
    return f"{fixed(values.mean(), digits)} ± {fixed(values.std(ddof=1), digits)}"


def span(values: np.ndarray, digits: int) -> str:
    """Return the smallest and the largest of several values for a slide."""
    return " – ".join(dict.fromkeys(fixed([values.min(), values.max()], digits)))  # one, if they agree


def off_diagonal(matrices: np.ndarray) -> np.ndarray:
    """Return the largest absolute covariance of two units of each matrix, (seeds,)."""
    return np.abs(matrices * (1 - np.eye(matrices.shape[-1]))).max((1, 2))


def sprite_cells(method: str) -> list[str]:
    """Return the row of a method: ranges over the seeds, and units that are on in each."""
    rate, distortion = stored()[f"{method}_rd"].T
    means, codes = covariances(method)
    active = ", ".join(f"{count:.0f}" for count in stored()[f"{method}_active"])
    diagonals = [span(np.diagonal(part, axis1=1, axis2=2), 2) for part in (means, codes)]
    return [method, span(distortion, 1), span(rate, 1), active, span(off_diagonal(means), 2), *diagonals]


def penalty_rows() -> list[str]:
    """Return two rows: the penalty of DIP-VAE-II over all images, and its mean over batches."""
    rows = []
    for k, title, digits_ in ((0, "over all images", 2), (1, "mean over batches", 1)):
        rows.append(title)
        rows += ["; ".join(fixed(stored()[f"{method}_penalties"][:, k], digits_)) for method in METHODS]
    return rows


def batch_penalty(variances: np.ndarray) -> float:
    """Return the expected off-diagonal penalty of DIP-VAE-II in a batch, for independent units."""
    pairs = variances.sum() ** 2 - (variances**2).sum()
    return measured.WEIGHTS["DIP-VAE-II"][0] * pairs * (measured.BATCH - 1) / measured.BATCH**2


def ceiling_rows() -> list[str]:
    """Return rows of the table of ceilings, four measures each."""
    cells = []
    for name, title in measured.CODES.items():
        scores = stored()[f"ceiling_{name}"]  # (runs, 4)
        cells.append(title)
        cells += fixed(scores[0], 2) if len(scores) == 1 else [with_spread(run, 2) for run in scores.T]
    return cells


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    middle = measured.ANGLES.index(45)
    turned = stored()["rotation"].mean(0)[[0, middle]]  # (2, measures)
    errors = ratio_errors()
    product = np.linalg.norm(product_path(True), axis=1)
    return {
        "sprites": [cell for method in METHODS for cell in sprite_cells(method)],
        "dip": [
            *(", ".join(f"{weight:g}" for weight in pair) for pair in measured.WEIGHTS.values()),
            str(measured.BATCH),
            f"{measured.ACTIVE:g}",
        ],
        "penalties": penalty_rows(),
        "tc": fixed([abs(total_correlation(q)) for q in clouds().values()], 2),
        "ceilings": ceiling_rows(),
        "turned": [*fixed([turned[0, 0], turned[1, 0], turned[0, 2], turned[1, 2]], 2), str(measured.SEEDS)],
        "ratio": [*fixed([errors.mean(), errors.std(ddof=1)], 2), *fixed(ratio_outside(), 1)],
        "jsd": fixed([shifted(mu)["jsd"] for mu in SHIFTS], 4),
        "values": fixed([2 * shifted(mu)["jsd"] - np.log(4) for mu in SHIFTS], 4),
        "half": [str(D_STEPS), str(G_STEPS)],
        "missing": fixed([*missing(1 / 2), *missing(1 / 10)], 3),
        "bilinear": [
            f"{ETA:g}",
            str(GAME_STEPS),
            fixed(np.linalg.norm(product_path(False)[-1]), 2),
            fixed(product.max() / product.min(), 2),
        ],
        "plane_steps": f"{measured.SNAPSHOTS[-1]:,}",
        "plane": [", ".join(fixed(np.sort(w1), 2)) for w1 in stored()["plane_w1"]],
        "plane_drawn": fixed(stored()["plane_w1"][:2, 0], 2),
        "batch_penalty": [
            *fixed([batch_penalty(np.repeat([1.0, 0.0], [on, 8 - on])) for on in (8, 4)], 1),
            fixed(max(stored()[f"{method}_penalties"][:, 2].max() for method in METHODS) + 0.05, 1),
        ],
        "by_heart": [f"{measured.HEART_STEPS:,}"],
    }


def missing(share: float) -> tuple[float, float]:
    """Return 2 KL(M || data) and 2 JSD, if the model is the data restricted to a share of its mass."""
    data, model = np.array([share, 1 - share]), np.array([1.0, 0.0])
    middle = (data + model) / 2
    soft = 2 * (middle * np.log(middle / data)).sum()
    return soft, (data * np.log(data / middle)).sum() + np.log(1 / middle[0])
