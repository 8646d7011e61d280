"""Memory control groups, where this user may make one: the kernel then counts what nobody sees from outside.

It counts the pages of processes and of /tmp and /dev/shm once each, and the kernel's own for pipes, sockets,
files, locks and page tables; at the limit it takes no more from the machine. A group is made below the one
that the grader itself runs in (version 1), or beside it, where memory is shared out (version 2), so the
limits that the grader is under hold for its sandboxes too.

References: Linux kernel, "Memory Resource Controller" and "Control Group v2",
https://www.kernel.org/doc/html/latest/admin-guide/cgroup-v1/memory.html
https://www.kernel.org/doc/html/latest/admin-guide/cgroup-v2.html
"""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from grading.processes import descendants, read

NAME = "grading-{}-"  # of the grader's process, and a random word: whose group it is, and whether it is alive
REMOVE_SECONDS = 10.0  # for the processes of a group to be gone after they were killed


@dataclass(frozen=True)
class Version:
    """The files of one version of control groups."""

    limits: tuple[str, ...]  # the first one bounds memory, the others say the same of swap or are left out
    killed: str  # where the kernel counts the processes that it killed for memory


VERSIONS = {
    1: Version(("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), "memory.oom_control"),
    2: Version(("memory.max", "memory.swap.max"), "memory.events"),
}


@dataclass(frozen=True)
class Group:
    """A control group for one sandbox."""

    folder: Path
    version: Version

    def pids(self) -> list[int]:
        """Return the processes that are in it."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]

    def adopt(self, root: int) -> None:
        """Move a process and all below it, before any of them runs a stranger's code.

        What they fork meanwhile is moved too. Raises OSError if that is not allowed here.
        """
        moved = set()
        while new := {root, *descendants(root)} - moved:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    (self.folder / "cgroup.procs").write_text(str(pid))
            moved |= new

    def overflowed(self) -> bool:
        """Tell whether the kernel had to kill one of its processes for memory."""
        with contextlib.suppress(OSError):
            for line in (self.folder / self.version.killed).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1]) > 0
        return False

    def remove(self) -> None:
        """Kill what is in it, and remove it."""
        until = time.monotonic() + REMOVE_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                for pid in self.pids():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.folder.rmdir()
            if not self.folder.exists():
                return
            time.sleep(0.01)


@contextlib.contextmanager
def around(root: int, memory_bytes: int) -> Iterator[Group | None]:
    """Hold a process and all below it in a new group; None where there can be no group.

    In the end, whatever is left in the group is killed.
    """
    group = make(memory_bytes)
    try:
        try:
            if group:
                group.adopt(root)
        except OSError:
            group.remove()
            group = None
        yield group
    finally:
        if group:
            group.remove()


def make(memory_bytes: int) -> Group | None:
    """Return a new, empty group that may use so much memory, None where there can be none."""
    sweep()
    for version, parent in _parents():
        group = Group(parent / f"{NAME.format(os.getpid())}{secrets.token_hex(4)}", VERSIONS[version])
        try:
            group.folder.mkdir()
            first, swap = group.version.limits
            (group.folder / first).write_text(str(memory_bytes))
            if (group.folder / swap).exists():  # version 1 counts memory and swap together
                (group.folder / swap).write_text(str(memory_bytes if version == 1 else 0))
            return group
        except OSError:  # not ours to write, or no memory controller
            with contextlib.suppress(OSError):
                group.folder.rmdir()
    return None


def sweep() -> None:
    """Remove the groups of graders that were killed before they could do so."""
    for version, parent in _parents():
        for folder in parent.glob(NAME.format("*") + "*"):
            pid = folder.name.split("-")[1]
            if pid.isdigit() and not os.path.exists(f"/proc/{pid}") and os.access(folder, os.W_OK):
                Group(folder, VERSIONS[version]).remove()


def _parents() -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of groups in which one for a sandbox may be made, nearest first."""
    own = dict(line.split(":", 2)[1:] for line in read("/proc/self/cgroup").splitlines())
    for line in read("/proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split()[:3]
        if kind == "cgroup" and "memory" in options.split(","):
            version, path = 1, next((own[name] for name in own if "memory" in name.split(",")), None)
        elif kind == "cgroup2":
            version, path = 2, own.get("")
        else:
            continue
        root, place = mount.split()[3:5]
        try:
            inner = PurePosixPath(path).relative_to(root)
        except (TypeError, ValueError):  # this process is in none, or in one that is not mounted here
            continue
        if ".." in inner.parts:
            continue
        folder = Path(place) / inner
        if version == 1:
            yield 1, folder
        else:  # whose groups share memory out only where no process is in the group itself
            for parent in (folder, *folder.parents):
                if "memory" in read(parent / "cgroup.subtree_control").split():
                    yield 2, parent
