"""Facts of the course that more than one place repeats: where it lives, what is taught when, the first cell.

Where it lives stands in `[tool.dgm]` of pyproject.toml; lectures, homeworks, dates and points in course.toml.
"""

from __future__ import annotations

import tomllib
from datetime import date

from tools.notebooks import ROOT

# The first code cell of every notebook. It installs the package only on Colab, only once, and at a release:
# a later edit of the course never changes what a student's copy runs with.
SETUP_CELL = """\
# @title Set-up: run this cell first {{ display-mode: "form" }}
import importlib.util
import subprocess
import sys

TAG = "{tag}"  # the release this notebook was made with
COURSE = f"git+https://github.com/{owner}/{repository}@{{TAG}}"
if "google.colab" in sys.modules and importlib.util.find_spec("dgm_utils") is None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", COURSE]
    if subprocess.run(install).returncode != 0:
        raise RuntimeError(
            f"pip could not install release {{TAG}} of the course. If that release is not published yet, "
            'change the line above to TAG = "{branch}" and run this cell again.'
        )
    importlib.invalidate_caches()
import dgm_utils  # on your own machine `make` has installed it\
"""


def home() -> dict[str, str]:
    """Read owner, repository, branch and tag from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dgm"]


def plan() -> dict[str, list[dict]]:
    """Read `lecture` and `homework`, each a list in the order of their numbers, from course.toml."""
    return tomllib.loads((ROOT / "course.toml").read_text(encoding="utf-8"))


def setup_cell() -> str:
    """Return the source of every notebook's first code cell."""
    return SETUP_CELL.format(**home())


def spoken(day: date) -> str:
    """Return a date as the course page has always written it."""
    return f"{day:%B}, {day.day}"
