"""Figures in one style: readable from the last row, safe for colour-blind eyes, with alternative text.

Every function returns a `matplotlib.figure.Figure` that pyplot does not know. As the last expression of a
cell it is shown once, and its alternative text stands in the metadata of the output: ``alt``, or a text that
describes the data. Inside a loop, write ``display(plot.images(x))``. ``properties`` are ``alt``, and
whatever matplotlib's ``Axes.set`` takes: title, xlabel, ylabel, xlim, yscale. With ``ax`` a function draws
there and returns the figure that holds it:

>>> figure, (left, right) = subplots(1, 2)
>>> _ = matrix(torch.eye(3), ax=left, title="identity")
>>> figure = histogram(torch.zeros(10), ax=right)

Values are tensors, on any device, of any precision, with or without a gradient, NumPy arrays, or lists.

The colours of ``PALETTE`` are matplotlib's own "C0" to "C7", since `style` sets its cycle: blue "C0",
vermilion "C1", green "C2", pink "C3", orange "C4", sky blue "C5", black "C6", yellow "C7".
"""

import math
import sys
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

__all__ = ["PALETTE", "curves", "density", "describe", "ellipse", "histogram", "images", "matrix", "scatter",
           "style", "subplots", "warped_grid"]  # fmt: skip

Array = Tensor | np.ndarray | Sequence
Map = Callable[[Tensor], Tensor]

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


def _finish(ax: Axes, default: str, properties: dict[str, Any]) -> Figure:
    """Set the properties of the axes, add to the alternative text of the figure's other axes, return it."""
    alt = properties.pop("alt", None)
    ax.set(**properties)
    figure, title = ax.get_figure(root=True), ax.get_title()
    alt = alt or (f"{title}: {default}" if title else default)
    before = getattr(figure, "_alt", EMPTY)
    return describe(figure, alt if before == EMPTY else f"{before}; {alt}")


def _array(values: Array) -> np.ndarray:
    """Return ``values`` for matplotlib, which knows neither devices nor gradients nor bfloat16."""
    if isinstance(values, Tensor):
        return (values.float() if values.dtype is torch.bfloat16 else values).numpy(force=True)
    return np.asarray([_array(value) for value in values] if isinstance(values, list | tuple) else values)


# ----------------------------------------------------------------------------- images and training curves
def images(
    batch: Array,
    *,
    columns: int = 10,
    titles: Sequence = (),
    rows: Sequence[str] = (),
    ax: Axes | None = None,
    **properties: Any,
) -> Figure:
    """Draw images in a grid, row by row.

    ``batch`` is ``(N, H, W)`` or ``(N, C, H, W)``, one or three channels, uint8 in 0..255 or any other type
    in [0, 1], give or take 1e-4 of rounding. ``titles`` stand above the images, ``rows`` at the left of the
    rows.

    Raises:
        ValueError: for another shape, or for values outside the range.
    """
    pixels = _array(batch)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"expected images (N, H, W) or (N, 1 or 3, H, W), got {_array(batch).shape}")
    pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels.astype(float)
    if not (pixels.min() >= -1e-4 and pixels.max() <= 1 + 1e-4):  # NaN fails as well
        raise ValueError(f"expected uint8 or values in [0, 1], got {pixels.min():.7g} to {pixels.max():.7g}")
    n, channels, height, width = pixels.shape
    columns, gap = min(columns, n), math.ceil(height / 28)
    lines, inches = math.ceil(n / columns), min(10, 1.6 * columns)
    across = width + gap  # from one image to the next, in pixels
    above = math.ceil(0.25 * columns * across / inches) if titles else 0  # a quarter of an inch of text
    down = height + gap + above
    canvas = np.ones((lines * down + gap, columns * across + gap, channels))
    ax = _axes(ax, inches, inches * canvas.shape[0] / canvas.shape[1] + 0.5 * ("title" in properties))
    for k, (image, text) in enumerate(zip(pixels.clip(0, 1), titles or [""] * n, strict=True)):
        y, x = k // columns * down + above + gap, k % columns * across + gap
        canvas[y : y + height, x : x + width] = image.transpose(1, 2, 0)  # (C, H, W) to (H, W, C)
        ax.text(x + width / 2, y - gap, text, ha="center", va="bottom", fontsize=12)
    ax.imshow(canvas.squeeze(2) if channels == 1 else canvas, cmap="gray", vmin=0, vmax=1)
    centres = [(line + 0.5) * down + above / 2 for line in range(len(rows))]
    ax.set(xticks=[], yticks=centres, yticklabels=rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    default = f"{n} images of {height} by {width} pixels in {lines} rows of {columns}"
    return _finish(ax, default + (f" ({', '.join(rows)})" if rows else ""), properties)


def curves(history: Mapping, *names: str, ax: Axes | None = None, **properties: Any) -> Figure:
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
    ax, seen = _axes(ax), []
    for name in names:
        k = terms.index(name.rpartition("/")[2])
        color, marker = f"C{k}", MARKERS[k % 8] if name.startswith("valid/") else ""
        epoch, value = _array(history[name]).astype(float).T
        window = max(1, len(value) // 50)
        if window > 1:
            ax.plot(epoch, value, color=color, alpha=0.25, lw=1)
        mean = np.convolve(value, np.full(window, 1 / window), mode="valid")
        line = "--" if marker else "-"
        ax.plot(epoch[window - 1 :], mean, line, marker=marker, color=color, label=name)
        seen.append(f"{name} goes from {value[0]:.4g} to {value[-1]:.4g}")
    ax.legend()
    return _finish(ax, ", ".join(seen), {"xlabel": "epoch"} | properties)


# -------------------------------------------------------------------------- densities, points and matrices
def density(
    log_prob: Map,
    limits: tuple[float, float] = (-4, 4),
    *,
    device: torch.device | str = "cpu",
    ax: Axes | None = None,
    **properties: Any,
) -> Figure:
    """Draw exp(log_prob), ``(B, 2)`` to ``(B,)`` in nats, on the square ``limits`` x ``limits``.

    Raises:
        ValueError: if ``log_prob`` returns another shape.
    """
    line = torch.linspace(*limits, 200, device=device)
    points = torch.cartesian_prod(line, line).flip(1)  # x_1 runs fastest: a row of the picture
    with torch.no_grad():
        p = _array(log_prob(points).exp())
    if p.shape != (len(points),):
        raise ValueError(f"expected log_prob of shape {(len(points),)}, got {p.shape}")
    ax = _axes(ax, 5.5, 4.5)
    picture = ax.imshow(p.reshape(200, 200), origin="lower", extent=(*limits, *limits))
    ax.get_figure().colorbar(picture, ax=ax, shrink=0.8)
    x, y = points[p.argmax()].tolist()
    return _finish(ax, f"density, highest ({p.max():.3g}) at ({x:.2g}, {y:.2g})", PLANE | properties)


def scatter(*samples: Array, labels: Sequence = (), ax: Axes | None = None, **properties: Any) -> Figure:
    """Draw sets of points ``(n, 2)``, each with its own colour and marker and, if given, its label.

    Raises:
        ValueError: for another shape.
    """
    ax, seen = _axes(ax, 6.5 if labels else 5, 4.5), []
    for k, points in enumerate(map(_array, samples)):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"expected points (n, 2), got {points.shape}")
        # With more sets than colours the markers differ when the colours start again.
        marker, size = MARKERS[(k + k // 8) % 8], np.clip(4000 / len(points), 4, 30)
        name, (x, y) = labels[k] if labels else "", points.mean(0, dtype=float)
        ax.scatter(*points.T, s=size, color=f"C{k}", marker=marker, alpha=0.6, lw=0, label=name)
        seen.append(f"{len(points)} points{f' of {name}' if labels else ''} around ({x:.2g}, {y:.2g})")
    if labels:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
    return _finish(ax, ", ".join(seen), PLANE | {"aspect": "equal"} | properties)


def ellipse(ax: Axes, mean: Array, covariance: Array, radius: float = 1.0, **style: Any) -> Ellipse:
    """Draw where a Gaussian in the plane is ``radius`` standard deviations from its mean; return the patch.

    ``mean`` is ``(2,)``, ``covariance`` ``(2, 2)``, or ``(2,)`` for variances alone. ``style`` is whatever
    matplotlib's patches take: color, linestyle, label; ``fill=True`` fills.

    Raises:
        ValueError: for another shape.
    """
    mean, covariance = _array(mean), _array(covariance).astype(float)
    if mean.shape != (2,) or covariance.shape not in ((2,), (2, 2)):
        shapes = f"{mean.shape} and {covariance.shape}"
        raise ValueError(f"expected a mean (2,) and a covariance (2, 2) or (2,), got {shapes}")
    variances, axes = np.linalg.eigh(covariance if covariance.ndim == 2 else np.diag(covariance))
    angle = math.degrees(math.atan2(axes[1, 0], axes[0, 0]))  # of the first axis, along which the width runs
    width, height = 2 * radius * np.sqrt(variances.clip(0))  # a flat one may round to -1e-17
    patch = ax.add_patch(Ellipse(mean, width, height, angle=angle, **{"fill": False, "linewidth": 2} | style))
    ax.autoscale_view()
    return patch


def warped_grid(ax: Axes, transform: Map, *, reach: float = 2.5, lines: int = 11, **style: Any) -> None:
    """Draw where ``transform``, ``(n, 2)`` to ``(n, 2)``, carries a square grid from -reach to reach.

    ``lines`` run in each direction; ``style`` is whatever matplotlib's ``plot`` takes.

    Raises:
        ValueError: if ``transform`` returns another shape.
    """
    along, ticks = torch.linspace(-reach, reach, 200), torch.linspace(-reach, reach, lines)
    upright = torch.cartesian_prod(ticks, along)  # (lines * 200, 2): the lines one after another
    with torch.no_grad():
        warped = transform(torch.cat([upright, upright.flip(1)]))
    if not isinstance(warped, Tensor) or warped.shape != (len(upright) * 2, 2):
        got = getattr(warped, "shape", type(warped).__name__)  # a layer of a flow returns (z, log_det)
        raise ValueError(f"expected a transform to shape {(len(upright) * 2, 2)}, got {got}")
    # NaN ends each line, so that all are one artist, with one label: (2 lines, 200, 2) to (2 lines, 201, 2).
    points = np.pad(_array(warped).reshape(-1, 200, 2), ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    ax.plot(*points.reshape(-1, 2).T, **{"color": "C0", "linewidth": 0.8} | style)


def matrix(values: Array, *, numbers: str = "", ax: Axes | None = None, **properties: Any) -> Figure:
    """Draw a matrix, row 0 at the top: a mask, a Jacobian (output by input), a table of probabilities.

    With negative values the colours are symmetric about zero, blue below and red above. ``numbers`` writes
    every value into its field, in the given format: ".2f", or "d" for integers.

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
    ax.locator_params(integer=True)
    if numbers:
        bright = picture.to_rgba(array)[..., :3] @ (0.3, 0.59, 0.11) > 0.5  # weights of red, green, blue
        size = min(14, 100 / max(rows, columns))
        for (i, j), value in np.ndenumerate(_array(values)):  # integers are written as such
            color = "black" if bright[i, j] else "white"
            ax.text(j, i, format(value, numbers), ha="center", va="center", fontsize=size, color=color)
    default = f"{rows} by {columns} matrix, {np.count_nonzero(array)} of {array.size} entries not zero, "
    default += f"values {array.min():.3g} to {array.max():.3g}"
    return _finish(ax, default, {"xlabel": "input", "ylabel": "output"} | properties)


def histogram(
    samples: Array, log_prob: Map | None = None, *, bins: int = 50, ax: Axes | None = None, **properties: Any
) -> Figure:
    """Draw ``samples`` of one dimension as a density, and exp(log_prob), ``(B,)`` to ``(B,)``, over them."""
    values, ax = _array(samples).ravel(), _axes(ax)
    ax.hist(values, bins=bins, density=True, color="C0", alpha=0.5, label="samples")
    if log_prob is not None:
        x = torch.linspace(values.min(), values.max(), 400, device=getattr(samples, "device", None))
        with torch.no_grad():
            ax.plot(_array(x), _array(log_prob(x).exp()), color="C1", label="density")
        ax.legend()
    default = f"{values.size} samples with mean {values.mean():.3g}, standard deviation {values.std():.3g}"
    return _finish(ax, default, {"xlabel": "$x$", "ylabel": "density"} | properties)
