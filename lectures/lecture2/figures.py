"""Draw the figures of lecture 2, check what its slides claim, and compute the numbers that they print.

    python -m lectures.drawing lecture2 [FOLDER]

Everything is exact, or simulated with a fixed seed; nothing is copied by hand. `check` tests each formula of
the deck numerically, and no figure is written if one fails. The numbers go to `numbers.json`, which the deck
reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy import integrate, special, stats
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

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
    scientific,
)

FOLDER = Path(__file__).parent / "figures"
BLUE, ORANGE, GREEN, RED = (PALETTE[name] for name in ("blue", "orange", "green", "red"))
SKY = PALETTE["sky"]


# --- Bayes' theorem ---------------------------------------------------------------------------------------

PREVALENCE, SENSITIVITY, FALSE_ALARM = 0.01, 0.90, 0.09


def posterior_of_illness(prior: float) -> float:
    """Return the probability of illness after one positive test."""
    joint = np.array([prior * SENSITIVITY, (1 - prior) * FALSE_ALARM])
    return float(joint[0] / joint.sum())


@figure
def medical_test() -> Figure:
    """Draw a thousand people, the ill ones and the positive ones coloured."""
    people = np.zeros(1000, dtype=int)
    ill, found, alarmed = 10, 9, 89
    people[:found], people[found:ill], people[ill : ill + alarmed] = 1, 2, 3
    figure, axes = canvas(SLIDE_WIDTH * 0.62, 215)
    draw_pixels(axes, people.reshape(50, 20).T, {0: PALE, 1: RED, 2: PALETTE["black"], 3: SKY}.get)
    axes.set_xticks(np.arange(51) - 0.5, minor=True)
    axes.set_yticks(np.arange(21) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.4)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    legend = [
        (RED, "9 ill, positive"),
        (PALETTE["black"], "1 ill, negative"),
        (SKY, "89 healthy, positive"),
        (PALE, "901 healthy, negative"),
    ]
    handles = [
        axes.plot([], [], "s", color=colour, markersize=11, label=label)[0] for colour, label in legend
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
    return figure


def tosses(n: int) -> int:
    """Return the heads in the first n of a thousand simulated tosses of a coin that shows heads at 0.7."""
    return int((np.random.default_rng(1).random(1000)[:n] < 0.7).sum())


def beta_posterior(heads: int, n: int, a: float = 2, b: float = 2) -> tuple[float, float]:
    """Return the parameters of the Beta posterior of a coin."""
    return a + heads, b + n - heads


@figure
def posterior_shrinks() -> Figure:
    """Draw the posterior of a coin after more and more tosses, and its central 95 % interval."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 235, columns=2)
    theta = np.linspace(0, 1, 601)
    for n, colour in ((0, MUTED), (3, ORANGE), (10, GREEN), (50, SKY), (200, BLUE)):
        posterior = stats.beta(*beta_posterior(tosses(n), n))
        left.plot(theta, posterior.pdf(theta), color=colour, label=f"$n={n}$" + (", prior" if n == 0 else ""))
    left.axvline(0.7, color=INK, linestyle="--", linewidth=1.4)
    left.set(xlabel=r"$\theta$", ylim=(0, 13.5), xlim=(0, 1))
    left.legend(loc="upper left")
    hide_left(left)
    sizes = np.unique(np.logspace(0, 3, 40).astype(int))
    posteriors = [stats.beta(*beta_posterior(tosses(n), n)) for n in sizes]
    low, high = np.array([posterior.interval(0.95) for posterior in posteriors]).T
    right.fill_between(sizes, low, high, color=SKY, alpha=0.4, label="95 % of the posterior")
    right.plot(sizes, [posterior.mean() for posterior in posteriors], color=BLUE, label="posterior mean")
    right.plot(sizes, [tosses(n) / n for n in sizes], ".", color=RED, label="MLE", markersize=9)
    right.axhline(0.7, color=INK, linestyle="--", linewidth=1.4)
    right.set(xscale="log", xlabel="tosses $n$", ylabel=r"$\theta$", ylim=(0, 1.05))
    right.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    right.legend(loc="lower right", labelspacing=0.2, borderaxespad=0)
    return figure


THREE_HEADS = beta_posterior(3, 3)  # Beta(5, 2)


@figure
def predictive() -> Figure:
    """Draw what three heads say about the next ten tosses: MLE, MAP, and the average over the posterior."""
    a, b = THREE_HEADS
    k = np.arange(11)
    figure, axes = canvas(SLIDE_WIDTH, 215, columns=3, sharey=True)
    panels = (
        ("MLE plugged in, $\\hat\\theta=1$", stats.binom.pmf(k, 10, 1.0), RED),
        ("MAP plugged in, $\\hat\\theta=0.8$", stats.binom.pmf(k, 10, 0.8), ORANGE),
        ("predictive, averaged over $\\theta$", stats.betabinom.pmf(k, 10, a, b), BLUE),
    )
    for panel, (title, probability, colour) in zip(axes, panels, strict=True):
        panel.bar(k, probability, color=colour, width=0.8)
        panel.set(title=title, xlabel="heads in the next ten", xticks=[0, 5, 10], ylim=(0, 0.42))
    axes[0].annotate("1", (10, 0.415), (8.3, 0.36), color=RED, arrowprops={"arrowstyle": "->", "color": RED})
    axes[0].set_ylabel("probability")
    return figure


MAPS = {"theta": 0.8, "logit": 5 / 7, "square": 3 / 4}  # of Beta(5, 2): modes, expressed as a value of theta


def transformed_density(name: str, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a function of theta and the density of that function when theta is Beta(5, 2)."""
    density = stats.beta.pdf(theta, *THREE_HEADS)
    if name == "theta":
        return theta, density
    if name == "logit":
        return special.logit(theta), density * theta * (1 - theta)
    return theta**2, density / (2 * theta)


@figure
def map_moves() -> Figure:
    """Draw one posterior in three coordinates with its modes, which are different values of theta."""
    theta = np.linspace(0.002, 0.998, 4000)
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=3)
    labels = {"theta": r"$\theta$", "logit": r"$\log\,\frac{\theta}{1-\theta}$", "square": r"$\theta^2$"}
    for panel, (name, label) in zip(axes, labels.items(), strict=True):
        value, density = transformed_density(name, theta)
        best = density.argmax()
        panel.fill_between(value[::20], density[::20], color=SKY, alpha=0.35)
        panel.plot(value[::20], density[::20], color=BLUE)
        panel.plot([value[best]] * 2, [0, density[best]], color=RED, linestyle="--")
        panel.set_title(f"mode at $\\theta={theta[best]:.3f}$", color=RED)
        panel.set(xlabel=label, ylim=(0, density.max() * 1.1))
        hide_left(panel)
    axes[1].set_xlim(-3, 5)
    return figure


def distance_to_normal(n: int, a: float, b: float, theta: float = 0.3) -> float:
    """Return the total variation between a coin's posterior, n*theta heads seen, and its normal limit."""
    posterior = stats.beta(*beta_posterior(round(n * theta), n, a, b))
    spread = np.sqrt(theta * (1 - theta) / n)
    x = np.linspace(max(1e-9, theta - 12 * spread), min(1 - 1e-9, theta + 12 * spread), 200_001)
    normal = stats.norm(theta, spread)
    inside = np.trapezoid(np.abs(posterior.pdf(x) - normal.pdf(x)), x)
    outside = 2 - np.trapezoid(posterior.pdf(x), x) - np.trapezoid(normal.pdf(x), x)
    return float((inside + outside) / 2)


@figure
def bernstein_von_mises() -> Figure:
    """Draw a coin's posterior under two priors against the normal limit, and the distance against n."""
    figure, axes = canvas(SLIDE_WIDTH, 215, columns=3, width_ratios=[1, 1, 1.15])
    priors = (((2, 2), BLUE), ((12, 3), RED))
    for panel, n in zip(axes[:2], (10, 1000), strict=True):
        spread = np.sqrt(0.3 * 0.7 / n)
        x = np.linspace(max(0.001, 0.3 - 4 * spread), min(0.999, 0.3 + 5 * spread), 500)
        for (a, b), colour in priors:
            panel.plot(x, stats.beta.pdf(x, *beta_posterior(round(0.3 * n), n, a, b)), color=colour)
        panel.plot(x, stats.norm.pdf(x, 0.3, spread), "--", color=INK, linewidth=1.6)
        panel.set(title=f"$n={n}$", xlabel=r"$\theta$")
        hide_left(panel)
    sizes = np.array([10, 30, 100, 300, 1000, 3000, 10_000])
    for (a, b), colour in priors:
        distances = [distance_to_normal(n, a, b) for n in sizes]
        axes[2].plot(sizes, distances, "o-", color=colour, label=f"prior Beta({a}, {b})")
    axes[2].plot(sizes, 1 / np.sqrt(sizes), ":", color=MUTED, label=r"$1/\sqrt{n}$")
    axes[2].set(xscale="log", yscale="log", xlabel="$n$", ylabel="total variation", ylim=(2e-5, 2))
    axes[2].minorticks_off()
    axes[2].legend(loc="lower left", borderaxespad=0)
    return figure


# --- Latent variable models -------------------------------------------------------------------------------

WEIGHTS, MEANS, SCALES = np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.6, 1.0, 0.5])


def mixture_1d(x: np.ndarray) -> np.ndarray:
    """Return the joint densities w_c N(x; mean_c, scale_c^2) of the three-component example, (n, 3)."""
    return WEIGHTS * stats.norm.pdf(np.asarray(x)[..., None], MEANS, SCALES)


@figure
def mixture_pieces() -> Figure:
    """Draw a mixture of three normals, its weighted pieces, and the posterior of the component given x."""
    x = np.linspace(-5, 5.5, 600)
    joint = mixture_1d(x)
    figure, (left, right) = canvas(SLIDE_WIDTH, 180, columns=2)
    colours = (BLUE, ORANGE, GREEN)
    left.plot(x, joint.sum(axis=1), color=INK, linewidth=3)
    for c, colour in enumerate(colours):
        left.plot(x, joint[:, c], color=colour, linewidth=2)
    left.annotate("$p(x)$", (1.6, 0.13), (2.2, 0.2), fontsize=17)
    left.set(xlabel="$x$", title="pieces $w_c\\,\\mathcal{N}(x;\\mu_c,\\sigma_c^2)$ and their sum")
    hide_left(left)
    right.stackplot(x, (joint / joint.sum(axis=1, keepdims=True)).T, colors=colours, alpha=0.75)
    for c, place in enumerate((-3.6, 0.6, 3.3)):
        right.text(place, 0.5, f"$c={c + 1}$", ha="center", va="center", fontsize=17, color="white")
    right.set(xlabel="$x$", ylim=(0, 1), xlim=(-5, 5.5), yticks=[0, 0.5, 1], title="$p(z=c\\,|\\,x)$")
    return figure


LOADINGS, NOISE = np.array([[1.5], [0.9]]), 0.5  # of the probabilistic PCA example: W (m, d), sigma


def ppca_posterior(x: np.ndarray, loadings: np.ndarray, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of z given x (mean of the data zero) in probabilistic PCA."""
    inner = loadings.T @ loadings + noise**2 * np.eye(loadings.shape[1])
    return np.linalg.solve(inner, loadings.T @ x), noise**2 * np.linalg.inv(inner)


@figure
def ppca() -> Figure:
    """Draw probabilistic PCA in the plane: points, the line that z moves along, the marginal's ellipse."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(150, 1))
    x = z @ LOADINGS.T + NOISE * rng.normal(size=(150, 2))
    figure, axes = canvas(270, 190)
    axes.plot(*x.T, ".", color=SKY, markersize=6)
    axes.plot(*(LOADINGS * np.array([-2.5, 2.5])), color=INK, linewidth=2)
    marginal = LOADINGS @ LOADINGS.T + NOISE**2 * np.eye(2)
    ellipse(axes, np.zeros(2), marginal, edgecolor=BLUE, linewidth=2.4)
    seen = np.array([0.2, 2.2])
    mean, covariance = ppca_posterior(seen, LOADINGS, NOISE)
    ends = LOADINGS * (mean + 2 * np.sqrt(covariance[0, 0]) * np.array([-1, 1]))
    axes.plot(*ends, color=ORANGE, linewidth=6, solid_capstyle="round")
    axes.plot(*seen, "o", color=RED, markersize=9)
    axes.plot(*zip(seen, LOADINGS @ mean, strict=True), ":", color=RED)
    axes.text(0.35, 2.35, "$x$", color=RED, fontsize=17)
    axes.text(-0.6, -2.3, r"$W z$ with $z\sim p(z\,|\,x)$", color=BROWN)
    axes.text(-3.9, 2.6, r"2 s.d. of $p(x)$", color=BLUE)
    axes.set(xlim=(-4.1, 4.6), ylim=(-3.1, 3.3), aspect="equal", xticks=[], yticks=[])
    return figure


def curve(z: np.ndarray) -> np.ndarray:
    """Return the decoder of the quadrature example: the mean of x given z, on a parabola."""
    return np.stack([z, 0.7 * z**2 - 1], axis=-1)


CURVE_NOISE = 0.3


def curve_joint(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return p(x|z) p(z), (n, number of z), for the curved decoder and normal z."""
    squares = ((x[:, None, :] - curve(z)) ** 2).sum(axis=-1)
    return np.exp(-squares / (2 * CURVE_NOISE**2)) / (2 * np.pi * CURVE_NOISE**2) * stats.norm.pdf(z)


@figure
def curve_marginal() -> Figure:
    """Draw a density in the plane made from one normal z by a curved decoder, and a posterior of z."""
    z = np.linspace(-5, 5, 401)
    first, second = np.meshgrid(np.linspace(-3, 3, 110), np.linspace(-2, 3, 90))
    grid = np.stack([first.ravel(), second.ravel()], axis=1)
    # Rounded, so that a last digit that depends on the machine moves no contour.
    density = np.trapezoid(curve_joint(grid, z), z, axis=1).reshape(first.shape).round(5)
    seen = np.array([[0.0, 0.5]])
    posterior = curve_joint(seen, z)[0]
    posterior /= np.trapezoid(posterior, z)
    figure, axes = canvas(SLIDE_WIDTH, 192, columns=3, width_ratios=[0.8, 1.2, 1])
    axes[0].fill_between(z, stats.norm.pdf(z), color=PALE)
    axes[0].plot(z, stats.norm.pdf(z), color=MUTED)
    axes[0].set(title="$p(z)$", xlabel="$z$", xlim=(-3.17, 3.17), ylim=(0, 0.47))
    hide_left(axes[0])
    levels = density.max() * np.array([0.01, 0.04, 0.09, 0.16, 0.25, 0.4, 0.6, 0.8, 1])
    axes[1].contourf(first, second, density, levels=levels, cmap="Blues")
    axes[1].plot(*curve(np.linspace(-1.9, 1.9, 100)).T, color=INK, linewidth=1.4)
    axes[1].plot(*seen[0], "o", color=RED, markersize=9)
    axes[1].text(0.2, 0.6, "$x$", color=RED, fontsize=17)
    axes[1].set(title=r"$p(x)=\int p(x\,|\,z)\,p(z)\,\mathrm{d}z$", xticks=[], yticks=[], xlim=(-2.6, 2.6))
    axes[1].set(ylim=(-1.9, 2.4))
    axes[2].plot(z, posterior, color=RED)
    axes[2].fill_between(z, posterior, color=RED, alpha=0.2)
    axes[2].set(title=r"$p(z\,|\,x)$", xlabel="$z$", xlim=(-3.17, 3.17), ylim=(0, None))
    hide_left(axes[2])
    return figure


# The Monte Carlo example: z ~ N(0, I_d), x|z ~ N(z, 1/4 I), so x ~ N(0, 5/4 I); x at a typical place.
SPREAD = 0.5
MARGINAL_VARIANCE = 1 + SPREAD**2
TYPICAL = np.sqrt(MARGINAL_VARIANCE)
LOG_MARGINAL = float(stats.norm.logpdf(TYPICAL, 0, np.sqrt(MARGINAL_VARIANCE)))  # of one coordinate
POSTERIOR_MEAN, POSTERIOR_VARIANCE = TYPICAL / MARGINAL_VARIANCE, SPREAD**2 / MARGINAL_VARIANCE


def second_moment_ratio() -> float:
    """Return r = E p(x|z)^2 / p(x)^2 of one coordinate at the typical x."""
    square = stats.norm.pdf(TYPICAL, 0, np.sqrt(1 + SPREAD**2 / 2)) / (2 * SPREAD * np.sqrt(np.pi))
    return float(square / np.exp(2 * LOG_MARGINAL))


def monte_carlo_errors(d: int, samples: int, repeats: int, seed: int = 0) -> np.ndarray:
    """Return log of the Monte Carlo estimate minus the exact log p(x), for independent repetitions."""
    rng, errors = np.random.default_rng(seed), []
    for _ in range(repeats):
        z = rng.normal(size=(samples, d))
        log_p = stats.norm.logpdf(TYPICAL, 0, SPREAD) * d - ((z**2 - 2 * TYPICAL * z).sum(axis=1)) / (
            2 * SPREAD**2
        )
        errors.append(special.logsumexp(log_p) - np.log(samples) - d * LOG_MARGINAL)
    return np.array(errors)


def samples_needed(d: np.ndarray, relative_error: float = 0.1) -> np.ndarray:
    """Return how many samples bring the relative standard deviation of the estimate to `relative_error`."""
    return (second_moment_ratio() ** np.asarray(d, dtype=float) - 1) / relative_error**2


DIMENSIONS = np.array([1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20])


@figure
def monte_carlo_dimension() -> Figure:
    """Draw the error of the Monte Carlo log-likelihood against the dimension, and the samples needed."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 215, columns=2)
    errors = np.array([monte_carlo_errors(d, 1000, 200) for d in DIMENSIONS])
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95], axis=1)
    left.axhline(0, color=INK, linestyle="--", linewidth=1.6)
    left.fill_between(DIMENSIONS, low, high, color=SKY, alpha=0.45, label="5 % to 95 % of 200 runs")
    left.plot(DIMENSIONS, middle, "o-", color=BLUE, label="median")
    left.plot(DIMENSIONS, errors.mean(axis=1), "s", color=RED, label="mean", markersize=6)
    left.text(20.4, 0.7, r"exact $\log p(x)$", ha="right")
    left.set(xlabel="dimension $d$ of $z$", ylabel="error in nats", title="1,000 samples", ylim=(None, 3))
    left.set_xticks([1, 5, 10, 15, 20])
    left.legend(loc="lower left")
    d = np.arange(1, 51)
    right.plot(d, samples_needed(d), color=RED)
    right.text(50, 1e4, "naive Monte Carlo, 10 % error", color=RED, ha="right", va="center")
    right.plot(d, 50.0**d, color=MUTED)
    right.text(25, 1e30, "a grid of 50\npoints an axis", color=MUTED)
    right.set(yscale="log", xlabel="dimension $d$ of $z$", title="evaluations of $p(x|z)$", ylim=(1, 1e45))
    right.set_xticks([1, 10, 20, 30, 40, 50])
    return figure


# --- The bound --------------------------------------------------------------------------------------------

BOUND_X = 1.0  # the observation of the two-component example
TWO_WEIGHTS, TWO_MEANS = np.array([0.6, 0.4]), np.array([0.0, 2.5])


def two_component_bound(q: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return the bound for q(z=1) = q, log p(x), and the posterior of z = 1, for two normals in 1-D."""
    log_joint = np.log(TWO_WEIGHTS) + stats.norm.logpdf(BOUND_X, TWO_MEANS)
    log_p = special.logsumexp(log_joint)
    bound = q * log_joint[0] + (1 - q) * log_joint[1] + special.entr(q) + special.entr(1 - q)
    return bound, float(log_p), float(np.exp(log_joint[0] - log_p))


@figure
def bound_gap() -> Figure:
    """Draw the bound as a function of q with the log-likelihood above it and the KL divergence between."""
    q = np.linspace(0, 1, 401)
    bound, log_p, posterior = two_component_bound(q)
    figure, axes = canvas(SLIDE_WIDTH * 0.56, 265)
    axes.axhline(log_p, color=INK, linewidth=2.4)
    axes.plot(q, bound, color=BLUE, linewidth=3)
    axes.fill_between(q, bound, log_p, color=RED, alpha=0.13)
    chosen = 0.3
    low = two_component_bound(np.array(chosen))[0]
    axes.annotate(
        "", (chosen, log_p), (chosen, low), arrowprops={"arrowstyle": "<->", "color": RED, "linewidth": 2}
    )
    axes.text(chosen - 0.02, (log_p + low) / 2, "KL", color=RED, ha="right", va="center", fontsize=17)
    axes.plot(posterior, log_p, "o", color=ORANGE, markersize=11, zorder=5)
    axes.text(posterior, log_p + 0.05, r"$q=p(z\,|\,x)$", ha="center", va="bottom", color=BROWN, fontsize=16)
    axes.text(0.02, log_p + 0.05, r"$\log p(x)$", va="bottom", fontsize=16)
    axes.text(0.8, float(np.interp(0.9, q, bound)) - 0.12, r"$\mathcal{L}(q)$", color=BLUE, fontsize=18)
    axes.set(xlabel="$q(z=1)$", ylabel="nats", xlim=(0, 1), ylim=(bound.min() - 0.03, log_p + 0.24))
    return figure


PROPOSALS = {  # mean and variance of every coordinate of q(z), in the order of the slide
    r"prior": (0.0, 1.0),
    r"a fit, too wide": (POSTERIOR_MEAN - 0.1, 1.6 * POSTERIOR_VARIANCE),
    r"posterior": (POSTERIOR_MEAN, POSTERIOR_VARIANCE),
}
IMPORTANCE_DIMENSION = 5


def log_importance_weights(mean: float, variance: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return log p(x, z) - log q(z) for z ~ q, coordinates on the last axis of `shape` summed."""
    z = np.random.default_rng(seed).normal(mean, np.sqrt(variance), shape)
    log_joint = stats.norm.logpdf(z) + stats.norm.logpdf(TYPICAL, z, SPREAD)
    return (log_joint - stats.norm.logpdf(z, mean, np.sqrt(variance))).sum(axis=-1)


def gaussian_kl(mean: float, variance: float) -> float:
    """Return KL(N(mean, variance) || posterior) of one coordinate, in nats."""
    ratio = variance / POSTERIOR_VARIANCE
    return float((ratio - 1 - np.log(ratio) + (mean - POSTERIOR_MEAN) ** 2 / POSTERIOR_VARIANCE) / 2)


@figure
def importance_view() -> Figure:
    """Draw the distribution of log importance weights under three q: their mean is the bound."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=3, sharex=True)
    log_p = IMPORTANCE_DIMENSION * LOG_MARGINAL
    for panel, (name, (mean, variance)) in zip(axes, PROPOSALS.items(), strict=True):
        bound = log_p - IMPORTANCE_DIMENSION * gaussian_kl(mean, variance)
        if name == "posterior":
            panel.plot([log_p, log_p], [0, 1], color=SKY, linewidth=5)
        else:
            weights = log_importance_weights(mean, variance, (20_000, IMPORTANCE_DIMENSION))
            panel.hist(weights, bins=np.linspace(-70, 0, 85), color=SKY, density=True)
        top = panel.get_ylim()[1]
        panel.plot([bound, bound], [0, top * 0.9], color=BLUE, linewidth=2.4)
        panel.plot([log_p, log_p], [0, top * 0.9], "--", color=INK, linewidth=1.8)
        panel.set(title=f"q: {name}", xlabel=r"$\log w$ in nats", xlim=(-70, 0), ylim=(0, top))
        panel.text(-69, top * 0.93, rf"$\mathcal{{L}}={bound:.1f}$", color=BLUE, va="top")
        hide_left(panel)
    axes[0].text(-69, axes[0].get_ylim()[1] * 0.75, rf"$\log p={log_p:.1f}$", va="top")
    return figure


# --- EM ---------------------------------------------------------------------------------------------------

CLUTTER_DATA = np.array([-3.6, -3.1, -2.9, -2.2, 2.4, 2.8, 3.0, 3.1, 3.3, 3.9])
CLUTTER_SCALE = 6.0


def clutter_joint(theta: np.ndarray) -> np.ndarray:
    """Return log p(x_i, z_i | theta), (..., n, 2): half N(theta, 1), half N(0, 36), at the ten points."""
    theta = np.asarray(theta, dtype=float)[..., None]
    signal = stats.norm.logpdf(CLUTTER_DATA, theta, 1)
    noise = np.broadcast_to(stats.norm.logpdf(CLUTTER_DATA, 0, CLUTTER_SCALE), signal.shape)
    return np.log(0.5) + np.stack([signal, noise], axis=-1)


def clutter_log_likelihood(theta: np.ndarray) -> np.ndarray:
    """Return the log-likelihood of the ten points."""
    return special.logsumexp(clutter_joint(theta), axis=-1).sum(axis=-1)


def clutter_bound(theta: np.ndarray, old: float) -> np.ndarray:
    """Return L(q, theta) with q the posterior at `old`."""
    q = special.softmax(clutter_joint(old), axis=-1)
    return (q * clutter_joint(theta)).sum(axis=(-1, -2)) + special.entr(q).sum()


def clutter_step(old: float) -> float:
    """Return the theta that maximises the bound made at `old`: a weighted mean."""
    q = special.softmax(clutter_joint(old), axis=-1)[:, 0]
    return float(q @ CLUTTER_DATA / q.sum())


def clutter_path(start: float, steps: int) -> list[float]:
    """Return the iterates of EM."""
    path = [start]
    for _ in range(steps):
        path.append(clutter_step(path[-1]))
    return path


@figure
def bound_touches() -> Figure:
    """Draw a log-likelihood in one parameter with three bounds of EM, from a good and from a bad start."""
    theta = np.linspace(-6, 6, 601)
    figure, axes = canvas(SLIDE_WIDTH, 215, columns=2, sharey=True)
    likelihood = clutter_log_likelihood(theta)
    for panel, start, title in zip(axes, (0.6, -0.6), ("start 0.6", "start −0.6"), strict=True):
        panel.plot(theta, likelihood, color=INK, linewidth=3)
        path = clutter_path(start, 3)
        for (old, new), colour in zip(pairwise(path), (ORANGE, GREEN, BLUE), strict=True):
            panel.plot(theta, clutter_bound(theta, old), color=colour, linewidth=1.8)
            panel.plot(old, clutter_log_likelihood(old), "o", color=colour, markersize=9, zorder=5)
            panel.plot(new, clutter_bound(new, old), "^", color=colour, markersize=9, zorder=5)
        panel.set(xlabel=r"$\theta$", title=title, ylim=(likelihood.min() - 3, likelihood.max() + 1.5))
    axes[0].set_ylabel("nats")
    axes[0].text(-5.9, likelihood.max() + 0.3, r"$\log p(X\,|\,\theta)$", fontsize=16, va="top")
    return figure


class Mixture(NamedTuple):
    """Hold the parameters of a mixture of C Gaussians in m dimensions."""

    weights: np.ndarray  # (C,)
    means: np.ndarray  # (C, m)
    covariances: np.ndarray  # (C, m, m)


def gaussian_log_joint(x: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Return log w_c N(x_i; mean_c, covariance_c), (n, C)."""
    columns = [
        np.log(weight) + stats.multivariate_normal.logpdf(x, mean, covariance)
        for weight, mean, covariance in zip(*mixture, strict=True)
    ]
    return np.stack(columns, axis=1)


def m_step(x: np.ndarray, responsibilities: np.ndarray, floor: float = 1e-6) -> Mixture:
    """Return the weighted updates; `floor` is added to the diagonal of every covariance."""
    counts = responsibilities.sum(axis=0)
    means = responsibilities.T @ x / counts[:, None]
    centred = x[:, None, :] - means
    covariances = np.einsum("nc,nci,ncj->cij", responsibilities, centred, centred) / counts[:, None, None]
    return Mixture(counts / len(x), means, covariances + floor * np.eye(x.shape[1]))


def bound_per_point(x: np.ndarray, responsibilities: np.ndarray, mixture: Mixture) -> float:
    """Return L(q, theta) / n: energy plus entropy."""
    energy = (responsibilities * gaussian_log_joint(x, mixture)).sum(axis=1)
    return float((energy + special.entr(responsibilities).sum(axis=1)).mean())


class Step(NamedTuple):
    """Hold one iteration of EM, per data point in nats: after the E step, then after the M step."""

    mixture: Mixture  # after the M step
    bound_after_e: float
    bound: float
    log_p: float
    kl: float  # of q against the new posterior, computed by itself


def em(x: np.ndarray, mixture: Mixture, floor: float = 1e-6) -> Iterator[Step]:
    """Run EM for a mixture of Gaussians without end."""
    log_joint = gaussian_log_joint(x, mixture)
    while True:
        q = special.softmax(log_joint, axis=1)
        after_e = bound_per_point(x, q, mixture)
        mixture = m_step(x, q, floor)
        log_joint = gaussian_log_joint(x, mixture)
        log_p = special.logsumexp(log_joint, axis=1)
        kl = special.rel_entr(q, np.exp(log_joint - log_p[:, None])).sum(axis=1).mean()
        yield Step(mixture, after_e, bound_per_point(x, q, mixture), float(log_p.mean()), float(kl))


@cache
def iris() -> np.ndarray:
    """Return the 150 flowers, (150, 4): sepal length and width, petal length and width in cm."""
    return load_iris().data


def iris_start() -> Mixture:
    """Return the start of the trace: means at flowers 0, 50 and 100, equal weights, unit covariances."""
    return Mixture(np.full(3, 1 / 3), iris()[[0, 50, 100]], np.tile(np.eye(4), (3, 1, 1)))


@cache
def iris_trace(iterations: int = 200) -> list[Step]:
    """Return the first iterations of EM on iris."""
    return list(islice(em(iris(), iris_start()), iterations))


@figure
def em_trace() -> Figure:
    """Draw log p, the bound and their distance at every half step of EM on iris."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 200, columns=2, width_ratios=[1.35, 1])
    steps = iris_trace()
    shown = steps[:6]
    time = np.arange(len(shown)) + 1.0
    for number, step in zip(time, shown, strict=True):
        left.plot([number, number], [step.bound, step.log_p], color=RED, linewidth=5, alpha=0.55)
    bounds = [bound for step in shown for bound in (step.bound_after_e, step.bound)]
    left.plot(np.arange(len(bounds)) / 2 + 0.5, bounds, color=BLUE, linewidth=1.8)
    left.plot(time, [step.log_p for step in shown], "o", color=INK, markersize=8, label=r"$\log p$ after M")
    left.plot(
        time - 0.5, [step.bound_after_e for step in shown], "s", color=GREEN, label=r"$\mathcal{L}$ after E"
    )
    left.plot(
        time, [step.bound for step in shown], "^", color=BLUE, markersize=8, label=r"$\mathcal{L}$ after M"
    )
    left.plot([], [], color=RED, linewidth=5, alpha=0.55, label="KL")
    left.set(xlabel="iteration", ylabel="nats per flower", ylim=(-1.9, -1.22), xlim=(0.8, 6.2), xticks=time)
    left.legend(loc="lower right")
    numbers = np.arange(1, 51)
    final = steps[-1].log_p
    for values, colour, label in (
        ([step.kl for step in steps[:50]], RED, "KL after M"),
        ([final - step.log_p for step in steps[:50]], INK, "still to gain"),
    ):
        # To 0.01 of a decade: the last digits depend on the machine.
        rounded = 10 ** np.log10(np.maximum(values, 1e-16)).round(2)
        right.plot(numbers, rounded, color=colour, label=label)
    right.set(yscale="log", xlabel="iteration", ylim=(1e-9, 1))
    right.legend(loc="upper right")
    return figure


@figure
def iris_ellipses() -> Figure:
    """Draw the fitted components over petal length and width at four moments of EM."""
    figure, axes = canvas(SLIDE_WIDTH, 200, columns=4, sharey=True)
    colours = np.array([BLUE, ORANGE, GREEN])
    moments = [(0, iris_start())] + [(n, iris_trace()[n - 1].mixture) for n in (1, 5, 50)]
    for panel, (n, mixture) in zip(axes, moments, strict=True):
        owner = gaussian_log_joint(iris(), mixture).argmax(axis=1)
        for c in range(3):
            panel.plot(*iris()[owner == c, 2:].T, "osD"[c], color=colours[c], markersize=3.5, alpha=0.8)
            ellipse(
                panel,
                mixture.means[c, 2:],
                mixture.covariances[c, 2:, 2:],
                edgecolor=colours[c],
                linewidth=2,
            )
        panel.set(
            title=f"$n={n}$", xlabel="petal length, cm", xlim=(-0.5, 8), ylim=(-1.2, 4), xticks=[1, 4, 7]
        )
    axes[0].set_ylabel("petal width, cm")
    return figure


FLOORS = 10.0 ** -np.arange(2, 11)


def plane_start() -> np.ndarray:
    """Return responsibilities with a component for the setosas whose petal width reads exactly 0.2 cm."""
    species = load_iris().target
    group = np.where((species == 0) & (iris()[:, 3] == 0.2), 3, species)
    return np.eye(4)[group]


@cache
def fitted_with_floor(floor: float, iterations: int = 150) -> Mixture:
    """Return the mixture of four Gaussians that EM reaches from `plane_start` under a variance floor."""
    run = em(iris(), m_step(iris(), plane_start(), floor), floor)
    return next(islice(run, iterations - 1, None)).mixture


def log_likelihood(x: np.ndarray, mixture: Mixture) -> float:
    """Return the mean log-likelihood in nats."""
    return float(special.logsumexp(gaussian_log_joint(x, mixture), axis=1).mean())


@cache
def scikit_fits() -> list[GaussianMixture]:
    """Return scikit-learn's fits of one to four full Gaussians to iris, the best of ten starts each."""
    return [
        GaussianMixture(c, tol=1e-10, n_init=10, random_state=0, max_iter=2000).fit(iris())
        for c in range(1, 5)
    ]


@figure
def collapse() -> Figure:
    """Draw the log-likelihood of two fits of four Gaussians to iris against the floor under the variances."""
    figure, axes = canvas(HALF_WIDTH - 20, 190)
    reached = [log_likelihood(iris(), fitted_with_floor(floor)) for floor in FLOORS]
    axes.plot(FLOORS, reached, "o-", color=RED)
    regular = scikit_fits()[3].score(iris())
    axes.axhline(regular, color=BLUE)
    axes.text(1e-10, regular - 0.08, "a regular solution", color=BLUE, va="top", ha="right")
    axes.text(8e-3, 0.55, "one component\nhas become flat", color=RED, va="top", ha="left")
    axes.set(
        xscale="log", xlabel="floor under the variances, cm²", ylabel="nats per flower", ylim=(-1.5, 0.7)
    )
    axes.invert_xaxis()
    axes.set_xticks([1e-2, 1e-6, 1e-10])
    axes.minorticks_off()
    return figure


@figure
def mixture_digits() -> Figure:
    """Draw the means of ten Bernoulli components fitted to MNIST, samples of ten and of fifty components."""
    stored = np.load(FOLDER / "mixture_digits.npz")
    figure, axes = canvas(SLIDE_WIDTH, 196, columns=10, rows=3)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    rows = (
        ("means, C = 10", stored["means_10"] / 255),
        ("samples, C = 10", stored["samples_10"]),
        ("samples, C = 50", stored["samples_50"]),
    )
    for line, (name, images) in zip(axes, rows, strict=True):
        for panel, image in zip(line, images, strict=False):
            draw_pixels(
                panel,
                np.round(np.asarray(image, dtype=float).reshape(28, 28) * 15) / 15,
                lambda value: str(round(1 - value, 3)) if value else None,
            )
            panel.spines[:].set_visible(True)
            panel.spines[:].set_color("#c9d3dc")
        line[0].set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", labelpad=8)
    return figure


# --- What the slides claim, checked -----------------------------------------------------------------------

# Mean log-likelihood of iris after n M steps from `iris_start`, computed once with scikit-learn 1.9.1.
REFERENCE_TRACE = {1: -1.6782940789, 2: -1.3928072463, 5: -1.2728731409, 10: -1.2310266776, 50: -1.2012365172}


def scikit_score(iterations: int) -> float:
    """Return scikit-learn's mean log-likelihood of iris after some iterations of EM from `iris_start`."""
    weights, means, covariances = iris_start()
    model = GaussianMixture(
        3,
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariances),
        max_iter=iterations,
        tol=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(model.fit(iris()).score(iris()))


def check_bayes() -> None:
    """Check conjugacy, the summaries of Beta(5, 2), its modes in other coordinates, and the normal limit."""
    theta = np.linspace(0.005, 0.995, 991)
    for a, b, heads, n in ((2, 2, 3, 3), (1, 1, 0, 4), (0.7, 3.1, 12, 30)):
        product = theta**heads * (1 - theta) ** (n - heads) * stats.beta.pdf(theta, a, b)
        evidence = special.beta(a + heads, b + n - heads) / special.beta(a, b)
        exact = stats.beta.pdf(theta, *beta_posterior(heads, n, a, b))
        assert np.allclose(product / evidence, exact)
        weight = (a + b) / (a + b + n)
        mean = weight * a / (a + b) + (1 - weight) * heads / n
        assert np.isclose(stats.beta.mean(*beta_posterior(heads, n, a, b)), mean)
    fine = np.linspace(0.001, 0.999, 99_801)
    for name, mode in MAPS.items():
        assert abs(fine[transformed_density(name, fine)[1].argmax()] - mode) < 1e-4, name
        value, density = transformed_density(name, fine)
        assert abs(np.trapezoid(density, value) - 1) < 1e-4, name
    a, b = THREE_HEADS
    assert np.isclose(stats.beta.mean(a, b), 5 / 7) and np.isclose(stats.betabinom.pmf(2, 2, a, b), 15 / 28)
    assert np.isclose(special.beta(a, b) / special.beta(2, 2), 0.2)  # evidence of HHH under Beta(2, 2)
    distances = [distance_to_normal(n, 12, 3) for n in (1600, 6400, 25_600)]
    assert np.allclose(np.diff(np.log(distances)), -np.log(2), atol=0.08), (
        "the distance halves as n grows by 4"
    )


def check_latent_models() -> None:
    """Check probabilistic PCA and the curved decoder by quadrature, and the variance of Monte Carlo."""
    z = np.linspace(-8, 8, 4001)
    x = np.array([0.2, 2.2])
    joint = np.exp(-((x - z[:, None] @ LOADINGS.T) ** 2).sum(axis=1) / (2 * NOISE**2)) / (
        2 * np.pi * NOISE**2
    )
    joint *= stats.norm.pdf(z)
    marginal = LOADINGS @ LOADINGS.T + NOISE**2 * np.eye(2)
    assert np.isclose(np.trapezoid(joint, z), stats.multivariate_normal.pdf(x, np.zeros(2), marginal))
    mean, covariance = ppca_posterior(x, LOADINGS, NOISE)
    posterior = stats.norm.pdf(z, mean[0], np.sqrt(covariance[0, 0]))
    assert np.allclose(joint / np.trapezoid(joint, z), posterior, atol=1e-9)

    side = np.linspace(-6, 12, 181)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    coarse = np.linspace(-5, 5, 201)
    total = np.trapezoid(curve_joint(grid, coarse), coarse, axis=1).sum() * (side[1] - side[0]) ** 2
    assert abs(total - 1) < 2e-3, "the density of the curve integrates to one, up to what lies outside"

    ratio, _ = integrate.quad(lambda u: stats.norm.pdf(TYPICAL, u, SPREAD) ** 2 * stats.norm.pdf(u), -9, 9)
    assert np.isclose(ratio / np.exp(2 * LOG_MARGINAL), second_moment_ratio())
    relative = np.expm1(monte_carlo_errors(2, 400, 4000)).std()
    assert np.isclose(relative, np.sqrt((second_moment_ratio() ** 2 - 1) / 400), rtol=0.06)
    assert monte_carlo_errors(12, 1000, 200).mean() < -0.3, "the logarithm is too low on average"


def check_bound() -> None:
    """Check log p = L + KL, both forms of the bound, the importance view, and Fisher's identity."""
    q = np.linspace(0.01, 0.99, 99)
    bound, log_p, posterior = two_component_bound(q)
    both, target = np.stack([q, 1 - q]), np.array([posterior, 1 - posterior])
    assert np.allclose(bound + special.rel_entr(both, target[:, None]).sum(axis=0), log_p)
    reconstruction = (both * stats.norm.logpdf(BOUND_X, TWO_MEANS)[:, None]).sum(axis=0)
    assert np.allclose(bound, reconstruction - special.rel_entr(both, TWO_WEIGHTS[:, None]).sum(axis=0))
    assert np.isclose(two_component_bound(np.array(posterior))[0], log_p)

    log_p = IMPORTANCE_DIMENSION * LOG_MARGINAL
    for mean, variance in PROPOSALS.values():
        log_w = log_importance_weights(mean, variance, (20_000, 10, IMPORTANCE_DIMENSION))
        exact = log_p - IMPORTANCE_DIMENSION * gaussian_kl(mean, variance)
        assert abs(log_w.mean() - exact) < 0.06
        ten = (special.logsumexp(log_w, axis=1) - np.log(10)).mean()
        assert exact - 1e-9 <= ten + 0.01 and ten <= log_p + 1e-9
        assert abs(special.logsumexp(log_w) - np.log(log_w.size) - log_p) < 0.1, "E w = p(x)"
        if mean == POSTERIOR_MEAN:
            assert np.allclose(log_w, log_p), "with the posterior every weight is p(x)"

    for theta in (-4.0, -0.3, 1.7):
        step = 1e-5
        slope = (clutter_log_likelihood(theta + step) - clutter_log_likelihood(theta - step)) / (2 * step)
        q = special.softmax(clutter_joint(theta), axis=-1)[:, 0]
        assert np.isclose(slope, (q * (CLUTTER_DATA - theta)).sum(), atol=1e-6)


def check_em() -> None:
    """Check touching, monotone steps, the updates, the trace by scikit-learn, the saddle, the collapse."""
    theta = np.linspace(-6, 6, 301)
    for old in (-3.0, 0.6, 2.0):
        assert np.isclose(clutter_bound(old, old), clutter_log_likelihood(old))
        assert (clutter_bound(theta, old) <= clutter_log_likelihood(theta) + 1e-9).all()
        assert np.isclose(theta[clutter_bound(theta, old).argmax()], clutter_step(old), atol=0.021)

    steps = iris_trace()
    for before, after in pairwise(steps):
        assert np.isclose(after.bound_after_e, before.log_p, atol=1e-12), "an E step makes the bound tight"
        assert after.bound >= after.bound_after_e - 1e-6, "an M step raises it, but for the variance floor"
        assert after.log_p >= before.log_p - 1e-9 and after.kl >= -1e-12
    assert all(np.isclose(step.log_p, step.bound + step.kl, atol=1e-10) for step in steps)
    for n, value in REFERENCE_TRACE.items():
        assert abs(steps[n - 1].log_p - value) < 2e-9, n
        assert abs(scikit_score(n) - value) < 2e-9, n

    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), size=150)
    best = m_step(iris(), q, floor=0)
    top = bound_per_point(iris(), q, best)
    for _ in range(50):
        weights = best.weights * np.exp(0.05 * rng.normal(size=3))
        tilt = np.eye(4) + 0.03 * rng.normal(size=(3, 4, 4))
        other = Mixture(
            weights / weights.sum(),
            best.means + 0.03 * rng.normal(size=(3, 4)),
            tilt @ best.covariances @ tilt.swapaxes(1, 2),
        )
        assert bound_per_point(iris(), q, other) < top

    same = Mixture(np.full(3, 1 / 3), *(np.tile(a, (3, *[1] * a.ndim)) for a in moments()))
    stuck = next(islice(em(iris(), same), 29, None))
    assert np.isclose(stuck.log_p, scikit_fits()[0].score(iris()), atol=1e-9), "identical components stay so"

    for c, model in enumerate(scikit_fits(), start=1):
        count = c * 4 + c * 10 + c - 1
        total = 150 * model.score(iris())
        assert np.isclose(model.bic(iris()), -2 * total + count * np.log(150))
    wide = Mixture(np.array([0.5, 0.5]), np.tile(moments()[0], (2, 1)), np.tile(moments()[1], (2, 1, 1)))
    totals = []
    for variance in (1e-8, 1e-10, 1e-12):
        wide.means[1], wide.covariances[1] = iris()[0], variance * np.eye(4)
        totals.append(150 * log_likelihood(iris(), wide))
    assert np.allclose(np.diff(totals), 2 * np.log(100), atol=1e-3), "m/2 log 1/variance, without end"
    flat = fitted_with_floor(1e-6)
    assert abs(log_likelihood(iris(), flat) + 0.4333434) < 1e-6
    assert np.isclose(flat.weights.min(), 0.1407303, atol=1e-6) and (plane_start()[:, 3] == 1).sum() == 29
    assert np.isclose(np.linalg.eigvalsh(flat.covariances[3])[0], 1e-6, rtol=1e-3)


def moments() -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance (1/n) of iris."""
    return iris().mean(axis=0), np.cov(iris().T, bias=True)


def check() -> None:
    """Check every formula of the slides."""
    check_bayes()
    check_latent_models()
    check_bound()
    check_em()


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    first = posterior_of_illness(PREVALENCE)
    a, b = THREE_HEADS
    good, bad = clutter_path(0.6, 60)[-1], clutter_path(-0.6, 60)[-1]
    _, two_log_p, two_posterior = two_component_bound(np.array(0.5))
    log_p = IMPORTANCE_DIMENSION * LOG_MARGINAL
    trace = [iris_trace()[n - 1] for n in REFERENCE_TRACE]
    flat, flatter = (log_likelihood(iris(), fitted_with_floor(floor)) for floor in (1e-6, 1e-7))
    stored = np.load(FOLDER / "mixture_digits.npz")
    return {
        "ill_after_one_test": round(100 * first, 1),
        "ill_after_two_tests": round(100 * posterior_of_illness(first), 1),
        "two_heads_predictive": round(float(stats.betabinom.pmf(2, 2, a, b)), 3),
        "two_heads_mean": fixed([(5 / 7) ** 2], 3)[0],
        "two_heads_map": fixed([0.8**2], 3)[0],
        "normal_limit_10": fixed([distance_to_normal(10, *prior) for prior in ((2, 2), (12, 3))], 2),
        "normal_limit_1000": fixed([distance_to_normal(1000, *prior) for prior in ((2, 2), (12, 3))], 2),
        "monte_carlo_ratio": fixed([second_moment_ratio()], 2)[0],
        "monte_carlo_10": scientific(samples_needed(10)),
        "monte_carlo_50": scientific(samples_needed(50)),
        "monte_carlo_bias": round(float(monte_carlo_errors(20, 1000, 200).mean()), 1),
        "two_posterior": round(two_posterior, 2),
        "two_gap": round(float(two_log_p - two_component_bound(np.array(0.5))[0]), 2),
        "importance_log_p": round(log_p, 1),
        "importance_bounds": [
            round(log_p - IMPORTANCE_DIMENSION * gaussian_kl(*q), 1) for q in PROPOSALS.values()
        ],
        "clutter_good": [round(good, 2), round(float(clutter_log_likelihood(good)), 1)],
        "clutter_bad": [round(bad, 2), round(float(clutter_log_likelihood(bad)), 1)],
        "trace_steps": list(REFERENCE_TRACE),
        "trace_log_p": fixed([step.log_p for step in trace], 4),
        "trace_bound": fixed([step.bound for step in trace], 4),
        "trace_kl": fixed([step.kl for step in trace], 4),
        "components_nats": fixed([model.score(iris()) for model in scikit_fits()], 4),
        "components_bic": fixed([model.bic(iris()) for model in scikit_fits()], 1),
        "flat_nats": round(flat, 3),
        "flat_gain": round(flatter - flat, 3),
        "flat_predicted": round(29 / 150 * np.log(10) / 2, 3),
        "bernoulli_nats": [round(float(stored[f"nats_{c}"]), 1) for c in (1, 10, 50)],
    }
