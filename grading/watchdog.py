"""Look at a sandbox from outside: how much memory and how many files everything in it holds."""

import os
from pathlib import Path

from grading.questions import Limits

PAGE = os.sysconf("SC_PAGE_SIZE")


def excess(root: int, limits: Limits, *, files: bool) -> str:
    """Say what the processes that descend from `root` use too much of, an empty string if nothing.

    Memory is the sum of resident pages; only when that is too much, pages shared by several processes (after
    a fork) are counted once, which takes longer to find out. Files are counted if `files`: before its file
    systems are in place, a sandbox still shows those of the machine.
    """
    pids, most = descendants(root), limits.memory_bytes
    if sum(map(_resident, pids)) > most and sum(map(_proportional, pids)) > most:
        return f"used more than {most >> 20} MiB of memory"
    if files and pids and _files(pids[-1]) > limits.files:
        return f"made more than {limits.files} files"
    return ""


def descendants(root: int) -> list[int]:
    """Return the process ids below `root`, itself not included."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _read(f"/proc/{entry}/stat")):
            parent = int(stat.rpartition(")")[2].split()[1])  # the name before it may hold anything
            children.setdefault(parent, []).append(int(entry))
    found, front = [], [root]
    while front:
        front = [child for pid in front for child in children.get(pid, [])]
        found += front
    return found


def tasks_of_this_user() -> int:
    """Return how many threads run as this user: before Linux 5.14 a limit of processes counts them all.

    It is 0 for root, whose sandboxes run as another user each.
    """
    total = 0
    if os.getuid() == 0:
        return total
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (status := _read(f"/proc/{entry}/status")):
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if int(fields["Uid"].split()[0]) == os.getuid():
                total += int(fields["Threads"])
    return total


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # the process has ended, or is not ours to look at
        return ""


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * PAGE if fields else 0


def _proportional(pid: int) -> int:
    """Return the resident bytes of a process, pages shared by n processes counted as 1/n."""
    for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return _resident(pid)


def _files(pid: int) -> int:
    """Return how many files there are in the sandbox of a process."""
    total = 0
    for place in ("tmp", "dev/shm"):
        try:
            status = os.statvfs(f"/proc/{pid}/root/{place}")
        except OSError:
            continue
        total += status.f_files - status.f_ffree
    return total
