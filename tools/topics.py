"""Write the parts of docs/find-your-way.md: by week, by topic, by homework, and the map of the course.

What belongs to which topic stands in docs/topics.toml; titles, headings and numbers come from slides,
seminars and homeworks (see `tools.places`).
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable

from tools import course, places
from tools.notebooks import ROOT, read_notebook

KINDS = {"L": "Lecture", "S": "Seminar", "HW": "Homework"}
MAP = "### The map(?: of the course\n|: )"  # how the cells of seminar 11 begin that hold it


@functools.cache
def topics() -> dict[str, list[dict]]:
    """Read the topics of each part of the course, in the order in which they can be learnt."""
    return tomllib.loads((ROOT / "docs/topics.toml").read_text(encoding="utf-8"))


def _all() -> list[dict]:
    return [topic for part in topics().values() for topic in part]


def _topic_links(chosen: Iterable[dict]) -> str:
    return " · ".join(f"[{topic['topic']}](#{places.slug(topic['topic'])})" for topic in chosen)


def _links(chosen: Iterable[str]) -> str:
    return " · ".join(places.link(place) for place in chosen)


def _of_kind(topic: dict, kind: str) -> list[str]:
    return [place for place in topic["at"] if place.startswith(kind)]


def _week(topic: dict) -> int:
    """Return the number of the first lecture that a topic names: where it is taught."""
    return int(re.match(r"L(\d+)", topic["at"][0])[1])


def by_topic() -> str:
    """Return the places of every topic, and what to know before."""
    parts = []
    for part, listed in topics().items():
        parts.append(f"### {part}")
        for topic in listed:
            lines = [f"#### {topic['topic']}", ""]
            if "before" in topic:
                before = [other for other in _all() if other["topic"] in topic["before"]]
                lines.append(f"- Before: {_topic_links(before)}")
            lines += [
                f"- {name}: {_links(found)}"
                for kind, name in KINDS.items()
                if (found := _of_kind(topic, kind))
            ]
            parts.append("\n".join(lines))
    return "\n\n".join(parts)


def by_week() -> str:
    """Return what each lecture proves, its seminar's sections, its topics, the tasks that practise them."""
    parts = []
    for week, lecture in enumerate(course.plan()["lecture"], start=1):
        deck, path = f"../lectures/lecture{week}/lecture{week}", places.NOTEBOOK["S"].format(week)
        files = {"slides": f"{deck}.pdf", "handout": f"{deck}-handout.pdf", "seminar": f"../{path}"}
        sections = [heading[3:] for heading in places.headings(path) if re.match(r"## \d", heading)]
        taught = [topic for topic in _all() if _week(topic) == week]
        tasks = sorted({task for topic in taught for task in _of_kind(topic, "HW")})
        lines = [
            f"### Week {week}",
            "",
            f"{lecture['topics']}: " + " · ".join(f"[{name}]({file})" for name, file in files.items()),
            "",
            "- Proved",
            *(f"  - {places.link(f'L{week}: {title}')}" for title in places.theorems(week)),
            "- Seminar",
            *(f"  - {places.link(f'S{week}: {section}')}" for section in sections),
            "- Topics: " + _topic_links(taught),
        ]
        if tasks:
            lines.append("- Homework that practises it: " + _links(tasks))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def by_homework() -> str:
    """Return the topics that each task of the homeworks practises."""
    parts = []
    for number, homework in enumerate(course.plan()["homework"], start=1):
        path = places.NOTEBOOK["HW"].format(number)
        lines = [f"### Homework {number}: {homework['topic']}", "", "| task | topics |", "| --- | --- |"]
        for heading in places.headings(path):
            if task := re.match(r"### (q\w+)", heading):
                place = f"HW{number}: {task[1]}"
                practised = [topic for topic in _all() if place in topic["at"]]
                lines.append(f"| {places.link(place)} | {_topic_links(practised)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def course_map() -> str:
    """Return the tables of seminar 11's map of the course, the first without its heading."""
    cells = read_notebook(ROOT / places.NOTEBOOK["S"].format(11)).cells
    texts = [cell.source for cell in cells if re.match(MAP, cell.source)]
    return "\n\n".join(texts).partition("\n\n")[2]  # the page has the first heading
