"""Count the wrong solutions that hidden checks notice.

    python -m grading.mutation_score homeworks/homework*

Wrong are the hand-written ones of a homework's `mutants.py` and the generated ones of `mutation.py`, without
those that its `EQUIVALENT = {why: [name]}` says to compute the same on all that may be handed in. They are
our own: they are judged as the grader judges an answer, but in children of this process and in no sandbox.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import resource
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import torch

from grading import channel, inside, verify
from grading.homework import imported
from grading.mutants import answers_of
from grading.mutation import generated
from grading.questions import Case, Question
from tools.notebooks import read_notebook

PATIENCE = 4  # a wrong solution may never end: it has this many times the CPU seconds of the right one, and 1
MEMORY = 4 << 30  # bytes, more than this process has
MOST = 25  # generated ones of a question
ENOUGH = 0.95  # of the wrong solutions of all homeworks


def names_of(solution: Path) -> dict[str, object]:
    """Return the names that a solution notebook makes; neither its checks nor its trainings run."""
    torch.set_num_threads(1)  # a child of a process with threads may wait for them for ever
    names = {"__name__": "__main__"}
    for cell in read_notebook(solution).cells:
        left_out = cell.metadata.get("nbgrader", {}).get("grade") or "raises-exception" in cell.metadata.get(
            "tags", []
        )
        if cell.cell_type == "code" and not left_out:
            exec(compile(cell.source, cell.id, "exec"), names)
    return names


def judged(question: Question, cases: list[Case], names: dict, weights: bytes | None) -> verify.Verdict:
    """Return what `verify.judge` says of the answers among these names."""
    sent = json.loads(channel.encode_cases({question.id: cases}))[question.id]
    frames = dict(channel.frames_of(bytearray(inside.run_question(question.id, sent, names))))
    return verify.judge(question, cases, frames, weights)


@dataclass(frozen=True)
class Judge:
    """Judge answers of a homework, those that a driver tries."""

    folder: Path

    @property
    def solution(self) -> Path:
        """The solution notebook."""
        return next(self.folder.glob("*.solution.ipynb"))

    @cached_property
    def names(self) -> dict[str, object]:
        """What the solution notebook defines."""
        with contextlib.redirect_stdout(io.StringIO()):
            return names_of(self.solution)

    @cached_property
    def cases(self) -> dict[Question, list[Case]]:
        """The questions that have drivers, with their cases."""
        questions = [one for one in imported(self.folder / "hidden.py").QUESTIONS if not one.manual]
        drawn = {question: question.cases(np.random.default_rng(0)) for question in questions}
        return {question: cases for question, cases in drawn.items() if any(case.driver for case in cases)}

    @cached_property
    def seconds(self) -> dict[str, float]:
        """The CPU seconds that each right answer takes; raises ValueError if one does not pass."""
        taken = {}
        for answer, source in answers_of(self.solution).items():
            if self.question(answer):
                passed, taken[answer] = self._judged_in_a_child(answer, source, seconds=60)
                if not passed:
                    raise ValueError(
                        f"{self.solution}: the solution of {answer} does not pass its hidden check"
                    )
        return taken

    def question(self, answer: str) -> Question | None:
        """Return the question that owns an answer."""
        return next((one for one in self.cases if one.owns(answer)), None)

    def passes(self, answer: str, source: str) -> bool:
        """Tell whether an answer with this source gets its points, in the time that it has."""
        limit = 1 + int(PATIENCE * self.seconds[answer])
        return self._judged_in_a_child(answer, source, limit)[0]

    def _judged_in_a_child(self, answer: str, source: str, seconds: int) -> tuple[bool, float]:
        """Return whether an answer passes and the CPU seconds that it took."""
        question, names = self.question(answer), self.names  # made once, in this process
        child = os.fork()
        if child == 0:
            passed = False
            try:
                _limit_this_process(seconds)
                passed = self._passes_here(question, names, answer, source)
            finally:
                os._exit(0 if passed else 1)
        _, status, usage = os.wait4(child, 0)
        return status == 0, usage.ru_utime + usage.ru_stime

    def _passes_here(self, question: Question, names: dict, answer: str, source: str) -> bool:
        weights = (self.folder / question.weights).read_bytes() if question.weights else None
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(source, answer, "exec"), names)
            # One case after the other: most wrong answers fail the first.
            verdicts = (judged(question, [case], names, weights) for case in self.cases[question])
            return all(verdict.status == "ok" for verdict in verdicts)


def _limit_this_process(seconds: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, [pages * resource.getpagesize() + MEMORY] * 2)
    resource.setrlimit(resource.RLIMIT_CPU, [seconds] * 2)


@dataclass
class Score:
    """Hold how many wrong solutions of a homework were judged, and the names of those that passed."""

    homework: str
    written: int = 0
    generated: int = 0
    survived: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total, killed = self.written + self.generated, self.killed
        return (
            f"{self.homework:<12}{self.written:>9}{self.generated:>11}{killed:>8}{len(self.survived):>10}"
            f"{killed / max(1, total):>8.1%}"
        )

    @property
    def killed(self) -> int:
        """The number of those that did not pass."""
        return self.written + self.generated - len(self.survived)


def generated_answers(judge: Judge) -> dict[str, tuple[str, str]]:
    """Return all generated wrong solutions of a homework by name, each its answer and source."""
    file = judge.solution.name.removesuffix(".solution.ipynb")
    return {
        name: (answer, wrong)
        for answer, source in answers_of(judge.solution).items()
        if judge.question(answer)
        for name, wrong in generated(file, answer, source).items()
    }


def sample(wrong: dict[str, tuple[str, str]], most: int) -> dict[str, tuple[str, str]]:
    """Keep at most so many of each answer: as if drawn, but the same ones every time."""
    chosen = {}
    for _, group in itertools.groupby(wrong, key=lambda name: wrong[name][0]):
        in_a_fixed_order = sorted(group, key=lambda name: crc32(name.encode()))
        chosen |= dict.fromkeys(in_a_fixed_order[:most])
    return {name: one for name, one in wrong.items() if name in chosen}


def score(folder: Path, most: int = MOST) -> Score:
    """Judge the wrong solutions of a homework, at most so many generated ones of an answer.

    Raises ValueError for a right solution that does not pass, and for an entry of EQUIVALENT that is not
    generated, or that a hidden check notices.
    """
    judge, by_hand = Judge(folder), imported(folder / "mutants.py")
    wrong = generated_answers(judge)
    written = {
        name: (one["cell"], one["source"])
        for name, one in by_hand.MUTANTS.items()
        if judge.question(one["cell"])
    }
    equivalent = list(itertools.chain(*by_hand.EQUIVALENT.values()))
    if unknown := [name for name in equivalent if name not in wrong]:
        raise ValueError(f"{folder / 'mutants.py'}: EQUIVALENT holds what is not generated: {unknown}")
    if noticed := [name for name in equivalent if not judge.passes(*wrong.pop(name))]:
        raise ValueError(f"{folder / 'mutants.py'}: EQUIVALENT holds what a hidden check notices: {noticed}")
    chosen, result = sample(wrong, most), Score(folder.name)
    result.written, result.generated = len(written), len(chosen)
    result.survived = [name for name, one in (written | chosen).items() if judge.passes(*one)]
    return result


def main(arguments: list[str] | None = None) -> int:
    """Print a table and the survivors; return 1 if they are too many."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("homeworks", nargs="+", type=Path)
    parser.add_argument(
        "--most", type=int, default=MOST, help="generated ones of an answer, default %(default)s"
    )
    parser.add_argument(
        "--all", dest="most", action="store_const", const=sys.maxsize, help="all generated ones"
    )
    options = parser.parse_args(arguments)
    print("homework      written  generated  killed  survived   score")
    together = Score("together")
    for folder in options.homeworks:
        one = score(folder, options.most)
        print(one, *(f"\n  {name}" for name in one.survived), sep="", flush=True)
        together.written += one.written
        together.generated += one.generated
        together.survived += one.survived
    print(together)
    return int(together.killed < ENOUGH * (together.written + together.generated))


if __name__ == "__main__":
    raise SystemExit(main())
