"""The graph of a training step: forward, loss, backward and update as one static graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import passes
from .._core import loss as losses
from .._core.optimizer import Finite, Step, Update
from ..autodiff import differentiate
from ..device import DeviceFacts
from ..errors import ArgumentError
from ..graph import Graph, Value
from ..nn.network import Network
from ..passes.split import state_of
from ..shapes import TensorSpec
from .optimizers import Optimizer

LOSSES: dict[str, Any] = {
    "softmax": losses.SoftmaxLoss,
    "svm": losses.HingeLoss,
    "mse": losses.SquaredLoss,
}


def training_graph(
    network: Network,
    images: int,
    loss: str,
    optimizer: Optimizer,
    cuts: Sequence[int] = (),
    batch: int | None = None,
    summed: bool = False,
    facts: DeviceFacts | None = None,
) -> Graph:
    """One step on `images` images: inputs "x" and "labels", outputs "loss" and "correct" per image.

    Weights, running statistics and optimizer state are updated where they are; an update happens only
    if the loss is finite. Each follows as soon as its gradient is complete, so that gradients die young.

    Args:
        cuts: what is computed twice, see `passes.recompute`. batch: images of the whole batch, where this is a
            part of it. summed: gradients of several parts are gathered, see `Optimizer.hyper`. facts: of a device whose
            allocations weights must fit.
    """
    graph = network.graph(images, train=True)
    if facts is not None:
        passes.split_weights(graph, facts)
    passes.fuse_activations(graph)
    passes.fuse_sums(graph, train=True)
    scores = graph.outputs.pop("y")
    loss_value, correct, dscores = add_loss(graph, scores, loss, batch)
    step = Step(optimizer.rule, summed)
    (ok,) = graph.add(Finite(), [loss_value], "loss")
    hyper = graph.persist("hyper", TensorSpec((16,), layout="plain"), "control")

    def update(weight: Value, gradient: Value) -> None:
        states = [
            graph.persist(f"{weight.name}.{s}", weight.spec, "optimizer", state_of(weight, s)) for s in optimizer.states
        ]
        if step.summed:
            states.append(graph.persist(f"{weight.name}.gradient", weight.spec, "gradient"))
        graph.add(Update(step), [gradient, weight, *states, hyper, ok], weight.name.rpartition(".")[0])

    weights = [value for value in graph.persistent.values() if value.role == "param"]
    differentiate(graph, {scores: dscores}, weights, update)
    graph.outputs = {"loss": loss_value, "correct": correct}
    passes.move_masks(graph)
    passes.convert_layouts(graph)
    passes.fuse_updates(graph)
    graph.prune()
    if facts is not None:
        passes.fuse_pools(graph, facts)
        passes.take_pixels(graph, facts)
    passes.normalise_again(graph)
    passes.recompute(graph, cuts)
    return graph


def evaluation_graph(network: Network, batch: int, loss: str, facts: DeviceFacts | None = None) -> Graph:
    """Test-time mode with a loss behind it, for weights as training holds them (nothing is folded).

    Args:
        facts: see `training_graph`.
    """
    graph = network.graph(batch, train=False)
    if facts is not None:
        passes.split_weights(graph, facts)
    loss_value, correct, _ = add_loss(graph, graph.outputs.pop("y"), loss)
    graph.outputs = {"loss": loss_value, "correct": correct}
    return graph


def add_loss(graph: Graph, scores: Value, loss: str, batch: int | None = None) -> tuple[Value, ...]:
    """Adds a loss and its input "labels"; returns loss and correctness per image, and d(mean loss)/d(scores).

    Args:
        batch: images that the mean is of, where the scores are those of a part.
    """
    if loss not in LOSSES:
        raise ArgumentError(f"loss {loss!r} is not one of {', '.join(LOSSES)}")
    n = scores.spec.shape[0]
    spec = TensorSpec(scores.spec.shape, layout="plain") if loss == "mse" else TensorSpec((n,), "int32", "plain")
    labels = graph.input("labels", spec)
    return graph.add(LOSSES[loss](batch), [scores, labels], "loss")
