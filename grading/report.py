"""Write what teacher and student read, all from records: tables, pages and one JSON for each student."""

import csv
import html
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

from grading import exports, store
from grading.homework import Homework
from grading.markdown import TEXT_LIMIT, rendered
from grading.marks import Marks, answers
from grading.questions import Question
from grading.record import Answer, CellReport, Entry, Record, Result
from grading.text import bounded, counted, plain, spreadsheet_safe
from tools.notebooks import write_atomically

# No script, no address, pictures only from the page itself: the page says so to the browser as well.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style></head>
<body>
<h1>{title}</h1>
{body}
</body></html>
"""
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
PAGE_BYTES = 2_000_000  # of a page, its pictures left out
PICTURE_BYTES = 20_000_000  # of a page's pictures
SHORTER = 200_000  # bytes of one answer with its texts, beyond which they are not laid out
PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
HOW_TO_MARK = """Enter points and comments in the columns <code>points</code> and <code>comment</code> of
marks.csv: the next run of the same command counts them."""
SIGNS = {"ok": "✓", "marked": "✓", "wrong": "✗", "error": "✗", "timeout": "✗", "missing": "✗"}


def publish(
    homework: Homework, records: dict[str, Record], marks: Marks, out: Path, also: tuple[str, ...] = ()
) -> None:
    """Write everything that is made from records with their marks in them, by student, and from the marks.

    `also` names further forms of a result, as in `exports.FORMS`; those not asked for are removed. A file
    that cannot be written fails its own student, in the table too.
    """
    for student, record in records.items():
        folder = store.folder_of(out, student)
        try:
            store.renew(folder / "feedback.html", page(record))
            store.renew(folder / "results.json", store.as_json(record.result.as_dict()))
            for form, name in store.MORE.items():
                if form in also:
                    store.renew(folder / name, exports.FORMS[form](record.result))
                else:  # it would hold old points
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:  # such as a file that has the folder's name, or a full disk
            record.result.status = "failed"
            record.result.notes.append(f"{folder} could not be written: {error.strerror}")
    for question in homework.written:
        _write_answers(homework, question, records, marks, out)
    write_grades(out / "grades.csv", homework.questions, [record.result for record in records.values()])


def page(record: Record) -> str:
    """Return the student's page: what came from a student is text, and nothing in it runs or is fetched."""
    result = record.result
    left = sum(result.questions[name].max for name in result.having("manual"))
    facts = [f"<strong>{_points(result)}.</strong>"]
    facts += [_badge(result.status)] if result.status != "ok" else []
    facts += [f"{counted(left, 'point')} {'is' if left == 1 else 'are'} not marked yet."] if left else []
    facts += ["Graded without a sandbox."] if result.sandbox == "none" else []
    notes = "".join(f"<li>{_safe(note)}</li>" for note in result.notes)
    written = [
        f'<h3 id="written-{_safe(name)}">{_safe(name)} {_badge(result.questions[name].status)}</h3>'
        + _answer(result.questions[name], answer)
        for name, answer in record.written.items()
    ]
    cells = [_cell(number, cell) for number, cell in enumerate(record.cells)]
    written, cells = _within(written, PAGE_BYTES // 2, "answer"), _within(cells, PAGE_BYTES // 3, "cell")
    parts = [
        f"<p>{' '.join(facts)}</p>",
        _questions(record),
        f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        "<h2>Written answers</h2>" + "\n".join(written) if written else "",
        "<h2>Answers and visible checks</h2>" + "\n".join(cells) if cells else "",
    ]
    return _page(f"{result.homework}: {result.student}", "\n".join(parts))


@dataclass
class Shown:
    """An answer on the page for marking: the student's name in marks.csv, and the row there."""

    name: str
    row: int
    entry: Entry
    answer: Answer
    earlier: list[dict[str, str]] = field(default_factory=list)


def answers_pages(title: str, solution: str, shown: list[Shown], name: str) -> list[str]:
    """Return pages for teachers: every answer to one written question, rubric and solution in view beside it.

    There are as many as keep each at a size that a browser opens at once; `name` is that of the first, from
    which those of the others are made.
    """
    text, bold, rest = solution.partition("**Rubric")
    rubric = f"<h2>Rubric</h2>{rendered(bold + rest)}" if bold else ""
    unmarked = sum(one.entry.status == "manual" for one in shown)
    verb = "is" if unmarked == 1 else "are"
    facts = f"{counted(len(shown), 'answer')}, of which {unmarked} {verb} not marked yet."
    sheets = _sheets([_section(one) for one in shown])
    pages = []
    for number, sheet in enumerate(sheets):
        links = [
            f'<a href="{_safe(part_name(name, other))}">{other + 1}</a>'
            if other != number
            else str(other + 1)
            for other in range(len(sheets))
        ]
        parts = f"<p>Pages: {' '.join(links)}</p>" if len(sheets) > 1 else ""
        body = (
            f"<p>{facts} {HOW_TO_MARK}</p>{parts}"
            f'<div class="marking"><aside>{rubric}<h2>Solution</h2>{rendered(text)}</aside>'
            f"<main><h2>Answers</h2>{''.join(sheet)}{parts}</main></div>"
        )
        pages.append(_page(title, body))
    return pages


def part_name(name: str, number: int) -> str:
    """Return the file name of one of several pages, the first being number 0."""
    return name if number == 0 else name.replace(".html", f"_{number + 1}.html")


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
    """Write the pages of one written question, its answers in the order of `marks.csv`."""
    current = answers(records)
    shown = [
        Shown(
            row["student"], line, records[key[0]].result.questions[key[1]], current[key], marks.earlier(key)
        )
        for line, (key, row) in enumerate(marks.rows.items(), start=2)
        if key in current and key[1] == question.id
    ]
    name = f"answers_{question.id}.html"
    title = f"{homework.name}, {question.id}: {counted(question.points, 'point')}"
    pages = answers_pages(title, homework.solutions.get(question.id, ""), shown, name)
    for number, text in enumerate(pages):
        store.renew(out / part_name(name, number), text)
    for old in out.glob(f"answers_{question.id}_*.html"):
        if old.name not in [part_name(name, number) for number in range(len(pages))]:
            old.unlink()


def _safe(text: object) -> str:
    return html.escape(plain(text), quote=True)


def _page(title: str, body: str) -> str:
    return PAGE.format(title=_safe(title), style=STYLE, body=body)


def _points(one: Entry | Result) -> str:
    return f"{one.score:g} of {counted(one.max, 'point')}"


def _badge(status: str | None) -> str:
    """Return a status as a word with a sign, so that no colour has to be seen."""
    sign = SIGNS.get(str(status), "•")
    kind = {"✓": "good", "✗": "bad"}.get(sign, "open")
    return f'<span class="badge {kind}">{sign} {_safe(status)}</span>'


def _questions(record: Record) -> str:
    """Return the table of questions, each with a link to what the student wrote for it."""
    rows = []
    for name, entry in record.result.questions.items():
        places = [f"written-{name}"] if name in record.written else []
        places += [f"cell-{i}" for i, cell in enumerate(record.cells) if _belongs(cell, name)]
        linked = f'<a href="#{_safe(places[0])}">{_safe(name)}</a>' if places else _safe(name)
        message = rendered(entry.message).strip() if entry.status == "marked" else _safe(entry.message)
        cells = (linked, _points(entry), _badge(entry.status), message)
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("question", "points", "status", "message"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _belongs(cell: CellReport, question: str) -> bool:
    return cell.answer and (cell.label == question or cell.label.startswith(f"{question}_"))


def _cell(number: int, cell: CellReport) -> str:
    """Return a cell with what it printed; cells that are no answers are folded unless they failed."""
    good = cell.status == "ok"
    output = f'<pre class="output{"" if good else " bad"}">{_safe(cell.output)}</pre>' if cell.output else ""
    head, body = f"{_safe(cell.label)} {_badge(cell.status)}", f"<pre>{_safe(cell.source)}</pre>{output}"
    if cell.answer:
        return f'<h3 id="cell-{number}">{head}</h3>{body}'
    opened = "" if good else " open"
    return f'<details id="cell-{number}"{opened}><summary>{head}</summary>{body}</details>'


def _answer(entry: Entry, answer: Answer) -> str:
    """Return a written answer, the student's texts around it, its pictures, and the mark."""
    around = "".join(f'<div class="near">{rendered(text)}</div>' for text in answer.near)
    near = f"<p>Near this answer stands, and may belong to it:</p>{around}" if around else ""
    text = f'<div class="answer">{rendered(answer.text)}</div>{near}'
    if len(text.encode()) > SHORTER:
        near = "".join(f"\n\n[near this answer]\n{text}" for text in answer.near)
        text = f'<pre class="answer">{_safe(bounded(answer.text + near, 2 * TEXT_LIMIT))}</pre>'
    mark = f"{_points(entry)}: " if entry.status == "marked" else ""
    return f'{text}{_pictures(answer)}<div class="mark">{rendered(mark + entry.message)}</div>'


def _pictures(answer: Answer) -> str:
    """Return an answer's pictures, those of a kind that every browser only draws; say what is not shown."""
    shown = [picture for picture in answer.pictures if PICTURE.fullmatch(picture)]
    unshown = answer.unshown + len(answer.pictures) - len(shown)
    figures = "".join(
        f'<img src="{picture}" alt="picture {number} of {len(shown)} in this answer">'
        for number, picture in enumerate(shown, start=1)
    )
    more = f"{counted(unshown, 'picture')} not shown here: open the notebook."
    return figures + (f"<p><strong>{more}</strong></p>" if unshown else "")


def _section(one: Shown) -> str:
    """Return an answer on the page for marking."""
    earlier = "".join(
        f'<div class="mark"><p>An earlier text got {_earlier(row)}.</p>{rendered(row["comment"])}</div>'
        for row in one.earlier
    )
    where = f'<p class="where">marks.csv, row {one.row}: {_safe(one.answer.fingerprint)}</p>'
    head = f"<h3>{_safe(one.name)} {_badge(one.entry.status)}</h3>"
    return f"<section>{head}{_answer(one.entry, one.answer)}{earlier}{where}</section>"


def _earlier(row: dict[str, str]) -> str:
    points = row["points"].strip().replace(",", ".")
    return counted(float(points), "point") if points else "no points"


def _weight(part: str) -> tuple[int, int]:
    """Return the bytes of a part of a page without its pictures, and those of the pictures."""
    pictures = sum(len(picture) for picture in re.findall(r'<img src="[^"]*"', part))
    return len(part.encode()) - pictures, pictures


def _within(parts: list[str], limit: int, noun: str) -> list[str]:
    """Return the parts that a page has room for, the last one saying how many are left out."""
    first = _sheets(parts, limit)[0]
    left = counted(len(parts) - len(first), noun)
    more = f"<p><strong>Not shown here, for the page is full: {left}.</strong></p>"
    return [*first, more] if len(first) < len(parts) else first


def _sheets(parts: list[str], limit: int = PAGE_BYTES * 3 // 4) -> list[list[str]]:
    """Return the parts in groups, each as much as one page has room for; at least one group."""
    sheets, used, drawn = [[]], 0, 0
    for part in parts:
        text, pictures = _weight(part)
        if sheets[-1] and (used + text > limit or drawn + pictures > PICTURE_BYTES):
            sheets.append([])
            used = drawn = 0
        sheets[-1].append(part)
        used, drawn = used + text, drawn + pictures
    return sheets
