"""When each transient tensor is alive, and which ones share memory because one is overwritten by the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..graph import Graph, Node, Value
from ..shapes import TensorSpec
from .steps import Schedule, Step


@dataclass
class Interval:
    """A piece of memory: alive from step `start` through step `end`, both included.

    `values` live in it one after the other (in-place layers); a workspace has none, but the `node` it serves.
    `spans`: of what is dead in between (rows that no later strip needs), the steps (first, last) of each life.
    """

    start: int
    end: int
    nbytes: int
    values: list[Value] = field(default_factory=list)
    node: Node | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def hosted(self) -> bool:
        """Whether it is memory of the host."""
        return bool(self.values) and self.values[0].hosted

    @property
    def lives(self) -> list[tuple[int, int]]:
        """The steps (first, last) of each life, in order."""
        return self.spans or [(self.start, self.end)]

    def alive(self) -> int:
        """The steps at which it is alive, as bits: two intervals meet where these have one in common."""
        steps = 0
        for first, last in self.lives:
            steps |= ((1 << last - first + 1) - 1) << first
        return steps


def lifetimes(graph: Graph, schedule: Schedule, block: int) -> list[Interval]:
    """Intervals of all inputs, activations and workspaces of a graph over the steps of a schedule.

    An input is alive from step 0 on (the host writes it before), an output until after the last step.
    """
    last_step = len(schedule.steps)
    last: dict[Value, int] = {}
    for number, step in enumerate(schedule.steps):
        for view in step.views:
            last[view.value] = number
    for value in graph.outputs.values():
        last[value] = last_step
    home: dict[Value, Interval] = {}
    work: dict[Node, Interval] = {}
    intervals: list[Interval] = []
    taken: set[Value] = set()

    def open_interval(value: Value, start: int) -> None:
        nbytes = schedule.stored_spec(value).nbytes(block)
        home[value] = Interval(start, last.get(value, start), nbytes, [value])
        intervals.append(home[value])

    for value in graph.inputs.values():
        if not value.lent:
            open_interval(value, 0)
    for number, step in enumerate(schedule.steps):
        for view in step.views:
            if view.value in schedule.passing and view.value in home:
                _extend(home[view.value].spans, number, starts=view in step.outputs)
        for view in step.outputs:
            value = view.value
            if value in home or value.lent:
                continue  # more rows of it, or the caller's
            dying = _takeover(step, value, last, number, block) if step.whole else None
            if dying is not None and dying not in taken and home[dying].end == number:
                taken.add(dying)
                home[value] = home[dying]
                home[value].end = last[value]
                home[value].values.append(value)
            else:
                open_interval(value, number)
                if value in schedule.passing:
                    home[value].spans.append((number, number))
        if step.choice.workspace_bytes:
            _work(step, number, work, intervals)
    return intervals


def _work(step: Step, number: int, work: dict[Node, Interval], intervals: list[Interval]) -> None:
    """The workspace of a step; strips of one node take turns in one."""
    if step.node not in work:
        work[step.node] = Interval(number, number, 0, node=step.node)
        intervals.append(work[step.node])
    interval = work[step.node]
    interval.nbytes = max(interval.nbytes, step.choice.workspace_bytes)
    interval.end = number
    interval.spans.append((number, number))


def _extend(spans: list[tuple[int, int]], number: int, *, starts: bool) -> None:
    """Notes that a step touches what has these lives; `starts`: it writes anew."""
    if starts:
        spans.append((number, number))
    else:
        spans[-1] = (spans[-1][0], number)


def _takeover(step: Step, value: Value, last: Mapping[Value, int], number: int, block: int) -> Value | None:
    """The input that dies here and whose memory `value` may take over, if there is one."""
    node, layer = step.node, step.layer
    name = layer.outputs[node.outputs.index(value)]
    for candidate in layer.inplace.get(name, ()):
        operand = node.inputs[layer.inputs.index(candidate)]
        if (
            isinstance(operand, Value)
            and operand.role == "activation"
            and last[operand] == number
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
        for first, last in interval.lives:
            changes[first] += interval.nbytes
            changes[min(last, steps) + 1] -= interval.nbytes
    live, total = [], 0
    for change in changes[: steps + 1]:
        total += change
        live.append(total)
    return live
