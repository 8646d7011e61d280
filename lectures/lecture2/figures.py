"""Draw the figures of lecture 2 and compute the numbers that its slides print.

    python -m lectures.drawing lecture2 [FOLDER]

Everything is exact, or simulated with a fixed seed; nothing is copied by hand. Models come from the seminars,
and `tests/test_lecture2.py` tests what the slides claim.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import special, stats
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import one_hot

from dgm_utils import plot
from lectures import drawing
from lectures.drawing import BLUE, GREEN, INK, MUTED, ORANGE, RED, SKY, canvas, figure, fixed, hide_left
from tools import definitions

FOLDER = Path(__file__).parent / "figures"
WIDTH = drawing.SLIDE_WIDTH
S = definitions.seminar(2)
S3 = definitions.seminar(3, "ProbabilisticPCA")


# --- Bayes' theorem ---------------------------------------------------------------------------------------


def ill_after_positive(prior: float) -> float:
    """Return the probability of illness after a positive test: sensitivity 90 %, false alarms 9 %."""
    return prior * 0.90 / (prior * 0.90 + (1 - prior) * 0.09)


@figure
def medical_test() -> Figure:
    """Draw a thousand people, the ill ones and the positive ones coloured."""
    groups = [
        (9, "ill, positive", RED),
        (1, "ill, negative", drawing.BLACK),
        (89, "healthy, positive", SKY),
        (901, "healthy, negative", drawing.PALE),
    ]
    figure, axes = canvas(WIDTH * 0.62, 215)
    people = np.concatenate([[colour] * n for n, _, colour in groups])
    drawing.draw_pixels(axes, people.reshape(50, 20).T, str)
    axes.set_xticks(np.arange(51) - 0.5, minor=True)
    axes.set_yticks(np.arange(21) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.4)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    for n, who, colour in groups:
        axes.plot([], [], "s", color=colour, markersize=11, label=f"{n} {who}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
    return figure


TOSSES = np.random.default_rng(1).random(1000) < 0.7  # of the coin of the seminar


def coin(heads: int, n: int, a: float = 2, b: float = 2) -> stats.rv_continuous:
    """Return p(theta | X) of a coin with prior Beta(a, b)."""
    return stats.beta(a + heads, b + n - heads)


@figure
def posterior_shrinks() -> Figure:
    """Draw the posterior of a coin after more and more tosses, and its central 95 % interval."""
    figure, (left, right) = canvas(WIDTH, 235, columns=2)
    theta = np.linspace(0, 1, 601)
    for n, colour in ((0, MUTED), (3, ORANGE), (10, GREEN), (50, SKY), (200, BLUE)):
        density = coin(TOSSES[:n].sum(), n).pdf(theta)
        left.plot(theta, density, color=colour, label=f"$n={n}$" + (", prior" if n == 0 else ""))
    left.axvline(0.7, color=INK, linestyle="--", linewidth=1.4)
    left.set(xlabel=r"$\theta$", ylim=(0, 13.5), xlim=(0, 1))
    left.legend(loc="upper left")
    hide_left(left)
    sizes = np.unique(np.logspace(0, 3, 40).astype(int))
    posteriors = [coin(TOSSES[:n].sum(), n) for n in sizes]
    low, high = np.array([posterior.interval(0.95) for posterior in posteriors]).T
    right.fill_between(sizes, low, high, color=SKY, alpha=0.4, label="95 % of the posterior")
    right.plot(sizes, [posterior.mean() for posterior in posteriors], color=BLUE, label="posterior mean")
    right.plot(sizes, [TOSSES[:n].mean() for n in sizes], ".", color=RED, label="MLE", markersize=9)
    right.axhline(0.7, color=INK, linestyle="--", linewidth=1.4)
    right.set(xscale="log", xlabel="tosses $n$", ylabel=r"$\theta$", ylim=(0, 1.05))
    right.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    right.legend(loc="lower right", labelspacing=0.2, borderaxespad=0)
    return figure


@figure
def predictive() -> Figure:
    """Draw what three heads say about the next ten tosses: MLE, MAP, and the average over the posterior."""
    k = np.arange(11)
    figure, axes = canvas(WIDTH, 215, columns=3, sharey=True)
    panels = (
        ("MLE plugged in, $\\hat\\theta=1$", stats.binom.pmf(k, 10, 1.0), RED),
        ("MAP plugged in, $\\hat\\theta=0.8$", stats.binom.pmf(k, 10, 0.8), ORANGE),
        ("predictive, averaged over $\\theta$", stats.betabinom.pmf(k, 10, *coin(3, 3).args), BLUE),
    )
    for panel, (title, probability, colour) in zip(axes, panels, strict=True):
        panel.bar(k, probability, color=colour, width=0.8)
        panel.set(title=title, xlabel="heads in the next ten", xticks=[0, 5, 10], ylim=(0, 0.42))
    axes[0].annotate("1", (10, 0.415), (8.3, 0.36), color=RED, arrowprops={"arrowstyle": "->", "color": RED})
    axes[0].set_ylabel("probability")
    return figure


def coordinates(theta: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return functions of theta, by name, each with its density when theta is Beta(5, 2)."""
    density = coin(3, 3).pdf(theta)
    return {
        r"$\theta$": (theta, density),
        r"$\log\,\frac{\theta}{1-\theta}$": (special.logit(theta), density * theta * (1 - theta)),
        r"$\theta^2$": (theta**2, density / (2 * theta)),
    }


@figure
def map_moves() -> Figure:
    """Draw one posterior in three coordinates with its modes, which are different values of theta."""
    theta = np.linspace(0.002, 0.998, 4000)
    figure, axes = canvas(WIDTH, 165, columns=3)
    for panel, (name, (value, density)) in zip(axes, coordinates(theta).items(), strict=True):
        best = density.argmax()
        panel.fill_between(value[::20], density[::20], color=SKY, alpha=0.35)
        panel.plot(value[::20], density[::20], color=BLUE)
        panel.plot([value[best]] * 2, [0, density[best]], color=RED, linestyle="--")
        panel.set_title(f"mode at $\\theta={theta[best]:.3f}$", color=RED)
        panel.set(xlabel=name, ylim=(0, density.max() * 1.1))
        hide_left(panel)
    axes[1].set_xlim(-3, 5)
    return figure


def distance_to_normal(n: int, a: float, b: float, theta: float = 0.3) -> float:
    """Return the total variation between a coin's posterior, n*theta heads seen, and its normal limit."""
    posterior, normal = coin(round(n * theta), n, a, b), stats.norm(theta, np.sqrt(theta * (1 - theta) / n))
    x = np.linspace(1e-9, 1 - 1e-9, 200_001)
    outside = normal.cdf(0) + normal.sf(1)  # where the posterior has no mass
    return float(np.trapezoid(np.abs(posterior.pdf(x) - normal.pdf(x)), x) + outside) / 2


@figure
def bernstein_von_mises() -> Figure:
    """Draw a coin's posterior under two priors against the normal limit, and the distance against n."""
    figure, axes = canvas(WIDTH, 215, columns=3, width_ratios=[1, 1, 1.15])
    priors = (((2, 2), BLUE), ((12, 3), RED))
    for panel, n in zip(axes[:2], (10, 1000), strict=True):
        spread = np.sqrt(0.3 * 0.7 / n)
        x = np.linspace(max(0.001, 0.3 - 4 * spread), min(0.999, 0.3 + 5 * spread), 500)
        for prior, colour in priors:
            panel.plot(x, coin(round(0.3 * n), n, *prior).pdf(x), color=colour)
        panel.plot(x, stats.norm.pdf(x, 0.3, spread), "--", color=INK, linewidth=1.6)
        panel.set(title=f"$n={n}$", xlabel=r"$\theta$")
        hide_left(panel)
    sizes = np.array([10, 30, 100, 300, 1000, 3000, 10_000])
    for prior, colour in priors:
        distances = [distance_to_normal(n, *prior) for n in sizes]
        axes[2].plot(sizes, distances, "o-", color=colour, label=f"prior Beta{prior}")
    axes[2].plot(sizes, 1 / np.sqrt(sizes), ":", color=MUTED, label=r"$1/\sqrt{n}$")
    axes[2].set(xscale="log", yscale="log", xlabel="$n$", ylabel="total variation", ylim=(2e-5, 2))
    axes[2].minorticks_off()
    axes[2].legend(loc="lower left", borderaxespad=0)
    return figure


# --- Latent variable models -------------------------------------------------------------------------------


def mixture_1d(weights: list[float], means: list[float], scales: list[float]) -> S.GaussianMixture:
    """Return the seminar's mixture of Gaussians on the line."""
    weights, means, scales = (torch.tensor(each, dtype=torch.float64) for each in (weights, means, scales))
    return S.GaussianMixture(weights, means[:, None], scales[:, None, None] ** 2)


@figure
def mixture_pieces() -> Figure:
    """Draw a mixture of three normals, its weighted pieces, and the posterior of the component given x."""
    mixture = mixture_1d([0.3, 0.5, 0.2], [-2.0, 0.5, 3.0], [0.6, 1.0, 0.5])
    x = torch.linspace(-5, 5.5, 600, dtype=torch.float64)
    points = x[:, None]  # (600, 1)
    figure, (left, right) = canvas(WIDTH, 180, columns=2)
    colours = (BLUE, ORANGE, GREEN)
    left.plot(x, mixture.log_prob(points).exp(), color=INK, linewidth=3)
    for piece, colour in zip((mixture.weights * mixture.log_normal(points).exp()).T, colours, strict=True):
        left.plot(x, piece, color=colour, linewidth=2)
    left.annotate("$p(x)$", (1.6, 0.13), (2.2, 0.2), fontsize=17)
    left.set(xlabel="$x$", title="pieces $w_c\\,\\mathcal{N}(x;\\mu_c,\\sigma_c^2)$ and their sum")
    hide_left(left)
    right.stackplot(x, S.e_step(mixture, points).T, colors=colours, alpha=0.75)
    for c, place in enumerate((-3.6, 0.6, 3.3), start=1):
        right.text(place, 0.5, f"$c={c}$", ha="center", va="center", fontsize=17, color="white")
    right.set(xlabel="$x$", ylim=(0, 1), xlim=(-5, 5.5), yticks=[0, 0.5, 1], title="$p(z=c\\,|\\,x)$")
    return figure


@figure
def ppca() -> Figure:
    """Draw probabilistic PCA in the plane: points, the line that z moves along, the marginal's ellipse."""
    W, noise, rng = np.array([[1.5], [0.9]]), 0.5, np.random.default_rng(2)
    x = rng.normal(size=(150, 1)) @ W.T + noise * rng.normal(size=(150, 2))
    figure, axes = canvas(270, 190)
    axes.plot(*x.T, ".", color=SKY, markersize=6)
    axes.plot(*(W * [-2.5, 2.5]), color=INK, linewidth=2)
    plot.ellipse(axes, np.zeros(2), W @ W.T + noise**2 * np.eye(2), 2, edgecolor=BLUE, linewidth=2.4)
    seen = np.array([0.2, 2.2])
    model = S3.ProbabilisticPCA(torch.zeros(2).double(), torch.from_numpy(W), noise**2)
    posterior = model.posterior(torch.from_numpy(seen[None]))
    mean, std = posterior.mean.item(), posterior.stddev.item()
    axes.plot(*(W * [mean - 2 * std, mean + 2 * std]), color=ORANGE, linewidth=6, solid_capstyle="round")
    axes.plot(*seen, "o", color=RED, markersize=9)
    axes.plot(*zip(seen, W[:, 0] * mean, strict=True), ":", color=RED)
    axes.text(0.35, 2.35, "$x$", color=RED, fontsize=17)
    axes.text(-0.6, -2.3, r"$W z$ with $z\sim p(z\,|\,x)$", color=drawing.BROWN)
    axes.text(-3.9, 2.6, r"2 s.d. of $p(x)$", color=BLUE)
    axes.set(xlim=(-4.1, 4.6), ylim=(-3.1, 3.3), aspect="equal", xticks=[], yticks=[])
    return figure


# The seminar's curved decoder with a normal z, in NumPy; lecture 3 draws with it too.
CURVE_NOISE = S.CURVE_NOISE


def curve(z: np.ndarray) -> np.ndarray:
    """Return the mean of x given z, on a parabola, (n, 2)."""
    return S.curve(torch.from_numpy(z)).numpy()


def curve_joint(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return p(x|z) p(z), (n, number of z), for x (n, 2)."""
    return S.log_decoder(torch.from_numpy(x), torch.from_numpy(z)).exp().numpy() * stats.norm.pdf(z)


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
    figure, axes = canvas(WIDTH, 192, columns=3, width_ratios=[0.8, 1.2, 1])
    axes[0].fill_between(z, stats.norm.pdf(z), color=drawing.PALE)
    axes[0].plot(z, stats.norm.pdf(z), color=MUTED)
    axes[0].set(title="$p(z)$", xlabel="$z$", xlim=(-3.17, 3.17), ylim=(0, 0.47))
    hide_left(axes[0])
    levels = density.max() * np.array([0.01, 0.04, 0.09, 0.16, 0.25, 0.4, 0.6, 0.8, 1])
    axes[1].contourf(first, second, density, levels=levels, cmap="Blues")
    axes[1].plot(*curve(np.linspace(-1.9, 1.9, 100)).T, color=INK, linewidth=1.4)
    axes[1].plot(*seen[0], "o", color=RED, markersize=9)
    axes[1].text(0.2, 0.6, "$x$", color=RED, fontsize=17)
    axes[1].set(title=r"$p(x)=\int p(x\,|\,z)\,p(z)\,\mathrm{d}z$", xticks=[], yticks=[])
    axes[1].set(xlim=(-2.6, 2.6), ylim=(-1.9, 2.4))
    axes[2].plot(z, posterior, color=RED)
    axes[2].fill_between(z, posterior, color=RED, alpha=0.2)
    axes[2].set(title=r"$p(z\,|\,x)$", xlabel="$z$", xlim=(-3.17, 3.17), ylim=(0, None))
    hide_left(axes[2])
    return figure


def samples_needed(d: int | np.ndarray) -> float | np.ndarray:
    """Return how many codes from the prior bring the relative error of p(x) to 10 %, in d dimensions."""
    return 100 * (S.ratio**d - 1)


@cache
def monte_carlo_bias() -> tuple[float, float]:
    """Return the mean error of log p(x) by a thousand codes, d = 20, and its standard error, in nats."""
    errors = S.monte_carlo_errors(20, repeats=4000)
    return errors.mean().item(), errors.std().item() / len(errors) ** 0.5


@figure
def monte_carlo_dimension() -> Figure:
    """Draw the error of the Monte Carlo log-likelihood against the dimension, and the samples needed."""
    figure, (left, right) = canvas(WIDTH, 215, columns=2)
    dimensions = [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    errors = np.array([S.monte_carlo_errors(d) for d in dimensions])
    low, middle, high = np.quantile(errors, [0.05, 0.5, 0.95], axis=1)
    left.axhline(0, color=INK, linestyle="--", linewidth=1.6)
    left.fill_between(dimensions, low, high, color=SKY, alpha=0.45, label="5 % to 95 % of 200 runs")
    left.plot(dimensions, middle, "o-", color=BLUE, label="median")
    left.plot(dimensions, errors.mean(axis=1), "s", color=RED, label="mean", markersize=6)
    left.text(20.4, 0.7, r"exact $\log p(x)$", ha="right")
    left.set(xlabel="dimension $d$ of $z$", ylabel="error in nats", title="1,000 samples", ylim=(None, 3))
    left.set_xticks([1, 5, 10, 15, 20])
    left.legend(loc="lower left")
    d = np.arange(1.0, 51)
    right.plot(d, samples_needed(d), color=RED)
    right.text(50, 1e4, "naive Monte Carlo, 10 % error", color=RED, ha="right", va="center")
    right.plot(d, 50**d, color=MUTED)
    right.text(25, 1e30, "a grid of 50\npoints an axis", color=MUTED)
    right.set(yscale="log", xlabel="dimension $d$ of $z$", title="evaluations of $p(x|z)$", ylim=(1, 1e45))
    right.set_xticks([1, 10, 20, 30, 40, 50])
    return figure


# --- The bound --------------------------------------------------------------------------------------------

TWO = mixture_1d([0.6, 0.4], [0.0, 2.5], [1.0, 1.0])
TWO_X = torch.ones(1, 1, dtype=torch.float64)  # the observation


def two_bound(q: Tensor) -> Tensor:
    """Return the bound on log p(x) of the example, in nats, for q(z=1) = q, (n,)."""
    return S.mixture_elbo(TWO, TWO_X, torch.stack([q, 1 - q], dim=1))


@figure
def bound_gap() -> Figure:
    """Draw the bound as a function of q with the log-likelihood above it and the KL divergence between."""
    q = torch.linspace(0, 1, 401, dtype=torch.float64)
    bound, log_p, posterior = two_bound(q), TWO.log_prob(TWO_X).item(), S.e_step(TWO, TWO_X)[0, 0].item()
    figure, axes = canvas(WIDTH * 0.56, 265)
    axes.axhline(log_p, color=INK, linewidth=2.4)
    axes.plot(q, bound, color=BLUE, linewidth=3)
    axes.fill_between(q, bound, log_p, color=RED, alpha=0.13)
    low = bound[120].item()  # at q = 0.3
    arrow = {"arrowstyle": "<->", "color": RED, "linewidth": 2}
    axes.annotate("", (0.3, log_p), (0.3, low), arrowprops=arrow)
    axes.text(0.28, (log_p + low) / 2, "KL", color=RED, ha="right", va="center", fontsize=17)
    axes.plot(posterior, log_p, "o", color=ORANGE, markersize=11, zorder=5)
    style = {"va": "bottom", "fontsize": 16}
    axes.text(posterior, log_p + 0.05, r"$q=p(z\,|\,x)$", ha="center", color=drawing.BROWN, **style)
    axes.text(0.02, log_p + 0.05, r"$\log p(x)$", **style)
    axes.text(0.8, bound[360].item() - 0.12, r"$\mathcal{L}(q)$", color=BLUE, fontsize=18)
    axes.set(xlabel="$q(z=1)$", ylabel="nats", xlim=(0, 1), ylim=(bound.min().item() - 0.03, log_p + 0.24))
    return figure


# Five coordinates of the Monte Carlo example: z ~ N(0, 1), x|z ~ N(z, 1/4), so x ~ N(0, 5/4); x is typical.
DIMENSION = 5
LOG_P = DIMENSION * S.log_p_each
POSTERIOR = Normal(S.typical / 1.25, (0.25 / S.typical**2).sqrt())  # of one coordinate
PROPOSALS = {  # q(z) of every coordinate, in the order of the slide
    "prior": Normal(torch.zeros(()).double(), torch.ones(()).double()),
    "a fit, too wide": Normal(POSTERIOR.mean - 0.1, 1.6**0.5 * POSTERIOR.stddev),
    "posterior": POSTERIOR,
}


def importance_bound(q: Normal) -> float:
    """Return the bound on log p(x) with q for every coordinate of z, in nats."""
    return LOG_P - DIMENSION * kl_divergence(q, POSTERIOR).item()


def log_importance_weights(q: Normal, *shape: int) -> Tensor:
    """Return log p(x, z) - log q(z) for z ~ q, in nats, of the given shape."""
    z = torch.from_numpy(np.random.default_rng(0).normal(q.mean, q.stddev, (*shape, DIMENSION)))
    log_joint = Normal(0.0, 1.0).log_prob(z) + Normal(z, 0.5).log_prob(S.typical)
    return (log_joint - q.log_prob(z)).sum(dim=-1)


@figure
def importance_view() -> Figure:
    """Draw the distribution of log importance weights under three q: their mean is the bound."""
    figure, axes = canvas(WIDTH, 165, columns=3, sharex=True)
    for panel, (name, q) in zip(axes, PROPOSALS.items(), strict=True):
        bound = importance_bound(q)
        if name == "posterior":
            panel.plot([LOG_P, LOG_P], [0, 1], color=SKY, linewidth=5)
        else:
            weights = log_importance_weights(q, 20_000)
            panel.hist(weights, bins=np.linspace(-70, 0, 85), color=SKY, density=True)
        top = panel.get_ylim()[1]
        panel.plot([bound, bound], [0, top * 0.9], color=BLUE, linewidth=2.4)
        panel.plot([LOG_P, LOG_P], [0, top * 0.9], "--", color=INK, linewidth=1.8)
        panel.set(title=f"q: {name}", xlabel=r"$\log w$ in nats", xlim=(-70, 0), ylim=(0, top))
        panel.text(-69, top * 0.93, rf"$\mathcal{{L}}={bound:.1f}$", color=BLUE, va="top")
        hide_left(panel)
    axes[0].text(-69, axes[0].get_ylim()[1] * 0.75, rf"$\log p={LOG_P:.1f}$", va="top")
    return figure


# --- EM ---------------------------------------------------------------------------------------------------

# Ten points, (10, 1).
CLUTTER = torch.tensor([-3.6, -3.1, -2.9, -2.2, 2.4, 2.8, 3.0, 3.1, 3.3, 3.9], dtype=torch.float64)[:, None]


@cache
def clutter(theta: float) -> S.GaussianMixture:
    """Return the model of the ten points: half N(theta, 1), half N(0, 36); only theta is unknown."""
    return mixture_1d([0.5, 0.5], [theta, 0.0], [1.0, 6.0])


def clutter_log_p(theta: float) -> float:
    """Return the log-likelihood of the ten points, in nats."""
    return clutter(theta).log_prob(CLUTTER).sum().item()


def clutter_bound(theta: float, old: float) -> float:
    """Return L(q, theta) with q the posterior at `old`, in nats."""
    return S.mixture_elbo(clutter(theta), CLUTTER, S.e_step(clutter(old), CLUTTER)).sum().item()


def clutter_path(theta: float, steps: int) -> list[float]:
    """Return the start and the iterates of EM: each maximises the bound made at the one before."""
    path = [theta]
    for _ in range(steps):
        q = S.e_step(clutter(path[-1]), CLUTTER)[:, :1]  # (10, 1)
        path.append(((q * CLUTTER).sum() / q.sum()).item())
    return path


@figure
def bound_touches() -> Figure:
    """Draw a log-likelihood in one parameter with three bounds of EM, from a good and from a bad start."""
    theta = np.linspace(-6, 6, 601)
    figure, axes = canvas(WIDTH, 215, columns=2, sharey=True)
    likelihood = np.array([clutter_log_p(each) for each in theta])
    for panel, start, title in zip(axes, (0.6, -0.6), ("start 0.6", "start −0.6"), strict=True):
        panel.plot(theta, likelihood, color=INK, linewidth=3)
        for (old, new), colour in zip(pairwise(clutter_path(start, 3)), (ORANGE, GREEN, BLUE), strict=True):
            panel.plot(theta, [clutter_bound(each, old) for each in theta], color=colour, linewidth=1.8)
            panel.plot(old, clutter_log_p(old), "o", color=colour, markersize=9, zorder=5)
            panel.plot(new, clutter_bound(new, old), "^", color=colour, markersize=9, zorder=5)
        panel.set(xlabel=r"$\theta$", title=title, ylim=(likelihood.min() - 3, likelihood.max() + 1.5))
    axes[0].set_ylabel("nats")
    axes[0].text(-5.9, likelihood.max() + 0.3, r"$\log p(X\,|\,\theta)$", fontsize=16, va="top")
    return figure


IRIS = torch.from_numpy(load_iris().data)  # (150, 4): sepal length and width, petal length and width in cm
SHOWN = (1, 2, 5, 10, 50)  # the iterations in the table


@cache
def iris_em(iterations: int = 200) -> tuple[list[S.GaussianMixture], list[dict[str, float]]]:
    """Run EM on iris from flowers 0, 50, 100; return the mixtures, the start first, and each step in nats."""
    unit = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    mixtures, trace = [S.GaussianMixture(third, IRIS[[0, 50, 100]], unit)], []
    for _ in range(iterations):
        q = S.e_step(mixtures[-1], IRIS)
        mixtures.append(S.m_step(IRIS, q))
        trace.append(S.verify_em_step(mixtures[-2], q, mixtures[-1], IRIS))
    return mixtures, trace


def contraction(step: int) -> float:
    """Return what share of the gain that is still to come a step of EM on iris leaves."""
    climb = [nats_per_flower(iris_em()[0][0]), *(each["log p"] for each in iris_em()[1])]
    return (climb[-1] - climb[step]) / (climb[-1] - climb[step - 1])


@figure
def em_trace() -> Figure:
    """Draw log p, the bound and their distance at every half step of EM on iris."""
    figure, (left, right) = canvas(WIDTH, 200, columns=2, width_ratios=[1.35, 1])
    _, trace = iris_em()
    log_p, after_e, after_m, kl = np.array([list(step.values()) for step in trace]).T  # each (200,)
    n = np.arange(1, 7)
    left.plot([n, n], [after_m[:6], log_p[:6]], color=RED, linewidth=5, alpha=0.55)
    left.plot(np.arange(12) / 2 + 0.5, np.stack([after_e, after_m], 1)[:6].ravel(), color=BLUE, linewidth=1.8)
    left.plot(n, log_p[:6], "o", color=INK, markersize=8, label=r"$\log p$ after M")
    left.plot(n - 0.5, after_e[:6], "s", color=GREEN, label=r"$\mathcal{L}$ after E")
    left.plot(n, after_m[:6], "^", color=BLUE, markersize=8, label=r"$\mathcal{L}$ after M")
    left.plot([], [], color=RED, linewidth=5, alpha=0.55, label="KL")
    left.set(xlabel="iteration", ylabel="nats per flower", ylim=(-1.9, -1.22), xlim=(0.8, 6.2), xticks=n)
    left.legend(loc="lower right")
    gaps = ((kl, RED, "KL after M"), (log_p[-1] - log_p, INK, "still to gain"))
    for values, colour, label in gaps:
        # To 0.01 of a decade: the last digits depend on the machine.
        rounded = 10 ** np.log10(np.maximum(values[:50], 1e-16)).round(2)
        right.plot(np.arange(1, 51), rounded, color=colour, label=label)
    right.set(yscale="log", xlabel="iteration", ylim=(1e-9, 1))
    right.legend(loc="upper right")
    return figure


@figure
def iris_ellipses() -> Figure:
    """Draw the fitted components over petal length and width at four moments of EM."""
    figure, axes = canvas(WIDTH, 200, columns=4, sharey=True)
    for panel, n in zip(axes, (0, 1, 5, 50), strict=True):
        S.draw_components(panel, iris_em()[0][n], IRIS, (BLUE, ORANGE, GREEN))
        panel.set(title=f"$n={n}$", xticks=[1, 4, 7])
        panel.label_outer()
    return figure


@cache
def flat_fit(eps: float) -> S.GaussianMixture:
    """Fit four Gaussians, one of them started at the setosas with a petal width of exactly 0.2 cm."""
    species = torch.from_numpy(load_iris().target)
    groups = torch.where((species == 0) & (IRIS[:, 3] == 0.2), 3, species)
    return S.fit(IRIS, one_hot(groups, 4).double(), steps=150, eps=eps)


def nats_per_flower(mixture: S.GaussianMixture) -> float:
    """Return the mean log-likelihood of iris, in nats."""
    return mixture.log_prob(IRIS).mean().item()


@cache
def scikit_fits() -> list[GaussianMixture]:
    """Return scikit-learn's fits of one to four full Gaussians to iris, the best of ten starts each."""
    options = {"tol": 1e-10, "n_init": 10, "random_state": 0, "max_iter": 2000}
    return [GaussianMixture(c, **options).fit(IRIS.numpy()) for c in range(1, 5)]


@cache
def better_regular() -> GaussianMixture:
    """Return a fit of four Gaussians that none of the ten starts finds: one of two in a hundred others."""
    options = {"tol": 1e-7, "max_iter": 1000, "init_params": "random_from_data", "random_state": 1024}
    return GaussianMixture(4, **options).fit(IRIS.numpy())


@figure
def collapse() -> Figure:
    """Draw the log-likelihood of two fits of four Gaussians to iris against the floor under the variances."""
    figure, axes = canvas(drawing.HALF_WIDTH - 20, 190)
    floors = 10.0 ** -np.arange(2, 11)
    axes.plot(floors, [nats_per_flower(flat_fit(floor)) for floor in floors], "o-", color=RED)
    regular = scikit_fits()[3].score(IRIS)
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
    rows = {
        "means\nC = 10": stored["means_10"] / 255,
        "samples\nC = 10": stored["samples_10"],
        "samples\nC = 50": stored["samples_50"],
    }
    images = {name: values.reshape(-1, 28, 28) for name, values in rows.items()}
    return drawing.digits(images, WIDTH, 196, levels=16)


@cache
def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    once = ill_after_positive(0.01)
    middle, ignorant = two_bound(torch.tensor([0.5, 0.6], dtype=torch.float64)).tolist()  # 0.6: the prior
    good, bad = (clutter_path(start, 60)[-1] for start in (0.6, -0.6))
    log_p, _, bound, kl = zip(*(iris_em()[1][n - 1].values() for n in SHOWN), strict=True)
    slow = [contraction(step) for step in range(4, 12)]
    plateau = [min(slow), max(slow)]
    flat, flatter = (nats_per_flower(flat_fit(eps)) for eps in (1e-6, 1e-7))
    stored = np.load(FOLDER / "mixture_digits.npz")
    return {
        "ill_after_one_test": round(100 * once, 1),
        "two_heads_predictive": round(float(stats.betabinom.pmf(2, 2, *coin(3, 3).args)), 3),
        "two_heads_mean": fixed(coin(3, 3).mean() ** 2, 3),
        "two_heads_map": fixed(0.8**2, 3),
        "normal_limit_10": fixed([distance_to_normal(10, *prior) for prior in ((2, 2), (12, 3))], 2),
        "normal_limit_1000": fixed([distance_to_normal(1000, *prior) for prior in ((2, 2), (12, 3))], 2),
        "monte_carlo_ratio": fixed(S.ratio, 2),
        "monte_carlo_10": drawing.scientific(samples_needed(10)),
        "monte_carlo_50": drawing.scientific(samples_needed(50)),
        "monte_carlo_bias": fixed(monte_carlo_bias(), 1),
        "two_posterior": round(S.e_step(TWO, TWO_X)[0, 0].item(), 2),
        "two_gap": round(TWO.log_prob(TWO_X).item() - middle, 2),
        "two_gap_prior": round(TWO.log_prob(TWO_X).item() - ignorant, 2),
        "importance_log_p": round(LOG_P, 1),
        "importance_bounds": [round(importance_bound(q), 1) for q in PROPOSALS.values()],
        "clutter_good": [round(good, 2), round(clutter_log_p(good), 1)],
        "clutter_bad": [round(bad, 2), round(clutter_log_p(bad), 1)],
        "trace_steps": list(SHOWN),
        "trace_log_p": fixed(log_p, 4),
        "trace_bound": fixed(bound, 4),
        "trace_kl": fixed(kl, 4),
        "contraction": fixed([contraction(2), *plateau, contraction(18)], 2),
        "components_nats": fixed([model.score(IRIS) for model in scikit_fits()], 4),
        "components_bic": fixed([model.bic(IRIS) for model in scikit_fits()], 1),
        "better_regular": fixed(better_regular().score(IRIS), 4),
        "better_bic": fixed(better_regular().bic(IRIS), 1),
        "flat_nats": round(flat, 3),
        "flat_gain": round(flatter - flat, 3),
        "flat_predicted": round(29 / 150 * np.log(10) / 2, 3),
        "bernoulli_nats": [round(float(stored[f"nats_{c}"]), 1) for c in (1, 10, 50)],
    }
