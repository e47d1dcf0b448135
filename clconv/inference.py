"""Test-time mode: batches of any number of images through a network, inside a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from . import engine, passes, planner
from .data import Loader
from .device import Device
from .engine import Session, Usage
from .errors import ArgumentError, BudgetError, OutOfMemoryError, ShapeError
from .nn.network import Network
from .packing import Array
from .plan import Plan
from .train.step import evaluation_graph

DEFAULT_BATCH = 32  # images per run, fewer where the memory asks for it
OUTPUT = "y"


class Inference:
    """A network's weights on a device in test-time mode, with plans by what is computed and batch size.

    What is computed is the network's output (`OUTPUT`) or a loss by its name.
    """

    def __init__(self, network: Network, device: Device) -> None:
        self.network = network
        self.device = device
        self._plans: dict[tuple[str, int, tuple[int, ...], bool], Plan] = {}
        self._runs: dict[tuple[object, ...], tuple[int, Plan]] = {}
        self._session: Session | None = None
        self._loaded: tuple[object, ...] = ()
        self._opened: Plan | None = None

    def plan(self, what: str, batch: int, network: Network | None = None, budget: int | None = None) -> Plan:
        """The plan for a batch; nothing is allocated.

        Args:
            network: the network for images of another size. budget: bytes that the plan should fit (default: the
                device's memory); where the fastest does not, it is the one that takes least.
        """
        network = network or self.network
        plan = self._cached(what, batch, network, fast=True)
        if plan.peak_bytes <= _limit(plan, budget):
            return plan
        return self._cached(what, batch, network, fast=False)

    def _cached(self, what: str, batch: int, network: Network, *, fast: bool) -> Plan:
        """`fast`: Winograd's method may be used, whose filters take four times the memory."""
        key = (what, batch, network.input_shape, fast)
        if key not in self._plans:
            graph = network.graph(batch, train=False) if what == OUTPUT else evaluation_graph(network, batch, what)
            passes.for_inference(graph, self.device.facts.block)
            if fast:
                passes.use_winograd(graph, self.device.facts, train=False)
            self._plans[key] = make_plan(graph, self.device.facts)
            while len(self._plans) > engine.MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
        return self._plans[key]

    def batch_size(
        self, count: int, wanted: int | None, budget: int | None, what: str, network: Network | None = None
    ) -> int:
        """Images per run: equal shares of `count`, halved until the plan fits; `wanted` exactly if given.

        Raises:
            BudgetError: not even one image fits.
        """
        if wanted is not None and wanted < 1:
            raise ArgumentError(f"batch_size {wanted} is not a number of images from 1 on")
        if self.network.fixed_batch is not None:
            return self.network.fixed_batch
        most = wanted or DEFAULT_BATCH
        while True:
            runs = -(-count // most)
            batch = -(-count // runs)
            try:
                check_budget(self.plan(what, batch, network, budget), budget, "net")
                return batch
            except OutOfMemoryError:
                if batch == 1 or wanted is not None:
                    raise
                most = batch // 2

    def runs(self, count: int, wanted: int | None, budget: int | None, network: Network) -> tuple[int, Plan]:
        """Images per run (see `batch_size`) and the plan for so many, remembered for the last few questions."""
        key = (count, wanted, budget, network.input_shape)
        if key not in self._runs:
            batch = self.batch_size(count, wanted, budget, OUTPUT, network)
            self._runs[key] = batch, self.plan(OUTPUT, batch, network, budget)
            while len(self._runs) > engine.MAX_PLANS:
                self._runs.pop(next(iter(self._runs)))
        return self._runs[key]

    def open(self, plan: Plan, arrays: Mapping[str, Array], budget: int | None) -> Session:
        """A session with the weights that the plan reads; the one at hand where it serves."""
        if self._session is not None and plan is self._opened and self._session.allocator.budget == budget:
            return self._session
        held = tuple((name, value.spec) for name, value in plan.graph.persistent.items())
        if self._session is None or self._loaded != held or self._session.allocator.budget != budget:
            self.release()
            session = Session(self.device, budget)
            session.load(plan.graph.persistent, arrays)
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


def check_budget(plan: Plan, budget: int | None, who: str) -> None:
    """Raises BudgetError where a plan needs more than `budget`, or than the device has."""
    limit, whose = _limit(plan, budget), "the budget" if budget is not None else plan.facts.name
    if plan.peak_bytes > limit:
        raise BudgetError(
            f"{who}: {plan.peak_bytes} bytes ({planner.format_bytes(plan.peak_bytes)}) are needed, "
            f"{planner.format_bytes(plan.weight_bytes)} of them weights, more than the {limit} of {whose}. "
            "Nothing was allocated."
        )


def _limit(plan: Plan, budget: int | None) -> int:
    return budget if budget is not None else plan.facts.global_bytes


def run_batches(
    session: Session,
    plan: Plan,
    x: Array,
    batch: int,
    finish: Callable[[dict[str, Array], int], dict[str, Array]],
) -> dict[str, Array]:
    """All outputs for all images, `batch` at a time; the last run is filled up with zeros.

    Args:
        finish: makes named outputs of the results of a run of `batch` images.

    Raises:
        ShapeError: an output does not have one part for each image, and there are several runs.
    """
    runs: list[dict[str, Array]] = []
    for part in _parts(x, batch):
        results = session.run(plan, {"x": filled(part, batch)})
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
    """Mean loss and share of right answers over a loader's images."""
    losses, right = 0.0, 0
    for batch in loader.epoch(0):
        count, size = len(batch.x), loader.batch_size
        results = session.run(plan, {"x": filled(batch.x, size), "labels": filled(batch.y, size)})
        losses += float(results["loss"][:count].sum(dtype=np.float64))
        right += int(results["correct"][:count].sum())
    return losses / len(loader.dataset), right / len(loader.dataset)


def _parts(x: Array, batch: int) -> Iterator[Array]:
    for start in range(0, len(x), batch):
        yield x[start : start + batch]


def filled(array: Array, batch: int) -> Array:
    """The array with rows of zeros behind it, up to `batch` rows."""
    if len(array) == batch:
        return array
    return np.concatenate([array, np.zeros((batch - len(array), *array.shape[1:]), array.dtype)])
