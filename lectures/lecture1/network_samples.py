"""Draw from seminar 2's shipped PixelCNNs and from seminar 1's WaveNet; store what figures of lecture 1 show.

    python -m lectures.lecture1.network_samples [pixelcnn] [wavenet]

A few minutes on two CPU cores. The PixelCNNs are loaded, not trained: their weights ship with the package.
The WaveNet is trained here, on the plucked string of the seminar. Figures are drawn from the stored arrays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dgm_utils import data, seed_everything, train, weights
from tools import definitions

FOLDER = Path(__file__).parent / "figures"
SHOWN = 12  # images of each model
BINARY = {"width": 32, "blocks": 10}  # sizes of the long profile of seminar 2; other weights are refused
GREY = {"width": 24, "dilations": (1, 2, 1, 4, 1)}
WAVE_EPOCHS, WAVE_RATE = 8, 1e-2


@torch.no_grad()
def mean_nats(model: nn.Module, images: Tensor) -> float:
    """Return the mean negative log-likelihood of images (N, 1, 28, 28), in nats an image."""
    return -torch.cat([model.log_prob(batch) for batch in images.split(200)]).double().mean().item()


def described(model: nn.Module, name: str) -> dict[str, np.number]:
    """Return how many parameters a shipped model has, and the hours of its training."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": np.int64(size), "hours": np.float32(weights.facts(name)["seconds"] / 3600)}


def pixelcnn() -> None:
    """Measure the binary and the gated 8-bit PixelCNN on the test images, draw from both, store."""
    names = "PixelCNN", "GatedPixelCNN", "CategoricalHead"
    seminar = definitions.seminar(2, *names)
    grey = data.load_images("mnist").test.images.float()
    binary = seminar.PixelCNN((1, 28, 28), seminar.CategoricalHead(2), **BINARY)
    gated = seminar.GatedPixelCNN((1, 28, 28), seminar.CategoricalHead(256), **GREY)
    models = {
        "binary": (binary, "seminar2-pixelcnn", data.binarize(grey.to(torch.uint8), seed=0)),
        "grey": (gated, "seminar2-gated", grey),
    }
    arrays = {}
    for key, (model, name, test) in models.items():
        weights.load(model, name).eval()
        nats = mean_nats(model, test)
        print(f"{name}: {nats:.2f} nats, {nats / (784 * np.log(2)):.3f} bits a dimension", flush=True)
        drawn = model.sample(SHOWN).to(torch.uint8).flatten(1).numpy()
        stored = described(model, name) | {"nats": np.float32(nats), "samples": drawn}
        arrays |= {f"{key}_{what}": value for what, value in stored.items()}
    np.savez_compressed(FOLDER / "pixelcnn_samples.npz", test=grey[:SHOWN].byte().flatten(1), **arrays)


def wavenet() -> None:
    """Train the seminar's WaveNet on plucked strings, measure it on new ones, store one of each."""
    seminar = definitions.seminar(1, "WaveNet", "waveform", "sample_cached")
    string = seminar.waveform(256, period=16, noise=2.0, levels=64)
    waves, new = string.sample(2400), string.sample(300)
    model = seminar.WaveNet(64, 16, dilations=[1, 2, 4, 8, 16])
    batches = data.Batches(waves, batch_size=16, seed=0)
    step = train.one_cycle(
        lambda x: {"loss": -model.log_prob(x).mean()}, model, WAVE_RATE, WAVE_EPOCHS * len(batches)
    )
    train.fit(step, batches, WAVE_EPOCHS, model=model, progress=False)
    with torch.no_grad():
        nats = -model.log_prob(new).mean().item() / 256
    drawn = seminar.sample_cached(model, torch.rand(1, 256))[0]
    print(f"WaveNet: {nats:.3f} nats a sample, floor {string.entropy / 256:.3f}")
    np.savez_compressed(
        FOLDER / "wavenet_samples.npz",
        data=new[0].byte().numpy(),
        drawn=drawn.byte().numpy(),
        nats=np.float32(nats),
        floor=np.float32(string.entropy / 256),
    )


def main(names: list[str]) -> None:
    """Make the arrays of the figures named, of both when none is named."""
    made = {"pixelcnn": pixelcnn, "wavenet": wavenet}
    for name in names or made:
        seed_everything(0)
        made[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
