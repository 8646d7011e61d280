"""Draw the figures of lecture 1 and compute the numbers that its slides print.

    python -m lectures.drawing lecture1 [FOLDER]

Everything is exact, simulated with a fixed seed, or measured on MNIST here; nothing is copied by hand. Masks,
networks and the mu-law are those of seminars 1 and 2. The numbers go to `numbers.json`, which the deck reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator
from scipy import special, stats
from sklearn.datasets import make_moons
from torch import Tensor, nn

from dgm_utils import data
from lectures import drawing
from lectures.drawing import BLUE, BROWN, GREEN, INK, MUTED, ORANGE, PALE, RED, canvas, figure
from tools import definitions

FOLDER = Path(__file__).parent / "figures"
S1 = definitions.seminar(1, "made_masks", "mu_law", "draw_receptive_field")
S2 = definitions.seminar(2, "GatedLayer", "DiscretizedLogisticMixture")
NATURAL_ORDER, OTHER_ORDER = (0, 1, 2, 3), (1, 3, 0, 2)
# A joint table of three bits that almost always agree.
THREE_BITS = np.array([0.46, *[0.08 / 6] * 6, 0.46]).reshape(2, 2, 2)


# --- Motivation and maximum likelihood ------------------------------------------------------------------


@figure
def density_and_samples() -> Figure:
    """Draw data, a density fitted to them (a kernel estimate), and new points drawn from it."""
    points, _ = make_moons(400, noise=0.08, random_state=0)
    model = stats.gaussian_kde(points.T, bw_method=0.15)
    x, y = np.meshgrid(np.linspace(-1.6, 2.6, 160), np.linspace(-1.1, 1.6, 110))
    figure, axes = canvas(drawing.SLIDE_WIDTH, 205, columns=3, sharex=True, sharey=True)
    axes[0].plot(*points.T, ".", color=BLUE, markersize=4)
    axes[1].contourf(x, y, model([x.ravel(), y.ravel()]).reshape(x.shape), levels=9, cmap="Blues")
    axes[2].plot(*model.resample(400, seed=1), ".", color=ORANGE, markersize=4)
    axes[0].set_title(r"given: samples of $\pi(x)$")
    axes[1].set_title(r"wanted: a density $p(x\,|\,\theta)$")
    axes[2].set_title(r"and new samples $x\sim p(x\,|\,\theta)$")
    for panel in axes:
        panel.set(xticks=[], yticks=[], aspect="equal")
    return figure


def bimodal(x: np.ndarray) -> np.ndarray:
    """Evaluate the data density of the cross-entropy figure, a mixture of two normals."""
    return 0.65 * stats.norm.pdf(x, -1.2, 0.6) + 0.35 * stats.norm.pdf(x, 1.8, 0.8)


def cross_entropies(means: np.ndarray, scale: float = 1.6) -> tuple[float, np.ndarray]:
    """Return the entropy of `bimodal`, and its cross-entropy against a normal of each mean, in nats."""
    x = np.linspace(-12, 12, 8001)
    log_p = stats.norm.logpdf(x, means[:, None], scale)  # (means, 8001)
    return np.trapezoid(special.entr(bimodal(x)), x), -np.trapezoid(bimodal(x) * log_p, x)


@figure
def kl_is_the_gap() -> Figure:
    """Draw normals against a bimodal density: negative log-likelihood = entropy + KL."""
    x, means = np.linspace(-5, 5, 400), np.linspace(-3, 3, 121)
    entropy, curve = cross_entropies(means)
    figure, (left, right) = canvas(drawing.SLIDE_WIDTH, 175, columns=2)
    left.fill_between(x, bimodal(x), color=PALE)
    left.annotate(r"data $\pi(x)$", (-1.25, 0.36), (-4.9, 0.40), color=INK, va="center")
    right.plot(means, curve, color=BLUE)
    right.axhline(entropy, color=INK, linestyle="--", linewidth=1.6)
    for mean, colour in ((means[curve.argmin()], GREEN), (-2.0, ORANGE), (2.0, RED)):
        value = np.interp(mean, means, curve)
        left.plot(x, stats.norm.pdf(x, mean, 1.6), color=colour)
        right.plot([mean, mean], [entropy, value], color=colour, linewidth=1.8)
        right.plot(mean, value, "o", color=colour, markersize=8)
    drawing.hide_left(left)
    left.set(xlabel="$x$", ylim=(0, 0.46))
    right.text(3, entropy - 0.19, r"entropy of $\pi$: the floor", ha="right", va="center")
    right.text(2.1, entropy + 0.5, "KL", color=RED, va="center")
    right.set(xlabel=r"$\mu$ of the model $\mathcal{N}(\mu,\,1.6^2)$", ylabel="nats")
    right.set_ylim(bottom=entropy - 0.4)
    return figure


def uniform_maxima(n: int, theta: float = 1.0, repeats: int = 40_000, seed: int = 0) -> np.ndarray:
    """Draw `repeats` data sets of n points from U[0, theta]; return their maximum likelihood estimates."""
    return np.random.default_rng(seed).uniform(0, theta, (repeats, n)).max(axis=1)


@figure
def uniform_mle() -> Figure:
    """Draw the maximum of n uniforms: its distribution for n = 5, and its bias against n."""
    figure, (left, right) = canvas(drawing.SLIDE_WIDTH, 215, columns=2)
    t = np.linspace(0, 1, 200)
    left.hist(uniform_maxima(5), bins=50, density=True, color=PALE, label="40,000 simulated data sets")
    left.plot(t, 5 * t**4, color=BLUE, label=r"density $n\,t^{n-1}/\theta^n$")
    left.axvline(5 / 6, color=ORANGE, linestyle="--", linewidth=2)
    mean = {"color": BROWN, "ha": "right", "va": "center", "fontsize": 17}
    left.text(5 / 6 - 0.015, 4.6, r"mean $\frac{n}{n+1}\theta$", **mean)
    drawing.hide_left(left)
    left.set(xlabel=r"$\hat\theta$   ($n=5$, $\theta=1$)", xlim=(0, 1.02), ylim=(0, 5.4))
    left.legend(loc="upper left", bbox_to_anchor=(-0.02, 0.8))
    sizes = np.array([1, 2, 3, 5, 8, 13, 20, 35, 60, 100])
    measured = [uniform_maxima(n, repeats=4_000).mean() - 1 for n in sizes]
    right.plot(sizes, -1 / (sizes + 1), color=BLUE, label=r"$-\theta/(n+1)$")
    right.plot(sizes, measured, "o", color=ORANGE, label="simulated")
    right.axhline(0, color=MUTED, linewidth=0.9)
    right.set(xscale="log", xlabel="$n$", ylabel="bias")
    drawing.log_ticks(right.xaxis, 1, 10, 100)
    right.legend(loc="lower right")
    return figure


def fit_histogram(
    values: np.ndarray, bins: int, steps: int, rate: float, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a softmax histogram by stochastic gradients; return its probabilities and the loss of each step."""
    rng = np.random.default_rng(0)
    logits, losses = np.zeros(bins), []
    frequencies = np.bincount(values, minlength=bins) / len(values)
    for _ in range(steps):
        seen = np.bincount(rng.choice(values, batch), minlength=bins) / batch
        logits -= rate * (special.softmax(logits) - seen)
        losses.append(-(frequencies * special.log_softmax(logits)).sum())
    return special.softmax(logits), np.array(losses)


@figure
def histogram_fit() -> Figure:
    """Draw a histogram learned by gradient descent: it meets the frequencies, its loss the entropy."""
    rng = np.random.default_rng(3)
    points = np.where(rng.random(4000) < 0.6, rng.normal(5, 1.6, 4000), rng.normal(14, 2.2, 4000))
    values = np.clip(points, 0, 19).astype(int)
    frequencies = np.bincount(values, minlength=20) / len(values)
    learned, losses = fit_histogram(values, 20, steps=600, rate=1.0, batch=200)
    figure, (left, right) = canvas(drawing.SLIDE_WIDTH, 165, columns=2)
    left.bar(np.arange(20), frequencies, color=PALE, width=0.9, label="frequencies")
    left.plot(learned, "o", color=BLUE, markersize=6, label="softmax after 600 steps")
    drawing.hide_left(left)
    left.set(xlabel="bin", ylim=(0, 0.19))
    left.legend(loc="upper right", bbox_to_anchor=(1.03, 1.12))
    entropy = stats.entropy(frequencies)
    right.plot(losses, color=BLUE)
    right.axhline(entropy, color=INK, linestyle="--", linewidth=1.6)
    right.text(600, entropy - 0.035, "entropy of the frequencies", ha="right", va="top")
    right.set(xlabel="step", ylabel="nats", ylim=(2.35, 3.02))
    return figure


# --- Binary images --------------------------------------------------------------------------------------


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's 60,000 training and 10,000 test images, uint8 (N, 784)."""
    train, valid, test = (split.images.flatten(1).numpy() for split in data.load_images("mnist"))
    return np.concatenate([train, valid]), test


def grey_digit() -> np.ndarray:
    """Return the first test digit that is a two, (28, 28) in [0, 1]."""
    return mnist()[1][1].reshape(28, 28) / 255


def framed(axes: Axes, image: np.ndarray, colours: Callable[[float], str | None]) -> None:
    """Draw an image as `draw_pixels` does, in a thin frame."""
    drawing.draw_pixels(axes, image, colours)
    axes.spines[:].set(visible=True, color=drawing.FRAME)


@figure
def binarisation() -> Figure:
    """Draw a grey digit, thresholded, thrown twice as coins, and the entropy of each coin."""
    grey, rng, blues = grey_digit(), np.random.default_rng(0), colormaps["Blues"]
    figure, axes = canvas(drawing.SLIDE_WIDTH, 150, columns=5)
    drawing.paint(axes[0], grey, levels=256)
    drawing.paint(axes[1], grey > 0.5)
    drawing.paint(axes[2], rng.random(grey.shape) < grey)
    drawing.paint(axes[3], rng.random(grey.shape) < grey)
    bits = stats.bernoulli.entropy(grey) / np.log(2)
    framed(axes[4], bits, lambda value: to_hex(blues(float(value))) if value else None)
    titles = ("grey", "thresholded", "one draw", "another draw", "entropy per pixel")
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
    return figure


@figure
def raster() -> Figure:
    """Draw a binary digit as it appears pixel by pixel in raster order."""
    digit = (grey_digit() > 0.5).ravel()
    figure, axes = canvas(drawing.SLIDE_WIDTH, 205, columns=4)
    for panel, position in zip(axes, (205, 376, 549, 784), strict=True):
        kinds = np.where(np.arange(784) < position, digit, 2)
        kinds[position : position + 1] = 3  # the pixel being drawn
        framed(panel, kinds.reshape(28, 28), {1: INK, 2: PALE, 3: ORANGE}.get)
        panel.set_title(f"$i = {position + 1}$" if position < 784 else "done")
    return figure


def baselines() -> dict[str, float]:
    """Measure what MNIST's test images cost without a network: grey in bits/dim, binary in nats an image.

    One histogram or coin per pixel is counted on the training set, plus one. The floor is the entropy of
    stochastic binarisation.
    """
    train, test = mnist()
    counts = 1 + np.stack([np.bincount(column, minlength=256) for column in train.T])  # (784, 256)
    log_p = np.log2(counts / counts.sum(axis=1, keepdims=True))
    grey, coin = test / 255, (train.sum(axis=0) / 255 + 1) / (len(train) + 2)
    mean = grey.mean(axis=0)
    return {
        "eight_bit_independent": -log_p[np.arange(784), test].mean(),
        "eight_bit_zlib": 8 * len(zlib.compress(test.tobytes(), 9)) / test.size,
        "binary_floor": (special.entr(grey) + special.entr(1 - grey)).sum(axis=1).mean(),
        "binary_independent": -(mean * np.log(coin) + (1 - mean) * np.log1p(-coin)).sum(),
    }


def table_parameters(m: int) -> int:
    """Count the free entries of a probability table over m bits."""
    return 2**m - 1


def fvsbn_parameters(m: int) -> int:
    """Count weights and biases of m logistic regressions, the i-th on i - 1 inputs."""
    return m * (m - 1) // 2 + m


def made_parameters(m: int, hidden: int) -> int:
    """Count weights and biases of a MADE with one hidden layer, masked entries included."""
    return 2 * m * hidden + hidden + m


@figure
def parameter_counts() -> Figure:
    """Draw parameters against the number of bits: a table, logistic conditionals, a MADE."""
    figure, axes = canvas(drawing.HALF_WIDTH + 40, 290)
    m = np.unique(np.logspace(0.3, np.log10(784), 60).astype(int))
    axes.plot(m, m * np.log10(2.0), color=RED)
    axes.plot(m, np.log10(fvsbn_parameters(m)), color=BLUE)
    axes.plot(m, np.log10(made_parameters(m, 500)), color=GREEN)
    axes.axhline(80, color=MUTED, linestyle=":", linewidth=1.6)
    axes.text(2, 86, "atoms in the universe, about", color=MUTED)
    axes.text(600, 205, "table", color=RED, ha="right")
    axes.text(2, 12, "MADE, 500 hidden", color=GREEN)
    axes.text(2, -17, "logistic conditionals", color=BLUE)
    axes.set(xscale="log", xlabel="bits $m$", ylabel="parameters", ylim=(-24, 245))
    drawing.log_ticks(axes.xaxis, 2, 10, 100, 784)
    axes.set_yticks([0, 50, 100, 150, 200], ["1", *(f"$10^{{{k}}}$" for k in (50, 100, 150, 200))])
    return figure


# --- MADE -----------------------------------------------------------------------------------------------


def made(order: tuple[int, ...]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Return seminar 1's masks for two hidden layers of five units, their degrees, and a count of paths.

    `order[k]` is the input drawn k-th, counted from zero. The direct connections are left out. A degree is
    given for each unit from the inputs to the outputs; paths lead from an input (column) to an output (row).
    """
    masks = S1.made_masks(torch.tensor(order), (5, 5))[:-1]
    first, second, last = masks = [mask.int().numpy() for mask in masks]
    own = np.argsort(order) + 1
    degrees = [own, first.sum(axis=1), (second @ first > 0).sum(axis=1), own]  # hidden: inputs that reach it
    return masks, degrees, last @ second @ first


def draw_grid(axes: Axes, **line: object) -> None:
    """Draw lines between the pixels of an image."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(MultipleLocator(offset=0.5))
    axes.tick_params(which="minor", length=0)
    axes.grid(which="minor", **line)


def draw_matrix(
    axes: Axes, matrix: np.ndarray, rows: Sequence = (), columns: Sequence = (), numbers: bool = False
) -> None:
    """Draw a small non-negative matrix: empty entries pale, others dark, with their values if wanted."""
    drawing.draw_pixels(axes, matrix > 0, {False: PALE, True: BLUE}.get)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    draw_grid(axes, color="white", linewidth=2)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(matrix if numbers else np.empty((0, 0))):
        axes.text(column, row, value, ha="center", va="center", color="white" if value else MUTED)


def lost_pairs(m: int, hidden: int) -> tuple[int, int, int]:
    """Count, without direct connections: different hidden degrees, allowed pairs, those without a path."""
    into_hidden, into_output, allowed = S1.made_masks(torch.arange(m), (hidden,))
    paths = into_output.float() @ into_hidden.float()  # (m, m)
    degrees = len(into_hidden.sum(dim=1).unique())
    return degrees, int(allowed.sum()), int((allowed & (paths == 0)).sum())


@figure
def made_network() -> Figure:
    """Draw a MADE from its degrees, beside its three masks."""
    figure, axes = canvas(drawing.SLIDE_WIDTH, 275, columns=4, width_ratios=[2.2, 0.8, 1, 1])
    masks, layers, _ = made(NATURAL_ORDER)
    across = [np.arange(len(layer)) - (len(layer) - 1) / 2 for layer in layers]
    network, circle = axes[0], {"markersize": 24, "markerfacecolor": "white", "markeredgewidth": 2.2}
    network.set_axis_off()
    for depth, mask in enumerate(masks):
        for row, column in np.argwhere(mask):
            ends = [across[depth][column], across[depth + 1][row]]
            network.plot(ends, [depth, depth + 1], color="#8fa3b5", linewidth=1.5, zorder=1)
    for depth, layer in enumerate(layers):
        edge = BLUE if depth in (0, 3) else ORANGE
        network.plot(across[depth], [depth] * len(layer), "o", markeredgecolor=edge, zorder=2, **circle)
        for x, degree in zip(across[depth], layer, strict=True):
            network.text(x, depth - 0.01, degree, ha="center", va="center_baseline", zorder=3)
    for unit, x in enumerate(across[0], start=1):
        network.text(x, -0.3, f"$x_{unit}$", ha="center", va="top", fontsize=18)
        network.text(x, 3.3, rf"$\hat{{x}}_{unit}$", ha="center", va="bottom", fontsize=18)
    network.set(xlim=(-2.4, 2.4), ylim=(-0.5, 3.55))
    for depth, mask in enumerate(masks, start=1):
        draw_matrix(axes[depth], mask, layers[depth], layers[depth - 1])
        axes[depth].set(title=f"$M^{depth}$", xlabel="from", ylabel="to" if depth == 1 else "")
    return figure


@figure
def mask_product() -> Figure:
    """Draw the product of the masks, which counts paths, for the natural order and another one."""
    figure, axes = canvas(drawing.HALF_WIDTH, 190, columns=2)
    inputs, outputs = ([f"${name}_{unit}$" for unit in range(1, 5)] for name in ("x", r"\hat{x}"))
    for panel, order in zip(axes, (NATURAL_ORDER, OTHER_ORDER), strict=True):
        _, degrees, paths = made(order)
        draw_matrix(panel, paths, outputs, inputs, numbers=True)
        panel.tick_params(labelsize=17)
        panel.set_title(f"degrees {', '.join(map(str, degrees[0]))}")
    return figure


def sample_in_order(joint: np.ndarray, model_order: Sequence[int], loop_order: Sequence[int]) -> np.ndarray:
    """Return the exact distribution of a sampling loop over bits.

    The model holds the true conditionals of `joint`, one axis a bit, in `model_order`; the loop visits the
    bits in `loop_order`, starts from zeros, and feeds whatever it has drawn so far.
    """
    drawn = np.ones_like(joint)
    for step, bit in enumerate(loop_order):
        place = model_order.index(bit)
        known = joint.sum(axis=tuple(model_order[place + 1 :]), keepdims=True)
        conditional = known / known.sum(axis=bit, keepdims=True)  # of the bit, given those before it
        for other in set(model_order[:place]) & set(loop_order[step:]):
            conditional = conditional.take([0], axis=other)  # not yet drawn: read as zero
        drawn = drawn * conditional
    return drawn


@figure
def wrong_order() -> Figure:
    """Draw the exact distributions of one model sampled in its own order and in raster order."""
    right, wrong = (sample_in_order(THREE_BITS, [2, 0, 1], loop).ravel() for loop in ([2, 0, 1], [0, 1, 2]))
    figure, axes = canvas(drawing.HALF_WIDTH + 30, 225)
    axes.bar(np.arange(8) - 0.2, right, 0.4, color=BLUE, label="loop follows the order 3, 1, 2")
    axes.bar(np.arange(8) + 0.2, wrong, 0.4, color=RED, label="loop runs 1, 2, 3")
    axes.set_xticks(range(8), [f"{state:03b}" for state in range(8)])
    axes.set(xlabel="$x_1x_2x_3$", ylabel="probability", ylim=(0, 0.72), yticks=[0, 0.2, 0.4])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.06))
    return figure


@figure
def made_samples() -> Figure:
    """Draw test digits and a trained MADE's samples, its loop in the right and in the wrong order."""
    stored, rows = np.load(FOLDER / "made_samples.npz"), ("test", "own_order", "raster_order")
    digits, right, wrong = (stored[row].reshape(-1, 28, 28) for row in rows)
    return drawing.digits({"data": digits, "right": right, "wrong": wrong}, drawing.SLIDE_WIDTH, 170)


# --- WaveNet --------------------------------------------------------------------------------------------


def signal_to_noise(amplitude: float, companded: bool) -> float:
    """Return the signal-to-noise ratio in dB of a sine of the given amplitude in 256 levels."""
    x = amplitude * torch.sin(torch.linspace(0, 2 * torch.pi * 41, 20_001, dtype=torch.float64)[:-1])
    levels = S1.inverse_mu_law(S1.round_to_levels(S1.mu_law(x))) if companded else S1.round_to_levels(x)
    return 10 * torch.log10(x.square().mean() / (levels - x).square().mean()).item()


@figure
def mu_law_curve() -> Figure:
    """Draw the mu-law curve with 16 of its levels, and the noise it leaves at every loudness."""
    figure, (left, right) = canvas(drawing.SLIDE_WIDTH, 185, columns=2)
    x, levels = torch.linspace(-1, 1, 801), (torch.arange(16) + 0.5) / 8 - 1
    amplitudes, thin = S1.inverse_mu_law(levels), {"color": PALE, "linewidth": 1.1, "zorder": 0}
    left.hlines(levels, -1, amplitudes, **thin)
    left.vlines(amplitudes, -1, levels, **thin)
    left.plot(x, S1.mu_law(x), color=BLUE)
    left.set(xlabel="amplitude $x$", xlim=(-1, 1), xticks=[-1, 0, 1])
    left.set(ylabel="companded $y$", ylim=(-1, 1), yticks=[-1, 0, 1])
    decibels = np.linspace(-60, 0, 41)
    for companded, colour in ((True, BLUE), (False, RED)):
        ratios = [signal_to_noise(10 ** (level / 20), companded) for level in decibels]
        right.plot(decibels, ratios, color=colour)
    right.text(-58, 37, "μ-law, 8 bits", color=BLUE)
    right.text(-27, 10, "linear, 8 bits", color=RED)
    right.set(xlabel="loudness of a sine, dB", ylabel="signal to noise, dB", ylim=(-12, 55))
    return figure


def receptive_field(kernel: int, layers: int, blocks: int = 1) -> int:
    """Count the inputs that an output sees through `blocks` stacks of dilations 1, 2, 4, …, 2^(layers-1)."""
    return 1 + blocks * (kernel - 1) * (2**layers - 1)


@figure
def dilated_tree() -> Figure:
    """Draw four causal layers of dilation 1, 2, 4, 8: the last output sees sixteen inputs."""
    figure, axes = canvas(drawing.SLIDE_WIDTH, 205)
    axes.set_axis_off()
    t, dilations, circle = np.arange(16), (1, 2, 4, 8), {"markersize": 13, "zorder": 3}
    for layer, dilation in enumerate(dilations):
        axes.text(-0.7, layer + 1, f"dilation {dilation}", ha="right", va="center")
        for back in (0, dilation):
            ends = [t[: 16 - back], t[back:]]
            axes.plot(ends, [[layer], [layer + 1]], color=PALE, linewidth=1, zorder=1)
    axes.text(-0.7, 0, "samples", ha="right", va="center")
    reached = S1.draw_receptive_field(axes, dilations, 16, color=BLUE, linewidth=2, zorder=2)
    for layer, instants in enumerate(reached):
        face = ORANGE if layer == 4 else BLUE
        axes.plot(t, [layer] * 16, "o", markerfacecolor="white", markeredgecolor="#9fb0bf", **circle)
        for instant in instants:
            axes.plot(instant, layer, "o", markerfacecolor=face, markeredgecolor=BLUE, **circle)
    axes.annotate("", (16.6, 0), (16.6, 4), arrowprops={"arrowstyle": "<-", "color": ORANGE, "linewidth": 2})
    axes.text(16.8, 2, "fed back\nas the next\nsample", color=BROWN, va="center")
    axes.set(xlim=(-3.4, 19.2), ylim=(-0.4, 4.4))
    return figure


@figure
def string_played() -> Figure:
    """Draw a plucked string of the data and one that a WaveNet draws."""
    stored = np.load(FOLDER / "wavenet_samples.npz")
    figure, axes = canvas(drawing.SLIDE_WIDTH, 165, rows=2, sharex=True, sharey=True)
    for panel, name, wave in zip(axes, ("data", "WaveNet"), (stored["data"], stored["drawn"]), strict=True):
        panel.plot(wave, color=BLUE if name == "data" else ORANGE, linewidth=1.6)
        panel.set(ylabel=name, xlim=(0, 255), ylim=(0, 63), yticks=[0, 63])
    axes[-1].set_xlabel("sample")
    return figure


@figure
def cached_sampling() -> Figure:
    """Draw the work per generated sample, naive against cached, for L layers of kernel 2."""
    figure, axes = canvas(drawing.HALF_WIDTH, 240)
    layers = np.arange(1, 13)
    axes.plot(layers, 2.0**layers - 1, "o-", color=RED)
    axes.plot(layers, layers, "o-", color=BLUE)
    axes.text(8.2, 700, "naive: $2^L-1$", color=RED, ha="right")
    axes.text(12, 4.0, "cached: $L$", color=BLUE, ha="right", va="center")
    axes.set(yscale="log", xlabel="layers $L$", ylabel="units per sample", xticks=[1, 4, 8, 12])
    return figure


# --- PixelCNN -------------------------------------------------------------------------------------------


@figure
def mask_kernels() -> Figure:
    """Draw the two kernel masks of PixelCNN, 5 by 5."""
    figure, axes = canvas(drawing.HALF_WIDTH, 190, columns=2)
    for panel, kind in zip(axes, "AB", strict=True):
        draw_matrix(panel, S2.MaskedConv2d(kind, 1, 1, 5).mask[0, 0].int().numpy(), numbers=True)
        panel.add_patch(Rectangle((1.5, 1.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=3, zorder=5))
        panel.set_title(f"mask {kind}")
    return figure


def positive(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to 0.1, so that no two paths cancel."""
    for parameter in layer.double().parameters():
        nn.init.constant_(parameter, 0.1)
    return layer


def one_stack(image: Tensor, layers: int = 10) -> Tensor:
    """Pass an image (1, 1, H, W) through masked 3 by 3 convolutions."""
    for kind in "A" + "B" * (layers - 1):
        image = positive(S2.MaskedConv2d(kind, 1, 1, 3))(image)
    return image


def two_stacks(image: Tensor, layers: int = 10) -> Tensor:
    """Pass an image (1, 1, H, W) through the two stacks of a gated PixelCNN with kernels 3 wide."""
    vertical = horizontal = image
    for kind in "A" + "B" * (layers - 1):
        vertical, horizontal = positive(S2.GatedLayer(kind, 1, 1, 3))(vertical, horizontal)
    return horizontal


def seen_by(network: Callable[[Tensor], Tensor], size: int = 13) -> tuple[np.ndarray, np.ndarray]:
    """Measure by gradients which pixels reach one output, in the lower middle of a square image.

    Returns which are seen, and how many pixels each comes after the output in raster order, (size, size)
    both: a negative one precedes it.
    """
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    row, column = size - 4, size // 2
    network(image)[0, 0, row, column].backward()
    after = np.arange(size * size).reshape(size, size) - (row * size + column)
    return (image.grad[0, 0] != 0).numpy(), after


@figure
def blind_spot() -> Figure:
    """Draw the pixels that reach one output, measured by gradients: one stack against two."""
    figure, axes = canvas(drawing.SLIDE_WIDTH * 0.66, 285, columns=2)
    figure.get_layout_engine().set(wspace=0.08)
    axes[0].set_title("masked convolutions, 10 layers")
    axes[1].set_title("two stacks, 10 layers")
    for panel, network in zip(axes, (one_stack, two_stacks), strict=True):
        seen, after = seen_by(network)
        kinds = np.select([after == 0, seen, after < 0], [3, 1, 2])
        framed(panel, kinds, {1: BLUE, 2: RED, 3: ORANGE}.get)
        draw_grid(panel, color=drawing.FRAME, linewidth=0.8)
    return figure


@figure
def pixelcnn_samples() -> Figure:
    """Draw samples of MADE, of PixelCNN and of the gated 8-bit PixelCNN, and grey test digits."""
    stored = np.load(FOLDER / "pixelcnn_samples.npz")
    rows = {
        "MADE": np.load(FOLDER / "made_samples.npz")["own_order"],
        "PixelCNN": stored["binary_samples"],
        "data, 8 bits": stored["test"] / 255,
        "gated, 8 bits": stored["grey_samples"] / 255,
    }
    images = {name: row.reshape(-1, 28, 28) for name, row in rows.items()}
    return drawing.digits(images, drawing.SLIDE_WIDTH, 203)


def shipped_numbers() -> dict[str, dict[str, float]]:
    """Return what was measured of the networks whose samples are shown."""
    pixelcnn, string = (np.load(FOLDER / f"{name}_samples.npz") for name in ("pixelcnn", "wavenet"))
    bits = pixelcnn["grey_nats"] / (784 * np.log(2))
    return {
        "pixelcnn": {
            "nats": round(float(pixelcnn["binary_nats"]), 1),
            "parameters": int(pixelcnn["binary_parameters"]),
            "hours": round(float(pixelcnn["binary_hours"]), 1),
        },
        "gated": {"bits": round(float(bits), 2), "hours": round(float(pixelcnn["grey_hours"]), 1)},
        "string": {name: round(float(string[name]), 2) for name in ("nats", "floor")},
    }


@figure
def logistic_bins() -> Figure:
    """Draw a mixture of two logistics cut into 256 bins; the last bin takes the whole tail."""
    weights, means, scales = torch.tensor([[0.55, 0.45], [-0.35, 0.93], [0.09, 0.05]], dtype=torch.float64)
    parameters = torch.cat([weights.log(), means, scales.log()])[None]
    masses = S2.DiscretizedLogisticMixture(2).table(parameters)[0].exp().numpy()
    figure, (left, right) = canvas(drawing.SLIDE_WIDTH, 180, columns=2, width_ratios=[1.5, 1])
    left.bar(np.arange(255), masses[:255], width=1.0, color=BLUE)
    left.bar(255, masses[255], width=1.6, color=ORANGE)
    top, arrow = masses[255], {"arrowstyle": "->", "color": BROWN}
    text = {"color": BROWN, "ha": "right", "va": "center", "arrowprops": arrow}
    left.annotate("value 255 takes\nthe whole right tail", (254, 0.92 * top), (222, 0.8 * top), **text)
    left.set(xlabel="pixel value", ylabel="probability", xticks=[0, 64, 128, 192, 255], xlim=(-4, 259))
    loc, scale = (1 + means[1]) * 127.5, scales[1] * 127.5  # from [-1, 1] to pixel values
    x, edge, last = np.linspace(198, 300, 400), 254.5, stats.logistic(loc, scale)
    right.plot(x, last.pdf(x), color=INK, linewidth=1.8)
    for part, colour, alpha in ((x[x <= edge], BLUE, 0.35), (x[x >= edge], ORANGE, 0.8)):
        right.fill_between(part, last.pdf(part), color=colour, alpha=alpha)
    right.axvline(edge, color=MUTED, linewidth=1.2, linestyle="--")
    right.text(257, 0.0375, "254.5: the last\nbin begins", color=MUTED, va="center")
    drawing.hide_left(right)
    label = "pixel value, one component before cutting"
    right.set(xlabel=label, xlim=(198, 300), ylim=(0, 0.0425), xticks=[225, 255, 285])
    return figure


# --- Attention ------------------------------------------------------------------------------------------


def attention_masks(m: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which inputs (columns) each output (row) attends to, (m, m) both: all before it, and fewer.

    The sparse pattern joins the two of Child and others (2019): the last `stride` positions, and each
    `stride`-th before. An output may attend to its own place, since inputs are shifted by one.
    """
    back = np.arange(m)[:, None] - np.arange(m)  # (m, m): how far back the input lies
    return back >= 0, (back >= 0) & ((back < stride) | (back % stride == 0))


@figure
def causal_attention() -> Figure:
    """Draw dense and sparse causal attention for sixteen positions."""
    figure, axes = canvas(drawing.HALF_WIDTH, 170, columns=2)
    for panel, mask, title in zip(axes, attention_masks(16, 4), ("dense", "sparse"), strict=True):
        draw_matrix(panel, mask.astype(int))
        panel.set(title=title, xlabel="input $s$")
    axes[0].set_ylabel("output $t$")
    return figure


# --- Numbers on slides ----------------------------------------------------------------------------------


def averaged_logits_total() -> float:
    """Return the sum over two bits of the product of Bernoullis with logits averaged over both orders."""
    joint = np.array([[0.45, 0.05], [0.05, 0.45]])
    first = np.log(joint[1].sum() / joint[0].sum())  # logit of a bit drawn first
    second = np.log(joint[1] / joint[0])  # logit of a bit drawn second, indexed by the other bit
    one = special.expit((first + second) / 2)
    factor = np.stack([1 - one, one])  # (bit, other bit)
    return (factor * factor.T).sum()


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    cost, field = baselines(), receptive_field(2, 10, blocks=3)
    bias = {"formula": round(-1 / 6, 3), "simulated": round(uniform_maxima(5).mean() - 1, 3)}
    seen, after = seen_by(one_stack)
    degrees, allowed, lost = lost_pairs(784, 500)
    return shipped_numbers() | {
        "eight_bit_independent": round(cost["eight_bit_independent"], 2),
        "eight_bit_zlib": round(cost["eight_bit_zlib"], 3),
        "binary_floor": round(cost["binary_floor"], 1),
        "binary_independent": round(cost["binary_independent"], 1),
        "eighty_nats_in_bits": round(80 / (784 * np.log(2)), 3),
        "cifar_gain_nats": round((3.14 - 2.92) * 3072 * np.log(2)),
        "uniform_mle_n5": bias,
        "table_bits_784_digits": len(str(table_parameters(784))),
        "fvsbn_784": fvsbn_parameters(784),
        "made_784_500": made_parameters(784, 500),
        "made_784_500_direct": made_parameters(784, 500) + 784**2,
        "made_500_degrees": degrees,
        "made_500_lost": lost,
        "made_allowed_pairs": allowed,
        "attention_dense_millions": round(attention_masks(3072, 55)[0].sum() / 1e6, 1),
        "made_784_8000": made_parameters(784, 8000),
        "receptive_field_10": receptive_field(2, 10),
        "receptive_field_3x10": field,
        "receptive_field_seconds": round(field / 16_000, 2),
        "averaged_logits_total": round(averaged_logits_total(), 4),
        "made_nats": round(float(np.load(FOLDER / "made_samples.npz")["nats"]), 1),
        "wrong_order_111": round(sample_in_order(THREE_BITS, [2, 0, 1], [0, 1, 2])[1, 1, 1], 3),
        "mask_paths_4_1": int(made(NATURAL_ORDER)[2][3, 0]),
        "blind_pixels": int((~seen & (after < 0)).sum()),
        "mu_law_snr_quiet": round(signal_to_noise(0.01, companded=True)),
        "linear_snr_quiet": round(signal_to_noise(0.01, companded=False)),
    }
