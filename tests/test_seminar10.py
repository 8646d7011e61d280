"""Sinkhorn's algorithm against POT and the exact distance. It waits for seminar 10."""

import math

import ot
import pytest
import torch

from dgm_utils import metrics
from seminars.seminar10.sinkhorn import sinkhorn


@pytest.mark.parametrize("order", [1, 2])
def test_sinkhorn(order):
    torch.manual_seed(0)
    x, y = torch.randn(30, 2, requires_grad=True), 1 + torch.randn(20, 2)
    cost = ot.dist(x.detach().double().numpy(), y.double().numpy(), "euclidean") ** order
    options = {"method": "sinkhorn_log", "numItermax": 10_000, "stopThr": 1e-12}
    theirs = float(ot.sinkhorn2(ot.unif(30), ot.unif(20), cost, reg=0.3, **options)) ** (1 / order)
    assert sinkhorn(x, y, epsilon=0.3, order=order) == pytest.approx(theirs, rel=1e-6)
    exact = ot.emd2(ot.unif(30), ot.unif(20), cost) ** (1 / order)
    gaps = [sinkhorn(x, y, epsilon=epsilon, order=order) - exact for epsilon in (1.0, 0.3, 0.05 * order)]
    assert gaps[0] > gaps[1] > gaps[2] > 0 and gaps[2] < 0.05 * exact
    same = torch.cat([y, y[:10]])  # of one size: the package's own exact distance is the limit
    assert sinkhorn(x, same, epsilon=0.02) == pytest.approx(metrics.wasserstein(x, same), rel=0.05)


def test_what_does_not_converge_or_fit_is_refused():
    x, y = torch.randn(30, 2), torch.randn(20, 2)
    with pytest.raises(RuntimeError, match="5 steps"):
        sinkhorn(x, y, epsilon=0.01, steps=5)
    hole = x.clone()
    hole[3, 1] = math.nan
    refused = [((x, y[:, :1]), {}, r"\(30, 2\) and \(20, 1\)"), ((x, y[:0]), {}, r"\(0, 2\)")]
    refused += [((x[:, 0], y[:, 0]), {}, r"\(N, D\)"), ((hole, y), {}, "x: 1 of 60 values are NaN")]
    refused += [((x, y), {"epsilon": 0}, "got 0 and 1"), ((x, y), {"order": 0.5}, "got 1.0 and 0.5")]
    for arguments, options, message in refused:
        with pytest.raises(ValueError, match=message):
            sinkhorn(*arguments, **{"epsilon": 1.0} | options)
