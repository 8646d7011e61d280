"""What a homework is to the grader: its student version, its questions and the inputs drawn for them."""

import builtins
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np

from grading import submission
from grading.inside import MODULES
from grading.questions import Case, Limits, Question
from grading.student import homework_paths, written_solutions
from grading.submission import Cell


@dataclass(frozen=True)
class Homework:
    """A homework as the grader needs it; `digest` changes when anything does that a result depends on."""

    name: str
    notebook: str
    release: list[Cell]
    questions: list[Question]
    cases: dict[str, list[Case]]
    limits: Limits
    digest: str
    solutions: dict[str, str] = field(default_factory=dict)  # of the written answers, with their rubrics

    @property
    def max(self) -> float:
        """All points, those marked by hand included."""
        return sum(question.points for question in self.questions)

    @property
    def written(self) -> list[Question]:
        """The questions that a teacher marks."""
        return [question for question in self.questions if question.manual]


def load(folder: Path, seed: int) -> Homework:
    """Read a homework's student version and hidden checks, and draw the cases of each question from the seed.

    Raises FileNotFoundError for a missing file, ValueError for questions that do not fit the notebook.
    """
    folder = folder.resolve()
    source, student = homework_paths(folder)
    hidden = folder / "hidden.py"
    for path in (student, hidden):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
    module = imported(hidden)
    questions = module.QUESTIONS
    release = submission.release_cells(student, {question.id for question in questions if question.weights})
    _check_questions(hidden, questions, release)
    # Each question draws from its own stream: one question graded again gets the same inputs.
    cases = {
        question.id: question.cases(np.random.default_rng([seed, crc32(question.id.encode())]))
        for question in questions
        if not question.manual
    }
    digest = submission.fingerprint(student.read_bytes(), hidden.read_bytes(), str(seed).encode())
    limits = getattr(module, "LIMITS", Limits())
    texts = written_solutions(source)
    solutions = {
        question.id: "\n\n".join(text for answer, text in texts.items() if question.owns(answer))
        for question in questions
        if question.manual
    }
    return Homework(folder.name, student.name, release, questions, cases, limits, digest, solutions)


def imported(path: Path) -> object:
    """Import a Python file of a homework under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_questions(hidden: Path, questions: list[Question], release: list[Cell]) -> None:
    """Raise ValueError unless every answer belongs to one question and goes by a name that is free."""
    if len({question.id for question in questions}) != len(questions):
        raise ValueError(f"{hidden}: a question id occurs twice")
    for cell in [cell for cell in release if cell.solution]:
        if sum(question.owns(cell.answer) for question in questions) != 1:
            raise ValueError(f"{hidden}: the answer {cell.answer} must belong to one question")
        # In a driver these names mean what they always mean, whatever a notebook did to them.
        if taken := [name for name in sorted(cell.defines) if hasattr(builtins, name) or name in MODULES]:
            raise ValueError(
                f"{hidden}: the answer {cell.answer} must not be called {taken[0]}, which is taken"
            )
