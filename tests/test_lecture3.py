"""Lecture 3: what its slides claim, by quadrature, simulation and torch's distributions; wrong formulas."""

import math
import re
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import distributions as D
from torch import nn

from dgm_utils import nets, weights
from lectures.lecture2.figures import CURVE_NOISE, curve
from lectures.lecture3 import figures, vae_digits
from tools.definitions import definitions, load
from tools.notebooks import read_notebook

DECK = Path(vae_digits.__file__).with_name("lecture3.typ")
S3 = figures.S3


def normal_mean(f, mean=0.0, std=1.0):
    """Return E f(z) for z ~ N(mean, std²) by quadrature on one grid; f may bend at 0."""
    z = np.linspace(-25, 25, 50_001)
    return np.trapezoid(f(z) * stats.norm.pdf(z, mean, std), z)


# --- Two gaps ---------------------------------------------------------------------------------------------


def test_bound_of_the_curved_model_by_quadrature():
    z = np.linspace(-12, 12, 24_001)
    for x, mean, log_std in (((0.4, 1.1), 0.7, -1.3), ((-1.5, 0.2), -1.2, 0.2)):
        log_q = stats.norm.logpdf(z, mean, np.exp(log_std))
        log_joint = stats.norm.logpdf(x, curve(z), CURVE_NOISE).sum(axis=1) + stats.norm.logpdf(z)
        bound = np.trapezoid(np.exp(log_q) * (log_joint - log_q), z)
        assert figures.curve_bound(np.array(x), mean, log_std) == pytest.approx(bound, abs=1e-6)


def test_no_slide_calls_the_gap_unknown_that_another_computes():
    assert not re.search("never known|unknown gap", DECK.read_text(encoding="utf-8"))


def test_both_gaps_are_positive_and_the_best_gaussian_is_not_beaten():
    _, approximation, amortisation = figures.gap_parts()
    assert approximation.min() > -1e-6 and amortisation.min() > -1e-9
    assert 0 < approximation.mean() < amortisation.mean(), "over the data the encoder costs more"
    for x in (*figures.curve_data()[:40], np.array([0.0, 0.7]), np.array([1.2, 0.1]), np.array([-2.0, 1.5])):
        best, mean, log_std = figures.best_gaussian(x)
        assert best <= figures.curve_log_likelihood(x[None])[0] + 1e-6
        assert best >= figures.curve_bound(x, *figures.encoder(x, figures.fitted_encoder())) - 1e-9
        for shift in (-1e-2, 1e-2):
            assert figures.curve_bound(x, mean + shift, log_std) < best
            assert figures.curve_bound(x, mean, log_std + shift) < best


# --- Two gradient estimators ------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [np.sin, lambda z: z**3 - z, lambda z: np.maximum(z, 0), np.abs])
def test_both_gradient_identities(h):
    step, mean, std = 1e-4, 0.7, 1.3
    by_mean = (normal_mean(h, mean + step, std) - normal_mean(h, mean - step, std)) / (2 * step)
    by_std = (normal_mean(h, mean, std + step) - normal_mean(h, mean, std - step)) / (2 * step)

    def slope(noise):
        z = mean + std * noise
        return (h(z + 1e-6) - h(z - 1e-6)) / 2e-6

    def scored(z, baseline=0):
        return (h(z) - baseline) * (z - mean) / std**2

    for baseline in (0, 5.5):  # a baseline changes no mean
        assert normal_mean(partial(scored, baseline=baseline), mean, std) == pytest.approx(by_mean, abs=1e-5)
    score = normal_mean(lambda z: h(z) * ((z - mean) ** 2 / std**3 - 1 / std), mean, std)
    assert score == pytest.approx(by_std, abs=1e-5)
    assert normal_mean(slope) == pytest.approx(by_mean, abs=1e-3)
    assert normal_mean(lambda noise: slope(noise) * noise) == pytest.approx(by_std, abs=1e-3)


def test_the_score_function_needs_no_slope():
    mean, std = 0.7, 1.3
    jump = normal_mean(lambda z: (z > 0) * (z - mean) / std**2, mean, std)
    assert jump == pytest.approx(stats.norm.pdf(0, mean, std), abs=1e-3)


@pytest.mark.parametrize(("d", "mean", "std"), [(1, 0.3, 0.5), (2, -1.1, 0.8), (3, 0.6, 1.7)])
def test_variances_by_quadrature_in_every_coordinate(d, mean, std):
    points, weights = np.polynomial.hermite_e.hermegauss(8)  # exact for these polynomials
    weights = weights / weights.sum()
    noise = np.stack(np.meshgrid(*[points] * d, indexing="ij"), axis=-1).reshape(-1, d)
    chance = np.stack(np.meshgrid(*[weights] * d, indexing="ij"), axis=-1).reshape(-1, d).prod(axis=1)
    h = ((mean + std * noise) ** 2).sum(axis=1) / 2
    for baseline in (False, True):
        estimate = (h - baseline * (chance @ h)) * noise[:, 0] / std
        variance = figures.score_variance(d, mean, std, baseline=baseline)
        assert chance @ estimate == pytest.approx(mean)
        assert chance @ estimate**2 - mean**2 == pytest.approx(variance)


@pytest.mark.parametrize(("d", "mean", "std"), [(1, 0.0, 1.0), (3, -0.4, 0.6), (10, 1.0, 1.0)])
def test_simulated_estimates_are_unbiased_and_have_these_variances(d, mean, std):
    drawn = figures.gradient_samples(d, 400_000, mean, std, seed=3)
    score = [figures.score_variance(d, mean, std, baseline=baseline) for baseline in (False, True)]
    for values, variance in zip(drawn, (*score, std**2), strict=True):
        assert values.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / len(values)))
        assert values.var() == pytest.approx(variance, rel=0.05)


def test_variance_grows_as_the_square_of_the_dimension():
    assert figures.score_variance(1000) / 1000**2 == pytest.approx(1, rel=0.02)
    assert figures.score_variance(1000, baseline=True) / 1000 == pytest.approx(1.5, rel=0.02)


def test_variances_of_a_wave():
    for k in (0.3, 1.0, 2.5, 4.0):
        score, path = figures.wave_variances(k)
        truth = k * np.exp(-(k**2) / 2)
        assert normal_mean(lambda z, k=k: k * np.cos(k * z)) == pytest.approx(truth)
        assert normal_mean(lambda z, k=k: (np.sin(k * z) * z) ** 2) - truth**2 == pytest.approx(score)
        assert normal_mean(lambda z, k=k: (k * np.cos(k * z)) ** 2) - truth**2 == pytest.approx(path)
    k = np.linspace(0.05, 8, 400)
    score, path = figures.wave_variances(k)
    assert ((score > path) == (k < figures.wave_crossing())).all(), "they cross once"


def test_backpropagation_gives_the_reparametrised_estimate():
    mean = torch.full((5,), 0.4, dtype=torch.float64, requires_grad=True)
    z = mean + 1.3 * torch.randn(5, dtype=torch.float64)
    (z.square().sum() / 2).backward()
    assert torch.allclose(mean.grad, z)


def test_quantile_of_the_exponential():
    noise = np.linspace(0.01, 0.99, 9)
    for rate in (0.5, 2.0):
        assert stats.expon.cdf(-np.log1p(-noise) / rate, scale=1 / rate) == pytest.approx(noise)


@pytest.mark.parametrize("shape", [0.4, 2.0, 7.5])
def test_implicit_slope_of_the_gamma_quantile(shape):
    noise, step = np.linspace(0.05, 0.95, 7), 1e-6
    z = special.gammaincinv(shape, noise)
    slope = (special.gammaincinv(shape + step, noise) - special.gammaincinv(shape - step, noise)) / (2 * step)
    by_shape = (special.gammainc(shape + step, z) - special.gammainc(shape - step, z)) / (2 * step)
    assert -by_shape / stats.gamma.pdf(z, shape) == pytest.approx(slope, rel=1e-4)


def test_a_bernoulli_draw_has_slope_zero_and_the_score_function_is_right():
    probability, h = 0.3, np.array([2.0, 5.0])
    noise = (np.arange(1000) + 0.5) / 1000
    draws = [(noise < probability + step).astype(int) for step in (-1e-5, 1e-5)]
    assert (draws[0] == draws[1]).all(), "a small step moves no draw: the slope is zero"
    score = np.array([-1 / (1 - probability), 1 / probability])
    chance = np.array([1 - probability, probability])
    assert chance @ (h * score) == pytest.approx(h[1] - h[0])
    assert chance @ score == pytest.approx(0)


def test_variance_of_the_doubly_stochastic_gradient():
    gradients, noise, batch = np.array([0.3, -1.2, 2.0, 0.7, 5.0]), np.array([0.5, 1.0, 0.2, 2.0, 0.1]), 2
    n = len(gradients)
    among_batches = n**2 / batch * (1 - batch / n) * gradients.var(ddof=1)
    formula = among_batches + n / batch * (noise**2).sum()
    means = [n / batch * gradients[list(rows)].sum() for rows in combinations(range(n), batch)]
    assert np.mean(means) == pytest.approx(gradients.sum())
    assert np.var(means) == pytest.approx(among_batches)
    rng = np.random.default_rng(0)
    rows = rng.random((200_000, n)).argsort(axis=1)[:, :batch]
    drawn = n / batch * (gradients[rows] + noise[rows] * rng.normal(size=rows.shape)).sum(axis=1)
    assert drawn.mean() == pytest.approx(gradients.sum(), abs=5 * np.sqrt(formula / 200_000))
    assert drawn.var() == pytest.approx(formula, rel=0.02)


def test_the_gradient_theorems_ask_for_one_neighbourhood_for_all_draws():
    source = DECK.read_text(encoding="utf-8")
    for title in ("gradient in θ is easy", "score-function identity", "reparametrisation theorem"):
        slide = source[source.index(f'#slide("The {title}"') :].split("#slide(")[1]
        assert re.search(r"neighbourhood[^.;]*\*that is one for all", slide), title
    phi, step = 0.3, 1e-3
    # z ~ U[φ, φ+1], h(z) = z: for almost every z the density is flat near φ, so that its score is zero.
    z = phi + (np.arange(1000) + 0.5) / 1000
    density = [stats.uniform.pdf(z, phi + shift) for shift in (-1e-6, 0, 1e-6)]
    assert (density[0] == density[1]).all() and (density[1] == density[2]).all()
    means = [stats.uniform.mean(phi + shift) for shift in (-step, step)]
    assert (means[1] - means[0]) / (2 * step) == pytest.approx(1), "the score identity would say 0"
    # h = [φ + ε > 0]: for almost every ε it is flat near φ, but its mean moves.
    noise = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    assert ((phi + 1e-6 + noise > 0) == (phi - 1e-6 + noise > 0)).all()
    moved = (stats.norm.cdf(phi + step) - stats.norm.cdf(phi - step)) / (2 * step)
    assert moved == pytest.approx(stats.norm.pdf(phi), rel=1e-4) and moved > 0.3
    # A neighbourhood for all draws does not exist: the flat piece shrinks as ε nears -φ.
    assert np.abs(phi + noise).min() < 1e-2


# --- The variational autoencoder --------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.8, 0.4), (-1.5, 2.0)])
def test_kl_of_normals_line_by_line(mean, std):
    log_q = normal_mean(lambda z: stats.norm.logpdf(z, mean, std), mean, std)
    log_p = normal_mean(stats.norm.logpdf, mean, std)
    assert log_q == pytest.approx(-(np.log(2 * np.pi) + np.log(std**2) + 1) / 2)
    assert log_p == pytest.approx(-(np.log(2 * np.pi) + mean**2 + std**2) / 2)


def test_mass_of_the_bernoulli_formula_on_grey_values():
    for probability in (0.02, 0.3, 0.5, 0.77, 0.999):
        mass, _ = integrate.quad(lambda x, p=probability: p**x * (1 - p) ** (1 - x), 0, 1)
        assert figures.bce_mass(probability) == pytest.approx(mass)
        flat = D.ContinuousBernoulli(torch.tensor(probability, dtype=torch.float64))
        grey = torch.tensor(0.3, dtype=torch.float64)
        formula = D.Bernoulli(flat.probs, validate_args=False).log_prob(grey)
        assert (formula - flat.log_prob(grey)).item() == pytest.approx(np.log(mass), abs=1e-6)
    assert figures.bce_mass(np.linspace(0.001, 0.999, 999)).max() <= 0.5 + 1e-12


def test_the_bernoulli_formula_on_grey_values_bounds_the_mean_over_binary_draws():
    z = np.linspace(-8, 8, 4001)  # a VAE of two pixels and a one-dimensional code
    pixels = special.expit(np.stack([1.5 * z - 0.3, -2 * z + 0.5]))
    grey, q = np.array([0.2, 0.9]), D.Normal(0.4, 0.7)
    formula = grey @ np.log(pixels) + (1 - grey) @ np.log1p(-pixels)
    kl = D.kl_divergence(q, D.Normal(0.0, 1.0)).item()
    bound = np.trapezoid(stats.norm.pdf(z, 0.4, 0.7) * formula, z) - kl
    drawn, mean_log_p = 0.0, 0.0
    for bits in np.array(list(product((0, 1), repeat=2))):
        chance = stats.bernoulli.pmf(bits, grey).prod()
        likelihood = stats.bernoulli.pmf(bits[:, None], pixels).prod(axis=0)
        drawn = drawn + chance * np.log(likelihood)
        mean_log_p += chance * np.log(np.trapezoid(stats.norm.pdf(z) * likelihood, z))
    assert drawn == pytest.approx(formula), "it is the mean over binary draws"
    assert bound < mean_log_p


def test_a_fixed_sigma_is_a_hidden_beta_and_the_best_is_the_mean_square():
    rng = np.random.default_rng(1)
    x, decoded, kl, m = rng.normal(size=(50, 3)), rng.normal(size=(50, 3)), 2.0, 3
    squares = ((x - decoded) ** 2).sum(axis=1).mean()

    def negative(noise):
        return -stats.norm.logpdf(x, decoded, np.sqrt(noise)).sum(axis=1).mean() + kl

    for noise in (0.3, 2.0):
        scaled = squares / 2 + noise * kl
        assert negative(noise) * noise == pytest.approx(scaled + noise * m / 2 * np.log(2 * np.pi * noise))
    best = squares / m
    assert negative(best) == pytest.approx(m / 2 * (np.log(2 * np.pi * best) + 1) + kl)
    assert negative(best) < min(negative(0.9 * best), negative(1.1 * best))


# --- What is the best ELBO? -------------------------------------------------------------------------------


def iris_spectrum():
    return np.linalg.eigvalsh(np.cov(figures.IRIS.T.numpy(), bias=True))[::-1]


@pytest.mark.parametrize("d", [1, 2, 3])
def test_value_of_the_likelihood_by_eigenvalues(d):
    values, model = iris_spectrum(), S3.ppca_closed_form(figures.IRIS, d)
    noise = figures.learned_noise(values, d)
    log_p = model.log_prob(figures.IRIS).mean().item()
    assert model.variance.item() == pytest.approx(noise)
    assert figures.fixed_noise_log_likelihood(values, d, noise) == pytest.approx(log_p)
    by_values = np.log(values[:d]).sum() + (4 - d) * np.log(noise) + 4 * np.log(2 * np.pi) + 4
    assert -by_values / 2 == pytest.approx(log_p)
    covariance = model.posterior(figures.IRIS[:1]).covariance_matrix[0].numpy()
    assert np.linalg.eigvalsh(covariance) == pytest.approx(noise / values[:d]), "tight for a diagonal encoder"
    assert covariance == pytest.approx(np.diag(np.diag(covariance)), abs=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.9, np.pi / 4])
def test_gap_of_the_diagonal_encoder_is_hadamards(angle):
    model, best = figures.turned_ppca(angle), S3.ppca_closed_form(figures.IRIS, 2)
    log_p = model.log_prob(figures.IRIS)
    torch.testing.assert_close(log_p, best.log_prob(figures.IRIS))
    (first, second), c, s = iris_spectrum()[:2], np.cos(angle) ** 2, np.sin(angle) ** 2
    precisions = (first * c + second * s) * (first * s + second * c)
    gap = (np.log(precisions) - np.log(first * second)) / 2
    assert log_p.mean().item() - figures.diagonal_elbo(model) == pytest.approx(gap, abs=1e-9)


@pytest.mark.parametrize("noise", [0.003, 0.05, 0.5, 3.0])
def test_a_fixed_noise_keeps_the_directions_above_it(noise):
    values = np.array([2.0, 0.9, 0.4, 0.1, 0.02])
    best = figures.fixed_noise_log_likelihood(values, 3, noise)
    for kept in ([], [0], [0, 1], [0, 2], [1, 2], [0, 1, 2], [0, 1, 3]):
        if values[kept].min(initial=np.inf) <= noise:
            continue
        variances = np.full(5, noise)
        variances[kept] = values[kept]
        other = -(np.log(2 * np.pi * variances) + values / variances).sum() / 2
        assert other <= best + 1e-12
    learned = figures.learned_noise(values, 3)
    assert best <= figures.fixed_noise_log_likelihood(values, 3, learned)


@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
def test_a_fixed_noise_shrinks_the_principal_directions_by_itself(noise):
    values, vectors = torch.linalg.eigh(torch.cov(figures.IRIS.T, correction=0))
    W = vectors[:, -2:] * (values[-2:] - noise).clamp(min=0).sqrt()
    model = partial(S3.ProbabilisticPCA, figures.IRIS.mean(dim=0), variance=torch.tensor(noise).double())
    best = model(W=W).log_prob(figures.IRIS).mean().item()
    assert best == pytest.approx(figures.fixed_noise_log_likelihood(iris_spectrum(), 2, noise))
    torch.manual_seed(0)
    for _ in range(40):
        near = model(W=W + 0.05 * torch.randn_like(W))
        assert near.log_prob(figures.IRIS).mean() < best + 1e-12


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.7, 1.8, 2.1])
def test_best_elbo_in_the_plane_and_its_split(noise):
    plane = torch.from_numpy(figures.PLANE)
    values, vectors = torch.linalg.eigh(plane)
    assert values.numpy()[::-1] == pytest.approx(figures.PLANE_EIGENVALUES)
    W = vectors * (values - noise).clamp(min=0).sqrt()
    model = S3.ProbabilisticPCA(torch.zeros(2).double(), W, torch.tensor(noise).double())
    root = math.sqrt(2) * torch.linalg.cholesky(plane).T
    x = torch.cat([root, -root])  # four points with mean 0 and covariance Σ: exact for what is quadratic in x
    q = model.posterior(x)
    kl = D.kl_divergence(q, D.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())).mean()
    reconstruction = S3.gaussian_elbo(model, x, q).mean() + kl
    assert figures.best_split(noise) == pytest.approx((reconstruction.item(), kl.item()))
    gap = -figures.PLANE_ENTROPY - np.subtract(*figures.best_split(noise))
    assert gap >= -1e-12
    assert (gap < 1e-12) == (noise <= 0.2), "minus the entropy, up to the smaller eigenvalue"
    if noise <= 0.2:
        by_slide = -np.log(2 * np.pi * np.e * noise), np.log(figures.PLANE_EIGENVALUES / noise).sum() / 2
        assert figures.best_split(noise) == pytest.approx(by_slide)


# --- MLE, MAP, full Bayes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 4, 20])
def test_losses_of_mle_map_and_full_bayes_by_simulation(n):
    rng, repeats, spread = np.random.default_rng(0), 200_000, 1 / (n + 1)
    theta = rng.normal(size=repeats)
    mean = theta + rng.normal(size=repeats) / np.sqrt(n)
    new = theta + rng.normal(size=repeats)
    predictions = {
        "MLE": stats.norm(mean),
        "MAP": stats.norm(n * spread * mean),
        "full Bayes": stats.norm(n * spread * mean, np.sqrt(1 + spread)),
    }
    exact = figures.excess(n)
    for name, prediction in predictions.items():
        lost = (stats.norm.logpdf(new, theta) - prediction.logpdf(new)).mean()
        assert exact[name] == pytest.approx(lost, abs=0.004), name
    assert exact["full Bayes"] < exact["MAP"] < exact["MLE"]


def test_a_narrow_q_has_its_maximum_at_the_map_and_falls_without_end():
    psi = np.linspace(-12, 14, 40_001)
    evidence = np.log(np.trapezoid(np.exp(figures.coin_log_joint(psi)), psi))
    assert np.exp(evidence) == pytest.approx(1 / 5)
    centre = np.linspace(0.3, 1.6, 13_001)
    for spread, tolerance in ((0.2, 0.05), (0.02, 1e-3), (0.001, 2e-4)):
        bound = figures.coin_bound(centre, spread)
        assert bound.max() <= evidence
        peak = centre[bound.argmax()]
        assert special.expit(peak) == pytest.approx(5 / 7, abs=tolerance / 5), "not the 4/5 of theta's ruler"
    fall = figures.coin_bound(0.4, 1e-3) - figures.coin_bound(0.4, 1e-4)
    assert fall == pytest.approx(np.log(10), abs=1e-4)


# --- Drawbacks --------------------------------------------------------------------------------------------


def test_the_best_factorised_decoder_is_the_mean_of_what_shares_a_code():
    rng = np.random.default_rng(0)
    images = (rng.random((6, 5)) < 0.5).astype(float)
    share = rng.dirichlet(np.ones(6))  # q(x|z) for one z
    mean = share @ images

    def bernoulli(decoded):
        terms = special.xlogy(images, decoded) + special.xlog1py(1 - images, -decoded)
        return share @ terms.sum(axis=1)

    def gaussian(decoded):
        return -share @ ((images - decoded) ** 2).sum(axis=1)

    for _ in range(50):
        other = np.clip(mean + 0.1 * rng.normal(size=5), 1e-6, 1 - 1e-6)
        assert bernoulli(other) < bernoulli(np.clip(mean, 1e-12, 1 - 1e-12))
        assert gaussian(other) < gaussian(mean)


def test_a_decoder_that_needs_no_code_pays_for_every_use_of_it():
    rng = np.random.default_rng(0)
    data_law, code = rng.dirichlet(np.ones(4)), np.array([0.5, 0.5])  # p(x|z) = π(x) for both codes
    for encoder_law, unused in ((np.tile(code, (4, 1)), True), (rng.dirichlet(np.ones(2), size=4), False)):
        bound = data_law @ np.log(data_law) - data_law @ special.rel_entr(encoder_law, code).sum(axis=1)
        assert bound <= -stats.entropy(data_law) + 1e-12
        assert (bound >= -stats.entropy(data_law) - 1e-12) == unused


def test_share_of_the_prior_in_holes(monkeypatch):
    axis = np.linspace(-4, 4, 321)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    log_prior = stats.norm.logpdf(first) + stats.norm.logpdf(second)
    log_q = log_prior + np.where(first > 1.0375, np.log(0.09), np.log(0.11))
    monkeypatch.setattr(figures, "stored", lambda: {"log_q": log_q})
    assert figures.prior_mass_in_holes() == pytest.approx(stats.norm.sf(1.0375), abs=1e-3)
    assert figures.prior_mass_in_holes(0.05) == 0
    inside = 1 - np.exp(-(1.0375**2) / 2)  # share of the prior within a radius: there is no hole in it
    assert figures.prior_mass_in_holes(radius=1.0375) == 0 < inside
    assert 0 < figures.prior_mass_in_holes(radius=2) < figures.prior_mass_in_holes()


def test_deck_and_seminar_have_one_threshold_and_one_set():
    holes = DECK.read_text(encoding="utf-8").split('#slide("Holes')[1].split("#slide(")[0]
    assert vae_digits.HOLE == 0.1 and r"prior(z) \/ 10" in holes and "training images" in holes
    (cell,) = [c.source for c in read_notebook(vae_digits.SEMINAR).cells if "hole = aggregate" in c.source]
    assert "prior / 10" in cell


def test_draws_of_the_prior_are_told_apart_by_a_tenth_of_it():
    class Twin(nn.Module):
        def decode(self, z):
            return torch.sigmoid(z)

    mean, std = torch.tensor([[-1.5, 0.0], [1.5, 0.0]]), torch.full((2, 2), 0.4)
    found = vae_digits.holes(Twin(), mean, std)
    prior = D.MultivariateNormal(torch.zeros(2), torch.eye(2))
    for name, low, high in (("hole", -np.inf, np.log(0.1)), ("dense", np.log(0.1), np.inf)):
        z = torch.from_numpy(found[f"{name}_z"])
        ratio = vae_digits.aggregate(z, mean, std) - prior.log_prob(z)
        assert len(z) == 5 and low < ratio.min() and ratio.max() < high
        decoded = torch.from_numpy(found[f"{name}_images"]) / 255
        assert torch.allclose(decoded, torch.sigmoid(z), atol=0.003)
    mass = np.exp(found["log_q"].astype(float)).sum() * 0.025**2
    assert mass == pytest.approx(1, abs=0.01)


# --- Wrong formulas ---------------------------------------------------------------------------------------


def doubled(f, baseline):
    """Return a variance that is a fifth too large, with or without the baseline."""
    return lambda *a, **k: f(*a, **k) * (1.2 if k.get("baseline", False) == baseline else 1)


def encoder_with_marginal_variances(f):
    """Return the diagonal encoder with the posterior's variances in the place of its precisions."""

    def elbo(model):
        posterior = model.posterior(figures.IRIS)
        covariance = torch.diag(posterior.covariance_matrix[0].diagonal())
        q = D.MultivariateNormal(posterior.mean, covariance)
        return S3.gaussian_elbo(model, figures.IRIS, q).mean().item()

    return elbo


@pytest.mark.parametrize(
    ("name", "wrong", "claim"),
    [
        (
            "curve_bound",
            lambda f: lambda x, mean, log_std: f(x, mean, log_std) + 0.1,
            test_bound_of_the_curved_model_by_quadrature,
        ),
        (
            "score_variance",
            partial(doubled, baseline=False),
            partial(test_variances_by_quadrature_in_every_coordinate, 2, -1.1, 0.8),
        ),
        (
            "score_variance",
            partial(doubled, baseline=True),
            partial(test_variances_by_quadrature_in_every_coordinate, 2, -1.1, 0.8),
        ),
        ("wave_variances", lambda f: lambda k: f(k)[::-1], test_variances_of_a_wave),
        ("bce_mass", lambda f: np.ones_like, test_mass_of_the_bernoulli_formula_on_grey_values),
        (
            "learned_noise",
            lambda f: lambda values, d: 1.05 * f(values, d),
            partial(test_value_of_the_likelihood_by_eigenvalues, 2),
        ),
        (
            "diagonal_elbo",
            encoder_with_marginal_variances,
            partial(test_gap_of_the_diagonal_encoder_is_hadamards, 0.9),
        ),
        (
            "best_split",
            lambda f: lambda noise: (f(noise)[0], 1.1 * f(noise)[1]),
            partial(test_best_elbo_in_the_plane_and_its_split, 0.7),
        ),
        (
            "excess",
            lambda f: lambda n: {k: 2 * v for k, v in f(n).items()},
            partial(test_losses_of_mle_map_and_full_bayes_by_simulation, 4),
        ),
        (
            "coin_log_joint",
            lambda f: lambda psi: f(psi) - special.log_expit(psi),
            test_a_narrow_q_has_its_maximum_at_the_map_and_falls_without_end,
        ),
    ],
)
def test_a_wrong_formula_is_found(monkeypatch, name, wrong, claim):
    monkeypatch.setattr(figures, name, wrong(getattr(figures, name)))
    with pytest.raises(AssertionError):
        claim()


# --- The trained models -----------------------------------------------------------------------------------


def test_stored_numbers_of_the_trained_models_fit_together():
    arrays = figures.stored()
    assert arrays["units_kl"].sum() == pytest.approx(arrays["kl_50"], rel=1e-4)
    for d in (2, 50):
        assert arrays[f"bound_first_{d}"] < arrays[f"estimate_first_{d}"] < -45.5
    density = np.exp(arrays["log_q"].astype(float))
    assert density.sum() * 0.025**2 == pytest.approx(1, abs=0.002), "the aggregate posterior is on the grid"
    kl, variance = arrays["units_kl"], arrays["units_variance"]
    low, high = figures.active_range()
    for threshold in (1.01 * low, 0.01, 0.99 * high):
        assert (variance > threshold).sum() == int(figures.numbers()["active"]), "the slide says: the same"
    assert high > 100 * low and kl[variance > 0.01].min() > 0.2 > 0.05 > kl[variance <= 0.01].max()
    mean_square, draw_square = arrays["squares"]
    assert mean_square < draw_square == pytest.approx(50, abs=3), "draws have the norm of the prior's"
    assert arrays["between_squares"].max() < 40, "the whole path is inside the shell of the prior"
    for mean, decoded in zip(arrays["shared_mean"], arrays["shared_decoded"], strict=True):
        assert np.corrcoef(mean.astype(float), decoded.astype(float))[0, 1] > 0.9, (
            "the decoder found the mean"
        )


def test_every_threshold_of_the_printed_range_gives_as_many_active_units(monkeypatch):
    variance = np.array([0.0004, 0.00308, 0.63559, 0.9], dtype=np.float32)
    monkeypatch.setattr(figures, "stored", lambda: {"units_variance": variance})
    assert figures.active_range() == (0.004, 0.635)
    assert all((variance > threshold).sum() == 2 for threshold in figures.active_range())


def test_the_script_loads_what_the_seminar_trains_and_says_how_long(monkeypatch, tmp_path):
    sources = [cell.source for cell in read_notebook(vae_digits.SEMINAR).cells]
    (table,) = [source.split("column =")[0] for source in sources if source.startswith("SETTINGS")]
    settings = {}
    exec(table, settings)
    passes, many, few = (settings["SETTINGS"][name][1] for name in ("passes", "epochs", "map_epochs"))
    assert {2: passes * few, 50: passes * many} == vae_digits.PASSES, (
        "the long profile, of the plane and of d = 50"
    )
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    seminar = load(vae_digits.SEMINAR, "VAE")
    for d, name in vae_digits.WEIGHTS.items():
        assert any(f'weights.save({"vae" if d == 50 else "flat"}, "{name}"' in source for source in sources)
        with pytest.raises(FileNotFoundError):
            vae_digits.trained(seminar, d)
        made = seminar.VAE(nets.mlp(784, 200, 200, 2 * d), nets.mlp(d, 200, 200, 784), d)
        monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path))
        weights.save(made, name)
        loaded = vae_digits.trained(seminar, d)
        torch.testing.assert_close(loaded.decoder[-1].bias, made.decoder[-1].bias.half().float())
        assert not loaded.training


def test_aggregate_posterior_of_the_training_script():
    generator = torch.Generator().manual_seed(0)
    z, mean = torch.randn(70, 2, generator=generator), torch.randn(5, 2, generator=generator)
    std = torch.rand(5, 2, generator=generator) + 0.2
    each = D.Independent(D.Normal(mean, std), 1)
    exact = D.MixtureSameFamily(D.Categorical(torch.ones(5)), each).log_prob(z)
    assert torch.allclose(vae_digits.aggregate(z, mean, std), exact, atol=1e-5)


def test_the_grid_holds_all_of_the_aggregate_posterior():
    mean, std = torch.tensor([[0.03, -1.0], [0.7, 0.52]]), torch.tensor([[0.025, 0.3], [0.2, 0.05]])
    log_q = vae_digits.aggregate_on_grid(mean, std)
    assert log_q.exp().sum() * 0.025**2 == pytest.approx(1, abs=1e-3), (
        "the narrowest code of the plane has 0.012"
    )
    centres = torch.cartesian_prod(vae_digits.GRID, vae_digits.GRID)  # z_1 in rows
    exact = vae_digits.aggregate(centres, mean, std).reshape(321, 321).exp()
    assert torch.allclose(log_q.exp(), exact, atol=1e-5)


def test_bound_and_estimate_of_the_training_script(monkeypatch):
    seminar = load(vae_digits.SEMINAR, "VAE", "negative_elbo")
    torch.manual_seed(0)
    model = seminar.VAE(nn.Linear(4, 2), nn.Linear(1, 4), 1).double()
    images = torch.bernoulli(torch.full((40, 4), 0.5).double())
    monkeypatch.setattr(vae_digits, "ESTIMATED", 40)
    with torch.no_grad():
        found = vae_digits.judge(seminar, model, images)
        z = torch.linspace(-9, 9, 4001).double()[:, None]
        normal = D.Normal(torch.zeros(()).double(), torch.ones(()).double())
        log_likelihood = model.log_likelihood(images, z[:, None].expand(-1, 40, 1))
        joint = (log_likelihood + normal.log_prob(z)).exp()  # (4001, 40)
        log_p = torch.trapezoid(joint, z[:, 0], dim=0).log()
        mean, std = model.posterior(images)
        q = D.Normal(mean[:, 0], std[:, 0]).log_prob(z).exp()
        gap = D.Normal(mean[:, 0], std[:, 0]).log_prob(z) - (joint.log() - log_p)
        elbo = log_p - torch.trapezoid(q * gap, z[:, 0], dim=0)
    assert elbo.mean() < log_p.mean() - 0.01, "a poor encoder, so that the two differ"
    assert found["bound_first"] == pytest.approx(elbo.mean().item(), abs=0.03)
    assert found["estimate_first"] == pytest.approx(log_p.mean().item(), abs=0.01)
    assert found["reconstruction"] - found["kl"] == pytest.approx(elbo.mean().item(), abs=0.5)


def test_images_that_all_share_one_code():
    class OneCode(nn.Module):
        def posterior(self, x):
            return torch.zeros(len(x), 2), torch.ones(len(x), 2)

        def decode(self, z):
            return torch.full((len(z), 6), 0.25)

    x = torch.bernoulli(torch.full((80, 6), 0.3), generator=torch.Generator().manual_seed(0))
    found = vae_digits.shared_codes(OneCode(), x, torch.zeros(80, dtype=torch.long))
    assert found["shared_size"] == pytest.approx([80.0] * 3, rel=1e-4)
    assert found["shared_mean"] == pytest.approx(np.tile(255 * x.mean(dim=0).numpy(), (3, 1)), abs=0.51)


def test_slides_name_cells_and_parts_of_the_seminar_that_exist():
    source = DECK.read_text(encoding="utf-8")
    notebook = read_notebook(vae_digits.SEMINAR)
    headings, part = {}, "0"
    for cell in notebook.cells:
        for heading in re.findall(r"^#{2,3} (.*)", cell.source, re.M) if cell.cell_type == "markdown" else []:
            part = "at home" if heading == "At home" else heading[0] if re.match(r"\d\. ", heading) else part
            headings.setdefault(part, []).append(heading)
    cells = re.findall(r"`def:(\w+)`", source)
    assert cells and set(cells) <= set(definitions(notebook, vae_digits.SEMINAR))
    named = re.findall(r'[Ss]eminar 3, (?:part )?(\d|at home)(?: "([^"]+)")?', source)
    assert len(named) > 6
    for number, title in named:
        assert any(title in heading for heading in headings[number]), f"part {number}: no heading {title!r}"
