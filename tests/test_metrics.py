"""Metrics against independent libraries, closed forms and invariances."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy import linalg
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
        groups = log_weights[:19_800].reshape(-1, k, 5).movedim(1, 0).flatten(1)  # (k, 19,800 / k * 5)
        bounds.append(metrics.importance_weighted_log_likelihood(groups).reshape(-1, 5).mean(0))
    for smaller, larger in zip(bounds, [*bounds[1:], exact + 0.01], strict=True):
        assert (smaller < larger).all()
    # In chunks of any size, in single precision and far from zero.
    chunks = (chunk.float() - 1000 for chunk in log_weights.split([1, 7, 19_992]))
    assert torch.allclose(metrics.importance_weighted_log_likelihood(chunks), estimate - 1000, atol=1e-3)
    assert estimate.dtype == torch.float64
    # Weights of probability 0 count as weights.
    half = torch.stack([torch.full((4,), -torch.inf), torch.zeros(4)])
    assert metrics.importance_weighted_log_likelihood(half).tolist() == pytest.approx([-math.log(2)] * 4)
    with pytest.raises(ValueError, match="no weight"):
        metrics.importance_weighted_log_likelihood([])


def test_log_likelihoods_are_those_of_the_whole():
    x, sizes = torch.randn(25, 3, requires_grad=True), []

    def log_prob(part):
        sizes.append(len(part))
        return -part.square().sum(1)

    found = metrics.log_likelihoods(log_prob, x, batch_size=10)
    assert sizes == [10, 10, 5]
    assert not found.requires_grad
    torch.testing.assert_close(found, -x.detach().double().square().sum(1), rtol=1e-6, atol=1e-6)


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
    mean, covariance = metrics.feature_statistics(features)
    np.testing.assert_allclose(mean, features.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.numpy().T), rtol=1e-6)
    assert [tuple(part.shape) for part in metrics.feature_statistics(features[:, :1])] == [(1,), (1, 1)]
    with pytest.raises(ValueError, match="got 1"):
        metrics.feature_statistics(features[:1])


def test_frechet_distance_against_torch_fidelity():
    a, b = torch.randn(500, 16), 0.5 + torch.randn(400, 16) @ torch.randn(16, 16) / 4
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
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
    mixed = (torch.randn(50, 5).double() @ torch.randn(5, 5).double() for _ in range(2))
    c, d = map(metrics.feature_statistics, mixed)
    root = linalg.sqrtm((c[1] @ d[1]).numpy())
    expected = float((c[0] - d[0]).square().sum() + c[1].trace() + d[1].trace()) - 2 * np.trace(root).real
    assert metrics.frechet_distance(c, d) == pytest.approx(expected, rel=1e-9)
    turned = [(rotation @ mean, rotation @ covariance @ rotation.T) for mean, covariance in (c, d)]
    assert metrics.frechet_distance(*turned) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="eigenvalue -1"):
        metrics.frechet_distance((torch.zeros(2), -torch.eye(2)), a)


def test_inception_score():
    logits = torch.randn(300, 10) * 3
    theirs = isc_features_to_metric(logits, splits=10)  # shuffled by the same seed
    expected = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert metrics.inception_score(logits) == pytest.approx(expected, rel=1e-9)
    certain = 1e4 * torch.eye(10)[torch.arange(100) % 10]  # sure of each, all classes equally often
    assert metrics.inception_score(certain, splits=1) == pytest.approx((10, 0))
    assert metrics.inception_score(torch.zeros(50, 7), splits=1) == pytest.approx((1, 0))
    for splits in (0, 301):
        with pytest.raises(ValueError, match=f"got {splits}"):
            metrics.inception_score(logits, splits=splits)


def test_inception_score_of_samples_in_order_of_their_class():
    # Unshuffled, each of ten splits would hold one class and score 1.
    sorted_by_class = 1e4 * torch.eye(10)[torch.arange(1000) // 100]
    assert metrics.inception_score(sorted_by_class)[0] > 9


def test_a_logit_of_minus_infinity_is_a_probability_of_zero():
    # One class of five never comes: the score is that of the other four, whose logits are as certain as e.
    logits = torch.randn(400, 4)
    impossible = torch.cat([logits, torch.full((400, 1), -torch.inf)], 1)
    assert metrics.inception_score(impossible) == pytest.approx(metrics.inception_score(logits), rel=1e-12)
    # Sure of one of four classes, equally often, and all else impossible: exactly 4.
    certain = torch.full((40, 5), -torch.inf)
    certain[torch.arange(40), torch.arange(40) % 4] = 0
    assert metrics.inception_score(certain, splits=1) == pytest.approx((4, 0))
    with pytest.raises(ValueError, match="no probabilities"):
        metrics.inception_score(torch.full((10, 3), -torch.inf))


def test_precision_recall():
    real, fake = torch.randn(1500, 4).double(), 0.7 * torch.randn(1200, 4).double() + 0.5
    options = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "save_cpu_ram": False, "verbose": False}
    theirs = prc_features_to_metric(fake, real, **options)
    precision, recall = metrics.precision_recall(real, fake)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=2e-3)
    assert precision > recall + 0.1  # a narrow generator is precise, and misses what is far
    assert metrics.precision_recall(fake, real) == pytest.approx((recall, precision))
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.precision_recall(real, fake + 100) == (0, 0)
    half = torch.cat([real[:600], real[:600] + 100])
    assert metrics.precision_recall(real, half)[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="k = 3"):
        metrics.precision_recall(real, fake[:3])


def test_mode_coverage():
    modes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = 0.1 * torch.randn(100, 2)
    samples[50:80] += modes[1]
    samples[80:] = 5
    assert metrics.mode_coverage(samples, modes, radius=1.0) == (2, 0.8)
    assert metrics.mode_coverage(samples, modes, radius=1.0, least=40) == (1, 0.8)
    assert metrics.mode_coverage(modes, modes, radius=1e-9) == (3, 1.0)
    assert metrics.mode_coverage(modes + 2, modes, radius=1.0) == (0, 0.0)


# ---- transport ---------------------------------------------------------------------------------------------

SAME = [((40,), (40,)), ((12, 1), (12, 1)), ((30, 3), (30, 3))]
OTHER = [((40,), (25,)), ((12, 1), (30, 1)), ((20, 2), (33, 2))]
CASES = [(shapes, order) for shapes in SAME for order in (1, 2)] + [(shapes, 1) for shapes in OTHER]


@pytest.mark.parametrize(("shapes", "order"), CASES)
def test_wasserstein_against_pot(shapes, order):
    x, y = torch.randn(shapes[0]), 1 + 2 * torch.randn(shapes[1])
    points = [p.reshape(len(p), -1).double().numpy() for p in (x, y)]
    cost = ot.dist(*points, "euclidean") ** order
    expected = ot.emd2(ot.unif(len(x)), ot.unif(len(y)), cost) ** (1 / order)
    assert metrics.wasserstein(x, y, order=order) == pytest.approx(expected, rel=1e-6)
    assert metrics.wasserstein(y, x, order=order) == pytest.approx(expected, rel=1e-6)


def test_wasserstein_of_a_shift():
    x, shift = torch.randn(50, 2), torch.tensor([3.0, 4.0])
    for order in (1, 2, 3):
        moved = x[torch.randperm(50)] + shift
        assert metrics.wasserstein(x, moved, order=order) == pytest.approx(5, rel=1e-5)
    assert metrics.wasserstein(x, x[torch.randperm(50)]) == 0
    for a, b, order in ((x, x[:, :1], 1), (x, x, 0.5), (x, x[:0], 1), (x, x[:49], 2)):
        with pytest.raises(ValueError, match=r"order|shapes"):
            metrics.wasserstein(a, b, order=order)


@pytest.mark.parametrize("m", [30_000, 20_000])
def test_wasserstein_on_a_line_does_not_need_all_pairs(m, monkeypatch):
    monkeypatch.setattr(torch, "cdist", None)  # 30,000 by 30,000 distances are 7 GB
    x, y = torch.randn(30_000), torch.randn(m) + 3
    assert metrics.wasserstein(x, y) == pytest.approx((y.mean() - x.mean()).item(), rel=1e-4)


# ---- all ---------------------------------------------------------------------------------------------------


def gaussian(covariance=None):
    return torch.zeros(3), torch.eye(3) if covariance is None else covariance


# Each metric as a function of one tensor (7, 3), and the name that it has for the tensor.
METRICS = [
    ("log_prob", lambda x: metrics.log_likelihoods(lambda part: part.sum(1), x)),
    ("log_weights", metrics.importance_weighted_log_likelihood),
    ("log_weights", metrics.effective_sample_size),
    ("means", metrics.active_units),
    ("features", lambda x: metrics.frechet_distance(metrics.feature_statistics(x), gaussian())),
    ("mean", lambda x: metrics.frechet_distance((x[3], x[:3]), gaussian())),
    ("logits", lambda x: metrics.inception_score(x, splits=1)),
    ("real", lambda x: metrics.precision_recall(x, torch.ones(9, 3))),
    ("fake", lambda x: metrics.precision_recall(torch.ones(9, 3), x)),
    ("samples", lambda x: metrics.mode_coverage(x, torch.ones(2, 3), radius=1.0)),
    ("modes", lambda x: metrics.mode_coverage(torch.ones(2, 3), x, radius=1.0)),
    ("x", lambda x: metrics.wasserstein(x, torch.ones(7, 3))),
    ("x", lambda x: metrics.wasserstein(x[:, 0], torch.ones(7))),
    ("y", lambda x: metrics.wasserstein(torch.ones(5, 3), x)),
    ("y", lambda x: metrics.wasserstein(torch.ones(5), x[:, 0])),
]
IDS = [f"{number}-{name}" for number, (name, _) in enumerate(METRICS)]
SQUARE = torch.cat([torch.eye(3), torch.ones(4, 3) / 2])  # its first rows are a covariance too


@pytest.mark.parametrize(("name", "metric"), METRICS, ids=IDS)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_a_metric_takes_tensors_with_a_gradient_on_any_device(name, metric, device):
    plain = metric(SQUARE)
    with torch.device(device):  # where a metric above makes its other argument
        tracked = metric(SQUARE.to(device).requires_grad_())
    assert not getattr(tracked, "requires_grad", False)
    np.testing.assert_allclose(*(np.asarray(torch.as_tensor(v).cpu()) for v in (tracked, plain)), atol=1e-6)


@pytest.mark.parametrize(("name", "metric"), METRICS, ids=IDS)
def test_a_nan_is_refused_by_the_name_of_its_argument(name, metric):
    x = SQUARE.clone()
    x[3, 0] = math.nan
    with pytest.raises(ValueError, match=f"^{name}: 1 of .* NaN"):
        metric(x)


def test_a_nan_in_nats_or_a_covariance_is_refused():
    with pytest.raises(ValueError, match="nats"):
        metrics.bits_per_dim(math.nan, 784)
    hole = torch.diag(torch.tensor([1, math.nan, 1]))
    with pytest.raises(ValueError, match="covariance: 1 of 9"):
        metrics.frechet_distance(gaussian(hole), gaussian())


ONE = torch.ones(9)


@pytest.mark.parametrize(("call", "shape"), [
    (lambda: metrics.log_likelihoods(lambda x: x, ONE[:, None]), r"log_prob of shape \(N\), got \(9, 1\)"),
    (lambda: metrics.importance_weighted_log_likelihood([ONE] * 3), r"log_weights .*\(K, B\), got \(9,\)"),
    (lambda: metrics.effective_sample_size(ONE), r"log_weights of shape \(K, B\), got \(9,\)"),
    (lambda: metrics.active_units(ONE), r"means of shape \(N, d\), got \(9,\)"),
    (lambda: metrics.feature_statistics(ONE), r"features of shape \(N, D\), got \(9,\)"),
    (lambda: metrics.frechet_distance(gaussian(ONE), gaussian()), r"covariance of shape \(D, D\), got \(9"),
    (lambda: metrics.inception_score(ONE), r"logits of shape \(N, classes\), got \(9,\)"),
    (lambda: metrics.precision_recall(ONE, ONE[:, None]), r"real of shape \(N, D\), got \(9,\)"),
    (lambda: metrics.mode_coverage(ONE[:, None], ONE, radius=1), r"modes of shape \(C, D\), got \(9,\)"),
    (lambda: metrics.wasserstein(ONE, ONE[:, None, None]), r"y of shape \(N, D\), got \(9, 1, 1\)"),
])  # fmt: skip
def test_a_wrong_shape_is_refused_with_the_right_one(call, shape):
    with pytest.raises(ValueError, match=shape):
        call()
