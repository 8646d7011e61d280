"""Other right ways to answer homework 2: none may be refused, by visible or by hidden checks.

`ACCEPTED` maps a question to sources of its answer cell.
"""

ACCEPTED = {
    "q1b": [
        """
def path_counts(first, last, m, context):
    marks = torch.zeros((m + 2) ** 2, dtype=torch.int64)  # each unit adds 1 to a rectangle of pairs (i, j)
    one = torch.ones_like(first)
    low, high = last + 1, (first + context).clamp(max=m) + 1
    use = low < high
    for row, column, sign in ((low, first, 1), (low, last + 1, -1), (high, first, -1), (high, last + 1, 1)):
        marks.index_add_(0, (row * (m + 2) + column)[use], sign * one[use])
    return marks.reshape(m + 2, m + 2).cumsum(0).cumsum(1)[1:-1, 1:-1].contiguous()
""",
        """
def path_counts(first, last, m, context):
    often = np.zeros((m + 1, m + 1), dtype=np.int64)
    np.add.at(often, (first.numpy(), last.numpy()), 1)
    often = torch.from_numpy(often)
    counts = torch.zeros(m, m, dtype=torch.int64)
    for i in range(2, m + 1):  # units that feed output i begin at i - s at the earliest and end before i
        start = max(1, i - context)
        table = often[start:i, start:i]  # (f, a)
        counts[i - 1, start - 1 : i - 1] = table.cumsum(0).flip(1).cumsum(1).flip(1).diagonal()
    return counts
""",
    ],
    "q1c": [
        """
def deep_path_counts(degrees, m):
    rows = np.eye(m, dtype=object)
    below = np.arange(1, m + 1)
    for layer in [*degrees, None]:
        above = np.arange(1, m + 1) - 1 if layer is None else layer.numpy()  # outputs see degrees up to i - 1
        here = (above[:, None] >= below).astype(object).dot(rows)
        rows, below = np.concatenate([rows, here]), np.concatenate([below, above])
    return torch.tensor(rows[-m:].tolist(), dtype=torch.int64)
""",
        """
def deep_path_counts(degrees, m):
    # ways[a, j]: paths from input j to anything of degree a, found so far
    ways = torch.cat([torch.zeros(1, m, dtype=torch.int64), torch.eye(m, dtype=torch.int64)])
    for layer in degrees:
        ways = ways + layer.bincount(minlength=m + 1)[:, None] * ways.cumsum(0)
    return ways.cumsum(0)[:-1]
""",
    ],
    "q2b": [
        """
def head_sizes(width, height, channels, values, components, rank):
    # A triangular F has them all: R, R - 1, ... in its columns, until the covariance is full.
    covariance = channels
    for column in range(rank):
        covariance = min(covariance + channels - column, channels * (channels + 1) // 2)
    factor = components - 1 + components * channels + components * covariance
    a_pixel = channels * (values - 1), channels * (3 * components - 1), factor
    return tuple(width * height * n for n in a_pixel)


def crossover(channels, values, rank):
    answer = []
    for head in (1, 2):
        below, above = 0, 1
        while head_sizes(1, 1, channels, values, above, rank)[head] <= channels * (values - 1):
            above *= 2
        while above - below > 1:
            middle = (above + below) // 2
            if head_sizes(1, 1, channels, values, middle, rank)[head] > channels * (values - 1):
                above = middle
            else:
                below = middle
        answer.append(above)
    return tuple(answer)
""",
    ],
    "q3b": [
        """
def gaussian_kl(mean_1, diagonal_1, factor_1, mean_2, diagonal_2, factor_2):
    def core(diagonal, factor):
        return torch.eye(factor.shape[-1], dtype=torch.float64) + factor.mT @ (factor / diagonal[..., None])
    core_1, core_2 = core(diagonal_1, factor_1), core(diagonal_2, factor_2)
    thin = factor_1 / diagonal_1[..., None]
    def over(matrix):  # tr(matrix Sigma1) for matrix = sum of columns times columns
        outer = thin.mT @ matrix
        lost = outer * torch.linalg.solve(core_1, outer)
        return (matrix**2 / diagonal_1[..., None]).sum((-2, -1)) - lost.sum((-2, -1))
    inside = thin.mT @ (diagonal_2[..., None] * thin)
    lost = torch.linalg.solve(core_1, inside).diagonal(dim1=-2, dim2=-1).sum(-1)
    trace = (diagonal_2 / diagonal_1).sum(-1) - lost + over(factor_2)
    shift = mean_1 - mean_2
    square = (diagonal_2 * shift**2).sum(-1) + ((shift[..., None, :] @ factor_2) ** 2).sum((-2, -1))
    logs = (diagonal_1 / diagonal_2).log().sum(-1) + torch.logdet(core_1) - torch.logdet(core_2)
    return (trace + square - mean_1.shape[-1] + logs) / 2
""",
    ],
    "q4b": [
        """
def score_gradient(mean, log_std, log_joint, z):
    parameters = [value.expand_as(z).clone().requires_grad_() for value in (mean, log_std)]
    log_q = torch.distributions.Normal(parameters[0], parameters[1].exp()).log_prob(z).sum(1)
    scores = torch.autograd.grad(log_q.sum(), parameters)
    weight = (log_joint(z) - log_q.detach())[:, None]
    return tuple(weight * score for score in scores)
""",
        """
def score_gradient(mean, log_std, log_joint, z):
    std = log_std.exp()
    rows = []
    for point in z:  # the entropy in closed form; a constant baseline
        weight = log_joint(point[None])[0] + 40
        rows.append([weight * (point - mean) / std**2, weight * (((point - mean) / std) ** 2 - 1) + 1])
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
""",
        """
def score_gradient(mean, log_std, log_joint, z):
    noise = (z - mean) / log_std.exp()  # its own summand of log q for every score: others average to 0
    weight = log_joint(z)[:, None] + log_std + 0.5 * noise**2
    return weight * noise / log_std.exp(), weight * (noise**2 - 1)
""",
    ],
    "q4c": [
        """
def leave_one_out_variance(mean, std, level, curvature, target, n):
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    e, w = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    part = -0.5 * curvature[:, None] * (mean[:, None] + std[:, None] * e - target[:, None]) ** 2
    part = part - (part @ w)[:, None]
    slope, spread = part @ (w * e), part**2 @ w
    alone = part**2 @ (w * e**2) + spread.sum() - spread - slope**2
    return (alone + (spread.sum() + slope**2) / (n - 1)) / n / std**2
""",
    ],
    "q5b": [
        """
def alpha_divergence(log_p, log_q, alpha):
    p, q = log_p.exp(), log_q.exp()
    if abs(alpha - 1) < 1e-8:
        return (p * (log_p - log_q)).sum(-1)
    if abs(alpha + 1) < 1e-8:
        return (q * (log_q - log_p)).sum(-1)
    integral = ((1 + alpha) / 2 * log_p + (1 - alpha) / 2 * log_q).exp().sum(-1)
    return 4 / ((1 - alpha) * (1 + alpha)) * (1 - integral)
""",
        """
def alpha_divergence(log_p, log_q, alpha):
    def near_one(log_p, log_q, eps):
        log_t = log_q - log_p
        return -(log_p.exp() * (log_t + eps * log_t**2 / 2 + eps**2 * log_t**3 / 6)).sum(-1) / (1 - eps)
    if abs(abs(alpha) - 1) < 3e-6:
        pair = (log_p, log_q) if alpha > 0 else (log_q, log_p)
        return near_one(*pair, (1 - abs(alpha)) / 2)
    p, q = log_p.exp(), log_q.exp()
    return 4 / (1 - alpha**2) * (1 - (p ** ((1 + alpha) / 2) * q ** ((1 - alpha) / 2)).sum(-1))
""",
    ],
    "q5c": [
        """
def gaussian_alpha_divergence(mean_p, std_p, mean_q, std_q, alpha):
    v, u, square = std_p**2, std_q**2, (mean_p - mean_q) ** 2
    if abs(alpha - 1) < 1e-8:
        return 0.5 * (v / u - 1 - (v / u).log() + square / u)
    if abs(alpha + 1) < 1e-8:
        return 0.5 * (u / v - 1 - (u / v).log() + square / v)
    a, b = (1 + alpha) / 2, (1 - alpha) / 2
    mixed = a * u + b * v
    log_integral = (b * v.log() + a * u.log() - mixed.log() - a * b * square / mixed) / 2
    return torch.where(mixed > 0, (1 - log_integral.exp()) / (a * b), math.inf)
""",
    ],
}
