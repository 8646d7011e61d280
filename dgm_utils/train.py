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

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from operator import length_hint
from pathlib import Path
from typing import Any

import torch
from IPython import get_ipython
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau
from tqdm.auto import tqdm

from dgm_utils.graph import Recorded

__all__ = ["History", "alternate", "evaluate", "fit", "gradient_step", "one_cycle"]

Terms = Mapping[str, Tensor]  # name -> 0-d tensor
Step = Callable[[Any], Terms]
FORMAT = "dgm_utils.train checkpoint 2"


def _detached(terms: Terms, source: str) -> dict[str, Tensor]:
    """Cut the terms from their autograd graph, once it is sure that they are terms."""
    if not isinstance(terms, Mapping):
        raise TypeError(f"expected {source} to be a dict of name -> 0-d tensor, got {type(terms).__name__}")
    for name, value in terms.items():
        if not isinstance(value, Tensor) or value.dim() > 0:
            came = getattr(value, "shape", type(value).__name__)
            raise TypeError(f"expected {source}[{name!r}] to be a 0-d tensor, a mean say, got {came}")
    return {name: value.detach() if value.requires_grad else value for name, value in terms.items()}


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
    ``requires_grad=False`` are skipped, and so are those that the loss does not reach; those of a group that
    is added later are trained from then on. The step has ``state_dict`` and ``load_state_dict`` for optimizer
    and schedule.

    ``clip`` bounds the norm of the gradient (all parameters together) and logs the norm before clipping as
    ``grad_norm``; ``math.inf`` only logs. ``schedule.step()`` follows every update: schedules count batches.
    ``amp`` runs the loss in bfloat16 autocast, and in float32 on a CUDA card without native bfloat16 (a T4),
    so no loss scaling is ever needed.

    ``graph`` records the whole update as a CUDA graph and replays it; on other devices it only warns. Make
    the optimizer with ``fused=True, capturable=True``, which runs on both. Results equal eager ones up to
    rounding. What the loss does in Python happens only while recording: `dgm_utils.graph` says what a loss
    has to keep to, and what is followed.

    Raises:
        ValueError: for a ``clip`` that is not positive, for a schedule that does not count batches, for
            ``graph`` with an optimizer that is not capturable, and, when called, if no parameter receives a
            gradient.
        KeyError, TypeError: when called, if ``loss`` does not return 0-d tensors with an entry ``"loss"``.
        RuntimeError: when called, if the update cannot be recorded.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip bounds the gradient norm: expected a number above 0, got {clip}")
    if isinstance(schedule, ReduceLROnPlateau):
        advice = "leave it out, and call plateau.step(history.last('valid/loss')) in on_epoch of fit"
        raise ValueError(f"a schedule counts batches, but ReduceLROnPlateau waits for a loss: {advice}")
    return _GradientStep(loss, optimizer, clip, schedule, amp, graph)


class _GradientStep:
    def __init__(self, loss, optimizer, clip, schedule, amp, graph):
        self.loss, self.optimizer, self.clip, self.schedule = loss, optimizer, clip, schedule
        self.parts = {type(part).__name__: part for part in (optimizer, schedule) if part is not None}
        device = optimizer.param_groups[0]["params"][0].device
        cuda = device.type == "cuda"
        native = not cuda or torch.cuda.get_device_capability(device) >= (8, 0)
        # Casts that were cached outside a recording would be missing from it.
        bfloat16 = torch.autocast(device.type, torch.bfloat16, cache_enabled=not graph)
        self.cast = bfloat16 if amp and native else nullcontext()
        self.run = Recorded(self.update, optimizer) if graph and cuda else self.update
        if graph and not cuda:
            warnings.warn(f"graph=True records CUDA graphs: on {device.type} it does nothing", stacklevel=3)

    def __call__(self, batch: Any) -> Terms:
        terms = self.run(batch)
        if self.schedule is not None:
            self.schedule.step()
        return terms

    def update(self, batch: Any) -> Terms:
        """Do all of a step that a graph records."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        with self.cast:
            terms = self.loss(batch)
        logged = _detached(terms, "loss(batch)")
        if "loss" not in logged:
            raise KeyError(f"expected loss(batch) to have an entry 'loss' to minimise, got {list(logged)}")
        if parameters and terms["loss"].requires_grad:
            terms["loss"].backward(inputs=parameters)
        if all(p.grad is None for p in parameters):
            advice = "look for a detach, no_grad or item(), frozen parameters, or another network's optimizer"
            raise ValueError(f"no parameter of the optimizer receives a gradient from the loss: {advice}")
        if self.clip is not None:
            logged["grad_norm"] = nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return logged

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if list(state) != list(self.parts):
            raise ValueError(f"expected the state of {list(self.parts)}, got that of {list(state)}")
        for name, part in self.parts.items():
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
    schedule = OneCycleLR(optimizer, lr, steps, pct_start=0.1, cycle_momentum=False)
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
    sums = zip(totals, _to_host(totals.values()), strict=True)
    return {name: total / examples[name] for name, total in sums}


class History(dict):
    """Hold ``name -> list of (epoch, value)``; inside an epoch the epoch is a fraction.

    Names are ``train/...`` (every step), ``valid/...`` (every epoch) and ``seconds`` (every epoch, in all).
    """

    def add(self, name: str, epoch: float, value: float) -> None:
        """Append a value to ``name``."""
        self.setdefault(name, []).append((epoch, float(value)))

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
    save_every: float = 0.0,
    on_epoch: Callable[[int, History], Any] | None = None,
    progress: bool = True,
) -> History:
    """Run ``step`` over ``batches`` for ``epochs`` epochs and return what was logged.

    ``batches`` is read once an epoch: a list, ``data.Batches``, a ``DataLoader``. Nothing is copied from the
    device inside an epoch. ``validate()`` returns numbers to log; ``on_epoch(epoch, history)``, with epochs
    counted from 1, looks at the model or averages its weights. Both find ``model`` in eval mode; modes and
    torch's random states are put back afterwards, so looking does not change training.

    ``model`` holds every network that is trained or averaged, several as one ``nn.ModuleDict``. In eval mode
    it is put in train mode. If only a part of it is in eval mode, that may be on purpose (frozen): the part
    stays so, and a warning names it.

    ``checkpoint`` is a file. It is written at the start, at the end of the first epoch that ends
    ``save_every`` seconds after the last save (every epoch by default), and at the end. If it exists,
    training goes on from it, bit for bit, up to ``epochs`` epochs in all: an interrupt or a kill at any
    moment costs what came after the last save. The file holds model, step and torch's random states (with the
    batches' own ``generator``) as tensors and plain values. The history stands in a second file,
    ``CHECKPOINT.history``, which only grows, so that a save costs the same after any number of epochs. A step
    of one's own lends its state from the step inside: ``mine.state_dict, mine.load_state_dict =
    inner.state_dict, inner.load_state_dict``.

    The progress bar shows on a terminal and in a notebook, unless ``CI`` or ``TQDM_DISABLE`` is in the
    environment.

    Raises:
        FloatingPointError: if a term is not finite, with term, step and epoch, at the end of that epoch.
        ValueError: for epochs below 0, no batches, or a checkpoint without model or step with a state.
        RuntimeError: for a checkpoint that cannot be read, or belongs to another model, step or data; of
            another model, what fits may have been loaded.
    """
    if not isinstance(epochs, int) or epochs < 0:
        raise ValueError(f"expected a number of epochs, at least 0, got {epochs!r}")
    history, epoch, started = History(), 0, time.perf_counter()
    if checkpoint is not None:
        saved = _Checkpoint(checkpoint, model, step, batches)
        history, epoch, seconds = saved.start()
        started -= seconds
    if model is not None:
        _set_train_mode(model)
    with _bar(batches, epoch, epochs, progress) as bar:
        while epoch < epochs:
            logged = []
            for batch in batches:
                logged.append(_detached(step(batch), "step(batch)"))
                bar.update()
            _add_steps(history, epoch, logged)
            epoch += 1
            history.add("seconds", epoch, time.perf_counter() - started)
            with _looking(model, batches):
                for name, value in (validate() if validate else {}).items():
                    history.add(f"valid/{name}", epoch, value)
                if on_epoch is not None:
                    on_epoch(epoch, history)
            if checkpoint is not None and (epoch == epochs or time.perf_counter() - saved.time >= save_every):
                saved.save(history, epoch, time.perf_counter() - started)
    return history


def _set_train_mode(model: nn.Module) -> None:
    if not model.training:
        model.train()
    still = [name for name, module in model.named_modules() if not module.training]
    if topmost := [name for name in still if name.rpartition(".")[0] not in still]:
        advice = "they stay so; call train() on what is not frozen on purpose"
        warnings.warn(f"in eval mode while the model trains: {', '.join(topmost)}; {advice}", stacklevel=3)


def _bar(batches: Iterable, epoch: int, epochs: int, progress: bool) -> tqdm:
    watched = sys.stderr.isatty() or hasattr(get_ipython(), "kernel")
    quiet = not progress or not watched or {"CI", "TQDM_DISABLE"} & os.environ.keys()
    length = length_hint(batches)
    return tqdm(total=epochs * length or None, initial=epoch * length, unit="batch", disable=bool(quiet))


def _add_steps(history: History, epoch: int, logged: list[dict[str, Tensor]]) -> None:
    """Copy what the steps of an epoch have logged to the host, all at once, and into the history."""
    if not logged:
        hint = "pass a list, data.Batches or a DataLoader: a generator can be read only once"
        raise ValueError(f"expected batches, got none in epoch {epoch + 1}; {hint}")
    rows = [(i, name, value) for i, terms in enumerate(logged, 1) for name, value in terms.items()]
    for (i, name, _), value in zip(rows, _to_host(row[2] for row in rows), strict=True):
        if not math.isfinite(value):
            where = f"step {i} of epoch {epoch + 1}, both counted from 1"
            raise FloatingPointError(f"{name} is {value} at {where}")
        history.add(f"train/{name}", epoch + i / len(logged), value)


@contextmanager
def _looking(model: nn.Module | None, batches: Iterable) -> Iterator[None]:
    """Put the model in eval mode; afterwards put back modes and random states."""
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


# -------------------------------------------------------------------------------------------- the checkpoint
class _Checkpoint:
    """Write down how far a training is, and go on from there.

    ``PATH.history`` grows by one line a save, JSON of the new ``name -> [[epoch, value], ...]``. ``PATH`` is
    exchanged as a whole and knows how many bytes of the other file belong to it; what a killed training wrote
    beyond them is cut off before the next line. So a kill at any moment leaves the old state or the new one.
    """

    def __init__(self, path: str | os.PathLike, model: nn.Module | None, step: Step, batches: Iterable):
        if model is None or not hasattr(step, "state_dict"):
            advice = "pass model=..., and a step with a state_dict"
            raise ValueError(f"a checkpoint holds model and step: {advice}")
        self.path, self.lines = Path(path), Path(f"{os.fspath(path)}.history")
        self.model, self.step, self.batches = model, step, batches
        self.size, self.counts = 0, {}  # of the history that is in its file: bytes, and values of each name

    def start(self) -> tuple[History, int, float]:
        """Return history, epochs and seconds so far; write the file first if there is none, to try it."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.save(History(), 0, 0.0)
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            history = self.read_history(state["history"], state["format"])
        except Exception as error:
            what = f"cannot read checkpoint {self.path} with {self.lines.name} ({type(error).__name__})"
            why = "one is missing, cut short, or holds more than tensors and plain values"
            advice = "put both back, or delete them to train from the start, or pass another path"
            raise RuntimeError(f"{what}: {why}; {advice}") from error
        try:
            self.load(state)
        except Exception as error:
            advice = "build model, step and batches as they were then, or pass another path"
            raise RuntimeError(f"checkpoint {self.path} is another training's ({error}): {advice}") from error
        self.time = time.perf_counter()
        return history, state["epoch"], state["seconds"]

    def read_history(self, size: int, form: str) -> History:
        lines, history = self.lines.read_bytes()[:size], History()
        if form != FORMAT or len(lines) < size:
            raise ValueError(f"expected {size} bytes in {FORMAT!r}, got {len(lines)} in {form!r}")
        for line in lines.splitlines():
            for name, values in json.loads(line).items():
                history.setdefault(name, []).extend(map(tuple, values))
        self.size, self.counts = size, {name: len(values) for name, values in history.items()}
        return history

    def load(self, state: dict[str, Any]) -> None:
        own = length_hint(self.batches), "batches" in _random_state(self.batches)
        saved = state["batches"], "batches" in state["random"]
        if own != saved:
            raise ValueError(f"expected (batches an epoch, with a generator of their own) {own}, got {saved}")
        self.model.load_state_dict(state["model"])
        self.step.load_state_dict(state["step"])
        _set_random_state(state["random"], self.batches)

    def save(self, history: History, epoch: int, seconds: float) -> None:
        new = {name: values[self.counts.get(name, 0) :] for name, values in history.items()}
        line = json.dumps(new).encode() + b"\n"
        with open(self.lines, "ab") as file:
            file.truncate(self.size)
            file.write(line)
        self.size, part = self.size + len(line), Path(f"{os.fspath(self.path)}.tmp")
        self.counts = {name: len(values) for name, values in history.items()}
        state = {"format": FORMAT, "epoch": epoch, "seconds": seconds, "history": self.size}
        state |= {"batches": length_hint(self.batches), "random": _random_state(self.batches)}
        torch.save(state | {"model": self.model.state_dict(), "step": self.step.state_dict()}, part)
        os.replace(part, self.path)
        self.time = time.perf_counter()


def _random_state(batches: Iterable) -> dict[str, Any]:
    """Return what decides on torch's next random numbers, and on the order of the batches."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    state = {"cpu": torch.get_rng_state(), "cuda": cuda}
    if isinstance(generator := getattr(batches, "generator", None), torch.Generator):
        state["batches"] = generator.get_state()
    return state


def _set_random_state(state: Mapping[str, Any], batches: Iterable) -> None:
    torch.set_rng_state(state["cpu"])
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, device)
    if "batches" in state:
        batches.generator.set_state(state["batches"])
