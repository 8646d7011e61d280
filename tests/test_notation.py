"""The notation page: it says what notation.typ says, in both ways; names in code are those of the code."""

import ast
import json
import re
import unicodedata

import pytest
import typst

from dgm_utils import metrics
from tools import course, notation, page, places
from tools.notebooks import ROOT, read_notebook

LECTURES = ROOT / "lectures"
PAGE = (ROOT / "docs/notation.md").read_text(encoding="utf-8")
SYMBOLS = [symbol for listed in notation.symbols().values() for symbol in listed]
WEEKS = range(1, len(course.plan()["lecture"]) + 1)


def cells(row):
    """The cells of a table's row, without the bars that stand around and between them."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


ROWS = [cells(row) for row in re.findall(r"^\| .+\|$", PAGE, re.M)]
FIRST = {row[3].strip("`").partition("(")[0]: int(row[2]) for row in ROWS if row[2:] and row[2].isdigit()}


def test_each_symbol_of_the_decks_stands_once_on_the_page_and_none_is_invented():
    defined = re.findall(r"^#let ([\w-]+)", (LECTURES / "notation.typ").read_text(encoding="utf-8"), re.M)
    assert list(FIRST) == defined and len(set(defined)) == len(defined) > 25


def typeset(name, arguments):
    """How Typst sets a symbol, as it is spoken; its arguments are set as they are called."""
    called = name + re.sub(r"(\w+)", r'"\1"', arguments)
    return f"#metadata(spoken(${called}$.body))<said>"


def greek(letter):
    return unicodedata.lookup(f"GREEK SMALL LETTER {letter[1].upper()}")


def without_spaces(reading):
    return re.sub(r"[\s(){}\\]", "", reading)


def test_latex_on_the_page_is_what_typst_sets():
    lines = [typeset(name, arguments) for name, arguments, *_ in SYMBOLS]
    source = "\n".join(['#import "spoken.typ": spoken', '#import "notation.typ": *', *lines])
    said = json.loads(typst.query(source.encode(), "<said>", field="value", root=LECTURES))
    for (name, _, latex, _), reading in zip(SYMBOLS, said, strict=True):
        written = re.sub(r"\\(?:mathrm|mathbb|mathcal|,)|\$", "", latex).replace("-", "\N{MINUS SIGN}")
        written = written.replace(r"\mid", "|").replace(r"\vert", "|").replace(r"\Vert", "‖")
        written = re.sub(r"\\(pi|phi|theta)\b", greek, written)
        assert without_spaces(written) == without_spaces(reading), name


def test_no_deck_has_a_symbol_of_its_own_for_what_all_decks_have():
    names = {name for name, *_ in SYMBOLS}
    for lecture in WEEKS:
        own = re.findall(r"^#let ([\w-]+)", places.deck(lecture), re.M)
        assert not names & set(own), f"lecture {lecture} defines {names & set(own)} again"


def test_what_two_decks_define_alike_is_notation():
    """`figure-file` and the like are no symbols; a symbol that two decks write stands in notation.typ."""
    known = {}
    for lecture in WEEKS:
        for line in re.findall(r"^#let \S.* = (?:\$.*\$|math\.op\(.*\))$", places.deck(lecture), re.M):
            known.setdefault(line, []).append(lecture)
    twice = {line: lectures for line, lectures in known.items() if len(lectures) > 1}
    assert {line.split()[1] for line in twice} <= {"joint", "posterior"}, twice  # with θ or without, by deck


def test_every_symbol_is_used_and_its_first_week_is_right():
    for name, *_ in SYMBOLS:
        weeks = notation.weeks(name)
        assert weeks and weeks[0] == FIRST[name], f"{name}: {weeks}"
    assert (
        FIRST["pdata"] == 1 and FIRST["elbo"] == 3 and FIRST["JSD"] == 4
    )  # what the decks are known to teach


def signatures():
    """The names of what notebooks and package define, with the parameters of each definition."""
    sources = [path.read_text(encoding="utf-8") for path in ROOT.glob("dgm_utils/*.py")]
    for week in WEEKS:
        notebook = read_notebook(ROOT / places.NOTEBOOK["S"].format(week))
        sources += [
            cell.source
            for cell in notebook.cells
            if cell.cell_type == "code" and cell.source.lstrip()[:1] not in "%!"
        ]
    found = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                parameters = [one.arg for one in [*node.args.args, *node.args.kwonlyargs]]
                found.setdefault(node.name, []).append(parameters)
            elif isinstance(node, ast.ClassDef):
                found.setdefault(node.name, [])
                for part in node.body:
                    if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                        found[node.name].append([one.arg for one in part.args.args])
    return found


def test_calls_on_the_page_are_those_of_the_code():
    known = signatures()
    calls = re.findall(r"`(?:metrics\.|checks\.)?([A-Za-z_]\w*)\(([\w, ]*)\)`", PAGE)
    assert len(calls) > 25
    decks = {name for name, *_ in SYMBOLS}
    for name, arguments in calls:
        wanted = re.findall(r"\w+", arguments)
        right = any(set(wanted) <= set(parameters) for parameters in known.get(name, []))
        assert right or name in decks or name == "len", f"{name}({arguments})"


def test_the_example_in_units_is_right():
    nats, pixels, bits = re.search(r"(\d+) nats for (\d+) pixels are ([\d.]+) bits/dim", PAGE).groups()
    assert f"{metrics.bits_per_dim(float(nats), int(pixels)):.3f}" == bits


def test_a_symbol_without_its_meaning_is_refused(monkeypatch, tmp_path):
    (tmp_path / "lectures").mkdir()
    text = (LECTURES / "notation.typ").read_text(encoding="utf-8")
    monkeypatch.setattr(notation, "ROOT", tmp_path)
    (tmp_path / "lectures/notation.typ").write_text(
        text.replace(r" // $\pi$ | the distribution of the data", "")
    )
    with pytest.raises(ValueError, match=r"expected '#let name = .* got '#let pdata"):
        notation.symbols()


def test_the_page_is_current():
    assert page.notation_page(PAGE) == PAGE
