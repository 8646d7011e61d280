"""Colab's versions that decide whether the course works there, and what has moved since they were written.

`python -m tools.colab_list` compares them with the lists that Colab publishes, and needs nothing but Python.
Exit status: 0 the course's assumptions hold, 1 one moved (renew it below, then `make colab`), 2 the lists
cannot be read.
"""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Iterator

ALIKE = [  # checked 2026-11
    "torch==2.11.*",
    "torchvision==0.26.*",
    "scipy==1.16.3",
    "pillow==11.3.0",
    "ipython==7.34.0",
    "ipywidgets==7.7.1",
    "ipykernel==6.17.1",
    "traitlets==5.7.1",
    "jupyter_client==7.4.9",
    "pyzmq==26.2.1",
    "tornado==6.5.7",
    "matplotlib==3.10.0",
    "scikit-learn==1.6.1",
    "tqdm==4.67.*",
    "safetensors",
]
CURRENT = "3.13"
# By the Python of the runtime. 3.12 is that of 2026.07, which can still be chosen: its NumPy is older, and
# smaller differences are left out.
RUNTIMES = {CURRENT: ["numpy==2.1.3", *ALIKE], "3.12": ["numpy==2.0.2", *ALIKE]}
PUBLISHED = "https://raw.githubusercontent.com/googlecolab/backend-info/main"
# A line of `pip freeze`; torch may have come from an address.
PACKAGE = re.compile(r"^([\w.-]+)(?:==| @ \S*/[\w.]+-)(\d[\d.]*)", re.MULTILINE)


def published(address: str) -> dict[str, str]:
    """Read versions by name, Python's too, from `pip-freeze.txt` and `os-info.txt` below an address.

    Raises:
        OSError: one cannot be had.
        ValueError: one holds no versions.
    """
    texts = []
    for name in ("pip-freeze.txt", "os-info.txt"):
        with urllib.request.urlopen(f"{address}/{name}", timeout=60) as answer:
            texts.append(answer.read().decode("utf-8"))
    versions = {_plain(name): version for name, version in PACKAGE.findall(texts[0])}
    python = re.search(r"^Python (\d+\.\d+)", texts[1], re.MULTILINE)
    if not versions or not python:
        raise ValueError(f"no versions in the lists below {address}: did their form change?")
    return versions | {"python": python[1]}


def moved(theirs: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield name, our version and theirs where the first two numbers differ, or where they have none."""
    for pin in [f"python=={CURRENT}", *RUNTIMES[CURRENT]]:
        name, _, ours = pin.partition("==")
        version = theirs.get(_plain(name), "none")
        if version == "none" or (ours and _minor(ours) != _minor(version)):
            yield name, ours or "any", version


def _plain(name: str) -> str:
    """Return a package's name as the index compares it."""
    return name.lower().replace("_", "-")


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def main(arguments: list[str]) -> int:
    """Print a table of what moved below the given address, or Colab's; return the exit status."""
    address = arguments[0] if arguments else PUBLISHED
    try:
        rows = list(moved(published(address)))
    except (OSError, ValueError) as error:
        print(f"Colab's lists cannot be read: {error}", file=sys.stderr)
        return 2
    for name, ours, version in [("package", "ours", "Colab's"), *rows] if rows else ():
        print(f"{name:<16} {ours:<10} {version}")
    print("renew tools/colab_list.py, then make colab" if rows else "nothing that the course relies on moved")
    return int(bool(rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
