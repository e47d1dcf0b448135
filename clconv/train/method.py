"""How a training step is computed: all at once and as fast as possible, or in less memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .. import passes
from .._core.norm_batch import BatchNormTrain
from ..device import DeviceFacts
from ..graph import Graph, Value
from ..nn.network import Network
from ..plan import Plan, make_plan, settle
from ..planner import ALIGN, format_bytes
from ..planner.prices import PRICES
from ..recent import Recent
from .optimizers import Optimizer
from .step import evaluation_graph, features_graph, front_graph, head_graph, training_graph

MOST_PLANS = 32  # that are kept, a few megabytes each; a search for a budget makes up to 20
# Passes over all weights that each part of a batch makes where it changes them, fitted to steps of AlexNet, ZFNet and
# VGG-16 in 1 to 128 parts, and how many of them the costs of layers have: of updates they know the gradient.
PASSES, KNOWN = 4, 3
MODELLED = "modelled time"  # how the line begins that tells what a method costs
PER_PART = "per_micro_batch"  # what users write to let batch normalisation take the statistics of each part


@dataclass(frozen=True)
class Method:
    """How a step is computed.

    Attributes:
        images: at most so many at a time: the batch comes in equal parts, whose gradients are gathered. None: all.
        staged: only what is in front of the first fully-connected layer takes parts: before it for its inputs, after it
            once more for their gradients. From there on the whole batch is taken at once.
        cuts: what is computed twice, see `passes.recompute`. halved: what gradients read waits for them as float16, see
            `passes.halve_kept`.
        scratch: most bytes that Winograd's method may take for one convolution. None: any.
        test_images: at most so many at a time in test-time mode.
    """

    images: int | None = None
    staged: bool = False
    cuts: tuple[int, ...] = ()
    halved: bool = False
    scratch: int | None = None
    test_images: int | None = None

    def parts(self, batch: int) -> list[int]:
        """Images of each part of a batch; sizes differ by one at most."""
        return _parts(batch, self.images)

    def test_parts(self, batch: int) -> list[int]:
        """Images of each part of a batch in test-time mode."""
        return _parts(batch, self.test_images)

    def told(self, batch: int) -> tuple[str, ...]:
        """What is done to save memory, for people."""
        told = []
        if self.scratch == 0:
            told.append("direct convolutions instead of Winograd's")
        elif self.scratch is not None:
            told.append(f"Winograd's convolutions only where {format_bytes(self.scratch)} are enough")
        if self.cuts:
            told.append(f"the forward pass is computed again, in {len(self.cuts)} segments")
        if self.halved:
            told.append("activations wait for their gradients as float16")
        parts = self.parts(batch)
        if len(parts) > 1:
            told.append(f"batches of {batch} come in {len(parts)} parts of up to {parts[0]} images")
        if self.staged:
            told.append("from the first fully-connected layer on the whole batch is taken at once")
        return tuple(told)


def _parts(batch: int, most: int | None) -> list[int]:
    count = 1 if most is None else -(-batch // most)
    return [batch // count + (i < batch % count) for i in range(count)]


class StepPlans:
    """Plans of training steps and evaluations of one network, by method; nothing is allocated."""

    def __init__(self, network: Network, facts: DeviceFacts, loss: str, optimizer: Optimizer) -> None:
        self.network = network
        self.facts = facts
        self.loss = loss
        self.optimizer = optimizer
        self._plans: Recent[tuple[object, ...], Plan] = Recent(MOST_PLANS)

    def train(self, method: Method, images: int, batch: int, summed: bool) -> Plan:
        """The plan of a part of `images` images of a step on `batch` images.

        Args:
            summed: gradients of several parts are gathered (in all plans of a trainer, or in none).
        """

        def made() -> Plan:
            cuts = method.cuts
            graph = training_graph(self.network, images, self.loss, self.optimizer, cuts, batch, summed, self.facts)
            return self._waiting(graph, method)

        return self._plans.get(("train", _way(method), images, batch, summed), made)

    def stages(self, method: Method, images: int, batch: int, summed: bool) -> Plan:
        """The plan of the first stage of a step on `batch` images, for a part of `images`, with the others behind it.

        All share one arena, and all parts the second stage. The third is missing where it has no weights to change.
        """

        def made() -> Plan:
            features = self._planned(features_graph(self.network, images, self.facts), method)
            head = self._head(method, batch)
            back = [self._front(method, images, summed)] if passes.GRADIENT in head.graph.outputs else []
            plan = replace(features, behind=(head, *back))
            return replace(plan, residence=settle(plan.persistent.values(), self.facts))

        return self._plans.get(("stages", _way(method), images, batch, summed), made)

    def _head(self, method: Method, batch: int) -> Plan:
        def made() -> Plan:
            return self._waiting(head_graph(self.network, batch, self.loss, self.optimizer, self.facts), method)

        return self._plans.get(("head", method.halved, method.scratch, batch), made)

    def _front(self, method: Method, images: int, summed: bool) -> Plan:
        def made() -> Plan:
            graph = front_graph(self.network, images, self.optimizer, method.cuts, summed, self.facts)
            return self._waiting(graph, method)

        return self._plans.get(("front", _way(method), images, summed), made)

    def part(self, method: Method, images: int, batch: int, summed: bool) -> Plan:
        """The plan of a part of `images` images of a step on `batch` images, with all its stages."""
        return (self.stages if method.staged else self.train)(method, images, batch, summed)

    def test(self, method: Method, images: int) -> Plan:
        """The plan of an evaluation of `images` images."""

        def made() -> Plan:
            graph = evaluation_graph(self.network, images, self.loss, self.facts)
            passes.for_inference(graph, self.facts.block, fold=False)
            passes.fuse_pools(graph, self.facts)
            return self._planned(graph, method)

        return self._plans.get(("test", method.scratch, images), made)

    def _waiting(self, graph: Graph, method: Method) -> Plan:
        if method.halved:
            passes.halve_kept(graph, self.facts.block)
        return self._planned(graph, method)

    def _planned(self, graph: Graph, method: Method) -> Plan:
        if method.scratch != 0:
            passes.use_winograd(graph, self.facts, train=True, scratch=method.scratch)
        passes.fuse_sums(graph)  # of gradients, where two paths meet
        return make_plan(graph, self.facts)

    def all(self, method: Method, batches: Mapping[str, set[int]]) -> list[Plan]:
        """Plans of all parts of batches of these sizes ("train" and "test"), the largest first, and of all stages."""
        train = sorted(batches.get("train", ()), reverse=True)
        summed = self.summed(method, batches)
        parts = [(images, batch) for batch in train for images in dict.fromkeys(method.parts(batch))]
        stages = [stage for part in parts for stage in self.part(method, *part, summed).stages]
        plans = list({id(stage): stage for stage in stages}.values())
        sizes = {images for batch in batches.get("test", ()) for images in method.test_parts(batch)}
        return plans + [self.test(method, images) for images in sorted(sizes, reverse=True)]

    @staticmethod
    def summed(method: Method, batches: Mapping[str, set[int]]) -> bool:
        """Whether one of the batches comes in parts."""
        return any(len(method.parts(batch)) > 1 for batch in batches.get("train", ()))


def persistent_of(plans: Iterable[Plan]) -> dict[str, Value]:
    """What outlives runs, by name, for all plans."""
    return {name: value for plan in plans for name, value in plan.graph.persistent.items()}


def together_bytes(plans: list[Plan]) -> int:
    """Device memory of plans that share weights and an arena, as `Session` allocates it."""
    persistent = settle(persistent_of(plans).values(), plans[0].facts).nbytes()
    slabs: list[int] = []
    for plan in plans:
        sizes = [max(size, ALIGN) for size in plan.arena.slab_bytes]
        slabs += [0] * (len(sizes) - len(slabs))
        slabs = [max(a, b) for a, b in zip(slabs, sizes + [0] * (len(slabs) - len(sizes)), strict=True)]
    return persistent + sum(slabs)


def passes_price(plan: Plan, nbytes: int) -> float:
    """Modelled time, in operations, of the passes over so many bytes of weights that a step makes."""
    return PASSES * PRICES[plan.facts.kernels].byte * nbytes


def uncached_price(plan: Plan, nbytes: int) -> float:
    """What these passes take beyond the costs of layers in each part of a batch but the first."""
    return (PASSES - KNOWN) / PASSES * passes_price(plan, nbytes)


def normalises(network: Network, batch: int) -> bool:
    """Whether a step takes statistics of its batch, which parts of it would change."""
    return takes_statistics(network.graph(batch, train=True))


def takes_statistics(graph: Graph) -> bool:
    """Whether a layer is normalised by what is computed at a time."""
    return any(isinstance(node.layer, BatchNormTrain) for node in graph.nodes)


def _way(method: Method) -> Method:
    """What matters for the plan of a part of given size."""
    return replace(method, images=None, staged=False, test_images=None)
