"""Lets the kernels that sum up a weight's gradient make the optimizer's step: the gradient is never stored."""

from __future__ import annotations

from .._core.optimizer import Update, WeightGradient
from ..graph import Graph, Value


def fuse_updates(graph: Graph) -> None:
    """gradient -> update becomes one node, where nobody else reads the gradient; with the same bits.

    It runs where the gradient was computed, or where the weight is read after that, where the update ran.
    """
    readers = graph.readers()
    for update in [n for n in graph.nodes if type(n.layer) is Update]:
        gradient = update.inputs[0]
        assert isinstance(gradient, Value) and isinstance(update.layer, Update)
        producer = gradient.producer
        if producer is None or not isinstance(producer.layer, WeightGradient) or readers[gradient] != [update]:
            continue
        update.layer = producer.layer.stepping(update.layer.step)
        begin, end = graph.nodes.index(producer), graph.nodes.index(update)
        read = {value for node in graph.nodes[begin:end] for value in node.reads}
        if update.inputs[1] not in read:
            del graph.nodes[end]
            graph.nodes.insert(begin, update)
        update.inputs = (*producer.inputs, *update.inputs[1:])
        graph.nodes.remove(producer)
