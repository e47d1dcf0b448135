"""When each transient tensor is alive, and which ones share memory because one is overwritten by the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..graph import Graph, Node, Value
from ..shapes import TensorSpec


@dataclass
class Interval:
    """A piece of memory: alive from step `start` through step `end`, both included.

    `values` live in it one after the other (in-place layers); a workspace has none, but the `node` it serves.
    """

    start: int
    end: int
    nbytes: int
    values: list[Value] = field(default_factory=list)
    node: Node | None = None


def lifetimes(graph: Graph, block: int, workspace_bytes: Mapping[Node, int]) -> list[Interval]:
    """Intervals of all inputs, activations and workspaces of `graph`; step i is node i.

    An input is alive from step 0 on (the host writes it before), an output until after the last step.
    """
    last_step = len(graph.nodes)
    last: dict[Value, int] = {}
    for step, node in enumerate(graph.nodes):
        for value in (*node.reads, *node.outputs):
            last[value] = step
    for value in graph.outputs.values():
        last[value] = last_step
    home: dict[Value, Interval] = {}
    intervals: list[Interval] = []
    taken: set[Value] = set()

    def open_interval(value: Value, start: int) -> None:
        home[value] = Interval(start, last.get(value, start), value.spec.nbytes(block), [value])
        intervals.append(home[value])

    for value in graph.inputs.values():
        open_interval(value, 0)
    for step, node in enumerate(graph.nodes):
        for value in node.outputs:
            dying = _takeover(node, value, last, step, block)
            if dying is not None and dying not in taken and home[dying].end == step:
                taken.add(dying)
                home[value] = home[dying]
                home[value].end = last[value]
                home[value].values.append(value)
            else:
                open_interval(value, step)
        if workspace_bytes.get(node):
            intervals.append(Interval(step, step, workspace_bytes[node], node=node))
    return intervals


def _takeover(node: Node, value: Value, last: Mapping[Value, int], step: int, block: int) -> Value | None:
    """The input that dies here and whose memory `value` may take over, if there is one."""
    layer = node.layer
    name = layer.outputs[node.outputs.index(value)]
    for candidate in layer.inplace.get(name, ()):
        operand = node.inputs[layer.inputs.index(candidate)]
        if (
            isinstance(operand, Value)
            and operand.role == "activation"
            and last[operand] == step
            and node.reads.count(operand) == 1
            and (layer.reinterprets or _storage(operand.spec) == _storage(value.spec))
            and operand.spec.nbytes(block) == value.spec.nbytes(block)
        ):
            return operand
    return None


def _storage(spec: TensorSpec) -> tuple[object, ...]:
    return spec.shape, spec.dtype, spec.layout, spec.groups


def live_bytes(intervals: list[Interval], steps: int) -> list[int]:
    """Bytes alive at each step."""
    changes = [0] * (steps + 2)
    for interval in intervals:
        changes[interval.start] += interval.nbytes
        changes[min(interval.end, steps) + 1] -= interval.nbytes
    live, total = [], 0
    for change in changes[: steps + 1]:
        total += change
        live.append(total)
    return live
