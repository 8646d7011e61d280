"""The course page: every link leads somewhere, and a fork changes one line."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tools import course, normalise, page

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COURSE = course.home()
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
    monkeypatch.setattr(course, "home", lambda: fork)
    new = page.readme(README)
    assert "r-isachenko" not in new
    assert "github.com/somebody/my-course/blob/main/" in new
    assert "somebody/my-course" in page.citation((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    notebook, _ = normalise.normalised_text(ROOT / "seminars/seminar1/seminar1.ipynb")
    assert "r-isachenko" not in notebook and "github.com/somebody/my-course@" in notebook


def test_first_cell_is_the_set_up_cell():
    for path in [*ROOT.glob("seminars/*/*.ipynb"), *ROOT.glob("homeworks/*/*.ipynb")]:
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert "".join(code[0]["source"]) == course.setup_cell(), path


def test_set_up_cell_installs_on_colab_only_and_once(monkeypatch):
    calls = []

    class Done:
        returncode = 0

    monkeypatch.setattr("subprocess.run", lambda command: calls.append(command) or Done)
    exec(course.setup_cell(), {})
    assert calls == []  # not on Colab
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    exec(course.setup_cell(), {})
    assert calls == []  # on Colab, but already installed
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(course.setup_cell(), {})
    assert len(calls) == 1
    assert {"--no-deps", "--quiet"} <= set(calls[0])
    assert calls[0][-1].endswith("@" + COURSE["tag"])
    Done.returncode = 1
    with pytest.raises(RuntimeError, match='TAG = "main"'):
        exec(course.setup_cell(), {})


def test_rows_that_are_not_built_are_not_linked():
    for number in range(1, 12):
        built = (ROOT / f"seminars/seminar{number}/seminar{number}.ipynb").exists()
        assert (f"seminars/seminar{number}/" in README) == built


def test_the_first_lecture_prints_the_homeworks_of_the_course():
    """The slide is written by hand: its dates and points are compared."""
    slides = (ROOT / "lectures/lecture1/lecture1.typ").read_text(encoding="utf-8")
    homeworks = course.plan()["homework"]
    for number, one in enumerate(homeworks, start=1):
        dates = ", ".join(f"[{one[name].day} {one[name]:%b}]" for name in ("out", "deadline"))
        row = rf"\[{number}\], {re.escape(dates)}, \[.*\], \[{one['kind']}\], \[{one['points']}\],"
        assert re.search(row, slides), f"lecture1.typ: no row for homework {number} as course.toml has it"
    assert f"[*all*], [*{sum(one['points'] for one in homeworks)}*]" in slides
    first = homeworks[0]
    assert f"Homework 1 ({first['points']} points) is due on {first['deadline'].day} February" in slides


def test_decks_are_dated_as_the_course():
    for number, lecture in enumerate(course.plan()["lecture"], start=1):
        deck = ROOT / f"lectures/lecture{number}/lecture{number}.typ"
        if deck.exists():
            date = f"{lecture['date'].day} {lecture['date']:%B %Y}"
            assert f'date: "{date}",' in deck.read_text(encoding="utf-8"), f"{deck.name}: expected {date}"


def test_a_stale_page_is_noticed_and_renewed(monkeypatch, tmp_path, capsys):
    for name in page.PAGES:
        shutil.copy(ROOT / name, tmp_path)
    policy = tmp_path / "POLICY.md"
    policy.write_text(policy.read_text().replace("| 1 | 13 |", "| 1 | 14 |"))
    monkeypatch.setattr(page, "ROOT", tmp_path)
    monkeypatch.setitem(page.PAGES, "README.md", lambda text: text)  # its links are those of the real course
    assert page.main(["--check"]) == 1
    assert capsys.readouterr().out == "POLICY.md: stale, run make fmt\n"
    assert page.main([]) == 0 == page.main(["--check"])
    assert policy.read_text() == (ROOT / "POLICY.md").read_text()


def test_generated_parts_need_their_marks():
    with pytest.raises(ValueError, match="one pair of lines"):
        page.fill("no marks here", "lectures", "body")
