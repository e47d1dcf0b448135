"""The kernels of both classes on every device: the GPU class on processors, with the tiles that a GPU would take."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import UNDER_OCLGRIND, in_class

import clconv as cc
from clconv import device as devices
from clconv import fitting, reference
from clconv.reference import Case
from clconv.selftest import compute, same_bits, verify

CLASSES = {"cpu": "gpu", "gpu": "cpu"}
PRODUCTS = [case for case in reference.CASES if case.layer in ("Conv", "ConvTranspose", "FC")]
SPLIT = [
    Case("short sum", "Conv", {"filters": 12, "kernel": 3, "pad": 1}, ((2, 20, 6, 7),)),
    Case("chunks of a sum", "Conv", {"filters": 9, "kernel": 3, "pad": 1}, ((2, 250, 5, 4),)),
    Case("chunks of a phase", "ConvTranspose", {"filters": 9, "kernel": 3, "stride": 2}, ((1, 600, 3, 2),)),
    Case("chunks of a row", "FC", {"units": 70}, ((3, 137, 3, 3),)),
    Case("chunks of pixels", "Conv", {"filters": 5, "kernel": 3, "pad": 1}, ((2, 6, 24, 33),)),
]


@pytest.fixture(params=["local memory", "subgroups", "registers"])
def gpu(request, device, monkeypatch):
    """Each working device, with kernels of the GPU class as if it had local memory and as if it had none."""
    if request.param == "subgroups" and not device.facts.subgroup:
        pytest.skip("this device has no subgroups")
    local, shared = request.param == "local memory", request.param == "subgroups"
    return in_class(device, "gpu", monkeypatch, has_local=local, subgroup=device.facts.subgroup if shared else 0)


def small(cases):
    return [pytest.param(case, marks=pytest.mark.small if case.small else ()) for case in cases]


@pytest.mark.parametrize("case", reference.CASES, ids=str)
def test_every_case_in_the_other_class(case, monkeypatch):
    """On the default device, as if it had local memory: the tiles of a GPU."""
    device = devices.choose()
    assert verify(case, in_class(device, CLASSES[device.facts.kernels], monkeypatch, has_local=True)) == []


@pytest.mark.parametrize("case", small(PRODUCTS[1 :: 4 if UNDER_OCLGRIND else 17]), ids=str)
def test_gpu_kernels_on_every_device(gpu, case):
    assert verify(case, gpu) == []


@pytest.mark.parametrize("case", SPLIT, ids=str)
def test_the_bits_depend_on_no_tile(case, monkeypatch):
    """Nor on local memory, on one pass or two, on a vector or a matrix of images."""
    values = case.values(6)
    gpu = in_class(devices.choose(), "gpu", monkeypatch, has_local=True)
    expected = compute(case, values, gpu)
    names = set()
    for place in range(20):
        count = 0

        def pick(choices, place=place):
            nonlocal count
            count = max(count, len(choices))
            names.add(choices[place % len(choices)].name)
            return choices[place % len(choices)]

        assert same_bits(compute(case, values, gpu, pick=pick), expected), place
        if place + 1 >= count:
            break
    wanted = {"gemm", "gemm in registers"}
    if case.name.startswith("chunks") and case.name != "chunks of pixels":
        wanted |= {"gemm split", "gemm in registers split"}
    assert wanted <= names


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (4, {}),  # more vectors than items
        (16, {"MT": 8, "NT": 8}),  # items that share nothing: each loads for itself
        (8, {"ANY_SIZE": 1}),  # the driver takes a size that it likes
        (32, {"MT": 16, "NT": 4, "ANY_SIZE": 1}),
    ],
    ids=["few", "straddling", "unasked", "unasked and large"],
)
def test_subgroups_of_any_size_give_the_same_bits(size, changes, device, monkeypatch):
    if not device.facts.subgroup:
        pytest.skip("this device has no subgroups")
    case = SPLIT[0]
    values = case.values(6)
    facts = {"has_local": False, "accumulators": 8}
    expected = compute(case, values, in_class(device, "gpu", monkeypatch, subgroup=0, **facts), gradient=False)
    names = set()

    def changed(choices):
        names.add(choices[0].name)
        if choices[0].name != "gemm in subgroups":
            return choices[0]
        return replace(choices[0], tiles=tuple({**dict(choices[0].tiles), **changes}.items()))

    gpu = in_class(device, "gpu", monkeypatch, subgroup=size, **facts)
    assert same_bits(compute(case, values, gpu, gradient=False, pick=changed), expected)
    assert "gemm in subgroups" in names


def test_a_batch_equals_single_runs(gpu):
    """One image takes the matrix-vector product, many the matrix product."""
    case = Case("batch", "FC", {"units": 70}, ((11, 200, 3, 3),))
    values = case.values(7)
    whole = compute(case, values, gpu, gradient=False).y
    for i in (0, 10):
        one = replace(values, inputs=[x[i : i + 1] for x in values.inputs])
        single = compute(replace(case, shapes=((1, 200, 3, 3),)), one, gpu, gradient=False).y
        assert single.tobytes() == whole[i : i + 1].tobytes()


def test_less_memory_gives_the_same_bits(device, monkeypatch):
    """Strips of rows, and parts of the outputs of layers whose weights are larger than an allocation."""
    gpu = in_class(device, "gpu", monkeypatch, has_local=True)
    small = in_class(device, "gpu", monkeypatch, has_local=True, max_alloc_bytes=1 << 19)
    monkeypatch.setattr(fitting, "PART_BYTES", (64 << 10,))
    convolutions = [cc.Conv(12, 3, pad=1), cc.ReLU(), cc.Conv(8, 3, pad=1), cc.MaxPool(2)]
    x = np.random.default_rng(0).standard_normal((3, 8, 20, 20), np.float32)
    net = cc.Net([*convolutions, cc.FC(300), cc.ReLU(), cc.FC(10)], input_shape=(8, 20, 20), device=gpu, seed=4)
    limited = cc.Net(net.network, device=small, weights=net.get_weights())
    expected = net.predict(x)
    assert limited.plan(3).streamed_bytes
    np.testing.assert_array_equal(limited.predict(x), expected)
    least = net.plan(3).peak_bytes // 2
    np.testing.assert_array_equal(net.predict(x, memory=least, exact=True), expected)


def test_a_device_without_room_takes_the_direct_kernels(device, monkeypatch):
    """A work-group of one item has nobody to share a tile with."""
    least = in_class(device, "gpu", monkeypatch, max_work_group=1, work_group=1)
    case = Case("bare", "Conv", {"filters": 5, "kernel": 3}, ((1, 3, 6, 6),))
    names = []
    compute(case, case.values(), least, pick=lambda choices: names.append(choices[0].name) or choices[0])
    assert "direct" in names and not any(name.startswith("gemm") for name in names)


def test_only_groups_that_fill_blocks_take_the_matrix_product(gpu):
    for groups, name in ((2, "gemm"), (4, "direct")):
        case = Case("groups", "Conv", {"filters": 8, "kernel": 3, "groups": groups}, ((1, 8, 5, 5),))
        names = []
        compute(case, case.values(), gpu, pick=lambda choices, names=names: names.append(choices[0].name) or choices[0])
        assert any(found.startswith(name) for found in names), names


def test_transposed_phases_multiply_no_zeros():
    """All taps of all phases together are those of the window, each output is in one phase."""
    from clconv._core.conv import Window
    from clconv._core.conv_gemm import transposed_phases

    window = Window((3, 4), stride=(2, 3), pads=((1, 0), (2, 1)), dilation=(1, 2))
    phases = transposed_phases(window, (7, 8))
    seen = np.zeros((7, 8), int)
    for phase in phases:
        first, row, col = phase.out
        for p in range(phase.size[0]):
            for q in range(phase.size[1]):
                seen.flat[first + p * row + q * col] += 1
    assert (seen == 1).all()
    assert sum(phase.taps[0] * phase.taps[1] for phase in phases) == 3 * 4
