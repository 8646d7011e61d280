"""Text that came from a student, made safe to read: on a terminal, on a page, in a spreadsheet."""

import unicodedata

from tools.notebooks import ANSI

LONG, SHORT = 20_000, 1_000  # characters kept of a cell or a written answer, and of a note or a message


def plain(text: object) -> str:
    """Return text without control and format characters, which could hide or reverse what is read."""
    cleaned = ANSI.sub("", str(text)).encode("utf-8", "replace").decode()
    return "".join(
        c for c in cleaned if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn")
    )


def one_line(text: object) -> str:
    """Return plain text in one line."""
    return " ".join(plain(text).split())


def bounded(text: str) -> str:
    """Return plain text of a bearable length, and say so where it was cut."""
    more = f"\n[cut here: {len(text):,} characters]" if len(text) > LONG else ""
    return plain(text[:LONG]) + more


def spreadsheet_safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula, nor for two cells where `;` separates them."""
    line = one_line(text).replace(";", ",")
    first = unicodedata.normalize("NFKC", line[:1])  # some take a full-width sign for the sign
    return f"'{line}" if first in ("=", "+", "-", "@", "|", "%") else line
