"""Record the update of a step as a CUDA graph and replay it: what ``gradient_step(..., graph=True)`` does.

A small model waits for Python, which launches its kernels one by one. A graph launches all kernels of an
update at once, and Python runs no more: the graph holds addresses and numbers. So a loss keeps to this:

- a weight that changes is a 0-d tensor on the device, changed by ``fill_``; state is kept in buffers, changed
  in place; random numbers come from the global generator;
- no tensor is read on the host (``.item()``, ``if``) or made from Python numbers (``torch.tensor``,
  ``Normal(mean, 1.0)``).

References:
    Accelerating PyTorch with CUDA Graphs, V. Nguyen, M. Carilli, S. B. Eryilmaz, V. Singh, M. Lin,
    N. Gimelshein, A. Desmaison, E. Yang, 2021,
    https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer

__all__ = ["Recorded"]

Terms = Mapping[str, Tensor]  # name -> 0-d tensor
WARM_UP = 3  # updates before a recording, in which libraries choose kernels and allocate their workspaces
LOOK_FOR = (
    "look for a tensor that the loss reads on the host (.item(), print, if), makes on the CPU or from Python "
    "numbers (torch.tensor, Normal(mean, 1.0)), for its own generator or an earlier loss that still lives"
)


class Recorded:
    """Replay the recording of ``update(batch)`` where it is valid; else update eagerly.

    The first shape of batches that comes twice in a row is recorded; any other shape (a last, short batch)
    runs eagerly. When rates, parameters, optimizer state, buffers or a module's train or eval mode have been
    exchanged, one update runs eagerly and the next is recorded anew. Recording itself changes none of them,
    nor torch's random states: its warm-up is rolled back. Rates become tensors.

    Raises:
        ValueError: for an optimizer that is not capturable.
        RuntimeError: when called, if the update cannot be recorded.
    """

    def __init__(self, update: Callable[[Any], Terms], optimizer: Optimizer):
        if not all(group.get("capturable") for group in optimizer.param_groups):
            words = "graph=True needs a capturable optimizer: Adam(parameters, fused=True, capturable=True)"
            raise ValueError(f"{words}, got {type(optimizer).__name__} without capturable=True")
        optimizer._warned_capturable_if_run_uncaptured = True  # eager updates are meant here
        self.update, self.optimizer = update, optimizer
        self.device = optimizer.param_groups[0]["params"][0].device
        self.modules = {}  # an ordered set of those that the loss calls
        self.shapes = self.held = self.replay = None

    def __call__(self, batch: Any) -> Terms:
        """Do one update on a tensor, or a tuple of tensors, on the device."""
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        for group in self.optimizer.param_groups:  # a graph holds numbers, but reads tensors
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
        shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]
        if shapes != self.shapes and self.replay:
            return self.update(batch)
        if shapes != self.shapes or self.holds() != self.held:
            self.replay, self.modules = None, {}
            with register_module_forward_pre_hook(lambda module, _: self.modules.setdefault(module)):
                terms = self.update(batch)  # makes the optimizer's state if there is none
            self.shapes, self.held = shapes, self.holds()
            return terms
        if self.replay is None:
            self.record(batch, tensors)
        for static, tensor in zip(self.inputs, tensors, strict=True):
            static.copy_(tensor)
        self.replay()
        copies = torch.stack(list(self.terms.values())).unbind()  # the next replay writes into the terms
        return dict(zip(self.terms, copies, strict=True))

    def tensors(self) -> Iterator[Tensor]:
        """Yield what an update reads and writes: rates, parameters, optimizer state and buffers."""
        for group in self.optimizer.param_groups:
            yield group["lr"]
            for p in group["params"]:
                yield from (p, *filter(torch.is_tensor, self.optimizer.state.get(p, {}).values()))
        for module in self.modules:
            yield from module.buffers(recurse=False)

    def holds(self) -> tuple[list, list]:
        """Return what a recording depends on and cannot follow: addresses and modes."""
        addresses = [(tensor.data_ptr(), tensor.requires_grad) for tensor in self.tensors()]
        return addresses, [module.training for module in self.modules]

    def record(self, batch: Any, tensors: tuple[Tensor, ...]) -> None:
        """Record the update of batches of this shape, and roll back what its warm-up has changed."""
        self.inputs = tuple(tensor.to(self.device, copy=True) for tensor in tensors)
        inputs = self.inputs[0] if isinstance(batch, Tensor) else self.inputs
        before = [(tensor, tensor.detach().clone()) for tensor in self.tensors()]
        validate_args = Distribution._validate_args
        Distribution.set_default_validate_args(False)  # distributions would read arguments on the host
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self.terms, self.replay = _record_on_cuda(lambda: self.update(inputs), self.device)
        finally:
            Distribution.set_default_validate_args(validate_args)
            for tensor, value in before:
                tensor.data.copy_(value)


def _record_on_cuda(work: Callable[[], Terms], device: torch.device) -> tuple[Terms, Callable[[], None]]:
    """Return what ``work()`` returns, and the function that computes it anew, in place."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):  # around the recording too: a failed one leaves its stream current
            for _ in range(WARM_UP):
                work()
            current.wait_stream(stream)
            try:
                with torch.cuda.graph(graph, stream=stream):
                    return work(), graph.replay
            except RuntimeError as error:
                what = f"graph=True could not record the update ({error.__context__ or error})"
                raise RuntimeError(f"{what}: {LOOK_FOR}; or write graph=False") from error
