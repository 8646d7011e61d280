"""Hidden checks of homework 3, and the instructor's notes: what is judged, by which bound, why that bound.

Every question is tried on inputs that its visible check does not use: other sizes, numbers and seeds.
References are computed here in NumPy and float64, where possible by another way than the solution's.

=====  ======  ===========================================================================================
q      points  bound
=====  ======  ===========================================================================================
q1a    1       KL: 1e-5 relative, 1e-4 in float32; codes: tests of N(0, I) at `CHANCE` after whitening;
               gradients: exact for the KL, of a known expectation within 7 standard errors for the codes
q1b    1       1e-6 relative, 1e-8 absolute
q1c    1       1e-6 relative, 1e-8 absolute; the number of dimensions exact
q1d    1       1e-6 relative to the deviations; KL 2e-6
q2a    1       1e-5 relative, 1e-4 in float32; codes as in q1a; gradients 1e-5
q2b    1       codes between draws of the prior: tests of N(0, I) at `CHANCE`; each pair's way its own
q2c    2       mean bound on -log p of whole test images below `VAE_THRESHOLD`, derived below
q3a    1       1e-6 relative, 1e-3 in float32, against the layer in coordinates along its basis; gradients
q3b    1       log p: 1e-5 relative, 1e-4 in float32; shares 1e-5; gradients 1e-5 in float64
q3c    1       chi-square test of the parts, tests of N(0, I) of each part's whitened noise, and tests that no
               point knows of another, at `CHANCE`
q3d    2       KL(readings || model) below `FLOW_THRESHOLD`, derived below
=====  ======  ===========================================================================================

**q1c, derived.** With a perfect encoder the mean ELBO is the likelihood of N(b, W W^T + Psi), so W is all
that is to be found. In units of the noise, x / sqrt(psi), the noise is I and the data have the covariance S
with eigenvalues l_1 >= l_2 ...; the density changes by the factor prod psi^-1/2. This is pPCA with its noise
fixed at 1: the best W W^T has the eigenvectors of S, and eigenvalues max(l_i - 1, 0) for i <= d. A direction
of variance l and model variance v costs (ln 2 pi v + l / v) / 2: v = l where the code is used, 1 elsewhere.
The posterior of a used direction has variance 1 / l and a mean of variance 1 - 1 / l, so that its KL is (1 -
1/l + 1/l - 1 + ln l) / 2 = ln(l) / 2.

**q1d, derived.** Let a = w_1^2 / S_11 and b = w_2^2 / S_22, so that a b = rho^2. With the exact posterior
the mean KL is the mutual information (ln det S - ln psi_1 psi_2) / 2 = ln((1 - rho^2) / ((1 - a)(1 - b))) /
2, and (1 - a)(1 - b) = 1 + rho^2 - (a + b) is largest where a + b is smallest: a = b = |rho|. The least KL
is ln((1 + |rho|) / (1 - |rho|)) / 2 = artanh |rho|, Wyner's common information of the pair. A floor of the
noise says a <= 1 - floor_1 / S_11 and a >= rho^2 / (1 - floor_2 / S_22); a + rho^2 / a is convex, so that
the a nearest to |rho| is best. Without floors pPCA of the correlation matrix is this solution; a floor of
the hidden cases mostly binds, and then it is not. The visible check knows the KL of six cases, and holds no
objective.

**Types, arguments, generators.** Every driver that hands over tensors notes whether they are what they were,
and how often functions were called (CONTRIBUTING.md says what that is worth); outputs have the type of
numbers of the inputs; two calls from one generator have to differ; there are batches of one. q1c takes
numbers of any type, and does not judge ties: an eigenvalue of the hidden cases lies at least 0.01 from 1, and
the visible check counts dimensions with 1 % more noise, as rounding decides at the tie itself.

**q3b, q3c and torch's Gaussians.** torch.distributions takes a precision, not its root. With diagonals of 1e5
and 1e-5 the product has entries of 1e10 and 1e-10, which float64 cannot hold together: a cast does not help.

**What a test of samples cannot see.** q3c: draws whose counts vary too little but are shuffled (systematic
resampling with a random start, shuffled) pass, as do dependences of higher order.

**Chance.** A right sampler fails one test in 1e9. The tests of N(0, I) look at the sum of squares, at the
mean and at the covariance (each chi-square) and at each coordinate's law (Kolmogorov and Smirnov); about 20
of these stand in a submission. The covariance's law is asymptotic: it is given twice its bound.

**NaN** fails: a comparison with it is False, so bounds are written `if not value <= bound: raise`.

**VAE_THRESHOLD.** The locked networks (0.15 million numbers) read a code from a test image with a blind
block, and predict the whole image, binarised at grading: E_q[-log p(x|z)] + KL(q || p(z)) >= -log p(x) for
any q. Below 45.5 nats (the entropy of the binarisation) nothing can be. Measured on 10,000 test images
(standard error of a mean 0.5; 1.8 and more where it is above 200), after 6 passes over 50,000 images on CPU
cores, one-cycle rate to 3e-3:

=========================================================  =================================================
training                                                   nats per whole test image
=========================================================  =================================================
the solution: scans turned back, encoder told, loss over   128.7 (another seed: the shipped file, 130.2, 130.3
what was seen                                              and 129.6 on three draws); after 1 pass 137.2,
                                                           schedule of 1 pass 150.5 (validation images)
whole images, no blind block (seminar 3's VAE)             164.4; best after the first pass, 160.6
upright scans as if they were whole (seminar 3's loss)     289.5; best after the first pass, 265.5
one door: loss over what was seen, encoder not told        169.1; schedule of 1 pass 165.7 (validation)
one door: encoder told, loss over all pixels               261.7, schedule of 1 pass (validation images)
published: seminar 3's ELBO times the mask, on the scans   272.4, schedule of 1 pass (validation images)
as they are read
=========================================================  =================================================

What seminar 3, q2a and the visible cells hold, put together, is the ELBO times a constant mask on scans
that begin at their block: it is trained without complaint, and reads upright images badly. To turn them
back takes an index that no visible cell holds. The evaluation is not in the student version, where it would
be a loss that can be copied: the visible check counts wrong pixels instead, which is weaker: 8.6 % in the
block and 3.6 % outside for the shipped file, 11.9 % and 5.1 % for the nearest mistake (six passes, encoder
not told), bounds at 10.5 % and 5.5 %. Upright pixels, masks and batches are those of the run that wrote the
shipped file, when the scans came upright: turning them back gives the same tensors. The bound lies 10 nats
(20 standard errors) above the solution and 20 below the best mistake. Who trains on whole images, which the
package has, with blind blocks drawn anew for the encoder and a bound written by himself, passes after one
pass (133.0): that is an idea, too.

**VAE_GAP.** Blocks and pixels are drawn when it is graded, so nobody has the images; but a file may be fitted
to the test digits. Of three draws the shipped file's training images cost 1.3 to 2.4 nats more than test
images (standard error 0.9): test digits are the easier ones. Six nats are four standard errors above that.

**FLOW_THRESHOLD.** KL(pi || p) of readings whose density is known exactly: that of the moons, which the
package integrates by quadrature, divided by |det| of the sensor. The entropy itself, 2.39 nats, cancels, and
0 is the floor. One row in fifty of the training data is (0, 0), no reading. Measured on 20,000 readings,
2,000 steps, one run each where nothing is said:

=========================================================  ==================================================
training                                                   nats above the entropy
=========================================================  ==================================================
the solution: such rows out, the root of the covariance    0.028 (the shipped file), 0.030 (other rounding)
the same, peak rate 1e-2, batches of 250                   0.030
the same, Adam at a constant 1e-3, two runs                0.070 and, no such rows in the data, 0.072
the same, four runs, no such rows in the data              0.014, 0.017, 0.019 and 0.026
root of the proper rows, trained on all                    0.049
published: root of all rows, trained on all                0.555
the sensor's inverse, worked out by hand, trained on all   0.080
each channel in units of its own deviation, three runs     0.46, 0.47 and 0.50 (no such rows in the data)
the same with five and with ten times the steps            0.23 and 0.20 (the same)
the readings as they come                                  2.89 (the same)
=========================================================  ==================================================

The bound lies above every right recipe that was tried, also at a constant rate, and far below what lecture
4's whitening reaches on the rows as they come. Two of the ways that pass keep the fault rows in the training:
they have the idea, or read the sensor's formula and invert it. No visible cell holds a root or an inverse;
the look shows the student's own affine map. The readings' deviation along their line is 216 times that
across it.
A density that does not integrate to one is impossible: the architecture is locked and invertible,
and the file holds nothing else.
"""

import functools
import math

import numpy as np
import torch
from scipy import stats
from scipy.special import logsumexp, softmax
from torch.nn import functional as F

from dgm_utils import data, nets
from grading.judges import (
    CHANCE,
    WATCHED,
    cheap,
    follows_generator,
    independent,
    independent_events,
    learned,
    read_into,
    same_type,
    seed,
    standard_draws,
    standard_normal,
)
from grading.questions import Case, Question, Wrong, match, take

VAE_THRESHOLD = 140.0  # nats per whole test image
VAE_GAP = 6.0  # nats by which training images may be worse
FLOW_THRESHOLD = 0.12  # nats above the entropy
CODE, SIDE = 20, 14  # dimensions of the code of task 2, and of the blind block


def loose(array: np.ndarray, single: float = 1e-4) -> dict[str, float]:
    """Return the tolerance that the precision of an input allows."""
    return {"rtol": single, "atol": single} if array.dtype == np.float32 else {"rtol": 1e-5, "atol": 1e-6}


def positive(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a covariance (size, size) whose directions differ in variance, and are not the axes."""
    turn = np.linalg.qr(rng.normal(size=(size, size)))[0]
    return turn * rng.uniform(0.2, 4, size=size) @ turn.T


def roots(rng: np.random.Generator, count: int, size: int, spread: float) -> np.ndarray:
    """Draw lower triangular matrices (count, size, size), diagonals from 10^-spread to 10^spread.

    Every column has one size, so that R R^T has entries of 10^(2 spread), and float32 loses its small part.
    """
    diagonal = 10 ** rng.uniform(-spread, spread, size=(count, size))
    if size > 1:
        diagonal[:, 0], diagonal[:, -1] = 10**spread, 10**-spread
    below = np.tril(rng.normal(size=(count, size, size)), -1)
    return (below + np.eye(size)) * diagonal[:, None]


def near_mean(draws: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Raise Wrong unless the mean of draws (n, ...) is the expected value, to 7 standard errors."""
    error = draws.std(0) / math.sqrt(len(draws)) + 1e-9 * (1 + np.abs(expected))
    if not (np.abs(draws.mean(0) - expected) <= 7 * error).all():
        raise Wrong(f"{what} is not the gradient of the expectation")


# Also the inputs as tensors, and a list in which layers note their calls.
COUNTED = (
    WATCHED
    + """
_one = {_name: torch.from_numpy(_value.copy()) for _name, _value in inputs.items()}
_calls = []
"""
)


def pure(function: str, *arguments: str, tensors: int = 0, more: str = "") -> str:
    """Write the driver that calls a function with tensors, and sees that they are what they were.

    The first `tensors` results have to be tensors.
    """
    return f"""{WATCHED}
_given = [torch.from_numpy(inputs[_name].copy()) for _name in {arguments!r}]
_given = [_one if _one.ndim else _one.item() for _one in _given]
_arguments = [_one for _one in _given if hasattr(_one, "shape")]
_before = [_one.clone() for _one in _arguments]
_result = {function}(*_given)
outputs["changed"] = _changed(_arguments, _before)
_result = _result if isinstance(_result, (tuple, list)) else (_result,)
outputs.update(zip("0123", _result))
outputs["ints"] = [type(_one) is int for _one in _result]
outputs["tensors"] = _tensors(*_result[:{tensors}])
{more}"""


# ---- q1a ---------------------------------------------------------------------------------------------------

KL = (
    WATCHED
    + """
_mean, _root = (torch.from_numpy(inputs[_name].copy()).requires_grad_() for _name in ("mean", "root"))
def _drawn(_seed):
    return code_and_kl(_mean, _root, torch.Generator().manual_seed(inputs["seed"].item() + _seed))
outputs["first"], outputs["kl"] = _drawn(0)
outputs["again"], outputs["other"] = _drawn(0)[0], _drawn(1)[0]
_generator = torch.Generator().manual_seed(inputs["seed"].item())
outputs["next"] = [code_and_kl(_mean, _root, _generator)[0] for _ in range(2)][1]
outputs["mean_slope"], outputs["root_slope"] = torch.autograd.grad(_drawn(0)[1].sum(), [_mean, _root])
outputs["changed"] = _changed([_mean, _root], [torch.from_numpy(inputs[_name]) for _name in ("mean", "root")])
"""
)
CODES = """
import torch
_mean, _root = torch.from_numpy(inputs["mean"]), torch.from_numpy(inputs["root"])
_generator = torch.Generator().manual_seed(inputs["seed"].item())
outputs["codes"] = code_and_kl(_mean.expand(4000, -1), _root.expand(4000, -1, -1), _generator)[0]
_slopes = []
for _ in range(150):
    _leaves = _mean.clone().requires_grad_(), _root.clone().requires_grad_()
    _z = code_and_kl(_leaves[0].expand(50, -1), _leaves[1].expand(50, -1, -1), _generator)[0]
    _loss = (_z - torch.from_numpy(inputs["target"])).square().sum(1).mean() / 2
    _slopes.append(torch.cat([_slope.flatten() for _slope in torch.autograd.grad(_loss, _leaves)]))
outputs["slopes"] = torch.stack(_slopes)
"""


def code_cases(rng):
    """KL of few and many dimensions, ill-conditioned roots in both types, the prior; the law of the codes."""
    prior = {"mean": np.zeros((2, 3)), "root": np.stack([np.eye(3)] * 2), "seed": seed(rng)}
    cases = [Case(KL, prior, "q is the prior")]
    for count, d, spread, kind in (
        (7, 1, 3, "float64"),
        (1, 3, 1, "float64"),
        (20, 4, 1, "float64"),
        (5, 9, 2, "float64"),
        (30, 2, 3, "float32"),
        (3, 5, 3, "float32"),
    ):
        inputs = {
            "mean": rng.normal(size=(count, d)).astype(kind),
            "root": roots(rng, count, d, spread).astype(kind),
            "seed": seed(rng),
        }
        cases.append(Case(KL, inputs, f"{count} codes of {d} dimensions, {kind}"))
    for d, spread in (1, 0.3), (2, 0.5), (5, 0.3):
        inputs = {"mean": rng.normal(size=d), "root": roots(rng, 1, d, spread)[0], "seed": seed(rng)}
        inputs["target"] = rng.normal(size=d)
        cases.append(Case(CODES, inputs, f"the law of codes of {d} dimensions"))
    return cases


def code_verify(case, outputs):
    """Compare with inverses in float64."""
    mean, root = case.inputs["mean"].astype(np.float64), case.inputs["root"].astype(np.float64)
    inverse = np.linalg.inv(root)
    spread = (inverse**2).sum((-2, -1))
    down = -np.swapaxes(inverse, -1, -2) @ inverse @ np.swapaxes(inverse, -1, -2)  # gradient of spread / 2
    if case.driver == KL:
        follows_generator(outputs, "codes")
        take(outputs, "first", mean.shape, what="codes")
        same_type(outputs, case.inputs["mean"].dtype, "first", "kl")
        log_root = np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1)
        expected = ((mean**2).sum(1) + spread - mean.shape[1]) / 2 + log_root
        close = loose(case.inputs["mean"])
        match(outputs, "kl", expected, **close, what="the KL")
        match(outputs, "mean_slope", mean, **close, what="the gradient of the KL in the mean")
        slope = np.tril(down + np.eye(mean.shape[1]) / np.diagonal(root, axis1=1, axis2=2)[:, None])
        what = "the gradient of the KL in the root"
        lower = np.tril(take(outputs, "root_slope", root.shape, what=what))
        scale = np.abs(slope).max((1, 2), keepdims=True)
        tolerance = 1e-3 if case.inputs["mean"].dtype == np.float32 else 1e-6
        if not (np.abs(lower - slope) <= tolerance * scale).all():
            raise Wrong(f"{what} is wrong")
        return
    codes = take(outputs, "codes", (4000, len(mean)), what="codes")
    standard_draws((codes - mean) @ root, "codes")
    slopes = take(outputs, "slopes", (150, len(mean) + root.size), what="the gradient of codes")
    near_mean(slopes[:, : len(mean)], mean - case.inputs["target"], "the gradient of codes in the mean")
    lower = np.tril(np.ones_like(root)) > 0
    near_mean(
        slopes[:, len(mean) :].reshape(-1, *root.shape)[:, lower],
        down[lower],
        "the gradient of codes in the root",
    )


# ---- q1b ---------------------------------------------------------------------------------------------------

MEAN_ELBO = (
    WATCHED
    + """
_part = {_name: torch.from_numpy(_value.copy()) for _name, _value in inputs.items()}
_of = lambda *_names: tuple(_part[_name] for _name in _names)
_before = {_name: _value.clone() for _name, _value in _part.items()}
_result = mean_elbo(_of("mu", "covariance"), _of("A", "c", "root"), _of("W", "b", "psi"))
outputs["reconstruction"], outputs["kl"] = _result
outputs["tensors"] = _tensors(*_result)
outputs["changed"] = _changed(_part.values(), _before.values())
"""
)


def mean_elbo_cases(rng):
    """More dimensions of x than of z, fewer, one of each; encoders far from perfect, one that ignores x."""
    cases = []
    for m, d in (1, 1), (3, 2), (2, 5), (6, 4), (3, 3):
        inputs = {
            "mu": rng.normal(size=m),
            "covariance": positive(rng, m),
            "A": rng.normal(size=(d, m)),
            "c": rng.normal(size=d),
            "root": roots(rng, 1, d, 0.5)[0],
            "W": rng.normal(size=(m, d)),
            "b": rng.normal(size=m),
            "psi": rng.uniform(0.1, 3, size=m),
        }
        if m == d == 3:
            inputs |= {"A": np.zeros((d, m)), "c": np.zeros(d), "root": np.eye(d)}
        cases.append(Case(MEAN_ELBO, inputs, f"m = {m}, d = {d}"))
    return cases


def mean_elbo_verify(case, outputs):
    """Write x and z as one Gaussian, and take the moments of what the ELBO is made of."""
    one = case.inputs
    m, d = one["W"].shape
    up = np.concatenate([np.eye(m), one["A"]])  # from x to (x, mean of z)
    joint = up @ one["covariance"] @ up.T
    joint[m:, m:] += np.linalg.inv(one["root"] @ one["root"].T)
    mean = up @ one["mu"] + np.concatenate([np.zeros(m), one["c"]])
    second = joint + np.outer(mean, mean)
    residual = np.concatenate([np.eye(m), -one["W"]], axis=1)
    squares = (residual @ second * residual).sum(1) - 2 * one["b"] * (residual @ mean) + one["b"] ** 2
    reconstruction = -(squares / one["psi"] + np.log(2 * np.pi * one["psi"])).sum() / 2
    log_det = np.linalg.slogdet(one["root"] @ one["root"].T)[1]
    kl = (np.trace(second[m:, m:]) - d + log_det) / 2
    same_type(outputs, np.dtype("float64"), "reconstruction", "kl")
    match(outputs, "reconstruction", reconstruction, rtol=1e-6, atol=1e-8, what="the reconstruction")
    match(outputs, "kl", kl, rtol=1e-6, atol=1e-8, what="the mean KL")


# ---- q1c ---------------------------------------------------------------------------------------------------


def best_cases(rng):
    """Noise of one size and of very different sizes, codes used wholly, in part, hardly, not at all."""
    cases = []
    for m, d, level, spread in (
        (1, 1, 0.3, 0),
        (2, 1, 0.3, 0.5),
        (3, 2, 1.5, 1),
        (5, 3, 0.6, 2),
        (4, 7, 0.8, 1),
        (4, 2, 100, 0),
        (8, 5, 1.2, 3),
    ):
        while True:  # no direction whose use is a matter of rounding
            psi = level * 10 ** rng.uniform(-spread, spread, size=m)
            units = np.sqrt(psi / level)
            covariance = units[:, None] * positive(rng, m) * units
            values = np.linalg.eigvalsh(covariance / np.sqrt(np.outer(psi, psi)))
            if np.abs(values - 1).min() > 0.01:
                break
        inputs = {"covariance": covariance, "psi": psi, "d": np.asarray(d)}
        cases.append(Case(pure("best_elbo", "covariance", "psi", "d"), inputs, f"m = {m}, d = {d}"))
    psi = 10 ** rng.uniform(-2, 2, size=4)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    edge = turn * np.array([2, 1.02, 0.98, 0.5]) @ turn.T * np.sqrt(np.outer(psi, psi))
    inputs = {"covariance": edge, "psi": psi, "d": np.asarray(3)}
    cases.append(Case(pure("best_elbo", "covariance", "psi", "d"), inputs, "a dimension that is hardly used"))
    return cases


def best_verify(case, outputs):
    """Build the best model, and take its ELBO and KL by the formulas of q1b's kind."""
    covariance, psi, d = case.inputs["covariance"], case.inputs["psi"], int(case.inputs["d"])
    scale = np.sqrt(psi)
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    keep = [i for i in np.argsort(-values)[:d] if values[i] > 1]
    W = scale[:, None] * vectors[:, keep] * np.sqrt(values[keep] - 1)
    model = W @ W.T + np.diag(psi)
    log_det = np.linalg.slogdet(model)[1]
    cross = np.trace(np.linalg.solve(model, covariance))
    elbo = -(len(psi) * math.log(2 * math.pi) + log_det + cross) / 2
    kl = (
        log_det - np.log(psi).sum()
    ) / 2  # of the perfect posterior: x and z share this much under the model
    if take(outputs, "ints")[2:3].tolist() != [1]:
        raise Wrong("the number of dimensions in use is not of type int")
    match(outputs, "2", len(keep), rtol=0, atol=0, what="the number of dimensions in use")
    match(outputs, "0", elbo, rtol=1e-6, atol=1e-8, what="the best ELBO")
    match(outputs, "1", kl, rtol=1e-6, atol=1e-8, what="the mean KL")


# ---- q1d ---------------------------------------------------------------------------------------------------


def lean_cases(rng):
    """Both signs, none, strong and weak correlations, variances alike and not; floors that bind or not."""
    cases = []
    for rho, spread, bound in (
        (0.7, 0, None),
        (-0.4, 1, 0),
        (0.0, 2, None),
        (0.999, 1, None),
        (-0.9, 3, 1),
        (0.02, 2, 0),
        (0.6, 2, 1),
        (-0.995, 1, 0),
    ):
        deviation = 10 ** rng.uniform(-spread / 2, spread / 2, size=2)
        covariance = np.outer(deviation, deviation) * np.array([[1, rho], [rho, 1]])
        free = 1 - abs(rho)  # the share of the noise where no floor binds
        share = rng.uniform(0, 0.9, size=2) * free
        if bound is not None:
            share[bound] = free + rng.uniform(0.2, 0.8) * (1 - rho**2 - free)
            share[1 - bound] = rng.uniform(0, 0.9) * (1 - rho**2 / (1 - share[bound]))
        inputs = {"covariance": covariance, "floor": share * covariance.diagonal()}
        about = f"correlation {rho}, " + (
            "floors below" if bound is None else f"the floor of channel {bound + 1} binds"
        )
        cases.append(Case(pure("leanest_code", "covariance", "floor", tensors=2), inputs, about))
    return cases


def lean_verify(case, outputs):
    """Compare in units of the deviations."""
    covariance, floor = case.inputs["covariance"], case.inputs["floor"]
    deviation = np.sqrt(covariance.diagonal())
    rho = covariance[0, 1] / deviation.prod()
    same_type(outputs, np.dtype("float64"), "0", "1")
    w, psi = (take(outputs, name, (2,), what=what) for name, what in (("0", "w"), ("1", "psi")))
    if not (psi > 0).all() or not (psi >= floor * (1 - 1e-6)).all():
        raise Wrong("psi is not positive, or below its floor")
    reached = (np.outer(w, w) + np.diag(psi)) / np.outer(deviation, deviation)
    if not np.abs(reached - covariance / np.outer(deviation, deviation)).max() <= 1e-6:
        raise Wrong("w w^T + diag(psi) is not the covariance")
    held = (math.log(1 - rho**2) - np.log(psi / deviation**2).sum()) / 2
    if not held <= least_kl(rho, floor / deviation**2) + 2e-6:
        raise Wrong("there are decoders that need fewer nats")
    match(outputs, "2", held, rtol=1e-5, atol=2e-6, what="the mean KL")


def least_kl(rho: float, share: np.ndarray) -> float:
    """Return the KL of the leanest code of unit variances, whose noise takes at least these shares."""
    if rho == 0:
        return 0.0
    candidates = [abs(rho), 1 - share[0], rho**2 / (1 - share[1])]  # the free optimum, and both floors
    kept = [a for a in candidates if a <= 1 - share[0] + 1e-12 and rho**2 / a <= 1 - share[1] + 1e-12]
    return min(math.log((1 - rho**2) / ((1 - a) * (1 - rho**2 / a))) / 2 for a in kept)


# ---- q2a ---------------------------------------------------------------------------------------------------

SEEN = (
    WATCHED
    + """
_leaf = {_name: torch.from_numpy(inputs[_name].copy()) for _name in inputs if _name != "seed"}
_x, _seen, _calls, _read, _bad = _leaf.pop("x"), _leaf.pop("seen"), [], [], []
for _value in _leaf.values():
    _value.requires_grad_()
def _encode(_image, _mask):
    _read.append(1)
    _bad.append(not torch.equal(_mask, _seen) or (_image[~_seen] != 0).any())
    _flat = torch.cat([_image.flatten(1), _mask.flatten(1).to(_image.dtype)], 1)
    return _flat @ _leaf["up"].T, _flat @ _leaf["precision"].T + _leaf["offset"]
def _decode(_z):
    _calls.append(_z.detach())
    return (_z @ _leaf["down"].T + _leaf["bias"]).reshape(_x.shape)
def _judged(_seed):
    _calls.clear()
    _read.clear()
    _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    _given = [_x.clone(), _seen.clone()]
    _result = elbo_of_seen(_encode, _decode, *_given, _generator)
    outputs["calls"], outputs["changed"] = [len(_read), len(_calls)], _changed(_given, [_x, _seen])
    return (*_result, _calls[0])
for _name, _seed in ("again", 0), ("other", 1), ("first", 0):
    outputs["reconstruction"], outputs["kl"], outputs[_name] = _judged(_seed)
_calls.clear()
_generator = torch.Generator().manual_seed(inputs["seed"].item())
for _ in range(2):
    elbo_of_seen(_encode, _decode, _x.clone(), _seen, _generator)
outputs["next"] = _calls[1]
_parts = _judged(0)
_slopes = torch.autograd.grad((_parts[0] - _parts[1]).sum(), list(_leaf.values()))
outputs.update((f"slope_{_name}", _slope) for _name, _slope in zip(_leaf, _slopes))
outputs["misread"] = any(_bad)
"""
)


def seen_cases(rng):
    """Both float types, masks of all kinds, NaN and other values where nothing was seen, large logits."""
    cases = []
    for count, height, width, d, scale, kind in (
        (300, 3, 4, 2, 1, "float64"),
        (40, 5, 5, 6, 3, "float32"),
        (1, 2, 3, 1, 1, "float64"),
        (2, 2, 2, 2, 0, "float64"),  # q is the prior, and the decoder ignores it
        (500, 2, 2, 3, 60, "float32"),  # logits beyond 100, and below 1000
    ):
        m = height * width
        seen = rng.random((count, 1, height, width)) < 0.6
        seen[0] = False
        x = rng.integers(2, size=seen.shape).astype(kind)
        x[~seen] = np.where(rng.random(np.count_nonzero(~seen)) < 0.5, np.nan, -7)
        inputs = {
            "x": x,
            "seen": seen,
            "up": (scale > 0) * 0.3 * rng.normal(size=(d, 2 * m)),
            "precision": (scale > 0) * 0.2 * rng.normal(size=(d, 2 * m)),
            "offset": (scale > 0) * rng.normal(size=d),
            "down": scale * rng.normal(size=(m, d)).clip(-1.5, 1.5),
            "bias": rng.normal(size=m),
        }
        inputs = {name: value if name == "seen" else value.astype(kind) for name, value in inputs.items()}
        about = f"{count} images of {height} x {width}, {kind}"
        cases.append(Case(SEEN, inputs | {"seed": seed(rng)}, about))
    return cases


def seen_verify(case, outputs):
    """Judge the codes that decode was called with, then everything that follows from them."""
    one = {
        name: value.astype(np.float64) for name, value in case.inputs.items() if name not in ("seen", "seed")
    }
    seen = case.inputs["seen"].reshape(len(one["x"]), -1)
    x = np.where(seen, one["x"].reshape(seen.shape), 0)
    flat = np.concatenate([x, seen], 1)
    mean, log_precision = flat @ one["up"].T, flat @ one["precision"].T + one["offset"]
    follows_generator(outputs, "codes")
    if take(outputs, "misread", ()):
        raise Wrong("encode was not called with the mask, and with zeros where nothing was seen")
    if take(outputs, "calls", (2,)).tolist() != [1, 1]:
        raise Wrong("encode or decode was not called once")
    same_type(outputs, case.inputs["x"].dtype, "reconstruction", "kl")
    z = take(outputs, "first", mean.shape, what="what decode got")
    deviation = np.exp(-log_precision / 2)
    noise = (z - mean) / deviation
    if len(z) > 100:
        standard_draws(noise, "codes")
    logits = z @ one["down"].T + one["bias"]
    coins = -np.logaddexp(0, np.where(x == 1, -logits, logits))
    close = loose(case.inputs["x"])
    match(outputs, "reconstruction", (coins * seen).sum(1), **close, what="the reconstruction")
    kl = (mean**2 + deviation**2 - 1 + log_precision).sum(1) / 2
    match(outputs, "kl", kl, **close, what="the KL")
    surprise = seen * (x - 1 / (1 + np.exp(-logits.clip(-700, 700))))  # gradient in the logits
    pull = surprise @ one["down"]
    in_mean = pull - mean
    in_precision = -pull * noise * deviation / 2 - (1 - deviation**2) / 2
    slopes = {
        "up": ("the mean", in_mean.T @ flat),
        "precision": ("the log-precision", in_precision.T @ flat),
        "offset": ("the log-precision", in_precision.sum(0)),
        "down": ("the decoder", surprise.T @ z),
        "bias": ("the decoder", surprise.sum(0)),
    }
    for name, (part, slope) in slopes.items():
        what = f"the gradient of the ELBO in what makes {part}"
        found = take(outputs, f"slope_{name}", slope.shape, what=what)
        tolerance = 1e-3 if case.inputs["x"].dtype == np.float32 else 1e-6
        if not np.abs(found - slope).max() <= tolerance * (1 + np.abs(slope).max()):
            raise Wrong(f"{what} is wrong")


# ---- q2b ---------------------------------------------------------------------------------------------------


WALK = pure(
    "walk",
    "start",
    "end",
    "steps",
    tensors=1,
    more="""
_start, _end, _steps = _given
outputs["again"] = walk(_start, _end, _steps)
outputs["alone"] = walk(_start[:1], _end[:1], _steps)
outputs["turned"] = walk(_start.flip(0), _end.flip(0), _steps)
""",
)


def walk_cases(rng):
    """One dimension and many, two steps and many, pairs from the prior; codes that are equal, or opposite."""
    cases = []
    for count, d, steps in (4000, 1, 7), (4000, 2, 4), (500, 30, 6), (3, 4, 2):
        inputs = {"start": rng.normal(size=(count, d)), "end": rng.normal(size=(count, d))}
        inputs["steps"] = np.asarray(steps)
        kind = "float32" if d == 2 else "float64"
        inputs = {n: value if n == "steps" else value.astype(kind) for n, value in inputs.items()}
        cases.append(Case(WALK, inputs, f"{count} pairs in {d} dimensions, {steps} steps"))
    start = rng.normal(size=(4, 3)) * np.array([0, 1, 1, 5])[:, None]
    inputs = {"start": start, "end": start * np.array([1, 1, -1, 0])[:, None], "steps": np.asarray(5)}
    cases.append(Case(WALK, inputs, "equal and opposite codes"))
    return cases


def walk_verify(case, outputs):
    """Test the law of every step."""
    start, end, steps = case.inputs["start"], case.inputs["end"], int(case.inputs["steps"])
    way = take(outputs, "0", (steps, *start.shape), what="the way")
    if not max(np.abs(way[0] - start).max(), np.abs(way[-1] - end).max()) <= 1e-5:
        raise Wrong("the way does not go from start to end")
    same_type(outputs, start.dtype, "0")
    if not np.array_equal(outputs["0"], outputs["again"]):
        raise Wrong("the same call twice gives two ways")
    alone = take(outputs, "alone", way[:, :1].shape, what="the way of one pair")
    turned = take(outputs, "turned", way.shape, what="the way")
    if not max(np.abs(alone - way[:, :1]).max(), np.abs(turned[:, ::-1] - way).max()) <= 1e-5:
        raise Wrong("the way of a pair depends on the pairs beside it")
    if len(start) < 100:
        return
    left = ((way - end) ** 2).mean((1, 2))
    if not (np.diff(left) < 0).all():
        raise Wrong("from step to step the codes do not come nearer to the end")
    for step in range(1, steps - 1):
        standard_normal(way[step].reshape(len(start), -1), f"codes of step {step}")


# ---- q2c ---------------------------------------------------------------------------------------------------


@functools.cache
def digits(part: str) -> torch.Tensor:
    """Return the images of a part of MNIST, uint8 (N, 1, 28, 28)."""
    return getattr(data.load_images("mnist"), part).images


def vae_cases(rng):
    """Let nothing run in the sandbox: the file alone is judged, and the seed of the draws stays here."""
    return [Case("", about="test images, new blind blocks, a new binarisation", kept={"seed": seed(rng)})]


def vae_nats(networks: torch.nn.ModuleDict, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Read codes from what was seen, and bound -log p of whole images: the mean in nats, shape ()."""
    corner = rng.integers(28, size=(2, len(images), 1))
    rows, columns = (np.arange(28) - corner) % 28 < SIDE
    seen = torch.from_numpy(~(rows[:, :, None] & columns[:, None])).unsqueeze(1).float()
    x = torch.from_numpy(rng.random(images.shape, dtype=np.float32) * 255) < images
    noise = torch.from_numpy(rng.standard_normal((len(images), CODE), dtype=np.float32))
    total = 0.0
    for k in range(0, len(images), 500):
        part, mask = x[k : k + 500].float(), seen[k : k + 500]
        encoded = networks["encoder"](torch.cat([part * mask, mask], 1))
        mean, log_precision = encoded.chunk(2, 1)
        logits = networks["decoder"](mean + (-log_precision / 2).exp() * noise[k : k + 500])
        coins = F.binary_cross_entropy_with_logits(logits, part, reduction="none").sum((1, 2, 3))
        kl = (mean.square() + (-log_precision).exp() - 1 + log_precision).sum(1) / 2
        total = total + (coins + kl).double().sum()
    return total / len(images)


def vae_networks() -> torch.nn.ModuleDict:
    """Build the locked networks."""
    encoder = nets.conv_encoder(2 * CODE, channels=2, width=16)
    return torch.nn.ModuleDict({"encoder": encoder, "decoder": nets.conv_decoder(CODE, width=16)})


@torch.no_grad()
def vae_verify(case, outputs, weights):
    """Compare test images with training images, as many of both."""
    networks = vae_networks()
    read_into(networks, weights)
    rng = np.random.default_rng(int(case.kept["seed"]))
    some = rng.permutation(len(digits("train")))[:10_000]
    test, train = (
        vae_nats(networks, images, rng).item() for images in (digits("test"), digits("train")[some])
    )
    learned(test, train, bound=VAE_THRESHOLD, gap=VAE_GAP, what="whole test image")


# ---- q3a ---------------------------------------------------------------------------------------------------

COUPLING = (
    WATCHED
    + """
_dtype = torch.from_numpy(inputs["x"]).dtype
class _Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for _name in "first", "second", "bias":
            setattr(self, _name, torch.nn.Parameter(torch.zeros(inputs[_name].shape, dtype=_dtype)))
        self.calls = []
    def forward(self, _x):
        self.calls.append(_x.detach().clone())
        return torch.tanh(_x @ self.first.T) @ self.second.T + self.bias
def _filled():
    _network = _Network()
    with torch.no_grad():
        for _name in "first", "second", "bias":
            getattr(_network, _name).copy_(torch.from_numpy(inputs[_name]))
    return _network
_layer, _x = SubspaceCoupling(torch.from_numpy(inputs["basis"]), _filled()), torch.from_numpy(inputs["x"])
outputs["parameters"] = sum(_parameter.numel() for _parameter in _layer.parameters())
_given = _x.clone()
_z, _log_det = _layer(_given)
_pairs = [(_given, _x)]
_found = [_module for _module in _layer.modules() if isinstance(_module, _Network)]
outputs["got"], outputs["calls"] = _found[0].calls[0], len(_found[0].calls)
outputs["z"], outputs["log_det"] = _z, _log_det
_weights = [_found[0].first, _found[0].second, _found[0].bias]
_leaf = _x.clone().requires_grad_()
_parts = _layer(_leaf)
_loss = (_parts[0] * torch.from_numpy(inputs["z"])).sum() + _parts[1].sum()
_slopes = torch.autograd.grad(_loss, [_leaf, *_weights])
outputs.update(zip(("slope_x", "slope_first", "slope_second", "slope_bias"), _slopes))
_found[0].calls.clear()
_layer(_x)
_pairs.append((torch.from_numpy(inputs["z"].copy()), torch.from_numpy(inputs["z"])))
outputs["back"] = _layer.inverse(_pairs[1][0])
outputs["changed"] = _changed(*zip(*_pairs))
outputs["after"] = len(_found[0].calls)
_other = SubspaceCoupling(torch.from_numpy(inputs["decoy"]), _Network())
_other.load_state_dict(_layer.state_dict())
outputs["reloaded"] = _other(torch.cat([_x, _x[:1]]))[0][:-1]  # a batch with other statistics
outputs["back_again"] = _other.inverse(torch.from_numpy(inputs["z"].copy()))
if _dtype == torch.float32:
    outputs["double"] = _layer.double()(_x.double())[0]
"""
)


def coupling_numbers(one, x):
    """Return what the network makes of the rest of x, (r, t), and the rest."""
    rest = x - x @ one["basis"] @ one["basis"].T
    out = np.tanh(rest @ one["first"].T) @ one["second"].T + one["bias"]
    k = one["basis"].shape[1]
    return out[:, :k], out[:, k:], rest


def coupling_slopes(one):
    """Return the gradients of sum(z * w) + sum(log_det), with w the given z."""
    leaf = {name: torch.from_numpy(one[name]).requires_grad_() for name in ("x", "first", "second", "bias")}
    basis = torch.from_numpy(one["basis"])
    along = leaf["x"] @ basis
    rest = leaf["x"] - along @ basis.T
    r, t = (torch.tanh(rest @ leaf["first"].T) @ leaf["second"].T + leaf["bias"]).chunk(2, dim=1)
    log_scale = math.log(2) - F.softplus(-r)
    z = rest + (log_scale.exp() * along + t) @ basis.T
    loss = (z * torch.from_numpy(one["z"])).sum() + log_scale.sum()
    slopes = torch.autograd.grad(loss, list(leaf.values()))
    return {f"slope_{name}": slope.numpy() for name, slope in zip(leaf, slopes, strict=True)}


def coupling_cases(rng):
    """One point and many, subspaces of one and more dimensions, both types, factors that are nearly zero."""
    cases = []
    for count, m, k, kind, level in (
        (30, 2, 1, "float64", 0),
        (30, 4, 1, "float64", 0),
        (30, 4, 2, "float64", 0),
        (30, 7, 5, "float64", 0),
        (1, 3, 2, "float64", 0),
        (30, 6, 3, "float32", 0),
        (30, 5, 2, "float32", -500),
        (30, 4, 2, "float32", 500),
    ):
        basis, decoy = (np.linalg.qr(rng.normal(size=(m, k)))[0] for _ in range(2))
        bias = np.concatenate([rng.normal(size=k) + level, rng.normal(size=k)])
        one = {
            "basis": basis,
            "decoy": decoy,
            "first": rng.normal(size=(9, m)),
            "second": rng.normal(size=(2 * k, 9)) / 3,
            "bias": bias,
            "x": 1.5 * rng.normal(size=(count, m)),
            "z": 1.5 * rng.normal(size=(count, m)),
        }
        about = f"{count} points, m = {m}, k = {k}, {kind}" + (f", r near {level}" if level else "")
        cases.append(Case(COUPLING, {name: value.astype(kind) for name, value in one.items()}, about))
    return cases


def coupling_verify(case, outputs):
    """Work in coordinates along the basis and across it."""
    one = {name: value.astype(np.float64) for name, value in case.inputs.items()}
    single = case.inputs["x"].dtype == np.float32
    close = {"rtol": 1e-3, "atol": 1e-3} if single else {"rtol": 1e-6, "atol": 1e-6}
    weights = sum(one[name].size for name in ("first", "second", "bias"))
    if take(outputs, "parameters", ()) != weights:
        raise Wrong("the layer has other parameters than those of its network")
    if take(outputs, "calls", ()) != 1 or take(outputs, "after", ()) != 2:
        raise Wrong("the network was not called once in each direction")
    if not np.abs(take(outputs, "got", one["x"].shape) @ one["basis"]).max() <= (1e-4 if single else 1e-9):
        raise Wrong("the network got something with a part along the basis")
    r, t, rest = coupling_numbers(one, one["x"])
    along = one["x"] @ one["basis"]
    log_scale = math.log(2) - np.logaddexp(0, -r)
    same_type(outputs, case.inputs["x"].dtype, "z", "log_det", "back")
    match(outputs, "log_det", log_scale.sum(1), **close, what="log_det")
    for name, slope in coupling_slopes(one).items():
        tolerance = (1e-3 if single else 1e-6) * (1 + np.abs(slope).max())
        what = f"the gradient of z and log_det in {'x' if name == 'slope_x' else 'the network'}"
        if not np.abs(take(outputs, name, slope.shape, what=what) - slope).max() <= tolerance:
            raise Wrong(f"{what} is wrong")
    z = rest + (np.exp(log_scale) * along + t) @ one["basis"].T
    for name, what in ("z", "z"), ("reloaded", "z of a layer that was loaded from a file"):
        match(outputs, name, z, **close, what=what)
    if single:
        same_type(outputs, np.dtype("float64"), "double")
        match(outputs, "double", z, **close, what="z after double()")
    if one["bias"][0] < -100:
        return  # a factor that is zero in float32 has no inverse
    r, t, rest = coupling_numbers(one, one["z"])
    scale = 2 / (1 + np.exp(-r))
    back = rest + ((one["z"] @ one["basis"] - t) / scale) @ one["basis"].T
    for name, what in ("back", "inverse(z)"), ("back_again", "inverse(z) of a layer that was loaded"):
        match(outputs, name, back, **close, what=what)


# ---- q3b ---------------------------------------------------------------------------------------------------

DENSITY = (
    COUNTED
    + """
def _layer(_matrix, _bend):
    def _forward(_x):
        _calls.append(1)
        _y = _x @ _matrix.T
        _z = _y + _bend * torch.tanh(_y)
        _slope = 1 + _bend * (1 - torch.tanh(_y) ** 2)
        return _z, _slope.log().sum(1) + torch.linalg.slogdet(_matrix).logabsdet
    return _forward
_layers = [_layer(*_pair) for _pair in zip(_one["matrices"], _one["bends"])]
_noise = _one["means"], _one["roots"], _one["logits"]
_before = [_value.clone() for _value in _one.values()]
outputs["log_p"], outputs["shares"] = density(_layers, _one["x"], *_noise)
outputs["calls"] = len(_calls)
outputs["changed"] = _changed(_one.values(), _before)
outputs["tensors"] = _tensors(outputs["log_p"], outputs["shares"])
_leaves = {_name: _value for _name, _value in _one.items() if _value.numel()}
for _value in _leaves.values():
    _value.requires_grad_()
_layers = [_layer(*_pair) for _pair in zip(_one["matrices"], _one["bends"])]
_log_p = density(_layers, _one["x"], _one["means"], _one["roots"], _one["logits"])[0]
_slopes = torch.autograd.grad(_log_p.sum(), list(_leaves.values()))
outputs.update((f"slope_{_name}", _slope) for _name, _slope in zip(_leaves, _slopes))
"""
)


def mixture_parts(rng, parts, m, spread):
    """Draw means, roots and logits of a mixture; without a spread of the roots its parts overlap."""
    return {
        "means": (3 if spread else 0.5) * rng.normal(size=(parts, m)),
        "roots": roots(rng, parts, m, spread),
        "logits": 2 * rng.normal(size=parts) + 4,
    }


def density_cases(rng):
    """One point and many, no layer and several, one part and many, ill-conditioned ones, distant points."""
    cases = []
    for count, layers, parts, m, spread, kind, far in (
        (40, 0, 1, 1, 0.3, "float64", 1),
        (1, 2, 3, 2, 0.3, "float64", 1),
        (40, 1, 4, 3, 0, "float64", 1),
        (40, 0, 4, 3, 1, "float64", 1),
        (40, 3, 3, 2, 0.5, "float64", 1),
        (40, 2, 5, 6, 0.5, "float64", 300),
        (40, 0, 3, 3, 3, "float32", 1),
        (40, 0, 2, 3, 5, "float64", 1),
        (40, 2, 2, 4, 0.3, "float32", 1),
    ):
        one = mixture_parts(rng, parts, m, spread) | {
            "matrices": rng.normal(size=(layers, m, m)) + 2 * np.eye(m),
            "bends": rng.uniform(0.2, 2, size=layers),
            "x": far * rng.normal(size=(count, m)),
        }
        one["logits"] *= 20 if far > 1 else 1
        about = f"{count} points, {layers} layers, {parts} parts, {m} dimensions, {kind}"
        cases.append(Case(DENSITY, {name: value.astype(kind) for name, value in one.items()}, about))
    return cases


def density_verify(case, outputs):
    """Add up logarithms, part by part."""
    one = {name: value.astype(np.float64) for name, value in case.inputs.items()}
    x, total = one["x"], 0.0
    for matrix, bend in zip(one["matrices"], one["bends"], strict=True):
        y = x @ matrix.T
        x = y + bend * np.tanh(y)
        total = total + np.log1p(bend / np.cosh(y.clip(-300, 300)) ** 2).sum(1) + np.linalg.slogdet(matrix)[1]
    joint = []
    for mean, root, logit in zip(one["means"], one["roots"], one["logits"], strict=True):
        white = (x - mean) @ root
        normal = np.log(root.diagonal()).sum() - (white**2 + math.log(2 * math.pi)).sum(1) / 2
        joint.append(logit - logsumexp(one["logits"]) + normal)
    joint = np.stack(joint, 1)
    close = loose(case.inputs["x"])
    if take(outputs, "calls", ()) != len(one["matrices"]):
        raise Wrong("a layer was not called once")
    same_type(outputs, case.inputs["x"].dtype, "log_p", "shares")
    match(outputs, "log_p", total + logsumexp(joint, axis=1), **close, what="log p")
    shares = softmax(joint, axis=1)
    found = take(outputs, "shares", shares.shape, what="shares")
    # A float32 joint of 1e5 is rounded to 0.01: where it decides, shares may be off by as much.
    rounding = 1e-6 * np.abs(joint).max(1, keepdims=True) if case.inputs["x"].dtype == np.float32 else 0
    if not (np.abs(found - shares) <= 1e-5 + rounding).all():
        raise Wrong("shares are wrong")
    if case.inputs["x"].dtype == np.float64 and np.abs(x).max() < 100:
        for name, slope in density_slopes(one).items():
            what = f"the gradient of log p in {name.removeprefix('slope_')}"
            found = take(outputs, name, slope.shape, what=what)
            found = np.tril(found) if name == "slope_roots" else found
            if not np.abs(found - slope).max() <= 1e-5 * (1 + np.abs(slope).max()):
                raise Wrong(f"{what} is wrong")


def density_slopes(one):
    """Return the gradients of sum(log p), by automatic differentiation of a loop over parts."""
    leaf = {name: torch.from_numpy(value).requires_grad_() for name, value in one.items() if value.size}
    x, total = leaf["x"], 0.0
    for matrix, bend in zip(leaf.get("matrices", ()), leaf.get("bends", ()), strict=True):
        y = x @ matrix.T
        x = y + bend * y.tanh()
        total = (
            total + (bend / y.cosh().square()).log1p().sum() + len(y) * torch.linalg.slogdet(matrix).logabsdet
        )
    joint = []
    for mean, root, logit in zip(leaf["means"], leaf["roots"], leaf["logits"], strict=True):
        white = (x - mean) @ root.tril()
        normal = root.diagonal().log().sum() - white.square().sum(1) / 2
        joint.append(logit - leaf["logits"].logsumexp(0) + normal)
    total = total + torch.stack(joint, 1).logsumexp(1).sum()
    slopes = torch.autograd.grad(total, list(leaf.values()))
    return {f"slope_{name}": slope.numpy() for name, slope in zip(leaf, slopes, strict=True)}


# ---- q3c ---------------------------------------------------------------------------------------------------

SAMPLE = (
    COUNTED
    + """
import types
def _layer(_matrix, _shift):
    def _inverse(_z):
        _calls.append(len(_z))
        return _z @ _matrix.T + _shift
    return types.SimpleNamespace(inverse=_inverse)
_layers, _wrong = [_layer(*_pair) for _pair in zip(_one["matrices"], _one["shifts"])], []
for _name, _n, _seed in ("first", 50, 0), ("again", 50, 0), ("other", 50, 1), ("many", 4000, 2):
    _calls.clear()
    _generator = torch.Generator().manual_seed(inputs["seed"].item() + _seed)
    outputs[_name], _part = sample(_layers, _one["means"], _one["roots"], _one["logits"], _n, _generator)
    _wrong.append(_calls != [_n] * len(_layers))
outputs["part"], outputs["miscalled"] = _part, any(_wrong)
_generator = torch.Generator().manual_seed(inputs["seed"].item())
_before = [_value.clone() for _value in _one.values()]
_noise = _one["means"], _one["roots"], _one["logits"]
outputs["next"] = [sample(_layers, *_noise, 50, _generator)[0] for _ in range(2)][1]
outputs["changed"] = _changed(_one.values(), _before)
_ones = [sample(_layers, *_noise, 1, _generator) for _ in range(400)]
outputs["single"], outputs["single_part"] = (torch.cat(_some) for _some in zip(*_ones))
"""
)


def sample_cases(rng):
    """No layer and several, one part and many, rare parts."""
    cases = []
    for layers, parts, m, spread, kind in (
        (0, 1, 1, 0.4, "float64"),
        (0, 3, 2, 0.4, "float64"),
        (3, 2, 3, 0.4, "float64"),
        (2, 5, 4, 0.4, "float64"),
        (0, 2, 3, 5, "float64"),
        (1, 2, 2, 0.2, "float32"),
    ):
        one = mixture_parts(rng, parts, m, spread) | {
            "matrices": rng.normal(size=(layers, m, m)) + 2 * np.eye(m),
            "shifts": rng.normal(size=(layers, m)),
        }
        one = {name: value.astype(kind) for name, value in one.items()}
        about = f"{layers} layers, {parts} parts, {m} dimensions, {kind}"
        cases.append(Case(SAMPLE, one | {"seed": seed(rng)}, about))
    return cases


def sample_verify(case, outputs):
    """Undo the layers, and judge each part's noise, the parts, and that no point knows of another."""
    one = {name: value.astype(np.float64) for name, value in case.inputs.items()}
    count, m = one["means"].shape
    follows_generator(outputs, "samples")
    same_type(outputs, case.inputs["means"].dtype, "first", "many", "single")
    if take(outputs, "miscalled", ()):
        raise Wrong("a layer was not called once, with all points")
    for z, part in ("many", "part"), ("single", "single_part"):
        n = 4000 if z == "many" else 400
        take(outputs, part, (n,), what="parts")
        if outputs[part].dtype != np.int64 or not np.isin(outputs[part], np.arange(count)).all():
            raise Wrong(f"parts are not int64 numbers 0 ... {count - 1}")
        what = "points" if z == "many" else "points drawn one by one"
        judge_draws(one, take(outputs, z, (n, m), what=what), outputs[part], what)


def judge_draws(one, z, part, what):
    """Raise Wrong unless points and parts are independent draws from the model."""
    count, n = len(one["means"]), len(z)
    weights = softmax(one["logits"])
    counts, expected = np.bincount(part, minlength=count), n * weights
    common = expected >= 5
    if not common.all():
        counts = np.append(counts[common], counts[~common].sum())
        expected = np.append(expected[common], expected[~common].sum())
    statistic = ((counts - expected) ** 2 / expected).sum()
    if len(counts) > 1 and not statistic <= stats.chi2.isf(CHANCE, len(counts) - 1):
        raise Wrong(f"{what}: the parts do not occur with their weights")
    for matrix, shift in zip(one["matrices"], one["shifts"], strict=True):
        z = np.linalg.solve(matrix, (z - shift).T).T
    white = np.einsum("bij,bi->bj", one["roots"][part], z - one["means"][part])
    for c in range(count):
        if (part == c).sum() >= 400:
            standard_normal(white[part == c], f"{what} of part {c}")
    standard_normal(white, f"{what} of all parts")
    independent_events(part[:, None] == np.arange(count), weights, f"{what}: parts")
    independent(white, f"{what}: noise")


# ---- q3d ---------------------------------------------------------------------------------------------------


def sensor() -> np.ndarray:
    """Return the matrix of the sensor, as in the notebook."""
    first = np.array([[0.5, 0.866], [-0.866, 0.5]])
    return np.array([[0.8, -0.6], [0.6, 0.8]]) @ (np.array([40.0, 0.1])[:, None] * first)


def flow_log_prob(weights: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
    """Return the log-density of the locked RealNVP, float64 (B,)."""
    x = (y - weights["shift"]) @ weights["matrix"].T
    total = torch.linalg.slogdet(weights["matrix"]).logabsdet.expand(len(y))
    for t in range(8):
        kept, moved = x[:, :1], x[:, 1:]
        h = kept
        for k in (0, 2, 4):
            h = F.linear(
                F.relu(h) if k else h, weights[f"networks.{t}.{k}.weight"], weights[f"networks.{t}.{k}.bias"]
            )
        log_scale = 2 * torch.tanh(h[:, :1] / 2)
        x = torch.cat([log_scale.exp() * moved + h[:, 1:], kept], 1)
        total = total + log_scale[:, 0]
    return total - (x.square() + math.log(2 * math.pi)).sum(1) / 2


def flow_cases(rng):
    """One draw of new readings; the file alone is judged, so nothing runs in the sandbox."""
    return [Case("", about="20,000 new readings", kept={"seed": seed(rng)})]


@torch.no_grad()
def flow_verify(case, outputs, weights):
    """Compare with the exact density of new readings."""
    shapes = {"shift": (2,), "matrix": (2, 2)}
    for t in range(8):
        for k, (above, below) in {0: (48, 1), 2: (48, 48), 4: (2, 48)}.items():
            shapes |= {f"networks.{t}.{k}.weight": (above, below), f"networks.{t}.{k}.bias": (above,)}
    if set(weights) != set(shapes):
        raise Wrong(
            f"the file holds tensors named otherwise than the locked cell writes them: {sorted(shapes)}"
        )
    arrays = {name: torch.from_numpy(take(weights, name, shape)) for name, shape in shapes.items()}
    moons, matrix = data.moons(), torch.from_numpy(sensor())
    moon = moons.sample(20_000, seed=int(case.kept["seed"])).double()
    y = (moon @ matrix.T + torch.tensor([300.0, -120.0])).float().double()
    truth = moons.log_prob(moon) - torch.linalg.slogdet(matrix).logabsdet
    gap = truth - flow_log_prob(arrays, y)
    kl = gap.mean().item()
    cheap(kl, FLOW_THRESHOLD, "nats above the entropy of the readings")


QUESTIONS = [
    Question("q1a", 1, code_cases, code_verify),
    Question("q1b", 1, mean_elbo_cases, mean_elbo_verify),
    Question("q1c", 1, best_cases, best_verify),
    Question("q1d", 1, lean_cases, lean_verify),
    Question("q2a", 1, seen_cases, seen_verify),
    Question("q2b", 1, walk_cases, walk_verify),
    Question("q2c", 2, vae_cases, vae_verify, weights="hw3_q2c.safetensors"),
    Question("q3a", 1, coupling_cases, coupling_verify),
    Question("q3b", 1, density_cases, density_verify),
    Question("q3c", 1, sample_cases, sample_verify),
    Question("q3d", 2, flow_cases, flow_verify, weights="hw3_q3d.safetensors"),
]
