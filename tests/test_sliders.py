"""The stored frames of every slider, how they are made, and their static twins in a browser."""

import base64
import copy
import io
import itertools
import json
import math
import os
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from ipywidgets import Checkbox, FloatSlider, IntSlider
from PIL import Image

from tests import browser
from tools import slider_kernel, sliders
from tools.notebooks import ROOT, NotebookError, find_notebooks, read_notebook, text_of

SEMINARS = find_notebooks([ROOT / "seminars"])
CELLS = [(path, cell.id) for path in SEMINARS for cell in sliders.slider_cells(read_notebook(path))]
needs_browser = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


# ---------------------------------------------------------------------------------- what is stored
def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)


def picture_of(cell, size):
    """Pixels of the one picture that a cell shows, as a frame of a size; all sizes of a slider are alike."""
    (output,) = cell.outputs
    shown = pixels(base64.b64decode(output.data["image/png"])).shape
    assert size[1] >= shown[1] > 0.9 * size[1] and size[0] >= shown[0] > 0.9 * size[0]
    return pixels(sliders.small(output.data["image/png"], (size[1], size[0])))


def cell_of(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


@pytest.mark.parametrize(("path", "name"), CELLS, ids=lambda value: getattr(value, "stem", value))
def test_a_slider_has_frames_that_are_current(path, name):
    notebook, folder = read_notebook(path), sliders.FOLDER / path.stem / name
    slider = json.loads((folder / "slider.json").read_text(encoding="utf-8"))
    assert slider["source"] == sliders.checksum(notebook, cell_of(notebook, name)), (
        "run python -m tools.sliders"
    )
    frames, controls = slider["frames"], slider["controls"]
    assert {file.name for file in folder.iterdir()} == {frame["file"] for frame in frames} | {"slider.json"}
    assert len(frames) == math.prod(len(one["values"]) for one in controls) <= slider_kernel.FRAMES
    assert all(one["name"] and 0 <= one["default"] < len(one["values"]) > 1 for one in controls)
    contents = [(folder / frame["file"]).read_bytes() for frame in frames]
    assert len(set(contents)) > len(frames) / 2, "the controls change nothing"
    assert max(map(len, contents)) <= 30_000
    assert all(frame["alt"].strip() for frame in frames)
    for (one, a), (other, b) in itertools.combinations(zip(frames, contents, strict=True), 2):
        assert a == b or one["alt"] != other["alt"], f"one text for two pictures: {one['alt']}"
    shapes = {pixels(content).shape for content in contents}
    assert len(shapes) == 1, "the picture jumps"
    shown = pixels(contents[sliders.default_frame(slider)])
    difference = np.abs(shown - picture_of(cell_of(notebook, name), shown.shape)).mean()
    assert difference < 1, "not the picture that the notebook holds: run python -m tools.sliders"


def test_nothing_else_is_stored_and_all_of_it_is_small():
    names = {file.parent.relative_to(sliders.FOLDER).as_posix() for file in sliders.FOLDER.rglob("*.*")}
    assert names == {f"{path.stem}/{name}" for path, name in CELLS}
    assert sum(file.stat().st_size for file in sliders.FOLDER.rglob("*.*")) < 4_000_000


# ------------------------------------------------------------------------------- values of controls
@pytest.mark.parametrize(
    ("widget", "count", "values"),
    [
        (IntSlider(3, min=1, max=4), 13, [1, 2, 3, 4]),
        (IntSlider(10, min=1, max=10), 13, [*range(1, 11)]),
        (IntSlider(70, min=0, max=200), 5, [0, 70, 100, 150, 200]),
        (IntSlider(20, min=0, max=200), 5, [0, 20, 50, 112, 200]),
        (IntSlider(2, min=0, max=12), 13, [*range(13)]),
        (IntSlider(1, min=0, max=200), 3, [0, 1, 200]),
        (IntSlider(1, min=0, max=200), 2, [0, 1, 200]),
        (FloatSlider(0.5, min=-3.5, max=3.5, step=0.1), 3, [-3.5, 0.5, 3.5]),
        (FloatSlider(0.3, min=0.0, max=0.6, step=0.1), 13, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        (Checkbox(True), 13, [False, True]),
    ],
)
def test_values_are_spread_and_hold_both_ends_and_the_default(widget, count, values):
    assert slider_kernel.values_of(widget, count) == values


def test_several_controls_share_the_frames():
    many = [FloatSlider(0.5, min=-3.5, max=3.5, step=0.1) for _ in range(2)]
    assert [len(values) for values in slider_kernel.choices(many)] == [7, 7]
    assert [len(values) for values in slider_kernel.choices([many[0], Checkbox()])] == [13, 2]
    with pytest.raises(ValueError, match="6 controls have more than 60 combinations"):
        slider_kernel.choices(many * 3)


# ------------------------------------------------------------------------------- a planted notebook
PLANTED = {
    "imports": """
import random
import numpy as np, torch
from IPython.display import display
from ipywidgets import FloatSlider, IntSlider, interact
from dgm_utils import plot
""",
    "draws": """
def seeds():
    random.seed(3), np.random.seed(3), torch.manual_seed(3)

def numbers():
    print(random.random(), np.random.rand(), torch.rand(1).item())

def points(n):
    return torch.rand(n) + random.random() + np.random.rand()

def draw(n, line):
    figure, ax = plot.subplots(width=3, height=2)
    ax.plot(points(n), linestyle="-" if line else "", marker="o")
    display(plot.describe(figure, f"{n} points, line: {line}"))
""",
    "first": """
seeds()
interact(draw, n=IntSlider(14, min=2, max=26, step=2, description='points & "n"'), line=True);
""",
    "after": "numbers()",
    "without": "seeds()\ndraw(14, True)",
    "the-same": "numbers()",
    "second": """
choose = FloatSlider(0.5, min=0, max=1, step=0.25)
interact(lambda x: plot.curves({"line": [(0, 0.0), (1, x)]}, alt=f"up to {x}"), x=choose);
""",
    "never-run": "raise RuntimeError",
}  # fmt: skip


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The planted notebook as seminar 7, run once: its path, its frames, what the run showed."""
    home = tmp_path_factory.mktemp("planted")
    cells = [nbformat.v4.new_code_cell(source.strip(), id=name) for name, source in PLANTED.items()]
    path = home / "seminar7.ipynb"
    path.write_text(text_of(nbformat.v4.new_notebook(cells=cells)), encoding="utf-8")
    before = path.read_bytes()
    sliders.store(path, home / "frames", home / "run")
    assert path.read_bytes() == before, "the notebook itself must stay as it is"
    assert "IPYTHONDIR" not in os.environ, "what starts kernels later would start ours"
    executed = read_notebook(home / "run" / "seminar7" / "seminar7.ipynb")
    return SimpleNamespace(home=home, path=path, frames=home / "frames", executed=executed)


def stored(planted, name):
    folder = planted.frames / "seminar7" / name
    return folder, json.loads((folder / "slider.json").read_text(encoding="utf-8"))


def test_the_random_numbers_after_a_slider_are_those_without_its_frames(planted):
    after, same = (cell_of(planted.executed, name).outputs[0].text for name in ("after", "the-same"))
    assert after == same and len(after.split()) == 3


def test_frames_are_what_the_function_draws_at_every_value(planted):
    folder, slider = stored(planted, "first")
    points, line = slider["controls"]
    assert (points["name"], line["name"], line["values"]) == ('points & "n"', "line", ["False", "True"])
    assert points["values"][points["default"]] == "14" and len(points["values"]) == 13
    texts = [f"{n} points, line: {yes}" for n in points["values"] for yes in line["values"]]
    assert [frame["alt"] for frame in slider["frames"]] == texts
    assert len({(folder / frame["file"]).read_bytes() for frame in slider["frames"]}) == 26


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_default_frame_is_the_picture_of_the_notebook(planted, name):
    folder, slider = stored(planted, name)
    shown = pixels((folder / slider["frames"][sliders.default_frame(slider)]["file"]).read_bytes())
    assert np.abs(shown - picture_of(cell_of(planted.executed, name), shown.shape)).mean() < 1


def test_a_lambda_and_a_slider_built_before_work(planted):
    _, slider = stored(planted, "second")
    assert slider["controls"] == [
        {"name": "x", "values": ["0.00", "0.25", "0.50", "0.75", "1.00"], "default": 2}
    ]
    assert [frame["alt"] for frame in slider["frames"]] == [f"up to {n / 4}" for n in range(5)]


def test_one_notebook_that_fails_is_said_and_the_others_are_stored(monkeypatch, capsys):
    tried = []

    def store(path):
        tried.append(path.stem)
        if path.stem == "seminar1":
            raise NotebookError("seminar1, cell 3: NameError")

    monkeypatch.setattr(sliders, "store", store)
    assert sliders.main(["seminars/seminar1", "seminars/seminar2"]) == 1
    assert tried == ["seminar1", "seminar2"] and "cell 3: NameError" in capsys.readouterr().err
    assert sliders.main(["seminars/seminar2"]) == 0


def test_a_function_that_draws_another_picture_when_called_again_is_refused(planted, monkeypatch):
    sliders_before = [stored(planted, "first")[1], stored(planted, "second")[1]]
    recorded = [{"controls": slider["controls"], "frames": slider["frames"]} for slider in sliders_before]
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200)).save(buffer, "PNG")
    for frame in itertools.chain(*(slider["frames"] for slider in recorded)):
        frame["png"] = base64.b64encode(buffer.getvalue()).decode()
    monkeypatch.setattr(sliders, "_record", lambda path, folder: recorded)
    with pytest.raises(NotebookError, match="cell first: called again, it shows another picture"):
        sliders.store(planted.path, planted.frames, planted.home / "run")
    monkeypatch.setattr(sliders, "_record", lambda path, folder: recorded[:1])
    with pytest.raises(NotebookError, match="2 cells call interact, and it was called 1 times"):
        sliders.store(planted.path, planted.frames, planted.home / "run")
    assert stored(planted, "first")[1]["frames"][0].keys() == {"file", "alt"}, "the old frames stay"


# ------------------------------------------------------------------------------------------- twins
@pytest.mark.parametrize("path", SEMINARS, ids=lambda path: path.stem)
def test_a_twin_differs_from_its_notebook_in_the_output_of_sliders_alone(path):
    notebook = read_notebook(path)
    before, made = copy.deepcopy(notebook), sliders.twin(notebook, int(path.stem.removeprefix("seminar")))
    assert notebook == before
    replaced = [cell.id for cell, old in zip(made.cells, before.cells, strict=True) if cell != old]
    assert [(path, name) for name in replaced] == [pair for pair in CELLS if pair[0] == path]
    for name in replaced:
        (output,) = cell_of(made, name).outputs
        assert list(output.data) == ["text/html"] and output.data["text/html"].startswith("<figure")
        assert cell_of(made, name).source == cell_of(before, name).source
        cell_of(made, name).outputs = cell_of(before, name).outputs
    assert made == before
    nbformat.validate(sliders.twin(notebook, int(path.stem.removeprefix("seminar"))))


@pytest.mark.parametrize(
    ("cell", "old", "new"),
    [
        ("first", "max=26", "max=28"),
        ("draws", "width=3", "width=4"),  # the function that draws
        ("draws", "torch.rand(n)", "torch.rand(n) / 2"),  # a function that it calls
    ],
)
def test_a_slider_that_has_changed_since_its_frames_is_refused(planted, cell, old, new):
    notebook = read_notebook(planted.path)
    sliders.twin(notebook, 7, planted.frames)
    changed = cell_of(notebook, cell)
    assert old in changed.source
    changed.source = changed.source.replace(old, new)
    expected = "seminar7/first is not that of its frames: run python -m tools.sliders seminars/seminar7"
    with pytest.raises(NotebookError, match=expected):
        sliders.twin(notebook, 7, planted.frames)


def test_a_slider_without_frames_is_refused_and_other_changes_are_not(planted):
    notebook = read_notebook(planted.path)
    cell_of(notebook, "draws").source += "\n\ndef unused():\n    pass"
    sliders.twin(notebook, 7, planted.frames)
    with pytest.raises(NotebookError, match="seminar8/first has no frames"):
        sliders.twin(notebook, 8, planted.frames)


@pytest.fixture
def site(planted, tmp_path):
    """A page with the twin of the planted notebook, where the site would have it: its address."""
    page = tmp_path / "seminars" / "seminar7" / "seminar7.html"
    page.parent.mkdir(parents=True)
    made = sliders.twin(read_notebook(planted.path), 7, planted.frames)
    figures = [output.data["text/html"] for cell in made.cells for output in cell.get("outputs", [])]
    static = tmp_path / "_static"
    shutil.copytree(planted.frames, static / "sliders")
    for name in ("sliders.js", "sliders.css"):
        shutil.copyfile(ROOT / "docs" / "_static" / name, static / name)
    head = '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="../../_static/sliders.css">'
    script = '<script src="../../_static/sliders.js"></script>'
    page.write_text("\n".join([head, *figures, script]), encoding="utf-8")
    return page.as_uri()


LOADED = "picture => picture.complete && picture.naturalWidth > 0"


@needs_browser
def test_keys_move_a_twin_and_change_picture_text_and_value(site):
    with browser.browser() as running:
        page = running.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.goto(site)
        first = page.locator("figure.slider").nth(0)
        picture, slider = first.locator("img"), first.get_by_role("slider", name='points & "n"')
        assert picture.get_attribute("alt") == "14 points, line: True" and picture.evaluate(LOADED)
        default = picture.evaluate("picture => picture.currentSrc")
        page.keyboard.press("Tab")
        assert slider.evaluate("one => one === document.activeElement")
        page.keyboard.press("ArrowRight")
        assert picture.get_attribute("alt") == "16 points, line: True"
        assert first.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == "16"
        page.wait_for_function(LOADED, arg=picture.element_handle())
        assert picture.evaluate("picture => picture.currentSrc") != default
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert not first.get_by_role("checkbox", name="line").is_checked()
        assert picture.get_attribute("alt") == "16 points, line: False"
        slider.focus()
        page.keyboard.press("End")
        assert picture.get_attribute("alt") == "26 points, line: False"
        second = page.locator("figure.slider").nth(1)
        assert second.locator("img").get_attribute("alt") == "up to 0.5", "one slider moved the other"
        second.get_by_role("slider", name="x").press("Home")
        assert second.locator("img").get_attribute("alt") == "up to 0.0"
        assert second.locator("output").inner_text() == "0.00"
        assert not problems


@needs_browser
def test_without_script_a_twin_shows_its_default_and_no_dead_control(site):
    with browser.browser() as running, running.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(site)
        picture = page.locator("figure.slider img").nth(0)
        assert picture.get_attribute("alt") == "14 points, line: True"
        assert picture.bounding_box()["width"] > 250
        assert page.get_by_role("slider").count() == page.get_by_role("checkbox").count() == 0
        picture.scroll_into_view_if_needed()
        assert pixels(picture.screenshot()).std() > 5, "nothing was drawn"
