"""The case table on every working device."""

import pytest

from clconv import reference
from clconv.nn.base import LAYERS
from clconv.selftest import compute, same_bits, verify

BUILT = [case for case in reference.CASES if case.layer in LAYERS]


@pytest.mark.parametrize("case", BUILT, ids=str)
def test_case(device, case):
    assert verify(case, device) == []


@pytest.mark.parametrize("case", BUILT[::5], ids=str)
def test_two_runs_give_the_same_bits(device, case):
    values = case.values(3)
    assert same_bits(compute(case, values, device), compute(case, values, device))
