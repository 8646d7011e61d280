"""Hidden checks of homework 2, and the instructor's notes: what is judged, by which bound, why that bound.

Written answers (q1a, q2a, q3a, q4a, q5a; 7.5 points) are marked by hand: the rubric stands at the end of each
answer in the solution notebook, and the grader reports them as `manual`, with no points yet. Functions (7.5
points) are tried on inputs that their visible checks do not use. References are computed here, by another
way than the solution's: by sorting, by trying, by construction, by quadrature, with 60 digits.

=====  ======  ===========================================================================================
q      points  bound
=====  ======  ===========================================================================================
q1b    1       exact; a million units within the memory of the sandbox
q1c    1       exact, counts beyond 2**53
q2b    0.5     exact
q3b    1       1e-5 relative or 1e-7 absolute
q4b    1       expectation by quadrature: 1e-7 of the size of the terms
q4c    1       1e-8 relative
q5b    1       1e-6 relative or 1e-8 absolute
q5c    1       as q5b; inf where the integral diverges
=====  ======  ===========================================================================================

**Chance** plays no part: no check samples. Inputs are drawn so that the bounds hold for every draw; a right
answer is never refused by bad luck, and a wrong one has none to hope for. Figures below: the largest over
150 draws (q5b, q5c: 30).

**NaN** fails: `take` refuses it, and where inf is allowed the comparison is written so that NaN does not
pass.

**q1b.** The masks of a million units and 1500 inputs have 1.5e9 entries each, 6 GB as float32; a process may
use 2.5 GB. Taken in pieces, or over the units that differ (about 670,000), their product needs 3e12
multiplications. The solution needs 18 MB a table. The reference adds a rectangle of pairs for every unit.

**q1c.** The last case has 13 layers with 24 equal units each and more than 25**13 = 1.5e18 paths, which is
above 2**53 and below 2**62. float64 fails there, float32 in most cases.

**q3b.** The reference adds the rank-one terms one at a time (Sherman, Morrison); the solution has one
Cholesky factor of r rows (Woodbury). Small cases agree with dense matrices of torch (tested). In 300,000
dimensions such a matrix would need 720 GB.

**q4b.** log p(x, z) is a polynomial of degree 4 and the score one of degree 2 at most; their product has
degree 6, and Gauss-Hermite quadrature with 10 points is exact up to degree 19. What remains is rounding:
1e-15 of the size of the terms. The exact gradient comes from another formula, E[h'] and E[(z - mu) h'] + 1
with the derivative h' of the polynomial. Every unbiased estimator passes, one that subtracts a constant as
well, or that knows the entropy's gradient. log_joint is a table of the rows of z: what lies between them is
NaN, and slopes of the polynomial and weights of the quadrature stay here. To forget the entropy is an error
of 1, at terms of size 1 to 1000.

**q4c.** The solution sorts products of samples; the reference takes the estimator as a U-statistic of pairs,
with moments by quadrature. Sampling would need 1e16 samples.

**q5b, q5c.** Without cancellation 4e-14 is reached. The definition as it stands errs by about 4e-16 /
distance from the limit, absolutely: 4e-3 at 1e-13, and 4e-7 at 1e-9, too much for close pairs, whose
divergences are near 0.03. KL in its place errs by about the distance, relatively: refused at 1e-5. Who
computes the definition and switches to KL closer than delta passes for delta from 2e-9 to 9e-6. Gaussian
cases stay away from the alpha at which their integral begins to diverge.
"""

import json
from contextlib import contextmanager
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext

import numpy as np
from scipy import special

from grading.judges import same_type
from grading.questions import Case, Question, Wrong, call, match, some_or_all, take

# ---- q1b ---------------------------------------------------------------------------------------------------


def compare_counts(outputs, expected):
    """Say where numbers of paths are wrong, and not what is right."""
    take(outputs, "0", expected.shape, what="the table")
    same_type(outputs, np.dtype("int64"), "0")
    counts = outputs["0"]  # `take` alone would round it to float64
    if np.triu(counts).any():
        raise Wrong("there are paths from an input to its own or to an earlier output")
    wrong = counts != expected
    if wrong.any():
        raise Wrong(f"numbers of paths: {some_or_all(wrong)} wrong")


def units(rng, n, m):
    """Draw first and last inputs of n hidden units."""
    return np.sort(rng.integers(1, m + 1, size=(2, n)), axis=0)


def wide_cases(rng):
    """Few and many units, short and full contexts, one first input for all, a million units."""
    cases = []
    for m, n, context in (
        (2, 4, 1),
        (7, 30, 1),
        (12, 200, 4),
        (20, 50, 19),
        (200, 40, 60),
        (1500, 1_000_000, 400),
    ):
        cases.append((*units(rng, n, m), m, context, f"{n:,} units, context {context}"))
    _, last = units(rng, 60, 9)
    cases.append((np.ones_like(last), last, 9, 8, "every unit hears the first input"))
    cases.append((last, last, 9, 3, "every unit hears one input"))
    driver = call("path_counts", "first", "last", "m", "context", tensors=True)
    return [
        Case(
            driver,
            {"first": first, "last": last, "m": np.asarray(m), "context": np.asarray(context)},
            f"{m} inputs, {about}",
        )
        for first, last, m, context, about in cases
    ]


def wide_counts(first, last, m, context):
    """Return the numbers of paths: each unit adds one to a rectangle, by marks at its corners."""
    marks = np.zeros((m + 1, m + 1), dtype=np.int64)  # outputs and inputs from 0, and one beyond
    top, bottom = last, np.maximum(np.minimum(first + context, m), last)  # outputs top + 1, ..., bottom
    for row, column, sign in (
        (top, first - 1, 1),
        (top, last, -1),
        (bottom, first - 1, -1),
        (bottom, last, 1),
    ):
        np.add.at(marks, (row, column), sign)
    return marks.cumsum(0).cumsum(1)[:m, :m]


def wide_verify(case, outputs):
    """Add up the rectangles of all units."""
    given = case.inputs
    expected = wide_counts(given["first"], given["last"], int(given["m"]), int(given["context"]))
    compare_counts(outputs, expected)


# ---- q1c ---------------------------------------------------------------------------------------------------

DEEP = """
import torch
_names = [f"layer{_k}" for _k in range(inputs["layers"].item())]
_layers = [torch.from_numpy(inputs[_name].copy()) for _name in _names]
_given = list(_layers)
outputs["0"] = deep_path_counts(_given, inputs["m"].item())
_same = [_one is _other for _one, _other in zip(_given, _layers)]
_same += [(_layer.numpy() == inputs[_name]).all() for _layer, _name in zip(_layers, _names)]
outputs["changed"] = len(_given) != len(_layers) or not all(_same)
"""


def deep_cases(rng):
    """One to five layers of unequal sizes, then many layers with more paths than a float64 can count."""
    cases = []
    for m, sizes in (
        (5, (9,)),
        (6, (8, 13)),
        (40, (50, 20, 70)),
        (9, (3, 200, 5, 11, 30)),
        (3, (300, 290, 300)),
    ):
        layers = [rng.integers(0, m + 1, size=size) for size in sizes]
        cases.append((m, layers, f"{m} inputs, hidden layers of {list(sizes)} units"))
    rising = [rng.permutation(np.repeat([0, 2, 3, 4], [3, 24, 2, 2])) for _ in range(13)]
    cases.append((6, rising, "13 layers, more than 2**53 paths"))
    return [
        Case(
            DEEP,
            {
                "m": np.asarray(m),
                "layers": np.asarray(len(layers)),
                **{f"layer{k}": x for k, x in enumerate(layers)},
            },
            about,
        )
        for m, layers, about in cases
    ]


def deep_verify(case, outputs):
    """Walk from layer to layer with Python's integers, which never overflow, one degree at a time."""
    m = int(case.inputs["m"])
    expected = np.zeros((m, m), dtype=np.int64)
    for j in range(1, m + 1):
        ways = {j: 1}  # number of ways to units of each degree, of all layers so far
        for k in range(int(case.inputs["layers"])):
            degrees, number = np.unique(case.inputs[f"layer{k}"], return_counts=True)
            here = {
                int(a): int(count) * sum(w for b, w in ways.items() if b <= a)
                for a, count in zip(degrees, number, strict=True)
            }
            ways = {a: ways.get(a, 0) + here.get(a, 0) for a in ways | here}
        for i in range(1, m + 1):
            expected[i - 1, j - 1] = sum(w for a, w in ways.items() if a < i)
    compare_counts(outputs, expected)


# ---- q2b ---------------------------------------------------------------------------------------------------

HEADS = """
import builtins, json
import numpy
_image = inputs["image"].tolist()
_sizes = head_sizes(*_image)
_places = crossover(_image[2], _image[3], _image[5])
for _name, _numbers in ("sizes", _sizes), ("places", _places):
    _numbers = _numbers if builtins.type(_numbers) is builtins.tuple else ()
    _text = json.dumps([builtins.int(_n) if builtins.type(_n) is builtins.int else None for _n in _numbers])
    outputs[_name] = numpy.frombuffer(_text.encode(), dtype="uint8")
"""


def heads_cases(rng):
    """Small images, one and many channels, low and full ranks, divisions without rest, large images."""
    many = int(rng.integers(4, 9))
    images = [
        (1, 1, 1, 3, 1, 1),
        (4, 6, 1, 256, int(rng.integers(2, 50)), 1),
        (32, 32, 3, 256, int(rng.integers(2, 50)), int(rng.integers(1, 4))),
        (7, 5, 2, 4, int(rng.integers(2, 50)), 1),  # 2 * 3 + 1 = 7, and 6 for a component
        (7, 5, 3, 10 * int(rng.integers(1, 30)) + 4, 9, 1),  # 3 * (V - 1) + 1 divides by 10
        (2, 3, many, int(rng.integers(20, 5000)), int(rng.integers(1, 300)), int(rng.integers(2, many + 1))),
        (2, 3, 9, int(rng.integers(20, 5000)), int(rng.integers(2, 300)), int(rng.integers(2, 5))),
        (3, 2, 2, 3 * int(rng.integers(2, 300)), 17, 2),  # divides by 3
        (300_007, 400_009, int(rng.integers(9, 14)), 65_535, int(rng.integers(300, 3000)), 3),
    ]
    about = "width, height, channels, values, components, rank ="
    return [Case(HEADS, {"image": np.array(image)}, f"{about} {image}") for image in images]


def covariance_dimension(channels, rank):
    """Return the dimension of diag(s^2) + U U', as the rank of its Jacobian at a random place."""
    rng, moves = np.random.default_rng(0), []
    factor, scale = rng.normal(size=(channels, rank)), rng.uniform(0.5, 2, size=channels)
    for a in range(channels):
        moves.append(np.diag(2 * scale**2 * (np.arange(channels) == a)))
        for b in range(rank):
            move = np.zeros((channels, channels))
            move[a] = factor[:, b]
            moves.append(move + move.T)
    return int(np.linalg.matrix_rank(np.reshape(moves, (len(moves), -1))))


def numbers_of(outputs, name, count):
    """Read a list of Python ints of any size, written as text."""
    try:
        numbers = json.loads(outputs[name].astype(np.uint8).tobytes().decode()[:10_000])
    except (KeyError, ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or len(numbers) != count or any(type(n) is not int for n in numbers):
        raise Wrong(f"expected a tuple of {count} Python ints")
    return numbers


def heads_verify(case, outputs):
    """Add up what every head is free to choose; find the crossing by trying."""
    width, height, channels, values, components, rank = map(int, case.inputs["image"])
    free = channels + covariance_dimension(channels, rank)

    def heads(pixels, c):
        factor = (c - 1) + sum(free for _ in range(c)) if c < 10_000 else c * (free + 1) - 1
        return pixels * channels * (values - 1), pixels * channels * ((c - 1) + c + c), pixels * factor

    names = ("the categorical head", "the logistic mixture head", "the factor head")
    sizes = numbers_of(outputs, "sizes", 3)
    for name, size, expected in zip(names, sizes, heads(width * height, components), strict=True):
        if size != expected:
            raise Wrong(f"the size of {name} is wrong")
    for place, (name, number) in enumerate(
        zip(names[1:], numbers_of(outputs, "places", 2), strict=True), start=1
    ):
        above = number >= 1 and heads(1, number)[place] > heads(1, number)[0]
        if not above or heads(1, number - 1)[place] > heads(1, number - 1)[0]:
            raise Wrong(f"the crossover of {name} is {'too small' if not above else 'too large'}")


# ---- q3b ---------------------------------------------------------------------------------------------------

GAUSSIANS = ("mean_1", "diagonal_1", "factor_1", "mean_2", "diagonal_2", "factor_2")


def one_by_one(diagonal, factor):
    """Return (columns, log-determinant) of a precision: its inverse is diag(1 / diagonal) minus them.

    The rank-one terms are added one after the other (Sherman and Morrison).
    """
    columns, log_determinant = [], np.log(diagonal).sum()
    for u in factor.T:
        w = u / diagonal - sum(a * (a @ u) for a in columns)
        columns.append(w / np.sqrt(1 + u @ w))
        log_determinant += np.log1p(u @ w)
    return columns, log_determinant


def low_rank_kl(mean_1, diagonal_1, factor_1, mean_2, diagonal_2, factor_2):
    """Return the divergence of one pair of Gaussians."""
    columns, log_determinant_1 = one_by_one(diagonal_1, factor_1)
    trace = (diagonal_2 * (1 / diagonal_1 - sum(a**2 for a in columns)) - 1).sum()
    for u in factor_2.T:
        trace += u @ (u / diagonal_1) - sum((a @ u) ** 2 for a in columns)
    shift = mean_1 - mean_2
    square = (diagonal_2 * shift**2).sum() + ((shift @ factor_2) ** 2).sum()
    return 0.5 * (trace + square + log_determinant_1 - one_by_one(diagonal_2, factor_2)[1])


def gaussian(rng, shape, rank, strength=1.0, spread=1.0):
    """Draw mean, diagonal and factor of Gaussians."""
    diagonal = np.exp(spread * rng.normal(size=shape))
    factor = strength * rng.normal(size=(*shape, rank)) * np.sqrt(diagonal)[..., None] / np.sqrt(shape[-1])
    return rng.normal(size=shape) / np.sqrt(diagonal), diagonal, factor


def kl_cases(rng):
    """One and many dimensions, batches that broadcast, strong factors, too many dimensions for a matrix."""
    pairs = [
        ("one dimension", gaussian(rng, (1,), 1), gaussian(rng, (1,), 1)),
        ("5 dimensions, 4 pairs", gaussian(rng, (4, 5), 2), gaussian(rng, (4, 5), 3)),
        ("3 dimensions, more factors than that", gaussian(rng, (3,), 5), gaussian(rng, (3,), 1)),
        ("one Gaussian against four", gaussian(rng, (6,), 2), gaussian(rng, (4, 6), 2)),
        ("2 x 1 against 4", gaussian(rng, (2, 1, 7), 2), gaussian(rng, (4, 7), 1)),
        ("strong factors", gaussian(rng, (40,), 4, strength=500), gaussian(rng, (40,), 3, strength=500)),
        ("wide diagonals", gaussian(rng, (60,), 8, spread=4), gaussian(rng, (60,), 8, spread=4)),
        ("300,000 dimensions", gaussian(rng, (300_000,), 3), gaussian(rng, (300_000,), 2, strength=20)),
    ]
    one, other = gaussian(rng, (200_000,), 2), gaussian(rng, (200_000,), 2, strength=3)
    pairs.append(("200,000 dimensions, one diagonal", one, (one[0], one[1], other[2])))
    driver = call("gaussian_kl", *GAUSSIANS, tensors=True)
    return [
        Case(driver, dict(zip(GAUSSIANS, (*first, *second), strict=True)), about)
        for about, first, second in pairs
    ]


def kl_verify(case, outputs):
    """Add the factors one at a time, pair by pair."""
    given = [case.inputs[name] for name in GAUSSIANS]
    core = [2 if name.startswith("factor") else 1 for name in GAUSSIANS]
    shape = np.broadcast_shapes(*(value.shape[:-n] for value, n in zip(given, core, strict=True)))
    full = [np.broadcast_to(value, (*shape, *value.shape[-n:])) for value, n in zip(given, core, strict=True)]
    expected = np.array([low_rank_kl(*(value[at] for value in full)) for at in np.ndindex(shape)])
    same_type(outputs, np.dtype("float64"), "0")
    match(outputs, "0", expected.reshape(shape), rtol=1e-5, atol=1e-7, what="the divergences")


# ---- q4b ---------------------------------------------------------------------------------------------------

SCORE = """
import torch
_names = "mean", "log_std", "z"
_mean, _log_std, _z = (torch.from_numpy(inputs[_name].copy()) for _name in _names)
_rows, _values = torch.from_numpy(inputs["z"]), torch.from_numpy(inputs["values"])
_elsewhere = []
def _log_joint(_x):  # a table: it knows the rows of z and nothing between them
    _at = (_x.detach().unsqueeze(1) == _rows).all(-1)
    _found = _at.any(1)
    _elsewhere.extend([] if _found.all() else [1])
    return torch.where(_found, _values[_at.int().argmax(1)], torch.nan)
for _name, _some in ("", _z), ("_alone", _z[2:3].clone()):
    outputs[f"mean{_name}"], outputs[f"log_std{_name}"] = score_gradient(_mean, _log_std, _log_joint, _some)
outputs["elsewhere"] = float(bool(_elsewhere))
outputs["changed"] = any(
    (_one.numpy() != inputs[_name]).any() for _one, _name in zip((_mean, _log_std, _z), _names)
)
"""


def hermite(mean, std, order=10):
    """Return points (order**d, d) and weights that average polynomials under a diagonal Gaussian."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    points = np.stack(np.meshgrid(*[nodes] * len(mean), indexing="ij"), -1).reshape(-1, len(mean))
    products = np.stack(np.meshgrid(*[weights / weights.sum()] * len(mean), indexing="ij"), -1)
    return mean + std * points, products.reshape(-1, len(mean)).prod(1)


def score_cases(rng):
    """One to three latents, wide and narrow encoders, levels from 0 to -300 nats."""
    cases = []
    for d, level in (1, 0.0), (1, -300.0), (2, -20.0), (3, -90.0):
        cross = rng.normal(size=(d, d))
        mean, log_std = rng.normal(size=d), rng.uniform(0.3, 1.0, size=d) * rng.choice([-1, 1], size=d)
        z, weights = hermite(mean, np.exp(log_std))
        matrix, vector, direction = cross @ cross.T + 0.2 * np.eye(d), rng.normal(size=d), rng.normal(size=d)
        inputs = {"mean": mean, "log_std": log_std, "z": z}
        inputs["values"] = level + z @ vector - 0.5 * ((z @ matrix) * z).sum(1) - 0.05 * (z @ direction) ** 4
        slope = vector - z @ matrix - 0.2 * (z @ direction)[:, None] ** 3 * direction
        kept = {"weights": weights, "slope": slope}
        cases.append(Case(SCORE, inputs, f"{d} latents, log p(x, z) around {level:g}", kept))
    return cases


def score_verify(case, outputs):
    """Average the terms by quadrature; the exact gradient comes from the derivative of the polynomial."""
    if take(outputs, "elsewhere", ()):
        raise Wrong("log_joint was called at points that are not rows of z")
    z, weights, slope = case.inputs["z"], case.kept["weights"], case.kept["slope"]
    exact = {"mean": weights @ slope, "log_std": weights @ (slope * (z - case.inputs["mean"])) + 1}
    for name, expected in exact.items():
        terms = take(outputs, name, z.shape, what=f"the terms for {name}")
        alone = take(outputs, f"{name}_alone", (1, z.shape[1]), what=f"the terms for {name}, of one row")
        same_type(outputs, np.dtype("float64"), name, f"{name}_alone")
        size = np.abs(terms).max()
        if not np.abs(alone[0] - terms[2]).max() <= 1e-9 * (1 + size):
            raise Wrong(f"the term of a sample for {name} changes with the other samples")
        scale = 1 + np.abs(expected) + weights @ np.abs(terms)
        wrong = ~(np.abs(weights @ terms - expected) <= 1e-7 * scale)
        if wrong.any():
            raise Wrong(f"the terms for {name} do not average to the gradient of the ELBO")


# ---- q4c ---------------------------------------------------------------------------------------------------


def variance_cases(rng):
    """One to a thousand latents, levels up to hundreds of nats, curvatures of both signs and zero."""
    cases = []
    for d, level, n in (
        (1, 0.0, 2),
        (1, float(rng.normal()), 5),
        (2, -3.0, 3),
        (5, -100.0, 2),
        (40, 7.5, 100),
        (1000, -350.0, 1_000_000),
    ):
        curvature = rng.normal(size=d)
        curvature[rng.random(d) < 0.2] = 0
        curvature[0] = rng.uniform(0.5, 1.5)
        inputs = {
            "mean": rng.normal(size=d),
            "std": np.exp(rng.normal(size=d)),
            "level": np.asarray(level),
            "curvature": curvature,
            "target": rng.normal(size=d),
            "n": np.asarray(n),
        }
        driver = call("leave_one_out_variance", *inputs, tensors=True)
        cases.append(Case(driver, inputs, f"{d} latents, level {level:.3g}, {n} samples"))
    return cases


def variance_verify(case, outputs):
    """Take the estimator as a U-statistic of pairs (Hoeffding), with moments by quadrature."""
    given, n = case.inputs, int(case.inputs["n"])
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    weights /= weights.sum()
    z = given["mean"][:, None] + given["std"][:, None] * nodes  # (d, 10)
    part = -0.5 * given["curvature"][:, None] * (z - given["target"][:, None]) ** 2
    part -= (part @ weights)[:, None]
    spread = part**2 @ weights
    rest = spread.sum() - spread  # variance of the other coordinates together
    slope = part @ (weights * nodes)
    alone = part**2 @ (weights * nodes**2) + rest - slope**2  # variance of a sample times its own score
    # The kernel of a pair is (h - h')(score - score') / 2; given one sample, a quarter of `alone`.
    both = weights[:, None] * weights
    apart = (part[:, :, None] - part[:, None]) ** 2 * (nodes[:, None] - nodes) ** 2  # (d, 10, 10)
    pair = ((apart * both).sum((1, 2)) + 4 * rest - (2 * slope) ** 2) / 4
    variance = (4 * (n - 2) * alone / 4 + 2 * pair) / (n * (n - 1)) / given["std"] ** 2
    same_type(outputs, np.dtype("float64"), "0")
    match(outputs, "0", variance, rtol=1e-8, atol=0, what="the variances")


# ---- q5b ---------------------------------------------------------------------------------------------------

ALPHAS = (-3.0, -1.7, -0.5, 0.0, 0.4, 1.6, 2.9)
NEAR = (0.0, *(sign * distance for distance in (1e-4, 1e-5, 1e-9, 1e-11, 1e-13) for sign in (1, -1)))
FOR_EACH = """
import torch
_names = {names}
_arguments = [torch.from_numpy(inputs[_name].copy()) for _name in _names]
outputs["values"] = torch.stack([{function}(*_arguments, _alpha) for _alpha in inputs["alphas"].tolist()])
outputs["changed"] = any((_one.numpy() != inputs[_name]).any() for _one, _name in zip(_arguments, _names))
"""


def alphas_near(limit):
    """Return the limit and points on both sides of it."""
    return np.array([limit + distance for distance in NEAR])


def all_alphas(rng):
    """Return (alphas, what they are) of the three groups that are tried."""
    drawn = np.append(ALPHAS, rng.uniform(-0.95, 0.95, size=2))
    return (
        (drawn, "alpha between -3 and 3"),
        (alphas_near(1.0), "alpha near 1"),
        (alphas_near(-1.0), "alpha near -1"),
    )


def same_values(outputs, expected, what):
    """Compare to 1e-6 relative or 1e-8 absolute; inf must be where it is expected, beyond 1e300 it may be."""
    same_type(outputs, np.dtype("float64"), "values")
    if "values" in outputs:  # `take` refuses inf
        outputs = {"values": np.nan_to_num(outputs["values"], nan=np.nan, posinf=1e308)}
    value = take(outputs, "values", expected.shape, what=what)
    huge = expected > 1e300
    if not (value[huge] >= 1e300).all():
        raise Wrong(f"{what}: a value is finite where the integral diverges")
    wrong = ~(np.abs(value - expected)[~huge] <= 1e-8 + 1e-6 * np.abs(expected[~huge]))
    if wrong.any():
        raise Wrong(f"{what}: {some_or_all(wrong)} wrong")


def categorical_cases(rng):
    """Few and many values, batches and broadcasting, rare values down to e^-250."""
    cases = []
    for shape_p, shape_q, scale in (
        ((2,), (2,), 1.5),
        ((3, 8), (3, 8), 2.0),
        ((1, 5), (4, 5), 1.5),
        ((2, 1, 40), (3, 40), 3.0),
    ):
        while True:
            log_p, log_q = (
                special.log_softmax(scale * rng.normal(size=shape), -1) for shape in (shape_p, shape_q)
            )
            least = min((np.exp(a) * (a - b)).sum(-1).min() for a, b in ((log_p, log_q), (log_q, log_p)))
            if least > 0.05:
                break
        for alphas, about in all_alphas(rng):
            cases.append((log_p, log_q, alphas, f"{shape_p[-1]} values, {about}"))
    # Divergences near 0.03, where an absolute error of 4e-7 shows.
    log_p = special.log_softmax(rng.normal(size=(8, 5)), -1)
    log_q = special.log_softmax(log_p + 0.25 * rng.choice([-1, 1], size=(8, 1)) * [1, -1, 1, -1, 0.5], -1)
    for limit in (1.0, -1.0):
        cases.append((log_p, log_q, alphas_near(limit), f"close pairs, alpha near {limit:g}"))
    rare = special.log_softmax(
        np.array([[0.0, -250.0, -3.0], [-1.0, -2.0, -200.0]]) + rng.uniform(-1, 1, size=(2, 3)), -1
    )
    for alphas in (rng.uniform(-0.9, 0.9, size=4), alphas_near(1.0), alphas_near(-1.0)):
        cases.append(
            (
                rare,
                rare[::-1].copy(),
                alphas,
                f"values of probability e^-200, alpha around {alphas.mean():.1f}",
            )
        )
    driver = FOR_EACH.format(names=("log_p", "log_q"), function="alpha_divergence")
    return [Case(driver, {"log_p": p, "log_q": q, "alphas": alphas}, about) for p, q, alphas, about in cases]


def categorical_verify(case, outputs):
    """Compare with the definition in 60 digits."""
    log_p, log_q = np.broadcast_arrays(case.inputs["log_p"], case.inputs["log_q"])
    pairs = list(zip(log_p.reshape(-1, log_p.shape[-1]), log_q.reshape(-1, log_q.shape[-1]), strict=True))
    values = [[exact_categorical(p, q, alpha) for p, q in pairs] for alpha in case.inputs["alphas"]]
    same_values(outputs, np.reshape(values, (len(values), *log_p.shape[:-1])), "the divergences")


@contextmanager
def digits(number=60):
    """Compute with Python's decimals of so many digits, and with exponents that no case can leave."""
    with localcontext() as context:
        context.prec, context.Emax, context.Emin = number, MAX_EMAX, MIN_EMIN
        yield


def exact_categorical(log_p, log_q, alpha):
    """Return the divergence of one pair with 60 digits: the definition as it stands, no rearranging."""
    with digits():
        log_p, log_q = ([Decimal(float(x)) for x in logs] for logs in (log_p, log_q))
        levels = [sum(x.exp() for x in logs).ln() for logs in (log_p, log_q)]  # 0 up to rounding
        log_p, log_q = [x - levels[0] for x in log_p], [x - levels[1] for x in log_q]
        alpha = Decimal(float(alpha))
        if abs(alpha) == 1:
            pairs = zip(log_p, log_q, strict=True) if alpha == 1 else zip(log_q, log_p, strict=True)
            return float(sum(a.exp() * (a - b) for a, b in pairs))
        first, second = (1 + alpha) / 2, (1 - alpha) / 2
        total = sum((first * a + second * b).exp() for a, b in zip(log_p, log_q, strict=True))
        return float(4 / (1 - alpha**2) * (1 - total))


# ---- q5c ---------------------------------------------------------------------------------------------------


def gaussians_cases(rng):
    """Pairs of all shapes, wide against narrow, equal widths, a thousand deviations apart; no integral."""
    names = ("mean_p", "std_p", "mean_q", "std_q")
    driver = FOR_EACH.format(names=names, function="gaussian_alpha_divergence")
    cases = []
    for alphas, about in all_alphas(rng):
        # Standard deviations within a factor 1.3: every integral with alpha up to 3 converges.
        mild = [
            rng.normal(size=(3, 1)),
            rng.uniform(1, 1.3, size=(3, 1)),
            2 + rng.normal(size=4),
            rng.uniform(1, 1.3, size=4),
        ]
        cases.append((mild, alphas, f"similar widths, {about}"))
    for alphas, about in (
        (rng.uniform(-0.95, 0.95, size=5), "alpha between -1 and 1"),
        (alphas_near(1.0), "alpha near 1"),
    ):
        small = np.array([1e-3, 0.02, 1.0, 300.0])
        cases.append(
            (
                [rng.normal(size=4), small, rng.normal(size=4), np.array([500.0, 0.5, 3.0, 1000.0])],
                alphas,
                f"very different widths, {about}",
            )
        )
    close = rng.normal(size=8), rng.uniform(1, 2, size=8)
    close = [*close, close[0] + 0.25 * close[1], 1.05 * close[1]]  # divergences near 0.03
    for limit in (1.0, -1.0):
        cases.append((close, alphas_near(limit), f"close pairs, alpha near {limit:g}"))
    same = np.full(3, rng.uniform(0.5, 2))
    cases.append(
        (
            [np.zeros(3), same, same * np.array([0.5, 2.0, 9.0]), same],
            np.append(ALPHAS, [1.0, -1.0]),
            "the same width",
        )
    )
    far = [np.array(-900.0), np.array(2.0), np.array(950.0), np.array(1.5)]
    cases.append((far, np.array([-1.0, -0.3, 0.0, 0.8, 1.0]), "means hundreds of deviations apart"))
    # With a = (1 + alpha) / 2 the integral of p^a q^(1 - a) is finite if a / v_p + (1 - a) / v_q > 0.
    wide, narrow, means = rng.uniform(3, 9, size=4), rng.uniform(0.2, 1, size=4), rng.normal(size=(2, 4))
    means[1, 0] = means[0, 0]  # without a shift no exponential overflows by itself
    cases.append(([means[0], wide, means[1], narrow], np.array([1.5, 2.0, 3.0]), "p much wider than q"))
    cases.append(([means[0], narrow, means[1], wide], np.array([-3.0, -2.0, -1.5]), "q much wider than p"))
    return [
        Case(driver, dict(zip(names, values, strict=True)) | {"alphas": alphas}, about)
        for values, alphas, about in cases
    ]


def gaussians_verify(case, outputs):
    """Compare with the definition in 60 digits, and its two limits."""
    arrays = np.broadcast_arrays(*(case.inputs[name] for name in ("mean_p", "std_p", "mean_q", "std_q")))
    values = [
        [exact_gaussian(*numbers, alpha) for numbers in zip(*map(np.ravel, arrays), strict=True)]
        for alpha in case.inputs["alphas"]
    ]
    same_values(outputs, np.reshape(values, (len(values), *arrays[0].shape)), "the divergences")


def exact_gaussian(mean_p, std_p, mean_q, std_q, alpha):
    """Return the divergence of one pair with 60 digits, the square completed with precisions."""
    with digits():
        mean_p, std_p, mean_q, std_q, alpha = (
            Decimal(float(x)) for x in (mean_p, std_p, mean_q, std_q, alpha)
        )
        if abs(alpha) == 1:
            if alpha < 0:
                mean_p, std_p, mean_q, std_q = mean_q, std_q, mean_p, std_p
            square = std_p**2 + (mean_p - mean_q) ** 2
            return float((std_q / std_p).ln() + square / (2 * std_q**2) - Decimal("0.5"))
        a, b = (1 + alpha) / 2, (1 - alpha) / 2
        precision = a / std_p**2 + b / std_q**2
        if precision <= 0:
            return float("inf")
        linear = a * mean_p / std_p**2 + b * mean_q / std_q**2
        level = a * mean_p**2 / std_p**2 + b * mean_q**2 / std_q**2
        scale = std_p**a * std_q**b * precision.sqrt()
        integral = ((linear**2 / precision - level) / 2).exp() / scale
        value = 4 / (1 - alpha**2) * (1 - integral)
        return float(value) if value < Decimal("1e300") else float("inf")


QUESTIONS = [
    Question("q1a", 2, manual=True),
    Question("q1b", 1, wide_cases, wide_verify),
    Question("q1c", 1, deep_cases, deep_verify),
    Question("q2a", 0.5, manual=True),
    Question("q2b", 0.5, heads_cases, heads_verify),
    Question("q3a", 1, manual=True),
    Question("q3b", 1, kl_cases, kl_verify),
    Question("q4a", 2, manual=True),
    Question("q4b", 1, score_cases, score_verify),
    Question("q4c", 1, variance_cases, variance_verify),
    Question("q5a", 2, manual=True),
    Question("q5b", 1, categorical_cases, categorical_verify),
    Question("q5c", 1, gaussians_cases, gaussians_verify),
]
