"""Run a notebook and the drivers of its questions: the only part of the grader that is inside the sandbox.

Nothing that comes out of here is believed. This file is handed to the sandbox alone, so it imports nothing of
the course. It speaks frames over standard input and output:

    in   job      limits and the sources of the code cells
    out  ready    the interpreter and torch are there: what fails before is the machine, after is the student
    out  cells    what every cell did
    in   cases    drivers and inputs, sent only now: no output of a cell that is shown can hold them
    out  q1/0/y   output y of case 0 of question q1, as .npy; or q1 with {"error": type} or {"timeout": true}

Processes: this one watches; a worker runs the cells in IPython; for each question the worker forks a child
that runs the cases, so that a question that hangs, dies or breaks the namespace does not touch the others. A
cell that does not stop when interrupted, or kills the worker, is left out and a new worker runs the rest.
"""

import base64
import contextlib
import io
import json
import os
import resource
import select
import signal
import struct
import sys
import time
import types
from multiprocessing import Pipe

HEADER = struct.Struct(">IQ")
TEXT_LIMIT = 20_000  # characters kept of what one cell prints
INTERRUPT_SECONDS = 3.0  # between asking a cell to stop and killing it


def pack(name: str, data: bytes) -> bytes:
    """Return one frame: the lengths of name and data, then both."""
    encoded = name.encode("utf-8", "replace")
    return HEADER.pack(len(encoded), len(data)) + encoded + data


def unpack(stream) -> tuple[str, bytes]:
    """Read one frame of the trusted side from a binary stream."""
    name_length, data_length = HEADER.unpack(stream.read(HEADER.size))
    return stream.read(name_length).decode(), stream.read(data_length)


class Capped(io.TextIOBase):
    """Keep the first characters that are written and count the rest."""

    encoding = "utf-8"

    def __init__(self):
        self.parts, self.room = [], TEXT_LIMIT

    def writable(self):
        """Say yes, as `print` asks."""
        return True

    def write(self, text):
        """Keep what there is room for."""
        if self.room > 0:
            self.parts.append(text[: self.room])
            self.room -= len(text)
        return len(text)

    def text(self):
        """Return what was kept."""
        return "".join(self.parts) + ("\n[cut]" if self.room < 0 else "")


def limit_resources(limits: dict) -> None:
    """Lower the limits of this process and of all that come from it; the memory limit counts from here."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    if limits["processes"]:
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"],) * 2)
    if sys.platform == "linux":  # elsewhere (docker aside) there is only `--sandbox none`
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + limits["process_bytes"],) * 2)


def make_shell():
    """Return an IPython shell in a fresh `__main__`, without history, colours or pictures."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    shell = InteractiveShell.instance(config=config, user_module=module)
    shell.display_formatter.active_types = ["text/plain"]
    shell.showtraceback = shell.showsyntaxerror = lambda *args, **kwargs: None  # we say it in one line
    shell.enable_gui = lambda *args: None  # %matplotlib asks for it; there is no window
    return shell


def run_cell(shell, source: str) -> dict:
    """Run one cell and return its status, the text it printed and, in one line, the error it ended with."""
    printed, started = Capped(), time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            result = shell.run_cell(source, store_history=False)
        error = result.error_before_exec or result.error_in_exec
    except BaseException as raised:  # whatever the cell did to IPython
        error = raised
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = "ok" if error is None else "timeout" if isinstance(error, KeyboardInterrupt) else "error"
    try:
        message = "" if error is None else f"{type(error).__name__}: {error}"[:2000]
    except Exception:
        message = "an error that cannot be printed"
    seconds = round(time.monotonic() - started, 2)
    return {"status": status, "text": printed.text(), "error": message, "seconds": seconds}


def run_cells(cells: list[str], dropped: dict[int, str], until: float, report) -> dict:
    """Run the cells in one namespace, telling the watcher before and after each; return the namespace."""
    shell = make_shell()
    for index, source in enumerate(cells):
        if index in dropped or time.monotonic() > until:
            done = {"status": dropped.get(index, "skipped"), "text": "", "error": "", "seconds": 0.0}
        else:
            report({"begin": index})
            done = run_cell(shell, source)
        report({"end": index, **done})
    return shell.user_module.__dict__


def as_npy(value) -> bytes:
    """Return a tensor, array or number as the bytes of an .npy file of plain numbers."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(value, order="C"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def run_question(question: str, cases: list[dict], namespace: dict) -> bytes:
    """Run the drivers of one question; return frames with their outputs, or one that names the error."""
    frames = []
    for number, case in enumerate(cases):
        try:
            import random

            import numpy as np
            import torch

            random.seed(0), np.random.seed(0), torch.manual_seed(0)
            arrays = {name: io.BytesIO(base64.b64decode(data)) for name, data in case["inputs"].items()}
            inputs = {name: np.load(file, allow_pickle=False) for name, file in arrays.items()}
            outputs = {}
            # In names of its own: a notebook may well have an `outputs` or a `value` that its functions use.
            scope = {**namespace, "inputs": inputs, "outputs": outputs}
            exec(compile(case["driver"], "<case>", "exec"), scope)
            frames += [pack(f"{question}/{number}/{name}", as_npy(value)) for name, value in outputs.items()]
        except BaseException as error:
            return pack(question, json.dumps({"error": type(error).__name__, "case": number}).encode())
    return b"".join(frames)


def run_questions(questions: dict[str, list[dict]], seconds: float, namespace: dict, out) -> None:
    """Fork a child for each question, wait for its frames as long as it may take, and pass them on."""
    for question, cases in questions.items():
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setpgid(0, 0)
                frames = run_question(question, cases, namespace)
                with os.fdopen(write_end, "wb") as file:
                    file.write(struct.pack(">Q", len(frames)) + frames)
            finally:
                os._exit(0)
        os.close(write_end)
        frames = receive(read_end, time.monotonic() + seconds)
        os.close(read_end)
        kill(child)
        out.write(pack(question, b'{"timeout": true}') if frames is None else frames)
        out.flush()


def kill(child: int) -> None:
    """Kill a child of this process, whatever it made of its process group, and reap it."""
    for send in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            send(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.waitpid(child, 0)


def receive(descriptor: int, until: float) -> bytes | None:
    """Read what a question's child sends: None after the time limit, nothing from a child that died."""
    data = bytearray()
    while len(data) < 8 or len(data) < 8 + struct.unpack(">Q", data[:8])[0]:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return b""
        data += chunk
    return bytes(data[8:])


def attempt(job: dict, dropped: dict[int, str], until: float, stdin, out) -> int | None:
    """Let one worker run cells and questions; return the cell that it did not survive."""
    here, there = Pipe(duplex=False)
    worker = os.fork()
    if worker == 0:
        try:
            os.setpgid(0, 0)
            tell = lambda message: there.send_bytes(json.dumps(message).encode())  # noqa: E731
            namespace = run_cells(job["cells"], dropped, until, tell)
            there.send_bytes(b'{"finished": true}')
            questions = json.loads(unpack(stdin)[1])
            run_questions(questions, job["limits"]["question_seconds"], namespace, out)
        finally:
            os._exit(0)
    there.close()
    done, running, deadline, interrupted = {}, None, until + INTERRUPT_SECONDS, False
    try:
        while True:
            if not here.poll(max(0.0, deadline - time.monotonic())):
                if interrupted or running is None:
                    return running
                os.kill(worker, signal.SIGINT)
                interrupted, deadline = True, time.monotonic() + INTERRUPT_SECONDS
                continue
            message = json.loads(here.recv_bytes())
            if "begin" in message:
                running, interrupted = message["begin"], False
                deadline = min(until, time.monotonic() + job["limits"]["cell_seconds"])
            elif "end" in message:
                done[message.pop("end")], running = message, None
                deadline, interrupted = until + INTERRUPT_SECONDS, False
            else:
                out.write(pack("cells", json.dumps([done[i] for i in range(len(job["cells"]))]).encode()))
                out.flush()
                os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
                return None
    except (EOFError, OSError):  # the worker is gone
        return running
    finally:
        kill(worker)


def main() -> None:
    """Do one job: limits, imports, cells, cases."""
    if os.getuid() == 0 and len(sys.argv) > 1:  # root set up the sandbox and must not run the job
        os.setgroups([])
        os.setresgid(*[int(sys.argv[1])] * 3)
        os.setresuid(*[int(sys.argv[1])] * 3)
    stdin, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    job = json.loads(unpack(stdin)[1])
    import numpy  # noqa: F401 (imported once, for every worker)
    import torch

    torch.set_num_threads(1)
    limit_resources(job["limits"])
    out.write(pack("ready", b""))
    out.flush()
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    total, dropped = job["limits"]["total_seconds"], {}
    until = time.monotonic() + total
    last = until + total  # a cell that must be killed costs a new start, but no more than as much time again
    while True:
        started = time.monotonic()
        culprit = attempt(job, dropped, until, stdin, out)
        ended = time.monotonic()
        if culprit is None or culprit in dropped or ended > last:
            return
        dropped[culprit] = "timeout" if ended - started > job["limits"]["cell_seconds"] else "killed"
        until = min(until + ended - started, last)


if __name__ == "__main__":
    main()
