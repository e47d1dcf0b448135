"""Graph + device -> plan: choices, steps, lifetimes, offsets and bytes, decided without touching the device."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from . import planner
from ._core.half import ToHalf
from ._core.layer import Choice, Cost
from ._core.layout import CopyColumns, Settle, ShiftRows, Upload
from .device import DeviceFacts
from .errors import OutOfMemoryError, some_of
from .graph import Graph, Node, Value
from .planner.steps import Choose, Pick
from .shapes import aligned

TAGS = {
    "param": "weights",
    "state": "weights",
    "optimizer": "optimizer",
    "gradient": "gradients",
    "control": "control",
}
HOST_BYTES = 1 << 62  # in one piece: no limit
# Weights that stay in a file, no memory of the device's and outside every budget: read there, or brought in parts.
MAPPED, STREAMED = "mapped", "streamed"


@dataclass(frozen=True)
class Residence:
    """Where persistent values live: per tag the slab sizes, and for each value (tag, slab, offset), in bytes."""

    slab_bytes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[str, int, int]]

    def nbytes(self, tag: str | None = None) -> int:
        """Bytes of one tag, or of all that take memory."""
        return sum(
            sum(sizes) for t, sizes in self.slab_bytes.items() if (t == tag if tag else t not in (MAPPED, STREAMED))
        )


def settle(
    values: Iterable[Value], facts: DeviceFacts, *, mapped: bool = False, streamed: Container[str] = ()
) -> Residence:
    """Lays out persistent values one behind the other, in as few slabs as the device allows.

    Args:
        mapped: weights stay in a file that is mapped into memory. streamed: names of weights that stay in one too, but
            are brought to the device when they are needed.

    Raises:
        OutOfMemoryError: one value alone is larger than the device allows in one allocation.
    """
    slabs: dict[str, list[int]] = {}
    places: dict[str, tuple[str, int, int]] = {}
    for value in values:
        tag = TAGS[value.role]
        if tag == "weights" and (mapped or value.name in streamed):
            tag = MAPPED if mapped else STREAMED
        size = aligned(value.spec.nbytes(facts.block))
        if size > facts.max_alloc_bytes and tag != STREAMED:
            raise OutOfMemoryError(
                f"{value.name}: {size} bytes in one piece, but {facts.name} allows at most {facts.max_alloc_bytes}"
            )
        sizes = slabs.setdefault(tag, [0])
        if sizes[-1] and sizes[-1] + size > facts.max_alloc_bytes:
            sizes.append(0)
        places[value.name] = (tag, len(sizes) - 1, sizes[-1])
        sizes[-1] += size
    return Residence({tag: tuple(sizes) for tag, sizes in slabs.items()}, places)


@dataclass
class Plan:
    """How a graph will run on a device, decided before anything is allocated.

    Attributes:
        schedule: what runs in order; of nodes that run in strips, their strips. choices: the algorithm of each node.
        intervals, arena: what lives when, in steps, and where.
        residence: persistent values, when this plan alone is loaded.
        segments: the nodes that run in strips, or in tiles.
        told: what was done so that it takes less memory, for people.
        hosted, host: what waits in host memory, and where in it.
        behind: what runs after this plan, on the results of several of its runs; all share one arena.
    """

    graph: Graph
    facts: DeviceFacts
    schedule: planner.Schedule
    choices: dict[Node, Choice]
    intervals: list[planner.Interval]
    arena: planner.Arena
    residence: Residence
    costs: dict[Node, Cost] = field(repr=False)
    segments: tuple[planner.Segment, ...] = ()
    told: tuple[str, ...] = ()
    hosted: list[planner.Interval] = field(default_factory=list)
    host: planner.Arena = field(default_factory=lambda: planner.Arena([], []))
    behind: tuple[Plan, ...] = ()

    @property
    def stages(self) -> tuple[Plan, ...]:
        """The plans that run one after the other."""
        return (self, *self.behind)

    @property
    def slab_bytes(self) -> list[int]:
        """Bytes of each slab of the arena, for all stages."""
        return [max(sizes) for sizes in zip_longest(*(plan.arena.slab_bytes for plan in self.stages), fillvalue=0)]

    @property
    def persistent(self) -> dict[str, Value]:
        """What outlives runs, by name, for all stages."""
        return {name: value for plan in self.stages for name, value in plan.graph.persistent.items()}

    @property
    def arena_bytes(self) -> int:
        """Bytes for inputs, activations, gradients and workspace together."""
        return sum(self.slab_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and running statistics on the device, layout padding included."""
        return self.residence.nbytes("weights")

    @property
    def mapped_bytes(self) -> int:
        """Bytes of weights that are read from a mapped file; no memory of the device."""
        return self.residence.nbytes(MAPPED)

    @property
    def streamed_bytes(self) -> int:
        """Bytes of weights that are brought to the device in parts, in every run."""
        return self.residence.nbytes(STREAMED)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state."""
        return self.residence.nbytes("optimizer")

    @property
    def peak_bytes(self) -> int:
        """All device memory that running this plan takes; asserted equal to the allocator's peak."""
        return self.arena_bytes + self.residence.nbytes()

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory for activations that wait there; no memory of the device."""
        return self.host.nbytes

    @property
    def activation_bytes(self) -> int:
        """The most bytes of inputs and activations alive at one step, workspace left out."""
        kept = [interval for interval in self.intervals if interval.values]
        return max(planner.live_bytes(kept, len(self.schedule.steps)))

    @property
    def live_bytes(self) -> list[int]:
        """The most arena bytes alive while each node runs."""
        most = dict.fromkeys(self.graph.nodes, 0)
        for step, live in zip(self.schedule.steps, self.step_bytes, strict=True):
            most[step.node] = max(most[step.node], live)
        return list(most.values())

    @property
    def kept_bytes(self) -> list[int]:
        """The most arena bytes alive while each node runs, its workspace left out."""
        most = dict.fromkeys(self.graph.nodes, 0)
        work = {interval.node: interval.nbytes for interval in self.intervals if interval.node}
        for step, live in zip(self.schedule.steps, self.step_bytes, strict=True):
            own = work[step.node] if step.choice.workspace_bytes else 0
            most[step.node] = max(most[step.node], live - own)
        return list(most.values())

    @property
    def step_bytes(self) -> list[int]:
        """Arena bytes alive at each step."""
        return planner.live_bytes(self.intervals, len(self.schedule.steps))[: len(self.schedule.steps)]

    def segment_of(self, node: Node) -> planner.Segment | None:
        """The segment in which a node runs in strips or tiles, if it does."""
        number = self.graph.nodes.index(node)
        return next((segment for segment in self.segments if segment.start <= number < segment.stop), None)

    def cut(self, segment: planner.Segment) -> str:
        """In how many strips, or tiles, a segment runs: "16 strips", "16 x 4 tiles"."""
        height, width = self.graph.nodes[segment.stop - 1].outputs[0].spec.shape[2:]
        across = f" x {-(-width // segment.columns)} tiles" if segment.columns else " strips"
        return f"{-(-height // segment.rows)}{across}"

    @property
    def flops(self) -> int:
        """Floating-point operations of one run; a multiply-add is two."""
        return sum(cost.flops for cost in self.costs.values())


def first(choices: Sequence[Choice]) -> Choice:
    """The best of a node's choices."""
    return choices[0]


def make_plan(
    graph: Graph,
    facts: DeviceFacts,
    *,
    pick: Pick = first,
    choose: Choose | None = None,
    guard_bytes: int = 0,
    segments: Sequence[planner.Segment] = (),
    mapped: bool = False,
    streams: Mapping[Value, int] | None = None,
    room: int = planner.NO_LIMIT,
) -> Plan:
    """Chooses algorithms and places every tensor of a graph whose passes have run.

    Args:
        pick: takes one of a node's choices, which come best first. choose: takes any of its ways to run, instead.
        guard_bytes: for tests: so many bytes behind each tensor stay unused, and no two tensors share memory
            (but for in-place layers), so that a write out of bounds can be seen afterwards.
        segments: the nodes that run in strips or tiles. mapped: weights stay in a file.
        streams: weights that stay in a file of which so many bytes are brought to the device at a time.
        room: bytes of the arena within which these come while the step before them computes.

    Raises:
        OutOfMemoryError: a tensor is larger than the device allows in one allocation.
    """
    schedule = planner.schedule(graph, facts, choose or _picking(facts, pick), segments, streams)
    lives = planner.lifetimes(graph, schedule, facts.block)
    if streams:
        schedule, lives = _hastened(graph, facts, schedule, lives, room)
    intervals = [interval for interval in lives if not interval.hosted]
    hosted = [interval for interval in lives if interval.hosted]
    host = planner.place(hosted, HOST_BYTES)
    if guard_bytes:
        for interval in intervals:
            interval.start, interval.end, interval.spans = 0, len(schedule.steps), []
            interval.nbytes += guard_bytes
    return Plan(
        graph,
        facts,
        schedule,
        _choices(schedule),
        intervals,
        planner.place(intervals, facts.max_alloc_bytes),
        settle(graph.persistent.values(), facts, mapped=mapped, streamed={value.name for value in streams or ()}),
        costs_of(graph, facts),
        tuple(segments),
        told=(
            *_told_of_halves(graph, facts.block),
            *_told_of_waiting(graph),
            *_told_of_host(hosted, host),
            *_told_of_ends(schedule),
        ),
        hosted=hosted,
        host=host,
    )


def _hastened(
    graph: Graph, facts: DeviceFacts, schedule: planner.Schedule, lives: list[planner.Interval], room: int
) -> tuple[planner.Schedule, list[planner.Interval]]:
    """A schedule, with what lives when, whose weights come early where that can be packed into the room."""
    live = planner.live_bytes([each for each in lives if not each.hosted], len(schedule.steps))
    early = planner.hasten(schedule, live, room, facts.block)
    found = planner.lifetimes(graph, early, facts.block)
    arena = planner.place([each for each in found if not each.hosted], facts.max_alloc_bytes)
    return (early, found) if arena.nbytes <= room else (schedule, lives)


def _told_of_halves(graph: Graph, block: int) -> tuple[str, ...]:
    """How much of the weights is stored as float16, for people."""
    nbytes = sum(v.spec.nbytes(block) for v in graph.persistent.values() if v.spec.dtype == "float16")
    return (f"{planner.format_bytes(nbytes)} of weights are float16",) if nbytes else ()


def _told_of_waiting(graph: Graph) -> tuple[str, ...]:
    """What waits as float16, for people."""
    names = [node.reads[0].name for node in graph.nodes if isinstance(node.layer, ToHalf)]
    return (f"as float16 wait: {some_of(names, 4)}",) if names else ()


def _told_of_host(hosted: Sequence[planner.Interval], host: planner.Arena) -> tuple[str, ...]:
    """What waits in host memory, for people."""
    if not hosted:
        return ()
    names = [value.name.removesuffix(" held") for interval in hosted for value in interval.values]
    return (f"{planner.format_bytes(host.nbytes)} wait in host memory meanwhile: {some_of(names, 4)}",)


def _told_of_ends(schedule: planner.Schedule) -> tuple[str, ...]:
    """Which images and results are never whole on the device, for people."""
    parts = [view.value for step in schedule.steps for view in step.views if view.value.lent and not view.whole]
    names = [value.name for value in dict.fromkeys(parts)]
    return (f"never whole on the device, copied from the host or to it in parts: {some_of(names, 4)}",) if names else ()


def _choices(schedule: planner.Schedule) -> dict[Node, Choice]:
    """The choice of each node; of several strips that with the largest workspace."""
    found: dict[Node, Choice] = {}
    for step in schedule.steps:
        if isinstance(step.layer, CopyColumns | Settle | ShiftRows | Upload):
            continue
        known = found.setdefault(step.node, step.choice)
        if step.choice.workspace_bytes > known.workspace_bytes:
            found[step.node] = step.choice
    return found


def _picking(facts: DeviceFacts, pick: Pick) -> Choose:
    return lambda node, layer, specs, outs: pick(layer.offered(facts, specs, outs))


def costs_of(graph: Graph, facts: DeviceFacts) -> dict[Node, Cost]:
    """What one run of each node takes."""
    return {
        node: node.layer.cost(node.input_specs(), [value.spec for value in node.outputs], facts) for node in graph.nodes
    }
