"""Grading many: what children of a warm sandbox leave for each other, batches that are killed, clusters."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from grading import processes, sandbox, warm
from grading.questions import Limits
from tests.test_grading import FULL, homework, one_probe, put, reference, result_of, run_cli, status_of

__all__ = ["homework", "one_probe"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(cell_seconds=30, total_seconds=60, own_seconds=60, question_seconds=30)

# Everything by which a submission might reach its parent, those beside it or those that come after it.
LEAVES = """
import os, signal, socket, subprocess, sys, time, types
import numpy as np
import torch
for place in ("/tmp", "/dev/shm"):
    open(f"{place}/leftover", "w").write("leftover")
os.environ["LEFTOVER"] = "leftover"
sys.modules["leftover_module"] = types.ModuleType("leftover_module")
torch.allclose = lambda *arguments, **keywords: True
np.random.seed(0)
hidden = socket.socket(socket.AF_UNIX)
hidden.bind("\\0leftover")
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            signal.signal(number, signal.SIG_IGN) if number not in (9, 19, 32, 33) else None
        while True:
            time.sleep(0.01)
            open("/tmp/leftover", "a").write("late")
for target in (os.getppid(), *range(3, 300)):
    for send in (os.kill, os.killpg):
        try:
            send(target, signal.SIGSTOP) if target not in (1, os.getpid()) else None
        except OSError:
            pass
subprocess.run(["/usr/bin/python3", "-c", "import os; os.kill(0, 9)"])
"""
LOOKS = """
import os, sys
import numpy as np
import torch
found = [name for place in ("/tmp", "/dev/shm") for name in os.listdir(place) if "leftover" in name]
found += [name for name in [*os.environ, *sys.modules] if "leftover" in name.lower()]
if torch.allclose(torch.zeros(1), torch.ones(1)):
    found.append("torch.allclose")
found += open("/proc/net/unix").read().strip().split("\\n")[1:]
found += [name for name in os.listdir("/proc") if name.isdigit() and int(name) > 3]
for wall in lambda: open("/proc/1/mem", "r+b"), lambda: os.chroot("/tmp"), lambda: os.setuid(0):
    try:
        wall()
        found.append("a wall is open")
    except OSError:
        pass
own = dict(line.split(":", 1) for line in open("/proc/self/status"))
walls = [own[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")]
print(found, walls, np.random.random())
"""
FILES = """
import os
made = 0
try:
    while True:
        open(f"/tmp/{made}", "w").close()
        made += 1
except OSError:
    pass
print(made)
"""


@pytest.fixture(scope="module")
def box(homework):
    """One warm sandbox for the tests of this file."""
    kept = warm.Warm(sandbox.find("bwrap", homework / "hidden.py"), ["json"])
    yield kept
    kept.close()


def printed(box, cell, limits=LIMITS):
    outcome = box.run([cell], {}, limits)
    assert [one["status"] for one in outcome.cells] == ["ok"], outcome
    return outcome.cells[0]["text"].strip()


def test_no_submission_leaves_anything_to_the_next(box, capsys):
    first = printed(box, LOOKS)
    process = box.process
    alone = processes.descendants(process.pid)
    box.run([LEAVES], {}, LIMITS)
    assert processes.descendants(process.pid) == alone  # what was left behind is dead
    second = printed(box, LOOKS)
    assert box.process is process, "the parent was stopped or ended"
    walls = ["0" * 16, "0" * 16, "1", "2"]
    for said in (first, second):
        assert said.startswith(f"[] {walls} "), said
    assert first.split()[-1] != second.split()[-1], "both draw the same random numbers"
    assert "no warm sandbox" not in capsys.readouterr().err


STOPS = """
import os, signal, time
os.kill(os.getppid(), signal.SIGSTOP)
time.sleep(600)
"""
INTERRUPTS = """
import os, signal, time
os.kill(1, signal.SIGINT)
time.sleep(1)
"""


@pytest.mark.parametrize("cold", [False, True])
def test_who_stops_the_clock_ends_its_own_run(box, cold):
    started = time.monotonic()
    assert (box.sandbox if cold else box).run([STOPS], {}, LIMITS).ended_early
    assert time.monotonic() - started < 120  # else it is the time of all cells, twice, and later


def test_nothing_that_a_submission_does_is_said_on_the_error_output_of_its_parent(box):
    assert printed(box, INTERRUPTS) == ""
    assert box.close() == ""


def test_number_of_files_is_bounded_by_the_file_system(box):
    limits = dataclasses.replace(LIMITS, files=300)
    assert 250 < int(printed(box, FILES, limits)) < 300


def test_a_parent_that_died_is_replaced_and_one_that_never_lived_is_not_asked_again(box, capsys):
    printed(box, "1")
    first = box.process
    os.kill(first.pid, signal.SIGKILL)
    assert printed(box, "print(6 * 7)") == "42"
    assert "a cold one is used" in capsys.readouterr().err and box.process is None
    assert printed(box, "print(6 * 7)") == "42" and box.process not in (None, first)
    assert not capsys.readouterr().err

    unsafe = warm.Warm(dataclasses.replace(box.sandbox, probe="assert False, 'a hole'"), [])
    assert printed(unsafe, "print(6 * 7)") == printed(unsafe, "print(6 * 7)") == "42"
    assert unsafe.process is None and capsys.readouterr().err.count("AssertionError: a hole") == 1


def lives(pid):
    """Return what tells a process from a later one of the same number, None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if fields[0] != "Z" else None


ONE_ONLY = """
import time
from grading import __main__, pool
say = pool.Progress.say
pool.Progress.say = lambda *said: (say(*said), time.sleep(600))  # there is time to be killed
__main__.main()
"""


def test_batch_that_is_killed_leaves_no_half_record_and_no_process(homework, tmp_path):
    handed_in, out = tmp_path / "in", tmp_path / "out"
    for name in ("anna", "boris", "clara", "dora"):
        put(handed_in / name, reference())
    words = [sys.executable, "-c", ONE_ONLY, "grade", homework, handed_in, "--out", out, "--jobs", "2"]
    batch = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert "[1/4]" in batch.stdout.readline()
    born = {pid: lives(pid) for pid in processes.descendants(batch.pid)}
    os.killpg(batch.pid, signal.SIGKILL)
    batch.wait(), batch.stdout.close()
    until = time.monotonic() + 60
    while left := [pid for pid, birth in born.items() if birth and lives(pid) == birth]:
        assert time.monotonic() < until, f"processes outlived the batch: {left}"
        time.sleep(0.1)
    complete = {path.parent.name for path in out.glob("*/submission.sha256")}
    assert len(complete) == 1
    for path in out.glob("*/graded.json"):
        json.loads(path.read_text())
    before = {name: (out / name / "graded.json").stat().st_mtime_ns for name in complete}
    assert run_cli("grade", homework, handed_in, "--out", out, "--jobs", 2) == 0
    assert before == {name: (out / name / "graded.json").stat().st_mtime_ns for name in complete}
    for name in ("anna", "boris", "clara", "dora"):
        assert status_of(result_of(out, name)) == FULL
    assert not list(out.rglob(".*.part*"))


def test_version_of_the_grader_is_that_of_all_it_imports(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    from grading import cluster

    for folder in ("grading", "tools", "dgm_utils"):
        shutil.copytree(
            ROOT / folder,
            tmp_path / folder,
            ignore=lambda at, names: [n for n in names if "." in n and not n.endswith(".py")],
        )
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    monkeypatch.setattr(cluster, "package", lambda: tmp_path / "dgm_utils")
    hidden = tmp_path / "hidden.py"
    hidden.write_text("from tools import colab_env")
    versions = [cluster.version(hidden)]
    matters = ["grading/inside.py", "tools/handed_in.py", "tools/notebooks.py", "dgm_utils/data.py"]
    for name in [*matters, "tools/colab_env.py", "hidden.py"]:
        with open(tmp_path / name, "a") as file:
            file.write("\n# another version\n")
        versions.append(cluster.version(hidden))
    assert len(set(versions)) == len(versions)
    (tmp_path / "tools/sheet.py").write_text("raise SystemExit")  # which no grader asks for
    shutil.move(hidden, tmp_path / "grading/more_hidden.txt")
    assert cluster.version(tmp_path / "grading/more_hidden.txt") == versions[-1]


def test_cluster_loses_nothing_when_a_worker_is_killed(homework, tmp_path, monkeypatch, capsys):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    handed_in, out = tmp_path / "in", tmp_path / "out"
    for name in ("anna", "boris", "clara"):
        put(handed_in / name, reference())
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid)

        def kill_one_at_work():
            while not (busy := [worker for worker, keys in client.processing().items() if keys]):
                time.sleep(0.05)
            time.sleep(2)
            os.kill(pids[busy[0]], signal.SIGKILL)

        killer = threading.Thread(target=kill_one_at_work)
        killer.start()
        address = cluster.scheduler_address
        assert run_cli("grade", homework, handed_in, "--out", out, "--dask", address) == 0
        killer.join()
    for name in ("anna", "boris", "clara"):
        assert status_of(result_of(out, name)) == FULL
        assert result_of(out, name)["sandbox"] == "bwrap"
    assert "[3/3]" in capsys.readouterr().out
