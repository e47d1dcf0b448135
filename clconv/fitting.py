"""The plan of a graph for a budget: what costs least time among what fits, found before anything is allocated.

From the fastest to the smallest: everything in the device's memory; weights left in a mapped file where the device
reads the host's memory, or brought from it in parts where it does not; another algorithm, unless that is ruled out;
runs of layers in strips of rows, or in tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ._core.layer import Choice, Layer
from .device import DeviceFacts
from .errors import BudgetError, OutOfMemoryError
from .graph import Graph, Node, Value
from .passes import lend_ends
from .plan import Plan, make_plan, settle
from .planner import ALIGN, NO_LIMIT, Found, Search, format_bytes
from .planner.prices import fitting_offer, offers
from .planner.steps import Choose
from .pricing import price_told
from .recent import Recent
from .shapes import TensorSpec

PART_BYTES = (8 << 20, 2 << 20, 512 << 10, 128 << 10)  # of streamed weights at a time, what is tried in order
SMALL_BYTES = (32 << 10, 2 << 10)  # weights below stay on the device; the second where those take too much:
SMALL_SHARE = 32  # of what there is one part in so many, and more
# The arena can be larger than what is alive: the search is repeated with less, a few times by what it was too large,
# then by twentieths.
ATTEMPTS, LESS = 4, 0.95
FASTER = 8  # times as far limits are lowered by a next step, looking for the least
MOST_PLANS = 16  # of each kind that are kept, a megabyte or two each; as many as a session records


def lowered(plan: Plan, find: Callable[[int], Plan | None]) -> Plan:
    """The plan with the smallest peak, of plans for ever lower limits, in steps that grow while there are any.

    Args:
        find: makes a plan within so many bytes; it made none for `ALIGN` bytes less than what is returned.
    """
    step = ALIGN
    while True:
        less = find(plan.peak_bytes - step)
        if less is not None:
            plan, step = less, FASTER * step
        elif step == ALIGN:
            return plan
        else:
            step = max(ALIGN, step // FASTER**2)


Bounds = dict[Node, tuple[float, float]]  # a room from .. up to .. changes nothing for its node


class Rooms:
    """Runs each node, and parts of it, the fastest way whose workspace takes no more than the node's room (or least).

    Args:
        rooms: bytes by node; what is not there has none.

    Attributes:
        bounds: other rooms with the same choices so far.
    """

    def __init__(self, facts: DeviceFacts, rooms: Mapping[Node, int]) -> None:
        self._facts = facts
        self._rooms = rooms
        self._known: dict[object, Choice] = {}
        self.bounds: Bounds = {}

    def __call__(
        self, node: Node, layer: Layer, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec]
    ) -> Choice:
        key = (node, *specs, *outs)
        if key not in self._known:
            room = self._rooms.get(node, 0)
            found = offers(self._facts, layer, specs, outs)
            taken = fitting_offer(found, room)
            low, high = self.bounds.get(node, (-math.inf, math.inf))
            low = max(low, taken.workspace_bytes if taken.workspace_bytes <= room else -math.inf)
            better = found[: found.index(taken)]
            self.bounds[node] = low, min([high, *(offer.workspace_bytes for offer in better)])
            self._known[key] = taken.choice
        return self._known[key]


def same(bounds: Bounds, rooms: Mapping[Node, int]) -> bool:
    """Whether with these rooms all choices are those that the bounds come from."""
    return all(low <= rooms.get(node, 0) < high for node, (low, high) in bounds.items())


class Fitting:
    """Plans of one network, batch and image size on a device, for any budget.

    Args:
        graphs: make the graph, fastest algorithms first; those behind the first are less exact or slower.
    """

    def __init__(self, graphs: Sequence[Callable[[], Graph]], facts: DeviceFacts) -> None:
        self.facts = facts
        self._make = graphs
        self._graphs: dict[int, Graph] = {}
        self._lents: dict[int, Graph] = {}
        self._wholes: dict[tuple[int, bool], Plan] = {}
        self._smallest: dict[bool, Plan] = {}
        self._streaming: Recent[tuple[int, int, int], Plan] = Recent(MOST_PLANS)
        self._found: Recent[tuple[int, int], tuple[float, Plan] | None] = Recent(MOST_PLANS)
        self._searches: dict[tuple[int, int], Search] = {}
        self._leasts: dict[int, Found] = {}
        self._peaks: dict[object, list[tuple[Bounds, int]]] = {}  # of plans that were made
        self._different: list[int] = []

    def cheapest(self, limit: int, *, exact: bool = False) -> Plan | None:
        """The cheapest plan with a peak of at most `limit` bytes that is found; None where none is.

        Args:
            exact: only with the algorithms of the fastest plan: the same bits at every budget.
        """
        if (plan := self._resident(0, limit)) is not None:
            return plan
        if not self.maps() and (plan := self.whole(limit, exact=exact)) is not None:
            return plan
        return self._best_strips(limit, exact)

    def alive_bytes(self, *, exact: bool = False) -> int:
        """About what the smallest plan has alive at a time: packing may add to it. Takes less time than the plan."""
        leanest = self._variants(exact)[-1]
        return self._held(leanest, SMALL_BYTES[-1]) + self._least(leanest).peak_bytes

    def enough_bytes(self, most: int, *, exact: bool = False) -> int | None:
        """What some plan takes, of at most `most` bytes; None if none is found soon."""
        leanest, small = self._variants(exact)[-1], SMALL_BYTES[-1]
        plan: Plan | None = self._leanest(leanest)
        if plan is not None and plan.peak_bytes > most:
            found = self._search(leanest, small).within(most - self._held(leanest, small))
            plan = None if found is None else self._packed(leanest, small, found, most)[0]
        return None if plan is None else plan.peak_bytes

    def feasible(self, limit: int, *, exact: bool = False) -> bool:
        """Whether some plan fits, but for what packing may add."""
        if self._resident(0, limit) is not None:
            return True
        leanest = self._variants(exact)[-1]
        room = limit - self._held(leanest, SMALL_BYTES[-1])
        return room > 0 and self._search(leanest, SMALL_BYTES[-1]).within(room, priced=False) is not None

    def _best_strips(self, limit: int, exact: bool) -> Plan | None:
        found = [self._strips(variant, limit) for variant in self._variants(exact)]
        return min((each for each in found if each is not None), key=lambda each: each[0], default=(0, None))[1]

    def _variants(self, exact: bool) -> list[int]:
        """Numbers of the graphs that may be used, of equal ones the first; the last has the least workspace."""
        if exact:
            return [0]
        if not self._different:
            known = [[(type(n.layer), n.input_specs()) for n in self._graph(i).nodes] for i in range(len(self._make))]
            self._different = [i for i, each in enumerate(known) if each not in known[:i]]
        return self._different

    def whole(self, budget: int | None, *, exact: bool = False) -> Plan | None:
        """The fastest plan without strips that fits, or None."""
        limit = self.facts.global_bytes if budget is None else budget
        for variant in self._variants(exact):
            if (plan := self._resident(variant, limit)) is not None:
                return plan
        for variant in self._variants(exact):
            if not self.maps(variant) and (plan := self._streamed(variant, limit)) is not None:
                return plan
        return None

    def lean(self, limit: int, *, exact: bool = False, strips: bool = True) -> Plan | None:
        """The cheapest plan that fits and keeps only small weights on the device, or None.

        Args:
            strips: layers may run in strips.
        """
        for variant in self._variants(exact):
            plan = self._whole(variant, True) if self.maps(variant) else self._streamed(variant, limit, every=True)
            if plan is not None and plan.peak_bytes <= limit:
                return plan
        return self._best_strips(limit, exact) if strips else None

    def _resident(self, variant: int, limit: int) -> Plan | None:
        """The plan with all layers whole and all weights on the device, or mapped; None where neither fits."""
        for mapped in (False, True) if self.maps(variant) else (False,):
            plan = self._whole(variant, mapped)
            if plan is not None and plan.peak_bytes <= limit:
                return plan
        return None

    def smallest(self, *, exact: bool = False) -> Plan:
        """The plan with the smallest peak that is known: less is refused."""
        if exact not in self._smallest:
            leanest, *others = self._variants(exact)[::-1]
            plan = self._leanest(leanest)
            for variant in others:
                # Mostly it takes no less; to see that takes less time than the plan.
                room = plan.peak_bytes - ALIGN - self._held(variant, SMALL_BYTES[-1])
                if self._search(variant, SMALL_BYTES[-1]).within(room, priced=False) is not None:
                    plan = min(plan, self._leanest(variant), key=lambda each: each.peak_bytes)
            # Packed otherwise, a little less may do.
            plan = lowered(plan, lambda limit: (self._strips(leanest, limit) or (0, None))[1])
            plan = lowered(plan, lambda limit: self.cheapest(limit, exact=exact))
            self._smallest[exact] = plan
        return self._smallest[exact]

    def _graph(self, variant: int) -> Graph:
        if variant not in self._graphs:
            self._graphs[variant] = self._make[variant]()
        return self._graphs[variant]

    def _lent(self, variant: int) -> Graph:
        """The graph for strips: images and results stay in the caller's arrays."""
        if variant not in self._lents:
            self._lents[variant] = lend_ends(self._graph(variant), self.facts.block)
        return self._lents[variant]

    def maps(self, variant: int = 0) -> bool:
        """Whether weights can be read where they are mapped; those larger than an allocation cannot."""
        most = max((v.spec.nbytes(self.facts.block) for v in self._graph(variant).persistent.values()), default=0)
        return self.facts.maps_files and most <= self.facts.max_alloc_bytes

    def _whole(self, variant: int, mapped: bool) -> Plan | None:
        """The plan with all weights on the device, or all mapped; None where some are larger than an allocation."""
        key = variant, mapped
        if key not in self._wholes:
            try:
                self._wholes[key] = make_plan(self._graph(variant), self.facts, mapped=mapped)
            except OutOfMemoryError:
                return None
        return self._wholes[key]

    def _weights(self, variant: int, small: int) -> list[Value]:
        """Weights worth streaming, those of at least `small` bytes, the largest first."""
        size = self.facts.block
        values = [v for v in self._graph(variant).persistent.values() if v.role == "param"]
        return sorted((v for v in values if v.spec.nbytes(size) >= small), key=lambda v: -v.spec.nbytes(size))

    def _streamed(self, variant: int, limit: int, *, every: bool = False) -> Plan | None:
        """The plan that streams as few weights as it must, in the largest parts that fit; None where none fits."""
        small = SMALL_BYTES[0]
        weights = self._weights(variant, small)
        if self._held(variant, small) + max(self._search(variant, small).live) > limit:
            return None
        for part in (size for size in PART_BYTES if size <= self.facts.max_alloc_bytes):

            def plan(count: int, part: int = part) -> Plan:
                streams = dict.fromkeys(weights[:count], part)
                return self._streaming.get(
                    (variant, part, count), lambda: make_plan(self._graph(variant), self.facts, streams=streams)
                )

            low, high = len(weights) if every else 1, len(weights)
            if not weights or plan(high).peak_bytes > limit:
                continue
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if plan(middle).peak_bytes <= limit else (middle + 1, high)
            return plan(high)
        return None

    def _streams(self, variant: int, small: int) -> list[Value]:
        """What is streamed beside strips: everything that cannot be mapped, but for what is `small`."""
        return [] if self.maps(variant) else self._weights(variant, small)

    def _search(self, variant: int, small: int) -> Search:
        key = variant, small
        if key not in self._searches:
            graph = self._lent(variant)
            # Only what is alive beside weights is asked for: these may be larger than an allocation.
            facts = replace(self.facts, max_alloc_bytes=NO_LIMIT)
            plan = make_plan(graph, facts, choose=Rooms(self.facts, {}))
            self._searches[key] = Search(graph, self.facts, plan.kept_bytes, {*self._streams(variant, small)})
        return self._searches[key]

    def _least(self, variant: int) -> Found:
        if variant not in self._leasts:
            self._leasts[variant] = self._search(variant, SMALL_BYTES[-1]).smallest()
        return self._leasts[variant]

    def _leanest(self, variant: int) -> Plan:
        """The plan with about the fewest bytes alive at a time."""
        return self._in_strips(variant, SMALL_BYTES[-1], self._least(variant), Rooms(self.facts, {}), 0)

    def _strips(self, variant: int, limit: int) -> tuple[float, Plan] | None:
        """The cheapest plan that fits, with layers in strips where it must, and its price; None where none fits."""
        return self._found.get((variant, limit), lambda: self._cheapest_strips(variant, limit))

    def _cheapest_strips(self, variant: int, limit: int) -> tuple[float, Plan] | None:
        small = self._small(variant, limit)
        room = limit - self._held(variant, small)
        aim = room
        attempts, last = 0, 0
        while aim > 0:
            found = self._search(variant, small).within(aim)
            if found is None:
                return None
            plan, peak = self._packed(variant, small, found, limit)
            if plan is not None:
                return found.price, plan
            attempts += 1
            aim -= peak - limit
            if attempts >= ATTEMPTS or peak == last:
                aim = int(LESS * aim)
            last = peak
        return None

    def _packed(self, variant: int, small: int, found: Found, limit: int) -> tuple[Plan | None, int]:
        """The plan for what a search found if it fits, and its peak; what is known not to fit is not made again."""
        key = variant, small, found.segments, frozenset(found.streams.items())
        known = self._peaks.setdefault(key, [])
        peak = next((peak for bounds, peak in known if same(bounds, found.rooms)), 0)
        if peak > limit:
            return None, peak
        choose = Rooms(self.facts, found.rooms)
        plan = self._in_strips(variant, small, found, choose, limit - self._held(variant, small))
        # What fits may take less with weights that come later.
        if not peak and (plan.peak_bytes > limit or not found.streams):
            known.append((choose.bounds, plan.peak_bytes))
        return (plan if plan.peak_bytes <= limit else None), plan.peak_bytes

    def _small(self, variant: int, limit: int) -> int:
        """Up to how many bytes weights stay on the device beside strips: fewer where that takes much of the limit."""
        most, least = SMALL_BYTES
        more = self._held(variant, most) - self._held(variant, least)
        return most if more <= limit // SMALL_SHARE else least

    def _held(self, variant: int, small: int) -> int:
        """Bytes of weights that stay on the device when all others are mapped or streamed."""
        streamed = {value.name for value in self._streams(variant, small)}
        values = self._graph(variant).persistent.values()
        return settle(values, self.facts, mapped=self.maps(variant), streamed=streamed).nbytes()

    def _in_strips(self, variant: int, small: int, found: Found, choose: Choose, room: int) -> Plan:
        """The plan of what was found; weights come early where the arena takes no more than `room` bytes then."""
        return make_plan(
            self._lent(variant),
            self.facts,
            choose=choose,
            segments=found.segments,
            mapped=self.maps(variant),
            streams={value: found.streams.get(value, 0) for value in self._streams(variant, small)},
            room=room,
        )

    def refusal(self, smallest: Plan, budget: int | None, *, exact: bool, who: str, hint: str) -> BudgetError:
        """Why `budget` bytes do not do (None: what the device has): what the smallest plan needs.

        Args:
            hint: what else would fit, behind a comma.
        """
        whose = self.facts.name if budget is None else "the budget"
        limit = self.facts.global_bytes if budget is None else budget
        fastest = self._whole(0, False) or self._whole(0, True)
        extra = f" ({price_told(smallest, fastest)})" if fastest and smallest.segments else ""
        if exact and (least := self.smallest()).peak_bytes < smallest.peak_bytes:
            extra += f", without exact=True {least.peak_bytes} ({format_bytes(least.peak_bytes)})"
        lean = self.lean(self.facts.global_bytes, exact=exact, strips=False)
        larger = ((lean, "without extra work"), (fastest, "for the fastest run"))
        known = {plan.peak_bytes: f"{format_bytes(plan.peak_bytes)} {why}" for plan, why in larger if plan}
        message = (
            f"{who}: at least {smallest.peak_bytes} bytes ({format_bytes(smallest.peak_bytes)}) are needed{extra}"
            f"{hint}, more than the {limit} bytes of {whose}"
            + "".join(f"{', ' if i else '; '}{told}" for i, told in enumerate(known.values()))
            + ". Nothing was allocated."
        )
        return BudgetError(message, smallest.peak_bytes)
