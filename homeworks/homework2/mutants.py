"""Wrong solutions of homework 2: each is the right one with one change, and must lose its own question only.

`MUTANTS` maps a name to the question, the answer cell, its source, and why a student might write it. The tag
`published` marks the best answer that can be put together from lectures, seminars, the visible cells of the
student version and the libraries, without an idea: it must lose at least half of the points.
"""

from pathlib import Path

from grading.mutants import changes_of

mutant = changes_of(Path(__file__).with_name("hw2.solution.ipynb"))

# What is marked by hand: points that the best published answer earns by the rubric, and why.
ELSEWHERE = {
    "q1a": (
        0.5,
        "Lecture 1's theorem with degrees in place of first and last inputs: the rubric's last line.",
    ),
    "q2a": (0.15, "Outputs counted as lecture 1 counts them: the rubric's last line."),
    "q3a": (0.25, "Lecture 3's divergence of diagonal Gaussians: the log ratio alone."),
    "q4a": (1.0, "Lecture 3's identity without the entropy, 0.5; its covariance and constant baseline, 0.5."),
    "q5a": (0.25, "Form (1), which the hints and q5b's give away."),
}

LECTURE_IN_A_BAND = """# @answer q1b
def path_counts(first, last, m, context):
    up_to = torch.bincount(last, minlength=m + 1).cumsum(0)[:m]
    return (up_to[:, None] - up_to[None, :]).tril().triu(-context)
"""

PRODUCT_OF_MASKS = """# @answer q1c
def deep_path_counts(degrees, m):
    place = torch.arange(1, m + 1)
    counts, below = torch.eye(m, dtype=torch.int64), place
    for layer in degrees:
        counts = (layer[:, None] >= below).long() @ counts
        below = layer
    direct = (place[:, None] > place).long()
    return (place[:, None] > below).long() @ counts + direct
"""

OUTPUTS_COUNTED = """# @answer q2b
def head_sizes(width, height, channels, values, components, rank):
    pixels = width * height
    factor = pixels * components * (1 + 2 * channels + channels * rank)
    return pixels * channels * values, pixels * channels * 3 * components, factor


def crossover(channels, values, rank):
    return values // 3 + 1, channels * values // (1 + 2 * channels + channels * rank) + 1
"""

DENSITIES_OF_TORCH = """# @answer q3b
def gaussian_kl(mean_1, diagonal_1, factor_1, mean_2, diagonal_2, factor_2):
    pair = [
        torch.distributions.MultivariateNormal(mean, precision_matrix=a.diag_embed() + U @ U.mT)
        for mean, a, U in ((mean_1, diagonal_1, factor_1), (mean_2, diagonal_2, factor_2))
    ]
    return torch.distributions.kl_divergence(*pair)
"""

LOW_RANK_COVARIANCE = """# @answer q3b
def gaussian_kl(mean_1, diagonal_1, factor_1, mean_2, diagonal_2, factor_2):
    pair = [
        torch.distributions.LowRankMultivariateNormal(mean, factor / diagonal.unsqueeze(-1), 1 / diagonal)
        for mean, diagonal, factor in ((mean_1, diagonal_1, factor_1), (mean_2, diagonal_2, factor_2))
    ]
    return torch.distributions.kl_divergence(*pair)
"""

SUMMED_ON_A_GRID = """# @answer q5c
def gaussian_alpha_divergence(mean_p, std_p, mean_q, std_q, alpha):
    p = torch.distributions.Normal(mean_p[..., None], std_p[..., None])
    q = torch.distributions.Normal(mean_q[..., None], std_q[..., None])
    if abs(alpha) == 1:
        pair = (p, q) if alpha == 1 else (q, p)
        return torch.distributions.kl_divergence(*pair)[..., 0]
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    integral = ((1 + alpha) / 2 * p.log_prob(grid) + (1 - alpha) / 2 * q.log_prob(grid)).exp().sum(-1) * 1e-3
    return 4 / (1 - alpha**2) * (1 - integral)
"""

MUTANTS = {
    # ---- q1b
    "lecture_in_a_band": {
        "question": "q1b",
        "cell": "q1b",
        "source": LECTURE_IN_A_BAND,
        "why": "Lecture 1's degrees with the far paths cut away: units still count that hear too far back.",
        "tag": "published",
    },
    "counts_through_masks": mutant(
        "q1b",
        "    often =",
        "    place = torch.arange(1, m + 1)\n"
        "    if first.numel() > 100_000:\n"
        "        raise MemoryError\n"  # torch says so in the sandbox, after a while
        "    hears = (first[:, None] <= place) & (place <= last[:, None])\n"
        "    feeds = (last < place[:, None]) & (place[:, None] <= first + context)\n"
        "    return feeds.long() @ hears.long()\n"
        "    often =",
        "The product of the masks: right, and too large for a million units.",
    ),
    "left_end_off_by_one": mutant(
        "q1b", "(i - context - 1)", "(i - context)", "Units that begin at i - tau are left out."
    ),
    "left_end_forgotten": mutant(
        "q1b",
        " - up_to[before, i - 1] - up_to[j, j - 1] + up_to[before, j - 1]",
        " - up_to[j, j - 1]",
        "Units that begin before i - tau hear what output i must not know.",
    ),
    "corner_taken_twice": mutant(
        "q1b",
        " + up_to[before, j - 1]",
        "",
        "Inclusion and exclusion without the last term.",
    ),
    "counts_above_the_diagonal": mutant(
        "q1b", ".tril(-1)", "", "The formula also at i < j, where it means nothing."
    ),
    "counts_beyond_the_context": mutant(
        "q1b", ".triu(-context)", "", "The formula also at i > j + tau, where it means nothing."
    ),
    "inputs_for_outputs": mutant(
        "q1b",
        "return counts.tril(-1).triu(-context)",
        "return counts.tril(-1).triu(-context).T.contiguous()",
        "Rows for inputs and columns for outputs.",
    ),
    "first_and_last_exchanged": mutant(
        "q1b", "first * (m + 1) + last", "last * (m + 1) + first", "The axes of the table exchanged."
    ),
    "counts_of_another_type": mutant(
        "q1b",
        ".triu(-context)  #",
        ".triu(-context).int()  #",
        "int32 where the task says int64: too small for a wider network.",
    ),
    "units_sorted_in_place": mutant(
        "q1b",
        "    often = ",
        "    first.copy_(first.sort()[0]), last.copy_(last.sort()[0])\n    often = ",
        "Marginals are enough, it seems, and the caller's units are overwritten.",
    ),
    "units_moved_in_place": mutant(
        "q1b", "first * (m + 1)", "first.sub_(1).add(1) * (m + 1)", "The caller's units are overwritten."
    ),
    "counts_as_numpy": mutant(
        "q1b",
        "return counts.tril(-1).triu(-context)",
        "return counts.tril(-1).triu(-context).numpy()",
        "An array where a tensor is asked for.",
    ),
    # ---- q1c
    "product_of_masks": {
        "question": "q1c",
        "cell": "q1c",
        "source": PRODUCT_OF_MASKS,
        "why": "Lecture 1's product, and the direct connections of seminar 1: no path skips a layer of two.",
        "tag": "published",
    },
    "float32_product": mutant(
        "q1c",
        "(place[:, None] > below).long() @ counts",
        "((place[:, None] > below).float() @ counts.float()).long()",
        "Counts are rounded beyond 2**24.",
    ),
    "float64_throughout": mutant(
        "q1c",
        "(layer[:, None] >= below).long() @ counts",
        "((layer[:, None] >= below).double() @ counts.double()).long()",
        "Counts are rounded beyond 2**53.",
    ),
    "strict_between_hidden_layers": mutant(
        "q1c",
        "layer[:, None] >= below)",
        "layer[:, None] >= below + (torch.arange(len(below)) >= m))",
        "Units of one degree do not see each other.",
    ),
    "last_mask_not_strict": mutant(
        "q1c", "place[:, None] > below", "place[:, None] >= below", "Every input sees itself."
    ),
    "layers_from_the_end": mutant(
        "q1c",
        "for layer in degrees",
        "for layer in reversed(degrees)",
        "The layer next to the output comes first.",
    ),
    "outputs_see_the_last_layer_only": mutant(
        "q1c",
        "return (place[:, None] > below).long() @ counts",
        "return (place[:, None] > below[-len(layer) :]).long() @ counts[-len(layer) :]",
        "Short cuts between hidden layers, but none into the outputs.",
    ),
    "direct_path_forgotten": mutant(
        "q1c",
        "return (place[:, None] > below).long() @ counts",
        "return (place[:, None] > below[m:]).long() @ counts[m:]",
        "The path that leaves out every hidden layer.",
    ),
    "paths_to_hidden_layers_only": mutant(
        "q1c",
        "layer[:, None] >= below).long() @ counts",
        "layer[:, None] >= below).long() @ counts.clamp(max=1)",
        "Whether there is a path, instead of how many.",
    ),
    "counts_of_floats": mutant(
        "q1c",
        "return (place[:, None] > below).long() @ counts",
        "return ((place[:, None] > below).long() @ counts).double()",
        "Rounded at the end only.",
    ),
    "degrees_raised_in_place": mutant(
        "q1c",
        "for layer in degrees:",
        "for layer in degrees:\n        layer.add_(1).sub_(1).clamp_(min=1)\n",
        "The caller's degrees are overwritten.",
    ),
    "list_of_layers_emptied": mutant(
        "q1c",
        "for layer in degrees:",
        "for layer in [degrees.pop(0) for _ in range(len(degrees))]:",
        "The caller's list is empty afterwards.",
    ),
    # ---- q2b
    "outputs_counted": {
        "question": "q2b",
        "cell": "q2b",
        "source": OUTPUTS_COUNTED,
        "why": "Counted as lecture 1 counts: what the network outputs, redundant or not.",
        "tag": "published",
    },
    "rotations_forgotten": mutant(
        "q2b", " - rank * (rank - 1) // 2", "", "F and F Q taken for two covariances."
    ),
    "more_than_a_covariance_has": mutant(
        "q2b",
        "min(factored, channels * (channels + 1) // 2)",
        "factored",
        "Free numbers beyond those of a symmetric matrix.",
    ),
    "always_a_full_covariance": mutant(
        "q2b",
        "min(factored, channels * (channels + 1) // 2)",
        "channels * (channels + 1) // 2",
        "The factor counts as if it had full rank.",
    ),
    "matrices_with_reflections": mutant(
        "q2b",
        "rank * (rank - 1) // 2",
        "rank * (rank + 1) // 2",
        "The equations of Q counted, not its freedom.",
    ),
    "weights_for_every_channel": mutant(
        "q2b",
        "components * (1 + channels + covariance) - 1",
        "components * (2 * channels + covariance) - channels",
        "The factor head has weights for every channel.",
    ),
    "no_log_scales": mutant(
        "q2b",
        "pixels * channels * (3 * components - 1)",
        "pixels * channels * (2 * components - 1)",
        "Weights and means only.",
    ),
    "one_redundant_logit_an_image": mutant(
        "q2b",
        "pixels * channels * (values - 1)",
        "pixels * channels * values - 1",
        "One logit too many in all, instead of one in every softmax.",
    ),
    "at_least_as_large": mutant(
        "q2b",
        "return values // 3 + 1, (categorical + 1) // (one + 1) + 1",
        "return -(-values // 3), -(-(categorical + 1) // (one + 1))",
        "A ceiling: equal where the division has no rest, not larger.",
    ),
    "division_of_floats": mutant(
        "q2b",
        "categorical = pixels * channels * (values - 1)",
        "categorical = int(float(pixels) * channels * (values - 1))",
        "Rounded from 2**53 on.",
    ),
    "heads_in_another_order": mutant(
        "q2b",
        "return categorical, mixture, factor",
        "return categorical, factor, mixture",
        "Heads exchanged.",
    ),
    "sizes_in_a_list": mutant(
        "q2b", "return categorical, mixture, factor", "return [categorical, mixture, factor]", "No tuple."
    ),
    "crossover_in_a_list": mutant(
        "q2b",
        "return values // 3 + 1, (categorical + 1) // (one + 1) + 1",
        "return [values // 3 + 1, (categorical + 1) // (one + 1) + 1]",
        "No tuple.",
    ),
    "sizes_of_floats": mutant(
        "q2b", "return categorical, mixture, factor", "return categorical, mixture, float(factor)", "No int."
    ),
    # ---- q3b
    "densities_of_torch": {
        "question": "q3b",
        "cell": "q3b",
        "source": DENSITIES_OF_TORCH,
        "why": "One call of torch.distributions, right where a matrix of d x d fits.",
        "tag": "published",
    },
    "low_rank_covariance": {
        "question": "q3b",
        "cell": "q3b",
        "source": LOW_RANK_COVARIANCE,
        "why": "The inverse of a sum taken for a sum of inverses: torch's low-rank covariances.",
        "tag": "published",
    },
    "other_direction": mutant(
        "q3b",
        "inner_1, inner_2 = inner(",
        "mean_1, diagonal_1, factor_1, mean_2, diagonal_2, factor_2 = "
        "mean_2, diagonal_2, factor_2, mean_1, diagonal_1, factor_1\n    inner_1, inner_2 = inner(",
        "KL(p || q): zero for equal Gaussians as well.",
    ),
    "no_half": mutant("q3b", "return 0.5 * (trace", "return (trace", "The factor one half is lost."),
    "diagonals_only": mutant(
        "q3b", "- half.square().sum(-2)", "", "The variances of the diagonal part: the factor is overlooked."
    ),
    "trace_of_the_factors_left_out": mutant(
        "q3b", " - (half @ factor_2).square().sum((-2, -1))", "", "Factors meet in the trace, too."
    ),
    "determinants_without_square": mutant(
        "q3b",
        "sign * 2 * factor",
        "sign * factor",
        "The determinant of the Cholesky factor, not of the matrix.",
    ),
    "sign_of_the_determinants": mutant(
        "q3b",
        "(1, inner_1), (-1, inner_2)",
        "(-1, inner_1), (1, inner_2)",
        "Precisions taken for covariances.",
    ),
    "square_with_the_diagonal_only": mutant(
        "q3b",
        " + (factor_2.mT @ shift.unsqueeze(-1)).square().sum((-2, -1))",
        "",
        "Means are apart along the factor, too.",
    ),
    "divergence_in_single": mutant(
        "q3b",
        "return 0.5 * (trace + square - mean_1.shape[-1] + log_determinants)",
        "return (0.5 * (trace + square - mean_1.shape[-1] + log_determinants)).float()",
        "float32 where float64 is asked for.",
    ),
    "divergence_of_the_sum": mutant(
        "q3b",
        "return 0.5 * (trace + square - mean_1.shape[-1] + log_determinants)",
        "return 0.5 * (trace + square - mean_1.shape[-1] + log_determinants).sum()",
        "One number for all pairs.",
    ),
    "means_moved_in_place": mutant(
        "q3b",
        "    shift = mean_1",
        "    mean_1 = mean_1.add_(1) - 1\n    shift = mean_1",
        "The caller's means are overwritten.",
    ),
    # ---- q4b
    "entropy_forgotten": mutant(
        "q4b",
        "(log_joint(z) - log_q)",
        "log_joint(z)",
        "Seminar 3's estimator, where h does not contain phi: the entropy is overlooked.",
        tag="published",
    ),
    "entropy_counted_twice": mutant(
        "q4b",
        "(log_joint(z) - log_q)",
        "(log_joint(z) - 2 * log_q)",
        "The term of zero expectation taken for the entropy.",
    ),
    "descent": mutant(
        "q4b", "(log_joint(z) - log_q)", "(log_q - log_joint(z))", "The gradient of the loss: its sign."
    ),
    "score_by_std": mutant(
        "q4b",
        "weight * (noise.square() - 1)",
        "weight * (noise.square() - 1) / log_std.exp()",
        "The gradient by the standard deviation, not by its logarithm.",
    ),
    "score_of_log_std_without_one": mutant(
        "q4b",
        "weight * (noise.square() - 1)",
        "weight * noise.square()",
        "The normaliser of the Gaussian contains sigma, too.",
    ),
    "divided_by_sigma_once": mutant(
        "q4b", "weight * noise / log_std.exp()", "weight * noise", "(z - mu) / sigma instead of / sigma^2."
    ),
    "log_q_of_each_coordinate": mutant(
        "q4b",
        "weight = (log_joint(z) - log_q).unsqueeze(1)",
        "weight = log_joint(z).unsqueeze(1) + 0.5 * noise.square().mean(1, keepdim=True)",
        "A mean over latents in log q: right for one latent only.",
    ),
    "baseline_from_the_batch": mutant(
        "q4b",
        "    return weight * noise",
        "    weight = weight - weight.mean()\n    return weight * noise",
        "The mean weight contains the sample itself: biased, and rows depend on each other.",
    ),
    "gradients_exchanged": mutant(
        "q4b",
        "return weight * noise / log_std.exp(), weight * (noise.square() - 1)",
        "return weight * (noise.square() - 1), weight * noise / log_std.exp()",
        "The gradient by log_std comes first.",
    ),
    "reparametrized_by_differences": mutant(
        "q4b",
        "    return weight * noise / log_std.exp(), weight * (noise.square() - 1)",
        "    steps = 1e-5 * torch.eye(z.shape[1], dtype=z.dtype)\n"
        "    slope = torch.stack([(log_joint(z + e) - log_joint(z - e)) / 2e-5 for e in steps], 1)\n"
        "    return slope, slope * (z - mean) + 1",
        "The right expectation, from points that may not be asked for.",
    ),
    "terms_in_single": mutant(
        "q4b",
        "return weight * noise / log_std.exp(), weight * (noise.square() - 1)",
        "return (weight * noise / log_std.exp()).float(), (weight * (noise.square() - 1)).float()",
        "float32 where float64 is asked for.",
    ),
    "terms_averaged": mutant(
        "q4b",
        "return weight * noise / log_std.exp(), weight * (noise.square() - 1)",
        "return (weight * noise / log_std.exp()).mean(0), (weight * (noise.square() - 1)).mean(0)",
        "The average where the terms are asked for.",
    ),
    "points_moved_in_place": mutant(
        "q4b",
        "    return weight * noise",
        "    z += 1\n    return weight * noise",
        "The caller's points are overwritten.",
    ),
    # ---- q4c
    "mean_known": mutant(
        "q4c",
        "same / n + other / (n * (n - 1))",
        "same / n",
        "Seminar 3's baseline E h over n samples: the others' mean is taken for the true one.",
        tag="published",
    ),
    "variance_is_second_moment": mutant(
        "q4c",
        "(total - spread) - linear.square()",
        "(total - spread)",
        "The square of the mean is not subtracted.",
    ),
    "fourth_moment_one": mutant("q4c", "own = 3 * linear", "own = linear", "E eps^4 taken for (E eps^2)^2."),
    "sixth_moment_nine": mutant(
        "q4c", "10 * square.square()", "4 * square.square()", "E eps^6 taken for (E eps^4)^2 = 9."
    ),
    "square_not_centred": mutant(
        "q4c", "10 * square.square()", "15 * square.square()", "The mean of eps^2 belongs to E h."
    ),
    "rest_without_variance": mutant("q4c", "own + (total - spread)", "own", "Other latents add their noise."),
    "rest_with_the_own_coordinate": mutant(
        "q4c", "(total - spread)", "total", "The own coordinate counted twice."
    ),
    "pairs_uncorrelated": mutant(
        "q4c",
        "other = total + linear.square()",
        "other = total",
        "The products (k, l) and (l, k) are correlated: each is a gradient.",
    ),
    "mean_of_all": mutant(
        "q4c",
        "(same / n + other / (n * (n - 1)))",
        "(same / n + other / (n * (n - 1))) * (1 - 1 / n) ** 2",
        "The mean of all samples subtracted: smaller, and biased.",
    ),
    "independent_terms": mutant(
        "q4c",
        "other / (n * (n - 1))",
        "other / (n * (n - 1) ** 2)",
        "The baseline's variance once too often over n - 1.",
    ),
    "score_with_sigma_once": mutant(
        "q4c",
        "/ std.square()\n",
        "/ std.square() ** 0.5\n",
        "The score has 1 / sigma, its square 1 / sigma^2.",
    ),
    "variance_of_a_square_is_one": mutant(
        "q4c",
        "linear.square() + 2 * square.square()",
        "linear.square() + square.square()",
        "Var eps^2 is 3 - 1 = 2.",
    ),
    "variance_in_single": mutant(
        "q4c",
        "return (same / n + other / (n * (n - 1))) / std.square()",
        "return ((same / n + other / (n * (n - 1))) / std.square()).float()",
        "float32 where float64 is asked for.",
    ),
    "variance_of_the_first": mutant("q4c", "/ std.square()\n", "/ std.square()[:1]\n", "One width for all."),
    "deviations_moved_in_place": mutant(
        "q4c",
        "    spread = linear",
        "    std = std.add_(1) - 1\n    spread = linear",
        "The caller's deviations are overwritten.",
    ),
    # ---- q5b
    "sign_of_alpha": mutant(
        "q5b", "eps = (1 - alpha) / 2", "eps = (1 + alpha) / 2", "Reverse and forward KL change places."
    ),
    "definition_as_it_stands": mutant(
        "q5b",
        "    if alpha < 0",
        "    if abs(alpha) != 1:\n"
        "        integral = ((1 + alpha) / 2 * log_p + (1 - alpha) / 2 * log_q).exp().sum(-1)\n"
        "        return 4 / (1 - alpha**2) * (1 - integral)\n"
        "    if alpha < 0",
        "Near the limits all digits cancel.",
        tag="published",
    ),
    "kl_near_the_limit": mutant(
        "q5b",
        "if eps else log_ratio",
        "if abs(eps) > 1e-3 else log_ratio",
        "KL for every alpha that is roughly 1.",
    ),
    "reverse_kl_at_both_ends": mutant(
        "q5b",
        "if eps else log_ratio",
        "if eps else -log_ratio * (log_ratio).exp()",
        "Reverse KL at alpha = 1 as well.",
    ),
    "renyi": mutant(
        "q5b",
        "    return -(log_p.exp() * slope).sum(-1) / (1 - eps)",
        "    return -torch.log1p((log_p.exp() * slope).sum(-1) * eps) / (eps * (1 - eps)) "
        "if eps else -(log_p.exp() * slope).sum(-1)",
        "The logarithm of the integral: Renyi's divergence, with the same limits.",
    ),
    "factor_lost": mutant("q5b", ".sum(-1) / (1 - eps)", ".sum(-1)", "Right in the limit only."),
    "mean_over_values": mutant(
        "q5b", "slope).sum(-1)", "slope).mean(-1)", "A mean where the definition has a sum."
    ),
    "limits_divide_by_zero": mutant("q5b", " if eps else log_ratio", "", "alpha = 1 itself is forgotten."),
    "kl_closer_than_1e-4": mutant(
        "q5b",
        "if eps else log_ratio",
        "if abs(eps) > 4e-5 else log_ratio",
        "KL where alpha is nearly 1: off by a relative 1e-5 at a distance of 1e-5.",
    ),
    "definition_closer_than_1e-9": mutant(
        "q5b",
        "    if alpha < 0",
        "    if abs(abs(alpha) - 1) > 1e-12:\n"
        "        integral = ((1 + alpha) / 2 * log_p + (1 - alpha) / 2 * log_q).exp().sum(-1)\n"
        "        return 4 / (1 - alpha**2) * (1 - integral)\n"
        "    if alpha < 0",
        "KL only where alpha is 1 but for rounding: digits are lost before that.",
    ),
    "probabilities_cut_off": mutant(
        "q5b",
        "    log_ratio = log_q - log_p",
        "    log_ratio = log_q.clamp(min=-27.6) - log_p.clamp(min=-27.6)",
        "The habit of log(q + 1e-12): rare values count for much.",
    ),
    "divergences_in_single": mutant(
        "q5b", ".sum(-1) / (1 - eps)", ".sum(-1).float() / (1 - eps)", "float32 where float64 is asked for."
    ),
    "axis_kept": mutant(
        "q5b", "slope).sum(-1)", "slope).sum(-1, keepdim=True)", "(..., 1) instead of (...)."
    ),
    "logs_shifted_in_place": mutant(
        "q5b",
        "    log_ratio = log_q",
        "    log_q = log_q.add_(1) - 1\n    log_ratio = log_q",
        "The caller's log-probabilities are overwritten.",
    ),
    # ---- q5c
    "summed_on_a_grid": {
        "question": "q5c",
        "cell": "q5c",
        "source": SUMMED_ON_A_GRID,
        "why": "The visible check's own sum, and torch's KL at the ends: narrow Gaussians are missed.",
        "tag": "published",
    },
    "sign_of_alpha_gaussian": mutant(
        "q5c", "eps = (1 - alpha) / 2", "eps = (1 + alpha) / 2", "Reverse and forward KL change places."
    ),
    "no_inf": mutant(
        "q5c",
        "return torch.where(inside > 0, value, torch.inf)",
        "return value.nan_to_num()",
        "A number where the integral diverges.",
    ),
    "shift_without_mixture": mutant(
        "q5c", "(1 - eps) * square / inside", "(1 - eps) * square", "The exponent of two equal variances."
    ),
    "logarithm_loses_digits": mutant(
        "q5c",
        "torch.log1p(eps * excess) / eps",
        "torch.log(1 + eps * excess) / eps",
        "log(1 + tiny) is zero or rounding noise.",
    ),
    "exponential_loses_digits": mutant(
        "q5c",
        "-torch.expm1(eps * log_integral)",
        "(1 - torch.exp(eps * log_integral))",
        "1 - exp(tiny) is zero or rounding noise.",
    ),
    "variances_for_deviations": mutant(
        "q5c", "(std_p / std_q).square()", "std_p / std_q", "The arguments taken for variances."
    ),
    "moments_matched": mutant(
        "q5c",
        "inside = 1 + eps * excess",
        "inside = 1 + (1 - eps) * excess",
        "The variances are mixed with exchanged weights.",
    ),
    "kl_without_logarithm": mutant(
        "q5c",
        "0.5 * (excess - ratio.log() + square)",
        "0.5 * (excess + square)",
        "The closed form at alpha = 1 has a hole.",
    ),
    "kl_closer_than_1e-4_gaussian": mutant(
        "q5c", "    if eps == 0:", "    if abs(eps) < 4e-5:", "KL where alpha is nearly 1."
    ),
    "gaussian_in_single": mutant(
        "q5c",
        "return torch.where(inside > 0, value, torch.inf)",
        "return torch.where(inside > 0, value, torch.inf).float()",
        "float32 where float64 is asked for.",
    ),
    "deviations_scaled_in_place": mutant(
        "q5c",
        "    eps = (1 - alpha) / 2\n",
        "    eps = (1 - alpha) / 2\n    std_p = std_p.mul_(2) / 2\n",
        "The caller's deviations are overwritten.",
    ),
    "no_inf_by_clamping": mutant(
        "q5c",
        "    inside = 1 + eps * excess",
        "    inside = (1 + eps * excess).clamp(min=1e-12)\n    excess = (inside - 1) / eps",
        "A small positive variance where there is none: huge values, but only if the means differ.",
    ),
    "always_inf_beyond_one": mutant(
        "q5c",
        "torch.where(inside > 0, value, torch.inf)",
        "torch.where((inside > 0) & (eps > -1e-3), value, torch.inf)",
        "The integral may well be finite for alpha > 1.",
    ),
}

# Generated wrong solutions that compute the same on all that may be handed in, and why.
EQUIVALENT = {
    "linear enters by its square alone.": [
        "hw2:q4c:6:linear = {-curvature → curvature} * (mean - target) * std",
    ],
    "A constant in log q is a constant baseline, and any is allowed: its mean is zero.": [
        "hw2:q4b:6:(-0.5 * noise.square() {- → +} log_std - 0.5 * math.lo",
        "hw2:q4b:6:oise.square() - log_std {- → +} 0.5 * math.log(2 * math",
        "hw2:q4b:6:quare() - log_std - 0.5 {* → /} math.log(2 * math.pi)).",
        "hw2:q4b:6:se.square() - log_std - {0 → 1}.5 * math.log(2 * math.p",
        "hw2:q4b:6:se.square() - log_std - {0 → -0}.5 * math.log(2 * math.p",
        "hw2:q4b:6:.square() - log_std - 0.{5 → 0} * math.log(2 * math.pi)",
        "hw2:q4b:6:se.square() - log_std - {0.5 → 1.0} * math.log(2 * math.pi)",
        "hw2:q4b:6:- log_std - 0.5 * math.{log → log1p}(2 * math.pi)).sum(1)",
        "hw2:q4b:6:_std - 0.5 * math.log(2 {* → /} math.pi)).sum(1)",
        "hw2:q4b:6:og_std - 0.5 * math.log({2 → 3} * math.pi)).sum(1)",
        "hw2:q4b:6:og_std - 0.5 * math.log({2 → 1} * math.pi)).sum(1)",
        "hw2:q4b:6:og_std - 0.5 * math.log({2 → 4} * math.pi)).sum(1)",
    ],
}
