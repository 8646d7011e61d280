"""The students' edition holds no solution, right or wrong, no hidden check, no grader, and works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import release

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = sorted(ROOT.glob("homeworks/*/hw*.solution.ipynb"))


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "course"
    release.release(out, [])
    return out


def text_of(path: Path) -> str:
    """A file as its reader sees it: a notebook's cells, else its text."""
    if path.suffix == ".ipynb":
        return "\n".join(
            "".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]
        )
    return path.read_text(encoding="utf-8", errors="replace")


SOLUTION = re.compile(r"BEGIN SOLUTION(.*?)### END SOLUTION", re.DOTALL)


def secret_lines() -> list[str]:
    """Lines of solutions, right and wrong, and of hidden checks that say something: 25 characters or more.

    What a seminar or the package teaches is no secret, nor is what stands around the blanks of a homework.
    """
    secrets, taught = [], []
    for path in SOLUTIONS:
        secrets += SOLUTION.findall(text_of(path))
        taught.append(SOLUTION.sub("", text_of(path)))
    for name in ("hidden.py", "mutants.py", "accepted.py"):
        secrets += [path.read_text() for path in ROOT.glob(f"homeworks/*/{name}")]
    taught += [text_of(path) for path in [*ROOT.glob("seminars/*/*.ipynb"), *ROOT.glob("dgm_utils/*.py")]]
    lines = {line.strip() for text in secrets for line in text.splitlines()}
    public = "\n".join(taught)
    imports = ("import ", "from ")
    return sorted(
        line for line in lines if len(line) >= 25 and line not in public and not line.startswith(imports)
    )


def leaks(edition: Path) -> list[tuple[str, str]]:
    """Files of an edition that hold a secret line, with the line."""
    files = [path for path in edition.rglob("*") if path.is_file() and ".git" not in path.parts]
    texts = {path.relative_to(edition).as_posix(): text_of(path) for path in files if path.suffix != ".gz"}
    return [(path, line) for line in secret_lines() for path, text in texts.items() if line in text]


def test_no_line_of_a_solution_survives(edition):
    assert len(secret_lines()) > 100
    assert not leaks(edition)


def test_a_planted_leak_is_seen(edition):
    secret = SOLUTION.findall(text_of(SOLUTIONS[0]))[0]
    planted = edition / "notes.txt"
    planted.write_text(secret)
    found = leaks(edition)
    planted.unlink()
    assert found
    assert {path for path, _ in found} == {"notes.txt"}


def test_instructors_files_are_left_out(edition):
    secret = ("**/*.solution.ipynb", "**/hidden.py", "**/mutants.py", "**/accepted.py")
    for pattern in (*secret, "grading", "tests/hostile"):
        assert list(ROOT.glob(pattern)) and not list(edition.glob(pattern)), pattern
    for path in ("README.md", "CONTRIBUTING.md", "Makefile"):
        assert "instructors -->" not in (edition / path).read_text()
        assert "begin instructors" not in (edition / path).read_text()
    assert "You are reading the students' edition" in (edition / "README.md").read_text()
    assert "You are reading the instructors' edition" in (ROOT / "README.md").read_text()


def test_one_commit_and_a_second_release_adds_one(edition):
    assert len(release.git(edition, "log", "--oneline").splitlines()) == 1
    release.release(edition, ["hw1"])
    assert len(release.git(edition, "log", "--oneline").splitlines()) == 2
    assert (edition / "homeworks/homework1/hw1.solution.ipynb").exists()
    assert not list(edition.glob("homeworks/*/hidden.py"))
    release.release(edition, [])
    assert not (edition / "homeworks/homework1/hw1.solution.ipynb").exists()


def test_links_of_the_students_page_lead_somewhere(edition):
    for path in edition.glob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            assert "://" in link or (edition / link).exists(), f"{path.name} links to {link}"


def test_students_can_check_a_notebook(edition):
    """No module of the grader is needed, and none is there."""
    command = [sys.executable, "-m", "tools.check", "README.md"]
    environment = os.environ | {"PYTHONPATH": str(edition)}
    done = subprocess.run(command, cwd=edition, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "README.md:1: broken JSON" in done.stderr


def test_contributing_names_every_file_of_the_grader():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {path.name for path in ROOT.glob("grading/*.py")} - {"__init__.py", "__main__.py"}
    assert not {name for name in files if f"`{name}`" not in text}


def test_pages_name_no_file_that_students_do_not_have(edition):
    for path in ("README.md", "POLICY.md", "Makefile"):
        assert (
            "grading." not in (edition / path).read_text()
            and "-m grading" not in (edition / path).read_text()
        )
    for module in edition.glob("t*/*.py"):
        assert not re.search(r"^ *(from|import) grading\b", module.read_text(), re.M), module


@pytest.mark.parametrize("case", ["inside", "full", "dirty", "unknown"])
def test_bad_targets_are_refused_and_left_alone(case, tmp_path):
    out, solutions, message = tmp_path / "out", [], ""
    if case == "inside":
        out, message = ROOT / "build" / "edition", "lies inside this repository"
    if case == "full":
        out.mkdir()
        (out / "mine.txt").write_text("keep")
        message = "not empty"
    if case == "dirty":
        release.release(out, [])
        (out / "README.md").write_text("changed")
        message = "not committed"
    if case == "unknown":
        solutions, message = ["hw99"], "no hw99.solution.ipynb"
    with pytest.raises(release.ReleaseError, match=message):
        release.release(out, solutions)
    if case == "full":
        assert (out / "mine.txt").read_text() == "keep"
    if case == "inside":
        assert not out.exists()


def test_a_work_tree_that_is_not_clean_is_not_released(tmp_path, monkeypatch, capsys):
    tree = tmp_path / "tree"
    tree.mkdir()
    release.git(tree, "init", "-q")
    (tree / "README.md").write_text("words")
    release.git(tree, "add", "-A")
    release.commit(tree, "words")
    monkeypatch.setattr(release, "ROOT", tree)
    monkeypatch.setattr(sys, "argv", ["release", str(tmp_path / "out")])
    (tree / "README.md").write_text("return 2.0")
    (tree / "new.txt").write_text("forgotten")
    assert release.main() == 1
    said = capsys.readouterr().err
    assert "README.md" in said and "new.txt" in said and not (tmp_path / "out").exists()
    (tree / "README.md").write_text("words")
    (tree / "new.txt").unlink()
    assert release.main() == 0
