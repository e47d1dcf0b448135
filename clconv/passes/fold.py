"""Folds batch normalisation at inference into the weights of the layer in front of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from .._core.norm_batch import BatchNormInfer
from ..graph import Graph, Node, Parameter, Value
from ..packing import Array
from ..shapes import TensorSpec

Arrays = Mapping[str, Array]


def fold_batchnorm(graph: Graph) -> None:
    """conv -> batch norm becomes one convolution with other weights, likewise for all layers with filters.

    y = a * (w x + b - mean) + bias with a = weight / sqrt(var + eps) is (a w) x + (b - mean) a + bias. The
    new weights and bias are derived on the host, in float64, when arrays are loaded. Only where nobody else
    reads what is between the two layers, or the weights. Runs before activations are fused; what is no longer
    read is left to `Graph.prune`.
    """
    outputs = set(graph.outputs.values())
    for node in [n for n in graph.nodes if type(n.layer) is BatchNormInfer and n.layer.activation == "none"]:
        between = node.reads[0]
        producer = between.producer
        readers = graph.readers()
        if producer is None or between in outputs or readers[between] != [node]:
            continue
        if all(_known(value) for value in node.reads[1:]) and _foldable(producer, readers):
            _fold(graph, producer, node)
            graph.nodes.remove(node)


def _known(value: Value) -> bool:
    """Whether it comes from an array of the user."""
    return value.persistent and value.parameter is not None


def _foldable(node: Node, readers: Mapping[Value, list[Node]]) -> bool:
    """Whether the node's output is linear in a filter and a bias that it alone reads.

    A depthwise filter is stored in channel blocks. Locally-connected layers, whose bias differs from pixel to
    pixel, are left alone.
    """
    layer = node.layer
    if layer.inputs != ("x", "w", "b") or layer.activation != "none":
        return False
    _, weight, bias = node.inputs
    return (
        isinstance(weight, Value)
        and weight.spec.layout in ("filter", "block")
        and _known(weight)
        and readers[weight] == [node]
        and (bias is None or (isinstance(bias, Value) and _known(bias)))
    )


def _fold(graph: Graph, node: Node, norm: Node) -> None:
    """Gives `node` derived weights and bias, and the output of `norm`."""
    weight, *rest = node.reads[-2:] if node.inputs[2] is not None else node.reads[-1:]
    bias = rest[0] if rest else None
    gamma, beta, mean, var = norm.reads[1:]
    stored = weight.parameter
    assert stored is not None and isinstance(norm.layer, BatchNormInfer)
    eps, channels = norm.layer.eps, norm.outputs[0].spec.shape[1]

    def scale(arrays: Arrays) -> Array:
        factor: Array = _array(gamma, arrays) / np.sqrt(_array(var, arrays) + eps)
        return factor

    def scaled_weight(arrays: Arrays) -> Array:
        return scale_filter(_array(weight, arrays), scale(arrays), weight.spec.groups, swap=stored.swap)

    def shifted_bias(arrays: Arrays) -> Array:
        before = 0.0 if bias is None else _array(bias, arrays)
        return (before - _array(mean, arrays)) * scale(arrays) + _array(beta, arrays)

    by_rows = not stored.swap and all(v.parameter and v.parameter.derive is None for v in (weight, gamma, var))
    name = bias.name if bias is not None else f"{node.name}.bias"
    node.inputs = (
        node.inputs[0],
        _derived(graph, weight.name, weight.spec, stored, scaled_weight, by_rows=by_rows),
        _derived(graph, name, TensorSpec((1, channels, 1, 1)), Parameter((channels,)), shifted_bias),
    )
    (result,) = norm.outputs
    result.producer = node
    node.outputs = (result,)


def _derived(
    graph: Graph,
    name: str,
    spec: TensorSpec,
    like: Parameter,
    derive: Callable[[Arrays], Array],
    *,
    by_rows: bool = False,
) -> Value:
    """A persistent value `name`.folded, computed from arrays of the user."""
    parameter = Parameter(
        like.public_shape,
        swap=like.swap,
        derive=lambda arrays: derive(arrays).astype(np.float32),
        derived_by_rows=by_rows,
    )
    return graph.persist(f"{name}.folded", spec, "param", parameter)


def _array(value: Value, arrays: Arrays) -> Array:
    """The public array of a persistent value in float64; zeros where there is none, as in `Session.load`."""
    parameter = value.parameter
    assert parameter is not None
    if parameter.derive is not None:
        array = parameter.derive(arrays)
        assert array is not None
        return array.astype(np.float64)
    return np.asarray(arrays[value.name] if value.name in arrays else np.zeros(parameter.public_shape), np.float64)


def scale_filter(array: Array, scale: Array, groups: int = 1, *, swap: bool = False) -> Array:
    """The public weights of a layer times one factor per output channel.

    Args:
        array: (K, ...), or with `swap` (C, K/groups, R, S), where the output channels of the group that an
            input channel belongs to lie along the second axis. scale: (K,).
    """
    if not swap:
        return array * scale.reshape(-1, *(1 for _ in array.shape[1:]))
    split = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
    return (split * scale.reshape(groups, 1, -1, 1, 1)).reshape(array.shape)
