"""Softmax over the channels where the case table does not reach: scores far from zero."""

from __future__ import annotations

import numpy as np
import pytest

from clconv.device import Device
from clconv.reference import Case, Values
from clconv.selftest import compute, differences


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_scores_far_from_zero(device: Device, offset: float) -> None:
    """Powers neither overflow nor all vanish, nor do the zeros behind the channels count as the largest."""
    case = Case("far", "Softmax", {}, ((2, 21, 3, 2),))
    drawn = case.values()
    moved = (drawn.inputs[0] + offset).astype(np.float32).astype(np.float64)
    values = Values([moved], drawn.params, drawn.state, drawn.dy)
    got = compute(case, values, device)
    assert np.allclose(got.y.sum(axis=1), 1, atol=1e-6)
    assert all(found.share <= 1 for found in differences(case, values, got))
