"""Computes square convolutions at stride 1 by Winograd's method where that is faster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._core.conv import Conv2d, ConvGradW, ConvTranspose2d
from .._core.conv_winograd import WinogradConv2d, WinogradFilter, WinogradGradW
from .._core.conv_winograd_gemm import winograd_cycles
from .._core.conv_winograd_tiles import gradient_operations, tile_count, winograd_ways
from .._core.layer import Residual
from ..device import DeviceFacts
from ..graph import Graph, Node, Parameter, Value
from ..packing import Array
from ..shapes import Pads, TensorSpec, blocks
from .strides import TAPS, split_strides

# Lavin and Gray (2016), F(4x4, 3x3) and F(2x2, 3x3), by the side of a tile's input; each row times what makes it whole:
# 4, -6, -6, 24, 24, 1, and 1, 2, 2, 1. The transform of the outputs divides by it.
FILTERS = {
    6: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]]),
    4: np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]]),
}

FILTER_PASSES = 4  # of transformed filters in training, for GPUs: loaded, stored, and read by two products
LEAST_GROUP = 64  # work-items of the smallest tile of the GPU class
# Of tiles of the CPU class, by taps. For 3 taps, sides of 8 win 10 % at most, at few sizes, for twice the error.
SIDES = {3: (6,), 4: (6, 8), 5: (6, 8)}
GAIN = 0.85  # of the direct method's time, at most: below it the other accuracy is worth it


def use_winograd(
    graph: Graph,
    facts: DeviceFacts,
    *,
    train: bool,
    scratch: int | None = None,
    images: int = 0,
    least_rows: int = 0,
) -> None:
    """Replaces convolutions, and their input gradients, that Winograd's method computes faster.

    Kernels of the CPU class transform the filters as they go; those of the GPU class read transformed ones, for
    tiles of 4x4 or of 2x2 outputs: what takes less time, and what `scratch` has room for.

    Args:
        train: for GPUs, filters are transformed in every run, just before each use; else once, when they are loaded.
        scratch: most bytes that it may take for one layer: workspace and, with `train`, transformed filters.
        images: choose as for a batch of so many (0: as for the graph's own).
        least_rows: only convolutions with so many rows of results.
    """
    if not usable(facts):
        return
    most = float("inf") if scratch is None else scratch
    if facts.kernels == "cpu" and not train:
        split_strides(graph, facts, images=images, least_rows=least_rows)
    nodes, graph.nodes = graph.nodes, []
    transformed: dict[tuple[Value, bool], Value] = {}
    for node in nodes:
        if isinstance(node.layer, ConvGradW):
            if facts.kernels == "cpu":
                _replace_gradient(node, facts, most)
            graph.nodes.append(node)
            continue
        found = _pads(node, facts)
        low = found is not None and _result(node).shape[2] < least_rows
        sides = () if found is None or low else _sides(node, facts, images, train)
        side = next((side for side in sides if _taken(node, found, side, facts, train=train) <= most), 0)
        if found is None or not side:
            graph.nodes.append(node)
            continue
        x, weight, bias = node.inputs[:3]
        flip = isinstance(node.layer, ConvTranspose2d)
        assert isinstance(weight, Value)
        if facts.kernels == "cpu":
            transformed[weight, flip] = weight
        elif train:
            (transformed[weight, flip],) = graph.add(WinogradFilter(flip, side), [weight], node.name)
        elif (weight, flip) not in transformed:
            transformed[weight, flip] = _transformed(graph, weight, side)
        layer, old = WinogradConv2d(found, flip, weight.spec.shape[2], side), node.layer
        node.layer = layer.with_(activation=old.activation, slope=old.slope)
        if isinstance(old, Residual):
            node.layer = node.layer.with_(adds=old.adds, pool=old.pool, places=old.places)
        node.inputs = (x, transformed[weight, flip], bias, *node.inputs[3:])
        graph.nodes.append(node)
    graph.prune()


def usable(facts: DeviceFacts) -> bool:
    """Whether the device can run the method."""
    return bool(facts.workers) if facts.kernels == "cpu" else facts.max_work_group >= LEAST_GROUP


def _taken(node: Node, pads: Pads | None, side: int, facts: DeviceFacts, *, train: bool) -> int:
    """Bytes that Winograd's method would take for a convolution besides its operands."""
    x, w = node.input_specs()[:2]
    assert x is not None and w is not None
    extra, taps = 0, w.shape[2]
    if facts.kernels == "gpu":
        w = TensorSpec((*w.shape[:2], side, side), layout="winograd")
        extra = w.nbytes(facts.block) if train else 0
    layer = WinogradConv2d(pads, taps=taps, side=side)
    return extra + layer.choices(facts, [x, w, None], [_result(node)])[0].workspace_bytes


def _result(node: Node) -> TensorSpec:
    """The spec of what a convolution computes, in front of any pooling that it does."""
    y = node.outputs[0].spec
    return node.layer.unpooled(y) if isinstance(node.layer, Residual) else y


def _replace_gradient(node: Node, facts: DeviceFacts, most: float) -> None:
    """The weight gradient, where the modelled time is enough below that of the direct method."""
    layer = node.layer
    x, dy = node.inputs[:2]
    assert isinstance(layer, ConvGradW) and isinstance(x, Value) and isinstance(dy, Value)
    window, spec = layer.window, layer.spec
    if window.kernel != (3, 3) or spec.groups > 1 or _unfit(window, spec, facts) or x.spec.layout == "plain":
        return
    operations = gradient_operations(tile_count(dy.spec.shape), spec.shape[0], spec.shape[1], facts.block)
    direct = 9 * dy.spec.values // dy.spec.shape[1] * facts.block
    if operations < GAIN * direct:
        gradient = WinogradGradW(window.pads, spec)
        if gradient.choices(facts, [x.spec, dy.spec], [spec])[0].workspace_bytes > most:
            return
        node.layer = gradient if layer.step is None else gradient.stepping(layer.step)


def _unfit(window: Any, spec: TensorSpec, facts: DeviceFacts) -> bool:
    """Whether there is no kernel: it is no square filter at stride 1, of whole blocks in each group."""
    taps, groups = window.kernel[0], spec.groups
    known = TAPS if facts.kernels == "cpu" else (3,)
    if window.kernel != (taps, taps) or taps not in known or (window.stride, window.dilation) != ((1, 1), (1, 1)):
        return True
    whole = spec.shape[0] // groups % (2 * facts.block) == 0 and spec.shape[1] % facts.block == 0
    return groups > 1 and not (whole and facts.kernels == "cpu")


def _pads(node: Node, facts: DeviceFacts) -> Pads | None:
    """The padding of a convolution that there is a kernel for; None for any other node."""
    layer = node.layer
    if not isinstance(layer, (Conv2d, ConvTranspose2d)):
        return None
    window, weight = layer.window, node.inputs[1]
    assert isinstance(weight, Value)
    plain = any(value.spec.layout == "plain" for value in node.reads)
    if _unfit(window, weight.spec, facts) or plain:
        return None
    pads: Pads = window.pads
    if isinstance(layer, ConvTranspose2d):
        (top, bottom), (left, right) = pads
        most = window.kernel[0] - 1
        pads = (most - top, most - bottom), (most - left, most - right)
    return pads if min(min(pads[0]), min(pads[1])) >= 0 else None


def _sides(node: Node, facts: DeviceFacts, images: int, train: bool) -> tuple[int, ...]:
    """Sides of the tiles whose modelled time is enough below that of the direct method, the fastest first."""
    weight, y = node.inputs[1], _result(node)
    assert isinstance(weight, Value)
    k, c, taps, _ = weight.spec.shape
    if min(k, c) < facts.block:
        return ()
    shape = (images or y.shape[0], *y.shape[1:])
    if facts.kernels == "cpu":
        groups = weight.spec.groups
        problem = k, c * groups, taps, groups, facts.block, facts.compute_units, facts.accumulators
        prices = {}
        for side in SIDES[taps]:
            ways = winograd_ways(tile_count(shape, taps, side), *problem, side)
            prices[side] = ways[0][0]
        direct = taps**2 * math.prod(shape) // k * blocks(k, facts.block) * c / facts.compute_units
        return tuple(sorted((side for side in prices if prices[side] < GAIN * direct), key=prices.__getitem__))
    passes = FILTER_PASSES if train else 1
    cycles = winograd_cycles(facts, weight.spec, TensorSpec(shape), tuple(FILTERS), passes)
    return tuple(sorted((side for side in FILTERS if cycles[side] < GAIN * cycles[0]), key=cycles.__getitem__))


def transformed_filters(w: Array, side: int) -> Array:
    """Filters (K, C, 3, 3) as (K, C, side, side), in float32."""
    # The points first, as they are stored: a quarter of the time with them last.
    both = np.kron(FILTERS[side], FILTERS[side]).astype(np.float32)
    products = both @ np.asarray(w, np.float32).reshape(-1, 9).T
    points: Array = products.reshape(side, side, *w.shape[:2]).transpose(2, 3, 0, 1)
    return points


def _transformed(graph: Graph, weight: Value, side: int) -> Value:
    """A persistent value with the transformed filters, computed on the host when weights are loaded."""
    k, c = weight.spec.shape[:2]
    parameter = weight.parameter
    assert parameter is not None

    def derive(arrays: Mapping[str, Array]) -> Array:
        w = parameter.derive(arrays) if parameter.derive else arrays[weight.name]
        return transformed_filters(np.asarray(w).reshape(-1, c, 3, 3), side)

    shape = (k, c, side, side)
    by_rows = parameter.derive is None or parameter.derived_by_rows
    spec = TensorSpec(shape, layout="winograd")
    return graph.persist(
        f"{weight.name}.winograd", spec, "param", Parameter(shape, derive=derive, derived_by_rows=by_rows)
    )
