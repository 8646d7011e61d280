"""The doctor: each finding on a machine that lacks something, and what it advises."""

import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

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


def test_an_interpreter_outside_the_environment_is_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert doctor.environment()[0] == "note"


@pytest.mark.parametrize(
    "version, said", [("2.1.0", "torch 2.1.0, at least 2.11"), (None, "not installed: torch")]
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


def test_versions_are_compared_as_numbers():
    assert doctor._numbers("2.9.1+cpu") < doctor._numbers("2.11") < doctor._numbers("2.14.1")


def test_another_dgm_utils_is_noted_and_none_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "x.py"))
    )
    assert doctor.course()[0] == "note"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.course()[0] == "wrong"


def test_files_that_were_cut_short_are_named(monkeypatch, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "dgm_utils/weights").mkdir(parents=True)
    (tmp_path / "dgm_utils/weights/a.safetensors").write_bytes(b"half")
    (tmp_path / "results/weights.json").write_text(json.dumps({"a": {"sha256": "0" * 64, "bytes": 9}}))
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    state, sentence = doctor.files()
    assert state == "wrong" and "a.safetensors" in sentence and "MNIST" in sentence


def test_a_torch_that_does_not_start_is_quoted(monkeypatch):
    done = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nOSError: libcudart")
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: done)
    assert doctor.device() == ("wrong", "torch does not start: OSError: libcudart")


def test_too_little_room_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "READY", tmp_path / ".venv/.ok")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    assert doctor.room()[0] == "wrong"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**36))
    monkeypatch.setattr(doctor, "_memory", lambda: 2.0)
    assert doctor.room()[0] == "note"


def test_programs_that_are_missing_are_notes(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    state, sentence = doctor.programs()
    assert state == "note" and "no git and no make" in sentence


def test_a_check_that_fails_itself_is_wrong_and_the_others_go_on(monkeypatch, capsys):
    def broken():
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(doctor, "CHECKS", [broken, doctor.python])
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "RuntimeError: the disk is gone" in out and "Python 3." in out and "issue" in out
