"""What the test files share."""

import os

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "agg")  # no test opens a window


def pytest_collection_modifyitems(config, items):
    """Skip what this machine cannot run, and what is only built when it is asked for, with the reason."""
    no_device = pytest.mark.skip(reason="needs a CUDA device")
    not_asked = pytest.mark.skip(reason="builds an environment of 4 GB; run it with: make colab")
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_device)
        if "colab" in item.keywords and "colab" not in config.option.markexpr:
            item.add_marker(not_asked)
