"""A sandbox that is started once and runs one submission after the other, each behind walls of its own.

Starting Python and importing torch and the course take most of the time that a submission needs. Here a
sandbox of the usual kind starts `inside.py --warm`, which imports what every notebook imports, runs no code
of anybody, and for each submission forks a child. Before it knows its job, the child gets namespaces of its
own (processes, mounts, network, IPC and, unless it is root's, users), empty file systems, and loses every
capability: it can neither see nor signal its parent, nor leave anything for the next. Only the filter of
system calls is the child's alone, for its walls are made by calls that it refuses.

What children of one parent share is what was random when the parent started: where libraries lie in memory
and the seed of `hash`. No submission has a way to tell another. Random numbers are seeded anew in each.

References: Linux manual pages namespaces(7), user_namespaces(7), pid_namespaces(7), unix(7).
"""

import ast
import base64
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from grading import seccomp
from grading.channel import STARTUP_SECONDS, Outcome, converse
from grading.homework import Homework
from grading.questions import Case, Limits
from grading.sandbox import Sandbox, course, end, last_words, ordinary_user, why_unsafe
from tools.handed_in import Cell

ALWAYS = ("IPython.core.interactiveshell",)  # beside NumPy and torch
CREDENTIALS = struct.Struct("3i")  # process, user and group id of who sent a message


def imports_of(cells: Iterable[Cell]) -> list[str]:
    """Return the modules that cells import, names that are taken out of a module among them."""
    found = dict.fromkeys(ALWAYS)
    for cell in cells:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                found |= {name.name: None for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {
                    name: None for one in node.names for name in (node.module, f"{node.module}.{one.name}")
                }
    return list(found)


def runner(sandbox: Sandbox, homework: Homework, *, cold: bool = False) -> "Warm | Sandbox":
    """Return what runs the submissions of a homework: a warm sandbox where that can be had, unless `cold`."""
    if cold or sandbox.kind != "bwrap" or seccomp.program() is None:
        return sandbox
    ours = [cell for cell in homework.release if cell.kind == "code" and "imports" in cell.tags]
    return Warm(sandbox, imports_of(ours))


class Warm:
    """Run submissions as a `Sandbox` does, in children of a warm parent."""

    def __init__(self, sandbox: Sandbox, imports: list[str]):
        """Take a sandbox and what its warm parent is to import; nothing starts before it is needed."""
        self.sandbox, self.kind, self.imports, self.cold = sandbox, sandbox.kind, imports, False
        self.process: subprocess.Popen | None = None
        self.control: socket.socket | None = None

    def run(
        self, cells: list[str], questions: dict[str, list[Case]], limits: Limits, own: Sequence[int] = ()
    ) -> Outcome:
        """Run the cells, then the cases of the questions; return what came back, once the child is dead.

        Where no child comes up, the submission has a sandbox of its own, and so has every later one where
        not even the first child did, which a probe tries.
        """
        if not self.cold:
            try:
                if self.process is None:
                    self._start(limits)
                outcome = self._run(cells, questions, limits, own)
            except OSError as error:
                outcome = Outcome(stderr=f"{type(error).__name__}: {error}")
            if outcome.ready:
                return outcome
            said = f"{outcome.stderr or outcome.stopped} {self.close()}".strip()
            print(f"no warm sandbox, a cold one is used: {said[-1000:]}", file=sys.stderr)
        return self.sandbox.run(cells, questions, limits, own)

    def close(self) -> str:
        """End the parent and all that is in its sandbox; return its last words."""
        if self.process is None:
            return ""
        self.control.close()  # which ends a parent that listens
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        end(self.process)
        process, self.process = self.process, None
        return last_words(process)

    def _start(self, limits: Limits) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.control.settimeout(STARTUP_SECONDS)
        with theirs:
            name = f"grading-{os.urandom(8).hex()}"
            command = self.sandbox.command(limits, name, theirs.fileno())
            self.process = self.sandbox.started(command, [theirs.fileno()])
        self.control.send(json.dumps(self.imports).encode())
        self.cold = True
        self._expect(b"warm")
        if hole := why_unsafe(self._run([self.sandbox.probe], {}, limits)):
            raise ConnectionError(hole)
        self.cold = False

    def _run(
        self, cells: list[str], questions: dict[str, list[Case]], limits: Limits, own: Sequence[int] = ()
    ) -> Outcome:
        walls = {"disk_bytes": limits.disk_bytes, "files": limits.files, "user": ordinary_user()}
        walls["course"] = course()
        walls["filter"] = base64.b64encode(seccomp.program()).decode()
        job_in, job = os.pipe()
        out, out_in = os.pipe()
        with os.fdopen(job, "wb", 0) as stdin, os.fdopen(out, "rb", 0) as stdout:
            socket.send_fds(self.control, [json.dumps(walls).encode()], [job_in, out_in])
            os.close(job_in), os.close(out_in)
            pid = self._expect(b"started")
            child = SimpleNamespace(pid=pid, stdin=stdin, stdout=stdout, poll=self.process.poll)
            with self.sandbox.watched(pid, limits) as watch:
                try:
                    return converse(child, cells, questions, limits, watch, own)
                finally:
                    self.control.send(b"-")
                    self._expect(b"ended")

    def _expect(self, word: bytes) -> int:
        """Wait for a message from the sandbox, and return the process id of its sender.

        Raises OSError if another comes or none.
        """
        said, extra, _, _ = self.control.recvmsg(100, socket.CMSG_SPACE(CREDENTIALS.size))
        if said != word:
            raise ConnectionError(f"expected {word.decode()}, got {said!r}")
        return CREDENTIALS.unpack(extra[0][2])[0]
