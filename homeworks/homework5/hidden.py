"""Hidden checks of homework 5, and the instructor's notes: what is judged, by which bound, why that bound.

Written answers (q1a, q1d, q2a, q3a, q4a; 8.5 points) are marked by hand: the rubric stands at the end of
each answer in the solution notebook, and the grader reports them as `manual`, with no points yet. Functions
(4.5 points) are tried on inputs that their visible checks do not use. References are computed here, by
another way than the solution's: minors, branches in pre-activations with a library's brackets, counts term
by term, entropies, sums that never overflow, quadrature of the definition.

=====  ======  ===========================================================================================
q      points  bound
=====  ======  ===========================================================================================
q1b    1       1e-8 relative or absolute
q1c    1       as many points as there are, each within 1e-3 in the plane of Q, images equal to 1e-6
q1e    0.25    exact
q2b    1       1e-8 absolute
q3b    0.25    1e-9 relative or 1e-6 absolute
q4b    0.25    1e-9 relative or absolute
q4c    0.75    1e-6 relative or 1e-8 absolute; inf where the integral diverges
=====  ======  ===========================================================================================

**Ideas.** q1b, q1c, q2b and q4c (3.75 points) cannot be had by turning a printed formula into code, or by
calling an optimiser or a solver. q1e, q3b and q4b can: a careful reader of the table, the bound, the loss
earns them without an idea, so they have 0.25 points each, and what asks for an idea there is written.

**Chance** plays no part: no check samples. Inputs are drawn so that the bounds hold for every draw.

**NaN** fails: `take` refuses it, and an infinite value is accepted only where the reference is infinite.
Tensors that an answer was given are compared with copies afterwards, and what it returns must be a tensor of
float64 (q1e: a tuple of ints).

**q1b.** The determinant of I + diag(s) M is affine in each slope, so its infimum over (0, 1]^r is the least
principal minor of I + M, the empty one included. Some cases are drawn until the least minor is neither the
empty nor the full nor a leading one; in one V is W times positive numbers, and it is the empty one. In
three, 14 units act together: 2^14 minors are quickly listed, a grid of three values a slope is not (3^14
determinants of order 14), and searches end in a local minimum. In six draws (seeds 0 to 5 of `a_needle`) 40
random starts of L-BFGS-B never found the least one, nor did the best single change from 30 starts (all
slopes 0, all 1, one 1, one 0); from 300 random corners it did in four. The question has three such cases.
With m = 200,000 an m x m matrix would need 320 GB.

**q1c.** The equations are solved from the last to the first; each has up to three solutions, so the points
form a tree. References are found in pre-activations, by brentq on the pieces between turning points.
`margin` keeps every node of the tree away from a turning point, so that the number of points is certain.
Starting a solver at random finds many of the points and not all.

**q1e.** Tests count a program that really multiplies (a float that counts), for small m, r, n. Totals are
exact integers, below 1e36. For each example the triangular form saves (r^3 - 7 r) / 3, which is negative for
r = 1, 2, where it never pays.

**q2b.** The reference takes entropies: I(i; z) = H(z) - sum_i w_i sum_j H(q_j), because the entropy of a
product is a sum, and I(y; z) = H(y) + H(z) - H(y, z). Parts that are noise within a kind have the same
entropy on both sides and are left out. Rounding is about 1e-14.

**q3b.** The weights of an image range over e^100,000, and m log(levels) reaches 1.1 million: float64 keeps
2e-10 of that. Kinds that are never drawn have densities that would change the mixture if they counted.

**q4b.** Variance and bias: loss = (b - a)^2 rho^2 (1 - rho)^2 int (pi - p)^2 / mixture + (mean label - c)^2.
In one case probabilities go down to e^-50.

**q4c.** The Gaussians differ in one direction only. There, the definition with the mixture below, by Gauss-
Legendre quadrature in panels of a quarter of a deviation of either, in logarithms; the other one in 60
digits, the square completed with precisions.
"""

import json
from contextlib import contextmanager
from decimal import Decimal, localcontext
from functools import lru_cache
from itertools import combinations, pairwise
from math import fsum, log

import numpy as np
from scipy import optimize, special

from grading.judges import WATCHED, same_type
from grading.questions import Case, Question, Wrong, match, take

FLOAT64 = np.dtype("float64")

# ---- shared ----------------------------------------------------------------------------------------------


def given(function, *names):
    """Write the driver that calls a function with inputs, and notes whether it changed a tensor."""
    return f"""{WATCHED}
_values = [inputs[_name] for _name in {names!r}]
_given = [_value.item() if _value.ndim == 0 else torch.from_numpy(_value.copy()) for _value in _values]
_result = {function}(*_given)
_result = _result if isinstance(_result, (tuple, list)) else (_result,)
outputs.update((str(_position), _value) for _position, _value in enumerate(_result))
_pairs = [(_one, torch.from_numpy(_value)) for _one, _value in zip(_given, _values) if _value.ndim]
outputs["changed"], outputs["tensors"] = _changed(*zip(*_pairs)), _tensors(*_result)
"""


# ---- q1b ---------------------------------------------------------------------------------------------------


def minors(core):
    """Return {kept: determinant} of all principal minors of I + core, the empty one included."""
    return _minors(core.tobytes(), len(core))


@lru_cache(maxsize=32)
def _minors(core, r):
    matrix = np.eye(r) + np.frombuffer(core).reshape(r, r)
    table = {(): 1.0}
    for n in range(1, r + 1):
        kept = np.array(list(combinations(range(r), n)))
        table |= zip(map(tuple, kept), np.linalg.det(matrix[kept[:, :, None], kept[:, None]]), strict=True)
    return table


def a_needle(rng, inside=10, outside=4):
    """Return the core of 14 units whose least minor small steps hardly ever reach, units in random order.

    The first ten form a cycle: D = prod(1 + g_j s_j) - P prod(s_j) for them alone, about -7 where all slopes
    are 1; where some are small, D falls with the slopes. The other four turn its sign as soon as one of them
    is steep, and so there are many minima of about -5.
    """
    growth = rng.uniform(0.2, 0.3, size=inside)
    growth *= np.log(11.5) / np.log1p(growth).sum()
    most, depth = np.prod(1 + growth), rng.uniform(6.8, 7.2)
    weights = np.exp(0.3 * rng.normal(size=inside))
    weights *= ((most + depth) / np.prod(weights)) ** (1 / inside)
    core, units, others = np.zeros((14, 14)), np.arange(inside), np.arange(inside, inside + outside)
    core[units, units] = growth
    core[units, np.roll(units, -1)] = weights
    edge = -0.8 * depth / most  # the factor of D if one of the four is steep; it is negative for any number
    core[np.ix_(others, others)] = -np.sqrt(edge**2 - edge / 2)
    core[others, others] = edge - 1
    core[np.ix_(units, others)] = rng.normal(size=(inside, outside))  # one way only: D does not change
    scale, order = np.exp(0.5 * rng.normal(size=14)), rng.permutation(14)
    return (scale[:, None] * core / scale)[np.ix_(order, order)]


def with_core(rng, m, core):
    """Return V, W with W'V = core."""
    W = rng.normal(size=(m, len(core)))
    free = rng.normal(size=W.shape)
    back = np.linalg.solve(W.T @ W, np.stack([core, W.T @ free]))
    return W @ back[0] + free - W @ back[1], W


def folding_cases(rng):
    """One unit to 14, few and many dimensions; the least minor empty, full, and neither of the two."""
    cases = []
    for m, r in ((1, 1), (6, 1), (3, 3), (9, 6), (14, 10)):
        V, W = rng.normal(size=(2, m, r)) / m**0.25
        cases.append((V, W, "random matrices"))
    V, W = rng.normal(size=(2, 7, 4))
    cases.append((V * [1, 0, -1, 1], W, "a unit that moves nothing"))
    for m, r in ((5, 3), (8, 5), (200_000, 4)):
        while True:
            V, W = rng.normal(size=(2, m, r)) * 1.2 / m**0.25
            table = minors(W.T @ V)
            least = min(table, key=table.get)
            if table[least] < 0.9 and 0 < len(least) < r and least != tuple(range(len(least))):
                break
        cases.append((V, W, "some slopes small, others 1"))
    W = rng.normal(size=(7, 4))
    cases.append((W @ np.diag(rng.uniform(0.5, 2, size=4)), W, "an expanding layer"))
    W = rng.normal(size=(6, 3))
    V = W @ np.linalg.inv(W.T @ W) * -rng.uniform(0.2, 0.6, size=3)
    cases.append((V, W, "units that do not meet"))
    for m in (14, 20, 40):
        cases.append((*with_core(rng, m, a_needle(rng)), "many units that act together"))
    driver = given("smallest_determinant", "V", "W")
    return [Case(driver, {"V": V, "W": W}, f"m = {len(V):,}, r = {V.shape[1]}, {a}") for V, W, a in cases]


def folding_verify(case, outputs):
    """Take the least of all principal minors."""
    same_type(outputs, FLOAT64, "0")
    least = min(minors(case.inputs["W"].T @ case.inputs["V"]).values())
    match(outputs, "0", np.array(least), rtol=1e-8, atol=1e-8, what="the infimum")


# ---- q1c ---------------------------------------------------------------------------------------------------


def columns(reflections, r):
    """Return the first r columns of the product of the reflections."""
    Q = np.eye(reflections.shape[1], r)
    for v in reflections[::-1]:
        Q = Q - 2 * np.outer(v, v @ Q) / (v @ v)
    return Q


def preactivations(product, goal, margin):
    """Return all a with a + product * tanh(a) = goal, piece by piece; None if two nearly meet."""
    level = lambda a: a + product * np.tanh(a) - goal  # noqa: E731
    edges = [goal - abs(product) - 1, goal + abs(product) + 1]
    if product < -1:
        turn = np.arctanh(np.sqrt(1 + 1 / product))
        if min(abs(level(turn)), abs(level(-turn))) < margin:
            return None
        edges = [min(edges[0], -turn - 1), -turn, turn, max(edges[1], turn + 1)]
    pieces = pairwise(edges)
    return [
        optimize.brentq(level, low, high, xtol=1e-14, rtol=1e-15)
        for low, high in pieces
        if level(low) * level(high) < 0
    ]


def solutions(U, L, b, goal, margin=0.0, most=300):
    """Return all y with y + U tanh(L'y + b) = goal, or None if two nearly meet or there are too many."""
    branches = [np.zeros(len(b))]
    for j in reversed(range(len(b))):
        longer = []
        for y in branches:
            a = L.T @ y + b
            wanted = goal[j] - U[j, j + 1 :] @ np.tanh(a[j + 1 :])
            if L[j, j] == 0:
                values = [wanted - U[j, j] * np.tanh(a[j])]
            else:
                roots = preactivations(U[j, j] * L[j, j], L[j, j] * wanted + a[j], margin)
                if roots is None:
                    return None
                values = [(root - a[j]) / L[j, j] for root in roots]
            for value in values:
                longer.append(y.copy())
                longer[-1][j] = value
        branches = longer
        if len(branches) > most:
            return None
    return np.array(branches)


def preimage_cases(rng):
    """One unit to ten, none bent or several; one point to hundreds; zeros, 100,000 dimensions."""
    cases = []
    for m, products, n, least, about in (
        (1, [-1.5], 1, 3, "one dimension"),
        (3, [0.5, -0.9], 2, 1, "a bijection"),
        (6, [0.4, -0.85, -3.0], 2, 3, "the last unit"),
        (6, [-3.0, 0.4, -0.85], 2, 3, "the first unit"),
        (4, [0.0, -0.9, -4.0, 0.0], 5, 1, "as many units as dimensions, zeros on a diagonal"),
        (9, [60.0, -60.0, 30.0, -8.0], 4, 5, "strong units"),
        (12, [-20.0, 5.0, -9.0, -30.0, -0.5, -12.0], 20, 27, "many points"),
        (30, [*rng.uniform(-1, 5, size=6), *rng.uniform(-12, -5, size=4)], 3, 15, "ten units"),
        (100_000, [20.0, -3.0, -40.0], 4, 3, "an m x m matrix does not fit"),
    ):
        products = np.array(products)
        r = len(products)
        while True:
            scale = np.sqrt(np.maximum(np.abs(products), 1)) * np.exp(rng.uniform(-0.1, 0.1, size=r))
            scale *= rng.choice([-1, 1], size=r)
            U = np.triu(0.7 * rng.normal(size=(r, r)), 1) + np.diag(scale)
            L = np.tril(0.7 * rng.normal(size=(r, r)), -1) + np.diag(products / scale)
            for j in np.flatnonzero(products == 0)[1:]:
                U[j, j], L[j, j] = 0, scale[j]  # one of the zeros stands in L, the others in U
            b, y = 3 * rng.normal(size=r), np.zeros(r)
            for j in reversed(range(r)):  # a point where the slopes of all units are large
                y[j] = (0.5 * rng.normal() - (L.T @ y + b)[j]) / L[j, j] if L[j, j] else rng.normal()
            goal = y + U @ np.tanh(L.T @ y + b)
            found = solutions(U, L, b, goal, margin=0.02)
            if found is not None and len(found) >= least and np.abs(found).max() < 1e5:
                break
        reflections = rng.normal(size=(n, m)) * np.exp(rng.uniform(-2, 2, size=(n, 1)))
        if m > 1000:
            reflections[:, 40:] *= 0.01  # so that Q has large entries
        Q, z = columns(reflections, r), rng.normal(size=m)
        inputs = {"z": z + Q @ (goal - Q.T @ z), "reflections": reflections, "U": U, "L": L, "b": b}
        cases.append(Case(given("preimages", *inputs), inputs, f"m = {m:,}, {about}"))
    return cases


def preimage_verify(case, outputs):
    """Map every point, with Q as a matrix, and look for each of the reference's points."""
    z, U, L, b = (case.inputs[name] for name in ("z", "U", "L", "b"))
    same_type(outputs, FLOAT64, "0")
    Q = columns(case.inputs["reflections"], len(b))
    expected = solutions(U, L, b, Q.T @ z)
    shape = np.shape(outputs.get("0", ()))
    if len(shape) != 2 or shape[1] != len(z):
        raise Wrong(f"expected points as rows, (k, {len(z)}), and another shape came back")
    if shape[0] != len(expected):
        raise Wrong(f"there are {'more' if shape[0] < len(expected) else 'fewer'} points than came back")
    points = take(outputs, "0", shape, what="points")
    y = points @ Q
    images = points + np.tanh(y @ L + b) @ U.T @ Q.T
    if not np.abs(images - z).max() <= 1e-6:
        raise Wrong("points have another image than z")
    if any(np.abs(y - one).max(1).min() > 1e-3 for one in expected):
        raise Wrong("points are missing, others are there twice")


# ---- q1e ---------------------------------------------------------------------------------------------------

COUNTS = """
import json
import numpy
_m, _r, _n = inputs["sizes"].tolist()
_answers = multiplications(_m, _r, _n), [break_even(_m, _r)]
outputs["tuple"] = type(_answers[0]) is tuple
for _name, _numbers in zip(("totals", "least"), _answers):
    _kept = [_k if type(_k) is int else "never" if _k is None else None for _k in _numbers]
    outputs[_name] = numpy.frombuffer(json.dumps(_kept).encode(), dtype="uint8")
"""


def cost_cases(rng):
    """Bottlenecks of 1, 2, 3 and more, one example and many, sizes beyond 2**53."""
    large = int(rng.integers(10**8, 10**9))
    sizes = [
        (1, 1, 1),
        (5, 5, 1),
        (int(rng.integers(50, 900)), 1, int(rng.integers(2, 500))),
        (int(rng.integers(50, 900)), 2, int(rng.integers(2, 500))),
        (int(rng.integers(50, 900)), 3, int(rng.integers(2, 500))),
        (int(rng.integers(50, 900)), int(rng.integers(4, 50)), int(rng.integers(2, 500))),
        (4, 3, 7),  # 3 * 21 / 2 has a rest
        (6, 3, 1),  # 3 * 29 / 2
        (59, 5, int(rng.integers(2, 500))),  # 3 * 361 / 18
        (6, 4, 3),  # 3 * 36 / 9 has none: "strictly" decides
        (32, 6, 2),  # 3 * 232 / 29, too
        (2, 2, 10**9),
        (large, int(rng.integers(10**5, 10**8)), int(rng.integers(10**8, 10**9))),
    ]
    return [Case(COUNTS, {"sizes": np.array(one)}, "m, r, n = {}, {}, {}".format(*one)) for one in sizes]


def totals(m, r, n):
    """Return what the three forms take, term by term as the table lists them."""

    def elimination(order):
        divisions = order * (order - 1) // 2
        inside = (order - 1) * order * (2 * order - 1) // 6  # 1 + 4 + 9 + ...
        return divisions + inside + (order - 1)

    full = [m * r, m * r, m * r, m * r * m, elimination(m)]
    small = [m * r, m * r, r * r, elimination(r)]
    triangle = r * (r + 1) // 2
    triangular = [m * r, triangle, triangle, m * r, r, r - 1]
    reflection = [m, 1, m * r, r, m * r]
    return n * sum(full), r * m * r + n * sum(small), r * sum(reflection) + r + n * sum(triangular)


def first_ahead(m, r):
    """Return the fewest examples with which the triangular form is ahead, by trying, or None."""

    def ahead(n):
        _, small, triangular = totals(m, r, n)
        return triangular < small

    if not ahead(10**40):
        return None
    below, above = 0, 10**40
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if ahead(middle) else (middle, above)
    return above


def numbers_of(outputs, name, count):
    """Read a list of Python ints of any size, or "never", written as text."""
    try:
        numbers = json.loads(outputs[name].astype(np.uint8).tobytes().decode()[:10_000])
    except (KeyError, ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or len(numbers) != count:
        raise Wrong(f"expected {count} numbers")
    return numbers


def cost_verify(case, outputs):
    """Add up the table; find the break-even point by trying."""
    m, r, n = map(int, case.inputs["sizes"])
    expected = totals(m, r, n)
    if not take(outputs, "tuple", ()):
        raise Wrong("multiplications returned no tuple")
    for name, number, right in zip(
        ("full", "small", "triangular"), numbers_of(outputs, "totals", 3), expected, strict=True
    ):
        if type(number) is not int or number != right:
            raise Wrong(f"the count of the {name} form is wrong")
    (number,), least = numbers_of(outputs, "least", 1), first_ahead(m, r)
    if number is None or (number == "never") != (least is None):
        raise Wrong("break_even is None where it should not be, or the other way about, or no int")
    if least is not None and number != least:
        raise Wrong(f"the break-even point is too {'small' if number < least else 'large'}")


# ---- q2b ---------------------------------------------------------------------------------------------------


def information_cases(rng):
    """One example and many, unused ones, impossible values, hard parts, parts of noise, absent classes."""
    cases = []
    for N, d, A, hard, loose, zeros, unused, classes, about in (
        (1, 2, 3, 0, 2, 0.0, 0, 1, "a single example"),
        (5, 1, 2, 0, 1, 0.0, 0, 3, "one bit"),
        (40, 3, 4, 0, 3, 0.0, 0, 5, "all parts differ"),
        (300, 60, 2, 3, 9, 0.0, 20, 1001, "hard parts, noise that depends on them, examples of weight zero"),
        (120, 40, 8, 1, 4, 0.6, 10, 7, "impossible values, examples of weight zero"),
        (60, 30, 70, 1, 2, 0.97, 5, 10, "nearly hard codes"),
        (25, 60, 5, 0, 1, 0.0, 0, 2, "one part differs"),
        (80, 60, 3, 60, 0, 0.0, 5, 4, "hard parts only"),
    ):
        weights = rng.gamma(0.7, size=N) + 1e-3
        never = rng.choice(N, unused, replace=False)
        weights[never] = 0
        logits = 2 * rng.normal(size=(N, d, A))
        logits[(rng.random((N, d, A)) < zeros) & (logits < logits.max(-1, keepdims=True))] = -np.inf
        tables, places = special.softmax(logits, -1), rng.permutation(d)
        kinds = rng.integers(0, 4, size=N)  # one hard code each
        names = rng.choice(A**hard, 4, replace=False) if 0 < hard < 9 else np.zeros(4, dtype=int)
        names = names[:, None] // A ** np.arange(min(hard, 9)) % A
        tables[:, places[: names.shape[1]]] = np.eye(A)[names[kinds]]
        for kind in range(4) if hard else (0,):
            mine = np.flatnonzero(kinds == kind) if hard else np.arange(N)
            noise = rng.permutation(places[hard:])[loose:]
            for one in mine[1:]:
                tables[one, noise] = tables[mine[0], noise]
        if hard == d:
            tables = np.eye(A)[rng.integers(0, A, size=(12, d))[rng.integers(0, 12, size=N)]]
        groups = rng.integers(0, classes, size=N)
        tables[never] = special.softmax(rng.normal(size=(unused, d, A)), -1)
        groups[never[:3]] = 1000  # a class of which no example is drawn
        inputs = {"weights": weights / weights.sum(), "tables": tables, "groups": groups}
        cases.append(Case(given("information", *inputs), inputs, f"{N} examples, {A}^{d} codes, {about}"))
    return cases


def entropy(probabilities):
    """Return the sum of -p log p in nats, 0 log 0 = 0."""
    return special.entr(probabilities).sum()


def information_verify(case, outputs):
    """Take entropies: of a product they add up, and noise of one kind has the same on both sides."""
    same_type(outputs, FLOAT64, "0")
    weights, tables, groups = (case.inputs[name] for name in ("weights", "tables", "groups"))
    drawn = np.flatnonzero(weights > 0)
    hard = np.isin(tables[drawn], (0, 1)).all((0, 2))
    kinds = {}
    for i in drawn:
        kinds.setdefault(tuple(tables[i, hard].argmax(-1)), []).append(i)
    of_code = of_both = noise = 0.0
    for mine in kinds.values():
        differ = (tables[mine] != tables[mine[0]]).any((0, 2))
        joint = {}
        for i in mine:
            code = np.array(weights[i])
            for factor in tables[i, differ]:
                code = np.multiply.outer(code, factor)
            joint[groups[i]] = joint.get(groups[i], 0) + code
            noise += weights[i] * entropy(tables[i, differ])
        of_code += entropy(sum(joint.values()).ravel())
        of_both += sum(entropy(part.ravel()) for part in joint.values())
    of_class = entropy(np.bincount(groups, weights))
    for place, (name, expected) in enumerate(
        {"index": of_code - noise, "class": of_class + of_code - of_both}.items()
    ):
        value = take(outputs, "0", (2,), what="informations")[place]
        if not abs(value - expected) <= 1e-8:
            raise Wrong(f"the information about the {name} is wrong")


# ---- q3b ---------------------------------------------------------------------------------------------------


def noise_cases(rng):
    """One draw and many, kinds that are never drawn, zero densities, large images, huge log-densities."""
    cases = []
    for counts, B, m, levels, size, about in (
        ([1], 3, 1, 2, 1.0, "one draw"),
        ([5], 4, 64, 16, 3.0, "one kind"),
        ([1, 1], 1, 3, 4, 1.0, "two kinds"),
        ([3, 0, 2, 1], 6, 64, 16, 2.0, "a kind that is never drawn"),
        ([40, 10, 0, 150], 5, 784, 256, 20.0, "200 draws"),
        ([2, 3], 4, 100_000, 65_536, 10_000.0, "a large image"),
        ([1, 0, 4], 3, 3072, 256, 15_000.0, "log-densities of thousands"),
        ([2, 2, 0, 1], 8, 20, 8, 1.0, "densities that are zero in places"),
    ):
        K, C = sum(counts), len(counts)
        log_p, log_q = size * rng.normal(size=(K, B)), size * rng.normal(size=(C, K, B))
        if "zero" in about:
            log_p[rng.random((K, B)) < 0.3] = -np.inf
            log_q[rng.random((C, K, B)) < 0.5] = -np.inf
            log_q[3] = rng.normal(size=(K, B))  # one kind covers the cell
            log_p[0] = rng.normal(size=B)
        log_q[np.array(counts) == 0] += 3 * min(size, 1000)
        log_p, log_q = (np.where(logs > -np.inf, logs.clip(-5e4, 5e4), logs) for logs in (log_p, log_q))
        inputs = {"log_p": log_p, "log_q": log_q, "counts": np.array(counts)}
        inputs |= {"levels": np.asarray(levels), "m": np.asarray(m)}
        driver = given("noise_bound", *inputs)
        cases.append(Case(driver, inputs, f"counts {counts}, {levels} levels, {m:,} pixels, {about}"))
    return cases


def log_of_sum(logs):
    """Return the logarithm of a sum of exponentials, exactly rounded sums, -inf allowed."""
    top = max(logs)
    return top + log(fsum(np.exp(np.array(logs) - top)))


def noise_verify(case, outputs):
    """Go through draws and images one at a time."""
    same_type(outputs, FLOAT64, "0")
    counts, log_p, log_q = (case.inputs[name] for name in ("counts", "log_p", "log_q"))
    K, B = log_p.shape
    cell = int(case.inputs["m"]) * log(int(case.inputs["levels"]))
    expected = []
    for image in range(B):
        log_w = []
        for k in range(K):
            kinds = [log(n) - log(K) + log_q[c, k, image] for c, n in enumerate(counts) if n]
            log_w.append(log_p[k, image] - cell - log_of_sum(kinds))
        expected.append(log_of_sum(log_w) - log(K))
    match(outputs, "0", np.array(expected), rtol=1e-9, atol=1e-6, what="the bounds")


# ---- q4b ---------------------------------------------------------------------------------------------------


def optimum_cases(rng):
    """Few and many values, broadcasting, zeros in one or both, extreme shares, wide labels."""
    cases = []
    for shape_pi, shape_p, zeros, share, about in (
        ((2,), (2,), 0.0, 0.5, "equal shares"),
        ((3, 8), (3, 8), 0.0, float(rng.uniform(0.05, 0.45)), "more generated examples"),
        ((1, 5), (4, 5), 0.0, float(rng.uniform(0.55, 0.95)), "more real examples"),
        ((2, 1, 40), (3, 40), 0.5, float(rng.uniform(0.05, 0.95)), "values that only one gives, or neither"),
        ((6,), (6,), 0.3, 1e-6, "hardly any real example"),
        ((6,), (6,), 0.3, 1 - 1e-6, "hardly any generated example"),
        ((4, 30), (30,), 0.2, float(rng.uniform(0.3, 0.7)), "values of all orders of magnitude"),
    ):
        arrays = []
        for shape in (shape_pi, shape_p):
            values = rng.gamma(0.8, size=shape) * (rng.random(shape) >= zeros)
            if "magnitude" in about:
                values[..., 2:] *= np.exp(rng.uniform(-50, 0, size=values[..., 2:].shape))
            values[..., 0] += 0.1
            arrays.append(values / values.sum(-1, keepdims=True))
        if zeros:
            arrays[0][..., 1], arrays[1][..., 1] = 0, 0
            arrays = [values / values.sum(-1, keepdims=True) for values in arrays]
        for a, b, c in ((0.0, 1.0, 0.9), tuple(rng.uniform(-3, 3, size=3)), (90.0, -70.0, 85.0)):
            inputs = {"pi": arrays[0], "p": arrays[1]}
            inputs |= {"share": np.asarray(share)} | dict(zip("abc", map(np.asarray, (a, b, c)), strict=True))
            driver = given("least_squares_optimum", *inputs)
            labels = f"labels {a:.3g}, {b:.3g}, target {c:.3g}"
            cases.append(Case(driver, inputs, f"{shape_pi[-1]} values, share {share:.2g}, {labels}, {about}"))
    return cases


def optimum_verify(case, outputs):
    """Take the discriminator from the other label, and the loss as variance and squared bias."""
    same_type(outputs, FLOAT64, "0", "1")
    pi, p = np.broadcast_arrays(case.inputs["pi"], case.inputs["p"])
    share, a, b, c = (float(case.inputs[name]) for name in ("share", "a", "b", "c"))
    mixture = share * pi + (1 - share) * p
    seen = mixture > 0
    below = np.where(seen, mixture, 1)
    D = np.where(seen, b - (b - a) * (1 - share) * p / below, 0)
    value = take(outputs, "0", pi.shape, what="D")
    match({"D": np.where(seen, value, 0)}, "D", D, rtol=1e-9, atol=1e-9, what="the discriminator")
    spread = (b - a) ** 2 * share**2 * (1 - share) ** 2 * ((pi - p) ** 2 / below).sum(-1)
    loss = spread + (share * b + (1 - share) * a - c) ** 2
    match(outputs, "1", loss, rtol=1e-9, atol=1e-9, what="the loss")


# ---- q4c ---------------------------------------------------------------------------------------------------

PEARSON = ("center", "factor", "u", "shift", "stretch", "share")


def pearson_cases(rng):
    """One dimension to 400; all widths, near and far, all shares, integrals that diverge."""
    cases = []
    for m, std, apart, share, about in (
        (1, 0.8, 0.7, 0.5, "one dimension"),
        (2, 1.2, -1.5, 0.01, "hardly any real example"),
        (3, 1.0, 3.0, 0.99, "hardly any generated example"),
        (3, 1.0, 0.0, 0.4, "two that are equal"),
        (7, 1.0, rng.uniform(5, 14), rng.uniform(0.2, 0.8), "means only"),
        (12, rng.uniform(0.6, 0.9), 0.0, rng.uniform(0.2, 0.8), "widths only"),
        (5, 0.02, 1.0, rng.uniform(0.2, 0.8), "pi much narrower"),
        (5, 40.0, 2.0, rng.uniform(0.2, 0.8), "pi much wider: one integral diverges"),
        (5, 1.3, 0.5, 0.5, "pi somewhat wider: both are finite"),
        (5, 1.55, 0.5, 0.5, "pi wider: one integral diverges"),
        (30, 1.0, 0.0, 0.4, "the same"),
        (400, rng.uniform(0.5, 1.25), rng.uniform(1, 3), rng.uniform(0.2, 0.8), "many dimensions"),
        (50, rng.uniform(0.5, 1.25), rng.uniform(-3, -1), rng.uniform(0.2, 0.8), "widths of x far from 1"),
        (4, 25.0, 900.0, 0.3, "hardly any overlap"),
    ):
        factor = np.eye(m) + 0.4 * rng.normal(size=(m, m)) / np.sqrt(m)
        scale = np.exp(rng.uniform(-2, 2, size=m)) if "far" in about else np.exp(rng.uniform(-1, 1))
        factor = np.multiply(scale, factor.T).T
        u = rng.normal(size=m)
        length = np.linalg.norm(u @ factor)
        values = 10 * rng.normal(size=m), factor, u, apart / length, (std**2 - 1) / length**2, share
        inputs = dict(zip(PEARSON, map(np.asarray, values), strict=True))
        cases.append(Case(given("gaussian_pearson", *PEARSON), inputs, f"{m} dimensions, {about}"))
    return cases


def by_quadrature(mean_pi, std_pi, mean_p, std_p, share):
    """Return the integral of (p - mixture)^2 / mixture, in panels that are narrow for both Gaussians."""
    marks = np.arange(-40, 40.01, 0.25)
    edges = np.unique(np.concatenate([mean_pi + std_pi * marks, mean_p + std_p * marks]))
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half + half * nodes).ravel()
    log_pi, log_p = (
        -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        for mean, std in ((mean_pi, std_pi), (mean_p, std_p))
    )
    log_mixture = np.logaddexp(np.log(share) + log_pi, np.log1p(-share) + log_p)
    high, low = np.maximum(log_pi, log_p), np.minimum(log_pi, log_p)
    log_square = 2 * (high + np.log(-np.expm1(np.minimum(low - high, -1e-300))))
    return share**2 * (np.exp(log_square - log_mixture) * (half * weights).ravel()).sum()


@contextmanager
def digits(number=60):
    """Compute with Python's decimals of so many digits."""
    with localcontext() as context:
        context.prec = number
        yield


def divided_by_p(mean_pi, std_pi, mean_p, std_p, share):
    """Return the integral of (p - mixture)^2 / p with 60 digits, inf where there is none."""
    with digits():
        mean_pi, std_pi, mean_p, std_p, share = (
            Decimal(float(value)) for value in (mean_pi, std_pi, mean_p, std_p, share)
        )
        precision = 2 / std_pi**2 - 1 / std_p**2
        if precision <= 0:
            return float("inf")
        linear = 2 * mean_pi / std_pi**2 - mean_p / std_p**2
        level = 2 * mean_pi**2 / std_pi**2 - mean_p**2 / std_p**2
        integral = std_p / std_pi**2 / precision.sqrt() * ((linear**2 / precision - level) / 2).exp()
        return float(share**2 * (integral - 1))


def pearson_verify(case, outputs):
    """Take both in the one direction in which the Gaussians differ: by the definition, and with 60 digits."""
    same_type(outputs, FLOAT64, "0", "1")
    factor, u, shift, stretch, share = (case.inputs[name] for name in PEARSON[1:])
    square = u @ (factor @ factor.T) @ u
    numbers = shift * np.sqrt(square), np.sqrt(1 + stretch * square), 0.0, 1.0, float(share)
    expected = by_quadrature(*numbers), divided_by_p(*numbers)
    match(outputs, "0", np.array(expected[0]), rtol=1e-6, atol=1e-8, what="divided by the mixture")
    value = np.asarray(outputs.get("1"))
    if value.shape != () or value.dtype.kind != "f":
        raise Wrong("divided by p: one number of type float64 was asked for")
    if np.isinf(expected[1]):
        if not value == np.inf:
            raise Wrong("divided by p: the value is finite where the integral diverges")
    else:
        match(outputs, "1", np.array(expected[1]), rtol=1e-6, atol=1e-8, what="divided by p")


QUESTIONS = [
    Question("q1a", 2, manual=True),
    Question("q1b", 1, folding_cases, folding_verify),
    Question("q1c", 1, preimage_cases, preimage_verify),
    Question("q1d", 0.75, manual=True),
    Question("q1e", 0.25, cost_cases, cost_verify),
    Question("q2a", 1, manual=True),
    Question("q2b", 1, information_cases, information_verify),
    Question("q3a", 1.75, manual=True),
    Question("q3b", 0.25, noise_cases, noise_verify),
    Question("q4a", 3, manual=True),
    Question("q4b", 0.25, optimum_cases, optimum_verify),
    Question("q4c", 0.75, pearson_cases, pearson_verify),
]
