"""What the tests of decks read from slides."""

import re

from tools.notebooks import ROOT


def number(text):
    """Return the number that a slide prints."""
    return float(text.replace("\N{MINUS SIGN}", "-").replace(",", ""))


def mean_and_error(values):
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()


def table_rows(lecture, title):
    """Return the cells of a slide's tables, as the deck has them, by the first cell of their row."""
    deck = (ROOT / f"lectures/{lecture}/{lecture}.typ").read_text(encoding="utf-8")
    slide = deck[deck.index(f'#slide("{title}"') :]
    slide = slide[: slide.index("\n#slide(", 1)]
    rows = {}
    for line in re.findall(r"^ +(\[.*\]),$", slide, flags=re.MULTILINE):
        name, *cells = re.findall(r"\[([^\[\]]*)\]", line)
        rows[name] = cells
    return rows
