"""List what is equal or nearly so in different students' hand-ins, for a human to look at.

No score depends on it: short answers to the same task are often alike by themselves. Compared are

- the bytes of weights;
- code, by its tokens, without comments, spaces and the names that its author chose, if there are at least
  `TOKENS` more of them than in our blank;
- written answers, by the share of their runs of five words that they have in common (Jaccard), if there are
  at least `RUNS` runs, what is quoted from the homework left out.
"""

import builtins
import csv
import io
import itertools
import keyword
import re
import token
import tokenize
from collections.abc import Iterator
from pathlib import Path

from grading import store
from grading.collect import Files
from grading.homework import Homework
from grading.record import Record
from grading.submission import Rebuilt, fingerprint
from grading.text import spreadsheet_safe

TOKENS = 40
SOURCE_LIMIT = 200_000  # characters of an answer that are compared
RUNS = 25
LIKE = 0.5  # of the runs of words of two texts are the same
RUN = 5  # words
ROWS_LIMIT = 2_000
WORD = re.compile(r"\w+|\\[A-Za-z]+")
KEPT = {*keyword.kwlist, *dir(builtins)}
LAYOUT = {token.NEWLINE, token.INDENT, token.DEDENT, token.ENDMARKER, tokenize.COMMENT, tokenize.NL}
COLUMNS = ["what", "where", "likeness", "students"]


def prints(homework: Homework, rebuilt: Rebuilt, files: Files) -> dict[str, str]:
    """Return short hashes of a submission's files of weights and of its code answers, by name."""
    found = {name: fingerprint(data) for name, data in files.weights.items()}
    for cell in [cell for cell in homework.release if cell.solution and cell.kind == "code"]:
        sources = [
            source
            for label, source in zip(rebuilt.labels, rebuilt.code, strict=True)
            if label == cell.answer and source.strip() != cell.source.strip()
        ]
        tokens = _tokens("\n".join(sources)[:SOURCE_LIMIT])
        if len(tokens) - len(_tokens(cell.source)) >= TOKENS:
            found[cell.answer] = fingerprint("\n".join(tokens).encode())
    return found


def write(path: Path, homework: Homework, records: dict[str, Record]) -> int:
    """Write the table, and return how many rows it has."""
    rows = [*_equal(records), *_alike(homework, records)]
    left = len(rows) - ROWS_LIMIT
    shown = rows[:ROWS_LIMIT] + ([("more", "", "", f"{left} rows are left out")] if left > 0 else [])
    file = io.StringIO(newline="")
    csv.writer(file).writerows([COLUMNS, *shown])
    store.renew(path, file.getvalue())
    return len(rows)


def _equal(records: dict[str, Record]) -> list[tuple[str, ...]]:
    """Return a row for each file or answer that several students share."""
    groups: dict[tuple[str, str], list[str]] = {}
    for student, record in records.items():
        for name, value in record.prints.items():
            groups.setdefault((name, value), []).append(student)
    return [
        ("weights" if "." in name else "code", name, "1", _names(students))
        for (name, _), students in sorted(groups.items())
        if len(students) > 1
    ]


def _alike(homework: Homework, records: dict[str, Record]) -> Iterator[tuple[str, ...]]:
    """Give a row for each written answer that several students share, and for each pair that is nearly so."""
    given = _runs("\n".join([cell.source for cell in homework.release]))
    for question in [question.id for question in homework.written]:
        groups: dict[frozenset[int], list[str]] = {}
        for student, record in records.items():
            if answer := record.written.get(question):
                runs = _runs("\n".join([answer.text, *answer.near])) - given
                if len(runs) >= RUNS:
                    groups.setdefault(runs, []).append(student)
        for students in groups.values():
            if len(students) > 1:
                yield "text", question, "1", _names(students)
        for (one, first), (other, second) in itertools.combinations(groups.items(), 2):
            # Two sets are never more alike than their sizes are.
            if min(len(one), len(other)) >= LIKE * max(len(one), len(other)):
                common = len(one & other)
                if (likeness := common / (len(one) + len(other) - common)) >= LIKE:
                    yield "text", question, f"{likeness:.2f}", _names([first[0], second[0]])


def _runs(text: str) -> frozenset[int]:
    words = [word.casefold() for word in WORD.findall(text)]
    return frozenset(map(hash, zip(*(words[start:] for start in range(RUN)), strict=False)))


def _names(students: list[str]) -> str:
    return spreadsheet_safe(" | ".join(students))


def _tokens(source: str) -> list[str]:
    """Return the tokens of Python, each name that its author chose replaced by the order of its appearance.

    Nothing is compiled or run. Behind what is no Python there are no tokens.
    """
    found, names, previous = [], {}, ["", "\n"]
    try:
        for kind, text, *_ in tokenize.generate_tokens(io.StringIO(source).readline):
            if kind in LAYOUT:
                previous.append("\n")
                continue
            if kind == token.STRING and previous[-1] == "\n":
                continue  # a text that begins a line is a docstring
            chosen = (
                kind == token.NAME and text not in KEPT and (previous[-1] != "." or previous[-2] == "self")
            )
            previous = [previous[-1], text]
            found.append(f"name {names.setdefault(text, len(names))}" if chosen else text)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass
    return found
