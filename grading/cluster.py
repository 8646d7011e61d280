"""Grade on the workers of a `distributed` cluster that runs already; `CLUSTER.md` says how to start one.

Bytes travel there and records come back; nothing is written where the workers are, but for a folder that
they remove, and every result is kept here. A worker that dies gives its submission back to the others.
"""

import tempfile
import threading
import time
import traceback
from collections.abc import Generator, Iterator
from modulefinder import ModuleFinder
from pathlib import Path

import torch
from distributed import Client, WorkerPlugin, as_completed, get_worker

from grading import homework, sandbox, warm
from grading.collect import Files, Submission
from grading.grade import grade
from grading.pool import Executor, Finished, Job, as_sent
from grading.sandbox import package
from grading.submission import fingerprint
from tools.notebooks import ROOT

RETRIES = 1  # of a submission whose grading raised an error; how often a worker may die is the scheduler's
AHEAD = 2  # submissions for each thread of the cluster that are on their way at once


def version(hidden: Path) -> str:
    """Return a hash of the grader's own files, of what they and a `hidden.py` import, and of dgm_utils."""
    finder = ModuleFinder([str(ROOT)], excludes=["dgm_utils"])  # which is found elsewhere if it is installed
    for path in (ROOT / "grading").glob("*.py"):
        finder.import_hook(f"grading.{path.stem}")
    finder.run_script(str(hidden))
    files = {name: module.__file__ for name, module in finder.modules.items() if module.__file__}
    files |= {str(path.relative_to(package())): path for path in package().rglob("*.py")}
    contents = sorted((name, Path(file).read_bytes()) for name, file in files.items())
    return fingerprint(repr(contents).encode())


def on(address: str, folder: Path, seed: int, kind: str, *, cold: bool = False) -> Executor:
    """Return an executor on the cluster whose scheduler listens at an address, for the homework in a folder.

    Where it runs, it raises OSError for a scheduler that is not there, and SandboxMissing for a worker that
    cannot grade, which says why; what was finished is kept.
    """

    def execute(waiting: Iterator[Job]) -> Generator[Finished]:
        with Client(address) as client:
            client.register_plugin(plugin := Grader(folder.resolve(), seed, kind, cold))
            jobs, finished = {}, as_completed()

            def send() -> None:
                room = AHEAD * max(1, sum(client.nthreads().values()))
                while len(jobs) < room and (job := next(waiting, None)):
                    future = client.submit(grade_there, plugin.name, job, pure=False, retries=RETRIES)
                    jobs[future.key] = job[0]
                    finished.add(future)

            send()
            for future in finished:
                one, error = jobs.pop(future.key), future.exception()
                if isinstance(error, sandbox.SandboxMissing):
                    raise error
                if error:  # another, or KilledWorker: all that had it died
                    traceback.print_exception(error)
                yield (one, b"", 0.0) if error else (one, *future.result())
                send()

    return execute


def grade_there(name: str, job: Job) -> tuple[bytes, float]:
    """Grade a submission on a worker; return its record as it travels, and seconds."""
    return get_worker().plugins[name].grade(*job)


class Grader(WorkerPlugin):
    """What a worker needs to grade a homework: its files and the seed, then a sandbox that stays warm."""

    def __init__(self, folder: Path, seed: int, kind: str, cold: bool):
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.homework, self.seed, self.kind, self.cold = folder.name, seed, kind, cold
        self.version = version(folder / "hidden.py")
        self.name = f"grader-{fingerprint(*self.files.values(), repr((seed, kind, cold)).encode())}"

    def setup(self, worker: object) -> None:
        """Prepare a worker; what takes time waits for the first submission."""
        self.lock, self.box, self.task, self.folder = threading.Lock(), None, None, None

    def teardown(self, worker: object) -> None:
        """End the sandbox and remove the homework."""
        if self.box:
            self.box.close()
        if self.folder:
            self.folder.cleanup()

    def grade(self, one: Submission, files: Files) -> tuple[bytes, float]:
        """Grade a submission: one at a time, however many threads the worker has."""
        with self.lock:
            if self.box is None:
                self._prepare()
            began = time.monotonic()
            return as_sent(grade(self.task, one, files, self.box)), time.monotonic() - began

    def _prepare(self) -> None:
        """Load the homework and try the sandbox, or raise for what is wrong with this machine."""
        where = get_worker().address
        torch.set_num_threads(1)
        self.folder = tempfile.TemporaryDirectory(prefix="grading-")
        path = Path(self.folder.name, self.homework)
        path.mkdir()
        for name, data in self.files.items():
            (path / name).write_bytes(data)
        if version(path / "hidden.py") != self.version:
            said = f"the worker {where} has another version of the grader: give it the same commit"
            raise sandbox.SandboxMissing(said)
        self.task = homework.load(path, self.seed)
        try:
            found = sandbox.find(self.kind, path / "hidden.py")
        except sandbox.SandboxMissing as missing:
            raise sandbox.SandboxMissing(f"on the worker {where}: {missing}") from None
        self.box = warm.runner(found, self.task, cold=self.cold)
