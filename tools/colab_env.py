"""Build a replica of Colab's Python environment and run notebooks in it.

`python -m tools.colab_env [PATHS...]` is `make colab`. The replica holds the versions that decide whether
the course works there (`tools/colab_list.py`), and its package as the first cell installs it: without
dependencies. Papermill, which Colab does not have, stays outside and drives the replica's kernel.
$COLAB_RUNTIME=3.12 asks for the runtime of that Python, which Colab had before.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tools import colab_list, run_notebooks
from tools.notebooks import ROOT

KERNEL = "colab"


class ColabError(Exception):
    """The replica cannot be had here; the message says why."""


def runtime() -> str:
    """Return the Python of the runtime that $COLAB_RUNTIME asks for, by default Colab's current one.

    Raises:
        ColabError: it is none of those that are written down.
    """
    asked = os.environ.get("COLAB_RUNTIME") or colab_list.CURRENT
    if asked not in colab_list.RUNTIMES:
        raise ColabError(f"COLAB_RUNTIME={asked}: expected {' or '.join(colab_list.RUNTIMES)}")
    return asked


def find_python() -> str:
    """Return the first interpreter of the runtime's version that runs here.

    $COLAB_PYTHON, if set, is the only candidate; then what is on the path, what uv knows, what pyenv has.

    Raises:
        ColabError: there is none.
    """
    version = runtime()
    check = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in _candidates(version):
        try:  # a shim of pyenv is found on the path and still may not run
            if subprocess.run([candidate, "-c", check], capture_output=True, timeout=60).returncode == 0:
                return candidate
        except OSError:
            continue
    asked = os.environ.get("COLAB_PYTHON")
    raise ColabError(
        f"COLAB_PYTHON={asked} does not run or is not Python {version}"
        if asked
        else f"no Python {version} here; install one (uv python install {version}) or name it in COLAB_PYTHON"
    )


def _candidates(version: str) -> Iterator[str]:
    if asked := os.environ.get("COLAB_PYTHON"):
        yield asked
        return
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    if uv := shutil.which("uv"):
        yield subprocess.run([uv, "python", "find", version], capture_output=True, text=True).stdout.strip()
    yield from map(str, sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python"), reverse=True))


def build(folder: Path) -> Path:
    """Build the replica, or bring the course's package in it up to date; return its interpreter.

    Raises:
        ColabError: there is no interpreter of the version, or pip failed.
    """
    python, stamp, pins = folder / "bin" / "python", folder / "pins.json", colab_list.RUNTIMES[runtime()]
    if not stamp.exists() or json.loads(stamp.read_text(encoding="utf-8")) != pins:
        _call([find_python(), "-m", "venv", "--clear", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", *pins])
        stamp.write_text(json.dumps(pins), encoding="utf-8")
    _call([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(ROOT)])
    spec = folder / "share" / "jupyter" / "kernels" / KERNEL / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    command = [str(python.absolute()), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(
        json.dumps({"argv": command, "display_name": "Colab's replica", "language": "python"}),
        encoding="utf-8",
    )
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ColabError(f"{' '.join(command)}\n{done.stderr.strip() or done.stdout.strip()}")


def main(arguments: list[str] | None = None, folder: Path = ROOT / "build" / "colab-env") -> int:
    """Build the replica and run notebooks in it, with the runner's own options; return the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    command = ["--kernel", KERNEL, "--out", str(ROOT / "build" / "colab"), *given]
    run_notebooks.parse(command)  # what is wrong with them is said before gigabytes are installed
    try:
        build(folder)
    except ColabError as error:
        print(error, file=sys.stderr)
        return 3
    os.environ["JUPYTER_PATH"] = str((folder / "share" / "jupyter").absolute())
    return run_notebooks.main(command)


if __name__ == "__main__":
    sys.exit(main())
