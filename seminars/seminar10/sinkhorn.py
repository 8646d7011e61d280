"""Sinkhorn's algorithm: tested, waits for seminar 10, which takes it over as a `def:` cell."""

import math

import torch
from torch import Tensor

__all__ = ["sinkhorn"]


@torch.no_grad()
def sinkhorn(x: Tensor, y: Tensor, *, epsilon: float, order: float = 1, steps: int = 10_000) -> float:
    """Return the transport distance under the plan that is regularised by entropy.

    It tends to the Wasserstein distance from above as epsilon goes to 0; the iteration is in the log domain.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
        epsilon: weight of the entropy, in units of the cost, the Euclidean distance to the power ``order``.
        order: p of W_p, at least 1.
        steps: greatest number of iterations.

    Raises:
        ValueError: for other shapes, NaN, an epsilon that is not positive, or an order below 1.
        RuntimeError: the marginals are not met to a relative 1e-7 after ``steps`` iterations.

    References:
        Marco Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, 2013,
        https://arxiv.org/abs/1306.0895
    """
    if not (x.ndim == y.ndim == 2 and len(x) and len(y) and x.shape[1] == y.shape[1]):
        raise ValueError(f"expected samples (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    for name, points in (("x", x), ("y", y)):
        if points.isnan().any():
            raise ValueError(f"{name}: {int(points.isnan().sum())} of {points.numel()} values are NaN")
    if not (epsilon > 0 and order >= 1):
        raise ValueError(f"expected epsilon above 0 and an order of at least 1, got {epsilon} and {order}")
    x, y = x.double(), y.double()
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** order  # (N, M)
    log_kernel, g = -cost / epsilon, cost.new_zeros(len(y))
    for _ in range(steps):
        f = -math.log(len(x)) - (log_kernel + g).logsumexp(1)
        log_plan = log_kernel + f[:, None] + g
        violation = log_plan.logsumexp(0) + math.log(len(y))
        if violation.abs().max() < 1e-7:
            return (log_plan.exp() * cost).sum().item() ** (1 / order)
        g = g - violation
    off = violation.abs().max()
    raise RuntimeError(f"no convergence in {steps} steps (marginals off by {off:.2g}): larger epsilon?")
