"""Write what the teacher and the student read: a table, one JSON and one page for each student."""

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

RESERVED = {"grades.csv", "seed.txt"}
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SOURCE_LIMIT, TEXT_LIMIT = 20_000, 3_000  # characters of one cell, and of its output, on the page
# No script, no address, no picture: the page says so to the browser as well.
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ border: 1px solid #999; padding: .3rem .6rem; text-align: left
}} pre {{ background: #f3f3f3; padding: .6rem; overflow-x: auto; white-space: pre-wrap }}</style></head>
<body><h1>{title}</h1><p>{score}</p> <table><thead><tr><th scope="col">question</th><th
scope="col">points</th><th scope="col">status</th> <th scope="col">message</th></tr></thead><tbody> {rows}
</tbody></table> {notes}{cells} </body></html>
"""


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
    return out / (f"{student}_" if student.rstrip("_") in RESERVED else student)


def kept(folder: Path) -> str | None:
    """Return the hash of the submission whose results are in the folder, None if there are none."""
    try:
        return (
            (folder / "submission.sha256").read_text().strip() if (folder / "results.json").exists() else None
        )
    except OSError:
        return None


def keep(folder: Path, key: str) -> None:
    """Say that the results in the folder are complete."""
    write(folder / "submission.sha256", key + "\n")


def forget(folder: Path) -> None:
    """Remove earlier results."""
    for name in ("submission.sha256", "results.json", "feedback.html"):
        (folder / name).unlink(missing_ok=True)


def save(folder: Path, result: dict, rebuilt: Rebuilt, outcome: Outcome) -> None:
    """Write `results.json` and `feedback.html`."""
    folder.mkdir(parents=True, exist_ok=True)
    cleaned = _cleaned(result)
    write(folder / "feedback.html", page(cleaned, rebuilt, outcome))
    write(folder / "results.json", json.dumps(cleaned, indent=1, ensure_ascii=False) + "\n")


def page(result: dict, rebuilt: Rebuilt, outcome: Outcome) -> str:
    """Return the student's page: everything that came from a student is escaped text."""
    rows = [
        f"<tr><td>{_safe(name)}</td><td>{q['score']:g} of {q['max']:g}</td><td>{_safe(q['status'])}</td>"
        f"<td>{_safe(q['message'])}</td></tr>"
        for name, q in result["questions"].items()
    ]
    notes = "".join(f"<li>{_safe(note)}</li>" for note in result["notes"])
    cells = [
        f"<h3>{_safe(label)}: {_safe(cell['status'])}</h3><pre>{_safe(source[:SOURCE_LIMIT])}</pre>"
        + (
            f"<pre>{_safe(said)}</pre>"
            if (said := f"{cell['text'][:TEXT_LIMIT]}\n{cell['error']}".strip())
            else ""
        )
        for label, source, cell in zip(rebuilt.labels, rebuilt.code, outcome.cells, strict=False)
        if label
    ]
    status = "" if result["status"] == "ok" else f" ({result['status']})"
    sandbox = " Graded without a sandbox." if result["sandbox"] == "none" else ""
    return PAGE.format(
        title=_safe(f"{result['homework']}: {result['student']}"),
        score=_safe(f"{result['score']:g} of {result['max']:g} points{status}.{sandbox}"),
        rows="\n".join(rows),
        notes=f"<h2>Notes</h2><ul>{notes}</ul>" if notes else "",
        cells="<h2>Answers and visible checks</h2>" + "\n".join(cells) if cells else "",
    )


def write_grades(path: Path, questions: list[Question], results: list[dict]) -> None:
    """Write `grades.csv`, in which no spreadsheet finds a formula."""
    names = [question.id for question in questions]
    file = io.StringIO(newline="")
    table = csv.writer(file)
    table.writerow(["student", "status", "score", "max", *names, "notes", "sandbox"])
    for result in results:
        scores = [f"{result['questions'][name]['score']:g}" for name in names]
        total = [f"{result['score']:g}", f"{result['max']:g}"]
        texts = (
            [_cell(result["student"]), result["status"]],
            [_cell(" | ".join(result["notes"])), result["sandbox"]],
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


def _safe(text: object) -> str:
    return html.escape(plain(text), quote=True)


def _cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, nor for two cells where `;` separates them."""
    cell = line(text).replace(";", ",")
    first = unicodedata.normalize("NFKC", cell[:1])  # some take a full-width sign for the sign
    return f"'{cell}" if first in ("=", "+", "-", "@", "|", "%") else cell


def _cleaned(value: object) -> object:
    """Return a result whose every text is plain."""
    if isinstance(value, dict):
        return {plain(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return plain(value)[:1000] if isinstance(value, str) else value
