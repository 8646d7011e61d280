"""Draw the figures of lecture 4, and compute the numbers that its slides print.

    python -m lectures.drawing lecture4 [FOLDER]

Everything is exact, computed by quadrature, or simulated with a fixed seed; nothing is copied by hand.
Trained flows are drawn from arrays that `trained_flows.py` stored. What the deck claims is tested in
`tests/test_lecture4.py`.
"""

from __future__ import annotations

from copy import copy
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from scipy import optimize, special, stats
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from dgm_utils import data, plot
from lectures.drawing import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALE,
    RED,
    SKY,
    SLIDE_WIDTH,
    canvas,
    digits,
    figure,
    fixed,
    hide_left,
    log_ticks,
    scientific,
)
from lectures.lecture4.trained_flows import FOUR, LIMIT, POINTS, TWO, S, grid

FOLDER = Path(__file__).parent / "figures"
real = partial(torch.tensor, dtype=torch.float64)
line = partial(torch.linspace, dtype=torch.float64)


# --- Mean field for a Gaussian ----------------------------------------------------------------------------

RHO = 0.9
COVARIANCE = real([[1, RHO], [RHO, 1]])
CENTRE = real([0, 0])


@cache
def mean_field_path() -> Tensor:
    """Return means and variances of the two factors after every step of six sweeps, (13, 2, 2)."""
    return S.mean_field_gaussian(CENTRE, COVARIANCE.inverse(), real([-2.3, 2.0]), real([1, 1]), sweeps=6)


@cache
def mean_field_gap() -> float:
    """Return KL(q || p) of the best factorised q, in nats."""
    return -S.gaussian_elbo(CENTRE, mean_field_path()[-1, 1], CENTRE, COVARIANCE.inverse()).item()


@figure
def correlated_gaussian() -> Figure:
    """Draw a correlated normal, its factorised approximations, a path of CAVI, the cost of correlation."""
    figure, (plane, share, gap) = canvas(SLIDE_WIDTH, 205, columns=3, width_ratios=[1.15, 1, 1])
    means, variances = mean_field_path().unbind(1)
    for radius in (1, 2):
        plot.ellipse(plane, CENTRE, COVARIANCE, radius, edgecolor=INK)
        plot.ellipse(plane, CENTRE, variances[-1], radius, edgecolor=RED, linewidth=2.2)
    plot.ellipse(plane, CENTRE, COVARIANCE.diagonal(), 2, edgecolor=BLUE, linewidth=1.8, linestyle="--")
    plane.plot(*means.T, "o-", color=GREEN, linewidth=1.6, markersize=4.5)
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
    beside = {"textcoords": "offset points", "ha": "right", "color": RED}
    for panel, value in ((share, variances[-1, 0].item()), (gap, mean_field_gap())):
        panel.plot(RHO, value, "o", color=RED, markersize=9)
        panel.annotate(f"{value:.2f}", (RHO, value), (-12, -3), **beside)
    return figure


# --- A Bayesian mixture of Gaussians ----------------------------------------------------------------------


def log_normaliser(alpha: Tensor, beta: Tensor, dof: Tensor, inverse: Tensor) -> Tensor:
    """Return the logarithm of what Dirichlet, normals and Wisharts are divided by, without powers of 2 pi."""
    m = inverse.shape[-1]
    wishart = torch.special.multigammaln(dof / 2, m) + dof / 2 * (m * np.log(2) - inverse.logdet())
    return alpha.lgamma().sum() - alpha.sum().lgamma() + (wishart - m / 2 * beta.log()).sum()


class WishartMixture:
    """Hold q(w, mu, Lambda) of a mixture of Gaussians in the slides' letters, for the seminar's `ascend`.

    scikit-learn fits the same mixture, but starts from no given responsibilities and bounds no log p(x).
    """

    def __init__(self, alpha: float, beta: float, mean: Tensor, inverse: Tensor):
        self.prior = alpha, beta, mean, float(len(mean)), inverse  # alpha_0, beta_0, m_0, nu_0, W_0^-1

    def update(self, x: Tensor, r: Tensor) -> None:
        """Set the factor of the parameters to its best, for responsibilities r (n, C)."""
        alpha, beta, mean, dof, inverse = self.prior
        n = r.sum(dim=0)  # (C,)
        centre = r.T @ x / n.clamp(min=1e-300)[:, None]  # (C, m)
        away, shift = x[:, None] - centre, centre - mean  # (n, C, m), (C, m)
        self.alpha, self.beta, self.dof = alpha + n, beta + n, dof + n
        self.mean = (beta * mean + n[:, None] * centre) / self.beta[:, None]
        scatter = torch.einsum("nc,nci,ncj->cij", r, away, away)  # n_c S_c
        self.inverse = inverse + scatter + torch.einsum("c,ci,cj->cij", beta * n / self.beta, shift, shift)
        one = torch.ones_like(n)
        before = log_normaliser(alpha * one, beta * one, dof * one, inverse.expand_as(scatter))
        after = log_normaliser(self.alpha, self.beta, self.dof, self.inverse)
        # The prior is conjugate: prior times exp of the expected log-likelihood is q times a known constant.
        self.kl = (r * self.scores(x)).sum() - (after - before - x.numel() / 2 * np.log(2 * np.pi))

    def scores(self, x: Tensor) -> Tensor:
        """Return E log w_c + E log N(x_i; mu_c, Lambda_c^-1) in nats, (n, C)."""
        m = x.shape[1]
        log_weight = self.alpha.digamma() - self.alpha.sum().digamma()
        halves = (self.dof[:, None] - torch.arange(m)) / 2  # (C, m)
        log_det = halves.digamma().sum(dim=1) + m * np.log(2) - self.inverse.logdet()
        away = (x[:, None] - self.mean).transpose(0, 1)  # (C, n, m)
        squares = (away * torch.linalg.solve(self.inverse, away, left=False)).sum(dim=2).T  # (n, C)
        return log_weight + (log_det - m * np.log(2 * np.pi) - m / self.beta - self.dof * squares) / 2

    def elbo(self, x: Tensor, r: Tensor) -> Tensor:
        """Return the bound on log p(x) in nats."""
        return (r * self.scores(x)).sum() + torch.special.entr(r).sum() - self.kl


def hard_start(x: Tensor, components: int, seed: int) -> Tensor:
    """Return one-hot responsibilities: each point to the nearest of some randomly chosen points."""
    chosen = np.random.default_rng(seed).choice(len(x), components, replace=False)
    return torch.eye(components).double()[torch.cdist(x, x[chosen]).argmin(dim=1)]


@cache
def three_groups() -> Tensor:
    """Return 300 synthetic points in the plane from three normals."""
    rng = np.random.default_rng(3)
    means = [-2.2, -0.8], [0.4, 1.7], [2.4, -1.0]
    shapes = [[0.9, 0.3], [0.0, 0.4]], [[0.5, -0.3], [0.0, 0.4]], [[0.4, 0.0], [0.4, 0.9]]
    groups = [m + rng.normal(size=(100, 2)) @ np.array(s) for m, s in zip(means, shapes, strict=True)]
    return torch.from_numpy(np.concatenate(groups))


ALPHA = 0.01


def alive(r: Tensor) -> Tensor:
    """Return what the components own, those that own at least one point in expectation, the largest first."""
    counts = r.sum(dim=0).sort(descending=True).values
    return counts[counts >= 1]


@cache
def iris_fit() -> tuple[float, Tensor]:
    """Return the bound and the counts of ten components on Iris, from the best of nine starts by k-means.

    The starts have 2 to 10 clusters. From a random start the search ends in a worse optimum.
    """
    x = torch.from_numpy(load_iris().data)

    def run(clusters: int) -> tuple[float, Tensor]:
        label = KMeans(clusters, n_init=10, random_state=0).fit(x.numpy()).labels_
        model = WishartMixture(ALPHA, 1.0, x.mean(dim=0), x.T.cov())
        r, bounds = S.ascend(model, x, torch.eye(10).double()[label], sweeps=120)
        return bounds[-1].item(), alive(r)

    return max((run(clusters) for clusters in range(2, 11)), key=lambda found: found[0])


@cache
def death_run() -> tuple[list[Tensor], list[WishartMixture], Tensor]:
    """Run ten components on the three groups; return r and model after 1, 30, 300 sweeps, and every bound."""
    x = three_groups()
    model = WishartMixture(ALPHA, 1.0, x.mean(dim=0), 0.3 * torch.eye(2).double())
    r = hard_start(x, 10, seed=0)
    shares, models, bounds = [], [], []
    for sweeps in (1, 29, 270):
        r, bound = S.ascend(model, x, r, sweeps)
        shares, models, bounds = [*shares, r], [*models, copy(model)], [*bounds, bound]
    return shares, models, torch.cat(bounds)


@figure
def components_die() -> Figure:
    """Draw a Bayesian mixture of ten components after 1, 30 and 300 sweeps, and the bound."""
    figure, axes = canvas(SLIDE_WIDTH, 180, columns=4, width_ratios=[1, 1, 1, 1.25])
    shares, models, bounds = death_run()
    for panel, sweep, r, model in zip(axes, (1, 30, 300), shares, models, strict=False):
        panel.plot(*three_groups().T, ".", color=SKY, markersize=3.5)
        covariances, counts = model.inverse / model.dof[:, None, None], r.sum(dim=0)
        for c in (counts >= 1).nonzero().flatten():
            strength = round(0.25 + 0.75 * min(1, counts[c].item() / 60), 2)
            style = {"edgecolor": RED, "linewidth": 2.2, "alpha": strength}
            plot.ellipse(panel, model.mean[c], covariances[c], 2, **style)
        panel.set(title=f"sweep {sweep}: {len(alive(r))} alive", xlim=(-5, 5), ylim=(-4.6, 3.6))
        panel.set(xticks=[], yticks=[], aspect="equal")
    axes[3].plot(range(1, 301), bounds[1::2], color=BLUE)
    axes[3].set(xscale="log", xlabel="sweep", title="bound, nats", xlim=(1, 300))
    log_ticks(axes[3].xaxis, 1, 10, 100)
    return figure


# --- EM and k-means as limits -----------------------------------------------------------------------------

LLOYD_START = real([[-3.0, 1.5], [-1.0, -2.5], [0.5, -0.5]])


def scaled_objective(x: Tensor, centres: Tensor, sigma: float) -> Tensor:
    """Return -2 sigma^2 (log p(x) + m / 2 log(2 pi sigma^2)) of a mixture with equal weights, mean over x."""
    log_p = data.mixture(centres, scales=sigma).log_prob(x).mean()
    return -2 * sigma**2 * (log_p + x.shape[1] / 2 * np.log(2 * np.pi * sigma**2))


@figure
def k_means_limit() -> Figure:
    """Draw responsibilities that harden, the steps of k-means, and the scaled objective against sigma."""
    figure, (share, plane, objective) = canvas(SLIDE_WIDTH, 172, columns=3, width_ratios=[1.25, 1, 1.1])
    grid, places = np.linspace(-4, 5, 901), np.array([-2.0, 0.0, 3.0])
    for sigma, style in ((1.5, ":"), (0.6, "--"), (0.1, "-")):
        r = special.softmax(-((grid[:, None] - places) ** 2) / (2 * sigma**2), axis=1)
        share.plot(grid, r[:, 1], style, color=RED, label=rf"$\sigma={sigma}$")
    share.plot(places, np.zeros(3), "^", color=INK, markersize=11, clip_on=False, zorder=5)
    share.set(title="share of the middle centre", xlabel="$x$", yticks=[0, 0.5, 1], ylim=(0, 1.75))
    share.legend(ncols=3, loc="upper center", columnspacing=0.8, handlelength=1.3, handletextpad=0.4)

    x = three_groups()
    path = torch.stack([LLOYD_START, *(S.kmeans(x, LLOYD_START, steps)[0] for steps in range(1, 9))])
    _, owner, inertia = S.kmeans(x, path[-1], 1)
    for c, (colour, mark) in enumerate(zip((BLUE, ORANGE, GREEN), "osD", strict=True)):
        plane.plot(*x[owner == c].T, mark, color=colour, markersize=2.6, alpha=0.8)
        plane.plot(*path[:, c].T, "-", color=INK, linewidth=2)
        plane.plot(*path[-1, c], "o", color=INK, markersize=8)
    plane.set(title="$k$-means, 8 steps", xlim=(-5, 5), ylim=(-4.2, 4.2), aspect="equal")
    plane.set(xticks=[], yticks=[])

    sigmas, limit = np.logspace(-1.5, 0.7, 80), inertia[0] / len(x)
    objective.plot(sigmas, [scaled_objective(x, path[-1], sigma) for sigma in sigmas], color=RED)
    objective.axhline(limit, color=INK, linestyle="--", linewidth=1.6)
    objective.text(0.032, limit * 1.08, "$k$-means", va="bottom")
    objective.set(xscale="log", yscale="log", xlabel=r"$\sigma$", ylim=(0.6, 12))
    objective.set_title("scaled objective per point")
    log_ticks(objective.xaxis, 0.1, 1)
    log_ticks(objective.yaxis, 1, 10)
    return figure


# --- Forward and reverse KL -------------------------------------------------------------------------------

LINE = line(-14, 14, 5601)
STEP = 28 / 5600


def mixture(weights: list[float], means: list[float], scales: list[float]) -> MixtureSameFamily:
    """Return a mixture of normals on the line in double precision, with its moments and its `cdf`."""
    return MixtureSameFamily(Categorical(real(weights)), Normal(real(means), real(scales)))


def compare(target: MixtureSameFamily, mean: float, scale: float) -> tuple[float, float, float]:
    """Return KL(target || q), KL(q || target) and JSD in nats, for q = N(mean, scale^2), by quadrature."""
    log_q = Normal(real(mean), real(scale)).log_prob(LINE)
    return tuple(value.item() for value in S.divergences(target.log_prob(LINE), log_q, STEP).values())


FORWARD, REVERSE, JSD = range(3)  # the entries of `compare`
TARGET = mixture([0.6, 0.4], [-2.0, 2.0], [0.6, 0.8])
MOMENTS = TARGET.mean.item(), TARGET.stddev.item()
UNIT = Normal(real(0), real(1))


def fit_gaussian(
    target: MixtureSameFamily, kind: int, mean: float, scale: float
) -> tuple[float, float, float]:
    """Return mean and scale that minimise a divergence to the target, from a start, and the least value."""

    def value(u: np.ndarray) -> float:
        return compare(target, u[0], np.exp(u[1]))[kind]

    found = optimize.minimize(value, [mean, np.log(scale)], method="BFGS", options={"gtol": 1e-7})
    return found.x[0], np.exp(found.x[1]), found.fun


@cache
def fits_1d() -> dict[str, tuple[float, float]]:
    """Return mean and scale of one normal: the forward fit, and the optima of the reverse and of the JSD."""
    fits = {
        "forward": fit_gaussian(TARGET, FORWARD, 0.0, 2.0),
        "reverse": fit_gaussian(TARGET, REVERSE, -2.0, 0.6),
        "reverse_middle": fit_gaussian(TARGET, REVERSE, 0.0, 2.0),
        "reverse_other": fit_gaussian(TARGET, REVERSE, 2.0, 0.8),
        "jsd": fit_gaussian(TARGET, JSD, 0.0, 2.0),
        "jsd_other": fit_gaussian(TARGET, JSD, -2.0, 0.6),
    }
    return {name: fit[:2] for name, fit in fits.items()}


@figure
def penalties() -> Figure:
    """Draw a target with two candidates, and where each divergence charges how much."""
    figure, axes = canvas(SLIDE_WIDTH, 212, columns=2, rows=2, sharex=True, height_ratios=[1, 1])
    x = line(-5.5, 6.5, 601)
    log_p = TARGET.log_prob(x)
    candidates = {"one mode only": (-2.0, 0.6), "wide": MOMENTS}
    for (above, below), (name, normal) in zip(axes.T, candidates.items(), strict=True):
        log_q = torch.from_numpy(stats.norm.logpdf(x, *normal))
        above.fill_between(x, log_p.exp(), color=PALE)
        above.plot(x, log_p.exp(), color=INK)
        above.plot(x, log_q.exp(), color=RED)
        above.set_title(f"$p$ is {name}")
        forward, reverse, _ = compare(TARGET, *normal)
        below.axhline(0, color=MUTED, linewidth=1)
        below.plot(x, log_p.exp() * (log_p - log_q), color=BLUE)
        below.plot(x, log_q.exp() * (log_q - log_p), color=RED)
        below.text(-5.6, 2.4, rf"$\pi\,\log\frac{{\pi}}{{p}}$: area {forward:.2f}", color=BLUE)
        below.text(-5.6, 1.1, rf"$p\,\log\frac{{p}}{{\pi}}$: area {reverse:.2f}", color=RED)
        below.set(ylim=(-0.6, 3.4))
        hide_left(above)
        hide_left(below)
    return figure


@figure
def one_gaussian_1d() -> Figure:
    """Draw the exact fits of one normal to a target with two modes: forward, reverse, Jensen-Shannon."""
    figure, axes = canvas(SLIDE_WIDTH, 106, columns=3, sharey=True)
    x = line(-7, 7, 601)
    panels = {
        r"$\mathrm{KL}(\pi\,\|\,p)$": ["forward"],
        r"$\mathrm{KL}(p\,\|\,\pi)$": ["reverse", "reverse_middle", "reverse_other"],
        r"$\mathrm{JSD}(\pi,p)$": ["jsd", "jsd_other"],
    }
    for panel, (title, names) in zip(axes, panels.items(), strict=True):
        panel.fill_between(x, TARGET.log_prob(x).exp(), color=PALE)
        panel.plot(x, TARGET.log_prob(x).exp(), color=INK, linewidth=1.6)
        for name, style in zip(names, ("-", "--", ":"), strict=False):
            panel.plot(x, stats.norm.pdf(x, *fits_1d()[name]), style, color=RED)
        panel.set_title(title)
        hide_left(panel)
    return figure


def symmetric_target(a: float) -> MixtureSameFamily:
    """Return the mixture of two unit normals at -a and a."""
    return mixture([0.5, 0.5], [-a, a], [1.0, 1.0])


@cache
def reverse_fit(a: float, start: float) -> tuple[float, float, float]:
    """Return mean, scale and reverse KL of the best normal that is found from a mean.

    From the middle there is, by symmetry, no slope that could move the mean away.
    """
    return fit_gaussian(symmetric_target(a), REVERSE, start, 1.0)


@cache
def jump() -> float:
    """Return the separation at which the best reverse fit changes from the middle to one mode."""
    return optimize.brentq(lambda a: reverse_fit(a, 0.0)[2] - reverse_fit(a, a)[2], 2.5, 3.0, xtol=1e-6)


@figure
def reverse_jumps() -> Figure:
    """Draw mean, scale, divergence of the forward and the reverse fit against the distance of two modes."""
    figure, axes = canvas(SLIDE_WIDTH, 180, columns=3)
    a = np.linspace(0, 4, 33).round(3)
    middle = np.array([reverse_fit(value, 0.0) for value in a]).T  # (3, 33)
    side = np.array([reverse_fit(value, max(value, 0.3)) for value in a]).T
    exists = side[0] > 0.5  # else the search from the mode ran back to the middle
    low, high = a < jump(), a > jump()
    mean, scale, divergence = axes
    thin = {"color": RED, "linewidth": 1, "alpha": 0.5}
    mean.plot(a, 0 * a, "--", color=BLUE)
    mean.plot(a[low], middle[0, low], color=RED)
    for sign in (1, -1):
        mean.plot(a[exists], sign * side[0, exists], **thin)
        mean.plot(a[high], sign * side[0, high], color=RED)
        mean.plot(a, sign * a, ":", color=MUTED, linewidth=1.6)
    mean.set_title("mean of $p$")
    forward = [compare(symmetric_target(value), 0, np.sqrt(1 + value**2))[FORWARD] for value in a]
    scale.plot(a, np.sqrt(1 + a**2), "--", color=BLUE, label="forward")
    divergence.plot(a, forward, "--", color=BLUE)
    divergence.axhline(np.log(2), color=MUTED, linestyle=":", linewidth=1.6)
    divergence.text(0.05, np.log(2) + 0.02, r"$\ln 2$", va="bottom")
    for panel, entry in ((scale, 1), (divergence, 2)):
        panel.plot(a[low], middle[entry, low], color=RED, label="reverse, best")
        panel.plot(a[high], side[entry, high], color=RED)
        panel.plot(a[high], middle[entry, high], **thin)
        panel.plot(a[low & exists], side[entry, low & exists], **thin)
    scale.set(title="standard deviation of $p$", ylim=(0, 5.2))
    scale.legend(loc="upper left", labelspacing=0.15, borderaxespad=0)
    divergence.set(title="divergence reached, nats", ylim=(0, 1.25))
    for panel in axes:
        panel.set_xlabel("modes at $\\pm a$")
    return figure


PLANE_MEANS = real([[-1.4, -0.9], [1.6, 1.2]])
PLANE_COVARIANCES = real([[[0.55, 0.38], [0.38, 0.45]], [[0.5, -0.35], [-0.35, 0.5]]])
PLANE_PARTS = MultivariateNormal(PLANE_MEANS, PLANE_COVARIANCES)
PLANE_TARGET = MixtureSameFamily(Categorical(real([0.6, 0.4])), PLANE_PARTS)
SIDE = line(-11, 11, 177)  # wide: at 6 the forward fit still has a tail that costs 0.007 nats
PLANE = torch.cartesian_prod(SIDE, SIDE).flip(1)  # (177^2, 2), the first coordinate fastest
PLANE_CELL = (22 / 176) ** 2
PLANE_LOG_PI = PLANE_TARGET.log_prob(PLANE)


def plane_normal(u: np.ndarray) -> MultivariateNormal:
    """Return a normal from its mean (2), the log-diagonal of its Cholesky factor (2), the corner if not 0."""
    corner = u[4] if len(u) > 4 else 0.0
    return MultivariateNormal(real(u[:2]), scale_tril=real([[np.exp(u[2]), 0.0], [corner, np.exp(u[3])]]))


def plane_kl(u: np.ndarray) -> tuple[float, float]:
    """Return KL(target || q) and KL(q || target) in nats, by quadrature."""
    found = S.divergences(PLANE_LOG_PI, plane_normal(u).log_prob(PLANE), cell=PLANE_CELL)
    return found["forward"].item(), found["reverse"].item()


@cache
def plane_fits() -> dict[str, np.ndarray]:
    """Return the parameters of the fits in the plane: forward, reverse from both modes, factorised."""

    def fit(which: int, *start: float) -> np.ndarray:
        return optimize.minimize(lambda u: plane_kl(u)[which], start, method="BFGS", options={"gtol": 1e-7}).x

    left, right = PLANE_MEANS.tolist()
    return {
        "forward": fit(FORWARD, 0, 0, 0.3, 0.3, 0.1),
        "reverse": fit(REVERSE, *left, -0.4, -0.4, 0.1),
        "reverse_other": fit(REVERSE, *right, -0.4, -0.4, -0.1),
        "factorised": fit(REVERSE, *left, -0.4, -0.4),
    }


@figure
def one_gaussian_2d() -> Figure:
    """Draw fits of one normal to two correlated modes: forward, reverse, reverse and factorised."""
    figure, axes = canvas(SLIDE_WIDTH, 232, columns=3, sharey=True)
    density = PLANE_LOG_PI.exp().reshape(177, 177).numpy().round(5)
    levels = density.max() * np.array([0.02, 0.08, 0.18, 0.35, 0.6, 0.85, 1.01])
    panels = {
        r"$\mathrm{KL}(\pi\,\|\,p)$, full covariance": ["forward"],
        r"$\mathrm{KL}(p\,\|\,\pi)$, full covariance": ["reverse", "reverse_other"],
        r"$\mathrm{KL}(p\,\|\,\pi)$, mean field": ["factorised"],
    }
    for panel, (title, names) in zip(axes, panels.items(), strict=True):
        panel.contourf(SIDE, SIDE, density, levels=levels, cmap="Blues")
        for name, style in zip(names, ("-", "--"), strict=False):
            q = plane_normal(plane_fits()[name])
            for radius in (1, 2):
                plot.ellipse(panel, q.mean, q.covariance_matrix, radius, edgecolor=RED, linestyle=style)
        panel.set(title=title, xlim=(-4.6, 4.6), ylim=(-4.2, 4.2), aspect="equal", xticks=[], yticks=[])
    return figure


def jsd_of_normals(mu: Tensor) -> Tensor:
    """Return JSD(N(0, 1), N(mu, 1)) in nats for each mu (n,), by quadrature, (n,)."""
    return S.divergences(UNIT.log_prob(LINE), UNIT.log_prob(LINE - mu[:, None]), STEP)["JSD"]


@figure
def jsd_saturates() -> Figure:
    """Draw KL and JSD of two unit normals against their distance."""
    figure, axes = canvas(SLIDE_WIDTH * 0.42, 180)
    mu = line(0, 8, 161)
    axes.plot(mu, mu**2 / 2, color=BLUE)
    axes.plot(mu, jsd_of_normals(mu), color=GREEN)
    axes.axhline(np.log(2), color=MUTED, linestyle=":", linewidth=1.6)
    axes.text(0.1, np.log(2) + 0.03, r"$\ln 2$", va="bottom")
    axes.text(2.1, 1.75, "KL", color=BLUE, ha="left")
    axes.text(5.4, 0.6, "JSD", color=GREEN, va="top")
    axes.set(ylabel="nats", ylim=(0, 2))
    axes.set_xlabel(r"distance $\mu$ of $\mathcal{N}(0,1)$ and $\mathcal{N}(\mu,1)$")
    return figure


# --- Change of variables ----------------------------------------------------------------------------------


def bend(x: np.ndarray) -> np.ndarray:
    """Return the increasing map z = f(x) of the picture in one dimension, (e^x - e^-0.5x) / 1.5."""
    return (np.exp(x) - np.exp(-0.5 * x)) / 1.5


def bent_pdf(x: np.ndarray) -> np.ndarray:
    """Return the density of x where z = f(x) is standard normal: that of z, times the slope of f."""
    return stats.norm.pdf(bend(x)) * (np.exp(x) + 0.5 * np.exp(-0.5 * x)) / 1.5


@figure
def change_of_variables_1d() -> Figure:
    """Draw an increasing map, the density of z at its left, that of x below, two strips of equal mass."""
    ratios = {"width_ratios": [1, 2.6], "height_ratios": [2, 1]}
    figure, ((left, main), (corner, below)) = canvas(SLIDE_WIDTH * 0.54, 262, columns=2, rows=2, **ratios)
    corner.remove()
    x, z = np.linspace(-3.2, 1.6, 500), np.linspace(-3, 3, 500)
    main.plot(x, bend(x), color=INK)
    left.plot(-stats.norm.pdf(z), z, color=BLUE)
    below.plot(x, bent_pdf(x), color=RED)
    for start, colour in ((-1.55, ORANGE), (0.55, GREEN)):
        strip = np.linspace(start, start + 0.3, 60)
        image = np.linspace(bend(strip[0]), bend(strip[-1]), 60)
        main.fill_between(strip, -3, bend(strip), color=colour, alpha=0.25)
        main.fill_betweenx(image, -3.2, np.interp(image, bend(x), x), color=colour, alpha=0.25)
        left.fill_betweenx(image, -stats.norm.pdf(image), 0, color=colour, alpha=0.8)
        below.fill_between(strip, bent_pdf(strip), color=colour, alpha=0.8)
    main.set(xlim=(-3.2, 1.6), ylim=(-3, 3), xticks=[], yticks=[])
    main.text(-0.15, 1.5, "$z=f(x)$", fontsize=17)
    left.set(ylim=(-3, 3), xlim=(-0.47, 0), xticks=[], yticks=[], ylabel="$z$")
    left.text(-0.45, 1.8, r"$p_z(z)$", color=BLUE, fontsize=16)
    left.spines["bottom"].set_visible(False)
    below.set(xlim=(-3.2, 1.6), ylim=(0, None), xticks=[], xlabel="$x$")
    below.text(-3.1, 0.28, r"$p_x(x)$", color=RED, fontsize=16)
    hide_left(below)
    return figure


def swirl(z: Tensor) -> Tensor:
    """Return the smooth bijection x = g(z) of the picture in two dimensions, (..., 2) to (..., 2)."""
    z1, z2 = z.double().unbind(-1)
    x1 = z1 + 0.55 * torch.sin(1.6 * z2)
    return torch.stack([x1, z2 * torch.exp(0.35 * x1) + 0.35 * x1], -1)


CORNER, WIDTH = real([0.3, 0.6]), 0.3


def boundary(corner: Tensor, width: float, points: int) -> Tensor:
    """Return points on the sides of a square with its lower left corner there, (4 points, 2)."""
    square = corner + width * real([[0, 0], [1, 0], [1, 1], [0, 1]])
    share = line(0, 1, points)[:, None]
    return torch.cat([a + share * (b - a) for a, b in zip(square, square.roll(-1, 0), strict=True)])


def area_ratio(corner: Tensor, width: float) -> float:
    """Return the area of the image of a square under `swirl` over the square's, by the shoelace formula."""
    x, y = swirl(boundary(corner, width, 400)).T
    return float(abs(x @ y.roll(-1) - y @ x.roll(-1)) / 2) / width**2


@figure
def volume_ratio() -> Figure:
    """Draw a grid and its image, with one cell, its curved image and the parallelogram of the Jacobian."""
    figure, (before, after, cell) = canvas(SLIDE_WIDTH, 165, columns=3)
    plot.warped_grid(before, lambda z: z, reach=1.5, color=MUTED, linewidth=0.9)
    plot.warped_grid(after, swirl, reach=1.5, color=MUTED, linewidth=0.9)
    edge, jacobian = boundary(CORNER, WIDTH, 40), torch.autograd.functional.jacobian(swirl, CORNER)
    image, tangent = swirl(edge), swirl(CORNER) + (edge - CORNER) @ jacobian.T
    before.add_patch(Polygon(edge, color=BLUE, alpha=0.7))
    after.add_patch(Polygon(image, color=BLUE, alpha=0.7))
    cell.add_patch(Polygon(image, color=BLUE, alpha=0.35))
    cell.add_patch(Polygon(tangent, fill=False, edgecolor=RED, linewidth=2.4))
    cell.plot(*swirl(CORNER), "o", color=INK)
    before.set(title="$z$", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    after.set(title="$x=g(z)$", xlim=(-2.5, 2.5), ylim=(-1.9, 3.1))
    x, y = image.mean(dim=0).tolist()
    cell.set(title="the cell, and $J_g$ times it", xlim=(x - 0.44, x + 0.5), ylim=(y - 0.36, y + 0.5))
    for panel in (before, after, cell):
        panel.set(xticks=[], yticks=[], aspect="equal")
    return figure


def two_normals(target: MixtureSameFamily, n: int, rng: np.random.Generator) -> Tensor:
    """Draw n points from a mixture of two normals, (n,)."""
    first = rng.random(n) < target.mixture_distribution.probs[0].item()
    parts = target.component_distribution
    draws = [rng.normal(mean, scale, n) for mean, scale in zip(parts.mean, parts.stddev, strict=True)]
    return torch.from_numpy(np.where(first, *draws))


@figure
def cdf_flow() -> Figure:
    """Draw a density with two modes, its distribution function, and the flow that turns it into a normal."""
    figure, (density, cdf, flow, codes) = canvas(SLIDE_WIDTH, 172, columns=4)
    target = mixture([0.6, 0.4], [-1.5, 1.8], [0.5, 0.7])
    x, z = line(-3.4, 4.2, 500), line(-3.5, 3.5, 200)
    sample = two_normals(target, 4000, np.random.default_rng(0))
    density.hist(sample, bins=50, density=True, color=PALE)
    density.plot(x, target.log_prob(x).exp(), color=INK)
    density.set(title=r"$\pi(x)$", xlabel="$x$")
    cdf.plot(x, target.cdf(x), color=BLUE)
    cdf.set(title="$u=F(x)$: uniform", xlabel="$x$", yticks=[0, 0.5, 1])
    flow.plot(x, stats.norm.ppf(target.cdf(x)), color=RED)
    flow.set(title=r"$z=\Phi^{-1}(F(x))$", xlabel="$x$", ylim=(-3.5, 3.5), yticks=[-2, 0, 2])
    codes.hist(stats.norm.ppf(target.cdf(sample)), bins=40, density=True, color=PALE)
    codes.plot(z, stats.norm.pdf(z), color=RED)
    codes.set(title="codes", xlabel="$z$")
    hide_left(density)
    hide_left(codes)
    return figure


FIRST = mixture([0.5, 0.5], [-1.0, 1.1], [0.5, 0.6])  # x_1 of the triangular map
NOISE = 0.4  # of x_2 around a parabola in x_1


def bent_sample(n: int, seed: int = 0) -> Tensor:
    """Return points around a parabola, (n, 2)."""
    rng = np.random.default_rng(seed)
    x1 = two_normals(FIRST, n, rng)
    return torch.stack([x1, 0.8 * x1**2 - 1 + NOISE * torch.from_numpy(rng.normal(size=n))], 1)


def rosenblatt(x: Tensor) -> Tensor:
    """Return u = (F_1(x_1), F_2(x_2 | x_1)), uniform on the square, (..., 2) to (..., 2)."""
    x1, x2 = x.unbind(-1)
    return torch.stack([FIRST.cdf(x1), UNIT.cdf((x2 - 0.8 * x1**2 + 1) / NOISE)], -1)


@figure
def knothe_rosenblatt() -> Figure:
    """Draw points of a bent density, the same points after each coordinate's own distribution function."""
    figure, (points, half, square) = canvas(SLIDE_WIDTH * 0.66, 160, columns=3)
    x = bent_sample(900)
    u = rosenblatt(x)
    group = (u[:, 0] * 4).int()
    for c, (colour, mark) in enumerate(zip((BLUE, ORANGE, GREEN, RED), "osD^", strict=True)):
        (x1, x2), (u1, u2) = x[group == c].T, u[group == c].T
        for panel, pair in ((points, (x1, x2)), (half, (u1, x2)), (square, (u1, u2))):
            panel.plot(*pair, mark, color=colour, markersize=2.6)
    points.set(title="data", xlabel="$x_1$", ylabel="$x_2$", xticks=[-2, 0, 2], yticks=[-2, 0, 2, 4])
    half.set(title="$u_1=F_1(x_1)$", xlabel="$u_1$", ylabel="$x_2$", xticks=[0, 0.5, 1], yticks=[-2, 0, 2, 4])
    square.set(title=r"$u_2=F_2(x_2\,|\,x_1)$", xlabel="$u_1$", ylabel="$u_2$")
    square.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    return figure


# --- Trained flows ----------------------------------------------------------------------------------------


@cache
def trained() -> dict[str, Tensor]:
    """Return the arrays that `trained_flows` stored, in double precision."""
    with np.load(FOLDER / "trained_flows.npz") as stored:
        return {name: torch.from_numpy(stored[name].astype(float)) for name in stored}


@cache
def on_grid(target: data.Density) -> Tensor:
    """Return the log-density of a target on the grid of the trained flows, (POINTS, POINTS)."""
    return target.log_prob(grid().double()).reshape(POINTS, POINTS)


def flow_kl(name: str) -> tuple[float, float]:
    """Return KL(target || flow) and KL(flow || target) in nats of a flow trained on the four modes."""
    log_pi, log_p = on_grid(FOUR).flatten(), trained()[name].flatten()
    found = S.divergences(log_pi, log_p, cell=(2 * LIMIT / (POINTS - 1)) ** 2)
    return found["forward"].item(), found["reverse"].item()


def draw_contours(panel: Axes, values: Tensor, **style: object) -> None:
    """Draw filled contours of values on the grid of the trained flows, rounded to settle ties."""
    side = np.linspace(-LIMIT, LIMIT, POINTS)
    panel.contourf(side, side, values.numpy().round(5), cmap="Blues", **style)
    panel.set(xticks=[], yticks=[], aspect="equal")


@figure
def linear_flow_digits() -> Figure:
    """Draw test digits, their codes under the linear flow, and samples of it."""
    stored = trained()
    rows = {"digits $x$": stored["digits"], "codes $z$": 0.5 + stored["codes"] / 6, "drawn": stored["drawn"]}
    images = {name: row.reshape(6, 28, 28) for name, row in rows.items()}
    return digits(images, SLIDE_WIDTH * 0.5, 165, levels=6)


TWO_MODES = mixture([0.5, 0.5], [-2.0, 2.0], [0.5, 0.5])


def middle_slope() -> float:
    """Return g'(0) = p(z = 0) / pi(0) of the exact flow to two modes in one dimension."""
    return (stats.norm.pdf(0) / TWO_MODES.log_prob(real(0)).exp()).item()


@figure
def filament() -> Figure:
    """Draw the exact flow to two modes in 1-D, and the log-density of a trained one in 2-D."""
    figure, (exact, target, flow) = canvas(SLIDE_WIDTH, 157, columns=3, width_ratios=[1, 1.15, 1.15])
    z, x = np.linspace(-2.5, 2.5, 301), line(-4.5, 4.5, 4001)
    exact.plot(z, np.interp(z, stats.norm.ppf(TWO_MODES.cdf(x)), x), color=RED)
    exact.set(title="1-D: $x=g(z)$, exact", xlabel="$z$", yticks=[-2, 0, 2], xticks=[-2, 0, 2])
    arrow = {"arrowstyle": "->", "color": RED}
    exact.annotate(f"slope {middle_slope():.0f}", (0.02, -0.6), (0.45, -1.6), color=RED, arrowprops=arrow)
    levels = [-16, -12, -8, -6, -4, -2, 0, 1.5]
    for panel, log_p in ((target, on_grid(TWO)), (flow, trained()["forward_two"])):
        draw_contours(panel, log_p.clip(-16.5, 1.4), levels=levels)
        panel.set(xlim=(-3.5, 3.5), ylim=(-1.7, 1.7))
    target.set_title(r"$\log\pi(x)$, two modes")
    flow.set_title(r"$\log p(x\,|\,\theta)$, a trained flow")
    return figure


@figure
def two_trainings() -> Figure:
    """Draw a target with four modes and two flows: trained from samples, and from the density."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=3)
    panels = {
        "target": on_grid(FOUR),
        "forward KL, from samples": trained()["forward_four"],
        "reverse KL, from the density": trained()["reverse_four"],
    }
    levels = [0.002, 0.008, 0.03, 0.07, 0.13, 0.2, 0.3, 0.5, 5]
    for panel, (title, log_p) in zip(axes, panels.items(), strict=True):
        draw_contours(panel, log_p.exp(), levels=levels, vmin=0, vmax=0.4)
        panel.set(title=title, xlim=(-4, 4.6), ylim=(-3.8, 4))
    return figure


def value_entropy() -> float:
    """Return the entropy of a pixel's value in MNIST's training images, in bits."""
    return float(stats.entropy(trained()["values"], base=2))


def comb_bits(width: float) -> float:
    """Return bits/dim of undithered pixels under a comb: a normal of this width on each of the 256 values.

    The weights are the frequencies of the values. At an integer every other tooth is far away as long as the
    width is well below 1.
    """
    count = trained()["values"].numpy()
    value, frequency = np.flatnonzero(count), count[count > 0] / count.sum()
    log_p = special.logsumexp(stats.norm.logpdf(value[:, None], value, width) + np.log(frequency), axis=1)
    return -(frequency @ log_p) / np.log(2)


@figure
def integers_diverge() -> Figure:
    """Draw a comb on integers, and the bits per dimension it claims against the width of its teeth."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 160, columns=2)
    x = np.linspace(0.4, 6.6, 2400)
    for width, colour in ((0.3, SKY), (0.12, BLUE), (0.04, RED)):
        density = stats.norm.pdf(x[:, None], np.arange(1, 7), width) @ [0.05, 0.25, 0.15, 0.3, 0.2, 0.05]
        left.plot(x, density, color=colour, linewidth=1.8, label=f"s.d. {width}")
    left.set(xlabel="value of a pixel", title="a density on integers", xticks=range(1, 7), xlim=(0.4, 9.6))
    left.legend(loc="upper right", handlelength=1.2)
    hide_left(left)
    widths = np.logspace(-4, 0, 9)
    right.axhline(0, color=INK, linewidth=1.2)
    right.axhline(value_entropy(), color=GREEN, linestyle="--")
    right.text(1e-4, value_entropy() + 0.4, "entropy of the values", color=GREEN, va="bottom")
    right.plot(widths, [comb_bits(width) for width in widths], "o-", color=RED)
    right.set(xscale="log", xlabel="s.d. of the teeth", title="claimed bits/dim", ylim=(-11.5, 6))
    right.set_xticks([1e-4, 1e-3, 1e-2, 1e-1, 1])
    right.minorticks_off()
    return figure


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    fits, stored = fits_1d(), trained()
    divergences = {name: fixed(compare(TARGET, *fit), 2) for name, fit in fits.items() if name != "jsd_other"}
    plane = {name: fixed(plane_kl(u), 2) for name, u in plane_fits().items() if name != "reverse_other"}
    determinant = torch.autograd.functional.jacobian(swirl, CORNER).det()
    return {
        "shrunk_variance": fixed(mean_field_path()[-1, 1, 0], 2),
        "mean_field_gap": fixed(mean_field_gap(), 2),
        "sweep_factor": fixed(RHO**2, 2),
        "death_counts": fixed(alive(death_run()[0][-1]), 1),
        "names": fixed(np.log(6), 2),
        "death_share": fixed(np.exp(special.digamma(1.0)), 2),
        "death_small": scientific(np.exp(special.digamma(0.1))),
        "death_log10": round(special.digamma(ALPHA) / np.log(10)),
        "iris_alive": len(iris_fit()[1]),
        "iris_counts": fixed(iris_fit()[1], 0),
        "forward_fit": fixed(fits["forward"], 2),
        "reverse_fit": fixed(fits["reverse"], 2),
        "reverse_middle_fit": fixed(fits["reverse_middle"], 2),
        "reverse_other_fit": fixed(fits["reverse_other"], 2),
        "jsd_fit": fixed(fits["jsd"], 2),
        "jump": fixed(jump(), 2),
        "jump_scales": fixed([reverse_fit(jump(), start)[1] for start in (0.0, jump())], 2),
        "jsd": fixed(jsd_of_normals(real([1, 2, 4, 8])), 3),
        "cell_ratio": fixed(area_ratio(CORNER, WIDTH), 3),
        "cell_small": fixed(area_ratio(CORNER, WIDTH / 10), 3),
        "cell_determinant": fixed(abs(determinant), 3),
        "doubling": round(784 * np.log(2)),
        "filament_slope": round(middle_slope()),
        "linear_nats": fixed([stored["nats"], stored["nats_error"]], 1),
        "linear_bits": fixed(stored["bits"], 2),
        "forward_flow": fixed(flow_kl("forward_four"), 2),
        "reverse_flow": fixed(flow_kl("reverse_four"), 2),
        "value_entropy": fixed(value_entropy(), 2),
        "baselines": fixed([stored[f"{name}_bits"] for name in ("histogram", "zlib", "pixel_gaussian")], 2),
        "jacobian_entries": [f"{m**2:,}".replace(",", " ") for m in (784, 3072)],
        "lu_mnist": scientific(2 / 3 * 784**3),
        "lu_cifar": scientific(2 / 3 * 3072**3),
        "comb": fixed([comb_bits(width) for width in (1e-1, 1e-2, 1e-3)], 2),
        **{f"divergences_{name}": values for name, values in divergences.items()},
        **{f"plane_{name}": values for name, values in plane.items()},
    }
