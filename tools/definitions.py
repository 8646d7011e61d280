"""Load definitions from notebooks, and copy them into the notebooks that need them.

A model that the course teaches is defined once, in the seminar that teaches it, in a cell tagged `def:NAME`.
Tests and figures load it from there. A later notebook carries a copy in a cell tagged `from:seminar1/NAME`,
so that it stands alone; `make fmt` writes the copies.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING

from tools.notebooks import ROOT, NotebookError, read_notebook

if TYPE_CHECKING:
    from nbformat import NotebookNode


def load(path: str | Path, *names: str) -> types.SimpleNamespace:
    """Execute a notebook's `imports`, definitions and copies of others' up to the wanted ones, nothing else.

    Args:
        path: the notebook.
        names: the NAMEs of its `def:NAME` cells; all of them when none is given. Definitions that precede a
            wanted one are executed too, because it may depend on them.

    Returns:
        A namespace of everything the executed cells define.

    Raises:
        NotebookError: the notebook cannot be read, or has no such definition.
    """
    notebook = read_notebook(path)
    sources = definitions(notebook, path)
    for name in names:
        if name not in sources:
            raise NotebookError(f"{path}: no cell tagged def:{name}; it defines {_listed(sources)}")
    wanted = set(names or sources)
    namespace: dict[str, object] = {"__name__": Path(path).stem}
    for number, cell in enumerate(notebook.cells, start=1):
        name, copy = _tagged(cell, "def:"), _tagged(cell, "from:")
        if not wanted:
            break
        if name or copy or "imports" in cell.metadata.get("tags", []):
            exec(compile(cell.source, f"{path}, cell {number}", "exec"), namespace)
            wanted.discard(name)
    public = {key: value for key, value in namespace.items() if not key.startswith("__")}
    return types.SimpleNamespace(**public)


def seminar(number: int, *names: str) -> types.SimpleNamespace:
    """Return what a seminar of the course defines, down to the wanted definitions; see `load`."""
    return load(ROOT / "seminars" / f"seminar{number}" / f"seminar{number}.ipynb", *names)


def definitions(notebook: NotebookNode, path: str | Path) -> dict[str, str]:
    """Return the source of each `def:NAME` cell, by name, in the notebook's order.

    Raises:
        NotebookError: two cells define one name.
    """
    found: dict[str, str] = {}
    for cell in notebook.cells:
        name = _tagged(cell, "def:")
        if name in found:
            raise NotebookError(f"{path}: two cells are tagged def:{name}; keep one")
        if name is not None:
            found[name] = cell.source
    return found


def sync_copies(notebook: NotebookNode, path: str | Path, root: Path = ROOT) -> list[str]:
    """Write the source of each definition into the cells tagged as its copy.

    Args:
        notebook: changed in place.
        path: where it stands, for the messages.
        root: the folder that holds `seminars`.

    Returns:
        The tags of the cells that changed.

    Raises:
        NotebookError: a tag names a seminar or a definition that does not exist.
    """
    changed = []
    for cell in notebook.cells:
        origin = _tagged(cell, "from:")
        if origin is None:
            continue
        seminar, _, name = origin.partition("/")
        source_path = root / "seminars" / seminar / f"{seminar}.ipynb"
        if not name or not source_path.is_file():
            raise NotebookError(
                f"{path}: tag from:{origin}: expected from:seminarN/NAME, and there is no {source_path}"
            )
        sources = definitions(read_notebook(source_path), source_path)
        if name not in sources:
            raise NotebookError(f"{path}: tag from:{origin}: {seminar} defines {_listed(sources)}")
        if cell.source != sources[name]:
            cell.source = sources[name]
            changed.append(f"from:{origin}")
    return changed


def _tagged(cell: NotebookNode, prefix: str) -> str | None:
    """Return what follows the prefix in the cell's first tag that has it."""
    tags = cell.metadata.get("tags", []) if cell.cell_type == "code" else []
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)


def _listed(sources: dict[str, str]) -> str:
    return ", ".join(sources) or "nothing"
