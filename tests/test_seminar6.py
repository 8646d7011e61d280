"""The definitions of seminar 6 against zuko, closed forms and brute force; planted mistakes are caught."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import zuko
from scipy import integrate, stats
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from dgm_utils import checks, data, metrics, weights
from tools import definitions
from tools.notebooks import read_notebook

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar6" / "seminar6.ipynb"
s6 = definitions.load(NOTEBOOK)
ORDERS = [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 4, 1, 0, 3]]


pytestmark = pytest.mark.usefixtures("double")


def made(m=5, order=None, widths=(24, 24)):
    return s6.redraw(s6.GaussianMADE(m, list(widths), order if order is None else torch.tensor(order)))


def cells_with(text):
    return [cell for cell in read_notebook(NOTEBOOK).cells if text in cell.source]


def printed_by(text):
    """Return what the code cell that holds this text has printed."""
    (cell,) = [cell for cell in cells_with(text) if cell.cell_type == "code"]
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


# ---- the masked network ------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ORDERS)
def test_both_outputs_see_only_what_is_drawn_before(order):
    network = made(order=order)
    seen = checks.autoregressive(lambda x: torch.stack(network(x), 1), (5,), order=order)
    assert seen.sum() == 10, "every variable may hear all that come before it"


def test_rows_doubled_in_the_wrong_way_leak():
    class Interleaved(s6.GaussianMADE):
        def __init__(self):
            super().__init__(5, [24])
            self.output.mask = self.output.mask[:5].repeat_interleave(2, 0)

    network = Interleaved()
    with pytest.raises(checks.CheckFailed, match="leak"):
        checks.autoregressive(lambda x: torch.stack(network(x), 1), (5,))


# ---- MAF and IAF -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ORDERS)
def test_maf_is_the_product_of_its_conditionals(order):
    network, x = made(order=order), torch.randn(50, 5)
    log_scale, shift = network(x)
    product = Normal(shift, log_scale.exp()).log_prob(x).sum(1)
    assert torch.allclose(s6.Flow([s6.MAF(network)]).log_prob(x), product)
    matrix = torch.autograd.functional.jacobian(lambda x: s6.MAF(network)(x)[0].sum(0), x).permute(1, 0, 2)
    _, expected = torch.linalg.slogdet(matrix)
    assert torch.allclose(s6.MAF(network)(x)[1], expected)


class FromZuko(nn.Module):
    """The masked network of a transform of zuko, z = exp(a) x + b, in the words of the seminar."""

    def __init__(self, transform):
        super().__init__()
        self.transform, self.order = transform, torch.argsort(transform.order)

    def forward(self, x):
        b, a = self.transform.hyper(x).unflatten(-1, (-1, 2)).unbind(-1)
        log_scale = -zuko.transforms.MonotonicAffineTransform(b, a).log_scale
        return log_scale, -b * log_scale.exp()


def test_the_weights_of_zuko_give_the_same_flow():
    torch.manual_seed(3)
    theirs = zuko.flows.MAF(5, transforms=3, randperm=True, hidden_features=(32, 32))
    s6.redraw(theirs)
    steps = theirs.transform.transforms
    orders = [step.order.tolist() for step in steps]
    assert any(torch.argsort(step.order).tolist() != step.order.tolist() for step in steps), orders
    ours = s6.Flow([s6.MAF(FromZuko(step)) for step in steps])
    x = torch.randn(60, 5)
    z, log_det = ours(x)
    their_z, their_log_det = theirs().transform.call_and_ladj(x)
    assert torch.allclose(z, their_z) and torch.allclose(log_det, their_log_det)
    assert torch.allclose(ours.log_prob(x), theirs().log_prob(x))
    noise = torch.randn(60, 5)
    assert torch.allclose(ours.inverse(noise), theirs().transform.inv(noise), atol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
def test_our_weights_give_the_same_flow_in_zuko(order):
    network, x = made(order=order), torch.randn(40, 5)

    def meta(x):
        log_scale, shift = network(x)
        a = -log_scale / (1 - log_scale.abs() / math.log(1e3))  # zuko squashes it back
        affine = zuko.transforms.MonotonicAffineTransform(-shift * (-log_scale).exp(), a)
        return zuko.transforms.DependentTransform(affine, 1)

    theirs = zuko.transforms.AutoregressiveTransform(meta, passes=5)
    z, log_det = s6.MAF(network)(x)
    their_z, their_log_det = theirs.call_and_ladj(x)
    assert torch.allclose(z, their_z) and torch.allclose(log_det, their_log_det)
    noise = torch.randn(40, 5)
    assert torch.allclose(s6.MAF(network).inverse(noise), theirs.inv(noise), atol=1e-7)
    y, log_det = s6.IAF(network)(noise)  # IAF's way to noise is the inverse of zuko's MAF
    assert torch.allclose(y, theirs.inv(noise), atol=1e-7)
    assert torch.allclose(log_det, -theirs.log_abs_det_jacobian(y, noise))


def test_the_inverse_carries_a_gradient():
    layer, z = s6.MAF(made(order=[2, 4, 1, 0, 3])), torch.randn(1, 5)
    back = torch.autograd.functional.jacobian(layer.inverse, z)[0, :, 0]
    there = torch.autograd.functional.jacobian(lambda x: layer(x)[0], layer.inverse(z).detach())[0, :, 0]
    assert torch.allclose(back @ there, torch.eye(5))


@pytest.mark.parametrize("kind", ["MAF", "IAF"])
def test_passes_of_the_network(kind):
    layer = getattr(s6, kind)(made(7))
    network, calls = next(part for part in layer.modules() if isinstance(part, s6.GaussianMADE)), []
    network.register_forward_hook(lambda *_: calls.append(1))
    counts = []
    for work in (layer.forward, layer.inverse):
        calls.clear()
        work(torch.randn(3, 7))
        counts.append(len(calls))
    assert counts == ([1, 7] if kind == "MAF" else [7, 1])
    rows = re.findall(r"^ +(\d+)((?: +\d+ +[\d.]+ ms){4})$", printed_by("MAF density      MAF samples"), re.M)
    assert [int(m) for m, _ in rows] == [8, 64, 256]
    for m, row in rows:
        counted = [int(n) for n in re.findall(r"(\d+) +[\d.]+ ms", row)]
        assert counted == [1, int(m), int(m), 1]


def test_iaf_in_the_words_of_its_paper():
    network, z = made(order=[2, 4, 1, 0, 3]), torch.randn(30, 5)
    log_scale, shift = network(z)
    factor, offset = (-log_scale).exp(), -shift * (-log_scale).exp()
    x = offset + factor * z
    assert torch.allclose(s6.IAF(network).inverse(z), x)
    assert torch.allclose(s6.IAF(network)(x)[0], z) and torch.allclose(
        s6.IAF(network)(x)[1], -factor.log().sum(1)
    )


def test_a_forgotten_minus_is_heard():
    class SameSign(s6.IAF):
        def forward(self, x):
            z, log_scale = self.maf.solve(x)
            return z, -log_scale.sum(-1)

    layer = SameSign(made(5, [2, 4, 1, 0, 3]))
    checks.invertible(layer, torch.randn(20, 5))
    with pytest.raises(checks.CheckFailed):
        checks.log_det(layer, torch.randn(20, 5))
    lines = printed_by("class SameSign"), printed_by("right, wrong = (alarms")
    words = [re.findall(r"silent|rings", line) for line in lines[1].splitlines()]
    assert words == [["silent", "silent"], *[["silent", "rings"]] * 3]


def test_degrees_taken_for_positions_are_silent_for_involutions_only():
    class DegreesAsPositions(s6.MAF):
        def inverse(self, z):
            x = torch.zeros_like(z)
            for i in torch.argsort(self.network.order).tolist():
                log_scale, shift = self.network(x)
                x[:, i] = shift[:, i] + log_scale[:, i].exp() * z[:, i]
            return x

    counts = {}
    for m in (2, 3, 4):
        for order in itertools.permutations(range(m)):
            layer, x = DegreesAsPositions(made(m, list(order), [12])), torch.randn(20, m)
            with torch.no_grad():
                right = bool((layer.inverse(layer(x)[0]) - x).abs().max() < 1e-8)
            own_inverse = all(order[order[k]] == k for k in range(m))
            assert right == own_inverse, order
            counts[m] = counts.get(m, 0) + right
    rows = re.findall(r"m = (\d).*?(\d+) of +(\d+)", printed_by("def silent_orders"))
    assert {int(m): int(silent) for m, silent, _ in rows} == counts | {5: 26}
    assert all(int(count) == math.factorial(int(m)) for m, _, count in rows)


# ---- orders, batch norm, banana ----------------------------------------------------------------------------
def test_layers_of_one_order_stay_affine_in_each_variable():
    """The slope of z_i by x_i does not depend on x_i: every conditional is one Gaussian, at any depth."""

    def bend(orders):
        flow = s6.Flow([s6.MAF(made(4, order, [32])) for order in orders])
        x = torch.randn(4).requires_grad_()
        second = []
        for i in range(4):
            slope = torch.autograd.grad(flow(x[None])[0][0, i], x, create_graph=True)[0][i]
            far = x.detach().clone()
            far[i] += 1.5
            far.requires_grad_()
            other = torch.autograd.grad(flow(far[None])[0][0, i], far)[0][i]
            second.append(abs(slope - other).item())
        return max(second)

    order = [2, 0, 3, 1]
    assert bend([order] * 4) < 1e-10
    assert bend([order, order[::-1]] * 2) > 1e-3


def test_banana():
    target = s6.banana()
    x = target.sample(100_000, seed=0).double()
    gap = -target.log_prob(x).mean() - target.entropy
    assert abs(gap) < 4 * target.log_prob(x).std() / len(x) ** 0.5
    total = integrate.dblquad(
        lambda a, b: target.log_prob(torch.tensor([[a, b]])).exp().item(), -8, 8, -6, 22, epsabs=1e-4
    )[0]
    assert total == pytest.approx(1, abs=2e-3)
    assert stats.kstest(x[:, 1].numpy(), stats.norm(0, 2).cdf).pvalue > 1e-4
    assert stats.kstest((x[:, 0] - x[:, 1] ** 2 / 4).numpy(), stats.norm(0, 1).cdf).pvalue > 1e-4


def test_the_floor_of_the_wrong_order():
    """Moments of x_1 are exact: x_2^2 / 4 is a chi-square; those of x_2 given x_1 by one integral each."""

    def spread(x1):
        x2 = np.linspace(-14, 14, 4001)
        p = stats.norm.pdf(x2, 0, 2) * stats.norm.pdf(x1, x2**2 / 4, 1)
        return p.sum() * 0.007, (p * x2**2).sum() / p.sum()

    x1 = np.linspace(-6, 60, 6601)
    marginal, variance = np.array([spread(value) for value in x1]).T
    assert marginal.sum() * 0.01 == pytest.approx(1, abs=1e-3)
    var_1 = 1 + 2  # of the noise, and of x_2^2 / 4 = chi-square of one degree
    floor = 0.5 * math.log(var_1) + 0.5 * (marginal * np.log(variance)).sum() * 0.01 - math.log(2)
    said = printed_by("order_floor = ")
    assert float(re.search(r"at least ([\d.]+) nats", said)[1]) == pytest.approx(floor, abs=2e-3)
    kl = dict(re.findall(r"^(.*?) +KL\(π‖p\) = ([\d.]+)", printed_by("toy_kl = {name"), re.M))
    assert all(float(value) > floor - 2e-3 for name, value in kl.items() if name.startswith("x₁"))
    assert float(kl["x₂ first, one layer"]) < 0.05 and float(kl["both orders, two layers"]) < 0.05


def test_batch_norm_is_torch_s():
    ours, theirs, x = s6.BatchNorm(3), nn.BatchNorm1d(3), 2 + 3 * torch.randn(8, 3)
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, 2.0, 1.0]))
        theirs.bias.copy_(torch.randn(3))
        ours.log_gain.copy_(theirs.weight.log())
        ours.shift.copy_(theirs.bias)
    assert torch.allclose(ours(x)[0], theirs(x)) and torch.allclose(ours.mean, theirs.running_mean)
    ours.variance.copy_(theirs.running_var)  # torch keeps the unbiased variance
    assert torch.allclose(ours.eval()(x)[0], theirs.eval()(x))
    checks.invertible(ours, x)
    checks.log_det(ours, x)
    checks.batch_independent(ours, x)
    with pytest.raises(checks.CheckFailed):
        checks.batch_independent(ours.train(), x)


def test_batch_norm_in_train_mode_is_no_map_of_one_example():
    layer, x = s6.BatchNorm(1), torch.randn(6, 1)
    matrix = torch.autograd.functional.jacobian(lambda x: layer(x)[0], x).view(6, 6)
    singular = torch.linalg.svdvals(matrix)
    assert (singular > 0.1).sum() == 4 and singular[4] < 1e-3 and singular[5] < 1e-12
    rows = re.findall(r"([-\d.]+) ± ([\d.]+), by theory +([-\d.]+)", printed_by("def train_mode_nats"))
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    for size, (nats, error, theory) in zip((2, 4, 16, 128), rows, strict=True):
        log_variance = np.log(stats.chi2(size - 1).rvs(400_000, random_state=0) / size).mean()
        assert float(theory) == pytest.approx(-entropy - 0.5 * log_variance, abs=0.01)
        assert abs(float(nats) - float(theory)) < 4 * float(error) + 0.001 and float(theory) > -entropy


def test_a_permutation_that_is_no_buffer_is_lost():
    class Forgetful(s6.Permute):
        def __init__(self, order):
            nn.Module.__init__(self)
            self.order = order

    x = torch.randn(20, 6)
    checks.reloads(lambda: s6.Permute(torch.randperm(6)), x)
    with pytest.raises(checks.CheckFailed, match="buffer"):
        checks.reloads(lambda: Forgetful(torch.randperm(6)), x)
    assert torch.equal(s6.Permute([2, 0, 1])(torch.tensor([[5.0, 6.0, 7.0]]))[0], torch.tensor([[7.0, 5, 6]]))


# ---- duality -----------------------------------------------------------------------------------------------
def test_pushed_data_against_a_closed_form():
    network = s6.GaussianMADE(3, [4])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.output.bias.copy_(torch.tensor([0.3, -0.5, 1.0, 0.5, -1.0, 2.0]))
        network.direct.weight.copy_(torch.randn(6, 3) * torch.tensor([[0.0], [0], [0], [1], [1], [1]]))
    flow = s6.Flow([s6.MAF(network)])  # linear: the pushed Gaussian is Gaussian
    root = torch.randn(3, 3).tril() + 2 * torch.eye(3)
    pi = MultivariateNormal(torch.randn(3), scale_tril=root.tril().abs())
    linear = torch.autograd.functional.jacobian(lambda x: flow(x[None])[0][0], torch.zeros(3))
    mean = flow(pi.mean[None])[0][0]
    pushed = MultivariateNormal(mean, linear @ pi.covariance_matrix @ linear.T)
    z = torch.randn(40, 3)
    assert torch.allclose(s6.pushed_log_prob(flow, pi.log_prob, z), pushed.log_prob(z))


def test_both_sides_of_the_kl_are_one_number():
    rows = re.findall(
        r"([\d.]+) +([\d.]+) ± ([\d.]+) +([\d.]+) +\((\d\.\d+)\)", printed_by("duality[name] = on_noise")
    )
    assert len(rows) == 3
    for by_grid, by_samples, error, on_noise, mass in (map(float, row) for row in rows):
        assert abs(by_grid - on_noise) < 0.003 and abs(mass - 1) < 1e-3
        assert abs(by_samples - on_noise) < 5 * error + 0.003


# ---- dequantization ----------------------------------------------------------------------------------------
def shares(m=5, levels=6):
    return torch.rand(2, m, levels).softmax(2)


def test_spikes_by_brute_force():
    width, (weights_, test) = 0.4, shares()
    found = s6.spikes(width, weights_, test, nodes=200)
    raw = bound = exact = 0.0
    u = (np.arange(200) + 0.5) / 200 - 0.5
    for w, t in zip(weights_.numpy(), test.numpy(), strict=True):

        def density(y, w=w):
            return sum(p * stats.norm.pdf(y, k, width) for k, p in enumerate(w))

        for level in range(6):
            raw -= t[level] * np.log2(density(level)) / 5
            bound -= t[level] * np.log2(density(level + u)).mean() / 5
            exact -= t[level] * np.log2(integrate.quad(density, level - 0.5, level + 0.5)[0]) / 5
    assert found["raw"] == pytest.approx(raw) and found["exact"] == pytest.approx(exact, abs=1e-6)
    assert found["bound"] == pytest.approx(bound, abs=1e-9)


def test_the_likelihood_of_integers_has_no_end_and_the_bound_has_a_floor():
    w, t = shares()
    found = [s6.spikes(0.5**k, w, t) for k in range(1, 12)]
    raw = [one["raw"] for one in found]
    assert all(a - b == pytest.approx(1, abs=1e-6) for a, b in itertools.pairwise(raw[3:]))
    assert raw[-1] < -4
    limit = -(t * w.log2()).sum().item() / len(w)  # the histogram
    assert found[-1]["exact"] == pytest.approx(limit, abs=1e-6)
    assert all(one["bound"] > one["exact"] - 1e-9 > limit - 0.01 for one in found)
    assert found[-1]["bound"] > found[0]["bound"] + 100


def test_entropy_probability_bound_in_that_order():
    said = printed_by("checks.bound(bounds, log_cells)")
    numbers = re.search(r"entropy ([\d.]+) ≤ the model's P ([\d.]+) ≤ what we report ([\d.]+)", said)
    entropy, exact, bound = map(float, numbers.groups())
    assert entropy < exact < bound
    v = torch.arange(4.0)
    tilt = torch.tensor([1.2, 0.0, 0.0, 0.6])
    p = (tilt[:, None] + tilt - (v[:, None] - v) ** 2 / 1.2).flatten().softmax(0)
    assert stats.entropy(p.numpy(), base=2) / 2 == pytest.approx(entropy, abs=1e-4)


def test_noise_that_does_not_fill_the_cell_beats_the_entropy():
    said = printed_by("one_entropy = ")
    entropy = float(re.search(r"entropy of one pixel ([\d.]+)", said)[1])
    best = {name: float(bits) for name, bits in re.findall(r"^(\w[\w ]+?) +([\d.]+) bits$", said, re.M)}
    assert best["a whole cell"] == pytest.approx(entropy, abs=1e-3)
    assert best["half a cell"] == pytest.approx(entropy - 1, abs=1e-3)
    gaussian = entropy + math.log2(0.1 * math.sqrt(2 * math.pi * math.e))  # cells do not meet: sd 0.1
    assert best["Gaussian noise"] == pytest.approx(gaussian, abs=1e-3)
    told = printed_by("checks.judge(way, check_dequantize)").splitlines()
    assert len(told) == 4 and all("not right" in line for line in told)


# ---- digits ------------------------------------------------------------------------------------------------
def test_what_the_shipped_flow_is_worth():
    stored = weights.facts("seminar6-maf")
    settings = next(cell.source for cell in cells_with("SETTINGS = {"))
    width = int(re.search(r'"maf_width": \(\d+, (\d+),', settings)[1])
    forth = torch.arange(64)
    networks = [
        s6.GaussianMADE(64, [width] * 2, forth if t % 2 == 0 else forth.flip(0), bound=1.0) for t in range(5)
    ]
    flow = s6.Flow([s6.Logit(), s6.ActNorm(64), *map(s6.MAF, networks)])
    weights.load(flow, "seminar6-maf")
    images = s6.small_digits(data.load_images("mnist").test.images[:2000]).flatten(1)
    nats = -metrics.log_likelihoods(flow.log_prob, data.dequantize(images, levels=16, seed=0).double())
    bits = metrics.bits_per_dim(nats.mean(), 64, levels=16).item()
    assert abs(bits - stored["bits"]) < 6 * nats.std() / 2000**0.5 / 64 / math.log(2) + 3 * stored["error"]
    assert bits < s6.baselines(images, images, 16)["independent pixels"]


def test_the_digits_of_the_stored_run():
    said = printed_by("rivals = baselines(")
    found = {name: float(v) for name, v in re.findall(r"^(\w[\w ]*?) +([\d.]+)(?: ±.*)? bits", said, re.M)}
    assert found["MAF"] < found["independent pixels"] < found["zlib"]
    raw = printed_by("raw_bits, _ = bits(raw_maf)")
    at_least, noisy = re.search(r"least (-[\d.]+)", raw), re.search(r"test images: (\d+)", raw)
    assert float(at_least[1]) < 0 and float(noisy[1]) > 5


# ---- at home -----------------------------------------------------------------------------------------------
def test_the_fixed_point_is_exact_variable_by_variable():
    order = [2, 4, 1, 0, 3]
    layer, z = s6.MAF(made(order=order)), torch.randn(30, 5)
    x = layer.inverse(z)
    for passes in range(1, 6):
        away = (s6.fixed_point(layer, z, passes) - x).abs().amax(0)[order]
        assert (away[:passes] < 1e-9).all()
    assert (s6.fixed_point(layer, z, 1) - x).abs().max() > 1e-3


def test_mixtures_are_a_density_and_one_component_is_a_gaussian():
    model = s6.redraw(s6.MixtureMADE(2, [16], 3))
    with torch.no_grad():
        model.output.bias[6:12] = 0  # of the log-scales: neither too wide nor too sharp for a grid
    checks.integrates_to_one(model.log_prob, limits=(-12, 12))
    single, x = s6.redraw(s6.MixtureMADE(4, [16], 1)), torch.randn(30, 4)
    gaussian = s6.GaussianMADE(4, [16])
    state = {key: value[4:] if key.startswith(("output", "direct")) else value
             for key, value in single.state_dict().items()}  # fmt: skip
    gaussian.load_state_dict(state)
    assert torch.allclose(single.log_prob(x), s6.Flow([s6.MAF(gaussian)]).log_prob(x))
    checks.autoregressive(lambda x: s6.MaskedMLP.forward(model, x).view(len(x), 9, 2), (2,))


def test_the_posterior_flow_of_one_context_is_a_density():
    flow = s6.redraw(s6.IAFPosterior(4, 3, 16, context=3))
    context, z = torch.randn(1, 3), torch.randn(2, 20, 4)
    out, log_det = flow(z, context.expand(20, -1))
    assert out.shape == (2, 20, 4) and log_det.shape == (2, 20)
    checks.log_det(lambda z: flow(z, context.expand(len(z), -1)), z[0])
    moved = flow(z, context.expand(20, -1) + 1)[0]
    assert ((moved - out).abs().amax((0, 1)) > 1e-4).all(), "every code hears the context"


def test_a_vae_with_an_iaf_estimates_the_evidence():
    """With d = 2 log p(x) is a sum over a grid, and the mean weight must be p(x)."""
    flow = s6.redraw(s6.IAFPosterior(2, 2, 8, context=2), 0.1)
    model = s6.FlowVAE(s6.nets.mlp(3, 8, 6), s6.nets.mlp(2, 8, 3), flow, 2).double().requires_grad_(False)
    x = torch.bernoulli(torch.full((4, 3), 0.5))
    line = torch.linspace(-7, 7, 201)
    z = torch.cartesian_prod(line, line)[:, None].expand(-1, 4, -1)
    log_joint = model.log_likelihood(x, z) + s6.log_normal(z)
    log_p = log_joint.logsumexp(0) + 2 * math.log(0.07)
    checks.unbiased(lambda: (model.log_weights(x, 20) - log_p).exp().mean(0), truth=[1.0] * 4, n=1000)


def test_causal_attention_is_a_flow_and_its_cache_changes_nothing():
    layer, x = s6.CausalMAF(tokens=5, size=2, width=12), torch.randn(20, 10)
    checks.invertible(layer, x)
    checks.log_det(layer, x)
    order = list(range(10))
    seen = checks.dependence(lambda x: layer(x)[0], (10,))
    assert not seen[order][:, order].triu(1).any()
    blocks = seen.view(5, 2, 5, 2).any(3).any(1)
    assert torch.equal(blocks, torch.ones(5, 5).tril().bool()), "a token hears all before it"
    tokens = [count.shape[1] for count in counted(layer, torch.randn(3, 10))]
    assert tokens == [1] * 5


def counted(layer, z):
    inputs = []
    hook = layer.attend.register_forward_hook(lambda _, given, __: inputs.append(given[0]))
    layer.inverse(z)
    hook.remove()
    return inputs


def test_a_token_that_sees_itself_is_caught():
    class SeesItself(s6.CausalMAF):
        def forward(self, x):
            x = x.view(len(x), self.tokens, self.size)
            hidden = self.embed(x) + self.place  # not shifted by one
            query, key, value = self.attend(hidden).chunk(3, -1)
            attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            log_scale, shift = self.shape(hidden, attended)
            return ((x - shift) * (-log_scale).exp()).flatten(1), -log_scale.flatten(1).sum(1)

    layer, x = SeesItself(tokens=5, size=2, width=12), torch.randn(20, 10)
    for check in (checks.invertible, checks.log_det):
        with pytest.raises(checks.CheckFailed):
            check(layer, x)


def test_figures_by_samples_are_printed_with_their_errors():
    for text, rows in (("def both_sides", 0), ("duality[name] = on_noise", 3), ("posteriors = {", 3)):
        assert len(re.findall(r"\d ± \d", printed_by(text))) == rows, text
