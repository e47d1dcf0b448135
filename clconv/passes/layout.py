"""Inserts the conversions between row-major arrays and channel blocks that layers and outputs need."""

from __future__ import annotations

from .._core.layout import ToBlocks, ToPlain
from ..graph import Graph, Node, Operand, Value


def convert_layouts(graph: Graph) -> None:
    """Gives every layer its inputs in a layout that it reads, and the host its outputs row-major.

    A conversion is made once, in front of its first reader, and shared by all.
    """
    converted: dict[tuple[Value, str], Value] = {}
    nodes, graph.nodes = graph.nodes, []

    def converted_to(value: Value, layouts: tuple[str, ...], name: str) -> Value:
        if value.persistent or value.spec.layout in layouts:
            return value
        wanted = layouts[0]
        if (value, wanted) not in converted:
            layer = ToBlocks() if wanted == "block" else ToPlain()
            converted[value, wanted] = graph.add(layer, [value], name)[0]
        return converted[value, wanted]

    def operand_for(node: Node, name: str, operand: Operand) -> Operand:
        layouts = node.layer.accepts.get(name, ("block",))
        if isinstance(operand, tuple):
            return tuple(converted_to(piece, ("block",), node.name) for piece in operand)
        return None if operand is None else converted_to(operand, layouts, node.name)

    for node in nodes:
        node.inputs = tuple(
            operand_for(node, name, operand) for name, operand in zip(node.layer.inputs, node.inputs, strict=True)
        )
        graph.nodes.append(node)
    for name, value in graph.outputs.items():
        if value.spec.layout == "block":
            graph.outputs[name] = converted_to(value, ("plain",), name)
