"""Every check catches its planted bugs and stays silent on 50 correct models; models are left untouched."""

import copy
import functools
import json
import math
import time

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn import functional as F

from dgm_utils import checks
from dgm_utils.checks import CheckFailed

SEEDS = range(50)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- models, right and wrong -------------------------------------------------------------------------------


class MaskedLinear(nn.Linear):
    def __init__(self, mask):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Two hidden layers; `last` compares degrees in the last mask, `leak` opens a wrong connection."""

    def __init__(
        self, dim, hidden=32, order=None, parameters=1, last=torch.gt, leak=False, activation=nn.ReLU
    ):
        super().__init__()
        degree = torch.argsort(torch.as_tensor(order)) if order is not None else torch.arange(dim)
        first, second = (torch.arange(hidden) % max(1, dim - 1) for _ in range(2))
        self.parameters_each = parameters
        mask = last(degree[:, None], second)
        if leak:
            wrong = (degree[:, None] <= second).nonzero()
            mask[tuple(wrong[torch.randint(len(wrong), ())])] = True
        layers = [
            MaskedLinear(first[:, None] >= degree),
            activation(),
            MaskedLinear(second[:, None] >= first),
        ]
        self.net = nn.Sequential(*layers, activation(), MaskedLinear(mask.repeat(parameters, 1)))

    def forward(self, x):
        out = self.net(x)
        return out if self.parameters_each == 1 else out.unflatten(1, (self.parameters_each, -1))

    def log_prob(self, x):
        return -F.binary_cross_entropy_with_logits(self(x), x, reduction="none").sum(1)


class CategoricalMADE(nn.Module):
    """Takes int64 only, one-hot inside; gives (B, K, D)."""

    def __init__(self, dim, values, strict=True):
        super().__init__()
        self.dim, self.values = dim, values
        compare = torch.gt if strict else torch.ge
        degree = torch.arange(dim)
        mask = compare(degree[:, None], degree)[:, None, :, None].expand(dim, values, dim, values)
        self.layer = MaskedLinear(mask.reshape(dim * values, dim * values))

    def forward(self, x):
        one_hot = F.one_hot(x, self.values).flatten(1).to(self.layer.weight)
        return self.layer(one_hot).unflatten(1, (self.dim, self.values)).movedim(1, 2)

    def log_prob(self, x):
        return Categorical(logits=self(x).movedim(1, -1)).log_prob(x).sum(1)


class MaskedConv(nn.Conv2d):
    def __init__(self, channels_in, channels_out, kind, size=3):
        super().__init__(channels_in, channels_out, size, padding=size // 2)
        mask = torch.ones(size, size)
        mask[size // 2, size // 2 + (kind == "B") :] = 0
        mask[size // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def pixel_cnn(first="A", channels=1, width=8):
    return nn.Sequential(
        MaskedConv(channels, width, first, 5), nn.ReLU(), MaskedConv(width, width, "B"), nn.ReLU(),
        MaskedConv(width, channels, "B", 1),
    )  # fmt: skip


class Coupling(nn.Module):
    def __init__(self, flip, bug=None, zero=False):
        super().__init__()
        self.flip, self.bug = flip, bug
        self.net = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))
        if zero:
            nn.init.zeros_(self.net[-1].weight)
            nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        a, b = (x.flip(1) if self.flip else x).chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        scale = torch.tanh(scale)
        z = torch.cat([a, b * scale.exp() + shift], 1)
        log_det = {None: scale, "sign": -scale, "half": scale / 2, "shift": scale + shift}.get(
            self.bug, scale
        ).sum(1)
        if self.bug == "over the batch":
            log_det = log_det.sum()
        if self.bug == "keeps a dimension":
            log_det = log_det[:, None]
        return (z.flip(1) if self.flip else z), log_det

    def inverse(self, z):
        a, b = (z.flip(1) if self.flip else z).chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        scale = torch.tanh(scale)
        b = b * (-scale).exp() - shift if self.bug == "order of steps" else (b - shift) * (-scale).exp()
        if self.bug == "epsilon":
            b = b * (1 + 1e-5)
        x = torch.cat([a, b], 1)
        return x.flip(1) if self.flip else x


class Flow(nn.Module):
    def __init__(self, bug=None, zero=False, layers=4):
        super().__init__()
        self.bug = bug
        self.layers = nn.ModuleList(
            Coupling(i % 2 == 1, bug if i == 1 else None, zero) for i in range(layers)
        )

    def forward(self, x):
        log_det = 0 if self.bug == "over the batch" else torch.zeros(len(x), dtype=x.dtype)
        for layer in self.layers:
            x, step = layer(x)
            log_det = log_det + (step.sum() if self.bug == "over the batch" else step)
        return x, log_det

    def inverse(self, z):
        for layer in self.layers if self.bug == "not reversed" else reversed(self.layers):
            z = layer.inverse(z)
        return z

    def log_prob(self, x):
        z, log_det = self(x)
        return log_det + Normal(0.0, 1.0).log_prob(z).sum(1)

    def sample(self, n):
        return self.inverse(torch.randn(n, 2)).detach()


class ActNorm(nn.Module):
    """Initialised by its first batch, in any mode; a permutation kept as a frozen parameter."""

    def __init__(self, dim, bug=None):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.permutation = nn.Parameter(torch.eye(dim)[torch.randperm(dim)], requires_grad=False)
        self.register_buffer("ready", torch.tensor(False))
        self.bug = bug

    def forward(self, x):
        if not self.ready:
            self.log_scale.data, self.shift.data = -x.std(0).log(), -x.mean(0)
            self.ready.fill_(True)
        log_det = self.log_scale.sum() if self.bug != "mean" else self.log_scale.mean()
        return ((x + self.shift) * self.log_scale.exp()) @ self.permutation, log_det.expand(len(x))

    def inverse(self, z):
        back = self.permutation if self.bug == "permutation" else self.permutation.T
        return (z @ back) * (-self.log_scale).exp() - self.shift


def normal_2d(x):
    return Normal(0.0, 1.0).log_prob(x).sum(1)


def mixture(weights=(0.2, 0.8), means=(-2.0, 2.0), scales=(0.4, 1.0)):
    weights, means, scales = map(torch.tensor, (weights, means, scales))
    return MixtureSameFamily(Categorical(weights), Normal(means, scales))


# ---- autoregressive ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_autoregressive_is_silent_on_correct_models(seed):
    torch.manual_seed(seed)
    dim = int(torch.randint(1, 12, ()))
    order = torch.randperm(dim)
    for activation in (nn.ReLU, nn.Sigmoid):
        model = MADE(dim, order=order, parameters=1 + seed % 3, activation=activation)
        matrix = checks.autoregressive(model, (dim,), order=order)
        rank = torch.argsort(order)
        assert torch.equal(
            matrix, rank[:, None] > rank
        )  # all that is allowed is there: nothing is missed either
    checks.autoregressive(CategoricalMADE(3, 2 + seed % 4), (3,), values=2 + seed % 4)
    checks.autoregressive(pixel_cnn(), (1, 5, 4))


@pytest.mark.parametrize("seed", SEEDS)
def test_autoregressive_finds_a_single_leaking_connection(seed):
    torch.manual_seed(seed)
    with pytest.raises(CheckFailed):
        checks.autoregressive(MADE(10, leak=True), (10,))


ORDER = [3, 0, 4, 1, 2]
AUTOREGRESSIVE_BUGS = {
    "last mask not strict": lambda: (MADE(5, last=torch.ge), (5,), {}),
    "mask transposed": lambda: (MADE(5, last=torch.lt), (5,), {}),
    "inverse order": lambda: (MADE(5, order=torch.argsort(torch.tensor(ORDER))), (5,), {"order": ORDER}),
    "order ignored": lambda: (MADE(5), (5,), {"order": ORDER}),
    "no mask": lambda: (nn.Linear(5, 5), (5,), {}),
    "second parameter leaks": lambda: (lambda x: torch.stack([0 * x, x], 1), (5,), {}),
    "as many parameters as inputs": lambda: (MADE(5, parameters=5, last=torch.ge), (5,), {}),
    "zero-initialised": lambda: (zeroed(MADE(5, last=torch.ge)), (5,), {}),
    "dead units": lambda: (dead(MADE(5, last=torch.ge)), (5,), {}),
    "frozen": lambda: (zeroed(MADE(5, last=torch.ge)).requires_grad_(False), (5,), {}),
    "trainable mask": lambda: (TrainableMask(5), (5,), {}),
    "mask type B first": lambda: (pixel_cnn("B"), (1, 4, 4), {}),
    "full convolution": lambda: (nn.Conv2d(1, 1, 3, padding=1), (1, 4, 4), {}),
    "channels see each other": lambda: (nn.Conv2d(3, 3, 1), (3, 2, 2), {}),
    "categorical": lambda: (CategoricalMADE(4, 3, strict=False), (4,), {"values": 3}),
    "detached": lambda: (lambda x: x.detach().cumsum(1), (4,), {}),
    "saturated": lambda: (lambda x: torch.tanh(1e3 * x), (4,), {}),
    "step function": lambda: (lambda x: (x > 0).to(x), (4,), {}),
    "normalised over the variables": lambda: (nn.LayerNorm(4), (4,), {}),
    "logit of the input": lambda: (lambda x: torch.logit(x), (4,), {}),
    "bound method": lambda: (MADE(5, last=torch.ge).forward, (5,), {}),
    "partial": lambda: (functools.partial(zeroed(MADE(5, last=torch.ge))), (5,), {}),
    "not a number": lambda: (lambda x: x * math.nan, (4,), {}),
    "infinite": lambda: (nn.Sequential(MADE(4), Apply(lambda x: x.exp() / 0)), (4,), {}),
    "parameters last": lambda: (lambda x: torch.stack([x, x], 2), (4,), {}),
}


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class TrainableMask(nn.Module):
    def __init__(self, dim, **options):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.mask = nn.Parameter(torch.ones(dim, dim).tril(-1), **options)

    def forward(self, x):
        return x @ (self.weight * self.mask).T


def zeroed(model):
    for p in model.parameters():
        nn.init.zeros_(p)
    return model


def dead(model):
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(p, -100.0)
    return model


@pytest.mark.parametrize("bug", AUTOREGRESSIVE_BUGS)
def test_autoregressive_catches(bug):
    f, shape, options = AUTOREGRESSIVE_BUGS[bug]()
    with pytest.raises(CheckFailed):
        checks.autoregressive(f, shape, **options)


def test_autoregressive_catches_a_branch_on_a_later_input():
    def f(x):
        return torch.stack([torch.stack([row[0] * 0 + (1.0 if row[1] > 0 else 2.0), row[0]]) for row in x])

    with pytest.raises(CheckFailed, match=r"output 0 = order\[0\] depends on input 1 = order\[1\]"):
        checks.autoregressive(f, (2,))


def test_autoregressive_names_the_first_leak_in_the_order_of_drawing():
    order = [2, 0, 1, 3]

    def f(x):
        return torch.stack([0 * x[:, 0], x[:, 3], 0 * x[:, 0], x[:, 0]], 1)

    with pytest.raises(
        CheckFailed, match=r"1 leaks: output 1 = order\[2\] depends on input 3 = order\[3\]"
    ):
        checks.autoregressive(f, (4,), order=order)


ORDINALS = {
    1: "1st",
    2: "2nd",
    3: "3rd",
    4: "4th",
    11: "11th",
    12: "12th",
    13: "13th",
    21: "21st",
    111: "111th",
}


@pytest.mark.parametrize("k, word", ORDINALS.items())
def test_ordinals(k, word):
    assert checks._ordinal(k - 1) == word


def test_images_are_drawn_pixel_by_pixel_channels_inside():
    def f(x):  # green sees red of its pixel, blue sees both, the next pixel sees all
        flat = x.movedim(1, -1).flatten(1)
        before = flat.cumsum(1) - flat
        return before.unflatten(1, (2, 2, 3)).movedim(-1, 1)

    assert checks.autoregressive(f, (3, 2, 2)).sum() == 12 * 11 / 2
    with pytest.raises(CheckFailed):
        checks.autoregressive(f, (3, 2, 2), order=range(12))


@pytest.mark.parametrize("options", [{"requires_grad": False}])
def test_a_mask_kept_as_a_frozen_parameter_stays(options):
    checks.autoregressive(TrainableMask(5, **options), (5,))
    checks.autoregressive(TrainableMask(5, **options).requires_grad_(False), (5,))


def test_models_of_many_kinds_are_accepted():
    class CastsInside(MADE):
        def forward(self, x):
            return super().forward(x.float())

    class Strict(MADE):
        def forward(self, x):
            if x.min() < 0 or x.max() > 1:
                raise ValueError("expected values in [0, 1]")
            return super().forward(torch.logit(x))

    parametrised = MADE(6)
    for layer in parametrised.net[::2]:
        nn.utils.parametrizations.weight_norm(layer)
    left_over = MADE(6)
    left_over.last_output = left_over(torch.randn(2, 6))  # hangs on a graph, cannot be deep-copied as it is
    noisy = nn.Sequential(MADE(6), nn.Dropout(0.5))
    model = MADE(6)
    for f in (CastsInside(6), Strict(6), parametrised, left_over, noisy, lambda x: model(x)):
        assert checks.autoregressive(f, (6,)).sum() > 0
    stochastic = lambda x: model(x.float()) + torch.randn(len(x), 6)  # noqa: E731
    checks.autoregressive(stochastic, (6,))
    checks.autoregressive(
        nn.Sequential(nn.Embedding(3, 4), Apply(lambda e: e.sum(-1).cumsum(1) - e.sum(-1))), (4,), values=3
    )


@pytest.mark.slow  # torch.compile is slow to import
def test_a_compiled_model_is_judged_as_the_model_in_it():
    with pytest.raises(CheckFailed):
        checks.autoregressive(torch.compile(zeroed(MADE(5, last=torch.ge))), (5,))


BAD_ORDERS = ([0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 4, 5])
BAD_ARGUMENTS = [((0,), {}), ((), {}), (5, {}), ((5.0,), {}), ((5,), {"values": 1}), ((6,), {})]


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS + [((5,), {"order": order}) for order in BAD_ORDERS])
def test_autoregressive_refuses_bad_arguments(arguments):
    shape, options = arguments
    with pytest.raises(ValueError) as error:
        checks.autoregressive(MADE(5), shape, **options)
    assert not isinstance(error.value, CheckFailed)


def test_dependence_is_the_structure_of_the_function():
    matrix = checks.dependence(lambda x: torch.stack([x[:, 0] * x[:, 2], x[:, 1].round()], 1), (3,))
    assert matrix.tolist() == [[True, False, True], [False, True, False]]
    assert checks.dependence(nn.Conv2d(1, 2, 3), (1, 4, 4)).sum(1).tolist() == [9] * 8
    with pytest.raises(CheckFailed, match="NaN"):
        checks.dependence(lambda x: (-x.abs() - 1).log(), (3,))


def test_a_made_of_mnist_size_takes_seconds():
    start = time.perf_counter()
    checks.autoregressive(MADE(784, 500), (784,))
    assert time.perf_counter() - start < 30  # about one on an idle machine


# ---- flows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_flow_checks_are_silent_on_correct_models(seed):
    torch.manual_seed(seed)
    x = torch.randn(8, 2)
    for flow in (Flow(zero=seed % 2 == 0), ActNorm(2)):
        assert checks.invertible(flow, x) < 1e-9
        assert checks.log_det(flow, x) < 1e-9


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bug", ["order of steps", "epsilon", "not reversed"])
def test_invertible_catches(bug, zero):
    with pytest.raises(CheckFailed, match="measured"):
        checks.invertible(Flow(bug, zero), torch.randn(16, 2))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bug", ["sign", "half", "shift", "over the batch", "keeps a dimension"])
def test_log_det_catches(bug, zero):
    with pytest.raises(CheckFailed):
        checks.log_det(Flow(bug, zero), torch.randn(16, 2))


def test_flow_checks_catch_other_bugs():
    x = torch.randn(8, 3)
    with pytest.raises(CheckFailed):
        checks.invertible(ActNorm(3, "permutation"), x)
    with pytest.raises(CheckFailed):
        checks.log_det(ActNorm(3, "mean"), x)

    class Remembers(Flow):
        def forward(self, x):
            self.x = x
            return super().forward(x)

        def inverse(self, z):
            return self.x

    with pytest.raises(CheckFailed):
        checks.invertible(Remembers(), torch.randn(8, 2))

    class Singular(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True).expand_as(x), torch.zeros(len(x))

        def inverse(self, z):
            return z

    for check in (checks.log_det, checks.invertible):
        with pytest.raises(CheckFailed):
            check(Singular(), x)
    with pytest.raises(CheckFailed, match="log_det of example"):  # the inverse's
        checks.log_det(lambda x: (2 * x, torch.full((len(x),), -3 * math.log(2))), x)
    with pytest.raises(CheckFailed, match="gradient"):
        checks.log_det(lambda x: (x.detach() * 2, torch.full((len(x),), 3 * math.log(2))), x)


def test_many_layers_that_are_ill_conditioned_together_are_not_accused():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(torch.linalg.qr(torch.randn(8, 8)).Q)

        def forward(self, x):
            return x @ self.W, torch.linalg.slogdet(self.W).logabsdet.expand(len(x))

        def inverse(self, z):
            return z @ torch.linalg.inv(self.W)

    flow = Flow()
    flow.layers = nn.ModuleList(Linear() for _ in range(24))
    checks.invertible(flow, torch.randn(4, 8))
    checks.log_det(flow, torch.randn(4, 8))


def test_flows_that_break_the_contract_are_told_so():
    class Bad(Flow):
        def forward(self, x):
            z, log_det = super().forward(x)
            return {"no log_det": z, "list": [z, log_det], "fewer": (z[:, :1], log_det)}.get(
                self.kind, (z, log_det)
            )

        def inverse(self, z):
            return {"tuple": (z, 0)}.get(self.kind, z)

    for kind in ("no log_det", "list", "fewer", "tuple"):
        flow = Bad()
        flow.kind = kind
        with pytest.raises(checks.WrongShape, match=r"shape .*expected \(4, 2\)"):
            checks.invertible(flow, torch.randn(4, 2))
        if kind != "tuple":
            with pytest.raises(checks.WrongShape):
                checks.log_det(flow, torch.randn(4, 2))
    with pytest.raises(ValueError, match="no method inverse"):
        checks.invertible(nn.Linear(2, 2), torch.randn(4, 2))


def test_a_scale_that_must_be_positive_is_not_accused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1, 3))

        def forward(self, x):
            return x * self.scale, self.scale.log().sum().expand(len(x))

        def inverse(self, z):
            return z / self.scale

    for check in (checks.invertible, checks.log_det):
        check(Scale(), torch.randn(4, 3))


def test_a_squeeze_may_change_the_shape():
    class Squeeze(nn.Module):
        def forward(self, x):
            return F.pixel_unshuffle(x, 2) * 2, torch.full((len(x),), x[0].numel() * math.log(2)).to(x)

        def inverse(self, z):
            return F.pixel_shuffle(z / 2, 2)

    checks.invertible(Squeeze(), torch.randn(3, 1, 4, 4))
    checks.log_det(lambda x: (x * 2, torch.full((len(x),), 16 * math.log(2)).to(x)), torch.randn(3, 1, 4, 4))


def test_deep_and_steep_flows_are_not_accused():
    class Steep(nn.Module):
        """Affine coupling without a bound on its scales: overflows at a draw of full size."""

        def __init__(self, flip):
            super().__init__()
            self.flip, self.net = flip, nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))

        def forward(self, x):
            a, b = (x.flip(1) if self.flip else x).chunk(2, 1)
            scale, shift = self.net(a).chunk(2, 1)
            z = torch.cat([a, b * scale.exp() + shift], 1)
            return (z.flip(1) if self.flip else z), scale.sum(1)

        def inverse(self, z):
            a, b = (z.flip(1) if self.flip else z).chunk(2, 1)
            scale, shift = self.net(a).chunk(2, 1)
            x = torch.cat([a, (b - shift) * (-scale).exp()], 1)
            return x.flip(1) if self.flip else x

    flow = Flow()
    flow.layers = nn.ModuleList(Steep(i % 2 == 1) for i in range(20))
    for check in (checks.invertible, checks.log_det):
        check(flow, torch.randn(8, 2))


@pytest.mark.parametrize("check", [checks.invertible, checks.log_det])
def test_flow_checks_refuse_bad_arguments(check):
    for x in (torch.zeros(3, dtype=torch.long), torch.zeros(0, 2), "x", torch.zeros(4, 3)):
        with pytest.raises(ValueError) as error:
            check(Flow(), x)
        assert not isinstance(error.value, CheckFailed)


# ---- densities and samplers --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_density_checks_are_silent_on_correct_models(seed):
    torch.manual_seed(seed)
    model = MADE(8)
    assert abs(checks.sums_to_one(model.log_prob, 8) - 1) < 1e-12
    checks.sums_to_one(lambda x: model.log_prob(x), 8)  # in single precision
    checks.sums_to_one(CategoricalMADE(3, 4).log_prob, 3, values=4)
    density = mixture()
    assert checks.samples_match(lambda n: density.sample((n,)), density.log_prob) < 4.5
    if seed < 10:
        angle = torch.rand(()) * 6
        A = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]]) @ torch.diag(
            torch.tensor([2.0, 0.3])
        )
        normal = torch.distributions.MultivariateNormal(
            torch.randn(2), scale_tril=torch.linalg.cholesky(A @ A.T)
        )
        checks.integrates_to_one(normal.log_prob, limits=(-14, 14))
        checks.samples_match(lambda n: normal.sample((n,)), normal.log_prob, limits=(-14, 14))


def test_a_flow_integrates_to_one_and_samples_its_density():
    flow = Flow()
    assert abs(checks.integrates_to_one(flow.log_prob) - 1) < 1e-3
    checks.samples_match(flow.sample, flow.log_prob)


@pytest.mark.parametrize(
    "log_prob",
    [
        MADE(6, last=torch.ge).log_prob,
        lambda x: torch.full((len(x),), -5 * math.log(2)),
        lambda x: torch.full((len(x),), -6.001 * math.log(2)),
        lambda x: torch.full((len(x),), -6.0),  # bits, not nats
        lambda x: torch.full((len(x), 6), -math.log(2)),  # not summed
        lambda x: torch.full((len(x),), math.nan),
        lambda x: torch.where(x.sum(1) == 0, math.nan, -6 * math.log(2)),
    ],
)
def test_sums_to_one_catches(log_prob):
    with pytest.raises(CheckFailed):
        checks.sums_to_one(log_prob, 6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_densities_that_are_not_numbers_are_named(value):
    with pytest.raises(CheckFailed, match=r"NaN or \+inf at 1 of 64"):
        checks.sums_to_one(lambda x: torch.where(x.sum(1) == 0, value, -6 * math.log(2)), 6)


@pytest.mark.parametrize("dim, values", [(0, 2), (5, 1), (30, 2)])
def test_sums_to_one_refuses_bad_arguments(dim, values):
    with pytest.raises(ValueError, match="at"):
        checks.sums_to_one(lambda x: x.sum(1), dim, values=values)


@pytest.mark.parametrize(
    "log_prob",
    [
        lambda x: normal_2d(x) - math.log(2 * math.pi),  # the constant of D dimensions for each of them
        lambda x: normal_2d(x) + math.log(2 * math.pi) / 2,
        lambda x: -x.square().sum(1) / 2,
        lambda x: normal_2d(x / 2) - 2 * math.log(2) + 0.01,
        Flow("sign").log_prob,
        Flow("half").log_prob,
        lambda x: normal_2d(x / 20) - 2 * math.log(20),  # outside the window
        lambda x: Normal(0.0, 1.0).log_prob(x),
        lambda x: normal_2d(x).sqrt(),
    ],
)
def test_integrates_to_one_catches(log_prob):
    with pytest.raises(CheckFailed):
        checks.integrates_to_one(log_prob)


def test_integrates_to_one_resolves_peaks_and_edges():
    narrow = Normal(torch.tensor([1.234, -0.777]), torch.tensor([0.02, 0.02]))
    assert abs(checks.integrates_to_one(lambda x: narrow.log_prob(x).sum(1)) - 1) < 1e-3
    disk = lambda x: torch.where((x - 0.123).norm(dim=1) < 2, -math.log(4 * math.pi), -math.inf)  # noqa: E731
    assert abs(checks.integrates_to_one(disk) - 1) < 1e-3
    for limits in ((8, -8), (0, 0), (0, math.inf)):
        with pytest.raises(ValueError, match="limits"):
            checks.integrates_to_one(normal_2d, limits=limits)


def two_gaussians(n):
    one = torch.rand(n) < 0.3
    return torch.where(one, -2 + 0.5 * torch.randn(n), 2 + 0.5 * torch.randn(n))


def two_gaussians_2d(x):
    parts = [math.log(w) + Normal(m, 0.5).log_prob(x).sum(1) for w, m in ((0.3, -2.0), (0.7, 2.0))]
    return torch.stack(parts).logsumexp(0)


def wide_and_narrow(x):
    return normal_2d(x / torch.tensor([1.0, 2.0])) - math.log(2)


TWO, STANDARD = mixture((0.3, 0.7), (-2.0, 2.0), (0.5, 0.5)), Normal(0.0, 1.0)
NEARLY_TWO = mixture((0.35, 0.65), (-2.0, 2.0), (0.5, 0.5))
SAMPLE_BUGS = {
    "variance for standard deviation": (lambda n: 4 * torch.randn(n), Normal(0.0, 2.0).log_prob),
    "weights": (lambda n: -two_gaussians(n), TWO.log_prob),
    "slightly wrong weights": (lambda n: NEARLY_TWO.sample((n,)), TWO.log_prob),
    "a mode missing": (lambda n: 2 + 0.5 * torch.randn(n), TWO.log_prob),
    "axes swapped": (lambda n: torch.randn(n, 2) * torch.tensor([2.0, 1.0]), wide_and_narrow),
    "a component for each coordinate": (
        lambda n: torch.stack([two_gaussians(n), two_gaussians(n)], 1),
        two_gaussians_2d,
    ),
    "outside the window": (lambda n: torch.randn(n) + 100 * (torch.rand(n) < 0.01), STANDARD.log_prob),
    "not normalised": (lambda n: torch.randn(n, 2), lambda x: normal_2d(x) + 0.1),
    "almost normalised": (lambda n: torch.randn(n, 2), lambda x: normal_2d(x) + 0.005),
    "the same sample": (lambda n: torch.randn(1).expand(n), STANDARD.log_prob),
    "not a number": (lambda n: torch.randn(n).log(), STANDARD.log_prob),
    "shape": (lambda n: torch.randn(2, n), normal_2d),
}


@pytest.mark.parametrize("bug", SAMPLE_BUGS)
def test_samples_match_catches(bug):
    with pytest.raises(CheckFailed):
        checks.samples_match(*SAMPLE_BUGS[bug])


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_the_z_score_of_a_right_sampler_is_standard_normal(shape):
    density = Normal(torch.zeros(shape), 1.0)
    log_prob = (lambda x: density.log_prob(x).sum(1)) if shape else density.log_prob
    z = []
    for seed in range(40):
        torch.manual_seed(seed)
        z.append(checks.samples_match(lambda n: density.sample((n,)), log_prob, n=2000))
    z = torch.tensor(z)
    assert abs(z.mean()) < 0.7 and 0.6 < z.std() < 1.5  # 4 and more standard errors wide


# ---- estimators, bounds, training --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_unbiased_is_silent_on_correct_estimators(seed):
    torch.manual_seed(seed)
    seen = checks.unbiased(lambda: torch.randn(3).square(), torch.ones(3), n=1000)
    assert 0.1 < seen < 0.4  # 4.5 · sqrt(2 / 1000) = 0.2
    checks.unbiased(lambda: 0.1, 0.1, n=100)


MU, SIGMA = torch.tensor([0.7, -1.2]), torch.tensor([1.5, 2.0])
KL = float((0.5 * (SIGMA**2 + MU**2 - 1) - SIGMA.log()).sum())


def kl_draw(bug=None):
    z = MU + SIGMA * torch.randn(2)
    log_q = (-0.5 * ((z - MU) / SIGMA) ** 2 - (0 if bug == "no log sigma" else SIGMA.log())).sum()
    log_p = (-0.5 * z**2 * (2 if bug == "no half" else 1)).sum()
    return log_p - log_q if bug == "sign" else log_q - log_p


@pytest.mark.parametrize("bug", ["sign", "no half", "no log sigma"])
def test_unbiased_catches(bug):
    checks.unbiased(kl_draw, KL, n=1000)
    with pytest.raises(CheckFailed, match="smallest that would be seen"):
        checks.unbiased(lambda: kl_draw(bug), KL, n=1000)


def test_unbiased_catches_a_constant_and_what_is_not_finite():
    bad = [(lambda: 0.1, 0.10001), (lambda: math.nan, 0.0), (lambda: [0.0, math.inf], [0.0, 0.0])]
    bad += [(lambda: torch.randn(2) + torch.tensor([0.0, 0.5]), [0.0, 0.0])]
    for estimator, truth in bad:
        with pytest.raises(CheckFailed):
            checks.unbiased(estimator, truth, n=500)
    for estimator, truth, n in (
        (lambda: torch.zeros(3), 0.0, 100),
        (lambda: 0.0, [0.0], 100),
        (lambda: 0.0, 0.0, 1),
    ):
        with pytest.raises(ValueError) as error:
            checks.unbiased(estimator, truth, n=n)
        assert not isinstance(error.value, CheckFailed)


def test_bound():
    for seed in SEEDS:
        exact = torch.randn(9, generator=torch.Generator().manual_seed(seed))
        assert checks.bound(exact - 0.5, exact) == pytest.approx(0.5)
        assert checks.bound(exact, exact) == 0
    for lower, exact in ((-85.9, -86.0), ([-1.0, -2.0], [-1.0, -2.1]), (math.nan, 0.0), (0.0, math.nan)):
        with pytest.raises(CheckFailed):
            checks.bound(lower, exact)
    with pytest.raises(ValueError, match="shape"):
        checks.bound([1.0, 2.0], 3.0)


def test_gradients_reach():
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
        if seed % 2:
            nn.init.zeros_(model[-1].weight)
        before = copy.deepcopy(model.state_dict())

        def loss(batch, model=model):
            return {"loss": model(batch).square().mean() + model(batch).mean()}

        norms = checks.gradients_reach(loss, model, torch.randn(16, 3))
        assert set(norms) == dict(model.named_parameters()).keys() and min(norms.values()) > 0
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters()) and model.training


def test_gradients_reach_catches():
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(16, 3)
    with pytest.raises(CheckFailed, match=r"0\.weight.*0\.bias"):
        checks.gradients_reach(lambda x: model[2](model[1](model[0](x)).detach()).mean(), model, batch)
    with pytest.raises(CheckFailed):
        checks.gradients_reach(lambda x: model[1](model[0](x)).mean(), model, batch)  # the last layer unused
    with pytest.raises(CheckFailed):
        checks.gradients_reach(lambda x: (model(x) * 0 - 1).sqrt().mean(), model, batch)
    with pytest.raises(CheckFailed):
        checks.gradients_reach(lambda x: model(x).detach().mean(), model, batch)
    with pytest.raises(CheckFailed, match="shape"):
        checks.gradients_reach(lambda x: model(x), model, batch)
    with pytest.raises(CheckFailed):
        checks.gradients_reach(lambda x: model(x).mean(), dead(model), batch)
    with pytest.raises(ValueError, match="no parameter"):
        checks.gradients_reach(lambda x: x.mean(), nn.ReLU(), batch)


def test_batch_independent():
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2))
        assert checks.batch_independent(model, torch.randn(5, 3)) < 1e-12
        assert checks.batch_independent(nn.BatchNorm1d(3).eval(), torch.randn(5, 3)) == 0
    checks.batch_independent(nn.Embedding(4, 2), torch.randint(4, (6, 3)))
    checks.batch_independent(Flow(), torch.randn(5, 2))
    with pytest.raises(CheckFailed):  # NaN where other examples change
        checks.batch_independent(lambda x: x + (4.0 - x.abs().sum()).sqrt(), torch.full((4, 1), 0.9))
    with pytest.raises(CheckFailed):
        checks.batch_independent(lambda x: x - x[:1], torch.tensor([[0], [1]]))
    for f in (
        nn.BatchNorm1d(3),
        lambda x: x - x.mean(0),
        lambda x: x / x.abs().max(),
        lambda x: x[:, 0] * x.sum(),
    ):
        with pytest.raises(CheckFailed):
            checks.batch_independent(f, torch.randn(5, 3))
    with pytest.raises(ValueError, match="2 examples"):
        checks.batch_independent(nn.Linear(3, 3), torch.randn(1, 3))


def test_lipschitz():
    for seed in SEEDS:
        torch.manual_seed(seed)
        w = torch.randn(4)
        assert checks.lipschitz(
            lambda x, w=w: x.flatten(1) @ w.to(x), torch.randn(6, 1, 2, 2)
        ) == pytest.approx(w.norm().item())
        critic = nn.Sequential(
            *(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)) for _ in range(3)), nn.Linear(4, 1)
        )
        critic[-1].weight.data /= critic[-1].weight.norm()
        assert checks.lipschitz(critic, torch.randn(6, 4), limit=1.0) <= 1 + 1e-6
    for critic in (
        lambda x: 1.01 * x[:, 0],
        lambda x: 10 * x.relu().sum(1),
        lambda x: x.sum(1) / x.shape[1] * 3,
    ):
        with pytest.raises(CheckFailed):
            checks.lipschitz(critic, torch.ones(6, 4), limit=1.0)
    with pytest.raises(CheckFailed, match="shape"):
        checks.lipschitz(lambda x: x, torch.randn(6, 4))
    with pytest.raises(CheckFailed):
        checks.lipschitz(lambda x: x.sum(1).abs().sqrt(), torch.zeros(6, 4))


# ---- what all have in common -------------------------------------------------------------------------------


def test_models_and_the_random_state_are_left_untouched():
    made, flow, x = MADE(5).train(), Flow().train(), torch.randn(8, 2)
    critic = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Linear(2, 4)), nn.BatchNorm1d(4), nn.Linear(4, 1)
    )
    act_norm, kept = ActNorm(2), x.clone()
    models = [made, flow, critic, act_norm]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    random_state = torch.get_rng_state()
    checks.autoregressive(made, (5,))
    checks.dependence(made, (5,))
    checks.sums_to_one(made.log_prob, 5)
    for model in (flow, act_norm):
        checks.invertible(model, x)
        checks.log_det(model, x)
    checks.integrates_to_one(flow.log_prob)
    checks.samples_match(flow.sample, flow.log_prob, n=1000)
    checks.lipschitz(critic, x)
    checks.unbiased(lambda: torch.randn(()), 0.0, n=100)
    checks.batch_independent(flow, x)
    checks.gradients_reach(lambda batch: critic(batch).square().mean(), critic, x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, kept) and x.dtype == torch.float32 and not x.requires_grad
    for model, state in zip(models, before, strict=True):
        assert model.training and all(
            p.grad is None and p.requires_grad for p in model.parameters() if p.ndim < 2
        )
        for name, value in model.state_dict().items():
            assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name


def test_each_verdict_is_reported(tmp_path, monkeypatch):
    report = tmp_path / "checks.jsonl"
    checks.bound(0.0, 1.0)
    assert not report.exists()
    monkeypatch.setenv("DGM_CHECKS", str(report))
    checks.bound(0.0, 1.0)
    checks.dependence(nn.Linear(2, 2), (2,))
    checks.lipschitz(nn.Linear(2, 1), torch.zeros(2, 2))
    for bad in (
        lambda: checks.bound(1.0, 0.0),
        lambda: checks.bound(math.nan, 0.0),
        lambda: checks.log_det(Flow("half"), torch.randn(4, 2)),
    ):
        with pytest.raises(CheckFailed):
            bad()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in report.read_text().splitlines()]
    assert [row["check"] for row in rows] == ["bound", "dependence", "lipschitz", "bound", "bound", "log_det"]
    assert [row["passed"] for row in rows] == [True, True, True, False, False, False]
    assert all(set(row) == {"check", "measured", "bound", "passed"} for row in rows)


def test_a_failure_says_what_was_measured_and_where_to_look():
    with pytest.raises(CheckFailed, match=r"(?s)invertible: .*measured .*, bound 1e-06\. .*reverse order"):
        checks.invertible(Flow("not reversed"), torch.randn(4, 2))
    assert issubclass(CheckFailed, AssertionError)
    public = [
        name
        for name, value in vars(checks).items()
        if getattr(value, "__module__", "") == checks.__name__ and name.islower() and name[0] != "_"
    ]
    assert set(public) == set(checks.HINTS)
