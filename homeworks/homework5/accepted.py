"""Other right ways to answer homework 5: none may be refused, by visible or by hidden checks.

`ACCEPTED` maps a question to sources of its answer cell.
"""

ACCEPTED = {
    "q1b": [
        """
def smallest_determinant(V, W):
    core = (W.T @ V).numpy()
    matrix, least = np.eye(len(core)) + core, 1.0
    for size in range(1, len(core) + 1):
        kept = np.array(list(itertools.combinations(range(len(core)), size)))
        least = min(least, np.linalg.det(matrix[kept[:, :, None], kept[:, None, :]]).min())
    return torch.tensor(least, dtype=torch.float64)
""",
        """
def smallest_determinant(V, W):
    core = W.T @ V
    steep = (torch.arange(2 ** len(core))[:, None] >> torch.arange(len(core))) % 2
    matrices = torch.eye(len(core), **f64) + core * steep[:, None, :]  # columns in place of rows
    return torch.linalg.det(matrices).min()
""",
    ],
    "q1c": [
        """
def preimages(z, reflections, U, L, b):
    # The layer is r planar layers, one after another: undo the last one, then the one before it, in all ways.
    from scipy.optimize import brentq
    Q = torch.eye(reflections.shape[1], len(b), **f64).numpy()
    for v in reflections.numpy()[::-1]:
        Q = Q - np.outer(2 * v / np.dot(v, v), v @ Q)
    U, L, b, z = U.numpy(), L.numpy(), b.numpy(), z.numpy()
    images = [Q.T @ z]
    for j in reversed(range(len(b))):
        before = []
        for y in images:
            slope, start = U[:, j] @ L[:, j], L[:, j] @ y + b[j]
            equation = lambda a: a + slope * np.tanh(a) - start
            marks = [start - abs(slope) - 1, start + abs(slope) + 1]
            if slope < -1:
                turn = np.arccosh(np.sqrt(-slope))  # 1 + slope / cosh(a)^2 = 0
                marks = sorted([*marks, -turn, turn])
            for low, high in zip(marks, marks[1:]):
                if equation(low) * equation(high) < 0:
                    a = brentq(equation, low, high, xtol=1e-14, rtol=1e-14)
                    before.append(y - U[:, j] * np.tanh(a))
        images = before
    return torch.from_numpy(z + (np.array(images) - Q.T @ z) @ Q.T)
""",
    ],
    "q1e": [
        """
def multiplications(m, r, n):
    lu = lambda k: k * (k - 1) // 2 + (k - 1) * k * (2 * k - 1) // 6 + k - 1
    A = n * (m * (3 * r + m * r) + lu(m))
    B = m * r**2 + n * (2 * m * r + r**2 + lu(r))
    C = r * (m + 2 * m * r + r + 2) + n * (2 * m * r + r**2 + 3 * r - 1)
    return A, B, C


def break_even(m, r):
    if r <= 2:
        return None
    n = 1
    while multiplications(m, r, n)[2] >= multiplications(m, r, n)[1]:
        n *= 2
    low = n // 2
    while n - low > 1:
        middle = (n + low) // 2
        if multiplications(m, r, middle)[2] >= multiplications(m, r, middle)[1]:
            low = middle
        else:
            n = middle
    return n
""",
    ],
    "q2b": [
        """
def information(weights, tables, groups):
    # Entropies: H(z) - H(z | i), and H(z) - H(z | y); noise has the same entropy in all of them.
    from scipy.stats import entropy
    weights, tables, groups = weights.numpy(), tables.numpy(), groups.numpy()
    drawn = np.flatnonzero(weights)
    sure = [j for j in range(tables.shape[1]) if set(np.unique(tables[drawn, j])) <= {0.0, 1.0}]
    kinds = {}
    for i in drawn:
        kinds.setdefault(tables[i, sure].tobytes(), []).append(i)
    pieces, by_class, of_index = [], {}, 0.0
    for name, mine in kinds.items():
        loose = [j for j in range(tables.shape[1]) if len(np.unique(tables[mine, j], axis=0)) > 1]
        total = 0.0
        for i in mine:
            code = np.ones(1)
            for j in loose:
                code = np.kron(code, tables[i, j])
            of_index += weights[i] * entropy(code)
            total = total + weights[i] * code
            key = groups[i], name
            by_class[key] = by_class.get(key, 0) + weights[i] * code
        pieces.append(total)
    of_code = entropy(np.concatenate(pieces))
    of_class = 0.0
    for y in {key[0] for key in by_class}:
        joint = np.concatenate([part for key, part in by_class.items() if key[0] == y])
        of_class += joint.sum() * entropy(joint)
    return torch.tensor([of_code - of_index, of_code - of_class], dtype=torch.float64)
""",
        """
def information(weights, tables, groups):
    # The chain rule: what the kind tells, and the mean of what the rest tells within a kind.
    def mutual(joint):
        product = joint.sum(1, keepdim=True) * joint.sum(0)
        return torch.nan_to_num(joint * torch.log(joint / product)).sum()
    keep = weights > 0
    w, q, y = weights[keep], tables[keep], groups[keep]
    hard = ((q == 0) | (q == 1)).flatten(2).all(2).all(0)
    kinds = {}
    for i, row in enumerate(q[:, hard].argmax(2).tolist()):
        kinds.setdefault(tuple(row), []).append(i)
    answer = torch.zeros(2, **f64)
    index, classes = torch.zeros(len(w), len(kinds), **f64), torch.zeros(1001, len(kinds), **f64)
    for number, mine in enumerate(kinds.values()):
        share = w[mine].sum()
        index[mine, number] = w[mine]
        classes[:, number].index_add_(0, y[mine], w[mine])
        codes = (w[mine] / share)[:, None]
        for j in range(q.shape[1]):
            if not (q[mine, j] == q[mine[0], j]).all():
                codes = torch.einsum("nc,nv->ncv", codes, q[mine, j]).flatten(1)
        together = torch.zeros(1001, codes.shape[1], **f64).index_add_(0, y[mine], codes)
        answer += share * torch.stack([mutual(codes), mutual(together[together.sum(1) > 0])])
    return answer + torch.stack([mutual(index), mutual(classes[classes.sum(1) > 0])])
""",
    ],
    "q3b": [
        """
def noise_bound(log_p, log_q, counts, levels, m):
    K = log_p.shape[0]
    kinds = log_q.repeat_interleave(counts, dim=0)  # the kind of every draw, at all draws
    log_mixture = kinds.logsumexp(0) - math.log(K)
    return (log_p - log_mixture).logsumexp(0) - math.log(K) - m * math.log(levels)
""",
        """
def noise_bound(log_p, log_q, counts, levels, m):
    used = counts > 0
    top = log_q[used].max(0).values
    mixture = (counts[used][:, None, None] * (log_q[used] - top).exp()).sum(0)  # K cancels
    log_w = log_p - top - mixture.log()
    most = log_w.max(0).values
    return most + (log_w - most).exp().sum(0).log() - m * math.log(levels)
""",
    ],
    "q4b": [
        """
def least_squares_optimum(pi, p, share, a, b, c):
    pi, p = torch.broadcast_tensors(pi, p)
    odds = (1 - share) * p / (share * pi)
    D = torch.where(pi > 0, b + (a - b) * odds / (1 + odds), torch.full_like(pi, a))
    D = torch.where(torch.isfinite(D), D, torch.full_like(pi, a))
    return D, share * (pi * (D - c) ** 2).sum(-1) + (1 - share) * (p * (D - c) ** 2).sum(-1)
""",
        """
def least_squares_optimum(pi, p, share, a, b, c):
    below = share * pi + (1 - share) * p
    below = torch.where(below == 0, torch.ones_like(below), below)
    D = (share * b * pi + (1 - share) * a * p) / below
    spread = (b - a) ** 2 * share**2 * (1 - share) ** 2 * ((pi - p) ** 2 / below).sum(-1)
    return D, spread + (share * b + (1 - share) * a - c) ** 2
""",
    ],
    "q4c": [
        """
def gaussian_pearson(center, factor, u, shift, stretch, share):
    square = (u @ factor @ factor.T @ u).item()  # variance of u'x under p
    mu, s = shift * square**0.5, (1 + stretch * square) ** 0.5
    nodes, weights = np.polynomial.legendre.leggauss(30)
    marks = np.arange(-14, 14.1, 0.5)
    edges = np.unique(np.concatenate([mu + s * marks, marks]))
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (1 + nodes)
    pi = np.exp(-(((x - mu) / s) ** 2) / 2) / s / np.sqrt(2 * np.pi)
    p = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    mixture = share * pi + (1 - share) * p
    ratio = np.divide((pi - p) ** 2, mixture, out=np.zeros_like(p), where=mixture > 0)
    by_mixture = share**2 * (ratio * half * weights).sum()
    v = 2 - s**2
    by_p = share**2 * (np.exp(mu**2 / v) / s / np.sqrt(v) - 1) if v > 0 else np.inf
    return torch.tensor(by_mixture, **f64), torch.tensor(by_p, **f64)
""",
    ],
}
