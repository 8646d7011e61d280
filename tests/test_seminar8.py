"""The definitions of seminar 8 against torch, closed forms and brute force; planted mistakes are caught."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from dgm_utils import checks, nets, train
from tools import definitions

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar8" / "seminar8.ipynb"
s8 = definitions.load(NOTEBOOK)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


pytestmark = pytest.mark.usefixtures("double")


def encoder(m=6, d=2):
    return nets.mlp(m, 12, 2 * d, activation=nn.Tanh)


def prior(kind, d):
    alternate = torch.arange(d) % 2 == 0
    made = {
        "standard": lambda: s8.StandardPrior(d),
        "mixture": lambda: s8.MixturePrior(4, d),
        "VampPrior": lambda: s8.VampPrior(encoder(d=d), torch.rand(4, 6)),
        "autoregressive": lambda: s8.AutoregressivePrior(d, [16], layers=2),
        "flow": lambda: s8.FlowPrior(s8.realnvp(alternate, (16,), 4), d),
    }[kind]()
    return s8.redraw(made, 0.2)


KINDS = ["standard", "mixture", "VampPrior", "autoregressive", "flow"]
each_prior = pytest.mark.parametrize("kind", KINDS)


# ---- priors ------------------------------------------------------------------------------------------------
@each_prior
def test_a_prior_is_a_density_and_its_samples_follow_it(kind):
    two, four = prior(kind, 2), prior(kind, 4)
    checks.integrates_to_one(two.log_prob, limits=(-20, 20))
    checks.samples_match(two.sample, two.log_prob, limits=(-20, 20))
    assert s8.moments_agree(four.sample, four.log_prob) < 5


@each_prior
def test_a_prior_takes_codes_with_any_axes(kind):
    one, z = prior(kind, 3), torch.randn(4, 5, 3)
    assert one.log_prob(z).shape == (4, 5) and one.sample(7).shape == (7, 3)
    assert torch.allclose(one.log_prob(z)[2, 3], one.log_prob(z[2, 3][None])[0])
    assert not one.sample(2).requires_grad


@each_prior
def test_a_file_holds_all_of_a_prior(kind):
    one, other = prior(kind, 4), prior(kind, 4)
    other.load_state_dict(one.state_dict())
    z = torch.randn(20, 4)
    assert torch.allclose(one.log_prob(z), other.log_prob(z))


@pytest.mark.parametrize("kind", ["mixture", "VampPrior"])
def test_mixtures_are_those_of_torch(kind):
    one, z = prior(kind, 5), torch.randn(30, 5)
    mean, std = one.parts()
    theirs = MixtureSameFamily(Categorical(logits=one.logits), Independent(Normal(mean, std), 1))
    assert torch.allclose(one.log_prob(z), theirs.log_prob(z))
    assert one.log_prob(torch.full((1, 5), 1e3)).isfinite().all()


def test_the_parts_of_a_vamp_prior_are_the_encoders_posteriors_at_the_pseudo_inputs():
    one = prior("VampPrior", 2)
    model = s8.PriorVAE(one.encoder, nets.mlp(2, 8, 6), one, 2)
    for ours, theirs in zip(one.parts(), model.posterior(one.pseudo_inputs()), strict=True):
        assert torch.allclose(ours, theirs)
    assert ((one.pseudo_inputs() > 0) & (one.pseudo_inputs() < 1)).all()


def test_pseudo_inputs_start_at_the_images_and_get_a_gradient_even_at_black_and_white():
    images = torch.tensor([[0.0, 1.0, 0.5, 0.0, 1.0, 0.2]])
    one = s8.VampPrior(encoder(), images)
    assert torch.allclose(one.pseudo_inputs(), 0.02 + 0.96 * images)
    one.log_prob(torch.randn(5, 2)).sum().backward()
    assert (one.raw.grad != 0).all()

    class Clamped(s8.VampPrior):  # planted: a hard clamp
        def pseudo_inputs(self):
            return (self.raw / 4).clamp(0, 1)

    clamped = Clamped(encoder(), images)
    clamped.log_prob(torch.randn(5, 2)).sum().backward()
    assert (clamped.raw.grad == 0).any()


def test_planted_the_bracket_also_divides_the_logarithm():
    class Bracket(s8.MixturePrior):
        def log_prob(self, z):
            away = (z[..., None, :] - self.means) ** 2
            inside = (self.log_variances + away) / self.log_variances.exp()
            log_parts = -0.5 * (inside + math.log(2 * math.pi)).sum(dim=-1)
            return (self.logits.log_softmax(dim=0) + log_parts).logsumexp(dim=-1)

    narrow = Bracket(1, 2)
    with torch.no_grad():
        narrow.means.zero_()
        narrow.log_variances.fill_(-2.0)  # N(0, e^-2): e^(2 e^2 - 2) times N in all, 2 dimensions
    with pytest.raises(checks.CheckFailed, match="integrates_to_one"):
        checks.integrates_to_one(narrow.log_prob)


def test_planted_a_mixture_per_coordinate_is_a_density_of_other_samples():
    class PerCoordinate(s8.MixturePrior):
        def log_prob(self, z):
            parts = Normal(*self.parts()).log_prob(z[..., None, :])
            return (self.logits.log_softmax(dim=0)[:, None] + parts).logsumexp(dim=-2).sum(dim=-1)

    one = PerCoordinate(3, 2)
    one.means.data.mul_(4)
    checks.integrates_to_one(one.log_prob, limits=(-12, 12))
    with pytest.raises(checks.CheckFailed, match="samples_match"):
        checks.samples_match(one.sample, one.log_prob, limits=(-12, 12))


def far_apart(kind, d=5):
    """Return the fixed mixture of the notebook's table: three components, no deviation 1."""
    one = kind(3, d)
    one.means.data.copy_(2 * torch.cos(2.1 * torch.arange(3)[:, None] + torch.arange(d)))
    one.log_variances.data.fill_(-0.7)
    return one


@pytest.mark.parametrize("fault", ["variance", "standard", "per coordinate", "mass"])
def test_moments_agree_hears_what_does_not_belong_together_in_five_dimensions(fault):
    one = far_apart(s8.MixturePrior)

    def variance(n):
        chosen, noise = torch.randint(3, (n,)), torch.randn(n, 5)
        return (one.means[chosen] + one.log_variances.exp()[chosen] * noise).detach()

    def per_coordinate(z):
        parts = Normal(*one.parts()).log_prob(z[..., None, :])
        return (one.logits.log_softmax(dim=0)[:, None] + parts).logsumexp(dim=-2).sum(dim=-1)

    sample, log_prob = {
        "variance": (variance, one.log_prob),
        "standard": (lambda n: torch.randn(n, 5), one.log_prob),
        "per coordinate": (one.sample, per_coordinate),
        "mass": (one.sample, lambda z: one.log_prob(z) + math.log(1.2)),
    }[fault]
    assert s8.moments_agree(one.sample, one.log_prob) < 5
    assert s8.moments_agree(sample, log_prob) > 8


# ---- the VAE with a prior ----------------------------------------------------------------------------------
def tiny(kind="mixture", d=1):
    """Return a PriorVAE of six pixels whose q is wide, so that its weights have a variance."""
    one = prior(kind, d)
    shared = one.encoder if kind == "VampPrior" else encoder(d=d)
    with torch.no_grad():
        shared[-1].bias[d:] += 0.7
    return s8.PriorVAE(shared, nets.mlp(d, 8, 6, activation=nn.Tanh), one, d)


def log_p(model, x, reach=14, points=6001):
    """Return log p(x) of a model with one code, by a sum over a grid."""
    grid = torch.linspace(-reach, reach, points)
    z = grid[:, None, None].expand(-1, len(x), 1)
    joint = model.log_likelihood(x, z) + model.prior.log_prob(z)
    return joint.logsumexp(dim=0) + math.log(2 * reach / (points - 1))


@pytest.mark.parametrize("kind", ["standard", "mixture", "VampPrior"])
def test_the_model_sums_to_one_its_elbo_is_a_bound_and_its_weights_average_to_p(kind):
    model = tiny(kind).requires_grad_(False)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    exact = log_p(model, x)
    assert exact.exp().sum().item() == pytest.approx(1, abs=1e-6)
    few, truth = x[:5], exact[:5]
    checks.unbiased(lambda: (model.log_weights(few, 20) - truth).exp().mean(dim=0), truth=[1.0] * 5)
    bound = torch.sub(*model.elbo(few.repeat(3000, 1))).view(3000, 5).mean(dim=0)
    assert checks.bound(bound, truth) > 0


def test_with_the_standard_prior_the_one_draw_kl_is_the_closed_form():
    model, x = tiny("standard", 3).requires_grad_(False), torch.bernoulli(torch.full((4, 6), 0.5))
    exact = s8.standard_normal_kl(*model.posterior(x)).sum(dim=1)
    checks.unbiased(lambda: model.elbo(x)[1], truth=exact)


def test_the_terms_of_many_draws_are_those_of_the_elbo_and_of_the_log_weights():
    model, x = tiny("mixture", 2), torch.bernoulli(torch.full((5, 6), 0.5))
    torch.manual_seed(3)
    reconstruction, kl = model.terms(x, 4)
    torch.manual_seed(3)
    assert reconstruction.shape == (4, 5) and torch.equal(model.log_weights(x, 4), reconstruction - kl)
    torch.manual_seed(3)
    z = model.posterior(x)[0] + model.posterior(x)[1] * torch.randn(4, 5, 2)
    q = Independent(Normal(*model.posterior(x)), 1)
    assert torch.allclose(kl, q.log_prob(z) - model.prior.log_prob(z))
    assert torch.allclose(reconstruction, model.log_likelihood(x, z))
    torch.manual_seed(4)
    once = model.elbo(x)
    torch.manual_seed(4)
    for ours, theirs in zip(once, model.terms(x, 1), strict=True):
        assert torch.equal(ours, theirs[0])


def test_planted_the_kl_to_the_wrong_prior_is_no_bound():
    class Forgetful(s8.PriorVAE):
        def elbo(self, x):
            reconstruction, _ = super().elbo(x)
            return reconstruction, s8.standard_normal_kl(*self.posterior(x)).sum(dim=1)

    far, see, draw = s8.MixturePrior(1, 1), nn.Linear(6, 2), nn.Linear(1, 6)
    with torch.no_grad():
        far.means.fill_(6.0)  # where every pixel is off; q is where they are on
        for part, bias in ((see, torch.tensor([-1.5, -2.0])), (draw, torch.zeros(6))):
            part.weight.fill_(-3.0 * (part is draw))
            part.bias.copy_(bias)
    x = torch.ones(5, 6)
    for kind, fails in ((s8.PriorVAE, False), (Forgetful, True)):
        model = kind(see, draw, far, 1).requires_grad_(False)
        bound = torch.sub(*model.elbo(x.repeat(500, 1))).view(500, 5).mean(dim=0)
        exact = log_p(model, x)
        assert (bound > exact + 5).all() if fails else checks.bound(bound, exact) > 0


def test_samples_of_the_model_follow_its_own_prior():
    model = tiny("mixture").requires_grad_(False)
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))
    p, n = log_p(model, x).exp(), 40_000
    place = 2 ** torch.arange(5, -1, -1)
    counts = torch.bincount((model.sample(n).long() * place).sum(dim=1), minlength=64)
    assert ((counts - n * p) ** 2 / (n * p).clamp(min=1)).sum() < 64 + 6 * 128**0.5


# ---- decoders that see what came before --------------------------------------------------------------------
def test_the_pixels_see_only_what_is_before_them_and_the_code():
    decoder = s8.PixelDecoder(2, 4, 8, 2)
    z = torch.randn(1, 2)
    seen = checks.autoregressive(lambda x: decoder(x, z.to(x).expand(len(x), -1)), (16,))
    assert seen[15].sum() > 8
    x = torch.bernoulli(torch.full((1, 16), 0.5))
    heard = checks.dependence(lambda z: decoder(x.to(z).expand(len(z), -1), z), (2,))
    assert heard.all(), "every pixel may hear every code"


def test_a_pixel_vae_and_an_autoregressive_vae_sum_to_one_given_a_code():
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9)))
    pixel = s8.redraw(s8.PixelVAE(encoder(9, 2), s8.PixelDecoder(2, 3, 6, 1), 2))
    made = s8.redraw(s8.AutoregressiveVAE(encoder(9, 2), s8.MaskedMLP(11, [24]), 2))
    for model in (pixel, made):
        z = torch.randn(2, 1, 2).expand(-1, len(states), -1)
        total = model.log_likelihood(states, z).exp().sum(dim=1)
        assert torch.allclose(total, torch.ones(2))
        assert (model.log_likelihood(states, z)[0] != model.log_likelihood(states, z)[1]).any()


def test_samples_of_a_pixel_vae_follow_the_pixels_given_a_code():
    model = s8.redraw(s8.PixelVAE(encoder(4, 1), s8.PixelDecoder(1, 2, 6, 1), 1)).requires_grad_(False)
    states, z, n = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))), torch.tensor([[0.7]]), 20_000
    p = model.log_likelihood(states, z.expand(16, -1)).exp()
    place = 2 ** torch.arange(3, -1, -1)
    counts = torch.bincount((model.decode(z.expand(n, -1)).long() * place).sum(dim=1), minlength=16)
    assert ((counts - n * p) ** 2 / (n * p)).sum() < 50


def test_posterior_means_are_those_of_bayes_rule():
    class Linear(s8.VAE):  # x = z + noise: the posterior of one code is known
        def log_likelihood(self, x, z):
            return Normal(z, 0.5).log_prob(x.expand(*z.shape[:-1], -1)).sum(dim=-1)

    x = torch.tensor([[-1.0], [0.2], [1.5]])
    model = Linear(nn.Linear(1, 2), None, 1)
    by_model, by_encoder = s8.posterior_means(model, x)
    assert torch.allclose(by_model, x[:, 0] / 1.25, atol=1e-5)
    assert torch.allclose(by_encoder, model.posterior(x)[0][:, 0])


# ---- remedies ----------------------------------------------------------------------------------------------
def test_free_bits_count_units_and_not_examples_and_are_above_the_kl():
    kl = torch.rand(8, 5)
    by_hand = sum(max(0.4, kl[:, j].mean().item()) for j in range(5))
    assert s8.free_bits(kl, 0.4).item() == pytest.approx(by_hand)
    assert s8.free_bits(kl, 0.0).item() == pytest.approx(kl.sum(dim=1).mean().item())
    charged, free = s8.free_bits(kl, 0.4).item() - kl.sum(dim=1).mean().item(), 0.4 * 5
    assert 0 <= charged <= free, "above the KL, by at most the free nats: a bound on the mean ELBO"
    per_example = kl.clamp(min=0.4).sum(dim=1).mean()  # planted
    assert abs(per_example.item() - by_hand) > 0.05


def small_vae():
    return s8.redraw(s8.VAE(encoder(), nets.mlp(2, 8, 6), 2))


def test_annealing_rises_and_stays_and_beta_one_is_the_elbo():
    weight = s8.annealing(4)
    assert [weight(step) for step in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    model, x = small_vae(), torch.bernoulli(torch.full((9, 6), 0.5))
    loss = s8.beta_loss(model, s8.annealing(2))
    for share in (0.5, 1.0, 1.0):
        terms = loss(x)
        assert torch.allclose(terms["loss"], terms["distortion"] + share * terms["rate"])
    torch.manual_seed(1)
    ours = s8.beta_loss(model, lambda step: 1.0)(x)["loss"]
    torch.manual_seed(1)
    assert torch.allclose(ours, s8.negative_elbo(model)(x)["loss"])


def test_the_loss_with_free_bits_gives_a_unit_below_them_no_gradient_of_its_kl():
    model, x = small_vae(), torch.bernoulli(torch.full((9, 6), 0.5))
    plain = s8.free_bits_loss(model, 0.0)
    torch.manual_seed(2)
    low = plain(x)["loss"]
    torch.manual_seed(2)
    assert torch.allclose(low, s8.negative_elbo(model)(x)["loss"])
    torch.manual_seed(2)
    high = s8.free_bits_loss(model, 50.0)(x)["loss"]
    reconstruction_only = s8.negative_elbo(model)
    torch.manual_seed(2)
    parts = reconstruction_only(x)
    assert torch.allclose(high, 100 - parts["reconstruction"])


def test_an_aggressive_step_moves_the_decoder_every_fifth_batch_until_it_no_longer_helps():
    moved = SimpleNamespace(encoder=0, decoder=0)

    def part(name):
        def step(batch):
            setattr(moved, name, getattr(moved, name) + 1)
            return {"loss": batch}

        return step

    answers = iter([0.1, 0.3, 0.2, 0.1, 9.0])
    step = s8.AggressiveStep(
        part("encoder"), part("decoder"), lambda: next(answers), k=5, every=10, patience=2
    )
    for _ in range(4):
        step(torch.zeros(1))
    assert (moved.encoder, moved.decoder) == (4, 0), "the encoder goes first"
    for _ in range(16):
        step(torch.zeros(1))
    assert (moved.encoder, moved.decoder, step.active) == (20, 4, True)
    for _ in range(20):
        step(torch.zeros(1))
    assert (moved.encoder, moved.decoder, step.active) == (40, 8, False)
    for _ in range(10):
        step(torch.zeros(1))
    assert (moved.encoder, moved.decoder) == (50, 18) and next(answers) == 9.0, "it is not asked again"


def test_an_aggressive_step_of_train_trains_both():
    model, x = small_vae(), torch.bernoulli(torch.full((64, 6), 0.5))
    loss = s8.negative_elbo(model)
    steps = [
        train.gradient_step(loss, torch.optim.Adam(part.parameters(), 1e-2))
        for part in (model.encoder, model.decoder)
    ]
    before = [parameter.clone() for parameter in model.parameters()]
    step = s8.AggressiveStep(*steps, lambda: 0.0)
    for _ in range(5):
        step(x)
    assert all((old != new).any() for old, new in zip(before, model.parameters(), strict=True))
