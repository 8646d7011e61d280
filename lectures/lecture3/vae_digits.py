"""Judge the two VAEs on binary MNIST whose weights ship, and store what the figures of lecture 3 show.

    python -m lectures.lecture3.vae_digits

A minute a model on two CPU cores. Seminar 3 trained them, in its `long` profile. The figures are drawn from
the stored arrays.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from dgm_utils import data, metrics, nets, train, weights
from tools.definitions import load

FOLDER = Path(__file__).parent
STORED = FOLDER / "figures" / "vae_digits.npz"
SEMINAR = FOLDER.parents[1] / "seminars" / "seminar3" / "seminar3.ipynb"
WEIGHTS = {2: "seminar3-vae-plane", 50: "seminar3-vae"}  # by latent dimensions: 50 as in the IWAE paper
PASSES = {2: 120, 50: 320}  # over the training images, in the long profile
GRID = torch.linspace(-4, 4, 321)  # of the aggregate posterior, on both axes: narrow codes need a fine one
K = 500  # importance samples of the estimate of log p(x), on the first test images
ESTIMATED = 1000
HOLE = 0.1  # of the prior: where the aggregate posterior is below that share of it
ENDS = (3, 9)  # test images between which a figure interpolates


def trained(seminar: object, d: int) -> nn.Module:
    """Return the VAE that ships with d latent dimensions, built as the IWAE paper's one-layer model."""
    encoder = nets.mlp(784, 200, 200, 2 * d, activation=nn.Tanh)
    model = seminar.VAE(encoder, nets.mlp(d, 200, 200, 784, activation=nn.Tanh), d)
    return weights.load(model, WEIGHTS[d]).eval()


def judge(seminar: object, model: nn.Module, test: Tensor) -> dict[str, float]:
    """Return both parts of the bound on the test set, bound and estimate on its first images, in nats."""
    torch.manual_seed(0)
    terms = train.evaluate(seminar.negative_elbo(model), test.split(1000))
    first = test[:ESTIMATED]
    chunks = [model.log_weights(first, 50) for _ in range(K // 50)]
    estimates = metrics.importance_weighted_log_likelihood(iter(chunks))
    return {
        "reconstruction": terms["reconstruction"],
        "kl": terms["kl"],
        "bound_first": torch.cat(chunks).mean().item(),
        "estimate_first": estimates.mean().item(),
        "error_first": (estimates.std() / len(first) ** 0.5).item(),  # which images are the first
    }


def log_density(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log q(z|x) of every pair, (S, d) and (N, d) to (S, N)."""
    return Normal(mean, std).log_prob(z[:, None]).sum(dim=2)


def aggregate(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return log of the mean over examples of q(z|x), (S,)."""
    rows = [log_density(part, mean, std).logsumexp(dim=1) for part in z.split(64)]
    return torch.cat(rows) - np.log(len(mean))


def aggregate_on_grid(mean: Tensor, std: Tensor) -> Tensor:
    """Return log of the aggregate posterior on the grid, z_1 in rows, (321, 321)."""
    each = Normal(mean, std).log_prob(GRID[:, None, None]).exp()  # (321, N, 2)
    return (each[..., 0] @ each[..., 1].T / len(mean)).clamp(min=1e-12).log()


def as_bytes(probabilities: Tensor) -> np.ndarray:
    """Return probabilities as integers from 0 to 255."""
    return (probabilities * 255).round().to(torch.uint8).numpy()


def shared_codes(model: nn.Module, x: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Pick three codes that images share, of one, few and many digits; return images, mean and decoding."""
    mean, std = model.posterior(x)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(x), (60,), generator=generator)
    z = mean[rows] + std[rows] * torch.randn(60, 2, generator=generator)
    weights = log_density(z, mean, std).softmax(dim=1)  # of each image in E[x|z], (60, N)
    size = 1 / (weights**2).sum(dim=1)
    z, weights, size = z[size > 50], weights[size > 50], size[size > 50]  # codes that many images share
    digits = weights @ nn.functional.one_hot(labels, 10).float()
    order = torch.special.entr(digits).sum(dim=1).argsort()
    chosen = order[[0, len(order) * 3 // 4, -1]]
    kept = weights[chosen]
    drawn = torch.multinomial(kept, 6, generator=generator)  # images of this z, by their weight
    return {
        "shared_z": z[chosen].numpy(),
        "shared_images": x[drawn].bool().numpy(),
        "shared_mean": as_bytes(kept @ x),
        "shared_decoded": as_bytes(model.decode(z[chosen])),
        "shared_size": size[chosen].numpy(),
    }


def holes(model: nn.Module, mean: Tensor, std: Tensor) -> dict[str, np.ndarray]:
    """Return log q(z) on a grid, and decoded draws from the prior: the first five in holes, five elsewhere.

    A hole is where the aggregate posterior of these images is less than a tenth of the prior.
    """
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    log_prior = -(z**2).sum(dim=1) / 2 - np.log(2 * np.pi)
    empty = aggregate(z, mean, std) < log_prior + np.log(HOLE)
    picked = {}
    for name, drawn in (("dense", z[~empty][:5]), ("hole", z[empty][:5])):
        picked |= {f"{name}_z": drawn.numpy(), f"{name}_images": as_bytes(model.decode(drawn))}
    return {"log_q": aggregate_on_grid(mean, std).numpy().astype(np.float16), **picked}


@torch.no_grad()
def arrays_of_plane(model: nn.Module, train_x: Tensor, train_y: Tensor, test: Tensor, labels: Tensor) -> dict:
    """Return what the figures of the two-dimensional model show."""
    mean, _ = model.posterior(test)
    points = torch.special.ndtri((torch.arange(12) + 0.5) / 12)  # equal shares of the prior
    z = torch.cartesian_prod(-points, points).flip(1)
    grid = nn.functional.avg_pool2d(model.decode(z).reshape(-1, 1, 28, 28), 2)
    return {
        "plane_means": mean[:1500].numpy().astype(np.float16),
        "plane_labels": labels[:1500].to(torch.uint8).numpy(),
        "plane_decoded": as_bytes(grid.reshape(12, 12, 14, 14)),
        **shared_codes(model, train_x, train_y),
        **holes(model, *model.posterior(train_x)),  # of the images that the decoder was trained on
    }


@torch.no_grad()
def arrays_of_many(model: nn.Module, test: Tensor) -> dict[str, np.ndarray]:
    """Return what the figures of the larger model show."""
    torch.manual_seed(1)
    mean, std = model.posterior(test)
    first, second = ENDS
    steps = torch.linspace(0, 1, 9)[:, None]
    between = (1 - steps) * mean[first] + steps * mean[second]  # (9, 50)
    return {
        "reconstructed": as_bytes(model.decode(mean[:10])),
        "sampled": as_bytes(model.decode(torch.randn(10, model.latent_dim))),
        "between": as_bytes(model.decode(between)),
        "between_squares": between.square().sum(dim=1).numpy(),
        "between_ends": test[[first, second]].bool().numpy(),
        "units_kl": kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).mean(dim=0).numpy(),
        "units_variance": mean.var(dim=0).numpy(),  # of the posterior means over the test images
        "squares": np.array([mean.square().sum(), (mean**2 + std**2).sum()]) / len(mean),  # of mean, of draw
    }


def main() -> None:
    """Judge both models on one fixed draw of the test set, store the arrays."""
    seminar = load(SEMINAR, "VAE", "negative_elbo")
    splits = data.load_images("mnist")
    images = torch.cat([splits.train.images, splits.valid.images])
    labels = torch.cat([splits.train.labels, splits.valid.labels])
    test = data.binarize(splits.test.images, seed=0).flatten(1)
    train_x = data.binarize(images, seed=1).flatten(1)
    arrays: dict[str, np.ndarray] = {"test": test[:10].bool().numpy()}
    for d, passes in PASSES.items():
        model = trained(seminar, d)
        with torch.no_grad():
            found = judge(seminar, model, test)
        print(d, found, flush=True)
        arrays |= {f"{name}_{d}": np.float32(value) for name, value in found.items()} | {
            f"passes_{d}": passes
        }
        if d == 2:
            arrays |= arrays_of_plane(model, train_x, labels, test, splits.test.labels)
        else:
            arrays |= arrays_of_many(model, test)
    np.savez_compressed(STORED, **arrays)


if __name__ == "__main__":
    main()
