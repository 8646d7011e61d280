"""What several `hidden.py` judge alike: draws, generators, types of numbers, files of weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats

from grading.questions import Wrong, take

if TYPE_CHECKING:
    from grading.questions import Arrays

CHANCE = 1e-9  # of accusing a right sampler

UNCHANGED = """
def _unchanged(_given, _before):
    for _one, _other in zip(_given, _before):
        if not _one.detach().equal(_other) and not (_one.isnan() & _other.isnan() | (_one == _other)).all():
            raise ValueError("an argument was changed")
"""


def seed(rng: np.random.Generator) -> np.ndarray:
    """Draw a seed for a torch generator."""
    return np.asarray(rng.integers(1 << 31))


def same_type(outputs: Arrays, dtype: np.dtype, *names: str) -> None:
    """Raise Wrong unless the outputs have the type of numbers that the task asks for."""
    for name in names:
        if name in outputs and outputs[name].dtype != dtype:
            raise Wrong(f"numbers of type {dtype} were asked for, and {outputs[name].dtype} came back")


def follows_generator(outputs: Arrays, what: str, *, moves_on: bool = True) -> None:
    """Raise Wrong unless equal states of a generator gave equal results, and other states others.

    The outputs `first`, `again`, `other` come from a state, the same, and another; with `moves_on`, `next` is
    the second of two calls from the first state, and has to differ.
    """
    if not np.array_equal(outputs["first"], outputs["again"]):
        raise Wrong(f"the same generator state gives different {what}")
    if np.array_equal(outputs["first"], outputs["other"]):
        raise Wrong(f"another generator state gives the same {what}")
    if moves_on and np.array_equal(outputs["first"], outputs["next"]):
        raise Wrong(f"two calls from one generator give the same {what}: its state does not move on")


def standard_normal(white: np.ndarray, what: str) -> None:
    """Raise Wrong unless the rows of white (n, d) have the law N(0, I); `independent` looks at their order.

    The sum of squares, the mean, the covariance (its law is asymptotic: twice the bound), each coordinate.
    """
    n, d = white.shape
    square, mean, second = (white**2).sum(), white.mean(0), white.T @ white / n
    tail = CHANCE / 2
    if not stats.chi2.isf(1 - tail, n * d) <= square <= stats.chi2.isf(tail, n * d):
        raise Wrong(f"{what}: the spread is {math.sqrt(square / (n * d)):.3f} times what it has to be")
    if not n * (mean**2).sum() <= stats.chi2.isf(CHANCE, d):
        raise Wrong(f"{what}: the mean is wrong")
    off = np.triu(second, 1)
    distance = n * ((off**2).sum() + ((second.diagonal() - 1) ** 2).sum() / 2)
    if not distance <= 2 * stats.chi2.isf(CHANCE, d * (d + 1) / 2):
        raise Wrong(f"{what}: variances or correlations are wrong")
    for coordinate in white.T:
        if not stats.kstest(coordinate, "norm").pvalue >= CHANCE:
            raise Wrong(f"{what}: the law is not the right one")


def independent(trait: np.ndarray, what: str) -> None:
    """Raise Wrong if centred traits (n, ...) drift, or neighbours, halves or mirror images are correlated.

    A sum of n such products has mean 0 and variance n E[t^2]^2; 7.5 deviations are
    beyond `CHANCE` also for the heavier tail of products.
    """
    n = len(trait)
    for column in trait.T:
        drift = np.linspace(-1, 1, n) * math.sqrt(3)  # of mean square 1
        partners = column[1:], column[n // 2 :], column[::-1][: n // 2]
        products = [drift * column, *(column[: len(one)] * one for one in partners)]
        for k, product in enumerate(products):
            spread = math.sqrt((column**2).mean()) if k == 0 else (column**2).mean()
            if not abs(product.sum()) <= 7.5 * spread * math.sqrt(len(product)):
                raise Wrong(f"{what} of one point depend on those of others, or on its place in the order")


def read_into(module: torch.nn.Module, weights: Arrays) -> None:
    """Fill a module with the arrays of a file, or raise Wrong."""
    own = module.state_dict()
    if set(weights) != set(own):
        raise Wrong(
            f"the file holds tensors named {sorted(weights)[:9]}, the locked cell writes {sorted(own)}"
        )
    arrays = {name: take(weights, name, tuple(value.shape)) for name, value in own.items()}
    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
