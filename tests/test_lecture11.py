"""What lecture 11 claims: slopes of critics, norms of layers, f-divergences, scores of samples."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import linalg, optimize, stats
from scipy.spatial.distance import jensenshannon
from torch import nn
from torch.nn import functional

from dgm_utils import checks, metrics, nets
from lectures.lecture11 import figures, measured
from tests.decks import number, table_rows
from tools.definitions import seminar

S10, S11 = seminar(10, "transport_dual"), seminar(11, "hinge_loss", "f_gan_losses")
SEEDS = range(5)
FINE = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-12, "tolerance_change": 1e-16}  # of L-BFGS

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


# --- Gradient penalty ------------------------------------------------------------------------------------


def optimal_critic(seed, n=12, m=5):
    """Return data and samples in m dimensions, paired by the best plan, the critic of the result, and W1."""
    torch.manual_seed(seed)
    x, y = torch.randn(n, m) + 1, 1.3 * torch.randn(n, m)
    cost = torch.cdist(x, y)
    rows, columns = optimize.linear_sum_assignment(cost.numpy())
    _, at_data, _ = S10.transport_dual(cost)

    def critic(z):
        return (at_data - torch.cdist(z, x)).max(dim=1).values

    return x[rows], y[columns], critic, cost[rows, columns].mean()


def gradient(critic, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(critic(z).sum(), z)[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_critic_climbs_from_sample_to_data_with_slope_one(seed):
    """The theorem with its orientation, and the result: the smallest extension is a best critic, too."""
    x, y, critic, distance = optimal_critic(seed)
    assert (critic(x).mean() - critic(y).mean()).item() == pytest.approx(distance.item(), abs=1e-7)
    ahead = (x - y) / (x - y).norm(dim=1, keepdim=True)
    for t in (0.1, 0.5, 0.9):
        assert gradient(critic, t * x + (1 - t) * y) == pytest.approx(ahead, abs=1e-6)
    anywhere = 2 * torch.randn(500, 5)
    assert gradient(critic, anywhere).norm(dim=1) == pytest.approx(torch.ones(500), abs=1e-9)
    others = y[torch.randperm(len(y))]
    between = 0.5 * x + 0.5 * others
    along = (gradient(critic, between) * (x - others)).sum(1) / (x - others).norm(dim=1)
    assert (along <= 1 + 1e-9).all() and along.mean() < 0.95  # of independent pairs


def test_the_penalty_of_a_linear_critic():
    x, y = torch.randn(64, 6) + 0.5, torch.randn(64, 6)
    for length, expected in ((1.0, 0.0), (0.0, 1.0), (3.0, 4.0)):
        w = length * functional.normalize(torch.randn(6), dim=0)
        penalty = S11.gradient_penalty(lambda z, w=w: z @ w + 2, x, y)
        assert penalty.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("weight", "m"), [(10.0, 6), (0.3, 4)])
def test_the_best_penalised_linear_critic_is_too_steep(weight, m):
    """Length, value, value less penalty, and the identity of scaling, against a search."""
    delta = torch.randn(m)
    w = torch.randn(m).requires_grad_()
    search = torch.optim.LBFGS([w], max_iter=500, **FINE)

    def loss():
        search.zero_grad()
        value = -w @ delta + weight * (w.norm() - 1) ** 2
        value.backward()
        return value

    best = -search.step(loss) if search.step(loss) is None else -loss()
    far = delta.norm()
    steep = 1 + far / (2 * weight)
    assert w.detach() == pytest.approx(steep * delta / far, abs=1e-6)
    nu = (w @ delta).item()
    assert nu == pytest.approx((far + far**2 / (2 * weight)).item(), abs=1e-6)
    assert best.item() == pytest.approx((far + far**2 / (4 * weight)).item(), abs=1e-6)
    assert nu == pytest.approx((2 * weight * steep * (steep - 1)).item(), abs=1e-6)
    assert best.item() == pytest.approx((weight * (steep**2 - 1)).item(), abs=1e-6)


@pytest.mark.parametrize("weight", [10.0, 0.3])
def test_for_a_shift_value_and_minus_loss_of_the_linear_critic_are_above_the_distance(weight):
    samples = torch.randn(40, 5)
    delta = torch.randn(5)
    distance = metrics.wasserstein(samples + delta, samples)
    assert distance == pytest.approx(delta.norm().item())
    w = (1 + delta.norm() / (2 * weight)) * delta / delta.norm()
    value = ((samples + delta) @ w).mean() - (samples @ w).mean()
    assert value > distance and value - weight * (w.norm() - 1) ** 2 > distance


def test_the_trained_critics_obey_the_identity_of_scaling(printed):
    """value / (2 lambda) = mean of n (n - 1): the slope is nearly constant, so by its mean, to 0.01."""
    stored = figures.measured()
    values, norms = stored["lipschitz_penalty"][:, 2], stored["penalty_means"][:, 2]
    assert norms * (norms - 1) == pytest.approx(values / (2 * measured.WEIGHT), abs=0.01)
    assert (norms > 1).all() and (stored["penalty_means"][:, 1] > stored["penalty_means"][:, 3] + 0.2).all()
    low, high = map(number, printed["scaling"])
    assert low == pytest.approx(values.min() / 20, abs=5e-5)
    assert high == pytest.approx(values.max() / 20, abs=5e-5)


def test_the_slopes_along_both_kinds_of_pairs_are_those_of_the_arrays(printed):
    """Along one independent pair in nine the critic falls: the standard error over pairs sets the digits."""
    stored = figures.measured()
    along = stored["penalty_independent"][1]
    error = along.std(ddof=1) / len(along) ** 0.5
    value, spread = map(number, printed["independent"][2].split(" ± "))
    assert spread == pytest.approx(error, abs=0.005) and 0.02 < error < 0.04
    assert value == pytest.approx(stored["penalty_means"][:, 3].mean(), abs=0.005)
    assert 0.1 < (along < 0).mean() < 0.15 and number(printed["independent"][3]) == pytest.approx(
        100 * (along < 0).mean(), abs=0.5
    )
    plan = stored["penalty_plan"][1]
    assert plan.std() / len(plan) ** 0.5 < 0.002  # so three digits of the plan's stand
    x, y, other = (stored[f"penalty_{name}"] for name in ("x", "y", "other"))
    assert np.array_equal(np.sort(y, axis=0), np.sort(other, axis=0)) and not np.array_equal(y, other)
    near, far = (np.linalg.norm(x - points, axis=1).sum() for points in (y, other))
    assert near < 0.9 * far  # the first pairing is the plan's


def test_a_norm_over_channels_punishes_a_right_critic(printed):
    """By code of another kind: an image of one channel, the norm over the channel's axis."""
    torch.manual_seed(1)
    w = functional.normalize(torch.randn(1, 1, 28, 28).flatten(1), dim=1).view(1, 1, 28, 28)
    x = torch.randn(3, 1, 28, 28, requires_grad=True)
    slope = torch.autograd.grad((w * x).sum(), x)[0]
    assert ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean().item() == pytest.approx(0, abs=1e-12)
    wrong = ((slope.norm(dim=1) - 1) ** 2).mean().item()
    assert wrong == pytest.approx(number(printed["channel_penalty"]), abs=0.01)


def test_batch_norm_before_the_last_layer_hides_the_gradient():
    critic = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 1)).double()
    x = torch.randn(16, 6, requires_grad=True)
    assert torch.autograd.grad(critic(x).sum(), x)[0].abs().max() < 1e-10
    alone = torch.autograd.grad(critic(x)[0].sum(), x)[0]
    assert alone[0].norm() > 1e-3 and alone[1:].norm() > 1e-4
    assert torch.autograd.grad(critic.eval()(x).sum(), x)[0].norm(dim=1).min() > 1e-3


def test_the_printed_shares_of_batch_norm_are_the_stored_ones(printed):
    share, error = figures.measured()["batch_norm"].T
    assert printed["batch_share"] == [f"{100 * v:.2f}" for v in (share.min(), share.max())]
    assert printed["batch_error"] == [f"{100 * v:.1f}" for v in (error.min(), error.max())]
    assert (share < 1e-3).all() and (error > 0.1).all()  # as the slide and its notes say


# --- Spectral norm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_is_at_most_as_steep_as_the_product(seed):
    torch.manual_seed(seed)
    critic = nets.mlp(6, 20, 20, 1).double()
    product = measured.norm_product(critic)
    steepest = checks.lipschitz(critic, 3 * torch.randn(2000, 6))
    assert 0 < steepest <= product and steepest < 0.8 * product
    aligned = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)).double()  # the worst directions meet: no slack
    with torch.no_grad():
        u, s, v = torch.linalg.svd(aligned[0].weight)
        aligned[1].weight.copy_(v @ torch.diag(s) @ u.T)
    direction = gradient(lambda z: aligned(z) @ v[:, 0], torch.randn(3, 6)).norm(dim=1)
    assert direction == pytest.approx(torch.full((3,), measured.norm_product(aligned)), rel=1e-9)


@pytest.mark.parametrize("ratio", figures.RATIOS)
def test_power_iteration_keeps_its_bound_and_its_rates(ratio):
    weight, left = figures.matrix(ratio)
    values = np.linalg.svd(weight, compute_uv=False)
    assert values[:2] == pytest.approx([1, ratio])
    estimates = figures.estimates_of(weight, figures.start(left), 60)
    error = 1 - estimates**2
    assert (estimates <= 1 + 1e-12).all() and (np.diff(estimates) >= -1e-12).all()
    bound = figures.power_bound(left, figures.start(left), ratio, 60)
    assert (error <= bound + 1e-12).all()
    last = np.flatnonzero(error > 1e-9)[-1]
    last = min(last, figures.ROUNDS - 1)  # what the figure shows
    assert error[last] / bound[last] == pytest.approx((1 - ratio**2) / 63, rel=0.02)  # no idle bound
    assert error[last] / error[last - 1] == pytest.approx(ratio**4, rel=0.02)  # parallel in the end
    assert bound[0] > 1 > bound[figures.ROUNDS - 1]  # idle at first, not in the end


def test_the_value_of_power_iteration_converges_twice_as_fast_as_the_vector():
    """Two singular values above the others: exact rates."""
    ratio, weight = 0.8, np.diag([1.0, 0.8, 0.01, 0.01, 0.01])
    u, tangents, errors = np.full(5, 5**-0.5), [], []
    for _ in range(12):
        v = weight.T @ u
        v /= np.linalg.norm(v)
        u = weight @ v
        tangents.append(np.linalg.norm(v[1:]) / v[0])
        errors.append(1 - np.linalg.norm(u) ** 2)
        u /= np.linalg.norm(u)
    assert tangents[-1] / tangents[-2] == pytest.approx(ratio**2, rel=1e-3)
    assert errors[-1] / errors[-2] == pytest.approx(ratio**4, rel=1e-2)
    assert tangents[4] <= ratio ** (2 * 5 - 1) * 4**0.5  # tan of the start is sqrt(4)


def test_the_gradient_through_a_normalised_weight():
    weight = torch.randn(5, 7, requires_grad=True)
    target = torch.randn(5, 7)
    bar = weight / torch.linalg.matrix_norm(weight, 2)
    loss = ((bar - target) ** 3).sum()
    inner, whole = torch.autograd.grad(loss, [bar, weight])
    u, s, v = torch.linalg.svd(weight.detach())
    outer = torch.outer(u[:, 0], v[0])
    kappa = (inner * bar.detach()).sum()
    assert whole == pytest.approx((inner - kappa * outer) / s[0], abs=1e-9)
    assert (whole * weight).sum().item() == pytest.approx(0, abs=1e-9)


def dense(layer, size):
    """Return the matrix of a convolution, from unit images."""
    count = layer.weight.shape[1] * size**2
    units = torch.eye(count).view(count, layer.weight.shape[1], size, size)
    with torch.no_grad():
        return (layer(units) - layer(torch.zeros_like(units))).flatten(1).T


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "mode"),
    [
        (3, 1, 1, "zeros"),
        (4, 2, 1, "zeros"),
        (4, 2, 3, "zeros"),
        (3, 2, 1, "zeros"),
        (5, 3, 2, "zeros"),
        (3, 1, 1, "circular"),
        (5, 1, 2, "circular"),
        (4, 2, 1, "circular"),
    ],
)
def test_a_convolution_is_at_most_so_much_steeper_than_its_reshaped_kernel(kernel, stride, padding, mode):
    for seed in SEEDS:
        torch.manual_seed(seed)
        layer = nn.Conv2d(2, 3, kernel, stride, padding, padding_mode=mode).double()
        if seed % 2:  # smooth kernels come near to the bound
            layer.weight.data = layer.weight.data.mean((2, 3), keepdim=True).expand_as(layer.weight) + 0
        reshaped = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item()
        true = torch.linalg.matrix_norm(dense(layer, 8), 2).item()
        assert true <= math.ceil(kernel / stride) * reshaped * (1 + 1e-9)
        if (kernel, stride, padding, mode) == (
            4,
            2,
            1,
            "zeros",
        ):  # the geometry of DCGAN's critic, whose norms the slide prints
            assert S11.convolution_norm(layer, 8, 2000) == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(4, 2, 2, 8), (2, 1, 1, 8), (2, 2, 1, 8), (3, 1, 2, 6)]
)
def test_more_padding_around_breaks_the_bound(kernel, stride, padding, size, printed):
    """Patches meet across the seam: more outputs a side than size / stride."""
    layer = nn.Conv2d(1, 1, kernel, stride, padding, padding_mode="circular").double()
    nn.init.constant_(layer.weight, 1 / kernel)
    true = torch.linalg.matrix_norm(dense(layer, size), 2).item()
    outputs = layer(torch.zeros(1, 1, size, size)).shape[-1]
    assert outputs > size / stride and true > 1.2 * math.ceil(kernel / stride)
    if kernel == 4:
        assert number(printed["seam"]) == pytest.approx(true, abs=0.005)


def test_nine_thirds_make_three():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.constant_(layer.weight, 1 / 3)
    assert torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2).item() == pytest.approx(1)
    assert 2.9 < S11.convolution_norm(layer, 28) < 3
    assert layer(torch.ones(1, 1, 9, 9))[0, 0, 4, 4].item() == pytest.approx(3)


def test_the_printed_norms_of_a_normalised_critic_are_the_stored_ones(printed):
    stored = figures.measured()["convolutions"]
    assert printed["convolution"] == [f"{v:.2f}" for column in stored.T for v in (column.min(), column.max())]
    assert (stored > 1.2).all() and (stored <= 2).all()


def test_the_table_of_critics(printed):
    """By the steepest slope found the penalty's value is nearest to the distance, in each seed.

    Only the value over the product of norms is a lower bound: there the spectral critic is nearest.
    """
    critics, distance = figures.critics(), figures.measured()["distance"]
    for other in ("clip", "spectral"):
        assert (critics["penalty"][:, 2] > critics[other][:, 2]).all()
    for other in ("clip", "penalty"):
        assert (critics["spectral"][:, 3] > 1.5 * critics[other][:, 3].max()).all()
    for values in critics.values():
        assert (values[:, 0] <= values[:, 1] * (1 + 1e-6)).all()
        assert (values[:, 3] <= distance).all() and (values[:, 3] <= values[:, 2]).all()
    assert (critics["spectral"][:, 1] < 1.01).all() and (critics["spectral"][:, 0] < 0.8).all()
    cells = iter(printed["critics"])
    for kind, values in critics.items():
        assert next(cells) == figures.NAMES[kind]
        for column in values.T:
            assert next(cells) == f"{column.min():.2f}–{column.max():.2f}"
    assert next(cells, None) is None


def test_the_stored_critics_are_those_of_the_code(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(measured, "STEPS", 3)
    for kind in measured.KINDS:
        critic = measured.trained_critic.__wrapped__(kind, 0)
        assert sum(parameter.numel() for parameter in critic.parameters()) == 2 * 64 + 64 * 64 + 64 + 129
        if kind == "clip":
            assert max(parameter.abs().max() for parameter in critic.parameters()) <= measured.CLIP
        if kind == "spectral":
            assert measured.norm_product(critic) < 5


def test_the_stored_samples_are_those_of_the_weights():
    torch.set_default_dtype(torch.float32)
    for name, images in measured.samples().items():
        assert np.abs(images.astype(float) - figures.measured()[name]).max() <= 2, name
        assert images.std() > 40, name


# --- Hinge and f-divergences -----------------------------------------------------------------------------


def two_laws(seed, n=6):
    """Return two laws on n atoms, pi and p."""
    generator = np.random.default_rng(seed)
    return (generator.dirichlet(np.ones(n)) for _ in range(2))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_hinge_loss_is_total_variation(seed):
    pi, p = two_laws(seed)
    levels = np.linspace(-3, 3, 601)
    loss = pi * np.maximum(0, 1 - levels[:, None]) + p * np.maximum(0, 1 + levels[:, None])
    best = levels[loss.argmin(0)]
    variation = np.abs(pi - p).sum() / 2
    assert best == pytest.approx(np.sign(pi - p))
    assert loss.min(0).sum() == pytest.approx(2 * (1 - variation))
    real, fake = torch.randn(2, 50)
    by_hand = np.maximum(0, 1 - real.numpy()).mean() + np.maximum(0, 1 + fake.numpy()).mean()
    assert S11.hinge_loss(real, fake).item() == pytest.approx(by_hand)
    assert -(p @ best) == pytest.approx(2 * variation - pi @ best)


def test_other_best_critics_of_the_hinge_where_a_density_is_zero():
    """Outside [-1, 1] a critic may be as good: then the generator's loss is not the theorem's."""
    pi, p = np.array([0.5, 0.5, 0.0, 0.0]), np.array([0.0, 0.0, 0.3, 0.7])

    def loss(level):
        return pi @ np.maximum(0, 1 - level) + p @ np.maximum(0, 1 + level)

    sign, other = np.sign(pi - p), np.array([5.0, 5, -7, -7])
    assert loss(sign) == loss(other) == 0  # 2 (1 - TV), with TV = 1
    assert -(p @ sign) == 2 - pi @ sign == 1
    assert -(p @ other) == pytest.approx(7) and 2 - pi @ other == pytest.approx(-3)


CLOSED = {
    "Pearson": lambda pi, p: ((pi - p) ** 2 / p).sum(),
    "KL": stats.entropy,
    "2 JSD": lambda pi, p: 2 * jensenshannon(pi, p) ** 2,
    "Hellinger": lambda pi, p: ((pi**0.5 - p**0.5) ** 2).sum(),
    "reverse KL": lambda pi, p: stats.entropy(p, pi),
}
ENDS = {  # f(0), lim f(t) / t, as the slide's table has them
    "Pearson": (1, math.inf),
    "KL": (0, math.inf),
    "2 JSD": (math.log(2), math.log(2)),
    "Hellinger": (1, 1),
    "reverse KL": (math.inf, 0),
}
BEST_OUTPUT = {"2 JSD": torch.log, "Hellinger": lambda r: r.log() / 2, "reverse KL": torch.log}
each_divergence = pytest.mark.parametrize("name", figures.DIVERGENCES)


@each_divergence
def test_conjugates_domains_and_activations(name):
    divergence = figures.DIVERGENCES[name]
    t = torch.cat([torch.logspace(-9, 0, 200_001), torch.linspace(1, 400, 400_001)])
    slopes = divergence.derivative(torch.logspace(-1.7, 2.4, 25))
    slopes = torch.cat([slopes, torch.tensor([-3.0, -2.5])]) if name == "Pearson" else slopes
    for s in slopes:
        found = (s * t - divergence.f(t)).max().item()
        assert found == pytest.approx(divergence.conjugate(s).item(), abs=1e-4)
    if math.isfinite(divergence.edge):  # above it the supremum grows without end
        far, near = torch.tensor(1e4), torch.tensor(1e2)
        s = divergence.edge + 0.05
        assert s * far - divergence.f(far) > s * near - divergence.f(near) + 1
    v = torch.linspace(-5, 5, 101)
    g = divergence.activation(v)
    assert (g.diff() > 0).all() and (g < divergence.edge).all()
    if name in BEST_OUTPUT:
        r = torch.logspace(-2, 2, 9)
        assert divergence.activation(BEST_OUTPUT[name](r)) == pytest.approx(divergence.derivative(r))


@each_divergence
@pytest.mark.parametrize("seed", SEEDS)
def test_the_variational_bound_and_its_tightness(name, seed):
    pi, p = map(torch.from_numpy, two_laws(seed))
    divergence, r = figures.DIVERGENCES[name], pi / p
    value = (p @ divergence.f(r)).item()
    assert value == pytest.approx(CLOSED[name](pi.numpy(), p.numpy())) and value > 0

    def bound(outputs):
        return (pi @ outputs - p @ divergence.conjugate(outputs)).item()

    assert bound(divergence.derivative(r)) == pytest.approx(value)
    for _ in range(50):
        assert bound(divergence.activation(torch.randn(6))) < value
    assert (p @ (divergence.f(r) + 3 * (r - 1))).item() == pytest.approx(value)


@each_divergence
@pytest.mark.parametrize("seed", SEEDS)
def test_divergence_and_bound_where_one_law_has_no_mass(name, seed):
    """The second part of the definition is the limit of a small p; the bound holds with it, and Jensen."""
    pi, p = map(torch.from_numpy, two_laws(seed))
    pi[0] = p[1] = 0
    pi, p = pi / pi.sum(), p / p.sum()
    divergence = figures.DIVERGENCES[name]
    start, slope = ENDS[name]
    inside = (pi > 0) & (p > 0)
    value = (p[inside] @ divergence.f((pi / p)[inside])).item() + p[0].item() * start
    value += slope * pi[1].item()
    small = torch.full((6,), 1e-9)
    pi_near, p_near = (pi + small) / (1 + small.sum()), (p + small) / (1 + small.sum())
    near = (p_near @ divergence.f(pi_near / p_near)).item()
    assert near > 3 * p[0].item() if math.isinf(value) else near == pytest.approx(value, abs=1e-3)
    assert value > 0
    best = divergence.activation(torch.zeros(6))
    for _ in range(50):
        outputs = divergence.activation(3 * torch.randn(6))
        best = max(best, outputs, key=lambda T: pi @ T - p @ divergence.conjugate(T))
    assert (pi @ best - p @ divergence.conjugate(best)).item() <= value
    apart = start + slope  # disjoint supports
    if name in ("2 JSD", "Hellinger"):
        assert apart == pytest.approx({"2 JSD": 2 * math.log(2), "Hellinger": 2}[name])


@each_divergence
def test_the_losses_of_an_f_gan_are_the_two_halves_of_the_bound(name):
    divergence, (real, fake) = figures.DIVERGENCES[name], torch.randn(2, 40)
    climb, descend = S11.f_gan_losses(lambda n: fake[:n], lambda x: x, divergence)
    T, T_fake = divergence.activation(real), divergence.activation(fake)
    half = divergence.conjugate(T_fake).mean()
    assert climb(real)["loss"].item() == pytest.approx((half - T.mean()).item())
    assert descend(real)["loss"].item() == pytest.approx(-half.item())


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_gan_is_a_member_with_its_constant(seed):
    pi, p = two_laws(seed)
    r = pi / p
    f = r * np.log(r) - (r + 1) * np.log(r + 1)
    jsd = jensenshannon(pi, p) ** 2
    assert p @ f == pytest.approx(2 * jsd - math.log(4))
    v = torch.tensor(np.log(r))  # the best logit
    T = -functional.softplus(-v)
    assert T.exp().numpy() == pytest.approx(pi / (pi + p))
    conjugate = -(1 - T.exp()).log()
    assert conjugate.numpy() == pytest.approx(functional.softplus(v).numpy())
    assert pi @ T.numpy() - p @ conjugate.numpy() == pytest.approx(2 * jsd - math.log(4))
    t = np.geomspace(1e-6, 1e6, 400_001)
    for s in (-3.0, -0.5, -0.05):
        assert (s * t - t * np.log(t) + (t + 1) * np.log(t + 1)).max() == pytest.approx(
            -math.log(1 - math.exp(s)), abs=1e-5
        )


@each_divergence
def test_what_a_divergence_fears(name):
    f = figures.DIVERGENCES[name].f
    invented, missed = f(torch.tensor(1e-12)).item(), f(torch.tensor(1e12)).item() / 1e12
    for value, expected in zip((invented, missed), ENDS[name], strict=True):
        assert value > 20 if math.isinf(expected) else value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("half", figures.HALVES)
@each_divergence
def test_the_nearest_gaussians(name, half, printed):
    """No better one from thirty other starts; only forward KL has the target's moments."""
    mean, std, value = figures.best_gaussian(name, half)
    log_pi, generator = figures.log_target(half), np.random.default_rng(0)

    def loss(q):
        return figures.divergence_of(name, log_pi, figures.log_normal(q[0], np.exp(q[1])))

    for _ in range(30):
        at = [generator.uniform(-5, 5), generator.uniform(-1, 1.5)]
        assert optimize.minimize(loss, at, method="Nelder-Mead").fun >= value - 1e-6
    place = 7 * list(figures.DIVERGENCES).index(name) + 3 * figures.HALVES.index(half)
    assert list(map(number, printed["fits"][place + 1 : place + 4])) == [
        pytest.approx(mean, abs=0.005),
        pytest.approx(std, abs=0.005),
        pytest.approx(value, abs=0.0005),
    ]
    target = figures.target_moments(half)
    assert ((mean, std) == pytest.approx(target, abs=1e-3)) is (name == "KL")
    weights, width = np.exp(log_pi), figures.GRID[1] - figures.GRID[0]
    assert weights.sum() * width == pytest.approx(1, abs=1e-8)
    assert weights @ figures.GRID * width == pytest.approx(target[0], abs=1e-6)
    assert weights @ figures.GRID**2 * width == pytest.approx(target[0] ** 2 + target[1] ** 2, abs=1e-6)
    log_p = figures.log_normal(mean, std)
    ratio = torch.from_numpy(np.exp(log_pi - log_p))
    direct = np.exp(log_p) @ figures.DIVERGENCES[name].f(ratio).numpy() * width  # its definition
    assert value == pytest.approx(direct, rel=1e-6)


def test_covering_and_seeking():
    """Four apart, the bounded ones cover; six apart, they sit on the heavier mode."""
    for half in figures.HALVES:
        for name in figures.DIVERGENCES:
            mean, std, _ = figures.best_gaussian(name, half)
            seeks = name == "reverse KL" or (half == 3 and name in ("2 JSD", "Hellinger"))
            assert (std < 0.65 and abs(mean + half) < 0.01) is seeks
            assert (std > 0.9 * half) is not seeks


# --- Scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_inception_score_is_a_mutual_information(seed):
    torch.manual_seed(seed)
    given = torch.randn(400, 7).mul(2).softmax(1)
    joint = given / len(given)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    information = (joint * (joint / independent).log()).sum()
    score, _ = metrics.inception_score(given.log(), splits=1)
    assert score == pytest.approx(information.exp().item()) and 1 < score < 7
    one_each = torch.eye(7).repeat(5, 1).log()
    assert metrics.inception_score(one_each, splits=1)[0] == pytest.approx(7)
    assert metrics.inception_score(given[:1].expand(50, 7).log(), splits=1)[0] == pytest.approx(1)
    few = [metrics.inception_score(given[torch.randperm(400)[:20]].log(), splits=1)[0] for _ in range(200)]
    assert np.log(few).mean() < math.log(score) - 4 * np.log(few).std() / 200**0.5  # too low, on average


def covariance(size, generator):
    part = torch.randn(size, 2 * size, generator=generator) / size**0.5
    return part @ part.T


def root(matrix):
    return torch.as_tensor(linalg.sqrtm(matrix.numpy()).real)


@pytest.mark.parametrize("seed", SEEDS)
def test_fid_is_the_transport_of_gaussians(seed):
    """The map M, the bound for every M and every plan, and the closed form, in 5 dimensions."""
    generator = torch.Generator().manual_seed(seed)
    first, second = covariance(5, generator), covariance(5, generator)
    half = root(first)
    S = root(half @ second @ half)
    M = half.inverse() @ S @ half.inverse()
    assert torch.allclose(M, M.T) and torch.linalg.eigvalsh(M).min() > 0
    assert M @ first @ M == pytest.approx(second, abs=1e-8)
    assert (M.inverse() @ second) == pytest.approx(first @ M, abs=1e-8)
    best = S.trace()
    assert (first @ M).trace().item() == pytest.approx(best.item())  # what the plan y = M x reaches
    for _ in range(20):
        other = covariance(5, generator) + 0.1 * torch.eye(5)
        assert (other @ first).trace() + (other.inverse() @ second).trace() >= 2 * best - 1e-9
    means = torch.randn(2, 5, generator=generator)
    closed = (means[0] - means[1]).square().sum() + first.trace() + second.trace() - 2 * best
    assert metrics.frechet_distance((means[0], first), (means[1], second)) == pytest.approx(closed.item())
    eigenvalues = torch.linalg.eigvals(first @ second)
    assert eigenvalues.real.sqrt().sum().item() == pytest.approx(best.item())
    nuclear = torch.linalg.matrix_norm(half @ root(second), "nuc")
    assert nuclear.item() == pytest.approx(best.item())


@pytest.mark.parametrize("seed", SEEDS)
def test_fid_is_below_the_transport_of_any_laws_with_these_moments(seed):
    """Laws on 40 points in 4 dimensions: their W2 exactly, their moments exactly."""
    torch.manual_seed(seed)
    x, y = torch.randn(40, 4) ** 3, torch.rand(40, 4) * torch.tensor([1.0, 2, 3, 4])

    def moments(points):
        return points.mean(0), points.T.cov(correction=0)

    distance = metrics.wasserstein(x, y, order=2) ** 2
    assert metrics.frechet_distance(moments(x), moments(y)) < distance
    moved = x @ torch.diag(torch.tensor([1.0, 2.0, 0.5, 3.0])) + 1  # a positive map: equal
    assert metrics.frechet_distance(moments(x), moments(moved)) == pytest.approx(
        metrics.wasserstein(x, moved, order=2) ** 2
    )
    coin = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))  # moments of N(0, I), another law
    assert metrics.frechet_distance(moments(coin), (torch.zeros(4), torch.eye(4))) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize(("seed", "q", "constant"), [(0, 4, 0), (1, 4, 0), (2, 4, 1), (3, 20, 0), (4, 20, 6)])
def test_fid_is_too_large_by_at_least_the_trace_over_n(seed, q, constant):
    """Ten samples: for q = 20 every estimate is singular; with constant features the reference is, too."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.diag((torch.arange(q) >= constant).double())
    reference = (torch.zeros(q), kept @ covariance(q, generator) @ kept)
    law = torch.randn(60, q, generator=generator) ** 3 / 3 @ kept  # a law on 60 points
    truth = metrics.frechet_distance((law.mean(0), law.T.cov(correction=0)), reference)
    size, repeats = 10, 1000
    values = []
    for _ in range(repeats):
        sample = law[torch.randint(60, (size,), generator=generator)]
        values.append(metrics.frechet_distance(metrics.feature_statistics(sample), reference))
    mean, error = np.mean(values), np.std(values) / repeats**0.5
    assert mean > truth + law.T.cov(correction=0).trace().item() / size - 3 * error
    assert mean > truth + 4 * error


def test_the_infimum_of_the_bias_holds_for_singular_covariances():
    """2 tr S is below each M's sum, and M of the two with epsilon I comes near to it."""
    generator = torch.Generator().manual_seed(0)
    first, second = covariance(6, generator), torch.randn(6, 2, generator=generator)
    first[0], first[:, 0] = 0, 0
    second = second @ second.T  # of rank two
    best = 2 * torch.linalg.eigvals(first @ second).real.clamp(min=0).sqrt().sum().item()
    found = []
    for epsilon in (1e-1, 1e-4, 1e-8):
        a, b = (matrix + epsilon * torch.eye(6) for matrix in (first, second))
        values, vectors = torch.linalg.eigh(a)
        a_half, a_inverse = (vectors @ torch.diag(values**power) @ vectors.T for power in (0.5, -0.5))
        M = a_inverse @ root(a_half @ b @ a_half) @ a_inverse
        found.append(((M @ first).trace() + (M.inverse() @ second).trace()).item())
        assert found[-1] >= best - 1e-6
    assert found[-1] == pytest.approx(best, abs=0.01) and found[0] > best + 0.05


def test_the_bias_of_fid_is_a_line_in_one_over_n(printed):
    """Slopes above the trace; each mean within 4 errors and 3 % of its line from N = 500 on."""
    stored = figures.measured()
    for name in ("real", "blurred"):
        intercept, slope = figures.line(name)
        assert slope > stored[f"trace_{name}"]
        for size, (mean, error) in list(zip(measured.SIZES, stored[f"bias_{name}"], strict=True))[2:]:
            assert abs(mean - intercept - slope / size) < 4 * error + 0.03 * mean
        assert (np.diff(stored[f"bias_{name}"][:, 0]) < 0).all()  # of 40 draws each
    assert figures.line("blurred")[0] > figures.line("real")[0] + 10
    inverse = 1 / np.array(measured.SIZES[2:])
    for name in ("real", "blurred"):  # the printed errors: the fit of a thousand redrawn sets of points
        mean, error = stored[f"bias_{name}"][2:].T
        draws = mean + error * np.random.default_rng(0).normal(size=(1000, len(mean)))
        fits = np.array([np.polyfit(inverse, draw, 1, w=1 / error) for draw in draws])
        for cell, values in zip(printed[f"bias_{name}"][1:3], (fits[:, 1], fits[:, 0]), strict=True):
            value, spread = map(number, cell.split(" ± "))
            assert spread == pytest.approx(values.std(), rel=0.3)
            assert value == pytest.approx(values.mean(), abs=0.6 * spread)


def test_precision_and_recall_of_the_discs(printed):
    """By distances alone, and what the slide says of each column."""
    scores = []
    for data, samples in figures.discs().values():
        gaps = np.linalg.norm(data[:, None] - samples, axis=-1)
        scores.append(
            [
                (gaps <= figures.radii(data)[:, None]).any(0).mean(),
                (gaps <= figures.radii(samples)).any(1).mean(),
            ]
        )
    scores = np.array(scores)
    assert printed["precision"] == [f"{v:.2f}" for v in scores[:, 0]]
    assert printed["recall"] == [f"{v:.2f}" for v in scores[:, 1]]
    (one, one_recall), (wide, wide_recall), (outlier, _) = scores
    assert one > 0.9 and one_recall < 0.4 and wide < 0.6 and wide_recall > 0.8 and outlier > wide + 0.2


@torch.no_grad()
def test_the_stored_scores_are_those_of_the_shipped_classifier():
    torch.set_default_dtype(torch.float32)
    model, stored = measured.classifier(), figures.measured()
    first, second = (measured.features_of(model, half) for half in measured.halves(0))
    assert stored["fooled"][0, 1] == pytest.approx(measured.distance_of(second, first), rel=1e-3)
    splits = measured.data.load_images("mnist")
    pool = torch.cat([splits.valid.images, splits.test.images])
    trace = metrics.feature_statistics(measured.features_of(model, pool))[1].trace().item()
    assert stored["trace_real"] == pytest.approx(trace, rel=1e-4)


def test_with_error_cuts_both_at_the_error():
    cases = {(3467.3, 100.4): "3,470 ± 100", (2669.0, 463.0): "2,700 ± 500", (0.553, 0.043): "0.55 ± 0.04"}
    for pair, expected in cases.items():
        assert figures.with_error(*pair) == expected


def test_where_scores_are_fooled(printed):
    rows = dict(zip(figures.SETS, figures.measured()["fooled"], strict=True))
    assert rows["one"][0] > rows["test"][0] and rows["one"][3] < 0.05 and rows["one"][1] > 50
    assert figures.measured()["one_once"][1] > 0.9  # without copies the balls are huge
    floor, floors = rows["test"], figures.measured()["floors"]
    assert printed["floor"] == [f"{floors.min():.1f}", f"{floors.max():.1f}"]
    assert floors.max() < rows["memorised"][1] and number(printed["ordered_halves"]) > 10 * floors.max()
    assert rows["memorised"][1] < 20 and abs(rows["memorised"][0] - floor[0]) < 0.2  # not seen
    assert min(rows["memorised"][2:]) > 0.8
    assert rows["missing"][0] < 6 and rows["missing"][3] < 0.7 < rows["missing"][2]
    assert rows["noise"][2] < 0.5 and rows["noise"][3] == 0
    assert number(printed["sorted_score"]) < 1.5 < 9 < number(printed["true_score"])
    assert len(printed["fooled"]) == 5 * len(figures.SETS)


def test_a_symmetric_routine_on_a_product(printed):
    wrong, right = map(number, printed["eigvalsh"])
    first, second = (matrix.numpy() for matrix in figures.random_covariances())
    assert np.trace(linalg.sqrtm(first @ second)).real == pytest.approx(right, abs=0.006)
    assert abs(wrong - right) > 0.1


def test_the_printed_distances_of_equal_gaussians_fall_like_one_over_n(printed):
    """The order of the sizes, and the law 1/N to a tenth between 500 and 5,000."""
    values = list(map(number, printed["gaussian_fid"]))
    assert values[0] > values[1] > values[2] > 0
    assert values[1] / values[2] == pytest.approx(10, rel=0.1)


# --- Printed ---------------------------------------------------------------------------------------------


def published_rows(title):
    """Return the rows of a slide's tables by their first cell; * is bold."""
    rows = table_rows("lecture11", title)
    return {name: [cell.replace("*", "") for cell in cells] for name, cells in rows.items()}


PUBLISHED = {
    "real images": ["11.24 ± .12", "7.8"],
    "clipping, convolutional": ["6.41 ± .11", "42.6"],
    "WGAN-GP, convolutional": ["6.68 ± .06", "40.2"],
    "SNGAN, convolutional": ["7.42", "29.3"],
    "SNGAN, residual": ["8.22 ± .05", "21.7 ± .21"],
    "WGAN-GP, residual": ["7.86 ± .07", ""],
    "MNIST": ["6.8 ± 0.5", "7.8 ± 0.6", "6.7 ± 0.4", "20.3 ± 5.0"],
    "Fashion-MNIST": ["26.5 ± 1.6", "30.7 ± 2.2", "21.5 ± 1.6", "24.5 ± 2.1"],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_slide_has_the_published_numbers_as_they_were_entered_here(name):
    """Against a slip in one of two copies; the sources themselves are not at hand."""
    cells = published_rows("Published results")[name]
    assert cells[: len(PUBLISHED[name])] == PUBLISHED[name]
