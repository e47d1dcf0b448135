"""Functions of one value and of two in channel blocks, and what moves values there, against NumPy in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_plain import CASES as PLAIN
from test_plain import EPS, Case, compute, verify

from clconv import passes
from clconv._core.blockwise import BinaryBlocks, ChannelShuffle, DepthToSpaceBlocks, PadChannels, Stored, UnaryBlocks
from clconv._core.norm import LocalResponse, Response
from clconv._core.norm_group import ChannelNorm, GroupNorm
from clconv._core.plain_elementwise import BINARY, UNARY
from clconv._core.plain_move import PadTo, Slice
from clconv._core.plain_resize import Resize
from clconv.device import Device, DeviceInfo, open_device
from clconv.errors import ShapeError
from clconv.graph import Graph
from clconv.reference import plain as reference
from clconv.selftest import run_guarded
from clconv.shapes import TensorSpec

IMAGES = (2, 21, 3, 5)  # channels that fill no block
PLAIN_BY_NAME = {case.name: case for case in PLAIN}


def unary(op: str) -> Case:
    case = PLAIN_BY_NAME[f"unary {op}"]
    return replace(
        case, name=f"{op} in blocks", shapes=[IMAGES], layer=UnaryBlocks(op, case.layer.a, case.layer.b)
    )  # fmt: skip


def binary(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> Case:
    case = PLAIN_BY_NAME[f"binary {op} (2, 3, 4, 5) (2, 3, 4, 5)"]
    gradient = None if case.gradient is None else lambda xs, dy: reference.binary_gradient(op, *xs, dy)
    return replace(case, name=f"{op} {a} {b} in blocks", shapes=[a, b], layer=BinaryBlocks(op), gradient=gradient)


def stored(layer: Slice | PadTo | Resize, x: tuple[int, ...], expected: object) -> Case:
    return Case(f"stored {layer.__class__.__name__} {x}", Stored(layer), [x], expected, exact=True)  # type: ignore[arg-type]


def shuffled(x: np.ndarray, groups: int) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).swapaxes(1, 2).reshape(x.shape)


def grouped(groups: int, x: tuple[int, ...]) -> Case:
    """Values around 100, whose squares would drown the variance."""
    c = x[1]

    def expected(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        rows = x.reshape(x.shape[0], groups, -1)
        deviation = np.sqrt(rows.var(2, keepdims=True) + np.float32(1e-3))
        return ((rows - rows.mean(2, keepdims=True)) / deviation).reshape(x.shape) * weight + bias

    per_channel = (1, c, 1, 1)
    layer = GroupNorm(groups, 1e-3)
    return Case(f"{groups} groups of {x}", layer, [x, per_channel, per_channel], expected, low=97, high=103,
                ulps=64, absolute=2e-3)  # fmt: skip


def normed_pixels(x: tuple[int, ...]) -> Case:
    def expected(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        deviation = np.sqrt(x.var(1, keepdims=True) + np.float32(1e-3))
        return (x - x.mean(1, keepdims=True)) / deviation * weight + bias

    per_channel = (1, x[1], 1, 1)
    layer = ChannelNorm(1e-3)
    return Case(
        f"channels of {x}", layer, [x, per_channel, per_channel], expected, low=7, high=9, ulps=64, absolute=2e-4
    )


def padded_channels(before: int, after: int, value: float = 0.0) -> Case:
    def expected(x: np.ndarray) -> np.ndarray:
        return reference.pad(x, (0, before, 0, 0), (0, after, 0, 0), "constant", value)

    def gradient(xs, dy):
        return [reference.pad(dy, (0, -before, 0, 0), (0, -after, 0, 0), "constant", 0.0)]

    return Case(
        f"channels {before} {after}", PadChannels(before, after, value), [IMAGES], expected, gradient, exact=True
    )


PER_IMAGE, PER_CHANNEL, PER_PIXEL = (2, 21, 1, 1), (1, 21, 1, 1), (2, 1, 3, 5)
CASES = [
    *(unary(op) for op in UNARY),
    *(binary(op, IMAGES, IMAGES) for op in BINARY),
    *(binary("mul", *pair) for pair in [
        (IMAGES, PER_IMAGE), (PER_CHANNEL, IMAGES), (IMAGES, PER_PIXEL), (IMAGES, (1, 1, 1, 1)),
        (IMAGES, (1, 1, 3, 1)), ((2, 1, 1, 5), IMAGES), ((1, 21, 3, 1), (2, 1, 1, 5)), ((1, 1, 2, 70), (3, 17, 1, 70)),
    ]),
    binary("sub", PER_IMAGE, IMAGES),
    binary("prelu", IMAGES, PER_CHANNEL),
    *(Case(f"shuffle {c} {g}", ChannelShuffle(g), [(2, c, 3, 5)], lambda x, g=g: shuffled(x, g),
           lambda xs, dy, g=g: [shuffled(dy, dy.shape[1] // g)], exact=True)
      for c, g in ((21, 3), (64, 2), (6, 6), (36, 4))),
    *(Case(f"depth to space {mode} {c} {r}", DepthToSpaceBlocks(r, mode), [(2, c, 3, 5)],
           lambda x, r=r, mode=mode: reference.depth_to_space(x, r, mode), exact=True)
      for mode in ("DCR", "CRD") for c, r in ((12, 2), (36, 3), (80, 2), (144, 3))),
    *(grouped(groups, x) for groups, x in [
        (21, IMAGES), (7, IMAGES), (1, IMAGES), (21, (1, 21, 20, 40)), (4, (3, 16, 23, 45)), (5, (2, 5, 1, 1))]),
    *(normed_pixels(x) for x in (IMAGES, (1, 64, 3, 3), (2, 3, 1, 7))),
    padded_channels(3, 2), padded_channels(0, 20, 1.5), padded_channels(-5, 0), padded_channels(-17, -1),
    stored(Slice((0, 0, 1, 4), (1, 1, 1, -2), (2, 21, 2, 2)), IMAGES, lambda x: x[:, :, 1:, 4:0:-2]),
    stored(PadTo((0, 0, 1, 2), (0, 0, 0, 3), "constant", 2.0), IMAGES,
           lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), constant_values=2)),
    stored(PadTo((0, 0, 2, 1), (0, 0, 1, 1), "reflect"), IMAGES,
           lambda x: np.pad(x, ((0, 0), (0, 0), (2, 1), (1, 1)), mode="reflect")),
    stored(Resize("nearest", None, (1, 1, 2, 3), "asymmetric", "floor"), IMAGES,
           lambda x: x.repeat(2, 2).repeat(3, 3)),
    *(Case(f"stored linear {mode}", Stored(Resize("linear", (2, 21, 7, 4), None, mode)), [IMAGES],
           lambda x, mode=mode: reference.resize(x, "linear", (2, 21, 7, 4), None, mode, "floor"), ulps=8,
           absolute=16 * EPS)
      for mode in ("half_pixel", "align_corners", "pytorch_half_pixel")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(device: Device, case: Case) -> None:
    verify(case, device)


@pytest.mark.parametrize("block", [8, 4, 1])
def test_operator_with_other_blocks(device: Device, block: int) -> None:
    other = open_device(DeviceInfo(device.key, replace(device.facts, block=block)))
    names = ("gelu in", "mul", "shuffle 21", "depth to space CRD 36", "stored")
    assert all(any(case.name.startswith(name) for case in CASES) for name in names)
    for case in CASES:
        if case.name.startswith(names):
            verify(case, other)


TAILS = [
    (UnaryBlocks("exp"), lambda x: np.exp(x)),
    (UnaryBlocks("affine", 2.0, 3.0), lambda x: 2 * x + 3),
    (Stored(PadTo((0, 0, 1, 0), (0, 0, 0, 1), "constant", 2.0)),
     lambda x: np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 1)), constant_values=2)),
    (ChannelShuffle(3), lambda x: shuffled(x, 3)),
    (PadChannels(1, 1, 2.0), lambda x: np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=2)),
]  # fmt: skip


@pytest.mark.parametrize("layer, expected", TAILS, ids=[type(layer).__name__ for layer, _ in TAILS])
def test_channel_tails_are_zero(layer, expected, device):
    """A sum over channels behind it would see what is not."""
    x = np.random.default_rng(0).uniform(-1, 1, IMAGES).astype(np.float32)
    response = LocalResponse(Response(5, 1.0, 0.75, 1.0, across=True))
    got = _chained([layer, response], [x], device)
    y = expected(x.astype(np.float64))
    square = np.pad(y * y, ((0, 0), (2, 2), (0, 0), (0, 0)))
    window = sum(square[:, i : i + y.shape[1]] for i in range(5))
    np.testing.assert_allclose(got, y * (1 + window) ** -0.75, rtol=1e-5)


def test_tails_of_a_quotient_are_no_nan(device):
    x = np.random.default_rng(0).uniform(1, 2, IMAGES).astype(np.float32)
    response = LocalResponse(Response(5, 0.0, 0.75, 1.0, across=True))
    np.testing.assert_allclose(_chained([BinaryBlocks("div"), response], [x, x], device), 1)


def _chained(layers, arrays, device):
    graph = Graph()
    values = [graph.input(f"x{i}", TensorSpec(a.shape, layout="plain")) for i, a in enumerate(arrays)]
    for layer in layers:
        values = [graph.add(layer, values, "layer")[0]]
    graph.outputs["y"] = values[0]
    passes.convert_layouts(graph)
    return run_guarded(graph, device, {f"x{i}": a for i, a in enumerate(arrays)}, {})["y"]


@pytest.mark.parametrize("layer, shapes, message", [
    (BinaryBlocks("add"), [(2, 3, 4, 5), (2, 3, 4, 6)], r"shapes \(2, 3, 4, 5\) and \(2, 3, 4, 6\) do not fit"),
    (ChannelShuffle(4), [(2, 6, 4, 5)], "6 channels in 4 groups"),
    (DepthToSpaceBlocks(2), [(2, 6, 4, 5)], "6 channels for blocks of 2x2"),
    (PadChannels(-1, -2), [(2, 3, 4, 5)], "-1 and -2 added to 3 channels leave none"),
    (GroupNorm(4, 1e-5), [(2, 6, 4, 5), (1, 6, 1, 1), (1, 6, 1, 1)], "6 channels in 4 groups"),
    (GroupNorm(3, 1e-5), [(2, 6, 4, 5), (1, 3, 1, 1), (1, 3, 1, 1)], "needs 1x6x1x1 values per channel, not 1x3x1x1"),
    (ChannelNorm(1e-5), [(2, 6, 4, 5), (1, 6, 1, 1), (1, 1, 1, 1)], "channel norm: .* not 1x1x1x1"),
    (Stored(Slice((0, 1, 0, 0), (1, 1, 1, 1), (2, 2, 4, 5))), [(2, 3, 4, 5)], "images and channels must stay"),
])  # fmt: skip
def test_refused(layer, shapes, message):
    with pytest.raises(ShapeError, match=message):
        layer.infer([TensorSpec(shape) for shape in shapes])


def test_gradients_of_what_is_stored(device):
    """They are those of the row-major operators."""
    layer = Slice((0, 0, 1, 0), (1, 1, 1, 2), (2, 21, 2, 3))
    x = np.random.default_rng(0).integers(-3, 4, IMAGES).astype(np.float64)
    dy = np.arange(2 * 21 * 2 * 3, dtype=np.float64).reshape(2, 21, 2, 3)
    case = Case("slice", Stored(layer), [IMAGES], lambda x: x[:, :, 1:, ::2], lambda xs, dy: [dy])
    y, dx = compute(case, [x], dy, device)
    np.testing.assert_array_equal(y, x[:, :, 1:, ::2])
    expected = np.zeros(IMAGES)
    expected[:, :, 1:, ::2] = dy
    np.testing.assert_array_equal(dx, expected)
