"""What Linux says of processes."""

import os
from pathlib import Path


def descendants(root: int) -> list[int]:
    """Return the process ids below `root`, itself not included, nearest first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := read(f"/proc/{entry}/stat")):
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
        if entry.isdigit() and (status := read(f"/proc/{entry}/status")):
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if int(fields["Uid"].split()[0]) == os.getuid():
                total += int(fields["Threads"])
    return total


def read(path: str | Path) -> str:
    """Return the text of a file of the kernel's, an empty one if what it tells of has ended."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:  # or is not ours to look at
        return ""
