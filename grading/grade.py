"""Grade one submission: rebuild its notebook, run it in a sandbox, judge each question."""

import sys

from grading import collect, similar, submission, verify, written
from grading.channel import Outcome
from grading.collect import Files, Submission
from grading.homework import Homework
from grading.questions import Question
from grading.record import Entry, Record, Result, record
from grading.sandbox import Sandbox
from grading.submission import Rebuilt
from grading.text import one_line
from tools.handed_in import Cell, Unreadable, parse

LEFT_OUT_LIMIT = 10  # notes on cells that were left out
STOPPED = {  # what a cell's status says to its author
    "timeout": "took too long",
    "killed": "ended the kernel",
    "skipped": "was left out: the time for cells was over",
    "error": "stopped",
}
ERROR_LIMIT = 200  # characters that are quoted of the error with which a cell stopped


def grade(homework: Homework, one: Submission, files: Files, sandbox: Sandbox) -> Record:
    """Return the record of one submission, whose `files` were read.

    Raises RuntimeError if the sandbox did not start, which is no fault of the submission's.
    """
    result = ungraded(homework, one, sandbox.kind)
    result.notes += files.notes
    try:
        rebuilt = submission.rebuild(homework.release, parse(files.notebook()))
    except Unreadable as reason:
        result.status = "unreadable"
        result.notes.append(str(reason))
        for entry in result.questions.values():
            entry.settle("missing", "the notebook could not be read")
        return record(result, Rebuilt(), Outcome(ready=True), {})
    result.notes += rebuilt.notes + collect.answers_elsewhere(homework.release, rebuilt, files)
    for question in homework.questions:
        _settle_without_running(question, rebuilt, result.questions[question.id], result.notes)
    open_questions = [question for question in homework.questions if not result.questions[question.id].status]
    cases = {question.id: homework.cases[question.id] for question in open_questions}
    outcome = sandbox.run(rebuilt.code, cases, homework.limits, own=rebuilt.own)
    if not outcome.ready:
        raise RuntimeError(f"the sandbox did not start: {outcome.stopped} {outcome.stderr}")
    note_what_was_left_out(result, rebuilt, outcome)
    measured = {}
    for question in open_questions:
        if words := _judge(homework, question, outcome, files, result):
            measured[question.id] = words
        entry = result.questions[question.id]
        if entry.status == "error" and (why := why_it_failed(question, rebuilt, outcome)):
            entry.message += f"; {why}"
    answers = {}
    for question in homework.questions:
        if result.questions[question.id].status == "manual":
            answers[question.id] = written.answer(one.student, question.id, *_texts(question, rebuilt))
            if answers[question.id].unshown:
                result.notes.append(f"{question.id} has pictures: open the notebook")
    found = record(result, rebuilt, outcome, answers)
    found.prints, found.measured = similar.prints(homework, rebuilt, files), measured
    return found


def ungraded(homework: Homework, one: Submission, kind: str) -> Result:
    """Return a result in which nothing is decided; `kind` is that of the sandbox."""
    questions = {question.id: Entry(0, question.points) for question in homework.questions}
    return Result(one.student, homework.name, homework.max, kind, questions, notes=list(one.notes))


def note_what_was_left_out(result: Result, rebuilt: Rebuilt, outcome: Outcome) -> None:
    """Say in the result that the run was stopped, and which cells were left out."""
    if outcome.ended_early:
        result.status = "stopped"
        result.notes.append(f"the run was stopped: it {outcome.ended_early}")
    what = {  # what an interrupted cell had defined is there
        "timeout": "took too long and was stopped",
        "killed": "ended the kernel and was left out",
        "skipped": "came too late and was left out",
    }
    left_out = [
        f"{_cell_name(label, number)} {what[cell['status']]}"
        for label, number, cell in zip(rebuilt.labels, rebuilt.numbers, outcome.cells, strict=False)
        if cell["status"] in what
    ]
    result.notes += left_out[:LEFT_OUT_LIMIT]
    if len(left_out) > LEFT_OUT_LIMIT:
        result.notes.append(f"{len(left_out) - LEFT_OUT_LIMIT} more cells were left out")


def why_it_failed(question: Question, rebuilt: Rebuilt, outcome: Outcome) -> str:
    """Say which of the student's own cells stopped first, and with what, and whether the answer's did.

    What these cells say is the student's own text: they ran before any hidden input was there.
    """
    own, said, seen_own = set(rebuilt.own), [], False
    cells = zip(rebuilt.labels, rebuilt.numbers, outcome.cells, strict=False)
    for index, (label, number, cell) in enumerate(cells):
        answers = bool(label) and number is not None and question.owns(label)
        if cell["status"] in STOPPED and (answers or (index in own and not seen_own)):
            seen_own |= index in own
            quoted = one_line(cell["error"])[:ERROR_LIMIT] if cell["status"] == "error" else ""
            said.append(
                ": ".join(filter(None, [f"{_cell_name(label, number)} {STOPPED[cell['status']]}", quoted]))
            )
    return "; ".join(said[:3])


def _cell_name(label: str | None, number: int | None) -> str:
    """Return how a cell is called in a note: by its place in the student's file, and by its name."""
    place = f"cell {number}" if number else "a cell of ours"
    return f"{place} ({label})" if label else place


def _texts(question: Question, rebuilt: Rebuilt) -> tuple[list[Cell], list[Cell]]:
    """Return the cells of a written answer and those near it."""
    names = [name for name in rebuilt.answers if question.owns(name)]
    return tuple(
        [cell for name in names for cell in cells[name]] for cells in (rebuilt.answers, rebuilt.near)
    )


def _settle_without_running(question: Question, rebuilt: Rebuilt, entry: Entry, notes: list[str]) -> None:
    """Settle a question that nothing needs to be run for."""
    states = {state for name, state in rebuilt.states.items() if question.owns(name)}
    if states == {"missing"}:
        entry.settle("missing", "the answer cell is gone")
    elif states and "answered" not in states:
        entry.settle("blank", "no answer")
    elif question.manual:
        entry.settle("manual", "to be marked by a teacher")
        cells, near = _texts(question, rebuilt)
        if near:
            where = "beside the answer" if any(cell.shows for cell in cells) else "in place of a blank answer"
            notes.append(f"{question.id}: text of yours {where} is shown to the teacher, too")


def _judge(homework: Homework, question: Question, outcome: Outcome, files: Files, result: Result) -> str:
    """Settle a question by what came back from the sandbox; return what was measured, for teachers."""
    entry, cases = result.questions[question.id], homework.cases[question.id]
    runs = any(case.driver for case in cases)
    came_back = any(name.split("/")[0] == question.id for name in outcome.frames)
    if outcome.ended_early and runs and not came_back:
        kind = "timeout" if "long" in outcome.ended_early else "error"
        entry.settle(kind, f"the run was stopped: it {outcome.ended_early}")
        return ""
    weights = files.weights.get(question.weights) if question.weights else None
    verdict = verify.judge(question, cases, outcome.frames, weights)
    entry.settle(verdict.status, verdict.message, question.points if verdict.status == "ok" else 0)
    if verdict.trace:
        print(f"{one_line(result.student)}, {question.id}: verify failed\n{verdict.trace}", file=sys.stderr)
    return verdict.measured
