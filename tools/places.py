"""Name places of the course, and link to them: a slide, a section of a seminar, a task of a homework.

A place is written `L3: The reparametrisation theorem`, `S3: 4. A VAE whose best ELBO we know` or `HW3: q1b`:
by the title of a slide, by a heading, by the name of a task. Numbers of slides and addresses are looked up:
a page that names places never goes stale. A title that is not there, or there twice, is an error.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import quote

from tools.notebooks import ROOT, read_notebook

PLACE = re.compile(r"(L|S|HW)(\d+): (.+)")
LINK = re.compile(r"\[(L|S|HW)(\d+)(?:, slide \d+)?: ((?:[^\]\\]|\\.)+)\]\([^)]*\)")
SLIDE = re.compile(r'^#slide\("(.+?)"', re.M)
BACKUP = '#section("Backup")'
NOTEBOOK = {"S": "seminars/seminar{0}/seminar{0}.ipynb", "HW": "homeworks/homework{0}/hw{0}.ipynb"}
POINTS = re.compile(r"(\w+) \([^)]*\)\.")  # `q1b (1 point, written).`


@functools.cache
def deck(lecture: int) -> str:
    """Read the source of a lecture's slides."""
    return (ROOT / f"lectures/lecture{lecture}/lecture{lecture}.typ").read_text(encoding="utf-8")


def slides(lecture: int) -> list[str]:
    """Return the titles of a lecture's slides in the order of their printed numbers, the first being 1."""
    return SLIDE.findall(deck(lecture))


def theorems(lecture: int) -> list[str]:
    """Return the titles of the slides that state a theorem and stand before the backup."""
    shown = deck(lecture).split(BACKUP)[0]
    starts = [match.start() for match in SLIDE.finditer(shown)]
    bodies = [shown[start:end] for start, end in zip(starts, [*starts[1:], len(shown)], strict=True)]
    return [SLIDE.match(body)[1] for body in bodies if "#theorem" in body]


@functools.cache
def headings(path: str) -> list[str]:
    """Return the headings below a notebook's title, with their `## `."""
    texts = [cell.source for cell in read_notebook(ROOT / path).cells if cell.cell_type == "markdown"]
    return [line for text in texts for line in re.findall(r"^##+ .+$", text, re.M)]


def anchor(heading: str) -> str:
    """Return the part after `#` of Jupyter's link to a heading, given without its `#`."""
    return quote(re.sub(r"[`*]", "", heading).replace(" ", "-"), safe="-.,:?")


def slug(heading: str) -> str:
    """Return the part after `#` of GitHub's link to a heading of a Markdown page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def link(place: str) -> str:
    """Return the Markdown link to a place, from a page of `docs`.

    Raises:
        ValueError: it is not written as a place, or not exactly one title is what it names.
    """
    match = PLACE.fullmatch(place)
    if not match:
        raise ValueError(f"{place!r} names no place: write 'L3: title', 'S3: heading' or 'HW3: q1b'")
    kind, number, name = match[1], int(match[2]), match[3]
    if kind == "L":
        slide = 1 + _only(place, name, slides(number))
        text = f"L{number}, slide {slide}: {name}"
        address = f"lectures/lecture{number}/lecture{number}-handout.pdf#page={slide + 1}"  # 1 is the title's
    else:
        path = NOTEBOOK[kind].format(number)
        found = [heading.lstrip("#").strip() for heading in headings(path)]
        if kind == "HW":  # a task is called by its first word
            name, names = re.split(r"\W", name)[0], [re.split(r"\W", heading)[0] for heading in found]
        heading = found[_only(place, name, found if kind == "S" else names)]
        text = f"{kind}{number}: " + (POINTS.sub(r"\1.", heading) if kind == "HW" else heading)
        address = f"{path}#{anchor(heading)}"
    return f"[{text}](../{address})".replace("|", r"\|")  # a table's cells are told apart by |


def _only(place: str, name: str, names: list[str]) -> int:
    """Return where the one name stands among names."""
    if names.count(name) != 1:
        raise ValueError(f"{place!r}: expected one {name!r}, there are {names.count(name)} among {names}")
    return names.index(name)


def renewed(text: str) -> str:
    """Return a page with every link to a place renewed."""
    return LINK.sub(lambda match: link(f"{match[1]}{match[2]}: {match[3]}".replace(r"\|", "|")), text)
