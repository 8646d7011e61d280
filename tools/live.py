"""Present a seminar live: JupyterLab with the slide deck, the course's style and no network.

`python -m tools.live [NOTEBOOK] [OPTIONS OF JUPYTERLAB]` is `make lab`. It presents a copy in build/lab, of
the first seminar unless another notebook is named, so that nothing that happens in class changes the course.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tools.make import call
from tools.notebooks import ROOT, NotebookError, find_notebooks, slide_type, source_of

COPY = ROOT / "build" / "lab"
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows no server of ours
WRITTEN = ".written.json"  # the sources of the copy as they were written: what differs later is an edit
KEYS_HELP = """\
  next, previous           Right, Space or PageDown; Left, Shift+Space or PageUp (clickers send the last)
                           a slider takes all but Space until you click beside it
  first slide, last slide  Home, End
  run a cell and go on     Shift+Enter; Ctrl+Enter stays, F8 runs all cells above
  write in a cell          Enter or a click, Esc when done
  leave the presentation   Esc or F4; F4 comes back to the same slide, the slides button to the first one"""

# ------------------------------------------------------------------------------------- settings
PRESENTING = "body[data-jp-deck-mode='presenting']"
NOTEBOOK = f"{PRESENTING} .jp-Deck .jp-Notebook.jp-mod-commandMode:not(.jp-mod-readWrite)"
# Where the focus can be, text editors apart: in a cell, on the notebook, on the deck's own arrows, nowhere.
PLACES = [
    f"{NOTEBOOK} :focus",
    f"{NOTEBOOK}:focus",
    ".jp-Deck-Remote :focus",
    f"{PRESENTING}:not(:focus-within)",
]
# The deck has commands for the next state and the one before, none for the first slide and the last. Marking
# all cells up to an end makes the cell at that end the active one, which is what the deck shows.
KEYS = {
    ("ArrowRight", "Space", "PageDown"): ["deck:down"],
    ("ArrowLeft", "Shift Space", "PageUp"): ["deck:up"],
    ("Home",): ["notebook:extend-marked-cells-top", "notebook:deselect-all"],
    ("End",): ["notebook:extend-marked-cells-bottom", "notebook:deselect-all"],
}


def shortcuts() -> list[dict]:
    """Return the keys of a presentation as JupyterLab's settings want them."""
    bound = []
    for keys, commands in KEYS.items():
        command, arguments = commands[0], {}
        if len(commands) > 1:
            command, arguments = "apputils:run-all-enabled", {"commands": commands}
        for key in keys:
            for place in PLACES:
                bound.append({"command": command, "args": arguments, "keys": [key], "selector": place})
    # Enter must not open the source of a text slide, and unfolds an answer whose summary has the focus. The
    # command does nothing while a presentation runs.
    text = f"{NOTEBOOK} .jp-MarkdownCell"
    for place in (f"{text}:focus", f"{text} :focus"):
        enter = {"command": "deck:start", "args": {}, "keys": ["Enter"], "selector": place}
        bound.append(enter | {"preventDefault": False})
    # These two work also while a cell is being written, the second one also out of the presentation.
    above = {"command": "notebook:run-all-above", "args": {}, "keys": ["F8"], "selector": PRESENTING}
    back = {"command": "deck:toggle", "args": {}, "keys": ["F4"], "selector": "body"}
    return [*bound, above, back]


# What a teacher changes in the menus goes before these.
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {
        # A slide is narrower than a window: a long line of code must not leave it.
        "codeCellConfig": {"lineWrap": True},
        "showEditorForReadOnlyMarkdown": False,
    },
    "@jupyterlab/shortcuts-extension:shortcuts": {"shortcuts": shortcuts()},
}
# The button of the toolbar starts at the first slide, wherever "run all cells" has left the notebook.
SETTINGS["@jupyterlab/notebook-extension:panel"] = {
    "toolbar": [
        {
            "name": "deck",
            "command": "apputils:run-all-enabled",
            "args": {"commands": [*KEYS["Home",], "deck:toggle"]},
            "icon": "deck:start",
            "caption": "Start at the first slide",
            "rank": 900,
        }
    ]
}
PRESENT_AT_ONCE = {"jupyterlab-slideshow:plugin": {"active": True}}
# Of no use in class, and seconds of every start: extensions of the server and of the page.
NO_PLUGINS = [
    *("@jupyter/nbgrader", "@jupyter-notebook/lab-extension", "@jupyterlab/extensionmanager-extension"),
    *("@jupyterlab/lsp-extension", "@jupyterlab/debugger-extension", "@jupyterlab/help-extension"),
]
NO_EXTENSIONS = [
    *(f"nbgrader.server_extensions.{name}" for name in ("formgrader", "validate_assignment")),
    *(f"nbgrader.server_extensions.{name}" for name in ("assignment_list", "course_list")),
    *("jupyter_lsp", "jupyter_server_terminals", "notebook", "notebook_shim"),
]
OPTIONS = [
    "--custom-css",
    "--LabApp.extension_manager=readonly",  # the other one looks for extensions on the network
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]
# JupyterLab without the grammar of international addresses: never asked for, seconds to build.
START = (
    'import sys; sys.modules["rfc3987_syntax"] = None; from jupyterlab.labapp import main; sys.exit(main())'
)


def configure(folder: Path, *, present: bool = False) -> None:
    """Write the configuration of JupyterLab and its kernels for the course into a folder of its own.

    What a teacher changed in the menus stays; the arrangement of the windows and whether a presentation was
    running do not. `present` starts the presentation as soon as a notebook is open.
    """
    shutil.rmtree(folder / "lab" / "workspaces", ignore_errors=True)
    shutil.rmtree(folder / "lab" / "user-settings" / "jupyterlab-slideshow", ignore_errors=True)
    files = {
        "labconfig/default_setting_overrides.json": SETTINGS | (PRESENT_AT_ONCE if present else {}),
        "labconfig/page_config.json": {"disabledExtensions": dict.fromkeys(NO_PLUGINS, True)},
        "jupyter_server_config.json": {
            "ServerApp": {"jpserver_extensions": dict.fromkeys(NO_EXTENSIONS, False)}
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    ours = {"custom/custom.css": "live.css", "profile_default/startup/setup.py": "live_kernel.py"}
    for name, source in ours.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tools" / source, folder / name)


# ------------------------------------------------------------------------------------- the copy
def has_slides(notebook: dict) -> bool:
    """Tell whether a notebook is presented."""
    return any(slide_type(cell) == "slide" for cell in notebook["cells"])


def text_slide(name: str, source: str) -> dict:
    """Return a slide of text that only the copy has."""
    metadata = {"slideshow": {"slide_type": "subslide"}}
    return {"cell_type": "markdown", "id": f"live-{name}", "metadata": metadata, "source": source}


def setup_of(cells: list[dict]) -> list[dict]:
    """Return the first run of code cells: set-up, parameters, imports, settings."""
    is_code = [cell["cell_type"] == "code" for cell in cells]
    start = is_code.index(True) if any(is_code) else len(cells)
    end = is_code.index(False, start) if False in is_code[start:] else len(cells)
    return cells[start:end]


def with_setup(cells: list[dict]) -> list[dict]:
    """Put the set-up, folded, on a slide of its own."""
    setup = setup_of(cells)
    for cell in setup:
        cell["metadata"] |= {"slideshow": {"slide_type": "fragment"}, "jupyter": {"source_hidden": True}}
    advice = "Come back here after a restart of the kernel."
    words = f"### Set-up\n\n**Shift+Enter** runs a cell and goes on. {advice}"
    start = cells.index(setup[0]) if setup else len(cells)
    return [*cells[:start], text_slide("setup", words), *cells[start:]]


def with_end(cells: list[dict]) -> list[dict]:
    """Add a last slide: where End and "run all cells" stop, and what the notebook holds for home."""
    shown = max(i for i, cell in enumerate(cells) if slide_type(cell) not in ("skip", "notes"))
    home = [cell for cell in cells[shown + 1 :] if cell["cell_type"] == "markdown"]
    lines = [source_of(cell).partition("\n")[0] for cell in home]
    titles = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    words = f"### At home, in the notebook\n\n{' · '.join(titles)}" if titles else "### The end"
    return [*cells, text_slide("end", words)]


def presented(notebook: dict) -> dict:
    """Return a notebook as it is presented; one without slides comes back as it is.

    All slides but the first become subslides: between those the deck goes back the way it came, between
    slides it jumps to where it left them. Notes would blank the screen, and have their own page. Text is
    read-only.
    """
    if not has_slides(notebook):
        return notebook
    cells = with_end(with_setup(notebook["cells"]))
    for index, cell in enumerate(cells):
        if index and slide_type(cell) == "slide":
            cell["metadata"]["slideshow"] = {"slide_type": "subslide"}
        if slide_type(cell) == "notes":
            cell["metadata"]["slideshow"] = {"slide_type": "skip"}
        if cell["cell_type"] == "markdown":
            cell["metadata"]["editable"] = False
    return notebook | {"cells": cells}


def sources(folder: Path) -> dict[str, list[str]]:
    """Return the sources of the cells of every notebook in a folder; other files count by their names."""
    found = {}
    files = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(path for path in files if ".ipynb_checkpoints" not in path.parts):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.suffix == ".ipynb" else []
        found[path.relative_to(folder).as_posix()] = [source_of(cell) for cell in cells]
    found.pop(WRITTEN, None)
    return found


def put_aside(copy: Path) -> Path | None:
    """Remove an older copy; move it and return where it lies now if somebody wrote in it."""
    if not copy.exists():
        return None
    try:
        edited = json.loads((copy / WRITTEN).read_text(encoding="utf-8")) != sources(copy)
    except (OSError, ValueError, KeyError):  # half a copy, or a broken notebook: for somebody to look at
        edited = True
    if not edited:
        shutil.rmtree(copy)
        return None
    return copy.rename(copy.with_name(f"{copy.name}-{time.strftime('%Y-%m-%d-%H%M%S')}"))


def stage(notebook: Path, copy: Path = COPY) -> Path:
    """Write a fresh copy of all seminars, and of the notebook, and return the notebook's path in it."""
    for path in {*find_notebooks([ROOT / "seminars"]), notebook}:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = presented(json.loads(path.read_text(encoding="utf-8")))
        target.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (copy / WRITTEN).write_text(json.dumps(sources(copy)), encoding="utf-8")
    return copy / notebook.relative_to(ROOT)


# ------------------------------------------------------------------------------------- the start
def command(notebook: Path, options: list[str], root: Path = ROOT) -> list[str]:
    """Return the command that starts JupyterLab in a folder, one notebook of it open.

    The page is a bare path: JupyterLab adds "?token=..." to it, and prints that as the address to open.
    """
    page = f"/lab/tree/{notebook.resolve().relative_to(root).as_posix()}"
    places = [f"--ServerApp.root_dir={root}", f"--LabApp.default_url={page}"]
    return [sys.executable, "-c", START, *places, *OPTIONS, *options]


def environment(configuration: Path) -> dict[str, str]:
    """Return the environment in which JupyterLab and its kernels read what `configure` wrote."""
    return os.environ | {"JUPYTER_CONFIG_DIR": str(configuration), "IPYTHONDIR": str(configuration)}


def running(copy: Path = COPY) -> str | None:
    """Return the address of a JupyterLab that shows the copy now."""
    from jupyter_core.paths import jupyter_runtime_dir

    for file in Path(jupyter_runtime_dir()).glob("jpserver-*.json"):
        try:
            server = json.loads(file.read_text(encoding="utf-8"))
            if Path(server["root_dir"]) == copy:
                LOCAL.open(f"{server['url']}api", timeout=5).close()
                return f"{server['url']}lab?token={server['token']}"
        except (OSError, ValueError, KeyError):
            continue  # what a server that was killed left behind
    return None


def main(arguments: list[str]) -> int:
    """Replace this process by JupyterLab; return 2 when there is no such notebook or the copy is in use."""
    named = [argument for argument in arguments if not argument.startswith("-")]
    try:
        notebook = find_notebooks(named or [ROOT / "seminars"])[0].resolve()
        notebook.relative_to(ROOT)
        if notebook.is_relative_to(ROOT / "build"):
            raise NotebookError(f"{notebook} is a copy already: open it in JupyterLab, or name its source")
    except (NotebookError, IndexError, ValueError) as error:
        print(f"no notebook of this repository to open: {error}", file=sys.stderr)
        return 2
    if address := running():
        advice = "go there, or stop that JupyterLab first"
        print(f"the copy is being presented at {address}: {advice}", file=sys.stderr)
        return 2
    aside = put_aside(COPY)
    copy = stage(notebook)
    slides = has_slides(json.loads(copy.read_text(encoding="utf-8")))
    configuration = ROOT / ".jupyter"
    configure(configuration, present=slides)
    if aside:
        print(f"the last copy was edited and lies in {aside}")
    print(f"opening {copy}, a copy: the course stays as it is", flush=True)
    if slides:
        subprocess.Popen([sys.executable, "-m", "tools.notes", str(notebook)])  # prints where the notes are
        print(KEYS_HELP, flush=True)
    start = command(copy, [argument for argument in arguments if argument.startswith("-")], COPY)
    if os.name == "nt":  # its exec quotes no argument, and gives the prompt back at once
        return call(*start, **environment(configuration))
    os.execve(start[0], start, environment(configuration))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
