"""Disentanglement metrics on codes whose scores are known. They wait for seminar 9."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from dgm_utils import data
from seminars.seminar9.disentanglement import dci, factor_vae_score, mutual_information_gap, sap_score

SCORES = [mutual_information_gap, sap_score, dci, factor_vae_score]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def factors():
    """All combinations of three factors, several times: independent and uniform."""
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5))
    return grid.repeat(40, 1)[torch.randperm(2400)]


def disentangled(factors):
    return factors.double() + 0.01 * torch.randn(factors.shape)


def entangled(factors):
    """Every code is a mixture of all factors."""
    mixing = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])
    return (factors.double() - factors.double().mean(0)) / factors.double().std(0) @ mixing.double()


def noise(factors):
    return torch.randn(len(factors), 3)


def test_mutual_information_gap(factors):
    assert mutual_information_gap(disentangled(factors), factors) == pytest.approx(1, abs=0.02)
    assert mutual_information_gap(entangled(factors), factors) < 0.3
    assert mutual_information_gap(noise(factors), factors) < 0.02
    # A factor that two codes hold alike has no gap; two more are held by none.
    twice = torch.stack([factors[:, 0], factors[:, 0]], 1).double()
    assert mutual_information_gap(twice, factors) == pytest.approx(0, abs=1e-12)
    # Against scikit-learn's mutual information: 1.7 % of these codes are at each end, so that nothing is cut
    # off. Codes are scale-free and may be constant.
    codes = torch.cat([entangled(factors), torch.ones(len(factors), 1)], 1)
    binned = [np.digitize(code, np.linspace(code.min(), code.max(), 21)[1:-1]) for code in codes.numpy().T]
    gaps = []
    for factor in factors.numpy().T:
        information = sorted(mutual_info_score(factor, code) for code in binned)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    ours = mutual_information_gap(codes, factors)
    assert ours == pytest.approx(np.mean(gaps), abs=1e-3)
    assert mutual_information_gap(-7 * codes + 3, 10 - factors) == pytest.approx(ours, abs=0.01)


@pytest.mark.parametrize("score, good, bad", [
    (sap_score, 0.7, 0.2),
    (lambda codes, factors: dci(codes, factors).disentanglement, 0.95, 0.5),
    (lambda codes, factors: dci(codes, factors).completeness, 0.95, 0.5),
    (factor_vae_score, 0.99, 0.8),
])  # fmt: skip
def test_scores_tell_disentangled_codes_from_others(factors, score, good, bad):
    codes = disentangled(factors)
    best = score(codes, factors)
    assert good < best <= 1
    other = codes[:, [2, 0, 1]] * torch.tensor([1.0, -3.0, 10.0])
    assert score(other, factors) == pytest.approx(best, abs=0.05)
    assert score(entangled(factors), factors) < bad
    assert score(noise(factors), factors) < bad
    assert score(codes.requires_grad_(), factors) == best  # the same again


def test_known_scores(factors):
    # One code holds the factor, the other is noise: accuracies 1 and 1/2 of a balanced binary factor.
    two = torch.stack([torch.arange(2000) % 2, torch.arange(2000) // 2 % 2], 1)
    codes = torch.cat([two.double() * 2 - 1, torch.randn(2000, 1).double()], 1)
    assert sap_score(codes, two) == pytest.approx(0.5, abs=0.05)
    assert dci(disentangled(factors), factors).informativeness == pytest.approx(1, abs=0.01)
    # Each factor is held by two codes: complete only by half, still disentangled.
    copies = torch.cat([disentangled(factors), disentangled(factors)], 1)
    shared = dci(copies, factors)
    assert shared.disentanglement > 0.95
    assert shared.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)
    # Uninformative codes leave the majority vote at chance.
    assert factor_vae_score(noise(factors), factors, votes=4000) == pytest.approx(1 / 3, abs=0.06)
    # Codes that say nothing, constant or not, and scales of codes change nothing.
    noisy = factors + 0.2 * torch.randn(factors.shape)
    n = len(factors)
    for silent in (torch.full((n, 1), 0.1, dtype=torch.float64), torch.randn(n, 1), 1e-9 * torch.randn(n, 1)):
        codes = torch.cat([noisy * torch.tensor([1.0, 30.0, 0.1]), silent], 1)
        assert factor_vae_score(codes, factors) > 0.98
        assert dci(codes, factors).disentanglement > 0.9


def sprite_factors(shapes):
    factors = data.sprites(8)[1]
    return factors[factors[:, 0] < shapes]


TEN = torch.cartesian_prod(torch.arange(10), torch.arange(10)).repeat(20, 1)


@pytest.mark.parametrize("factors", [sprite_factors(3), sprite_factors(2), TEN], ids=["3", "2", "ten"])
def test_perfect_codes_reach_the_ceiling_in_any_order(factors):
    # As drawn, the first half of the sprites holds half of the shapes, and of two shapes only one.
    values = factors.max(0).values + 1
    for order in (torch.arange(len(factors)), torch.randperm(len(factors))):
        codes, sorted_factors = factors[order].double(), factors[order]
        assert mutual_information_gap(codes, sorted_factors) == pytest.approx(1)
        assert sap_score(codes, sorted_factors) == pytest.approx((1 - 1 / values.double()).mean().item())
        assert dci(codes, sorted_factors, trees=5) == pytest.approx((1, 1, 1))
        assert factor_vae_score(codes, sorted_factors) == 1


def test_more_values_than_bins_lower_the_ceiling_of_the_gap():
    many = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    assert mutual_information_gap(many.double(), many) == pytest.approx(0.85, abs=0.001)
    assert mutual_information_gap(many.double(), many, bins=32) == pytest.approx(1)


def test_one_far_example_changes_no_score_much(factors):
    codes = disentangled(factors)
    far = codes.clone()
    far[7] += 50 * codes.std(0)
    for score in SCORES:
        np.testing.assert_allclose(score(far, factors), score(codes, factors), atol=0.03)


def test_bad_arguments_are_refused(factors):
    codes = noise(factors)
    bad = [(codes[:, :1], factors), (codes, factors[:, :1]), (codes[:-1], factors), (codes, factors.double())]
    bad += [(codes, factors * 0), (codes[:, 0], factors)]
    hole = codes.clone()
    hole[5, 1] = math.nan
    for score in SCORES:
        for arguments in bad:
            with pytest.raises(ValueError, match="factor"):
                score(*arguments)
        with pytest.raises(ValueError, match="codes: 1 of 7200 values are NaN"):
            score(hole, factors)
