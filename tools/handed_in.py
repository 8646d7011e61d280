"""Read the notebook that a student hands in, and find the answers in it.

The grader and the students' own `tools.check` share this module: they never disagree about what is answered.
Nothing here runs or parses a student's code; what is odd becomes a note.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from tools.notebooks import TEXT_STUB, NotebookError

if TYPE_CHECKING:
    from pathlib import Path

CELL_LIMIT = 2_000  # cells of a notebook
CONFLICT = re.compile(r"^(?:<{7}|>{7})(?: |$)", re.MULTILINE)
# An answer's name, in the stub's first line: `# @answer q1`, in Markdown `<!-- @answer q2 -->`. All patterns
# here take a time linear in the text: strangers write it.
MARK = re.compile(
    r"^[ \t>]*(?:#+|\\?<!--|&lt;!--)[ \t]*@answer[ \t:]+(\w+)(?:[ \t]*\\?--\\?(?:>|&gt;))?", re.MULTILINE
)
DEFINED = re.compile(r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)", re.MULTILINE)
HEADING = re.compile(r"^[ \t]{0,3}#{1,6}[ \t]{1,9}[^\w\n]{0,9}(\w+)", re.MULTILINE)
FORMULA = re.compile(r"\$|\\[A-Za-z(\[]|!\[|<img\b", re.IGNORECASE)  # a formula or a picture
WORDS = 25  # of a text without formula or picture that may be an answer, wherever it stands
STUB_LINE = re.compile(rf"^[ \t]*{TEXT_STUB}[ \t]*$", re.MULTILINE)
WORDS_AS_CODE = ("%%markdown", "%%latex", "%%html", '"""', "'''", 'r"""', "r'''")  # how such a cell begins


class Unreadable(NotebookError):  # noqa: N818 (a verdict, not an error)
    """A file that is not a notebook; the message is for the student."""


@dataclass(frozen=True)
class Cell:
    """What is read of a cell."""

    kind: str
    source: str
    grade_id: str | None = None
    id: str | None = None
    tags: frozenset[str] = frozenset()
    solution: bool = False
    locked: bool = False
    points: float | None = None  # None for a cell that is worth nothing
    number: int = 0  # its place in the file, from 1
    attachments: dict[str, str] = field(default_factory=dict)  # data URLs by name
    runs: bool = True  # False for cells of ours that only show or train something with the answers

    @property
    def answer(self) -> str | None:
        """The name in its first line, else its grade id if it is an answer."""
        found = MARK.match(self.source.lstrip())
        return found.group(1) if found else self.grade_id if self.solution else None

    @cached_property
    def headings(self) -> list[str]:
        """The first words of a text's headings, in lower case."""
        return [word.lower() for word in HEADING.findall(self.source)] if self.kind == "markdown" else []

    @cached_property
    def key(self) -> tuple[str, str]:
        """What two equal cells share, whatever an editor did to the spaces of a text."""
        return self.kind, self.source.strip() if self.kind == "code" else " ".join(self.source.split())

    @property
    def defines(self) -> set[str]:
        """The functions and classes that its lines without indent define."""
        return set(DEFINED.findall(self.source)) if self.kind == "code" else set()

    @property
    def words(self) -> str:
        """Its text without what the stub had."""
        return STUB_LINE.sub("", MARK.sub("", self.source)).strip()

    @property
    def shows(self) -> bool:
        """Whether a reader sees anything in it: text or a picture."""
        return bool(self.attachments) or any(c.isprintable() and not c.isspace() for c in self.words)

    @property
    def is_text(self) -> bool:
        """Whether it is there to be read, even if it was made a code cell."""
        is_code = self.kind == "code" and _statements(self.source)
        return self.shows and (not is_code or self.begins_as_words)

    @property
    def begins_as_words(self) -> bool:
        """Whether a code cell begins as one that only holds a text."""
        return self.source.lstrip().lower().startswith(WORDS_AS_CODE)

    @property
    def is_long(self) -> bool:
        """Whether it is a text with a formula, a picture or many words: no mere name or heading."""
        argues = self.attachments or FORMULA.search(self.source) or len(self.words.split()) >= WORDS
        return bool(argues) and (self.kind != "code" or self.begins_as_words)

    def is_blank(self, ours: Cell) -> bool:
        """Tell whether it holds nothing but what the stub, our cell, has."""
        if ours.kind != "code":
            return not self.shows
        return _statements(self.source) in ([], _statements(ours.source))

    def binds(self, name: str) -> bool:
        """Tell whether a line without indent gives the name a value."""
        word = re.escape(name)
        defined = rf"(?:async[ \t]+)?(?:def|class)[ \t]+{word}\b"
        assigned = rf"{word}[ \t]*(?::[^=\n]+)?=(?!=)"
        imported = rf"from[ \t]+[\w.]+[ \t]+import[ \t][^\n#]*\b{word}\b"
        pattern = rf"^(?:{defined}|{assigned}|{imported})"
        return self.kind == "code" and name in self.source and bool(re.search(pattern, self.source, re.M))


@dataclass
class Found:
    """A student's cells, each with the index of the cell of ours that it stands for, None for their own."""

    release: list[Cell]
    cells: list[Cell]
    stands_for: list[int | None]
    notes: list[str] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)  # places of blanks whose answer stands in another cell
    elsewhere: dict[int, list[int]] = field(default_factory=dict)  # places of answers that hold another too

    def places(self, index: int) -> list[int]:
        """Return the places of the cells that stand for our cell."""
        return [place for place, ours in enumerate(self.stands_for) if ours == index]

    def answer(self, index: int) -> list[Cell]:
        """Return the cells that answer, in their order; none if they are gone."""
        places = [place for place in self.places(index) if place not in self.left_out]
        return [self.cells[place] for place in sorted({*places, *self.elsewhere.get(index, [])})]

    def state(self, index: int) -> str:
        """Return `answered`, `blank` or `missing`."""
        ours, cells = self.release[index], self.answer(index)
        if not all(cell.is_blank(ours) for cell in cells) or self.near(index):
            return "answered"
        return "blank" if cells else "missing"

    def near(self, index: int) -> list[Cell]:
        """Return the student's own texts that may belong to a written answer, in their order.

        They stand beside the answer or where it was, under the heading of its task, or in our texts above and
        below it, of which only what was added counts. An answer that is blank or gone without any of these
        gets the texts elsewhere that call it by its name, else all long ones that belong to no answer.
        """
        ours = self.release[index]
        if ours.kind == "code":
            return []
        head, texts = task_heading(self.release, index), self._texts
        chosen = [place for place in texts if self._is_near(place, index, head)]
        if chosen or not all(cell.is_blank(ours) for cell in self.answer(index)):
            return [texts[place] for place in chosen]
        called = re.compile(rf"\b{re.escape(ours.answer)}\b", re.IGNORECASE)
        headed = re.compile(rf"^\W{{0,20}}{re.escape(ours.answer)}\b", re.IGNORECASE | re.MULTILINE)
        named = [cell for cell in texts.values() if called.search(cell.source)]
        named += [
            cell for i in self.written if i != index for cell in self.answer(i) if headed.search(cell.words)
        ]
        return named or self.far

    @cached_property
    def written(self) -> list[int]:
        """The indices of our written answers."""
        return [i for i, ours in enumerate(self.release) if ours.solution and ours.kind != "code"]

    @cached_property
    def far(self) -> list[Cell]:
        """The student's own long texts that stand near no written answer."""
        heads = {index: task_heading(self.release, index) for index in self.written}
        return [
            cell
            for place, cell in self._texts.items()
            if cell.is_long and not any(self._is_near(place, index, head) for index, head in heads.items())
        ]

    @cached_property
    def _texts(self) -> dict[int, Cell]:
        """The student's own texts, and what they added to ours, by place."""
        known, texts = {cell.key for cell in self.release}, {}
        lines = set().union(*(_lines(cell) for cell in self.release if cell.kind == "markdown"))
        for place, (cell, index) in enumerate(zip(self.cells, self.stands_for, strict=True)):
            if cell.key in known or not cell.is_text or (index is not None and self.release[index].solution):
                continue
            if index is None and not cell.attachments and _lines(cell) <= lines:  # a paragraph of ours
                continue
            if index is not None:
                ours = {line.strip() for line in self.release[index].source.split("\n")}
                added = [line for line in cell.source.split("\n") if line.strip() not in ours]
                cell = replace(cell, source="\n".join(added).strip())
            if cell.shows:
                texts[place] = cell
        return texts

    def _is_near(self, place: int, index: int, head: int) -> bool:
        """Tell whether a text stands at the answer, in or under its task, or where the answer is missing."""
        known = self.stands_for
        if known[place] is not None:
            return known[place] in (head, index + 1)
        before = next((known[i] for i in range(place - 1, -1, -1) if known[i] is not None), -1)
        after = next((i for i in known[place + 1 :] if i is not None), len(self.release))
        return index in (before, after) or before == head >= 0 or before < index < after


def read(path: Path) -> list[Cell]:
    """Return the cells of a notebook file. Raises NotebookError with the path and the reason."""
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise NotebookError(f"{path}: {error.strerror}") from None
    except Unreadable as reason:
        raise NotebookError(f"{path}: {reason}") from None


def parse(raw: bytes) -> list[Cell]:
    """Return the cells of a notebook file. Raises Unreadable with the reason."""
    encoding = json.detect_encoding(raw)
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
    return [_cell(cell, number) for number, cell in enumerate(content["cells"], 1) if isinstance(cell, dict)]


def find(release: list[Cell], submitted: list[Cell]) -> Found:
    """Find our cells, and so the answers, in a notebook that began as our student version.

    A cell is recognised by its `@answer` line, else its grade id, its cell id, an equal text, the heading of
    a task in it, or half of the lines of a text of ours. A name that an answer has to define, and does not,
    is looked for in all other cells. A cell with several answers is split at its `@answer` lines.
    """
    known = {cell.answer for cell in release if cell.solution}
    cells = [part for cell in submitted for part in _parts(cell, known)]
    found = Found(release, cells, [])
    _recognise(found)
    _free_copies(found)
    _give_copies_to_their_tasks(found)
    _take_out_tasks(found)
    for index, ours in enumerate(release):
        if ours.solution and ours.kind == "code":
            _find_by_names(found, index)
    return found


def task_heading(release: list[Cell], index: int) -> int:
    """Return the index of the text whose heading begins with the name of an answer, -1 if there is none."""
    name = release[index].answer.lower()
    headings = [
        i for i, cell in enumerate(release[:index]) if cell.kind == "markdown" and name in cell.headings
    ]
    return headings[-1] if headings else -1


def _cell(cell: dict, number: int) -> Cell:
    """Read a cell of any shape."""
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    nbgrader = metadata.get("nbgrader") if isinstance(metadata.get("nbgrader"), dict) else {}
    tags = metadata.get("tags") if isinstance(metadata.get("tags"), list) else []
    grade_id, points = nbgrader.get("grade_id"), nbgrader.get("points")
    cell_id = cell.get("id") or metadata.get("id")  # Colab keeps ids in metadata
    solution, grade = nbgrader.get("solution") is True, nbgrader.get("grade") is True
    return Cell(
        kind=str(cell.get("cell_type", "raw")),
        source=_text(cell.get("source", "")),
        grade_id=grade_id if isinstance(grade_id, str) else None,
        id=cell_id if isinstance(cell_id, str) else None,
        tags=frozenset(tag for tag in tags if isinstance(tag, str)),
        solution=solution,
        locked=not solution and (grade or nbgrader.get("locked") is True),
        points=points if grade and isinstance(points, int | float) else None,
        number=number,
        attachments=_attachments(cell.get("attachments")),
    )


def _text(source: object) -> str:
    """Return text that a file holds as one string or as lines, with the line ends of Unix."""
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    return text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace").decode()


def _attachments(held: object) -> dict[str, str]:
    """Return the pictures that a cell carries as data URLs, by name."""
    bundles = held.items() if isinstance(held, dict) else ()
    return {
        _text(name): f"data:{_text(kind)};base64,{''.join(_text(data).split())}"
        for name, bundle in bundles
        if isinstance(bundle, dict)
        for kind, data in bundle.items()
    }


def _parts(cell: Cell, known: set[str]) -> list[Cell]:
    """Split a cell at the `@answer` lines of different answers; what is above the first belongs to it."""
    if cell.source.lstrip().startswith("%%"):  # a magic of the whole cell
        return [cell]
    marks = [mark for mark in MARK.finditer(cell.source) if mark[1] in known]
    if cell.kind == "code":
        marks = [mark for mark in marks if not mark[0][0].isspace()]
    starts = [mark.start() for before, mark in pairwise(marks) if mark[1] != before[1]]
    if not starts:
        return [cell]
    bounds = [0, *starts, len(cell.source)]
    parts = []
    for start, stop in pairwise(bounds):
        source = cell.source[start:stop].strip("\n")
        pictures = {name: url for name, url in cell.attachments.items() if not start or name in source}
        ids = {} if not start else {"grade_id": None, "id": None}
        parts.append(replace(cell, source=source, attachments=pictures, **ids))
    return parts


def _recognise(found: Found) -> None:
    """Say for each cell which cell of ours it stands for."""
    release = list(enumerate(found.release))
    answers = {cell.answer: i for i, cell in release if cell.solution}
    by_grade_id = {cell.grade_id: i for i, cell in release if cell.grade_id}
    by_id = {cell.id: i for i, cell in release if cell.id}
    by_text = {cell.key: i for i, cell in reversed(release)}
    by_heading = {name.lower(): task_heading(found.release, i) for name, i in answers.items()}
    lines = {i: _lines(cell) for i, cell in release if cell.kind == "markdown" and not cell.solution}
    for cell in found.cells:
        marked = next((answers[name] for name in MARK.findall(cell.source) if name in answers), None)
        graded = by_grade_id.get(cell.grade_id)
        index = graded if marked is None else marked
        if marked is not None and marked != graded:  # Jupyter copies the grade id with a cell
            found.notes.append(f"answer {found.release[marked].answer} was found by an '@answer' line")
        if index is None:
            index = by_id.get(cell.id)
        if index is None and cell.source.strip():
            index = by_text.get(cell.key)
        if index is None and cell.kind == "markdown":
            heads = (by_heading[name] for name in cell.headings if by_heading.get(name, -1) >= 0)
            theirs = _lines(cell)
            edited = (i for i, ours in lines.items() if ours and 2 * len(ours & theirs) >= len(ours))
            index = next(heads, next(edited, None))
        found.stands_for.append(index)


def _free_copies(found: Found) -> None:
    """Make all but one of the cells that stand for a cell of ours, which is no answer, the student's own."""
    for index, ours in enumerate(found.release):
        places = found.places(index)
        if not ours.solution and len(places) > 1:
            kept = next((place for place in places if found.cells[place].key == ours.key), places[0])
            for place in places:
                found.stands_for[place] = index if place == kept else None


def _give_copies_to_their_tasks(found: Found) -> None:
    """Take the copy of another written answer's cell, below a task without a cell, for this task's answer."""
    for index in found.written:
        if found.places(index):
            continue
        head = task_heading(found.release, index)
        for place in [below + 1 for below in found.places(head)]:
            other = found.stands_for[place] if place < len(found.cells) else None
            copied = other in found.written and len(found.places(other)) > 1
            if copied and not MARK.search(found.cells[place].source):
                found.stands_for[place] = index
                found.notes.append(f"answer {found.release[index].answer} was found below the task")


def _take_out_tasks(found: Found) -> None:
    """Take the text of its task out of a written answer whose cell was merged with it."""
    for place, (cell, index) in enumerate(zip(found.cells, found.stands_for, strict=True)):
        if index is None or not found.release[index].solution or cell.kind == "code":
            continue
        head = task_heading(found.release, index)
        if head >= 0 and found.release[index].answer.lower() in cell.headings:
            task = _lines(found.release[head])
            kept = [line for line in cell.source.split("\n") if line.strip() not in task]
            found.cells[place] = replace(cell, source="\n".join(kept))


def _find_by_names(found: Found, index: int) -> None:
    """Find an answer in code by the names that it has to define, where no cell of its own gives them."""
    ours, places = found.release[index], found.places(index)
    blanks = [place for place in places if found.cells[place].is_blank(ours)]
    full = [found.cells[place] for place in places if place not in blanks]
    for name in sorted(ours.defines):
        if any(cell.binds(name) for cell in full):
            continue
        for place, cell in enumerate(found.cells):
            other = found.stands_for[place]
            answers = other is not None and other != index and found.release[other].solution
            if (other is None or answers) and cell.binds(name):
                if answers:
                    found.elsewhere.setdefault(index, []).append(place)
                else:
                    found.stands_for[place] = index
                found.left_out.update(blanks)
                where = "in another answer's cell, " if answers else ""
                found.notes.append(f"answer {ours.answer} was found {where}by the name it defines, {name}")


def _lines(cell: Cell) -> set[str]:
    """Return the lines of a text that are not empty."""
    return {line.strip() for line in cell.source.split("\n")} - {""}


def _statements(source: str) -> list[str]:
    """Return the lines of code that say something, without indents and comments."""
    lines = (line.strip() for line in source.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]
