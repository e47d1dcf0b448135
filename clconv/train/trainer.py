"""Training state on a device: weights, optimizer state, counters, and the plans that change them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .. import passes
from ..device import Device
from ..engine import Plan, Session, make_plan
from ..errors import BudgetError, NonFiniteError
from ..graph import Graph
from ..nn.network import Network
from ..packing import Array
from ..planner import format_bytes
from ..program import Progress
from .optimizers import Optimizer
from .step import evaluation_graph, training_graph


class Trainer:
    """One network in training on one device.

    Args:
        seed: of dropout. budget: the most bytes it may hold on the device, or None.
    """

    def __init__(
        self,
        network: Network,
        device: Device,
        loss: str,
        optimizer: Optimizer,
        *,
        seed: int = 0,
        budget: int | None = None,
    ) -> None:
        self.network = network
        self.device = device
        self.loss = loss
        self.optimizer = optimizer
        self.seed = seed
        self.steps_done = 0
        self.session = Session(device, budget)
        self._plans: dict[tuple[str, int], Plan] = {}
        self._fast = True

    def prepare(
        self,
        arrays: Mapping[str, Array],
        batches: Mapping[str, set[int]],
        progress: Progress | None = None,
        optimizer_arrays: Mapping[str, Array] | None = None,
    ) -> None:
        """Plans all batch sizes ("train" and "test"), refuses what does not fit, then loads the weights.

        Args:
            optimizer_arrays: optimizer state by name, from a checkpoint; zero where absent.
        """
        plans = self.plan_within(batches, self.session.allocator.budget)
        training = next(plan for plan in plans if "hyper" in plan.graph.persistent)
        self.session.load(training.graph.persistent, {**arrays, **(optimizer_arrays or {})})
        self._write_counters()
        for plan in plans:
            self.session.prepare(plan, progress)

    def restart(
        self,
        optimizer: Optimizer,
        seed: int,
        batches: Mapping[str, set[int]],
        progress: Progress | None = None,
    ) -> None:
        """Begins a new run with the weights as they are: counters and optimizer state start from zero.

        Args:
            optimizer: of the same rule as before.
        """
        assert optimizer.rule == self.optimizer.rule
        self.optimizer, self.seed, self.steps_done = optimizer, seed, 0
        plans = self.plan_within(batches, self.session.allocator.budget)
        self.session.clear("optimizer")
        self._write_counters()
        for plan in plans:
            self.session.prepare(plan, progress)

    def plan_within(self, batches: Mapping[str, set[int]], budget: int | None) -> list[Plan]:
        """Plans for all batch sizes ("train" and "test"), largest first; without Winograd's workspace if need be.

        Raises:
            BudgetError: even so they need more than `budget`.
        """
        sizes = [(mode, batch) for mode, found in batches.items() for batch in sorted(found, reverse=True)]
        plans = [self.plan(mode, batch) for mode, batch in sizes]
        if budget is not None and self.peak_bytes > budget and self._fast:
            self._fast = False
            self._plans.clear()
            plans = [self.plan(mode, batch) for mode, batch in sizes]
        if budget is not None and self.peak_bytes > budget:
            raise BudgetError(
                f"fit: training needs {self.peak_bytes} bytes ({format_bytes(self.peak_bytes)}) with this batch size, "
                f"more than the budget of {budget}; a smaller batch_size or a larger budget would fit. "
                "Nothing was allocated."
            )
        return plans

    def plan(self, mode: str, batch: int) -> Plan:
        """The plan of a training step ("train") or an evaluation ("test") on `batch` images."""
        if (mode, batch) not in self._plans:
            self._plans[mode, batch] = make_plan(self._graph(mode, batch), self.device.facts)
        return self._plans[mode, batch]

    def _graph(self, mode: str, batch: int) -> Graph:
        if mode == "train":
            graph = training_graph(self.network, batch, self.loss, self.optimizer)
        else:
            graph = evaluation_graph(self.network, batch, self.loss)
            passes.for_inference(graph, self.device.facts.block, fold=False)
        if self._fast:
            passes.use_winograd(graph, self.device.facts, train=True)
        return graph

    @property
    def peak_bytes(self) -> int:
        """Device memory of all plans made so far: what is persistent, and the largest arena."""
        persistent = max(plan.residence.nbytes() for plan in self._plans.values())
        return persistent + max(plan.arena_bytes for plan in self._plans.values())

    def step(self, x: Array, labels: Array, rate: float) -> tuple[float, int]:
        """One training step: the mean loss and the number of right answers.

        Raises:
            NonFiniteError: the loss is not finite; the weights are as before the step, and the message
                names the first layer whose weights or output are not finite.
        """
        self.session.write("hyper", self.optimizer.hyper(rate, self.steps_done + 1))
        if "counters" in self.session.names:
            self._write_counters()
        results = self.session.run(self.plan("train", len(x)), {"x": x, "labels": labels})
        loss = float(np.mean(results["loss"], dtype=np.float64))
        if not np.isfinite(loss):
            raise NonFiniteError(
                f"fit: the loss became {loss} at step {self.steps_done + 1}: {self._blame(x)}; "
                "a smaller rate or gradient-friendlier input (normalised images) may help. "
                "The weights are as they were before this step."
            )
        self.steps_done += 1
        return loss, int(results["correct"].sum())

    def evaluate(self, x: Array, labels: Array) -> tuple[Array, Array]:
        """Loss and correctness (0 or 1) of each image, in test-time mode."""
        results = self.session.run(self.plan("test", len(x)), {"x": x, "labels": labels})
        return results["loss"], results["correct"]

    def _write_counters(self) -> None:
        if "counters" in self.session.names:
            words = np.array([self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF, self.steps_done, 0], np.uint32)
            self.session.write("counters", words.view(np.int32))

    def _blame(self, x: Array) -> str:
        """The first layer with weights or, running them one by one, an output that is not finite."""
        arrays = self.arrays()
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                return f"{name} of layer {name.rpartition('.')[0]} is not finite since the last update"
        if not np.isfinite(x).all():
            return "the input images hold values that are not finite"
        graph = self.network.graph(len(x), train=False)
        for node in graph.nodes:
            graph.outputs.update({f"{len(graph.outputs)}:{node.name}": value for value in node.outputs})
        del graph.outputs["y"]
        passes.convert_layouts(graph)
        session = Session(self.device)
        try:
            session.load(graph.persistent, arrays)
            results = session.run(make_plan(graph, self.device.facts), {"x": x})
        finally:
            session.release()
        for name, output in results.items():
            if not np.isfinite(output).all():
                return f"the output of layer {name.partition(':')[2]} is the first that is not finite"
        return "the loss itself overflows"

    def arrays(self) -> dict[str, Array]:
        """Public arrays of parameters and state as they are on the device now."""
        return {name: self.session.read(name) for name in self.network.array_shapes()}

    def optimizer_arrays(self) -> dict[str, Array]:
        """Optimizer state by name, for a checkpoint."""
        return {name: self.session.read(name) for name in self.session.names if self.session.role(name) == "optimizer"}

    def release(self) -> None:
        """Frees the device memory."""
        self.session.release()
