"""What seminar 1 defines is right on inputs of our own: masks, orders, caches, the mu-law, the string.

What its models share with all others, and its exercises, are tested in `test_models.py` and
`test_exercises.py`.
"""

import math
from itertools import chain, combinations, product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from tools import definitions
from tools.notebooks import ROOT

S = definitions.load(ROOT / "seminars/seminar1/seminar1.ipynb")
ORDER = torch.tensor([2, 0, 3, 1])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- MADE --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_product_of_the_masks_counts_paths_from_earlier_to_later(seed):
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    *masks, direct = S.made_masks(order, (5, 6))
    walked = torch.zeros(4, 4, dtype=torch.int)
    for j, k, n, i in product(range(4), range(5), range(6), range(4)):
        walked[i, j] += masks[0][k, j] and masks[1][n, k] and masks[2][i, n]
    first, second, last = (mask.int() for mask in masks)
    assert torch.equal(last @ second @ first, walked)
    earlier = torch.ones(4, 4).tril(-1).bool()  # row and column: places in the order
    assert torch.equal((walked > 0)[order][:, order], earlier), (
        "an allowed dependence is lost, or one too many"
    )
    assert torch.equal(direct[order][:, order], earlier)


def test_a_masked_weight_is_neither_used_nor_trained():
    mask = torch.rand(5, 4) < 0.5
    layer, x = S.MaskedLinear(mask), torch.randn(3, 4)
    by_hand = torch.stack([layer.bias + (layer.weight * mask) @ row for row in x])
    assert torch.allclose(layer(x), by_hand)
    layer(x).square().sum().backward()
    assert torch.equal(layer.weight.grad != 0, mask)
    assert "mask" not in dict(layer.named_parameters())


def test_a_completion_keeps_what_is_given_and_draws_the_rest():
    model = S.MADE(4, [16], ORDER)
    with torch.no_grad():
        model.output.bias.fill_(100)  # whatever is drawn is drawn as one
    x = torch.zeros(3, 4)
    for n_given in range(5):
        drawn = model.complete(x, n_given)
        assert not drawn[:, ORDER[:n_given]].any() and drawn[:, ORDER[n_given:]].all()
    assert not x.any(), "the input was changed"


def test_another_order_is_another_made_with_the_same_weights():
    model = S.OrderAgnosticMADE(4, [16, 12])
    same = S.MADE(4, [16, 12], ORDER)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in same.named_parameters():
            parameter.copy_(weights[name])
    x = torch.bernoulli(torch.full((8, 4), 0.5))
    before = model(x)
    assert not torch.allclose(before, same(x))
    assert torch.equal(model.set_order(ORDER)(x), same(x)) and torch.equal(model.order, same.order)
    assert torch.equal(model.set_order(torch.arange(4))(x), before)


# ---- WaveNet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "dilation"), [(2, 1), (2, 4), (3, 2)])
def test_one_instant_of_a_causal_convolution_is_that_of_the_whole(kernel, dilation):
    conv, x = S.CausalConv1d(3, 5, kernel, dilation), torch.randn(2, 3, 12)
    queue, drawn = torch.zeros(2, 3, conv.past), []
    for t in range(12):
        y, queue = conv.step(x[:, :, t : t + 1], queue)
        drawn.append(y)
    assert torch.allclose(torch.cat(drawn, dim=2), conv(x), atol=1e-6)


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (3, 1, 2)])
def test_cached_samples_are_the_naive_ones(dilations):
    wavenet, u = S.WaveNet(5, 8, dilations).double(), torch.rand(6, 20, dtype=torch.float64)
    naive = S.sample_naive(wavenet, u)
    assert torch.equal(naive, S.sample_cached(wavenet, u)) and len(naive.unique()) == 5


@pytest.mark.parametrize("dilations", [(1, 2, 4, 8), (1, 1, 1), (3,)])
def test_the_drawn_paths_reach_what_sums_of_dilations_reach(dilations):
    ax = Figure().subplots()
    reached = S.draw_receptive_field(ax, dilations, 20)
    steps = chain.from_iterable(combinations(dilations, k) for k in range(len(dilations) + 1))
    assert reached[0] == {19 - sum(some) for some in steps} and reached[-1] == {19}
    assert len(ax.lines) == 2 * sum(map(len, reached[1:]))


def test_mu_law():
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    assert S.mu_law(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1, 0, 1]
    assert torch.allclose(S.inverse_mu_law(S.mu_law(x)), x, atol=1e-12)
    slope = (S.mu_law(torch.tensor(1e-9).double()) / 1e-9).item()
    assert slope == pytest.approx(255 / math.log(256), rel=1e-6)  # how much finer the steps are at zero
    levels = S.round_to_levels(torch.linspace(-1, 1, 100_001, dtype=torch.float64)).unique()
    assert torch.allclose(levels, torch.linspace(-1, 1, 256, dtype=torch.float64), atol=1e-12)
    assert (S.round_to_levels(x) - x).abs().max() < 1 / 255 + 1e-12


# ---- a string whose entropy is known -----------------------------------------------------------------------


def test_waveform_entropy_by_brute_force():
    # Eight levels, four samples: all 4,096 waves, each with its probability.
    wave = S.waveform(4, period=2, noise=0.7, levels=8)
    p = wave.log_prob(torch.cartesian_prod(*[torch.arange(8)] * 4)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.special.entr(p).sum().item() == pytest.approx(wave.entropy, abs=1e-12)
    counts = torch.bincount((wave.sample(50_000) * torch.tensor([512, 64, 8, 1])).sum(1), minlength=4096)
    assert counts[p == 0].sum() == 0
    expected = 50_000 * p
    often = expected > 5
    chi = ((counts - expected) ** 2 / expected)[often].sum()
    assert abs(chi - often.sum()) < 5 * math.sqrt(2 * often.sum())


def test_waveform_entropy_by_monte_carlo():
    wave = S.waveform(512, period=32, noise=4.0, levels=256)
    x = wave.sample(200)
    assert x.shape == (200, 512) and x.dtype == torch.int64
    log_prob = wave.log_prob(x)
    error = log_prob.std().item() / math.sqrt(len(x))
    assert abs(-log_prob.mean().item() - wave.entropy) < 5 * error
    # By the definition of the noise: a Gaussian of width 4 on the integers -16..16.
    q = stats.norm(0, 4).pdf(np.arange(-16, 17))
    assert wave.entropy / 512 == pytest.approx(stats.entropy(q / q.sum()), abs=1e-12)
    # The floor is far below what a model without a past can reach.
    assert stats.entropy(np.bincount(x.numpy().ravel())) > wave.entropy / 512 + 1.5


def test_waveform_looks_back_one_period_and_one_sample():
    wave = S.waveform(200, period=32, noise=4.0, levels=256)
    x = wave.sample(1)
    for lag in range(1, 40):
        other = x.clone()
        other[0, 150 - lag] += 1
        alone = wave.log_prob(other[:, :150]) - wave.log_prob(x[:, :150])  # the change up to there
        change = wave.log_prob(other[:, :151]) - wave.log_prob(x[:, :151])
        if lag not in (32, 33):
            assert change.item() == pytest.approx(alone.item())
    assert wave.sample(3).min() >= 1
    assert wave.log_prob(torch.full((1, 200), 255)).item() == -math.inf
