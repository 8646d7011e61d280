"""Read what students hand in, and rebuild a notebook whose every locked cell is ours.

Nothing here runs or parses a submission's code; every reading has a limit, and every repair becomes a note.
"""

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from grading.questions import Question
from grading.student import ANSWER
from tools.notebooks import read_notebook

FILE_LIMIT = 20_000_000  # bytes of a notebook, and of a file of weights
CELL_LIMIT = 2_000  # cells of a notebook
SOURCE_LIMIT = 1_000_000  # characters of a cell
NOTES_LIMIT = 50
DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
# Not tools.notebooks.read_notebook: what strangers send needs limits, and its own words for students.
CONFLICT = re.compile(r"^(?:<{7}|>{7})(?: |$)", re.MULTILINE)
OURS_LAST = {"parameters", "imports", "setup"}  # tags of cells where our values win over a student's edit


class Unreadable(Exception):  # noqa: N818 (a verdict, not an error)
    """A submission that is not a notebook; the message is for the student."""


@dataclass(frozen=True)
class Submission:
    """One student's files: the notebook (None if there is none), the folder with weights, what was odd."""

    student: str
    notebook: Path | None
    folder: Path | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """What a submission's files hold: a notebook or why it cannot be read, weights by file name, notes."""

    raw: bytes = b""
    unreadable: str = ""
    weights: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def notebook(self) -> bytes:
        """Return the notebook's bytes. Raises Unreadable with the reason."""
        if self.unreadable:
            raise Unreadable(self.unreadable)
        return self.raw


@dataclass(frozen=True)
class Cell:
    """What the grader reads of a cell."""

    kind: str
    source: str
    grade_id: str | None = None
    id: str | None = None
    tags: frozenset[str] = frozenset()
    solution: bool = False
    locked: bool = False
    runs: bool = True  # False for cells of ours that only show or train something with the answers

    @property
    def answer(self) -> str | None:
        """The name in its `# @answer` line, else its grade id if it is an answer."""
        found = ANSWER.match(self.source)
        return found.group(1) if found else self.grade_id if self.solution else None

    @property
    def defines(self) -> set[str]:
        """The functions and classes that its lines without indent define."""
        return set(DEFINED.findall(self.source)) if self.kind == "code" else set()


@dataclass
class Rebuilt:
    """A notebook to run: sources of the code cells, the answers by name and what had to be repaired."""

    code: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)  # of each: answer or grade id, None for others
    answers: dict[str, list[str]] = field(default_factory=dict)  # sources, an empty list for a missing answer
    blank: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def text_of(self, question: Question) -> str:
        """Return the answer to a written question."""
        answers = [sources for name, sources in self.answers.items() if question.owns(name)]
        return "\n\n".join(source.strip() for sources in answers for source in sources).strip()


def collect(folder: Path, name: str) -> tuple[list[Submission], list[str]]:
    """List the submissions in a folder, and the names of the files in it that are none.

    A submission is `STUDENT.ipynb`, or `STUDENT/` with a notebook called `name`. A folder with one notebook
    of another name is taken with a note. Hidden files do not count.
    """
    found: dict[str, Submission] = {}
    others = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.suffix == ".ipynb", path.name)):
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_dir() and not path.is_symlink():
            found[path.name] = _in_folder(path, name)
        elif path.suffix == ".ipynb":
            beside = found.get(path.stem)
            if beside and beside.notebook:
                note = f"{path.name} was not graded: the folder of the same name holds a notebook too"
                found[path.stem] = replace(beside, notes=(*beside.notes, note))
            else:
                found[path.stem] = Submission(path.stem, path, beside.folder if beside else None)
        elif path.is_symlink():
            found[path.name] = Submission(path.name, path)  # refused, with its reason, when it is read
        else:
            others.append(path.name)
    return [found[student] for student in sorted(found)], others


def read(one: Submission, weights: list[str]) -> Files:
    """Read a submission's notebook and the weights of these file names beside it; nothing is raised."""
    files = Files()
    for name in weights:
        path = one.folder / name if one.folder else None
        if path and os.path.lexists(path):
            try:
                files.weights[name] = read_file(path)
            except Unreadable as reason:
                files.notes.append(str(reason))
    try:
        if one.notebook is None:
            raise Unreadable(one.notes[-1])
        return replace(files, raw=read_file(one.notebook))
    except Unreadable as reason:
        return replace(files, unreadable=str(reason))


def read_file(path: Path) -> bytes:
    """Return the bytes of a plain file within the limit; no link is followed. Raises Unreadable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        reason = "a link, not a file" if os.path.islink(path) else error.strerror
        raise Unreadable(f"{path.name}: {reason}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"{path.name}: not a plain file")
        if status.st_size > FILE_LIMIT:
            raise Unreadable(f"{path.name}: {status.st_size:,} bytes, at most {FILE_LIMIT:,} are read")
        return file.read(FILE_LIMIT + 1)[:FILE_LIMIT]


def parse(raw: bytes) -> list[Cell]:
    """Return the cells of a notebook file. Raises Unreadable with the reason."""
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not {encoding}: save the notebook as UTF-8") from None
    if conflict := CONFLICT.search(text):
        line = text.count("\n", 0, conflict.start()) + 1
        raise Unreadable(f"line {line}: a merge conflict that was not resolved")
    try:
        content = json.loads(text)
    except ValueError as error:
        raise Unreadable(f"not a notebook: broken JSON ({error})") from None
    except RecursionError:
        raise Unreadable("not a notebook: lists inside lists without end") from None
    version = content.get("nbformat") if isinstance(content, dict) else None
    if version != 4 or not isinstance(content.get("cells"), list):
        found = f"nbformat is {str(version)[:20]}"
        raise Unreadable(f"not a notebook of format 4 ({found}): save it with Jupyter again")
    if len(content["cells"]) > CELL_LIMIT:
        raise Unreadable(f"{len(content['cells'])} cells, at most {CELL_LIMIT} are read")
    return [_cell(cell) for cell in content["cells"] if isinstance(cell, dict)]


def release_cells(path: Path, trained: set[str]) -> list[Cell]:
    """Return the cells of our own student version; `trained` are the questions answered by a file of weights.

    Not run when grading: locked cells that are no checks and may raise while answers are blank, for they look
    at the answers or train with them, and the checks of weights, which are judged outside the sandbox.
    """
    cells = []
    for cell in read_notebook(path).cells:
        ours, nbgrader = _cell(cell), cell.metadata.get("nbgrader", {})
        look = ours.locked and not nbgrader.get("grade") and "raises-exception" in ours.tags
        of_weights = ours.locked and (ours.grade_id or "").removeprefix("check_").split("_")[0] in trained
        cells.append(replace(ours, runs=not (look or of_weights)))
    return cells


def rebuild(release: list[Cell], submitted: list[Cell]) -> Rebuilt:
    """Put a student's answers and own cells into our student version.

    A submitted cell is recognised by its grade id, else its `# @answer` name, else its cell id, else an equal
    text, else by the function or class it defines. Cells that are not recognised run behind the recognised
    one they followed. Of our cells that anyone may edit, the student's text runs; where our own values matter
    (parameters, imports, locked or not), ours runs once more after it.
    """
    result = Rebuilt()
    placed, extra = _place(release, submitted, result.notes)
    _append(result, extra.get(-1, []))
    for index, ours in enumerate(release):
        theirs = placed.get(index, [])
        if ours.solution:
            _append_answer(result, ours, theirs)
        else:
            edited = [cell for cell in theirs if cell.source.strip() != ours.source.strip()]
            both = bool(ours.tags & OURS_LAST)
            if ours.locked and not theirs:
                result.notes.append(f"locked cell {ours.grade_id} was deleted: put back")
            elif ours.locked and edited:
                used = "yours was run, then ours" if both else "ours was used"
                result.notes.append(f"locked cell {ours.grade_id} was changed: {used}")
            if both or not ours.locked:
                _append(result, edited)  # such as a line added to the imports
            if both or ours.locked or not edited:
                _append(result, [ours], label=ours.grade_id if ours.locked else None)
        _append(result, extra.get(index, []))
    result.notes = list(dict.fromkeys(result.notes))[:NOTES_LIMIT]
    return result


def fingerprint(*parts: bytes) -> str:
    """Return a hash of byte strings, kept apart."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _in_folder(path: Path, name: str) -> Submission:
    """Find the notebook in a student's folder."""
    try:
        names = [file.name for file in path.iterdir()]
    except OSError as error:
        return Submission(path.name, None, path, (f"the folder cannot be read: {error.strerror}",))
    notebooks = sorted(name for name in names if name.endswith(".ipynb") and not name.startswith("."))
    if name in notebooks:
        others = [other for other in notebooks if other != name]
        notes = (f"other notebooks were not graded: {', '.join(others)}",) if others else ()
        return Submission(path.name, path / name, path, notes)
    if len(notebooks) == 1:
        note = f"the notebook is called {notebooks[0]}, not {name}"
        return Submission(path.name, path / notebooks[0], path, (note,))
    if notebooks:
        return Submission(path.name, None, path, (f"{len(notebooks)} notebooks, none called {name}",))
    return Submission(path.name, None, path, (f"no notebook: {name} is expected",))


def _cell(cell: dict) -> Cell:
    """Read a cell of any shape."""
    source = cell.get("source", "")
    source = "".join(map(str, source)) if isinstance(source, list) else str(source)
    source = source.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    nbgrader = metadata.get("nbgrader") if isinstance(metadata.get("nbgrader"), dict) else {}
    tags = metadata.get("tags") if isinstance(metadata.get("tags"), list) else []
    grade_id = nbgrader.get("grade_id")
    cell_id = cell.get("id") or metadata.get("id")  # Colab keeps ids in metadata
    solution = nbgrader.get("solution") is True
    return Cell(
        kind=str(cell.get("cell_type", "raw")),
        source=source[:SOURCE_LIMIT],
        grade_id=grade_id if isinstance(grade_id, str) else None,
        id=cell_id if isinstance(cell_id, str) else None,
        tags=frozenset(tag for tag in tags if isinstance(tag, str)),
        solution=solution,
        locked=not solution and (nbgrader.get("grade") is True or nbgrader.get("locked") is True),
    )


def _place(release: list[Cell], submitted: list[Cell], notes: list[str]) -> tuple[dict, dict]:
    """Return, by index of our cells, the cells that stand for them and the cells that follow them."""
    by_grade_id = {cell.grade_id: i for i, cell in enumerate(release) if cell.grade_id}
    by_answer = {cell.answer: i for i, cell in enumerate(release) if cell.answer}
    by_id = {cell.id: i for i, cell in enumerate(release) if cell.id}
    by_source = {(cell.kind, cell.source.strip()): i for i, cell in reversed(list(enumerate(release)))}
    answers = [(i, cell) for i, cell in enumerate(release) if cell.solution]
    by_definition = {name: i for i, cell in answers for name in sorted(cell.defines)}
    placed: dict[int, list[Cell]] = {}
    extra: dict[int, list[Cell]] = {}
    last = -1
    for cell in submitted:
        named = ANSWER.match(cell.source)
        index = by_grade_id.get(cell.grade_id)
        if named and named.group(1) in by_answer and (index is None or not release[index].solution):
            index = by_answer[named.group(1)]
            notes.append(f"answer {named.group(1)} was found by its '# @answer' line")
        if index is None:
            index = by_id.get(cell.id)
        if index is None and cell.source.strip():
            index = by_source.get((cell.kind, cell.source.strip()))
        if index is None and (known := sorted(cell.defines & by_definition.keys())):
            index = by_definition[known[0]]
            notes.append(f"answer {release[index].answer} was found by the name it defines, {known[0]}")
        if index is None:
            extra.setdefault(last, []).append(cell)
        else:
            placed.setdefault(index, []).append(cell)
            last = index
    return placed, extra


def _append_answer(result: Rebuilt, ours: Cell, theirs: list[Cell]) -> None:
    name = ours.answer
    if not theirs:
        result.notes.append(f"answer {name} is missing")
    if len(theirs) > 1:
        result.notes.append(f"answer {name} occurs {len(theirs)} times: all run, in their order")
    result.answers[name] = [cell.source for cell in theirs]
    if all(cell.source.strip() == ours.source.strip() for cell in theirs):
        result.blank.add(name)
    _append(result, [Cell(ours.kind, cell.source, solution=True) for cell in theirs], label=name)


def _append(result: Rebuilt, cells: list[Cell], label: str | None = None) -> None:
    for cell in cells:
        if cell.kind == "code" and cell.runs and cell.source.strip():
            result.code.append(cell.source)
            result.labels.append(label)
