"""Tests of the steps and of the training loop: against loops written by hand, killed, starved and misled."""

import copy
import doctest
import errno
import math
import os
import pickletools
import random
import resource
import signal
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Normal
from torch.optim import swa_utils
from torch.utils.data import DataLoader, TensorDataset

from dgm_utils import data, train

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class VAE(nn.Module):
    """A small VAE with all that makes a step hard to repeat: noise, dropout and batch statistics."""

    def __init__(self, x_dim=6, latent_dim=2):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(x_dim, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(16, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(nn.Linear(latent_dim, 16), nn.ReLU(), nn.Linear(16, x_dim))

    def loss(self, x):
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        reconstruction = -Normal(self.decoder(z), torch.ones_like(x)).log_prob(x).sum(1).mean()
        kl = (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(1).mean()
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}


class WGAN(nn.ModuleDict):
    """A generator and a critic with gradient penalty, each with its loss."""

    def __init__(self):
        generator = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6))
        super().__init__(
            {"generator": generator, "critic": nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))}
        )

    def fake(self, x):
        return self["generator"](torch.randn(len(x), 3, device=x.device))

    def critic_loss(self, x):
        fake = self.fake(x)
        between = torch.lerp(x, fake, torch.rand(len(x), 1, device=x.device))
        (slope,) = torch.autograd.grad(self["critic"](between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        wasserstein = self["critic"](x).mean() - self["critic"](fake).mean()
        return {"loss": 10 * penalty - wasserstein, "penalty": penalty}

    def generator_loss(self, x):
        return {"loss": -self["critic"](self.fake(x)).mean()}


def examples(n=70, dim=6):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(5))


def batches(n=70, **options):
    return data.Batches(examples(n), **{"batch_size": 16} | options)


def make_vae(seed=0, **options):
    """Return a VAE and its step; the same at every call."""
    torch.manual_seed(seed)
    model = VAE()
    return model, train.gradient_step(model.loss, torch.optim.Adam(model.parameters(), 1e-2), **options)


def make_wgan(seed=0, every=3, **adam):
    torch.manual_seed(seed)
    model = WGAN()
    critic = torch.optim.Adam(model["critic"].parameters(), 1e-2, **adam)
    generator = torch.optim.Adam(model["generator"].parameters(), 1e-2, **adam)
    step = train.alternate(
        critic=train.gradient_step(model.critic_loss, critic),
        generator=(train.gradient_step(model.generator_loss, generator), every),
    )
    return model, step


def assert_same_model(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_same_history(one, other):
    def logged(history):
        return {name: values for name, values in history.items() if name != "seconds"}

    assert logged(one) == logged(other)
    assert [epoch for epoch, _ in one["seconds"]] == [epoch for epoch, _ in other["seconds"]]


def linear_step(model=None, loss=None, **options):
    """Return a step without randomness, on a linear model by default."""
    model = model or nn.Linear(6, 1)
    loss = loss or (lambda x: {"loss": model(x).square().mean()})
    return train.gradient_step(loss, torch.optim.SGD(model.parameters(), 0.1), **options)


# ---------------------------------------------------------------------------------------------------- steps
def test_the_worked_example_in_the_module_runs():
    result = doctest.testmod(train)
    assert result.attempted >= 8 and result.failed == 0


def test_vae_is_bit_identical_to_a_loop_written_by_hand():
    model, step = make_vae()
    history = train.fit(step, batches(), 3, model=model)

    torch.manual_seed(0)
    by_hand = VAE()
    optimizer, losses = torch.optim.Adam(by_hand.parameters(), 1e-2), []
    for _ in range(3):
        for x in batches():
            optimizer.zero_grad()
            loss = by_hand.loss(x)["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert_same_model(model, by_hand)
    assert [value for _, value in history["train/loss"]] == losses


def test_two_players_are_bit_identical_to_a_loop_written_by_hand():
    model, step = make_wgan()
    train.fit(step, batches(), 3, model=model)

    torch.manual_seed(0)
    by_hand = WGAN()
    critic, generator = by_hand["critic"], by_hand["generator"]
    optimizers = [torch.optim.Adam(player.parameters(), 1e-2) for player in (critic, generator)]
    count = 0
    for _ in range(3):
        for x in batches():
            count += 1
            optimizers[0].zero_grad()
            by_hand.critic_loss(x)["loss"].backward()
            optimizers[0].step()
            if count % 3 == 0:
                optimizers[1].zero_grad()
                by_hand.generator_loss(x)["loss"].backward()
                optimizers[1].step()
    assert count == 15
    assert_same_model(model, by_hand)


def test_a_player_leaves_no_gradient_in_the_other():
    model, step = make_wgan(every=1)
    for name, other in (("critic", "generator"), ("generator", "critic")):
        model.zero_grad()
        step.moves[name][0](examples())
        assert all(p.grad is not None for p in model[name].parameters())
        assert all(p.grad is None for p in model[other].parameters())


def test_frozen_and_unreached_parameters_stay():
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 1), "unused": nn.Linear(2, 2)})
    model["a"].requires_grad_(False)
    before = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    step = train.gradient_step(lambda x: {"loss": model["b"](model["a"](x)).square().mean()}, optimizer)
    step(examples())
    for name in ("a", "unused"):
        assert_same_model(model[name], before[name])
    assert not torch.equal(model["b"].weight, before["b"].weight)
    moved = copy.deepcopy(model)
    model["b"].requires_grad_(False)  # frozen in the course of training, its gradient of the last step there
    model["a"].requires_grad_(True)
    step(examples())
    assert_same_model(model["b"], moved["b"])
    assert not torch.equal(model["a"].weight, moved["a"].weight)


def test_clip_is_that_of_torch_and_logs_the_norm_before():
    model, by_hand = nn.Linear(6, 1), nn.Linear(6, 1)
    by_hand.load_state_dict(model.state_dict())
    terms = linear_step(model, clip=0.1)(examples())
    (by_hand(examples()).square().mean()).backward()
    norm = nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
    torch.optim.SGD(by_hand.parameters(), 0.1).step()
    assert norm > 0.1 and torch.equal(terms["grad_norm"], norm)
    assert_same_model(model, by_hand)


def test_infinite_clip_only_logs():
    torch.manual_seed(0)
    one = nn.Linear(6, 1)
    other = copy.deepcopy(one)
    assert linear_step(one, clip=math.inf)(examples())["grad_norm"] > 0
    assert "grad_norm" not in linear_step(other)(examples())
    assert_same_model(one, other)


def test_schedule_counts_batches():
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], gamma=0.5)
    step = train.gradient_step(lambda x: {"loss": 1e-3 * model(x).mean()}, optimizer, schedule=schedule)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        step(examples())
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5]


def test_amp_computes_in_bfloat16():
    model, seen = nn.Linear(6, 1), []

    def loss(x):
        out = model(x)
        seen.append(out.dtype)
        return {"loss": out.float().square().mean()}

    linear_step(model, loss, amp=True)(examples())
    linear_step(model, loss)(examples())
    assert seen == [torch.bfloat16, torch.float32]
    assert model.weight.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(("capability", "cast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_amp_is_float32_on_a_card_without_bfloat16(monkeypatch, capability, cast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    parameter = SimpleNamespace(device=torch.device("cuda", 0), requires_grad=True)
    step = train.gradient_step(None, SimpleNamespace(param_groups=[{"params": [parameter]}]), amp=True)
    assert isinstance(step.cast, torch.autocast) == cast


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [
        (lambda m, x: m(x).mean(), TypeError, "dict of name -> 0-d tensor, got Tensor"),
        (lambda m, x: {"elbo": m(x).mean()}, KeyError, "entry 'loss' to minimise, got .'elbo'"),
        (lambda m, x: {"loss": m(x)}, TypeError, r"'loss'.* 0-d tensor.* got torch.Size\(\[70, 1\]\)"),
        (lambda m, x: {"loss": m(x).mean(), "kl": 0.5}, TypeError, "'kl'.* got float"),
        (lambda m, x: {"loss": m(x).mean().detach()}, ValueError, "receives a gradient"),
        (lambda m, x: {"loss": nn.Linear(6, 1)(x).mean()}, ValueError, "another network's optimizer"),
    ],
)
def test_a_wrong_loss_is_named(loss, error, words):
    model = nn.Linear(6, 1)
    before = copy.deepcopy(model)
    step = linear_step(model, lambda x: loss(model, x))
    with pytest.raises(error, match=words):
        step(examples())
    assert_same_model(model, before)


def test_an_all_frozen_model_is_named():
    model = nn.Linear(6, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        linear_step(model)(examples())


@pytest.mark.parametrize("clip", [0, -1.0, math.nan])
def test_a_clip_that_is_not_positive_is_refused(clip):
    with pytest.raises(ValueError, match=f"above 0, got {clip}"):
        linear_step(clip=clip)


def test_players_take_turns_in_order_and_are_logged_by_name():
    moves = []

    def player(name):
        return lambda batch: moves.append(name) or {"loss": torch.tensor(float(batch))}

    step = train.alternate(critic=player("c"), generator=(player("g"), 2))
    logged = [step(i) for i in range(4)]
    assert moves == ["c", "c", "g", "c", "c", "g"]
    assert [list(terms) for terms in logged] == [["critic/loss"], ["critic/loss", "generator/loss"]] * 2
    assert logged[3]["generator/loss"] == 3.0


@pytest.mark.parametrize("players", [{}, {"a": (print, 0)}, {"a": (print, 1.5)}, {"a": (print, -2)}])
def test_wrong_players_are_refused(players):
    with pytest.raises(ValueError, match="k >= 1"):
        train.alternate(**players)


def test_alternate_resumes_inside_the_cycle():
    model, step = make_wgan(every=3)
    for x in [examples()] * 4:
        step(x)
    resumed, again = make_wgan(seed=1, every=3)
    resumed.load_state_dict(model.state_dict())
    again.load_state_dict(copy.deepcopy(step.state_dict()))
    for player in (step, again):
        torch.manual_seed(2)
        names = [len(player(examples())) for _ in range(2)]
        assert names == [2, 3]  # the generator's turn is the second
    assert_same_model(model, resumed)


def test_states_of_other_players_and_optimizers_are_refused():
    with pytest.raises(ValueError, match=r"\['critic', 'generator'\], got \['a'\]"):
        make_wgan()[1].load_state_dict({"count": 0, "players": {"a": {}}})
    with pytest.raises(ValueError, match=r"\['SGD'\], got that of \['Adam'\]"):
        linear_step().load_state_dict(make_vae()[1].state_dict())


# ----------------------------------------------------------------------------------------------- evaluation
def test_evaluate_weights_examples_and_not_batches():
    x, y = torch.arange(10.0), torch.arange(10.0) ** 2
    parts = data.Batches(x, y, batch_size=4, shuffle=False)
    terms = train.evaluate(lambda batch: {"loss": batch[0].mean(), "square": batch[1].mean()}, parts)
    assert terms == {"loss": 4.5, "square": 28.5}
    assert train.evaluate(lambda batch: {"loss": batch.mean()}, x.split(4)) == {"loss": 4.5}


def test_evaluate_averages_a_term_over_the_batches_that_have_it():
    def loss(batch):
        return {"loss": batch.mean()} | ({"full": batch.mean()} if len(batch) == 4 else {})

    assert train.evaluate(loss, torch.arange(10.0).split(4)) == {"loss": 4.5, "full": 3.5}


def test_evaluate_keeps_no_gradient_and_copies_once(monkeypatch):
    calls, to_host = [], train._to_host
    monkeypatch.setattr(train, "_to_host", lambda values: calls.append(1) or to_host(values))
    model = nn.Linear(6, 1)

    def loss(x):
        assert not torch.is_grad_enabled()
        return {"loss": model(x).mean(), "constant": torch.tensor(2)}

    terms = train.evaluate(loss, examples().split(16))
    assert calls == [1] and all(type(value) is float for value in terms.values())
    assert terms["constant"] == 2.0
    assert terms["loss"] == pytest.approx(model(examples()).mean().item(), rel=1e-5)


def test_evaluate_needs_batches():
    with pytest.raises(ValueError, match="at least one batch"):
        train.evaluate(lambda x: {"loss": x.mean()}, [])


# ------------------------------------------------------------------------------------------------- the loop
def test_history_has_names_epochs_and_values():
    model, step = make_vae()
    history = train.fit(
        step, batches(), 2, model=model, validate=lambda: {"nats": torch.tensor(3.5), "other": 1}
    )
    assert set(history) == {
        "train/loss", "train/reconstruction", "train/kl", "valid/nats", "valid/other", "seconds"
    }  # fmt: skip
    assert [epoch for epoch, _ in history["train/kl"]] == pytest.approx([(i + 1) / 5 for i in range(10)])
    assert history["valid/nats"] == [(1, 3.5), (2, 3.5)] and history.last("valid/other") == 1.0
    seconds = [value for _, value in history["seconds"]]
    assert 0 < seconds[0] < seconds[1]
    with pytest.raises(KeyError, match=r"valid/nats.*got 'valid/loss'"):
        history.last("valid/loss")


def test_no_epochs_change_nothing():
    model, step = make_vae()
    before = copy.deepcopy(model)
    assert train.fit(step, batches(), 0, model=model) == {}
    assert_same_model(model, before)


def test_the_host_is_asked_once_an_epoch(monkeypatch):
    calls, to_host = [], train._to_host
    monkeypatch.setattr(train, "_to_host", lambda values: calls.append(1) or to_host(values))
    train.fit(make_vae()[1], batches(), 3)
    assert len(calls) == 3


def test_any_iterable_with_tuples_of_batches_will_do():
    x = examples()
    seen = []

    def step(batch):
        seen.append(tuple(part.shape for part in batch))
        return {"loss": batch[0].mean()}

    loader = DataLoader(TensorDataset(x, torch.arange(70)), batch_size=35)
    for source in (loader, data.Batches(x, torch.arange(70), batch_size=35), [(x, x[:, 0])]):
        train.fit(step, source, 1)
    assert seen == [((35, 6), (35,))] * 4 + [((70, 6), (70,))]


@pytest.mark.parametrize(("bad", "name"), [(math.nan, "train"), (math.inf, "inf")])
def test_the_first_term_that_is_not_finite_is_named(bad, name):
    count = 0

    def step(batch):
        nonlocal count
        count += 1
        return {"loss": torch.tensor(1.0), "kl": torch.tensor(bad if count >= 8 else 1.0)}

    with pytest.raises(FloatingPointError, match=f"^kl is {bad} at step 3 of epoch 2"):
        train.fit(step, batches(), 5)
    assert count == 10  # seen at the end of that epoch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": -1}, "at least 0, got -1"),
        ({"epochs": 1.5}, "got 1.5"),
        ({"batches": []}, "none in epoch 1"),
        ({"batches": iter([torch.ones(2, 6)])}, "none in epoch 2; pass a list"),
        ({"checkpoint": "x.pt"}, "pass model="),
        (
            {"checkpoint": "x.pt", "model": nn.Linear(6, 1), "step": lambda x: {"loss": x.mean()}},
            "a step with",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = {"step": linear_step(), "batches": [torch.ones(2, 6)], "epochs": 2}
    with pytest.raises(ValueError, match=words):
        train.fit(**usual | arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("result", [torch.tensor(1.0), None, {"loss": 1.0}, {"loss": torch.ones(2)}])
def test_a_wrong_step_is_named(result):
    with pytest.raises(TypeError, match=r"step\(batch\).* 0-d tensor"):
        train.fit(lambda batch: result, [torch.ones(2)], 1)


def test_looking_does_not_change_training():
    """Validation and on_epoch draw from every generator and read the training data themselves."""

    def look(*_):
        draws.append((torch.rand(()), random.random(), np.random.rand(), model.training))
        return train.evaluate(model.loss, source)

    models, draws = [], []
    for looks in ({}, {"validate": look, "on_epoch": look}):
        for seed in (None, 3):
            random.seed(0)
            np.random.seed(0)
            model, step = make_vae()
            source = batches(seed=seed)
            train.fit(step, source, 3, model=model, **looks)
            models.append((model, random.random(), np.random.rand(), torch.rand(())))
    for plain, looked_at in zip(models[:2], models[2:], strict=True):
        assert_same_model(plain[0], looked_at[0])
        assert plain[1:] == looked_at[1:]
    assert len(draws) == 12 and not any(training for *_, training in draws)


def test_every_module_returns_to_its_own_mode():
    model, step = make_vae()
    frozen = model.encoder[1].eval()
    modes = []
    before = frozen.running_mean.clone()
    train.fit(step, batches(), 1, model=model, validate=lambda: modes.append(model.training) or {})
    assert modes == [False] and model.training and model.encoder.training and not frozen.training
    assert torch.equal(frozen.running_mean, before)


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    model, step = make_vae()
    train.fit(step, batches(), 1, model=model.eval())
    other, step = make_vae()
    train.fit(step, batches(), 1, model=other)
    assert_same_model(model, other)


def test_modes_return_when_looking_fails():
    model, step = make_vae()

    def validate():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        train.fit(step, batches(), 1, model=model, validate=validate)
    assert model.training and model.encoder[3].training


def test_on_epoch_sees_the_history_of_its_epoch():
    seen = []

    def on_epoch(epoch, history):
        seen.append((epoch, len(history["train/kl"]), len(history["valid/a"])))

    train.fit(make_vae()[1], batches(), 3, validate=lambda: {"a": 1}, on_epoch=on_epoch)
    assert seen == [(1, 5, 1), (2, 10, 2), (3, 15, 3)]


@pytest.mark.parametrize(
    ("tty", "variable", "shown"),
    [(True, None, True), (False, None, False), (True, "CI", False), (True, "TQDM_DISABLE", False)],
)
def test_progress_is_silent_unless_someone_watches(monkeypatch, capsys, tty, variable, shown):
    for name in ("CI", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: tty, raising=False)
    train.fit(linear_step(), batches(), 2)
    assert ("batch" in capsys.readouterr().err) == shown
    train.fit(linear_step(), batches(), 2, progress=False)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------- the checkpoint
class StopError(Exception):
    """End a training from outside."""


def stop_after(step, count):
    """Return the step, which raises before the update number ``count + 1``."""
    done = 0

    def stopping(batch):
        nonlocal done
        if done == count:
            raise StopError
        done += 1
        return step(batch)

    stopping.state_dict, stopping.load_state_dict = step.state_dict, step.load_state_dict
    return stopping


SOURCES = {
    "batches": batches,
    "seeded batches": lambda: batches(seed=7),
    "list": lambda: list(examples().split(16)),
    "loader": lambda: DataLoader(examples(), batch_size=16, shuffle=True),
    "loader with generator": lambda: DataLoader(
        examples(), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(7)
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("make", [make_vae, make_wgan])
@pytest.mark.parametrize(("stop", "every"), [(5, 1e9), (7, 1e9), (7, 0.0), (10, 0.0), (12, 0.0)])
def test_a_stopped_training_continues_bit_for_bit(tmp_path, make, source, stop, every):
    path = tmp_path / "deep" / "run.pt"

    def draw():
        return {"torch": torch.rand(()), "python": random.random(), "numpy": np.random.rand()}

    options = {"checkpoint": path, "save_every": every, "validate": draw}
    random.seed(0)
    np.random.seed(0)
    model, step = make()
    with pytest.raises(StopError):
        train.fit(stop_after(step, stop), SOURCES[source](), 4, model=model, **options)
    resumed, step = make(seed=9)
    random.seed(9)
    np.random.seed(9)
    history = train.fit(step, SOURCES[source](), 4, model=resumed, **options)

    whole, step = make()
    random.seed(0)
    np.random.seed(0)
    expected = train.fit(step, SOURCES[source](), 4, model=whole, validate=draw)
    assert_same_model(resumed, whole)
    assert_same_history(history, expected)


@pytest.mark.parametrize("schedule", ["CosineAnnealingLR", "OneCycleLR", "LambdaLR", "SequentialLR"])
def test_schedules_survive(tmp_path, schedule):
    module = torch.optim.lr_scheduler
    makers = {
        "CosineAnnealingLR": lambda o: module.CosineAnnealingLR(o, 20),
        "OneCycleLR": lambda o: module.OneCycleLR(o, 0.1, 20),
        "LambdaLR": lambda o: module.LambdaLR(o, lambda count: 1 / (1 + count)),
        "SequentialLR": lambda o: module.SequentialLR(
            o, [module.LinearLR(o), module.ExponentialLR(o, 0.9)], [3]
        ),
    }

    def make():
        torch.manual_seed(0)
        model = VAE()
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        return model, train.gradient_step(model.loss, optimizer, schedule=makers[schedule](optimizer))

    model, step = make()
    train.fit(step, batches(), 2, model=model, checkpoint=tmp_path / "run.pt")
    resumed, step = make()
    train.fit(step, batches(), 4, model=resumed, checkpoint=tmp_path / "run.pt")
    whole, step = make()
    train.fit(step, batches(), 4, model=whole)
    assert_same_model(resumed, whole)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_train as t
path, kill_at, every = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
model, inner = t.make_wgan()
count = 0
def step(batch):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(batch)
step.state_dict, step.load_state_dict = inner.state_dict, inner.load_state_dict
t.train.fit(step, t.batches(), 4, model=model, checkpoint=path, save_every=every)
"""


@pytest.mark.parametrize(("kill_at", "every"), [(11, 1e9), (13, 0.0)], ids=["boundary", "within"])
def test_a_killed_training_continues_bit_for_bit(tmp_path, kill_at, every):
    path = tmp_path / "run.pt"
    code = KILLED.format(tests=os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", code, path, str(kill_at), str(every)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    state = torch.load(path, weights_only=True)
    assert state["progress"][:2] == ((2, 2) if every == 0.0 else (2, 0))

    resumed, step = make_wgan(seed=9)
    history = train.fit(step, batches(), 4, model=resumed, checkpoint=path)
    whole, step = make_wgan()
    assert_same_history(history, train.fit(step, batches(), 4, model=whole))
    assert_same_model(resumed, whole)


def test_more_epochs_continue_and_fewer_return_the_history(tmp_path):
    path = tmp_path / "run.pt"
    model, step = make_vae()
    train.fit(step, batches(), 2, model=model, checkpoint=path)
    longer, step = make_vae()
    history = train.fit(step, batches(), 3, model=longer, checkpoint=path)
    assert len(history["train/loss"]) == 15 and len(history["seconds"]) == 3
    for epochs in (0, 2, 3):
        again, step = make_vae(seed=3)
        assert train.fit(step, batches(), epochs, model=again, checkpoint=path) == history
        assert_same_model(again, longer)


def test_an_interrupt_waits_for_the_step_and_is_saved(tmp_path):
    path = tmp_path / "run.pt"
    whole, step = make_vae()
    expected = train.fit(step, batches(), 3, model=whole)
    model, inner = make_vae()
    count = 0

    def interrupted(batch):
        nonlocal count
        count += 1
        if count == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(batch)

    interrupted.state_dict, interrupted.load_state_dict = inner.state_dict, inner.load_state_dict
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train.fit(interrupted, batches(), 3, model=model, checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(path, weights_only=True)["progress"][:2] == (1, 2)
    history = train.fit(interrupted, batches(), 3, model=model, checkpoint=path)  # the same cell, run again
    assert_same_model(model, whole)
    assert_same_history(history, expected)


def test_an_interrupt_while_looking_is_not_lost(tmp_path):
    model, step = make_vae()
    with pytest.raises(KeyboardInterrupt):
        train.fit(step, batches(), 1, model=model, checkpoint=tmp_path / "run.pt",
                  on_epoch=lambda *_: os.kill(os.getpid(), signal.SIGINT))  # fmt: skip
    assert torch.load(tmp_path / "run.pt", weights_only=True)["progress"][0] == 1


def test_a_second_interrupt_does_not_wait(tmp_path):
    def step(batch):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second interrupt was held back")

    step.state_dict = step.load_state_dict = lambda *_: {}
    with pytest.raises(KeyboardInterrupt):
        train.fit(step, batches(), 1, model=nn.Linear(1, 1), checkpoint=tmp_path / "run.pt")


def trained(path, epochs=2):
    model, step = make_vae()
    train.fit(step, batches(), epochs, model=model, checkpoint=path)
    return model, step


def foreign(path):
    torch.save({"weights": torch.ones(2)}, path)


def pickled(path):
    torch.save({"format": train.FORMAT, "model": VAE()}, path)


@pytest.mark.parametrize(
    "spoil",
    [lambda path: path.write_bytes(path.read_bytes()[:3000]), lambda path: path.write_bytes(b""),
     lambda path: path.write_text("not a checkpoint"), foreign, pickled],
    ids=["truncated", "empty", "text", "foreign", "pickled"],
)  # fmt: skip
def test_a_spoilt_checkpoint_is_one_clear_error(tmp_path, spoil):
    path = tmp_path / "run.pt"
    trained(path)
    spoil(path)
    spoilt = path.read_bytes()
    model, step = make_vae()
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=r"checkpoint .*run.pt.*delete it .* or pass another path"):
        train.fit(step, batches(), 3, model=model, checkpoint=path)
    assert_same_model(model, before)
    assert path.read_bytes() == spoilt


def wider():
    torch.manual_seed(1)
    model = VAE(latent_dim=3)
    return model, train.gradient_step(model.loss, torch.optim.Adam(model.parameters()))


def other_optimizer():
    model = VAE()
    return model, train.gradient_step(model.loss, torch.optim.RMSprop(model.parameters()))


@pytest.mark.parametrize(
    ("make", "source", "words"),
    [
        (wider, batches, r"encoder.4.weight .*\(6, 16\), in the file \(4, 16\)"),
        (make_wgan, batches, r"generator.0.weight .* in the file None"),
        (other_optimizer, batches, r"\['RMSprop'\], got that of \['Adam'\]"),
        (make_vae, lambda: batches(batch_size=10), r"\(70, 16, False\)"),
        (make_vae, lambda: list(examples().split(16)), "list"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(tmp_path, make, source, words):
    path = tmp_path / "run.pt"
    trained(path)
    model, step = make()
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError, match=f"(?s)run.pt.*{words}.*delete it"):
        train.fit(step, source(), 3, model=model, checkpoint=path)
    assert_same_model(model, before)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    model, step = trained(path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"one before is kept: No space left.*run.pt") as caught:
            train.fit(step, batches(), 3, model=model, checkpoint=path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run.pt"]
    resumed, step = make_vae()
    train.fit(step, batches(), 3, model=resumed, checkpoint=path)
    whole, step = make_vae()
    train.fit(step, batches(), 3, model=whole)
    assert_same_model(resumed, whole)


def test_a_file_that_cannot_grow_keeps_the_checkpoint_before(tmp_path):
    """As above with a real limit, that of the process on the size of its files."""
    path = tmp_path / "run.pt"
    model, step = trained(path)
    before = path.read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OSError, match="one before is kept"):
            train.fit(step, batches(), 3, model=model, checkpoint=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_is_never_half_written(tmp_path, monkeypatch):
    """At the moment of the exchange the new file is whole and the old one is still there."""
    path, replace, seen = tmp_path / "run.pt", os.replace, []

    def watch(source, target):
        seen.append(torch.load(source, weights_only=True)["progress"][:2])
        assert len(seen) == 1 or torch.load(target, weights_only=True)["progress"][:2] == seen[-2]
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    trained(path, epochs=3)
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_a_training_that_diverged_is_not_saved(tmp_path):
    path = tmp_path / "run.pt"
    model, bad = nn.Linear(6, 1), torch.ones(16, 6)
    bad[8:] = math.nan
    source = data.Batches(bad, batch_size=4, shuffle=False)
    with pytest.raises(FloatingPointError, match="loss is nan at step 3 of epoch 1"):
        train.fit(linear_step(model), source, 3, model=model, checkpoint=path, save_every=0.0)
    assert torch.load(path, weights_only=True)["progress"][:2] == (0, 2)


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(part) for pair in value.items() for part in pair)
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    path = tmp_path / "run.pt"
    trained(path)
    assert plain(torch.load(path, weights_only=True))
    with zipfile.ZipFile(path) as archive:
        program = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    names = {argument for opcode, argument, _ in pickletools.genops(program) if opcode.name == "GLOBAL"}
    assert {name.split()[0] for name in names} == {"torch", "torch._utils", "collections"}


def test_what_cannot_be_loaded_is_found_before_training(tmp_path):
    model, step = make_vae()
    step.optimizer.param_groups[0]["lr"] = np.float64(0.01)  # loads only as a pickle
    updates = []
    with pytest.raises(RuntimeError, match="cannot continue from checkpoint"):
        train.fit(stop_after(step, 0), batches(), 1, model=model, checkpoint=tmp_path / "run.pt",
                  on_epoch=lambda *_: updates.append(1))  # fmt: skip
    assert not updates


# --------------------------------------------------------------------------------- the average of the weights
@pytest.mark.parametrize("way", ["on_epoch", "step"])
def test_averaged_weights_survive(tmp_path, way):
    def make():
        model, inner = make_vae()
        average = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))

        def step(batch):
            terms = inner(batch)
            average.update_parameters(model)
            return terms

        step.state_dict, step.load_state_dict = inner.state_dict, inner.load_state_dict
        networks = nn.ModuleDict({"model": model, "average": average})
        if way == "step":
            return networks, step, {}
        return networks, inner, {"on_epoch": lambda *_: average.update_parameters(model)}

    path = tmp_path / "run.pt"
    networks, step, options = make()
    train.fit(step, batches(), 2, model=networks, checkpoint=path, **options)
    resumed, step, options = make()
    train.fit(step, batches(), 4, model=resumed, checkpoint=path, **options)
    whole, step, options = make()
    train.fit(step, batches(), 4, model=whole, **options)
    assert_same_model(resumed, whole)
    assert resumed["average"].n_averaged == (20 if way == "step" else 4)
    assert not torch.equal(resumed["average"].module.decoder[0].weight, resumed["model"].decoder[0].weight)


# ----------------------------------------------------------------------------------- a step as a CUDA graph
CAPTURABLE = {"fused": True, "capturable": True}


def test_graph_on_a_cpu_warns_once_and_does_nothing():
    torch.manual_seed(0)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, **CAPTURABLE)
    with pytest.warns(UserWarning, match="on cpu it does nothing") as caught:
        step = train.gradient_step(model.loss, optimizer, graph=True)
        train.fit(step, batches(), 2)
    assert len(caught) == 1 and caught[0].filename == __file__
    torch.manual_seed(0)
    other = VAE()
    optimizer = torch.optim.Adam(other.parameters(), 1e-2, fused=True)
    train.fit(train.gradient_step(other.loss, optimizer), batches(), 2)
    assert_same_model(model, other)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [(torch.optim.Adam, "Adam"), (torch.optim.SGD, "SGD"), (torch.optim.RMSprop, "RMSprop")],
)
def test_graph_refuses_an_optimizer_that_is_not_capturable(optimizer, name):
    step = train.gradient_step(None, optimizer(nn.Linear(6, 1).parameters()))
    with pytest.raises(ValueError, match=f"fused=True, capturable=True.*got {name} without"):
        train._Recorded(step, CPU)


class Tape:
    """Stand in for CUDA: a recording that is run again, with the same static tensors, to replay it."""

    def __init__(self):
        self.recordings = self.replays = 0

    def __call__(self, work, device):
        self.recordings += 1
        for _ in range(train.WARM_UP):
            work()
        assert not Normal(0.0, 1.0)._validate_args
        result = work()

        def replay():
            self.replays += 1
            with torch.no_grad():
                result.copy_(again)

        def run():
            nonlocal again
            again = work()
            replay()

        again = None
        return result, run


@pytest.fixture
def tape(monkeypatch):
    tape = Tape()
    monkeypatch.setattr(train, "_record_on_cuda", tape)
    return tape


def recorded_vae(seed=0, schedule=None, **options):
    torch.manual_seed(seed)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, **CAPTURABLE)
    options["schedule"] = schedule and schedule(optimizer)
    step = train.gradient_step(model.loss, optimizer, **options)
    step.run = train._Recorded(step, CPU)
    return model, step


def eager_vae(seed=0, schedule=None, **options):
    torch.manual_seed(seed)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    return model, train.gradient_step(
        model.loss, optimizer, schedule=schedule and schedule(optimizer), **options
    )


def assert_close_model(one, other, tolerance=1e-5):
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)


@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"schedule": cosine}, {"amp": True}])
def test_a_recorded_step_equals_the_eager_one(tape, options):
    """The rollback, static inputs and outputs, and rates as tensors, without the graph itself."""
    recorded, step = recorded_vae(**options)
    history = train.fit(step, batches(), 3, model=recorded)
    eager, step = eager_vae(**options)
    expected = train.fit(step, batches(), 3, model=eager)
    assert tape.recordings == 1 and tape.replays == 11  # of 15: the first, and the short one of each epoch
    assert_close_model(recorded, eager)
    assert history.keys() == expected.keys()
    for name in expected:
        if name != "seconds":
            np.testing.assert_allclose(history[name], expected[name], rtol=1e-4, err_msg=name)


def test_recording_changes_nothing_but_the_gradients(tape):
    model, step = recorded_vae()
    step(examples(16))
    before, state = copy.deepcopy(model), copy.deepcopy(step.state_dict())
    generators = [copy.deepcopy(part) for part in train._random_state().values()]
    step.run.record(examples(16), (examples(16),))
    assert_same_model(model, before)
    assert str(step.state_dict()) == str(state)
    assert str([*train._random_state().values()]) == str(generators)
    assert Distribution._validate_args is True
    assert model.encoder[1] in step.run.modules and model.decoder in step.run.modules


def test_a_failed_recording_changes_nothing(tape, monkeypatch):
    model, step = recorded_vae()
    step(examples(16))
    before = copy.deepcopy(model)

    def fails(work, device):
        work()
        raise RuntimeError("capture")

    monkeypatch.setattr(train, "_record_on_cuda", fails)
    with pytest.raises(RuntimeError, match="capture"):
        step(examples(16))
    assert_same_model(model, before)
    assert Distribution._validate_args is True


def test_terms_are_copied_out_of_the_static_buffers(tape):
    _, step = recorded_vae()
    kept = [step(examples(16)) for _ in range(4)]
    values = [terms["loss"].item() for terms in kept]
    step(examples(16) + 5)
    assert [terms["loss"].item() for terms in kept] == values and len(set(values)) == 4


def test_a_shape_is_recorded_when_it_comes_twice_in_a_row(tape):
    _, step = recorded_vae()
    counts = []
    for size in (16, 6, 16, 16, 6, 16, 6, 6, 6, 16, 16):
        step(examples(size))
        counts.append((tape.recordings, tape.replays))
    assert counts == [
        (0, 0), (0, 0), (0, 0), (1, 1), (1, 1), (1, 2), (1, 2), (2, 3), (2, 4), (2, 4), (3, 5)
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["mode", "optimizer", "frozen", "storage"])
def test_what_is_exchanged_is_recorded_anew(tape, change):
    model, step = recorded_vae()
    for _ in range(3):
        step(examples(16))
    assert (tape.recordings, tape.replays) == (1, 2)
    if change == "mode":
        model.encoder[3].eval()
    elif change == "optimizer":
        step.load_state_dict(copy.deepcopy(step.state_dict()))
    elif change == "frozen":
        model.decoder[0].requires_grad_(False)
    else:
        model.decoder[0].weight.data = model.decoder[0].weight.data.clone()
    for _ in range(3):
        step(examples(16))
    assert (tape.recordings, tape.replays) == (2, 4)


def test_a_rate_set_by_hand_is_followed(tape):
    model, step = recorded_vae()
    for _ in range(3):
        step(examples(16))
    step.optimizer.param_groups[0]["lr"] = 0.0
    before = model.decoder[0].weight.clone()
    for _ in range(3):
        step(examples(16))
    assert torch.equal(model.decoder[0].weight, before)


def test_a_recorded_training_resumes(tape, tmp_path):
    model, step = recorded_vae()
    with pytest.raises(StopError):
        train.fit(
            stop_after(step, 7), batches(), 3, model=model, checkpoint=tmp_path / "run.pt", save_every=0.0
        )
    resumed, step = recorded_vae(seed=4)
    train.fit(step, batches(), 3, model=resumed, checkpoint=tmp_path / "run.pt")
    whole, step = eager_vae()
    train.fit(step, batches(), 3, model=whole)
    assert_close_model(resumed, whole)


def test_recorded_players_equal_eager_ones(tape):
    recorded, step = make_wgan(**CAPTURABLE)
    for player, _ in step.moves.values():
        player.run = train._Recorded(player, CPU)
    train.fit(step, batches(), 4, model=recorded)
    eager, step = make_wgan(fused=True)
    train.fit(step, batches(), 4, model=eager)
    assert tape.recordings == 2
    assert_close_model(recorded, eager)


def test_a_tuple_of_tensors_is_recorded(tape):
    model = nn.Linear(6, 1)
    optimizer = torch.optim.Adam(model.parameters(), **CAPTURABLE)
    step = train.gradient_step(lambda b: {"loss": (model(b[0])[:, 0] - b[1]).square().mean()}, optimizer)
    step.run = train._Recorded(step, CPU)
    other = copy.deepcopy(model)
    eager = train.gradient_step(
        lambda b: {"loss": (other(b[0])[:, 0] - b[1]).square().mean()},
        torch.optim.Adam(other.parameters(), fused=True),
    )
    for x in batches(n=64, seed=1):
        torch.testing.assert_close(step((x, x[:, 0]))["loss"].float(), eager([x, x[:, 0]])["loss"])
    assert tape.replays == 3


# The same on a GPU. Tolerance: kernels and their order may differ between eager and replayed updates; over
# these 15 updates float32 rounding grows to well below 1e-3 relative to weights of order 1.
def on_gpu(make, **options):
    model, step = make(**options)
    return model, step, data.Batches(examples().cuda(), batch_size=16)


def gpu_vae(graph, schedule=None, seed=0, **options):
    torch.manual_seed(seed)
    model = VAE().cuda()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, **CAPTURABLE if graph else {"fused": True})
    options["schedule"] = schedule and schedule(optimizer)
    return model, train.gradient_step(model.loss, optimizer, graph=graph, **options)


def gpu_wgan(graph):
    torch.manual_seed(0)
    model = WGAN().cuda()
    players = {}
    for name, loss, every in (("critic", model.critic_loss, 1), ("generator", model.generator_loss, 3)):
        adam = torch.optim.Adam(model[name].parameters(), 1e-2, **CAPTURABLE if graph else {"fused": True})
        players[name] = (train.gradient_step(loss, adam, graph=graph), every)
    return model, train.alternate(**players)


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("options", [{}, {"clip": 0.5}, {"schedule": cosine}])
def test_a_graph_equals_the_eager_step(options):
    recorded, step, source = on_gpu(gpu_vae, graph=True, **options)
    history = train.fit(step, source, 3, model=recorded)
    assert step.run.recorded is not None
    eager, step, source = on_gpu(gpu_vae, graph=False, **options)
    expected = train.fit(step, source, 3, model=eager)
    assert_close_model(recorded, eager, 1e-3)
    np.testing.assert_allclose(history["train/loss"], expected["train/loss"], rtol=1e-3)


@pytest.mark.cuda
@needs_cuda
def test_graphs_of_two_players_equal_eager_ones():
    recorded, step, source = on_gpu(gpu_wgan, graph=True)
    train.fit(step, source, 6, model=recorded)
    assert all(player.run.recorded is not None for player, _ in step.moves.values())
    eager, step, source = on_gpu(gpu_wgan, graph=False)
    train.fit(step, source, 6, model=eager)
    assert_close_model(recorded, eager, 1e-3)


@pytest.mark.cuda
@needs_cuda
def test_a_graph_resumes(tmp_path):
    model, step, source = on_gpu(gpu_vae, graph=True)
    with pytest.raises(StopError):
        train.fit(stop_after(step, 7), source, 3, model=model, checkpoint=tmp_path / "a.pt", save_every=0.0)
    resumed, step, source = on_gpu(gpu_vae, graph=True, seed=4)
    train.fit(step, source, 3, model=resumed, checkpoint=tmp_path / "a.pt")
    eager, step, source = on_gpu(gpu_vae, graph=False)
    train.fit(step, source, 3, model=eager)
    assert_close_model(resumed, eager, 1e-3)


@pytest.mark.cuda
@needs_cuda
def test_a_graph_draws_new_noise_and_follows_the_mode():
    model, step, _ = on_gpu(gpu_vae, graph=True)
    x = examples(16).cuda()
    losses = {step(x)["loss"].item() for _ in range(5)}
    assert len(losses) == 5
    model.eval()
    before = model.encoder[1].running_mean.clone()
    for _ in range(4):
        step(x)
    assert torch.equal(model.encoder[1].running_mean, before)


@pytest.mark.cuda
@needs_cuda
def test_what_cannot_be_recorded_is_named():
    model = nn.Linear(6, 1).cuda()
    optimizer = torch.optim.Adam(model.parameters(), **CAPTURABLE)

    def loss(x):
        out = model(x).mean()
        return {"loss": out if out.item() > 0 else -out}

    step = train.gradient_step(loss, optimizer, graph=True)
    step(examples(16).cuda())
    with pytest.raises(RuntimeError, match=r"could not record.*\.item\(\).*graph=False"):
        step(examples(16).cuda())
