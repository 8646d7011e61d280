"""Fit mixtures of Bernoullis to binary MNIST by EM and store what a figure of lecture 2 shows.

    python -m lectures.lecture2.mixture_digits

About two minutes on two CPU cores. The figure is drawn from the stored arrays, and nothing is trained again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dgm_utils import data

STORED = Path(__file__).parent / "figures" / "mixture_digits.npz"
COMPONENTS = (1, 10, 50)
ITERATIONS = 60
PSEUDO_COUNTS = 1.0  # of each value in each pixel, so that no probability is 0 or 1: a Beta(2, 2) prior, MAP


def log_joint(x: Tensor, weights: Tensor, means: Tensor) -> Tensor:
    """Return log w_c p(x|c), (B, C) in nats, for binary x (B, m), weights (C,) and means (C, m)."""
    return weights.log() + x @ torch.logit(means).T + torch.log1p(-means).sum(dim=1)


def fit(x: Tensor, components: int, generator: torch.Generator) -> tuple[Tensor, Tensor, list[float]]:
    """Run EM; return weights (C,), means (C, m) and log p + log prior per image after every step, in nats."""
    start = torch.randint(len(x), (components,), generator=generator)
    weights, means, history = torch.full((components,), 1 / components), 0.25 + 0.5 * x[start], []
    for _ in range(ITERATIONS):
        joint = log_joint(x, weights, means)
        log_prior = PSEUDO_COUNTS * (means.log() + torch.log1p(-means)).sum() / len(x)
        history.append((joint.logsumexp(dim=1).double().mean() + log_prior).item())
        responsibilities = joint.softmax(dim=1)
        counts = responsibilities.sum(dim=0)
        means = (responsibilities.T @ x + PSEUDO_COUNTS) / (counts[:, None] + 2 * PSEUDO_COUNTS)
        weights = counts / len(x)
    return weights, means, history


def main() -> None:
    """Fit each size, measure the test log-likelihood, store it with the means and samples of two of them."""
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images]).flatten(1)
    train, test = (data.binarize(x, seed=0) for x in (images, splits.test.images.flatten(1)))
    arrays = {}
    for components in COMPONENTS:
        generator = torch.Generator().manual_seed(0)
        weights, means, history = fit(train, components, generator)
        assert np.diff(history).min() > -1e-3, "EM never lowers its objective"
        nats = -log_joint(test, weights, means).logsumexp(dim=1).mean().item()
        print(f"C = {components}: {nats:.2f} nats per test image (one fixed draw, seed 0)", flush=True)
        arrays[f"nats_{components}"] = np.float32(nats)
        arrays[f"means_{components}"] = (means * 255).round().to(torch.uint8).numpy()
        chosen = torch.multinomial(weights, 10, replacement=True, generator=generator)
        arrays[f"samples_{components}"] = torch.bernoulli(means[chosen], generator=generator).bool().numpy()
    np.savez_compressed(STORED, test=test[:10].bool().numpy(), **arrays)


if __name__ == "__main__":
    main()
