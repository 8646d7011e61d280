"""Train the seminar's MADE in a random order and store digits that it draws, for a figure of lecture 1.

    python -m lectures.lecture1.made_samples

A few minutes on two CPU cores. The figure is drawn from the stored arrays and never retrained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dgm_utils import data, seed_everything, train
from tools import definitions

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).parent / "figures" / "made_samples.npz"


def main(notebook: Path = ROOT / "seminars" / "seminar1" / "seminar1.ipynb") -> None:
    """Train, measure the test likelihood, draw in the model's own order and in raster order, store."""
    seed_everything(0)
    MADE = definitions.load(notebook, "MADE").MADE
    splits = data.load_images("mnist")
    order = torch.randperm(784)
    model = MADE(784, [500], order)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    epochs = 12
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * 200)
    step = train.gradient_step(lambda x: {"loss": -model.log_prob(x).mean()}, optimizer, schedule=schedule)
    images = splits.train.images.flatten(1)
    batches = data.Batches(images, batch_size=250, transform=data.binarize, seed=0)
    train.fit(step, batches, epochs=epochs, progress=False)

    test = data.binarize(splits.test.images.flatten(1), seed=0)
    with torch.no_grad():
        nats = -model.log_prob(test).mean().item()
    right = model.sample(12)
    model.order.copy_(torch.arange(784))  # the bug: masks of one order, a loop in another
    wrong = model.sample(12)
    np.savez_compressed(
        STORED,
        test=test[:12].bool(),
        own_order=right.bool(),
        raster_order=wrong.bool(),
        nats=np.float32(nats),
    )
    print(f"{nats:.2f} nats per test image (dynamic binarisation, one draw, seed 0)")


if __name__ == "__main__":
    main()
