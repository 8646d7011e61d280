"""Wrong solutions, each the right one with one change: what a homework's `mutants.py` is written with."""

import functools
from collections.abc import Callable
from pathlib import Path

from tools.notebooks import read_notebook


def answers_of(solution: Path) -> dict[str, str]:
    """Return the code answers of a solution notebook by name."""
    cells = [cell for cell in read_notebook(solution).cells if cell.cell_type == "code"]
    marked = [(cell.metadata.get("nbgrader", {}), cell.source) for cell in cells]
    return {nbgrader["grade_id"]: source for nbgrader, source in marked if nbgrader.get("solution")}


def changes_of(solution: Path) -> Callable[..., dict[str, str]]:
    """Return `mutant(question, right, wrong, why, **more)` for a solution notebook; `more` may hold a tag."""
    return functools.partial(_mutant, answers_of(solution))


def _mutant(
    answers: dict[str, str], question: str, right: str, wrong: str, why: str, **more: str
) -> dict[str, str]:
    """Return the answer of a question with one piece of it, which must occur once, replaced."""
    source = answers[question]
    if source.count(right) != 1:
        raise ValueError(f"{question}: expected {right!r} once, found it {source.count(right)} times")
    changed = source.replace(right, wrong)
    return {"question": question, "cell": question, "source": changed, "why": why} | more
