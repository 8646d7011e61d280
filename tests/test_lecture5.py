"""What lecture 5 claims: rank-one determinants, couplings, Glow, pixels to bits, flows as posteriors."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch import nn
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, kl_divergence

from dgm_utils import checks, data, metrics, nets
from lectures.lecture5 import figures, trained_flows
from lectures.lecture5.figures import MARGIN, WrongJoin, WrongSign, stored
from lectures.lecture5.trained_flows import BANANA_LAYERS, ENERGY_LAYERS, LEVELS, LIMIT, POINTS, S

SEEDS = range(5)
pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


def redrawn(module):
    """Draw every parameter anew: a layer that starts as the identity hides faults."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def log_det_by_autograd(layer, x):
    """Return log |det J| at x (1, ...) from the whole Jacobian."""
    full = jacobian(lambda x: layer(x)[0].flatten(), x).reshape(x.numel(), x.numel())
    return torch.linalg.slogdet(full).logabsdet


def coupling(m, kind=S.AffineCoupling):
    return kind(torch.arange(m) % 2 == 0, nets.mlp(m // 2, 8, m, activation=nn.Tanh))


# --- Composition and rank one ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_one_pass_serves_a_density_and_a_posterior(seed):
    torch.manual_seed(seed)
    m = 6
    chain = redrawn(S.Chain([S.Planar(m), coupling(m), S.Radial(m), S.ActNorm(m), coupling(m)]))
    h0 = torch.randn(1, m)
    hT, total = chain(h0)
    assert total.item() == pytest.approx(log_det_by_autograd(chain, h0).item())
    back = jacobian(lambda h: chain.inverse(h), hT).reshape(m, m)  # the density of h_T, from the other side
    from_h0 = S.log_normal(chain.inverse(hT)) + torch.linalg.slogdet(back).logabsdet
    assert (S.log_normal(h0) - total).item() == pytest.approx(from_h0.item(), abs=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_determinant_of_a_change_of_low_rank(rank):
    d = 7
    a, u, v = torch.randn(d, d), torch.randn(d, rank), torch.randn(d, rank)
    small = torch.eye(rank) + v.T @ torch.linalg.solve(a, u)
    assert torch.linalg.det(a + u @ v.T).item() == pytest.approx((small.det() * a.det()).item())
    left = torch.cat(
        [torch.cat([torch.eye(d), torch.zeros(d, rank)], 1), torch.cat([v.T, torch.eye(rank)], 1)]
    )
    middle = torch.cat([torch.cat([torch.eye(d) + u @ v.T, u], 1), torch.eye(d + rank)[d:]])
    right = torch.cat(
        [torch.cat([torch.eye(d), torch.zeros(d, rank)], 1), torch.cat([-v.T, torch.eye(rank)], 1)]
    )
    end = torch.cat(
        [torch.cat([torch.eye(d), u], 1), torch.cat([torch.zeros(rank, d), torch.eye(rank) + v.T @ u], 1)]
    )
    assert torch.allclose(left @ middle @ right, end)
    assert torch.linalg.det(torch.eye(784) + torch.ones(784, 784)).item() == pytest.approx(785)


# --- Planar and radial -----------------------------------------------------------------------------------


def planar_pair(c, d=5):
    """Return w and u with w.u = c."""
    w, u = torch.randn(2, d)
    return w, u + (c - w @ u) * w / (w @ w)


@pytest.mark.parametrize("c", [-0.999, -0.5, 0.0, 3.0])
def test_a_planar_layer_above_minus_one_is_a_diffeomorphism(c):
    w, u = planar_pair(c)
    z = 3 * torch.randn(200, 5)
    for point in z[:20]:
        full = jacobian(lambda z: figures.raw_planar(z, u, w), point)
        slope = 1 - torch.tanh(w @ point) ** 2
        assert full.det().item() == pytest.approx((1 + slope * c).item()) and full.det() > 0
    image = figures.raw_planar(z, u, w)
    found = [optimize.brentq(lambda s, t=t: s + c * np.tanh(s) - t, -60, 60) for t in (image @ w).tolist()]
    back = image - u * torch.tanh(torch.tensor(found))[:, None]
    assert (back - z).abs().max() < 1e-8


def test_a_planar_layer_at_minus_one_has_an_inverse_without_derivative():
    w, u = planar_pair(-1.0)
    s = torch.linspace(-3, 3, 2001)
    assert (s - torch.tanh(s)).diff().min() > 0  # increasing
    at_zero = jacobian(lambda z: figures.raw_planar(z, u, w), torch.zeros(5))
    assert abs(at_zero.det().item()) < 1e-12


@pytest.mark.parametrize("c", [-1.05, -2.5])
def test_a_planar_layer_below_minus_one_folds(c):
    w, u = planar_pair(c)
    s1 = optimize.brentq(lambda s: s + c * np.tanh(s), 1e-3, 50)  # phi(s1) = phi(-s1) = 0
    z1 = s1 * w / (w @ w)
    z2 = z1 + u * 2 * math.tanh(s1)  # as the proof builds it: w.z2 = -s1
    assert (z1 - z2).norm() > 0.1
    assert torch.allclose(figures.raw_planar(z1, u, w), figures.raw_planar(z2, u, w))


def test_u_hat_keeps_every_layer_invertible_and_the_wrong_denominator_does_not(printed):
    for scale in (0.01, 1.0, 30.0):
        u, w = scale * torch.randn(2, 5000, 8)
        hat, inner = S.feasible(u, w)
        assert torch.allclose((hat * w).sum(dim=1), inner, atol=1e-6 * scale**2)
        assert inner.min() >= -1 and inner.isfinite().all()
    assert [figures.wrong_hat_share(d, power=2) for d in (2, 4, 16)] == [0, 0, 0]
    assert printed["right_hat"] == ["0.0"] * 3
    rng = np.random.default_rng(7)
    for d, share in zip((2, 4, 16), printed["wrong_hat"], strict=True):
        u, w = rng.normal(size=(2, 200_000, d))
        c, norm = (u * w).sum(axis=1), np.linalg.norm(w, axis=1)
        folded = 100 * (c + norm * (np.logaddexp(0, c) - 1 - c) < -1).mean()
        assert folded == pytest.approx(float(share), abs=0.05 + 5 * 2**0.5 * float(printed["hat_error"]))


def test_u_hat_rounds_to_the_fold_in_single_precision(printed):
    edge = float(printed["hat_rounds"].replace("\N{MINUS SIGN}", "-"))
    below, above = np.float32(edge - 0.1), np.float32(edge + 0.1)
    one = np.float32(1)
    assert np.float32(np.log1p(np.exp(below))) - one == -1  # NumPy's, not the seminar's
    assert np.float32(np.log1p(np.exp(above))) - one > -1
    assert math.log1p(math.exp(edge - 0.1)) - 1 > -1  # in exact arithmetic, nearly: no fold


def test_the_way_back_of_a_planar_layer_is_a_bisection(monkeypatch):
    """The table of costs: f: x -> z gives a likelihood in T steps, a sample in T bisections."""
    layers, calls, bisections = 4, 0, 0
    tanh, bisect = torch.tanh, S.planar_inverse.__globals__["bisect"]

    def counted(x):
        nonlocal calls
        calls += 1
        return tanh(x)

    def watched(*args):
        nonlocal bisections
        bisections += 1
        return bisect(*args)

    flow = S.Flow([S.Planar(3) for _ in range(layers)])
    monkeypatch.setattr(torch, "tanh", counted)
    monkeypatch.setitem(S.planar_inverse.__globals__, "bisect", watched)
    flow.log_prob(torch.zeros(2, 3))
    assert (calls, bisections) == (layers, 0)
    flow.sample(2, 3)
    assert bisections == layers and calls > 20 * layers


def test_bisection_gains_one_bit_a_halving():
    errors = np.array(figures.bisection_errors(2.0, (5, 10, 15, 20)))
    assert (errors <= 4 * 0.5 ** np.array([5, 10, 15, 20]) * 0.5).all()
    assert (errors > 0.05 * 4 * 0.5 ** np.array([5, 10, 15, 20])).all()


@pytest.mark.parametrize("beta", [-0.9, 0.5, 4.0])
def test_the_determinant_of_a_radial_layer(beta):
    alpha, d = 1.3, 5
    z = torch.randn(d)
    full = jacobian(lambda z: figures.raw_radial(z, beta * alpha, alpha), z)
    h, r = 1 / (alpha + z.norm()), z.norm()
    assert full.det().item() == pytest.approx(
        ((1 + beta * alpha * h) ** (d - 1) * (1 + alpha * beta * alpha * h**2)).item()
    )
    assert (d - 1) * torch.log1p(beta * alpha * h) + torch.log1p(
        alpha * beta * alpha / (alpha + r) ** 2
    ) == pytest.approx(full.logdet().item())


def test_a_radial_layer_below_minus_alpha_sends_a_sphere_to_its_centre():
    z = torch.randn(50, 4)
    z = z / z.norm(dim=1, keepdim=True) * (2.5 - 1.0)  # r = -beta - alpha
    assert figures.raw_radial(z, beta=-2.5, alpha=1.0).abs().max() < 1e-12


def test_what_is_said_of_the_energies(printed):
    """Two branches are hardest; energy 1 has no gap, its density is positive everywhere: the smallest KL."""
    deep = stored("planes")["energy_kl_32"]
    assert deep[0, 0] == deep[:, 0].min() and deep[2:, 0].min() > deep[:2, 0].max() + 5 * deep[:, 1].max()
    (eight, eight_error), (deeper, error) = (stored("planes")[f"energy_kl_{T}"][1] for T in (8, 32))
    assert deeper - eight > 5 * math.hypot(error, eight_error)  # energy 2: depth is no promise
    assert figures.energy_targets()[0].isfinite().all()
    for layers in ENERGY_LAYERS:
        for text, (kl, kl_error) in zip(
            printed[f"energies_{layers}"], stored("planes")[f"energy_kl_{layers}"], strict=True
        ):
            assert [float(part) for part in text.split(" ± ")] == pytest.approx([kl, kl_error], abs=5.1e-4)


@pytest.mark.parametrize("weight", [trained_flows.HEAT_START, 1.0])
def test_the_energy_is_heated(monkeypatch, weight):
    """Weights of the energy at the first step, and in the second half."""
    seen = []

    def energy(z):
        seen.append(None)
        return torch.ones_like(z[..., 0])

    losses = []

    def one_cycle(loss, flows, rate, steps):
        def step(noise):
            losses.append((loss(noise)["loss"] - flows(noise)[1].mean(dim=1).sum()).item())
            return {"loss": torch.zeros(())}

        return step

    monkeypatch.setattr(trained_flows.train, "one_cycle", one_cycle)
    trained_flows.fit_planar(energy, runs=1, layers=1, steps=1000, seed=0)
    assert len(seen) == 1000
    found = losses[0] if weight < 1 else losses[500]
    assert found == pytest.approx(weight, abs=0.003)


# --- Couplings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_the_jacobian_of_a_coupling_is_triangular_after_one_permutation(seed):
    torch.manual_seed(seed)
    m = 6
    mask = torch.zeros(m, dtype=torch.bool)
    mask[torch.randperm(m)[:3]] = True
    layer = redrawn(S.AffineCoupling(mask, nets.mlp(3, 8, 6, activation=nn.Tanh)))
    x = torch.randn(1, m)
    order = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
    full = jacobian(lambda x: layer(x)[0][0], x)[:, 0][order][:, order]
    log_scale, _ = layer.scale_and_shift(x[:, mask])
    assert torch.equal(full[:3, 3:], torch.zeros(3, 3)) and torch.equal(full[:3, :3], torch.eye(3))
    assert torch.allclose(full[3:, 3:], log_scale[0].exp().diag()) and full[3:, :3].abs().min() > 1e-9
    assert layer(x)[1].item() == pytest.approx(log_scale.sum().item())


def test_which_small_tests_hide_which_fault(printed):
    rows = {
        name: row for name, row in printed.items() if name.startswith("fault_") and name != "fault_points"
    }
    zero = {name: [error == "0" for error in row] for name, row in rows.items()}
    assert zero["fault_join"] == [True, False, False]
    assert zero["fault_join_zero"] == [True, True, False]
    assert zero["fault_sign"] == [False, False, False]
    assert zero["fault_sign_zero"] == zero["fault_none"] == [True, True, True]
    for m, returns in ((2, True), (4, True), (6, False)):  # interleave twice: a matter of permutations
        order = [*range(0, m, 2), *range(1, m, 2)]
        assert ([order[i] for i in order] == list(range(m))) == returns
    x = torch.randn(8, 6)
    for fault in (WrongJoin(nets.mlp(3, 8, 6)), coupling(6, WrongSign)):
        checks.log_det(fault, x)  # the determinant is right: only the round trip tells
        with pytest.raises(checks.CheckFailed):
            checks.invertible(fault, x)


def test_couplings_that_keep_volume_lose_what_the_theorem_says(printed):
    m = 4
    root = torch.randn(m, m)
    covariance = 0.05 * (root @ root.T + 0.3 * torch.eye(m))
    pi = MultivariateNormal(torch.zeros(m), covariance)
    v = math.exp(2 * pi.entropy().item() / m) / (2 * math.pi * math.e)
    bound = m / 2 * (v - 1 - math.log(v))
    noise = MultivariateNormal(torch.zeros(m), torch.eye(m))

    def kl(a):  # f(x) = a x
        return kl_divergence(MultivariateNormal(torch.zeros(m), a @ covariance @ a.T), noise).item()

    for _ in range(50):
        a = torch.randn(m, m)
        assert kl(a / a.det().abs() ** (1 / m)) > bound
    values, vectors = torch.linalg.eigh(covariance)
    best = v**0.5 * vectors @ (values**-0.5).diag() @ vectors.T
    assert best.det().item() == pytest.approx(1) and kl(best) == pytest.approx(bound)
    layer = redrawn(coupling_additive(6))
    x = torch.randn(3, 6)
    assert layer(x)[1].abs().max() == 0 and abs(log_det_by_autograd(layer, x[:1]).item()) < 1e-12
    tenth = MultivariateNormal(torch.zeros(m), 0.01 * torch.eye(m))
    assert kl_divergence(tenth, noise).item() / m == pytest.approx(float(printed["volume_cost"]), abs=5e-3)


def coupling_additive(m):
    return S.AdditiveCoupling(torch.arange(m) % 2 == 0, nets.mlp(m // 2, 8, m // 2, activation=nn.Tanh))


@pytest.mark.parametrize("seed", SEEDS)
def test_three_couplings_mix_everything_and_two_do_not(seed):
    torch.manual_seed(seed)
    masks = [torch.arange(8) < 4, torch.arange(8) >= 4] * 2
    layers = [redrawn(S.AdditiveCoupling(mask, nets.mlp(4, 16, 4, activation=nn.Tanh))) for mask in masks]
    x = torch.randn(1, 8)
    seen = [
        jacobian(lambda x, n=n: S.Chain(layers[:n])(x)[0][0], x)[:, 0].abs() > 1e-12 for n in (1, 2, 3, 4)
    ]
    for count, pattern in enumerate(seen, start=1):
        assert torch.equal(pattern, figures.mixing_jacobian(count).abs() > 1e-12)
    assert torch.equal(seen[1][4:, 4:], torch.eye(4, dtype=torch.bool)) and seen[1][:4].all()
    assert seen[2].all() and seen[3].all()


def test_a_layer_of_the_moons_moves_one_axis():
    path = stored("moons")["path"]
    for t, (before, after) in enumerate(itertools.pairwise(path)):
        stays = t % 2
        assert (before[:, stays] == after[:, stays]).all()
        assert (before[:, 1 - stays] != after[:, 1 - stays]).mean() > 0.99
    assert np.abs(path).max() < figures.WINDOW  # no point is cut away
    mean, error = stored("moons")["kl"]
    assert mean > 3 * error
    upper = figures.is_upper(path[0])
    y = path[0][:, 1]
    assert 0.4 < upper.mean() < 0.6 and (y[upper] > -0.65).all() and (y[~upper] < 0.65).all()


def test_likelihood_and_samples_call_every_network_once():
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    glow = trained_flows.glow_flow()
    steps = trained_flows.GLOW["levels"] * trained_flows.GLOW["steps"]
    for flow, x, expected in (
        (trained_flows.digit_flow(scaled=True), torch.rand(2, 64), trained_flows.COUPLINGS),
        (trained_flows.digit_flow(scaled=False), torch.rand(2, 64), trained_flows.COUPLINGS),
        (glow, torch.rand(2, 1, 28, 28), steps),
    ):
        for layer in flow.modules():
            if isinstance(layer, S.AffineCoupling | S.AdditiveCoupling):
                layer.network.register_forward_hook(count)
        for act in (
            lambda flow=flow, x=x: flow.log_prob(x),
            lambda flow=flow, x=x: flow.sample(2, x[0].numel()),
        ):
            calls = 0
            act()
            assert calls == expected
    assert [int(np.prod(shape)) for shape in glow.layers[1].shapes] == [392, 392]


# --- Glow ------------------------------------------------------------------------------------------------


def test_levels_that_leave_early_add_up():
    glow = redrawn(S.Glow((1, 8, 8), levels=3, steps=1, width=4))
    x = torch.rand(1, 1, 8, 8)
    z, total = glow(x)
    assert total.item() == pytest.approx(log_det_by_autograd(glow, x).item())
    h, by_level, parts = x, [], []
    for level in glow.levels:
        by_level.append(log_det_by_autograd(level, h))
        h, leaving = level(h)[0].chunk(2, dim=1) if level is not glow.levels[-1] else (None, level(h)[0])
        parts.append(leaving.flatten(1))
    assert torch.equal(torch.cat(parts, dim=1), z)
    assert sum(by_level).item() == pytest.approx(total.item())
    assert [part.numel() for part in parts] == [32, 16, 16]
    assert (glow.inverse(z) - x).abs().max() < 1e-9


def test_a_one_by_one_convolution_is_the_same_matrix_in_every_pixel():
    layer = redrawn(S.InvertibleConv(4))
    x = torch.randn(1, 4, 2, 3)
    full = jacobian(lambda x: layer(x)[0][0], x)[:, :, :, 0]  # (4, 2, 3, 4, 2, 3)
    by_pixel = full.permute(1, 2, 0, 4, 5, 3).reshape(24, 24)
    assert torch.allclose(by_pixel, torch.block_diag(*[layer.matrix()] * 6))
    assert layer(x)[1].item() == pytest.approx(6 * torch.linalg.slogdet(layer.matrix()).logabsdet.item())


def test_the_operations_of_a_convolution_and_of_an_elimination(printed):
    c, n = figures.CONV_CHANNELS, figures.CONV_SIDE**2

    def elimination(size):  # below each pivot: a quotient a row, then a product and a difference an entry
        return sum((size - k) + 2 * (size - k) ** 2 for k in range(1, size + 1))

    def plain(text):
        return int(text.replace("\N{THIN SPACE}", ""))

    assert plain(printed["conv_multiply"]) == 2 * c**2 * n
    assert plain(printed["conv_lu"]) == pytest.approx(elimination(c), rel=0.02)
    brute = printed["conv_brute"]
    assert brute["mantissa"] * 10 ** brute["exponent"] == pytest.approx(2 / 3 * (c * n) ** 3, rel=0.02)
    assert elimination(3) == 2 * (1 + 4) + 2 + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_every_invertible_matrix_has_the_form_p_l_u(seed):
    torch.manual_seed(seed)
    wanted, layer = torch.randn(7, 7), S.InvertibleConv(7)
    permutation, lower, upper = torch.linalg.lu(wanted)
    layer.load_state_dict(
        {
            "permutation": permutation,
            "signs": upper.diagonal().sign(),
            "lower": lower.tril(-1),
            "upper": upper.triu(1),
            "log_size": upper.diagonal().abs().log(),
        }
    )
    assert torch.allclose(layer.matrix(), wanted)
    sign = layer.matrix().det().sign()
    redrawn(layer)
    assert layer.matrix().det().sign() == sign  # P and the signs are fixed
    assert layer.log_size.sum().item() == pytest.approx(torch.linalg.slogdet(layer.matrix()).logabsdet.item())


def test_what_is_no_buffer_is_lost(printed):
    for name, change in (("actnorm_reload", figures.actnorm_change), ("conv_reload", figures.conv_change)):
        assert change(kept=True) == 0 and change(kept=False) > 1
        assert printed[name][0] == "0.0" and float(printed[name][1]) > 1
    assert set(S.InvertibleConv(4).state_dict()) == {"permutation", "signs", "lower", "upper", "log_size"}


# --- Pixels ----------------------------------------------------------------------------------------------


def test_the_log_slope_of_the_logit():
    y = torch.rand(1, 6)
    q = MARGIN + (1 - 2 * MARGIN) * y
    formula = (math.log(1 - 2 * MARGIN) - q.log() - (1 - q).log()).sum()
    assert formula.item() == pytest.approx(log_det_by_autograd(S.Logit(MARGIN), y).item())
    assert S.Logit(MARGIN)(y)[1].item() == pytest.approx(formula.item())
    assert math.exp(S.Logit(MARGIN)(torch.zeros(1, 1))[1]) == pytest.approx(18.95, abs=0.01)  # "at most 19"


def test_a_flow_leaves_the_cube_of_the_logit(printed):
    """With a margin the image is a cube again; a normal on R^m keeps only a part of its mass on it."""
    ends = S.Logit(MARGIN)(torch.tensor([[0.0], [1.0]]))[0].flatten()
    assert ends.isfinite().all() and ends[1].item() == pytest.approx(math.log(0.95 / 0.05))
    y = (torch.arange(20_000)[:, None] + 0.5) / 20_000
    v, log_det = S.Logit(MARGIN)(y)
    mass = (S.log_normal(v) + log_det).exp().mean().item()  # of p_y on (0, 1)
    assert mass == pytest.approx(2 * stats.norm.cdf(ends[1].item()) - 1, abs=1e-6) and mass < 0.997
    glow = stored("glow")
    share, error = glow["pixels_outside"]
    assert share > 5 * error and glow["images_outside"][0] > 0.9
    inside = round((1 - glow["images_outside"][0]) * glow["judged"])
    assert printed["glow_images_outside"].startswith(f"{inside} of ")


def test_the_shipped_glow_returns_every_grey_level():
    flow = trained_flows.weights.load(trained_flows.glow_flow(), "seminar5-glow").float().eval()
    test = (data.load_images("mnist").test.images[:20].int() * LEVELS // 256).to(torch.uint8)
    y = data.dequantize(test, levels=LEVELS, seed=3).float()
    with torch.no_grad():
        back = flow.inverse(flow(y)[0])
    assert (trained_flows.grey(back) == test[:, 0].numpy()).all()
    stored_glow = stored("glow")
    assert (back.view_as(y) - y).abs().max().item() < 4 * stored_glow["round_trip"]
    assert stored_glow["levels_changed"] == 0 and (stored_glow["returned"] == stored_glow["test"]).all()


def test_what_is_said_of_the_small_digits(printed):
    test = S.small_digits(data.load_images("mnist").test.images)
    places = (torch.arange(20) + 0.5) / 20  # in the cell, instead of noise
    y = (test[:2000, ..., None] + places) / LEVELS
    q = MARGIN + (1 - 2 * MARGIN) * y
    off = (np.log(1 - 2 * MARGIN) - q.log() - (1 - q).log()).mean().item() / math.log(2)
    assert float(printed["logit_bits"]) == pytest.approx(off, abs=0.02)
    black = (test == 0).double().mean().item()  # of test digits; the slide counts training digits
    assert float(printed["clip_share"]) == pytest.approx(100 * black * MARGIN * LEVELS, abs=1)
    assert np.array_equal(stored("digits")["test"], test[:32, 0].numpy())


@pytest.mark.parametrize("width", [1e-2, 1e-4])
def test_what_the_clipped_logit_claims(width):
    """By simulation: pixels are drawn, clipped, mapped and scored as a program would."""
    rng = np.random.default_rng(0)
    shares, edge = figures.level_shares(), figures.clipped_masses()
    level = rng.choice(LEVELS, 400_000, p=shares)
    y = (level + rng.random(len(level))) / LEVELS
    clipped = np.clip(y, MARGIN, 1 - MARGIN)
    log_slope = -np.log(clipped) - np.log1p(-clipped)
    v = np.log(clipped) - np.log1p(-clipped)
    ends = np.log(MARGIN / (1 - MARGIN)) * np.array([1, -1])
    log_p = np.log(LEVELS * shares[level]) - log_slope  # of v, where nothing is clipped
    for end, mass, hit in zip(ends, edge, (y <= MARGIN, y >= 1 - MARGIN), strict=True):
        assert hit.mean() == pytest.approx(mass, abs=0.005)
        log_p[hit] = np.log(mass) + stats.norm.logpdf(v[hit], end, width)
    bits = -(log_p + log_slope) / np.log(2) + np.log2(LEVELS)
    error = bits.std() / len(bits) ** 0.5
    assert figures.clip_claim(width) == pytest.approx(bits.mean(), abs=5 * error)


def test_a_tenfold_narrower_spike_claims_the_same_again(printed):
    claims = [figures.clip_claim(width) for width in (1e-2, 1e-3, 1e-4)]
    assert np.diff(claims) == pytest.approx(2 * [-figures.clipped_masses().sum() * np.log2(10)])
    assert float(printed["clip_claims"][0]) < float(printed["clip_entropy"])
    widest = figures.clip_claim(figures.CLIP_WIDTHS.max())  # the curve starts below the entropy
    assert 0.9 * float(printed["clip_entropy"]) > widest > 0 > figures.clip_claim(1e-3)


def test_nice_in_bits():
    """4.36 is 1980.50 nats in units of the whole range of a pixel, 784 of them at 256 levels."""
    assert metrics.bits_per_dim(-1980.50, 784, levels=256) == pytest.approx(4.36, abs=5e-3)


def test_realnvp_is_below_the_baselines_and_nice_above_realnvp(printed):
    small = stored("digits")
    (nice, nice_error), (realnvp, error) = small["nice_bits"], small["realnvp_bits"]
    assert realnvp + 5 * error < min(small["pixels"], small["zlib"])
    assert realnvp + 5 * (error + nice_error) < nice
    a, b = trained_flows.PIXELS // 2, trained_flows.WIDTH  # inputs and hidden units of a network

    def network(outputs):
        return a * b + b + b * b + b + b * outputs + outputs

    couplings, scaling = trained_flows.COUPLINGS, 2 * trained_flows.PIXELS
    sizes = [couplings * network(a) + 2 * scaling, couplings * network(2 * a) + scaling]
    assert [int(text.replace("\N{THIN SPACE}", "")) for text in printed["small_sizes"]] == sizes


# --- Posteriors ------------------------------------------------------------------------------------------


def test_the_log_density_at_the_end_of_an_amortised_flow():
    """log q(z_T) is log q(z_0) minus the log-determinants: against the whole Jacobian, example by example."""
    d, T = 4, 3
    flow = S.AmortisedPlanar(d, T)
    assert flow.context == T * (2 * d + 1)
    context, z0 = torch.randn(2, flow.context), torch.randn(2, d)
    _, log_det = flow(z0, context)
    for i in range(2):
        full = jacobian(lambda z, i=i: flow(z, context[i : i + 1])[0][0], z0[i : i + 1])[:, 0]
        assert log_det[i].item() == pytest.approx(torch.linalg.slogdet(full).logabsdet.item())


def test_the_number_of_outputs_of_the_encoder(printed):
    assert printed["amortised_outputs"].replace("\N{THIN SPACE}", "") == str(
        2 * 40 + S.AmortisedPlanar(40, 16).context
    )


def test_most_of_the_price_is_in_the_encoder(printed):
    """A layer more is 2d + 1 outputs more; each costs as many products as the last hidden layer is wide."""
    d, layers, width = printed["vae_latent"], 16, 256
    plain, larger = (int(text.replace("\N{THIN SPACE}", "")) for text in printed["encoder_cost"])
    assert plain == 784 * width + width**2 + width * 2 * d
    assert larger - plain == layers * (2 * d + 1) * width


def test_what_is_printed_of_the_vaes(printed):
    """Settings as stored with the run; bound below estimate; differences paired over images."""
    runs = stored("vae")
    assert printed["vae_steps"].replace("\N{THIN SPACE}", "") == str(runs["steps"])
    assert tuple(runs["layers"]) == trained_flows.VAE_LAYERS and runs["drawn_0"].shape[1:] == (28, 28)
    assert float(printed["vae_passes"]) == pytest.approx(
        runs["steps"] * runs["batch"] / len(data.load_images("mnist").train.images), abs=0.051
    )
    for number, layers in enumerate(runs["layers"]):
        elbo, log_p = runs[f"elbo_{layers}"].astype(float), runs[f"log_p_{layers}"].astype(float)
        assert len(elbo) == trained_flows.TESTED and (elbo <= log_p).all()  # Jensen, draw by draw
        for name, values in (("vae_elbo", elbo), ("vae_log_p", log_p)):
            text = printed[name][number].replace("\N{MINUS SIGN}", "-")
            assert float(text) == pytest.approx(values.mean(), abs=0.051)
        pairs = [("vae_loss", number, log_p - elbo)]
        pairs += [("vae_gain", number - 1, log_p - runs["log_p_0"])] if number else []
        for name, place, values in pairs:
            mean, error = map(float, printed[name][place].replace("\N{MINUS SIGN}", "-").split(" ± "))
            assert mean == pytest.approx(values.mean(), abs=0.0051)
            assert error == pytest.approx(values.std() / len(values) ** 0.5, abs=0.0051)


def test_importance_weights_of_a_planar_posterior_average_to_the_likelihood(printed):
    """E p(x, z_T) / q(z_T) is p(x) for any flow, if log q and the place of the prior are right."""
    flows = trained_flows.PlanarFlows(runs=1, layers=3)
    with torch.no_grad():
        flows.log_scale += 0.3
        z, log_q = flows(torch.randn(1, 400_000, 2))
    weights = (-trained_flows.banana(z) - log_q)[0].exp()
    log_p = trained_flows.log_mass(-trained_flows.banana(trained_flows.grid()))
    assert float(printed["banana_log_p"].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        log_p.item(), abs=5e-3
    )
    error = (weights.std() / len(weights) ** 0.5).item()
    assert error < 0.02 * math.exp(log_p)
    assert weights.mean().item() == pytest.approx(math.exp(log_p), abs=5 * error)


class LastScaled:
    """Stretch the last coordinate by e^a, for every x alike."""

    context = 0

    def __init__(self, a):
        self.a = a

    def __call__(self, z, context):
        stretch = torch.ones(z.shape[-1])
        stretch[-1] = math.exp(self.a)
        return z * stretch, torch.full(z.shape[:-1], self.a)


class PriorAtStart(S.FlowVAE):
    """The fault: log p(z_0) for log p(z_T)."""

    def elbo(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        noise = torch.randn_like(mean)
        z0 = mean + (log_variance / 2).exp() * noise
        z, log_det = self.flow(z0, x[:, :0])
        log_q = S.log_normal(noise) - log_variance.sum(dim=1) / 2 - log_det
        return self.log_likelihood(x, z), log_q - S.log_normal(z0)


@pytest.mark.parametrize("a", [-1.0, 0.0, 0.5, 1.0])
def test_the_objective_with_the_prior_at_the_start_passes_log_p(a):
    """A decoder that ignores z, so that log p(x) is known; q(z_0) = N(0, I), one coordinate scaled by e^a."""
    d, n = 3, 200_000
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1])
    x = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    log_p = -nn.functional.binary_cross_entropy_with_logits(logits[None], x, reduction="sum").item()

    def decoder(z):
        return logits.expand(*z.shape[:-1], 4)

    def encoder(x):
        return torch.zeros(len(x), 2 * d)

    found = {}
    for kind in (S.FlowVAE, PriorAtStart):
        likelihood, kl = kind(encoder, decoder, LastScaled(a), d).elbo(x.expand(n, -1))
        excess = likelihood - kl - log_p
        found[kind] = excess.mean().item(), 5 * (excess.std() / n**0.5).item() + 1e-9
    right, error = found[S.FlowVAE]
    assert right == pytest.approx(figures.right_bound(a).item(), abs=error)
    wrong, error = found[PriorAtStart]
    assert wrong == pytest.approx(a, abs=error)
    assert figures.right_bound(np.linspace(-2, 2, 41)).max() == 0


def kl_on_the_window(log_q, log_p):
    cell = (2 * LIMIT / (POINTS - 1)) ** 2
    return (np.exp(log_q) * (log_q - log_p)).sum() * cell


@pytest.mark.parametrize("layers", BANANA_LAYERS)
def test_the_gap_of_a_planar_posterior_by_quadrature(layers):
    planes = stored("planes")
    kl = planes[f"banana_kl_{layers}"]
    median = kl[kl[:, 0].argsort()[len(kl) // 2]]
    by_quadrature = kl_on_the_window(
        planes[f"banana_{layers}"].astype(float), figures.banana_posterior().numpy()
    )
    assert by_quadrature == pytest.approx(median[0], abs=5 * float(median[1]) + 5e-3)


@pytest.mark.parametrize("layers", ENERGY_LAYERS)
def test_the_divergence_of_planar_flows_from_the_energies_by_quadrature(layers):
    planes = stored("planes")
    for log_q, log_p, (kl, error) in zip(
        planes[f"energy_{layers}"].astype(float),
        figures.energy_targets().numpy(),
        planes[f"energy_kl_{layers}"],
        strict=True,
    ):
        assert kl_on_the_window(log_q, log_p) == pytest.approx(kl, abs=5 * float(error) + 0.01)


def test_the_gap_falls_with_depth(printed):
    medians = [float(gap) for gap in printed["banana_gaps"]]
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > 100 * medians[-1]


# --- Limits ----------------------------------------------------------------------------------------------


def test_no_slope_below_lambda_makes_a_thinner_bridge(printed):
    for ratio, mass in zip((2, 1, 0.1, 0.01), printed["bridge_bound"], strict=True):
        assert float(mass) == pytest.approx(math.erf(ratio / 2 / 2**0.5), abs=5e-4)
    rng = np.random.default_rng(0)
    z = np.linspace(-6, 6, 20_001)
    for _ in range(20):  # increasing maps with random slopes; the gap lies between two equal tails
        slope = np.interp(z, np.linspace(-6, 6, 40), rng.uniform(0.05, 3, 40))
        g = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(z))])
        edge = rng.uniform(0.1, 1.5)
        delta = np.interp(edge, z, g) - np.interp(-edge, z, g)
        mass = 2 * stats.norm.cdf(edge) - 1
        assert mass >= 2 * stats.norm.cdf(delta / (2 * slope.max())) - 1 - 1e-9


@pytest.mark.parametrize("slope", figures.SLOPES)
def test_the_map_with_the_thinnest_bridge_between_two_islands(printed, slope):
    """The drawn map has the slope it is said to have, and its density and mass are those of a simulation."""
    z = np.linspace(-6, 6, 120_001)
    slopes = np.diff(figures.to_islands(z, slope)) / np.diff(z)
    assert slopes.min() > 0 and slopes.max() == pytest.approx(slope)
    n = 400_000
    x = figures.to_islands(np.random.default_rng(1).normal(size=n), slope)
    between = np.abs(x) < figures.GAP / 2
    mass = float(printed["bridge_mass"][figures.SLOPES.index(slope)]) / 100
    assert between.mean() == pytest.approx(mass, abs=5 * (mass / n) ** 0.5 + 5e-4)
    counts, edges = np.histogram(x, bins=40, range=(-2, 2))
    expected = figures.island_density((edges[1:] + edges[:-1]) / 2, slope)
    assert counts / n * 10 == pytest.approx(expected, abs=5 * (0.5 * 10 / n) ** 0.5 + 2e-3)
    assert mass == pytest.approx(math.erf(figures.GAP / 2 / slope / 2**0.5), abs=5e-4)  # the bound is met


def test_at_most_nine_theorems_in_class():
    deck = (figures.FOLDER.parent / "lecture5.typ").read_text(encoding="utf-8")
    in_class, backup = deck.split('#section("Backup")')
    assert in_class.count("#theorem") <= 9
    for slide in in_class.split("#slide(")[1:] + backup.split("#slide(")[1:]:
        assert slide.count("#theorem") == slide.count("*Proof.*"), slide[:60]
