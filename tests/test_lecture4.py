"""What lecture 4 claims: mean field, Bayesian mixtures, k-means, two KL divergences, change of variables."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from sklearn.datasets import load_iris
from sklearn.mixture import BayesianGaussianMixture
from torch.distributions import Dirichlet, MultivariateNormal, Normal, Wishart, kl_divergence
from torch.special import entr

from dgm_utils import checks
from lectures.lecture4 import figures, trained_flows
from lectures.lecture4.figures import FORWARD, JSD, REVERSE, TARGET, S, line, real

SEEDS = range(5)


pytestmark = pytest.mark.usefixtures("double")


def random_covariance(d):
    root = torch.randn(d, d)
    return root @ root.T + 0.2 * torch.eye(d)


# --- Mean field ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_factor_of_a_table(seed):
    """The update is the optimum, another factor costs exactly its KL to it, and the bound only rises."""
    rng = np.random.default_rng(seed)
    log_joint = 2 * rng.normal(size=(3, 4))
    q1, q2 = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4))
    log_p = special.logsumexp(log_joint)

    def elbo(q1, q2):
        return q1 @ log_joint @ q2 + special.entr(q1).sum() + special.entr(q2).sum()

    gap = special.rel_entr(np.outer(q1, q2), np.exp(log_joint - log_p)).sum()
    assert elbo(q1, q2) + gap == pytest.approx(log_p)
    bounds = []
    for _ in range(15):
        q1 = special.softmax(log_joint @ q2)
        bounds.append(elbo(q1, q2))
        q2 = special.softmax(q1 @ log_joint)
        bounds.append(elbo(q1, q2))
    assert np.diff(bounds).min() > -1e-12 and bounds[-1] <= log_p
    best = special.softmax(log_joint @ q2)
    for other in rng.dirichlet(np.ones(3), size=5):
        assert elbo(best, q2) - elbo(other, q2) == pytest.approx(special.rel_entr(other, best).sum())
    found = optimize.minimize(lambda u: -elbo(special.softmax(u), q2), np.zeros(3), method="BFGS")
    assert special.softmax(found.x) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("d", [2, 3, 6])
def test_mean_field_of_a_gaussian_is_the_minimum_of_the_reverse_kl(d):
    mean, covariance = torch.randn(d), random_covariance(d)
    precision = covariance.inverse()
    end, variances = S.mean_field_gaussian(mean, precision, torch.zeros(d), torch.ones(d), sweeps=400)[-1]
    target = MultivariateNormal(mean, covariance)

    def kl(u):
        q = MultivariateNormal(real(u[:d]), real(np.exp(u[d:])).diag())
        return kl_divergence(q, target).item()

    found = optimize.minimize(kl, np.r_[mean + 1, np.zeros(d)], method="BFGS", options={"gtol": 1e-9})
    assert found.x[:d] == pytest.approx(end.numpy(), abs=1e-4)
    assert np.exp(found.x[d:]) == pytest.approx(variances.numpy(), rel=1e-4)
    gap = (precision.diagonal().log().sum() - precision.logdet()) / 2
    assert found.fun == pytest.approx(gap.item(), abs=1e-8)
    for j in range(d):  # the variance of one coordinate, given all others
        others = torch.arange(d) != j
        explained = torch.linalg.solve(covariance[others][:, others], covariance[others, j])
        conditional = covariance[j, j] - covariance[j, others] @ explained
        assert variances[j].item() == pytest.approx(conditional.item())


def test_the_forward_kl_keeps_the_marginals():
    covariance = random_covariance(4)
    p = MultivariateNormal(torch.zeros(4), covariance)
    log_variance = covariance.diagonal().log().requires_grad_()
    kl = kl_divergence(p, MultivariateNormal(torch.zeros(4), log_variance.exp().diag()))
    assert torch.autograd.grad(kl, log_variance)[0].abs().max() < 1e-12
    for _ in range(20):
        other = (log_variance + 0.1 * torch.randn(4)).exp().diag()
        assert kl_divergence(p, MultivariateNormal(torch.zeros(4), other)) > kl


@pytest.mark.parametrize("rho", [-0.95, -0.4, 0.0, 0.7, 0.99])
def test_a_sweep_shrinks_the_error_by_rho_squared(rho):
    mean, precision = real([1.0, -2.0]), real([[1, rho], [rho, 1]]).inverse()
    path = S.mean_field_gaussian(mean, precision, real([3.0, 3.0]), real([1.0, 1.0]), sweeps=5)
    errors = path[2::2, 0] - mean
    assert torch.allclose(errors[1:], rho**2 * errors[:-1], atol=1e-12)
    assert torch.allclose(path[-1, 1], real(1 - rho**2))


# --- A Bayesian mixture ----------------------------------------------------------------------------------


def some_mixture(d=2):
    return figures.WishartMixture(0.4, 0.7, torch.zeros(d), torch.eye(d))


def shares(n, components):
    return Dirichlet(torch.ones(components)).sample((n,))


@pytest.mark.parametrize("seed", SEEDS)
def test_cavi_never_lowers_the_bound_and_neither_update_can_be_improved(seed):
    torch.manual_seed(seed)
    x = torch.randn(60, 2) * real([1, 2]) + 4 * torch.randint(0, 2, (60, 1))
    model = some_mixture()
    r, bounds = S.ascend(model, x, shares(60, 3), sweeps=40)
    assert bounds.diff().min() > -1e-9
    model.update(x, r)
    top = model.elbo(x, r)
    for name in ("alpha", "beta", "mean", "dof", "inverse"):
        for factor in (0.95, 1.05):
            other = copy.copy(model)
            setattr(other, name, factor * getattr(model, name))
            assert long_elbo(other, x, r) < top, name
    assert long_elbo(model, x, r) == pytest.approx(top.item())
    shifted = (r.clamp(min=1e-12).log() + 0.1 * torch.randn(60, 3)).softmax(dim=1)
    assert model.elbo(x, shifted) < model.elbo(x, model.scores(x).softmax(dim=1))


def long_elbo(model, x, r):
    """Return the bound with the KL to the prior written out: q need not be the best for any r."""
    alpha, beta, mean, dof, inverse = model.prior
    m, scale = x.shape[1], model.inverse.inverse()  # W_c
    halves = (model.dof[:, None] - torch.arange(m)) / 2
    log_det = halves.digamma().sum(dim=1) + m * np.log(2) - model.inverse.logdet()
    kl = kl_divergence(Dirichlet(model.alpha), Dirichlet(torch.full_like(model.alpha, alpha)))
    shift, ratio = model.mean - mean, beta / model.beta
    squares = beta * model.dof * torch.einsum("ci,cij,cj->c", shift, scale, shift)
    normal = (m * (ratio - 1 - ratio.log()) + squares) / 2
    log_q = -Wishart(model.dof, precision_matrix=model.inverse).entropy()
    # A Wishart's log-density is linear in Lambda and log det Lambda: put in their means under q.
    mean_lambda = scale * model.dof[:, None, None]
    log_p = Wishart(real(dof), precision_matrix=inverse).log_prob(mean_lambda)
    log_p = log_p + (dof - m - 1) / 2 * (log_det - mean_lambda.logdet())
    kl = kl + (normal + log_q - log_p).sum()
    return ((r * model.scores(x)).sum() + entr(r).sum() - kl).item()


def test_one_component_bounds_the_evidence_exactly():
    """Each point is predicted from those before by a Student distribution; in the end q is the same."""
    x = torch.randn(30, 2) @ real([[1.0, 0.4], [0.0, 0.7]]) + 1
    prior = 0.7, 0.5, torch.zeros(2), 3.5, real([[1.2, 0.2], [0.2, 0.8]])
    model, seen = some_mixture(), some_mixture()
    model.prior = seen.prior = prior
    model.update(x, torch.ones(30, 1))
    evidence = 0.0
    for point in x:
        _, beta, mean, dof, inverse = seen.prior
        shape = inverse * (beta + 1) / (beta * (dof - 1))
        evidence += stats.multivariate_t.logpdf(point, mean, shape, df=float(dof - 1))
        seen.update(point[None], torch.ones(1, 1))
        seen.prior = tuple(value[0] for value in (seen.alpha, seen.beta, seen.mean, seen.dof, seen.inverse))
    assert model.elbo(x, torch.ones(30, 1)).item() == pytest.approx(evidence)
    for name in ("alpha", "beta", "mean", "dof", "inverse"):
        assert torch.allclose(getattr(model, name), getattr(seen, name)), name


def test_scores_are_the_expectations_that_they_claim_to_be():
    x, model = torch.randn(30, 2), some_mixture()
    model.update(x, shares(30, 2))

    def draw():
        precision = Wishart(model.dof, precision_matrix=model.inverse).sample((500,))  # (500, C, m, m)
        mean = MultivariateNormal(model.mean, precision_matrix=model.beta[:, None, None] * precision).sample()
        log_normal = MultivariateNormal(mean, precision_matrix=precision).log_prob(x[0])  # (500, C)
        return (Dirichlet(model.alpha).sample((500,)).log() + log_normal).mean(dim=0)

    checks.unbiased(draw, model.scores(x)[0], n=200)


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_points_are_those_of_scikit_learn(seed):
    torch.manual_seed(seed)
    x = torch.cat([torch.randn(50, 3), 0.5 * torch.randn(70, 3) + real([3, 0, -2])])
    theirs = BayesianGaussianMixture(
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
    ours = some_mixture(3)
    ours.update(x, real(theirs.predict_proba(x)))
    pairs = {
        "alpha": theirs.weight_concentration_,
        "beta": theirs.mean_precision_,
        "mean": theirs.means_,
        "dof": theirs.degrees_of_freedom_,
        "inverse": theirs.covariances_ * theirs.degrees_of_freedom_[:, None, None],
    }
    for name, other in pairs.items():
        assert getattr(ours, name).numpy() == pytest.approx(other, rel=2e-3, abs=2e-3), name
        setattr(ours, name, real(other))
    assert ours.scores(x).softmax(dim=1).numpy() == pytest.approx(theirs.predict_proba(x), abs=1e-9)


def test_the_prior_keeps_every_component_from_collapsing():
    model = some_mixture()
    model.update(torch.zeros(20, 2), torch.full((20, 2), 0.5))  # in EM the covariance would be singular
    assert torch.linalg.eigvalsh(model.inverse - torch.eye(2)).min() > -1e-12


def test_a_spherical_mixture_predicts_without_names():
    """The slide's predictive density is the average over q(w, mu), and the copies of an answer share it."""
    x, model = torch.randn(12, 2), S.BayesianMixture(sigma=0.7, tau=2.0, alpha0=0.5)
    model.update(x, shares(12, 3))
    w, at = model.alpha / model.alpha.sum(), torch.randn(1, 2)
    width = (0.7**2 + model.variance).sqrt()[:, None]
    slide = (w.log() + Normal(model.mean, width).log_prob(at).sum(dim=1)).exp().sum()

    def draw():
        w = Dirichlet(model.alpha).sample((100,))  # (100, C)
        mu = Normal(model.mean, model.variance.sqrt()[:, None]).sample((100,))  # (100, C, m)
        return (w * Normal(mu, 0.7).log_prob(at).sum(dim=2).exp()).sum(dim=1).mean()

    checks.unbiased(draw, slide, n=400)


def test_one_copy_of_equal_copies_costs_the_logarithm_of_their_number():
    line_, step = line(-60, 60, 12_001), 0.01
    copies = figures.mixture([1 / 6] * 6, [-50.0, -30.0, -10.0, 10.0, 30.0, 50.0], [1.0] * 6)
    q, one = Normal(-10.2, 0.9), Normal(-10.0, 1.0)
    gap = S.divergences(copies.log_prob(line_), q.log_prob(line_), step)["reverse"]
    assert gap.item() == pytest.approx(kl_divergence(q, one).item() + np.log(6), abs=1e-9)
    assert json.loads((figures.FOLDER / "numbers.json").read_text())["names"] == f"{np.log(6):.2f}"


def test_the_counts_on_iris_belong_to_the_best_bound_found():
    """A start that leaves 89, 50 and 11 flowers ends 7.6 nats lower; the slide had taken it for the best."""
    x = torch.from_numpy(load_iris().data)
    bound, counts = figures.iris_fit()
    assert bound == pytest.approx(-331.066, abs=1e-2)
    printed = json.loads((figures.FOLDER / "numbers.json").read_text())
    assert printed["iris_counts"] == ["100", "50"] == [f"{count:.0f}" for count in counts]
    model = figures.WishartMixture(figures.ALPHA, 1.0, x.mean(dim=0), x.T.cov())
    worse = S.ascend(model, x, figures.hard_start(x, 10, seed=9), sweeps=120)[1][-1].item()
    assert worse < bound - 5


def test_components_die_under_a_sparse_prior_only():
    (first, _, last), _, bounds = figures.death_run()
    assert len(figures.alive(first)) == 10 and len(figures.alive(last)) == 3
    assert bounds.diff().min() > -1e-8 * abs(bounds[0])
    x = figures.three_groups()
    dense = figures.WishartMixture(30.0, 1.0, x.mean(dim=0), 0.3 * torch.eye(2))
    sparse = figures.WishartMixture(figures.ALPHA, 1.0, x.mean(dim=0), 0.3 * torch.eye(2))
    r, other = S.ascend(sparse, x, figures.hard_start(x, 10, seed=1), sweeps=120)  # as the notes say
    assert len(figures.alive(r)) == 4 and (bounds[-1] - other[-1]).item() == pytest.approx(4.7, abs=0.1)
    assert len(figures.alive(S.ascend(dense, x, figures.hard_start(x, 10, seed=0), sweeps=150)[0])) > 3


# --- EM and k-means as limits ----------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [2.0, 0.5, 0.1, 0.01])
def test_the_scaled_objective_lies_above_that_of_k_means_as_proved(sigma):
    x, centres = figures.three_groups(), figures.LLOYD_START
    value = figures.scaled_objective(x, centres, sigma).item()
    distortion = (torch.cdist(x, centres) ** 2).amin(dim=1).mean().item()
    assert distortion - 1e-9 <= value <= distortion + 2 * sigma**2 * np.log(3) + 1e-9
    if sigma >= 0.5:  # else the densities underflow
        parts = [stats.multivariate_normal.pdf(x, centre, sigma**2) for centre in centres]
        log_p = np.log(np.mean(parts, axis=0)).mean()
        assert value == pytest.approx(-2 * sigma**2 * (log_p + np.log(2 * np.pi * sigma**2)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_of_em_without_variance_is_a_step_of_k_means(seed):
    torch.manual_seed(seed)
    x = torch.randn(80, 2) + 3 * torch.randint(0, 3, (80, 1))
    em, start = S.MixtureEM(1e-3), x[torch.randperm(80)[:3]]
    em.log_weight, em.mean, em.variance = torch.zeros(3), start, torch.zeros(3)
    r = em.scores(x).softmax(dim=1)
    em.update(x, r)
    centres, label, _ = S.kmeans(x, start, sweeps=1)
    assert torch.equal(r.argmax(dim=1), label) and torch.allclose(r.amax(dim=1), real(1))
    assert torch.allclose(em.mean, centres, atol=1e-6)


def test_a_narrow_q_of_the_parameters_costs_its_variance():
    """E over N(theta, e^2) of a log-density, minus its value at theta, is of order e^2."""
    log_prob = figures.mixture([0.3, 0.7], [-1.0, 1.0], [0.5, 0.8]).log_prob
    node, weight = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(60))
    wide, middle, narrow = (weight @ log_prob(0.7 + e * node) / weight.sum() for e in (0.1, 0.05, 0.025))
    point = log_prob(real(0.7))
    assert ((wide - point) / (middle - point)).item() == pytest.approx(4, rel=0.05)
    assert ((middle - point) / (narrow - point)).item() == pytest.approx(4, rel=0.05)


# --- Divergences -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "scale"), [(-1.3, 0.8), (0.4, 2.5)])
def test_both_directions_against_adaptive_quadrature(mean, scale):
    target = figures.mixture([0.3, 0.7], [-1.0, 2.0], [0.7, 1.1])

    def log_p(x):
        return target.log_prob(real(x)).item()

    def log_q(x):
        return stats.norm.logpdf(x, mean, scale)

    forward, _ = integrate.quad(lambda x: np.exp(log_p(x)) * (log_p(x) - log_q(x)), -14, 14, limit=300)
    reverse, _ = integrate.quad(lambda x: np.exp(log_q(x)) * (log_q(x) - log_p(x)), -14, 14, limit=300)
    ours = figures.compare(target, mean, scale)
    assert (ours[FORWARD], ours[REVERSE]) == pytest.approx((forward, reverse), abs=1e-6)
    assert 0 < ours[JSD] < np.log(2)


@pytest.mark.parametrize("a", [0.7, 2.0])
def test_forward_fit_is_moment_matching(a):
    target = figures.mixture([0.2, 0.8], [-a, 1.3 * a], [0.9, 0.5])
    moments = target.mean.item(), target.stddev.item()
    assert figures.fit_gaussian(target, FORWARD, 0.3, 1.0)[:2] == pytest.approx(moments, abs=1e-4)


@pytest.mark.parametrize("name", ["reverse", "reverse_middle", "reverse_other"])
def test_reverse_fit_meets_the_conditions_of_the_slide(name):
    """The mean slope of log pi under q is 0, and minus its mean curvature is 1 / scale^2."""
    mean, scale = figures.fits_1d()[name]
    x = figures.LINE.clone().requires_grad_()
    (slope,) = torch.autograd.grad(TARGET.log_prob(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    q = Normal(mean, scale).log_prob(figures.LINE).exp()
    assert torch.trapezoid(q * slope.detach(), figures.LINE).abs() < 1e-3
    assert -torch.trapezoid(q * curvature, figures.LINE).item() == pytest.approx(1 / scale**2, rel=1e-3)


def test_the_fits_in_the_plane():
    fits, target = figures.plane_fits(), figures.PLANE_TARGET
    forward = figures.plane_normal(fits["forward"])
    p, cell = target.log_prob(figures.PLANE).exp(), figures.PLANE_CELL
    centred = figures.PLANE - target.mean
    assert torch.allclose(forward.mean, target.mean, atol=1e-3)
    covariance = centred.T @ (centred * p[:, None]) * cell
    assert torch.allclose(forward.covariance_matrix, covariance, atol=2e-3)
    least = figures.plane_kl(fits["forward"])[FORWARD]
    assert least < min(figures.plane_kl(fits[name])[FORWARD] for name in ("reverse", "factorised"))


@pytest.mark.parametrize(("kind", "names"), [(REVERSE, 3), (JSD, 2), (FORWARD, 1)])
def test_the_slide_names_every_optimum(kind, names):
    """From a grid of starts a local search ends in the optima that the table prints, and in no other."""
    names = (
        ["reverse", "reverse_middle", "reverse_other"] if kind == REVERSE else ["jsd", "jsd_other"][:names]
    )
    printed = [figures.MOMENTS] if kind == FORWARD else [figures.fits_1d()[name] for name in names]
    starts = [(mean, scale) for mean in (-3.0, -1.0, 0.3, 1.5, 2.5) for scale in (0.5, 1.9)]
    ends = [figures.fit_gaussian(TARGET, kind, *start)[:2] for start in starts]
    ends = [end for end in ends if end[1] < 4]  # the JSD is flat far out: such a search leaves the grid
    assert len(ends) >= 8
    nearest = [int(np.abs(np.array(printed) - end).max(axis=1).argmin()) for end in ends]
    for end, k in zip(ends, nearest, strict=True):
        assert end == pytest.approx(printed[k], abs=1e-3)
    assert set(nearest) == set(range(len(printed)))
    values = [figures.compare(TARGET, *fit)[kind] for fit in printed]
    assert values == sorted(values), "the table goes from the best optimum to the worst"


def test_the_grid_in_the_plane_holds_all_mass_and_a_rule_by_nodes_agrees():
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    nodes = torch.cartesian_prod(*[torch.from_numpy(node)] * 2)
    weights = torch.from_numpy(np.outer(weight, weight).ravel() / (2 * np.pi))
    printed = json.loads((figures.FOLDER / "numbers.json").read_text())
    for name in ("forward", "reverse", "factorised"):
        q = figures.plane_normal(figures.plane_fits()[name])
        mass = q.log_prob(figures.PLANE).exp().sum().item() * figures.PLANE_CELL
        assert mass == pytest.approx(1, abs=1e-6)
        x = q.mean + nodes @ q.scale_tril.T
        exact = (weights @ (q.log_prob(x) - figures.PLANE_TARGET.log_prob(x))).item()
        assert float(printed[f"plane_{name}"][REVERSE]) == pytest.approx(exact, abs=5.1e-3), name


def test_the_reverse_fit_jumps():
    a = figures.jump()
    for shift, middle_wins in ((-0.05, True), (0.05, False)):
        zero, scale, middle = figures.reverse_fit(a + shift, 0.0)
        mean, _, side = figures.reverse_fit(a + shift, a)
        assert (middle < side) is middle_wins and mean > 2

        def reverse(u, a=a + shift):
            return figures.compare(figures.symmetric_target(a), 0.0, np.exp(u))[REVERSE]

        best = optimize.minimize_scalar(reverse, bounds=(-1.5, 2.5), options={"xatol": 1e-8})
        assert abs(zero) < 1e-6 and scale == pytest.approx(np.exp(best.x), rel=1e-5)
        assert middle == pytest.approx(best.fun, abs=1e-9)


def test_reverse_gradients_need_no_normaliser():
    """The reparametrised gradient of the slide, with a density that lacks its constant, meets quadrature."""
    at = real([-1.5, 0.2]).requires_grad_()  # mean and log scale
    exact_q = Normal(at[0], at[1].exp()).log_prob(figures.LINE)
    reverse = S.divergences(TARGET.log_prob(figures.LINE), exact_q, figures.STEP)["reverse"]
    (exact,) = torch.autograd.grad(reverse, at)

    def draw():
        q = Normal(at[0], at[1].exp())
        x = q.rsample((500,))
        return torch.autograd.grad((q.log_prob(x) - TARGET.log_prob(x) - 17.0).mean(), at)[0]

    checks.unbiased(draw, exact, n=400)


def test_jsd_of_two_normals_and_of_tables():
    known = {0.5: 0.0303113, 1: 0.1114215, 2: 0.3368308, 3: 0.5267773, 4: 0.6327202, 6: 0.6892979}
    assert figures.jsd_of_normals(real(list(known))).numpy() == pytest.approx(list(known.values()), abs=1e-6)
    for p, q in Dirichlet(torch.full((6,), 0.3)).sample((50, 2)):
        half = (p + q) / 2
        jsd = entr(half).sum() - (entr(p) + entr(q)).sum() / 2  # the form with entropies
        assert -1e-12 <= jsd <= np.log(2)
        found = S.divergences(p.clamp(min=1e-300).log(), q.clamp(min=1e-300).log(), cell=1)
        assert found["JSD"].item() == pytest.approx(jsd.item(), abs=1e-12)


def test_a_divergence_does_not_depend_on_the_coordinate():
    """Both densities of z = f(x), seen in x: each gains the same slope."""
    x = line(-8, 4.5, 200_001).requires_grad_()
    z = (x.exp() - (-0.5 * x).exp()) / 1.5
    (slope,) = torch.autograd.grad(z.sum(), x)
    normal = Normal(*figures.MOMENTS)
    log_p, log_q = (density.log_prob(z.detach()) + slope.log() for density in (TARGET, normal))
    in_x = S.divergences(log_p, log_q, cell=12.5 / 200_000)["forward"]
    assert in_x.item() == pytest.approx(figures.compare(TARGET, *figures.MOMENTS)[FORWARD], abs=1e-5)


# --- Change of variables ---------------------------------------------------------------------------------


def test_the_bent_density_is_that_of_bent_points():
    x = np.linspace(-12, 4.5, 400_001)
    assert np.trapezoid(figures.bent_pdf(x), x) == pytest.approx(1, abs=1e-6)
    mass = np.cumsum(figures.bent_pdf(x)) * (x[1] - x[0])  # P(X <= x) is P(Z <= f(x))
    assert np.abs(mass - stats.norm.cdf(figures.bend(x))).max() < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_area_of_the_image_of_a_small_cell_is_the_determinant(seed):
    torch.manual_seed(seed)
    corner = torch.randn(2)
    exact = torch.autograd.functional.jacobian(figures.swirl, corner).det().abs().item()
    errors = [abs(figures.area_ratio(corner - width / 2, width) - exact) for width in (0.2, 0.05, 1e-3)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-4 * exact


def test_the_cdf_flow_has_the_density_as_its_slope():
    x = line(-3, 3.5, 501).requires_grad_()
    z = figures.UNIT.icdf(TARGET.cdf(x))
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert torch.allclose(figures.UNIT.log_prob(z) + slope.log(), TARGET.log_prob(x), atol=1e-6)


def test_triangular_map_is_uniform_and_its_determinant_is_the_density():
    for x in figures.bent_sample(20, seed=1):
        jacobian = torch.autograd.functional.jacobian(figures.rosenblatt, x)
        second = Normal(0.8 * x[0] ** 2 - 1, figures.NOISE)
        log_p = figures.FIRST.log_prob(x[0]) + second.log_prob(x[1])
        assert jacobian[0, 1] == 0 and torch.allclose(jacobian.det().log(), log_p)
    u = figures.rosenblatt(figures.bent_sample(20_000, seed=7))
    counts, _, _ = np.histogram2d(*u.T, bins=5, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > 1e-3


# --- Trained flows ---------------------------------------------------------------------------------------


def test_the_flow_of_the_stored_figures_keeps_its_contract():
    x = torch.randn(64, 2)
    checks.invertible(trained_flows.couplings(), x)
    checks.log_det(trained_flows.couplings(), x)


@pytest.mark.parametrize("loss", [trained_flows.forward_loss, trained_flows.reverse_loss])
def test_both_losses_of_the_stored_figures_can_be_computed_anew(loss):
    flow = trained_flows.couplings(2)
    value = loss(flow, trained_flows.FOUR)["loss"]
    value.backward()
    assert value.isfinite() and all(p.grad.isfinite().all() for p in flow.parameters())


def test_the_linear_flow_is_the_gaussian_of_greatest_likelihood():
    x = torch.randn(300, 4) @ torch.randn(4, 4) + 1
    layer = trained_flows.Whitening(x)
    checks.log_det(layer, x[:10])
    checks.invertible(layer, x[:10])
    covariance = x.T.cov(correction=0)
    log_p = S.Flow([layer]).log_prob(x)
    assert torch.allclose(log_p, MultivariateNormal(x.mean(dim=0), covariance).log_prob(x))
    codes = layer(x)[0]
    assert torch.allclose(codes.T.cov(correction=0), torch.eye(4)) and codes.mean(dim=0).abs().max() < 1e-10
    entropy = (2 * np.pi * np.e * covariance).logdet() / 2
    assert -log_p.mean().item() == pytest.approx(entropy.item())
    for _ in range(20):
        other = copy.deepcopy(layer)
        other.factor = other.factor @ (torch.eye(4) + 0.05 * torch.randn(4, 4).tril())
        other.mean = other.mean + 0.05 * torch.randn(4)
        assert S.Flow([other]).log_prob(x).mean() < log_p.mean()


def test_logits_of_images_go_back_and_carry_their_slope():
    images = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    logits, slope = trained_flows.to_logits(images, seed=0)
    unit = trained_flows.from_logits(logits)
    assert torch.equal((unit * 256).floor().to(torch.uint8), images.flatten(1))
    by_hand = torch.autograd.functional.jacobian(
        lambda u: (trained_flows.EDGE + (1 - 2 * trained_flows.EDGE) * u).logit(), unit[0]
    )
    assert slope[0].item() == pytest.approx(torch.linalg.slogdet(by_hand)[1].item(), rel=1e-6)


def test_stored_flows_are_densities_and_reached_what_the_slides_say():
    cell = (2 * trained_flows.LIMIT / (trained_flows.POINTS - 1)) ** 2
    stored = figures.trained()
    for name in ("forward_four", "reverse_four", "forward_two"):
        assert stored[name].exp().sum().item() * cell == pytest.approx(1, abs=2e-3), name
    assert figures.on_grid(trained_flows.FOUR).exp().sum().item() * cell == pytest.approx(1, abs=1e-3)
    assert figures.flow_kl("reverse_four")[REVERSE] == pytest.approx(np.log(4), abs=0.01), "one mode of four"
    assert figures.flow_kl("forward_four")[FORWARD] < 0.1
    assert stored["round_trip"] < 1e-6


def test_published_baselines_are_reproduced():
    stored = figures.trained()
    # A full-covariance Gaussian on MNIST in logit space, Papamakarios et al. 2017; errors of 1.4 nats each.
    assert stored["nats"].item() == pytest.approx(-1366.9, abs=2.8)
    assert stored["histogram_bits"].item() == pytest.approx(1.6897, abs=1e-4)
    assert stored["zlib_bits"].item() == pytest.approx(1.635, abs=1e-3)
    # The shape of a conditional alone: a Gaussian for each pixel knows as little of images as a histogram.
    assert stored["pixel_gaussian_bits"].item() == pytest.approx(2.610, abs=2e-3)
    assert stored["bits"].item() == pytest.approx(2.013, abs=2e-3)
    assert figures.value_entropy() == pytest.approx(1.967, abs=2e-3)


def test_a_comb_on_integers_claims_a_digit_for_a_digit():
    claims = [figures.comb_bits(width) for width in (1e-4, 1e-3, 1e-2)]
    assert np.diff(claims) == pytest.approx(np.log2([10, 10]))
    assert claims[1] == pytest.approx(figures.value_entropy() + np.log2(1e-3 * np.sqrt(2 * np.pi)))


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


def test_numbers_in_descriptions_of_figures_are_those_of_the_figures():
    deck = (figures.FOLDER.parent / "lecture4.typ").read_text(encoding="utf-8")
    said = re.search(r'"penalties"[^\n]*alt: "([^"]+)"', deck)[1]
    areas = [
        f"{area:.2f}"
        for candidate in ((-2.0, 0.6), figures.MOMENTS)
        for area in figures.compare(TARGET, *candidate)[:2]
    ]
    assert re.findall(r"\d\.\d\d", said) == areas
    assert f"slope {round(figures.middle_slope())} at" in deck
    assert f"up to {figures.jump():.1f} and then jumps" in deck


def test_the_error_of_the_linear_flow_is_one_standard_error():
    """Ten parts of 1,000 test images scatter as the printed error of the mean of 10,000 says."""
    images = trained_flows.data.load_images("mnist")
    train, _ = trained_flows.to_logits(images.train.images[:10_000], seed=0)
    test, _ = trained_flows.to_logits(images.test.images, seed=1)
    log_p = S.Flow([trained_flows.Whitening(train)]).log_prob(test)
    error = (log_p.std() / len(log_p) ** 0.5).item()
    assert figures.trained()["nats_error"].item() == pytest.approx(error, rel=0.3)


def test_the_error_bars_of_a_mean_field_are_too_narrow_by_a_root():
    deck = (figures.FOLDER.parent / "lecture4.typ").read_text(encoding="utf-8")
    variance = figures.mean_field_path()[-1, 1, 0].item()  # of a true variance 1
    assert variance**0.5 == pytest.approx(np.sqrt(1 - figures.RHO**2))
    (said,) = re.findall(r"\[error bars from a mean-field \$q\$\], \[[^$]*\$([^$]*)\$", deck)
    assert said == "sqrt(1 - rho^2)"
