"""Grade a folder of submissions: one process for each, so that none can stop the others.

A submission is `ok`, `unreadable` (no notebook), `stopped` (the sandbox had to be killed) or `failed` (the
grader's own fault; graded again by the next run). A question is `ok`, `wrong`, `error` (the code raised or
ended), `timeout`, `blank` (nothing filled in), `missing` (no answer cell, no weights), `manual` (for a
teacher to mark) or `marked` (by a teacher, in marks.csv).
"""

import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import secrets
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np

from grading import marks, report, submission, verify
from grading.marks import Marks
from grading.questions import Case, Limits, Question
from grading.release import homework_paths, written_solutions
from grading.sandbox import Outcome, Sandbox
from grading.submission import Cell, Rebuilt, Submission, Unreadable

LEFT_OUT_LIMIT = 10  # notes on cells that were left out
VERIFY_SECONDS = 600.0  # what references may take, beyond the sandbox's own limits


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
    spec = importlib.util.spec_from_file_location(f"hidden_{folder.name}", hidden)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    questions = module.QUESTIONS
    release = submission.release_cells(student, {question.id for question in questions if question.weights})
    if len({question.id for question in questions}) != len(questions):
        raise ValueError(f"{hidden}: a question id occurs twice")
    answers = [cell.answer for cell in release if cell.solution]
    for answer in answers:
        if sum(question.owns(answer) for question in questions) != 1:
            raise ValueError(f"{hidden}: the answer {answer} must belong to one question")
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


def seed_of(out: Path, given: int | None) -> int:
    """Return the batch's seed (given, else kept in `out`, else a new secret) and keep it in `out`.

    A seed that is given replaces the one kept, which is said. Raises ValueError if what is kept is no seed.
    """
    path = out / "seed.txt"
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else None
    if given is None and text is not None and not (text.isascii() and text.isdigit()):
        raise ValueError(f"{path} holds no seed, a whole number from 0: put it back, or give --seed")
    seed = given if given is not None else secrets.randbits(128) if text is None else int(text)
    if text is not None and text != str(seed):
        print(f"--seed replaces the one in {path}: every submission is graded again", file=sys.stderr)
    report.write(path, f"{seed}\n", mode=0o600)
    return seed


def grade_all(
    homework: Homework, submissions: list[Submission], given: Marks, sandbox: Sandbox, out: Path, jobs: int
) -> list[dict]:
    """Grade every submission, `jobs` at a time but at most one per core, write its results and return them.

    The marks that are `given` are merged, also into results that are kept from an earlier run.

    Each of the jobs keeps to a core of its own: a submission that starts hundreds of busy processes takes no
    time from the others.
    """
    import torch

    torch.set_num_threads(1)  # before any fork: references are computed in the children
    waiting, running, results = list(reversed(submissions)), {}, {}
    if hasattr(os, "sched_getaffinity"):
        free = sorted(os.sched_getaffinity(0))[:jobs]
    else:
        free = [None] * min(jobs, os.cpu_count() or 1)
    context = multiprocessing.get_context("fork")
    limit = homework.limits.total_seconds * 2 + homework.limits.question_seconds * len(homework.questions)
    try:
        while waiting or running:
            while waiting and free:
                one, core = waiting.pop(), free.pop()
                process = context.Process(
                    target=_grade_and_save, args=(homework, one, given, sandbox, out, core)
                )
                process.start()
                running[process] = (one, core, time.monotonic())
            multiprocessing.connection.wait([process.sentinel for process in running], timeout=1.0)
            for process, (one, core, started) in list(running.items()):
                seconds = time.monotonic() - started
                if process.is_alive() and seconds < limit + VERIFY_SECONDS:
                    continue
                process.kill()
                process.join()
                del running[process]
                free.append(core)
                results[one.student] = result = _saved(homework, one, sandbox, out, process.exitcode)
                _print_line(f"{len(results)}/{len(submissions)}", result, seconds)
    finally:
        for process in running:
            process.kill()
    return [results[one.student] for one in submissions]


def merge_marks(
    homework: Homework, submissions: list[Submission], results: list[dict], out: Path
) -> list[dict]:
    """Write what a teacher marks with, and return the results with all marks, those of the last minute too.

    That is a row in `marks.csv` for each written answer, and a page of answers for each written question.
    """
    written = [question for question in homework.questions if question.manual]
    if not written:
        return results
    folders = {one.student: report.folder_of(out, one.student) for one in submissions}
    found = {student: report.load(folder) for student, folder in folders.items() if report.kept(folder)}
    saved, answers = marks.update(out / "marks.csv", homework.questions, found), marks.answers(found)
    found = {student: marks.merge(record, saved, student) for student, record in found.items()}
    for student, record in found.items():
        report.save(folders[student], record)
    for question in written:
        entries = [
            (row["student"], found[key[0]]["result"]["questions"][key[1]], answers[key], saved.earlier(key))
            for key, row in saved.rows.items()
            if key in answers and key[1] == question.id
        ]
        title = f"{homework.name}, {question.id}: {question.points:g} points"
        solution = homework.solutions.get(question.id, "")
        report.write_answers(out / f"answers_{question.id}.html", title, solution, entries)
    return [
        found[one.student]["result"] if one.student in found else result
        for one, result in zip(submissions, results, strict=True)
    ]


def _print_line(count: str, result: dict, seconds: float) -> None:
    points = f"{result['score']:g} of {result['max']:g}"
    print(
        f"[{count}] {report.line(result['student'])}: {result['status']}, {points}, {seconds:.1f} s",
        flush=True,
    )


def _grade_and_save(
    homework: Homework, one: Submission, given: Marks, sandbox: Sandbox, out: Path, core: int | None
) -> None:
    """Grade one submission in a process of its own, unless the same files were; merge its marks."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    folder = report.folder_of(out, one.student)
    raw, weights, notes, reason = _read(homework, one)
    files = [name.encode() + data for name, data in sorted(weights.items())]
    key = submission.fingerprint(
        homework.digest.encode(), sandbox.kind.encode(), repr(one.notes).encode(), raw, *files
    )
    if report.kept(folder) == key:
        found = report.load(folder)
    else:
        report.forget(folder)
        found = _grade(homework, one, sandbox, raw, weights, notes, reason)
        report.keep(folder, key, found)
    report.save(folder, marks.merge(found, given, one.student))


def _grade(
    homework: Homework,
    one: Submission,
    sandbox: Sandbox,
    raw: bytes,
    weights: dict[str, bytes],
    notes: list[str],
    reason: str,
) -> dict:
    """Return the record of one submission, with what `_read` returned."""
    result = _empty_result(homework, one, sandbox)
    result["notes"] += notes
    rebuilt, outcome = Rebuilt(), Outcome(ready=True)
    try:
        if reason:
            raise Unreadable(reason)
        rebuilt = submission.rebuild(homework.release, submission.parse(raw))
    except Unreadable as unreadable:
        result["status"] = "unreadable"
        result["notes"] += [] if str(unreadable) in one.notes else [str(unreadable)]
        for question in result["questions"].values():
            question.update(status="missing", message="the notebook could not be read")
    else:
        result["notes"] += rebuilt.notes
        for question in homework.questions:
            _look(question, rebuilt, result["questions"][question.id])
        asked = {name for name, entry in result["questions"].items() if not entry["status"]}
        cases = {name: cases for name, cases in homework.cases.items() if name in asked}
        outcome = sandbox.run(rebuilt.code, cases, homework.limits)
        if not outcome.ready:
            raise RuntimeError(f"the sandbox did not start: {outcome.stopped} {outcome.stderr}")
        _judge_all(homework, rebuilt, outcome, weights, result)
    written = {
        question.id: {"text": text, "fingerprint": marks.fingerprint(one.student, question.id, text)}
        for question in homework.questions
        if result["questions"][question.id]["status"] == "manual"
        for text in [_text(question, rebuilt)]
    }
    return report.record(result, rebuilt, outcome, written)


def _read(homework: Homework, one: Submission) -> tuple[bytes, dict[str, bytes], list[str], str]:
    """Return notebook, weights by file name, notes, and why the notebook cannot be read."""
    raw, weights, notes, reason = b"", {}, [], ""
    try:
        if one.notebook is None:
            raise Unreadable(one.notes[-1])
        raw = submission.read_file(one.notebook)
    except Unreadable as error:
        reason = str(error)
    for name in filter(None, (question.weights for question in homework.questions)):
        path = one.folder / name if one.folder else None
        if path and os.path.lexists(path):
            try:
                weights[name] = submission.read_file(path)
            except Unreadable as error:
                notes.append(str(error))
    return raw, weights, notes, reason


def _judge_all(
    homework: Homework, rebuilt: Rebuilt, outcome: Outcome, weights: dict[str, bytes], result: dict
) -> None:
    """Fill in status, score and message of every question."""
    stopped = outcome.stopped or ("" if outcome.cells else "ended before its last cell")
    if stopped:
        result["status"] = "stopped"
        result["notes"].append(f"the run was stopped: it {stopped}")
    what = {"timeout": "took too long", "killed": "ended the kernel", "skipped": "came too late"}
    left_out = [
        f"a cell ({label or 'without a name'}) {what[cell['status']]} and was left out"
        for label, cell in zip(rebuilt.labels, outcome.cells, strict=False)
        if cell["status"] in what
    ]
    result["notes"] += left_out[:LEFT_OUT_LIMIT]
    if len(left_out) > LEFT_OUT_LIMIT:
        result["notes"].append(f"{len(left_out) - LEFT_OUT_LIMIT} more cells were left out")
    for question in homework.questions:
        entry = result["questions"][question.id]
        if entry["status"]:
            continue
        runs = any(case.driver for case in homework.cases[question.id])
        if stopped and runs and not any(name.split("/")[0] == question.id for name in outcome.frames):
            kind = "timeout" if "long" in stopped else "error"
            entry.update(status=kind, message=f"the run was stopped: it {stopped}")
        else:
            given = weights.get(question.weights) if question.weights else None
            status, message, trace = verify.judge(
                question, homework.cases[question.id], outcome.frames, given
            )
            score = question.points if status == "ok" else 0
            entry.update(status=status, message=message, score=score)
            if trace:
                print(
                    f"{report.line(result['student'])}, {question.id}: verify failed\n{trace}",
                    file=sys.stderr,
                )
    result["score"] = sum(entry["score"] for entry in result["questions"].values())


def _look(question: Question, rebuilt: Rebuilt, entry: dict) -> None:
    """Settle a question that nothing needs to be run for."""
    answers = [name for name in rebuilt.answers if question.owns(name)]
    if answers and not any(rebuilt.answers[name] for name in answers):
        entry.update(status="missing", message="the answer cell is gone")
    elif answers and (rebuilt.blank.issuperset(answers) or (question.manual and _empty(question, rebuilt))):
        entry.update(status="blank", message="no answer")
    elif question.manual:
        entry.update(status="manual", message="to be marked by a teacher")


def _text(question: Question, rebuilt: Rebuilt) -> str:
    """Return the answer to a written question."""
    answers = [sources for name, sources in rebuilt.answers.items() if question.owns(name)]
    return "\n\n".join(source.strip() for sources in answers for source in sources).strip()


def _empty(question: Question, rebuilt: Rebuilt) -> bool:
    """Tell whether an answer shows nothing to its reader."""
    return not report.line(_text(question, rebuilt))


def _empty_result(homework: Homework, one: Submission, sandbox: Sandbox) -> dict:
    return {
        "student": one.student,
        "homework": homework.name,
        "score": 0,
        "max": homework.max,
        "status": "ok",
        "sandbox": sandbox.kind,
        "notes": list(one.notes),
        "questions": {
            question.id: {"score": 0, "max": question.points, "status": "", "message": ""}
            for question in homework.questions
        },
    }


def _saved(homework: Homework, one: Submission, sandbox: Sandbox, out: Path, code: int | None) -> dict:
    """Return what a submission's process saved; if it failed, save that."""
    folder = report.folder_of(out, one.student)
    try:
        if code == 0:
            return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        traceback.print_exc()
    result = _empty_result(homework, one, sandbox)
    result["status"] = "failed"
    result["notes"].append("the grader itself failed on this submission (see its output): grade it again")
    for entry in result["questions"].values():
        entry.update(status="error", message="not graded")
    try:
        report.forget(folder)
        report.save(folder, report.record(result, Rebuilt(), Outcome(), {}))
    except OSError as error:  # such as a file that has the folder's name, or a full disk
        result["notes"].append(f"{folder} could not be written: {error.strerror}")
    return result
