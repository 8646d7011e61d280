"""Walk a notebook's slides in a real browser with the network cut, and measure what is on stage.

`python -m tests.browser seminars/seminar2/seminar2.ipynb [--out FOLDER]` prints a line for every rule that a state
breaks and writes a picture of every state; the folder is build/stage/seminar2 unless another is named.
The browser is the system's Chromium; stored outputs are shown, no kernel is started.
"""

from __future__ import annotations

import argparse
import base64
import io
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

from tools import live
from tools.notebooks import ROOT, NotebookError, find_notebooks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STAGE = ROOT / "build" / "stage"
SCREEN = {"width": 1280, "height": 720}
HIGHEST, LONGEST, SMALLEST = 690, 88, 14  # pixels of a slide, characters of a line of code, pixels of text
FONT_SIZE = 14  # points, of legends and tick labels in the course's style: dgm_utils.plot.style
PATIENCE = 180  # seconds for what takes five on a quiet machine


@dataclass(frozen=True)
class Fault:
    """A rule that a state breaks: in which cell, which rule, and by how much in words."""

    slide: int
    cell: str
    kind: str
    amount: str

    def __str__(self) -> str:
        return f"slide {self.slide:3d}  {self.cell:24} {self.kind:8} {self.amount}"


@dataclass
class Walk:
    """What a walk through a notebook found."""

    states: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # that wanted to leave the machine


# ------------------------------------------------------------------------------------- server and browser
def chromium() -> str | None:
    """Return the path of the system's Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def missing() -> str | None:
    """Return one line that says what a walk would need and this machine lacks, None if it has everything."""
    if chromium() is None:
        return "no Chromium on this machine (Debian: apt install chromium), slides are not walked"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed (pip install playwright), slides are not walked"
    return None


@contextmanager
def server(notebook: Path, *options: str) -> Iterator[str]:
    """Run JupyterLab as `make lab` does, with settings of its own, and give its address, without a slash at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="stage-") as home, open(Path(home, "log"), "w+") as log:
        live.configure(Path(home, "config"))
        start = live.command(
            notebook,
            [
                "--no-browser", "--expose-app-in-browser", "--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1",
                f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
                *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []), *options,
            ],
        )  # fmt: skip
        folders = {
            f"JUPYTER_{name.upper()}_DIR": str(Path(home, name)) for name in ("config", "runtime", "data")
        }
        process = subprocess.Popen(start, env=os.environ | folders, stdout=log, stderr=log, cwd=ROOT)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api", process, Path(home, "log"))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers; raise RuntimeError with its log when it ends or stays silent."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not answer at {url}; its log:\n{log.read_text()[-3000:]}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the system's Chromium without a window and without a way out of this machine."""
    from playwright.sync_api import sync_playwright

    # The proxy does not exist: whatever is not for this machine goes there and fails.
    nowhere = {"server": "http://127.0.0.1:9", "bypass": "127.0.0.1"}
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        with playwright.chromium.launch(executable_path=chromium(), args=options, proxy=nowhere) as running:
            yield running


@contextmanager
def page(running: Browser, url: str, requests: list[str]) -> Iterator[Page]:
    """Open a page of JupyterLab in a fresh profile; requests that want to leave the machine go into the list."""

    def record(request: Any) -> None:
        if not request.url.startswith((url, "data:", "blob:", url.replace("http", "ws", 1))):
            requests.append(request.url)

    with running.new_context(viewport=SCREEN, device_scale_factor=1) as context:
        context.set_default_timeout(PATIENCE * 1000)
        context.add_init_script(path=Path(__file__).with_name("stage.js"))
        context.on("request", record)
        opened = context.new_page()
        opened.on("websocket", record)
        opened.goto(f"{url}/lab?reset", wait_until="commit")
        yield opened


# ---------------------------------------------------------------------------------------------- the walk
def states(opened: Page, path: str) -> Iterator[dict]:
    """Present the notebook at a path of the server and give the measures of one state after another."""
    opened.wait_for_function("window.stage && window.jupyterapp")
    opened.evaluate("path => stage.open(path)", path)
    opened.evaluate("stage.start()")
    yield opened.evaluate("stage.measure()")
    while opened.evaluate("stage.next()"):
        yield opened.evaluate("stage.measure()")


def faults_of(slide: int, state: dict) -> Iterator[Fault]:
    """Give every rule that a state breaks, from its measures."""
    if state["height"] > HIGHEST:
        yield Fault(slide, state["active"], "height", f"{state['height']:.0f} px, allowed are {HIGHEST}")
    for name in state["page"]:
        yield Fault(slide, state["active"], "sideways", f"the page ({name}) has a horizontal scrollbar")
    for cell in state["cells"]:
        for name, amount in cell["sideways"]:
            yield Fault(slide, cell["id"], "sideways", f"{name} is {amount} px too wide")
        long = [line for line in cell["lines"] if len(line) > LONGEST]
        if long:
            widest = max(long, key=len)
            yield Fault(
                slide,
                cell["id"],
                "line",
                f"{len(long)} over {LONGEST}, longest {len(widest)}: {widest.strip()[:40]}",
            )
        if cell["broken"]:
            yield Fault(slide, cell["id"], "word", f"{len(cell['broken'])} broken: {cell['broken'][0][:40]}")
        for picture in cell["pictures"]:
            size = picture["scale"] * FONT_SIZE * dots_per_inch(picture["source"]) / 72
            if size < SMALLEST:
                yield Fault(
                    slide,
                    cell["id"],
                    "text",
                    f"{size:.1f} px, at least {SMALLEST}: shown at {picture['scale']:.2f}",
                )


def dots_per_inch(source: str) -> float:
    """Return the resolution that a PNG says of itself; `source` is a data URL."""
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as image:
        return image.info.get("dpi", (100, 100))[0]


def walk(running: Browser, url: str, notebook: Path, out: Path) -> Walk:
    """Walk a notebook's copy in `out` from the first state to the last, with a picture of each."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    copy = Path(shutil.copy(notebook, out))
    found, seen, slide = Walk(), set(), 0
    with page(running, url, found.requests) as opened:
        for state in states(opened, copy.relative_to(ROOT).as_posix()):
            found.states += 1
            slide += state["kind"] in ("slide", "subslide")
            opened.screenshot(
                path=out / f"{found.states:03d}-{slide:03d}-{state['active']}.png", animations="disabled"
            )
            for fault in faults_of(slide, state):
                if (fault.cell, fault.kind) not in seen:  # a cell stays on stage for several states
                    seen.add((fault.cell, fault.kind))
                    found.faults.append(fault)
    return found


def main(arguments: list[str]) -> int:
    """Walk the notebooks that the command line names; return 1 when a state breaks a rule, 2 without a browser."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument(
        "--out", type=Path, help="folder of the repository for the pictures, by default build/stage/NAME"
    )
    options = parser.parse_args(arguments)
    try:
        notebooks = [path.resolve() for path in find_notebooks(options.notebooks)]
    except NotebookError as error:
        parser.error(str(error))
    if reason := missing():
        print(reason, file=sys.stderr)
        return 2
    failed = False
    with server(notebooks[0]) as url, browser() as running:
        for notebook in notebooks:
            start = time.monotonic()
            found = walk(running, url, notebook, (options.out or STAGE / notebook.stem).resolve())
            for fault in found.faults:
                print(fault)
            for request in found.requests:
                print(f"left the machine: {request}")
            failed |= bool(found.faults or found.requests)
            print(
                f"{notebook.name}: {found.states} states, {len(found.faults)} faults, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
