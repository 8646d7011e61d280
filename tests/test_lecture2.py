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
    posterior = deck.TWO.posterior(deck.TWO_X)[:, 0]
    assert deck.two_bound(posterior).item() == pytest.approx(log_p)


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
        q = deck.clutter(theta).posterior(deck.CLUTTER)[:, :1]
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


def test_identical_components_stay_identical():
    stuck = S.fit(deck.IRIS, torch.full((150, 3), 1 / 3, dtype=torch.float64), steps=30)
    assert deck.nats_per_flower(stuck) == pytest.approx(deck.scikit_fits()[0].score(deck.IRIS), abs=1e-9)


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
