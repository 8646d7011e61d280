"""What several `hidden.py` judge alike: draws, generators, types of numbers, files of weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import stats

from grading.questions import Wrong, take, type_name

if TYPE_CHECKING:
    from grading.questions import Arrays

CHANCE = 1e-9  # of accusing a right sampler

# By these a driver makes the notes `CHANGED` and `TENSORS` of questions.py.
WATCHED = """
import torch
def _changed(_given, _before):  # NaN is what it was
    _alike = ((_one == _other) | (_one != _one) & (_other != _other) for _one, _other in zip(_given, _before))
    return not all(_one.all() for _one in _alike)
def _tensors(*_values):
    return all(isinstance(_one, torch.Tensor) for _one in _values)
"""


def seed(rng: np.random.Generator) -> np.ndarray:
    """Draw a seed for a torch generator."""
    return np.asarray(rng.integers(1 << 31))


def same_type(outputs: Arrays, dtype: np.dtype, *names: str) -> None:
    """Raise Wrong unless the outputs have the type of numbers that the task asks for."""
    for name in names:
        if name in outputs and outputs[name].dtype != dtype:
            came = type_name(outputs[name])
            raise Wrong(f"numbers of type {np.dtype(dtype)} were asked for, and {came} came back")


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
        raise Wrong(f"{what}: the spread is too {'small' if square < n * d else 'large'}")
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


def independent_events(events: np.ndarray, probability: np.ndarray, what: str) -> None:
    """Raise Wrong if events (n, k) of these probabilities (k,) depend on other rows, or on the order.

    Rare events are left out: two of them meet by chance where a normal law says never.
    """
    common = len(events) * np.minimum(probability, 1 - probability) ** 2 >= 200
    independent((events - probability)[:, common], what)


def standard_draws(white: np.ndarray, what: str) -> None:
    """Raise Wrong unless the rows of white (n, d) look like independent draws of N(0, I)."""
    standard_normal(white, what)
    independent(white, what)


def read_into(module: torch.nn.Module, weights: Arrays) -> None:
    """Fill a module with the arrays of a file, or raise Wrong."""
    own = module.state_dict()
    if set(weights) != set(own):
        raise Wrong(f"the file holds tensors named otherwise than the locked cell writes them: {sorted(own)}")
    arrays = {name: take(weights, name, tuple(value.shape)) for name, value in own.items()}
    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})


# For a question that asks for a gradient by hand: `with _by_hand():` turns off what torch derives with. It
# replaces what torch's own functions look up when they are called, so it holds also for names that a notebook
# imported earlier. Who builds an engine of their own gets through, and whoever reads the notebook sees it.
BY_HAND = """
import contextlib as _contextlib
@_contextlib.contextmanager
def _by_hand():
    import torch as _torch
    import torch.autograd.forward_ad as _forward
    class _Off:
        def __getattr__(self, _name):
            raise RuntimeError("the gradient is asked for by hand: autograd is off")
    def _refuse(*_given, **_more):
        return _Off().off
    _places = [(_torch.autograd.Variable, "_execution_engine", _Off())]
    _places += [(_forward, _name, _refuse) for _name in ("make_dual", "enter_dual_level")]
    _kept = [(_place, _name, getattr(_place, _name)) for _place, _name, _ in _places]
    for _place, _name, _new in _places:
        setattr(_place, _name, _new)
    try:
        with _torch.inference_mode():
            yield
    finally:
        for _place, _name, _old in _kept:
            setattr(_place, _name, _old)
"""


def learned(test: float, train: float, *, bound: float, gap: float, what: str) -> None:
    """Raise Wrong unless a model's nats on test images are below `bound`, and on training images near that.

    Both are measured on draws from the batch's secret seed. A file that was fitted to the test images is
    better on them than on those it should have learnt from by more than `gap` nats.
    """
    measured = f"{test:.2f} nats per {what}, {train:.2f} on training images"
    cheap(test, bound, f"nats per {what}", measured)
    if not train - test <= gap:
        raise Wrong(f"fewer nats per {what} than on training images: was it fitted to the former?", measured)


def cheap(nats: float, bound: float, unit: str, measured: str = "") -> None:
    """Raise Wrong unless a model costs fewer nats than a bound; `measured`, for teachers, says it all.

    The student reads whether it is a little more, up to a tenth, or far more.
    """
    if not nats < bound:
        how = "a little" if nats < 1.1 * bound else "far"
        raise Wrong(f"{how} more than the bound of {bound:g} {unit}", measured or f"{nats:.3f} {unit}")
