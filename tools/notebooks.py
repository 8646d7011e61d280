"""Find, read and write notebooks: what the other tools share."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nbformat takes up to two seconds: only what reads or writes a notebook waits for it
    from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("seminars", "homeworks")  # where the course keeps its notebooks
STUDENT_VERSION = re.compile(r"hw\d+\.ipynb")
CODE_STUB = '# YOUR CODE HERE\nraise NotImplementedError("not answered yet")'  # where an answer goes
TEXT_STUB = "YOUR ANSWER HERE"
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours and cursor movements


class NotebookError(Exception):
    """A notebook that cannot be read; the message is one line for the person who must mend it."""


def find_notebooks(paths: Iterable[str | Path] = (), root: Path = ROOT) -> list[Path]:
    """List the notebooks under files and folders, or all of the course when no path is given.

    Raises:
        NotebookError: a path does not exist or is not a notebook.
    """
    found: dict[Path, None] = {}
    for path in [Path(p) for p in paths] or [root / folder for folder in FOLDERS if (root / folder).is_dir()]:
        if path.is_dir():
            hits = sorted(p for p in path.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
        elif not path.exists():
            raise NotebookError(f"{path}: no such file or folder")
        elif path.suffix != ".ipynb":
            raise NotebookError(f"{path}: not a notebook (its name does not end in .ipynb)")
        else:
            hits = [path]
        found.update(dict.fromkeys(hits))
    return list(found)


def source_of(cell: dict) -> str:
    """Return the source of a cell, which a notebook's file holds as one text or as lines."""
    return "".join(cell["source"])


def slide_type(cell: dict) -> str | None:
    """Return how a cell is shown: slide, subslide, fragment, notes, skip, or None where nothing is said."""
    return cell["metadata"].get("slideshow", {}).get("slide_type")


def read_notebook(path: str | Path) -> NotebookNode:
    """Read a notebook of format 4 and say in one line why it cannot be read.

    Raises:
        NotebookError: not UTF-8, a merge conflict, broken JSON, not a notebook, an older format.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise NotebookError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise NotebookError(f"{path}: byte {error.start} is not UTF-8; save the notebook as UTF-8") from None
    conflict = re.search(r"^(?:<{7}|>{7})(?: |$)", text, re.MULTILINE)
    if conflict:
        line = text.count("\n", 0, conflict.start()) + 1
        raise NotebookError(f"{path}:{line}: merge conflict marker; choose one side, then run make fmt")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{error.msg} (column {error.colno})"
        raise NotebookError(f"{path}:{error.lineno}: broken JSON, {where}") from None
    version = content.get("nbformat") if isinstance(content, dict) else None
    if version != 4 or not isinstance(content.get("cells"), list):
        advice = "save it again with Jupyter"
        raise NotebookError(f"{path}: expected a notebook of format 4, got {version}; {advice}")
    import nbformat

    try:
        # Not nbformat.reads: it gives random ids to cells that have none, and a second run would differ.
        return nbformat.v4.reads(text)
    except (KeyError, TypeError, AttributeError) as error:
        raise NotebookError(f"{path}: not a valid notebook ({type(error).__name__}: {error})") from None


def text_of(notebook: NotebookNode) -> str:
    """Return the one text of a notebook's file: every tool that writes one writes this."""
    import nbformat

    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write_atomically(path: str | Path, text: str, *, mode: int | None = None) -> None:
    """Write a text file so that an interruption leaves the old file or the new one, never half of either.

    A link in the place of the file is replaced, not followed. `mode` is that of the file that was there, or
    of a new one, unless it is given.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        there = path.exists() and not path.is_symlink()
        os.chmod(temporary, mode or (path.stat().st_mode if there else 0o666 & ~_umask()))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
