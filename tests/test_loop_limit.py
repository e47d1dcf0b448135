"""Devices that end a work-item's loops without an error: up to the limit all is right, beyond it is refused."""

from dataclasses import replace

import pytest

from clconv import tuning
from clconv._core.layer import looped
from clconv._core.recorder import Recorder
from clconv.device import Device
from clconv.errors import DeviceLimitError
from clconv.reference import Case
from clconv.selftest import verify

# Rows as long as the limit of llvmpipe allows, less what the loops beside the long one count.
LONGEST_ROW = 64_900

WITHIN = [
    Case("many channels", "Conv", {"filters": 64, "kernel": 3, "pad": 1}, ((1, 512, 14, 14),)),
    Case("more channels", "Conv", {"filters": 1, "kernel": 3}, ((1, 1536, 3, 3),)),
    Case("long row", "FC", {"units": 2}, ((1, 30_000, 1, 1),)),
    Case("longest row", "FC", {"units": 2}, ((1, LONGEST_ROW, 1, 1),)),
]
BEYOND = [
    (Case("too many channels", "Conv", {"filters": 1, "kernel": 3}, ((1, 8192, 3, 3),)), "conv_direct"),
    (Case("row too long", "FC", {"units": 2}, ((1, 66_000, 1, 1),)), "fc"),
]


@pytest.mark.parametrize("case", WITHIN, ids=str)
def test_up_to_the_limit_results_are_right(device: Device, case: Case) -> None:
    assert verify(case, device) == []


@pytest.mark.parametrize("case, kernel", BEYOND, ids=str)
def test_beyond_the_limit_is_refused_by_name(device: Device, case: Case, kernel: str) -> None:
    if not device.facts.loop_limit:
        assert verify(case, device) == []
        return
    with pytest.raises(
        DeviceLimitError, match=rf"layer: {kernel}: a work-item would run up to \d{{5,}} loop iterations"
    ):
        verify(case, device)


def test_the_recorder_compares_with_the_limit(device: Device) -> None:
    limited = Recorder(replace(device.facts, loop_limit=100, name="old driver"))
    limited.label = "conv5"
    limited.launch("fc.cl", "fc", (1,), [], iterations=100)
    with pytest.raises(
        DeviceLimitError, match="conv5: fc: .* up to 101 .* but old driver stops after about 100 without"
    ):
        limited.launch("fc.cl", "fc", (1,), [], iterations=101)
    assert len(limited.launches) == 1
    Recorder(replace(device.facts, loop_limit=0)).launch("fc.cl", "fc", (1,), [], iterations=10**9)


def test_nested_loops_count_every_iteration_and_their_ends() -> None:
    assert looped(10) >= 10 + 1
    assert looped(10, looped(5)) >= 10 * (1 + 5 + 1) + 1


def test_llvmpipe_has_a_limit_and_no_persistent_work_items() -> None:
    values = tuning.device_values(tuning.Traits("cpu", platform="rusticl", device="llvmpipe (LLVM 15.0.6, 256 bits)"))
    assert 60_000 < values["loop_limit"] < 65_535 and values["workers"] == 0
    assert tuning.device_values(tuning.Traits("cpu", platform="Intel(R) OpenCL"))["loop_limit"] == 0
