"""Show Markdown with formulas as HTML that reaches no network and runs nothing, whoever wrote it.

Formulas become MathML, which browsers draw by themselves. HTML in a text is shown as text, and so is all that
cannot be shown better: nothing that somebody wrote gets lost. What leaves here has passed an allowlist last.
"""

import functools
import html
import re
from typing import Any

import mistune
import nh3
from latex2mathml.converter import convert

from grading.text import bounded, plain

FORMULA_LIMIT = 2_000  # characters of a formula
FORMULAS_LIMIT = 300  # of a text; a millisecond each
DEPTH_LIMIT = 40  # braces inside braces; browsers and parsers go deeper, but no reader does
TEXT_LIMIT = 100_000  # characters of a text
LAID_OUT_LIMIT = 20_000  # of it that are laid out; the rest is shown as it is
PAGE_LIMIT = 300_000  # of its HTML, beyond which all of it is

MARKER = re.compile(r"^[ \t]*<!--\s*(?:@answer[ \t]+\w+|(?:BEGIN|END) SOLUTION)\s*-->[ \t]*\n?", re.MULTILINE)
FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*\w*[ \t]*$", re.MULTILINE)
# As Jupyter does it: formulas are taken out before anything else is read, but never out of code.
PIECES = re.compile(
    r"(?P<code>(?P<ticks>(?<!`)`{1,30}(?!`)).{1,8000}?(?<!`)(?P=ticks)(?!`))"
    r"|(?<!\\)\$\$(?P<block>.{1,2000}?)(?<!\\)\$\$"
    r"|(?P<environment>\\begin\{(?P<name>(?:align|equation|gather|multline)\w*\*?)\}.{1,2000}?\\end\{(?P=name)\})"
    r"|(?<!\\)\$(?P<inline>(?!\s)[^$]{1,2000}?(?<![\s\\]))\$(?!\d)",
    re.DOTALL,
)
PICTURE = re.compile(r"data:image/[^\s)\"'>]+")  # shown apart, if at all
HELD = re.compile("\ue000([0-9]+)\ue000")  # where a formula stood; `plain` leaves no such character in a text
TAG = re.compile(r"<[/!]?([^\s/>]*)")
BIG = re.compile(r"(\\[bB]igg?[lrm]?)\s*\\(lfloor|rfloor|lceil|rceil|langle|rangle|[lr]vert|[lr]Vert|\|)")
SIGNS = {"lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "langle": "⟨", "rangle": "⟩"}
SIGNS |= {
    "lvert": "|",
    "rvert": "|",
    "lVert": "‖",
    "rVert": "‖",
    "|": "‖",
}  # big ones that convert leaves out
DEFINES = re.compile(r"\\(?:(?:re)?newcommand|def|let)\b")  # a macro can grow without end

TEXT = [
    "p",
    "br",
    "ul",
    "ol",
    "li",
    "pre",
    "code",
    "em",
    "strong",
    "del",
    "blockquote",
    "hr",
    "h4",
    "h5",
    "h6",
]
TEXT += ["table", "thead", "tbody", "tr", "th", "td", "span"]
MATHML = [
    "math",
    "mrow",
    "mi",
    "mn",
    "mo",
    "ms",
    "mtext",
    "mspace",
    "msub",
    "msup",
    "msubsup",
    "munder",
    "mover",
]
MATHML += ["munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mpadded", "mphantom", "mstyle"]
MATHML += ["menclose", "mmultiscripts", "mprescripts"]  # no annotation, no mglyph, nothing with an address
ATTRIBUTES = {
    "span": {"class"},
    "code": {"class"},
    "ol": {"start"},
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "separator", "accent", "minsize", "maxsize", "movablelimits"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtd": {"columnalign"},
    "menclose": {"notation"},
}
VALUE = re.compile(
    r"[a-z-]{1,20}|[0-9]{1,6}|-?[0-3]?(?:\.[0-9]{1,6})?(?:em|px|ex)?"
)  # nothing that covers a page


def rendered(text: str) -> str:
    """Return HTML of a text in Markdown, cut to a bearable length."""
    text = PICTURE.sub("data:", MARKER.sub("", bounded(text, TEXT_LIMIT))).strip()
    beginning, rest = _parted(text)
    try:
        page = _with_formulas(beginning)
    except RecursionError:
        return _as_it_is(text)
    return page + (_as_it_is(rest) if rest else "") if len(page) <= PAGE_LIMIT else _as_it_is(text)


@functools.lru_cache(maxsize=10_000)
def formula(latex: str, display: str) -> str:
    """Return a formula as MathML, or as its LaTeX if it cannot be drawn; `display` is "block" or "inline"."""
    as_text = f'<code class="math">{html.escape(latex)}</code>'
    if len(latex) > FORMULA_LIMIT or DEFINES.search(latex) or _depth(latex) > DEPTH_LIMIT:
        return as_text
    try:
        drawn = convert(BIG.sub(lambda big: f"{big[1]}{SIGNS[big[2]]}", latex), display=display)
    except Exception:  # whatever it is, the reader sees what was written
        return as_text
    if "\\" in drawn or set(TAG.findall(drawn)) - set(MATHML):  # an unknown command, HTML in its text
        return as_text
    if plain(said := html.unescape(drawn)) != said:  # `\unicode{x202e}` would reverse what is read
        return as_text
    return drawn


def _parted(text: str) -> tuple[str, str]:
    """Return as many of a text's paragraphs, from the first, as are laid out, and the rest."""
    if len(text) <= LAID_OUT_LIMIT + 100:  # what says where a text was cut is not counted
        return text, ""
    end = max(text.rfind("\n\n", 0, LAID_OUT_LIMIT), 0)
    return text[:end], text[end:].strip()


def _with_formulas(text: str) -> str:
    held: list[str] = []

    def hold(piece: re.Match) -> str:
        if piece["code"] or len(held) >= FORMULAS_LIMIT:
            return piece[0]
        latex, block = piece["inline"], piece["block"] or piece["environment"]
        drawn = formula((latex or block).strip(), "block" if block else "inline")
        held.append(f'<span class="display">{drawn}</span>' if block else drawn)
        return f"\ue000{len(held) - 1}\ue000"

    source = PIECES.sub(hold, text)
    page = _markdown()(source)
    if _letters(FENCE.sub("", source)) != _letters(html.unescape(re.sub(r"<[^>]*>", "", page))):
        page = _as_it_is(source)  # such as a list too deep for the reader
    page = HELD.sub(lambda mark: held[int(mark[1])], page)
    return nh3.clean(
        page,
        tags={*TEXT, *MATHML},
        attributes=ATTRIBUTES,
        attribute_filter=lambda tag, name, value: value if VALUE.fullmatch(value) else None,
    )


@functools.cache
def _markdown() -> mistune.Markdown:
    reader = mistune.create_markdown(renderer=_Text(escape=True), plugins=["table", "strikethrough"])
    reader.block.rules.remove("ref_link")  # such a line would not be shown
    return reader


class _Text(mistune.HTMLRenderer):
    """Write HTML without addresses: links and pictures are words."""

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        """Put headings below those of the page."""
        return f"<h{min(level + 3, 6)}>{text}</h{min(level + 3, 6)}>\n"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Write a link's words and its address."""
        return text if text == html.escape(url) else f"{text} ({html.escape(url)})"

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Write a picture's words."""
        return f"[{text or 'picture'}: {html.escape(url)}]"

    def block_code(self, code: str, info: str | None = None) -> str:
        """Write code without the name of its language."""
        return f"<pre><code>{html.escape(code)}</code></pre>\n"


def _as_it_is(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text)) + text.count("\ue000")


def _depth(latex: str) -> int:
    depth = deepest = 0
    for step in re.findall(r"\\[{}]|[{}]|\\left\b|\\right\b|\\begin\b|\\end\b", latex):
        depth += {"{": 1, "\\left": 1, "\\begin": 1, "}": -1, "\\right": -1, "\\end": -1}.get(step, 0)
        deepest = max(deepest, depth)
    return deepest
