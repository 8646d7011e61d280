"""Tables of results: ours beside the published figure, with the target and whether it was reached."""

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["Table", "cells", "row", "table"]

# The columns in the order they are shown; what else a row holds comes after them.
SHOWN = ["model", "data", "metric", "ours", "published", "target", "param.", "s"]
SHORT = {"parameters": "param.", "seconds": "s"}
FOLDED = {"unit", "value", "std", "n_seeds", "higher_is_better", "reached", "profile", "torch", "source"}
CELL = '<td style="padding:.1em .4em;text-align:left;line-height:1.1">'  # low rows: a table fits its slide


class Table:
    """Rows of results, shown as HTML in a notebook and as aligned text elsewhere; sources are footnotes."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        sources = list(dict.fromkeys(row["source"] for row in rows if row.get("source")))
        lines = [_line(row, sources) for row in rows]
        names = dict.fromkeys([*SHOWN, *(name for line in lines for name in line)])
        machines = {f"{row['profile']} profile on {row['device']}, torch {row['torch']}" for row in rows}
        self._notes = ["; ".join(sorted(machines)), *(f"[{k}] {s}" for k, s in enumerate(sources, 1))]
        alike = {"device"} if len(machines) == 1 else set()  # the note says it for all rows
        names = [name for name in names if name not in alike and any(line.get(name) for line in lines)]
        self._lines = [names, *([line.get(name, "") for name in names] for line in lines)]

    def _repr_html_(self) -> str:
        head, *body = ["".join(f"{CELL}{html.escape(cell)}</td>" for cell in line) for line in self._lines]
        head = head.replace("<td", "<th").replace("/td>", "/th>")
        body = "".join(f"<tr>{line}</tr>" for line in body)
        notes = f'<caption style="caption-side:bottom">{"<br>".join(map(html.escape, self._notes))}</caption>'
        return f"<table>{notes}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._lines, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in self._lines]
        return "\n".join([*lines, *self._notes])


def row(model: str, value: float, task: tuple[str, str], network: nn.Module | None = None, **more) -> dict:
    """Return one row for `table`: a model's value in a task.

    Args:
        model: name of the model.
        value: what it reached, a number or a tensor of no axes.
        task: what was measured on which data, and the unit: ``("test NLL, dynamic MNIST", "nats")``.
        network: whose parameters are counted.
        more: further entries of `table`, as ``seconds``, ``std``, ``target``, ``published`` and ``source``.
    """
    metric, unit = task
    size = {} if network is None else {"parameters": sum(p.numel() for p in network.parameters())}
    return {"model": model, "metric": metric, "unit": unit, "value": value} | size | more


def table(rows: Sequence[Mapping[str, Any]], *, notebook: str, profile: str) -> Table:
    """Show results beside the published figures, and store them where the runner asks for it.

    A row is a dict with ``model``, ``metric``, ``unit``, ``value`` and optionally ``std`` and ``n_seeds``
    (over seeds), ``published`` and ``source``, ``target`` (what the value is held to; lower is better unless
    ``higher_is_better`` is true), ``seconds`` (of training), ``device``, ``parameters`` (their number), or
    anything else. Each row gains ``device``, ``profile``, ``torch`` (its version) and ``reached`` (None
    without a target). Where the environment variable ``DGM_RESULTS`` names a directory, the rows are written
    there, as ``NOTEBOOK.PROFILE.json``, whole or not at all.

    Raises:
        ValueError: a row lacks a required entry, or its value is not a number.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    rows = [{"device": device} | {name: _plain(entry) for name, entry in row.items()} for row in rows]
    for number, row in enumerate(rows):
        if missing := {"model", "metric", "unit", "value"} - set(row):
            raise ValueError(f"row {number} of the results lacks {sorted(missing)}, it has {sorted(row)}")
        if not isinstance(row["value"], int | float):
            raise ValueError(f"row {number} of the results: the value must be a number, got {row['value']!r}")
        sign = -1 if row.get("higher_is_better") else 1
        target, value = row.get("target"), row["value"]
        reached = None if target is None else math.isfinite(value) and sign * value <= sign * target
        row |= {"reached": reached, "profile": profile, "torch": torch.__version__}
    if directory := os.environ.get("DGM_RESULTS"):
        path = Path(directory) / f"{notebook}.{profile}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
    return Table(rows)


def _plain(entry: Any) -> Any:
    """Turn a number of torch's or NumPy's, which has no axes, into one of Python's."""
    return entry.item() if getattr(entry, "ndim", None) == 0 else entry


def cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Write the entries of a stored row as strings, by name, for this table and the page of the course.

    Numbers have four digits. ``ours`` is the value with its standard deviation, ``target`` has its sign. An
    entry that is None is left out.
    """
    forms = {int: ",", float: ".4g"}
    present = {name: entry for name, entry in row.items() if entry is not None}
    written = {name: format(entry, forms.get(type(entry), "")) for name, entry in present.items()}
    written["ours"] = written["value"] + (f" ± {row['std']:.1g}" if "std" in written else "")
    if "target" in written:
        written["target"] = f"{'≥' if row.get('higher_is_better') else '≤'} {written['target']}"
    return written


def _line(row: Mapping[str, Any], sources: list[str]) -> dict[str, str]:
    """Write a row of `Table`, by column; a missed target says so, a source is a number."""
    line = cells(row)
    line["ours"] += f" {row['unit']}" + (f" ({row['n_seeds']} seeds)" if row.get("n_seeds") else "")
    if row["reached"] is not None:
        line["target"] += "\u00a0✓" if row["reached"] else " MISSED"
    if row.get("source"):
        line["published"] = f"{line.get('published', '')} [{sources.index(row['source']) + 1}]".strip()
    return {SHORT.get(name, name): cell for name, cell in line.items() if name not in FOLDED}
