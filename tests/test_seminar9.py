"""The definitions of seminar 9 against closed forms, other libraries and codes whose scores are known."""

import contextlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.metrics import mutual_info_score
from torch import nn
from torch.nn import functional as F

from dgm_utils import checks, data, nets, train
from tools import definitions, notebooks

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar9" / "seminar9.ipynb"
s9 = definitions.load(NOTEBOOK)
mutual_information_gap, sap_score, dci = s9.mutual_information_gap, s9.sap_score, s9.dci
factor_vae_score = s9.factor_vae_score

SCORES = [mutual_information_gap, sap_score, dci, factor_vae_score]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- scores of codes ---------------------------------------------------------------------------------------
@pytest.fixture
def factors():
    """All combinations of three factors, several times: independent and uniform."""
    grid = torch.cartesian_prod(torch.arange(4), torch.arange(3), torch.arange(5))
    return grid.repeat(40, 1)[torch.randperm(2400)]


def disentangled(factors):
    return factors.double() + 0.01 * torch.randn(factors.shape)


def entangled(factors):
    """Every code is a mixture of all factors."""
    mixing = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])
    return (factors.double() - factors.double().mean(0)) / factors.double().std(0) @ mixing.double()


def noise(factors):
    return torch.randn(len(factors), 3)


def test_mutual_information_gap(factors):
    assert mutual_information_gap(disentangled(factors), factors) == pytest.approx(1, abs=0.02)
    assert mutual_information_gap(entangled(factors), factors) < 0.3
    assert mutual_information_gap(noise(factors), factors) < 0.02
    # A factor that two codes hold alike has no gap; two more are held by none.
    twice = torch.stack([factors[:, 0], factors[:, 0]], 1).double()
    assert mutual_information_gap(twice, factors) == pytest.approx(0, abs=1e-12)
    # Against scikit-learn's mutual information: 1.7 % of these codes are at each end, so that nothing is cut
    # off. Codes are scale-free and may be constant.
    codes = torch.cat([entangled(factors), torch.ones(len(factors), 1)], 1)
    binned = [np.digitize(code, np.linspace(code.min(), code.max(), 21)[1:-1]) for code in codes.numpy().T]
    gaps = []
    for factor in factors.numpy().T:
        information = sorted(mutual_info_score(factor, code) for code in binned)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    ours = mutual_information_gap(codes, factors)
    assert ours == pytest.approx(np.mean(gaps), abs=1e-3)
    assert mutual_information_gap(-7 * codes + 3, 10 - factors) == pytest.approx(ours, abs=0.01)


def test_shares_of_what_a_component_knows(factors):
    shares = s9.known_shares(disentangled(factors)[:, [2, 0, 1]], factors)
    assert shares.shape == (3, 3) and np.allclose(shares[[1, 2, 0], [0, 1, 2]], 1, atol=0.02)
    shares[[1, 2, 0], [0, 1, 2]] = 0
    assert shares.max() < 0.02


@pytest.mark.parametrize("score, good, bad", [
    (sap_score, 0.7, 0.2),
    (lambda codes, factors: dci(codes, factors).disentanglement, 0.95, 0.5),
    (lambda codes, factors: dci(codes, factors).completeness, 0.95, 0.5),
    (factor_vae_score, 0.99, 0.8),
])  # fmt: skip
def test_scores_tell_disentangled_codes_from_others(factors, score, good, bad):
    codes = disentangled(factors)
    best = score(codes, factors)
    assert good < best <= 1
    other = codes[:, [2, 0, 1]] * torch.tensor([1.0, -3.0, 10.0])
    assert score(other, factors) == pytest.approx(best, abs=0.05)
    assert score(entangled(factors), factors) < bad
    assert score(noise(factors), factors) < bad
    assert score(codes.requires_grad_(), factors) == best  # the same again


def test_known_scores(factors):
    # One code holds the factor, the other is noise: accuracies 1 and 1/2 of a balanced binary factor.
    two = torch.stack([torch.arange(2000) % 2, torch.arange(2000) // 2 % 2], 1)
    codes = torch.cat([two.double() * 2 - 1, torch.randn(2000, 1).double()], 1)
    assert sap_score(codes, two) == pytest.approx(0.5, abs=0.05)
    assert dci(disentangled(factors), factors).informativeness == pytest.approx(1, abs=0.01)
    # Each factor is held by two codes: complete only by half, still disentangled.
    copies = torch.cat([disentangled(factors), disentangled(factors)], 1)
    shared = dci(copies, factors)
    assert shared.disentanglement > 0.95
    assert shared.completeness == pytest.approx(1 - math.log(2) / math.log(6), abs=0.05)
    # Uninformative codes leave the majority vote at chance.
    assert factor_vae_score(noise(factors), factors, votes=4000) == pytest.approx(1 / 3, abs=0.06)
    # Codes that say nothing, constant or not, and scales of codes change nothing.
    noisy = factors + 0.2 * torch.randn(factors.shape)
    n = len(factors)
    for silent in (torch.full((n, 1), 0.1, dtype=torch.float64), torch.randn(n, 1), 1e-9 * torch.randn(n, 1)):
        codes = torch.cat([noisy * torch.tensor([1.0, 30.0, 0.1]), silent], 1)
        assert factor_vae_score(codes, factors) > 0.98
        assert dci(codes, factors).disentanglement > 0.9


def sprite_factors(shapes):
    factors = data.sprites(8)[1]
    return factors[factors[:, 0] < shapes]


TEN = torch.cartesian_prod(torch.arange(10), torch.arange(10)).repeat(20, 1)


@pytest.mark.parametrize("factors", [sprite_factors(3), sprite_factors(2), TEN], ids=["3", "2", "ten"])
def test_perfect_codes_reach_the_ceiling_in_any_order(factors):
    # As drawn, the first half of the sprites holds half of the shapes, and of two shapes only one.
    values = factors.max(0).values + 1
    for order in (torch.arange(len(factors)), torch.randperm(len(factors))):
        codes, sorted_factors = factors[order].double(), factors[order]
        assert mutual_information_gap(codes, sorted_factors) == pytest.approx(1)
        assert sap_score(codes, sorted_factors) == pytest.approx((1 - 1 / values.double()).mean().item())
        assert dci(codes, sorted_factors, trees=5) == pytest.approx((1, 1, 1))
        assert factor_vae_score(codes, sorted_factors) == 1


@pytest.mark.parametrize("score", SCORES)
def test_the_order_of_the_examples_changes_nothing(factors, score):
    codes = entangled(factors) + 0.3 * torch.randn(factors.shape).double()
    order = torch.randperm(len(factors))
    assert score(codes[order], factors[order]) == score(codes, factors)


def test_more_values_than_bins_lower_the_ceiling_of_the_gap():
    many = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    assert mutual_information_gap(many.double(), many) == pytest.approx(0.85, abs=0.001)
    assert mutual_information_gap(many.double(), many, bins=32) == pytest.approx(1)


def test_one_far_example_changes_no_score_much(factors):
    codes = disentangled(factors)
    far = codes.clone()
    far[7] += 50 * codes.std(0)
    for score in SCORES:
        np.testing.assert_allclose(score(far, factors), score(codes, factors), atol=0.03)


def test_bad_arguments_are_refused(factors):
    codes = noise(factors)
    bad = [(codes[:, :1], factors), (codes, factors[:, :1]), (codes[:-1], factors), (codes, factors.double())]
    bad += [(codes, factors * 0), (codes[:, 0], factors)]
    hole = codes.clone()
    hole[5, 1] = math.nan
    for score in SCORES:
        for arguments in bad:
            with pytest.raises(ValueError, match="factor"):
                score(*arguments)
        with pytest.raises(ValueError, match="codes: 1 of 7200 values are NaN"):
            score(hole, factors)


# ---- penalties of posteriors -------------------------------------------------------------------------------
def posteriors(n=200, d=5):
    mean = torch.randn(n, d).double() @ torch.randn(d, d).double() + 1
    return mean, 0.3 + torch.rand(n, d).double()


def numpy_penalty(mean, std, kind, off, diagonal):
    """Return the penalty entry by entry, from samples' second moments."""
    mean, std = mean.numpy(), std.numpy()
    total = 0.0
    for i in range(mean.shape[1]):
        for j in range(mean.shape[1]):
            entry = (mean[:, i] * mean[:, j]).mean() - mean[:, i].mean() * mean[:, j].mean()
            if i == j:
                entry += (std[:, i] ** 2).mean() if kind == "II" else 0.0
                total += diagonal * (entry - 1) ** 2
            else:
                total += off * entry**2
    return total


@pytest.mark.parametrize("kind", ["I", "II"])
def test_dip_penalty_entry_by_entry(kind):
    both = posteriors()
    ours = s9.dip_penalty(*both, kind, 3.0, 7.0).item()
    assert ours == pytest.approx(numpy_penalty(*both, kind, 3.0, 7.0))
    other = "I" if kind == "II" else "II"
    assert ours != pytest.approx(s9.dip_penalty(*both, other, 3.0, 7.0).item(), rel=1e-3)
    with pytest.raises(ValueError, match="III"):
        s9.dip_penalty(*both, "III", 3.0, 7.0)


def whitened(n, d, variance):
    """Return means with covariance variance * I (divisor n), up to rounding."""
    draw = torch.randn(n, d).double()
    draw = draw - draw.mean(0)
    root = torch.linalg.cholesky(draw.T @ draw / n)
    return math.sqrt(variance) * draw @ torch.linalg.inv(root).T


def test_each_dip_penalty_is_zero_at_its_own_covariance():
    std = torch.full((300, 4), 0.6, dtype=torch.float64)
    for kind, variance in (("I", 1.0), ("II", 1 - 0.6**2)):
        mean = whitened(300, 4, variance)
        assert s9.dip_penalty(mean, std, kind, 1.0, 1.0).item() == pytest.approx(0, abs=1e-20)
        other = "I" if kind == "II" else "II"
        assert s9.dip_penalty(mean, std, other, 1.0, 1.0).item() == pytest.approx(4 * 0.36**2)


def gaussian_encoder(n=3000):
    """Return codes, means and deviations whose aggregate is nearly Gaussian, and its exact TC."""
    mixing = torch.tensor([[1.0, 0.4, 0.0], [0.5, 0.8, 0.3], [0.0, -0.6, 0.9]]).double()
    narrow = torch.tensor([0.3, 0.5, 0.4]).double()
    whole = mixing @ mixing.T + torch.diag(narrow**2)
    mean = torch.randn(n, 3).double() @ mixing.T
    std = narrow.expand(n, 3)
    exact = (whole.diagonal().log().sum() - torch.logdet(whole)) / 2
    return mean + std * torch.randn_like(mean), mean, std, exact.item()


def test_total_correlation_of_a_gaussian():
    z, mean, std, exact = gaussian_encoder()
    found = s9.total_correlation(z, mean, std)
    error = found.std().item() / len(z) ** 0.5
    assert found.mean().item() == pytest.approx(exact, abs=4 * error)
    # Independent components: no total correlation, however narrow the posteriors are.
    alone = torch.randn(3000, 1).double().expand(3000, 3)
    shuffled = torch.stack([column[torch.randperm(3000)] for column in alone.T], 1)
    z = shuffled + 0.5 * torch.randn(3000, 3).double()
    none = s9.total_correlation(z, shuffled, torch.full_like(z, 0.5))
    assert none.mean().item() == pytest.approx(0, abs=0.05)


def test_total_correlation_of_a_batch_is_its_definition():
    z, mean, std, _ = gaussian_encoder(7)
    density = lambda i, b: stats.norm.pdf(z[i], mean[b], std[b])  # noqa: E731
    expected = 0.0
    for i in range(7):
        joint = sum(density(i, b).prod() for b in range(7)) / (7 * 50)
        alone = sum(density(i, b) for b in range(7)) / (7 * 50)
        expected += (np.log(joint) - np.log(alone).sum()) / 7
    ours = s9.batch_total_correlation(z, mean, std, 50)
    assert ours.item() == pytest.approx(expected)
    # The number of examples is a constant: no gradient depends on it.
    slopes = []
    for n in (50, 5000):
        leaf = mean.clone().requires_grad_()
        s9.batch_total_correlation(z, leaf, std, n).backward()
        slopes.append(leaf.grad)
    assert torch.allclose(*slopes)


# ---- sprites -----------------------------------------------------------------------------------------------
def sprite_vae():
    return s9.VAE(s9.sprite_encoder(4), s9.sprite_decoder(4, 0.1), 4)


def test_sprite_networks():
    model, x = sprite_vae(), (torch.rand(6, 1024) < 0.1).float()
    assert model.encoder(x).shape == (6, 8) and model.decoder(torch.randn(6, 4)).shape == (6, 1024)
    assert model.decode(torch.zeros(1, 4)).mean().item() == pytest.approx(0.1, abs=0.03)
    checks.batch_independent(model.encoder, x)
    checks.gradients_reach(s9.penalised_elbo(model, lambda z, mean, std: mean.new_zeros(())), model, x)


def test_the_loss_is_the_elbo_and_the_penalty():
    model, x = sprite_vae(), (torch.rand(6, 1024) < 0.1).float()
    torch.manual_seed(3)
    reconstruction, kl = (part.mean() for part in model.elbo(x))
    seen = []

    def penalty(z, mean, std):
        seen.append((z, mean, std))
        return 5 * mean.square().sum()

    torch.manual_seed(3)
    terms = s9.penalised_elbo(model, penalty)(x)
    ((z, mean, std),) = seen
    assert terms["loss"].item() == pytest.approx((kl - reconstruction + 5 * mean.square().sum()).item())
    assert terms["distortion"].item() == pytest.approx(-reconstruction.item())
    assert terms["rate"].item() == pytest.approx(kl.item())
    assert torch.allclose(mean, model.posterior(x)[0]) and z.shape == std.shape == (6, 4)


def test_what_ships_fits_into_its_file():
    shelf = s9.shelf(("VAE", "beta-VAE", "DIP-VAE-I", "DIP-VAE-II", "beta-TCVAE"), 3, ("VAE",) * 3, 8)
    three = s9.shelf((), 0, ("a", "b", "c"), 8)
    numbers = sum(p.numel() for p in shelf["encoders"].parameters())
    assert 2 * (numbers + sum(p.numel() for p in three.parameters())) < 1.6e6
    checks.reloads(lambda: s9.shelf(("VAE",), 1, (), 8)["encoders"]["VAE"][0], torch.rand(2, 1024))


@pytest.mark.usefixtures("double")
def test_a_turned_model_has_the_same_log_weights():
    model = s9.VAE(nets.mlp(6, 9, 6), nets.mlp(3, 9, 6), 3)
    x = (torch.rand(40, 6) < 0.5).double()
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    back = nn.Linear(3, 3, bias=False)
    back.weight.data = turn.T
    turned = s9.LatentVariableModel(nn.Sequential(back, model.decoder), 3)
    z = torch.randn(40, 3)
    joint = model.log_likelihood(x, z) + s9.log_normal(z)
    assert torch.allclose(turned.log_likelihood(x, z @ turn.T) + s9.log_normal(z @ turn.T), joint)
    back.weight.data = turn  # the other way round: the planted bug is heard
    assert not torch.allclose(turned.log_likelihood(x, z @ turn.T), model.log_likelihood(x, z), atol=1e-2)


# ---- the game ----------------------------------------------------------------------------------------------
def test_the_value_of_the_game():
    width = 0.005
    x = torch.arange(-15, 20, width).double()
    pi, p = (torch.tensor(stats.norm.pdf(x, *of)) for of in ((0, 1), (1.5, 2)))

    def integrand(x):
        a, b = stats.norm.pdf(x, 0, 1), stats.norm.pdf(x, 1.5, 2)
        return a * np.log(a / (a + b)) + b * np.log(b / (a + b))

    theirs, _ = integrate.quad(integrand, -15, 20)
    assert s9.game_value(pi, p, width).item() == pytest.approx(theirs, abs=1e-6)
    assert s9.game_value(p, pi, width).item() == pytest.approx(theirs, abs=1e-6)
    assert s9.game_value(pi, pi, width).item() == pytest.approx(-math.log(4), abs=1e-6)
    left, right = ((x > 0) & (x < 1)).double(), ((x > 2) & (x < 3)).double()
    apart = s9.game_value(left / left.sum() / width, right / right.sum() / width, width)
    assert apart.item() == pytest.approx(0, abs=1e-12)


def test_the_best_value_is_not_below_a_trained_one_in_the_stored_results():
    """A name that a later cell binds anew once made this row negative, and no alarm heard it."""
    cells = {cell.id: cell for cell in notebooks.read_notebook(NOTEBOOK).cells}
    (table,) = (out["data"]["text/plain"] for out in cells["results"].outputs if "data" in out)
    (gap,) = re.findall(r"^classifier +V\(D\*\).*? (-?[\d.e-]+) nats", table, re.MULTILINE)
    printed = "".join(out["text"] for out in cells["value-trained"].outputs)
    (below,) = re.findall(r"(-?[\d.]+) below", printed)
    assert float(gap) >= 0 and float(gap) == pytest.approx(float(below), abs=1e-5)


def test_the_cell_of_results_refuses_a_value_above_the_best():
    source = next(c.source for c in notebooks.read_notebook(NOTEBOOK).cells if c.id == "results")
    (assertion,) = re.findall(r"^assert excess.*$", source, re.MULTILINE)
    exec(assertion, {"excess": torch.tensor(0.0005)})
    with pytest.raises(AssertionError, match="greatest"):
        exec(assertion, {"excess": torch.tensor(-1.406)})


@pytest.mark.parametrize("body", [
    "s = F.softplus(fake); return -s.mean(), (s - fake).mean()",
    "d = F.logsigmoid(fake); return (d - fake).mean(), -d.mean()",
    "return torch.stack([-F.softplus(fake), F.softplus(-fake)]).mean(dim=1)",
])  # fmt: skip
def test_right_losses_that_share_an_operation_are_called_right(body):
    source = next(c.source for c in notebooks.read_notebook(NOTEBOOK).cells if c.id == "ex4-check")
    namespace = vars(s9) | {"judge": checks.judge}
    exec(f"def my_generator_losses(fake):\n    {body}", namespace)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(source, namespace)
    assert printed.getvalue().strip() == "right"


def test_losses_are_binary_cross_entropies():
    real, fake = torch.randn(2, 50).double() * 3
    ones, zeros = torch.ones(50).double(), torch.zeros(50).double()
    bce = F.binary_cross_entropy_with_logits
    both = bce(real, ones) + bce(fake, zeros)
    assert s9.discriminator_loss(real, fake).item() == pytest.approx(both.item())
    assert s9.minimax_loss(fake).item() == pytest.approx(-bce(fake, zeros).item())
    assert s9.non_saturating_loss(fake).item() == pytest.approx(bce(fake, ones).item())
    even = torch.zeros(4)
    assert s9.discriminator_loss(even, even).item() == pytest.approx(math.log(4))
    assert s9.minimax_loss(even).item() == pytest.approx(-math.log(2))
    assert s9.non_saturating_loss(even).item() == pytest.approx(math.log(2))


def test_gradients_of_the_two_generator_losses():
    for logit in (-200.0, -3.0, 0.0, 2.0, 200.0):
        judged = 1 / (1 + math.exp(-logit)) if logit > -100 else 0.0
        for loss, slope in ((s9.minimax_loss, -judged), (s9.non_saturating_loss, judged - 1)):
            fake = torch.tensor([logit], requires_grad=True)
            loss(fake).backward()
            assert fake.grad.item() == pytest.approx(slope, abs=1e-6)


def toy(seed=0):
    torch.manual_seed(seed)
    generator = s9.Generator(nets.mlp(2, 16, 3), 2)
    return generator, nn.Sequential(nets.mlp(3, 16, 1), nn.Flatten(0))


def test_a_generator_draws_its_own_noise():
    generator, _ = toy()
    x = generator(5)
    assert x.shape == (5, 3) and x.requires_grad
    torch.manual_seed(1)
    z = torch.randn(5, 2)
    torch.manual_seed(1)
    assert torch.equal(generator.sample(5), generator.network(z)) and not generator.sample(5).requires_grad
    normed = s9.Generator(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)), 2)
    before = normed.network[1].running_mean.clone()
    normed.sample(50)  # eval mode: the running statistics stay
    assert torch.equal(normed.network[1].running_mean, before) and normed.training
    normed.eval().sample(3)
    assert not normed.training


def test_each_player_moves_alone():
    generator, discriminator = toy()
    losses = s9.players(generator, discriminator, s9.discriminator_loss, s9.non_saturating_loss)
    networks = discriminator, generator
    for loss, mover, other in zip(losses, networks, networks[::-1], strict=True):
        before = [[p.clone() for p in network.parameters()] for network in (mover, other)]
        train.gradient_step(loss, torch.optim.SGD(mover.parameters(), 0.1))(torch.randn(8, 3))
        moved, still = (
            all(torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))
            for network, old in zip((mover, other), before, strict=True)
        )
        assert still and not moved
    torch.manual_seed(1)
    found = losses[0](torch.ones(8, 3))["loss"]
    torch.manual_seed(1)
    expected = s9.discriminator_loss(discriminator(torch.ones(8, 3)), discriminator(generator(8)))
    assert found.item() == pytest.approx(expected.item())
    assert losses[1](torch.ones(8, 3))["loss"].requires_grad


def distance_to_data(generator_loss, steps=150):
    """Return how far the mean of a trained generator's samples is from that of the data, 3."""
    torch.manual_seed(0)
    hill = data.mixture([[3.0]], scales=0.5)
    generator = s9.Generator(nn.Linear(1, 1), 1)
    discriminator = nn.Sequential(nets.mlp(1, 16, 1, activation=nn.Tanh), nn.Flatten(0))
    losses = s9.players(generator, discriminator, s9.discriminator_loss, generator_loss)
    adams = [
        torch.optim.Adam(net.parameters(), 0.03, betas=(0.5, 0.99)) for net in (discriminator, generator)
    ]
    moves = [train.gradient_step(*pair) for pair in zip(losses, adams, strict=True)]
    step = train.alternate(discriminator=moves[0], generator=moves[1])
    for _ in range(steps):
        step(hill.sample(64))
    return abs(generator.sample(1000).mean().item() - 3)


def test_both_losses_bring_samples_to_the_data_and_a_wrong_sign_does_not():
    assert distance_to_data(s9.minimax_loss) < 1 and distance_to_data(s9.non_saturating_loss) < 1
    assert distance_to_data(lambda fake: -s9.minimax_loss(fake)) > 2
