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
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython import get_ipython
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm.auto import tqdm

Terms = Mapping[str, Tensor]  # name -> 0-d tensor
Step = Callable[[Any], Terms]
FORMAT = "dgm_utils.train checkpoint 1"
WARM_UP = 3  # updates before a recording, in which libraries choose kernels and allocate their workspaces


def _detached(terms: Terms, source: str) -> dict[str, Tensor]:
    """Cut the terms from their autograd graph, once it is sure that they are terms."""
    if not isinstance(terms, Mapping):
        raise TypeError(f"expected {source} to be a dict of name -> 0-d tensor, got {type(terms).__name__}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.dim() > 0:
            came = getattr(value, "shape", type(value).__name__)
            raise TypeError(f"expected {source}[{name!r}] to be a 0-d tensor, a mean say, got {came}")
    return {name: value.detach() for name, value in terms.items()}


def _to_host(values: Iterable[Tensor]) -> list[float]:
    """Copy 0-d tensors to Python numbers all at once; a constant on another device may be among them."""
    values = list(values)
    return torch.stack([value.to(values[0].device) for value in values]).tolist() if values else []


# ---------------------------------------------------------------------------------------------------- steps
def gradient_step(
    loss: Step,
    optimizer: Optimizer,
    *,
    clip: float | None = None,
    schedule: LRScheduler | None = None,
    amp: bool = False,
    graph: bool = False,
) -> Step:
    """Return a step that updates the optimizer's own parameters, and no others, on ``loss(batch)["loss"]``.

    Nothing else gets a gradient, so the players of a GAN need no ``detach`` and no freezing. Parameters with
    ``requires_grad=False`` are skipped, and so are those that the loss does not reach. The step has
    ``state_dict`` and ``load_state_dict`` for optimizer and schedule.

    ``clip`` bounds the norm of the gradient (all parameters together) and logs the norm before clipping as
    ``grad_norm``; ``math.inf`` only logs. ``schedule.step()`` follows every update: schedules count batches.
    ``amp`` runs the loss in bfloat16 autocast, and in float32 on a CUDA card without native bfloat16 (a T4),
    so no loss scaling is ever needed.

    ``graph`` records the whole update as a CUDA graph and replays it; on other devices it only warns. Make
    the optimizer with ``fused=True, capturable=True``, which runs on both. The first batch of a shape runs
    eagerly, the second in a row is recorded, and any other shape (a last, short batch) runs eagerly. When
    parameters, optimizer state or a module's train or eval mode are exchanged, it is recorded anew. Recording
    changes no parameter, optimizer state, random state, nor buffer of a module that the loss calls; results
    equal eager ones up to rounding. Learning rates become tensors. What the loss does in Python happens only
    while recording: a weight that changes has to be a 0-d tensor on the device, changed by ``fill_``; state
    is kept in buffers, changed in place; random numbers come from the global generator; no tensor is read on
    the host (``.item()``, ``if``) or made from Python numbers (``torch.tensor``, ``Normal(mean, 1.0)``).

    Raises:
        ValueError: for a ``clip`` that is not positive, for ``graph`` with an optimizer that is not
            capturable, and, when called, if no parameter receives a gradient.
        KeyError, TypeError: when called, if ``loss`` does not return 0-d tensors with an entry ``"loss"``.
        RuntimeError: when called, if the update cannot be recorded.

    References:
        Accelerating PyTorch with CUDA Graphs, V. Nguyen, M. Carilli, S. B. Eryilmaz, V. Singh, M. Lin,
        N. Gimelshein, A. Desmaison, E. Yang, 2021,
        https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip bounds the gradient norm: expected a number above 0, got {clip}")
    return _GradientStep(loss, optimizer, clip, schedule, amp, graph)


class _GradientStep:
    def __init__(self, loss, optimizer, clip, schedule, amp, graph):
        self.loss, self.optimizer, self.clip, self.schedule = loss, optimizer, clip, schedule
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        device = self.parameters[0].device
        native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
        # Casts that were cached outside a recording would be missing from it.
        bfloat16 = torch.autocast(device.type, torch.bfloat16, cache_enabled=not graph)
        self.cast = bfloat16 if amp and native else nullcontext()
        self.run = _Recorded(self, device) if graph and device.type == "cuda" else self.update
        if graph and device.type != "cuda":
            warnings.warn(f"graph=True records CUDA graphs: on {device.type} it does nothing", stacklevel=3)

    def __call__(self, batch: Any) -> Terms:
        terms = self.run(batch)
        if self.schedule is not None:
            self.schedule.step()
        return terms

    def update(self, batch: Any) -> Terms:
        """Do all of a step that a graph records."""
        parameters = [p for p in self.parameters if p.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast:
            terms = self.loss(batch)
        logged = _detached(terms, "loss(batch)")
        if "loss" not in logged:
            raise KeyError(f"expected loss(batch) to have an entry 'loss' to minimise, got {list(logged)}")
        if parameters and terms["loss"].requires_grad:
            terms["loss"].backward(inputs=parameters)
        if all(p.grad is None for p in parameters):
            raise ValueError(
                "no parameter of the optimizer receives a gradient from loss(batch)['loss']: look for a "
                "detach, no_grad or item(), for frozen parameters, or for another network's optimizer"
            )
        if self.clip is not None:
            logged["grad_norm"] = nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return logged

    def state_dict(self) -> dict[str, Any]:
        parts = (self.optimizer, self.schedule)
        return {type(part).__name__: part.state_dict() for part in parts if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        parts = {type(part).__name__: part for part in (self.optimizer, self.schedule) if part is not None}
        if list(state) != list(parts):
            raise ValueError(f"expected the state of {list(parts)}, got that of {list(state)}")
        for name, part in parts.items():
            part.load_state_dict(state[name])


def one_cycle(loss: Step, model: nn.Module, lr: float, steps: int, **options: Any) -> Step:
    """Return a gradient step of Adam whose rate rises to ``lr`` and falls to zero, over ``steps`` batches.

    The rate rises during the first tenth of the steps. On a GPU the step is recorded as a CUDA graph.
    ``options`` are those of `gradient_step`: ``clip``, ``amp``.

    References:
        Super-convergence: very fast training of neural networks using large learning rates. Smith, Topin,
        2018. https://arxiv.org/abs/1708.07120
    """
    cuda = next(model.parameters()).is_cuda
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True, capturable=cuda)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1, cycle_momentum=False)
    return gradient_step(loss, optimizer, schedule=schedule, graph=cuda, **options)


def alternate(**players: Step | tuple[Step, int]) -> Step:
    """Return a step in which the players move in the order given; ``(step, k)`` moves on every k-th batch.

    ``alternate(critic=critic_step, generator=(generator_step, 5))`` makes five critic steps for one of the
    generator. Terms are logged as ``player/term``. The state counts the batches, so that a resumed training
    goes on inside the cycle.

    Raises:
        ValueError: if there is no player, or a k that is not an integer of at least 1.
    """
    moves = {name: move if isinstance(move, tuple) else (move, 1) for name, move in players.items()}
    if not moves or not all(isinstance(every, int) and every >= 1 for _, every in moves.values()):
        raise ValueError(f"expected players as critic=step or generator=(step, k) with k >= 1, got {players}")
    return _Alternate(moves)


class _Alternate:
    def __init__(self, moves: dict[str, tuple[Step, int]]):
        self.moves, self.count = moves, 0

    def __call__(self, batch: Any) -> Terms:
        self.count += 1
        turns = [(name, step) for name, (step, every) in self.moves.items() if self.count % every == 0]
        return {f"{name}/{term}": value for name, step in turns for term, value in step(batch).items()}

    def state_dict(self) -> dict[str, Any]:
        players = {name: step.state_dict() for name, (step, _) in self.moves.items()}
        return {"count": self.count, "players": players}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if list(state["players"]) != list(self.moves):
            raise ValueError(f"expected players {list(self.moves)}, got {list(state['players'])}")
        self.count = state["count"]
        for name, (step, _) in self.moves.items():
            step.load_state_dict(state["players"][name])


# ----------------------------------------------------------------------------------- a step as a CUDA graph
class _Recorded:
    """Replay the recording of a step's update where there is a valid one; else update eagerly."""

    def __init__(self, step: _GradientStep, device: torch.device):
        self.step, self.device = step, device
        if not all(group.get("capturable") for group in step.optimizer.param_groups):
            raise ValueError(
                "graph=True needs a capturable optimizer, as Adam(parameters, fused=True, capturable=True), "
                f"got {type(step.optimizer).__name__} without capturable=True"
            )
        step.optimizer._warned_capturable_if_run_uncaptured = True  # eager updates are meant here
        self.modules: dict[nn.Module, None] = {}  # an ordered set of those that the loss calls
        self.recorded = self.seen = None

    def __call__(self, batch: Any) -> Terms:
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        for group in self.step.optimizer.param_groups:  # a graph holds numbers, but reads tensors
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
        signature = self.signature(tensors)
        if signature not in (self.recorded, self.seen):
            terms = self.step.update(batch)
            self.seen = self.signature(tensors)  # again: the first update makes the optimizer's state
            return terms
        if signature != self.recorded:
            self.record(batch, tensors)
            self.recorded = self.signature(tensors)  # again: now it knows the modules
        for static, tensor in zip(self.inputs, tensors, strict=True):
            static.copy_(tensor)
        self.replay()
        self.seen = self.recorded
        return dict(zip(self.names, self.outputs.clone().unbind(), strict=True))

    def signature(self, tensors: tuple[Tensor, ...]) -> tuple:
        """Return what a recording depends on and cannot follow: shapes, addresses, modes."""
        return (
            [(tensor.shape, tensor.dtype) for tensor in tensors],
            [(tensor.data_ptr(), tensor.requires_grad) for tensor in _tensors(self.step.optimizer)],
            [module.training for module in self.modules],
        )

    def record(self, batch: Any, tensors: tuple[Tensor, ...]) -> None:
        self.inputs = tuple(tensor.to(self.device, copy=True) for tensor in tensors)

        def work() -> Tensor:
            terms = self.step.update(self.inputs[0] if isinstance(batch, Tensor) else self.inputs)
            self.names = list(terms)
            return torch.stack([value.double() for value in terms.values()])

        self.modules.clear()
        with _rolled_back(self.step.optimizer, self.modules):
            self.outputs, self.replay = _record_on_cuda(work, self.device)


def _record_on_cuda(work: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """Return the tensor that ``work()`` makes, and the function that computes it anew, in place."""
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
                raise RuntimeError(
                    f"graph=True could not record the update ({error.__context__ or error}): look for a "
                    "tensor that the loss reads on the host (.item(), print, if) or makes from Python "
                    "numbers (torch.tensor, Normal(mean, 1.0)) or on the CPU, for its own generator, for an "
                    "earlier loss that is still alive; or write graph=False"
                ) from error


def _tensors(optimizer: Optimizer) -> Iterator[Tensor]:
    """Yield what an update reads and writes: rates, parameters and the optimizer's state."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            values = (group["lr"], p, *optimizer.state.get(p, {}).values())
            yield from (value for value in values if isinstance(value, Tensor))


@contextmanager
def _rolled_back(optimizer: Optimizer, modules: dict[nn.Module, None]) -> Iterator[None]:
    """Undo, in place, what the body does to parameters, optimizer state, buffers and random states.

    The buffers are those of the modules that the body calls, which are also put into ``modules``.
    Distributions do not check their arguments in the body, since they would read them on the host.
    """
    saved = {id(tensor): (tensor, tensor.detach().clone()) for tensor in _tensors(optimizer)}
    random_state, validate_args = _random_state(), Distribution._validate_args

    def remember(module: nn.Module, _: Any) -> None:
        modules[module] = None
        saved.update({id(b): (b, b.clone()) for b in module.buffers() if id(b) not in saved})

    hook = register_module_forward_pre_hook(remember)
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        hook.remove()
        Distribution.set_default_validate_args(validate_args)
        with torch.no_grad():
            for tensor, before in saved.values():
                tensor.copy_(before)
        _set_random_state(random_state)


# ----------------------------------------------------------------------------------- evaluation and the loop
@torch.no_grad()
def evaluate(loss: Step, batches: Iterable) -> dict[str, float]:
    """Return the mean of every term over the examples (not over the batches), with one copy to the host.

    A batch is a tensor or a tuple of tensors. A term that some batches lack is averaged over the others. Mode
    and random state are the caller's; ``fit(validate=...)`` sets eval mode and puts both back.

    Raises:
        ValueError: if there are no batches.
    """
    totals, examples = {}, {}
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


class History(dict):
    """Hold ``name -> list of (epoch, value)``; inside an epoch the epoch is a fraction.

    Names are ``train/...`` (every step), ``valid/...`` (every epoch) and ``seconds`` (every epoch, in all).
    """

    def add(self, name: str, epoch: float, value: float) -> None:
        """Append a value to ``name``."""
        self.setdefault(name, []).append((epoch, value))

    def last(self, name: str) -> float:
        """Return the newest value of ``name``."""
        if name not in self:
            raise KeyError(f"expected one of {list(self)}, got {name!r}")
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
    device inside an epoch. ``validate()`` returns numbers to log; ``on_epoch(epoch, history)``, with epochs
    counted from 1, looks at the model or averages its weights. Both find ``model`` in eval mode; modes and
    random states are put back afterwards, so looking does not change training. ``model`` holds every network
    that is trained or averaged, several as one ``nn.ModuleDict``; it is put in train mode if it is not in it.

    ``checkpoint`` is a file. It is written, atomically, at the start, after every epoch, and every
    ``save_every`` seconds within one if ``batches`` has a ``state_dict``; if it exists, training goes on from
    it, bit for bit, up to ``epochs`` epochs in all. It holds model, step, batches, random states and history
    as tensors and plain values. An interrupt (Ctrl-C, the stop button) waits for the running step and is then
    saved as well; a second one does not wait. A step of one's own lends its state from the step inside:
    ``mine.state_dict, mine.load_state_dict = inner.state_dict, inner.load_state_dict``.

    The progress bar shows on a terminal and in a notebook, unless ``CI`` or ``TQDM_DISABLE`` is in the
    environment.

    Raises:
        FloatingPointError: if a term is not finite, with term, step and epoch, at the end of that epoch.
        ValueError: for epochs below 0, no batches, or a checkpoint without model or step with a state.
        RuntimeError: for a checkpoint that cannot be read, or belongs to another model, step or data.
        OSError: if a checkpoint cannot be written; the one before is kept.
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"expected a number of epochs, at least 0, got {epochs!r}")
    run = _Run(step, batches, model, None if checkpoint is None else Path(checkpoint))
    if checkpoint is not None:
        run.start()
    if model is not None and not model.training:
        model.train()
    with _interrupts_held(checkpoint is not None) as interrupts, run.bar(epochs, progress) as bar:
        while run.epoch < epochs:
            for batch in batches:
                run.log(step(batch))
                bar.update()
                if interrupts or time.perf_counter() - run.saved >= save_every:
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

    def __init__(self, step: Step, batches: Iterable, model: nn.Module | None, path: Path | None):
        self.step, self.batches, self.model, self.path = step, batches, model, path
        self.history, self.rows, self.length = History(), [], length_hint(batches)
        self.epoch = self.index = 0  # epochs done, and steps done of the next
        self.started = self.saved = time.perf_counter()

    def bar(self, epochs: int, progress: bool) -> tqdm:
        watched = sys.stderr.isatty() or hasattr(get_ipython(), "kernel")
        quiet = not progress or not watched or {"CI", "TQDM_DISABLE"} & os.environ.keys()
        done, total = self.epoch * self.length + self.index, epochs * self.length or None
        return tqdm(total=total, initial=done, unit="batch", disable=bool(quiet))

    def log(self, terms: Terms) -> None:
        terms = _detached(terms, "step(batch)")
        self.rows += [(self.index, name, value) for name, value in terms.items()]
        self.index += 1

    def copy_to_host(self) -> None:
        rows, self.rows = self.rows, []
        for (index, name, _), value in zip(rows, _to_host(row[2] for row in rows), strict=True):
            if not math.isfinite(value):
                where = f"step {index + 1} of epoch {self.epoch + 1}, both counted from 1"
                raise FloatingPointError(f"{name} is {value} at {where}")
            self.history.add(f"train/{name}", self.epoch + (index + 1) / (self.length or self.index), value)

    def end_epoch(self) -> None:
        if self.index == 0:
            hint = "pass a list, data.Batches or a DataLoader: a generator can be read only once"
            raise ValueError(f"expected batches, got none in epoch {self.epoch + 1}; {hint}")
        self.copy_to_host()
        self.epoch, self.index = self.epoch + 1, 0
        self.history.add("seconds", self.epoch, time.perf_counter() - self.started)

    def start(self) -> None:
        """Continue from the checkpoint; write it first if there is none, which shows that it can be."""
        if self.model is None or not hasattr(self.step, "state_dict"):
            raise ValueError(
                "a checkpoint holds model and step: pass model=..., and a step with a state_dict"
            )
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.save()
        try:
            self.load()
        except Exception as error:
            advice = "delete it to train from the start, or pass another path"
            raise RuntimeError(f"cannot continue from checkpoint {self.path} ({error}): {advice}") from error

    def save(self, within_epoch: bool = False) -> None:
        if self.path is None or (within_epoch and not hasattr(self.batches, "state_dict")):
            return
        self.copy_to_host()
        progress = (self.epoch, self.index, time.perf_counter() - self.started)
        state = {"format": FORMAT, "progress": progress, "history": dict(self.history)}
        state |= {"model": self.model.state_dict(), "step": self.step.state_dict()}
        _write(self.path, state | {"random": _random_state(self.batches)})
        self.saved = time.perf_counter()

    def load(self) -> None:
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError("it is cut short, or holds more than tensors and plain values") from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        shapes = [
            {k: tuple(v.shape) for k, v in d.items()} for d in (self.model.state_dict(), state["model"])
        ]
        for name in [*shapes[0], *shapes[1]]:  # before anything is changed
            own, saved = (shape.get(name) for shape in shapes)
            if own != saved:
                raise ValueError(f"{name} of the model has shape {own}, in the file {saved}")
        _set_random_state(state["random"], self.batches)
        self.step.load_state_dict(state["step"])
        self.model.load_state_dict(state["model"])
        self.epoch, self.index, seconds = state["progress"]
        self.history, self.started = History(state["history"]), time.perf_counter() - seconds


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Exchange the file as a whole: a kill at any moment leaves the old one or the new one."""
    buffer, part = io.BytesIO(), path.with_name(path.name + ".tmp")
    torch.save(state, buffer)
    try:
        with open(part, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        what = f"checkpoint not written, the one before is kept: {error.strerror}"
        raise OSError(error.errno, what, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def _random_state(batches: Iterable | None = None) -> dict[str, Any]:
    """Return what decides on the next random numbers, and on the next batch, as tensors and numbers."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()]
    state = {"torch": torch.get_rng_state(), "cuda": cuda, "python": random.getstate(), "numpy": numpy}
    if hasattr(batches, "state_dict"):
        state["batches"] = batches.state_dict()
    elif isinstance(getattr(batches, "generator", None), torch.Generator):  # a DataLoader's own
        state["generator"] = batches.generator.get_state()
    return state


def _set_random_state(state: Mapping[str, Any], batches: Iterable | None = None) -> None:
    if "batches" in state:
        batches.load_state_dict(state["batches"])
    if "generator" in state:
        batches.generator.set_state(state["generator"])
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    np.random.set_state(tuple(state["numpy"]))
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda, device)


@contextmanager
def _looking(model: nn.Module | None, batches: Iterable) -> Iterator[None]:
    """Put the model in eval mode; afterwards put back modes, random states and the place in the data."""
    modes = {} if model is None else {module: module.training for module in model.modules()}
    random_state = _random_state(batches)
    try:
        if model is not None:
            model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        _set_random_state(random_state, batches)


@contextmanager
def _interrupts_held(held: bool) -> Iterator[list[int]]:
    """Collect Ctrl-C instead of raising it, so that no update is cut in two; a second one is raised."""
    interrupts: list[int] = []

    def hold(number: int, _: Any) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            raise KeyboardInterrupt

    held = held and threading.current_thread() is threading.main_thread()  # signals arrive only there
    before = signal.signal(signal.SIGINT, hold) if held else None
    try:
        yield interrupts
    finally:
        if held:
            signal.signal(signal.SIGINT, before)
