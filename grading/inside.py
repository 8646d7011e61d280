"""Run a notebook and the drivers of its questions: the only part of the grader that is inside the sandbox.

Nothing that comes out of here is believed. This file is handed to the sandbox alone, so it imports nothing of
the course. It speaks frames over standard input and output:

    in   job      limits, the sources of the code cells, and which of them are the student's own
    out  ready    the interpreter and torch are there: what fails before is the machine, after is the student
    out  cells    what every cell did
    in   cases    drivers and inputs, sent only now: no output of a cell that is shown can hold them
    out  q1/0/y   output y of case 0 of question q1, as .npy; or q1 with {"error": type} or {"timeout": true}

Processes: the first one only outlasts the others; the second watches; a worker runs the cells in IPython; for
each question the worker forks a child that runs the cases, so that a question that hangs, dies or breaks the
namespace does not touch the others. A cell that does not stop when interrupted, or kills the worker, is left
out and a new worker runs the rest.

Started as `inside.py --warm`, it imports what every notebook imports, runs no code of anybody, and forks one
child after the other that does a job as above, behind walls of its own (see `put_up_walls`).
"""

import base64
import builtins
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types

HEADER = struct.Struct(">IQ")
TEXT_LIMIT = 20_000  # characters kept of what one cell prints
INTERRUPT_SECONDS = 3.0  # between asking a cell to stop and killing it
MODULES = {  # what drivers may call by these names, whatever a notebook made of them
    "F": "torch.nn.functional",
    "math": "math",
    "nn": "torch.nn",
    "np": "numpy",
    "numpy": "numpy",
    "torch": "torch",
}
REPORT_LIMIT = 1 << 19  # bytes of what is said about one cell: its text, each character written as 12 at most
REPORTS_LIMIT = 8 << 20  # bytes of what is said about all cells
ANSWER_LIMIT = 64 << 20  # bytes of what is sent for one question


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


def uncompiled(model=None, **_):
    """Stand for `torch.compile`: there is no compiler, and what it makes computes the same."""
    return (lambda function: function) if model is None else model


def make_shell():
    """Return an IPython shell in a fresh `__main__`, without history, colours or pictures."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "NoColor"
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    sys.path.insert(0, "")  # as in Jupyter: what a cell writes, the next one can import
    torch.compile = uncompiled
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
    seconds, early = round(time.monotonic() - started, 2), isinstance(error, NameError | ImportError)
    done = {"status": status, "text": printed.text(), "error": message, "seconds": seconds}
    return done | {"early": early}  # whether a name was missing, which a later cell may give


def run_cells(job: dict, dropped: dict[int, str], until: float, report) -> dict:
    """Run the cells in one namespace, telling the watcher before and after each; return the namespace.

    The student's own cells share a budget of time, so that slow ones cost no answer its turn. A cell that
    missed a name runs again once the others have run, as it does for a student who works in another order;
    what later cells made of a name stays.
    """
    shell, limits, own = make_shell(), job["limits"], set(job["own"])
    names, made, last = shell.user_module.__dict__, {}, {}
    left = {True: limits["own_seconds"], False: limits["total_seconds"]}
    waiting, again = list(range(len(job["cells"]))), False
    while waiting:
        early = []
        for index in waiting:
            late = left[index in own] <= 0 or time.monotonic() > until
            if late and again:
                continue
            if late or index in dropped:
                done = {"status": dropped.get(index, "skipped"), "text": "", "error": "", "seconds": 0.0}
            else:
                report({"begin": index})
                later = {name: names[name] for name in names.keys() & last if last[name] > index}
                done = run_cell(shell, job["cells"][index])
                names.update(later)
                left[index in own] -= done["seconds"]
                early += [index] if done.pop("early") else []
                new = {name: id(value) for name, value in names.items()}  # no references: memory is short
                last |= {name: index for name in new if name not in later and made.get(name) != new[name]}
                made = new
            report({"end": index, **done})
        waiting, again = early if len(early) < len(waiting) else [], True
    return names


def as_npy(value) -> bytes:
    """Return a tensor, array or number as the bytes of an .npy file of plain numbers."""
    import numpy as np

    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(value, order="C"), version=(1, 0), allow_pickle=False)
    return file.getvalue()


def real_names(code: types.CodeType, namespace: dict) -> dict[str, object]:
    """Return what a driver's names of builtins and modules mean: a notebook may have a `max` of its own."""
    pending, names = [code], {}
    while pending:
        code = pending.pop()
        pending += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
        for name in namespace.keys() & code.co_names:
            if hasattr(builtins, name):
                names[name] = getattr(builtins, name)
            elif name in MODULES:
                names[name] = importlib.import_module(MODULES[name])
    return names | {"__builtins__": builtins}


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
            code = compile(case["driver"], "<case>", "exec")
            scope = {**namespace, **real_names(code, namespace), "inputs": inputs, "outputs": outputs}
            exec(code, scope)
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


def wait_for(child: int, until: float) -> None:
    """Wait until a child has ended, no longer than a time, and leave it to be reaped."""
    while time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.01)


def receive(descriptor: int, until: float) -> bytes | None:
    """Read what a question's child sends: None after the time limit, nothing from one that died or lies."""
    data = bytearray()
    while len(data) < 8 or len(data) < 8 + struct.unpack(">Q", data[:8])[0]:
        chunk = read_until(descriptor, until)
        if chunk is None:
            return None
        data += chunk
        if not chunk or len(data) > 8 + ANSWER_LIMIT:
            return b""
    return bytes(data[8:])


def read_until(descriptor: int, until: float) -> bytes | None:
    """Read what there is, waiting for it no longer than a time; None if nothing came, empty at the end."""
    left = until - time.monotonic()
    return os.read(descriptor, 1 << 20) if left > 0 and select.select([descriptor], [], [], left)[0] else None


def as_json(reports: list[dict]) -> bytes:
    """Return what is said of all cells, their texts cut as short as it takes."""
    room = TEXT_LIMIT
    while len(said := json.dumps(reports).encode()) > REPORTS_LIMIT and room:
        room //= 2
        reports = [{**report, "text": str(report.get("text"))[:room]} for report in reports]
    return said


class Reports:
    """What a worker says about its cells, line by line; its cells can reach the pipe and say anything."""

    def __init__(self, descriptor: int):
        self.descriptor, self.data = descriptor, bytearray()

    def next(self, until: float) -> dict | None:
        """Return the next one, None if it is not complete in time.

        Raises EOFError when no more can come, ValueError for what is no report.
        """
        while True:
            length = self.data.find(b"\n")
            if (len(self.data) if length < 0 else length) > REPORT_LIMIT:
                raise ValueError("a report that is too long")
            if length >= 0 and time.monotonic() < until:
                report = json.loads(self.data[:length])
                del self.data[: length + 1]
                return report if isinstance(report, dict) else {}
            chunk = read_until(self.descriptor, until)
            if chunk is None:
                return None
            if not chunk:
                raise EOFError
            self.data += chunk


def attempt(job: dict, dropped: dict[int, str], until: float, stdin, out) -> int | None:
    """Let one worker run cells and questions; return the cell that it did not survive.

    Its cells can reach what it speaks through, so the clock is kept here: a cell has the clock from its begin
    until another one begins, and has the time of one cell however often it begins; whatever else is said
    changes nothing.
    """
    count, limit = len(job["cells"]), job["limits"]["cell_seconds"]
    own, own_seconds = set(job["own"]), job["limits"]["own_seconds"]
    here, there = os.pipe()
    worker = os.fork()
    if worker == 0:
        try:
            os.setpgid(0, 0)
            os.close(here)
            with os.fdopen(there, "w") as pipe:

                def report(message):
                    pipe.write(json.dumps(message) + "\n")
                    pipe.flush()

                namespace = run_cells(job, dropped, until, report)
                report({"finished": True})
            questions = json.loads(unpack(stdin)[1])
            run_questions(questions, job["limits"]["question_seconds"], namespace, out)
        finally:
            os._exit(0)
    os.close(there)
    reports, done, spent = Reports(here), {}, [0.0] * count
    running, began, idle = None, 0.0, True  # whose clock it is, since when, and whether it has said its end
    deadline, interrupted = until + INTERRUPT_SECONDS, False
    try:
        while True:
            said, now = reports.next(deadline), time.monotonic()
            cell = said and said.get("begin", said.get("end"))
            if said is None:
                if interrupted or idle:
                    return running
                os.kill(worker, signal.SIGINT)
                interrupted, deadline = True, now + INTERRUPT_SECONDS
            elif type(cell) is not int or not 0 <= cell < count:
                if said.get("finished") and len(done) == count:
                    break
            elif "begin" in said and idle:
                idle = False
                if cell != running:
                    if running is not None:
                        spent[running] += now - began
                    running, began, interrupted = cell, now, False
                    left = own_seconds - sum(spent[index] for index in own) if cell in own else limit
                    deadline = min(until, now + min(limit - spent[cell], left))
            elif "end" in said and (idle or cell == running):
                deadline += 0.0 if cell in done else INTERRUPT_SECONDS  # for the next one to begin
                done[cell], idle = said, True
        out.write(pack("cells", as_json([done[index] for index in range(count)])))
        out.flush()
        wait_for(worker, time.monotonic() + job["limits"]["answers_seconds"])
        return None
    except (EOFError, OSError, ValueError, RecursionError):  # the worker is gone, or speaks no sense
        return running
    finally:
        os.close(here)
        kill(worker)


def close_standard() -> None:
    """Put nothing in the place of standard input, output and error."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)


def do_job() -> None:
    """Do one job that comes over standard input: limits, imports, cells, cases."""
    stdin, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    job = json.loads(unpack(stdin)[1])
    import numpy as np  # once, for every worker
    import torch

    np.random.seed()  # a child of a warm parent would begin where the one before it did
    torch.set_num_threads(1)
    limit_resources(job["limits"])
    out.write(pack("ready", b""))
    out.flush()
    close_standard()
    total, dropped = job["limits"]["total_seconds"] + job["limits"]["own_seconds"], {}
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


# The warm parent. Numbers are those of the Linux headers, the same for every processor.

NEW_NAMESPACES = 0x20000 | 0x08000000 | 0x20000000 | 0x40000000  # mounts, IPC, processes, network
NEW_USERS = 0x10000000
READ_ONLY, NO_SUID, NO_DEVICES, NO_PROGRAMS = 1, 2, 4, 8  # flags of mount
AGAIN, BIND, RECURSIVE, PRIVATE = 1 << 5, 1 << 12, 1 << 14, 1 << 18
SET_FILTER, DROP_BOUND, SUBREAPER, NO_NEW_PRIVILEGES = 22, 24, 36, 38  # of prctl
CAPABILITIES = 64  # there are about 40
WRITABLE = ("/tmp", "/dev/shm")  # places of a child's own


class Program(ctypes.Structure):
    """A filter of system calls, as the kernel takes it."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def system_call(name: str, *arguments) -> None:
    """Call a function of the C library and raise OSError if it fails."""
    words = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*words) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def become(user: int) -> None:
    """Turn from root, who set up the sandbox and must not run the job, into an ordinary user."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def leave_namespaces() -> None:
    """Move to new namespaces; the next fork is the first process of its own. Only root needs no new users."""
    user, group = os.getuid(), os.getgid()
    system_call("unshare", NEW_NAMESPACES | (NEW_USERS if user else 0))
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def put_up_walls(walls: dict) -> None:
    """Shut this process, the first of its namespaces, off from its parent and from all that ran before it.

    It has a session of its own (`kill(0, ...)` reaches a group, whatever the namespace), no open file but its
    standard ones, empty file systems of a size and a number of files, its own /proc, which it cannot write,
    and then no capability, no way to new privileges, and the filter of system calls.
    """
    os.setsid()
    os.closerange(3, 1 << 16)
    system_call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    system_call("mount", b"proc", b"/proc", b"proc", NO_SUID | NO_DEVICES | NO_PROGRAMS, None)
    size = f"size={walls['disk_bytes']},nr_inodes={walls['files']},mode=1777".encode()
    course = [(path, os.open(path, os.O_PATH)) for path in walls["course"] if path.startswith(WRITABLE)]
    for place in WRITABLE:
        system_call("mount", b"tmpfs", place.encode(), b"tmpfs", NO_SUID | NO_DEVICES, size)
    for path, descriptor in course:  # what lies there is hidden now: it comes back, as it was, to be read
        os.makedirs(path, exist_ok=True)
        system_call("mount", b"/proc/self/fd/%d" % descriptor, path.encode(), None, BIND | RECURSIVE, None)
        os.close(descriptor)
    os.chdir("/tmp")
    if os.getuid():  # in a namespace of users, where the number bounds those below: for root, the machine's
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
    flags = NO_SUID | NO_DEVICES | NO_PROGRAMS | READ_ONLY | AGAIN | BIND
    system_call("mount", None, b"/proc", None, flags, None)
    with contextlib.suppress(OSError):  # numbers beyond the last capability
        for capability in range(CAPABILITIES):
            system_call("prctl", DROP_BOUND, capability, 0, 0, 0)
    if not os.getuid():
        become(walls["user"])
    system_call("capset", struct.pack("II", 0x20080522, 0), bytes(24))
    system_call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    program = base64.b64decode(walls["filter"])
    filter_of_calls = Program(len(program) // 8, program)
    system_call("prctl", SET_FILTER, 2, ctypes.byref(filter_of_calls), 0, 0)


def outlast(job: int) -> None:
    """Be the first process of a namespace: reap every orphan in it until the job has ended or is stopped.

    A stranger that stops the job's clock (SIGSTOP) so ends its own run; here, no signal from inside arrives.
    Nothing stays open, for what the trusted side reads must not be a stranger's to write.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one of which Python makes an exception
    close_standard()
    while os.waitpid(-1, os.WUNTRACED)[0] != job:
        pass


def fork_job(control: socket.socket, walls: dict, job_in: int, out: int) -> int:
    """Fork a child that does a job behind walls of its own, and return its process id."""
    read_end, write_end = os.pipe()
    if (between := os.fork()) == 0:  # a process is never in the process namespace that it makes
        try:
            leave_namespaces()
            child = os.fork()
            if child == 0:
                control.send(b"started")  # the kernel adds the sender's process id, as the other side sees it
                os.dup2(job_in, 0), os.dup2(out, 1)
                put_up_walls(walls)
                if (job := os.fork()) == 0:
                    do_job()
                else:
                    outlast(job)
            else:
                os.write(write_end, b"%d" % child)
        except BaseException:
            traceback.print_exc()  # before the job is ready: for the trusted side
        finally:
            os._exit(0)
    os.close(write_end)
    child = os.read(read_end, 100)
    os.close(read_end)
    os.waitpid(between, 0)
    return int(child)


def stay_warm(descriptor: int) -> None:
    """Import modules, then fork a child for each job that is asked for, until the trusted side hangs up."""
    control = socket.socket(fileno=descriptor)
    import numpy  # noqa: F401
    import torch

    torch.set_num_threads(1)
    for name in json.loads(control.recv(1 << 16)):
        with contextlib.suppress(Exception):  # the notebook's own cell will say what is missing
            importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an import started threads, which no fork takes along")
    gc.freeze()  # what is there stays: children need not copy it to count references
    system_call("prctl", SUBREAPER, 1, 0, 0, 0)  # the parent of children whose own parent has gone
    control.send(b"warm")
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 2)
        if not order:
            return
        child = fork_job(control, json.loads(order), *descriptors)
        for one in descriptors:
            os.close(one)
        control.recv(1)  # the trusted side has what it wants, or hung up
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)  # returns when everything in its process namespace is dead
        control.send(b"ended")


def main() -> None:
    """Do one job, or stay to fork children that do."""
    if len(sys.argv) > 2:
        stay_warm(int(sys.argv[2]))
        return
    if os.getuid() == 0 and len(sys.argv) > 1:
        become(int(sys.argv[1]))
    if (job := os.fork()) == 0:
        do_job()
    else:
        outlast(job)


if __name__ == "__main__":
    main()
    os._exit(0)  # at once: there is nothing to tidy up
