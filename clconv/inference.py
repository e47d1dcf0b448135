"""Test-time mode: batches of any number of images through a network, inside a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from . import engine, passes, planner
from .data import Loader
from .device import Device
from .engine import Plan, Session, Usage
from .errors import ArgumentError, BudgetError, OutOfMemoryError
from .nn.network import Network
from .packing import Array
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
        self._plans: dict[tuple[str, int], Plan] = {}
        self._session: Session | None = None
        self._loaded: tuple[str, ...] = ()

    def plan(self, what: str, batch: int) -> Plan:
        """The plan for a batch; nothing is allocated."""
        if (what, batch) not in self._plans:
            if what == OUTPUT:
                graph = self.network.graph(batch, train=False)
            else:
                graph = evaluation_graph(self.network, batch, what)
            passes.for_inference(graph, self.device.facts.block)
            self._plans[what, batch] = engine.make_plan(graph, self.device.facts)
            while len(self._plans) > engine.MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
        return self._plans[what, batch]

    def batch_size(self, count: int, wanted: int | None, budget: int | None, what: str) -> int:
        """Images per run: equal shares of `count`, halved until the plan fits; `wanted` exactly if given.

        Raises:
            BudgetError: not even one image fits.
        """
        if wanted is not None and wanted < 1:
            raise ArgumentError(f"batch_size {wanted} is not a number of images from 1 on")
        most = wanted or DEFAULT_BATCH
        while True:
            runs = -(-count // most)
            batch = -(-count // runs)
            try:
                check_budget(self.plan(what, batch), budget, "net")
                return batch
            except OutOfMemoryError:
                if batch == 1 or wanted is not None:
                    raise
                most = batch // 2

    def open(self, plan: Plan, arrays: Mapping[str, Array], budget: int | None) -> Session:
        """A session with the weights that the plan reads; the one at hand where it serves."""
        names = tuple(plan.residence.places)
        if self._session is None or self._loaded != names or self._session.allocator.budget != budget:
            self.release()
            session = Session(self.device, budget)
            session.load(plan.graph.persistent, arrays)
            self._session, self._loaded = session, names
        return self._session

    @property
    def usage(self) -> Usage | None:
        """Planned and measured memory of the session at hand."""
        return None if self._session is None else self._session.usage("test")

    def release(self) -> None:
        """Frees the device memory; plans are kept."""
        if self._session is not None:
            self._session.release()
        self._session, self._loaded = None, ()


def check_budget(plan: Plan, budget: int | None, who: str) -> None:
    """Raises BudgetError where a plan needs more than `budget`, or than the device has."""
    limit, whose = (
        (budget, "the budget") if budget is not None else (plan.facts.global_bytes, plan.facts.name)
    )
    if plan.peak_bytes > limit:
        raise BudgetError(
            f"{who}: {plan.peak_bytes} bytes ({planner.format_bytes(plan.peak_bytes)}) are needed, "
            f"{planner.format_bytes(plan.weight_bytes)} of them weights, more than the {limit} of {whose}. "
            "Nothing was allocated."
        )


def run_batches(session: Session, plan: Plan, x: Array, batch: int) -> Array:
    """The output for all images, `batch` at a time; the last run is filled up with zeros."""
    outputs = [
        session.run(plan, {"x": filled(part, batch)})[OUTPUT][: len(part)] for part in _parts(x, batch)
    ]
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)


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
