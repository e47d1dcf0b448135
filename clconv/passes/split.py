"""Splits weights that a device cannot hold in one piece: fully-connected layers become several of fewer outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .._core.elementwise import Concat
from .._core.fc import FullyConnected
from ..device import DeviceFacts
from ..graph import Graph, Node, Parameter, Value
from ..packing import Array
from ..shapes import TensorSpec, blocks


def split_weights(graph: Graph, facts: DeviceFacts) -> None:
    """Cuts weights and biases of fully-connected layers along their outputs where one allocation does not hold them.

    The outputs are joined. Each part has its own gradient and optimizer state, and none is larger than that.

    What the host gets and sets are the whole arrays, see `Parameter.whole`. Weights of which a channel block alone does
    not fit stay, and are refused by name when they are laid out.
    """
    nodes, graph.nodes = graph.nodes, []
    for node in nodes:
        weight = node.inputs[1] if type(node.layer) is FullyConnected else None
        rows = _rows(weight, facts) if isinstance(weight, Value) else 0
        if rows:
            _split(graph, node, rows)
        else:
            graph.nodes.append(node)


def state_of(weight: Value, name: str) -> Parameter | None:
    """The parameter of a state that an optimizer keeps of a weight: a part, where the weight is one."""
    if weight.parameter is None or weight.parameter.whole is None:
        return None
    whole, begin = weight.parameter.whole
    return _part(Parameter(weight.parameter.public_shape), f"{whole}.{name}", begin)


def _part(parameter: Parameter, whole: str, begin: int) -> Parameter:
    """The parameter with its public shape, cut from the array of a name, from row `begin` on."""
    shape = parameter.public_shape

    def derive(arrays: Mapping[str, Array]) -> Array | None:
        array = arrays.get(whole)
        return None if array is None else array.reshape(-1, *shape[1:])[begin : begin + shape[0]]

    return replace(parameter, derive=derive, whole=(whole, begin))


def _rows(weight: Value, facts: DeviceFacts) -> int:
    """Outputs of each part, whole channel blocks; 0: the weight stays in one piece."""
    k, block = weight.spec.shape[0], facts.block
    nbytes = weight.spec.nbytes(block)
    if nbytes <= facts.max_alloc_bytes:
        return 0
    return facts.max_alloc_bytes // (nbytes // blocks(k, block)) * block


def _split(graph: Graph, node: Node, rows: int) -> None:
    x, weight, bias = node.inputs
    assert isinstance(weight, Value)
    k = weight.spec.shape[0]
    pieces: list[Value] = []
    for begin in range(0, k, rows):
        end = min(begin + rows, k)
        parts: list[Value | None] = []
        for whole in (weight, bias):
            if not isinstance(whole, Value):
                parts.append(None)
                continue
            spec = whole.spec
            shape = (end - begin, *spec.shape[1:]) if spec.layout == "filter" else (1, end - begin, 1, 1)
            assert whole.parameter is not None
            parameter = replace(whole.parameter, public_shape=(end - begin, *whole.parameter.public_shape[1:]))
            cut = TensorSpec(shape, spec.dtype, spec.layout)
            name = f"{whole.name}[{begin}:{end}]"
            parts.append(graph.persist(name, cut, whole.role, _part(parameter, whole.name, begin)))
        pieces += graph.add(node.layer, [x, *parts], node.name)
    (y,) = node.outputs
    graph.nodes.append(Node(Concat(len(pieces)), tuple(pieces), node.outputs, node.name))
    y.producer = graph.nodes[-1]
    for whole in (weight, bias):
        if isinstance(whole, Value):
            del graph.persistent[whole.name]
