"""Operators on row-major tensors against their NumPy float64 definitions, on every working device.

Every case runs in poisoned memory with guard bands. Cases of whole numbers must come out exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from clconv import passes
from clconv._core.layer import Layer
from clconv._core.plain_elementwise import BINARY, UNARY, Binary, Unary
from clconv._core.plain_matmul import Gemm, MatMulPlain
from clconv._core.plain_move import (
    ConcatPlain,
    DepthToSpace,
    Expand,
    GatherPlain,
    PadTo,
    Permute,
    Reshape,
    Slice,
    SpaceToDepth,
    Tile,
)
from clconv._core.plain_reduce import OPERATIONS, ArgMax, InstanceNorm, Reduce, SoftmaxAxis
from clconv._core.plain_resize import COORDINATE_MODES, NEAREST_MODES, Resize
from clconv.autodiff import differentiate
from clconv.device import Device, DeviceInfo, open_device
from clconv.engine import Session
from clconv.errors import ArgumentError, ShapeError
from clconv.graph import Graph
from clconv.plan import make_plan
from clconv.reference import plain as reference
from clconv.selftest import run_guarded
from clconv.shapes import TensorSpec

EPS = float(np.finfo(np.float32).eps)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One operator on inputs of given shapes.

    Attributes:
        expected: y of float64 inputs. gradient: gradients by input of (inputs, dy), or None where there is none.
        low, high: whole numbers or random values are drawn between them. exact: tried with whole numbers.
        products: values that one output sums up. ulps: what the functions of OpenCL that it calls may be off.
        absolute: allowed beside that, where a difference of near values is taken.
    """

    name: str
    layer: Layer
    shapes: Sequence[tuple[int, ...]]
    expected: Callable[..., Any]
    gradient: Callable[[Sequence[Array], Array], Sequence[Any]] | None = None
    low: float = -3.0
    high: float = 3.0
    exact: bool = False
    products: int = 1
    ulps: float = 1.0
    absolute: float = field(default=0.0)

    def __str__(self) -> str:
        return self.name


def unary_case(op: str) -> Case:
    """Every function, with a tail that fills no vector; logarithm and root of positive values only."""
    a, b = {"affine": (1.5, -0.75), "selu": (reference.SELU_ALPHA, reference.SELU_GAMMA), "clip": (-1.0, 0.5)}.get(
        op, (0.3, 0.55)
    )
    positive = op in ("sqrt", "log", "reciprocal")
    return Case(
        f"unary {op}",
        Unary(op, a, b),
        [(3, 5, 7)],
        lambda x: reference.UNARY[op](x, np.float32(a), np.float32(b)),
        lambda xs, dy: [dy * reference.UNARY_SLOPE[op](xs[0], np.float32(a), np.float32(b))],
        low=0.1 if positive else -4,
        high=4,
        ulps=24,
        absolute=2 * EPS,
    )


SHAPE_PAIRS = [
    ((2, 3, 4, 5), (2, 3, 4, 5)),
    ((2, 3, 4, 5), ()),
    ((), (2, 3, 4, 5)),
    ((2, 3, 4, 5), (3, 1, 1)),
    ((2, 3, 37), (37,)),
    ((1, 4, 1), (5, 1, 33)),
    ((2, 1, 3, 1, 2, 1), (1, 2, 1, 2, 1, 19)),
    ((), ()),
]


def binary_case(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> Case:
    formula, constant = reference.BINARY[op], op not in reference.BINARY_SLOPES
    power = op == "pow"
    return Case(
        f"binary {op} {a} {b}",
        Binary(op),
        [a, b],
        formula,
        None if constant else lambda xs, dy: reference.binary_gradient(op, *xs, dy),
        low=0.5 if power or op == "div" else -3,
        exact=not power and op != "div",
        products=240,
        ulps=64 if power else 4,
    )


def taken(starts: Sequence[int], steps: Sequence[int], shape: Sequence[int], x: tuple[int, ...]) -> Case:
    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        dx = np.zeros(xs[0].shape)
        index = [s + t * np.arange(n) for s, t, n in zip(starts, steps, shape, strict=True)]
        dx[np.ix_(*index)] = dy
        return [dx]

    name = f"slice {x} {starts} {steps}"
    return Case(
        name,
        Slice(starts, steps, shape),
        [x],
        lambda x: reference.slice_(x, starts, steps, shape),
        gradient,
        exact=True,
    )


def permuted(perm: tuple[int, ...], x: tuple[int, ...]) -> Case:
    return Case(
        f"permute {perm} of {x}",
        Permute(perm),
        [x],
        lambda x: x.transpose(perm),
        lambda xs, dy: [dy.transpose(np.argsort(perm))],
        exact=True,
    )


def padded(x: tuple[int, ...], before: Sequence[int], after: Sequence[int], mode: str, value: float = 0.0) -> Case:
    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        padding = [-b for b in before], [-a for a in after]
        return [reference.pad(dy, *padding, "constant", 0.0)]

    return Case(
        f"pad {mode} {x} {before} {after}",
        PadTo(before, after, mode, value),
        [x],
        lambda x: reference.pad(x, before, after, mode, value),
        gradient if mode == "constant" else None,
        exact=True,
    )


def joined(axis: int, *shapes: tuple[int, ...]) -> Case:
    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        return np.split(dy, np.cumsum([x.shape[axis] for x in xs])[:-1], axis)

    name = f"concat {axis} {shapes}"
    return Case(
        name, ConcatPlain(axis, len(shapes)), shapes, lambda *xs: np.concatenate(xs, axis), gradient, exact=True
    )


def reduced(op: str, x: tuple[int, ...], axes: tuple[int, ...] | None, keepdims: bool) -> Case:
    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        all_axes = tuple(range(len(x))) if axes is None else axes
        count = math.prod(x[i] for i in all_axes) if op == "mean" else 1
        dy = dy if keepdims else np.expand_dims(dy, tuple(i % len(x) for i in all_axes))
        return [np.broadcast_to(dy / count, x)]

    count = math.prod(x) if axes is None else math.prod(x[i] for i in axes)
    near_one = op in ("prod", "log_sum")
    return Case(
        f"reduce {op} {x} {axes} {keepdims}",
        Reduce(op, axes, keepdims),
        [x],
        lambda x: reference.reduce(op, x, axes, keepdims),
        gradient if op in ("sum", "mean") else None,
        low=0.9 if near_one else -3,
        high=1.1 if near_one else 3,
        exact=op in ("sum", "max", "min", "l1", "sumsq"),
        products=count,
        ulps=2 * math.sqrt(count) + 4 if op != "prod" else 4 * count,
        absolute=2 * EPS * math.sqrt(count) * (3 if op in ("sum", "mean") else 0) * (count if op == "sum" else 1),
    )


def arg_most(x: tuple[int, ...], axis: int, keepdims: bool, last: bool, least: bool) -> Case:
    return Case(
        f"argmax {x} {axis} {keepdims} {last} {least}",
        ArgMax(axis, keepdims, last, least),
        [x],
        lambda x: reference.argmax(x, axis, keepdims, last, least),
        exact=True,
    )


def softmax(x: tuple[int, ...], axes: tuple[int, int], log: bool, high: float = 3.0) -> Case:
    return Case(
        f"softmax {x} {axes} {log}",
        SoftmaxAxis(*axes, log),
        [x],
        lambda x: reference.softmax(x, *axes, log),
        lambda xs, dy: [reference.softmax_gradient(reference.softmax(xs[0], *axes, log), dy, *axes, log)],
        low=-high,
        high=high,
        ulps=64,
        absolute=64 * EPS,
    )


def normed(x: tuple[int, ...]) -> Case:
    eps = 1e-3
    return Case(
        f"instance norm {x}",
        InstanceNorm(eps),
        [x, x[1:2], x[1:2]],
        lambda x, scale, bias: reference.instance_norm(x, scale, bias, eps),
        ulps=32,
        absolute=128 * EPS,
    )


def multiplied(a: tuple[int, ...], b: tuple[int, ...], trans_a: bool = False, trans_b: bool = False) -> Case:
    def expected(a: Array, b: Array) -> Array:
        left = a.swapaxes(-1, -2) if trans_a and a.ndim > 1 else a
        return left @ (b.swapaxes(-1, -2) if trans_b and b.ndim > 1 else b)

    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        """By definition: the product is linear in each operand, so a unit at a time tells its gradient."""
        found = []
        for which, x in enumerate(xs):
            dx = np.zeros(x.shape)
            for index in np.ndindex(*x.shape):
                unit = np.zeros(x.shape)
                unit[index] = 1
                dx[index] = (dy * expected(*(unit if i == which else other for i, other in enumerate(xs)))).sum()
            found.append(dx)
        return found

    small = math.prod(a) * math.prod(b) < 20000
    name = f"matmul {a} {b} {trans_a} {trans_b}"
    depth = a[-2] if trans_a and len(a) > 1 else a[-1]
    sums = 4 * max(depth, math.prod(a), math.prod(b))
    return Case(
        name, MatMulPlain(trans_a, trans_b), [a, b], expected, gradient if small else None, exact=True, products=sums
    )


def gemm(c: tuple[int, ...] | None, trans_a: bool, trans_b: bool, m: int = 5, depth: int = 21, n: int = 37) -> Case:
    a, b = (depth, m) if trans_a else (m, depth), (n, depth) if trans_b else (depth, n)
    alpha, beta = 2.0, 0.5 if c is not None else 1.0

    def gradient(xs: Sequence[Array], dy: Array) -> Sequence[Array]:
        da = alpha * dy @ (xs[1] if trans_b else xs[1].T)
        db = alpha * (xs[0] if trans_a else xs[0].T) @ dy
        found = [da.T if trans_a else da, db.T if trans_b else db]
        return found if c is None else [*found, reference.sum_to(beta * dy, c)]

    return Case(
        f"gemm {c} {trans_a} {trans_b} {m}x{depth}x{n}",
        Gemm(alpha, beta, trans_a, trans_b),
        [a, b, *([] if c is None else [c])],
        lambda a, b, c=None: reference.gemm(a, b, c, alpha, beta, trans_a, trans_b),
        gradient,
        exact=True,
        products=16 * depth,
    )


def resized(
    mode: str,
    x: tuple[int, ...],
    sizes: tuple[int, ...] | None,
    scales: tuple[float, ...] | None = None,
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
) -> Case:
    held = None if scales is None else [float(np.float32(s)) for s in scales]
    if sizes is None:
        assert held is not None
        shape = tuple(math.floor(n * s) for n, s in zip(x, held, strict=True))
    else:
        shape = sizes
    return Case(
        f"resize {mode} {x} {sizes} {scales} {coordinates} {rounding}",
        Resize(mode, sizes, scales, coordinates, rounding),
        [x],
        lambda x: reference.resize(x, mode, shape, held, coordinates, rounding),
        exact=mode == "nearest",
        ulps=8,
        absolute=16 * EPS,
    )


def moved(name: str, layer: Layer, x: tuple[int, ...], y: Callable[..., Any], dx: Callable[..., Any] | None) -> Case:
    return Case(name, layer, [x], y, None if dx is None else lambda xs, dy: [dx(dy)], exact=True)


CASES = [
    *(unary_case(op) for op in UNARY),
    *(binary_case(op, *SHAPE_PAIRS[0]) for op in BINARY),
    *(binary_case("sub", *pair) for pair in SHAPE_PAIRS[1:]),
    binary_case("mul", *SHAPE_PAIRS[5]),
    binary_case("prelu", (2, 3, 4, 5), (3, 1, 1)),
    binary_case("max", *SHAPE_PAIRS[6]),
    moved("reshape", Reshape((6, 35)), (2, 3, 5, 7), lambda x: x.reshape(6, 35), lambda dy: dy.reshape(2, 3, 5, 7)),
    moved("reshape to a scalar", Reshape(()), (1, 1), lambda x: x.reshape(()), lambda dy: dy.reshape(1, 1)),
    permuted((0, 2, 3, 1), (2, 3, 5, 7)),
    permuted((1, 0), (37, 21)),
    permuted((5, 3, 1, 4, 2, 0), (2, 3, 2, 3, 4, 5)),
    permuted((0, 2, 1, 3), (1, 4, 3, 130)),
    permuted((), ()),
    taken((0, 1), (1, 1), (3, 4), (3, 9)),
    taken((2, 8, 0), (-1, -2, 3), (3, 4, 2), (3, 9, 5)),
    taken((0, 0), (1, 1), (2, 150), (2, 150)),
    padded((2, 3, 5, 7), (0, 0, 1, 2), (0, 0, 3, 0), "constant", -1.5),
    padded((2, 3, 5), (1, -1, 2), (-1, 2, -3), "constant", 4.0),
    padded((2, 3, 5, 7), (0, 0, 4, 3), (0, 0, 2, 6), "reflect"),
    padded((2, 3, 5, 70), (1, 0, 4, 0), (0, 2, 2, 9), "edge"),
    padded((4, 3), (5, 7), (9, 1), "wrap"),
    padded((2, 40), (0, 90), (1, 70), "constant", 2.0),
    padded((2, 40), (1, 39), (0, 39), "reflect"),
    joined(1, (2, 3, 5), (2, 1, 5), (2, 4, 5)),
    joined(-1, (2, 70), (2, 1)),
    joined(0, (1,), (5,)),
    moved(
        "expand",
        Expand((2, 1, 4)),
        (3, 1),
        lambda x: np.broadcast_to(x, (2, 3, 4)),
        lambda dy: dy.sum((0, 2))[:, None],
    ),
    moved("expand a scalar", Expand((2, 3)), (), lambda x: np.broadcast_to(x, (2, 3)), lambda dy: dy.sum()),
    moved("gather", GatherPlain(1, [[0, -1], [2, 4]]), (3, 6, 20), lambda x: x[:, [[0, -1], [2, 4]]], None),
    moved("gather one", GatherPlain(-1, 2), (3, 6), lambda x: x[:, 2], None),
    moved("tile", Tile((2, 1, 3, 2)), (2, 3, 4, 5), lambda x: np.tile(x, (2, 1, 3, 2)), None),
    moved(
        "space to depth",
        SpaceToDepth(2),
        (2, 3, 4, 6),
        lambda x: reference.space_to_depth(x, 2),
        lambda dy: reference.depth_to_space(dy, 2, "DCR"),
    ),
    moved(
        "depth to space DCR",
        DepthToSpace(3, "DCR"),
        (2, 18, 2, 3),
        lambda x: reference.depth_to_space(x, 3, "DCR"),
        lambda dy: reference.space_to_depth(dy, 3),
    ),
    moved(
        "depth to space CRD",
        DepthToSpace(2, "CRD"),
        (2, 8, 2, 3),
        lambda x: reference.depth_to_space(x, 2, "CRD"),
        lambda dy: dy.reshape(2, 2, 2, 2, 3, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 8, 2, 3),
    ),
    *(reduced(op, (2, 3, 5, 7), (1, 3), False) for op in OPERATIONS),
    *(reduced("sum", x, axes, True) for x, axes in [
        ((2, 3, 5, 7), (0, 2)), ((2, 3, 5, 7), None), ((2, 3, 5, 7), ()), ((2, 3), (0, 1)), ((), None),
        ((5000,), (0,)), ((3, 6001), (1,)), ((700, 19), (0,)), ((300, 3, 4, 2), (0, 2)), ((1, 1, 4), (1,)),
        ((2, 3, 2, 3, 2, 3), (0, 2, 4)), ((2, 3, 2, 3, 2, 3), (1, 3, 5)), ((2, 3), (-1,)),
    ]),
    reduced("mean", (3, 6001), (1,), False),
    reduced("max", (700, 19), (0,), False),
    reduced("l2", (2, 5000), (1,), False),
    reduced("sumsq", (900, 5), (0,), True),
    arg_most((4, 9, 3), 1, True, False, False),
    arg_most((4, 9, 3), -1, False, True, False),
    arg_most((9, 20), 0, False, False, True),
    arg_most((40,), 0, True, True, True),
    softmax((3, 37), (1, 2), False),
    softmax((3, 4, 5), (1, 3), False),
    softmax((2, 10, 3, 7), (1, 2), False),
    softmax((2, 10, 3, 7), (1, 2), True),
    softmax((3, 37), (1, 2), True, high=300.0),
    softmax((3, 37), (0, 1), False, high=300.0),
    multiplied((5, 7), (7, 37)),
    multiplied((1, 130), (130, 20)),
    multiplied((7,), (7,)),
    multiplied((7,), (3, 7, 5)),
    multiplied((2, 3, 5, 7), (7,)),
    multiplied((2, 1, 3, 5), (4, 5, 6)),
    multiplied((2, 3, 5), (5, 4)),
    multiplied((2, 3, 2, 5), (2, 1, 5, 4)),
    multiplied((3, 5, 4), (3, 6, 5), True, True),
    multiplied((3, 4, 5), (6, 5), False, True),
    multiplied((33, 70), (70, 65)),
    multiplied((33, 70), (65, 70), False, True),
    gemm((37,), False, True),
    gemm((5, 1), True, False),
    gemm((5, 1), False, True),
    gemm((5, 37), False, True),
    gemm((), False, False),
    gemm(None, True, True),
    gemm((1, 37), False, True, m=1, depth=130),
    gemm(None, False, False, m=9, depth=1, n=1),
    *(resized("nearest", (1, 2, 5, 6), (1, 2, 8, 9), None, mode, rounding)
      for mode in COORDINATE_MODES for rounding in NEAREST_MODES),
    *(resized("linear", (2, 2, 5, 6), None, (1.0, 1.0, 1.5, 2.6), mode) for mode in COORDINATE_MODES),
    resized("nearest", (1, 2, 4, 5), None, (1.0, 1.0, 2.0, 2.0), "asymmetric", "floor"),
    resized("nearest", (2, 3, 4, 5), (3, 2, 9, 2)),
    resized("nearest", (3, 7, 2), (3, 4, 2)),
    resized("linear", (1, 3, 7, 70), (1, 3, 3, 33)),
    resized("linear", (1, 1, 4, 4), None, (1.0, 1.0, 0.6, 0.6), "half_pixel_symmetric"),
    resized("linear", (2, 3, 5), (2, 3, 8)),
    resized("linear", (1, 2, 3, 4, 5), (1, 2, 5, 3, 9)),
    resized("linear", (1, 2, 3, 4), (1, 2, 3, 4)),
    resized("linear", (1, 1, 3, 4), (1, 1, 1, 1), None, "pytorch_half_pixel"),
    resized("nearest", (), ()),
    normed((2, 3, 5, 7)),
    normed((1, 2, 6000)),
    normed((2, 3, 1)),
]  # fmt: skip


def draw(case: Case, *, whole: bool, seed: int = 3) -> list[Array]:
    """Inputs as float64 that float32 holds exactly."""
    random = np.random.default_rng(seed)
    low, high = case.low, case.high
    if whole:
        return [random.integers(int(low), int(high), s, endpoint=True).astype(np.float64) for s in case.shapes]
    return [np.asarray(random.uniform(low, high, s)).astype(np.float32).astype(np.float64) for s in case.shapes]


def compute(case: Case, xs: Sequence[Array], dy: Array | None, device: Device) -> list[Array]:
    """y, and where dy is given the gradients by input."""
    graph = Graph()
    values = [graph.input(f"x{i}", TensorSpec(x.shape, layout="plain")) for i, x in enumerate(xs)]
    absent = [None] * (len(case.layer.inputs) - len(xs))
    y = graph.add(case.layer, [*values, *absent], "layer")[0]
    graph.outputs["y"] = y
    feeds = {f"x{i}": x.astype(np.float32) for i, x in enumerate(xs)}
    if dy is not None:
        seed = graph.input("dy", TensorSpec(dy.shape, layout="plain"))
        feeds["dy"] = dy.astype(np.float32)
        found = differentiate(graph, {y: seed}, values)
        graph.outputs.update({f"d{i}": found[value] for i, value in enumerate(values)})
    passes.convert_layouts(graph)
    graph.prune()
    results = run_guarded(graph, device, feeds, {})
    return [results["y"], *(results[f"d{i}"] for i in range(len(xs) if dy is not None else 0))]


def check(what: str, got: Array, expected: Any, case: Case, exact: bool, products: int) -> None:
    expected = np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: {got.shape} instead of {expected.shape}"
    error = np.abs(got.astype(np.float64) - expected)
    if exact:
        assert not error.any(), f"{what} of whole numbers is off by {error.max()}"
        return
    allowed = (case.ulps + 2 * math.sqrt(products)) * EPS * (np.abs(expected) + (products > 1) * 4) + case.absolute
    assert (error <= allowed).all(), f"{what}: {error.max():.3g}, {(error / allowed).max():.3g} of what is allowed"


def verify(case: Case, device: Device) -> None:
    for whole in (True, False) if case.exact else (False,):
        xs = draw(case, whole=whole)
        expected = case.expected(*xs)
        if case.gradient is None:
            (y,) = compute(case, xs, None, device)
            check("y", y, expected, case, whole, case.products if case.products > 1 else 1)
            continue
        random = np.random.default_rng(5)
        dy = random.integers(-3, 3, np.shape(expected), endpoint=True).astype(np.float64)
        y, *gradients = compute(case, xs, dy, device)
        check("y", y, expected, case, whole, case.products)
        for i, (got, dx) in enumerate(zip(gradients, case.gradient(xs, dy), strict=True)):
            exact = whole and "mean" not in case.name
            loose = replace(case, ulps=4 * case.ulps, absolute=case.absolute * 16)
            check(f"gradient {i}", got, dx, loose, exact, case.products)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(device: Device, case: Case) -> None:
    verify(case, device)


@pytest.mark.parametrize("block", [8, 4, 1])
def test_operator_with_other_blocks(device: Device, block: int) -> None:
    """Vectors of every width."""
    other = open_device(DeviceInfo(device.key, replace(device.facts, block=block)))
    names = (
        "unary elu",
        "binary sub (1, 4, 1)",
        "reduce sum (3, 6001)",
        "reduce max (700",
        "softmax (3, 37) (1",
        "instance norm (2, 3, 5",
        "matmul (33",
        "gemm (37",
        "resize linear (1, 3",
    )
    assert all(any(case.name.startswith(name) for case in CASES) for name in names)
    for case in CASES:
        if case.name.startswith(names):
            verify(case, other)


def test_nan_and_infinity_pass_through(device: Device) -> None:
    x = np.array([np.nan, -np.inf, np.inf, 1.0], np.float32)
    spec = TensorSpec((4,), layout="plain")
    graph = Graph()
    value = graph.input("x", spec)
    one = graph.input("one", spec)
    layers = [Unary("relu"), Unary("clip", -2.0, 2.0), Unary("tanh"), Unary("sigmoid")]
    for name, layer in ((layer.op, layer) for layer in layers):
        graph.outputs[name] = graph.add(layer, [value], name)[0]
    graph.outputs["min"] = graph.add(Binary("min"), [value, one], "min")[0]
    graph.outputs["max"] = graph.add(Binary("max"), [one, value], "max")[0]
    graph.outputs["most"] = graph.add(Reduce("max"), [value], "most")[0]
    got = run_guarded(graph, device, {"x": x, "one": np.ones(4, np.float32)}, {})
    expected = {
        "relu": np.maximum(x, 0),
        "clip": np.clip(x, -2, 2),
        "tanh": np.tanh(x),
        "sigmoid": np.array([np.nan, 0, 1, 1 / (1 + np.exp(-1))]),
        "min": np.minimum(x, 1),
        "max": np.maximum(x, 1),
        "most": np.array([np.nan]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-6, err_msg=name)


def test_whole_numbers_of_32_bits_move_unchanged(device: Device) -> None:
    x = np.array([[2**31 - 1, -(2**31)], [7, 0x7F800001], [-1, 0]], np.int32)
    graph = Graph()
    value = graph.input("x", TensorSpec(x.shape, "int32", "plain"))
    turned = graph.add(Permute((1, 0)), [value], "turn")[0]
    graph.outputs["y"] = graph.add(PadTo((0, 0), (1, 0), "constant", -5), [turned], "pad")[0]
    y = run_guarded(graph, device, {"x": x}, {})["y"]
    assert y.dtype == np.int32
    np.testing.assert_array_equal(y, np.pad(x.T, ((0, 1), (0, 0)), constant_values=-5))


def test_indices_can_be_computed(device: Device) -> None:
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    indices = np.array([[1, -1, 3], [0, 0, -4]], np.int32)
    graph = Graph()
    value = graph.input("x", TensorSpec(x.shape, layout="plain"))
    where = graph.input("i", TensorSpec(indices.shape, "int32", "plain"))
    graph.outputs["y"] = graph.add(GatherPlain(1), [value, where], "gather")[0]
    got = run_guarded(graph, device, {"x": x, "i": indices}, {})["y"]
    np.testing.assert_array_equal(got, x[:, indices])


def reshaping(needed: bool) -> Graph:
    """x -> abs -> reshape -> neg; the input of the reshape is `needed` afterwards or not."""
    graph = Graph()
    x = graph.input("x", TensorSpec((2, 3, 4), layout="plain"))
    first = graph.add(Unary("abs"), [x], "abs")[0]
    second = graph.add(Reshape((6, 4)), [first], "reshape")[0]
    graph.outputs["y"] = graph.add(Unary("neg"), [second], "neg")[0]
    if needed:
        graph.outputs["z"] = first
    return graph


@pytest.mark.parametrize("needed", [False, True])
def test_reshape_is_free_where_its_input_dies(device: Device, needed: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    graph = reshaping(needed)
    results = run_guarded(graph, device, {"x": x}, {})
    np.testing.assert_array_equal(results["y"], -np.abs(x).reshape(6, 4))
    if needed:
        np.testing.assert_array_equal(results["z"], np.abs(x))
    plan, session = make_plan(graph, device.facts), Session(device)
    try:
        labels = session.prepare(plan).recording.labels
    finally:
        session.release()
    assert len(plan.intervals) == (3 if needed else 2)
    assert ("reshape: copy" in labels) == needed


def test_gradients_of_two_readers_are_added(device: Device) -> None:
    """A row-major value of any rank that two operators read."""
    x = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    graph = Graph()
    value = graph.input("x", TensorSpec(x.shape, layout="plain"))
    seed = graph.input("dy", TensorSpec(x.shape, layout="plain"))
    product = graph.add(Binary("mul"), [value, graph.add(Unary("exp"), [value], "exp")[0]], "mul")[0]
    graph.outputs["dx"] = differentiate(graph, {product: seed}, [value])[value]
    graph.prune()
    dx = run_guarded(graph, device, {"x": x, "dy": np.ones_like(x)}, {})["dx"]
    np.testing.assert_allclose(dx, np.exp(x) * (1 + x), rtol=1e-5)


def test_operators_without_a_gradient_say_so() -> None:
    graph = Graph()
    x = graph.input("x", TensorSpec((3, 4), layout="plain"))
    seed = graph.input("dy", TensorSpec((3, 1), layout="plain"))
    y = graph.add(Reduce("max", (1,)), [x], "highest")[0]
    with pytest.raises(ArgumentError, match="highest: Reduce has no gradient"):
        differentiate(graph, {y: seed}, [x])


REFUSED: list[tuple[Callable[[], Layer], list[tuple[int, ...]], type[Exception], str]] = [
    (lambda: Unary("cosh"), [(2,)], ArgumentError, "unknown operation 'cosh'; known are identity"),
    (lambda: Binary("add"), [(2, 3), (2, 4)], ShapeError, r"shapes \(2, 3\) and \(2, 4\) do not fit"),
    (lambda: Reshape((5,)), [(2, 3)], ShapeError, "has 6 elements, .* 5"),
    (lambda: Permute((0, 0)), [(2, 3)], ArgumentError, "each of 2 axes once"),
    (lambda: Permute((1, 0)), [(2, 3, 4)], ShapeError, "has 3 axes"),
    (lambda: Slice((1,), (1,), (3,)), [(3,)], ShapeError, "axis 0 of 3 elements, but 3 from 1"),
    (lambda: PadTo((3,), (0,), "reflect"), [(3,)], ShapeError, "mirroring reaches 1 beyond"),
    (lambda: PadTo((0,), (0,), "mirror"), [(3,)], ArgumentError, "unknown mode 'mirror'"),
    (lambda: PadTo((-2,), (-1,)), [(3,)], ShapeError, "has no elements"),
    (lambda: ConcatPlain(1, 2), [(2, 3), (3, 3)], ShapeError, "along axis 1"),
    (lambda: GatherPlain(0, [3]), [(3,)], ShapeError, "indices 3 to 3 along an axis of 3"),
    (lambda: SpaceToDepth(2), [(1, 1, 3, 4)], ShapeError, "3x4 pixels in blocks of 2"),
    (lambda: DepthToSpace(2), [(1, 6, 3, 4)], ShapeError, "6 channels for blocks of 2x2"),
    (lambda: Expand((2**20, 2**12)), [(1,)], ShapeError, "at most 2147483647"),
    (lambda: Reduce("sum", (2,)), [(3, 4)], ShapeError, "axis 2 of 2; -2 to 1"),
    (lambda: SoftmaxAxis(2, 3), [(3, 4)], ShapeError, "axes 2 up to 3 of 2"),
    (lambda: MatMulPlain(), [(2, 3), (4, 5)], ShapeError, "2x3 times 4x5; the inner extents"),
    (lambda: Gemm(), [(2, 3), (3, 5), (4, 5)], ShapeError, r"do not fit"),
    (lambda: Resize("cubic", (1,)), [(3,)], ArgumentError, "unknown mode 'cubic'"),
    (lambda: Resize("linear", (1,), None, "tf_crop_and_resize"), [(3,)], ArgumentError, "unknown coordinates"),
    (lambda: Resize("linear", (4, 4)), [(1, 1, 2, 2)], ShapeError, "2 sizes for the 4 axes"),
    (lambda: InstanceNorm(), [(2, 3, 4), (2,), (3,)], ShapeError, "instance norm"),
]


@pytest.mark.parametrize(("make", "shapes", "error", "message"), REFUSED)
def test_refusals(
    make: Callable[[], Layer], shapes: list[tuple[int, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make().infer([TensorSpec(shape, layout="plain") for shape in shapes])
