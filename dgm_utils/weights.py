"""Weights that ship with the package: what two minutes of two cores cannot train.

Each is a file of safetensors beside this module, made by a notebook in its ``long`` profile.
"""

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

__all__ = ["load", "save"]

FOLDER = Path(__file__).parent / "weights"


def load(model: nn.Module, name: str) -> nn.Module:
    """Fill ``model`` with the weights ``name``, "seminar2-pixelcnn" say, and return it.

    Its device and precision stay: weights are stored in half precision where that changes no digit that is
    shown. A model that is refused is unchanged.

    Raises:
        FileNotFoundError: for an unknown name, with those that there are.
        RuntimeError: if the file is damaged, or its names or shapes are not the model's.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
        raise FileNotFoundError(f"no weights {name!r} in the package: expected one of {there}")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise RuntimeError(f"{path} is damaged ({error}): install the package again") from error
    # Compared before anything is copied: load_state_dict copies what fits, and raises afterwards.
    ours, theirs = ({(key, tuple(x.shape)) for key, x in d.items()} for d in (model.state_dict(), stored))
    if ours != theirs:
        differ = f"the model has {sorted(ours - theirs)[:3]}, the file {sorted(theirs - ours)[:3]}"
        raise RuntimeError(f"the weights {name!r} do not fit {type(model).__name__}: first, {differ}")
    model.load_state_dict(stored)
    return model


def save(model: nn.Module, name: str) -> None:
    """Write the weights ``name`` where the environment variable ``DGM_WEIGHTS`` names a folder; else nothing.

    Real numbers are stored in half precision; integers, a permutation say, as they are.
    """
    if folder := os.environ.get("DGM_WEIGHTS"):
        state = {key: x.half() if x.is_floating_point() else x for key, x in model.state_dict().items()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file({key: x.contiguous() for key, x in state.items()}, Path(folder) / f"{name}.safetensors")
