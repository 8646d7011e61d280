"""Ways around faults of Jupyter's tools, in one place so that each can go when its fault has gone.

- `KernelManager`: a widget that a cell shows can take the signal of the cell's reply, and nbclient 0.11 waits
  for it for ever. Delete it when https://github.com/jupyter/nbclient/issues/312 is solved and a notebook
  with sliders has run fifty times on a busy machine.
- `unexpected_error`: `papermill.execute_notebook` (2.7) fails for every error that a cell shows, also where
  the cell is tagged `raises-exception`. Delete it, and call that function, when papermill's own
  `raise_for_execution_errors` heeds the tag.
- `be_quiet_about_dead_kernels`: nbclient leaves tasks behind when a kernel dies, and asyncio reports each in
  ten lines. Delete it when a notebook that calls `os._exit(1)` prints nothing of destroyed tasks without it.
- `NoticesDeath`: nbval 0.11 waits for the whole time-out of a cell, 2,000 seconds, when the kernel dies in
  it. Delete it when `nbval.kernel.RunningKernel.get_message` asks whether the kernel lives.

No issue was found for the last three. tests/test_tools.py tries the first, the second and the last.
"""

from __future__ import annotations

import logging
import time
from queue import Empty
from typing import TYPE_CHECKING

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager

if TYPE_CHECKING:
    from nbformat import NotebookNode

LOOK_AGAIN = 1.0  # seconds of waiting for a message between two looks


class PatientChannel(AsyncZMQSocketChannel):
    """A channel that does not trust the signal of a message, but looks again from time to time.

    nbclient answers the output of a widget (`interact`) on the very socket on which it waits for the end of
    the cell. ZeroMQ signals a change only once, and such a send can take the signal of a reply.
    """

    async def get_msg(self, timeout: float | None = None) -> dict:
        """Return the next message, or raise Empty at the time-out."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                return await super().get_msg(min(left, LOOK_AGAIN))
            except Empty:
                if left <= LOOK_AGAIN:
                    raise


class KernelClient(AsyncKernelClient):
    """A client that waits with a `PatientChannel`."""

    shell_channel_class = PatientChannel


class KernelManager(AsyncKernelManager):
    """A manager whose clients are patient."""

    def _client_factory_default(self) -> type:
        return KernelClient


def unexpected_error(notebook: NotebookNode) -> int | None:
    """Return the index of the cell that papermill's client stopped at, None if it ran to the end."""
    for index, cell in enumerate(notebook.cells):
        if cell.metadata.papermill.get("exception"):
            return index
    return None


def be_quiet_about_dead_kernels() -> None:
    """Let asyncio say no word about the tasks that a dead kernel leaves behind."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


class KernelDiedError(Exception):
    """The kernel's process ended while a cell ran."""


class NoticesDeath:
    """A base to put before nbval's `RunningKernel`: the kernel's death ends the wait for its messages."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """Return the next message, or raise Empty at the time-out, KernelDiedError when none can come."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                return super().get_message(stream, timeout=min(left, LOOK_AGAIN))
            except Empty:
                if not self.is_alive():
                    raise KernelDiedError from None
                if left <= LOOK_AGAIN:
                    raise
