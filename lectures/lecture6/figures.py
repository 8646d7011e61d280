"""Draw the figures of lecture 6, and compute the numbers that its slides print.

    python -m lectures.drawing lecture6 [FOLDER]

Everything is exact, computed by quadrature, or counted; nothing is copied by hand. Trained flows are drawn
from arrays that `trained_flows.py` stored. What the deck claims is tested in `tests/test_lecture6.py`.
"""

from __future__ import annotations

import itertools
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize, special, stats
from torch import Tensor, nn
from torch.nn import functional as F

from dgm_utils import checks, data
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
    draw_pixels,
    figure,
    fixed,
    hide_left,
    paint,
    scientific,
)
from lectures.lecture4.trained_flows import EDGE
from lectures.lecture6.trained_flows import (
    CODES_LIMIT,
    LIMIT,
    MOONS,
    POINTS,
    POSTERIOR_LIMIT,
    POSTERIORS,
    S5,
    S6,
    TEACHER_SAMPLES,
    cell,
    log_joint,
    plane,
)
from tools.definitions import seminar

FOLDER = Path(__file__).parent / "figures"
BASELINES = FOLDER.parents[1] / "lecture4" / "figures" / "trained_flows.npz"  # of 8-bit MNIST
S1, S4 = seminar(1, "MADE"), seminar(4, "divergences")
real = partial(torch.tensor, dtype=torch.float64)


@cache
def trained() -> dict[str, Tensor]:
    """Return the arrays that `trained_flows` stored, in double precision."""
    with np.load(FOLDER / "trained_flows.npz") as stored:
        return {name: torch.from_numpy(stored[name].astype(float)) for name in stored}


def show_density(panel: Axes, log_p: Tensor, limit: float, reach: float, top: float) -> None:
    """Draw filled contours of exp(log_p) on the grid of a window, up to `reach`, darkest at `top`."""
    side = np.linspace(-limit, limit, POINTS)
    density = log_p.exp().reshape(POINTS, POINTS).numpy().clip(0, 0.999 * top).round(5)
    inside = np.abs(side) <= reach
    levels = top * np.array([0.01, 0.04, 0.1, 0.2, 0.35, 0.55, 0.75, 1])
    panel.contourf(side[inside], side[inside], density[inside][:, inside], levels=levels, cmap="Blues")
    panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])


# --- One network, two directions --------------------------------------------------------------------------

RANDOM_ORDER = [3, 0, 5, 1, 4, 2]


def redrawn(layer: nn.Module, seed: int) -> nn.Module:
    """Return a layer in float64 whose parameters are random: an untrained one is nearly the identity."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return layer.double().eval()


def maf(order: Tensor, widths: tuple[int, ...] = (64, 64)) -> nn.Module:
    """Return a MAF layer in a given order."""
    return S6.MAF(S6.GaussianMADE(len(order), widths, order))


def coupling(m: int) -> nn.Module:
    """Return a coupling of halves, which keeps the first."""
    network = nn.Sequential(nn.Linear(m // 2, 32), nn.ReLU(), nn.Linear(32, m))
    return S5.AffineCoupling(torch.arange(m) < m // 2, network)


@cache
def dependences(m: int) -> dict[str, Tensor]:
    """Return which z_i depends on which x_j, (m, m) bool, for a coupling and for stacks of MAF layers."""
    natural = torch.arange(m)
    mixed = torch.randperm(m, generator=torch.Generator().manual_seed(1))
    layers = {
        "coupling": [coupling(m)],
        "AR layer": [maf(natural)],
        "random order": [maf(mixed)],
        "two, opposite orders": [maf(natural), maf(natural.flip(0))],
    }
    flows = {name: redrawn(S6.Flow(part), seed=0) for name, part in layers.items()}
    return {
        name: checks.dependence(lambda x, flow=flow: flow(x)[0], (m,)).reshape(m, m)
        for name, flow in flows.items()
    }


@figure
def jacobians() -> Figure:
    """Draw which entries of the Jacobian of a coupling and of AR layers may differ from zero."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=4)
    for panel, (name, matrix) in zip(axes, dependences(8).items(), strict=True):
        draw_matrix(panel, matrix.double().numpy(), lambda value: BLUE if value else None)
        panel.set(title=name, xlabel=f"{int(matrix.sum())} entries")
    return figure


def draw_matrix(panel: Axes, values: np.ndarray, colour: object) -> None:
    """Draw a matrix as squares, row 1 on top; `colour` maps an entry to a colour, or to None for white."""
    draw_pixels(panel, values, colour)
    size = len(values)
    for edge in np.arange(size + 1) - 0.5:
        panel.plot([-0.5, size - 0.5], [edge, edge], color="white", linewidth=1)
        panel.plot([edge, edge], [-0.5, size - 0.5], color="white", linewidth=1)
    panel.spines[:].set(visible=True)


def inverse_in(layer: nn.Module, z: Tensor, sequence: list[int]) -> Tensor:
    """Return x of an AR layer when its coordinates are filled in the given sequence."""
    kept = layer.network.order.clone()
    layer.network.order.copy_(torch.as_tensor(sequence))
    x = layer.inverse(z)
    layer.network.order.copy_(kept)
    return x


@cache
def round_trips() -> dict[str, list[float]]:
    """Return max |x - g(f(x))| for three orders, when g follows the order and when it follows its inverse."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    errors: dict[str, list[float]] = {"right": [], "wrong": []}
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], RANDOM_ORDER):
        layer = redrawn(maf(torch.tensor(order)), seed=0)
        with torch.no_grad():
            z, _ = layer(x)
            for name, sequence in (("right", order), ("wrong", np.argsort(order).tolist())):
                errors[name].append((inverse_in(layer, z, sequence) - x).abs().max().item())
    return errors


def involutions(m: int) -> int:
    """Count the orders of m coordinates that are their own inverse."""
    return sum(all(p[p[i]] == i for i in range(m)) for p in itertools.permutations(range(m)))


@cache
@torch.no_grad()
def passes(kind: str, m: int, layers: int) -> list[int]:
    """Count by hooks the network passes of a density of a given x, and of a sample of m dimensions.

    `kind` is "MAF", "IAF", "RealNVP", or "MADE", the model of binary variables, which is no stack.
    """
    if kind == "MADE":
        model = S1.MADE(m, [4])
        networks, density, sample = [model], model.log_prob, lambda: model.sample(1)
    else:
        parts = {
            "MAF": lambda: maf(torch.arange(m), (4,)),
            "IAF": lambda: S6.IAF(S6.GaussianMADE(m, [4])),
            "RealNVP": lambda: coupling(m),
        }
        model = S6.Flow([parts[kind]() for _ in range(layers)])
        networks = [part.network for part in model.modules() if hasattr(part, "network")]
        density, sample = model.log_prob, lambda: model.sample(1, m)
    calls: list[int] = []
    for network in networks:
        network.register_forward_hook(lambda *_: calls.append(1))
    density(torch.zeros(1, m))
    scored = len(calls)
    sample()
    return [scored, len(calls) - scored]


# --- One layer, and what bends ----------------------------------------------------------------------------


@cache
def best_layer(first: int) -> Tensor:
    """Return the log-density of the best affine layer on the moons, nats, (POINTS, POINTS).

    Forward KL matches moments: each conditional has mean and variance of the data's. `first` is the
    coordinate that comes first, 0 or 1.
    """
    step = 2 * LIMIT / (POINTS - 1)
    p = MOONS.log_prob(plane(LIMIT)).exp().reshape(POINTS, POINTS)  # rows: the second coordinate
    p = p if first == 1 else p.T  # rows: the first coordinate of the order
    line = torch.linspace(-LIMIT, LIMIT, POINTS, dtype=torch.float64)
    marginal = p.sum(dim=1) * step
    mean = (marginal * line).sum() * step
    variance = (marginal * (line - mean) ** 2).sum() * step
    safe = marginal.clamp(min=1e-300)  # far out there are no data, and any conditional will do
    inner = (p * line).sum(dim=1) * step / safe
    spread = (p * (line - inner[:, None]) ** 2).sum(dim=1) * step / safe
    known = marginal > 1e-12
    inner, spread = torch.where(known, inner, 0.0), torch.where(known, spread, 1.0)
    log_first = torch.distributions.Normal(mean, variance.sqrt()).log_prob(line)
    log_second = torch.distributions.Normal(inner[:, None], spread.sqrt()[:, None]).log_prob(line)
    log_p = log_first[:, None] + log_second
    return log_p if first == 1 else log_p.T


@cache
def moons_kl() -> list[float]:
    """Return KL(data || model) in nats of the best layer in both orders and of five trained layers."""
    log_pi = MOONS.log_prob(plane(LIMIT))
    models = best_layer(0).flatten(), best_layer(1).flatten(), trained()["moons_5"]
    return [S4.divergences(log_pi, log_p, cell(LIMIT))["forward"].item() for log_p in models]


@figure
def one_layer() -> Figure:
    """Draw two moons, the best single affine layer in both orders, and a trained stack of five."""
    figure, axes = canvas(SLIDE_WIDTH, 180, columns=4)
    panels = {
        "data": MOONS.log_prob(plane(LIMIT)),
        "one layer, $x_1$ first": best_layer(0),
        "one layer, $x_2$ first": best_layer(1),
        "five layers": trained()["moons_5"],
    }
    for panel, (title, log_p) in zip(axes, panels.items(), strict=True):
        show_density(panel, log_p, LIMIT, reach=2.0, top=0.45)
        panel.set(title=title, xlabel="$x_1$", ylabel="$x_2$")
    return figure


def bent(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return density and distribution function of a conditional with two modes."""
    weights, means, scales = np.array([0.55, 0.45]), np.array([-1.4, 1.3]), np.array([0.45, 0.6])
    at = (x[:, None] - means) / scales
    return stats.norm.pdf(at) / scales @ weights, stats.norm.cdf(at) @ weights


@figure
def bend() -> Figure:
    """Draw a conditional with two modes, the normal of its moments, and both maps from x to z."""
    figure, (left, right) = canvas(SLIDE_WIDTH * 0.52, 185, columns=2)
    x = np.linspace(-3.6, 3.8, 700)
    density, cdf = bent(x)
    mean = np.trapezoid(x * density, x)
    scale = np.sqrt(np.trapezoid((x - mean) ** 2 * density, x))
    left.fill_between(x, density, color=PALE)
    left.plot(x, density, color=INK)
    left.plot(x, stats.norm.pdf(x, mean, scale), "--", color=RED)
    left.set(title="$p(x_i\\,|\\,x_{1:i-1})$", xlabel="$x_i$")
    hide_left(left)
    right.plot(x, special.ndtri(cdf), color=INK)
    right.plot(x, (x - mean) / scale, "--", color=RED)
    right.text(1.2, -2.2, "affine", color=RED)
    right.text(-3.4, 1.6, "bent", color=INK)
    right.set(title="$z_i$", xlabel="$x_i$", ylim=(-3, 3), yticks=[-2, 0, 2])
    return figure


# --- Batch norm -------------------------------------------------------------------------------------------

SIX = real([2.1, -3.0, 6.4, 0.3, -4.2, 3.1])[:, None]  # one feature of six examples


def normalise(x: Tensor) -> Tensor:
    """Normalise a batch (B, 1) by its own mean and variance, as every framework's layer in train mode."""
    return F.batch_norm(x, None, None, training=True, eps=1e-12)  # 0 is refused


@cache
def batch_norm_jacobian() -> Tensor:
    """Return the Jacobian of batch norm in train mode as a map of six numbers, (6, 6)."""
    return torch.autograd.functional.jacobian(normalise, SIX)[:, 0, :, 0]


def batch_norm_reported() -> float:
    """Return the log-slope, nats, that the layer reports if it takes mean and variance for constants."""
    return -0.5 * SIX.var(correction=0).log().item()


@figure
def batch_norm() -> Figure:
    """Draw the Jacobians of batch norm in train and in eval mode, and their singular values."""
    figure, axes = canvas(SLIDE_WIDTH, 155, columns=3, width_ratios=[1, 1, 1.4])
    train = batch_norm_jacobian()
    constant = torch.eye(6, dtype=torch.float64) / SIX.std(correction=0)
    top = train.abs().max().item()

    def colour(value: float) -> str | None:
        if abs(value) < 1e-12:
            return None
        share = round(0.15 + 0.85 * min(1, abs(value) / top), 2)
        base = np.array([0, 0x72, 0xB2]) if value > 0 else np.array([0xD5, 0x5E, 0])
        return "#" + "".join(f"{int(255 - share * (255 - part)):02x}" for part in base)

    for panel, title, matrix in zip(axes, ("train mode", "eval mode"), (train, constant), strict=False):
        draw_matrix(panel, matrix.numpy().round(9), colour)
        panel.set_title(f"$J$, {title}")
    for matrix, style, name in ((train, "o", "train mode"), (constant, "s", "eval mode")):
        values = torch.linalg.svdvals(matrix).clamp(min=0).numpy().round(9)
        colour_of = RED if style == "o" else BLUE
        axes[2].plot(range(1, 7), values, style, color=colour_of, label=name, markersize=8, fillstyle="none")
    axes[2].set(title="singular values", ylim=(-0.04, 0.5), xticks=range(1, 7))
    axes[2].legend(loc="upper right", ncols=2, borderaxespad=0)
    return figure


# --- Duality ----------------------------------------------------------------------------------------------

LOG_NORMAL = torch.distributions.Normal(real(0.0), real(1.0)).log_prob


def cut_off() -> float:
    """Return how many nats of the KL between codes and noise lie outside the window of the figure."""
    noise = LOG_NORMAL(plane(CODES_LIMIT)).sum(dim=1)
    inside = S4.divergences(trained()["moons_codes"], noise, cell(CODES_LIMIT))["forward"]
    return (trained()["dual"][1] - inside).item()


@figure
def duality() -> Figure:
    """Draw data and flow in the plane of x, codes of the data and noise in the plane of z."""
    figure, axes = canvas(SLIDE_WIDTH, 190, columns=4)
    noise = LOG_NORMAL(plane(CODES_LIMIT)).sum(dim=1)
    panels = (
        (r"$\pi(x)$", MOONS.log_prob(plane(LIMIT)), LIMIT, 2.0, 0.45),
        (r"$p(x\,|\,\theta)$", trained()["moons_2"], LIMIT, 2.0, 0.45),
        (r"$\pi_f(z)$", trained()["moons_codes"], CODES_LIMIT, 3.6, 0.2),
        ("$p(z)$", noise, CODES_LIMIT, 3.6, 0.2),
    )
    for panel, (title, log_p, limit, reach, top) in zip(axes, panels, strict=True):
        show_density(panel, log_p, limit, reach, top)
        panel.set_title(title)
    return figure


# --- A known posterior ------------------------------------------------------------------------------------


@cache
def log_posterior() -> Tensor:
    """Return the true log-posterior on its grid, nats, normalised by quadrature."""
    joint = log_joint(plane(POSTERIOR_LIMIT))
    return joint - torch.logsumexp(joint, 0) - np.log(cell(POSTERIOR_LIMIT))


def reverse_kl(log_q: Tensor) -> float:
    """Return KL(q || posterior) in nats of a log-density on the grid, by quadrature."""
    return S4.divergences(log_posterior(), log_q, cell(POSTERIOR_LIMIT))["reverse"].item()


@cache
def best_gaussian() -> Tensor:
    """Return the log-density of the best factorised normal on the grid, the best of three searches."""

    def log_q(u: np.ndarray) -> Tensor:
        normal = torch.distributions.Normal(real(u[:2]), real(np.exp(u[2:])))
        return normal.log_prob(plane(POSTERIOR_LIMIT)).sum(dim=1)

    starts = [[at, 0.5, -0.5, -0.5] for at in (-1, 0, 1)]
    found = [optimize.minimize(lambda u: reverse_kl(log_q(u)), start, method="BFGS") for start in starts]
    return log_q(min(found, key=lambda end: round(end.fun, 6)).x)


@cache
def posteriors() -> dict[str, Tensor]:
    """Return the approximations by name, log-densities on the grid."""
    return {"gaussian": best_gaussian()} | {name: trained()[f"posterior_{name}"] for name in POSTERIORS}


def posterior_kl() -> list[float]:
    """Return KL(q || posterior) in nats of each family; those of IAF by a window that holds the arms."""
    return [reverse_kl(best_gaussian()), *trained()["posterior_gaps"].tolist()]


@figure
def known_posterior() -> Figure:
    """Draw a posterior that is known, and the approximations by a normal and by IAF layers."""
    figure, axes = canvas(SLIDE_WIDTH, 165, columns=5)
    titles = ["true", "Gaussian", r"IAF, $\zeta_1$ first", r"IAF, $\zeta_2$ first", "IAF, 4 layers"]
    logs = [log_posterior(), *posteriors().values()]
    for panel, title, log_q in zip(axes, titles, logs, strict=True):
        show_density(panel, log_q, POSTERIOR_LIMIT, 2.6, 0.55)
        panel.set(title=title, xlabel=r"$\zeta_1$")
        panel.title.set_fontsize(15)
    axes[0].set_ylabel(r"$\zeta_2$")
    return figure


# --- Discrete data ----------------------------------------------------------------------------------------

FOUR = np.array([0.55, 0.10, 0.10, 0.25])  # probabilities of the four values of a pixel
TOY_WEIGHTS, TOY_MEANS = np.array([0.65, 0.35]), np.array([0.5, 3.2])
TOY_WIDTH = 0.4
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(60)
INSIDE = (NODES + 1) / 2  # nodes in a cell


def bits(p: np.ndarray) -> float:
    """Return the entropy of probabilities in bits."""
    return special.entr(p).sum() / np.log(2)


def toy_density(y: np.ndarray, width: float) -> np.ndarray:
    """Return the smooth density of a pixel with four levels, a mixture of two normals."""
    return stats.norm.pdf(y[..., None], TOY_MEANS, width) @ TOY_WEIGHTS


def cell_bits(width: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log2 of the mass of the four cells, exact, and E_u log2 p(x + u), by quadrature."""
    edges = stats.norm.cdf(np.arange(5)[:, None], TOY_MEANS, width) @ TOY_WEIGHTS
    points = np.arange(4)[:, None] + INSIDE  # (4, nodes)
    return np.log2(np.diff(edges)), np.log2(toy_density(points, width)) @ NODE_WEIGHTS / 2


@figure
def cells() -> Figure:
    """Draw a smooth density on four cells, mass and bound of each, and the gap against its width."""
    figure, (density, bars, gap) = canvas(SLIDE_WIDTH, 176, columns=3, width_ratios=[1.1, 1, 1])
    y = np.linspace(0, 4, 500)
    exact, lower = cell_bits(TOY_WIDTH)
    for k, colour in enumerate((SKY, ORANGE, GREEN, BLUE)):
        part = np.linspace(k, k + 1, 60)
        density.fill_between(part, toy_density(part, TOY_WIDTH), color=colour, alpha=0.45)
        bars.bar(k - 0.2, 2 ** exact[k], 0.38, color=colour)
        bars.bar(k + 0.2, 2 ** lower[k], 0.38, color=colour, alpha=0.45)
    density.plot(y, toy_density(y, TOY_WIDTH), color=INK)
    density.set(title="$p(x+u)$", xticks=range(5), xlim=(0, 4))
    hide_left(density)
    bars.set(title="$P(x)$; pale: $\\exp$ of the bound", xlabel="$x$", xticks=range(4))
    bars.title.set_fontsize(15)
    widths = np.geomspace(0.15, 2, 40)
    gaps = [FOUR @ np.subtract(*cell_bits(width)) for width in widths]
    gap.plot(widths, gaps, color=RED)
    gap.plot(TOY_WIDTH, FOUR @ (exact - lower), "o", color=RED, markersize=9)
    gap.axhline(0, color=INK, linewidth=1)
    gap.set(title="mean gap, bits", xlabel="width of the modes", ylim=(-0.05, None))
    return figure


def gaussian_claim(scale: float) -> float:
    """Return the best claim, bits, for a pixel of four levels with Gaussian noise: the entropy of the sum."""
    y = np.linspace(-6, 9, 60_001)
    p = stats.norm.pdf(y[:, None], np.arange(4), scale) @ FOUR
    return np.trapezoid(special.entr(p), y) / np.log(2)


@cache
def claims() -> list[float]:
    """Return the best claims in bits of uniform, half, two Gaussian noises, and of x / 255 + u / 256."""
    # Blocks that do not meet: entropy of the values plus log2 of the width of a block, in units of a cell.
    blocks = [bits(FOUR) + np.log2(width) for width in (1.0, 0.5)]
    return [*blocks, gaussian_claim(0.29), gaussian_claim(0.1), blocks[0]]


@figure
def wrong_noises() -> Figure:
    """Draw the density of a pixel of four levels after four noises."""
    figure, axes = canvas(SLIDE_WIDTH, 132, columns=4)
    titles = ["uniform", "half a cell", "Gaussian, $s=0.29$", "$x/3+u/4$"]
    for panel, title in zip(axes, titles, strict=True):
        panel.set_title(title)
        hide_left(panel)
    for panel, starts, width in (
        (axes[0], range(4), 1.0),
        (axes[1], range(4), 0.5),
        (axes[3], [0, 1 / 3, 2 / 3, 1], 0.25),
    ):
        for start, p in zip(starts, FOUR, strict=True):
            block = [start, start, start + width, start + width]
            panel.fill(block, [0, p / width, p / width, 0], color=SKY, edgecolor=BLUE, linewidth=1.2)
    y = np.linspace(-1, 4.2, 500)
    axes[2].fill_between(y, stats.norm.pdf(y[:, None], np.arange(4), 0.29) @ FOUR, color=SKY)
    axes[2].plot(y, stats.norm.pdf(y[:, None], np.arange(4), 0.29) @ FOUR, color=BLUE, linewidth=1.6)
    for panel in axes[:3]:
        panel.set(xlim=(-1, 4.3), xticks=range(5))
    axes[3].set(xlim=(-0.25, 1.45), xticks=[0, 1])
    for panel, edge in zip(axes, (4, 4, 4, 1), strict=True):
        panel.axvline(0, color=MUTED, linestyle=":", linewidth=1.2)
        panel.axvline(edge, color=MUTED, linestyle=":", linewidth=1.2)
    return figure


@figure
def raw_integers() -> Figure:
    """Draw claimed bits per dimension while a flow trains with and without noise, and samples of both."""
    figure, axes = canvas(SLIDE_WIDTH, 215, columns=6, rows=2, width_ratios=[4.4, *[1] * 5])
    grid = axes[0, 0].get_gridspec()
    for panel in axes[:, 0]:
        panel.remove()
    left = figure.add_subplot(grid[:, 0])
    for name, colour, label in (("noise_trace", BLUE, "uniform noise"), ("raw_trace", RED, "no noise")):
        steps, test, known = trained()[name].T
        left.plot(steps, test, color=colour, label=label)
        left.plot(steps, known, ":", color=INK, linewidth=1.6)
    left.axhline(0, color=INK, linewidth=1)
    left.set(title="claimed bits/dim (dots: training)", xlabel="steps", xlim=(0, None), ylim=(-7.5, 2.4))
    left.legend(loc="lower left")
    for row, name in zip(axes[:, 1:], ("noise_samples", "raw_samples"), strict=True):
        for panel, image in zip(row, trained()[name][:5].reshape(5, 8, 8), strict=True):
            paint(panel, image, levels=9)
    axes[0, 3].set_title("samples, uniform noise")
    axes[1, 3].set_title("samples, no noise")
    return figure


@figure
def samples() -> Figure:
    """Draw digits at 8 x 8, samples of a MAF and of the IAF distilled from it."""
    rows = {"digits": "digits_test", "MAF": "digits_maf", "IAF": "digits_student"}
    images = {name: trained()[key].reshape(-1, 8, 8)[:8] for name, key in rows.items()}
    return digits(images, SLIDE_WIDTH * 0.56, 185, levels=9)


# --- Units ------------------------------------------------------------------------------------------------

# Test log-likelihoods of MNIST's logits in nats, Papamakarios et al. 2017, Tables 1 and 2.
PUBLISHED = {
    "Gaussian": -1366.9,
    "MADE": -1380.8,
    "RealNVP (5)": -1323.2,
    "MAF (5)": -1300.5,
    "MAF (10)": -1313.1,
    "MADE MoG": -1038.5,
    "MAF MoG (5)": -1100.3,
}


@cache
def log_slope() -> float:
    """Return the log-slope of the logit in nats, mean over MNIST's test digits and, exactly, the noise."""
    counts = data.load_images("mnist").test.images.flatten().bincount(minlength=256).double()
    edge = EDGE + (1 - 2 * EDGE) * torch.linspace(0, 1, 257, dtype=torch.float64)  # r at the ends of cells
    # The integral of log r + log(1 - r) over a cell, per unit of u.
    integral = (torch.xlogy(edge, edge) - torch.xlogy(1 - edge, 1 - edge) - 2 * edge).diff()
    means = np.log(1 - 2 * EDGE) - integral / edge.diff()
    return (784 * (counts @ means) / counts.sum()).item()


def bits_of_logits(nats: float) -> float:
    """Return bits/dim of 8-bit MNIST from a mean log-density of its logits."""
    return -(nats + log_slope()) / (784 * np.log(2)) + 8


def counted(kind: str, m: int, layers: int) -> str:
    """Return the passes of a density and of a sample as the slides print them."""
    return " / ".join(f"{count:,}" for count in passes(kind, m, layers))


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    stored = trained()
    images = data.load_images("mnist")
    brightest = torch.stack([part.images.amax(dim=0) for part in (images.train, images.valid)]).amax(dim=0)
    exact, lower = cell_bits(TOY_WIDTH)
    entries = [int(dependences(64)[name].sum()) for name in ("coupling", "AR layer", "two, opposite orders")]
    with np.load(BASELINES) as known:
        baselines = [known["histogram_bits"], known["zlib_bits"]]
    thousands = [f"{count:,}" for count in entries]
    return {
        "entries": thousands,
        "involutions": involutions(6),
        "random_order": [i + 1 for i in RANDOM_ORDER],
        "round_trip_right": fixed(round_trips()["right"], 6),
        "round_trip_wrong": [*fixed(round_trips()["wrong"][:2], 6), fixed(round_trips()["wrong"][2], 2)],
        "passes_maf": [counted("MAF", 64, 5), counted("MAF", 784, 10)],
        "passes_iaf": [counted("IAF", 64, 5), counted("IAF", 784, 10)],
        "passes_realnvp": [counted("RealNVP", 64, 5), counted("RealNVP", 784, 10)],
        "passes_made": [counted("MADE", 64, 1), counted("MADE", 784, 1)],
        "layer_kl": fixed(moons_kl(), 2),
        "batch_norm_reported": fixed(batch_norm_reported(), 2),
        "dual": fixed(stored["dual"][:2], 3),
        "cut_off": scientific(cut_off()),
        "posterior_kl": fixed(posterior_kl(), 3),
        "constant_pixels": int((brightest == 0).sum()),
        "raw_bits": fixed(stored["raw_trace"][-1, 1:], 1),
        "raw_steps": f"{int(stored['raw_trace'][-1, 0]):,}",
        "noisy_bits": fixed(stored["noise_trace"][-1, 1], 2),
        "cell_exact": fixed(exact, 2),
        "cell_bound": fixed(lower, 2),
        "toy_exact": fixed(-FOUR @ exact, 2),
        "toy_bound": fixed(-FOUR @ lower, 2),
        "toy_entropy": fixed(bits(FOUR), 2),
        "log_slope": f"{log_slope():,.1f}",
        "maf_bits": fixed(bits_of_logits(PUBLISHED["MAF (10)"]), 2),
        "baselines": fixed(baselines, 3),
        "claims": fixed(claims(), 2),
        "top_value": fixed(1 + 1 / 256, 3),
        "small_baselines": fixed(stored["baseline_bits"], 3),
        "maf_small": fixed(stored["maf_bits"][:3], 3),
        "worst_digit": fixed(stored["maf_bits"][3], 0),
        "iaf_small": fixed(stored["student_bits"], 2),
        "student_kl": fixed(stored["student_kl"], 2),
        "student_loss": fixed(stored["student_loss"], 0),
        "teacher_samples": f"{TEACHER_SAMPLES:,}",
        "teacher_kl": fixed(stored["teacher_kl"], 0),
        "converted": fixed([bits_of_logits(nats) for nats in PUBLISHED.values()], 2),
    }
