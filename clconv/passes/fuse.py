"""Moves activations into the epilogue of the layer in front of them."""

from __future__ import annotations

from .._core.activation import Activation
from ..graph import Graph


def fuse_activations(graph: Graph) -> None:
    """conv -> ReLU becomes one layer, likewise for every layer with an epilogue and every activation.

    Only where the activation is the sole reader, so that nobody misses the value in between.
    """
    readers = graph.readers()
    outputs = set(graph.outputs.values())
    kept = []
    for node in graph.nodes:
        before = node.inputs[0] if type(node.layer) is Activation else None
        producer = getattr(before, "producer", None)
        if (
            producer is None
            or before is not producer.outputs[0]
            or before in outputs
            or len(readers[before]) > 1
            or not producer.layer.activates
            or producer.layer.activation != "none"
        ):
            kept.append(node)
            continue
        producer.layer = producer.layer.with_activation(node.layer.activation, node.layer.slope)
        (result,) = node.outputs
        result.producer = producer
        producer.outputs = (result, *producer.outputs[1:])
    graph.nodes = kept
