"""Another number of classes for a network from an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ..errors import ArgumentError
from ..packing import Array
from .onnx_file import OnnxModel, OnnxNode, onnx_package

PASSING = (
    *("Softmax", "LogSoftmax", "Identity", "Flatten", "Reshape", "Squeeze"),
    *("Dropout", "GlobalAveragePool", "AveragePool", "ReduceMean", "Relu", "Add"),
)
WITH_WEIGHTS = ("Gemm", "MatMul", "Conv")


def model_with_head(model: OnnxModel, classes: int, rng: np.random.Generator) -> tuple[OnnxModel, set[str]]:
    """The model with `classes` outputs, and the names of the arrays of its last layer, which are drawn anew (He).

    Raises:
        ArgumentError: the first output is not that of a matrix product or convolution with weights in the file.
    """
    node, biases = _last(model)
    weight, per_unit = node.inputs[1], [name for name in (*biases, *node.inputs[2:]) if name in model.arrays]
    if weight not in model.arrays or model.arrays[weight].ndim < 2:
        raise ArgumentError(f"replace_head: the weights of node {node.label!r} are not kept in the file")
    shape = list(model.arrays[weight].shape)
    axis = 0 if node.op == "Conv" or node.attributes.get("transB") else 1
    units, shape[axis] = shape[axis], classes
    drawn = rng.standard_normal(shape).astype(np.float32) * np.sqrt(2 * classes / np.prod(shape))
    new = {weight: drawn.astype(np.float32)}
    for name in per_unit:
        old = model.arrays[name]
        if old.size == units:
            new[name] = np.zeros([classes if n == units else n for n in old.shape], old.dtype)
    return _with_arrays(model, new, units, classes), set(new)


def _last(model: OnnxModel) -> tuple[OnnxNode, list[str]]:
    """The last node with weights in front of the first output, and arrays that are added behind it."""
    makers = {name: node for node in model.nodes for name in node.outputs}
    node, biases = makers.get(model.outputs[0].name), []
    while node is not None and node.op not in WITH_WEIGHTS:
        computed = [name for name in node.inputs if name and name not in model.arrays]
        if node.op not in PASSING or not computed:
            break
        biases += [name for name in node.inputs if name in model.arrays and node.op == "Add"]
        node = makers.get(computed[0])
    if node is None or node.op not in WITH_WEIGHTS:
        raise ArgumentError(
            "replace_head: the first output is not that of a matrix product or a convolution, "
            "perhaps with a softmax behind it"
        )
    return node, biases


def _with_arrays(model: OnnxModel, new: Mapping[str, Array], units: int, classes: int) -> OnnxModel:
    """The model with other arrays, its outputs' extents of `units` now `classes`."""
    proto = onnx_package().ModelProto.FromString(model.skeleton)
    for tensor in proto.graph.initializer:
        if tensor.name in new:
            tensor.ClearField("dims")
            tensor.dims.extend(new[tensor.name].shape)
    for info in proto.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value == units:
                dim.dim_value = classes
    del proto.graph.value_info[:]
    return replace(model, arrays={**model.arrays, **new}, skeleton=proto.SerializeToString())
