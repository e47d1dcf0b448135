"""Computes values of the forward pass once more where gradients need them, so that they need not be kept."""

from __future__ import annotations

from collections.abc import Sequence

from .._core.loss import Loss
from .._core.norm_batch import BatchNormInfer, BatchNormTrain
from ..graph import Graph, Node, Operand, Value
from .divide import GRADIENT


def forward_count(graph: Graph) -> int:
    """How many nodes of a training step are its forward pass: up to the loss, or to where its gradient is given."""
    given = graph.inputs.get(GRADIENT)
    return 1 + next(i for i, node in enumerate(graph.nodes) if isinstance(node.layer, Loss) or given in node.reads)


def lasting(nodes: Sequence[Node]) -> set[Value]:
    """Outputs that are kept in any case: those of nodes that also update something, but for a normalised batch.

    Mean and deviation of a batch are kept, a few values from which the batch is normalised again.
    """
    kept: set[Value] = set()
    for node in nodes:
        if node.layer.updates:
            kept.update(node.outputs[1:] if isinstance(node.layer, BatchNormTrain) else node.outputs)
    return kept


def crossing(nodes: Sequence[Node], cut: int) -> list[Value]:
    """Values made before forward node `cut` that it or a later forward node reads."""
    made = {value for node in nodes[:cut] for value in node.outputs}
    return [v for v in dict.fromkeys(v for node in nodes[cut:] for v in node.reads) if v in made]


def normalise_again(graph: Graph) -> None:
    """Computes outputs of batch normalisation once more in front of the first gradient that reads them.

    They need not be kept: the input that they are made of is kept for the gradient of the normalisation itself, so
    that one of two tensors behind each convolution goes, for one pass over the other. The bits are the same. Where a
    residual is added, which may be nowhere else, the output is kept.
    """
    count = forward_count(graph)
    forward, backward = graph.nodes[:count], graph.nodes[count:]
    asked = {value for node in backward for value in node.reads}
    again = {
        node.outputs[0]: node
        for node in forward
        if isinstance(node.layer, BatchNormTrain) and not node.layer.adds and asked.issuperset(node.reads[:1])
    }
    copies: dict[Value, Value] = {}
    graph.nodes = forward
    for node in backward:
        for value in node.reads:
            if value in again and value not in copies:
                _again(graph, again[value], copies)
        node.inputs = tuple(_replaced(operand, copies) for operand in node.inputs)
        graph.nodes.append(node)


def recompute(graph: Graph, cuts: Sequence[int]) -> None:
    """Keeps of the forward pass only what crosses one of the `cuts`, with the other outputs of the same nodes, and all
    behind the last one.

    What gradients read besides is computed again, segment by segment between cuts, in front of the first node that
    needs it: by the same layers from the same values, so with the same bits. Statistics are not updated again.

    Args:
        cuts: numbers of forward nodes, ascending; a cut is in front of its node.
    """
    if not cuts:
        return
    count = forward_count(graph)
    forward, backward = graph.nodes[:count], graph.nodes[count:]
    kept = lasting(forward)
    for cut in cuts:
        kept.update(v for value in crossing(forward, cut) if value.producer for v in value.producer.outputs)
    kept.update(value for node in forward[cuts[-1] :] for value in node.outputs)
    segment = {
        v: sum(cut <= i for cut in cuts) for i, node in enumerate(forward) for v in node.outputs if v not in kept
    }
    asked = {value for node in backward for value in node.reads if value in segment}
    wanted = [_wanted(forward, segment, asked, number) for number in range(len(cuts))]
    copies: dict[Value, Value] = {}
    graph.nodes = forward
    for node in backward:
        for number in sorted({segment[v] for v in node.reads if v in segment}, reverse=True):
            for again in wanted[number]:
                _again(graph, again, copies)
            wanted[number] = []
        node.inputs = tuple(_replaced(operand, copies) for operand in node.inputs)
        graph.nodes.append(node)


def _wanted(forward: Sequence[Node], segment: dict[Value, int], asked: set[Value], number: int) -> list[Node]:
    """The nodes of a segment that must run again so that all values `asked` for are there, in order."""
    missing = {value for value in asked if segment[value] == number}
    found = []
    for node in reversed(forward):
        if any(value in missing for value in node.outputs):
            found.append(node)
            missing.update(value for value in node.reads if segment.get(value) == number)
    return found[::-1]


def _again(graph: Graph, node: Node, copies: dict[Value, Value]) -> None:
    layer, inputs = node.layer, node.inputs
    if isinstance(layer, BatchNormTrain):
        infer = BatchNormInfer(layer.eps, inverted=True)
        again = infer.with_(activation=layer.activation, slope=layer.slope, adds=layer.adds)
        layer, inputs = again, (*inputs[:3], *node.outputs[1:], *inputs[5:])
    outputs = graph.add(layer, [_replaced(operand, copies) for operand in inputs], node.name)
    copies.update(zip(node.outputs, outputs, strict=False))


def _replaced(operand: Operand, copies: dict[Value, Value]) -> Operand:
    if isinstance(operand, tuple):
        return tuple(copies.get(piece, piece) for piece in operand)
    return None if operand is None else copies.get(operand, operand)
