"""What lecture 8 claims: the best prior, flows as priors, posterior collapse, beta as price and as slope."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import optimize
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from dgm_utils import weights
from lectures.lecture8 import figures, trained_models
from lectures.lecture8.trained_models import S3, S8, SIGMA, toy_parts
from tests.decks import mean_and_error, number, table_rows
from tools.definitions import seminar

S6 = seminar(6, "MAF", "IAF")
SEEDS = range(5)

FINE = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-11, "tolerance_change": 1e-15}  # of L-BFGS

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


# --- Which prior? ----------------------------------------------------------------------------------------


def codes(seed, n=6, d=4, apart=1.5):
    """Return n Gaussians q(z|x_i) of d codes: means and deviations."""
    torch.manual_seed(seed)
    return apart * torch.randn(n, d), torch.exp(0.4 * torch.randn(n, d) - 0.5)


def aggregate(mean, std, z):
    return trained_models.mixture_log_prob(z, mean, std, torch.full((len(mean),), -math.log(len(mean))))


def mean_kl(mean, std, prior, draws=8_000):
    """Return the mean over i of KL(q_i || p) with its standard error: the only part that holds the prior."""
    torch.manual_seed(7)
    z = mean + std * torch.randn(draws, *mean.shape)
    gaps = Normal(mean, std).log_prob(z).sum(-1) - prior(z.flatten(0, 1)).view(draws, -1)
    return mean_and_error(gaps.mean(dim=1))


@pytest.mark.parametrize("seed", SEEDS)
def test_no_prior_beats_the_aggregate_posterior(seed):
    """And what another loses is its marginal KL: here of the best single Gaussian, by moments."""
    mean, std = codes(seed)
    best, error = mean_kl(mean, std, lambda z: aggregate(mean, std, z))
    spread = (std**2 + mean**2).mean(0) - mean.mean(0) ** 2
    moments = Normal(mean.mean(0), spread.sqrt())
    others = {
        "moments": lambda z: moments.log_prob(z).sum(-1),
        "wider": lambda z: aggregate(mean, 1.2 * std, z),
        "moved": lambda z: aggregate(mean + 0.3, std, z),
        "standard": lambda z: Normal(0.0, 1.0).log_prob(z).sum(-1),
    }
    for name, prior in others.items():
        value, own_error = mean_kl(mean, std, prior)
        assert value - best > 4 * (error + own_error), name
    assert best + 3 * error >= 0 and best <= math.log(6) + 3 * error


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_gaussian_is_maximum_likelihood_with_codes_as_data(seed):
    """The mean KL to a family of Gaussians, closed form, is smallest at the moments of q(z)."""
    mean, std = codes(seed)
    at, log_s = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    search = torch.optim.LBFGS([at, log_s], max_iter=300, **FINE)

    def loss():
        search.zero_grad()
        value = kl_divergence(Normal(mean, std), Normal(at, log_s.exp())).sum(1).mean()
        value.backward()
        return value

    search.step(loss)
    assert torch.allclose(at, mean.mean(0), atol=1e-4)
    second = (std**2 + mean**2).mean(0)
    assert torch.allclose((2 * log_s).exp(), second - mean.mean(0) ** 2, rtol=1e-4)


def test_two_codes_come_near_log_2_and_stay_below():
    z, weight = np.linspace(-12, 24, 400_001), 36 / 400_000
    for apart, expected in ((4.0, 0.6327), (8.0, 0.6931)):
        first, second = (np.exp(-((z - at) ** 2) / 2) / np.sqrt(2 * np.pi) for at in (0.0, apart))
        information = (first * -np.log((first + second) / (2 * first + 1e-300))).sum() * weight
        assert information == pytest.approx(expected, abs=6e-5) and information < math.log(2)


def test_information_is_at_most_log_n_and_comes_near_it_when_codes_hardly_overlap():
    for apart, low, high in ((0.0, 0.0, 1.0), (1.5, 0.2, math.log(6)), (200.0, math.log(6), math.log(6))):
        mean, std = codes(0, apart=apart)
        value, error = mean_kl(mean, std, lambda z, mean=mean, std=std: aggregate(mean, std, z))
        assert low - 1e-6 <= value + 4 * error and value - 4 * error <= high + 1e-6


def test_a_list_of_the_images_is_the_best_model_of_them(printed):
    """The mean log of N probabilities with a sum of at most 1 is at most -log N."""
    torch.manual_seed(0)
    p = torch.distributions.Dirichlet(torch.ones(9)).sample((2000,))
    assert (p.log().mean(dim=1) <= -math.log(9) + 1e-12).all()
    assert printed["log_n"] == f"{math.log(60_000):.2f}" == "11.00"


def test_what_the_aggregate_remembers(printed):
    """Seen images pay at most log n at every n; new ones more, for d = 50 more than with N(0, I)."""
    for d in (2, 50):
        n, seen, seen_error, new, new_error = figures.trained()[f"memory_{d}"].T
        assert n.tolist() == list(trained_models.HELD)
        assert (seen <= np.log(n) + 3 * seen_error + 1e-6).all()
        assert (new[:-1] > seen[:-1]).all() and (np.diff(new) < 0).all()
    known, fresh = figures.trained()["standard_50"][[0, 2]]
    assert seen[-1] + 10 < known and new[-1] > fresh + 10
    n, seen, seen_error, new, new_error = figures.trained()["memory_2"].T
    assert abs(new[-1] - seen[-1]) < 3 * np.hypot(seen_error[-1], new_error[-1])  # codes that overlap
    assert printed["memory_50"] == [f"{figures.trained()['memory_50'][-1][k]:.1f}" for k in (1, 3)]


def test_the_rate_in_the_plane_and_its_two_parts(printed):
    """Marginal KL by draws against the grid alone; the parts add up; less than what codes can hold."""
    log_q = figures.log_aggregate()
    assert np.exp(log_q).sum() * figures.CELL == pytest.approx(1, abs=2e-3)
    by_grid = (np.exp(log_q) * (log_q - figures.log_standard())).sum() * figures.CELL
    assert figures.marginal_kl("standard") == pytest.approx(by_grid, abs=0.01)
    parts = number(printed["plane_information"]) + number(printed["plane_marginal"])
    assert parts == pytest.approx(number(printed["plane_rate"]), abs=0.011)


def test_fitted_priors_in_order(printed):
    """More components, a smaller KL; a floor at zero; no fit of posteriors beats as many free Gaussians."""
    kl = {name: figures.marginal_kl(name) for name in figures.FITS}
    assert [number(cell) for cell in printed["fits"]] == pytest.approx(list(kl.values()), abs=0.0051)
    assert kl["standard"] > kl["mixture_1"] > kl["mixture_10"] > kl["mixture_100"] > 0
    assert kl["standard"] > kl["vamp_10"] > kl["vamp_100"] > kl["mixture_100"]
    assert kl["vamp_10"] > kl["mixture_10"] and kl["maf"] < kl["mixture_10"]
    for name in ("mixture_1", "mixture_10", "mixture_100", "maf"):
        log_p = figures.trained()[f"fit_{name}"].reshape(figures.POINTS, -1)
        log_q = figures.log_aggregate()
        by_grid = (np.exp(log_q) * (log_q - log_p)).sum() * figures.CELL
        assert by_grid == pytest.approx(kl[name], abs=0.02), name
    error = number(printed["fits_error"])
    assert kl["standard"] == pytest.approx(0.282, abs=4 * error) and 0.002 < error < 0.02


def test_a_poor_start_of_a_vampprior_is_not_its_family(printed):
    """Ten pseudo-inputs that begin at training images end far above those moved to the fitted mixture."""
    starts = figures.trained()["starts_vamp_10"] - figures.entropy()
    images, _, mixture = starts.reshape(len(trained_models.VAMP_STARTS), trained_models.VAMP_SEEDS)
    assert images.min() > 1 > 0.3 > mixture.max()
    assert [number(cell) for cell in printed["vamp_starts"]] == pytest.approx(images.tolist(), abs=0.051)
    for count in (10, 100):  # the one that is kept is the best; another hundred thousand draws
        best = figures.trained()[f"starts_vamp_{count}"].min()
        error = 4 * number(printed["fits_error"])
        assert best == pytest.approx(float(figures.trained()[f"cross_vamp_{count}"]), abs=error)


def test_trained_together_every_start_gains(printed):
    lines = np.reshape(printed["joint"], (-1, 6))
    for row, line in zip(figures.trained()["joint"], lines, strict=True):
        assert row[2] == pytest.approx(row[0] - row[1], abs=1e-3)
        assert row[2] > 3 * row[3] and row[5] < row[4]
        assert [number(cell) for cell in line[:2]] == pytest.approx(row[:2].tolist(), abs=0.06)
    codes_of_images, pseudo = map(number, printed["widths"])
    assert pseudo > 2 * codes_of_images


def vamp(seed, d=4, m=7, count=3):
    torch.manual_seed(seed)
    encoder = torch.nn.Sequential(torch.nn.Linear(m, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2 * d)).double()
    prior = S8.VampPrior(encoder, torch.rand(count, m)).double()
    torch.nn.init.normal_(prior.logits)
    return encoder, prior


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_a_vampprior_is_weighted_by_responsibilities(seed):
    """(a) and (b) of the Backup, against autograd: pseudo-inputs, and the encoder's own weights."""
    encoder, prior = vamp(seed)
    z = torch.randn(4)
    mean, std = prior.parts()
    log_parts = Normal(mean, std).log_prob(z).sum(1)
    rho = (prior.logits.log_softmax(0) + log_parts).softmax(0).detach()
    variables = [prior.raw, *encoder.parameters()]
    whole = torch.autograd.grad(prior.log_prob(z), variables, retain_graph=True)
    weighted = torch.autograd.grad((rho * log_parts).sum(), variables)
    for found, expected in zip(whole, weighted, strict=True):
        assert torch.allclose(found, expected)


def test_a_vampprior_of_all_images_is_the_aggregate_posterior():
    encoder, prior = vamp(0, count=5)
    x = prior.pseudo_inputs().detach()
    with torch.no_grad():
        prior.logits.zero_()
        mean, log_variance = encoder(x).chunk(2, dim=-1)
        z = torch.randn(20, 4)
        assert torch.allclose(prior.log_prob(z), aggregate(mean, (log_variance / 2).exp(), z))


# --- Where the flow stands -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_flow_prior_is_a_flow_posterior_with_the_inverse_in_its_decoder(seed):
    """Log-weights of both models agree draw by draw, d = 4; densities of model B by autograd alone."""
    torch.manual_seed(seed)
    d, m = 4, 5
    network = S6.GaussianMADE(d, (16, 16)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    flow, mean, std = S6.MAF(network), torch.randn(d), torch.randn(d).exp()
    weight, x = torch.randn(m, d), torch.randn(m)

    def decoder(z):
        return Normal(torch.tanh(z @ weight.T), 0.7).log_prob(x).sum(-1)

    z = mean + std * torch.randn(50, d)
    epsilon, log_det = flow(z)
    prior_a = S8.FlowPrior([flow], d)
    log_a = decoder(z) + prior_a.log_prob(z) - Normal(mean, std).log_prob(z).sum(-1)
    # Model B, from epsilon: q_B by the change of variables of h^-1, its Jacobian by autograd.
    back = flow.inverse(epsilon)
    jacobians = [torch.autograd.functional.jacobian(lambda e: flow.inverse(e[None])[0], e) for e in epsilon]
    log_q = Normal(mean, std).log_prob(back).sum(-1) + torch.stack([j.det().abs().log() for j in jacobians])
    log_b = decoder(back) + Normal(0.0, 1.0).log_prob(epsilon).sum(-1) - log_q
    assert torch.allclose(log_a, log_b)
    assert log_det.abs().max() > 0.1
    # And that q_B is the IAF of the seminar, whose noise is q_A: it draws in one pass.
    assert torch.allclose(S6.IAF(network).inverse(z), epsilon)


def test_the_passes_of_both_models():
    """One pass in training for both; a sample costs d passes of the flow only where it is the prior."""
    prior, calls = S8.AutoregressivePrior(6, [8], layers=1), []
    prior.layers[0].network.register_forward_hook(lambda *_: calls.append(1))
    prior.log_prob(torch.randn(3, 6, dtype=torch.get_default_dtype()))
    assert len(calls) == 1
    prior.sample(2)
    assert len(calls) == 1 + 6


# --- Collapse --------------------------------------------------------------------------------------------


def discrete(seed, strong):
    """Return a model of two bits with a code of three values: pi, p(z), p(x|z), q(z|x), all tables."""
    torch.manual_seed(seed)
    pi, prior = torch.rand(4).softmax(0), torch.randn(3).softmax(0)
    decoder = (pi.log() + (0.0 if strong else 1.0) * torch.randn(3, 4)).softmax(1)
    return pi, prior, decoder, torch.randn(4, 3).softmax(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_bits_back_costs_the_gap(seed):
    """Net length by its three parts is -ELBO, and -log p(x) plus KL(q || p(z|x)), for every x."""
    _, prior, decoder, q = discrete(seed, strong=False)
    for x in range(4):
        length = (q[x] * (-decoder[:, x].log() - prior.log() + q[x].log())).sum()
        p_x = prior @ decoder[:, x]
        exact = prior * decoder[:, x] / p_x
        assert torch.isclose(length, -p_x.log() + (q[x] * (q[x] / exact).log()).sum())
        assert length >= -p_x.log()


def mean_bound(pi, prior, decoder, q):
    """Return the mean ELBO and the mean gap of a model of tables, over x ~ pi."""
    posterior = prior * decoder.T / (prior @ decoder)[:, None]
    gap = (pi * (q * (q / posterior).log()).sum(1)).sum()
    return (pi[:, None] * q * (decoder.T.log() + prior.log() - q.log())).sum(), gap


@pytest.mark.parametrize("seed", range(40))
def test_when_a_decoder_ignores_its_code(seed):
    """(a) The ELBO of the tables against that of ignoring z, an ELBO, too: iff the gap is small."""
    pi, prior, decoder, q = discrete(seed, strong=seed % 2 == 0)
    p_0 = (pi.log() + 0.7 * torch.randn(4)).softmax(0)  # what the decoder can do alone
    if seed % 4 < 2:  # else the encoder stays poor
        exact = prior * decoder.T
        q = 0.9 * exact / exact.sum(1, keepdim=True) + 0.1 * q
    elbo, gap = mean_bound(pi, prior, decoder, q)
    alone, no_gap = mean_bound(pi, prior, p_0.expand(3, 4), prior.expand(4, 3))
    assert abs(no_gap) < 1e-12
    kl = [(pi * (pi / other).log()).sum() for other in (p_0, prior @ decoder)]
    assert (elbo > alone) == (gap < kl[0] - kl[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_decoder_that_needs_no_code(seed):
    """(b) With p_0 = pi: a tie for a model of pi that uses z with its exact posterior, else a loss."""
    torch.manual_seed(seed)
    prior, decoder = torch.randn(3).softmax(0), torch.randn(3, 4).softmax(1)
    pi = prior @ decoder  # the code is used, and the mixture is the data
    best = mean_bound(pi, prior, pi.expand(3, 4), prior.expand(4, 3))[0]
    assert torch.isclose(best, (pi * pi.log()).sum())
    exact = prior * decoder.T / pi[:, None]
    assert torch.isclose(mean_bound(pi, prior, decoder, exact)[0], best)
    for other in (torch.randn(4, 3).softmax(1), prior.expand(4, 3), 0.9 * exact + 0.1 * prior):
        assert mean_bound(pi, prior, decoder, other)[0] < best - 1e-4
    assert mean_bound(pi, prior, torch.randn(3, 4).softmax(1), exact)[0] < best - 1e-4


def scalar_bound(w, a, s, v, noise=1.0):
    """Return the mean bound of the scalar linear VAE as the slide writes it."""
    error = (1 - w * a) ** 2 * v + w**2 * s**2
    rate = (a**2 * v + s**2 - 1 - (s**2).log()) / 2
    return -0.5 * math.log(2 * math.pi * noise) - error / (2 * noise) - rate


def hessian(v, w, a, s, noise=1.0):
    """Return the Hessian and the gradient of the mean bound at a point."""
    point = torch.tensor([w, a, s])
    f = lambda p: scalar_bound(p[0], p[1], p[2], torch.tensor(v), noise)  # noqa: E731
    return torch.autograd.functional.hessian(f, point), torch.autograd.functional.jacobian(f, point)


def test_the_scalar_bound_by_simulation():
    torch.manual_seed(0)
    w, a, s, v, noise = 0.8, 0.5, 0.6, 2.3, 0.7
    x = v**0.5 * torch.randn(400_000)
    z = a * x + s * torch.randn_like(x)
    reconstruction = Normal(w * z, noise**0.5).log_prob(x)
    kl = S3.standard_normal_kl(a * x, torch.full_like(x, s))
    value, error = mean_and_error(reconstruction - kl)
    exact = scalar_bound(*map(torch.tensor, (w, a, s)), v, noise).item()
    assert abs(value - exact) < 4 * error


@pytest.mark.parametrize(("v", "noise"), [(0.3, 1.0), (0.95, 1.0), (1.05, 1.0), (3.0, 1.0), (0.5, 0.2)])
def test_when_a_unit_dies(v, noise):
    """Collapse: a maximum below the threshold, a saddle above it, where the stated point is the maximum."""
    curvature, slope = hessian(v, 0.0, 0.0, 1.0, noise)
    assert slope.abs().max() < 1e-12
    top = torch.linalg.eigvalsh(curvature)[-1].item()
    assert (top < 0) == (v < noise)
    if v > noise:
        w = (v - noise) ** 0.5
        curvature, slope = hessian(v, w, w / v, (noise / v) ** 0.5, noise)
        assert slope.abs().max() < 1e-10 and torch.linalg.eigvalsh(curvature)[-1] < 0
        value = scalar_bound(*map(torch.tensor, (w, w / v, (noise / v) ** 0.5)), v, noise)
        log_p = -0.5 * (math.log(2 * math.pi * v) + 1)  # Gaussian data, the model's variance is v
        assert value.item() == pytest.approx(log_p)
        rate = (w**2 / v + noise / v - 1 - math.log(noise / v)) / 2
        assert rate == pytest.approx(math.log(v / noise) / 2)


@pytest.mark.parametrize("v", [0.4, 0.9, 1.4, 4.0])
def test_there_are_no_other_stationary_points(v):
    """Newton's method from many starts finds collapse and, above the threshold, the two maxima only."""
    generator = np.random.default_rng(0)
    ends = set()
    for _ in range(24):
        start = generator.normal(size=3) * [2, 2, 0.5] + [0, 0, 1]

        def slopes(p):
            leaf = torch.tensor(p, requires_grad=True)
            value = scalar_bound(leaf[0], leaf[1], leaf[2], v)
            return torch.autograd.grad(value, leaf)[0].numpy()

        found = optimize.root(slopes, start)
        if found.success and found.x[2] > 0 and np.abs(slopes(found.x)).max() < 1e-8:
            ends.add(tuple(np.round(found.x, 4) + 0.0))
    w = max(v - 1, 0) ** 0.5
    allowed = {(0.0, 0.0, 1.0), (w, w / v, v**-0.5), (-w, -w / v, v**-0.5)}
    assert (
        ends <= {tuple(np.round(point, 4) + 0.0) for point in allowed} if v > 1 else ends == {(0.0, 0.0, 1.0)}
    )
    assert (0.0, 0.0, 1.0) in ends and (v <= 1 or len(ends) == 3)


def test_the_picture_of_the_threshold():
    """The best encoder's bound is the mean log-density of the model; training ends on the curve."""
    for v in (0.5, 1.5, 3.0):
        for w in (0.0, 0.4, 1.3):
            a, s = w / (w**2 + 1), (1 / (w**2 + 1)) ** 0.5
            value = scalar_bound(*map(torch.tensor, (w, a, s)), v).item()
            assert float(figures.best_bound(np.array(w), v)) == pytest.approx(value)
    for v in (0.3, 0.7, 1.3, 2, 3, 4.5, 6):
        assert figures.trained_rate(v) == pytest.approx(max(0, math.log(v) / 2), abs=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dropped_direction_is_a_saddle(seed):
    """Second derivative of mean log p along column k = t u at t = 0: of the sign of v - sigma^2; m = 5."""
    torch.manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(5, 5)).Q
    variances = torch.tensor([4.0, 2.0, 1.3, 0.6, 0.2])
    data = axes @ variances.diag() @ axes.T
    for noise in (0.4, 1.0):
        kept = axes[:, :1] * (variances[0] - noise).sqrt()
        for j in (1, 2, 3, 4):

            def gain(t, j=j, kept=kept, noise=noise):
                model = kept @ kept.T + t**2 * torch.outer(axes[:, j], axes[:, j]) + noise * torch.eye(5)
                return -0.5 * (torch.logdet(model) + torch.trace(torch.linalg.solve(model, data)))

            bend = torch.autograd.functional.hessian(gain, torch.tensor(0.0)).item()
            assert bend == pytest.approx((variances[j].item() - noise) / noise**2)


# --- The VAE of four numbers -----------------------------------------------------------------------------


def toy_point(seed):
    torch.manual_seed(seed)
    return (
        0.5 * torch.randn(4, 4).tril(-1),
        torch.randn(4),
        0.2 * torch.randn(4),
        0.4 * torch.randn(4),
        torch.tensor(-0.3),
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_bound_of_four_numbers_by_simulation(seed):
    V, w, log_s, a, log_r = toy_point(seed)
    x = MultivariateNormal(torch.zeros(4), SIGMA.double()).sample((300_000,))
    mean = x @ a
    z = mean + log_r.exp() * torch.randn_like(mean)
    reconstruction = Normal(x @ V.T + z[:, None] * w, log_s.exp()).log_prob(x).sum(1)
    kl = S3.standard_normal_kl(mean, log_r.exp().expand_as(mean))
    for values, exact in zip((reconstruction, kl), toy_parts(V, w, log_s, a, log_r), strict=True):
        value, error = mean_and_error(values)
        assert abs(value - exact.item()) < 4 * error


@pytest.mark.parametrize("seed", SEEDS)
def test_the_models_own_posterior_mean(seed):
    """Against the conditional mean of the joint normal of (z, x); the bound is then the mean log p(x)."""
    V, w, log_s, *_ = toy_point(seed)
    back = torch.linalg.inv(torch.eye(4) - V)
    cross = back @ w
    of_x = torch.outer(cross, cross) + back @ (2 * log_s).exp().diag() @ back.T
    b = torch.linalg.solve(of_x, cross)
    assert torch.allclose(trained_models.reading(V, w, log_s), b)
    log_r = 0.5 * (1 - cross @ b).log()
    reconstruction, kl = toy_parts(V, w, log_s, b, log_r)
    exact = -0.5 * (torch.logdet(2 * math.pi * of_x) + torch.trace(torch.linalg.solve(of_x, SIGMA.double())))
    assert torch.isclose(reconstruction - kl, exact)


def test_one_bound_and_three_codes(printed):
    best = MultivariateNormal(torch.zeros(4), SIGMA.double()).entropy().item()
    assert figures.toy_best() == pytest.approx(-best)
    for kind in trained_models.TRAININGS:
        traces = figures.toy(kind)
        assert traces.shape[0] == trained_models.STARTS
        assert (traces[:, :, 1] <= -best + 1e-5).all(), "a bound above minus the entropy"
        assert (traces[:, -1, 1] > -best - number(printed["toy_gap"]) - 1e-6).all()
    rates = {kind: figures.toy(kind)[:, -1, 0] for kind in trained_models.TRAININGS}
    assert rates["late no reading"] == pytest.approx(rates["no reading"], abs=2e-3)
    assert rates["plain"].max() < 0.1 and rates["no reading"].min() > 1.4
    # The factor model with variance 0.8 and noise 0.2 is exact: rate 1/2 log(1 + 4 * 0.8 / 0.2).
    assert rates["no reading"] == pytest.approx(np.log(17) / 2, abs=2e-3)
    assert rates["free bits"] == pytest.approx(np.full(5, trained_models.FLOOR), abs=0.01)
    assert printed["toy_free"] == [f"{rates['free bits'].min():.2f}", f"{rates['free bits'].max():.2f}"]
    assert rates["aggressive"].max() < 0.2 < rates["annealed"].max()
    assert (np.sort(rates["aggressive"])[:4] < 0.06).all()
    plain = figures.toy("plain")[:, :, 0]
    assert plain.max() < 0.05 and (plain[:, -1] > plain[:, 0]).sum() == 2


def test_a_late_encoder_loses_codes_and_an_aggressive_one_fewer(printed):
    """Every start: far below the diagonal, the model moves to the left; ten steps for one keep more."""
    late, aggressive, deaf = (figures.toy(f"late{kind}") for kind in ("", " aggressive", " no reading"))
    assert (late[:, 0, 2] > 0.6).all() and (late[:, 0, 3] < 0.03).all()
    assert (late[:, -1, 2] < late[:, 0, 2] - 0.1).all()
    assert (aggressive[:, -1, 0] > late[:, -1, 0] + 0.1).all()
    assert (np.abs(late[:, -1, 2] - late[:, -1, 3]) < 1e-3).all()
    assert deaf[:, -1, 2] == pytest.approx(np.full(5, 0.97), abs=0.005)
    assert (deaf[:, :, 2].max(axis=1) > 1).all()
    for name, traces in (("toy_late", late), ("toy_late_aggressive", aggressive)):
        assert printed[name] == [f"{traces[:, -1, 0].min():.2f}", f"{traces[:, -1, 0].max():.2f}"]


def test_the_stored_traces_are_those_of_the_code(monkeypatch):
    monkeypatch.setattr(trained_models, "TOY_STEPS", 301)
    for kind in ("plain", "late"):
        again = trained_models.toy_training(kind, 0)
        assert again[::10] == pytest.approx(figures.toy(kind)[0][:31], abs=1e-4)


# --- Remedies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_free_bits_do_not_push_below_the_floor_and_are_a_bound_with_the_maximum(seed):
    torch.manual_seed(seed)
    mean = torch.randn(30, 5) * torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0])
    std, least = torch.full((30, 5), 0.9), 0.3
    mean.requires_grad_()
    units = S3.standard_normal_kl(mean, std)
    charged = S8.free_bits(units, least)
    slope = torch.autograd.grad(charged, mean, retain_graph=True)[0].abs().sum(0)
    low = units.mean(0) < least
    assert low.any() and not low.all()
    assert (slope[low] == 0).all() and (slope[~low] > 0).all()
    rate = units.sum(1).mean()
    assert rate <= charged <= rate + 5 * least
    hinge = (units.mean(0) - least).clamp(min=0).sum()
    assert torch.isclose(charged, hinge + 5 * least) and hinge < rate
    assert torch.equal(torch.autograd.grad(hinge, mean)[0].abs().sum(0) > 0, ~low)


@pytest.mark.parametrize("seed", range(200))
def test_no_channel_has_a_smaller_error_at_its_rate(seed):
    w, a, log_s, log_v = np.random.default_rng(seed).normal(size=4)
    v, s = math.exp(log_v), math.exp(0.5 * log_s)
    rate = (a**2 * v + s**2 - 1 - math.log(s**2)) / 2
    assert (1 - w * a) ** 2 * v + w**2 * s**2 >= v * math.exp(-2 * rate) - 1e-12
    a = 0.6 / v**0.5  # the case of equality
    s, w = (1 - a**2 * v) ** 0.5, a * v
    rate = -math.log(s)
    assert (1 - w * a) ** 2 * v + w**2 * s**2 == pytest.approx(v * math.exp(-2 * rate))


def test_two_points_as_data_waste_nats_on_the_marginal_kl():
    """x = +-sqrt 6, noise 1: the optimum's aggregate has variance 1 and is not N(0, 1)."""
    v, a, s = 6.0, 5**0.5 / 6, (1 / 6) ** 0.5
    z = np.linspace(-8, 8, 200_001)
    parts = [np.exp(-((z - a * x) ** 2) / (2 * s**2)) / (s * (2 * np.pi) ** 0.5) for x in (v**0.5, -(v**0.5))]
    q, width = sum(parts) / 2, z[1] - z[0]
    assert (q * z**2).sum() * width == pytest.approx(1)
    marginal = (q * (np.log(q) + z**2 / 2 + np.log(2 * np.pi) / 2)).sum() * width
    assert marginal == pytest.approx(0.237, abs=5e-4)
    assert math.log(v) / 2 == pytest.approx(0.896, abs=5e-4)


@pytest.mark.parametrize("v", figures.PRICED)
def test_the_price_of_free_bits(v, printed):
    """The optimum of the objective over (w, a, s), found by search, is where the slide says."""

    def minus_objective(p):
        w, a, log_s = torch.tensor(p)
        value = scalar_bound(w, a, log_s.exp(), v)
        rate = (a**2 * v + (2 * log_s).exp() - 1 - 2 * log_s) / 2
        return -(value + rate - rate.clamp(min=trained_models.FLOOR)).item()

    starts = ([1.0, 0.5, -0.5], [0.4, 0.8, -0.2])
    options = {"maxiter": 20_000, "xatol": 1e-9, "fatol": 1e-12}
    best = min(
        (
            optimize.minimize(minus_objective, start, method="Nelder-Mead", options=options)
            for start in starts
        ),
        key=lambda end: end.fun,
    )
    w, a, log_s = torch.tensor(best.x)
    rate = ((a**2 * v + (2 * log_s).exp() - 1 - 2 * log_s) / 2).item()
    assert rate == pytest.approx(max(trained_models.FLOOR, math.log(v) / 2), abs=1e-3)
    top = max(scalar_bound(*map(torch.tensor, point), v).item() for point in optima(v))
    lost = top - scalar_bound(w, a, log_s.exp(), v).item()
    assert lost == pytest.approx(figures.free_bits_price(v), abs=1e-4)
    if v == figures.PRICED[0]:
        assert lost > 0.1 and printed["free_bits_price"] == f"{lost:.2f}"


def optima(v):
    w = max(v - 1, 0) ** 0.5
    return [(0.0, 0.0, 1.0), (w, w / v, min(1, 1 / v) ** 0.5)]


@pytest.mark.parametrize(("n", "alpha"), [(2, 0.5), (3, 0.8), (5, 0.9), (6, -0.3), (4, 0.0)])
def test_the_floor_of_a_delta_vae(n, alpha):
    """The smallest KL of a factorised normal to the prior in time, by search over means and deviations."""
    steps = torch.arange(n)
    prior = MultivariateNormal(torch.zeros(n), alpha ** (steps[:, None] - steps).abs().double())
    mean, log_s = torch.randn(n).requires_grad_(), torch.zeros(n, requires_grad=True)
    search = torch.optim.LBFGS([mean, log_s], max_iter=500, **FINE)

    def loss():
        search.zero_grad()
        value = kl_divergence(MultivariateNormal(mean, (2 * log_s).exp().diag()), prior)
        value.backward()
        return value

    search.step(loss)
    delta = (n - 2) / 2 * math.log(1 + alpha**2) - math.log(1 - alpha**2) / 2
    assert loss().item() == pytest.approx(delta, abs=1e-6)
    if (n, alpha) == (3, 0.8):  # the numbers of the notes: mutual information is the other direction
        assert delta == pytest.approx(0.758, abs=5e-4)
        assert -prior.covariance_matrix.logdet().item() / 2 == pytest.approx(1.022, abs=5e-4)


# --- beta ------------------------------------------------------------------------------------------------


def linear_loss(parts, variances, noise):
    """Return distortion and rate of a linear VAE on data N(0, diag(variances)), exact, in nats."""
    W, A, log_s = parts
    left = torch.eye(len(variances)) - W @ A
    error = (left**2 @ variances).sum() + (W**2 @ (2 * log_s).exp()).sum()
    m = len(variances)
    distortion = error / (2 * noise) + m / 2 * math.log(2 * math.pi * noise)
    rate = ((A**2 @ variances) + (2 * log_s).exp() - 1 - 2 * log_s).sum() / 2
    return distortion, rate


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5, 6.0])
def test_the_linear_beta_vae_is_water_filling(beta):
    """m = 6, d = 4: the best of two searches over all weights has the rate and error of the theorem."""
    variances, noise, d = torch.tensor([5.0, 2.5, 1.2, 0.7, 0.3, 0.1]), 0.4, 4
    best = math.inf
    for seed in range(2):
        torch.manual_seed(seed)
        parts = [0.5 * torch.randn(6, d), 0.3 * torch.randn(d, 6), torch.zeros(d)]
        parts = [part.requires_grad_() for part in parts]
        search = torch.optim.LBFGS(parts, max_iter=3000, **FINE)

        def loss(parts=parts, search=search):
            search.zero_grad()
            distortion, rate = linear_loss(parts, variances, noise)
            value = distortion + beta * rate
            value.backward()
            return value

        search.step(loss)
        if loss().item() < best:
            best = loss().item()
            distortion, rate = (part.item() for part in linear_loss(parts, variances, noise))
    level = beta * noise
    coded = variances[:d]
    expected = 0.5 * (coded[coded > level] / level).log().sum().item()
    error = coded.clamp(max=level).sum() + variances[d:].sum()
    assert rate == pytest.approx(expected, abs=2e-3)
    constant = 3 * math.log(2 * math.pi * noise)
    assert distortion == pytest.approx(error.item() / (2 * noise) + constant, abs=5e-3)


def test_beta_is_noise_times_beta_for_every_network():
    """(distortion + beta rate) / beta and the -ELBO with noise beta sigma^2 differ by a constant."""
    gaps = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        parts, variances = [torch.randn(6, 4), torch.randn(4, 6), torch.randn(4)], torch.rand(6) + 0.1
        distortion, rate = linear_loss(parts, variances, 0.4)
        other, same_rate = linear_loss(parts, variances, 0.4 * 3)
        gaps.append(((distortion + 3 * rate) / 3 - (other + same_rate)).item())
    assert gaps == pytest.approx([gaps[0]] * 5)


def test_the_curve_of_mnist_has_the_slopes_that_it_shows(printed):
    """dD/dr = -beta by differences; convex; smallest -ELBO at beta = 1; the units of the slide."""
    for beta in figures.SHOWN_BETAS:
        (r, d, _), (r_, d_, _) = (figures.linear_point(beta * factor) for factor in (1 - 1e-4, 1 + 1e-4))
        assert (d_ - d) / (r_ - r) == pytest.approx(-beta, rel=1e-3)
    betas = np.geomspace(0.1, 100, 60)
    r, d, units = np.array([figures.linear_point(beta) for beta in betas]).T
    assert (np.diff(r) <= 0).all() and (np.diff(d) >= 0).all() and (np.diff(units) <= 0).all()
    total = {beta: sum(figures.linear_point(beta)[:2]) for beta in (0.5, 0.9, 1, 1.1, 2)}
    assert min(total, key=total.get) == 1
    for beta in (0.7, 1, 5):  # the line below the whole curve
        r0, d0, _ = figures.linear_point(beta)
        assert (d >= d0 - beta * (r - r0) - 1e-9).all()
    assert printed["linear_units"] == [str(figures.linear_point(beta)[2]) for beta in figures.PRINTED_BETAS]
    variances, noise = figures.spectrum()
    assert (variances[:-1] >= variances[1:]).all()
    assert noise == pytest.approx(variances[figures.UNITS :].sum() / (len(variances) - figures.UNITS))
    assert printed["linear_units"][0] == str(figures.UNITS)  # a learnt noise drops no unit


def test_a_solved_weighted_problem_solves_its_own_constrained_one():
    """Theorem and curve on a finite set of models, convex or not: duality (a), (b), and the dent."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        rate, distortion = generator.uniform(0, 3, 30), generator.uniform(0, 5, 30)
        for beta in (0.2, 1.0, 3.0):
            best = (distortion + beta * rate).argmin()
            allowed = rate <= rate[best]
            assert distortion[best] == distortion[allowed].min()
            for epsilon in (0.5, 1.5):
                if (rate <= epsilon).any():
                    dual = (distortion + beta * (rate - epsilon)).min()
                    assert dual <= distortion[rate <= epsilon].min() + 1e-12
    dent = np.array([[0.0, 4.0], [1.0, 3.9], [2.0, 0.0]])  # the middle one is optimal for no beta
    chosen = {int((dent[:, 1] + beta * dent[:, 0]).argmin()) for beta in np.geomspace(1e-3, 1e3, 2001)}
    assert chosen == {0, 2}
    straight = np.array([[0.0, 4.0], [1.0, 2.0], [2.0, 0.0]])  # here every point is, for beta = 2
    assert np.ptp(straight[:, 1] + 2 * straight[:, 0]) == 0


def test_a_weight_of_at_least_one_keeps_the_bound_and_less_may_break_it():
    v, noise = 3.0, 1.0
    log_p = -0.5 * (math.log(2 * math.pi * v) + 1)  # best mean log-density of the data
    for beta, broken in ((1.0, False), (4.0, False), (0.2, True)):
        level = beta * noise
        w = max(v - level, 0) ** 0.5
        point = map(torch.tensor, (w, w / v, (min(level, v) / v) ** 0.5))
        w, a, s = point
        rate = (a**2 * v + s**2 - 1 - (s**2).log()) / 2
        value = scalar_bound(w, a, s, v, noise) + (1 - beta) * rate
        own = -0.5 * (math.log(2 * math.pi * (w**2 + noise)) + v / (w**2 + noise))
        assert (value.item() > max(own.item(), log_p) + 1e-6) is broken
        assert broken or value.item() <= own.item() + 1e-9


# --- Printed ---------------------------------------------------------------------------------------------


def test_the_wrong_density_of_the_pitfalls(printed):
    z = np.linspace(-12, 12, 200_001)
    wrong = np.exp(-(-2 + z**2) / (2 * math.exp(-2))) / np.sqrt(2 * np.pi)
    assert printed["wrong_density"] == f"{np.trapezoid(wrong, z):.0f}" == "595"


def published_rows(title):
    """Return the rows of a slide's tables by their first cell; * is bold."""
    rows = table_rows("lecture8", title)
    return {name: [cell.strip("$*") for cell in cells] for name, cells in rows.items()}


PUBLISHED = {
    "Published results": {
        "VAE, $Normal(0, I)$": ["89.78"],
        "IWAE, $K = 50$": ["86.82"],
        "VampPrior, $C = 500$": ["85.79"],
        "VampPrior, as the authors report it": ["85.57"],
        "IAF posterior, ResNet": ["79.88"],
        "autoregressive prior, the same networks": ["79.30"],
        "and an autoregressive decoder: VLAE": ["79.03"],
        "convolutional VAE": ["87.41"],
        "PixelVAE; gated": ["80.64; 80.08"],
        "gated, without upsampling": ["79.66", "79.02"],
        "gated PixelCNN, exact, no code": ["80.10"],
        'PixelCNN of #cited("oord2016pixelrnn"), exact': ["81.30"],
    },
    "Disentanglement: what is meant": {
        "VAE, $beta = 1$": ["61.58 ± 0.5", "0.10"],
        "beta-VAE ($beta = 4$ in the first column)": ["99.23 ± 0.1", "0.21"],
        "PCA; raw pixels": ["84.9; 45.75"],
    },
    "PixelVAE: an autoregressive decoder": {
        "convolutional VAE": ["87.41", "80.10"],
        "gated PixelVAE": ["80.08", "81.30"],
        "PixelVAE": ["80.64", "79.02"],
    },
    "Same way in, different way out": {"MNIST, static, nats (the same networks)": ["79.30", "79.88"]},
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_published_numbers_row_by_row(title):
    found = published_rows(title)
    for name, cells in PUBLISHED[title].items():
        kept = [cell for cell in found.get(name, []) if re.fullmatch(r"[\d.;± ]+", cell)]
        assert kept == cells, name


def test_the_sprites_are_printed_as_stored(printed):
    lines = np.reshape(printed["sprites"], (-1, 4)).tolist()
    for line, beta in zip(lines, trained_models.BETAS, strict=True):
        rate, distortion = figures.trained()[f"sprites_{beta}_rd"]
        assert [number(cell) for cell in line[1:3]] == pytest.approx([distortion, rate], abs=0.06)
    first, last = (list(map(number, line[1:])) for line in lines)
    assert first[0] < last[0] and first[1] > last[1]  # more weight: more distortion, less rate


def test_the_priors_of_seminar_8_as_its_weights_tell_them():
    """The rows of the two models that ship, against what was stored with them; samples, from the weights."""
    rows = published_rows("Five priors, trained with their encoders")
    for name, row in (("standard", "$Normal(0, I)$"), ("vamp", "VampPrior")):
        facts = weights.facts(trained_models.SHIPPED[name])
        bound, estimate, gain, marginal = rows[row]
        assert [bound, estimate] == [f"{facts['bound']:.2f}", f"{facts['nats']:.2f}"]
        assert number(marginal.split(" ± ")[0]) == pytest.approx(facts["marginal"], abs=0.0051)
        if name == "vamp":
            assert gain == f"{facts['gain']:.2f} ± {facts['gain_error']:.2f}"
    for name, row in rows.items():
        if row[-2]:  # the gain is that of the estimates
            gain = number(rows["$Normal(0, I)$"][1]) - number(row[1])
            assert number(row[2].split(" ± ")[0]) == pytest.approx(gain, abs=0.0101), name


def test_the_stored_samples_are_those_of_the_weights():
    with torch.no_grad():
        torch.set_default_dtype(torch.float32)
        again = trained_models.shipped()
    for name, images in again.items():
        assert np.abs(images.astype(float) - figures.trained()[name]).max() <= 1, name
    assert np.abs(again["shipped_standard"].astype(float) - again["shipped_vamp"]).max() > 100
