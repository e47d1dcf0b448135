"""Moves activations, sums and pooling into the epilogue of the layer in front of them."""

from __future__ import annotations

from .._core.activation import Activation
from .._core.conv import Conv2d
from .._core.elementwise import Add
from .._core.layer import Residual
from .._core.norm_batch import BatchNormTrain
from .._core.pool import Pool2d
from ..device import DeviceFacts
from ..graph import Graph, Node, Value


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


def fuse_sums(graph: Graph, *, train: bool = False) -> None:
    """conv -> add (-> activation) becomes one layer: the convolution adds the other term to what it computes.

    In training, where such a convolution has no gradient, batch normalisation does so. Of two terms that could, the
    later one takes the sum, so that the other's value is there already.
    """
    readers = graph.readers()
    outputs = set(graph.outputs.values())
    steps = {node: step for step, node in enumerate(graph.nodes)}
    kept = []

    def takes_sum(value: object) -> bool:
        if not isinstance(value, Value) or value.producer is None:
            return False
        node = value.producer
        return (
            isinstance(node.layer, (BatchNormTrain if train else Residual))
            and value is node.outputs[0]
            and node.layer.activation == "none"
            and not node.layer.adds
            and value not in outputs
            and len(readers[value]) == 1
        )

    def made(value: object) -> int:
        """The step after which a value is there."""
        return steps[value.producer] if isinstance(value, Value) and value.producer else -1

    for node in graph.nodes:
        terms = node.inputs if type(node.layer) is Add and len(node.inputs) == 2 else ()
        last, other = sorted(terms, key=made, reverse=True) if terms else (None, None)
        if not takes_sum(last) or last is other:
            kept.append(node)
            continue
        assert isinstance(last, Value) and last.producer
        _add_in(last.producer, node, other)
    graph.nodes = kept


def _add_in(node: Node, add: Node, other: object) -> None:
    """Lets `node` make the sum `add` of its output and `other`."""
    assert isinstance(other, Value)
    node.layer = node.layer.with_(adds=True, activation=add.layer.activation, slope=add.layer.slope)
    node.inputs = (*node.inputs, other)
    node.outputs = (*add.outputs, *node.outputs[1:])
    add.outputs[0].producer = node


def fuse_pools(graph: Graph, facts: DeviceFacts) -> None:
    """conv (-> activation) -> pooling over 2x2 windows side by side becomes one layer: what is pooled is never stored.

    In training, after differentiation, with the places of maxima. Only where the pooling is the sole reader, and for
    kernels of the CPU class: one of their work-items computes all values of its windows.
    """
    if facts.kernels != "cpu":
        return
    readers = graph.readers()
    outputs = set(graph.outputs.values())
    kept = []
    for node in graph.nodes:
        between = node.inputs[0] if type(node.layer) is Pool2d and _side_by_side(node) else None
        producer = between.producer if isinstance(between, Value) and between not in outputs else None
        if producer is None or not _pools(producer) or readers[producer.outputs[0]] != [node]:
            kept.append(node)
            continue
        pool = node.layer
        assert isinstance(pool, Pool2d)
        producer.layer = producer.layer.with_(pool=pool.kind, places=pool.places)
        producer.outputs = node.outputs
        for value in node.outputs:
            value.producer = producer
    graph.nodes = kept


def _pools(node: Node) -> bool:
    """Whether a node's layer can pool: Winograd's tiles for 4x4 filters, of 3x3 outputs, hold no whole windows."""
    layer = node.layer
    return type(layer) is Conv2d and not layer.adds and layer.pool == "none" and layer.window.kernel != (4, 4)


def _side_by_side(node: Node) -> bool:
    """Whether a maximum or mean is of whole 2x2 windows that lie side by side."""
    layer, (before, *_) = node.layer, node.reads
    assert isinstance(layer, Pool2d)
    window = layer.window
    plain = window.kernel == window.stride == (2, 2) and window.pads == ((0, 0), (0, 0))
    halved = tuple(extent // 2 for extent in before.spec.shape[2:])
    return layer.kind in ("max", "avg") and plain and halved == node.outputs[0].spec.shape[2:]
