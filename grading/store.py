"""What a batch keeps in its folder OUT: the seed, the names, and for each student a folder with the record.

A record is kept as `graded.json` and is complete once `submission.sha256` says what it was made from. A run
that is stopped loses nothing that is complete; with the marks merged, all else in OUT is made from records.
"""

import contextlib
import json
import re
import secrets
import sys
from pathlib import Path

from grading.record import Record
from tools.notebooks import write_atomically

FORMAT = b"5"  # of a record: one that was kept in another format is made anew
MORE = {"gradescope": "gradescope.json", "junit": "junit.xml"}  # forms of a result, if they are asked for
RESERVED = re.compile(
    r"(grades\.csv|marks\.csv|late\.csv|similar\.csv|seed\.txt|names\.json|answers_\w+\.html)_*"
)


def folder_of(out: Path, student: str) -> Path:
    """Return the folder of a student's results; a name that is a file of ours gets one more underscore."""
    return out / (f"{student}_" if RESERVED.fullmatch(student) else student)


def kept(folder: Path) -> str | None:
    """Return the hash of the submission whose record is in the folder, None if there is none."""
    try:
        complete = (folder / "graded.json").exists()
        return (folder / "submission.sha256").read_text().strip() if complete else None
    except OSError:
        return None


def keep(folder: Path, key: str, record: Record) -> None:
    """Keep the record of a submission, and say that it is complete."""
    write_atomically(folder / "graded.json", as_json(record.as_dict()))
    write_atomically(folder / "submission.sha256", key + "\n")


def load(folder: Path) -> Record:
    """Return the record that is kept in a folder."""
    return Record.from_dict(json.loads((folder / "graded.json").read_text(encoding="utf-8")))


def forget(folder: Path) -> None:
    """Remove earlier results."""
    for name in ("submission.sha256", "graded.json", "results.json", "feedback.html", *MORE.values()):
        (folder / name).unlink(missing_ok=True)


def students(out: Path) -> set[str]:
    """Return the names of the folders with a record."""
    return {path.parent.name for path in out.glob("*/graded.json")}


def seed_of(out: Path, given: int | None) -> int:
    """Return the batch's seed (given, else kept in `out`, else a new secret) and keep it in `out`.

    A seed that is given replaces the one kept, which is said. Raises ValueError if what is kept is no seed.
    """
    path = out / "seed.txt"
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None
    if given is None and text is not None and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{path} holds no seed, a whole number from 0: put it back, or give --seed")
    seed = given if given is not None else secrets.randbits(128) if text is None else int(text)
    if text is not None and text != str(seed):
        print(f"--seed replaces the one in {path}: every submission is graded again", file=sys.stderr)
    write_atomically(path, f"{seed}\n", mode=0o600)
    return seed


def names(out: Path) -> dict[str, str]:
    """Return what students are shown as in this batch, by their names as they were handed in.

    Raises ValueError if what is kept says no such thing, or shows two alike.
    """
    path = out / "names.json"
    if not path.exists():
        return {}
    with contextlib.suppress(ValueError):  # of JSON, or of UTF-8
        found = json.loads(path.read_text(encoding="utf-8"))
        shown = list(found.values()) if isinstance(found, dict) else [None]
        if all(isinstance(name, str) for name in shown) and len(set(shown)) == len(shown):
            return found
    expected = "an object with the shown name of each student, no two alike"
    raise ValueError(f"{path} does not hold {expected}: put it back as the grader wrote it")


def keep_names(out: Path, shown: dict[str, str]) -> None:
    """Keep what students are shown as; names that differ in bytes alone are written as code points."""
    renew(out / "names.json", json.dumps(shown, indent=1, sort_keys=True) + "\n")


def renew(path: Path, text: str) -> None:
    """Write a file unless it holds the text already."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomically(path, text)


def as_json(value: object) -> str:
    """Return the text of a JSON file."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"
