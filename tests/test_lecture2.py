"""What lecture 2 claims is true: its numbers and pictures against other formulas and against simulation."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import special, stats

from lectures.lecture2 import figures as deck

S = deck.S


# ---- Bayes' theorem ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "heads", "n"), [(2, 2, 3, 3), (1, 1, 0, 4), (0.7, 3.1, 12, 30)])
def test_the_posterior_of_a_coin_is_a_beta_and_its_mean_a_weighted_mean(a, b, heads, n):
    theta = np.linspace(0.005, 0.995, 991)
    likelihood_times_prior = theta**heads * (1 - theta) ** (n - heads) * stats.beta.pdf(theta, a, b)
    evidence = special.beta(a + heads, b + n - heads) / special.beta(a, b)
    posterior = deck.coin(heads, n, a, b)
    assert np.allclose(likelihood_times_prior / evidence, posterior.pdf(theta))
    weight = (a + b) / (a + b + n)
    assert posterior.mean() == pytest.approx(weight * a / (a + b) + (1 - weight) * heads / n)


def test_three_heads():
    assert special.beta(5, 2) / special.beta(2, 2) == pytest.approx(0.2)  # their evidence under Beta(2, 2)
    assert deck.coin(3, 3).mean() == pytest.approx(5 / 7)
    assert stats.betabinom.pmf(2, 2, *deck.coin(3, 3).args) == pytest.approx(15 / 28)


def test_the_mode_moves_with_the_coordinate():
    theta = np.linspace(0.001, 0.999, 99_801)
    for mode, (value, density) in zip((0.8, 5 / 7, 3 / 4), deck.coordinates(theta).values(), strict=True):
        assert theta[density.argmax()] == pytest.approx(mode, abs=1e-4)
        assert np.trapezoid(density, value) == pytest.approx(1, abs=1e-4)


def test_the_distance_to_the_normal_limit():
    distances = [deck.distance_to_normal(n, 12, 3) for n in (1600, 6400, 25_600)]
    assert np.allclose(np.diff(np.log(distances)), -np.log(2), atol=0.08)  # it halves as n grows by 4
    posterior, normal = deck.coin(3, 10, 12, 3), stats.norm(0.3, np.sqrt(0.021))
    x = np.linspace(-1, 2, 300_001)
    apart = np.trapezoid(np.maximum(posterior.pdf(x) - normal.pdf(x), 0), x)
    assert deck.distance_to_normal(10, 12, 3) == pytest.approx(apart, abs=1e-4)


def test_a_pareto_prior_of_a_uniform_is_conjugate():
    """U[0, theta] of lecture 1 is no exponential family: its support moves."""
    x, scale, shape = np.array([0.7, 2.9, 1.4, 2.2]), 1.5, 2.0
    theta = np.linspace(0.5, 40, 400_001)
    likelihood = np.where(theta >= x.max(), theta ** -float(len(x)), 0)
    product = likelihood * stats.pareto.pdf(theta, shape, scale=scale)
    posterior = stats.pareto.pdf(theta, shape + len(x), scale=max(scale, x.max()))
    assert np.allclose(product / np.trapezoid(product, theta), posterior, atol=1e-3)


def test_total_variation_does_not_hold_the_map():
    """A spike with a hundredth of the mass: total variation 0.01, and the highest point is 5 units away."""
    theta = np.linspace(-8, 8, 1_600_001)
    normal = stats.norm.pdf(theta)
    density = 0.99 * normal + 0.01 * stats.norm.pdf(theta, 5, 1e-3)
    assert np.trapezoid(np.abs(density - normal), theta) / 2 == pytest.approx(0.01, abs=1e-4)
    assert theta[density.argmax()] == pytest.approx(5, abs=1e-3) and theta[normal.argmax()] == pytest.approx(
        0
    )


# ---- latent variables, and the bound -----------------------------------------------------------------------


def test_the_density_of_the_curve_integrates_to_one():
    side, z = np.linspace(-6, 12, 91), np.linspace(-5, 5, 201)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.trapezoid(deck.curve_joint(grid, z), z, axis=1).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=2e-3)  # some lies outside


def test_both_forms_of_the_bound_and_its_gap():
    """Energy plus entropy; reconstruction minus KL to the prior; log p minus KL to the posterior."""
    q = np.linspace(0.01, 0.99, 99)
    both, weights = np.stack([q, 1 - q]), np.array([[0.6], [0.4]])
    log_decoder = stats.norm.logpdf(1, [[0.0], [2.5]])
    log_joint = np.log(weights) + log_decoder
    log_p = special.logsumexp(log_joint)
    bound = deck.two_bound(torch.from_numpy(q))
    assert np.allclose(bound, (both * log_joint + special.entr(both)).sum(axis=0))
    assert np.allclose(bound, (both * log_decoder - special.rel_entr(both, weights)).sum(axis=0))
    assert np.allclose(bound, log_p - special.rel_entr(both, np.exp(log_joint - log_p)).sum(axis=0))
    posterior = S.e_step(deck.TWO, deck.TWO_X)[:, 0]
    assert deck.two_bound(posterior).item() == pytest.approx(log_p)


def test_the_gap_of_the_prior_is_not_that_of_one_half():
    printed = deck.numbers()
    prior, half, log_p = deck.TWO.weights[0].item(), 0.5, deck.TWO.log_prob(deck.TWO_X).item()
    assert prior == pytest.approx(0.6)
    for q, name in ((prior, "two_gap_prior"), (half, "two_gap")):
        posterior = S.e_step(deck.TWO, deck.TWO_X)[0].numpy()
        assert stats.entropy([q, 1 - q], posterior) == pytest.approx(printed[name], abs=5e-3)
        assert log_p - deck.two_bound(torch.tensor([q]).double()).item() == pytest.approx(
            printed[name], abs=5e-3
        )


def test_the_error_of_monte_carlo_is_printed_to_its_standard_error():
    """Two hundred runs said -11.7; other dice, 2,000 runs, say what the 4,000 of the slide say."""
    mean, error = deck.monte_carlo_bias()
    generator, runs = torch.Generator().manual_seed(7), []
    for _ in range(2000):
        z = torch.randn(1000, 20, generator=generator, dtype=torch.float64)
        runs.append(torch.distributions.Normal(z, 0.5).log_prob(S.typical).sum(dim=1).logsumexp(dim=0))
    other = torch.stack(runs) - np.log(1000) - 20 * S.log_p_each
    assert error < 0.1 and mean == pytest.approx(other.mean().item(), abs=0.25)


@pytest.mark.parametrize("name", deck.PROPOSALS)
def test_the_bound_is_the_mean_of_log_importance_weights(name):
    q, log_p = deck.PROPOSALS[name], deck.LOG_P
    assert log_p == pytest.approx(5 * stats.norm.logpdf(np.sqrt(1.25), 0, np.sqrt(1.25)))
    bound, log_w = deck.importance_bound(q), deck.log_importance_weights(q, 20_000, 10)
    ten = (log_w.logsumexp(dim=1) - np.log(10)).mean().item()
    assert log_w.mean().item() == pytest.approx(bound, abs=0.06)
    assert bound - 1e-9 <= ten + 0.01 and ten <= log_p + 1e-9
    assert log_w.flatten().logsumexp(dim=0).item() - np.log(log_w.numel()) == pytest.approx(log_p, abs=0.1)
    assert (name == "posterior") == np.allclose(log_w, log_p)  # then every weight is p(x)


def test_fishers_identity():
    for theta in (-4.0, -0.3, 1.7):
        slope = (deck.clutter_log_p(theta + 1e-5) - deck.clutter_log_p(theta - 1e-5)) / 2e-5
        q = S.e_step(deck.clutter(theta), deck.CLUTTER)[:, :1]
        assert slope == pytest.approx((q * (deck.CLUTTER - theta)).sum().item(), abs=1e-6)


# ---- EM ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [-3.0, 0.6, 2.0])
def test_a_bound_of_em_touches_lies_below_and_is_maximised(old):
    theta = np.linspace(-6, 6, 301)
    likelihood = np.array([deck.clutter_log_p(each) for each in theta])
    bound = np.array([deck.clutter_bound(each, old) for each in theta])
    signal, noise = stats.norm.pdf(deck.CLUTTER, theta, 1), stats.norm.pdf(deck.CLUTTER, 0, 6)  # (10, 301)
    assert np.allclose(likelihood, np.log(signal / 2 + noise / 2).sum(axis=0))
    assert deck.clutter_bound(old, old) == pytest.approx(deck.clutter_log_p(old))
    assert (bound <= likelihood + 1e-9).all()
    assert theta[bound.argmax()] == pytest.approx(deck.clutter_path(old, 1)[1], abs=0.021)


def test_the_trace_on_iris():
    """The seminar tests its steps; scikit-learn 1.9.1 reaches these values from the same start."""
    _, trace = deck.iris_em()
    scikit = [-1.6782940789, -1.3928072463, -1.2728731409, -1.2310266776, -1.2012365172]
    assert [trace[n - 1]["log p"] for n in deck.SHOWN] == pytest.approx(scikit, abs=2e-9)
    for before, after in pairwise(trace):
        assert after["bound after E"] == pytest.approx(before["log p"], abs=1e-12)
        assert after["bound after M"] + after["KL after M"] == pytest.approx(after["log p"], abs=1e-10)


def test_em_on_iris_is_fast_then_on_a_plateau_then_fastest():
    share = [None, *(deck.contraction(step) for step in range(1, 21))]
    printed = [float(each) for each in deck.numbers()["contraction"]]
    assert printed == pytest.approx([share[2], min(share[4:12]), max(share[4:12]), share[18]], abs=5e-3)
    assert max(share[17:21]) < share[2] < min(share[4:12])
    assert share[17:21] == pytest.approx([printed[3]] * 4, abs=7e-3)


def test_identical_components_stay_identical():
    stuck = S.fit(deck.IRIS, torch.full((150, 3), 1 / 3, dtype=torch.float64), steps=30)
    assert deck.nats_per_flower(stuck) == pytest.approx(deck.scikit_fits()[0].score(deck.IRIS), abs=1e-9)


def test_four_components_have_a_better_regular_fit_than_the_best_of_ten_starts():
    fit, best_of_ten = deck.better_regular(), deck.scikit_fits()[3].score(deck.IRIS)
    assert fit.score(deck.IRIS) > best_of_ten + 0.03
    smallest = [np.linalg.eigvalsh(covariance)[0] for covariance in fit.covariances_]
    assert min(smallest) > 1e-3  # a thousand times the floor: nothing has become flat
    assert fit.bic(deck.IRIS) > deck.scikit_fits()[1].bic(deck.IRIS)  # BIC still prefers two


def test_bic_counts_the_free_numbers_of_the_table():
    for c, model in enumerate(deck.scikit_fits(), start=1):
        total = 150 * model.score(deck.IRIS)
        assert model.bic(deck.IRIS) == pytest.approx(-2 * total + (15 * c - 1) * np.log(150))


def test_a_component_on_one_point_raises_the_likelihood_without_end():
    mean, covariance = deck.IRIS.mean(dim=0), torch.cov(deck.IRIS.T, correction=0)
    totals = []
    for variance in (1e-8, 1e-10, 1e-12):
        narrow = variance * torch.eye(4, dtype=torch.float64)
        means, covariances = torch.stack([mean, deck.IRIS[0]]), torch.stack([covariance, narrow])
        mixture = S.GaussianMixture(torch.full((2,), 0.5).double(), means, covariances)
        totals.append(150 * deck.nats_per_flower(mixture))
    assert np.allclose(np.diff(totals), 4 / 2 * np.log(100), atol=1e-3)  # m/2 log(1/variance)


def test_a_component_with_29_equal_petal_widths_becomes_flat():
    assert (deck.IRIS[:50, 3] == 0.2).sum() == 29  # the setosas come first
    flat = deck.flat_fit(1e-6)
    assert deck.nats_per_flower(flat) == pytest.approx(-0.4333434, abs=1e-6)
    assert flat.weights.min().item() == pytest.approx(0.1407303, abs=1e-6)
    assert torch.linalg.eigvalsh(flat.covariances[3])[0].item() == pytest.approx(1e-6, rel=1e-3)
