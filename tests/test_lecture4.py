"""What lecture 4 claims: mean field, Bayesian mixtures, k-means, two KL divergences, change of variables."""

import json
import re

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from sklearn.cluster import KMeans
from sklearn.mixture import BayesianGaussianMixture

from dgm_utils import checks
from lectures.lecture4 import figures, trained_flows

SEEDS = range(5)


def random_covariance(rng, d):
    root = rng.normal(size=(d, d))
    return root @ root.T + 0.2 * np.eye(d)


def test_formulas_of_lecture_4_hold():
    figures.check()


# --- Mean field ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("d", [2, 3, 6])
def test_mean_field_of_a_gaussian_is_the_minimum_of_the_reverse_kl(seed, d):
    rng = np.random.default_rng(seed)
    covariance, mean = random_covariance(rng, d), rng.normal(size=d)
    variances, gap = figures.mean_field_gaussian(covariance)

    def kl(u):
        return figures.gaussian_kl(u[:d], np.diag(np.exp(u[d:])), mean, covariance)

    found = optimize.minimize(kl, np.r_[mean + 1, np.zeros(d)], method="BFGS", options={"gtol": 1e-9})
    assert found.x[:d] == pytest.approx(mean, abs=1e-4)
    assert np.exp(found.x[d:]) == pytest.approx(variances, rel=1e-4)
    assert found.fun == pytest.approx(gap, abs=1e-8)
    assert (variances <= np.diag(covariance) + 1e-12).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_gaussian_kl_against_torch(seed):
    rng = np.random.default_rng(seed)
    first, second = (
        torch.distributions.MultivariateNormal(
            torch.as_tensor(rng.normal(size=3)), torch.as_tensor(random_covariance(rng, 3))
        )
        for _ in range(2)
    )
    ours = figures.gaussian_kl(
        first.mean.numpy(),
        first.covariance_matrix.numpy(),
        second.mean.numpy(),
        second.covariance_matrix.numpy(),
    )
    assert ours == pytest.approx(torch.distributions.kl_divergence(first, second).item(), abs=1e-10)


@pytest.mark.parametrize("rho", [-0.95, -0.4, 0.0, 0.7])
def test_a_sweep_shrinks_the_error_by_rho_squared(rho):
    path = figures.cavi_path(np.array([1.0, -2.0]), figures.correlated(rho), np.array([3.0, 3.0]), 5)
    errors = path[2::2] - np.array([1.0, -2.0])
    assert errors[1:] == pytest.approx(rho**2 * errors[:-1], abs=1e-12)


def test_a_table_is_the_reference_for_the_best_factor():
    rng = np.random.default_rng(3)
    log_joint, q2 = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(3))
    best = optimize.minimize(
        lambda u: -figures.table_elbo(special.softmax(u), q2, log_joint), np.zeros(4), method="BFGS"
    )
    assert special.softmax(best.x) == pytest.approx(special.softmax(log_joint @ q2), abs=1e-4)


# --- A Bayesian mixture ----------------------------------------------------------------------------------


def any_prior(components, d):
    return figures.prior_beliefs(components, 0.4, 0.7, np.zeros(d), np.eye(d))


@pytest.mark.parametrize("seed", SEEDS)
def test_cavi_never_lowers_the_bound_and_parameters_cannot_be_improved(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 2)) * [1, 2] + rng.integers(0, 2, size=(60, 1)) * 4
    prior = any_prior(3, 2)
    run = figures.mixture_cavi(x, rng.dirichlet(np.ones(3), size=60), prior)
    bounds = [bound for _ in range(40) for bound in next(run).bounds]
    assert np.diff(bounds).min() > -1e-9
    sweep = next(run)
    beliefs = figures.update_beliefs(x, sweep.r, prior)
    top = figures.mixture_elbo(x, sweep.r, beliefs, prior)
    for name, value in beliefs._asdict().items():
        for factor in (0.95, 1.05):
            other = beliefs._replace(**{name: value * factor})
            assert figures.mixture_elbo(x, sweep.r, other, prior) < top, name
    shifted = special.softmax(np.log(sweep.r + 1e-12) + 0.1 * rng.normal(size=sweep.r.shape), axis=1)
    assert figures.mixture_elbo(x, shifted, beliefs, prior) < figures.mixture_elbo(
        x, special.softmax(figures.expected_log_joint(x, beliefs), axis=1), beliefs, prior
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_points_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(50, 3)), rng.normal(size=(70, 3)) * 0.5 + [3, 0, -2]])
    model = BayesianGaussianMixture(
        n_components=4,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.4,
        mean_precision_prior=0.7,
        mean_prior=np.zeros(3),
        degrees_of_freedom_prior=3.0,
        covariance_prior=np.eye(3),
        reg_covar=0,
        tol=1e-13,
        max_iter=5000,
        random_state=seed,
    ).fit(x)
    theirs = figures.Beliefs(
        model.weight_concentration_,
        model.mean_precision_,
        model.means_,
        model.degrees_of_freedom_,
        model.covariances_ * model.degrees_of_freedom_[:, None, None],
    )
    r = special.softmax(figures.expected_log_joint(x, theirs), axis=1)
    assert r == pytest.approx(model.predict_proba(x), abs=1e-9)
    ours = figures.update_beliefs(x, r, any_prior(4, 3))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=2e-3, abs=2e-3)


def test_the_prior_keeps_every_component_from_collapsing():
    x = np.zeros((20, 2))  # all objects in one place: EM's covariance would be singular
    prior = any_prior(2, 2)
    beliefs = figures.update_beliefs(x, np.full((20, 2), 0.5), prior)
    for scale, before in zip(beliefs.scale_inverse, prior.scale_inverse, strict=True):
        assert np.linalg.eigvalsh(scale - before).min() > -1e-12


def test_components_die_under_a_sparse_prior_only():
    x = figures.three_groups()
    ends = {}
    for alpha in (0.01, 30.0):
        prior = figures.prior_beliefs(10, alpha, 1.0, x.mean(axis=0), 0.3 * np.eye(2))
        run = figures.mixture_cavi(x, figures.hard_start(x, 10, 0), prior)
        for _ in range(150):
            sweep = next(run)
        ends[alpha] = figures.alive(sweep)
    assert ends[0.01] == 3 < ends[30.0]


# --- k-means ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_k_means_equals_scikit_learn_from_the_same_start(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 2)) + rng.integers(0, 3, size=(80, 1)) * 3
    start = x[rng.choice(80, 3, replace=False)]
    end = figures.lloyd(x, start, 60)[-1]
    model = KMeans(3, init=start, n_init=1, max_iter=60, tol=0, algorithm="lloyd").fit(x)
    assert end == pytest.approx(model.cluster_centers_, abs=1e-8)
    assert figures.distortion(x, end) == pytest.approx(model.inertia_)
    assert figures.soft_step(x, start, 1e-3) == pytest.approx(figures.lloyd(x, start, 1)[1], abs=1e-6)


# --- Divergences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "scale"), [(-1.3, 0.8), (0.4, 2.5)])
def test_both_directions_against_adaptive_quadrature(mean, scale):
    target = figures.Mixture1D((0.3, 0.7), (-1.0, 2.0), (0.7, 1.1))

    def log_p(x):
        return target.log_pdf(np.array(x))

    def log_q(x):
        return stats.norm.logpdf(x, mean, scale)

    forward, _ = integrate.quad(lambda x: np.exp(log_p(x)) * (log_p(x) - log_q(x)), -14, 14, limit=300)
    reverse, _ = integrate.quad(lambda x: np.exp(log_q(x)) * (log_q(x) - log_p(x)), -14, 14, limit=300)
    ours = figures.both_kl(target, mean, scale)
    assert ours[:2] == pytest.approx((forward, reverse), abs=1e-6)
    assert 0 < ours[2] < np.log(2)


@pytest.mark.parametrize("a", [0.7, 2.0])
def test_forward_fit_is_moment_matching(a):
    target = figures.Mixture1D((0.2, 0.8), (-a, 1.3 * a), (0.9, 0.5))
    assert figures.fit_gaussian(target, 0, 0.3, 1.0) == pytest.approx(target.moments(), abs=1e-4)


def test_the_reverse_fit_jumps():
    a = figures.jump()
    for shift, middle_wins in ((-0.05, True), (0.05, False)):
        middle = figures.middle_fit(a + shift)[1]
        mean, _, side = figures.side_fit(a + shift)
        assert (middle < side) is middle_wins and mean > 2


def test_reverse_gradients_need_no_normaliser():
    """The reparametrised gradient of the slide, with a density that lacks its constant, meets quadrature."""
    torch.manual_seed(0)
    mean, log_scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (-1.5, 0.2))
    x = mean + log_scale.exp() * torch.randn(400_000, dtype=torch.float64)
    parts = torch.tensor([0.6, 0.4], dtype=torch.float64).log() + torch.distributions.Normal(
        torch.tensor([-2.0, 2.0], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
    ).log_prob(x[:, None])
    log_q = torch.distributions.Normal(mean, log_scale.exp()).log_prob(x)
    (log_q - (parts.logsumexp(1) + 17.0)).mean().backward()
    step = 1e-4
    exact = [
        (figures.both_kl(figures.TARGET, *up)[1] - figures.both_kl(figures.TARGET, *down)[1]) / (2 * step)
        for up, down in (
            ((-1.5 + step, np.exp(0.2)), (-1.5 - step, np.exp(0.2))),
            ((-1.5, np.exp(0.2 + step)), (-1.5, np.exp(0.2 - step))),
        )
    ]
    assert [mean.grad.item(), log_scale.grad.item()] == pytest.approx(exact, abs=0.02)


# --- Flows -----------------------------------------------------------------------------------------------


def test_the_flow_of_the_stored_figures_keeps_its_contract():
    x = torch.randn(64, 2)
    checks.invertible(trained_flows.Flow(), x)
    checks.log_det(trained_flows.Flow(), x)


def test_the_linear_flow_is_the_gaussian_of_greatest_likelihood():
    torch.manual_seed(0)
    x = torch.randn(300, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 1
    flow = trained_flows.Whitening(x)
    checks.log_det(flow, x[:10])
    checks.invertible(flow, x[:10])
    exact = stats.multivariate_normal.logpdf(x.numpy(), x.mean(0).numpy(), np.cov(x.T.numpy(), bias=True))
    assert trained_flows.log_prob(flow, x).numpy() == pytest.approx(exact)
    codes = flow(x)[0].numpy()
    assert np.cov(codes.T, bias=True) == pytest.approx(np.eye(4), abs=1e-10)


def test_logits_of_images_go_back_and_carry_their_slope():
    images = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    logits, slope = trained_flows.to_logits(images, seed=0)
    unit = trained_flows.from_logits(logits)
    assert torch.equal((unit * 256).floor().to(torch.uint8), images.flatten(1))
    by_hand = torch.autograd.functional.jacobian(
        lambda u: (trained_flows.EDGE + (1 - 2 * trained_flows.EDGE) * u).logit(), unit[0]
    )
    assert slope[0].item() == pytest.approx(torch.linalg.slogdet(by_hand)[1].item(), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_area_of_the_image_of_a_small_cell_is_the_determinant(seed):
    corner = np.random.default_rng(seed).normal(size=2)
    exact = abs(np.linalg.det(figures.swirl_jacobian(corner)))
    assert figures.image_area(corner, 1e-3) / 1e-6 == pytest.approx(exact, rel=3e-3)


def test_triangular_map_is_uniform_and_its_determinant_is_the_density():
    u = figures.rosenblatt(figures.triangle_sample(20_000, seed=7))
    counts, _, _ = np.histogram2d(*u.T, bins=5, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3
    total, _ = integrate.dblquad(
        lambda y, x: np.exp(figures.triangle_log_pdf(np.array([[x, y]]))[0]), -4, 4, -3, 12, epsabs=1e-3
    )
    assert total == pytest.approx(1, abs=1e-2)


def test_published_baselines_are_reproduced():
    stored = figures.trained()
    assert stored["histogram_bits"] == pytest.approx(1.6897, abs=1e-4)
    assert stored["zlib_bits"] == pytest.approx(1.635, abs=1e-3)
    assert stored["bits"] == pytest.approx(2.013, abs=2e-3)
    assert figures.value_entropy() == pytest.approx(1.967, abs=2e-3)


# --- Numbers on the slides -------------------------------------------------------------------------------


def test_printed_numbers_by_another_road():
    printed = json.loads((figures.FOLDER / "numbers.json").read_text())
    assert float(printed["shrunk_variance"]) == pytest.approx(1 - 0.9**2)
    assert float(printed["mean_field_gap"]) == pytest.approx(-np.log(0.19) / 2, abs=5e-3)
    assert printed["doubling"] == round(np.log(2.0) * 28 * 28)
    assert printed["filament_slope"] == round(np.exp(8) / 2)  # phi(0) over 2 phi(4), the two modes at 4 s.d.
    for name, size in (("lu_mnist", 28 * 28), ("lu_cifar", 3 * 32 * 32)):
        value = printed[name]["mantissa"] * 10.0 ** printed[name]["exponent"]
        assert value == pytest.approx(sum(2 * k**2 for k in range(size)), rel=0.02)  # elimination, row by row
    step = 1e-6
    digamma = {
        a: (special.gammaln(a + step) - special.gammaln(a - step)) / (2 * step) for a in (1, 0.1, 0.01)
    }
    assert float(printed["death_share"]) == pytest.approx(np.exp(digamma[1]), abs=5e-3)
    small = printed["death_small"]["mantissa"] * 10.0 ** printed["death_small"]["exponent"]
    assert small == pytest.approx(np.exp(digamma[0.1]), rel=0.02)
    assert printed["death_log10"] == round(digamma[0.01] / np.log(10))
    assert sum(map(float, printed["death_counts"])) == pytest.approx(len(figures.three_groups()), abs=0.2)
    assert sum(map(int, printed["iris_counts"])) == 150


def test_numbers_in_descriptions_of_figures_are_those_of_the_figures():
    deck = (figures.FOLDER.parent / "lecture4.typ").read_text(encoding="utf-8")
    said = re.search(r'"penalties"[^\n]*alt: "([^"]+)"', deck)[1]
    areas = [
        f"{area:.2f}"
        for candidate in ((-2.0, 0.6), figures.TARGET.moments())
        for area in figures.both_kl(figures.TARGET, *candidate)[:2]
    ]
    assert re.findall(r"\d\.\d\d", said) == areas
    assert f"slope {round(figures.middle_slope())} at" in deck
    assert f"up to {figures.jump():.1f} and then jumps" in deck
