"""What lecture 6 claims: autoregressive flows, their stacks, the duality of two KLs, dequantization."""

import copy
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from dgm_utils import checks, data, metrics, weights
from lectures.lecture4 import trained_flows as lecture4
from lectures.lecture5.trained_flows import SEEN
from lectures.lecture6 import figures, trained_flows
from lectures.lecture6.figures import S4, S5, S6, maf, real, redrawn
from tests.decks import table_rows

SEEDS = range(5)
UNIT = Normal(0.0, 1.0)

pytestmark = pytest.mark.usefixtures("double")


def jacobian(f, x):
    return torch.autograd.functional.jacobian(lambda row: f(row[None])[0][0], x)


def random_layer(order, seed=0):
    return redrawn(maf(torch.as_tensor(order)), seed)


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


# --- MAF and IAF -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gaussian_autoregressive_model_is_a_flow(seed):
    """Triangular in its order, minus the sum of log-scales, and the product of the normal conditionals."""
    torch.manual_seed(seed)
    order = torch.randperm(5)
    layer, x = random_layer(order, seed), torch.randn(3, 5)
    log_scale, shift = layer.network(x)
    product = Normal(shift, log_scale.exp()).log_prob(x).sum(dim=1)
    assert torch.allclose(S6.Flow([layer]).log_prob(x), product)
    for row, scale in zip(x, log_scale, strict=True):
        matrix = jacobian(layer, row)[order][:, order]
        assert torch.equal(matrix.triu(1), torch.zeros(5, 5))
        assert torch.allclose(matrix.diagonal(), (-scale[order]).exp())
        assert torch.allclose(matrix.det().abs().log(), -scale.sum())


def test_the_entries_that_the_slides_count():
    for m in (8, 64):
        found = {name: int(matrix.sum()) for name, matrix in figures.dependences(m).items()}
        assert found["coupling"] == m + (m // 2) ** 2
        assert found["AR layer"] == found["random order"] == m * (m + 1) // 2
        assert found["two, opposite orders"] == m**2


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_inverse_order_is_right_for_involutions_only(order):
    layer, x = random_layer(order), torch.randn(20, 4)
    with torch.no_grad():
        z, _ = layer(x)
        assert torch.allclose(figures.inverse_in(layer, z, list(order)), x)
        other = figures.inverse_in(layer, z, np.argsort(order).tolist())
    own_inverse = all(order[order[k]] == k for k in range(4))
    assert torch.allclose(other, x) is own_inverse


def test_the_count_of_orders_that_hide_the_fault(printed):
    # Involutions of n things: the last one stays, or is exchanged with one of n - 1 others.
    count = [1, 1]
    for n in range(2, 7):
        count.append(count[-1] + (n - 1) * count[-2])
    assert printed["involutions"] == count[6] and math.factorial(6) == 720
    assert printed["random_order"] != [figures.RANDOM_ORDER.index(k) + 1 for k in range(6)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_iaf_is_a_maf_read_backwards(seed):
    """Shift and scale of an IAF give those of h as on the slide; the log-determinant turns its sign."""
    torch.manual_seed(seed)
    network, z = random_layer(torch.randperm(5), seed).network, torch.randn(4, 5)
    log_tilde, mu_tilde = network(z)  # now read as x_i = mu_i + sigma_i z_i
    x = mu_tilde + log_tilde.exp() * z
    mu, sigma = -mu_tilde / log_tilde.exp(), 1 / log_tilde.exp()
    assert torch.allclose((z - mu) / sigma, x)
    for row, scale in zip(z, log_tilde, strict=True):
        matrix = torch.autograd.functional.jacobian(
            lambda u: network(u[None])[1][0] + network(u[None])[0][0].exp() * u, row
        )
        assert torch.allclose(matrix.det().abs().log(), scale.sum())
    # The same network as MAF and as IAF of the seminar: each is the other's inverse.
    h, backwards = S6.MAF(network), S6.IAF(network)
    x, log_det = h(z)
    z_again, log_det_back = backwards(x)
    assert torch.allclose(z_again, z) and torch.allclose(log_det_back, -log_det)
    assert torch.allclose(log_det_back, network(z)[0].sum(dim=1))
    assert torch.allclose(backwards.inverse(z), x) and torch.allclose(h.inverse(x), z)


def test_the_passes_of_the_table(printed):
    """Density of a given x, and sample: a hook counts both, of every kind of layer."""
    for m, layers in ((6, 1), (6, 3), (64, 5)):
        assert figures.passes("MAF", m, layers) == [layers, layers * m]
        assert figures.passes("IAF", m, layers) == [layers * m, layers]
        assert figures.passes("RealNVP", m, layers) == [layers, layers]
    assert figures.passes("MADE", 6, 1) == [1, 6]
    assert printed["passes_maf"] == ["5 / 320", "10 / 7,840"]
    assert printed["passes_iaf"] == ["320 / 5", "7,840 / 10"]
    assert printed["passes_realnvp"] == ["5 / 5", "10 / 10"]
    assert printed["passes_made"] == ["1 / 64", "1 / 784"]


def test_an_iaf_scores_its_own_samples_in_as_many_passes_as_it_has_layers():
    student, calls = S6.Flow([S5.ActNorm(6), *trained_flows.stack(S6.IAF, 6, [4], 3)]), []
    for layer in student.layers[1:]:
        layer.maf.network.register_forward_hook(lambda *_: calls.append(1))
    trained_flows.student_sample(student, torch.randn(2, 6))
    assert len(calls) == 3


def test_a_coupling_is_an_autoregressive_layer():
    """Its conditionals: the identity for the first half, functions of that half for the others."""
    layer, x = redrawn(figures.coupling(6), seed=1), torch.randn(7, 6)
    z, log_det = layer(x)
    log_scale, shift = layer.scale_and_shift(x[:, :3])  # z = x e^s + t: sigma = e^-s, mu = -t e^-s
    mu = torch.cat([torch.zeros(7, 3), -shift * (-log_scale).exp()], dim=1)
    sigma = torch.cat([torch.ones(7, 3), (-log_scale).exp()], dim=1)
    assert torch.allclose((x - mu) / sigma, z) and torch.allclose(-sigma.log().sum(dim=1), log_det)


def test_an_autoregressive_layer_is_m_couplings_the_last_coordinate_first():
    layer, x = random_layer(range(5)), torch.randn(6, 5)

    def move(h, i):
        log_scale, shift = layer.network(h)
        moved = h.clone()
        moved[:, i] = (h[:, i] - shift[:, i]) / log_scale[:, i].exp()
        return moved

    h = x
    for i in reversed(range(5)):
        h = move(h, i)
    assert torch.allclose(h, layer(x)[0])
    h = x
    for i in range(5):  # the other way round the networks see coordinates that have moved
        h = move(h, i)
    assert not torch.allclose(h, layer(x)[0], atol=1e-3)


# --- Stacks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_layers_in_one_order_are_one_affine_layer(seed):
    first, second = random_layer(range(4), seed), random_layer(range(4), seed + 10)
    x = torch.randn(5, 4)
    h, z = first(x)[0], second(first(x)[0])[0]
    (log_a, mu), (log_b, mu_) = first.network(x), second.network(h)
    shift, scale = mu + log_a.exp() * mu_, log_a.exp() * log_b.exp()
    assert torch.allclose((x - shift) / scale, z)

    def bending(layers, i):
        """The largest change of the slope of z_i in x_i alone: zero when z_i is affine in x_i."""
        f = S6.Flow(layers)
        moved = x.clone()
        moved[:, i] += 1.0
        again = x.clone()
        again[:, i] += 2.0
        return (f(again)[0] - 2 * f(moved)[0] + f(x)[0])[:, i].abs().max().item()

    for i in range(4):
        assert bending([first, second], i) < 1e-12
    # With the second order reversed, z_1 sees everything, and bends.
    assert bending([first, random_layer([3, 2, 1, 0], seed + 10)], 0) > 1e-3


def test_the_best_layer_of_the_figure_is_the_best(printed):
    """Its loss by another road: E of half the log of 2 pi e times the conditional variances, minus H."""
    side = torch.linspace(-trained_flows.LIMIT, trained_flows.LIMIT, trained_flows.POINTS)
    step = (side[1] - side[0]).item()
    log_pi = figures.MOONS.log_prob(trained_flows.plane(trained_flows.LIMIT))
    p = log_pi.exp().reshape(len(side), len(side)).T * step**2  # (first, second)
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    entropy = -(log_pi.exp() * log_pi).sum().item() * step**2
    for first, table in enumerate((p, p.T)):
        marginal = table.sum(dim=1)
        variance = (marginal * side**2).sum() - (marginal * side).sum() ** 2
        known = marginal > 1e-14
        conditional = table[known] / marginal[known, None]
        spread = conditional @ side**2 - (conditional @ side) ** 2
        mean_log = (variance.log() + (marginal[known] * spread.log()).sum()) / 2
        loss = math.log(2 * math.pi * math.e) + mean_log.item() - entropy
        assert figures.moons_kl()[first] == pytest.approx(loss, abs=1e-4)
        log_p = figures.best_layer(first)
        assert log_p.exp().sum().item() * step**2 == pytest.approx(1, abs=0.02)
    assert figures.moons_kl()[2] < 0.1 * figures.moons_kl()[0]
    assert printed["layer_kl"] == [f"{value:.2f}" for value in figures.moons_kl()]


def test_the_bent_map_makes_its_conditional_normal():
    x = np.linspace(-4.5, 5, 4001)
    density, cdf = figures.bent(x)
    slope = np.gradient(stats.norm.ppf(cdf), x)
    inside = (cdf > 1e-6) & (cdf < 1 - 1e-6)
    assert (stats.norm.pdf(stats.norm.ppf(cdf)) * slope)[inside] == pytest.approx(density[inside], abs=1e-4)


def test_a_made_with_mixtures_is_one_layer_that_bends():
    """Four variables, three components whose parameters see what came before; Jacobian by autograd."""
    torch.manual_seed(0)
    networks = [torch.nn.Linear(max(i, 1), 9) for i in range(4)]

    def parts(x, i):
        raw = torch.tanh(networks[i](x[:i]) if i else networks[0].bias)  # constants first
        weights, means, scales = raw.split(3)
        return weights.softmax(dim=0), 2 * means, scales.exp()

    def f(x):
        z = []
        for i in range(4):
            weights, means, scales = parts(x, i)
            z.append(UNIT.icdf((weights * UNIT.cdf((x[i] - means) / scales)).sum()))
        return torch.stack(z)

    for x in torch.randn(10, 4):
        mixture = 0
        for i in range(4):
            weights, means, scales = parts(x, i)
            mixture = mixture + torch.logsumexp(weights.log() + Normal(means, scales).log_prob(x[i]), 0)
        matrix = torch.autograd.functional.jacobian(f, x)
        assert torch.equal(matrix.triu(1), torch.zeros(4, 4))
        assert torch.allclose(UNIT.log_prob(f(x)).sum() + matrix.det().log(), mixture)


@pytest.mark.parametrize("seed", SEEDS)
def test_batch_norm_in_train_mode_loses_two_directions(seed):
    torch.manual_seed(seed)
    x = 3 * torch.randn(7, 1) + 1
    matrix = torch.autograd.functional.jacobian(figures.normalise, x)[:, 0, :, 0]
    assert torch.linalg.matrix_rank(matrix, atol=1e-8) == 5
    centred, scale = x[:, 0] - x.mean(), x.std(correction=0)
    for lost in (torch.ones(7), centred):
        assert (matrix @ lost).abs().max() < 1e-9
    free = torch.linalg.qr(torch.stack([torch.ones(7), centred], dim=1), mode="complete").Q[:, 2:]
    assert torch.allclose(matrix @ free, free / scale)


def test_the_batch_norm_of_the_seminar_is_the_one_of_the_slide(printed):
    layer = S6.BatchNorm(1).double()
    z, reported = layer(figures.SIX)
    assert torch.allclose(z, F.batch_norm(figures.SIX, None, None, training=True))
    assert printed["batch_norm_reported"] == f"{reported[0].item():.2f}".replace("-", "\N{MINUS SIGN}")
    z, log_det = layer.eval()(figures.SIX)
    slope = jacobian(layer, figures.SIX[0]).log().item()
    assert log_det[0].item() == pytest.approx(slope)


# --- Two KLs, one flow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_duality_in_closed_form(seed):
    """Normal data through a linear AR layer: both KLs, and both gradients, by the formula for normals."""
    torch.manual_seed(seed)
    root = torch.randn(5, 5)
    pi = MultivariateNormal(torch.randn(5), root @ root.T + 0.3 * torch.eye(5))
    lower = (torch.randn(5, 5).tril(-1) + torch.randn(5).exp().diag()).requires_grad_()
    noise = MultivariateNormal(torch.zeros(5), torch.eye(5))
    model = MultivariateNormal(torch.zeros(5), lower.inverse() @ lower.inverse().T)  # x = L^-1 z
    codes = MultivariateNormal(lower @ pi.mean, lower @ pi.covariance_matrix @ lower.T)
    in_x, in_z = kl_divergence(pi, model), kl_divergence(codes, noise)
    assert in_x.item() == pytest.approx(in_z.item())
    gradients = [torch.autograd.grad(kl, lower, retain_graph=True)[0].tril() for kl in (in_x, in_z)]
    assert torch.allclose(*gradients)
    entropy = codes.entropy() - pi.entropy()
    assert entropy.item() == pytest.approx(lower.diagonal().log().sum().item())  # which does change


@pytest.mark.parametrize("seed", SEEDS)
def test_duality_for_a_network_by_samples(seed):
    """In four dimensions: the integrand is the same number at x and at f(x), whatever the flow."""
    flow, pi = S6.Flow([random_layer(range(4), seed)]), Normal(0.3, 1.2)
    x = pi.sample((100, 4))
    with torch.no_grad():
        z, _ = flow(x)
        in_x = pi.log_prob(x).sum(dim=1) - flow.log_prob(x)
        log_codes = S6.pushed_log_prob(flow, lambda x: pi.log_prob(x).sum(dim=1), z)
        by_autograd = torch.stack(
            [pi.log_prob(row).sum() - torch.linalg.slogdet(jacobian(flow, row))[1] for row in x[:10]]
        )
        assert torch.allclose(log_codes[:10], by_autograd)
        in_z = log_codes - UNIT.log_prob(z).sum(dim=1)
    assert torch.allclose(in_x, in_z)


def test_the_two_numbers_of_the_figure(printed):
    in_x, in_z, *_ = figures.trained()["dual"].tolist()
    assert in_x == pytest.approx(in_z, abs=1e-4) and in_x > 0.02
    assert printed["dual"] == [f"{in_x:.3f}", f"{in_z:.3f}"]
    assert figures.trained()["dual"][2:].numpy() == pytest.approx(1, abs=1e-5)
    # The window of the figure of the images gives the same; that of the codes cuts off what the slide says.
    log_pi = figures.MOONS.log_prob(trained_flows.plane(trained_flows.LIMIT))
    cell = trained_flows.cell(trained_flows.LIMIT)
    coarse = S4.divergences(log_pi, figures.trained()["moons_2"], cell)["forward"].item()
    assert coarse == pytest.approx(in_x, abs=2e-5)
    written = printed["cut_off"]["mantissa"] * 10.0 ** printed["cut_off"]["exponent"]
    assert figures.cut_off() == pytest.approx(written, rel=0.1) and 0 < written < 1e-3


def test_entropy_of_an_iaf_and_of_logistic_noise():
    lower, shift = torch.randn(4, 4).tril(-1) + torch.randn(4).exp().diag(), torch.randn(4)
    gaussian = MultivariateNormal(shift, lower @ lower.T)
    entropy = 2 * math.log(2 * math.pi * math.e) + lower.diagonal().log().sum()
    assert gaussian.entropy().item() == pytest.approx(entropy.item())
    logistic, _ = integrate.quad(lambda z: -stats.logistic.pdf(z) * stats.logistic.logpdf(z), -60, 60)
    assert logistic == pytest.approx(2)


def test_a_student_scores_its_own_samples_as_its_density_does():
    """One pass of each IAF layer gives samples and log q; the slow direction gives the same log q."""
    layers = [S6.IAF(redrawn(S6.GaussianMADE(6, [16], order), 4)) for order in ([0, 3, 1, 5, 2, 4], range(6))]
    student = S6.Flow([redrawn(S5.ActNorm(6), 3), *layers]).double()
    z = torch.randn(5, 6)
    x, log_q = trained_flows.student_sample(student, z)
    assert torch.allclose(student.log_prob(x), log_q) and torch.allclose(student.inverse(z), x)


# --- IAF as posterior ------------------------------------------------------------------------------------


def test_a_linear_iaf_is_every_gaussian():
    """The seminar's IAF with the weights of the proof, against PyTorch's normal of that covariance."""
    root, mean = torch.randn(5, 5), torch.randn(5)
    sigma, mu = torch.rand(5) + 0.5, torch.randn(5)
    target = MultivariateNormal(mean, root @ root.T / 5 + 0.3 * torch.eye(5))
    lower = target.scale_tril / sigma  # columns over sigma
    layer = S6.IAF(S6.GaussianMADE(5, [8])).double()
    network, diagonal = layer.maf.network, lower.diagonal()
    raw = 2 * torch.atanh(-diagonal.log() / 2)  # the network bounds its log-scales
    with torch.no_grad():
        network.output.weight.zero_()
        network.direct.weight.zero_()
        network.output.bias.copy_(torch.cat([raw, -(mean - lower @ mu) / diagonal]))
        network.direct.weight[5:] = -lower / diagonal[:, None]  # the mask keeps what is below the diagonal
    z_0 = mu + sigma * torch.randn(20, 5)
    z = layer.inverse(z_0)
    back, log_det = layer(z)
    log_q = Normal(mu, sigma).log_prob(z_0).sum(dim=1) + log_det
    assert torch.allclose(back, z_0) and torch.allclose(log_q, target.log_prob(z))


def test_the_known_posterior_and_what_each_family_reaches(printed):
    z, limit = trained_flows.plane(trained_flows.POSTERIOR_LIMIT), trained_flows.POSTERIOR_LIMIT
    cell = trained_flows.cell(limit)
    evidence = integrate.quad(  # integrate z_2 in closed form
        lambda a: stats.norm.pdf(a) * stats.norm.pdf(SEEN, a**2, np.hypot(1, 0.3)), -9, 9
    )[0]
    joint = trained_flows.log_joint(z).exp().sum().item() * cell
    assert joint == pytest.approx(evidence, rel=1e-5)
    for name, log_q in figures.posteriors().items():
        assert log_q.exp().sum().item() * cell == pytest.approx(1, abs=2e-3), name
    line, step = torch.linspace(-limit, limit, trained_flows.POINTS), 2 * limit / (trained_flows.POINTS - 1)
    gaussian, first, second, four = figures.posterior_kl()
    assert 0 < four < first < second < gaussian
    # With zeta_1 first q(zeta_1) is normal, and the KL of a marginal is at most that of the pair.
    a = np.linspace(-8, 8, 8001)
    log_p1 = stats.norm.logpdf(a) + stats.norm.logpdf(SEEN, a**2, np.hypot(1, 0.3))
    log_p1 -= np.log(np.trapezoid(np.exp(log_p1), a))

    def marginal(u):
        log_q = stats.norm.logpdf(a, u[0], np.exp(u[1]))
        return np.trapezoid(np.exp(log_q) * (log_q - log_p1), a)

    floor = min(optimize.minimize(marginal, [at, -0.3]).fun for at in (-1.0, 0.0, 1.0))
    assert floor == pytest.approx(0.1802, abs=1e-3) and floor - 1e-3 <= first < floor + 0.03
    # Mean field (lecture 4): the best factor of one code, given the other's, beats no normal by less.
    mean_field = [Normal(1.0, 0.5).log_prob(line), UNIT.log_prob(line)]  # a start to one side
    log_pi = figures.log_posterior().reshape(len(line), len(line)).T  # (z_1, z_2)
    for _ in range(200):
        for j, table in ((1, log_pi.T), (0, log_pi)):
            other = mean_field[1 - j].exp() * step
            log_factor = table @ other
            mean_field[j] = log_factor - torch.logsumexp(log_factor, 0) - math.log(step)
    log_q = (mean_field[0][:, None] + mean_field[1]).T.flatten()
    assert figures.reverse_kl(log_q) <= gaussian < figures.reverse_kl(log_q) + 0.2
    assert printed["posterior_kl"] == [f"{value:.3f}" for value in figures.posterior_kl()]


def test_the_elbo_of_a_flow_posterior_misses_exactly_the_gap():
    """E [log p(x, z_T) - log q(z_T)] by samples against log p(x) - KL(q || p(z | x)) by quadrature."""
    flow = trained_flows.posterior_flow([[0, 1], [1, 0]]).double()
    flow.layers[0].shift.data = real([2.0, -1.5])  # far out, where a prior at z_0 would be another number
    flow.layers[0].log_scale.data = real([-1.5, -1.4])
    z, limit = trained_flows.plane(trained_flows.POSTERIOR_LIMIT), trained_flows.POSTERIOR_LIMIT
    with torch.no_grad():
        base = flow.inverse(z)
        log_q = UNIT.log_prob(base).sum(dim=1) - flow(base)[1]
        cell = trained_flows.cell(limit)
        gap = S4.divergences(figures.log_posterior(), log_q, cell)["reverse"]
        log_evidence = (trained_flows.log_joint(z).exp().sum() * cell).log()
        checks.unbiased(
            lambda: -trained_flows.negative_elbo(flow, torch.randn(50, 2)), log_evidence - gap, n=400
        )


# --- Discrete data ---------------------------------------------------------------------------------------


def comb_log_prob(x, width):
    teeth = stats.norm.logpdf(x[..., None], np.arange(256), width) - np.log(256)
    return np.logaddexp.reduce(teeth, axis=-1).sum(axis=-1)


def test_combs_have_no_best_one_on_any_image():
    images = np.random.default_rng(0).integers(0, 256, (10, 6)).astype(float)
    for width in (1e-1, 1e-3, 1e-5):
        bound = -6 * np.log(width) - 6 * np.log(256 * np.sqrt(2 * np.pi))
        assert comb_log_prob(images, width) == pytest.approx(bound, abs=1e-6)  # other teeth are far away
        assert (comb_log_prob(images, width) >= bound - 1e-9).all()
    assert comb_log_prob(images, 1.0).max() < comb_log_prob(images, 1e-2).min()


def test_pixels_that_are_always_black(printed):
    images = data.load_images("mnist")
    known = torch.cat([images.train.images, images.valid.images]).flatten(1)
    assert len(known) == 60_000 and (known == 0).all(dim=0).sum() == printed["constant_pixels"]


@pytest.mark.parametrize("width", [0.2, 0.4, 1.0])
def test_uniform_noise_bounds_the_mass_of_a_cell_and_misses_a_kl(width):
    exact, lower = figures.cell_bits(width)

    def density(y):
        return figures.toy_density(np.array(y), width)

    for x in range(4):
        mass, _ = integrate.quad(density, x, x + 1)
        assert 2 ** exact[x] == pytest.approx(mass)
        mean, _ = integrate.quad(lambda y: np.log2(density(y)), x, x + 1)
        assert lower[x] == pytest.approx(mean, abs=1e-8)
        gap, _ = integrate.quad(lambda y, mass=mass: np.log2(mass / density(y)), x, x + 1)
        assert gap == pytest.approx(exact[x] - lower[x], abs=1e-8) and gap > 0
    code, bound = -figures.FOUR @ exact, -figures.FOUR @ lower
    assert figures.bits(figures.FOUR) <= code <= bound


def test_the_bound_in_two_dimensions_by_samples():
    torch.manual_seed(0)
    pi = data.mixture([[0.4, 1.3], [1.6, 0.5]], scales=0.5)
    line = torch.linspace(0, 1, 2001)[:-1] + 1 / 4000
    grid = torch.cartesian_prod(line, line)
    for corner in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
        log_p = pi.log_prob(real(corner) + grid)
        mass = log_p.exp().mean()
        checks.unbiased(
            lambda corner=corner: pi.log_prob(real(corner) + torch.rand(200, 2)).mean(), log_p.mean(), n=200
        )
        conditional = log_p - mass.log()
        assert (-conditional).mean().item() == pytest.approx((mass.log() - log_p.mean()).item())
        assert log_p.mean() < mass.log()


def test_the_gap_closes_with_the_slope_inside_the_cell():
    """Where log p is nearly a line on a cell the gap is slope^2 / 24 nats; no slope, no gap."""
    for width in (6.0, 12.0):
        exact, lower = figures.cell_bits(width)
        ends = np.log(figures.toy_density(np.arange(5.0), width))
        expected = np.diff(ends) ** 2 / 24 / np.log(2)
        assert exact - lower == pytest.approx(expected, rel=0.05, abs=2e-5)
    steep, flat = (np.subtract(*figures.cell_bits(width)).max() for width in (6.0, 12.0))
    assert 0 < flat < steep / 10


def test_the_printed_cells(printed):
    exact, lower = (np.array([float(v.replace("\N{MINUS SIGN}", "-")) for v in printed[name]])
                    for name in ("cell_exact", "cell_bound"))  # fmt: skip
    assert (exact > lower).all() and np.argmax(exact - lower) == 1  # the slide: the steep cell loses most
    assert float(printed["toy_entropy"]) < float(printed["toy_exact"]) < float(printed["toy_bound"])


def test_the_slope_of_the_logit_and_the_published_conversions(printed):
    _, slope = lecture4.to_logits(data.load_images("mnist").test.images, seed=5)
    # The noise alone: 10,000 images, and a black pixel's log u has variance 1.
    assert figures.log_slope() == pytest.approx(slope.mean().item(), abs=4 * 28 / 100)
    edge = figures.EDGE
    y = real([0.002, 0.4, 0.999]).requires_grad_()
    inner = edge + (1 - 2 * edge) * y
    (by_autograd,) = torch.autograd.grad(inner.logit().sum(), y)
    assert torch.allclose(by_autograd, (1 - 2 * edge) / (inner * (1 - inner)))
    for nats, published in ((-1366.56, 2.013), (-1300.5, 1.892), (-1380.8, 2.039)):
        assert figures.bits_of_logits(nats) == pytest.approx(published, abs=1e-3)
    ours = metrics.bits_per_dim(-(-1313.1 + figures.log_slope()), 784, levels=256)
    assert printed["maf_bits"] == f"{ours:.2f}" == "1.91"


def test_what_a_noise_may_claim(printed):
    """The entropy of what a model is shown, by histograms of many samples."""
    rng = np.random.default_rng(0)
    x = rng.choice(4, 400_000, p=figures.FOUR)
    u = rng.random(len(x))
    noises = [u, u / 2, 0.29 * rng.normal(size=len(x)), 0.1 * rng.normal(size=len(x))]
    samples = [x + noise for noise in noises] + [(x / 3 + u / 4) * 4]
    for sample, claim, written in zip(samples, figures.claims(), printed["claims"], strict=True):
        counts, edges = np.histogram(sample, bins=400, range=(-2, 6))
        p = counts[counts > 0] / len(sample)
        entropy = -(p @ np.log2(p / (edges[1] - edges[0])))
        assert claim == pytest.approx(entropy, abs=0.02) and written == f"{claim:.2f}"
    entropy = figures.bits(figures.FOUR)
    assert figures.claims()[1] == pytest.approx(entropy - 1) and figures.claims()[3] < entropy - 1


def test_x_over_255_comes_back_as_another_value(printed):
    v = np.repeat(np.arange(256), 4000)
    u = np.tile((np.arange(4000) + 0.5) / 4000, 256)
    back = np.floor(256 * (v / 255 + u / 256)).astype(int)
    assert set(np.unique(back - v)) == {0, 1}
    share = (back == v + 1).reshape(256, -1).mean(axis=1)
    assert share == pytest.approx(np.arange(256) / 255, abs=1e-3)
    assert printed["top_value"] == f"{(255 / 255 + 1 / 256):.3f}"


@pytest.mark.parametrize("seed", SEEDS)
def test_with_noise_the_likelihood_has_a_ceiling(seed):
    """Blocks of the data's own probabilities reach it, and every other density stays below."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(6))
    top = p @ np.log(p)
    for _ in range(5):
        assert p @ np.log(rng.dirichlet(np.ones(6))) <= top
    means, scales, weights = rng.uniform(0, 6, 3), rng.uniform(0.1, 1, 3), rng.dirichlet(np.ones(3))
    points = np.arange(6)[:, None] + figures.INSIDE
    density = stats.norm.pdf(points[..., None], means, scales) @ weights
    bound = np.log(density + 1e-300) @ figures.NODE_WEIGHTS / 2
    assert p @ bound <= top


# --- Trained flows ---------------------------------------------------------------------------------------


def test_the_flows_of_the_stored_figures_keep_their_contract():
    layers = trained_flows.stack(S6.MAF, 6, [16, 16], 3) + trained_flows.stack(S6.IAF, 6, [16, 16], 2)
    orders = [layer.network.order.tolist() for layer in layers[:3]]
    assert orders[0] == orders[2] == list(range(6)) and orders[1] == orders[0][::-1]
    flow = S6.Flow(layers)
    checks.invertible(flow, torch.randn(8, 6))
    checks.log_det(flow, torch.randn(8, 6))
    checks.reloads(lambda: S6.Flow(trained_flows.stack(S6.MAF, 6, [16], 2)), torch.randn(8, 6))


def test_stored_densities_have_mass_one():
    cell = trained_flows.cell(trained_flows.LIMIT)
    for name in ("moons_2", "moons_5"):
        assert figures.trained()[name].exp().sum().item() * cell == pytest.approx(1, abs=5e-3), name


def test_bits_of_digits_are_those_of_a_flow_whose_likelihood_is_known():
    """A histogram as a density: constant on cells, so that the bound is tight and its bits are known."""

    class Blocks:
        def log_prob(self, y):
            return torch.full((len(y),), 0.0)  # uniform on [0, 1]^64

    bits = trained_flows.claimed_bits(Blocks(), torch.zeros(5, 64, dtype=torch.uint8), noise=True)
    assert torch.allclose(bits.double(), real(4.0))  # log2 of 16 levels
    shown = trained_flows.shown(torch.full((4, 64), 15, dtype=torch.uint8), noise=True)
    assert shown.min() > 15 / 16 and shown.max() < 1
    assert trained_flows.pixels(shown).unique().tolist() == [1.0]


def test_what_the_digits_reached(printed):
    stored = figures.trained()
    histogram, packed = stored["baseline_bits"].tolist()
    assert histogram == pytest.approx(1.252, abs=2e-3)
    bits, error, median, worst = stored["maf_bits"].tolist()
    assert (
        bits + 4 * error < histogram
        and abs(median - bits) < 0.01
        and printed["maf_small"][2] == f"{median:.3f}"
    )
    assert printed["worst_digit"] == f"{worst:.0f}" and worst > 3 * bits
    _, test, known = stored["raw_trace"].T
    assert test[-1] < -2 and test[-1] < test[len(test) // 2] - 0.5, "the claim falls on"
    assert abs(test[-1] - known[-1]) < 0.05 * (known[0] - known[-1]), "both kinds of digits gain alike"
    assert stored["noise_trace"][:, 1:].min() > bits, "with noise no claim falls below the shipped MAF's"
    assert printed["small_baselines"] == [f"{histogram:.3f}", f"{packed:.3f}"]
    # Per digit, mean and median: nats that the student loses to its teacher on digits.
    own, *_ = stored["student_bits"].tolist()
    loss, loss_error, middle = stored["student_loss"].tolist()
    assert loss == pytest.approx((own - bits) * 64 * math.log(2), rel=1e-4)
    forward, forward_error, _ = stored[
        "teacher_kl"
    ].tolist()  # KL(teacher, student), by the teacher's samples
    reverse, reverse_error, _ = stored["student_kl"].tolist()
    assert 0 < reverse < forward - 3 * forward_error and reverse_error < 0.1
    assert loss - 4 * loss_error > reverse and middle > reverse


def test_the_shipped_teacher_has_the_printed_bits_and_median(printed):
    """One draw of the noise on 2,000 digits, in the way of the seminar."""
    teacher = weights.load(trained_flows.unit_flow(), "seminar6-maf").eval()
    torch.manual_seed(0)
    claims = trained_flows.claimed_bits(teacher.double(), trained_flows.small("test")[:2000], noise=True)
    error = claims.std() / len(claims) ** 0.5
    assert claims.median().item() == pytest.approx(float(printed["maf_small"][2]), abs=0.02)
    assert claims.mean().item() == pytest.approx(float(printed["maf_small"][0]), abs=4 * error.item())


def test_both_kls_of_a_pair_whose_kls_are_known():
    """Two normals, teacher and student: the mean over the teacher's samples is KL(teacher, student)."""

    class Normals(torch.nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.law = Normal(0.0, real(scale))

        def inverse(self, z):
            return self.law.scale * z

        def log_prob(self, y):
            return self.law.log_prob(y).sum(dim=1)

    teacher, student = Normals(1.0), Normals(0.6)
    mean, error, _ = trained_flows.not_forgiven(teacher, student)
    assert mean == pytest.approx(64 * kl_divergence(teacher.law, student.law).item(), abs=5 * error)
    assert mean > 2 * 64 * kl_divergence(student.law, teacher.law).item()


def test_distillation_teaches_a_student_without_data(monkeypatch):
    """A tiny teacher: the KL falls, and no call asks for images."""
    torch.manual_seed(0)
    for name, value in {"M": 3, "WIDTHS": [16], "LAYERS": 2, "STUDENT_STEPS": 150}.items():
        monkeypatch.setattr(trained_flows, name, value)
    monkeypatch.setattr(trained_flows, "small", None)
    teacher = S6.Flow([S5.Logit(), S5.ActNorm(3), random_layer(range(3), 2)])
    kept = copy.deepcopy(teacher.state_dict())
    monkeypatch.setattr(trained_flows, "STUDENT_STEPS", 1)
    _, (untrained, *_) = trained_flows.distil(copy.deepcopy(teacher))
    monkeypatch.setattr(trained_flows, "STUDENT_STEPS", 200)
    student, (kl, *_) = trained_flows.distil(teacher)
    # The same KL by the slow direction of the student, for images: a bijection leaves it alone.
    y = student.sample(2000, 3)
    slow = (student.log_prob(y) - teacher.log_prob(y)).mean().item()
    assert 0 < slow < 0.5 * untrained and kl == pytest.approx(slow, rel=0.3)
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert student.sample(7, 3).shape == (7, 3)


def published_rows(title, printed):
    """Return the rows of a slide's tables by their first cell, numbers of numbers.json put in; * is bold."""
    rows = {}
    for name, cells in table_rows("lecture6", title).items():
        rows[name] = [
            re.sub(
                r"#numbers\.converted\.at\((\d)\)", lambda k: printed["converted"][int(k[1])], cell.strip("$")
            )
            for cell in cells
        ]
    return rows


PUBLISHED = {
    "Published results": {  # Papamakarios et al. 2017, Tables 1 and 2; CIFAR-10 as quoted in Grathwohl et al.
        "Gaussian": ["-7.74", "-3.58", "-1366.9", "2.01", ""],
        "MADE": ["-3.08", "3.56", "-1380.8", "2.04", "5.67"],
        "RealNVP (5), fully connected": ["-0.02", "4.78", "-1323.2", "1.93", ""],
        "MAF (5)": ["0.14", "9.07", "-1300.5", "1.89", ""],
        "MAF (10)": ["0.24", "10.08", "-1313.1", "1.91", "4.31"],
        "MADE, mixtures": ["0.40", "8.47", "-1038.5", "1.41", ""],
        "MAF (5), mixtures": ["0.30", "9.59", "-1100.3", "1.52", ""],
        "coupling flow (8 layers)": ["", "", "", "1.078", ""],
        "gated PixelCNN; PixelCNN++": ["", "", "", "0.81", "2.92"],
    },
    "Published: better posteriors in VAEs": {  # Grathwohl et al. 2018, Table 3; Kingma et al. 2016, Table 1
        "Gaussian": ["86.55 ± 0.06"],
        "planar": ["86.06 ± 0.31"],
        "IAF": ["84.20 ± 0.17"],
        "Sylvester (homework 5)": ["83.32 ± 0.06"],
        "FFJORD": ["82.82 ± 0.01"],
        "IAF, depth 2, width 320": ["-82.02", ""],
        "IAF, depth 2, width 1920": ["-81.17", ""],
        "IAF, depth 8, width 1920": ["-80.80", "-79.10"],
    },
    "Where the gap goes next": {  # Lippe 2024, tutorial 11
        "uniform dequantization": ["556,312", "1.078"],
        "variational dequantization": ["628,388", "1.043"],
        "and multi-scale": ["1,711,818", "1.020"],
    },
}


@pytest.mark.parametrize("title", PUBLISHED)
def test_published_numbers_row_by_row(title, printed):
    found = published_rows(title, printed)
    for name, cells in PUBLISHED[title].items():
        assert [cell.strip("*") for cell in found.get(name, [])] == cells, name


def test_bold_rows_beat_zlib_and_histograms(printed):
    best, bold = min(map(float, printed["baselines"])), 0
    for name, cells in published_rows("Published results", printed).items():
        if name in PUBLISHED["Published results"]:
            value = cells[3]
            assert value.startswith("*") == (float(value.strip("*")) < best), name
            bold += value.startswith("*")
    assert bold == 4
