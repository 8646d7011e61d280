"""Disentanglement metrics: tested definitions that wait for seminar 9, which takes them over as `def:` cells.

Codes are real, ``(N, d)``, factors are integers, ``(N, C)``; d and C are at least 2. Each function says its
ceiling: what codes get of which one is one factor, and the others the others. The order of the examples does
not matter: they are shuffled by a seed before half of them judges what was fitted to the other half.
"""

import math
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

__all__ = ["DCI", "dci", "factor_vae_score", "mutual_information_gap", "sap_score"]


def mutual_information_gap(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """Return the MIG: the lead of a factor's most informative code, over its entropy; averaged.

    The ceiling is 1 for factors of at most ``bins`` values at equal distances; 32 values in 20 bins get 0.85.

    Args:
        codes: ``(N, d)``, cut into ``bins`` of equal width between their quantiles 0.005 and 0.995; the first
            and last hold what lies outside, so that a far example does not push all others into one bin.
        factors: integers ``(N, C)``.
        bins: number of bins.

    References:
        Ricky Chen et al., Isolating Sources of Disentanglement in Variational Autoencoders, 2018,
        https://arxiv.org/abs/1802.04942
    """
    codes, factors = _arrays(codes, factors)
    low, high = np.quantile(codes, [0.005, 0.995], axis=0)
    scaled = (codes - low) / np.where(high > low, high - low, 1)
    binned = (scaled * bins).clip(0, bins - 1).astype(int)
    gaps = []
    for factor in factors.T:
        second, first = np.sort([mutual_info_score(factor, code) for code in binned.T])[-2:]
        gaps.append((first - second) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def sap_score(codes: Tensor, factors: Tensor) -> float:
    """Return the SAP score: the lead of the code that alone predicts a factor best, averaged over factors.

    A code is scored by the balanced accuracy, on half of the examples, of thresholds that were fitted to the
    other half: a decision tree with one leaf for each value of the factor. The paper asks for thresholds; a
    linear classifier cannot tell a middle value from both neighbours. The second code guesses at least, with
    accuracy 1/K for K values, so that the ceiling is 1 − 1/K: 0.5 for two values, 0.9 for ten.

    References:
        Abhishek Kumar, Prasanna Sattigeri, Avinash Balakrishnan, Variational Inference of Disentangled Latent
        Concepts from Unlabeled Observations, 2017, https://arxiv.org/abs/1711.00848
    """
    codes, factors = _arrays(codes, factors)
    half, gaps = len(codes) // 2, []
    for factor in factors.T:
        values, accuracies = factor.max() + 1, []
        for code in codes.T[..., None]:  # (d, N, 1): one code at a time
            tree = DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0)
            predicted = tree.fit(code[:half], factor[:half]).predict(code[half:])
            accuracies.append(balanced_accuracy_score(factor[half:], predicted))
        second, first = np.sort(accuracies)[-2:]
        gaps.append(first - max(second, 1 / values))
    return float(np.mean(gaps))


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each from 0 to 1."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: Tensor, factors: Tensor, *, trees: int = 50) -> DCI:
    """Return how far a code serves one factor, a factor has one code, and codes predict factors.

    The importance of codes is that of a random forest; informativeness is its accuracy on half of the
    examples, when it was fitted to the other half. The ceiling of all three is 1.

    References:
        Cian Eastwood, Christopher Williams, A Framework for the Quantitative Evaluation of Disentangled
        Representations, 2018, https://openreview.net/forum?id=By-7dz-AZ
    """
    codes, factors = _arrays(codes, factors)
    half, importance, accuracies = len(codes) // 2, [], []
    for factor in factors.T:
        forest = RandomForestClassifier(trees, max_features=None, random_state=0)
        forest.fit(codes[:half], factor[:half])
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
    least variance relative to its variance over all examples. A majority vote is fitted to half of the votes.
    The ceiling is 1; codes that say nothing get 1/C.

    Args:
        codes: ``(N, d)``; a constant one does not vote.
        factors: integers ``(N, C)``.
        votes: number of votes, half of them to fit.
        batch: examples in a vote.
        seed: of the draws.

    References:
        Hyunjik Kim, Andriy Mnih, Disentangling by Factorising, 2018, https://arxiv.org/abs/1802.05983
    """
    codes, factors = _arrays(codes, factors)
    generator = np.random.default_rng(seed)
    variance = np.where(np.ptp(codes, axis=0) > 0, codes.var(0), np.nan)  # NaN: a constant code does not vote
    table = np.zeros((2, codes.shape[1], factors.shape[1]), int)  # votes (fitting or testing, code, factor)
    for vote in range(votes):
        k = generator.integers(factors.shape[1])
        rows = np.flatnonzero(factors[:, k] == factors[generator.integers(len(factors)), k])
        share = codes[generator.choice(rows, batch)].var(0) / variance
        table[vote % 2, np.nan_to_num(share, nan=np.inf).argmin(), k] += 1
    majority = table[0].argmax(1)
    return float(table[1, np.arange(len(majority)), majority].sum() / table[1].sum())


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy in nats of distributions along the last axis."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def _arrays(codes: Tensor, factors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return both as arrays in one random order, with the values of each factor counted from 0."""
    two_axes = codes.ndim == factors.ndim == 2 and len(codes) == len(factors)
    if not two_axes or min(codes.shape[1], factors.shape[1]) < 2 or factors.is_floating_point():
        raise ValueError(
            "expected codes (N, d >= 2) and integer factors (N, C >= 2), got shapes "
            f"{tuple(codes.shape)} and {tuple(factors.shape)}, factors of {factors.dtype}"
        )
    if codes.isnan().any():
        raise ValueError(f"codes: {int(codes.isnan().sum())} of {codes.numel()} values are NaN")
    numbered = [np.unique(factor, return_inverse=True)[1] for factor in factors.cpu().numpy().T]
    if min(factor.max() for factor in numbered) == 0:
        raise ValueError("a factor has the same value in all examples")
    order = np.random.default_rng(0).permutation(len(codes))
    return codes.detach().cpu().double().numpy()[order], np.stack(numbered, 1)[order]
