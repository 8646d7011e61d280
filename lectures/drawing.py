"""Draw figures for slides: real size on the page, the deck's own font, the same bytes at every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from dgm_utils import plot

# The course's colours by name, in the order of plot.PALETTE.
PALETTE = dict(
    zip(("blue", "red", "green", "purple", "orange", "sky", "black", "yellow"), plot.PALETTE, strict=True)
)
INK = "#1b2733"
MUTED = "#566270"
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


def blank(axes: Axes) -> Axes:
    """Turn axes into a plain drawing surface with equal units."""
    axes.set_axis_off()
    axes.set_aspect("equal")
    return axes


def draw_all(figures: dict[str, Callable[[], Figure]], folder: Path) -> list[Path]:
    """Draw each named figure in the slides' style and write `folder/NAME.svg` without a date."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in figures.items():
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            figure = draw()
            path = folder / f"{name}.svg"
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})
        written.append(path)
    return written
