import copy
import gzip
import hashlib
import http.server
import math
import threading
import urllib.error
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


# ------------------------------------------------------------------------------------------------------
# images
@pytest.fixture(scope="module")
def mnist():
    return data.load_images("mnist")


def test_mnist_is_the_original_in_the_original_order(mnist):
    directory = Path(dgm_utils.__file__).parent / "mnist"
    for part, images in (
        ("train", torch.cat([mnist.train.images, mnist.valid.images])),
        ("t10k", mnist.test[0]),
    ):
        raw = gzip.decompress((directory / f"{part}-images-idx3-ubyte.gz").read_bytes())
        expected = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
        assert images.dtype == torch.uint8
        assert np.array_equal(images.numpy(), expected)
        raw = gzip.decompress((directory / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        labels = torch.cat([mnist.train.labels, mnist.valid.labels]) if part == "train" else mnist.test.labels
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
    assert data._read_idx(path, (3,)).tolist() == [7, 8, 9]
    with pytest.raises(RuntimeError, match=r"labels.gz is damaged.*00000801.*4 values"):
        data._read_idx(path, (4,))
    path.write_bytes(damage(whole))
    with pytest.raises(RuntimeError, match=r"labels.gz is .*damaged"):
        data._read_idx(path, (3,))


class Server(http.server.BaseHTTPRequestHandler):
    """Serve ``files``; break off in the middle of the first answer for each name in ``broken``."""

    files, broken, ranges = {}, set(), []

    def do_GET(self):
        folder, _, name = self.path[1:].partition("/")
        if folder == "missing" or name not in self.files:
            return self.send_error(404)
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        body = b"wrong" if folder == "wrong" else self.files[name][start:]
        self.ranges.append((folder, name, start))
        self.send_response(200 if folder == "wrong" or start == 0 else 206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if name in self.broken:
            self.broken.remove(name)
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Put a small Fashion-MNIST (2 by 2 pixels) on a local server, in place of the real one."""
    rng = np.random.default_rng(0)
    images = {
        part: rng.integers(256, size=(n, 2, 2), dtype=np.uint8)
        for part, n in (("train", 10_020), ("t10k", 7))
    }
    files = {}
    for part, pixels in images.items():
        n = len(pixels).to_bytes(4, "big")
        two = (2).to_bytes(4, "big")
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(
            b"\0\0\x08\x03" + n + two + two + pixels.tobytes()
        )
        labels = (pixels[:, 0, 0] % 10).astype(np.uint8)
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(b"\0\0\x08\x01" + n + labels.tobytes())
    monkeypatch.setattr(Server, "files", files)
    monkeypatch.setattr(Server, "broken", set())
    monkeypatch.setattr(Server, "ranges", [])
    monkeypatch.setenv("DGM_DATA", str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    dataset = torchvision.datasets.FashionMNIST
    monkeypatch.setattr(dataset, "resources", [(f, hashlib.md5(b).hexdigest()) for f, b in files.items()])
    monkeypatch.setattr(dataset, "mirrors", [address + "missing/"])
    monkeypatch.setitem(data._TORCHVISION, "fashion_mnist", ("FashionMNIST", address + "good/"))
    yield images, address
    server.shutdown()


def assert_loaded(splits, images):
    assert splits.train.images.shape == (20, 1, 2, 2)
    assert np.array_equal(splits.valid.images[:, 0], images["train"][20:])
    assert np.array_equal(splits.test.images[:, 0], images["t10k"])
    assert np.array_equal(splits.test.labels, images["t10k"][:, 0, 0] % 10)


def test_download_takes_the_next_mirror_and_is_not_repeated(server, monkeypatch):
    assert_loaded(data.load_images("fashion_mnist"), server[0])
    monkeypatch.setattr(data, "urlopen", None)  # would raise if called
    assert_loaded(data.load_images("fashion_mnist"), server[0])


def test_download_goes_on_where_it_broke_off(server, tmp_path):
    Server.broken.add("train-images-idx3-ubyte.gz")
    with pytest.raises(RuntimeError, match=r"good.*broke off \d+ bytes before the end"):
        data.load_images("fashion_mnist")
    assert_loaded(data.load_images("fashion_mnist"), server[0])
    starts = [start for _, name, start in Server.ranges if name == "train-images-idx3-ubyte.gz"]
    assert starts == [0, len(Server.files["train-images-idx3-ubyte.gz"]) // 2]
    assert not list(tmp_path.rglob("*.part"))


def test_download_refuses_a_wrong_file_and_takes_the_right_one(server, monkeypatch):
    images, address = server
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address + "wrong/"])
    assert_loaded(data.load_images("fashion_mnist"), images)
    assert {folder for folder, *_ in Server.ranges} == {"wrong", "good"}


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_without_a_network_the_error_says_what_and_where(name, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(data, "urlopen", no_network)
    monkeypatch.setenv("DGM_DATA", str(tmp_path / "here"))
    with pytest.raises(RuntimeError) as raised:
        data.load_images(name)
    for part in (name, str(tmp_path / "here"), "no route", ".gz", "DGM_DATA", "'mnist'", "need no network"):
        assert part in str(raised.value)


# -----------------------------------------------------------------------------------------------------
# batches
X, Y = torch.arange(20).reshape(10, 2), torch.arange(10)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 11])
def test_batches_are_those_of_a_dataloader(batch_size, drop_last):
    loader = DataLoader(TensorDataset(X, Y), batch_size=batch_size, drop_last=drop_last)
    if len(loader) == 0:
        with pytest.raises(ValueError, match="11 with drop_last leaves no batch of 10"):
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


def test_all_orders_are_equally_likely():
    batches = data.Batches(torch.arange(3), batch_size=3, seed=1)
    counts = np.zeros(9).reshape(3, 3)
    orders = {}
    for _ in range(3000):
        order = tuple(next(iter(batches)).tolist())
        orders[order] = orders.get(order, 0) + 1
        counts[range(3), order] += 1
    assert stats.chisquare(list(orders.values())).pvalue > 1e-6
    assert len(orders) == 6


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


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("used", range(9))  # 4 batches an epoch: every position of two epochs, and the ends
def test_iterating_goes_on_after_load_bit_for_bit(seed, used, tmp_path):
    def consume(batches, epochs, log, stop=None):
        for _ in range(epochs):
            for x, y in batches:
                log.append((x.tolist(), y.tolist()))
                if len(log) == stop:
                    return batches.state_dict(), torch.get_rng_state()
        return batches.state_dict(), torch.get_rng_state()

    def make():
        return data.Batches(X, Y, batch_size=3, seed=seed, transform=lambda x: x + torch.rand(x.shape))

    torch.manual_seed(0)
    whole, head = [], []
    consume(make(), 3, whole)
    torch.manual_seed(0)
    batches = make()
    saved = (batches.state_dict(), torch.get_rng_state()) if used == 0 else consume(batches, 3, head, used)
    torch.save(saved, tmp_path / "state.pt")
    state, random = torch.load(tmp_path / "state.pt", weights_only=True)

    torch.manual_seed(99)
    again = make()
    list(again)  # it may have been used before
    again.load_state_dict(state)
    torch.set_rng_state(random)
    tail = []
    # After the last batch of an epoch that epoch still has to end: its first pass then yields nothing.
    passes = 3 if used == 0 else 3 - (used - 1) // 4
    consume(again, passes, tail)
    assert head + tail == whole


def test_a_state_after_a_whole_pass_starts_a_new_epoch():
    batches = data.Batches(Y, batch_size=3, seed=0)
    list(batches)
    state = copy.deepcopy(batches.state_dict())
    second = [batch.tolist() for batch in batches]
    other = data.Batches(Y, batch_size=3, seed=0)
    other.load_state_dict(state)
    assert [batch.tolist() for batch in other] == second


def test_a_new_iterator_starts_a_new_epoch_after_a_break():
    batches = data.Batches(Y, batch_size=3, seed=0)
    next(iter(batches))
    assert sum(len(batch) for batch in batches) == 10


def test_a_state_of_other_batches_is_refused():
    state = data.Batches(Y, batch_size=3, seed=0).state_dict()
    with pytest.raises(ValueError, match=r"\(10, 4, True\), got \(10, 3, True\)"):
        data.Batches(Y, batch_size=4, seed=0).load_state_dict(state)
    with pytest.raises(ValueError, match="seeded"):
        data.Batches(Y, batch_size=3).load_state_dict(state)
    started = data.Batches(Y, batch_size=3, seed=0)
    next(iter(started))
    with pytest.raises(ValueError, match=r"\(9, 3, True\), got \(10, 3, True\)"):
        data.Batches(Y[:9], batch_size=3, seed=0).load_state_dict(started.state_dict())


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ((), {"batch_size": 3}, r"got lengths \[\]"),
        ((X, Y[:4]), {"batch_size": 3}, r"got lengths \[10, 4\]"),
        ((Y[:0],), {"batch_size": 3}, r"got lengths \[0\]"),
        ((Y,), {"batch_size": 0}, "at least 1, got 0"),
        ((Y,), {"batch_size": 2.5}, "got 2.5"),
        ((Y, torch.empty(10, device="meta")), {"batch_size": 3}, r"\['cpu', 'meta'\]"),
    ],
)
def test_bad_batches_are_refused(tensors, options, message):
    with pytest.raises(ValueError, match=message):
        data.Batches(*tensors, **options)


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
    with pytest.raises(TypeError, match=r"uint8.*0\.\.255.*float32.*0\.0\.\.1\.0"):
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


# ------------------------------------------------------------------------------------- known distributions
@pytest.mark.parametrize("name", data.TOYS)
def test_toy_density_integrates_to_one(name):
    line = torch.linspace(-6, 6, 241, dtype=torch.float64)[:-1] + 0.025  # midpoints of cells
    points = torch.cartesian_prod(line, line)
    log_prob = data.TOYS[name]().log_prob
    mass = sum(log_prob(part).exp().sum().item() for part in points.split(100_000)) * 0.05**2
    assert mass == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("name", data.TOYS)
def test_toy_samples_follow_their_density(name):
    toy, n = data.TOYS[name](), 20_000
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
    if toy.entropy is not None:
        assert -toy.log_prob(samples).mean().item() == pytest.approx(toy.entropy)


@pytest.mark.parametrize("name", data.TOYS)
def test_toy_sampling_with_a_seed_leaves_the_global_state_alone(name):
    toy = data.TOYS[name]()
    torch.manual_seed(0)
    state, first = torch.get_rng_state(), toy.sample(10, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, toy.sample(10, seed=3))
    torch.manual_seed(3)
    assert torch.equal(first, toy.sample(10))
    assert not torch.equal(first, toy.sample(10))


@pytest.mark.parametrize("name", sorted(set(data.TOYS) - {"checkerboard"}))
def test_toy_density_has_a_gradient_and_keeps_the_type(name):
    toy = data.TOYS[name]()
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
    means, scales, weights = (
        [[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]],
        [[1.0, 2.0], [0.5, 0.5], [0.1, 3.0]],
        [1, 2, 5],
    )
    pdf = sum(
        w / 8 * stats.multivariate_normal(m, np.diag(s) ** 2).pdf(x)
        for m, s, w in zip(means, np.array(scales), weights, strict=True)
    )
    ours = data.mixture(means, scales, weights).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(ours, np.log(pdf), rtol=1e-12)
    line = data.mixture([-2.0, 1.0], 0.5)
    pdf = (stats.norm(-2, 0.5).pdf(x[:, 0]) + stats.norm(1, 0.5).pdf(x[:, 0])) / 2
    np.testing.assert_allclose(line.log_prob(torch.from_numpy(x[:, 0])), np.log(pdf), rtol=1e-12)
    assert line.sample(7).shape == (7,)


def test_rings_are_a_noncentral_chi_square_along_the_radius():
    toy = data.rings(radii=(1.5,), scale=0.2)
    x = torch.from_numpy(np.random.default_rng(0).uniform(-2, 2, size=(100, 2)))
    square = (
        x.square().sum(1).numpy() / 0.2**2
    )  # |x|^2 / s^2 is non-central chi-square with 2 degrees of freedom
    pdf = stats.ncx2(2, (1.5 / 0.2) ** 2).pdf(square) / (math.pi * 0.2**2)
    np.testing.assert_allclose(toy.log_prob(x), np.log(pdf), rtol=1e-9)
    assert torch.isfinite(toy.log_prob(torch.zeros(1, 2)))


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
    w1, w2, w3 = (
        np.sin(2 * np.pi * z1 / 4),
        3 * np.exp(-0.5 * ((z1 - 1) / 0.6) ** 2),
        3 / (1 + np.exp(-(z1 - 1) / 0.3)),
    )
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


# --------------------------------------------------------------------------------------- sprites, waveform
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


def test_waveform_entropy_by_brute_force():
    # Eight levels, four samples: all 4,096 waves, each with its probability.
    wave = data.waveform(4, period=2, noise=0.7, levels=8)
    every = torch.cartesian_prod(*[torch.arange(8)] * 4)
    p = wave.log_prob(every).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.special.entr(p).sum().item() == pytest.approx(wave.entropy, abs=1e-12)
    samples = wave.sample(50_000, seed=0)
    counts = torch.bincount((samples * torch.tensor([512, 64, 8, 1])).sum(1), minlength=4096).numpy()
    assert counts[p.numpy() == 0].sum() == 0
    often = p.numpy() * 50_000 > 5
    expected = 50_000 * p.numpy()[often]
    chi = ((counts[often] - expected) ** 2 / expected).sum()
    assert abs(chi - often.sum()) < 5 * math.sqrt(2 * often.sum())


def test_waveform_entropy_by_monte_carlo():
    wave = data.waveform(512)
    x = wave.sample(200, seed=0)
    assert x.shape == (200, 512)
    assert x.dtype == torch.int64
    log_prob = wave.log_prob(x)
    error = log_prob.std().item() / math.sqrt(len(x))
    assert abs(-log_prob.mean().item() - wave.entropy) < 5 * error
    # By the definition of the noise: a Gaussian of width 4 on the integers -16..16.
    q = stats.norm(0, 4).pdf(np.arange(-16, 17))
    assert wave.entropy / 512 == pytest.approx(stats.entropy(q / q.sum()), abs=1e-12)
    # The floor is far below what a model without a past can reach, and a model of the last sample only.
    marginal = np.bincount(x.numpy().ravel(), minlength=256) / x.numel()
    assert stats.entropy(marginal) > wave.entropy / 512 + 1.5


def test_waveform_looks_back_one_period_and_one_sample():
    wave = data.waveform(200)
    x = wave.sample(1, seed=0)
    for lag in range(1, 40):
        other = x.clone()
        other[0, 150 - lag] += 1
        alone = wave.log_prob(other[:, :150]) - wave.log_prob(x[:, :150])  # the change up to there
        change = wave.log_prob(other[:, :151]) - wave.log_prob(x[:, :151])
        if lag not in (32, 33):
            assert change.item() == pytest.approx(alone.item())
    assert wave.sample(3, seed=0).min() >= 1
    assert wave.log_prob(torch.full((1, 200), 255)).item() == -math.inf


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
    next(iter(batches[0]))
    batches[1].load_state_dict(batches[0].state_dict())
    assert len(list(batches[1])) == len(batches[0]) - 1
    for make in data.TOYS.values():
        toy = make()
        x = toy.sample(100, seed=0)
        torch.testing.assert_close(toy.log_prob(x.cuda()).cpu(), toy.log_prob(x), rtol=1e-3, atol=1e-3)
    wave = data.waveform(64)
    x = wave.sample(3, seed=0)
    torch.testing.assert_close(wave.log_prob(x.cuda()).cpu(), wave.log_prob(x))
