"""What other systems do differently, as far as it can be seen on this one: code pages, above all Windows'."""

import ast
import os
import subprocess
import sys

import pytest

from tools import make
from tools.notebooks import ROOT

SOURCES = [
    path for part in ("tools", "dgm_utils", "lectures") for path in sorted((ROOT / part).rglob("*.py"))
]
POSITION = {"open": 1, "read_text": 0, "write_text": 1}  # of the mode, or of the encoding


def without_encoding(source: str) -> list[int]:
    """Lines that read or write a text file and leave its encoding to the system."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in POSITION or (name == "open" and not isinstance(node.func, ast.Name)):
            continue
        more = node.args[POSITION[name] :]
        binary = name == "open" and bool(more) and "b" in ast.literal_eval(more[0])
        named = "encoding" in {keyword.arg for keyword in node.keywords} or (name != "open" and more)
        if not binary and not named:
            lines.append(node.lineno)
    return lines


def test_every_text_file_is_opened_with_its_encoding():
    found = {path.name: without_encoding(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert len(found) > 20 and not {name: lines for name, lines in found.items() if lines}


def test_a_missing_encoding_is_seen():
    bad = 'open(p)\nopen(p, "w")\np.read_text()\np.write_text("x")\n'
    good = 'open(p, "ab")\nopen(p, encoding="utf-8")\np.read_text("utf-8")\nwebbrowser.open(p)\n'
    assert without_encoding(bad + good) == [1, 2, 3, 4]


@pytest.fixture
def code_page():
    """The environment of a program whose output goes to a pipe on a western Windows, run from here."""
    return os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}


def test_a_letter_that_the_code_page_lacks_ends_no_tool(code_page):
    program = [sys.executable, "-c", "import tools; print('π ≥ 3, é')"]
    done = subprocess.run(program, env=code_page, capture_output=True)
    assert (done.returncode, done.stdout.strip()) == (0, rb"\u03c0 \u2265 3, " + "é".encode("cp1252"))


def test_what_make_starts_takes_text_for_utf_8():
    assert make.call(sys.executable, "-c", "import sys; sys.exit(not sys.flags.utf8_mode)") == 0
