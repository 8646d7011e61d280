"""What seminar 1 defines is right on inputs of our own: masks, orders, caches, the mu-law, the string.

What its models share with all others, and its exercises, are tested in `test_models.py` and
`test_exercises.py`.
"""

import ast
import math
import re
from collections import Counter
from itertools import chain, combinations, product

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from tools import definitions
from tools.notebooks import ROOT, read_notebook

NOTEBOOK = ROOT / "seminars/seminar1/seminar1.ipynb"
S = definitions.load(NOTEBOOK)
# Names that a cell uses up itself: of loops, of clocks, of a figure.
PASSING = {"_", "i", "j", "p", "name", "title", "shown", "scan", "matrix", "started", "loss", "error"}
PASSING |= {"figure", "axes", "ax", "panels"}
CELLS = {cell.id: cell for cell in read_notebook(NOTEBOOK).cells}
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
    assert model.set_order(ORDER) is None, "what changes its object returns nothing"
    assert torch.equal(model(x), same(x)) and torch.equal(model.order, same.order)
    model.set_order(torch.arange(4))
    assert torch.equal(model(x), before)


def test_probabilities_are_averaged_over_the_orders_and_not_their_logarithms():
    model, orders = S.OrderAgnosticMADE(4, [16]), [torch.arange(4), ORDER]
    states = torch.tensor(list(product([0.0, 1.0], repeat=4)))
    by_hand = 0
    for order in orders:
        same = S.MADE(4, [16], order)
        with torch.no_grad():
            for one, other in zip(same.parameters(), model.parameters(), strict=True):
                one.copy_(other)
        by_hand = by_hand + same.log_prob(states).exp() / 2
    mixture = S.averaged_probabilities(model, orders, states).exp()
    assert torch.allclose(mixture, by_hand) and mixture.sum().item() == pytest.approx(1, abs=1e-6)
    assert abs(S.averaged_logits(model, orders, states).exp().sum().item() - 1) > 1e-4


def test_a_pixel_is_at_an_edge_if_one_of_its_eight_neighbours_differs():
    x = torch.rand(3, 28, 28) < 0.03
    edge = S.at_an_edge(x.flatten(1)).view(3, 28, 28)
    for n, i, j in product(range(3), range(28), range(28)):
        around = x[n, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        assert edge[n, i, j] == (around != x[n, i, j]).any()


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


def test_the_naive_sampler_computes_a_square_of_columns_and_the_cached_one_a_line():
    wavenet, columns = S.WaveNet(5, 8, (1, 2)), []
    wavenet.head.register_forward_hook(lambda module, inputs, output: columns.append(output.shape[2]))
    for sampler, expected in {S.sample_naive: 20 * 21 // 2, S.sample_cached: 20}.items():
        columns.clear()
        sampler(wavenet, torch.rand(2, 20))
        assert sum(columns) == expected


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


# ---- what the notebook says --------------------------------------------------------------------------------


def smoothed_gap(true_p, n, alpha):
    """Return by how much the test loss of a smoothed histogram exceeds the entropy, averaged exactly."""
    counts = np.arange(n + 1)
    each = [
        p * (stats.binom.pmf(counts, n, p) @ np.log((counts + alpha) / (n + alpha * len(true_p))))
        for p in true_p
    ]
    return -sum(each) - stats.entropy(true_p)


def histogram_truth():
    source = CELLS["46503529"].source
    namespace = {"torch": torch}
    exec(source[: source.index("draws =")], namespace)
    true_p = namespace["true_p"].double().numpy()
    return true_p / true_p.sum()  # to the last digit


def test_the_smoothed_histogram_has_the_test_loss_that_the_notebook_names():
    true_p, first_order = histogram_truth(), 19 / (2 * 5000)
    said, explained = CELLS["578ab410"].source, CELLS["gap-explained"].source
    assert "infinite" in said and "n_v+\\alpha" in said and "smoothed" in said
    assert f"{smoothed_gap(true_p, 5000, 1e-3):.5f}" == "0.00218" and "0.00218" in explained
    assert f"{first_order:.5f}" == "0.00190" and "0.00190" in explained
    assert 1 - np.prod(1 - (1 - true_p) ** 5000) == pytest.approx(0.9, abs=0.01)  # a value is missing
    assert (5000 * true_p[-2:]).round(1).tolist() == [2.3, 0.1]
    for alpha in (1e-3, 0.5, 1):  # where all values are drawn often, the first order holds for every alpha
        assert smoothed_gap(true_p, 1_000_000, alpha) == pytest.approx(19 / 2e6, rel=0.003)


def test_every_size_has_a_value_for_each_profile():
    (table,) = (
        node.value
        for node in ast.parse(CELLS["2730d1b0"].source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "SETTINGS"
    )
    assert {len(values) for values in ast.literal_eval(table).values()} == {3}


def given(source):
    """Return the names that a cell gives at its top level, in loops as well."""
    tree = ast.parse(source)
    scopes = (ast.FunctionDef, ast.ClassDef, ast.GeneratorExp, ast.ListComp, ast.DictComp, ast.SetComp)
    inner = {id(node) for scope in ast.walk(tree) if isinstance(scope, scopes) for node in ast.walk(scope)}
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in inner)
    return {node.id for node in names if isinstance(node.ctx, ast.Store)}


def test_a_name_means_one_thing_in_the_notebook():
    code = (cell.source for cell in CELLS.values() if cell.cell_type == "code")
    times = Counter(name for source in code for name in given(source))
    again = {name for name, number in times.items() if number > 1}
    assert again <= PASSING, f"given anew in another cell: {sorted(again - PASSING)}"


def test_no_description_of_samples_promises_more_than_half():
    described = [cell.source for cell in CELLS.values() if "amples" in cell.source]
    assert not re.findall(r"most (?:of them )?look like digits", " ".join(described))
    assert "about half of them can be read as digits" in CELLS["b4e6dbc8"].source


def test_static_and_dynamic_figures_are_those_of_the_deck():
    deck = (NOTEBOOK.parents[2] / "lectures/lecture1/lecture1.typ").read_text(encoding="utf-8")
    static, dynamic = re.search(
        r"NADE[^.]* has ([\d.]+) there and ([\d.]+) here", CELLS["4ccec809"].source
    ).groups()
    assert f"[NADE, 500 hidden, a later run], [{static}]" in deck
    assert f"[NADE, 500 hidden], [{dynamic}]" in deck
