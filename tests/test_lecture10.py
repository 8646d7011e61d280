"""What lecture 10 claims: perfect discriminators, missing modes, transport and its dual, clipped critics."""

import itertools
import json
import math
import re

import numpy as np
import ot
import pytest
import torch
from scipy import optimize, special, stats
from torch.nn import functional as F

from dgm_utils import metrics, nets, weights
from lectures.lecture10 import figures, trained_models
from lectures.lecture10.figures import LOG_2
from lectures.lecture10.trained_models import S9, S10
from tests.decks import number, table_rows

SEEDS = range(5)

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


def jsd(first, second):
    """Return the JSD of two probability vectors in nats."""
    middle = (first + second) / 2
    return (special.rel_entr(first, middle).sum() + special.rel_entr(second, middle).sum()) / 2


def tv(first, second):
    return np.abs(first - second).sum() / 2


def distances(x, y):
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def clouds(seed, n=7, m=5, dims=4):
    """Return two clouds of unequal size in four dimensions."""
    torch.manual_seed(seed)
    return torch.randn(n, dims), 0.7 * torch.randn(m, dims) + 0.8


# --- Vanishing gradients ---------------------------------------------------------------------------------


def test_the_image_of_fewer_dimensions_is_covered_by_less_and_less_volume():
    """The proof's covering, a network from 2 to 4 dimensions: it covers, and its volume falls."""
    torch.manual_seed(0)
    d, m, network = 2, 4, nets.mlp(2, 8, 4, activation=torch.nn.Tanh)
    bound = math.prod(layer.weight.norm().item() for layer in network if hasattr(layer, "weight"))
    volumes = []  # of cubes around the balls that the cells really need
    for cells in (4, 8, 16):
        corner = torch.cartesian_prod(*[torch.arange(cells) / cells] * d)
        inside = corner[:, None] + torch.rand(len(corner), 50, d) / cells
        with torch.no_grad():
            away = (network(inside) - network(corner)[:, None]).norm(dim=2).amax().item()
        assert away <= bound * math.sqrt(d) / cells
        volumes.append(cells**d * (2 * away) ** m)
    ratios = np.array(volumes[1:]) / volumes[:-1]
    assert ratios == pytest.approx([2.0 ** (d - m)] * 2, rel=0.4)


def test_the_drawn_discriminator_is_flat_and_right_around_both_arcs(printed):
    values, step = figures.perfect_discriminator(), figures.CELL
    axis = np.linspace(-figures.REACH, figures.REACH, figures.PIXELS)
    points = np.stack(np.meshgrid(axis, axis), axis=2)
    for arc, expected in zip(figures.arcs(), (1.0, 0.0), strict=True):
        away = np.min([np.linalg.norm(points - point, axis=2) for point in arc], axis=0)
        inside = away < figures.gap() / 4 - 4 * step  # the grid's and the arc's own resolution
        inside &= np.abs(points).max(axis=2) < figures.REACH - figures.gap() / 4
        assert inside.sum() > 500 and np.abs(values[inside] - expected).max() < 1e-5
    assert ((values > 0.1) & (values < 0.9)).sum() > 1000
    assert printed["perfect_gap"] == f"{figures.gap():.2f}" == "2.00"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_blurred_indicator_in_four_dimensions(seed):
    """Part (b) of the theorem: whatever the bump weighs inside its ball, near data D is 1, near samples 0."""
    real, fake = clouds(seed)
    gap = distances(real, fake).min()
    offsets = torch.randn(4000, 4)
    offsets *= gap / 4 * torch.rand(4000, 1) / offsets.norm(dim=1, keepdim=True)
    for cloud, expected in ((real, True), (fake, False)):
        direction = F.normalize(torch.randn_like(cloud), dim=1)
        near = cloud + 0.999 * gap / 4 * direction
        seen = near[:, None] - offsets  # what the average at `near` looks at
        indicator = distances(seen.flatten(0, 1), real).amin(dim=1) < gap / 2
        assert (indicator == expected).all()


def test_jsd_is_log_2_iff_the_supports_are_disjoint():
    generator = np.random.default_rng(0)
    for _ in range(50):
        first, second = generator.dirichlet(np.ones(6), 2)
        assert jsd(first, second) < LOG_2 - 1e-6
        apart = np.r_[first, np.zeros(6)], np.r_[np.zeros(6), second]
        assert jsd(*apart) == pytest.approx(LOG_2, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_the_minimax_loss_is_bounded(seed):
    """M epsilon / (1 - epsilon), in four dimensions, for discriminators that are better and better."""
    torch.manual_seed(seed)
    weight = torch.randn(4, 3, requires_grad=True)
    z = torch.randn(400, 3)
    network = nets.mlp(4, 16, 1, activation=torch.nn.Tanh)
    gradients = []
    for offset in (1.0, 3.0, 6.0):
        x = z @ weight.T
        # d(W z)/dW has spectral norm |z|: M is the root of the mean of its square.
        largest = z.square().sum(dim=1).mean().sqrt()
        inner = x.detach().requires_grad_()
        probability = (network(inner).squeeze(1) - offset).sigmoid()
        (slope,) = torch.autograd.grad(probability.sum(), inner)
        epsilon = max(probability.max().item(), slope.norm(dim=1).max().item())
        loss = S9.minimax_loss(network(x).squeeze(1) - offset)
        (gradient,) = torch.autograd.grad(loss, weight)
        assert epsilon < 1 and gradient.norm() <= largest * epsilon / (1 - epsilon)
        gradients.append(gradient.norm().item())
    assert gradients[0] > 5 * gradients[2]


def test_two_lines_as_stored(printed):
    """Below its bound at every kept step; minimax vanishes, the non-saturating gradient does not."""
    traces = figures.trained()["vanishing"]
    assert len(traces) == trained_models.SEEDS == 5
    steps, minimax, non_saturating, epsilon = np.moveaxis(traces, 2, 0)
    known = epsilon < 1
    assert (np.abs(minimax) <= epsilon / (1 - epsilon) + 1e-6)[known].all()
    assert (minimax[:, -1] > 0).all() and (non_saturating[:, -1] > 0).all()  # descent brings theta down
    assert (minimax.max(axis=1) > 100 * minimax[:, -1]).all()
    assert (non_saturating[:, steps[0] > 100] > 1).all()
    assert (minimax[:, -1] < 1e-3 * minimax.max(axis=1)).all()  # more than three powers of ten
    near, far = np.abs(figures.trained()["vanishing_elsewhere"][..., 2])
    assert far.max() < non_saturating[:, -1].min() and non_saturating[:, -1].max() < near.min()
    assert list(map(number, printed["vanishing_near"])) == pytest.approx([near.min(), near.max()], abs=0.51)
    assert list(map(number, printed["vanishing_far"])) == pytest.approx([far.min(), far.max()], abs=0.051)
    low, high = map(number, printed["vanishing_minimax"])
    assert [low, high] == pytest.approx([1e4 * minimax[:, -1].min(), 1e4 * minimax[:, -1].max()], abs=0.051)
    assert number(printed["vanishing_saturating"][1]) == pytest.approx(non_saturating[:, -1].max(), abs=0.051)


def test_line_gradients_are_those_of_the_losses():
    """By finite differences in theta, with the losses of seminar 9."""
    torch.manual_seed(0)
    network = trained_models.scalar_network(2, 8, activation=torch.nn.Tanh)
    t = (torch.arange(512) + 0.5) / 512

    def value(theta, loss):
        with torch.no_grad():
            return loss(network(torch.stack([torch.full_like(t, theta), t], dim=1))).item()

    found = trained_models.line_gradients(network)
    for loss, gradient in zip((S9.minimax_loss, S9.non_saturating_loss), found, strict=False):
        ends = [value(trained_models.SHIFT + step, loss) for step in (1e-5, -1e-5)]
        assert gradient == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_a_ratio_of_independent_normals_is_cauchy():
    draws = np.random.default_rng(0).standard_normal((2, 100_000))
    ratio = draws[0] / draws[1]
    assert stats.kstest(ratio, "cauchy").pvalue > 0.01 > stats.kstest(ratio, "t", (3,)).pvalue


def test_jsd_of_normals(printed):
    """Against the known values; the plateau; the numbers on the slide."""
    known = {0.5: 0.0303113, 1: 0.1114215, 2: 0.3368308, 3: 0.5267773, 4: 0.6327202, 6: 0.6892979}
    for shift, value in known.items():
        assert figures.jsd_of_normals(shift) == pytest.approx(value, abs=1e-6)
        assert figures.jsd_of_normals(3 * shift, 3.0) == pytest.approx(value, abs=1e-6)
    assert [number(cell) for cell in printed["jsd_normals"]] == [0.337, 0.633, 0.689]
    ends = [figures.jsd_of_normals(6 + step) for step in (0.05, -0.05)]
    assert number(printed["jsd_slope"]) == pytest.approx((ends[0] - ends[1]) / 0.1, abs=6e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_blurred_jsd_is_bounded_by_w1(seed):
    """For clouds on the line, by quadrature: TV <= W1 / (sigma sqrt(2 pi)), JSD <= log 2 times that."""
    generator = np.random.default_rng(seed)
    x, y = generator.normal(0, 1, 6), generator.normal(0.5, 1, 6)
    grid = np.linspace(-30, 30, 20_001)
    w1 = np.abs(np.sort(x) - np.sort(y)).mean()
    for sigma in (0.3, 1.0, 3.0):
        p, q = (
            (stats.norm.pdf(grid[:, None], cloud, sigma).mean(axis=1) + 1e-300) * 60 / 20_000
            for cloud in (x, y)
        )
        bound = w1 / (sigma * math.sqrt(2 * math.pi))
        assert tv(p, q) <= min(1, bound) + 1e-9 and jsd(p, q) <= LOG_2 * bound + 1e-9
    near = figures.jsd_of_normals(1e-2)
    assert near < LOG_2 * 1e-2 / math.sqrt(2 * math.pi)


# --- Mode collapse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [8, 25])
def test_what_missing_modes_cost(modes, printed):
    for k in range(1, modes + 1):
        real, fake = np.full(modes, 1 / modes), np.r_[np.full(k, 1 / k), np.zeros(modes - k)]
        reverse, middle = figures.missing_modes(np.array(float(k)), np.array(float(modes)))
        assert reverse == pytest.approx(special.rel_entr(fake, real).sum(), abs=1e-12)
        assert middle == pytest.approx(jsd(real, fake), abs=1e-12)
        assert np.isinf(special.rel_entr(real, fake).sum()) == (k < modes)
        formula = (math.log(4 * modes / (modes + k)) + k / modes * math.log(k / (modes + k))) / 2
        assert middle == pytest.approx(formula, abs=1e-12)
    assert printed["missing_one"] == ["0.134", "0.045"]
    reverse, middle = figures.missing_modes(np.array(9999.0), np.array(10_000.0))
    assert [10_000 * reverse, 10_000 * middle] == pytest.approx([1, LOG_2 / 2], rel=1e-3)


def test_one_gaussian_jumps_from_covering_to_choosing(printed):
    flip = figures.flip()
    assert printed["fit_flip"] == f"{flip:.1f}"
    for apart, chooses in ((flip - 0.3, False), (flip + 0.3, True)):
        both = min(figures.divergence("jsd", 0, scale, apart) for scale in np.linspace(2, 7, 101))
        one = figures.divergence("jsd", apart, 1.0, apart)
        assert (one < both) is chooses
    mean, scale = figures.best_normal("forward")
    assert mean == pytest.approx(0, abs=1e-3) and scale**2 == pytest.approx(1 + figures.APART**2, rel=1e-3)
    for name in ("jsd", "reverse"):
        mean, scale = figures.best_normal(name)
        assert abs(mean) == pytest.approx(figures.APART, abs=0.01) and scale == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_answer_is_a_point_and_the_game_has_a_saddle(seed):
    generator = np.random.default_rng(seed)
    pi = generator.dirichlet(np.ones(9))
    lowest = []
    for _ in range(300):
        d, p = generator.uniform(0.02, 0.98, 9), generator.dirichlet(np.ones(9))
        point = np.eye(9)[d.argmax()]
        assert point @ np.log(1 - d) <= p @ np.log(1 - d) and -point @ np.log(d) <= -p @ np.log(d)
        value, best = pi @ np.log(d), pi / (pi + p)
        at_best = pi @ np.log(best) + p @ np.log(1 - best)
        assert at_best == pytest.approx(2 * jsd(pi, p) - math.log(4))  # sup_D V(p, D), at D*
        assert value + p @ np.log(1 - d) <= at_best + 1e-12
        assert value + pi @ np.log(1 - d) <= -math.log(4) + 1e-12  # V(pi, D)
        lowest.append(value + np.log(1 - d.max()))  # min_p V(p, D)
    assert max(lowest) <= -math.log(4) + 1e-12


def test_packing_separates_a_missing_part_from_unevenness(printed):
    """TV of k packed samples by enumeration over cells of [0, 1]."""
    cells = 10
    pi = np.full(cells, 1 / cells)
    laws = {
        "missing": np.r_[np.full(8, 1 / 8), np.zeros(2)],
        "uneven": np.r_[np.full(5, 1.4 / cells), np.full(5, 0.6 / cells)],
    }
    for name, law in laws.items():
        for k, cell in zip((1, 2, 4), printed[f"packed_{name}"], strict=True):
            packed = [np.array([math.prod(c) for c in itertools.product(v, repeat=k)]) for v in (pi, law)]
            assert figures.packed(name, k) == pytest.approx(tv(*packed), abs=1e-12)
            assert number(cell) == pytest.approx(tv(*packed), abs=0.0051)
    for a in (0.05, 0.2, 0.45):
        assert figures.packed("missing", 2, a) == pytest.approx(2 * a - a**2)
        assert figures.packed("uneven", 2, a) == pytest.approx(a + a**2)


def test_the_ring_as_stored(printed):
    """Ten moves of the generator for one of the discriminator: hardly a mode; one to one: nearly all."""
    arrays = figures.trained()
    near = 100 * arrays["ring_10_modes"][:, -1, 1]
    assert list(map(number, printed["ring_near"])) == pytest.approx([near.min(), near.max()], abs=0.51)
    angle = np.arange(8) * np.pi / 4
    modes = trained_models.RING["radius"] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    away = np.linalg.norm(arrays["ring_10"][:, :, None] - modes, axis=3).min(axis=2)
    shares = (away < trained_models.RADIUS).mean(axis=1)  # of the drawn samples, panel by panel
    assert shares == pytest.approx(arrays["ring_10_modes"][0, :, 1], abs=0.1)
    assert (shares < 0.02).sum() >= 3 and shares.max() < 0.7  # beside the data in half of the panels
    greedy, even = (arrays[f"ring_{moves}_modes"][..., 0] for moves in (10, 1))
    assert greedy.shape == even.shape == (5, 6)
    assert greedy.max() <= 2 and even[:, -1].min() >= 6
    assert printed["ring_greedy"] == [f"{greedy[:, -1].min():.0f}", f"{greedy[:, -1].max():.0f}"]
    assert printed["ring_even"] == [f"{even[:, -1].min():.0f}", f"{even[:, -1].max():.0f}"]
    pictures = arrays["ring_10"]
    centres = pictures.mean(axis=1)
    spread = pictures.std(axis=1).max()
    moved = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    assert spread < 0.5 and moved.max() > 1.5  # one place at a time, and another one later


# --- DCGAN -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 2, 1), (3, 2, 1), (5, 3, 2)])
def test_a_transposed_convolution_is_the_transpose(kernel, stride, padding):
    torch.manual_seed(0)
    size = 4
    weight = torch.randn(1, 1, kernel)
    outputs = (size - 1) * stride - 2 * padding + kernel
    y = torch.randn(1, 1, size)
    x = F.conv_transpose1d(y, weight, stride=stride, padding=padding)
    assert x.shape[-1] == outputs
    assert (kernel, stride, padding) != (4, 2, 1) or outputs == 2 * size
    basis = torch.eye(outputs)[:, None]
    A = F.conv1d(basis, weight, stride=stride, padding=padding).squeeze(1).T  # (size, outputs)
    assert torch.allclose(x.flatten(), A.T @ y.flatten())
    assert all(
        A[i, j] == (weight[0, 0, j - stride * i + padding] if 0 <= j - stride * i + padding < kernel else 0)
        for i in range(size)
        for j in range(outputs)
    )
    counts = F.conv_transpose1d(
        torch.ones(1, 1, size), torch.ones(1, 1, kernel), stride=stride, padding=padding
    )
    assert figures.contributions(size, kernel, stride, padding).tolist() == counts.flatten().tolist()
    inner = counts.flatten()[kernel - padding : -(kernel - padding)]
    assert (len(inner.unique()) == 1) is (kernel % stride == 0)


def test_the_drawn_architecture_is_that_of_seminar_10():
    drawn = [(32, 7, 7), (16, 14, 14), (1, 28, 28)]
    networks = {
        S10.dcgan_generator(28, 16, 64): (torch.randn(2, 64), drawn),
        S10.dcgan_discriminator(28, 16, "batch"): (torch.randn(2, 1, 28, 28), [*drawn[1::-1], ()]),
    }
    for network, (x, expected) in networks.items():
        shapes = []
        for layer in network.eval():
            x = layer(x)
            if x.ndim != 2 and tuple(x.shape[1:]) not in shapes:
                shapes.append(tuple(x.shape[1:]))
        assert shapes == expected


def test_the_samples_as_stored(printed):
    """The stored bytes are those of the shipped weights, and the numbers stand in their files."""
    arrays = figures.trained()
    torch.set_default_dtype(torch.float32)  # as stored; the fixture puts back what was there
    for name, file in trained_models.SHIPPED.items():
        stored = arrays[f"shipped_{name}"]
        assert stored.shape == (trained_models.SHIPPED_SAMPLES, 28, 28)
        generator = S9.Generator(S10.dcgan_generator(28, trained_models.WIDTH, trained_models.CODES), 64)
        weights.load(generator, file)
        torch.manual_seed(0)
        drawn = 255 * (generator.sample(len(stored))[:, 0] + 1) / 2
        assert np.abs(drawn.numpy() - stored).max() < 1.5
        assert 0.05 < (stored > 127).mean() < 0.3 and stored.std(axis=0).max() > 60  # ink; not one picture
        facts, place = weights.facts(file), list(trained_models.SHIPPED).index(name)
        assert number(printed["shipped_fid"][place]) == pytest.approx(facts["fid"], abs=0.51)
        assert number(printed["shipped_seconds"][place]) == pytest.approx(facts["seconds"], abs=0.51)
    five = weights.facts("seminar10-seeds")
    assert list(map(number, printed["seeds_fid"])) == pytest.approx(
        [five["fid_min"], five["fid_max"]], abs=0.051
    )
    floors = arrays["shipped_floors"]
    assert list(map(number, printed["floors_fid"])) == pytest.approx(floors.tolist(), abs=0.051)
    assert floors[0] < five["fid_min"] / 5 and floors[1] < weights.facts("seminar10-dcgan")["fid"] / 5


# --- Transport -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_both_programmes_agree_and_give_a_critic(seed):
    """Duality, complementary slackness, one 1-Lipschitz function; POT; four dimensions, 7 and 5 points."""
    real, fake = clouds(seed)
    cost = distances(real, fake)
    primal, plan = S10.transport_plan(cost)
    value, u, v = S10.transport_dual(cost)
    masses = np.full(7, 1 / 7), np.full(5, 1 / 5)
    assert primal == pytest.approx(ot.emd2(*masses, cost.numpy()), abs=1e-9)
    assert value == pytest.approx(primal, abs=1e-9)
    assert (u[:, None] + v <= cost + 1e-9).all()
    assert torch.allclose((u[:, None] + v)[plan > 1e-9], cost[plan > 1e-9])
    assert (plan > 1e-9).sum() <= 7 + 5 - 1

    def critic(x):
        return (distances(x, fake) - v).amin(dim=1)

    assert (critic(real).mean() - critic(fake).mean()).item() == pytest.approx(primal, abs=1e-9)
    x, y = torch.randn(2, 2000, 4)
    assert ((critic(x) - critic(y)).abs() <= (x - y).norm(dim=1) + 1e-12).all()
    drop = critic(real)[:, None] - critic(fake)
    assert torch.allclose(drop[plan > 1e-9], cost[plan > 1e-9])


def test_the_drawn_plan_and_critic(printed):
    value, plan = figures.optimal_plan()
    masses = np.full(8, 1 / 8)
    assert value == pytest.approx(ot.emd2(masses, masses, figures.cost().numpy()), abs=1e-9)
    assert value == pytest.approx(metrics.wasserstein(*figures.two_clouds()), abs=1e-9)
    assert printed["plan_cost"] == printed["dual_value"] == f"{value:.3f}"
    independent = (np.outer(masses, masses) * figures.cost().numpy()).sum()
    assert printed["plan_independent"] == f"{independent:.3f}" and independent > 1.5 * value
    real, fake = (points.numpy() for points in figures.two_clouds())
    drop = figures.critic(real)[:, None] - figures.critic(fake)
    used = plan > 1e-9
    assert drop[used] == pytest.approx(figures.cost().numpy()[used], abs=1e-9)


def test_in_one_dimension_sort(printed):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 40), rng.normal(1, 2, 40)
    expected = stats.wasserstein_distance(x, y)
    assert np.abs(np.sort(x) - np.sort(y)).mean() == pytest.approx(expected)
    cost = torch.as_tensor(np.abs(x[:, None] - y))
    assert S10.transport_plan(cost)[0] == pytest.approx(expected, abs=1e-9)
    u = (np.arange(20_000) + 0.5) / 20_000
    grid = np.linspace(-8, 10, 200_001)
    quantiles = [np.interp(u, cdf, grid) for cdf in figures.line_cdfs(grid)]
    by_quantiles = np.abs(quantiles[0] - quantiles[1]).mean()
    assert figures.line_w1() == pytest.approx(by_quantiles, abs=2e-3)
    assert number(printed["area_cost"]) == pytest.approx(by_quantiles, abs=2e-3)
    first, second = figures.line_cdfs(grid)  # the critic of slope sign(F_p - F_pi) attains it
    step = grid[1] - grid[0]
    critic = np.cumsum(np.sign((second - first).round(9))) * step
    gain = (critic[1:] * np.diff(first)).sum() - (critic[1:] * np.diff(second)).sum()
    assert gain == pytest.approx(by_quantiles, abs=5e-3)


def test_two_lines():
    """W1 is the shift, to what a grid of the lines says; JSD does not see it."""
    t = torch.linspace(0, 1, 60)
    for theta in (0.1, 0.7, 2.0):
        real, fake = (torch.stack([torch.full_like(t, at), t], dim=1) for at in (0.0, theta))
        assert metrics.wasserstein(real, fake) == pytest.approx(theta, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_inequalities_between_the_distances(seed):
    rng = np.random.default_rng(seed)
    for sharpness in (0.1, 1.0, 10.0):
        p, q = rng.dirichlet(np.full(8, sharpness), 2)
        points = rng.normal(size=(8, 4))
        cost = np.linalg.norm(points[:, None] - points, axis=2)
        w1, t = ot.emd2(p, q, cost), tv(p, q)
        assert w1 <= cost.max() * t + 1e-9
        assert t**2 <= special.rel_entr(p, q).sum() / 2 + 1e-12
        assert t**2 / 2 - 1e-12 <= jsd(p, q) <= LOG_2 * t + 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_w1_is_a_metric_and_plans_can_be_glued(seed):
    x, y = clouds(seed)
    z = clouds(seed + 50)[0] - 0.5
    first, second, third = (distances(a, b) for a, b in ((x, y), (y, z), (x, z)))
    (one, plan), (two, other) = S10.transport_plan(first), S10.transport_plan(second)
    glued = plan @ other * len(y)  # b_j = 1 / M
    assert torch.allclose(glued.sum(dim=1), torch.full((7,), 1 / 7))
    assert torch.allclose(glued.sum(dim=0), torch.full((7,), 1 / 7))
    assert S10.transport_plan(third)[0] <= (glued * third).sum() + 1e-9 <= one + two + 2e-9
    assert S10.transport_plan(first.T)[0] == pytest.approx(one, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_w1_is_lipschitz_in_the_generator(seed):
    """|W1(theta) - W1(theta')| <= W1(p, p') <= E |G(z) - G'(z)|, for a network into four dimensions."""
    torch.manual_seed(seed)
    real, z = torch.randn(40, 4), torch.randn(40, 2)
    network = nets.mlp(2, 16, 4, activation=torch.nn.Tanh)
    with torch.no_grad():
        before = network(z)
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        after = network(z)
    change = abs(metrics.wasserstein(real, before) - metrics.wasserstein(real, after))
    between, coupled = metrics.wasserstein(before, after), (before - after).norm(dim=1).mean().item()
    assert change <= between + 1e-9 and between <= coupled + 1e-9


def slack_potentials(cost, plan):
    """Return optimal u whose constraints are strict wherever no mass moves: one partner for each sample."""
    n, m = cost.shape
    used = (plan > 1e-9).numpy()
    rows = np.zeros((n * m, n + m + 1))  # u, v, and the slack t that is maximised
    for (i, j), moved in np.ndenumerate(used):
        rows[i * m + j, [i, n + j]] = 1
        rows[i * m + j, -1] = 0.0 if moved else 1.0
    flat, target = used.flatten(), cost.numpy().flatten()
    found = optimize.linprog(
        np.r_[np.zeros(n + m), -1.0],
        A_ub=rows[~flat], b_ub=target[~flat], A_eq=rows[flat], b_eq=target[flat],
        bounds=[(None, None)] * (n + m) + [(0, 10)],
    )  # fmt: skip
    assert found.x[-1] > 1e-3
    return torch.as_tensor(found.x[:n])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_w1_is_that_of_the_fixed_critic(seed):
    """Envelope: finite differences of the linear programme against the gradient through one critic."""
    torch.manual_seed(seed)
    real, z = torch.randn(6, 4), torch.randn(6, 3)
    weight = torch.randn(4, 3, requires_grad=True)
    fake = z @ weight.T + 0.5
    cost = distances(real, fake.detach())
    value, plan = S10.transport_plan(cost)
    u = slack_potentials(cost, plan)

    def critic(x):  # max_i u_i - |x - x_i|: optimal too, and differentiable at the samples
        return (u - distances(x, real)).amax(dim=1)

    assert (critic(real).mean() - critic(fake).mean()).item() == pytest.approx(value, abs=1e-8)
    (gradient,) = torch.autograd.grad(-critic(fake).mean(), weight)
    direction = torch.randn(4, 3)

    def w1(step):
        moved = z @ (weight.detach() + step * direction).T + 0.5
        return S10.transport_plan(distances(real, moved))[0]

    slope = (w1(1e-5) - w1(-1e-5)) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("epsilon", [1.0, 0.2, 0.05])
def test_the_regularised_plan(epsilon):
    """Margins, form, POT, the bounds of its cost, and that no neighbour in Pi is better."""
    cost, plan = figures.cost().numpy(), figures.sinkhorn_plan(epsilon)
    masses = np.full(8, 1 / 8)
    # The smallest epsilon needs more sweeps than the figure takes: sums are then off by under 1e-6.
    assert plan.sum(axis=1) == pytest.approx(masses, abs=1e-6)
    assert plan.sum(axis=0) == pytest.approx(masses, abs=1e-6)
    expected = ot.sinkhorn(
        masses, masses, cost, epsilon, method="sinkhorn_log", numItermax=100_000, stopThr=1e-10
    )
    assert plan == pytest.approx(expected, abs=1e-5)
    scores = np.log(plan) + cost / epsilon  # u_i + v_j: no interaction is left
    assert scores - scores[:1] - scores[:, :1] + scores[0, 0] == pytest.approx(np.zeros((8, 8)), abs=1e-6)
    w1 = figures.optimal_plan()[0]
    assert -1e-9 <= (plan * cost).sum() - w1 <= epsilon * math.log(8)

    def objective(gamma):
        return (gamma * cost).sum() + epsilon * special.xlogy(gamma, gamma).sum()

    rng = np.random.default_rng(0)
    for _ in range(50):
        (i, k), (j, m) = rng.choice(8, 2, replace=False), rng.choice(8, 2, replace=False)
        moved = plan.copy()
        amount = 0.3 * min(plan[i, j], plan[k, m])
        moved[[i, k], [j, m]] -= amount
        moved[[i, k], [m, j]] += amount
        assert objective(moved) > objective(plan) - 1e-12


def test_a_large_epsilon_gives_the_independent_plan():
    assert figures.sinkhorn_plan(1e4) == pytest.approx(np.full((8, 8), 1 / 64), abs=1e-5)


# --- Clipped critics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_clipped_critics_obey_their_bound_and_scale_with_c(seed, printed):
    torch.manual_seed(seed)
    c, widths = 0.3, (4, 12, 12)
    critic = trained_models.scalar_network(*widths)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.uniform_(-c, c)
    x = torch.randn(500, 4, requires_grad=True)
    (slopes,) = torch.autograd.grad(critic(x).sum(), x)
    bound = figures.clip_bound(c, widths)
    assert bound == pytest.approx(c**3 * math.sqrt(4 * 12 * 12 * 12 * 12))
    assert slopes.norm(dim=1).max() <= bound
    with torch.no_grad():  # weights that are all c reach it where all units are on
        for parameter in critic.parameters():
            parameter.fill_(c if parameter.ndim == 2 else 0.0)
    x = torch.rand(5, 4, requires_grad=True)
    (slopes,) = torch.autograd.grad(critic(x).sum(), x)
    assert slopes.norm(dim=1) == pytest.approx([bound] * 5)
    before = critic(x).detach()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    assert torch.allclose(critic(x), 3**3 * before)
    values = [figures.clip_bound(each, (2, 512, 512, 512)) for each in (0.01, 0.03, 0.1)]
    assert values[1] / values[0] == pytest.approx(81)
    assert [number(cell) for cell in printed["clip_bounds"]] == pytest.approx(values, rel=0.03)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_last_layer_is_a_corner(seed):
    rng = np.random.default_rng(seed)
    gap = rng.normal(size=6)  # E_pi h - E_p h
    found = optimize.linprog(-gap, bounds=[(-0.1, 0.1)] * 6)
    assert found.x == pytest.approx(0.1 * np.sign(gap))


def test_clipped_critics_as_stored(printed):
    """Weights saturate; between layers of 64 units gradients vanish at 0.01, stay at 0.03, then explode."""
    arrays = figures.trained()
    gradients, shares = arrays["clipped_gradients"], arrays["clipped_shares"]
    assert gradients.shape == (4, 5, 7) and shares.shape == (4, 5)
    assert (shares[2] > 0.5).all()
    within = gradients[:, :, 1] / gradients[:, :, -1]  # layer 2 over layer 7: five matrices of 64 x 64
    limits = (np.array(trained_models.BOUNDS) * trained_models.HIDDEN)[:, None, None]
    assert (gradients[:, :, 1:6] <= limits * gradients[:, :, 2:] * (1 + 1e-6)).all()
    assert (within[0] < 0.01).all() and (within[1] > 0.3).all() and (within[1] < 1).all()
    assert (within[2] > 10).all() and (within[3] > 1e4).all()
    for row, cells in zip((within[1], within[2]), (printed["clip_flat"], printed["clip_up"]), strict=True):
        assert list(map(number, cells)) == pytest.approx([row.min(), row.max()], rel=0.02, abs=0.51)
    assert [number(cell) for cell in printed["clip_down"]] == pytest.approx(
        [(1 / within[0]).min(), (1 / within[0]).max()], rel=0.05
    )
    middle = 100 * shares[2]
    assert printed["clip_share"] == [f"{middle.min():.0f}", f"{middle.max():.0f}"]
    counts = arrays["clipped_weights_0.1"]
    assert counts[[0, -1]].sum() / counts.sum() >= shares[2, 0] - 1e-6


def test_layer_gradients_end_at_the_input():
    torch.manual_seed(0)
    critic = trained_models.scalar_network(4, 6, 6)
    x = torch.randn(50, 4)
    found = trained_models.layer_gradients(critic, x.clone())
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(critic(x).sum(), x)
    assert found[0] == pytest.approx(slopes.norm(dim=1).mean().item())
    last = [layer for layer in critic.modules() if isinstance(layer, torch.nn.Linear)][-1]
    assert found[-1] == pytest.approx(last.weight.norm().item())


def test_a_shifted_copy_is_as_far_as_it_was_shifted():
    torch.manual_seed(0)
    x, s = torch.randn(30, 4), torch.tensor([0.5, -1.0, 2.0, 0.3])
    assert metrics.wasserstein(x, x + s) == pytest.approx(s.norm().item(), abs=1e-9)
    c, gap = 0.2, -s  # E_pi x - E_p x, linear critic in a box
    value = (c * gap.sign() * gap).sum()
    assert value == pytest.approx(c * s.abs().sum())
    assert c * s.norm() <= value <= c * 2 * s.norm()


def test_the_best_clipped_critic_is_in_proportion_to_the_distance():
    """Written down: its value is 64^2 c^3 times the shift; no clipped critic is steeper along x_1."""
    c, best = trained_models.METER_C, figures.best_clipped_slope()
    critic = trained_models.scalar_network(*trained_models.METER_WIDTHS)
    layers = [layer for layer in critic.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.fill_(c)
            layer.bias.fill_(c)
        layers[0].weight[:, 1] = 0
        layers[-1].weight.fill_(-c)
    assert best == pytest.approx(c**3 * 64 * 64)
    torch.manual_seed(0)
    for shift in trained_models.DISTANCES:
        real = trained_models.METER_SIGMA * torch.randn(100_000, 2)
        with torch.no_grad():  # the copy of these very points: no noise in the difference
            value = (critic(real) - critic(real + torch.tensor([shift, 0.0]))).mean().item()
        assert value == pytest.approx(best * shift, rel=0.02)
    x = torch.randn(1000, 2, requires_grad=True)
    for _ in range(20):
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.copy_(c * torch.randn_like(parameter).sign())
        (slopes,) = torch.autograd.grad(critic(x).sum(), x)
        assert slopes.abs().max() <= best + 1e-9


def test_a_better_value_is_no_better_gradient():
    """Two lines, theta = 1: the slide's two critics, their values and d/dtheta of -E D(G_theta)."""
    theta, t = torch.tensor(1.0, requires_grad=True), torch.rand(100)

    def value_and_gradient(critic):
        fake = torch.stack([theta.expand(100), t], dim=1)
        real = torch.stack([torch.zeros(100), t], dim=1)
        (gradient,) = torch.autograd.grad(-critic(fake).mean(), theta)
        return (critic(real).mean() - critic(fake).mean()).item(), gradient.item()

    assert value_and_gradient(lambda x: -x[:, 0].clamp(max=0.99)) == pytest.approx((0.99, 0.0))
    assert value_and_gradient(lambda x: -x[:, 0] / 2) == pytest.approx((0.5, 0.5))


def test_the_meter_as_stored(printed):
    """The critic's value grows with the distance in each start; the discriminator's stays at log 2."""
    critic, discriminator = np.moveaxis(figures.trained()["meter"], 2, 0)
    assert (np.diff(critic, axis=1) > 0).all()
    bound = figures.clip_bound(trained_models.METER_C, trained_models.METER_WIDTHS)
    assert printed["meter_bound"] == f"{bound:.2f}" == "5.79"
    ratios = critic / np.array(trained_models.DISTANCES)
    best = figures.best_clipped_slope()
    # What is found is far below what the class holds, and farther at the largest distance.
    assert (ratios < best).all() and best < bound
    assert (ratios[:, 0] < best / 2).all() and (ratios[:, -1] < best / 4).all()
    assert (ratios[:, 0] > 1.2 * ratios[:, -1]).all()
    assert printed["meter_best"] == f"{best:.1f}" == "4.1"
    near, far = (figures.trained()["meter_longer"] / np.array(trained_models.DISTANCES)[[0, -1]]).T
    assert (near < best / 2 + 0.05).all() and (far < best / 3).all()
    for cells, found in (("meter_near_longer", near), ("meter_far_longer", far)):
        assert list(map(number, printed[cells])) == pytest.approx([found.min(), found.max()], abs=0.051)
    assert [number(cell) for cell in printed["meter_near"]] == pytest.approx(
        [ratios[:, 0].min(), ratios[:, 0].max()], abs=0.051
    )
    assert [number(cell) for cell in printed["meter_far"]] == pytest.approx(
        [ratios[:, -1].min(), ratios[:, -1].max()], abs=0.0051
    )
    assert (discriminator < LOG_2 + 1e-6).all() and (discriminator[:, -2:] > LOG_2 - 0.05).all()
    exact = [figures.jsd_of_normals(each, trained_models.METER_SIGMA) for each in trained_models.DISTANCES]
    assert (discriminator < np.array(exact) + 0.03).all()  # a lower bound, up to the sampling of the test


# --- Published -------------------------------------------------------------------------------------------


def published_rows(title):
    """Return the rows of a slide's tables by their first cell; * is bold."""
    rows = table_rows("lecture10", title)
    return {name: [cell.strip("$*") for cell in cells] for name, cells in rows.items()}


PUBLISHED = {
    "GAN, minimax": ["9.8 ± 0.9", "29.6 ± 1.6", "72.7 ± 3.6"],
    "GAN, non-saturating": ["6.8 ± 0.5", "26.5 ± 1.6", "58.5 ± 1.9"],
    "WGAN, clipping": ["6.7 ± 0.4", "21.5 ± 1.6", "55.2 ± 2.3"],
    "WGAN-GP": ["20.3 ± 5.0", "24.5 ± 2.1", "55.8 ± 0.9"],
    "WGAN, clipping; CNN": ["42.6"],
    "WGAN-GP; CNN": ["40.2"],
}


def test_published_numbers_row_by_row():
    found = published_rows("Published results")
    for name, cells in PUBLISHED.items():
        kept = [cell for cell in found.get(name, []) if re.fullmatch(r"[\d.± ]+", cell)]
        assert kept == cells, name
