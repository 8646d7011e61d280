"""Find your way: every link leads to what it names, and nothing that is taught or asked is left out."""

import functools
import re
from urllib.parse import unquote

import pytest

from tests.test_slides import inflated
from tools import course, page, places, topics
from tools.notebooks import ROOT, read_notebook

PAGE = (ROOT / "docs/find-your-way.md").read_text(encoding="utf-8")
LISTED = [topic for part in topics.topics().values() for topic in part]
NAMED = {place for topic in LISTED for place in topic["at"]}
WEEKS = range(1, len(course.plan()["lecture"]) + 1)
STRING = rb"\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)"  # in a PDF brackets may stand in brackets
HOMEWORKS = range(1, len(course.plan()["homework"]) + 1)


def unescaped(title: bytes) -> str:
    """What a title in a PDF's outline says: bytes in brackets, or UTF-16 in hexadecimal digits."""
    if title.startswith(b"<"):
        return bytes.fromhex(title[1:-1].decode()).decode("utf-16")
    return re.sub(rb"\\(.)", rb"\1", title[1:-1]).decode("latin-1")


@functools.cache
def outline(lecture: int) -> list[str]:
    """The titles in the outline of a committed handout, page by page from the second; no sections."""
    pdf = inflated((ROOT / f"lectures/lecture{lecture}/lecture{lecture}-handout.pdf").read_bytes())
    entry = re.compile(rb"<</Parent \d+ 0 R([^<>]*)/Title(" + STRING + rb"|<[0-9A-F]+>)")
    titles = [unescaped(title) for links, title in entry.findall(pdf) if b"/First" not in links]
    assert len(titles) + 1 == len(re.findall(rb"/Type/Page\b", pdf)), "a page without a title of its own"
    return titles


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_a_link_to_a_slide_opens_the_page_with_its_title(path):
    text = path.read_text(encoding="utf-8")
    link = re.compile(
        r"\[L(\d+), slide (\d+): ([^\]]+)\]\(\.\./lectures/lecture(\d+)/lecture\d+-handout\.pdf#page=(\d+)\)"
    )
    found = link.findall(text)
    assert len(found) == text.count("handout.pdf#page=")
    for lecture, slide, title, folder, number in found:
        assert lecture == folder and int(number) == int(slide) + 1, title
        assert outline(int(lecture))[int(slide) - 1] == title.replace("\\|", "|"), f"{path.name}: {title}"


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda path: path.name)
def test_a_link_into_a_notebook_names_a_heading_of_it(path):
    for notebook, fragment in re.findall(r"\]\((\S+\.ipynb)#(\S+)\)", path.read_text(encoding="utf-8")):
        cells = read_notebook(path.parent / notebook).cells
        lines = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown").splitlines()
        ids = [re.sub("^#+ ", "", line).replace(" ", "-") for line in lines if line.startswith("#")]
        assert ids.count(unquote(fragment)) == 1, (
            f"{path.name}: {notebook} has no heading {unquote(fragment)}"
        )


def test_every_section_of_class_and_every_task_belongs_to_a_topic():
    for week in WEEKS:
        sections = [
            name for name in places.headings(places.NOTEBOOK["S"].format(week)) if re.match(r"## \d", name)
        ]
        wanted = {f"S{week}: {name[3:]}" for name in sections if not name.endswith("Results")}
        assert len(wanted) >= 4 and wanted <= NAMED, wanted - NAMED
    for number in HOMEWORKS:
        names = re.findall(
            r"^### (q\w+)", "\n".join(places.headings(places.NOTEBOOK["HW"].format(number))), re.M
        )
        wanted = {f"HW{number}: {name}" for name in names}
        assert len(wanted) >= 9 and wanted <= NAMED, wanted - NAMED


def test_topics_can_be_learnt_in_their_order():
    names = [topic["topic"] for topic in LISTED]
    for number, topic in enumerate(LISTED):
        assert set(topic.get("before", [])) <= set(names[:number]), topic["topic"]
        assert re.match(r"L\d", topic["at"][0]) and any(place[0] == "S" for place in topic["at"]), topic[
            "topic"
        ]


def test_a_task_practises_what_was_taught_before_its_deadline():
    plan = course.plan()
    for topic in LISTED:
        taught = plan["lecture"][int(re.match(r"L(\d+)", topic["at"][0])[1]) - 1]["date"]
        for number in re.findall(r"HW(\d+): ", " ".join(topic["at"])):
            assert taught < plan["homework"][int(number) - 1]["deadline"], (
                f"{topic['topic']}: homework {number}"
            )


def test_every_lecture_teaches_topics_and_proves_something():
    for week in WEEKS:
        assert sum(topic["at"][0].startswith(f"L{week}: ") for topic in LISTED) >= 4
        assert 5 <= len(places.theorems(week)) < len(places.slides(week)) / 2


def test_no_two_headings_of_a_page_have_one_address():
    for path in ROOT.glob("docs/*.md"):
        slugs = [
            places.slug(title) for title in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
        ]
        assert len(slugs) == len(set(slugs)), path.name


def test_a_slide_that_moved_is_noticed_and_its_number_renewed():
    link = places.link("L3: The reparametrisation theorem")
    stale = re.sub(r"slide \d+(.*)#page=\d+", r"slide 99\1#page=100", link)
    assert stale != link == places.renewed(stale) and link in PAGE
    assert page.find_your_way(PAGE.replace(link, stale)) == PAGE


def test_a_link_is_written_by_its_title_alone():
    assert (
        places.renewed("[HW3: q1b]()") == places.link("HW3: q1b") == places.renewed(places.link("HW3: q1b"))
    )
    bar = places.renewed(r"[S7: q(u\|x) as a flow]()")
    assert bar == r"[S7: q(u\|x) as a flow](../seminars/seminar7/seminar7.ipynb#q%28u%7Cx%29-as-a-flow)"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("lecture 3", "names no place: write 'L3: title'"),
        ("L3: The reparametrization theorem", "expected one 'The reparametrization theorem', there are 0"),
        ("S1: In code: the networks", "there are 0"),
        ("HW1: Look", "there are 3"),
    ],
)
def test_a_place_that_is_not_there_or_not_alone_is_an_error(place, message):
    with pytest.raises(ValueError, match=message):
        places.link(place)


def test_the_map_of_the_page_is_that_of_the_last_seminar():
    rows = re.findall(r"^\| \*\*(\w[\w, ]*)\*\* \|", topics.course_map(), re.M)
    assert rows[:3] == ["trained on", "exact", "a bound"] and rows[-2:] == ["GAN", "the judge"]
    assert topics.course_map() in PAGE
