"""Compare fresh results with the committed ones, and lay the committed ones out for the course page.

Every notebook writes `NOTEBOOK.PROFILE.json`, a list of rows, where DGM_RESULTS asks for it; `results/` keeps
one of each. `python -m tools.results --compare build/quick results` says where a fresh run fell behind.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from dgm_utils.results import cells

# A fresh value may differ from the committed one by the largest of these: another processor rounds otherwise,
# and training amplifies it. A likelihood that moves by 5 % is another model, not another rounding.
RELATIVE_BAND = 0.05
DEVIATIONS = 3.0  # standard deviations, where a row states one
ABSOLUTE_BAND = 1e-3  # for values about zero, a bias say
TIMES = {"s", "ms", "μs", "times", "x", "×", "images/s", "samples/s"}  # units that depend on the machine


ENTRIES = ["Model", "Metric", "Ours", "Target", "Published"]  # of a row on a page


class ResultsError(Exception):
    """A file of results that cannot be read; the message is one line."""


def read_rows(path: Path) -> list[dict]:
    """Read one file of results.

    Raises:
        ResultsError: it is not a JSON list of rows with model, metric and value.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: {error}") from None
    needed = {"model", "metric", "value"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise ResultsError(f"{path}: expected a list of rows, each with {', '.join(sorted(needed))}")
    return rows


def compare(fresh: Path, committed: Path) -> list[str]:
    """List where fresh results fall behind the committed ones of the same profile.

    Args:
        fresh: folder that a run wrote below, searched through.
        committed: folder of the committed files.

    Returns:
        A sentence for each file or row that is missing, target that is missed, value that left its band.
    """
    new = {path.name: read_rows(path) for path in sorted(fresh.rglob("*.*.json"))}
    if not new:
        return [f"{fresh}: no results; run the notebooks first"]
    profiles = {_profile(name) for name in new}
    old = {p.name: read_rows(p) for p in sorted(committed.glob("*.*.json")) if _profile(p.name) in profiles}
    problems = [
        f"{name}: not in {committed}; keep it with run_notebooks --store" for name in new.keys() - old.keys()
    ]
    problems += [f"{name}: in {committed}, but no run wrote it" for name in old.keys() - new.keys()]
    for name in sorted(new.keys() & old.keys()):
        problems += [f"{name}: {problem}" for problem in _compare_rows(new[name], old[name])]
    return problems


def _profile(name: str) -> str:
    return name.split(".")[-2]


def _compare_rows(fresh: list[dict], committed: list[dict]) -> list[str]:
    new = {(row["model"], row["metric"]): row for row in fresh}
    old = {(row["model"], row["metric"]): row for row in committed}
    problems = [f"{model}, {metric}: the row is new" for model, metric in new.keys() - old.keys()]
    problems += [f"{model}, {metric}: the row is gone" for model, metric in old.keys() - new.keys()]
    for key in sorted(new.keys() & old.keys()):
        value, before, unit = new[key]["value"], old[key]["value"], old[key].get("unit") or ""
        if new[key].get("reached") is False:
            problems.append(
                f"{key[0]}, {key[1]}: {value:.5g} {unit} misses the target {new[key].get('target')}"
            )
        spread = max(new[key].get("std") or 0.0, old[key].get("std") or 0.0)
        band = max(RELATIVE_BAND * abs(before), DEVIATIONS * spread, ABSOLUTE_BAND)
        if unit not in TIMES and not abs(value - before) <= band:  # "not <=" also catches a NaN
            problems.append(
                f"{key[0]}, {key[1]}: {value:.5g} {unit}, committed {before:.5g}, allowed ± {band:.2g}"
            )
    return problems


def files(folder: Path) -> list[Path]:
    """Return the files of results in a folder, seminar 9 before seminar 10, the longest profile first."""
    order = {"full": 0, "long": 1}
    found = folder.glob("*.*.json")
    return sorted(
        found, key=lambda p: (len(p.name.split(".")[0]), p.name.split(".")[0], order.get(_profile(p.name), 2))
    )


def highlights(folder: Path) -> str:
    """Lay out what a course page shows: of each notebook's longest profile the rows that aim at something.

    These are the rows with a target. What the shipped weights reach again is left out.
    """
    longest: dict[str, Path] = {}
    for path in files(folder):
        longest.setdefault(path.name.split(".")[0], path)
    lines = []
    for notebook, path in longest.items():
        rows = [row for row in read_rows(path) if row.get("target")]
        rows = [row for row in rows if "shipped" not in row["model"]] or rows
        name = f"{_spoken(notebook)}, `{_profile(path.name)}`"
        lines += [[name if row is rows[0] else "", *_entries(row)] for row in rows]
    return _table(["Notebook", *ENTRIES], lines)


def every_row(folder: Path) -> str:
    """Lay out all results: a heading for each notebook, a table for each profile."""
    parts, before = [], ""
    for path in files(folder):
        notebook, rows = path.name.split(".")[0], read_rows(path)
        parts += [f"## {_spoken(notebook)}"] * (notebook != before)
        devices = sorted({row["device"] for row in rows if row.get("device")})
        parts.append(f"`{_profile(path.name)}`" + f" on {', '.join(devices)}" * bool(devices))
        seconds = [cells(row).get("seconds", "") for row in rows]
        parts.append(
            _table([*ENTRIES, "Seconds"], [[*_entries(row), s] for row, s in zip(rows, seconds, strict=True)])
        )
        before = notebook
    return "\n\n".join(parts)


def _entries(row: dict) -> list[str]:
    """Return the entries of one row under ENTRIES, a missed target marked."""
    cell = {"target": ""} | cells(row)
    unit = row.get("unit") or ""
    metric = f"{cell['metric']}, {unit}" if unit and not cell["metric"].startswith(unit) else cell["metric"]
    target = cell["target"] + " (missed)" * (row.get("reached") is False)
    return [cell["model"], metric, cell["ours"], target, _cited(cell)]


def _spoken(notebook: str) -> str:
    """Return `Seminar 9` of seminar9."""
    return re.sub(
        r"^([a-z])([a-z]*)(\d+)$", lambda found: f"{found[1].upper()}{found[2]} {found[3]}", notebook
    )


def _table(head: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table without the columns that are empty."""
    kept = [i for i in range(len(head)) if any(line[i] for line in lines)]
    numbers = {"Ours", "Target", "Published", "Seconds"}
    rule = ["---:" if head[i] in numbers else "---" for i in kept]
    return "\n".join(
        map(_line, [[head[i] for i in kept], rule, *[[line[i] for i in kept] for line in lines]])
    )


def _line(entries: list[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|").replace("\n", " ") for entry in entries) + " |"


def _cited(cell: dict[str, str]) -> str:
    """Return the published figure, linked to its source where that is an address."""
    published, source = cell.get("published", ""), cell.get("source", "")
    if source.startswith("http"):
        return f"[{published or 'source'}]({source})"
    return f"{published} ({source})" if source else published


def main(arguments: list[str] | None = None) -> int:
    """Compare two folders of results or print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.results", description=__doc__.splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--compare", nargs=2, type=Path, metavar=("FRESH", "COMMITTED"))
    task.add_argument("--table", type=Path, nargs="?", const=Path("results"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        if options.table:
            print(every_row(options.table))
            return 0
        problems = compare(*options.compare)
    except ResultsError as error:
        problems = [str(error)]
    print("\n".join(problems) or "fresh results agree with the committed ones")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
