"""Facts of the course that more than one place repeats: where it lives, what is taught when, the first cell.

Where it lives and where homeworks go stands in `[tool.dgm]` of pyproject.toml; lectures, homeworks, dates and
points in course.toml.
"""

from __future__ import annotations

import re
import tomllib
from datetime import date

from tools.notebooks import ROOT

# The first code cell of every notebook. It installs the package only on Colab, only once, and at a release:
# a later edit of the course never changes what a student's copy runs with. It asks for the address before pip
# does, because pip's versions say in different words that there is no network, or no such release.
SETUP_CELL = """\
# @title Set-up: run this cell first {{ display-mode: "form" }}
TAG = "{tag}"  # @param {{type: "string"}}
COURSE = f"https://github.com/{owner}/{repository}/archive/{{TAG}}.zip"
import importlib.util
import subprocess
import sys
import urllib.request

if importlib.util.find_spec("dgm_utils") is None:
    if "google.colab" not in sys.modules:
        raise RuntimeError(
            f"{{sys.executable}} does not have the course. In the course's top folder "
            "`make run` (Windows: `python -m tools.make run`) sets up .venv: choose its Python as the kernel."
        )
    if not (3, 11) <= sys.version_info < (3, 14):
        raise RuntimeError(
            f"This is Python {{sys.version.split()[0]}}, and the course needs 3.11 to 3.13. "
            "Choose another version: Runtime, Change runtime type."
        )
    try:
        urllib.request.urlopen(COURSE, timeout=30).close()
    except urllib.error.HTTPError as error:
        raise RuntimeError(
            f"{{COURSE}} answers {{error.code}}. 404 says that there is no release {{TAG}}: "
            'set TAG to "{branch}", the newest state, and run this cell again.'
        ) from None
    except OSError as error:
        raise RuntimeError(f"No network ({{error}}). Try again later.") from None
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", COURSE]
    subprocess.run(pip, check=True)
    importlib.invalidate_caches()
import dgm_utils\
"""
HAND_IN = re.compile(r"^Where to hand in: .*$", re.MULTILINE)


def home() -> dict[str, str]:
    """Read owner, repository, branch, tag and `hand_in` from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dgm"]


def plan() -> dict[str, list[dict]]:
    """Read `lecture` and `homework`, each a list in the order of their numbers, from course.toml."""
    return tomllib.loads((ROOT / "course.toml").read_text(encoding="utf-8"))


def setup_cell() -> str:
    """Return the source of every notebook's first code cell."""
    return SETUP_CELL.format(**home())


def with_hand_in(text: str) -> str:
    """Return a page or a cell with its line that says where to hand in renewed."""
    return HAND_IN.sub(lambda _: f"Where to hand in: {home()['hand_in']}.", text)


def spoken(day: date) -> str:
    """Return a date as the course page has always written it."""
    return f"{day:%B}, {day.day}"
