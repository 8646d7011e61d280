"""Every check catches its planted bugs, accuses no correct model over 50 seeds, and leaves all as it was."""

import copy
import functools
import itertools
import math
import time

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn, randn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from dgm_utils import checks

LN2 = math.log(2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- autoregressive models, right and wrong ----------------------------------------------------------------


class Map(nn.Module):
    """A module of a function, a flow of two."""

    def __init__(self, forward, inverse=lambda z: z):
        super().__init__()
        self.forward, self.inverse = forward, inverse


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


def casting(model):
    return nn.Sequential(Map(lambda x: x.float()), model)


def of_logits(model):
    def logit(x):
        if x.min() < 0 or x.max() > 1:
            raise ValueError("expected values in [0, 1]")
        return torch.logit(x)

    return nn.Sequential(Map(logit), model)


def wrapped(model, noise=0.0):
    return lambda x: model(x.float() if noise else x) + noise * randn(len(x), 6)


def weight_normed(model):
    for layer in model.net[::2]:
        parametrizations.weight_norm(layer)
    return model


def with_a_graph_on_it(model):
    model.last_output = model(randn(2, 6))  # cannot be deep-copied as it is
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


class Remembers(Flow):
    def forward(self, x):
        self.x = x
        return super().forward(x)

    def inverse(self, z):
        return self.x


def constant(value):
    return lambda x: torch.full((len(x),), value, dtype=torch.float64)


def doubled(log_det):
    return lambda x: (2 * x, constant(log_det)(x))


SINGULAR = Map(lambda x: (x.sum(1, keepdim=True).expand_as(x), constant(0.0)(x)))
SQUEEZE = Map(lambda x: doubled(16 * LN2)(F.pixel_unshuffle(x, 2)), lambda z: F.pixel_shuffle(z / 2, 2))


class ActNorm(nn.Module):
    """Initialised by its first batch; a permutation kept as a frozen parameter."""

    def __init__(self, dim, bug=None):
        super().__init__()
        self.log_scale, self.shift = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))
        self.permutation = nn.Parameter(torch.eye(dim)[torch.randperm(dim)], requires_grad=False)
        keep = plain if bug == "plain flag" else buffer
        keep(self, "ready", torch.tensor(False))
        self.bug = bug

    def forward(self, x):
        if not self.ready and (self.training or self.bug != "plain flag"):
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
        L, diagonal = self.L.tril(-1) + torch.eye(len(self.L)), self.signs * self.logs.exp()
        return x @ self.P @ L @ (self.U.triu(1) + diagonal.diag()), self.logs.sum().expand(len(x))


class RunningMean(nn.Module):
    """Subtracts the mean of the batch, in eval mode a running mean of batches, as batch norm does."""

    def __init__(self, keep):
        super().__init__()
        keep(self, "mean", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean()
        return x - (x.mean() if self.training else self.mean)


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


NARROW, WIDE = Normal(torch.tensor([1.234, -0.777]), torch.tensor([0.02, 0.02])), torch.tensor([1.0, 2.0])
MU, SIGMA = torch.tensor([0.7, -1.2]), torch.tensor([1.5, 2.0])
KL = float((0.5 * (SIGMA**2 + MU**2 - 1) - SIGMA.log()).sum())


def kl_draw(bug=None):
    z = MU + SIGMA * randn(2)
    log_q = (-0.5 * ((z - MU) / SIGMA) ** 2 - (0 if bug == "no log sigma" else SIGMA.log())).sum()
    log_p = (-0.5 * z**2 * (2 if bug == "no half" else 1)).sum()
    return log_p - log_q if bug == "sign" else log_q - log_p


def training(loss, change=lambda model: model):
    """Return what gradients_reach takes, for loss(model, batch) of a small network."""
    model = change(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))
    return functools.partial(loss, model), model, randn(16, 3)


# ---- planted bugs: what the check is given, and a pattern in its message -----------------------------------

ORDER = [3, 0, 4, 1, 2]
BUGS = {
    checks.autoregressive: {
        "last mask not strict": (lambda: (leaky(), (5,)), "4 leaks"),
        "mask transposed": (lambda: (MADE(5, last=torch.lt), (5,)), "leaks"),
        "inverse order": (
            lambda: (MADE(5, order=torch.tensor(ORDER).argsort()), (5,), {"order": ORDER}), "leaks"),
        "order ignored": (lambda: (MADE(5), (5,), {"order": ORDER}), "leaks"),
        "the first leak in the order of drawing is named": (
            lambda: (lambda x: F.pad(x[:, [3, 0]], (1, 0))[:, [0, 1, 0, 2]], (4,), {"order": [2, 0, 1, 3]}),
            r"\b1 leaks: output 1 \(drawn as number 3\) depends on input 3 \(drawn as number 4\)"),
        "no mask": (lambda: (nn.Linear(5, 5), (5,)), "15 leaks"),
        "second parameter leaks": (lambda: (lambda x: torch.stack([0 * x, x], 1), (5,)), "5 leaks"),
        "as many parameters as inputs": (lambda: (MADE(5, parameters=5, last=torch.ge), (5,)), "4 leaks"),
        "zero-initialised": (lambda: (zeroed(leaky()), (5,)), "4 leaks"),
        "dead units": (lambda: (dead(leaky()), (5,)), "4 leaks"),
        "frozen": (lambda: (zeroed(leaky()).requires_grad_(False), (5,)), "4 leaks"),
        "trainable mask": (lambda: (TrainableMask(5), (5,)), "15 leaks"),
        "mask type B first": (lambda: (pixel_cnn("B"), (1, 4, 4)), "16 leaks"),
        "full convolution": (lambda: (nn.Conv2d(1, 1, 3, padding=1), (1, 4, 4)), "leaks"),
        "channels see each other": (lambda: (nn.Conv2d(3, 3, 1), (3, 2, 2)), "24 leaks"),
        "channel by channel": (lambda: (pixel_by_pixel, (3, 2, 2), {"order": range(12)}), "leaks"),
        "categorical": (lambda: (CategoricalMADE(4, 3, strict=False), (4,), {"values": 3}), "4 leaks"),
        "detached": (lambda: (lambda x: x.detach().cumsum(1), (4,)), "4 leaks"),
        "saturated": (lambda: (lambda x: torch.tanh(1e3 * x), (4,)), "4 leaks"),
        "step function": (lambda: (lambda x: (x > 0).to(x), (4,)), "4 leaks"),
        "branch on a later input": (
            lambda: (branching, (2,)),
            r"output 0 \(drawn as number 1\) depends on input 1 \(drawn as number 2\)"),
        "normalised over the variables": (lambda: (nn.LayerNorm(4), (4,)), "10 leaks"),
        "logit of the input": (lambda: (torch.logit, (4,)), "4 leaks"),
        "bound method": (lambda: (leaky().forward, (5,)), "4 leaks"),
        "partial": (lambda: (functools.partial(zeroed(leaky())), (5,)), "4 leaks"),
        "not a number": (lambda: (lambda x: x * math.nan, (4,)), "NaN"),
        "infinite": (lambda: (nn.Sequential(MADE(4), Map(lambda x: x.exp() / 0)), (4,)), "not finite"),
        "parameters last": (lambda: (lambda x: torch.stack([x, x], 2), (4,)), r"expected \(4,\) or \(4, 4\)"),
    },
    checks.dependence: {
        "not a number": (lambda: (lambda x: (-x.abs() - 1).log(), (3,)), "NaN"),
    },
    checks.invertible: {
        "wrong permutation": (lambda: (ActNorm(3, "permutation"), randn(8, 3)), "inverse.* is not x"),
        "remembers x": (lambda: (Remembers(), randn(8, 2)), "forward.* is not z"),
        "singular": (lambda: (SINGULAR, randn(8, 3)), "inverse.* is not x"),
        "a tuple from the inverse": (
            lambda: (Map(doubled(0.0), lambda z: (z, 0)), randn(4, 2)), r"shape tuple, expected \(4, 2\)"),
    },
    checks.log_det: {
        "mean": (lambda: (ActNorm(3, "mean"), randn(8, 3)), "log_det of example"),
        "singular": (lambda: (SINGULAR, randn(8, 3)), "singular"),
        "the inverse's": (lambda: (doubled(-3 * LN2), randn(8, 3)), "is -2.07944, its Jacobian's 2.07944"),
        "detached": (lambda: (lambda x: doubled(3 * LN2)(x.detach()), randn(8, 3)), "gradient"),
    },
    checks.sums_to_one: {
        "mask not strict": (lambda: (MADE(6, last=torch.ge).log_prob, 6), "64 states"),
        "a factor too many": (lambda: (constant(-5 * LN2), 6), "sum to 2"),
        "a little off": (lambda: (constant(-6.001 * LN2), 6), "sum to 0.999"),
        "bits": (lambda: (constant(-6.0), 6), "sum to 0.158"),
        "not summed": (lambda: (lambda x: torch.full((len(x), 6), -LN2), 6), "shape"),
        "not a number": (lambda: (constant(math.nan), 6), "output is NaN"),
        "NaN at one": (lambda: (lambda x: torch.where(x.sum(1) == 0, math.nan, -6 * LN2), 6), r"at 1 of 64"),
        "infinite at one": (
            lambda: (lambda x: torch.where(x.sum(1) == 0, math.inf, -6 * LN2), 6), r"at 1 of 64"),
    },
    checks.integrates_to_one: {
        "constant of all dimensions for each": (
            lambda: (lambda x: normal_2d(x) - math.log(2 * math.pi),), "is 0.15915"),
        "constant of one dimension": (
            lambda: (lambda x: normal_2d(x) + math.log(2 * math.pi) / 2,), "is 2.50663"),
        "no constant": (lambda: (lambda x: -x.square().sum(1) / 2,), "is 6.28319"),
        "a little off": (lambda: (lambda x: normal_2d(x / 2) - 2 * LN2 + 0.01,), "is 1.009"),
        "sign of log_det": (lambda: (Flow("sign").log_prob,), "integral"),
        "half of log_det": (lambda: (Flow("half").log_prob,), "integral"),
        "outside the window": (lambda: (lambda x: normal_2d(x / 20) - 2 * math.log(20),), "in the outermost"),
        "not summed": (lambda: (STANDARD.log_prob,), "shape"),
        "not a number": (lambda: (lambda x: normal_2d(x).sqrt(),), "NaN"),
    },
    checks.samples_match: {
        "variance for standard deviation": (
            lambda: (lambda n: 4 * randn(n), Normal(0.0, 2.0).log_prob), "z-score"),
        "weights": (lambda: (lambda n: -TWO.sample((n,)), TWO.log_prob), "z-score"),
        "slightly wrong weights": (lambda: (sampler(NEARLY_TWO), TWO.log_prob), "z-score"),
        "a mode missing": (lambda: (lambda n: 2 + randn(n) / 2, TWO.log_prob), "z-score"),
        "axes swapped": (
            lambda: (lambda n: randn(n, 2) * WIDE.flip(0), lambda x: normal_2d(x / WIDE) - LN2), "z-score"),
        "a component for each coordinate": (
            lambda: (lambda n: TWO.sample((n, 2)), two_on_the_diagonal), "z-score"),
        "outside the window": (
            lambda: (lambda n: randn(n) + 100 * (torch.rand(n) < 0.01), STANDARD.log_prob),
            r"are not in \(-8, 8\), 0.0 expected"),
        "all outside the window": (
            lambda: (lambda n: 20 + randn(n), Normal(20.0, 1.0).log_prob), "integrates to 0.0000"),
        "not normalised": (
            lambda: (lambda n: randn(n, 2), lambda x: normal_2d(x) + 0.1), "integrates to 1.105"),
        "almost normalised": (
            lambda: (lambda n: randn(n, 2), lambda x: normal_2d(x) + 0.005), "integrates to 1.005"),
        "the same sample": (lambda: (lambda n: randn(1).expand(n), STANDARD.log_prob), "z-score"),
        "not a number": (lambda: (lambda n: randn(n).log(), STANDARD.log_prob), "are not in"),
        "shape": (lambda: (lambda n: randn(2, n), normal_2d), r"expected \(10000,\)"),
    },
    checks.unbiased: {
        "sign": (lambda: (lambda: kl_draw("sign"), KL, {"n": 1000}), "smallest that would be seen"),
        "no half": (lambda: (lambda: kl_draw("no half"), KL, {"n": 1000}), "a bias of 3"),
        "no log sigma": (lambda: (lambda: kl_draw("no log sigma"), KL, {"n": 1000}), "a bias of 0.9"),
        "a constant": (lambda: (lambda: 0.1, 0.10001, {"n": 500}), "bias of -1e-05"),
        "not a number": (lambda: (lambda: math.nan, 0.0, {"n": 500}), "nan"),
        "infinite": (lambda: (lambda: [0.0, math.inf], [0.0, 0.0], {"n": 500}), r"\(entry 1\)"),
        "one entry": (
            lambda: (lambda: randn(2) + torch.tensor([0.0, 0.5]), [0.0, 0.0], {"n": 500}), r"\(entry 1\)"),
    },
    checks.bound: {
        "above": (lambda: (-85.9, -86.0), "-85.9 exceeds the exact -86"),
        "above at one": (lambda: ([-1.0, -2.0], [-1.0, -2.1]), r"-2 exceeds .* \(entry 1"),
        "not a number": (lambda: (math.nan, 0.0), "nan"),
        "against NaN": (lambda: (0.0, math.nan), "nan"),
    },
    checks.gradients_reach: {
        "a layer detached": (
            lambda: training(lambda m, x: m[2](m[1](m[0](x)).detach()).mean()), r"0\.weight.*0\.bias"),
        "the last layer unused": (lambda: training(lambda m, x: m[:2](x).mean()), r"2\.weight"),
        "not a number": (lambda: training(lambda m, x: (m(x) * 0 - 1).sqrt().mean()), "nan"),
        "not a number at the start only": (
            lambda: training(lambda m, x: m(x).square().sum().sqrt(), zeroed), "nan"),
        "the loss detached": (lambda: training(lambda m, x: m(x).detach().mean()), "of 4 parameters"),
        "a loss for each": (lambda: training(lambda m, x: m(x)), r"shape \(16, 1\), expected \(\)"),
        "dead units": (lambda: training(lambda m, x: m(x).mean(), dead), r"0\.weight"),
    },
    checks.batch_independent: {
        "NaN where others change": (
            lambda: (lambda x: x + (4 - x.abs().sum()).sqrt(), torch.full((4, 1), 0.9)), "nan"),
        "the first of integers": (lambda: (lambda x: x - x[:1], torch.tensor([[0], [1]])), "outputs change"),
        "the last of integers": (lambda: (lambda x: x - x[-1:], torch.tensor([[0], [1]])), "outputs change"),
        "batch norm": (lambda: (nn.BatchNorm1d(3), randn(5, 3)), "outputs change"),
        "mean": (lambda: (lambda x: x - x.mean(0), randn(5, 3)), "change"),
        "maximum": (lambda: (lambda x: x / x.abs().max(), randn(5, 3)), "outputs change"),
        "sum": (lambda: (lambda x: x[:, 0] * x.sum(), randn(5, 3)), "change"),
    },
    checks.lipschitz: {
        "a little steep": (
            lambda: (lambda x: 1.01 * x[:, 0], torch.ones(6, 4), {"limit": 1.0}), "measured 1.01"),
        "steep": (lambda: (lambda x: 10 * x.relu().sum(1), torch.ones(6, 4), {"limit": 1.0}), "measured 20"),
        "mean over dimensions": (
            lambda: (lambda x: x.sum(1) / x.shape[1] * 3, torch.ones(6, 4), {"limit": 1.0}), "measured 1.5"),
        "shape": (lambda: (lambda x: x, randn(6, 4)), r"\(12,\) or \(12, 1\)"),
        "infinite": (lambda: (lambda x: x.sum(1).abs().sqrt(), torch.zeros(6, 4)), "nan|inf"),
    },
    checks.reloads: {
        "permutation": (lambda: (lambda: Permutation(5, plain), randn(4, 5)), "answers otherwise"),
        "permutation of two": (lambda: (lambda: Permutation(2, plain), randn(4, 2)), "answers otherwise"),
        "buffer that is not saved": (
            lambda: (lambda: Permutation(5, functools.partial(buffer, persistent=False)), randn(4, 5)),
            "answers otherwise"),
        "signs": (lambda: (lambda: LULinear(3, plain), randn(4, 3)), "answers otherwise"),
        "flag": (lambda: (lambda: ActNorm(3, "plain flag"), randn(2, 3)), "answers otherwise"),
        "running mean": (lambda: (lambda: RunningMean(plain), 1 + randn(4, 3)), "answers otherwise"),
    },
}  # fmt: skip
FLOW_BUGS = (
    (checks.invertible, "order of steps", "is not x"), (checks.invertible, "epsilon", "measured 1.*e-05"),
    (checks.invertible, "not reversed", "is not x"), (checks.log_det, "sign", "log_det of example"),
    (checks.log_det, "half", "log_det of example"), (checks.log_det, "shift", "log_det of example"),
    (checks.log_det, "over the batch", r"shape \(\)"),
    (checks.log_det, "keeps a dimension", r"shape \(16, 16\)"),
)  # fmt: skip
NO_FLOWS = (  # answers that are not (z, log_det)
    ("z alone", lambda x: x, "NoneType"), ("a list", lambda x: [x, constant(0.0)(x)], "NoneType"),
    ("fewer dimensions", lambda x: (x[:, :1], constant(0.0)(x)), r"\(4, 1\)"),
)  # fmt: skip
for check, bug, words in FLOW_BUGS:  # a zero-initialised flow hides its bugs until its parameters are drawn
    BUGS[check][bug] = (lambda bug=bug: (Flow(bug), randn(16, 2)), words)
    BUGS[check][f"{bug}, zero-initialised"] = (lambda bug=bug: (Flow(bug, zero=True), randn(16, 2)), words)
for check, (kind, forward, got) in itertools.product((checks.invertible, checks.log_det), NO_FLOWS):
    words = rf"shape {got}, expected \(4, 2\)"
    BUGS[check][kind] = (lambda forward=forward: (Map(forward), randn(4, 2)), words)


def rows(table):
    pairs = [(check, row) for check in table for row in table[check]]
    return [pytest.param(*pair, id=f"{pair[0].__name__}: {pair[1]}") for pair in pairs]


def call(check, given):
    *arguments, options = given if isinstance(given[-1], dict) else (*given, {})
    return check(*arguments, **options)


@pytest.mark.parametrize("check, bug", rows(BUGS))
def test_a_planted_bug_is_caught_in_words(check, bug):
    given, words = BUGS[check][bug]
    with pytest.raises(checks.CheckFailed, match=f"(?s)^{check.__name__}: .*{words}") as caught:
        call(check, given())
    assert checks.HINTS[check.__name__] in str(caught.value)


@pytest.mark.slow  # torch.compile is slow to import
def test_a_compiled_model_is_judged_as_the_model_in_it():
    with pytest.raises(checks.CheckFailed, match="4 leaks"):
        checks.autoregressive(torch.compile(zeroed(leaky())), (5,))


# ---- correct models ----------------------------------------------------------------------------------------


def right_mades(seed):
    dim = int(torch.randint(1, 12, ()))
    order = torch.randperm(dim)
    rank = order.argsort()
    for unit in (nn.ReLU, nn.Sigmoid):
        model = MADE(dim, order=order, parameters=1 + seed % 3, unit=unit)
        # All that is allowed is there: nothing is missed either.
        assert torch.equal(checks.autoregressive(model, (dim,), order=order), rank[:, None] > rank)


def one_leak_among_many(seed):
    with pytest.raises(checks.CheckFailed, match=" leaks"):
        checks.autoregressive(MADE(10, leak=True), (10,))


def right_flows(seed):
    x = randn(8, 2)
    for flow in (Flow(zero=seed % 2 == 0), ActNorm(2)):
        assert checks.invertible(flow, x) < 1e-9
        assert checks.log_det(flow, x) < 1e-9


def right_probabilities(seed):
    model = MADE(8)
    assert abs(checks.sums_to_one(model.log_prob, 8) - 1) < 1e-12
    checks.sums_to_one(lambda x: model.log_prob(x), 8)  # in single precision
    checks.sums_to_one(CategoricalMADE(3, 4).log_prob, 3, values=4)


def right_densities(seed):
    assert checks.samples_match(sampler(UNEQUAL), UNEQUAL.log_prob) < 4.5
    normal = rotated()
    checks.integrates_to_one(normal.log_prob, limits=(-14, 14))
    if seed < 10:
        checks.samples_match(sampler(normal), normal.log_prob, limits=(-14, 14))


def right_estimators(seed):
    seen = checks.unbiased(lambda: randn(3).square(), torch.ones(3), n=1000)
    assert 0.1 < seen < 0.4  # 4.5 · sqrt(2 / 1000) = 0.2
    checks.unbiased(lambda: 0.1, 0.1, n=100)


def right_bounds(seed):
    exact = randn(9)
    assert checks.bound(exact - 0.5, exact) == pytest.approx(0.5)
    assert checks.bound(exact, exact) == 0


def right_gradients(seed):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    if seed % 2:
        nn.init.zeros_(model[-1].weight)

    def loss(x):
        return {"loss": model(x).square().mean() + model(x).mean()}

    norms = checks.gradients_reach(loss, model, randn(16, 3))
    assert norms.keys() == dict(model.named_parameters()).keys() and min(norms.values()) > 0


def right_batches(seed):
    model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.Linear(8, 2))
    assert checks.batch_independent(model, randn(5, 3)) < 1e-12
    assert checks.batch_independent(nn.BatchNorm1d(3).eval(), randn(5, 3)) == 0
    checks.batch_independent(nn.Embedding(4, 2), torch.randint(4, (6, 3)))
    checks.batch_independent(Flow(), randn(5, 2))


def right_critics(seed):
    w = randn(4)
    slope = checks.lipschitz(lambda x: x.flatten(1) @ w.to(x), randn(6, 1, 2, 2))
    assert slope == pytest.approx(w.norm().item())
    layers = [parametrizations.orthogonal(nn.Linear(4, 4)) for _ in range(3)]
    critic = nn.Sequential(*layers, nn.Linear(4, 1))
    critic[-1].weight.data /= critic[-1].weight.norm()
    assert checks.lipschitz(critic, randn(6, 4), limit=1.0) <= 1 + 1e-6


RIGHT = {
    "autoregressive": right_mades,
    "autoregressive, one leak": one_leak_among_many,
    "autoregressive, categorical": lambda seed: checks.autoregressive(
        CategoricalMADE(3, 2 + seed % 4), (3,), values=2 + seed % 4),
    "autoregressive, images": lambda seed: checks.autoregressive(pixel_cnn(), (1, 5, 4)),
    "invertible, log_det": right_flows,
    "sums_to_one": right_probabilities,
    "samples_match, integrates_to_one": right_densities,
    "unbiased": right_estimators,
    "bound": right_bounds,
    "gradients_reach": right_gradients,
    "batch_independent": right_batches,
    "lipschitz": right_critics,
    "reloads, buffers": lambda seed: checks.reloads(lambda: Permutation(5), randn(4, 5)),
    "reloads, batch norm and dropout": lambda seed: checks.reloads(
        lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout()), randn(4, 3)),
    "reloads, tuples": lambda seed: checks.reloads(
        lambda: Flow(layers=[ActNorm(3), LULinear(3)]), randn(4, 3)),
    "reloads, running mean": lambda seed: checks.reloads(lambda: RunningMean(buffer), 1 + randn(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_correct_models_are_not_accused_over_50_seeds(name):
    for seed in range(50):
        torch.manual_seed(seed)
        RIGHT[name](seed)


ACCEPTED = {
    "casts inside": lambda: sees_all(casting(MADE(6))),
    "takes logits": lambda: sees_all(of_logits(MADE(6))),
    "parametrised": lambda: sees_all(weight_normed(MADE(6))),
    "holds a graph": lambda: sees_all(with_a_graph_on_it(MADE(6))),
    "dropout": lambda: sees_all(nn.Sequential(MADE(6), nn.Dropout(0.5))),
    "a function around a model in single precision": lambda: sees_all(wrapped(MADE(6))),
    "draws noise": lambda: sees_all(wrapped(MADE(6), noise=1.0)),
    "embeds integers": lambda: checks.autoregressive(
        nn.Sequential(nn.Embedding(3, 4), Map(lambda e: e.sum(-1).cumsum(1) - e.sum(-1))), (4,), values=3),
    "frozen mask": lambda: checks.autoregressive(TrainableMask(5, requires_grad=False), (5,)),
    "frozen model": lambda: checks.autoregressive(TrainableMask(5).requires_grad_(False), (5,)),
    "ill-conditioned together": lambda: flow_checks(Flow(layers=[Linear(8) for _ in range(24)]), randn(4, 8)),
    "deep and steep": lambda: flow_checks(  # its scales have no bound: a draw of full size overflows
        Flow(layers=[Coupling(i % 2 == 1, squash=lambda scale: scale) for i in range(20)]), randn(8, 2)),
    "a scale that must be positive": lambda: flow_checks(Scale(), randn(4, 3)),
    "a squeeze": lambda: flow_checks(SQUEEZE, randn(3, 1, 4, 4)),
    "images": lambda: checks.log_det(doubled(16 * LN2), randn(3, 1, 4, 4)),
    "a thin peak": lambda: checks.integrates_to_one(lambda x: NARROW.log_prob(x).sum(1)),
    "an edge": lambda: checks.integrates_to_one(disk),
    "a flow's density": lambda: checks.integrates_to_one(Flow().log_prob),
    "a flow's samples": lambda: checks.samples_match((flow := Flow()).sample, flow.log_prob),
    "an estimate of a KL": lambda: checks.unbiased(kl_draw, KL, n=1000),
}  # fmt: skip


def sees_all(model):
    """Check a model of six variables, and that no dependence is missed."""
    assert checks.autoregressive(model, (6,)).sum() == 15


def flow_checks(flow, x):
    checks.invertible(flow, x)
    checks.log_det(flow, x)


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
        z.append(checks.samples_match(sampler(density), log_prob, n=2000))
    z = torch.tensor(z)
    assert abs(z.mean()) < 0.7 and 0.6 < z.std() < 1.5  # 4 and more standard errors wide


def test_dependence_is_the_structure_of_the_function():
    matrix = checks.dependence(lambda x: torch.stack([x[:, 0] * x[:, 2], x[:, 1].round()], 1), (3,))
    assert matrix.tolist() == [[True, False, True], [False, True, False]]
    assert checks.dependence(nn.Conv2d(1, 2, 3), (1, 4, 4)).sum(1).tolist() == [9] * 8
    # Channels are drawn inside a pixel.
    assert checks.autoregressive(pixel_by_pixel, (3, 2, 2)).sum() == 12 * 11 / 2


def test_a_made_of_mnist_size_takes_seconds():
    start = time.perf_counter()
    checks.autoregressive(MADE(784, 500), (784,))
    assert time.perf_counter() - start < 30  # about one on an idle machine


# ---- arguments that are refused ----------------------------------------------------------------------------

REFUSED = {
    checks.autoregressive: {
        "no shape": (lambda: (MADE(5), ()), "tuple of sizes"),
        "a size of zero": (lambda: (MADE(5), (0,)), "tuple of sizes"),
        "a number for a shape": (lambda: (MADE(5), 5), "tuple of sizes"),
        "a size that is no integer": (lambda: (MADE(5), (5.0,)), "tuple of sizes"),
        "one value": (lambda: (MADE(5), (5,), {"values": 1}), "at least 2, got 1"),
        "another shape": (lambda: (MADE(5), (6,)), r"does not take shape \(2, 6\)"),
        "too short an order": (lambda: (MADE(5), (5,), {"order": range(4)}), "permutation of 0 … 4"),
        "an order that repeats": (lambda: (MADE(5), (5,), {"order": [0, 1, 2, 3, 3]}), "permutation of 0"),
        "an order that starts at 1": (lambda: (MADE(5), (5,), {"order": range(1, 6)}), "permutation of 0"),
    },
    checks.invertible: {"no inverse": (lambda: (nn.Linear(2, 2), randn(4, 2)), "no method inverse")},
    checks.log_det: {},
    checks.sums_to_one: {
        "no variable": (lambda: (normal_2d, 0), "at least 1"),
        "one value": (lambda: (normal_2d, 5, {"values": 1}), "at least 2"),
        "too many states": (lambda: (normal_2d, 30), "too many, at most"),
    },
    checks.integrates_to_one: {
        "upper limit first": (lambda: (normal_2d, {"limits": (8, -8)}), "limits"),
        "no interval": (lambda: (normal_2d, {"limits": (0, 0)}), "limits"),
        "an infinite window": (lambda: (normal_2d, {"limits": (0, math.inf)}), "limits"),
    },
    checks.samples_match: {
        "few samples": (lambda: (sampler(STANDARD), STANDARD.log_prob, {"n": 999}), "at least 1000"),
    },
    checks.unbiased: {
        "a truth of another shape": (lambda: (lambda: torch.zeros(3), 0.0, {"n": 100}), r"\(3,\), the truth"),
        "a draw of another shape": (lambda: (lambda: 0.0, [0.0], {"n": 100}), r"the truth \(1,\)"),
        "one draw": (lambda: (lambda: 0.0, 0.0, {"n": 1}), "at least 100"),
    },
    checks.bound: {"another shape": (lambda: ([1.0, 2.0], 3.0), "shapes")},
    checks.gradients_reach: {
        "nothing to train": (lambda: (lambda x: x.mean(), nn.ReLU(), randn(3)), "no parameter"),
    },
    checks.batch_independent: {"one example": (lambda: (nn.Linear(3, 3), randn(1, 3)), "2 examples")},
    checks.reloads: {"one model twice": (lambda: (functools.cache(nn.ReLU), randn(2, 6)), "a new model")},
}  # fmt: skip
NO_EXAMPLES = (
    ("integers", torch.zeros(3, 2, dtype=torch.long), "real examples"), ("text", "x", "real examples"),
    ("one dimension", torch.zeros(3), "real examples"), ("no example", torch.zeros(0, 2), "B > 0"),
    ("more dimensions", torch.zeros(4, 3), r"does not take shape \(4, 3\)"),
)  # fmt: skip
for check, (kind, x, words) in itertools.product((checks.invertible, checks.log_det), NO_EXAMPLES):
    REFUSED[check][kind] = (lambda x=x: (Flow(), x), words)


@pytest.mark.parametrize("check, kind", rows(REFUSED))
def test_bad_arguments_are_refused(check, kind):
    given, words = REFUSED[check][kind]
    with pytest.raises(ValueError, match=words) as error:
        call(check, given())
    assert not isinstance(error.value, checks.CheckFailed)  # nothing was judged


def test_a_state_that_does_not_fit_is_refused_by_torch():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        checks.reloads(lambda: nn.Linear(4, int(torch.randint(1, 99, ()))), randn(2, 4))


# ---- what all have in common -------------------------------------------------------------------------------


def test_models_and_the_random_state_are_left_untouched():
    made, flow, act_norm, x = MADE(5), Flow(), ActNorm(2), randn(8, 2)
    linear = parametrizations.spectral_norm(nn.Linear(2, 4))
    critic, kept = nn.Sequential(linear, nn.BatchNorm1d(4), nn.Linear(4, 1)), x.clone()
    models = [made, flow, critic, act_norm]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    random_state = torch.get_rng_state()
    checks.autoregressive(made, (5,))
    checks.dependence(made, (5,))
    checks.sums_to_one(made.log_prob, 5)
    flow_checks(flow, x)
    flow_checks(act_norm, x)
    checks.integrates_to_one(flow.log_prob)
    checks.samples_match(flow.sample, flow.log_prob, n=1000)
    checks.lipschitz(critic, x)
    checks.unbiased(lambda: randn(()), 0.0, n=100)
    checks.batch_independent(flow, x)
    checks.gradients_reach(lambda batch: critic(batch).square().mean(), critic, x)
    checks.reloads(lambda: ActNorm(2), x)
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
    assert {check.__name__ for check in BUGS} == set(checks.HINTS)


# ---- answers to exercises ----------------------------------------------------------------------------------


def blank(x):
    raise NotImplementedError


def crooked(answer):
    assert answer == 4, f"2 + 2 is 4, not {answer}"


def doubles(answer):
    assert torch.equal(answer(torch.ones(2)), torch.full([2], 2.0)), "it does not double"


def sums(log_prob):
    checks.sums_to_one(log_prob, 3)


def forgets(x):
    2 * x


def stumbles(x):
    y = 2 * x
    return y @ torch.ones(3)


def leans(x):
    return stumbles(x) + 1


LINE = stumbles.__code__.co_firstlineno + 2
ANSWERS = {
    "blank": (blank, lambda answer: answer(2), "not answered yet"),
    "blank in a check": (blank, sums, "not answered yet"),
    "wrong": (5, crooked, "not right: 2 + 2 is 4, not 5"),
    "wrong output": (lambda x: 3 * x, doubles, "not right: it does not double"),
    "None": (None, lambda answer: answer + 1, "not right: None came back: is a `return` missing?"),
    "no return": (forgets, doubles, "not right: None came back: is a `return` missing?"),
    "no return in a check": (forgets, sums, "not right: None came back: is a `return` missing?"),
    "another type": ("4", lambda answer: answer + 1, "not right: TypeError: can only concatenate str"),
    "fails": (stumbles, doubles, f"not right: line {LINE}: RuntimeError: "),
    "fails in a helper": (leans, doubles, f"not right: line {LINE}: RuntimeError: "),
    "fails in a check": (stumbles, lambda f: checks.sums_to_one(f, 2), f"not right: line {LINE}: Runtime"),
    "fails decorated": (torch.no_grad()(stumbles), doubles, f"not right: line {LINE}: RuntimeError"),
    "fails a check": (constant(0.0), sums, "not right: sums_to_one: the probabilities of all 8 states"),
    "right": (4, crooked, "right"),
    "right output": (lambda x: 2 * x, doubles, "right"),
    "passes a check": (constant(-3 * LN2), sums, "right"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_is_judged_in_one_line(kind, capsys):
    answer, check, words = ANSWERS[kind]
    assert checks.judge(answer, check) is None
    said = capsys.readouterr().out
    assert said.startswith(words) if words.startswith("not right") else said == f"{words}\n"


NOT_JUDGED = "not judged: the last edit of twice did not run; mend it, run it, then this cell"
JUDGE = """
def check(twice):
    assert twice(2) == 4

checks.judge(twice, check)
"""
# Cells that are run one after another in a notebook, the judge after each, and what it says.
EDITS = {
    "def twice(x):\n    return 2 + x": "right",
    "def twice(x)\n    return 3 * x": NOT_JUDGED,
    "def twice(x):\n    return (3 * x": NOT_JUDGED,
    "1 / 0\n\ndef twice(x):\n    return 3 * x": NOT_JUDGED,
    "other(": NOT_JUDGED,  # another cell's error, and still no newer answer
    "def twice(x):\n    return 3 * x": "not right: this does not hold: assert twice(2) == 4",
    "other(2": "not right: this does not hold: assert twice(2) == 4",
    "# why\n%precision 3\ndef twice(x):\n    return y * x": "not right: line 4: NameError: ",
    "twice = lambda x: 2 * x": "right",  # a name that no function of the notebook's has
    "import torch\n@torch.no_grad()\ndef twice(x):\n    return 2 * x": "right",
    "@torch.no_grad()\ndef twice(x):\nreturn 2 * x": NOT_JUDGED,
    "%%capture\ndef twice(x):\n    return 2 * x": "right",
}


def test_an_answer_older_than_its_last_edit_is_not_judged(capsys):
    """IPython's history holds every input, also what did not compile; linecache holds what did."""
    shell = InteractiveShell.instance()
    try:
        shell.run_cell("from dgm_utils import checks", store_history=True)
        for cell, words in EDITS.items():
            shell.run_cell(cell, store_history=True)
            capsys.readouterr()
            for _ in range(2):  # the judge's own cell is no edit
                shell.run_cell(JUDGE, store_history=True)
                said = capsys.readouterr().out
                assert said.startswith(words) and said.count("\n") == 1, (cell, said)
    finally:
        InteractiveShell.clear_instance()
