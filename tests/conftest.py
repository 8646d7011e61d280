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


@pytest.fixture
def double():
    """Compute in float64 from a fixed seed."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
