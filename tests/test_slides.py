"""The lecture decks: current, reproducible, accessible, nothing overflows, and their numbers are right."""

import importlib
import io
import itertools
import json
import re
import shutil
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lectures import drawing
from tools import slides

ROOT = Path(__file__).resolve().parent.parent
LECTURES = ROOT / "lectures"
DECKS = slides.decks()
each_deck = pytest.mark.parametrize("deck", DECKS, ids=lambda deck: deck.stem)


def figures_module(deck):
    """Import the figures.py beside a deck."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"lectures.{deck.stem}.figures")


def inflated(pdf: bytes) -> bytes:
    """Return a PDF with what its streams hold appended, so that its objects can be searched."""
    parts = [pdf]
    for stream in re.finditer(rb"stream\r?\n", pdf):
        try:
            parts.append(zlib.decompressobj().decompress(pdf[stream.end() :]))
        except zlib.error:
            continue  # not compressed: a font, or the XMP metadata
    return b"\n".join(parts)


def missing_glyphs(pdf: bytes) -> int:
    """Count the characters that are printed as the box for "the font has no such glyph", number 0."""
    string = rb"\(((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*)\)"
    letters = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}

    def unescaped(escape: re.Match) -> bytes:
        return bytes([int(escape[1], 8)]) if escape[1].isdigit() else letters.get(escape[1], escape[1])

    missing = 0
    for block in re.finditer(rb" 0 Tr/f.*?\nET\n", inflated(pdf), re.S):
        for text in re.findall(string, block[0], re.S):
            glyphs = np.frombuffer(re.sub(rb"\\([0-7]{1,3}|.)", unescaped, text, flags=re.S), dtype=">u2")
            missing += int((glyphs == 0).sum())
    return missing


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", inflated(pdf)))


# --- The committed files ---------------------------------------------------------------------------------


def test_there_is_a_deck():
    assert [deck.stem for deck in DECKS][:1] == ["lecture1"]


@each_deck
def test_committed_pdfs_are_current_and_nothing_sticks_out(deck):
    assert slides.problems(deck) == []


@each_deck
def test_the_same_bytes_in_another_place(deck, tmp_path, monkeypatch):
    shutil.copytree(LECTURES, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("*.pdf"))
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "elsewhere" / deck.stem / deck.name
    assert slides.compile_deck(copy) == deck.with_suffix(".pdf").read_bytes()


@each_deck
def test_as_many_slides_as_a_lecture_holds(deck):
    handout = deck.with_name(f"{deck.stem}-handout.pdf").read_bytes()
    presented = deck.with_suffix(".pdf").read_bytes()
    in_class, *_ = deck.read_text(encoding="utf-8").split('#section("Backup")')
    assert 30 <= in_class.count("#slide(") <= 40
    assert pages(presented) > pages(handout), "no slide is revealed in steps"


@each_deck
def test_every_step_reveals_something(deck):
    shown = slides.compile_deck(deck, "slides", format="png", ppi=36)
    same = [page for page, (before, after) in enumerate(itertools.pairwise(shown), 2) if before == after]
    assert same == [], "these pages repeat the page before: lower steps: or uncover something"


@each_deck
@pytest.mark.parametrize("name", ["{}.pdf", "{}-handout.pdf"])
def test_pdf_is_accessible_and_undated(deck, name):
    pdf = inflated(deck.with_name(name.format(deck.stem)).read_bytes())
    assert b"/StructTreeRoot" in pdf and b"/Marked true" in pdf
    assert b"/Lang(en-GB)" in pdf
    number = re.search("[0-9]+", deck.stem)[0]
    assert f"/Title(Deep Generative Models. Lecture {number}: ".encode() in pdf
    assert b"/CreationDate" not in pdf and b"/ModDate" not in pdf and b"CreateDate" not in pdf
    figures = re.findall(rb"/S/Figure\b(?:(?!endobj).)*?(/Alt|endobj)", pdf, re.S)
    assert len(figures) >= 6 and set(figures) == {b"/Alt"}
    assert set(re.findall(rb"/FontName/[A-Z]{6}\+([A-Za-z0-9]+)", pdf)) <= {
        b"SourceSans3",
        b"SourceCodePro",
        b"NewCMMath",
    }
    assert b"/Subtype/Image" not in pdf.replace(b" ", b""), "a bitmap in the PDF: draw it as vectors"


@each_deck
def test_every_character_is_in_its_font(deck):
    assert missing_glyphs(deck.with_name(f"{deck.stem}-handout.pdf").read_bytes()) == 0


def test_a_character_without_a_glyph_is_found(build):
    assert missing_glyphs(build(r"text, $ sum_i x_i\/theta >= words(theta) $")) == 0
    assert missing_glyphs(build("漢 and 字")) == 2


@each_deck
def test_every_figure_is_drawn_by_code_and_used_once_with_a_description(deck):
    figures = drawing.figures(figures_module(deck))
    used = re.findall(r'#figure-file\("([a-z_0-9]+)"[^\n]*?alt: "([^"]+)"', deck.read_text(encoding="utf-8"))
    assert sorted(name for name, _ in used) == sorted(figures)
    assert {path.stem for path in (deck.parent / "figures").glob("*.svg")} == set(figures)
    assert len(figures) >= 6
    for name, alt in used:
        assert len(alt) > 60, f"{name}: say what the figure shows"
    for path in (deck.parent / "figures").iterdir():
        assert path.suffix in {".svg", ".json", ".npz"}
        assert b"<image" not in path.read_bytes(), f"{path.name} holds a bitmap"


@each_deck
def test_notes_fill_seventy_minutes_at_most(deck):
    """Ten of eighty are for questions; what stands behind the summary as backup takes none."""
    text = deck.read_text(encoding="utf-8")
    minutes = re.findall(r'#slide\("[^"]*"[^\n]*?notes: \[\s*(\d+) minute', text)
    assert len(minutes) == text.count("#slide("), "a slide has no notes that begin with its minutes"
    assert 60 <= sum(map(int, minutes)) <= 70
    plan = text[text.index("[minutes]") : text.index("#section", text.index("[minutes]"))]
    assert sum(map(int, re.findall(r"\[(\d+)\],\n", plan))) == sum(map(int, minutes))


def locked(package: str) -> str:
    return re.search(rf"^{package}==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.M)[1]


@pytest.mark.slow
@each_deck
def test_figures_are_drawn_with_the_same_bytes(deck, tmp_path):
    for package in ("matplotlib", "numpy"):
        if version(package) != locked(package):
            pytest.skip(f"{package} {version(package)} is not the {locked(package)} that drew the figures")
    drawing.draw_deck(deck.stem, tmp_path)
    for path in sorted(tmp_path.iterdir()):
        assert path.read_bytes() == (deck.parent / "figures" / path.name).read_bytes(), (
            f"{path.name} is older than figures.py: run python -m tools.slides --figures {deck.stem}"
        )


def test_fonts_are_free_and_small():
    files = [path for path in (LECTURES / "fonts").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    for folder in {path.parent for path in files}:
        assert "SIL Open Font License" in (folder / "LICENSE.md").read_text(encoding="utf-8")


def test_an_unknown_deck_is_named():
    with pytest.raises(FileNotFoundError, match="no deck 'lecture99'; there is lecture1"):
        slides.decks(["lecture99"])


# --- The theme -------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path):
    """Return a function that compiles a deck of one slide with the given body."""
    for name in ("theme.typ", "spoken.typ", "references.typ", "notation.typ"):
        shutil.copy(LECTURES / name, tmp_path)
    shutil.copytree(LECTURES / "fonts", tmp_path / "fonts")
    (tmp_path / "lecture7").mkdir()

    def compile_slide(body, arguments="", edition="slides", **options):
        deck = tmp_path / "lecture7" / "lecture7.typ"
        deck.write_text(
            '#import "../theme.typ": *\n#import "../notation.typ": *\n'
            '#show: deck.with(title: "Course", subtitle: "Lecture 7")\n#section("Part")\n'
            f'#slide("The slide"{arguments})[{body}]\n#references-slide\n',
            encoding="utf-8",
        )
        return slides.compile_deck(deck, edition, **options)

    compile_slide.deck = tmp_path / "lecture7" / "lecture7.typ"
    return compile_slide


def sum_of(terms: int) -> str:
    return "$ " + " + ".join(f"a_({i} {i + 1})" for i in range(10, 10 + terms)) + " $"


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("#lorem(200)", r"slide 'The slide': the content needs \d+ pt of height and has \d+ pt"),
        (
            "#image(bytes(\"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>\"))",
            "no alternative text",
        ),
        (sum_of(30), r"slide 'The slide': an equation is \d+ pt wide in 754 pt"),
        ("#uncover(2)[later]", "slide 'The slide': step 2 is uncovered, but steps: is 1"),
        ('#cited("nobody2020")', "unknown reference 'nobody2020'"),
        ("$KL(pdata, unknownsymbol)$", "unknown variable: unknownsymbol"),
        ('#text(font: "Comic Sans MS")[x]', "unknown font family: comic sans ms"),
    ],
)
def test_what_does_not_fit_stops_the_build_and_names_the_slide(build, body, complaint):
    with pytest.raises(slides.SlideError) as error:
        build(body)
    assert re.search(complaint, str(error.value)), error.value


def test_a_draft_names_in_red_what_does_not_fit(build):
    fitting, overflowing = (
        build(body, edition="draft", format="png", ppi=36)[1] for body in ("#lorem(9)", "#lorem(200)")
    )
    assert red_pixels(fitting) == 0 < red_pixels(overflowing)


def red_pixels(page):
    colour = np.asarray(Image.open(io.BytesIO(page)).convert("RGB")).astype(int)
    return ((colour[..., 0] - colour[..., 1:].max(axis=-1)) > 100).sum()


def test_a_slightly_wide_equation_shrinks(build):
    widths = [terms for terms in range(8, 30) if not fails(build, sum_of(terms))]
    assert widths == list(range(8, widths[-1] + 1))
    longest = widths[-1]
    assert fails(build, sum_of(longest + 1))
    fits_unshrunk = [
        terms for terms in widths if not fails(build, f"#box(width: 100% * 0.85)[{sum_of(terms)}]")
    ]
    assert len(fits_unshrunk) < len(widths)


def fails(build, body):
    try:
        build(body, edition="handout")
    except slides.SlideError:
        return True
    return False


def test_reveals_make_pages_and_the_handout_one(build):
    body = "first #uncover(2)[second] #uncover(3)[third]"
    assert pages(build(body, ", steps: 3")) == 1 + 3 + 1
    assert pages(build(body, ", steps: 3", edition="handout")) == 1 + 1 + 1
    assert pages(build(body, ", steps: 3, notes: [Ask.]", edition="notes")) == 1 + 2 + 2


def test_print_at_the_edge_is_found(build):
    build("calm")
    assert slides.margin_ink(build.deck) == []
    build("#place(dx: 730pt)[sticks out]")
    assert slides.margin_ink(build.deck) == [2]


def test_equations_are_read_aloud(build):
    pdf = inflated(build("$ sum_(i=1)^m x_i / sqrt(2) >= KL(pdata, p) $"))
    spoken = b"".join(bytes.fromhex(text.decode()) for text in re.findall(rb"/Alt\s*<FEFF([0-9A-F]+)>", pdf))
    text = spoken.decode("utf-16-be")
    assert "∑_(i=1)^m" in text and "root of 2" in text and "KL(" in text


# --- What the lectures claim -----------------------------------------------------------------------------


@each_deck
def test_numbers_on_slides_are_those_of_the_code(deck):
    written = json.loads((deck.parent / "figures" / "numbers.json").read_text())
    computed = figures_module(deck).numbers()
    assert written.keys() == computed.keys()
    for name, value in computed.items():
        assert written[name] == pytest.approx(value, abs=0.1 if "zlib" in name else 1e-9), name
    source = deck.read_text(encoding="utf-8")
    for name in written:
        assert f"numbers.{name}" in source, f"no slide prints {name}"
