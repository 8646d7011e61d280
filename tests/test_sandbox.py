"""The walls around a submission, one by one: memory, files, system calls, clocks, and what comes back."""

import functools
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grading import cgroup, channel, inside, processes, sandbox, seccomp, watchdog
from grading.questions import Limits

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
HANGS, DELAY = 120.0, 60.0  # seconds: what never ends, and what a busy machine may take beyond a clock

HEADERS = [  # of a machine's own Linux, for each column of the table: the second is the one of aarch64
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm-generic/unistd.h"),
]


@pytest.fixture(scope="module")
def box_of():
    """Return the sandbox of a kind, tried once."""
    return functools.cache(lambda kind: sandbox.find(kind, ROOT / "homeworks/homework1/hidden.py"))


def child_of_a_shell(source, *arguments):
    """Start a program below a shell, whose process is then the root of something to watch."""
    command = ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)


def end(process):
    os.killpg(process.pid, 9)
    process.communicate()


# Memory and files

FIRST_THREAD_ENDS = """
import ctypes, os, sys, threading, time

def hold():
    time.sleep(0.5)
    held = bytearray(b"x") * (200 << 20)
    print("held", flush=True)
    time.sleep(60)

threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
"""


def test_memory_of_a_process_whose_first_thread_ended_is_counted():
    process = child_of_a_shell(FIRST_THREAD_ENDS)
    try:
        assert process.stdout.readline() == b"held\n"
        limits = [Limits(memory_bytes=size * MIB) for size in (100, 1000)]
        said = [watchdog.Watch(process.pid, limit).excess(files=False) for limit in limits]
        assert said == ["used more than 100 MiB of memory", ""]
    finally:
        end(process)


def test_sockets_are_counted_as_what_they_can_hold():
    before = watchdog._sockets(os.getpid())
    held = [end for _ in range(40) for end in socket.socketpair()]
    more = watchdog._sockets(os.getpid()) - before
    for one in held:
        one.close()
    assert more >= 60 * 2 * 212_992  # others may close some meanwhile


MAKES_FILES = """
import os
for number in range(200):
    open(f"/tmp/{number}", "w").close()
kept = [open(f"/dev/shm/{number}", "w") for number in range(100)]
for number in range(100):
    os.unlink(f"/dev/shm/{number}")
print("made", flush=True)
input()
"""


def test_files_are_counted_whatever_became_of_their_names_and_of_who_made_them():
    walls = ["--unshare-pid", "--die-with-parent", "--ro-bind", "/", "/", "--tmpfs", "/tmp", "--dev", "/dev"]
    command = [
        next(sandbox.binaries()),
        *walls,
        "--tmpfs",
        "/dev/shm",
        *[part for path in sandbox.course() for part in ("--ro-bind", path, path)],  # which may lie in /tmp
        "--",
        sys.executable,
        "-c",
        MAKES_FILES,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watches = {files: watchdog.Watch(process.pid, Limits(files=files)) for files in (150, 250, 350)}
        assert process.stdout.readline() == b"made\n"
        assert {watch.excess(files=False) for watch in watches.values()} == {""}
        said = {files: watch.excess(files=True) for files, watch in watches.items()}
        process.stdin.close()
    assert said == {150: "made more than 150 files", 250: "made more than 250 files", 350: ""}
    said = {files: watch.excess(files=True) for files, watch in watches.items()}  # all processes have ended
    assert said == {150: "made more than 150 files", 250: "", 350: ""}
    for watch in watches.values():
        watch.close()


GROUPS = cgroup.make(64 * MIB)
if GROUPS:
    GROUPS.remove()
needs_groups = pytest.mark.skipif(not GROUPS, reason="this user may make no memory control group")

HOLDS = """
import os, sys, time
if os.fork():
    os.wait()
    sys.exit()
print("here", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
held = bytearray(b"x") * (int(sys.argv[1]) << 20)
print("held", flush=True)
time.sleep(60)
"""


@needs_groups
@pytest.mark.parametrize(("size", "too_much"), [(10, False), (200, True)])
def test_group_counts_what_all_below_a_process_take_from_then_on(tmp_path, size, too_much):
    process = child_of_a_shell(HOLDS, size, tmp_path / "go")
    assert process.stdout.readline() == b"here\n"
    with cgroup.around(process.pid, 64 * MIB) as group:
        assert {process.pid, *processes.descendants(process.pid)} == set(group.pids())
        assert not group.overflowed()
        (tmp_path / "go").touch()
        assert process.stdout.readline() == (b"" if too_much else b"held\n")  # the kernel killed it
        assert bool(watchdog.Watch(process.pid, Limits(), group).excess(files=False)) == too_much
    assert not group.folder.exists()
    process.communicate(timeout=10)


@needs_groups
def test_groups_that_a_killed_grader_left_are_removed():
    group = cgroup.make(MIB)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = group.folder.with_name(f"grading-{ended.pid}-left")
    left.mkdir()
    cgroup.sweep()
    assert group.folder.exists() and not left.exists()
    group.remove()
    assert not group.folder.exists()


MOUNTED = {
    "version 1": (
        "4:memory:/work\n0::/\n",
        "30 1 0:1 / {place} rw - cgroup cgroup rw,memory\n31 1 0:2 / {other} rw - cgroup cgroup rw,cpu\n",
        [(1, "place/work")],
    ),
    "version 1 in a container": (
        "4:cpuacct,memory:/docker/1/a\n",
        "30 1 0:1 /docker/1 {place} rw shared:9 - cgroup cgroup rw,memory\n",
        [(1, "place/a")],
    ),
    "version 2": (
        "0::/user/session\n",
        "30 1 0:1 / {place} rw - cgroup2 cgroup2 rw\n",
        [(2, "place/user"), (2, "place")],
    ),
    "version 2 of which another part is seen": (
        "0::/../session\n",
        "30 1 0:1 / {place} rw - cgroup2 cgroup2 rw\n",
        [],
    ),
    "none": ("", "30 1 0:1 / {place} rw - tmpfs tmpfs rw\n", []),
}


@pytest.mark.parametrize("name", MOUNTED)
def test_place_for_a_group_is_found(tmp_path, monkeypatch, name):
    own, mounts, expected = MOUNTED[name]
    (tmp_path / "place/user/session").mkdir(parents=True)
    for folder, shared in (("", "cpu memory"), ("user", "memory pids"), ("user/session", "")):
        (tmp_path / "place" / folder / "cgroup.subtree_control").write_text(shared)
    files = {"/proc/self/cgroup": own}
    files["/proc/self/mountinfo"] = mounts.format(place=tmp_path / "place", other=tmp_path / "other")
    monkeypatch.setattr(cgroup, "read", lambda path, read=cgroup.read: files.get(str(path)) or read(path))
    assert list(cgroup._parents()) == [(version, tmp_path / folder) for version, folder in expected]


def test_group_of_version_2_is_asked_for_memory_without_swap(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "_parents", lambda: iter([(2, tmp_path)]))
    monkeypatch.setattr(cgroup, "REMOVE_SECONDS", 0.0)
    mkdir = Path.mkdir

    def made_by_the_kernel(folder):
        mkdir(folder)
        for name in ("memory.max", "memory.swap.max", "cgroup.procs"):
            (folder / name).write_text("")
        (folder / "memory.events").write_text("max 9\noom 1\noom_kill 0\n")

    monkeypatch.setattr(Path, "mkdir", made_by_the_kernel)
    group = cgroup.make(5 * MIB)
    assert [(group.folder / name).read_text() for name in ("memory.max", "memory.swap.max")] == [
        "5242880",
        "0",
    ]
    assert not group.overflowed()
    (group.folder / "memory.events").write_text("max 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.overflowed()
    with subprocess.Popen(["sleep", "60"]) as process:
        group.adopt(process.pid)
        assert (group.folder / "cgroup.procs").read_text() == str(process.pid)
        process.kill()


def test_where_there_can_be_no_group_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup, "_parents", lambda: iter([(1, tmp_path / "missing")]))
    with cgroup.around(os.getpid(), MIB) as group:
        assert group is None


@pytest.mark.parametrize("name", ["memory_behind_a_dead_thread", "memory_of_sockets"])
def test_memory_is_counted_where_there_is_no_group(box_of, monkeypatch, name):
    box = box_of("bwrap")
    monkeypatch.setattr(cgroup, "make", lambda memory_bytes: None)
    clocks = {"cell_seconds": HANGS, "total_seconds": 2 * HANGS}
    limits = Limits(**clocks, memory_bytes=3 << 29, process_bytes=1 << 30, processes=32)
    outcome = box.run([(ROOT / f"tests/hostile/{name}.py").read_text()], {}, limits)
    assert outcome.stopped == "used more than 1536 MiB of memory"


# System calls


@pytest.mark.parametrize("column", [0, 1], ids=["x86_64", "aarch64"])
def test_numbers_of_system_calls_are_those_of_linux(column):
    if not HEADERS[column].exists():
        pytest.skip("Linux's own headers are not installed")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[column].read_text()))
    calls = {"clone": seccomp.CLONE, "clone3": seccomp.CLONE3}
    calls |= dict(zip(("socket", "socketpair"), seccomp.SOCKETS, strict=True))
    for name, pair in {**seccomp.REFUSED, **calls}.items():
        assert numbers.get(name) == (None if pair[column] is None else str(pair[column])), name


# Clocks


def attempt(cells, *, total=HANGS, cell=2.0, dropped=None):
    """Let a worker run cells under small limits; return the cell it did not survive, seconds, and reports.

    A clock that is moved runs to `total`; it is so long that a busy machine's delays stay far below.
    """
    limits = {"cell_seconds": cell, "question_seconds": 1.0, "answers_seconds": 2.0}
    limits |= {"total_seconds": total, "own_seconds": total}
    stdin, out = io.BytesIO(inside.pack("cases", b"{}")), io.BytesIO()
    started = time.monotonic()
    known = [int(name) for name in os.listdir("/proc/self/fd")]
    job = {"cells": [cell.replace("KNOWN", repr(known)) for cell in cells], "own": [], "limits": limits}
    culprit = inside.attempt(job, dropped or {}, started + total, stdin, out)
    reports = [json.loads(data) for _, data in channel.frames_of(bytearray(out.getvalue()))]
    return culprit, time.monotonic() - started, reports


# What a cell of a stranger's can do: find the pipe of the worker that it runs in, and speak for it.
PIPE = """
import fcntl, json, os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pipes = [number for number in map(int, os.listdir("/proc/self/fd")) if number not in KNOWN]
pipes = [number for number in pipes if os.path.exists(f"/proc/self/fd/{number}")]
there = next(number for number in pipes if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_WRONLY)
say = lambda text: os.write(there, text.encode("latin-1"))
"""
HANG = f"time.sleep({HANGS})\n"
DONE = {"status": "ok", "text": "", "error": ""}


def test_cells_are_run_in_order_and_said_to_be_done():
    culprit, _, ((one, two, three),) = attempt(["print(1)", "1 / 0", "print(3)"], dropped={0: "killed"})
    assert culprit is None
    assert [cell["status"] for cell in (one, two, three)] == ["killed", "error", "ok"]
    assert three["text"] == "3\n" and two["error"].startswith("ZeroDivisionError")


def test_report_that_never_ends_takes_no_more_time_than_its_cell():
    for begun in ("'\\4\\0\\0\\0'", "'{\"begin\": 0, '"):
        culprit, seconds, reports = attempt(["1", f"{PIPE}say({begun})\n{HANG}"])
        assert (culprit, reports) == (1, [])
        assert 2 <= seconds < 2 + inside.INTERRUPT_SECONDS + DELAY


@pytest.mark.parametrize(
    "lies",
    [
        "say(json.dumps({'begin': 1}) + '\\n')",
        "say(json.dumps({'begin': time.monotonic_ns() % 3}) + '\\n')",
        "say(json.dumps({'end': 2, 'status': 'ok', 'text': '', 'error': ''}) + '\\n')",
        "say(json.dumps({'end': 1}) + '\\n' + json.dumps({'begin': 1}) + '\\n')",
        "say(json.dumps({'begin': 10**30, 'end': [1]}) + '\\n' + json.dumps({'end': 1.0}) + '\\n')",
        "say('[]\\n')",
    ],
)
def test_flood_of_reports_moves_no_clock(lies):
    flood = f"{PIPE}while True:\n    {lies}\n"
    culprit, seconds, reports = attempt(["1", flood, "3"])
    assert (culprit, reports) == (1, [])
    assert 2 <= seconds < 2 + 2 * inside.INTERRUPT_SECONDS + DELAY


@pytest.mark.parametrize("lies", ["'x' * (1 << 20)", "'\\xff\\n'", "'[' * 100_000 + '\\n'"])
def test_report_that_makes_no_sense_ends_its_cell(lies):
    culprit, seconds, reports = attempt(["1", f"{PIPE}say({lies})\n{HANG}"], cell=HANGS)
    assert (culprit, reports) == (1, []) and seconds < DELAY


def test_cells_that_are_said_to_be_done_leave_the_answers_their_time_and_no_more():
    lies = "say('{\"finished\": true}\\n')\n"  # too early, and not listened to
    lies += "".join(f"say(json.dumps({ {'end': number, **DONE} }) + '\\n')\n" for number in range(2))
    lies += "say('{\"finished\": true}\\n')\n"
    culprit, seconds, ((_, second),) = attempt([f"{PIPE}{lies}{HANG}", "print(2)"])
    assert culprit is None and second["text"] == ""
    assert 2 <= seconds < 2 + DELAY


def test_reports_that_are_too_long_together_lose_text_and_nothing_else(monkeypatch):
    assert inside.as_json([{"text": "x" * 100, "error": "e"}]) == b'[{"text": "%s", "error": "e"}]' % (
        b"x" * 100
    )
    monkeypatch.setattr(inside, "REPORTS_LIMIT", 100_000)
    monkeypatch.setattr(channel, "REPORTS_LIMIT", 100_000)
    cells = [{"status": "ok", "text": "\u2588" * inside.TEXT_LIMIT, "error": f"{n}"} for n in range(20)]
    read = channel._cell_reports(inside.as_json(cells), 20)
    assert [cell["error"] for cell in read] == [f"{n}" for n in range(20)]
    assert all(cell["status"] == "ok" and 100 < len(cell["text"]) < 1000 for cell in read)


def test_what_became_of_a_cell_is_one_of_our_words():
    said = json.dumps([{"status": word, "text": "", "error": ""} for word in ("ok", "x" * 25_000)])
    assert [cell["status"] for cell in channel._cell_reports(said.encode(), 2)] == ["ok", "unknown"]


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (inside.struct.pack(">Q", 3) + b"abc", b"abc"),
        (inside.struct.pack(">Q", 1 << 40) + b"x" * 60_000, None),
        (b"x" * 60_000, None),
        (b"", None),
    ],
)
def test_answer_that_never_ends_has_its_time(sent, received):
    here, there = os.pipe()
    os.write(there, sent)
    started = time.monotonic()
    assert inside.receive(here, started + (DELAY if received else 0.5)) == received
    assert time.monotonic() - started < DELAY
    os.close(here), os.close(there)


def test_answer_that_is_too_long_or_flows_for_ever_is_none(monkeypatch):
    monkeypatch.setattr(inside, "ANSWER_LIMIT", 10_000)
    here, there = os.pipe()
    os.write(there, inside.struct.pack(">Q", 1 << 40) + b"x" * 20_000)
    assert inside.receive(here, time.monotonic() + DELAY) == b""
    os.close(there)
    monkeypatch.setattr(inside.os, "read", lambda descriptor, size: b"x")
    monkeypatch.setattr(inside, "ANSWER_LIMIT", 1 << 62)
    started = time.monotonic()
    assert inside.receive(here, started + 0.5) is None and time.monotonic() - started < DELAY
    os.close(here)


def talk(program, **limits):
    """Talk to a program as if it was a sandbox."""
    command = [sys.executable, "-c", f"import sys, time\nout = sys.stdout.buffer\n{program}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            return channel.converse(process, ["1"], {}, Limits(**limits), watch=None)
        finally:
            process.kill()


def test_frames_are_counted_whatever_they_are_called():
    outcome = talk(f"out.write({inside.pack('q1', b'x')!r} * 10_001); out.flush(); time.sleep(60)")
    assert outcome.stopped == "sent more than 10,000 messages"


@pytest.mark.parametrize("name", ["ready", "cells", "q1"])
def test_frames_that_are_said_again_and_again_move_no_clock(monkeypatch, name):
    for constant in ("LATE_SECONDS", "INTERRUPT_SECONDS"):
        monkeypatch.setattr(channel, constant, 0.0)
    first = b"".join(inside.pack(word, b"[]") for word in ("ready", "cells"))
    program = f"out.write({first!r})\nwhile True:\n    out.write({inside.pack(name, b'[]')!r}); out.flush()"
    started = time.monotonic()
    outcome = talk(f"{program}; time.sleep(0.1)", total_seconds=1.0)
    assert outcome.stopped == "took too long" and time.monotonic() - started < 2 * DELAY


def test_longest_time_is_the_sum_of_what_is_waited_for():
    assert channel.longest(Limits(), 0) == 120 + 2 * 423 + 2 * 30 + 10 + 60
    assert channel.longest(Limits(), 10) - channel.longest(Limits(), 0) == 10 * 33


def test_sandbox_that_does_not_die_is_waited_for_no_longer_than_is_said(monkeypatch):
    monkeypatch.setattr(sandbox, "END_SECONDS", 0.2)
    monkeypatch.setattr(sandbox.os, "killpg", lambda *args: None)
    process = subprocess.Popen(["sleep", "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        sandbox.end(process, None)
    process.kill()
    process.wait()


# Docker

DOCKER = """#!/bin/bash
echo "$@" >> {log}
[ "$1" = run ] && exec {python} {inside}
"""


def test_docker_is_told_what_to_run_and_what_to_kill(tmp_path, monkeypatch):
    """Try the command and the talk alone: the docker here is none, and has no walls."""
    log = tmp_path / "log"
    values = {"log": log, "python": sys.executable, "inside": sandbox.INSIDE}
    (tmp_path / "docker").write_text(DOCKER.format(**values))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    box = sandbox.Sandbox("docker", sandbox.docker_command)
    outcome = box.run(["print(6 * 7)"], {}, Limits(memory_bytes=3 << 30))
    assert outcome.cells[0]["text"] == "42\n" and not outcome.stopped
    started, killed = log.read_text().splitlines()
    name = re.search(r"--name (grading-\w+)", started)[1]
    assert killed == f"kill {name}"
    for part in ("run --rm --interactive", f"--memory {3 << 30} --memory-swap {3 << 30}", "--network none"):
        assert part in started


IMAGE = os.environ.get("DGM_GRADER_IMAGE")


@pytest.mark.skipif(not IMAGE, reason="DGM_GRADER_IMAGE names no image: CI's job `docker` does")
@pytest.mark.parametrize("name", ["memory_of_many", "fork_bomb", "fill_disk", "many_files", "kill_everyone"])
def test_docker_holds_what_is_hostile(box_of, name):
    box = box_of("docker")  # which looked for files and a network
    limits = Limits(
        cell_seconds=4, total_seconds=16, memory_bytes=3 << 29, process_bytes=1 << 30, processes=64
    )
    started = time.monotonic()
    box.run([(ROOT / f"tests/hostile/{name}.py").read_text()], {}, limits)
    assert time.monotonic() - started < channel.longest(limits, 0)
    assert box.run(["print(6 * 7)"], {}, limits).cells[0]["text"] == "42\n"
