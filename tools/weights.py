"""Train what ships with the package: run a notebook in its `long` profile and keep weights and figures.

`python -m tools.weights seminars/seminar2` runs it below `build/`, as `make run PROFILE=long` does. Then
what it saved replaces the notebook's files in `dgm_utils/weights/`, its figures go to `NOTEBOOK.long.json` in
`results/`, and sizes and checksums of all weights to `results/weights.json`. A killed run goes on from
the notebook's own checkpoints; after a finished one they are deleted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from dgm_utils.weights import FOLDER
from tools import run_notebooks
from tools.notebooks import ROOT, NotebookError, find_notebooks, write_atomically

LIMIT = 2_000_000  # bytes a file: every student installs them all
RESULTS = ROOT / "results"


def main(arguments: list[str] | None = None) -> int:
    """Make the weights of notebooks, one after another; return 0 if all are kept, 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.weights", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="notebooks or folders")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for checkpoints and copies")
    options = parser.parse_args(arguments)
    try:
        jobs = run_notebooks.plan(find_notebooks(options.paths), options.out, profile="long")
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    failures = [failure for job in jobs if (failure := make(job))]
    print("\n".join(failures), end="", file=sys.stderr)
    return int(bool(failures) or not jobs)


def make(job: run_notebooks.Job) -> str | None:
    """Run a notebook and keep what it made; return why not, if so."""
    made = job.folder.resolve() / "weights"
    shutil.rmtree(made, ignore_errors=True)  # of a run that was killed, perhaps under other names
    os.environ["DGM_WEIGHTS"] = str(made)  # kernels inherit it
    try:
        report = run_notebooks.run_notebook(job)
    finally:
        del os.environ["DGM_WEIGHTS"]
    print(run_notebooks.table([report]), flush=True)
    if report.failure:
        return report.failure
    files, figures = sorted(made.glob("*.safetensors")), job.folder / f"results/{job.notebook.stem}.long.json"
    sizes = {path.name: path.stat().st_size for path in files}
    if large := {name: f"{size:,} bytes" for name, size in sizes.items() if size > LIMIT}:
        return f"{job.notebook}: at most {LIMIT:,} bytes of weights a file are allowed, got {large}\n"
    if not figures.exists():
        return f"{job.notebook}: expected a call of results.table, which writes {figures.name}\n"
    for path in FOLDER.glob(f"{job.notebook.stem}-*.safetensors"):
        path.unlink()
    FOLDER.mkdir(exist_ok=True)
    for path in files:
        shutil.copyfile(path, FOLDER / path.name)
    write_atomically(RESULTS / figures.name, figures.read_text(encoding="utf-8"))
    write_atomically(RESULTS / "weights.json", json.dumps(record(), indent=1) + "\n")
    (job.folder / job.notebook.name).replace(f"{job.folder}.ipynb")  # what it showed is worth a look
    shutil.rmtree(job.folder)  # the checkpoints: the next run starts afresh
    return None


def record() -> dict[str, dict[str, int | str]]:
    """Return bytes and SHA-256 of every file of weights in the package, by name."""
    contents = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.safetensors"))}
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return {name: {"bytes": len(contents[name]), "sha256": sha256[name]} for name in contents}


if __name__ == "__main__":
    sys.exit(main())
