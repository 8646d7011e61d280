"""Metrics against independent libraries, closed forms, invariances and codes whose scores are known."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy import linalg
from sklearn.metrics import mutual_info_score
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from dgm_utils import metrics


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- likelihood --------------------------------------------------------------------------------------------


def test_bits_per_dim():
    assert metrics.bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)
    # A uniform density on the unit cube has 0 nats; of 256 levels it is 8 bits.
    assert metrics.bits_per_dim(0.0, 784, levels=256) == pytest.approx(8)
    assert torch.allclose(metrics.bits_per_dim(torch.tensor([0.0, math.log(2)]), 2), torch.tensor([0.0, 0.5]))
    for dims, levels in ((0, None), (-3, None), (4, 1)):
        with pytest.raises(ValueError, match=f"{dims}"):
            metrics.bits_per_dim(1.0, dims, levels=levels)


def linear_gaussian(count):
    """Return log-weights (K, B) of x = z + e, z and e standard normal, and the exact log p(x)."""
    x = torch.randn(5, dtype=torch.float64)
    proposal = torch.distributions.Normal(x / 2, 0.9)
    normal = torch.distributions.Normal(0.0, 1.0)
    z = proposal.sample((count,))
    log_weights = normal.log_prob(z) + normal.log_prob(x - z) - proposal.log_prob(z)
    return log_weights, torch.distributions.Normal(0.0, math.sqrt(2)).log_prob(x)


def test_importance_weighted_log_likelihood():
    log_weights, exact = linear_gaussian(20_000)
    estimate = metrics.importance_weighted_log_likelihood(log_weights)
    assert torch.allclose(estimate, exact, atol=0.02)
    # Larger K gives a larger bound on average, all below the exact value.
    bounds = []
    for k in (1, 3, 20):
        groups = log_weights[:19_800].reshape(-1, k, 5).movedim(1, 0)
        bounds.append(metrics.importance_weighted_log_likelihood(groups).mean(0))
    assert (
        (bounds[0] < bounds[1]).all() and (bounds[1] < bounds[2]).all() and (bounds[2] < exact + 0.01).all()
    )
    # In chunks of any size, in single precision and far from zero.
    chunks = (chunk.float() - 1000 for chunk in log_weights.split([1, 7, 19_992]))
    assert torch.allclose(metrics.importance_weighted_log_likelihood(chunks), estimate - 1000, atol=1e-3)
    assert estimate.dtype == torch.float64
    with pytest.raises(ValueError, match="no weight"):
        metrics.importance_weighted_log_likelihood([])


def test_effective_sample_size():
    assert metrics.effective_sample_size(torch.full((7, 2), -500.0)).tolist() == pytest.approx([7, 7])
    assert metrics.effective_sample_size(torch.tensor([[0.0], [-1e4]])).tolist() == pytest.approx([1])
    w = torch.rand(9, 3, dtype=torch.float64)
    assert torch.allclose(metrics.effective_sample_size(w.log()), w.sum(0) ** 2 / (w**2).sum(0))


def test_active_units():
    means = torch.randn(10_000, 3) * torch.tensor([1.0, 0.11, 0.09]) + 5
    assert metrics.active_units(means).tolist() == [True, True, False]
    assert metrics.active_units(means, threshold=0.5).sum() == 1


# ---- samples and their features ----------------------------------------------------------------------------


def test_feature_statistics():
    features = torch.randn(101, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 1e6
    for given in (features, features.split(10), iter(features.split([1, 100]))):
        mean, covariance = metrics.feature_statistics(given)
        assert torch.allclose(mean, features.mean(0), rtol=1e-12)
        assert torch.allclose(covariance, torch.cov(features.T), rtol=1e-6)
    with pytest.raises(ValueError, match="got 1"):
        metrics.feature_statistics(features[:1])


def test_frechet_distance_against_torch_fidelity():
    a, b = torch.randn(500, 16), 0.5 + torch.randn(400, 16) @ torch.randn(16, 16) / 4
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a), fid_features_to_statistics(b), verbose=False
    )
    ours = metrics.frechet_distance(metrics.feature_statistics(a), metrics.feature_statistics(b))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    def gaussian(mean, variances, rotation=None):
        rotation = torch.eye(len(mean)).double() if rotation is None else rotation
        return torch.tensor(mean), rotation @ torch.diag(torch.tensor(variances).double()) @ rotation.T

    # Commuting covariances: |difference of means|² + Σ (difference of standard deviations)².
    a, b = gaussian([0.0, 1.0, 0.0], [4.0, 1.0, 0.0]), gaussian([3.0, 1.0, 4.0], [1.0, 9.0, 0.0])
    assert metrics.frechet_distance(a, b) == pytest.approx(25 + 1 + 4)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))
    # Both singular, on lines at an angle: covariances u uᵀ and v vᵀ give 1 + 1 − 2 |u·v|.
    for angle in (0.0, 0.3, math.pi / 2):
        u, v = torch.tensor([1.0, 0.0]), torch.tensor([math.cos(angle), math.sin(angle)])
        lines = [(torch.zeros(2), torch.outer(w, w)) for w in (u, v)]
        assert metrics.frechet_distance(*lines) == pytest.approx(2 - 2 * math.cos(angle), abs=1e-6)
    # Fewer examples than dimensions; the same features again are at distance zero.
    few = torch.randn(20, 64)
    assert metrics.frechet_distance(*[metrics.feature_statistics(few)] * 2) == pytest.approx(0, abs=1e-10)
    # Against scipy's root of the product, and invariant under a common rotation.
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    c, d = (
        metrics.feature_statistics(torch.randn(50, 5).double() @ torch.randn(5, 5).double()) for _ in range(2)
    )
    root = linalg.sqrtm((c[1] @ d[1]).numpy())
    expected = float((c[0] - d[0]).square().sum() + c[1].trace() + d[1].trace()) - 2 * np.trace(root).real
    assert metrics.frechet_distance(c, d) == pytest.approx(expected, rel=1e-9)
    turned = [(rotation @ mean, rotation @ covariance @ rotation.T) for mean, covariance in (c, d)]
    assert metrics.frechet_distance(*turned) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="eigenvalue -1"):
        metrics.frechet_distance((torch.zeros(2), -torch.eye(2)), a)


def test_inception_score():
    logits = torch.randn(300, 10) * 3
    theirs = isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, std = metrics.inception_score(logits)
    assert (mean, std) == pytest.approx(
        (theirs["inception_score_mean"], theirs["inception_score_std"]), rel=1e-9
    )
    certain = 1e4 * torch.eye(10)[torch.arange(100) % 10]  # sure of each, all classes equally often
    assert metrics.inception_score(certain, splits=2) == pytest.approx((10, 0))
    assert metrics.inception_score(torch.zeros(50, 7), splits=1) == pytest.approx((1, 0))
    for splits in (0, 301):
        with pytest.raises(ValueError, match=f"got {splits}"):
            metrics.inception_score(logits, splits=splits)


def test_precision_recall():
    real, fake = torch.randn(1500, 4).double(), 0.7 * torch.randn(1200, 4).double() + 0.5
    theirs = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=False, verbose=False
    )
    precision, recall = metrics.precision_recall(real, fake)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=2e-3)
    assert precision > recall + 0.1  # a narrow generator is precise, and misses what is far
    assert metrics.precision_recall(fake, real) == pytest.approx((recall, precision))
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real, fake + 100) == (0, 0)
    half = torch.cat([real[:600], real[:600] + 100])
    assert metrics.precision_recall(real, half) == pytest.approx(
        (0.5, metrics.precision_recall(real, half)[1])
    )
    with pytest.raises(ValueError, match="k = 3"):
        metrics.precision_recall(real, fake[:3])


def test_mode_coverage():
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = torch.cat(
        [modes[0] + 0.1 * torch.randn(50, 2), modes[1] + 0.1 * torch.randn(30, 2), torch.full((20, 2), 5.0)]
    )
    assert metrics.mode_coverage(samples, modes, radius=1.0) == (2, 0.8)
    assert metrics.mode_coverage(samples, modes, radius=1.0, least=40) == (1, 0.8)
    assert metrics.mode_coverage(modes, modes, radius=1e-9) == (3, 1.0)
    assert metrics.mode_coverage(modes + 2, modes, radius=1.0) == (0, 0.0)


# ---- transport ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "shapes", [((40,), (40,)), ((40,), (25,)), ((12, 1), (30, 1)), ((30, 3), (30, 3)), ((20, 2), (33, 2))]
)
def test_wasserstein_against_pot(shapes, order):
    x, y = torch.randn(shapes[0]), 1 + 2 * torch.randn(shapes[1])
    cost = (
        ot.dist(x.reshape(len(x), -1).double().numpy(), y.reshape(len(y), -1).double().numpy(), "euclidean")
        ** order
    )
    expected = ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cost) ** (1 / order)
    assert metrics.wasserstein(x, y, order=order) == pytest.approx(expected, rel=1e-6)
    assert metrics.wasserstein(y, x, order=order) == pytest.approx(expected, rel=1e-6)


def test_wasserstein_of_a_shift():
    x, shift = torch.randn(50, 2), torch.tensor([3.0, 4.0])
    for order in (1, 2, 3):
        assert metrics.wasserstein(x, x[torch.randperm(50)] + shift, order=order) == pytest.approx(
            5, rel=1e-5
        )
    assert metrics.wasserstein(x, x[torch.randperm(50)]) == 0
    for a, b, order in ((x, x[:, :1], 1), (x, x, 0.5), (x, x[:0], 1)):
        with pytest.raises(ValueError, match=r"order|shapes"):
            metrics.wasserstein(a, b, order=order)


@pytest.mark.parametrize("order", [1, 2])
def test_sinkhorn(order):
    x, y = torch.randn(30, 2), 1 + torch.randn(20, 2)
    cost = ot.dist(x.double().numpy(), y.double().numpy(), "euclidean") ** order
    theirs = ot.sinkhorn2(
        ot.unif(30), ot.unif(20), cost, reg=0.3, method="sinkhorn_log", numItermax=10_000, stopThr=1e-12
    )
    assert metrics.sinkhorn(x, y, epsilon=0.3, order=order) == pytest.approx(
        float(theirs) ** (1 / order), rel=1e-6
    )
    exact = metrics.wasserstein(x, y, order=order)
    gaps = [
        metrics.sinkhorn(x, y, epsilon=epsilon, order=order) - exact for epsilon in (1.0, 0.3, 0.05 * order)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.05 * exact
    with pytest.raises(RuntimeError, match="5 steps"):
        metrics.sinkhorn(x, y, epsilon=0.01, steps=5)


# ---- disentanglement ---------------------------------------------------------------------------------------


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
    assert metrics.mutual_information_gap(disentangled(factors), factors) == pytest.approx(1, abs=0.02)
    assert metrics.mutual_information_gap(entangled(factors), factors) < 0.3
    assert metrics.mutual_information_gap(noise(factors), factors) < 0.02
    # A factor that two codes hold alike has no gap; two more are held by none.
    twice = torch.stack([factors[:, 0], factors[:, 0]], 1).double()
    assert metrics.mutual_information_gap(twice, factors) == pytest.approx(0, abs=1e-12)
    # Against scikit-learn's mutual information; codes are scale-free and may be constant.
    codes = torch.cat([entangled(factors), torch.ones(len(factors), 1)], 1)
    binned = [np.digitize(code, np.linspace(code.min(), code.max(), 21)[1:-1]) for code in codes.numpy().T]
    gaps = []
    for factor in factors.numpy().T:
        information = sorted(mutual_info_score(factor, code) for code in binned)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    ours = metrics.mutual_information_gap(codes, factors)
    assert ours == pytest.approx(np.mean(gaps), abs=1e-3)
    assert metrics.mutual_information_gap(-7 * codes + 3, 10 - factors) == pytest.approx(ours, abs=0.01)


@pytest.mark.parametrize("score, good, bad", [
    (metrics.sap_score, 0.5, 0.2),
    (lambda codes, factors: metrics.dci(codes, factors).disentanglement, 0.95, 0.5),
    (lambda codes, factors: metrics.dci(codes, factors).completeness, 0.95, 0.5),
    (metrics.factor_vae_score, 0.99, 0.8),
])  # fmt: skip
def test_scores_tell_disentangled_codes_from_others(factors, score, good, bad):
    codes = disentangled(factors)
    best = score(codes, factors)
    assert good < best <= 1
    assert score(codes[:, [2, 0, 1]] * torch.tensor([1.0, -3.0, 10.0]), factors) == pytest.approx(
        best, abs=0.05
    )
    assert score(entangled(factors), factors) < bad
    assert score(noise(factors), factors) < bad
    assert score(codes, factors) == best  # the same again


def test_known_scores(factors):
    # One code holds the factor, the other is noise: accuracies 1 and 1/2 of a balanced binary factor.
    two = torch.stack([torch.arange(2000) % 2, torch.arange(2000) // 2 % 2], 1)
    codes = torch.cat([two.double() * 2 - 1, torch.randn(2000, 1).double()], 1)
    assert metrics.sap_score(codes, two) == pytest.approx(0.5, abs=0.05)
    dci = metrics.dci(disentangled(factors), factors)
    assert dci.informativeness == pytest.approx(1, abs=0.01)
    # Each factor is held by two codes: complete only by half, still disentangled.
    copies = torch.cat([disentangled(factors), disentangled(factors)], 1)
    shared = metrics.dci(copies, factors)
    assert shared.disentanglement > 0.95
    assert shared.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)
    # Uninformative codes leave the majority vote at chance.
    assert metrics.factor_vae_score(noise(factors), factors, votes=4000) == pytest.approx(1 / 3, abs=0.06)
    # Codes that say nothing, constant or not, and scales of codes change nothing.
    noisy = factors + 0.2 * torch.randn(factors.shape)
    for silent in (
        torch.zeros(len(factors), 1),
        torch.randn(len(factors), 1),
        1e-9 * torch.randn(len(factors), 1),
    ):
        codes = torch.cat([noisy * torch.tensor([1.0, 30.0, 0.1]), silent], 1)
        assert metrics.factor_vae_score(codes, factors) > 0.98
        assert metrics.dci(codes, factors).disentanglement > 0.9


def test_disentanglement_scores_refuse_bad_arguments(factors):
    codes = noise(factors)
    bad = [(codes[:, :1], factors), (codes, factors[:, :1]), (codes[:-1], factors), (codes, factors.double())]
    bad += [(codes, factors * 0), (codes[:, 0], factors)]
    for score in (metrics.mutual_information_gap, metrics.sap_score, metrics.dci, metrics.factor_vae_score):
        for arguments in bad:
            with pytest.raises(ValueError, match="factor"):
                score(*arguments)
