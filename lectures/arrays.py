"""Arrays that take long to make: part by part, stored beside a deck's figures, read by its `figures.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def make_arrays(parts: Mapping[str, Callable[[], Arrays]], path: Path, names: Sequence[str] = ()) -> None:
    """Make the named parts, or all, and write them beside those that are stored, after each part."""
    arrays: Arrays = {}
    if path.exists():
        with np.load(path) as stored:
            arrays = dict(stored)
    for name in names or parts:
        print(name, flush=True)
        arrays |= parts[name]()
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **arrays)


def read_arrays(path: Path) -> Arrays:
    """Return what is stored, in double precision."""
    with np.load(path) as stored:
        return {name: stored[name].astype(float) for name in stored}
