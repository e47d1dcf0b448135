"""Long-lived activations wait until they are read again: in host memory, or as float16."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from .._core.half import ToFloat, ToHalf
from .._core.layer import Layer
from .._core.layout import Restore, Spill
from ..graph import Graph, Node, Value, replaced
from .recompute import forward_count

SMALL_BYTES = 32 << 10  # what is smaller stays
IDLE_NODES = 3  # at least so many between two uses: the copies' way out and back takes one each


@dataclass(frozen=True)
class Idle:
    """An activation that nobody reads for a while: `gaps` are the nodes (last near use, next use) around that."""

    value: Value
    made: int
    gaps: tuple[tuple[int, int], ...]
    bytes_saved: int  # times the nodes that it is idle for, if it goes away


Waits = tuple[Idle, int, Layer, Layer]  # what waits, behind which node, and the layers of its way out and back


def idle(graph: Graph, block: int) -> list[Idle]:
    """Activations that may wait, those first that take the most bytes for the most nodes."""
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


def halvable(value: Value, block: int) -> bool:
    """Whether it may wait as float16: large, of float32 values."""
    return value.spec.dtype == "float32" and value.spec.nbytes(block) >= SMALL_BYTES


def wait(graph: Graph, block: int, spilled: int, halved: int) -> None:
    """Lets the `spilled` activations that are most worth it wait in host memory, and the `halved` next ones as float16.

    What is spilled goes as soon as it is made, while others read it; what is halved once they have.
    """
    found = idle(graph, block)
    halves = [each for each in found[spilled:] if halvable(each.value, block)][:halved]
    waiting: list[Waits] = [(each, each.made, Spill(), Restore()) for each in found[:spilled]]
    _insert(graph, waiting + [(each, each.gaps[0][0], ToHalf(), ToFloat()) for each in halves])


def halve_kept(graph: Graph, block: int) -> None:
    """Of a training step: what the forward pass made and gradients read waits for them as float16.

    Gradients themselves do not, and the forward pass reads everything as it was made: loss and statistics keep their
    bits.
    """
    count = forward_count(graph)
    back = _gradients(graph, count)
    waiting: list[Waits] = []
    for each in idle(graph, block):
        gaps = tuple(gap for gap in each.gaps if gap[1] >= count)
        if gaps and each.value not in back and halvable(each.value, block):
            waiting.append((replace(each, gaps=gaps), gaps[0][0], ToHalf(), ToFloat()))
    _insert(graph, waiting)


def _gradients(graph: Graph, count: int) -> set[Value]:
    """What is computed from the gradient of the loss."""
    found = {*graph.nodes[count - 1].outputs}
    for node in graph.nodes[count:]:
        if not found.isdisjoint(node.reads):
            found.update(node.outputs)
    return found


def _insert(graph: Graph, waiting: Iterable[Waits]) -> None:
    """Sends each value out behind a node, by a layer, and brings it back before it is read, by another."""
    before: dict[int, list[Node]] = {}
    for each, left, leave, come in waiting:
        value, maker = each.value, graph.nodes[each.made]
        out = Node(leave, (value,), (), maker.name)
        (spec,) = leave.infer([value.spec])
        held = Value(f"{value.name} held", spec, "host" if isinstance(leave, Spill) else "activation", producer=out)
        out.outputs = (held,)
        before.setdefault(left + 1, []).append(out)
        present = value
        for number, (_, then) in enumerate(each.gaps):
            back = Node(come, (held,), (), maker.name)
            label = f"{value.name} back" + (f" {number + 1}" if number else "")
            back.outputs = (Value(label, value.spec, producer=back),)
            before.setdefault(then, []).append(back)
            for node in graph.nodes[then:]:
                node.inputs = tuple(replaced(operand, present, back.outputs[0]) for operand in node.inputs)
            present = back.outputs[0]
    graph.nodes = [each for i, node in enumerate(graph.nodes) for each in (*before.get(i, []), node)]
