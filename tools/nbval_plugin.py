"""Make pytest with nbval notice a dead kernel at once, and share the cores between its workers.

Load it with `pytest -p tools.nbval_plugin --nbval-lax ...`. nbval alone waits for the whole time-out of a
cell (2,000 seconds) when the kernel dies in it, and then fails every later cell too.
"""

from __future__ import annotations

import os
import time
from queue import Empty

import nbval.plugin
import pytest
from nbval.kernel import RunningKernel

from tools.run_notebooks import threads_each

LOOK = 1.0  # seconds between two looks at a silent kernel


class KernelDiedError(Exception):
    """The kernel's process ended while a cell ran."""


class WatchedKernel(RunningKernel):
    """A kernel whose death ends the wait for its messages."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """Return the next message, or raise Empty at the time-out, KernelDiedError when none can come."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            left = end - time.monotonic()
            try:
                return super().get_message(stream, timeout=max(0.0, min(LOOK, left)))
            except Empty:
                if not self.is_alive():
                    raise KernelDiedError from None
                if left <= LOOK:
                    raise


def pytest_configure(config: pytest.Config) -> None:
    """Watch every kernel that nbval starts, and give it its share of the cores."""
    nbval.plugin.RunningKernel = WatchedKernel
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_each(workers)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    """Report a dead kernel as a failure of the cell that it died in; the cells below are expected to fail."""
    try:
        return (yield)
    except KernelDiedError:
        item.parent.timed_out = True
        reason = "the kernel died in this cell (out of memory, or a crash in a library)"
        raise nbval.plugin.NbCellError(item.cell_num, reason, item.cell.source) from None
