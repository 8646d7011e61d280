"""What lecture 1 claims holds: on slides, in figures, and in the numbers that the slides print.

The seminars' definitions that its figures draw are tested in `test_seminar1.py` and `test_seminar2.py`.
"""

import itertools
import re
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

from lectures.lecture1 import figures
from tools import definitions

DECK = (figures.FOLDER.parent / "lecture1.typ").read_text(encoding="utf-8")
CausalConv1d = definitions.seminar(1, "CausalConv1d").CausalConv1d


# ---- maximum likelihood ------------------------------------------------------------------------------------


def test_cross_entropy_is_entropy_plus_kl():
    means = np.linspace(-3, 3, 25)
    entropy, curve = figures.cross_entropies(means)

    def integrand(x, mean):
        return figures.bimodal(x) * (np.log(figures.bimodal(x)) - stats.norm.logpdf(x, mean, 1.6))

    for mean, cross_entropy in zip(means, curve, strict=True):
        kl, _ = integrate.quad(integrand, -9, 9, args=(mean,), limit=200)
        assert cross_entropy == pytest.approx(entropy + kl, abs=1e-6)
    at_mean_of_data = figures.cross_entropies(np.array([0.65 * -1.2 + 0.35 * 1.8]))[1][0]
    assert entropy < at_mean_of_data < curve.min()


def test_the_floor_of_a_density_may_be_negative():
    assert stats.uniform(0, 0.5).entropy() == pytest.approx(-np.log(2))
    start = DECK.index('#slide("The entropy is the floor"')
    slide = DECK[start : DECK.index("#slide(", start + 1)]
    assert "may be *negative*" in slide and "$U[0, 1\\/2]$ has $-log 2$" in slide


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_bias_of_the_maximum(n):
    theta = 3.0
    estimates = figures.uniform_maxima(n, theta, repeats=40_000, seed=n)
    error = 4.5 * estimates.std() / np.sqrt(len(estimates))
    assert estimates.mean() - theta == pytest.approx(-theta / (n + 1), abs=error)


def test_scaled_error_of_the_maximum_is_exponential():
    scaled = 400 * (1 - figures.uniform_maxima(400, repeats=20_000))
    assert stats.kstest(scaled, "expon").statistic < 0.015


def test_softmax_histogram_meets_the_frequencies():
    values = np.repeat(np.arange(4), [10, 40, 30, 20])
    learned, losses = figures.fit_histogram(values, 4, steps=3000, rate=0.1, batch=100)
    assert learned == pytest.approx([0.1, 0.4, 0.3, 0.2], abs=0.03)
    entropy = stats.entropy([0.1, 0.4, 0.3, 0.2])
    assert losses.min() >= entropy
    assert losses[-1] == pytest.approx(entropy, abs=5e-3)


def test_baselines_on_mnist():
    cost = figures.baselines()
    assert cost["binary_floor"] == pytest.approx(45.53, abs=0.005)
    assert cost["binary_independent"] == pytest.approx(205.81, abs=0.01)
    assert cost["eight_bit_independent"] == pytest.approx(1.6897, abs=1e-4)


# ---- MADE --------------------------------------------------------------------------------------------------


def test_parameter_counts():
    assert figures.table_parameters(3) == sum(2**i for i in range(3)) == 7
    assert figures.fvsbn_parameters(5) == np.tril(np.ones((5, 5)), -1).sum() + 5 == 5 * 6 / 2
    network = nn.Sequential(nn.Linear(11, 7), nn.ReLU(), nn.Linear(7, 11))
    assert figures.made_parameters(11, 7) == sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize(("m", "hidden"), [(9, 3), (9, 8), (30, 11)])
def test_too_few_hidden_units_lose_allowed_pairs(m, hidden):
    degrees = set(torch.linspace(1, m - 1, hidden).round().int().tolist())
    pairs = [(j, i) for i in range(1, m + 1) for j in range(1, i)]
    lost = [(j, i) for j, i in pairs if not any(j <= degree < i for degree in degrees)]
    assert figures.lost_pairs(m, hidden) == (len(degrees), len(pairs), len(lost))


def test_500_units_cannot_hold_783_degrees():
    assert figures.lost_pairs(784, 500) == (500, 784 * 783 // 2, 283)
    assert all(f"numbers.made_{name}" in DECK for name in ("500_degrees", "500_lost", "allowed_pairs"))


@pytest.mark.parametrize("order", [figures.NATURAL_ORDER, figures.OTHER_ORDER])
def test_degrees_on_the_slide_give_its_masks_and_nothing_allowed_is_lost(order):
    masks, (own, first, second, _), paths = figures.made(order)
    rule = [first[:, None] >= own, second[:, None] >= first, own[:, None] > second]
    for mask, expected in zip(masks, rule, strict=True):
        assert (mask == expected).all()
    assert ((paths > 0) == (own[:, None] > own)).all()


def test_sampling_in_the_wrong_order():
    joint = np.random.default_rng(0).dirichlet(np.ones(8)).reshape(2, 2, 2)
    for order in itertools.permutations(range(3)):
        assert figures.sample_in_order(joint, list(order), list(order)) == pytest.approx(joint)
    wrong = figures.sample_in_order(figures.THREE_BITS, [2, 0, 1], [0, 1, 2])
    assert wrong.sum() == pytest.approx(1)
    # Bits 1 and 2 are drawn as if bit 3 were 0: P(111) = p(x1 | x3 = 0) p(x2 | x1, x3 = 0) p(x3).
    one = 0.08 / 6
    by_hand = (2 * one / 0.5) * 0.5 * 0.5  # p(x2 = 1 | x3 = 0, x1 = 1) = 1/2
    assert wrong[1, 1, 1] == pytest.approx(by_hand) and by_hand < 0.02 < figures.THREE_BITS[1, 1, 1]


def test_averaged_logits_are_not_normalised():
    assert figures.averaged_logits_total() == pytest.approx(5 / 4)


def test_trained_samples_come_with_their_likelihood():
    stored = np.load(figures.FOLDER / "made_samples.npz")
    assert 84 < stored["nats"] < 100, "MADE with 500 units: about 88 to 95 nats, dynamic binarisation"
    assert stored["own_order"].mean() == pytest.approx(stored["test"].mean(), abs=0.04)  # ink


def test_no_description_of_samples_promises_more_than_half():
    assert not re.findall(r"(?:most|many)[^.;]* look like digits", DECK)
    assert "about half of them can be read as digits" in DECK


def test_a_slide_that_leans_on_the_backup_says_so():
    in_class, backup = DECK.split('#section("Backup")')
    assert "dot.o sigma" in backup and "logsumexp" in backup  # the gate, and the average of orders
    for slide in in_class.split("#slide(")[1:]:
        if re.search(r"dot\.o sigma|32 masks|logits averaged|average of \$S\$", slide):
            assert "(Backup)" in slide, slide.partition("\n")[0]


# ---- WaveNet and PixelCNN ----------------------------------------------------------------------------------


def test_companding_spends_its_levels_on_quiet_sounds():
    loud, quiet = (partial(figures.signal_to_noise, amplitude) for amplitude in (1.0, 0.01))
    assert loud(companded=False) == pytest.approx(6.02 * 8 + 1.76, abs=0.3)  # of a full sine in 8 bits
    assert quiet(companded=True) > quiet(companded=False) + 20
    assert loud(companded=True) < loud(companded=False)


@pytest.mark.parametrize(("kernel", "layers", "blocks"), [(2, 4, 1), (2, 6, 3), (3, 4, 2), (5, 3, 1)])
def test_receptive_field(kernel, layers, blocks):
    convolutions = [CausalConv1d(1, 1, kernel, 2**layer) for _ in range(blocks) for layer in range(layers)]
    expected = figures.receptive_field(kernel, layers, blocks)
    signal = torch.ones(1, 1, expected + 50, dtype=torch.float64, requires_grad=True)
    figures.positive(nn.Sequential(*convolutions))(signal)[0, 0, -1].backward()
    assert (signal.grad[0, 0] != 0).sum() == (signal.grad[0, 0, -expected:] != 0).sum() == expected
    if kernel == 2 and blocks == 1:
        assert expected == 2**layers


@pytest.mark.parametrize("layers", [6, 10, 14])
def test_blind_spot_is_the_wedge_right_of_the_diagonal(layers):
    seen, after = figures.seen_by(partial(figures.one_stack, layers=layers))
    (row,), (column,) = np.nonzero(after == 0)
    blind = {(row - y, x - column) for y, x in np.argwhere(~seen & (after < 0))}
    within_reach = {(up, right) for up, right in blind if up <= layers}
    assert within_reach == {(up, right) for up in range(1, 7) for right in range(up + 1, 7) if up <= layers}


def test_two_stacks_see_all_that_precedes_and_nothing_else():
    seen, after = figures.seen_by(figures.two_stacks)
    assert (seen == (after < 0)).all()
    seen, after = figures.seen_by(figures.one_stack)
    assert not seen[after >= 0].any()


def test_the_weights_of_a_wavenet_layer_are_those_of_that_layer():
    start = DECK.index('#slide("A WaveNet layer')
    slide = DECK[start : DECK.index("#slide(", start + 1)]
    weights = re.findall(r"\b[WV]_[fgrs](\^ell)?", slide)
    assert len(weights) == 6 and all(weights), "a weight without the index of its layer"


# ---- PixelCNN++ and attention ------------------------------------------------------------------------------


def test_both_panels_of_the_logistic_head_count_pixel_values():
    left, right = figures.logistic_bins().axes
    top = left.patches[255].get_height()
    (dashed,) = (line for line in right.lines if line.get_linestyle() == "--")
    assert set(dashed.get_xdata()) == {254.5}
    assert right.get_xlim()[0] > 100 and "pixel value" in right.get_xlabel()
    # What is shaded beyond the edge is what the last bar holds, but for the other component's tail.
    x, density = right.lines[0].get_data()
    beyond = np.trapezoid(np.where(x >= 254.5, density, 0), x)
    assert 0.45 * beyond == pytest.approx(top, rel=0.05)


@pytest.mark.parametrize("stride", [1, 4, 7])
def test_two_sparse_layers_reach_what_a_dense_one_does(stride):
    dense, sparse = figures.attention_masks(40, stride)
    assert (dense == np.tri(40, dtype=bool)).all() and not (sparse & ~dense).any()
    assert ((sparse.astype(int) @ sparse.astype(int) > 0) == dense).all()
    assert sparse.sum(axis=1).max() <= stride + 40 // stride
