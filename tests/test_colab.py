"""The course runs in Colab's environment: a replica of it is built, and every notebook runs in it."""

import json
import subprocess

import pytest

from tools import colab_env
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
    for pin in colab_env.PINS:
        package, _, version = pin.partition("==")
        assert versions[package].startswith(version.rstrip("*")), pin
    assert "papermill" not in versions  # what Colab does not have, the notebooks must not find here


@pytest.mark.colab
def test_every_notebook_runs_in_the_replica(replica, capsys):
    assert colab_env.main([]) == 0, capsys.readouterr().out
