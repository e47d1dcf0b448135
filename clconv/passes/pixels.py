"""In training, convolutions of one tap with a stride see every so many pixels only: those are taken out first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._core.conv import Conv2d, ConvGradW, ConvTranspose2d
from .._core.elementwise import Add
from .._core.pixels import SpreadPixels, TakePixels
from .._core.window import Window
from ..device import DeviceFacts
from ..graph import Graph, Node, Value

_TAP = Window((1, 1))


def take_pixels(graph: Graph, facts: DeviceFacts) -> None:
    """Puts `TakePixels` in front of such convolutions and of their weight gradients, and `SpreadPixels` behind their
    input gradients, which adds to the gradient of another path where one meets it; with the same bits (a zero may
    change its sign).

    For kernels of the CPU class, which read neighbouring pixels for every pair of channel blocks. The gradient takes
    the pixels out again, so that they need not be kept.
    """
    if facts.kernels != "cpu":
        return
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        if not _fits(node):
            graph.nodes.append(node)
        elif type(node.layer) is ConvTranspose2d:
            _spread(graph, node)
        else:
            seen = node.outputs[0] if type(node.layer) is Conv2d else node.reads[1]
            _, _, rows, columns = seen.spec.shape
            (taken,) = graph.add(TakePixels(_window(node).stride, (rows, columns)), [node.inputs[0]], node.name)
            node.layer = node.layer.with_(window=_TAP)
            node.inputs = (taken, *node.inputs[1:])
            graph.nodes.append(node)
    readers = graph.readers()
    for node in [n for n in graph.nodes if type(n.layer) is SpreadPixels]:
        _add_onto(graph, readers, node)


def _window(node: Node) -> Any:
    return node.layer.window  # type: ignore[attr-defined]


def _fits(node: Node) -> bool:
    """Whether it has one tap, a stride and no padding, over channel blocks of one value; a gradient's no bias."""
    layer, x = node.layer, node.inputs[0] if node.inputs else None
    if type(layer) not in (Conv2d, ConvGradW, ConvTranspose2d) or not isinstance(x, Value) or x.spec.layout != "block":
        return False
    window = _window(node)
    if type(layer) is ConvTranspose2d and (node.inputs[2] is not None or layer.activation != "none"):
        return False
    return bool(window.kernel == (1, 1) and window.stride != (1, 1) and window.pads == ((0, 0), (0, 0)))


def _spread(graph: Graph, node: Node) -> None:
    layer, (y,) = node.layer, node.outputs
    x = node.reads[0]
    (small,) = graph.add(ConvTranspose2d(_TAP, x.spec.shape[2:]), node.inputs, node.name)
    spread = Node(SpreadPixels(_window(node).stride, layer.size), (small,), (y,), node.name)  # type: ignore[attr-defined]
    y.producer = spread
    graph.nodes.append(spread)


def _add_onto(graph: Graph, readers: Mapping[Value, list[Node]], spread: Node) -> None:
    """Where the spread gradient is only summed with that of another path, it is added to that one."""
    (add,) = found if len(found := readers.get(spread.outputs[0], [])) == 1 else (None,)
    if add is None or type(add.layer) is not Add or len(add.inputs) != 2 or add.layer.activation != "none":
        return
    (other,) = [value for value in add.reads if value is not spread.outputs[0]] or (None,)
    if other is None:
        return
    graph.nodes.remove(spread)
    add.layer = spread.layer.with_(adds=True)
    add.inputs = (spread.inputs[0], other)
