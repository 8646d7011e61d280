"""Metrics of likelihood, of samples and their features, and of transport.

Tensors may lie on any device and require a gradient. They are taken in float64, and refused where a value is
NaN or the shape is not the one that is asked for. No metric depends on the order of the examples.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from dgm_utils.checks import _require

__all__ = ["ModeCoverage", "active_units", "bits_per_dim", "effective_sample_size", "feature_statistics",
           "frechet_distance", "importance_weighted_log_likelihood", "inception_score", "log_likelihoods",
           "mode_coverage", "precision_recall", "wasserstein"]  # fmt: skip


def _double(x: Tensor, name: str, *axes: str) -> Tensor:
    """Return ``x`` in float64 without a gradient, if it has these axes and no NaN."""
    _require(x.ndim == len(axes), f"expected {name} of shape ({', '.join(axes)}), got {tuple(x.shape)}")
    _require(not x.isnan().any(), f"{name}: {int(x.isnan().sum())} of {x.numel()} values are NaN")
    return x.detach().double()


# ---- likelihood --------------------------------------------------------------------------------------------


def bits_per_dim(nats: Tensor | float, dims: int, *, levels: int | None = None) -> Tensor | float:
    """Convert a negative log-likelihood, or a bound on it, from nats per example to bits per dimension.

    Args:
        nats: of one example, or a batch of them.
        dims: number of dimensions of an example (pixels times channels).
        levels: number of integer levels, if the nats belong to a density of data that was scaled from
            [0, levels) to [0, 1): adds log2(levels).

    References:
        George Papamakarios, Theo Pavlakou, Iain Murray, Masked Autoregressive Flow for Density
        Estimation, 2017, https://arxiv.org/abs/1705.07057, appendix E.2
    """
    right = dims > 0 and (levels is None or levels > 1)
    _require(right, f"expected dims above 0 and levels above 1, got {dims} and {levels}")
    _require(not torch.as_tensor(nats).isnan().any(), f"nats: expected numbers, got {nats}")
    return nats / (dims * math.log(2)) + (0 if levels is None else math.log2(levels))


@torch.no_grad()
def log_likelihoods(log_prob: Callable[[Tensor], Tensor], x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Return ``log_prob`` of every example, ``(N, ...) -> (N,)`` in nats, a batch at a time."""
    return _double(torch.cat([log_prob(part) for part in x.split(batch_size)]), "log_prob", "N")


def importance_weighted_log_likelihood(log_weights: Tensor | Iterable[Tensor]) -> Tensor:
    """Estimate log p(x) by the logarithm of the mean importance weight; in expectation a lower bound.

    Args:
        log_weights: log p(x, z_k) − log q(z_k | x) in nats, ``(K, B)``, or an iterable of such
            chunks with any K each.

    Returns:
        The estimate for each example, ``(B,)``, float64.

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2015,
        https://arxiv.org/abs/1509.00519
    """
    sums, count = [], 0
    for chunk in [log_weights] if isinstance(log_weights, Tensor) else log_weights:
        sums.append(_double(chunk, "log_weights", "K", "B").logsumexp(0))
        count += len(chunk)
    _require(count > 0, "log_weights holds no weight")
    return torch.stack(sums).logsumexp(0) - math.log(count)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Return (Σ w)² / Σ w² over the K importance weights of each example, ``(K, B) -> (B,)``, from 1 to K.

    References:
        Art Owen, Monte Carlo Theory, Methods and Examples, 2013, section 9.3, https://artowen.su.domains/mc/
    """
    log_weights = _double(log_weights, "log_weights", "K", "B")
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def active_units(means: Tensor, *, threshold: float = 0.01) -> Tensor:
    """Tell which latent dimensions respond to the data: their posterior means vary.

    Args:
        means: posterior means of N examples, ``(N, d)``.
        threshold: least variance of an active unit.

    Returns:
        Bool ``(d,)``; its sum is the number of active units.

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2015,
        https://arxiv.org/abs/1509.00519
    """
    return _double(means, "means", "N", "d").var(0) > threshold


# ---- samples and their features ----------------------------------------------------------------------------


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean ``(D,)`` and unbiased covariance ``(D, D)`` of features ``(N, D)``, N at least 2."""
    features = _double(features, "features", "N", "D")
    _require(len(features) > 1, f"a covariance needs at least 2 examples, got {len(features)}")
    return features.mean(0), torch.atleast_2d(features.T.cov())  # cov of one row is 0-d


def frechet_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Return the squared Fréchet (2-Wasserstein) distance of two Gaussians; the FID for Inception features.

    Args:
        first: mean ``(D,)`` and covariance ``(D, D)``, which may be singular, as from `feature_statistics`.
        second: the other Gaussian's.

    Raises:
        ValueError: a covariance has a negative eigenvalue beyond rounding.

    References:
        Martin Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
        Equilibrium, 2017, https://arxiv.org/abs/1706.08500
    """
    mean1, mean2 = (_double(mean, "mean", "D") for mean, _ in (first, second))
    cov1, cov2 = (_double(covariance, "covariance", "D", "D") for _, covariance in (first, second))
    # tr (C₁ C₂)^½ is the nuclear norm of C₁^½ C₂^½: no root of a product that is not symmetric.
    overlap = torch.linalg.matrix_norm(_root(cov1) @ _root(cov2), "nuc")
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance)
    _require(values.min() >= -1e-6 * values.abs().max(), f"covariance has the eigenvalue {values.min():.3g}")
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def inception_score(logits: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over splits of exp E KL(p(y|x) || p(y)), 1 to the number of classes.

    Args:
        logits: a classifier's, of N samples, ``(N, classes)``; a logit of −inf is a probability of 0.
        splits: number of parts, drawn at random, each of which has its own p(y).

    References:
        Tim Salimans et al., Improved Techniques for Training GANs, 2016, https://arxiv.org/abs/1606.03498
    """
    p = _double(logits, "logits", "N", "classes").softmax(1)
    _require(1 <= splits <= len(p), f"splits must be from 1 to {len(p)}, got {splits}")
    _require(not p.isnan().any(), "logits: a row with +inf, or with −inf alone, has no probabilities")
    order = np.random.RandomState(2020).permutation(len(p))  # that of torch-fidelity: the same splits
    scores = []
    for part in p[torch.from_numpy(order)].tensor_split(splits):
        # KL from the marginal, on average, is H(marginal) − mean H(p); entr(0) is 0.
        information = torch.special.entr(part.mean(0)).sum() - torch.special.entr(part).sum(1).mean()
        scores.append(information.exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> tuple[float, float]:
    """Return the share of fakes on the manifold of the real, and of the real on that of the fakes.

    A manifold is the union of balls around its points that reach to their k-th neighbour.

    Args:
        real: features ``(N, D)``.
        fake: features ``(M, D)``.
        k: neighbour that sets the radius.

    References:
        Tuomas Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative
        Models, 2019, https://arxiv.org/abs/1904.06991
    """
    n, m = len(real), len(fake)
    _require(0 < k < min(n, m), f"k = {k} must be from 1 and below both {n} and {m} examples")
    real, fake = _double(real, "real", "N", "D"), _double(fake, "fake", "M", "D")

    def covered(points: Tensor, centres: Tensor) -> float:
        chunks = centres.split(1024)  # distances of 1024 points at a time, never all of them
        radius = torch.cat([torch.cdist(c, centres).kthvalue(k + 1, 1).values for c in chunks])  # 1st: itself
        near = torch.cat([(torch.cdist(p, centres) <= radius).any(1) for p in points.split(1024)])
        return near.double().mean().item()

    return covered(fake, real), covered(real, fake)


class ModeCoverage(NamedTuple):
    """Number of modes that have samples, and the share of samples that are near a mode."""

    modes: int
    high_quality: float


def mode_coverage(samples: Tensor, modes: Tensor, *, radius: float, least: int = 1) -> ModeCoverage:
    """Count the modes of a mixture that a generator reaches, and the samples of high quality.

    Args:
        samples: ``(N, D)``.
        modes: centres ``(C, D)``.
        radius: a sample is of high quality within it of its nearest centre; usually 3 standard deviations.
        least: number of samples of high quality that a captured mode has.

    References:
        Akash Srivastava et al., VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational
        Learning, 2017, https://arxiv.org/abs/1705.07761
    """
    samples, modes = _double(samples, "samples", "N", "D"), _double(modes, "modes", "C", "D")
    distance, nearest = torch.cdist(samples, modes).min(1)
    near = distance <= radius
    captured = torch.bincount(nearest[near], minlength=len(modes)) >= least
    return ModeCoverage(int(captured.sum()), near.double().mean().item())


# ---- transport ---------------------------------------------------------------------------------------------


def wasserstein(x: Tensor, y: Tensor, *, order: float = 1) -> float:
    """Return the exact Wasserstein distance of two samples, each point of a sample of equal weight.

    Sorts in one dimension; otherwise solves an assignment of equally many points, or a linear programme,
    which takes a second for 200 and 190 points. Both need memory for N M numbers.

    Args:
        x: ``(N,)`` or ``(N, D)``.
        y: ``(M,)`` or ``(M, D)``.
        order: p of W_p, at least 1, and 1 where N and M differ; the ground distance is Euclidean.

    References:
        Gabriel Peyré, Marco Cuturi, Computational Optimal Transport, 2019, https://arxiv.org/abs/1803.00567
    """
    x, y = (points[:, None] if points.ndim == 1 else points for points in (x, y))
    x, y = (_double(points, name, "N", "D").cpu() for points, name in ((x, "x"), (y, "y")))
    _require(len(x) and len(y) and x.shape[1] == y.shape[1], f"samples of shapes {x.shape}, {y.shape}")
    _require(order >= 1, f"order must be at least 1, got {order}")
    line = x.shape[1] == 1
    if len(x) != len(y):
        _require(order == 1, f"order {order} needs samples of one size, got {len(x)} and {len(y)} points")
        return float(stats.wasserstein_distance_nd(x.squeeze(1), y.squeeze(1)))  # on a line it sorts
    if line:
        costs = (x.sort(0).values - y.sort(0).values).abs() ** order
    else:
        costs = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").numpy() ** order
        costs = costs[optimize.linear_sum_assignment(costs)]
    return costs.mean().item() ** (1 / order)
