"""Every check catches its planted bugs, stays silent on correct models over 50 seeds, and leaves all as it was."""

import copy
import functools
import math
import time

import pytest
import torch
from torch import nn, randn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dgm_utils import checks
from dgm_utils.checks import (
    autoregressive, batch_independent, bound, dependence, gradients_reach, integrates_to_one, invertible,
    lipschitz, log_det, reloads, samples_match, sums_to_one, unbiased,
)  # fmt: skip

LN2 = math.log(2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- autoregressive models, right and wrong ----------------------------------------------------------------


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class MaskedLinear(nn.Linear):
    def __init__(self, mask):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Two hidden layers; `last` compares degrees in the last mask, `leak` opens a wrong connection."""

    def __init__(self, dim, hidden=32, order=None, parameters=1, last=torch.gt, leak=False, unit=nn.ReLU):
        super().__init__()
        degree = torch.arange(dim) if order is None else torch.as_tensor(order).argsort()
        inner = torch.arange(hidden) % max(1, dim - 1)
        mask = last(degree[:, None], inner)
        if leak:
            wrong = (degree[:, None] <= inner).nonzero()
            mask[tuple(wrong[torch.randint(len(wrong), ())])] = True
        masks = inner[:, None] >= degree, inner[:, None] >= inner, mask.repeat(parameters, 1)
        first, second, third = map(MaskedLinear, masks)
        self.net, self.parameters_each = nn.Sequential(first, unit(), second, unit(), third), parameters

    def forward(self, x):
        out = self.net(x)
        return out if self.parameters_each == 1 else out.unflatten(1, (self.parameters_each, -1))

    def log_prob(self, x):
        return -F.binary_cross_entropy_with_logits(self(x), x, reduction="none").sum(1)


class CastingMADE(MADE):
    def forward(self, x):
        return super().forward(x.float())


class LogitMADE(MADE):
    def forward(self, x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("expected values in [0, 1]")
        return super().forward(torch.logit(x))


class CategoricalMADE(nn.Module):
    """Takes int64 only, one-hot inside; gives (B, K, D)."""

    def __init__(self, dim, values, strict=True):
        super().__init__()
        self.dim, self.values = dim, values
        degree = torch.arange(dim)
        mask = (torch.gt if strict else torch.ge)(degree[:, None], degree)
        mask = mask[:, None, :, None].expand(dim, values, dim, values)
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


def pixel_cnn(first="A"):
    layers = MaskedConv(1, 8, first, 5), nn.ReLU(), MaskedConv(8, 8, "B"), nn.ReLU(), MaskedConv(8, 1, "B", 1)
    return nn.Sequential(*layers)


class TrainableMask(nn.Module):
    def __init__(self, dim, **options):
        super().__init__()
        self.weight = nn.Parameter(randn(dim, dim))
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


def with_a_graph_on_it(model, x):
    """Leave an output on the model, which cannot be deep-copied as it is."""
    model.last_output = model(x)
    return model


def weight_normed(model):
    for layer in model.net[::2]:
        parametrizations.weight_norm(layer)
    return model


def leaky():
    return MADE(5, last=torch.ge)


def branching(x):
    return torch.stack([torch.stack([row[0] * 0 + (1.0 if row[1] > 0 else 2.0), row[0]]) for row in x])


def pixel_by_pixel(x):  # green sees red of its pixel, blue sees both, the next pixel sees all
    flat = x.movedim(1, -1).flatten(1)
    return (flat.cumsum(1) - flat).unflatten(1, (2, 2, 3)).movedim(-1, 1)


# ---- flows, right and wrong --------------------------------------------------------------------------------


class Coupling(nn.Module):
    def __init__(self, flip, bug=None, zero=False, squash=torch.tanh):
        super().__init__()
        self.flip, self.bug, self.squash = flip, bug, squash
        self.net = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 2))
        if zero:
            zeroed(self.net[-1])

    def halves(self, x):
        a, b = (x.flip(1) if self.flip else x).chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        return a, b, self.squash(scale), shift

    def forward(self, x):
        a, b, scale, shift = self.halves(x)
        z = torch.cat([a, b * scale.exp() + shift], 1)
        wrong = {"sign": -scale, "half": scale / 2, "shift": scale + shift}
        log_det = wrong.get(self.bug, scale).sum(1, keepdim=self.bug == "keeps a dimension")
        log_det = log_det.sum() if self.bug == "over the batch" else log_det
        return (z.flip(1) if self.flip else z), log_det

    def inverse(self, z):
        a, b, scale, shift = self.halves(z)
        b = b * (-scale).exp() - shift if self.bug == "order of steps" else (b - shift) * (-scale).exp()
        x = torch.cat([a, b * (1 + 1e-5) if self.bug == "epsilon" else b], 1)
        return x.flip(1) if self.flip else x


class Flow(nn.Module):
    """Layers of coupling, the second of which has the bug, or other layers."""

    def __init__(self, bug=None, zero=False, layers=None):
        super().__init__()
        self.bug = bug
        self.layers = nn.ModuleList(
            layers or [Coupling(i % 2 == 1, bug if i == 1 else None, zero) for i in range(4)]
        )

    def forward(self, x):
        log_det = torch.zeros([] if self.bug == "over the batch" else len(x), dtype=x.dtype)
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
        return log_det + normal_2d(z)

    def sample(self, n):
        return self.inverse(randn(n, 2)).detach()


class Broken(Flow):
    """Answers otherwise than the contract of a flow wants."""

    def __init__(self, forward=lambda z, log_det: (z, log_det), inverse=lambda x: x):
        super().__init__()
        self.answers = forward, inverse

    def forward(self, x):
        return self.answers[0](*super().forward(x))

    def inverse(self, z):
        return self.answers[1](super().inverse(z))


class Remembers(Flow):
    def forward(self, x):
        self.x = x
        return super().forward(x)

    def inverse(self, z):
        return self.x


class Singular(nn.Module):
    def forward(self, x):
        return x.sum(1, keepdim=True).expand_as(x), torch.zeros(len(x))

    def inverse(self, z):
        return z


class ActNorm(nn.Module):
    """Initialised by its first batch, in any mode; a permutation kept as a frozen parameter."""

    def __init__(self, dim, bug=None):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.permutation = nn.Parameter(torch.eye(dim)[torch.randperm(dim)], requires_grad=False)
        keep = plain if bug == "plain flag" else buffer
        keep(self, "ready", torch.tensor(False))
        self.bug = bug

    def forward(self, x):
        if not self.ready:
            self.log_scale.data, self.shift.data = -x.std(0).log(), -x.mean(0)
            self.ready = torch.tensor(True)
        log_det = self.log_scale.sum() if self.bug != "mean" else self.log_scale.mean()
        return ((x + self.shift) * self.log_scale.exp()) @ self.permutation, log_det.expand(len(x))

    def inverse(self, z):
        back = self.permutation if self.bug == "permutation" else self.permutation.T
        return (z @ back) * (-self.log_scale).exp() - self.shift


class Linear(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.W = nn.Parameter(torch.linalg.qr(randn(dim, dim)).Q)

    def forward(self, x):
        return x @ self.W, torch.linalg.slogdet(self.W).logabsdet.expand(len(x))

    def inverse(self, z):
        return z @ torch.linalg.inv(self.W)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 3))

    def forward(self, x):
        return x * self.scale, self.scale.log().sum().expand(len(x))

    def inverse(self, z):
        return z / self.scale


class Squeeze(nn.Module):
    def forward(self, x):
        return F.pixel_unshuffle(x, 2) * 2, torch.full((len(x),), x[0].numel() * LN2).to(x)

    def inverse(self, z):
        return F.pixel_shuffle(z / 2, 2)


# ---- what a file holds, and what it loses ------------------------------------------------------------------


def plain(module, name, value):
    setattr(module, name, value)


def buffer(module, name, value, **options):
    module.register_buffer(name, value, **options)


class Permutation(nn.Module):
    def __init__(self, dim, keep=buffer):
        super().__init__()
        keep(self, "order", torch.randperm(dim))

    def forward(self, x):
        return x[:, self.order]


class LULinear(nn.Module):
    """x P L U of a random rotation, with the signs of U's diagonal apart from its logarithms."""

    def __init__(self, dim, keep_signs=buffer):
        super().__init__()
        P, L, U = torch.linalg.lu(torch.linalg.qr(randn(dim, dim)).Q)
        signs, logs = U.diagonal().sign(), U.diagonal().abs().log()
        self.L, self.U, self.logs = nn.Parameter(L), nn.Parameter(U), nn.Parameter(logs)
        buffer(self, "P", P)
        keep_signs(self, "signs", signs)

    def forward(self, x):
        L, U = self.L.tril(-1) + torch.eye(len(self.L)), self.U.triu(1) + (self.signs * self.logs.exp()).diag()
        return x @ self.P @ L @ U, self.logs.sum().expand(len(x))


class RunningMean(nn.Module):
    """Subtracts a running mean of the batches."""

    def __init__(self, keep):
        super().__init__()
        keep(self, "mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return x - self.mean


class Grows(nn.Module):
    def forward(self, x):
        self.register_buffer("seen", x)
        return x


# ---- densities, samplers, estimators -----------------------------------------------------------------------


STANDARD = Normal(0.0, 1.0)


def normal_2d(x):
    return STANDARD.log_prob(x).sum(1)


def mixture(weights, means=(-2.0, 2.0), scales=(0.5, 0.5)):
    weights, means, scales = map(torch.tensor, (weights, means, scales))
    return MixtureSameFamily(Categorical(weights), Normal(means, scales))


def sampler(density):
    return lambda n: density.sample((n,))


TWO, NEARLY_TWO, UNEQUAL = mixture((0.3, 0.7)), mixture((0.35, 0.65)), mixture((0.2, 0.8), scales=(0.4, 1.0))


def two_on_the_diagonal(x):
    parts = [math.log(w) + Normal(m, 0.5).log_prob(x).sum(1) for w, m in ((0.3, -2.0), (0.7, 2.0))]
    return torch.stack(parts).logsumexp(0)


def rotated():
    angle = torch.rand(()) * 6
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    A = rotation @ torch.tensor([2.0, 0.3]).diag()
    return MultivariateNormal(randn(2), A @ A.T)


def disk(x):
    return torch.where((x - 0.123).norm(dim=1) < 2, -math.log(4 * math.pi), -math.inf)


NARROW = Normal(torch.tensor([1.234, -0.777]), torch.tensor([0.02, 0.02]))
MU, SIGMA = torch.tensor([0.7, -1.2]), torch.tensor([1.5, 2.0])
KL = float((0.5 * (SIGMA**2 + MU**2 - 1) - SIGMA.log()).sum())


def kl_draw(bug=None):
    z = MU + SIGMA * randn(2)
    log_q = (-0.5 * ((z - MU) / SIGMA) ** 2 - (0 if bug == "no log sigma" else SIGMA.log())).sum()
    log_p = (-0.5 * z**2 * (2 if bug == "no half" else 1)).sum()
    return log_p - log_q if bug == "sign" else log_q - log_p


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def reach(loss, change=lambda model: model):
    """Check the gradients of loss(model, batch) in a small network."""
    model = change(mlp())
    return gradients_reach(functools.partial(loss, model), model, randn(16, 3))


# ---- planted bugs: check and bug, call, a pattern in the message -------------------------------------------

ORDER = [3, 0, 4, 1, 2]
BUGS = {
    "autoregressive: last mask not strict": (lambda: autoregressive(leaky(), (5,)), "4 leaks"),
    "autoregressive: mask transposed": (lambda: autoregressive(MADE(5, last=torch.lt), (5,)), "leaks"),
    "autoregressive: inverse order": (
        lambda: autoregressive(MADE(5, order=torch.tensor(ORDER).argsort()), (5,), order=ORDER), "leaks"),
    "autoregressive: order ignored": (lambda: autoregressive(MADE(5), (5,), order=ORDER), "leaks"),
    "autoregressive: the first leak in the order of drawing is named": (
        lambda: autoregressive(
            lambda x: torch.stack([0 * x[:, 0], x[:, 3], 0 * x[:, 0], x[:, 0]], 1), (4,), order=[2, 0, 1, 3]),
        r": 1 leaks: output 1 = order\[2\] depends on input 3 = order\[3\]"),
    "autoregressive: no mask": (lambda: autoregressive(nn.Linear(5, 5), (5,)), "15 leaks"),
    "autoregressive: second parameter leaks": (
        lambda: autoregressive(lambda x: torch.stack([0 * x, x], 1), (5,)), "5 leaks"),
    "autoregressive: as many parameters as inputs": (
        lambda: autoregressive(MADE(5, parameters=5, last=torch.ge), (5,)), "4 leaks"),
    "autoregressive: zero-initialised": (lambda: autoregressive(zeroed(leaky()), (5,)), "4 leaks"),
    "autoregressive: dead units": (lambda: autoregressive(dead(leaky()), (5,)), "4 leaks"),
    "autoregressive: frozen": (
        lambda: autoregressive(zeroed(leaky()).requires_grad_(False), (5,)), "4 leaks"),
    "autoregressive: trainable mask": (lambda: autoregressive(TrainableMask(5), (5,)), "15 leaks"),
    "autoregressive: mask type B first": (lambda: autoregressive(pixel_cnn("B"), (1, 4, 4)), "16 leaks"),
    "autoregressive: full convolution": (
        lambda: autoregressive(nn.Conv2d(1, 1, 3, padding=1), (1, 4, 4)), "leaks"),
    "autoregressive: channels see each other": (
        lambda: autoregressive(nn.Conv2d(3, 3, 1), (3, 2, 2)), "24 leaks"),
    "autoregressive: channel by channel": (
        lambda: autoregressive(pixel_by_pixel, (3, 2, 2), order=range(12)), "leaks"),
    "autoregressive: categorical": (
        lambda: autoregressive(CategoricalMADE(4, 3, strict=False), (4,), values=3), "4 leaks"),
    "autoregressive: detached": (lambda: autoregressive(lambda x: x.detach().cumsum(1), (4,)), "4 leaks"),
    "autoregressive: saturated": (lambda: autoregressive(lambda x: torch.tanh(1e3 * x), (4,)), "4 leaks"),
    "autoregressive: step function": (lambda: autoregressive(lambda x: (x > 0).to(x), (4,)), "4 leaks"),
    "autoregressive: branch on a later input": (
        lambda: autoregressive(branching, (2,)), r"output 0 = order\[0\] depends on input 1 = order\[1\]"),
    "autoregressive: normalised over the variables": (
        lambda: autoregressive(nn.LayerNorm(4), (4,)), "10 leaks"),
    "autoregressive: logit of the input": (lambda: autoregressive(torch.logit, (4,)), "4 leaks"),
    "autoregressive: bound method": (lambda: autoregressive(leaky().forward, (5,)), "4 leaks"),
    "autoregressive: partial": (
        lambda: autoregressive(functools.partial(zeroed(leaky())), (5,)), "4 leaks"),
    "autoregressive: not a number": (lambda: autoregressive(lambda x: x * math.nan, (4,)), "NaN"),
    "autoregressive: infinite": (
        lambda: autoregressive(nn.Sequential(MADE(4), Apply(lambda x: x.exp() / 0)), (4,)), "not finite"),
    "autoregressive: parameters last": (
        lambda: autoregressive(lambda x: torch.stack([x, x], 2), (4,)), r"expected \(4,\) or \(4, 4\)"),
    "dependence: not a number": (lambda: dependence(lambda x: (-x.abs() - 1).log(), (3,)), "NaN"),
    "invertible: wrong permutation": (
        lambda: invertible(ActNorm(3, "permutation"), randn(8, 3)), "inverse.* is not x"),
    "invertible: remembers x": (lambda: invertible(Remembers(), randn(8, 2)), "forward.* is not z"),
    "invertible: singular": (lambda: invertible(Singular(), randn(8, 3)), "inverse.* is not x"),
    "log_det: mean": (lambda: log_det(ActNorm(3, "mean"), randn(8, 3)), "log_det of example"),
    "log_det: singular": (lambda: log_det(Singular(), randn(8, 3)), "singular"),
    "log_det: the inverse's": (
        lambda: log_det(lambda x: (2 * x, torch.full((len(x),), -3 * LN2)), randn(8, 3)),
        "log_det of example . is -2.07944, its Jacobian's 2.07944 nats"),
    "log_det: detached": (
        lambda: log_det(lambda x: (x.detach() * 2, torch.full((len(x),), 3 * LN2)), randn(8, 3)), "gradient"),
    "sums_to_one: mask not strict": (lambda: sums_to_one(MADE(6, last=torch.ge).log_prob, 6), "64 states"),
    "sums_to_one: a factor too many": (
        lambda: sums_to_one(lambda x: torch.full((len(x),), -5 * LN2), 6), "sum to 2"),
    "sums_to_one: a little off": (
        lambda: sums_to_one(lambda x: torch.full((len(x),), -6.001 * LN2), 6), "sum to 0.999"),
    "sums_to_one: bits": (lambda: sums_to_one(lambda x: torch.full((len(x),), -6.0), 6), "sum to 0.158"),
    "sums_to_one: not summed": (lambda: sums_to_one(lambda x: torch.full((len(x), 6), -LN2), 6), "shape"),
    "sums_to_one: not a number": (
        lambda: sums_to_one(lambda x: torch.full((len(x),), math.nan), 6), "output is NaN"),
    "sums_to_one: NaN at one": (
        lambda: sums_to_one(lambda x: torch.where(x.sum(1) == 0, math.nan, -6 * LN2), 6), r"at 1 of 64"),
    "sums_to_one: infinite at one": (
        lambda: sums_to_one(lambda x: torch.where(x.sum(1) == 0, math.inf, -6 * LN2), 6), r"at 1 of 64"),
    "integrates_to_one: constant of all dimensions for each": (
        lambda: integrates_to_one(lambda x: normal_2d(x) - math.log(2 * math.pi)), "is 0.15915"),
    "integrates_to_one: constant of one dimension": (
        lambda: integrates_to_one(lambda x: normal_2d(x) + math.log(2 * math.pi) / 2), "is 2.50663"),
    "integrates_to_one: no constant": (
        lambda: integrates_to_one(lambda x: -x.square().sum(1) / 2), "is 6.28319"),
    "integrates_to_one: a little off": (
        lambda: integrates_to_one(lambda x: normal_2d(x / 2) - 2 * LN2 + 0.01), "is 1.009"),
    "integrates_to_one: sign of log_det": (lambda: integrates_to_one(Flow("sign").log_prob), "integral"),
    "integrates_to_one: half of log_det": (lambda: integrates_to_one(Flow("half").log_prob), "integral"),
    "integrates_to_one: outside the window": (
        lambda: integrates_to_one(lambda x: normal_2d(x / 20) - 2 * math.log(20)), "in the outermost"),
    "integrates_to_one: not summed": (lambda: integrates_to_one(STANDARD.log_prob), "shape"),
    "integrates_to_one: not a number": (lambda: integrates_to_one(lambda x: normal_2d(x).sqrt()), "NaN"),
    "samples_match: variance for standard deviation": (
        lambda: samples_match(lambda n: 4 * randn(n), Normal(0.0, 2.0).log_prob), "z-score"),
    "samples_match: weights": (lambda: samples_match(lambda n: -TWO.sample((n,)), TWO.log_prob), "z-score"),
    "samples_match: slightly wrong weights": (
        lambda: samples_match(sampler(NEARLY_TWO), TWO.log_prob), "z-score"),
    "samples_match: a mode missing": (
        lambda: samples_match(lambda n: 2 + randn(n) / 2, TWO.log_prob), "z-score"),
    "samples_match: axes swapped": (
        lambda: samples_match(
            lambda n: randn(n, 2) * torch.tensor([2.0, 1.0]),
            lambda x: normal_2d(x / torch.tensor([1.0, 2.0])) - LN2), "z-score"),
    "samples_match: a component for each coordinate": (
        lambda: samples_match(lambda n: TWO.sample((n, 2)), two_on_the_diagonal), "z-score"),
    "samples_match: outside the window": (
        lambda: samples_match(lambda n: randn(n) + 100 * (torch.rand(n) < 0.01), STANDARD.log_prob),
        r"are not in \(-8, 8\), 0.0 expected"),
    "samples_match: all outside the window": (
        lambda: samples_match(lambda n: 20 + randn(n), Normal(20.0, 1.0).log_prob), "integrates to 0.0000"),
    "samples_match: not normalised": (
        lambda: samples_match(lambda n: randn(n, 2), lambda x: normal_2d(x) + 0.1), "integrates to 1.105"),
    "samples_match: almost normalised": (
        lambda: samples_match(lambda n: randn(n, 2), lambda x: normal_2d(x) + 0.005), "integrates to 1.005"),
    "samples_match: the same sample": (
        lambda: samples_match(lambda n: randn(1).expand(n), STANDARD.log_prob), "z-score"),
    "samples_match: not a number": (
        lambda: samples_match(lambda n: randn(n).log(), STANDARD.log_prob), "are not in"),
    "samples_match: shape": (lambda: samples_match(lambda n: randn(2, n), normal_2d), r"expected \(10000,\)"),
    "unbiased: sign": (lambda: unbiased(lambda: kl_draw("sign"), KL, n=1000), "smallest that would be seen"),
    "unbiased: no half": (lambda: unbiased(lambda: kl_draw("no half"), KL, n=1000), "a bias of 3"),
    "unbiased: no log sigma": (
        lambda: unbiased(lambda: kl_draw("no log sigma"), KL, n=1000), "a bias of 0.9"),
    "unbiased: a constant": (lambda: unbiased(lambda: 0.1, 0.10001, n=500), "bias of -1e-05"),
    "unbiased: not a number": (lambda: unbiased(lambda: math.nan, 0.0, n=500), "nan"),
    "unbiased: infinite": (lambda: unbiased(lambda: [0.0, math.inf], [0.0, 0.0], n=500), r"\(entry 1\)"),
    "unbiased: one entry": (
        lambda: unbiased(lambda: randn(2) + torch.tensor([0.0, 0.5]), [0.0, 0.0], n=500), r"\(entry 1\)"),
    "bound: above": (lambda: bound(-85.9, -86.0), "-85.9 exceeds the exact -86"),
    "bound: above at one": (lambda: bound([-1.0, -2.0], [-1.0, -2.1]), r"-2 exceeds .* \(entry 1"),
    "bound: not a number": (lambda: bound(math.nan, 0.0), "nan"),
    "bound: against NaN": (lambda: bound(0.0, math.nan), "nan"),
    "gradients_reach: a layer detached": (
        lambda: reach(lambda m, x: m[2](m[1](m[0](x)).detach()).mean()), r"0\.weight.*0\.bias"),
    "gradients_reach: the last layer unused": (lambda: reach(lambda m, x: m[:2](x).mean()), r"2\.weight"),
    "gradients_reach: not a number": (lambda: reach(lambda m, x: (m(x) * 0 - 1).sqrt().mean()), "nan"),
    "gradients_reach: not a number at the start only": (
        lambda: reach(lambda m, x: m(x).square().sum().sqrt(), zeroed), "nan"),
    "gradients_reach: the loss detached": (lambda: reach(lambda m, x: m(x).detach().mean()), "of 4 parameters"),
    "gradients_reach: a loss for each": (lambda: reach(lambda m, x: m(x)), r"shape \(16, 1\), expected \(\)"),
    "gradients_reach: dead units": (lambda: reach(lambda m, x: m(x).mean(), dead), r"0\.weight"),
    "batch_independent: NaN where others change": (
        lambda: batch_independent(lambda x: x + (4 - x.abs().sum()).sqrt(), torch.full((4, 1), 0.9)), "nan"),
    "batch_independent: the first of integers": (
        lambda: batch_independent(lambda x: x - x[:1], torch.tensor([[0], [1]])), "outputs change"),
    "batch_independent: the last of integers": (
        lambda: batch_independent(lambda x: x - x[-1:], torch.tensor([[0], [1]])), "outputs change"),
    "batch_independent: batch norm": (
        lambda: batch_independent(nn.BatchNorm1d(3), randn(5, 3)), "outputs change"),
    "batch_independent: mean": (lambda: batch_independent(lambda x: x - x.mean(0), randn(5, 3)), "change"),
    "batch_independent: maximum": (
        lambda: batch_independent(lambda x: x / x.abs().max(), randn(5, 3)), "outputs change"),
    "batch_independent: sum": (lambda: batch_independent(lambda x: x[:, 0] * x.sum(), randn(5, 3)), "change"),
    "lipschitz: a little steep": (
        lambda: lipschitz(lambda x: 1.01 * x[:, 0], torch.ones(6, 4), limit=1.0), "measured 1.01"),
    "lipschitz: steep": (
        lambda: lipschitz(lambda x: 10 * x.relu().sum(1), torch.ones(6, 4), limit=1.0), "measured 20"),
    "lipschitz: mean over dimensions": (
        lambda: lipschitz(lambda x: x.sum(1) / x.shape[1] * 3, torch.ones(6, 4), limit=1.0), "measured 1.5"),
    "lipschitz: shape": (lambda: lipschitz(lambda x: x, randn(6, 4)), r"\(12,\) or \(12, 1\)"),
    "lipschitz: infinite": (lambda: lipschitz(lambda x: x.sum(1).abs().sqrt(), torch.zeros(6, 4)), "nan|inf"),
    "reloads: permutation": (lambda: reloads(lambda: Permutation(5, plain), randn(4, 5)), "answers otherwise"),
    "reloads: permutation of two": (
        lambda: reloads(lambda: Permutation(2, plain), randn(4, 2)), "answers otherwise"),
    "reloads: buffer that is not saved": (
        lambda: reloads(lambda: Permutation(5, functools.partial(buffer, persistent=False)), randn(4, 5)),
        "answers otherwise"),
    "reloads: signs": (lambda: reloads(lambda: LULinear(3, plain), randn(4, 3)), "answers otherwise"),
    "reloads: flag": (lambda: reloads(lambda: ActNorm(3, "plain flag"), randn(2, 3)), "answers otherwise"),
    "reloads: running mean": (
        lambda: reloads(lambda: RunningMean(plain), 1 + randn(4, 3)), "answers otherwise"),
}  # fmt: skip
# A zero-initialised flow hides its bugs until its parameters are drawn.
BUGS |= {
    f"{check.__name__}: {bug}{', zero-initialised' if zero else ''}": (
        lambda check=check, bug=bug, zero=zero: check(Flow(bug, zero), randn(16, 2)), words)
    for zero in (False, True)
    for check, bug, words in (
        (invertible, "order of steps", "is not x.*measured"), (invertible, "epsilon", "measured 1.*e-05"),
        (invertible, "not reversed", "is not x.*measured"), (log_det, "sign", "is -.*, its Jacobian's 0"),
        (log_det, "half", "log_det of example"), (log_det, "shift", "log_det of example"),
        (log_det, "over the batch", r"shape \(\)"), (log_det, "keeps a dimension", r"shape \(16, 16\)"))
}  # fmt: skip
# Answers that are no flow's; what comes back from the inverse does not concern log_det.
BUGS |= {
    f"{check.__name__}: {kind}": (
        lambda check=check, forward=forward: check(Broken(forward), randn(4, 2)),
        f"shape {got}, expected \\(4, 2\\)")
    for check in (invertible, log_det)
    for kind, forward, got in (
        ("no log_det", lambda z, log_det: {"z": z}, "dict"), ("a list", lambda z, log_det: [z, log_det], "list"),
        ("fewer dimensions", lambda z, log_det: (z[:, :1], log_det), r"\(4, 1\)"))
} | {
    "invertible: a tuple from the inverse": (
        lambda: invertible(Broken(inverse=lambda x: (x, 0)), randn(4, 2)), r"shape tuple, expected \(4, 2\)")
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught_in_words(bug):
    call, words = BUGS[bug]
    with pytest.raises(checks.CheckFailed, match=f"(?s)^{bug.partition(':')[0]}: .*{words}") as caught:
        call()
    assert checks.HINTS[bug.partition(":")[0]] in str(caught.value)


@pytest.mark.slow  # torch.compile is slow to import
def test_a_compiled_model_is_judged_as_the_model_in_it():
    with pytest.raises(checks.CheckFailed, match="4 leaks"):
        autoregressive(torch.compile(zeroed(leaky())), (5,))


# ---- correct models ----------------------------------------------------------------------------------------


def right_mades(seed):
    dim = int(torch.randint(1, 12, ()))
    order = torch.randperm(dim)
    rank = order.argsort()
    for unit in (nn.ReLU, nn.Sigmoid):
        model = MADE(dim, order=order, parameters=1 + seed % 3, unit=unit)
        # All that is allowed is there: nothing is missed either.
        assert torch.equal(autoregressive(model, (dim,), order=order), rank[:, None] > rank)


def one_leak_among_many(seed):
    with pytest.raises(checks.CheckFailed, match=" leaks"):
        autoregressive(MADE(10, leak=True), (10,))


def right_flows(seed):
    x = randn(8, 2)
    for flow in (Flow(zero=seed % 2 == 0), ActNorm(2)):
        assert invertible(flow, x) < 1e-9
        assert log_det(flow, x) < 1e-9


def right_probabilities(seed):
    model = MADE(8)
    assert abs(sums_to_one(model.log_prob, 8) - 1) < 1e-12
    sums_to_one(lambda x: model.log_prob(x), 8)  # in single precision
    sums_to_one(CategoricalMADE(3, 4).log_prob, 3, values=4)


def right_densities(seed):
    assert samples_match(sampler(UNEQUAL), UNEQUAL.log_prob) < 4.5
    normal = rotated()
    integrates_to_one(normal.log_prob, limits=(-14, 14))
    if seed < 10:
        samples_match(sampler(normal), normal.log_prob, limits=(-14, 14))


def right_estimators(seed):
    seen = unbiased(lambda: randn(3).square(), torch.ones(3), n=1000)
    assert 0.1 < seen < 0.4  # 4.5 · sqrt(2 / 1000) = 0.2
    unbiased(lambda: 0.1, 0.1, n=100)


def right_bounds(seed):
    exact = randn(9)
    assert bound(exact - 0.5, exact) == pytest.approx(0.5)
    assert bound(exact, exact) == 0


def right_gradients(seed):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    if seed % 2:
        nn.init.zeros_(model[-1].weight)
    norms = gradients_reach(lambda x: {"loss": model(x).square().mean() + model(x).mean()}, model, randn(16, 3))
    assert norms.keys() == dict(model.named_parameters()).keys() and min(norms.values()) > 0


def right_batches(seed):
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2))
    assert batch_independent(model, randn(5, 3)) < 1e-12
    assert batch_independent(nn.BatchNorm1d(3).eval(), randn(5, 3)) == 0
    batch_independent(nn.Embedding(4, 2), torch.randint(4, (6, 3)))
    batch_independent(Flow(), randn(5, 2))


def right_critics(seed):
    w = randn(4)
    slope = lipschitz(lambda x: x.flatten(1) @ w.to(x), randn(6, 1, 2, 2))
    assert slope == pytest.approx(w.norm().item())
    layers = [parametrizations.orthogonal(nn.Linear(4, 4)) for _ in range(3)]
    critic = nn.Sequential(*layers, nn.Linear(4, 1))
    critic[-1].weight.data /= critic[-1].weight.norm()
    assert lipschitz(critic, randn(6, 4), limit=1.0) <= 1 + 1e-6


RIGHT = {
    "autoregressive": right_mades,
    "autoregressive, one leak": one_leak_among_many,
    "autoregressive, categorical": lambda seed: autoregressive(
        CategoricalMADE(3, 2 + seed % 4), (3,), values=2 + seed % 4),
    "autoregressive, images": lambda seed: autoregressive(pixel_cnn(), (1, 5, 4)),
    "invertible, log_det": right_flows,
    "sums_to_one": right_probabilities,
    "samples_match, integrates_to_one": right_densities,
    "unbiased": right_estimators,
    "bound": right_bounds,
    "gradients_reach": right_gradients,
    "batch_independent": right_batches,
    "lipschitz": right_critics,
    "reloads, buffers": lambda seed: reloads(lambda: Permutation(5), randn(4, 5)),
    "reloads, batch norm and dropout": lambda seed: reloads(
        lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)), randn(4, 3)),
    "reloads, tuples": lambda seed: reloads(lambda: Flow(layers=[ActNorm(3), LULinear(3)]), randn(4, 3)),
    "reloads, running mean": lambda seed: reloads(lambda: RunningMean(buffer), 1 + randn(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_correct_models_are_not_accused_over_50_seeds(name):
    for seed in range(50):
        torch.manual_seed(seed)
        RIGHT[name](seed)


MODEL = MADE(6)  # what a lambda closes over
ACCEPTED = {
    "casts inside": lambda: autoregressive(CastingMADE(6), (6,)),
    "takes logits": lambda: autoregressive(LogitMADE(6), (6,)),
    "parametrised": lambda: autoregressive(weight_normed(MADE(6)), (6,)),
    "holds a graph": lambda: autoregressive(with_a_graph_on_it(MADE(6), randn(2, 6)), (6,)),
    "dropout": lambda: autoregressive(nn.Sequential(MADE(6), nn.Dropout(0.5)), (6,)),
    "a function around a model in single precision": lambda: autoregressive(lambda x: MODEL(x), (6,)),
    "draws noise": lambda: autoregressive(lambda x: MODEL(x.float()) + randn(len(x), 6), (6,)),
    "embeds integers": lambda: autoregressive(
        nn.Sequential(nn.Embedding(3, 4), Apply(lambda e: e.sum(-1).cumsum(1) - e.sum(-1))), (4,), values=3),
    "frozen mask": lambda: autoregressive(TrainableMask(5, requires_grad=False), (5,)),
    "frozen model": lambda: autoregressive(TrainableMask(5).requires_grad_(False), (5,)),
    "ill-conditioned together": lambda: flow_checks(Flow(layers=[Linear(8) for _ in range(24)]), randn(4, 8)),
    "deep and steep": lambda: flow_checks(  # its scales have no bound: a draw of full size overflows
        Flow(layers=[Coupling(i % 2 == 1, squash=lambda scale: scale) for i in range(20)]), randn(8, 2)),
    "a scale that must be positive": lambda: flow_checks(Scale(), randn(4, 3)),
    "a squeeze": lambda: flow_checks(Squeeze(), randn(3, 1, 4, 4)),
    "images": lambda: log_det(lambda x: (x * 2, torch.full((len(x),), 16 * LN2).to(x)), randn(3, 1, 4, 4)),
    "a thin peak": lambda: integrates_to_one(lambda x: NARROW.log_prob(x).sum(1)),
    "an edge": lambda: integrates_to_one(disk),
    "a flow's density": lambda: integrates_to_one(Flow().log_prob),
    "a flow's samples": lambda: samples_match((flow := Flow()).sample, flow.log_prob),
    "an estimate of a KL": lambda: unbiased(kl_draw, KL, n=1000),
}  # fmt: skip


def flow_checks(flow, x):
    invertible(flow, x)
    log_det(flow, x)


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_models_are_not_accused(name):
    ACCEPTED[name]()


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_the_z_score_of_a_right_sampler_is_standard_normal(shape):
    density = Normal(torch.zeros(shape), 1.0)
    log_prob = (lambda x: density.log_prob(x).sum(1)) if shape else density.log_prob
    z = []
    for seed in range(40):
        torch.manual_seed(seed)
        z.append(samples_match(sampler(density), log_prob, n=2000))
    z = torch.tensor(z)
    assert abs(z.mean()) < 0.7 and 0.6 < z.std() < 1.5  # 4 and more standard errors wide


def test_dependence_is_the_structure_of_the_function():
    matrix = dependence(lambda x: torch.stack([x[:, 0] * x[:, 2], x[:, 1].round()], 1), (3,))
    assert matrix.tolist() == [[True, False, True], [False, True, False]]
    assert dependence(nn.Conv2d(1, 2, 3), (1, 4, 4)).sum(1).tolist() == [9] * 8
    assert autoregressive(pixel_by_pixel, (3, 2, 2)).sum() == 12 * 11 / 2  # channels are drawn inside a pixel


def test_a_made_of_mnist_size_takes_seconds():
    start = time.perf_counter()
    autoregressive(MADE(784, 500), (784,))
    assert time.perf_counter() - start < 30  # about one on an idle machine


# ---- arguments that are refused ----------------------------------------------------------------------------

REFUSED = {
    "no shape": (lambda: autoregressive(MADE(5), ()), "tuple of sizes"),
    "a size of zero": (lambda: autoregressive(MADE(5), (0,)), "tuple of sizes"),
    "a number for a shape": (lambda: autoregressive(MADE(5), 5), "tuple of sizes"),
    "a size that is no integer": (lambda: autoregressive(MADE(5), (5.0,)), "tuple of sizes"),
    "one value": (lambda: autoregressive(MADE(5), (5,), values=1), "at least 2, got 1"),
    "another shape": (lambda: autoregressive(MADE(5), (6,)), r"does not take shape \(2, 6\)"),
    "too short an order": (lambda: autoregressive(MADE(5), (5,), order=range(4)), "permutation of 0 … 4"),
    "an order that repeats": (
        lambda: autoregressive(MADE(5), (5,), order=[0, 1, 2, 3, 3]), "permutation of 0 … 4"),
    "an order that starts at 1": (lambda: autoregressive(MADE(5), (5,), order=range(1, 6)), "permutation"),
    "no inverse": (lambda: invertible(nn.Linear(2, 2), randn(4, 2)), "no method inverse"),
    "no variable": (lambda: sums_to_one(normal_2d, 0), "at least 1"),
    "one state": (lambda: sums_to_one(normal_2d, 5, values=1), "at least 2"),
    "too many states": (lambda: sums_to_one(normal_2d, 30), "too many, at most"),
    "limits, upper first": (lambda: integrates_to_one(normal_2d, limits=(8, -8)), "limits"),
    "no interval": (lambda: integrates_to_one(normal_2d, limits=(0, 0)), "limits"),
    "an infinite window": (lambda: integrates_to_one(normal_2d, limits=(0, math.inf)), "limits"),
    "few samples": (lambda: samples_match(sampler(STANDARD), STANDARD.log_prob, n=999), "at least 1000"),
    "a truth of another shape": (lambda: unbiased(lambda: torch.zeros(3), 0.0, n=100), r"\(3,\), the truth"),
    "a draw of another shape": (lambda: unbiased(lambda: 0.0, [0.0], n=100), r"the truth \(1,\)"),
    "one draw": (lambda: unbiased(lambda: 0.0, 0.0, n=1), "at least 100"),
    "bounds of another shape": (lambda: bound([1.0, 2.0], 3.0), "shapes"),
    "nothing to train": (lambda: gradients_reach(lambda x: x.mean(), nn.ReLU(), randn(3)), "no parameter"),
    "one example": (lambda: batch_independent(nn.Linear(3, 3), randn(1, 3)), "2 examples"),
    "the same model twice": (lambda: reloads(lambda: MODEL, randn(2, 6)), "a new model at each call"),
} | {
    f"{check.__name__}: {kind}": (lambda check=check, x=x: check(Flow(), x), words)
    for check in (invertible, log_det)
    for kind, x, words in (
        ("integers", torch.zeros(3, 2, dtype=torch.long), "real examples"), ("text", "x", "real examples"),
        ("one dimension", torch.zeros(3), "real examples"), ("no example", torch.zeros(0, 2), "B > 0"),
        ("more dimensions", torch.zeros(4, 3), r"does not take shape \(4, 3\)"))
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused(name):
    call, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert not isinstance(error.value, checks.CheckFailed)  # nothing was judged


def test_a_state_that_does_not_fit_is_refused_by_torch():
    with pytest.raises(RuntimeError, match="Unexpected key.*seen"):
        reloads(Grows, randn(4, 2))


# ---- what all have in common -------------------------------------------------------------------------------


def test_models_and_the_random_state_are_left_untouched():
    made, flow, act_norm, x = MADE(5), Flow(), ActNorm(2), randn(8, 2)
    linear = parametrizations.spectral_norm(nn.Linear(2, 4))
    critic, kept = nn.Sequential(linear, nn.BatchNorm1d(4), nn.Linear(4, 1)), x.clone()
    models = [made, flow, critic, act_norm]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    random_state = torch.get_rng_state()
    autoregressive(made, (5,))
    dependence(made, (5,))
    sums_to_one(made.log_prob, 5)
    flow_checks(flow, x)
    flow_checks(act_norm, x)
    integrates_to_one(flow.log_prob)
    samples_match(flow.sample, flow.log_prob, n=1000)
    lipschitz(critic, x)
    unbiased(lambda: randn(()), 0.0, n=100)
    batch_independent(flow, x)
    gradients_reach(lambda batch: critic(batch).square().mean(), critic, x)
    reloads(lambda: ActNorm(2), x)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(x, kept) and x.dtype == torch.float32 and not x.requires_grad
    for model, state in zip(models, before, strict=True):
        assert model.training
        assert all(p.grad is None and p.requires_grad for p in model.parameters() if p.ndim < 2)
        for name, value in model.state_dict().items():
            assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name


def test_a_failure_is_an_assertion_and_every_public_check_has_a_hint():
    assert issubclass(checks.CheckFailed, AssertionError)
    assert set(checks.__all__) == {*checks.HINTS, "CheckFailed", "WrongShape", "judge"}
    assert all(any(bug.startswith(f"{check}: ") for bug in BUGS) for check in checks.HINTS)


# ---- answers to exercises ----------------------------------------------------------------------------------


def blank(x):
    raise NotImplementedError


def crooked(answer):
    assert answer == 4, f"2 + 2 is 4, not {answer}"


def sums(log_prob):
    sums_to_one(log_prob, 3)


ANSWERS = {
    "blank": (blank, lambda answer: answer(2), "not answered yet"),
    "blank in a check": (blank, sums, "not answered yet"),
    "wrong": (5, crooked, "not right: 2 + 2 is 4, not 5"),
    "fails": (None, lambda answer: answer + 1, "not right: unsupported operand"),
    "fails a check": (lambda x: 0 * x.sum(1), sums, "not right: sums_to_one: the probabilities of all 8 states"),
    "right": (4, crooked, "right"),
    "passes a check": (lambda x: 0 * x.sum(1) - 3 * LN2, sums, "right"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_is_judged_in_one_line(kind, capsys):
    answer, check, words = ANSWERS[kind]
    assert checks.judge(answer, check) is None
    said = capsys.readouterr().out
    assert said.startswith(words) and said.count("\n") == 1
    assert said == f"{words}\n" or words.startswith("not right: ")


def test_judging_can_be_interrupted():
    def interrupt(answer):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checks.judge(None, interrupt)
