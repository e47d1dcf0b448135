"""Plan + memory -> something that runs.

A `Session` owns the device memory of one network: what is persistent, and one arena that all its plans share.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from . import planner
from ._core.copies import Lent
from ._core.executor import Recording
from ._core.memory import Allocator, Slab, Tensor
from ._core.recorder import HostTensor, Recorder
from .device import Device
from .errors import ArgumentError, BudgetError
from .graph import Node, Value, from_storage, to_storage
from .joined import ARGUMENTS
from .joining import Joining
from .mapped import packed_weights
from .packing import Array, pack_parts, slice_blocks, unpack
from .plan import MAPPED, STREAMED, Plan, Residence, settle
from .planner import Reads, View
from .program import ProgramKey, Progress, build_programs, shown
from .recent import Recent
from .shapes import ITEM_BYTES, TensorSpec, blocks
from .storing import stored_parts

# Of plans whose end is watched: as one launch those of some 50 us, as it leaves the thread that watches no processor;
# launch by launch a driver's threads sleep in between.
SHORT_FLOPS = {True: 1e7, False: 1e8}
clock = time.perf_counter
MAX_PLANS = 16  # recorded plans that a session keeps; the least recently used goes first


@dataclass(frozen=True)
class Usage:
    """Device memory of runs: planned for the largest of them, of `batch` images, and the allocator's peak.

    Attributes:
        by_tag: measured bytes of "weights", "optimizer", "control" and "arena", as they are held now.
    """

    mode: str
    batch: int
    planned_bytes: int
    measured_bytes: int
    by_tag: Mapping[str, int] = field(default_factory=dict)


class Session:
    """The device memory of one network and the plans that run in it.

    Args:
        device: where it lives. budget: the most bytes it may hold, or None.

    Safe to use from several threads: runs follow one another.
    """

    def __init__(self, device: Device, budget: int | None = None) -> None:
        self.device = device
        self.allocator = Allocator(device, budget)
        self._lock = threading.RLock()
        self._residence: Residence | None = None
        self._values: dict[str, Value] = {}
        self._slabs: dict[str, list[Slab]] = {}
        self._files: dict[str, list[Array]] = {}
        self._arena: list[Slab] = []
        self._host = np.empty(0, np.uint8)  # for activations that wait there
        self.planned_bytes = 0  # what is loaded plus the arena, as planned
        self._executables: Recent[int, _Executable] = Recent(MAX_PLANS)

    def load(
        self, values: Mapping[str, Value], arrays: Mapping[str, Array], residence: Residence | None = None
    ) -> None:
        """Allocates persistent values and fills them; those without an array by name become zero.

        Args:
            residence: where they live (default: all on the device). What is mapped or streamed stays in a file, in the
                form that kernels read.
        """
        with self._lock:
            self.release()
            self._residence = residence or settle(values.values(), self.device.facts)
            self._values = dict(values)
            for tag, sizes in self._residence.slab_bytes.items():
                if tag in (MAPPED, STREAMED):
                    self._files[tag] = packed_weights(values, arrays, self._residence, tag, self.device.facts.block)
                    if tag == MAPPED:
                        self._slabs[tag] = [self.allocator.wrap(f, tag, "loading weights") for f in self._files[tag]]
                    continue
                self._slabs[tag] = [self.allocator.allocate(size, tag, f"loading {tag}") for size in sizes]
                for slab in self._slabs[tag]:
                    self.allocator.fill(slab)
            self._count()
            for name, value in values.items():
                if self._residence.places[name][0] not in self._files:
                    self._fill(self.tensor(value), stored_parts(value, arrays, self.device.facts.block), name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the persistent values that are loaded."""
        return tuple(self._values)

    def role(self, name: str) -> str:
        """The role of a persistent value; see `Value`."""
        return self._values[name].role

    def wholes(self, role: str) -> list[str]:
        """Names of the persistent values of a role, of those that lie in parts once."""
        return list(dict.fromkeys(value.whole[0] for value in self._values.values() if value.role == role))

    def tensor(self, value: Value) -> Tensor:
        """Where a persistent value lives."""
        assert self._residence is not None
        tag, slab, offset = self._residence.places[value.name]
        return Tensor(self._slabs[tag][slab], offset, value.spec, value.spec.nbytes(self.device.facts.block))

    def write(self, name: str, array: Array) -> None:
        """Sets a persistent value from its public array."""
        value = self._values[name]
        parts = pack_parts(to_storage(array, value), value.spec, self.device.facts.block)
        self._fill(self.tensor(value), parts, name)

    @staticmethod
    def _fill(tensor: Tensor, parts: Iterable[Array], name: str) -> None:
        at = 0
        for part in parts:
            tensor.part(at, part.nbytes, None).write(part, name)
            at += part.nbytes
            del part  # the next one is made without it

    def clear(self, tag: str) -> None:
        """Fills all persistent values of a tag with zeros."""
        with self._lock:
            for slab in self._slabs.get(tag, []):
                self.allocator.fill(slab)

    def read(self, name: str) -> Array:
        """A persistent value as its public array, whole where it lies in parts."""
        if name not in self._values:
            parts = [value for value in self._values.values() if value.whole[0] == name]
            return np.concatenate([self.read(v.name) for v in sorted(parts, key=lambda v: v.whole[1])])
        value = self._values[name]
        block = self.device.facts.block
        stored = np.empty(value.spec.storage_shape(block), value.spec.dtype)
        with self._lock:
            self.tensor(value).read(stored, name)
        return from_storage(unpack(stored, value.spec, block), value)

    def run(self, plan: Plan, feeds: Mapping[str, Array], fetch: Iterable[str] | None = None) -> dict[str, Array]:
        """Writes the inputs, replays the plan, reads the outputs (all, or those named in `fetch`).

        Raises:
            BudgetError, OutOfMemoryError: the arena does not fit; nothing was enqueued.
            OpenCLError: a launch failed; the message names its layer and kernel.
        """
        with self._lock:
            executable = self.prepare(plan)
            for name, value in plan.graph.inputs.items():
                executable.feed(name, checked(feeds, name, value))
            lent = executable.lend_outputs()
            started = clock()
            executable.run()
            wanted = plan.graph.outputs if fetch is None else fetch
            results = {name: lent[name] if name in lent else executable.fetch(name) for name in wanted}
            executable.ran(clock() - started if results else None)
            assert self.allocator.live_bytes == self.planned_bytes, (self.allocator.by_tag, self.planned_bytes)
            return results

    def _count(self) -> None:
        persistent = self._residence.nbytes() if self._residence else 0
        self.planned_bytes = persistent + sum(slab.nbytes for slab in self._arena)

    def usage(self, mode: str) -> Usage | None:
        """What the plans recorded here take, planned and measured; None before the first."""
        with self._lock:
            if not self._executables:
                return None
            plans = [executable.plan for executable in self._executables.values()]
            largest = max(plans, key=lambda plan: plan.arena_bytes)
            batch = next(iter(largest.graph.inputs.values())).spec.shape[0]
            held = {tag: size for tag, size in self.allocator.by_tag.items() if tag != ARGUMENTS}
            return Usage(mode, batch, self.planned_bytes, self.allocator.peak_bytes, held)

    def prepare(self, plan: Plan, progress: Progress | None = None) -> _Executable:
        """Builds, allocates and records what running `plan` needs, unless that was done before.

        Args:
            progress: called with (done, total) while kernels are built, in part by the driver in the first run.
        """
        with self._lock:
            self.device.check_alive()
            return self._executables.get(id(plan), lambda: self._executable(plan, progress))

    def _executable(self, plan: Plan, progress: Progress | None) -> _Executable:
        """The plan recorded; see `prepare`."""
        recorder = Recorder(plan.facts)
        self._grow_arena(plan)
        tensors, nodes = self._record(plan, recorder)
        joining = Joining(self.device, recorder.launches, plan.flops, self.allocator)
        if joining.joined:
            recorder.launches = [joining.launch()]
        keys = {program: ProgramKey(*program) for program in recorder.programs()}
        built = build_programs(self.device, keys.values(), progress)
        programs = {program: built[key] for program, key in keys.items()}
        return _Executable(
            plan,
            recorder.finish(self.device, programs),
            {name: tensors[value] for name, value in plan.graph.inputs.items() if not value.lent},
            {name: tensors[value] for name, value in plan.graph.outputs.items() if not value.lent},
            nodes,
            joining,
            progress,
        )

    def fill_arena(self, byte: int) -> None:
        """For tests: sets every byte of the arena; 0xFF makes every float in it a NaN."""
        for slab in self._arena:
            self.allocator.fill(slab, byte)

    def read_arena(self) -> list[Array]:
        """For tests: the bytes of each slab of the arena."""
        contents = [np.empty(slab.nbytes, np.uint8) for slab in self._arena]
        for slab, content in zip(self._arena, contents, strict=True):
            Tensor(slab, 0, None, slab.nbytes).read(content, "arena")
        return contents

    def _grow_arena(self, plan: Plan) -> None:
        """Makes the arena hold the plan; when it must grow, what was recorded for the old one is dropped."""
        if plan.host_bytes > self._host.nbytes:
            self._executables.clear()
            self._host = np.empty(plan.host_bytes, np.uint8)
        wanted = [max(size, planner.ALIGN) for size in plan.slab_bytes]
        held = [slab.nbytes for slab in self._arena]
        if len(wanted) <= len(held) and all(w <= h for w, h in zip(wanted, held, strict=False)):
            return
        sizes = [max(pair) for pair in zip_longest(wanted, held, fillvalue=0)]
        budget = self.allocator.budget
        total = self.allocator.live_bytes - sum(held) + sum(sizes)
        if budget is not None and total > budget:
            raise BudgetError(f"memory: {total} bytes are needed but the budget is {budget}; nothing was allocated")
        self._executables.clear()
        self._free_arena()
        try:
            for size in sizes:
                self._arena.append(self.allocator.allocate(size, "arena", "activations"))
                self.allocator.fill(self._arena[-1])
        except BaseException:
            self._free_arena()
            raise
        finally:
            self._count()

    def _free_arena(self) -> None:
        for slab in self._arena:
            slab.release()
        self._arena = []

    def _weights(self, view: View) -> Any:
        """What a view shows of a persistent value: on the device, or, streamed, the bytes of its file."""
        assert self._residence is not None
        value, block = view.value, self.device.facts.block
        tag, slab, offset = self._residence.places[value.name]
        if tag == STREAMED:
            first = offset
            if view.channels is not None:
                unit = slice_blocks(value.spec, block) * block
                first += value.spec.nbytes(block) // blocks(value.spec.shape[0], unit) * (view.channels[0] // unit)
            return self._files[tag][slab][first : first + view.spec.nbytes(block)]
        return _part(self.tensor(self._values[value.name]), view, block)

    def _hosted(self, plan: Plan) -> dict[Value, HostTensor]:
        """Where activations wait in host memory, and what stays in the caller's arrays."""
        ends = {**plan.graph.inputs, **plan.graph.outputs}
        return {value: HostTensor(Lent(name), value.spec) for name, value in ends.items() if value.lent} | {
            value: HostTensor(self._host[place.offset : place.offset + interval.nbytes], value.spec)
            for interval, place in zip(plan.hosted, plan.host.placements, strict=True)
            for value in interval.values
        }

    def _record(self, plan: Plan, recorder: Recorder) -> tuple[dict[Value, Tensor], list[Node]]:
        """Records all steps; where values are that are stored whole, or in part, and the node of each launch."""
        block = plan.facts.block
        tensors: dict[Value, Tensor] = {}
        workspaces: dict[Node | None, Tensor] = {}
        for interval, placement in zip(plan.intervals, plan.arena.placements, strict=True):
            slab = self._arena[placement.slab]
            for value in interval.values:
                spec = plan.schedule.stored_spec(value)
                tensors[value] = Tensor(slab, placement.offset, spec, spec.nbytes(block))
            if interval.node is not None:
                workspaces[interval.node] = Tensor(slab, placement.offset, None, interval.nbytes)

        def bound(reads: Reads) -> Any:
            if isinstance(reads, tuple):
                return tuple(bound(piece) for piece in reads)
            if reads is None:
                return None
            if reads.value.persistent:
                return self._weights(reads)
            if reads.value.hosted:
                return _rows(hosted[reads.value], reads, block)
            return _part(tensors[reads.value], reads, block)

        hosted = self._hosted(plan)
        launched: list[Node] = []
        for step in plan.schedule.steps:
            recorder.label = step.node.name
            step.layer.record(
                recorder,
                [bound(reads) for reads in step.inputs],
                [bound(view) for view in step.outputs],
                _workspace(workspaces.get(step.node), step.choice.workspace_bytes),
                step.choice,
            )
            launched += [step.node] * (len(recorder.launches) - len(launched))
        return tensors, launched

    def release(self) -> None:
        """Frees all device memory; the session can be loaded again."""
        with self._lock:
            self._executables.clear()
            self._free_arena()
            self._host = np.empty(0, np.uint8)
            for slabs in self._slabs.values():
                for slab in slabs:
                    slab.release()
            self._slabs, self._files = {}, {}
            self._residence = None
            self._values = {}
            self._count()


@dataclass
class _Executable:
    plan: Plan  # kept alive: sessions know plans by identity
    recording: Recording
    inputs: dict[str, Tensor]  # and outputs: but for those that are lent
    outputs: dict[str, Tensor]
    nodes: list[Node]  # of each launch, one by one
    joining: Joining
    progress: Progress | None
    fresh: bool = True

    def feed(self, name: str, array: Array) -> None:
        """Gives the next run an input, of the right shape and type: written, or lent for as long as that takes."""
        if name in self.inputs:
            self.inputs[name].write(array, f"input {name}")
        else:
            self.recording.loans.lend(name, array)

    def lend_outputs(self) -> dict[str, Array]:
        """New arrays in which the next run leaves the outputs that are not on the device, by name."""
        found = {n: np.empty(v.spec.shape, v.spec.dtype) for n, v in self.plan.graph.outputs.items() if v.lent}
        for name, array in found.items():
            self.recording.loans.lend(name, array)
        return found

    def fetch(self, name: str) -> Array:
        """An output of the last run."""
        tensor, block = self.outputs[name], self.plan.facts.block
        stored = np.empty(tensor.spec.storage_shape(block), tensor.spec.dtype)
        tensor.read(stored, f"output {name}")
        return unpack(stored, tensor.spec, block)

    def run(self) -> None:
        """Replays the recording, and waits for it where arrays are lent, which it gives back."""
        try:
            self._replay()
        finally:
            self.recording.give_back()

    def _replay(self) -> None:
        """The first time launch by launch, as some drivers compile kernels only then."""
        if not self.fresh:
            self.recording.run(self.plan.facts.watches and self.plan.flops < SHORT_FLOPS[self.joining.joined])
            return
        with shown(self.progress, "building kernels for this network") as tell:
            self.recording.run_stepwise(tell)
        self.joining.ran_first()
        self.fresh, self.progress = False, None

    def ran(self, seconds: float | None) -> None:
        """Notes a run that took so long, None where nothing waited for it."""
        self.recording = self.joining.ran(self.recording, seconds)

    def join(self) -> None:
        """Joins the launches now, where a process has compiled that already."""
        self.recording = self.joining.join() or self.recording

    def apart(self) -> Recording:
        """The launches one by one, however they are replayed."""
        return self.joining.apart() if self.joining.joined else self.recording


def _workspace(shared: Tensor | None, nbytes: int) -> Tensor | None:
    """What a step uses of its node's workspace."""
    return shared.part(0, nbytes, None) if shared is not None and nbytes else None


def _part(stored: Tensor, view: View, block: int) -> Tensor:
    """The part of a stored tensor that a view shows."""
    if view.whole:
        return stored
    spec = stored.spec
    plane = spec.shape[2] * spec.shape[3]
    start = 0 if view.rows is None else _first_byte(view, spec, block)
    if view.channels is not None:
        start += view.channels[0] * plane * ITEM_BYTES[spec.dtype]  # whole blocks
    depth = blocks(spec.shape[1], block) if spec.layout == "block" else 0
    return Tensor(stored.slab, stored.offset_bytes + start, view.spec, stored.nbytes - start, plane, depth)


def _rows(held: HostTensor, view: View, block: int) -> HostTensor:
    """The rows of what waits in host memory that a view shows."""
    if view.whole:
        return held
    spec = held.spec
    start = _first_byte(view, spec, block)
    return HostTensor(held.content[start:], view.spec, spec.shape[2] * spec.shape[3])


def _first_byte(view: View, spec: TensorSpec, block: int) -> int:
    """Where the rows that a view shows begin in what is stored."""
    return view.at * spec.shape[3] * (block if spec.layout == "block" else 1) * ITEM_BYTES[spec.dtype]


def checked(feeds: Mapping[str, Array], name: str, value: Value) -> Array:
    """The array for an input: right shape and type, contiguous."""
    if name not in feeds:
        raise ArgumentError(f"input {name}: not given; it must have the shape {value.spec}")
    array = np.asarray(feeds[name])
    if array.shape != value.spec.shape:
        raise ArgumentError(f"input {name}: shape {'x'.join(map(str, array.shape))} where {value.spec} is expected")
    if array.dtype != value.spec.dtype:
        raise ArgumentError(f"input {name}: type {array.dtype} where {value.spec.dtype} is expected")
    return np.ascontiguousarray(array)
