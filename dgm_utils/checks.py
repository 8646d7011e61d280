"""Property checks: each returns what is worth looking at and raises `CheckFailed` where a property is broken.

Everything is computed in float64 on copies: the given model keeps its parameters, buffers, mode and
precision, and torch's random state is put back. A module is also found behind a bound method
(``model.log_prob``) and inside a `functools.partial`; any other function, a lambda too, is used as it is, in
single precision if it refuses double.

The checks of structure (`autoregressive`, `dependence`, `invertible`, `log_det`) judge a module in eval mode
at eight draws of its parameters from N(0, 1/fan_in), as zero-initialised layers and dead units hide mistakes.
Buffers stay, and so do parameters frozen by ``requires_grad=False`` (a mask, a permutation) unless the whole
module is frozen.

`judge` runs a check on an answer to an exercise and prints the outcome.
"""

import copy
import functools
import inspect
import itertools
import linecache
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from IPython import get_ipython
from scipy import stats
from torch import Tensor, nn
from torch.autograd.functional import jacobian

__all__ = ["CheckFailed", "WrongShape", "autoregressive", "batch_independent", "bound", "dependence",
           "gradients_reach", "integrates_to_one", "invertible", "judge", "lipschitz", "log_det", "reloads",
           "samples_match", "sums_to_one", "unbiased"]  # fmt: skip

Function = Callable[[Tensor], Tensor]
Sampler = Callable[[int], Tensor]
Interval = tuple[float, float]

DRAWS = 8
# Where a model overflows (exponentials of unbounded scales, say), a draw is repeated with smaller parameters.
# 0 is a small step from the given parameters, for scales that must be positive and for deep flows: many
# random layers are ill-conditioned together at any size.
GAINS = (1.0, 0.3, 0.1, 0.03, 0.0)
Z_MAX = 4.5  # standard errors; one false alarm in 150,000

HINTS = {  # where to look first
    "autoregressive": "Is a mask transposed, made for another order, or not strict in the last layer (A)?",
    "dependence": "Look for a logarithm, a root or a division of what may be zero or negative.",
    "invertible": "Does inverse undo the steps in reverse order, with the same scales, shifts, permutation?",
    "log_det": "Look at its sign (forward is data to noise), factors, and sums over dimensions and layers.",
    "sums_to_one": "Is a conditional not normalised, an own or later variable seen, a factor counted twice?",
    "integrates_to_one": "Does the density or its log-determinant lack a factor? Are the limits too narrow?",
    "samples_match": "Is a variance used as a standard deviation, a weight wrong, an axis swapped?",
    "unbiased": "Is a sign, a factor or a term missing, or a mean taken inside a logarithm?",
    "bound": "Is the sign of the KL right, are both in one unit, is an estimate averaged enough?",
    "gradients_reach": "Are they used in the loss? Is something detached, or a unit dead?",
    "batch_independent": "Is batch normalisation in train mode, or a mean or maximum taken over the batch?",
    "reloads": "Is a permutation, a mask, a sign or a flag a plain attribute? Make it a buffer.",
    "lipschitz": "Is every layer constrained? Is the norm taken over all dimensions of an example?",
}


class CheckFailed(AssertionError):  # noqa: N818
    """A property that was checked does not hold."""


class WrongShape(CheckFailed, ValueError):  # noqa: N818
    """A function that was checked returned something of the wrong shape."""


# ---- autoregressive models ---------------------------------------------------------------------------------


def autoregressive(
    f: Function, shape: Sequence[int], *, order: Sequence[int] | None = None, values: int | None = None
) -> Tensor:
    """Check that every output depends only on inputs that are drawn strictly before it.

    Inputs are moved one at a time, all in one batch, and the outputs that change are noted. Unlike a
    derivative, a move also sees what is saturated, detached or a step function.

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
    check, index = "autoregressive", torch.arange(_size(shape))
    if order is None:
        order = index.reshape(shape).movedim(0, -1).flatten() if len(shape) == 3 else index
    order = torch.as_tensor(order, device="cpu").long()
    is_permutation = order.ndim == 1 and torch.equal(order.sort().values, index)
    _require(is_permutation, f"order must be a permutation of 0 … {len(index) - 1}, got {order.tolist()}")
    matrix, example = _dependence(check, f, shape, values)
    _expect_shape(check, "the output of one example", example, shape, (*example.shape[:1], *shape))
    matrix = matrix.reshape(-1, len(index), len(index)).any(0)
    leaks = matrix[order][:, order].triu().nonzero().tolist()  # both in the order of drawing
    i, j = leaks[0] if leaks else (0, 0)
    message = f"{len(leaks)} leaks: output {order[i]} (drawn as number {i + 1}) depends on input {order[j]}"
    message += f" (drawn as number {j + 1})"
    _verdict(check, len(leaks), 0, message)
    return matrix


def dependence(f: Function, shape: Sequence[int], *, values: int | None = None) -> Tensor:
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
    return _dependence("dependence", f, shape, values)[0]


def _dependence(check: str, f: Function, shape: Sequence[int], values: int | None) -> tuple[Tensor, Tensor]:
    """Return the bool matrix (outputs, inputs) and the output of one example."""
    _require(values is None or values > 1, f"values must be at least 2, got {values!r}")
    size, generator = _size(shape), torch.Generator().manual_seed(0)

    def pair(support: str, scale: float = 1.0) -> Tensor:
        """Draw two examples that differ in every entry, (2, size)."""
        if values is None:
            draw, scale = (torch.rand, 1.0) if support == "(0, 1)" else (torch.randn, scale)
            return scale * draw(2, size, generator=generator, dtype=torch.float64)
        x = torch.randint(values, (size,), generator=generator)
        x = torch.stack([x, (x + torch.randint(1, values, (size,), generator=generator)) % values])
        return x.double() if support == "floats" else x

    # The second is for a function that takes the logit of its input, or no integers.
    supports = ("reals", "(0, 1)") if values is None else ("integers", "floats")
    with _undisturbed(), torch.no_grad():
        f, probe, kind = _accepted(check, f, [pair(support).reshape(2, *shape) for support in supports])

        def answer(x: Tensor) -> Tensor:
            torch.manual_seed(0)  # a function that draws noise draws the same for each batch
            out = f(x.reshape(-1, *shape).to(probe))
            if not isinstance(out, Tensor):
                raise TypeError(f"the function must return one tensor, got {type(out).__name__}")
            return out.cpu() if out.is_floating_point() else out.cpu().double()

        def measure(draw: int) -> Tensor | None:
            # A function that is used as it is may be saturated at one scale of inputs and not at another.
            x, elsewhere = pair(supports[kind], scale=(1.0, 0.1, 3.0, 1.0)[draw % 4])
            columns, before = [], torch.empty(0)
            for index in torch.arange(size).split(max(1, 2**18 // size)):
                moved = x.repeat(len(index), 1)
                # The same rows unmoved: equal arithmetic, so that rounding does not look like a leak.
                before = before if len(before) == len(index) else answer(moved).flatten(1)
                moved[torch.arange(len(index)), index] = elsewhere[index]
                change = (answer(moved).flatten(1) - before).abs()
                if not math.isfinite(change.sum()):
                    return None
                columns.append(change > _precision(before, 1e-10, 1e-5) * (1 + before.abs().max()))
            return torch.cat(columns).T

        return functools.reduce(torch.logical_or, _draws(check, f, measure)), answer(probe)[0]


def _size(shape: Sequence[int]) -> int:
    """Return the number of entries of an example."""
    is_shape = isinstance(shape, Sequence) and all(isinstance(side, int) and side > 0 for side in shape)
    _require(is_shape and len(shape) > 0, f"shape must be a tuple of sizes such as (784,), got {shape!r}")
    return math.prod(shape)


# ---- flows -------------------------------------------------------------------------------------------------


def invertible(flow: nn.Module, x: Tensor) -> float:
    """Check that ``inverse`` undoes ``forward`` and ``forward`` undoes ``inverse``, to 1e-6.

    Args:
        flow: ``flow(x) -> (z, log_det)``, ``flow.inverse(z) -> x``.
        x: examples ``(B, ...)``. The other direction starts from midpoints of their images.

    Returns:
        The greatest difference, relative to 1 + the greatest entry, over both directions and all draws.

    Raises:
        CheckFailed: a round trip does not come back.
        ValueError: ``x`` is not a batch of real examples, or ``flow`` does not accept it.
    """
    with _undisturbed(), torch.no_grad():
        flow, x, _ = _accepted("invertible", flow, [_examples(x)])
        _require(hasattr(flow, "inverse"), "the flow has no method inverse")

        def measure(draw: int) -> tuple[float, float] | None:
            z, _ = _transform("invertible", flow, x)
            middle = (z + z.roll(1, 0)) / 2  # no image of x: an inverse that remembers x is found out
            rounding = 50 * torch.finfo(z.dtype).eps * z.abs().max() * torch.randn_like(z)
            errors, bound = [], _precision(z, 1e-6, 1e-3)
            there_and_back = (x, lambda noise: flow.inverse(z + noise))
            back_and_there = (middle, lambda noise: flow(flow.inverse(middle + noise))[0])
            for start, trip in (there_and_back, back_and_there):
                end, scale = trip(0), 1 + start.abs().max()
                _expect_shape("invertible", "what comes back", end, start.shape)
                errors.append(((end - start).abs().max() / scale).item())
                noise = ((trip(rounding) - end).abs().max() / scale).item()
                if not math.isfinite(errors[-1]) or bound < errors[-1] < 100 * noise:
                    return None  # overflow, or so ill-conditioned that rounding explains the difference
            return max(errors), bound

        error, bound = max(_draws("invertible", flow, measure))
    message = "inverse(forward(x)) is not x, or forward(inverse(z)) is not z (greatest relative difference)"
    _verdict("invertible", error, bound, message)
    return error


def log_det(flow: Function, x: Tensor) -> float:
    """Check the log-determinant of a flow against that of its Jacobian by automatic differentiation, to 1e-6.

    Args:
        flow: ``flow(x) -> (z, log_det)`` with ``log_det`` of shape ``(B,)``, in nats.
        x: examples ``(B, ...)``; of large ones the first few are used.

    Returns:
        The greatest difference in nats, relative to 1 + the greatest log-determinant, over all draws.

    Raises:
        CheckFailed: they differ (by more than 1e-3 in float32), or ``log_det`` is not ``(B,)`` or not finite.
        ValueError: ``x`` is not a batch of real examples, or ``flow`` does not accept it.
    """
    with _undisturbed(), torch.enable_grad():
        flow, x, _ = _accepted("log_det", flow, [_examples(x)])
        x = x[: max(1, 2**24 // x[0].numel() ** 2)]

        def measure(draw: int) -> tuple[float, float, str] | None:
            z, given = _transform("log_det", flow, x.clone())
            _expect_shape("log_det", "log_det", given, x.shape[:1])
            # z_i is summed over the batch, as it depends on its own example only: (m, B, ...).
            J = jacobian(lambda x: flow(x.clone())[0].flatten(1).sum(0), x)
            J = J.flatten(2).movedim(1, 0)  # (B, m, m)
            if not J.any():
                _verdict("log_det", math.nan, 0, "z carries no gradient back to x: is it detached?")
            exact = torch.linalg.slogdet(J).logabsdet
            difference, scale = (given - exact).abs(), 1 + exact.abs().max()
            error, k = (difference.max() / scale).item(), difference.argmax()
            bound = _precision(z, 1e-6, 1e-3)
            rounding = 100 * torch.finfo(z.dtype).eps * torch.linalg.cond(J).max() if error > bound else 0
            if not math.isfinite(error) or rounding > bound:
                return None
            message = f"log_det of example {k} is {given[k]:.6g}, its Jacobian's {exact[k]:.6g} nats"
            return error, bound, message

        error, bound, message = max(_draws("log_det", flow, measure))
    _verdict("log_det", error, bound, message)
    return error


def _transform(check: str, flow: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a flow does to x: (z, log_det), with as many entries in z as in x."""
    answer = flow(x)
    z, log_det = answer if isinstance(answer, tuple) and len(answer) == 2 else (None, None)
    flat = z.flatten(1) if isinstance(z, Tensor) else z  # a squeeze changes the shape, not the number
    _expect_shape(check, "forward must return (z, log_det); z, flattened,", flat, x.flatten(1).shape)
    return z, log_det


# ---- densities, samplers, estimators -----------------------------------------------------------------------


def sums_to_one(log_prob: Function, dim: int, *, values: int = 2) -> float:
    """Check that the probabilities of all states sum to one, to 1e-6 (1e-4 in single precision).

    Args:
        log_prob: maps states ``(B, dim)`` of integers 0 … values − 1 (int64, or floats if it does not take
            those) to log-probabilities ``(B,)`` in nats.
        dim: number of variables.
        values: number of values of each variable.

    Returns:
        The sum of the probabilities of all ``values ** dim`` states.

    Raises:
        CheckFailed: the sum is not one, or a log-probability is NaN or +inf.
        ValueError: there are more than 2**22 states, or ``log_prob`` does not accept them.
    """
    _require(dim > 0 and values > 1, f"dim must be at least 1 and values at least 2, got {dim} and {values}")
    _require(values**dim <= 2**22, f"{values}**{dim} states are too many, at most 2**22 can be summed")
    # Row k holds the digits of k in base `values`.
    states = torch.arange(values**dim)[:, None] // values ** torch.arange(dim - 1, -1, -1) % values
    log_p = _log_density("sums_to_one", log_prob, [states, states.double()])
    total = log_p.double().logsumexp(0).exp().item()
    message = f"the probabilities of all {len(states)} states sum to {total:.8g}"
    _verdict("sums_to_one", abs(total - 1), _precision(log_p, 1e-6, 1e-4), message)
    return total


def integrates_to_one(log_prob: Function, *, limits: Interval = (-8, 8)) -> float:
    """Check that a density of two variables integrates to one on a square window, to 1e-3.

    The grid is refined where the density is steep, and starts finer before a density is accused.

    Args:
        log_prob: maps ``(B, 2)`` to log-densities ``(B,)`` in nats.
        limits: the window is the square of this interval; it should hold all but 1e-4 of the mass.

    Returns:
        The integral over the window.

    Raises:
        CheckFailed: the integral is not one, or a log-density is NaN or +inf.
        ValueError: ``limits`` is not an interval, or ``log_prob`` does not accept ``(B, 2)``.
    """
    for cells in (200, 800):
        _, mass = _cell_masses("integrates_to_one", log_prob, limits, (2,), cells)
        total = mass.sum().item()
        if abs(total - 1) <= 1e-3:
            break
    edge = (1 - mass.reshape(cells, cells)[1:-1, 1:-1].sum() / mass.sum()).item()
    message = f"the integral over {limits} squared is {total:.5f}, {edge:.2g} of it in the outermost cells"
    _verdict("integrates_to_one", abs(total - 1), 1e-3, message)
    return total


def samples_match(
    sample: Sampler, log_prob: Function, *, n: int = 10_000, limits: Interval = (-8, 8)
) -> float:
    """Check that a sampler draws from a density, by a chi-square test over cells of about equal probability.

    The probabilities of the cells are integrals of the density; all that lies outside the window is one cell.

    Args:
        sample: maps n to n samples, ``(n,)``, ``(n, 1)`` or ``(n, 2)``.
        log_prob: maps such a batch to log-densities ``(n,)`` in nats.
        n: number of samples.
        limits: window, in each variable, in which the density is integrated; it holds more than half of it.

    Returns:
        The statistic as a z-score; beyond 4.5 the sampler does not match.

    Raises:
        CheckFailed: samples and density disagree, or one of them is not finite.
        ValueError: ``n`` is below 1,000 or ``limits`` is not an interval.

    References:
        Karl Pearson, On the criterion that a given system of deviations ... can be reasonably supposed
        to have arisen from random sampling, 1900, https://doi.org/10.1080/14786440009463897
    """
    _require(n >= 1000, f"n must be at least 1000, got {n}")
    with _undisturbed():
        x = _private(sample)(n).detach().cpu().double()
    _expect_shape("samples_match", f"sample({n})", x, (n,), (n, 1), (n, 2))
    dims, (low, high) = x[0].numel(), limits
    cells, parts = {1: 4096, 2: 400}[dims], int((n // 100) ** (1 / dims))
    middles, mass = _cell_masses("samples_match", log_prob, limits, x.shape[1:], cells)
    edges = []
    for axis in range(dims):  # cut into parts of equal marginal probability
        marginal = mass.reshape([cells] * dims).movedim(axis, 0).reshape(cells, -1).sum(1)
        left = (marginal.cumsum(0) - marginal / 2) / mass.sum()  # probability left of each cell's middle
        cuts = torch.searchsorted(left, torch.arange(1, parts).double() / parts) / cells
        edges.append([low, *(low + (high - low) * cuts).tolist(), high])
    observed = np.histogramdd(x.reshape(n, dims).numpy(), edges)[0].ravel()
    expected = np.histogramdd(middles.reshape(-1, dims).numpy(), edges, weights=n * mass.numpy())[0].ravel()
    # The last part is all that is not in the window, NaN too.
    observed = np.append(observed, n - observed.sum())
    expected = np.append(expected, max(0, n - expected.sum()))
    chi_square = ((observed - expected) ** 2 / expected.clip(1)).sum()
    z = float(stats.norm.isf(stats.chi2.sf(chi_square, (expected > 0).sum() - 1)))
    message = f"the z-score of {n} samples is {z:.1f}; {observed[-1]:.0f} of them are not in {limits}, "
    message += f"{expected[-1]:.1f} expected; the density integrates to {mass.sum():.4f} inside"
    _verdict("samples_match", z if 0.5 < mass.sum() < 1.001 else math.inf, Z_MAX, message)
    return z


def _cell_masses(
    check: str, log_prob: Function, limits: Interval, shape: Sequence[int], cells: int
) -> tuple[Tensor, Tensor]:
    """Integrate a density over the cells of a grid by the midpoint rule; return their middles and masses."""
    low, high = limits
    _require(-math.inf < low < high < math.inf, f"limits must be two numbers, lower first, got {limits!r}")
    side, dims = (high - low) / cells, math.prod(shape)
    middle = low + side * (torch.arange(cells, dtype=torch.float64) + 0.5)
    x = torch.cartesian_prod(*[middle] * dims).reshape(-1, *shape)
    return x, _log_density(check, log_prob, [x]).double().exp() * side**dims


def _log_density(check: str, log_prob: Function, points: Sequence[Tensor]) -> Tensor:
    """Return log_prob, (B,), at the first of the given forms of the points that it takes."""
    with _undisturbed(), torch.no_grad():
        log_prob, probe, kind = _accepted(check, log_prob, [x[len(x) // 2 :][:8] for x in points])
        _expect_shape(check, f"log_prob of {len(probe)} points", log_prob(probe), probe.shape[:1])
        log_p = torch.cat([log_prob(x.to(probe)).cpu() for x in points[kind].split(2**16)])
    if (bad := log_p.isnan() | log_p.isposinf()).any():
        _verdict(check, math.nan, 0, f"log_prob is NaN or +inf at {int(bad.sum())} of {len(log_p)} points")
    return log_p


def unbiased(estimator: Callable[[], Any], truth: Any, *, n: int = 4000) -> float:
    """Check that the mean of an estimator is the truth, by n independent draws, coordinate by coordinate.

    Args:
        estimator: takes nothing and returns one draw, a number or an array.
        truth: the expected value, of the same shape.
        n: number of draws.

    Returns:
        The smallest bias that would have been seen: 4.5 standard errors, where they are largest.

    Raises:
        CheckFailed: the bias is beyond 4.5 standard errors, or a draw is not finite.
        ValueError: a draw and the truth differ in shape, or ``n`` is below 100.
    """
    _require(n >= 100, f"n must be at least 100, got {n}")
    truth = torch.as_tensor(truth, dtype=torch.float64).detach().cpu()
    with _undisturbed():
        draws = torch.stack([torch.as_tensor(estimator()).detach().cpu().double() for _ in range(n)])
    shapes = f"a draw has shape {tuple(draws.shape[1:])}, the truth {tuple(truth.shape)}"
    _require(draws.shape[1:] == truth.shape, shapes)
    # An estimator without variance is compared to the precision of float32.
    visible = (Z_MAX * draws.std(0) / math.sqrt(n) + 1e-6 * truth.abs().clamp_min(1)).flatten()
    bias, truth = (draws.mean(0) - truth).flatten(), truth.flatten()
    k = (bias.abs() / visible).nan_to_num(math.inf).argmax()
    message = f"the mean of {n} draws is {truth[k] + bias[k]:.6g}, the truth {truth[k]:.6g} (entry {k}): "
    message += f"a bias of {bias[k]:.3g}, where the smallest that would be seen is {visible[k]:.3g}"
    _verdict("unbiased", bias[k].abs().item(), visible[k].item(), message)
    return visible.max().item()


def bound(lower: Any, exact: Any) -> float:
    """Check that a lower bound lies nowhere above the exact value, up to the rounding of float32.

    Args:
        lower: the bound, a number or an array (one for each example); if it is estimated, averaged enough.
        exact: the exact value, of the same shape and in the same unit.

    Returns:
        The mean gap, exact − lower.

    Raises:
        CheckFailed: the bound is above the exact value by more than 1e-5 · (1 + |exact|), or is NaN.
        ValueError: the two differ in shape.
    """
    lower, exact = (torch.as_tensor(value, dtype=torch.float64).detach().cpu() for value in (lower, exact))
    _require(lower.shape == exact.shape, f"shapes {tuple(lower.shape)} and {tuple(exact.shape)} differ")
    gap, excess = (exact - lower).mean().item(), ((lower - exact) / (1 + exact.abs())).flatten()
    k = excess.nan_to_num(math.inf).argmax()
    lower, exact = lower.flatten()[k], exact.flatten()[k]
    message = f"the lower bound {lower:.6g} exceeds the exact {exact:.6g} (entry {k}; relative)"
    _verdict("bound", excess[k].item(), 1e-5, message)
    return gap


# ---- training ----------------------------------------------------------------------------------------------


def gradients_reach(loss: Callable[[Any], Any], model: nn.Module, batch: Any) -> dict[str, float]:
    """Check that every trainable parameter gets a finite gradient that is not zero.

    A gradient of exactly zero is looked at again with slightly moved parameters, so that a zero-initialised
    layer does not accuse those before it. The model is put back as it was.

    Args:
        loss: maps the batch to a 0-d tensor, or to a dict with one named "loss".
        model: whose parameters are asked for; the loss is computed by it.
        batch: what the loss takes.

    Returns:
        The norm of each parameter's gradient, by name.

    Raises:
        CheckFailed: a parameter gets no gradient, or one that is zero, NaN or infinite.
        ValueError: no parameter requires a gradient, or the loss is not 0-d.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    _require(parameters, "the model has no parameter that requires a gradient")
    state, norms = copy.deepcopy(model.state_dict()), dict.fromkeys(parameters, 0.0)
    try:
        with _undisturbed(), torch.enable_grad():
            for _ in range(2):
                value = loss(batch)
                value = value["loss"] if isinstance(value, Mapping) else value
                _expect_shape("gradients_reach", "the loss", value, ())
                if value.requires_grad:
                    gradients = torch.autograd.grad(value, [*parameters.values()], materialize_grads=True)
                    for name, gradient in zip(parameters, gradients, strict=True):
                        norms[name] = norms[name] or gradient.norm().item()
                for p in parameters.values():
                    p.data.add_(0.01 * torch.randn_like(p))
    finally:
        model.load_state_dict(state)
    lost = {name: norm for name, norm in norms.items() if not 0 < norm < math.inf}
    message = f"of {len(norms)} parameters these get no usable gradient: {lost}"
    _verdict("gradients_reach", len(lost), 0, message)
    return norms


def batch_independent(f: Function, x: Tensor) -> float:
    """Check that the output of one example does not change with the others in its batch, in the mode f is in.

    Args:
        f: maps ``(B, ...)`` to ``(B, ...)`` or to a tuple of such.
        x: at least two examples ``(B, ...)``, real or integers.

    Returns:
        The greatest change, relative to 1 + the greatest output.

    Raises:
        CheckFailed: an output changes when other examples do, by more than 1e-8 (1e-4 in float32).
        ValueError: ``x`` holds fewer than two examples, or ``f`` does not accept it.
    """
    _require(isinstance(x, Tensor) and len(x) > 1, "x must be a tensor that holds at least 2 examples")
    with _undisturbed(), torch.no_grad():
        f, x, _ = _accepted("batch_independent", f, [x.detach()], evaluate=False)

        def answer(x: Tensor) -> Tensor:
            torch.manual_seed(0)  # the same dropout
            return torch.cat([part.reshape(len(x), -1) for part in _parts(f(x.clone()))], 1)

        before, changes = answer(x), []
        for kept in (slice(0, None, 2), slice(1, None, 2)):  # so the first changes once, and the last, too
            others = x.roll(1, 0) + (torch.randn_like(x) if x.is_floating_point() else 0)
            others[kept] = x[kept]
            changes.append((answer(others) - before)[kept].abs().max())
    error = (torch.stack(changes).max() / (1 + before.abs().max())).item()
    _verdict("batch_independent", error, _precision(before, 1e-8, 1e-4), "outputs change when only others do")
    return error


def lipschitz(critic: Function, x: Tensor, *, limit: float | None = None) -> float:
    """Find the greatest norm of a critic's gradient at examples and between them.

    Args:
        critic: maps ``(B, ...)`` to ``(B,)`` or ``(B, 1)``.
        x: examples ``(B, ...)``; points between random pairs of them are added.
        limit: greatest norm that is allowed.

    Returns:
        The greatest norm, over all dimensions of an example.

    Raises:
        CheckFailed: the norm is above the limit, or not finite.
        ValueError: ``x`` is not a batch of real examples, or ``critic`` does not accept it.
    """
    with _undisturbed(), torch.enable_grad():
        critic, x, _ = _accepted("lipschitz", critic, [_examples(x)])
        share = torch.rand(len(x), *[1] * (x.ndim - 1)).to(x)
        points = torch.cat([x, share * x + (1 - share) * x[torch.randperm(len(x))]]).requires_grad_()
        scores = critic(points.clone())
        _expect_shape("lipschitz", "critic(x)", scores, (len(points),), (len(points), 1))
        slope = torch.autograd.grad(scores.sum(), points)[0].flatten(1).norm(dim=1).max().item()
    bound = 1e300 if limit is None else limit * (1 + 1e-6)
    _verdict("lipschitz", slope, bound, "the gradient of the critic is too steep (greatest norm)")
    return slope


# ---- files, and answers to exercises -----------------------------------------------------------------------


def reloads(build: Callable[[], nn.Module], x: Tensor) -> float:
    """Check that a model's ``state_dict`` is all of it: another one, built anew and loaded, answers the same.

    A permutation, a mask, a sign or an "initialised" flag that is neither parameter nor buffer is lost in a
    file, and every copy of the model hides it. Eight models load the state of a first that has seen ``x``;
    each is built under its own seed. They are compared in train mode and in eval mode.

    Args:
        build: returns a new model at each call; whatever it draws, it draws from torch's generator.
        x: a batch ``(B, ...)`` for ``model(x)``, which returns a tensor or a tuple of tensors.

    Returns:
        The greatest difference between answers, relative to 1 + the greatest entry.

    Raises:
        CheckFailed: answers differ by more than 1e-5.
        RuntimeError: the state has other names or shapes than a new model, in torch's own words.
        ValueError: ``build`` returns the same model twice.
    """
    with _undisturbed(), torch.no_grad():
        again = torch.cat([x, x[:1]])  # other statistics than x has, should a model initialise itself again

        def answers(model: nn.Module) -> list[Tensor]:
            torch.manual_seed(0)  # the same dropout
            return [part for mode in (True, False) for part in _parts(model.train(mode)(again.clone()))]

        saved = build()
        saved(x.clone())  # what is initialised from data must be in the state, too
        state = copy.deepcopy(saved.state_dict())
        before, errors = answers(saved), []
        for seed in range(DRAWS):  # two permutations of two are often the same
            torch.manual_seed(seed)
            model = build()
            _require(model is not saved, "build must return a new model at each call, it returned one twice")
            model.load_state_dict(state)
            pairs = zip(before, answers(model), strict=True)
            errors += [(a - b).abs().max() / (1 + a.abs().max()) for a, b in pairs]
    error = torch.stack(errors).max().item()
    _verdict("reloads", error, 1e-5, "a new model with the same state answers otherwise (relative)")
    return error


def judge(answer: Any, check: Callable[[Any], Any]) -> None:
    """Print at once what an answer to an exercise is worth: not answered yet, not right and why, or right.

    A mistake inside a function is told by its line in the cell and its kind. A function is not judged if a
    later cell that defines it did not run: then the name still holds an older answer than the student sees.

    Args:
        answer: what the student wrote, a function usually.
        check: called with the answer. An exception is a mistake, is shown, and never stops the notebook; a
            blank's ``NotImplementedError`` is none.
    """
    nones = [answer is None]  # of what the answer is, and of what it has returned

    @functools.wraps(answer)
    def watched(*inputs: Any, **named: Any) -> Any:
        output = answer(*inputs, **named)
        nones.append(output is None)
        return output

    code = getattr(inspect.unwrap(answer), "__code__", None) if inspect.isfunction(answer) else None
    try:
        if code and _edited_since(answer, code):
            print(f"not judged: the last edit of {code.co_name} did not run; mend it, run it, then this cell")
            return
        check(watched if code else answer)
    except Exception as wrong:
        # So does torch refuse, with these words, a type of numbers that it cannot compute with.
        blank = isinstance(wrong, NotImplementedError) and "not implemented for" not in str(wrong)
        print("not answered yet" if blank else f"not right: {_mistake(wrong, code, nones[-1])}")
    else:
        print("right")


def _edited_since(answer: Callable, code: Any) -> bool:
    """Tell whether a notebook was asked for a later definition of a function than the one that it has."""
    shell, start = get_ipython(), f"\ndef {code.co_name}("
    if not shell or shell.user_ns.get(code.co_name) is not answer:
        return False
    asked = [cell.strip() for cell in shell.history_manager.input_hist_parsed if start in f"\n{cell}"]
    ran = "".join(linecache.getlines(code.co_filename)).strip()
    return ran in asked and ran != asked[-1]


def _mistake(wrong: Exception, code: Any, none: bool) -> str:
    """Say in which line an answer failed and how, or else what its check found."""
    for error in (wrong, wrong.__cause__):  # a check may wrap what the answer has raised
        steps = [(f.f_code, line) for f, line in traceback.walk_tb(error and error.__traceback__)]
        inside = itertools.dropwhile(lambda step: step[0] is not code, steps)
        if lines := [line for part, line in inside if part.co_filename == code.co_filename]:
            return f"line {lines[-1]}: {type(error).__name__}: {error}"
    if none:
        return "None came back: is a `return` missing?"
    if not isinstance(wrong, AssertionError):
        return f"{type(wrong).__name__}: {wrong}"
    return str(wrong) or f"this does not hold: {traceback.extract_tb(wrong.__traceback__)[-1].line}"


# ---- how a function is called ------------------------------------------------------------------------------


def _verdict(check: str, measured: float, bound: float, message: str = "", error: type = CheckFailed) -> None:
    """Raise unless what was measured is a number within the bound."""
    if not measured <= bound:  # NaN is not
        raise error(f"{check}: {message}; measured {measured:.6g}, bound {bound:.3g}. {HINTS[check]}")


def _require(holds: Any, message: str) -> None:
    """Raise ValueError for an argument that is not valid."""
    if not holds:
        raise ValueError(message)


def _expect_shape(check: str, what: str, value: Any, *expected: Sequence[int]) -> None:
    """Fail a check where a function returned another shape than its contract allows, or no tensor."""
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if got not in map(tuple, expected):
        wanted = " or ".join(str(tuple(shape)) for shape in expected)
        _verdict(check, math.nan, 0, f"{what} has shape {got}, expected {wanted}", WrongShape)


def _undisturbed() -> Any:
    """Return a context that puts torch's random state back at its end."""
    return torch.random.fork_rng(range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ())


def _precision(out: Tensor, double: float, single: float) -> float:
    """Return the bound that the precision of an output allows."""
    return double if out.dtype == torch.float64 else single


def _examples(x: Tensor) -> Tensor:
    """Return a batch of real examples."""
    real = isinstance(x, Tensor) and x.is_floating_point() and x.ndim > 1 and len(x) > 0
    _require(real, f"x must be a tensor of real examples (B, ...) with B > 0, got {getattr(x, 'shape', x)!r}")
    return x.detach()


def _modules(f: Any) -> list[nn.Module]:
    """Find the modules that a callable is, is bound to, or is a partial application of."""
    if isinstance(f, functools.partial):
        return [module for part in (f.func, *f.args, *f.keywords.values()) for module in _modules(part)]
    return [owner for owner in (f, getattr(f, "__self__", None)) if isinstance(owner, nn.Module)]


def _private(f: Callable, dtype: torch.dtype | None = None, evaluate: bool = True) -> Callable:
    """Copy a callable with its modules, in the given precision and in eval mode."""
    f = getattr(f, "_orig_mod", f)  # what torch.compile wrapped
    # A tensor that a forward pass left on a module cannot be copied while it hangs on its graph.
    left = [value for m in _modules(f) for part in m.modules() for value in vars(part).values()]
    left = {id(t): t.detach().clone() for t in left if isinstance(t, Tensor) and t.grad_fn is not None}
    f = copy.deepcopy(f, left) if _modules(f) else f
    for module in _modules(f):
        module.train(module.training and not evaluate).to(dtype)
    return f


def _accepted(
    check: str, f: Callable, probes: Sequence[Tensor], evaluate: bool = True
) -> tuple[Callable, Tensor, int]:
    """Return a private copy of f, the first probe that it answers without NaN, and the probe's number.

    Double precision is tried first, then single, for a function that casts or that holds a model of its own.
    """
    devices = [t.device for m in _modules(f) for t in (*m.parameters(), *m.buffers())][:1]
    devices = devices or ["cpu", "cuda"][: 1 + torch.cuda.is_available()]
    refusals, answered, dtypes = [], False, (torch.float64, torch.float32)
    for device, dtype, (kind, probe) in itertools.product(devices, dtypes, enumerate(probes)):
        try:
            probe = probe.to(device, dtype if probe.is_floating_point() else None)
            model = _private(f, dtype, evaluate)
            parts = _parts(model(probe.clone()))
        except Exception as error:  # whatever the function objects to
            refusals.append(error)
            continue
        if not any(part.isnan().any() for part in parts if isinstance(part, Tensor)):
            return model, probe, kind
        answered = True
    if answered:
        _verdict(check, math.nan, 0, "the output is NaN")
    if all(isinstance(error, NotImplementedError) for error in refusals):
        raise refusals[0]  # a blank, not a mistake
    raise ValueError(f"f does not take shape {tuple(probes[0].shape)}: {refusals[0]}") from refusals[0]


def _parts(answer: Any) -> tuple:
    """Return the parts of an answer that may be a tuple."""
    return answer if isinstance(answer, tuple) else (answer,)


def _draws(check: str, f: Callable, measure: Callable[[int], Any]) -> Iterator[Any]:
    """Yield what is measured at each draw of the parameters; `measure` returns None where it cannot judge."""
    generator = torch.Generator().manual_seed(0)
    parameters = [(p, p.detach().clone()) for module in _modules(f) for p in _drawn_parameters(module)]
    for draw in range(DRAWS):
        for gain in GAINS if parameters else GAINS[:1]:
            for p, given in parameters:
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
                noise /= math.sqrt(p[0].numel() if p.ndim > 1 else p.numel())  # fan-in
                p.data = gain * noise if gain else given + 0.05 * noise
            if (result := measure(draw)) is not None:
                yield result
                break
        else:
            _verdict(check, math.nan, 0, "not finite, or singular, for any size of parameters")


def _drawn_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Find the parameters to be drawn: the trainable ones, or in a frozen module all but masks of 0 and 1."""
    parameters = [p for p in module.parameters() if p.is_floating_point() and p.numel()]
    trainable = [p for p in parameters if p.requires_grad]
    return trainable or [p for p in parameters if p.unique().tolist() != [0.0, 1.0]]
