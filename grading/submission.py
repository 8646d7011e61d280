"""Rebuild a notebook that was handed in: every locked cell of it is ours.

Nothing here runs or parses a submission's code; every reading has a limit, and every repair becomes a note.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools import handed_in
from tools.handed_in import Cell, Found

NOTES_LIMIT = 50
NAMED = re.compile(r"(answer|locked cell) (\S+) (is|was) (.+)")  # a note that may say the same of several
OURS_LAST = {"parameters", "imports", "setup"}  # tags of cells where our values win over a student's edit


@dataclass
class Rebuilt:
    """A notebook to run, its answers by name, and what had to be repaired.

    `numbers` are the cells' places in the student's file, from 1, and None for cells of ours. Cells with a
    number and no label are the student's own, or ours with their changes.
    """

    code: list[str] = field(default_factory=list)
    labels: list[str | None] = field(default_factory=list)  # of each: answer or grade id, None for others
    numbers: list[int | None] = field(default_factory=list)
    answers: dict[str, list[Cell]] = field(default_factory=dict)  # an empty list for a missing answer
    near: dict[str, list[Cell]] = field(default_factory=dict)  # texts that may belong to a written answer
    states: dict[str, str] = field(default_factory=dict)  # answered, blank or missing
    notes: list[str] = field(default_factory=list)

    @property
    def own(self) -> list[int]:
        """The student's own cells."""
        known = zip(self.numbers, self.labels, strict=True)
        return [index for index, (number, label) in enumerate(known) if number and not label]


def release_cells(path: Path, trained: set[str]) -> list[Cell]:
    """Return the cells of our own student version; `trained` are the questions answered by a file of weights.

    Not run when grading: locked cells that are no checks and may raise while answers are blank, for they look
    at the answers or train with them, and the checks of weights, which are judged outside the sandbox.
    """
    cells = []
    for ours in handed_in.read(path):
        look = ours.locked and ours.points is None and "raises-exception" in ours.tags
        of_weights = ours.locked and (ours.grade_id or "").removeprefix("check_").split("_")[0] in trained
        cells.append(replace(ours, number=0, runs=not (look or of_weights)))
    return cells


def rebuild(release: list[Cell], submitted: list[Cell]) -> Rebuilt:
    """Put a student's answers and own cells into our student version.

    Own cells run behind the cell of ours that they followed; before an answer that was moved up they stay
    before it. Of our cells that anyone may edit, the student's text runs; where our own values matter
    (parameters, imports, locked or not), ours runs once more after it.
    """
    found = handed_in.find(release, submitted)
    result = Rebuilt(notes=found.notes)
    before, after = _own_cells(found)
    _append(result, after.get(-1, []))
    for index, ours in enumerate(release):
        _append(result, before.get(index, []))
        if ours.solution:
            _append_answer(result, found, index)
        else:
            _append_ours(result, ours, [found.cells[place] for place in found.places(index)])
        _append(result, after.get(index, []))
    shown = {cell.number for cells in result.near.values() for cell in cells}
    if found.written and (unseen := [str(cell.number) for cell in found.far if cell.number not in shown]):
        what = "text of yours stands beside no written answer, and no teacher was shown it"
        result.notes.append(f"{what}: cell {', '.join(unseen[:NOTES_LIMIT])}")
    result.notes = _together(result.notes)[:NOTES_LIMIT]
    return result


def fingerprint(*parts: bytes) -> str:
    """Return a hash of byte strings, kept apart."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _together(notes: list[str]) -> list[str]:
    """Return notes without repeats, those that say the same of several answers or cells as one."""
    names: dict[tuple[str, ...], list[str]] = {}
    for note in dict.fromkeys(notes):
        named = NAMED.fullmatch(note)
        what, name, verb, rest = named.groups() if named else (note, "", "", "")
        names.setdefault((what, verb, rest), []).append(name)
    said = []
    for (what, verb, rest), found in names.items():
        several = len(found) > 1
        words = (f"{what}s", ", ".join(found), {"is": "are", "was": "were"}.get(verb), rest)
        said.append(" ".join(words if several else filter(None, (what, found[0], verb, rest))))
    return said


def _own_cells(found: Found) -> tuple[dict[int, list[Cell]], dict[int, list[Cell]]]:
    """Return the student's own cells by the index of our cell before which, or after which, they run."""
    before: dict[int, list[Cell]] = {}
    after: dict[int, list[Cell]] = {}
    waiting, last = [], -1
    for cell, index in zip(found.cells, found.stands_for, strict=True):
        if index is None:
            waiting.append(cell)
            continue
        moved_up = found.release[index].solution and index < last
        (before.setdefault(index, []) if moved_up else after.setdefault(last, [])).extend(waiting)
        waiting, last = [], index
    after.setdefault(last, []).extend(waiting)
    return before, after


def _append_ours(result: Rebuilt, ours: Cell, theirs: list[Cell]) -> None:
    """Append a cell of ours that is no answer, or what the student made of it, or both."""
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


def _append_answer(result: Rebuilt, found: Found, index: int) -> None:
    ours, name = found.release[index], found.release[index].answer
    result.answers[name], result.near[name] = found.answer(index), found.near(index)
    result.states[name] = found.state(index)
    theirs = [found.cells[place] for place in found.places(index) if place not in found.left_out]
    if result.states[name] == "missing":
        result.notes.append(f"answer {name} is missing")
    if len(theirs) > 1:
        what = "all run, in their order" if ours.kind == "code" else "all are shown"
        result.notes.append(f"answer {name} occurs {len(theirs)} times: {what}")
    _append(result, [replace(cell, kind=ours.kind) for cell in theirs], label=name)


def _append(result: Rebuilt, cells: list[Cell], label: str | None = None) -> None:
    for cell in cells:
        if cell.kind == "code" and cell.runs and cell.source.strip():
            result.code.append(cell.source)
            result.labels.append(label)
            result.numbers.append(cell.number or None)
