"""Set the course up, run it, test it without make: `python -m tools.make run|test|lab|site`.

It needs Python 3.11 to 3.13 and nothing else: whatever the command, the environment `.venv` is made first.
The Makefile calls this file for `.venv`, `check` and `test`. What follows a command goes to its last step, so
that `run --help` says what there is to choose.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
READY = VENV / ".ok"  # as old as the last set-up; holds the folder in which it was made
SOURCES = [ROOT / "pyproject.toml", ROOT / "requirements.lock"]

# Tests share the cores as processes, so each process, a kernel too, computes with one thread: two of two
# threads each on two cores would wait for each other most of the time.
PYTEST, ONE_THREAD = "pytest -n 2 --dist loadfile", {"OMP_NUM_THREADS": "1"}
COPIES = "build/nbval"
NBVAL = "-p tools.nbval_plugin --nbval-lax --nbval-cell-timeout 300 --nbval-sanitize-with tools/sanitize.cfg"

# The modules that a command runs, with their arguments, and variables of their environment.
CHECK = [
    ("ruff check -q", {}),
    ("ruff format -q --check", {}),
    ("tools.page --check", {}),
    ("tools.normalise --check", {}),
    ("tools.slides --check", {}),
    ("tools.sheet --check", {}),
]
TEST = [
    *CHECK,
    (f"{PYTEST} tests", ONE_THREAD),
    (f"tools.run_notebooks --prepare {COPIES}", {}),
    (f"{PYTEST} {NBVAL} {COPIES}", {**ONE_THREAD, "DGM_RESULTS": str(ROOT / COPIES / "results")}),
    (f"tools.results --compare {COPIES}/results results", {}),
]
COMMANDS = {
    "setup": [],
    "run": [("tools.run_notebooks", {})],
    "lab": [("tools.live", {})],
    "site": [("tools.site", {})],
    "check": CHECK,
    "test": TEST,
}


def main(arguments: list[str]) -> int:
    """Set up, then do what the first argument names; return the exit status of the step that failed."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"{__doc__}\nCommands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command, *options = arguments
    try:
        set_up()
        return run(command, options)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def run(command: str, options: list[str]) -> int:
    """Take the steps of a command; return the exit status of the one that failed, else 0."""
    if command == "test":
        shutil.rmtree(ROOT / COPIES, ignore_errors=True)
    steps = COMMANDS[command]
    for number, (line, environment) in enumerate(steps, start=1):
        more = options if number == len(steps) else []
        if status := call(str(PYTHON), "-m", *line.split(), *more, **environment):
            return status
    return 0


def is_set_up() -> bool:
    """Tell whether the environment was made in this folder, and since its sources changed last."""
    if not (READY.exists() and PYTHON.exists()):
        return False
    newest = max(path.stat().st_mtime for path in SOURCES)
    return READY.stat().st_mtime >= newest and READY.read_text(encoding="utf-8") == str(ROOT)


def set_up() -> None:
    """Make the environment, or renew it after its sources changed; end the program where that fails.

    $TORCH=cpu asks for the small build of torch first; $TORCH_PINS has other versions than the Makefile,
    or anything that pip takes.
    """
    if is_set_up():
        return
    if not (3, 11) <= sys.version_info < (3, 14):
        found = sys.version.split()[0]
        sys.exit(f"The course needs Python 3.11, 3.12 or 3.13, and this is {found}: call it with one of them")
    # One that was stopped half-way has a Python and no pip: making it again mends it and keeps what is there.
    whole = PYTHON.exists() and not call(str(PYTHON), "-m", "pip", "--version", quiet=True)
    if not whole and call(sys.executable, "-m", "venv", str(VENV)):
        failed(f"{sys.executable} could not make the environment {VENV}")
    if call(str(PYTHON), "-c", "import torch, torchvision", quiet=True):
        install_torch()
    print("installing the course's other packages: some minutes", flush=True)
    # What the lock has brought builds the course's own package: a moved folder needs no network.
    if install("-r", "requirements.lock") or install("--no-build-isolation", "--no-deps", "-e", "."):
        failed("the course could not be installed")
    READY.write_text(str(ROOT), encoding="utf-8")


def install_torch() -> None:
    """Install torch and torchvision; end the program where that fails."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    facts = dict(re.findall(r"^(TORCH_PINS|CPU_INDEX) +:= (.*)$", makefile, re.MULTILINE))
    pins = os.environ.get("TORCH_PINS", facts["TORCH_PINS"]).split()
    if os.environ.get("TORCH") == "cpu":
        print("installing the small build of PyTorch: some minutes", flush=True)
        if not install(*pins, "--index-url", facts["CPU_INDEX"], quiet=True):
            return
        print(f"{facts['CPU_INDEX']} does not have it for this machine, or cannot be reached", flush=True)
    print("installing the usual build of PyTorch, on Linux 3 GB: some minutes", flush=True)
    if install(*pins):
        failed("PyTorch could not be installed")


def failed(what: str) -> None:
    """End the program where the set-up cannot go on."""
    sys.exit(f"{what}: see above. Why, says: {Path(sys.executable).name} -m tools.doctor")


def install(*what: str, quiet: bool = False) -> int:
    """Install into the environment, by uv where there is one, and return the exit status."""
    pip = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    uv = ["uv", "pip", "install", "-q", "--python", str(PYTHON)]
    return call(*(uv if shutil.which("uv") else pip), *what, quiet=quiet)


def call(*command: str, quiet: bool = False, **environment: str) -> int:
    """Run a command in the top folder and return its exit status.

    What to do about Ctrl-C is left to the command: JupyterLab asks, pip ends.

    Raises:
        KeyboardInterrupt: the command ended by it.
    """
    output = subprocess.DEVNULL if quiet else None
    variables = {**os.environ, "PYTHONUTF8": "1", **environment}  # on Windows it is not the default
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    interrupted = False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:  # the terminal has sent it to the command as well
            interrupted = True
    if interrupted and status:
        raise KeyboardInterrupt
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
