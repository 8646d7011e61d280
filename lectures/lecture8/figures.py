"""Draw the figures of lecture 8, and compute the numbers that its slides print.

    python -m lectures.drawing lecture8 [FOLDER]

Linear models are exact; priors and networks are drawn from arrays that `trained_models.py` stored, and from
lecture 3's. What the deck claims is tested in `tests/test_lecture8.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lectures.arrays import read_arrays
from lectures.drawing import (
    BLUE,
    BROWN,
    FRAME,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SLIDE_WIDTH,
    bare,
    canvas,
    figure,
    fixed,
    log_ticks,
    paint,
)
from lectures.lecture3.figures import learned_noise, mnist_spectrum
from lectures.lecture3.figures import stored as lecture3_arrays
from lectures.lecture8.trained_models import BETAS, FLOOR, LIMIT, POINTS, SHOWN, SIGMA, TRAININGS

FOLDER = Path(__file__).parent / "figures"
CELL = (2 * LIMIT / (POINTS - 1)) ** 2
AXIS = np.linspace(-LIMIT, LIMIT, POINTS)


@cache
def trained() -> dict[str, np.ndarray]:
    """Return the arrays that `trained_models` stored."""
    return read_arrays(FOLDER / "trained_models.npz")


# --- Priors in the plane ----------------------------------------------------------------------------------


@cache
def log_aggregate() -> np.ndarray:
    """Return lecture 3's log q(z) on its grid, nats, z_1 in rows."""
    return lecture3_arrays()["log_q"].astype(float)


def log_standard() -> np.ndarray:
    """Return log N(z; 0, I) on that grid."""
    return -(AXIS[:, None] ** 2 + AXIS**2) / 2 - np.log(2 * np.pi)


@cache
def entropy() -> float:
    """Return the entropy of q(z) in nats, on the grid."""
    return -(np.exp(log_aggregate()) * log_aggregate()).sum() * CELL


def marginal_kl(prior: str) -> float:
    """Return KL(q(z) || p) of a fitted prior: a cross-entropy of draws less the entropy on the grid."""
    return float(trained()[f"cross_{prior}"]) - entropy()


def fits_error() -> float:
    """Return the largest standard error of these KLs: of a mean of log p(z) over the draws, one a code."""
    q = np.exp(log_aggregate()) * CELL
    spreads = []
    for name in FITS:
        log_p = trained()[f"fit_{name}"].reshape(POINTS, POINTS)
        mean = (q * log_p).sum()
        spreads.append((q * (log_p - mean) ** 2).sum() ** 0.5)
    return max(spreads) / 60_000**0.5  # draws of one code are not independent: its 5 count as one


FITS = ("standard", "mixture_1", "mixture_10", "mixture_100", "maf", "vamp_10", "vamp_100")


def show(panel: Axes, log_p: np.ndarray, title: str) -> None:
    """Draw a density of the plane in blues, means over 4 by 4 points of the grid."""
    blues = ("#e3eef8", "#b9d5ea", "#86b9dc", "#5397c8", "#2b73ae", "#0c4d8a")
    density = np.exp(log_p.reshape(POINTS, POINTS))[:320, :320].reshape(80, 4, 80, 4).mean(axis=(1, 3))
    axis = AXIS[:320].reshape(80, 4).mean(axis=1)
    levels = [0.002, 0.02, 0.05, 0.09, 0.14, 0.2, 100]
    panel.contourf(axis, axis, density.T.round(5), levels=levels, colors=blues)
    panel.set(aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), xticks=[], yticks=[], title=title)
    panel.spines[:].set(visible=True, color=FRAME)


@figure
def two_distributions() -> Figure:
    """Draw the aggregate posterior, the prior, and the rate split into its two parts."""
    figure, (left, middle, right) = canvas(SLIDE_WIDTH, 215, columns=3, width_ratios=[1, 1, 1.25])
    show(left, log_aggregate(), "$q(z)$: codes of all images")
    show(middle, log_standard(), "$p(z)$: where samples begin")
    marginal = marginal_kl("standard")
    information = float(trained()["plane_rate"]) - marginal
    right.barh([0], [information], 0.5, color=BLUE)
    right.barh([0], [marginal], 0.5, left=information, color=RED)
    right.text(information / 2, 0, "which image", color="white", ha="center", va="center", weight=600)
    right.text(information + marginal, 0.42, "wrong prior", color=RED, ha="right", weight=600)
    right.set(ylim=(-0.7, 0.9), yticks=[], xlabel="nats an image", title="the rate")
    right.spines["left"].set_visible(False)
    return figure


@figure
def fits() -> Figure:
    """Draw the aggregate posterior and priors fitted to it, the encoder fixed."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=5)
    panels = {
        "$q(z)$": log_aggregate(),
        "mixture, $C=10$": trained()["fit_mixture_10"],
        "mixture, $C=100$": trained()["fit_mixture_100"],
        "MAF": trained()["fit_maf"],
        "VampPrior, $C=100$": trained()["fit_vamp_100"],
    }
    for panel, (title, log_p) in zip(axes, panels.items(), strict=True):
        show(panel, log_p, title)
        panel.title.set_fontsize(15)
    return figure


@figure
def joint() -> Figure:
    """Draw codes and prior of two VAEs trained from one start, with N(0, I) and with a VampPrior."""
    figure, axes = canvas(SLIDE_WIDTH, 185, columns=4)
    arrays = trained()
    show(axes[0], arrays["joint_standard_q"], "$q(z)$, trained with")
    show(axes[1], arrays["joint_standard_p"], "$N(0, I)$")
    show(axes[2], arrays["joint_vamp_q"], "$q(z)$, trained with")
    show(axes[3], arrays["joint_vamp_p"], "the VampPrior")
    axes[3].plot(*arrays["joint_means"].T, ".", color=RED, markersize=4)
    for panel in axes:
        panel.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT))
    return figure


@figure
def pseudo_inputs() -> Figure:
    """Draw pseudo-inputs, drawn by their weights, and samples of both models."""
    figure, axes = canvas(SLIDE_WIDTH, 250, columns=10, rows=3)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    arrays = trained()
    rows = {
        "pseudo-\ninputs": arrays["joint_inputs"],
        "VampPrior\nsamples": arrays["joint_vamp_samples"],
        "$N(0, I)$\nsamples": arrays["joint_standard_samples"],
    }
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=True):
            paint(panel, image.reshape(28, 28) / 255)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


@figure
def shipped() -> Figure:
    """Draw what decoders show at draws of their prior: seminar 8's standard prior, and its VampPrior."""
    columns = 16
    figure, axes = canvas(SLIDE_WIDTH, 104, columns=columns, rows=2)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for line, (name, title) in zip(axes, (("standard", "$N(0, I)$"), ("vamp", "VampPrior")), strict=True):
        for panel, image in zip(line, trained()[f"shipped_{name}"][:columns], strict=True):
            paint(panel, image.reshape(28, 28) / 255)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", labelpad=8)
    return figure


@figure
def memory() -> Figure:
    """Draw what images in the mixture of n codes pay, and what new ones pay, against n."""
    figure, axes = canvas(SLIDE_WIDTH, 195, columns=2)
    for panel, d, top in ((axes[0], 2, 37), (axes[1], 50, 140)):
        n, seen, seen_error, new, new_error = trained()[f"memory_{d}"].T
        panel.axhline(trained()[f"standard_{d}"][2], color=MUTED, linestyle="--", linewidth=1.6)
        panel.plot(n, np.log(n), ":", color=INK, linewidth=1.6)
        panel.errorbar(n, new, new_error, color=RED, marker="o")
        panel.errorbar(n, seen, seen_error, color=BLUE, marker="s")
        panel.set(xscale="log", title=f"$d={d}$", xlabel="codes in the mixture, $n$", ylim=(0, top))
        log_ticks(panel.xaxis, 100, 1000, 10_000, 60_000)
    axes[0].text(180, 27, "new images", color=RED)
    axes[0].text(700, 15.5, "images in the mixture", color=BLUE)
    axes[0].annotate(
        "",
        (300, 5.8),
        (1200, 15),
        arrowprops={"arrowstyle": "-", "color": BLUE, "linewidth": 1},
    )
    axes[0].text(85, 7.6, "$N(0, I)$", color=MUTED)
    axes[0].set_ylabel("KL to the mixture, nats")
    axes[1].text(85, 30, "$N(0, I)$", color=MUTED)
    axes[0].text(18_000, 12.5, "$\\log n$", color=INK)
    return figure


# --- Where the flow stands --------------------------------------------------------------------------------


def box(panel: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Draw a box of a diagram with its word."""
    panel.add_patch(
        FancyBboxPatch(
            (x - 0.62, y - 0.3),
            1.24,
            0.6,
            boxstyle="round,pad=0.02",
            facecolor="white",
            edgecolor=colour,
            lw=2,
        )
    )
    panel.text(x, y, text, ha="center", va="center", color=colour)


def arrow(panel: Axes, start: tuple, end: tuple, colour: str, style: str = "-") -> None:
    """Draw an arrow of a diagram."""
    panel.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=16,
            color=colour,
            linewidth=2,
            linestyle=style,
            shrinkA=0,
            shrinkB=0,
        )
    )


@figure
def two_paths() -> Figure:
    """Draw the way in and the way out of both models: the flow in the prior, and in the posterior."""
    figure, axes = canvas(SLIDE_WIDTH, 190, rows=2)
    for panel, title, prior in ((axes[0], "autoregressive\nprior", True), (axes[1], "IAF\nposterior", False)):
        panel.text(-1.5, 0.5, title, va="center", ha="left", weight=600)
        for x, letter in ((1.0, "$x$"), (4.6, "$z$"), (8.2, "$\\varepsilon$")):
            panel.text(x, 1, letter, ha="center", va="center", fontsize=19)
        box(panel, 2.8, 1, "encoder", BLUE)
        box(panel, 6.4, 1, "flow $h$", BLUE)
        for start, end in ((1.25, 2.12), (3.48, 4.35), (4.85, 5.72), (7.08, 7.95)):
            arrow(panel, (start, 1), (end, 1), BLUE)
        panel.text(8.5, 1, "$\\sim N(0, I)$", va="center", fontsize=16)
        source = 4.6 if prior else 8.2
        if prior:
            box(panel, 6.4, 0, "flow $h^{-1}$", BROWN)
            panel.plot([8.2, 8.2], [0.72, 0], color=ORANGE, linewidth=2)
            arrow(panel, (8.2, 0), (7.08, 0), ORANGE)
            arrow(panel, (5.72, 0), (3.48, 0), ORANGE)
            panel.text(4.6, 0.16, "$z$", ha="center", fontsize=19, color=BROWN)
            panel.text(8.4, 0.1, "sample: $d$ passes, then the decoder", color=BROWN)
        else:
            panel.plot([source, source], [0.72, 0], color=ORANGE, linewidth=2)
            arrow(panel, (source, 0), (3.48, 0), ORANGE)
            panel.text(8.4, 0.1, "sample: the decoder", color=BROWN)
        box(panel, 2.8, 0, "decoder", ORANGE)
        arrow(panel, (2.12, 0), (1.25, 0), ORANGE)
        panel.text(1.0, 0, "$x$", ha="center", va="center", fontsize=19)
        panel.set(xlim=(-1.6, 12.6), ylim=(-0.45, 1.45))
        bare(panel)
    return figure


# --- Collapse in linear models ----------------------------------------------------------------------------


def toy(kind: str) -> np.ndarray:
    """Return the traces of a training of the VAE of four numbers, (starts, kept steps, 4)."""
    return trained()[f"toy_{kind.replace(' ', '_')}"]


def toy_best() -> float:
    """Return the best mean bound of the VAE of four numbers: minus the entropy of its data, nats."""
    return -torch.linalg.slogdet(2 * np.pi * np.e * SIGMA.double())[1].item() / 2


COLOURS = {"plain": RED, "annealed": ORANGE, "free bits": GREEN, "no reading": BLUE}
LATE_COLOURS = {"late": RED, "late aggressive": PURPLE, "late no reading": BLUE}


@figure
def toy_traces() -> Figure:
    """Draw bound and rate of the VAE of four numbers while it trains, five starts each."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 168, columns=2)
    for kind in ("plain", "free bits", "no reading"):
        traces = toy(kind)
        steps = np.minimum(10 * np.arange(traces.shape[1]), 2000)
        for trace in traces:
            left.plot(steps, (trace[:, 1] - toy_best()).round(4), color=COLOURS[kind], linewidth=1.4)
            right.plot(steps, trace[:, 0].round(4), color=COLOURS[kind], linewidth=1.4)
    left.set(title="bound less its best value, nats", xlabel="steps", xlim=(0, 2000), ylim=(-3, 0.15))
    right.set(title="rate, nats", xlabel="steps", xlim=(0, 2000), ylim=(0, 1.6))
    right.text(1960, 1.28, "decoder reads nothing ($V=0$)", color=BLUE, ha="right", va="top")
    right.text(1960, 0.58, f"free bits, $\\lambda={FLOOR}$", color="#00775a", ha="right")
    right.text(1960, 0.1, "decoder reads", color=RED, ha="right")
    return figure


@figure
def lag() -> Figure:
    """Draw the paths of encoder and model in the plane of the spreads of their posterior means."""
    figure, axes = canvas(SLIDE_WIDTH, 195, columns=3)
    titles = {
        "late": "decoder reads",
        "late aggressive": "aggressive encoder",
        "late no reading": "decoder reads nothing",
    }
    for panel, (kind, title) in zip(axes, titles.items(), strict=True):
        panel.plot([0, 1.2], [0, 1.2], color=MUTED, linewidth=1.2, linestyle=":")
        for trace in toy(kind):
            model, encoder = trace[:, 2].round(4), trace[:, 3].round(4)
            panel.plot(model, encoder, color=LATE_COLOURS[kind], linewidth=1.6)
            panel.plot(model[0], encoder[0], "o", color=INK, markersize=5, fillstyle="none")
            panel.plot(model[-1], encoder[-1], "o", color=INK, markersize=6)
        panel.set(title=title, xlabel="model's posterior mean", xlim=(-0.03, 1.25), ylim=(-0.05, 1.25))
        panel.set(xticks=[0, 1], yticks=[0, 1], aspect="equal")
    axes[0].set_ylabel("encoder's mean")
    return figure


def best_bound(w: np.ndarray, v: float, noise: float = 1.0) -> np.ndarray:
    """Return the mean bound of the scalar linear VAE with its best encoder: the mean of log p(x)."""
    total = w**2 + noise
    return -(np.log(2 * np.pi * total) + v / total) / 2


def trained_rate(v: float, steps: int = 4000, step_size: float = 0.02) -> float:
    """Return the rate after gradient ascent on the scalar bound from w = a = 0.01, s = 1, sigma = 1."""
    w, a, s = 0.01, 0.01, 1.0
    for _ in range(steps):
        slope_w = (1 - w * a) * a * v - w * s**2
        slope_a = (1 - w * a) * w * v - a * v
        slope_s = -(w**2) * s - s + 1 / s
        w, a, s = w + step_size * slope_w, a + step_size * slope_a, s + step_size * slope_s
    return (a**2 * v + s**2 - 1 - np.log(s**2)) / 2


@figure
def threshold() -> Figure:
    """Draw the bound over w for three variances of the data, and the best rate against the variance."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 200, columns=2)
    w = np.linspace(-2.2, 2.2, 300)
    for v, colour in ((0.5, RED), (1.5, ORANGE), (3.0, BLUE)):
        curve = best_bound(w, v) - best_bound(np.zeros(1), v)
        left.plot(w, curve.round(4), color=colour)
        best = np.sqrt(max(v - 1, 0))
        for at in {best, -best}:
            left.plot(
                at,
                best_bound(np.array(at), v) - best_bound(np.array(0.0), v),
                "o",
                color=colour,
                markersize=8,
            )
    left.text(2.3, 0.36, "$v=3\\,\\sigma^2$", color=BLUE, va="center")
    left.text(2.3, -0.26, "$v=1.5\\,\\sigma^2$", color=BROWN, va="center")
    left.text(1.2, -0.42, "$v=0.5\\,\\sigma^2$", color=RED, va="center", ha="right")
    left.set(title="mean bound less that of $w=0$, best encoder", xlabel="$w/\\sigma$", ylim=(-0.5, 0.52))
    left.set(xlim=(-2.4, 4.1), xticks=[-2, -1, 0, 1, 2])
    left.title.set_fontsize(15)
    ratio = np.linspace(0.05, 6, 400)
    right.plot(ratio, np.maximum(0, np.log(ratio) / 2).round(4), color=INK)
    points = np.array([0.3, 0.7, 1.3, 2, 3, 4.5, 6])
    right.plot(points, [round(trained_rate(v), 4) for v in points], "o", color=RED, markersize=8)
    right.axvline(1, color=MUTED, linestyle=":", linewidth=1.4)
    right.set(title="rate at the optimum, nats", xlabel="$v/\\sigma^2$", xlim=(0, 6.2), ylim=(-0.04, 1))
    return figure


def bound_at_rate(rate: np.ndarray, v: float, noise: float = 1.0) -> np.ndarray:
    """Return the best mean bound of the scalar linear VAE at a given rate, nats."""
    return -0.5 * np.log(2 * np.pi * noise) - v * np.exp(-2 * rate) / (2 * noise) - rate


PRICED = (0.5, 6.0)  # variances of the data on the slide about free bits


def free_bits_price(v: float) -> float:
    """Return what the bound loses at the optimum of the free-bits objective, nats."""
    best = max(0.0, np.log(v) / 2)
    return float(bound_at_rate(np.array(best), v) - bound_at_rate(np.array(max(FLOOR, best)), v))


@figure
def free_bits() -> Figure:
    """Draw the best bound at each rate and the free-bits objective, for a small and a large variance."""
    figure, axes = canvas(SLIDE_WIDTH, 130, columns=2)
    rate = np.linspace(0, 2, 400)
    for panel, v in zip(axes, PRICED, strict=True):
        top = bound_at_rate(np.array(max(0.0, np.log(v) / 2)), v)
        bound = bound_at_rate(rate, v) - top
        objective = bound + rate - np.maximum(FLOOR, rate)
        panel.plot(rate, bound.round(4), color=BLUE)
        panel.plot(rate, objective.round(4), "--", color=RED)
        panel.plot(rate[objective.argmax()], objective.max(), "o", color=RED, markersize=9)
        panel.axvline(FLOOR, color=MUTED, linestyle=":", linewidth=1.4)
        panel.set(title=f"$v={v:g}$, $\\sigma^2=1$", xlabel="rate, nats", xlim=(0, 2), ylim=(-1.3, 0.1))
    axes[0].text(1.22, -0.72, "bound", color=BLUE)
    axes[0].text(0.56, -0.16, "free-bits objective", color=RED)
    axes[0].set_ylabel("nats")
    return figure


# --- beta -------------------------------------------------------------------------------------------------

UNITS = 50
SHOWN_BETAS = (0.5, 1, 2, 4, 8, 16)
PRINTED_BETAS = (1, 4, 16)  # of the numbers, and of the water levels


@cache
def spectrum() -> tuple[np.ndarray, float]:
    """Return MNIST's variances along its principal axes, largest first, and the noise that d = 50 learns."""
    variances = np.sort(mnist_spectrum())[::-1]
    return variances, learned_noise(variances, UNITS)


def linear_point(beta: float) -> tuple[float, float, int]:
    """Return rate, distortion and number of units of the best linear beta-VAE on MNIST, nats."""
    variances, noise = spectrum()
    level = beta * noise
    coded = variances[:UNITS]
    used = coded[coded > level]
    rate = 0.5 * np.log(used / level).sum()
    error = np.minimum(coded, level).sum() + variances[UNITS:].sum()
    return rate, error / (2 * noise) + len(variances) / 2 * np.log(2 * np.pi * noise), len(used)


@figure
def rate_distortion() -> Figure:
    """Draw the rate-distortion curve of the linear VAE on MNIST with its slopes, and the water levels."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 225, columns=2)
    betas = np.geomspace(0.3, 200, 300)
    rate, distortion, _ = np.array([linear_point(beta) for beta in betas]).T
    lowest = linear_point(1)[1]
    left.plot(rate, distortion - lowest, color=INK)
    for beta in SHOWN_BETAS:
        r, d, _ = linear_point(beta)
        reach = 9 if beta <= 4 else 72 / beta
        left.plot(
            [r - reach, r + reach],
            [d - lowest + beta * reach, d - lowest - beta * reach],
            color=RED,
            linewidth=1.8,
        )
        left.plot(r, d - lowest, "o", color=RED, markersize=7)
        left.text(r + 1.5, d - lowest + 8, f"$\\beta={beta:g}$", color=RED, va="bottom", fontsize=17)
    left.set(
        title="distortion less that at $\\beta=1$, nats", xlabel="rate, nats", xlim=(0, 128), ylim=(-60, 480)
    )
    variances, noise = spectrum()
    index = np.arange(1, UNITS + 1)
    right.bar(index, variances[:UNITS], 0.8, color=SKY, bottom=0.005)
    for beta in PRINTED_BETAS:
        right.axhline(beta * noise, color=RED, linewidth=1.6)
        right.text(52, beta * noise * 1.1, f"$\\beta={beta}$", color=RED, va="bottom", fontsize=17)
    right.set(
        yscale="log",
        title="variances $v_j$, water levels $\\beta\\sigma^2$",
        xlabel="unit $j$",
        xlim=(0, 65),
        ylim=(0.008, 8),
    )
    log_ticks(right.yaxis, 0.01, 0.1, 1)
    return figure


@figure
def traversals() -> Figure:
    """Draw what the four most used units of two beta-VAEs do to one sprite."""
    columns = trained()[f"sprites_{BETAS[0]}"].shape[1]
    figure, axes = canvas(
        SLIDE_WIDTH,
        176,
        columns=2 * columns + 1,
        rows=SHOWN,
        width_ratios=[1] * columns + [0.6] + [1] * columns,
    )
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for start, beta in zip((0, columns + 1), BETAS, strict=True):
        images = trained()[f"sprites_{beta}"].reshape(SHOWN, columns, 32, 32) / 255
        for line, row in zip(axes, images, strict=True):
            for panel, image in zip(line[start : start + columns], row, strict=True):
                paint(panel, image, levels=5)
        axes[0][start + columns // 2].set_title(f"$\\beta={beta}$", fontsize=20)
    for line in axes:
        line[columns].set_visible(False)
    return figure


# --- Numbers ----------------------------------------------------------------------------------------------


def joint_cells(row: np.ndarray) -> list[str]:
    """Return a row of the slide about priors trained with their encoders."""
    return [*fixed(row[:2], 1), *fixed(row[2:], 2)]


def widths(name: str) -> np.ndarray:
    """Return the geometric mean of both deviations of each stored posterior."""
    return np.exp(np.log(trained()[name]).mean(axis=1))


def ends(kind: str) -> list[str]:
    """Return the smallest and the largest last rate of a training of the VAE of four numbers."""
    rates = toy(kind)[:, -1, 0]
    return fixed([rates.min(), rates.max()], 2)


def sprite_rows() -> list[list[str]]:
    """Return for each beta: its name, distortion, rate and used units."""
    rows = []
    for beta in BETAS:
        rate, distortion = trained()[f"sprites_{beta}_rd"]
        used = int((trained()[f"sprites_{beta}_kl"] > 0.1).sum())
        rows.append([f"beta {beta}", fixed(distortion, 1), fixed(rate, 1), str(used)])
    return rows


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    arrays = trained()
    rate, marginal = float(arrays["plane_rate"]), marginal_kl("standard")
    last, joint_rows = arrays["memory_50"][-1], arrays["joint"]
    worst = max(toy_best() - toy(kind)[:, -1, 1].min() for kind in TRAININGS)
    variance = np.exp(-2.0)  # of the normal whose log-density is written wrongly
    return {
        "plane_rate": fixed(rate, 2),
        "plane_marginal": fixed(marginal, 2),
        "plane_information": fixed(rate - marginal, 2),
        "fits": fixed([marginal_kl(name) for name in FITS], 2),
        "fits_error": fixed(fits_error(), 3),
        "moments_gain": fixed(marginal_kl("standard") - marginal_kl("mixture_1"), 3),
        "vamp_starts": fixed(arrays["starts_vamp_10"][:2] - entropy(), 1),
        "log_n": fixed(np.log(60_000), 2),
        "memory_50": fixed([last[1], last[3]], 1),
        "memory_50_error": [fixed(last[2], 2), fixed(last[4], 1)],
        "standard_50": fixed(arrays["standard_50"][[0, 2]], 1),
        "standard_50_error": fixed(arrays["standard_50"][[1, 3]], 1),
        "joint": [cell for row in joint_rows for cell in joint_cells(row)],
        "widths": fixed([np.median(widths(name)) for name in ("joint_vamp_widths", "joint_stds")], 2),
        "joint_inside": f"{100 * np.exp(arrays['joint_vamp_q']).sum() * CELL:.0f}",
        "toy_gap": fixed(np.ceil(1000 * worst) / 1000, 3),
        "toy_plain": ends("plain"),
        "toy_annealed": ends("annealed"),
        "toy_free": ends("free bits"),
        "toy_aggressive": ends("aggressive"),
        "toy_deaf": ends("no reading"),
        "toy_late": ends("late"),
        "toy_late_aggressive": ends("late aggressive"),
        "free_bits_price": fixed(free_bits_price(PRICED[0]), 2),
        "linear_units": [str(linear_point(beta)[2]) for beta in PRINTED_BETAS],
        "linear_rates": fixed([linear_point(beta)[0] for beta in PRINTED_BETAS], 1),
        "sprites": [cell for row in sprite_rows() for cell in row],
        "wrong_density": wrong_density(variance),
    }


def wrong_density(variance: float) -> str:
    """Return what exp(-(log var + z^2) / (2 var)) / sqrt(2 pi) integrates to."""
    return f"{np.exp(-np.log(variance) / (2 * variance)) * np.sqrt(variance):,.0f}"
