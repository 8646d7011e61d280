"""What was found about a submission: the result that a student gets, and the answers and cells behind it.

A submission is `ok`, `unreadable` (no notebook), `stopped` (the sandbox had to be killed) or `failed` (the
grader's own fault; graded again by the next run). A question is `ok`, `wrong`, `error` (the code raised or
ended), `timeout`, `blank` (nothing filled in), `missing` (no answer cell, no weights), `manual` (for a
teacher to mark) or `marked` (by a teacher, in marks.csv).
"""

from dataclasses import asdict, dataclass, field, replace

from grading.channel import Outcome
from grading.submission import Rebuilt
from grading.text import SHORT, bounded, plain

OUTPUT_LIMIT = 3_000  # characters kept of what a cell printed


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

    @property
    def score(self) -> float:
        """The sum over the questions."""
        return round(sum(entry.score for entry in self.questions.values()), 6)

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


@dataclass
class Record:
    """A result before any marks, the written answers by question, and the cells of the page."""

    result: Result
    written: dict[str, Answer] = field(default_factory=dict)
    cells: list[CellReport] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Return plain values, from which `from_dict` makes an equal record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Record":
        """Return the record of plain values."""
        result = Result(**values["result"])
        result.questions = {name: Entry(**entry) for name, entry in result.questions.items()}
        written = {question: Answer(**answer) for question, answer in values["written"].items()}
        return cls(result, written, [CellReport(**cell) for cell in values["cells"]])


def record(result: Result, rebuilt: Rebuilt, outcome: Outcome, written: dict[str, Answer]) -> Record:
    """Return what is kept of a submission: plain text, cut to a bearable length."""
    cells = [
        CellReport(
            label=plain(label),
            status=plain(cell["status"]),
            source=bounded(source),
            output=plain(f"{cell['text'][:OUTPUT_LIMIT]}\n{cell['error']}".strip()),
        )
        for label, source, cell in zip(rebuilt.labels, rebuilt.code, outcome.cells, strict=False)
        if label
    ]
    answers = {name: replace(answer, text=bounded(answer.text)) for name, answer in written.items()}
    return Record(_cleaned(result), answers, cells)


def _cleaned(result: Result) -> Result:
    def short(text: str) -> str:
        return plain(text)[:SHORT]

    questions = {
        name: replace(entry, message=short(entry.message)) for name, entry in result.questions.items()
    }
    notes = [short(note) for note in result.notes]
    return replace(result, student=short(result.student), notes=notes, questions=questions)
