"""Draw figures for slides: real size on the page, the deck's own font, the same bytes at every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, PathPatch
from matplotlib.path import Path as MplPath

from dgm_utils import plot

# The course's colours by name, in the order of plot.PALETTE.
PALETTE = dict(
    zip(("blue", "red", "green", "purple", "orange", "sky", "black", "yellow"), plot.PALETTE, strict=True)
)
INK = "#1b2733"
MUTED = "#566270"
PALE = "#dfe7ee"  # fills
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


def hide_left(axes: Axes) -> None:
    """Take away the axis of a density whose height says nothing."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def ellipse(
    axes: Axes, mean: np.ndarray, covariance: np.ndarray, scale: float = 2.0, **style: object
) -> None:
    """Draw the ellipse at `scale` standard deviations of a normal in the plane, an outline unless styled."""
    variances, directions = np.linalg.eigh(covariance)
    angle = np.degrees(np.arctan2(directions[1, 1], directions[0, 1]))
    width, height = 2 * scale * np.sqrt(variances[::-1])
    axes.add_patch(Ellipse(mean, width, height, angle=angle, **({"fill": False} | style)))


def fixed(values: list[float], digits: int) -> list[str]:
    """Format numbers for a slide with all their digits, trailing zeros too, and a proper minus sign."""
    return [f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in values]


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
