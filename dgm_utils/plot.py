"""Figures in one style: readable from the last row, safe for colour-blind eyes, with alternative text.

Every function returns a `matplotlib.figure.Figure` that pyplot does not know. As the last expression of a
cell it is shown once, and its alternative text stands in the metadata of the output: ``alt``, or a text that
describes the data. Inside a loop, write ``display(plot.images(x))``. ``properties`` are whatever matplotlib's
``Axes.set`` takes: title, xlabel, ylabel, xlim, yscale. With ``ax`` a function draws there and returns the
figure that holds it:

>>> figure, (left, right) = subplots(1, 2)
>>> _ = matrix(torch.eye(3), ax=left, title="identity")
>>> figure = histogram(torch.zeros(10), ax=right)
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from torch import Tensor

Array = Tensor | np.ndarray | Sequence

# Okabe and Ito's colours, which stay apart under every common kind of colour blindness, strong ones first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
PLANE = {"xlabel": "$x_1$", "ylabel": "$x_2$"}
EMPTY = "an empty figure"  # alternative text until something is drawn


def style() -> None:
    """Set matplotlib's defaults to the course's style; importing this module does so once."""
    mpl.rc("font", size=14)
    mpl.rc("figure", dpi=100)
    mpl.rc("lines", linewidth=2)
    mpl.rc("axes", prop_cycle=mpl.cycler(color=PALETTE))
    mpl.rc("axes.spines", top=False, right=False)
    mpl.rc("legend", frameon=False)
    mpl.rc("image", cmap="cividis")


style()


# --------------------------------------------------------------------------- figures, and how they are shown
def subplots(rows: int = 1, columns: int = 1, *, width: float = 5, height: float = 4) -> tuple[Figure, Any]:
    """Return a new figure and its axes, as ``pyplot.subplots`` does, each ``width`` by ``height`` inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return describe(figure, EMPTY), figure.subplots(rows, columns)


def describe(figure: Figure, alt: str) -> Figure:
    """Attach the alternative text ``alt`` to ``figure``, one of pyplot's or not, and return it.

    A notebook then shows the figure once, also where it is one of pyplot's and the last expression of a cell.

    Raises:
        ValueError: for an empty text.
    """
    if not alt.strip():
        raise ValueError("expected a sentence that says what the figure shows, got an empty text")
    figure._alt = alt
    figure._repr_mimebundle_ = partial(_mimebundle, figure)
    return figure


def _mimebundle(figure: Figure, include=None, exclude=None) -> tuple[dict, dict]:
    """Give IPython the picture and its alternative text."""
    from IPython.core.pylabtools import print_figure  # a notebook has it; a script does without

    if "matplotlib.pyplot" in sys.modules:  # else pyplot shows its figure once more when the cell ends
        sys.modules["matplotlib.pyplot"].close(figure)
    return {"image/png": print_figure(figure, base64=True)}, {"image/png": {"alt": figure._alt}}


def _axes(ax: Axes | None, width: float = 7, height: float = 4.5) -> Axes:
    return subplots(width=width, height=height)[1] if ax is None else ax


def _finish(ax: Axes, alt: str | None, default: str, properties: Mapping) -> Figure:
    """Set the properties of the axes, add to the alternative text of the figure's other axes, return it."""
    ax.set(**properties)
    figure, title = ax.get_figure(root=True), ax.get_title()
    alt = alt or (f"{title}: {default}" if title else default)
    said = getattr(figure, "_alt", EMPTY)
    return describe(figure, alt if said == EMPTY else f"{said}; {alt}")


def _array(values: Array) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


# -------------------------------------------------------------------------------------- images and training
# curves
def images(
    batch: Array,
    *,
    columns: int = 10,
    titles: Sequence = (),
    rows: Sequence[str] = (),
    ax: Axes | None = None,
    alt: str | None = None,
    **properties: Any,
) -> Figure:
    """Draw images in a grid, row by row.

    ``batch`` is ``(N, H, W)`` or ``(N, C, H, W)``, one or three channels, uint8 in 0..255 or any other type
    in [0, 1]. ``titles`` stand above the images, ``rows`` at the left of the rows.

    Raises:
        ValueError: for another shape, or for values outside the range.
    """
    pixels = _array(batch)
    shape = pixels.shape
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"expected images (N, H, W) or (N, 1 or 3, H, W), got {shape}")
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(float)
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN fails as well
        raise ValueError(f"expected uint8 or values in [0, 1], got {pixels.min():.4g} to {pixels.max():.4g}")
    n, channels, height, width = pixels.shape
    columns, gap = min(columns, n), math.ceil(height / 28)
    lines, inches = math.ceil(n / columns), min(10, 1.6 * columns)
    above = (
        math.ceil(0.25 * columns * (width + gap) / inches) if titles else 0
    )  # a quarter of an inch of text
    canvas = np.ones((lines * (height + gap + above) + gap, columns * (width + gap) + gap, channels))
    space = 0.5 if "title" in properties else 0
    ax = _axes(ax, inches, inches * canvas.shape[0] / canvas.shape[1] + space)
    for k, (image, text) in enumerate(zip(pixels, titles or [""] * n, strict=True)):
        y, x = k // columns * (height + gap + above) + above + gap, k % columns * (width + gap) + gap
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)
        ax.text(x + width / 2, y - gap, text, ha="center", va="bottom", fontsize=12)
    ax.imshow(canvas.squeeze(2) if channels == 1 else canvas, cmap="gray", vmin=0, vmax=1)
    centres = [(line + 0.5) * (height + gap + above) + above / 2 for line in range(len(rows))]
    ax.set(xticks=[], yticks=centres, yticklabels=rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    default = f"{n} images of {height} by {width} pixels in {lines} rows of {columns}"
    return _finish(ax, alt, default + (f" ({', '.join(rows)})" if rows else ""), properties)


def curves(
    history: Mapping[str, Sequence[tuple[float, float]]],
    *names: str,
    ax: Axes | None = None,
    alt: str | None = None,
    **properties: Any,
) -> Figure:
    """Draw training curves from what ``train.fit`` returned: ``name -> list of (epoch, value)``.

    ``names`` picks curves (all but ``seconds`` by default). Values of every step are drawn pale, with their
    moving average over a fiftieth of the training; ``valid/...`` are points. ``train/x`` and ``valid/x``
    share a colour.

    Raises:
        KeyError: for a name that is not in the history.
    """
    names = names or tuple(name for name in history if name != "seconds")
    if missing := [name for name in names if name not in history]:
        raise KeyError(f"no {missing} in this history, it has {list(history)}")
    terms = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    ax, said = _axes(ax), []
    for name in names:
        k = terms.index(name.rpartition("/")[2])
        color, marker = PALETTE[k % 8], MARKERS[k % 8] if name.startswith("valid/") else ""
        epoch, value = np.array(history[name], dtype=float).T
        window = max(1, len(value) // 50)
        if window > 1:
            ax.plot(epoch, value, color=color, alpha=0.25, lw=1)
        mean = np.convolve(value, np.full(window, 1 / window), mode="valid")
        line = "--" if marker else "-"
        ax.plot(epoch[window - 1 :], mean, line, marker=marker, color=color, label=name)
        said.append(f"{name} goes from {value[0]:.4g} to {value[-1]:.4g}")
    ax.legend()
    return _finish(ax, alt, ", ".join(said), {"xlabel": "epoch"} | properties)


class live:  # noqa: N801 -- used as a function: fit(..., on_epoch=plot.live("train/loss"))
    """Draw training curves while ``train.fit`` runs: ``fit(..., on_epoch=plot.live("train/loss"))``.

    One display is updated, and the last figure stays behind. Drawing takes a tenth of the time at most. Takes
    the names and the options of `curves`. Silent outside of a notebook.
    """

    def __init__(self, *names: str, **options: Any):
        self.names, self.options, self.display, self.due = names, options, None, 0.0

    def __call__(self, epoch: int, history: Mapping) -> None:
        """Draw the history, if the last drawing was long enough ago."""
        self.shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        if not hasattr(self.shell, "kernel"):
            return
        self.history = history
        if self.display is None:
            self.display = sys.modules["IPython"].display.DisplayHandle()
            self.shell.events.register("post_run_cell", self._leave)
            self._show(self.display.display)
        elif time.monotonic() >= self.due:
            self._show(self.display.update)

    def _show(self, show: Callable[[Figure], None]) -> None:
        started = time.monotonic()
        show(curves(self.history, *self.names, **self.options))
        self.due = time.monotonic() + 10 * (time.monotonic() - started)

    def _leave(self, _result: Any) -> None:
        """Show the whole history when the cell has run, whether or not it failed, and start afresh."""
        self.shell.events.unregister("post_run_cell", self._leave)
        self._show(self.display.update)
        self.display = None


# ------------------------------------------------------------------------------- densities, points and
# matrices
def density(
    log_prob: Callable[[Tensor], Tensor],
    limits: tuple[float, float] = (-4, 4),
    *,
    device: torch.device | str = "cpu",
    ax: Axes | None = None,
    alt: str | None = None,
    **properties: Any,
) -> Figure:
    """Draw exp(log_prob), ``(B, 2)`` to ``(B,)`` in nats, on the square ``limits`` x ``limits``.

    Raises:
        ValueError: if ``log_prob`` returns another shape.
    """
    line = torch.linspace(*limits, 200, device=device)
    points = torch.cartesian_prod(line, line).flip(1)  # x_1 runs fastest: a row of the picture
    with torch.no_grad():
        values = log_prob(points)
    if values.shape != points.shape[:1]:
        raise ValueError(f"expected log_prob of shape {tuple(points.shape[:1])}, got {tuple(values.shape)}")
    ax = _axes(ax, 5.5, 4.5)
    p = _array(values.exp())
    picture = ax.imshow(p.reshape(200, 200), origin="lower", extent=(*limits, *limits))
    ax.get_figure().colorbar(picture, ax=ax, shrink=0.8)
    x, y = points[p.argmax()].tolist()
    return _finish(ax, alt, f"density, highest ({p.max():.3g}) at ({x:.2g}, {y:.2g})", PLANE | properties)


def scatter(
    *samples: Array, labels: Sequence = (), ax: Axes | None = None, alt: str | None = None, **properties: Any
) -> Figure:
    """Draw sets of points ``(n, 2)``, each with its own colour and marker and, if given, its label.

    Raises:
        ValueError: for another shape.
    """
    ax, said = _axes(ax, 6.5 if labels else 5, 4.5), []
    for k, points in enumerate(map(_array, samples)):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"expected points (n, 2), got {points.shape}")
        # With more sets than colours the markers differ when the colours start again.
        color, marker, size = PALETTE[k % 8], MARKERS[(k + k // 8) % 8], np.clip(4000 / len(points), 4, 30)
        ax.scatter(
            *points.T, s=size, c=color, marker=marker, alpha=0.6, lw=0, label=labels[k] if labels else ""
        )
        name = f" of {labels[k]}" if labels else ""
        said.append(
            f"{len(points)} points{name} around ({points[:, 0].mean():.2g}, {points[:, 1].mean():.2g})"
        )
    if labels:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    return _finish(ax, alt, ", ".join(said), PLANE | {"aspect": "equal"} | properties)


def ellipse(ax: Axes, mean: Array, covariance: Array, radius: float = 1.0, **style: Any) -> Ellipse:
    """Draw where a Gaussian in the plane is ``radius`` standard deviations from its mean; return the patch.

    ``mean`` is ``(2,)``, ``covariance`` ``(2, 2)``, or ``(2,)`` for variances alone. ``style`` is whatever
    matplotlib's patches take: color, linestyle, label; ``fill=True`` fills.
    """
    covariance = _array(covariance).astype(float)
    variances, axes = np.linalg.eigh(covariance if covariance.ndim == 2 else np.diag(covariance))
    angle = math.degrees(math.atan2(*axes[::-1, 1]))
    width, height = 2 * radius * np.sqrt(variances[::-1])
    patch = Ellipse(_array(mean), width, height, angle=angle, **{"fill": False, "linewidth": 2} | style)
    ax.add_patch(patch)
    ax.autoscale_view()
    return patch


def warped_grid(
    ax: Axes, transform: Callable[[Tensor], Tensor], *, reach: float = 2.5, lines: int = 11, **style: Any
) -> None:
    """Draw where ``transform``, ``(n, 2) -> (n, 2)``, carries a square grid from -reach to reach.

    ``lines`` run in each direction; ``style`` is whatever matplotlib's ``plot`` takes.
    """
    along = torch.linspace(-reach, reach, 200)
    for tick in torch.linspace(-reach, reach, lines):
        line = torch.stack([along, tick.expand(200)], 1)
        for points in (line, line.flip(1)):
            with torch.no_grad():
                ax.plot(*_array(transform(points)).T, **{"color": PALETTE[0], "linewidth": 0.8} | style)


def matrix(
    values: Array,
    *,
    numbers: str | None = None,
    ax: Axes | None = None,
    alt: str | None = None,
    **properties: Any,
) -> Figure:
    """Draw a matrix, row 0 at the top: a mask, a Jacobian (output by input), a table of probabilities.

    ``numbers`` writes every value into its field, in the given format: ``numbers=".2f"``.

    With negative values the colours are symmetric about zero, blue below and red above.

    Raises:
        ValueError: unless ``values`` has two axes.
    """
    array = _array(values).astype(float)
    if array.ndim != 2:
        raise ValueError(f"expected a matrix, got shape {array.shape}")
    (rows, columns), top, signed = array.shape, np.abs(array).max(), array.min() < 0
    look = {"cmap": "RdBu_r", "vmin": -top, "vmax": top} if signed else {"vmin": 0, "vmax": top or 1}
    ax = _axes(ax, 5.5, 4.5)
    aspect = "equal" if 1 / 4 < rows / columns < 4 else "auto"
    picture = ax.imshow(array, interpolation="nearest", aspect=aspect, **look)
    ax.get_figure().colorbar(picture, ax=ax, shrink=0.8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    if numbers is not None:
        shade = picture.cmap(picture.norm(array))[..., :3] @ (0.3, 0.59, 0.11)  # luminance
        for (i, j), value in np.ndenumerate(array):
            ax.text(
                j, i, format(value, numbers), ha="center", va="center", color="wk"[int(shade[i, j] > 0.5)]
            )
    default = f"{rows} by {columns} matrix, {np.count_nonzero(array)} of {array.size} entries not zero, "
    default += f"values {array.min():.3g} to {array.max():.3g}"
    return _finish(ax, alt, default, {"xlabel": "input", "ylabel": "output"} | properties)


def bars(
    probabilities: Mapping[str, Array], *, ax: Axes | None = None, alt: str | None = None, **properties: Any
) -> Figure:
    """Draw distributions over 0..K-1 beside each other: ``{"data": (K,), "model": (K,)}``, probabilities."""
    ax, said, width = _axes(ax), [], 0.8 / len(probabilities)
    for k, (name, p) in enumerate(probabilities.items()):
        p = _array(p)
        ax.bar(np.arange(len(p)) + (k + 0.5) * width - 0.4, p, width, color=PALETTE[k % 8], label=name)
        said.append(f"{name} has its largest probability {p.max():.3g} at {p.argmax()}")
    ax.legend()
    return _finish(ax, alt, ", ".join(said), {"xlabel": "$x$", "ylabel": "probability"} | properties)


def histogram(
    samples: Array,
    log_prob: Callable[[Tensor], Tensor] | None = None,
    *,
    bins: int = 50,
    ax: Axes | None = None,
    alt: str | None = None,
    **properties: Any,
) -> Figure:
    """Draw ``samples`` of one dimension as a density, and exp(log_prob), ``(B,)`` to ``(B,)``, over them."""
    values, ax = _array(samples).ravel(), _axes(ax)
    ax.hist(values, bins=bins, density=True, color=PALETTE[0], alpha=0.5, label="samples")
    if log_prob is not None:
        x = torch.linspace(values.min(), values.max(), 400)
        with torch.no_grad():
            ax.plot(x, _array(log_prob(x).exp()), color=PALETTE[1], label="density")
        ax.legend()
    default = f"{values.size} samples with mean {values.mean():.3g}, standard deviation {values.std():.3g}"
    return _finish(ax, alt, default, {"xlabel": "$x$", "ylabel": "density"} | properties)
