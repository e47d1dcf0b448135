"""The reverse graph: asks each layer for the layers of its gradient and appends them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ._core.elementwise import Add
from ._core.plain_elementwise import Binary
from .errors import ArgumentError
from .graph import Graph, Node, Operand, Value


def differentiate(
    graph: Graph,
    seeds: Mapping[Value, Value],
    wanted: Iterable[Value],
    ready: Callable[[Value, Value], None] | None = None,
) -> dict[Value, Value]:
    """Appends to `graph` what computes gradients of `wanted`, by walking its nodes backwards.

    Args:
        seeds: {value: value that holds the gradient with respect to it}.
        wanted: inputs or parameters whose gradients are asked for.
        ready: called as ready(value, gradient) as soon as the gradient of a wanted persistent value is
            complete and no later node of the reverse graph reads the value itself: an update may follow.

    Returns:
        {value: gradient} for all of `wanted` that the seeds depend on.

    Raises:
        ArgumentError: a layer on the way has no gradient; it is named.
    """
    goals = set(wanted)
    forward = list(graph.nodes)
    relevant = _depends_on(forward, goals)
    first_reader: dict[Value, Node] = {}
    for node in reversed(forward):
        for value in node.reads:
            first_reader[value] = node
    gradients: dict[Value, Value] = dict(seeds)
    for node in reversed(forward):
        dy = {n: gradients[v] for n, v in zip(node.layer.outputs, node.outputs, strict=True) if v in gradients}
        if dy and any(value in relevant for value in node.reads):
            _reverse(graph, node, dy, relevant, gradients)
        if ready is not None:
            for value in dict.fromkeys(node.reads):
                if value in goals and value.persistent and first_reader[value] is node and value in gradients:
                    ready(value, gradients[value])
    return {value: gradients[value] for value in goals if value in gradients}


def _depends_on(nodes: list[Node], goals: set[Value]) -> set[Value]:
    """Values whose gradient is needed to reach `goals`."""
    relevant = set(goals)
    for node in nodes:
        if any(value in relevant for value in node.reads):
            relevant.update(node.outputs)
    return relevant


def _reverse(
    graph: Graph, node: Node, dy: dict[str, Value], relevant: set[Value], gradients: dict[Value, Value]
) -> None:
    layer = node.layer
    if not layer.differentiable:
        raise ArgumentError(f"{node.name}: {type(layer).__name__} has no gradient, so nothing before it can be trained")
    operands = dict(zip(layer.inputs, node.inputs, strict=True))
    wanted = {n for n, operand in operands.items() if operand in relevant}
    values: dict[str, Operand] = {**operands, **dict(zip(layer.outputs, node.outputs, strict=True))}

    def emit(gradient_layer: Any, *inputs: Operand) -> Any:
        outputs = graph.add(gradient_layer, inputs, node.name)
        return outputs if len(outputs) > 1 else outputs[0]

    found = layer.gradient(emit, values, dy, wanted)
    for name in sorted(wanted, key=layer.inputs.index):
        operand, gradient = operands[name], found[name]
        assert isinstance(operand, Value), f"{node.name}: gradients of pieces are not taken"
        if operand in gradients:
            terms = [gradients[operand], gradient]
            both_plain = all(term.spec.layout == "plain" for term in terms)
            gradient = graph.add(Binary("add") if both_plain else Add(2), terms, operand.name)[0]
        gradients[operand] = gradient
