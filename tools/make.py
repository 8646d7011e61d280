"""Set the course up, run it and test it, also where there is no make: `python -m tools.make run|test|lab`.

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
READY = VENV / ".ok"  # as old as the last set-up
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
    "check": CHECK,
    "test": TEST,
}


def main(arguments: list[str]) -> int:
    """Set up, then do what the first argument names; return the exit status of the step that failed."""
    if not arguments or arguments[0] not in COMMANDS:
        print(f"{__doc__}\nCommands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    command, *options = arguments
    set_up()
    if command == "test":
        shutil.rmtree(ROOT / COPIES, ignore_errors=True)
    steps = COMMANDS[command]
    for number, (line, environment) in enumerate(steps, start=1):
        more = options if number == len(steps) else []
        if status := call(str(PYTHON), "-m", *line.split(), *more, **environment):
            return status
    return 0


def set_up() -> None:
    """Make the environment, or renew it after its sources changed; end the program where that fails.

    $TORCH=cpu asks for the small build of torch first; $TORCH_PINS names other versions than the Makefile.
    """
    if READY.exists() and READY.stat().st_mtime >= max(path.stat().st_mtime for path in SOURCES):
        return
    if not (3, 11) <= sys.version_info < (3, 14):
        found = sys.version.split()[0]
        sys.exit(f"The course needs Python 3.11, 3.12 or 3.13, and this is {found}: call it with one of them")
    if not PYTHON.exists() and call(sys.executable, "-m", "venv", str(VENV)):
        shutil.rmtree(VENV, ignore_errors=True)
        advice = "on Debian and Ubuntu: apt install python3-venv"
        sys.exit(f"{sys.executable} cannot make a virtual environment ({advice})")
    if call(str(PYTHON), "-c", "import torch, torchvision", quiet=True):
        print("installing torch", flush=True)
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        facts = dict(re.findall(r"^(TORCH_PINS|CPU_INDEX) +:= (.*)$", makefile, re.MULTILINE))
        pins = os.environ.get("TORCH_PINS", facts["TORCH_PINS"]).split()
        small = os.environ.get("TORCH") == "cpu"
        if not small or install(*pins, "--index-url", facts["CPU_INDEX"], quiet=True):
            install(*pins) and sys.exit("torch could not be installed: see above")
    print("installing the course", flush=True)
    if install("-r", "requirements.lock") or install("--no-deps", "-e", "."):
        sys.exit("the course could not be installed: see above")
    READY.touch()


def install(*what: str, quiet: bool = False) -> int:
    """Install into the environment, by uv where there is one, and return the exit status."""
    pip = [str(PYTHON), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    uv = ["uv", "pip", "install", "-q", "--python", str(PYTHON)]
    return call(*(uv if shutil.which("uv") else pip), *what, quiet=quiet)


def call(*command: str, quiet: bool = False, **environment: str) -> int:
    """Run a command in the top folder and return its exit status; what to do about Ctrl-C is left to it."""
    output = subprocess.DEVNULL if quiet else None
    variables = {**os.environ, **environment}
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=output, stderr=output)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has sent it to the command as well
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
