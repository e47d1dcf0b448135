"""Weights are stored as float16; arithmetic stays float32."""

from __future__ import annotations

from dataclasses import replace

from ..graph import Graph, Node, Value

SMALL_BYTES = 16 << 10  # what is smaller stays as it is


def halve_weights(graph: Graph, block: int) -> None:
    """Stores large weights as float16 whose readers all read that."""
    readers = graph.readers()
    for value in graph.persistent.values():
        large = value.spec.layout == "filter" and value.spec.nbytes(block) >= SMALL_BYTES
        if large and value.role == "param" and all(_reads_half(node, value) for node in readers.get(value, [])):
            value.spec = replace(value.spec, dtype="float16")


def _reads_half(node: Node, value: Value) -> bool:
    operands = zip(node.layer.inputs, node.inputs, strict=True)
    return all(operand is not value or name in node.layer.halves for name, operand in operands)
