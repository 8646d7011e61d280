"""Draw the figures of lecture 1 and compute the numbers that its slides print.

    python -m lectures.drawing lecture1 [FOLDER]

Everything is exact, simulated with a fixed seed, or measured on MNIST here; nothing is copied by hand.
The numbers go to `numbers.json`, which the deck reads.
"""

from __future__ import annotations

import zlib
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import special, stats
from sklearn.datasets import make_moons

from dgm_utils import data
from lectures.drawing import HALF_WIDTH, INK, MUTED, PALETTE, SLIDE_WIDTH, canvas, draw_pixels, figure
from tools import definitions

FOLDER = Path(__file__).parent / "figures"
BLUE, ORANGE, GREEN, RED = (PALETTE[name] for name in ("blue", "orange", "green", "red"))
PALE = "#dfe7ee"
SEMINAR = Path(__file__).resolve().parents[2] / "seminars" / "seminar1" / "seminar1.ipynb"
NATURAL_ORDER, OTHER_ORDER = (0, 1, 2, 3), (1, 3, 0, 2)


# --- Motivation and maximum likelihood ------------------------------------------------------------------


@figure
def density_and_samples() -> Figure:
    """Draw data, a density fitted to them (a kernel estimate), and new points drawn from it."""
    points, _ = make_moons(400, noise=0.08, random_state=0)
    model = stats.gaussian_kde(points.T, bw_method=0.15)
    figure, axes = canvas(SLIDE_WIDTH, 205, columns=3, sharex=True, sharey=True)
    x, y = np.meshgrid(np.linspace(-1.6, 2.6, 160), np.linspace(-1.1, 1.6, 110))
    density = model(np.stack([x.ravel(), y.ravel()])).reshape(x.shape)
    axes[0].plot(*points.T, ".", color=BLUE, markersize=4)
    axes[1].contourf(x, y, density, levels=9, cmap="Blues")
    axes[2].plot(*model.resample(400, seed=1), ".", color=ORANGE, markersize=4)
    titles = (
        r"given: samples of $\pi(x)$",
        r"wanted: a density $p(x\,|\,\theta)$",
        r"and new samples $x\sim p(x\,|\,\theta)$",
    )
    for panel, title in zip(axes, titles, strict=True):
        panel.set(title=title, xticks=[], yticks=[])
        panel.set_aspect("equal")
    return figure


def bimodal(x: np.ndarray) -> np.ndarray:
    """Evaluate the data density of the cross-entropy figure, a mixture of two normals."""
    return 0.65 * stats.norm.pdf(x, -1.2, 0.6) + 0.35 * stats.norm.pdf(x, 1.8, 0.8)


def cross_entropy_curve(means: np.ndarray, scale: float = 1.6) -> tuple[float, np.ndarray]:
    """Return the entropy of `bimodal` and its cross-entropy against normals of the given means, in nats."""
    x = np.linspace(-12, 12, 8001)
    data = bimodal(x)
    entropy = -np.trapezoid(np.where(data > 0, data * np.log(np.maximum(data, 1e-300)), 0.0), x)
    return entropy, np.array([-np.trapezoid(data * stats.norm.logpdf(x, mean, scale), x) for mean in means])


@figure
def kl_is_the_gap() -> Figure:
    """Draw normals against a bimodal density: negative log-likelihood = entropy + KL."""
    means = np.linspace(-3, 3, 121)
    entropy, cross_entropy = cross_entropy_curve(means)
    best = means[cross_entropy.argmin()]
    x = np.linspace(-5, 5, 400)
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2)
    left.fill_between(x, bimodal(x), color=PALE)
    left.annotate(r"data $\pi(x)$", (-1.25, 0.36), (-4.9, 0.40), color=INK, va="center")
    for mean, colour in ((best, GREEN), (-2.0, ORANGE), (2.0, RED)):
        left.plot(x, stats.norm.pdf(x, mean, 1.6), color=colour)
    left.set(xlabel="$x$", yticks=[], ylim=(0, 0.46))
    left.spines["left"].set_visible(False)
    right.plot(means, cross_entropy, color=BLUE)
    right.axhline(entropy, color=INK, linestyle="--", linewidth=1.6)
    for mean, colour in ((best, GREEN), (-2.0, ORANGE), (2.0, RED)):
        value = np.interp(mean, means, cross_entropy)
        right.plot([mean, mean], [entropy, value], color=colour, linewidth=1.8)
        right.plot(mean, value, "o", color=colour, markersize=8)
    right.annotate(
        r"entropy of $\pi$: the floor", (3, entropy), (3.0, entropy - 0.19), ha="right", va="center"
    )
    right.annotate("KL", (2.1, entropy + 0.5), color=RED, va="center")
    right.set(
        xlabel=r"$\mu$ of the model $\mathcal{N}(\mu,\,1.6^2)$", ylabel="nats", ylim=(entropy - 0.4, None)
    )
    return figure


def simulate_uniform_mle(n: int, theta: float = 1.0, repeats: int = 40_000, seed: int = 0) -> np.ndarray:
    """Draw `repeats` data sets of n points from U[0, theta]; return their maximum likelihood estimates."""
    return np.random.default_rng(seed).uniform(0, theta, (repeats, n)).max(axis=1)


@figure
def uniform_mle() -> Figure:
    """Draw the maximum of n uniforms: its distribution for n = 5, and its bias against n."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2)
    estimates = simulate_uniform_mle(5)
    t = np.linspace(0, 1, 200)
    left.hist(estimates, bins=50, density=True, color=PALE, label="40,000 simulated data sets")
    left.plot(t, 5 * t**4, color=BLUE, label=r"density $n\,t^{n-1}/\theta^n$")
    left.axvline(5 / 6, color=ORANGE, linestyle="--", linewidth=2)
    left.text(
        5 / 6 - 0.015,
        4.6,
        r"mean $\frac{n}{n+1}\theta$",
        color="#9a6700",
        ha="right",
        va="center",
        fontsize=17,
    )
    left.set(xlabel=r"$\hat\theta$   ($n=5$, $\theta=1$)", yticks=[], xlim=(0, 1.02), ylim=(0, 5.4))
    left.spines["left"].set_visible(False)
    left.legend(loc="upper left", bbox_to_anchor=(-0.02, 0.8))
    sizes = np.array([1, 2, 3, 5, 8, 13, 20, 35, 60, 100])
    measured = np.array([simulate_uniform_mle(n, repeats=4_000).mean() - 1 for n in sizes])
    right.plot(sizes, -1 / (sizes + 1), color=BLUE, label=r"$-\theta/(n+1)$")
    right.plot(sizes, measured, "o", color=ORANGE, label="simulated")
    right.axhline(0, color=MUTED, linewidth=0.9)
    right.set(xscale="log", xlabel="$n$", ylabel="bias", xticks=[1, 10, 100], xticklabels=["1", "10", "100"])
    right.legend(loc="lower right")
    return figure


def softmax(logits: np.ndarray) -> np.ndarray:
    """Normalise the exponentials of a vector."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def fit_histogram(
    values: np.ndarray, bins: int, steps: int, rate: float, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a softmax histogram by stochastic gradients; return its probabilities and the loss of each step."""
    rng = np.random.default_rng(0)
    logits, losses = np.zeros(bins), []
    frequencies = np.bincount(values, minlength=bins) / len(values)
    for _ in range(steps):
        seen = np.bincount(rng.choice(values, batch), minlength=bins) / batch
        logits -= rate * (softmax(logits) - seen)
        losses.append(-(frequencies * np.log(softmax(logits))).sum())
    return softmax(logits), np.array(losses)


@figure
def histogram_fit() -> Figure:
    """Draw a histogram learned by gradient descent: it meets the frequencies, its loss the entropy."""
    rng = np.random.default_rng(3)
    values = np.clip(
        np.where(rng.random(4000) < 0.6, rng.normal(5, 1.6, 4000), rng.normal(14, 2.2, 4000)), 0, 19
    ).astype(int)
    frequencies = np.bincount(values, minlength=20) / len(values)
    learned, losses = fit_histogram(values, 20, steps=600, rate=1.0, batch=200)
    figure, (left, right) = canvas(SLIDE_WIDTH, 165, columns=2)
    left.bar(np.arange(20), frequencies, color=PALE, width=0.9, label="frequencies")
    left.plot(np.arange(20), learned, "o", color=BLUE, markersize=6, label="softmax after 600 steps")
    left.set(xlabel="bin", yticks=[], ylim=(0, 0.19))
    left.spines["left"].set_visible(False)
    left.legend(loc="upper right", bbox_to_anchor=(1.03, 1.12))
    positive = frequencies[frequencies > 0]
    right.plot(losses, color=BLUE)
    right.axhline(-(positive * np.log(positive)).sum(), color=INK, linestyle="--", linewidth=1.6)
    right.text(
        600, -(positive * np.log(positive)).sum() - 0.035, "entropy of the frequencies", ha="right", va="top"
    )
    right.set(xlabel="step", ylabel="nats", ylim=(2.35, 3.02))
    return figure


# --- Binary images --------------------------------------------------------------------------------------


def bernoulli_entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in nats of coins that show one with probability p."""
    return stats.entropy(np.stack([p, 1 - p]), axis=0)


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's 60,000 training and 10,000 test images, uint8 (N, 784)."""
    splits = data.load_images("mnist")
    train, test = (
        np.concatenate([part.images.numpy() for part in parts]) for parts in (splits[:2], splits[2:])
    )
    return train.reshape(len(train), -1), test.reshape(len(test), -1)


def grey_digit() -> np.ndarray:
    """Return the first test digit that is a two, (28, 28) in [0, 1]."""
    return mnist()[1][1].reshape(28, 28) / 255


def show_pixels(axes: Axes, image: np.ndarray, title: str, cmap: str = "gray_r") -> None:
    """Show an image with values in [0, 1], zero left white, in a thin frame."""
    shades = colormaps[cmap]
    draw_pixels(axes, image, lambda value: to_hex(shades(float(value))) if value else None)
    frame(axes, title)


def frame(axes: Axes, title: str) -> None:
    """Draw a thin frame around axes and write a title above."""
    axes.set_title(title)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#c9d3dc")


@figure
def binarisation() -> Figure:
    """Draw a grey digit, thresholded, thrown twice as coins, and the entropy of each coin."""
    grey = grey_digit()
    rng = np.random.default_rng(0)
    figure, axes = canvas(SLIDE_WIDTH, 150, columns=5)
    show_pixels(axes[0], grey, "grey")
    show_pixels(axes[1], grey > 0.5, "thresholded")
    show_pixels(axes[2], rng.random(grey.shape) < grey, "one draw")
    show_pixels(axes[3], rng.random(grey.shape) < grey, "another draw")
    show_pixels(axes[4], bernoulli_entropy(grey) / np.log(2), "entropy per pixel", cmap="Blues")
    return figure


@figure
def raster() -> Figure:
    """Draw a binary digit as it appears pixel by pixel in raster order."""
    digit = grey_digit() > 0.5
    figure, axes = canvas(SLIDE_WIDTH, 205, columns=4)
    order = np.arange(784).reshape(28, 28)
    for panel, position in zip(axes, (205, 376, 549, 783), strict=True):
        kinds = np.where(order < position, digit.astype(int), 2)
        kinds[np.unravel_index(position, (28, 28))] = 3 if position < 783 else digit[27, 27]
        draw_pixels(panel, kinds, {1: INK, 2: PALE, 3: ORANGE}.get)
        frame(panel, f"$i = {position + 1}$" if position < 783 else "done")
    return figure


@cache
def smoothed_independent_bits() -> float:
    """Return bits/dim on the test set of one histogram per pixel, counted on the training set plus one."""
    train, test = mnist()
    pixels = np.arange(784)
    counts = 1 + np.stack([np.bincount(column, minlength=256) for column in train.T])
    log_probabilities = np.log2(counts / counts.sum(axis=1, keepdims=True))
    return float(-log_probabilities[pixels, test].mean())


@cache
def binary_baselines() -> tuple[float, float]:
    """Return the floor of stochastic binarisation and the loss of one coin per pixel, nats per test image."""
    train, test = mnist()
    entropy_of_grey = bernoulli_entropy(np.arange(256) / 255)
    floor = np.bincount(test.ravel(), minlength=256) @ entropy_of_grey / len(test)
    coin = (train.sum(axis=0) / 255 + 1) / (len(train) + 2)
    mean = test.mean(axis=0) / 255
    independent = -(mean * np.log(coin) + (1 - mean) * np.log1p(-coin)).sum()
    return float(floor), float(independent)


# --- Parameter counts -----------------------------------------------------------------------------------


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
    figure, axes = canvas(HALF_WIDTH + 40, 290)
    m = np.unique(np.logspace(0.3, np.log10(784), 60).astype(int))
    axes.plot(m, [np.log10(2.0) * k for k in m], color=RED)
    axes.plot(m, [np.log10(fvsbn_parameters(int(k))) for k in m], color=BLUE)
    axes.plot(m, [np.log10(made_parameters(int(k), 500)) for k in m], color=GREEN)
    axes.axhline(80, color=MUTED, linestyle=":", linewidth=1.6)
    axes.text(2, 86, "atoms in the universe, about", color=MUTED)
    axes.text(600, 205, "table", color=RED, ha="right")
    axes.text(2, 12, "MADE, 500 hidden", color=GREEN)
    axes.text(2, -17, "logistic conditionals", color=BLUE)
    axes.set(
        xscale="log",
        xlabel="bits $m$",
        ylabel="parameters",
        ylim=(-24, 245),
        xticks=[2, 10, 100, 784],
        xticklabels=["2", "10", "100", "784"],
        yticks=[0, 50, 100, 150, 200],
        yticklabels=["1", "$10^{50}$", "$10^{100}$", "$10^{150}$", "$10^{200}$"],
    )
    axes.minorticks_off()
    return figure


# --- MADE -----------------------------------------------------------------------------------------------


@cache
def seminar_masks(order: tuple[int, ...], widths: tuple[int, ...] = (5, 5)) -> list[np.ndarray]:
    """Return the masks that seminar 1 builds, from the first hidden layer to the outputs, as 0 and 1.

    `order[k]` is the input drawn k-th, counted from zero. The direct connections are left out.
    """
    made_masks = definitions.load(SEMINAR, "made_masks").made_masks
    return [mask.int().numpy() for mask in made_masks(torch.tensor(order), widths)[:-1]]


def made_degrees(order: tuple[int, ...]) -> list[np.ndarray]:
    """Return the degrees of inputs, hidden layers and outputs: of a hidden unit, the inputs that reach it."""
    first, second, _ = seminar_masks(order)
    own = np.argsort(order) + 1
    return [own, first.sum(axis=1), (second @ first > 0).sum(axis=1), own]


def path_counts(order: tuple[int, ...]) -> np.ndarray:
    """Return the number of paths from each input (column) to each output (row)."""
    first, second, last = seminar_masks(order)
    return last @ second @ first


@figure
def made_network() -> Figure:
    """Draw a MADE from its degrees, beside its three masks."""
    figure = Figure(figsize=(SLIDE_WIDTH / 72, 275 / 72))
    network, *mask_axes = figure.subplots(1, 4, gridspec_kw={"width_ratios": [2.2, 4 / 5, 1, 1]})
    network.set_axis_off()
    masks, layers = seminar_masks(NATURAL_ORDER), made_degrees(NATURAL_ORDER)
    places = [
        [(unit - (len(layer) - 1) / 2, depth) for unit in range(len(layer))]
        for depth, layer in enumerate(layers)
    ]
    for depth, mask in enumerate(masks):
        for row, column in np.argwhere(mask):
            ends = zip(places[depth][column], places[depth + 1][row], strict=True)
            network.plot(*ends, color="#8fa3b5", linewidth=1.5, zorder=1)
    for depth, layer in enumerate(layers):
        for unit, (degree, (x, y)) in enumerate(zip(layer, places[depth], strict=True)):
            edge = BLUE if depth in (0, 3) else ORANGE
            circle = {"markerfacecolor": "white", "markeredgecolor": edge, "markeredgewidth": 2.2}
            network.plot(x, y, "o", markersize=24, zorder=2, **circle)
            network.text(x, y - 0.01, str(degree), ha="center", va="center_baseline", zorder=3)
            if depth == 0:
                network.text(x, y - 0.3, f"$x_{unit + 1}$", ha="center", va="top", fontsize=18)
            if depth == 3:
                network.text(x, y + 0.3, f"$\\hat{{x}}_{unit + 1}$", ha="center", va="bottom", fontsize=18)
    network.set(xlim=(-2.4, 2.4), ylim=(-0.5, 3.55))
    for axes, mask, depth in zip(mask_axes, masks, (1, 2, 3), strict=True):
        draw_matrix(axes, mask, layers[depth], layers[depth - 1])
        axes.set(title=f"$M^{depth}$", xlabel="from")
    mask_axes[0].set_ylabel("to")
    return figure


def draw_matrix(
    axes: Axes, matrix: np.ndarray, row_names: object, column_names: object, numbers: bool = False
) -> None:
    """Draw a small non-negative matrix: empty entries pale, others dark, with their values if wanted."""
    draw_pixels(axes, matrix > 0, {False: PALE, True: BLUE}.get)
    axes.set_xticks(range(matrix.shape[1]), column_names)
    axes.set_yticks(range(matrix.shape[0]), row_names)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(matrix.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(matrix.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    if numbers:
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if matrix[row, column] else MUTED
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour)


@figure
def mask_product() -> Figure:
    """Draw the product of the masks, which counts paths, for the natural order and another one."""
    figure, axes = canvas(HALF_WIDTH, 190, columns=2)
    inputs, outputs = ([f"${name}_{unit}$" for unit in range(1, 5)] for name in ("x", r"\hat{x}"))
    for panel, order in zip(axes, (NATURAL_ORDER, OTHER_ORDER), strict=True):
        draw_matrix(panel, path_counts(order), outputs, inputs, numbers=True)
        panel.tick_params(labelsize=17)
        panel.set_title(f"degrees {', '.join(map(str, made_degrees(order)[0]))}")
    return figure


def sample_in_order(joint: np.ndarray, model_order: list[int], loop_order: list[int]) -> np.ndarray:
    """Return the exact distribution of a sampling loop over three bits.

    The model holds the true conditionals of `joint` in `model_order`; the loop visits the bits in
    `loop_order`, starts from zeros, and feeds whatever it has drawn so far.
    """
    drawn = np.zeros_like(joint)
    for state in product((0, 1), repeat=3):
        current, probability = [0, 0, 0], 1.0
        for bit in loop_order:
            seen = model_order[: model_order.index(bit)]
            agrees = [s for s in product((0, 1), repeat=3) if all(s[j] == current[j] for j in seen)]
            total = sum(joint[s] for s in agrees)
            probability *= sum(joint[s] for s in agrees if s[bit] == state[bit]) / total
            current[bit] = state[bit]
        drawn[state] = probability
    return drawn


def three_bits() -> np.ndarray:
    """Return a joint table of three bits that almost always agree."""
    joint = np.full((2, 2, 2), 0.08 / 6)
    joint[0, 0, 0] = joint[1, 1, 1] = 0.46
    return joint


@figure
def wrong_order() -> Figure:
    """Draw the exact distributions of one model sampled in its own order and in raster order."""
    joint, model_order = three_bits(), [2, 0, 1]
    figure, axes = canvas(HALF_WIDTH + 30, 225)
    states = ["".join(map(str, state)) for state in product((0, 1), repeat=3)]
    for offset, loop, colour, label in (
        (-0.2, model_order, BLUE, "loop follows the order 3, 1, 2"),
        (0.2, [0, 1, 2], RED, "loop runs 1, 2, 3"),
    ):
        axes.bar(
            np.arange(8) + offset,
            sample_in_order(joint, model_order, loop).ravel(),
            0.4,
            color=colour,
            label=label,
        )
    axes.set_xticks(range(8), states)
    axes.set(xlabel="$x_1x_2x_3$", ylabel="probability", ylim=(0, 0.72), yticks=[0, 0.2, 0.4])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.06))
    return figure


@figure
def made_samples() -> Figure:
    """Draw test digits and a trained MADE's samples, its loop in the right and in the wrong order."""
    stored = np.load(FOLDER / "made_samples.npz")
    figure, rows = canvas(SLIDE_WIDTH, 170, columns=12, rows=3)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for panels, name in zip(rows, ("test", "own_order", "raster_order"), strict=True):
        for panel, digit in zip(panels, stored[name].reshape(-1, 28, 28), strict=True):
            draw_pixels(panel, digit, {True: INK}.get)
            panel.spines[:].set(visible=True, color="#c9d3dc")
        panels[0].set_ylabel({"test": "data", "own_order": "right", "raster_order": "wrong"}[name])
    return figure


# --- WaveNet --------------------------------------------------------------------------------------------


def mu_law(x: np.ndarray, mu: int = 255) -> np.ndarray:
    """Compress amplitudes in [-1, 1] logarithmically."""
    return np.sign(x) * np.log1p(mu * np.abs(x)) / np.log1p(mu)


def mu_law_inverse(y: np.ndarray, mu: int = 255) -> np.ndarray:
    """Undo `mu_law`."""
    return np.sign(y) * np.expm1(np.abs(y) * np.log1p(mu)) / mu


def quantise(y: np.ndarray, levels: int = 256) -> np.ndarray:
    """Round values of [-1, 1] to the middle of one of `levels` equal bins."""
    index = np.clip(np.floor((y + 1) / 2 * levels), 0, levels - 1)
    return (index + 0.5) / levels * 2 - 1


def signal_to_noise(amplitude: float, companded: bool) -> float:
    """Return the signal-to-noise ratio in dB of a sine of the given amplitude after 8-bit quantisation."""
    signal = amplitude * np.sin(np.linspace(0, 2 * np.pi * 41, 20_000, endpoint=False))
    decoded = mu_law_inverse(quantise(mu_law(signal))) if companded else quantise(signal)
    return float(10 * np.log10((signal**2).mean() / ((decoded - signal) ** 2).mean()))


@figure
def mu_law_curve() -> Figure:
    """Draw the mu-law curve with 16 of its levels, and the noise it leaves at every loudness."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 185, columns=2)
    x = np.linspace(-1, 1, 801)
    for level in (np.arange(16) + 0.5) / 8 - 1:
        left.plot(
            [-1, mu_law_inverse(level), mu_law_inverse(level)],
            [level, level, -1],
            color=PALE,
            linewidth=1.1,
            zorder=0,
        )
    left.plot(x, mu_law(x), color=BLUE)
    left.set(
        xlabel="amplitude $x$",
        ylabel="companded $y$",
        xlim=(-1, 1),
        ylim=(-1, 1),
        xticks=[-1, 0, 1],
        yticks=[-1, 0, 1],
    )
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


def measured_receptive_field(kernel: int, layers: int, blocks: int = 1) -> int:
    """Count the inputs with a non-zero gradient at the last output of such a stack with positive weights."""
    length = receptive_field(kernel, layers, blocks) + 50
    signal = torch.ones(1, 1, length, dtype=torch.float64, requires_grad=True)
    hidden, weight = signal, torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64)
    for _ in range(blocks):
        for layer in range(layers):
            hidden = F.conv1d(F.pad(hidden, ((kernel - 1) * 2**layer, 0)), weight, dilation=2**layer)
    hidden[0, 0, -1].backward()
    return int((signal.grad != 0).sum())


@figure
def dilated_tree() -> Figure:
    """Draw four causal layers of dilation 1, 2, 4, 8: the last output sees sixteen inputs."""
    figure, axes = canvas(SLIDE_WIDTH, 205)
    axes.set_axis_off()
    needed = {15}
    for layer in range(4, 0, -1):
        dilation = 2 ** (layer - 1)
        for t in range(16):
            for source in (t, t - dilation):
                if source < 0:
                    continue
                used = t in needed
                axes.plot(
                    [source, t],
                    [layer - 1, layer],
                    color=BLUE if used else PALE,
                    linewidth=2.0 if used else 1.0,
                    zorder=2 if used else 1,
                )
        needed = needed | {t - dilation for t in needed}
        axes.text(-0.7, layer, f"dilation {dilation}", ha="right", va="center")
    axes.text(-0.7, 0, "samples", ha="right", va="center")
    active = {15}
    for layer in range(4, -1, -1):
        for t in range(16):
            face = ORANGE if layer == 4 and t == 15 else BLUE if t in active else "white"
            axes.plot(
                t,
                layer,
                "o",
                markersize=13,
                markerfacecolor=face,
                markeredgecolor=BLUE if t in active else "#9fb0bf",
                zorder=3,
            )
        if layer:
            active = active | {t - 2 ** (layer - 1) for t in active}
    axes.annotate("", (16.6, 0), (16.6, 4), arrowprops={"arrowstyle": "<-", "color": ORANGE, "linewidth": 2})
    axes.text(16.8, 2, "fed back\nas the next\nsample", color="#9a6700", va="center")
    axes.set(xlim=(-3.4, 19.2), ylim=(-0.4, 4.4))
    return figure


@figure
def cached_sampling() -> Figure:
    """Draw the work per generated sample, naive against cached, for L layers of kernel 2."""
    figure, axes = canvas(HALF_WIDTH, 240)
    layers = np.arange(1, 13)
    axes.plot(layers, 2.0**layers - 1, "o-", color=RED)
    axes.plot(layers, layers, "o-", color=BLUE)
    axes.text(8.2, 700, "naive: $2^L-1$", color=RED, ha="right")
    axes.text(12, 4.0, "cached: $L$", color=BLUE, ha="right", va="center")
    axes.set(yscale="log", xlabel="layers $L$", ylabel="units per sample", xticks=[1, 4, 8, 12])
    return figure


# --- PixelCNN -------------------------------------------------------------------------------------------


def pixel_mask(size: int, kind: str) -> np.ndarray:
    """Return a PixelCNN kernel mask: what precedes the centre in raster order, and for kind B the centre."""
    mask = np.zeros((size, size), dtype=int)
    centre = size // 2
    mask[:centre] = 1
    mask[centre, :centre] = 1
    mask[centre, centre] = kind == "B"
    return mask


@figure
def mask_kernels() -> Figure:
    """Draw the two kernel masks of PixelCNN, 5 by 5."""
    figure, axes = canvas(HALF_WIDTH, 190, columns=2)
    for panel, kind in zip(axes, "AB", strict=True):
        draw_matrix(panel, pixel_mask(5, kind), [""] * 5, [""] * 5, numbers=True)
        panel.add_patch(Rectangle((1.5, 1.5), 1, 1, fill=False, edgecolor=ORANGE, linewidth=3, zorder=5))
        panel.set_title(f"mask {kind}")
    return figure


def _convolve(hidden: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    weight = torch.as_tensor(kernel, dtype=torch.float64)[None, None]
    return F.conv2d(hidden, weight / weight.sum().clamp(min=1), padding="same")


def pixelcnn_response(image: torch.Tensor, layers: int = 10) -> torch.Tensor:
    """Pass an image (1, 1, H, W) through masked 3 by 3 convolutions with equal positive weights."""
    hidden = _convolve(image, pixel_mask(3, "A"))
    for _ in range(layers - 1):
        hidden = _convolve(hidden, pixel_mask(3, "B"))
    return hidden


def two_stack_response(image: torch.Tensor, layers: int = 10) -> torch.Tensor:
    """Pass an image (1, 1, H, W) through the two stacks of Gated PixelCNN with equal positive weights."""
    rows_to_here = np.array([[1, 1, 1], [1, 1, 1], [0, 0, 0]])
    left_of_here = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    left_and_here = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]])
    vertical, horizontal = image, image
    for layer in range(layers):
        vertical = _convolve(vertical, rows_to_here)
        above = F.pad(vertical, (0, 0, 1, 0))[:, :, :-1]  # moved down one row: rows strictly above
        horizontal = _convolve(horizontal, left_of_here if layer == 0 else left_and_here) + above
    return horizontal


def seen_by(network: object, size: int = 13) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the pixels with a non-zero gradient at one output (lower middle), and that output's place."""
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    row, column = size - 4, size // 2
    network(image)[0, 0, row, column].backward()
    return (image.grad[0, 0] != 0).numpy(), (row, column)


def blind_pixels(network: object, size: int = 13) -> np.ndarray:
    """Return the pixels that precede the output in raster order and yet do not reach it."""
    seen, (row, column) = seen_by(network, size)
    position = np.arange(size * size).reshape(size, size)
    return (position < row * size + column) & ~seen


@figure
def blind_spot() -> Figure:
    """Draw the pixels that reach one output, measured by gradients: one stack against two."""
    figure, axes = canvas(SLIDE_WIDTH * 0.66, 285, columns=2)
    figure.get_layout_engine().set(wspace=0.08)
    titles = ("masked convolutions, 10 layers", "two stacks, 10 layers")
    for panel, network, title in zip(axes, (pixelcnn_response, two_stack_response), titles, strict=True):
        seen, (row, column) = seen_by(network)
        kinds = np.zeros(seen.shape, dtype=int)
        kinds[seen] = 1
        kinds[blind_pixels(network)] = 2
        kinds[row, column] = 3
        draw_pixels(panel, kinds, {1: BLUE, 2: RED, 3: ORANGE}.get)
        panel.set_xticks(np.arange(14) - 0.5, minor=True)
        panel.set_yticks(np.arange(14) - 0.5, minor=True)
        panel.grid(which="minor", color="#c9d3dc", linewidth=0.8)
        panel.tick_params(which="minor", length=0)
        frame(panel, title)
    return figure


# --- PixelCNN++ -----------------------------------------------------------------------------------------


def discretised_logistic(weights: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the 256 probabilities of a discretised logistic mixture on pixel values scaled to [-1, 1]."""
    centres = np.arange(256) / 127.5 - 1
    upper = stats.logistic.cdf((centres[:, None] + 1 / 255 - means) / scales)
    lower = stats.logistic.cdf((centres[:, None] - 1 / 255 - means) / scales)
    upper[255], lower[0] = 1.0, 0.0
    return (upper - lower) @ weights


@figure
def logistic_bins() -> Figure:
    """Draw a mixture of two logistics cut into 256 bins; the last bin takes the whole tail."""
    weights, means, scales = np.array([0.55, 0.45]), np.array([-0.35, 0.93]), np.array([0.09, 0.05])
    masses = discretised_logistic(weights, means, scales)
    figure, (left, right) = canvas(SLIDE_WIDTH, 180, columns=2, width_ratios=[1.5, 1])
    left.bar(np.arange(255), masses[:255], width=1.0, color=BLUE)
    left.bar([255], masses[255:], width=1.6, color=ORANGE)
    left.annotate(
        "value 255 takes\nthe whole right tail",
        (254, masses[255] * 0.92),
        (222, masses[255] * 0.8),
        color="#9a6700",
        ha="right",
        va="center",
        arrowprops={"arrowstyle": "->", "color": "#9a6700"},
    )
    left.set(xlabel="pixel value", ylabel="probability", xticks=[0, 64, 128, 192, 255], xlim=(-4, 259))
    x = np.linspace(0.55, 1.35, 400)
    right.plot(x, stats.logistic.pdf(x, means[1], scales[1]), color=INK, linewidth=1.8)
    edge = 1 - 1 / 255
    inside, tail = x[x <= edge], x[x >= edge]
    right.fill_between(inside, stats.logistic.pdf(inside, means[1], scales[1]), color=BLUE, alpha=0.35)
    right.fill_between(tail, stats.logistic.pdf(tail, means[1], scales[1]), color=ORANGE, alpha=0.8)
    right.axvline(1, color=MUTED, linewidth=1.2, linestyle="--")
    right.text(1.02, 4.75, "1 is white", color=MUTED)
    right.set(xlabel="one component, before cutting", yticks=[], xlim=(0.55, 1.35), ylim=(0, 5.4))
    right.spines["left"].set_visible(False)
    return figure


# --- Numbers on slides ----------------------------------------------------------------------------------


def averaged_logits_total() -> float:
    """Return the sum over two bits of the product of Bernoullis with logits averaged over both orders."""
    joint = np.array([[0.45, 0.05], [0.05, 0.45]])
    first = np.log(joint[1].sum() / joint[0].sum())  # logit of a bit drawn first
    second = np.log(joint[1] / joint[0])  # logit of a bit drawn second, indexed by the other bit

    def factor(bit: int, other: int) -> float:
        return float(special.expit((1 if bit else -1) * (first + second[other]) / 2))

    return sum(factor(a, b) * factor(b, a) for a, b in product((0, 1), repeat=2))


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    estimates = simulate_uniform_mle(5)
    wrong = sample_in_order(three_bits(), [2, 0, 1], [0, 1, 2])
    binary_floor, binary_independent = binary_baselines()
    test = mnist()[1]
    return {
        "eight_bit_independent": round(smoothed_independent_bits(), 2),
        "eight_bit_zlib": round(8 * len(zlib.compress(test.tobytes(), 9)) / test.size, 3),
        "binary_floor": round(binary_floor, 1),
        "binary_independent": round(binary_independent, 1),
        "eighty_nats_in_bits": round(80 / (784 * np.log(2)), 3),
        "cifar_gain_nats": round((3.14 - 2.92) * 3072 * np.log(2)),
        "uniform_mle_n5": {"formula": round(-1 / 6, 3), "simulated": round(float(estimates.mean() - 1), 3)},
        "table_bits_784_digits": len(str(table_parameters(784))),
        "fvsbn_784": fvsbn_parameters(784),
        "made_784_500": made_parameters(784, 500),
        "made_784_8000": made_parameters(784, 8000),
        "receptive_field_10": receptive_field(2, 10),
        "receptive_field_3x10": receptive_field(2, 10, blocks=3),
        "receptive_field_seconds": round(receptive_field(2, 10, blocks=3) / 16_000, 2),
        "averaged_logits_total": round(averaged_logits_total(), 4),
        "made_nats": round(float(np.load(FOLDER / "made_samples.npz")["nats"]), 1),
        "wrong_order_111": round(float(wrong[1, 1, 1]), 3),
        "mask_paths_4_1": int(path_counts(NATURAL_ORDER)[3, 0]),
        "blind_pixels": int(blind_pixels(pixelcnn_response).sum()),
        "mu_law_snr_quiet": round(signal_to_noise(0.01, companded=True)),
        "linear_snr_quiet": round(signal_to_noise(0.01, companded=False)),
    }
