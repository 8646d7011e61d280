"""Grade copies of homework 1's reference, each in a sandbox of its own and all in warm ones, by turns.

Run by ``make bench`` or ``python -m tests.bench_grade``; ``--copies 500``: as many as a course hands in.
CPU seconds are those of the grader and of all in its sandboxes, its start included; ratios within one run
mean something, seconds depend on the machine.
"""

import argparse
import contextlib
import ctypes
import io
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import nbformat

from grading.__main__ import main
from grading.student import answer_name

HOMEWORK = Path(__file__).resolve().parents[1] / "homeworks/homework1"
SUBREAPER = 36  # of prctl: what a killed sandbox leaves becomes a child of ours, so that its seconds count


def hand_in(folder, copies):
    """Write submissions with our own answers and weights."""
    notebook = nbformat.read(HOMEWORK / "hw1.ipynb", as_version=4)
    ours = nbformat.read(HOMEWORK / "hw1.solution.ipynb", as_version=4)
    answers = {name: cell.source for cell in ours.cells if (name := answer_name(cell))}
    for cell in notebook.cells:
        cell.source = answers.get(answer_name(cell), cell.source)
    for number in range(copies):
        (folder / f"student{number:03}").mkdir(parents=True)
        nbformat.write(notebook, folder / f"student{number:03}/hw1.ipynb")
        shutil.copy(HOMEWORK / "hw1_q3d.safetensors", folder / f"student{number:03}")


def cpu_seconds():
    """Return the CPU seconds of this process and of all its dead descendants."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def graded(folder, out, jobs, *options):
    """Grade a folder and return its wall and CPU seconds."""
    cpu, wall = cpu_seconds(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        arguments = ["grade", HOMEWORK, folder, "--out", out, "--seed", 1, "--jobs", jobs, *options]
        assert main([str(argument) for argument in arguments]) == 0
    assert said.getvalue().count("13 of 13") == len(list(folder.iterdir())), said.getvalue()
    return time.monotonic() - wall, cpu_seconds() - cpu


def bench():
    """Print seconds for each submission, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="of each way")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    ways = {"cold": ("--cold",), "warm": ()}
    seconds = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "in")
        hand_in(folder, options.copies)
        for turn in range(options.rounds):
            for way, chosen in ways.items():
                seconds[way].append(graded(folder, Path(temporary, f"{way}{turn}"), options.jobs, *chosen))
    print(f"{options.copies} submissions of homework 1, {options.jobs} at a time, the start included")
    best = {
        way: [min(times) / options.copies for times in zip(*rounds, strict=True)]
        for way, rounds in seconds.items()
    }
    for way, (wall, cpu) in best.items():
        print(f"{way}: {cpu:.2f} CPU seconds and {wall:.2f} seconds for each")
    wall, cpu = (cold / warm for cold, warm in zip(best["cold"], best["warm"], strict=True))
    print(f"cold / warm: {cpu:.2f} of CPU seconds, {wall:.2f} of seconds")


if __name__ == "__main__":
    bench()
