"""Run a homework's visible checks where the student works, and print a table of the tasks.

`python -m tools.check homeworks/homework1/hw1.ipynb` needs neither hidden checks nor a sandbox: it is the
student's own code on the student's own machine. It reads the file and finds the answers as the grader does.
Exit status: 0 every task passes, 1 one does not, 2 the file is not a homework.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.handed_in import Cell, Found, find, read
from tools.notebooks import ANSI, ROOT, STUDENT_VERSION, NotebookError

if TYPE_CHECKING:
    from nbformat import NotebookNode


@dataclass
class Task:
    """One task: its points, what became of its answers, and what its visible checks said."""

    points: float = 0.0
    answers: list[str] = field(default_factory=list)  # answered, blank or missing
    manual: bool = False
    checks: int = 0
    message: str = ""

    @property
    def state(self) -> str:
        """One word for the table."""
        if self.answers and "answered" not in self.answers:
            return "blank" if "blank" in self.answers else "missing"
        if self.message:
            return "wrong"
        return "passed" if self.checks else "written" if self.manual else "no visible check"


def check(path: Path, *, blank: Path | None = None, cell_seconds: float = 600.0) -> bool:
    """Run a notebook, print one line for each task and return whether every visible check passed.

    `blank` is the student version with which the notebook began, by default that of this course which fits
    best. Errors in cells that are no checks are printed too.

    Raises:
        NotebookError: the file is not a notebook or has no tasks.
    """
    cells = read(path)
    found = [find(read(one), cells) for one in ([blank] if blank else blanks())]
    best = max(found, key=lambda one: len({*one.stands_for}), default=None)
    if best is None or not any(task_of(best.release[i]) for i in best.stands_for if i is not None):
        raise NotebookError(f"{path} has no tasks: is it a homework of this course?")
    cells = cells_to_run(best)
    ran = run([cell for cell, _ in cells], path.parent, cell_seconds)
    tasks = table(best, [(index, out) for (_, index), out in zip(cells, ran, strict=True)])
    width = max(len(name) for name in tasks)
    for name, task in tasks.items():
        points = f"{task.points:g} p" if task.points else ""
        message = task.message if task.state == "wrong" else ""
        print(f"{name:<{width}}  {points:>5}  {task.state:<16}  {message}".rstrip())
    for (cell, index), out in zip(cells, ran, strict=True):
        message = "" if index is not None and task_of(best.release[index]) else error_of(out)
        if message and not message.startswith("NotImplementedError"):
            print(f"cell {cell.number}: {message}", file=sys.stderr)
    for note in dict.fromkeys(best.notes):
        print(note, file=sys.stderr)
    done = sum(task.state in ("passed", "written", "no visible check") for task in tasks.values())
    print(f"{done} of {len(tasks)} tasks pass the visible checks; the hidden ones use other inputs")
    return done == len(tasks)


def blanks() -> list[Path]:
    """List the student versions as they were given out: copies lie beside those in which students work."""
    copies = sorted(ROOT.glob("homeworks/*/hw*.blank.json"))
    versions = [path for path in ROOT.glob("homeworks/*/hw*.ipynb") if STUDENT_VERSION.fullmatch(path.name)]
    return copies or sorted(versions)


def cells_to_run(found: Found) -> list[tuple[Cell, int | None]]:
    """Return the code cells in the student's order, each with the index of our cell for which it stands.

    Checks are always ours. Those that were deleted, and locked cells that they may need, come as soon as all
    that stood above them has run.
    """
    cells = []
    for place, (cell, index) in enumerate(zip(found.cells, found.stands_for, strict=True)):
        ours = cell if index is None else found.release[index]
        one = ours if is_check(ours) else cell
        kind = ours.kind if ours.solution else one.kind
        if kind == "code" and place not in found.left_out:
            cells.append((one, index))
    for i in sorted(set(range(len(found.release))) - set(found.stands_for)):
        if _is_needed(found.release[i]):
            above = [place for place, (_, index) in enumerate(cells, 1) if index is not None and index < i]
            cells.insert(max(above, default=0), (found.release[i], i))
    return cells


def _is_needed(ours: Cell) -> bool:
    """Tell whether a cell of ours is a check or may be needed by one, as no look at the answers is."""
    return is_check(ours) or (ours.locked and ours.kind == "code" and "raises-exception" not in ours.tags)


def run(cells: list[Cell], folder: Path, cell_seconds: float) -> list[NotebookNode]:
    """Run cells while they leave the kernel alive and return them as they ran; errors stay in the cells."""
    notebook = new_notebook(cells=[new_code_cell(cell.source) for cell in cells])
    client = NotebookClient(
        notebook,
        timeout=cell_seconds,
        kernel_name="python3",
        allow_errors=True,
        extra_arguments=["--IPKernelApp.log_level=40"],  # errors; it warns that it uses TCP
        resources={"metadata": {"path": str(folder or ".")}},
    )
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except (CellTimeoutError, DeadKernelError) as error:
                kind = "took too long" if isinstance(error, CellTimeoutError) else "ended the kernel"
                cell.outputs = [new_output("error", ename="Stopped", evalue=f"this cell {kind}")]
                break
    return notebook.cells


def table(found: Found, ran: list[tuple[int | None, NotebookNode]]) -> dict[str, Task]:
    """Return the tasks by name, from the answers that were found and the cells that were run."""
    tasks: dict[str, Task] = {}
    for index, ours in enumerate(found.release):
        if not (name := task_of(ours)):
            continue
        task = tasks.setdefault(name, Task())
        task.points += ours.points or 0
        if ours.solution:
            task.answers.append(found.state(index))
            task.manual |= ours.kind != "code"
        for cell in [cell for place, cell in ran if place == index and is_check(ours)]:
            task.checks += 1
            task.message = task.message or error_of(cell)
            if not task.message and cell.get("execution_count") is None:
                task.message = "not reached"
    return tasks


def is_check(ours: Cell) -> bool:
    """Tell whether a cell of ours is a visible check."""
    return ours.points is not None and not ours.solution


def task_of(ours: Cell) -> str | None:
    """Return the task of our answer or check, by its name (`q1`, `check_q1`, `q1_text`), else None."""
    name = ours.answer if ours.solution else ours.grade_id if is_check(ours) else None
    return name and name.removeprefix("check_").split("_")[0]


def error_of(cell: NotebookNode) -> str:
    """Return in one line the error that a cell ended with, an empty string if none."""
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            return " ".join(ANSI.sub("", f"{output.ename}: {output.evalue}").split())[:300]
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Check the notebook that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, help="such as homeworks/homework1/hw1.ipynb")
    words = "the student version it began with (default: that of this course which fits best)"
    parser.add_argument("--blank", type=Path, metavar="NOTEBOOK", help=words)
    options = parser.parse_args(arguments)
    try:
        return int(not check(options.notebook, blank=options.blank))
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
