"""Images and results stay in the caller's arrays: strips of them are copied from there, and to there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from .._core.layout import Restore, Spill
from ..graph import Graph, Node, Value, replaced
from .waiting import IDLE_NODES, SMALL_BYTES


def lend_ends(graph: Graph, block: int) -> Graph:
    """The same graph with copies of the large inputs and outputs that layers compute in strips; itself without any.

    An input is copied before its first reader, and again before one that comes much later; an output as soon as it is
    made. Both graphs share their values and nodes, but for those late readers.
    """
    inputs = [(name, value) for name, value in graph.inputs.items() if _large(value, block)]
    made = [*graph.outputs.values()]
    outputs = [
        (name, value)
        for name, value in graph.outputs.items()
        if _large(value, block) and value.role == "activation" and value.producer and made.count(value) == 1
    ]
    found = replace(graph, nodes=[*graph.nodes], inputs=dict(graph.inputs), outputs=dict(graph.outputs))
    for name, value in inputs:
        found.inputs[name] = Value(name, value.spec, "lent")
        _bring(found, found.inputs[name], value)
    for name, value in outputs:
        node = Node(Spill(lent=True), (value,), (), name)
        found.outputs[name] = Value(name, value.spec, "lent", producer=node)
        node.outputs = (found.outputs[name],)
        place = next(i for i, each in enumerate(found.nodes) if value in each.outputs)
        found.nodes.insert(place + 1, node)
    return found if inputs or outputs else graph


def _large(value: Value, block: int) -> bool:
    """Whether it is an image worth copying in strips."""
    spec = value.spec
    image = len(spec.shape) == 4 and spec.shape[2] > 1 and spec.dtype == "float32" and spec.layout == "plain"
    return image and spec.nbytes(block) >= SMALL_BYTES


def _bring(graph: Graph, lent: Value, value: Value) -> None:
    """Copies what is lent before it is read: what `value` was for the first readers, others for late ones."""
    at = [number for number, node in enumerate(graph.nodes) if value in node.reads]
    late = [then for last, then in pairwise(at) if then - last > IDLE_NODES]
    for number, then in reversed([*enumerate([*at[:1], *late])]):
        back = value if number == 0 else Value(f"{value.name} again", value.spec)
        for i in at if number else ():
            if i >= then and value in graph.nodes[i].reads:
                graph.nodes[i] = _reading(graph.nodes[i], value, back)
        graph.nodes.insert(then, Node(Restore(lent=True), (lent,), (back,), value.name))


def _reading(node: Node, old: Value, new: Value) -> Node:
    """The node with another value in place of one that it reads."""
    return Node(node.layer, tuple(replaced(operand, old, new) for operand in node.inputs), node.outputs, node.name)
