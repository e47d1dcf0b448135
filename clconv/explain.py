"""Why a plan is as it is: what was chosen for each run of layers, and what that costs beside no limit.

A training step is told in stretches: the forward pass, and going back what is done at a time, with what is computed
again for it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from ._core.half import HalfCopy
from ._core.layer import Cost
from ._core.layout import HostCopy, ToBlocks, ToPhases, ToPlain
from ._core.norm_batch import BatchNormInfer
from .graph import Node, Value
from .passes import FEATURES
from .plan import MAPPED, STREAMED, Plan
from .planner import format_bytes
from .planner.prices import PRICES
from .pricing import step_cost, step_price
from .tables import table
from .timeline import gradients, served
from .train.method import MODELLED, uncached_price

Key = tuple[str, str, int]  # a layer, what is done for it, and the how-manieth node of these
MOVES = (ToBlocks, ToPhases, ToPlain, HalfCopy, HostCopy)
FORWARD, BACKWARD, AGAIN = "forward", "backward", "again, backward"
LEGEND = (
    "live: the most bytes alive at a time, weights left out. moved: bytes read and written, all steps together.",
    "time: modelled, as a ratio to that of the same layers without a limit.",
)


@dataclass(frozen=True)
class Part:
    """A run of layers that a plan treats alike.

    Attributes:
        first, last: layers, in the order of the network. how: "whole", or its strips, or tiles (rows x columns); in
            training "forward", "backward", "again, backward", and of stages how often. weights: where they are read.
        algorithms: of convolutions.
        live_bytes: the most alive in the arena. flops, traffic_bytes, steps: of one run.
        ratio: modelled time over that of the same layers in the other plan; None where that has none of them.
    """

    first: str
    last: str
    how: str
    weights: str
    algorithms: str
    live_bytes: int
    flops: int
    traffic_bytes: int
    steps: int
    ratio: float | None

    @property
    def span(self) -> str:
        """Its layers, for people."""
        return self.first if self.first == self.last else f"{self.first} .. {self.last}"


@dataclass(frozen=True)
class Explanation:
    """A plan in parts beside the one without a limit.

    Attributes:
        told: what was done to save memory, for people. peak_bytes, mapped_bytes, streamed_bytes, host_bytes: of the
            plan.
        unlimited_bytes: what the plan without a limit takes. ratio: modelled time over that one's.
        runs: of the plan's first stage per batch, where it is for one of several parts of a batch.
    """

    mode: str
    parts: tuple[Part, ...]
    told: tuple[str, ...]
    peak_bytes: int
    mapped_bytes: int
    streamed_bytes: int
    host_bytes: int
    unlimited_bytes: int
    flops: int
    unlimited_flops: int
    ratio: float
    runs: float

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = "test-time mode" if self.mode == "test" else "training step"
        mapped = f", weights in a mapped file {format_bytes(self.mapped_bytes)}" if self.mapped_bytes else ""
        if self.streamed_bytes:
            mapped += f", weights that come in parts {format_bytes(self.streamed_bytes)}"
        if self.host_bytes:
            mapped += f", {format_bytes(self.peak_bytes + self.host_bytes)} together with the host's"
        parts = f", {math.ceil(self.runs)} runs per batch" if self.runs > 1 else ""
        totals = [
            f"{what}: {format_bytes(self.peak_bytes)} on the device{mapped}{parts};",
            f"  without a limit {format_bytes(self.unlimited_bytes)}; modelled time {self.ratio:.2f} x that, "
            f"{self.flops / 1e9:.3f} GFLOP instead of {self.unlimited_flops / 1e9:.3f}",
        ]
        cells = [
            (
                part.span if len(self.parts) > 1 else "all",
                part.how,
                part.weights,
                part.algorithms,
                f"{part.live_bytes / 2**20:,.2f}",
                f"{part.flops / 1e9:,.3f}",
                f"{part.traffic_bytes / 2**20:,.1f}",
                str(part.steps),
                "" if part.ratio is None else f"{part.ratio:.2f} x",
            )
            for part in self.parts
        ]
        header = ("layers", "how", "weights MiB", "convolutions", "live MiB", "GFLOP", "moved MiB", "steps", "time")
        lines = table(header, cells, right=(4, 5, 6, 7, 8), flexible=(0, 3))
        told = [f"  {line}" for line in self.told if not line.startswith(MODELLED)]
        return "\n".join([*totals, *told, "", *lines, "", *LEGEND])


def step_seconds(plan: Plan) -> list[float]:
    """Modelled seconds of each step; their proportions mean something, their sum does not."""
    per_second = PRICES[plan.facts.kernels].per_second
    return [price / per_second for stage in plan.stages for price in _prices(stage)]


def _costs(plan: Plan) -> list[Cost]:
    return [step_cost(plan, step) for step in plan.schedule.steps]


def _prices(plan: Plan, runs: float = 1.0) -> list[float]:
    """Modelled time of each step; of one of several parts of a batch with what passes over all weights take."""
    found = [step_price(plan, step) for step in plan.schedule.steps]
    if runs > 1:
        for place, step in enumerate(plan.schedule.steps):
            weights = [value for value in step.node.reads if value.role == "param"] if step.layer.updates else []
            nbytes = sum(value.spec.nbytes(plan.facts.block) for value in weights)
            found[place] += (1 - 1 / runs) * uncached_price(plan, nbytes)
    return found


def _images(plan: Plan) -> int:
    """Images of one run; networks of another kind take one."""
    known = plan.graph.inputs.get("x") or plan.graph.inputs.get(FEATURES)
    return known.spec.shape[0] if known is not None else 1


def explain(plan: Plan, unlimited: Plan, mode: str = "test", batch: int | None = None) -> Explanation:
    """A plan part by part, beside the plan of the same network without a limit.

    Args:
        batch: images that the plan without a limit takes at once, where this one takes fewer.
    """
    train = mode == "train"
    known: defaultdict[Key, float] = defaultdict(float)
    for stage in unlimited.stages:
        for key, amount in zip(_keys(stage), _prices(stage), strict=True):
            known[key] += amount
    parts, flops, price = [], 0.0, 0.0
    for stage in plan.stages:
        runs = 1.0 if batch is None else batch / _images(stage)
        costs, prices, keys = _costs(stage), _prices(stage, runs if train else 1.0), _keys(stage)
        flops += runs * sum(cost.flops for cost in costs)
        price += runs * sum(prices)
        for first, stop, how in _stretches(stage, keys, known) if train else _runs(stage):
            other = sum(known[key] for key in set(keys[first:stop]))
            ratio = runs * sum(prices[first:stop]) / other if other else None
            times = f", {math.ceil(runs)} x" if plan.behind else ""
            parts.append(_part(stage, first, stop, how + times, costs[first:stop], ratio))
    return Explanation(
        mode, tuple(parts), plan.told, plan.peak_bytes, plan.mapped_bytes, plan.streamed_bytes, plan.host_bytes,
        unlimited.peak_bytes,
        int(flops), sum(cost.flops for stage in unlimited.stages for cost in _costs(stage)),
        price / sum(known.values()), 1.0 if batch is None else batch / _images(plan),
    )  # fmt: skip


def _keys(plan: Plan) -> list[Key]:
    """For each step what it serves: the same in plans of one network."""
    numbers: dict[Node, Key] = {}
    seen: Counter[tuple[str, str]] = Counter()
    back, what = gradients(plan.graph), FORWARD
    for node in plan.graph.nodes:
        if back:  # what is computed between gradients and reads none of them has been computed before
            begun = what != FORWARD or not back.isdisjoint(node.outputs)
            fresh = back.isdisjoint((*node.outputs, *node.reads)) and any(not v.persistent for v in node.reads)
            what = FORWARD if not begun else AGAIN if fresh and not isinstance(node.layer, MOVES) else BACKWARD
        numbers[node] = (node.name, what, seen[node.name, what])
        seen[node.name, what] += 1
    return [numbers[step.node] for step in plan.schedule.steps]


def _stretches(plan: Plan, keys: Sequence[Key], known: Mapping[Key, float]) -> list[tuple[int, int, str]]:
    """Steps first..stop - 1 of the forward pass of a training step, and of each part of the way back.

    A part begins where something is computed again that the other plan, whose keys are `known`, does not.
    """
    starts = [(0, FORWARD)]
    at = 0
    for what, group in groupby(zip(keys, plan.schedule.steps, strict=True), key=lambda pair: pair[0][1]):
        own = list(group)
        # Batch normalisation is computed again in any case.
        if what == AGAIN and any(key not in known and not isinstance(s.layer, BatchNormInfer) for key, s in own):
            starts.append((at, AGAIN))
        elif what != FORWARD and starts[-1][1] == FORWARD:
            starts.append((at, BACKWARD))
        at += len(own)
    stops = [start for start, _ in starts[1:]] + [len(keys)]
    return [(start, stop, how) for (start, how), stop in zip(starts, stops, strict=True)]


def _runs(plan: Plan) -> list[tuple[int, int, str]]:
    """Steps first..stop - 1 of each run of layers, with how they are computed."""
    inside = {node: plan.segment_of(node) for node in plan.graph.nodes} if plan.segments else {}
    found: list[tuple[int, int, str]] = []
    for segment, group in groupby(served(plan), key=inside.get):
        if segment is None:
            how = "whole"
        else:
            how = f"{plan.cut(segment)} of {segment.rows} {f'x {segment.columns}' if segment.columns else 'rows'}"
        first = found[-1][1] if found else 0
        found.append((first, first + len(list(group)), how))
    return found


def _part(plan: Plan, first: int, stop: int, how: str, costs: Sequence[Cost], ratio: float | None) -> Part:
    nodes = plan.graph.nodes
    own = list(dict.fromkeys(served(plan)[first:stop]))
    place: dict[str, int] = {}
    for node in nodes:
        place.setdefault(node.name, len(place))
    named = sorted([n for n in own if not isinstance(n.layer, MOVES)] or own, key=lambda node: place[node.name])
    return Part(
        named[0].name,
        named[-1].name,
        how,
        _weights(plan, {value for node in own for value in node.reads if value.persistent}),
        _algorithms([plan.choices[node].name for node in own if "Conv" in type(node.layer).__name__]),
        max(plan.step_bytes[first:stop]),
        sum(cost.flops for cost in costs),
        sum(cost.traffic_bytes for cost in costs),
        stop - first,
        ratio,
    )


def _weights(plan: Plan, values: set[Value]) -> str:
    amounts: Counter[str] = Counter()
    for value in values:
        if value.role in ("param", "state"):
            tag = plan.residence.places[value.name][0]
            amounts[tag if tag in (MAPPED, STREAMED) else "resident"] += value.spec.nbytes(plan.facts.block)
    return ", ".join(f"{where} {nbytes / 2**20:.1f}" for where, nbytes in sorted(amounts.items()))


def _algorithms(names: Sequence[str]) -> str:
    counts = Counter(name.partition(" ")[0] for name in names)
    return ", ".join(name if len(counts) == 1 else f"{count} {name}" for name, count in counts.most_common())
