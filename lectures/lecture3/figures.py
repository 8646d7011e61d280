"""Draw the figures of lecture 3, and compute the numbers that its slides print.

    python -m lectures.drawing lecture3 [FOLDER]

Everything is exact, or simulated with a fixed seed, or read from the arrays that `vae_digits.py` stored. What
the slides claim is tested in `tests/test_lecture3.py`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy import optimize, special, stats
from sklearn.datasets import load_iris
from torch.distributions import MultivariateNormal

from dgm_utils import data, plot
from lectures.drawing import (
    BLUE,
    BROWN,
    GREEN,
    HALF_WIDTH,
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
    paint,
)
from lectures.lecture2.figures import CURVE_NOISE, curve, curve_joint
from tools import definitions

FOLDER = Path(__file__).parent / "figures"
SEMINAR = FOLDER.parents[2] / "seminars" / "seminar3" / "seminar3.ipynb"
S3 = definitions.load(SEMINAR, "ppca_closed_form", "gaussian_elbo", "draw_vae", "draw_codes")
PLUM = "#8f4a75"  # purple, dark enough for text
DARK = {ORANGE: BROWN, PURPLE: PLUM}  # the colour of words about a curve, where it is not the curve's


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
    options = {"method": "Nelder-Mead", "tol": 1e-7}
    starts = ([start, -1.5] for start in (x[0] - 1, x[0], x[0] + 1))
    fits = [optimize.minimize(lambda q: -curve_bound(x, *q), start, **options) for start in starts]
    best = min(fits, key=lambda fit: fit.fun)
    return -best.fun, *best.x


def encoder(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and log std that a small encoder gives: quadratic in x, six weights each."""
    first, second = x[..., 0], x[..., 1]
    terms = (np.ones_like(first), first, second, first**2, first * second, second**2)
    inputs = np.stack(terms, axis=-1)  # (..., 6)
    return inputs @ weights[:6], inputs @ weights[6:]


@cache
def curve_data(n: int = 2000) -> np.ndarray:
    """Return points drawn from the curved model, (n, 2)."""
    rng = np.random.default_rng(0)
    return curve(rng.normal(size=n)) + CURVE_NOISE * rng.normal(size=(n, 2))


@cache
def fitted_encoder() -> np.ndarray:
    """Return the weights of the quadratic encoder with the highest mean bound on the data."""
    start = [0, 1, 0, 0, 0, 0, -1.5, 0, 0, 0, 0, 0]
    x = curve_data()
    fit = optimize.minimize(
        lambda weights: -curve_bound(x, *encoder(x, weights)).mean(), start, method="BFGS"
    )
    return fit.x.round(4)  # so that a last digit that depends on the machine moves no curve


@cache
def gap_parts(n: int = 200) -> np.ndarray:
    """Return log p of n points, the gap to the best Gaussian's bound, and from there to the encoder's."""
    x = curve_data()[:n]
    log_p, best = curve_log_likelihood(x), np.array([best_gaussian(point)[0] for point in x])
    return np.stack([log_p, log_p - best, best - curve_bound(x, *encoder(x, fitted_encoder()))])


@figure
def two_gaps() -> Figure:
    """Draw log p(x), the best Gaussian bound and the encoder's bound along a line, and one posterior."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 190, columns=2, width_ratios=[1.15, 1])
    heights = np.linspace(-1.5, 1, 51)
    line = np.stack([np.zeros_like(heights), heights], axis=1)  # (51, 2)
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
    posterior /= np.trapezoid(posterior, z)
    right.fill_between(z, posterior, color=PALE)
    right.plot(z, posterior, color=INK, label=r"$p(z\,|\,x)$")
    _, mean, log_std = best_gaussian(seen)  # one of two modes: the left one is drawn
    right.plot(z, stats.norm.pdf(z, -abs(mean), np.exp(log_std)), color=BROWN, label=r"best in $\mathcal{Q}$")
    mean, log_std = encoder(seen, fitted_encoder())
    right.plot(z, stats.norm.pdf(z, mean, np.exp(log_std)), color=PLUM, label="encoder")
    right.set(xlabel="$z$", title="at $x=(0,\\,0.5)$", ylim=(0, None), xlim=(-2.4, 3.4))
    right.legend(loc="upper right", borderaxespad=0)
    hide_left(right)
    return figure


# --- Gradients: z ~ N(mean, std² I_d), h(z) = |z|² / 2, derivative by the first coordinate of the mean ------


def score_variance(d: np.ndarray, mean: float = 1, std: float = 1, *, baseline: bool = False) -> np.ndarray:
    """Return the exact variance of the score-function estimate (h(z) − b) (z_1 − mean) / std², one sample.

    The baseline b is E h(z), or zero.
    """
    rest = np.asarray(d) - 1.0  # coordinates other than the first, whose share of h is independent of it
    rest_mean, rest_variance = rest * (mean**2 + std**2) / 2, rest * (mean**2 * std**2 + std**4 / 2)
    own = (mean**4 + 18 * mean**2 * std**2 + 15 * std**4) / 4
    cross = mean**2 + 3 * std**2
    if baseline:  # takes the rest's mean away, and the first coordinate's own
        centre, rest_mean = (mean**2 + std**2) / 2, 0 * rest_mean
        own = own - centre * cross + centre**2
    return (own + cross * rest_mean + rest_mean**2 + rest_variance) / std**2 - mean**2


def gradient_samples(d: int, n: int, mean: float = 1, std: float = 1, seed: int = 0) -> np.ndarray:
    """Return n estimates (3, n): score function, score function with baseline, reparametrised."""
    noise = np.random.default_rng(seed).normal(size=(n, d))
    z = mean + std * noise
    h = (z**2).sum(axis=1) / 2
    baseline = d * (mean**2 + std**2) / 2
    return np.stack([h * noise[:, 0] / std, (h - baseline) * noise[:, 0] / std, z[:, 0]])


@figure
def gradient_clouds() -> Figure:
    """Draw the histograms of single estimates of one derivative, and running means."""
    figure, axes = canvas(SLIDE_WIDTH, 168, columns=3, width_ratios=[1, 1, 1.15])
    score, _, path = gradient_samples(10, 20_000)
    n = np.unique(np.logspace(0, 4, 120).astype(int))
    for panel, values, colour, title in (
        (axes[0], score, RED, "score function"),
        (axes[1], path, BLUE, "reparametrisation"),
    ):
        panel.hist(values, bins=np.linspace(-45, 45, 91), density=True, color=colour, alpha=0.75)
        panel.axvline(1, color=INK, linestyle="--", linewidth=1.6)
        panel.set(title=title, xlabel="one estimate", xlim=(-45, 45))
        height = panel.get_ylim()[1] * 0.9
        panel.text(44, height, f"sd {values.std():.1f}", color=colour, ha="right", va="top")
        hide_left(panel)
        axes[2].plot(n, values[:10_000].cumsum()[n - 1] / n, color=colour)
    axes[2].axhline(1, color=INK, linestyle="--", linewidth=1.6)
    axes[2].set(xscale="log", xlabel="samples averaged", ylim=(-9, 11), title="running mean")
    log_ticks(axes[2].xaxis, 1, 100, 10_000)
    return figure


def wave_variances(k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variances for h(z) = sin(k z), z ~ N(0, 1): of the score function, of the reparametrised."""
    k = np.asarray(k, dtype=float)
    square = (k * np.exp(-(k**2) / 2)) ** 2
    score = (1 - (1 - 4 * k**2) * np.exp(-2 * k**2)) / 2 - square
    path = k**2 * (1 + np.exp(-2 * k**2)) / 2 - square
    return score, path


def wave_crossing() -> float:
    """Return the k from which the score function has the smaller variance for h = sin(k z)."""
    return optimize.brentq(lambda k: np.subtract(*wave_variances(k)), 0.3, 5)


@figure
def gradient_variance() -> Figure:
    """Draw the exact variances against dimension, against the spread of q, and for a wavy h."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=3)
    d = np.unique(np.logspace(0, np.log10(200), 60).round(3))
    spread = np.logspace(-1.5, 0.5, 60)
    some = (1, 2, 5, 10, 20, 50, 100, 200)
    simulated = np.stack([gradient_samples(n, 20_000).var(axis=1) for n in some], axis=1)  # (3, 8)
    by_dimension = (score_variance(d), score_variance(d, baseline=True), np.ones_like(d))
    by_spread = (score_variance(10, std=spread), score_variance(10, std=spread, baseline=True), spread**2)
    for k, colour in enumerate((RED, ORANGE, BLUE)):
        axes[0].plot(d, by_dimension[k], color=colour)
        axes[0].plot(some, simulated[k], "o", color=colour, markersize=6)
        axes[1].plot(spread, by_spread[k], color=colour)
    k = np.linspace(0.1, 5, 100)
    for values, colour in zip(wave_variances(k), (RED, BLUE), strict=True):
        axes[2].plot(k, values, color=colour)
    axes[0].text(45, 5e3, "score function", color=RED, ha="right", va="bottom")
    axes[0].text(200, 60, "baseline", color=BROWN, ha="right", va="top")
    axes[0].text(200, 1.3, "reparametrised", color=BLUE, ha="right", va="bottom")
    axes[0].set(xscale="log", yscale="log", title="dimension $d$", ylim=(0.4, 4e4), ylabel="variance")
    axes[1].set(xscale="log", yscale="log", title=r"spread $\sigma$ of $q$, $d=10$")
    axes[2].set(title=r"$h(z)=\sin kz$, against $k$", ylim=(0, 8))
    log_ticks(axes[0].xaxis, 1, 10, 100)
    log_ticks(axes[1].xaxis, 0.1, 1)
    for panel in axes[:2]:
        panel.minorticks_off()
    return figure


@figure
def which_reparametrise() -> Figure:
    """Draw z = T(ε, φ) against φ for several ε: normal, exponential, Bernoulli."""
    figure, axes = canvas(SLIDE_WIDTH, 126, columns=3)
    phi = np.linspace(0.02, 2, 100)
    for quantile, colour in zip((0.1, 0.3, 0.5, 0.7, 0.9), (BLUE, SKY, GREEN, ORANGE, RED), strict=True):
        axes[0].plot(phi, 1 + phi * stats.norm.ppf(quantile), color=colour)
        axes[1].plot(phi, -np.log1p(-quantile) / phi, color=colour)
        axes[2].plot([0, quantile, quantile, 1], [0, 0, 1, 1], color=colour)
    axes[0].set(title=r"$z=1+\sigma\varepsilon$", xlabel=r"$\sigma$", ylabel="$z$")
    axes[0].set(ylim=(-2, 4), yticks=[-2, 1, 4])
    axes[1].set(title=r"$z=-\log(1-\varepsilon)\,/\,\lambda$", xlabel=r"$\lambda$")
    axes[1].set(ylim=(0, 6), yticks=[0, 3, 6])
    axes[2].set(title=r"$z=[\,\varepsilon<\phi\,]$", xlabel=r"$\phi$", yticks=[0, 1], ylim=(-0.1, 1.1))
    return figure


# --- The VAE ----------------------------------------------------------------------------------------------


@figure
def architecture() -> Figure:
    """Draw the VAE: encoder, noise, code, decoder, the two terms of the bound, and the way of gradients."""
    figure, axes = canvas(SLIDE_WIDTH, 232)
    S3.draw_vae(axes)
    return figure


def bce_mass(probability: np.ndarray) -> np.ndarray:
    """Return the integral of λ^x (1−λ)^(1−x) over x from 0 to 1."""
    return (1 - probability) * special.exprel(special.logit(probability))


@figure
def bce_grey() -> Figure:
    """Draw how much mass the Bernoulli formula gives to grey values, and its value at a perfect copy."""
    figure, (left, right) = canvas(HALF_WIDTH + 10, 172, columns=2)
    probability = np.linspace(0.001, 0.999, 400)
    left.plot(probability, bce_mass(probability), color=RED)
    left.axhline(1, color=INK, linestyle="--", linewidth=1.6)
    left.text(0.5, 0.96, "a density: 1", ha="center", va="top")
    left.set(xlabel=r"$\lambda$", ylim=(0, 1.08), title="mass on $[0,1]$", xticks=[0, 0.5, 1])
    for x, height, colour in ((0, 1.84, BLUE), (0.3, 1.5, GREEN), (0.6, 1.16, ORANGE)):
        loss = -special.xlogy(x, probability) - special.xlog1py(1 - x, -probability)
        right.plot(probability, loss, color=colour)
        right.plot(x, special.entr(x) + special.entr(1 - x), "o", color=colour, markersize=9)
        text = {"color": DARK.get(colour, colour), "ha": "center", "va": "center"}
        right.text(0.42, height, f"$x={x:g}$", **text)
    right.set(xlabel=r"$\lambda$", ylim=(0, 2), title="BCE, nats", xticks=[0, 0.5, 1])
    return figure


# --- Probabilistic PCA, the linear VAE -------------------------------------------------------------------


@cache
def mnist_spectrum() -> np.ndarray:
    """Return the eigenvalues of the covariance of MNIST's training images, pixels in [0, 1], descending."""
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images]).flatten(1).numpy() / 255  # (60000, 784)
    return np.linalg.eigvalsh(np.cov(images.T, bias=True))[::-1].round(6)


def learned_noise(eigenvalues: np.ndarray, d: int) -> float:
    """Return the noise variance at the maximum of the likelihood: the mean of the discarded eigenvalues."""
    return eigenvalues[d:].mean()


def fixed_noise_log_likelihood(eigenvalues: np.ndarray, d: int, noise: float) -> float:
    """Return the best mean log-likelihood of d-dimensional probabilistic PCA with a fixed noise variance."""
    kept = np.where((np.arange(len(eigenvalues)) < d) & (eigenvalues > noise), eigenvalues, noise)
    return -(np.log(2 * np.pi * kept) + eigenvalues / kept).sum() / 2


LATENTS = 50
ACTIVE = 0.01  # least variance of an active unit's posterior mean, by convention


@figure
def fixed_sigma() -> Figure:
    """Draw MNIST's spectrum with levels of a fixed noise: what is above lives, the rest collapses."""
    spectrum = mnist_spectrum()
    figure, (left, right) = canvas(SLIDE_WIDTH, 195, columns=2, width_ratios=[1.15, 1])
    left.plot(np.arange(1, 101), spectrum[:100], color=INK)
    for noise, colour in ((1.0, RED), (0.3, ORANGE), (0.1, GREEN)):
        count = (spectrum > noise).sum()
        left.axhline(noise, color=colour, linewidth=1.6)
        left.plot(count, spectrum[count - 1], "o", color=colour, markersize=8)
        text = {"color": DARK.get(colour, colour), "ha": "right", "va": "bottom"}
        left.text(100, noise * 1.1, f"$\\sigma^2={noise:g}$: {count} left", **text)
    left.set(yscale="log", xlabel="principal direction $j$", ylim=(0.02, 9), xticks=[1, 25, 50, 75, 100])
    left.set_title(r"eigenvalues $\lambda_j$ of MNIST")
    left.minorticks_off()
    noises = np.logspace(-2, 1.2, 90)
    right.plot(noises, [fixed_noise_log_likelihood(spectrum, LATENTS, noise) for noise in noises], color=BLUE)
    best = learned_noise(spectrum, LATENTS)
    learned = f"learned, $\\sigma={np.sqrt(best):.2f}$"
    for noise, place, text, colour in ((best, 1.8 * best, learned, GREEN), (1, 1.2, r"$\sigma=1$", RED)):
        value = fixed_noise_log_likelihood(spectrum, LATENTS, noise)
        right.plot(noise, value, "o", color=colour, markersize=10)
        right.text(place, value + 60, text, color=colour, va="bottom")
    right.set(xscale="log", xlabel=r"$\sigma^2$", ylim=(-2000, 1000))
    right.set_title(f"best $\\log p$ per image, $d={LATENTS}$")
    log_ticks(right.xaxis, 0.01, 0.1, 1, 10)
    return figure


IRIS = torch.from_numpy(load_iris().data)  # the 150 flowers of lecture 2, (150, 4)


def turned_ppca(angle: float) -> object:
    """Return the most likely probabilistic PCA of iris, d = 2, with its code turned by an angle."""
    best = S3.ppca_closed_form(IRIS, 2)
    c, s = np.cos(angle), np.sin(angle)
    return S3.ProbabilisticPCA(best.mean, best.W @ torch.tensor([[c, -s], [s, c]]), best.variance)


def diagonal_elbo(model: object) -> float:
    """Return the bound on iris with the best diagonal encoder: the posterior's mean, and its precisions."""
    covariance = torch.diag(model.variance / model.M.diagonal())
    q = MultivariateNormal(model.posterior(IRIS).mean, covariance)
    return S3.gaussian_elbo(model, IRIS, q).mean().item()


@figure
def rotation_gap() -> Figure:
    """Draw the exact likelihood and the diagonal encoder's bound against the rotation of the code."""
    figure, axes = canvas(HALF_WIDTH - 20, 205)
    degrees = np.linspace(0, 90, 61)
    log_p = turned_ppca(0).log_prob(IRIS).mean().item()
    bound = [diagonal_elbo(turned_ppca(angle)) for angle in np.radians(degrees)]
    axes.axhline(log_p, color=INK)
    axes.plot(degrees, bound, color=BLUE)
    axes.fill_between(degrees, bound, log_p, color=RED, alpha=0.13)
    axes.plot([0, 90], [log_p, log_p], "o", color=ORANGE, markersize=10, zorder=5)
    axes.text(45, log_p + 0.05, r"$\log p$, the same at every angle", ha="center", va="bottom")
    axes.text(45, log_p - 0.4, "KL", ha="center", color=RED, fontsize=17)
    axes.text(45, min(bound) - 0.05, r"$\mathcal{L}$, best diagonal $q$", ha="center", va="top", color=BLUE)
    axes.set(xlabel="rotation of $z$, degrees", ylabel="nats per flower")
    axes.set(ylim=(-3.8, -2.45), xticks=[0, 45, 90])
    return figure


# --- The best ELBO in the plane: x ~ N(0, Σ), a linear decoder with noise variance σ² ----------------------

PLANE = np.array([[1.0, 0.8], [0.8, 1.0]])
PLANE_EIGENVALUES = np.array([1.8, 0.2])
PLANE_ENTROPY = stats.multivariate_normal([0, 0], PLANE).entropy()


def best_split(noise: float) -> tuple[float, float]:
    """Return reconstruction and KL of the best linear VAE in the plane at a fixed noise variance, d = 2."""
    kept = np.maximum(PLANE_EIGENVALUES, noise)  # variances of the model
    posterior = noise / kept  # variance of each code given x
    means = (kept - noise) / kept**2 * PLANE_EIGENVALUES  # second moment of each posterior mean over data
    squares = (PLANE_EIGENVALUES * posterior**2 + (kept - noise) * posterior).sum()
    reconstruction = -squares / (2 * noise) - np.log(2 * np.pi * noise)
    return reconstruction, (means + posterior - 1 - np.log(posterior)).sum() / 2


@figure
def optimal_split() -> Figure:
    """Draw the data's ellipse with the decoder's circles, and how the best ELBO splits against σ²."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2, width_ratios=[0.62, 1.25])
    plot.ellipse(left, [0, 0], PLANE, 2, edgecolor=INK, linewidth=2.4)
    along, across = np.array([1, 1]) / np.sqrt(2), np.array([-1, 1]) / np.sqrt(2)
    disc = {"fill": True, "facecolor": SKY, "edgecolor": BLUE, "alpha": 0.4, "linewidth": 1}
    for first in (-1.5, -0.75, 0, 0.75, 1.5):
        for second in (-1, 1):
            centre = first * np.sqrt(1.8 - 0.1) * along + second * np.sqrt(0.2 - 0.1) * across
            plot.ellipse(left, centre, [0.1, 0.1], **disc)
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


# --- MLE, MAP, full Bayes: the mean of a normal, prior N(0, 1) ----------------------------------------------


def excess(n: np.ndarray) -> dict[str, np.ndarray]:
    """Return the expected loss above the entropy, nats per dimension, of three predictions after n points."""
    n = np.asarray(n, dtype=float)
    spread = 1 / (n + 1)  # posterior variance
    return {"MLE": 1 / (2 * n), "MAP": spread / 2, "full Bayes": np.log1p(spread) / 2}


@figure
def mle_map_bayes() -> Figure:
    """Draw what MLE, MAP and full Bayes lose against the number of data points."""
    figure, axes = canvas(HALF_WIDTH - 30, 205)
    n, some = np.unique(np.logspace(0, 2, 60).round(2)), [1, 2, 5, 10, 100]
    for name, height, text, colour in (
        ("MLE", 0.46, "MLE: $1/2n$", RED),
        ("MAP", 0.38, "MAP: $v/2$", ORANGE),
        ("full Bayes", 0.30, r"Bayes: $\frac{1}{2}\log(1+v)$", BLUE),
    ):
        axes.plot(n, excess(n)[name], color=colour)
        axes.plot(some, excess(some)[name], "o", color=colour)
        axes.text(7, height, text, color=DARK.get(colour, colour))
    axes.set(xscale="log", xlabel="data points $n$", ylabel="nats above the entropy", ylim=(0, 0.55))
    log_ticks(axes.xaxis, 1, 10, 100)
    return figure


# Three heads, prior Beta(2, 2), in log-odds ψ, lecture 2: p(X, ψ) = θ³ · 6 θ (1 − θ) · θ (1 − θ), p(X) = 1/5


def coin_log_joint(psi: np.ndarray) -> np.ndarray:
    """Return log p(X, ψ) of three heads and a Beta(2, 2) prior, ψ the log-odds."""
    return np.log(6) + 5 * special.log_expit(psi) + 2 * special.log_expit(-psi)


def coin_bound(centre: np.ndarray, spread: float) -> np.ndarray:
    """Return the bound on log p(X) with q(ψ) = N(centre, spread²), by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    values = coin_log_joint(np.asarray(centre)[..., None] + spread * points)  # (..., 60)
    return values @ (weights / weights.sum()) + np.log(2 * np.pi * np.e * spread**2) / 2


@figure
def shrinking_q() -> Figure:
    """Draw the bound with q(θ) = N(θ0, s²) over θ0 for smaller and smaller s: its maximum nears the MAP."""
    figure, axes = canvas(HALF_WIDTH - 30, 205)
    centre = np.linspace(-3, 4, 200)
    for spread, colour in ((0.6, BLUE), (0.1, GREEN), (0.02, ORANGE), (0.002, RED)):
        bound = coin_bound(centre, spread)
        axes.plot(centre, bound, color=colour)
        axes.text(4.1, bound[-1], f"$s={spread:g}$", color=DARK.get(colour, colour), va="center")
        axes.plot(centre[bound.argmax()], bound.max(), "o", color=colour)
    axes.axhline(np.log(1 / 5), color=INK, linestyle="--", linewidth=1.6)
    axes.text(-2.9, np.log(1 / 5) + 0.2, r"$\log p(X)$", va="bottom")
    axes.set(xlabel=r"centre $\psi_0$ of $q$ (log-odds)", ylabel="nats", ylim=(-13, 0.6), xlim=(-3, 5.6))
    return figure


# --- What the trained models show -------------------------------------------------------------------------


@cache
def stored() -> dict[str, np.ndarray]:
    """Return the arrays of the trained models."""
    with np.load(FOLDER / "vae_digits.npz") as arrays:
        return dict(arrays)


def pictures(name: str) -> np.ndarray:
    """Return stored images, bits or bytes (..., 784), as (..., 28, 28) from 0 to 1."""
    images = stored()[name]
    return images.reshape(*images.shape[:-1], 28, 28) / (1 if images.dtype == bool else 255)


@figure
def vae_samples() -> Figure:
    """Draw test images, their reconstructions, and samples of the larger VAE: probabilities, then coins."""
    sampled = pictures("sampled")
    rows = {
        "test images": pictures("test"),
        "reconstructed": pictures("reconstructed"),
        "$z$ from prior,\nprobabilities": sampled,
        "samples:\ncoins thrown": np.random.default_rng(0).random(sampled.shape) < sampled,
    }
    return digits(rows, SLIDE_WIDTH, 240)


@figure
def latent_map() -> Figure:
    """Draw posterior means of test images by class, and the decoder over the plane."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 303, columns=2)
    means, labels = (torch.from_numpy(stored()[f"plane_{name}"]) for name in ("means", "labels"))
    shares = torch.special.ndtr(means.double())  # of the prior to the left and below: both panels' axes
    S3.draw_codes(left, shares, labels, apart=0.11, fontsize=17, fontweight=600)
    ticks = np.array([-2, -1, 0, 1, 2])
    left.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal", xlim=(0, 1), ylim=(0, 1))
    left.set_xticks(stats.norm.cdf(ticks), ticks)
    left.set_yticks(stats.norm.cdf(ticks), ticks)
    tiled = stored()["plane_decoded"].transpose(0, 2, 1, 3).reshape(12 * 14, 12 * 14) / 255
    draw_pixels(right, np.round(tiled * 7) / 7, lambda v: str(round(1 - v, 3)) if v else None)
    right.set(xlabel="$z_1$, on the same axes", ylabel="$z_2$")
    return figure


@figure
def interpolation() -> Figure:
    """Draw a path between two codes, decoded, above the same path between the images."""
    first, second = pictures("between_ends")
    steps = np.linspace(0, 1, 9)[:, None, None]
    mixed = np.round(((1 - steps) * first + steps * second) * 255) / 255  # (9, 28, 28), in bytes as the codes
    rows = {"between codes": pictures("between"), "between pixels": mixed}
    return digits(rows, SLIDE_WIDTH, 165)


@figure
def blur() -> Figure:
    """Draw images that share a code, their mean by weight, and what the decoder makes of the code."""
    figure, axes = canvas(SLIDE_WIDTH, 222, columns=9, rows=3, width_ratios=[1] * 6 + [0.25, 1, 1])
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    rows = zip(pictures("shared_images"), pictures("shared_mean"), pictures("shared_decoded"), strict=True)
    for line, (images, mean, decoded) in zip(axes, rows, strict=True):
        for panel, image in zip([*line[:6], line[7], line[8]], [*images, mean, decoded], strict=True):
            paint(panel, image)
        line[6].set_visible(False)
    axes[0][2].set_title("images, drawn by $q(x\\,|\\,z)$", loc="left")
    axes[0][7].set_title("E$[x\\,|\\,z]$")
    axes[0][8].set_title("decoder")
    return figure


def draw_aggregate(axes: Axes) -> None:
    """Draw the aggregate posterior, the prior's circles, and the border below a tenth of the prior."""
    blues = ("#e3eef8", "#b9d5ea", "#86b9dc", "#5397c8", "#2b73ae", "#0c4d8a")
    fine, axis = np.linspace(-4, 4, 321)[:320], np.linspace(-3.9625, 3.9375, 80)  # centres of 4 by 4 points
    assert np.allclose(fine.reshape(80, 4).mean(axis=1), axis)
    density = np.exp(stored()["log_q"].astype(float))[:320, :320].reshape(80, 4, 80, 4).mean(axis=(1, 3))
    log_q = np.log(density).T
    squares = axis**2 + axis[:, None] ** 2
    levels = [0.002, 0.02, 0.05, 0.09, 0.14, 0.2, 2]
    axes.contourf(axis, axis, np.exp(log_q).round(5), levels=levels, colors=blues)
    ratio = np.where(squares < 9.2, log_q + squares / 2 + np.log(2 * np.pi), 0).round(3)
    axes.contour(axis, axis, ratio, levels=[np.log(0.1)], colors=[RED], linestyles="solid", linewidths=1.4)
    for share in (0.5, 0.9, 0.99):
        radius = np.sqrt(-2 * np.log(1 - share))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=INK, linewidth=1.2, linestyle="--"))
    axes.set(aspect="equal", xlim=(-3.3, 3.3), ylim=(-3.3, 3.3), xticks=[-2, 0, 2], yticks=[-2, 0, 2])


@figure
def holes() -> Figure:
    """Draw the aggregate posterior against the prior, and decoded draws of the prior, five in holes."""
    figure = Figure(figsize=(SLIDE_WIDTH / 72, 255 / 72))
    grid = figure.add_gridspec(2, 6, width_ratios=[3.3, 1, 1, 1, 1, 1])
    left = figure.add_subplot(grid[:, 0])
    draw_aggregate(left)
    for row, name, title, colour, marker in (
        (0, "dense", "draws of the prior outside holes", GREEN, "s"),
        (1, "hole", "draws of the prior in holes", RED, "o"),
    ):
        left.plot(*stored()[f"{name}_z"].T, marker, color=colour, markersize=8)
        for column, image in enumerate(pictures(f"{name}_images"), start=1):
            panel = figure.add_subplot(grid[row, column])
            paint(panel, image)
            panel.spines[:].set_color(colour)
            if column == 3:
                panel.set_title(title, color=colour)
    return figure


@figure
def active_units() -> Figure:
    """Draw KL and variance of the posterior mean of each unit of the larger VAE, and the convention."""
    kl, variance = stored()["units_kl"], stored()["units_variance"]
    order, active = kl.argsort()[::-1], int((variance > ACTIVE).sum())
    figure, axes = canvas(HALF_WIDTH - 20, 215)
    units = np.arange(1, len(kl) + 1)
    axes.plot(units, kl[order].round(5), "o-", color=BLUE, markersize=5)
    axes.plot(units, variance[order].round(5), "s", color=RED, markersize=5)
    axes.axhline(ACTIVE, color=INK, linestyle=":", linewidth=1.6)
    axes.text(51, 1.2 * ACTIVE, f"convention: {ACTIVE}", ha="right", va="bottom")
    axes.text(active + 3, 1.6, "KL, nats", color=BLUE, va="center")
    axes.text(active + 3, 0.5, "variance of the mean", color=RED, va="center")
    lowest = min(kl.min(), variance.min())
    axes.set(yscale="log", xlabel="latent unit, sorted", xlim=(0, 52), ylim=(min(5e-5, lowest / 2), 5))
    log_ticks(axes.yaxis, 0.0001, 0.01, 1)
    return figure


# --- Numbers -----------------------------------------------------------------------------------------------


def prior_mass_in_holes(ratio: float = 0.1, radius: float = np.inf) -> float:
    """Return the share of the prior, inside a radius, where q(z) is below `ratio` times the prior."""
    axis = np.linspace(-4, 4, 321)
    log_prior = stats.norm.logpdf(axis)[:, None] + stats.norm.logpdf(axis)  # (321, 321)
    hole = stored()["log_q"].astype(float) < log_prior + np.log(ratio)
    prior = np.exp(log_prior)
    return prior[hole & (np.hypot(axis[:, None], axis) < radius)].sum() / prior.sum()


def active_range() -> tuple[float, float]:
    """Return the ends of the thresholds that give as many active units as 0.01: three digits, inwards."""
    variance = stored()["units_variance"].astype(float)
    low, high = variance[variance <= ACTIVE].max(), variance[variance > ACTIVE].min()
    return np.ceil(1000 * low) / 1000, np.floor(1000 * high) / 1000


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    arrays = stored()
    gaps = gap_parts()
    spectrum = mnist_spectrum()
    learned = learned_noise(spectrum, LATENTS)
    at_learned, at_one = (fixed_noise_log_likelihood(spectrum, LATENTS, noise) for noise in (learned, 1.0))
    active = arrays["units_variance"] > ACTIVE
    models = {}
    for d in (2, 50):
        reconstruction, kl = float(arrays[f"reconstruction_{d}"]), float(arrays[f"kl_{d}"])
        models[f"vae_{d}"] = {
            "reconstruction": fixed(reconstruction, 1),
            "kl": fixed(kl, 1),
            "elbo": fixed(reconstruction - kl, 1),
            "minus_elbo": fixed(kl - reconstruction, 1),
            "minus_bound": fixed(-arrays[f"bound_first_{d}"], 1),
            "minus_estimate": fixed(-arrays[f"estimate_first_{d}"], 1),
            "error": fixed(arrays[f"error_first_{d}"], 1),
            "passes": f"{int(arrays[f'passes_{d}']):,}",
        }
    return {
        "gap_log_p": fixed(gaps[0].mean(), 2),
        "gap_approximation": fixed(gaps[1].mean(), 2),
        "gap_amortisation": fixed(gaps[2].mean(), 2),
        "gap_errors": fixed(gaps[[0, 2]].std(axis=1) / gaps.shape[1] ** 0.5, 2),
        "missing_nats": f"{784 * np.log(2):.0f}",
        "score_variance_10": f"{score_variance(10):.0f}",
        "centred_variance_10": f"{score_variance(10, baseline=True):.0f}",
        "score_variance_100": f"{score_variance(100):,.0f}",
        "wave_at_3": fixed(wave_variances(3.0), 2),
        "wave_crossing": fixed(wave_crossing(), 2),
        "surviving": [int((spectrum > noise).sum()) for noise in (392, 1, 0.5, 0.1)],
        "largest_eigenvalue": fixed(spectrum[0], 2),
        "learned_sigma": fixed(np.sqrt(learned), 3),
        "fixed_sigma_loss": f"{at_learned - at_one:,.0f}",
        "iris_log_p": fixed(turned_ppca(0).log_prob(IRIS).mean().item(), 4),
        "iris_rotated": fixed(diagonal_elbo(turned_ppca(np.pi / 4)), 4),
        "plane_best": fixed(-PLANE_ENTROPY, 3),
        "plane_split_sharp": fixed(best_split(0.02), 2),
        "plane_split_wide": fixed(best_split(0.2), 2),
        "excess_1": fixed(list(excess(1).values()), 3),
        "excess_100": fixed(list(excess(100).values()), 4),
        **models,
        "active": int(active.sum()),
        "active_kl": fixed([arrays["units_kl"][active].min(), arrays["units_kl"][active].max()], 1),
        "idle_kl": fixed(np.ceil(1000 * arrays["units_kl"][~active].max()) / 1000, 3),
        "active_range": fixed(active_range(), 3),
        "code_squares": fixed(arrays["squares"], 0),
        "path_squares": fixed(arrays["between_squares"][[0, 4, 8]], 0),
        "shared_size": [f"{v:.0f}" for v in arrays["shared_size"]],
        "hole_share": fixed(100 * prior_mass_in_holes(), 1),
        "seam_share": fixed(100 * prior_mass_in_holes(radius=2.5), 1),
    }
