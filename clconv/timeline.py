"""Bytes alive over the steps of a plan, by what they are for: what pictures and traces of memory show."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from ._core.layout import Upload
from .graph import Graph, Node, Value
from .passes import GRADIENT
from .plan import MAPPED, STREAMED, Plan
from .planner import Interval

PERSISTENT = {
    "weights": "weights",
    "optimizer": "optimizer state",
    "gradients": "gradients of parts of a batch",
    "control": "counters",
}
ACTIVATIONS, GRADIENTS, WORKSPACE, STAGING = "activations", "gradients", "workspace", "staging"
HALVES = "activations as float16"


@dataclass(frozen=True)
class Timeline:
    """What is alive while a plan runs, and then, where it has them, its stages behind.

    Attributes:
        labels: the layer of each step. places: where each step begins on a line on which every node of the graphs
            takes one unit, and at last the line's end; the steps of a segment share its nodes' units evenly.
        bytes: of each kind, at each step. held_bytes: what the plan holds on the device throughout, arena included.
        mapped_bytes, streamed_bytes: weights in mapped files, which no kind counts; of those that are brought to the
            device in parts, what is there is "staging". host_bytes: of activations that wait in host memory, likewise.
    """

    labels: tuple[str, ...]
    places: tuple[float, ...]
    bytes: dict[str, tuple[int, ...]]
    held_bytes: int
    mapped_bytes: int
    streamed_bytes: int
    host_bytes: int

    @property
    def totals(self) -> list[int]:
        """Bytes of all kinds at each step."""
        return [sum(column) for column in zip(*self.bytes.values(), strict=True)]

    @property
    def transient(self) -> list[int]:
        """Bytes at each step of what does not outlive a run."""
        kinds = [amounts for kind, amounts in self.bytes.items() if kind not in PERSISTENT.values()]
        return [sum(column) for column in zip(*kinds, strict=True)]


def timeline(plan: Plan) -> Timeline:
    """Bytes alive at each step of a plan; in training of one part of a batch."""
    steps = [step for stage in plan.stages for step in stage.schedule.steps]
    found: dict[str, list[int]] = {}
    for tag, sizes in plan.residence.slab_bytes.items():
        if tag not in (MAPPED, STREAMED):
            found[PERSISTENT.get(tag, tag)] = [sum(sizes)] * len(steps)
    begin, places = 0, [0.0]
    for stage in plan.stages:
        count = len(stage.schedule.steps)
        for kind, amounts in _transient(stage).items():
            found.setdefault(kind, [0] * len(steps))[begin : begin + count] = amounts
        places += [places[-1] + place for place in _places(stage)[1:]]
        begin += count
    order = [*PERSISTENT.values(), HALVES, ACTIVATIONS, GRADIENTS, WORKSPACE, STAGING]
    kinds = sorted(found, key=lambda kind: order.index(kind) if kind in order else len(order))
    return Timeline(
        tuple(step.node.name for step in steps),
        tuple(places),
        {kind: tuple(found[kind]) for kind in kinds},
        plan.peak_bytes,
        plan.mapped_bytes,
        plan.streamed_bytes,
        plan.host_bytes,
    )


def _transient(plan: Plan) -> dict[str, list[int]]:
    """Bytes of each kind in the arena at each step of one stage."""
    steps = plan.schedule.steps
    found: dict[str, list[int]] = {}
    back = gradients(plan.graph)
    first: dict[Value, int] = {}
    for number, step in enumerate(steps):
        for view in step.outputs:
            first.setdefault(view.value, number)
    staged = {view.value for step in steps if isinstance(step.layer, Upload) for view in step.outputs}
    for interval in plan.intervals:
        for kind, start, stop in _kinds(interval, back, staged, first, len(steps)):
            amounts = found.setdefault(kind, [0] * len(steps))
            for number in range(start, stop):
                amounts[number] += interval.nbytes
    return found


def _kinds(
    interval: Interval, back: set[Value], staged: set[Value], first: dict[Value, int], count: int
) -> list[tuple[str, int, int]]:
    """(kind, step, step behind the last) for what lives in a piece of memory in turn; `first`: when it is written."""
    if not interval.values or interval.spans or interval.values[0] in staged:
        value = interval.values[0] if interval.values else None
        kind = WORKSPACE if value is None else STAGING if value in staged else _kind(value, back)
        return [(kind, start, min(end + 1, count)) for start, end in interval.lives]
    found, stop = [], min(interval.end + 1, count)
    for value, then in zip_longest(interval.values, interval.values[1:]):
        end = stop if then is None else first[then]
        found.append((_kind(value, back), first.get(value, interval.start), end))
    return found


def _kind(value: Value, back: set[Value]) -> str:
    if value.spec.dtype == "float16":
        return HALVES
    return GRADIENTS if value in back else ACTIVATIONS


def gradients(graph: Graph) -> set[Value]:
    """What is computed from the gradient of the loss, and what is given of it."""
    loss = graph.outputs.get("loss")
    found = {graph.inputs[GRADIENT]} if GRADIENT in graph.inputs else set()
    for node in graph.nodes:
        if loss is not None and loss in node.outputs:
            found.update(value for value in node.outputs if value not in graph.outputs.values())
        elif not found.isdisjoint(node.reads):
            found.update(node.outputs)
    return found


def served(plan: Plan) -> list[Node]:
    """For each step the node that it serves; for an upload ahead of its time the one that computes meanwhile."""
    found: list[Node] = []
    for step in reversed(plan.schedule.steps):
        found.append(found[-1] if isinstance(step.layer, Upload) and found else step.node)
    return found[::-1]


def _places(plan: Plan) -> tuple[float, ...]:
    number = {node: i for i, node in enumerate(plan.graph.nodes)}
    inside = {i: segment for segment in plan.segments for i in range(segment.start, segment.stop)}
    counts: dict[object, int] = {}
    spans: list[tuple[object, int, int]] = []
    for node in served(plan):
        i = number[node]
        segment = inside.get(i)
        span = (i, i, i + 1) if segment is None else (segment, segment.start, segment.stop)
        spans.append(span)
        counts[span[0]] = counts.get(span[0], 0) + 1
    places, seen = [], dict.fromkeys(counts, 0)
    for key, start, stop in spans:
        places.append(start + (stop - start) * seen[key] / counts[key])
        seen[key] += 1
    return (*places, float(len(plan.graph.nodes)))


def counter(name: str, at_us: float, amounts: dict[str, int]) -> dict[str, Any]:
    """A counter event of Chrome's and Perfetto's traces; `at_us` is in microseconds."""
    return {"ph": "C", "name": name, "pid": 1, "tid": 1, "ts": at_us, "args": amounts}


def named_process(name: str, thread: str) -> list[dict[str, Any]]:
    """The events that name the only process and thread of a trace."""
    return [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": name}},
        {"ph": "M", "pid": 1, "tid": 1, "name": "thread_name", "args": {"name": thread}},
    ]


def trace(plan: Plan, name: str, seconds: list[float]) -> dict[str, Any]:
    """A plan for Chrome's and Perfetto's viewers: its steps, and counters of the bytes alive.

    Args:
        seconds: that each step takes, modelled: nothing has run.
    """
    line, steps = timeline(plan), [step for stage in plan.stages for step in stage.schedule.steps]
    events = named_process(name, "steps, modelled")
    at = 0.0
    for number, (label, took) in enumerate(zip(line.labels, seconds, strict=True)):
        amounts = {kind: values[number] for kind, values in line.bytes.items()}
        events.append(counter("live bytes", at, amounts))
        step = steps[number]
        about = {"operator": step.layer.operator, "algorithm": step.choice.name}
        events.append({"ph": "X", "name": label, "pid": 1, "tid": 1, "ts": at, "dur": 1e6 * took, "args": about})
        at += 1e6 * took
    return {"traceEvents": events, "displayTimeUnit": "ms"}
