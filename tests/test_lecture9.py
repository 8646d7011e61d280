"""What lecture 9 claims: parts of the rate, impossibility, ratios, the GAN theorem, two losses, games."""

import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from dgm_utils import data, train
from lectures.lecture9 import figures, measured
from lectures.lecture9.measured import S9
from tests.decks import mean_and_error, number, table_rows
from tools.notebooks import ROOT

SEEDS = range(5)
FINE = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-11, "tolerance_change": 1e-15}  # of L-BFGS

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(scope="module")
def printed():
    return json.loads((figures.FOLDER / "numbers.json").read_text())


def minimise(loss, *parameters):
    """Return the smallest value of a smooth function, found by L-BFGS."""
    search = torch.optim.LBFGS(parameters, max_iter=1000, **FINE)

    def closure():
        search.zero_grad()
        value = loss()
        value.backward()
        return value

    search.step(closure)
    return loss().item()


# --- Parts of the rate -----------------------------------------------------------------------------------


def codes(seed, n=6, d=4):
    """Return n Gaussians q(z|x_i) of d codes: means and deviations."""
    torch.manual_seed(seed)
    return torch.randn(n, d), torch.exp(0.4 * torch.randn(n, d) - 0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rate_is_information_total_correlation_and_single_kls(seed):
    """Closed-form rate; information and TC from separate draws; KLs of single units by quadrature."""
    mean, std = codes(seed)
    rate = kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1).mean().item()
    draws = 4000
    z = mean + std * torch.randn(draws, *mean.shape)
    own = Normal(mean, std).log_prob(z).sum(-1)
    every = Normal(mean, std).log_prob(z[:, :, None]).sum(-1).logsumexp(-1) - math.log(len(mean))
    information, first_error = mean_and_error((own - every).mean(1))
    z = (mean + std * torch.randn(draws, *mean.shape)).flatten(0, 1)
    correlation, second_error = mean_and_error(S9.total_correlation(z, mean, std).view(draws, -1).mean(1))
    grid = torch.linspace(-12, 12, 4801)
    q = Normal(mean, std).log_prob(grid[:, None, None]).exp().mean(1)  # (grid, d)
    alone = (q * (q.clamp(min=1e-300).log() - Normal(0.0, 1.0).log_prob(grid)[:, None])).sum() * (24 / 4800)
    total = information + correlation + alone.item()
    assert abs(total - rate) < 4 * math.hypot(first_error, second_error)
    assert correlation > 4 * second_error  # so that a sum without it would not pass


@pytest.mark.parametrize("seed", SEEDS)
def test_total_covariance_and_the_diagonal_in_which_both_penalties_differ(seed):
    mean, std = codes(seed, n=50)
    z = mean + std * torch.randn(4000, *mean.shape)
    means = torch.cov(mean.T, correction=0)
    theorem = means + (std**2).mean(0).diag()
    gap = torch.cov(z.flatten(0, 1).T, correction=0) - theorem
    assert gap.abs().max() < 0.02  # 200,000 draws
    only_off = [S9.dip_penalty(mean, std, kind, 1.0, 0.0).item() for kind in ("I", "II")]
    assert (
        only_off[0]
        == pytest.approx(only_off[1])
        == pytest.approx((means - means.diag().diag()).square().sum())
    )
    diagonal = [S9.dip_penalty(mean, std, kind, 0.0, 1.0).item() for kind in ("I", "II")]
    assert diagonal == pytest.approx([((matrix.diag() - 1) ** 2).sum().item() for matrix in (means, theorem)])


def test_codes_with_the_same_covariance_and_different_total_correlations(printed):
    x, y = np.meshgrid(figures.AXIS, figures.AXIS, indexing="ij")
    for name, q in figures.clouds().items():
        assert q.sum() * figures.CELL == pytest.approx(1, abs=1e-6), name
        moments = [(q * part).sum() * figures.CELL for part in (x, y, x**2, y**2, x * y)]
        assert moments == pytest.approx([0, 0, 1, 1, 0], abs=2e-4), name
    assert printed["tc"][:2] == ["0.00", "0.00"] and min(map(number, printed["tc"][2:])) > 0.3
    correlated = np.exp(-(x**2 - 1.2 * x * y + y**2) / (2 * 0.64))
    correlated /= correlated.sum() * figures.CELL
    assert figures.total_correlation(correlated) == pytest.approx(-0.5 * math.log(0.64), abs=1e-6)


def test_a_coin_makes_dependent_normal_codes_without_correlation():
    torch.manual_seed(0)
    z = torch.randn(100_000)
    other = z * (2 * torch.randint(2, z.shape) - 1)
    assert stats.kstest(other.numpy(), "norm").pvalue > 0.01
    assert abs(torch.corrcoef(torch.stack([z, other]))[0, 1]) < 4 / len(z) ** 0.5
    assert torch.equal(z.abs(), other.abs())


@pytest.mark.parametrize("seed", SEEDS)
def test_total_correlation_of_a_gaussian(seed):
    """d = 5: against the KL to the product of its marginals; to second order, a quarter of DIP's sum."""
    torch.manual_seed(seed)
    root = torch.randn(5, 5)
    S = root @ root.T + 0.3 * torch.eye(5)
    scale = S.diag().rsqrt()
    P = scale[:, None] * S * scale
    product = MultivariateNormal(torch.zeros(5), S.diag().diag())
    kl = kl_divergence(MultivariateNormal(torch.zeros(5), S), product)
    assert -0.5 * P.logdet().item() == pytest.approx(kl.item())
    A = torch.randn(5, 5)
    A = (A + A.T).fill_diagonal_(0)
    small = torch.eye(5) + 1e-4 * A
    assert (1e-8 * A**2).sum().item() == pytest.approx(4 * -0.5 * small.logdet().item(), rel=2e-3)


@pytest.mark.parametrize("draw", [torch.randn, lambda *shape: 12**0.5 * (torch.rand(*shape) - 0.5)])
@pytest.mark.parametrize("on", [8, 4])
def test_the_penalty_of_a_batch(draw, on, printed):
    """Independent means of variance 1, some of eight units silent, by the seminar's function."""
    torch.manual_seed(0)
    means = draw(2000, measured.BATCH, 8)
    means[..., on:] = 0
    std = torch.ones(measured.BATCH, 8)
    weight = measured.WEIGHTS["DIP-VAE-II"][0]
    value, error = mean_and_error(torch.stack([S9.dip_penalty(m, std, "II", weight, 0.0) for m in means]))
    expected = figures.batch_penalty(np.repeat([1.0, 0.0], [on, 8 - on]))
    assert abs(value - expected) < 4 * error < 0.06 * expected
    assert printed["batch_penalty"][[8, 4].index(on)] == f"{expected:.1f}"


def test_unequal_variances_of_a_batch():
    """d = 5: each square is v_j v_k (B - 1) / B^2, for means that are not centred."""
    torch.manual_seed(1)
    B, v = 16, torch.tensor([0.2, 0.5, 1.0, 1.5, 2.0])
    mu = 3 + v.sqrt() * torch.randn(40_000, B, 5)
    mu = mu - mu.mean(1, keepdim=True)
    squares = (mu.mT @ mu / B) ** 2
    gap = squares.mean(0) / (torch.outer(v, v) * (B - 1) / B**2) - 1
    assert gap.fill_diagonal_(0).abs().max() < 0.05


def test_the_covariances_of_the_sprites(printed):
    """The claims of the slide, and its rows, for all seeds, from the encoders that seminar 9 ships."""
    rows = np.reshape(printed["sprites"], (3, 7))
    stored = figures.stored()
    torch.set_default_dtype(torch.float32)  # of the shipped encoders
    again = measured.sprites()
    off, diagonals, rate, distortion = {}, {}, {}, {}
    for row, method in zip(rows, measured.METHODS, strict=True):
        for part in ("mean_covariance", "noise", "rd", "active", "penalties"):
            assert again[f"{method}_{part}"] == pytest.approx(stored[f"{method}_{part}"], abs=0.02), part
        means, of_codes = figures.covariances(method)
        assert means.shape == of_codes.shape == (measured.TRAININGS, 8, 8)
        off[method] = [max(abs(m[j, k]) for j in range(8) for k in range(8) if j != k) for m in means]
        rate[method], distortion[method] = stored[f"{method}_rd"].T
        diagonals[method] = [np.array([m.diagonal() for m in part]) for part in (means, of_codes)]
        spans = [distortion[method], rate[method], off[method], *diagonals[method]]
        for cell, values in zip(np.delete(row[1:], 2), spans, strict=True):
            ends = [number(part) for part in cell.split(" \N{EN DASH} ")]
            digits = len(cell.split(" ")[0].split(".")[1])
            expected = [np.min(values), np.max(values)]
            assert [ends[0], ends[-1]] == pytest.approx(expected, abs=0.51 * 10**-digits)
        assert row[0] == method and row[3] == ", ".join(f"{n:.0f}" for n in stored[f"{method}_active"])
    one, two = measured.METHODS[1:]
    assert max(off[one] + off[two]) < 0.1 < min(off["VAE"])
    assert (stored[f"{one}_active"] == 8).all() and (stored[f"{two}_active"] <= 4).all()
    assert diagonals[one][1].min() > 1  # more than the variance of the prior
    assert diagonals[two][1].min() > 0.95 and diagonals[two][1].max() < 1.01  # silence or not: the identity
    assert rate[one].min() > rate[two].max() and distortion[one].max() < distortion[two].min()


def test_the_weights_are_those_of_the_seminar():
    notebook = (ROOT / "seminars" / "seminar9" / "seminar9.ipynb").read_text(encoding="utf-8")
    for method, pair in measured.WEIGHTS.items():
        kind = method.removeprefix("DIP-VAE-")
        found = re.search(rf'dip_penalty\(mean, std, \\"{kind}\\", ([\d.]+), ([\d.]+)\)', notebook)
        assert found and tuple(map(float, found.groups())) == pair


def test_the_penalty_over_all_images_does_not_show_the_tax(printed):
    rows = np.reshape(printed["penalties"], (2, 4))
    for column, method in enumerate(measured.METHODS, start=1):
        of_all, of_batches, error = figures.stored()[f"{method}_penalties"].T
        assert (of_batches > of_all + 2).all()
        assert (error < number(printed["batch_penalty"][2])).all()
        for row, values, within in zip(rows, (of_all, of_batches), (0.0051, 0.051), strict=True):
            assert [number(part) for part in row[column].split(";")] == pytest.approx(values, abs=within)


# --- Measure, and doubt ----------------------------------------------------------------------------------


def reflection(seed, d):
    u = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    u = u / u.norm()
    return torch.eye(d) - 2 * torch.outer(u, u)


@pytest.mark.parametrize("d", [2, 4, 7])
def test_a_reflection_entangles_and_keeps_the_normal(d):
    R = reflection(d, d)
    z = torch.randn(50, d)
    prior = MultivariateNormal(torch.zeros(d), torch.eye(d))
    assert torch.allclose(prior.log_prob(z @ R.T), prior.log_prob(z))
    assert (R.abs() > 1e-6).all() and torch.allclose(R @ R.T, torch.eye(d))


def test_any_product_prior_is_entangled_by_its_distribution_functions():
    """Laplace, uniform, beta, Cauchy: same law after the map, Jacobian without a zero."""
    torch.manual_seed(0)
    laws = [stats.laplace(), stats.uniform(-1, 3), stats.beta(2, 3), stats.cauchy()]
    R = reflection(1, 4).numpy()

    def entangle(z):
        w = np.stack([stats.norm.ppf(law.cdf(column)) for law, column in zip(laws, z.T, strict=True)], 1)
        return np.stack([law.ppf(stats.norm.cdf(c)) for law, c in zip(laws, (w @ R.T).T, strict=True)], 1)

    z = np.stack([law.rvs(20_000, random_state=k) for k, law in enumerate(laws)], axis=1)
    moved = entangle(z)
    for law, column in zip(laws, moved.T, strict=True):
        assert stats.kstest(column, law.cdf).pvalue > 0.01
    order = stats.spearmanr(moved).statistic
    assert np.abs(order - np.eye(4)).max() < 4 / 20_000**0.5  # and independent of each other
    points = np.array([[0.3, 0.8, 0.4, -0.7], [-1.0, 1.5, 0.7, 2.0]])
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-5
        slope = (entangle(points + step) - entangle(points - step)) / 2e-5
        assert (np.abs(slope) > 1e-3).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_rotation_costs_the_best_diagonal_posterior(seed):
    torch.manual_seed(seed)
    variances = torch.exp(torch.randn(4))
    R = reflection(seed, 4)
    for Sigma in (variances.diag(), 0.7 * torch.eye(4)):
        rotated = R @ Sigma @ R.T
        mean, log_s = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
        target = MultivariateNormal(torch.tensor([1.0, -1.0, 0.5, 2.0]), rotated)

        def loss(mean=mean, log_s=log_s, target=target):
            return kl_divergence(MultivariateNormal(mean, (2 * log_s).exp().diag()), target)

        gap = minimise(loss, mean, log_s)
        theorem = 0.5 * (rotated.inverse().diag().log().sum() + Sigma.logdet()).item()
        assert gap == pytest.approx(theorem, abs=1e-7)
    assert abs(theorem) < 1e-12  # equal variances
    assert 0.5 * ((R @ variances.diag() @ R.T).inverse().diag().log().sum() + variances.log().sum()) > 1e-3


def test_ceilings_are_those_of_the_definitions(printed):
    """The factors as codes, once and twice, scored again; the rows of the slide from what was stored."""
    _, factors = data.sprites()
    perfect = (factors - factors.double().mean(0)) / factors.double().std(0)
    for kind, given in (("perfect", perfect), ("copied", perfect.repeat(1, 2))):
        assert figures.stored()[f"ceiling_{kind}"][0] == pytest.approx(
            measured.measures(given, factors), abs=1e-6
        )
    rows = np.reshape(printed["ceilings"], (4, 5))
    assert rows[:, 0].tolist() == list(measured.CODES.values())
    counts = np.array([3, 4, 8, 8, 8])
    assert rows[0, 1:].astype(float) == pytest.approx([1, (1 - 1 / counts).mean(), 1, 1], abs=0.0051)
    assert rows[1, 1:4].astype(float) == pytest.approx([0, 0, 1], abs=0.0051)
    rotated, noise = (figures.stored()[f"ceiling_{kind}"] for kind in ("rotated", "noise"))
    assert len(rotated) == len(noise) == measured.SEEDS
    assert (rotated > 0.005).all()  # these five are not 0; in the plane at 45 degrees they are
    assert (rotated.mean(0) < figures.stored()["ceiling_perfect"][0] - 0.1).all()
    for row, scores in zip(rows[2:], (rotated, noise), strict=True):
        for cell, column in zip(row[1:], scores.T, strict=True):
            value, spread = map(number, cell.split(" ± "))
            assert [value, spread] == pytest.approx([column.mean(), column.std(ddof=1)], abs=0.0051)


def test_the_scores_of_rotated_codes(printed, monkeypatch):
    scores = figures.stored()["rotation"]
    assert scores.shape == (measured.SEEDS, len(measured.ANGLES), 3)
    middle = measured.ANGLES.index(45)
    assert (scores.argmin(1) == middle).mean() > 0.5
    assert (np.abs(scores[:, [0, -1]] - scores[:, [0]]) < 0.06).all()  # a right angle only renames the axes
    mean = scores.mean(0)
    assert [number(cell) for cell in printed["turned"][:4]] == pytest.approx(
        [mean[0, 0], mean[middle, 0], mean[0, 2], mean[middle, 2]], abs=0.0051
    )
    assert mean[middle].max() < 0.02 < 0.5 < mean[0].min()
    one = {"SEEDS": 1, "ANGLES": (30.0,)}
    for name, value in one.items():
        monkeypatch.setattr(measured, name, value)
    torch.set_default_dtype(torch.float32)
    again = measured.rotation()["rotation"][0, 0]
    assert again == pytest.approx(scores[0, 4], abs=2e-3)


def test_published_numbers_row_by_row():
    rows = table_rows("lecture9", "Disentanglement: published, and in sum")
    assert rows == PUBLISHED


PUBLISHED = {
    "VAE": ["0.63 ± 0.06", "0.30 ± 0.10", "", "0.10"],
    "beta-VAE": ["0.63 ± 0.10", "0.41 ± 0.11", "0.55", "0.21"],
    "beta-TCVAE": ["0.62 ± 0.07", "0.29 ± 0.10", "", "0.45"],
    "DIP-VAE": ["", "", "0.53", ""],
    "FactorVAE": ["0.82", "", "", "0.15"],
    "FactorVAE, runs of Lin et al. (weight 40)": ["0.82", "0.74", "0.56", "0.43"],
}


# --- Without likelihood ----------------------------------------------------------------------------------


def test_the_image_of_few_dimensions_has_no_volume():
    """d = 2, m = 4: the cover of the proof holds, and the cells that the image meets lose their volume."""
    torch.manual_seed(0)
    d, m, a = 2, 4, 2.0
    layers = torch.nn.Sequential(torch.nn.Linear(d, 16), torch.nn.ReLU(), torch.nn.Linear(16, m))
    with torch.no_grad():
        lipschitz = torch.linalg.matrix_norm(layers[2].weight, 2) * torch.linalg.matrix_norm(
            layers[0].weight, 2
        )
        for k in (4, 16, 64):
            corner = -a / 2 + a / k * torch.cartesian_prod(torch.arange(k), torch.arange(k))
            inside = corner[:, None] + a / k * torch.rand(len(corner), 20, d)
            image = layers(inside)  # (cubes, points, m)
            side = 2 * lipschitz * d**0.5 * a / k
            assert (image - image[:, :1]).abs().max() <= side / 2
        points = layers(a * torch.rand(200_000, d) - a / 2)
        low, high = points.aminmax(dim=0)
        points = (points - low) / (high - low)
        volumes = [len((points * k).long().unique(dim=0)) / k**m for k in (4, 8, 16, 32)]
    assert volumes[0] < 0.5 and (np.diff(np.log(volumes)) < -1).all()  # a cube would keep its volume


@pytest.mark.parametrize("alpha", [0.5, 0.2, 0.9])
def test_the_best_classifier_knows_the_ratio(alpha):
    """Nine points, two of them with one bag only: search over all D; the loss splits into coins."""
    torch.manual_seed(3)
    pi, p = torch.rand(2, 9)
    pi[0] = p[1] = 0
    pi, p = pi / pi.sum(), p / p.sum()
    s = alpha * pi + (1 - alpha) * p
    best = alpha * pi / s

    def loss(logits):
        return alpha * (pi * F.softplus(-logits)).sum() + (1 - alpha) * (p * F.softplus(logits)).sum()

    free = torch.zeros(9, requires_grad=True)
    smallest = minimise(lambda: loss(free), free)
    both = slice(2, None)
    assert torch.allclose(torch.sigmoid(free)[both], best[both], atol=1e-4)
    ratio = (pi / p).log() + math.log(alpha / (1 - alpha))
    assert torch.allclose(torch.logit(best)[both], ratio[both])
    entropy = -(torch.xlogy(best, best) + torch.xlogy(1 - best, 1 - best))
    assert smallest == pytest.approx((s * entropy).sum().item(), abs=1e-6)
    other = torch.randn(9)
    d = torch.sigmoid(other)
    coins = torch.xlogy(best, best / d) + torch.xlogy(1 - best, (1 - best) / (1 - d))
    assert loss(other).item() == pytest.approx((s * (entropy + coins)).sum().item())


def test_the_learnt_ratio(printed):
    errors = figures.ratio_errors()
    assert printed["ratio"][:2] == [f"{errors.mean():.2f}", f"{errors.std(ddof=1):.2f}"]
    assert errors.max() < 0.5
    x = measured.RATIO_GRID
    theirs = Normal(0.0, 1.0).log_prob(torch.tensor(x)) - Normal(1.0, 2.0).log_prob(torch.tensor(x))
    assert figures.log_ratio(x) == pytest.approx(theirs.numpy())
    outside = np.abs(figures.stored()["ratio"] - theirs.numpy())
    ends = [end for at in (5, 9) for end in np.sort(outside[:, np.isclose(x, at)].ravel())[[0, -1]]]
    assert [number(cell) for cell in printed["ratio"][2:]] == pytest.approx(ends, abs=0.051)
    assert ends[2] > ends[1] > ends[0] > 1 > errors.max()  # it grows


def test_total_correlation_is_the_mean_logit_of_the_best_classifier():
    torch.manual_seed(0)
    S = 0.6 * torch.ones(4, 4) + 0.4 * torch.eye(4)
    q, product = MultivariateNormal(torch.zeros(4), S), MultivariateNormal(torch.zeros(4), torch.eye(4))
    z = q.sample((20_000,))
    best = 1 / (1 + (product.log_prob(z) - q.log_prob(z)).exp())
    value, error = mean_and_error(torch.logit(best))
    assert abs(value + 0.5 * S.logdet().item()) < 4 * error


# --- GAN theorem -----------------------------------------------------------------------------------------


def two_laws(seed, n=8):
    torch.manual_seed(seed)
    pi, p = torch.distributions.Dirichlet(0.5 * torch.ones(n)).sample((2,))
    return pi, p


def value(pi, p, d):
    return (torch.xlogy(pi, d) + torch.xlogy(p, 1 - d)).sum().item()


def kl(p, q):
    return torch.xlogy(p, p / q).nansum().item()


def jsd(pi, p):
    return (kl(pi, (pi + p) / 2) + kl(p, (pi + p) / 2)) / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_value_is_two_jsd_less_log_4(seed):
    pi, p = two_laws(seed)
    best = value(pi, p, pi / (pi + p))
    assert best == pytest.approx(2 * jsd(pi, p) - math.log(4))
    for _ in range(100):
        d = torch.rand(len(pi))
        gap = best - value(pi, p, d)
        star = pi / (pi + p)
        coins = torch.xlogy(star, star / d) + torch.xlogy(1 - star, (1 - star) / (1 - d))
        assert gap == pytest.approx(((pi + p) * coins).sum().item()) and gap >= 0
        assert value(pi, pi, d) <= -math.log(4) + 1e-12  # the saddle
        assert (value(pi, p, d) + math.log(4)) / 2 <= jsd(pi, p) + 1e-12
    assert value(pi, p, torch.full_like(pi, 0.5)) == pytest.approx(-math.log(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_range_of_the_jsd_and_the_label(seed):
    pi, p = two_laws(seed)
    assert 0 < jsd(pi, p) < math.log(2) and jsd(pi, pi) == pytest.approx(0, abs=1e-12)
    apart = torch.cat([pi, 0 * p]), torch.cat([0 * pi, p])
    assert jsd(*apart) == pytest.approx(math.log(2))
    label = torch.stack([pi, p]) / 2  # joint law of y and x
    marginal = label.sum(1, keepdim=True) * label.sum(0)
    assert kl(label.flatten(), marginal.flatten()) == pytest.approx(jsd(pi, p))  # I(y; x)


def test_the_table_of_shifts(printed):
    expected = [0, 0.0303113, 0.1114215, 0.3368308, 0.6327202, 0.6892979]
    assert [number(cell) for cell in printed["jsd"]] == pytest.approx(expected, abs=5.1e-5)
    values = [-1.3862944, -1.3256718, -1.1634514, -0.7126327, -0.1208540, -0.0076985]
    assert [number(cell) for cell in printed["values"]] == pytest.approx(values, abs=5.1e-5)
    for mu in (0.2, 0.1):  # near 0 as mu^2 / 8
        assert figures.shifted(mu)["jsd"] / (mu**2 / 8) == pytest.approx(1, abs=mu**2)


@pytest.mark.parametrize("mu", [0.5, 2.0, 5.0])
def test_the_slopes_in_the_shift(mu):
    step = 1e-3
    for name in ("jsd", "soft"):
        low, high = (2 * figures.shifted(mu + sign * step)[name] for sign in (-1, 1))
        assert figures.slopes(mu)[name] == pytest.approx((high - low) / (2 * step), rel=1e-4)
    ahead, here = figures.slopes(mu + 1), figures.slopes(mu)
    assert ahead["soft"] > here["soft"]
    assert mu < 2 or ahead["jsd"] < here["jsd"]


@pytest.mark.parametrize("mu", [1.0, 2.0, 4.0])
def test_a_trained_judge_stays_below_and_comes_near(mu):
    values, _ = figures.judged(mu)
    best = 2 * figures.shifted(mu)["jsd"] - math.log(4)
    assert values[0] == pytest.approx(-math.log(4), abs=1e-6)
    assert (values <= best + 1e-9).all() and values[-1] > best - 0.01
    assert (np.diff(values) > -1e-9).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_value_is_convex_and_its_slope_holds_d_fast(seed):
    pi, p = two_laws(seed, 6)
    q = two_laws(seed + 50, 6)[1]

    def best_value(r):
        return 2 * jsd(pi, r) - math.log(4)

    for t in (0.1, 0.5, 0.8):
        assert best_value((1 - t) * p + t * q) <= (1 - t) * best_value(p) + t * best_value(q) + 1e-12
    p = (p + 0.05) / (p + 0.05).sum()
    t = 1e-6
    slope = (best_value((1 - t) * p + t * q) - best_value((1 + t) * p - t * q)) / (2 * t)
    assert slope == pytest.approx(((q - p) * (p / (pi + p)).log()).sum().item(), abs=1e-6)
    pi = (pi + 0.02) / (pi + 0.02).sum()  # small steps in p with the best D converge
    r = torch.full((6,), 1 / 6)
    for _ in range(4000):
        r = torch.softmax(r.log() - 0.3 * (r / (pi + r)).log(), dim=0)
    assert torch.allclose(r, pi, atol=1e-6)


def test_a_judge_that_learns_by_heart():
    traces = figures.stored()["by_heart"]
    assert traces.shape[0] == measured.SEEDS
    assert (traces[:, -1, 0] > -0.3).all() and (traces <= 0).all()
    assert (traces[:, -1, 1] < -math.log(4) - 0.5).all()


# --- Training --------------------------------------------------------------------------------------------


def test_softplus_where_a_logarithm_of_a_sigmoid_fails():
    for dtype in (torch.float32, torch.float64):
        ell = torch.tensor([40.0], dtype=dtype)
        assert (1 - torch.sigmoid(ell)).item() == 0
        assert torch.log(1 - torch.sigmoid(ell)).item() == -math.inf
        assert S9.minimax_loss(ell).item() == pytest.approx(-40)
    assert 1e-18 < torch.sigmoid(torch.tensor(-40.0)).item() < 1e-17


def test_the_slopes_of_both_losses():
    ell = torch.tensor([-math.log(99), -2.0, 0.0, 3.0], requires_grad=True)
    d = torch.sigmoid(ell)
    minimax = torch.autograd.grad(4 * S9.minimax_loss(ell), ell)[0]
    other = torch.autograd.grad(4 * S9.non_saturating_loss(ell), ell)[0]
    assert torch.allclose(minimax, -d) and torch.allclose(other, -(1 - d))
    assert (other / minimax)[0].item() == pytest.approx(99)
    assert torch.allclose(other / minimax, (-ell).exp())


@pytest.mark.parametrize("seed", SEEDS)
def test_what_the_two_losses_descend(seed):
    """Twelve points, p a softmax of free numbers: gradients by autograd at theta_0, D held fast."""
    pi = two_laws(seed, 12)[0] + 0.01
    pi = pi / pi.sum()
    theta = torch.randn(12, requires_grad=True)
    d = pi / (pi + torch.softmax(theta, 0).detach())

    def slope(function):
        return torch.autograd.grad(function(torch.softmax(theta, 0)), theta)[0]

    def twice_jsd(p):
        return (pi * (2 * pi / (pi + p)).log()).sum() + (p * (2 * p / (pi + p)).log()).sum()

    def reverse(p):
        return (p * (p / pi).log()).sum()

    def soft(p):
        middle = (pi + p) / 2
        return 2 * (middle * (middle / pi).log()).sum()

    assert torch.allclose(slope(lambda p: (p * (1 - d).log()).sum()), slope(twice_jsd))
    non_saturating = slope(lambda p: -(p * d.log()).sum())
    assert torch.allclose(non_saturating, slope(lambda p: reverse(p) - twice_jsd(p)))
    assert torch.allclose(non_saturating, slope(soft))
    p = torch.softmax(theta, 0)
    assert (reverse(p) - twice_jsd(p)).item() == pytest.approx(soft(p).item())
    assert soft(p) > 0 and soft(pi).item() == pytest.approx(0, abs=1e-12)


def test_what_missing_data_cost(printed):
    """Data on twenty points of equal mass, the model on ten and on two of them."""
    pi = torch.full((20,), 1 / 20)
    expected = []
    for kept in (10, 2):
        p = torch.cat([torch.full((kept,), 1 / kept), torch.zeros(20 - kept)])
        expected += [2 * kl((pi + p) / 2, pi), 2 * jsd(pi, p)]
    assert [number(cell) for cell in printed["missing"]] == pytest.approx(expected, abs=5.1e-4)
    for share in (1e-4, 1e-6):  # not bounded: as log(1 / share), where twice the JSD ends at log 4
        soft, twice_jsd = figures.missing(share)
        assert soft == pytest.approx(-math.log(share) - 2 * math.log(2), abs=0.01) and twice_jsd < math.log(4)


def test_laws_on_fewer_dimensions_are_disjoint_from_a_density():
    """A line in the plane, m = 2, d = 1: a judge that knows the line is right on every point."""
    torch.manual_seed(0)
    real, fake = torch.randn(1000, 2), torch.randn(1000, 1) @ torch.tensor([[1.0, 2.0]])
    on_the_line = [points[:, 1] == 2 * points[:, 0] for points in (real, fake)]
    assert not on_the_line[0].any() and on_the_line[1].all()  # D = 1 - [on the line]: V = 0, JSD = log 2


@pytest.mark.parametrize("eta", [0.1, 1.0, 1.9])
def test_steps_of_the_product_game(eta, monkeypatch):
    monkeypatch.setattr(figures, "ETA", eta)
    monkeypatch.setattr(figures, "GAME_STEPS", 400)
    radius = np.linalg.norm(figures.product_path(False), axis=1)
    assert radius[1:] / radius[:-1] == pytest.approx(math.sqrt(1 + eta**2))
    a, b = figures.product_path(True).T
    Q = a**2 - eta * a * b + b**2
    assert pytest.approx(Q[0]) == Q
    assert ((1 - eta / 2) * (a**2 + b**2) <= Q + 1e-9).all()
    assert np.hypot(a, b)[-100:].max() > 0.5  # no convergence


def test_large_alternating_steps_leave_the_ellipse(monkeypatch):
    monkeypatch.setattr(figures, "ETA", 2.1)
    assert np.abs(figures.product_path(True)).max() > 100


def test_the_smallest_gan(printed):
    """Slopes of V = -log 2 - softplus(a b), the game's value for two point masses, by autograd."""
    a, b = torch.tensor(0.7, requires_grad=True), torch.tensor(-0.4, requires_grad=True)
    v = -F.softplus(torch.tensor(0.0)) - F.softplus(b * a)  # logit b x: data at 0, model at a
    slopes = [part.item() for part in torch.autograd.grad(v, (a, b))]
    sigma = 1 / (1 + math.exp(0.28))
    assert slopes == pytest.approx([0.4 * sigma, -0.7 * sigma])
    simultaneous, alternating = (np.linalg.norm(figures.dirac_path(kind), axis=1) for kind in (False, True))
    assert simultaneous[-1] > 1.5 and (np.diff(simultaneous) > 0).all()
    assert alternating.min() > 0.8 and alternating.max() < 1.25
    first = figures.dirac_path(False)[1]
    assert first == pytest.approx([1.0, -figures.ETA / 2])
    product = np.linalg.norm(figures.product_path(False), axis=1)
    assert number(printed["bilinear"][2]) == pytest.approx(product[-1], abs=0.0051)


def test_half_steps_end_at_the_data():
    states = figures.half_step_states()
    assert [w is v for (w, _), (v, _) in zip(states[::2], states[1::2], strict=True)] == [True] * 12
    mean, std = states[-1][1].tolist()
    assert abs(mean - figures.DATA[0]) < 0.15 and abs(std - figures.DATA[1]) < 0.15
    at = torch.tensor([0.0, 1.0, 2.0, 3.0])  # where the data are
    rises = [torch.sigmoid(figures.logit(w, at)).aminmax() for w, _ in states[:: len(states) - 1]]
    first, last = ((high - low).item() for low, high in rises)
    assert first > 0.5 > 0.3 > last  # much flatter


def test_the_gan_in_the_plane_is_the_one_of_the_code(printed, monkeypatch):
    monkeypatch.setattr(measured, "SNAPSHOTS", (0, 100))
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    samples, _ = measured.gan(data.moons(), S9.non_saturating_loss)
    stored = figures.stored()["plane_non_saturating"]
    assert np.abs(np.stack(samples) - stored[:2]).max() < 0.02
    distances = figures.stored()["plane_w1"]
    for cell, row in zip(printed["plane"], distances, strict=True):
        assert [number(part) for part in cell.split(", ")] == pytest.approx(sorted(row), abs=0.0051)
    assert [number(cell) for cell in printed["plane_drawn"]] == pytest.approx(distances[:2, 0], abs=0.0051)
    assert (distances[1] > 0.5).sum() == 2 and distances[0].max() < 0.25  # what the notes say


def test_batches_of_a_step():
    """Rows that each network sees, forward and back, in one step of each player on a batch of 10."""
    generator, discriminator = S9.Generator(torch.nn.Linear(2, 2), 2), measured.classifier(2, 4)
    rows = dict.fromkeys(("forward G", "back G", "forward D", "back D"), 0)

    def count(name, batch):
        rows[name] += len(batch)

    def watch(name, out):
        count(f"forward {name}", out)
        out.register_hook(lambda gradient: count(f"back {name}", gradient))

    generator.network.register_forward_hook(lambda _, given, out: watch("G", out))
    discriminator.register_forward_hook(lambda _, given, out: watch("D", out))
    losses = S9.players(generator, discriminator, S9.discriminator_loss, S9.non_saturating_loss)
    for loss, model in zip(losses, (discriminator, generator), strict=True):
        train.gradient_step(loss, torch.optim.SGD(model.parameters(), 0.1))(torch.randn(10, 2))
    assert rows == {"forward G": 20, "back G": 10, "forward D": 30, "back D": 30}
