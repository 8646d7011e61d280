"""Seminar 3: probabilistic PCA and the VAE against closed forms and libraries; its checks against slips."""

import ast
import builtins
import contextlib
import io
import itertools
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from dgm_utils import checks, metrics, nets, plot
from lectures.lecture3 import figures
from tests.test_notebooks import bound_names, parsed
from tools import definitions, notebooks

PATH = Path(__file__).resolve().parent.parent / "seminars" / "seminar3" / "seminar3.ipynb"
seminar = definitions.load(PATH)
cells = notebooks.read_notebook(PATH).cells


def source(start):
    """Return the one code cell that has a line beginning with the given text."""
    found = [
        c.source
        for c in cells
        if c.cell_type == "code" and re.search(rf"^{re.escape(start)}", c.source, re.M)
    ]
    assert len(found) == 1, f"{len(found)} cells have {start!r}"
    return found[0]


def source_of(identifier):
    """Return the source of the cell with this id."""
    return next(c.source for c in cells if c.id == identifier)


def correlated(n, m):
    return (
        torch.randn(n, m, dtype=torch.float64) @ torch.randn(m, m, dtype=torch.float64)
        + torch.randn(m).double()
    )


def random_ppca(m=5, d=2, variance=0.4):
    W = torch.randn(m, d, dtype=torch.float64)
    return seminar.ProbabilisticPCA(torch.randn(m).double(), W, torch.tensor(variance, dtype=torch.float64))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ---- probabilistic PCA -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, 6])
def test_closed_form_is_scikit_learns(d):
    x = correlated(200, 7)
    theirs = PCA(d, svd_solver="full").fit(x.numpy())
    ours = seminar.ppca_closed_form(x, d, correction=1)
    assert ours.log_prob(x).mean() == pytest.approx(theirs.score(x.numpy()), rel=1e-10)
    assert ours.variance == pytest.approx(theirs.noise_variance_, rel=1e-10)
    np.testing.assert_allclose(
        ours.W @ ours.W.T + ours.variance * torch.eye(7), theirs.get_covariance(), atol=1e-10
    )


@pytest.mark.parametrize(
    ("load", "d", "nats"),
    [
        (load_iris, 1, -3.1377963888),
        (load_iris, 2, -2.6997518677),
        (load_iris, 3, -2.5327642008),
        (load_digits, 2, -177.4399714984),
        (load_digits, 20, -150.1683782945),
    ],
)
def test_maximum_of_the_likelihood_on_known_data(load, d, nats):
    x = torch.from_numpy(load().data)
    assert seminar.ppca_closed_form(x, d).log_prob(x).mean() == pytest.approx(nats, abs=1e-8)


def test_closed_form_is_a_maximum():
    x = correlated(100, 5)
    best = seminar.ppca_closed_form(x, 2)
    leaves = [best.mean, best.W, best.variance.clone()]
    for leaf in leaves:
        leaf.requires_grad_()
    gradients = torch.autograd.grad(seminar.ProbabilisticPCA(*leaves).log_prob(x).mean(), leaves)
    assert max(gradient.abs().max() for gradient in gradients) < 1e-9
    for _ in range(20):
        moved = [leaf.detach() * (1 + 0.05 * torch.randn_like(leaf)) for leaf in leaves]
        assert seminar.ProbabilisticPCA(*moved).log_prob(x).mean() < best.log_prob(x).mean()


def test_marginal_and_posterior_by_conditioning_the_joint_gaussian():
    model = random_ppca()
    m, d = model.W.shape
    cross = np.asarray(model.W)  # covariance of x and z
    covariance = cross @ cross.T + 0.4 * np.eye(m)
    x = model.sample(4)
    np.testing.assert_allclose(
        model.log_prob(x), stats.multivariate_normal(model.mean, covariance).logpdf(x), rtol=1e-10
    )
    posterior = model.posterior(x)
    np.testing.assert_allclose(
        posterior.mean, (x - model.mean).numpy() @ np.linalg.solve(covariance, cross), atol=1e-10
    )
    expected = np.eye(d) - cross.T @ np.linalg.solve(covariance, cross)
    np.testing.assert_allclose(posterior.covariance_matrix[0], expected, atol=1e-10)


def test_samples_have_the_moments_of_the_marginal():
    model = random_ppca(3, 2)
    x = model.sample(200_000)
    assert torch.allclose(x.mean(0), model.mean, atol=0.03)
    assert torch.allclose(torch.cov(x.T), model.W @ model.W.T + 0.4 * torch.eye(3), atol=0.05)


def test_a_step_of_em_maximises_the_expected_complete_likelihood():
    x, old = correlated(60, 4), random_ppca(4, 2)
    old = seminar.ProbabilisticPCA(x.mean(0), old.W, old.variance)
    new = seminar.ppca_em_step(old, x)
    W, variance = new.W.clone().requires_grad_(), new.variance.clone().requires_grad_()
    model = seminar.ProbabilisticPCA(new.mean, W, variance)
    expected = seminar.gaussian_elbo(
        model, x, old.posterior(x)
    ).sum()  # the KL does not depend on W, variance
    for gradient in torch.autograd.grad(expected, [W, variance]):
        assert gradient.abs().max() < 1e-8


@pytest.mark.parametrize("seed", range(5))
def test_em_climbs_to_the_closed_form(seed):
    torch.manual_seed(seed)
    x = correlated(300, 5)
    model = seminar.ProbabilisticPCA(x.mean(0), torch.randn(5, 2).double(), torch.tensor(1.0).double())
    trace = []
    for _ in range(3000):
        model = seminar.ppca_em_step(model, x)
        trace.append(model.log_prob(x).mean().item())
    assert np.diff(trace).min() > -1e-10
    assert trace[-1] == pytest.approx(seminar.ppca_closed_form(x, 2).log_prob(x).mean().item(), abs=1e-7)


@pytest.mark.parametrize(
    ("spectrum", "slow"), [([9.0, 4.0, 0.5, 0.3], "length"), ([9.0, 4.0, 3.6, 0.3, 0.2], "subspace")]
)
def test_em_is_as_slow_as_the_text_and_the_notes_say(spectrum, slow):
    eigenvalues, d = torch.tensor(spectrum, dtype=torch.float64), 2
    noise = torch.randn(400, len(spectrum), dtype=torch.float64)
    x = torch.linalg.qr(noise - noise.mean(0)).Q * (400 * eigenvalues).sqrt()
    x = x @ torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), dtype=torch.float64)).Q
    best = seminar.ppca_closed_form(x, d)
    model = seminar.ProbabilisticPCA(x.mean(0), torch.randn(len(spectrum), d).double(), torch.tensor(1.0))
    gaps = [1.0]
    while gaps[-1] > 1e-9:
        model = seminar.ppca_em_step(model, x)
        gaps.append((best.log_prob(x).mean() - model.log_prob(x).mean()).item())
    late = [gap for gap in gaps if gap < 1e-6]
    share = best.variance / eigenvalues[0]
    factors = {
        "length": (1 - 2 * share * (1 - share)).square(),
        "subspace": (eigenvalues[d] / eigenvalues[d - 1]).square(),
    }
    assert max(factors, key=factors.get) == slow
    assert (late[-1] / late[0]) ** (1 / (len(late) - 1)) == pytest.approx(factors[slow].item(), abs=0.003)


def test_elbo_is_log_p_minus_the_kl():
    model = random_ppca()
    x, A = model.sample(6), torch.randn(6, 2, 2).double()
    q = MultivariateNormal(torch.randn(6, 2).double(), A @ A.mT + 0.1 * torch.eye(2))
    gap = model.log_prob(x) - seminar.gaussian_elbo(model, x, q)
    assert torch.allclose(gap, kl_divergence(q, model.posterior(x)), atol=1e-9) and gap.min() > 0.01
    z = q.sample((40_000,))
    by_sampling = (seminar.log_joint(model, x, z) - q.log_prob(z)).mean(0)
    assert torch.allclose(by_sampling, seminar.gaussian_elbo(model, x, q), rtol=0.02)


def test_the_check_of_posteriors_sees_slips():
    model = random_ppca()
    right = model.posterior
    seminar.check_posterior(right, model)
    slips = [
        lambda x: MultivariateNormal(right(x).mean, model.M / model.variance),  # the precision
        lambda x: MultivariateNormal(right(x).mean, torch.linalg.inv(model.M)),  # without the variance
        lambda x: MultivariateNormal((x - model.mean) @ model.W, right(x).covariance_matrix),  # without M
        lambda x: MultivariateNormal(right(x + model.mean).mean, right(x).covariance_matrix),  # not centred
    ]
    for slip in slips:
        with pytest.raises(AssertionError, match="nats"):
            seminar.check_posterior(slip, model)


# ---- the linear VAE and its slips --------------------------------------------------------------------------


def test_tight_for_the_exact_solution_only_without_slips():
    x = correlated(500, 3).float()
    ppca = seminar.ppca_closed_form(x, 1)
    assert seminar.check_tight(seminar.LinearVAE, ppca, x[:4]) < 0.2
    for slip in (seminar.A, seminar.B, seminar.C, seminar.D):
        with pytest.raises(checks.CheckFailed):
            seminar.check_tight(slip, ppca, x[:4])


@pytest.mark.parametrize("variances", [(2.8, 0.2), (1.0, 0.9), (30.0, 0.1)])
def test_a_kl_paid_twice_collapses_in_the_plane(variances):
    first, second = variances

    def objective(parts, beta):
        w, log_noise, gain, log_std = parts  # decoder w z along the first axis; q(z|x) = N(gain x_1, std²)
        noise, square = np.exp(2 * log_noise), np.exp(2 * log_std)
        missed = second + first * (1 - w * gain) ** 2 + w**2 * square
        kl = (gain**2 * first + square - 1 - 2 * log_std) / 2
        return np.log(2 * np.pi * noise) + missed / (2 * noise) + beta * kl

    def best(beta):
        starts = np.random.default_rng(0).normal(size=(12, 4))
        return min((optimize.minimize(objective, start, beta) for start in starts), key=lambda fit: fit.fun)

    round_gaussian = np.log(2 * np.pi * np.e * (first + second) / 2)  # minus its mean log-likelihood
    collapsed, right = best(2), best(1)
    assert collapsed.fun == pytest.approx(round_gaussian, abs=1e-5)
    assert abs(collapsed.x[0] * collapsed.x[2]) < 1e-2, "the code is still used"
    assert right.fun == pytest.approx(np.log(2 * np.pi * np.e) + np.log(first * second) / 2, abs=1e-5)
    assert right.fun < round_gaussian - 1e-4


def printed(identifier):
    """Return what the cell with this id printed when the notebook was stored."""
    return next(c.outputs[0].text for c in cells if c.id == identifier)


def numbers_of(line):
    return [float(value) for value in re.findall(r"-?\d+\.\d+", line)]


def test_the_table_of_slips_shows_the_collapse():
    text = printed("c717f783")
    rows = {line[0]: numbers_of(line) for line in text.splitlines()[3:]}
    round_gaussian = -math.log(2 * math.pi * math.e * 1.5)
    assert f"{round_gaussian:.3f}" in source_of("54e36ba6"), "the text prints another number"
    reported, likelihood, kl = rows["B"]
    assert reported == pytest.approx(round_gaussian, abs=0.004) and kl < 0.01, "no collapse, or not named"
    assert likelihood == pytest.approx(round_gaussian, abs=0.004), "the bound is tight on the collapsed model"
    assert rows["C"][0] == pytest.approx(reported / 2, abs=0.004) and rows["C"][2] < 0.01
    assert min(rows["r"][2], rows["A"][2]) > 0.5


def test_variances_are_those_of_the_lecture():
    table = source_of("4563b31b")
    for d in (1, 10, 100):
        assert figures.score_variance(d) == pytest.approx(d**2 + 3.5 * d + 3)
        assert figures.score_variance(d, baseline=True) == pytest.approx(1.5 * d + 3)
    assert f"{figures.score_variance(100):,.0f}" in table and "153" in table


# ---- the VAE -----------------------------------------------------------------------------------------------


def make_vae(m=6, d=2, kind=None):
    vae = (kind or seminar.VAE)(nets.mlp(m, 16, 2 * d), nets.mlp(d, 16, m), d).double().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.mul_(2)
    return vae


def test_parts_of_the_elbo_against_distributions():
    vae, x = make_vae(), torch.bernoulli(torch.full((5, 6), 0.4)).double()
    mean, std = vae.posterior(x)
    raw = vae.encoder(x)
    assert torch.allclose(mean, raw[:, :2]) and torch.allclose(std.log() * 2, raw[:, 2:])
    torch.manual_seed(1)
    reconstruction, kl = vae.elbo(x)
    torch.manual_seed(1)
    z = mean + std * torch.randn_like(std)
    assert torch.allclose(kl, kl_divergence(Normal(mean, std), Normal(0.0, 1.0)).sum(1))
    assert torch.allclose(reconstruction, Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(1))
    assert torch.allclose(vae.decode(z), torch.sigmoid(vae.decoder(z)))


def test_log_weights_against_distributions():
    vae, x = make_vae(), torch.bernoulli(torch.full((5, 6), 0.4)).double()
    mean, std = vae.posterior(x)
    torch.manual_seed(1)
    weights = vae.log_weights(x, 7)
    torch.manual_seed(1)
    z = mean + std * torch.randn(7, 5, 2, dtype=torch.float64)
    expected = Bernoulli(logits=vae.decoder(z)).log_prob(x).sum(2)
    expected += Normal(0.0, 1.0).log_prob(z).sum(2) - Normal(mean, std).log_prob(z).sum(2)
    assert weights.shape == (7, 5) and torch.allclose(weights, expected)


def test_samples_and_importance_weights_follow_the_quadrature():
    vae = make_vae(3, 1)
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * 3)
    log_p, elbo = seminar.on_grid(vae, states)
    assert log_p.exp().sum() == pytest.approx(1, abs=1e-9)
    assert (elbo < log_p).all()
    drawn = vae.sample(40_000)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    counts = torch.bincount((drawn @ torch.tensor([4.0, 2.0, 1.0]).double()).long(), minlength=8)
    assert stats.chisquare(counts, 40_000 * log_p.exp() / log_p.exp().sum()).pvalue > 1e-5
    estimate = metrics.importance_weighted_log_likelihood(vae.log_weights(states, 50_000))
    assert torch.allclose(estimate, log_p, atol=0.1)


def test_weights_of_any_gaussian_average_to_p():
    vae, x = make_vae(3, 1), torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).double()
    log_p, _ = seminar.on_grid(vae, x)
    q = (torch.tensor([[0.3], [-0.2]]).double(), torch.tensor([[1.1], [1.4]]).double())
    checks.unbiased(lambda: (vae.log_weights(x, 50, q) - log_p).exp().mean(0), truth=[1.0, 1.0])
    drawn = vae.log_weights(x, 4000, q)
    assert (drawn - vae.log_weights(x, 4000)).std() > 0.05, "q plays no part"


def test_codes_by_gradients_are_the_best_and_leave_the_model_alone():
    vae, x = make_vae(8, 1), torch.bernoulli(torch.full((6, 8), 0.5)).double()
    before = [parameter.clone() for parameter in vae.parameters()]
    log_p, amortised = seminar.on_grid(vae, x)
    q = seminar.best_codes(vae, x, steps=300)
    vae.posterior = lambda x: q
    _, found = seminar.on_grid(vae, x)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert (found > amortised - 0.05).all() and (found < log_p).all()
    for k in range(len(x)):
        one = x[k : k + 1]

        def negative(parts, one=one):
            mean, log_std = torch.from_numpy(parts)
            vae.posterior = lambda x: (mean.view(1, 1), log_std.exp().view(1, 1))
            return -seminar.on_grid(vae, one, points=1001)[1].item()

        starts = ([-1.5, -0.5], [0.0, 0.0], [1.5, -0.5])
        best = -min(optimize.minimize(negative, start, method="Nelder-Mead").fun for start in starts)
        assert found[k] > best - 0.3, "far from the best Gaussian"


def test_the_loss_starts_at_the_mean_image():
    setting = SimpleNamespace(train_images=50_000)
    namespace = vars(seminar) | {"setting": setting, "device": torch.device("cpu")}
    exec(source("def make_vae"), namespace)
    said = re.search(r"At (\d+): .* which alone costs (\d+)", source_of("ba8ac730"))
    images = namespace["data"].binarize(namespace["mnist"].train.images[::25]).flatten(1)
    alone = Bernoulli(namespace["brightness"].float()).log_prob(images).sum(1).mean()
    assert -alone == pytest.approx(int(said[2]), abs=1.5)
    with torch.no_grad():
        for seed in range(3):
            torch.manual_seed(seed)
            loss = seminar.negative_elbo(namespace["make_vae"]((200, 200), 50))(images)["loss"]
            assert loss == pytest.approx(int(said[1]), abs=2.5)


def test_mle_and_map_are_compared_by_estimates_not_by_bounds():
    _, *lines, last = printed("8b48ac6d").splitlines()
    bounds, estimates = ([numbers_of(line.replace("inf", ""))[k] for line in lines] for k in (-3, -2))
    mle, wide, best, narrow = estimates
    assert best < wide < mle < narrow, "MLE beats so narrow a prior"
    assert bounds[0] > bounds[3], "the bounds say the opposite, as the text does"
    gain, error = numbers_of(last)[:2]
    assert gain == pytest.approx(mle - best, abs=0.11) and 4 * error < gain < (bounds[0] - bounds[2]) / 2
    said = re.search(r"loses about (\d+) nats.*The ELBOs say (\d+):", source_of("7ffe1a77"))
    assert gain == pytest.approx(int(said[1]), abs=1.5)
    assert bounds[0] - bounds[2] == pytest.approx(int(said[2]), abs=1.5)
    assert "estimate" in source("SMALL = ").split("SMALL = ")[1].splitlines()[0]


def test_what_the_decoder_promises_and_what_images_cost_are_told_apart():
    rows = {line[0]: numbers_of(line) for line in printed("48b58b4d").splitlines()[-2:]}
    promised, cost, missed, _ = rows["i"]  # in class
    reconstruction = numbers_of(printed("07fd5e48").splitlines()[1])[0]
    assert cost == pytest.approx(-reconstruction, abs=0.5), "another draw of the codes"
    assert promised > cost + 3 and "*less* sure, the longer training's agree to a nat" in source_of(
        "cd6e24d7"
    )
    assert abs(rows["l"][0] - rows["l"][1]) < 1, "those of the longer training agree to a nat"
    assert rows["l"][1] < cost and 0.05 < rows["l"][2] < missed, "the text says: helps a little"


def test_what_the_longer_training_brings_is_said_as_it_is_measured():
    ours, longer, gain, stored = map(numbers_of, printed("7c1e40a5").splitlines()[1:5])
    assert gain[0] == pytest.approx(ours[-1] - longer[-1], abs=0.11) and gain[0] > 4 * gain[1]
    bound, reconstruction = (ours[k] - longer[k] for k in (1, 2))
    assert reconstruction > 0.8 * bound > 0, "nearly all of the gain is the reconstruction's"
    assert stored[-1] == pytest.approx(longer[-1], abs=5), "other images and another K, the same model"
    settings = {}
    exec(source("SETTINGS").split("column =")[0], settings)
    passes = [
        p * e for p, e in zip(*(settings["SETTINGS"][name] for name in ("passes", "epochs")), strict=True)
    ]
    assert passes[0] == 10 and f"{passes[1]:,} passes over the images in place of ten" in source_of(
        "7c1e40a4"
    )
    assert f"pass {passes[1]:,} and {passes[2]:,} times" in source_of("838263be").replace("\n", " ")


def parts_at_home():
    """Return the parts of At home, title to cells, and the sections that the table says each needs."""
    home = next(k for k, c in enumerate(cells) if c.source.startswith("## At home"))
    rows = re.findall(r"^\| (.+?) \|(.*?)\|$", cells[home].source, re.M)[2:]
    parts = {None: []}
    for cell in cells[home + 1 :]:
        if cell.cell_type == "markdown" and (heading := re.match(r"### (.*)", cell.source)):
            parts[heading[1]] = []
        next(reversed(parts.values())).append(cell)
    del parts[None]
    return parts, {title: [int(k) for k in re.findall(r"\d", needs)] for title, needs in rows}


def test_a_part_at_home_needs_only_what_the_table_says():
    parts, needs = parts_at_home()
    assert list(parts) == list(needs)
    sections, current = {0: []}, 0
    for cell in cells:
        heading = re.match(r"## (?:(\d)\.|At home)", cell.source) if cell.cell_type == "markdown" else None
        current = int(heading[1] or 99) if heading else current
        sections.setdefault(current, []).append(cell)
    for title, own in parts.items():
        bound = {*dir(builtins), "display"}
        for cell in itertools.chain(*(sections[k] for k in (0, *needs[title])), own):
            if cell.cell_type == "code":
                nodes = list(ast.walk(parsed(cell.source)))
                bound = bound.union(*map(bound_names, nodes))
                names = {node.id for node in nodes if isinstance(node, ast.Name)}
                assert names <= bound, f"{title}: cell {cell.id} reads {names - bound}"


def test_no_table_reads_as_if_full_had_been_run():
    assert "ours in `full`" not in "".join(c.source for c in cells)


def test_nothing_is_made_on_the_host():
    vae = seminar.VAE(nets.mlp(6, 8, 4), nets.mlp(2, 8, 6), 2).to("meta")
    x = torch.empty(5, 6, device="meta")
    assert vae.log_weights(x, 3).shape == (3, 5) and vae.sample(4).shape == (4, 6)
    assert all(term.device.type == "meta" for term in seminar.negative_elbo(vae)(x).values())


def test_loss_adds_up_and_is_a_mean_over_the_batch():
    vae, x = make_vae(), torch.bernoulli(torch.full((8, 6), 0.4)).double()
    torch.manual_seed(2)
    terms = seminar.negative_elbo(vae)(x)
    torch.manual_seed(2)
    reconstruction, kl = vae.elbo(x)
    assert terms["loss"] == pytest.approx((kl - reconstruction).mean().item())
    assert terms["kl"] - terms["reconstruction"] == pytest.approx(terms["loss"].item())


SLIPS = {
    "variance for deviation": (
        "z = mean + std * torch.randn_like(std)",
        "z = mean + std**2 * torch.randn_like(std)",
    ),
    "no sample": ("z = mean + std * torch.randn_like(std)", "z = mean"),
    "KL without the half": ("2 * std.log()) / 2", "2 * std.log())"),
    "KL forgotten": (", standard_normal_kl(mean, std)", ", 0 * standard_normal_kl(mean, std)"),
    "log-variance without its two": ("- 1 - 2 * std.log()", "- 1 - std.log()"),
    "KL of the variance for the deviation": (
        "(mean**2 + std**2 - 1 - 2 * std.log())",
        "(mean**2 + std**4 - 1 - 4 * std.log())",
    ),
    "mean over pixels": ("return -loss.sum(dim=-1)", "return -loss.mean(dim=-1)"),
    "weights: prior and q exchanged": ("(noise**2 - z**2)", "(z**2 - noise**2)"),
    "weights: log-determinant of the wrong sign": ("/ 2 + std.log()", "/ 2 - std.log()"),
    "weights: one noise for all": (
        "noise = torch.randn_like(mean.expand",
        "noise = torch.zeros_like(mean.expand",
    ),
}


@pytest.mark.parametrize("slip", [None, *SLIPS])
def test_the_checks_of_the_vae_see_slips(slip):
    namespace = vars(seminar) | {}
    before, after = SLIPS.get(slip, ("class VAE", "class VAE"))
    parts = ("def standard_normal_kl", "class LatentVariableModel", "class VAE(")
    text = "\n\n\n".join(map(source, parts))
    assert text.count(before) == 1
    exec(text.replace(before, after), namespace)
    check = source("tiny = ") + "\n\n" + source("total = checks.sums_to_one")
    with contextlib.redirect_stdout(io.StringIO()):
        if slip is None:
            exec(check, namespace)
        else:
            with pytest.raises(checks.CheckFailed):
                exec(check, namespace)


def test_labels_of_the_map_stay_apart():
    codes, labels = 0.2 * torch.randn(400, 2), torch.arange(400) % 10
    _, axes = plot.subplots()
    seminar.draw_codes(axes, codes, labels, apart=0.5)
    places = torch.tensor([text.get_position() for text in axes.texts])
    assert [text.get_text() for text in axes.texts] == list("0123456789")
    assert torch.pdist(places).min() > 0.45
