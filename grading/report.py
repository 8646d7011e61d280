"""Write what the teacher and the student read: a table, one JSON and one page for each student.

What was found about a submission is kept in its folder as `graded.json`, a *record*: the result before any
marks, the written answers and the cells of the page. With the marks merged, the rest is made from it.
"""

import csv
import html
import io
import json
import os
import re
import tempfile
import unicodedata
from pathlib import Path

from grading.questions import Question
from grading.sandbox import Outcome
from grading.submission import Rebuilt

RESERVED = re.compile(r"(grades\.csv|marks\.csv|seed\.txt|answers_\w+\.html)_*")
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SOURCE_LIMIT, TEXT_LIMIT = 20_000, 3_000  # characters of a cell or written answer, and of output, on a page
# No script, no address, no picture: the page says so to the browser as well.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #999; padding: .3rem .6rem; text-align: left
}} pre {{ background: #f3f3f3; padding: .6rem; overflow-x: auto; white-space: pre-wrap
}} td, .said {{ white-space: pre-line }}</style></head>
<body><h1>{title}</h1>{body} </body></html>
"""
FEEDBACK = """<p>{score}</p> <table><thead><tr><th scope="col">question</th><th
scope="col">points</th><th scope="col">status</th> <th scope="col">message</th></tr></thead><tbody> {rows}
</tbody></table> {notes}{written}{cells}"""


def plain(text: object) -> str:
    """Return text without control and format characters, which could hide or reverse what is read."""
    cleaned = TERMINAL.sub("", str(text)).encode("utf-8", "replace").decode()
    return "".join(
        c for c in cleaned if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn")
    )


def line(text: object) -> str:
    """Return plain text in one line."""
    return " ".join(plain(text).split())


def folder_of(out: Path, student: str) -> Path:
    """Return the folder of a student's results; a name that is a file of ours gets one more underscore."""
    return out / (f"{student}_" if RESERVED.fullmatch(student) else student)


def kept(folder: Path) -> str | None:
    """Return the hash of the submission whose results are in the folder, None if there are none."""
    try:
        return (
            (folder / "submission.sha256").read_text().strip() if (folder / "graded.json").exists() else None
        )
    except OSError:
        return None


def keep(folder: Path, key: str, found: dict) -> None:
    """Keep the record of a submission, and say that it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "graded.json", _json(found))
    write(folder / "submission.sha256", key + "\n")


def load(folder: Path) -> dict:
    """Return the record that is kept in a folder."""
    return json.loads((folder / "graded.json").read_text(encoding="utf-8"))


def students(out: Path) -> set[str]:
    """Return the names of the folders with a record."""
    return {path.parent.name for path in out.glob("*/graded.json")}


def forget(folder: Path) -> None:
    """Remove earlier results."""
    for name in ("submission.sha256", "graded.json", "results.json", "feedback.html"):
        (folder / name).unlink(missing_ok=True)


def record(result: dict, rebuilt: Rebuilt, outcome: Outcome, written: dict[str, dict[str, str]]) -> dict:
    """Return what is kept of a submission: plain text, cut to a bearable length."""
    cells = [
        {
            "label": plain(label),
            "status": plain(cell["status"]),
            "source": _cut(source),
            "said": plain(f"{cell['text'][:TEXT_LIMIT]}\n{cell['error']}".strip()),
        }
        for label, source, cell in zip(rebuilt.labels, rebuilt.code, outcome.cells, strict=False)
        if label
    ]
    answers = {name: answer | {"text": _cut(answer["text"])} for name, answer in written.items()}
    return {"result": _cleaned(result), "written": answers, "cells": cells}


def save(folder: Path, marked: dict) -> None:
    """Write `results.json` and `feedback.html` from a record with its marks; equal files stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    renew(folder / "feedback.html", page(marked))
    renew(folder / "results.json", _json(marked["result"]))


def page(marked: dict) -> str:
    """Return the student's page: everything that came from a student is escaped text."""
    result = marked["result"]
    rows = [
        f"<tr><td>{_safe(name)}</td><td>{_points(q)}</td><td>{_safe(q['status'])}</td>"
        f"<td>{_safe(q['message'])}</td></tr>"
        for name, q in result["questions"].items()
    ]
    notes = "".join(f"<li>{_safe(note)}</li>" for note in result["notes"])
    written = [
        f"<h3>{_safe(name)}</h3>{_answer(result['questions'][name], answer)}"
        for name, answer in marked["written"].items()
    ]
    cells = [
        f"<h3>{_safe(cell['label'])}: {_safe(cell['status'])}</h3><pre>{_safe(cell['source'])}</pre>"
        + (f"<pre>{_safe(cell['said'])}</pre>" if cell["said"] else "")
        for cell in marked["cells"]
    ]
    status = "" if result["status"] == "ok" else f" ({result['status']})"
    left = sum(q["max"] for q in result["questions"].values() if q["status"] == "manual")
    unmarked = f"; {left:g} are not marked yet" if left else ""
    sandbox = " Graded without a sandbox." if result["sandbox"] == "none" else ""
    body = FEEDBACK.format(
        score=_safe(f"{_points(result)} points{status}{unmarked}.{sandbox}"),
        rows="\n".join(rows),
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        written="<h2>Written answers</h2>" + "\n".join(written) if written else "",
        cells="<h2>Answers and visible checks</h2>" + "\n".join(cells) if cells else "",
    )
    return PAGE.format(title=_safe(f"{result['homework']}: {result['student']}"), body=body)


def write_answers(path: Path, title: str, solution: str, answers: list[tuple[str, dict, dict, list]]) -> None:
    """Write a page for teachers: our solution of one written question, its rubric first, then every answer.

    `answers` holds the student's name, the entry of the result, the answer, and earlier marks of other texts.
    """
    text, bold, rubric = solution.rpartition("**Rubric")
    unmarked = sum(entry["status"] == "manual" for _, entry, _, _ in answers)
    parts = [
        f"<h2>Rubric and solution</h2><pre>{_safe(bold + rubric)}</pre><pre>{_safe(text.strip())}</pre>",
        f"<h2>Answers</h2><p>{len(answers)} answers, {unmarked} not marked yet; points go into marks.csv</p>",
    ]
    for name, entry, answer, earlier in answers:
        before = "".join(
            f'<p class="said">An earlier text got {_safe(row["points"] or "no")} points: '
            f"{_safe(row['comment'])}</p>"
            for row in earlier
        )
        parts.append(f"<h3>{_safe(name)}</h3>{_answer(entry, answer)}{before}")
    renew(path, PAGE.format(title=_safe(title), body="\n".join(parts)))


def write_grades(path: Path, questions: list[Question], results: list[dict]) -> None:
    """Write `grades.csv`, in which no spreadsheet finds a formula."""
    names = [question.id for question in questions]
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["student", "status", "score", "max", *names, "notes", "sandbox"])
    for result in results:
        scores = [f"{result['questions'][name]['score']:g}" for name in names]
        total = [f"{result['score']:g}", f"{result['max']:g}"]
        unmarked = [name for name in names if result["questions"][name]["status"] == "manual"]
        notes = [*result["notes"], *([f"not marked yet: {', '.join(unmarked)}"] if unmarked else [])]
        texts = (
            [cell(result["student"]), result["status"]],
            [cell(" | ".join(notes)), result["sandbox"]],
        )
        table.writerow([*texts[0], *total, *scores, *texts[1]])
    write(path, file.getvalue())


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that an interruption leaves the old one or the new one; no link is followed."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".", delete=False, newline="", encoding="utf-8", errors="replace"
    ) as file:
        file.write(text)
    os.chmod(file.name, mode)
    os.replace(file.name, path)


def renew(path: Path, text: str) -> None:
    """Write a file unless it holds the text already."""
    if not path.exists() or path.read_bytes() != text.encode("utf-8", "replace"):
        write(path, text)


def cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, nor for two cells where `;` separates them."""
    plain_line = line(text).replace(";", ",")
    first = unicodedata.normalize("NFKC", plain_line[:1])  # some take a full-width sign for the sign
    return f"'{plain_line}" if first in ("=", "+", "-", "@", "|", "%") else plain_line


def _safe(text: object) -> str:
    return html.escape(plain(text), quote=True)


def _cut(text: str) -> str:
    """Return plain text of a bearable length, and say so where it was cut."""
    more = f"\n[cut here: {len(text):,} characters]" if len(text) > SOURCE_LIMIT else ""
    return plain(text[:SOURCE_LIMIT]) + more


def _points(entry: dict) -> str:
    return f"{entry['score']:g} of {entry['max']:g}"


def _answer(entry: dict, answer: dict) -> str:
    """Return a written answer as text, with points and comment below it."""
    points = f"{_points(entry)} points: " if entry["status"] == "marked" else ""
    return f'<pre>{_safe(answer["text"])}</pre><p class="said">{_safe(points + entry["message"])}</p>'


def _json(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _cleaned(value: object) -> object:
    """Return a result whose every text is plain."""
    if isinstance(value, dict):
        return {plain(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return plain(value)[:1000] if isinstance(value, str) else value
