"""The graphs of a training step: forward, loss, backward and update as one static graph, or in three stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .. import passes
from .._core import loss as losses
from .._core.layout import ToBlocks, ToPlain
from .._core.norm_batch import BatchNormTrain
from .._core.optimizer import HYPERS, Finite, Step, Update
from ..autodiff import differentiate
from ..device import DeviceFacts
from ..errors import ArgumentError
from ..graph import Graph, Value
from ..nn.network import Network
from ..passes import GRADIENT
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
    graph = _forward(network, images, facts)
    scores = graph.outputs.pop("y")
    loss_value, correct, dscores = add_loss(graph, scores, loss, batch)
    _add_updates(graph, {scores: dscores}, loss_value, optimizer, summed)
    graph.outputs = {"loss": loss_value, "correct": correct}
    _finish(graph, facts, cuts)
    return graph


def features_graph(network: Network, images: int, facts: DeviceFacts) -> Graph:
    """The first stage of a step: from the input "x" to `FEATURES`, what the first fully-connected layer reads.

    Nothing is kept. Where `front_graph` computes it again for gradients, running statistics are left to that.
    """
    graph, _ = _stage(network, images, facts)
    if learns(graph):
        for node in graph.nodes:
            if isinstance(node.layer, BatchNormTrain):
                node.layer = node.layer.with_(momentum=0.0)
    passes.convert_layouts(graph)
    passes.fuse_pools(graph, facts)
    return graph


def head_graph(network: Network, batch: int, loss: str, optimizer: Optimizer, facts: DeviceFacts) -> Graph:
    """The second stage: from `FEATURES` of the whole batch and "labels" to "loss", "correct" and `GRADIENT`, with the
    step of the layers behind; `GRADIENT`, with respect to the features, only where weights in front are learnt.
    """
    front, graph = _stage(network, batch, facts)
    (features,) = graph.nodes[0].outputs
    scores = graph.outputs.pop("y")
    loss_value, correct, dscores = add_loss(graph, scores, loss)
    wanted = [features] if learns(front) else []
    found = _add_updates(graph, {scores: dscores}, loss_value, optimizer, False, wanted)
    graph.outputs = {"loss": loss_value, "correct": correct}
    if wanted:
        (graph.outputs[GRADIENT],) = graph.add(ToPlain(), [found[features]], GRADIENT)
    _finish(graph, facts)
    return graph


def front_graph(
    network: Network, images: int, optimizer: Optimizer, cuts: Sequence[int], summed: bool, facts: DeviceFacts
) -> Graph:
    """The third stage: the forward pass of the first one again, its gradients and its step.

    Inputs "x", `GRADIENT` as the second stage gave it for these images, and their "loss", which must be finite.

    Args:
        cuts, summed: see `training_graph`.
    """
    graph, _ = _stage(network, images, facts)
    features = graph.nodes.pop().inputs[0]  # row-major they are not needed
    assert isinstance(features, Value)
    given = graph.input(GRADIENT, TensorSpec(features.spec.shape, layout="plain"))
    (gradient,) = graph.add(ToBlocks(), [given], GRADIENT)
    loss_value = graph.input("loss", TensorSpec((images,), layout="plain"))
    _add_updates(graph, {features: gradient}, loss_value, optimizer, summed)
    graph.outputs = {}
    _finish(graph, facts, cuts)
    return graph


def divided(network: Network, images: int, facts: DeviceFacts) -> tuple[Graph, Graph] | None:
    """The forward pass in front of the first fully-connected layer, and from there on; None where a step cannot be
    computed in stages, as more than one value leads there.
    """
    return passes.divide(_forward(network, images, facts), train=True)


def _stage(network: Network, images: int, facts: DeviceFacts) -> tuple[Graph, Graph]:
    parts = divided(network, images, facts)
    assert parts is not None
    return parts


def learns(graph: Graph) -> bool:
    """Whether it has weights that training changes."""
    return any(value.role == "param" for value in graph.persistent.values())


def _forward(network: Network, images: int, facts: DeviceFacts | None) -> Graph:
    graph = network.graph(images, train=True)
    if facts is not None:
        passes.split_weights(graph, facts)
    passes.fuse_activations(graph)
    passes.fuse_sums(graph, train=True)
    return graph


def _add_updates(
    graph: Graph,
    seeds: Mapping[Value, Value],
    loss: Value,
    optimizer: Optimizer,
    summed: bool,
    wanted: Collection[Value] = (),
) -> dict[Value, Value]:
    """Adds gradients and updates of all weights, which happen only if `loss`, for each image, is finite.

    Args:
        seeds: see `differentiate`. wanted: values whose gradients are asked for besides.

    Returns:
        {value: gradient}.
    """
    step = Step(optimizer.rule, summed)
    (ok,) = graph.add(Finite(), [loss], "loss")
    hyper = graph.persist("hyper", TensorSpec((HYPERS,), layout="plain"), "control")

    def update(weight: Value, gradient: Value) -> None:
        states = [
            graph.persist(f"{weight.name}.{s}", weight.spec, "optimizer", state_of(weight, s)) for s in optimizer.states
        ]
        if step.summed:
            states.append(graph.persist(f"{weight.name}.gradient", weight.spec, "gradient"))
        graph.add(Update(step), [gradient, weight, *states, hyper, ok], weight.name.rpartition(".")[0])

    weights = [value for value in graph.persistent.values() if value.role == "param"]
    return differentiate(graph, seeds, [*weights, *wanted], update)


def _finish(graph: Graph, facts: DeviceFacts | None, cuts: Sequence[int] = ()) -> None:
    """The passes over a graph that is complete."""
    passes.move_masks(graph)
    passes.convert_layouts(graph)
    passes.fuse_updates(graph)
    graph.prune()
    if facts is not None:
        passes.fuse_pools(graph, facts)
        passes.take_pixels(graph, facts)
    passes.normalise_again(graph)
    passes.recompute(graph, cuts)


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
