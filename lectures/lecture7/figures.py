"""Draw the figures of lecture 7, and compute the numbers that its slides print.

    python -m lectures.drawing lecture7 [FOLDER]

Everything is exact, computed by quadrature, or counted; nothing is copied by hand. What takes longer is drawn
from arrays that `measured.py` stored. What the deck claims is tested in `tests/test_lecture7.py`.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize, special, stats

from lectures.arrays import read_arrays
from lectures.drawing import (
    BLUE,
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
    figure,
    fixed,
    hide_left,
    log_ticks,
)
from lectures.lecture3 import vae_digits
from lectures.lecture6 import figures as lecture6
from lectures.lecture6.figures import FOUR, TOY_WIDTH, cell_bits, toy_density
from lectures.lecture7.measured import (
    BATCHES,
    BOUNDS,
    COUNTS,
    EXAMPLES,
    IMAGES,
    KINDS,
    MEAN,
    NARROW_MEAN,
    NARROW_STD,
    NOISE,
    REFERENCE_K,
    REFERENCE_RUNS,
    S7,
    SEEN,
    SIZES_K,
    STD,
    WEIGHTED,
    flows,
)

FOLDER = Path(__file__).parent / "figures"


LARGE = 17  # points: of tick labels that are to be read from the last row


def large_ticks(*panels: Axes) -> None:
    """Make the tick labels of these panels larger than a figure's usual ones."""
    for panel in panels:
        panel.tick_params(labelsize=LARGE)


@cache
def measured() -> dict[str, np.ndarray]:
    """Return the arrays that `measured` stored, in double precision."""
    return read_arrays(FOLDER / "measured.npz")


# --- Dequantization: the pixel with four levels of lecture 6 ------------------------------------------------

BASE_NODES, BASE_WEIGHTS = np.polynomial.legendre.leggauss(400)
BASE = (BASE_NODES + 1) / 2  # uniform on (0, 1): the base sample through its distribution function


def noise_of(base: str) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes of a base sample, "logistic" or "normal", and their log-density."""
    if base == "logistic":
        return special.logit(BASE), np.log(BASE) + np.log1p(-BASE)
    eps = special.ndtri(BASE)
    return eps, stats.norm.logpdf(eps)


def dequantizer(shift: float, log_scale: float, base: str) -> tuple[np.ndarray, np.ndarray]:
    """Return u = sigmoid(shift + scale * noise) at the nodes of the noise, and log q(u) there."""
    eps, log_base = noise_of(base)
    raw = shift + np.exp(log_scale) * eps
    log_slope = -np.logaddexp(0, raw) - np.logaddexp(0, -raw)  # of the sigmoid: u (1 - u)
    return special.expit(raw), log_base - log_scale - log_slope


def bound(x: int, shift: float, log_scale: float, base: str) -> float:
    """Return the variational bound of log2 P(x), by quadrature over the noise."""
    u, log_q = dequantizer(shift, log_scale, base)
    return ((np.log(toy_density(x + u, TOY_WIDTH)) - log_q) @ BASE_WEIGHTS / 2) / np.log(2)


@cache
def best(x: int, base: str) -> np.ndarray:
    """Return shift and log-scale of the best q(u|x) of a base."""
    found = optimize.minimize(lambda p: -bound(x, *p, base), [0.0, 0.0], method="Nelder-Mead",
                              options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 2000})  # fmt: skip
    return found.x


@cache
def toy_bounds() -> dict[str, np.ndarray]:
    """Return log2 P of the four levels and its bounds, each (4,)."""
    exact, uniform = cell_bits(TOY_WIDTH)
    variational = {
        base: np.array([bound(x, *best(x, base), base) for x in range(4)]) for base in ("logistic", "normal")
    }
    return {"exact": exact, "uniform": uniform, **variational}


@cache
def flat_cell() -> float:
    """Return the least KL(q || uniform) in nats of q = sigmoid(scale * normal noise), over the scale."""

    def kl(log_scale: float) -> float:
        _, log_q = dequantizer(0.0, log_scale, "normal")
        return log_q @ BASE_WEIGHTS / 2

    return optimize.minimize_scalar(kl, bounds=(-1, 2), method="bounded").fun


STEEP = 1


@figure
def cell() -> Figure:
    """Draw the density over four cells, and the noise inside the steep one."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 185, columns=2, width_ratios=[1.25, 1])
    y = np.linspace(0, 4, 600)
    left.plot(y, toy_density(y, TOY_WIDTH), color=INK)
    inside = np.linspace(STEEP, STEEP + 1, 200)
    left.fill_between(inside, toy_density(inside, TOY_WIDTH), color=PALE)
    for edge in range(5):
        left.axvline(edge, color=MUTED, linestyle=":", linewidth=1.2)
    left.set(title="$p(x+u)$: four cells", xticks=range(5), xlim=(0, 4), ylim=(0, None))
    hide_left(left)
    u = np.linspace(0.001, 0.999, 400)
    conditional = toy_density(STEEP + u, TOY_WIDTH) / 2 ** toy_bounds()["exact"][STEEP]
    nodes, log_q = dequantizer(*best(STEEP, "logistic"), "logistic")
    right.fill_between(u, conditional, color=PALE)
    right.plot(u, conditional, color=INK, label="$p(u\\,|\\,x)$")
    right.plot([0, 1], [1, 1], "--", color=RED, label="uniform")
    right.plot(nodes, np.exp(log_q), color=BLUE, label="best $q(u\\,|\\,x)$ of a family")
    right.set(
        title=f"inside the cell of $x={STEEP}$", xlabel="$u$", xlim=(0, 1), ylim=(0, 5.4), xticks=[0, 0.5, 1]
    )
    right.legend(loc="upper right")
    return figure


@figure
def three_bounds() -> Figure:
    """Draw log P of the four levels, and what both bounds miss."""
    figure, (bars, gaps) = canvas(SLIDE_WIDTH, 190, columns=2, width_ratios=[1.2, 1])
    bounds = toy_bounds()
    for x in range(4):
        for place, (name, colour) in enumerate((("uniform", RED), ("logistic", BLUE), ("exact", INK))):
            bars.bar(x + 0.27 * (place - 1), 2 ** bounds[name][x], 0.25, color=colour)
            if name != "exact":
                gaps.bar(x + 0.27 * place, bounds["exact"][x] - bounds[name][x], 0.25, color=colour)
    bars.set(title="$P(x)$ and $\\exp$ of its bounds", xlabel="$x$", xticks=range(4))
    for name, colour, height in (
        ("uniform noise", RED, 0.9),
        ("best $q(u|x)$", BLUE, 0.76),
        ("exact", INK, 0.62),
    ):
        bars.text(0.97, height, name, color=colour, ha="right", transform=bars.transAxes)
    gaps.set(title="gap, bits", xlabel="$x$", xticks=np.arange(4) + 0.135)
    gaps.set_xticklabels(range(4))
    bars.set_yticks([0, 0.2, 0.4])
    gaps.set_yticks([0, 0.5, 1])
    large_ticks(bars, gaps)
    return figure


# --- L_K of a linear-Gaussian model, exactly ----------------------------------------------------------------

STEPS = np.linspace(-60, 60, 1201)  # of log t; smooth: the trapezoidal rule converges exponentially
DIMENSION = 4
KS = np.unique(np.round(np.geomspace(1, 1000, 25)).astype(int))
NARROW, WIDE = 0.25, STD**2 / (NOISE / (1 + NOISE))  # variance of q over that of the posterior


def log_evidence(d: int, offset: float = 0.0) -> float:
    """Return log p(x) in nats: z ~ N(0, I_d), x | z ~ N(z + offset, NOISE I), all coordinates SEEN."""
    return d * stats.norm.logpdf(SEEN, offset, math.sqrt(1 + NOISE))


def posterior(offset: float = 0.0) -> tuple[float, float]:
    """Return mean and standard deviation of each coordinate of the posterior."""
    return (SEEN - offset) / (1 + NOISE), math.sqrt(NOISE / (1 + NOISE))


def weight_law(d: int, mean: float, std: float, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes of log(w / p(x)) for z ~ q = N(mean, std^2 I_d), and their probabilities.

    In units of the posterior, q is N(b, r^2 I): log(w / p) is quadratic in the distance of noise to a point,
    whose square is noncentral chi-square.
    """
    center, scale = posterior(offset)
    b, r = (mean - center) / scale, std / scale
    c = b * r / (1 - r**2)
    nodes, weights = np.polynomial.legendre.leggauss(800)
    top = math.sqrt(d) * abs(c) + 13
    radius = top * (nodes + 1) / 2
    p = stats.ncx2.pdf(radius**2, d, d * c**2) * 2 * radius * weights * top / 2
    log_v = d * math.log(r) + (1 - r**2) / 2 * radius**2 - d * b**2 / (2 * (1 - r**2))
    return log_v, p


def gap(K: int, law: tuple[np.ndarray, np.ndarray]) -> float:
    """Return log p(x) - L_K in nats from the law of log(w / p(x)): exact but for quadrature.

    log a is the integral over t of (e^-t - e^-ta) / t; the mean of e^-ta of an average is a power.
    """
    log_v, p = law
    below = np.expm1(-np.exp(STEPS[:, None] - math.log(K) + log_v)) @ p  # E[e^(-t w / (K p(x)))] - 1
    power = np.exp(K * np.log1p(below.clip(min=-1 + 1e-15)))
    return -np.trapezoid(np.exp(-np.exp(STEPS)) - power, STEPS)


def relative_variance(d: int, mean: float, std: float) -> float:
    """Return Var(w / p(x)) in closed form, d independent coordinates; infinite for a narrow q."""
    center, scale = posterior()
    b, r2 = (mean - center) / scale, (std / scale) ** 2
    if r2 <= 0.5:
        return math.inf
    each = r2 / math.sqrt(2 * r2 - 1) * math.exp(b**2 / (2 * r2 - 1))
    return each**d - 1


@cache
def tightened() -> dict[str, np.ndarray]:
    """Return log p(x) - L_K against K of three q in DIMENSION dimensions, nats."""
    center, scale = posterior()
    laws = {
        "wide": weight_law(DIMENSION, MEAN, STD),
        "narrow": weight_law(DIMENSION, center, scale * math.sqrt(NARROW)),
    }
    return {name: np.array([gap(K, law) for K in KS]) for name, law in laws.items()}


@figure
def tightening() -> Figure:
    """Draw L_K against K with log p(x), and the gaps of a wide and of a narrow q on logarithmic axes."""
    figure, (left, right) = canvas(SLIDE_WIDTH, 175, columns=2)
    top, gaps = log_evidence(DIMENSION), tightened()
    left.axhline(top, color=INK, linewidth=1.4)
    left.text(1, top + 0.25, "$\\log\\,p(x)$")
    left.plot(KS, top - gaps["wide"], color=BLUE)
    left.plot(KS, top - gaps["narrow"], color=RED)
    left.text(5, top - 2.6, "wide $q$", color=BLUE)
    left.text(110, top - 1.3, "narrow $q$", color=RED)
    left.set(title="$\\mathcal{L}_K$, nats", xscale="log", xlabel="$K$", ylim=(None, top + 1.4))
    left.set_yticks([-11, -9.5, -8])
    right.plot(KS, gaps["wide"], color=BLUE)
    right.plot(KS, relative_variance(DIMENSION, MEAN, STD) / (2 * KS), ":", color=INK, linewidth=1.6)
    right.plot(KS, gaps["narrow"], color=RED)
    right.text(26, 0.02, "dots: $\\mathrm{Var}(w/p)\\,/\\,2K$", ha="right")
    right.set(title="$\\log\\,p(x)-\\mathcal{L}_K$, nats", xscale="log", yscale="log", xlabel="$K$")
    log_ticks(right.yaxis, 0.01, 0.1, 1, 10)
    for panel in (left, right):
        log_ticks(panel.xaxis, 1, 10, 100, 1000)
    large_ticks(left, right)
    return figure


@figure
def weighted_posterior() -> Figure:
    """Draw a known posterior, the best Gaussian, and what importance weights make of it."""
    figure, axes = canvas(SLIDE_WIDTH, 150, columns=5)
    logs = [lecture6.log_posterior(), lecture6.best_gaussian(),
            *(lecture6.real(measured()[f"weighted_{K}"]) for K in WEIGHTED)]  # fmt: skip
    titles = ["true", "Gaussian $q$", *(f"$q_{{EW}}$, $K={K}$" for K in WEIGHTED)]
    for panel, title, log_q in zip(axes, titles, logs, strict=True):
        lecture6.show_density(panel, log_q, lecture6.POSTERIOR_LIMIT, 2.6, 0.55)
        panel.set(title=title, xlabel=r"$\zeta_1$")
        panel.title.set_fontsize(17)
    large_ticks(*axes)
    axes[0].set_ylabel(r"$\zeta_2$")
    return figure


@figure
def on_digits() -> Figure:
    """Draw L_K of the VAE on test digits against K, and a histogram of effective sample sizes."""
    figure, (left, right) = canvas(SLIDE_WIDTH * 0.56, 140, columns=2, gridspec_kw={"wspace": 0.35})
    left.plot(BOUNDS, measured()["mnist_bounds"][:, 0], "o-", color=BLUE)
    left.set(title="mean $\\mathcal{L}_K$, nats", xscale="log", xlabel="$K$")
    log_ticks(left.xaxis, 1, 50, 5000)
    left.set_xlim(None, 15_000)
    sizes = measured()["mnist_sizes"]
    right.hist(sizes, bins=np.linspace(1, 25, 25), color=SKY, edgecolor="white")
    right.axvline(np.median(sizes), color=INK, linewidth=1.6)
    right.set(title=f"effective of {SIZES_K}", xlabel="samples", xlim=(1, 25), xticks=[1, 10, 20])
    hide_left(right)
    large_ticks(left, right)
    return figure


# --- Gradients ----------------------------------------------------------------------------------------------

STEP = 1e-3  # of the central differences of exact bounds


@cache
def slope(K: int, parameter: str, mean: float = MEAN, std: float = STD) -> float:
    """Return the derivative of the exact L_K in the mean of q ("encoder") or the offset ("decoder")."""

    def exact(h: float) -> float:
        moved, offset = (mean + h, 0.0) if parameter == "encoder" else (mean, h)
        return log_evidence(1, offset) - gap(K, weight_law(1, moved, std, offset))

    return (exact(STEP) - exact(-STEP)) / (2 * STEP)


@cache
def signal_to_noise() -> dict[str, np.ndarray]:
    """Return |mean| / standard deviation of one gradient against K: exact means, measured deviations.

    "narrow" is the plain encoder's gradient of a narrow q, whose weights have no finite variance.
    """
    encoder = np.array([abs(slope(K, "encoder")) for K in COUNTS])
    means = {
        "encoder": encoder,
        "doubly": encoder,
        "decoder": np.array([abs(slope(K, "decoder")) for K in COUNTS]),
        "narrow": np.array([abs(slope(K, "encoder", NARROW_MEAN, NARROW_STD)) for K in COUNTS]),
    }
    return {name: mean / measured()[f"spread_{name}"][:, 0] for name, mean in means.items()}


def predicted() -> dict[str, np.ndarray]:
    """Return what the theorem says for large K: |Cov(v, v')| / sd(v') / sqrt K, and |p'/p| / sd * sqrt K.

    v = w / p(x), v' its derivative; by quadrature over z ~ q. These weights come near 0, which the theorem
    excludes: that its leading term fits them is a finding.
    """
    eps = np.linspace(-12, 12, 4001)
    p = stats.norm.pdf(eps) * (eps[1] - eps[0])
    z = MEAN + STD * eps
    center, scale = posterior()
    v = stats.norm.pdf(z, center, scale) / stats.norm.pdf(z, MEAN, STD)
    encoder = v * (-z + (SEEN - z) / NOISE)  # through z = mean + std * eps, whose density does not move
    log_slope = SEEN / (1 + NOISE)  # of log p(x) in the offset, up to its sign
    decoder = v * ((SEEN - z) / NOISE - log_slope)  # of mean 0
    K = np.array(COUNTS)
    return {
        "encoder": abs(p @ (v * encoder)) / math.sqrt(p @ encoder**2) / np.sqrt(K),
        "decoder": abs(log_slope) / math.sqrt(p @ decoder**2) * np.sqrt(K),
    }


def log_slope_of(name: str) -> tuple[float, float]:
    """Return the slope of log signal-to-noise against log K, fitted from K = 16 on, and its error."""
    log_k = np.log(COUNTS[2:]) - np.log(COUNTS[2:]).mean()
    spread, error = measured()[f"spread_{name}"][2:].T
    fitted = log_k @ np.log(signal_to_noise()[name][2:]) / (log_k @ log_k)
    return fitted, np.linalg.norm(log_k * error / spread) / (log_k @ log_k)


@figure
def noise_against_k() -> Figure:
    """Draw signal-to-noise of three gradients against K, and what the theorem predicts."""
    figure, axes = canvas(SLIDE_WIDTH * 0.54, 225)
    looks = {"decoder": (GREEN, "o"), "doubly": (PURPLE, "s"), "encoder": (RED, "^")}
    labels = {
        "decoder": (1, 34, "decoder"),
        "doubly": (1, 11, "encoder, doubly reparametrised"),
        "encoder": (6, 0.016, "encoder, plain"),
    }
    for name, (colour, marker) in looks.items():
        axes.plot(COUNTS, signal_to_noise()[name], marker + "-", color=colour)
        axes.text(*labels[name], color=colour, fontsize=16)
    for values in predicted().values():
        axes.plot(COUNTS, values, ":", color=INK, linewidth=1.6)
    axes.set(xscale="log", yscale="log", xlabel="$K$", title="signal-to-noise of one gradient")
    log_ticks(axes.xaxis, *COUNTS)
    log_ticks(axes.yaxis, 0.01, 0.1, 1, 10)
    axes.set(ylim=(0.006, 90))
    large_ticks(axes)
    return figure


def analytic_kl_limit() -> float:
    """Return what log(mean of p(x|z)) - KL(q || prior) tends to, nats, d = 1: it bounds nothing."""
    kl = (MEAN**2 + STD**2 - 1 - 2 * math.log(STD)) / 2
    return stats.norm.logpdf(SEEN, MEAN, math.sqrt(NOISE + STD**2)) - kl


def analytic_kl_at_posterior() -> float:
    """Return the same with q = posterior, where every true bound is log p(x)."""
    center, scale = posterior()
    kl = (center**2 + scale**2 - 1 - 2 * math.log(scale)) / 2
    return stats.norm.logpdf(SEEN, center, math.sqrt(NOISE + scale**2)) - kl


REFERENCES = (
    "encoder", "doubly", "softmax of the loss", "weights not detached", "not squared", "q not frozen"
)  # fmt: skip


# --- Surgery ------------------------------------------------------------------------------------------------

N_TRAIN = 60_000


@figure
def surgery_bars() -> Figure:
    """Draw the mean KL of two VAEs, cut into information and marginal KL."""
    figure, axes = canvas(SLIDE_WIDTH, 135)
    for row, d in enumerate((50, 2)):
        kl, _, information, marginal = measured()[f"surgery_{d}"][:, 0]
        axes.barh(row, information, 0.55, color=BLUE)
        axes.barh(row, marginal, 0.55, left=information, color=ORANGE)
        axes.text(information / 2, row, f"{information:.2f}", color="white", ha="center", va="center")
        axes.text(kl + 0.3, row, f"KL {kl:.2f}", va="center")
        if marginal > 2:
            axes.text(information + marginal / 2, row, f"{marginal:.2f}", ha="center", va="center")
    axes.axvline(math.log(N_TRAIN), color=INK, linestyle="--", linewidth=1.4)
    axes.text(math.log(N_TRAIN) + 0.2, 1.45, "$\\log\\,N$", va="center")
    axes.text(16, 1.0, "information about the image", color=BLUE, va="center")
    axes.text(16, 0.62, "KL of the aggregate to the prior", color="#9a6700", va="center")
    axes.set(yticks=[0, 1], ylim=(-0.45, 1.6), xlabel="nats an image", xlim=(0, 30))
    axes.set_yticklabels(["$d=50$", "$d=2$"])
    return figure


@figure
def minibatch() -> Figure:
    """Draw three estimates of the information by a minibatch against its size, with truth and cap."""
    figure, axes = canvas(SLIDE_WIDTH * 0.54, 195)
    truth = measured()["batch_truth"][0, 0]
    looks = {"mean of the batch": (RED, "o"), "weighted": (ORANGE, "^"), "stratified": (BLUE, "s")}
    for kind in KINDS:
        colour, marker = looks[kind]
        axes.plot(BATCHES, measured()[f"batch {kind}"][:, 0], marker + "-", color=colour)
    axes.axhline(truth, color=INK, linewidth=1.6)
    axes.plot(BATCHES, np.log(BATCHES), "--", color=MUTED, linewidth=1.4)
    axes.text(8, truth - 0.25, "truth", va="top")
    axes.text(2048, 8.4, "$\\log B$", color=MUTED, ha="right")
    for (kind, (colour, _)), (x, y) in zip(looks.items(), ((40, 1.6), (8, 13.8), (90, 8.6)), strict=True):
        axes.text(x, y, kind, color=colour)
    axes.set(xscale="log", xlabel="$B$", title="estimates of $I(i;z)$, nats", ylim=(0, 16.5))
    log_ticks(axes.xaxis, *BATCHES)
    large_ticks(axes)
    return figure


# --- What was trained ---------------------------------------------------------------------------------------


@figure
def samples() -> Figure:
    """Draw eight samples each of VAE, IWAE and both flows."""
    stored, rows = measured(), {}
    for name, key in (("VAE", "vae"), ("IWAE", "iwae")):
        rows[name] = stored[f"samples_{key}"].reshape(-1, 28, 28) / 255
    for name, key in (("uniform", "uniform"), ("learned", "learned")):
        rows[name] = stored[f"samples_{key}"].reshape(-1, 8, 8) / 15
    return digits(rows, SLIDE_WIDTH, 300, levels=9)


# --- Costs --------------------------------------------------------------------------------------------------


@cache
def products() -> list[int]:
    """Return the products in one pass of encoder and decoder of the VAE on MNIST, for an image or a code."""
    model = vae_digits.trained(S7, 50)
    networks = model.encoder, model.decoder
    return [sum(layer.weight.numel() for layer in net if hasattr(layer, "weight")) for net in networks]


@cache
def rows(K: int) -> list[int]:
    """Return how many rows encoder and decoder see for log-weights of K samples of one image, by hooks."""
    model, seen = vae_digits.trained(S7, 50), []
    for net in (model.encoder, model.decoder):
        net.register_forward_hook(lambda _net, _inputs, out: seen.append(out.numel() // out.shape[-1]))
    model.log_weights(next(model.parameters()).new_zeros(1, 784), K)
    return seen


def with_error(pair: np.ndarray, digits: int) -> str:
    """Format a mean and its standard error."""
    return f"{fixed(pair[0], digits)} ± {fixed(pair[1], digits)}"


def surgery_of(d: int) -> list[str]:
    """Return KL, and with their errors reconstruction, information and marginal KL, for the slides."""
    (kl, _), *others = measured()[f"surgery_{d}"]
    return [fixed(kl, 2), *(with_error(pair, 2) for pair in others)]


def spread_over_images(values: np.ndarray) -> np.ndarray:
    """Return the mean over images and its standard error."""
    return np.array([values.mean(), values.std(ddof=1) / len(values) ** 0.5])


def judged_of(row: int) -> list[str]:
    """Return negative ELBO, negative estimate, active units of VAE (0) or IWAE (1), for the slides."""
    levels = [with_error(spread_over_images(-each), 1) for each in measured()["judged_each"][row]]
    return [*levels, fixed(measured()["judged_active"][row], 0)]


@cache
def flow_parameters() -> list[int]:
    """Return how many parameters the flow with uniform noise has, and flow and dequantizer together."""
    return [sum(each.numel() for each in model.parameters()) for model in flows()]


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    stored, toy, snr = measured(), toy_bounds(), signal_to_noise()
    each = stored["judged_each"]  # (2, 2, IMAGES): VAE and IWAE, ELBO and estimate
    gaps, encoder, decoder = tightened(), *products()
    at = [int(np.flatnonzero(KS == K)[0]) for K in (1, 10, 100, 1000)]
    reference = {name: stored[f"reference {name}"] for name in REFERENCES}
    thousands = [f"{count:,}" for count in (encoder, decoder)]
    return {
        "toy_bits": fixed([-FOUR @ toy[name] for name in ("uniform", "normal", "logistic", "exact")], 3),
        "toy_entropy": fixed(lecture6.bits(FOUR), 3),
        "steep_gap": fixed([toy["exact"][STEEP] - toy[name][STEEP] for name in ("uniform", "logistic")], 2),
        "flat_kl": fixed(flat_cell(), 4),
        "half_cell": fixed([lecture6.claims()[1], lecture6.claims()[1] + 1], 2),
        "log_evidence": fixed(log_evidence(DIMENSION), 2),
        "wide_gap": fixed(gaps["wide"][at], 3),
        "narrow_gap": fixed(gaps["narrow"][at], 2),
        "relative_variance": fixed(relative_variance(DIMENSION, MEAN, STD), 2),
        "narrow_slope": fixed(np.polyfit(np.log(KS[-6:]), np.log(gaps["narrow"][-6:]), 1)[0], 2),
        "gaussian_gap": fixed(lecture6.posterior_kl()[0], 2),
        "weighted_kl": [with_error(pair, 4) for pair in stored["weighted_kl"]],
        "weighted_gap": [with_error(pair, 3) for pair in stored["weighted_gap"]],
        "mnist_bounds": fixed(stored["mnist_bounds"][:, 0], 1),
        "mnist_level_error": fixed(stored["mnist_bounds"][:, 1].max(), 1),
        "mnist_steps": [with_error(pair, 2) for pair in stored["mnist_steps"]],
        "mnist_size": fixed(stored["mnist_size"][:2], 1),
        "mnist_largest": fixed(stored["mnist_size"][2], 2),
        "images": f"{IMAGES:,}",
        "products": thousands,
        "rows": [str(count) for count in rows(50)],
        "step_ratio": fixed((encoder + 50 * decoder) / (encoder + decoder), 0),
        "slopes": [with_error(log_slope_of(name), 3) for name in ("encoder", "doubly", "decoder", "narrow")],
        "snr_last": fixed([snr[name][-1] for name in ("encoder", "doubly", "decoder")], 3),
        "truth": fixed(slope(REFERENCE_K, "encoder"), 4),
        "reference": {name: with_error(pair, 4) for name, pair in reference.items()},
        "spread": {name: fixed(pair[2], 2) for name, pair in reference.items()},
        "runs": f"{REFERENCE_RUNS:,}",
        "analytic_kl": fixed([analytic_kl_limit(), analytic_kl_at_posterior(), log_evidence(1)], 3),
        "surgery_2": surgery_of(2),
        "surgery_50": surgery_of(50),
        "test_gain": [with_error(stored["test_gain_2"], 2), with_error(stored["test_gain_50"], 1)],
        "log_n": fixed(math.log(N_TRAIN), 2),
        "batch_truth": [with_error(pair, 2) for pair in stored["batch_truth"]],
        "batch": [with_error(stored[f"batch {kind}"][BATCHES.index(128)], 2) for kind in KINDS],
        "batch_marginal": [
            with_error(stored[f"batch_marginal {kind}"][BATCHES.index(128)], 2) for kind in KINDS
        ],
        "log_b": fixed(math.log(128), 2),
        "examples": f"{EXAMPLES:,}",
        "judged_vae": judged_of(0),
        "judged_iwae": judged_of(1),
        "judged_gain": with_error(spread_over_images(each[1, 1] - each[0, 1]), 2),
        "judged_loss": with_error(spread_over_images(each[0, 0] - each[1, 0]), 2),
        "flow_parameters": [f"{count:,}" for count in flow_parameters()],
        "noise_bits": [with_error(pair, 3) for pair in stored["noise_bits"]],
    }
