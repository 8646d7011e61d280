"""Grade a folder of submissions: one process for each, so that none can stop the others.

A submission is `ok`, `unreadable` (no notebook), `stopped` (the sandbox had to be killed) or `failed` (the
grader's own fault; graded again by the next run). A question is `ok`, `wrong`, `error` (the code raised or
ended), `timeout`, `blank` (nothing filled in), `missing` (no answer cell, no weights) or `manual` (for a
teacher to mark).
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
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from grading import report, submission, verify
from grading.questions import Case, Limits, Question
from grading.release import homework_paths
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

    @property
    def max(self) -> float:
        """All points, those marked by hand included."""
        return sum(question.points for question in self.questions)


def load(folder: Path, seed: int) -> Homework:
    """Read a homework's student version and hidden checks, and draw the cases of each question from the seed.

    Raises FileNotFoundError for a missing file, ValueError for questions that do not fit the notebook.
    """
    folder = folder.resolve()
    _, student = homework_paths(folder)
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
    return Homework(folder.name, student.name, release, questions, cases, limits, digest)


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
    homework: Homework, submissions: list[Submission], sandbox: Sandbox, out: Path, jobs: int
) -> list[dict]:
    """Grade every submission, `jobs` at a time but at most one per core, write its results and return them.

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
                process = context.Process(target=_grade_and_save, args=(homework, one, sandbox, out, core))
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


def _print_line(count: str, result: dict, seconds: float) -> None:
    points = f"{result['score']:g} of {result['max']:g}"
    print(
        f"[{count}] {report.line(result['student'])}: {result['status']}, {points}, {seconds:.1f} s",
        flush=True,
    )


def _grade_and_save(
    homework: Homework, one: Submission, sandbox: Sandbox, out: Path, core: int | None
) -> None:
    """Grade one submission in a process of its own; keep an earlier result of the same files."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    folder = report.folder_of(out, one.student)
    raw, weights, notes, reason = _read(homework, one)
    files = [name.encode() + data for name, data in sorted(weights.items())]
    key = submission.fingerprint(
        homework.digest.encode(), sandbox.kind.encode(), repr(one.notes).encode(), raw, *files
    )
    if report.kept(folder) == key:
        return
    report.forget(folder)
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
    report.save(folder, result, rebuilt, outcome)
    report.keep(folder, key)


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
    elif answers and rebuilt.blank.issuperset(answers):
        entry.update(status="blank", message="no answer")
    elif question.manual:
        entry.update(status="manual", message="to be marked by a teacher")


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
        report.save(folder, result, Rebuilt(), Outcome())
    except OSError as error:  # such as a file that has the folder's name, or a full disk
        result["notes"].append(f"{folder} could not be written: {error.strerror}")
    return result
