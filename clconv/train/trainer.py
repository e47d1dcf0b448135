"""Training state on a device: weights, optimizer state, counters, and the plans that change them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from .. import passes
from ..device import Device
from ..engine import Session
from ..errors import ArgumentError, BudgetError, NonFiniteError, ShapeError
from ..nn.network import Network
from ..packing import Array
from ..plan import Plan, make_plan
from ..planner import format_bytes
from ..program import Progress
from ..terms import STORAGES, Terms
from .budget import Fitting
from .method import MODELLED, PER_PART, Method, StepPlans, persistent_of, together_bytes
from .optimizers import Optimizer


class Trainer:
    """One network in training on one device.

    Args:
        seed: of dropout. budget: the most bytes it may hold on the device, or None.
        bn: "per_micro_batch" lets batches come in parts although they are normalised, each with its own statistics.
        storage: "float16" lets activations wait for their gradients so.
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
        bn: str | None = None,
        storage: str | None = None,
    ) -> None:
        if bn not in (None, PER_PART):
            raise ArgumentError(f'fit: bn {bn!r} is not "{PER_PART}" or None')
        self.network = network
        self.device = device
        self.loss = loss
        self.optimizer = optimizer
        self.seed = seed
        self.bn = bn
        self.storage = Terms(storage=storage).storage
        self.steps_done = 0
        self.session = Session(device, budget)
        self.method = Method()
        self._plans = StepPlans(network, device.facts, loss, optimizer)
        self._batches: dict[str, set[int]] = {}

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

        Raises:
            ArgumentError: nothing is to be trained. BudgetError, ShapeError: see `plan_within`.
        """
        plans = self.plan_within(batches, self.session.allocator.budget)
        persistent = persistent_of(plans)
        if "hyper" not in persistent:
            raise ArgumentError("fit: nothing is to be trained: the network has no weights, or all are frozen")
        self.session.load(persistent, {**arrays, **(optimizer_arrays or {})})
        self._write_counters()
        for plan in plans:
            self.session.prepare(plan, progress)

    def restart(
        self,
        optimizer: Optimizer,
        seed: int,
        batches: Mapping[str, set[int]],
        progress: Progress | None = None,
    ) -> bool:
        """Begins a new run with the weights as they are: counters and optimizer state start from zero.

        Args:
            optimizer: of the same rule as before.

        Returns:
            False, and nothing is done, where the batches need other memory than what was loaded.
        """
        assert optimizer.rule == self.optimizer.rule
        budget, before = self.session.allocator.budget, self._plans.all(self.method, self._batches)
        plans = self.plan_within(batches, budget)
        loaded = all(name in self.session.names for plan in plans for name in plan.graph.persistent)
        if not loaded or (budget is not None and together_bytes(before + plans) > budget):
            return False
        self.optimizer, self.seed, self.steps_done = optimizer, seed, 0
        self.session.clear("optimizer")
        self._write_counters()
        for plan in plans:
            self.session.prepare(plan, progress)
        return True

    def plan_within(self, batches: Mapping[str, set[int]], budget: int | None) -> list[Plan]:
        """Plans for all batch sizes ("train" and "test"), the largest first, by the cheapest `Method` that fits.

        Args:
            budget: bytes; None: what the device has.

        Raises:
            BudgetError: no method fits; the least that would is named. Nothing was allocated.
            ShapeError: the loss, or a layer, cannot be trained on such batches.
        """
        limit = self.device.facts.global_bytes if budget is None else budget
        fitting = self._fitting(batches, self.bn, self.storage)
        method = fitting.within(limit)
        if method is None:
            if isinstance(fitting.obstacle, ShapeError) and not fitting.least():
                raise fitting.obstacle
            raise self._refusal(fitting, limit, budget)
        self.method, self._batches = method, {mode: set(sizes) for mode, sizes in batches.items()}
        plans = self._plans.all(method, batches)
        told = method.told(fitting.batch)
        if told:
            told = (*told, f"{MODELLED} {fitting.cost(method) / fitting.fastest_cost():.2f} x that of the fastest")
        for plan in plans:
            plan.told = told
        return plans

    def _fitting(self, batches: Mapping[str, set[int]], bn: str | None, storage: str | None) -> Fitting:
        return Fitting(self._plans, batches, parts=bn == PER_PART, halves=storage is not None)

    def _refusal(self, fitting: Fitting, limit: int, budget: int | None) -> BudgetError:
        whose = "the budget" if budget is not None else f"what {self.device.facts.name} has"
        found = fitting.least()
        text = (
            f"fit: training on batches of {fitting.batch} does not fit {limit} bytes ({format_bytes(limit)}), {whose}; "
        )
        if found:
            nbytes, method = found[0]
            how = "; ".join(method.told(fitting.batch)) or "as without a budget"
            text += f"at least {nbytes} ({format_bytes(nbytes)}) are needed: {how}. "
        else:
            text += f"{fitting.obstacle}. "
        others = {}
        if fitting.whole:
            others[f'bn="{PER_PART}"'] = self._fitting(fitting.batches, PER_PART, self.storage)
        if self.storage is None:
            others[f'storage="{STORAGES[0]}"'] = self._fitting(fitting.batches, self.bn, STORAGES[0])
        for words, other in others.items():
            less = other.least()
            if less and (not found or less[0][0] < found[0][0]):
                text += f"With {words}, {less[0][0]} ({format_bytes(less[0][0])}) would do. "
        return BudgetError(f"{text}Nothing was allocated.", found[0][0] if found else None)

    def plan(self, mode: str, batch: int) -> Plan:
        """The plan of a training step ("train") or an evaluation ("test") on `batch` images, or of its first part."""
        if mode == "train":
            return self._part(self.method.parts(batch)[0], batch)
        return self._plans.test(self.method, self.method.test_parts(batch)[0])

    def _part(self, images: int, batch: int) -> Plan:
        return self._plans.part(self.method, images, batch, self._plans.summed(self.method, self._batches))

    @property
    def peak_bytes(self) -> int:
        """Device memory of the plans that `plan_within` found: what is persistent, and one arena for all."""
        return together_bytes(self._plans.all(self.method, self._batches))

    def step(self, x: Array, labels: Array, rate: float) -> tuple[float, int]:
        """One training step: the mean loss and the number of right answers.

        Raises:
            NonFiniteError: the loss is not finite; the weights are as before the step, and the message
                names the first layer whose weights or output are not finite.
        """
        found = (self._staged if self.method.staged else self._in_parts)(x, labels, rate)
        self.steps_done += 1
        return float(np.mean(found["loss"], dtype=np.float64)), int(found["correct"].sum())

    def _in_parts(self, x: Array, labels: Array, rate: float) -> dict[str, Array]:
        """Loss and correctness of each image in a step, part by part of the batch."""
        found = []
        for part, plan in self._parts(len(x)):
            self._write_hyper(rate, part, len(x))
            results = self.session.run(plan, {"x": x[part], "labels": labels[part]})
            self._check_finite(results["loss"], x[part])
            found.append(results)
        return _joined(found)

    def _staged(self, x: Array, labels: Array, rate: float) -> dict[str, Array]:
        """As `_in_parts`, with the fully-connected layers for the whole batch at once; see `Method.staged`."""
        parts, found = list(self._parts(len(x))), []
        for part, plan in parts:
            self._write_counters(part.start)
            found.append(self.session.run(plan, {"x": x[part]}))
        self._write_hyper(rate, slice(0, len(x)), len(x))
        head = parts[0][1].stages[1]
        results = self.session.run(head, {**_joined(found), "labels": labels})
        self._check_finite(results["loss"], x)
        for part, plan in parts:
            for back in plan.stages[2:]:
                self._write_hyper(rate, part, len(x))
                given = {name: results[name][part] for name in ("loss", passes.GRADIENT)}
                self.session.run(back, {"x": x[part], **given})
        return results

    def _parts(self, batch: int) -> Iterator[tuple[slice, Plan]]:
        """The parts of a batch and their plans."""
        begin = 0
        for images in self.method.parts(batch):
            yield slice(begin, begin + images), self._part(images, batch)
            begin += images

    def _write_hyper(self, rate: float, part: slice, batch: int) -> None:
        """What the update reads, for a part of a batch, and dropout."""
        first, last = part.start == 0, part.stop == batch
        self.session.write("hyper", self.optimizer.hyper(rate, self.steps_done + 1, first=first, last=last))
        self._write_counters(part.start)

    def _check_finite(self, loss: Array, x: Array) -> None:
        if not np.isfinite(loss).all():
            worst = int(np.argmin(np.isfinite(loss)))
            raise NonFiniteError(
                f"fit: the loss became {loss[worst]} at step {self.steps_done + 1}: "
                f"{self._blame(x[worst : worst + 1])}; "
                "a smaller rate or gradient-friendlier input (normalised images) may help. "
                "The weights are as they were before this step."
            )

    def evaluate(self, x: Array, labels: Array) -> tuple[Array, Array]:
        """Loss and correctness (0 or 1) of each image, in test-time mode."""
        found, begin = [], 0
        for images in self.method.test_parts(len(x)):
            feeds = {"x": x[begin : begin + images], "labels": labels[begin : begin + images]}
            found.append(self.session.run(self._plans.test(self.method, images), feeds))
            begin += images
        results = _joined(found)
        return results["loss"], results["correct"]

    def _write_counters(self, images: int = 0) -> None:
        """Seed, step, and how many images of the batch come before those of the next run."""
        if "counters" in self.session.names:
            seed = self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF
            words = np.array([*seed, self.steps_done, images], np.uint32)
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
        passes.split_weights(graph, self.device.facts)
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
        return {name: self.session.read(name) for name in self.session.wholes("optimizer")}

    def release(self) -> None:
        """Frees the device memory."""
        self.session.release()


def _joined(results: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Results of parts of a batch as those of the whole."""
    return {name: np.concatenate([each[name] for each in results]) for name in results[0]}
