"""The plan of a graph for a budget: what costs least time among what fits, found before anything is allocated.

From the fastest to the smallest: everything in the device's memory; weights left in a mapped file, where the device
reads the host's memory; runs of layers in strips of rows; another algorithm, unless that is ruled out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ._core.layer import Choice
from .device import DeviceFacts
from .errors import BudgetError
from .graph import Graph
from .plan import Plan, costs_of, first, make_plan
from .planner import Found, Search, format_bytes
from .planner.steps import Pick, schedule

ATTEMPTS = 4  # the arena can be a little larger than what is alive: the search is repeated with less


def least_workspace(choices: Sequence[Choice]) -> Choice:
    """The best of the choices that need the least workspace."""
    return min(choices, key=lambda choice: choice.workspace_bytes)


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
        self._found: dict[object, Found | None] = {}

    def plan(self, budget: int | None, *, exact: bool = False, who: str = "net") -> Plan:
        """The cheapest plan with a peak of at most `budget` bytes (None: what the device has).

        Args:
            exact: only with the algorithms of the fastest plan: the same bits at every budget.

        Raises:
            BudgetError: none fits; says what the smallest needs.
        """
        limit = self.facts.global_bytes if budget is None else budget
        if (plan := self.whole(budget, exact=exact)) is not None:
            return plan
        variants = range(1 if exact else len(self._make))
        smallest = self.smallest(exact=exact)
        if smallest.peak_bytes > limit:
            message = self._refusal(smallest, limit, budget is not None, exact, who)
            raise BudgetError(message, smallest.peak_bytes)
        for variant in variants:
            for pick in (first, least_workspace):
                if (found := self._strips(variant, pick, limit)) is not None:
                    return found
        return smallest

    def whole(self, budget: int | None, *, exact: bool = False) -> Plan | None:
        """The fastest plan without strips that fits, or None."""
        limit = self.facts.global_bytes if budget is None else budget
        for variant in range(1 if exact else len(self._make)):
            for mapped in self._mappings(variant):
                if (plan := self._whole(variant, mapped)).peak_bytes <= limit:
                    return plan
        return None

    def smallest(self, *, exact: bool = False) -> Plan:
        """The plan with the smallest peak that is known."""
        plans = []
        for variant in range(1 if exact else len(self._make)):
            key = ("smallest", variant)
            if key not in self._plans:
                found = self._search(variant, least_workspace).least()
                self._plans[key] = self._planned(variant, least_workspace, found)
            plans.append(self._plans[key])
        return min(plans, key=lambda plan: plan.peak_bytes)

    def _mappings(self, variant: int) -> Sequence[bool]:
        """Whether weights may stay in a file, the better way first."""
        return (False, True) if self.facts.maps_files and self._graph(variant).persistent else (False,)

    def _graph(self, variant: int) -> Graph:
        if variant not in self._graphs:
            self._graphs[variant] = self._make[variant]()
        return self._graphs[variant]

    def _whole(self, variant: int, mapped: bool) -> Plan:
        key = ("whole", variant, mapped)
        if key not in self._plans:
            self._plans[key] = make_plan(self._graph(variant), self.facts, mapped=mapped)
        return self._plans[key]

    def _search(self, variant: int, pick: Pick) -> Search:
        if (variant, pick) not in self._searches:
            graph = self._graph(variant)
            plan = make_plan(graph, self.facts, pick=pick)
            workspace = {step.node: step.choice.workspace_bytes for step in schedule(graph, self.facts, pick).steps}
            self._searches[variant, pick] = Search(
                graph, self.facts.block, plan.live_bytes, costs_of(graph, self.facts), workspace
            )
        return self._searches[variant, pick]

    def _strips(self, variant: int, pick: Pick, limit: int) -> Plan | None:
        """A plan with layers in strips that fits, or None."""
        key = ("strips", variant, pick, limit)
        if key in self._plans:
            return self._plans[key]
        held = self._whole(variant, self.facts.maps_files)
        room = limit - held.residence.nbytes()
        aim = room
        for _ in range(ATTEMPTS):
            found = self._search(variant, pick).within(aim) if aim > 0 else None
            if found is None:
                return None
            plan = self._planned(variant, pick, found)
            if plan.peak_bytes <= limit:
                self._plans[key] = plan
                return plan
            aim -= plan.arena.nbytes - room
        return None

    def _planned(self, variant: int, pick: Pick, found: Found) -> Plan:
        return make_plan(
            self._graph(variant), self.facts, pick=pick, segments=found.segments, mapped=self.facts.maps_files
        )

    def _refusal(self, smallest: Plan, limit: int, asked: bool, exact: bool, who: str) -> str:
        whose = "the budget" if asked else self.facts.name
        fastest = self._whole(0, False)
        extra = ""
        if exact and (least := self.smallest()).peak_bytes < smallest.peak_bytes:
            extra = f", without exact=True {least.peak_bytes} ({format_bytes(least.peak_bytes)})"
        return (
            f"{who}: at least {smallest.peak_bytes} bytes ({format_bytes(smallest.peak_bytes)}) are needed{extra}, "
            f"more than the {limit} of {whose}; {format_bytes(fastest.peak_bytes)} for the fastest run. "
            "Nothing was allocated."
        )
