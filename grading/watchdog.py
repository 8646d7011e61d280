"""Look at a sandbox from outside: how much memory and how many files everything in it holds."""

import os

from grading.cgroup import Group
from grading.processes import descendants, read
from grading.questions import Limits

PAGE = os.sysconf("SC_PAGE_SIZE")
WRITABLE = ("tmp", "dev/shm")  # the places of a sandbox in which files can be made


class Watch:
    """Look after one sandbox until it is closed.

    Memory is what its control group says. Without one it is the sum of resident pages and of what its sockets
    can hold at most; only when that is too much, pages shared by several processes (after a fork) are counted
    once, which takes longer to find out. Of the kernel's own memory, that sum misses page tables, locks and
    pages that only a pipe still holds.
    """

    def __init__(self, root: int, limits: Limits, group: Group | None = None):
        """Watch the process `root` and all that descend from it, in `group` if there is one."""
        self.root, self.limits, self.group = root, limits, group
        self.inner: int | None = None  # the first process that has file systems of its own
        self.places: list[int] = []  # descriptors, so that no death of a process makes us blind

    def _see_files(self) -> None:
        """Take hold of the sandbox's file systems, once they are in place."""
        ours = os.readlink("/proc/self/ns/mnt")
        for pid in () if self.places else (self.root, *descendants(self.root)):
            try:
                if os.readlink(f"/proc/{pid}/ns/mnt") == ours:
                    continue
                self.places += [os.open(f"/proc/{pid}/root/{place}", os.O_PATH) for place in WRITABLE]
                self.inner = pid
                return
            except OSError:  # the process has ended
                self.close()

    def excess(self, *, files: bool) -> str:
        """Say what the sandbox uses too much of, an empty string if nothing.

        Files are counted if `files`: before its file systems are in place, there is nothing to count. A
        process that sees the machine's own is in no sandbox, and has none.
        """
        if files:
            self._see_files()
        if self._too_much_memory():
            return f"used more than {self.limits.memory_bytes >> 20} MiB of memory"
        statuses = map(os.fstatvfs, self.places)
        if sum(status.f_files - status.f_ffree for status in statuses) > self.limits.files:
            return f"made more than {self.limits.files} files"
        return ""

    def close(self) -> None:
        """Let go of the sandbox's file systems, which are there until then."""
        for place in self.places:
            os.close(place)
        self.places.clear()

    def _too_much_memory(self) -> bool:
        if self.group:
            return self.group.overflowed()
        pids, sockets = descendants(self.root), _sockets(self.inner) if self.inner else 0
        return all(
            sum(map(size, pids)) + sockets > self.limits.memory_bytes for size in (_resident, _proportional)
        )


def _resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    return max((int(said.split()[1]) * PAGE for said in _of_a_task(pid, "statm")), default=0)


def _proportional(pid: int) -> int:
    """Return the resident bytes of a process, pages shared by n processes counted as 1/n."""
    for said in _of_a_task(pid, "smaps_rollup"):
        for line in said.splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)


def _of_a_task(pid: int, file: str) -> list[str]:
    """Return what a file says of the first thread that still has memory: the first of all may have ended."""
    empty = ("", "0 0 0 0 0 0 0\n")
    if (said := read(f"/proc/{pid}/{file}")) not in empty:
        return [said]
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:  # the process has ended
        return []
    files = (read(f"/proc/{pid}/task/{task}/{file}") for task in tasks)
    return [said for said in files if said not in empty][:1]


def _sockets(inner: int) -> int:
    """Return the bytes that the sockets of a sandbox can hold at most."""
    fields = read(f"/proc/{inner}/net/sockstat").split()  # "sockets: used 7 ..."
    buffer = read("/proc/sys/net/core/wmem_max")
    return int(fields[2]) * 2 * int(buffer) if len(fields) > 2 and buffer.strip() else 0
