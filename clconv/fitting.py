"""The plan of a graph for a budget: what costs least time among what fits, found before anything is allocated.

From the fastest to the smallest: everything in the device's memory; weights left in a mapped file where the device
reads the host's memory, or brought from it in parts where it does not; another algorithm, unless that is ruled out;
runs of layers in strips of rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from ._core.layer import Choice
from .device import DeviceFacts
from .errors import BudgetError, OutOfMemoryError
from .graph import Graph, Value
from .plan import Plan, costs_of, first, make_plan, whole_choices
from .planner import Found, Search, format_bytes
from .planner.steps import Pick

PART_BYTES = (8 << 20, 2 << 20, 512 << 10, 128 << 10)  # of streamed weights at a time, what is tried in order
SMALL_BYTES = 32 << 10  # weights below stay on the device
WORKSPACE_SHARE = 8  # of a budget; what a layer gives up for less costs more time than strips
ATTEMPTS = 4  # the arena can be a little larger than what is alive: the search is repeated with less


def least_workspace(choices: Sequence[Choice]) -> Choice:
    """The best of the choices that need the least workspace."""
    return min(choices, key=lambda choice: choice.workspace_bytes)


@functools.cache
def little_workspace(most: int) -> Pick:
    """Takes the best choice with at most `most` bytes of workspace; of none such the one with the least."""

    def pick(choices: Sequence[Choice]) -> Choice:
        return next((choice for choice in choices if choice.workspace_bytes <= most), least_workspace(choices))

    return pick


class Fitting:
    """Plans of one network, batch and image size on a device, for any budget.

    Args:
        graphs: make the graph, fastest algorithms first; those behind the first are less exact or slower.
    """

    def __init__(self, graphs: Sequence[Callable[[], Graph]], facts: DeviceFacts) -> None:
        self.facts = facts
        self._make = graphs
        self._graphs: dict[int, Graph] = {}
        self._plans: dict[object, Plan] = {}
        self._searches: dict[tuple[int, Pick], Search] = {}

    def plan(self, budget: int | None, *, exact: bool = False, who: str = "net", hint: Callable[[], str] = str) -> Plan:
        """The cheapest plan with a peak of at most `budget` bytes (None: what the device has).

        Args:
            exact: only with the algorithms of the fastest plan: the same bits at every budget.
            hint: asked for in a refusal: what else would fit, behind a comma.

        Raises:
            BudgetError: none fits; says what the smallest needs.
        """
        limit = self.facts.global_bytes if budget is None else budget
        variants = range(1 if exact else len(self._make))
        if (plan := self._resident(0, limit)) is not None:
            return plan
        whole = self.whole(budget, exact=exact)
        if whole is not None and not self._maps(0):
            return whole
        smallest = self.smallest(exact=exact)
        if smallest.peak_bytes > limit and whole is None:
            message = self._refusal(smallest, limit, budget is not None, exact, who, hint())
            raise BudgetError(message, smallest.peak_bytes)
        # The fastest algorithms in strips take less time than others whole.
        for variant in variants:
            if (plan := self._resident(variant, limit)) is not None:
                return plan
            for pick in (first, little_workspace(limit // WORKSPACE_SHARE), least_workspace):
                if smallest.peak_bytes <= limit and (plan := self._strips(variant, pick, limit)) is not None:
                    return plan
        return whole or smallest

    def whole(self, budget: int | None, *, exact: bool = False) -> Plan | None:
        """The fastest plan without strips that fits, or None."""
        limit = self.facts.global_bytes if budget is None else budget
        variants = range(1 if exact else len(self._make))
        for variant in variants:
            if (plan := self._resident(variant, limit)) is not None:
                return plan
        for variant in variants:
            if not self._maps(variant) and (plan := self._streamed(variant, limit)) is not None:
                return plan
        return None

    def _resident(self, variant: int, limit: int) -> Plan | None:
        """The plan with all layers whole and all weights on the device, or mapped; None where neither fits."""
        for mapped in (False, True) if self._maps(variant) else (False,):
            plan = self._whole(variant, mapped)
            if plan is not None and plan.peak_bytes <= limit:
                return plan
        return None

    def smallest(self, *, exact: bool = False) -> Plan:
        """The plan with the smallest peak that is known."""
        plans = []
        for variant in range(1 if exact else len(self._make)):
            key = ("smallest", variant)
            if key not in self._plans:
                found = self._search(variant, least_workspace).least()
                self._plans[key] = self._in_strips(variant, least_workspace, found)
            plans.append(self._plans[key])
        return min(plans, key=lambda plan: plan.peak_bytes)

    def _graph(self, variant: int) -> Graph:
        if variant not in self._graphs:
            self._graphs[variant] = self._make[variant]()
        return self._graphs[variant]

    def _maps(self, variant: int) -> bool:
        """Whether weights can be read where they are mapped; those larger than an allocation cannot."""
        most = max((v.spec.nbytes(self.facts.block) for v in self._graph(variant).persistent.values()), default=0)
        return self.facts.maps_files and most <= self.facts.max_alloc_bytes

    def _whole(self, variant: int, mapped: bool) -> Plan | None:
        """The plan with all weights on the device, or all mapped; None where some are larger than an allocation."""
        key = ("whole", variant, mapped)
        if key not in self._plans:
            try:
                self._plans[key] = make_plan(self._graph(variant), self.facts, mapped=mapped)
            except OutOfMemoryError:
                return None
        return self._plans[key]

    def _weights(self, variant: int) -> list[Value]:
        """Weights worth streaming, the largest first."""
        size = self.facts.block
        values = [v for v in self._graph(variant).persistent.values() if v.role == "param"]
        return sorted((v for v in values if v.spec.nbytes(size) >= SMALL_BYTES), key=lambda v: -v.spec.nbytes(size))

    def _streamed(self, variant: int, limit: int) -> Plan | None:
        """The plan that streams as few weights as it must, in the largest parts that fit; None where none fits."""
        weights = self._weights(variant)
        for part in (size for size in PART_BYTES if size <= self.facts.max_alloc_bytes):

            def plan(count: int, part: int = part) -> Plan:
                key = ("streamed", variant, part, count)
                if key not in self._plans:
                    streams = dict.fromkeys(weights[:count], part)
                    self._plans[key] = make_plan(self._graph(variant), self.facts, streams=streams)
                return self._plans[key]

            low, high = 1, len(weights)
            if not weights or plan(high).peak_bytes > limit:
                continue
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if plan(middle).peak_bytes <= limit else (middle + 1, high)
            return plan(high)
        return None

    def _streams(self, variant: int) -> dict[Value, int]:
        """What is streamed beside strips: everything that cannot be mapped, in the smallest parts."""
        return {} if self._maps(variant) else dict.fromkeys(self._weights(variant), PART_BYTES[-1])

    def _search(self, variant: int, pick: Pick) -> Search:
        if (variant, pick) not in self._searches:
            graph, streams, block = self._graph(variant), self._streams(variant), self.facts.block
            plan = make_plan(graph, self.facts, pick=pick, streams=streams)
            besides = {
                node: (choice.workspace_bytes, sum(v.spec.nbytes(block) for v in node.reads if v in streams))
                for node, choice in whole_choices(graph, self.facts, pick).items()
            }
            self._searches[variant, pick] = Search(graph, block, plan.live_bytes, costs_of(graph, self.facts), besides)
        return self._searches[variant, pick]

    def _strips(self, variant: int, pick: Pick, limit: int) -> Plan | None:
        """A plan with layers in strips that fits, or None."""
        key = ("strips", variant, pick, limit)
        if key in self._plans:
            return self._plans[key]
        held = make_plan(self._graph(variant), self.facts, mapped=self._maps(variant), streams=self._streams(variant))
        room = limit - held.residence.nbytes()
        aim = room
        for _ in range(ATTEMPTS):
            found = self._search(variant, pick).within(aim) if aim > 0 else None
            if found is None:
                return None
            plan = self._in_strips(variant, pick, found)
            if plan.peak_bytes <= limit:
                self._plans[key] = plan
                return plan
            aim -= plan.arena.nbytes - room
        return None

    def _in_strips(self, variant: int, pick: Pick, found: Found) -> Plan:
        return make_plan(
            self._graph(variant),
            self.facts,
            pick=pick,
            segments=found.segments,
            mapped=self._maps(variant),
            streams=self._streams(variant),
        )

    def _refusal(self, smallest: Plan, limit: int, asked: bool, exact: bool, who: str, hint: str) -> str:
        whose = "the budget" if asked else self.facts.name
        fastest = self._whole(0, False) or self._whole(0, True)
        extra = hint
        if exact and (least := self.smallest()).peak_bytes < smallest.peak_bytes:
            extra = f", without exact=True {least.peak_bytes} ({format_bytes(least.peak_bytes)}){hint}"
        return (
            f"{who}: at least {smallest.peak_bytes} bytes ({format_bytes(smallest.peak_bytes)}) are needed{extra}, "
            f"more than the {limit} of {whose}"
            + (f"; {format_bytes(fastest.peak_bytes)} for the fastest run" if fastest else "")
            + ". Nothing was allocated."
        )
