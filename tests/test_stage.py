"""Every seminar in a real browser, as it stands on the projector; tests/browser.py walks and measures."""

import base64
import io

import matplotlib as mpl
import nbformat
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from dgm_utils import plot
from tests import browser
from tools.notebooks import ROOT, find_notebooks, read_notebook, slide_type

SEMINARS = find_notebooks([ROOT / "seminars"])
# Cells that may break a rule, each with the reason.
ALLOWED: dict[str, str] = {}

if reason := browser.missing():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def walk():
    """Return a function that walks a notebook: one server and one browser for all."""
    with browser.server(SEMINARS[0]) as url, browser.browser() as running:
        yield lambda notebook: browser.walk(running, url, notebook, browser.STAGE / notebook.stem)


def cells_to_show(name):
    """Ids of the cells that are a state of the notebook on stage, in order."""
    notebook = read_notebook(browser.STAGE / name / f"{name}.ipynb")
    cells = [(cell.id, slide_type(cell)) for cell in notebook.cells]
    return [name for name, kind in cells if kind not in ("skip", "notes")]


@pytest.mark.slow
@pytest.mark.parametrize("seminar", SEMINARS, ids=lambda path: path.stem)
def test_every_state_of_a_seminar_fits_the_screen(walk, seminar):
    found = walk(seminar)
    assert found.cells == cells_to_show(seminar.stem), "not every cell was reached, in order"
    assert not found.requests, "the network was asked for"
    faults = [str(fault) for fault in found.faults if fault.cell not in ALLOWED]
    assert not faults, "\n".join(["", *faults, f"pictures: build/stage/{seminar.stem}"])
    unused = ALLOWED.keys() & set(found.cells) - {fault.cell for fault in found.faults}
    assert not unused, "these cells break no rule, take them out of ALLOWED"


# -------------------------------------------------------------------------- the measures, on planted faults
def cell(name, kind, source, outputs=(), slide="subslide", folded=False):
    new = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
    metadata = {"slideshow": {"slide_type": slide}} | ({"jupyter": {"source_hidden": True}} if folded else {})
    made = new(source, id=name, metadata=metadata)
    if outputs:
        made.outputs = list(outputs)
    return made


def printed(text):
    return nbformat.v4.new_output("stream", name="stdout", text=text)


def figure(width):
    buffer = io.BytesIO()
    Figure(figsize=(width, 2)).savefig(buffer, dpi=100)
    return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()})


def html(text):
    return nbformat.v4.new_output("display_data", {"text/html": text})


BOX = '<div style="height: {}px"></div>'
WIDE = '<div style="overflow-x: auto"><div style="width: {}px; height: 9px"></div></div>'
PLANTED = [
    cell("first", "markdown", "# A title and $x^2$", slide="slide"),
    cell("setup", "code", "1 + 1", slide="skip"),
    cell("high", "markdown", "# Title\n\n" + BOX.format(500)),
    cell("higher", "markdown", BOX.format(150), slide="fragment"),
    cell("low", "markdown", BOX.format(660)),
    cell("short-line", "code", "x = 1" + "  # " + "y" * 79),
    cell("long-line", "code", "x = 1" + "  # " + "y" * 80),
    cell("folded-line", "code", "x = 1" + "  # " + "y" * 80, folded=True),
    cell("block", "markdown", "```\n" + "y" * 89 + "\n```"),
    cell("words", "code", "1", [printed("many words of ten- or more letters " * 9)]),
    cell("hyphens", "code", "1", [printed("-".join(["one"] * 60))]),
    cell("word", "code", "1", [printed("x " * 20 + "y" * 150)]),
    cell("narrow", "code", "1", [html(WIDE.format(300))]),
    cell("wide", "code", "1", [html(WIDE.format(3000))]),
    cell("figure", "code", "1", [figure(12)]),
    cell("wide-figure", "code", "1", [figure(20)]),
    cell("small-text", "code", "axes.legend(fontsize=9)", [figure(8)]),
    cell("function", "code", "def draw(axes):\n    axes.legend(fontsize=9)"),
    cell("small-text-there", "code", "draw(axes)", [figure(8)]),
    cell("titles", "code", "plot.images(x, titles=names)", [figure(15)]),
    cell("network", "markdown", "![](http://example.org/picture.png)"),
]


@pytest.mark.slow
def test_a_walk_finds_every_planted_fault_and_no_other(walk, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=PLANTED)
    path = tmp_path / "planted.ipynb"
    nbformat.write(notebook, path)
    found = walk(path)
    assert found.cells == cells_to_show("planted") and "higher" in found.cells
    assert found.requests == ["http://example.org/picture.png"]
    assert {(fault.cell, fault.kind) for fault in found.faults} == {
        ("higher", "height"),
        ("long-line", "line"),
        ("block", "line"),
        ("block", "sideways"),
        ("word", "word"),
        ("wide", "sideways"),
        ("wide-figure", "text"),
        ("small-text", "text"),
        ("small-text-there", "text"),
        ("titles", "text"),
    }
    assert len(list((browser.STAGE / "planted").glob("*.png"))) == len(found.cells)


def test_the_sizes_of_text_are_those_of_the_style():
    for name in ("legend.fontsize", "xtick.labelsize", "ytick.labelsize", "axes.labelsize"):
        assert FontProperties(size=mpl.rcParams[name]).get_size_in_points() == browser.FONT_SIZE, name
    drawn = plot.images(torch.zeros(1, 3, 3), titles=["title"])
    assert {text.get_fontsize() for text in drawn.axes[0].texts} == {browser.TITLE_SIZE}
