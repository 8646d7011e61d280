"""Draw the figures of lecture 5, and compute the numbers that its slides print.

    python -m lectures.drawing lecture5 [FOLDER]

Layers come from seminar 5's definitions. Trained flows are drawn from arrays that `trained_flows.py` stored.
What the deck claims is tested in `tests/test_lecture5.py`.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from dgm_utils import nets, plot
from lectures.drawing import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PALE,
    RED,
    SLIDE_WIDTH,
    bare,
    canvas,
    digits,
    figure,
    fixed,
    scientific,
)
from lectures.lecture5 import trained_flows
from lectures.lecture5.trained_flows import (
    BANANA_LAYERS,
    ENERGY_LAYERS,
    GLOW,
    LEVELS,
    LIMIT,
    POINTS,
    TEMPERATURES,
    VAE_LAYERS,
    S,
)

FOLDER = Path(__file__).parent / "figures"
MARGIN = 0.05  # of the logit
real = partial(torch.tensor, dtype=torch.float64)


@cache
def stored(part: str) -> dict[str, np.ndarray]:
    """Return the arrays that a part of `trained_flows` stored."""
    with np.load(FOLDER / f"{part}.npz") as arrays:
        return dict(arrays)


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers."""
    return torch.Generator().manual_seed(seed)


# --- Planar and radial layers -----------------------------------------------------------------------------


def raw_planar(z: Tensor, u: Tensor, w: Tensor) -> Tensor:
    """Return z + u tanh(w.z) for any u, also one that folds; (..., 2)."""
    return z + u * torch.tanh(z @ w)[..., None]


def raw_radial(z: Tensor, beta: float, alpha: float = 1.0) -> Tensor:
    """Return z + beta / (alpha + r) z for any beta, with the centre at 0; (..., 2)."""
    return z + beta / (alpha + z.norm(dim=-1, keepdim=True)) * z


DIRECTION = torch.tensor([0.8, 0.6])


@figure
def planar_grids() -> Figure:
    """Draw a grid after a planar layer that stretches, one that squeezes, one that folds."""
    figure, axes = canvas(SLIDE_WIDTH, 138, columns=3)
    for panel, inner in zip(axes, (1.5, -0.9, -2.5), strict=True):
        warp = partial(raw_planar, u=inner * DIRECTION / 2, w=2 * DIRECTION)
        plot.warped_grid(panel, warp, reach=2, lines=13, color=RED if inner < -1 else BLUE, linewidth=0.9)
        valid = "not one to one" if inner < -1 else "one to one"
        panel.set(title=rf"$w^{{\top}}u={inner}$: {valid}".replace("-", "\N{MINUS SIGN}"))
        panel.set(xlim=(-3.3, 3.3), ylim=(-2.7, 2.7), aspect="equal", xticks=[], yticks=[])
    return figure


@figure
def radial_grids() -> Figure:
    """Draw a grid after a radial layer that pushes, one that pulls, one that turns the inside out."""
    figure, axes = canvas(SLIDE_WIDTH, 122, columns=3)
    for panel, beta in zip(axes, (3.0, -0.9, -3.0), strict=True):
        colour = RED if beta < -1 else BLUE
        plot.warped_grid(
            panel, partial(raw_radial, beta=beta), reach=2, lines=13, color=colour, linewidth=0.9
        )
        panel.plot(0, 0, "o", color=INK, markersize=5)
        panel.set(title=rf"$\beta={beta:g}\,\alpha$".replace("-", "\N{MINUS SIGN}"))
        reach = 4.4 if beta > 0 else 2.2 if beta > -1 else 1.1
        panel.set(xlim=(-1.25 * reach, 1.25 * reach), ylim=(-reach, reach), aspect="equal")
        panel.set(xticks=[], yticks=[])
    return figure


HALVINGS = (1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55)


def bisection_errors(c: float, halvings: tuple[int, ...] = HALVINGS) -> list[float]:
    """Return the largest error of s from s + c tanh(s), over 400 values of s, after so many halvings."""
    s = torch.linspace(-4, 4, 400, dtype=torch.float64)
    target, reach = s + c * torch.tanh(s), abs(c)
    return [
        (S.bisect(lambda s: s + c * torch.tanh(s), target, target - reach, target + reach, n) - s)
        .abs()
        .max()
        .item()
        for n in halvings
    ]


@figure
def planar_inverse() -> Figure:
    """Draw s + c tanh(s) for four c, and how fast bisection inverts it."""
    figure, (curves, error) = canvas(SLIDE_WIDTH, 165, columns=2)
    s = np.linspace(-4, 4, 401)
    for c, colour, style in ((2, BLUE, "-"), (0, MUTED, ":"), (-1, GREEN, "--"), (-2.5, RED, "-")):
        label = f"$c={c}$".replace("-", "\N{MINUS SIGN}")
        curves.plot(s, s + c * np.tanh(s), style, color=colour, label=label)
    curves.set(title=r"$\varphi(s)=s+c\,\tanh s$", xlabel="$s$", ylim=(-5, 5), xlim=(-4, 4))
    curves.set(xlim=(-4, 8), xticks=[-4, -2, 0, 2, 4])
    curves.legend(loc="right", labelspacing=0.2, handlelength=1.4)
    error.plot(HALVINGS, bisection_errors(2.0), "o-", color=BLUE)
    error.set(yscale="log", xlabel="halvings", title="error of $s$, $c=2$", yticks=[1, 1e-5, 1e-10, 1e-15])
    error.set_xticks([0, 10, 20, 30, 40, 50])
    error.minorticks_off()
    return figure


HAT_DRAWS = 200_000


def wrong_hat_share(d: int, power: int) -> float:
    """Return the share, in percent, of normal u, w with w.u_hat < -1 when u_hat divides by ||w||^power."""
    u, w = torch.randn(2, HAT_DRAWS, d, dtype=torch.float64, generator=seeded(d))
    inner = (u * w).sum(dim=1)
    correction = (F.softplus(inner) - 1 - inner)[:, None] * w / w.norm(dim=1, keepdim=True) ** power
    return 100 * ((w * (u + correction)).sum(dim=1) < -1).double().mean().item()


def side() -> np.ndarray:
    """Return the coordinates of the window of the planar flows."""
    return np.linspace(-LIMIT, LIMIT, POINTS)


def draw_density(panel: Axes, log_p: np.ndarray) -> None:
    """Draw a density on the window, relative to its maximum, rounded to settle ties."""
    values = np.exp(log_p - log_p.max()).round(4)
    panel.contourf(side(), side(), values, levels=np.linspace(0.05, 1.001, 6), cmap="Blues")
    panel.set(xticks=[], yticks=[], aspect="equal")


@cache
def energy_targets() -> Tensor:
    """Return the normalised log-densities of the four energies on the window, (4, POINTS, POINTS)."""
    log_p = -trained_flows.energies(trained_flows.grid().expand(4, -1, -1))
    return (log_p - trained_flows.log_mass(log_p)[:, None]).view(4, POINTS, POINTS)


@figure
def energies() -> Figure:
    """Draw the four energies, and planar flows of three depths that were fitted to each."""
    figure, axes = canvas(SLIDE_WIDTH, 174, columns=8, rows=2)
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02)
    for number, block in enumerate(np.split(axes, 4, axis=1)):
        pictures = {f"energy {number + 1}": energy_targets()[number].numpy()}
        pictures |= {f"$T={T}$": stored("planes")[f"energy_{T}"][number] for T in ENERGY_LAYERS}
        for panel, (name, log_p) in zip(block.flat, pictures.items(), strict=True):
            draw_density(panel, log_p)
            panel.set(xlim=(-4.6, 4.6), ylim=(-4.6, 4.6))
            panel.set_title(name, fontsize=14, pad=4)
    return figure


# --- Couplings --------------------------------------------------------------------------------------------


def box(axes: Axes, centre: tuple[float, float], size: tuple[float, float], text: str, colour: str) -> None:
    """Draw a rounded box with a text in it."""
    corner = centre[0] - size[0] / 2, centre[1] - size[1] / 2
    style = {"boxstyle": "round,pad=0,rounding_size=0.06", "linewidth": 1.6}
    axes.add_patch(FancyBboxPatch(corner, *size, facecolor="white", edgecolor=colour, **style))
    axes.text(*centre, text, ha="center", va="center")


def arrow(axes: Axes, *points: tuple[float, float], colour: str = INK) -> None:
    """Draw a line through points with an arrow head at the last."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs[:-1], ys[:-1], color=colour, linewidth=1.6, solid_capstyle="butt")
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=style)


@figure
def coupling() -> Figure:
    """Draw an affine coupling in both directions: what passes, what moves, and who decides how far."""
    figure, axes = canvas(SLIDE_WIDTH * 0.88, 135, columns=2)
    names = (("x", "z", r"$\times e^{s}$", "$+t$"), ("z", "x", "$-t$", r"$\times e^{-s}$"))
    for panel, (start, end, first, second), title in zip(
        axes, names, ("$f$, data to noise", "$g$, noise to data"), strict=True
    ):
        panel.set(xlim=(0, 6), ylim=(-0.2, 2.4), title=title)
        bare(panel)
        for height, half in ((2.0, "A"), (0.2, "B")):
            panel.text(0.25, height, f"${start}_{half}$", ha="center", va="center", fontsize=17)
            panel.text(5.75, height, f"${end}_{half}$", ha="center", va="center", fontsize=17)
        arrow(panel, (0.55, 2.0), (5.45, 2.0))
        arrow(panel, (1.3, 2.0), (1.3, 1.35))
        box(panel, (1.3, 1.1), (1.7, 0.5), "networks", BLUE)
        arrow(panel, (0.55, 0.2), (2.6, 0.2))
        box(panel, (3.0, 0.2), (0.8, 0.45), first, RED)
        arrow(panel, (3.4, 0.2), (4.1, 0.2))
        box(panel, (4.5, 0.2), (0.8, 0.45), second, RED)
        arrow(panel, (4.9, 0.2), (5.45, 0.2))
        left, right = ("s", "t") if start == "x" else ("t", "s")
        arrow(panel, (2.15, 1.2), (4.5, 1.2), (4.5, 0.43), colour=BLUE)
        arrow(panel, (2.15, 1.0), (3.0, 1.0), (3.0, 0.43), colour=BLUE)
        panel.text(2.85, 0.7, f"${left}$", ha="right", va="center", color=BLUE)
        panel.text(4.35, 0.8, f"${right}$", ha="right", va="center", color=BLUE)
    return figure


class WrongJoin(nn.Module):
    """Split interleaved, join as halves: a fault that two dimensions hide."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map towards the noise."""
        log_scale, shift = self.network(x[:, 0::2]).chunk(2, dim=1)
        return torch.cat([x[:, 0::2], x[:, 1::2] * log_scale.exp() + shift], 1), log_scale.sum(dim=1)

    def inverse(self, z: Tensor) -> Tensor:
        """Map towards the data, as its author believes."""
        log_scale, shift = self.network(z[:, 0::2]).chunk(2, dim=1)
        return torch.cat([z[:, 0::2], (z[:, 1::2] - shift) * (-log_scale).exp()], 1)


class WrongSign(S.AffineCoupling):
    """Multiply by e^s in both directions: a fault that a zero start hides."""

    def inverse(self, z: Tensor) -> Tensor:
        """Map towards the data, as its author believes."""
        log_scale, shift = self.scale_and_shift(z[:, self.kept])
        return z.index_copy(1, self.moved, (z[:, self.moved] - shift) * log_scale.exp())


FAULT_POINTS = 1000


def round_trip(fault: type[nn.Module], m: int, zero: bool) -> float:
    """Return the largest error of g(f(x)) - x of a coupling of m coordinates; its last layer may be zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(m)
        network = nets.mlp(m // 2, 16, m, activation=nn.Tanh).double()
        x = torch.randn(FAULT_POINTS, m, dtype=torch.float64)
    for parameter in network[-1].parameters():
        parameter.data *= not zero
    interleaved = torch.arange(m) % 2 == 0
    layer = fault(network) if fault is WrongJoin else fault(interleaved, network)
    with torch.no_grad():
        return (layer.inverse(layer(x)[0]) - x).abs().max().item()


def error_row(fault: type[nn.Module], zero: bool) -> list[str]:
    """Return round-trip errors for m = 2, 4, 6 as a slide prints them; below 10^-12 they are rounding."""
    return [f"{e:.1f}" if e > 1e-12 else "0" for e in (round_trip(fault, m, zero) for m in (2, 4, 6))]


def mixing_jacobian(couplings: int) -> Tensor:
    """Return the Jacobian of additive couplings with random networks on 8 coordinates, (8, 8)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        masks = [torch.arange(8) < 4, torch.arange(8) >= 4] * 2
        layers = [S.AdditiveCoupling(mask, nets.mlp(4, 16, 4, activation=nn.Tanh)) for mask in masks]
        x = torch.randn(1, 8, dtype=torch.float64)
    chain = S.Chain(layers[:couplings]).double()
    return torch.autograd.functional.jacobian(lambda x: chain(x)[0], x)[0, :, 0]


@figure
def mixing() -> Figure:
    """Draw which entries of the Jacobian of one to four couplings are not zero."""
    figure, axes = canvas(SLIDE_WIDTH, 155, columns=4)
    for panel, count in zip(axes, (1, 2, 3, 4), strict=True):
        for row, column in (mixing_jacobian(count).abs() > 1e-12).nonzero().tolist():
            panel.add_patch(Rectangle((column, row), 1, 1, facecolor=BLUE, edgecolor="white"))
        panel.plot([4, 4], [0, 8], [0, 8], [4, 4], color=MUTED, linewidth=1)
        panel.set(xlim=(0, 8), ylim=(8, 0), aspect="equal", title=f"after {count}")
        panel.set(
            xticks=[2, 6], xticklabels=["$x_A$", "$x_B$"], yticks=[2, 6], yticklabels=["$z_A$", "$z_B$"]
        )
        panel.tick_params(length=0)
        panel.spines[:].set_visible(True)
    return figure


def is_upper(points: np.ndarray) -> np.ndarray:
    """Return which points (n, 2) lie nearer to the upper moon than to the lower one."""

    def distance(points: np.ndarray) -> np.ndarray:
        x, y = points[:, 0] + 0.5, points[:, 1] + 0.25
        ends = np.hypot(np.abs(x) - 1, y)
        return np.where(y > 0, np.abs(np.hypot(x, y) - 1), ends)

    return distance(points) < distance(-points)


WINDOW = 4.3  # of the panels: every point lies in it


@figure
def layer_by_layer() -> Figure:
    """Draw the moons, and the same points after each of the couplings of a trained flow."""
    path = stored("moons")["path"]
    figure, axes = canvas(SLIDE_WIDTH, 240, columns=5, rows=2)
    upper = is_upper(path[0])
    panels = {"data $x$": path[0]} | {f"after {t}": points for t, points in enumerate(path[1:], start=1)}
    panels["sampled"] = stored("moons")["drawn"]
    for panel, (name, points) in zip(axes.flat, panels.items(), strict=True):
        groups = {BLUE: upper, ORANGE: ~upper} if name != "sampled" else {GREEN: slice(None)}
        for colour, group in groups.items():
            panel.plot(*points[group].T, "o", color=colour, markersize=2, alpha=0.7)
        panel.set_title(name, fontsize=15, pad=3)
        panel.set(xlim=(-WINDOW, WINDOW), ylim=(-WINDOW, WINDOW), aspect="equal", xticks=[], yticks=[])
    return figure


def board(axes: Axes, corner: tuple[float, float], values: Tensor, colours: list[str], text: bool) -> None:
    """Draw a square of fields (n, n) at a corner, each in its colour, perhaps with its number in it."""
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            place = corner[0] + column, corner[1] + row
            colour = colours[value] if text else colours[int(value)]
            axes.add_patch(Rectangle(place, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
            if text:
                axes.text(place[0] + 0.5, place[1] + 0.55, str(value), ha="center", va="center", fontsize=13)


@figure
def masks() -> Figure:
    """Draw a checkerboard mask, how a squeeze sorts sixteen pixels, and a channel mask."""
    figure, (checker, whole, squeezed, channel) = canvas(
        SLIDE_WIDTH, 155, columns=4, width_ratios=[4, 4, 5.2, 5.2]
    )
    board(checker, (0, 0), S.checkerboard(4, 4).int(), [PALE, BLUE], text=False)
    shades = ["#9fd0ec", "#f5cf80", "#8fd3bf", "#efb48f"]
    numbered = torch.arange(16).view(1, 1, 4, 4)
    groups = [shades[(n // 4 % 2) * 2 + n % 2] for n in range(16)]
    board(whole, (0, 0), numbered[0, 0], groups, text=True)
    parts = S.Squeeze()(numbered.float())[0][0].int()
    for number, part in enumerate(parts):
        place = (number % 2) * 2.4, (number // 2) * 2.4
        board(squeezed, place, part, groups, text=True)
        board(channel, place, torch.full((2, 2), int(number < 2)), [PALE, BLUE], text=False)
    titles = ("checkerboard", "$1\\times4\\times4$", "squeezed: $4\\times2\\times2$", "channel mask")
    for panel, title, size in zip((checker, whole, squeezed, channel), titles, (4, 4, 4.4, 4.4), strict=True):
        panel.set(xlim=(-0.1, size + 0.1), ylim=(size + 0.1, -0.1), aspect="equal", title=title)
        bare(panel)
    return figure


def named_shape(shape: tuple[int, int, int]) -> str:
    """Return a shape as it is written: 4 x 14 x 14."""
    return r"$" + r"\times".join(str(size) for size in shape) + "$"


@figure
def multiscale() -> Figure:
    """Draw the shapes in a Glow of two levels: what goes on, and what leaves as noise."""
    leaving, last = trained_flows.glow_flow().layers[1].shapes
    squeezed = leaving[0] * 2, *leaving[1:]
    figure, axes = canvas(SLIDE_WIDTH, 165)
    axes.set(xlim=(0, 14.4), ylim=(-1.15, 1.25))
    bare(axes)
    boxes = [
        (0.85, 0.55, 1.5, f"$x$\n{named_shape((1, 28, 28))}", INK),
        (3.35, 0.55, 1.9, f"squeeze\n{named_shape(squeezed)}", GREEN),
        (5.95, 0.55, 1.7, f"{GLOW['steps']} steps\nof flow", BLUE),
        (8.35, 0.55, 1.6, f"$h_1$\n{named_shape(leaving)}", INK),
        (10.75, 0.55, 1.7, f"squeeze\n{named_shape(last)}", GREEN),
        (13.2, 0.55, 1.7, f"{GLOW['steps']} steps\nof flow", BLUE),
    ]
    for (x, y, width, text, colour), following in zip(boxes, [*boxes[1:], None], strict=True):
        box(axes, (x, y), (width, 1.0), text, colour)
        if following:
            arrow(axes, (x + width / 2, y), (following[0] - following[2] / 2, y))
    for x, shape, name in ((5.95, leaving, "$z_1$"), (13.2, last, "$z_2$")):
        arrow(axes, (x, 0.05), (x, -0.3))
        box(axes, (x, -0.72), (1.9, 0.8), f"{name}\n{named_shape(shape)}", RED)
    axes.text(7.1, -0.72, "half of the channels leaves", color=MUTED, va="center")
    return figure


# --- Reloading --------------------------------------------------------------------------------------------


class LazyActNorm(S.ActNorm):
    """Initialise at the first batch in training mode, as public code does; the flag is a buffer or not."""

    def __init__(self, channels: int, kept: bool):
        super().__init__(channels)
        if kept:
            self.register_buffer("initialised", torch.tensor(False))
        else:
            self.initialised = torch.tensor(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map towards the noise."""
        if self.training and not self.initialised:
            S.normalise(self, x)
            self.initialised.fill_(True)
        return super().forward(x)


def actnorm_change(kept: bool) -> float:
    """Return the largest change of z when a trained ActNorm is loaded anew, in training mode."""
    trained, loaded = (LazyActNorm(8, kept).double() for _ in range(2))
    with torch.no_grad():
        trained(torch.randn(64, 8, 4, 4, generator=seeded(0)).double())
        for parameter in trained.parameters():  # training went on
            parameter.copy_(torch.randn(8, generator=seeded(1)) / 2)
    loaded.load_state_dict(trained.state_dict())
    x = torch.randn(64, 8, 4, 4, generator=seeded(2)).double()
    with torch.no_grad():
        return (loaded(x)[0] - trained(x)[0]).abs().max().item()


def conv_change(kept: bool) -> float:
    """Return the largest change of z when a 1x1 convolution is loaded into one of another seed."""
    layers = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers.append(S.InvertibleConv(8).double())
    first, second = layers
    state = first.state_dict()
    lost = () if kept else ("permutation", "signs")
    second.load_state_dict({name: value for name, value in state.items() if name not in lost}, strict=kept)
    x = torch.randn(64, 8, 4, 4, generator=seeded(2)).double()
    with torch.no_grad():
        return (first(x)[0] - second(x)[0]).abs().max().item()


# --- Pixels -----------------------------------------------------------------------------------------------


def level_shares() -> np.ndarray:
    """Return the share of every grey level in the 8 x 8 training digits."""
    counts = stored("digits")["counts"]
    return counts / counts.sum()


def clipped_masses() -> np.ndarray:
    """Return the share of pixels that clipping at the margin moves to its lower and to its upper edge."""
    return MARGIN * LEVELS * level_shares()[[0, -1]]


def clip_claim(width: float) -> float:
    """Return the bits/dim that spikes of a width on the two clipped points claim.

    Between the points the model is honest: the pooled frequencies, uniform in each cell.
    """
    edge, shares = clipped_masses(), level_shares()
    inside = shares.copy()
    inside[[0, -1]] -= edge
    spike = np.log(edge / (width * np.sqrt(2 * np.pi))) - np.log(MARGIN * (1 - MARGIN))
    log_p = edge @ spike + inside @ np.log(LEVELS * shares)
    return -log_p / np.log(2) + np.log2(LEVELS)


CLIP_WIDTHS = np.logspace(-6, -0.5, 12)


@figure
def clipped_logit() -> Figure:
    """Draw the affine and the clipped map to logits, and what spikes on the clipped points claim."""
    figure, (maps, claims) = canvas(SLIDE_WIDTH, 155, columns=2)
    y = torch.linspace(0, 1, 1001)
    maps.plot(y, torch.logit(y.clamp(MARGIN, 1 - MARGIN)), color=RED, label="clipped")
    maps.plot(y, S.Logit(MARGIN)(y[:, None])[0][:, 0], "--", color=BLUE, label="affine, then logit")
    maps.set(xlabel="$y$", title=r"$v(y)$, $\lambda=0.05$", xticks=[0, 0.5, 1], yticks=[-3, 0, 3])
    maps.legend(loc="lower right", handlelength=1.5, borderaxespad=0)
    claims.axhline(0, color=INK, linewidth=1.2)
    claims.axhline(stats.entropy(level_shares(), base=2), color=GREEN, linestyle="--")
    claims.text(1e-6, stats.entropy(level_shares(), base=2) + 1.2, "entropy of the values", color=GREEN)
    claims.plot(CLIP_WIDTHS, [clip_claim(width) for width in CLIP_WIDTHS], "o-", color=RED)
    claims.set(xscale="log", xlabel="width of the spike", title="claimed bits/dim", ylim=(-11, 7))
    claims.set_xticks([1e-6, 1e-4, 1e-2])
    claims.minorticks_off()
    return figure


@figure
def small_digits() -> Figure:
    """Draw test digits of 8 x 8, and samples of NICE and of RealNVP."""
    names = {"test": "test", "nice": "NICE", "realnvp": "RealNVP"}
    rows = {}
    for part, name in names.items():
        images = stored("digits")[part][:20] / (LEVELS - 1)
        rows |= {name: images[:10], " " * len(rows): images[10:]}
    return digits(rows, SLIDE_WIDTH * 0.53, 235, levels=LEVELS)


def grey_rows(rows: dict[str, np.ndarray], height: float, levels: int = LEVELS) -> Figure:
    """Draw rows of 28 x 28 images of 16 grey levels, perhaps in fewer."""
    scaled = {name: row / (LEVELS - 1) for name, row in rows.items()}
    return digits(scaled, SLIDE_WIDTH, height, levels)


@figure
def glow_samples() -> Figure:
    """Draw test digits, and samples of the shipped Glow at three temperatures."""
    arrays = stored("glow")
    return grey_rows(
        {"test": arrays["test"]} | {rf"$\tau={t:g}$": arrays[f"drawn_{t}"] for t in TEMPERATURES},
        height=225,
    )


@figure
def codes() -> Figure:
    """Draw test digits that went to their codes and back, half of the code redrawn, a path of codes."""
    names = {
        "returned": "$g(f(y))$",
        "fine_redrawn": "new $z_1$",
        "coarse_redrawn": "new $z_2$",
        "path": "a path",
    }
    return grey_rows({name: stored("glow")[part] for part, name in names.items()}, height=225)


# --- Flows as posteriors ----------------------------------------------------------------------------------


@figure
def wrong_prior() -> Figure:
    """Draw bound and faulty objective against the log-scale of a coordinate that the decoder ignores."""
    figure, axes = canvas(SLIDE_WIDTH * 0.48, 175)
    a = np.linspace(-1.5, 1.5, 301)
    axes.axhline(0, color=INK, linewidth=1.6)
    axes.plot(a, a, "--", color=RED)
    axes.plot(a, right_bound(a), color=BLUE)
    axes.text(-1.5, 0.08, r"$\log p(x)$", va="bottom")
    axes.text(0.95, 1.15, "prior at $z_0$", color=RED, ha="right", va="bottom")
    axes.text(0.75, -1.5, "prior at $z_T$", color=BLUE, ha="right", va="top")
    axes.set(xlabel="log-scale $a$ of the layer", title=r"objective $-\;\log p(x)$, nats", ylim=(-2.2, 1.7))
    axes.set(xticks=[-1, 0, 1], yticks=[-2, -1, 0, 1])
    return figure


def right_bound(a: np.ndarray) -> np.ndarray:
    """Return the bound minus log p(x) when a coordinate without data has q = N(0, e^2a) and prior N(0, 1)."""
    return -(np.exp(2 * a) - 1 - 2 * a) / 2


@cache
def banana_posterior() -> Tensor:
    """Return the exact log-posterior on the window, (POINTS, POINTS)."""
    log_p = -trained_flows.banana(trained_flows.grid())
    return (log_p - trained_flows.log_mass(log_p)).view(POINTS, POINTS)


@figure
def banana() -> Figure:
    """Draw a posterior that is known, the Gaussian and the planar flows fitted to it."""
    figure, axes = canvas(SLIDE_WIDTH, 140, columns=5, sharey=True)
    pictures = {"exact posterior": banana_posterior().numpy()}
    pictures |= {f"$T={T}$": stored("planes")[f"banana_{T}"] for T in (0, 2, 4, 16)}
    for panel, (name, log_p) in zip(axes, pictures.items(), strict=True):
        draw_density(panel, log_p)
        panel.set_title(name)
        panel.set(xlim=(-2.2, 2.2), ylim=(-1.9, 2.5))
    return figure


GAP, SLOPES = 2.0, (2, 8, 32)  # between two islands of length 1; largest slopes of g


def shore(slope: float) -> float:
    """Return the noise z > 0 that a map of this slope in the middle carries to the shore, GAP / 2."""
    return GAP / (2 * slope)


def to_islands(z: np.ndarray, slope: float) -> np.ndarray:
    """Return g(z): steep over the gap, then the tail of the noise spread evenly over an island."""
    edge = shore(slope)
    tail = stats.norm.sf(np.abs(z).clip(min=edge)) / stats.norm.sf(edge)  # 1 at the shore, 0 far out
    return np.where(np.abs(z) < edge, slope * z, np.sign(z) * (GAP / 2 + 1 - tail))


def island_density(x: np.ndarray, slope: float) -> np.ndarray:
    """Return the density of g(z) for normal z."""
    distance = np.abs(x)
    bridge = stats.norm.pdf(x / slope) / slope
    island = np.where(distance < GAP / 2 + 1, stats.norm.sf(shore(slope)), 0.0)
    return np.where(distance < GAP / 2, bridge, island)


@figure
def bridge() -> Figure:
    """Draw the maps with the thinnest bridge between two islands for three slopes, and their densities."""
    figure, axes = canvas(SLIDE_WIDTH, 128, columns=4)
    z, x = np.linspace(-3, 3, 1201), np.linspace(-2.3, 2.3, 1151)
    for slope, colour, style in zip(SLOPES, (GREEN, BLUE, RED), ("--", "-", ":"), strict=True):
        axes[0].plot(z, to_islands(z, slope), style, color=colour)
    axes[0].set(title="$x=g(z)$", xlabel="$z$", xticks=[-2, 0, 2], yticks=[-2, -1, 1, 2])
    for panel, slope, colour in zip(axes[1:], SLOPES, (GREEN, BLUE, RED), strict=True):
        panel.fill_between(x, island_density(x, slope), color=colour, linewidth=0)
        panel.set(title=rf"$\lambda={slope}$", xlabel="$x$", ylim=(0, 0.55), yticks=[0, 0.5])
        panel.set_xticks([-2, -1, 1, 2])
    return figure


def bridge_mass(slope: float) -> float:
    """Return the mass between the islands in percent."""
    return 100 * (2 * stats.norm.cdf(shore(slope)) - 1)


@figure
def vae_samples() -> Figure:
    """Draw samples of VAEs that differ in the depth of their posterior."""
    rows = {f"$T={T}$": stored("vae")[f"drawn_{T}"] for T in VAE_LAYERS}
    return grey_rows(rows, height=148, levels=8)


def vae_rows() -> dict[str, list[str]]:
    """Return bounds, estimates of log p and paired gains over no layer, as a slide prints them."""

    def printed(values: np.ndarray) -> str:
        return " ± ".join(fixed([values.mean(), values.std(ddof=1) / len(values) ** 0.5], 2))

    arrays = stored("vae")
    first, *others = VAE_LAYERS
    gains = [arrays[f"log_p_{T}"] - arrays[f"log_p_{first}"] for T in others]
    losses = [arrays[f"log_p_{T}"] - arrays[f"elbo_{T}"] for T in VAE_LAYERS]
    return {
        "elbo": fixed([arrays[f"elbo_{T}"].mean() for T in VAE_LAYERS], 1),
        "log_p": fixed([arrays[f"log_p_{T}"].mean() for T in VAE_LAYERS], 1),
        "gain": [printed(gain) for gain in gains],
        "loss": [printed(loss) for loss in losses],
    }


# --- Numbers on the slides --------------------------------------------------------------------------------

CONV_CHANNELS, CONV_SIDE = 48, 8  # an example of a level of Glow


def spaced(value: int) -> str:
    """Return an integer with thin gaps between its thousands."""
    return f"{value:,}".replace(",", "\N{THIN SPACE}")


def with_error(mean_and_error: np.ndarray, digits: int) -> dict[str, str]:
    """Return a measured mean and its standard error as a slide prints them."""
    return {"mean": fixed(mean_and_error[0], digits), "error": fixed(mean_and_error[1], digits)}


def rounds_to_minus_one() -> float:
    """Return the largest c, to 0.01, for which softplus(c) - 1 is -1 in single precision."""
    c = torch.linspace(-20, -10, 1001, dtype=torch.float32)
    return c[F.softplus(c) - 1 == -1].max().item()


def encoder_multiplications(layers: int) -> int:
    """Return the multiplications of the VAE's encoder for an image, with so many planar layers to fill."""
    return sum(
        weight.numel() for weight in trained_flows.flow_vae(layers).encoder.parameters() if weight.ndim > 1
    )


def parameter_count(scaled: bool) -> int:
    """Return the number of parameters of RealNVP on small digits if `scaled`, else of NICE."""
    return sum(parameter.numel() for parameter in trained_flows.digit_flow(scaled).parameters())


def glow_numbers(large: dict[str, np.ndarray]) -> dict[str, object]:
    """Return what is printed of the shipped Glow: bits, what the way back loses, what leaves the cube."""
    judged = int(large["judged"])
    inside = round(judged * (1 - large["images_outside"][0]))
    return {
        "glow_parameters": spaced(int(large["parameters"])),
        "glow_bits": with_error(large["bits"], 3),
        "glow_judged": spaced(judged),
        "glow_round_trip": scientific(float(large["round_trip"])),
        "glow_changed": int(large["levels_changed"]),
        "glow_pixels": spaced(judged * 784),
        "glow_outside": with_error(100 * large["pixels_outside"], 2),
        "glow_images_outside": f"{inside} of {spaced(judged)} images wholly inside",
    }


def numbers() -> dict[str, object]:
    """Compute every number that the slides print and that is not a published result."""
    moons, small, planes, large, runs = map(stored, ("moons", "digits", "planes", "glow", "vae"))
    energy_kl = {T: planes[f"energy_kl_{T}"] for T in ENERGY_LAYERS}
    banana_kl = {T: planes[f"banana_kl_{T}"] for T in BANANA_LAYERS}
    leaving = [int(np.prod(shape)) for shape in trained_flows.glow_flow().layers[1].shapes]
    claims = [clip_claim(width) for width in (1e-1, 1e-3, 1e-5)]
    return {
        "wrong_hat": fixed([wrong_hat_share(d, power=1) for d in (2, 4, 16)], 1),
        "right_hat": fixed([wrong_hat_share(d, power=2) for d in (2, 4, 16)], 1),
        "hat_draws": spaced(HAT_DRAWS),
        "hat_rounds": fixed(rounds_to_minus_one(), 1),
        "hat_error": fixed(100 * 0.5 / HAT_DRAWS**0.5, 1),
        **{f"energies_{T}": [" ± ".join(fixed(row, 3)) for row in kl] for T, kl in energy_kl.items()},
        "heat_start": trained_flows.HEAT_START,
        "fault_join": error_row(WrongJoin, zero=False),
        "fault_join_zero": error_row(WrongJoin, zero=True),
        "fault_sign": error_row(WrongSign, zero=False),
        "fault_sign_zero": error_row(WrongSign, zero=True),
        "fault_none": error_row(S.AffineCoupling, zero=False),
        "fault_points": spaced(FAULT_POINTS),
        "volume_cost": fixed((0.01 - 1 - np.log(0.01)) / 2, 2),
        "moons": with_error(moons["nats"], 3),
        "moons_kl": with_error(moons["kl"], 4),
        "glow_counts": [str(count) for count in leaving],
        "glow_steps": GLOW["levels"] * GLOW["steps"],
        **glow_numbers(large),
        "actnorm_reload": fixed([actnorm_change(kept) for kept in (True, False)], 1),
        "conv_reload": fixed([conv_change(kept) for kept in (True, False)], 1),
        "conv_multiply": spaced(2 * CONV_CHANNELS**2 * CONV_SIDE**2),
        "conv_lu": spaced(round(2 / 3 * CONV_CHANNELS**3)),
        "conv_brute": scientific(2 / 3 * (CONV_CHANNELS * CONV_SIDE**2) ** 3),
        "logit_bits": fixed(small["logit_bits"], 2),
        "clip_share": fixed(100 * clipped_masses()[0], 0),
        "clip_claims": fixed(claims, 2),
        "clip_entropy": fixed(stats.entropy(level_shares(), base=2), 2),
        "small_baselines": fixed([small["zlib"], small["pixels"]], 3),
        "small_nice": with_error(small["nice_bits"], 3),
        "small_realnvp": with_error(small["realnvp_bits"], 3),
        "small_sizes": [spaced(parameter_count(scaled)) for scaled in (False, True)],
        "small_steps": spaced(trained_flows.DIGIT_STEPS),
        "large_baselines": fixed([small["large_16_zlib"], small["large_16_pixels"]], 3),
        "published_baselines": fixed([small["large_256_zlib"], small["large_256_pixels"]], 2),
        "amortised_outputs": spaced(2 * 40 + 16 * (2 * 40 + 1)),
        "banana_log_p": fixed(float(trained_flows.log_mass(-trained_flows.banana(trained_flows.grid()))), 2),
        "banana_gaps": fixed([np.median(kl[:, 0]) for kl in banana_kl.values()], 3),
        "banana_least": fixed([kl[:, 0].min() for kl in banana_kl.values()], 3),
        "banana_most": fixed([kl[:, 0].max() for kl in banana_kl.values()], 3),
        "banana_error": fixed(max(kl[:, 1].max() for kl in banana_kl.values()), 3),
        "bridge_mass": fixed([bridge_mass(slope) for slope in SLOPES], 1),
        "vae_tested": spaced(trained_flows.TESTED),
        "vae_weights": trained_flows.WEIGHTS,
        "encoder_cost": [spaced(encoder_multiplications(T)) for T in (0, 16)],
        "vae_latent": int(runs["latent"]),
        "vae_batch": int(runs["batch"]),
        "vae_steps": spaced(int(runs["steps"])),
        "vae_passes": fixed(runs["steps"] * runs["batch"] / runs["images"], 1),
        **{f"vae_{kind}": values for kind, values in vae_rows().items()},
        "bridge_bound": fixed([2 * stats.norm.cdf(ratio / 2) - 1 for ratio in (2, 1, 0.1, 0.01)], 3),
    }
