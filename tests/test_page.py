"""The course page: every link leads somewhere, and a fork changes one line."""

import importlib.util
import io
import json
import re
import shutil
import sys
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from tools import course, normalise, page

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COURSE = course.home()
LINK = re.compile(r"\]\(([^)\s]+)\)")


PAGES = [
    path for part in ("*.md", "docs/*.md", "results/*.md", "grading/*.md") for path in sorted(ROOT.glob(part))
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_dead_link_to_a_file_or_heading(path):
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{path.name} links to {link}, which is not there"
        if heading and target.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in anchors, f"{path.name} links to {link}, and {target.name} has no such heading"


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
    assert "r-isachenko" not in notebook and "github.com/somebody/my-course/archive/" in notebook


def test_first_cell_is_the_set_up_cell():
    for path in [*ROOT.glob("seminars/*/*.ipynb"), *ROOT.glob("homeworks/*/*.ipynb")]:
        code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        assert "".join(code[0]["source"]) == course.setup_cell(), path


@pytest.fixture
def colab(monkeypatch):
    """Pretend to be a Colab kernel without the package; return the addresses asked for and pip's commands."""
    asked, installs = [], []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: asked.append(url) or io.BytesIO())
    monkeypatch.setattr("subprocess.run", lambda command, check: installs.append(command))
    return asked, installs


def test_set_up_cell_installs_the_release_without_what_colab_has(colab):
    asked, installs = colab
    exec(course.setup_cell(), {})
    assert asked == [installs[0][-1]] and len(installs) == 1
    assert asked[0].endswith(f"{COURSE['owner']}/{COURSE['repository']}/archive/{COURSE['tag']}.zip")
    assert {"--no-deps", "--quiet"} <= set(installs[0])


def test_set_up_cell_does_nothing_where_the_package_is(colab, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    exec(course.setup_cell(), {})
    assert colab == ([], [])


def refuse(error):
    def urlopen(url, timeout):
        raise error

    return urlopen


FAILURES = {
    "no release": (
        "urllib.request.urlopen",
        refuse(HTTPError("", 404, "Not Found", {}, None)),
        'TAG to "main"',
    ),
    "no network": (
        "urllib.request.urlopen",
        refuse(URLError("Name or service not known")),
        "No network.*service",
    ),
    "network that hangs": (
        "urllib.request.urlopen",
        refuse(TimeoutError("timed out")),
        "No network.*timed out",
    ),
    "old Python": (
        "sys.version_info",
        (3, 10, 12),
        r"This is Python .*needs 3\.11 to 3\.13.*Runtime, Change runtime type",
    ),
    "new Python": ("sys.version_info", (3, 14, 0), r"needs 3\.11 to 3\.13"),
    "another kernel": ("sys.modules", {}, r"does not have the course.*`make run`.*python -m tools\.make run"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_set_up_cell_tells_failures_apart(case, colab, monkeypatch):
    name, value, message = FAILURES[case]
    code = compile(course.setup_cell(), "set-up", "exec")
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match=message):
        if name == "sys.modules":
            broken.delitem(sys.modules, "google.colab")
        else:
            broken.setattr(name, value)
        exec(code, {})
    assert colab[1] == []  # pip was not called


def test_the_line_that_set_up_asks_to_change_is_a_field_of_its_form():
    assert re.search(r'^TAG = "[^"]+"  # @param \{type: "string"\}$', course.setup_cell(), re.M)


def test_where_to_hand_in_stands_once(monkeypatch):
    """`make fmt` writes it where students read it; drift fails as every stale page does."""
    homeworks = sorted(ROOT.glob("homeworks/*/hw*.ipynb"))
    policy = (ROOT / "POLICY.md").read_text(encoding="utf-8")
    monkeypatch.setattr(course, "home", lambda: {**COURSE, "hand_in": r"https://example.org/\1"})
    line = r"Where to hand in: https://example.org/\1."
    assert policy.count(f"Where to hand in: {COURSE['hand_in']}.\n") == 1
    assert page.policy(policy).count(line) == 1
    for path in homeworks:
        new = json.loads(normalise.normalised_text(path)[0])["cells"]
        assert sum(line in "".join(cell["source"]) for cell in new) == 1, path.name


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
        if (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    policy = tmp_path / "POLICY.md"
    policy.write_text(policy.read_text().replace("| 1 | 13 |", "| 1 | 14 |"))
    monkeypatch.setattr(page, "ROOT", tmp_path)
    for name in page.PAGES:  # all others take seconds, and are made from what lies in the course
        if name not in ("POLICY.md", "CITATION.cff"):
            monkeypatch.setitem(page.PAGES, name, lambda text: text)
    assert page.main(["--check"]) == 1
    assert capsys.readouterr().out == "POLICY.md: stale, run make fmt\n"
    assert page.main([]) == 0 == page.main(["--check"])
    assert policy.read_text() == (ROOT / "POLICY.md").read_text()


def test_every_clone_line_names_the_course():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert page.with_address(text) == text
    assert page.with_address("https://github.com/a/b.git\ncd b\n") != "https://github.com/a/b.git\ncd b\n"


def test_every_command_of_a_page_exists():
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"^(?:`|\| ?)?make ([a-z]+)|`make ([a-z]+)", text, re.M):
            assert set(target) - {""} <= made, f"{path.name}: make {target}"
        for module in re.findall(r"python3? -m (tools\.[a-z_]+|grading)\b", text):
            assert importlib.util.find_spec(module), f"{path.name}: {module}"


def test_generated_parts_need_their_marks():
    with pytest.raises(ValueError, match="one pair of lines"):
        page.fill("no marks here", "lectures", "body")
