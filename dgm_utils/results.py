"""Tables of results: ours beside the published figure, with the target and whether it was reached."""

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

# The entries of a row in the order they are shown; what else a row holds comes after them.
SHOWN = (
    "model",
    "data",
    "metric",
    "ours",
    "published",
    "source",
    "target",
    "parameters",
    "seconds",
    "device",
)
FOLDED = {"unit", "value", "std", "n_seeds", "higher_is_better", "reached", "profile", "torch"}


class Table:
    """Rows of results, shown as HTML in a notebook and as aligned text elsewhere."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        cells = [_cells(row) for row in rows]
        names = dict.fromkeys([*SHOWN, *(name for row in cells for name in row)])
        machines = {f"{row['profile']} profile on {row['device']}, torch {row['torch']}" for row in rows}
        self._caption = "; ".join(sorted(machines))
        alike = {"device"} if len(machines) == 1 else set()  # the caption says it for all rows
        names = [name for name in names if name not in alike and any(row.get(name) for row in cells)]
        self._lines = [names, *([row.get(name, "") for name in names] for row in cells)]

    def _repr_html_(self) -> str:
        head, *body = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in self._lines]
        body = "".join(f"<tr>{line}</tr>" for line in body)
        head = f"<thead><tr>{head.replace('td>', 'th>')}</tr></thead>"
        return f"<table><caption>{html.escape(self._caption)}</caption>{head}<tbody>{body}</tbody></table>"

    def __repr__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self._lines, strict=True)]
        lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in self._lines]
        return "\n".join([*lines, self._caption])


def row(
    model: str, value: float, task: tuple[str, str], network: nn.Module | None = None, **more: Any
) -> dict[str, Any]:
    """Return one row for `table`: a model's value in a task.

    Args:
        model: name of the model.
        value: what it reached.
        task: what was measured on which data, and the unit: ``("test NLL, dynamic MNIST", "nats")``.
        network: whose parameters are counted.
        more: further entries of `table`, as ``seconds``, ``std``, ``target``, ``published`` and ``source``.
    """
    described = {"model": model, "metric": task[0], "unit": task[1], "value": value, **more}
    if network is None:
        return described
    return described | {"parameters": sum(parameter.numel() for parameter in network.parameters())}


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
    rows = [{"device": device, **{name: _plain(entry) for name, entry in row.items()}} for row in rows]
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
    """Turn a tensor or a NumPy number into a number of Python's."""
    return entry.item() if isinstance(entry, torch.Tensor | np.generic) and entry.ndim == 0 else entry


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Write a row as strings, by column; a missed target says so."""
    cells = {name: f"{entry}" for name, entry in row.items() if name not in FOLDED and entry is not None}
    spread = "" if row.get("std") is None else f" ± {row['std']:.2g}"
    seeds = f" ({row['n_seeds']} seeds)" if row.get("n_seeds") else ""
    cells["ours"] = f"{row['value']:.4g}{spread} {row['unit']}{seeds}"
    if row["reached"] is not None:
        sign = "≥" if row.get("higher_is_better") else "≤"
        cells["target"] = f"{sign} {row['target']:g}: {'reached' if row['reached'] else 'MISSED'}"
    for name, form in (("parameters", ","), ("seconds", ".1f")):
        if row.get(name) is not None:
            cells[name] = format(row[name], form)
    return cells
