"""Write what teacher and student read, all from records: a table, a page and one JSON for each student."""

import csv
import html
import io
from pathlib import Path

from grading import store
from grading.homework import Homework
from grading.marks import Marks, answers
from grading.questions import Question
from grading.record import Answer, Entry, Record, Result
from grading.text import plain, spreadsheet_safe
from tools.notebooks import write_atomically

# No script, no address, no picture: the page says so to the browser as well.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #999; padding: .3rem .6rem; text-align: left
}} pre {{ background: #f3f3f3; padding: .6rem; overflow-x: auto; white-space: pre-wrap
}} td, .words {{ white-space: pre-line }}</style></head>
<body><h1>{title}</h1>{body} </body></html>
"""
FEEDBACK = """<p>{score}</p> <table><thead><tr><th scope="col">question</th><th
scope="col">points</th><th scope="col">status</th> <th scope="col">message</th></tr></thead><tbody> {rows}
</tbody></table> {notes}{written}{cells}"""


def publish(homework: Homework, records: dict[str, Record], marks: Marks, out: Path) -> None:
    """Write everything that is made from records with their marks in them, by student, and from the marks.

    A file that cannot be written fails its own student, in the table too.
    """
    for student, record in records.items():
        folder = store.folder_of(out, student)
        try:
            store.renew(folder / "feedback.html", page(record))
            store.renew(folder / "results.json", store.as_json(record.result.as_dict()))
        except OSError as error:  # such as a file that has the folder's name, or a full disk
            record.result.status = "failed"
            record.result.notes.append(f"{folder} could not be written: {error.strerror}")
    for question in homework.written:
        _write_answers(homework, question, records, marks, out)
    write_grades(out / "grades.csv", homework.questions, [record.result for record in records.values()])


def page(record: Record) -> str:
    """Return the student's page: everything that came from a student is escaped text."""
    result = record.result
    rows = [
        f"<tr><td>{_safe(name)}</td><td>{_points(entry)}</td><td>{_safe(entry.status)}</td>"
        f"<td>{_safe(entry.message)}</td></tr>"
        for name, entry in result.questions.items()
    ]
    notes = "".join(f"<li>{_safe(note)}</li>" for note in result.notes)
    written = [
        f"<h3>{_safe(name)}</h3>{_answer(result.questions[name], answer)}"
        for name, answer in record.written.items()
    ]
    cells = [
        f"<h3>{_safe(cell.label)}: {_safe(cell.status)}</h3><pre>{_safe(cell.source)}</pre>"
        + (f"<pre>{_safe(cell.output)}</pre>" if cell.output else "")
        for cell in record.cells
    ]
    status = "" if result.status == "ok" else f" ({result.status})"
    left = sum(result.questions[name].max for name in result.having("manual"))
    unmarked = f"; {left:g} are not marked yet" if left else ""
    sandbox = " Graded without a sandbox." if result.sandbox == "none" else ""
    body = FEEDBACK.format(
        score=_safe(f"{_points(result)} points{status}{unmarked}.{sandbox}"),
        rows="\n".join(rows),
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        written="<h2>Written answers</h2>" + "\n".join(written) if written else "",
        cells="<h2>Answers and visible checks</h2>" + "\n".join(cells) if cells else "",
    )
    return PAGE.format(title=_safe(f"{result.homework}: {result.student}"), body=body)


def answers_page(
    title: str, solution: str, shown: list[tuple[str, Entry, Answer, list[dict[str, str]]]]
) -> str:
    """Return a page for teachers: our solution of one written question, its rubric first, then every answer.

    `shown` holds the student's name, the entry of the result, the answer, and earlier marks of other texts.
    """
    text, bold, rubric = solution.rpartition("**Rubric")
    unmarked = sum(entry.status == "manual" for _, entry, _, _ in shown)
    parts = [
        f"<h2>Rubric and solution</h2><pre>{_safe(bold + rubric)}</pre><pre>{_safe(text.strip())}</pre>",
        f"<h2>Answers</h2><p>{len(shown)} answers, {unmarked} not marked yet; points go into marks.csv</p>",
    ]
    for name, entry, answer, earlier in shown:
        before = "".join(
            f'<p class="words">An earlier text got {_safe(row["points"] or "no")} points: '
            f"{_safe(row['comment'])}</p>"
            for row in earlier
        )
        parts.append(f"<h3>{_safe(name)}</h3>{_answer(entry, answer)}{before}")
    return PAGE.format(title=_safe(title), body="\n".join(parts))


def write_grades(path: Path, questions: list[Question], results: list[Result]) -> None:
    """Write `grades.csv`, in which no spreadsheet finds a formula."""
    names = [question.id for question in questions]
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["student", "status", "score", "max", *names, "notes", "sandbox"])
    for result in results:
        points = [f"{points:g}" for points in (result.score, result.max)]
        points += [f"{result.questions[name].score:g}" for name in names]
        unmarked = result.having("manual")
        notes = [*result.notes, *([f"not marked yet: {', '.join(unmarked)}"] if unmarked else [])]
        student, remarks = spreadsheet_safe(result.student), spreadsheet_safe(" | ".join(notes))
        table.writerow([student, result.status, *points, remarks, result.sandbox])
    write_atomically(path, file.getvalue())


def _write_answers(
    homework: Homework, question: Question, records: dict[str, Record], marks: Marks, out: Path
) -> None:
    """Write the page of one written question, its answers in the order of `marks.csv`."""
    current = answers(records)
    shown = [
        (row["student"], records[key[0]].result.questions[question.id], current[key], marks.earlier(key))
        for key, row in marks.rows.items()
        if key in current and key[1] == question.id
    ]
    title = f"{homework.name}, {question.id}: {question.points:g} points"
    text = answers_page(title, homework.solutions.get(question.id, ""), shown)
    store.renew(out / f"answers_{question.id}.html", text)


def _safe(text: object) -> str:
    return html.escape(plain(text), quote=True)


def _points(counted: Entry | Result) -> str:
    return f"{counted.score:g} of {counted.max:g}"


def _answer(entry: Entry, answer: Answer) -> str:
    """Return a written answer as text, with points and comment below it."""
    points = f"{_points(entry)} points: " if entry.status == "marked" else ""
    return f'<pre>{_safe(answer.text)}</pre><p class="words">{_safe(points + entry.message)}</p>'
