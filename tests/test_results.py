"""Tables of results: what they show and what they store."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from dgm_utils import results

ROW = {"model": "MADE", "metric": "log-likelihood", "unit": "nats", "value": 88.5}


def table(*rows):
    return results.table(rows, notebook="seminar1", profile="quick")


def test_a_row_gains_where_it_came_from():
    (row,) = table(ROW).rows
    assert {**ROW, "profile": "quick", "torch": torch.__version__, "reached": None}.items() <= row.items()
    assert isinstance(row["device"], str)
    assert table({**ROW, "device": "H100"}).rows[0]["device"] == "H100"
    assert "reached" not in ROW


@pytest.mark.parametrize(
    "value, target, higher, reached",
    [(88.5, 89.0, False, True), (88.5, 88.5, False, True), (88.5, 88.0, False, False),
     (88.5, 88.0, True, True), (88.5, 89.0, True, False),
     (math.nan, 89.0, False, False), (-math.inf, 89.0, False, False), (math.inf, 1.0, True, False)],
)  # fmt: skip
def test_targets(value, target, higher, reached):
    shown = table({**ROW, "value": value, "target": target, "higher_is_better": higher})
    assert shown.rows[0]["reached"] is reached
    for text in (repr(shown), shown._repr_html_()):
        assert ("MISSED" in text) is not reached and ("✓" in text) is reached
        assert ("≥" if higher else "≤") in text


def test_the_table_shows_what_the_rows_hold():
    extras = {"std": 0.04, "n_seeds": 3, "published": 88.04, "source": "Germain <2015>", "seconds": 12.34}
    shown = table({**ROW, **extras, "parameters": 1_234_567, "data": "MNIST", "note": "alone"}, ROW)
    for text in (repr(shown), shown._repr_html_()):
        for part in ("88.5 ± 0.04 nats (3 seeds)", "88.04", "12.34", "1,234,567", "MADE", "MNIST", "alone"):
            assert part in text
        assert "target" not in text  # no row has one
    assert "Germain &lt;2015&gt;" in shown._repr_html_() and "<2015>" not in shown._repr_html_()
    head, *lines, caption, source = repr(shown).splitlines()
    assert head.startswith("model") and len(lines) == 2
    assert caption.startswith("quick profile on ") and caption in shown._repr_html_()
    assert source == "[1] Germain <2015>"


def test_sources_are_numbered_below_the_table_and_shared():
    one, two = {**ROW, "published": 84.87, "source": "A paper"}, {**ROW, "source": "Another"}
    head, *lines = repr(table(ROW, one, two, {**one, "published": 85})).splitlines()
    assert head.split() == ["model", "metric", "ours", "published"]  # no column for what no row has
    assert [line.split("nats")[1].strip() for line in lines[:4]] == ["", "84.87 [1]", "[2]", "85 [1]"]
    assert lines[5:] == ["[1] A paper", "[2] Another"]
    shown = table(one, two)._repr_html_()
    assert shown.count("A paper") == 1 and shown.index("A paper") < shown.index("</caption>")
    assert [shown.count(tag) for tag in ("<th ", "</th>", "<td ", "</td>")] == [4, 4, 8, 8]


def test_a_value_that_is_not_a_number_is_shown_and_misses_its_target():
    shown = table({**ROW, "value": math.nan, "target": 89.0}).rows
    assert "nan nats  ≤ 89 MISSED" in repr(results.Table(shown))


def test_a_row_states_the_task_and_counts_parameters():
    network, task = nn.Linear(3, 2), ("log-likelihood", "nats")
    network.bias.requires_grad_(False)  # what is frozen is a parameter too
    assert results.row("MADE", 88.5, task) == ROW
    described = results.row("MADE", 88.5, task, network, seconds=2.5)
    assert described == ROW | {"parameters": 8, "seconds": 2.5}


NUMBERS = [
    torch.tensor(88.25, requires_grad=True), torch.tensor(88.25, dtype=torch.bfloat16, requires_grad=True),
    torch.tensor(88.25).double(), np.float32(88.25), np.array(88.25),
]  # fmt: skip


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_numbers_of_all_kinds_become_python_s_own(number):
    (row,) = table({**ROW, "value": number, "std": number, "target": number}).rows
    assert [type(row[name]) for name in ("value", "std", "target")] == [float] * 3
    assert row["value"] == pytest.approx(88.25, abs=0.25) and row["reached"]


def test_rows_are_stored_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("DGM_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    table(ROW)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("DGM_RESULTS", str(tmp_path / "new" / "results"))
    shown = table({**ROW, "target": 80})
    path = tmp_path / "new" / "results" / "seminar1.quick.json"
    assert json.loads(path.read_text(encoding="utf-8")) == shown.rows
    table({**ROW, "value": 87.5})
    assert [row["value"] for row in json.loads(path.read_text())] == [87.5]
    assert list(path.parent.iterdir()) == [path]  # nothing temporary is left
    assert path.stat().st_mode & 0o044  # readable by others, as any file that a notebook writes


BAD_ROWS = [{"model": "MADE"}, *({**ROW, "value": value} for value in ("88", None, torch.zeros(2)))]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_are_refused(bad, tmp_path, monkeypatch):
    monkeypatch.setenv("DGM_RESULTS", str(tmp_path))
    with pytest.raises(ValueError, match="row 1"):
        table(ROW, bad)
    assert not list(tmp_path.iterdir())
