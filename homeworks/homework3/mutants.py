"""Wrong solutions of homework 3: each is the right one with one change, and must lose its own question only.

`MUTANTS` maps a name to the question, the answer cell, its source, and why a student might write it. The tag
`published` marks the best answer that can be put together from lectures, seminars, the visible cells of the
student version and the libraries, without an idea: it must lose at least half of the points.
"""

from pathlib import Path

from grading.mutants import changes_of

mutant = changes_of(Path(__file__).with_name("hw3.solution.ipynb"))

# What the tests cannot judge as a function: points that the best published answer earns, and why.
# Both were trained and measured, see hidden.py.
ELSEWHERE = {
    "q2c": (0, "Seminar 3's ELBO times the mask on the scans as read: 272 nats where 140 are asked for."),
    "q3d": (
        0,
        "Lecture 4's whitening by mean and covariance of all rows, then RealNVP: 0.555 nats, not 0.12.",
    ),
}

FROM_TORCH = """# @answer q1a
def code_and_kl(mean, root, generator):
    q = torch.distributions.MultivariateNormal(mean, precision_matrix=root @ root.mT)
    prior = torch.distributions.MultivariateNormal(torch.zeros_like(mean), torch.eye(mean.shape[1]).to(mean))
    return q.rsample(), torch.distributions.kl_divergence(q, prior)
"""

BY_SAMPLES = """# @answer q1b
def mean_elbo(data, encoder, decoder):
    (mu, covariance), (A, c, root), (W, b, psi) = data, encoder, decoder
    x = torch.distributions.MultivariateNormal(mu, covariance).sample((50_000,))
    mean, spread = x @ A.T + c, torch.linalg.inv(root @ root.T)
    q = torch.distributions.MultivariateNormal(mean, spread)
    log_density = torch.distributions.Normal(mean @ W.T + b, psi.sqrt()).log_prob(x).sum(1)
    reconstruction = log_density - torch.einsum("mi,ij,mj,m->", W, spread, W, 1 / psi) / 2
    prior = torch.distributions.MultivariateNormal(torch.zeros_like(c), torch.eye(len(c)).double())
    return reconstruction.mean(), torch.distributions.kl_divergence(q, prior).mean()
"""

CLOSED_FORM_OF_PPCA = """# @answer q1c
def best_elbo(covariance, psi, d):
    variances = torch.linalg.eigvalsh(covariance).flip(0)
    noise = psi.mean()  # one variance for all, as in seminar 3
    used = variances[:d][variances[:d] > noise]
    rest = (variances.sum() - used.sum()) / noise + (len(psi) - len(used)) * noise.log()
    elbo = -(len(psi) * math.log(2 * math.pi) + rest + len(used) + used.log().sum()) / 2
    return elbo, (used / noise).log().sum() / 2, len(used)
"""

PPCA = """# @answer q1d
def leanest_code(covariance, floor):
    units = covariance.diagonal().sqrt()
    variances, directions = torch.linalg.eigh(covariance / torch.outer(units, units))
    w = directions[:, 1] * (variances[1] - variances[0]).sqrt() * units
    return w, variances[0] * units**2, (variances[1] / variances[0]).log() / 2
"""

PPCA_AT_THE_FLOOR = """# @answer q1d
def leanest_code(covariance, floor):
    units = covariance.diagonal().sqrt()
    variances, directions = torch.linalg.eigh(covariance / torch.outer(units, units))
    w = directions[:, 1] * (variances[1] - variances[0]).sqrt() * units
    psi = torch.maximum(variances[0] * units**2, floor)
    return w, psi, (torch.logdet(torch.outer(w, w) + psi.diag()) - psi.log().sum()) / 2
"""

MASK_TIMES = """# @answer q2a
def elbo_of_seen(encode, decode, x, seen, generator):
    mean, log_precision = encode(x * seen, seen)
    q = torch.distributions.Normal(mean, (-log_precision / 2).exp())
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(1)
    logits = decode(mean + q.scale * torch.randn(mean.shape, generator=generator, dtype=mean.dtype))
    coins = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -(coins * seen).sum((1, 2, 3)), kl
"""

GREAT_CIRCLE = """# @answer q2b
def walk(start, end, steps):
    share = torch.linspace(0, 1, steps, dtype=start.dtype)[:, None, None]
    cosine = F.cosine_similarity(start, end, dim=1).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()[:, None]
    way = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / angle.sin()
    way[0], way[-1] = start, end
    return way
"""

STANDARDISED = """# @answer q2b
def walk(start, end, steps):
    share = torch.linspace(0, 1, steps, dtype=start.dtype)[:, None, None]
    way = (1 - share) * start + share * end
    if steps > 2 and len(start) > 1:
        inner = way[1:-1]
        way[1:-1] = (inner - inner.mean(1, keepdim=True)) / inner.std(1, keepdim=True).clamp(min=1e-9)
    return way
"""

ON_COORDINATES = """# @answer q3a
class SubspaceCoupling(nn.Module):
    def __init__(self, basis, network):
        super().__init__()
        self.network = network
        mask = torch.zeros(len(basis), dtype=torch.bool)
        mask[basis.square().sum(1).topk(basis.shape[1]).indices] = True
        self.register_buffer("moved", mask.nonzero()[:, 0])
        self.register_buffer("kept", (~mask).to(basis))

    def scale_and_shift(self, x):
        r, shift = self.network(x * self.kept.to(x)).chunk(2, dim=1)
        return math.log(2) + F.logsigmoid(r), shift

    def forward(self, x):
        log_scale, shift = self.scale_and_shift(x)
        moved = x[:, self.moved] * log_scale.exp() + shift
        return x.index_copy(1, self.moved, moved), log_scale.sum(1)

    def inverse(self, z):
        log_scale, shift = self.scale_and_shift(z)
        return z.index_copy(1, self.moved, (z[:, self.moved] - shift) * (-log_scale).exp())
"""

MIXTURE_OF_TORCH = """# @answer q3b
def density(layers, x, means, roots, logits):
    total = 0
    for layer in layers:
        x, log_det = layer(x)
        total = total + log_det
    roots = roots.double()
    parts = torch.distributions.MultivariateNormal(means.double(), precision_matrix=roots @ roots.mT)
    joint = logits.double().log_softmax(0) + parts.log_prob(x.double()[:, None])
    return (total + joint.logsumexp(1)).to(x), joint.softmax(1).to(x)
"""

FLOW_SAMPLE = """# @answer q3c
@torch.no_grad()
def sample(layers, means, roots, logits, n, generator):
    with torch.random.fork_rng():
        torch.manual_seed(torch.randint(1 << 62, (), generator=generator).item())
        part = torch.distributions.Categorical(logits=logits).sample((n,))
        precision = roots.double() @ roots.double().mT
        x = torch.distributions.MultivariateNormal(means.double(), precision_matrix=precision).sample((n,))
    x = x[torch.arange(n), part].to(means)
    for layer in reversed(layers):
        x = layer.inverse(x)
    return x, part
"""


def published(question: str, source: str, why: str) -> dict[str, str]:
    """Return an answer that is put together from what is published."""
    return {"question": question, "cell": question, "source": source, "why": why, "tag": "published"}


MUTANTS = {
    # ---- q1a
    "from_torch_distributions": published(
        "q1a",
        FROM_TORCH,
        "torch's Gaussian with a precision: the global generator, and a product that float32 cannot invert.",
    ),
    "root_of_the_covariance": mutant(
        "q1a",
        "torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True)",
        "(root @ noise.unsqueeze(-1))",
        "Multiplied by the root, as if it were that of the covariance.",
    ),
    "not_transposed": mutant(
        "q1a",
        "torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True)",
        "torch.linalg.solve_triangular(root, noise.unsqueeze(-1), upper=False)",
        "R^-1 noise has the precision R^T R: right for diagonal roots.",
    ),
    "sign_of_the_log_determinant": mutant("q1a", "/ 2 + log_root", "/ 2 - log_root", "The entropy's sign."),
    "half_of_the_log_determinant": mutant(
        "q1a", "/ 2 + log_root", "/ 2 + log_root / 2", "The root is taken for the precision."
    ),
    "trace_of_the_precision": mutant(
        "q1a",
        "torch.linalg.solve_triangular(root, unit, upper=False).square()",
        "root.square()",
        "The trace of the precision instead of the covariance's.",
    ),
    "mean_over_dimensions": mutant(
        "q1a", "mean.square().sum(1)", "mean.square().mean(1)", "The means count once, not d times."
    ),
    "always_single": mutant(
        "q1a", "return z, (", "return z.float(), (", "Another type of numbers than that of the mean."
    ),
    "codes_detached": mutant(
        "q1a", ".squeeze(-1)\n", ".squeeze(-1).detach()\n", "The root gets no gradient from the codes."
    ),
    "global_generator": mutant("q1a", "generator=generator, ", "", "Draws from the global generator."),
    "noise_and_its_mirror_image": mutant(
        "q1a",
        "    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)\n",
        "    half = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)[: (len(mean) + 1) // 2]\n"
        "    noise = torch.cat([half, -half])[: len(mean)]\n",
        "Each code has the right law; the second half follows from the first.",
    ),
    # ---- q1b
    "by_samples": published(
        "q1b", BY_SAMPLES, "Seminar 3's exact ELBO of an example, averaged over 50,000 draws: two digits."
    ),
    "code_without_noise": mutant(
        "q1b", "through_x + through_z", "through_x", "Decodes the mean: the noise of q is forgotten."
    ),
    "data_without_noise": mutant(
        "q1b", "through_x + through_z", "through_z", "The ELBO of the mean of the data."
    ),
    "x_stands_there_once": mutant(
        "q1b",
        "(seen @ covariance * seen).sum(1)",
        "(covariance.diagonal() + (W @ A @ covariance * (W @ A)).sum(1))",
        "Variances of x and of its decoding are added, though both come from the same x.",
    ),
    "psi_is_a_deviation": mutant(
        "q1b", "(2 * math.pi * psi).log()", "(2 * math.pi * psi**2).log()", "Variance and deviation confused."
    ),
    "kl_of_the_mean": mutant(
        "q1b", " + (A @ covariance * A).sum()", "", "The means of q move with x, which costs."
    ),
    "elbo_per_dimension": mutant(
        "q1b", ").sum() / 2\n    means", ").mean() / 2\n    means", "A mean over dimensions."
    ),
    "root_transposed_in_the_trace": mutant(
        "q1b",
        "torch.linalg.solve_triangular(root, W.T, upper=False)",
        "torch.linalg.solve_triangular(root.T, W.T, upper=True)",
        "Right for diagonal roots, and for d = 1.",
    ),
    # ---- q1c
    "one_noise_for_all": published(
        "q1c", CLOSED_FORM_OF_PPCA, "Seminar 3's closed form, with the mean of the noise for all dimensions."
    ),
    "never_empty": mutant(
        "q1c", "variances[:d][variances[:d] > 1]", "variances[:d]", "The code is always used: beyond -H."
    ),
    "smallest_first": mutant("q1c", ".flip(0)", "", "The d smallest directions get the code."),
    "in_the_units_of_x": mutant(
        "q1c", "psi.log().sum() + cost", "cost", "The change of units costs nothing: the noise's log is lost."
    ),
    "noise_taken_away": mutant(
        "q1c",
        "covariance / (scale[:, None] * scale)",
        "torch.eye(len(psi)) + (covariance - psi.diag()) / (scale[:, None] * scale).mean()",
        "Eigenvalues of what is left without the noise: right for equal noise.",
    ),
    "kl_in_bits": mutant("q1c", "used.log().sum() / 2", "used.log2().sum() / 2", "Logarithms to base 2."),
    "kl_of_the_signal": mutant(
        "q1c", "used.log().sum() / 2", "(used - 1).log().sum() / 2", "The signal's variance, not the data's."
    ),
    "d_dimensions_in_use": mutant("q1c", "len(used)", "min(d, len(psi))", "Empty dimensions are counted."),
    "edge_moved": mutant(
        "q1c",
        "variances[:d] > 1]",
        "variances[:d] > 1.05]",
        "Dimensions that are hardly used count as empty.",
    ),
    # ---- q1d
    "ppca": published(
        "q1d",
        PPCA,
        "Seminar 3's closed form in units of the deviations: the leanest, if there were no floors.",
    ),
    "ppca_at_the_floor": published(
        "q1d", PPCA_AT_THE_FLOOR, "The same, its noise raised to the floor: the covariance is another."
    ),
    "floor_of_one_channel": mutant(
        "q1d", ", rho**2 / most[1]), most[0])", ", rho * 0), most[0])", "One floor is forgotten."
    ),
    "sign_lost": mutant(
        "q1d", "torch.stack([torch.ones_like(rho), rho.sign()])", "1", "The covariance of its absolute value."
    ),
    "all_in_the_first": mutant(
        "q1d",
        "torch.minimum(torch.maximum(rho.abs(), rho**2 / most[1]), most[0])",
        "most[0]",
        "As much of the first channel as its floor allows.",
    ),
    "rho_squared": mutant(
        "q1d", "torch.maximum(rho.abs(),", "torch.maximum(rho**2,", "The share is rho, not rho^2."
    ),
    "clipped_correlation": mutant(
        "q1d",
        "/ variances.prod().sqrt()\n",
        "/ variances.prod().sqrt()\n    rho = rho.clamp(-0.996, 0.996)\n",
        "For safety, against the contract.",
    ),
    "information_of_the_pair": mutant(
        "q1d",
        "((1 - rho**2) / (1 - shares).prod()).log() / 2",
        "-(1 - rho**2).log() / 2",
        "x_1 and x_2 share less than x and z.",
    ),
    # ---- q2a
    "mask_times_nan": published("q2a", MASK_TIMES, "Seminar 3's ELBO times the mask: NaN times zero is NaN."),
    "all_pixels": mutant(
        "q2a", "torch.where(seen, coins, 0.0)", "coins", "Unseen pixels count as black ones."
    ),
    "scaled_up_to_all_pixels": mutant(
        "q2a",
        "torch.where(seen, coins, 0.0).flatten(1).sum(1)",
        "torch.where(seen, coins, 0.0).flatten(1).sum(1) / "
        "seen.flatten(1).double().mean(1).clamp(min=1e-9).to(x.dtype)",
        "As if the unseen pixels cost as much as the seen ones.",
    ),
    "precision_as_variance": mutant(
        "q2a", "(-log_precision).exp()", "log_precision.exp()", "The sign of the logarithm is lost."
    ),
    "variance_as_deviation": mutant(
        "q2a", "variance.sqrt() * noise", "variance * noise", "No root is taken."
    ),
    "kl_without_half": mutant("q2a", ".sum(1) / 2", ".sum(1)", "Twice the KL."),
    "kl_with_the_wrong_sign": mutant(
        "q2a", "- 1 + log_precision", "- 1 - log_precision", "As for a log-variance."
    ),
    "noise_from_the_global_generator": mutant(
        "q2a", "generator=generator, ", "", "Draws from the global generator."
    ),
    "state_never_moves": mutant(
        "q2a",
        "    noise = torch.randn(",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n    noise = torch.randn(",
        "The same noise in every batch.",
    ),
    "argument_changed": mutant(
        "q2a", "x = torch.where(seen, x, 0.0)", "x[~seen] = 0", "The caller's image is filled with zeros."
    ),
    "always_double": mutant(
        "q2a",
        "torch.where(seen, coins, 0.0).flatten(1).sum(1), kl",
        "torch.where(seen, coins, 0.0).flatten(1).sum(1).double(), kl.double()",
        "Another type of numbers than that of x.",
    ),
    "the_mean_is_decoded": mutant(
        "q2a", "mean + variance.sqrt() * noise", "mean + 0 * noise", "No sample: not an ELBO."
    ),
    "through_probabilities": mutant(
        "q2a",
        'F.binary_cross_entropy_with_logits(logits, x, reduction="none")',
        'F.binary_cross_entropy(logits.sigmoid(), x, reduction="none")',
        "The logarithm of a saturated sigmoid: torch clamps it at -100.",
    ),
    "noise_twice": mutant(
        "q2a",
        "    variance = (-log_precision).exp()\n",
        "    noise = noise[: (len(noise) + 1) // 2].repeat(2, 1)[: len(noise)]\n"
        "    variance = (-log_precision).exp()\n",
        "The second half of the images gets the noise of the first.",
    ),
    # ---- q2b
    "great_circle": published(
        "q2b", GREAT_CIRCLE, "The popular interpolation on a sphere: in one dimension there is none."
    ),
    "standardised": published(
        "q2b",
        STANDARDISED,
        "Seminar 3's line, made standard over the batch by seminar 5's ActNorm: pairs mix.",
    ),
    "noise_added": mutant(
        "q2b",
        "return angle.cos() * start + angle.sin() * end",
        "share = angle * 2 / math.pi\n"
        "    rest = (1 - (1 - share) ** 2 - share**2).clamp(min=0).sqrt()\n"
        "    return (1 - share) * start + share * end + rest * torch.randn_like(start)",
        "The straight line, and noise for the variance that it lacks.",
    ),
    "way_in_single": mutant(
        "q2b",
        "angle.cos() * start + angle.sin() * end",
        "(angle.cos() * start + angle.sin() * end).float()",
        "Another type of numbers than that of the codes.",
    ),
    "straight_line": mutant(
        "q2b",
        "angle.cos() * start + angle.sin() * end",
        "(1 - angle * 2 / math.pi) * start + angle * 2 / math.pi * end",
        "Seminar 3's walk: too short in the middle.",
    ),
    "length_repaired": mutant(
        "q2b",
        "return angle.cos() * start + angle.sin() * end",
        "share = angle * 2 / math.pi\n"
        "    way = (1 - share) * start + share * end\n"
        "    length = (1 - share) * start.norm(dim=1, keepdim=True) + share * end.norm(dim=1, keepdim=True)\n"
        "    return way / way.norm(dim=2, keepdim=True).clamp(min=1e-9) * length",
        "The straight line, stretched to the mean of both lengths.",
    ),
    "shares_of_variance_without_roots": mutant(
        "q2b",
        "angle.cos() * start + angle.sin() * end",
        "angle.cos() ** 2 * start + angle.sin() ** 2 * end",
        "Shares that sum to one, where their squares have to.",
    ),
    "from_end_to_start": mutant(
        "q2b",
        "angle.cos() * start + angle.sin() * end",
        "angle.sin() * start + angle.cos() * end",
        "Backwards.",
    ),
    # ---- q3a
    "on_coordinates": published(
        "q3a", ON_COORDINATES, "Seminar 5's affine coupling, on the coordinates that the basis is nearest to."
    ),
    "log_two_forgotten": mutant(
        "q3a", "math.log(2) + F.logsigmoid(r)", "F.logsigmoid(r)", "s = sigmoid(r): not the contract's scale."
    ),
    "log_of_a_sigmoid": mutant(
        "q3a",
        "F.logsigmoid(r)",
        "torch.sigmoid(r).log()",
        "Minus infinity where the sigmoid is rounded to 0.",
    ),
    "log_det_detached": mutant(
        "q3a", ", log_scale.sum(1)", ", log_scale.sum(1).detach()", "Training does not feel the determinant."
    ),
    "rest_detached": mutant(
        "q3a",
        "r, t = self.network(rest).chunk(2, dim=1)\n        log_scale",
        "r, t = self.network(rest.detach()).chunk(2, dim=1)\n        log_scale",
        "No gradient through the network to x, hence to the layers before.",
    ),
    "log_det_averaged": mutant(
        "q3a", "log_scale.sum(1)", "log_scale.mean(1)", "Right for one direction alone."
    ),
    "log_det_of_the_inverse": mutant(
        "q3a", ", log_scale.sum(1)", ", -log_scale.sum(1)", "The sign of the way back."
    ),
    "network_sees_everything": mutant(
        "q3a",
        "r, t = self.network(rest).chunk(2, dim=1)\n        log_scale",
        "r, t = self.network(x).chunk(2, dim=1)\n        log_scale",
        "The network sees what the layer moves: no inverse, and another determinant.",
    ),
    "shift_scaled": mutant(
        "q3a", "log_scale.exp() * a + t", "log_scale.exp() * (a + t)", "Shifts first, then scales."
    ),
    "shift_left_out_of_the_inverse": mutant("q3a", "(moved - t)", "(moved + t)", "The shift goes on."),
    "basis_is_no_buffer": mutant(
        "q3a",
        'self.register_buffer("basis", basis.clone())',
        "self.basis = basis.clone()",
        "The directions are lost in a file.",
    ),
    "basis_is_trained": mutant(
        "q3a",
        'self.register_buffer("basis", basis.clone())',
        "self.basis = nn.Parameter(basis.clone())",
        "Trained directions do not stay orthonormal.",
    ),
    "halves_exchanged": mutant(
        "q3a",
        "r, t = self.network(rest).chunk(2, dim=1)\n        log_scale",
        "t, r = self.network(rest).chunk(2, dim=1)\n        log_scale",
        "Scale and shift exchanged, in one direction.",
    ),
    # ---- q3b
    "mixture_of_torch": published(
        "q3b", MIXTURE_OF_TORCH, "torch's Gaussians: the product of the roots is too much for float32."
    ),
    "logits_as_log_weights": mutant(
        "q3b", "logits.log_softmax(0)", "logits", "The weights do not sum to one; shares hide it."
    ),
    "mixed_after_the_flow": mutant(
        "q3b",
        "joint.logsumexp(1), joint",
        "(logits.softmax(0) * log_normal).sum(1), joint",
        "The mean of logarithms: a bound.",
    ),
    "root_not_transposed": mutant(
        "q3b", '"cij,bci->bcj"', '"cji,bci->bcj"', "R (z - mean) instead of R^T (z - mean)."
    ),
    "log_det_of_the_root_forgotten": mutant(
        "q3b", "log_root - (white", "-(white", "Wide and narrow parts count alike."
    ),
    "log_det_subtracted": mutant(
        "q3b", "total + log_det\n", "total - log_det\n", "The sign of the way back."
    ),
    "exponentials_underflow": mutant(
        "q3b",
        "return total + joint.logsumexp(1), joint.softmax(1)",
        "each = joint.exp()\n    return total + each.sum(1).log(), each / each.sum(1, keepdim=True)",
        "Densities far away are 0, and 0 / 0 is no share.",
    ),
    "shares_of_densities_alone": mutant(
        "q3b", "joint.softmax(1)", "log_normal.softmax(1)", "The weights are forgotten in the shares."
    ),
    "without_gradient": mutant(
        "q3b",
        "total = x.new_zeros",
        "x, means = x.detach(), means.detach()\n    total = x.new_zeros",
        "Nothing can be trained.",
    ),
    "density_in_double": mutant(
        "q3b",
        "joint.logsumexp(1), joint.softmax(1)",
        "joint.logsumexp(1).double(), joint.softmax(1)",
        "Another type of numbers.",
    ),
    "layers_backwards": mutant(
        "q3b", "for layer in layers:", "for layer in layers[::-1]:", "The last one first."
    ),
    # ---- q3c
    "sample_of_the_flow": published(
        "q3c", FLOW_SAMPLE, "Seminar 4's order of layers and torch's samplers: the global generator."
    ),
    "layers_in_forward_order": mutant(
        "q3c", "for layer in reversed(layers):", "for layer in layers:", "The order of density."
    ),
    "parts_equally_often": mutant(
        "q3c", "logits.softmax(0)", "torch.ones_like(logits)", "The weights are forgotten."
    ),
    "most_likely_part": mutant(
        "q3c",
        "torch.multinomial(logits.softmax(0), n, replacement=True, generator=generator)",
        "logits.argmax().expand(n)",
        "Always the heaviest part.",
    ),
    "noise_times_the_root": mutant(
        "q3c",
        "torch.linalg.solve_triangular(roots.mT[part], noise, upper=True)",
        "(roots[part] @ noise)",
        "The root of a precision used as that of a covariance.",
    ),
    "noise_not_transposed": mutant(
        "q3c",
        "torch.linalg.solve_triangular(roots.mT[part], noise, upper=True)",
        "torch.linalg.solve_triangular(roots[part], noise, upper=False)",
        "Right for diagonal roots.",
    ),
    "state_of_samples_never_moves": mutant(
        "q3c",
        "    part = torch.multinomial",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n"
        "    part = torch.multinomial",
        "Two calls agree.",
    ),
    "parts_sorted": mutant(
        "q3c",
        "generator=generator)\n    noise",
        "generator=generator).sort().values\n    noise",
        "In the order of the parts.",
    ),
    "shares_are_exact": mutant(
        "q3c",
        "torch.multinomial(logits.softmax(0), n, replacement=True, generator=generator)",
        "torch.searchsorted(logits.softmax(0).cumsum(0), (torch.arange(n) + 0.5).to(logits) / n)"
        ".clamp(max=len(logits) - 1)",
        "As many of each part as its weight says: no chance.",
    ),
    "mirrored_noise": mutant(
        "q3c",
        "    x = means[part]",
        "    noise[n // 2 : n // 2 * 2] = -noise[: n // 2]\n    x = means[part]",
        "Half of the noise is the other half.",
    ),
    "other_types": mutant(
        "q3c", "return x, part", "return x.float(), part.int()", "float32 and int32, whatever was given."
    ),
    "mean_of_the_parts": mutant(
        "q3c", "means[part] +", "logits.softmax(0) @ means +", "All parts around one mean."
    ),
    "seed_fixed_inside": mutant(
        "q3c",
        "noise = torch.randn(n, means.shape[1], 1, generator=generator, dtype=means.dtype)",
        "generator = torch.Generator().manual_seed(0)\n"
        "    part = torch.multinomial(logits.softmax(0), n, replacement=True, generator=generator)\n"
        "    noise = torch.randn(n, means.shape[1], 1, generator=generator, dtype=means.dtype)",
        "Two calls agree.",
    ),
    # ---- one line of the contract each: types, shapes of a batch of one, arguments, calls, states
    "kl_in_single": mutant(
        "q1a",
        "return z, (mean.square().sum(1) + spread - mean.shape[1]) / 2 + log_root",
        "return z, ((mean.square().sum(1) + spread - mean.shape[1]) / 2 + log_root).float()",
        "The codes keep their type, the KL does not.",
    ),
    "codes_squeezed": mutant(
        "q1a", ".squeeze(-1)\n", ".squeeze()\n", "Right but for d = 1 and a single code."
    ),
    "free_nats": mutant(
        "q1a",
        "return z, (mean.square().sum(1) + spread - mean.shape[1]) / 2 + log_root",
        "return z, ((mean.square().sum(1) + spread - mean.shape[1]) / 2 + log_root).clamp(min=0.01)",
        "A KL that never reaches 0, against collapse.",
    ),
    "free_nats_in_the_mean": mutant(
        "q1b", "return reconstruction, kl", "return reconstruction, kl.clamp(min=0.05)", "Never 0 either."
    ),
    "free_nats_of_images": mutant(
        "q2a", "log_precision).sum(1) / 2", "log_precision).sum(1).clamp(min=1e-3) / 2", "Never 0 either."
    ),
    "logits_clamped": mutant(
        "q3b", "logits.log_softmax(0)", "logits.clamp(-10, 10).log_softmax(0)", "They may be any numbers."
    ),
    "length_by_the_precision": mutant(
        "q3b",
        "    log_normal = log_root - (white.square() + math.log(2 * math.pi)).sum(2) / 2\n",
        "    away, precisions = x[:, None] - means, roots @ roots.mT\n"
        "    length = torch.einsum('bci,cij,bcj->bc', away, precisions, away)\n"
        "    log_normal = log_root - (length + x.shape[1] * math.log(2 * math.pi)) / 2\n",
        "The product of the roots loses the small part.",
    ),
    "determinant_of_the_precision": mutant(
        "q3b",
        "roots.diagonal(dim1=1, dim2=2).log().sum(1)",
        "torch.linalg.slogdet(roots @ roots.mT)[1] / 2",
        "The product of the roots loses the small part.",
    ),
    "undefined_at_zero": mutant(
        "q2b",
        "return angle.cos() * start + angle.sin() * end",
        "length = start.norm(dim=1, keepdim=True)\n"
        "    return angle.cos() * (start / length) * length + angle.sin() * end",
        "Zero by zero where the first code is zero.",
    ),
    "other_pixels_told": mutant(
        "q2a", "encode(x, seen)", "encode(x, ~seen)", "The mask of what was not seen."
    ),
    "noise_of_samples_from_the_global_generator": mutant(
        "q3c",
        "means.shape[1], 1, generator=generator,",
        "means.shape[1], 1,",
        "The parts follow the generator, the noise does not.",
    ),
    "terms_in_single": mutant(
        "q1b",
        "return reconstruction, kl",
        "return reconstruction.float(), kl.float()",
        "float32 for float64.",
    ),
    "a_tensor_for_a_count": mutant("q1c", "len(used)\n", "torch.tensor(len(used))\n", "An int is asked for."),
    "decoder_in_single": mutant(
        "q1d",
        "return w, (1 - shares) * variances,",
        "return w.float(), ((1 - shares) * variances).float(),",
        "float32 for float64.",
    ),
    "floor_overwritten": mutant(
        "q1d",
        "1 - floor / variances",
        "1 - floor.div_(variances)",
        "The caller's floor is another afterwards.",
    ),
    "encoded_twice": mutant(
        "q2a",
        "mean, log_precision = encode(x, seen)",
        "mean, log_precision = encode(x, seen)[0], encode(x, seen)[1]",
        "The encoder is called twice.",
    ),
    "x_overwritten": mutant(
        "q2a", "x = torch.where(seen, x, 0.0)", "x[~seen] = 0", "The caller's image is another afterwards."
    ),
    "state_of_codes_never_moves": mutant(
        "q2a",
        "    noise = torch.randn",
        "    generator = torch.Generator().manual_seed(generator.initial_seed())\n    noise = torch.randn",
        "Two calls agree.",
    ),
    "start_overwritten": mutant(
        "q2b",
        "return angle.cos() * start + angle.sin() * end",
        "way = angle.cos() * start + angle.sin() * end\n    start.add_(1e-3)\n    return way",
        "The caller's codes are others afterwards.",
    ),
    "z_overwritten": mutant(
        "q3a",
        "        rest = z - moved @ self.basis.T  # the same as that of x\n",
        "        rest = z.sub_(moved @ self.basis.T)\n",
        "The caller's z is another afterwards.",
    ),
    "determinant_by_autograd": mutant(
        "q3a",
        """        a = x @ self.basis  # (B, k)
        rest = x - a @ self.basis.T
        r, t = self.network(rest).chunk(2, dim=1)
        log_scale = math.log(2) + F.logsigmoid(r)
        return rest + (log_scale.exp() * a + t) @ self.basis.T, log_scale.sum(1)
""",
        """        x = x if x.requires_grad else x.clone().requires_grad_()
        a = x @ self.basis
        rest = x - a @ self.basis.T
        r, t = self.network(rest).chunk(2, dim=1)
        z = rest + (2 * torch.sigmoid(r) * a + t) @ self.basis.T
        rows = [torch.autograd.grad(one.sum(), x, create_graph=True)[0] for one in z.T]
        return z, torch.linalg.slogdet(torch.stack(rows, 1)).logabsdet
""",
        "The Jacobian is singular in float32 where a scale is tiny, and its determinant has a formula.",
    ),
    "log_det_squeezed": mutant(
        "q3a", ", log_scale.sum(1)", ", log_scale.sum(1).squeeze()", "Right but for a single point."
    ),
    "log_p_squeezed": mutant(
        "q3b",
        "total + joint.logsumexp(1), joint",
        "(total + joint.logsumexp(1)).squeeze(), joint",
        "Right but for a single point.",
    ),
    "shares_in_single": mutant(
        "q3b", "joint.softmax(1)", "joint.softmax(1).float()", "log p keeps its type."
    ),
}

# Generated wrong solutions that compute the same on all that may be handed in, and why.
EQUIVALENT = {
    "Zeros and ones are exact in float32, and the difference has the type of W A.": [
        "hw3:q1b:7:seen = torch.eye(len(mu){, dtype=mu.dtype → }) - W @ A",
    ],
    "At 1 the numbers agree (ln 1 = 0); the count is a matter of rounding, which is not judged.": [
        "hw3:q1c:7:ances[:d][variances[:d] {> → >=} 1]",
    ],
    "The noise is symmetric: the draw has the same law.": [
        "hw3:q2a:9:logits = decode(mean {+ → -} variance.sqrt() * noise",
        "hw3:q3c:8:x = means[part] {+ → -} torch.linalg.solve_tria",
    ],
    "Angles in float32 move the way by 1e-7: the rounding that the task allows.": [
        "hw3:q2b:5:(0, math.pi / 2, steps, {dtype=start.dtype, device=start → device=start}.device)[:, None, None]",  # noqa: E501
    ],
    "Noise of 24 bits has the same law to 1e-7, and x has the type of the roots.": [
        "hw3:q3c:7:n(n, means.shape[1], 1, {generator=generator, dtype=means.dtype → generator=generator})",
    ],
    "The values are the same; who keeps the basis is not said.": [
        "hw3:q3a:9:egister_buffer('basis', {basis.clone() → basis})",
    ],
}
