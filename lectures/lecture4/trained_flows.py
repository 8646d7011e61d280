"""Train the small flows that lecture 4 shows and store what its figures draw.

    python -m lectures.lecture4.trained_flows

About two minutes on two CPU cores. The figures are drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, metrics, nets, train
from tools.definitions import seminar

# What the seminar defines, down to its flow: also mean field, k-means, divergences.
S = seminar(4, "Flow")
STORED = Path(__file__).parent / "figures" / "trained_flows.npz"

# --- A linear flow on MNIST, in the units of Papamakarios et al. 2017 -------------------------------------

EDGE = 1e-6  # keeps the logit finite


def to_logits(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return dequantized images as logits (B, m), and log |det| of that map in [0, 1] (B,), both float64."""
    unit = data.dequantize(images.flatten(1), seed=seed).double()
    inner = EDGE + (1 - 2 * EDGE) * unit
    slope = np.log(1 - 2 * EDGE) - inner.log() - torch.log1p(-inner)
    return inner.logit(), slope.sum(dim=1)


def from_logits(logits: Tensor) -> Tensor:
    """Return images in [0, 1]."""
    return ((logits.sigmoid() - EDGE) / (1 - 2 * EDGE)).clamp(0, 1)


class Whitening(nn.Module):
    """Map data to noise by z = L^-1 (x - mean), LL^T the covariance: the best linear flow."""

    def __init__(self, x: Tensor):
        super().__init__()
        self.mean, self.factor = x.mean(dim=0), torch.linalg.cholesky(x.T.cov(correction=0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z and log |det J| = -sum of the logarithms of the diagonal of L."""
        z = torch.linalg.solve_triangular(self.factor, (x - self.mean).T, upper=False).T
        return z, -self.factor.diagonal().log().sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Return x = L z + mean."""
        return z @ self.factor.T + self.mean


def linear_digits() -> dict[str, np.ndarray]:
    """Fit the linear flow to the logits of 50,000 digits; return nats, bits/dim and some pictures."""
    splits = data.load_images("mnist")
    flow = S.Flow([Whitening(to_logits(splits.train.images, seed=0)[0])])
    logits, slope = to_logits(splits.test.images, seed=1)
    nats = flow.log_prob(logits)
    # The density of images in [0, 1] is that of the logits times the slope of the map from one to the other.
    bits = metrics.bits_per_dim(-(nats + slope).mean(), 784, levels=256)
    print(f"linear flow: {nats.mean():.2f} nats in logit space, {bits:.4f} bits/dim", flush=True)
    noise = torch.randn(6, 784, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pictures = {
        "digits": from_logits(logits[:6]),
        "codes": flow(logits[:6])[0],
        "drawn": from_logits(flow.inverse(noise)),
    }
    frequency = torch.bincount(splits.train.images.flatten().long(), minlength=256)
    return {name: value.float().numpy() for name, value in pictures.items()} | {
        "nats": np.float64(nats.mean()),
        "nats_error": np.float64(nats.std() / len(nats) ** 0.5),
        "bits": np.float64(bits),
        "round_trip": np.float64((flow.inverse(flow(logits[:100])[0]) - logits[:100]).abs().max()),
        "values": frequency.numpy(),  # how often each of the 256 values occurs in the training images
    }


def baselines() -> dict[str, np.ndarray]:
    """Return bits/dim of 8-bit test digits: a histogram, a Gaussian for each pixel; zlib on the test set."""
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images]).flatten(1).long()
    test = splits.test.images.flatten(1)
    counts = torch.ones(784, 256, dtype=torch.float64)  # add one, so that no value is impossible
    counts.scatter_add_(1, images.T, torch.ones(images.T.shape, dtype=torch.float64))
    log_p = (counts / counts.sum(dim=1, keepdim=True)).log()
    nats = -log_p.gather(1, test.T.long()).sum(dim=0).mean()
    logits, _ = to_logits(splits.train.images, seed=0)
    each = torch.distributions.Normal(logits.mean(dim=0), logits.std(dim=0))
    logits, slope = to_logits(splits.test.images, seed=1)
    gaussian = -(each.log_prob(logits).sum(dim=1) + slope).mean()
    packed = len(zlib.compress(test.numpy().tobytes(), 9))
    return {
        "histogram_bits": np.float64(metrics.bits_per_dim(nats, 784)),
        "pixel_gaussian_bits": np.float64(metrics.bits_per_dim(gaussian, 784, levels=256)),
        "zlib_bits": np.float64(8 * packed / test.numel()),
    }


# --- Flows in the plane -----------------------------------------------------------------------------------


class Coupling(nn.Module):
    """Scale and shift one coordinate by amounts that the other one decides (next week's lecture)."""

    def __init__(self, moved: int, width: int = 64):
        super().__init__()
        self.moved, self.network = moved, nets.mlp(1, width, width, 2, activation=nn.Tanh)

    def amounts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log scale and shift, (B,) each, from the coordinate that stays."""
        log_scale, shift = self.network(x[:, 1 - self.moved, None]).unbind(dim=1)
        return 2 * torch.tanh(log_scale / 2), shift

    def put(self, x: Tensor, value: Tensor) -> Tensor:
        """Return x with the moved coordinate replaced."""
        kept = x[:, 1 - self.moved]
        return torch.stack([value, kept] if self.moved == 0 else [kept, value], dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map towards the noise."""
        log_scale, shift = self.amounts(x)
        return self.put(x, x[:, self.moved] * log_scale.exp() + shift), log_scale

    def inverse(self, z: Tensor) -> Tensor:
        """Map towards the data."""
        log_scale, shift = self.amounts(z)
        return self.put(z, (z[:, self.moved] - shift) * (-log_scale).exp())


def couplings(layers: int = 10) -> nn.Module:
    """Return a flow of couplings that move the two coordinates in turn."""
    return S.Flow([Coupling(number % 2) for number in range(layers)])


FOUR = data.mixture([[-1.8, -1.2], [1.8, -1.6], [-0.6, 1.9], [2.6, 1.4]], scales=0.42)
TWO = data.mixture([[-2.0, 0.0], [2.0, 0.0]], scales=0.3)
LIMIT, POINTS = 5.0, 221
STEPS, BATCH = 4000, 256


def forward_loss(flow: nn.Module, target: data.Density) -> dict[str, Tensor]:
    """Return -log p of fresh samples of the target: KL(target || flow) plus a constant. Needs samples."""
    return {"loss": -flow.log_prob(target.sample(BATCH)).mean()}


def reverse_loss(flow: nn.Module, target: data.Density) -> dict[str, Tensor]:
    """Return E_q[log q - log of the target] by samples of the flow. Needs a density, perhaps unnormalised."""
    x = flow.inverse(torch.randn(BATCH, 2))
    return {"loss": (flow.log_prob(x) - target.log_prob(x)).mean()}


def grid() -> Tensor:
    """Return the points of the square window, first coordinate fastest, (POINTS^2, 2)."""
    line = torch.linspace(-LIMIT, LIMIT, POINTS)
    return torch.cartesian_prod(line, line).flip(1)


def fit(loss: object, target: data.Density, seed: int) -> np.ndarray:
    """Train a flow; return its log-density on the grid, (POINTS, POINTS), in nats."""
    torch.manual_seed(seed)
    flow = couplings()
    optimizer = torch.optim.Adam(flow.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    step = train.gradient_step(lambda _: loss(flow, target), optimizer, clip=10.0, schedule=schedule)
    for _ in range(STEPS):
        terms = step(None)
    with torch.no_grad():
        log_q, log_p = flow.log_prob(grid()).double(), target.log_prob(grid().double())
    cell = (2 * LIMIT / (POINTS - 1)) ** 2
    q, p = log_q.exp() * cell, log_p.exp() * cell
    print(
        f"{loss.__name__} seed {seed}: last loss {terms['loss']:.3f}, mass {q.sum():.4f}, "
        f"KL(target, flow) {(p * (log_p - log_q)).sum():.3f}, "
        f"KL(flow, target) {(q * (log_q - log_p)).sum():.3f}",
        flush=True,
    )
    return log_q.reshape(POINTS, POINTS).numpy()


def main() -> None:
    """Train everything and store it."""
    arrays = linear_digits() | baselines()
    arrays["forward_four"] = fit(forward_loss, FOUR, seed=0)
    arrays["reverse_four"] = fit(reverse_loss, FOUR, seed=0)
    arrays["forward_two"] = fit(forward_loss, TWO, seed=0)
    small = {name: value.astype(np.float32) if value.ndim > 1 else value for name, value in arrays.items()}
    np.savez_compressed(STORED, **small)


if __name__ == "__main__":
    main()
