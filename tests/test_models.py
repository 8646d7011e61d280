"""Every model that the course teaches, in one table, and the properties that all models of its kind have.

A new week adds rows: a name, how a small model is built from the seminar's own definitions, and the shape of
one example. What only one model promises is tested in its `test_seminarN.py`, planted bugs as well.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dgm_utils import checks, nets
from tools import definitions

S1, S2, S3, S4, S5, S6, S7 = map(definitions.seminar, range(1, 8))
ORDER = torch.tensor([2, 0, 5, 1, 4, 3])
COIN, LOGISTIC = S2.CategoricalHead(2), S2.DiscretizedLogisticMixture(2, values=4)


class Discrete(NamedTuple):
    """An exact autoregressive model of integers 0 .. values - 1, `log_prob`: (B, *shape) -> (B,)."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    values: int = 2
    order: torch.Tensor | None = None
    sample: Callable[[nn.Module, int], torch.Tensor] = lambda model, n: model.sample(n)


def wavenet():
    model = S1.WaveNet(3, 8, (1, 2))
    model.blocks[-1].residual.requires_grad_(False)  # feeds no further block: in the paper, too, it is idle
    return model


def sampled_wavenet(model, n):
    return S1.sample_naive(model, torch.rand(n, 5))


DISCRETE = {
    "MADE": Discrete(lambda: S1.MADE(6, [20]), (6,)),
    "MADE, two layers, another order": Discrete(lambda: S1.MADE(6, [20, 24], ORDER), (6,), order=ORDER),
    "order-agnostic MADE": Discrete(lambda: S1.OrderAgnosticMADE(6, [20]), (6,)),
    "WaveNet": Discrete(wavenet, (5,), values=3, sample=sampled_wavenet),
    "PixelCNN": Discrete(lambda: S2.PixelCNN((1, 3, 3), COIN, 12, 2), (1, 3, 3)),
    "PixelCNN, small kernel": Discrete(lambda: S2.PixelCNN((3, 1, 3), COIN, 12, 3, 3), (3, 1, 3)),
    "PixelCNN, logistic head": Discrete(lambda: S2.PixelCNN((1, 2, 2), LOGISTIC, 12, 2), (1, 2, 2), values=4),
    "gated PixelCNN": Discrete(lambda: S2.GatedPixelCNN((2, 2, 2), COIN, 12, (1, 2)), (2, 2, 2)),
    "gated PixelCNN, four values": Discrete(
        lambda: S2.GatedPixelCNN((1, 2, 2), S2.CategoricalHead(4), 12, (1,)), (1, 2, 2), values=4
    ),
}


class FlowLayer(NamedTuple):
    """An invertible layer of `dim` numbers, or several: forward is data -> noise."""

    build: Callable[[int], nn.Module]
    dims: tuple[int, ...] = (2, 5)  # two dimensions hide a wrong join of halves


def alternating(dim):
    """Return a mask of `dim` entries, every other one kept."""
    return torch.arange(dim) % 2 == 0


def coupling(layer, outputs):
    """Return a function that builds a coupling of `dim` numbers, with so many outputs for each moved one."""

    def build(dim):
        moved = dim // 2
        network = nets.mlp(dim - moved, 8, outputs * moved, activation=nn.Tanh)
        return layer(alternating(dim), network)

    return build


FLOWS = {
    "Swirl": FlowLayer(lambda dim: S4.Swirl(0.7), dims=(2,)),
    "Stretch": FlowLayer(lambda dim: S4.Stretch()),
    "TriangularLinear": FlowLayer(S4.TriangularLinear),
    "TriangularLinear, upper": FlowLayer(lambda dim: S4.TriangularLinear(dim, upper=True)),
    "Shear": FlowLayer(lambda dim: S4.Shear(4, 0), dims=(2,)),
    "Shear, the other way": FlowLayer(lambda dim: S4.Shear(4, 1), dims=(2,)),
    "MonotoneTanh": FlowLayer(lambda dim: S4.MonotoneTanh(dim, 4)),
    "Flow": FlowLayer(
        lambda dim: S4.Flow(
            [S4.TriangularLinear(dim), S4.MonotoneTanh(dim, 3), S4.TriangularLinear(dim, upper=True)]
        )
    ),
    "Planar": FlowLayer(S5.Planar),
    "Radial": FlowLayer(S5.Radial),
    "AdditiveCoupling": FlowLayer(coupling(S5.AdditiveCoupling, 1)),
    "AffineCoupling": FlowLayer(coupling(S5.AffineCoupling, 2)),
    "ActNorm": FlowLayer(S5.ActNorm),
    "RealNVP": FlowLayer(lambda dim: S5.Chain(S5.realnvp(alternating(dim), (8,), 2))),
}


class ImageLayer(NamedTuple):
    """A flow layer of images of this shape; `unit`: of intensities in (0, 1)."""

    build: Callable[[], nn.Module]
    shape: tuple[int, int, int]
    unit: bool = False


def channels_coupling():
    network = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1))
    return S5.AffineCoupling(torch.tensor([False, True, True, False, False]), network)


IMAGE_FLOWS = {
    "Logit": ImageLayer(S5.Logit, (1, 3, 2), unit=True),
    "ActNorm": ImageLayer(lambda: S5.ActNorm(3), (3, 2, 2)),
    "InvertibleConv": ImageLayer(lambda: S5.InvertibleConv(4), (4, 2, 3)),
    "AffineCoupling": ImageLayer(channels_coupling, (5, 2, 3)),
    "Squeeze": ImageLayer(S5.Squeeze, (2, 4, 2)),
    "Glow, two levels": ImageLayer(lambda: S5.Glow((1, 4, 4), 2, 2, 6), (1, 4, 4)),
    "Glow, one level of three channels": ImageLayer(lambda: S5.Glow((3, 2, 4), 1, 1, 5), (3, 2, 4)),
}


def masked(dim, width=12):
    """Return a network of seminar 6 whose order is no involution, where there is one."""
    order = torch.arange(dim).roll(1)
    return S6.GaussianMADE(dim, [width, width], order)


def normalised(dim):
    """Return a batch norm in eval mode that has seen a batch."""
    layer = S6.BatchNorm(dim)
    layer(1 + 2 * torch.randn(50, dim))
    return layer.eval()


FLOWS |= {
    "MAF": FlowLayer(lambda dim: S6.MAF(masked(dim))),
    "IAF": FlowLayer(lambda dim: S6.IAF(masked(dim, 5))),  # more units, sharper peaks than a grid sees
    "Permute": FlowLayer(lambda dim: S6.Permute(torch.randperm(dim))),
    "BatchNorm": FlowLayer(normalised),
    "CausalMAF": FlowLayer(lambda dim: S6.CausalMAF(dim, 1, 8)),
}

S8, S9, S11 = map(definitions.seminar, (8, 9, 11))
FLOWS |= {
    "FlowPrior": FlowLayer(lambda dim: S8.FlowPrior(S8.realnvp(alternating(dim), (8,), 2), dim)),
    "AutoregressivePrior": FlowLayer(lambda dim: S8.AutoregressivePrior(dim, [5])),
}


class Given(nn.Module):
    """A layer of seminar 7 with a context that it keeps."""

    def __init__(self, layer, context):
        super().__init__()
        self.layer = layer
        self.register_buffer("context", torch.randn(1, context))

    def forward(self, u):
        return self.layer(u, self.context.expand(len(u), -1))

    def inverse(self, v):
        return self.layer.inverse(v, self.context.expand(len(v), -1))


def given_context(dim):
    """Return a conditional coupling of `dim` numbers and a context of three."""
    moved = dim // 2
    network = nets.mlp(dim - moved + 3, 8, 2 * moved, activation=nn.Tanh)
    return Given(S7.ConditionalCoupling(alternating(dim), network), 3)


FLOWS["ConditionalCoupling"] = FlowLayer(given_context)


class Latent(NamedTuple):
    """A model with an ELBO, `elbo`: (B, m) -> reconstruction and KL, (B,) each."""

    build: Callable[[], nn.Module]
    example: Callable[[int], torch.Tensor]


def grey_vae():
    decoder = nn.Sequential(nets.mlp(2, 16, 12), nn.Unflatten(1, (3, 4)))  # logits (n, values, m)
    return S11.GreyVAE(nets.mlp(4, 16, 4), decoder, 2, S11.CategoricalHead(3))


LATENT = {
    "VAE": Latent(
        lambda: S3.VAE(nets.mlp(6, 16, 4), nets.mlp(2, 16, 6), 2),
        lambda n: torch.bernoulli(torch.full((n, 6), 0.4)),
    ),
    "PixelVAE": Latent(
        lambda: S8.PixelVAE(nets.mlp(9, 16, 4), S8.PixelDecoder(2, 3, 8, 1), 2),
        lambda n: torch.bernoulli(torch.full((n, 9), 0.4)),
    ),
    "VAE with a MADE for a decoder": Latent(
        lambda: S8.AutoregressiveVAE(nets.mlp(6, 16, 4), S8.MaskedMLP(8, [24]), 2),
        lambda n: torch.bernoulli(torch.full((n, 6), 0.4)),
    ),
    "linear VAE": Latent(lambda: S3.LinearVAE(4, 2), lambda n: torch.randn(n, 4)),
    "VAE of sprites": Latent(
        lambda: S9.VAE(S9.sprite_encoder(3), S9.sprite_decoder(3, 0.1), 3),
        lambda n: torch.bernoulli(torch.full((n, 1024), 0.1)),
    ),
    "VAE of grey levels": Latent(grey_vae, lambda n: torch.randint(3, (n, 4))),
}


class Network(NamedTuple):
    """A part of a GAN, or the network that judges it: any function of a batch of this shape."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


S10 = definitions.seminar(10)
NETWORKS = {
    "DCGAN's generator": Network(lambda: S10.dcgan_generator(8, 4, 6), (6,)),
    "DCGAN's discriminator": Network(lambda: S10.dcgan_discriminator(8, 4, "batch"), (1, 8, 8)),
    "critic without norm": Network(lambda: S10.dcgan_discriminator(16, 4, "none"), (1, 16, 16)),
    "critic with spectral norm": Network(lambda: S10.dcgan_discriminator(8, 4, "spectral"), (1, 8, 8)),
    "classifier of digits": Network(lambda: S10.Classifier(8), (1, 8, 8)),
    "networks side by side": Network(lambda: S10.SideBySide(3, 2, 8, 4), (3, 2)),
}

each_network = pytest.mark.parametrize("case", NETWORKS.values(), ids=NETWORKS)
each_image_flow = pytest.mark.parametrize("case", IMAGE_FLOWS.values(), ids=IMAGE_FLOWS)
each_discrete = pytest.mark.parametrize("case", DISCRETE.values(), ids=DISCRETE)
each_latent = pytest.mark.parametrize("case", LATENT.values(), ids=LATENT)
each_flow = pytest.mark.parametrize(
    ("case", "dim"),
    [pytest.param(case, dim, id=f"{name}, {dim}") for name, case in FLOWS.items() for dim in case.dims],
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)  # in small networks all units of a block are dead now and then


def redrawn(model, size=0.3):
    """Move every parameter: an identity layer hides what is wrong with it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return model


def integers(case, n):
    """Return n examples, as the model's sampler does: MADE and the PixelCNNs take floats, WaveNet codes."""
    return torch.randint(case.values, (n, *case.shape)).to(case.sample(case.build(), 1).dtype)


class NoHost(TorchDispatchMode):
    """Refuse what a recorded CUDA graph cannot hold: tensors made of Python numbers, and reading a tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        assert function not in (aten.lift_fresh.default, aten._local_scalar_dense.default), function
        return function(*args, **(kwargs or {}))


def test_reading_and_making_a_tensor_on_the_host_is_seen():
    x = torch.ones(2)
    for host in (lambda: x.max().item(), lambda: torch.tensor(1.0)):
        with NoHost(), pytest.raises(AssertionError):
            host()


# ---- autoregressive models ---------------------------------------------------------------------------------


@each_discrete
def test_every_output_sees_only_what_is_drawn_before(case):
    checks.autoregressive(case.build(), case.shape, order=case.order, values=case.values)


@each_discrete
def test_probabilities_of_all_states_sum_to_one(case):
    model, dim = redrawn(case.build()), math.prod(case.shape)
    like = integers(case, 1)
    checks.sums_to_one(lambda x: model.log_prob(x.view(-1, *case.shape).to(like)), dim, values=case.values)


@each_discrete
def test_samples_follow_the_probabilities(case):
    model, n = redrawn(case.build()), 20_000
    states = torch.tensor(list(itertools.product(range(case.values), repeat=math.prod(case.shape))))
    place = case.values ** torch.arange(states.shape[1]).flip(0)
    drawn = case.sample(model, n)
    assert drawn.shape == (n, *case.shape) and not drawn.requires_grad
    with torch.no_grad():
        p = model.log_prob(states.view(-1, *case.shape).to(drawn)).double().exp()
    counts = torch.bincount((drawn.flatten(1).long() * place).sum(1), minlength=len(states)).double()
    rare = n * p < 5
    merge = lambda t: torch.cat([t[~rare], t[rare].sum()[None]]) if n * p[rare].sum() > 5 else t[~rare]  # noqa: E731
    observed, expected = merge(counts), merge(n * p)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-5


@each_discrete
def test_log_prob_is_one_number_of_nats_an_example(case):
    model, x = case.build(), integers(case, 7)
    log_p = model.log_prob(x)
    assert log_p.shape == (7,) and (log_p < 0).all()
    assert torch.allclose(torch.cat([model.log_prob(x[:3]), model.log_prob(x[3:])]), log_p, atol=1e-5)
    checks.gradients_reach(lambda x: -model.log_prob(x).mean(), model, integers(case, 64))


@each_discrete
def test_nothing_is_read_or_made_on_the_host(case):
    model, x = case.build(), integers(case, 4)
    with NoHost():
        model.log_prob(x).mean().backward()


@each_discrete
def test_a_file_holds_all_of_the_model(case):
    checks.reloads(case.build, integers(case, 6))


# ---- flows -------------------------------------------------------------------------------------------------


@each_flow
def test_a_layer_is_inverted_and_its_log_det_is_that_of_the_jacobian(case, dim):
    layer, x = case.build(dim), torch.randn(40, dim, dtype=torch.float64)
    z, log_det = layer(x.float())
    assert z.shape == x.shape and log_det.shape == (40,)
    checks.invertible(layer, x)
    checks.log_det(layer, x)
    checks.batch_independent(redrawn(layer), x)
    checks.reloads(lambda: case.build(dim), x.float())


@each_flow
def test_nothing_of_a_flow_is_read_or_made_on_the_host(case, dim):
    layer, z = case.build(dim), torch.randn(8, dim, requires_grad=True)
    with NoHost():
        x, log_det = layer(layer.inverse(z))
        (x.sum() + log_det.sum()).backward()


@each_image_flow
def test_a_layer_of_images_is_inverted_and_its_log_det_is_that_of_the_jacobian(case):
    layer, draw = case.build(), torch.rand if case.unit else torch.randn
    x = draw(12, *case.shape, dtype=torch.float64)
    z, log_det = layer(x.float())
    assert z[0].numel() == x[0].numel() and log_det.shape == (12,)
    checks.log_det(layer, x)
    checks.invertible(layer, x)
    checks.batch_independent(redrawn(layer), x.clamp(0.1, 0.9) if case.unit else x)
    checks.reloads(case.build, x.float())


@each_image_flow
def test_nothing_of_a_flow_of_images_is_read_or_made_on_the_host(case):
    layer, y = case.build(), torch.rand(8, *case.shape, requires_grad=True)
    with NoHost():
        z, log_det = layer(y)
        (layer.inverse(z).sum() + log_det.sum()).backward()


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_is_a_density_and_its_samples_follow_it(name):
    flow = S4.Flow([redrawn(FLOWS[name].build(2).double())])
    checks.integrates_to_one(flow.log_prob, limits=(-12, 12))
    checks.samples_match(lambda n: flow.inverse(torch.randn(n, 2).double()), flow.log_prob, limits=(-12, 12))


# ---- latent variable models --------------------------------------------------------------------------------


@each_latent
def test_both_parts_of_an_elbo_are_one_number_an_example(case):
    model, x = case.build(), case.example(7)
    reconstruction, kl = model.elbo(x)
    assert reconstruction.shape == kl.shape == (7,) and (kl >= 0).all()
    checks.batch_independent(lambda x: redrawn(case.build()).double().elbo(x), x)
    checks.gradients_reach(S3.negative_elbo(model), model, case.example(64))


@each_latent
def test_nothing_of_an_elbo_is_read_or_made_on_the_host(case):
    model, x = case.build(), case.example(4)
    with NoHost():
        S3.negative_elbo(model)(x)["loss"].backward()


# ---- networks of GANs --------------------------------------------------------------------------------------


@each_network
def test_a_file_holds_all_of_a_network_and_examples_do_not_see_each_other(case):
    network, x = case.build(), torch.rand(12, *case.shape)
    checks.reloads(case.build, x)
    checks.gradients_reach(lambda x: {"loss": network(x).square().sum()}, network, x)
    checks.batch_independent(network.eval(), x)


@each_network
def test_nothing_of_a_network_is_read_or_made_on_the_host(case):
    network, x = case.build(), torch.rand(4, *case.shape)
    with NoHost():
        network(x).mean().backward()
