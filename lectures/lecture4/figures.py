"""Draw the figures of lecture 4, check what its slides claim, and compute the numbers that they print.

    python -m lectures.drawing lecture4 [FOLDER]

Everything is exact, computed by quadrature, or simulated with a fixed seed; nothing is copied by hand.
`check` tests each formula of the deck numerically, and no figure is written if one fails. The numbers go
to `numbers.json`, which the deck reads. Trained flows are drawn from arrays that `trained_flows.py` stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from scipy import optimize, special, stats
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture

from lectures.drawing import (
    INK,
    MUTED,
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
from lectures.lecture4.trained_flows import FOUR, LIMIT, POINTS, TWO

FOLDER = Path(__file__).parent / "figures"
BLUE, ORANGE, GREEN, RED = (PALETTE[name] for name in ("blue", "orange", "green", "red"))
SKY = PALETTE["sky"]
PALE = "#dfe7ee"


# --- Mean field for a Gaussian ----------------------------------------------------------------------------

RHO = 0.9


def correlated(rho: float) -> np.ndarray:
    """Return the covariance of two coordinates with unit variances."""
    return np.array([[1.0, rho], [rho, 1.0]])


def mean_field_gaussian(covariance: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the variances 1 / Lambda_jj of the best factorised q, and KL(q || p) in nats."""
    precision = np.linalg.inv(covariance)
    gap = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    return 1 / np.diag(precision), float(gap)


def cavi_path(mean: np.ndarray, covariance: np.ndarray, start: np.ndarray, sweeps: int) -> np.ndarray:
    """Return the means of q after every single update, (1 + sweeps * d, d)."""
    precision, m = np.linalg.inv(covariance), np.array(start, dtype=float)
    path = [m.copy()]
    for _ in range(sweeps):
        for j in range(len(m)):
            others = np.arange(len(m)) != j
            m[j] = mean[j] - precision[j, others] @ (m - mean)[others] / precision[j, j]
            path.append(m.copy())
    return np.array(path)


def gaussian_kl(mean: np.ndarray, covariance: np.ndarray, other: np.ndarray, wide: np.ndarray) -> float:
    """Return KL(N(mean, covariance) || N(other, wide)) in nats."""
    difference = np.asarray(other) - mean
    inner = np.trace(np.linalg.solve(wide, covariance)) + difference @ np.linalg.solve(wide, difference)
    logs = np.linalg.slogdet(wide)[1] - np.linalg.slogdet(covariance)[1]
    return float((inner - len(difference) + logs) / 2)


@figure
def correlated_gaussian() -> Figure:
    """Draw a correlated normal, its factorised approximations, a path of CAVI, the cost of correlation."""
    figure, (plane, share, gap) = canvas(SLIDE_WIDTH, 205, columns=3, width_ratios=[1.15, 1, 1])
    covariance = correlated(RHO)
    variances, _ = mean_field_gaussian(covariance)
    for scale, style in ((1, "-"), (2, "-")):
        ellipse(plane, np.zeros(2), covariance, scale, edgecolor=INK, linewidth=2, linestyle=style)
        ellipse(plane, np.zeros(2), np.diag(variances), scale, edgecolor=RED, linewidth=2.2)
    ellipse(plane, np.zeros(2), np.eye(2), 2, edgecolor=BLUE, linewidth=1.8, linestyle="--")
    path = cavi_path(np.zeros(2), covariance, np.array([-2.3, 2.0]), 6)
    plane.plot(*path.T, "o-", color=GREEN, linewidth=1.6, markersize=4.5)
    plane.text(-2.45, 2.15, "start", color=GREEN, va="bottom")
    plane.text(1.95, 2.0, "$p$", fontsize=17)
    plane.text(0.25, -1.0, "$q$", color=RED, fontsize=17, va="top")
    plane.text(1.45, -1.75, "$p_1p_2$", color=BLUE, fontsize=16)
    plane.set(xlim=(-2.6, 2.6), ylim=(-2.1, 2.6), aspect="equal", xlabel="$z_1$", ylabel="$z_2$")
    plane.set(xticks=[-2, 0, 2], yticks=[-2, 0, 2])
    rho = np.linspace(0, 0.999, 400)
    share.axhline(1, color=INK, linewidth=2)
    share.plot(rho, 1 - rho**2, color=RED)
    share.text(0.03, 1.03, "true variance", va="bottom")
    share.text(0.05, 0.6, "of $q$: $1-\\rho^2$", color=RED)
    share.set(xlabel=r"$\rho$", title="variance", ylim=(0, 1.2), xlim=(0, 1))
    gap.plot(rho, -0.5 * np.log1p(-(rho**2)), color=RED)
    gap.set(xlabel=r"$\rho$", title=r"$\mathrm{KL}(q\,\|\,p)$, nats", ylim=(0, 3), xlim=(0, 1))
    for panel, value in ((share, 1 - RHO**2), (gap, mean_field_gaussian(covariance)[1])):
        panel.plot(RHO, value, "o", color=RED, markersize=9)
        panel.annotate(
            f"{value:.2f}", (RHO, value), (-12, -3), textcoords="offset points", ha="right", color=RED
        )
    return figure


# --- A Bayesian mixture of Gaussians ----------------------------------------------------------------------


class Beliefs(NamedTuple):
    """Hold q(w) = Dirichlet(alpha), q(mu_c, Lambda_c) = N(mu; mean, (beta Lambda)^-1) Wishart(scale, dof)."""

    alpha: np.ndarray  # (C,)
    beta: np.ndarray  # (C,)
    mean: np.ndarray  # (C, m)
    dof: np.ndarray  # (C,)
    scale_inverse: np.ndarray  # (C, m, m)


def prior_beliefs(
    components: int, alpha: float, beta: float, mean: np.ndarray, inverse: np.ndarray
) -> Beliefs:
    """Return the same prior for every component, with as many degrees of freedom as dimensions."""
    m = len(mean)
    return Beliefs(
        np.full(components, alpha),
        np.full(components, beta),
        np.tile(mean, (components, 1)),
        np.full(components, float(m)),
        np.tile(inverse, (components, 1, 1)),
    )


def update_beliefs(x: np.ndarray, r: np.ndarray, prior: Beliefs) -> Beliefs:
    """Return the best q(w) and q(mu, Lambda) for responsibilities r (n, C)."""
    counts = r.sum(axis=0)
    means = r.T @ x / np.maximum(counts, 1e-300)[:, None]
    centred = x[:, None, :] - means
    scatter = np.einsum("nc,nci,ncj->cij", r, centred, centred)  # n_c S_c
    shift = means - prior.mean
    beta = prior.beta + counts
    pull = (prior.beta * counts / beta)[:, None, None] * shift[:, :, None] * shift[:, None, :]
    return Beliefs(
        prior.alpha + counts,
        beta,
        (prior.beta[:, None] * prior.mean + counts[:, None] * means) / beta[:, None],
        prior.dof + counts,
        prior.scale_inverse + scatter + pull,
    )


def expected_logs(beliefs: Beliefs) -> tuple[np.ndarray, np.ndarray]:
    """Return E log w_c and E log det Lambda_c, (C,) each."""
    m = beliefs.mean.shape[1]
    log_weight = special.digamma(beliefs.alpha) - special.digamma(beliefs.alpha.sum())
    halves = (beliefs.dof[:, None] + 1 - np.arange(1, m + 1)) / 2
    log_det = special.digamma(halves).sum(axis=1) + m * np.log(2)
    return log_weight, log_det - np.linalg.slogdet(beliefs.scale_inverse)[1]


def expected_log_joint(x: np.ndarray, beliefs: Beliefs) -> np.ndarray:
    """Return E_q(theta) log p(x_i, z_i = c | theta), (n, C): log responsibilities up to a constant."""
    m = x.shape[1]
    log_weight, log_det = expected_logs(beliefs)
    centred = x[:, None, :] - beliefs.mean
    solved = np.linalg.solve(beliefs.scale_inverse, centred[..., None])[..., 0]
    squares = m / beliefs.beta + beliefs.dof * (centred * solved).sum(axis=2)
    return log_weight + (log_det - m * np.log(2 * np.pi) - squares) / 2


def wishart_log_normaliser(scale_inverse: np.ndarray, dof: np.ndarray) -> np.ndarray:
    """Return log B of the Wishart density B |Lambda|^((dof - m - 1) / 2) exp(-tr(W^-1 Lambda) / 2), (C,)."""
    m = scale_inverse.shape[1]
    gammas = np.array([special.multigammaln(value / 2, m) for value in dof])
    return dof / 2 * np.linalg.slogdet(scale_inverse)[1] - dof * m / 2 * np.log(2) - gammas


def kl_to_prior(beliefs: Beliefs, prior: Beliefs) -> float:
    """Return KL(q(w, mu, Lambda) || p(w, mu, Lambda)) in nats."""
    m = beliefs.mean.shape[1]
    log_weight, log_det = expected_logs(beliefs)

    def log_beta(alpha: np.ndarray) -> float:
        return special.gammaln(alpha).sum() - special.gammaln(alpha.sum())

    dirichlet = (
        log_beta(prior.alpha) - log_beta(beliefs.alpha) + ((beliefs.alpha - prior.alpha) * log_weight).sum()
    )
    scale = np.linalg.inv(beliefs.scale_inverse)
    shift = beliefs.mean - prior.mean
    ratio = prior.beta / beliefs.beta
    squares = prior.beta * beliefs.dof * np.einsum("ci,cij,cj->c", shift, scale, shift)
    normal = (m * (ratio - 1 - np.log(ratio)) + squares) / 2
    trace = np.einsum("cij,cji->c", prior.scale_inverse, scale)
    wishart = (
        wishart_log_normaliser(beliefs.scale_inverse, beliefs.dof)
        - wishart_log_normaliser(prior.scale_inverse, prior.dof)
        + ((beliefs.dof - prior.dof) * log_det + beliefs.dof * (trace - m)) / 2
    )
    return float(dirichlet + (normal + wishart).sum())


def mixture_elbo(x: np.ndarray, r: np.ndarray, beliefs: Beliefs, prior: Beliefs) -> float:
    """Return the bound on log p(X), in nats for the whole data set."""
    energy = (r * expected_log_joint(x, beliefs)).sum() + special.entr(r).sum()
    return float(energy - kl_to_prior(beliefs, prior))


class Sweep(NamedTuple):
    """Hold one sweep of CAVI: beliefs and responsibilities, and the bound after each of its two updates."""

    beliefs: Beliefs
    r: np.ndarray
    bounds: tuple[float, float]


def mixture_cavi(x: np.ndarray, r: np.ndarray, prior: Beliefs) -> Iterator[Sweep]:
    """Run CAVI without end, starting from responsibilities."""
    while True:
        beliefs = update_beliefs(x, r, prior)
        first = mixture_elbo(x, r, beliefs, prior)
        r = special.softmax(expected_log_joint(x, beliefs), axis=1)
        yield Sweep(beliefs, r, (first, mixture_elbo(x, r, beliefs, prior)))


def hard_start(x: np.ndarray, components: int, seed: int) -> np.ndarray:
    """Return one-hot responsibilities: each point to the nearest of some randomly chosen points."""
    centres = x[np.random.default_rng(seed).choice(len(x), components, replace=False)]
    return np.eye(components)[((x[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)]


@cache
def three_groups() -> np.ndarray:
    """Return 300 synthetic points in the plane from three normals."""
    rng = np.random.default_rng(3)
    means = np.array([[-2.2, -0.8], [0.4, 1.7], [2.4, -1.0]])
    shapes = np.array([[[0.9, 0.3], [0.0, 0.4]], [[0.5, -0.3], [0.0, 0.4]], [[0.4, 0.0], [0.4, 0.9]]])
    return np.concatenate(
        [mean + rng.normal(size=(100, 2)) @ shape for mean, shape in zip(means, shapes, strict=True)]
    )


DEATH_COMPONENTS, DEATH_ALPHA, DEATH_SWEEPS = 10, 0.01, 300


@cache
def death_run() -> list[Sweep]:
    """Return the sweeps of ten components on the three groups."""
    x = three_groups()
    prior = prior_beliefs(DEATH_COMPONENTS, DEATH_ALPHA, 1.0, x.mean(axis=0), 0.3 * np.eye(2))
    return list(islice(mixture_cavi(x, hard_start(x, DEATH_COMPONENTS, 0), prior), DEATH_SWEEPS))


def alive(sweep: Sweep) -> int:
    """Return how many components own at least one point in expectation."""
    return int((sweep.r.sum(axis=0) >= 1).sum())


@figure
def components_die() -> Figure:
    """Draw a Bayesian mixture of ten components at three moments, and the bound with the number alive."""
    figure, axes = canvas(SLIDE_WIDTH, 180, columns=4, width_ratios=[1, 1, 1, 1.25])
    run = death_run()
    for panel, number in zip(axes[:3], (1, 30, DEATH_SWEEPS), strict=True):
        sweep = run[number - 1]
        panel.plot(*three_groups().T, ".", color=SKY, markersize=3.5)
        counts = sweep.r.sum(axis=0)
        for c in np.flatnonzero(counts >= 1):
            covariance = sweep.beliefs.scale_inverse[c] / sweep.beliefs.dof[c]
            strength = float(np.round(0.25 + 0.75 * min(1, counts[c] / 60), 2))
            ellipse(panel, sweep.beliefs.mean[c], covariance, edgecolor=RED, linewidth=2.2, alpha=strength)
        panel.set(title=f"sweep {number}: {alive(sweep)} alive", xlim=(-5, 5), ylim=(-4.6, 3.6))
        panel.set(xticks=[], yticks=[], aspect="equal")
    bounds = [sweep.bounds[1] for sweep in run]
    axes[3].plot(np.arange(1, len(run) + 1), bounds, color=BLUE)
    axes[3].set(xscale="log", xlabel="sweep", title="bound, nats", xlim=(1, DEATH_SWEEPS))
    axes[3].set_xticks([1, 10, 100], ["1", "10", "100"])
    return figure


@cache
def iris() -> np.ndarray:
    """Return the 150 flowers, (150, 4), in cm."""
    return load_iris().data


@cache
def iris_run(components: int = 10, alpha: float = 0.01) -> Sweep:
    """Return the end of CAVI on iris; of ten random starts the one with the highest bound."""
    prior = prior_beliefs(components, alpha, 1.0, iris().mean(axis=0), np.cov(iris().T))
    ends = [
        next(islice(mixture_cavi(iris(), hard_start(iris(), components, seed), prior), 399, None))
        for seed in range(10)
    ]
    return max(ends, key=lambda sweep: sweep.bounds[1])


# --- EM and k-means as limits -----------------------------------------------------------------------------

CENTRES_1D = np.array([-2.0, 0.0, 3.0])


def soft_assignments(squares: np.ndarray, sigma: float) -> np.ndarray:
    """Return responsibilities for squared distances (..., C), equal weights, variance sigma^2."""
    return special.softmax(-np.asarray(squares) / (2 * sigma**2), axis=-1)


def scaled_objective(x: np.ndarray, centres: np.ndarray, sigma: float) -> float:
    """Return -2 sigma^2 (log p(X) + n m / 2 log(2 pi sigma^2)) of the mixture with equal weights."""
    squares = ((x[:, None] - centres) ** 2).sum(axis=2)
    log_mean = special.logsumexp(-squares / (2 * sigma**2), axis=1) - np.log(len(centres))
    return float(-2 * sigma**2 * log_mean.sum())


def distortion(x: np.ndarray, centres: np.ndarray) -> float:
    """Return the objective of k-means: the sum of squared distances to the nearest centre."""
    return float(((x[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum())


def lloyd(x: np.ndarray, centres: np.ndarray, steps: int) -> list[np.ndarray]:
    """Return the centres of k-means after every step."""
    path = [np.array(centres, dtype=float)]
    for _ in range(steps):
        owner = ((x[:, None] - path[-1]) ** 2).sum(axis=2).argmin(axis=1)
        path.append(np.stack([x[owner == c].mean(axis=0) for c in range(len(centres))]))
    return path


def soft_step(x: np.ndarray, centres: np.ndarray, sigma: float) -> np.ndarray:
    """Return the centres after one step of EM with equal weights and a fixed variance."""
    r = soft_assignments(((x[:, None] - centres) ** 2).sum(axis=2), sigma)
    return r.T @ x / r.sum(axis=0)[:, None]


LLOYD_START = np.array([[-3.0, 1.5], [-1.0, -2.5], [0.5, -0.5]])


@figure
def k_means_limit() -> Figure:
    """Draw responsibilities that harden, the steps of k-means, and the scaled objective against sigma."""
    figure, axes = canvas(SLIDE_WIDTH, 205, columns=3, width_ratios=[1.25, 1, 1.1])
    x = np.linspace(-4, 5, 901)
    for sigma, style in ((1.5, ":"), (0.6, "--"), (0.1, "-")):
        r = soft_assignments((x[:, None] - CENTRES_1D) ** 2, sigma)
        axes[0].plot(x, r[:, 1], style, color=RED, label=rf"$\sigma={sigma}$")
    axes[0].plot(CENTRES_1D, np.zeros(3), "^", color=INK, markersize=11, clip_on=False, zorder=5)
    axes[0].set(title="share of the middle centre", xlabel="$x$", yticks=[0, 0.5, 1], ylim=(0, 1.35))
    axes[0].legend(ncols=3, loc="upper center", columnspacing=0.8, handlelength=1.3, handletextpad=0.4)
    path = np.array(lloyd(three_groups(), LLOYD_START, 8))
    owner = ((three_groups()[:, None] - path[-1]) ** 2).sum(axis=2).argmin(axis=1)
    for c, (colour, mark) in enumerate(zip((BLUE, ORANGE, GREEN), "osD", strict=True)):
        axes[1].plot(*three_groups()[owner == c].T, mark, color=colour, markersize=2.6, alpha=0.8)
        axes[1].plot(*path[:, c].T, "-", color=INK, linewidth=2)
        axes[1].plot(*path[-1, c], "o", color=INK, markersize=8)
    axes[1].set(
        title="$k$-means, 8 steps", xticks=[], yticks=[], xlim=(-5, 5), ylim=(-4.2, 4.2), aspect="equal"
    )
    sigmas = np.logspace(-1.5, 0.7, 80)
    centres = path[-1]
    base, n = distortion(three_groups(), centres), len(three_groups())
    axes[2].plot(
        sigmas, [scaled_objective(three_groups(), centres, sigma) / n for sigma in sigmas], color=RED
    )
    axes[2].axhline(base / n, color=INK, linestyle="--", linewidth=1.6)
    axes[2].text(0.032, base / n * 1.08, "$k$-means", va="bottom")
    axes[2].set(
        title="scaled objective per point", xscale="log", yscale="log", xlabel=r"$\sigma$", ylim=(0.6, 12)
    )
    axes[2].set_xticks([0.1, 1], ["0.1", "1"])
    axes[2].set_yticks([1, 10], ["1", "10"])
    axes[2].minorticks_off()
    return figure


# --- Forward and reverse KL -------------------------------------------------------------------------------


class Mixture1D(NamedTuple):
    """Hold weights, means and standard deviations of a mixture of normals on the line."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]

    def log_pdf(self, x: np.ndarray) -> np.ndarray:
        """Return the log-density at x."""
        parts = np.log(self.weights) + stats.norm.logpdf(np.asarray(x)[..., None], self.means, self.scales)
        return special.logsumexp(parts, axis=-1)

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Return the cumulative distribution function at x."""
        return stats.norm.cdf(np.asarray(x)[..., None], self.means, self.scales) @ np.array(self.weights)

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation."""
        weights, means, scales = map(np.array, self)
        mean = weights @ means
        return float(mean), float(np.sqrt(weights @ (scales**2 + means**2) - mean**2))


TARGET = Mixture1D((0.6, 0.4), (-2.0, 2.0), (0.6, 0.8))
LINE = np.linspace(-14, 14, 5601)


def both_kl(target: Mixture1D, mean: float, scale: float) -> tuple[float, float, float]:
    """Return KL(target || q), KL(q || target) and JSD in nats, for q = N(mean, scale^2), by quadrature."""
    log_p, log_q = target.log_pdf(LINE), stats.norm.logpdf(LINE, mean, scale)
    p, q = np.exp(log_p), np.exp(log_q)
    log_half = np.logaddexp(log_p, log_q) - np.log(2)
    values = (p * (log_p - log_q), q * (log_q - log_p), (p * (log_p - log_half) + q * (log_q - log_half)) / 2)
    return tuple(float(np.trapezoid(value, LINE)) for value in values)


@cache
def fit_gaussian(target: Mixture1D, which: int, mean: float, scale: float) -> tuple[float, float]:
    """Return mean and scale that minimise entry `which` of `both_kl`, from a start."""
    found = optimize.minimize(
        lambda u: both_kl(target, u[0], np.exp(u[1]))[which],
        [mean, np.log(scale)],
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000},
    )
    return float(found.x[0]), float(np.exp(found.x[1]))


def fits_1d() -> dict[str, tuple[float, float]]:
    """Return the fits of one normal to the target: forward, and the optima of the reverse and of the JSD."""
    return {
        "forward": fit_gaussian(TARGET, 0, 0.0, 2.0),
        "reverse": fit_gaussian(TARGET, 1, -2.0, 0.6),
        "reverse_other": fit_gaussian(TARGET, 1, 2.0, 0.8),
        "jsd": fit_gaussian(TARGET, 2, 0.0, 2.0),
        "jsd_other": fit_gaussian(TARGET, 2, -2.0, 0.6),
    }


@figure
def penalties() -> Figure:
    """Draw a target with two candidates, and where each divergence charges how much."""
    x = np.linspace(-5.5, 6.5, 601)
    figure, axes = canvas(SLIDE_WIDTH, 212, columns=2, rows=2, sharex=True, height_ratios=[1, 1])
    log_p = TARGET.log_pdf(x)
    for column, (name, (mean, scale)) in zip(
        axes.T, (("one mode only", (-2.0, 0.6)), ("wide", TARGET.moments())), strict=True
    ):
        log_q = stats.norm.logpdf(x, mean, scale)
        column[0].fill_between(x, np.exp(log_p), color=PALE)
        column[0].plot(x, np.exp(log_p), color=INK)
        column[0].plot(x, np.exp(log_q), color=RED)
        column[0].set_title(f"$q$ is {name}")
        forward, reverse, _ = both_kl(TARGET, mean, scale)
        column[1].axhline(0, color=MUTED, linewidth=1)
        column[1].plot(x, np.exp(log_p) * (log_p - log_q), color=BLUE)
        column[1].plot(x, np.exp(log_q) * (log_q - log_p), color=RED)
        column[1].text(-5.6, 2.4, rf"$\pi\,\log\frac{{\pi}}{{q}}$: area {forward:.2f}", color=BLUE)
        column[1].text(-5.6, 1.1, rf"$q\,\log\frac{{q}}{{\pi}}$: area {reverse:.2f}", color=RED)
        column[1].set(ylim=(-0.6, 3.4))
        for panel in column:
            hide_left(panel)
    return figure


@figure
def one_gaussian_1d() -> Figure:
    """Draw the exact fits of one normal to a target with two modes: forward, reverse, Jensen-Shannon."""
    x = np.linspace(-7, 7, 601)
    figure, axes = canvas(SLIDE_WIDTH, 148, columns=3, sharey=True)
    fits = fits_1d()
    titles = (r"$\mathrm{KL}(\pi\,\|\,q)$", r"$\mathrm{KL}(q\,\|\,\pi)$", r"$\mathrm{JSD}(\pi,q)$")
    chosen = (("forward",), ("reverse", "reverse_other"), ("jsd", "jsd_other"))
    for panel, title, names in zip(axes, titles, chosen, strict=True):
        panel.fill_between(x, np.exp(TARGET.log_pdf(x)), color=PALE)
        panel.plot(x, np.exp(TARGET.log_pdf(x)), color=INK, linewidth=1.6)
        for name, style in zip(names, ("-", "--"), strict=False):
            panel.plot(x, stats.norm.pdf(x, *fits[name]), style, color=RED)
        panel.set_title(title)
        hide_left(panel)
    return figure


def symmetric_target(a: float) -> Mixture1D:
    """Return the mixture of two unit normals at -a and a."""
    return Mixture1D((0.5, 0.5), (-a, a), (1.0, 1.0))


SEPARATIONS = np.round(np.linspace(0, 4, 33), 3)


@cache
def middle_fit(a: float) -> tuple[float, float]:
    """Return scale and reverse KL of the best normal with mean zero."""
    found = optimize.minimize_scalar(
        lambda u: both_kl(symmetric_target(a), 0.0, np.exp(u))[1],
        bounds=(-1.5, 2.5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return float(np.exp(found.x)), float(found.fun)


@cache
def side_fit(a: float) -> tuple[float, float, float]:
    """Return mean, scale and reverse KL of the best normal that starts at the right mode."""
    mean, scale = fit_gaussian(symmetric_target(a), 1, max(a, 0.3), 1.0)
    return mean, scale, both_kl(symmetric_target(a), mean, scale)[1]


@cache
def jump() -> float:
    """Return the separation at which the best reverse fit changes from the middle to one mode."""
    return float(optimize.brentq(lambda a: middle_fit(a)[1] - side_fit(a)[2], 2.5, 3.0, xtol=1e-6))


@figure
def reverse_jumps() -> Figure:
    """Draw mean, scale, divergence of the forward and the reverse fit against the distance of two modes."""
    figure, axes = canvas(SLIDE_WIDTH, 180, columns=3)
    a = SEPARATIONS
    middle, side = (np.array([fit(value) for value in a]) for fit in (middle_fit, side_fit))
    exists = side[:, 0] > 0.5  # else the search from the mode ran back to the middle
    low, high = a < jump(), a > jump()
    axes[0].plot(a, 0 * a, "--", color=BLUE)
    axes[0].plot(a[low], 0 * a[low], color=RED)
    for sign in (1, -1):
        axes[0].plot(a[exists], sign * side[exists, 0], color=RED, linewidth=1, alpha=0.5)
        axes[0].plot(a[high], sign * side[high, 0], color=RED)
        axes[0].plot(a, sign * a, ":", color=MUTED, linewidth=1.6)
    axes[0].set(title="mean of $q$", xlabel="modes at $\\pm a$")
    axes[1].plot(a, np.sqrt(1 + a**2), "--", color=BLUE, label="forward")
    axes[2].plot(a, [both_kl(symmetric_target(v), 0, np.sqrt(1 + v**2))[0] for v in a], "--", color=BLUE)
    axes[2].axhline(np.log(2), color=MUTED, linestyle=":", linewidth=1.6)
    axes[2].text(0.05, np.log(2) + 0.02, r"$\ln 2$", va="bottom")
    for panel, entry in ((axes[1], 0), (axes[2], 1)):
        best = np.where(low, middle[:, entry], side[:, entry + 1])
        panel.plot(a[low], best[low], color=RED, label="reverse, best")
        panel.plot(a[high], best[high], color=RED)
        panel.plot(a[high], middle[high, entry], color=RED, linewidth=1, alpha=0.5)
        panel.plot(a[low & exists], side[low & exists, entry + 1], color=RED, linewidth=1, alpha=0.5)
    axes[1].set(title="standard deviation of $q$", xlabel="modes at $\\pm a$", ylim=(0, 5.2))
    axes[1].legend(loc="upper left", labelspacing=0.15, borderaxespad=0)
    axes[2].set(title="divergence reached, nats", xlabel="modes at $\\pm a$", ylim=(0, 1.25))
    return figure


class Mixture2D(NamedTuple):
    """Hold weights (C,), means (C, 2) and covariances (C, 2, 2) of a mixture in the plane."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def log_pdf(self, x: np.ndarray) -> np.ndarray:
        """Return the log-density at points (..., 2)."""
        parts = [
            np.log(weight) + stats.multivariate_normal.logpdf(x, mean, covariance)
            for weight, mean, covariance in zip(*self, strict=True)
        ]
        return special.logsumexp(parts, axis=0)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance."""
        mean = self.weights @ self.means
        second = self.covariances + self.means[:, :, None] * self.means[:, None, :]
        return mean, np.einsum("c,cij->ij", self.weights, second) - np.outer(mean, mean)


PLANE_TARGET = Mixture2D(
    np.array([0.6, 0.4]),
    np.array([[-1.4, -0.9], [1.6, 1.2]]),
    np.array([[[0.55, 0.38], [0.38, 0.45]], [[0.5, -0.35], [-0.35, 0.5]]]),
)
SIDE = np.linspace(-6, 6, 161)
PLANE = np.stack(np.meshgrid(SIDE, SIDE), axis=-1)  # (y, x, 2)
CELL = (SIDE[1] - SIDE[0]) ** 2


def plane_normal(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance from the mean (2), log diagonal of a Cholesky factor (2), its corner."""
    factor = np.array([[np.exp(u[2]), 0], [u[4] if len(u) > 4 else 0.0, np.exp(u[3])]])
    return np.array(u[:2]), factor @ factor.T


def plane_kl(u: np.ndarray) -> tuple[float, float]:
    """Return KL(target || q) and KL(q || target) in nats, by quadrature."""
    log_p, log_q = PLANE_TARGET.log_pdf(PLANE), stats.multivariate_normal.logpdf(PLANE, *plane_normal(u))
    ratio = log_p - log_q
    return float((np.exp(log_p) * ratio).sum() * CELL), float((np.exp(log_q) * -ratio).sum() * CELL)


@cache
def plane_fits() -> dict[str, np.ndarray]:
    """Return the parameters of the fits in the plane: forward, reverse from both modes, factorised."""

    def fit(which: int, start: list[float]) -> np.ndarray:
        return optimize.minimize(lambda u: plane_kl(u)[which], start, method="BFGS", options={"gtol": 1e-7}).x

    left, right = ([*mean, -0.4, -0.4] for mean in PLANE_TARGET.means)
    return {
        "forward": fit(0, [0, 0, 0.3, 0.3, 0.1]),
        "reverse": fit(1, [*left, 0.1]),
        "reverse_other": fit(1, [*right, -0.1]),
        "factorised": fit(1, left),
    }


@figure
def one_gaussian_2d() -> Figure:
    """Draw fits of one normal to two correlated modes: forward, reverse, reverse and factorised."""
    figure, axes = canvas(SLIDE_WIDTH, 232, columns=3, sharey=True)
    density = np.exp(PLANE_TARGET.log_pdf(PLANE)).round(5)
    levels = density.max() * np.array([0.02, 0.08, 0.18, 0.35, 0.6, 0.85, 1.01])
    panels = (
        (r"$\mathrm{KL}(\pi\,\|\,q)$, full covariance", ("forward",)),
        (r"$\mathrm{KL}(q\,\|\,\pi)$, full covariance", ("reverse", "reverse_other")),
        (r"$\mathrm{KL}(q\,\|\,\pi)$, mean field", ("factorised",)),
    )
    for panel, (title, names) in zip(axes, panels, strict=True):
        panel.contourf(SIDE, SIDE, density, levels=levels, cmap="Blues")
        for name, style in zip(names, ("-", "--"), strict=False):
            for scale in (1, 2):
                mean, covariance = plane_normal(plane_fits()[name])
                ellipse(panel, mean, covariance, scale, edgecolor=RED, linewidth=2, linestyle=style)
        panel.set(title=title, xlim=(-4.6, 4.6), ylim=(-4.2, 4.2), aspect="equal", xticks=[], yticks=[])
    return figure


def jsd_of_normals(mu: float) -> float:
    """Return JSD(N(0, 1), N(mu, 1)) in nats, by quadrature."""
    return both_kl(Mixture1D((1.0,), (0.0,), (1.0,)), mu, 1.0)[2]


@figure
def jsd_saturates() -> Figure:
    """Draw KL and JSD of two unit normals against their distance."""
    figure, axes = canvas(SLIDE_WIDTH * 0.42, 180)
    mu = np.linspace(0, 8, 161)
    axes.plot(mu, mu**2 / 2, color=BLUE)
    axes.plot(mu, [jsd_of_normals(value) for value in mu], color=GREEN)
    axes.axhline(np.log(2), color=MUTED, linestyle=":", linewidth=1.6)
    axes.text(0.1, np.log(2) + 0.03, r"$\ln 2$", va="bottom")
    axes.text(2.1, 1.75, "KL", color=BLUE, ha="left")
    axes.text(5.4, 0.6, "JSD", color=GREEN, va="top")
    axes.set(
        xlabel=r"distance $\mu$ of $\mathcal{N}(0,1)$ and $\mathcal{N}(\mu,1)$", ylabel="nats", ylim=(0, 2)
    )
    return figure


# --- Change of variables ----------------------------------------------------------------------------------


def bend(x: np.ndarray) -> np.ndarray:
    """Return the increasing map z = f(x) of the picture in one dimension, (e^x - e^-0.5x) / 1.5."""
    return (np.exp(x) - np.exp(-0.5 * x)) / 1.5


def bend_slope(x: np.ndarray) -> np.ndarray:
    """Return its derivative."""
    return (np.exp(x) + 0.5 * np.exp(-0.5 * x)) / 1.5


@figure
def change_of_variables_1d() -> Figure:
    """Draw an increasing map, the density of z at its left, that of x below, two strips of equal mass."""
    figure, axes = canvas(
        SLIDE_WIDTH * 0.54, 262, columns=2, rows=2, width_ratios=[1, 2.6], height_ratios=[2, 1]
    )
    (left, main), (corner, below) = axes
    corner.remove()
    x = np.linspace(-3.2, 1.6, 500)
    z = np.linspace(-3, 3, 500)
    main.plot(x, bend(x), color=INK)
    left.plot(-stats.norm.pdf(z), z, color=BLUE)
    below.plot(x, stats.norm.pdf(bend(x)) * bend_slope(x), color=RED)
    for low, colour in ((-1.55, ORANGE), (0.55, GREEN)):
        high = low + 0.3
        inside_x, inside_z = np.linspace(low, high, 60), np.linspace(bend(low), bend(high), 60)
        main.fill_between(inside_x, -3, bend(inside_x), color=colour, alpha=0.25)
        main.fill_betweenx(inside_z, -3.2, np.interp(inside_z, bend(x), x), color=colour, alpha=0.25)
        left.fill_betweenx(inside_z, -stats.norm.pdf(inside_z), 0, color=colour, alpha=0.8)
        below.fill_between(
            inside_x, stats.norm.pdf(bend(inside_x)) * bend_slope(inside_x), color=colour, alpha=0.8
        )
    main.set(xlim=(-3.2, 1.6), ylim=(-3, 3), xticks=[], yticks=[])
    main.text(-0.15, 1.5, "$z=f(x)$", fontsize=17)
    left.set(ylim=(-3, 3), xlim=(-0.47, 0), xticks=[], yticks=[], ylabel="$z$")
    left.text(-0.45, 1.8, r"$p_z(z)$", color=BLUE, fontsize=16)
    left.spines["bottom"].set_visible(False)
    below.set(xlim=(-3.2, 1.6), ylim=(0, None), xticks=[], yticks=[], xlabel="$x$")
    below.text(-3.1, 0.28, r"$p_x(x)$", color=RED, fontsize=16)
    below.spines["left"].set_visible(False)
    return figure


def swirl(z: np.ndarray) -> np.ndarray:
    """Return the smooth bijection x = g(z) of the picture in two dimensions."""
    first = z[..., 0] + 0.55 * np.sin(1.6 * z[..., 1])
    return np.stack([first, z[..., 1] * np.exp(0.35 * first) + 0.35 * first], axis=-1)


def swirl_jacobian(z: np.ndarray) -> np.ndarray:
    """Return the Jacobian matrix of `swirl` at one point."""
    across = 0.55 * 1.6 * np.cos(1.6 * z[1])
    stretch = np.exp(0.35 * (z[0] + 0.55 * np.sin(1.6 * z[1])))
    up = 0.35 * (z[1] * stretch + 1)
    return np.array([[1, across], [up, stretch + up * across]])


CORNER, WIDTH = np.array([0.3, 0.6]), 0.3


def image_area(corner: np.ndarray, width: float, points: int = 400) -> float:
    """Return the area of the image of a square under `swirl`, from its boundary by the shoelace formula."""
    side = np.linspace(0, width, points)
    zero, full = np.zeros(points), np.full(points, width)
    edges = [(side, zero), (full, side), (side[::-1], full), (zero, side[::-1])]
    x, y = swirl(corner + np.concatenate([np.stack(edge, axis=1) for edge in edges])).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


@figure
def volume_ratio() -> Figure:
    """Draw a grid and its image, with one cell, its curved image and the parallelogram of the Jacobian."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=3)
    lines = np.arange(-1.5, 1.51, WIDTH)
    fine = np.linspace(-1.5, 1.5, 121)
    for value in lines:
        for line in (np.stack([fine, np.full(121, value)], 1), np.stack([np.full(121, value), fine], 1)):
            axes[0].plot(*line.T, color=MUTED, linewidth=0.9)
            axes[1].plot(*swirl(line).T, color=MUTED, linewidth=0.9)
    square = CORNER + WIDTH * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    edge = np.linspace(0, 1, 40)[:, None]
    boundary = np.concatenate(
        [a + edge * (b - a) for a, b in zip(square, np.roll(square, -1, axis=0), strict=True)]
    )
    tangent = swirl(CORNER) + (square - CORNER) @ swirl_jacobian(CORNER).T
    axes[0].add_patch(Polygon(square, color=BLUE, alpha=0.7))
    axes[1].add_patch(Polygon(swirl(boundary), color=BLUE, alpha=0.7))
    axes[2].add_patch(Polygon(swirl(boundary), color=BLUE, alpha=0.35))
    axes[2].add_patch(Polygon(tangent, fill=False, edgecolor=RED, linewidth=2.4))
    axes[2].plot(*swirl(CORNER), "o", color=INK)
    axes[0].set(title="$z$", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    axes[1].set(title="$x=g(z)$", xlim=(-2.5, 2.5), ylim=(-1.9, 3.1))
    axes[2].set(title="the cell, and $J_g$ times it")
    middle = swirl(boundary).mean(axis=0)
    axes[2].set(xlim=(middle[0] - 0.44, middle[0] + 0.5), ylim=(middle[1] - 0.36, middle[1] + 0.5))
    for panel in axes:
        panel.set(xticks=[], yticks=[], aspect="equal")
    return figure


FLOW_TARGET = Mixture1D((0.6, 0.4), (-1.5, 1.8), (0.5, 0.7))


def to_normal(x: np.ndarray) -> np.ndarray:
    """Return z = Phi^-1(F(x)) for the target of the picture."""
    return stats.norm.ppf(FLOW_TARGET.cdf(x))


@figure
def cdf_flow() -> Figure:
    """Draw a density with two modes, its distribution function, and the flow that turns it into a normal."""
    figure, axes = canvas(SLIDE_WIDTH, 172, columns=4)
    x = np.linspace(-3.4, 4.2, 500)
    rng = np.random.default_rng(0)
    chosen = rng.random(4000) < FLOW_TARGET.weights[0]
    parts = [rng.normal(mean, scale, 4000) for mean, scale in zip(*FLOW_TARGET[1:], strict=True)]
    sample = np.where(chosen, *parts)
    axes[0].hist(sample, bins=50, density=True, color=PALE)
    axes[0].plot(x, np.exp(FLOW_TARGET.log_pdf(x)), color=INK)
    axes[0].set(title=r"$\pi(x)$", xlabel="$x$")
    axes[1].plot(x, FLOW_TARGET.cdf(x), color=BLUE)
    axes[1].set(title="$u=F(x)$: uniform", xlabel="$x$", yticks=[0, 0.5, 1])
    axes[2].plot(x, to_normal(x), color=RED)
    axes[2].set(title=r"$z=\Phi^{-1}(F(x))$", xlabel="$x$", ylim=(-3.5, 3.5), yticks=[-2, 0, 2])
    axes[3].hist(to_normal(sample), bins=40, density=True, color=PALE)
    z = np.linspace(-3.5, 3.5, 200)
    axes[3].plot(z, stats.norm.pdf(z), color=RED)
    axes[3].set(title="codes", xlabel="$z$")
    for panel in (axes[0], axes[3]):
        hide_left(panel)
    return figure


TRIANGLE_FIRST = Mixture1D((0.5, 0.5), (-1.0, 1.1), (0.5, 0.6))
TRIANGLE_NOISE = 0.4


def triangle_centre(first: np.ndarray) -> np.ndarray:
    """Return the mean of x_2 given x_1."""
    return 0.8 * first**2 - 1


def triangle_sample(n: int, seed: int = 0) -> np.ndarray:
    """Return points (n, 2): x_1 from a mixture, x_2 normal around a parabola in x_1."""
    rng = np.random.default_rng(seed)
    chosen = rng.random(n) < 0.5
    parts = [rng.normal(mean, scale, n) for mean, scale in zip(*TRIANGLE_FIRST[1:], strict=True)]
    first = np.where(chosen, *parts)
    return np.stack([first, triangle_centre(first) + TRIANGLE_NOISE * rng.normal(size=n)], axis=1)


def triangle_log_pdf(x: np.ndarray) -> np.ndarray:
    """Return log p(x_1) + log p(x_2 | x_1) at points (n, 2)."""
    return TRIANGLE_FIRST.log_pdf(x[:, 0]) + stats.norm.logpdf(
        x[:, 1], triangle_centre(x[:, 0]), TRIANGLE_NOISE
    )


def rosenblatt(x: np.ndarray) -> np.ndarray:
    """Return u = (F_1(x_1), F_2(x_2 | x_1)), uniform on the square."""
    second = stats.norm.cdf((x[:, 1] - triangle_centre(x[:, 0])) / TRIANGLE_NOISE)
    return np.stack([TRIANGLE_FIRST.cdf(x[:, 0]), second], axis=1)


@figure
def knothe_rosenblatt() -> Figure:
    """Draw points of a bent density, the same points after each coordinate's own distribution function."""
    figure, axes = canvas(SLIDE_WIDTH * 0.66, 160, columns=3)
    x = triangle_sample(900)
    u = rosenblatt(x)
    group = np.minimum((u[:, 0] * 4).astype(int), 3)
    for c, (colour, mark) in enumerate(zip((BLUE, ORANGE, GREEN, RED), "osD^", strict=True)):
        style = {"color": colour, "markersize": 2.6, "linestyle": "none", "marker": mark}
        axes[0].plot(*x[group == c].T, **style)
        axes[1].plot(u[group == c, 0], x[group == c, 1], **style)
        axes[2].plot(*u[group == c].T, **style)
    axes[0].set(title="data", xlabel="$x_1$", ylabel="$x_2$", xticks=[-2, 0, 2], yticks=[-2, 0, 2, 4])
    axes[1].set(
        title="$u_1=F_1(x_1)$", xlabel="$u_1$", ylabel="$x_2$", xticks=[0, 0.5, 1], yticks=[-2, 0, 2, 4]
    )
    axes[2].set(title=r"$u_2=F_2(x_2\,|\,x_1)$", xlabel="$u_1$", ylabel="$u_2$", xticks=[0, 0.5, 1])
    axes[2].set(yticks=[0, 0.5, 1])
    return figure


# --- Trained flows ----------------------------------------------------------------------------------------


@cache
def trained() -> dict[str, np.ndarray]:
    """Return the arrays that `trained_flows` stored."""
    with np.load(FOLDER / "trained_flows.npz") as stored:
        return {name: stored[name] for name in stored}


def window() -> np.ndarray:
    """Return one side of the grid of the trained flows."""
    return np.linspace(-LIMIT, LIMIT, POINTS)


def target_on_grid(target: object) -> np.ndarray:
    """Return the log-density of a target on that grid, (POINTS, POINTS)."""
    points = np.stack(np.meshgrid(window(), window()), axis=-1).reshape(-1, 2)
    return target.log_prob(torch.as_tensor(points)).numpy().reshape(POINTS, POINTS)


def grid_kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Return KL(p || q) in nats of two log-densities on the grid."""
    cell = (window()[1] - window()[0]) ** 2
    return float((np.exp(log_p) * (log_p - log_q)).sum() * cell)


@figure
def linear_flow_digits() -> Figure:
    """Draw test digits, their codes under the linear flow, and samples of it."""
    figure, axes = canvas(SLIDE_WIDTH * 0.5, 165, columns=6, rows=3)
    figure.get_layout_engine().set(wspace=0.03, hspace=0.03, w_pad=0.01, h_pad=0.01)
    rows = (
        ("digits $x$", trained()["digits"]),
        ("codes $z$", 0.5 + trained()["codes"] / 6),
        ("drawn", trained()["drawn"]),
    )
    for line, (name, images) in zip(axes, rows, strict=True):
        for panel, image in zip(line, images, strict=True):
            shade = np.round(np.clip(image, 0, 1).reshape(28, 28).astype(float) * 5) / 5
            draw_pixels(panel, shade, lambda value: str(round(1 - value, 2)) if value else None)
            panel.spines[:].set_visible(True)
            panel.spines[:].set_color("#c9d3dc")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


@figure
def filament() -> Figure:
    """Draw the exact flow to two modes in 1-D, and the log-density of a trained one in 2-D."""
    figure, axes = canvas(SLIDE_WIDTH, 157, columns=3, width_ratios=[1, 1.15, 1.15])
    z = np.linspace(-2.5, 2.5, 301)
    x = np.linspace(-4.5, 4.5, 4001)
    target = Mixture1D((0.5, 0.5), (-2.0, 2.0), (0.5, 0.5))
    axes[0].plot(z, np.interp(z, stats.norm.ppf(target.cdf(x)), x), color=RED)
    axes[0].set(title="1-D: $x=g(z)$, exact", xlabel="$z$", yticks=[-2, 0, 2], xticks=[-2, 0, 2])
    axes[0].annotate(
        f"slope {middle_slope():.0f}",
        (0.02, -0.6),
        (0.45, -1.6),
        color=RED,
        arrowprops={"arrowstyle": "->", "color": RED},
    )
    levels = [-16, -12, -8, -6, -4, -2, 0, 1.5]
    for panel, title, values in (
        (axes[1], r"$\log\pi(x)$, two modes", target_on_grid(TWO)),
        (axes[2], r"$\log p(x\,|\,\theta)$, a trained flow", trained()["forward_two"]),
    ):
        shown = np.clip(np.asarray(values, dtype=float), -16.5, 1.4).round(3)
        panel.contourf(window(), window(), shown, levels=levels, cmap="Blues")
        panel.set(title=title, xlim=(-3.5, 3.5), ylim=(-1.7, 1.7), xticks=[], yticks=[], aspect="equal")
    return figure


def middle_slope() -> float:
    """Return g'(0) = phi(0) / pi(0) of the exact 1-D flow to modes at -2 and 2, scale 0.5."""
    target = Mixture1D((0.5, 0.5), (-2.0, 2.0), (0.5, 0.5))
    return float(stats.norm.pdf(0) / np.exp(target.log_pdf(np.zeros(1)))[0])


@figure
def two_trainings() -> Figure:
    """Draw a target with four modes and two flows: trained from samples, and from the density."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=3)
    panels = (
        ("target", target_on_grid(FOUR)),
        ("forward KL, from samples", trained()["forward_four"]),
        ("reverse KL, from the density", trained()["reverse_four"]),
    )
    for panel, (title, values) in zip(axes, panels, strict=True):
        density = np.exp(np.asarray(values, dtype=float)).round(5)
        levels = np.array([0.002, 0.008, 0.03, 0.07, 0.13, 0.2, 0.3, 0.5, 5])
        panel.contourf(window(), window(), density, levels=levels, cmap="Blues", vmin=0, vmax=0.4)
        panel.set(title=title, xlim=(-4, 4.6), ylim=(-3.8, 4), xticks=[], yticks=[], aspect="equal")
    return figure


WIDTHS = np.logspace(-4, 0, 9)


def value_entropy() -> float:
    """Return the entropy of a pixel's value in MNIST's training images, in bits."""
    return float(stats.entropy(trained()["values"], base=2))


def comb_bits(width: float) -> float:
    """Return bits/dim of undithered pixels under a comb: a normal of this width on each of the 256 values.

    The weights are the frequencies of the values. At an integer every other tooth is far away as long as the
    width is well below 1.
    """
    frequency = trained()["values"] / trained()["values"].sum()
    value = np.arange(256)
    log_teeth = stats.norm.logpdf(value[:, None], value, width)
    seen = frequency > 0
    log_p = special.logsumexp(log_teeth[:, seen] + np.log(frequency[seen]), axis=1)
    return float(-(frequency[seen] @ log_p[seen]) / np.log(2))


@figure
def integers_diverge() -> Figure:
    """Draw a comb on integers, and the bits per dimension it claims against the width of its teeth."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 160, columns=2)
    x = np.linspace(0.4, 6.6, 2400)
    heights = np.array([0.05, 0.25, 0.15, 0.3, 0.2, 0.05])
    for width, colour in ((0.3, SKY), (0.12, BLUE), (0.04, RED)):
        density = stats.norm.pdf(x[:, None], np.arange(1, 7), width) @ heights
        left.plot(x, density, color=colour, linewidth=1.8, label=f"width {width}")
    left.set(xlabel="value of a pixel", title="a density on integers", xticks=range(1, 7), xlim=(0.4, 9.6))
    left.legend(loc="upper right", handlelength=1.2)
    hide_left(left)
    right.axhline(0, color=INK, linewidth=1.2)
    right.axhline(value_entropy(), color=GREEN, linestyle="--")
    right.text(1e-4, value_entropy() + 0.4, "entropy of the values", color=GREEN, va="bottom")
    right.plot(WIDTHS, [comb_bits(width) for width in WIDTHS], "o-", color=RED)
    right.set(xscale="log", xlabel="width of the teeth", title="claimed bits/dim", ylim=(-11.5, 6))
    right.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1])
    right.minorticks_off()
    return figure


# --- What the slides claim, checked -----------------------------------------------------------------------


def table_elbo(q1: np.ndarray, q2: np.ndarray, log_joint: np.ndarray) -> float:
    """Return the bound for q(z1) q(z2) and a table of log p(x, z1, z2)."""
    return float(q1 @ log_joint @ q2 + special.entr(q1).sum() + special.entr(q2).sum())


def check_mean_field() -> None:
    """Check the best factor on tables, and mean field for Gaussians: means, variances, gap, contraction."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        log_joint = rng.normal(size=(3, 4)) * 2
        q1, q2 = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4))
        log_p = special.logsumexp(log_joint)
        bounds = [table_elbo(q1, q2, log_joint)]
        for _ in range(15):
            q1 = special.softmax(log_joint @ q2)
            bounds.append(table_elbo(q1, q2, log_joint))
            q2 = special.softmax(q1 @ log_joint)
            bounds.append(table_elbo(q1, q2, log_joint))
        assert np.diff(bounds).min() > -1e-12 and bounds[-1] <= log_p + 1e-12
        best = special.softmax(log_joint @ q2)
        for other in rng.dirichlet(np.ones(3), size=5):
            loss = special.rel_entr(other, best).sum()  # the theorem: what another factor costs
            difference = table_elbo(best, q2, log_joint) - table_elbo(other, q2, log_joint)
            assert np.isclose(difference, loss)
        joint_q = np.outer(q1, q2)
        posterior = np.exp(log_joint - log_p)
        assert np.isclose(table_elbo(q1, q2, log_joint) + special.rel_entr(joint_q, posterior).sum(), log_p)

    for d in (2, 4):
        root = rng.normal(size=(d, d))
        covariance, mean = root @ root.T + 0.3 * np.eye(d), rng.normal(size=d)
        variances, gap = mean_field_gaussian(covariance)
        assert np.isclose(gaussian_kl(mean, np.diag(variances), mean, covariance), gap)
        assert (variances <= np.diag(covariance) + 1e-12).all()
        for j in range(d):
            others = np.arange(d) != j
            inner = np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, j])
            assert np.isclose(variances[j], covariance[j, j] - covariance[j, others] @ inner)
        path = cavi_path(mean, covariance, rng.normal(size=d) * 3, 4000)
        assert np.allclose(path[-1], mean, atol=1e-6)
        kls = [gaussian_kl(m, np.diag(variances), mean, covariance) for m in path[:40]]
        assert np.diff(kls).max() < 1e-10, "no single update raises the divergence"
        for _ in range(20):
            other = variances * np.exp(0.1 * rng.normal(size=d))
            assert gaussian_kl(mean + 0.05 * rng.normal(size=d), np.diag(other), mean, covariance) > gap
            assert gaussian_kl(mean, covariance, mean, np.diag(np.diag(covariance))) < gaussian_kl(
                mean, covariance, mean, np.diag(np.diag(covariance) * np.exp(0.1 * rng.normal(size=d)))
            ), "the forward direction keeps the marginals"
    for rho in (0.0, 0.3, RHO, 0.99):
        variances, gap = mean_field_gaussian(correlated(rho))
        assert np.allclose(variances, 1 - rho**2) and np.isclose(gap, -np.log1p(-(rho**2)) / 2)
        path = cavi_path(np.zeros(2), correlated(rho), np.array([1.0, -2.0]), 3)
        assert np.allclose(path[4::2], rho**2 * path[2:-1:2]), "a sweep shrinks the error by rho^2"


def check_mixture() -> None:
    """Check the updates against moments by simulation, exact evidence, monotone sweeps and scikit-learn."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]]) + 1
    prior = prior_beliefs(1, 0.7, 0.5, np.zeros(2), np.array([[1.2, 0.2], [0.2, 0.8]]))
    prior = prior._replace(dof=np.array([3.5]))
    posterior = update_beliefs(x, np.ones((30, 1)), prior)
    evidence, seen = 0.0, prior
    for point in x:  # one component: predict each point from those before, by a Student distribution
        dof = seen.dof[0] - 1
        shape = seen.scale_inverse[0] * (seen.beta[0] + 1) / (seen.beta[0] * dof)
        evidence += stats.multivariate_t.logpdf(point, seen.mean[0], shape, df=dof)
        seen = update_beliefs(point[None], np.ones((1, 1)), seen)
    assert all(np.allclose(a, b) for a, b in zip(seen, posterior, strict=True))
    assert np.isclose(mixture_elbo(x, np.ones((30, 1)), posterior, prior), evidence)

    beliefs = update_beliefs(
        x, rng.dirichlet(np.ones(2), size=30), prior_beliefs(2, 0.7, 0.5, np.zeros(2), np.eye(2))
    )
    scale = np.linalg.inv(beliefs.scale_inverse[1])
    precision = stats.wishart(beliefs.dof[1], scale).rvs(40_000, random_state=rng)
    log_weight, log_det = expected_logs(beliefs)
    assert abs(np.linalg.slogdet(precision)[1].mean() - log_det[1]) < 0.01
    weights = rng.dirichlet(beliefs.alpha, size=40_000)
    assert np.allclose(np.log(weights).mean(axis=0), log_weight, atol=0.02)
    noise = np.linalg.solve(
        np.linalg.cholesky(beliefs.beta[1] * precision).swapaxes(1, 2), rng.normal(size=(40_000, 2, 1))
    )[..., 0]
    centred = x[0] - beliefs.mean[1] - noise
    squares = np.einsum("si,sij,sj->s", centred, precision, centred)
    difference = x[0] - beliefs.mean[1]
    exact = 2 / beliefs.beta[1] + beliefs.dof[1] * difference @ scale @ difference
    assert abs(squares.mean() / exact - 1) < 0.03

    sigma, tau, shares = 0.8, 2.0, rng.random(30)  # the spherical mixture of the seminar, one coordinate
    grid = np.linspace(-4, 4, 8001)
    log_q = stats.norm.logpdf(grid, 0, tau) + stats.norm.logpdf(x[:, :1], grid, sigma).T @ shares
    q = np.exp(log_q - log_q.max())
    q /= q.sum()
    variance = 1 / (1 / tau**2 + shares.sum() / sigma**2)
    assert np.isclose(q @ grid, variance * (shares @ x[:, 0]) / sigma**2)
    assert np.isclose(q @ grid**2 - (q @ grid) ** 2, variance)

    bounds = [bound for sweep in death_run() for bound in sweep.bounds]
    assert np.diff(bounds).min() > -1e-8 * abs(bounds[0])
    assert alive(death_run()[-1]) == 3 and alive(death_run()[0]) == DEATH_COMPONENTS

    points = three_groups()
    model = BayesianGaussianMixture(
        n_components=5,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.3,
        mean_precision_prior=0.8,
        mean_prior=points.mean(axis=0),
        degrees_of_freedom_prior=2.0,
        covariance_prior=0.5 * np.eye(2),
        reg_covar=0,
        tol=1e-12,
        max_iter=3000,
        random_state=0,
    ).fit(points)
    theirs = Beliefs(
        model.weight_concentration_,
        model.mean_precision_,
        model.means_,
        model.degrees_of_freedom_,
        model.covariances_ * model.degrees_of_freedom_[:, None, None],
    )
    r = special.softmax(expected_log_joint(points, theirs), axis=1)
    assert np.allclose(r, model.predict_proba(points), atol=1e-8)
    ours = update_beliefs(points, r, prior_beliefs(5, 0.3, 0.8, points.mean(axis=0), 0.5 * np.eye(2)))
    assert all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(ours, theirs, strict=True))


def check_limits() -> None:
    """Check k-means as the limit of EM, its bounds at every variance, the point limit of q(theta)."""
    x, centres = three_groups(), LLOYD_START
    squares = ((x[:, None] - centres) ** 2).sum(axis=2)
    base, slack = distortion(x, centres), len(x) * np.log(len(centres))
    for sigma in (2.0, 0.5, 0.1, 0.01):
        value = scaled_objective(x, centres, sigma)
        assert base - 1e-9 <= value <= base + 2 * sigma**2 * slack + 1e-9
        parts = [stats.multivariate_normal.pdf(x, centre, sigma**2 * np.eye(2)) for centre in centres]
        if sigma >= 0.5:
            log_p = np.log(np.mean(parts, axis=0)).sum()
            assert np.isclose(value, -2 * sigma**2 * (log_p + len(x) * np.log(2 * np.pi * sigma**2)))
    hard = np.eye(3)[squares.argmin(axis=1)]
    assert np.abs(soft_assignments(squares, 0.01) - hard).max() < 1e-6
    assert np.allclose(soft_step(x, centres, 0.01), lloyd(x, centres, 1)[1], atol=1e-6)
    path = lloyd(x, centres, 8)
    assert np.diff([distortion(x, step) for step in path]).max() < 1e-9
    theta = 0.7  # E over N(theta, e^2) of a log-density, minus its value at theta, is of order e^2
    log_density = Mixture1D((0.3, 0.7), (-1.0, 1.0), (0.5, 0.8)).log_pdf
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    gaps = [
        weight @ log_density(theta + spread * node) / weight.sum() - log_density(np.array(theta))
        for spread in (0.1, 0.05, 0.025)
    ]
    assert np.allclose(np.array(gaps[:-1]) / gaps[1:], 4, rtol=0.05)


def check_divergences() -> None:
    """Check the fits of one normal, the conditions at them, the bounds of the JSD, and invariance."""
    fits = fits_1d()
    assert np.allclose(fits["forward"], TARGET.moments(), atol=1e-4)
    step = 1e-4
    for name in ("reverse", "reverse_other"):
        mean, scale = fits[name]
        q = stats.norm.pdf(LINE, mean, scale)
        log_p = TARGET.log_pdf(LINE)
        slope = (TARGET.log_pdf(LINE + step) - TARGET.log_pdf(LINE - step)) / (2 * step)
        curve = (TARGET.log_pdf(LINE + step) - 2 * log_p + TARGET.log_pdf(LINE - step)) / step**2
        assert abs(np.trapezoid(q * slope, LINE)) < 1e-3
        assert np.isclose(-np.trapezoid(q * curve, LINE), 1 / scale**2, rtol=1e-3)
    forward = plane_kl(plane_fits()["forward"])[0]
    mean, covariance = plane_normal(plane_fits()["forward"])
    assert np.allclose(mean, PLANE_TARGET.moments()[0], atol=1e-3)
    assert np.allclose(covariance, PLANE_TARGET.moments()[1], atol=2e-3)
    assert forward < min(plane_kl(plane_fits()[name])[0] for name in ("reverse", "factorised"))
    for weight in (0.5, 0.2):  # one far mode of weight w: the reverse divergence is log 1/w
        far = Mixture1D((weight, 1 - weight), (-7.0, 7.0), (1.0, 1.0))
        assert np.isclose(both_kl(far, -7.0, 1.0)[1], -np.log(weight), atol=1e-6)

    known = {0.5: 0.0303113, 1: 0.1114215, 2: 0.3368308, 3: 0.5267773, 4: 0.6327202, 6: 0.6892979}
    for mu, value in known.items():
        assert abs(jsd_of_normals(mu) - value) < 1e-6
        assert np.isclose(both_kl(Mixture1D((1.0,), (0.0,), (1.0,)), mu, 1.0)[0], mu**2 / 2)
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, q = rng.dirichlet(np.full(6, 0.3), size=2)
        half = (p + q) / 2
        jsd = (special.rel_entr(p, half).sum() + special.rel_entr(q, half).sum()) / 2
        assert -1e-12 <= jsd <= np.log(2)
        entropies = special.entr(half).sum() - (special.entr(p).sum() + special.entr(q).sum()) / 2
        assert np.isclose(jsd, entropies)

    x = np.linspace(-8, 4.5, 200_001)  # the same two densities of z = f(x), seen in x
    log_p = TARGET.log_pdf(bend(x)) + np.log(bend_slope(x))
    log_q = stats.norm.logpdf(bend(x), *TARGET.moments()) + np.log(bend_slope(x))
    seen = np.isfinite(log_p)
    in_x = np.trapezoid(np.where(seen, np.exp(log_p) * np.where(seen, log_p - log_q, 0), 0), x)
    assert np.isclose(in_x, both_kl(TARGET, *TARGET.moments())[0], atol=1e-5)


def check_change_of_variables() -> None:
    """Check volumes, sums of log-determinants, the CDF flow, the triangular map and the linear flow."""
    x = np.linspace(-12, 4.5, 400_001)
    assert abs(np.trapezoid(stats.norm.pdf(bend(x)) * bend_slope(x), x) - 1) < 1e-6
    assert np.allclose(np.gradient(bend(x), x)[1:-1], bend_slope(x)[1:-1], rtol=1e-5)

    rng = np.random.default_rng(0)
    for point in rng.normal(size=(10, 2)):
        exact = abs(np.linalg.det(swirl_jacobian(point)))
        errors = [abs(image_area(point - width / 2, width) / width**2 - exact) for width in (0.2, 0.1, 0.05)]
        assert errors[2] < 2e-3 and errors[2] <= errors[0]
        differences = [(swirl(point + h) - swirl(point - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        assert np.allclose(np.stack(differences, axis=1), swirl_jacobian(point), atol=1e-6)
    matrix = rng.normal(size=(3, 3))
    left, stretch, right = np.linalg.svd(matrix)
    assert np.isclose(stretch.prod(), abs(np.linalg.det(matrix)))
    assert np.allclose(left @ left.T, np.eye(3)) and np.allclose(right @ right.T, np.eye(3))
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1)
    low, high = (matrix @ corners).min(axis=1), (matrix @ corners).max(axis=1)
    box = low[:, None] + (high - low)[:, None] * rng.random((3, 200_000))
    inside = ((np.linalg.solve(matrix, box) >= 0) & (np.linalg.solve(matrix, box) <= 1)).all(axis=0)
    assert np.isclose(inside.mean() * (high - low).prod(), abs(np.linalg.det(matrix)), rtol=0.05)

    torch.manual_seed(0)
    first, second = (torch.nn.Linear(3, 3).double() for _ in range(2))
    pieces: list[Callable] = [lambda v: first(v).sinh(), lambda v: second(v)]
    v, total = torch.randn(3, dtype=torch.float64), 0.0
    whole = torch.autograd.functional.jacobian(lambda u: pieces[1](pieces[0](u)), v)
    for piece in pieces:
        total += torch.linalg.slogdet(torch.autograd.functional.jacobian(piece, v))[1].item()
        v = piece(v).detach()
    assert np.isclose(torch.linalg.slogdet(whole)[1].item(), total)
    assert np.isclose(torch.linalg.slogdet(torch.linalg.inv(whole))[1].item(), -total)

    inner = np.linspace(-3, 3.5, 5001)
    step = 1e-5
    slope = (to_normal(inner + step) - to_normal(inner - step)) / (2 * step)
    assert np.allclose(
        stats.norm.pdf(to_normal(inner)) * slope, np.exp(FLOW_TARGET.log_pdf(inner)), atol=1e-6
    )

    points = triangle_sample(200)
    for point, log_p in zip(points[:20], triangle_log_pdf(points[:20]), strict=True):
        rows = [
            (rosenblatt((point + h)[None])[0] - rosenblatt((point - h)[None])[0]) / 2e-6
            for h in 1e-6 * np.eye(2)
        ]
        jacobian = np.stack(rows, axis=1)
        assert jacobian[0, 1] == 0 and np.isclose(np.log(abs(np.linalg.det(jacobian))), log_p, atol=1e-4)
    u = rosenblatt(triangle_sample(20_000, seed=1))
    assert all(stats.kstest(column, "uniform").statistic < 0.012 for column in u.T)
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.03

    data = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 2
    mean, covariance = data.mean(axis=0), np.cov(data.T, bias=True)
    factor = np.linalg.cholesky(covariance)
    codes = np.linalg.solve(factor, (data - mean).T).T
    nats = -stats.norm.logpdf(codes).sum(axis=1) + np.log(np.diag(factor)).sum()
    assert np.allclose(-nats, stats.multivariate_normal.logpdf(data, mean, covariance))
    assert np.isclose(nats.mean(), np.linalg.slogdet(2 * np.pi * np.e * covariance)[1] / 2)
    assert np.allclose(np.cov(codes.T, bias=True), np.eye(3)) and np.allclose(codes.mean(axis=0), 0)
    for _ in range(20):
        other = factor @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3)))
        moved = np.linalg.solve(other, (data - mean - 0.05 * rng.normal(size=3)).T).T
        worse = -stats.norm.logpdf(moved).sum(axis=1) + np.linalg.slogdet(other)[1]
        assert worse.mean() > nats.mean()


def check_trained() -> None:
    """Check that stored densities are normalised, the published figure, and the comb on integers."""
    stored = trained()
    cell = (window()[1] - window()[0]) ** 2
    for name in ("forward_four", "reverse_four", "forward_two"):
        assert abs(np.exp(stored[name].astype(float)).sum() * cell - 1) < 2e-3, name
    four = target_on_grid(FOUR)
    assert abs(np.exp(four).sum() * cell - 1) < 1e-3
    assert abs(grid_kl(stored["reverse_four"].astype(float), four) - np.log(4)) < 0.01, "one mode of four"
    assert grid_kl(four, stored["forward_four"].astype(float)) < 0.1
    assert abs(stored["nats"] + PUBLISHED_GAUSSIAN) < 2.8, "both have an error of about 1.4 nats"
    assert stored["round_trip"] < 1e-6
    claims = [comb_bits(width) for width in (1e-4, 1e-3, 1e-2)]
    assert np.allclose(np.diff(claims), np.log2(10), atol=1e-9)
    expected = value_entropy() + np.log2(1e-3 * np.sqrt(2 * np.pi))
    assert np.isclose(claims[1], expected)


PUBLISHED_GAUSSIAN = (
    1366.9  # nats, full-covariance Gaussian on MNIST in logit space, Papamakarios et al. 2017
)


def check() -> None:
    """Check every formula of the slides."""
    check_mean_field()
    check_mixture()
    check_limits()
    check_divergences()
    check_change_of_variables()
    check_trained()


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    variances, gap = mean_field_gaussian(correlated(RHO))
    fits = fits_1d()
    runs = death_run()
    survivors = sorted(iris_run().r.sum(axis=0), reverse=True)
    stored = trained()
    four = target_on_grid(FOUR)
    divergences = {
        f"divergences_{name}": fixed(both_kl(TARGET, *fits[name]), 2)
        for name in ("forward", "reverse", "reverse_other", "jsd")
    }
    plane = {
        f"plane_{name}": fixed(plane_kl(plane_fits()[name]), 2)
        for name in ("forward", "reverse", "factorised")
    }
    return {
        "shrunk_variance": fixed([variances[0]], 2)[0],
        "mean_field_gap": fixed([gap], 2)[0],
        "sweep_factor": fixed([RHO**2], 2)[0],
        "death_counts": fixed(sorted(runs[-1].r.sum(axis=0), reverse=True)[:3], 1),
        "death_share": fixed([np.exp(special.digamma(1.0))], 2)[0],
        "death_small": scientific(np.exp(special.digamma(0.1))),
        "death_log10": round(float(special.digamma(DEATH_ALPHA) / np.log(10))),
        "iris_alive": alive(iris_run()),
        "iris_counts": fixed(survivors[: alive(iris_run())], 0),
        "forward_fit": fixed(fits["forward"], 2),
        "reverse_fit": fixed(fits["reverse"], 2),
        "reverse_other_fit": fixed(fits["reverse_other"], 2),
        "jsd_fit": fixed(fits["jsd"], 2),
        "jump": fixed([jump()], 2)[0],
        "jump_scales": fixed([middle_fit(jump())[0], side_fit(jump())[1]], 2),
        "jsd": fixed([jsd_of_normals(mu) for mu in (1, 2, 4, 8)], 3),
        "cell_ratio": fixed([image_area(CORNER, WIDTH) / WIDTH**2], 3)[0],
        "cell_small": fixed([image_area(CORNER, WIDTH / 10) / (WIDTH / 10) ** 2], 3)[0],
        "cell_determinant": fixed([abs(np.linalg.det(swirl_jacobian(CORNER)))], 3)[0],
        "doubling": round(784 * np.log(2)),
        "filament_slope": round(middle_slope()),
        "linear_nats": fixed([stored["nats"], stored["nats_error"]], 1),
        "linear_bits": fixed([stored["bits"]], 2)[0],
        "forward_flow": fixed(
            [
                grid_kl(four, stored["forward_four"].astype(float)),
                grid_kl(stored["forward_four"].astype(float), four),
            ],
            2,
        ),
        "reverse_flow": fixed(
            [
                grid_kl(four, stored["reverse_four"].astype(float)),
                grid_kl(stored["reverse_four"].astype(float), four),
            ],
            2,
        ),
        "value_entropy": fixed([value_entropy()], 2)[0],
        "baselines": fixed([stored["histogram_bits"], stored["zlib_bits"]], 2),
        "jacobian_entries": [f"{m**2:,}".replace(",", " ") for m in (784, 3072)],
        "lu_mnist": scientific(2 / 3 * 784**3),
        "lu_cifar": scientific(2 / 3 * 3072**3),
        "comb": fixed([comb_bits(width) for width in (1e-1, 1e-2, 1e-3)], 2),
        **divergences,
        **plane,
    }
