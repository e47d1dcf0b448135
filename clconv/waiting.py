"""Plans of a network whose activations may wait, in host memory or as float16: how many of them do, for a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from .fitting import Fitting, lowered
from .plan import Plan
from .pricing import plan_price
from .terms import DEFAULT, SPILLS, STORAGES, Terms

WORTH = 0.95  # of the least bytes: a refusal does not name terms that take more
ALL_COUNTS = 6  # so many numbers of activations are all tried, of more every second, fourth, ...


@dataclass(frozen=True)
class Waiting:
    """How many activations wait: those most worth it `spilled` in host memory, the next ones `halved` as float16."""

    spilled: int = 0
    halved: int = 0


NONE = Waiting()


class Fittings:
    """Plans of one network, batch and image size on a device, for any budget and terms.

    Args:
        make: the plans when so many activations wait, and weights are stored as a type (None: float32).
        most: asked for once: how many there are to choose from.
    """

    def __init__(self, make: Callable[[Waiting, str | None], Fitting], most: Callable[[], int]) -> None:
        self._make = make
        self._most = most
        self._known: dict[tuple[Waiting, str | None], Fitting] = {}
        self._counts: tuple[int, ...] | None = None
        self._least: dict[Terms, tuple[Fitting, Plan]] = {}

    def whole(self, budget: int | None, terms: Terms = DEFAULT) -> Plan | None:
        """The fastest plan without strips and without waiting that fits, or None."""
        return self._fitting(NONE, terms).whole(budget, exact=terms.exact)

    def lean(self, limit: int, terms: Terms = DEFAULT, *, strips: bool = True) -> Plan | None:
        """See `Fitting.lean`; nothing waits."""
        return self._fitting(NONE, terms).lean(limit, exact=terms.exact, strips=strips)

    def plan(self, budget: int | None, terms: Terms = DEFAULT, who: str = "net") -> Plan:
        """The cheapest plan with a peak of at most `budget` bytes (None: what the device has).

        Raises:
            BudgetError: none fits; says what the smallest needs, and what would change that.
        """
        facts = self._fitting(NONE, terms).facts
        limit = facts.global_bytes if budget is None else budget
        found: list[Plan] = []
        for way in self._ways(terms):
            plan = self._fitting(way, terms).cheapest(limit, exact=terms.exact)
            if plan is not None:
                found.append(plan)
                if way == NONE and not plan.segments:
                    break
        if found:
            return min(found, key=plan_price)
        fitting, smallest = self._smallest(terms)
        if smallest.peak_bytes > limit:
            raise fitting.refusal(smallest, budget, exact=terms.exact, who=who, hint=self._hint(terms))
        return smallest

    def feasible(self, limit: int, terms: Terms) -> bool:
        """Whether some plan fits; takes less time than making it."""
        ways = [*self._ways(terms)][::-1]  # those with the most that waits first
        return any(self._fitting(way, terms).feasible(limit, exact=terms.exact) for way in ways)

    def least_bytes(self, terms: Terms) -> int:
        """Bytes of the smallest plan that is known, under these terms."""
        return self._smallest(terms)[1].peak_bytes

    def _smallest(self, terms: Terms) -> tuple[Fitting, Plan]:
        """The smallest plan that is known, of those who have about the least alive, and what made it."""
        if terms not in self._least:
            fittings = [self._fitting(way, terms) for way in self._ways(terms)]
            alive = {fitting: fitting.alive_bytes(exact=terms.exact) for fitting in fittings}
            best = min(fittings, key=lambda each: alive[each])
            plan = best.smallest(exact=terms.exact)
            for fitting in fittings:
                if fitting is not best and alive[fitting] < plan.peak_bytes:
                    less = lowered(plan, partial(fitting.cheapest, exact=terms.exact))
                    best, plan = (best, plan) if less is plan else (fitting, less)
            self._least[terms] = best, plan
        return self._least[terms]

    def _hint(self, terms: Terms) -> str:
        """What a refusal says of other terms; nothing where they bring nothing."""
        others = {}
        if terms.spill is None:
            others[f'spill="{SPILLS[0]}"'] = replace(terms, spill=SPILLS[0])
        if terms.storage is None and not terms.exact:
            others[f'storage="{STORAGES[0]}"'] = replace(terms, storage=STORAGES[0])
        most, told = int(WORTH * self.least_bytes(terms)), ""
        for words, other in others.items():
            nbytes = self._enough_bytes(other, most)
            told += f", {nbytes} or less will do with {words}" if nbytes is not None else ""
        return told

    def _enough_bytes(self, terms: Terms, most: int) -> int | None:
        """What a plan takes that these terms allow, at most `most` bytes; not the least, which would take longer.

        Ways that other terms allow, too, are left out.
        """
        ways = [*self._ways(terms)]
        # Of weights in a mapped file it does not matter how they are stored.
        if terms.storage is None or self._fitting(NONE, terms).maps():
            ways.remove(NONE)
        alive = {way: self._fitting(way, terms).alive_bytes(exact=terms.exact) for way in ways}
        best = min(ways, key=lambda way: alive[way], default=None)
        if best is None or alive[best] >= most:
            return None
        return self._fitting(best, terms).enough_bytes(most, exact=terms.exact)

    def _ways(self, terms: Terms) -> Iterator[Waiting]:
        """What is tried: so many that wait in host memory, or as float16, or, where both are allowed, some and some."""
        yield NONE
        if terms.spill is not None:
            yield from (Waiting(spilled=count) for count in self.counts)
        if terms.storage is not None:
            yield from (Waiting(halved=count) for count in self.counts)
        if terms.spill is not None and terms.storage is not None:
            yield from (Waiting(count, self.counts[-1] - count) for count in self.counts[:-1])

    @property
    def counts(self) -> tuple[int, ...]:
        """How many activations may wait: the numbers that are tried."""
        if self._counts is None:
            most = self._most()
            self._counts = tuple(range(most, 0, -max(1, -(-most // ALL_COUNTS))))[::-1]
        return self._counts

    def _fitting(self, waiting: Waiting, terms: Terms) -> Fitting:
        key = (waiting, terms.storage)
        if key not in self._known:
            self._known[key] = self._make(*key)
        return self._known[key]
