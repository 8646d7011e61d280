"""Hidden checks of homework 1, and the instructor's notes: what is judged, by which bound, why that bound.

Every question is tried on inputs that its visible check does not use: other sizes, orders, numbers of values,
seeds. References are computed here in NumPy and float64, where possible by another way than the solution's:
an optimum by halving intervals instead of SGD, samplers by their exact table of probabilities.

=====  ======  ===========================================================================================
q      points  bound
=====  ======  ===========================================================================================
q1a    1       exact
q1b    1       value 1e-5 relative, gradient 1e-12 in float64; 1e-4 in float32, which rounds 1000 to 6e-5
q1c    1       0.015 or 0.05 from the optimum; values that scatter as those of batches, see below
q2a    2       exact: paths through products of masks
q2b    1       probabilities move with the inputs that the masks let through and no other; 1e-3 in all else;
               as many parameters as `nn.Linear` has, that begin with its law
q2c    1       1e-5 relative, 1e-6 absolute
q2d    1       chi-square test of 4,000 samples against the exact joint at p = 1e-9; none knows of another
q3a    1       exact
q3b    1       1e-5 relative, 1e-6 absolute
q3c    1       the same for 4,000 completions and the exact conditional
q3d    2       mean negative log-likelihood of moved test images below `THRESHOLD`, derived below, and that of
               training images at most `GAP` above it
=====  ======  ===========================================================================================

**Chance.** A right sampler fails one chi-square test in 1e9; 500 submissions make about 4,000 of them. Cells
with an expectation below 5 are merged, so that the chi-square law holds. Wrong orders exceed the bound, which
is about 100, by more than a hundred times.

**NaN** fails: a comparison with it is False, so bounds are written `if not value <= bound: raise`.

**q1b by hand.** Autograd, backward and forward, is off while the function runs (`BY_HAND` in judges.py), also
for a notebook that turns inference mode off again. Differences of values lose digits where the value is
large: with the best of all steps they reach 5e-10, extrapolated once or twice 2e-11 and 4e-12, formulas 4e-16
(measured). Not defended: an engine of one's own, or complex steps. A reader sees either.

**q1c.** The functions to descend are no likelihood, so that the driver does not hold the answer of q1b. SGD
with a constant rate ends in a noise around the optimum, of variance rate * Var(gradient) / (2 * batch *
curvature): a deviation of 0.0025 for squares, of 0.008 for log cosh, and the bounds are six of them. The
history of the second half must scatter as means of 200 readings do, 0.6 to 1.6 times (hardly at all for the
whole data, 14 times for single readings), and its own mean lies within six deviations. Who descends on the
whole data can still keep a history of batches: the readings that the function was given are counted.

**Not defended.** Calls of `logits` (q2c, q2d, q3c) and readings (q1c) are counted in the sandbox, where code
that walks from frame to frame can clear the count. The draws must be right all the same, and the history must
be one of batches; what can be won is to be slow.

**THRESHOLD.** Test MNIST, moved by -2 ... 2 rows and columns and drawn from its grey values at grading. Below
45.5 nats (the entropy of that draw) nothing can be. Measured with the notebook's network on two CPU cores
(standard error of a mean over 10,000 images 0.23):

=====================================================  ============================
training                                               nats per moved test image
=====================================================  ============================
7 epochs, one-cycle rate to 1e-2, moved (the solution)  99.7 (2 draws: 99.77, 99.63)
the same without the hidden layers                     109
the recipe of task 2: the same on centred images       119.8 (on centred ones 93.9)
=====================================================  ============================

The bound lies 4 nats, sixteen standard errors, below what the direct connection reaches alone, 15 below what
can be put together from visible cells, and 5 above the solution. It asks for images as the camera takes them
and for hidden layers that work, not for patience.

**GAP.** Everybody has the test images. Which of them, how they are moved and what is drawn from their grey
values comes from the batch's seed, and a file that knows them by heart is better on them than on training
images drawn alike. The solution pays 0.9 nats more on training images (standard error 0.3), a network of this
size that learnt from test images alone, moved and drawn anew, 1.4 (100.9 on training images: it has learnt
digits, if from the wrong ones). The bound of 3 is six standard errors away; 80 steps on 100 test images are
beyond it (tested).

The file alone is judged: a connection that `STEP` forbids is refused even if its weight is tiny, so a model
that sees what it predicts gets nothing. Masked weights are all that is needed.
"""

import functools
import itertools
import math

import numpy as np
import torch
from scipy import stats
from scipy.special import log_softmax, logsumexp, softmax
from torch.nn import functional as F

from dgm_utils import data
from grading.judges import BY_HAND, CHANCE, follows_generator, independent_events, learned, same_type, seed
from grading.questions import Case, Question, Wrong, call, match, take

THRESHOLD = 105.0  # nats per moved image
GAP = 3.0  # nats by which training images may cost more
SIZES = (300, 300)  # hidden layers of the locked network
PLACE = [  # as in the notebook: the step of each place of a block of 7 x 7 pixels
    [17, 5, 42, 12, 14, 37, 38],
    [16, 34, 36, 35, 24, 43, 22],
    [27, 6, 30, 32, 9, 45, 33],
    [11, 39, 3, 29, 8, 48, 46],
    [19, 13, 4, 1, 31, 40, 0],
    [7, 47, 26, 25, 23, 21, 44],
    [2, 18, 10, 15, 41, 28, 20],
]
STEP = np.tile(PLACE, (4, 4)).flatten()


def permutation(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw an order that is not its own inverse where there is one: it tells order from argsort."""
    while True:
        order = rng.permutation(size)
        if size < 3 or (order[order] != np.arange(size)).any():
            return order


def steps(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Draw a step for each of `size` pixels, so that each of the `count` steps occurs."""
    return rng.permutation(np.concatenate([np.arange(count), rng.integers(count, size=size - count)]))


def reach(*masks: np.ndarray) -> np.ndarray:
    """Return the bool matrix (outputs, inputs) of open paths; the first layer's mask comes first."""
    return functools.reduce(lambda below, mask: (mask.astype(np.float64) @ below) > 0, masks).astype(bool)


def same_law(counts: np.ndarray, probability: np.ndarray, what: str) -> None:
    """Raise Wrong if counts do not follow the probabilities, by a chi-square test with rare cells merged."""
    counts, expected = counts.ravel().astype(float), probability.ravel() * counts.sum()
    order = np.argsort(expected)
    counts, expected = counts[order], expected[order]
    rare = max(int((expected < 5).sum()), int(np.searchsorted(expected.cumsum(), 5.0)) + 1)
    counts = np.append(counts[rare:], counts[:rare].sum())
    expected = np.append(expected[rare:], expected[:rare].sum())
    statistic = ((counts - expected) ** 2 / expected).sum()
    if len(counts) > 1 and not statistic <= stats.chi2.isf(CHANCE, len(counts) - 1):
        raise Wrong(f"{what} do not follow the model")


# ---- q1a ---------------------------------------------------------------------------------------------------

REFUSAL = """
import torch
try:
    bin_index(torch.from_numpy(inputs["x"]), inputs["low"].item(), inputs["high"].item(), 5)
    outputs["refused"] = 0
except ValueError:
    outputs["refused"] = 1
"""


def bins_cases(rng):
    """Numbers inside bins, numbers on edges that floats hold exactly, numbers outside."""
    cases = []
    for n_bins, kind in (
        (1, "float32"),
        (int(rng.integers(2, 20)), "float64"),
        (int(rng.integers(50, 300)), "float32"),
    ):
        low, width = rng.normal(), rng.uniform(0.5, 10)
        index = np.append(rng.integers(n_bins, size=200), [0, n_bins - 1])
        x = (low + width * (index + rng.uniform(0.02, 0.98, len(index))) / n_bins).astype(kind)
        inputs = {
            "x": x,
            "low": np.asarray(low),
            "high": np.asarray(low + width),
            "n_bins": np.asarray(n_bins),
        }
        cases.append(
            Case(
                call("bin_index", "x", "low", "high", "n_bins", tensors=True),
                inputs,
                f"{n_bins} bins, {kind}",
            )
        )
    edges = np.linspace(-3, 5, 33)
    inputs = {"x": edges, "low": np.asarray(-3.0), "high": np.asarray(5.0), "n_bins": np.asarray(32)}
    cases.append(
        Case(call("bin_index", "x", "low", "high", "n_bins", tensors=True), inputs, "numbers on edges")
    )
    for side, outside in ("below", -0.75), ("above", 2.25):
        x = np.append(rng.uniform(0, 1.5, 20), outside)
        cases.append(
            Case(
                REFUSAL,
                {"x": x, "low": np.asarray(-0.5), "high": np.asarray(2.0)},
                f"a number {side} the range",
            )
        )
    return cases


def bins_verify(case, outputs):
    """Compare with the definition: the number of inner edges at or below x."""
    if "n_bins" not in case.inputs:
        if take(outputs, "refused", ()) != 1:
            raise Wrong("no ValueError")
        return
    x, n_bins = case.inputs["x"].astype(np.float64), int(case.inputs["n_bins"])
    edges = np.linspace(case.inputs["low"], case.inputs["high"], n_bins + 1)
    match(outputs, "0", (x[:, None] >= edges[1:-1]).sum(1), atol=0, rtol=0, what="indices")
    same_type(outputs, np.dtype("int64"), "0")


# ---- q1b ---------------------------------------------------------------------------------------------------

INTERVALS = (
    BY_HAND
    + """
import torch
_names = "theta", "first", "last"
with _by_hand():
    _arguments = [torch.from_numpy(inputs[_name].copy()) for _name in _names]
    outputs["value"], outputs["gradient"] = nll_and_gradient(*_arguments)
    outputs["changed"] = any((_one.numpy() != inputs[_name]).any() for _one, _name in zip(_arguments, _names))
"""
)


def intervals(rng, size, count, *, exact=0.4):
    """Draw readings (first, last) of `size` bins: exact ones and intervals of any length."""
    ends = np.sort(rng.integers(size, size=(count, 2)), axis=1)
    ends[rng.random(count) < exact, 1] = -1
    return ends[:, 0], np.maximum(ends[:, 0], ends[:, 1])


def intervals_cases(rng):
    """Both float types, few and many bins, one reading, logits up to 1000, readings of what is improbable."""
    cases = []
    for size, count, scale, kind in (
        (5, 40, 1, "float64"),
        (80, 1000, 2, "float32"),
        (9, 1, 1, "float64"),
        (30, 200, 300, "float32"),
    ):
        first, last = intervals(rng, size, count)
        theta = np.clip(scale * rng.normal(size=size), -1000, 1000).astype(kind)
        cases.append(
            Case(
                INTERVALS,
                {"theta": theta, "first": first, "last": last},
                f"{size} bins, {count} readings, {kind}",
            )
        )
    first, last = intervals(rng, 40, 60)
    theta = np.where(np.arange(40) % 8 == 0, -1000.0, 2 * rng.normal(size=40))
    first[:30] = last[:30] = 8 * rng.integers(5, size=30)  # a large value, of which differences lose digits
    inputs = {"theta": theta, "first": first, "last": last}
    cases.append(Case(INTERVALS, inputs, "40 bins, some of them improbable, float64"))
    return cases


def nll_of_intervals(theta, first, last):
    """Return value and gradient of the mean negative log-likelihood, reading by reading, in float64."""
    log_p = log_softmax(theta.astype(np.float64))
    value, gradient = 0.0, np.zeros(len(theta))
    for a, b in zip(first, last, strict=True):
        part = slice(a, b + 1)
        value -= logsumexp(log_p[part]) / len(first)
        gradient[part] -= softmax(log_p[part]) / len(first)
    return value, gradient + np.exp(log_p)


def intervals_verify(case, outputs):
    """Compare value and gradient; in float64 the gradient is exact to what no differences of values reach."""
    value, gradient = nll_of_intervals(*(case.inputs[name] for name in ("theta", "first", "last")))
    single = case.inputs["theta"].dtype == np.float32
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if single else {}
    match(outputs, "value", value, **tolerance, what="the value")
    match(outputs, "gradient", gradient, **tolerance or {"rtol": 0, "atol": 1e-12}, what="the gradient")
    same_type(outputs, case.inputs["theta"].dtype, "value", "gradient")


# ---- q1c ---------------------------------------------------------------------------------------------------

STEPS, BATCH = 1000, 200
FIT = """
import torch
import torch.nn.functional as F

def _squares(theta, first, last):
    difference = theta - F.one_hot(first, len(theta))
    return 0.5 * difference.square().sum(1).mean(), difference.mean(0)

def _log_cosh(theta, first, last):
    place = torch.arange(len(theta))
    difference = theta - ((first[:, None] <= place) & (place <= last[:, None])).to(theta.dtype)
    return difference.cosh().log().sum(1).mean(), difference.tanh().mean(0)

_names, _sizes = ("from", "to"), []
_readings = [torch.from_numpy(inputs[_name].copy()) for _name in _names]
def _counted(theta, first, last):
    _sizes.append(len(first))
    return (_squares if inputs["squares"] else _log_cosh)(theta, first, last)
for _name, _seed, _steps in (
    ("first", 0, 50), ("next", None, 50), ("again", 0, 50), ("other", 1, 50), ("long", 2, 1000)
):
    if _seed is not None:
        _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    _theta, outputs[_name] = fit_histogram(
        *_readings, inputs["n_bins"].item(), _counted,
        steps=_steps, batch_size=200, learning_rate=inputs["rate"].item(), generator=_generator,
    )
outputs["theta"], outputs["batches"], outputs["read"] = _theta, set(_sizes) == {200}, sum(_sizes)
outputs["changed"] = any((_one.numpy() != inputs[_name]).any() for _one, _name in zip(_readings, _names))
"""


def fit_cases(rng):
    """Exact readings and intervals, each with a function to descend that no question asks for."""
    cases = []
    for about, size, exact in ("exact readings", 12, True), ("intervals", 20, False), ("few bins", 8, True):
        weights = rng.dirichlet(np.full(size, 3.0)).clip(1 / 100)
        index = rng.choice(size, size=4000, p=weights / weights.sum())
        below, above = (rng.integers(3, size=4000) * (not exact) for _ in range(2))
        inputs = {
            "from": (index - below).clip(0),
            "to": (index + above).clip(max=size - 1),
            "n_bins": np.asarray(size),
            "rate": np.asarray(0.01 if exact else 0.05),
            "squares": np.asarray(exact),
            "seed": seed(rng),
        }
        cases.append(Case(FIT, inputs, about))
    return cases


def fit_values(theta, inputs):
    """Return the value of every reading at theta, and where theta should end, for both functions."""
    place = np.arange(len(theta))
    inside = ((inputs["from"][:, None] <= place) & (place <= inputs["to"][:, None])).astype(float)
    share = inside.mean(0)
    if inputs["squares"]:
        return ((theta - inside) ** 2).sum(1) / 2, share
    low, high = np.zeros(len(theta)), np.ones(len(theta))
    for _ in range(60):  # halve, until the mean gradient is 0
        middle = (low + high) / 2
        rises = share * np.tanh(middle - 1) + (1 - share) * np.tanh(middle) > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return np.log(np.cosh(theta - inside)).sum(1), low


def fit_verify(case, outputs):
    """Judge where it began and ended, whether its values are those of batches, and what sets its chance."""
    size = int(case.inputs["n_bins"])
    theta = take(outputs, "theta", (size,), what="theta")
    history = take(outputs, "long", (STEPS,), what="the history")
    for name in ("first", "next", "again", "other"):
        take(outputs, name, (50,), what="the history")
    follows_generator(outputs, "runs")
    if not take(outputs, "batches", ()):
        raise Wrong("nll_and_gradient was called with other than batch_size readings")
    if not take(outputs, "read", ()) <= 2 * (4 * 50 + STEPS) * BATCH:  # value and gradient may be two calls
        raise Wrong("nll_and_gradient was given more readings than one batch for each step")
    start, (values, best) = fit_values(np.zeros(size), case.inputs)[0], fit_values(theta, case.inputs)
    if not abs(history[0] - start.mean()) <= 1e-5 + 6 * start.std() / math.sqrt(BATCH):
        raise Wrong("the history does not begin with the value at theta = 0")
    if not np.abs(theta - best).max() <= (0.015 if case.inputs["squares"] else 0.05):
        raise Wrong("SGD did not reach the optimum of the function that was passed in")
    late, scatter = history[STEPS // 2 :], values.std() / math.sqrt(BATCH)
    if not abs(late.mean() - values.mean()) <= 0.001 + 6 * scatter / math.sqrt(len(late)):
        raise Wrong("the history does not hold the values of the function that was passed in")
    if not 0.6 <= late.std() / scatter <= 1.6:
        raise Wrong("the values do not scatter as those of new batches of this size do")


# ---- q2a ---------------------------------------------------------------------------------------------------

MASKS = """
import torch
_order, _hidden = torch.from_numpy(inputs["order"].copy()), tuple(inputs["hidden"].tolist())
_masks = made_masks(_order, *inputs["blocks"].tolist(), _hidden, inputs["context"].item())
outputs["count"] = len(_masks)
outputs.update({str(_k): _mask for _k, _mask in enumerate(_masks)})
outputs["changed"] = (_order.numpy() != inputs["order"]).any()
"""


def masks_cases(rng):
    """Two to seven coordinates, one to three hidden layers, orders that are not their own inverse.

    Layers are so wide that windows drawn at random, (first, last) of m (m + 1) / 2, leave out none that is
    needed: of seven coordinates (0, 0), one draw in 49, is missing among 896 with probability 1e-8.
    """
    cases = []
    for m, blocks, layers, context in (
        (2, (5, 4), 1, 1),
        (3, (2, 1), 2, 1),
        (4, (1, 3), 1, 2),
        (5, (4, 3), 3, 2),
        (6, (3, 3), 2, 5),
        (7, (2, 1), 2, 3),
    ):
        inputs = {
            "order": permutation(rng, m),
            "blocks": np.array(blocks),
            "context": np.asarray(context),
            "hidden": 16 * m * (m + 1) + rng.integers(1, 20, size=layers),
        }
        cases.append(Case(MASKS, inputs, f"{m} coordinates, context {context}, {layers} hidden layers"))
    return cases


def masks_verify(case, outputs):
    """Follow the paths."""
    order, hidden = case.inputs["order"], case.inputs["hidden"].tolist()
    (n_in, n_out), context = case.inputs["blocks"], int(case.inputs["context"])
    sizes = [len(order) * n_in, *hidden, len(order) * n_out]
    if take(outputs, "count", ()) != len(hidden) + 1:
        raise Wrong(f"another number of masks than the {len(hidden) + 1} of {len(hidden)} hidden layers")
    for k, (below, above) in enumerate(itertools.pairwise(sizes)):
        take(outputs, str(k), (above, below), what=f"mask {k}")
        same_type(outputs, np.dtype("bool"), str(k))
    masks = [outputs[str(k)] for k in range(len(sizes) - 1)]
    rank = np.argsort(order)
    back = np.repeat(rank, n_out)[:, None] - np.repeat(rank, n_in)
    sees, may = reach(*masks), (back >= 1) & (back <= context)
    for wrong, why in (
        (back < 1, "that is not drawn later"),
        (back > context, "that is drawn too long after"),
    ):
        if (sees & wrong).any():
            raise Wrong(f"paths lead from a unit of a coordinate to one {why}")
    if (may & ~sees).any():
        raise Wrong("paths are missing, from a coordinate to one that is drawn soon after")


# ---- q2b ---------------------------------------------------------------------------------------------------

NETWORK = """
import itertools
import torch
_masks = [torch.from_numpy(inputs[_name].copy()) for _name in sorted(inputs) if _name.startswith("mask")]
_values, _m = inputs["n_values"].item(), inputs["m"].item()
_model = OrdinalMADE(_masks, _values)
for _k, _parameter in enumerate(_model.parameters()):
    outputs[f"start{_k}"] = _parameter.detach().clone()
_generator = torch.Generator().manual_seed(inputs["seed"].item())
with torch.no_grad():
    for _parameter in _model.parameters():
        _parameter.normal_(0, 0.4, generator=_generator)
_states = torch.tensor(list(itertools.product(range(_values), repeat=_m)))
_vector = torch.nn.utils.parameters_to_vector
outputs["before"] = _vector(_model.parameters()).clone()
outputs["log_p"], outputs["log_prob"] = _model(_states), _model.log_prob(_states)
outputs["after"] = _vector(_model.parameters())
for _name in "log_p", "log_prob":
    _slopes = torch.autograd.grad(outputs[_name].sum(), list(_model.parameters()), allow_unused=True)
    outputs[f"slopes_{_name}"] = [0.0 if _slope is None else _slope.abs().sum().item() for _slope in _slopes]
outputs["double"], outputs["double_p"] = _model.double().log_prob(_states), _model(_states)
_model.float()
for _k, _value in enumerate(inputs["constants"].tolist()):
    with torch.no_grad():
        for _parameter in _model.parameters():
            _parameter.fill_(_value)
        outputs[f"constant{_k}"] = _model(_states)
_before = [inputs[_name] for _name in sorted(inputs) if _name.startswith("mask")]
outputs["changed"] = any((_one.numpy() != _other).any() for _one, _other in zip(_masks, _before))
"""


def begins_as_linear(outputs, masks):
    """Raise Wrong unless a fresh network has the parameters of `nn.Linear`: their number, shapes and law.

    The law is uniform up to 1 / sqrt(fan-in). A matrix may be kept transposed, a bias as one row or column
    (no layer has one unit only); biases are judged together.
    The spread of 320 entries, the fewest, varies by 2.5 %: the bound is eight deviations.
    """
    fresh = [outputs[name].squeeze() for name in outputs if name.startswith("start")]
    biases = [value for value in fresh if value.ndim == 1]
    weights = sorted((value for value in fresh if value.ndim == 2), key=lambda value: sorted(value.shape))
    shapes = sorted((mask.shape for mask in masks), key=sorted)
    if [sorted(value.shape) for value in weights] != [sorted(shape) for shape in shapes]:
        raise Wrong("one weight for each layer was asked for, of the shape of its mask")
    if sorted(map(len, biases)) != sorted(map(len, masks)) or len(fresh) != 2 * len(masks):
        raise Wrong("one bias for each layer was asked for, and no other parameters than weights and biases")
    bounds = [fan_in**-0.5 for _, fan_in in shapes]
    judged = [*zip(weights, bounds, strict=True), (np.concatenate(biases), max(bounds))]
    for value, bound in judged:
        least = 0.8 if value.ndim == 2 else 0.1  # of the spread of the uniform law
        if not (np.abs(value).max() <= bound * (1 + 1e-6) and value.std() >= least * bound / math.sqrt(3)):
            raise Wrong("weights or biases do not begin as those of nn.Linear")


def chained(rng, m, n_values, layers, *, chain):
    """Return masks, the first layer's first.

    With `chain`, a coordinate reaches only the one drawn before it, else all that are drawn earlier: masks
    that a model which makes its own would not have.
    """
    order = permutation(rng, m)
    rank, units = np.argsort(order), 40 * (m - 1)
    group = np.arange(units) % (
        m - 1
    )  # hidden unit g hears the coordinate of rank g, and serves that of g + 1
    heard = rank[None] == group[:, None] if chain else rank[None] <= group[:, None]
    passed = group[:, None] == group if chain else group[:, None] >= group
    served = rank[:, None] == group + 1 if chain else rank[:, None] > group
    return [np.repeat(heard, n_values, 1), *[passed] * (layers - 1), np.repeat(served, n_values - 1, 0)]


def constant_head(masks, m, value):
    """Return the outputs of a network whose parameters all have one value; they are the same for every input.

    A coordinate is one-hot, so that a unit that hears c coordinates gets c times the value.
    """
    h = (np.arange(masks[0].shape[1]) % (masks[0].shape[1] // m) == 0).astype(float)
    for k, mask in enumerate(masks):
        h = value * (mask @ (h if k == 0 else np.maximum(h, 0))) + value
    return h


def network_cases(rng):
    """Full and reduced connections, one and two hidden layers."""
    cases = []
    for m, n_values, layers, chain in (2, 5, 1, False), (3, 4, 2, False), (3, 3, 1, True), (4, 3, 2, True):
        masks = chained(rng, m, n_values, layers, chain=chain)
        inputs = {f"mask{k}": mask for k, mask in enumerate(masks)}
        inputs |= {"n_values": np.asarray(n_values), "m": np.asarray(m), "seed": seed(rng)}
        large = 1.0  # a constant that drives the head to several hundreds, where sigmoids are 0 or 1
        while constant_head(masks, m, large).max() > 900:
            large *= 0.9
        inputs["constants"] = np.array(
            [0.0, -rng.uniform(0.1, 0.5), rng.uniform(0.005, 0.01), -1000.0, large]
        )
        cases.append(Case(NETWORK, inputs, f"{m} coordinates, {n_values} values, {layers} hidden layers"))
    return cases


def ordinal(a):
    """Return the log-probabilities (..., V) of the values, from the V - 1 numbers of the head."""
    yes, no = -np.logaddexp(0, -a), -np.logaddexp(0, a)
    last = no.sum(-1, keepdims=True)
    before = np.concatenate([np.zeros_like(last), no.cumsum(-1)[..., :-1]], -1)
    return np.concatenate([before + yes, last], -1)


def network_verify(case, outputs):
    """Move inputs one at a time, add up probabilities; give all parameters one value."""
    n_values, m = int(case.inputs["n_values"]), int(case.inputs["m"])
    states = np.array(list(itertools.product(range(n_values), repeat=m)))
    log_p = take(outputs, "log_p", (len(states), n_values, m), what="forward(x)")
    log_prob = take(outputs, "log_prob", (len(states),), what="log_prob(x)")
    masks = [case.inputs[name] for name in sorted(case.inputs) if name.startswith("mask")]
    begins_as_linear(outputs, masks)
    if not np.array_equal(take(outputs, "before"), take(outputs, "after")):
        raise Wrong("a call of the model changes its parameters")
    for name in "slopes_log_p", "slopes_log_prob":
        if not (take(outputs, name, (2 * len(masks),)) > 0).all():
            raise Wrong("a weight or a bias gets no gradient: it would never learn")
    cube = log_p.reshape(*[n_values] * m, n_values, m)
    sees = reach(*masks)[:: n_values - 1, ::n_values]  # coordinates instead of their units
    scale = np.abs(log_p).max()
    for i, j in itertools.product(range(m), repeat=2):
        moves = np.ptp(cube[..., i], axis=j).max() / scale
        if sees[i, j] and not moves >= 1e-3:
            raise Wrong("the probabilities of a coordinate do not change with one that its masks let it see")
        if not sees[i, j] and not moves <= 1e-5:
            raise Wrong("the probabilities of a coordinate change with one that its masks hide from it")
    if not np.abs(logsumexp(log_p, axis=1)).max() <= 1e-3:
        raise Wrong("the probabilities of the values of a coordinate do not sum to one")
    chosen = np.take_along_axis(log_p, states[:, None], axis=1)[:, 0].sum(1)
    if not np.abs(log_prob - chosen).max() <= 1e-3:
        raise Wrong("log_prob is not the sum of the log-probabilities of the coordinates")
    if not abs(np.exp(logsumexp(log_prob)) - 1) <= 1e-3:
        raise Wrong("the probabilities of all states do not sum to one")
    same_type(outputs, np.dtype("float64"), "double", "double_p")
    match(outputs, "double", log_prob, rtol=1e-3, atol=1e-3, what="log_prob after double()")
    for k, value in enumerate(case.inputs["constants"]):
        a = constant_head(masks, m, value).reshape(m, n_values - 1)
        expected = np.broadcast_to(ordinal(a).T, log_p.shape)
        what = "log-probabilities when every parameter has one value"
        match(outputs, f"constant{k}", expected, rtol=1e-3, atol=1e-3, what=what)


# ---- q2c ---------------------------------------------------------------------------------------------------

TABLE = """
import torch
def _model(_table):
    _table = torch.from_numpy(_table).requires_grad_()
    def _log_prob(_x):
        if len(_x) > len(_table) ** 2:
            raise ValueError("too many pairs in one call")
        return _table[_x[:, 0], _x[:, 1]]
    return _log_prob
_models = [_model(_table) for _table in inputs["tables"]]
outputs["table"] = probability_table(_models, inputs["tables"].shape[1])
"""


def table_cases(rng):
    """One model and several, both float types, pairs that are impossible."""
    cases = []
    for count, size, kind in (1, 3, "float64"), (1, 9, "float32"), (2, 2, "float32"), (5, 7, "float64"):
        tables = rng.dirichlet(np.full(size * size, 0.3), size=count).reshape(count, size, size)
        logs = np.log(tables.clip(1e-300)).astype(kind)
        logs[:, 0, 1] = -10_000
        logs -= logsumexp(logs, axis=(1, 2), keepdims=True)
        cases.append(Case(TABLE, {"tables": logs.astype(kind)}, f"{count} models of pairs of {size} values"))
    return cases


def table_verify(case, outputs):
    """Average the probabilities."""
    expected = np.exp(case.inputs["tables"].astype(np.float64)).mean(0)
    match(outputs, "table", expected, what="the table")
    if not (outputs["table"] >= 0).all() or outputs["table"][expected == 0].any():
        raise Wrong("a probability is negative, or not 0 although every model excludes the pair")


# ---- q2d ---------------------------------------------------------------------------------------------------

SAMPLE = """
import torch
_order, _values = torch.from_numpy(inputs["order"].copy()), inputs["n_values"].item()
_calls = []
def _logits(_x):
    _calls.append(len(_x))
    if _x.dtype != torch.int64 or _x.shape[1] != len(_order) or _x.min() < 0 or _x.max() >= _values:
        raise ValueError("not a batch of valid vectors")
    _out = torch.empty(len(_x), _values, len(_order))
    for _k, _i in enumerate(_order.tolist()):
        _out[:, :, _i] = torch.from_numpy(inputs[f"logits{_k}"])[tuple(_x[:, _j] for _j in _order[:_k])]
    return _out
for _name, _n, _seed in (
    ("first", 200, 0), ("next", 200, None), ("again", 200, 0), ("other", 200, 1), ("many", 4000, 2)
):
    _calls.clear()
    if _seed is not None:
        _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    outputs[_name] = sample(_logits, _order, _n, _values, _generator)
    if len(_calls) > len(_order) or max(_calls) > _n:
        raise ValueError("too many calls of logits")
outputs["changed"] = (_order.numpy() != inputs["order"]).any()
"""


def sample_cases(rng):
    """Conditional tables of random logits, drawn in orders that are not their own inverse."""
    cases = []
    for m, n_values in (2, 6), (3, 4), (4, 2), (5, 2):
        order = np.array([1, 0]) if m == 2 else permutation(rng, m)
        inputs = {"order": order, "n_values": np.asarray(n_values), "seed": seed(rng)}
        for k in range(m):
            inputs[f"logits{k}"] = 1.5 * rng.normal(size=(n_values,) * (k + 1)).astype(np.float32)
            if k == 0:
                inputs["logits0"] = inputs["logits0"][None]  # indexed with no coordinate: one row for all
        cases.append(Case(SAMPLE, inputs, f"{m} coordinates of {n_values} values"))
    return cases


def sample_verify(case, outputs):
    """Compare counts with the joint table."""
    order, n_values = case.inputs["order"], int(case.inputs["n_values"])
    m = len(order)
    for name in ("first", "next", "again", "other"):
        take(outputs, name, (200, m), what="samples")
    follows_generator(outputs, "samples")
    x = take(outputs, "many", (4000, m), what="samples")
    same_type(outputs, np.dtype("int64"), "first", "many")
    if not np.isin(x, np.arange(n_values)).all():
        raise Wrong(f"samples hold other values than 0 ... {n_values - 1}")
    drawn = np.zeros((n_values,) * m)  # its axes in the order of drawing
    for k in range(m):
        conditional = log_softmax(
            case.inputs[f"logits{k}"].astype(np.float64).reshape((n_values,) * (k + 1)), axis=-1
        )
        drawn += conditional.reshape(conditional.shape + (1,) * (m - k - 1))
    joint = np.exp(drawn).transpose(np.argsort(order))  # its axes in the order of coordinates
    counts = np.zeros_like(joint)
    np.add.at(counts, tuple(x.astype(int).T), 1)
    same_law(counts, joint, "samples")
    for i in range(m):
        alone = joint.sum(tuple(j for j in range(m) if j != i))
        independent_events(x[:, i, None] == np.arange(n_values), alone, "samples: values")


# ---- q3a ---------------------------------------------------------------------------------------------------

FEWEST = """
import torch
_sees = torch.from_numpy(inputs["sees"].copy())
outputs["step"] = fewest_steps(_sees)
outputs["changed"] = (_sees.numpy() != inputs["sees"]).any()
"""
CIRCLE = """
import torch
try:
    fewest_steps(torch.from_numpy(inputs["sees"]))
    outputs["refused"] = 0
except ValueError:
    outputs["refused"] = 1
"""


def shuffled(rng, sees):
    """Give the pixels other names, so that their numbers say nothing about the order."""
    names = rng.permutation(len(sees))
    return sees[names][:, names]


def fewest_cases(rng):
    """One pixel, sparse and dense models, groups, a chain of 400 pixels, neighbours on a grid, circles."""
    row, column = np.divmod(np.arange(12 * 17), 17)
    up, left = row[:, None] - row, column[:, None] - column
    step = steps(rng, 60, 9)
    models = {
        "one pixel": np.zeros((1, 1)),
        "30 pixels, few connections": np.tril(rng.random((30, 30)) < 0.08, -1),
        "50 pixels, many connections": np.tril(rng.random((50, 50)) < 0.5, -1),
        "groups": step[:, None] > step,
        "each pixel sees the one before": np.eye(300, k=-1),
        "400 pixels, all that come before": np.tri(400, k=-1),
        "the groups of the notebook": STEP[:, None] > STEP,
        "a grid, left and upper neighbours": ((up == 0) & (left == 1)) | ((up == 1) & (np.abs(left) <= 1)),
    }
    cases = [Case(FEWEST, {"sees": shuffled(rng, sees > 0)}, about) for about, sees in models.items()]
    itself, pair = np.tri(6, k=-1) > 0, np.tril(rng.random((20, 20)) < 0.3, -1)
    itself[3, 3] = pair[5, 12] = pair[12, 5] = True
    for sees, about in ((itself, "a pixel sees itself"), (pair, "two pixels see each other")):
        cases.append(Case(CIRCLE, {"sees": shuffled(rng, sees)}, about))
    return cases


def fewest_verify(case, outputs):
    """Draw, pass by pass, all pixels that wait for none that is left."""
    if case.driver == CIRCLE:
        if take(outputs, "refused", ()) != 1:
            raise Wrong("no ValueError")
        return
    sees = case.inputs["sees"]
    expected, left = np.zeros(len(sees)), np.ones(len(sees), dtype=bool)
    while left.any():
        now = left & ~(sees & left).any(1)
        left &= ~now
        expected[left] += 1
    step = take(outputs, "step", expected.shape, what="the steps")
    if (sees & (step >= step[:, None])).any():
        raise Wrong("a pixel is drawn before one that it sees, or together with it")
    if step.max() > expected.max():
        raise Wrong("there are more steps than needed")
    match(outputs, "step", expected, rtol=0, atol=0, what="the steps")
    same_type(outputs, np.dtype("int64"), "step")


# ---- q3b ---------------------------------------------------------------------------------------------------


def by_step_cases(rng):
    """Both float types, one image, as many steps as pixels, large logits."""
    cases = []
    for images, m, count, scale, kind in (
        (50, 30, 7, 2, "float64"),
        (1, 8, 8, 1, "float32"),
        (9, 40, 2, 400, "float32"),
    ):
        inputs = {
            "logits": (scale * rng.normal(size=(images, m))).clip(-1000, 1000).astype(kind),
            "x": rng.integers(2, size=(images, m)).astype(kind),
            "step": steps(rng, m, count),
        }
        cases.append(
            Case(
                call("nll_by_step", "logits", "x", "step", tensors=True),
                inputs,
                f"{images} images, {m} pixels, {count} steps",
            )
        )
    x, step = rng.integers(2, size=(3, 12)).astype("float32"), steps(rng, 12, 4)
    logits = (2000 * x - 1000) * np.where(step == 1, -1, 1)  # all that happens was sure, but for step 1
    inputs = {"logits": logits.astype("float32"), "x": x, "step": step}
    cases.append(Case(call("nll_by_step", *inputs, tensors=True), inputs, "steps that were foreseen surely"))
    return cases


def by_step_verify(case, outputs):
    """Add up pixel by pixel: -log p = log(1 + exp(-logit)) for x = 1, of the opposite logit for x = 0."""
    signed = np.where(case.inputs["x"] == 1, -1, 1) * case.inputs["logits"].astype(np.float64)
    expected = np.zeros(case.inputs["step"].max() + 1)
    np.add.at(expected, case.inputs["step"], np.logaddexp(0, signed).mean(0))
    match(outputs, "0", expected, what="the terms")
    if outputs["0"][expected == 0].any():
        raise Wrong("a step that was foreseen surely has a cost")


# ---- q3c ---------------------------------------------------------------------------------------------------

COMPLETE = """
import torch
_step, _known = torch.from_numpy(inputs["step"].copy()), inputs["n_known"].item()
_weight, _bias, _calls = torch.from_numpy(inputs["weight"]), torch.from_numpy(inputs["bias"]), []
def _logits(_x):
    _calls.append(len(_x))
    if not ((_x == 0) | (_x == 1)).all():
        raise ValueError("neither zeros nor ones")
    return (2 * _x - 1) @ _weight.T + _bias
for _name, _n, _seed in (
    ("first", 200, 0), ("next", 200, None), ("again", 200, 0), ("other", 200, 1), ("many", 4000, 2)
):
    _calls.clear()
    _x = torch.from_numpy(inputs["x"])[:_n].clone()
    if _seed is not None:
        _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    outputs[_name] = complete(_logits, _x, _step, _known, _generator)
    if len(_calls) > int(_step.max()) + 1 - _known:
        raise ValueError("too many calls of logits")
    if (_x.numpy() != inputs["x"][:_n]).any() or (_step.numpy() != inputs["step"]).any():
        outputs["changed"] = True
"""


def complete_cases(rng):
    """Sigmoid belief nets that follow the steps, from nothing known to all but one step."""
    cases = []
    for m, count, known in (5, 3, 0), (7, 4, 1), (8, 4, 2), (6, 6, 3), (4, 2, 2):
        step = steps(rng, m, count)
        x = rng.integers(2, size=(4000, m))
        x[:, step < known] = x[
            0, step < known
        ]  # one prefix for all; what is not known differs, and must not matter
        inputs = {
            "step": step,
            "n_known": np.asarray(known),
            "x": x.astype(np.float32),
            "seed": seed(rng),
            "weight": (1.5 * rng.normal(size=(m, m)) * (step[:, None] > step)).astype(np.float32),
            "bias": rng.normal(size=m).astype(np.float32),
        }
        cases.append(Case(COMPLETE, inputs, f"{m} pixels, {count} steps, {known} of them known"))
    return cases


def complete_verify(case, outputs):
    """Compare counts of the pixels that were drawn with their exact conditional."""
    step, known, given = case.inputs["step"], int(case.inputs["n_known"]), case.inputs["x"]
    x = take(outputs, "many", given.shape, what="completions")
    for name in ("first", "next", "again", "other"):
        take(outputs, name, given[:200].shape, what="completions")
    same_type(outputs, given.dtype, "first", "many")
    if not np.isin(x, (0, 1)).all():
        raise Wrong("pixels other than 0 and 1")
    fixed = step < known
    if (x[:, fixed] != given[:, fixed]).any():
        raise Wrong("known pixels were changed")
    if fixed.all():
        return
    follows_generator(outputs, "completions")
    states = np.array(list(itertools.product((0, 1), repeat=int((~fixed).sum()))))
    full = np.repeat(given[:1].astype(np.float64), len(states), 0)
    full[:, ~fixed] = states
    logits = (2 * full - 1) @ case.inputs["weight"].T.astype(np.float64) + case.inputs["bias"]
    per_pixel = -np.logaddexp(0, np.where(full == 1, -logits, logits))
    counts = np.bincount(
        (x[:, ~fixed] @ (1 << np.arange(states.shape[1])[::-1])).astype(int), minlength=len(states)
    )
    probability = np.exp(per_pixel[:, ~fixed].sum(1))
    same_law(counts, probability, "completions")
    independent_events(x[:, ~fixed], probability @ states, "completions: pixels")


# ---- q3d ---------------------------------------------------------------------------------------------------


@functools.cache
def grey_images(part: str) -> np.ndarray:
    """Return the images of a part of MNIST as probabilities, float32 (n, 28, 28)."""
    return getattr(data.load_images("mnist"), part).images[:, 0].numpy() / np.float32(255)


def camera(part: str, rng: np.random.Generator) -> np.ndarray:
    """Return 10,000 binary images (n, 784), float32: chosen, moved and drawn from grey values by `rng`."""
    grey = grey_images(part)
    which = rng.permutation(len(grey))[:10_000, None, None]
    moves = rng.integers(-2, 3, size=(2, len(which), 1))
    rows, columns = (np.arange(28) - moves) % 28  # (n, 28) each
    seen = grey[which, rows[:, :, None], columns[:, None]].reshape(-1, 784)
    return (rng.random(seen.shape) < seen).astype(np.float32)


@functools.cache
def images_of(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the binary test and training images of a seed: the same for all students, drawn once."""
    rng = np.random.default_rng(number)
    return camera("test", rng), camera("train", rng)


def trained_cases(rng):
    """Let nothing run in the sandbox: the file alone is judged, and the seed of the images stays here."""
    return [Case("", about="test images, new moves, a new binarisation", kept={"seed": seed(rng)})]


def nats(w: dict[str, np.ndarray], x: np.ndarray) -> float:
    """Return the mean negative log-likelihood of binary images (n, 784), in nats; NaN or inf on overflow.

    One loss in float32 is exact to 1e-6; NumPy's logaddexp takes five times as long.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        h = np.maximum(x @ w["weight1"].T + w["bias1"], 0)
        h = np.maximum(h @ w["weight2"].T + w["bias2"], 0)
        logits = h @ w["weight3"].T + w["bias3"] + x @ w["direct"].T
    targets = torch.from_numpy(x)
    losses = F.binary_cross_entropy_with_logits(torch.from_numpy(logits), targets, reduction="none")
    return losses.double().sum(1).mean().item()


def trained_verify(case, outputs, weights):
    """Refuse leaks, then measure."""
    first, second = SIZES
    shapes = {
        "weight1": (first, 784),
        "bias1": (first,),
        "weight2": (second, first),
        "bias2": (second,),
        "weight3": (784, second),
        "bias3": (784,),
        "direct": (784, 784),
    }
    if set(weights) != set(shapes):
        raise Wrong(f"the file holds tensors named otherwise than the locked cell writes: {sorted(shapes)}")
    w = {name: take(weights, name, shape).astype(np.float32) for name, shape in shapes.items()}
    sees = reach(*(w[f"weight{k}"] != 0 for k in (1, 2, 3))) | (w["direct"] != 0)
    leaks = sees & (STEP[:, None] <= STEP)
    if leaks.any():
        raise Wrong("paths lead from a pixel to one of the same or an earlier step: unmasked weights?")
    test, train = (nats(w, images) for images in images_of(int(case.kept["seed"])))
    learned(test, train, bound=THRESHOLD, gap=GAP, what="test image")


QUESTIONS = [
    Question("q1a", 1, bins_cases, bins_verify),
    Question("q1b", 1, intervals_cases, intervals_verify),
    Question("q1c", 1, fit_cases, fit_verify),
    Question("q2a", 2, masks_cases, masks_verify),
    Question("q2b", 1, network_cases, network_verify),
    Question("q2c", 1, table_cases, table_verify),
    Question("q2d", 1, sample_cases, sample_verify),
    Question("q3a", 1, fewest_cases, fewest_verify),
    Question("q3b", 1, by_step_cases, by_step_verify),
    Question("q3c", 1, complete_cases, complete_verify),
    Question("q3d", 2, trained_cases, trained_verify, weights="hw1_q3d.safetensors"),
]
