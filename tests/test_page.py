"""The course page: every link leads somewhere, and a fork changes one line."""

import json
import re
from pathlib import Path

import pytest

from tools import page

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COURSE = page.course()
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_no_dead_link_to_a_file(path):
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" not in link and not link.startswith("#"):
            assert (ROOT / link.split("#")[0]).exists(), f"{path.name} links to {link}, which is not there"


def test_every_badge_points_at_a_file_of_the_course():
    blob = "{owner}/{repository}/blob/{branch}/".format(**COURSE)
    targets = [link for link in LINK.findall(README) if blob in link]
    assert len(targets) >= 4
    for link in targets:
        assert (ROOT / link.split(blob)[1]).exists(), f"{link} leads nowhere"


def test_every_notebook_row_has_both_badges():
    for part in ("seminars/*/seminar*.ipynb", "homeworks/*/hw?.ipynb"):
        for path in ROOT.glob(part):
            where = "{owner}/{repository}/blob/{branch}/".format(**COURSE) + path.relative_to(ROOT).as_posix()
            assert f"(https://github.com/{where})" in README
            assert f"(https://colab.research.google.com/github/{where})" in README


def test_a_fork_changes_one_line(monkeypatch):
    fork = {**COURSE, "owner": "somebody", "repository": "my-course"}
    monkeypatch.setattr(page, "course", lambda: fork)
    new = page.page(README)
    assert "r-isachenko" not in new
    assert "github.com/somebody/my-course/blob/main/" in new
    assert "somebody/my-course" in page.setup_cell()


def test_first_cell_is_the_set_up_cell():
    for path in [*ROOT.glob("seminars/*/*.ipynb"), *ROOT.glob("homeworks/*/*.ipynb")]:
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert "".join(code[0]["source"]) == page.setup_cell(), path


def test_set_up_cell_installs_on_colab_only_and_once(monkeypatch):
    calls = []

    class Done:
        returncode = 0

    monkeypatch.setattr("subprocess.run", lambda command: calls.append(command) or Done)
    exec(page.setup_cell(), {})
    assert calls == []  # not on Colab
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    exec(page.setup_cell(), {})
    assert calls == []  # on Colab, but already installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(page.setup_cell(), {})
    assert len(calls) == 1
    assert {"--no-deps", "--quiet"} <= set(calls[0])
    assert calls[0][-1].endswith("@" + COURSE["tag"])
    Done.returncode = 1
    with pytest.raises(RuntimeError, match='TAG = "main"'):
        exec(page.setup_cell(), {})


def test_rows_that_are_not_built_are_not_linked():
    for number, *_ in page.LECTURES:
        built = (ROOT / f"seminars/seminar{number}/seminar{number}.ipynb").exists()
        assert (f"seminars/seminar{number}/" in README) == built


def test_generated_parts_need_their_marks():
    with pytest.raises(ValueError, match="one pair of lines"):
        page.fill("no marks here", "lectures", "body")
