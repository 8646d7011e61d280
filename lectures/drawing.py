"""Draw figures for slides: real size on the page, the deck's own font, the same bytes at every run.

    python -m lectures.drawing lecture2 [FOLDER]

draws every function of `lectures/lecture2/figures.py` that is marked by `@figure`, and writes what its
`numbers` returns to `numbers.json`, which the deck prints.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath

from dgm_utils import plot

BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = plot.PALETTE
INK = "#1b2733"
MUTED = "#566270"
PALE = "#dfe7ee"  # fills
FRAME = "#c9d3dc"  # around images
BROWN = "#9a6700"  # orange, dark enough for text
SLIDE_WIDTH = 754  # points between the margins of theme.typ
HALF_WIDTH = 364  # one of two equal columns

FONTS = Path(__file__).parent / "fonts" / "source-sans-3"
STYLE = {
    "font.family": "Source Sans 3",
    "mathtext.fontset": "cm",
    "font.size": 15,
    "axes.titlesize": 16,
    "axes.titleweight": 600,
    "axes.titlepad": 8,
    "axes.labelsize": 15,
    "xtick.labelsize": 14,
    "ytick.labelsize": 14,
    "legend.fontsize": 14,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.9,
    "lines.linewidth": 2.4,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",  # glyphs as outlines: no font is looked up when the deck is built
    "svg.hashsalt": "deep generative models",  # ids do not change between runs
}
for font_file in sorted(FONTS.glob("*.otf")):
    font_manager.fontManager.addfont(font_file)


def figure(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    """Mark a function without arguments as a figure of its deck, written to `figures/NAME.svg`."""
    draw.is_figure = True
    return draw


def figures(module: ModuleType) -> dict[str, Callable[[], Figure]]:
    """Return the marked functions of a deck's `figures.py` by name."""
    return {name: draw for name, draw in vars(module).items() if getattr(draw, "is_figure", False)}


def canvas(
    width: float, height: float, columns: int = 1, rows: int = 1, **subplots: object
) -> tuple[Figure, object]:
    """Make a figure of the given size in points, as large as the slide shows it, and its axes."""
    figure = Figure(figsize=(width / 72, height / 72))
    return figure, figure.subplots(rows, columns, **subplots)


def draw_pixels(axes: Axes, image: np.ndarray, colours: Callable[[float], str | None]) -> None:
    """Draw an image (H, W) as vector squares: one shape per colour, runs of equal pixels joined.

    `colours` maps a value to a colour, or to None where the background is to stay. An embedded bitmap would
    hold bytes that depend on the compression library.
    """
    height, width = image.shape
    runs: dict[str, list[MplPath]] = {}
    for y, row in enumerate(image):
        starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        for start, stop in zip(starts, [*starts[1:], width], strict=True):
            if (colour := colours(row[start])) is not None:
                corners = [(start, y), (stop, y), (stop, y + 1), (start, y + 1), (start, y)]
                runs.setdefault(colour, []).append(MplPath(np.array(corners) - 0.5, closed=True))
    for colour, paths in runs.items():
        shape = MplPath.make_compound_path(*paths)
        axes.add_patch(PathPatch(shape, facecolor=colour, edgecolor=colour, linewidth=0.2))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])


def paint(axes: Axes, image: np.ndarray, levels: int = 11) -> None:
    """Draw an image (H, W) with values from 0 to 1, dark on white in levels of grey, in a thin frame."""
    shades = np.round(np.clip(np.asarray(image, dtype=float), 0, 1) * (levels - 1)) / (levels - 1)
    draw_pixels(axes, shades, lambda value: str(round(1 - value, 3)) if value else None)
    axes.spines[:].set(visible=True, color=FRAME)


def digits(rows: dict[str, Sequence[np.ndarray]], width: float, height: float, levels: int = 11) -> Figure:
    """Draw rows of images, each (H, W) with values from 0 to 1, with the name of each row at its left."""
    figure, axes = canvas(
        width, height, columns=len(next(iter(rows.values()))), rows=len(rows), squeeze=False
    )
    figure.get_layout_engine().set(wspace=0.02, hspace=0.02, w_pad=0.01, h_pad=0.01)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=True):
            paint(panel, image, levels)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
    return figure


def log_ticks(axis: Axis, *values: float) -> None:
    """Set the ticks of an axis (`axes.xaxis`) to these values, written out: 0.1, 1, 1,000."""
    axis.set_ticks(values, [f"{value:,g}" for value in values])
    axis.set_ticks([], minor=True)


def bare(axes: Axes) -> None:
    """Take away ticks and frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def hide_left(axes: Axes) -> None:
    """Take away the axis of a density whose height says nothing."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def fixed(value: float | Sequence[float], digits: int) -> str | list[str]:
    """Format a number, or each of several, for a slide: trailing zeros too, and a proper minus sign."""
    if np.ndim(value):
        return [fixed(each, digits) for each in value]
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def scientific(value: float) -> dict[str, float]:
    """Return mantissa and exponent of a number for a slide."""
    exponent = int(np.floor(np.log10(value)))
    return {"mantissa": round(float(value / 10.0**exponent), 1), "exponent": exponent}


def settle(figure: Figure) -> None:
    """Keep the axes where the layout solver puts them, rounded.

    The solver's last digit differs between runs, and the names of clip paths in an SVG depend on it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position(np.round(axes.get_position().bounds, 5))


def draw_all(figures: dict[str, Callable[[], Figure]], folder: Path) -> list[Path]:
    """Draw each named figure in the slides' style and write `folder/NAME.svg` without a date."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in figures.items():
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            figure = draw()
            settle(figure)
            path = folder / f"{name}.svg"
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})
        written.append(path)
    return written


def draw_deck(lecture: str, folder: Path | None = None) -> None:
    """Draw the figures of a lecture and write its numbers, into `folder` or where the deck reads them."""
    module = importlib.import_module(f"lectures.{lecture}.figures")
    folder = folder or Path(module.__file__).parent / "figures"
    draw_all(figures(module), folder)
    (folder / "numbers.json").write_text(json.dumps(module.numbers(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw_deck(sys.argv[1], *map(Path, sys.argv[2:]))
