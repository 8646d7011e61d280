"""What the notebooks of the course import: training loop, data, plots, property checks, metrics.

The package knows no models. A model that is taught stands in the seminar that teaches it; what is
repeated in every notebook stands here, one idea a module:

=========  ==================================================================
`train`    gradient steps, the loop, evaluation, checkpoints
`graph`    a gradient step as a CUDA graph
`data`     images, toy densities, sprites; minibatches
`plot`     figures with one style, one palette and alternative text
`checks`   properties a correct model has, judged in float64
`metrics`  numbers that judge a generative model
`nets`     plain backbones that no lecture is about
`results`  the table at the end of a notebook
`weights`  what two minutes of two cores cannot train
=========  ==================================================================

Importing the package makes the processor take denormal numbers (below 1e-38 in float32) for zero. Adam's
averages of gradients that have ceased decay into them, and arithmetic with them is many times slower.
"""

import random

import numpy as np
import torch

__all__ = ["device", "seed_everything"]

np.finfo(np.float32)  # NumPy 2.1 measures a type when it is asked first, and warns if it finds no denormals
np.finfo(np.float64)
torch.set_flush_denormal(True)  # here, before there are worker threads: they take it over from this one


def device() -> torch.device:
    """Choose the GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global random states, on every device.

    Args:
        seed: an integer from 0 to 2**32 - 1, the range that NumPy takes.

    Raises:
        ValueError: the seed is outside that range.
    """
    np.random.seed(seed)  # first: it is NumPy that refuses a seed outside its range
    random.seed(seed)
    torch.manual_seed(seed)
