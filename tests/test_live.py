"""Presenting: teaching does not change the course, one key walks every state, notes stand on a page."""

import functools
import json
import re
import subprocess

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests import browser
from tools import live, notes
from tools.notebooks import slide_type, source_of

ROOT = live.ROOT
SEMINARS = sorted(ROOT.glob("seminars/*/seminar*.ipynb"))
SEMINAR = SEMINARS[0]


def cell(name, kind, source, *, code=False, **metadata):
    made = {"id": name, "cell_type": "code" if code else "markdown", "source": source}
    made["metadata"] = {"slideshow": {"slide_type": kind}} | metadata
    return made | ({"outputs": [], "execution_count": None} if code else {})


def small():
    """A seminar with a cell of each kind."""
    cells = [
        cell("title", "slide", "# Small"),
        cell("plan", "notes", "Start the next cell **now**: $x_1$."),
        cell("setup", "skip", "PROFILE = torch = dgm_utils = setting = 1", code=True),
        cell("imports", "skip", "from ipywidgets import interact", code=True),
        cell("quiz", "slide", "## Quiz\n\n<details><summary>Answer</summary>\n\nforty-two\n</details>"),
        cell("fragment", "fragment", "A second part."),
        cell("hidden", "skip", "one = 1", code=True),
        cell("code", "subslide", "two = 2", code=True),
        cell("slider", "fragment", "interact(lambda separation: one, separation=(0, 4));", code=True),
        cell("last", "slide", "## Last"),
        cell("home", "skip", "## At home"),
        cell("home-1", "skip", "### How far?\n\nWords."),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


STATES = ["title", "live-setup", "setup", "imports", "quiz", "fragment", "code", "slider", "last", "live-end"]


# ------------------------------------------------------------------------------------- the copy


def test_a_class_changes_its_copy_and_not_the_course(tmp_path):
    before = {path: path.read_bytes() for path in SEMINARS}
    copy = live.stage(SEMINAR, tmp_path / "lab")
    content = json.loads(copy.read_text(encoding="utf-8"))
    answer = next(cell for cell in content["cells"] if "exercise" in cell["metadata"].get("tags", []))
    answer["source"] = "return 2.0"
    copy.write_text(json.dumps(content))
    aside = live.put_aside(tmp_path / "lab")
    assert "return 2.0" in (aside / SEMINAR.relative_to(ROOT)).read_text(encoding="utf-8")
    assert '"return 2.0"' not in live.stage(SEMINAR, tmp_path / "lab").read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in SEMINARS} == before
    assert len(list((tmp_path / "lab").rglob("*.ipynb"))) == len(SEMINARS)


def test_a_copy_that_only_ran_is_not_kept(tmp_path):
    copy = live.stage(SEMINAR, tmp_path / "lab")
    content = json.loads(copy.read_text(encoding="utf-8"))
    content["metadata"]["language_info"] = {"version": "3"}
    for ran in content["cells"]:
        if ran["cell_type"] == "code":
            ran["outputs"] = []
        ran["source"] = source_of(ran).splitlines(keepends=True)  # JupyterLab writes lines
    copy.write_text(json.dumps(content))
    assert live.put_aside(tmp_path / "lab") is None
    assert not (tmp_path / "lab").exists()


def test_a_file_that_a_teacher_added_is_kept(tmp_path):
    live.stage(SEMINAR, tmp_path / "lab")
    (tmp_path / "lab/seminars/board.txt").write_text("words")
    assert (live.put_aside(tmp_path / "lab") / "seminars/board.txt").exists()


@pytest.mark.parametrize("path", SEMINARS, ids=lambda path: path.stem)
def test_a_presented_seminar_is_the_seminar(path):
    before = json.loads(path.read_text(encoding="utf-8"))
    shown = live.presented(json.loads(path.read_text(encoding="utf-8")))
    nbformat.validate(nbformat.from_dict(shown))
    kept = [cell for cell in shown["cells"] if not cell["id"].startswith("live-")]
    assert [source_of(cell) for cell in kept] == [source_of(cell) for cell in before["cells"]]
    kinds = [slide_type(cell) for cell in shown["cells"]]
    assert kinds[0] == "slide" and set(kinds[1:]) == {"subslide", "fragment", "skip"}
    place = [cell["id"] for cell in shown["cells"]].index("live-setup") + 1
    setup = [cell for cell in shown["cells"] if cell["metadata"].get("tags", [""])[0] in SETUP_TAGS]
    assert len(setup) == 3 and shown["cells"][place] == setup[0]
    assert all(slide_type(cell) == "fragment" for cell in setup)


SETUP_TAGS = ("setup", "parameters", "imports")


def test_a_notebook_without_slides_is_left_alone():
    plain = {"cells": [{"cell_type": "code", "source": "1", "metadata": {}}]}
    assert live.presented(plain) == {"cells": [{"cell_type": "code", "source": "1", "metadata": {}}]}


# ------------------------------------------------------------------------------------- the kernel


def outputs(tmp_path, monkeypatch, *sources):
    """Run cells in a kernel of `make lab` and return what each showed last."""
    live.configure(tmp_path)
    for name in ("JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, live.environment(tmp_path)[name])
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3").execute()
    return [cell.outputs[-1] if cell.outputs else None for cell in notebook.cells]


def test_a_cell_that_meets_no_setup_says_so_in_one_line(tmp_path, monkeypatch):
    define = "\n".join(f"{name} = 1" for name in ("PROFILE", "dgm_utils", "torch", "setting"))
    early, other, _, late = outputs(tmp_path, monkeypatch, "torch.ones(1)", "1 / 0", define, "toch.ones(1)")
    assert len(early.traceback) == 1 and "\n" not in early.traceback[0]
    assert "name 'torch' is not defined" in early.traceback[0] and "F8" in early.traceback[0]
    assert "ZeroDivisionError" in "".join(other.traceback) and len(other.traceback) > 1
    assert "toch.ones" in "".join(late.traceback) and "set-up" not in "".join(late.traceback)


@pytest.mark.parametrize("path", SEMINARS, ids=lambda path: path.stem)
def test_every_setup_defines_the_names_by_which_the_kernel_knows_it(path):
    code = (ROOT / "tools" / "live_kernel.py").read_text(encoding="utf-8")
    names = re.findall(r'"(\w+)"', re.search(r"SETUP = \((.*?)\)", code)[1])
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    setup = "\n".join(source_of(cell) for cell in live.setup_of(cells))
    assert names
    for name in names:
        assert re.search(rf"^(import {name}\b|{name} = )", setup, re.MULTILINE), name


# ------------------------------------------------------------------------------------- the start


def test_the_start_loads_nothing_that_takes_seconds_and_is_not_needed(tmp_path):
    live.configure(tmp_path)
    start = live.command(SEMINAR, ["--no-browser", "--allow-root", "--ServerApp.port=0"])
    unwanted = ("nbgrader", "lark", "jupyter_lsp", "terminado")
    code, _, run = start[2].partition("from jupyterlab")
    assert code and run
    code += "from jupyterlab.labapp import LabApp; LabApp.initialize_server(sys.argv[1:]); "
    start[2] = code + f"print('loaded', *({{n.split('.')[0] for n in sys.modules}} & {{*{unwanted}}}))"
    done = subprocess.run(start, env=live.environment(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["loaded"], done.stderr


def test_nothing_that_a_closed_browser_left_behind_decides(tmp_path):
    live.configure(tmp_path)
    left = tmp_path / "lab/user-settings/jupyterlab-slideshow/plugin.jupyterlab-settings"
    mine = tmp_path / "lab/user-settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings"
    window = tmp_path / "lab/workspaces/default.jupyterlab-workspace"
    for file in (left, mine, window):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    live.configure(tmp_path, present=True)
    assert not left.exists() and not window.exists() and mine.exists()


# ------------------------------------------------------------------------------------- notes


def test_the_page_of_notes_has_every_slide_its_notes_and_its_cells(tmp_path):
    notebook = tmp_path / "small.ipynb"
    notebook.write_text(json.dumps(small()))
    text = notes.page(notebook, tmp_path / "out").read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert titles == ["1 · Small", "2 · Quiz", "3 · (code)", "4 · Last"]
    assert re.search(r"Start the next cell\s+<strong>now</strong>", text) and "<math" in text
    assert text.index("Small</h2>") < text.index("Start the next") < text.index("Quiz</h2>")
    assert "run <code>two = 2</code>" in text and "PROFILE" not in text and "How far" not in text
    assert not re.search(r"<script|<link|src=|@import|url\(", text)  # nothing comes from a network


def test_every_seminar_has_notes_on_the_page(tmp_path):
    for path in SEMINARS:
        said = [
            cell
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if slide_type(cell) == "notes"
        ]
        assert said and notes.notes(path).count("\n\n> ") == len(said)


# ------------------------------------------------------------------------------------- the browser

PANEL = "window.jupyterapp.shell.currentWidget"
ACTIVE = f"{PANEL}?.content?.activeCell?.model.id"
PRESENTING = "document.body.dataset.jpDeckMode === 'presenting'"
ON_STAGE = f"{PRESENTING} && document.querySelectorAll('.jp-deck-mod-visible').length"
FIRST = f"{ON_STAGE} && {ACTIVE} === 'title'"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A browser's window onto a JupyterLab that presents the small seminar, and the address of that."""
    if reason := browser.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("lab")
    notebook = folder / "small.ipynb"
    notebook.write_text(json.dumps(live.presented(small())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "configure", functools.partial(live.configure, present=True))
        patch.setattr(live, "command", functools.partial(live.command, root=folder))
        with (
            browser.server(notebook) as url,
            browser.browser() as running,
            running.new_context(viewport=browser.SCREEN) as context,
        ):
            context.set_default_timeout(browser.PATIENCE * 1000)
            yield context, f"{url}/"


@pytest.fixture(scope="module")
def window(stage):
    """A window in which the presentation has just opened by itself, at the first slide."""
    context, url = stage
    page = context.new_page()
    page.goto(url, wait_until="commit")
    page.wait_for_function(FIRST)
    return page


@pytest.fixture
def shown(window):
    """The window back at the first slide, whatever the test before has left."""
    window.evaluate(f"{PANEL}.content.mode = 'command'; {PANEL}.content.activeCellIndex = 0")
    window.evaluate("window.jupyterapp.commands.execute('deck:start')")
    window.wait_for_function(FIRST)
    return window


def press(page, key, until):
    page.keyboard.press(key)
    page.wait_for_function(f"{ACTIVE} === '{until}'", timeout=20_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on", "back"), [("ArrowRight", "ArrowLeft"), ("Space", "Shift+Space"), ("PageDown", "PageUp")]
)
def test_one_key_walks_every_state_and_another_one_comes_back(shown, on, back):
    for state in STATES[1:]:
        press(shown, on, state)
    for state in reversed(STATES[:-1]):
        press(shown, back, state)
    press(shown, "End", "live-end")
    press(shown, "Home", "title")
    for state in STATES[1:]:  # a second time: the deck remembers where it left a slide
        press(shown, on, state)


@pytest.mark.slow
def test_keys_keep_their_meaning_where_one_writes(shown):
    for state in STATES[1 : STATES.index("code") + 1]:
        press(shown, "Space", state)
    shown.keyboard.press("Enter")
    shown.wait_for_function(f"{PANEL}.content.mode === 'edit'")
    for key in ("End", "Space", "+", "Space", "2", "Home", "x", "ArrowRight", "y"):
        shown.keyboard.press(key)
    source = f"{PANEL}.content.activeCell.model.sharedModel.source"
    shown.wait_for_function(f"{source} === 'xtywo = 2 + 2'", timeout=20_000)
    assert shown.evaluate(ACTIVE) == "code"
    shown.keyboard.press("Escape")
    assert shown.evaluate(PRESENTING)
    shown.evaluate(f"{source} = 'two = 2'")
    press(shown, "ArrowRight", "slider")


@pytest.mark.slow
def test_no_key_and_no_click_shows_the_source_of_a_text_slide(shown):
    for state in STATES[1 : STATES.index("quiz") + 1]:
        press(shown, "ArrowRight", state)
    shown.keyboard.press("Enter")
    shown.dblclick("h2:has-text('Quiz')")
    assert not shown.locator(".jp-MarkdownCell.jp-deck-mod-visible .jp-InputArea-editor:visible").count()
    answer = shown.locator("details p")
    assert not answer.is_visible()
    shown.focus("summary")
    shown.keyboard.press("Enter")
    answer.wait_for(state="visible")
    press(shown, "ArrowRight", "fragment")


@pytest.mark.slow
def test_all_cells_run_a_slider_is_whole_and_the_button_starts_at_the_first_slide(shown):
    shown.wait_for_function(f"{PANEL}.sessionContext.session?.kernel?.status === 'idle'")
    press(shown, "End", "live-end")
    shown.keyboard.press("F8")
    shown.wait_for_selector(".widget-slider .widget-label", state="attached")
    press(shown, "ArrowLeft", "last")
    press(shown, "ArrowLeft", "slider")
    label = shown.locator(".widget-slider .widget-label")
    label.wait_for(state="visible")
    assert label.inner_text() == "separation"
    assert label.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert shown.locator(".slider-container").evaluate("node => node.clientWidth") > 400
    shown.locator(".noUi-handle").click()
    press(shown, "Space", "last")  # a slider takes the other keys
    shown.keyboard.press("F4")
    shown.wait_for_function(f"!({PRESENTING})")
    shown.keyboard.press("F4")
    shown.wait_for_function(ON_STAGE)
    assert shown.evaluate(ACTIVE) == "last"
    shown.keyboard.press("Escape")
    shown.wait_for_function(f"!({PRESENTING})")
    shown.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    shown.locator("[data-jp-item-name=deck] jp-button").click()
    shown.wait_for_function(ON_STAGE)
    assert shown.evaluate(ACTIVE) == "title"


@pytest.mark.slow
def test_nothing_of_the_deck_lies_on_the_slide(shown):
    shown.mouse.move(600, 20)
    for name in (".jp-Deck-Remote", ".jp-Deck-DesignTools"):
        assert shown.locator(name).evaluate("node => getComputedStyle(node).opacity") == "0"
    shown.hover(".jp-Deck-Remote")
    shown.wait_for_function("getComputedStyle(document.querySelector('.jp-Deck-Remote')).opacity === '1'")
    panel = shown.locator(".jp-Deck.jp-NotebookPanel")
    assert panel.evaluate("node => getComputedStyle(node).overflow") == "hidden"
    press(shown, "End", "live-end")
    press(shown, "Home", "title")
    for state in STATES[1:4]:
        press(shown, "ArrowRight", state)
    strip = shown.locator(".jp-deck-mod-visible .jp-PlaceholderText").first
    assert strip.evaluate("node => getComputedStyle(node).fontSize") == "20px"


@pytest.mark.slow
def test_a_browser_that_was_closed_in_the_middle_opens_at_the_first_slide(shown, stage):
    press(shown, "End", "live-end")
    context, url = stage
    with context.new_page() as again:
        again.goto(url, wait_until="commit")
        again.wait_for_function(FIRST)
