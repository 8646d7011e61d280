"""Weights that ship with the package: what is loaded, and what is refused."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dgm_utils import weights

ROOT = Path(__file__).resolve().parent.parent


class Model(nn.Module):
    """A layer, and a permutation in a buffer of integers."""

    def __init__(self, inputs=3, outputs=4):
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)
        self.register_buffer("order", torch.randperm(5))


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """Return a function that stores a model's weights under a name; give the package an empty folder."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    return lambda name, state: save_file(state, tmp_path / f"{name}.safetensors")


def half(model):
    return {name: x.half() if x.is_floating_point() else x for name, x in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_half_precision_is_converted_and_the_model_keeps_its_own(ship, dtype, device):
    stored, model = Model(), Model().to(device, dtype)
    ship("week1-model", half(stored))
    before = [*model.parameters()]
    assert weights.load(model, "week1-model") is model
    assert all(
        new is old for new, old in zip(model.parameters(), before, strict=True)
    )  # an optimizer's still
    assert model.layer.weight.dtype == dtype and model.layer.weight.device.type == device
    assert model.layer.weight.requires_grad
    for name, value in half(stored).items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), value, rtol=0, atol=0, check_dtype=False)


# What is loaded into a model of 3 inputs, and what the refusal must name: the model's side and the file's.
RENAMED = {name.replace("layer", "net"): x for name, x in half(Model()).items()}
REFUSED = {
    "another size": (half(Model(2)), ["('layer.weight', (4, 3))", "('layer.weight', (4, 2))"]),
    "another name": (RENAMED, ["'layer.weight'", "'net.weight'"]),
    "a name too few": ({"layer.bias": torch.ones(4)}, ["'layer.weight'", "the file []"]),
    "a name too many": ({**half(Model()), "scale": torch.ones(2)}, ["the model has []", "('scale', (2,))"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_weights_of_another_model_are_refused_and_nothing_is_copied(ship, name):
    (stored, words), model = REFUSED[name], Model()
    ship("other", stored)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="'other' do not fit Model") as refusal:
        weights.load(model, "other")
    assert all(word in str(refusal.value) for word in words), refusal.value
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_unknown_name_lists_what_is_there(ship):
    for name in ("week2-b", "week1-a"):
        ship(name, half(Model()))
    with pytest.raises(FileNotFoundError, match=r"'week1-b'.*\['week1-a', 'week2-b'\]"):
        weights.load(Model(), "week1-b")


@pytest.mark.parametrize("length", [0, 7, 50, -1], ids=["empty", "no length", "no header", "cut at the end"])
def test_a_damaged_file_is_named(ship, tmp_path, length):
    ship("broken", half(Model()))
    path = tmp_path / "broken.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RuntimeError, match=r"broken.safetensors is damaged .*install"):
        weights.load(Model(), "broken")


def test_weights_are_saved_only_where_they_are_asked_for(tmp_path, monkeypatch):
    stored = Model()
    weights.save(stored, "week1-model")
    monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path / "made"))
    weights.save(stored, "week1-model")
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["week1-model.safetensors"]
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "made")
    loaded = weights.load(Model(), "week1-model").state_dict()
    assert torch.equal(loaded["order"], stored.order)
    assert torch.equal(loaded["layer.weight"], stored.layer.weight.half().float())


def test_facts_are_the_numbers_that_were_saved_with_the_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights.save(Model(), "told", seconds=2400, nats=torch.tensor(84.125))
    weights.save(Model(), "silent")
    assert weights.facts("told") == {"seconds": 2400.0, "nats": 84.125}
    assert weights.facts("silent") == {}
    assert isinstance(weights.load(Model(), "told"), Model)
    with pytest.raises(FileNotFoundError, match=r"'other'.*\['silent', 'told'\]"):
        weights.facts("other")
    with pytest.raises((TypeError, ValueError), match="two thousand"):
        weights.save(Model(), "words", seconds="two thousand")


LIMIT, LIMIT_OF_ALL = 2_000_000, 15_000_000  # bytes: every student installs them all


def test_shipped_weights_are_small_and_part_of_the_package():
    folder, project = weights.FOLDER, ROOT / "pyproject.toml"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*")}
    assert all(size <= LIMIT for size in sizes.values()) and sum(sizes.values()) <= LIMIT_OF_ALL, sizes
    patterns = tomllib.loads(project.read_text())["tool"]["setuptools"]["package-data"]["dgm_utils"]
    packaged = {path for pattern in patterns for path in (ROOT / "dgm_utils").glob(pattern)}
    # Also before there are any: a file that the patterns miss would not be installed.
    assert fnmatch("weights/seminar1-made.safetensors", next(p for p in patterns if "weights" in p))
    assert {folder / name for name in sizes} <= packaged
