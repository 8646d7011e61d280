"""Grade a folder of submissions: what is kept stays, the rest goes to processes, here or in a cluster."""

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path

from grading import cgroup, collect, store, warm
from grading.channel import Outcome, longest
from grading.collect import Files, Submission
from grading.grade import grade, ungraded
from grading.homework import Homework
from grading.record import Record, record
from grading.sandbox import Sandbox
from grading.submission import Rebuilt, fingerprint
from grading.text import one_line

VERIFY_SECONDS = 600.0  # what reading and references may take, beyond the sandbox's time
RENEWED_AFTER = 50  # submissions of one process: what it lost in memory is given back

Job = tuple[Submission, Files]
Finished = tuple[Submission, bytes, float]  # a record as it travels, empty if grading failed; seconds
Executor = Callable[[Iterator[Job]], Generator[Finished]]  # asks for a job when it can begin with it


def grade_all(
    homework: Homework, submissions: list[Submission], kind: str, out: Path, execute: Executor
) -> dict[str, Record]:
    """Grade every submission and return the records by student.

    A record is kept in `out` as soon as it is there, and one that is kept from an earlier run is returned as
    it is. `kind` is that of the sandbox.
    """
    progress, keys, records = Progress(len(submissions)), {}, {}

    def waiting() -> Iterator[Job]:
        names = [question.weights for question in homework.questions if question.weights]
        for one in submissions:
            files = collect.read(one, homework.notebook, names, homework.release)
            weights = [name.encode() + data for name, data in sorted(files.weights.items())]
            odd = repr((one.notes, files.notes, files.unreadable)).encode()
            conditions = [store.FORMAT, homework.digest.encode(), kind.encode(), odd]
            key = fingerprint(*conditions, files.raw, *weights, *files.others.values())
            if found := _kept(store.folder_of(out, one.student), key):
                records[one.student] = found
                progress.say(found)
            else:
                keys[one.student] = key
                yield one, files

    with contextlib.closing(execute(waiting())) as finished:  # whatever ends us, ends its processes
        for one, sent, seconds in finished:
            found = _received(sent, store.folder_of(out, one.student), keys.pop(one.student))
            records[one.student] = found = found or _failed(homework, one, kind)
            progress.say(found, seconds)
    return {one.student: records[one.student] for one in submissions}


class Progress:
    """Say what became of each submission, how fast it goes and how long it will take."""

    def __init__(self, total: int):
        self.total, self.done, self.graded, self.began = total, 0, 0, time.monotonic()

    def say(self, found: Record, seconds: float | None = None) -> None:
        """Say it of one that took some seconds, None for one that was kept."""
        self.done += 1
        count = f"{self.done}/{self.total}"
        if seconds is None:
            print_line(count, found, "kept")
            return
        self.graded += 1
        minutes = (time.monotonic() - self.began) / 60
        left = minutes / self.graded * (self.total - self.done)
        print_line(
            count, found, f"{seconds:.1f} s; {self.graded / minutes:.1f} a minute, {left:.0f} min left"
        )


def print_line(count: str, found: Record, pace: str) -> None:
    """Say what became of one submission, its marks left out, in one line whatever it is called."""
    result = found.result
    points = f"{result.score:g} of {result.max:g}"
    print(f"[{count}] {one_line(result.student)}: {result.status}, {points}, {pace}", flush=True)


def as_sent(found: Record) -> bytes:
    """Return a record as it travels between processes: plain text."""
    return json.dumps(found.as_dict()).encode()


def _kept(folder: Path, key: str) -> Record | None:
    """Return the record that was kept of the same files, None if there is none."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if store.kept(folder) == key:
            return store.load(folder)
    return None


def _received(sent: bytes, folder: Path, key: str) -> Record | None:
    """Keep a record that was sent, and return it; None if none was or it cannot be kept."""
    try:
        store.forget(folder)  # so that the next run grades it again, whatever happens now
        if not sent:
            return None
        found = Record.from_dict(json.loads(sent))
        store.keep(folder, key, found)
    except (OSError, ValueError, KeyError, TypeError):
        traceback.print_exc()
        return None
    return found


def _failed(homework: Homework, one: Submission, kind: str) -> Record:
    """Return a record that says that grading failed."""
    result = ungraded(homework, one, kind)
    result.status = "failed"
    result.notes.append("the grader itself failed on this submission (see its output): grade it again")
    for entry in result.questions.values():
        entry.settle("error", "not graded")
    return record(result, Rebuilt(), Outcome(), {})


def here(homework: Homework, sandbox: Sandbox, jobs: int, *, cold: bool = False) -> Executor:
    """Return an executor of processes of this machine: `jobs` at a time, but at most one per core.

    Each keeps to a core of its own: a submission that starts hundreds of busy processes takes no time from
    the others. One that dies or takes too long costs the submission that it had, and no other.
    """
    import torch

    torch.set_num_threads(1)  # before any fork: references are computed in the children
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:jobs]
    else:
        cores = [None] * min(jobs, os.cpu_count() or 1)
    # A warm sandbox that fails late is followed by a cold one.
    patience = 2 * longest(homework.limits, len(homework.questions)) + VERIFY_SECONDS

    def execute(waiting: Iterator[Job]) -> Generator[Finished]:
        slots = [Slot(homework, sandbox, core, cold) for core in cores]
        try:
            while True:
                for slot in slots:
                    if slot.job is None and (job := next(waiting, None)):
                        slot.give(job, slots)
                busy = [slot for slot in slots if slot.job]
                if not busy:
                    return
                multiprocessing.connection.wait([slot.connection for slot in busy], timeout=1.0)
                for slot in busy:
                    if slot.connection.poll() or slot.seconds > patience:
                        yield slot.take()
        finally:
            for slot in slots:
                slot.end()
            cgroup.sweep()  # of those that were killed

    return execute


class Slot:
    """A core's place for one process after the other, each of which grades some submissions."""

    def __init__(self, homework: Homework, sandbox: Sandbox, core: int | None, cold: bool):
        self.homework, self.sandbox, self.core, self.cold = homework, sandbox, core, cold
        self.process, self.connection, self.job, self.given, self.began = None, None, None, 0, 0.0

    @property
    def seconds(self) -> float:
        """How long the process has had its job."""
        return time.monotonic() - self.began

    def give(self, job: Job, slots: list["Slot"]) -> None:
        """Give a job to the process, to a new one where that is due."""
        if self.given == (1 if self.cold else RENEWED_AFTER):
            self.end()
        if self.process is None:
            self._start(slots)
        self.job, self.began, self.given = job, time.monotonic(), self.given + 1
        with contextlib.suppress(OSError):  # it is dead, as `take` will find out
            self.connection.send(job)

    def take(self) -> Finished:
        """Return the finished job; a process that died or still has it is replaced."""
        (one, _), self.job, seconds = self.job, None, self.seconds
        try:
            if self.connection.poll():
                return one, self.connection.recv_bytes(), seconds
        except (EOFError, OSError):
            pass
        self.process.kill()
        self.end()
        return one, b"", seconds

    def end(self) -> None:
        """End the process: at once if it has a job, else with its sandbox closed in order."""
        if self.process is None:
            return
        if self.job:
            self.process.kill()
        self.connection.close()
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()
        self.process, self.given = None, 0

    def _start(self, slots: list["Slot"]) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        # A process that holds another's end of a pipe would keep that from noticing that we are dead.
        ours = [slot.connection for slot in slots if slot.connection]
        arguments = (self.homework, self.sandbox, self.core, self.cold, theirs, ours)
        self.process = context.Process(target=_serve, args=arguments)
        self.process.start()
        theirs.close()


def _serve(
    homework: Homework,
    sandbox: Sandbox,
    core: int | None,
    cold: bool,
    jobs: multiprocessing.connection.Connection,
    not_ours: Iterable[multiprocessing.connection.Connection],
) -> None:
    """Grade the submissions that come until no more can."""
    for connection in not_ours:
        connection.close()
    if core is not None:
        os.sched_setaffinity(0, {core})
    with contextlib.closing(warm.runner(sandbox, homework, cold=cold)) as box:
        while True:
            try:
                one, files = jobs.recv()
            except EOFError:
                return
            jobs.send_bytes(as_sent(grade(homework, one, files, box)))
