"""The printed sheets of the theory homeworks: current, reproducible, accessible, no word of a solution."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.test_slides import inflated, missing_glyphs, pages
from tools import sheet

ROOT = Path(__file__).resolve().parent.parent
SHEETS = sheet.notebooks()
each_sheet = pytest.mark.parametrize("notebook", SHEETS, ids=lambda path: path.stem)


def test_theory_homeworks_have_a_sheet():
    assert [path.stem for path in SHEETS] == ["hw2", "hw5"]


@each_sheet
def test_committed_sheet_is_current(notebook):
    assert notebook.with_suffix(".pdf").read_bytes() == sheet.compile_sheet(notebook), (
        f"run: python -m tools.sheet {notebook.parent.name}"
    )


@each_sheet
def test_the_same_bytes_in_another_place(notebook, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "lectures", tmp_path / "lectures", ignore=shutil.ignore_patterns("lecture*"))
    copy = tmp_path / "homeworks" / notebook.parent.name / notebook.name
    copy.parent.mkdir(parents=True)
    shutil.copy(notebook, copy)
    monkeypatch.chdir(tmp_path)
    assert sheet.compile_sheet(copy) == notebook.with_suffix(".pdf").read_bytes()


@each_sheet
def test_sheet_is_accessible_undated_and_complete(notebook):
    raw = notebook.with_suffix(".pdf").read_bytes()
    pdf = inflated(raw)
    assert raw.startswith(b"%PDF-") and 2 <= pages(raw) <= 8
    assert b"/StructTreeRoot" in pdf and b"/Marked true" in pdf and b"/Lang(en-GB)" in pdf
    number = re.search("[0-9]+", notebook.stem)[0]
    assert f"/Title(Deep Generative Models. Homework {number}. ".encode() in pdf
    assert b"/CreationDate" not in pdf and b"/ModDate" not in pdf and b"CreateDate" not in pdf
    assert set(re.findall(rb"/FontName/[A-Z]{6}\+([A-Za-z0-9]+)", pdf)) <= {
        b"SourceSans3",
        b"SourceCodePro",
        b"NewCMMath",
    }
    assert missing_glyphs(raw) == 0


@each_sheet
def test_sheet_holds_every_task_with_its_points_and_no_hint(notebook):
    text = sheet.task_text(notebook)
    cells = nbformat.read(notebook, as_version=4).cells
    answers = {
        cell.metadata.nbgrader.grade_id for cell in cells if cell.metadata.get("nbgrader", {}).get("solution")
    }
    headed = dict(re.findall(r"^### (q\w+) \(([\d.]+) points?\b", text, re.M))
    assert set(headed) == answers
    said = re.search(r"· ([\d.]+) points ·", text)[1]
    assert sum(map(float, headed.values())) == float(said)
    assert "YOUR ANSWER HERE" not in re.sub("line YOUR ANSWER HERE by", "", text.replace("\n  ", " "))
    assert "<details>" not in text and "Hint" not in text


@each_sheet
def test_no_line_of_a_solution_is_printed(notebook):
    source = notebook.with_name(f"{notebook.stem}.solution.ipynb")
    if not source.exists():
        pytest.skip("the students' edition has no solutions")
    printed = sheet.typst_source(notebook)
    answers = [
        cell.source
        for cell in nbformat.read(source, as_version=4).cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    ]
    secret = {
        line.strip()
        for text in answers
        for part in re.findall(r"BEGIN SOLUTION[^\n]*\n(.*?)### END SOLUTION", text, re.S)
        for line in part.splitlines()
        if len(line.strip()) > 12
    }
    assert len(secret) > 50
    assert not [line for line in secret if line in printed or line in sheet.task_text(notebook)]
    # Nor would it be if the solution notebook itself were printed: answer cells are left out.
    assert sheet.task_text(source) == sheet.task_text(notebook)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a homework of one Markdown cell and returns its path."""
    (tmp_path / "lectures").mkdir()
    for name in ("theme.typ", "spoken.typ", "references.typ", "sheet.typ"):
        shutil.copy(ROOT / "lectures" / name, tmp_path / "lectures")
    shutil.copytree(ROOT / "lectures/fonts", tmp_path / "lectures/fonts")
    path = tmp_path / "homeworks/homework9/hw9.ipynb"
    path.parent.mkdir(parents=True)

    def write(body, head="# Homework 9. Ink\n\n*Course* · 3 points · due May 9\n"):
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(head + "\n" + body)]), path
        )
        return path

    return write


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("A <b>bold</b> word", "<b> cannot be printed"),
        ("$$" + "+".join(f"a_{{{k}}}" for k in range(60)) + "$$", r"an equation is \d+ pt wide in \d+ pt"),
    ],
)
def test_what_cannot_be_printed_stops_the_build(written, body, complaint):
    with pytest.raises(sheet.SheetError, match=complaint):
        sheet.compile_sheet(written(body))


def test_a_notebook_without_its_head_is_refused(written):
    with pytest.raises(sheet.SheetError, match="expected '# title'"):
        sheet.compile_sheet(written("text", head="## Homework 9\n"))


def test_folded_parts_and_remarks_on_the_notebook_are_left_out(written):
    path = written(
        "Before `<b>` and $a<b>c$.\n\n<details><summary>Hint</summary>\n\nsecret\n</details>\n\nAfter."
    )
    assert "secret" not in sheet.typst_source(path) and "After." in sheet.typst_source(path)
    assert missing_glyphs(sheet.compile_sheet(path)) == 0
    assert missing_glyphs(sheet.compile_sheet(written("漢"))) == 1


def test_an_unknown_homework_is_named():
    with pytest.raises(FileNotFoundError, match="no homework 'homework99'; there is homework1"):
        sheet.notebooks(["homework99"])


def test_a_stale_sheet_fails_the_check_and_is_renewed(written, monkeypatch, capsys):
    path = written("First.")
    monkeypatch.setattr(sheet, "notebooks", lambda names: [path])
    monkeypatch.setattr(sheet, "ROOT", path.parents[2])
    assert sheet.main(["--check"]) == 1 and "older than its notebook" in capsys.readouterr().out
    assert sheet.main([]) == 0 and sheet.main(["--check"]) == 0
    written("Second.")
    assert sheet.main(["--check"]) == 1
