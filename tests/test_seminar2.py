"""What seminar 2 defines is right on inputs of our own, and its checks catch planted bugs."""

import decimal
import math
import re
from decimal import Decimal
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import sklearn.mixture
import torch
from scipy import integrate, stats
from torch import nn
from torch.nn import functional as F

from dgm_utils import checks
from tools import definitions
from tools.notebooks import ROOT, read_notebook

NOTEBOOK = ROOT / "seminars/seminar2/seminar2.ipynb"
S = definitions.load(NOTEBOOK)
SHAPES = [(1, 4, 5), (3, 3, 2), (2, 3, 3)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)  # in small networks all units of a block are dead now and then


def networks(shape, head=None):
    """Return one network of each kind for images of a shape."""
    head = head or S.CategoricalHead(2)
    return [
        S.PixelCNN(shape, head, 12, 2),
        S.PixelCNN(shape, head, 12, 3, kernel_size=3),
        S.GatedPixelCNN(shape, head, 12, (1, 2)),
    ]


# ---- masks -------------------------------------------------------------------------------------------------


def allowed(mask, height, width, row, column, source, target, colours):
    """Say from the definition whether a weight may be used; (row, column) is its place in the kernel."""
    place, middle = (row, column), (height // 2, width // 2)
    if place != middle:
        return place < middle  # raster order is the order of pairs
    first, second = source % colours, target % colours
    return first < second or (mask == "B" and first == second)


@pytest.mark.parametrize("mask", "AB")
@pytest.mark.parametrize("size", [(3, 3), (7, 7), (1, 5), (5, 3), (1, 1)])
@pytest.mark.parametrize("colours", [1, 2, 3])
def test_every_entry_of_a_mask(mask, size, colours):
    layer = S.MaskedConv2d(mask, 2 * colours, 3 * colours, size, colours)
    for target, source, row, column in product(*map(range, layer.mask.shape)):
        expected = allowed(mask, *size, row, column, source, target, colours)
        assert layer.mask[target, source, row, column] == expected


def test_a_mask_moves_with_the_layer_and_is_not_trained():
    layer = S.MaskedConv2d("B", 2, 2, 3)
    assert "mask" in layer.state_dict() and "mask" not in dict(layer.named_parameters())
    x = torch.randn(2, 2, 6, 5)
    by_hand = F.conv2d(x, layer.weight * layer.mask, layer.bias, padding=1)
    assert torch.allclose(layer(x), by_hand) and layer(x).shape == x.shape
    assert S.MaskedConv2d("A", 2, 4, (1, 5), dilation=2)(x).shape == (2, 4, 6, 5)


# ---- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [2, 5])
def test_networks_are_autoregressive(shape, values):
    for network in networks(shape, S.CategoricalHead(values)):
        assert network(torch.zeros(2, *shape)).shape == (2, values, *shape)
        checks.autoregressive(network, shape, values=values)
        checks.autoregressive(network, shape)


def test_inputs_are_scaled_to_plus_and_minus_one():
    for network in networks((1, 3, 3), S.CategoricalHead(5)):
        assert torch.equal(network.scaled(torch.arange(5, dtype=torch.uint8)), torch.linspace(-1, 1, 5))
        assert network.double().scaled(torch.arange(5)).dtype == torch.float64


def test_log_prob_is_the_sum_of_conditionals():
    shape = (3, 2, 3)
    x = torch.randint(4, (5, *shape))
    for network in networks(shape, S.CategoricalHead(4)):
        p = network(x).softmax(dim=1)  # (5, 4, 3, 2, 3)
        each = [p[b, x[b, c, i, j], c, i, j] for b in range(5) for c, i, j in product(*map(range, shape))]
        by_hand = torch.stack(each).log().view(5, -1).sum(dim=1)
        assert torch.allclose(network.log_prob(x), by_hand, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("blocks", [1, 4, 8])
def test_the_blind_spot_of_one_stack(kernel, blocks):
    size, row, column = 11, 7, 5
    network = S.PixelCNN((1, size, size), S.CategoricalHead(2), 24, blocks, kernel_size=kernel)
    seen = checks.dependence(network, (1, size, size)).view(2, size, size, size, size).any(0)[row, column]
    up, right = row - torch.arange(size)[:, None], torch.arange(size) - column
    half, depth = kernel // 2, kernel // 2 + blocks  # a path: one step of A, then one pixel a block
    reachable = (up > 0) & (up <= depth) & (right <= up + half - 1) & (right <= depth) & (right >= -depth)
    reachable |= (up == 0) & (right < 0) & (right >= -depth)
    assert torch.equal(seen, reachable)


@pytest.mark.parametrize("dilations", [(), (1,), (1, 2), (1, 2, 1, 4, 1, 2, 1)])
def test_the_receptive_field_of_two_stacks(dilations):
    size, row, column = 13, 9, 6
    network = S.GatedPixelCNN((1, size, size), S.CategoricalHead(2), 8, dilations)
    seen = checks.dependence(network, (1, size, size)).view(2, size, size, size, size).any(0)[row, column]
    up, right = row - torch.arange(size)[:, None], torch.arange(size) - column
    reach = 3 + sum(dilations)
    box = (up >= 1) & (up <= reach + 1) & (right.abs() <= reach) | (up == 0) & (right < 0) & (right >= -reach)
    if max(dilations, default=1) == 1 or len(dilations) > 2:  # no holes
        assert torch.equal(seen, box)
    assert not (seen & ~box).any()


def test_a_gate_and_the_residual_of_a_layer():
    signal, gate = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    by_hand = np.tanh(signal.numpy()) / (1 + np.exp(-gate.numpy()))
    assert np.allclose(S.gate(torch.cat([signal, gate], dim=1)), by_hand, atol=1e-6)
    v, h = torch.randn(2, 6, 4, 4), torch.randn(2, 6, 4, 4)
    for mask, kept in [("A", torch.zeros_like(h)), ("B", h)]:
        layer = S.GatedLayer(mask, 6, 6, 3)
        nn.init.zeros_(layer.mix.weight)
        nn.init.zeros_(layer.mix.bias)
        assert torch.equal(layer(v, h)[1], kept)


def leaky_first_layer(network):
    network.first.mask.fill_(1)
    network.first.mask[:, :, 3, 3] = 0  # "the pixel itself is hidden"


def b_in_the_first_layer(network):
    network.first.mask[:, :, 3, 3] = 1


def transposed(network):
    network.first.mask.copy_(network.first.mask.transpose(2, 3).clone())


def ones_later(network):
    network.blocks[0].conv.mask.fill_(1)


@pytest.mark.parametrize("bug", [leaky_first_layer, b_in_the_first_layer, transposed, ones_later])
def test_a_wrong_mask_is_caught(bug):
    network = S.PixelCNN((1, 6, 6), S.CategoricalHead(2), 12, 2)
    bug(network)
    with pytest.raises(checks.CheckFailed):
        checks.autoregressive(network, (1, 6, 6))


def test_colours_that_see_too_much_are_caught():
    network = S.PixelCNN((3, 3, 3), S.CategoricalHead(2), 12, 2)
    network.blocks[1].before[1].mask.fill_(1)  # a 1x1 convolution that mixes colours freely
    with pytest.raises(checks.CheckFailed):
        checks.autoregressive(network, (3, 3, 3))


class ListeningLayer(S.GatedLayer):
    """Let the vertical stack listen to the horizontal one."""

    def forward(self, v, h):
        v, h = super().forward(v, h)
        return v + h, h


class UnshiftedLayer(S.GatedLayer):
    """Read the vertical stack at the same row: forget the shift by one."""

    def forward(self, v, h):
        seen = self.vertical(F.pad(v, self.margin))
        new = self.mix(S.gate(self.horizontal(h) + self.link(seen)))
        return S.gate(seen), h + new if self.residual else new


class PaperLayer(S.GatedLayer):
    """Keep the rows strictly above r in v at row r, as the paper does: h reads v at its own row."""

    first, listens = False, False

    def forward(self, v, h):
        v = F.pad(v, (0, 0, 1, 0))[:, :, :-1] if self.first else v
        seen = self.vertical(F.pad(v, self.margin))
        new = self.mix(S.gate(self.horizontal(h) + self.link(seen)))
        h = h + new if self.residual else new
        return S.gate(seen) + (h if self.listens else 0), h


def with_layers(kind):
    network = S.GatedPixelCNN((1, 6, 6), S.CategoricalHead(2), 8, (1, 1))
    for layer in network.layers:
        layer.__class__ = kind
    return network


def test_the_shift_between_the_stacks_is_what_prevents_a_leak():
    with pytest.raises(checks.CheckFailed):
        checks.autoregressive(with_layers(UnshiftedLayer), (1, 6, 6))
    # The vertical stack sees its whole row anyway, and is read one row further down only.
    checks.autoregressive(with_layers(ListeningLayer), (1, 6, 6))


def test_in_the_papers_layout_a_link_back_leaks():
    network = with_layers(PaperLayer)
    network.layers[0].first = True
    checks.autoregressive(network, (1, 6, 6))
    for layer in network.layers:
        layer.listens = True
    with pytest.raises(checks.CheckFailed):
        checks.autoregressive(network, (1, 6, 6))


# ---- on a GPU ----------------------------------------------------------------------------------------------

HEADS = [S.CategoricalHead(256), S.DiscretizedLogisticMixture(5)]


@pytest.mark.parametrize("head", HEADS)
def test_a_log_likelihood_in_bfloat16_is_summed_in_the_precision_of_the_weights(head):
    x = torch.randint(256, (4, 1, 28, 28))
    for network in networks((1, 28, 28), head):
        exact = network.log_prob(x)
        with torch.autocast("cpu", torch.bfloat16):
            logits, rounded = network(x), network.log_prob(x)
        assert logits.dtype == torch.bfloat16 and rounded.dtype == torch.float32
        by_hand = head.log_prob(logits.float(), x).flatten(1).sum(dim=1)
        assert torch.allclose(rounded, by_hand, rtol=1e-6)  # sums in bfloat16 are off by up to 1 in 256
        assert torch.allclose(rounded, exact, rtol=2e-3)


# ---- heads and samplers ------------------------------------------------------------------------------------


def test_a_head_of_two_values_is_a_bernoulli():
    logits, x = torch.randn(7, 2, 3, 4), torch.bernoulli(torch.full((7, 3, 4), 0.4))
    bernoulli = -F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], x, reduction="none")
    assert torch.allclose(S.CategoricalHead(2).log_prob(logits, x), bernoulli, atol=1e-6)


@pytest.mark.parametrize("head", [S.CategoricalHead(6), S.DiscretizedLogisticMixture(3, values=6)])
def test_draws_follow_the_table(head):
    parameters = torch.randn(1, head.outputs, dtype=torch.float64) * 2
    u = (torch.arange(60_000, dtype=torch.float64) + 0.5) / 60_000
    drawn = S.draw(head, parameters.expand(60_000, -1), u)
    share = torch.bincount(drawn, minlength=6) / 60_000
    assert torch.allclose(share.double(), head.table(parameters)[0].exp(), atol=2e-4)
    last = S.draw(head, parameters, torch.ones(1, dtype=torch.float64))
    assert last.item() == 5  # and no value beyond it


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 3)])
@pytest.mark.parametrize("kernel", [3, 7])
@pytest.mark.parametrize("values", [2, 5])
def test_cached_and_naive_samples_are_the_same(shape, kernel, values):
    network = S.PixelCNN(shape, S.CategoricalHead(values), 12, 3, kernel_size=kernel).double()
    u = torch.rand(6, *shape, dtype=torch.float64)
    naive = network.complete(torch.zeros_like(u), 0, u=u)
    assert torch.equal(naive, S.sample_cached(network, u))
    assert naive.unique().tolist() == list(range(values))


@pytest.mark.parametrize("shape", [(1, 5, 6), (3, 4, 3)])
def test_what_is_below_a_pixel_is_not_needed_to_draw_it(shape):
    """`complete` passes the rows that are drawn, this one all of them."""
    for network in networks(shape, S.CategoricalHead(4)):
        network.double()
        u, x = torch.rand(4, *shape, dtype=torch.float64), torch.randint(4, (4, *shape)).double()
        done = x.clone()
        for r, c, k in product(range(1, shape[1]), range(shape[2]), range(shape[0])):
            done[:, k, r, c] = S.draw(network.head, network(done)[:, :, k, r, c], u[:, k, r, c])
        assert torch.equal(network.complete(x, 1, u=u), done)


def test_the_cached_sampler_completes_as_the_naive_one():
    network = S.PixelCNN((3, 4, 3), S.CategoricalHead(5), 12, 3).double()
    u, x = torch.rand(6, 3, 4, 3, dtype=torch.float64), torch.randint(5, (6, 3, 4, 3)).double()
    before = x.clone()
    assert torch.equal(S.sample_cached(network, u, x, rows=2), network.complete(x, 2, u=u))
    assert torch.equal(x, before)


def test_a_completion_keeps_what_is_given():
    network = networks((2, 5, 4))[2]
    x = torch.bernoulli(torch.full((3, 2, 5, 4), 0.5))
    done = network.complete(x, rows=2)
    assert torch.equal(done[:, :, :2], x[:, :, :2]) and not torch.equal(done, x)
    assert torch.equal(network.complete(x, rows=5), x)


# ---- the discretised logistic mixture ----------------------------------------------------------------------


def exact_logistic_mixture(weights, means, scales, x, values):
    """Return log P(x) with fifty digits, from the definition; means and scales on [-1, 1]."""
    with decimal.localcontext(prec=50):
        half = Decimal(1) / (values - 1)
        centre = Decimal(2 * x) / (values - 1) - 1
        total = Decimal(0)
        for w, mean, s in zip(*(map(Decimal, each) for each in (weights, means, scales)), strict=True):
            upper = 1 if x == values - 1 else 1 / (1 + (-(centre + half - mean) / s).exp())
            lower = 0 if x == 0 else 1 / (1 + (-(centre - half - mean) / s).exp())
            total += w * (upper - lower)
        return float(total.ln())


@pytest.mark.parametrize("values", [2, 16, 256])
def test_the_logistic_mixture_against_fifty_digits(values):
    rng = np.random.default_rng(values)
    head = S.DiscretizedLogisticMixture(3, values=values)
    for scale in (0.02, 0.3, 3.0):
        logits, means = rng.normal(size=3), rng.normal(size=3)
        scales = scale * np.exp(rng.normal(size=3) / 2)
        parameters = torch.tensor(np.concatenate([logits, means, np.log(scales)]))[None]
        table = head.table(parameters)[0]
        weights = np.exp(logits) / np.exp(logits).sum()
        for x in {0, 1, values // 3, values - 2, values - 1}:
            exact = exact_logistic_mixture(weights, means, scales, x, values)
            assert table[x].item() == pytest.approx(exact, rel=1e-9)
        assert table.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_far_tails_are_finite_in_single_precision():
    head = S.DiscretizedLogisticMixture(2)
    means = torch.tensor([-50.0, -1.0, 1.0, 50.0])
    narrow, wide, equal = torch.full((4,), -20.0), torch.full((4,), 9.0), torch.zeros(4)
    parameters = torch.stack([equal, equal, means, means, narrow, wide], dim=1).requires_grad_()
    table = head.table(parameters)
    table.sum().backward()
    assert table.isfinite().all() and parameters.grad.isfinite().all()


def test_without_edge_bins_the_sum_is_below_one():
    head = S.DiscretizedLogisticMixture(2, edges=False)
    parameters = torch.tensor([[0.0, 0.3, -0.9, 0.8, -1.0, -2.0]], dtype=torch.float64)
    with pytest.raises(checks.CheckFailed):
        checks.sums_to_one(lambda x: head.table(parameters)[0, x[:, 0]], 1, values=256)


def test_a_network_with_the_logistic_head_is_a_distribution():
    head = S.DiscretizedLogisticMixture(2, values=6)
    for network in networks((1, 2, 2), head) + networks((3, 1, 1), head):
        shape = network.shape
        checks.autoregressive(network, shape, values=6)
        checks.sums_to_one(lambda x, f=network: f.log_prob(x.view(-1, *f.shape)), math.prod(shape), values=6)


# ---- Monte Carlo with codes from the prior -----------------------------------------------------------------


def test_the_error_of_monte_carlo_has_the_predicted_spread_and_sign():
    typical = S.typical.item()
    square, _ = integrate.quad(lambda z: stats.norm.pdf(typical, z, 0.5) ** 2 * stats.norm.pdf(z), -9, 9)
    assert S.log_p_each == pytest.approx(stats.norm.logpdf(typical, 0, np.sqrt(1.25)))
    assert S.ratio == pytest.approx(square / np.exp(2 * S.log_p_each))
    relative = S.monte_carlo_errors(2, 400, 4000).expm1()
    assert relative.mean().item() == pytest.approx(0, abs=4 * relative.std().item() / 4000**0.5)  # unbiased
    assert relative.std().item() == pytest.approx(np.sqrt((S.ratio**2 - 1) / 400), rel=0.06)
    assert S.monte_carlo_errors(12).mean() < -0.3  # the logarithm is too low


# ---- the mixture of Gaussians ------------------------------------------------------------------------------


@cache
def cloud(n=200, m=3, components=4):
    """Return data of overlapping groups, and a start at random."""
    rng = np.random.default_rng(5)
    x = (
        rng.normal(size=(n, m)) @ rng.normal(size=(m, m))
        + 3 * rng.normal(size=(components, m))[rng.integers(components, size=n)]
    )
    return x, rng.dirichlet(np.full(components, 5)), x[rng.choice(n, components, replace=False)]


def started():
    x, weights, means = cloud()
    covariances = np.stack([np.eye(3) * (k + 1) for k in range(4)])
    return torch.tensor(x), S.GaussianMixture(*map(torch.tensor, (weights, means, covariances)))


def any_q(x):
    """Return responsibilities that are the posterior of nothing, (n, 4)."""
    return torch.distributions.Dirichlet(torch.ones(4, dtype=torch.float64)).sample((len(x),))


def test_density_and_responsibilities_against_scipy():
    x, mixture = started()
    parameters = (each.numpy() for each in mixture)
    joint = [w * stats.multivariate_normal.pdf(x, m, c) for w, m, c in zip(*parameters, strict=True)]
    joint = np.stack(joint, axis=1)  # (n, C)
    assert np.allclose(mixture.log_prob(x), np.log(joint.sum(axis=1)))
    assert np.allclose(S.e_step(mixture, x), joint / joint.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_em_equals_scikit_learn(steps):
    x, mixture = started()
    reference = sklearn.mixture.GaussianMixture(
        4,
        weights_init=mixture.weights.numpy(),
        means_init=mixture.means.numpy(),
        precisions_init=np.linalg.inv(mixture.covariances.numpy()),
        tol=0,
        max_iter=steps,
    )
    with pytest.warns(Warning):
        reference.fit(x.numpy())
    fitted = S.fit(x, S.e_step(mixture, x), steps - 1)  # its first M step is one of EM
    assert np.allclose(fitted.weights, reference.weights_, atol=1e-9)
    assert np.allclose(fitted.means, reference.means_, atol=1e-8)
    assert np.allclose(fitted.covariances, reference.covariances_, atol=1e-8)
    assert fitted.log_prob(x).mean().item() == pytest.approx(reference.score(x.numpy()), abs=1e-10)


def test_log_p_is_elbo_plus_gap_for_any_q():
    x, mixture = started()
    q = any_q(x)
    q[:50] = F.one_hot(torch.randint(4, (50,)), 4)  # zeros too
    elbo, gap = S.mixture_elbo(mixture, x, q), S.mixture_gap(mixture, x, q)
    assert torch.allclose(elbo + gap, mixture.log_prob(x)) and (gap >= 0).all()
    posterior = S.e_step(mixture, x)
    assert torch.allclose(S.mixture_gap(mixture, x, posterior), torch.zeros(len(x)).double(), atol=1e-12)
    assert np.allclose(gap, stats.entropy(q.numpy(), posterior.numpy(), axis=1))


def test_the_m_step_is_the_maximum():
    x, _ = started()
    q = any_q(x)
    mixture = S.m_step(x, q, eps=0.0)
    best = S.mixture_elbo(mixture, x, q).sum()
    for _ in range(30):
        noise = partial(torch.randn, dtype=torch.float64)
        tilt = torch.eye(3) + 0.02 * noise(4, 3, 3)
        other = S.GaussianMixture(
            (mixture.weights.log() + 0.02 * noise(4)).softmax(dim=0),
            mixture.means + 0.02 * noise(4, 3),
            tilt @ mixture.covariances @ tilt.mT,
        )
        assert S.mixture_elbo(other, x, q).sum() < best


def right(mixture, x):
    q = S.e_step(mixture, x)
    return q, S.m_step(x, q)


def no_weights(mixture, x):
    q = mixture.log_normal(x).softmax(dim=1)
    return q, S.m_step(x, q)


def over_objects(mixture, x):
    q = (mixture.weights.log() + mixture.log_normal(x)).softmax(dim=0)
    return q, S.m_step(x, q)


def over_all(mixture, x):
    q, after = right(mixture, x)
    return q, after._replace(covariances=after.covariances * (q.sum(dim=0) / len(x))[:, None, None])


def one_mean(mixture, x):
    q, after = right(mixture, x)
    return q, after._replace(means=x.mean(dim=0).expand_as(after.means))


def thirty_steps(step):
    x, mixture = started()
    for _ in range(30):
        q, after = step(mixture, x)
        S.verify_em_step(mixture, q, after, x)
        mixture = after


def test_the_assertions_of_an_em_step_are_silent_for_the_right_one():
    thirty_steps(right)


@pytest.mark.parametrize("bug", [no_weights, over_objects, over_all, one_mean])
def test_the_assertions_of_an_em_step_ring(bug):
    with pytest.raises(AssertionError):
        thirty_steps(bug)


# ---- what the notebook says --------------------------------------------------------------------------------

CELLS = {cell.id: cell for cell in read_notebook(NOTEBOOK).cells}


def printed(identifier):
    """Return the numbers that a cell printed, line by line."""
    lines = CELLS[identifier].outputs[0].text.splitlines()
    return [[float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", line)] for line in lines]


def test_the_bias_of_the_logarithm_is_that_of_the_formula_within_its_noise():
    for number, _, _, bias, error, formula in printed("8683d75e")[1:]:
        next_term = 2 / number**2  # of the expansion in 1/S, here at most 1 / S^2
        assert error < 0.05 * abs(formula) and abs(bias - formula) < 4 * error + next_term


def test_the_error_at_twenty_dimensions_is_printed_with_its_own():
    """Other dice, five times as many runs."""
    _, dimension, off, error = printed("ac6d397c")[0]
    other = torch.stack([torch.randn(1000, 20, dtype=torch.float64) for _ in range(1000)])
    log_p = torch.distributions.Normal(other, 0.5).log_prob(S.typical).sum(dim=2).logsumexp(dim=1)
    more = log_p - math.log(1000) - 20 * S.log_p_each
    assert dimension == 20 and error == pytest.approx(more.std().item() / 200**0.5, abs=0.06)
    assert off == pytest.approx(more.mean().item(), abs=4 * error)


def test_em_on_iris_is_fast_then_hardly_moves_then_is_fastest():
    share = {int(line[0]): line[-1] for line in printed("trace-table")[1:]}
    assert share[1] < share[2] < share[5] < share[8] > share[11] > share[15] > share[17]
    assert share[17] < share[2]  # the steps at the end are faster than the second one
    assert 0.12 < (1.2621 - 1.2012) / (1.6783 - 1.2012) < 0.13  # the note: an eighth is left after step 6
