"""Talk to a sandbox over its standard input and output, and believe nothing that it says.

The frames are described in `inside.py`. Everything is bounded: time, bytes, the number of frames, and, by the
watchdog, the memory and files of the sandbox.
"""

import base64
import io
import json
import os
import selectors
import subprocess
import time
from dataclasses import dataclass, field

import numpy as np

from grading import watchdog
from grading.inside import HEADER, INTERRUPT_SECONDS, pack
from grading.questions import Case, Limits

OUTPUT_LIMIT = 64 << 20  # bytes that one submission may send
REPORT_LIMIT = 8 << 20  # bytes of what it says about its cells
STARTUP_SECONDS = 120.0  # to start the interpreter and import torch on a busy machine


@dataclass
class Outcome:
    """What came back from one run, none of it to be believed."""

    ready: bool = False  # the interpreter started: what went wrong after that is the submission's
    cells: list[dict] = field(default_factory=list)  # status, text, error, seconds of each cell
    frames: dict[str, bytes] = field(default_factory=dict)
    stopped: str = ""  # why the run was ended, empty if it was not
    stderr: str = ""  # of the sandbox itself, before any code of the submission


def converse(
    process: subprocess.Popen,
    cells: list[str],
    questions: dict[str, list[Case]],
    limits: Limits,
    *,
    kind: str,
) -> Outcome:
    """Send the job, then the cases, and collect frames until the sandbox has closed its output."""
    outcome, received, total = Outcome(), bytearray(), 0
    watched = kind != "docker"  # which keeps its own watch
    processes = limits.processes + watchdog.tasks_of_this_user() if watched else 0
    bounds = {
        "cell_seconds": limits.cell_seconds,
        "total_seconds": limits.total_seconds,
        "question_seconds": limits.question_seconds,
        "process_bytes": limits.process_bytes,
        "file_bytes": limits.disk_bytes,
        "processes": processes,
    }
    unsent = memoryview(pack("job", json.dumps({"cells": cells, "limits": bounds}).encode()))
    running = 2 * (limits.total_seconds + INTERRUPT_SECONDS) + limits.question_seconds * len(questions)
    end = time.monotonic() + STARTUP_SECONDS + running
    os.set_blocking(process.stdin.fileno(), False)
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    selector.register(process.stdin, selectors.EVENT_WRITE)
    looked, asked = 0.0, False
    while True:
        for key, _ in selector.select(0.1):
            if key.fileobj is process.stdin:
                try:
                    unsent = unsent[os.write(process.stdin.fileno(), unsent) :]
                except BlockingIOError:
                    continue
                except OSError:  # nobody reads any more
                    unsent = unsent[:0]
                if not unsent:
                    selector.unregister(process.stdin)
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                return outcome
            received += chunk
            total += len(chunk)
            for name, data in _frames(received):
                if name == "ready":
                    outcome.ready = True
                    end = min(end, time.monotonic() + running)
                elif name == "cells" and not asked:
                    outcome.cells, asked = _cell_reports(data, len(cells)), True
                    unsent = memoryview(pack("cases", _cases(questions)))
                    selector.register(process.stdin, selectors.EVENT_WRITE)
                elif len(outcome.frames) < 10_000:
                    outcome.frames[name] = data
        now = time.monotonic()
        if total > OUTPUT_LIMIT:
            outcome.stopped = f"sent more than {OUTPUT_LIMIT >> 20} MiB"
        elif now > end:
            outcome.stopped = "took too long"
        elif watched and now - looked > 0.2:
            looked = now
            outcome.stopped = watchdog.excess(process.pid, limits, files=outcome.ready and kind == "bwrap")
        if outcome.stopped or (process.poll() is not None and not selector.select(0.0)):
            return outcome


def _frames(received: bytearray):
    """Yield and remove the complete frames at the start of what was received."""
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
        reports = json.loads(data if len(data) <= REPORT_LIMIT else b"")
        return [
            {key: str(report[key])[:25_000] for key in ("status", "text", "error")}
            for report in reports[:expected]
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [{"status": "unknown", "text": "", "error": ""}] * expected


def _cases(questions: dict[str, list[Case]]) -> bytes:
    def encoded(array: np.ndarray) -> str:
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        return base64.b64encode(file.getvalue()).decode()

    return json.dumps(
        {
            question: [
                {
                    "driver": case.driver,
                    "inputs": {name: encoded(array) for name, array in case.inputs.items()},
                }
                for case in cases
            ]
            for question, cases in questions.items()
        }
    ).encode()
