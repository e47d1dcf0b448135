"""Plans of a network whose activations may wait, in host memory or as float16: how many of them do, for a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from .errors import BudgetError
from .fitting import Fitting
from .plan import Plan
from .pricing import plan_price
from .terms import DEFAULT, SPILLS, STORAGES, Terms

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
        refused: list[BudgetError] = []
        found: list[Plan] = []
        for way in self._ways(terms):
            fitting = self._fitting(way, terms)
            try:
                found.append(fitting.plan(budget, exact=terms.exact, who=who, hint=lambda: self._hint(terms)))
            except BudgetError as error:
                refused.append(error)
            else:
                if way == NONE and not found[0].segments:
                    break
        if not found:
            raise min(refused, key=lambda error: error.needed_bytes or 0)
        return min(found, key=plan_price)

    def feasible(self, limit: int, terms: Terms) -> bool:
        """Whether some plan fits; takes less time than making it."""
        ways = [*self._ways(terms)][::-1]  # those with the most that waits first
        return any(self._fitting(way, terms).feasible(limit, exact=terms.exact) for way in ways)

    def least_bytes(self, terms: Terms) -> int:
        """Bytes of the smallest plan that is known, under these terms."""
        return min(self._fitting(way, terms).smallest(exact=terms.exact).peak_bytes for way in self._ways(terms))

    def _hint(self, terms: Terms) -> str:
        """What a refusal says of other terms; nothing where they bring nothing."""
        others = {}
        if terms.spill is None:
            others[f'spill="{SPILLS[0]}"'] = replace(terms, spill=SPILLS[0])
        if terms.storage is None and not terms.exact:
            others[f'storage="{STORAGES[0]}"'] = replace(terms, storage=STORAGES[0])
        least, told = self.least_bytes(terms), ""
        for words, other in others.items():
            nbytes = self.least_bytes(other)
            told += f", {nbytes} with {words}" if nbytes < least else ""
        return told

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
