"""Images as device tensors, minibatches, binarisation and dequantisation, and data whose density is known.

Nothing here touches numpy's global random state: a function draws from torch's global generator, or from one
of its own where a ``seed`` is given.
"""

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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

    ``"mnist"`` is part of this package and needs no network. ``"fashion_mnist"``, ``"kmnist"``, ``"cifar10"``
    and ``"cifar100"`` are downloaded once, to the directory that the environment variable ``DGM_DATA`` names,
    else to ``~/.cache/dgm_utils``.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: where a data set is neither on the disk nor to be downloaded, or a file is damaged.

    References:
        The MNIST database of handwritten digits. LeCun, Cortes, Burges, 1998.
        http://yann.lecun.com/exdb/mnist/
    """
    if name == "mnist":
        parts = [_read_mnist(part, n) for part, n in (("train", 60_000), ("t10k", 10_000))]
    elif name in _DOWNLOADED:
        parts = _download(name)
    else:
        raise ValueError(f"no data set {name!r}: expected one of {['mnist', *_DOWNLOADED]}")
    (images, labels), test = [Images(x.to(device), y.to(device)) for x, y in parts]
    train = Images(images[:-N_VALID], labels[:-N_VALID])
    return Splits(train, Images(images[-N_VALID:], labels[-N_VALID:]), test)


def _read_mnist(part: str, n: int) -> Images:
    directory = Path(__file__).parent / "mnist"
    images = _read_idx(directory / f"{part}-images-idx3-ubyte.gz", (n, 28, 28))
    labels = _read_idx(directory / f"{part}-labels-idx1-ubyte.gz", (n,))
    return Images(images.unsqueeze(1), labels.long())


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read unsigned bytes from a gzipped IDX file: 0, 0, type 8, number of axes, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())  # gzip checks its own CRC-32
    except (OSError, EOFError) as error:
        raise RuntimeError(f"{path} is missing or damaged ({error}): install the package again") from error
    axes = len(shape)
    sizes = tuple(int.from_bytes(content[4 * i : 4 * i + 4], "big") for i in range(1, axes + 1))
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)[4 + 4 * axes :]
    if content[:4] != bytes([0, 0, 8, axes]) or sizes != shape or values.numel() != torch.Size(shape).numel():
        raise RuntimeError(
            f"{path} is damaged: expected bytes of shape {shape}, got header {content[:4].hex()}, "
            f"shape {sizes} and {values.numel()} values: install the package again"
        )
    return values.reshape(shape)


# Names here, and the names of torchvision's classes that know the addresses and checksums.
_DOWNLOADED = {
    "fashion_mnist": "FashionMNIST",
    "kmnist": "KMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}


def _download(name: str) -> list[Images]:
    """Return the official training and test images through torchvision, which checks what it downloads."""
    from torchvision import datasets  # imported here: it costs a second, and MNIST does without

    root = Path(os.environ.get("DGM_DATA") or Path.home() / ".cache" / "dgm_utils")
    try:
        sets = [
            getattr(datasets, _DOWNLOADED[name])(root, train=part, download=True) for part in (True, False)
        ]
    except Exception as error:
        raise RuntimeError(
            f"{name} is not in {root} and could not be downloaded ({error}). Connect to a network, or copy "
            f"its files there and set DGM_DATA to their directory. 'mnist' and all synthetic data need no network"
        ) from error
    parts = []
    for part in sets:
        images = torch.as_tensor(part.data)
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        parts.append(Images(images, torch.as_tensor(part.targets).long()))
    return parts


# --------------------------------------------------------------------------------------------------- batches
class Batches:
    """Iterate minibatches of tensors that already lie on their device, as a ``DataLoader`` would.

    A batch is a tensor for one tensor and a tuple for several; it is a copy, never a view of the data.
    ``transform`` is applied to the first tensor of each batch, on its device: ``Batches(images, labels,
    batch_size=100, transform=binarize)`` draws new binary images at every pass.

    Every ``iter()`` starts a new epoch. Its order is drawn on the CPU, so that it is the same on every
    device: from torch's global generator, or, with ``seed``, from one of its own (``transform`` always uses
    the global one). ``state_dict()``, taken when a batch has been used, holds the order and the position; the
    first pass after ``load_state_dict`` yields what was left of that epoch, nothing if that was the last
    batch.

    Raises:
        ValueError: for tensors of different lengths or on different devices, for no examples, for a batch
        size
            below 1, and for one above the number of examples where ``drop_last`` would leave no batch.
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
            raise ValueError(
                f"expected tensors on one device, got {sorted(devices)}: move them with .to(device)"
            )
        if batch_size != int(batch_size) or batch_size < 1:
            raise ValueError(f"expected a batch size of at least 1, got {batch_size}")
        if drop_last and batch_size > lengths[0]:
            raise ValueError(
                f"batch size {batch_size} with drop_last leaves no batch of {lengths[0]} examples"
            )
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
        generator = None if self.generator is None else self.generator.get_state()
        return {
            "order": self._order,
            "position": self._position,
            "batch_size": self.batch_size,
            "generator": generator,
        }

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
    # x + u rounds up to x + 1 now and then in float32, into the next cell. 16 random bits under the 8 bits of
    # x fill the 24 that float32 has, so that this is exact; 1..65535 keeps the mean at the middle of the
    # cell.
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
