"""The house rules that a reader of CONTRIBUTING.md relies on."""

import ast
import doctest
import importlib
import io
import re
import shutil
import subprocess
import tokenize
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import dgm_utils

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = {
    requirement.name: requirement
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
    for requirement in [Requirement(line)]
}
MODULES = sorted((ROOT / "dgm_utils").glob("*.py"))


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no blanks, no comments, no docstrings."""
    layout = ["COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER"]
    skipped = {getattr(tokenize, name) for name in layout}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def test_code_lines_counts_code_only():
    source = '"""Doc."""\n\n# why\nx = 1\n\n\ndef f():\n    """Doc\n    string."""\n    return x\n'
    assert code_lines(source) == {4, 7, 10}


def test_the_package_can_be_read_in_one_sitting():
    """Without `graph.py`: no notebook asks for it by name."""
    counts = {path.name: len(code_lines(path.read_text())) for path in MODULES if path.stem != "graph"}
    assert sum(counts.values()) <= 1335, counts


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_public_functions_fit_a_screen(path):
    source = path.read_text()
    lines = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            length = len(lines & set(range(node.lineno, node.end_lineno + 1)))
            assert length <= 40, f"{path.name}:{node.name} has {length} lines of code, at most 40 are allowed"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_examples_in_the_docstrings_print_what_they_say(path):
    name = "dgm_utils" if path.stem == "__init__" else f"dgm_utils.{path.stem}"
    result = doctest.testmod(importlib.import_module(name))
    assert (result.attempted, result.failed) == (path.read_text().count(">>> "), 0)


def test_the_lock_covers_every_dependency_and_leaves_torch_out():
    wanted = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
    wanted += [Requirement(line) for group in PROJECT["dependency-groups"].values() for line in group]
    for requirement in wanted:
        if requirement.name in ("torch", "torchvision"):
            assert requirement.name not in LOCK
            continue
        version = str(LOCK[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), f"{requirement} but the lock has {version}"
    assert not [name for name in LOCK if name.startswith(("nvidia", "triton"))]


def test_the_makefile_pins_a_torch_that_the_project_allows():
    pins = re.search(r"^TORCH_PINS := (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1)
    allowed = {
        Requirement(line).name: Requirement(line).specifier for line in PROJECT["project"]["dependencies"]
    }
    for pin in map(Requirement, pins.split()):
        assert allowed[pin.name].contains(str(pin.specifier).removeprefix("=="))


def test_conda_door_is_equal_to_the_project():
    lines = [line.strip("- \n") for line in (ROOT / "environment.yml").read_text().splitlines()]
    assert "python " + PROJECT["project"]["requires-python"] in lines
    assert {"r requirements.lock", "e ."} <= set(lines)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_a_wrong_python_is_told_which_versions_work(tmp_path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    done = subprocess.run(
        ["make", "-C", str(tmp_path), "run", f"PY={old}"],
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert done.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13, and found Python 3.8.1" in done.stdout
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"between 0 and 2\*\*32 - 1"):
        dgm_utils.seed_everything(seed)
