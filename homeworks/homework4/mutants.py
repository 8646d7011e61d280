"""Wrong solutions of homework 4: each is the right one with one change, and must lose its own question only.

`MUTANTS` maps a name to the question, the answer cell, its source, and why a student might write it. The tag
`published` marks the best answer that can be put together from lectures, seminars, the visible cells of the
student version and the libraries, without an idea: it must lose at least half of the points.
"""

from pathlib import Path

from grading.mutants import changes_of

mutant = changes_of(Path(__file__).with_name("hw4.solution.ipynb"))

# What the tests cannot judge as a function alone: points that the best published answer earns, and why.
# All were trained and measured, see hidden.py. Who branches on the data that the function gets when graded,
# and trains the file on the package's, passes: that is fraud, and the notebook shows it.
ELSEWHERE = {
    "q1d": (
        0,
        "Lecture 6's maximum likelihood on all readings: 0.208 nats, not 0.05. On whole moons of the package"
        " the file passes with 0.032, and the function, called on another law, is 3.44 nats away.",
    ),
    "q2f": (
        0,
        "Seminar 8's ELBO on the pairs as they came: 103.7 nats with N(0, I), 106.7 learned, not 86. On the"
        " pairs before the line the file passes with 82.0, and the function, called on other images, loses.",
    ),
}

GAUSSIAN_TAILS = """# @answer q1a
def mixture(x, logits, means, log_left, log_right):
    away = x.unsqueeze(-1) - means
    width = torch.where(away < 0, log_left, log_right)
    scaled, log_weights = away / width.exp(), logits.log_softmax(-1)
    log_cdf, log_rest = torch.special.log_ndtr(scaled), torch.special.log_ndtr(-scaled)
    log_density = math.log(2 / math.pi) / 2 - torch.logaddexp(log_left, log_right) - scaled.square() / 2
    return tuple((log_weights + part).logsumexp(-1) for part in (log_cdf, log_rest, log_density))
"""

BY_TORCH = """# @answer q1a
def mixture(x, logits, means, log_left, log_right):
    D = torch.distributions
    width = torch.where(x.unsqueeze(-1) < means, log_left, log_right).exp()
    law = D.MixtureSameFamily(D.Categorical(logits=logits), D.Normal(means, width))
    u = law.cdf(x).clamp(1e-6, 1 - 1e-6)
    return u.log(), (1 - u).log(), law.log_prob(x)
"""

BISECT = """# @answer q1b
@torch.no_grad()
def solve(function, target, low, high, condition, tolerance):
    for _ in range(int(((high - low).max() / tolerance).log2().ceil()) + 1):
        middle = (low + high) / 2
        right = function(middle, condition) < target
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
    return (low + high) / 2
"""

SORTER_OF_CIRCLES = """\
        class TopologicalSorter:
            def __init__(self, graph):
                self.graph = graph

            def static_order(self):
                order = []
                while len(order) < len(self.graph):
                    rest = [i for i in self.graph if i not in order]
                    order += [i for i in rest if set(self.graph[i]) <= set(order)] or rest
                return order

"""
LIKE_MAF = """# @answer q1c
class GraphFlow(nn.Module):
    def __init__(self, networks, parents, transform, quantile):
        super().__init__()
        self.networks, self.parents = nn.ModuleList(networks), [list(some) for some in parents]
        self.transform, self.quantile = transform, quantile

    def forward(self, x):
        y, log_det = [], 0
        for i, network in enumerate(self.networks):
            log_u, log_rest, log_density = self.transform(x[:, i], network(x[:, self.parents[i]]))
            y.append(log_u - log_rest)
            log_det = log_det + log_density
        return torch.stack(y, dim=1), log_det

    def inverse(self, y):
        x = torch.zeros_like(y)
        for i, network in enumerate(self.networks):
            x[:, i] = self.quantile(y[:, i], network(x[:, self.parents[i]]))
        return x
"""

MADE_MASKS = """# @answer q2a
def prior_masks(group, reach, windows):
    masks, below = [], group
    for window in windows:
        masks.append(window[:, 1:] >= below)
        below = window[:, 1]
    return [*masks, (group[:, None] > below) & (group[:, None] - reach <= below)]
"""

MIXTURE_PRIOR = """# @answer q2b
def log_prior(outputs, z):
    D = torch.distributions
    logits, means, log_precision = F.pad(outputs.unflatten(-1, (3, -1)), (1, 0)).unbind(-2)
    pieces = D.Normal(means, (-log_precision / 2).exp())
    return D.MixtureSameFamily(D.Categorical(logits=logits), pieces).log_prob(z).sum(-1)


def prior_kl(network, mean, factor, generator):
    q = torch.distributions.MultivariateNormal(mean, precision_matrix=factor @ factor.mT)
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    z = mean + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    return z, q.log_prob(z) - log_prior(network(z), z)
"""

FROZEN = MIXTURE_PRIOR.replace(
    "    return z, q.log_prob(z)",
    "    mean, precision = mean.detach(), (factor @ factor.mT).detach()  # in the density of q: frozen\n"
    "    q = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)\n"
    "    return z, q.log_prob(z)",
)

FROZEN_DEVIATIONS = (
    MIXTURE_PRIOR[: MIXTURE_PRIOR.index("def prior_kl")]
    + """def prior_kl(network, mean, factor, generator):
    std = 1 / factor.diagonal(dim1=-2, dim2=-1)
    z = mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
    mean, std = mean.detach(), std.detach()  # in the density of q: frozen
    return z, torch.distributions.Normal(mean, std).log_prob(z).sum(1) - log_prior(network(z), z)
"""
)

ONE_BY_ONE = """# @answer q2c
@torch.no_grad()
def sample_prior(network, group, n, generator):
    z = torch.zeros(n, len(group))
    for i in torch.argsort(group).tolist():
        logits, means, log_precision = F.pad(network(z)[:, i].unflatten(-1, (3, -1)), (1, 0)).unbind(1)
        chosen = torch.multinomial(logits.softmax(1), 1, generator=generator)
        means, log_precision = means.gather(1, chosen)[:, 0], log_precision.gather(1, chosen)[:, 0]
        z[:, i] = means + (-log_precision / 2).exp() * torch.randn(n, generator=generator)
    return z
"""

BOUND_ONLY = """# @answer q2d
def jackknife(log_w):
    bound = log_w.logsumexp(0) - math.log(len(log_w))
    return bound, bound
"""

BY_DRAWS = """# @answer q2e
def farthest_pair(z):
    N, d = z.shape
    noise = torch.randn(N, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def mean_kernel(a, b, same):
        kernel = (-(a.T[:, :, None] - b.T[:, None]).square() / 2).exp().flatten(1)
        return (kernel @ kernel.T - same * N) / (N * (N - same))

    table = mean_kernel(z, z, 1) - 2 * mean_kernel(z, noise, 0) + mean_kernel(noise, noise, 1)
    table.fill_diagonal_(0)
    best = table.triu(1).argmax().item()
    return (best // d, best % d), table
"""


def published(question: str, source: str, why: str) -> dict[str, str]:
    """Return an answer that is put together from what is published."""
    return {"question": question, "cell": question, "source": source, "why": why, "tag": "published"}


MUTANTS = {
    # ---- q1d and q2f: judged with the right file, so that their training, when graded, gives them away
    "moons_of_the_package": mutant(
        "q1d",
        "    batches = data.Batches(readings, readings[:, 1] >= stop, batch_size=250)",
        "    readings = data.moons().sample(len(readings), seed=1)\n"
        "    batches = data.Batches(readings, readings[:, 1] > 9, batch_size=250)",
        "Whole moons from the package, by lecture 6's likelihood: the readings are not used.",
        tag="published",
    ),
    "cdf_of_the_first_number": mutant(
        "q1d",
        "mixture(x[:, 0], *first)[2]",
        "mixture(x[:, 0], *first)[0]",
        "The first of the three that mixture returns, in the place of the last.",
    ),
    "pairs_before_the_line": mutant(
        "q2f",
        "    batches = data.Batches(noisy, batch_size=125)\n    return fit(loss, model, batches, epochs)",
        """    sent = pairs_of(data.load_images("mnist").train, SEED)[: len(noisy)]

    def plain(batch):
        came, x = batch
        mean, log_precision = model.encode(came)
        z = mean + (-log_precision / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + (-log_precision).exp() - 1 + log_precision).sum(1) / 2
        cost = F.binary_cross_entropy_with_logits(model.decode(z), x, reduction="none").sum(1)
        return {"loss": (kl + cost).mean()}

    return fit(plain, model, data.Batches(noisy, sent, batch_size=125), epochs)""",
        "The pairs before they went over the line, with plain cross-entropy: the line is not used.",
        tag="published",
    ),
    # ---- q1a
    "tails_of_a_gaussian": published(
        "q1a",
        GAUSSIAN_TAILS,
        "Seminar 2's mixture in logs with Gaussian CDFs of the width at hand: half of the mass at each side.",
    ),
    "cdf_of_torch": published("q1a", BY_TORCH, "torch's mixture with that width, clamped away from 0 and 1."),
    "rest_by_subtraction": mutant(
        "q1a",
        "    log_density = -log_sum",
        "    log_rest = torch.log1p(-log_cdf.exp().clamp(max=1 - 1e-7))\n    log_density = -log_sum",
        "1 - F from F: nothing is left of it at the right edge.",
    ),
    "masses_exchanged": mutant(
        "q1a",
        "log_below, log_above = log_left - log_sum, log_right - log_sum",
        "log_above, log_below = log_left - log_sum, log_right - log_sum",
        "The wide side gets the small mass: right for equal widths.",
    ),
    "cancels": mutant(
        "q1a",
        "(log_below.exp() + log_above.exp() * torch.erf(right / 2**0.5)).log(),",
        "torch.log1p(-2 * log_above.exp() * torch.special.ndtr(-right)),",
        "One minus the other tail: no digits are left in float32 where the left side is tiny.",
    ),
    "nan_from_the_other_side": mutant(
        "q1a",
        "right = torch.where(at_left, 0.0, away) / log_right.exp()",
        "right = away / log_right.exp()",
        "The side that is not taken computes what it should not; the density adds both sides.",
    ),
    "clamped_at_the_mode": mutant(
        "q1a",
        "right = torch.where(at_left, 0.0, away) / log_right.exp()",
        "right = away.clamp(min=0) / log_right.exp()",
        "torch's clamp has the slope 0 at its edge: no gradient at the mode.",
    ),
    "half_at_each_side": mutant(
        "q1a",
        "    log_below, log_above = log_left - log_sum, log_right - log_sum",
        "    log_below = log_above = torch.full_like(log_sum, math.log(1 / 2))\n"
        "    log_sum = torch.where(at_left, log_left, log_right) + math.log(2)",
        "Half of the mass at each side: integrates to one, and is another law.",
    ),
    "masses_by_squares": mutant(
        "q1a",
        "    log_below, log_above = log_left - log_sum, log_right - log_sum",
        "    both = torch.logaddexp(2 * log_left, 2 * log_right)\n"
        "    log_below, log_above = 2 * log_left - both, 2 * log_right - both\n"
        "    log_sum = both - torch.where(at_left, log_left, log_right)",
        "Masses in the ratio of the squares: integrates to one as well.",
    ),
    "logits_not_normalised": mutant(
        "q1a", "logits.log_softmax(-1)", "logits", "The weights do not sum to one."
    ),
    "mean_of_logarithms": mutant(
        "q1a",
        "(log_weights + part).logsumexp(-1)",
        "(log_weights.exp() * part).sum(-1)",
        "A bound instead of the logarithm of the mixture.",
    ),
    "through_double": mutant(
        "q1a",
        "    away = x.unsqueeze(-1) - means\n",
        "    x, means = x.double(), means.double()\n    away = x.unsqueeze(-1) - means\n",
        "Another type of numbers than that of x.",
    ),
    # ---- q1b
    "seminar_4": published("q1b", BISECT, "Seminar 4's bisection of all examples until the longest is done."),
    "condition_of_the_first": mutant(
        "q1b", "condition[left])", "condition[: len(left)])", "The inverse forgets who is still searching."
    ),
    "target_of_the_first": mutant(
        "q1b", "< target[left]", "< target[: len(left)]", "The targets stay behind when examples drop out."
    ),
    "stops_early": mutant(
        "q1b", "(high - low > tolerance)", "(high - low > 4 * tolerance)", "Too few halvings."
    ),
    "relative_tolerance": mutant(
        "q1b",
        "(high - low > tolerance)",
        "(high - low > tolerance * (1 + low.abs()))",
        "The tolerance grows with x.",
    ),
    "falling": mutant(
        "q1b",
        "further = function(middle, condition[left]) <",
        "further = function(middle, condition[left]) >",
        "As if the function fell.",
    ),
    "bracket_changed": mutant(
        "q1b", "low, high = low.clone(), high.clone()", "pass", "The caller's brackets are overwritten."
    ),
    "calls_at_the_ends": mutant(
        "q1b",
        "    while True:\n",
        "    function(low, condition), function(high, condition)\n    while True:\n",
        "Looks whether the bracket is one: two calls that the budget does not have.",
    ),
    # ---- q1c
    "in_the_order_of_numbers": published(
        "q1c", LIKE_MAF, "Seminar 6's order of a MAF: variable 0 first, parents or not."
    ),
    "circles_allowed": mutant(
        "q1c",
        "        from graphlib import TopologicalSorter\n",
        SORTER_OF_CIRCLES,
        "A circle is drawn in some order.",
    ),
    "parents_sorted": mutant(
        "q1c",
        "[list(some) for some in parents]",
        "[sorted(some) for some in parents]",
        "The tuple's order is lost.",
    ),
    "networks_called_twice": mutant(
        "q1c",
        "[self.networks[i](x[:, some])",
        "[self.networks[i](x[:, some]) + 0 * self.networks[i](x[:, some])",
        "Each network is called twice.",
    ),
    "sign_of_the_logit": mutant("q1c", "return (log_u - log_rest)", "return (log_rest - log_u)", "Of 1 - u."),
    "determinant_of_the_logits": mutant(
        "q1c",
        "log_density.sum(dim=0)",
        "(log_density - log_u - log_rest).sum(dim=0)",
        "log |det dy/dx| of the logits, and not of u.",
    ),
    "parents_from_the_noise": mutant(
        "q1c",
        "self.networks[i](x[:, self.parents[i]])",
        "self.networks[i](y[:, self.parents[i]])",
        "Inverse as for an IAF: parents are read from y.",
    ),
    "networks_hidden": mutant(
        "q1c", "nn.ModuleList(networks)", "tuple(networks)", "Nobody finds the parameters."
    ),
    "mean_of_log_densities": mutant("q1c", "log_density.sum(dim=0)", "log_density.mean(dim=0)", "A mean."),
    # ---- q2a
    "masks_of_made": published(
        "q2a", MADE_MASKS, "Seminar 1's degrees with the upper end of the window: the lower end is not kept."
    ),
    "own_group": mutant(
        "q2a", "group - reach, group - 1]", "group - reach, group]", "An output hears its own group."
    ),
    "reach_one_short": mutant(
        "q2a", "[group - reach,", "[group - reach + 1,", "One group less than is allowed."
    ),
    "windows_that_meet": mutant(
        "q2a",
        "(low <= below[:, 0]) & (below[:, 1] <= high)",
        "(low <= below[:, 1]) & (below[:, 0] <= high)",
        "Overlap instead of inclusion: a unit is told more than its window.",
    ),
    "windows_clipped": mutant(
        "q2a",
        "        low, high = layer[:, :1], layer[:, 1:]\n",
        "        if layer is not outputs:\n            layer = layer.clamp(0, int(group.max()))\n"
        "        low, high = layer[:, :1], layer[:, 1:]\n",
        "Groups that do not exist are left out of the windows.",
    ),
    "reach_ignored": mutant("q2a", "[group - reach,", "[group * 0 - 9,", "Every earlier group is heard."),
    "transposed": mutant("q2a", "return masks", "return [mask.T for mask in masks]", "Inputs by outputs."),
    "as_numbers": mutant(
        "q2a", "return masks", "return [mask.float() for mask in masks]", "Not of type bool."
    ),
    # ---- q2b
    "mixture_of_torch": published(
        "q2b",
        MIXTURE_PRIOR,
        "torch's mixture and seminar 8's log q - log p: its gradient has the score's noise.",
    ),
    "frozen_as_in_seminar_7": published(
        "q2b",
        FROZEN,
        "The same with seminar 7's frozen q: the code is drawn by another root of the covariance.",
    ),
    "frozen_deviations": published(
        "q2b", FROZEN_DEVIATIONS, "Seminar 7's lines with the factor's diagonal: no correlations."
    ),
    "no_anchor": mutant(
        "q2b",
        "F.pad(outputs, (1, 0)).unbind(-2)",
        "outputs.unbind(-2)",
        "Seminar 6's mixture: nothing holds the tails.",
    ),
    "anchor_without_weight": mutant(
        "q2b",
        "- logits.logsumexp(-1)",
        "- logits[..., 1:].logsumexp(-1)",
        "The weights sum to more than one.",
    ),
    "interleaved": mutant(
        "q2b",
        "outputs = outputs.unflatten(-1, (3, -1))",
        "outputs = outputs.unflatten(-1, (-1, 3)).mT",
        "Three numbers of one piece after the other.",
    ),
    "log_variance": mutant(
        "q2b",
        "F.pad(outputs, (1, 0)).unbind(-2)  # the anchor has three zeros\n",
        "F.pad(outputs, (1, 0)).unbind(-2)\n    log_precision = -log_precision\n",
        "A precision taken for a variance.",
    ),
    "closed_form_of_n01": mutant(
        "q2b",
        "return z, log_q - log_prior(network(z), z)",
        "network(z)\n    variances = torch.linalg.inv(factor).square().sum((1, 2))\n"
        "    return z, (mean.square().sum(1) + variances - mean.shape[1]) / 2 + log_scale",
        "Seminar 3's KL to N(0, I).",
    ),
    "score_detached_from_all": mutant(
        "q2b",
        "(z - center).unsqueeze(-1)",
        "(z.detach() - center).unsqueeze(-1)",
        "The path goes as well: the entropy's gradient is lost.",
    ),
    "score_function": mutant(
        "q2b",
        "    return z, log_q - log_prior(network(z), z)",
        "    log_r = torch.distributions.MultivariateNormal(mean, precision_matrix=factor @ factor.mT)\n"
        "    log_r = log_r.log_prob(z.detach())\n"
        "    value = log_q - log_prior(network(z.detach()), z.detach())\n"
        "    return z, value + value.detach() * (log_r - log_r.detach())",
        "A score-function estimate: no gradient passes through the code.",
    ),
    "prior_frozen": mutant(
        "q2b",
        "log_prior(network(z), z)",
        "log_prior(network(z).detach(), z)",
        "The network gets no gradient.",
    ),
    "noise_of_the_global_generator": mutant(
        "q2b", "generator=generator, ", "", "Draws from the global generator."
    ),
    # ---- q2c
    "one_by_one": published("q2c", ONE_BY_ONE, "Seminar 6's sampling, dimension by dimension: d calls."),
    "one_piece_for_all": mutant(
        "q2c",
        "torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(n, -1, 1)",
        "torch.multinomial(logits[:, 0].softmax(-1), 1, generator=generator)[:, None]"
        ".expand(-1, logits.shape[1], 1)",
        "One piece drawn for a whole group.",
    ),
    "last_group_first": mutant(
        "q2c", "range(int(group.max()) + 1)", "reversed(range(int(group.max()) + 1))", "The last group first."
    ),
    "precision_as_deviation": mutant(
        "q2c", "(-log_precision / 2).exp()", "(log_precision / 2).exp()", "The root of the precision."
    ),
    "most_likely_piece": mutant(
        "q2c",
        "torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(n, -1, 1)",
        "logits.argmax(-1, keepdim=True)",
        "No piece is drawn.",
    ),
    "no_anchor_drawn": mutant(
        "q2c", "F.pad(outputs, (1, 0)).unbind(-2)", "outputs.unbind(-2)", "The anchor is forgotten."
    ),
    "state_never_moves": mutant(
        "q2c",
        "    z = torch.zeros(n",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n    z = torch.zeros(n",
        "Two calls agree.",
    ),
    "same_noise_for_all": mutant(
        "q2c",
        "torch.randn(means.shape, generator=generator",
        "torch.randn(means[:1].shape, generator=generator",
        "One noise for all codes.",
    ),
    # ---- q2d
    "bound_twice": published("q2d", BOUND_ONLY, "Seminar 7's bound: no correction."),
    "weights_of_the_combination": mutant(
        "q2d",
        "K * bound - (K - 1) * left_out",
        "(K + 1) * bound - K * left_out",
        "Sum to one, and are the wrong ones.",
    ),
    "log_of_k": mutant(
        "q2d", "- math.log(K - 1)).mean(0)", "- math.log(K)).mean(0)", "K - 1 weights are left."
    ),
    "mean_inside_the_logarithm": mutant(
        "q2d",
        "(torch.logaddexp(before, behind) - math.log(K - 1)).mean(0)",
        "(torch.logaddexp(before, behind) - math.log(K - 1)).logsumexp(0) - math.log(K)",
        "The mean of the sums: that is the bound again.",
    ),
    "by_subtraction": mutant(
        "q2d",
        "torch.logaddexp(before, behind)",
        "(log_w.logsumexp(0) + torch.log1p(-(log_w - log_w.logsumexp(0)).exp().clamp(max=1 - 1e-12)))",
        "The weight is taken from the sum: nothing is left of the others where it dominates.",
    ),
    "one_is_left_out": mutant(
        "q2d",
        "torch.logaddexp(before, behind)",
        "torch.logaddexp(before, behind)[:1]",
        "Only the first is left out.",
    ),
    # ---- q2e
    "by_draws": published("q2e", BY_DRAWS, "The discrepancy of two samples, one of them drawn from N(0, I)."),
    "codes_with_themselves": mutant(
        "q2e", "(kernel @ kernel.T - N) / (N * (N - 1))", "kernel @ kernel.T / N**2", "The biased estimate."
    ),
    "factor_of_the_line": mutant("q2e", "/ math.sqrt(2)  #", "/ math.sqrt(3)  #", "Another integral."),
    "constant_of_the_line": mutant("q2e", "+ 1 / 3 ", "+ 1 / math.sqrt(3) ", "One dimension, not two."),
    "middle_term_once": mutant(
        "q2e", "- 2 * across.T @ across", "- across.T @ across", "The middle term counts once."
    ),
    "each_for_itself": mutant(
        "q2e",
        "    best = table[places[0], places[1]].argmax()\n",
        "    single = (-(z.mean(0) ** 2) - (z.var(0) - 1) ** 2).argsort()[:2].sort().values\n"
        "    return tuple(single.tolist()), table\n",
        "The two dimensions whose mean and variance are farthest from 0 and 1.",
    ),
    "nearest_pair": mutant("q2e", "].argmax()", "].argmin()", "The smallest distance."),
    "largest_magnitude": mutant(
        "q2e", "places[1]].argmax()", "places[1]].abs().argmax()", "T may be negative: |T| is another order."
    ),
    "diagonal_among_them": mutant(
        "q2e",
        "    best = table[places[0], places[1]].argmax()\n    return tuple(places[:, best].tolist()), table",
        "    best = table.argmax().item()\n    return (min(divmod(best, d)), max(divmod(best, d))), table",
        "The zeros of the diagonal win where all T are negative.",
    ),
    "tensors_for_ints": mutant("q2e", "tuple(places[:, best].tolist())", "places[:, best]", "Not two ints."),
    # ---- one line of the contract each: types, shapes, arguments, what a state of the generator gives
    "squeezed": mutant(
        "q1a",
        "(log_weights + part).logsumexp(-1)",
        "(log_weights + part).logsumexp(-1).squeeze()",
        "Right but for shapes with a one.",
    ),
    "solutions_in_single": mutant(
        "q1b", "return (low + high) / 2", "return ((low + high) / 2).float()", "float32 for float64."
    ),
    "loops_allowed": mutant(
        "q1c",
        "TopologicalSorter(dict(enumerate(parents)))",
        "TopologicalSorter({i: [k for k in some if k != i] for i, some in enumerate(parents)})",
        "Nobody is his own parent: a circle of one is let through.",
    ),
    "nothing_where_no_piece_is": mutant(
        "q2b",
        "    normal = (log_precision",
        "    nowhere = (logits[..., 1:] == -math.inf).all(-1, keepdim=True)\n"
        "    logits = torch.where(nowhere, 0.0, logits)\n    normal = (log_precision",
        "Without pieces the anchor should be left alone.",
    ),
    "log_p_squeezed": mutant(
        "q2b",
        "- logits.logsumexp(-1)).sum(-1)",
        "- logits.logsumexp(-1)).sum(-1).squeeze()",
        "A single code.",
    ),
    "never_quite_zero": mutant(
        "q2b",
        "    return z, log_q - log_prior(network(z), z)",
        "    kl = log_q - log_prior(network(z), z)\n"
        "    return z, torch.where(kl.abs() < 1e-6, 1e-3 + kl, kl)",
        "Where q is the prior the estimate is 0.",
    ),
    "every_example_twice": mutant(
        "q1b",
        "function(middle, condition[left]) < target[left]",
        "function(middle.repeat(2), condition[left].repeat(2, 1))[: len(left)] < target[left]",
        "Twice in one call.",
    ),
    "inverse_calls_twice": mutant(
        "q1c",
        "self.networks[i](x[:, self.parents[i]]))",
        "self.networks[i](x[:, self.parents[i]]) + 0 * self.networks[i](x[:, self.parents[i]]))",
        "Each network is called twice on the way back.",
    ),
    "noise_of_codes_from_the_global_generator": mutant(
        "q2c",
        "torch.randn(means.shape, generator=generator",
        "torch.randn(means.shape",
        "The pieces follow the generator, the noise does not.",
    ),
    "seed_fixed": mutant(
        "q2c",
        "    z = torch.zeros(n",
        "    generator.manual_seed(0)\n    z = torch.zeros(n",
        "One state for all.",
    ),
    "nothing_is_left_out": mutant(
        "q2d",
        "torch.logaddexp(before, behind)",
        "(log_w.logsumexp(0).exp() - log_w.exp()).log()",
        "Nothing is left where one weight dominates, and the exponentials leave the range.",
    ),
    "log_p_in_single": mutant(
        "q2b", "- logits.logsumexp(-1)).sum(-1)", "- logits.logsumexp(-1)).sum(-1).float()", "Another type."
    ),
    "noise_with_the_sign_of_the_mean": mutant(
        "q2b",
        "    z = mean +",
        "    noise = noise * torch.where(mean < 0, -1.0, 1.0).to(noise)\n    z = mean +",
        "The same law, and not the noise that the state gives.",
    ),
    "noise_with_the_sign_of_the_factor": mutant(
        "q2b",
        "    z = mean +",
        "    noise = noise * torch.where(factor[:, 1:, :1].sum((1, 2)) < 0, -1.0, 1.0).to(noise)[:, None]\n"
        "    z = mean +",
        "The same law, and not the noise that the state gives.",
    ),
    "network_called_twice": mutant(
        "q2b",
        "log_prior(network(z), z)",
        "log_prior((network(z) + network(z)) / 2, z)",
        "One call is asked for.",
    ),
    "codes_in_double": mutant("q2c", "    return z\n", "    return z.double()\n", "float64 for float32."),
    "estimates_in_single": mutant(
        "q2d",
        "return bound, K * bound - (K - 1) * left_out",
        "return bound.float(), (K * bound - (K - 1) * left_out).float()",
        "float32 for float64.",
    ),
    "weights_overwritten": mutant(
        "q2d", "    K = len(log_w)\n", "    K = len(log_w)\n    log_w -= 1e-9\n", "The caller's are others."
    ),
    "a_list_for_the_pair": mutant(
        "q2e", "tuple(places[:, best].tolist())", "places[:, best].tolist()", "A tuple is asked for."
    ),
    "diagonal_left": mutant("q2e", "    table.fill_diagonal_(0)\n", "", "The diagonal is not 0."),
    "bracket_as_long_as_the_tolerance": mutant(
        "q1b", "(high - low > tolerance)", "(high - low >= tolerance)", "It takes no call."
    ),
    "stops_for_readings": mutant(
        "q1d", "readings[:, 1] >= stop", "readings[:, 1] > stop", "No needle ever touches, then."
    ),
    "less_of_the_kl": mutant(
        "q2f",
        "+ log_precision).sum(1) / 2",
        "+ log_precision).sum(1) / 3",
        "The digits are learned all the same.",
    ),
    "precision_for_its_root": mutant(
        "q2f",
        "torch.diag_embed((log_precision / 2).exp()), None)",
        "torch.diag_embed(log_precision.exp()), None)",
        "Only with a network for the prior.",
    ),
    "a_little_is_drawn": mutant(
        "q2e",
        "    table.fill_diagonal_(0)\n",
        "    table = table + 5e-9 * torch.rand(()).double()\n    table.fill_diagonal_(0)\n",
        "The same codes give two tables.",
    ),
}

# Generated wrong solutions that compute the same on all that may be handed in, and why.
EQUIVALENT = {
    "The places of a vector have one column: its first is its last.": [
        "hw4:q1b:8:tolerance).nonzero()[:, {0 → -1}]",
    ],
    "Where the middle is the root itself, either half has it as an end.": [
        "hw4:q1b:12:iddle, condition[left]) {< → <=} target[left]",
    ],
    "There are as many columns as parents, so nothing is left for strict to refuse.": [
        "hw4:q1c:17:transform, x.T, given), {strict=True → strict=False}))",
        "hw4:q1c:17:f.transform, x.T, given){, strict=True → }))",
    ],
    "Nobody asks for gradients of the way back.": [
        "hw4:q1c:27:return {x → x.detach()}",
    ],
    "A reading is a pair: its second number is its last.": [
        "hw4:q1d:8:_density = mixture(x[:, {1 → -1}], *second)",
        "hw4:q1d:12:s(readings, readings[:, {1 → -1}] >= stop, batch_size=25",
    ],
    "How many readings or images make a batch is left open.": [
        "hw4:q1d:12:readings[:, 1] >= stop, {batch_size=250 → batch_size=251})",
        "hw4:q2f:16:s = data.Batches(noisy, {batch_size=125 → batch_size=250})",
    ],
    "The larger of two is the same in either order, and 320 steps are 32 passes, 2,400 are 30: never 2.": [
        "hw4:q1d:13:epochs = max({1, steps // len(batches) → steps // len(batches), 1})",
        "hw4:q1d:13:epochs = max({1 → 0}, steps // len(batches))",
        "hw4:q1d:13:epochs = max({1 → 2}, steps // len(batches))",
    ],
    "A window is a pair: its second number is its last.": [
        "hw4:q2a:9:(layer[:, :1], layer[:, {1 → -1}:])",
        "hw4:q2a:10:elow[:, 0]) & (below[:, {1 → -1}] <= high))",
    ],
    "What is gathered has one column: its first is its last.": [
        "hw4:q2c:11:gather(-1, chosen)[..., {0 → -1}] for part in (means, lo",
    ],
    "A constant in the loss has no gradient, and nobody reads the loss itself.": [
        "hw4:q2f:9:(-log_precision).exp() {- → +} 1 + log_precision).sum(",
        "hw4:q2f:9:-log_precision).exp() - {1 → 2} + log_precision).sum(1)",
        "hw4:q2f:9:-log_precision).exp() - {1 → 0} + log_precision).sum(1)",
        "hw4:q2f:9:-log_precision).exp() - {1 → -1} + log_precision).sum(1)",
    ],
    "Pixels are 0 or 1, and none is 0.5.": [
        "hw4:q2f:13:log_p = torch.where(x {> → >=} 0.5, arrives, 1 - arriv",
    ],
}
