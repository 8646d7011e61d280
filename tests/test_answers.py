"""What becomes of an answer between the student's file and the verdict: order, time, reasons, pictures."""

import base64
import io
import json
import time

import numpy as np
import pytest

from grading import channel, grade, inside, marks, submission, written
from grading.channel import Outcome
from grading.questions import Case, Limits, Question, call
from grading.record import ANSWER_LIMIT, Answer, Entry, Result, record
from tools.handed_in import Cell

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20


def url(kind, data):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# Written answers


def text(source, number=1, **attachments):
    return Cell("markdown", source, number=number, attachments=attachments)


def shown(*cells, near=()):
    return written.answer("anna", "q4", list(cells), list(near))


def test_picture_does_not_swallow_the_proof_behind_it():
    large = url("png", PNG + b"\x01" * 900_000)
    found = shown(text(f"<!-- @answer q4 -->\nSee ![my plot]({large}).\n\nQed."))
    assert (
        found.text == "See my plot [picture 1].\n\nQed." and found.pictures == [large] and not found.unshown
    )
    wrapped = "\n".join([url("png", PNG + b"\x02" * 50), *["QUJD" * 19] * 3])
    assert shown(text(f'<img src="{wrapped}">\nQed.')).text == "[picture 1]\nQed."


@pytest.mark.parametrize(
    "picture",
    [
        url("png", b"<svg onload=alert(1)>"),
        url("svg+xml", b"<svg/>"),
        "data:image/svg+xml,%3Csvg/%3E",
        url("png", PNG + b"\x00" * 1_000_001),
        "data:image/png;base64,%%%",
        "data:text/html;base64,PGI+",
    ],
    ids=lambda value: value[:30],
)
def test_pictures_that_are_not_shown_are_counted(picture):
    found = shown(text(f"A ![]({picture}) B"))
    assert (found.text, found.pictures, found.unshown) == ("A [picture: open the notebook] B", [], 1)


def test_pictures_are_few_of_known_kinds_and_named_by_their_bytes():
    webp = b"RIFF\x00\x00\x00\x00WEBP"
    for kind, data in {"png": PNG, "jpeg": b"\xff\xd8\xff\xe0", "gif": b"GIF89a", "webp": webp}.items():
        assert shown(text(url("x-any", data))).pictures == [url(kind, data)]
    found = shown(*[text(url("png", PNG))] * 7)
    assert (len(found.pictures), found.unshown) == (5, 2)
    assert shown(text("![](plot.png) and <img src='https://a.b/c.png'>")).unshown == 2
    assert shown(text("![](plot.png)")).text == "![](plot.png)"


def test_attachments_are_pictures_of_the_answer():
    found = shown(text("![image.png](attachment:my%20pic.png)\n\nQed.", **{"my pic.png": url("png", PNG)}))
    assert found.text == "image.png [picture 1]\n\nQed." and found.pictures == [url("png", PNG)]
    alone = shown(text("", **{"a.png": url("gif", b"GIF89a")}))
    assert alone.text == "[picture 1]" and len(alone.pictures) == 1


def test_nobody_finds_two_texts_of_one_fingerprint():
    assert 4 * len(marks.fingerprint("anna", "q4", "")[1:]) >= 128  # bits: half as many to search


def test_fingerprint_is_of_everything():
    long = "x" * 2_000_000
    answers = [
        shown(text("Because.")),
        shown(text("Because."), near=[text("More.")]),
        shown(text("Because."), near=[text("More")]),
        shown(text("Because.", a=url("png", PNG))),
        shown(text("Because.", a=url("png", PNG + b"x"))),
        shown(text(f"{long}a")),
        shown(text(f"{long}b")),
        shown(text(f"![]({url('png', PNG + long.encode())}) a")),
        shown(text(f"![]({url('png', PNG + long.encode())}) b")),
    ]
    assert len({answer.fingerprint for answer in answers}) == len(answers)
    with_marker = shown(text("<!-- @answer q4 -->\nBecause.\n"))
    assert with_marker.fingerprint == answers[0].fingerprint  # the marks of answers that were read stay


def test_text_near_a_blank_is_marked_in_its_place():
    blank, proof = text("<!-- @answer q4 -->\nYOUR ANSWER HERE"), text("My proof.", 2)
    assert shown(blank, near=[proof]).text == "My proof." and shown(blank, near=[proof]).near == []
    beside = shown(text("Mine."), near=[proof])
    assert (beside.text, beside.near) == ("Mine.", ["My proof."])


def test_record_keeps_long_texts_and_says_where_they_are_cut():
    result = Result("anna", "homework9", 1, "bwrap", {"q4": Entry(0, 1, "manual")})
    answer = Answer("a" * 200_000, "f", near=["b" * 50_000] * 30)
    kept = record(result, submission.Rebuilt(), Outcome(), {"q4": answer}).written["q4"]
    assert kept.text.startswith("a" * ANSWER_LIMIT) and "cut here: 200,000 characters" in kept.text
    assert sum(map(len, kept.near)) < 1.1 * ANSWER_LIMIT and "10 more texts" in kept.near[-1]


# Order


def release(*cells):
    return [Cell("code", "import math", "imports", locked=True, tags=frozenset({"imports"})), *cells]


def answer_cell(name, source="pass"):
    return Cell("code", f"# @answer {name}\ndef f{name}():\n    {source}", name, solution=True)


def code_of(rebuilt):
    return [source.split("\n")[-1].strip() for source in rebuilt.code]


def test_own_cell_before_an_answer_that_moved_up_stays_before_it():
    ours = release(answer_cell("q1"), answer_cell("q2"))
    own = Cell("code", "helper = 1", number=3)
    moved = [ours[0], answer_cell("q2", "return 2"), own, answer_cell("q1", "return helper")]
    rebuilt = submission.rebuild(ours, moved)
    assert code_of(rebuilt) == ["import math", "helper = 1", "return helper", "return 2"]
    assert [rebuilt.code[i] for i in rebuilt.own] == ["helper = 1"]
    in_order = [ours[0], answer_cell("q1", "return 1"), own, answer_cell("q2", "return 2")]
    assert code_of(submission.rebuild(ours, in_order)) == [
        "import math",
        "return 1",
        "helper = 1",
        "return 2",
    ]


# Running


def run_inside(tmp_path, cells, questions=None, own=(), **limits):
    """Run cells and questions as the sandbox does, without one; return the cells' reports and the frames."""
    bounds = {name: getattr(Limits(), name) for name in ("cell_seconds", "total_seconds", "own_seconds")}
    bounds |= {"question_seconds": 60.0, "answers_seconds": 60.0}
    job = {"cells": cells, "own": list(own), "limits": bounds | limits}
    sent = channel.encode_cases(questions or {})
    with (tmp_path / "out").open("wb") as out:
        inside.attempt(job, {}, time.monotonic() + 120, io.BytesIO(inside.pack("cases", sent)), out)
    frames = dict(channel.frames_of(bytearray((tmp_path / "out").read_bytes())))
    return json.loads(frames.pop("cells")), frames


def test_text_that_no_teacher_is_shown_is_named_in_a_note():
    written = [
        Cell("markdown", f"<!-- @answer {name} -->\nYOUR ANSWER HERE", name, solution=True)
        for name in ("q1", "q2")
    ]
    ours = [written[0], answer_cell("q3"), answer_cell("q4"), written[1]]
    full = [Cell(cell.kind, f"{cell.source}\nBecause.", cell.grade_id, solution=True) for cell in ours]
    proof = Cell("markdown", "A better proof: $1 = 1$.", number=7)
    (note,) = submission.rebuild(ours, [*full[:2], proof, *full[2:]]).notes
    assert note.endswith("no teacher was shown it: cell 7")
    full[3] = written[1]  # blank: the text is shown in its place
    result = submission.rebuild(ours, [*full[:2], proof, *full[2:]])
    assert result.near["q2"] == [proof] and not result.notes


def test_notes_that_say_the_same_are_one():
    ours = release(answer_cell("q1"), answer_cell("q2"), Cell("code", "1", "check-q2", locked=True))
    moved = [Cell("code", cell.source.replace("pass", "return 1"), number=1) for cell in ours[1:3]]
    rebuilt = submission.rebuild(ours, moved)
    assert rebuilt.notes == [
        "answers q1, q2 were found by an '@answer' line",
        "locked cells imports, check-q2 were deleted: put back",
    ]
    assert "locked cell imports was deleted: put back" in submission.rebuild(ours, ours[3:]).notes
    assert "answers q1, q2 are missing" in submission.rebuild(ours, ours[3:]).notes


def test_cell_that_misses_a_name_runs_again_and_undoes_nothing(tmp_path):
    cells = [
        "class B(A):\n    pass",
        "def f():\n    return 'first try'\nf(B, later)",
        "class A(Base):\n    pass",
        "def f(*args):\n    return 'final'",
        "class Base:\n    pass\nlater = 1",
        "print(f(), nowhere)",
    ]
    done, _ = run_inside(tmp_path, cells)
    assert [cell["status"] for cell in done] == ["ok", "error", "ok", "ok", "ok", "error"]
    assert "nowhere" in done[-1]["error"] and done[1]["error"].startswith("TypeError")
    done, _ = run_inside(
        tmp_path, [*cells[:-1], "x = 1", "print(f(), B.__mro__[2].__name__, undefined)", "undefined = 3"]
    )
    assert done[-2]["text"].strip().endswith("final Base 3")


def test_slow_cells_of_a_students_own_leave_answers_their_time(tmp_path):
    cells = ["import time\ntime.sleep(0.4)"] * 4 + ["x = 1"]
    done, _ = run_inside(tmp_path, cells, own=range(4), own_seconds=0.6, total_seconds=0.5)
    assert [cell["status"] for cell in done] == ["ok", "timeout", "skipped", "skipped", "ok"]


def test_file_that_a_cell_writes_can_be_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, _ = run_inside(
        tmp_path,
        ["%%writefile my_helper.py\ndef f():\n    return 6 * 7", "from my_helper import f\nprint(f())"],
    )
    assert done[1]["text"].strip() == "42", done


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("%tensorboard --logdir x", "UsageError: "),
        ("import einops_", "ModuleNotFoundError: "),
        ("exit(1)", ""),
    ],
)
def test_line_that_stops_a_cell_is_an_error_with_its_reason(tmp_path, first, said):
    done, _ = run_inside(tmp_path, [f"{first}\ndef helper():\n    pass"])
    assert done[0]["status"] == "error" and done[0]["error"].startswith(said), done


def test_compiled_function_is_run_as_it_is(tmp_path):
    cell = "import torch\n@torch.compile(fullgraph=True)\ndef f(x):\n    return 2 * x"
    done, frames = run_inside(
        tmp_path, [cell], {"q1": [Case(call("f", "x", tensors=True), {"x": np.ones(2)})]}
    )
    assert done[0]["status"] == "ok" and "q1/0/0" in frames, (done, frames)


def test_names_that_a_notebook_shadows_never_reach_a_driver(tmp_path):
    taken = "max = min = str = float = bool = range = len = sum = int = list = tuple = isinstance = 7\n"
    taken += (
        "np = torch = inputs = __builtins__ = 7\ndef f(x):\n    assert np == max == 7\n    return x + max"
    )
    driver = "outputs['0'] = np.array([max([f(int(x)) for x in inputs['x']]), len(str(float(1)))])"
    cases = [Case(driver, {"x": np.arange(3)}), Case(call("f", "x", tensors=True), {"x": np.arange(3)})]
    _, frames = run_inside(tmp_path, [taken], {"q1": cases})
    assert set(frames) == {"q1/0/0", "q1/1/0", "q1/1/changed", "q1/1/tensors"}, frames
    assert np.load(io.BytesIO(frames["q1/0/0"])).tolist() == [9, 3]


# Reasons

QUESTION = Question("q1", 1, lambda rng: [], lambda case, outputs: None)


def why(*cells):
    """The reason for an error: cells as (number in the student's file, label, status, error)."""
    rebuilt = submission.Rebuilt(labels=[c[1] for c in cells], numbers=[c[0] for c in cells])
    outcome = Outcome(cells=[{"status": c[2], "error": c[3], "text": ""} for c in cells])
    return grade.why_it_failed(QUESTION, rebuilt, outcome)


def test_first_cell_that_stopped_is_quoted():
    einops = "ModuleNotFoundError: No module named 'einops'\x1b[0m"
    assert why((2, None, "error", einops), (3, "q1", "ok", "")) == (
        "cell 2 stopped: ModuleNotFoundError: No module named 'einops'"
    )
    both = why(
        (1, None, "ok", ""), (2, None, "error", "A"), (4, None, "error", "B"), (5, "q1", "error", "C: d\ne")
    )
    assert both == "cell 2 stopped: A; cell 5 (q1) stopped: C: d e"
    assert why((2, None, "skipped", ""), (3, "q1", "ok", "")).startswith("cell 2 was left out: the time")
    assert why((2, None, "timeout", ""), (3, "q1", "ok", "")) == "cell 2 took too long"
    below = why((3, "q1", "ok", ""), (4, None, "error", "A helper below"), (5, None, "error", "B"))
    assert below == "cell 4 stopped: A helper below"
    assert why((None, None, "error", "ours"), (3, "q2", "error", "another"), (4, "q1", "ok", "")) == ""
    assert len(why((2, None, "error", "x" * 5000), (3, "q1", "ok", ""))) < 300
