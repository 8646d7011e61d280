"""Run a homework's visible checks where the student works, and print a table of the tasks.

`python -m tools.check homeworks/homework1/hw1.ipynb` needs neither hidden checks nor a sandbox: it is the
student's own code on the student's own machine. Exit status: 0 every task passes, 1 one does not, 2 the file
is not a homework.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output

from tools.notebooks import ANSI, CODE_STUB, TEXT_STUB, NotebookError, read_notebook

CODE_BLANK = re.compile(r"\s+".join(map(re.escape, CODE_STUB.split("\n"))))


@dataclass
class Task:
    """One task: its points, whether something is still blank, and what its visible checks said."""

    points: float = 0.0
    blank: bool = False
    manual: bool = False
    checks: int = 0
    message: str = ""

    @property
    def state(self) -> str:
        """One word for the table."""
        if self.blank:
            return "blank"
        if self.message:
            return "wrong"
        return "passed" if self.checks else "written" if self.manual else "no visible check"


def check(path: Path, *, cell_seconds: float = 600.0) -> bool:
    """Run a notebook, print one line for each task and return whether every visible check passed.

    A task is named by its cells' grade ids: `q1`, `check_q1`, `q1_text`. Errors elsewhere are printed too.

    Raises:
        NotebookError: the file is not a notebook or has no tasks.
    """
    notebook = read_notebook(path)
    if not any(task_of(cell) for cell in notebook.cells):
        advice = "was its metadata lost? Copy your answers into a fresh student version"
        raise NotebookError(f"{path} has no tasks: {advice}")
    run(notebook, path.parent, cell_seconds)
    tasks = table(notebook)
    width = max(len(name) for name in tasks)
    for name, task in tasks.items():
        points = f"{task.points:g} p" if task.points else ""
        message = "" if task.blank else task.message
        print(f"{name:<{width}}  {points:>5}  {task.state:<16}  {message}".rstrip())
    for number, cell in enumerate(notebook.cells, start=1):
        message = "" if task_of(cell) else error_of(cell)
        if message and not message.startswith("NotImplementedError"):
            print(f"cell {number}: {message}", file=sys.stderr)
    done = sum(task.state in ("passed", "written", "no visible check") for task in tasks.values())
    print(f"{done} of {len(tasks)} tasks pass the visible checks; the hidden ones use other inputs")
    return done == len(tasks)


def run(notebook: NotebookNode, folder: Path, cell_seconds: float) -> None:
    """Run every cell whose predecessors left the kernel alive; errors stay in the cells."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
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
                return


def table(notebook: NotebookNode) -> dict[str, Task]:
    """Return the tasks of a notebook that was run, by name."""
    tasks: dict[str, Task] = {}
    for cell in notebook.cells:
        if not (name := task_of(cell)):
            continue
        task, nbgrader = tasks.setdefault(name, Task()), cell.metadata.nbgrader
        task.points += float(nbgrader.get("points", 0) or 0) if nbgrader.get("grade") else 0.0
        if nbgrader.get("solution"):
            task.blank |= bool(CODE_BLANK.search(cell.source)) or cell.source.strip() == TEXT_STUB
            task.manual |= cell.cell_type != "code"
        elif nbgrader.get("grade"):
            task.checks += 1
            task.message = task.message or error_of(cell)
            if not task.message and cell.cell_type == "code" and cell.get("execution_count") is None:
                task.message = "not reached"
    return tasks


def task_of(cell: NotebookNode) -> str | None:
    """Return the task of an answer or check cell, None for any other cell."""
    nbgrader = cell.metadata.get("nbgrader", {})
    if not (nbgrader.get("solution") or nbgrader.get("grade")):
        return None
    return str(nbgrader["grade_id"]).removeprefix("check_").split("_")[0]


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
    options = parser.parse_args(arguments)
    try:
        return int(not check(options.notebook))
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
