"""The cheapest way to compute training steps within a number of bytes, and the least that they can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from ..errors import OutOfMemoryError, ShapeError
from ..plan import Plan
from ..planner.recompute import Search
from .method import UNCACHED, Method, StepPlans, normalises, passes_price, together_bytes, uncached_price
from .recompute import chain, modelled_cost

SCRATCH = (None, 8 << 20, 0)  # for Winograd's method, as `Method.scratch`
# How far above the least that recomputation can do its limits lie, as shares of what it saves.
LEVELS = (0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
LEAST = LEVELS[:2]  # of these, what takes least is found; packing decides which of them
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MOST_TRIES = 24  # plans that are made for one answer, before the least is taken
TRUST = 0.9  # a method is not tried where its modelled bytes times this pass the limit
Level = tuple[float, tuple[int, ...], int]  # modelled cost, cuts, bytes of the arena


@dataclass(frozen=True)
class Candidate:
    """A method with its modelled cost, in operations, and bytes."""

    method: Method
    cost: float
    nbytes: float


class Fitting:
    """Methods for steps on batches of these sizes ("train" and "test").

    Args:
        parts: batches may come in parts even where they are normalised. halves: activations may wait as float16.

    Attributes:
        obstacle: why the last method that was tried cannot be planned at all.
    """

    def __init__(self, plans: StepPlans, batches: Mapping[str, set[int]], *, parts: bool, halves: bool = False) -> None:
        self.plans = plans
        self.batches = batches
        self.batch = max(batches["train"])
        self.whole = not parts and normalises(plans.network, self.batch)
        self.storages = (False, True) if halves else (False,)
        self.obstacle = ""
        self._searches: dict[tuple[int, bool], Search | None] = {}

    def within(self, limit: int) -> Method | None:
        """The cheapest method that takes at most `limit` bytes; None where there is none."""
        fastest = self._settled(Method(), limit)
        if fastest is not None:
            return fastest
        least = self.least()
        if not least or least[0][0] > limit:
            return None
        tries = 0
        for candidate in sorted(self._candidates(), key=lambda c: c.cost):
            if candidate.nbytes * TRUST > limit:
                continue
            method = self._settled(candidate.method, limit)
            tries += 1
            if method is not None:
                return method
            if tries == MOST_TRIES:
                break
        return self._settled(min((method for n, method in least if n <= limit), key=self.cost), limit)

    def least(self) -> list[tuple[int, Method]]:
        """The methods that take least, with their bytes, ascending: what does not fit the first is refused."""
        methods = [Method(test_images=1)]  # where direct convolutions take more, and computing again saves nothing
        sizes = {self.batch} if self.whole else {self.batch, 1, 2}
        for images, halved in product(sizes, self.storages):
            methods += [Method(images, cuts, halved, 0, 1) for _, cuts, _ in self._levels(images, LEAST, halved)]
        found = [(nbytes, method) for method in methods if (nbytes := self._bytes(method)) is not None]
        return sorted(found, key=lambda item: item[0])

    def cost(self, method: Method) -> float:
        """Modelled operations of a step on the largest batch."""
        summed = self.plans.summed(method, self.batches)
        plans = [self.plans.train(method, images, self.batch, summed) for images in method.parts(self.batch)]
        return sum(map(_cost, plans)) + (len(plans) - 1) * uncached_price(plans[0], plans[0].weight_bytes)

    def fastest_cost(self) -> float:
        """Modelled operations of the fastest step, of as large a part as the device allows for each batch."""
        return min(c.cost for c in self._candidates())

    def _bytes(self, method: Method) -> int | None:
        """What a method takes; None where the device or a layer does not allow it."""
        try:
            return together_bytes(self.plans.all(method, self.batches))
        except (OutOfMemoryError, ShapeError) as error:
            self.obstacle = str(error)
            return None

    def _settled(self, method: Method, limit: int) -> Method | None:
        """The method with as many images in test-time mode as fit; None where it does not fit at all."""
        most: int | None = max(self.batches.get("test", ()), default=None)
        while True:
            tried = replace(method, test_images=most)
            nbytes = self._bytes(tried)
            if nbytes is not None and nbytes <= limit:
                return tried
            if most is None or most == 1:
                return None
            alone = self._bytes(replace(tried, test_images=1))
            if alone is None or alone > limit:
                return None
            most = -(-most // 2)

    def _levels(self, images: int, shares: tuple[float, ...], halved: bool) -> list[Level]:
        """Several amounts of recomputation for parts of so many images, none first; empty: they cannot be planned."""
        key = images, halved
        if key not in self._searches:
            try:
                plan = self.plans.train(Method(scratch=0), images, self.batch, images < self.batch)
                self._searches[key] = Search(chain(plan, halved))
            except (OutOfMemoryError, ShapeError) as error:
                self.obstacle = str(error)
                self._searches[key] = None
        search = self._searches[key]
        if search is None:
            return []
        full, low = search.peak[0][search.count], search.least()
        found: list[Level] = [(0.0, (), full)]
        for share in shares:
            limit = low + int((full - low) * share)
            answer = search.cuts(limit)
            if answer is not None and answer[1] and all(answer[1] != cuts for _, cuts, _ in found):
                found.append((*answer, limit))
        return found

    def _candidates(self) -> Iterator[Candidate]:
        sizes = [self.batch] if self.whole else list(dict.fromkeys(-(-self.batch // count) for count in PARTS))
        # The largest part that the device allows; others are modelled after it.
        model = next((images for images in sizes if self._levels(images, LEVELS, False)), 0)
        for scratch, halved in product(SCRATCH, self.storages) if model else ():
            levels = self._levels(model, LEVELS, halved)
            plan = self.plans.train(Method(halved=halved, scratch=scratch), model, self.batch, model < self.batch)
            fixed, most = plan.residence.nbytes(), self.batch / model
            for images in sizes:
                parts = (-(-self.batch // images) - 1) * UNCACHED * passes_price(plan, plan.weight_bytes)
                for extra, cuts, arena in levels if images <= model else []:
                    cost = (_cost(plan) + extra) * most + parts
                    yield Candidate(Method(images, cuts, halved, scratch), cost, fixed + arena * images / model)


def _cost(plan: Plan) -> float:
    return sum(modelled_cost(plan, node) for node in plan.graph.nodes)
