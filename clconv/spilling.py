"""Plans of a network whose activations may wait in host memory: how many of them do, for a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .errors import BudgetError
from .fitting import Fitting
from .plan import Plan
from .terms import DEFAULT, SPILLS, STORAGES, Terms

COPIED_BYTES = 256 << 10  # that go to the host and come back in the time of a launch, about
ALL_COUNTS = 6  # so many numbers of activations are all tried, of more every second, fourth, ...


class Fittings:
    """Plans of one network, batch and image size on a device, for any budget and terms.

    Args:
        make: the plans when so many activations wait in host memory, those first that are most worth it, and weights
            are stored as a type (None: float32).
        most: asked for once: how many there are to choose from.
    """

    def __init__(self, make: Callable[[int, str | None], Fitting], most: Callable[[], int]) -> None:
        self._make = make
        self._most = most
        self._known: dict[tuple[int, str | None], Fitting] = {}
        self._counts: tuple[int, ...] | None = None

    def whole(self, budget: int | None, terms: Terms = DEFAULT) -> Plan | None:
        """The fastest plan without strips and without waiting in host memory that fits, or None."""
        return self._fitting(0, terms).whole(budget, exact=terms.exact)

    def lean(self, limit: int, terms: Terms = DEFAULT, *, strips: bool = True) -> Plan | None:
        """See `Fitting.lean`; nothing waits in host memory."""
        return self._fitting(0, terms).lean(limit, exact=terms.exact, strips=strips)

    def plan(self, budget: int | None, terms: Terms = DEFAULT, who: str = "net") -> Plan:
        """The cheapest plan with a peak of at most `budget` bytes (None: what the device has).

        Raises:
            BudgetError: none fits; says what the smallest needs, and what would change that.
        """
        if terms.spill is None:
            return self._fitting(0, terms).plan(budget, exact=terms.exact, who=who, hint=lambda: self._hint(terms))
        refused: list[BudgetError] = []
        found: list[Plan] = []
        for count in (0, *self.counts):
            try:
                found.append(self._fitting(count, terms).plan(budget, exact=terms.exact, who=who))
            except BudgetError as error:
                refused.append(error)
            else:
                if not (count or found[0].segments):
                    break
        if not found:
            raise min(refused, key=lambda error: error.needed_bytes or 0)
        return min(found, key=_launches)

    def feasible(self, limit: int, terms: Terms) -> bool:
        """Whether some plan fits; takes less time than making it."""
        counts = (*self.counts[-1:], 0) if terms.spill is not None else (0,)
        return any(self._fitting(count, terms).feasible(limit, exact=terms.exact) for count in counts)

    def least_bytes(self, terms: Terms) -> int:
        """Bytes of the smallest plan that is known, under these terms."""
        counts = (0, *self.counts[-1:]) if terms.spill is not None else (0,)
        return min(self._fitting(count, terms).smallest(exact=terms.exact).peak_bytes for count in counts)

    def _hint(self, terms: Terms) -> str:
        """What a refusal says of other terms; nothing where they bring nothing."""
        others = {f'spill="{SPILLS[0]}"': replace(terms, spill=SPILLS[0])}
        if not (terms.exact or terms.storage or self._fitting(0, terms).facts.maps_files):
            others[f'storage="{STORAGES[0]}"'] = replace(terms, storage=STORAGES[0])
        least, told = self.least_bytes(terms), ""
        for words, other in others.items():
            nbytes = self.least_bytes(other)
            told += f", {nbytes} with {words}" if nbytes < least else ""
        return told

    @property
    def counts(self) -> tuple[int, ...]:
        """How many activations may wait in host memory: the numbers that are tried."""
        if self._counts is None:
            most = self._most()
            self._counts = tuple(range(most, 0, -max(1, -(-most // ALL_COUNTS))))[::-1]
        return self._counts

    def _fitting(self, count: int, terms: Terms) -> Fitting:
        key = (count, terms.storage)
        if key not in self._known:
            self._known[key] = self._make(*key)
        return self._known[key]


def _launches(plan: Plan) -> float:
    """What a plan costs beyond the layers' own work, as a number of launches."""
    return len(plan.schedule.steps) + 2 * plan.host_bytes / COPIED_BYTES
