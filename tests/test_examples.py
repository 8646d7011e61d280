"""The example workflows: what they call exists, and takes the options that they give."""

import importlib.util
import re
import shlex

import pytest
import yaml

from grading.__main__ import parser
from tools.notebooks import ROOT
from tools.release import is_public

EXAMPLES = sorted((ROOT / "examples").glob("*.yml"))


def commands(path):
    """The shell commands of a workflow, split into words."""
    steps = [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]
    lines = [line for step in steps for line in step.get("run", "").splitlines()]
    return [shlex.split(part) for line in lines for part in re.split(r" [|] |; ", line)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_commands_of_an_example_exist(path):
    modules = [words[2:] for words in commands(path) if words[:2] == [".venv/bin/python", "-m"]]
    assert modules, "an example that runs nothing of ours"
    for name, *arguments in modules:
        assert importlib.util.find_spec(name), name
        if name == "grading":
            options = parser().parse_args(arguments)
            assert options.command == "grade" and options.also == ["gradescope", "junit"]
        for word in arguments:
            for number in (1, 5) if "homeworks/" in word else ():
                place = word.replace("$HOMEWORK", f"homework{number}" if name == "grading" else str(number))
                assert (ROOT / place).exists(), place
    targets = set(re.findall(r"^([\w./]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in commands(path) if words[0] == "make"} <= targets


def test_actions_are_those_of_our_own_tests():
    """One place says which commits of actions are trusted: an update there must reach the examples."""
    pinned = re.compile(r"uses: (\S+@[0-9a-f]{40})")
    ours = set(pinned.findall((ROOT / ".github/workflows/ci.yml").read_text()))
    for path in EXAMPLES:
        used = pinned.findall(text := path.read_text())
        assert set(used) <= ours and len(used) == text.count("uses: ")


def test_students_get_the_example_that_is_theirs():
    assert {path.name: is_public(f"examples/{path.name}", []) for path in EXAMPLES} == {
        "check-homeworks.yml": True,
        "grade-homework.yml": False,
    }
