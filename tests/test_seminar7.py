"""The definitions of seminar 7 against closed forms and quadrature; planted mistakes are heard."""

import itertools
import math
import types

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from dgm_utils import checks, metrics, nets
from tools import definitions

s7 = definitions.seminar(7)
DOUBLE = torch.float64

pytestmark = pytest.mark.usefixtures("double")


def moved(module, size=0.1):
    """Move every parameter: at its start a dequantizer does nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return module


# ---- dequantization ----------------------------------------------------------------------------------------
FIRST = torch.tensor([True, False])


def dequantizer(kind=None, m=2, levels=4):
    mask = torch.arange(m) % 2 == 0
    return (kind or s7.Dequantizer)(mask, levels, (16,), 3)


def test_a_fresh_dequantizer_is_uniform():
    x = torch.randint(16, (300, 6)).byte()
    u, log_q = dequantizer(m=6, levels=16).draw(x, 20)
    assert u.shape == (20, 300, 6) and log_q.shape == (20, 300)
    assert log_q.abs().max() < 6 * 3e-5  # the margin alone
    assert stats.kstest(u[:, :, 4].flatten().detach().numpy(), "uniform").pvalue > 1e-4


def at_cell(noise, cell):
    """Return sampler and log-density of the noise of one image of two pixels."""
    x = torch.tensor([cell], dtype=torch.uint8)
    return (lambda n: noise.draw(x, n)[0][:, 0]), (lambda u: noise.log_prob(u, x.expand(len(u), -1)))


@pytest.mark.parametrize("cell", [[0, 3], [2, 1]])
def test_noise_is_a_density_and_its_draws_follow_it(cell):
    noise = moved(dequantizer())
    draw, log_prob = at_cell(noise, cell)
    checks.integrates_to_one(log_prob, limits=(1e-5, 1 - 1e-5))
    checks.samples_match(draw, log_prob, limits=(1e-5, 1 - 1e-5))
    u, log_q = noise.draw(torch.tensor([cell]).byte(), 500)
    again = noise.log_prob(u[:, 0], torch.tensor([cell]).byte().expand(500, -1))
    assert torch.allclose(again, log_q[:, 0], atol=1e-9)


def test_noise_depends_on_the_image():
    noise = moved(dequantizer(), 0.3)
    u = torch.rand(50, 2)
    one, other = (noise.log_prob(u, torch.tensor([cell]).byte().expand(50, -1)) for cell in ([0, 3], [2, 1]))
    assert (one - other).abs().max() > 1e-3


class Added(s7.Dequantizer):
    """Adds the log-determinants of its couplings, as if it ran from data to noise."""

    def carry(self, noise, context):
        u, log_q = super().carry(noise, context)
        for layer in self.layers:
            noise, log_det = layer(noise, context)
            log_q = log_q + 2 * log_det
        return u, log_q


class NoSlope(s7.Dequantizer):
    """Forgets the slope of the sigmoid."""

    def carry(self, noise, context):
        v = noise
        log_q = (nn.functional.logsigmoid(noise) + nn.functional.logsigmoid(-noise)).sum(1)
        for layer in self.layers:
            v, log_det = layer(v, context)
            log_q = log_q - log_det
        return super().carry(noise, context)[0], log_q


@pytest.mark.parametrize("kind", [Added, NoSlope])
def test_a_wrong_log_q_is_heard(kind):
    draw, log_prob = at_cell(moved(dequantizer(kind), 0.3), [2, 1])
    with pytest.raises(checks.CheckFailed):
        checks.samples_match(draw, log_prob, limits=(1e-5, 1 - 1e-5))


def test_uniform_noise_stays_in_its_cell_in_single_precision():
    x = torch.full((2000, 50), 255, dtype=torch.uint8)
    u, log_q = s7.uniform_noise(x, 2)
    assert u.dtype == torch.get_default_dtype() and u.shape == (2, 2000, 50) and not log_q.any()
    assert ((x + u.float()).floor() == 255).all()
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4


class Ramp:
    """The density 2 y on [0, 1)."""

    def log_prob(self, y):
        return (2 * y[:, 0]).log()


def best_noise(x, n_samples):
    """Draw the ramp's own density within the cells of x (B, 1)."""
    u = -x + (x**2 + (2 * x + 1) * torch.rand(n_samples, *x.shape)).sqrt()
    return u, ((x + u) / (x + 0.5)).log()[..., 0]


def test_the_bound_is_tight_with_the_best_noise_and_jensen_s_with_uniform():
    x = torch.arange(4.0)[:, None]
    log_p = ((2 * x[:, 0] + 1) / 16).log()
    log_w = s7.dequantization_log_weights(Ramp(), best_noise, x, 4, 300)
    assert log_w.shape == (300, 4) and torch.allclose(log_w, log_p.expand(300, -1))
    log_w = s7.dequantization_log_weights(Ramp(), s7.uniform_noise, x, 4, 100_000)
    by_hand = [integrate.quad(lambda u, k=k: math.log((k + u) / 2), 0, 1)[0] - math.log(4) for k in range(4)]
    error = log_w.std(0) / 100_000**0.5
    assert ((log_w.mean(0) - torch.tensor(by_hand)).abs() < 5 * error).all()
    checks.bound(log_w.mean(0) + 5 * error, log_p + 10 * error)


def test_plus_log_q_is_no_bound():
    x = torch.arange(4.0)[:, None]

    def turned(x, n_samples):
        u, log_q = best_noise(x, n_samples)
        return u, -log_q

    log_w = s7.dequantization_log_weights(Ramp(), turned, x, 4, 20_000)
    with pytest.raises(checks.CheckFailed, match="exceeds"):
        checks.bound(log_w.mean(0), ((2 * x[:, 0] + 1) / 16).log())


def test_cells_by_quadrature():
    pair_p, images = s7.pixel_pair()
    assert abs(pair_p.sum() - 1) < 1e-12 and images.shape == (16, 2)
    model = moved(s7.make_dequantized(FIRST, 4, 8, 2, 8, 1, margin=0)["flow"], 0.2)
    log_p, uniform = s7.cell_log_p(model, images, 4)
    assert abs(log_p.exp().sum() - 1) < 1e-4
    checks.bound(uniform, log_p)

    x, middle = images[6], (torch.arange(500) + 0.5) / 500  # and by the midpoint rule
    y = (x + torch.cartesian_prod(middle, middle)) / 4
    assert model.log_prob(y).exp().mean().item() / 16 == pytest.approx(log_p[6].exp().item(), abs=1e-6)


# ---- bounds ------------------------------------------------------------------------------------------------
def test_the_bound_is_the_log_of_the_mean_weight():
    log_w = torch.randn(7, 30) - 2000
    assert torch.allclose(
        s7.importance_weighted_bound(log_w), metrics.importance_weighted_log_likelihood(log_w)
    )
    assert torch.equal(s7.importance_weighted_bound(log_w[:1]), log_w[0])
    (gradient,) = torch.autograd.grad(s7.importance_weighted_bound(log_w.requires_grad_()).sum(), log_w)
    assert torch.allclose(gradient, log_w.detach().softmax(0))  # the shares


W = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.5, 0.5], [0.5, -0.5]], dtype=DOUBLE)


def test_linear_gaussian_is_the_gaussian_that_it_says():
    model = s7.LinearGaussian(W, 0.7, shift=0.5, spread=1.3)
    x = torch.randn(5, 4)
    marginal = MultivariateNormal(torch.zeros(4), W @ W.T + 0.49 * torch.eye(4))
    assert torch.allclose(model.exact().log_prob(x), marginal.log_prob(x))
    exact, (mean, std) = model.exact().posterior(x), model.posterior(x)
    assert torch.allclose(mean - 0.5, exact.mean)
    variance = exact.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(std**2, 1.69 * variance.expand_as(std))
    z = torch.randn(3, 5, 2)
    decoder = Independent(Normal(z @ W.T, 0.7), 1)
    assert torch.allclose(model.log_likelihood(x, z), decoder.log_prob(x))


def test_weights_are_unbiased_and_constant_with_the_exact_posterior():
    x = torch.randn(3, 4)
    spoilt, perfect = s7.LinearGaussian(W, 0.7, 0.3, 1.2), s7.LinearGaussian(W, 0.7)
    log_p = spoilt.exact().log_prob(x)
    checks.unbiased(lambda: (spoilt.log_weights(x, 50) - log_p).exp().mean(0), torch.ones(3), n=400)
    assert torch.allclose(perfect.log_weights(x, 6), log_p.expand(6, -1))


def line_case(a, std=0.9, w=1.0, points=1201):
    """Return log-weights on a grid of noise, and its shares: x = 1.5, x|z ~ N(w z, 1/2)."""
    base = torch.linspace(-9, 9, points)
    z = a + std * base
    joint = Normal(0.0, 1.0).log_prob(z) + Normal(w * z, 0.5**0.5).log_prob(torch.tensor(1.5))
    return joint - Normal(0.0, 1.0).log_prob(base) + math.log(std), Normal(0.0, 1.0).log_prob(base).softmax(0)


def test_exact_bound():
    log_w, share = line_case(0.3)
    assert s7.exact_bound(log_w, share, 1).item() == pytest.approx((share * log_w).sum().item(), abs=1e-9)
    drawn = torch.randn(5, 400_000) * 0.9 + 0.3
    joint = Normal(0.0, 1.0).log_prob(drawn) + Normal(drawn, 0.5**0.5).log_prob(torch.tensor(1.5))
    values = s7.importance_weighted_bound(joint - Normal(0.3, 0.9).log_prob(drawn))
    away = values.mean() - s7.exact_bound(log_w, share, 5)
    assert abs(away) < 5 * values.std() / len(values) ** 0.5
    bounds = [s7.exact_bound(log_w, share, K).item() for K in (1, 2, 3, 10, 100, 10_000)]
    log_p = Normal(0.0, 1.5**0.5).log_prob(torch.tensor(1.5)).item()
    assert all(a < b < log_p for a, b in itertools.pairwise(bounds))
    inner = 2 * 0.81 - 1 / 3
    variance = 0.81 / (inner / 3) ** 0.5 * math.exp(0.49 / inner) - 1
    ratio = (log_w - log_p).exp()
    assert ((share * ratio**2).sum() - 1).item() == pytest.approx(variance, abs=1e-8)
    assert 20_000 * (log_p - bounds[-1]) == pytest.approx(variance, rel=1e-2)  # Var / 2K


def test_the_reference_gradient():
    a = torch.tensor(0.3, requires_grad=True)
    log_w, share = line_case(a)
    (truth,) = torch.autograd.grad(s7.exact_bound(log_w, share, 8), a)
    noise = torch.randn(8, 400_000)
    z = 0.3 + 0.9 * noise
    slope = -z + 2 * (1.5 - z) + noise / 0.9  # d log w / dz, the density of q frozen
    log_w = -(z**2) / 2 - (1.5 - z) ** 2 + noise**2 / 2
    drawn = (log_w.softmax(0) ** 2 * slope).sum(0)
    assert abs(drawn.mean() - truth) < 4.5 * drawn.std() / len(drawn) ** 0.5
    assert truth.item() == pytest.approx(0.15112, abs=1e-5)


def test_resampled_density():
    q, line = Normal(torch.tensor(0.3), 0.8), torch.linspace(-8, 8, 1601)

    def log_weight(z):
        return Normal(0.0, 1.0).log_prob(z) + Normal(z**2, 0.5).log_prob(torch.tensor(1.5)) - q.log_prob(z)

    assert torch.allclose(
        s7.resampled_density(q.log_prob(line), log_weight(line), torch.zeros(0, 5)), q.log_prob(line)
    )
    for K in (2, 6):
        others = log_weight(q.sample((K - 1, 4000)))
        log_ew = s7.resampled_density(q.log_prob(line), log_weight(line), others)
        assert log_ew.exp().sum().item() * 0.01 == pytest.approx(1, abs=0.03)

        def sample(n, K=K):
            z = q.sample((K, n))
            return z.gather(0, torch.multinomial(log_weight(z).softmax(0).T, 1).T)[0]

        table = log_ew.numpy()
        checks.samples_match(sample, lambda z, t=table: torch.as_tensor(np.interp(z, line, t)), n=5000)


# ---- gradients ---------------------------------------------------------------------------------------------
def one_number(shift=-0.7, spread=0.9 * 3**0.5):
    return s7.LinearGaussian(torch.ones(1, 1), 0.5**0.5, shift, spread)


def exact_gradients(K):
    a, w = torch.tensor(0.3, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    log_w, share = line_case(a, w=w)
    return torch.stack(torch.autograd.grad(s7.exact_bound(log_w, share, K), (a, w)))


def gradients(make, K=8, model=None, copies=250):
    model = model or one_number()
    loss = make(model, K)(torch.full((copies, 1), 1.5))["loss"]
    found = torch.autograd.grad(-loss, (model.shift, model.W))
    return torch.stack([part.squeeze() for part in found])


@pytest.mark.parametrize("make", [s7.iwae_loss, s7.doubly_reparametrised_loss])
@pytest.mark.parametrize("K", [1, 8])
def test_both_losses_have_the_gradient_of_the_bound(make, K):
    checks.unbiased(lambda: gradients(make, K), exact_gradients(K), n=300)


def faulty(squared=True, frozen=True):
    """Return a doubly reparametrised loss with one half of it missing."""

    def make(model, n_samples):
        def loss(x):
            mean, std = model.posterior(x)
            z = mean + std * torch.randn_like(mean.expand(n_samples, -1, -1))
            if frozen:
                mean, std = mean.detach(), std.detach()
            log_q = s7.log_normal((z - mean) / std) - std.log().sum(dim=1)
            log_w = model.log_likelihood(x, z) + s7.log_normal(z) - log_q
            share = log_w.detach().softmax(dim=0)
            if squared and frozen:
                z.register_hook(lambda gradient: share[..., None] * gradient)
            if squared and not frozen:  # the factor on all of the encoder's gradient
                return {"loss": -(share**2 * log_w).sum(0).mean()}
            return {"loss": -s7.importance_weighted_bound(log_w).mean()}

        return loss

    return make


def test_half_a_derivation_is_heard():
    truth = exact_gradients(8)
    checks.unbiased(lambda: gradients(faulty()), truth, n=300)  # nothing is missing
    for make in (faulty(squared=False), faulty(frozen=False)):
        with pytest.raises(checks.CheckFailed, match="entry 0"):
            checks.unbiased(lambda make=make: gradients(make)[:1], truth[:1], n=300)


def test_the_doubly_reparametrised_gradient_has_less_variance_and_none_at_the_posterior():
    model = one_number()
    plain, doubly = (
        torch.stack([gradients(make, model=model, copies=1)[0] for _ in range(600)])
        for make in (s7.iwae_loss, s7.doubly_reparametrised_loss)
    )
    assert doubly.std() < plain.std() / 4
    at_posterior = one_number(0.0, 1.0)
    assert abs(gradients(s7.doubly_reparametrised_loss, model=at_posterior)[0]) < 1e-9
    assert abs(gradients(s7.iwae_loss, model=at_posterior, copies=1)[0]) > 1e-3


def small_vae():
    return s7.VAE(nets.mlp(6, 8, 4, activation=nn.Tanh), nets.mlp(2, 8, 6, activation=nn.Tanh), 2)


def test_losses_of_a_vae_agree_but_for_the_encoder_s_noise():
    model, x = small_vae(), torch.bernoulli(torch.full((400, 6), 0.5))
    checks.gradients_reach(s7.doubly_reparametrised_loss(model, 4), model, x)
    torch.manual_seed(1)
    plain = s7.iwae_loss(model, 4)(x)
    torch.manual_seed(1)
    doubly = s7.doubly_reparametrised_loss(model, 4)(x)
    for name in ("loss", "elbo"):  # the same draws: the same values
        assert torch.allclose(plain[name], doubly[name])
    by_plain, by_doubly = (
        torch.autograd.grad(terms["loss"], [*model.decoder.parameters()]) for terms in (plain, doubly)
    )
    for one, other in zip(by_plain, by_doubly, strict=True):
        assert torch.allclose(one, other)
    with torch.no_grad():  # for evaluation
        s7.doubly_reparametrised_loss(model, 4)(x)


# ---- surgery -----------------------------------------------------------------------------------------------
def test_the_aggregate_is_torch_s_mixture():
    mean, std, z = torch.randn(9, 3), torch.rand(9, 3) + 0.1, torch.randn(20, 3)
    parts = Independent(Normal(mean, std), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(9)), parts)
    assert torch.allclose(s7.log_aggregate(z, mean, std), mixture.log_prob(z))


def test_surgery_against_quadrature_in_the_plane():
    model = s7.LinearGaussian(W[:2], 0.6, shift=0.1, spread=1.2)
    x = torch.randn(6, 2) * 1.5
    line = torch.linspace(-6, 6, 301)
    z, cell = torch.cartesian_prod(line, line), 0.04**2
    each = torch.stack([Independent(Normal(*pair), 1).log_prob(z) for pair in zip(*model.posterior(x))])  # noqa: B905
    together = each.logsumexp(0) - math.log(6)
    prior, share = s7.log_normal(z), each.exp() * cell / 6
    likelihood = torch.stack([model.log_likelihood(one[None], z[:, None])[:, 0] for one in x])
    exact = {
        "kl": (share * (each - prior)).sum(),
        "mutual_information": (share * (each - together)).sum(),
        "marginal_kl": (share * (together - prior)).sum(),
        "reconstruction": (share * likelihood).sum(),
    }
    found = s7.surgery(model, x, draws=20_000)
    for name, value in exact.items():
        error = found.get(f"{name}_error", 1e-6 / 4.5)
        assert abs(found[name] - value.item()) < 4.5 * error, name
        assert error < 0.02
    assert found["mutual_information"] < math.log(6)


def test_surgery_of_some_codes_against_all_posteriors():
    x, model = torch.randn(400, 4), s7.LinearGaussian(W, 0.1)
    whole, part = s7.surgery(model, x), s7.surgery(model, x, codes=200)
    assert part["kl"] == pytest.approx(whole["kl"])  # of all examples, not of those with a code
    error = math.hypot(whole["mutual_information_error"], part["mutual_information_error"])
    assert abs(whole["mutual_information"] - part["mutual_information"]) < 5 * error
    among_few = s7.surgery(model, x[:20])["mutual_information"]
    assert among_few < math.log(20) < whole["mutual_information"]
    total = math.hypot(whole["mutual_information_error"], whole["marginal_kl_error"])
    assert abs(whole["mutual_information"] + whole["marginal_kl"] - whole["kl"]) < 5 * total


def test_surgery_does_not_move_a_vae_and_takes_single_precision():
    model = small_vae().float()
    x = torch.bernoulli(torch.full((50, 6), 0.5)).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = s7.surgery(model, x, codes=30, draws=2)
    assert all(math.isfinite(value) for value in found.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_mean_outside_the_logarithm_is_heard():
    """The mean of log q(z|x_j) in place of log q(z) books all of the KL, and more, as information."""
    x, model = torch.randn(200, 4), s7.LinearGaussian(W, 0.1)
    wrong = types.FunctionType(s7.surgery.__wrapped__.__code__, dict(s7.surgery.__wrapped__.__globals__))
    wrong.__defaults__ = s7.surgery.__wrapped__.__defaults__
    wrong.__globals__["log_aggregate"] = lambda z, mean, std: torch.stack(
        [Independent(Normal(mean, std), 1).log_prob(one).mean() for one in z]
    )
    with torch.no_grad():
        found = wrong(model, x)
    assert found["mutual_information"] > math.log(200)
