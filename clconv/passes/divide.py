"""Divides a graph in front of its first fully-connected layer: behind it are most of the weights."""

from __future__ import annotations

from .._core.fc import FullyConnected
from .._core.layout import ToBlocks, ToPlain
from ..graph import Graph, Node, Value, replaced

FEATURES = "features"  # what passes from one part to the other
GRADIENT = "gradient"  # of the loss, what comes back for it


def divide(graph: Graph, *, train: bool = False) -> tuple[Graph, Graph] | None:
    """The two parts, each a graph of its own; None where one value alone does not separate them.

    All layers of the first compute images one by one, so that it may take fewer of them at a time.

    Args:
        train: it is the forward pass of a step whose batch may come in parts, so that this need not be looked at.
    """
    place = _cut(graph, train)
    if place is None:
        return None
    nodes, value = graph.nodes, graph.nodes[place].inputs[0]
    assert isinstance(value, Value)
    front, back = Graph(), Graph()
    front.inputs, front.nodes, front.persistent = dict(graph.inputs), nodes[:place], dict(graph.persistent)
    (front.outputs[FEATURES],) = front.add(ToPlain(), [value], FEATURES)
    front.prune()
    given = back.input(FEATURES, front.outputs[FEATURES].spec)
    (blocks,) = back.add(ToBlocks(), [given], FEATURES)
    for node in nodes[place:]:
        inputs = tuple(replaced(operand, value, blocks) for operand in node.inputs)
        twin = Node(node.layer, inputs, node.outputs, node.name)
        back.nodes.append(twin)
        for output in twin.outputs:
            output.producer = twin
    back.outputs, back.persistent = dict(graph.outputs), dict(graph.persistent)
    back.prune()
    return front, back


def _cut(graph: Graph, train: bool) -> int | None:
    """The number of the first node of the second part."""
    place = next((i for i, node in enumerate(graph.nodes) if isinstance(node.layer, FullyConnected)), 0)
    if not place:
        return None
    before, after = graph.nodes[:place], graph.nodes[place:]
    made = {value for node in before for value in node.outputs} | {*graph.inputs.values()}
    crossing = {value for node in after for value in node.reads if value in made}
    crossing |= {value for value in graph.outputs.values() if value in made}
    (value, *others) = crossing
    one_by_one = train or all(node.layer.strips and len(node.outputs[0].spec.shape) == 4 for node in before)
    fits = value is after[0].inputs[0] and value.role == "activation" and value.spec.layout == "block"
    return place if fits and one_by_one and not others else None
