"""Draw the figures of lecture 3, check what its slides claim, and compute the numbers that they print.

    python -m lectures.drawing lecture3 [FOLDER]

Everything is exact, or simulated with a fixed seed, or read from the arrays that `vae_digits.py` stored.
`check` tests each formula of the deck numerically, and no figure is written if one fails. The numbers go to
`numbers.json`, which the deck reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from scipy import integrate, optimize, special, stats
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA

from dgm_utils import data
from lectures.drawing import (
    BROWN,
    HALF_WIDTH,
    INK,
    MUTED,
    PALE,
    PALETTE,
    SLIDE_WIDTH,
    canvas,
    draw_pixels,
    ellipse,
    figure,
    fixed,
    hide_left,
)
from lectures.lecture2.figures import CURVE_NOISE, curve, curve_joint, ppca_posterior

FOLDER = Path(__file__).parent / "figures"
BLUE, ORANGE, GREEN, RED = (PALETTE[name] for name in ("blue", "orange", "green", "red"))
SKY, PURPLE = PALETTE["sky"], PALETTE["purple"]
PLUM = "#8f4a75"  # purple, dark enough for text


# --- Two gaps: the curved decoder of lecture 2, x ~ N((z, 0.7 z² − 1), 0.09 I), z ~ N(0, 1) ----------------


def curve_bound(x: np.ndarray, mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Return the exact bound on log p(x) with q(z) = N(mean, std²), for points x (..., 2)."""
    variance = np.exp(2 * log_std)
    second, fourth = mean**2 + variance, mean**4 + 6 * mean**2 * variance + 3 * variance**2  # of z under q
    up = x[..., 1] + 1
    square = (x[..., 0] - mean) ** 2 + variance + up**2 - 1.4 * up * second + 0.49 * fourth
    reconstruction = -square / (2 * CURVE_NOISE**2) - np.log(2 * np.pi * CURVE_NOISE**2)
    return reconstruction - (second - 1 - 2 * log_std) / 2


def curve_log_likelihood(x: np.ndarray) -> np.ndarray:
    """Return log p(x) of points (n, 2) by quadrature."""
    z = np.linspace(-7, 7, 2801)
    return np.log(np.trapezoid(curve_joint(x, z), z, axis=1))


def best_gaussian(x: np.ndarray) -> tuple[float, float, float]:
    """Return the bound, the mean and the log of the std of the best Gaussian q for one point x (2,)."""
    fits = [
        optimize.minimize(
            lambda q: -curve_bound(x, q[0], q[1]), [start, -1.5], method="Nelder-Mead", tol=1e-7
        )
        for start in (x[0] - 1, x[0], x[0] + 1)
    ]
    best = min(fits, key=lambda fit: fit.fun)
    return -float(best.fun), *map(float, best.x)


def encoder(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and log std that a small encoder gives: quadratic in x, six weights each."""
    first, second = x[..., 0], x[..., 1]
    terms = (np.ones_like(first), first, second, first**2, first * second, second**2)
    inputs = np.stack(terms, axis=-1)
    return inputs @ weights[:6], inputs @ weights[6:]


@cache
def curve_data(n: int = 2000) -> np.ndarray:
    """Return points drawn from the curved model, (n, 2)."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=n)
    return np.stack([z, 0.7 * z**2 - 1], axis=1) + CURVE_NOISE * rng.normal(size=(n, 2))


@cache
def fitted_encoder() -> np.ndarray:
    """Return the weights of the quadratic encoder with the highest mean bound on the data."""

    def loss(weights: np.ndarray) -> float:
        return -float(curve_bound(curve_data(), *encoder(curve_data(), weights)).mean())

    # Rounded, so that a last digit that depends on the machine moves no curve.
    return optimize.minimize(loss, [0, 1.0, 0, 0, 0, 0, -1.5, 0, 0, 0, 0, 0], method="BFGS").x.round(4)


@cache
def gap_means(n: int = 200) -> tuple[float, float, float]:
    """Return the means over data of log p, of the best Gaussian's bound and of the encoder's bound."""
    x = curve_data()[:n]
    best = np.mean([best_gaussian(point)[0] for point in x])
    return (
        float(curve_log_likelihood(x).mean()),
        float(best),
        float(curve_bound(x, *encoder(x, fitted_encoder())).mean()),
    )


@figure
def two_gaps() -> Figure:
    """Draw log p(x), the best Gaussian bound and the encoder's bound along a line, and one posterior."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 190, columns=2, width_ratios=[1.15, 1])
    heights = np.linspace(-1.5, 1, 51)
    line = np.stack([np.zeros_like(heights), heights], axis=1)
    log_p = curve_log_likelihood(line)
    best = np.array([best_gaussian(point)[0] for point in line]) - log_p
    amortised = curve_bound(line, *encoder(line, fitted_encoder())) - log_p
    left.axhline(0, color=INK)
    left.fill_between(heights, best, 0, color=ORANGE, alpha=0.4, linewidth=0)
    left.fill_between(heights, amortised, best, color=PURPLE, alpha=0.4, linewidth=0)
    left.plot(heights, best, color=BROWN)
    left.plot(heights, amortised, color=PLUM)
    left.text(-1.45, 0.1, r"$\log p(x)$", fontsize=16, va="bottom")
    left.text(-0.55, -0.72, "approximation gap", color=BROWN, va="top", ha="right")
    left.text(-0.55, -2.0, "amortisation gap", color=PLUM, va="top", ha="right")
    left.set(xlabel="$x_2$, along $x_1=0$", ylabel="nats", ylim=(-3.6, 0.6), xlim=(-1.5, 1))
    seen = np.array([0.0, 0.5])
    z = np.linspace(-3, 3, 301)
    posterior = curve_joint(seen[None], z)[0]
    right.fill_between(z, posterior / np.trapezoid(posterior, z), color=PALE)
    right.plot(z, posterior / np.trapezoid(posterior, z), color=INK, label=r"$p(z\,|\,x)$")
    _, mean, log_std = best_gaussian(seen)
    right.plot(z, stats.norm.pdf(z, -abs(mean), np.exp(log_std)), color=BROWN, label=r"best in $\mathcal{Q}$")
    mean, log_std = encoder(seen, fitted_encoder())
    right.plot(z, stats.norm.pdf(z, mean, np.exp(log_std)), color=PLUM, label="encoder")
    right.set(xlabel="$z$", title="at $x=(0,\\,0.5)$", ylim=(0, None), xlim=(-2.4, 3.4))
    right.legend(loc="upper right", borderaxespad=0)
    hide_left(right)
    return figure


# --- Gradients: z ~ N(mean, std² I_d), h(z) = |z|² / 2, derivative by the first coordinate of the mean ------

MEAN, STD, DIMENSION = 1.0, 1.0, 10


def score_variance(d: np.ndarray, mean: float = MEAN, std: float = STD) -> np.ndarray:
    """Return the exact variance of the score-function estimate h(z) (z_1 − mean) / std² from one sample."""
    rest = np.asarray(d) - 1.0
    rest_mean, rest_variance = rest * (mean**2 + std**2) / 2, rest * (mean**2 * std**2 + std**4 / 2)
    own = (mean**4 + 18 * mean**2 * std**2 + 15 * std**4) / 4
    cross = (mean**2 + 3 * std**2) * rest_mean
    return (own + cross + rest_mean**2 + rest_variance) / std**2 - mean**2


def centred_score_variance(d: np.ndarray, mean: float = MEAN, std: float = STD) -> np.ndarray:
    """Return the same with E h subtracted from h, as a baseline."""
    rest_variance = (np.asarray(d) - 1.0) * (mean**2 * std**2 + std**4 / 2)
    own = (mean**4 + 18 * mean**2 * std**2 + 15 * std**4) / 4
    centre = (mean**2 + std**2) / 2
    own = own - centre * (mean**2 + 3 * std**2) + centre**2
    return (own + rest_variance) / std**2 - mean**2


def pathwise_variance(d: np.ndarray, mean: float = MEAN, std: float = STD) -> np.ndarray:
    """Return the variance of the reparametrised estimate z_1: free of d and of the mean."""
    return np.full(np.shape(d), std**2, dtype=float)


def gradient_samples(
    d: int, n: int, mean: float = MEAN, std: float = STD, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return n single-sample estimates: score function, score function with baseline, reparametrised."""
    noise = np.random.default_rng(seed).normal(size=(n, d))
    z = mean + std * noise
    h = (z**2).sum(axis=1) / 2
    baseline = d * (mean**2 + std**2) / 2
    return h * noise[:, 0] / std, (h - baseline) * noise[:, 0] / std, z[:, 0]


@figure
def gradient_clouds() -> Figure:
    """Draw the histograms of single estimates of one derivative, and running means."""
    figure, axes = canvas(SLIDE_WIDTH, 168, columns=3, width_ratios=[1, 1, 1.15])
    score, _, path = gradient_samples(DIMENSION, 20_000)
    bins = np.linspace(-45, 45, 91)
    for panel, values, colour, title in (
        (axes[0], score, RED, "score function"),
        (axes[1], path, BLUE, "reparametrisation"),
    ):
        panel.hist(values, bins=bins, density=True, color=colour, alpha=0.75)
        panel.axvline(MEAN, color=INK, linestyle="--", linewidth=1.6)
        panel.set(title=title, xlabel="one estimate", xlim=(-45, 45))
        panel.text(
            44, panel.get_ylim()[1] * 0.9, f"sd {values.std():.1f}", color=colour, ha="right", va="top"
        )
        hide_left(panel)
    n = np.unique(np.logspace(0, 4, 120).astype(int))
    for values, colour in ((score, RED), (path, BLUE)):
        axes[2].plot(n, values[:10_000].cumsum()[n - 1] / n, color=colour)
    axes[2].axhline(MEAN, color=INK, linestyle="--", linewidth=1.6)
    axes[2].set(xscale="log", xlabel="samples averaged", ylim=(-9, 11), title="running mean")
    axes[2].set_xticks([1, 100, 10_000], ["1", "100", "10,000"])
    axes[2].minorticks_off()
    return figure


def wave_variances(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances for h(z) = sin(k z), z ~ N(0, 1): of the score function, of the reparametrised."""
    k = np.asarray(k, dtype=float)
    square = (k * np.exp(-(k**2) / 2)) ** 2
    score = (1 - (1 - 4 * k**2) * np.exp(-2 * k**2)) / 2 - square
    path = k**2 * (1 + np.exp(-2 * k**2)) / 2 - square
    return score, path


DIMENSIONS = np.array([1, 2, 5, 10, 20, 50, 100, 200])


@figure
def gradient_variance() -> Figure:
    """Draw the exact variances against dimension, against the spread of q, and for a wavy h."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=3)
    d = np.unique(np.logspace(0, np.log10(200), 60).round(3))
    curves = ((score_variance, RED), (centred_score_variance, ORANGE), (pathwise_variance, BLUE))
    simulated = np.array([[values.var() for values in gradient_samples(n, 20_000)] for n in DIMENSIONS]).T
    for (variance, colour), dots in zip(curves, simulated, strict=True):
        axes[0].plot(d, variance(d), color=colour)
        axes[0].plot(DIMENSIONS, dots, "o", color=colour, markersize=6)
    axes[0].text(45, 5e3, "score function", color=RED, ha="right", va="bottom")
    axes[0].text(200, 60, "baseline", color=BROWN, ha="right", va="top")
    axes[0].text(200, 1.3, "reparametrised", color=BLUE, ha="right", va="bottom")
    axes[0].set(xscale="log", yscale="log", title="dimension $d$", ylim=(0.4, 4e4))
    std = np.logspace(-1.5, 0.5, 60)
    for variance, colour in curves:
        axes[1].plot(std, [float(variance(np.array(10), std=s)) for s in std], color=colour)
    axes[1].set(xscale="log", yscale="log", title=r"spread $\sigma$ of $q$, $d=10$")
    k = np.linspace(0.1, 5, 100)
    for values, colour in zip(wave_variances(k), (RED, BLUE), strict=True):
        axes[2].plot(k, values, color=colour)
    axes[2].set(title=r"$h(z)=\sin kz$, against $k$", ylim=(0, 8))
    axes[0].set_ylabel("variance")
    axes[0].set_xticks([1, 10, 100], ["1", "10", "100"])
    axes[1].set_xticks([0.1, 1], ["0.1", "1"])
    axes[0].minorticks_off()
    axes[1].minorticks_off()
    return figure


@figure
def which_reparametrise() -> Figure:
    """Draw z = T(ε, φ) against φ for several ε: normal, exponential, Bernoulli."""
    figure, axes = canvas(SLIDE_WIDTH, 126, columns=3)
    phi = np.linspace(0.02, 2, 100)
    for quantile, colour in zip((0.1, 0.3, 0.5, 0.7, 0.9), (BLUE, SKY, GREEN, ORANGE, RED), strict=True):
        axes[0].plot(phi, 1 + phi * stats.norm.ppf(quantile), color=colour)
        axes[1].plot(phi, -np.log1p(-quantile) / phi, color=colour)
        probability = np.array([0, quantile, quantile, 1])
        axes[2].plot(probability, [0, 0, 1, 1], color=colour)
    axes[0].set(
        title=r"$z=1+\sigma\varepsilon$", xlabel=r"$\sigma$", ylabel="$z$", ylim=(-2, 4), yticks=[-2, 1, 4]
    )
    axes[1].set(
        title=r"$z=-\log(1-\varepsilon)\,/\,\lambda$", xlabel=r"$\lambda$", ylim=(0, 6), yticks=[0, 3, 6]
    )
    axes[2].set(title=r"$z=[\,\varepsilon<\phi\,]$", xlabel=r"$\phi$", yticks=[0, 1], ylim=(-0.1, 1.1))
    return figure


# --- The VAE ----------------------------------------------------------------------------------------------


def box(axes: Axes, centre: tuple[float, float], size: tuple[float, float], text: str, colour: str) -> None:
    """Draw a labelled box."""
    (x, y), (width, height) = centre, size
    corner = (x - width / 2, y - height / 2)
    style = FancyBboxPatch(
        corner, width, height, "round,pad=0,rounding_size=0.12", facecolor=colour, edgecolor=INK
    )
    axes.add_patch(style)
    axes.text(x, y, text, ha="center", va="center", fontsize=16, linespacing=1.25)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = INK, bend: float = 0
) -> None:
    """Draw an arrow between two points."""
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=17,
            color=colour,
            linewidth=1.8,
            connectionstyle=style,
            shrinkA=0,
            shrinkB=0,
        )
    )


@figure
def architecture() -> Figure:
    """Draw the VAE: encoder, noise, code, decoder, the two terms of the bound, and the way of gradients."""
    figure, axes = canvas(SLIDE_WIDTH, 232)
    axes.set(xlim=(0, 15), ylim=(-0.75, 4.0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    box(axes, (0.7, 2.4), (0.9, 0.9), "$x$", PALE)
    box(axes, (3.0, 2.4), (2.2, 1.5), "encoder $\\phi$\nnetwork", "#cfe3f1")
    frame = FancyBboxPatch(
        (4.95, 1.25), 1.9, 2.3, "round,pad=0,rounding_size=0.12", fill=False, edgecolor=MUTED, linestyle="--"
    )
    axes.add_patch(frame)
    axes.text(5.9, 3.62, r"$q(z\,|\,x,\phi)$", ha="center", va="bottom", fontsize=15, color=MUTED)
    box(axes, (5.9, 3.0), (1.5, 0.75), r"$\mu(x)$", PALE)
    box(axes, (5.9, 1.8), (1.5, 0.75), r"$\sigma(x)$", PALE)
    box(axes, (8.6, 2.4), (2.1, 0.9), r"$z=\mu+\sigma\odot\varepsilon$", "#fbe7c3")
    box(axes, (11.4, 2.4), (2.2, 1.5), "decoder $\\theta$\nnetwork", "#cdeee2")
    box(axes, (14.1, 2.4), (1.5, 0.9), "$p(x\\,|\\,z,\\theta)$", PALE)
    axes.add_patch(Circle((8.6, 3.65), 0.3, facecolor="white", edgecolor=INK))
    axes.text(8.6, 3.65, r"$\varepsilon$", ha="center", va="center", fontsize=17)
    axes.text(9.05, 3.65, r"$\sim\mathcal{N}(0,I)$, fresh noise", va="center", fontsize=15)
    for start, end in (
        ((1.15, 2.4), (1.9, 2.4)),
        ((4.1, 2.7), (5.15, 3.0)),
        ((4.1, 2.1), (5.15, 1.8)),
        ((6.65, 3.0), (7.55, 2.6)),
        ((6.65, 1.8), (7.55, 2.2)),
        ((8.6, 3.35), (8.6, 2.85)),
        ((9.65, 2.4), (10.3, 2.4)),
        ((12.5, 2.4), (13.35, 2.4)),
    ):
        arrow(axes, start, end)
    box(axes, (5.9, 0.15), (4.6, 0.75), r"KL$(q(z\,|\,x,\phi)\,\Vert\,p(z))$, exact", "#f6dccb")
    box(axes, (12.4, 0.15), (4.6, 0.75), r"$\log p(x\,|\,z,\theta)$, one sample", "#f6dccb")
    arrow(axes, (5.9, 1.25), (5.9, 0.53))
    arrow(axes, (14.1, 1.95), (14.1, 0.53))
    for start, end in (
        ((13.5, 0.62), (12.0, 1.6)),
        ((10.6, 1.6), (9.0, 1.9)),
        ((8.0, 1.9), (6.75, 1.5)),
        ((5.2, 0.6), (3.6, 1.6)),
    ):
        arrow(axes, start, end, RED, 0.12)
    axes.text(9.15, 1.15, "gradient, through $z$", color=RED, ha="center", fontsize=15)
    axes.text(
        9.15, -0.55, "noise comes in from the side: no gradient has to pass it", color=MUTED, ha="center"
    )
    return figure


def bce_mass(probability: np.ndarray) -> np.ndarray:
    """Return the integral of λ^x (1−λ)^(1−x) over x from 0 to 1."""
    probability = np.asarray(probability, dtype=float)
    tilt = special.logit(probability)
    middle = np.abs(tilt) < 1e-6
    return np.where(middle, 0.5, (2 * probability - 1) / np.where(middle, 1, tilt))


@figure
def bce_grey() -> Figure:
    """Draw how much mass the Bernoulli formula gives to grey values, and its value at a perfect copy."""
    figure, (left, right) = canvas(HALF_WIDTH + 10, 172, columns=2)
    probability = np.linspace(0.001, 0.999, 400)
    left.plot(probability, bce_mass(probability), color=RED)
    left.axhline(1, color=INK, linestyle="--", linewidth=1.6)
    left.text(0.5, 0.96, "a density: 1", ha="center", va="top")
    left.set(xlabel=r"$\lambda$", ylim=(0, 1.08), title="mass on $[0,1]$", xticks=[0, 0.5, 1])
    for x, colour in ((0.0, BLUE), (0.3, GREEN), (0.6, ORANGE)):
        loss = -special.xlogy(x, probability) - special.xlog1py(1 - x, -probability)
        right.plot(probability, loss, color=colour)
        right.plot(x, special.entr(x) + special.entr(1 - x), "o", color=colour, markersize=9)
    for x, height, colour in ((0, 1.84, BLUE), (0.3, 1.5, GREEN), (0.6, 1.16, BROWN)):
        right.text(0.42, height, f"$x={x:g}$", color=colour, ha="center", va="center")
    right.set(xlabel=r"$\lambda$", ylim=(0, 2), title="BCE, nats", xticks=[0, 0.5, 1])
    return figure


# --- Probabilistic PCA, the linear VAE -------------------------------------------------------------------


@cache
def mnist_spectrum() -> tuple[float, ...]:
    """Return the eigenvalues of the covariance of MNIST's training images, pixels in [0, 1], descending."""
    splits = data.load_images("mnist")
    images = np.concatenate([splits.train.images.numpy(), splits.valid.images.numpy()]).reshape(60_000, -1)
    images = images / 255
    return tuple(np.linalg.eigvalsh(np.cov(images.T, bias=True))[::-1].round(6).tolist())


def surviving(eigenvalues: np.ndarray, noise: float) -> int:
    """Return how many columns of W are not zero at the optimum with a fixed noise variance."""
    return int((np.asarray(eigenvalues) > noise).sum())


def learned_noise(eigenvalues: np.ndarray, d: int) -> float:
    """Return the noise variance at the maximum of the likelihood: the mean of the discarded eigenvalues."""
    return float(np.mean(np.asarray(eigenvalues)[d:]))


def fixed_noise_log_likelihood(eigenvalues: np.ndarray, d: int, noise: float) -> float:
    """Return the best mean log-likelihood of d-dimensional probabilistic PCA with a fixed noise variance."""
    eigenvalues = np.asarray(eigenvalues, dtype=float)
    kept = np.where((np.arange(len(eigenvalues)) < d) & (eigenvalues > noise), eigenvalues, noise)
    return -float((np.log(2 * np.pi * kept) + eigenvalues / kept).sum()) / 2


FIXED_NOISES = (392.0, 1.0, 0.5, 0.1)
LATENTS = 50


@figure
def fixed_sigma() -> Figure:
    """Draw MNIST's spectrum with levels of a fixed noise: what is above lives, the rest collapses."""
    spectrum = np.array(mnist_spectrum())
    figure, (left, right) = canvas(SLIDE_WIDTH, 195, columns=2, width_ratios=[1.15, 1])
    left.plot(np.arange(1, 101), spectrum[:100], color=INK)
    for noise, colour in ((1.0, RED), (0.3, ORANGE), (0.1, GREEN)):
        left.axhline(noise, color=colour, linewidth=1.6)
        count = surviving(spectrum, noise)
        left.plot(count, spectrum[count - 1], "o", color=colour, markersize=8)
        text = f"$\\sigma^2={noise:g}$: {count} left"
        left.text(
            100, noise * 1.1, text, color=BROWN if colour == ORANGE else colour, ha="right", va="bottom"
        )
    left.set(
        yscale="log",
        xlabel="principal direction $j$",
        title=r"eigenvalues $\lambda_j$ of MNIST",
        ylim=(0.02, 9),
    )
    left.set_xticks([1, 25, 50, 75, 100])
    left.minorticks_off()
    noises = np.logspace(-2, 1.2, 90)
    values = [fixed_noise_log_likelihood(spectrum, LATENTS, noise) for noise in noises]
    right.plot(noises, values, color=BLUE)
    best = learned_noise(spectrum, LATENTS)
    top = fixed_noise_log_likelihood(spectrum, LATENTS, best)
    right.plot(best, top, "o", color=GREEN, markersize=10)
    right.text(best * 1.8, top + 60, f"learned, $\\sigma={np.sqrt(best):.2f}$", color=GREEN, va="bottom")
    right.plot(1, fixed_noise_log_likelihood(spectrum, LATENTS, 1), "o", color=RED, markersize=10)
    right.text(
        1.2, fixed_noise_log_likelihood(spectrum, LATENTS, 1) + 60, r"$\sigma=1$", color=RED, va="bottom"
    )
    right.set(
        xscale="log",
        xlabel=r"$\sigma^2$",
        title=f"best $\\log p$ per image, $d={LATENTS}$",
        ylim=(-2000, 1000),
    )
    right.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
    right.minorticks_off()
    return figure


class LinearModel(NamedTuple):
    """Hold the parameters of probabilistic PCA."""

    mean: np.ndarray  # (m,)
    loadings: np.ndarray  # W, (m, d)
    noise: float  # σ²


@cache
def iris() -> np.ndarray:
    """Return the 150 flowers of lecture 2, (150, 4)."""
    return load_iris().data


def turn(angle: float) -> np.ndarray:
    """Return the rotation of the plane by an angle."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def fit_ppca(x: np.ndarray, d: int, rotation: np.ndarray | None = None) -> LinearModel:
    """Return the maximum of the likelihood in closed form, W = U (Λ − σ² I)^½ R."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = learned_noise(values, d)
    loadings = vectors[:, :d] * np.sqrt(values[:d] - noise)
    return LinearModel(x.mean(axis=0), loadings @ (np.eye(d) if rotation is None else rotation), noise)


def ppca_log_likelihood(x: np.ndarray, model: LinearModel) -> float:
    """Return the mean log-likelihood, exact."""
    covariance = model.loadings @ model.loadings.T + model.noise * np.eye(x.shape[1])
    return float(stats.multivariate_normal.logpdf(x, model.mean, covariance).mean())


def ppca_elbo(
    x: np.ndarray, model: LinearModel, encoder_mean: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """Return reconstruction and KL, means over data, of q = N(encoder_mean @ (x − mean), covariance)."""
    m, d = model.loadings.shape
    centred = x - model.mean
    z = centred @ encoder_mean.T
    squares = ((centred - z @ model.loadings.T) ** 2).sum(axis=1)
    squares = squares + np.trace(model.loadings @ covariance @ model.loadings.T)
    reconstruction = -squares / (2 * model.noise) - m / 2 * np.log(2 * np.pi * model.noise)
    kl = ((z**2).sum(axis=1) + np.trace(covariance) - d - np.linalg.slogdet(covariance)[1]) / 2
    return np.array([reconstruction.mean(), kl.mean()])


def diagonal_elbo(angle: float) -> float:
    """Return the best bound of iris with a diagonal encoder when the loadings are turned by an angle."""
    model = fit_ppca(iris(), 2, turn(angle))
    mean_map, covariance = ppca_posterior(np.eye(4), model.loadings, np.sqrt(model.noise))
    precision = np.linalg.inv(covariance)
    reconstruction, kl = ppca_elbo(iris(), model, mean_map, np.diag(1 / np.diag(precision)))
    return float(reconstruction - kl)


def rotation_gap_formula(angle: np.ndarray) -> np.ndarray:
    """Return the gap of the diagonal encoder: Hadamard's inequality for the posterior's precision."""
    first, second = np.linalg.eigvalsh(np.cov(iris().T, bias=True))[::-1][:2]
    c, s = np.cos(angle) ** 2, np.sin(angle) ** 2
    return (np.log(first * c + second * s) + np.log(first * s + second * c) - np.log(first * second)) / 2


@figure
def rotation_gap() -> Figure:
    """Draw the exact likelihood and the diagonal encoder's bound against the rotation of the code."""
    figure, axes = canvas(HALF_WIDTH - 20, 205)
    angles = np.linspace(0, np.pi / 2, 61)
    log_p = ppca_log_likelihood(iris(), fit_ppca(iris(), 2))
    bound = [diagonal_elbo(angle) for angle in angles]
    degrees = np.degrees(angles)
    axes.axhline(log_p, color=INK)
    axes.plot(degrees, bound, color=BLUE)
    axes.fill_between(degrees, bound, log_p, color=RED, alpha=0.13)
    axes.plot([0, 90], [log_p, log_p], "o", color=ORANGE, markersize=10, zorder=5)
    axes.text(45, log_p + 0.05, r"$\log p$, the same at every angle", ha="center", va="bottom")
    axes.text(45, log_p - 0.4, "KL", ha="center", color=RED, fontsize=17)
    axes.text(45, min(bound) - 0.05, r"$\mathcal{L}$, best diagonal $q$", ha="center", va="top", color=BLUE)
    axes.set(
        xlabel="rotation of $z$, degrees", ylabel="nats per flower", ylim=(-3.8, -2.45), xticks=[0, 45, 90]
    )
    return figure


# --- The best ELBO in the plane: x ~ N(0, Σ), a linear decoder with noise variance σ² ----------------------

PLANE = np.array([[1.0, 0.8], [0.8, 1.0]])
PLANE_EIGENVALUES = np.array([1.8, 0.2])
PLANE_ENTROPY = float(np.log(2 * np.pi * np.e) + np.log(PLANE_EIGENVALUES).sum() / 2)


def best_split(noise: float) -> tuple[float, float]:
    """Return reconstruction and KL of the best linear VAE in the plane at a fixed noise variance, d = 2."""
    kept = np.maximum(PLANE_EIGENVALUES, noise)  # variances of the model
    posterior = noise / kept  # variance of each code given x
    means = (kept - noise) / kept**2 * PLANE_EIGENVALUES  # second moment of each posterior mean over data
    squares = (PLANE_EIGENVALUES * (noise / kept) ** 2 + (kept - noise) * posterior).sum()
    reconstruction = -squares / (2 * noise) - np.log(2 * np.pi * noise)
    kl = (means + posterior - 1 - np.log(posterior)).sum() / 2
    return float(reconstruction), float(kl)


@figure
def optimal_split() -> Figure:
    """Draw the data's ellipse with the decoder's circles, and how the best ELBO splits against σ²."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2, width_ratios=[0.62, 1.25])
    ellipse(left, np.zeros(2), PLANE, edgecolor=INK, linewidth=2.4)
    along, across = np.array([1, 1]) / np.sqrt(2), np.array([-1, 1]) / np.sqrt(2)
    for first in (-1.5, -0.75, 0, 0.75, 1.5):
        for second in (-1, 1):
            centre = first * np.sqrt(1.8 - 0.1) * along + second * np.sqrt(0.2 - 0.1) * across
            ellipse(
                left, centre, 0.1 * np.eye(2), scale=1, fill=True, facecolor=SKY, edgecolor=BLUE, alpha=0.4
            )
    left.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal", xticks=[], yticks=[])
    left.set_title(r"$\pi(x)$ and some $p(x\,|\,z)$")
    noises = np.linspace(0.01, 2.2, 400)
    reconstruction, kl = np.array([best_split(noise) for noise in noises]).T
    right.axhline(-PLANE_ENTROPY, color=INK, linestyle="--", linewidth=1.6)
    right.plot(noises, reconstruction, color=GREEN)
    right.plot(noises, -kl, color=RED)
    right.plot(noises, reconstruction - kl, color=BLUE, linewidth=3.2)
    for noise, text in ((0.2, "second unit off"), (1.8, "both off")):
        right.axvline(noise, color=MUTED, linewidth=1, linestyle=":")
        right.text(noise + 0.03, -4.6, text, color=MUTED, va="center")
    right.text(2.2, -0.35, "−KL", color=RED, ha="right", va="top")
    right.text(1.3, -3.45, "ELBO", color=BLUE, ha="left", va="top")
    right.text(0.06, 0.6, "reconstruction", color=GREEN, ha="left", va="center")
    right.text(2.2, -PLANE_ENTROPY + 0.1, r"$-H(\pi)$", ha="right", va="bottom")
    right.set(xlabel=r"decoder variance $\sigma^2$", ylabel="nats", ylim=(-5, 1.3), xlim=(0, 2.25))
    right.set_xticks([0, 0.5, 1, 1.5, 2])
    return figure


# --- MLE, MAP, full Bayes: the mean of a normal, prior N(0, τ²) ---------------------------------------------


def excess(n: np.ndarray, prior_variance: float = 1.0) -> dict[str, np.ndarray]:
    """Return the expected loss above the entropy, nats per dimension, of three predictions after n points."""
    n = np.asarray(n, dtype=float)
    spread = 1 / (n + 1 / prior_variance)  # posterior variance
    return {"MLE": 1 / (2 * n), "MAP": spread / 2, "full Bayes": np.log1p(spread) / 2}


def simulated_excess(n: int, repeats: int = 200_000, seed: int = 0) -> dict[str, float]:
    """Return the same three by simulation: parameter from the prior, n points, one new point."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=repeats)
    mean = theta + rng.normal(size=repeats) / np.sqrt(n)
    new = theta + rng.normal(size=repeats)
    best = stats.norm.logpdf(new, theta)
    spread = 1 / (n + 1)
    return {
        "MLE": float((best - stats.norm.logpdf(new, mean)).mean()),
        "MAP": float((best - stats.norm.logpdf(new, n * spread * mean)).mean()),
        "full Bayes": float((best - stats.norm.logpdf(new, n * spread * mean, np.sqrt(1 + spread))).mean()),
    }


@figure
def mle_map_bayes() -> Figure:
    """Draw what MLE, MAP and full Bayes lose against the number of data points."""
    figure, axes = canvas(HALF_WIDTH - 30, 205)
    n = np.unique(np.logspace(0, 2, 60).round(2))
    for (name, values), colour in zip(excess(n).items(), (RED, ORANGE, BLUE), strict=True):
        axes.plot(n, values, color=colour)
        axes.plot([1, 2, 5, 10, 100], excess([1, 2, 5, 10, 100])[name], "o", color=colour)
    axes.text(7, 0.46, "MLE: $1/2n$", color=RED)
    axes.text(7, 0.38, "MAP: $v/2$", color=BROWN)
    axes.text(7, 0.30, r"Bayes: $\frac{1}{2}\log(1+v)$", color=BLUE)
    axes.set(xscale="log", xlabel="data points $n$", ylabel="nats above the entropy", ylim=(0, 0.55))
    axes.set_xticks([1, 10, 100], ["1", "10", "100"])
    axes.minorticks_off()
    return figure


@figure
def shrinking_q() -> Figure:
    """Draw the bound with q(θ) = N(θ0, s²) over θ0 for smaller and smaller s: its maximum nears the MAP."""
    figure, axes = canvas(HALF_WIDTH - 30, 205)
    centre = np.linspace(-3, 4, 200)
    for spread, colour in ((0.6, BLUE), (0.1, GREEN), (0.02, ORANGE), (0.002, RED)):
        bound = coin_bound(centre, spread)
        axes.plot(centre, bound, color=colour)
        axes.text(4.1, bound[-1], f"$s={spread:g}$", color=BROWN if colour == ORANGE else colour, va="center")
        axes.plot(centre[bound.argmax()], bound.max(), "o", color=colour)
    axes.axhline(COIN_LOG_EVIDENCE, color=INK, linestyle="--", linewidth=1.6)
    axes.text(-2.9, COIN_LOG_EVIDENCE + 0.2, r"$\log p(X)$", va="bottom")
    axes.set(xlabel=r"centre $\psi_0$ of $q$ (log-odds)", ylabel="nats", ylim=(-13, 0.6), xlim=(-3, 5.6))
    return figure


# Three heads, prior Beta(2, 2), in log-odds ψ (lecture 2): p(X, ψ) = θ³ · 6 θ (1 − θ) · θ (1 − θ).
COIN_LOG_EVIDENCE = float(np.log(6) + special.betaln(5, 2))


def coin_log_joint(psi: np.ndarray) -> np.ndarray:
    """Return log p(X, ψ) of three heads and a Beta(2, 2) prior, ψ the log-odds."""
    return np.log(6) + 5 * special.log_expit(psi) + 2 * special.log_expit(-psi)


def coin_bound(centre: np.ndarray, spread: float) -> np.ndarray:
    """Return the bound on log p(X) with q(ψ) = N(centre, spread²), by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    values = coin_log_joint(np.asarray(centre)[..., None] + spread * points)
    return values @ (weights / weights.sum()) + np.log(2 * np.pi * np.e * spread**2) / 2


# --- What the trained models show -------------------------------------------------------------------------


@cache
def stored() -> dict[str, np.ndarray]:
    """Return the arrays of the trained models."""
    with np.load(FOLDER / "vae_digits.npz") as arrays:
        return dict(arrays)


DENSITY_BLUES = ("#e3eef8", "#b9d5ea", "#86b9dc", "#5397c8", "#2b73ae", "#0c4d8a")


def paint(axes: Axes, image: np.ndarray, levels: int = 11, frame: str = "#c9d3dc") -> None:
    """Draw an image (28·28,), bool or from 0 to 255, dark on white in a few levels of grey."""
    image = np.asarray(image)
    side = int(np.sqrt(image.size))
    values = image.reshape(side, side) / (1 if image.dtype == bool else 255)
    steps = levels - 1
    draw_pixels(axes, np.round(values * steps) / steps, lambda v: str(round(1 - v, 3)) if v else None)
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(frame)


def image_rows(height: float, rows: list[tuple[str, np.ndarray]], width: float = SLIDE_WIDTH) -> Figure:
    """Draw rows of images with a name at the left of each."""
    figure, axes = canvas(width, height, columns=len(rows[0][1]), rows=len(rows), squeeze=False)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for line, (name, images) in zip(axes, rows, strict=True):
        for panel, image in zip(line, images, strict=True):
            paint(panel, image)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


@figure
def vae_samples() -> Figure:
    """Draw test images, their reconstructions, and samples of the larger VAE: probabilities, then coins."""
    arrays = stored()
    coins = np.random.default_rng(0).random(arrays["sampled"].shape)
    return image_rows(
        240,
        [
            ("test images", arrays["test"]),
            ("reconstructed", arrays["reconstructed"]),
            ("$z$ from prior,\nprobabilities", arrays["sampled"]),
            ("samples:\ncoins thrown", coins < arrays["sampled"] / 255),
        ],
    )


DIGIT_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8a7f00",
    "#7a4fbf",
    "#8c5a3c",
)


def apart(points: np.ndarray, distance: float = 0.75) -> np.ndarray:
    """Push points (n, 2) apart until no two are closer than a distance: places for labels."""
    points = points.copy()
    for _ in range(200):
        between = points[:, None] - points
        lengths = np.linalg.norm(between, axis=-1) + 1e-9
        push = np.maximum(distance - lengths, 0) * (lengths > 1e-8)
        points += 0.25 * (between / lengths[..., None] * push[..., None]).sum(axis=1)
    return points


@figure
def latent_map() -> Figure:
    """Draw posterior means of test images by class, and the decoder over the plane."""
    arrays = stored()
    figure, (left, right) = canvas(SLIDE_WIDTH, 303, columns=2)
    means, labels = arrays["plane_means"].astype(float), arrays["plane_labels"]
    centres = apart(np.array([np.median(means[labels == digit], axis=0) for digit in range(10)]))
    for digit, colour in enumerate(DIGIT_COLOURS):
        left.plot(*means[labels == digit].T, ".", color=colour, markersize=4)
        disc = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
        left.text(
            *centres[digit], str(digit), fontsize=17, fontweight=600, ha="center", va="center", bbox=disc
        )
    left.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
    rows = arrays["plane_decoded"]
    tiled = rows.transpose(0, 2, 1, 3).reshape(12 * 14, 12 * 14) / 255
    draw_pixels(right, np.round(tiled * 7) / 7, lambda v: str(round(1 - v, 3)) if v else None)
    right.set_xlabel("$z_1$, equal shares of the prior")
    right.set_ylabel("$z_2$")
    return figure


@figure
def interpolation() -> Figure:
    """Draw a path between two codes, decoded, above the same path between the images."""
    arrays = stored()
    first, second = arrays["between_ends"].astype(float)
    steps = np.linspace(0, 1, 9)[:, None]
    mixed = np.round(((1 - steps) * first + steps * second) * 255).astype(np.uint8)
    return image_rows(165, [("between codes", arrays["between"]), ("between pixels", mixed)])


@figure
def blur() -> Figure:
    """Draw images that share a code, their mean by weight, and what the decoder makes of the code."""
    arrays = stored()
    figure, axes = canvas(SLIDE_WIDTH, 222, columns=9, rows=3, width_ratios=[1] * 6 + [0.25, 1, 1])
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for line, images, mean, decoded in zip(
        axes, arrays["shared_images"], arrays["shared_mean"], arrays["shared_decoded"], strict=True
    ):
        for panel, image in zip([*line[:6], line[7], line[8]], [*images, mean, decoded], strict=True):
            paint(panel, image)
        line[6].set_visible(False)
    axes[0][2].set_title("images, drawn by $q(x\\,|\\,z)$", loc="left")
    axes[0][7].set_title("E$[x\\,|\\,z]$")
    axes[0][8].set_title("decoder")
    return figure


@figure
def holes() -> Figure:
    """Draw the aggregate posterior of the test set against the prior, and decoded codes from both places."""
    arrays = stored()
    figure = Figure(figsize=(SLIDE_WIDTH / 72, 255 / 72))
    grid = figure.add_gridspec(2, 6, width_ratios=[3.3, 1, 1, 1, 1, 1])
    left = figure.add_subplot(grid[:, 0])
    axis = np.linspace(-4, 4, 81)
    log_q = arrays["log_q"].astype(float).T
    squares = axis**2 + axis[:, None] ** 2
    levels = np.array([0.002, 0.02, 0.05, 0.09, 0.14, 0.2, 2])
    left.contourf(axis, axis, np.exp(log_q).round(5), levels=levels, colors=DENSITY_BLUES)
    ratio = np.where(squares < 9.2, log_q + squares / 2 + np.log(2 * np.pi), 0).round(3)
    left.contour(axis, axis, ratio, levels=[np.log(0.1)], colors=[RED], linestyles="solid", linewidths=1.4)
    for share in (0.5, 0.9, 0.99):
        radius = np.sqrt(-2 * np.log(1 - share))
        left.add_patch(Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=1.2, linestyle="--"))
    left.plot(*arrays["dense_z"].T, "s", color=GREEN, markersize=8)
    left.plot(*arrays["hole_z"].T, "o", color=RED, markersize=8)
    left.set(aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    rows = (
        ("dense", "dense: many codes there", GREEN),
        ("hole", "holes: the prior is there, codes are not", RED),
    )
    for row, (name, title, colour) in enumerate(rows):
        for column, image in enumerate(arrays[f"{name}_images"], start=1):
            panel = figure.add_subplot(grid[row, column])
            paint(panel, image, frame=colour)
            if column == 3:
                panel.set_title(title, color=colour)
    return figure


@figure
def active_units() -> Figure:
    """Draw the KL of every unit of the larger VAE, sorted, active ones coloured."""
    arrays = stored()
    kl, active = arrays["units_kl"], arrays["units_active"]
    order = kl.argsort()[::-1]
    figure, axes = canvas(HALF_WIDTH - 20, 215)
    axes.bar(np.arange(1, 51), kl[order].round(5), color=[BLUE if active[unit] else RED for unit in order])
    axes.set(xlabel="latent unit, sorted", ylabel="KL, nats per image", xlim=(0, 51))
    axes.text(14, kl.max() * 0.7, f"{int(active.sum())} active units", color=BLUE)
    axes.text(
        50,
        kl.max() * 0.15,
        f"{int((~active).sum())} inactive:\n$q(z_j\\,|\\,x)\\approx p(z_j)$",
        color=RED,
        ha="right",
    )
    return figure


# --- What the slides claim, checked -----------------------------------------------------------------------


def normal_mean(f: Callable[[np.ndarray], np.ndarray], mean: float = 0.0, std: float = 1.0) -> float:
    """Return E f(z) for z ~ N(mean, std²) by quadrature on one grid; f may bend at 0."""
    z = np.linspace(-25, 25, 50_001)
    return float(np.trapezoid(f(z) * stats.norm.pdf(z, mean, std), z))


def check_gaps() -> None:
    """Check the closed-form bound of the curved model by quadrature, and the order of the three curves."""
    z = np.linspace(-9, 9, 20_001)
    for x, mean, log_std in (((0.4, 1.1), 0.7, -1.3), ((-1.5, 0.2), -1.2, 0.2)):
        q = stats.norm.pdf(z, mean, np.exp(log_std))
        log_joint = stats.norm.logpdf(x, curve(z), CURVE_NOISE).sum(axis=1) + stats.norm.logpdf(z)
        bound = np.trapezoid(q * (log_joint - stats.norm.logpdf(z, mean, np.exp(log_std))), z)
        assert np.isclose(curve_bound(np.array(x), mean, log_std), bound, atol=1e-6)
    log_p, best, amortised = gap_means()
    assert log_p > best > amortised
    for point in curve_data()[:40]:
        exact = curve_log_likelihood(point[None])[0]
        top = best_gaussian(point)[0]
        assert exact + 1e-6 >= top >= curve_bound(point, *encoder(point, fitted_encoder())) - 1e-9


def check_gradients() -> None:
    """Check both gradient identities, their exact variances, and that Bernoulli has no reparametrisation."""
    step, mean, std = 1e-4, 0.7, 1.3
    for h in (np.sin, lambda z: z**3 - z, lambda z: np.maximum(z, 0), np.abs):
        by_mean = (normal_mean(h, mean + step, std) - normal_mean(h, mean - step, std)) / (2 * step)
        by_std = (normal_mean(h, mean, std + step) - normal_mean(h, mean, std - step)) / (2 * step)

        def slope(z: np.ndarray, h: Callable = h) -> np.ndarray:
            return (h(z + 1e-6) - h(z - 1e-6)) / 2e-6

        assert np.isclose(
            normal_mean(lambda z, h=h: h(z) * (z - mean) / std**2, mean, std), by_mean, atol=1e-5
        )
        score = normal_mean(lambda z, h=h: h(z) * ((z - mean) ** 2 / std**3 - 1 / std), mean, std)
        assert np.isclose(score, by_std, atol=1e-5)
        assert np.isclose(normal_mean(lambda e: slope(mean + std * e)), by_mean, atol=1e-3)
        assert np.isclose(normal_mean(lambda e: slope(mean + std * e) * e), by_std, atol=1e-3)
        centred = normal_mean(lambda z, h=h: (h(z) - 5.5) * (z - mean) / std**2, mean, std)
        assert np.isclose(centred, by_mean, atol=1e-5), "a baseline changes no mean"
    assert abs(normal_mean(lambda z: (z - mean) / std**2, mean, std)) < 1e-9, "the score has mean zero"
    jump = normal_mean(lambda z: (z > 0) * (z - mean) / std**2, mean, std)
    assert np.isclose(jump, stats.norm.pdf(0, mean, std), atol=1e-3), "the score function needs no slope of h"

    for d, mu, sigma in ((1, 0.0, 1.0), (3, -0.4, 0.6), (10, 1.0, 1.0)):
        drawn = gradient_samples(d, 400_000, mu, sigma, seed=3)
        exact = (
            score_variance(d, mu, sigma),
            centred_score_variance(d, mu, sigma),
            pathwise_variance(d, mu, sigma),
        )
        for values, variance in zip(drawn, exact, strict=True):
            assert abs(values.mean() - mu) < 5 * np.sqrt(variance / len(values)), "unbiased"
            assert np.isclose(values.var(), variance, rtol=0.05)
    assert np.isclose(score_variance(1, 0, 1), 15 / 4)
    assert np.isclose(score_variance(1000) / 1000**2, (MEAN**2 + STD**2) ** 2 / (4 * STD**2), rtol=0.02)

    for k in (0.3, 1.0, 2.5, 4.0):
        score, path = wave_variances(k)
        truth = k * np.exp(-(k**2) / 2)
        assert np.isclose(normal_mean(lambda z, k=k: k * np.cos(k * z)), truth)
        assert np.isclose(normal_mean(lambda z, k=k: (np.sin(k * z) * z) ** 2) - truth**2, score)
        assert np.isclose(normal_mean(lambda z, k=k: (k * np.cos(k * z)) ** 2) - truth**2, path)
    k = np.linspace(0.05, 8, 400)
    assert ((np.subtract(*wave_variances(k)) > 0) == (k < wave_crossing())).all(), "they cross once"
    for rate in (0.5, 2.0):
        quantiles = -np.log1p(-np.linspace(0.01, 0.99, 9)) / rate
        assert np.allclose(stats.expon.cdf(quantiles, scale=1 / rate), np.linspace(0.01, 0.99, 9))

    check_minibatch()


def wave_crossing() -> float:
    """Return the k from which the score function has the smaller variance for h = sin(k z)."""
    return float(optimize.brentq(lambda k: np.subtract(*wave_variances(k)), 0.3, 5))


def check_minibatch() -> None:
    """Check mean and variance of the doubly stochastic gradient, minibatches counted one by one."""
    gradients, noise, batch = np.array([0.3, -1.2, 2.0, 0.7, 5.0]), np.array([0.5, 1.0, 0.2, 2.0, 0.1]), 2
    n = len(gradients)
    means = [n / batch * gradients[list(rows)].sum() for rows in combinations(range(n), batch)]
    assert np.isclose(np.mean(means), gradients.sum())
    spread = gradients.var(ddof=1)
    formula = n**2 / batch * (1 - batch / n) * spread + n / batch * (noise**2).sum()
    rng = np.random.default_rng(0)
    rows = rng.random((200_000, n)).argsort(axis=1)[:, :batch]
    drawn = n / batch * (gradients[rows] + noise[rows] * rng.normal(size=rows.shape)).sum(axis=1)
    assert np.isclose(drawn.mean(), gradients.sum(), atol=5 * np.sqrt(formula / 200_000))
    assert np.isclose(drawn.var(), formula, rtol=0.02)
    assert np.isclose(np.var(means), n**2 / batch * (1 - batch / n) * spread)


def diagonal_kl(mean: np.ndarray, std: np.ndarray) -> float:
    """Return KL(N(mean, diag std²) || N(0, I)) in nats."""
    return float((mean**2 + std**2 - 1 - 2 * np.log(std)).sum() / 2)


def check_vae() -> None:
    """Check the KL line by line, the Bernoulli formula on grey values, the hidden beta of a fixed sigma."""
    for mean, std in ((0.8, 0.4), (-1.5, 2.0)):
        log_q = normal_mean(lambda z, m=mean, s=std: stats.norm.logpdf(z, m, s), mean, std)
        log_p = normal_mean(stats.norm.logpdf, mean, std)
        assert np.isclose(log_q, -(np.log(2 * np.pi) + 1 + 2 * np.log(std)) / 2)
        assert np.isclose(log_p, -(np.log(2 * np.pi) + mean**2 + std**2) / 2)
        assert np.isclose(log_q - log_p, diagonal_kl(np.array([mean]), np.array([std])))
    for probability in (0.02, 0.3, 0.5, 0.77, 0.999):
        mass, _ = integrate.quad(lambda x, p=probability: p**x * (1 - p) ** (1 - x), 0, 1)
        assert np.isclose(bce_mass(probability), mass)
    assert bce_mass(np.linspace(0.001, 0.999, 999)).max() <= 0.5 + 1e-12
    x, probability = 0.3, 0.7
    coin = stats.bernoulli(probability)
    drawn = x * np.log(probability) + (1 - x) * np.log(1 - probability)
    assert np.isclose(drawn, x * coin.logpmf(1) + (1 - x) * coin.logpmf(0))

    # A VAE of two pixels and a one-dimensional code: Bernoulli formula of a grey input, mean of log p.
    z = np.linspace(-8, 8, 4001)
    pixels = special.expit(np.stack([1.5 * z - 0.3, -2 * z + 0.5]))
    prior, q = stats.norm.pdf(z), stats.norm.pdf(z, 0.4, 0.7)
    grey = np.array([0.2, 0.9])
    formula = np.trapezoid(q * (grey @ np.log(pixels) + (1 - grey) @ np.log1p(-pixels)), z)
    bound = formula - diagonal_kl(np.array([0.4]), np.array([0.7]))
    mean_log_p = 0.0
    for first in (0, 1):
        for second in (0, 1):
            bits = np.array([first, second])
            chance = np.prod(np.where(bits, grey, 1 - grey))
            likelihood = np.prod(np.where(bits[:, None], pixels, 1 - pixels), axis=0)
            mean_log_p += chance * np.log(np.trapezoid(prior * likelihood, z))
    assert bound < mean_log_p, "the Bernoulli formula on grey values bounds the mean over binary draws"

    rng = np.random.default_rng(1)
    x, decoded, kl, m = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), 2.0, 3
    squares = ((x - decoded) ** 2).sum(axis=1)

    def negative(noise: float) -> float:
        return float(-stats.norm.logpdf(x, decoded, np.sqrt(noise)).sum(axis=1).mean()) + kl

    for noise in (0.3, 2.0):
        scaled = squares.mean() / 2 + noise * kl
        assert np.isclose(negative(noise) * noise, scaled + noise * m / 2 * np.log(2 * np.pi * noise))
    best = squares.mean() / m
    assert np.isclose(negative(best), m / 2 * (np.log(2 * np.pi * best) + 1) + kl)
    assert negative(best) < min(negative(0.9 * best), negative(1.1 * best))


def check_linear() -> None:
    """Check probabilistic PCA: closed form, scikit-learn, tight bound, rotations, fixed noise."""
    x = iris()
    covariance = np.cov(x.T, bias=True)
    values = np.linalg.eigvalsh(covariance)[::-1]
    for d, published in ((1, -3.1377963888), (2, -2.6997518677), (3, -2.5327642008)):
        model = fit_ppca(x, d)
        log_p = ppca_log_likelihood(x, model)
        assert np.isclose(log_p, published, atol=1e-9)
        by_values = np.log(values[:d]).sum() + (4 - d) * np.log(model.noise) + 4 * np.log(2 * np.pi) + 4
        assert np.isclose(log_p, -by_values / 2)
        # scikit-learn divides by n − 1, which is the same model of slightly larger deviations
        larger = x.mean(axis=0) + (x - x.mean(axis=0)) * np.sqrt(150 / 149)
        assert np.isclose(
            PCA(d, svd_solver="full").fit(x).score(x), ppca_log_likelihood(x, fit_ppca(larger, d))
        )
        full = model.loadings @ model.loadings.T + model.noise * np.eye(4)
        assert np.allclose(covariance @ np.linalg.solve(full, model.loadings), model.loadings), "S C⁻¹ W = W"
        rng = np.random.default_rng(d)
        for _ in range(40):
            near = LinearModel(
                model.mean + 0.02 * rng.normal(size=4),
                model.loadings + 0.02 * rng.normal(size=(4, d)),
                model.noise * np.exp(0.05 * rng.normal()),
            )
            assert ppca_log_likelihood(x, near) < log_p
        mean_map, posterior = ppca_posterior(np.eye(4), model.loadings, np.sqrt(model.noise))
        reconstruction, kl = ppca_elbo(x, model, mean_map, posterior)
        assert np.isclose(reconstruction - kl, log_p), "the bound is tight"
        assert np.allclose(posterior, np.diag(np.diag(posterior))), (
            "without rotation the posterior is diagonal"
        )
        assert np.allclose(np.diag(posterior), model.noise / values[:d])
    log_p = ppca_log_likelihood(x, fit_ppca(x, 2))
    for angle in (0.2, 0.9, np.pi / 4):
        assert np.isclose(ppca_log_likelihood(x, fit_ppca(x, 2, turn(angle))), log_p)
        assert np.isclose(log_p - diagonal_elbo(angle), rotation_gap_formula(angle))
    rng = np.random.default_rng(0)
    for noise in (0.01, 0.2, 1.0):
        kept = np.sqrt(np.maximum(values[:2] - noise, 0))
        vectors = np.linalg.eigh(covariance)[1][:, ::-1][:, :2]
        model = LinearModel(x.mean(axis=0), vectors * kept, noise)
        best = ppca_log_likelihood(x, model)
        assert np.isclose(best, fixed_noise_log_likelihood(values, 2, noise))
        for _ in range(40):
            near = LinearModel(model.mean, model.loadings + 0.05 * rng.normal(size=(4, 2)), noise)
            assert ppca_log_likelihood(x, near) < best + 1e-12
        assert (kept > 0).sum() == min(2, surviving(values, noise))


def check_split() -> None:
    """Check the best bound in the plane: at most minus the entropy, which it meets up to a level of σ²."""
    values, vectors = np.linalg.eigh(PLANE)
    assert np.allclose(values[::-1], PLANE_EIGENVALUES)
    assert np.isclose(PLANE_ENTROPY, stats.multivariate_normal(np.zeros(2), PLANE).entropy())
    for noise in (0.05, 0.2, 0.7, 1.8, 2.1):
        reconstruction, kl = best_split(noise)
        assert reconstruction - kl <= -PLANE_ENTROPY + 1e-12
        assert (abs(reconstruction - kl + PLANE_ENTROPY) < 1e-12) == (noise <= 0.2)
        if noise <= 0.2:
            assert np.isclose(kl, np.log(PLANE_EIGENVALUES / noise).sum() / 2)
            assert np.isclose(reconstruction, -np.log(2 * np.pi * np.e * noise))
        loadings = vectors * np.sqrt(np.maximum(values - noise, 0))
        mean_map, posterior = ppca_posterior(np.eye(2), loadings, np.sqrt(noise))
        residual = np.eye(2) - loadings @ mean_map
        squares = np.trace(residual @ PLANE @ residual.T) + np.trace(loadings @ posterior @ loadings.T)
        assert np.isclose(reconstruction, -squares / (2 * noise) - np.log(2 * np.pi * noise))
        moments = np.trace(mean_map @ PLANE @ mean_map.T) + np.trace(posterior) - 2
        assert np.isclose(kl, (moments - np.linalg.slogdet(posterior)[1]) / 2)


def check_parameters() -> None:
    """Check what MLE, MAP and full Bayes lose, and that the bound with a narrow q(θ) peaks at the MAP."""
    for n in (1, 4, 20):
        simulated, exact = simulated_excess(n), excess(n)
        for name in exact:
            assert np.isclose(simulated[name], exact[name], atol=0.004), (n, name)
        assert exact["full Bayes"] < exact["MAP"] < exact["MLE"]
    psi = np.linspace(-12, 14, 40_001)
    evidence = np.log(np.trapezoid(np.exp(coin_log_joint(psi)), psi))
    assert np.isclose(evidence, COIN_LOG_EVIDENCE) and np.isclose(np.exp(evidence), 1 / 5)
    centre = np.linspace(0.3, 1.6, 13_001)
    for spread, tolerance in ((0.2, 0.05), (0.02, 1e-3), (0.001, 2e-4)):
        bound = coin_bound(centre, spread)
        assert bound.max() <= evidence
        assert abs(centre[bound.argmax()] - np.log(5 / 2)) < tolerance
    narrow = coin_bound(np.array(0.4), 1e-3) - coin_bound(np.array(0.4), 1e-4)
    assert np.isclose(narrow, np.log(10), atol=1e-4), "the bound itself falls without end"


def check_drawbacks() -> None:
    """Check that the best factorised decoder is the mean of what shares a code, and what collapse costs."""
    rng = np.random.default_rng(0)
    images = (rng.random((6, 5)) < 0.5).astype(float)
    share = rng.dirichlet(np.ones(6))  # q(x|z) for one z

    def bernoulli(decoded: np.ndarray) -> float:
        return float(
            share @ (special.xlogy(images, decoded) + special.xlog1py(1 - images, -decoded)).sum(axis=1)
        )

    mean = share @ images
    inside = np.clip(mean, 1e-12, 1 - 1e-12)
    for _ in range(50):
        other = np.clip(mean + 0.1 * rng.normal(size=5), 1e-6, 1 - 1e-6)
        assert bernoulli(other) < bernoulli(inside)
        assert share @ ((images - other) ** 2).sum(axis=1) > share @ ((images - mean) ** 2).sum(axis=1)
    # Two codes, p(x|z) = π(x) for both: the bound is −H(π) minus what the encoder pays.
    data_law, code = rng.dirichlet(np.ones(4)), np.array([0.5, 0.5])
    for encoder_law in (np.tile(code, (4, 1)), rng.dirichlet(np.ones(2), size=4)):
        cost = data_law @ special.rel_entr(encoder_law, code).sum(axis=1)
        bound = data_law @ np.log(data_law) - cost
        assert bound <= -stats.entropy(data_law) + 1e-12
        assert (abs(bound + stats.entropy(data_law)) < 1e-12) == np.allclose(encoder_law, code)


def check_stored() -> None:
    """Check that the trained models' numbers fit together."""
    arrays = stored()
    assert np.isclose(arrays["units_kl"].sum(), arrays["kl_50"], rtol=1e-4)
    for d in (2, 50):
        assert arrays[f"bound_first_{d}"] < arrays[f"estimate_first_{d}"] < -45.5
    density = np.exp(arrays["log_q"].astype(float))
    assert 0.9 < density.sum() * 0.1**2 < 1.01, "nearly all of the aggregate posterior is on the grid"
    inactive = ~arrays["units_active"]
    assert arrays["units_kl"][inactive].max() < 0.05 < 0.2 < arrays["units_kl"][~inactive].min()


def check() -> None:
    """Check every formula of the slides."""
    check_gaps()
    check_gradients()
    check_vae()
    check_linear()
    check_split()
    check_parameters()
    check_drawbacks()
    check_stored()


def prior_mass_in_holes(ratio: float = 0.1) -> float:
    """Return the share of the prior where the aggregate posterior is below `ratio` times the prior."""
    axis = np.linspace(-4, 4, 81)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    log_prior = -(first**2 + second**2) / 2 - np.log(2 * np.pi)
    low = stored()["log_q"].astype(float) < log_prior + np.log(ratio)
    prior = np.exp(log_prior)
    return float(prior[low].sum() / prior.sum())


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    arrays = stored()
    log_p, best, amortised = gap_means()
    spectrum = np.array(mnist_spectrum())
    learned = learned_noise(spectrum, LATENTS)
    at_learned, at_one = (fixed_noise_log_likelihood(spectrum, LATENTS, noise) for noise in (learned, 1.0))
    score, path = (float(v) for v in wave_variances(3.0))
    models = {}
    for d in (2, 50):
        reconstruction, kl = float(arrays[f"reconstruction_{d}"]), float(arrays[f"kl_{d}"])
        models[f"vae_{d}"] = {
            "reconstruction": fixed([reconstruction], 1)[0],
            "kl": fixed([kl], 1)[0],
            "elbo": fixed([reconstruction - kl], 1)[0],
            "minus_elbo": fixed([kl - reconstruction], 1)[0],
            "minus_bound": fixed([-float(arrays[f"bound_first_{d}"])], 1)[0],
            "minus_estimate": fixed([-float(arrays[f"estimate_first_{d}"])], 1)[0],
        }
    return {
        "gap_log_p": fixed([log_p], 2)[0],
        "gap_approximation": fixed([log_p - best], 2)[0],
        "gap_amortisation": fixed([best - amortised], 2)[0],
        "missing_nats": f"{784 * np.log(2):.0f}",
        "score_variance_10": f"{float(score_variance(10)):.0f}",
        "centred_variance_10": f"{float(centred_score_variance(10)):.0f}",
        "score_variance_100": f"{float(score_variance(100)):,.0f}",
        "wave_at_3": fixed([score, path], 2),
        "wave_crossing": fixed([wave_crossing()], 2)[0],
        "surviving": [surviving(spectrum, noise) for noise in FIXED_NOISES],
        "largest_eigenvalue": fixed([spectrum[0]], 2)[0],
        "learned_sigma": fixed([np.sqrt(learned)], 3)[0],
        "fixed_sigma_loss": f"{at_learned - at_one:,.0f}",
        "iris_log_p": fixed([ppca_log_likelihood(iris(), fit_ppca(iris(), 2))], 4)[0],
        "iris_rotated": fixed([diagonal_elbo(np.pi / 4)], 4)[0],
        "plane_best": fixed([-PLANE_ENTROPY], 3)[0],
        "plane_split_sharp": fixed(list(best_split(0.02)), 2),
        "plane_split_wide": fixed(list(best_split(0.2)), 2),
        "excess_1": fixed([float(v) for v in excess(1).values()], 3),
        "excess_100": fixed([float(v) for v in excess(100).values()], 4),
        **models,
        "active": int(arrays["units_active"].sum()),
        "shared_size": [f"{v:.0f}" for v in arrays["shared_size"]],
        "hole_share": f"{100 * prior_mass_in_holes():.0f}",
    }
