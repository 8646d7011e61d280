"""Metrics: likelihood, samples and features, transport, disentanglement. All are computed in float64."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy import optimize, sparse
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.svm import LinearSVC
from torch import Tensor

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
    _require(
        dims > 0 and (levels is None or levels > 1),
        f"dims must be positive, levels above 1: {dims}, {levels}",
    )
    return nats / (dims * math.log(2)) + (0 if levels is None else math.log2(levels))


@torch.no_grad()
def log_likelihoods(log_prob: Callable[[Tensor], Tensor], x: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Return ``log_prob`` of every example, ``(N, ...) -> (N,)`` in nats, a batch at a time."""
    return torch.cat([log_prob(part) for part in x.split(batch_size)])


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
    total, count = None, 0
    for chunk in [log_weights] if isinstance(log_weights, Tensor) else log_weights:
        part = chunk.double().logsumexp(0)
        total, count = part if total is None else torch.logaddexp(total, part), count + len(chunk)
    _require(count, "log_weights holds no weight")
    return total - math.log(count)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """Return (Σ w)² / Σ w² over the K importance weights of each example, ``(K, B) -> (B,)``, from 1 to K.

    References:
        Art Owen, Monte Carlo Theory, Methods and Examples, 2013, section 9.3, https://artowen.su.domains/mc/
    """
    log_weights = log_weights.double()
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
    return means.double().var(0) > threshold


# ---- samples and their features ----------------------------------------------------------------------------


def feature_statistics(features: Tensor | Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean ``(D,)`` and unbiased covariance ``(D, D)`` of features ``(N, D)``, whole or in batches."""
    batches = iter([features] if isinstance(features, Tensor) else features)
    first = next(batches).double()
    origin = first.mean(0)  # sums of squares around it do not cancel
    count, total, squares = 0, torch.zeros_like(origin), 0
    for batch in (first, *batches):
        centred = batch.double() - origin
        count, total, squares = count + len(batch), total + centred.sum(0), squares + centred.T @ centred
    _require(count > 1, f"a covariance needs at least 2 examples, got {count}")
    mean = total / count
    return origin + mean, (squares - count * torch.outer(mean, mean)) / (count - 1)


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
    (mean1, cov1), (mean2, cov2) = first, second
    # tr (C₁ C₂)^½ is the nuclear norm of C₁^½ C₂^½: no root of a product that is not symmetric.
    overlap = torch.linalg.matrix_norm(_root(cov1) @ _root(cov2), "nuc")
    difference = (mean1.double() - mean2.double()).square().sum()
    return max((difference + cov1.double().trace() + cov2.double().trace() - 2 * overlap).item(), 0.0)


def _root(covariance: Tensor) -> Tensor:
    """Return the symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(covariance.double())
    _require(values.min() >= -1e-6 * values.abs().max(), f"covariance has the eigenvalue {values.min():.3g}")
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def inception_score(logits: Tensor, *, splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over splits of exp E KL(p(y|x) || p(y)), 1 to the number of classes.

    Args:
        logits: a classifier's, of N samples in random order, ``(N, classes)``.
        splits: number of parts, each of which has its own p(y).

    References:
        Tim Salimans et al., Improved Techniques for Training GANs, 2016, https://arxiv.org/abs/1606.03498
    """
    _require(1 <= splits <= len(logits), f"splits must be from 1 to {len(logits)}, got {splits}")
    scores = []
    for part in logits.double().log_softmax(1).tensor_split(splits):
        marginal = part.logsumexp(0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


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
    _require(
        0 < k < min(len(real), len(fake)), f"k = {k} must be below both {len(real)} and {len(fake)} examples"
    )
    real, fake = real.double(), fake.double()

    def covered(points: Tensor, centres: Tensor) -> float:
        chunks = centres.split(1024)
        radius = torch.cat(
            [torch.cdist(c, centres).kthvalue(k + 1, dim=1).values for c in chunks]
        )  # 1st: itself
        return (
            torch.cat([(torch.cdist(p, centres) <= radius).any(1) for p in points.split(1024)])
            .double()
            .mean()
            .item()
        )

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
    distance, nearest = torch.cdist(samples.double(), modes.double()).min(1)
    near = distance <= radius
    captured = torch.bincount(nearest[near], minlength=len(modes)) >= least
    return ModeCoverage(int(captured.sum()), near.double().mean().item())


# ---- transport ---------------------------------------------------------------------------------------------


def wasserstein(x: Tensor, y: Tensor, *, order: float = 1) -> float:
    """Return the exact Wasserstein distance of two samples, each point of a sample of equal weight.

    Sorts in one dimension; otherwise solves an assignment, or a linear programme where the sizes differ.

    Args:
        x: ``(N,)`` or ``(N, D)``.
        y: ``(M,)`` or ``(M, D)``.
        order: p of W_p, at least 1; the ground distance is Euclidean.

    References:
        Gabriel Peyré, Marco Cuturi, Computational Optimal Transport, 2019, https://arxiv.org/abs/1803.00567
    """
    cost = _cost(x, y, order)
    n, m = cost.shape
    if x[0].numel() == 1:  # both quantile functions are constant between the union of their steps
        steps = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
        i, j = (points.flatten().argsort().cpu().numpy() for points in (x, y))
        i, j = i[steps[:-1] // m], j[steps[:-1] // n]
        return float(np.diff(steps) @ cost[i, j] / (n * m)) ** (1 / order)
    if n == m:
        return cost[optimize.linear_sum_assignment(cost)].mean() ** (1 / order)
    rows, columns = sparse.kron(sparse.eye(n), np.ones(m)), sparse.kron(np.ones(n), sparse.eye(m))
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    plan = optimize.linprog(
        cost.flatten(), A_eq=sparse.vstack([rows, columns]), b_eq=marginals, method="highs"
    )
    return plan.fun ** (1 / order)


def sinkhorn(x: Tensor, y: Tensor, *, epsilon: float, order: float = 1, steps: int = 10_000) -> float:
    """Return the transport distance under the plan that is regularised by entropy.

    It tends to `wasserstein` from above as epsilon goes to 0; the iteration is in the log domain.

    Args:
        x: ``(N,)`` or ``(N, D)``.
        y: ``(M,)`` or ``(M, D)``.
        epsilon: weight of the entropy, in units of the cost, the distance to the power ``order``.
        order: p of W_p, at least 1.
        steps: greatest number of iterations.

    Raises:
        RuntimeError: the marginals are not met to a relative 1e-7 after ``steps`` iterations.

    References:
        Marco Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, 2013,
        https://arxiv.org/abs/1306.0895
    """
    cost = torch.from_numpy(_cost(x, y, order))
    log_n, log_m = math.log(len(x)), math.log(len(y))
    log_kernel, g = -cost / epsilon, torch.zeros(len(y), dtype=cost.dtype)
    for _ in range(steps):
        f = -log_n - (log_kernel + g).logsumexp(1)
        log_plan = log_kernel + f[:, None] + g
        violation = log_plan.logsumexp(0) + log_m
        if violation.abs().max() < 1e-7:
            return (log_plan.exp() * cost).sum().item() ** (1 / order)
        g = g - violation
    off = violation.abs().max()
    raise RuntimeError(f"no convergence in {steps} steps (marginals off by {off:.2g}): larger epsilon?")


def _cost(x: Tensor, y: Tensor, order: float) -> np.ndarray:
    """Return the distances between two samples to the power `order`."""
    _require(order >= 1, f"order must be at least 1, got {order}")
    _require(
        len(x) and len(y) and x.shape[1:] == y.shape[1:],
        f"samples of shapes {tuple(x.shape)}, {tuple(y.shape)}",
    )
    x, y = (
        points.detach().cpu().double().flatten(1) if points.ndim > 1 else points[:, None] for points in (x, y)
    )
    return torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").pow(order).numpy()


# ---- disentanglement: codes (N, d) real, factors (N, C) integers -------------------------------------------


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """Return the MIG: the lead of a factor's most informative code, over its entropy; averaged.

    Args:
        codes: ``(N, d)``, cut into ``bins`` of equal width between their least and greatest value.
        factors: integers ``(N, C)``.
        bins: number of bins.

    References:
        Ricky Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018,
        https://arxiv.org/abs/1802.04942
    """
    codes, factors = _codes_and_factors(codes, factors)
    low, high = codes.min(0), codes.max(0)
    binned = np.minimum((codes - low) / np.where(high > low, high - low, 1) * bins, bins - 1).astype(int)
    gaps = []
    for factor in factors.T:
        joint = [
            np.histogram2d(code, factor, [range(bins + 1), range(factor.max() + 2)])[0] for code in binned.T
        ]
        joint = np.stack(joint) / len(factor)
        entropy_of_factor = _entropy(joint[0].sum(0))
        information = _entropy(joint.sum(2)) + entropy_of_factor - _entropy(joint.reshape(len(joint), -1))
        first, second = np.sort(information)[::-1][:2]
        gaps.append((first - second) / entropy_of_factor)
    return float(np.mean(gaps))


def sap_score(codes: Tensor, factors: Tensor) -> float:
    """Return the SAP score: the lead of the code that alone predicts a factor best, averaged over factors.

    A code is scored by the balanced accuracy, on the second half of the examples, of a linear classifier
    that was fitted to the first half.

    References:
        Abhishek Kumar, Prasanna Sattigeri, Avinash Balakrishnan, Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations, 2017, https://arxiv.org/abs/1711.00848
    """
    codes, factors = _codes_and_factors(codes, factors)
    codes, half = (codes - codes.mean(0)) / np.maximum(codes.std(0), 1e-12), len(codes) // 2
    gaps = []
    for factor in factors.T:
        accuracies = []
        for code in codes.T[..., None]:
            classifier = LinearSVC(C=0.01, class_weight="balanced", random_state=0).fit(
                code[:half], factor[:half]
            )
            accuracies.append(balanced_accuracy_score(factor[half:], classifier.predict(code[half:])))
        first, second = np.sort(accuracies)[::-1][:2]
        gaps.append(first - second)
    return float(np.mean(gaps))


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each from 0 to 1."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Tensor, factors: Tensor, *, trees: int = 50) -> DCI:
    """Return how far a code serves one factor, a factor has one code, and codes predict factors.

    The importance of codes is that of a random forest; informativeness is its accuracy on the second half of
    the examples, when it was fitted to the first half.

    References:
        Cian Eastwood, Christopher Williams, A Framework for the Quantitative Evaluation of Disentangled
        Representations, 2018, https://openreview.net/forum?id=By-7dz-AZ
    """
    codes, factors = _codes_and_factors(codes, factors)
    half, importance, accuracies = len(codes) // 2, [], []
    for factor in factors.T:
        forest = RandomForestClassifier(trees, max_features=None, random_state=0).fit(
            codes[:half], factor[:half]
        )
        importance.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[half:], factor[half:]))
    importance = np.stack(importance, 1)  # (d, C)
    by_code = importance / np.maximum(importance.sum(1, keepdims=True), 1e-300)
    purity = 1 - _entropy(by_code) / math.log(factors.shape[1])
    completeness = 1 - _entropy(importance.T) / math.log(codes.shape[1])
    weight = importance.sum(1) / importance.sum()
    return DCI(float(weight @ purity), float(completeness.mean()), float(np.mean(accuracies)))


def factor_vae_score(
    codes: Tensor, factors: Tensor, *, votes: int = 800, batch: int = 64, seed: int = 0
) -> float:
    """Return the accuracy with which the least varying code tells which factor was held fixed.

    Each vote fixes one factor, draws a batch of examples that share its value, and takes the code with the
    least variance relative to its variance over all examples. A majority vote is fitted to the first half.

    Args:
        codes: ``(N, d)``; a constant one does not vote.
        factors: integers ``(N, C)``.
        votes: number of votes, half of them to fit.
        batch: examples in a vote.
        seed: of the draws.

    References:
        Hyunjik Kim, Andriy Mnih, Disentangling by Factorising, 2018, https://arxiv.org/abs/1802.05983
    """
    codes, factors = _codes_and_factors(codes, factors)
    generator, variance = np.random.default_rng(seed), codes.var(0)
    table = np.zeros((2, codes.shape[1], factors.shape[1]))  # votes (fitting or testing, code, factor)
    for vote in range(votes):
        k = generator.integers(factors.shape[1])
        rows = np.flatnonzero(factors[:, k] == factors[generator.integers(len(factors)), k])
        spread = codes[generator.choice(rows, batch)].var(0)
        table[
            vote % 2,
            np.argmin(np.divide(spread, variance, out=np.full_like(spread, np.inf), where=variance > 0)),
            k,
        ] += 1
    majority = table[0].argmax(1)
    return float(table[1, np.arange(len(majority)), majority].sum() / table[1].sum())


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in nats of distributions along the last axis."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def _codes_and_factors(codes: Tensor, factors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays, factors numbered from zero."""
    shapes = f"expected codes (N, d >= 2), integer factors (N, C >= 2), got {codes.shape}, {factors.shape}"
    _require(codes.ndim == factors.ndim == 2 and len(codes) == len(factors), shapes)
    _require(min(codes.shape[1], factors.shape[1]) > 1 and not factors.is_floating_point(), shapes)
    numbered = [np.unique(factor, return_inverse=True)[1] for factor in factors.cpu().numpy().T]
    _require(min(factor.max() for factor in numbered) > 0, "a factor has the same value in all examples")
    return codes.detach().cpu().double().numpy(), np.stack(numbered, 1)


def _require(holds: bool, message: str) -> None:
    """Raise ValueError for an argument that is not valid."""
    if not holds:
        raise ValueError(message)
