"""The pages that people read: nothing in them runs, nothing is lost, nothing is too long or too wide."""

import base64
import csv
import html
import json
import re
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from grading import channel, collect, exports, marks, report, similar, store, submission
from grading.markdown import ATTRIBUTES, MATHML, TEXT, formula, rendered
from grading.record import CellReport, Entry, Record, Result, record
from grading.student import written_solutions
from grading.submission import Cell
from grading.text import LONG, counted
from tests import browser
from tools.notebooks import ROOT, read_notebook

SOURCES = sorted(ROOT.glob("homeworks/*/*.solution.ipynb"))
PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG picture").decode()


def words(page):
    """What a reader sees of a piece of HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def letters(text):
    return sorted(filter(str.isalpha, text))


# Markdown and formulas


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.parent.name)
def test_every_formula_of_the_homeworks_is_drawn(source):
    cells = [cell.source for cell in read_notebook(source).cells if cell.cell_type == "markdown"]
    texts = [*cells, *written_solutions(source).values()]
    pages = [rendered(text) for text in texts if len(text) < LONG]
    assert not [page for page in pages if 'class="math"' in page or page.startswith("<pre>")]
    drawn = sum(page.count("<math") for page in pages)
    assert drawn >= sum(text.count("$") - 2 * text.count("$$") for text in texts) // 2


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![see](http://host/picture.png)",
    "<style>*{display:none}</style>",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{</mtext></math><img src=x onerror=alert(1)>}$",
    r"$\text{<annotation-xml encoding='text/html'><p onclick=x>a</p></annotation-xml>}$",
    r"$\text{<mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>}$",
    r"$\href{javascript:alert(1)}{x}$ $\style{position:fixed}{x}$ $\class{mark}{x}$",
    r"$\hspace{9999em} \color{white}{x} \rule{99em}{99em}$",
    '![$x$" onerror="alert(1)](a) [a]( "$x$" )',
    '<math><mi href="javascript:1">x</mi></math>',
    "`$x$` <a href='//host'>x</a> &lt;script&gt; <!-- hidden? -->",
    "```html\n<script>$x$</script>\n```",
    "\ue0000\ue000 \ue0001\ue000 $a$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_text_runs_or_reaches_out(text):
    page = rendered(text)
    for tag in re.findall(r"<[^>]*>", page):
        name, *_ = re.findall(r"[\w-]+", tag)
        assert name in {*TEXT, *MATHML}, page
        attributes = dict(re.findall(r'([\w:-]+)="([^"]*)"', tag))
        assert set(attributes) <= ATTRIBUTES.get(name, set()) and len(tag) < 100, page
        assert not re.search(r"[(:/]|\d{2}em", "".join(attributes.values())), page


@pytest.mark.parametrize(
    "text",
    [
        "if p<q and q>r, then <b>so</b> <!-- a remark -->",
        "[Jensen]: by concavity",
        "- " * 60 + "deep",
        "> " * 60 + "deep",
        "".join("  " * depth + "- point\n" for depth in range(60)),
        "| a | b |\n|---|---|\n| c | d | e | f |",
        "a & b &alpha; \\* \\alpha $5 and $6",
        "[words](http://address.org 'title') <http://other.org> ![alt](attachment:file.png)",
        "```python\nx = '$y$'\n```\n~~~\nend",
        "$\\unknown{x}$ and $$\\left( b$$ and \\begin{align} x",
        "$\\text{a<b>c</b>}$",
    ],
)
def test_nothing_that_was_written_is_lost(text):
    seen = letters(words(rendered(text)))
    wanted = letters(re.sub(r"^```\w+", "", text))
    assert all(seen.count(letter) >= wanted.count(letter) for letter in set(wanted))


def test_marker_of_an_answer_is_not_shown_and_a_remark_is():
    page = rendered("<!-- @answer q4 -->\n<!-- BEGIN SOLUTION -->\nBecause.\n<!-- my remark -->")
    assert "@answer" not in page and "SOLUTION" not in page and "Because." in page and "my remark" in page


@pytest.mark.parametrize(
    "text",
    [
        *("$" + "{" * 900 + "}" * 900 + "$", "$" + r"\sqrt" * 390 + "x$"),
        *("$" + r"\left(" * 150 + r"\right)" * 150 + "$", "$a" + "^{a" * 300 + "}" * 300 + "$"),
        *(r"$\newcommand{\a}{\b\b}\a$", r"$\def\a{\a}\a$", "$$" * 5_000, "$x$ " * 5_000),
        *(
            "[" * 100_000,
            "$x$ " * 25_000,
            "`" * 20_000,
            "[" * 20_000,
            "> " * 10_000,
            "`a``" * 5_000,
            r"\begin{align}" * 1_500,
        ),
    ],
)
def test_no_text_takes_long_or_grows_without_end(text):
    before = time.process_time()
    page = rendered(text)
    assert len(page) < 400_000 and time.process_time() - before < 10
    assert len(re.findall(r"<m\w+", page)) < 2_000 or "$x$" in text


def test_long_text_is_laid_out_as_far_as_it_goes():
    text = "\n\n".join(f"**Lemma {number}.** $x_{{{number}}}$ {'word ' * 100}" for number in range(60))
    page = rendered(text)
    assert "<strong>Lemma 0.</strong> <math" in page and "<strong>Lemma 30.</strong> <math" in page
    assert "**Lemma 59.** $x_{59}$" in page and letters(words(page)) == letters(text)
    assert rendered("word " * 5_000).startswith("<pre>")  # no paragraph ends in time


def test_formula_that_cannot_be_drawn_is_its_latex():
    assert formula(r"\unknown{a<b}", "inline") == r'<code class="math">\unknown{a&lt;b}</code>'
    for turned in (r"\unicode{x202e}", r"\text{&#x202e;}"):  # which would reverse what is read
        assert formula(turned, "inline").startswith("<code")
    assert "<mfrac" in formula(r"\frac{a}{b}", "block") and "⌊" in formula(r"\Big\lfloor x", "inline")


# Pages


def found(cells=(), status="manual", **texts):
    """A record with a coded question q1 and these written answers."""
    questions = {"q1": Entry(2, 2, "ok", "passed"), "q2": Entry(0, 1, "error", "it raised")}
    questions |= {name: Entry(0, 1, status, "to be marked") for name in texts}
    result = Result("anna", "homework9", 3 + len(texts), "bwrap", questions)
    written = {
        name: report.Answer(text, marks.fingerprint("anna", name, text)) for name, text in texts.items()
    }
    return Record(result, written, list(cells))


CELLS = [
    CellReport("imports", "ok", "import torch", ""),
    CellReport("q1_text", "ok", "def f(): pass", "", answer=True),
    CellReport("check_q1", "ok", "assert f() is None", "fine"),
    CellReport("q2", "error", "g()", "NameError: g", answer=True),
    CellReport("check_q2", "error", "g()", "NameError: g"),
]


def test_page_links_questions_folds_what_is_ours_and_says_errors_in_words():
    page = report.page(found(CELLS, q4="So."))
    assert 'name="viewport" content="width=device-width' in page
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in page
    links = re.findall(r'href="#([^"]+)"', page)
    assert links == ["cell-1", "cell-3", "written-q4"]
    assert all(page.count(f'id="{link}"') == 1 for link in links)
    assert page.count("<details") == 3 and page.count(" open>") == 1  # the check that failed
    assert '<h3 id="cell-1">q1_text' in page and '<pre class="output bad">NameError' in page
    assert page.count("✗ error") == 3 and "✓ ok" in page and "• manual" in page


@pytest.mark.parametrize(
    ("points", "words"), [(1, "1 point is not"), (2, "2 points are not"), (0.5, "0.5 points are")]
)
def test_one_is_singular(points, words):
    one = found(q4="So.")
    one.result.questions["q4"].max = points
    assert words in report.page(one)
    assert counted(1, "answer") == "1 answer" and counted(0, "answer") == "0 answers"


def test_comment_on_a_mark_leaves_no_empty_line_in_the_table():
    one = found(status="marked", q4="So.")
    one.result.questions["q4"].message = "Fine, *but* $x$."
    assert "<em>but</em>" in report.page(one) and "</p>\n</td>" not in report.page(one)


@pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
def test_equations_are_aligned(tmp_path):
    """Browsers ignore what MathML says of columns: the page's style says it again."""
    text = "\\begin{align} a &= b^{c d e f g h} \\\\ &\\le n \\end{align}"
    (tmp_path / "page.html").write_text(report.page(found(q4=text)), encoding="utf-8")
    where = (
        "[...document.querySelectorAll('mtd[columnalign=left] mo')].map(e => e.getBoundingClientRect().left)"
    )
    with browser.browser() as running:
        opened = running.new_page()
        opened.goto((tmp_path / "page.html").as_uri())
        signs = opened.evaluate(where)
    assert len(signs) == 2 and abs(signs[0] - signs[1]) < 3, signs


def test_pictures_are_shown_if_they_only_draw():
    one = found(q4="See.")
    answer = one.written["q4"]
    evil = 'data:image/png;base64,AA" onerror="alert(1)'
    answer.pictures = [PICTURE, "data:image/svg+xml;base64,AAAA", "http://host/a.png", evil]
    answer.unshown = 1
    page = report.page(one)
    assert re.findall(r"<img[^>]*>", page) == [f'<img src="{PICTURE}" alt="picture 1 of 1 in this answer">']
    assert "4 pictures not shown here: open the notebook" in page and "onerror" not in page


def test_texts_near_an_answer_are_shown_beside_it():
    one = found(q4="See below.")
    one.written["q4"].near = ["The *proof*: $x^2$"]
    page = report.page(one)
    assert "The <em>proof</em>" in page and "<msup>" in page and "may belong to it" in page


def test_copies_of_an_answer_fill_neither_record_nor_page():
    source = "# " + '"' * 19_000
    rebuilt = submission.Rebuilt(answers={"q1": [source]}, code=[source] * 951, labels=["q1"] * 951)
    outcome = channel.Outcome(cells=[{"status": "ok", "text": "x" * 5_000, "error": ""}] * 951)
    kept = record(found().result, rebuilt, outcome, {})
    assert sum(len(cell.source) + len(cell.output) for cell in kept.cells) <= 1_000_000
    assert f"{951 - len(kept.cells)} cells too many" in kept.result.notes[-1]
    page = report.page(kept)
    assert len(page.encode()) < report.PAGE_BYTES
    shown = page.count('<h3 id="cell-')
    assert 0 < shown < len(kept.cells) and f"full: {len(kept.cells) - shown} cells" in page


def test_page_for_marking_shows_every_answer_on_pages_that_open():
    text = "word $x_i^2$ " * 1_000
    shown = [
        report.Shown(f"s{i}", i + 2, Entry(0, 1, "manual", "to mark"), report.Answer(f"{i} {text}", f"f{i}"))
        for i in range(60)
    ]
    pages = report.answers_pages("q4", "Ours.\n\n**Rubric, 1 point.** All.", shown, "answers_q4.html")
    assert len(pages) > 1 and all(len(page.encode()) < report.PAGE_BYTES for page in pages)
    names = [name for page in pages for name in re.findall(r"<section><h3>(\w+)", page)]
    assert names == [one.name for one in shown]
    for number, page in enumerate(pages):
        assert "Rubric, 1 point" in page and "Ours." in page and "60 answers, of which 60 are not" in page
        others = {report.part_name("answers_q4.html", i) for i in range(len(pages)) if i != number}
        assert set(re.findall(r'href="([^"]+)"', page)) == others
    assert (
        "marks.csv, row 2: f0" in pages[0] and report.part_name("answers_q4.html", 1) == "answers_q4_2.html"
    )
    (one,) = report.answers_pages("q4", "Ours.", shown[:1], "answers_q4.html")
    assert "1 answer, of which 1 is not marked yet" in one and "Pages:" not in one


@pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))
def test_pages_fit_a_phone(tmp_path):
    long = "x" * 300
    cells = [CellReport("q1", "error", f"{long} = 1", long, answer=True)]
    wide = r"$$a = " + " + ".join(f"x_{{{i}}}" for i in range(60)) + "$$"
    one = found(cells, q4=f"{long}\n\n{wide}\n\n| {long} | b |\n|---|---|\n| c | d |\n")
    one.result.student, one.result.notes = long, [long]
    one.result.questions["q2"].message = long
    answer = report.Shown(long, 2, Entry(0.5, 1, "marked", f"good, {wide}"), one.written["q4"])
    (tmp_path / "page.html").write_text(report.page(one), encoding="utf-8")
    (tmp_path / "marking.html").write_text(report.answers_pages("q4", wide, [answer], "a.html")[0])
    with browser.browser() as running:
        for name in ("page", "marking"):
            for width in (360, 1280):
                opened = running.new_page(viewport={"width": width, "height": 700})
                opened.goto((tmp_path / f"{name}.html").as_uri())
                assert opened.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
                assert opened.evaluate("document.querySelector('math').getBoundingClientRect().height") > 10


# Other forms of a result


STATUSES = ["ok", "wrong", "error", "timeout", "blank", "missing", "manual", "marked"]


def of_all_statuses():
    questions = {
        f"q{i}": Entry(i % 2, 1, status, f"<{status}> & \ud800 \x01") for i, status in enumerate(STATUSES)
    }
    return Result("anna", "homework9", 8, "bwrap", questions, notes=["a <note>"])


def test_gradescope_reads_the_result():
    result = of_all_statuses()
    values = json.loads(exports.gradescope(result).encode())
    assert values["score"] == result.score == sum(test["score"] for test in values["tests"])
    assert "a <note>" in values["output"]
    states = {test["output"].split(":")[0]: test.get("status") for test in values["tests"]}
    assert states.pop("manual") is None and {states.pop("ok"), states.pop("marked")} == {"passed"}
    assert set(states.values()) == {"failed"} and len(states) == 5
    assert all({"name", "score", "max_score", "output"} <= set(test) for test in values["tests"])
    result.factor = 0.5
    assert json.loads(exports.gradescope(result))["score"] == result.score == 2


def test_junit_counts_what_it_holds():
    suite = ElementTree.fromstring(exports.junit(of_all_statuses()).encode())
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "8", "failures": "3", "errors": "2", "skipped": "1"
    }  # fmt: skip
    kinds = {case.get("name"): [part.tag for part in case] for case in suite.iter("testcase")}
    assert kinds == {
        "q0": [], "q1": ["failure"], "q2": ["error"], "q3": ["error"], "q4": ["failure"], "q5": ["failure"],
        "q6": ["skipped"], "q7": [],
    }  # fmt: skip
    assert suite.find("testcase[@name='q1']/failure").get("message").startswith("wrong: <wrong> &")


def test_forms_are_written_when_asked_for_and_leave_nothing_old(tmp_path):
    (tmp_path / "anna").mkdir()
    homework, records = SimpleNamespace(written=[], questions=[]), {"anna": found()}
    report.publish(homework, records, marks.Marks(), tmp_path, also=("gradescope", "junit"))
    assert {path.name for path in (tmp_path / "anna").iterdir()} >= set(store.MORE.values())
    report.publish(homework, records, marks.Marks(), tmp_path, also=("junit",))
    assert (tmp_path / "anna/junit.xml").exists() and not (tmp_path / "anna/gradescope.json").exists()
    report.publish(homework, records, marks.Marks(), tmp_path)
    assert sorted(path.name for path in (tmp_path / "anna").iterdir()) == ["feedback.html", "results.json"]


# What is alike


def homework_of(*cells):
    return SimpleNamespace(release=list(cells), written=[SimpleNamespace(id="q4")])


BLANK = Cell("code", "# @answer q1\ndef f(theta):\n    raise NotImplementedError", solution=True)
CODE = """# @answer q1
def f(theta):
    total, weights = 0.0, np.exp(theta - theta.max())
    for position, weight in enumerate(weights / weights.sum()):
        total += position * np.log(weight) if weight > 0.5 else -weight ** 2
    return total + np.tanh(theta[0]) - 3 * theta[-1]
"""
RENAMED = (
    CODE.replace("total", "s")
    .replace("weight", "w")
    .replace("theta", "x")
    .replace("    s", "    # s\n    s", 1)
)
RENAMED = RENAMED.replace("def f(x):\n", 'def f(x):\n    """Mine."""\n').replace(" + ", "  +  ")


def prints_of(source, weights=b"w"):
    rebuilt = submission.Rebuilt(code=["import this", source], labels=[None, "q1"])
    return similar.prints(homework_of(BLANK), rebuilt, collect.Files(weights={"w.safetensors": weights}))


def test_code_is_alike_without_names_comments_and_spaces():
    one = prints_of(CODE)["q1"]
    assert one == prints_of(RENAMED)["q1"]
    assert one not in (
        prints_of(CODE.replace("tanh", "sinh"))["q1"],
        prints_of(CODE.replace("3 *", "2 *"))["q1"],
    )
    assert "q1" not in prints_of(BLANK.source)
    assert "q1" not in prints_of("# @answer q1\ndef f(theta):\n    return theta.sum()")  # too short to tell
    assert "q1" not in prints_of("\x00(" * 9) and prints_of("x", b"a") != prints_of("x", b"b")


PROOF = (
    "the logarithm is concave and so by the inequality of Jensen the mean of the logarithm of the weights is "
    "at most the logarithm of their mean which is the evidence itself for every number of samples "
    "and $\\log K$ bounds the gap from above"
)
OTHER = "Something else, in words that nobody else has found or would have used here though they are many "
OTHER += "and say little about anything that was asked of their author in this task or in any other one."
TASK = "Show that the bound with K samples is never above the evidence and say where equality holds in it."


def test_table_lists_equal_files_answers_and_texts(tmp_path):
    texts = {
        "anna": PROOF,
        "boris": PROOF.upper() + "!",
        "clara": PROOF.replace("evidence itself", "evidence"),
    }
    texts |= {"dan": OTHER, "eve": "Short.", "fay": TASK * 2, "gus": TASK * 2 + " Yes."}
    records = {name: found(q4=text) for name, text in texts.items()}
    records = {"=dan": records.pop("dan"), **records}
    records["anna"].prints = {"q1": "x", "w.safetensors": "y"}
    records["=dan"].prints = {"q1": "x", "w.safetensors": "z"}
    records["eve"].prints = {"w.safetensors": "z"}
    homework = homework_of(BLANK, Cell("markdown", TASK))
    before = {name: record.result.score for name, record in records.items()}
    assert similar.write(tmp_path / "similar.csv", homework, records) == 4
    rows = list(csv.reader((tmp_path / "similar.csv").open(newline="")))
    assert rows[0] == ["what", "where", "likeness", "students"]
    assert rows[1] == ["code", "q1", "1", "'=dan | anna"] and rows[2][3] == "'=dan | eve"
    assert rows[3] == ["text", "q4", "1", "anna | boris"]
    assert rows[4][3] == "anna | clara" and 0.5 <= float(rows[4][2]) < 1
    assert before == {name: record.result.score for name, record in records.items()}


def test_five_hundred_are_compared_in_seconds(tmp_path):
    texts = [" ".join(f"word{(i * j) % 997}" for j in range(400)) for i in range(500)]
    records = {f"s{i}": found(q4=text) for i, text in enumerate(texts)}
    before = time.process_time()
    similar.write(tmp_path / "similar.csv", homework_of(), records)
    assert time.process_time() - before < 30
