"""Make pytest with nbval notice a dead kernel at once, and share the cores between its workers.

Load it with `pytest -p tools.nbval_plugin --nbval-lax ...`.
"""

from __future__ import annotations

import os

import nbval.plugin
import pytest
from nbval.kernel import RunningKernel

from tools.jupyter_bugs import KernelDiedError, NoticesDeath
from tools.run_notebooks import threads_each


class WatchedKernel(NoticesDeath, RunningKernel):
    """A kernel of nbval's whose death is noticed."""


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
