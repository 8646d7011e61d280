"""Compare a step with the loop one would write by hand, and a recorded step with an eager one on a GPU.

Run by ``make bench`` or ``python tests/bench_train.py``. The model is a 784-400-20 VAE, batch 128. Rounds of
all ways are interleaved and medians are compared, so that what else the machine does hits them alike. Ratios
within one run mean something; seconds depend on the machine.
"""

import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from dgm_utils import train

BATCH, STEPS, ROUNDS = 128, 200, 15


class VAE(nn.Module):
    """A VAE of binary images of 784 pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))

    def loss(self, x):
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        log_prob = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none")
        reconstruction = -log_prob.sum(1).mean()
        kl = (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(1).mean()
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


def make(device, **options):
    """Return a VAE and its optimizer, the same at every call."""
    torch.manual_seed(0)
    model = VAE().to(device)
    return model, torch.optim.Adam(model.parameters(), 1e-3, fused=True, **options)


def by_hand(device, only_own=False):
    """Return a function that runs the loop written by hand over batches.

    `only_own` asks for the gradients of the optimizer's parameters and no others, as a gradient step does:
    autograd then marks the nodes on the way to them, at each step anew. On one core this is most of what a
    gradient step costs: 30 of the 38 μs that a step of a tiny VAE took longer than by hand.
    """
    model, optimizer = make(device)
    inputs = [*model.parameters()] if only_own else None

    def epoch(batches):
        for x in batches:
            optimizer.zero_grad()
            model.loss(x)["loss"].backward(inputs=inputs)
            optimizer.step()

    return epoch


def by_step(device, graph=False):
    """Return a function that runs a gradient step over batches."""
    model, optimizer = make(device, **{"capturable": True} if graph else {})
    step = train.gradient_step(model.loss, optimizer, graph=graph)

    def epoch(batches):
        for x in batches:
            step(x)

    return epoch


def by_fit(device, graph=False):
    """Return a function that runs the training loop, with all that it logs, over batches."""
    model, optimizer = make(device, **{"capturable": True} if graph else {})
    step = train.gradient_step(model.loss, optimizer, graph=graph)
    return lambda batches: train.fit(step, batches, 1, model=model, progress=False)


def measure(ways, device):
    """Return the seconds a step takes in each way: a list over rounds."""
    pixels = torch.rand(STEPS * BATCH, 784, generator=torch.Generator().manual_seed(0))
    batches = list((pixels > 0.8).float().to(device).split(BATCH))
    seconds = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        names = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]  # none is always last
        for name, run in ((name, ways[name]) for name in names):
            start = time.perf_counter()
            run(batches)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number > 0:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / STEPS)
    return seconds


def report(device):
    """Print the table for one device."""
    ways = {"by hand": by_hand(device), "by hand, own parameters": by_hand(device, only_own=True)}
    ways |= {"gradient_step": by_step(device), "fit": by_fit(device)}
    if device.type == "cuda":
        ways["gradient_step, graph"] = by_step(device, graph=True)
        ways["fit, graph"] = by_fit(device, graph=True)
    seconds = measure(ways, device)
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads"
    print(f"VAE 784-400-20, batch {BATCH}, {device} ({name}), {ROUNDS} rounds of {STEPS} steps")
    print(f"{'':24}{'ms a step':>10}{'to by hand':>12}")
    for way, values in seconds.items():
        # The ratio within a round, then the median: what slows the machine slows both.
        ratio = statistics.median(a / b for a, b in zip(values, seconds["by hand"], strict=True))
        print(f"{way:24}{1e3 * statistics.median(values):10.3f}{ratio:12.3f}")


if __name__ == "__main__":
    report(torch.device("cpu"))
    if torch.cuda.is_available():
        report(torch.device("cuda"))
