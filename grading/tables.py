"""Read tables that people save from spreadsheets of any country, and say where one is not as expected."""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path

BOM = "\ufeff"  # Excel writes it, and reads UTF-8 by it
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


@dataclass
class Table:
    """Hold a table's columns and its rows with their line numbers, and how the file was written."""

    columns: list[str]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    bom: str = ""
    separator: str = ","


def read(path: Path, columns: list[str]) -> Table:
    """Return the table in a file in UTF-8, in which cells stand between commas, semicolons or tabs.

    Columns without a name that hold nothing are left out, and so are empty rows.

    Raises ValueError with file, line, what was expected and what came, unless it has all these `columns`.
    """
    text = _text(path)
    separator = max(SEPARATORS, key=re.split(r"[\r\n]", text)[0].count)
    (_, header), *lines = _lines(path, text.removeprefix(BOM), separator) or [(1, [])]
    names = [name.strip() for name in header]
    named = [name for name in names if name]
    if not set(columns) <= set(named) or len(set(named)) != len(named):
        expected = f"expected the columns {','.join(columns)}, separated by commas, semicolons or tabs"
        raise ValueError(f"{path}, line 1: {expected}, got {','.join(names)[:200]!r}")
    table = Table(named, bom=text[:1] if text.startswith(BOM) else "", separator=separator)
    for line, cells in lines:
        blank = [cell.strip() for name, cell in zip(names, cells, strict=False) if not name]
        beyond = [cell.strip() for cell in cells[len(names) :]]
        if len(cells) < len(named) or any(blank) or any(beyond):
            quote = {",": "a comma", ";": "a semicolon", "\t": "a tab"}[separator]
            expected = f"expected {len(named)} cells (quote {quote})"
            raise ValueError(f"{path}, line {line}: {expected}, got '{len(cells)}'")
        table.rows.append((line, {name: cell for name, cell in zip(names, cells, strict=False) if name}))
    return table


def require(path: Path, line: int, *rules: tuple[object, str, str]) -> None:
    """Raise ValueError for the first rule that fails: what has to be true, what was expected, what came."""
    for right, expected, got in rules:
        if not right:
            raise ValueError(f"{path}, line {line}: expected {expected}, got {got[:100]!r}")


def _text(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        got = f"got the byte {raw[error.start]:#x}: save it as 'CSV UTF-8'"
        raise ValueError(f"{path}, line {line}: expected UTF-8, {got}") from None


def _lines(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Return the lines that hold something, with their numbers."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    lines, start = [], 1
    try:
        for cells in reader:
            lines.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        expected = f"expected cells between {SEPARATORS[separator]}"
        raise ValueError(f"{path}, line {start}: {expected}, got {error}") from None
    return [(line, cells) for line, cells in lines if line == 1 or any(cell.strip() for cell in cells)]
