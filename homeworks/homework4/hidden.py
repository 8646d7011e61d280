"""Hidden checks of homework 4, and the instructor's notes: what is judged, by which bound, why that bound.

Every question is tried on inputs that its visible check does not use: other sizes, numbers and seeds.
References are computed here in float64, where possible by another way than the solution's.

=====  ======  ===========================================================================================
q      points  bound
=====  ======  ===========================================================================================
q1a    2       1e-5, 1e-4 in float32, absolute or relative; gradients 1e-5 of the largest, 1e-3 in float32,
               up to 100 widths away, beyond that finite: torch's log_ndtr has no better gradient in float32
q1b    1       the tolerance of the task; calls of each example counted
q1c    1       1e-8 for both directions; calls counted
q1d    2       KL(moons || model) of the file below `GAUGE_THRESHOLD`; and of another law, that the function
               trains on when graded, below `ANOTHER_GAUGE`; both derived below
q2a    1       equal to masks made unit by unit
q2b    2       1e-5 relative, 1e-4 in float32; codes: tests of N(0, I) at `CHANCE`; gradients 1e-5
q2c    1       the conditional CDFs of the draws: tests of N(0, I) and of independence at `CHANCE`
q2d    1       1e-6, absolute or relative
q2e    1       1e-8 for the table; the pair exact
q2f    2       mean of the bound on -log p of test pairs below `PAIRS_THRESHOLD` for the file; and images that
               the function trains on when graded below `ANOTHER_PAIRS`, derived below
=====  ======  ===========================================================================================

**q1a, derived.** With F the CDF of a piece, F(mu) = l / (l + r): the density left of the mode is 2 l / (l +
r) times that of N(mu, l^2), of which one half lies there. Left of the mode F = 2 l / (l + r) Phi((x - mu) /
l). Right of it F = (l + r erf(s / sqrt 2)) / (l + r) with s = (x - mu) / r, a sum of positive terms; 1 - 2 r
/ (l + r) Phi(-s) is the same, and cancels in float32 if l is e^14 times smaller than r. 1 - F follows from
the mirror image. The references go by masks and not by `torch.where`, and take the rest as that image's CDF.

**q1b, derived.** After k halvings the bracket is 2^-k of its length: ceil(log2(length / tolerance)) calls
make it at most the tolerance, its middle is at most half of that away; one more is allowed for rounding.

**q2b, derived.** The noise is read back from the codes, and has to be that of mean 0 and L = I. The gradient
of log q(z; phi) has a part through z and a direct one, the score, whose mean under q is zero. Without the
score the estimate is unbiased, and it is 0 for each draw where log q - log p is constant. Seminar 8's log q -
log p, differentiated as it stands, has the score's noise: it loses. Seminar 7 freezes the mean and deviation
of a q without correlations: here the precision's factor is given, and the code's root of the covariance,
L^-T, is fixed by the contract. torch's MultivariateNormal takes another root.

**q2c.** The conditional CDFs of the draws, F(z_i | earlier groups), are uniform and independent if and only
if the draws follow the prior; their normal quantiles are tested. A mixture's CDF is continuous.

**q2d, derived.** E L_K = log p + b / K, E L_(K-1) = log p + b / (K - 1): alpha / K + (1 - alpha) / (K - 1) =
0 gives alpha = K. The jackknife's remaining bias is of order 1 / K^2.

**q2e, derived.** On the line E exp(-(s - xi)^2 / 2) = exp(-s^2 / 4) / sqrt 2, as xi has variance 1 and the
kernel is sqrt(2 pi) times the density of N(0, 1), so that sqrt(2 pi) N(s; 0, 2) is left. E exp(-(xi -
xi')^2 / 2) = sqrt(2 pi) N(0; 0, 3) = 1 / sqrt 3. In the plane both are squared: exp(-|s|^2 / 4) / 2 and 1 /
3. The visible cross |s_1| = |s_2|: E k(s, s') = (5^-1/2 + 1/3) / 2, 2 E k(s, xi) = 2^-1/2, T = 0.0165.

**GAUGE_THRESHOLD.** KL(pi || p) of points without a stop; the density of the moons is known, integrated by
the package, so that the floor is 0. 31 % of the readings are stops. Measured on 20,000 points (standard error
0.001; 0.003 and 0.004 for the two wrong ones), 2,400 steps, one run each where nothing is said:

=========================================================  ==================================================
training                                                   nats above the entropy
=========================================================  ==================================================
the solution: 1 - F at a stop                              0.013 and 0.012 (the shipped file, two draws)
the same, two other seeds                                  0.016 and 0.015
the same, peak rate 1e-2                                   0.009
the same network on points that no stop hid                0.013
without the readings that are stops                        0.085
published: lecture 6's maximum likelihood on all readings  0.208
=========================================================  ==================================================

The bound lies three times above the right recipes, and below the nearest mistake by 0.035, twelve of its
standard errors.

**ANOTHER_GAUGE.** Whole moons stand in the package, and whoever trains on them by lecture 6's likelihood
writes a file that passes: 0.032 after 800 steps, one run. So the function is called as well, on 2,500
readings of a parabola with noise, 57 % of them stops, for 320 steps. After these the solution stands at
0.04 and 0.05 nats (two draws), the stops taken for readings at 0.63, and whole moons from the package at
3.44. The bound is for that one mistake only, and lets slower optimisers pass; which likelihood was
maximised is judged by the file. No stop hides the first number: alone it stands at 0.01 and 0.03 after the
solution, at 0.54 and 0.57 before any step, and at 0.74 and 0.76 if its CDF takes the place of its density.

**PAIRS_THRESHOLD.** The locked model reads codes from what came over the line, and weighs them with what was
sent: E -log(1/K sum of weights) >= -log p(x) for any q, by Jensen's inequality. Measured on 4,000 test pairs,
K = 50 (standard error of a mean 0.2), after 8 passes over 50,000 pairs on CPU cores, one-cycle rate to 3e-3:

=========================================================  ==================================================
training                                                   nats per test pair
=========================================================  ==================================================
the solution: the line in the likelihood, prior learned    82.9 and 82.2 (the shipped file, two draws)
the same, another seed                                     83.5
the same with N(0, I) for the prior                        88.2 and 87.8 (two seeds)
published: the ELBO of the pairs as they came, learned     106.7
the same with N(0, I)                                      103.7
=========================================================  ==================================================

The decoder is linear, so that the prior has to hold what the decoder cannot bend: with two hidden layers in
the decoder N(0, I) was as good after 6 passes (78.3 against 79.9, K = 100, one run each). The bound lies 2.5
nats above the worse of two right runs, and 1.8 below the better one with N(0, I), nine standard errors.
Without the line in the likelihood nothing comes near. N(0, I) was not trained for the 40 passes of `full`:
whether it then comes below the bound is not known. A density that does not integrate to one is
impossible: the masks are ours, and the file holds nothing else.

**PAIRS_GAP.** Who stands beside whom, and what the line flips, is drawn when it is graded, so nobody has the
pairs; but a file may be fitted to the test digits. Of three draws the shipped file's training pairs (standard
error 0.4) cost 1.0 to 1.6 nats more than test pairs. Four nats are six standard errors above that.

**ANOTHER_PAIRS.** The notebook makes the pairs before they go over the line, and who trains on these with
plain cross-entropy writes a file at 82.0 (one run). So the function is called as well: on 1,250 images,
each one of two random patterns, over the line, 20 epochs, N(0, I). After these what was sent costs 26 and
26 nats with the solution (two draws), 65 with its rate at 1e-3, 51 with the ELBO of what came, and 516 with
pairs of digits for targets. The bound is for that last mistake only.

**KNOWN_GAUGE, KEPT_CODE.** A bound for what is learned from nothing in a few steps has to be lenient. Who
stands at the optimum already has nothing to learn: a right function stays there, at any rate, and one with
another optimum moves away. So q1d begins at the law of its readings (after 320 steps the solution stands
0.006 to 0.027 nats above the entropy, wrong ones at 0.98 and more), and q2f at the one code with the best
ELBO, known by quadrature, with decoder and prior held fixed (after 200 steps mean and log-precision are off
by 0.008 with the solution, by 0.12 and more with a wrong noise, KL or line), for both priors. Who does
nothing passes this, and learns nothing in the other case.

**What is not sent.** q1b: targets are values at roots that are kept here, of functions whose inverse has no
formula. q1d, q2f: the points and the images by which training is judged, and the seeds of what a file is
tried on.

**NaN** fails: a comparison with it is False, so bounds are written `if not value <= bound: raise`.
**Chance.** A right sampler fails one test in 1e9; the covariance's law is asymptotic: it is given twice its
bound.
"""

import functools
import math

import numpy as np
import torch
from scipy import optimize, stats
from scipy.special import logsumexp, ndtr
from torch.nn import functional as F

from dgm_utils import data, nets
from grading.judges import (
    WATCHED,
    cheap,
    follows_generator,
    learned,
    read_into,
    same_type,
    seed,
    standard_draws,
)
from grading.questions import Case, Question, Wrong, match, take

GAUGE_THRESHOLD = 0.05  # nats above the entropy
PAIRS_THRESHOLD = 86.0  # nats per pair of digits
PAIRS_GAP = 4.0  # nats by which training pairs may be worse
ANOTHER_GAUGE = 1.0  # nats above the entropy
ANOTHER_FIRST = 0.65  # of these, by the first number alone
KNOWN_GAUGE = 0.3  # nats above the entropy, from a model that begins at 0
KEPT_CODE = 0.08  # root mean square of what a code moves that is the best one
KNOWN_WIDTHS = np.array([0.6, 0.5])  # of the law that a model has already
ANOTHER_PAIRS = 150.0  # nats per image
GROUP = np.array([3, 0, 5, 1, 7, 2, 6, 4, 0, 4, 2, 6, 1, 7, 3, 5])  # of q2f
FLIP, REACH, PIECES = 0.1, 4, 4


def loose(array: np.ndarray) -> dict[str, float]:
    """Return the tolerance that the precision of an input allows."""
    return {"rtol": 1e-4, "atol": 1e-4} if array.dtype == np.float32 else {"rtol": 1e-5, "atol": 1e-5}


def near(outputs: dict[str, np.ndarray], name: str, slope: np.ndarray, tolerance: float, what: str) -> None:
    """Raise Wrong unless a gradient is right, to a share of its largest entry."""
    found = take(outputs, name, slope.shape, what=f"the gradient {what}")
    if not np.abs(found - slope).max() <= tolerance * (1 + np.abs(slope).max()):
        raise Wrong(f"the gradient {what} is wrong")


# ---- q1a ---------------------------------------------------------------------------------------------------

MIXTURE = (
    WATCHED
    + """
_names = ("x", "logits", "means", "log_left", "log_right")
_leaves = [torch.from_numpy(inputs[_name].copy()).requires_grad_() for _name in _names]
_before = [_leaf.detach().clone() for _leaf in _leaves]
_parts = mixture(*_leaves)
outputs["changed"], outputs["tensors"] = _changed(_leaves, _before), _tensors(*_parts)
outputs["count"] = len(_parts)
for _k, _part in enumerate(_parts):
    outputs[str(_k)] = _part
    _slopes = torch.autograd.grad(_part.sum(), _leaves, retain_graph=True)
    outputs.update((f"{_name}{_k}", _slope) for _name, _slope in zip(_names, _slopes))
"""
)


def mixture_cases(rng):
    """One piece and many, shapes of all kinds, x at the modes and far away, widths that differ by e^14."""
    cases = []
    for shape, count, widths, far, kind in (
        ((60,), 1, 1, 3, "float64"),
        ((4, 5, 3), 6, 1.5, 3, "float64"),
        ((), 3, 1, 1, "float64"),
        ((1, 1), 2, 1, 3, "float64"),
        ((80,), 3, 7, 100, "float64"),
        ((80,), 4, 1, 1e4, "float64"),
        ((50, 2), 5, 1, 3, "float32"),
        ((200,), 2, 7, 30, "float32"),
        ((80,), 4, 1, 1e4, "float32"),
    ):
        wide = (*shape, count)
        one = {
            "logits": 2 * rng.normal(size=wide),
            "means": rng.normal(size=wide),
            "log_left": rng.uniform(-widths, widths, size=wide),
            "log_right": rng.uniform(-widths, widths, size=wide),
        }
        if widths == 7:  # all modes of an x at one place, so that all are within reach
            one["means"][:] = one["means"][..., :1]
            one["log_left"] = rng.choice([-7.0, 7.0], size=wide)
            one["log_right"] = -one["log_left"]
        width = np.exp(np.minimum(one["log_left"], one["log_right"]).min(-1))
        away = rng.choice([-1.0, 1.0], size=shape) * (rng.random(shape) if far < 1e4 else 1.0)
        one["x"] = np.array(one["means"][..., 0] + far * width * away)
        if shape and far < 1e4:
            one["x"].flat[0] = one["means"][..., 0].flat[0]  # at a mode
        elif shape:  # some between modes that are far away at both sides
            sides = rng.choice([-1, 1], size=(20, count))
            one["means"][:20] = one["x"][:20, None] + far * width[:20, None] * sides
        inputs = {name: np.asarray(value, kind) for name, value in one.items()}
        about = f"{count} pieces, x of shape {shape}, {kind}, up to {far:g} widths away"
        cases.append(Case(MIXTURE, inputs | {"far": np.asarray(far)}, about))
    return cases


def piece_log_cdf(away, log_left, log_right):
    """Return log F of single pieces, by masks."""
    left, right = log_left.exp(), log_right.exp()
    out, low = torch.empty_like(away), away < 0
    out[low] = (2 * left / (left + right))[low].log() + torch.special.log_ndtr((away / left)[low])
    inside = 2 * torch.special.ndtr((away / right)[~low]) - 1
    out[~low] = (left[~low] + right[~low] * inside).log() - (left + right)[~low].log()
    return out


def mixture_logs(x, logits, means, log_left, log_right):
    """Return the three logarithms; the rest is the CDF of the mirror image."""
    away = x[..., None] - means
    log_cdf = piece_log_cdf(away, log_left, log_right)
    log_rest = piece_log_cdf(-away, log_right, log_left)
    width = torch.where(away < 0, log_left, log_right)
    log_density = math.log(2) - (log_left.exp() + log_right.exp()).log() - math.log(2 * math.pi) / 2
    log_density = log_density - (away / width.exp()) ** 2 / 2
    log_weights = logits - logits.logsumexp(-1, keepdim=True)
    return [(log_weights + part).logsumexp(-1) for part in (log_cdf, log_rest, log_density)]


def mixture_verify(case, outputs):
    """Compare values and gradients with those of masks in float64."""
    names = ("x", "logits", "means", "log_left", "log_right")
    given = case.inputs["x"]
    leaves = [torch.from_numpy(case.inputs[name].astype(np.float64)).requires_grad_() for name in names]
    if take(outputs, "count", ()) != 3:
        raise Wrong("three logarithms were asked for")
    same_type(outputs, given.dtype, "0", "1", "2")
    tolerance = 1e-3 if given.dtype == np.float32 else 1e-5
    for k, (what, part) in enumerate(
        zip(("log F", "log(1 - F)", "log f"), mixture_logs(*leaves), strict=True)
    ):
        match(outputs, str(k), part.detach().numpy(), **loose(given), what=what)
        slopes = torch.autograd.grad(part.sum(), leaves, retain_graph=True)
        for name, slope in zip(names, slopes, strict=True):
            if case.inputs["far"] > 100:  # log_ndtr's gradient in float32 is rounding there
                take(outputs, f"{name}{k}", slope.shape, what=f"the gradient of {what} in {name}")
            else:
                near(outputs, f"{name}{k}", slope.numpy(), tolerance, f"of {what} in {name}")


# ---- q1b ---------------------------------------------------------------------------------------------------

SOLVE = (
    WATCHED
    + """
_one = {_name: torch.from_numpy(_value.copy()) for _name, _value in inputs.items()}
_calls, _twice, _outside = torch.zeros(len(_one["low"])), [], []
def _function(_x, _given):
    if _x.ndim != 1 or len(_x) == 0 or _given.shape != (len(_x), _one["condition"].shape[1]):
        raise ValueError("function was called with no rows, or with other shapes than the task says")
    _who = _given[:, 0].long()
    _twice.append(len(_who.unique()) != len(_who))
    _outside.append(not ((_one["low"][_who] <= _x) & (_x <= _one["high"][_who])).all())
    _calls.index_add_(0, _who, torch.ones(len(_who)))
    _away = (_x - _given[:, 1]) * _given[:, 2]
    return _given[:, 3] * (torch.asinh(_away) + 0.1 * _away) + _given[:, 4]
_arguments = [_one[_name] for _name in ("target", "low", "high", "condition")]
_before = [_value.clone() for _value in _arguments]
outputs["x"] = solve(_function, *_arguments, inputs["tolerance"].item())
outputs["changed"], outputs["tensors"] = _changed(_arguments, _before), _tensors(outputs["x"])
outputs["calls"], outputs["twice"], outputs["outside"] = _calls, any(_twice), any(_outside)
"""
)


def solve_cases(rng):
    """One example and many, brackets of one length and of very different ones, targets out of reach.

    Each row of the condition holds a number for its example, then what makes its function; its root is kept.
    """
    cases = []
    for count, tolerance, spread, reached in (
        (1, 1e-4, 0, True),
        (300, 1e-5, 0, True),
        (200, 1e-9, 4.5, True),
        (100, 2**-10, 4.5, True),
        (150, 1e-6, 2, False),
    ):
        width = 10 ** rng.uniform(-spread, spread, size=count)
        low = rng.normal(size=count) - rng.uniform(0.2, 0.8, size=count) * width
        if tolerance == 2**-10:  # exact in binary: one bracket is as long as the tolerance, and takes no call
            low[0], width[0] = 1, tolerance
        high = low + width
        root, center = low + width * rng.uniform([[0.01], [-0.5]], [[0.99], [1.5]], size=(2, count))
        level, size = rng.normal(size=count), rng.uniform(0.5, 5, size=count)
        slope = 10 ** rng.uniform(-1, 1, size=count) / width
        condition = np.stack([np.arange(count), center, slope, size, level], 1)
        away = (root - center) * slope
        target = size * (np.arcsinh(away) + 0.1 * away) + level
        if not reached:
            target = rng.choice([-np.inf, -1e9, 1e9, np.inf], size=count)
            root = np.where(target < 0, low, high)
        inputs = {"target": target, "low": low, "high": high, "condition": condition}
        inputs["tolerance"] = np.asarray(tolerance)
        about = f"{count} examples, tolerance {tolerance:g}" + ("" if reached else ", targets out of reach")
        cases.append(Case(SOLVE, inputs, about, kept={"root": root}))
    return cases


def solve_verify(case, outputs):
    """Compare with the root from which the target was computed, and count the calls."""
    one, tolerance = case.inputs, case.inputs["tolerance"].item()
    if take(outputs, "twice", ()):
        raise Wrong("an example stands twice in one call")
    if take(outputs, "outside", ()):
        raise Wrong("function was called outside the bracket of an example")
    x = take(outputs, "x", one["low"].shape)
    same_type(outputs, np.dtype("float64"), "x")
    if not ((one["low"] <= x) & (x <= one["high"])).all():
        raise Wrong("a solution lies outside its bracket")
    if not (np.abs(x - case.kept["root"]) <= 1.001 * tolerance + 1e-13).all():
        raise Wrong("solutions are further away than the tolerance")
    width = one["high"] - one["low"]
    allowed = np.where(width <= tolerance, 0, np.ceil(np.log2(width / tolerance)) + 1)
    if not (take(outputs, "calls", allowed.shape) <= allowed).all():
        raise Wrong("examples stand in more calls than the budget allows")


# ---- q1c ---------------------------------------------------------------------------------------------------

GRAPH = (
    WATCHED
    + """
_parents = [tuple(int(_k) for _k in _row if _k >= 0) for _row in inputs["parents"]]
class _Network(torch.nn.Module):
    def __init__(self, _i):
        super().__init__()
        _weight = inputs["weight"][_i][:, : len(_parents[_i])].copy()
        self.weight = torch.nn.Parameter(torch.from_numpy(_weight))
        self.bias = torch.nn.Parameter(torch.from_numpy(inputs["bias"][_i].copy()))
        self.i, self.calls = _i, 0
    def forward(self, _values):
        if _values.ndim != 2 or _values.shape[1] != len(_parents[self.i]):
            raise ValueError("a network got another number of values than it has parents")
        self.calls += 1
        return torch.tanh(_values @ self.weight.T) + self.bias
_counts = [0, 0]
def _transform(_x, _given):
    _counts[0] += 1
    if _x.shape != _given.shape[:1]:
        raise ValueError("transform got other shapes than the task says")
    _s = (_x - _given[:, 0]) * _given[:, 1].exp()
    _log_u = -(-_s).exp()
    _log_rest = (-torch.expm1(_log_u)).log()
    return _log_u, _log_rest, _log_u - _s + _given[:, 1]
def _quantile(_y, _given):
    _counts[1] += 1
    _log_u = torch.nn.functional.logsigmoid(_y)
    return _given[:, 0] - (-_log_u).log() * (-_given[:, 1]).exp()
_networks = [_Network(_i) for _i in range(len(_parents))]
_flow = GraphFlow(_networks, _parents, _transform, _quantile)
_other_parents = _parents != [tuple(int(_k) for _k in _row if _k >= 0) for _row in inputs["parents"]]
outputs["parameters"] = sum(_parameter.numel() for _parameter in _flow.parameters())
_x, _y = (torch.from_numpy(inputs[_name].copy()) for _name in ("x", "y"))
_leaf = _x.clone().requires_grad_()
_z, _log_det = _flow(_leaf)
_found = [_module for _module in _flow.modules() if isinstance(_module, _Network)]
_found.sort(key=lambda _one: _one.i)  # a flow may keep them in the order of the graph
outputs["forward_calls"], outputs["transforms"] = [_one.calls for _one in _found], _counts[0]
outputs["z"], outputs["log_det"] = _z, _log_det
_loss = (_z * _y).sum() + _log_det.sum()
outputs["slope"], outputs["slope_bias"] = torch.autograd.grad(_loss, [_leaf, _found[0].bias])
for _one in _found:
    _one.calls = 0
_given = _y.clone()
outputs["back"] = _flow.inverse(_given)
outputs["changed"] = _other_parents or _changed([_given, _leaf], [_y, _x])
outputs["tensors"] = _tensors(_z, _log_det, outputs["back"])
outputs["inverse_calls"], outputs["quantiles"] = [_one.calls for _one in _found], _counts[1]
"""
)
CIRCLE = """
_parents = [tuple(int(_k) for _k in _row if _k >= 0) for _row in inputs["parents"]]
import torch
try:
    GraphFlow([torch.nn.Linear(max(len(_some), 1), 2) for _some in _parents], _parents, None, None)
    outputs["refused"] = 0
except ValueError:
    outputs["refused"] = 1
"""


def graph_cases(rng):
    """Chains, stars and graphs whose numbers are shuffled, so that parents stand in any order."""
    cases = []
    for count, m, most in (25, 1, 0), (25, 2, 1), (25, 5, 1), (1, 4, 3), (25, 7, 2), (25, 8, 7):
        order = rng.permutation(m) if m > 2 else np.arange(m)[::-1]
        parents = np.full((m, max(m, 1)), -1)
        for place in range(1, m):
            heard = min(place, most) if most in (1, m - 1) else rng.integers(0, min(place, most) + 1)
            some = order[place - 1 : place] if most == 1 else order[rng.permutation(place)[:heard]]
            parents[order[place], : len(some)] = some
        one = {
            "parents": parents,
            "weight": rng.normal(size=(m, 2, m)),
            "bias": rng.normal(size=(m, 2)) / 2,
            "x": rng.normal(size=(count, m)),
            "y": rng.normal(size=(count, m)),
        }
        cases.append(Case(GRAPH, one, f"{count} examples, {m} variables with up to {most} parents"))
    for rows in [[-1, -1, -1], [2, 0, -1], [3, -1, -1], [1, -1, -1]], [[1, -1], [0, -1]], [[-1], [1]]:
        cases.append(Case(CIRCLE, {"parents": np.array(rows)}, "a graph with a circle"))
    return cases


def graph_law(one, i, x):
    """Return location and log-rate of variable i, (B,) each, as tensors."""
    some = one["parents"][i]
    some = some[some >= 0]
    out = torch.tanh(x[:, some] @ one["weight"][i][:, : len(some)].T) + one["bias"][i]
    return out[:, 0], out[:, 1]


def graph_verify(case, outputs):
    """Walk along the graph by asking for each variable's parents first."""
    if case.driver == CIRCLE:
        if take(outputs, "refused", ()) != 1:
            raise Wrong("the flow of a graph with a circle was built, without a ValueError")
        return
    one = {
        name: value if name == "parents" else torch.from_numpy(value) for name, value in case.inputs.items()
    }
    m = len(one["parents"])
    if take(outputs, "parameters", ()) != sum(2 * (row >= 0).sum() + 2 for row in one["parents"]):
        raise Wrong("the flow has other parameters than those of its networks")
    for name in "forward_calls", "inverse_calls":
        if not (take(outputs, name, (m,)) == 1).all():
            raise Wrong("a network was not called once in each direction")
    if take(outputs, "transforms", ()) != m or take(outputs, "quantiles", ()) != m:
        raise Wrong("transform or quantile was not called once for each variable")
    x = one["x"].clone().requires_grad_()
    bias = one["bias"].clone().requires_grad_()
    z, total = [], 0.0
    for i in range(m):
        location, log_rate = graph_law(one | {"bias": bias}, i, x)
        s = (x[:, i] - location) * log_rate.exp()
        log_u = -(-s).exp()  # a Gumbel law
        z.append(log_u - torch.log(-torch.expm1(log_u)))
        total = total + log_u - s + log_rate
    z = torch.stack(z, 1)
    same_type(outputs, np.dtype("float64"), "z", "log_det", "back")
    match(outputs, "z", z.detach().numpy(), rtol=1e-8, atol=1e-8, what="the logits of u")
    match(outputs, "log_det", total.detach().numpy(), rtol=1e-8, atol=1e-8, what="log_det")
    slope, in_bias = torch.autograd.grad((z * one["y"]).sum() + total.sum(), [x, bias])
    near(outputs, "slope", slope.numpy(), 1e-6, "in x")
    near(outputs, "slope_bias", in_bias[0].numpy(), 1e-6, "in a network")
    back, done = torch.zeros_like(one["y"]), set()

    def draw(i):
        for k in one["parents"][i]:
            if k >= 0 and k not in done:
                draw(k)
        location, log_rate = graph_law(one, i, back)
        log_u = -torch.log1p(torch.exp(-one["y"][:, i]))
        back[:, i] = location - torch.log(-log_u) * torch.exp(-log_rate)
        done.add(i)

    for i in range(m):
        if i not in done:
            draw(i)
    match(outputs, "back", back.numpy(), rtol=1e-8, atol=1e-8, what="inverse(y)")


# ---- q1d ---------------------------------------------------------------------------------------------------


class MoonNetwork(torch.nn.Module):
    """The locked network of q1d."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(4, 12))
        self.second = nets.mlp(1, 64, 64, 48)

    def log_prob(self, x):
        """Return log p(x) (B,)."""
        first = mixture_logs(x[:, 0], *self.first.expand(len(x), 4, 12).unbind(1))[2]
        second = self.second(x[:, :1]).unflatten(1, (4, 12)).unbind(1)
        return first + mixture_logs(x[:, 1], *second)[2]


TRAIN_GAUGE = (
    WATCHED
    + """
_readings, _stop = (torch.from_numpy(inputs[_name].copy()) for _name in ("readings", "stop"))
_given = [_readings.clone(), _stop.clone()]
torch.manual_seed(inputs["seed"].item())
_model = MoonNetwork()
if "law" in inputs:
    with torch.no_grad():
        _model.first.copy_(torch.from_numpy(inputs["law"][0]))
        _model.second[-1].weight.zero_()
        _model.second[-1].bias.copy_(torch.from_numpy(inputs["law"][1].ravel()))
train_gauge(_model, *_given, 320)
outputs["changed"] = _changed(_given, [_readings, _stop])
with torch.no_grad():
    for _name, _law in zip(("first", "second"), _model.laws(torch.from_numpy(inputs["x_1"].copy()))):
        outputs[_name] = torch.stack(list(_law))
"""
)


def gauge_cases(rng):
    """One draw of new points for the file; readings of another law, to be learned, and of one to be kept."""
    x = rng.normal(size=(4000, 2)) * [0.6, 0.25]
    x[:, 1] += 0.5 - x[:, 0] ** 2
    stop = rng.uniform(-0.8, 0.9, size=2500)
    readings = np.stack([x[:2500, 0], np.minimum(x[:2500, 1], stop)], axis=1)
    another = {"readings": readings, "stop": stop, "x_1": x[2500:, 0]}
    another = {name: value.astype(np.float32) for name, value in another.items()}
    known = rng.normal(size=(6000, 2)) * KNOWN_WIDTHS
    stop = rng.uniform(-0.5, 0.3, size=2500)
    readings = np.stack([known[:2500, 0], np.minimum(known[:2500, 1], stop)], axis=1)
    law = np.stack(
        [np.stack([np.zeros(12), np.zeros(12), *2 * [np.full(12, np.log(s))]]) for s in KNOWN_WIDTHS]
    )
    kept_law = {"readings": readings, "stop": stop, "x_1": known[2500:, 0], "law": law}
    kept_law = {name: value.astype(np.float32) for name, value in kept_law.items()}
    return [
        Case("", about="20,000 new points without a stop", kept={"seed": seed(rng)}),
        Case(
            TRAIN_GAUGE,
            another | {"seed": seed(rng)},
            "train_gauge, readings of another law",
            kept={"x": x[2500:]},
        ),
        Case(
            TRAIN_GAUGE,
            kept_law | {"seed": seed(rng)},
            "train_gauge, a model that has the law of the readings already",
            kept={"x": known[2500:]},
        ),
    ]


@torch.no_grad()
def gauge_verify(case, outputs, weights):
    """Compare with the exact density of new points; and what the function has learned, likewise."""
    if case.driver:
        x = torch.from_numpy(case.kept["x"])
        laws = [
            torch.from_numpy(take(outputs, name, (4, len(x), 12), what=f"the trained model's {name} law"))
            for name in ("first", "second")
        ]
        log_p = np.stack([mixture_logs(x[:, k], *law)[2] for k, law in enumerate(laws)])
        if "law" in case.inputs:
            log_pi = stats.norm.logpdf(x.numpy() / KNOWN_WIDTHS).sum(1) - np.log(KNOWN_WIDTHS).sum()
            if not (log_pi - log_p.sum(0)).mean() < KNOWN_GAUGE:
                raise Wrong("the law of the readings is no longer that of the model after 320 steps")
            return
        white = np.stack([x[:, 0] / 0.6, (x[:, 1] - 0.5 + x[:, 0] ** 2) / 0.25])
        log_pi = -(white**2) / 2 - np.log([[0.6], [0.25]]) - math.log(2 * math.pi) / 2
        first, second = (log_pi - log_p).mean(1)
        if not first + second < ANOTHER_GAUGE:
            raise Wrong(f"after 320 steps the model is more than {ANOTHER_GAUGE:g} nats above the entropy")
        if not first < ANOTHER_FIRST:
            raise Wrong("after 320 steps the law of the first number fits worse than before them")
        return
    model = MoonNetwork().double()
    read_into(model, weights)
    x = data.moons().sample(20_000, seed=int(case.kept["seed"])).double()
    kl = (data.moons().log_prob(x) - model.log_prob(x)).mean().item()
    cheap(kl, GAUGE_THRESHOLD, "nats above the entropy of the moons")


# ---- q2a ---------------------------------------------------------------------------------------------------

MASKS = (
    WATCHED
    + """
_group = torch.from_numpy(inputs["group"].copy())
_windows = [torch.from_numpy(inputs[f"windows{_k}"].copy()) for _k in range(inputs["layers"].item())]
_before = [_value.clone() for _value in [_group, *_windows]]
_masks = prior_masks(_group, inputs["reach"].item(), list(_windows))
outputs["changed"], outputs["tensors"] = _changed([_group, *_windows], _before), _tensors(*_masks)
outputs["count"] = len(_masks)
outputs.update((f"mask{_k}", _mask) for _k, _mask in enumerate(_masks))
"""
)


def masks_cases(rng):
    """Take groups of one size and of many, short and long reach, none to three layers of windows."""
    cases = []
    for d, groups, reach, widths in (
        (4, 4, 1, [12]),
        (6, 3, 2, [20, 15]),
        (9, 4, 1, [30, 25, 20]),
        (5, 5, 9, [16, 16]),
        (7, 3, 1, []),
        (1, 1, 1, [3]),
    ):
        group = rng.permutation(np.concatenate([np.arange(groups), rng.integers(groups, size=d - groups)]))
        inputs = {"group": group, "reach": np.asarray(reach), "layers": np.asarray(len(widths))}
        for k, width in enumerate(widths):  # some lie partly or wholly where there is no group
            inputs[f"windows{k}"] = np.sort(rng.integers(-1, groups + 2, size=(width, 2)), axis=1)
        about = f"{d} dimensions in {groups} groups, reach {reach}, layers of {widths}"
        cases.append(Case(MASKS, inputs, about))
    return cases


def masks_of(group, reach, windows):
    """Return the masks, connection by connection: a unit may be told what stays in its window."""
    below, masks = [(g, g) for g in group], []
    for layer in [*[list(map(tuple, one)) for one in windows], [(g - reach, g - 1) for g in group]]:
        masks.append(
            np.array([[low <= first and last <= high for first, last in below] for low, high in layer])
        )
        below = layer
    return masks


def masks_verify(case, outputs):
    """Compare mask by mask."""
    windows = [case.inputs[f"windows{k}"] for k in range(int(case.inputs["layers"]))]
    expected = masks_of(case.inputs["group"], int(case.inputs["reach"]), windows)
    if take(outputs, "count", ()) != len(expected):
        raise Wrong("the number of masks is wrong")
    same_type(outputs, np.dtype("bool"), *(f"mask{k}" for k in range(len(expected))))
    for k, mask in enumerate(expected):
        found = take(outputs, f"mask{k}", mask.shape, what=f"mask {k}") > 0
        if (found & ~mask).any():
            raise Wrong(f"mask {k} keeps connections that a rule forbids")
        if (mask & ~found).any():
            raise Wrong(f"mask {k} lacks connections that no rule forbids")


# ---- q2b ---------------------------------------------------------------------------------------------------

PRIOR = (
    WATCHED
    + """
_outputs, _z = (torch.from_numpy(inputs[_name].copy()) for _name in ("outputs", "z"))
_given = [_outputs.clone().requires_grad_(), _z.clone().requires_grad_()]
_value = log_prior(*_given)
outputs["changed"] = _changed(_given, [_outputs, _z])
outputs["log_p"], outputs["tensors"] = _value, _tensors(_value)
if _outputs.isfinite().all():
    outputs["slope_outputs"], outputs["slope_z"] = torch.autograd.grad(_value.sum(), _given)
"""
)
DRAWN = (
    WATCHED
    + """
_names = ("mean", "factor", "A", "B", "c")
_leaf = {_name: torch.from_numpy(inputs[_name].copy()).requires_grad_() for _name in _names}
_calls = []
def _network(_z):
    _calls.append(1)
    return (torch.tanh(_z @ _leaf["A"]) @ _leaf["B"] + _leaf["c"]).unflatten(-1, (_z.shape[-1], -1))
def _drawn(_seed):
    _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    return prior_kl(_network, _leaf["mean"], _leaf["factor"], _generator)
_before = [_leaf[_name].detach().clone() for _name in _names]
outputs["first"], outputs["kl"] = _drawn(0)
outputs["calls"], outputs["changed"] = len(_calls), _changed(_leaf.values(), _before)
outputs["tensors"] = _tensors(outputs["first"], outputs["kl"])
_zeros, _one = torch.zeros_like(_leaf["mean"]), torch.eye(_leaf["mean"].shape[1]).to(_leaf["mean"])
_plain = _zeros, _one.expand(len(_zeros), -1, -1).clone()
outputs["noise"] = prior_kl(_network, *_plain, torch.Generator().manual_seed(inputs["seed"].item()))[0]
outputs["again"], outputs["other"] = _drawn(0)[0], _drawn(1)[0]
_generator = torch.Generator().manual_seed(inputs["seed"].item())
_given = _leaf["mean"], _leaf["factor"], _generator
outputs["next"] = [prior_kl(_network, *_given)[0] for _ in range(2)][1]
_slopes = torch.autograd.grad(_drawn(0)[1].sum(), list(_leaf.values()))
outputs.update((f"slope_{_name}", _slope) for _name, _slope in zip(_names, _slopes))
"""
)


def prior_cases(rng):
    """Densities near and far, sharp and flat pieces, none, in both float types; then draws and their KL."""
    cases = []
    for shape, d, C, far, kind in (
        ((40,), 3, 2, 1, "float64"),
        ((2, 3), 5, 4, 1, "float64"),
        ((1,), 2, 2, 1, "float64"),
        ((), 1, 1, 1, "float64"),
        ((60,), 4, 3, 300, "float64"),
        ((60,), 4, 3, 1, "float32"),
        ((60,), 2, 5, 300, "float32"),
    ):
        logits = rng.normal(size=(*shape, d, C)) * (300 if far > 1 else 2)
        if shape == (2, 3):
            logits[..., 0] = -np.inf
        elif shape == (1,):
            logits[:] = -np.inf
        precision = rng.uniform(-20, 20, size=logits.shape) if far > 1 else rng.normal(size=logits.shape)
        one = {
            "outputs": np.concatenate([logits, 2 * rng.normal(size=logits.shape), precision], -1),
            "z": far * rng.normal(size=(*shape, d)).clip(-3, 3),
        }
        about = f"{C} pieces, codes of shape {(*shape, d)}, {kind}" + (", far out" if far > 1 else "")
        cases.append(Case(PRIOR, {name: value.astype(kind) for name, value in one.items()}, about))
    for count, d, C, kind, law in (
        (800, 3, 2, "float64", ""),
        (30, 6, 4, "float32", ""),
        (1, 2, 1, "float64", ""),
        (5, 2, 2, "float64", ", q is the prior"),
    ):
        below = np.tril(rng.normal(size=(count, d, d)), -1) / 3
        one = {
            "mean": 2 * rng.normal(size=(count, d)),
            "factor": (below + np.eye(d)) * np.exp(rng.uniform(-1, 2, size=(count, 1, d))),
            "A": rng.normal(size=(d, 8)),
            "B": rng.normal(size=(8, d * 3 * C)) / 2,
            "c": rng.normal(size=d * 3 * C),
        }
        if law:  # pieces like the anchor
            one = {name: 0 * value for name, value in one.items()} | {"factor": np.stack([np.eye(d)] * count)}
        one = {name: value.astype(kind) for name, value in one.items()}
        about = f"{count} draws of {d} dimensions, {kind}{law}"
        cases.append(Case(DRAWN, one | {"seed": seed(rng)}, about))
    return cases


def prior_log(outputs, z):
    """Return log p(z), piece by piece, as a tensor."""
    C = outputs.shape[-1] // 3
    joint, weights = [-(z**2) / 2], [torch.zeros_like(z)]
    for c in range(C):
        logit, mean, log_precision = (outputs[..., c + k * C] for k in range(3))
        joint.append(logit + log_precision / 2 - log_precision.exp() * (z - mean) ** 2 / 2)
        weights.append(logit)
    each = torch.stack(joint).logsumexp(0) - torch.stack(weights).logsumexp(0) - math.log(2 * math.pi) / 2
    return each.sum(-1)


def prior_verify(case, outputs):
    """Compare with sums over pieces in float64, and judge the noise of the draws."""
    one = {n: torch.from_numpy(v.astype(np.float64)) for n, v in case.inputs.items() if n != "seed"}
    if case.driver == PRIOR:
        dtype = case.inputs["z"].dtype
        same_type(outputs, dtype, "log_p")
        leaves = [one["outputs"].requires_grad_(), one["z"].requires_grad_()]
        value = prior_log(*leaves)
        match(outputs, "log_p", value.detach().numpy(), **loose(case.inputs["z"]), what="log p")
        if np.isfinite(case.inputs["outputs"]).all():
            tolerance = 1e-3 if dtype == np.float32 else 1e-5
            for name, slope in zip(("outputs", "z"), torch.autograd.grad(value.sum(), leaves), strict=True):
                near(outputs, f"slope_{name}", slope.numpy(), tolerance, f"of log p in {name}")
        return
    dtype = case.inputs["mean"].dtype
    same_type(outputs, dtype, "first", "kl")
    if take(outputs, "calls", ()) != 1:
        raise Wrong("the network was not called once")
    follows_generator(outputs, "codes")
    z = torch.from_numpy(take(outputs, "first", case.inputs["mean"].shape, what="codes"))
    noise = torch.einsum("bji,bj->bi", one["factor"], z - one["mean"])
    what = "L^T (z - mean) against the noise that the same state gives with L = I"
    close = {"rtol": 1e-2, "atol": 1e-3} if dtype == np.float32 else {}
    match(outputs, "noise", noise.numpy(), **close, what=what)
    if len(z) > 100:
        standard_draws(noise.numpy(), "codes")
    for value in one.values():
        value.requires_grad_()
    z = one["mean"] + torch.einsum("bji,bj->bi", torch.linalg.inv(one["factor"]), noise)
    given = (torch.tanh(z @ one["A"]) @ one["B"] + one["c"]).unflatten(-1, (z.shape[1], -1))
    fixed = one["factor"].detach()  # the path, without the score
    back = torch.einsum("bji,bj->bi", fixed, z - one["mean"].detach())
    log_q = torch.linalg.slogdet(fixed)[1] - (back**2 + math.log(2 * math.pi)).sum(1) / 2
    kl = log_q - prior_log(given, z)
    match(outputs, "kl", kl.detach().numpy(), **loose(case.inputs["mean"]), what="the estimate of the KL")
    for name, slope in zip(one, torch.autograd.grad(kl.sum(), list(one.values())), strict=True):
        tolerance = 1e-3 if dtype == np.float32 else 1e-5
        if name == "factor":  # what stands above the diagonal is 0, whatever its gradient may be
            found = take(outputs, "slope_factor", slope.shape, what="the gradient of the KL in factor")
            outputs |= {"slope_factor": np.tril(found)}
            slope = slope.tril()
        what = name if name in ("mean", "factor") else "what makes the network"
        near(outputs, f"slope_{name}", slope.numpy(), tolerance, f"of the KL in {what}")


# ---- q2c ---------------------------------------------------------------------------------------------------

SAMPLE = (
    WATCHED
    + """
_one = {_name: torch.from_numpy(_value.copy()) for _name, _value in inputs.items()}
_earlier, _calls = (_one["group"][:, None] > _one["group"]).float(), []
_bad, _miscalled, _before = [], [], [_one["group"].clone()]
def _network(_z):
    _bad.append(_z.dtype != torch.float32 or not _z.isfinite().all())
    _calls.append(len(_z))
    _heard = torch.einsum("nj,ij,jk->nik", _z, _earlier, _one["A"])
    return torch.einsum("nik,ikp->nip", torch.tanh(_heard), _one["B"]) + _one["c"]
_groups = int(_one["group"].max()) + 1
def _drawn(_n, _seed):
    _calls.clear()
    _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    _z = sample_prior(_network, _one["group"], _n, _generator)
    _miscalled.append(_calls != [_n] * _groups)
    return _z
for _name, _n, _seed in ("first", 50, 0), ("again", 50, 0), ("other", 50, 1), ("many", 4000, 2):
    outputs[_name] = _drawn(_n, _seed)
_generator = torch.Generator().manual_seed(inputs["seed"].item())
outputs["next"] = [sample_prior(_network, _one["group"], 50, _generator) for _ in range(2)][1]
outputs["single"] = torch.cat([sample_prior(_network, _one["group"], 1, _generator) for _ in range(400)])
outputs["bad"], outputs["miscalled"] = any(_bad), any(_miscalled)
outputs["changed"] = _changed([_one["group"]], _before)
"""
)


def sample_cases(rng):
    """Take groups of one size and of many, one group, pieces that are not there."""
    cases = []
    for d, groups, C in (1, 1, 2), (4, 4, 3), (6, 2, 2), (7, 4, 1), (5, 1, 3):
        group = rng.permutation(np.concatenate([np.arange(groups), rng.integers(groups, size=d - groups)]))
        scale = np.repeat([1.0, 2.0, 0.5], C)
        c = scale * rng.normal(size=(d, 3 * C)) + np.repeat([0.0, 0.0, 1.5], C)
        if C == 3:
            c[:, 0] = -np.inf
        one = {"A": rng.normal(size=(d, 4)), "B": scale * rng.normal(size=(d, 4, 3 * C)), "c": c}
        one = {name: value.astype(np.float32) for name, value in one.items()}
        about = f"{d} dimensions in {groups} groups, {C} pieces"
        cases.append(Case(SAMPLE, one | {"group": group, "seed": seed(rng)}, about))
    return cases


def sample_verify(case, outputs):
    """Take the conditional CDFs of the draws, and test their normal quantiles."""
    one = case.inputs
    group, C = one["group"], one["c"].shape[1] // 3
    follows_generator(outputs, "codes")
    same_type(outputs, np.dtype("float32"), "first", "many", "single")
    if take(outputs, "miscalled", ()):
        raise Wrong("the network was not called once for each group, with all codes")
    if take(outputs, "bad", ()):
        raise Wrong("the network got numbers that are not finite, or not float32")
    for name, n, what in ("many", 4000, "codes"), ("single", 400, "codes drawn one by one"):
        z = take(outputs, name, (n, len(group)), what=what)
        u = np.empty_like(z)
        for i, g in enumerate(group):
            heard = np.tanh((z * (group < g)) @ one["A"].astype(np.float64))
            given = heard @ one["B"][i].astype(np.float64) + one["c"][i].astype(np.float64)
            logits = np.concatenate([np.zeros((n, 1)), given[:, :C]], 1)
            weights = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
            mean = np.concatenate([np.zeros((n, 1)), given[:, C : 2 * C]], 1)
            rate = np.exp(np.concatenate([np.zeros((n, 1)), given[:, 2 * C :]], 1) / 2)
            u[:, i] = (weights * ndtr((z[:, i : i + 1] - mean) * rate)).sum(1)
        standard_draws(stats.norm.ppf(u.clip(1e-15, 1 - 1e-15)), what)


# ---- q2d ---------------------------------------------------------------------------------------------------

JACKKNIFE = (
    WATCHED
    + """
_log_w = torch.from_numpy(inputs["log_w"].copy())
_given = _log_w.clone()
outputs["bound"], outputs["corrected"] = jackknife(_given)
outputs["changed"] = _changed([_given], [_log_w])
outputs["tensors"] = _tensors(outputs["bound"], outputs["corrected"])
"""
)


def jackknife_cases(rng):
    """Few weights and many, weights of one size and of very different ones, one that dominates."""
    cases = []
    for K, B, spread, top in (
        (2, 3, 1, 0),
        (5, 1, 3, 0),
        (40, 30, 1, 0),
        (200, 6, 30, 0),
        (30, 10, 1, 400),
        (3000, 200, 2, 0),
    ):
        log_w = spread * rng.normal(size=(K, B)) + rng.normal(scale=200, size=B)
        log_w[rng.integers(K, size=B), np.arange(B)] += top
        about = f"K = {K}, {B} examples" + (", one weight dominates" if top else "")
        cases.append(Case(JACKKNIFE, {"log_w": log_w}, about))
    return cases


def jackknife_verify(case, outputs):
    """Leave the weights out one by one; where there are many, take them from the sum, but for the largest."""
    log_w = case.inputs["log_w"]
    K, B = log_w.shape
    total = logsumexp(log_w, axis=0)
    if K <= 200:
        left_out = np.stack([logsumexp(np.delete(log_w, k, axis=0), axis=0) for k in range(K)])
    else:
        top = log_w.argmax(0)
        others = log_w.copy()
        others[top, np.arange(B)] = -np.inf
        left_out = total + np.log1p(-np.exp(np.minimum(log_w - total, -1e-9)))
        left_out[top, np.arange(B)] = logsumexp(others, axis=0)
    bound = total - math.log(K)
    corrected = K * bound - (K - 1) * (left_out - math.log(K - 1)).mean(0)
    same_type(outputs, np.dtype("float64"), "bound", "corrected")
    match(outputs, "bound", bound, rtol=1e-6, atol=1e-6, what="the bound")
    match(outputs, "corrected", corrected, rtol=1e-6, atol=1e-6, what="the corrected estimate")


# ---- q2e ---------------------------------------------------------------------------------------------------

PAIR = (
    WATCHED
    + """
_z = torch.from_numpy(inputs["z"].copy())
_given = _z.clone()
_pair, outputs["table"] = farthest_pair(_given)
outputs["changed"], outputs["tensors"] = _changed([_given], [_z]), _tensors(outputs["table"])
outputs["two_ints"] = type(_pair) is tuple and [type(_one) for _one in _pair] == [int, int]
outputs["pair"] = torch.tensor(_pair)
outputs["again"] = outputs["table"] if len(_z) > 50 else farthest_pair(_z)[1]
"""
)


def pair_cases(rng):
    """Few codes and many, pairs that only together are not normal, codes that are far away, or too narrow.

    Normal quantiles in the order of a Latin square are more regular than chance, so that every T is negative
    (-0.013 to -0.008): neither a diagonal of zeros nor the largest |T| may be taken for the largest T.
    """
    cases = []
    quantiles = stats.norm.ppf((np.arange(50) + 0.5) / 50)
    regular = np.stack([quantiles[np.arange(50) * step % 50] for step in (1, 7, 11, 13)], axis=1)
    regular = regular[rng.permutation(50)][:, rng.permutation(4)]
    cases.append(Case(PAIR, {"z": regular}, "50 codes of 4 dimensions, more regular than chance"))
    for N, d, kind in (
        (2, 2, "normal"),
        (5, 3, "normal"),
        (300, 8, "cross"),
        (400, 6, "ring"),
        (200, 5, "narrow"),
        (50, 20, "far"),
        (1000, 20, "normal"),
    ):
        z = rng.normal(size=(N, d))
        i, j = rng.permutation(d)[:2]
        if kind == "cross":
            z[:, j] = np.where(rng.random(N) < 0.5, z[:, i], -z[:, i])
        elif kind == "ring":
            z[:, [i, j]] *= 1.3 / np.linalg.norm(z[:, [i, j]], axis=1, keepdims=True)
        elif kind == "narrow":
            z[:, i] *= 0.3
        elif kind == "far":
            z *= 30 * rng.random(d)
        cases.append(Case(PAIR, {"z": z}, f"{N} codes of {d} dimensions, {kind}"))
    return cases


def pair_verify(case, outputs):
    """Go through the pairs one by one: few codes in the plane, many by products of kernels on the line."""
    z = case.inputs["z"]
    N, d = z.shape
    squares = [(column[:, None] - column) ** 2 for column in z.T]
    kernels = [np.exp(-square / 2) for square in squares]
    table = np.zeros((d, d))
    for i in range(d):
        for j in range(i + 1, d):
            if N <= 400:
                within = np.exp(-(squares[i] + squares[j]) / 2).sum() - N
            else:
                within = np.vdot(kernels[i], kernels[j]) - N
            across = np.exp(-(z[:, i] ** 2 + z[:, j] ** 2) / 4).mean() / 2
            table[i, j] = table[j, i] = within / (N * (N - 1)) - 2 * across + 1 / 3
    same_type(outputs, np.dtype("float64"), "table")
    match(outputs, "table", table, rtol=0, atol=1e-8, what="the table of squared distances")
    found = outputs["table"]
    if found.diagonal().any() or not np.abs(found - found.T).max() <= 1e-13:
        raise Wrong("the table is not symmetric, or not 0 on its diagonal")
    if not np.array_equal(found, outputs["again"]):
        raise Wrong("the same codes give two tables: something is drawn")
    if not take(outputs, "two_ints", ()):
        raise Wrong("the pair is not a tuple of two ints")
    upper = np.where(np.triu(np.ones((d, d)), 1) > 0, table, -np.inf)
    i, j = take(outputs, "pair", (2,), what="the pair").astype(int)
    if not (0 <= i < j < d and upper[i, j] >= upper.max() - 1e-8):
        raise Wrong("the pair is not the farthest one")


# ---- q2f ---------------------------------------------------------------------------------------------------


class PairVAE(torch.nn.Module):
    """The locked model of q2f, with our masks."""

    def __init__(self):
        super().__init__()
        self.encoder = nets.mlp(392, 300, 300, 32, activation=torch.nn.Tanh)
        self.decoder = torch.nn.Linear(16, 392)
        self.network = torch.nn.Module()
        full = [(max(0, g - REACH), g - 1) for g in range(1, 8)]
        short = [(low, high) for high in range(7) for low in range(max(0, high + 1 - REACH), high + 1)]
        windows = np.array([(full * 3 + short)[k % (21 + len(short))] for k in range(128)])
        masks = masks_of(GROUP, REACH, [windows, windows])
        masks[-1] = masks[-1].repeat(3 * PIECES, axis=0)
        self.network.layers = torch.nn.ModuleList(torch.nn.Linear(*mask.T.shape) for mask in masks)
        self.masks = [torch.from_numpy(mask).float() for mask in masks]

    def log_prior(self, z):
        """Return log p(z), (..., 16) to (...)."""
        h = z
        for k, (layer, mask) in enumerate(zip(self.network.layers, self.masks, strict=True)):
            h = F.linear(torch.tanh(h) if k else h, layer.weight * mask, layer.bias)
        return prior_log(h.unflatten(-1, (16, 3 * PIECES)), z)


@functools.cache
def digits(part: str) -> data.Images:
    """Return a part of MNIST."""
    return getattr(data.load_images("mnist"), part)


def pairs_of(part: str, n: int, rng: np.random.Generator) -> torch.Tensor:
    """Return n pairs of digits of a part, as in the notebook, float (n, 392)."""
    some = digits(part)
    small = F.avg_pool2d(some.images.float(), 2).to(torch.uint8)[:, 0] > 100
    labels = some.labels.numpy()
    left = rng.permutation(len(labels))[:n]
    right = [rng.choice(np.flatnonzero(labels == (labels[k] + 1) % 10)) for k in left]
    return torch.cat([small[left], small[right]], 2).flatten(1).float()


TRAIN_PAIRS = (
    WATCHED
    + """
_noisy = torch.from_numpy(inputs["noisy"].copy())
_given = _noisy.clone()
torch.manual_seed(inputs["seed"].item())
_model = new_model(learned=False)
train_pairs(_model, _given, 20)
outputs["changed"] = _changed([_given], [_noisy])
with torch.no_grad():
    outputs["logits"] = _model.decode(_model.encode(torch.from_numpy(inputs["came"].copy()))[0])
"""
)

KEEP_PAIRS = """
import torch as _torch
class _Code(_torch.nn.Module):
    def __init__(self, _code):
        super().__init__()
        self.code = _torch.nn.Parameter(_code)
    def forward(self, x):
        return self.code.expand(len(x), 32)
class _Pixels(_torch.nn.Module):  # nothing in it is a parameter
    def forward(self, z):
        return z @ _weight.T + _bias
class _Standard(_torch.nn.Module):
    def forward(self, z):
        return _torch.zeros(*z.shape, 12)
_noisy, _code, _weight, _bias = (
    _torch.from_numpy(inputs[_name].copy()) for _name in ("noisy", "code", "weight", "bias")
)
_torch.manual_seed(inputs["seed"].item())
_model = new_model(learned=False)
_model.network = _Standard() if inputs["network"] else None
_model.encoder, _model.decoder = _Code(_code), _Pixels()
train_pairs(_model, _noisy, 20)
outputs["code"] = _model.encoder.code.detach()
"""


def best_code(weight: np.ndarray, bias: np.ndarray, came: np.ndarray) -> np.ndarray:
    """Return mean and log-precision (32,) of the one q for all images that has the best ELBO, with N(0, I).

    Each pixel hears one number of the code, so that there are 16 expectations, sums at the nodes of Hermite.
    """
    nodes, masses = np.polynomial.hermite_e.hermegauss(60)
    masses, code = masses / masses.sum(), np.zeros((2, 16))
    for i in range(16):
        hears = np.flatnonzero(weight[:, i])
        w, b, p = weight[hears, i], bias[hears], came[:, hears].mean(0)

        def minus_elbo(law, w=w, b=b, p=p):
            mean, log_precision = law
            z = mean + np.exp(-log_precision / 2) * nodes
            one = FLIP + (1 - 2 * FLIP) / (1 + np.exp(-(np.outer(z, w) + b)))
            log_p = (p * np.log(one) + (1 - p) * np.log1p(-one)).sum(1)
            kl = (mean**2 + np.exp(-log_precision) - 1 + log_precision) / 2
            return kl - masses @ log_p

        code[:, i] = optimize.minimize(
            minus_elbo, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6}
        ).x
    return code.ravel()


def pairs_cases(rng):
    """One draw of the pairs for the file; and other images over the line, which the function has to learn."""
    sent = (rng.random((2, 392)) < 0.5)[rng.integers(2, size=1600)]
    came = (sent ^ (rng.random(sent.shape) < FLIP)).astype(np.float32)
    another = {"noisy": came[:1250], "came": came[1250:], "seed": seed(rng)}
    return [
        Case("", about="pairs of test digits, a new line, K = 50", kept={"seed": seed(rng)}),
        Case(TRAIN_PAIRS, another, "train_pairs, other images over the line", kept={"sent": sent[1250:]}),
        *(
            Case(KEEP_PAIRS, best_already(rng) | {"network": np.array(network)}, f"train_pairs, {about}")
            for network, about in enumerate(["the best code already", "the same, a network for the prior"])
        ),
    ]


def best_already(rng) -> dict[str, np.ndarray]:
    """Draw images of which all are alike, what decodes them, and the best code for all of them."""
    weight = np.zeros((392, 16))
    weight[np.arange(384), np.arange(384) // 24] = rng.choice([-1, 1], 384) * rng.uniform(0.3, 1, 384)
    bias, z = rng.normal(size=392), rng.uniform(-1.5, 1.5, size=16)
    one = FLIP + (1 - 2 * FLIP) / (1 + np.exp(-(weight @ z + bias)))
    noisy = rng.random((1250, 392)) < one
    drawn = {"noisy": noisy, "weight": weight, "bias": bias, "code": best_code(weight, bias, noisy)}
    return {name: value.astype(np.float32) for name, value in drawn.items()} | {"seed": seed(rng)}


@torch.no_grad()
def pairs_verify(case, outputs, weights):
    """Read codes from what came, and bound -log p of what was sent; or judge what was learned when graded."""
    if "code" in case.inputs:
        off = take(outputs, "code", (32,), what="the code after training") - case.inputs["code"]
        if not np.sqrt((off**2).mean()) < KEPT_CODE:
            raise Wrong("mean and precision of the code were the best ones, and training moved them away")
        return
    if case.driver:
        logits = take(outputs, "logits", case.kept["sent"].shape, what="logits after training")
        signs = np.where(case.kept["sent"], -1.0, 1.0)
        nats = np.logaddexp(0, signs * logits).sum(1).mean()
        if not nats < ANOTHER_PAIRS:
            raise Wrong(
                f"after 20 epochs the images that were sent cost more than {ANOTHER_PAIRS:g} nats each"
            )
        return
    model = PairVAE()
    read_into(model, weights)
    rng = np.random.default_rng(int(case.kept["seed"]))
    test, train = (pairs_nats(model, pairs_of(part, 4000, rng), rng).item() for part in ("test", "train"))
    learned(test, train, bound=PAIRS_THRESHOLD, gap=PAIRS_GAP, what="pair of test digits")


def pairs_nats(model: PairVAE, sent: torch.Tensor, rng: np.random.Generator, draws: int = 50) -> torch.Tensor:
    """Send pairs over a new line, read codes from what came, and bound -log p: the mean in nats, shape ()."""
    came = (sent.bool() ^ torch.from_numpy(rng.random(sent.shape) < FLIP)).float()
    mean, log_precision = model.encoder(came).chunk(2, dim=1)
    log_w = []
    for _ in range(draws):
        noise = torch.from_numpy(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
        z = mean + (-log_precision / 2).exp() * noise
        log_q = (log_precision - noise.square() - math.log(2 * math.pi)).sum(1) / 2
        log_x = -F.binary_cross_entropy_with_logits(model.decoder(z), sent, reduction="none").sum(1)
        log_w.append(log_x + model.log_prior(z) - log_q)
    return (math.log(draws) - torch.stack(log_w).double().logsumexp(0)).mean()


QUESTIONS = [
    Question("q1a", 2, mixture_cases, mixture_verify),
    Question("q1b", 1, solve_cases, solve_verify),
    Question("q1c", 1, graph_cases, graph_verify),
    Question("q1d", 2, gauge_cases, gauge_verify, weights="hw4_q1d.safetensors"),
    Question("q2a", 1, masks_cases, masks_verify),
    Question("q2b", 2, prior_cases, prior_verify),
    Question("q2c", 1, sample_cases, sample_verify),
    Question("q2d", 1, jackknife_cases, jackknife_verify),
    Question("q2e", 1, pair_cases, pair_verify),
    Question("q2f", 2, pairs_cases, pairs_verify, weights="hw4_q2f.safetensors"),
]
