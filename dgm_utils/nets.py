"""Plain backbones that no lecture is about. None has batch normalisation: every example is on its own."""

from collections.abc import Callable
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ResidualBlock", "conv_decoder", "conv_encoder", "mlp"]


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers ``sizes[0] -> ... -> sizes[-1]`` with ``activation()`` between, none at the end.

    Maps ``(..., sizes[0])`` to ``(..., sizes[-1])``.

    Raises:
        ValueError: for fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(f"expected at least two sizes, input and output, got {sizes}")
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


class ResidualBlock(nn.Module):
    """Add two 3x3 convolutions of the rectified input to it: ``(B, channels, H, W)`` to the same shape.

    References:
        Identity mappings in deep residual networks. He, Zhang, Ren, Sun, 2016. https://arxiv.org/abs/1603.05027
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus its correction."""
        return x + self.second(F.relu(self.first(F.relu(x))))


def conv_encoder(outputs: int, *, channels: int = 1, width: int = 32, size: int = 28) -> nn.Sequential:
    """Return a network from images ``(B, channels, size, size)`` to ``(B, outputs)``, unbounded.

    For MNIST: 28x28 -> 14x14 with ``width`` channels -> 7x7 with ``2 * width`` -> linear.

    Raises:
        ValueError: unless ``size`` is a multiple of 4.
    """
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        ResidualBlock(2 * width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * _quarter(size) ** 2, outputs),
    )


def conv_decoder(inputs: int, *, channels: int = 1, width: int = 32, size: int = 28) -> nn.Sequential:
    """Return the mirror image of `conv_encoder`: ``(B, inputs)`` to ``(B, channels, size, size)``, unbounded.

    The output is logits or means, as the likelihood wants.

    Raises:
        ValueError: unless ``size`` is a multiple of 4.
    """
    quarter = _quarter(size)
    return nn.Sequential(
        nn.Linear(inputs, 2 * width * quarter**2),
        nn.Unflatten(1, (2 * width, quarter, quarter)),
        ResidualBlock(2 * width),
        nn.ReLU(),
        # Kernel 4 at stride 2 covers every output pixel by the same number of taps: no checkerboard.
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
    )


def _quarter(size: int) -> int:
    if size % 4 or size < 4:
        raise ValueError(f"expected an image size that is a multiple of 4, got {size}")
    return size // 4
