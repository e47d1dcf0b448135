"""Long-lived activations wait in host memory: copied there when they are made, and back before they are read again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .._core.layout import Restore, Spill
from ..graph import Graph, Node, Value, replaced

SMALL_BYTES = 32 << 10  # what is smaller stays
IDLE_NODES = 3  # at least so many between two uses: the copies' way out and back takes one each


@dataclass(frozen=True)
class Idle:
    """An activation that nobody reads for a while: `gaps` are the nodes (last near use, next use) around that."""

    value: Value
    made: int
    gaps: tuple[tuple[int, int], ...]
    bytes_saved: int  # times the nodes that it is idle for


def idle(graph: Graph, block: int) -> list[Idle]:
    """Activations worth spilling, those first that take the most bytes for the most nodes."""
    uses: dict[Value, list[int]] = {}
    for number, node in enumerate(graph.nodes):
        for value in (*dict.fromkeys(node.reads), *node.outputs):
            uses.setdefault(value, []).append(number)
    kept = {*graph.outputs.values()}
    found = []
    for value, at in uses.items():
        gaps = tuple((a, b) for a, b in pairwise(at) if b - a > IDLE_NODES)
        size = value.spec.nbytes(block)
        if value.role == "activation" and value not in kept and gaps and size >= SMALL_BYTES:
            found.append(Idle(value, at[0], gaps, size * sum(b - a for a, b in gaps)))
    return sorted(found, key=lambda each: -each.bytes_saved)


def spill(graph: Graph, block: int, count: int) -> None:
    """Sends the `count` activations to the host's memory that are most worth it."""
    before: dict[int, list[Node]] = {}
    for each in idle(graph, block)[:count]:
        value, maker = each.value, graph.nodes[each.made]
        out = Node(Spill(), (value,), (), maker.name)
        held = Value(f"{value.name} held", value.spec, "host", producer=out)
        out.outputs = (held,)
        before.setdefault(each.made + 1, []).append(out)
        present = value
        for number, (_, then) in enumerate(each.gaps):
            back = Node(Restore(), (held,), (), maker.name)
            label = f"{value.name} back" + (f" {number + 1}" if number else "")
            back.outputs = (Value(label, value.spec, producer=back),)
            before.setdefault(then, []).append(back)
            for node in graph.nodes[then:]:
                node.inputs = tuple(replaced(operand, present, back.outputs[0]) for operand in node.inputs)
            present = back.outputs[0]
    graph.nodes = [each for i, node in enumerate(graph.nodes) for each in (*before.get(i, []), node)]
