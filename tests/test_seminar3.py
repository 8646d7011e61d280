"""Seminar 3: probabilistic PCA and the VAE against closed forms and libraries; its checks against slips."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from dgm_utils import checks, metrics, nets, plot
from tools import definitions, notebooks

PATH = Path(__file__).resolve().parent.parent / "seminars" / "seminar3" / "seminar3.ipynb"
seminar = definitions.load(PATH)
cells = notebooks.read_notebook(PATH).cells


def source(start):
    """Return the one code cell that has a line beginning with the given text."""
    found = [
        c.source
        for c in cells
        if c.cell_type == "code" and re.search(rf"^{re.escape(start)}", c.source, re.M)
    ]
    assert len(found) == 1, f"{len(found)} cells have {start!r}"
    return found[0]


def correlated(n, m):
    return (
        torch.randn(n, m, dtype=torch.float64) @ torch.randn(m, m, dtype=torch.float64)
        + torch.randn(m).double()
    )


def random_ppca(m=5, d=2, variance=0.4):
    W = torch.randn(m, d, dtype=torch.float64)
    return seminar.ProbabilisticPCA(torch.randn(m).double(), W, torch.tensor(variance, dtype=torch.float64))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- probabilistic PCA -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, 6])
def test_closed_form_is_scikit_learns(d):
    x = correlated(200, 7)
    theirs = PCA(d, svd_solver="full").fit(x.numpy())
    ours = seminar.ppca_closed_form(x, d, correction=1)
    assert ours.log_prob(x).mean() == pytest.approx(theirs.score(x.numpy()), rel=1e-10)
    assert ours.variance == pytest.approx(theirs.noise_variance_, rel=1e-10)
    np.testing.assert_allclose(
        ours.W @ ours.W.T + ours.variance * torch.eye(7), theirs.get_covariance(), atol=1e-10
    )


@pytest.mark.parametrize(
    ("load", "d", "nats"),
    [
        (load_iris, 1, -3.1377963888),
        (load_iris, 2, -2.6997518677),
        (load_iris, 3, -2.5327642008),
        (load_digits, 2, -177.4399714984),
        (load_digits, 20, -150.1683782945),
    ],
)
def test_maximum_of_the_likelihood_on_known_data(load, d, nats):
    x = torch.from_numpy(load().data)
    assert seminar.ppca_closed_form(x, d).log_prob(x).mean() == pytest.approx(nats, abs=1e-8)


def test_closed_form_is_a_maximum():
    x = correlated(100, 5)
    best = seminar.ppca_closed_form(x, 2)
    leaves = [best.mean, best.W, best.variance.clone()]
    for leaf in leaves:
        leaf.requires_grad_()
    gradients = torch.autograd.grad(seminar.ProbabilisticPCA(*leaves).log_prob(x).mean(), leaves)
    assert max(gradient.abs().max() for gradient in gradients) < 1e-9
    for _ in range(20):
        moved = [leaf.detach() * (1 + 0.05 * torch.randn_like(leaf)) for leaf in leaves]
        assert seminar.ProbabilisticPCA(*moved).log_prob(x).mean() < best.log_prob(x).mean()


def test_marginal_and_posterior_by_conditioning_the_joint_gaussian():
    model = random_ppca()
    m, d = model.W.shape
    cross = np.asarray(model.W)  # covariance of x and z
    covariance = cross @ cross.T + 0.4 * np.eye(m)
    x = model.sample(4)
    np.testing.assert_allclose(
        model.log_prob(x), stats.multivariate_normal(model.mean, covariance).logpdf(x), rtol=1e-10
    )
    posterior = model.posterior(x)
    np.testing.assert_allclose(
        posterior.mean, (x - model.mean).numpy() @ np.linalg.solve(covariance, cross), atol=1e-10
    )
    expected = np.eye(d) - cross.T @ np.linalg.solve(covariance, cross)
    np.testing.assert_allclose(posterior.covariance_matrix[0], expected, atol=1e-10)


def test_samples_have_the_moments_of_the_marginal():
    model = random_ppca(3, 2)
    x = model.sample(200_000)
    assert torch.allclose(x.mean(0), model.mean, atol=0.03)
    assert torch.allclose(torch.cov(x.T), model.W @ model.W.T + 0.4 * torch.eye(3), atol=0.05)


def test_a_step_of_em_maximises_the_expected_complete_likelihood():
    x, old = correlated(60, 4), random_ppca(4, 2)
    old = seminar.ProbabilisticPCA(x.mean(0), old.W, old.variance)
    new = seminar.ppca_em_step(old, x)
    W, variance = new.W.clone().requires_grad_(), new.variance.clone().requires_grad_()
    model = seminar.ProbabilisticPCA(new.mean, W, variance)
    expected = seminar.gaussian_elbo(
        model, x, old.posterior(x)
    ).sum()  # the KL does not depend on W, variance
    for gradient in torch.autograd.grad(expected, [W, variance]):
        assert gradient.abs().max() < 1e-8


@pytest.mark.parametrize("seed", range(5))
def test_em_climbs_to_the_closed_form(seed):
    torch.manual_seed(seed)
    x = correlated(300, 5)
    model = seminar.ProbabilisticPCA(x.mean(0), torch.randn(5, 2).double(), torch.tensor(1.0).double())
    trace = []
    for _ in range(3000):
        model = seminar.ppca_em_step(model, x)
        trace.append(model.log_prob(x).mean().item())
    assert np.diff(trace).min() > -1e-10
    assert trace[-1] == pytest.approx(seminar.ppca_closed_form(x, 2).log_prob(x).mean().item(), abs=1e-7)


@pytest.mark.parametrize(
    ("spectrum", "slow"), [([9.0, 4.0, 0.5, 0.3], "length"), ([9.0, 4.0, 3.6, 0.3, 0.2], "subspace")]
)
def test_em_is_as_slow_as_the_text_and_the_notes_say(spectrum, slow):
    eigenvalues, d = torch.tensor(spectrum, dtype=torch.float64), 2
    noise = torch.randn(400, len(spectrum), dtype=torch.float64)
    x = torch.linalg.qr(noise - noise.mean(0)).Q * (400 * eigenvalues).sqrt()
    x = x @ torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64)).Q
    best = seminar.ppca_closed_form(x, d)
    model = seminar.ProbabilisticPCA(x.mean(0), torch.randn(len(spectrum), d).double(), torch.tensor(1.0))
    gaps = [1.0]
    while gaps[-1] > 1e-9:
        model = seminar.ppca_em_step(model, x)
        gaps.append((best.log_prob(x).mean() - model.log_prob(x).mean()).item())
    late = [gap for gap in gaps if gap < 1e-6]
    share = best.variance / eigenvalues[0]
    factors = {
        "length": (1 - 2 * share * (1 - share)).square(),
        "subspace": (eigenvalues[d] / eigenvalues[d - 1]).square(),
    }
    assert max(factors, key=factors.get) == slow
    assert (late[-1] / late[0]) ** (1 / (len(late) - 1)) == pytest.approx(factors[slow].item(), abs=0.003)


def test_elbo_is_log_p_minus_the_kl():
    model = random_ppca()
    x, A = model.sample(6), torch.randn(6, 2, 2).double()
    q = MultivariateNormal(torch.randn(6, 2).double(), A @ A.mT + 0.1 * torch.eye(2))
    gap = model.log_prob(x) - seminar.gaussian_elbo(model, x, q)
    assert torch.allclose(gap, kl_divergence(q, model.posterior(x)), atol=1e-9) and gap.min() > 0.01
    z = q.sample((40_000,))
    by_sampling = (model.log_joint(x, z) - q.log_prob(z)).mean(0)
    assert torch.allclose(by_sampling, seminar.gaussian_elbo(model, x, q), rtol=0.02)


def test_the_check_of_posteriors_sees_slips():
    model = random_ppca()
    right = model.posterior
    seminar.check_posterior(right, model)
    slips = [
        lambda x: MultivariateNormal(right(x).mean, model.M / model.variance),  # the precision
        lambda x: MultivariateNormal(right(x).mean, torch.linalg.inv(model.M)),  # without the variance
        lambda x: MultivariateNormal((x - model.mean) @ model.W, right(x).covariance_matrix),  # without M
        lambda x: MultivariateNormal(right(x + model.mean).mean, right(x).covariance_matrix),  # not centred
    ]
    for slip in slips:
        with pytest.raises(AssertionError, match="nats"):
            seminar.check_posterior(slip, model)


# ---- the linear VAE and its slips --------------------------------------------------------------------------


def test_tight_for_the_exact_solution_only_without_slips():
    x = correlated(500, 3).float()
    ppca = seminar.ppca_closed_form(x, 1)
    assert seminar.check_tight(seminar.LinearVAE, ppca, x[:4]) < 0.2
    assert seminar.check_tight(seminar.slip("none"), ppca, x[:4]) < 0.2
    slips = [
        seminar.slip("A", noise=torch.square),
        seminar.slip("B", one_half=1.0),
        seminar.slip("C", total=torch.mean),
        seminar.slip("D", noise=torch.zeros_like),
    ]
    for slip in slips:
        with pytest.raises(checks.CheckFailed):
            seminar.check_tight(slip, ppca, x[:4])


# ---- the VAE -----------------------------------------------------------------------------------------------


def make_vae(m=6, d=2, kind=None):
    vae = (kind or seminar.VAE)(nets.mlp(m, 16, 2 * d), nets.mlp(d, 16, m), d).double().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.mul_(2)
    return vae


def test_parts_of_the_elbo_against_distributions():
    vae, x = make_vae(), torch.bernoulli(torch.full((5, 6), 0.4)).double()
    mean, std = vae.posterior(x)
    raw = vae.encoder(x)
    assert torch.allclose(mean, raw[:, :2]) and torch.allclose(std.log() * 2, raw[:, 2:])
    torch.manual_seed(1)
    reconstruction, kl = vae.elbo(x)
    torch.manual_seed(1)
    z = mean + std * torch.randn_like(std)
    assert torch.allclose(kl, kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1))
    assert torch.allclose(reconstruction, Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(1))
    assert torch.allclose(vae.decode(z), torch.sigmoid(vae.decoder(z)))


def test_log_weights_against_distributions():
    vae, x = make_vae(), torch.bernoulli(torch.full((5, 6), 0.4)).double()
    mean, std = vae.posterior(x)
    torch.manual_seed(1)
    weights = vae.log_weights(x, 7)
    torch.manual_seed(1)
    z = mean + std * torch.randn(7, 5, 2, dtype=torch.float64)
    expected = Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(2)
    expected += Normal(0.0, 1.0).log_prob(z).sum(2) - Normal(mean, std).log_prob(z).sum(2)
    assert weights.shape == (7, 5) and torch.allclose(weights, expected)


def test_samples_and_importance_weights_follow_the_quadrature():
    exec(source("def on_grid"), namespace := vars(seminar) | {})
    vae = make_vae(3, 1)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    log_p, elbo = namespace["on_grid"](vae, states)
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-9)
    assert (elbo < log_p).all()
    drawn = vae.sample(40_000)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    counts = torch.bincount((drawn @ torch.tensor([4.0, 2.0, 1.0]).double()).long(), minlength=8)
    assert stats.chisquare(counts, 40_000 * log_p.exp() / log_p.exp().sum()).pvalue > 1e-5
    estimate = metrics.importance_weighted_log_likelihood(vae.log_weights(states, 50_000))
    assert torch.allclose(estimate, log_p, atol=0.1)


def test_nothing_is_made_on_the_host():
    vae = seminar.VAE(nets.mlp(6, 8, 4), nets.mlp(2, 8, 6), 2).to("meta")
    x = torch.empty(5, 6, device="meta")
    assert vae.log_weights(x, 3).shape == (3, 5) and vae.sample(4).shape == (4, 6)
    assert all(term.device.type == "meta" for term in seminar.negative_elbo(vae)(x).values())


def test_loss_adds_up_and_is_a_mean_over_the_batch():
    vae, x = make_vae(), torch.bernoulli(torch.full((8, 6), 0.4)).double()
    torch.manual_seed(2)
    terms = seminar.negative_elbo(vae)(x)
    torch.manual_seed(2)
    reconstruction, kl = vae.elbo(x)
    assert terms["loss"] == pytest.approx((kl - reconstruction).mean().item())
    assert terms["kl"] - terms["reconstruction"] == pytest.approx(terms["loss"].item())


SLIPS = {
    "variance for deviation": (
        "z = mean + std * torch.randn_like(std)",
        "z = mean + std**2 * torch.randn_like(std)",
    ),
    "no sample": ("z = mean + std * torch.randn_like(std)", "z = mean"),
    "KL without the half": (".sum(dim=1) / 2  # exact", ".sum(dim=1)  # exact"),
    "KL forgotten": ("return self.log_likelihood(x, z), kl", "return self.log_likelihood(x, z), 0 * kl"),
    "log-variance without its two": ("- 1 - 2 * std.log()", "- 1 - std.log()"),
    "KL of the variance for the deviation": (
        "(mean**2 + std**2 - 1 - 2 * std.log())",
        "(mean**2 + std**4 - 1 - 4 * std.log())",
    ),
    "mean over pixels": ('reduction="none").sum(dim=-1)', 'reduction="none").mean(dim=-1)'),
    "weights: prior and q exchanged": ("(noise**2 - z**2)", "(z**2 - noise**2)"),
    "weights: log-determinant of the wrong sign": ("/ 2 + std.log()", "/ 2 - std.log()"),
    "weights: one noise for all": (
        "torch.randn(n_samples, *mean.shape",
        "torch.zeros(n_samples, *mean.shape",
    ),
}


@pytest.mark.parametrize("slip", [None, *SLIPS])
def test_the_checks_of_the_vae_see_slips(slip):
    namespace = vars(seminar) | {}
    before, after = SLIPS.get(slip, ("class VAE", "class VAE"))
    text = source("class LatentVariableModel") + "\n\n\n" + source("class VAE(")
    assert text.count(before) == 1
    exec(text.replace(before, after), namespace)
    exec(source("def on_grid"), namespace)
    with contextlib.redirect_stdout(io.StringIO()):
        if slip is None:
            exec(source("total = checks.sums_to_one"), namespace)
        else:
            with pytest.raises(checks.CheckFailed):
                exec(source("total = checks.sums_to_one"), namespace)


def test_labels_of_the_map_stay_apart():
    codes, labels = 0.2 * torch.randn(400, 2), torch.arange(400) % 10
    _, axes = plot.subplots()
    seminar.draw_codes(axes, codes, labels, apart=0.5)
    places = torch.tensor([text.get_position() for text in axes.texts])
    assert [text.get_text() for text in axes.texts] == list("0123456789")
    assert torch.pdist(places).min() > 0.45
