"""Grade a folder of submissions: one process for each, so that none can stop the others."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from pathlib import Path

from grading import store, submission
from grading.channel import Outcome
from grading.grade import grade, ungraded
from grading.homework import Homework
from grading.record import Record, record
from grading.sandbox import Sandbox
from grading.submission import Rebuilt, Submission
from grading.text import one_line

VERIFY_SECONDS = 600.0  # what references may take, beyond the sandbox's own limits


def grade_all(
    homework: Homework, submissions: list[Submission], sandbox: Sandbox, out: Path, jobs: int
) -> dict[str, Record]:
    """Grade every submission, `jobs` at a time but at most one per core, and return the records by student.

    A record is kept in `out` as soon as it is there, and one that is kept from an earlier run is returned as
    it is. Each of the jobs keeps to a core of its own: a submission that starts hundreds of busy processes
    takes no time from the others.
    """
    import torch

    torch.set_num_threads(1)  # before any fork: references are computed in the children
    waiting, running, records = list(reversed(submissions)), {}, {}
    if hasattr(os, "sched_getaffinity"):
        free = sorted(os.sched_getaffinity(0))[:jobs]
    else:
        free = [None] * min(jobs, os.cpu_count() or 1)
    context = multiprocessing.get_context("fork")
    limits = homework.limits
    patience = 2 * limits.total_seconds + limits.question_seconds * len(homework.questions) + VERIFY_SECONDS
    try:
        while waiting or running:
            while waiting and free:
                one, core = waiting.pop(), free.pop()
                process = context.Process(target=_grade_and_keep, args=(homework, one, sandbox, out, core))
                process.start()
                running[process] = (one, core, time.monotonic())
            multiprocessing.connection.wait([process.sentinel for process in running], timeout=1.0)
            for process, (one, core, started) in list(running.items()):
                seconds = time.monotonic() - started
                if process.is_alive() and seconds < patience:
                    continue
                process.kill()
                process.join()
                del running[process]
                free.append(core)
                records[one.student] = found = _collected(homework, one, sandbox, out, process.exitcode)
                print_line(f"{len(records)}/{len(submissions)}", found, seconds)
    finally:
        for process in running:
            process.kill()
    return {one.student: records[one.student] for one in submissions}


def print_line(count: str, found: Record, seconds: float) -> None:
    """Say what became of one submission, its marks left out, in one line whatever it is called."""
    result = found.result
    points = f"{result.score:g} of {result.max:g}"
    print(f"[{count}] {one_line(result.student)}: {result.status}, {points}, {seconds:.1f} s", flush=True)


def _grade_and_keep(
    homework: Homework, one: Submission, sandbox: Sandbox, out: Path, core: int | None
) -> None:
    """Grade one submission in a process of its own and keep its record, unless that of the same files is."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    folder = store.folder_of(out, one.student)
    files = submission.read(one, [question.weights for question in homework.questions if question.weights])
    weights = [name.encode() + data for name, data in sorted(files.weights.items())]
    conditions = [store.FORMAT, homework.digest.encode(), sandbox.kind.encode(), repr(one.notes).encode()]
    key = submission.fingerprint(*conditions, files.raw, *weights)
    if store.kept(folder) != key:
        store.forget(folder)
        store.keep(folder, key, grade(homework, one, files, sandbox))


def _collected(homework: Homework, one: Submission, sandbox: Sandbox, out: Path, code: int | None) -> Record:
    """Return the record that a submission's process kept, or one that says that the process failed."""
    folder = store.folder_of(out, one.student)
    try:
        if code == 0:
            return store.load(folder)
    except (OSError, ValueError, KeyError, TypeError):
        traceback.print_exc()
    with contextlib.suppress(OSError):  # such as a file that has the folder's name
        store.forget(folder)  # so that the next run grades it again
    result = ungraded(homework, one, sandbox)
    result.status = "failed"
    result.notes.append("the grader itself failed on this submission (see its output): grade it again")
    for entry in result.questions.values():
        entry.settle("error", "not graded")
    return record(result, Rebuilt(), Outcome(), {})
