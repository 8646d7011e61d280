"""Lecture 3: its formulas against autograd, torch's distributions and quadrature; its checks bite."""

import importlib
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import distributions as D
from torch import nn

from tools.definitions import definitions, load
from tools.notebooks import read_notebook

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def figures():
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module("lectures.lecture3.figures")


@pytest.fixture(scope="module")
def digits(figures):
    return importlib.import_module("lectures.lecture3.vae_digits")


def test_formulas_of_lecture_3_hold(figures):
    figures.check()


@pytest.mark.parametrize(
    ("name", "wrong", "check"),
    [
        ("curve_bound", lambda f: lambda x, mean, log_std: f(x, mean, log_std) + 0.1, "check_gaps"),
        ("score_variance", lambda f: lambda d, *a, **k: f(d, *a, **k) * 1.2, "check_gradients"),
        ("centred_score_variance", lambda f: lambda d, *a, **k: f(d, *a, **k) * 1.2, "check_gradients"),
        ("wave_variances", lambda f: lambda k: f(k)[::-1], "check_gradients"),
        ("diagonal_kl", lambda f: lambda mean, std: 2 * f(mean, std), "check_vae"),
        ("diagonal_kl", lambda f: lambda mean, std: f(mean, std**2), "check_vae"),
        ("bce_mass", lambda f: lambda p: np.ones_like(p), "check_vae"),
        ("learned_noise", lambda f: lambda values, d: 1.05 * f(values, d), "check_linear"),
        ("ppca_posterior", lambda f: lambda *a: (f(*a)[0], np.linalg.inv(f(*a)[1])), "check_linear"),
        ("rotation_gap_formula", lambda f: lambda angle: 2 * f(angle), "check_linear"),
        ("best_split", lambda f: lambda noise: (f(noise)[0], 1.1 * f(noise)[1]), "check_split"),
        ("excess", lambda f: lambda n: {k: 2 * v for k, v in f(n).items()}, "check_parameters"),
        ("coin_log_joint", lambda f: lambda psi: f(psi) - special.log_expit(psi), "check_parameters"),
    ],
)
def test_a_wrong_formula_is_found(figures, monkeypatch, name, wrong, check):
    monkeypatch.setattr(figures, name, wrong(getattr(figures, name)))
    with pytest.raises(AssertionError):
        getattr(figures, check)()


@pytest.mark.parametrize(("d", "mean", "std"), [(1, 0.3, 0.5), (2, -1.1, 0.8), (3, 0.6, 1.7)])
def test_variances_by_quadrature_in_every_coordinate(figures, d, mean, std):
    points, weights = np.polynomial.hermite_e.hermegauss(8)  # exact for these polynomials
    weights = weights / weights.sum()
    noise = np.stack(np.meshgrid(*[points] * d, indexing="ij"), axis=-1).reshape(-1, d)
    chance = np.stack(np.meshgrid(*[weights] * d, indexing="ij"), axis=-1).reshape(-1, d).prod(axis=1)
    h = ((mean + std * noise) ** 2).sum(axis=1) / 2
    for baseline, variance in ((0, figures.score_variance), (chance @ h, figures.centred_score_variance)):
        estimate = (h - baseline) * noise[:, 0] / std
        assert chance @ estimate == pytest.approx(mean)
        assert chance @ estimate**2 - mean**2 == pytest.approx(float(variance(d, mean, std)))


def test_backpropagation_gives_the_reparametrised_estimate(figures):
    mean = torch.full((5,), 0.4, dtype=torch.float64, requires_grad=True)
    z = mean + 1.3 * torch.randn(5, dtype=torch.float64)
    (z.square().sum() / 2).backward()
    assert torch.allclose(mean.grad, z)


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


@pytest.mark.parametrize("seed", range(4))
def test_kl_of_diagonal_normals(figures, seed):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=6), np.exp(rng.normal(size=6))
    exact = D.kl_divergence(
        D.Normal(torch.tensor(mean), torch.tensor(std)),
        D.Normal(torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)),
    )
    assert figures.diagonal_kl(mean, std) == pytest.approx(exact.sum().item())


def test_missing_mass_is_the_constant_of_the_continuous_bernoulli(figures):
    probability = torch.tensor([0.01, 0.2, 0.45, 0.8, 0.99], dtype=torch.float64)
    x = torch.tensor([0.3, 0.0, 1.0, 0.6, 0.5], dtype=torch.float64)
    formula = torch.special.xlogy(x, probability) + torch.special.xlog1py(1 - x, -probability)
    exact = D.ContinuousBernoulli(probs=probability).log_prob(x)
    assert (exact - formula).numpy() == pytest.approx(
        -np.log(figures.bce_mass(probability.numpy())), abs=1e-6
    )


@pytest.mark.parametrize("d", [1, 2, 3])
def test_gradient_of_the_likelihood_vanishes_at_the_closed_form(figures, d):
    x = np.random.default_rng(d).normal(size=(60, 5)) @ np.diag([3.0, 2.0, 1.0, 0.6, 0.3])
    model = figures.fit_ppca(x, d)
    mean, loadings, log_noise = (
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (model.mean, model.loadings, math.log(model.noise))
    )
    covariance = loadings @ loadings.T + log_noise.exp() * torch.eye(5, dtype=torch.float64)
    log_p = D.MultivariateNormal(mean, covariance).log_prob(torch.tensor(x)).mean()
    assert log_p.item() == pytest.approx(figures.ppca_log_likelihood(x, model))
    log_p.backward()
    for gradient in (mean.grad, loadings.grad, log_noise.grad):
        assert gradient.abs().max() < 1e-9


def test_elbo_of_a_linear_encoder_by_simulation(figures):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 3))
    model = figures.LinearModel(x.mean(axis=0), rng.normal(size=(3, 2)), 0.4)
    mean_map, covariance = rng.normal(size=(2, 3)) / 2, np.diag([0.3, 0.8])
    means = (x - model.mean) @ mean_map.T
    z = means + rng.normal(size=(20_000, 40, 2)) * np.sqrt(np.diag(covariance))
    decoded = model.mean + z @ model.loadings.T
    reconstruction = stats.norm.logpdf(x, decoded, np.sqrt(model.noise)).sum(axis=-1).mean()
    kl = np.mean([figures.diagonal_kl(mean, np.sqrt(np.diag(covariance))) for mean in means])
    found = figures.ppca_elbo(x, model, mean_map, covariance)
    assert found == pytest.approx([reconstruction, kl], abs=0.02)
    assert found[0] - found[1] < figures.ppca_log_likelihood(x, model)


@pytest.mark.parametrize("noise", [0.003, 0.05, 0.5, 3.0])
def test_a_fixed_noise_keeps_the_directions_above_it(figures, noise):
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


def test_best_gaussian_is_stationary_and_not_beaten(figures):
    for x in (np.array([0.0, 0.7]), np.array([1.2, 0.1]), np.array([-2.0, 1.5])):
        best, mean, log_std = figures.best_gaussian(x)
        for shift in (-1e-2, 1e-2):
            assert figures.curve_bound(x, mean + shift, log_std) < best
            assert figures.curve_bound(x, mean, log_std + shift) < best


def test_a_narrow_q_puts_the_maximum_at_the_map_of_its_own_ruler(figures):
    centre = np.linspace(0, 2, 20_001)
    peak = centre[figures.coin_bound(centre, 1e-3).argmax()]
    assert special.expit(peak) == pytest.approx(5 / 7, abs=1e-4), "in log-odds, not the 4/5 of theta"


def test_labels_end_apart(figures):
    points = np.random.default_rng(0).normal(size=(10, 2)) * 0.2
    moved = figures.apart(points, 0.5)
    distances = np.linalg.norm(moved[:, None] - moved, axis=-1) + 9 * np.eye(10)
    assert distances.min() > 0.45


def test_densities_of_the_training_script(digits):
    generator = torch.Generator().manual_seed(0)
    z, mean = torch.randn(70, 2, generator=generator), torch.randn(5, 2, generator=generator)
    std = torch.rand(5, 2, generator=generator) + 0.2
    exact = D.Normal(mean, std).log_prob(z[:, None]).sum(dim=2)
    assert torch.allclose(digits.log_density(z, mean, std), exact, atol=1e-5)
    assert torch.allclose(digits.aggregate(z, mean, std), exact.logsumexp(1) - math.log(5), atol=1e-5)
    kl = D.kl_divergence(D.Normal(mean, std), D.Normal(0.0, 1.0)).mean(dim=0)
    assert torch.allclose(digits.kl_per_unit(mean, std), kl, atol=1e-5)


def test_stored_means_are_close_to_what_the_decoder_found(figures):
    stored = figures.stored()
    for mean, decoded in zip(stored["shared_mean"], stored["shared_decoded"], strict=True):
        assert np.corrcoef(mean.astype(float), decoded.astype(float))[0, 1] > 0.9


def test_share_of_the_prior_in_holes(figures, monkeypatch):
    axis = np.linspace(-4, 4, 81)
    first, second = np.meshgrid(axis, axis, indexing="ij")
    log_prior = stats.norm.logpdf(first) + stats.norm.logpdf(second)
    log_q = log_prior + np.where(first > 1.05, np.log(0.09), np.log(0.11))
    monkeypatch.setattr(figures, "stored", lambda: {"log_q": log_q})
    assert figures.prior_mass_in_holes() == pytest.approx(stats.norm.sf(1.05), abs=1e-3)
    assert figures.prior_mass_in_holes(0.05) == 0


def test_bound_and_estimate_of_the_training_script(digits, monkeypatch):
    seminar = load(digits.SEMINAR, "VAE", "negative_elbo")
    torch.manual_seed(0)
    model = seminar.VAE(nn.Linear(4, 2), nn.Linear(1, 4), 1).double()
    images = torch.bernoulli(torch.full((40, 4), 0.5).double())
    monkeypatch.setattr(digits, "ESTIMATED", 40)
    with torch.no_grad():
        found = digits.judge(seminar, model, images)
        z = torch.linspace(-9, 9, 4001).double()[:, None]
        normal = D.Normal(torch.zeros(()).double(), torch.ones(()).double())
        joint = (
            model.log_likelihood(images, z[:, None].expand(-1, 40, 1)) + normal.log_prob(z)
        ).exp()  # (4001, 40)
        log_p = torch.trapezoid(joint, z[:, 0], dim=0).log()
        mean, std = model.posterior(images)
        q = D.Normal(mean[:, 0], std[:, 0]).log_prob(z).exp()
        gap = D.Normal(mean[:, 0], std[:, 0]).log_prob(z) - (joint.log() - log_p)
        elbo = log_p - torch.trapezoid(q * gap, z[:, 0], dim=0)
    assert elbo.mean() < log_p.mean() - 0.01, "a poor encoder, so that the two differ"
    assert found["bound_first"] == pytest.approx(elbo.mean().item(), abs=0.03)
    assert found["estimate_first"] == pytest.approx(log_p.mean().item(), abs=0.01)
    assert found["reconstruction"] - found["kl"] == pytest.approx(elbo.mean().item(), abs=0.5)


def test_images_that_all_share_one_code(digits):
    class OneCode(nn.Module):
        def posterior(self, x):
            return torch.zeros(len(x), 2), torch.ones(len(x), 2)

        def decode(self, z):
            return torch.full((len(z), 6), 0.25)

    x = torch.bernoulli(torch.full((80, 6), 0.3), generator=torch.Generator().manual_seed(0))
    found = digits.shared_codes(OneCode(), x, torch.zeros(80, dtype=torch.long))
    assert found["shared_size"] == pytest.approx([80.0] * 3, rel=1e-4)
    assert found["shared_mean"] == pytest.approx(np.tile(255 * x.mean(dim=0).numpy(), (3, 1)), abs=0.51)


def test_slides_name_cells_and_parts_of_the_seminar_that_exist(digits):
    source = (ROOT / "lectures" / "lecture3" / "lecture3.typ").read_text(encoding="utf-8")
    notebook = read_notebook(digits.SEMINAR)
    headings, part = {}, "0"
    for cell in notebook.cells:
        for heading in re.findall(r"^#{2,3} (.*)", cell.source, re.M) if cell.cell_type == "markdown" else []:
            part = heading[0] if re.match(r"\d\. ", heading) else part
            headings.setdefault(part, []).append(heading)
    cells = re.findall(r"`def:(\w+)`", source)
    assert cells and set(cells) <= set(definitions(notebook, digits.SEMINAR))
    named = re.findall(r'[Ss]eminar 3, part (\d)(?: "([^"]+)")?', source)
    assert len(named) > 6
    for number, title in named:
        assert any(title in heading for heading in headings[number]), f"part {number}: no heading {title!r}"
