"""Test-time mode: batches of any number of images through a network, inside a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from . import engine, passes
from .data import Loader
from .device import Device
from .engine import Session, Usage
from .errors import ArgumentError, ShapeError
from .fitting import Fitting
from .graph import Graph
from .nn.network import Network
from .packing import Array
from .passes import FEATURES
from .plan import Plan
from .recent import Recent
from .relay import batch_of, batch_price, chained, largest
from .terms import DEFAULT, Terms
from .train.fit import evaluate
from .train.step import evaluation_graph
from .waiting import NONE, Fittings, Waiting

DEFAULT_BATCH = 32  # images per run, fewer where the memory asks for it
OUTPUT = "y"
# Which layers Winograd's method may compute: those with this share of the image's rows, or none. Its strips come four
# rows at a time, which are many rows of the image where layers are small.
FAST_ROWS = (0.0, 0.5, None)


class Inference:
    """A network's weights on a device in test-time mode, with plans by what is computed and batch size.

    What is computed is the network's output (`OUTPUT`) or a loss by its name.
    """

    def __init__(self, network: Network, device: Device) -> None:
        self.network = network
        self.device = device
        self._fittings: Recent[tuple[object, ...], Fittings] = Recent(engine.MAX_PLANS)
        self._runs: Recent[tuple[object, ...], tuple[int, Plan]] = Recent(engine.MAX_PLANS)
        self._session: Session | None = None
        self._loaded: tuple[object, ...] = ()
        self._opened: Plan | None = None

    def plan(
        self,
        what: str,
        batch: int,
        network: Network | None = None,
        budget: int | None = None,
        terms: Terms = DEFAULT,
    ) -> Plan:
        """The fastest plan for a batch that fits; nothing is allocated.

        Args:
            network: the network for images of another size. budget: bytes that it must fit (default: the device's
                memory). terms: what it may do besides.

        Raises:
            BudgetError: not even the smallest fits; says what it needs.
        """
        return self._fitting(what, batch, network or self.network).plan(budget, terms)

    def feasible(self, limit: int, terms: Terms = DEFAULT) -> bool:
        """Whether some plan for one image fits so many bytes; takes less time than making it."""
        return self._fitting(OUTPUT, 1, self.network).feasible(limit, terms)

    def _fitting(self, what: str, batch: int, network: Network, images: int = 0, stage: int | None = None) -> Fittings:
        """Plans for a batch; algorithms are chosen as for `images` (0: as many as are in it).

        Args:
            stage: 0 or 1 of the two that `passes.divide` makes; None: both in one.
        """
        key = (what, batch, network.input_shape, images, stage)

        def graph(share: float | None, waiting: Waiting = NONE, storage: str | None = None) -> Graph:
            made = network.graph(batch, train=False) if what == OUTPUT else evaluation_graph(network, batch, what)
            passes.for_inference(made, self.device.facts.block)
            passes.fuse_pools(made, self.device.facts)
            if share is not None:
                rows = int(share * max(network.input_shape[1:2]))
                passes.use_winograd(made, self.device.facts, train=False, images=images, least_rows=rows)
                passes.fuse_inverted(made, self.device.facts)
            if storage is not None:
                passes.halve_weights(made, self.device.facts.block)
            if stage is not None:
                parts = passes.divide(made)
                assert parts is not None
                made = parts[stage]
            passes.wait(made, self.device.facts.block, waiting.spilled, waiting.halved)
            return made

        def fitting(waiting: Waiting, storage: str | None) -> Fitting:
            ways = [functools.partial(graph, share, waiting, storage) for share in FAST_ROWS]
            return Fitting(ways, self.device.facts)

        def idle() -> int:
            return len(passes.idle(graph(None), self.device.facts.block))

        return self._fittings.get(key, lambda: Fittings(fitting, idle))

    def runs(
        self,
        count: int,
        wanted: int | None,
        budget: int | None,
        what: str,
        network: Network | None = None,
        terms: Terms = DEFAULT,
    ) -> tuple[int, Plan]:
        """Images per run and the plan for so many: equal shares of `count`, at most `wanted`, fewer where memory asks.

        Args:
            terms: of the plan; `exact` means the algorithms that the fastest has for `wanted` images.

        Raises:
            BudgetError: not even one image fits.
        """
        if wanted is not None and not (isinstance(wanted, (int, np.integer)) and wanted >= 1):
            raise ArgumentError(f"batch_size {wanted!r} is not a number of images from 1 on")
        network = network or self.network
        key = (count, wanted, budget, what, network.input_shape, terms)
        most = wanted or DEFAULT_BATCH
        return self._runs.get(key, lambda: self._search(count, most, budget, what, network, terms))

    def _search(
        self, count: int, most: int, budget: int | None, what: str, network: Network, terms: Terms
    ) -> tuple[int, Plan]:
        if self.network.fixed_batch is not None:
            batch = self.network.fixed_batch
            return batch, self._fitting(what, batch, network).plan(budget, terms)
        full = equal_share(count, most)
        images = full if terms.exact else 0
        while True:
            batch = equal_share(count, most)
            fitting = self._fitting(what, batch, network, images)
            # A smaller batch costs less time than strips.
            if batch == 1 or (found := fitting.whole(budget, terms)) is not None:
                break
            most = batch // 2
        plan = fitting.plan(budget, terms) if batch == 1 else found
        assert plan is not None
        if batch < full and what == OUTPUT and terms.spill is None:
            relay = self._relay(full, budget or self.device.facts.global_bytes, network, images, terms)
            if relay is not None and batch_price(relay, count) < batch_price(plan, count):
                return batch_of(relay), relay
        return batch, plan

    def _relay(self, count: int, limit: int, network: Network, images: int, terms: Terms) -> Plan | None:
        """The plan in two stages for a batch, or None where there is none that fits."""
        graph = network.graph(count, train=False)
        passes.for_inference(graph, self.device.facts.block)
        if passes.divide(graph) is None:
            return None
        stages = []
        for stage in (0, 1):

            def fit(batch: int, strips: bool, stage: int = stage) -> Plan | None:
                fitting = self._fitting(OUTPUT, batch, network, images, stage)
                return fitting.lean(limit, terms, strips=strips)

            stages.append(largest(count, fit))
        front, behind = stages
        if front is None or behind is None:
            return None
        plan = chained(front, behind)
        return plan if plan.peak_bytes <= limit else None

    def open(self, plan: Plan, arrays: Mapping[str, Array], budget: int | None) -> Session:
        """A session with the weights that the plan reads; the one at hand where it serves."""
        if self._session is not None and plan is self._opened and self._session.allocator.budget == budget:
            return self._session
        places = plan.residence.places
        held = tuple((name, value.spec, places[name][0]) for name, value in plan.persistent.items())
        if self._session is None or self._loaded != held or self._session.allocator.budget != budget:
            self.release()
            session = Session(self.device, budget)
            session.load(plan.persistent, arrays, plan.residence)
            self._session, self._loaded = session, held
        self._opened = plan
        return self._session

    @property
    def usage(self) -> Usage | None:
        """Planned and measured memory of the session at hand."""
        return None if self._session is None else self._session.usage("test")

    def release(self) -> None:
        """Frees the device memory; plans are kept."""
        if self._session is not None:
            self._session.release()
        self._session, self._loaded, self._opened = None, (), None


def equal_share(count: int, most: int) -> int:
    """Images per run when `count` images go in as few runs as `most` allows, all of one size but for the last."""
    return -(-count // -(-count // most))


def run_batches(
    session: Session,
    plan: Plan,
    x: Array,
    batch: int,
    finish: Callable[[dict[str, Array], int], dict[str, Array]],
) -> dict[str, Array]:
    """All outputs for all images, `batch` at a time; the last run is filled up with zeros.

    Of a plan in two stages the first takes `batch`, the second as many as it was made for.

    Args:
        finish: makes named outputs of the results of a run of `batch` images.

    Raises:
        ShapeError: an output does not have one part for each image, and there are several runs.
    """
    if plan.behind:
        found = [session.run(plan, {"x": filled(part, batch)})[FEATURES][: len(part)] for part in _parts(x, batch)]
        x, (plan,) = np.concatenate(found), plan.behind
        batch = batch_of(plan)
    (fed,) = plan.graph.inputs
    runs: list[dict[str, Array]] = []
    for part in _parts(x, batch):
        results = session.run(plan, {fed: filled(part, batch)})
        named = finish(results, batch)
        runs.append({name: _cut(array, len(part), batch) for name, array in named.items()})
    if len(runs) == 1:
        return runs[0]
    for name, array in runs[0].items():
        if array.ndim == 0 or len(array) != batch:
            raise ShapeError(
                f"net: output {name!r} of shape {array.shape} has no part for each of {batch} images; "
                f"at most {batch} images can be given at once"
            )
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def _cut(array: Array, count: int, batch: int) -> Array:
    return array[:count] if array.ndim and len(array) == batch else array


def evaluate_batches(session: Session, plan: Plan, loader: Loader) -> tuple[float, float]:
    """Mean loss and share of right answers over a loader's images; the last batch is filled up with zeros."""
    size = loader.batch_size

    def run(x: Array, labels: Array) -> tuple[Array, Array]:
        results = session.run(plan, {"x": filled(x, size), "labels": filled(labels, size)})
        return results["loss"][: len(x)], results["correct"][: len(x)]

    return evaluate(run, loader)


def _parts(x: Array, batch: int) -> Iterator[Array]:
    for start in range(0, len(x), batch):
        yield x[start : start + batch]


def filled(array: Array, batch: int) -> Array:
    """The array with rows of zeros behind it, up to `batch` rows."""
    if len(array) == batch:
        return array
    return np.concatenate([array, np.zeros((batch - len(array), *array.shape[1:]), array.dtype)])
