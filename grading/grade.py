"""Grade one submission: rebuild its notebook, run it in a sandbox, judge each question."""

import sys

from grading import marks, submission, verify
from grading.channel import Outcome
from grading.homework import Homework
from grading.questions import Question
from grading.record import Answer, Entry, Record, Result, record
from grading.sandbox import Sandbox
from grading.submission import Files, Rebuilt, Submission, Unreadable
from grading.text import one_line

LEFT_OUT_LIMIT = 10  # notes on cells that were left out


def grade(homework: Homework, one: Submission, files: Files, sandbox: Sandbox) -> Record:
    """Return the record of one submission, whose `files` were read.

    Raises RuntimeError if the sandbox did not start, which is no fault of the submission's.
    """
    result = ungraded(homework, one, sandbox)
    result.notes += files.notes
    try:
        rebuilt = submission.rebuild(homework.release, submission.parse(files.notebook()))
    except Unreadable as reason:
        result.status = "unreadable"
        result.notes += [] if str(reason) in one.notes else [str(reason)]
        for entry in result.questions.values():
            entry.settle("missing", "the notebook could not be read")
        return record(result, Rebuilt(), Outcome(ready=True), {})
    result.notes += rebuilt.notes
    for question in homework.questions:
        _settle_without_running(question, rebuilt, result.questions[question.id])
    open_questions = [question for question in homework.questions if not result.questions[question.id].status]
    cases = {question.id: homework.cases[question.id] for question in open_questions}
    outcome = sandbox.run(rebuilt.code, cases, homework.limits)
    if not outcome.ready:
        raise RuntimeError(f"the sandbox did not start: {outcome.stopped} {outcome.stderr}")
    note_what_was_left_out(result, rebuilt, outcome)
    for question in open_questions:
        _judge(homework, question, outcome, files, result)
    written = {}
    for name in result.having("manual"):
        text = rebuilt.text_of(next(question for question in homework.questions if question.id == name))
        written[name] = Answer(text, marks.fingerprint(one.student, name, text))
    return record(result, rebuilt, outcome, written)


def ungraded(homework: Homework, one: Submission, sandbox: Sandbox) -> Result:
    """Return a result in which nothing is decided."""
    questions = {question.id: Entry(0, question.points) for question in homework.questions}
    return Result(one.student, homework.name, homework.max, sandbox.kind, questions, notes=list(one.notes))


def note_what_was_left_out(result: Result, rebuilt: Rebuilt, outcome: Outcome) -> None:
    """Say in the result that the run was stopped, and which cells were left out."""
    if outcome.ended_early:
        result.status = "stopped"
        result.notes.append(f"the run was stopped: it {outcome.ended_early}")
    what = {"timeout": "took too long", "killed": "ended the kernel", "skipped": "came too late"}
    left_out = [
        f"a cell ({label or 'without a name'}) {what[cell['status']]} and was left out"
        for label, cell in zip(rebuilt.labels, outcome.cells, strict=False)
        if cell["status"] in what
    ]
    result.notes += left_out[:LEFT_OUT_LIMIT]
    if len(left_out) > LEFT_OUT_LIMIT:
        result.notes.append(f"{len(left_out) - LEFT_OUT_LIMIT} more cells were left out")


def _settle_without_running(question: Question, rebuilt: Rebuilt, entry: Entry) -> None:
    """Settle a question that nothing needs to be run for."""
    answers = [name for name in rebuilt.answers if question.owns(name)]
    shows_nothing = question.manual and not one_line(rebuilt.text_of(question))
    if answers and not any(rebuilt.answers[name] for name in answers):
        entry.settle("missing", "the answer cell is gone")
    elif answers and (rebuilt.blank.issuperset(answers) or shows_nothing):
        entry.settle("blank", "no answer")
    elif question.manual:
        entry.settle("manual", "to be marked by a teacher")


def _judge(homework: Homework, question: Question, outcome: Outcome, files: Files, result: Result) -> None:
    """Settle a question by what came back from the sandbox."""
    entry, cases = result.questions[question.id], homework.cases[question.id]
    runs = any(case.driver for case in cases)
    came_back = any(name.split("/")[0] == question.id for name in outcome.frames)
    if outcome.ended_early and runs and not came_back:
        kind = "timeout" if "long" in outcome.ended_early else "error"
        entry.settle(kind, f"the run was stopped: it {outcome.ended_early}")
        return
    weights = files.weights.get(question.weights) if question.weights else None
    status, message, trace = verify.judge(question, cases, outcome.frames, weights)
    entry.settle(status, message, question.points if status == "ok" else 0)
    if trace:
        print(f"{one_line(result.student)}, {question.id}: verify failed\n{trace}", file=sys.stderr)
