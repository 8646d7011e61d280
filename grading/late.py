"""Count late days: what a homework that was handed in late is worth, by the rule of POLICY.md.

A table `student,days,left` says how many days late a student was, and how many late days were left before.
"""

import copy
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grading import tables
from grading.marks import called, names_of
from grading.record import Record
from grading.text import counted

DAYS = 5  # for the whole course
AT_MOST = 3  # on one homework
PUBLISHED = 7  # days after the deadline: nothing counts once the solution is out
COLUMNS = ["student", "days", "left"]
WHOLE = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True)
class Late:
    """How many days late a homework was, from 1, and how many late days its student had left."""

    days: int
    left: int

    @property
    def used(self) -> int:
        """The late days that are spent: no more than help, none once the solution is published."""
        return min(self.days, self.left, AT_MOST) if self.days <= PUBLISHED else 0

    @property
    def factor(self) -> float:
        """What the points are multiplied by."""
        if self.days > PUBLISHED:
            return 0.0
        return 1.0 if self.used == self.days else 0.5


def read(path: Path, students: Iterable[str]) -> dict[str, Late]:
    """Return who was late, by student.

    Raises ValueError with file, line, what was expected and what came.
    """
    names, found, seen = {name: student for student, name in names_of(students).items()}, {}, set()
    for line, row in tables.read(path, COLUMNS).rows:
        name, days, left = (row[column].strip() for column in COLUMNS)
        student = called(name, names)
        tables.require(
            path,
            line,
            (WHOLE.fullmatch(days), "whole days from 0 to 999", days),
            (WHOLE.fullmatch(left) and int(left) <= DAYS, f"whole late days left, from 0 to {DAYS}", left),
            (student is not None or days.strip("0") == "", "a student of this batch", name),
            (name not in seen, "one row for each student", f"{name} again"),
        )
        seen.add(name)
        if student is not None and int(days):
            found[student] = Late(int(days), int(left))
    return found


def count(record: Record, late: Late | None) -> Record:
    """Return a copy of a record, its marks already in it, in which late days are counted and noted."""
    if late is None:
        return record
    record = copy.deepcopy(record)
    before = record.result.score
    record.result.factor = late.factor
    used = counted(late.used, "late day")
    words = f"handed in {counted(late.days, 'day')} late: {used} used, {late.left - late.used} left"
    if late.days > PUBLISHED:
        words += ", for the solution was published"
    if late.factor < 1:
        worth = f"{record.result.score:g} of {counted(before, 'point')}"
        words += f"; counts {'half' if late.factor else 'nothing'}: {worth}"
    record.result.notes.append(words)
    return record
