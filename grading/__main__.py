"""Command line of the grader.

Exit status: 0 the batch finished, the student version was written or is current, every visible check passed;
1 a student version that is stale (`release --check`) or a visible check that failed (`check`);
2 the sandbox is missing; 64 the command was called wrongly, a file could not be read or written, or marks.csv
holds what cannot be a mark.
"""

import argparse
import io
import sys
from pathlib import Path

MISSING, USAGE = 2, 64


class Parser(argparse.ArgumentParser):
    """An argument parser whose exit status for wrong usage is not the one of a missing sandbox."""

    def error(self, message):
        """Print the usage and leave."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of all three commands."""
    top = Parser("python -m grading", description="Grade homeworks, make student versions, check a notebook.")
    commands = top.add_subparsers(dest="command", required=True, parser_class=Parser)
    grade = commands.add_parser("grade", help="grade a folder of submissions")
    grade.add_argument("homework", type=Path, help="folder of the homework, such as homeworks/homework1")
    grade.add_argument("submissions", type=Path, help="folder with STUDENT.ipynb or STUDENT/hwN.ipynb")
    grade.add_argument(
        "--out", type=Path, required=True, help="folder for grades.csv, marks.csv and a folder per student"
    )
    grade.add_argument(
        "--jobs", type=int, default=1, help="submissions at a time, at most one per core (default 1)"
    )
    grade.add_argument(
        "--seed", type=int, help="of the hidden inputs (default: kept in OUT, or a new secret)"
    )
    grade.add_argument("--sandbox", choices=("bwrap", "docker", "none"), default="bwrap")
    release = commands.add_parser("release", help="write the student version of a homework")
    release.add_argument("homework", type=Path)
    release.add_argument("--check", action="store_true", help="only say whether it is current")
    check = commands.add_parser("check", help="run a notebook's visible checks, as a student does")
    check.add_argument("notebook", type=Path)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):  # a student's name may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    options = parser().parse_args(arguments)
    try:
        return {"grade": grade, "release": release, "check": check}[options.command](options)
    except (OSError, ValueError) as error:  # such as a file where a folder is expected
        print(f"python -m grading {options.command}: {error}", file=sys.stderr)
        return USAGE


def grade(options: argparse.Namespace) -> int:
    """Grade a batch."""
    try:
        from grading import batch, marks, report, sandbox, submission
    except ImportError as error:
        raise ValueError(f"this copy of the course has no grader ({error})") from None
    if options.jobs < 1 or (options.seed is not None and options.seed < 0):
        raise ValueError(
            f"--jobs must be at least 1 and --seed at least 0, got {options.jobs} and {options.seed}"
        )
    if not options.submissions.is_dir():
        raise NotADirectoryError(f"{options.submissions} is not a folder of submissions")
    out, submissions = options.out.resolve(), options.submissions.resolve()
    if out.is_relative_to(submissions) or submissions.is_relative_to(out):
        raise ValueError(
            f"--out {options.out} and the submissions {options.submissions} lie in one another: "
            "results must not be written where students write"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    homework = batch.load(options.homework, batch.seed_of(options.out, options.seed))
    submissions, others = submission.collect(options.submissions, homework.notebook)
    if others:
        print(
            f"passed over, neither notebooks nor folders: {', '.join(map(report.line, others))}",
            file=sys.stderr,
        )
    known = {one.student for one in submissions} | report.students(options.out)
    given = marks.read(options.out / "marks.csv", homework.questions, known)  # before anything is written
    try:
        box = sandbox.find(options.sandbox, options.homework / "hidden.py")
    except sandbox.SandboxMissing as missing:
        print(f"{missing}\nNothing was graded.", file=sys.stderr)
        return MISSING
    if box.kind == "none":
        print("WARNING: no sandbox: submissions can read and change everything that you can", file=sys.stderr)
    results = batch.grade_all(homework, submissions, given, box, options.out, options.jobs)
    results = batch.merge_marks(homework, submissions, results, options.out)
    report.write_grades(options.out / "grades.csv", homework.questions, results)
    print(f"{len(results)} submissions, {options.out / 'grades.csv'}")
    left = sum(entry["status"] == "manual" for result in results for entry in result["questions"].values())
    if left:
        print(f"{left} written answers to mark in {options.out / 'marks.csv'}, see answers_*.html beside it")
    return 0


def release(options: argparse.Namespace) -> int:
    """Write or check a student version."""
    from grading.release import homework_paths
    from grading.release import release as write

    current = write(options.homework, check=options.check)
    student = homework_paths(options.homework)[1]
    state = "current" if current else "stale, run python -m grading release" if options.check else "written"
    print(f"{student}: {state}")
    return int(options.check and not current)


def check(options: argparse.Namespace) -> int:
    """Run a notebook's visible checks."""
    from grading.check import check as run

    return int(not run(options.notebook))


if __name__ == "__main__":
    sys.exit(main())
