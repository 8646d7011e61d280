"""The definitions of seminar 11 against torch-fidelity, scipy, closed forms; planted mistakes are caught."""

import math
from pathlib import Path

import pytest
import torch
from scipy import linalg, optimize
from torch import nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from dgm_utils import checks, metrics, nets, train
from tools import definitions

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar11" / "seminar11.ipynb"
s11 = definitions.load(NOTEBOOK)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


pytestmark = pytest.mark.usefixtures("double")


# ---- the gradient penalty ----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
def test_the_penalty_of_a_linear_critic_is_known_and_trains_the_critic(shape):
    w = torch.randn(shape, requires_grad=True)
    found = s11.gradient_penalty(lambda x: (x * w).flatten(1).sum(1), *torch.randn(2, 7, *shape))
    exact = (w.norm() - 1) ** 2
    assert found.shape == () and torch.allclose(found, exact)
    for ours, theirs in zip(torch.autograd.grad(found, w), torch.autograd.grad(exact, w), strict=True):
        assert torch.allclose(ours, theirs)


def test_planted_a_norm_over_channels_punishes_a_right_critic():
    w = F.normalize(torch.randn(48), dim=0).view(3, 4, 4)
    x = torch.randn(7, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad((x * w).sum(), x)
    assert ((gradient.norm(dim=1) - 1) ** 2).mean() > 0.4
    assert s11.gradient_penalty(lambda x: (x * w).flatten(1).sum(1), x.detach(), -x.detach()) < 1e-12


def test_the_points_of_the_penalty_lie_on_segments_each_with_its_own_share():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.flatten(1).sum(1)

    real, fake = torch.randn(2, 500, 2, 3)
    s11.gradient_penalty(critic, real, fake)
    share = (seen[0] - fake) / (real - fake)
    assert torch.allclose(share, share[:, :1, :1].expand_as(share)), "one t for all of an example"
    t = share[:, 0, 0]
    assert t.min() >= 0 and t.max() <= 1 and t.std() == pytest.approx(12**-0.5, abs=0.03)


def test_the_penalty_does_not_reach_the_generator():
    fake, w = torch.randn(7, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    s11.gradient_penalty(lambda x: (x**2) @ w, torch.randn(7, 3), fake).backward()
    assert fake.grad is None and (w.grad != 0).all()


# ---- spectral norm -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (4, 3, 2, 2)])
def test_power_iteration_finds_the_largest_singular_value_from_below(shape):
    weight = torch.randn(shape)
    estimates, u, v = s11.power_iteration(weight, 400)
    largest = torch.linalg.svdvals(weight.flatten(1))[0]
    assert estimates[-1].item() == pytest.approx(largest.item(), rel=1e-6)
    assert (estimates.diff() > -1e-12).all() and (estimates <= largest + 1e-12).all()
    assert torch.allclose(weight.flatten(1) @ v, largest * u, atol=1e-4)


def test_the_error_of_power_iteration_falls_by_the_fourth_power_of_the_ratio():
    W = torch.diag(torch.tensor([1.0, 0.8, 0.1]))
    estimates, *_ = s11.power_iteration(W, 30)
    error = 1 - estimates
    assert (error[20] / error[15]) ** 0.2 == pytest.approx(0.8**4, rel=1e-3)
    sines = [s11.power_iteration(W, n, u=torch.ones(3))[2][1].abs() for n in (15, 20)]
    assert (sines[1] / sines[0]) ** 0.2 == pytest.approx(0.8**2, rel=1e-3)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(4, 2, 8), (4, 2, 9), (3, 2, 8), (3, 1, 8)])
def test_the_norm_of_a_convolution_is_that_of_its_matrix_and_not_of_its_kernel(kernel, stride, size):
    conv = nn.Conv2d(2, 3, kernel, stride, padding=1, bias=False)
    nn.init.uniform_(conv.weight, 0.5, 1)  # all alike: the patches add up
    x = torch.zeros(2, size, size)  # (4, 2, 9), (3, 2, 8): a transposed convolution does not give it back
    matrix = torch.autograd.functional.jacobian(conv, x).reshape(-1, x.numel())
    true = torch.linalg.matrix_norm(matrix, 2).item()
    assert s11.convolution_norm(conv, size, rounds=300) == pytest.approx(true, rel=1e-6)
    reshaped = torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item()
    assert 1.2 * reshaped < true <= math.ceil(kernel / stride) * reshaped


# ---- hinge loss, the three leashes -------------------------------------------------------------------------
def test_the_least_hinge_loss_is_two_minus_twice_the_total_variation():
    x = torch.linspace(-12, 14, 20_001)
    pi, p = Normal(0.0, 1.0).log_prob(x).exp(), Normal(1.0, 1.0).log_prob(x).exp()

    def loss(D):
        return ((pi * F.relu(1 - D) + p * F.relu(1 + D)).sum() * (x[1] - x[0])).item()

    best = torch.sign(pi - p)
    assert loss(best) == pytest.approx(2 - 2 * math.erf(1 / 8**0.5), abs=1e-4)
    assert all(loss(best + 0.3 * torch.randn_like(x)) > loss(best) for _ in range(5))
    assert s11.hinge_loss(torch.zeros(5), torch.zeros(5)) == 2
    assert s11.hinge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])) == pytest.approx(0.75)


@pytest.mark.parametrize("leash", ["clip", "penalty", "spectral"])
def test_each_leash_holds_what_it_promises_and_both_players_move(leash):
    generator = s11.Generator(nets.mlp(2, 8, 2), 2)
    bound = torch.nn.utils.parametrizations.spectral_norm if leash == "spectral" else nn.Identity()
    critic = s11.plane_critic(bound, width=8)
    judge, generate = s11.adversaries(leash, generator, critic, lr=3e-2, penalty=10.0)
    step, x = train.alternate(critic=judge, generator=(generate, 3)), 3 * torch.randn(64, 2)
    before = [p.clone() for net in (generator, critic) for p in net.parameters()]
    for _ in range(60):
        terms = step(x)
    after = [p for net in (generator, critic) for p in net.parameters()]
    moved = [bool((old != new).any()) for old, new in zip(before, after, strict=True)]
    assert all(moved[:-1]), "all but the last bias, which cancels in a difference of scores"
    slope = checks.lipschitz(critic.eval(), x)
    if leash == "clip":
        assert max(p.abs().max() for p in critic.parameters()) <= 0.1
    if leash == "penalty":
        assert terms["critic/slope"] < 0.5 and slope < 2
    if leash == "spectral":
        assert slope <= 1.05, "a product of three norms that one round a step has found"


# ---- f-divergences -----------------------------------------------------------------------------------------
each_divergence = pytest.mark.parametrize("name", s11.DIVERGENCES)


@each_divergence
def test_a_conjugate_is_the_sup_that_scipy_finds(name):
    d = s11.DIVERGENCES[name]
    for v in torch.tensor([-2.5, -1.0, -0.2, 0.4, 1.5]):
        t = d.activation(v)
        found = optimize.minimize_scalar(
            lambda w: -(math.exp(w) * t - d.f(torch.tensor(math.exp(w)))).item(),  # noqa: B023
            bounds=(-30, 12), method="bounded", options={"xatol": 1e-9},
        )  # fmt: skip
        assert d.conjugate(t).item() == pytest.approx(-found.fun, abs=1e-5, rel=1e-5)


@each_divergence
def test_fenchel_and_young_with_equality_at_the_derivative(name):
    d, u = s11.DIVERGENCES[name], torch.rand(500) * 4 + 0.01
    t = d.activation(2 * torch.randn(500))
    assert (d.f(u) + d.conjugate(t) - u * t >= -1e-9).all()
    best = d.derivative(u)
    assert torch.allclose(d.f(u) + d.conjugate(best), u * best, atol=1e-9)
    by_autograd = torch.func.vmap(torch.func.grad(d.f))(u)
    assert torch.allclose(best, by_autograd)


@each_divergence
def test_an_activation_rises_stays_in_the_domain_and_reaches_every_best_t(name):
    d = s11.DIVERGENCES[name]
    v = torch.linspace(-12, 12, 4001)
    t = d.activation(v)
    assert (t < d.edge).all() and (t.diff() > 0).all() and d.conjugate(t).isfinite().all()
    best = d.derivative(torch.tensor([1e-3, 0.1, 1.0, 3.0]))
    assert t.min() < best.min() and best.max() < t.max()


CLOSED = {  # D_f(N(0, 1) || N(1, 1))
    "KL": 0.5,
    "reverse KL": 0.5,
    "2 JSD": 2 * 0.1114215,
    "Pearson": math.e - 1,
    "Hellinger": 2 - 2 * math.exp(-1 / 8),
}


@each_divergence
def test_the_bound_is_tight_at_the_derivative_and_its_losses_estimate_it(name):
    d, pi, p = s11.DIVERGENCES[name], Normal(0.0, 1.0), Normal(1.0, 1.0)

    def best(x):  # as T itself: the losses put it through an activation that does nothing
        return d.derivative((pi.log_prob(x) - p.log_prob(x)).exp())

    x = torch.linspace(-9, 10, 20_001)
    at = best(x)
    bound = (pi.log_prob(x).exp() * at - p.log_prob(x).exp() * d.conjugate(at)).sum() * (x[1] - x[0])
    assert bound.item() == pytest.approx(CLOSED[name], abs=2e-6)
    direct = d._replace(activation=lambda t: t)
    climb, descend = s11.f_gan_losses(lambda n: p.sample((n,)), best, direct)
    checks.unbiased(lambda: climb(pi.sample((50,)))["loss"], truth=-CLOSED[name])
    fakes = (p.log_prob(x).exp() * d.conjugate(at)).sum() * (x[1] - x[0])
    checks.unbiased(lambda: descend(torch.empty(50))["loss"], truth=-fakes.item())


def test_planted_a_js_without_logarithms_is_one_at_equality():
    right = s11.DIVERGENCES["2 JSD"]
    wrong = right._replace(conjugate=lambda t: -(2 - t.exp()))
    T = right.derivative(torch.ones(()))
    assert (T - right.conjugate(T)).abs() < 1e-12
    assert T - wrong.conjugate(T) == pytest.approx(1.0)


def test_planted_a_sigmoid_before_the_activation_keeps_the_bound_from_being_tight():
    d = s11.DIVERGENCES["KL"]
    caught = d._replace(activation=lambda v: d.activation(torch.sigmoid(v)))
    best = d.derivative(torch.tensor([0.1, 1.0, 20.0]))
    v = torch.linspace(-50, 50, 101)
    reached, free = caught.activation(v), d.activation(v)
    assert best.min() < reached.min() and reached.max() < best.max()
    assert free.min() < best.min() and best.max() < free.max()


# ---- evaluation --------------------------------------------------------------------------------------------
def features(n=400, d=12):
    return torch.randn(n, d) @ torch.randn(d, d) / 3 + torch.randn(d)


def test_frechet_is_that_of_torch_fidelity_of_scipy_and_of_the_package():
    first, second = (metrics.feature_statistics(features()) for _ in range(2))
    ours = s11.frechet(first, second)
    root = linalg.sqrtm((first[1] @ second[1]).numpy()).real
    away = (first[0] - second[0]).square().sum() + (first[1] + second[1]).trace()
    assert ours == pytest.approx((away - 2 * root.trace()).item(), rel=1e-8)
    assert ours == pytest.approx(metrics.frechet_distance(first, second), rel=1e-8)
    a, b = features(), features()
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
    both = map(metrics.feature_statistics, (a, b))
    assert s11.frechet(*both) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_frechet_by_hand_where_covariances_commute_and_where_one_is_flat():
    zero = torch.zeros(3)
    one, two = (torch.diag(torch.tensor(c)) for c in ([4.0, 1.0, 0.0], [1.0, 9.0, 4.0]))
    assert s11.frechet((zero, one), (zero + 2, two)) == pytest.approx(1 + 4 + 4 + 12)
    assert s11.frechet((zero, one), (zero, one)) == pytest.approx(0, abs=1e-9)


def test_planted_eigvalsh_of_the_product_is_another_number():
    scales = torch.linspace(0.1, 3, 12), torch.linspace(3, 0.1, 12)
    first, second = (metrics.feature_statistics(features() * scale) for scale in scales)
    right = torch.linalg.eigvals(first[1] @ second[1]).real.clamp(min=0).sqrt().sum()
    wrong = torch.linalg.eigvalsh(first[1] @ second[1]).clamp(min=0).sqrt().sum()
    assert abs(wrong / right - 1) > 0.01


def test_inception_is_that_of_torch_fidelity_and_of_the_package_and_has_its_ends():
    logits = 3 * torch.randn(500, 10)
    theirs = isc_features_to_metric(logits, splits=1, shuffle=False)["inception_score_mean"]
    assert s11.inception(logits) == pytest.approx(theirs, rel=1e-5)
    assert s11.inception(logits) == pytest.approx(metrics.inception_score(logits, splits=1)[0])
    assert s11.inception(torch.zeros(20, 10)) == pytest.approx(1)
    sure = 60 * F.one_hot(torch.arange(100) % 10).double()
    assert s11.inception(sure) == pytest.approx(10)
    in_order = sure[(torch.arange(100) % 10).argsort()]
    assert sum(s11.inception(part) for part in in_order.chunk(10)) == pytest.approx(10), "1 each"


def test_the_judge_gives_a_copy_full_marks_and_sees_fewer_than_two_moments():
    def see(x):
        return x, x[:, :10]

    real = torch.randn(6000, 12)
    score, fid, end, precision, recall = s11.judged(see, real, real)
    assert abs(fid) < 1e-6 and precision == recall == 1
    assert score == pytest.approx(s11.inception(real[:, :10]))
    fresh = torch.randn(6000, 12)
    _, fid, end, *_ = s11.judged(see, fresh, torch.randn(60_000, 12))
    assert fid > 0.005 and abs(end) < fid / 2, "most of the bias is gone at 1/N = 0"
    corners, gauss = torch.sign(torch.randn(6000, 4)), torch.randn(6000, 4)
    _, fid, _, _, recall = s11.judged(see, corners, gauss)
    assert fid < 0.01 and recall < 0.1, "two moments agree, and nothing else does"
