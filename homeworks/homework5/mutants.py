"""Wrong solutions of homework 5: each is the right one with one change, and must lose its own question only.

`MUTANTS` maps a name to the question, the answer cell, its source, and why a student might write it. The tag
`published` marks the best answer that can be put together from lectures, seminars, the visible cells of the
student version and the libraries, without an idea: it must lose at least half of the points.

Of q1e, q3b and q4b (0.25 points each) no more is asked than to turn the printed table, bound and loss into
code: who reads them carefully earns them without an idea. Their tagged answers are what lectures and the
paper print, without that care. What asks for an idea there stands in q1d, q3a and q4a.
"""

from pathlib import Path

from grading.mutants import changes_of

mutant = changes_of(Path(__file__).with_name("hw5.solution.ipynb"))

# What is marked by hand: points that the best published answer earns by the rubric, and why.
ELSEWHERE = {
    "q1a": (
        0.6,
        "Lecture 5's Backup: the identity at 1, 0.2; the r x r determinant, 0.1; triangular, 0.2; its planar "
        "theorem for r = 1, 0.1.",
    ),
    "q1d": (
        0.35,
        "The printed table added up, 0.1; values of the threshold by trying, 0.05; measured seconds, 0.1; "
        "counts of the same work beside them, 0.1.",
    ),
    "q2a": (
        0.3,
        "Lecture 7's decomposition and its bound for equal weights, 0.2; add and subtract log q(z|y), 0.1.",
    ),
    "q3a": (0.25, "Lecture 7's proof for draws of one q: the rubric's last line."),
    "q4a": (
        1.05,
        "The paper's proof, 0.9: the rubric's last line; an infinite pair by lecture 7's theorem on "
        "variances, 0.15.",
    ),
}

BOUNDED_OPTIMISER = """# @answer q1b
def smallest_determinant(V, W):
    from scipy.optimize import minimize
    core, dice = (W.mT @ V).numpy(), np.random.default_rng(0)
    r, least = len(core), 1.0
    def value(slopes):
        inside = np.eye(r) + slopes[:, None] * core
        level = np.linalg.det(inside)
        return level, level * (core * np.linalg.inv(inside + 1e-13 * np.eye(r)).T).sum(1)
    for _ in range(20):
        found = minimize(value, dice.random(r), jac=True, bounds=[(0, 1)] * r, method="L-BFGS-B")
        least = min(least, found.fun)
    return torch.tensor(least, **f64)
"""

ONE_SLOPE_AFTER_ANOTHER = """# @answer q1b
def smallest_determinant(V, W):
    core = W.mT @ V
    one = torch.eye(len(core), **f64)
    least = torch.ones((), **f64)
    for slopes in (0 * one[0], 0 * one[0] + 1, *one, *(1 - one)):
        now = math.inf
        while True:
            others = (slopes - one).abs()  # each has another unit turned
            values = torch.linalg.det(one + others[:, :, None] * core)
            if values.min() >= now - 1e-14:
                break
            now, slopes = values.min(), others[values.argmin()]
        least = torch.minimum(least, now)
    return least
"""

ENDS_OF_THE_PLANAR_THEOREM = """# @answer q1b
def smallest_determinant(V, W):
    full = torch.linalg.det(torch.eye(V.shape[1], **f64) + W.mT @ V)
    return torch.minimum(full, torch.ones((), **f64))
"""

HEAD = """# @answer q1c
def preimages(z, reflections, U, L, b):
    from scipy.optimize import root
    Q = torch.eye(reflections.shape[1], len(b), **f64)
    for v in reflections.flip(0):
        Q = Q - torch.outer(2 / (v @ v) * v, v @ Q)
    goal = Q.mT @ z
    upper, lower, bias, wanted = U.numpy(), L.numpy(), b.numpy(), goal.numpy()
    r = len(bias)
    def miss(y):
        return y + upper @ np.tanh(lower.T @ y + bias) - wanted
    def slopes(y):
        return np.eye(r) + upper @ np.diag(1 - np.tanh(lower.T @ y + bias) ** 2) @ lower.T
"""

TAIL = """
    found = []
    for start in starts:
        y = root(miss, start, jac=slopes, tol=1e-13).x
        if np.abs(miss(y)).max() < 1e-8 and all(np.abs(y - one).max() > 1e-6 for one in found):
            found.append(y)
    if not found:
        found = [wanted]
    return z + (torch.from_numpy(np.array(found)) - goal) @ Q.mT
"""

ROOT_OF_SCIPY = (
    HEAD
    + """
    dice = np.random.default_rng(0)
    back = np.linalg.pinv(lower.T)
    starts = [wanted + k * upper.sum(1) for k in (-1, 0, 1)]
    for _ in range(150):  # around the image, and where all pre-activations are small
        starts.append(wanted + dice.uniform(-1, 1, size=r) * np.abs(upper).sum(1))
        starts.append(back @ (dice.normal(size=r) * dice.choice([0.1, 1, 10]) - bias))
"""
    + TAIL
)

FOLDS_OF_PLANAR_LAYERS = (
    HEAD
    + """
    back = np.linalg.pinv(lower.T)
    products = np.diag(upper) * np.diag(lower)
    places = [(-1, 0, 1) if product < -1 else (0,) for product in products]
    starts = [wanted]
    for signs in itertools.product(*places):  # each bent unit on one of its three branches
        starts.append(back @ (np.array(signs) * np.abs(products) - bias))
"""
    + TAIL
)

ORDERS_OF_GROWTH = """# @answer q1e
def multiplications(m, r, n):
    return n * (m**3 + m * m * r), n * (m * r * r + r**3), n * (m * r + r)


def break_even(m, r):
    return 1 if r > 1 else None
"""

LITERAL = """# @answer q2b
def information(weights, tables, groups):
    differ = (tables != tables[:1]).any(2).any(0)
    tables = tables[:, differ]  # parts that are the same for all say nothing
    if tables.shape[2] ** tables.shape[1] > 10**5:
        raise MemoryError("nobody can list all codes")
    codes = torch.ones(len(weights), 1, **f64)
    for j in range(tables.shape[1]):
        codes = (codes[:, :, None] * tables[:, j, None, :]).flatten(1)
    joint = weights[:, None] * codes
    def mutual(joint):
        product = joint.sum(1, keepdim=True) * joint.sum(0)
        return (joint * (joint / product).log()).nan_to_num().sum()
    classes = torch.zeros(1001, codes.shape[1], **f64).index_add_(0, groups, joint)
    return torch.stack([mutual(joint), mutual(classes)])
"""

SURGERY_BY_DRAWS = """# @answer q2b
def information(weights, tables, groups):
    used = weights > 0
    weights, tables, groups = weights[used], tables[used], groups[used]
    dice = torch.Generator().manual_seed(0)
    index = torch.multinomial(weights, 2000, replacement=True, generator=dice)
    rows = tables[index]
    codes = torch.multinomial(rows.flatten(0, 1), 1, generator=dice).view(len(index), -1)  # (draws, d)
    parts = torch.arange(tables.shape[1])
    log_q = torch.stack([table[parts, codes].log().sum(1) for table in tables], 1)  # (draws, N)
    whole = torch.logsumexp(log_q + weights.log(), 1)
    first = (log_q[torch.arange(len(index)), index] - whole).mean()
    mine = groups[index][:, None] == groups
    shares = (mine * weights).sum(1)
    inside = torch.logsumexp(log_q + weights.log() + mine.log(), 1) - shares.log()
    return torch.stack([first, (inside - whole).mean()])
"""

PARTS_ADDED_UP = """# @answer q2b
def information(weights, tables, groups):
    used = weights > 0
    weights, tables, groups = weights[used], tables[used], groups[used]
    member = (groups.unique()[:, None] == groups).to(weights)
    shares = member @ weights
    kinds = torch.einsum("gn,n,ndv->gdv", member, weights, tables) / shares[:, None, None]
    def mean_kl(shares, rows):
        mixture = torch.einsum("n,ndv->dv", shares, rows)
        return shares @ (torch.xlogy(rows, rows) - torch.xlogy(rows, mixture)).sum((1, 2))
    return torch.stack([mean_kl(weights, tables), mean_kl(shares, kinds)])"""

EACH_BY_ITS_OWN = """# @answer q3b
def noise_bound(log_p, log_q, counts, levels, m):
    kind = torch.repeat_interleave(torch.arange(len(counts)), counts)
    log_own = log_q[kind, torch.arange(len(kind))]
    log_w = log_p - m * math.log(levels) - log_own
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))
"""

OPTIMUM_OF_THE_PAPER = """# @answer q4b
def least_squares_optimum(pi, p, share, a, b, c):
    D = (b * pi + a * p) / (pi + p)
    return D, share * (pi * (D - c) ** 2).sum(-1) + (1 - share) * (p * (D - c) ** 2).sum(-1)
"""

BY_DRAWS = """# @answer q4c
def gaussian_pearson(center, factor, u, shift, stretch, share):
    dice = torch.Generator().manual_seed(0)
    covariance = factor @ factor.mT
    along = covariance @ u
    wide = covariance + stretch * torch.outer(along, along)
    normal = torch.distributions.MultivariateNormal
    p, pi = normal(center, covariance), normal(center + shift * along, wide)
    noise = torch.randn(5000, len(u), generator=dice, **f64)
    points = [center + noise @ p.scale_tril.mT, pi.loc + noise @ pi.scale_tril.mT]
    def ratio(x):
        gap = pi.log_prob(x) - p.log_prob(x)
        return torch.expm1(gap).square() / (share * gap.exp() + 1 - share) ** 2
    means = [ratio(x).nan_to_num().mean() for x in points]
    by_mixture = share**2 * ((1 - share) * means[0] + share * means[1])
    # The integral of pi^2 / p as one of a Gaussian, by matrices.
    inside = 2 * torch.linalg.inv(wide) - torch.linalg.inv(covariance)
    if torch.linalg.eigvalsh(inside).min() <= 0:
        return by_mixture, torch.tensor(math.inf, **f64)
    away = 2 * torch.linalg.solve(wide, shift * along)
    level = 2 * shift * along @ torch.linalg.solve(wide, shift * along)
    log = torch.logdet(covariance) / 2 - torch.logdet(wide) - torch.logdet(inside) / 2
    log = log + (away @ torch.linalg.solve(inside, away) - level) / 2
    return by_mixture, share**2 * torch.expm1(log)
"""

ALONG_THE_FIRST_AXIS = """# @answer q4c
def gaussian_pearson(center, factor, u, shift, stretch, share):
    from scipy.integrate import quad
    from scipy.stats import norm
    covariance = factor @ factor.mT
    along = covariance @ u
    mean, std = (shift * along)[0].item(), (covariance[0, 0] + stretch * along[0] ** 2).sqrt().item()
    base = covariance[0, 0].sqrt().item()
    def term(x):
        pi, p = norm.pdf(x, mean, std), norm.pdf(x, 0, base)
        mixture = share * pi + (1 - share) * p
        return (p - mixture) ** 2 / mixture if mixture > 0 else 0.0
    marks = sorted({mean + k * std for k in (-9, 0, 9)} | {k * base for k in (-9, 0, 9)})
    by_mixture = sum(quad(term, low, high)[0] for low, high in zip(marks, marks[1:]))
    r2, shift2 = (base / std) ** 2, (mean / std) ** 2
    left = 2 * r2 - 1
    by_p = share**2 * (r2 / left**0.5 * math.exp(min(shift2 / left, 600)) - 1) if left > 0 else math.inf
    return torch.tensor(by_mixture, **f64), torch.tensor(by_p, **f64)
"""


def whole(question, source, why, **more):
    """Return a wrong solution that replaces the whole answer."""
    return {"question": question, "cell": question, "source": source, "why": why} | more


MUTANTS = {
    # ---- q1b
    "bounded_optimiser": whole(
        "q1b",
        BOUNDED_OPTIMISER,
        "Lecture 5's determinant, slopes from 0 to 1, a library's optimiser from 20 starts: local minima.",
        tag="published",
    ),
    "one_slope_after_another": whole(
        "q1b",
        ONE_SLOPE_AFTER_ANOTHER,
        "Slopes of 0 and 1, but not all of them: the best single change, from 2 + 2 r starts.",
    ),
    "ends_of_the_planar_theorem": whole(
        "q1b",
        ENDS_OF_THE_PLANAR_THEOREM,
        "Lecture 5's determinant with all slopes 1, and with all slopes 0: in between it may be lower.",
    ),
    "all_slopes_one": mutant(
        "q1b",
        "torch.linalg.det(torch.eye(len(core), **f64) + slopes.unsqueeze(-1) * core).min()",
        "torch.linalg.det(torch.eye(len(core), **f64) + core)",
        "The determinant where the layer is steepest.",
    ),
    "empty_set_forgotten": mutant(
        "q1b",
        "slopes = torch.tensor(list(corners), **f64)  #",
        "slopes = torch.tensor(list(corners)[1:], **f64)  #",
        "Far away all slopes tend to 0, and the determinant to 1.",
    ),
    "leading_minors": mutant(
        "q1b",
        "itertools.product((0.0, 1.0), repeat=V.shape[1])",
        "[[1.0] * k + [0.0] * (V.shape[1] - k) for k in range(V.shape[1] + 1)]",
        "As for positive definite matrices: but the order of units means nothing.",
    ),
    "one_unit_at_a_time": mutant(
        "q1b",
        "itertools.product((0.0, 1.0), repeat=V.shape[1])",
        "[[0.0] * V.shape[1], *torch.eye(V.shape[1]).tolist()]",
        "Units are asked alone: together they may fold.",
    ),
    "eigenvalues": mutant(
        "q1b",
        "return torch.linalg.det(torch.eye(len(core), **f64) + slopes.unsqueeze(-1) * core).min()",
        "return (1 + torch.linalg.eigvals(core).real.clamp(max=0)).prod()",
        "Slopes taken for factors of the eigenvalues of M.",
    ),
    "searched": mutant(
        "q1b",
        "torch.tensor(list(corners), **f64)  #",
        "torch.rand(5000, V.shape[1], generator=torch.Generator().manual_seed(0), **f64)  #",
        "Slopes drawn at random.",
    ),
    "absolute_value": mutant(
        "q1b",
        "slopes.unsqueeze(-1) * core).min()",
        "slopes.unsqueeze(-1) * core).abs().min()",
        "The sign is what the question is about.",
    ),
    "slopes_between_minus_one_and_one": mutant(
        "q1b", "product((0.0, 1.0)", "product((-1.0, 1.0)", "The range of tanh, not that of its slope."
    ),
    # ---- q1c
    "root_of_scipy": whole(
        "q1c",
        ROOT_OF_SCIPY,
        "A solver of the library from 300 starts: some points are found often, others never.",
        tag="published",
    ),
    "folds_of_planar_layers": whole(
        "q1c",
        FOLDS_OF_PLANAR_LAYERS,
        "Lecture 5's three branches of each planar layer as starts of a solver: they depend on each other.",
        tag="published",
    ),
    "one_point": mutant(
        "q1c", "if push * scale < -1:", "if False:", "Bisection over the whole width finds one point."
    ),
    "one_bent_unit": mutant(
        "q1c",
        "if push * scale < -1:",
        "if j == (U.diag() * L.diag()).argmin() and push * scale < -1:",
        "Only the unit that folds most is followed.",
    ),
    "first_unknown_first": mutant(
        "q1c",
        "for j in reversed(range(len(b))):",
        "for j in range(len(b)):",
        "The first equation contains all unknowns.",
    ),
    "bend_in_the_wrong_place": mutant(
        "q1c",
        "(1 + 1 / (push * scale)).sqrt()",
        "-1 / (push * scale)",
        "tanh taken for its slope.",
    ),
    "bias_moves_nothing": mutant(
        "q1c",
        " - a[:, j]) / scale)",
        " - 0 * a[:, j]) / scale)",
        "The bias and the other units move the turning points.",
    ),
    "scale_forgotten": mutant("q1c", " / scale).sort(0)", ").sort(0)", "Turning points of L y, not of y."),
    "turning_points_unsorted": mutant(
        "q1c",
        " / scale).sort(0).values",
        " / scale)",
        "With a negative scale the left one is the right one.",
    ),
    "transposed_triangle": mutant("q1c", "y @ L + b", "y @ L.mT + b", "L taken for its transpose."),
    "upper_row_forgotten": mutant(
        "q1c",
        "wanted = goal[j] - torch.tanh(a[:, j + 1 :]) @ U[j, j + 1 :]",
        "wanted = goal[j].expand(len(y))",
        "What the later units move is left out.",
    ),
    "reflections_in_the_given_order": mutant(
        "q1c",
        "for v in reflections.flip(0):",
        "for v in reflections:",
        "H_n ... H_1 in place of H_1 ... H_n.",
    ),
    "reflections_of_unit_length": mutant(
        "q1c", "torch.outer(2 / (v @ v) * v", "torch.outer(2 * v", "The length of v is forgotten."
    ),
    "width_of_the_bracket": mutant(
        "q1c",
        "sides * (push.abs() + 1)",
        "sides * 2",
        "tanh is bounded by 1, but U times tanh is not.",
    ),
    "few_halvings": mutant("q1c", "range(100)", "range(15)", "A few decimals only."),
    "always_rising": mutant("q1c", "== rises", "== rises.new_ones(())", "In the middle piece the map falls."),
    "points_of_the_plane": mutant(
        "q1c", "z + (y - goal) @ Q.mT", "y @ Q.mT", "What of z is at right angles to Q is lost."
    ),
    # ---- q1e
    "orders_of_growth": whole(
        "q1e",
        ORDERS_OF_GROWTH,
        "Lecture 5's O(d r^2 + r^3) taken for counts, Q for nothing.",
        tag="published",
    ),
    "two_thirds": mutant(
        "q1e",
        "(order**3 - order) // 3",
        "2 * (order**3 - order) // 3",
        "Lecture 5's 2/3 d^3 counts additions as well.",
    ),
    "divisions_forgotten": mutant(
        "q1e",
        "(order**3 - order) // 3",
        "(order - 1) * order * (2 * order - 1) // 6",
        "Only what is done right of the pivots.",
    ),
    "pivots_forgotten": mutant("q1e", " // 3 + order - 1", " // 3", "The product of the pivots."),
    "core_for_each_example": mutant(
        "q1e",
        "small = m * r * r + n * (2 * m * r + r * r",
        "small = n * (m * r * r + 2 * m * r + r * r",
        "W'V does not depend on the example.",
    ),
    "orthonormal_for_nothing": mutant(
        "q1e",
        "triangular = orthonormal + r",
        "triangular = r",
        "Q must be made anew in every step.",
    ),
    "full_triangles": mutant(
        "q1e",
        "n * (2 * m * r + r * (r + 1) + 2 * r - 1)",
        "n * (2 * m * r + 2 * r * r + 2 * r - 1)",
        "Zeros of triangles multiplied.",
    ),
    "scale_for_every_entry": mutant(
        "q1e",
        "r * (m + 1 + 2 * m * r + r)",
        "r * (m + 1 + 3 * m * r)",
        "beta times the outer product instead of beta times a row.",
    ),
    "pays_for_two": mutant(
        "q1e",
        "    if r < 3:\n        return None\n",
        "    if r < 3:\n        return 1\n",
        "With small r both forms are cheap, but the triangular one is never cheaper.",
    ),
    "not_strictly": mutant(
        "q1e",
        "return 3 * ((m + 1) * (r + 1) + 1) // (r * r - 7) + 1",
        "return -(-3 * ((m + 1) * (r + 1) + 1) // (r * r - 7))",
        "A ceiling: where the division has no rest, the two are equal.",
    ),
    "division_of_floats": mutant(
        "q1e",
        "(order**3 - order) // 3",
        "int((order**3 - order) / 3)",
        "Rounded from 2**53 on.",
    ),
    # ---- q2b
    "literal": whole(
        "q2b",
        LITERAL,
        "The printed definition over all codes: too many to be listed.",
        tag="published",
    ),
    "surgery_by_draws": whole(
        "q2b",
        SURGERY_BY_DRAWS,
        "Seminar 7's surgery with codes that are drawn: a few per cent off.",
        tag="published",
    ),
    "parts_added_up": whole(
        "q2b",
        PARTS_ADDED_UP,
        "Information of the parts added up: the aggregate posterior is no product.",
    ),
    "unused_examples": mutant(
        "q2b",
        "used = weights > 0  #",
        "used = weights >= 0\n    if tables.shape[1] > 12:\n        raise MemoryError  #",
        "Examples that are never drawn decide what is hard, and what is noise: too many codes.",
    ),
    "logarithms_of_zero": mutant("q2b", "torch.xlogy(p, p)", "(p * p.log())", "0 log 0 is NaN."),
    "cut_off": mutant("q2b", "torch.xlogy(p, p)", "(p * (p + 1e-4).log())", "The habit of log(q + small)."),
    "classes_unweighted": mutant(
        "q2b",
        ".index_add(0, groups[mine], codes)",
        ".index_add(0, groups[mine], codes / weights[mine][:, None])",
        "Examples of a class weigh the same.",
    ),
    "classes_of_equal_weight": mutant(
        "q2b",
        ".index_add(0, groups, weights)",
        ".index_add(0, groups, torch.full_like(weights, 1 / len(weights)))",
        "A class weighs what its number of examples says.",
    ),
    "within_the_class": mutant(
        "q2b",
        "    return both\n",
        "    return torch.stack([both[0], both[0] - both[1]])\n",
        "What the code says beyond the class.",
    ),
    "kinds_forgotten": mutant(
        "q2b",
        "both = -torch.stack([log_mean(weights), log_mean(shares)])",
        "both = -torch.stack([log_mean(weights), log_mean(shares)])\n"
        "    told = torch.zeros(len(weights), **f64).index_add(0, kinds, weights)\n"
        "    both = both + log_mean(told)",
        "What the hard parts themselves tell is left out.",
    ),
    "noise_by_its_first_example": mutant(
        "q2b",
        "(here != here[:1]).any(2).any(0)",
        "(here != here[:1]).any(2).any(0) & (here != here[-1:]).any(2).all(0)",
        "A part that two examples share is taken for noise.",
    ),
    "bits": mutant("q2b", "    return both\n", "    return both / math.log(2)\n", "Bits for nats."),
    # ---- q3b
    "each_by_its_own": whole(
        "q3b",
        EACH_BY_ITS_OWN,
        "Seminar 7's bound, every draw divided by the density it was drawn from.",
        tag="published",
    ),
    "mixture_of_equal_shares": mutant(
        "q3b",
        "(counts / counts.sum()).to(log_q).log()",
        "torch.full_like(log_q[:, 0, 0], 1 / len(counts)).log()",
        "Counts are ignored.",
    ),
    "shares_of_used_kinds": mutant(
        "q3b",
        "(counts / counts.sum()).to(log_q).log()",
        "((counts > 0) / (counts > 0).sum()).to(log_q).log()",
        "Kinds that are drawn at all, with equal shares.",
    ),
    "mean_of_logarithms": mutant(
        "q3b",
        "torch.logsumexp(log_q + shares[:, None, None], 0)  #",
        "(log_q * shares.exp()[:, None, None]).nan_to_num(neginf=-1e9).sum(0)  #",
        "A mean of log-densities is not the log-density of a mixture.",
    ),
    "cell_forgotten": mutant("q3b", " - m * math.log(levels)", "", "The density of the flow, not its mass."),
    "cell_of_one_pixel": mutant("q3b", "m * math.log(levels)", "math.log(levels)", "One pixel only."),
    "cell_counted_up": mutant(
        "q3b", "log_p - m * math", "log_p + m * math", "The sign of the change of variables."
    ),
    "log_K_forgotten": mutant(
        "q3b",
        "torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "torch.logsumexp(log_w, 0)",
        "A sum, no mean.",
    ),
    "mean_outside": mutant(
        "q3b",
        "torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "log_w.mean(0)",
        "The mean of logarithms: a bound as well, with one draw at a time.",
    ),
    "exponentials": mutant(
        "q3b",
        "torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "log_w.exp().mean(0).log()",
        "Underflow at -1000.",
    ),
    "exponentials_in_the_mixture": mutant(
        "q3b",
        "torch.logsumexp(log_q + shares[:, None, None], 0)  #",
        "(log_q.exp() * shares.exp()[:, None, None]).sum(0).log()  #",
        "Overflow in many dimensions.",
    ),
    "bound_of_each_kind": mutant(
        "q3b",
        "    return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "    parts = log_w.split(counts.tolist())\n"
        "    means = [p.logsumexp(0) - math.log(len(p)) for p in parts if len(p)]\n"
        "    return sum(n * one for n, one in zip(counts[counts > 0], means)) / counts.sum()",
        "A mean of the bounds of the kinds.",
    ),
    "changes_what_it_is_given": mutant(
        "q3b",
        "    log_w = log_p - m * math.log(levels) - log_mixture\n",
        "    log_p -= m * math.log(levels)\n    log_w = log_p - log_mixture\n",
        "The caller's tensor is another one afterwards.",
    ),
    # ---- q4b
    "optimum_of_the_paper": whole(
        "q4b",
        OPTIMUM_OF_THE_PAPER,
        "The paper's optimum, for equal shares, and no thought of values that neither gives.",
        tag="published",
    ),
    "zero_by_zero": mutant(
        "q4b",
        "torch.where(mixture > 0, share * pi / mixture, 0.5)",
        "share * pi / mixture",
        "NaN where neither of the two gives anything.",
    ),
    "offset_below": mutant(
        "q4b",
        "torch.where(mixture > 0, share * pi / mixture, 0.5)",
        "share * pi / (mixture + 1e-6)",
        "A small number below the fraction moves rare values.",
    ),
    "rare_values_left_out": mutant(
        "q4b", "mixture > 0,", "mixture > 1e-8,", "Rare is not the same as impossible."
    ),
    "equal_shares_in_D": mutant(
        "q4b",
        "torch.where(mixture > 0, share * pi / mixture, 0.5)",
        "torch.where(mixture > 0, pi / (pi + p), 0.5)",
        "The share enters the loss only.",
    ),
    "equal_shares_in_the_loss": mutant(
        "q4b",
        "(mixture * (D - c)",
        "((pi + p) / 2 * (D - c)",
        "The share enters the discriminator only.",
    ),
    "labels_exchanged": mutant("q4b", "a + (b - a) * real", "b + (a - b) * real", "Real for generated."),
    "generated_term_alone": mutant(
        "q4b",
        "(mixture * (D - c)",
        "((1 - share) * p * (D - c)",
        "The loss that is trained with D fixed.",
    ),
    "loss_of_the_discriminator": mutant(
        "q4b",
        "(mixture * (D - c).square()).sum(-1)",
        "(share * pi * (D - b).square() + (1 - share) * p * (D - a).square()).sum(-1)",
        "The other player's loss.",
    ),
    "target_is_the_mean_label": mutant(
        "q4b",
        "(mixture * (D - c).square()).sum(-1)",
        "(mixture * (D - share * b - (1 - share) * a).square()).sum(-1)",
        "The divergence alone: the target's term is left out.",
    ),
    "logistic_optimum": mutant(
        "q4b", "D = a + (b - a) * real", "D = real", "The optimum of the first GAN, a probability."
    ),
    # ---- q4c
    "by_draws": whole(
        "q4c",
        BY_DRAWS,
        "The one by matrices, in closed form; the other one by draws, which are not exact.",
        tag="published",
    ),
    "along_the_first_axis": whole(
        "q4c",
        ALONG_THE_FIRST_AXIS,
        "Lecture 7's theorem and a library's quadrature, for the first coordinate.",
        tag="published",
    ),
    "two_conventions_exchanged": mutant(
        "q4c",
        "return share / (1 - share) * (1 - overlap), by_p",
        "return by_p, share / (1 - share) * (1 - overlap)",
        "The two exchanged.",
    ),
    "from_pi": mutant(
        "q4c",
        "return share / (1 - share) * (1 - overlap)",
        "return (1 - share) / share * (1 - overlap)",
        "The divergence of pi from the mixture.",
    ),
    "without_the_share": mutant(
        "q4c",
        "return share / (1 - share) * (1 - overlap)",
        "return 1 - overlap",
        "Right for equal shares.",
    ),
    "factor_forgotten": mutant(
        "q4c", "length = (factor.mT @ u).norm()", "length = u.norm()", "u is measured in the units of x."
    ),
    "factor_transposed": mutant(
        "q4c", "(factor.mT @ u).norm()", "(factor @ u).norm()", "F for its transpose."
    ),
    "length_of_the_move": mutant(
        "q4c",
        "mean, std = shift * length,",
        "mean, std = shift * (factor @ factor.mT @ u).norm(),",
        "The Euclidean distance of the means.",
    ),
    "length_once": mutant("q4c", "stretch * length**2", "stretch * length", "A variance, not a deviation."),
    "pi_and_p_themselves": mutant(
        "q4c",
        "share**2 * torch.expm1",
        "torch.expm1",
        "The divergence of pi and p, not that of p and the mixture.",
    ),
    "share_once": mutant("q4c", "share**2 * torch.expm1", "share * torch.expm1", "p - mixture, not squared."),
    "no_inf": mutant(
        "q4c",
        "torch.where(left > 0, share**2 * torch.expm1(log_integral), torch.inf)",
        "(share**2 * torch.expm1(log_integral)).nan_to_num()",
        "A number where there is no integral.",
    ),
    "inf_whenever_pi_is_wider": mutant(
        "q4c", "torch.where(left > 0,", "torch.where(std <= 1,", "Somewhat wider is not too wide."
    ),
    "half_in_the_exponent": mutant(
        "q4c",
        "mean**2 / left",
        "mean**2 / (2 * left)",
        "The exponent of a Gaussian, but the square of pi has twice of it.",
    ),
    "scale_of_p": mutant(
        "q4c", "x = mean + std * t if std < 1 else t", "x = t", "On the scale of p a narrow pi is not seen."
    ),
    "single_precision": mutant(
        "q4c",
        "return share / (1 - share) * (1 - overlap), by_p",
        "return (share / (1 - share) * (1 - overlap)).float(), by_p",
        "float32 where float64 is asked for.",
    ),
    # ---- one line of the contract each: types, tensors, tuples, what may be singular
    "layer_of_full_rank": mutant(
        "q1b",
        "    core = W.mT @ V\n",
        "    torch.linalg.cholesky(V.mT @ V)\n    core = W.mT @ V\n",
        "V may have a column of zeros: W alone has rank r.",
    ),
    "a_float_for_the_infimum": mutant(
        "q1b", "* core).min()", "* core).min().item()", "A tensor is asked for."
    ),
    "infimum_in_single": mutant("q1b", "* core).min()", "* core).min().float()", "float32 for float64."),
    "infimum_in_a_list": mutant("q1b", "* core).min()", "* core).min()[None]", "The shape is ()."),
    "points_as_an_array": mutant(
        "q1c", "z + (y - goal) @ Q.mT", "(z + (y - goal) @ Q.mT).numpy()", "A tensor is asked for."
    ),
    "points_in_single": mutant(
        "q1c", "z + (y - goal) @ Q.mT", "(z + (y - goal) @ Q.mT).float()", "float32 for float64."
    ),
    "a_list_of_counts": mutant(
        "q1e", "return full, small, triangular", "return [full, small, triangular]", "A tuple is asked for."
    ),
    "break_even_as_a_float": mutant(
        "q1e", "// (r * r - 7) + 1\n", "// (r * r - 7) + 1.0\n", "An int is asked for."
    ),
    "two_numbers_for_a_tensor": mutant(
        "q2b", "    return both\n", "    return both[0], both[1]\n", "One tensor is asked for."
    ),
    "information_in_single": mutant(
        "q2b", "    return both\n", "    return both.float()\n", "float32 for float64."
    ),
    "bound_in_single": mutant(
        "q3b",
        "    return torch.logsumexp(log_w, 0) - math.log(len(log_w))",
        "    return (torch.logsumexp(log_w, 0) - math.log(len(log_w))).float()",
        "float32 for float64.",
    ),
    "loss_in_single": mutant(
        "q4b", "(D - c).square()).sum(-1)", "(D - c).square()).sum(-1).float()", "float32."
    ),
    "floats_for_tensors": mutant(
        "q4c",
        "return share / (1 - share) * (1 - overlap), by_p",
        "return (share / (1 - share) * (1 - overlap)).item(), by_p.item()",
        "Tensors are asked for.",
    ),
    "equal_ones_are_apart": mutant(
        "q4c",
        "    left = 2 - std**2",
        "    overlap = overlap * (mean != 0 or std != 1)\n    left = 2 - std**2",
        "Where nothing is moved or stretched the divergence is 0.",
    ),
}

# Generated wrong solutions that compute the same on all that may be handed in, and why.
EQUIVALENT = {
    "Zeros and ones are exact in float32, and the product has the type of the core.": [
        "hw5:q1b:6:rch.tensor(list(corners){, **f64 → })",
    ],
    "Zeros and ones are exact in float32, and the sum has the type of the core.": [
        "hw5:q1b:8:.det(torch.eye(len(core){, **f64 → }) + slopes.unsqueeze(-1)",
    ],
    "det(I + C D) = det(I + D C): slopes may scale columns as well as rows.": [
        "hw5:q1b:8:f64) + slopes.unsqueeze({-1 → 1}) * core).min()",
        "hw5:q1b:8:64) + slopes.unsqueeze(-{1 → 2}) * core).min()",
    ],
    "unique returns a pair: its second is its last.": [
        "hw5:q2b:6:ue(return_inverse=True)[{1 → -1}])",
    ],
    "One more column of zeros tells no examples apart.": [
        "hw5:q2b:8:es[:, hard].argmax(2), ({0 → 1}, 1))",
        "hw5:q2b:8::, hard].argmax(2), (0, {1 → 2}))",
    ],
    "The places of a vector have one column: its first is its last.": [
        "hw5:q2b:21:in differ.nonzero()[:, {0 → -1}]:",
    ],
    "Where the mixture is 0, any finite D is right, and the loss is multiplied by 0.": [
        "hw5:q4b:6:, share * pi / mixture, {0 → 1}.5)",
        "hw5:q4b:6:, share * pi / mixture, {0 → -0}.5)",
        "hw5:q4b:6:share * pi / mixture, 0.{5 → 0})",
        "hw5:q4b:6:, share * pi / mixture, {0.5 → 1.0})",
    ],
}
