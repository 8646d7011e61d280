"""The tools: normaliser, definitions, runner, nbval plugin, results; on small notebooks made on the spot."""

import asyncio
import base64
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import (
    check,
    course,
    definitions,
    handed_in,
    jupyter_bugs,
    live,
    normalise,
    notebooks,
    results,
    run_notebooks,
)

ROOT = Path(__file__).resolve().parent.parent


def code(source, *tags, outputs=(), count=None, **metadata):
    cell = new_code_cell(source, outputs=list(outputs), execution_count=count, metadata=metadata)
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def write(path, *cells, **metadata):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells), metadata=metadata), path)
    return path


def png(text):
    """Make a PNG of one pixel with a text chunk, as base64."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = chunk(b"IHDR", (1).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0]))
    pixels, end = chunk(b"IDAT", zlib.compress(b"\0\0")), chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tEXt", b"Software\0" + text) + pixels + end
    return base64.b64encode(data).decode()


# --- normaliser ----------------------------------------------------------------------------


def dirty_notebook(path):
    """Write a notebook with everything that an editor or a run can leave behind."""
    figure = new_output(
        "display_data",
        {"image/png": png(b"matplotlib 1"), "text/plain": "<Figure at 0x7fd1>"},
        metadata={"image/png": {"alt": "a line", "width": 100, "zoom": 2}, "needs_background": "light"},
    )
    bar = (
        "train:  50%|█████     | 5/10 [00:01<00:01,  4.9it/s]\rtrain: 100%|█| 10/10 [00:02<00:00,  4.9it/s]\n"
    )
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "box"}, "text/plain": "interactive(...)"}
    inner = {"output_type": "display_data", "data": {"text/plain": "slider at its start"}, "metadata": {}}
    widgets = {
        "application/vnd.jupyter.widget-state+json": {
            "state": {
                "box": {"state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_out"]}},
                "slider": {"state": {}},
                "out": {"state": {"outputs": [inner]}},
            }
        }
    }
    return write(
        path,
        new_markdown_cell("# Title  \nline \n\n", metadata={"slideshow": {"slide_type": "slide"}, "x": 1}),
        code("a = 1   \n", "parameters", count=7, jupyter={"source_hidden": True, "outputs_hidden": True}),
        code(
            "",
            count=None,
            collapsed=True,
            nbgrader={"grade": True},
            execution={"iopub": "2026"},
            cellView="form",
        ),
        code("figure", count=9, outputs=[figure]),
        code(
            "loop",
            count=12,
            outputs=[
                new_output("stream", name="stdout", text="one\n"),
                new_output("stream", name="stderr", text=bar),
                new_output("stream", name="stdout", text="two <f at 0x7fbd3c>\n"),
            ],
        ),
        code("slider", count=13, outputs=[new_output("display_data", view)]),
        code(
            "value", count=14, outputs=[new_output("execute_result", {"text/plain": "3"}, execution_count=14)]
        ),
        kernelspec={"name": "mine", "display_name": "My kernel"},
        language_info={"name": "python", "version": "3.11.7"},
        widgets=widgets,
        colab={"provenance": [{"file_id": "secret"}], "toc_visible": True},
        celltoolbar="Slideshow",
    )


def normalised(path):
    assert normalise.main([str(path)]) == 0
    return nbformat.read(path, as_version=4)


def test_normaliser_keeps_the_lesson_and_drops_the_rest(tmp_path):
    before = nbformat.read(dirty_notebook(tmp_path / "a.ipynb"), as_version=4)
    after = normalised(tmp_path / "a.ipynb")
    assert [cell.id for cell in after.cells] == [cell.id for cell in before.cells]
    assert after.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "colab": {"provenance": [], "toc_visible": True},
    }
    title, parameters, locked, figure, loop, slider, value = after.cells
    assert title.source == "# Title  \nline"  # two spaces are a line break in Markdown
    assert title.metadata == {"slideshow": {"slide_type": "slide"}}
    assert parameters.source == "a = 1"
    assert parameters.metadata == {"jupyter": {"source_hidden": True}, "tags": ["parameters"]}
    assert locked.metadata == {"collapsed": True, "nbgrader": {"grade": True}, "cellView": "form"}
    assert [c.execution_count for c in after.cells if c.cell_type == "code"] == [1, None, 2, 3, 4, 5]
    assert value.outputs[0].execution_count == 5
    assert figure.outputs[0].metadata == {"image/png": {"alt": "a line", "width": 100}}
    assert figure.outputs[0].data["text/plain"] == "<Figure at 0x…>"
    assert [(o.name, o.text) for o in loop.outputs] == [("stdout", "one\ntwo <f at 0x…>\n")]
    assert [o.data for o in slider.outputs] == [{"text/plain": "slider at its start"}]


def test_normaliser_is_idempotent_and_check_agrees(tmp_path, capsys):
    path = dirty_notebook(tmp_path / "a.ipynb")
    dirty = path.read_bytes()
    assert normalise.main([str(path), "--check"]) == 1
    assert "not normalised; run make fmt" in capsys.readouterr().err
    assert path.read_bytes() == dirty  # --check changes nothing
    assert normalise.main([str(path)]) == 0
    clean = path.read_bytes()
    assert clean.endswith(b"}\n") and not clean.endswith(b"\n\n")
    assert normalise.main([str(path)]) == 0 == normalise.main([str(path), "--check"])
    assert path.read_bytes() == clean


def test_pictures_depend_on_their_pixels_alone():
    assert normalise.clean_png(png(b"matplotlib 1")) == normalise.clean_png(png(b"matplotlib 2"))
    assert b"matplotlib" not in base64.b64decode(normalise.clean_png(png(b"matplotlib 1")))


@pytest.mark.parametrize(
    ("noisy", "clean"),
    [
        ("<M object at 0x7fd1c0>", "<M object at 0x…>"),
        ("0xdeadbeef is a number", "0xdeadbeef is a number"),
        ("/tmp/ipykernel_12/345.py:3: UserWarning", "<cell>:3: UserWarning"),
        ("/home/ann/.venv/lib/python3.11/site-packages/torch/nn.py:3", "torch/nn.py:3"),
        ("/usr/lib/python3.12/ast.py", "ast.py"),
        ("/home/ann/course/x.pt", "~/course/x.pt"),
        ("'/Users/ann'", "'~'"),
        ("see https://a.org/home/ann/x", "see https://a.org/home/ann/x"),
        ("/rooted/x", "/rooted/x"),
        (f"{ROOT}/seminars", "./seminars"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("Cell In[7], line 2", "Cell, line 2"),
        ("5it [00:00, 10.2it/s]\nkept\n", "kept\n"),
        ("  3%|▎         | 3/100 [00:00<00:09, 10.22batch/s, loss=2.31]", ""),
        ("old\rnew\n", "new\n"),
        ("accuracy 97% | loss 3/4 [ok]", "accuracy 97% | loss 3/4 [ok]"),
    ],
)
def test_clean_text(noisy, clean):
    assert normalise.clean_text(noisy) == clean
    assert normalise.clean_text(clean) == clean


def test_limits_name_the_cell_both_numbers_and_what_to_do(tmp_path, capsys):
    long = new_output("stream", name="stdout", text="x" * 30_000)
    large = new_output("display_data", {"image/png": base64.b64encode(png(b"").encode() * 5_000).decode()})
    path = write(
        tmp_path / "a.ipynb", code("1", count=1, outputs=[long]), code("2", count=2, outputs=[large])
    )
    large.data["image/png"] = base64.b64encode(base64.b64decode(png(b"x" * 450_000))).decode()
    svg = new_output("display_data", {"image/svg+xml": "<svg>" + "x" * 500_000 + "</svg>"})
    path = write(tmp_path / "a.ipynb", code("1", count=1, outputs=[long]), code("2", count=2, outputs=[svg]))
    assert normalise.main([str(path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert re.search(
        r"a\.ipynb: cell 1 \(\w+\): 30,000 characters of text, limit 20,000: print a summary", first
    )
    assert re.search(
        r"cell 2 \(\w+\): image/svg\+xml of 500,011 bytes, limit 400,000: draw it smaller", second
    )


def test_duplicate_and_missing_ids_are_repaired_once_and_for_all(tmp_path):
    path = write(tmp_path / "a.ipynb", code("1"), code("2"), code("3"), code("4"))
    content = json.loads(path.read_text())
    for cell, identifier in zip(content["cells"], ["same", "same", None, "no spaces!"], strict=True):
        cell.pop("id")
        if identifier:
            cell["id"] = identifier
    path.write_text(json.dumps(content))
    ids = [cell.id for cell in normalised(path).cells]
    assert ids[0] == "same" and ids[3] == "no-spaces-" and len(set(ids)) == 4
    path.write_text(json.dumps(content))
    assert [cell.id for cell in normalised(path).cells] == ids


def test_the_set_up_cell_is_renewed_by_its_tag(tmp_path):
    path = write(tmp_path / "a.ipynb", code("import dgm_utils", "setup"), code("import dgm_utils"))
    assert normalise.main([str(path), "--check"]) == 1
    first, second = normalised(path).cells
    assert first.source == course.setup_cell() and second.source == "import dgm_utils"


def test_every_tool_writes_the_same_text_of_a_notebook(tmp_path):
    path = write(
        tmp_path / "nb/a.ipynb", code('PROFILE = "quick"', "parameters", "a"), new_markdown_cell("β")
    )
    assert normalise.main([str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert notebooks.text_of(notebooks.read_notebook(path)) == text
    assert "β" in text and list(json.loads(text)) == ["cells", "metadata", "nbformat", "nbformat_minor"]


def test_a_student_version_keeps_no_outputs(tmp_path):
    outputs = [new_output("stream", name="stdout", text="x\n")]
    for name, count in [("hw1.ipynb", 0), ("hw1.solution.ipynb", 1)]:
        cell = normalised(write(tmp_path / name, code("print('x')", count=1, outputs=outputs))).cells[0]
        assert len(cell.outputs) == count and (cell.execution_count is None) == (count == 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n "cells": [\n<<<<<<< HEAD\n', "a.ipynb:3: merge conflict marker; choose one side"),
        (b'{\n "cells": [,\n', "a.ipynb:2: broken JSON"),
        (b"[1]", "expected a notebook of format 4, got None"),
        (b'{"worksheets": [], "nbformat": 3}', "expected a notebook of format 4, got 3"),
        (b'{"cells": "\xff"}', "byte 11 is not UTF-8"),
        (b'{"cells": [{"cell_type": "code"}], "nbformat": 4, "metadata": {}}', "not a valid notebook"),
        (b'{"cells": [7], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "not a valid notebook"),
        (b"", "broken JSON"),
    ],
)
def test_an_unreadable_notebook_is_one_line_and_stays_as_it_is(tmp_path, capsys, text, message):
    path = tmp_path / "a.ipynb"
    path.write_bytes(text)
    assert normalise.main([str(path)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert path.read_bytes() == text


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.ipynb"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        notebooks.write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.ipynb"] and path.read_text() == "old"


# --- definitions ---------------------------------------------------------------------------


@pytest.fixture
def two_seminars(tmp_path):
    """Make a course of two seminars, the second with copies of definitions of the first."""
    write(
        tmp_path / "seminars/seminar1/seminar1.ipynb",
        code("import math", "imports"),
        code("raise RuntimeError('training')"),
        code("def area(r):\n    return math.pi * r**2", "def:area"),
        code("def volume(r, h):\n    return area(r) * h", "def:volume"),
        code("raise RuntimeError('a later definition')", "def:later"),
    )
    write(
        tmp_path / "seminars/seminar2/seminar2.ipynb",
        code("def area(r):\n    return 3 * r**2", "from:seminar1/area"),
        code("area(2)"),
    )
    return tmp_path / "seminars"


def test_load_executes_imports_and_definitions_only(two_seminars):
    loaded = definitions.load(two_seminars / "seminar1/seminar1.ipynb", "volume")
    assert loaded.volume(1.0, 2.0) == pytest.approx(6.283185307)


def test_load_executes_the_copies_on_which_a_definition_stands(two_seminars):
    path = two_seminars / "seminar2/seminar2.ipynb"
    cells = (
        code("import math", "imports"),
        code("def area(r):\n    return math.pi * r**2", "from:seminar1/area"),
    )
    write(path, *cells, code("def disc(r):\n    return area(r)", "def:disc"))
    assert definitions.load(path, "disc").disc(1.0) == pytest.approx(3.141592653589793)


def test_load_lists_what_there_is(two_seminars):
    with pytest.raises(
        notebooks.NotebookError, match="no cell tagged def:MADE; it defines area, volume, later"
    ):
        definitions.load(two_seminars / "seminar1/seminar1.ipynb", "MADE")


def test_load_shows_where_a_definition_fails(two_seminars):
    with pytest.raises(RuntimeError, match="a later definition") as caught:
        definitions.load(two_seminars / "seminar1/seminar1.ipynb")
    assert "seminar1.ipynb, cell 5" in str(caught.traceback[-1].path)


def test_copies_follow_their_definition(two_seminars):
    path = two_seminars / "seminar2/seminar2.ipynb"
    notebook = notebooks.read_notebook(path)
    assert definitions.sync_copies(notebook, path, two_seminars.parent) == ["from:seminar1/area"]
    original = definitions.definitions(notebooks.read_notebook(two_seminars / "seminar1/seminar1.ipynb"), "")[
        "area"
    ]
    assert notebook.cells[0].source == original and notebook.cells[1].source == "area(2)"
    assert definitions.sync_copies(notebook, path, two_seminars.parent) == []


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("from:seminar1/MADE", "seminar1 defines area, volume, later"),
        ("from:seminar9/area", "there is no .*seminar9.ipynb"),
        ("from:seminar1", "expected from:seminarN/NAME"),
    ],
)
def test_a_copy_of_nothing_is_named(two_seminars, tag, message):
    path = write(two_seminars / "seminar3/seminar3.ipynb", code("", tag))
    with pytest.raises(notebooks.NotebookError, match=message):
        definitions.sync_copies(notebooks.read_notebook(path), path, two_seminars.parent)


def test_a_name_is_defined_once(two_seminars):
    path = write(two_seminars / "seminar3/seminar3.ipynb", code("f = 1", "def:f"), code("f = 2", "def:f"))
    with pytest.raises(notebooks.NotebookError, match="two cells are tagged def:f"):
        definitions.load(path, "f")


# --- runner --------------------------------------------------------------------------------

MEASURED = """
import json, os, pathlib
rows = [{"model": "MADE", "metric": "nll", "value": 80.0, "reached": True}, {"model": "x", "reached": None}]
pathlib.Path(os.environ["DGM_RESULTS"], f"s.{PROFILE}.json").write_text(json.dumps(rows))
"""


@pytest.fixture(autouse=True)
def no_torch_import(monkeypatch):
    """Save the two seconds that asking torch for the device takes."""
    monkeypatch.setattr(run_notebooks, "_device", lambda: "CPU")


def run(*arguments):
    return run_notebooks.main([str(argument) for argument in arguments])


def test_runner_reports_failures_with_their_cell_and_goes_on(tmp_path, capsys):
    write(tmp_path / "nb/dead.ipynb", code("a = 1"), code("import os\nos._exit(1)"), code("b = 2"))
    write(tmp_path / "nb/fails.ipynb", new_markdown_cell("text"), code("def f():\n    return 1 / 0\nf()"))
    write(tmp_path / "nb/hangs.ipynb", code("import time\ntime.sleep(600)"))
    good = code(MEASURED), code("1 / 0", "raises-exception"), code("print(PROFILE)")
    write(tmp_path / "nb/works.ipynb", code('PROFILE = "quick"', "parameters"), *good)
    (tmp_path / "nb/broken.ipynb").write_text("{")
    started = time.monotonic()
    out = tmp_path / "build"
    assert run(tmp_path / "nb", "--jobs", 2, "--timeout", 12, "--profile", "full", "--out", out) == 1
    assert time.monotonic() - started < 100
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert re.search(r"^nb/dead.ipynb, cell 2 \(\w+\): the kernel died", said, re.MULTILINE)
    divided = r"^nb/fails.ipynb, cell 2 \(\w+\): ZeroDivisionError: division by zero\n\n   1  def f"
    assert re.search(divided, said, re.MULTILINE) and re.search(r"^----> 3 f\(\)", said, re.MULTILINE)
    late = r"^nb/hangs.ipynb, cell 1 \(\w+\): time-out, the notebook may take 12 s"
    assert re.search(late, said, re.MULTILINE)
    assert re.search(r"broken.ipynb:1: broken JSON", said)
    table = said[said.index("slowest cell") :].splitlines()
    lines = {line.split()[0]: line for line in table if ".ipynb" in line}
    for name in ("dead", "fails", "hangs", "broken"):
        assert lines[f"nb/{name}.ipynb"].endswith("FAILED")
    assert re.search(r"MiB +CPU +1 of 1 +ok$", lines["nb/works.ipynb"])
    executed = nbformat.read(out / "full/nb/works/works.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "full\n"
    assert json.loads((out / "full/nb/works/results/s.full.json").read_text())[0]["model"] == "MADE"


def test_runner_without_failures(tmp_path, capsys):
    path = write(tmp_path / "nb/a.ipynb", code("open('beside.txt', 'w').write('x')"))
    before = path.read_bytes()
    assert run(path, "--out", tmp_path / "build") == 0
    assert "[1/1] nb/a.ipynb  ok" in capsys.readouterr().out
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.ipynb"]
    assert (tmp_path / "build/quick/nb/a/beside.txt").exists()


class OneMessage:
    """A socket whose only message comes without a signal, after so many looks at it."""

    def __init__(self, looks):
        self.looks = looks

    async def poll(self, timeout):
        await asyncio.sleep(timeout / 1000)  # no signal: each wait takes its whole time
        self.looks -= 1
        return self.looks <= 0


def test_a_message_without_a_signal_is_found(monkeypatch):
    """A widget can take the signal of a reply: the runner looks again instead of waiting for ever."""
    monkeypatch.setattr(jupyter_bugs, "LOOK_AGAIN", 0.01)

    async def received(self):
        return "reply"

    monkeypatch.setattr(jupyter_bugs.PatientChannel, "_recv", received)

    def wait(looks, timeout):
        channel = object.__new__(jupyter_bugs.PatientChannel)
        channel.socket = OneMessage(looks)
        return asyncio.run(asyncio.wait_for(channel.get_msg(timeout), 10))

    assert wait(3, None) == wait(3, 5) == "reply"
    with pytest.raises(queue.Empty):
        wait(10**6, 0.05)


def test_the_runner_waits_with_that_channel(tmp_path, monkeypatch):
    managers, make = [], run_notebooks.PapermillNotebookClient

    def client(manager, **options):
        managers.append(options["kernel_manager_class"])
        return make(manager, **options)

    monkeypatch.setattr(run_notebooks, "PapermillNotebookClient", client)
    assert run(write(tmp_path / "nb/a.ipynb", code("1")), "--out", tmp_path / "build") == 0
    assert managers[0]().client().shell_channel_class is jupyter_bugs.PatientChannel


def test_storing_twice_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)
    cells = code('PROFILE = "quick"', "parameters"), code("print(object(), PROFILE)\n3"), code(MEASURED)
    path = write(tmp_path / "nb/a.ipynb", *cells)
    assert run(path, "--store", "--out", tmp_path / "build") == 0
    stored = path.read_bytes()
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]  # the injected cell left no trace
    assert notebook.cells[1].outputs[0].text == "<object object at 0x…> quick\n"
    assert (tmp_path / "results/s.quick.json").exists()
    assert run(path, "--store", "--out", tmp_path / "build") == 0
    assert path.read_bytes() == stored
    assert normalise.main([str(path), "--check"]) == 0


def test_a_failed_notebook_is_not_stored(tmp_path):
    path = write(tmp_path / "nb/a.ipynb", code("print(1)"), code("1 / 0"))
    before = path.read_bytes()
    assert run(path, "--store", "--out", tmp_path / "build") == 1
    assert path.read_bytes() == before


def test_any_executor_will_do(tmp_path):
    paths = [write(tmp_path / f"nb/{name}.ipynb", code(f"x = '{name}'")) for name in "ab"]
    with ProcessPoolExecutor(2) as executor:
        reports = run_notebooks.run_all(run_notebooks.plan(paths, tmp_path / "build", workers=2), executor)
    assert [(report.notebook, report.failure) for report in reports] == [(path, None) for path in paths]
    assert all(report.peak_bytes > 2**24 for report in reports)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nope", "nope: no such file or folder"),
        ("README.md", "not a notebook"),
        ("empty", "no notebook found"),
    ],
)
def test_nothing_to_run_is_one_line(tmp_path, monkeypatch, capsys, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("x")
    assert run(path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_an_interruption_leaves_no_kernel_and_no_half_file(tmp_path):
    path = write(
        tmp_path / "nb/a.ipynb", code("import pathlib, time\npathlib.Path('on').touch()\ntime.sleep(600)")
    )
    before = path.read_bytes()
    command = [sys.executable, "-m", "tools.run_notebooks", path, "--store", "--out", tmp_path / "build"]
    # What a shell starts in the background ignores Ctrl-C, and so would everything that the tests start.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, preexec_fn=heed)
    end = time.monotonic() + 60
    while not (tmp_path / "build/quick/nb/a/on").exists() and time.monotonic() < end:
        time.sleep(0.1)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert kernels
    assert "sources and results are as they were" in process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert not any(kernel.is_running() and kernel.status() != "zombie" for kernel in kernels)
    assert path.read_bytes() == before
    assert not list((tmp_path / "build").rglob(".*"))


def test_cores_are_shared():
    cores = run_notebooks.threads_each(1)
    assert run_notebooks.threads_each(2) == max(1, cores // 2) and run_notebooks.threads_each(10_000) == 1


# --- nbval ---------------------------------------------------------------------------------


def nbval(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "tools.nbval_plugin", "--nbval-lax", "--color=no", "-rA"]
    command += ["--nbval-sanitize-with", "tools/sanitize.cfg", "-p", "no:cacheprovider"]
    command += [str(folder), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout


def test_nbval_compares_tagged_outputs_of_the_injected_profile(tmp_path):
    def said(text):
        return [new_output("stream", name="stdout", text=text)]

    cells = [
        code('PROFILE = "full"', "parameters", count=1),
        code("print(PROFILE)", "nbval-check-output", count=2, outputs=said("quick\n")),
        code("print(2 + 2)", "nbval-check-output", count=3, outputs=said("5\n")),
        code("print(6)", count=4, outputs=said("7\n")),
        code("print(object(), '1.5 s', 'cuda:0')", "nbval-check-output", count=5),
        code("1 / 0", "raises-exception", count=6),
    ]
    cells[4].outputs = said("<object object at 0x…> 22 s cpu\n")
    path = write(tmp_path / "nb/a.ipynb", *cells)
    assert run(path, "--prepare", tmp_path / "nbval") == 0
    said = nbval(tmp_path / "nbval")
    assert "6 passed" in said and "1 failed" in said and "FAILED" in said
    assert re.search(r"FAILED .*a\.ipynb::Cell 3", said)  # the injected cell is Cell 1


def test_nbval_notices_a_dead_kernel_in_seconds(tmp_path):
    write(tmp_path / "a/a.ipynb", code("x = 1"), code("import os\nos._exit(1)"), code("x"))
    write(tmp_path / "b/b.ipynb", code("y = 1"))
    started = time.monotonic()
    said = nbval(tmp_path)
    assert time.monotonic() - started < 100
    assert "Cell 1: the kernel died in this cell" in said
    assert "1 failed, 2 passed, 1 xfailed" in said


# --- a student's check ---------------------------------------------------------------------


def graded(identifier, **more):
    return {"grade_id": identifier, "solution": False, "grade": False, "locked": False} | more


def homework(path, *answers):
    """Write a homework with answers to four tasks: a function, a class, a mask, a text."""
    softmax, counter, mask, words = answers
    checks = {
        "q1": (2, 'assert sum(softmax([1, 1])) == 1, "softmax must sum to 1"'),
        "q2": (3, 'assert Counter(1).add(2) == 3, "add returns the new value"'),
        "q3": (4, 'assert len(mask(3)) == 3, "the mask is n by n"'),
    }
    cells = []
    for (name, (points, source)), answer in zip(checks.items(), (softmax, counter, mask), strict=True):
        solution, check = graded(name, solution=True), graded(f"check_{name}", grade=True, points=points)
        tested = code(source, "raises-exception", count=7, nbgrader=check)  # it ran once, when it was saved
        cells += [code(f"# @answer {name}\n{answer}", nbgrader=solution), tested]
    theory = graded("q4_text", solution=True, grade=True, points=1)
    return write(path, *cells, new_markdown_cell(words, metadata={"nbgrader": theory}))


def checked(path):
    """Check a homework against its blank."""
    stub = notebooks.CODE_STUB.replace("\n", "\n    ")
    blanks = [f"def {name}:\n    {stub}" for name in ("softmax(x)", "mask(n)")]
    blank = homework(
        path.with_name("blank.ipynb"),
        blanks[0],
        f"class Counter:\n    {stub}",
        blanks[1],
        notebooks.TEXT_STUB,
    )
    return check.main([str(path), "--blank", str(blank)])


SOFTMAX = "def softmax(x):\n    return [value / sum(x) for value in x]"
COUNTER = (
    "class Counter:\n    def __init__(self, x):\n        self.x = x\n    def add(self, y):\n        return {}"
)
MASK = "def mask(n):\n    return [[1] * n] * n"
BLANK = "def mask(n):\n    " + notebooks.CODE_STUB.replace("\n", "\n    ")


def test_check_prints_a_table_of_tasks(tmp_path, capsys):
    path = homework(tmp_path / "hw9.ipynb", SOFTMAX, COUNTER.format(-1), BLANK, "Because.")
    assert checked(path) == 1
    table = capsys.readouterr().out.split("\n")
    assert table[0].split() == ["q1", "2", "p", "passed"]
    assert table[1].split()[:4] == ["q2", "3", "p", "wrong"] and "add returns the new value" in table[1]
    assert table[2].split()[:4] == ["q3", "4", "p", "blank"]
    assert table[3].split() == ["q4", "1", "p", "written"]
    assert table[4].startswith("2 of 4 tasks")
    path = homework(tmp_path / "hw9.ipynb", SOFTMAX, COUNTER.format("self.x + y"), MASK, "Because.")
    assert checked(path) == 0


def test_check_believes_no_run_of_the_past(tmp_path, capsys):
    """A kernel that dies leaves what was stored of the cells below it."""
    path = homework(tmp_path / "hw9.ipynb", SOFTMAX, "import os\nos._exit(1)", MASK, notebooks.TEXT_STUB)
    assert checked(path) == 1
    table = [line.split() for line in capsys.readouterr().out.split("\n")]
    assert [row[3] for row in table[:4]] == ["passed", "wrong", "wrong", "blank"]
    assert table[1][4:] == table[2][4:] == ["not", "reached"]


def test_check_puts_back_what_its_checks_need(tmp_path):
    def cells(*sources):
        marks = {"import": "imports", "SIZE": "settings", "assert": "check_q1", "raise": "look"}
        for source in sources:
            name, tags = marks.get(source.split()[0]), []
            nbgrader = graded("q1", solution=True)
            if name == "check_q1":
                nbgrader = graded(name, grade=True, points=1)
            elif name:
                nbgrader, tags = graded(name, locked=True), ["raises-exception"] * (name == "look")
            yield code(source, *tags, nbgrader=nbgrader)

    answer, own = "# @answer q1\ndef f():\n    return math.pi", code("print('mine')")
    ours = [
        "import math",
        "SIZE = 3",
        "# @answer q1\nraise NotImplementedError",
        "assert f() > SIZE",
        "raise 1",
    ]
    blank = write(tmp_path / "blank.ipynb", *cells(*ours))
    for kept in ([answer], [answer, ours[3]], ["import math", answer]):
        path = write(tmp_path / "hw9.ipynb", own, *cells(*kept))
        found = handed_in.find(handed_in.read(blank), handed_in.read(path))
        ran = [cell.source for cell, _ in check.cells_to_run(found)]
        assert [source for source in ran if "mine" not in source] == [*ours[:2], answer, ours[3]]


def test_check_refuses_what_is_no_homework(tmp_path, capsys):
    write(tmp_path / "x.ipynb", code("1"))
    (tmp_path / "y.ipynb").write_text("no json")
    for name, reason in (("x", "has no tasks"), ("y", "broken JSON"), ("z", "No such file")):
        assert check.main([str(tmp_path / f"{name}.ipynb")]) == 2
        assert reason in capsys.readouterr().err


# --- results -------------------------------------------------------------------------------


def row(value, **more):
    return {"model": "MADE", "metric": "nll", "unit": "nats", "value": value, "reached": None} | more


def store_rows(folder, name, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(list(rows)))


@pytest.mark.parametrize(
    ("fresh", "committed", "problem"),
    [
        (row(103.0), row(100.0), None),
        (row(106.0), row(100.0), "106 nats, committed 100, allowed ± 5"),
        (row(94.0), row(100.0), "94 nats, committed 100"),
        (row(106.0, std=3.0), row(100.0), None),
        (row(float("nan")), row(100.0), "nan nats, committed 100"),
        (row(0.0008), row(0.0), None),
        (row(9.0, unit="s"), row(2.0, unit="s"), None),
        (row(101.0, target=100.0, reached=False), row(100.0), "101 nats misses the target 100"),
        (row(100.0, model="NADE"), row(100.0), "MADE, nll: the row is gone"),
    ],
)
def test_compare(tmp_path, fresh, committed, problem):
    store_rows(tmp_path / "new/seminar1/results", "seminar1.quick.json", fresh)
    store_rows(tmp_path / "old", "seminar1.quick.json", committed)
    store_rows(tmp_path / "old", "seminar1.full.json", row(80.0))  # another profile: not compared
    problems = results.compare(tmp_path / "new", tmp_path / "old")
    assert (problems == []) if problem is None else any(problem in said for said in problems)


def test_compare_misses_no_file(tmp_path, capsys):
    store_rows(tmp_path / "new", "a.quick.json", row(1.0))
    store_rows(tmp_path / "old", "b.quick.json", row(1.0))
    assert results.main(["--compare", str(tmp_path / "new"), str(tmp_path / "old")]) == 1
    said = capsys.readouterr().out
    assert "a.quick.json: not in" in said and "b.quick.json: in" in said
    assert "run the notebooks first" in results.compare(tmp_path / "none", tmp_path / "old")[0]


def test_every_row_stands_under_its_notebook_and_profile(tmp_path):
    for name in ("seminar10.quick", "seminar9.quick", "seminar9.long"):
        (tmp_path / f"{name}.json").write_text('[{"model": "m", "metric": "bound", "value": 1.0}]')
    lines = [line for line in results.every_row(tmp_path).splitlines() if line.startswith(("#", "`"))]
    assert lines == ["## Seminar 9", "`long`", "`quick`", "## Seminar 10", "`quick`"]  # 9 before 10


def test_rows_show_ours_beside_published(tmp_path):
    full = row(
        83.7, std=0.04, target=83.8, reached=True, published=88.3, source="https://arxiv.org/abs/1502.03509"
    )
    missed = row(110.0, model="a|b", target=105, reached=False, device="cpu", seconds=31.4)
    store_rows(tmp_path, "seminar1.full.json", full, missed)
    first, second = results.every_row(tmp_path).splitlines()[-2:]
    assert first.startswith("| MADE | nll, nats | 83.7 ± 0.04 | ≤ 83.8 | [88.3](https://arxiv.org")
    assert second == "| a\\|b | nll, nats | 110 | ≤ 105 (missed) |  | 31.4 |"


def test_the_course_page_shows_what_aims_at_something_in_the_longest_profile(tmp_path):
    aims, other = row(83.7, target=83.8, reached=True), row(90.0, model="another")
    store_rows(tmp_path, "seminar1.long.json", other, aims, row(83.6, model="shipped", target=83.8))
    store_rows(tmp_path, "seminar1.quick.json", row(99.0, target=105, reached=True))
    store_rows(tmp_path, "seminar2.quick.json", other)
    head, _, *lines = results.highlights(tmp_path).splitlines()
    assert lines == ["| Seminar 1, `long` | MADE | nll, nats | 83.7 | ≤ 83.8 |"]
    assert head == "| Notebook | Model | Metric | Ours | Target |"  # no column without an entry


def test_the_course_page_shows_results_on_one_screen():
    assert len(results.highlights(ROOT / "results").splitlines()) <= 24


def test_broken_results_are_one_line(tmp_path):
    (tmp_path / "a.quick.json").write_text("[{}]")
    with pytest.raises(results.ResultsError, match="expected a list of rows, each with metric, model, value"):
        results.every_row(tmp_path)


# --- live ----------------------------------------------------------------------------------


def test_presenting_needs_no_network_and_keeps_what_a_teacher_changed(tmp_path):
    live.configure(tmp_path)
    defaults = json.loads((tmp_path / "labconfig/default_setting_overrides.json").read_text())
    news = defaults["@jupyterlab/apputils-extension:notification"]
    assert news == {"fetchNews": "false", "checkForUpdates": False}
    mine = tmp_path / "lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    mine.parent.mkdir(parents=True)
    mine.write_text('{"mine": 1}')
    (tmp_path / "custom/custom.css").write_text("old")
    live.configure(tmp_path)
    assert json.loads(mine.read_text()) == {"mine": 1}
    assert "jp-deck-mode" in (tmp_path / "custom/custom.css").read_text()  # the course's own style is renewed


def test_presenting_opens_the_notebook(tmp_path, capsys):
    start = live.command(ROOT / "seminars/seminar1/seminar1.ipynb", ["--port=9000"])
    assert "--LabApp.default_url=/lab/tree/seminars/seminar1/seminar1.ipynb" in start
    assert start[-1] == "--port=9000" and "--custom-css" in start
    outside = write(tmp_path / "a.ipynb", code("1"))
    assert live.main([str(outside)]) == live.main(["nope.ipynb"]) == 2
    assert capsys.readouterr().err.count("no notebook of this repository to open") == 2
