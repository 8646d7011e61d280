"""Text that came from a student, made safe to read: on a terminal, on a page, in a spreadsheet."""

import re
import unicodedata

from tools.notebooks import ANSI

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
LONG, SHORT = 20_000, 1_000  # characters kept of a cell, and of a note or a message


def plain(text: object) -> str:
    """Return text without control and format characters, which could hide or reverse what is read."""
    cleaned = ANSI.sub("", str(text)).encode("utf-8", "replace").decode()
    if cleaned.isascii():  # which is most of it, and a hundred times faster
        return CONTROL.sub("", cleaned)
    return "".join(
        c for c in cleaned if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn")
    )


def one_line(text: object) -> str:
    """Return plain text in one line."""
    return " ".join(plain(text).split())


def bounded(text: str, limit: int = LONG) -> str:
    """Return plain text of a bearable length, in characters, and say so where it was cut."""
    if len(text) <= limit + 100:  # room for what says where a text was cut, which is not cut again
        return plain(text)
    return f"{plain(text[:limit])}\n[cut here: {len(text):,} characters]"


def spreadsheet_safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, nor for two cells where `;` separates them."""
    line = one_line(text).replace(";", ",")
    first = unicodedata.normalize("NFKC", line[:1])  # some take a full-width sign for the sign
    return f"'{line}" if first in ("=", "+", "-", "@", "|", "%") else line


def counted(number: float, noun: str) -> str:
    """Return a number with its noun, in the plural where it is one: `1 answer`, `0.5 points`."""
    return f"{number:g} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
