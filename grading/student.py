"""Make the student version of a homework, as `nbgrader generate_assignment` would, without nbgrader."""

from __future__ import annotations

import ast
import copy
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tools.handed_in import MARK
from tools.notebooks import CODE_STUB, TEXT_STUB, read_notebook, text_of, write_atomically

if TYPE_CHECKING:
    from nbformat import NotebookNode


def answer_name(cell: dict) -> str | None:
    """Return the name in the `@answer` line with which a cell begins, None if it has none."""
    found = MARK.match(cell["source"].lstrip())
    return found.group(1) if found else None


def homework_paths(homework: Path) -> tuple[Path, Path]:
    """Return the paths of a homework's source and of its student version.

    Raises FileNotFoundError unless the folder holds exactly one `hwN.solution.ipynb`.
    """
    sources = sorted(Path(homework).glob("*.solution.ipynb"))
    if len(sources) != 1:
        raise FileNotFoundError(f"expected one *.solution.ipynb in {homework}, found {len(sources)}")
    return sources[0], sources[0].with_name(sources[0].name.replace(".solution", ""))


def written_solutions(source: Path) -> dict[str, str]:
    """Return our own texts of the answers in Markdown, by the answer's name, without the lines of markers."""
    texts = {}
    for cell in read_notebook(source).cells:
        nbgrader = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "markdown" and nbgrader.get("solution"):
            kept = [
                line
                for line in cell.source.split("\n")
                if not re.search("(BEGIN|END) SOLUTION|@answer", line)
            ]
            texts[answer_name(cell)] = "\n".join(kept).strip()
    return texts


def student_version(source: NotebookNode) -> NotebookNode:
    """Return the student version: stubs for solutions, no hidden tests, mark schemes or outputs.

    Metadata and checksums are those of nbgrader (schema 3). The check cells, which raise while the answer
    above them is blank, also get the tag `raises-exception`, so that the blank notebook runs to its end.

    Raises ValueError, naming the cell, for markers that do not pair, a repeated grade id, an answer cell
    without its `# @answer` line, a repeated answer name, and an answer that does not parse while blank.
    """
    notebook = copy.deepcopy(source)
    notebook.metadata.pop("celltoolbar", None)
    grade_ids, answers = set(), set()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata.pop("collapsed", None)
            cell.metadata.pop("scrolled", None)
        nbgrader = cell.metadata.get("nbgrader", {})
        if nbgrader.get("task"):
            name = nbgrader["grade_id"]
            raise ValueError(f"cell {name!r}: nbgrader's task cells are not supported, use an answer")
        if nbgrader:
            _once(grade_ids, nbgrader["grade_id"], "grade id")
        solution, grade = nbgrader.get("solution", False), nbgrader.get("grade", False)
        check = grade and not solution
        locked = check or (nbgrader.get("locked", False) and not solution)
        cell.source = _clear(cell, solution, grade)
        if solution:
            _once(answers, _checked_answer(cell), "answer name")
        if solution or locked:
            cell.metadata["deletable"] = False
        if locked:
            cell.metadata["editable"] = False
        if check:
            tags = cell.metadata.get("tags", [])
            cell.metadata["tags"] = [*tags, *({"raises-exception"} - set(tags))]
        if solution or locked:
            nbgrader["cell_type"] = cell.cell_type
            nbgrader["checksum"] = _checksum(cell, locked)
    return notebook


def write(homework: Path, *, check: bool = False) -> bool:
    """Write the student version beside its source, or with `check` only tell whether it is current.

    Returns whether the file in the folder was current before the call.
    """
    source, student = homework_paths(homework)
    text = text_of(student_version(read_notebook(source)))
    current = student.exists() and student.read_text(encoding="utf-8") == text
    if not check and not current:
        write_atomically(student, text)
    return current


def _clear(cell: NotebookNode, solution: bool, grade: bool) -> str:
    """Return the cell's source without what students must not see."""
    stub = CODE_STUB if cell.cell_type == "code" else TEXT_STUB
    text, cut = _replace(cell.source, "SOLUTION", stub)
    if cut and not solution:
        raise ValueError(f"a solution region in a cell that is not an answer: {cell.source[:80]!r}")
    if solution and not cut:
        return stub
    text, cut = _replace(text, "HIDDEN TESTS", None)
    if cut and not grade:
        raise ValueError(f"a region of hidden tests in a cell that is not graded: {cell.source[:80]!r}")
    text, cut = _replace(text, "MARK SCHEME", None)
    if cut:
        raise ValueError(f"a mark scheme outside a task cell: {cell.source[:80]!r}")
    return text


def _replace(text: str, region: str, stub: str | None) -> tuple[str, bool]:
    """Replace every region by the stub, at the indent of its BEGIN, and tell whether there was one."""
    kept, inside, found = [], False, False
    for line in text.split("\n"):
        if f"BEGIN {region}" in line:
            if inside:
                raise ValueError(f"BEGIN {region} inside another one: {text[:80]!r}")
            inside = found = True
            indent = line[: len(line) - len(line.lstrip())]
            kept += [indent + part for part in stub.split("\n")] if stub else []
        elif f"END {region}" in line:
            if not inside:
                raise ValueError(f"END {region} without BEGIN: {text[:80]!r}")
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise ValueError(f"BEGIN {region} without END: {text[:80]!r}")
    return "\n".join(kept), found


def _checked_answer(cell: NotebookNode) -> str:
    """Return the name of a blank answer, which must be on its first line; code must parse."""
    name = answer_name(cell)
    if name is None:
        grade_id = cell.metadata.nbgrader.grade_id
        line = "# @answer NAME" if cell.cell_type == "code" else "<!-- @answer NAME -->"
        raise ValueError(f"the answer {grade_id!r} must begin with a line '{line}'")
    try:
        ast.parse(cell.source if cell.cell_type == "code" else "")
    except SyntaxError as error:
        raise ValueError(f"the answer {name} does not parse while blank: {error}") from error
    return name


def _once(seen: set[str], name: str, what: str) -> None:
    if name in seen:
        raise ValueError(f"the {what} {name!r} occurs twice")
    seen.add(name)


def _checksum(cell: NotebookNode, locked: bool) -> str:
    """Return nbgrader's checksum: an MD5 of the source and of what the metadata says about it."""
    nbgrader = cell.metadata.nbgrader
    grade, solution = nbgrader.get("grade", False), nbgrader.get("solution", False)
    parts = [cell.source, cell.cell_type, grade, solution, locked, nbgrader["grade_id"]]
    if grade:
        parts.append(float(nbgrader["points"]))
    return hashlib.md5("".join(map(str, parts)).encode()).hexdigest()
