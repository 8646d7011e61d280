"""The doctor: each finding on a machine that lacks something, and what it advises."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import webbrowser
from types import SimpleNamespace
from urllib.error import URLError

import pytest

from tools import doctor


def test_here_everything_works(capsys):
    assert doctor.main() == 0
    assert "wrong" not in capsys.readouterr().out


def test_it_needs_nothing_but_python():
    code = "import sys; sys.path.insert(0, '.'); sys.modules['torch'] = sys.modules['numpy'] = None\n"
    code += "import tools.doctor; print(sorted({'nbformat', 'yaml', 'IPython'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=doctor.ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_another_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert doctor.python()[0] == "wrong" and "3.11, 3.12 or 3.13" in doctor.python()[1]


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A machine on which nothing was set up, in a folder with a space; return the doctor's environment."""
    root = tmp_path / "my course"
    root.mkdir()
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(doctor, "ROOT", root)
    monkeypatch.setattr(doctor, "VENV", root / ".venv")
    monkeypatch.setattr(doctor, "PYTHON", root / ".venv/bin/python")
    monkeypatch.setattr(doctor, "is_set_up", lambda: False)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    return root / ".venv"


def test_until_the_set_up_one_line_says_that_it_lacks(elsewhere, monkeypatch):
    monkeypatch.setattr(doctor, "network", lambda: ("ok", "yes"))
    seen = {name: state for name, state, _ in doctor.examine()}
    assert seen["environment"] == "wrong" and not {"packages", "device", "lab"} & set(seen)
    assert "not set up yet: make run" in doctor.environment()[1]


def test_an_environment_that_cannot_be_used_says_how_it_is_mended(elsewhere, monkeypatch):
    elsewhere.mkdir()
    assert doctor.environment()[0] == "wrong" and "unfinished" in doctor.environment()[1]
    monkeypatch.setattr(doctor, "is_set_up", lambda: True)
    assert doctor.environment()[0] == "wrong" and "remove the folder .venv" in doctor.environment()[1]
    monkeypatch.setattr(sys, "prefix", str(elsewhere))
    assert doctor.environment()[0] == "ok"


def test_an_environment_of_somebody_else_will_do(elsewhere, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert doctor.environment() == ("ok", f"environment {sys.prefix}")


def test_any_python_lets_the_environment_s_own_answer(elsewhere, monkeypatch):
    """Whoever calls the machine's Python wants to know of the course's; one that does not start is passed."""
    if os.name == "nt":
        pytest.skip("needs a script that stands for Python")
    doctor.PYTHON.parent.mkdir(parents=True)
    doctor.PYTHON.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$@" > asked; exit 7\n')
    doctor.PYTHON.chmod(0o755)
    assert doctor.main() == 7
    assert (doctor.ROOT / "asked").read_text() == "-m tools.doctor\n"
    doctor.PYTHON.write_text("#!/bin/sh\nexit 3\n")
    monkeypatch.setattr(doctor, "MACHINE", [doctor.environment])
    monkeypatch.setattr(doctor, "UNTIL_SET_UP", [])
    assert doctor.main() == 1


def test_a_python_that_makes_no_environments_is_told_what_debian_lacks(elsewhere, monkeypatch):
    assert doctor.python()[0] == "ok"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.python()[0] == "wrong" and "-venv" in doctor.python()[1]
    monkeypatch.setattr(doctor, "is_set_up", lambda: True)
    assert doctor.python()[0] == "ok"


def test_a_folder_that_cannot_be_written_is_named(monkeypatch):
    assert doctor.folder()[0] == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert doctor.folder()[0] == "wrong"


def test_a_machine_without_network_is_noted(monkeypatch):
    def no_answer(address, timeout):
        raise URLError(OSError("Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_answer)
    state, sentence = doctor.network()
    assert state == "note" and "Name or service not known" in sentence


def test_commands_are_those_of_the_machine(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert doctor.again() == f"{doctor.CALLED} -m tools.make run"
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    assert doctor.again() == "make run"


@pytest.mark.parametrize(
    "version, said", [("2.9.1+cpu", "torch 2.9.1+cpu, at least 2.11"), (None, "not installed: torch")]
)
def test_missing_and_old_packages_are_named(monkeypatch, version, said):
    real = importlib.metadata.version

    def installed(name):
        if name == "torch" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    state, sentence = doctor.packages()
    assert state == "wrong" and said in sentence and "make run" in sentence


def test_another_dgm_utils_is_noted_and_none_is_wrong(monkeypatch, tmp_path):
    """What counts is what a notebook finds, whose folder is not the one in which the doctor is called."""
    monkeypatch.setenv("PYTHONPATH", str(doctor.ROOT))
    assert doctor.course()[0] == "ok"
    (tmp_path / "dgm_utils").mkdir()
    (tmp_path / "dgm_utils/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.course()[0] == "note" and str(tmp_path) in doctor.course()[1]
    done = SimpleNamespace(returncode=0, stdout="\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: done)
    assert doctor.course()[0] == "wrong"


def test_files_that_were_cut_short_are_named(monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "dgm_utils/weights").mkdir(parents=True)
    (tmp_path / "dgm_utils/weights/a.safetensors").write_bytes(b"half")
    (tmp_path / "results/weights.json").write_text(json.dumps({"a": {"sha256": "0" * 64, "bytes": 9}}))
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    state, sentence = doctor.files()
    assert state == "wrong" and "a.safetensors" in sentence and "MNIST" in sentence
    whole = {"a": {"sha256": hashlib.sha256(b"half").hexdigest()}}
    (tmp_path / "results/weights.json").write_text(json.dumps(whole))
    state, sentence = doctor.files()
    assert state == "wrong" and "a.safetensors" not in sentence and "MNIST" in sentence


def test_a_torch_that_does_not_start_is_quoted(monkeypatch):
    done = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nOSError: libcudart")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: done)
    assert doctor.device() == ("wrong", "torch does not start: OSError: libcudart")


def test_too_little_room_is_said(elsewhere, monkeypatch):
    free = {"GiB": 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free["GiB"] * 2**30))
    assert doctor.room()[0] == "wrong"
    free["GiB"] = 64
    monkeypatch.setattr(doctor, "_memory", lambda: 2.0)
    assert doctor.room()[0] == "note"
    for memory in (16.0, 0.0):  # 0: unknown
        monkeypatch.setattr(doctor, "_memory", lambda found=memory: found)
        assert doctor.room()[0] == "ok" and ("of memory" in doctor.room()[1]) is (memory > 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    free["GiB"] = 1
    assert doctor.room()[0] == "ok"  # what needs the room is there already
    free["GiB"] = 0.1
    assert doctor.room()[0] == "wrong"


def test_a_small_folder_for_temporary_files_is_looked_at_too(elsewhere, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path))
    free = {doctor.ROOT: 2**36, tmp_path: 2**30}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    assert doctor.room()[0] == "wrong" and f"1.0 GiB of disk are free in {tmp_path}, " in doctor.room()[1]
    free = {doctor.ROOT: 2**30, tmp_path: 2**36}
    assert f"1.0 GiB of disk are free in {doctor.ROOT}, " in doctor.room()[1]


def test_programs_that_are_missing_are_notes(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    state, sentence = doctor.programs()
    assert state == "note" and "no git" in sentence and "no make" in sentence


def test_no_slides_and_no_browser_are_noted(monkeypatch):
    monkeypatch.setattr(webbrowser, "get", lambda: None)
    assert doctor.lab()[0] == "ok"

    def none():
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(webbrowser, "get", none)
    assert doctor.lab()[0] == "note" and "no browser" in doctor.lab()[1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.lab()[0] == "note" and "slideshow" in doctor.lab()[1]


def test_a_check_that_fails_itself_is_wrong_and_the_others_go_on(monkeypatch, capsys):
    def broken():
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(doctor, "MACHINE", [broken, doctor.python])
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "RuntimeError: the disk is gone" in out and "Python 3." in out and "issue" in out
