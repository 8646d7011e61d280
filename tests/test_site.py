"""The site, built once: links, nothing from elsewhere, axe-core, narrow screens, nothing of the teachers'."""

import functools
import html
import http.server
import posixpath
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from importlib.util import find_spec
from urllib.parse import unquote, urlsplit

import pytest

from tests import browser
from tools import course, site
from tools.notebooks import ROOT, find_notebooks, read_notebook, slide_type

pytestmark = pytest.mark.slow  # the build takes 20 s of one core

if find_spec("sphinx_book_theme") is None:
    pytest.skip("no site is built: Sphinx is not here (make test sets it up)", allow_module_level=True)

KINDS = [  # a page of each kind, two seminars
    "index.html",
    "lectures/lecture1/lecture1.html",
    "seminars/seminar1/seminar1.html",
    "seminars/seminar11/seminar11.html",
    "homeworks/homework2/hw2.html",
    "results/index.html",
    "docs/notation.html",
    "docs/find-your-way.html",
]
PAGES = sorted({re.sub(r"\.(md|ipynb)$", ".html", page) for page in site.page_map().values()})
LOADS = {"script": "src", "img": "src", "iframe": "src", "audio": "src", "source": "src", "object": "data"}


class Page(HTMLParser):
    """A page's ids, what it links to, what it loads, and its words outside code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADS and given.get(LOADS[tag]):
            self.loads.append(given[LOADS[tag]])
        if tag == "link" and given.get("rel") not in (
            "canonical",
            "next",
            "prev",
            "search",
            "index",
            "author",
        ):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def built():
    """Build the site once, and give its pages by path."""
    subprocess.run([sys.executable, "-m", "tools.site"], cwd=ROOT, check=True)
    pages = {}
    for path in sorted(site.SITE.rglob("*.html")):
        if "_static" not in path.parts:
            pages[path.relative_to(site.SITE).as_posix()] = Page(path.read_text(encoding="utf-8"))
    return pages


def outside(url):
    return urlsplit(url).scheme in ("http", "https") or url.startswith("//")


# -------------------------------------------------------------------------------------------------- pages
def test_every_notebook_lecture_and_page_is_there(built):
    for path in find_notebooks():
        name = path.relative_to(ROOT).as_posix().replace(".ipynb", ".html")
        assert (name in built) is (".solution" not in name), name
    for number in range(1, len(course.plan()["lecture"]) + 1):
        assert f"lectures/lecture{number}/lecture{number}.html" in built
    assert {"index.html", "POLICY.html"} <= set(PAGES)
    assert set(PAGES) <= built.keys()


def test_every_link_and_anchor_on_the_site_leads_somewhere(built):
    count = 0
    for name, page in built.items():
        for link in page.links + page.loads:
            if outside(link) or urlsplit(link).scheme:
                continue
            path, _, anchor = unquote(link).partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path.partition("?")[0]))
            target = name if not path else target
            assert (site.SITE / target).is_file(), f"{name} links to {link}, which is not there"
            if anchor and target in built:
                assert anchor in built[target].ids, f"{name} links to {link}, and there is no such place"
            count += 1
    assert count > 1000


def test_links_to_the_repository_name_files_that_are_there(built):
    home = course.home()
    blob = "/{owner}/{repository}/blob/{branch}/".format(**home)
    files = {
        urlsplit(link).path.partition(blob)[2]
        for page in built.values()
        for link in page.links
        if blob in urlsplit(link).path
    }
    assert {"seminars/seminar1/seminar1.ipynb", "homeworks/homework5/hw5.ipynb"} <= files  # Colab's buttons
    for file in files:
        assert (ROOT / file).exists(), file


def test_no_page_loads_anything_from_elsewhere(built):
    for name, page in built.items():
        assert not [load for load in page.loads if outside(load)], name
    for style in site.SITE.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", style.read_text()), style


# --------------------------------------------------------------------------------------- what is published
def lines_of(text):
    return {line.strip() for line in text.split("\n") if len(line.strip()) > 30}


def cells_of(path, chosen=lambda cell: True):
    return "\n".join(cell.source for cell in read_notebook(path).cells if chosen(cell))


def is_for_teachers(cell):
    return slide_type(cell) == "notes" and "students" not in cell.metadata.get("tags", [])


def published(built):
    """Return the lines of every page, and of every file that can be downloaded."""
    lines = set()
    for name in built:
        text = (site.SITE / name).read_text(encoding="utf-8")
        lines |= lines_of(html.unescape(re.sub(r"<[^>]*>", "", text)))
    for path in site.SITE.glob("_sources/**/*.*"):
        lines |= lines_of(cells_of(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8"))
    return lines


def secret():
    """Return the lines that only instructors have; a students' edition has none."""
    public = set().union(
        *(lines_of(cells_of(path, lambda cell: not is_for_teachers(cell))) for path in public_notebooks())
    )
    lines = set()
    for path in find_notebooks():
        lines |= lines_of(cells_of(path) if ".solution" in path.name else cells_of(path, is_for_teachers))
    for name in ("hidden.py", "mutants.py", "accepted.py"):
        for path in ROOT.glob(f"homeworks/*/{name}"):
            lines |= lines_of(path.read_text(encoding="utf-8"))
    return lines - public


def public_notebooks():
    return [path for path in find_notebooks() if ".solution" not in path.name]


def test_nothing_of_the_instructors_is_published(built):
    ours, theirs = published(built), secret()
    assert len(ours) > 5000
    leaked = ours & theirs
    assert not leaked
    assert not [line for line in ours if "instructors -->" in line or "| when late |" in line]
    assert "docs/teachers.html" not in built
    if (ROOT / "tools/release.py").exists():  # the edition that has what must not leak
        assert len(theirs) > 5000


# ------------------------------------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")  # a process has one browser at a time, and other modules need theirs
def visit(built):
    """Return a function that opens a page with the network cut; it gives the page and what it asked for."""
    if reason := browser.missing():
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright  # noqa: F401

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site.SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    with browser.browser() as running:
        opened = running.new_page()
        opened.set_default_timeout(browser.PATIENCE * 1000)
        asked, answers = [], []
        opened.on("request", lambda request: asked.append(request.url))
        opened.on("response", lambda response: answers.append((response.status, response.url)))

        def go(path, width=1280, scheme="light"):
            asked.clear(), answers.clear()
            opened.set_viewport_size({"width": width, "height": 900})
            opened.emulate_media(color_scheme=scheme)
            opened.goto(f"{home}/{path}", wait_until="load")
            opened.evaluate("window.MathJax?.startup?.promise")
            local = (home, "data:", "blob:", "chrome")  # the browser's own reader of PDFs is chrome:
            assert not [url for url in asked if not url.startswith(local)], "the network was asked for"
            assert not [answer for answer in answers if answer[0] >= 400]
            return opened

        yield go
    server.shutdown()


# What repeats a thousand times is judged once, or axe takes minutes: one piece of code of each colour, five
# rows of a table, and no strokes of formulas, which have their text's colour. That a wide formula can be
# scrolled has its own test.
REPEATED = """() => {
    const seen = new Set();
    for (const piece of document.querySelectorAll("pre span")) {
        if (seen.has(piece.className)) piece.replaceWith(...piece.childNodes);
        seen.add(piece.className);
    }
    for (const one of document.querySelectorAll("mjx-container, tbody tr:nth-child(n + 6)")) one.remove();
}"""


# The theme makes what scrolls a stop of the Tab key 0.3 seconds after the window's size changed.
SETTLED = """scheme => document.documentElement.dataset.theme == scheme && !document.getAnimations().length &&
    [...document.querySelectorAll("pre, .pst-scrollable-table-container")].every(piece =>
        piece.tabIndex == 0 || piece.scrollWidth <= piece.clientWidth)"""


@pytest.mark.parametrize("path", KINDS)
def test_a_page_has_no_serious_finding_of_axe(visit, path):
    from axe_playwright_python.sync_playwright import Axe

    serious = []
    # Colours do not depend on the width, and what a width shows or hides is the same on every page.
    views = [(1280, "dark"), (360, "light")] + [(1280, "light"), (360, "dark")] * (path == "index.html")
    for width, scheme in views:
        opened = visit(path, width, scheme)
        opened.wait_for_function(SETTLED, arg=scheme)
        opened.evaluate(REPEATED)
        for finding in Axe().run(opened).response["violations"]:
            if finding["impact"] in ("serious", "critical"):
                serious.append((width, scheme, finding["id"], finding["nodes"][0]["html"][:200]))
    assert not serious


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone_and_its_formulas_are_typeset_also_where_they_are_folded(visit, path):
    opened = visit(path, width=360)
    text = opened.evaluate(
        """() => {
            for (const box of document.querySelectorAll("details")) box.open = true;
            const article = document.querySelector("article").cloneNode(true);
            for (const code of article.querySelectorAll("pre, code, script, mjx-container")) code.remove();
            return article.textContent;
        }"""
    )
    assert opened.evaluate("document.documentElement.scrollWidth") == 360
    assert not re.findall(r"\$|\\\(|\\\[|\\begin", text)
    assert opened.locator("mjx-merror, mjx-container [data-mjx-error]").count() == 0
    formulas = opened.locator("mjx-container").count()
    assert opened.locator("mjx-assistive-mml math").count() == formulas, "a screen reader would be silent"
    if "seminar" in path or "homework" in path:
        assert formulas > 30


def test_a_formula_that_scrolls_is_reached_by_the_keyboard(visit):
    opened = visit("seminars/seminar3/seminar3.html", width=320)
    boxes = opened.evaluate(
        """() => [...document.querySelectorAll("mjx-container[display]")]
            .filter(box => box.clientWidth).map(box => [box.scrollWidth > box.clientWidth, box.tabIndex])"""
    )
    assert len(boxes) > 20 and any(wide for wide, _ in boxes)
    assert all((index == 0) is wide for wide, index in boxes)


def test_code_that_is_folded_in_class_is_folded_and_says_what_it_is(visit):
    path = ROOT / "seminars/seminar11/seminar11.ipynb"
    cells = [
        cell for cell in read_notebook(path).cells if cell.cell_type == "code" and not is_for_teachers(cell)
    ]
    folded = [cell for cell in cells if cell.metadata.get("jupyter") or "cellView" in cell.metadata]
    opened = visit("seminars/seminar11/seminar11.html")
    boxes = opened.locator("details.hide")
    assert boxes.count() == len(folded) > 50
    assert opened.locator("details.hide[open]").count() == 0
    assert "Set-up" in boxes.first.locator("summary").inner_text()


def test_pictures_say_what_they_show(built):
    for path in public_notebooks():
        wanted = [
            kind["alt"]
            for cell in read_notebook(path).cells
            for output in cell.get("outputs", [])
            for kind in output.get("metadata", {}).values()
        ]
        text = (site.SITE / path.relative_to(ROOT)).with_suffix(".html").read_text(encoding="utf-8")
        shown = [html.unescape(alt) for alt in re.findall(r'<img [^>]*?alt="([^"]*)"', text)]
        assert [alt for alt in shown if alt in wanted] == wanted, path


def test_search_finds_and_leads_to_a_page(visit):
    opened = visit("search.html?q=reparametrization")
    opened.locator("#search-results li a").first.wait_for()
    titles = opened.locator("#search-results li > a").all_inner_texts()
    assert any(title.startswith("Seminar 3") for title in titles)


def test_the_keyboard_reaches_the_text_first_and_sees_where_it_is(visit):
    opened = visit("seminars/seminar1/seminar1.html")
    opened.keyboard.press("Tab")
    focused = opened.evaluate_handle("document.activeElement")
    assert "Skip to main content" in focused.inner_text()
    assert focused.is_visible()
    opened.keyboard.press("Enter")
    for _ in range(25):
        opened.keyboard.press("Tab")
        style = opened.evaluate(
            """() => {
                const here = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(here);
                return [here.outerHTML.slice(0, 200), outlineStyle, parseFloat(outlineWidth),
                        document.querySelector("main").contains(here)];
            }"""
        )
        assert style[1] != "none" and style[2] >= 2 and style[3], style


def test_a_lecture_shows_its_slides(visit):
    opened = visit("lectures/lecture1/lecture1.html")
    deck = opened.locator("object.deck")
    assert deck.get_attribute("title") == "Slides of lecture 1"
    file = deck.get_attribute("data").partition("#")[0]
    assert (site.SITE / "lectures/lecture1" / file).read_bytes()[:5] == b"%PDF-"
    assert deck.bounding_box()["height"] > 500
    opened.set_viewport_size({"width": 360, "height": 740})  # a phone shows no PDF inside a page
    assert not deck.is_visible()
    assert opened.get_by_role("link", name="Slides", exact=True).is_visible()


def test_a_slider_follows_the_keyboard(visit):
    opened = visit("seminars/seminar2/seminar2.html", width=360)
    figures = opened.locator("figure.slider")
    assert figures.count() == 5
    for figure in figures.all():
        control, picture, value = (figure.locator(name).first for name in ("input", "img", "output"))
        before = picture.get_attribute("src"), picture.get_attribute("alt"), value.inner_text()
        assert control.is_visible()
        control.press("ArrowLeft")
        after = picture.get_attribute("src"), picture.get_attribute("alt"), value.inner_text()
        assert all(old != new for old, new in zip(before, after, strict=True))


def test_paper_is_white_and_has_every_line_of_code_in_full(visit):
    opened = visit("seminars/seminar3/seminar3.html", width=700, scheme="dark")
    theme = "document.documentElement.dataset.theme"
    assert opened.evaluate(theme) == "dark"
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate(theme) == "light"
    lines = "[...document.querySelectorAll('pre')].filter(pre => pre.scrollWidth > pre.clientWidth).length"
    assert opened.evaluate(lines) == 0
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.evaluate(theme) == "dark"
    opened.emulate_media(media="screen")
    assert opened.evaluate(lines) > 0


def test_a_page_is_light_and_has_its_icons(visit):
    known = visit("index.html")
    opened = known.context.browser.new_page()  # which has no file of other pages yet
    opened.goto(known.url, wait_until="load")
    sizes = opened.evaluate("performance.getEntriesByType('resource').map(file => file.decodedBodySize)")
    assert 300_000 < sum(sizes) < 1_500_000  # bytes, before they are packed
    icon = "getComputedStyle(document.querySelector('.fa-bars'), '::before')"
    assert "Font Awesome" in opened.evaluate(f"{icon}.fontFamily")
    assert opened.evaluate(f"document.fonts.check('900 16px ' + {icon}.fontFamily)")
    opened.close()


def test_every_homework_stands_on_one_lecture_s_page(built):
    pages = [
        page for name, page in built.items() if re.fullmatch(r"lectures/lecture\d+/lecture\d+\.html", name)
    ]
    for number in range(1, len(course.plan()["homework"]) + 1):
        link = f"../../homeworks/homework{number}/hw{number}.html"
        # The sidebar of every page has one as well.
        assert sorted(page.links.count(link) for page in pages) == [1] * (len(pages) - 1) + [2]
