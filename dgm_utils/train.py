"""Train anything that is a loss and an optimizer: one step, two players, one loop, resumable.

A *loss* maps a batch to a dictionary of 0-d tensors with an entry ``"loss"``; a *step* maps a batch to such a
dictionary and updates whatever it updates; ``fit`` knows batches, a step and numbers, and no model.

    >>> import torch
    >>> from dgm_utils import train
    >>> x = torch.tensor([[-1.0], [0.0], [4.0]])                       # the data
    >>> model = torch.nn.ParameterDict({"mean": torch.zeros(1)})       # of a Gaussian with unit variance
    >>> def loss(batch):
    ...     log_prob = torch.distributions.Normal(model["mean"], 1.0).log_prob(batch).sum(1)
    ...     return {"loss": -log_prob.mean()}                          # nats, mean over the batch
    >>> step = train.gradient_step(loss, torch.optim.SGD(model.parameters(), lr=0.5))
    >>> history = train.fit(step, [x], epochs=30, validate=lambda: train.evaluate(loss, [x]))
    >>> print(f"{model['mean'].item():.3f} {history.last('valid/loss'):.3f}")
    1.000 3.252
"""

from __future__ import annotations

import io
import math
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

Terms = dict[str, Tensor]
Loss = Callable[[Any], Mapping[str, Tensor]]
Step = Callable[[Any], Mapping[str, Tensor]]

FORMAT = "dgm_utils.train checkpoint 1"
WARM_UP_STEPS = 3  # before a capture, so that libraries choose their kernels and allocate their workspaces


def _detached(terms: Mapping[str, Tensor], source: str) -> Terms:
    """Cut the terms from their autograd graph, after checking that they are 0-d tensors with names."""
    if not isinstance(terms, Mapping):
        raise TypeError(f"{source} returned {type(terms).__name__}, expected a dict of name -> 0-d tensor")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.dim() != 0:
            came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{source} returned {name!r} with {came}, expected a 0-d tensor (a mean, say)")
    return {name: value.detach() for name, value in terms.items()}


# ---------------------------------------------------------------------------------------------------- steps
def gradient_step(
    loss: Loss,
    optimizer: Optimizer,
    *,
    clip: float | None = None,
    schedule: LRScheduler | None = None,
    amp: bool = False,
    graph: bool = False,
) -> Step:
    """Return a step that updates the optimizer's own parameters, and no others, on ``loss(batch)["loss"]``.

    Nothing else gets a gradient, so the players of a GAN need no ``detach`` and no freezing. Parameters with
    ``requires_grad=False`` are skipped, and so are those that a loss does not reach.

    ``clip`` bounds the norm of the gradient (all parameters together) and logs it, before clipping, as
    ``grad_norm``; ``math.inf`` only logs. ``schedule.step()`` is called after every update, so schedules count
    batches. ``amp`` runs the loss in bfloat16 autocast, and in float32 on a CUDA card without native bfloat16
    (a T4), so no loss scaling is ever needed.

    ``graph`` records the whole update as a CUDA graph and replays it; on other devices it only warns. The
    first batch of a shape runs eagerly, the second in a row is recorded, and every other shape (a last, short
    batch) runs eagerly. What was recorded is recorded again when parameters, optimizer state or the train or
    eval mode of a module are exchanged. Recording leaves parameters, optimizer state, buffers of called
    modules and random states as they were, and the result equals the eager one up to the rounding of other
    kernels. A loss that is recorded must not read tensors on the host (``.item()``, ``if`` on a tensor), nor
    draw from a generator of its own. Its Python code runs only while recording: a weight that changes during
    training has to be a 0-d tensor on the device, changed by ``fill_``; a buffer is updated in place.

    Raises:
        ValueError: if the optimizer has nothing to train, if no parameter receives a gradient, if ``clip`` is
            not positive, or if ``graph`` meets an optimizer that is not capturable.
        KeyError, TypeError: if ``loss`` does not return 0-d tensors with an entry ``"loss"``.
        RuntimeError: if the step cannot be recorded.

    References:
        Accelerating PyTorch with CUDA Graphs, V. Nguyen, M. Carilli, S. B. Eryilmaz, V. Singh, M. Lin,
        N. Gimelshein, A. Desmaison, E. Yang, 2021, https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is a bound on the gradient norm, expected a number above 0, got {clip}")
    return _GradientStep(loss, optimizer, clip, schedule, amp, graph)


class _GradientStep:
    def __init__(self, loss, optimizer, clip, schedule, amp, graph):
        self.loss, self.optimizer, self.clip, self.schedule = loss, optimizer, clip, schedule
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        device = self.parameters[0].device
        if not any(p.requires_grad for p in self.parameters):
            raise ValueError(f"none of the optimizer's {len(self.parameters)} parameters requires a gradient")
        slow = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
        # Cached casts would outlive the recording that made them.
        half = torch.autocast(device.type, torch.bfloat16, cache_enabled=not graph)
        self.cast = half if amp and not slow else nullcontext()
        self.run = self.update
        if graph and device.type == "cuda":
            self.run = _Recorded(self, device)
        elif graph:
            warnings.warn(f"graph=True records CUDA graphs; on {device.type} it does nothing", stacklevel=3)
            for group in optimizer.param_groups:  # torch refuses capturable=True off the GPU
                group.update({"capturable": False} if "capturable" in group else {})

    def __call__(self, batch: Any) -> Terms:
        terms = self.run(batch)
        if self.schedule is not None:
            self.schedule.step()
        return terms

    def update(self, batch: Any) -> Terms:
        """Differentiate and move: all that a CUDA graph records."""
        parameters = [p for p in self.parameters if p.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast:
            terms = self.loss(batch)
        logged = _detached(terms, "loss(batch)")
        if "loss" not in logged:
            raise KeyError(f'loss(batch) returned {list(logged)}, expected an entry "loss" to minimise')
        if terms["loss"].requires_grad:
            terms["loss"].backward(inputs=parameters)
        if all(p.grad is None for p in parameters):
            raise ValueError(
                "no parameter of the optimizer receives a gradient from loss(batch)['loss']: is there a "
                "detach, a no_grad or an item() on the way, or is it another network's optimizer?"
            )
        if self.clip is not None:
            logged["grad_norm"] = nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return logged

    def state_dict(self) -> dict[str, Any]:
        return {
            "name": type(self.optimizer).__name__,
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        came = (state["name"], state["schedule"] is not None)
        expected = (type(self.optimizer).__name__, self.schedule is not None)
        if came != expected:
            raise ValueError(f"expected a state of (optimizer, with schedule) {expected}, got {came}")
        # How to compute belongs to this machine, not to the one that wrote the state.
        kept = ("capturable", "foreach", "fused")
        groups = [
            saved | {key: own[key] for key in kept if key in own}
            for saved, own in zip(
                state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
            )
        ]
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])


def alternate(**players: Step | tuple[Step, int]) -> Step:
    """Return a step in which the players move in the order given; ``(step, k)`` moves on every k-th batch.

    ``alternate(critic=critic_step, generator=(generator_step, 5))`` makes five critic steps for one of the
    generator. Terms are logged as ``player/term``. The state holds the number of batches seen, so that a
    resumed training continues inside the cycle.

    Raises:
        ValueError: if there is no player, or if k is not an integer of at least 1.
    """
    if not players:
        raise ValueError("expected at least one player, as in alternate(critic=step, generator=(step, 5))")
    moves = {name: move if isinstance(move, tuple) else (move, 1) for name, move in players.items()}
    for name, (_, every) in moves.items():
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"player {name!r} moves on every k-th batch, expected k >= 1, got {every!r}")
    return _Alternate(moves)


class _Alternate:
    def __init__(self, moves: dict[str, tuple[Step, int]]):
        self.moves, self.count = moves, 0

    def __call__(self, batch: Any) -> Terms:
        self.count += 1
        turns = [(name, step) for name, (step, every) in self.moves.items() if self.count % every == 0]
        return {f"{name}/{term}": value for name, step in turns for term, value in step(batch).items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "players": {name: step.state_dict() for name, (step, _) in self.moves.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if list(state["players"]) != list(self.moves):
            raise ValueError(f"expected players {list(self.moves)}, got {list(state['players'])}")
        for name, (step, _) in self.moves.items():
            step.load_state_dict(state["players"][name])
        self.count = state["count"]


# ----------------------------------------------------------------------------------- a step as a CUDA graph
class _Recorded:
    """Run ``step.update`` from a recording, where there is one that is still true; else eagerly."""

    def __init__(self, step: _GradientStep, device: torch.device, record=None):
        self.step, self.device, self.record = step, device, record or _record_on_cuda
        groups = step.optimizer.param_groups
        if not all(group.get("capturable") for group in groups):
            name = type(step.optimizer).__name__
            words = f"write {name}(..., capturable=True)" if "capturable" in groups[0] else "take Adam"
            raise ValueError(
                f"graph=True needs a capturable optimizer, got {name}: {words}, fused=True if it can"
            )
        # A graph reads numbers once and tensors at every replay: the rates have to be tensors.
        self.rates = [torch.zeros((), device=device) for _ in groups]
        self.modules: dict[nn.Module, None] = {}  # called by the loss; an ordered set
        self.recorded = self.seen = None

    def __call__(self, batch: Any) -> Terms:
        for rate, group in zip(self.rates, self.step.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        signature = self._signature(tensors)
        if signature not in (self.recorded, self.seen):
            terms = self._update(batch)
            self.seen = self._signature(tensors)  # the first update makes the optimizer's state
            return terms
        if signature != self.recorded:
            self._record(batch, tensors)
            self.recorded = self._signature(tensors)
        for static, tensor in zip(self.inputs, tensors, strict=True):
            static.copy_(tensor)
        self.replay()
        self.seen = self.recorded
        # One copy out of the static output: the next replay overwrites it.
        return dict(zip(self.names, self.outputs.clone().unbind(), strict=True))

    def _signature(self, tensors: tuple[Tensor, ...]) -> tuple:
        """All that a recording has frozen: shapes, addresses and modes."""
        state = self.step.optimizer.state
        return (
            [(tensor.shape, tensor.dtype) for tensor in tensors],
            [(p.data_ptr(), p.requires_grad) for p in self.step.parameters],
            [t.data_ptr() for p in self.step.parameters for t in _tensors(state.get(p, {}))],
            [module.training for module in self.modules],
        )

    def _update(self, batch: Any) -> Terms:
        groups = self.step.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            return self.step.update(batch)
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def _record(self, batch: Any, tensors: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(tensor.to(self.device, copy=True) for tensor in tensors)
        static = self.inputs[0] if isinstance(batch, Tensor) else self.inputs

        def work() -> Tensor:
            terms = self._update(static)
            self.names = list(terms)
            return torch.stack([value.double() for value in terms.values()])

        self.modules.clear()
        with _rolled_back(self.step.optimizer, self.modules), _without_validation():
            self.outputs, self.replay = self.record(work, self.device)


def _record_on_cuda(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """Return the static result of ``work()`` and the function that computes it anew."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_STEPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=stream):
                result = work()
        except RuntimeError as error:
            raise RuntimeError(
                f"graph=True could not record this step ({error.__context__ or error}). Usual causes: the loss "
                "reads a tensor on the host (.item(), .cpu(), print, if), makes one from Python numbers "
                "(torch.tensor) or on the CPU, draws from its own generator, or an earlier loss with its "
                "gradient graph is still alive (detach or delete it). graph=False runs it eagerly."
            ) from error
    return result, graph.replay


def _tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


@contextmanager
def _rolled_back(optimizer: Optimizer, modules: dict[nn.Module, None]) -> Iterator[None]:
    """Undo, in place, what the body does to parameters, optimizer state, buffers and random states.

    Buffers are those of the modules that the body calls (``module(x)``), which are also put into ``modules``.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [t for p in parameters for t in (p.data, *_tensors(optimizer.state.get(p, {})))]
    saved = {id(tensor): (tensor, tensor.clone()) for tensor in tensors}
    random_state = _random_state()

    def remember(module: nn.Module, _) -> None:
        modules[module] = None
        for buffer in module.buffers():
            if id(buffer) not in saved:
                saved[id(buffer)] = (buffer, buffer.clone())

    hook = register_module_forward_pre_hook(remember)
    try:
        with warnings.catch_warnings():  # torch warns that a capturable optimizer runs uncaptured: it must
            warnings.filterwarnings("ignore", message=".*capturable=True")
            yield
    finally:
        hook.remove()
        with torch.no_grad():
            for tensor, before in saved.values():
                tensor.copy_(before)
        _set_random_state(random_state)


@contextmanager
def _without_validation() -> Iterator[None]:
    """Switch off the argument checks of distributions, which read tensors on the host."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


# ----------------------------------------------------------------------------------------------- evaluation
@torch.no_grad()
def evaluate(loss: Loss, batches: Iterable) -> dict[str, float]:
    """Return the mean of every term over the examples (not over the batches), with one copy to the host.

    The mode of the model and the random state are the caller's; inside ``fit(validate=...)`` the model is in
    eval mode and the random state is put back afterwards. A term is averaged over the examples of the batches
    that have it.

    Raises:
        ValueError: if there are no examples.
    """
    totals: Terms = {}
    examples: dict[str, int] = {}
    for batch in batches:
        size = len(batch if isinstance(batch, Tensor) else batch[0])
        for name, value in _detached(loss(batch), "loss(batch)").items():
            totals[name] = totals.get(name, 0) + value.double() * size
            examples[name] = examples.get(name, 0) + size
    if not totals:
        raise ValueError("expected at least one batch to evaluate, got none")
    return {
        name: total / examples[name] for name, total in zip(totals, _to_host(totals.values()), strict=True)
    }


def _to_host(values: Iterable[Tensor]) -> list[float]:
    """Copy 0-d tensors to Python numbers, all in one go; a constant on another device may be among them."""
    values = list(values)
    return torch.stack([value.to(values[0].device) for value in values]).tolist() if values else []


# ------------------------------------------------------------------------------------------------- the loop
class History(dict):
    """Hold ``name -> list of (epoch, value)``; inside an epoch the epoch is a fraction.

    Names are ``train/...`` (every step), ``valid/...`` (every epoch) and ``seconds`` (since the start).
    """

    def add(self, name: str, epoch: float, value: float) -> None:
        """Append one value."""
        self.setdefault(name, []).append((epoch, value))

    def last(self, name: str) -> float:
        """Return the newest value of ``name``."""
        if name not in self:
            raise KeyError(f"no {name!r} in this history, it has {list(self)}")
        return self[name][-1][1]


def fit(
    step: Step,
    batches: Iterable,
    epochs: int,
    *,
    model: nn.Module | None = None,
    validate: Callable[[], Mapping[str, float]] | None = None,
    checkpoint: str | os.PathLike | None = None,
    save_every: float = 180.0,
    on_epoch: Callable[[int, History], Any] | None = None,
    progress: bool = True,
) -> History:
    """Run ``step`` over ``batches`` for ``epochs`` epochs and return what was logged.

    ``batches`` is read once an epoch: a list, ``data.Batches``, a ``DataLoader``. Nothing is copied from the
    device inside an epoch. ``validate()`` returns numbers to log; ``on_epoch(epoch, history)``, epochs counted
    from 1, looks at the model or averages its weights. Both find ``model`` in eval mode; modes and random
    states are put back afterwards, so looking does not change training. ``model`` is every network that is
    trained or averaged, several as one ``nn.ModuleDict``; it is put in train mode first if it is in eval mode.

    ``checkpoint`` is a file. It is written, atomically, at the start, after every epoch, and every
    ``save_every`` seconds within one if ``batches`` has a ``state_dict``; where it exists, training goes on
    from it, bit for bit, up to ``epochs`` epochs in all. It holds model, step, batches, random states and
    history as tensors and plain values. An interrupt (Ctrl-C, the stop button) waits for the running step and
    is then saved as well; a second one does not wait. A step that is a function of one's own lends its state
    from the step inside: ``mine.state_dict, mine.load_state_dict = inner.state_dict, inner.load_state_dict``.

    The progress bar shows on a terminal and in a notebook; it is silent in a pipe, with ``CI`` or
    ``TQDM_DISABLE`` in the environment, and with ``progress=False``.

    Raises:
        FloatingPointError: if a term is not finite, with term, step and epoch, at the end of that epoch.
        ValueError: for epochs below 0, no batches, or a checkpoint without model or of a step without state.
        RuntimeError: for a checkpoint that cannot be read or belongs to another model or step.
        OSError: if a checkpoint cannot be written; the one before is kept.
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"expected a number of epochs, at least 0, got {epochs!r}")
    run = _Run(step, batches, model)
    if checkpoint is not None:
        run.start_from(Path(checkpoint), save_every)
    if model is not None and not model.training:
        model.train()
    with _interrupts_held(checkpoint is not None) as interrupts, run.bar(epochs, progress) as bar:
        while run.epoch < epochs:
            for batch in batches:
                run.log(step(batch))
                bar.update()
                if interrupts or run.save_is_due():
                    run.save(within_epoch=True)
                if interrupts:
                    raise KeyboardInterrupt
            run.end_epoch()
            with _looking(model, batches):
                for name, value in (validate() if validate else {}).items():
                    run.history.add(f"valid/{name}", run.epoch, float(value))
                if on_epoch is not None:
                    on_epoch(run.epoch, run.history)
            run.save()
            if interrupts:
                raise KeyboardInterrupt
    return run.history


class _Run:
    """Know how far a training is, and write it down."""

    def __init__(self, step: Step, batches: Iterable, model: nn.Module | None):
        self.step, self.batches, self.model, self.path = step, batches, model, None
        self.history = History()
        self.epoch = self.index = 0  # finished epochs, and finished steps of the epoch that runs
        self.rows: list[tuple[int, Terms]] = []  # (step, terms) of this epoch that are still on the device
        self.logged: list[tuple[int, str, float]] = []  # (step, name, value) of those on the host
        self.started = time.perf_counter()

    def log(self, terms: Mapping[str, Tensor]) -> None:
        self.rows.append((self.index, _detached(terms, "step(batch)")))
        self.index += 1

    def copy_to_host(self) -> None:
        cells = [(index, name, value) for index, terms in self.rows for name, value in terms.items()]
        self.rows = []
        for (index, name, _), value in zip(cells, _to_host(value for *_, value in cells), strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {index + 1} of epoch {self.epoch + 1} (both counted from 1)"
                )
            self.logged.append((index, name, value))

    def end_epoch(self) -> None:
        if self.index == 0:
            raise ValueError(
                f"expected batches, got none in epoch {self.epoch + 1}; a generator can be read only once: "
                "pass a list, data.Batches or a DataLoader"
            )
        self.copy_to_host()
        for index, name, value in self.logged:
            self.history.add(f"train/{name}", self.epoch + (index + 1) / self.index, value)
        self.epoch, self.index, self.logged = self.epoch + 1, 0, []
        self.history.add("seconds", self.epoch, time.perf_counter() - self.started)

    def bar(self, epochs: int, progress: bool) -> tqdm:
        per_epoch = len(self.batches) if hasattr(self.batches, "__len__") else None
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        watched = sys.stderr.isatty() or hasattr(shell, "kernel")
        quiet = not progress or not watched or bool(os.environ.get("CI") or os.environ.get("TQDM_DISABLE"))
        return tqdm(
            total=per_epoch and epochs * per_epoch,
            initial=self.epoch * (per_epoch or 0) + self.index,
            unit="batch",
            disable=quiet,
        )

    # ---- the checkpoint
    def start_from(self, path: Path, save_every: float) -> None:
        """Continue from the file at ``path`` if there is one, else write the first one."""
        if self.model is None:
            raise ValueError("a checkpoint holds the model: pass fit(..., model=model, checkpoint=path)")
        if not hasattr(self.step, "state_dict"):
            raise ValueError(
                "a checkpoint holds the optimizer: the step needs state_dict and load_state_dict, as those of "
                "gradient_step and alternate have"
            )
        self.path, self.save_every, self.saved = path, save_every, time.monotonic()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            return self.save()
        try:
            self.load_state_dict(_read(path))
        except Exception as error:
            raise RuntimeError(
                f"cannot continue from checkpoint {path}: {error}. Delete the file to train from the start, or "
                "pass another path"
            ) from error

    def save_is_due(self) -> bool:
        return self.path is not None and time.monotonic() - self.saved >= self.save_every

    def save(self, within_epoch: bool = False) -> None:
        if self.path is None or (within_epoch and not hasattr(self.batches, "state_dict")):
            return
        self.copy_to_host()
        _write(self.path, self.state_dict())
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "step": self.step.state_dict(),
            "batches": _position(self.batches),
            "random": _random_state(),
            "history": dict(self.history),
            "epoch": self.epoch,
            "index": self.index,
            "logged": self.logged,
            "seconds": time.perf_counter() - self.started,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own, saved = self.model.state_dict(), state["model"]
        for name in [*own, *saved]:  # compared first: torch would load half of another model
            shapes = [tuple(d[name].shape) if name in d else None for d in (own, saved)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"{name} of the model: expected shape {shapes[0]}, got {shapes[1]}")
        self.step.load_state_dict(state["step"])
        self.model.load_state_dict(saved)
        _set_position(self.batches, state["batches"])
        self.history, self.logged = History(state["history"]), state["logged"]
        self.epoch, self.index = state["epoch"], state["index"]
        self.started = time.perf_counter() - state["seconds"]
        _set_random_state(state["random"])


def _read(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"expected a file of format {FORMAT!r}, got another one")
    return state


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file as a whole: whoever is killed at any moment leaves the old one or the new one."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    part = path.with_name(path.name + ".tmp")
    try:
        with open(part, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno, f"checkpoint not written, the one before is kept: {error.strerror}", str(path)
        )
    finally:
        part.unlink(missing_ok=True)


def _position(batches: Iterable) -> dict[str, Any] | None:
    """Return where ``batches`` is: its own state, or its generator's (a DataLoader's)."""
    if hasattr(batches, "state_dict"):
        return batches.state_dict()
    generator = getattr(batches, "generator", None)
    return {"generator": generator.get_state()} if isinstance(generator, torch.Generator) else None


def _set_position(batches: Iterable, position: Mapping[str, Any] | None) -> None:
    if hasattr(batches, "load_state_dict"):
        batches.load_state_dict(position)
    elif position is not None:
        batches.generator.set_state(position["generator"])


def _random_state() -> dict[str, Any]:
    """Return the states of torch's, Python's and NumPy's global generators as tensors and numbers."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda, device)
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy(), *rest))


@contextmanager
def _looking(model: nn.Module | None, batches: Iterable) -> Iterator[None]:
    """Put the model in eval mode; afterwards put back modes, random states and the place in the data."""
    modes = {} if model is None else {module: module.training for module in model.modules()}
    random_state, position = _random_state(), _position(batches)
    try:
        if model is not None:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        _set_random_state(random_state)
        _set_position(batches, position)


@contextmanager
def _interrupts_held(held: bool) -> Iterator[list[int]]:
    """Collect Ctrl-C instead of raising it, so that no update is cut in two; a second one is raised."""
    interrupts: list[int] = []
    if not held or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return

    def hold(number, frame):
        interrupts.append(number)
        if len(interrupts) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hold)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
