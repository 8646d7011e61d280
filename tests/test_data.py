import gzip
import hashlib
import math
import types
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy import integrate, stats
from sklearn.datasets import make_moons
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import dgm_utils
from dgm_utils import data


# ---------------------------------------------------------------------------------------------------- images
@pytest.fixture(scope="module")
def mnist():
    return data.load_images("mnist")


def test_mnist_is_the_original_in_the_original_order(mnist):
    directory = Path(dgm_utils.__file__).parent / "mnist"
    train = data.Images(*(torch.cat(both) for both in zip(mnist.train, mnist.valid, strict=True)))
    for part, (images, labels) in (("train", train), ("t10k", mnist.test)):
        raw = gzip.decompress((directory / f"{part}-images-idx3-ubyte.gz").read_bytes())
        expected = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), expected)
        raw = gzip.decompress((directory / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert labels.dtype == torch.int64
        assert np.array_equal(labels.numpy(), np.frombuffer(raw, np.uint8, offset=8))
    assert [len(part.images) for part in mnist] == [50_000, 10_000, 10_000]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_mnist_has_its_known_statistics(mnist):
    images = torch.cat([mnist.train.images, mnist.valid.images])
    p, q = images.double().flatten(1) / 255, mnist.test.images.double().flatten(1) / 255
    assert p.mean().item() == pytest.approx(0.13066, abs=1e-5)
    assert p.std().item() == pytest.approx(0.30811, abs=1e-5)
    assert (images > 127).double().mean().item() == pytest.approx(0.1323, abs=5e-5)
    floor = torch.special.entr(q) + torch.special.entr(1 - q)
    assert floor.sum(1).mean().item() == pytest.approx(45.53, abs=0.005)
    # What a model of independent pixels reaches on stochastically binarised images: E[-log p(b)], b ~ B(x).
    model = (p.sum(0) + 1) / (len(p) + 2)
    nll = -(q * model.log() + (1 - q) * (-model).log1p()).sum(1).mean()
    assert nll.item() == pytest.approx(205.81, abs=0.01)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'imagenet'.*'mnist'.*'fashion_mnist'.*'cifar10'"):
        data.load_images("imagenet")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"", lambda b: gzip.compress(b"1234")])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "labels.gz"
    whole = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    path.write_bytes(whole)
    assert data._read_idx(path, 8, (3,)).tolist() == [7, 8, 9]
    with pytest.raises(RuntimeError, match=r"labels.gz is missing or damaged.*install the package again"):
        data._read_idx(path, 8, (4,))
    path.write_bytes(damage(whole))
    with pytest.raises(RuntimeError, match=r"labels.gz is missing or damaged"):
        data._read_idx(path, 8, (3,))


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Look for data in an empty directory, without a network."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("DGM_DATA", str(tmp_path))


@pytest.fixture(scope="module")
def fashion_files():
    """Files in the format of Fashion-MNIST: each image begins with its number, modulo 251."""
    files = {}
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 784), np.uint8)
        images[:, 0] = np.arange(n) % 251
        sizes = b"".join(size.to_bytes(4, "big") for size in (n, 28, 28))
        files[f"{part}-images-idx3-ubyte"] = b"\0\0\x08\x03" + sizes + images.tobytes()
        labels = (np.arange(n) % 10).astype(np.uint8)
        files[f"{part}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + sizes[:4] + labels.tobytes()
    return files, {name: gzip.compress(content, 1, mtime=0) for name, content in files.items()}


@pytest.fixture
def fashion(fashion_files, no_network, tmp_path, monkeypatch):
    """Put the archives of such a Fashion-MNIST where torchvision keeps them, and its checksums in place."""
    files, archives = fashion_files
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in archives.items():
        (raw / f"{name}.gz").write_bytes(content)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(data, "_UNPACKED", md5)
    resources = [(f"{name}.gz", hashlib.md5(content).hexdigest()) for name, content in archives.items()]
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    return raw


def assert_loaded(splits):
    assert [tuple(part.images.shape) for part in splits] == [(n, 1, 28, 28) for n in (50_000, 10_000, 10_000)]
    for part, first in zip(splits, (0, 50_000, 0), strict=True):
        number = torch.arange(first, first + len(part.images))
        assert torch.equal(part.images[:, 0, 0, 0].long(), number % 251)
        assert torch.equal(part.labels, number % 10)


def test_fashion_mnist_is_unpacked_once(fashion):
    assert_loaded(data.load_images("fashion_mnist"))
    for archive in fashion.glob("*.gz"):
        archive.unlink()
    assert_loaded(data.load_images("fashion_mnist"))


@pytest.mark.parametrize("damage", [
    lambda content: content[:-100],
    lambda content: content[:1000] + b"\1" + content[1001:],
    lambda content: content[:4] + (59_000).to_bytes(4, "big") + content[8 : 16 + 59_000 * 784],
], ids=["truncated", "another pixel", "59,000 images"])  # fmt: skip
def test_a_damaged_file_is_unpacked_again(fashion, fashion_files, damage):
    for name, content in fashion_files[0].items():
        (fashion / name).write_bytes(content)
    broken = fashion / "train-images-idx3-ubyte"
    broken.write_bytes(damage(fashion_files[0][broken.name]))
    assert_loaded(data.load_images("fashion_mnist"))


def test_what_is_damaged_and_has_no_archive_is_not_believed(fashion, fashion_files):
    for name, content in fashion_files[0].items():
        (fashion / name).write_bytes(content)
    broken = fashion / "t10k-labels-idx1-ubyte"
    broken.write_bytes(fashion_files[0][broken.name][:8] + b"\7" * 10_000)  # all sevens
    (fashion / f"{broken.name}.gz").write_bytes(b"")
    with pytest.raises(RuntimeError, match=rf"(?s)fashion_mnist.*no route.*delete {fashion.parent}"):
        data.load_images("fashion_mnist")


def test_every_file_of_torchvisions_fashion_mnist_is_checked():
    archives = [name for name, _ in torchvision.datasets.FashionMNIST.resources]
    assert archives == [f"{name}.gz" for name in data._UNPACKED]


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_without_a_network_the_error_says_what_and_where(name, no_network, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        data.load_images(name)
    folder = tmp_path / {"fashion_mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py"}[name]
    for part in (name, "no route", f"delete {folder}", "DGM_DATA", "'mnist'", "need no network"):
        assert part in str(raised.value)


def cifar(**parts):
    """Return a class in place of torchvision's, which gives these images and labels for training."""

    def dataset(root, *, train, download):
        n = 50_000 if train else 10_000
        images = np.zeros((n, 32, 32, 3), np.uint8)
        images[:, 1, 2, 0] = np.arange(n) % 251  # row 1, column 2, red
        found = {"data": images, "targets": (np.arange(n) % 10).tolist()}
        return types.SimpleNamespace(**found | (parts if train else {}))

    return dataset


def test_cifar10_has_channels_first(no_network, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar())
    splits = data.load_images("cifar10")
    assert [tuple(part.images.shape) for part in splits] == [(n, 3, 32, 32) for n in (40_000, 10_000, 10_000)]
    assert torch.equal(splits.valid.images[:, 0, 1, 2].long(), torch.arange(40_000, 50_000) % 251)
    assert splits.test.images.sum(dtype=torch.int64) == (np.arange(10_000) % 251).sum()
    assert splits.train.labels[:12].tolist() == [*range(10), 0, 1]


@pytest.mark.parametrize(("parts", "got"), [
    ({"data": np.zeros((49_000, 32, 32, 3), np.uint8)}, r"got \(49000, 3, 32, 32\) of torch.uint8"),
    ({"data": np.zeros((50_000, 1, 1, 3), np.uint8)}, r"got \(50000, 3, 1, 1\)"),
    ({"data": np.zeros((50_000, 32, 32, 3), np.float32)}, "of torch.float32"),
    ({"targets": [7] * 50_000}, r"\[0, 0, 0, 0, 0, 0, 0, 50000, 0, 0\]"),
    ({"targets": (np.arange(49_990) % 10).tolist()}, r"\[4999, 4999"),
    ({"targets": (np.arange(50_000) % 11).tolist()}, r"\[4546, .*4545\]"),
    ({"targets": (np.arange(50_000) % 10 - 1).tolist()}, "non-negative"),
])  # fmt: skip
def test_what_torchvision_gives_is_checked(parts, got, no_network, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar(**parts))
    with pytest.raises(RuntimeError, match=rf"cifar10 .*{got}.*delete .*cifar-10-batches-py"):
        data.load_images("cifar10")


# --------------------------------------------------------------------------------------------------- batches
X, Y = torch.arange(20).reshape(10, 2), torch.arange(10)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 11])
def test_batches_are_those_of_a_dataloader(batch_size, drop_last):
    loader = DataLoader(TensorDataset(X, Y), batch_size=batch_size, drop_last=drop_last)
    if len(loader) == 0:
        with pytest.raises(ValueError, match="11, drop_last=True, leaves no batch of 10"):
            data.Batches(X, Y, batch_size=batch_size, drop_last=drop_last)
        return
    ours = data.Batches(X, Y, batch_size=batch_size, drop_last=drop_last, shuffle=False)
    assert len(ours) == len(loader) == len(list(ours))
    for mine, theirs in zip(ours, loader, strict=True):
        assert isinstance(mine, tuple)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_shuffled_order_is_that_of_torchs_sampler():
    sampler = RandomSampler(X, generator=torch.Generator().manual_seed(3))
    loader = DataLoader(TensorDataset(X), batch_size=4, sampler=sampler)
    for mine, (theirs,) in zip(data.Batches(X, batch_size=4, seed=3), loader, strict=True):
        assert torch.equal(mine, theirs)


def test_every_epoch_is_a_new_order_of_all_examples_with_their_labels():
    batches = data.Batches(X, Y, batch_size=3, seed=0)
    epochs = [[torch.cat(column) for column in zip(*batches, strict=True)] for _ in range(5)]
    for x, y in epochs:
        assert torch.equal(y.sort().values, Y)
        assert torch.equal(x, X[y])
    assert len({tuple(y.tolist()) for _, y in epochs}) == 5


def test_a_seed_makes_the_order_independent_of_the_global_state():
    def epochs(seed):
        batches = data.Batches(Y, batch_size=3, seed=seed)
        return [batch.tolist() for _ in range(2) for batch in batches]

    torch.manual_seed(0)
    first, state = epochs(7), torch.get_rng_state()
    torch.manual_seed(1)
    assert epochs(7) == first
    assert epochs(8) != first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn from it


def test_without_a_seed_the_global_state_decides():
    orders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        orders.append([batch.tolist() for batch in data.Batches(Y, batch_size=3)])
    assert orders[0] == orders[1] != orders[2]


def test_transform_is_applied_to_the_first_tensor_once_a_batch():
    calls = []

    def double(x):
        calls.append(len(x))
        return 2 * x

    for x, y in data.Batches(X, Y, batch_size=4, transform=double, seed=0):
        assert torch.equal(x, 2 * X[y])
    assert calls == [4, 4, 2]
    assert torch.equal(next(iter(data.Batches(Y, batch_size=10, shuffle=False, transform=double))), 2 * Y)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_batch_is_a_copy(shuffle):
    x = torch.zeros(6)
    for batch in data.Batches(x, batch_size=3, shuffle=shuffle):
        batch += 1
    assert torch.equal(x, torch.zeros(6))


def test_the_state_of_the_generator_is_all_that_a_checkpoint_needs():
    batches, again = (data.Batches(Y, batch_size=3, seed=seed) for seed in (5, 6))
    list(batches)
    again.generator.set_state(batches.generator.get_state())
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def test_a_new_iterator_starts_a_new_epoch_after_a_break():
    batches = data.Batches(Y, batch_size=3, seed=0)
    next(iter(batches))
    assert sum(len(batch) for batch in batches) == 10


@pytest.mark.parametrize(("tensors", "batch_size", "message"), [
    ((), 3, r"got \[\]"),
    ((X, Y[:4]), 3, r"got \[\(4, 'cpu'\), \(10, 'cpu'\)\]"),
    ((Y[:0],), 3, r"above 0, on one device, got \[\(0, 'cpu'\)\]"),
    ((Y, torch.empty(10, device="meta")), 3, r"\(10, 'cpu'\), \(10, 'meta'\)"),
    ((Y,), 0, "batch size 0, drop_last=False, leaves no batch of 10"),
])  # fmt: skip
def test_bad_batches_are_refused(tensors, batch_size, message):
    with pytest.raises(ValueError, match=message):
        data.Batches(*tensors, batch_size=batch_size)


# ---------------------------------------------------------------------------- binarisation and dequantisation
GREY = torch.arange(256, dtype=torch.uint8)


def test_binarize_draws_each_pixel_with_its_probability():
    torch.manual_seed(0)
    n = 20_000
    draws = data.binarize(GREY.expand(n, 256))
    assert draws.dtype == torch.float32
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = GREY.double() / 255
    assert (draws[:, 0] == 0).all()
    assert (draws[:, 255] == 1).all()
    z = (draws.double().mean(0) - p)[1:-1] / (p * (1 - p) / n).sqrt()[1:-1]
    assert z.abs().max() < 4.9
    assert abs(z.square().sum().item() - 254) < 5 * math.sqrt(2 * 254)


def test_binarize_is_fresh_at_every_call_unless_seeded():
    images = torch.full((50, 50), 100, dtype=torch.uint8)
    assert not torch.equal(data.binarize(images), data.binarize(images))
    torch.manual_seed(0)
    state, fixed = torch.get_rng_state(), data.binarize(images, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fixed, data.binarize(images, seed=1))
    assert not torch.equal(fixed, data.binarize(images, seed=2))


def test_binarize_by_threshold():
    assert data.binarize(GREY, threshold=127).sum() == 128
    assert data.binarize(GREY, threshold=0).sum() == 255


@pytest.mark.parametrize("options", [{"threshold": 255}, {"threshold": -1}, {"threshold": 3, "seed": 1}])
def test_binarize_refuses_a_wrong_threshold(options):
    with pytest.raises(ValueError, match=f"got {options['threshold']}"):
        data.binarize(GREY, **options)


@pytest.mark.parametrize("function", [data.binarize, data.dequantize])
def test_only_bytes_are_taken(function):
    with pytest.raises(TypeError, match=r"uint8.*0\.\.255.*float32"):
        function(torch.tensor([0.0, 1.0]))
    with pytest.raises(TypeError, match="int64"):
        function(torch.tensor([0, 255]))


def test_dequantize_fills_the_whole_cell_and_never_leaves_it():
    torch.manual_seed(0)
    y = data.dequantize(GREY.expand(20_000, 256))
    assert y.dtype == torch.float32
    assert torch.equal((y.double() * 256).floor(), GREY.double().expand(20_000, 256))
    assert y.min() > 0
    assert y.max() < 1
    u = (y.double() * 256 - GREY).numpy()
    for value in (0, 1, 127, 254, 255):  # float32 is coarsest for the largest values
        assert stats.kstest(u[:, value], "uniform").pvalue > 1e-6
    assert abs(u.mean() - 0.5) < 5 / math.sqrt(12 * u.size)
    assert abs(np.corrcoef(u[:, 3], u[:, 4])[0, 1]) < 5 / math.sqrt(20_000)


def test_the_smallest_and_largest_draw_stay_inside(monkeypatch):
    for extreme in (1, 65_535):
        monkeypatch.setattr(torch, "randint", lambda *_, extreme=extreme, **__: torch.tensor(extreme))
        y = data.dequantize(GREY).double() * 256
        assert torch.equal(y.floor(), GREY.double())
        assert (y > GREY).all()


@pytest.mark.parametrize("levels", [2, 10, 16, 255])
def test_dequantize_with_fewer_levels_stays_in_its_cell(levels):
    x = torch.arange(levels, dtype=torch.uint8).expand(50_000, levels)
    y = data.dequantize(x, levels=levels, seed=0)
    assert y.min() > 0 and y.max() < 1
    assert torch.equal((y * levels).floor(), x.float())
    residue = (y.double() * levels - x).flatten()
    assert stats.kstest(residue[:20_000].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("levels", [8, 9, 300])
def test_dequantize_names_values_that_are_no_levels(levels):
    with pytest.raises(
        ValueError, match=f"expected values below levels, at most 256, got 9 and levels={levels}"
    ):
        data.dequantize(torch.tensor([[0, 9]], dtype=torch.uint8), levels=levels)


def test_dequantize_is_fresh_unless_seeded():
    assert not torch.equal(data.dequantize(GREY), data.dequantize(GREY))
    assert torch.equal(data.dequantize(GREY, seed=0), data.dequantize(GREY, seed=0))


def test_bits_per_dim_of_a_dequantised_density_are_an_upper_bound():
    # A density on [0, 1) and the distribution of pixels that it implies, both known: P(x) = mass of the cell.
    beta = stats.beta(2, 5)
    mass = np.diff(beta.cdf(np.arange(257) / 256))
    x = torch.from_numpy(np.random.default_rng(0).choice(256, 200_000, p=mass).astype(np.uint8))
    bits = (-beta.logpdf(data.dequantize(x, seed=0)).mean() + math.log(256)) / math.log(2)
    exact = -np.log2(mass[x]).mean()
    assert exact - 1e-4 < bits < exact + 0.01  # nearly constant in a cell: nearly tight


# -------------------------------------------------------------------------------------- known distributions
TOYS = [data.eight_gaussians, data.gaussian_grid, data.moons]


@pytest.mark.parametrize("make", TOYS)
def test_toy_density_integrates_to_one(make):
    line = torch.linspace(-6, 6, 241, dtype=torch.float64)[:-1] + 0.025  # midpoints of cells
    points = torch.cartesian_prod(line, line)
    log_prob = make().log_prob
    mass = sum(log_prob(part).exp().sum().item() for part in points.split(100_000)) * 0.05**2
    assert mass == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("make", TOYS)
def test_toy_samples_follow_their_density(make):
    toy, n = make(), 20_000
    samples = toy.sample(n, seed=0)
    assert samples.shape == (n, 2)
    assert samples.dtype == torch.float32
    # Expected counts of square cells by quadrature with 8 by 8 points each; cells with few are put together.
    edges, fine = np.linspace(-4.5, 4.5, 37), torch.linspace(-4.5, 4.5, 36 * 8 + 1, dtype=torch.float64)
    middle = fine[:-1] + (fine[1] - fine[0]) / 2
    p = torch.cat([toy.log_prob(part) for part in torch.cartesian_prod(middle, middle).split(50_000)]).exp()
    cells = p.reshape(36, 8, 36, 8).sum((1, 3)) * (fine[1] - fine[0]) ** 2
    expected = (n * cells / cells.sum()).numpy().ravel()
    counts = np.histogram2d(*samples.numpy().T, bins=[edges, edges])[0].ravel()
    few = expected < 10
    observed = np.append(counts[~few], counts[few].sum() + n - counts.sum())
    wanted = np.append(expected[~few], expected[few].sum())
    keep = wanted > 1
    chi, dof = ((observed - wanted)[keep] ** 2 / wanted[keep]).sum(), keep.sum() - 1
    assert abs(chi - dof) < 5 * math.sqrt(2 * dof)
    assert observed[~keep].sum() <= 5


@pytest.mark.parametrize("make", TOYS)
def test_toy_sampling_with_a_seed_leaves_the_global_state_alone(make):
    toy = make()
    torch.manual_seed(0)
    state, first = torch.get_rng_state(), toy.sample(10, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, toy.sample(10, seed=3))
    torch.manual_seed(3)
    assert torch.equal(first, toy.sample(10))
    assert not torch.equal(first, toy.sample(10))


@pytest.mark.parametrize("make", TOYS)
def test_toy_density_has_a_gradient_and_keeps_the_type(make):
    toy = make()
    x = toy.sample(20, seed=0).double().requires_grad_()
    log_prob = toy.log_prob(x)
    assert log_prob.dtype == torch.float64
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    assert torch.isfinite(gradient).all()
    assert toy.log_prob(x.detach().float()).dtype == torch.float32
    step = 1e-6 * torch.tensor([1.0, 0.0])
    difference = (toy.log_prob(x + step) - toy.log_prob(x - step)) / 2e-6
    torch.testing.assert_close(gradient[:, 0], difference, rtol=1e-4, atol=1e-4)


def test_mixture_is_scipys():
    x = np.random.default_rng(0).normal(size=(50, 2))
    means, weights = [[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]], [1, 2, 5]
    scales = [[1.0, 2.0], [0.5, 0.5], [0.1, 3.0]]
    parts = zip(weights, means, np.square(scales), strict=True)
    pdf = sum(w / 8 * stats.multivariate_normal(mean, variance).pdf(x) for w, mean, variance in parts)
    ours = data.mixture(means, scales=scales, weights=weights).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(ours, np.log(pdf), rtol=1e-12)
    line = data.mixture([-2.0, 1.0], scales=0.5)
    pdf = (stats.norm(-2, 0.5).pdf(x[:, 0]) + stats.norm(1, 0.5).pdf(x[:, 0])) / 2
    np.testing.assert_allclose(line.log_prob(torch.from_numpy(x[:, 0])), np.log(pdf), rtol=1e-12)
    assert line.sample(7).shape == (7,)


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.3])
def test_moons_are_an_integral_over_the_arc(scale):
    x = data.moons(scale=scale).sample(30, seed=0).double().numpy()

    def density(point, center, sign):
        def integrand(t):
            arc = center + sign * np.array([math.cos(t), math.sin(t)])
            return math.exp(-((point - arc) ** 2).sum() / (2 * scale**2)) / (2 * math.pi * scale**2) / math.pi

        nearest = math.atan2(*(sign * (point - center))[::-1])
        peak = [nearest] if 0 < nearest < math.pi else None
        return integrate.quad(integrand, 0, math.pi, points=peak, epsabs=1e-12)[0]

    shift = np.array([0.5, 0.25])
    expected = [math.log((density(p, -shift, 1) + density(p, shift, -1)) / 2) for p in x]
    np.testing.assert_allclose(data.moons(scale=scale).log_prob(torch.from_numpy(x)), expected, rtol=1e-9)


def test_moons_are_where_scikit_learn_puts_them():
    theirs = make_moons(20_000, noise=0.1, random_state=0)[0] - [0.5, 0.25]
    ours = data.moons().sample(20_000, seed=0).numpy()
    for axis in (0, 1):
        assert stats.ks_2samp(ours[:, axis], theirs[:, axis]).pvalue > 1e-6


def test_energies_are_those_of_the_paper():
    z = np.random.default_rng(0).uniform(-4, 4, size=(200, 2))
    z1, z2 = z.T
    w1, w2 = np.sin(2 * np.pi * z1 / 4), 3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2)
    w3 = 3 / (1 + np.exp(-(z1 - 1) / 0.3))
    paper = {
        1: 0.5 * ((np.hypot(z1, z2) - 2) / 0.4) ** 2
        - np.log(np.exp(-0.5 * ((z1 - 2) / 0.6) ** 2) + np.exp(-0.5 * ((z1 + 2) / 0.6) ** 2)),
        2: 0.5 * ((z2 - w1) / 0.4) ** 2,
        3: -np.log(np.exp(-0.5 * ((z2 - w1) / 0.35) ** 2) + np.exp(-0.5 * ((z2 - w1 + w2) / 0.35) ** 2)),
        4: -np.log(np.exp(-0.5 * ((z2 - w1) / 0.4) ** 2) + np.exp(-0.5 * ((z2 - w1 + w3) / 0.35) ** 2)),
    }
    for number, expected in paper.items():
        np.testing.assert_allclose(data.energy(torch.from_numpy(z), number), expected, rtol=1e-10)
    far = data.energy(torch.tensor([[0.0, 100.0]]), 3)
    assert torch.isfinite(far).all()
    with pytest.raises(ValueError, match="1 to 4, got 5"):
        data.energy(torch.zeros(1, 2), 5)


# -------------------------------------------------------------------------------------------------- sprites
def test_sprites_are_every_combination_once_and_all_different():
    images, factors = data.sprites()
    assert images.shape == (3 * 4 * 8 * 8 * 8, 1, 32, 32)
    assert images.dtype == torch.uint8
    assert set(images.unique().tolist()) == {0, 255}
    assert (factors.max(0).values + 1).tolist() == [3, 4, 8, 8, 8]
    assert len(factors.unique(dim=0)) == len(factors)
    assert len({image.numpy().tobytes() for image in images}) == len(images)
    border = torch.ones(32, 32, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert not images[:, 0, border].any()


def test_sprites_change_as_their_factors_say():
    images, factors = data.sprites(rotations=4, positions=4)
    mass = images[:, 0].double() / 255
    table = dict(zip(data.FACTORS, factors.T, strict=True))
    area = mass.sum((1, 2))
    x = (mass.sum(1) * torch.arange(32)).sum(1) / area
    y = (mass.sum(2) * torch.arange(32)).sum(1) / area
    shape = (3, 4, 4, 4, 4)
    assert (area.reshape(shape).diff(dim=1) > 0).all()
    assert (x.reshape(shape).diff(dim=3) > 3).all()
    assert (y.reshape(shape).diff(dim=4) > 3).all()
    # A quarter turn of the picture is a quarter turn of the factor; x and y change places.
    for k in range(0, len(images), 37):
        turned = torch.rot90(images[k, 0], -1)  # clockwise
        other = factors[k].clone()
        other[3], other[4] = 3 - table["y"][k], table["x"][k]
        matches = [r for r in range(4) if torch.equal(turned, images[index(other, r, shape), 0])]
        assert matches == [(table["rotation"][k].item() + 1) % 4]


def index(factors, rotation, shape):
    position = factors.tolist()
    position[2] = rotation
    return np.ravel_multi_index(position, shape)


# --------------------------------------------------------------------------------------------------- on a GPU
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_orders_draws_and_densities_are_those_of_the_cpu():
    images = torch.arange(256, dtype=torch.uint8).repeat(40).reshape(-1, 1, 4, 4)
    moved = images.cuda()
    for function in (data.binarize, data.dequantize):
        assert torch.equal(function(moved, seed=3).cpu(), function(images, seed=3))
        assert function(moved).device.type == "cuda"
    assert torch.equal((data.dequantize(moved).double() * 256).floor(), moved.double())
    batches = [data.Batches(x, batch_size=100, seed=1) for x in (moved, images)]
    assert all(torch.equal(a.cpu(), b) for a, b in zip(*batches, strict=True))
    for make in TOYS:
        toy = make()
        x = toy.sample(100, seed=0)
        torch.testing.assert_close(toy.log_prob(x.cuda()).cpu(), toy.log_prob(x), rtol=1e-3, atol=1e-3)
