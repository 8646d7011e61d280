"""Talk to a sandbox over its standard input and output, and believe nothing that it says.

The frames are described in `inside.py`. Everything is bounded: bytes, the number of frames, the time of each
part (see `longest`), and, by the watchdog, the memory and files of the sandbox.
"""

import base64
import io
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from grading.cgroup import REMOVE_SECONDS
from grading.inside import HEADER, INTERRUPT_SECONDS, REPORTS_LIMIT, pack
from grading.processes import tasks_of_this_user
from grading.questions import Case, Limits
from grading.watchdog import Watch

OUTPUT_LIMIT = 64 << 20  # bytes that one submission may send
FRAMES_LIMIT = 10_000  # frames that one submission may send
LOOK = 0.2  # seconds between two looks of the watchdog
STARTUP_SECONDS = 120.0  # to start the interpreter and import torch on a busy machine
LATE_SECONDS = 30.0  # that a busy machine may take longer for a part than the clock inside allows
STATUSES = ("ok", "error", "timeout", "killed", "skipped")  # of a cell, see `inside`
END_SECONDS = 60.0  # for a sandbox to be gone after it was killed


@dataclass
class Outcome:
    """What came back from one run, none of it to be believed."""

    ready: bool = False  # the interpreter started: what went wrong after that is the submission's
    cells: list[dict] = field(default_factory=list)  # status, text, error, seconds of each cell
    frames: dict[str, bytes] = field(default_factory=dict)
    stopped: str = ""  # why the run was ended, empty if it was not
    stderr: str = ""  # of the sandbox itself, before any code of the submission

    @property
    def ended_early(self) -> str:
        """Why not every cell and question had its turn, empty if all had."""
        return self.stopped or ("" if self.cells else "ended before its last cell")


class Conversation:
    """A job for a sandbox: what is still to be sent to it, and what it said so far."""

    def __init__(
        self,
        cells: list[str],
        own: Sequence[int],
        questions: dict[str, list[Case]],
        limits: Limits,
        processes: int,
    ):
        self.outcome, self.asked, self.questions, self.cells = Outcome(), False, questions, len(cells)
        names = ("cell_seconds", "total_seconds", "own_seconds", "question_seconds", "process_bytes")
        bounds = {name: getattr(limits, name) for name in names}
        bounds |= {"file_bytes": limits.disk_bytes, "processes": processes}
        bounds["answers_seconds"] = self.answers_seconds = answers_seconds(limits, len(questions))
        self.cells_seconds = cells_seconds(limits)
        job = {"cells": cells, "own": list(own), "limits": bounds}
        self.unsent = memoryview(pack("job", json.dumps(job).encode()))
        self.end = time.monotonic() + STARTUP_SECONDS
        self.received, self.bytes, self.frames = bytearray(), 0, 0

    def receive(self, chunk: bytes) -> None:
        """Take bytes as they come, and feed the frames that are complete."""
        self.received += chunk
        self.bytes += len(chunk)
        for name, data in frames_of(self.received):
            self.feed(name, data)

    def feed(self, name: str, data: bytes) -> None:
        """Take one frame; each part has its time once, whatever is said twice."""
        self.frames += 1
        if name == "ready" and not self.outcome.ready:
            self.outcome.ready = True
            self.end = time.monotonic() + self.cells_seconds + LATE_SECONDS
        elif name == "cells" and not self.asked:
            self.outcome.cells, self.asked = _cell_reports(data, self.cells), True
            self.unsent = memoryview(pack("cases", encode_cases(self.questions)))
            self.end = time.monotonic() + self.answers_seconds + LATE_SECONDS
        elif self.frames <= FRAMES_LIMIT:
            self.outcome.frames[name] = data

    def excess(self) -> str:
        """Say what is too much, an empty string if nothing is."""
        if self.bytes > OUTPUT_LIMIT:
            return f"sent more than {OUTPUT_LIMIT >> 20} MiB"
        if self.frames > FRAMES_LIMIT:
            return f"sent more than {FRAMES_LIMIT:,} messages"
        return "took too long" if time.monotonic() > self.end else ""


def cells_seconds(limits: Limits) -> float:
    """Return the most seconds that all cells may take: as much again for what must run anew, see `inside`."""
    return 2 * (limits.total_seconds + limits.own_seconds + INTERRUPT_SECONDS)


def answers_seconds(limits: Limits, questions: int) -> float:
    """Return the most seconds that all questions may take."""
    return (limits.question_seconds + INTERRUPT_SECONDS) * questions


def longest(limits: Limits, questions: int) -> float:
    """Return the most seconds from the start of a sandbox to its end, whatever it does."""
    running = cells_seconds(limits) + answers_seconds(limits, questions) + 2 * LATE_SECONDS
    return STARTUP_SECONDS + running + REMOVE_SECONDS + END_SECONDS


def converse(
    process: subprocess.Popen,
    cells: list[str],
    questions: dict[str, list[Case]],
    limits: Limits,
    watch: Watch | None,
    own: Sequence[int] = (),
) -> Outcome:
    """Send the job, then the cases, and collect frames until the sandbox has closed its output.

    `watch` looks after the sandbox, unless that keeps its own. `own` are the indices of cells that are the
    student's own, and neither ours nor answers.
    """
    processes = limits.processes + tasks_of_this_user() if watch else 0
    talk, looked = Conversation(cells, own, questions, limits, processes), 0.0
    outcome, out = talk.outcome, process.stdout.fileno()
    os.set_blocking(process.stdin.fileno(), False)
    while not outcome.stopped:
        readable, writable, _ = select.select([out], [process.stdin] if talk.unsent else [], [], 0.1)
        if writable:
            talk.unsent = talk.unsent[_sent(process.stdin.fileno(), talk.unsent) :]
        chunk = os.read(out, 1 << 20) if readable else None
        if chunk:
            talk.receive(chunk)
        outcome.stopped = talk.excess()
        ended = chunk == b"" or (process.poll() is not None and not select.select([out], [], [], 0.0)[0])
        if watch and not outcome.stopped and (ended or time.monotonic() - looked > LOOK):
            looked = time.monotonic()
            outcome.stopped = watch.excess(files=outcome.ready)
        if ended:  # or it is dead, though a process that it left behind holds its output open
            break
    return outcome


def _sent(descriptor: int, data: memoryview) -> int:
    """Write what fits, and return how much of the data that settles: all of it when nobody reads any more."""
    try:
        return os.write(descriptor, data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


def frames_of(received: bytearray) -> Iterator[tuple[str, bytes]]:
    """Yield and remove the complete frames, as name and data, at the start of what was received."""
    while len(received) >= HEADER.size:
        name_length, data_length = HEADER.unpack(received[: HEADER.size])
        stop = HEADER.size + name_length + data_length
        if len(received) < stop:
            return
        name = bytes(received[HEADER.size : HEADER.size + name_length])[:200].decode("utf-8", "replace")
        data = bytes(received[HEADER.size + name_length : stop])
        del received[:stop]
        yield name, data


def _cell_reports(data: bytes, expected: int) -> list[dict]:
    """Read what is said about the cells: short texts and a number each, whatever was sent."""
    try:
        reports = json.loads(data if len(data) <= REPORTS_LIMIT else b"")
        keys = ("status", "text", "error")
        said = [{key: str(report[key])[:25_000] for key in keys} for report in reports[:expected]]
        return [one | {"status": one["status"] if one["status"] in STATUSES else "unknown"} for one in said]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [{"status": "unknown", "text": "", "error": ""}] * expected


def encode_cases(questions: dict[str, list[Case]]) -> bytes:
    """Return the cases of questions as they are sent: drivers and, in base64, inputs as .npy."""

    def encoded(array: np.ndarray) -> str:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        return base64.b64encode(file.getvalue()).decode()

    def sent(case: Case) -> dict:
        inputs = {name: encoded(value) for name, value in case.inputs.items()}
        return {"driver": case.driver, "inputs": inputs}

    return json.dumps({name: [sent(case) for case in cases] for name, cases in questions.items()}).encode()
