"""Train the small models that lecture 9 shows, and measure what its tables print.

    python -m lectures.lecture9.measured [PART ...]

A few minutes on two quiet CPU cores; with names of parts (see PARTS), only those are made anew. The VAEs are
those that seminar 9 trains and ships. The figures are drawn from the stored arrays; nothing is trained again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, metrics, nets, train, weights
from lectures.arrays import make_arrays
from tools.definitions import seminar

S9 = seminar(9)

STORED = Path(__file__).parent / "figures" / "measured.npz"

# --- Covariances of codes ---------------------------------------------------------------------------------

METHODS = ("VAE", "DIP-VAE-I", "DIP-VAE-II")  # of the covariances
DECODED = ("VAE", "DIP-VAE-II", "beta-TCVAE")  # whose decoders come with the course, of seed 1
ALL_METHODS = ("VAE", "beta-VAE", "DIP-VAE-I", "DIP-VAE-II", "beta-TCVAE")  # of seminar 9
TRAININGS, UNITS, BATCH = 3, 8, 64  # seeds of each method; d; images of a step
WEIGHTS = {"DIP-VAE-I": (5.0, 50.0), "DIP-VAE-II": (20.0, 20.0)}  # lambda_od, lambda_d, as seminar 9 trained
ACTIVE = 0.1  # nats: a unit with a mean KL above says something
BATCHES = 1000  # whose penalties are averaged


@torch.no_grad()
def sprites() -> dict[str, np.ndarray]:
    """Return what the shipped encoders of seminar 9 say of all sprites, and samples of its decoders."""
    images, _ = data.sprites()
    images = images.flatten(1).float() / 255
    shelf = S9.shelf(ALL_METHODS, TRAININGS, DECODED, UNITS)
    shelf, facts = weights.load(shelf, "seminar9-sprites").eval(), weights.facts("seminar9-sprites")
    found = {}
    for method in METHODS:
        runs = [posteriors(encoder, images) for encoder in shelf["encoders"][method]]
        kls = [S9.standard_normal_kl(means, stds).mean(dim=0) for means, stds in runs]
        distortions = [facts[f"{method} {k} distortion"] for k in range(TRAININGS)]  # of its training
        found |= {
            f"{method}_mean_covariance": np.stack([torch.cov(m.T, correction=0).numpy() for m, _ in runs]),
            f"{method}_noise": np.stack([(stds**2).mean(dim=0).numpy() for _, stds in runs]),
            f"{method}_rd": np.array([[kl.sum().item(), d] for kl, d in zip(kls, distortions, strict=True)]),
            f"{method}_active": np.array([(kl > ACTIVE).sum().item() for kl in kls]),
            f"{method}_penalties": np.array([penalties(*run) for run in runs]),
        }
    for method in DECODED:
        torch.manual_seed(0)
        pixels = torch.sigmoid(shelf["decoders"][method](torch.randn(12, UNITS)))
        found[f"{method}_samples"] = (pixels * 255).round().byte().view(-1, 32, 32).numpy()
    return found


def posteriors(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and deviations of all images in double precision, (N, d) each."""
    means, log_variances = torch.cat([encoder(part) for part in images.split(1024)]).double().chunk(2, dim=1)
    return means, (log_variances / 2).exp()


def penalties(means: Tensor, stds: Tensor) -> list[float]:
    """Return the penalty of DIP-VAE-II in nats: over all images, the mean over batches, its error."""
    torch.manual_seed(0)
    of_batches = torch.stack(
        [
            S9.dip_penalty(means[chosen], stds[chosen], "II", *WEIGHTS["DIP-VAE-II"])
            for chosen in (torch.randperm(len(means))[:BATCH] for _ in range(BATCHES))
        ]
    )
    of_all = S9.dip_penalty(means, stds, "II", *WEIGHTS["DIP-VAE-II"])
    return [of_all.item(), of_batches.mean().item(), (of_batches.std() / BATCHES**0.5).item()]


# --- Measures ---------------------------------------------------------------------------------------------

SEEDS = 5
ANGLES = tuple(7.5 * k for k in range(13))  # degrees
CODES = {
    "perfect": "the factors",
    "copied": "the factors, twice",
    "rotated": "rotated at random",
    "noise": "independent noise",
}


def measures(codes: Tensor, factors: Tensor) -> list[float]:
    """Return MIG, SAP, DCI disentanglement and FactorVAE score."""
    return [
        S9.mutual_information_gap(codes, factors),
        S9.sap_score(codes, factors),
        S9.dci(codes, factors).disentanglement,
        S9.factor_vae_score(codes, factors),
    ]


def rotation() -> dict[str, np.ndarray]:
    """Return MIG, SAP and DCI-D of rotated normal codes in the plane: (seeds, angles, 3)."""
    tenths = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0, 1, 11)[1:-1])
    scores = []
    for seed in range(SEEDS):
        z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(seed))
        factors = torch.bucketize(z, tenths)
        for angle in np.radians(ANGLES):
            turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            scores.append(measures(z @ turn.T.to(z), factors)[:3])
    return {"rotation": np.reshape(scores, (SEEDS, len(ANGLES), 3))}


def ceilings() -> dict[str, np.ndarray]:
    """Return four measures of codes of our sprites whose quality is known: (runs, 4) for each kind."""
    _, factors = data.sprites()
    perfect = (factors - factors.float().mean(0)) / factors.float().std(0)
    kinds = {"perfect": [perfect], "copied": [perfect.repeat(1, 2)], "rotated": [], "noise": []}
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        orthogonal, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
        kinds["rotated"].append(perfect @ orthogonal)
        kinds["noise"].append(torch.randn(len(factors), 5, generator=generator))
    return {
        f"ceiling_{kind}": np.array([measures(codes, factors) for codes in all_codes])
        for kind, all_codes in kinds.items()
    }


# --- Classifiers ------------------------------------------------------------------------------------------

RATIO_GRID = np.linspace(-7, 9, 321)
HEART_STEPS, HEART_EVERY, HEART_POINTS, HEART_DIM = 300, 5, 100, 8


def classifier(*sizes: int) -> nn.Sequential:
    """Return a perceptron with logits (B,) as outputs."""
    return nn.Sequential(*nets.mlp(*sizes, 1), nn.Flatten(0))


def ratio() -> dict[str, np.ndarray]:
    """Return logits of five classifiers of 1,000 draws of N(0, 1) and as many of N(1, 2^2), on a grid."""
    logits = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        real, fake, model = torch.randn(1000, 1), 1 + 2 * torch.randn(1000, 1), classifier(1, 32, 32)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        step = train.gradient_step(
            lambda bags, model=model: {"loss": S9.discriminator_loss(*map(model, bags))}, optimizer
        )
        for _ in range(400):
            step((real, fake))
        with torch.no_grad():
            logits.append(model(torch.tensor(RATIO_GRID[:, None]).float()).numpy())
    return {"ratio": np.array(logits)}


def by_heart() -> dict[str, np.ndarray]:
    """Return V on the points that train D and on fresh ones, all of one normal: (seeds, records, 2)."""
    traces = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        own, model = torch.randn(2, HEART_POINTS, HEART_DIM), classifier(HEART_DIM, 128, 128)
        fresh = torch.randn(2, 10_000, HEART_DIM)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        step = train.gradient_step(
            lambda bags, model=model: {"loss": S9.discriminator_loss(*map(model, bags))}, optimizer
        )
        for number in range(HEART_STEPS + 1):
            if number % HEART_EVERY == 0:
                with torch.no_grad():
                    traces.append([-S9.discriminator_loss(*map(model, bags)).item() for bags in (own, fresh)])
            step(own)
    return {"by_heart": np.reshape(traces, (SEEDS, -1, 2))}


# --- A GAN in the plane -----------------------------------------------------------------------------------

LOSSES = {"minimax": "minimax", "non_saturating": "non-\nsaturating"}
SNAPSHOTS = (0, 100, 400, 1000, 4000)  # steps of each player
SHOWN, JUDGED = 500, 1000  # points that are drawn, and that the distance takes


def plane() -> dict[str, np.ndarray]:
    """Train GANs on two moons with both losses; return samples of seed 0, and W_1 to new data at the end."""
    torch.manual_seed(0)
    moons = data.moons()
    found = {"plane_data": moons.sample(SHOWN).numpy()}
    distances = []
    for name in LOSSES:
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            samples, generator = gan(moons, getattr(S9, f"{name}_loss"))
            if seed == 0:
                found[f"plane_{name}"] = np.stack(samples)
            distances.append(metrics.wasserstein(generator.sample(JUDGED), moons.sample(JUDGED)))
            print(name, seed, distances[-1], flush=True)
    for _ in range(SEEDS):
        distances.append(metrics.wasserstein(moons.sample(JUDGED), moons.sample(JUDGED)))
    return found | {"plane_w1": np.reshape(distances, (3, SEEDS))}


def gan(density: data.Density, generator_loss: object) -> tuple[list[np.ndarray], nn.Module]:
    """Train a GAN by half-steps; return samples at SNAPSHOTS and the generator."""
    generator = S9.Generator(nets.mlp(2, 128, 128, 2), 2)
    discriminator = classifier(2, 128, 128)
    losses = S9.players(generator, discriminator, S9.discriminator_loss, generator_loss)
    steps = [
        train.gradient_step(loss, torch.optim.Adam(model.parameters(), 5e-4, betas=(0.5, 0.99)))
        for loss, model in zip(losses, (discriminator, generator), strict=True)
    ]
    move = train.alternate(discriminator=steps[0], generator=steps[1])
    samples = []
    for number in range(SNAPSHOTS[-1] + 1):
        if number in SNAPSHOTS:
            samples.append(generator.sample(SHOWN).numpy())
        move(density.sample(256))
    return samples, generator


PARTS = {
    "sprites": sprites,
    "rotation": rotation,
    "ceilings": ceilings,
    "ratio": ratio,
    "by_heart": by_heart,
    "plane": plane,
}


if __name__ == "__main__":
    make_arrays(PARTS, STORED, sys.argv[1:])
