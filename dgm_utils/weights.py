"""Weights that ship with the package: what two minutes of two cores cannot train.

Each is a file of safetensors beside this module, made by a notebook in its ``long`` profile.
"""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

__all__ = ["load"]

FOLDER = Path(__file__).parent / "weights"


def load(model: nn.Module, name: str) -> nn.Module:
    """Fill ``model`` with the weights ``name``, "seminar2-pixelcnn" say, and return it; its device stays.

    Weights are stored in half precision where that changes no digit that is shown, and converted.

    Raises:
        FileNotFoundError: for an unknown name, with those that there are.
        RuntimeError: if the file is damaged, or its names or shapes are not the model's.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = sorted(file.stem for file in FOLDER.glob("*.safetensors"))
        raise FileNotFoundError(f"no weights {name!r} in the package: expected one of {there}")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise RuntimeError(f"the weights {name!r} do not fit {type(model).__name__}: {error}") from error
    return model
