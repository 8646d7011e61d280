"""Property checks: each returns what is worth looking at, and raises `CheckFailed` where the property is broken.

Everything is computed in float64 on copies, so that the given model keeps its parameters, buffers, mode and
precision, and the random state is put back. A module is also found behind a bound method (``model.log_prob``)
and inside a `functools.partial`; any other function, a lambda too, is used as it is, in single precision if it
refuses double.

The checks of structure (`autoregressive`, `dependence`, `invertible`, `log_det`) judge a module in eval mode at
eight draws of its parameters from N(0, 1/fan_in), because zero-initialised layers and dead units hide mistakes.
Buffers stay, and so do parameters frozen by ``requires_grad=False`` (a mask, a permutation) unless the whole
module is frozen; parameters that are positive throughout are taken for scales and stay positive.

Where the environment variable ``DGM_CHECKS`` names a file, every check appends one JSON line to it.
"""

import copy
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

DRAWS = 8
# A draw on which a model overflows (exponentials of unbounded scales, say) is repeated with smaller parameters.
GAINS = (1.0, 0.5, 0.25, 0.1, 0.03)
Z_MAX = 4.5  # one false alarm in 150,000


class CheckFailed(AssertionError):
    """A property that was checked does not hold."""


class WrongShape(CheckFailed, ValueError):
    """A function that was checked returned a tensor of the wrong shape."""


# ---- structure -------------------------------------------------------------------------------------------


def autoregressive(
    f: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    *,
    order: Sequence[int] | None = None,
    values: int | None = None,
) -> Tensor:
    """Check that every output depends only on inputs that are drawn strictly before it.

    Inputs are moved one at a time, all in one batch, and outputs that change are noted. A move, unlike a
    derivative, also sees what saturates, what is detached and what is a step function.

    Args:
        f: maps ``(B, *shape)`` to ``(B, *shape)`` or, as in `torch.nn.functional.cross_entropy`, to
            ``(B, P, *shape)`` with P parameters for each input.
        shape: shape of one example, say ``(784,)`` or ``(1, 28, 28)``.
        order: ``order[k]`` is the flat index in ``shape`` that is drawn k-th. Default: raster order; for
            ``(C, H, W)`` pixel by pixel, channels inside a pixel.
        values: inputs are integers 0 … values − 1, given as int64 if ``f`` takes them. Default: real inputs.

    Returns:
        Bool matrix (outputs, inputs) in flat indices: which output depends on which input.

    Raises:
        CheckFailed: an output depends on itself or on an input drawn after it, or is not finite.
        ValueError: ``shape``, ``order`` or ``values`` is not valid, or ``f`` does not accept such inputs.
    """
    shape, order = _shape(shape), _order(order, shape)
    matrix, out_shape = _dependence("autoregressive", f, shape, values)
    size = len(order)
    if out_shape not in (shape, (*out_shape[:1], *shape)):
        message = (
            f"f returned shape (B, {', '.join(map(str, out_shape))}), expected (B, *shape) or (B, P, *shape) "
            f"with shape {shape}: the axis of parameters comes right after the batch"
        )
        _verdict("autoregressive", None, None, False, message, WrongShape)
    matrix = matrix.reshape(-1, size, size).any(0)
    rank = torch.empty(size, dtype=torch.long)
    rank[order] = torch.arange(size)
    leaks = (matrix & (rank[:, None] <= rank)).nonzero()
    message = ""
    if len(leaks):
        i, j = min(leaks.tolist(), key=lambda pair: (rank[pair[0]].item(), rank[pair[1]].item()))
        message = (
            f"output {_name(i, shape)} (drawn {_ordinal(rank[i])}) depends on input {_name(j, shape)} "
            f"(drawn {_ordinal(rank[j])}); {len(leaks)} such leaks, 0 allowed. "
            + _leak_hint(matrix, leaks, order, rank)
        )
    _verdict("autoregressive", len(leaks), 0, not len(leaks), message)
    return matrix


def dependence(f: Callable[[Tensor], Tensor], shape: Sequence[int], *, values: int | None = None) -> Tensor:
    """Find which outputs depend on which inputs.

    Args:
        f: maps ``(B, *shape)`` to ``(B, ...)``.
        shape: shape of one example.
        values: inputs are integers 0 … values − 1. Default: real inputs.

    Returns:
        Bool matrix (outputs, inputs), both flattened.

    Raises:
        CheckFailed: an output is not finite.
        ValueError: ``shape`` or ``values`` is not valid, or ``f`` does not accept such inputs.
    """
    matrix, _ = _dependence("dependence", f, _shape(shape), values)
    _verdict("dependence", matrix.double().mean().item(), None, True)
    return matrix


def _dependence(
    check: str, f: Callable, shape: tuple[int, ...], values: int | None
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the bool matrix (outputs, inputs) and the shape of one output, judged by moving one input at a time."""
    if values is not None and (not isinstance(values, int) or values < 2):
        raise ValueError(f"values must be an integer of at least 2, got {values!r}")
    size = math.prod(shape)
    generator = torch.Generator().manual_seed(0)
    if values is None:  # some models take the logit or the logarithm of their input: (0, 1) comes second
        kinds = [functools.partial(kind, dtype=torch.float64) for kind in (torch.randn, torch.rand)]
    else:
        integers = functools.partial(torch.randint, values)
        kinds = [integers, lambda size, generator: integers(size, generator=generator).double()]
    with _undisturbed():
        f, probe, kind = _accepted(f, [draw((4, *shape), generator=generator) for draw in kinds])
        if not isinstance(f(probe.clone()), Tensor):
            raise TypeError(f"f must return one tensor, got {type(f(probe.clone())).__name__}")
        out_shape = tuple(f(probe.clone()).shape[1:])
        rows = max(1, min(size, 2**18 // size))  # as many as memory allows for a convolutional network

        def answer(inputs: Tensor) -> Tensor:
            torch.manual_seed(0)  # a model that draws noise must draw the same noise again
            return f(inputs.reshape(-1, *shape).to(probe)).flatten(1).cpu()

        def measure(draw: int) -> Tensor | None:
            if values is not None:
                x = torch.randint(values, (size,), generator=generator)
                elsewhere = (x + torch.randint(1, values, (size,), generator=generator)) % values
            else:  # small and large inputs: a function that is used as it is may saturate on one of them
                scale = (1.0, 1.0, 0.1, 3.0)[draw % 4] if kind == 0 else 1.0
                x, elsewhere = scale * kinds[kind]((2, size), generator=generator)
            matrix, still = torch.zeros(math.prod(out_shape), size, dtype=torch.bool), torch.empty(0)
            for index in torch.arange(size).split(rows):
                inputs = x.repeat(len(index), 1)
                # The same rows, unmoved: equal arithmetic, so that no rounding is mistaken for dependence.
                if len(still) != len(index):
                    still = answer(inputs)
                inputs[torch.arange(len(index)), index] = elsewhere[index]
                moved = answer(inputs)
                if not (still.isfinite().all() and moved.isfinite().all()):
                    return None
                matrix[:, index] = ((moved - still).abs() > _noise(still) * (1 + still.abs().max())).T
            return matrix

        with torch.no_grad():
            draws = list(_draws(check, f, measure))
    return torch.stack(draws).any(0), out_shape


def _noise(out: Tensor) -> float:
    """Return the relative change that counts as rounding in the precision of an output."""
    return 1e-10 if out.dtype == torch.float64 else 1e-5


def _leak_hint(matrix: Tensor, leaks: Tensor, order: Tensor, rank: Tensor) -> str:
    """Guess the cause of leaks from their pattern."""
    if matrix.all():
        return "Every output sees every input: is the mask applied at all, and in forward?"
    if (leaks[:, 0] == leaks[:, 1]).all():
        return (
            "Each leak is an input seen by its own output: the last mask must be strict (>, not >=; type A)."
        )
    inverse = torch.argsort(order)
    for wrong, hint in (
        (order.flip(0), "The order is reversed: is a mask transposed or compared the wrong way round?"),
        (
            inverse,
            "It fits the inverse permutation: order[k] is the index drawn k-th, not the time of index k.",
        ),
    ):
        wrong_rank = torch.argsort(wrong)
        if not (matrix & (wrong_rank[:, None] <= wrong_rank)).any():
            return hint
    return "Compare the masks of the layers on a path between the two, and the order they were built for."


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape as a tuple of positive integers."""
    if isinstance(shape, int) or not all(isinstance(side, int) and side > 0 for side in shape) or not shape:
        raise ValueError(f"shape must be a tuple of positive integers such as (784,), got {shape!r}")
    return tuple(shape)


def _order(order: Sequence[int] | None, shape: tuple[int, ...]) -> Tensor:
    """Return the order of drawing as flat indices, raster order if none is given."""
    index = torch.arange(math.prod(shape))
    if order is None:
        return index.reshape(shape).movedim(0, -1).flatten() if len(shape) == 3 else index
    order = torch.as_tensor(order, device="cpu").long()
    if order.ndim != 1 or not torch.equal(order.sort().values, index):
        raise ValueError(
            f"order must be a permutation of 0 … {len(index) - 1} for shape {shape}, got {order.tolist()}"
        )
    return order


def _name(flat: int, shape: tuple[int, ...]) -> str:
    """Name an entry: its index, or its coordinates in an image."""
    place = torch.unravel_index(torch.tensor(flat), shape)
    return str(flat) if len(shape) == 1 else str(tuple(int(p) for p in place))


def _ordinal(rank: Tensor) -> str:
    """Write a zero-based rank as 1st, 2nd, 3rd, ..."""
    k = int(rank) + 1
    return f"{k}{'th' if k % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"


# ---- densities, samplers, estimators -----------------------------------------------------------------------


def sums_to_one(log_prob: Callable[[Tensor], Tensor], dim: int, *, values: int = 2) -> float:
    """Check that the probabilities of all states sum to one, to 1e-6 (1e-4 in single precision).

    Args:
        log_prob: maps all states, ``(values ** dim, dim)`` of integers 0 … values − 1 (int64, or floats if it
            does not take those), to their log-probabilities ``(values ** dim,)`` in nats, in batches.
        dim: number of variables.
        values: number of values of each variable.

    Returns:
        The sum of probabilities.

    Raises:
        CheckFailed: the sum is not one, or a log-probability is NaN or +inf.
        ValueError: there are more than 2**22 states, or ``log_prob`` does not accept them.
    """
    if not (isinstance(dim, int) and isinstance(values, int) and dim > 0 and values > 1):
        raise ValueError(
            f"dim must be at least 1 and values at least 2, both integers; got {dim!r} and {values!r}"
        )
    if values**dim > 2**22:
        raise ValueError(
            f"{values}**{dim} states are too many to sum, at most 2**22 = {2**22}; take a smaller model"
        )
    # Row k holds the digits of k in base `values`.
    states = torch.arange(values**dim)[:, None] // values ** torch.arange(dim - 1, -1, -1) % values
    with _undisturbed(), torch.no_grad():
        log_prob, probe, _ = _accepted(log_prob, [states[-1024:], states[-1024:].double()])
        log_p = [_log_density("sums_to_one", log_prob, rows.to(probe)) for rows in states.split(2**14)]
    bound = 1e-6 if log_p[0].dtype == torch.float64 else 1e-4
    total = torch.cat(log_p).double().logsumexp(0).exp().item()
    hint = (
        "a conditional is not normalised, or an output sees its own or a later variable"
        if total > 0.5
        else "a factor is counted twice, or the log-probabilities are not in nats"
    )
    message = (
        f"the {len(states)} probabilities sum to {total:.8g}, off by {abs(total - 1):.2g} > {bound:g}: {hint}"
    )
    _verdict("sums_to_one", total, bound, abs(total - 1) <= bound, message)
    return total


def integrates_to_one(
    log_prob: Callable[[Tensor], Tensor], *, limits: tuple[float, float] = (-8, 8)
) -> float:
    """Check that a density of two variables integrates to one on a square window, to 1e-3.

    The grid is refined where the density is steep, and made finer everywhere before a density is accused.

    Args:
        log_prob: maps ``(B, 2)`` to log-densities ``(B,)`` in nats.
        limits: the window is ``[limits[0], limits[1]]`` squared; it must hold all but 1e-4 of the mass.

    Returns:
        The integral over the window.

    Raises:
        CheckFailed: the integral is not one, or a log-density is NaN or +inf.
        ValueError: ``limits`` is not an interval, or ``log_prob`` does not accept ``(B, 2)``.
    """
    with _undisturbed():
        for cells in (128, 512):
            mass, edge = _cell_masses("integrates_to_one", log_prob, limits, (2,), cells)
            total = mass.sum().item()
            if abs(total - 1) <= 1e-3:
                break
    hint = "the density or its log-determinant lacks a factor"
    if edge > 1e-5:
        hint = f"or mass lies outside: the density at the edge of the window is {edge:.2g}, widen `limits`"
    message = (
        f"the density integrates to {total:.5f} on {tuple(limits)} squared, off by more than 0.001: {hint}"
    )
    _verdict("integrates_to_one", total, 1e-3, abs(total - 1) <= 1e-3, message)
    return total


def samples_match(
    sample: Callable[[int], Tensor],
    log_prob: Callable[[Tensor], Tensor],
    *,
    n: int = 10_000,
    limits: tuple[float, float] = (-8, 8),
) -> float:
    """Check that a sampler draws from the density, by a chi-square test over cells of about equal probability.

    The probabilities of the cells are integrals of ``log_prob``; all that lies outside the window is one cell.

    Args:
        sample: maps n to n samples, ``(n,)``, ``(n, 1)`` or ``(n, 2)``.
        log_prob: maps such a batch to its log-densities ``(n,)`` in nats.
        n: number of samples.
        limits: window, in each variable, in which the density is integrated.

    Returns:
        The chi-square statistic as a z-score; below 4.5 for a sampler that matches.

    Raises:
        CheckFailed: samples and density disagree, or one of them is not finite.
        ValueError: ``n`` is below 1,000 or ``limits`` is not an interval.

    References:
        Karl Pearson, On the criterion that a given system of deviations ..., 1900,
        https://doi.org/10.1080/14786440009463897
    """
    if not isinstance(n, int) or n < 1000:
        raise ValueError(f"n must be an integer of at least 1000, got {n!r}")
    with _undisturbed():
        x = _private(sample, torch.float64)(n).detach().cpu()
        if x.shape not in ((n,), (n, 1), (n, 2)):
            message = f"sample({n}) has shape {tuple(x.shape)}, expected ({n},), ({n}, 1) or ({n}, 2)"
            _verdict("samples_match", None, Z_MAX, False, message, WrongShape)
        if not x.isfinite().all():
            message = f"{(~x.isfinite()).sum()} of {x.numel()} sampled numbers are not finite"
            _verdict("samples_match", None, Z_MAX, False, message)
        cells = 256 if x[0].numel() == 2 else 4096
        mass, _ = _cell_masses("samples_match", log_prob, limits, tuple(x.shape[1:]), cells)
    bins = _equal_bins(mass.reshape(cells, -1), n // 100)
    low, high = limits
    place = ((x.double().reshape(n, -1) - low) / (high - low) * cells).floor().long()
    inside = ((place >= 0) & (place < cells)).all(1)
    flat = (place[inside] * torch.tensor([cells, 1][-place.shape[1] :])).sum(1)
    # The last cell of the test is all that lies outside the window.
    expected = n * torch.cat(
        [torch.zeros(bins.max() + 1, dtype=mass.dtype).index_add_(0, bins, mass), 1 - mass.sum()[None]]
    )
    observed = torch.cat([torch.bincount(bins[flat], minlength=len(expected) - 1), (~inside).sum()[None]])
    deviation = (observed - expected).square() / expected.clamp_min(1)
    z = float(stats.norm.isf(stats.chi2.sf(deviation.sum().item(), len(expected) - 1)))
    worst = int(deviation.argmax())
    where = f"outside the window {tuple(limits)}"
    if worst < len(expected) - 1:
        centre = torch.stack(
            torch.unravel_index((bins == worst).nonzero()[:, 0], (cells,) * place.shape[1]), -1
        )
        weight = mass[bins == worst, None]
        centre = low + ((centre + 0.5) * weight).sum(0) / weight.sum() * (high - low) / cells
        where = f"around {tuple(round(c, 2) for c in centre.tolist())}"
    message = (
        f"samples and density disagree, z = {z:.1f} > {Z_MAX}: {where} there are {observed[worst]} of {n} samples, "
        f"{expected[worst]:.1f} expected; the density integrates to {mass.sum():.4f}. Is a variance used as a "
        "standard deviation, a weight wrong, an axis swapped?"
    )
    _verdict("samples_match", z, Z_MAX, z <= Z_MAX and mass.sum() <= 1.001, message)
    return z


def _equal_bins(mass: Tensor, count: int) -> Tensor:
    """Sort cells of a grid, (rows, columns), into at most `count` bins of about equal mass; returns the flat bins."""

    def split(mass: Tensor, parts: int) -> Tensor:
        """Cut a row of masses into parts by its cumulative share, taken at the middle of each cell."""
        share = (mass.cumsum(0) - mass / 2) / mass.sum().clamp_min(1e-300)
        return (share * parts).long().clamp(0, parts - 1)

    columns = 1 if mass.shape[1] == 1 else math.isqrt(count)
    slab = split(mass.sum(1), count // columns)
    bins = torch.stack(
        [slab[k] * columns + split(mass[slab == slab[k]].sum(0), columns) for k in range(len(slab))]
    )
    return torch.unique(bins.flatten(), return_inverse=True)[1]


def _cell_masses(
    check: str, log_prob: Callable, limits: tuple[float, float], shape: tuple[int, ...], cells: int
) -> tuple[Tensor, float]:
    """Integrate a density of one or two variables over each cell of a regular grid of `cells` a side.

    A cell is split, again and again, while its quarters (halves) sum to something else than its middle says.
    Returns the masses, flat, and the greatest density at the edge of the window.
    """
    low, high = limits
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"limits must be two numbers, the lower first, got {limits!r}")
    dims, side = math.prod(shape), (high - low) / cells
    middle = low + side * (torch.arange(cells, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(*[middle] * dims).reshape(-1, dims)
    owner, mass = torch.arange(len(x)), torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        log_prob, probe, _ = _accepted(log_prob, [x[len(x) // 2 :][:4].reshape(-1, *shape)])

        def density(points: Tensor) -> Tensor:
            parts = points.reshape(-1, *shape).to(probe).split(2**16)
            return torch.cat([_log_density(check, log_prob, part) for part in parts]).double().exp()

        coarse = density(x)
        edge = coarse[((x - low < side) | (high - x < side)).any(1)].max().item()
        coarse = coarse * side**dims
        while True:
            side /= 2
            corners = torch.cartesian_prod(*[torch.tensor([-0.5, 0.5], dtype=x.dtype) * side] * dims).reshape(
                -1, dims
            )
            x = x[:, None] + corners
            fine = density(x).reshape(len(x), -1) * side**dims
            split = ((fine.sum(1) - coarse).abs() > 2e-7) & (len(x) < 2**19)
            mass.index_add_(0, owner[~split], fine[~split].sum(1))
            if not split.any():
                return mass, edge
            x, coarse = x[split].flatten(0, 1), fine[split].flatten()
            owner = owner[split].repeat_interleave(2**dims)


def unbiased(estimator: Callable[[], Any], truth: Any, *, n: int = 4000) -> float:
    """Check that the mean of an estimator is the truth, by n independent draws, coordinate by coordinate.

    Args:
        estimator: takes nothing and returns one draw, a number or an array.
        truth: the expected value, of the same shape.
        n: number of draws.

    Returns:
        The smallest bias that would have been seen, 4.5 standard errors (in the coordinate where that is largest).

    Raises:
        CheckFailed: the bias is beyond 4.5 standard errors, or a draw is not finite.
        ValueError: a draw and the truth differ in shape, or ``n`` is below 100.
    """
    if not isinstance(n, int) or n < 100:
        raise ValueError(f"n must be an integer of at least 100, got {n!r}")
    truth = torch.as_tensor(truth, dtype=torch.float64).detach().cpu()
    with _undisturbed():
        draws = [torch.as_tensor(estimator()).detach().cpu().double() for _ in range(n)]
    if draws[0].shape != truth.shape:
        raise ValueError(
            f"a draw has shape {tuple(draws[0].shape)}, the truth {tuple(truth.shape)}; they must agree"
        )
    draws = torch.stack(draws)
    if not draws.isfinite().all():
        message = f"{(~draws.isfinite()).sum()} of {draws.numel()} drawn numbers are not finite"
        _verdict("unbiased", None, None, False, message)
    # An estimator without variance is compared up to single precision.
    visible = Z_MAX * draws.std(0) / math.sqrt(n) + 1e-6 * truth.abs().clamp_min(1)
    bias = draws.mean(0) - truth
    worst = (bias.abs() / visible).argmax()
    bias, seen = bias.flatten()[worst].item(), visible.flatten()[worst].item()
    message = (
        f"the mean of {n} draws is {bias + truth.flatten()[worst].item():.6g}, the truth {truth.flatten()[worst]:.6g}: "
        f"a bias of {bias:.3g}, where {seen:.3g} ({Z_MAX} standard errors) would have been seen. "
        "Is a factor, a sign or a term missing, or a mean taken inside a logarithm?"
    )
    _verdict("unbiased", bias, seen, abs(bias) <= seen, message)
    return visible.max().item()


# ---- how a function is called ------------------------------------------------------------------------------


def _verdict(
    check: str,
    measured: float | None,
    bound: float | None,
    passed: bool,
    message: str = "",
    error: type = CheckFailed,
) -> None:
    """Append the outcome to the file that `DGM_CHECKS` names, if any, and raise `error` if the check failed."""
    if path := os.environ.get("DGM_CHECKS"):
        if measured is not None and not math.isfinite(measured):
            measured = str(measured)  # JSON has no NaN and no infinity
        line = {"check": check, "measured": measured, "bound": bound, "passed": bool(passed)}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    if not passed:
        raise error(f"{check}: {message}")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put torch's random state back at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(devices)):
        yield


def _modules(f: Any) -> list[nn.Module]:
    """Find the modules that a callable is, is bound to, or is a partial application of."""
    if isinstance(f, nn.Module):
        return [f]
    if isinstance(f, functools.partial):
        return [module for part in (f.func, *f.args, *f.keywords.values()) for module in _modules(part)]
    owner = getattr(f, "__self__", None)
    return [owner] if isinstance(owner, nn.Module) else []


def _private(f: Callable, dtype: torch.dtype) -> Callable:
    """Copy a callable with the modules in it, in eval mode and the given precision; others are returned as they are."""
    f = getattr(f, "_orig_mod", f)  # what torch.compile wrapped
    if not (modules := _modules(f)):
        return f
    # A tensor that a forward pass left on a module cannot be copied while it hangs on its graph.
    left = [t for m in modules for part in m.modules() for t in vars(part).values() if isinstance(t, Tensor)]
    f = copy.deepcopy(f, {id(t): t.detach().clone() for t in left if t.grad_fn is not None})
    for module in _modules(f):
        module.eval()
        module.double() if dtype == torch.float64 else module.float()
    return f


def _accepted(f: Callable, probes: Sequence[Tensor]) -> tuple[Callable, Tensor, int]:
    """Return a private copy of f, the first probe that it takes, and which one it was; finite answers are preferred.

    Tried in double precision first, then in single, for a function that casts or holds a model of its own.
    """
    accepted, refusal = None, None
    devices = {p.device: None for m in _modules(f) for p in itertools.chain(m.parameters(), m.buffers())}
    devices = list(devices) or [probes[0].device, *(["cuda"] if torch.cuda.is_available() else [])]
    for device, dtype, (kind, probe) in itertools.product(
        devices, (torch.float64, torch.float32), list(enumerate(probes))
    ):
        model = _private(f, dtype)
        probe = probe.to(device, dtype if probe.is_floating_point() else probe.dtype)
        try:
            answer = model(probe.clone())
        except Exception as error:  # whatever the function objects to
            refusal = refusal or error
            continue
        accepted = accepted or (model, probe, kind)
        if _finite(answer):
            return model, probe, kind
    if accepted is None:
        raise ValueError(
            f"the function does not take an input of shape {tuple(probes[0].shape)}: {refusal}"
        ) from refusal
    return accepted


def _finite(answer: Any) -> bool:
    """Tell whether all numbers in a tensor, or in a tuple of tensors, are finite."""
    return all(
        t.isfinite().all()
        for t in (answer if isinstance(answer, tuple) else (answer,))
        if isinstance(t, Tensor)
    )


def _draws(check: str, f: Callable, measure: Callable[[int], Any]) -> Iterator[Any]:
    """Yield what is measured at each draw of the parameters of f; `measure` returns None where f is not finite."""
    generator = torch.Generator().manual_seed(0)
    modules = _modules(f)
    for draw in range(DRAWS):
        for gain in GAINS if modules else GAINS[:1]:
            for module in modules:
                _redraw(module, generator, gain)
            if (result := measure(draw)) is not None:
                break
        else:
            _verdict(check, math.nan, None, False, f"the output is not finite at draw {draw + 1} of {DRAWS}")
        yield result


def _redraw(module: nn.Module, generator: torch.Generator, gain: float) -> None:
    """Draw the parameters from N(0, gain²/fan_in), in place, but for masks and the like."""
    parameters = [p for p in module.parameters() if p.is_floating_point() and p.numel()]
    trainable = any(p.requires_grad for p in parameters)
    for p in parameters:
        is_mask = {0.0, 1.0} == set(p.detach().unique().tolist())
        if not p.requires_grad and (trainable or is_mask):
            continue
        noise = gain * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        fan_in = p[0].numel() if p.ndim > 1 else p.numel()
        p.data.copy_((0.3 * noise).exp() if (p > 0).all() else noise / math.sqrt(fan_in))


def _log_density(check: str, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return log_prob(x) if it has shape (B,) and holds neither NaN nor +inf."""
    log_p = log_prob(x)
    if not isinstance(log_p, Tensor) or log_p.shape != x.shape[:1]:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        message = f"log_prob of {tuple(x.shape)} is {got}, expected shape ({len(x)},): sum over the dimensions of one example"
        _verdict(check, None, None, False, message, WrongShape)
    if log_p.isnan().any() or log_p.isposinf().any():
        bad = x[log_p.isnan() | log_p.isposinf()]
        _verdict(
            check,
            None,
            None,
            False,
            f"log_prob is NaN or +inf at {len(bad)} points, the first {bad[0].tolist()}",
        )
    return log_p.cpu()
