"""Measure what lecture 7 shows and what takes longer than a drawing, and store it.

    python -m lectures.lecture7.measured [PART ...]

Some ten minutes on one quiet core, nearly all of them decoding digits; with names of parts, only those are
made anew. Nothing is trained: the VAEs are those that ship, the rest is a linear-Gaussian model, a known
posterior, and codes drawn here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from dgm_utils import data, metrics, weights
from lectures.lecture3 import vae_digits
from lectures.lecture5.trained_flows import mean_and_error
from lectures.lecture6 import figures as lecture6
from lectures.lecture6.trained_flows import POSTERIOR_LIMIT, cell, log_joint, plane
from tools.definitions import seminar

S5, S7 = seminar(5, "log_normal"), seminar(7, "surgery")
STORED = Path(__file__).parent / "figures" / "measured.npz"

# --- A linear-Gaussian model, one dimension -----------------------------------------------------------------

SEEN, NOISE = 1.5, 0.5  # x, and the variance of x given z; z ~ N(0, 1)
MEAN, STD = 0.3, 0.9  # of q; the posterior is N(1, 1/3)
NARROW_MEAN, NARROW_STD = 0.8, (NOISE / (1 + NOISE)) ** 0.5 / 2  # a quarter of the posterior's variance
COUNTS = [1, 4, 16, 64, 256, 1024]  # K
DRAWS = 2**22  # importance samples behind each point of the figure
REFERENCE_K, REFERENCE_RUNS = 8, 400_000


def gradients(
    runs: int, K: int, generator: torch.Generator, mean: float = MEAN, std: float = STD
) -> dict[str, Tensor]:
    """Draw K samples `runs` times and return gradients of one draw of L_K, each (runs,).

    `encoder`, `doubly` and the faults are estimates of the derivative in the mean of q, `decoder` in an
    offset theta of the decoder's mean: x | z ~ N(z + theta, NOISE), at theta = 0.
    """
    noise = torch.randn(runs, K, generator=generator, dtype=torch.float64)
    z = mean + std * noise
    log_w = -(z**2) / 2 - (SEEN - z) ** 2 / (2 * NOISE) + noise**2 / 2  # but for constants
    weight = log_w.softmax(dim=1)
    score = (z - mean) / std**2  # of log q in its mean, at a fixed z
    in_z = -z + (SEEN - z) / NOISE + score  # of log w in z, parameters of q frozen; dz / dmean = 1
    total = in_z - score  # of log w in the mean of q, through z and directly
    constant = -math.log(2 * math.pi * NOISE**0.5) + math.log(std * (2 * math.pi) ** 0.5)
    average = (weight * total).sum(dim=1)
    return {
        "encoder": average,
        "doubly": (weight**2 * in_z).sum(dim=1),
        "decoder": (weight * (SEEN - z) / NOISE).sum(dim=1),
        "softmax of the loss": ((-log_w).softmax(dim=1) * total).sum(dim=1),
        "weights not detached": average
        + (weight * (log_w + constant) * (total - average[:, None])).sum(dim=1),
        "not squared": (weight * in_z).sum(dim=1),
        "q not frozen": (weight**2 * total).sum(dim=1),
    }


def deviation_and_error(values: Tensor) -> list[float]:
    """Return the standard deviation of a sample and its standard error, by the sample's fourth moment."""
    squares = (values - values.mean()) ** 2
    return [values.std().item(), (squares.std() / (2 * values.std() * len(values) ** 0.5)).item()]


def signal_and_noise() -> dict[str, np.ndarray]:
    """Return standard deviations of the gradients against K, and mean, error, deviation of all at one K.

    Each deviation has its standard error; "narrow" is the plain encoder's gradient of a narrow q.
    """
    generator = torch.Generator().manual_seed(0)
    spread: dict[str, list[list[float]]] = {name: [] for name in ("encoder", "doubly", "decoder", "narrow")}
    for K in COUNTS:
        found = gradients(DRAWS // K, K, generator)
        for name in ("encoder", "doubly", "decoder"):
            spread[name].append(deviation_and_error(found[name]))
    reference = gradients(REFERENCE_RUNS, REFERENCE_K, generator)
    for K in COUNTS:
        found = gradients(DRAWS // K, K, generator, NARROW_MEAN, NARROW_STD)
        spread["narrow"].append(deviation_and_error(found["encoder"]))
    return {f"spread_{name}": np.array(values) for name, values in spread.items()} | {
        f"reference {name}": np.array([*mean_and_error(values), values.std().item()])
        for name, values in reference.items()
    }


# --- A posterior that is known: the banana of lectures 5 and 6 ---------------------------------------------

WEIGHTED = [2, 10, 100]  # K of the drawn densities
PARTNERS, BOUND_RUNS = 10_000, 400_000
GROUPS = 10  # of partners, for the jackknife


def weighted_posteriors() -> dict[str, np.ndarray]:
    """Return the importance-weighted posterior of the best Gaussian q on the grid for each K, and its bounds.

    For each K: KL(q_EW || posterior) by quadrature, with the standard error that the drawn partners leave
    (jackknife over groups of them), and log p(x) - L_K with its standard error.
    """
    torch.manual_seed(0)
    z, area = plane(POSTERIOR_LIMIT), cell(POSTERIOR_LIMIT)
    log_q, joint = lecture6.best_gaussian(), log_joint(z)
    log_evidence = torch.logsumexp(joint, 0) + math.log(area)
    q = log_q.exp()[:, None] * area
    mean = (q * z).sum(dim=0)
    normal = Normal(mean, (q * (z - mean) ** 2).sum(dim=0).sqrt())

    def log_w(points: Tensor) -> Tensor:
        flat = points.reshape(-1, 2)
        values = log_joint(flat) - normal.log_prob(flat).sum(dim=1)
        return values.reshape(points.shape[:-1])

    log_posterior = joint - log_evidence

    def kl(density: Tensor) -> float:
        log_density = (density / (density.sum() * area)).log().clamp(min=-40)
        return ((log_density.exp() * (log_density - log_posterior)).sum() * area).item()

    own = log_w(z)
    found: dict[str, np.ndarray] = {"gaussian_moments": torch.stack([normal.mean, normal.stddev]).numpy()}
    kls, gaps = [], []
    for K in WEIGHTED:
        others = log_w(normal.sample((K - 1, PARTNERS))).split(50, dim=1)
        groups = torch.zeros(GROUPS, len(z), dtype=own.dtype)
        for place, part in enumerate(others):
            groups[place % GROUPS] += S7.resampled_density(log_q, own, part).exp() / len(others)
        density = groups.sum(dim=0)
        found[f"mass_{K}"] = np.array((density.sum() * area).item())
        log_density = (density / (density.sum() * area)).log().clamp(min=-40)
        found[f"weighted_{K}"] = log_density.numpy().astype(np.float32)
        without = np.array([kl(density - group) for group in groups])
        kls.append([kl(density), (np.var(without) * (GROUPS - 1)) ** 0.5])
        runs = BOUND_RUNS * 10 // max(K, 10)
        bounds = log_w(normal.sample((K, runs))).logsumexp(dim=0) - math.log(K)
        mean_bound, error = mean_and_error(bounds)
        gaps.append([log_evidence.item() - mean_bound, error])
    return found | {"weighted_kl": np.array(kls), "weighted_gap": np.array(gaps)}


# --- The VAEs that ship ------------------------------------------------------------------------------------

BOUNDS = [1, 5, 50, 500, 5000]  # K on MNIST
IMAGES, SIZES_K = 500, 50  # every twentieth test image: the first ones are easy


def judged_images() -> Tensor:
    """Return the test images on which models are judged, binary, (IMAGES, 784)."""
    test = data.binarize(data.load_images("mnist").test.images, seed=0).flatten(1)
    return test[:: len(test) // IMAGES]


def many_log_weights(model: nn.Module, x: Tensor, K: int = max(BOUNDS)) -> Tensor:
    """Return log-weights (K, B) in double precision, drawn in chunks that fit into memory."""
    columns = [torch.cat([model.log_weights(part, 50) for _ in range(K // 50)]) for part in x.split(250)]
    return torch.cat(columns, dim=1).double()


@cache
@torch.no_grad()
def log_weights_of(name: str) -> Tensor:
    """Return the log-weights (K, B) of the shipped VAE or of the IWAE, by weights of one network."""
    torch.manual_seed(0)
    return many_log_weights(weights.load(vae_digits.trained(S7, 50), name).eval(), judged_images())


@torch.no_grad()
def mnist_bounds() -> dict[str, np.ndarray]:
    """Return L_K of the shipped VAE on test images, means, errors, errors of the steps; sample sizes."""
    log_w = log_weights_of("seminar3-vae")  # (K, B)
    groups = {K: log_w.reshape(-1, K, IMAGES).logsumexp(dim=1) - math.log(K) for K in BOUNDS}
    bounds = torch.stack([groups[K].mean(dim=0) for K in BOUNDS])  # (5, B), by all weights each
    sizes = torch.stack([metrics.effective_sample_size(part) for part in log_w.split(SIZES_K)])
    largest = torch.stack([part.softmax(dim=0).amax(dim=0) for part in log_w.split(SIZES_K)])
    return {
        "mnist_bounds": np.array([mean_and_error(each) for each in bounds]),
        "mnist_steps": np.array([mean_and_error(each) for each in bounds.diff(dim=0)]),
        "mnist_sizes": sizes.flatten().numpy().astype(np.float32)[::21],
        "mnist_size": np.array([sizes.mean().item(), sizes.median().item(), largest.mean().item()]),
    }


CODES = 4000  # drawn from as many examples, against the aggregate posterior of all


@torch.no_grad()
def surgery() -> dict[str, np.ndarray]:
    """Return the parts of the ELBO over all training images of both VAEs, and what test codes say.

    KL, reconstruction, information, marginal KL in nats, each with its standard error. KL is exact, the
    closed form over all images; information has the error of its CODES codes, and marginal KL, what is left
    of the exact KL, has the same. `marginal_by_codes`: by those codes alone, to compare. Then the mean
    log q(z) - log p(z) of codes of test images, q(z) that of the training images.
    """
    found = {}
    splits = data.load_images("mnist")
    known = torch.cat([splits.train.images, splits.valid.images])
    known, test = (data.binarize(part, seed=1).flatten(1) for part in (known, splits.test.images))
    for d in (2, 50):
        torch.manual_seed(0)
        model = vae_digits.trained(S7, d)
        parts = S7.surgery(model, known, codes=CODES)
        mean, std = (
            torch.cat(part).double() for part in zip(*map(model.posterior, known.split(2000)), strict=True)
        )
        kl = S7.standard_normal_kl(mean, std).sum(dim=1).mean().item()
        pairs = [[parts[name], parts[f"{name}_error"]] for name in ("reconstruction", "mutual_information")]
        (_, (information, error)) = pairs
        found[f"surgery_{d}"] = np.array([[kl, 0.0], *pairs, [kl - information, error]])
        found[f"marginal_by_codes_{d}"] = np.array([parts["marginal_kl"], parts["marginal_kl_error"]])
        test_mean, test_std = (part.double() for part in model.posterior(test[:CODES]))
        z = test_mean + test_std * torch.randn_like(test_mean)
        log_q = torch.cat([S7.log_aggregate(part, mean, std) for part in z.split(250)])
        found[f"test_gain_{d}"] = mean_and_error(log_q - S5.log_normal(z))
    return found


# --- Estimates by a minibatch ------------------------------------------------------------------------------

EXAMPLES, WIDTH, CODE_DIM = 5000, 0.2, 4  # q(z|x_i) = N(x_i, WIDTH^2 I), x_i ~ N(0, I)
BATCHES = [8, 32, 128, 512, 2048]
REPEATS = 40


def weights_of(kind: str, B: int, N: int) -> Tensor:
    """Return log-weights (B, B) with which q(z|x_j), j in the batch, stand for q(z), z from q(z|x_i)."""
    if kind == "mean of the batch":
        return torch.full((B, B), 1 / B).log()
    if kind == "weighted":
        return torch.full((B, B), 1 / (B * N)).log()
    if kind == "stratified":  # the own term counts once among N, the others for all the rest
        return torch.full((B, B), (N - 1) / (N * (B - 1))).fill_diagonal_(1 / N).log()
    raise ValueError(f"expected 'mean of the batch', 'weighted' or 'stratified', got {kind!r}")


KINDS = "mean of the batch", "weighted", "stratified"


def minibatches() -> dict[str, np.ndarray]:
    """Return information and marginal KL over all examples, and both by minibatches of each size."""
    torch.manual_seed(0)
    x = torch.randn(EXAMPLES, CODE_DIM, dtype=torch.float64)
    z = x + WIDTH * torch.randn_like(x)
    own = Normal(x, WIDTH).log_prob(z).sum(dim=1)
    log_q = torch.cat([S7.log_aggregate(part, x, torch.full_like(x, WIDTH)) for part in z.split(250)])
    log_p = Normal(0.0, 1.0).log_prob(z).sum(dim=1)
    truth = [mean_and_error(part) for part in (own - log_q, log_q - log_p, own - log_p)]
    found = {kind: [] for kind in KINDS}
    marginal = {kind: [] for kind in KINDS}
    for B in BATCHES:
        estimates: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
        for _ in range(REPEATS):
            rows = torch.randperm(EXAMPLES)[:B]
            pairs = torch.stack([Normal(x[rows], WIDTH).log_prob(code).sum(dim=1) for code in z[rows]])
            for kind in KINDS:
                log_mean = (pairs + weights_of(kind, B, EXAMPLES)).logsumexp(dim=1)
                both = own[rows] - log_mean, log_mean - log_p[rows]
                estimates[kind].append(torch.stack([part.mean() for part in both]))
        for kind in KINDS:
            each = torch.stack(estimates[kind])
            found[kind].append(mean_and_error(each[:, 0]))
            marginal[kind].append(mean_and_error(each[:, 1]))
    return (
        {"batch_truth": np.array(truth)}
        | {f"batch {kind}": np.array(found[kind]) for kind in KINDS}
        | {f"batch_marginal {kind}": np.array(marginal[kind]) for kind in KINDS}
    )


# --- What was trained: an IWAE beside the VAE, learned beside uniform noise --------------------------------

SHOWN, SIDE = 8, 8  # images of a row; of the flows' images
NOISE_DRAWS = 4


def flows() -> tuple[nn.Module, nn.Module]:
    """Return the shipped flow with uniform noise, and the one with its dequantizer, as in seminar 7."""
    mask = S7.checkerboard(SIDE, SIDE).flatten()

    def build() -> nn.ModuleDict:
        return S7.make_dequantized(mask, 16, 128, 6, 64, 2, margin=0.05)

    uniform = weights.load(build()["flow"], "seminar7-uniform").eval()
    return uniform, weights.load(build(), "seminar7-dequantization").eval()


@torch.no_grad()
def claimed_bits(flow: nn.Module, draw: Callable, x: Tensor) -> Tensor:
    """Return bits/dim of integer images (N, m), an upper bound each, by a few draws of the noise."""
    parts = [
        S7.dequantization_log_weights(flow, draw, part, 16, NOISE_DRAWS).mean(dim=0) for part in x.split(1000)
    ]
    return metrics.bits_per_dim(-torch.cat(parts).double(), x.shape[1])


@torch.no_grad()
def trained() -> dict[str, np.ndarray]:
    """Return samples of VAE, IWAE and both flows, and how they are judged on the same test images.

    `judged_each`: for VAE and IWAE, ELBO and estimate with K = 5000 of each image; `judged_active`: their
    active units; `noise_bits`: both flows and the gain, each with its standard error.
    """
    images = data.load_images("mnist").test.images
    test = data.binarize(images, seed=0).flatten(1)
    found, each, active = {}, [], []
    for name, file in (("vae", "seminar3-vae"), ("iwae", "seminar7-iwae")):
        model, log_w = weights.load(vae_digits.trained(S7, 50), file).eval(), log_weights_of(file)
        each.append(torch.stack([log_w.mean(dim=0), S7.importance_weighted_bound(log_w)]))
        active.append(metrics.active_units(model.posterior(test)[0]).sum().item())
        z = torch.randn(SHOWN, 50, generator=torch.Generator().manual_seed(4))
        found[f"samples_{name}"] = vae_digits.as_bytes(model.decode(z))
    torch.manual_seed(0)
    uniform, learned = flows()
    small = S7.small_digits(images).flatten(1)
    bits = [
        claimed_bits(uniform, S7.uniform_noise, small),
        claimed_bits(learned["flow"], learned["noise"].draw, small),
    ]
    for name, flow in (("uniform", uniform), ("learned", learned["flow"])):
        found[f"samples_{name}"] = (16 * flow.sample(SHOWN, SIDE**2)).floor().clamp(0, 15).numpy()
    return found | {
        "judged_each": torch.stack(each).numpy().astype(np.float32),
        "judged_active": np.array(active),
        "noise_bits": np.array([mean_and_error(each) for each in (*bits, bits[0] - bits[1])]),
    }


PARTS = {
    "signal": signal_and_noise,
    "weighted": weighted_posteriors,
    "bounds": mnist_bounds,
    "surgery": surgery,
    "batches": minibatches,
    "trained": trained,
}


def main(names: list[str]) -> None:
    """Make the named parts, or all, and store them beside those that are there."""
    arrays = dict(np.load(STORED)) if STORED.exists() and names else {}
    for name in names or PARTS:
        print(name, flush=True)
        found = PARTS[name]()
        for key, value in found.items():
            if np.asarray(value).size < 20:
                print("  ", key, np.round(value, 4).tolist(), flush=True)
        arrays |= found
    np.savez_compressed(STORED, **arrays)


if __name__ == "__main__":
    main(sys.argv[1:])
