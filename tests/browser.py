"""Walk a notebook's slides in a real browser with the network cut, and measure what is on stage.

`python -m tests.browser seminars/seminar2/seminar2.ipynb [--out FOLDER]` prints a line for every rule that a
state breaks and writes a picture of every state, into build/stage/seminar2 unless another folder is named.
The browser is the system's Chromium; stored outputs are shown and no kernel is started, so what only a kernel
draws, such as sliders, is not measured. What asks the page is in stage.js.
"""

from __future__ import annotations

import argparse
import ast
import base64
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tools import live
from tools.notebooks import ROOT, find_notebooks, read_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STAGE = ROOT / "build" / "stage"
SCREEN = {"width": 1280, "height": 720}
HIGHEST, LONGEST, SMALLEST = 690, 88, 14  # pixels of a slide, characters of a line of code, pixels of text
FONT_SIZE = 14  # points of legends and tick labels in the course's style
TITLE_SIZE = 12  # points of the titles that plot.images writes above images
PATIENCE = 300  # seconds for what takes five on a quiet machine


@dataclass(frozen=True)
class Fault:
    """A rule that a state breaks: which cell, which rule, and by how much in words."""

    slide: int
    cell: str
    kind: str
    amount: str

    def __str__(self) -> str:
        return f"slide {self.slide:3d}  {self.cell:24} {self.kind:8} {self.amount}"


@dataclass
class Walk:
    """What a walk found: the active cell of each state, the faults, the requests that left the machine."""

    cells: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------- server and browser
def chromium() -> str | None:
    """Return the path of the system's Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing() -> str | None:
    """Return one line that says what a walk needs and this machine lacks, None if it has everything."""
    if chromium() is None:
        return "slides are not walked: no Chromium here (Debian: apt install chromium)"
    if importlib.util.find_spec("playwright") is None:
        return "slides are not walked: no playwright here (pip install playwright)"
    return None


@contextmanager
def server(notebook: Path, *options: str) -> Iterator[str]:
    """Run JupyterLab as `make lab` does, with settings of its own; give its address, no slash at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
    own += ["--IdentityProvider.token=", "--no-browser", "--expose-app-in-browser"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        own.append("--allow-root")
    with tempfile.TemporaryDirectory(prefix="stage-") as home, open(Path(home, "log"), "w") as log:
        live.configure(Path(home, "config"))
        folders = {
            f"JUPYTER_{name.upper()}_DIR": str(Path(home, name)) for name in ("config", "runtime", "data")
        }
        start = live.command(notebook, [*own, *options])
        process = subprocess.Popen(start, env=os.environ | folders, stdout=log, stderr=log, cwd=ROOT)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", process, Path(home, "log"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # it waits for a kernel, and nobody waits for it
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers; raise RuntimeError with its log when it ends or stays silent."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            live.LOCAL.open(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not answer at {url}; its log ends with:\n{log.read_text()[-3000:]}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the system's Chromium without a window and without a way out of this machine."""
    from playwright.sync_api import sync_playwright

    # There is no such proxy: whatever is not for this machine goes there and fails.
    nowhere = {"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"}
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium(), proxy=nowhere) as running,
    ):
        yield running


@contextmanager
def page(running: Browser, url: str, requests: list[str]) -> Iterator[Page]:
    """Open JupyterLab in a fresh profile; requests that want to leave the machine go into the list."""

    def record(request: Any) -> None:
        if not request.url.startswith((url, url.replace("http", "ws", 1), "data:", "blob:")):
            requests.append(request.url)

    with running.new_context(viewport=SCREEN) as context:
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(path=Path(__file__).with_name("stage.js"))
        context.on("request", record)
        opened = context.new_page()
        opened.on("websocket", record)
        opened.goto(f"{url}/lab?reset", wait_until="commit")
        yield opened


# ----------------------------------------------------------------------------------------------- the walk
def states(opened: Page, path: str) -> Iterator[dict]:
    """Present the notebook at a path of the server, and give the measures of one state after another."""
    opened.wait_for_function("window.stage && window.jupyterapp")
    opened.evaluate("path => stage.open(path)", path)
    opened.evaluate("stage.start()")
    yield opened.evaluate("stage.measure()")
    while opened.evaluate("stage.next()"):
        yield opened.evaluate("stage.measure()")


def faults_of(slide: int, state: dict, functions: dict[str, ast.AST]) -> Iterator[Fault]:
    """Give every rule that a state breaks; `functions` are those of the notebook, which may draw."""
    if state["height"] > HIGHEST:
        yield Fault(slide, state["active"], "height", f"{state['height']:.0f} px, at most {HIGHEST}")
    for name in state["page"]:
        yield Fault(slide, state["active"], "sideways", f"the page ({name}) has a horizontal scrollbar")
    for cell in state["cells"]:
        for name, amount in cell["sideways"]:
            yield Fault(slide, cell["id"], "sideways", f"{name} is {amount} px too wide")
        if long := [line for line in cell["lines"] if len(line) > LONGEST]:
            widest = max(long, key=len)
            amount = f"{len(long)} longer than {LONGEST}, one has {len(widest)}: {widest.strip()[:40]}"
            yield Fault(slide, cell["id"], "line", amount)
        elif cell["wrapped"]:
            yield Fault(slide, cell["id"], "line", f"{cell['wrapped']} wrap, none is longer than {LONGEST}")
        if cell["broken"]:
            yield Fault(slide, cell["id"], "word", f"{len(cell['broken'])} broken: {cell['broken'][0][:40]}")
        if cell["pictures"]:
            points = smallest_text(cell["source"], functions)
            size = min(points * size_of_a_point(picture) for picture in cell["pictures"])
            if size < SMALLEST:
                yield Fault(
                    slide, cell["id"], "text", f"{size:.1f} px, at least {SMALLEST} ({points:g} points)"
                )


def size_of_a_point(picture: dict) -> float:
    """Return how many pixels of the slide a point of a figure has, from the resolution its PNG states."""
    with Image.open(io.BytesIO(base64.b64decode(picture["source"].partition(",")[2]))) as image:
        return picture["scale"] * image.info["dpi"][0] / 72


def smallest_text(source: str, functions: dict[str, ast.AST]) -> float:
    """Return the smallest size of text, in points, that a cell asks for, or the style's.

    A cell asks by a number (`fontsize=11`), itself or in a function of the notebook that it calls.
    """
    sizes, waiting, done = [FONT_SIZE], [ast.parse(source)], set()
    while waiting:
        for node in ast.walk(waiting.pop()):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(node.func, "id", getattr(node.func, "attr", None))
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            asked = [keywords.get(name) for name in ("fontsize", "labelsize")]
            sizes += [size.value for size in asked if isinstance(size, ast.Constant)]
            if called == "images" and "titles" in keywords:
                sizes.append(TITLE_SIZE)
            if called in functions.keys() - done:
                done.add(called)
                waiting.append(functions[called])
    return min(sizes)


def functions_of(notebook: Path) -> dict[str, ast.AST]:
    """Return the functions that a notebook defines, methods too, by name."""
    code = [ast.parse(cell.source) for cell in read_notebook(notebook).cells if cell.cell_type == "code"]
    nodes = [node for tree in code for node in ast.walk(tree)]
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def walk(running: Browser, url: str, notebook: Path, out: Path) -> Walk:
    """Walk a copy of a notebook from the first state to the last, and leave a picture of each in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("[0-9][0-9][0-9]-slide*.png"):
        old.unlink()
    copy = STAGE / notebook.stem / notebook.name  # the server sees only what is in the repository
    copy.parent.mkdir(parents=True, exist_ok=True)
    shown = live.presented(json.loads(notebook.read_text(encoding="utf-8")))  # as `make lab` shows it
    copy.write_text(json.dumps(shown), encoding="utf-8")
    found, functions, seen, slide = Walk(), functions_of(notebook), set(), 0
    with page(running, url, found.requests) as opened:
        camera = opened.context.new_cdp_session(opened)
        for state in states(opened, copy.relative_to(ROOT).as_posix()):
            found.cells.append(state["active"])
            slide += state["kind"] in ("slide", "subslide")
            # Not `opened.screenshot`, which waits once more for what stage.js has waited for.
            picture = camera.send("Page.captureScreenshot", {"optimizeForSpeed": True})["data"]
            name = f"{len(found.cells):03d}-slide{slide:02d}-{state['active']}.png"
            (out / name).write_bytes(base64.b64decode(picture))
            for fault in faults_of(slide, state, functions):
                if (fault.cell, fault.kind) not in seen:  # a cell stays on stage for several states
                    seen.add((fault.cell, fault.kind))
                    found.faults.append(fault)
    return found


def main(arguments: list[str]) -> int:
    """Walk the notebook that is named; return 1 when a state breaks a rule, 2 where there is no browser."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser", description=__doc__.partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, help="folder for the pictures, by default build/stage/NAME")
    options = parser.parse_args(arguments)
    if not options.notebook.is_file():
        parser.error(f"expected a notebook, and there is no file {options.notebook}")
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    notebook, start = options.notebook.resolve(), time.monotonic()
    with server(find_notebooks([ROOT / "seminars"])[0]) as url, browser() as running:
        found = walk(running, url, notebook, options.out or STAGE / notebook.stem)
    for fault in found.faults:
        print(fault)
    for request in found.requests:
        print(f"a request left the machine: {request}")
    counts = f"{len(found.cells)} states, {len(found.faults)} faults"
    print(f"{notebook.name}: {counts}, {time.monotonic() - start:.0f} s")
    return int(bool(found.faults or found.requests))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
