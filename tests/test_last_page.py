"""The last page of the course (seminar 11): densities, samples, bounds; planted mistakes are caught."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal
from torch.nn import functional as F

from dgm_utils import checks, metrics, nets
from tools import definitions

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar11" / "seminar11.ipynb"
s11 = definitions.load(NOTEBOOK)
SIDE, VALUES = 2, 3  # images small enough to count: 3^4 of them


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


pytestmark = pytest.mark.usefixtures("double")


def redraw(network, size=0.3):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return network


def states():
    """Return all images of VALUES levels, (3^4, 4), integers."""
    return torch.tensor([*itertools.product(range(VALUES), repeat=SIDE**2)])


def mixture_ar(m=2):
    return redraw(s11.MixtureAR(m, [16, 16], components=3), 0.5)


def gaussian_vae(kind=None):
    kind = kind or s11.GaussianVAE
    encoder, decoder = (nets.mlp(2, 12, 4, activation=nn.Tanh) for _ in range(2))
    return redraw(kind(encoder, decoder, 2), 0.2)


def grey_vae(kind=None, d=2):
    kind = kind or s11.GreyVAE
    encoder = nets.mlp(SIDE**2, 10, 2 * d, activation=nn.Tanh)
    decoder = nn.Sequential(nets.mlp(d, 10, VALUES * SIDE**2), nn.Unflatten(1, (VALUES, SIDE**2)))
    return redraw(kind(encoder, decoder, d, s11.CategoricalHead(VALUES)))


def on_grid(vae, x):
    return torch.cat([s11.log_prob_on_grid(vae, part, reach=7.0, lines=141) for part in x.split(500)])


@torch.no_grad()
def counted(vae):
    """Return log P of all images under a VAE of integers with two codes, by its own integral: (3^4,)."""
    line = torch.linspace(-7, 7, 101)
    z = torch.cartesian_prod(line, line)
    log_p = [vae.log_likelihood(x.expand(len(z), -1), z) for x in states()]
    return (torch.stack(log_p) + Normal(0, 1).log_prob(z).sum(1)).logsumexp(1) + 2 * math.log(0.14)


# ---- the autoregressive mixture ----------------------------------------------------------------------------
def test_the_mixture_is_a_density_and_its_samples_follow_it():
    model = mixture_ar()
    checks.integrates_to_one(model.log_prob, limits=(-30, 30))
    checks.samples_match(model.sample, model.log_prob, limits=(-30, 30))


def test_planted_a_variance_for_a_deviation():
    class Wide(s11.MixtureAR):
        @torch.no_grad()
        def sample(self, n):
            x = torch.zeros(n, 2)
            for i in range(2):
                logits, raw, shift = self(x).view(n, 3, self.components, -1)[..., i].unbind(1)
                chosen = torch.distributions.Categorical(logits=logits).sample()[:, None]
                drawn = torch.normal(shift, (2 * torch.tanh(raw / 2)).exp() ** 2)
                x[:, i] = drawn.gather(1, chosen)[:, 0]
            return x

    planted = Wide(2, [16, 16], components=3)
    planted.load_state_dict(mixture_ar().state_dict())
    with pytest.raises(checks.CheckFailed):
        checks.samples_match(planted.sample, planted.log_prob, limits=(-30, 30))


def test_planted_a_component_for_every_batch():
    class OneComponent(s11.MixtureAR):
        @torch.no_grad()
        def sample(self, n):  # the component of the first example is taken for all
            x = torch.zeros(n, 2)
            for i in range(2):
                logits, raw, shift = self(x).view(n, 3, self.components, -1)[..., i].unbind(1)
                chosen = torch.distributions.Categorical(logits=logits[:1]).sample().expand(n)[:, None]
                drawn = torch.normal(shift, (2 * torch.tanh(raw / 2)).exp())
                x[:, i] = drawn.gather(1, chosen)[:, 0]
            return x

    planted = OneComponent(2, [16, 16], components=3)
    planted.load_state_dict(mixture_ar().state_dict())
    with pytest.raises(checks.CheckFailed):
        checks.samples_match(planted.sample, planted.log_prob, limits=(-30, 30))


def mass_by_draws(model, sample, n=20_000):
    """Return the mean of q / p over draws, q a narrow normal, with its error: 1 if they are draws of p."""
    x = sample(n)
    q = MultivariateNormal(x.mean(0), 0.3 * x.T.cov())
    with torch.no_grad():
        ratio = (q.log_prob(x) - model.log_prob(x)).exp()
    return ratio.mean().item(), ratio.std().item() / n**0.5


def chained_mixture_ar(m):
    """Return a mixture whose variables lean on the earlier ones, wide enough for ratios of light tails."""
    model = redraw(s11.MixtureAR(m, [16, 16], components=3), 0.2)
    with torch.no_grad():
        model.output.bias.view(3, 3, m)[1].fill_(0.3)
        model.direct.weight.view(3, 3, m, m)[2].fill_(0.25)
    return model


def test_samples_of_four_variables_are_of_the_density():
    model = chained_mixture_ar(4)
    mean, error = mass_by_draws(model, model.sample)
    assert error < 0.03 and abs(mean - 1) < 4 * error


def test_planted_variables_drawn_without_the_earlier_ones():
    model = chained_mixture_ar(4)

    def sample(n):  # every variable by its own conditional, of other rows' earlier ones
        x = model.sample(n)
        return torch.stack([x[torch.randperm(n), i] for i in range(4)], dim=1)

    mean, error = mass_by_draws(model, sample)
    assert abs(mean - 1) > 6 * error


# ---- the VAE of real numbers -------------------------------------------------------------------------------
def linear_vae():
    """Return a VAE x = W z + b + noise, its exact density, its encoder the exact posterior's means only."""
    weight, shift, std = torch.tensor([[0.8, -0.4], [0.3, 0.6]]), torch.tensor([0.5, -1.0]), 0.6
    decoder, encoder = nn.Linear(2, 4), nn.Linear(2, 4)
    model = s11.GaussianVAE(encoder, decoder, 2)
    with torch.no_grad():
        raw = 2 * math.atanh(math.log(std) / 2)
        decoder.weight.copy_(torch.cat([weight, torch.zeros(2, 2)]))
        decoder.bias.copy_(torch.cat([shift, torch.full((2,), raw)]))
        inverse = torch.linalg.inv(torch.eye(2) + weight.T @ weight / std**2)
        pull = inverse @ weight.T / std**2
        encoder.weight.copy_(torch.cat([pull, torch.zeros(2, 2)]))
        encoder.bias.copy_(torch.cat([-pull @ shift, torch.full((2,), math.log(0.25))]))
    return model, MultivariateNormal(shift, weight @ weight.T + std**2 * torch.eye(2))


def test_the_grid_integrates_a_linear_vae_to_its_closed_form():
    model, exact = linear_vae()
    x = exact.sample((200,))
    assert torch.allclose(on_grid(model, x), exact.log_prob(x), atol=1e-6)


def test_a_gaussian_vae_is_a_density_and_its_samples_follow_it():
    model = gaussian_vae()
    line = torch.arange(-10, 10, 0.25) + 0.125
    mass = torch.zeros(())
    for part in torch.cartesian_prod(line, line).split(1000):
        mass += s11.log_prob_on_grid(model, part, reach=6.0, lines=61).exp().sum() * 0.25**2
    assert abs(mass.item() - 1) < 5e-3
    x = model.sample(4000)
    assert x.shape == (4000, 2) and not x.requires_grad
    z = torch.randn(400_000, 2)
    given = model.given(z)
    mean, second = given.mean.mean(0), (given.variance + given.mean**2).mean(0)
    error = (x**2).std(0) / len(x) ** 0.5
    assert ((x.mean(0) - mean).abs() < 5 * x.std(0) / len(x) ** 0.5).all()
    assert (((x**2).mean(0) - second).abs() < 5 * error).all()


def gaps(model, x, truth, n_samples=400):
    """Return, with standard errors, truth - estimate and estimate - bound, means over x."""
    log_w = model.log_weights(x, n_samples).detach()
    estimate = metrics.importance_weighted_log_likelihood(log_w)
    pairs = truth - estimate, estimate - log_w.mean(0)
    return [(gap.mean().item(), gap.std().item() / len(gap) ** 0.5) for gap in pairs]


@pytest.mark.parametrize("case", ["linear", "Gaussian", "grey"])
def test_bound_below_estimate_below_truth(case):
    if case == "linear":
        model, exact = linear_vae()
        x = exact.sample((300,))
        truth = exact.log_prob(x)
    else:
        model = gaussian_vae() if case == "Gaussian" else grey_vae()
        x = torch.randn(300, 2) if case == "Gaussian" else states()
        truth = counted(model) if case == "grey" else on_grid(model, x)
    (slack, blur), (gain, _) = gaps(model, x, truth)
    assert slack > -4 * blur, "the estimate is above the truth"
    assert gain > 0.01 and slack < 0.2 * gain + 4 * blur, "many samples close most of the gap"


def test_planted_the_prior_forgotten_in_the_weights_is_seen():
    class NoPrior(s11.GaussianVAE):
        def log_weights(self, x, n_samples):
            mean, std = self.posterior(x)
            noise = torch.randn_like(mean.expand(n_samples, -1, -1))
            z = mean + std * noise
            return self.log_likelihood(x, z) + (noise**2 / 2 + std.log()).sum(2)

    model, exact = linear_vae()
    planted = NoPrior(model.encoder, model.decoder, 2)
    x = exact.sample((300,))
    (slack, blur), _ = gaps(planted, x, exact.log_prob(x))
    assert slack < -4 * blur


# ---- the VAE of integers -----------------------------------------------------------------------------------
def test_the_probabilities_of_all_images_sum_to_one():
    model = grey_vae()
    assert abs(counted(model).exp().sum().item() - 1) < 1e-6
    given = model.log_likelihood(states(), torch.randn(2).expand(81, 2))
    assert abs(given.exp().sum().item() - 1) < 1e-9


def test_planted_levels_squeezed_into_the_wrong_axis():
    class Crossed(s11.GreyVAE):  # softmax over the pixels, not over the levels
        def log_likelihood(self, x, z):
            x = x.expand(*z.shape[:-1], -1).flatten(0, -2).long()
            logits = self.decoder(z.flatten(0, -2)).log_softmax(dim=2)
            return logits.gather(1, x[:, None])[:, 0].sum(dim=1).view(z.shape[:-1])

    assert abs(counted(grey_vae(Crossed)).exp().sum().item() - 1) > 0.1


def test_samples_of_integers_follow_their_probabilities():
    model, n = grey_vae(), 40_000
    drawn = model.sample(n)
    assert drawn.shape == (n, 4) and drawn.min() >= 0 and drawn.max() < VALUES
    place = (drawn * VALUES ** torch.arange(3, -1, -1)).sum(1)
    expected = n * counted(model).exp()
    counts = torch.bincount(place, minlength=81)
    z = (counts - expected) / expected.sqrt()
    assert z.square().sum() < 80 + 5 * (2 * 80) ** 0.5

    class Turned(s11.GreyVAE):  # planted: the levels are read backwards
        def sample(self, n):
            return VALUES - 1 - super().sample(n)

    turned = Turned(model.encoder, model.decoder, 2, model.head).sample(n)
    counts = torch.bincount((turned * VALUES ** torch.arange(3, -1, -1)).sum(1), minlength=81)
    assert ((counts - expected) ** 2 / expected).sum() > 80 + 5 * (2 * 80) ** 0.5


def test_codes_with_any_axes_and_both_kinds_of_integers():
    model, x = grey_vae(), states()[:5]
    z = torch.randn(7, 5, 2)
    both = model.log_likelihood(x, z)
    assert both.shape == (7, 5)
    one = model.log_likelihood(x[3][None], z[4, 3][None])
    assert torch.allclose(both[4, 3], one[0])
    by_hand = sum(F.log_softmax(model.decoder(z[4, 3][None])[0, :, i], 0)[x[3, i]] for i in range(4))
    assert torch.allclose(one[0], by_hand)
    for ours, theirs in zip(model.posterior(x.to(torch.uint8)), model.posterior(x.double()), strict=True):
        assert torch.equal(ours, theirs)


def test_the_same_head_gives_both_models_the_same_bits():
    head = s11.CategoricalHead(VALUES)
    ar = redraw(s11.PixelCNN((1, SIDE, SIDE), head, 8, 1, kernel_size=3))
    checks.sums_to_one(lambda x: ar.log_prob(x.view(-1, 1, SIDE, SIDE)), SIDE**2, values=VALUES)
    logits = torch.zeros(81, VALUES, SIDE**2)
    assert torch.allclose(head.log_prob(logits, states()).sum(1), torch.tensor(-4 * math.log(3)))


# ---- what the page does with them --------------------------------------------------------------------------
def cell(name):
    for one in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if one["id"] == name:
            return "".join(one["source"])
    raise AssertionError(f"no cell {name}")


@pytest.fixture(scope="module")
def page():
    """Return what the page's own cells define, for small data."""
    space = dict(vars(s11)) | {"device": torch.device("cpu"), "K": 50}
    for name in ("last-make", "last-make-digits"):
        exec(compile(cell(name), name, "exec"), space)
    judging = cell("last-judge-digits").split("few_digits = ", 1)[1].split("\n", 1)[1]
    space |= {"PIXELS": 64, "few_digits": torch.randint(16, (6, 1, 8, 8)).to(torch.uint8)}
    exec(compile(judging, "last-judge-digits", "exec"), space)
    return space


@pytest.mark.parametrize("kind", ["AR", "VAE", "flow", "GAN"])
def test_every_kind_delivers_integers_of_one_shape(page, kind):
    torch.set_default_dtype(torch.float32)
    model = page["make_digits"](kind).eval()
    images = page["draw_digits"](kind, model, 9)
    assert images.shape == (9, 1, 8, 8)
    assert torch.equal(images, images.round()) and images.min() >= 0 and images.max() <= 15
    seen = page["VIEW"][kind](images.to(torch.uint8))
    assert len(seen) == 9 and seen[0].numel() == 64
    if kind == "GAN":
        assert torch.equal(((seen + 1) * 8).floor(), images.float())
    if kind == "flow":
        assert torch.equal((seen * 16).floor().view(9, 1, 8, 8), images.float())


def test_ends_of_the_range_are_the_first_and_the_last_level(page):
    class Ends(nn.Module):
        def __init__(self, low, high):
            super().__init__()
            self.ends = torch.tensor([low, high])

        def sample(self, n, m=64):
            return self.ends[:, None].expand(2, 64)

    for kind, low, high in (("GAN", -1.0, 1.0), ("flow", 0.0, 1.0), ("flow", -0.1, 1.2), ("VAE", 0.0, 15.0)):
        images = page["draw_digits"](kind, Ends(low, high), 2)
        assert (images[0] == 0).all() and (images[1] == 15).all()


def test_the_figures_of_the_digits_are_those_of_a_uniform_model(page):
    torch.set_default_dtype(torch.float32)
    uniform = 64 * math.log(16)  # nats of an image

    class Even(nn.Module):
        def log_prob(self, x):  # a density on (0, 1)^64, or a probability of integers
            return x.new_zeros(len(x), dtype=torch.float) - (0 if x.is_floating_point() else uniform)

        def log_weights(self, x, n_samples):
            return torch.full((n_samples, len(x)), -uniform)

    for kind, names in (("AR", 1), ("VAE", 2), ("flow", 2), ("GAN", 0)):
        found = page["digit_nats"](kind, Even())
        assert len(found) == names
        for nats in found.values():
            assert nats.shape == (6,) and torch.allclose(nats, torch.tensor(uniform).double())


def test_the_flows_noise_is_its_own_for_every_draw_and_belongs_to_its_image(page):
    torch.set_default_dtype(torch.float32)

    class First(nn.Module):  # tells which image a row is of
        def log_prob(self, y):
            return 64 * math.log(16) - (16 * y).floor().sum(dim=1)

    found = page["digit_nats"]("flow", First())
    total = page["few_digits"].double().sum(dim=(1, 2, 3))
    for nats in found.values():
        assert torch.allclose(nats, total)


def test_the_flow_is_a_density_and_its_samples_follow_it(page):
    flow = redraw(page["make_toy"]("flow").double(), 0.05).eval()
    checks.integrates_to_one(flow.log_prob, limits=(-15, 15))
    checks.samples_match(lambda n: flow.sample(n, 2), flow.log_prob, limits=(-15, 15))


def test_the_kl_of_the_plane_counts_fully_after_a_third(page):
    class Counts(nn.Module):  # reconstruction 0, KL 1: the loss is the weight
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones(()))

        def elbo(self, x):
            return 0 * self.one.expand(len(x)), (self.one / self.one.detach()).expand(len(x))

    space = page | {"BATCH": torch.zeros(3, 2)}
    exec(compile(cell("last-adversarial"), "last-adversarial", "exec"), space)
    exec(compile(cell("last-annealed"), "last-annealed", "exec"), space)
    step = space["annealed_step"](Counts(), 12)
    weights = [step(space["BATCH"])["loss"].item() for _ in range(12)]
    assert torch.allclose(torch.tensor(weights), torch.tensor([0.25, 0.5, 0.75] + 9 * [1.0]))
    assert step.state_dict().keys() == {"Adam", "OneCycleLR"}, "a checkpoint needs the step's state"


def digit_space():
    """Return what `last-measure-digits` defines, with pixels for features."""
    torch.set_default_dtype(torch.float32)
    images = torch.randint(16, (3000, 1, 2, 2)).to(torch.uint8)
    source = cell("last-measure-digits").split("small_real = grey(small_unseen)\n")[-1]
    source = source[source.index("@torch.no_grad()") : source.index("torch.manual_seed(SEED)")]
    judge = type("Judge", (), {"features": staticmethod(lambda x: x.flatten(1))})
    space = {"torch": torch, "metrics": metrics, "small_unseen": images, "small_judge": judge}
    space |= {"order": torch.randperm(3000), "grey": lambda x: x.float() / 15}
    exec(compile(source, "last-measure-digits", "exec"), space)
    return space


def test_the_judge_of_digits_knows_its_own_data_from_paper():
    space = digit_space()
    real = [torch.randint(16, (1000, 1, 2, 2)).to(torch.uint8) for _ in range(4)]
    paper = [(7 + x // 8) for x in real]  # two greys only
    (distance, error), (precision, _), (recall, _) = space["sample_figures"](real)
    assert 0 <= distance < 0.02 and 0 < error < distance and precision > 80 and recall > 80
    copied = space["small_unseen"][space["order"]]
    (itself, _), *pair = space["sample_figures"]([copied, copied])
    assert itself < 1e-4 and [value for value, _ in pair] == [100, 100]
    (grey, _), _, (seen, _) = space["sample_figures"](paper)
    assert grey > 0.05 and seen < 50


def test_who_leads_is_said_in_errors_of_the_difference():
    source = cell("last-winners").split("\n\n\n")[0]
    space = {"math": math}
    exec(compile(source, "last-winners", "exec"), space)
    column = {"b": (1.5, 0.3), "a": (1.0, 0.4), "c": (9.0, 0.1)}
    assert space["lead"](column) == "a before b, by 1.0 errors"


def test_one_normal_has_the_gap_of_its_divergence():
    space = dict(vars(s11)) | {"device": torch.device("cpu"), "metrics": metrics}
    setting = {"last_K": 20, "last_draws": 4}
    space |= {"setting": type("S", (), setting), "eight": s11.data.eight_gaussians()}
    exec(compile(cell("last-judge-toy"), "last-judge-toy", "exec"), space)

    class Gauss:
        def log_prob(self, x):
            return Normal(0.3, 1.5).log_prob(x).sum(1)

    gap = space["toy_gaps"]("AR", Gauss())["exact"]
    line = torch.arange(-5, 5, 0.02)
    where = torch.cartesian_prod(line, line)
    log_pi = space["eight"].log_prob(where)
    mass = log_pi.exp() * 0.02**2
    assert abs(mass.sum().item() - 1) < 1e-4
    exact = (mass * (log_pi - Gauss().log_prob(where))).sum()
    assert abs(gap - exact) < 1e-3
    modes, good, w1 = space["toy_figures"](space["eight"].sample)
    assert modes == 8 and abs(good - 100 * (1 - math.exp(-4.5))) < 5 * 0.25 and w1 < 0.4
    one = lambda n: 0.2 * torch.randn(n, 2).double() + space["eight_centres"][0].double()  # noqa: E731
    assert space["toy_figures"](one)[0] == 1
    vae, _ = linear_vae()
    found = space["toy_gaps"]("VAE", vae)
    bound, estimate, integral = found.values()
    assert integral < estimate + 0.01 and estimate < bound, "KL from a bound is too large"
