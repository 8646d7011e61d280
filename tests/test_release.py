"""The students' edition holds no solution, right or wrong, no hidden check, no grader, and works."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import course, release
from tools.notebooks import slide_type

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = sorted(ROOT.glob("homeworks/*/hw*.solution.ipynb"))


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "course"
    release.release(out, [])
    return out


def text_of(path: Path) -> str:
    """A file as its reader sees it: a notebook's cells, else its text."""
    if path.suffix == ".ipynb" or path.name.endswith(".blank.json"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return re.sub(r"\(data:image[^)]*\)", "", "\n".join("".join(cell["source"]) for cell in cells))
    return path.read_text(encoding="utf-8", errors="replace")


LEAST = 25  # characters that a line has, or more, if it says something
SOLUTION = re.compile(r"BEGIN SOLUTION(.*?)### END SOLUTION", re.DOTALL)


def secret_lines() -> list[str]:
    """Lines of solutions, right and wrong, and of hidden checks that say something, by `LEAST`.

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
        line for line in lines if len(line) >= LEAST and line not in public and not line.startswith(imports)
    )


def leaks(edition: Path) -> list[tuple[str, str]]:
    """Files of an edition that hold a secret line, with the line."""
    # What holds no lines of code, and most of the bytes: drawings, fonts, numbers.
    drawn = (".gz", ".npz", ".otf", ".pdf", ".safetensors", ".svg", ".webp", ".woff2")
    files = [path for path in edition.rglob("*") if path.is_file() and ".git" not in path.parts]
    texts = {
        path.relative_to(edition).as_posix(): text_of(path) for path in files if path.suffix not in drawn
    }
    secrets = secret_lines()
    starts = {
        line[:LEAST] for line in secrets
    }  # by which a file is searched once for all, not a thousand times
    suspects = {
        path: text
        for path, text in texts.items()
        if any(text[at : at + LEAST] in starts for at in range(len(text)))
    }
    return [(path, line) for line in secrets for path, text in suspects.items() if line in text]


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
    assert (edition / "README.md").read_text().count("You are reading the students' edition") == 1
    assert "You are reading the instructors' edition" in (ROOT / "README.md").read_text()


def test_the_edition_publishes_the_site_and_runs_no_grader(edition):
    workflows = {
        path.stem: path.read_text(encoding="utf-8") for path in edition.glob(".github/workflows/*.yml")
    }
    home = "{owner}/{repository}".format(**course.home())
    assert f"if: github.repository == '{home}'" in workflows["pages"]
    for name, text in workflows.items():
        assert not re.search(r"grading|docker|instructors$", text, re.MULTILINE), name
    listed = (edition / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "## What CI runs" in listed and "`docker`" not in listed


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
            assert "://" in link or (edition / link.split("#")[0]).exists(), f"{path.name} links to {link}"


def run_in(edition, *arguments):
    """Run a module of the edition in its top folder."""
    environment = os.environ | {"PYTHONPATH": str(edition)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=edition, env=environment, capture_output=True, text=True)


def test_generated_pages_are_current_in_the_edition(edition):
    done = run_in(edition, "tools.page", "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_students_can_check_a_notebook(edition):
    """No module of the grader is needed, and none is there."""
    done = run_in(edition, "tools.check", "README.md")
    assert (done.returncode, done.stderr.count("\n")) == (
        2,
        1,
    ) and "README.md: not a notebook: broken JSON" in done.stderr


def test_each_homework_comes_with_a_copy_that_nobody_works_in(edition):
    versions = sorted(path.relative_to(ROOT) for path in ROOT.glob("homeworks/*/hw?.ipynb"))
    assert versions
    for path in versions:
        copy = edition / path.with_suffix(".blank.json")
        assert copy.read_bytes() == (edition / path).read_bytes()


def test_contributing_names_every_file_of_the_grader():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = {path.name for path in ROOT.glob("grading/*.py")} - {"__init__.py", "__main__.py"}
    assert not {name for name in files if f"`{name}`" not in text}


# A path as a text names it: below a folder of the repository, or a file's name with an ending of ours.
FOLDERS = "|".join(re.escape(path.name) for path in ROOT.iterdir() if path.is_dir() and path.name != ".git")
NAMED = re.compile(
    rf"(?<![\w./-])(?:(?:{FOLDERS})/[\w*./-]*|[\w*-]+\.(?:py|ipynb|toml|md|yml|typ|pdf|cff|cfg|css)\b)"
)
MADE_LATER = ("build", ".venv")  # by commands


def texts_of(edition):
    """What people read in the edition, by path: pages, Makefile, text of notebooks, docstrings of tools."""
    files = [*edition.glob("*.md"), edition / "Makefile", *edition.glob(".github/**/*.yml")]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    for path in edition.glob("*/*/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts[path] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    for path in edition.glob("tools/*.py"):
        texts[path] = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return {path: re.sub(r"\(data:image[^)]*\)|\$[^$]*\$", "", text) for path, text in texts.items()}


def missing_paths(edition):
    """(file, path) of every path that a text names and that the edition does not have."""
    missing = []
    for where, text in texts_of(edition).items():
        for found in NAMED.findall(text):
            pattern = re.sub(r"(?<=[a-z])[NM]\b", "*", found).rstrip("/.")
            first = pattern.split("/")[0]
            if first in MADE_LATER or list(edition.glob(pattern)) or list(edition.rglob(pattern)):
                continue
            missing.append((where.relative_to(edition).as_posix(), found))
    return missing


def test_every_path_that_a_text_names_is_there(edition):
    assert not missing_paths(edition)


def targets(folder):
    """The targets that `make help` lists."""
    help_text = subprocess.run(
        ["make", "help"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    return re.findall(r"^([a-z]+) ", help_text, re.M)


def exists(edition, module):
    """Whether Python finds a module in the edition, or installed."""
    here = edition / module.replace(".", "/")
    return (
        here.is_dir()
        or here.with_suffix(".py").exists()
        or (
            module.split(".")[0] not in ("grading", "tools", "tests", "dgm_utils") and bool(find_spec(module))
        )
    )


def test_every_command_that_a_text_names_is_there(edition):
    """Targets of make, and modules behind `python -m`; what help lists runs modules and files that exist."""
    known = targets(edition)
    assert {"run", "test", "lab"} <= set(known) and not {"grade", "release"} & set(known)
    makefile = (edition / "Makefile").read_text(encoding="utf-8")
    for where, text in texts_of(edition).items():
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), f"{where.name}: make {target}"
        for module in re.findall(r"python -m ([\w.]+\w)", text):
            assert exists(edition, module), f"{where.name}: python -m {module}"
    recipes = subprocess.run(["make", "-nB", *known], cwd=edition, capture_output=True, text=True, check=True)
    for module in re.findall(r"python -m ([\w.]+\w)", recipes.stdout):
        assert exists(edition, module), f"make runs {module}"
    for path in re.findall(r"\b(?:tests|tools)/[\w./]+", recipes.stdout):
        assert (edition / path).exists(), f"make runs {path}"


def test_no_module_of_the_edition_imports_the_grader(edition):
    for module in edition.glob("t*/*.py"):
        assert not re.search(r"^ *(from|import) grading\b", module.read_text(), re.M), module


STAGE = re.compile(
    r"the class usually|show of hands|when late|\baloud\b|before class|^\**Start the next|before you explain|"
    r"on the board|projector|\bAsk(?: the class|:)|somebody has committed|instructors -->",
    re.IGNORECASE | re.MULTILINE,
)


def cells_of(folder):
    """(notebook, cell) of every Markdown cell of the seminars and homeworks."""
    for path in sorted(folder.glob("*/*/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path.name, cell


def test_no_stage_direction_reaches_students(edition):
    directions = {STAGE.search("".join(cell["source"])) for _, cell in cells_of(ROOT)} - {None}
    assert len(directions) > 10  # the teacher's edition has them
    for name, cell in cells_of(edition):
        found = STAGE.search("".join(cell["source"]))
        assert not found, f"{name}, cell {cell['id']}: {found[0]!r} is for the teacher"
        note = slide_type(cell) == "notes"
        assert not note or "students" in cell["metadata"]["tags"], f"{name}, cell {cell['id']}"


def test_students_keep_the_plan_and_all_that_is_no_note(edition):
    for path in sorted(ROOT.glob("seminars/*/*.ipynb")):
        ours = json.loads(path.read_text(encoding="utf-8"))["cells"]
        theirs = json.loads((edition / path.relative_to(ROOT)).read_text(encoding="utf-8"))["cells"]
        kinds = {cell["id"]: slide_type(cell) for cell in ours}
        gone = set(kinds) - {cell["id"] for cell in theirs}
        assert gone and {kinds[name] for name in gone} == {"notes"}, path.name
        assert [c for c in ours if c["cell_type"] == "code"] == [
            c for c in theirs if c["cell_type"] == "code"
        ]
        (plan,) = [text for cell in theirs if "**Plan for" in (text := "".join(cell["source"]))]
        rows = [line for line in plan.splitlines() if line.startswith("|")]
        assert len(rows) > 8 and {line.count("|") for line in rows} == {3}, path.name


def test_a_note_goes_unless_it_is_tagged_and_parts_of_cells_go():
    def note(text, *tags):
        return new_markdown_cell(text, metadata={"slideshow": {"slide_type": "notes"}, "tags": list(tags)})

    part = "<!-- begin instructors -->\nRun all cells.\n<!-- end instructors -->"
    table = (
        "| minutes | section | when late |\n| ---: | --- | --- |\n| 5 | $\\lvert x\\rvert$ | |\n\nMore.\n\n"
        + part
    )
    cells = [note("Ask."), note(table, "students"), new_markdown_cell("Text."), new_code_cell("# begin\n1")]
    theirs = release.public_notebook(new_notebook(cells=cells))
    plan = "| minutes | section |\n| ---: | --- |\n| 5 | $\\lvert x\\rvert$ |\n\nMore."
    assert [cell.source for cell in theirs.cells] == [plan, "Text.", "# begin\n1"]


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
