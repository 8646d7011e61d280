"""Write the tables of lectures/notation.typ for the notation page: each symbol, its meaning, its week."""

from __future__ import annotations

import re

from tools import course, places
from tools.notebooks import ROOT

SECTION = re.compile(r"^// (.+)\n((?:#let .+\n)+)", re.M)
SYMBOL = re.compile(r"^#let (\w+)(\([^)]*\))? = .+ // (.+?) \| (.+)$")


def symbols() -> dict[str, list[tuple[str, str, str, str]]]:
    """Return name, arguments, LaTeX and meaning of the symbols in each section of notation.typ.

    Raises:
        ValueError: a line there lacks its LaTeX or its meaning.
    """
    found = {}
    for title, lines in SECTION.findall((ROOT / "lectures/notation.typ").read_text(encoding="utf-8")):
        found[title] = []
        for line in lines.splitlines():
            if not (symbol := SYMBOL.match(line)):
                raise ValueError(f"notation.typ: expected '#let name = ... // LaTeX | meaning', got {line!r}")
            found[title].append((symbol[1], symbol[2] or "", symbol[3], symbol[4]))
    return found


def weeks(name: str) -> list[int]:
    """Return the lectures that have a symbol of notation.typ in an equation, or in text after a `#`."""
    in_math, in_text = re.compile(rf"(?<![\w.]){name}(?![a-zA-Z0-9])"), re.compile(rf"#{name}\b")
    found = []
    for lecture in range(1, len(course.plan()["lecture"]) + 1):
        equations = re.sub(r"words\(.*?\]\)", "", " ".join(places.deck(lecture).split("$")[1::2]))
        if in_math.search(equations) or in_text.search(places.deck(lecture)):
            found.append(lecture)
    return found


def tables() -> str:
    """Return the Markdown tables of notation.typ, one for each section."""
    parts = []
    for title, listed in symbols().items():
        rows = [
            f"### {title}",
            "",
            "| symbol | meaning | from week | in the decks |",
            "| --- | --- | ---: | --- |",
        ]
        for name, arguments, latex, meaning in listed:
            rows.append(f"| {latex} | {meaning} | {weeks(name)[0]} | `{name}{arguments}` |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)
