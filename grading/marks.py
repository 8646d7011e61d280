"""Marks of written answers, which a teacher enters in `OUT/marks.csv` and the next run of the batch merges.

The file has a row for every written answer that is not blank. A row belongs to one text: `fingerprint` is
a hash of it. An answer that is handed in again with another text gets a row of its own; the old row
stays, with what was entered, and no longer counts. Rows in which nothing was entered come and go with the
answers. A submission has no part in this: only OUT is read.
"""

import copy
import csv
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from grading import store, tables
from grading.questions import Question
from grading.record import Answer, Record
from grading.submission import fingerprint as digest
from grading.text import plain, spreadsheet_safe

OURS = ["student", "question", "max", "fingerprint"]  # written by the grader, all other columns by teachers
COLUMNS = ["student", "question", "max", "points", "comment", "fingerprint"]
READ = ["student", "question", "points", "fingerprint"]
POINTS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+")  # a decimal comma is read where no comma separates cells
FINGERPRINT = re.compile(r"f[0-9a-f]{32}")
NUMBER = re.compile(r"[0-9.,:/eE+\- ]+")  # what a spreadsheet may take for a number or a date


@dataclass
class Marks:
    """What a `marks.csv` holds: its columns, and its rows by student, question and fingerprint.

    It is written again as it was read: with the same mark in front and between the same separators.
    """

    columns: list[str] = field(default_factory=lambda: list(COLUMNS))
    rows: dict[tuple[str, str, str], dict[str, str]] = field(default_factory=dict)
    bom: str = ""
    separator: str = ","

    def entered(self, key: tuple[str, str, str]) -> bool:
        """Tell whether a teacher wrote anything in a row."""
        return any(self.rows[key][column].strip() for column in self.columns if column not in OURS)

    def earlier(self, key: tuple[str, str, str]) -> list[dict[str, str]]:
        """Return the rows of other texts that the student handed in for the same question."""
        return [row for other, row in self.rows.items() if other[:2] == key[:2] and other != key]


def fingerprint(student: str, question: str, text: str) -> str:
    """Return a hash of one student's answer, which no spreadsheet takes for a number.

    It is long enough that nobody finds two texts with one hash, of which the second inherits a mark.
    """
    return "f" + digest(os.fsencode(student), question.encode(), text.encode())[:32]


def read(path: Path, questions: list[Question], students: Iterable[str]) -> Marks:
    """Return the marks in a file, none if it does not exist.

    Raises ValueError with file, line, what was expected and what came, at the first thing that is no mark.
    """
    if not path.exists():
        return Marks()
    table = tables.read(path, COLUMNS)
    marks = Marks(table.columns, bom=table.bom, separator=table.separator)
    names = {name: student for student, name in names_of(students).items()}
    points = {question.id: question.points for question in questions if question.manual}
    for line, row in table.rows:
        name, question, mark, text = (row[column].strip() for column in READ)
        student, mark = called(name, names), mark if marks.separator == "," else mark.replace(",", ".")
        key = (student, question, text)
        tables.require(
            path,
            line,
            (student is not None, "a student of this batch", name),
            (question in points, f"a written question ({', '.join(points)})", question),
            (
                not mark or (POINTS.fullmatch(mark) and float(mark) <= points.get(question, 0)),
                f"points from 0 to {points.get(question, 0):g}, as in 0.5, or nothing",
                mark,
            ),
            (FINGERPRINT.fullmatch(text), "the fingerprint that the grader wrote", text),
            (key not in marks.rows, "one row for each answer", f"{name}, {question} again"),
        )
        marks.rows[key] = row
    return marks


def answers(records: dict[str, Record]) -> dict[tuple[str, str, str], Answer]:
    """Return the written answers in records (by student), by student, question and fingerprint."""
    return {
        (student, question, answer.fingerprint): answer
        for student, record in records.items()
        for question, answer in record.written.items()
    }


def merge(record: Record, marks: Marks, student: str) -> Record:
    """Return a copy of a record with its marks in it."""
    record = copy.deepcopy(record)
    for question, answer in record.written.items():
        row = marks.rows.get((student, question, answer.fingerprint), {})
        if points := row.get("points", "").strip():
            message = plain(row["comment"]).strip() or "marked by a teacher"
            record.result.questions[question].settle("marked", message, float(points.replace(",", ".")))
    return record


def update(path: Path, questions: list[Question], records: dict[str, Record]) -> Marks:
    """Bring the rows of a file up to date with the answers in `records` (by student), and return them.

    Nothing that a teacher entered changes, not even what was entered since the batch began. Where no question
    is written there is no file.
    """
    if not any(question.manual for question in questions):
        return Marks()
    known = {*records, *store.students(path.parent)}
    marks, names, order = read(path, questions, known), names_of(known), [q.id for q in questions]
    points = {question.id: f"{question.points:g}" for question in questions}
    if not path.exists() and not "".join(names.values()).isascii():
        marks.bom = tables.BOM  # else Excel shows such names as other letters, and saves those
    current = answers(records)
    for key in [key for key in marks.rows if key not in current and not marks.entered(key)]:
        del marks.rows[key]
    for key in current:
        row = marks.rows.setdefault(key, dict.fromkeys(marks.columns, ""))
        row.update(zip(OURS, (names[key[0]], key[1], points[key[1]], key[2]), strict=True))
    keys = sorted(marks.rows, key=lambda key: (order.index(key[1]), names[key[0]], key in current, key[2]))
    marks.rows = {key: marks.rows[key] for key in keys}
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, marks.columns, delimiter=marks.separator)
    table.writeheader()
    table.writerows(marks.rows.values())
    store.renew(path, marks.bom + file.getvalue())
    return marks


def called(name: str, names: dict[str, str]) -> str | None:
    """Return the student of a name in the file, None if there is none; `names` holds students by name."""
    return names.get(name) or names.get(f"'{name}")  # some spreadsheets swallow the quote


def names_of(students: Iterable[str]) -> dict[str, str]:
    """Return each student's name in the file: that of `grades.csv`, but never a number, and no two alike."""
    names: dict[str, str] = {}
    for student in sorted(students, key=lambda student: (spreadsheet_safe(student) != student, student)):
        name = spreadsheet_safe(student)
        name = f"'{name}" if NUMBER.fullmatch(name) else name
        while name in names.values():
            name += "_"
        names[student] = name
    return names
