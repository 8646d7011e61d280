"""Command line of the grader.

Exit status: 0 the batch finished, or the student version was written or is current; 1 a student version is
stale (`student --check`); 2 the sandbox is missing; 64 the command was called wrongly, a file could not be
read or written, or a table holds what cannot be a mark or a late day.
"""

import argparse
import io
import sys
from pathlib import Path

from tools.notebooks import NotebookError

MISSING, USAGE = 2, 64


class Parser(argparse.ArgumentParser):
    """An argument parser whose exit status for wrong usage is not the one of a missing sandbox."""

    def error(self, message):
        """Print the usage and leave."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of both commands."""
    top = Parser("python -m grading", description="Grade homeworks, make their student versions.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("homework", type=Path, help="folder of the homework, such as homeworks/homework1")
    words = "folder with STUDENT/hwN.ipynb (and weights), STUDENT.zip or STUDENT.ipynb"
    grade.add_argument("submissions", type=Path, help=words)
    words = "folder for grades.csv, marks.csv, similar.csv, pages for marking and a folder per student"
    grade.add_argument("--out", type=Path, required=True, help=words)
    words = "submissions at a time, at most one per core (default 1)"
    grade.add_argument("--jobs", type=int, default=1, help=words)
    words = "of the hidden inputs (default: kept in OUT, or a new secret)"
    grade.add_argument("--seed", type=int, help=words)
    words = "table student,days,left: how late each was, days left before (POLICY.md); kept in OUT"
    grade.add_argument("--late", type=Path, metavar="FILE", help=words)
    words = "also write each result as Gradescope's gradescope.json or as junit.xml"
    grade.add_argument("--also", nargs="+", choices=("gradescope", "junit"), default=[], help=words)
    words = "grade on the cluster whose scheduler is at ADDRESS (see grading/CLUSTER.md), not with --jobs"
    grade.add_argument("--dask", metavar="ADDRESS", help=words)
    words = "start a sandbox for each submission (slower), instead of one for many"
    grade.add_argument("--cold", action="store_true", help=words)
    grade.add_argument("--sandbox", choices=("bwrap", "docker", "none"), default="bwrap")
    student = commands.add_parser("student", help="write the student versions of homeworks")
    student.add_argument("homeworks", type=Path, nargs="+", help="folders, such as homeworks/homework1")
    student.add_argument("--check", action="store_true", help="only say whether they are current")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):  # a student's name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        return {"grade": grade, "student": student}[options.command](options)
    except (OSError, ValueError, NotebookError) as error:  # such as a file where a folder is expected
        print(f"python -m grading {options.command}: {error}", file=sys.stderr)
        return USAGE


def grade(options: argparse.Namespace) -> int:
    """Grade a batch."""
    from grading import collect, homework, late, marks, pool, report, sandbox, similar, store
    from grading.text import counted

    submissions, out = _folders(options)
    out.mkdir(parents=True, exist_ok=True)
    seed = store.seed_of(out, options.seed)
    task = homework.load(options.homework, seed)
    names = store.names(out)
    handed_in = collect.collect(submissions, names)
    # Before anything is written: marks that cannot be read stop a batch that would take hours.
    known = {one.student for one in handed_in} | store.students(out)
    marks.read(out / "marks.csv", task.questions, known)
    # What one run was told of late days holds for the next, which would else give the points back in silence.
    kept = out / "late.csv"
    table = options.late or (kept if kept.exists() else None)
    days = late.read(table, known) if table else {}
    store.keep_names(out, names | {one.name: one.student for one in handed_in if one.name})
    if options.sandbox == "none":
        print("WARNING: no sandbox: submissions can read and change everything that you can", file=sys.stderr)
    try:
        if options.dask:
            from grading import cluster

            execute = cluster.on(options.dask, options.homework, seed, options.sandbox, cold=options.cold)
        else:
            box = sandbox.find(options.sandbox, options.homework / "hidden.py")
            execute = pool.here(task, box, options.jobs, cold=options.cold)
        records = pool.grade_all(task, handed_in, options.sandbox, out, execute)
    except sandbox.SandboxMissing as missing:
        print(f"{missing}\nNothing more was graded.", file=sys.stderr)
        return MISSING
    given = marks.update(out / "marks.csv", task.questions, records)  # those of the last minute too
    records = {
        student: late.count(marks.merge(found, given, student), days.get(student))
        for student, found in records.items()
    }
    if options.late:
        store.renew(kept, options.late.read_text(encoding="utf-8"))
    elif table:
        print(f"late days as in {table}: name another table by --late to change them")
    report.publish(task, records, given, out, tuple(options.also))
    print(f"{counted(len(records), 'submission')}, {out / 'grades.csv'}")
    if left := sum(len(found.result.having("manual")) for found in records.values()):
        print(
            f"{counted(left, 'written answer')} to mark in {out / 'marks.csv'}, see answers_*.html beside it"
        )
    if alike := similar.write(out / "similar.csv", task, records):
        print(f"{counted(alike, 'likeness')} between students, for a human to look at: {out / 'similar.csv'}")
    return 0


def _folders(options: argparse.Namespace) -> tuple[Path, Path]:
    """Return the folders of submissions and of results, or raise for options that cannot be meant."""
    submissions, out = options.submissions, options.out
    if options.jobs < 1 or (options.seed is not None and options.seed < 0):
        got = f"got {options.jobs} and {options.seed}"
        raise ValueError(f"--jobs must be at least 1 and --seed at least 0, {got}")
    if not submissions.is_dir():
        raise NotADirectoryError(f"{submissions} is not a folder of submissions")
    ours, theirs = out.resolve(), submissions.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        raise ValueError(
            f"--out {out} and the submissions {submissions} lie in one another: "
            "results must not be written where students write"
        )
    return submissions, out


def student(options: argparse.Namespace) -> int:
    """Write or check student versions."""
    from grading.student import homework_paths, write

    stale = 0
    for homework in options.homeworks:
        current = write(homework, check=options.check)
        stale += not current
        renewed = "stale, run python -m grading student" if options.check else "written"
        print(f"{homework_paths(homework)[1]}: {'current' if current else renewed}")
    return int(options.check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
