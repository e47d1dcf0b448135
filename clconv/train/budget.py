"""The cheapest way to compute training steps within a number of bytes, and the least that they can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from ..errors import ClconvError, OutOfMemoryError, ShapeError
from ..plan import Plan
from ..planner.recompute import Search
from .method import Method, StepPlans, normalises, passes_price, takes_statistics, together_bytes, uncached_price
from .recompute import chain, modelled_cost
from .step import divided

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
        whole: batches do not come in parts. staged: those of what is in front of the fully-connected layers may.
        obstacle: why the last method that was tried cannot be planned at all.
    """

    def __init__(self, plans: StepPlans, batches: Mapping[str, set[int]], *, parts: bool, halves: bool = False) -> None:
        self.plans = plans
        self.batches = batches
        self.batch = max(batches["train"])
        self.whole = not parts and normalises(plans.network, self.batch)
        fronts = divided(plans.network, self.batch, plans.facts)
        self.staged = fronts is not None and (parts or not takes_statistics(fronts[0]))
        self.storages = (False, True) if halves else (False,)
        self.obstacle: ClconvError | None = None
        self._searches: dict[tuple[int, bool, bool], Search | int | None] = {}

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
        for staged, halved in product(self._ways(), self.storages):
            for images in self._sizes(staged, (self.batch, 1, 2)):
                levels = self._levels(images, staged, LEAST, halved)
                methods += [Method(images, staged, cuts, halved, 0, 1) for _, cuts, _ in levels]
        found = [(nbytes, method) for method in methods if (nbytes := self._bytes(method)) is not None]
        return sorted(found, key=lambda item: item[0])

    def cost(self, method: Method) -> float:
        """Modelled operations of a step on the largest batch."""
        summed = self.plans.summed(method, self.batches)
        parts = [
            _parted(self.plans.part(method, images, self.batch, summed), method) for images in method.parts(self.batch)
        ]
        every, once = parts[0]
        cost = sum(_cost(stage) for stages, _ in parts for stage in stages) + sum(map(_cost, once))
        return cost + (len(parts) - 1) * uncached_price(every[-1], _changed_bytes(every[-1]))

    def fastest_cost(self) -> float:
        """Modelled operations of the fastest step, of as large a part as the device allows for each batch."""
        return min(c.cost for c in self._candidates())

    def _bytes(self, method: Method) -> int | None:
        """What a method takes; None where the device or a layer does not allow it."""
        try:
            return together_bytes(self.plans.all(method, self.batches))
        except (OutOfMemoryError, ShapeError) as error:
            self.obstacle = error
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

    def _ways(self) -> tuple[bool, ...]:
        """Values of `Method.staged` that are allowed."""
        return (False, True) if self.staged else (False,)

    def _sizes(self, staged: bool, sizes: Iterable[int]) -> list[int]:
        """Of sizes of parts those that are allowed, each once: stages without parts would save nothing."""
        if self.whole and not staged:
            return [self.batch]
        most = self.batch - 1 if staged else self.batch
        return [images for images in dict.fromkeys(sizes) if images <= most]

    def _levels(self, images: int, staged: bool, shares: tuple[float, ...], halved: bool) -> list[Level]:
        """Several amounts of recomputation for parts of so many images, none first; empty: they cannot be planned."""
        key = images, staged, halved
        if key not in self._searches:
            try:
                self._searches[key] = self._search(*key)
            except (OutOfMemoryError, ShapeError) as error:
                self.obstacle = error
                self._searches[key] = None
        search = self._searches[key]
        if search is None:
            return []
        if isinstance(search, int):
            return [(0.0, (), search)]
        full, low = search.peak[0][search.count], search.least()
        found: list[Level] = [(0.0, (), full)]
        for share in shares:
            limit = low + int((full - low) * share)
            answer = search.cuts(limit)
            if answer is not None and answer[1] and all(answer[1] != cuts for _, cuts, _ in found):
                found.append((*answer, limit))
        return found

    def _search(self, images: int, staged: bool, halved: bool) -> Search | int:
        """What to compute again in a part of so many images; the bytes of its arena where nothing can be."""
        summed = images < self.batch
        first, *behind = self.plans.part(Method(staged=staged, scratch=0), images, self.batch, summed).stages
        if staged and len(behind) < 2:
            return first.arena.nbytes
        return Search(chain(behind[-1] if staged else first, halved))

    def _candidates(self) -> Iterator[Candidate]:
        for staged in self._ways():
            sizes = self._sizes(staged, (-(-self.batch // count) for count in PARTS))
            # The largest part that the device allows; others are modelled after it.
            model = next((images for images in sizes if self._levels(images, staged, LEVELS, False)), 0)
            for scratch, halved in product(SCRATCH, self.storages) if model else ():
                method = Method(staged=staged, halved=halved, scratch=scratch)
                yield from self._like(method, model, [images for images in sizes if images <= model])

    def _like(self, method: Method, model: int, sizes: list[int]) -> Iterator[Candidate]:
        """Candidates like a method, for parts of these sizes; time and bytes are modelled after parts of `model`."""
        plan = self.plans.part(method, model, self.batch, model < self.batch)
        every, once = _parted(plan, method)
        most, cost = self.batch / model, sum(map(_cost, every))
        for images, level in product(sizes, self._levels(model, method.staged, LEVELS, method.halved)):
            extra, cuts, arena = level
            again = (-(-self.batch // images) - most) * passes_price(every[-1], _changed_bytes(every[-1]))
            bytes_of = (arena * images / model, *(stage.arena.nbytes for stage in once))
            yield Candidate(
                replace(method, images=images, cuts=cuts),
                (cost + extra) * most + sum(map(_cost, once)) + again,
                plan.residence.nbytes() + max(bytes_of),
            )


def _parted(plan: Plan, method: Method) -> tuple[list[Plan], list[Plan]]:
    """The stages of a step that run for every part of a batch, and those that run once."""
    stages = plan.stages
    return ([stages[0], *stages[2:]], [stages[1]]) if method.staged else ([*stages], [])


def _cost(plan: Plan) -> float:
    return sum(modelled_cost(plan, node) for node in plan.graph.nodes)


def _changed_bytes(plan: Plan) -> int:
    """Bytes of the weights that a plan changes."""
    values = plan.graph.persistent
    changed = [v for v in values.values() if v.role == "param"] if "hyper" in values else []
    return sum(value.spec.nbytes(plan.facts.block) for value in changed)
