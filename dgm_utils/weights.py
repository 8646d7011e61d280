"""Weights that ship with the package: what two minutes of two cores cannot train.

Each is a file of safetensors beside this module, made by a notebook in its ``long`` profile.
"""

import os
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["facts", "load", "save"]

FOLDER = Path(__file__).parent / "weights"


def load(model: nn.Module, name: str) -> nn.Module:
    """Fill ``model`` with the weights ``name``, "seminar2-pixelcnn" say, and return it.

    Its device and precision stay: weights are stored in half precision where that changes no digit that is
    shown. A model that is refused is unchanged.

    Raises:
        FileNotFoundError: for an unknown name, with those that there are.
        RuntimeError: if the file is damaged, or its names or shapes are not the model's.
    """
    stored, _ = _read(name)
    # Compared before anything is copied: load_state_dict copies what fits, and raises afterwards.
    ours, theirs = ({(key, tuple(x.shape)) for key, x in d.items()} for d in (model.state_dict(), stored))
    if ours != theirs:
        differ = f"the model has {sorted(ours - theirs)[:3]}, the file {sorted(theirs - ours)[:3]}"
        raise RuntimeError(f"the weights {name!r} do not fit {type(model).__name__}: first, {differ}")
    model.load_state_dict(stored)
    return model


def facts(name: str) -> dict[str, float]:
    """Return the numbers that `save` was given with the weights ``name``, ``seconds`` of training say.

    Raises:
        FileNotFoundError: for an unknown name, with those that there are.
        RuntimeError: if the file is damaged.
    """
    return _read(name)[1]


def _read(name: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return tensors and facts of a file of the package, or of the folder that ``save`` writes to."""
    # A notebook that makes weights reads what it has made, and those of other seminars from the package.
    folders = (Path(os.environ.get("DGM_WEIGHTS") or FOLDER), FOLDER)
    path = next((file for folder in folders if (file := folder / f"{name}.safetensors").is_file()), None)
    if path is None:
        there = sorted({file.stem for folder in folders for file in folder.glob("*.safetensors")})
        raise FileNotFoundError(f"no weights {name!r} in {folders[0]}: expected one of {there}")
    try:
        with safe_open(path, "pt") as file:
            facts = {key: float(value) for key, value in (file.metadata() or {}).items()}
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
    except SafetensorError as error:
        raise RuntimeError(f"{path} is damaged ({error}): install the package again") from error


def save(model: nn.Module, name: str, **facts: float) -> None:
    """Write the weights ``name`` where the environment variable ``DGM_WEIGHTS`` names a folder; else nothing.

    Real numbers are stored in half precision; integers, a permutation say, as they are. ``facts`` are numbers
    that belong to them, for `facts` to read: ``save(model, "seminar2-pixelcnn", seconds=2400, nats=84.1)``.
    """
    if folder := os.environ.get("DGM_WEIGHTS"):
        state = {key: x.half() if x.is_floating_point() else x for key, x in model.state_dict().items()}
        path = Path(folder) / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        header = {key: str(float(value)) for key, value in facts.items()}  # it holds strings only
        save_file({key: x.contiguous() for key, x in state.items()}, path, header)
