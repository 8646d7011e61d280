"""What stands in for make: the same steps, from nothing but Python."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import make

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="no make here, or Windows'")
@pytest.mark.parametrize("command", [name for name in make.COMMANDS if name != "setup"])
def test_make_does_the_same(command):
    printed = subprocess.run(["make", "-n", command], cwd=ROOT, capture_output=True, text=True, check=True)
    ((module, _),) = (
        make.COMMANDS[command] if command in ("run", "lab", "site") else ((f"tools.make {command}", {}),)
    )
    assert re.search(rf"-m {re.escape(module)}( |$)", printed.stdout, re.M), printed.stdout


def test_it_needs_nothing_but_python():
    """No site-packages are on the path, and an old Python reads the file as far as its message."""
    command = [sys.executable, "-S", "-m", "tools.make"]
    needed = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}  # by Windows
    done = subprocess.run(command, cwd=ROOT, env=needed, capture_output=True, text=True)
    assert done.returncode == 2 and "Commands: setup, run, lab, site, check, test" in done.stderr
    ast.parse(Path(make.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_every_module_that_it_runs_is_there():
    for steps in make.COMMANDS.values():
        for line, _ in steps:
            name = line.split()[0]
            assert name in ("ruff", "pytest") or (ROOT / f"{name.replace('.', '/')}.py").exists(), line


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course without an environment, on a machine where commands are only written down."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(make, "ROOT", tmp_path)
    monkeypatch.setattr(make, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(make, "PYTHON", tmp_path / ".venv/bin/python")
    monkeypatch.setattr(make, "READY", tmp_path / ".venv/.ok")
    monkeypatch.setattr(make, "SOURCES", [tmp_path / "pyproject.toml", tmp_path / "requirements.lock"])
    for name in ("TORCH", "TORCH_PINS"):
        monkeypatch.delenv(name, raising=False)
    calls, failing = [], ["import torch"]

    def call(*command, **options):
        line = " ".join(command)
        calls.append(line)
        if "-m venv" in line:
            make.PYTHON.parent.mkdir(parents=True, exist_ok=True)
            make.PYTHON.touch()
        return int(any(word in line for word in failing))

    monkeypatch.setattr(make, "call", call)
    return calls, failing


def test_the_first_command_sets_up_and_the_second_does_not(course):
    calls, _ = course
    assert make.main(["run", "seminars/seminar1"]) == 0
    wanted = [
        "-m venv",
        "import torch",
        "install .*torch==.* torchvision==",
        "install .*-r requirements.lock",
    ]
    wanted += ["install .*--no-deps -e .", "-m tools.run_notebooks seminars/seminar1"]
    assert len(calls) == len(wanted)
    assert all(re.search(pattern, line) for pattern, line in zip(wanted, calls, strict=True)), calls
    calls.clear()
    assert make.main(["lab", "--port=9000"]) == 0
    assert len(calls) == 1 and calls[0].endswith("-m tools.live --port=9000")
    calls.clear()
    os.utime(make.SOURCES[1], (2**31, 2**31))  # a pull brought other versions
    make.set_up()
    assert not any("-m venv" in line for line in calls)
    assert any("-r requirements.lock" in line for line in calls)


def test_a_folder_that_was_moved_is_set_up_again(course):
    calls, _ = course
    make.set_up()
    assert make.is_set_up()
    make.READY.write_text("/home/anna/downloads/course")
    calls.clear()
    make.set_up()
    assert any("-e ." in line for line in calls) and make.is_set_up()


def test_an_environment_that_was_left_half_made_is_made_again(course):
    """Its Python is there, pip is not yet: the power went while `venv` was at work."""
    calls, failing = course
    make.PYTHON.parent.mkdir(parents=True)
    make.PYTHON.touch()
    failing.append("-m pip --version")
    make.set_up()
    assert "-m venv" in calls[1] and make.is_set_up()


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_sees_an_environment_that_was_made_elsewhere(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    ready = tmp_path / ".venv/.ok"

    def planned(folder):
        ready.write_text(folder)
        command = ["make", "-n", "lab", "PY=python3"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "tools.make setup" not in planned(str(tmp_path.resolve()))
    assert "tools.make setup" in planned("/home/anna/downloads/course")


def test_the_small_torch_is_tried_first_and_not_insisted_on(course, monkeypatch, capsys):
    calls, failing = course
    monkeypatch.setenv("TORCH", "cpu")
    monkeypatch.setenv("TORCH_PINS", "torch torchvision")
    failing.append("--index-url")
    make.set_up()
    small, default = [line for line in calls if line.count(" torch torchvision")]
    assert "--index-url https://" in small and "--index-url" not in default
    assert "cannot be reached" in capsys.readouterr().out


def test_the_pins_may_be_a_build_of_tonight(course, monkeypatch):
    calls, _ = course
    monkeypatch.setenv(
        "TORCH_PINS", nightly := "--pre torch torchvision --index-url https://example.org/nightly"
    )
    make.set_up()
    (asked,) = [line for line in calls if "torchvision" in line and "install" in line]
    assert asked.endswith(nightly)


@pytest.mark.parametrize(
    ("fails", "message"),
    [("-m venv", "could not make the env"), ("torch==", "PyTorch could"), ("-r req", "course could")],
)
def test_a_set_up_that_fails_says_so_and_is_tried_again(fails, message, course):
    course[1].append(fails)
    with pytest.raises(SystemExit, match=message):
        make.main(["run"])
    assert not make.READY.exists() and "tools.run_notebooks" not in course[0][-1]


def test_ctrl_c_ends_the_set_up_and_tries_nothing_else(course, monkeypatch, capsys):
    """A download of 200 MB that was stopped is not followed by one of 3 GB."""
    calls, _ = course
    real = make.call

    def stopped(*command, **options):
        if "--index-url" in command:
            raise KeyboardInterrupt
        return real(*command, **options)

    monkeypatch.setattr(make, "call", stopped)
    monkeypatch.setenv("TORCH", "cpu")
    assert make.main(["run"]) == 130 and "same command" in capsys.readouterr().err
    assert not any("torch==" in line for line in calls)


def test_only_a_command_that_ctrl_c_ended_ends_us(monkeypatch):
    class Process:
        def __init__(self, *command, **options):
            self.waits = iter([KeyboardInterrupt, KeyboardInterrupt, Process.status])

        def wait(self):
            if (now := next(self.waits)) is KeyboardInterrupt:
                raise KeyboardInterrupt
            return now

    monkeypatch.setattr(subprocess, "Popen", Process)
    Process.status = 0  # JupyterLab asked, and ended in peace
    assert make.call("jupyter") == 0
    Process.status = 1
    with pytest.raises(KeyboardInterrupt):
        make.call("pip")


def test_a_wrong_python_is_told_which_versions_work(course, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11, 3\.12 or 3\.13, and this is"):
        make.main(["run"])
    assert course[0] == []


def test_what_follows_a_command_goes_to_its_last_step(course):
    calls, _ = course
    assert make.run("check", ["--more"]) == 0
    assert ["--more" in line for line in calls] == [False] * (len(make.CHECK) - 1) + [True]


def test_copies_of_notebooks_that_are_no_more_are_not_tested(course):
    old = make.ROOT / make.COPIES / "seminar12.ipynb"
    old.parent.mkdir(parents=True)
    old.touch()
    assert make.run("test", []) == 0 and not old.exists()


def test_a_step_that_fails_is_the_last(course):
    calls, failing = course
    failing.append("tools.page")
    assert make.main(["test"]) == 1
    assert calls[-1].endswith("-m tools.page --check")


def test_versions_of_python_are_those_of_the_project():
    """Set-up cell, Makefile and this file say them on their own: they must run before anything is read."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest, above = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups())
    condition = f"(3, {oldest}) <= sys.version_info < (3, {above})"
    for path in ("tools/make.py", "tools/course.py", "tools/doctor.py"):
        assert condition in (ROOT / path).read_text(encoding="utf-8"), path
    assert f"(3, {oldest}) <= sys.version_info[:2] <= (3, {above - 1})" in (ROOT / "Makefile").read_text(
        encoding="utf-8"
    )
