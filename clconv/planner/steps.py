"""What runs one after the other: whole layers, or the layers of a segment in turn, strip of rows by strip of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from .._core.layer import Choice, Layer
from .._core.layout import CopyColumns, Restore, Settle, ShiftRows, Spill, Upload
from ..device import DeviceFacts
from ..graph import Graph, Node, Operand, Value
from ..shapes import TensorSpec
from .slices import Channels, Staging, slicing
from .strips import Chain, Needed, Rows, Segment, heights, inner_values, strip_rows
from .tiles import bands, make_band

MOST_SPECS = 1024  # of strips that are kept: most strips are like others
Pick = Callable[[Sequence[Choice]], Choice]
# How a node's layer, or the one that computes a part of it, runs on operands with these specs.
Choose = Callable[[Node, Layer, Sequence["TensorSpec | None"], Sequence[TensorSpec]], Choice]


@dataclass(frozen=True)
class View:
    """A value as a layer is given it.

    Attributes:
        rows: the rows (begin, end) that it sees, the first of which is row `at` of what is stored; None: all.
        channels: the channels (begin, end) that it sees of those rows, whole blocks of them; None: all.
    """

    value: Value
    rows: Rows | None = None
    at: int = 0
    channels: Channels | None = None

    @property
    def spec(self) -> TensorSpec:
        """The spec of what it sees."""
        spec = self.value.spec
        if self.rows is not None:
            spec = with_rows(spec, self.rows[1] - self.rows[0])
        return spec if self.channels is None else with_channels(spec, self.channels[1] - self.channels[0])

    @property
    def whole(self) -> bool:
        """Whether it sees everything."""
        return self.rows is None and self.channels is None


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
        """Whether it is the node itself, not a part of it."""
        return self.layer is self.node.layer and all(view.whole for view in self.outputs)

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
        passing: what is written anew each time: those among them of which no strip keeps rows for the next, and what
            slices of weights are brought to. It is not alive in between.
    """

    steps: list[Step] = field(default_factory=list)
    stored_rows: dict[Value, int] = field(default_factory=dict)
    passing: set[Value] = field(default_factory=set)

    def stored_spec(self, value: Value) -> TensorSpec:
        """The spec of what is stored of a value at a time."""
        return with_rows(value.spec, self.stored_rows[value]) if value in self.stored_rows else value.spec


@lru_cache(MOST_SPECS)
def with_rows(spec: TensorSpec, rows: int) -> TensorSpec:
    """The spec of an image with so many rows."""
    n, c, _, w = spec.shape
    return TensorSpec((n, c, rows, w), spec.dtype, spec.layout, spec.groups)


def with_channels(spec: TensorSpec, channels: int) -> TensorSpec:
    """The spec with so many channels: of images along the second axis, of weights output channels along the first.

    These are within one group (`slices.Slicing`), and a filter without groups then.
    """
    axis = 1 if spec.layout == "block" else 0
    shape = (*spec.shape[:axis], channels, *spec.shape[axis + 1 :])
    return TensorSpec(shape, spec.dtype, spec.layout)


def schedule(
    graph: Graph,
    facts: DeviceFacts,
    choose: Choose,
    segments: Sequence[Segment] = (),
    streams: Mapping[Value, int] | None = None,
) -> Schedule:
    """The steps of a graph: strips for the nodes of `segments`, which come in order, all others whole.

    Args:
        streams: weights that the host holds, and how many bytes of each are brought to the device at a time, just when
            they are needed (`hasten` lets them come earlier). Where a segment needs fewer than all at a time, they are
            brought again for each strip.
    """
    found = Schedule()
    begin = 0
    for segment in segments:
        _whole(found, graph.nodes[begin : segment.start], facts, choose, streams or {})
        part = _staged(found, graph.nodes[segment.start : segment.stop], facts, choose, streams or {}, strips=True)
        _tiles(found, graph, segment, part)
        begin = segment.stop
    _whole(found, graph.nodes[begin:], facts, choose, streams or {})
    _restore_early(found.steps)
    found.steps = _settled(found.steps)
    return found


def _restore_early(steps: list[Step]) -> None:
    """Lets what comes back whole begin one step earlier, so that it goes on while that step computes."""
    for i in range(1, len(steps)):
        if isinstance(steps[i].layer, Restore) and steps[i].whole and not _comes(steps[i - 1]):
            steps[i - 1], steps[i] = steps[i], steps[i - 1]


def _comes(step: Step) -> bool:
    """Whether it brings weights, or what was spilled whole, to the device."""
    return isinstance(step.layer, Upload) or (isinstance(step.layer, Restore) and step.whole)


def _settled(steps: Sequence[Step]) -> list[Step]:
    """Keeps what is spilled whole for one more step, which computes meanwhile."""
    found: list[Step] = []
    going: list[Step] = []
    for step in steps:
        found.append(step)
        if isinstance(step.layer, Spill):
            going += [step] if step.whole else []
        elif not _comes(step):
            found += [Step(each.node, Settle(), Choice("settle"), each.inputs, ()) for each in going]
            going = []
    return found


@dataclass(frozen=True)
class _Part:
    """What steps of a whole node, or of a segment, have in common.

    Attributes:
        staged: where weights lie that were brought to the device whole. slices: by weights, where those of a node are
            that come in slices.
        owners: of nodes of a band those of the segment. known: rows that nodes need.
    """

    choose: Choose
    staged: Mapping[Value, Value] = field(default_factory=dict)
    slices: Mapping[Value, Staging] = field(default_factory=dict)
    owners: Mapping[Node, Node] = field(default_factory=dict)
    known: Needed = field(default_factory=dict)


def _staged(
    found: Schedule,
    nodes: Sequence[Node],
    facts: DeviceFacts,
    choose: Choose,
    streams: Mapping[Value, int],
    *,
    strips: bool = False,
) -> _Part:
    """Brings the streamed weights of some nodes to the device, whole, but for those that come in slices.

    Args:
        strips: nodes run in strips, for each of which slices come again: not where they may come whole.
    """
    staged: dict[Value, Value] = {}
    slices: dict[Value, Staging] = {}
    for node in nodes:
        way = slicing(node, facts.block) if streams else None
        for value in node.reads:
            if value not in streams or value in staged:
                continue
            if way and value is way.weight and not (strips and streams[value] >= value.spec.nbytes(facts.block)):
                slices[value] = Staging(way, way.size(streams[value]))
            else:
                staged[value] = Value(f"{value.name} staged", value.spec)
                _upload(found, node, View(value), View(staged[value]))
    return _Part(choose, staged, slices)


def _upload(found: Schedule, node: Node, source: View, target: View) -> None:
    """A step that brings weights, or a slice of them, to the device."""
    found.steps.append(Step(node, Upload(), Choice("upload"), (source,), (target,)))


def _compute(
    found: Schedule, node: Node, layer: Layer, inputs: tuple[Reads, ...], output: View, part: _Part, owner: Node
) -> None:
    """The steps that compute a node, or a strip of it: one, or one for each slice of its weights.

    Args:
        owner: the node that they serve.
    """
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    staging = part.slices.get(weight) if isinstance(weight, Value) and weight not in part.staged else None
    if staging is None:
        choice = part.choose(owner, layer, [_spec(reads) for reads in inputs], [output.spec])
        found.steps.append(Step(owner, layer, choice, inputs, (output,)))
        return
    assert isinstance(weight, Value)
    for channels, read in staging.slicing.slices(staging.size):
        place, count = staging.turn(), channels[1] - channels[0]
        found.passing.add(place)
        there = View(place) if count == staging.size else View(place, channels=(0, count))
        _upload(found, owner, View(weight, channels=channels), there)
        x = inputs[0] if read is None else _narrowed(inputs[0], read)
        reads = (x, there, *(_narrowed(each, channels) for each in inputs[2:]))
        written = replace(output, channels=channels)
        choice = part.choose(owner, layer, [_spec(each) for each in reads], [written.spec])
        found.steps.append(Step(owner, layer, choice, reads, (written,)))


def _narrowed(reads: Reads, channels: Channels) -> Reads:
    """These channels of what is read."""
    assert not isinstance(reads, tuple)
    return None if reads is None else replace(reads, channels=channels)


def _whole(
    found: Schedule, nodes: Sequence[Node], facts: DeviceFacts, choose: Choose, streams: Mapping[Value, int]
) -> None:
    for node in nodes:
        part = _staged(found, [node], facts, choose, streams)
        inputs = tuple(_view(operand, lambda value: View(part.staged.get(value, value))) for operand in node.inputs)  # noqa: B023
        if part.slices:
            (value,) = node.outputs
            _compute(found, node, node.layer, inputs, View(value), part, node)
            continue
        choice = choose(node, node.layer, node.input_specs(), [value.spec for value in node.outputs])
        found.steps.append(Step(node, node.layer, choice, inputs, tuple(View(value) for value in node.outputs)))


def _view(operand: Operand, view: Callable[[Value], View] | None) -> Reads:
    make = view or View
    if isinstance(operand, tuple):
        return tuple(make(piece) for piece in operand)
    return None if operand is None else make(operand)


def _tiles(found: Schedule, graph: Graph, segment: Segment, part: _Part) -> None:
    """The strips of a segment, of one band of columns after the other if it has several."""
    nodes, inner = graph.nodes[segment.start : segment.stop], inner_values(graph, segment)
    if not segment.columns:
        _strips(found, nodes, inner, segment.rows, part)
        return
    for columns in bands(nodes[-1].outputs[0].spec.shape[3], segment.columns):
        band = make_band(nodes, inner, columns)
        _strips(found, band.nodes, band.inner, segment.rows, replace(part, owners=band.owners))


def _strips(found: Schedule, nodes: list[Node], inner: Sequence[Value], rows: int, part: _Part) -> None:
    """Strip by strip, the rows of each node that the strip's end needs. Rows that later strips need are kept.

    A value that only these nodes read is stored in part: before new rows come, the kept ones are moved to the front.
    """
    strips = strip_rows(Chain(nodes, known=part.known, owners=part.owners), rows)
    for value in inner:
        found.stored_rows[value] = max(strip.ends[value] - strip.kept[value] for strip in strips)
        if all(strip.passes(value) for strip in strips):
            found.passing.add(value)
    base = dict.fromkeys(inner, 0)
    done = dict.fromkeys(nodes, 0)
    for strip in strips:
        for node in nodes:
            (value,) = node.outputs
            span = (done[node], strip.ends[value])
            if span[0] == span[1]:
                continue
            if value in base and span[1] - base[value] > found.stored_rows[value]:
                _make_room(found, part.owners.get(node, node), value, base, strip.kept[value], span[0])
            _one_strip(found, node, span, base, part)
            done[node] = span[1]


def _make_room(found: Schedule, node: Node, value: Value, base: dict[Value, int], kept: int, end: int) -> None:
    """Moves rows kept..end of a value to the front of where it is stored."""
    if end > kept:
        layer = ShiftRows(kept - base[value], end - kept)
        stored = View(value, (base[value], base[value] + found.stored_rows[value]))
        found.steps.append(Step(node, layer, Choice("shift"), (stored,), ()))
    base[value] = kept


def _one_strip(found: Schedule, node: Node, rows: Rows, base: dict[Value, int], part: _Part) -> None:
    layer, needed = node.layer.strip(rows, heights(node))
    (value,), owner = node.outputs, part.owners.get(node, node)

    def seen(name: str, operand: Operand) -> Reads:
        wanted = needed.get(name)
        if wanted is None:
            return _view(operand, lambda v: View(part.staged.get(v, v)))
        return _view(operand, lambda v: View(v, wanted, wanted[0] - base.get(v, 0)))

    inputs = tuple(seen(name, operand) for name, operand in zip(node.layer.inputs, node.inputs, strict=True))
    output = View(value, rows, rows[0] - base.get(value, 0))
    if isinstance(layer, CopyColumns):
        found.steps.append(Step(owner, layer, Choice("copy"), inputs, (output,)))
    else:
        _compute(found, node, layer, inputs, output, part, owner)


def _spec(reads: Reads) -> TensorSpec | None:
    """The spec of an operand; of pieces, with their channels added up."""
    if not isinstance(reads, tuple):
        return None if reads is None else reads.spec
    n, _, h, w = reads[0].spec.shape
    return TensorSpec((n, sum(view.spec.shape[1] for view in reads), h, w))
