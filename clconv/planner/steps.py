"""What runs one after the other: whole layers, or the layers of a segment in turn, strip of rows by strip of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .._core.layer import Choice, Layer
from .._core.layout import ShiftRows
from ..device import DeviceFacts
from ..graph import Graph, Node, Operand, Value
from ..shapes import TensorSpec
from .strips import Rows, Segment, heights, inner_values, strip_rows

Pick = Callable[[Sequence[Choice]], Choice]


@dataclass(frozen=True)
class View:
    """A value as a layer is given it: whole, or rows (begin, end), the first of which is row `at` of what is stored."""

    value: Value
    rows: Rows | None = None
    at: int = 0

    @property
    def spec(self) -> TensorSpec:
        """The spec of these rows."""
        return self.value.spec if self.rows is None else with_rows(self.value.spec, self.rows[1] - self.rows[0])


Reads = View | None | tuple[View, ...]


@dataclass(frozen=True, eq=False)
class Step:
    """A layer at work on a node's behalf: the node's own, or one that computes a strip of it or makes room for one."""

    node: Node
    layer: Layer
    choice: Choice
    inputs: tuple[Reads, ...]
    outputs: tuple[View, ...]

    @property
    def whole(self) -> bool:
        """Whether it is the node itself, not a strip of it."""
        return bool(self.outputs) and all(view.rows is None for view in self.outputs)

    @property
    def views(self) -> list[View]:
        """Everything that it touches, pieces one by one."""
        flat = [view for reads in self.inputs for view in (reads if isinstance(reads, tuple) else (reads,)) if view]
        return [*flat, *self.outputs]


@dataclass
class Schedule:
    """Steps in order.

    Attributes:
        stored_rows: of values that are never stored whole, how many rows are at a time.
        passing: those among them of which no strip keeps rows for the next.
    """

    steps: list[Step] = field(default_factory=list)
    stored_rows: dict[Value, int] = field(default_factory=dict)
    passing: set[Value] = field(default_factory=set)

    def stored_spec(self, value: Value) -> TensorSpec:
        """The spec of what is stored of a value at a time."""
        return with_rows(value.spec, self.stored_rows[value]) if value in self.stored_rows else value.spec


def with_rows(spec: TensorSpec, rows: int) -> TensorSpec:
    """The spec of an image with so many rows."""
    n, c, _, w = spec.shape
    return TensorSpec((n, c, rows, w), spec.dtype, spec.layout, spec.groups)


def schedule(graph: Graph, facts: DeviceFacts, pick: Pick, segments: Sequence[Segment] = ()) -> Schedule:
    """The steps of a graph: strips for the nodes of `segments`, which come in order, all others whole."""
    found = Schedule()
    begin = 0
    for segment in segments:
        _whole(found, graph.nodes[begin : segment.start], facts, pick)
        _strips(found, graph, segment, facts, pick)
        begin = segment.stop
    _whole(found, graph.nodes[begin:], facts, pick)
    return found


def _whole(found: Schedule, nodes: Sequence[Node], facts: DeviceFacts, pick: Pick) -> None:
    for node in nodes:
        choice = pick(node.layer.offered(facts, node.input_specs(), [value.spec for value in node.outputs]))
        inputs = tuple(_view(operand, None) for operand in node.inputs)
        found.steps.append(Step(node, node.layer, choice, inputs, tuple(View(value) for value in node.outputs)))


def _view(operand: Operand, view: Callable[[Value], View] | None) -> Reads:
    make = view or View
    if isinstance(operand, tuple):
        return tuple(make(piece) for piece in operand)
    return None if operand is None else make(operand)


def _strips(found: Schedule, graph: Graph, segment: Segment, facts: DeviceFacts, pick: Pick) -> None:
    """Strip by strip, the rows of each node that the strip's end needs. Rows that later strips need are kept.

    A value that only the segment reads is stored in part: before new rows come, the kept ones are moved to the front.
    """
    strips = strip_rows(graph, segment)
    inner = inner_values(graph, segment)
    for value in inner:
        found.stored_rows[value] = max(strip.ends[value] - strip.kept[value] for strip in strips)
        if all(strip.passes(value) for strip in strips):
            found.passing.add(value)
    base = dict.fromkeys(inner, 0)
    done = dict.fromkeys(graph.nodes[segment.start : segment.stop], 0)
    for strip in strips:
        for node in graph.nodes[segment.start : segment.stop]:
            (value,) = node.outputs
            rows = (done[node], strip.ends[value])
            if rows[0] == rows[1]:
                continue
            if value in inner and rows[1] - base[value] > found.stored_rows[value]:
                _make_room(found, node, value, base, strip.kept[value], rows[0])
            _one_strip(found, node, rows, base, facts, pick)
            done[node] = rows[1]


def _make_room(found: Schedule, node: Node, value: Value, base: dict[Value, int], kept: int, end: int) -> None:
    """Moves rows kept..end of a value to the front of where it is stored."""
    if end > kept:
        layer = ShiftRows(kept - base[value], end - kept)
        stored = View(value, (base[value], base[value] + found.stored_rows[value]))
        found.steps.append(Step(node, layer, Choice("shift"), (stored,), ()))
    base[value] = kept


def _one_strip(found: Schedule, node: Node, rows: Rows, base: dict[Value, int], facts: DeviceFacts, pick: Pick) -> None:
    layer, needed = node.layer.strip(rows, heights(node))
    (value,) = node.outputs

    def part(name: str, operand: Operand) -> Reads:
        wanted = needed.get(name)
        if wanted is None:
            return _view(operand, None)
        return _view(operand, lambda v: View(v, wanted, wanted[0] - base.get(v, 0)))

    inputs = tuple(part(name, operand) for name, operand in zip(node.layer.inputs, node.inputs, strict=True))
    output = View(value, rows, rows[0] - base.get(value, 0))
    specs = [_spec(reads) for reads in inputs]
    choice = pick(layer.offered(facts, specs, [output.spec]))
    found.steps.append(Step(node, layer, choice, inputs, (output,)))


def _spec(reads: Reads) -> TensorSpec | None:
    """The spec of an operand; of pieces, with their channels added up."""
    if not isinstance(reads, tuple):
        return None if reads is None else reads.spec
    n, _, h, w = reads[0].spec.shape
    return TensorSpec((n, sum(view.spec.shape[1] for view in reads), h, w))
