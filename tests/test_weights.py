"""Weights that ship with the package: what is loaded, and what is refused."""

import hashlib
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dgm_utils import weights
from tools import weights as make_weights

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
    loaded = weights.load(Model(), "week1-model").state_dict()
    assert torch.equal(loaded["order"], stored.order)
    assert torch.equal(loaded["layer.weight"], stored.layer.weight.half().float())


def test_a_notebook_that_makes_weights_reads_its_own_first_and_others_from_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "package")
    for folder, value in (("package", 1), ("made", 2)):
        monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path / folder))
        weights.save(Model(), "both", of=value)
    monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path / "package"))
    weights.save(Model(), "of another seminar", of=1)
    monkeypatch.setenv("DGM_WEIGHTS", str(tmp_path / "made"))
    assert weights.facts("both") == {"of": 2.0}
    assert weights.facts("of another seminar") == {"of": 1.0}


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


LIMIT_OF_ALL = 15_000_000  # bytes: every student installs them


def test_shipped_weights_are_small_recorded_and_part_of_the_package():
    folder, record = weights.FOLDER, ROOT / "results" / "weights.json"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*")}
    assert all(size <= make_weights.LIMIT for size in sizes.values()) and sum(sizes.values()) <= LIMIT_OF_ALL
    assert make_weights.record() == (json.loads(record.read_text()) if record.exists() else {})
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["dgm_utils"]
    packaged = {path for pattern in patterns for path in (ROOT / "dgm_utils").glob(pattern)}
    # Also before there are any: a file that the patterns miss would not be installed.
    assert any(fnmatch("weights/seminar1-made.safetensors", pattern) for pattern in patterns)
    assert {folder / name for name in sizes} <= packaged


# A notebook that is killed when it first writes its checkpoint, and goes on from it.
KILLED_ONCE = """
from pathlib import Path
resumed = Path("model.pt").exists()
Path("model.pt").touch()
assert resumed, "killed"
import torch
from dgm_utils import results, weights
weights.save(torch.nn.Linear(4, SIZE), "tiny-model", resumed=resumed)
_ = results.table([results.row("tiny", 1.5, ("NLL", "nats"))], notebook="tiny", profile=PROFILE)
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Return a function that makes the weights of a notebook with a layer of some size: (status, shipped)."""
    shipped, kept = tmp_path / "shipped", tmp_path / "results"
    shipped.mkdir()
    (shipped / "tiny-old.safetensors").write_bytes(b"of the same notebook")
    (shipped / "other-model.safetensors").write_bytes(b"of another")
    monkeypatch.setenv("DGM_WEIGHTS", "to be replaced")  # and put back
    monkeypatch.setattr(weights, "FOLDER", shipped)
    monkeypatch.setattr(make_weights, "FOLDER", shipped)
    monkeypatch.setattr(make_weights, "RESULTS", kept)

    def make(size):
        cells = [nbformat.v4.new_code_cell(source) for source in ("PROFILE = 'quick'", KILLED_ONCE)]
        cells[0].metadata["tags"] = ["parameters"]
        cells[1].source = cells[1].source.replace("SIZE", str(size))
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "tiny.ipynb")
        status = make_weights.main([str(tmp_path / "tiny.ipynb"), "--out", str(tmp_path / "build")])
        return status, sorted(path.stem for path in shipped.iterdir()), kept

    return make


@pytest.mark.slow
def test_weights_are_made_by_the_notebook_and_kept_with_their_figures(tiny, capsys):
    before = ["other-model", "tiny-old"]
    assert tiny(3)[:2] == (1, before) and "killed" in capsys.readouterr().err
    status, there, kept = tiny(3)
    assert (status, there) == (0, ["other-model", "tiny-model"])
    assert weights.facts("tiny-model") == {"resumed": 1}
    (row,) = json.loads((kept / "tiny.long.json").read_text())
    assert (row["model"], row["profile"]) == ("tiny", "long")
    recorded = json.loads((kept / "weights.json").read_text())
    content = (weights.FOLDER / "tiny-model.safetensors").read_bytes()
    assert recorded["tiny-model"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sorted(recorded) == there
    assert tiny(3)[:2] == (1, there) and "killed" in capsys.readouterr().err  # a finished one starts afresh


@pytest.mark.slow
def test_weights_that_are_too_large_are_refused(tiny, capsys):
    tiny(250_000)
    assert tiny(250_000)[:2] == (1, ["other-model", "tiny-old"])
    assert re.search(
        r"at most 2,000,000 bytes .*'tiny-model.safetensors': '2,500,\d+ bytes'", capsys.readouterr().err
    )
