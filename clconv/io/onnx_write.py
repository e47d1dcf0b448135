"""Models in memory to ONNX files: arrays put in, checked, written in one go."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..files import replacing
from ..packing import Array
from .onnx_file import LIMIT_BYTES, onnx_package

METADATA = "clconv.metadata"
LEAST_IR = 4  # from which on initializers need not be inputs


def add_arrays(onnx: Any, graph: Any, arrays: Mapping[str, Array]) -> None:
    """Adds initializers to a graph.

    Raises:
        ModelFileError: they are more than one file can have.
    """
    if sum(array.nbytes for array in arrays.values()) >= LIMIT_BYTES - (1 << 20):
        raise ModelFileError("onnx: weights of 2 GiB or more do not fit into one ONNX file; save as .safetensors")
    for name, array in arrays.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))


def filled_model(skeleton: bytes, arrays: Mapping[str, Array]) -> Any:
    """The ModelProto of a skeleton with the contents of those initializers that are in `arrays`."""
    onnx = onnx_package()
    model = onnx.ModelProto.FromString(skeleton)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(arrays[tensor.name], order="C"), tensor.name))
    return model


def updated_model(
    skeleton: bytes,
    arrays: Mapping[str, Array],
    public: Mapping[str, Array],
    metadata: Mapping[str, Any],
    ranks: Mapping[str, int],
) -> Any:
    """The ModelProto of a file that was read, with its arrays; those in `public` take the place of what made them.

    Args:
        skeleton, arrays: of `OnnxModel`. public: arrays of the network by name, in any shape of as many elements.
        metadata: added as JSON. ranks: axes of the outputs, for files that do not say.
    """
    onnx = onnx_package()
    current = dict(arrays)
    for name in public.keys() & arrays.keys():
        current[name] = np.asarray(public[name]).reshape(arrays[name].shape).astype(arrays[name].dtype)
    model = filled_model(skeleton, current)
    graph = model.graph
    there = {tensor.name for tensor in graph.initializer}
    computed = {name: array for name, array in public.items() if name not in there}
    kept = [node for node in graph.node if not any(output in computed for output in node.output)]
    del graph.node[:]
    graph.node.extend(kept)
    add_arrays(onnx, graph, computed)
    for info in graph.output:
        if not info.type.tensor_type.HasField("shape"):
            info.type.tensor_type.shape.dim.extend(onnx.TensorShapeProto.Dimension() for _ in range(ranks[info.name]))
    model.ir_version = max(model.ir_version, LEAST_IR if computed else 0)
    texts = {item.key: item.value for item in model.metadata_props}
    ours = {key: value for key, value in metadata.items() if texts.get(key) != value}
    if ours:
        texts[METADATA] = json.dumps(ours)
    onnx.helper.set_model_props(model, texts)
    return model


def described(properties: Mapping[str, str]) -> dict[str, Any]:
    """What `clconv` said about a network in an ONNX file, beside what others did."""
    others: dict[str, Any] = {key: value for key, value in properties.items() if key != METADATA}
    try:
        ours = json.loads(properties.get(METADATA, "{}"))
    except ValueError:
        return others
    return {**others, **ours} if isinstance(ours, dict) else others


def write_onnx(path: str | os.PathLike[str], model: Any) -> None:
    """Checks a model and writes it, atomically.

    Raises:
        ModelFileError: ONNX's own checker finds fault, or the file cannot be written; what was there is unchanged.
    """
    onnx = onnx_package()
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ModelFileError(f"{path}: ONNX's checker refuses the model: {error}") from error
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_bytes(model.SerializeToString())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror}; what was there is unchanged") from error
