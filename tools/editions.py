"""What of a page or a notebook everybody reads: the students' edition and the site are made from it."""

import re

from nbformat import NotebookNode

from tools.notebooks import slide_type

# Parts of pages, of the Makefile and of a seminar's text that only instructors read.
INSTRUCTORS_PART = re.compile(
    r"^(?:#|<!--) begin instructors.*?^(?:#|<!--) end instructors[^\n]*(?:\n|\Z)", re.M | re.S
)
STUDENTS_NOTE = """\
**You are reading the students' edition.** It holds everything but the solutions and the instructors'
hidden checks. A solution appears here a week after its deadline.
"""


def public_text(text: str) -> str:
    """Return a page as students read it: without the instructors' parts, and naming their own edition."""
    return INSTRUCTORS_PART.sub(lambda part: STUDENTS_NOTE * ("You are reading" in part[0]), text)


def public_notebook(notebook: NotebookNode) -> NotebookNode:
    """Return a notebook as students read it: without the teacher's notes, but for those tagged `students`.

    Of the plan, the column that says what to cut when late goes as well.
    """
    kept = []
    for cell in notebook.cells:
        if slide_type(cell) == "notes" and "students" not in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            cell.source = INSTRUCTORS_PART.sub("", cell.source).strip()
            if "| when late |" in cell.source:
                cell.source = re.sub(r"(?m)^(\|.*\|).*\|$", r"\1", cell.source)
        kept.append(cell)
    return NotebookNode(notebook | {"cells": kept})
