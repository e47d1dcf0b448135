"""What runs one after the other: whole layers, or the layers of a segment in turn, strip of rows by strip of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .._core.layer import Choice, Layer
from .._core.layout import CopyColumns, Restore, Settle, ShiftRows, Spill, Upload
from ..device import DeviceFacts
from ..graph import Graph, Node, Operand, Value
from ..packing import slice_blocks
from ..shapes import TensorSpec, blocks
from .strips import Chain, Needed, Rows, Segment, heights, inner_values, strip_rows
from .tiles import bands, make_band

Pick = Callable[[Sequence[Choice]], Choice]
# How a node's layer, or the one that computes a part of it, runs on operands with these specs.
Choose = Callable[[Node, Layer, Sequence["TensorSpec | None"], Sequence[TensorSpec]], Choice]


@dataclass(frozen=True)
class View:
    """A value as a layer is given it.

    Attributes:
        rows: the rows (begin, end) that it sees, the first of which is row `at` of what is stored; None: all.
        channels: the channels (begin, end) that it sees, whole blocks of them; None: all.
    """

    value: Value
    rows: Rows | None = None
    at: int = 0
    channels: tuple[int, int] | None = None

    @property
    def spec(self) -> TensorSpec:
        """The spec of what it sees."""
        if self.channels is not None:
            return with_channels(self.value.spec, self.channels[1] - self.channels[0])
        return self.value.spec if self.rows is None else with_rows(self.value.spec, self.rows[1] - self.rows[0])

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


def with_channels(spec: TensorSpec, channels: int) -> TensorSpec:
    """The spec with so many channels: of images along the second axis, of weights output channels along the first."""
    axis = 1 if spec.layout == "block" else 0
    shape = (*spec.shape[:axis], channels, *spec.shape[axis + 1 :])
    return TensorSpec(shape, spec.dtype, spec.layout, spec.groups)


def schedule(
    graph: Graph,
    facts: DeviceFacts,
    choose: Choose,
    segments: Sequence[Segment] = (),
    streams: Mapping[Value, int] | None = None,
) -> Schedule:
    """The steps of a graph: strips for the nodes of `segments`, which come in order, all others whole.

    Args:
        streams: weights that the host holds, and how many bytes of each are brought to the device at a time.
    """
    found = Schedule()
    begin = 0
    for segment in segments:
        _whole(found, graph.nodes[begin : segment.start], facts, choose, streams or {})
        staged = _stage(found, graph.nodes[segment.start : segment.stop], streams or {})
        _tiles(found, graph, segment, _Part(choose, staged))
        begin = segment.stop
    _whole(found, graph.nodes[begin:], facts, choose, streams or {})
    _prefetch(found.steps)
    found.steps = _settled(found.steps)
    return found


def _prefetch(steps: list[Step]) -> None:
    """Lets each upload begin one step earlier, so that it goes on while that step computes."""
    for i in range(1, len(steps)):
        if _comes(steps[i]) and not _comes(steps[i - 1]):
            steps[i - 1], steps[i] = steps[i], steps[i - 1]


def _comes(step: Step) -> bool:
    """Whether it brings something to the device, whole."""
    return isinstance(step.layer, Upload | Restore) and all(view.whole for view in step.outputs)


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


def _stage(found: Schedule, nodes: Sequence[Node], streams: Mapping[Value, int]) -> dict[Value, Value]:
    """Brings the streamed weights of some nodes to the device, whole; where they are staged."""
    staged: dict[Value, Value] = {}
    for node in nodes:
        for value in node.reads:
            if value in streams and value not in staged:
                staged[value] = _upload(found, node, View(value))
    return staged


def _upload(found: Schedule, node: Node, source: View) -> Value:
    """A step that brings a part of weights to the device; where it is staged."""
    target = Value(f"{source.value.name} staged", source.spec)
    found.steps.append(Step(node, Upload(), Choice("upload"), (source,), (View(target),)))
    return target


def _sliced(found: Schedule, node: Node, facts: DeviceFacts, choose: Choose, streams: Mapping[Value, int]) -> None:
    """A node whose weights come in parts of blocks of output channels, each computed when it is there."""
    weight, (y,) = node.inputs[1], node.outputs
    assert isinstance(weight, Value)
    k, unit = y.spec.shape[1], slice_blocks(weight.spec) * facts.block
    per_unit = weight.spec.nbytes(facts.block) // blocks(k, unit)
    size = max(1, streams[weight] // per_unit) * unit
    whole = _stage(found, [node], {value: nbytes for value, nbytes in streams.items() if value is not weight})
    for begin in range(0, k, size):
        channels = (begin, min(begin + size, k))
        staged = _upload(found, node, View(weight, channels=channels))

        def part(operand: Operand, channels: tuple[int, int] = channels) -> Reads:
            return _view(operand, lambda value: View(whole.get(value, value), channels=channels))

        inputs = (_view(node.inputs[0], None), View(staged), *(part(operand) for operand in node.inputs[2:]))
        output = View(y, channels=channels)
        choice = choose(node, node.layer, [_spec(reads) for reads in inputs], [output.spec])
        found.steps.append(Step(node, node.layer, choice, inputs, (output,)))


def can_slice(node: Node, value: Value) -> bool:
    """Whether a node can compute blocks of output channels from their part of the weights."""
    return node.layer.slices and len(node.inputs) > 1 and node.inputs[1] is value and bool(slice_blocks(value.spec))


def _whole(
    found: Schedule, nodes: Sequence[Node], facts: DeviceFacts, choose: Choose, streams: Mapping[Value, int]
) -> None:
    for node in nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if isinstance(weight, Value) and weight in streams and can_slice(node, weight):
            _sliced(found, node, facts, choose, streams)
            continue
        staged = _stage(found, [node], streams)
        choice = choose(node, node.layer, node.input_specs(), [value.spec for value in node.outputs])
        inputs = tuple(_view(operand, lambda value: View(staged.get(value, value))) for operand in node.inputs)  # noqa: B023
        found.steps.append(Step(node, node.layer, choice, inputs, tuple(View(value) for value in node.outputs)))


def _view(operand: Operand, view: Callable[[Value], View] | None) -> Reads:
    make = view or View
    if isinstance(operand, tuple):
        return tuple(make(piece) for piece in operand)
    return None if operand is None else make(operand)


@dataclass(frozen=True)
class _Part:
    """What steps of a segment have in common: staged weights; of nodes of a band the segment's own; rows known."""

    choose: Choose
    staged: Mapping[Value, Value]
    owners: Mapping[Node, Node] = field(default_factory=dict)
    known: Needed = field(default_factory=dict)


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
            found.steps.append(_one_strip(node, span, base, part))
            done[node] = span[1]


def _make_room(found: Schedule, node: Node, value: Value, base: dict[Value, int], kept: int, end: int) -> None:
    """Moves rows kept..end of a value to the front of where it is stored."""
    if end > kept:
        layer = ShiftRows(kept - base[value], end - kept)
        stored = View(value, (base[value], base[value] + found.stored_rows[value]))
        found.steps.append(Step(node, layer, Choice("shift"), (stored,), ()))
    base[value] = kept


def _one_strip(node: Node, rows: Rows, base: dict[Value, int], part: _Part) -> Step:
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
        return Step(owner, layer, Choice("copy"), inputs, (output,))
    choice = part.choose(owner, layer, [_spec(reads) for reads in inputs], [output.spec])
    return Step(owner, layer, choice, inputs, (output,))


def _spec(reads: Reads) -> TensorSpec | None:
    """The spec of an operand; of pieces, with their channels added up."""
    if not isinstance(reads, tuple):
        return None if reads is None else reads.spec
    n, _, h, w = reads[0].spec.shape
    return TensorSpec((n, sum(view.spec.shape[1] for view in reads), h, w))
