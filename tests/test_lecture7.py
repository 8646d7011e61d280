"""What lecture 7 claims: noise by a flow, the importance-weighted bound, its gradients, ELBO surgery."""

import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dgm_utils import data, metrics, weights
from lectures.lecture3 import vae_digits
from lectures.lecture7 import figures, measured
from lectures.lecture7.measured import MEAN, NOISE, S7, SEEN, STD
from tests import decks

SEEDS = range(5)
UNIT = Normal(0.0, 1.0)

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


def number(text):
    """Return the number of a text, its mean if an error follows."""
    return decks.number(text.split(" ±")[0])


# --- Variational dequantization ----------------------------------------------------------------------------

NODES, WEIGHTS = np.polynomial.legendre.leggauss(14)
CUBE = torch.cartesian_prod(*[torch.from_numpy((NODES + 1) / 2)] * 4)  # nodes in the cell of four pixels
CUBE_WEIGHTS = torch.cartesian_prod(*[torch.from_numpy(WEIGHTS / 2)] * 4).prod(dim=1)


def smooth(seed):
    """A density of four real pixels whose coordinates depend on each other, and log-density at cell 0."""
    torch.manual_seed(seed)
    root = 0.4 * torch.randn(4, 4)
    parts = [MultivariateNormal(torch.rand(4), root @ root.T + c * torch.eye(4)) for c in (0.3, 0.6)]
    return torch.stack([part.log_prob(CUBE) for part in parts]).logsumexp(0) - math.log(2)


def on_cell(seed):
    """A density on the cube that is neither uniform nor the model's: each factor a straight line."""
    slopes = 1.6 * torch.rand(4, generator=torch.Generator().manual_seed(seed)) - 0.8
    return (1 + slopes * (2 * CUBE - 1)).log().sum(dim=1)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_misses_the_kl_to_the_density_within_the_cell(seed):
    log_p, log_q = smooth(seed), on_cell(seed)
    mass = CUBE_WEIGHTS @ log_p.exp()
    within = log_p - mass.log()
    assert (CUBE_WEIGHTS @ log_q.exp()).item() == pytest.approx(1)
    bound = CUBE_WEIGHTS @ (log_q.exp() * (log_p - log_q))
    kl = CUBE_WEIGHTS @ (log_q.exp() * (log_q - within))
    assert bound.item() == pytest.approx((mass.log() - kl).item()) and kl > 1e-3
    best = CUBE_WEIGHTS @ (within.exp() * (log_p - within))
    assert best.item() == pytest.approx(mass.log().item())
    uniform = CUBE_WEIGHTS @ log_p
    assert uniform < mass.log() and bound < mass.log()


def test_on_another_set_the_best_noise_finds_the_mass_of_that_set():
    """Half of the cell: at most log P; all of space: log 1, whatever the image is."""
    log_p, half = smooth(0), (CUBE[:, 0] < 0.5).double()
    q = on_cell(0).exp() * half
    weights, q = CUBE_WEIGHTS * half, q / (CUBE_WEIGHTS @ q)
    mass = weights @ log_p.exp()
    assert weights.sum().item() == pytest.approx(0.5) and mass < CUBE_WEIGHTS @ log_p.exp()
    within = (log_p - mass.log())[half > 0]
    bound = (weights * q)[half > 0] @ (log_p - q.log())[half > 0]
    kl = (weights * q)[half > 0] @ (q[half > 0].log() - within)
    assert bound.item() == pytest.approx((mass.log() - kl).item()) and kl > 1e-3
    best = (weights[half > 0] * within.exp()) @ (log_p[half > 0] - within)
    assert best.item() == pytest.approx(mass.log().item())
    # A model with no mass in the other half loses nothing: the mass of the half cell is that of the cell.
    only = torch.where(half > 0, log_p, -math.inf)
    assert (weights @ only.exp()).item() == pytest.approx((CUBE_WEIGHTS @ only.exp()).item())
    # All of space, a normal q around each of two far cells: no bound of either mass, both claims near 0.
    p = Normal(0.5, 0.3)
    for x in (0, 3):
        q = Normal(0.5 - x, 0.3)  # of u: p(x + u) as a density of u
        u = q.sample((1000,))
        assert torch.allclose(p.log_prob(x + u) - q.log_prob(u), torch.zeros(1000))
        assert (p.cdf(torch.tensor(x + 1.0)) - p.cdf(torch.tensor(x * 1.0))).log() < -0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_the_density_of_the_noise_is_that_of_the_definition(seed):
    """log r(eps), minus the log-determinants, minus log u (1 - u): against the Jacobian, m = 5."""
    torch.manual_seed(seed)
    m, context = 5, torch.randn(1, 3)
    mask = torch.arange(m) % 2 == 0
    layers = []
    for kept in (mask, ~mask, mask):
        network = torch.nn.Linear(int(kept.sum()) + 3, 2 * int((~kept).sum()))
        layers.append(S7.ConditionalCoupling(kept, network))

    def carry(eps):
        v, total = eps[None], 0
        for layer in layers:
            v, log_det = layer(v, context)
            total = total + log_det
        return v[0].sigmoid(), total

    uniform = torch.rand(m)
    eps = torch.logit(uniform)
    log_r = (uniform * (1 - uniform)).log().sum()  # of the logistic law
    u, log_dets = carry(eps)
    matrix = torch.autograd.functional.jacobian(lambda e: carry(e)[0], eps)
    by_slide = log_r - log_dets - (u * (1 - u)).log().sum()
    assert by_slide.item() == pytest.approx((log_r - torch.linalg.slogdet(matrix)[1]).item())


def test_the_dequantizer_of_the_seminar_starts_uniform_and_is_a_density():
    torch.manual_seed(0)
    mask = torch.arange(4) < 2
    q, x = S7.Dequantizer(mask, 4, [16], 2), torch.randint(4, (200, 4))
    u, log_q = q.draw(x, 3)
    assert log_q.abs().max() < 1e-3 and ((u > 0) & (u < 1)).all()
    for parameter in q.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        _, log_q = q.draw(x[:1], 100_000)
    volume = (-log_q).exp()  # E[1 / q(u)] over draws of q is the volume of the cell
    assert volume.mean().item() == pytest.approx(1, abs=4.5 * (volume.std() / len(volume) ** 0.5).item())
    assert log_q.std() > 0.1


def test_logistic_noise_is_uniform_and_normal_noise_never(printed):
    a = np.linspace(0.01, 0.99, 50)
    assert stats.logistic.cdf(special.logit(a)) == pytest.approx(a)

    def kl(scale):
        def density(u):
            return stats.norm.pdf(special.logit(u), 0, scale) / (u * (1 - u))

        edges = [0, 1e-4, 0.5, 1 - 1e-4, 1]
        parts = [
            integrate.quad(lambda u: -special.entr(density(u)), *edge)[0]
            for edge in itertools.pairwise(edges)
        ]
        for wall in (1e-12, 1 - 1e-12):
            assert density(wall) < 1e-3
        return sum(parts)

    best = optimize.minimize_scalar(kl, bounds=(1.2, 2.5), method="bounded")
    assert printed["flat_kl"] == f"{best.fun:.4f}" and best.fun > 0.005


def test_three_bounds_of_a_pixel(printed):
    """Each bound by another quadrature; in order for every cell; the optimum is one."""
    bounds = figures.toy_bounds()
    assert (bounds["uniform"] <= bounds["logistic"]).all() and (bounds["logistic"] <= bounds["exact"]).all()
    for x in range(4):
        shift, log_scale = figures.best(x, "logistic")

        def integrand(u, x=x, shift=shift, log_scale=log_scale):
            scale = math.exp(log_scale)
            q = stats.logistic.pdf((special.logit(u) - shift) / scale) / (scale * u * (1 - u))
            return q * math.log2(figures.toy_density(np.array(x + u), figures.TOY_WIDTH) / q)

        edges = [1e-13, 1e-6, 1e-3, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1 - 1e-13]
        value = sum(integrate.quad(integrand, *edge)[0] for edge in itertools.pairwise(edges))
        assert bounds["logistic"][x] == pytest.approx(value, abs=2e-5)
        for step in ([0.05, 0], [-0.05, 0], [0, 0.05], [0, -0.05]):
            moved = figures.bound(x, shift + step[0], log_scale + step[1], "logistic")
            assert moved < bounds["logistic"][x]
        assert figures.bound(x, 0.0, 0.0, "logistic") == pytest.approx(bounds["uniform"][x], abs=1e-6)
    codes = [-figures.FOUR @ bounds[name] for name in ("uniform", "normal", "logistic", "exact")]
    assert printed["toy_bits"] == [f"{code:.3f}" for code in codes]
    assert codes == sorted(codes, reverse=True) and codes[-1] > number(printed["toy_entropy"])


def test_half_a_cell_is_honest_once_log_q_is_in_the_loss(printed):
    """The best density on half cells is constant there: 1 bit less than the entropy, and log2 q = 1."""
    claim = -(figures.FOUR @ np.log2(figures.FOUR / 0.5))
    assert printed["half_cell"] == [f"{claim:.2f}", f"{claim + 1:.2f}"]
    assert claim + 1 == pytest.approx(number(printed["toy_entropy"]), abs=1e-3)


# --- The bound ---------------------------------------------------------------------------------------------


def reference(d):
    """The seminar's model with the deck's numbers: x | z ~ N(z, NOISE I), q = N(MEAN, STD^2 I)."""
    center, scale = figures.posterior()
    model = S7.LinearGaussian(torch.eye(d), NOISE**0.5, shift=MEAN - center, spread=STD / scale)
    return model.double(), torch.full((1, d), SEEN)


@pytest.mark.parametrize("K", [1, 3, 20])
@pytest.mark.parametrize("d", [1, 4])
def test_the_exact_bound_is_that_of_simulation(d, K):
    torch.manual_seed(0)
    model, x = reference(d)
    mean, std = model.posterior(x)
    assert torch.allclose(mean, torch.tensor(MEAN)) and torch.allclose(std, torch.tensor(STD))
    assert model.exact().log_prob(x).item() == pytest.approx(figures.log_evidence(d))
    with torch.no_grad():
        log_w = model.log_weights(x.expand(100_000, -1), K)
    bounds = S7.importance_weighted_bound(log_w)
    exact = figures.log_evidence(d) - figures.gap(K, figures.weight_law(d, MEAN, STD))
    assert bounds.mean().item() == pytest.approx(exact, abs=4.5 * (bounds.std() / len(bounds) ** 0.5).item())


def test_with_one_sample_the_gap_is_the_kl_and_in_closed_form():
    center, scale = figures.posterior()
    for d, mean, std in ((1, 0.3, 0.9), (4, 0.3, 0.9), (4, 1.0, 0.2), (6, 0.8, 0.7)):
        kl = d * kl_divergence(Normal(mean, std), Normal(center, scale)).item()
        assert figures.gap(1, figures.weight_law(d, mean, std)) == pytest.approx(kl, abs=1e-6)
        log_v, p = figures.weight_law(d, mean, std)
        assert p.sum() == pytest.approx(1) and np.exp(log_v) @ p == pytest.approx(1, abs=1e-3)


def test_the_bound_grows_and_its_gap_falls_as_the_theorem_says():
    for gaps in figures.tightened().values():
        assert (np.diff(gaps) < 0).all() and gaps[-1] > 0
    half = figures.relative_variance(4, MEAN, STD) / 2
    law = figures.weight_law(4, MEAN, STD)
    misses = [abs(K * figures.gap(K, law) / half - 1) for K in (100, 1000, 10_000)]
    assert misses[0] > misses[1] > misses[2] and misses[2] < 1e-3


@pytest.mark.parametrize(("b", "r2"), [(0.0, 0.7), (1.3, 0.8), (-0.6, 2.4)])
def test_the_variance_of_gaussian_weights(b, r2):
    def square(z):
        return math.exp(2 * stats.norm.logpdf(z) - stats.norm.logpdf(z, b, math.sqrt(r2)))

    numeric, _ = integrate.quad(square, -40, 40, points=[0], limit=300)
    center, scale = figures.posterior()
    for d in (1, 5):
        ours = figures.relative_variance(d, center + b * scale, math.sqrt(r2) * scale)
        assert ours == pytest.approx(numeric**d - 1)


def test_the_narrow_one_has_no_variance_and_another_slope(printed):
    center, scale = figures.posterior()
    assert figures.relative_variance(4, center, scale * 0.7) == math.inf
    narrow = figures.weight_law(1, center, scale * math.sqrt(figures.NARROW))
    far = [figures.gap(K, narrow) for K in (10**5, 10**6)]
    assert math.log10(far[1] / far[0]) == pytest.approx(-1 / 3, abs=0.04)  # but for logarithms
    assert -0.4 < number(printed["narrow_slope"]) < -0.2
    wide, thin = ([number(v) for v in printed[f"{name}_gap"]] for name in ("wide", "narrow"))
    assert wide[0] > thin[0] and all(a < b for a, b in zip(wide[1:], thin[1:], strict=True))


@pytest.mark.parametrize("K", [1, 2, 4])
def test_a_random_subset_averages_to_the_whole(K):
    w = torch.rand(K + 1)
    subsets = torch.stack([w[list(chosen)].mean() for chosen in itertools.combinations(range(K + 1), K)])
    assert subsets.mean().item() == pytest.approx(w.mean().item())
    assert subsets.log().mean() <= w.mean().log() + 1e-12


def discrete(seed, values=4):
    """A latent variable of four values: p(x, z) for one x, and q."""
    torch.manual_seed(seed)
    return 0.3 * torch.rand(values) + 0.01, torch.randn(values).softmax(0)


def exact_bound(joint, q, K):
    grid = torch.cartesian_prod(*[torch.arange(len(q))] * K).reshape(-1, K)
    chance = q[grid].prod(dim=1)
    return (chance * (joint / q)[grid].mean(dim=1).log()).sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_bound_is_the_elbo_of_a_larger_model(seed):
    """By enumeration of all codes and pointers: evidence, ELBO, and the two inequalities."""
    joint, q = discrete(seed)
    K = 3
    grid = torch.cartesian_prod(*[torch.arange(4)] * K)
    w = (joint / q)[grid]
    share = w / w.sum(dim=1, keepdim=True)
    log_Q = (q[grid].prod(dim=1, keepdim=True) * share).log()
    others = q[grid].prod(dim=1, keepdim=True) / q[grid]
    log_P = (joint[grid] * others / K).log()
    evidence = joint.sum()
    assert log_P.exp().sum().item() == pytest.approx(evidence.item())
    assert log_Q.exp().sum().item() == pytest.approx(1)
    elbo = (log_Q.exp() * (log_P - log_Q)).sum()
    assert elbo.item() == pytest.approx(exact_bound(joint, q, K).item())
    chosen = torch.zeros(4).index_add(0, grid.flatten(), log_Q.exp().flatten())
    true = joint / evidence
    kl = (chosen * (chosen / true).log()).sum()
    assert kl <= evidence.log() - elbo <= evidence.log() - exact_bound(joint, q, 1)
    assert exact_bound(joint, q, 1) < exact_bound(joint, q, 2) < exact_bound(joint, q, 3) < evidence.log()
    # The formula of the density of the chosen code, by the mean over the other two.
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    mean = (
        q[pairs].prod(dim=1) * joint[:, None] / (((joint / q)[:, None] + (joint / q)[pairs].sum(1)) / K)
    ).sum(1)
    assert torch.allclose(mean, chosen)


def test_where_the_bound_does_not_converge():
    torch.manual_seed(0)
    # q on a part only: the limit is the mass there. q where p(x, z) = 0: minus infinity for every K.
    joint = torch.tensor([0.2, 0.1, 0.4])
    q = torch.tensor([0.5, 0.5, 0.0])
    log_w = (joint / q)[torch.multinomial(q, 2_000_000, replacement=True)].log().reshape(1000, -1)
    assert S7.importance_weighted_bound(log_w).mean().item() == pytest.approx(math.log(0.3), abs=1e-3)
    joint = torch.tensor([0.2, 0.0])
    q = torch.tensor([0.7, 0.3])
    assert exact_bound(joint, q, 3).item() == -math.inf


def test_the_rate_needs_that_q_misses_nothing():
    """p(x, z) = 1 on (0, 1), q uniform on its left half: no variance, a finite ELBO, and a gap that stays."""
    log_w = torch.full((50, 3), math.log(0.5))
    assert log_w.exp().var() == 0
    gap = -S7.importance_weighted_bound(log_w)  # log p(x) = 0
    assert (50 * gap > 30).all()


def test_small_averages_and_the_bound_of_the_proof():
    """psi(delta) <= delta^2 from -1/2 on, nearly delta^2 / 2 at 0; below, a Chernoff bound with rho < 1."""
    delta = np.linspace(-0.5, 10, 10_001)
    psi = delta - np.log1p(delta)
    assert (psi >= 0).all() and (psi <= delta**2 + 1e-15).all()
    assert psi[np.abs(delta) < 2e-3] == pytest.approx(
        delta[np.abs(delta) < 2e-3] ** 2 / 2, rel=3e-3, abs=1e-12
    )
    law, p = figures.weight_law(1, MEAN, STD)
    rho = min(np.exp(t / 2) * (p @ np.exp(-t * np.exp(law))) for t in (0.2, 0.5, 1.0))
    assert rho < 1


def test_what_is_drawn_of_the_weighted_posterior(printed):
    stored = figures.measured()
    (kls, errors), gaps = stored["weighted_kl"].T, stored["weighted_gap"]
    first = number(printed["gaussian_gap"])
    assert (np.diff([first, *kls]) < 0).all() and (kls < gaps[:, 0] + 3 * gaps[:, 1]).all()
    assert (errors < 0.001).all()
    assert gaps[0, 0] < first and (gaps[:, 1] < 0.005).all()
    for K in measured.WEIGHTED:
        assert stored[f"mass_{K}"] == pytest.approx(1, abs=0.01)


def test_the_weighted_posterior_of_two_samples_by_gauss_and_hermite():
    """K = 2: the other sample by 40 x 40 nodes instead of draws, the kept one on a grid of its own."""
    mean, std = map(torch.from_numpy, figures.measured()["gaussian_moments"])
    nodes, chance = np.polynomial.hermite_e.hermegauss(40)
    other = mean + std * torch.cartesian_prod(*[torch.from_numpy(nodes)] * 2)
    chance = torch.from_numpy(np.outer(chance, chance).ravel() / chance.sum() ** 2)
    normal, line = Normal(mean, std), torch.linspace(-7, 7, 121)
    z = torch.cartesian_prod(line, line)
    area = (line[1] - line[0]).item() ** 2
    joint, log_q = measured.log_joint(z), normal.log_prob(z).sum(dim=1)
    partner = measured.log_joint(other) - normal.log_prob(other).sum(dim=1)
    ratio = torch.sigmoid((joint - log_q)[:, None] - partner)  # w / (w + w of the other)
    log_density = log_q + (2 * ratio @ chance).clamp(min=1e-300).log()
    assert (log_density.exp().sum() * area).item() == pytest.approx(1, abs=5e-3)
    log_posterior = joint - joint.logsumexp(0) - math.log(area)
    kl = (log_density.exp() * (log_density - log_posterior)).sum() * area
    stored, error = figures.measured()["weighted_kl"][0]
    assert kl.item() == pytest.approx(stored, abs=4.5 * error + 1e-3)


def test_the_bounds_on_digits(printed):
    """The shipped VAE again, K = 1, 5, 50 with fewer draws, on the same images."""
    torch.manual_seed(7)
    model = vae_digits.trained(S7, 50).float()
    x = measured.judged_images().float()
    with torch.no_grad():
        log_w = measured.many_log_weights(model, x, 100)
    assert log_w.shape == (100, measured.IMAGES)
    for K, value in zip((1, 5, 50), printed["mnist_bounds"], strict=False):
        bounds = log_w.reshape(-1, K, len(x)).logsumexp(dim=1) - math.log(K)
        error = bounds.std(dim=0).mean() / (len(bounds) * len(x)) ** 0.5
        assert bounds.mean().item() == pytest.approx(number(value), abs=5 * error.item() + 0.06)
    sizes = metrics.effective_sample_size(log_w[:50])
    assert sizes.mean().item() == pytest.approx(number(printed["mnist_size"][0]), abs=0.6)
    assert figures.measured()["mnist_sizes"].min() >= 1
    assert all(number(rise) > 3 * float(rise.split("± ")[1]) for rise in printed["mnist_steps"])


def test_what_a_step_costs(printed):
    for K in (1, 7):
        assert figures.rows(K) == [1, K]
    assert figures.products() == [784 * 200 + 200 * 200 + 200 * 100, 50 * 200 + 200 * 200 + 200 * 784]
    assert printed["step_ratio"] == f"{(216_800 + 50 * 206_800) / (216_800 + 206_800):.0f}"


# --- Gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moves", ["encoder", "decoder"])
def test_signal_to_noise_of_weights_with_two_values(moves):
    """w = w_1 with chance c, else w_2: averages are binomial, so mean and variance are exact for each K."""
    c = 0.3
    w, slope = np.array([0.4, 1.1]), np.array([0.7, -0.2])
    if moves == "encoder":  # E w' = 0
        slope[1] = -c * slope[0] / (1 - c)
    chance = np.array([c, 1 - c])
    p, p_slope = chance @ w, chance @ slope
    v = slope - p_slope / p * w
    covariance = chance @ (v * w) - (chance @ v) * (chance @ w)
    errors = []
    for K in (100, 400, 1600):
        n = np.arange(K + 1)
        law = stats.binom.pmf(n, K, c)
        ratio = (n * slope[0] + (K - n) * slope[1]) / (n * w[0] + (K - n) * w[1])
        mean = law @ ratio
        variance = law @ (ratio - mean) ** 2
        errors.append(
            [abs(K * (mean - p_slope / p) * p**2 + covariance), abs(K * variance * p**2 - chance @ v**2)]
        )
    for before, after in itertools.pairwise(errors):
        assert all(late < 0.5 * early for early, late in zip(before, after, strict=True))
    assert max(errors[-1]) < 2e-3


def test_the_hand_written_gradients_are_those_of_autograd():
    """Every estimator of `measured.gradients`, its faults too, from a loss written as a student would."""
    runs, K = 50, 8
    found = measured.gradients(runs, K, torch.Generator().manual_seed(3))
    noise = torch.randn(runs, K, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean, offset = torch.tensor(MEAN, requires_grad=True), torch.tensor(0.0, requires_grad=True)
    z = mean + STD * noise

    def log_weights(center):
        joint = UNIT.log_prob(z) + Normal(z + offset, NOISE**0.5).log_prob(torch.tensor(SEEN))
        return joint - Normal(center, STD).log_prob(z)

    log_w, frozen = log_weights(mean), log_weights(mean.detach())
    share = log_w.detach().softmax(dim=1)
    losses = {
        "encoder": log_w.logsumexp(dim=1),
        "softmax of the loss": ((-log_w.detach()).softmax(dim=1) * log_w).sum(dim=1),
        "weights not detached": (log_w.softmax(dim=1) * log_w).sum(dim=1),
        "not squared": (share * frozen).sum(dim=1),
        "q not frozen": (share**2 * log_w).sum(dim=1),
        "doubly": (share**2 * frozen).sum(dim=1),
    }
    for name, loss in losses.items():
        grads = torch.stack([torch.autograd.grad(row, mean, retain_graph=True)[0] for row in loss])
        assert torch.allclose(grads, found[name]), name
    grads = [torch.autograd.grad(row, offset, retain_graph=True)[0] for row in losses["encoder"]]
    assert torch.allclose(torch.stack(grads), found["decoder"])


def test_the_exact_slope_judges_the_estimators(printed):
    truth = figures.slope(measured.REFERENCE_K, "encoder")
    assert printed["truth"] == f"{truth:.4f}"
    for name in figures.REFERENCES:
        mean, error, _ = figures.measured()[f"reference {name}"]
        away = abs(mean - truth) / error
        assert (away < 4.5) if name in ("encoder", "doubly") else (away > 50), name
    mean, error, _ = figures.measured()["reference decoder"]
    assert mean == pytest.approx(figures.slope(measured.REFERENCE_K, "decoder"), abs=4.5 * error)
    spread = {name: number(value) for name, value in printed["spread"].items()}
    assert spread["doubly"] < spread["encoder"] / 5


def test_measured_signal_to_noise_follows_the_theorem(printed):
    snr, theory = figures.signal_to_noise(), figures.predicted()
    for name, slope in (("encoder", -0.5), ("decoder", 0.5)):
        assert snr[name][-1] == pytest.approx(theory[name][-1], rel=0.05)
        assert figures.log_slope_of(name)[0] == pytest.approx(slope, abs=0.03)
    assert figures.log_slope_of("doubly")[0] == pytest.approx(0.5, abs=0.05)
    assert snr["doubly"][1] < snr["doubly"][0] and (np.diff(snr["doubly"][2:]) > 0).all()
    assert printed["slopes"][0].startswith("\N{MINUS SIGN}")


def test_a_narrow_q_obeys_another_law(printed):
    """Weights without a variance: the slope is far from -1/2; mean and deviation again by fewer draws."""
    law = measured.NARROW_MEAN, measured.NARROW_STD
    assert law == pytest.approx((0.8, figures.posterior()[1] / 2))
    assert figures.relative_variance(1, *law) == math.inf
    fitted, error = figures.log_slope_of("narrow")
    assert -0.3 < fitted + 4.5 * error < 0 and printed["slopes"][3].startswith("\N{MINUS SIGN}")
    generator = torch.Generator().manual_seed(11)
    for K in (4, 16):
        found = measured.gradients(40_000, K, generator, *law)["encoder"]
        mean, error = measured.mean_and_error(found)
        assert mean == pytest.approx(figures.slope(K, "encoder", *law), abs=4.5 * error)
        stored, error = figures.measured()["spread_narrow"][measured.COUNTS.index(K)]
        again, other = measured.deviation_and_error(found)
        assert again == pytest.approx(stored, abs=4.5 * math.hypot(error, other))


def encoder_gradients(loss, model, x, runs):
    found = []
    for _ in range(runs):
        (gradient,) = torch.autograd.grad(loss(x)["loss"], model.shift)
        found.append(-gradient)
    return torch.stack(found)


def test_both_losses_of_the_seminar_have_the_exact_slope_in_four_dimensions():
    torch.manual_seed(0)
    K, step = 6, 1e-3
    model, x = reference(4)

    def exact(h):
        return -figures.gap(K, figures.weight_law(4, MEAN + h, STD))

    each = (exact(step) - exact(-step)) / (2 * step) / 4  # all four means move together
    spreads = []
    for make in (S7.iwae_loss, S7.doubly_reparametrised_loss):
        grads = encoder_gradients(make(model, K), model, x.expand(50, -1), 300)
        error = grads.std(dim=0) / len(grads) ** 0.5
        assert ((grads.mean(dim=0) - each).abs() < 4.5 * error).all()
        spreads.append(grads.std().item())
    assert spreads[1] < 0.6 * spreads[0]


def test_doubly_reparametrised_has_no_noise_at_the_posterior():
    model = S7.LinearGaussian(torch.eye(4), NOISE**0.5).double()
    x = torch.randn(3, 4)
    assert encoder_gradients(S7.doubly_reparametrised_loss(model, 5), model, x, 3).abs().max() < 1e-10
    assert encoder_gradients(S7.iwae_loss(model, 5), model, x, 3).abs().max() > 1e-3


def test_one_backward_pass_gives_the_decoder_one_weight():
    model, x = reference(4)
    found = []
    for make in (S7.iwae_loss, S7.doubly_reparametrised_loss):
        torch.manual_seed(5)
        found.append(torch.autograd.grad(make(model, 7)(x)["loss"], model.W)[0])
    assert torch.allclose(*found)


def test_an_analytic_kl_inside_the_weights_is_no_bound(printed):
    torch.manual_seed(0)
    limit, at_posterior, log_p = (number(v) for v in printed["analytic_kl"])
    center, scale = figures.posterior()
    for mean, std, value in ((MEAN, STD, limit), (center, scale, at_posterior)):
        z = mean + std * torch.randn(1_000_000)
        likelihood = Normal(z, NOISE**0.5).log_prob(torch.tensor(SEEN)).logsumexp(0) - math.log(len(z))
        claim = likelihood - kl_divergence(Normal(mean, std), UNIT)
        assert claim.item() == pytest.approx(value, abs=5e-3)
    assert at_posterior > log_p + 0.1 and log_p == pytest.approx(figures.log_evidence(1), abs=1e-3)


# --- Surgery -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_surgery_by_three_separate_roads(seed):
    """KL in closed form, information by codes of each example, marginal KL by draws of the mixture; d = 4."""
    torch.manual_seed(seed)
    N, S = 6, 40_000
    mean, std = torch.randn(N, 4), 0.3 + torch.rand(N, 4)
    kl = kl_divergence(Normal(mean, std), UNIT).sum(dim=1).mean()
    z = mean + std * torch.randn(S, N, 4)
    own = Normal(mean, std).log_prob(z).sum(dim=-1)
    log_q = S7.log_aggregate(z.reshape(-1, 4), mean, std).reshape(S, N)
    information = (own - log_q).mean(dim=1)
    rows = torch.randint(N, (S,))
    drawn = mean[rows] + std[rows] * torch.randn(S, 4)
    marginal = S7.log_aggregate(drawn, mean, std) - UNIT.log_prob(drawn).sum(dim=1)
    error = (information.var() / S + marginal.var() / S).sqrt()
    assert (information.mean() + marginal.mean() - kl).abs() < 4.5 * error
    assert (own - log_q).max() <= math.log(N) + 1e-12 and information.mean() > 0
    # No other prior is better than q(z): its KL from q(z) is positive.
    for _ in range(3):
        other = Normal(torch.randn(4), 0.5 + torch.rand(4))
        worse = S7.log_aggregate(drawn, mean, std) - other.log_prob(drawn).sum(dim=1)
        assert worse.mean() > 4.5 * worse.std() / S**0.5


@pytest.mark.parametrize("d", [2, 50])
def test_the_surgery_of_the_shipped_vaes(printed, d):
    """KL over all images again; reconstruction and gain on test images by other images and other formulas."""
    (kl, _), (reconstruction, spread), (information, first), (marginal, _) = figures.measured()[
        f"surgery_{d}"
    ]
    assert information + marginal == pytest.approx(kl)
    by_codes, second = figures.measured()[f"marginal_by_codes_{d}"]
    assert by_codes == pytest.approx(marginal, abs=4.5 * math.hypot(first, second))
    assert information < math.log(60_000) and marginal > kl - math.log(60_000)
    assert printed[f"surgery_{d}"][0] == f"{kl:.2f}"
    assert number(printed["log_n"]) == pytest.approx(math.log(60_000), abs=5e-3)
    torch.manual_seed(2)
    model, splits = vae_digits.trained(S7, d).float(), data.load_images("mnist")
    known = torch.cat([splits.train.images, splits.valid.images])
    with torch.no_grad():
        known = data.binarize(known, seed=1).flatten(1).float()
        mean, std = (torch.cat(part) for part in zip(*map(model.posterior, known.split(5000)), strict=True))
        again = sum(kl_divergence(Normal(*part), Normal(0.0, 1.0)).sum() for part in
                    zip(mean.double().split(5000), std.double().split(5000), strict=True))  # fmt: skip
        assert len(mean) == 60_000 and again.item() / 60_000 == pytest.approx(kl, abs=1e-3)
        others = slice(measured.CODES, measured.CODES + 2000)
        logits = model.decoder(mean[others] + std[others] * torch.randn(2000, d, dtype=torch.float32))
        each = (known[others] * logits - torch.nn.functional.softplus(logits)).sum(dim=1)
        error = math.hypot(spread, each.std().item() / 2000**0.5)
        assert each.mean().item() == pytest.approx(reconstruction, abs=4.5 * error)
        # log q(z) of codes of the last test images, one by one: the density of each of 60,000 Gaussians.
        test = data.binarize(splits.test.images, seed=1).flatten(1)[-100:].float()
        at, width = model.posterior(test)
        log_q = []
        for z in at + width * torch.randn(100, d, dtype=torch.float32):
            log_parts = -(((z - mean) / std) ** 2 / 2 + std.log() + math.log(2 * math.pi) / 2).sum(dim=1)
            log_prior = UNIT.log_prob(z).sum()
            log_q.append(log_parts.logsumexp(dim=0) - math.log(60_000) - log_prior)
    gain, spread = figures.measured()[f"test_gain_{d}"]
    again, error = measured.mean_and_error(torch.stack(log_q))
    assert again == pytest.approx(gain, abs=4.5 * math.hypot(error, spread))
    assert printed["test_gain"][d == 50].startswith("\N{MINUS SIGN}") == (d == 50)


@pytest.mark.parametrize("B", [2, 5, 16])
def test_a_minibatch_never_finds_more_than_log_b(B):
    torch.manual_seed(B)
    for width in (1e-3, 0.3, 3.0):
        x = torch.randn(B, 4)
        z = x + width * torch.randn(B, 4)
        pairs = Normal(x, width).log_prob(z[:, None]).sum(dim=-1)
        weights = measured.weights_of("mean of the batch", B, 1000)
        estimate = pairs.diagonal() - (pairs + weights).logsumexp(dim=1)
        assert (estimate <= math.log(B) + 1e-12).all()
        other = pairs.diagonal() - (pairs + measured.weights_of("weighted", B, 1000)).logsumexp(dim=1)
        assert torch.allclose(other - estimate, torch.tensor(math.log(1000)))


def test_stratified_weights_are_unbiased_and_their_logarithm_is_too_high():
    """All batches of three out of six examples that hold the own one, by enumeration."""
    torch.manual_seed(0)
    N, B, i = 6, 3, 2
    x = torch.randn(N, 4)
    z = x[i] + 0.7 * torch.randn(4)
    log_pairs = Normal(x, 0.7).log_prob(z).sum(dim=1)
    others = itertools.combinations([j for j in range(N) if j != i], B - 1)
    weights = measured.weights_of("stratified", B, N)
    assert torch.allclose(weights.exp().sum(dim=1), torch.ones(B))
    log_means = torch.stack([(log_pairs[[i, *rest]] + weights[0]).logsumexp(0) for rest in others])
    log_q = log_pairs.logsumexp(0) - math.log(N)
    assert log_means.exp().mean().item() == pytest.approx(log_q.exp().item())
    assert log_means.mean() < log_q  # so that information comes out too high
    with pytest.raises(ValueError, match="got 'other'"):
        measured.weights_of("other", 2, 3)


def test_what_minibatches_say(printed):
    stored = figures.measured()
    (information, error), (marginal, _), (kl, _) = stored["batch_truth"]
    assert information + marginal == pytest.approx(kl)
    naive, weighted, stratified = (stored[f"batch {kind}"][:, 0] for kind in measured.KINDS)
    assert (naive < np.log(measured.BATCHES)).all() and naive[-1] < information - 3 * error
    assert weighted - naive == pytest.approx(np.log(measured.EXAMPLES))
    assert (stratified > information).all() and (np.diff(stratified) < 0).all()
    (total, total_error), at = stored["batch_truth"][2], measured.BATCHES.index(128)
    for kind in measured.KINDS:
        information, first = stored[f"batch {kind}"][at]
        other, second = stored[f"batch_marginal {kind}"][at]
        # Both parts of one batch add up to the KL of its codes, whose mean is that of all.
        assert information + other == pytest.approx(total, abs=4.5 * (total_error + first + second)), kind
    values = [number(v) for v in printed["batch_marginal"]]
    assert values[0] > marginal > 0 > values[2] > values[1]


# --- What was trained --------------------------------------------------------------------------------------


def test_the_pairs_that_were_trained(printed):
    """IWAE and learned noise win; levels, active units and bits again by weights, with other draws."""
    stored = figures.measured()
    each = stored["judged_each"]
    assert each.shape == (2, 2, measured.IMAGES) and (each[:, 1] > each[:, 0]).all()
    gain, loss = (figures.spread_over_images(each[1, 1] - each[0, 1]), each[1, 0] - each[0, 0])
    assert (
        gain[0] > 4 * gain[1]
        and figures.spread_over_images(-loss)[0] > 4 * figures.spread_over_images(loss)[1]
    )
    assert printed["judged_gain"] == f"{gain[0]:.2f} ± {gain[1]:.2f}"
    torch.manual_seed(5)
    models = [vae_digits.trained(S7, 50).float() for _ in range(2)]
    weights.load(models[1], "seminar7-iwae")
    x = measured.judged_images().float()
    test = data.binarize(data.load_images("mnist").test.images, seed=0).flatten(1).float()
    for row, model in enumerate(models):
        with torch.no_grad():
            few = measured.many_log_weights(model, x, 50)
            many = measured.many_log_weights(model, x[:10], 5000)
            active = (model.posterior(test)[0].var(dim=0) > 0.01).sum().item()
        assert few.mean().item() == pytest.approx(each[row, 0].mean(), abs=0.1)
        away = many.logsumexp(dim=0) - math.log(5000) - torch.from_numpy(each[row, 1, :10])
        assert away.mean().item() == pytest.approx(0, abs=0.5)
        assert active == stored["judged_active"][row]
    (uniform, _), (learned, _), (better, spread) = stored["noise_bits"]
    assert better == pytest.approx(uniform - learned, abs=1e-6) and better > 4 * spread
    flow, pair = measured.flows()
    counts = [sum(part.numel() for part in model.parameters()) for model in (flow, pair["noise"])]
    assert printed["flow_parameters"] == [f"{counts[0]:,}", f"{sum(counts):,}"]
    torch.manual_seed(3)
    x = S7.small_digits(data.load_images("mnist").test.images[:1500]).flatten(1)
    draws = ((flow.double(), S7.uniform_noise), (pair["flow"].double(), pair["noise"].double().draw))
    again = [measured.claimed_bits(model, draw, x) for model, draw in draws]
    for bits, text in zip(again, printed["noise_bits"], strict=False):
        assert bits.mean().item() == pytest.approx(number(text), abs=5 * (bits.std() / 1500**0.5).item())


# --- Published ---------------------------------------------------------------------------------------------

PUBLISHED = {  # Burda et al. 2015, Tables 1 and 3; Chadebec et al. 2022; Lippe 2024, tutorial 11
    "VAE, $K = 1$": ["86.76", "88.71", "19"],
    "VAE, mean of 5; 50": ["86.47; 86.35", "88.83; 89.05", "20; 20"],
    "IWAE, $K = 5$": ["85.54", "87.63", "22"],
    "IWAE, $K = 50$": ["84.78", "87.10", "25"],
    "2 layers, VAE": ["85.33", "88.08", ""],
    "2 layers, IWAE, $K = 50$": ["82.90", "85.32", ""],
    "IWAE, $K = 50$, Pythae": ["", "86.82", ""],
    "uniform": ["556,312", "1.078"],
    "variational": ["628,388", "1.043"],
    "and multi-scale": ["1,711,818", "1.020"],
}


def test_published_numbers_row_by_row():
    deck = (figures.FOLDER.parent / "lecture7.typ").read_text(encoding="utf-8")
    slide = deck[deck.index('#slide("Published results"') :]
    slide = slide[: slide.index("\n#slide(", 1)]
    found = {}
    for line in re.findall(r"^ +(\[.*\]),$", slide, flags=re.MULTILINE):
        name, *cells = re.findall(r"\[([^\[\]]*)\]", line)
        found[name] = [cell.strip("*") for cell in cells]
    for name, cells in PUBLISHED.items():
        assert found.get(name) == cells, name
    assert "2 nats dynamic, 1.6 static" in slide and "alone: 0.4, none" in slide
    assert round(86.76 - 84.78, 0) == 2 and round(88.71 - 87.10, 1) == 1.6
    assert round(86.76 - 86.35, 1) == 0.4 and 89.05 > 88.71
