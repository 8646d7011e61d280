"""Store what sliders show, for pages that have no kernel.

`python -m tools.sliders [seminars/seminar2 ...]` runs notebooks down to their last slider, in the quick
profile with one thread, and each call of `interact` draws its figure for several values of its controls. The
pictures lie in `docs/sliders`, a folder a seminar and in it one a cell, beside a `slider.json` that says what
each shows. `twin` puts them in the place of the slider: HTML that finds the same folders in `_static/sliders`
of the site and works with `_static/sliders.js`. Run the command when a slider, or what it draws, has changed;
the tests say so.
"""

from __future__ import annotations

import argparse
import ast
import base64
import copy
import hashlib
import html
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image

from tools.notebooks import (
    ROOT,
    NotebookError,
    find_notebooks,
    read_notebook,
    text_of,
    write_atomically,
)

FOLDER = ROOT / "docs" / "sliders"
ON_SITE = "../../_static/sliders"  # seen from seminars/seminarN/seminarN.html
KERNEL = ROOT / "tools" / "slider_kernel.py"
LIMIT = 3600  # seconds a notebook: a slider's function may take seconds, and is called sixty times
COLOURS = 64  # of a picture: half the bytes, and no eye sees it in a plot


# --------------------------------------------------------------------------------- what a notebook has
def slider_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells that call `interact`, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and _calls_interact(cell)]


def _calls_interact(cell: NotebookNode) -> bool:
    calls = (node.func for node in ast.walk(_parsed(cell)) if isinstance(node, ast.Call))
    return any(isinstance(called, ast.Name) and called.id == "interact" for called in calls)


def _parsed(cell: NotebookNode) -> ast.Module:
    """Return a cell's syntax tree, an empty one where the cell is not plain Python."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:  # a magic, or a shell's command
        return ast.Module([], [])


def checksum(notebook: NotebookNode, cell: NotebookNode) -> str:
    """Return the SHA-256 of a cell's source with all functions of the notebook that it uses, however far."""
    functions = {}
    for other in notebook.cells:
        for node in _parsed(other).body if other.cell_type == "code" else ():
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = node, ast.get_source_segment(other.source, node)
    used, waiting = {}, [_parsed(cell)]
    while waiting:
        names = {node.id for node in ast.walk(waiting.pop()) if isinstance(node, ast.Name)}
        for name in names & functions.keys() - used.keys():
            node, used[name] = functions[name]
            waiting.append(node)
    parts = [cell.source, *(used[name] for name in sorted(used))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def default_frame(slider: dict) -> int:
    """Return the number of the frame that shows all controls' defaults: the last control changes fastest."""
    number = 0
    for control in slider["controls"]:
        number = number * len(control["values"]) + control["default"]
    return number


# ------------------------------------------------------------------------------------------ the command
def main(arguments: list[str] | None = None) -> int:
    """Store the frames of notebooks, one after another; return 0 if all are kept, 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.sliders", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="notebooks or folders (default: all seminars)")
    options = parser.parse_args(arguments)
    status = 0
    try:
        paths = find_notebooks(options.paths or [ROOT / "seminars"])
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    for path in paths:
        try:
            store(path)
        except NotebookError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


def store(path: Path, folder: Path = FOLDER, out: Path = ROOT / "build" / "sliders") -> None:
    """Run a notebook down to its last slider, below `out`, and keep the frames below `folder`.

    Raises:
        NotebookError: the notebook cannot be read, a cell failed, or a slider cannot be shown by frames.
    """
    notebook = read_notebook(path)
    cells = slider_cells(notebook)
    needed = notebook.cells[: notebook.cells.index(cells[-1]) + 1] if cells else []
    write_atomically(out / path.name, text_of(NotebookNode(notebook | {"cells": needed})))
    recorded = _record(out / path.name, out / path.stem)
    if len(recorded) != len(cells):
        counts = f"{len(cells)} cells call interact, and it was called {len(recorded)} times"
        raise NotebookError(f"{path}: {counts}: call it once in a cell")
    executed = {cell.id: cell for cell in read_notebook(out / path.stem / path.name).cells}
    for cell, slider in zip(cells, recorded, strict=True):
        pictures = [output.get("data", {}).get("image/png") for output in executed[cell.id].outputs]
        again = slider["frames"][default_frame(slider)]["png"]
        if [small(picture) for picture in pictures if picture] != [small(again)]:
            why = "its function must leave everything as it was, and draw from the usual random generators"
            raise NotebookError(f"{path}, cell {cell.id}: called again, it shows another picture: {why}")
    shutil.rmtree(folder / path.stem, ignore_errors=True)
    for cell, slider in zip(cells, recorded, strict=True):
        _keep(folder / path.stem / cell.id, slider, checksum(notebook, cell))


def _record(path: Path, folder: Path) -> list[dict]:
    """Run a notebook into a folder and return what `slider_kernel` wrote, in the order of the calls."""
    from tools import run_notebooks  # the site, which calls `twin`, is made without what runs notebooks

    with tempfile.TemporaryDirectory(prefix="sliders-") as temporary:
        written, settings = Path(temporary, "written"), Path(temporary, "ipython")
        startup = settings / "profile_default" / "startup" / "sliders.py"
        written.mkdir()
        startup.parent.mkdir(parents=True)
        # In a namespace of its own: the notebook may use the same names.
        line = f"__import__('runpy').run_path({str(KERNEL)!r})['install']({str(written)!r})\n"
        startup.write_text(line, encoding="utf-8")
        os.environ["IPYTHONDIR"] = str(settings)  # kernels inherit it
        try:
            job = run_notebooks.Job(path, folder, "quick", LIMIT, threads=1)
            report = run_notebooks.run_notebook(job)
        finally:
            del os.environ["IPYTHONDIR"]
        print(run_notebooks.table([report]), flush=True)
        if report.failure:
            raise NotebookError(report.failure)
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(written.iterdir())]


def _keep(folder: Path, slider: dict, source: str) -> None:
    """Write the pictures of a slider, all of one size, and what they show into a folder."""
    folder.mkdir(parents=True)
    sizes = (_opened(frame["png"]).size for frame in slider["frames"])
    size = tuple(map(max, zip(*sizes, strict=True)))
    frames = []
    for number, frame in enumerate(slider["frames"]):
        frames.append({"file": f"{number:02}.webp", "alt": frame["alt"]})
        (folder / frames[-1]["file"]).write_bytes(small(frame["png"], size))
    content = {"source": source, "controls": slider["controls"], "frames": frames}
    write_atomically(folder / "slider.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def small(png: str, size: tuple[int, int] | None = None) -> bytes:
    """Return a picture, PNG in base64, as WebP of few colours, amid white of a size (by default its own)."""
    picture = _opened(png)
    ground = Image.new("RGBA", size or picture.size, "white")
    margins = [(whole - part) // 2 for whole, part in zip(ground.size, picture.size, strict=True)]
    ground.alpha_composite(picture.convert("RGBA"), tuple(margins))
    few = ground.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.convert("RGB").save(out, "WEBP", lossless=True, quality=80)  # 100 takes a second, and saves 2 %
    return out.getvalue()


def _opened(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


# -------------------------------------------------------------------------------------------- the twins
def twin(notebook: NotebookNode, number: int, folder: Path = FOLDER) -> NotebookNode:
    """Return a copy of seminar `number` whose sliders are HTML that needs no kernel.

    The page that shows it lies at `seminars/seminarN/seminarN.html` and loads `_static/sliders.js` and
    `_static/sliders.css`; what is in `docs/sliders` lies in `_static/sliders`.

    Raises:
        NotebookError: a slider has no frames, or has changed since they were stored.
    """
    made = copy.deepcopy(notebook)
    for cell in slider_cells(made):
        where = f"seminar{number}/{cell.id}"
        path = folder / where / "slider.json"
        slider = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if slider.get("source") != checksum(notebook, cell):
            state = "is not that of its frames" if slider else "has no frames"
            advice = f"run python -m tools.sliders seminars/seminar{number}"
            raise NotebookError(f"the slider {where} {state}: {advice}")
        cell.outputs = [new_output("display_data", {"text/html": figure(slider, folder / where, cell.id)})]
    return made


def figure(slider: dict, folder: Path, name: str) -> str:
    """Return a slider as HTML: its default frame, and controls that wait for the script to show them."""
    frame = slider["frames"][default_frame(slider)]
    with Image.open(folder / frame["file"]) as picture:
        width, height = picture.size
    source = f"{ON_SITE}/{folder.parent.name}/{name}/{frame['file']}"
    frames = json.dumps([[one["file"], one["alt"]] for one in slider["frames"]], ensure_ascii=False)
    controls = [control(one, f"slider-{name}-{n}") for n, one in enumerate(slider["controls"])]
    lines = [
        f'<figure class="slider" data-frames="{html.escape(frames)}">',
        f'<img src="{html.escape(source)}" alt="{html.escape(frame["alt"])}"'
        f' width="{width}" height="{height}" loading="lazy">',
        '<div class="slider-controls" hidden>',
        *controls,
        "</div>",
        "</figure>",
    ]
    return "\n".join(lines)


def control(described: dict, name: str) -> str:
    """Return a labelled check box or range whose positions are the places of a control's values."""
    label, values, default = html.escape(described["name"]), described["values"], described["default"]
    label = f'<label for="{name}">{label}</label>'
    if values == ["False", "True"]:
        checked = " checked" if default else ""
        return f'<div>{label} <input type="checkbox" id="{name}" autocomplete="off"{checked}></div>'
    shown, texts = html.escape(values[default]), html.escape(json.dumps(values))
    return (
        f'<div>{label} <input type="range" id="{name}" autocomplete="off" min="0" max="{len(values) - 1}"'
        f' value="{default}" aria-valuetext="{shown}" data-values="{texts}">'
        f' <output for="{name}">{shown}</output></div>'
    )


if __name__ == "__main__":
    sys.exit(main())
