"""Run notebooks from top to bottom and say what came of it.

`python -m tools.run_notebooks [PATHS...] [--profile quick|long|full] [--jobs N]` is `make run`. Each notebook
runs in a kernel and a folder of its own below `build/`, with PROFILE injected below its cell tagged
`parameters`; sources stay as they are unless `--store` asks to keep the outputs. `--prepare` injects and runs
nothing: pytest with nbval then executes the copies.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from tools import jupyter_bugs
from tools.normalise import normalise
from tools.notebooks import (
    ANSI,
    ROOT,
    STUDENT_VERSION,
    NotebookError,
    find_notebooks,
    read_notebook,
    text_of,
    write_atomically,
)

TIMEOUT = {"quick": 600, "long": 6 * 3600, "full": 3600}  # seconds a notebook, several times the aim
MORE_TIME = "; on a slow or busy machine: .venv/bin/python -m tools.run_notebooks NOTEBOOK --timeout 3600"
INJECTED = "injected-parameters"  # the tag that papermill gives its cell
SAMPLING = 0.2  # seconds between two looks at a kernel's memory


@dataclass(frozen=True)
class Job:
    """One notebook to run: plain values, so that any executor can send it to another process or machine."""

    notebook: Path
    folder: Path  # where the executed copy, its results and whatever it writes go; the kernel starts there
    profile: str
    timeout: float  # seconds for the whole notebook
    threads: int
    kernel: str = "python3"


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    notebook: Path
    seconds: float
    device: str
    slowest: tuple[int, float] | None = None  # number of the cell, seconds
    peak_bytes: int = 0  # resident memory of the kernel and its children together
    figures: tuple[int, int] = (0, 0)  # reached, among the results that have a target
    failure: str | None = None


def plan(
    notebooks: Iterable[Path],
    out: Path,
    *,
    profile: str = "quick",
    timeout: float | None = None,
    workers: int = 1,
    kernel: str = "python3",
) -> list[Job]:
    """Give every notebook a folder of its own below `out` and its share of the processor's cores."""
    limit, threads = timeout or TIMEOUT[profile], threads_each(workers)
    folders = [out / profile / shown(path).with_suffix("") for path in notebooks]
    return [
        Job(path, folder, profile, limit, threads, kernel)
        for path, folder in zip(notebooks, folders, strict=True)
    ]


def threads_each(workers: int) -> int:
    """Share the cores that this process may use between so many kernels."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def shown(path: Path) -> Path:
    """Return a path below the repository relative to it; of any other path its last two parts."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])


def prepared(path: Path, parameters: dict[str, object]) -> NotebookNode:
    """Return the notebook with the parameters injected below its cell tagged `parameters`, if it has one."""
    notebook = read_notebook(path)
    normalise(notebook)
    notebook = load_notebook_node(notebook)
    if any("parameters" in cell.metadata.tags for cell in notebook.cells):
        notebook = parameterize_notebook(notebook, parameters)
        next(cell for cell in notebook.cells if INJECTED in cell.metadata.tags)["id"] = INJECTED
    return notebook


def run_notebook(job: Job) -> Report:
    """Execute one notebook and report; whatever goes wrong is a part of the report.

    The executed copy is written below `job.folder`, beside `results/` and what the notebook itself writes.
    """
    started = time.monotonic()
    try:
        results = _clear(job.folder)
        notebook = prepared(job.notebook, {"PROFILE": job.profile})
        memory = _PeakMemory()
        environment = {
            "DGM_RESULTS": str(results),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(job.threads)),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # four lines about a debugger that nobody started
        }
        failure = _execute(notebook, job, started, environment, memory)
        slowest = _slowest_cell(notebook)
        normalise(notebook)
        write_atomically(job.folder / job.notebook.name, text_of(notebook))
    except Exception as error:  # one notebook's trouble never stops the others
        message = str(error) if isinstance(error, NotebookError) else f"{type(error).__name__}: {error}"
        return Report(job.notebook, time.monotonic() - started, _device(), failure=f"{message}\n")
    seconds, reached = time.monotonic() - started, _reached(results)
    return Report(job.notebook, seconds, _device(), slowest, memory.peak, reached, failure)


def _execute(
    notebook: NotebookNode, job: Job, started: float, environment: dict, memory: _PeakMemory
) -> str | None:
    """Execute a notebook in place and return the description of its failure, if any."""
    current = [0]  # index of the cell that runs: nbclient reports a time-out and a dead kernel without it
    manager = NotebookExecutionManager(notebook, progress_bar=_bar(job), autosave_cell_every=0)
    client = PapermillNotebookClient(
        manager,
        kernel_name=job.kernel,
        kernel_manager_class=jupyter_bugs.KernelManager,
        timeout_func=lambda cell: max(0.1, started + job.timeout - time.monotonic()),
        iopub_timeout=60,  # its own 4 seconds are too few for a large figure on a busy machine
        shutdown_kernel="immediate",
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors, not advice about transports
        on_cell_start=lambda cell, cell_index: current.append(cell_index),
    )
    jupyter_bugs.be_quiet_about_dead_kernels()
    manager.notebook_start()
    try:
        with memory.of(client):
            client.execute(env=_inherited() | environment, cwd=str(job.folder.resolve()))
    except CellTimeoutError:
        return _describe(
            notebook, current[-1], job, f"time-out, the notebook may take {job.timeout:g} s{MORE_TIME}"
        )
    except DeadKernelError:
        reason = "the kernel died (out of memory, or a crash in a library)"
        return _describe(notebook, current[-1], job, reason)
    finally:
        manager.cleanup_pbar()
    index = jupyter_bugs.unexpected_error(notebook)
    if index is None:
        return None
    error = next((o for o in notebook.cells[index].outputs if o.output_type == "error"), None)
    if error is None:
        return _describe(notebook, index, job, "failed without an error message")
    return _describe(notebook, index, job, f"{error.ename}: {error.evalue}", error.traceback)


def _inherited() -> dict[str, str]:
    """Return this process's environment without a choice of backend that would hide a notebook's figures."""
    return {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}


class _PeakMemory:
    """The largest resident memory of a client's kernel with its children, sampled by a thread."""

    def __init__(self) -> None:
        self.peak = 0  # bytes

    @contextlib.contextmanager
    def of(self, client: PapermillNotebookClient) -> Iterator[None]:
        """Watch the client's kernel inside a with-block."""
        done = threading.Event()
        thread = threading.Thread(target=self._watch, args=(client, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _watch(self, client: PapermillNotebookClient, done: threading.Event) -> None:
        while not done.wait(SAMPLING):
            with contextlib.suppress(psutil.Error, AttributeError, TypeError):  # no kernel yet, or no longer
                kernel = psutil.Process(client.km.provisioner.pid)
                tree = [kernel, *kernel.children(recursive=True)]
                self.peak = max(self.peak, sum(process.memory_info().rss for process in tree))


def _clear(folder: Path) -> Path:
    """Make a run's folder, without what an earlier run reported; return where results go."""
    results = folder.resolve() / "results"
    results.mkdir(parents=True, exist_ok=True)
    for path in results.glob("*.json"):
        path.unlink()
    return results


def _bar(job: Job) -> dict:
    """Ask papermill for a progress bar that shows on a terminal only."""
    return {"desc": str(shown(job.notebook)), "disable": None, "leave": False}


def _describe(notebook: NotebookNode, index: int, job: Job, error: str, traceback: Iterable[str] = ()) -> str:
    """Show a failed cell: where, what, source with line numbers, traceback."""
    cell = notebook.cells[index]
    number = 1 + sum(c.id != INJECTED for c in notebook.cells[:index])
    source = [f"{line:4}  {text}" for line, text in enumerate(cell.source.split("\n"), start=1)]
    lines = [f"{shown(job.notebook)}, cell {number} ({cell.id}): {error}", "", *source, "", *traceback]
    return ANSI.sub("", "\n".join(lines)).rstrip() + "\n"


def _slowest_cell(notebook: NotebookNode) -> tuple[int, float] | None:
    """Return number and seconds of the cell that took longest."""
    cells = [cell for cell in notebook.cells if cell.id != INJECTED]
    times = [(n, cell.metadata.papermill.get("duration") or 0.0) for n, cell in enumerate(cells, start=1)]
    return max(times, key=lambda pair: pair[1], default=None)


def _reached(results: Path) -> tuple[int, int]:
    """Count the figures that were reached, and those that have a target."""
    rows = [row for path in results.glob("*.json") for row in json.loads(path.read_text(encoding="utf-8"))]
    reached = [row["reached"] for row in rows if row.get("reached") is not None]
    return sum(map(bool, reached)), len(reached)


@functools.cache
def _device() -> str:
    """Name the device that notebooks choose here."""
    import torch  # two seconds, and not needed to say that a path is wrong

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def store(job: Job) -> None:
    """Put the outputs of an executed copy into its source, and its results into results/."""
    executed = {cell.id: cell for cell in read_notebook(job.folder / job.notebook.name).cells}
    source = read_notebook(job.notebook)
    normalise(source)
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = executed[cell.id].outputs, executed[cell.id].execution_count
    normalise(source, student=bool(STUDENT_VERSION.fullmatch(job.notebook.name)))
    write_atomically(job.notebook, text_of(source))
    for path in (job.folder / "results").glob("*.json"):
        write_atomically(ROOT / "results" / path.name, path.read_text(encoding="utf-8"))


def run_all(jobs: list[Job], executor: Executor, tell: Callable[[str], None] = print) -> list[Report]:
    """Run jobs on any executor, telling a line as each ends; return the reports in the order of the jobs."""
    futures = {executor.submit(run_notebook, job): job for job in jobs}
    reports = {}
    for done, future in enumerate(as_completed(futures), start=1):
        report = reports[futures[future]] = future.result()
        outcome = "FAILED" if report.failure else "ok"
        tell(f"[{done}/{len(jobs)}] {shown(report.notebook)}  {outcome}  {report.seconds:.1f} s")
    return [reports[job] for job in jobs]


def table(reports: Iterable[Report]) -> str:
    """Lay the reports out as a table, a line each."""
    head = ["notebook", "time", "slowest cell", "peak memory", "device", "figures reached", ""]
    rows = [head]
    for report in reports:
        rows.append(
            [
                str(shown(report.notebook)),
                f"{report.seconds:.1f} s",
                "cell {}: {:.1f} s".format(*report.slowest) if report.slowest else "-",
                f"{report.peak_bytes / 2**20:,.0f} MiB" if report.peak_bytes else "-",
                report.device,
                "{} of {}".format(*report.figures) if report.figures[1] else "-",
                "FAILED" if report.failure else "ok",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def main(arguments: list[str] | None = None) -> int:
    """Run or prepare notebooks; return 0 if all went well, 1 if one failed, 2 if there is none to run."""
    options = parse(arguments)
    try:
        notebooks = find_notebooks(options.paths)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2
    if not notebooks:
        print(f"no notebook found in {', '.join(options.paths) or ROOT}", file=sys.stderr)
        return 2
    if options.prepare:
        return prepare(notebooks, options.prepare, options.profile)
    workers = min(options.jobs, len(notebooks))
    limits = {"profile": options.profile, "timeout": options.timeout, "workers": workers}
    jobs = plan(notebooks, options.out, kernel=options.kernel, **limits)
    print(f"running {len(jobs)} notebooks, profile {options.profile}, {workers} at a time", flush=True)
    executor = ThreadPoolExecutor(workers)  # threads are enough: the work is in the kernels' own processes
    try:
        reports = run_all(jobs, executor)
    except KeyboardInterrupt:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        print("interrupted; sources and results are as they were", file=sys.stderr)
        return 130
    failures = [report.failure for report in reports if report.failure]
    if options.store:
        for job, report in zip(jobs, reports, strict=True):
            if not report.failure:
                store(job)
    print("\n" + "\n".join(f"{failure}\n" for failure in failures) + table(reports))
    return 1 if failures else 0


def prepare(notebooks: Iterable[Path], out: Path, profile: str) -> int:
    """Write copies with the profile injected, each in a folder of its own; return the exit status."""
    for path in notebooks:
        try:
            notebook = prepared(path, {"PROFILE": profile})
        except NotebookError as error:
            print(error, file=sys.stderr)
            return 1
        write_atomically(out / shown(path).with_suffix("") / path.name, text_of(notebook))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; --help and wrong options end the program."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.run_notebooks", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("paths", nargs="*", help="notebooks or folders (default: all of the course)")
    add("--profile", choices=sorted(TIMEOUT), default="quick")
    add("--jobs", type=_positive(int), default=1, help="notebooks at a time (default: 1)")
    add("--out", type=Path, default=ROOT / "build", help="folder for executed copies")
    add("--timeout", type=_positive(float), help="seconds a notebook may take")
    add("--kernel", default="python3", help="name of the kernel (default: python3)")
    add("--store", action="store_true", help="keep outputs in the sources, results in results/")
    add("--prepare", type=Path, metavar="DIR", help="inject the profile into copies, run nothing")
    return parser.parse_args(arguments)


def _positive(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
        return value

    parse.__name__ = kind.__name__  # argparse names it when the text is no number
    return parse


if __name__ == "__main__":
    sys.exit(main())
