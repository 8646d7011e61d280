"""Images as device tensors, minibatches, binarisation and dequantisation, and data whose density is known.

Nothing here touches numpy's global random state: a function draws from torch's global generator, or from one
of its own where a ``seed`` is given.
"""

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

__all__ = ["FACTORS", "Batches", "Density", "Images", "Splits", "binarize", "dequantize", "eight_gaussians",
           "energy", "gaussian_grid", "load_images", "mixture", "moons", "sprites"]  # fmt: skip

N_VALID = 10_000  # the last training images of every data set are its validation images


# ---------------------------------------------------------------------------------------------------- images
class Images(NamedTuple):
    """Hold one part of a data set: ``images`` uint8 ``(N, C, H, W)`` in 0..255, ``labels`` int64 ``(N,)``."""

    images: Tensor
    labels: Tensor


class Splits(NamedTuple):
    """Hold the three parts of a data set."""

    train: Images
    valid: Images
    test: Images


def load_images(name: str, *, device: torch.device | str = "cpu") -> Splits:
    """Return the training, validation and test images of the data set ``name`` on ``device``.

    Images are uint8 ``(N, C, H, W)`` with values 0..255, labels int64 ``(N,)``. The validation images are the
    last 10,000 training images, so MNIST has 50,000, 10,000 and 10,000 images.

    ``"mnist"`` is part of this package and needs no network. ``"fashion_mnist"`` and ``"cifar10"`` are
    downloaded once by torchvision, to the directory that the environment variable ``DGM_DATA`` names, else to
    ``~/.cache/dgm_utils``. Their files are checked at every call; a broken one is unpacked again from its
    archive, or downloaded again.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: where a data set is neither on the disk nor to be downloaded, or is damaged.

    References:
        The MNIST database of handwritten digits. LeCun, Cortes, Burges, 1998.
        http://yann.lecun.com/exdb/mnist/
    """
    if name not in ("mnist", *_TORCHVISION):
        raise ValueError(f"no data set {name!r}: expected one of {['mnist', *_TORCHVISION]}")
    parts = _mnist() if name == "mnist" else _torchvision(name)
    (images, labels), test = [Images(x.to(device), y.to(device)) for x, y in parts]
    train = Images(images[:-N_VALID], labels[:-N_VALID])
    return Splits(train, Images(images[-N_VALID:], labels[-N_VALID:]), test)


def _mnist() -> Iterator[Images]:
    here = Path(__file__).parent / "mnist"
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = _read_idx(here / f"{part}-images-idx3-ubyte.gz", 16, (n, 1, 28, 28))
        yield Images(images, _read_idx(here / f"{part}-labels-idx1-ubyte.gz", 8, (n,)).long())


def _read_idx(path: Path, header: int, shape: tuple[int, ...]) -> Tensor:
    """Read what follows ``header`` bytes of a gzipped file as uint8; gzip checks its own CRC-32."""
    try:
        content = torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=torch.uint8)
        return content[header:].reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError) as error:
        raise RuntimeError(f"{path} is missing or damaged ({error}): install the package again") from error


# Name here: torchvision's class, its folder, number of training images, shape of an image.
_TORCHVISION = {
    "fashion_mnist": ("FashionMNIST", "FashionMNIST", 60_000, (1, 28, 28)),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", 50_000, (3, 32, 32)),
}
# torchvision checks the archives of Fashion-MNIST, but not what it has unpacked: file, MD5.
_UNPACKED = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}


def _torchvision(name: str) -> list[Images]:
    """Return the official training and test images as torchvision reads them, downloaded if need be."""
    from torchvision import datasets  # imported here: it costs a second, and MNIST does without

    dataset, folder, n, shape = _TORCHVISION[name]
    root = Path(os.environ.get("DGM_DATA") or "~/.cache/dgm_utils").expanduser()
    try:
        for file, md5 in _UNPACKED.items() if name == "fashion_mnist" else ():
            path = root / folder / "raw" / file
            if not datasets.utils.check_integrity(path, md5):
                path.unlink(missing_ok=True)  # torchvision unpacks it again, or downloads
        parts = [getattr(datasets, dataset)(root, train=train, download=True) for train in (True, False)]
        return [_checked(parts[0], n, shape), _checked(parts[1], 10_000, shape)]
    except Exception as error:  # a damaged file raises anything: of gzip, tarfile, pickle, NumPy, torch
        what = f"{name} is not whole in {root} and could not be downloaded to it: {error}"
        advice = f"Connect to a network and try again; if that does not help, delete {root / folder}"
        others = "DGM_DATA names another place. 'mnist' and all that this module draws itself need no network"
        raise RuntimeError(f"{what}. {advice}. {others}") from error


def _checked(part: Any, n: int, shape: tuple[int, ...]) -> Images:
    """Return images and labels of a torchvision data set if there are ``n``, equally many of ten classes."""
    images, labels = torch.as_tensor(part.data), torch.as_tensor(part.targets).long()
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    counts = labels.bincount(minlength=10).tolist()
    if images.dtype != torch.uint8 or images.shape != (n, *shape) or counts != [n // 10] * 10:
        got = f"{tuple(images.shape)} of {images.dtype} and {counts}"
        raise ValueError(f"expected {n} images {shape} of uint8, {n // 10} labels of each class, got {got}")
    return Images(images, labels)


# --------------------------------------------------------------------------------------------------- batches
class Batches:
    """Iterate minibatches of tensors that already lie on their device, as a ``DataLoader`` would.

    A batch is a tensor for one tensor and a tuple for several; it is a copy, never a view of the data.
    ``transform`` is applied to the first tensor of each batch, on its device: ``Batches(images, labels,
    batch_size=100, transform=binarize)`` draws new binary images at every pass.

    Every ``iter()`` starts a new epoch. Its order is drawn on the CPU, so that it is the same on every
    device: from torch's global generator, or, with ``seed``, from one of its own, whose state a checkpoint
    holds. ``transform`` always uses the global one.

    Raises:
        ValueError: for tensors of different lengths or on different devices, for no examples, for a batch
            size below 1, or above the number of examples where ``drop_last`` would leave no batch.
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = False,
        transform: Callable[[Tensor], Any] | None = None,
        seed: int | None = None,
    ):
        alike = {(len(tensor), str(tensor.device)) for tensor in tensors}
        if len(alike) != 1 or len(tensors[0]) == 0:
            raise ValueError(f"expected tensors of one length above 0, on one device, got {sorted(alike)}")
        if batch_size < 1 or (drop_last and batch_size > len(tensors[0])):
            raise ValueError(f"batch size {batch_size}, {drop_last=}, leaves no batch of {len(tensors[0])}")
        self.tensors, self.batch_size, self.shuffle, self.drop_last = tensors, batch_size, shuffle, drop_last
        self.transform = transform
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        n = len(self.tensors[0])
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator:
        n, device = len(self.tensors[0]), self.tensors[0].device
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for chosen in order.to(device).split(self.batch_size)[: len(self)]:
            first, *others = (tensor[chosen] for tensor in self.tensors)
            if self.transform is not None:
                first = self.transform(first)
            yield (first, *others) if others else first


# ---------------------------------------------------------------------------- binarisation and dequantisation
def binarize(images: Tensor, *, threshold: int | None = None, seed: int | None = None) -> Tensor:
    """Return binary images, float 0 or 1 in the shape of ``images`` (uint8, 0..255).

    By default each pixel is a new Bernoulli draw with probability x/255 at every call ("dynamic"). ``seed``
    makes it one fixed draw, the same at every call and on every device. ``threshold`` gives ``x > threshold``
    instead, without chance. Likelihoods of the three are not comparable with each other: on MNIST the mean
    entropy of the draws alone is 45.5 nats an image.

    Raises:
        TypeError: unless the images are uint8.
        ValueError: for a threshold outside 0..254, or together with a seed.

    References:
        On the quantitative analysis of deep belief networks. Salakhutdinov, Murray, 2008.
        https://doi.org/10.1145/1390156.1390266
    """
    _require_uint8(images)
    if threshold is not None:
        if seed is not None or not 0 <= threshold <= 254:
            raise ValueError(f"expected a threshold in 0..254 and no seed, got {threshold} and seed {seed}")
        return (images > threshold).float()
    probability = images.float() / 255
    if seed is None:
        return torch.bernoulli(probability)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draw on every device
    return torch.bernoulli(probability.cpu(), generator=generator).to(images.device)


def dequantize(images: Tensor, *, levels: int = 256, seed: int | None = None) -> Tensor:
    """Return y = (x + u) / levels with u uniform on the whole cell: float32 in (0, 1), floor(levels y) == x.

    ``images`` are uint8 in 0..levels - 1. Each call draws anew unless ``seed`` is given. If a density p on
    [0, 1)^m models the result y, then ``(-log p(y) / m + ln levels) / ln 2`` bits per dimension is, on
    average over u, an upper bound on the code length of the discrete image:
    log P(x) >= E_u log p(y) - m ln levels.

    Raises:
        TypeError: unless the images are uint8.
        ValueError: for a value that is no level.

    References:
        A note on the evaluation of generative models. Theis, van den Oord, Bethge, 2016.
        https://arxiv.org/abs/1511.01844
    """
    _require_uint8(images)
    if levels != 256 and not images.max() < levels < 256:  # asking a GPU for its greatest value costs time
        raise ValueError(f"expected values below levels, at most 256, got {images.max()} and {levels=}")
    # In float32 x + u rounds up to x + 1 now and then, into the next cell. 16 random bits below the 8 of x
    # fill the 24 that float32 has, which is exact; 1..65535 keeps the mean at the middle of the cell.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    device = images.device if seed is None else "cpu"
    u = torch.randint(1, 65_536, images.shape, generator=generator, device=device, dtype=torch.int32)
    return (images.int() * 65_536 + u.to(images.device)).float() / (levels * 65_536)


def _require_uint8(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, 0..255, got {images.dtype}: take them before scaling")


# ------------------------------------------------------------------------------- distributions that are known
@dataclass(frozen=True)
class Density:
    """Hold a distribution whose density is known exactly, made from a function that draws n points.

    ``log_prob(x)`` gives nats, ``(B,)``, on the device of ``x``; -inf where the density is zero. ``entropy``
    is -E log_prob in nats where there is a closed form.
    """

    _draw: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    entropy: float | None = None

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw ``(n, ...)`` on the CPU, from torch's global random state or, given ``seed``, beside it."""
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            return self._draw(n)


def mixture(means: Any, *, scales: Any, weights: Any = None) -> Density:
    """Return a mixture of Gaussians: ``means`` ``(C,)`` or ``(C, m)``, equal ``weights`` by default.

    ``scales`` are standard deviations, one number or whatever broadcasts to the shape of ``means``.

    >>> mixture([-2.0, 2.0], scales=0.5).sample(100).shape
    torch.Size([100])
    """
    means = torch.as_tensor(means, dtype=torch.float64)
    scales = torch.as_tensor(scales, dtype=torch.float64).expand(means.shape)
    weights = torch.ones(len(means)) if weights is None else torch.as_tensor(weights)

    def at(x: Tensor) -> MixtureSameFamily:
        """Return the mixture in x's precision, on its device."""
        parts = Independent(Normal(means.to(x), scales.to(x)), means.ndim - 1)
        return MixtureSameFamily(Categorical(weights.to(x)), parts)

    # An empty tensor stands for the default: torch's float type, on the CPU.
    return Density(lambda n: at(torch.empty(0)).sample((n,)), lambda x: at(x).log_prob(x))


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def eight_gaussians(*, radius: float = 2.0, scale: float = 0.2) -> Density:
    """Return eight Gaussians on a circle, equally likely."""
    return mixture(radius * _circle(torch.arange(8) * (math.pi / 4)), scales=scale)


def gaussian_grid(*, spacing: float = 2.0, scale: float = 0.05) -> Density:
    """Return 25 Gaussians on a 5 by 5 grid around the origin, equally likely."""
    line = spacing * torch.arange(-2.0, 3.0)
    return mixture(torch.cartesian_prod(line, line), scales=scale)


def moons(*, scale: float = 0.1) -> Density:
    """Return two half circles of radius 1 that reach into each other, with Gaussian noise, mean zero.

    ``log_prob`` integrates over the arc by Gauss-Legendre quadrature, exact to rounding.
    """
    node, weight = map(torch.as_tensor, np.polynomial.legendre.leggauss(math.ceil(10 / scale)))

    def arcs(t: Tensor) -> Tensor:
        upper = _circle(t) - torch.tensor([0.5, 0.25])
        return torch.cat([upper, -upper])

    def draw(n: int) -> Tensor:
        points = arcs(math.pi * torch.rand(n))[torch.arange(n) + n * torch.randint(2, (n,))]
        return points + scale * torch.randn(n, 2)

    parts = mixture(arcs(math.pi * (node + 1) / 2), scales=scale, weights=weight.repeat(2))
    return Density(draw, lambda x: torch.cat([parts.log_prob(part) for part in x.split(5_000)]))


def energy(z: Tensor, number: int) -> Tensor:
    """Return U(z) ``(B,)`` of Rezende and Mohamed's test density ``number`` (1 to 4), p(z) ~ exp(-U(z)).

    ``z`` is ``(B, 2)``. Densities 2 to 4 repeat along z1 for ever: only on a strip, such as the paper's
    -4 <= z1 <= 4, can they be normalised.

    Raises:
        ValueError: for another number.

    References:
        Variational inference with normalizing flows, table 1. Rezende, Mohamed, 2015.
        https://arxiv.org/abs/1505.05770
    """

    def squared(distance: Tensor, scale: float) -> Tensor:
        return -0.5 * (distance / scale) ** 2

    z1, z2 = z.unbind(1)
    from_wave = z2 - torch.sin(2 * math.pi * z1 / 4)
    bump, step = 3 * squared(z1 - 1, 0.6).exp(), 3 * torch.sigmoid((z1 - 1) / 0.3)
    if number == 1:
        return -squared(z.norm(dim=1) - 2, 0.4) - torch.logaddexp(squared(z1 - 2, 0.6), squared(z1 + 2, 0.6))
    if number == 2:
        return -squared(from_wave, 0.4)
    if number == 3:
        return -torch.logaddexp(squared(from_wave, 0.35), squared(from_wave + bump, 0.35))
    if number == 4:
        return -torch.logaddexp(squared(from_wave, 0.4), squared(from_wave + step, 0.35))
    raise ValueError(f"expected the number of a density, 1 to 4, got {number}")


# --------------------------------------------------------------------------------------------------- sprites
FACTORS = ("shape", "scale", "rotation", "x", "y")  # of sprites


def sprites(
    size: int = 32, *, scales: int = 4, rotations: int = 8, positions: int = 8
) -> tuple[Tensor, Tensor]:
    """Draw a shape in every combination of five independent factors; return images and factors.

    Images are uint8 ``(N, 1, size, size)``, 0 or 255; factors int64 ``(N, 5)``, counted from 0, in the order
    of FACTORS, the last one running fastest.

    The shapes are a triangle, a heart and an L: none looks the same after a turn, so that every combination
    has its own image. Scales run from half to full size, rotations round the circle, positions over the
    middle.

    References:
        dSprites: disentanglement testing sprites dataset. Matthey, Higgins, Hassabis, Lerchner, 2017.
        https://github.com/google-deepmind/dsprites-dataset
    """
    counts = (3, scales, rotations, positions, positions)
    factors = torch.cartesian_prod(*map(torch.arange, counts))
    shape, scale, rotation, x, y = factors[:, :, None, None].unbind(1)
    radius = size * torch.linspace(0.125, 0.25, scales)[scale]
    angle = 2 * math.pi * rotation / rotations
    center = torch.linspace(0.27 * size, 0.73 * size, positions)
    pixel = torch.arange(size) + 0.5
    across, down = pixel - center[x], pixel[:, None] - center[y]  # (N, 1, size) and (N, size, 1)
    u = (angle.cos() * across + angle.sin() * down) / radius
    v = (angle.sin() * across - angle.cos() * down) / radius  # upwards
    triangle = (v > -0.7) & (u.abs() < 0.42 * (1 - v))
    heart = (2.1 * (u**2 + v**2) - 1) ** 3 < 6.4 * u**2 * v**3  # (x^2 + y^2 - 1)^3 < x^2 y^3
    corner = (torch.maximum(u.abs(), v.abs()) < 0.7) & ~((u > 0) & (v > 0))
    inside = torch.where(shape == 0, triangle, torch.where(shape == 1, heart, corner))
    return 255 * inside.unsqueeze(1).to(torch.uint8), factors
