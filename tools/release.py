"""Write the students' edition of the repository: everything but the grader and what it knows.

``make release OUT=folder`` makes a new repository with one commit, or, when the folder holds an earlier
release, adds one commit on top of it, so that students can pull week by week.
"""

import argparse
import fnmatch
import shutil
import subprocess
import sys
from pathlib import Path

from tools.editions import public_notebook, public_text
from tools.notebooks import ROOT, STUDENT_VERSION, read_notebook, text_of

# What only instructors have. A folder ends with a slash; `*` does not stop at one.
INSTRUCTORS_ONLY = [
    "examples/grade-homework.yml",
    "homeworks/*/hw*.solution.ipynb",
    "homeworks/*/hidden.py",
    "homeworks/*/mutants.py",
    "homeworks/*/accepted.py",
    "homeworks/*/*.safetensors",
    "docs/teachers.md",
    "grading/*",
    "tests/test_answers.py",
    "tests/test_collect.py",
    "tests/test_examples.py",
    "tests/bench_grade.py",
    "tests/test_grading.py",
    "tests/test_sandbox.py",
    "tests/test_hidden.py",
    "tests/test_homeworks.py",
    "tests/test_pages.py",
    "tests/test_many.py",
    "tests/test_mutation.py",
    "tests/test_release.py",
    "tests/hostile/*",
    "tools/release.py",
]


class ReleaseError(Exception):
    """The release cannot be written; the message says why and what to do."""


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder and return what it prints."""
    if not shutil.which("git"):
        raise ReleaseError("git is not installed, and a release is a commit of git: install it")
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} in {folder} failed: {done.stderr.strip()}")
    return done.stdout


def require_clean() -> None:
    """Refuse a work tree that is not what git has: what a class left behind would be shipped."""
    changed = git(ROOT, "status", "--porcelain").splitlines()
    if changed:
        advice = "commit these files, or restore them with git checkout, and release again"
        raise ReleaseError("\n  ".join([f"the work tree is not clean: {advice}", *changed]))


def is_public(path: str, solutions: list[str]) -> bool:
    """Tell whether students get a file; ``solutions`` names the homeworks whose deadline is over."""
    if any(Path(path).name == f"{name}.solution.ipynb" for name in solutions):
        return True
    return not any(fnmatch.fnmatch(path, pattern) for pattern in INSTRUCTORS_ONLY)


def prepare(out: Path) -> None:
    """Make the folder an empty work tree: a new repository, or an earlier release without its files."""
    if out.resolve().is_relative_to(ROOT):
        raise ReleaseError(f"{out} lies inside this repository: choose a folder outside it")
    if (out / ".git").exists():
        if git(out, "status", "--porcelain"):
            raise ReleaseError(f"{out} has changes that are not committed: commit or remove them first")
        if (out / "homeworks").exists() and list(out.glob("homeworks/*/hidden.py")):
            raise ReleaseError(f"{out} holds an instructors' edition: choose another folder")
        git(out, "rm", "-rq", "--ignore-unmatch", ".")
    elif out.exists() and any(out.iterdir()):
        advice = "name a new folder, or an earlier release"
        raise ReleaseError(f"{out} is not empty and not a git repository: {advice}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        git(out, "init", "-q", "-b", "main")


def write_edition(out: Path, solutions: list[str]) -> list[str]:
    """Copy the public files of the work tree into a prepared folder and return their paths."""
    paths = [path for path in git(ROOT, "ls-files", "-z").split("\0") if path and (ROOT / path).exists()]
    for name in solutions:
        if not any(Path(path).name == f"{name}.solution.ipynb" for path in paths):
            raise ReleaseError(f"there is no {name}.solution.ipynb to add; name a homework as in hw1")
    public = [path for path in paths if is_public(path, solutions)]
    blanks = []
    for path in public:
        target = out / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, target)
        if target.suffix == ".ipynb":
            target.write_text(text_of(public_notebook(read_notebook(ROOT / path))), encoding="utf-8")
        if STUDENT_VERSION.fullmatch(target.name):  # by which `tools.check` finds what the student answered
            shutil.copy2(target, target.with_suffix(".blank.json"))
            blanks.append(str(Path(path).with_suffix(".blank.json")))
        if Path(path).name in ("README.md", "CONTRIBUTING.md", "Makefile", "ci.yml"):
            target.write_text(public_text(target.read_text(encoding="utf-8")), encoding="utf-8")
    return public + blanks


def commit(out: Path, message: str) -> None:
    """Commit the whole folder, under the instructor's own name where git knows one."""
    git(out, "add", "-A")
    if not git(out, "status", "--porcelain"):
        return
    known = subprocess.run(["git", "config", "user.email"], capture_output=True, cwd=out).returncode == 0
    who = [] if known else ["-c", "user.name=Course team", "-c", "user.email=course@example.org"]
    git(out, *who, "commit", "-q", "-m", message)


def release(out: Path, solutions: list[str]) -> list[str]:
    """Write the students' edition into a folder as one commit and return the paths of its files.

    Raises:
        ReleaseError: the folder is not empty, has uncommitted changes, or lies inside this repository; or a
            solution that does not exist was asked for.
    """
    prepare(out)
    public = write_edition(out, solutions)
    added = f", with the solutions of {', '.join(solutions)}" if solutions else ""
    commit(out, f"Release the course{added}")
    return public


def main() -> int:
    """Write the edition that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new folder, or one that holds an earlier release")
    words = "homeworks whose deadline is over"
    parser.add_argument("--solutions", nargs="+", default=[], metavar="hwN", help=words)
    arguments = parser.parse_args()
    try:
        require_clean()
        public = release(arguments.out, arguments.solutions)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print(f"{len(public)} files in {arguments.out}; instructors' files left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
