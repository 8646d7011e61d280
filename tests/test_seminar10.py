"""The definitions of seminar 10 against closed forms, POT and brute force; planted mistakes are caught."""

import copy
import math
from pathlib import Path

import ot
import pytest
import torch
from scipy import linalg
from torch import nn
from torch.nn import functional as F

from dgm_utils import checks, data, metrics, nets, train, weights
from tools import definitions

NOTEBOOK = Path(__file__).resolve().parent.parent / "seminars" / "seminar10" / "seminar10.ipynb"
s10 = definitions.load(NOTEBOOK)

pytestmark = pytest.mark.usefixtures("double")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---- distances ---------------------------------------------------------------------------------------------
DX = 0.01
LINE = torch.arange(-12, 20, DX, dtype=torch.float64) + DX / 2


def bell(theta):
    return torch.distributions.Normal(theta, 1.0).log_prob(LINE).exp()


def box(theta):
    return ((theta < LINE) & (theta + 1 > LINE)).double()


@pytest.mark.parametrize(
    ("theta", "jsd"),
    [(0.5, 0.0303113), (1, 0.1114215), (2, 0.3368308), (3, 0.5267773), (4, 0.6327202), (6, 0.6892979)],
)
def test_distances_of_two_bells(theta, jsd):
    one, other, found, w1 = s10.distances(bell(0.0), bell(float(theta)), DX)
    assert one == pytest.approx(theta**2 / 2, abs=1e-5) and other == pytest.approx(theta**2 / 2, abs=1e-5)
    assert found == pytest.approx(jsd, abs=1e-6) and w1 == pytest.approx(theta, abs=1e-6)


@pytest.mark.parametrize("theta", [0.0, 0.25, 0.5, 1.0, 3.0, -0.5])
def test_distances_of_two_boxes(theta):
    one, other, jsd, w1 = s10.distances(box(0.0), box(theta), DX)
    assert one.item() == other.item() == (0 if theta == 0 else math.inf)
    assert jsd == pytest.approx(math.log(2) * min(abs(theta), 1), abs=1e-9)
    assert w1 == pytest.approx(abs(theta), abs=1e-9)


def test_a_kl_that_is_finite_in_one_direction_only_stands_in_its_place():
    half = 2 * ((LINE > 0) & (LINE < 0.5)).double()
    one, other, _, _ = s10.distances(box(0.0), half, DX)
    assert one.item() == math.inf and other == pytest.approx(math.log(2))


def test_mass_that_is_cut_off_is_refused():
    with pytest.raises(AssertionError, match=r"mass 1 on the grid, got 0\.5"):
        s10.distances(bell(0.0), bell(20.0), DX)


# ---- networks side by side, the wall -----------------------------------------------------------------------
def one_alone(side, k):
    """Return an ordinary network with the weights of member k."""
    sizes = [weight.shape[1] for weight in side.weights] + [side.weights[-1].shape[2]]
    alone = nets.mlp(*sizes)
    with torch.no_grad():
        for layer, weight, bias in zip(alone[::2], side.weights, side.biases, strict=True):
            layer.weight.copy_(weight[k].T)
            layer.bias.copy_(bias[k, 0])
    return alone


def test_networks_side_by_side_are_ordinary_ones():
    side, x = s10.SideBySide(3, 2, 7, 5, 4), torch.randn(6, 3, 2)
    for k in range(3):
        assert torch.allclose(side(x)[:, k], one_alone(side, k)(x[:, k]))
    wide = s10.SideBySide(50, 9, 40)  # the start of nn.Linear: uniform up to 1/3
    assert 0.33 < wide.weights[0].abs().max() <= 1 / 3 and 0.3 < wide.biases[0].abs().max() <= 1 / 3


def test_networks_side_by_side_learn_as_if_they_were_alone():
    side, x, y = s10.SideBySide(3, 2, 6, 1), torch.randn(20, 3, 2), torch.randn(20, 3, 1)
    alone = [one_alone(side, k) for k in range(3)]
    step = train.gradient_step(
        lambda both: {"loss": ((side(both[0]) - both[1]) ** 2).mean()},
        torch.optim.Adam(side.parameters(), 1e-2, eps=1e-14),
    )
    for _ in range(20):
        step((x, y))
    for k, network in enumerate(alone):
        own = train.gradient_step(
            lambda both, k=k, network=network: {
                "loss": ((network(both[0][:, k]) - both[1][:, k]) ** 2).mean()
            },
            torch.optim.Adam(network.parameters(), 1e-2, eps=1e-14),
        )
        for _ in range(20):
            own((x, y))
        assert torch.allclose(side(x)[:, k], network(x[:, k]), atol=1e-6)


def test_the_wall_stands_at_theta_and_its_slopes_are_those_of_the_text():
    wall = s10.Wall(3, 0.7)
    drawn = wall(2000)
    assert drawn.shape == (2000, 3, 2) and (drawn[..., 0] == 0.7).all()
    assert drawn[..., 1].min() > 0 and drawn[..., 1].max() < 1 and drawn[..., 1].std() > 0.27
    guards = nn.Sequential(s10.SideBySide(3, 2, 8, 1), nn.Flatten(1))
    x = wall(500)
    logits = guards(x)
    (rise,) = torch.autograd.grad(logits.sum(), x, retain_graph=True)
    for loss, factor in (
        (s10.minimax_loss, -torch.sigmoid(logits)),
        (s10.non_saturating_loss, -torch.sigmoid(-logits)),
    ):
        (slope,) = torch.autograd.grad(loss(logits), wall.theta, retain_graph=True)
        assert torch.allclose(3 * slope, (factor * rise[..., 0]).mean(dim=0))


# ---- the critic --------------------------------------------------------------------------------------------
def test_the_critics_loss_is_minus_w1_for_the_best_critic():
    real, fake = torch.randn(200) + 3, torch.randn(200)
    shifted = fake + 1.5
    assert s10.critic_loss(shifted, fake).item() == pytest.approx(-1.5)  # D(x) = x
    assert s10.critic_loss(shifted, fake).item() == pytest.approx(-metrics.wasserstein(shifted, fake))
    assert s10.critic_loss(real, fake).item() < 0 < s10.critic_loss(fake, real).item()
    assert s10.critic_generator_loss(fake).item() == pytest.approx(-fake.mean().item())
    hinge = F.relu(1 - real).mean() + F.relu(1 + fake).mean()  # planted: another loss of that name
    assert abs(s10.critic_loss(real, fake).item() - hinge.item()) > 0.1


def clipped_critic(clip=0.05, wrapped=True):
    critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    real, fake = torch.randn(64, 2) + 2, torch.randn(64, 2)
    step = train.gradient_step(
        lambda batch: {"loss": s10.critic_loss(critic(batch), critic(fake))},
        torch.optim.RMSprop(critic.parameters(), 1e-2),
    )
    return critic, real, s10.ClippedStep(step, critic, clip) if wrapped else step


def greatest(critic):
    return max(parameter.abs().max().item() for parameter in critic.parameters())


def test_a_clipped_critic_stays_in_its_box_and_still_learns():
    critic, real, step = clipped_critic()
    losses = [step(real)["loss"].item() for _ in range(30)]
    assert greatest(critic) == pytest.approx(0.05) and losses[-1] < losses[1]
    assert all(parameter.requires_grad for parameter in critic.parameters())
    plain, real, step = clipped_critic(wrapped=False)  # planted: the clipping is forgotten
    for _ in range(30):
        step(real)
    assert greatest(plain) > 0.1
    assert set(s10.ClippedStep(step, plain, 1.0).state_dict()) == {"RMSprop"}


class Still:
    """A step that changes nothing."""

    state_dict = load_state_dict = None

    def __call__(self, batch):
        return {}


def test_every_member_may_have_a_bound_of_its_own():
    side = s10.SideBySide(2, 2, 4, 1)
    bound = torch.tensor([0.01, 0.2])[:, None, None]
    s10.ClippedStep(Still(), side, bound)(None)
    sizes = torch.stack([weight.abs().amax(dim=(1, 2)) for weight in side.weights]).amax(dim=0)
    assert sizes[0].item() == pytest.approx(0.01) and sizes[1].item() == pytest.approx(0.2)


# ---- transport ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "m", "dim"), [(8, 12, 2), (5, 5, 3), (1, 4, 2), (9, 2, 1)])
def test_both_programmes_against_pot(n, m, dim):
    x, y = torch.randn(n, dim), torch.randn(m, dim) + 1
    cost = torch.cdist(x, y)
    primal, plan = s10.transport_plan(cost)
    dual, phi, psi = s10.transport_dual(cost)
    theirs = ot.emd2(ot.unif(n), ot.unif(m), cost.numpy())
    assert primal == pytest.approx(theirs) and dual == pytest.approx(theirs)
    assert torch.allclose(plan.sum(dim=1), torch.full((n,), 1 / n)) and (plan >= 0).all()
    assert torch.allclose(plan.sum(dim=0), torch.full((m,), 1 / m))
    assert (plan * cost).sum().item() == pytest.approx(primal)
    slack = cost - phi[:, None] - psi
    assert slack.min() > -1e-8 and (plan * slack).max() < 1e-8
    assert (phi.mean() + psi.mean()).item() == pytest.approx(dual)


def test_the_dual_makes_a_critic_that_proves_the_distance():
    x, y = torch.randn(10, 2), torch.randn(14, 2) + 1
    exact, _, psi = s10.transport_dual(torch.cdist(x, y))

    def critic(points):
        return (torch.cdist(points, y) - psi).min(dim=1).values

    assert (critic(x).mean() - critic(y).mean()).item() == pytest.approx(exact)
    assert checks.lipschitz(critic, torch.cat([x, y]) + 0.01, limit=1 + 1e-9) == pytest.approx(1)
    assert s10.lower_bound(x, y, critic(x), critic(y)).item() == pytest.approx(exact)
    turned = s10.lower_bound(x, y, -critic(x), -critic(y)).item()  # planted: a sign
    assert turned == pytest.approx(-exact)


def test_a_bound_from_any_critic_is_below_and_does_not_know_the_scale():
    x, y = torch.randn(15, 3), torch.randn(20, 3) + 1
    y = torch.cat([y, x[:2]])  # points that coincide
    exact, _ = s10.transport_plan(torch.cdist(x, y))
    for _ in range(20):
        network = nets.mlp(3, 30, 1).requires_grad_(False)
        of_x, of_y = network(x)[:, 0], network(y)[:, 0]
        found = s10.lower_bound(x, y, of_x, of_y)
        assert -exact <= found <= exact
        assert torch.allclose(found, s10.lower_bound(x, y, 100 * of_x + 5, 100 * of_y + 5))


@pytest.mark.parametrize("order", [1, 2])
def test_sinkhorn(order):
    x, y = torch.randn(30, 2, requires_grad=True), 1 + torch.randn(20, 2)
    cost = ot.dist(x.detach().numpy(), y.numpy(), "euclidean") ** order
    options = {"method": "sinkhorn_log", "numItermax": 10_000, "stopThr": 1e-12}
    theirs = float(ot.sinkhorn2(ot.unif(30), ot.unif(20), cost, reg=0.3, **options)) ** (1 / order)
    assert s10.sinkhorn(x, y, epsilon=0.3, order=order) == pytest.approx(theirs, rel=1e-6)
    exact = ot.emd2(ot.unif(30), ot.unif(20), cost) ** (1 / order)
    gaps = [s10.sinkhorn(x, y, epsilon=epsilon, order=order) - exact for epsilon in (1.0, 0.3, 0.05 * order)]
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.05 * exact
    with pytest.raises(RuntimeError, match="5 steps"):
        s10.sinkhorn(x, y, epsilon=0.01, steps=5)


# ---- images ------------------------------------------------------------------------------------------------
def test_small_images_are_means_of_cells():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    assert s10.small_images(images, 28) is images
    framed = torch.zeros(3, 1, 32, 32)
    framed[:, :, 2:30, 2:30] = images
    for size in (16, 8):
        small, side = s10.small_images(images, size), 32 // size
        assert small.shape == (3, 1, size, size) and small.dtype is torch.uint8
        for i, j in ((0, 0), (3, 5), (size - 1, size - 1)):
            cell = framed[:, 0, i * side : (i + 1) * side, j * side : (j + 1) * side]
            assert (small[:, 0, i, j] == cell.mean(dim=(1, 2)).round()).all()


@pytest.mark.parametrize("size", [28, 16, 8])
def test_the_networks_of_dcgan(size):
    generator = s10.Generator(s10.dcgan_generator(size, 4, 6), 6)
    images = generator.sample(50)
    assert images.shape == (50, 1, size, size) and images.min() >= -1 and images.max() <= 1
    for norm, count in (("batch", 1), ("none", 0), ("spectral", 0)):
        judge = s10.dcgan_discriminator(size, 4, norm)
        assert judge(images).shape == (50,)
        assert judge(images[:1]).shape == (1,)
        found = [module for module in judge.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(found) == count and all(module.num_features == 8 for module in found)
        assert all(module.eps == 1e-5 and module.momentum == 0.1 for module in found)
        checks.gradients_reach(lambda x, judge=judge: {"loss": judge(x).sigmoid().mean()}, judge, images)
    with pytest.raises(ValueError, match="spectral, got 'layer'"):
        s10.dcgan_discriminator(size, 4, "layer")


def test_only_batch_norm_makes_a_discriminator_look_at_the_batch():
    images = torch.rand(8, 1, 16, 16)
    for norm in ("none", "spectral"):
        checks.batch_independent(s10.dcgan_discriminator(16, 4, norm).eval(), images)
    with pytest.raises(checks.CheckFailed):
        checks.batch_independent(s10.dcgan_discriminator(16, 4, "batch").train(), images)


def test_spectral_norm_is_in_every_layer():
    judge = s10.dcgan_discriminator(16, 4, "spectral")
    with torch.no_grad():
        for layer in judge:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight = 10 * layer.weight
    for _ in range(200):
        judge(torch.rand(2, 1, 16, 16))
    layers = [layer for layer in judge.eval() if isinstance(layer, nn.Conv2d | nn.Linear)]
    tops = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert len(tops) == 3 and tops == pytest.approx([1, 1, 1], abs=1e-3)


def test_batch_norm_with_its_second_argument_is_another_layer():
    assert nn.BatchNorm2d(4, 0.8).eps == 0.8 and nn.BatchNorm2d(4, momentum=0.8).momentum == 0.8


def test_the_average_follows_weights_and_buffers():
    generator = s10.Generator(s10.dcgan_generator(8, 2, 3), 3)
    average = s10.averaged(generator, decay=0.9)
    average.update_parameters(generator)  # the first time it is a copy
    before = copy.deepcopy(average.module.state_dict())
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1.0)
    generator(64)  # in train mode: the running means move
    average.update_parameters(generator)
    moved = generator.state_dict()
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.9 * before[name] + 0.1 * moved[name]), name
    means = [name for name in before if name.endswith("running_mean")]
    assert any((before[name] != average.module.state_dict()[name]).any() for name in means)


def dcgan_in_small():
    generator = s10.Generator(s10.dcgan_generator(8, 2, 3), 3)
    judge, average = s10.dcgan_discriminator(8, 2, "batch"), s10.averaged(generator)
    losses = s10.players(generator, judge, s10.discriminator_loss, s10.non_saturating_loss)
    moves = [
        train.gradient_step(loss, torch.optim.Adam(network.parameters(), 1e-3))
        for loss, network in zip(losses, (judge, generator), strict=True)
    ]
    step = s10.AveragedStep(train.alternate(judge=moves[0], generator=moves[1]), generator, average)
    return nn.ModuleDict({"generator": generator, "judge": judge, "average": average}), step


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path):
    batches = list((2 * torch.rand(4, 8, 1, 8, 8) - 1).unbind())
    states = []
    for runs in ((3,), (1, 3)):
        for epochs in runs:
            torch.manual_seed(0)
            model, step = dcgan_in_small()
            train.fit(step, batches, epochs, model=model, checkpoint=tmp_path / f"{len(runs)}.pt")
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    average, own = (states[0][f"{name}network.0.weight"] for name in ("average.module.", "generator."))
    assert not torch.equal(average, own)


def test_fid_is_the_formula_on_the_classifiers_features():
    classifier = s10.Classifier(8)
    one, other = torch.rand(1500, 1, 8, 8), torch.rand(1200, 1, 8, 8) ** 2
    features = [classifier.features(x).detach().numpy() for x in (one, other)]
    assert features[0].shape == (1500, 64)
    (m1, c1), (m2, c2) = ((x.mean(0), torch.cov(torch.tensor(x).T).numpy()) for x in features)
    overlap = linalg.eigvals(c1 @ c2).real.clip(0) ** 0.5  # of the root of a product
    exact = ((m1 - m2) ** 2).sum() + c1.trace() + c2.trace() - 2 * overlap.sum()
    assert s10.fid(classifier, one, s10.feature_moments(classifier, other)) == pytest.approx(exact, rel=1e-4)
    assert s10.fid(classifier, one, s10.feature_moments(classifier, one.flip(0))) == pytest.approx(
        0, abs=1e-8
    )
    assert torch.equal(classifier(one[:5]), classifier.head(classifier.features(one[:5])))


@pytest.fixture(scope="module")
def shipped():
    classifiers = nn.ModuleDict({str(size): s10.Classifier(size) for size in (28, 16, 8)})
    return weights.load(classifiers.float(), "seminar10-classifier").eval()


@pytest.mark.parametrize(("size", "least"), [(28, 0.988), (16, 0.983), (8, 0.945)])
def test_the_shipped_classifier_knows_the_test_digits(shipped, size, least):
    held_out = data.load_images("mnist").test
    images = s10.small_images(held_out.images, size).float() / 255
    with torch.no_grad():
        said = torch.cat([shipped[str(size)](part) for part in images.split(1000)]).argmax(dim=1)
        negative = shipped[str(size)](1 - images[:1000]).argmax(dim=1)
    assert least < (said == held_out.labels).float().mean() < least + 0.01
    assert (negative == held_out.labels[:1000]).float().mean() < 0.7  # planted: another range of values


def test_shipped_generators_are_near_the_digits(shipped):
    held_out = s10.small_images(data.load_images("mnist").test.images, 28)[:2000].float() / 255
    test, scores = s10.feature_moments(shipped["28"], held_out), {}
    for kind in ("dcgan", "wgan"):
        generator = s10.Generator(s10.dcgan_generator(28, 16, 64), 64).float()
        weights.load(generator, f"seminar10-{kind}")
        images = (generator.sample(2000) + 1) / 2
        scores[kind] = s10.fid(shipped["28"], images, test)
        assert scores[kind] < 120 < s10.fid(shipped["28"], 1 - images, test)  # planted: black on white
    noise = s10.fid(shipped["28"], torch.rand_like(held_out), test)
    assert scores["dcgan"] < scores["wgan"] < noise / 3
