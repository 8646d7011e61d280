"""Tables of results: what they show and what they store."""

import json
import math

import numpy as np
import pytest
import torch

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
        assert ("MISSED" in text) is not reached and ("reached" in text) is reached
        assert ("≥" if higher else "≤") in text


def test_the_table_shows_what_the_rows_hold():
    extras = {"std": 0.25, "n_seeds": 3, "published": 88.04, "source": "Germain <2015>", "seconds": 12.34}
    shown = table({**ROW, **extras, "parameters": 1_234_567, "data": "MNIST", "note": "alone"}, ROW)
    for text in (repr(shown), shown._repr_html_()):
        for part in ("88.5 ± 0.25 nats (3 seeds)", "88.04", "12.3", "1,234,567", "MADE", "MNIST", "alone"):
            assert part in text
        assert "target" not in text  # no row has one
    assert "Germain &lt;2015&gt;" in shown._repr_html_() and "<2015>" not in shown._repr_html_()
    head, *lines, caption = repr(shown).splitlines()
    assert head.startswith("model") and len(lines) == 2
    assert caption.startswith("quick profile on ") and caption in shown._repr_html_()


def test_rows_are_stored_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("DGM_RESULTS", raising=False)
    monkeypatch.chdir(tmp_path)
    table(ROW)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("DGM_RESULTS", str(tmp_path / "new" / "results"))
    shown = table({**ROW, "value": torch.tensor(88.25), "std": np.float32(0.5), "target": 80})
    path = tmp_path / "new" / "results" / "seminar1.quick.json"
    assert json.loads(path.read_text(encoding="utf-8")) == shown.rows
    assert shown.rows[0]["value"] == 88.25 and shown.rows[0]["std"] == 0.5
    table(ROW)
    assert [row["value"] for row in json.loads(path.read_text())] == [88.5]
    assert [file.name for file in path.parent.iterdir()] == [
        "seminar1.quick.json"
    ]  # nothing temporary is left
    assert path.stat().st_mode & 0o044  # readable by others, as any file that a notebook writes


BAD_ROWS = [{"model": "MADE"}, *({**ROW, "value": value} for value in ("88", None, torch.zeros(2)))]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_are_refused(bad, tmp_path, monkeypatch):
    monkeypatch.setenv("DGM_RESULTS", str(tmp_path))
    with pytest.raises(ValueError, match="row 1"):
        table(ROW, bad)
    assert not list(tmp_path.iterdir())
