"""Strided first layers as convolutions at stride 1 over the phases of their stride, by Winograd's method."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .._core.conv import Conv2d
from .._core.conv_winograd import WinogradConv2d
from .._core.conv_winograd_tiles import tile_count, winograd_ways
from .._core.layout import ToPhases
from ..device import DeviceFacts
from ..graph import Graph, Node, Parameter, Value
from ..packing import Array
from ..shapes import TensorSpec

TAPS = (3, 4, 5)  # of a phase, a side
GAIN = 0.85  # of the direct method's time, at most
PHASES = ".phases"  # what the names of their weights end in


def split_strides(graph: Graph, facts: DeviceFacts, *, images: int = 0, least_rows: int = 0) -> None:
    """Replaces convolutions with a stride over row-major images that are faster so.

    At stride s, tap (R*s + r, S*s + t) of channel c is tap (R, S) of phase (r, t): a filter of 7x7 taps at stride 2 has
    4x4 taps over four times the channels, one of 11x11 at stride 4 has 3x3 over 16 times as many.

    Args:
        images: choose as for a batch of so many (0: as for the graph's own).
        least_rows: only convolutions with so many rows of results.
    """
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        if _fits(node) and node.outputs[0].spec.shape[2] >= least_rows and _pays(node, facts, images):
            _split(graph, node)
        graph.nodes.append(node)
    graph.prune()


def _fits(node: Node) -> bool:
    """Whether it is a square filter with a square stride over a row-major image, without groups and pooling."""
    layer, x = node.layer, node.inputs[0]
    if type(layer) is not Conv2d or layer.pool != "none" or not isinstance(x, Value) or x.spec.layout != "plain":
        return False
    weight, window = node.inputs[1], layer.window
    assert isinstance(weight, Value)
    (kernel, columns), (stride, across) = window.kernel, window.stride
    known = weight.parameter is not None and not weight.parameter.swap and weight.spec.layout == "filter"
    square = kernel == columns and stride == across > 1 and window.dilation == (1, 1)
    return bool(known and square and weight.spec.groups == 1 and -(-kernel // stride) in TAPS)


def _pays(node: Node, facts: DeviceFacts, images: int) -> bool:
    """Whether the modelled time is enough below that of the direct method."""
    (weight, y), stride = (node.inputs[1], node.outputs[0].spec), node.layer.window.stride[0]  # type: ignore[attr-defined]
    assert isinstance(weight, Value)
    k, c, kernel, _ = weight.spec.shape
    if k < facts.block:
        return False
    taps, shape = -(-kernel // stride), (images or y.shape[0], *y.shape[1:])
    tiles, channels = tile_count(shape, taps), c * stride**2
    ways = winograd_ways(tiles, k, channels, taps, 1, facts.block, facts.compute_units, facts.accumulators)
    direct = c * kernel**2 * math.prod(shape) / facts.block / facts.compute_units
    return bool(ways[0][0] < GAIN * direct)


def _split(graph: Graph, node: Node) -> None:
    """Puts the phases in front of a convolution."""
    x, weight, bias = node.inputs[:3]
    old, rows, columns = node.layer, *node.outputs[0].spec.shape[2:]
    assert isinstance(old, Conv2d) and isinstance(weight, Value)
    window, more = old.window, -(-weight.spec.shape[2] // old.window.stride[0]) - 1
    pads = (window.pads[0][0], window.pads[1][0])
    (phases,) = graph.add(ToPhases(window.stride, pads, (rows + more, columns + more)), [x], node.name)
    layer = WinogradConv2d(((0, 0), (0, 0)), taps=more + 1)
    node.layer = layer.with_(activation=old.activation, slope=old.slope, adds=old.adds)
    node.inputs = (phases, _weights(graph, weight, window.stride[0]), bias, *node.inputs[3:])


def _weights(graph: Graph, weight: Value, stride: int) -> Value:
    """A persistent value with the filters over phases, made on the host when weights are loaded."""
    name = weight.name + PHASES
    if name in graph.persistent:
        return graph.persistent[name]
    k, c, kernel, _ = weight.spec.shape
    taps, parameter = -(-kernel // stride), weight.parameter
    assert parameter is not None

    def derive(arrays: Mapping[str, Array]) -> Array:
        w = np.asarray(parameter.derive(arrays) if parameter.derive else arrays[weight.name], np.float32)
        more = taps * stride - kernel
        padded = np.pad(w.reshape(-1, c, kernel, kernel), ((0, 0), (0, 0), (0, more), (0, more)))
        split = padded.reshape(-1, c, taps, stride, taps, stride).transpose(0, 1, 3, 5, 2, 4)
        phases: Array = split.reshape(-1, *shape[1:])
        return phases

    shape = (k, c * stride**2, taps, taps)
    by_rows = parameter.derive is None or parameter.derived_by_rows
    spec = TensorSpec(shape, layout="filter")
    return graph.persist(name, spec, "param", Parameter(shape, derive=derive, derived_by_rows=by_rows))
