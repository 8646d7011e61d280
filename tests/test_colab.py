"""The course runs in Colab's environment: a replica of it is built, and every notebook runs in it."""

import json
import subprocess
import sys

import pytest

from tools import colab_env, colab_list
from tools.notebooks import ROOT


def test_an_interpreter_that_is_asked_for_is_not_replaced(monkeypatch):
    monkeypatch.setenv("COLAB_PYTHON", "/nowhere/python3.13")
    with pytest.raises(colab_env.ColabError, match=r"COLAB_PYTHON=/nowhere/python3\.13 does not run"):
        colab_env.find_python()


def test_without_an_interpreter_the_reason_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("COLAB_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert colab_env.main([], tmp_path / "replica") == 3
    assert "uv python install 3.13" in capsys.readouterr().err
    assert not (tmp_path / "replica").exists()


def test_the_runtime_before_is_another_python_and_no_other_is_known(monkeypatch):
    monkeypatch.setenv("COLAB_PYTHON", sys.executable)
    here = ".".join(map(str, sys.version_info[:2]))
    monkeypatch.setitem(colab_list.RUNTIMES, here, [])
    monkeypatch.setenv("COLAB_RUNTIME", here)
    assert colab_env.find_python() == sys.executable
    monkeypatch.setenv("COLAB_RUNTIME", "2.7")
    with pytest.raises(colab_env.ColabError, match=r"COLAB_RUNTIME=2\.7: expected 3\.13 or 3\.12"):
        colab_env.runtime()


@pytest.fixture
def lists(tmp_path):
    """Lists as Colab publishes them, with the versions that the course relies on."""
    pins = [pin.replace("*", "9") if "==" in pin else f"{pin}==0.7" for pin in colab_list.RUNTIMES["3.13"]]
    pins[1] = (
        "torch @ https://download.pytorch.org/whl/cu130/torch-2.11.0%2Bcu130-cp313-cp313-linux_x86_64.whl"
    )
    (tmp_path / "pip-freeze.txt").write_text("# a comment\nabsl-py==1.4.0\n" + "\n".join(pins) + "\n")
    (tmp_path / "os-info.txt").write_text("# a comment\nUbuntu 22.04.5 LTS\nPython 3.13.7\nR version 4.5.2\n")
    return tmp_path


def compare(lists, capsys, before="", after="", name="pip-freeze.txt"):
    path = lists / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    status = colab_list.main([lists.as_uri()])
    return status, capsys.readouterr().out


def test_a_list_that_only_moved_a_little_is_no_news(lists, capsys):
    assert compare(lists, capsys, "pillow==11.3.0", "Pillow==11.3.2")[0] == 0
    assert compare(lists, capsys, "jupyter_client==", "jupyter-client==") == (
        0,
        "nothing that the course relies on moved\n",
    )


@pytest.mark.parametrize(
    "before, after, row",
    [
        ("torch-2.11.0", "torch-2.12.1", ["torch", "2.11.*", "2.12.1"]),
        ("ipywidgets==7.7.1", "ipywidgets==8.1.5", ["ipywidgets", "7.7.1", "8.1.5"]),
        ("safetensors==0.7\n", "", ["safetensors", "any", "none"]),
    ],
)
def test_what_moved_is_a_row(lists, capsys, before, after, row):
    status, said = compare(lists, capsys, before, after)
    assert status == 1 and [line.split() for line in said.splitlines()[1:-1]] == [row]
    assert "renew tools/colab_list.py" in said


def test_another_python_is_a_row(lists, capsys):
    status, said = compare(lists, capsys, "Python 3.13.7", "Python 3.14.1", name="os-info.txt")
    assert status == 1 and "python" in said and "3.14" in said


def test_lists_that_cannot_be_read_are_not_taken_for_equal(lists, capsys):
    assert compare(lists, capsys, "Python 3.13.7", "3.13.7", name="os-info.txt")[0] == 2
    assert colab_list.main([(lists / "nowhere").as_uri()]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.fixture(scope="module")
def replica():
    try:
        colab_env.find_python()
    except colab_env.ColabError as error:
        pytest.skip(str(error))
    return colab_env.build(ROOT / "build" / "colab-env")


@pytest.mark.colab
def test_the_replica_has_colabs_versions(replica):
    listed = subprocess.run(
        [replica, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    versions = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    for pin in colab_list.RUNTIMES[colab_env.runtime()]:
        package, _, version = pin.partition("==")
        assert versions[package].startswith(version.rstrip("*")), pin
    assert "papermill" not in versions  # what Colab does not have, the notebooks must not find here


@pytest.mark.colab
def test_every_notebook_runs_in_the_replica(replica, capsys):
    assert colab_env.main([]) == 0, capsys.readouterr().out
