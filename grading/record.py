"""What was found about a submission: the result that a student gets, and the answers and cells behind it.

A submission is `ok`, `unreadable` (no notebook), `stopped` (the sandbox had to be killed) or `failed` (the
grader's own fault; graded again by the next run). A question is `ok`, `wrong`, `error` (the code raised or
ended), `timeout`, `blank` (nothing filled in), `missing` (no answer cell, no weights), `manual` (for a
teacher to mark) or `marked` (by a teacher, in marks.csv).
"""

import itertools
from dataclasses import asdict, dataclass, field, replace

from grading.channel import Outcome
from grading.submission import Rebuilt
from grading.text import LONG, SHORT, bounded, counted, plain

OUTPUT_LIMIT = 3_000  # characters kept of what a cell printed
ANSWER_LIMIT = 100_000  # characters kept of a written answer, and again of all that stands near it
NEAR_LIMIT = 20  # texts kept of those near an answer
NOTES_LIMIT = 100  # notes kept
CELLS_LIMIT = 300  # cells kept, and
CELLS_LENGTH = 1_000_000  # characters of all of them


@dataclass
class Entry:
    """What one question is worth; its status is None until something decides it."""

    score: float
    max: float
    status: str | None = None
    message: str = ""

    def settle(self, status: str, message: str, score: float = 0) -> None:
        """Decide the question."""
        self.status, self.message, self.score = status, message, score


@dataclass
class Result:
    """What a student gets: `results.json` holds these fields and the score."""

    student: str
    homework: str
    max: float
    sandbox: str
    questions: dict[str, Entry]
    status: str = "ok"
    notes: list[str] = field(default_factory=list)
    factor: float = 1.0  # less than 1 when it was handed in too late

    @property
    def score(self) -> float:
        """The sum over the questions, times the factor."""
        return round(self.factor * sum(entry.score for entry in self.questions.values()), 6)

    def having(self, status: str) -> list[str]:
        """Return the questions of a status."""
        return [name for name, entry in self.questions.items() if entry.status == status]

    def as_dict(self) -> dict:
        """Return the content of `results.json`."""
        values = asdict(self) | {"score": self.score}
        order = ("student", "homework", "score", "max", "status", "sandbox", "notes", "questions")
        return {name: values[name] for name in order}


@dataclass
class Answer:
    """A written answer, and the fingerprint of all of it, pictures included, by which marks find it.

    `near` are the student's own texts around the answer, which may belong to it. `pictures` are data URLs;
    `unshown` counts those that are too large, too many or of another kind.
    """

    text: str
    fingerprint: str
    near: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    unshown: int = 0


@dataclass
class CellReport:
    """A cell on the student's page: its name, what became of it, its source and what it printed."""

    label: str
    status: str
    source: str
    output: str
    answer: bool = False  # else it is a check, or another cell of ours


@dataclass
class Record:
    """A result before any marks, the written answers by question, and the cells of the page.

    `prints` are hashes, by name, of what is compared between students. `measured` is what a file of weights
    costs, by question, where it is too much: it stands on no page, for it could carry hidden inputs.
    """

    result: Result
    written: dict[str, Answer] = field(default_factory=dict)
    cells: list[CellReport] = field(default_factory=list)
    prints: dict[str, str] = field(default_factory=dict)
    measured: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict:
        """Return plain values, from which `from_dict` makes an equal record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Record":
        """Return the record of plain values."""
        result = Result(**values["result"])
        result.questions = {name: Entry(**entry) for name, entry in result.questions.items()}
        written = {question: Answer(**answer) for question, answer in values["written"].items()}
        cells = [CellReport(**cell) for cell in values["cells"]]
        return cls(result, written, cells, values["prints"], values["measured"])


def record(result: Result, rebuilt: Rebuilt, outcome: Outcome, written: dict[str, Answer]) -> Record:
    """Return what is kept of a submission: plain text, cut to a bearable length."""
    answers = {name: _bearable(answer) for name, answer in written.items()}
    labelled = [cell for cell in zip(rebuilt.labels, rebuilt.code, outcome.cells, strict=False) if cell[0]]
    kept = [_reported(rebuilt, *cell) for cell in _first(labelled)]
    if left := len(labelled) - len(kept):
        result.notes.append(f"{counted(left, 'cell')} too many: not kept, and not on the page")
    return Record(_cleaned(result), answers, kept)


def _first(labelled: list[tuple[str, str, dict]]) -> list[tuple[str, str, dict]]:
    """Return as many of the first cells, each a label, a source and what came back, as a record holds."""
    lengths = itertools.accumulate(
        min(len(source), LONG) + min(len(cell["text"]), OUTPUT_LIMIT) + len(cell["error"])
        for _, source, cell in labelled[:CELLS_LIMIT]
    )
    return [cell for cell, length in zip(labelled, lengths, strict=False) if length <= CELLS_LENGTH]


def _reported(rebuilt: Rebuilt, label: str, source: str, cell: dict) -> CellReport:
    return CellReport(
        label=plain(label),
        status=plain(cell["status"]),
        source=bounded(source),
        output=plain(f"{cell['text'][:OUTPUT_LIMIT]}\n{cell['error']}".strip()),
        answer=label in rebuilt.answers,
    )


def _bearable(answer: Answer) -> Answer:
    """Return an answer whose texts are cut, where they are, with a word."""
    near = [bounded(text, ANSWER_LIMIT // min(len(answer.near), NEAR_LIMIT)) for text in answer.near]
    more = [f"[{len(near) - NEAR_LIMIT} more texts: open the notebook]"] if len(near) > NEAR_LIMIT else []
    return replace(answer, text=bounded(answer.text, ANSWER_LIMIT), near=[*near[:NEAR_LIMIT], *more])


def _cleaned(result: Result) -> Result:
    def short(text: str) -> str:
        return plain(text)[:SHORT]

    questions = {
        name: replace(entry, message=short(entry.message)) for name, entry in result.questions.items()
    }
    notes = [short(note) for note in result.notes[:NOTES_LIMIT]]
    if len(result.notes) > NOTES_LIMIT:
        notes.append(f"{len(result.notes) - NOTES_LIMIT} more notes, not kept: open the notebook")
    return replace(result, student=short(result.student), notes=notes, questions=questions)
