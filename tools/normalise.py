"""Normalise notebooks, so that what git sees changes only when the lesson changes.

`python -m tools.normalise [PATHS] [--check]` is a part of `make fmt`. A cell's id, source, tags, slides,
grading metadata and the alternative text of its figures stay; execution counts become 1..n; widget state,
progress bars, memory addresses, machine paths and everything else that an editor or a run leaves behind go.
What stands elsewhere gets its current text: cells that carry another notebook's definition, the set-up cell,
the line of a homework that says where to hand in.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.course import setup_cell, with_hand_in
from tools.definitions import sync_copies
from tools.notebooks import (
    ANSI,
    ROOT,
    STUDENT_VERSION,
    NotebookError,
    find_notebooks,
    read_notebook,
    text_of,
    write_atomically,
)

MAX_TEXT = 20_000  # characters of plain text in one output: more than a screen is not read
MAX_RICH = 400_000  # bytes of a picture, of HTML or of a sound in one output
MAX_NOTEBOOK = 2_000_000  # bytes of a notebook: GitHub stops rendering somewhat above

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
NOTEBOOK_KEYS = {"accelerator", "colab", "kernelspec", "language_info"}
COLAB_KEYS = {"gpuType", "toc_visible"}
CELL_KEYS = {"cellView", "collapsed", "deletable", "editable", "jupyter", "nbgrader", "slideshow", "tags"}
PICTURE_KEYS = {"alt", "height", "width"}
WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

OVERWRITTEN = re.compile(r"^.*\r(?=[^\n])", re.MULTILINE)  # what a carriage return hid from the reader
PROGRESS = re.compile(  # a bar of tqdm, with and without a known total; no line of data is searched for one
    r"^(?!.{1000}).*(?:\d+%\|.*\|\s*\S+/\S+|\d+\s?it) \[\d+:\d+.*\][ \t]*(?:\n|\Z)", re.MULTILINE
)
# A path from where it starts, so that long data is passed over once.
FOLDER = r"(?<![^\s'\"<>(=,\[])[^\s'\"<>(=,\[]*[/\\]"
HOME = r"/home/[\w.-]+|/Users/[\w.-]+|/root|[A-Z]:\\Users\\[\w.-]+"
PATH_END = r"(?=[/\\\s'\":]|\Z)"
NOISE = [
    (re.compile(r"\bat 0x[0-9a-fA-F]+"), "at 0x…"),
    (re.compile(FOLDER + r"ipykernel_\d+[/\\]\d+\.py|<ipython-input-[^>]*>"), "<cell>"),
    (re.compile(r"\bCell In ?\[\d+\]"), "Cell"),  # counts the injected parameters too
    (re.compile(FOLDER + r"(?:site-packages|lib[/\\]python3\.\d+)[/\\]"), ""),
    (re.compile(re.escape(str(ROOT)) + PATH_END), "."),
    (re.compile(rf"(?<![\w.~])(?:{HOME}){PATH_END}"), "~"),
]


def clean_text(text: str) -> str:
    """Remove from an output's text what differs from run to run or from machine to machine."""
    text = PROGRESS.sub("", OVERWRITTEN.sub("", ANSI.sub("", text)))
    for pattern, replacement in NOISE:
        text = pattern.sub(replacement, text)
    return text


def clean_png(encoded: str) -> str:
    """Drop the text and time chunks of a base64 PNG, so that its bytes depend on its pixels alone."""
    data = base64.b64decode(encoded)
    kept, position = [data[:8]], 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length  # a chunk is its length, type, data and checksum
        if data[position + 4 : position + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            kept.append(data[position:end])
        position = end
    return base64.b64encode(b"".join(kept)).decode()


def normalise(notebook: NotebookNode, *, student: bool = False) -> list[str]:
    """Normalise a notebook in place and return what is too big in it, one sentence each.

    Args:
        notebook: of format 4.
        student: a homework's student version, which keeps no outputs.
    """
    widgets = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    _clean_notebook_metadata(notebook)
    problems, ids, count = [], set(), 0
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = _unique_id(cell, ids)
        cell.metadata = _clean_cell_metadata(cell.metadata)
        cell.source = _strip_lines(cell.source, keep_breaks=cell.cell_type == "markdown")
        if cell.cell_type != "code":
            cell.pop("outputs", None)
            cell.pop("execution_count", None)
            continue
        ran = not student and (cell.get("execution_count") is not None or bool(cell.get("outputs")))
        count += ran
        cell.outputs = _clean_outputs(cell.get("outputs", []), widgets) if ran else []
        cell.execution_count = count if ran else None
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
            problems += [f"cell {number} ({cell.id}): {problem}" for problem in _too_big(output)]
    return problems


def normalised_text(path: str | Path) -> tuple[str, list[str]]:
    """Return the text that a notebook's file should hold, and what is too big in it.

    Raises:
        NotebookError: the notebook cannot be read or is not valid.
    """
    notebook = read_notebook(path)
    sync_copies(notebook, path)
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell()
        if cell.cell_type == "markdown":
            cell.source = with_hand_in(cell.source)
    try:
        problems = normalise(notebook, student=bool(STUDENT_VERSION.fullmatch(Path(path).name)))
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        raise NotebookError(f"{path}: not a valid notebook: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise NotebookError(f"{path}: not a valid notebook ({type(error).__name__}: {error})") from None
    text = text_of(notebook)
    size = len(text.encode())
    if size > MAX_NOTEBOOK:
        problems.append(f"{size:,} bytes in all, limit {MAX_NOTEBOOK:,}: use fewer or smaller figures")
    return text, [f"{path}: {problem}" for problem in problems]


def _clean_notebook_metadata(notebook: NotebookNode) -> None:
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    kept = {key: value for key, value in notebook.metadata.items() if key in NOTEBOOK_KEYS}
    kept |= {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    if "colab" in kept:
        kept["colab"] = {k: v for k, v in kept["colab"].items() if k in COLAB_KEYS} | {"provenance": []}
    notebook.metadata = nbformat.from_dict(kept)


def _unique_id(cell: NotebookNode, taken: set[str]) -> str:
    """Keep the cell's id if it is valid and free, else derive one from it or from the source."""
    given = cell.get("id") or cell.metadata.get("id")
    stem = str(given or hashlib.sha1(cell.source.encode()).hexdigest()[:8])
    stem = identifier = re.sub(r"[^a-zA-Z0-9-_]", "-", stem)[:64]
    copy = 0
    while identifier in taken:
        copy += 1
        identifier = hashlib.sha1(f"{stem}/{copy}".encode()).hexdigest()[:8]
    taken.add(identifier)
    return identifier


def _clean_cell_metadata(metadata: dict) -> NotebookNode:
    kept = {key: value for key, value in metadata.items() if key in CELL_KEYS}
    if "jupyter" in kept:
        kept["jupyter"] = {key: True for key in ("source_hidden",) if kept["jupyter"].get(key)}
    return nbformat.from_dict({key: value for key, value in kept.items() if value not in ({}, [], None)})


def _strip_lines(source: str, *, keep_breaks: bool) -> str:
    """Strip trailing white space; two spaces at the end of a Markdown line are a line break and stay."""
    lines = source.rstrip().split("\n")
    stripped = [line.rstrip() for line in lines]
    if keep_breaks:
        pairs = zip(stripped, lines, strict=True)
        stripped = [kept + "  " * (kept != "" and line.endswith("  ")) for kept, line in pairs]
    return "\n".join(stripped)


def _clean_outputs(outputs: list[NotebookNode], widgets: dict) -> list[NotebookNode]:
    """Return the outputs worth keeping, cleaned."""
    cleaned = []
    for output in _merge_streams(_show_widgets(outputs, widgets)):
        if output.output_type == "stream":
            output.text = clean_text(output.text)
        elif output.output_type == "error":
            output.evalue = clean_text(output.evalue)
            output.traceback = [clean_text(line) for line in output.traceback]
        else:
            _clean_data(output)
        if output.get("text", "").strip() or output.get("data") or output.output_type == "error":
            cleaned.append(output)
    return _merge_streams(cleaned)  # a progress bar that went may have stood between two prints


def _show_widgets(outputs: list[NotebookNode], widgets: dict) -> list[NotebookNode]:
    """Put what a widget displays where the widget stood: a page without a kernel shows a slider's figure."""
    shown = []
    for output in outputs:
        if WIDGET not in output.get("data", {}):
            shown.append(output)
            continue
        pending = [output.data[WIDGET].get("model_id")]
        while pending:
            state = widgets.get(pending.pop(0), {}).get("state", {})
            shown += [nbformat.from_dict(inner) for inner in state.get("outputs", [])]
            pending += [child.removeprefix("IPY_MODEL_") for child in state.get("children", [])]
    return shown


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream: where a stream is cut depends on the load of the machine."""
    merged: list[NotebookNode] = []
    for output in outputs:
        previous = merged[-1] if merged else {}
        streams = previous.get("output_type") == output.output_type == "stream"
        if streams and previous.name == output.name:
            previous.text += output.text
        else:
            merged.append(output)
    return merged


def _clean_data(output: NotebookNode) -> None:
    metadata = {}
    for kind, value in output.data.items():
        kept = {key: v for key, v in output.metadata.get(kind, {}).items() if key in PICTURE_KEYS}
        if kept:
            metadata[kind] = kept
        if kind == "image/png":
            output.data[kind] = clean_png(value)
        elif kind.startswith("image/") and kind != "image/svg+xml":
            output.data[kind] = "".join(value.split())
        elif isinstance(value, str):
            output.data[kind] = clean_text(value)
    output.metadata = nbformat.from_dict(metadata)


def _too_big(output: NotebookNode) -> list[str]:
    """Say which parts of an output are above the limits, with both numbers and what to do."""
    problems = []
    pieces = {"text": output.get("text", "")} | dict(output.get("data", {}))
    for kind, value in pieces.items():
        content = value if isinstance(value, str) else json.dumps(value)
        if kind in ("text", "text/plain"):
            if len(content) > MAX_TEXT:
                problems.append(f"{len(content):,} characters of text, limit {MAX_TEXT:,}: print a summary")
            continue
        picture = kind.startswith("image/")
        base64_encoded = picture and kind != "image/svg+xml"
        size = len(content) * 3 // 4 if base64_encoded else len(content.encode())
        if size > MAX_RICH:
            advice = "draw it smaller or with fewer points" if picture else "show a part of it"
            problems.append(f"{kind} of {size:,} bytes, limit {MAX_RICH:,}: {advice}")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Normalise notebooks, or with --check say which are not; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.normalise", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", help="notebooks or folders (default: all of the course)")
    words = "change nothing, exit with 1 if something would change"
    parser.add_argument("--check", action="store_true", help=words)
    options = parser.parse_args(arguments)
    status = 0
    try:
        paths = find_notebooks(options.paths)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    for path in paths:
        try:
            text, problems = normalised_text(path)
        except NotebookError as error:
            print(error, file=sys.stderr)
            status = 1
            continue
        for problem in problems:
            print(problem, file=sys.stderr)
            status = 1
        if text == path.read_text(encoding="utf-8"):
            continue
        if options.check:
            print(f"{path}: not normalised; run make fmt", file=sys.stderr)
            status = 1
        else:
            write_atomically(path, text)
            print(f"{path}: normalised")
    return status


if __name__ == "__main__":
    sys.exit(main())
