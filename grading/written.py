"""What a teacher sees of a written answer: its text, its pictures, and the texts that stand near it.

Pictures are the attachments of a cell and data URLs in its text, each replaced by a short word: a picture
never swallows the proof behind it. Only what a browser shows without running anything is passed on.
"""

import base64
import binascii
import re
from urllib.parse import unquote

from grading import marks
from grading.record import Answer
from tools.handed_in import Cell

PICTURE_LIMIT = 1_000_000  # bytes of a picture
PICTURES_LIMIT = 5  # of one answer
KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
# All patterns take a time linear in the text: strangers write it. Base64 may go on in further lines.
DATA = r"data:[\w.+-]{1,60}/[\w.+-]{1,60}[;,][^\s\"'<>()\\]*(?:\n[ \t]{0,9}[A-Za-z0-9+/=]{40,})*"
TARGET = re.compile(rf"(?P<data>{DATA})|attachment:(?P<name>[^\s\"'<>()]+)", re.IGNORECASE)
PICTURE = re.compile(
    rf"!\[(?P<alt>[^\[\]\n]{{0,200}})\]\([ \t]{{0,9}}<?(?:{DATA}|[^\s()<>]{{1,500}})>?"
    rf"(?:[ \t]{{1,9}}[\"'][^\"'\n]{{0,200}}[\"'])?[ \t]{{0,9}}\)|<img\b[^<>]*>|{DATA}",
    re.IGNORECASE,
)


def answer(student: str, question: str, cells: list[Cell], near: list[Cell]) -> Answer:
    """Return a written answer; where its own cells show nothing, the texts near it are the answer.

    The fingerprint is of everything, uncut: texts, attachments, what stands near.
    """
    shown, beside = [cell for cell in cells if cell.shows], near
    if not shown:
        shown, beside = near, []
    everything = "\0".join([_whole(shown), *(_whole([cell]) for cell in beside)])
    result = Answer("", marks.fingerprint(student, question, everything))
    result.text = "\n\n".join(_with_words(cell, result) for cell in shown).strip()
    result.near = [_with_words(cell, result) for cell in beside]
    return result


def _whole(cells: list[Cell]) -> str:
    """Return all that cells hold, their pictures included."""
    return "\n\n".join("\0".join([cell.words, *cell.attachments.values()]) for cell in cells).strip()


def _with_words(cell: Cell, result: Answer) -> str:
    """Return a cell's text with a word for each picture, and add the pictures to the result."""
    left = dict(cell.attachments)

    def word(picture: re.Match) -> str:
        target = TARGET.search(picture[0])
        name = unquote(target["name"] or "") if target else ""
        left.pop(name, None)
        url = cell.attachments.get(name) or (target and target["data"])
        if not url:  # such as a file or an address
            result.unshown += 1
            return picture[0]
        return " ".join([*(picture["alt"] or "").split(), _word(url, result)])

    text = PICTURE.sub(word, cell.words)
    return "\n\n".join([text, *(_word(url, result) for url in left.values())]).strip()


def _word(url: str, result: Answer) -> str:
    """Return the word that stands for a picture, and add it to the result's pictures if it can be shown."""
    checked = _checked(url) if len(result.pictures) < PICTURES_LIMIT else None
    if not checked:
        result.unshown += 1
        return "[picture: open the notebook]"
    result.pictures.append(checked)
    return f"[picture {len(result.pictures)}]"


def _checked(url: str) -> str | None:
    """Return a data URL with the kind that its bytes have, None for what is not shown."""
    head, _, data = url.partition(",")
    if not head.endswith(";base64") or len(data) > 2 * PICTURE_LIMIT:
        return None
    try:
        raw = base64.b64decode("".join(unquote(data).split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    kind = next((kind for magic, kind in KINDS.items() if raw.startswith(magic)), None)
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        kind = "webp"
    shown = kind and len(raw) <= PICTURE_LIMIT
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}" if shown else None
