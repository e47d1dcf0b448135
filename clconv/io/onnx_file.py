"""ONNX files read with suspicion: what a file says about sizes and places is checked before it is believed.

Nothing outside the model's folder is opened, no size is trusted before the bytes are there, and every
mistake is a `ModelFileError` that says what is wrong.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..packing import Array
from .mapped import array_in, map_file
from .onnx_external import Folder, external_array
from .onnx_scan import without_large

LIMIT_BYTES = 1 << 31  # of a file, which is protobuf's own limit, and of one tensor
MAP_BYTES = 1 << 20  # files from here on are mapped, so that their weights are read when they are needed
FLOAT32 = np.dtype(np.float32)
OLDEST_OPSET = 6
MAX_DEPTH = 8  # of conditions inside conditions
DOMAINS = ("", "ai.onnx", "ai.onnx.preview.training")

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of the model: dims are sizes, or names or None where they are free."""

    name: str
    dtype: np.dtype[Any]
    dims: Dims | None


@dataclass(frozen=True)
class OnnxNode:
    """One node as it stands in the file; attributes as Python values, tensors as arrays."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """A name to print: its own or, as many have none, its first output's."""
        return self.name or next(filter(None, self.outputs), self.op)


@dataclass(frozen=True)
class Branch:
    """A graph inside a node, as `If` has two: nodes in order, arrays and the names of its outputs.

    Attributes:
        captured: names that it reads from around it, as often as it reads them.
    """

    nodes: list[OnnxNode]
    arrays: dict[str, Array]
    outputs: list[str]
    captured: list[str]


@dataclass
class OnnxModel:
    """A parsed model: nodes in an order in which they can run, arrays by name.

    Attributes:
        skeleton: the serialised model without the arrays' contents.
    """

    where: str
    nodes: list[OnnxNode]
    arrays: dict[str, Array]
    inputs: list[Port]
    outputs: list[Port]
    opsets: dict[str, int]
    metadata: dict[str, str] = field(default_factory=dict)
    skeleton: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"ONNX, {len(self.nodes)} nodes"

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self.opsets.get("", OLDEST_OPSET)


def onnx_package() -> Any:
    """The `onnx` package.

    Raises:
        ModelFileError: it is not installed; the message says how to get it.
    """
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ModelFileError(
            'ONNX files need the "onnx" package, which is missing: pip install "clconv[onnx]"'
        ) from error
    return onnx


def read_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Reads a model and its external data, which must lie in the model's folder.

    Raises:
        ModelFileError: missing, damaged, cyclic, or refers to something that it should not.
    """
    onnx = onnx_package()
    file = Path(path)
    if not file.is_file():
        raise ModelFileError(f"{path}: {'not a file' if file.exists() else 'there is no such file'}")
    size = file.stat().st_size
    if size >= LIMIT_BYTES:
        raise ModelFileError(
            f"{path}: {size} bytes are more than an ONNX file can have (2 GiB, larger weights lie beside it)"
        )
    mapped: dict[int, Array] = {}
    try:
        if size < MAP_BYTES:
            content = file.read_bytes()
        else:
            data = map_file(file)
            content, spans = without_large(data)
            mapped = {i: array_in(data, FLOAT32, ((last - first) // 4,), first) for i, (first, last) in spans.items()}
        proto = onnx.ModelProto.FromString(content)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError, whose class depends on its implementation
        raise ModelFileError(f"{path}: not an ONNX file, or cut off: {error}") from error
    return parse_model(proto, str(path), file.parent, mapped=mapped)


def parse_model(
    proto: Any,
    where: str,
    folder: Path | None = None,
    absent: Collection[str] = frozenset(),
    mapped: Mapping[int, Array] = MappingProxyType({}),
) -> OnnxModel:
    """A model from its protobuf message.

    Args:
        folder: where external data may lie. absent: initializers whose contents come from elsewhere; zeros here.
        mapped: contents of initializers, by position, that the message does not hold: bytes of the file itself.

    Raises:
        ModelFileError: see `read_onnx`.
    """
    onnx = onnx_package()
    graph = proto.graph
    if not proto.opset_import or not (graph.node or graph.output):
        raise ModelFileError(f"{where}: not an ONNX model: it has no operators, or does not say of which version")
    opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in proto.opset_import}
    if opsets.get("", OLDEST_OPSET) < OLDEST_OPSET:
        raise ModelFileError(
            f"{where}: opset {opsets['']} is not supported; {OLDEST_OPSET} is the oldest (onnx.version_converter helps)"
        )
    beside = None if folder is None else Folder(folder)
    arrays = {}
    for i, tensor in enumerate(graph.initializer):
        _check_name(tensor.name, where)
        if tensor.name in absent:
            arrays[tensor.name] = np.broadcast_to(np.zeros((), tensor_type(tensor, where)), _shape(tensor, where))
        else:
            arrays[tensor.name] = tensor_array(tensor, where, beside, mapped.get(i))
    if graph.sparse_initializer:
        raise ModelFileError(f"{where}: sparse initializers are not supported")
    inputs = [_port(info, where) for info in graph.input if info.name not in arrays]
    outputs = [_port(info, where) for info in graph.output]
    if not outputs:
        raise ModelFileError(f"{where}: the model has no output")
    nodes = [_node(node, where, beside) for node in graph.node]
    nodes = _sorted(nodes, {*arrays, *(port.name for port in inputs)}, [port.name for port in outputs], where)
    metadata = {item.key: item.value for item in proto.metadata_props}
    return OnnxModel(where, nodes, arrays, inputs, outputs, opsets, metadata, _skeleton(onnx, proto))


def _skeleton(onnx: Any, proto: Any) -> bytes:
    """The model without the contents of its initializers, which `OnnxModel.arrays` holds. `proto` stays as it is."""
    bare = onnx.ModelProto()
    _copy_fields(bare, proto, "graph")
    _copy_fields(bare.graph, proto.graph, "initializer")
    for tensor in proto.graph.initializer:
        bare.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    data: bytes = bare.SerializeToString()
    return data


def _copy_fields(target: Any, source: Any, without: str) -> None:
    """Copies all fields of a message but one, so that no second copy of large ones is made on the way."""
    for field_info, value in source.ListFields():
        name = field_info.name
        if name == without:
            continue
        if hasattr(value, "MergeFrom") or hasattr(value, "extend"):
            getattr(target, name).MergeFrom(value)
        else:
            setattr(target, name, value)


def tensor_array(tensor: Any, where: str, folder: Folder | None, mapped: Array | None = None) -> Array:
    """The array of a TensorProto, its size checked against the bytes that are there.

    Args:
        mapped: its contents, where they lie in the file and not in the message.

    Raises:
        ModelFileError: a type without numbers, a size that the data do not have, or data elsewhere.
    """
    onnx = onnx_package()
    label = f"{where}: tensor {tensor.name!r}"
    dtype, shape = tensor_type(tensor, where), _shape(tensor, where)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return external_array({item.key: item.value for item in tensor.external_data}, label, shape, dtype, folder)
    there = len(tensor.raw_data) if mapped is None else mapped.nbytes
    inside = tensor.HasField("raw_data") or mapped is not None
    if inside and dtype.itemsize * math.prod(shape) != there and dtype.kind != "V":
        raise ModelFileError(
            f"{label}: the shape {shape} of {dtype} needs {dtype.itemsize * math.prod(shape)} bytes, "
            f"but {there} are there"
        )
    if mapped is not None:
        return mapped.reshape(shape)
    try:
        array: Array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # damaged data make the package raise anything
        raise ModelFileError(f"{label}: shape {shape} and data do not agree: {error}") from error
    return array


def tensor_type(tensor: Any, where: str) -> np.dtype[Any]:
    """The NumPy type of a TensorProto.

    Raises:
        ModelFileError: NumPy has none.
    """
    try:
        dtype: np.dtype[Any] = np.dtype(onnx_package().helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return dtype
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{where}: tensor {tensor.name!r}: data type {tensor.data_type} is not supported"
        ) from error


def _shape(tensor: Any, where: str) -> tuple[int, ...]:
    """The extents of a TensorProto, if an array of that size is possible."""
    shape = tuple(tensor.dims)
    if any(n < 0 for n in shape) or math.prod(shape) * tensor_type(tensor, where).itemsize >= LIMIT_BYTES:
        raise ModelFileError(f"{where}: tensor {tensor.name!r}: the shape {shape} is negative, or larger than 2 GiB")
    return shape


def _check_name(name: str, where: str) -> None:
    """Refuses tensor names that would climb out of a folder where weights are kept as files by name."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if ".." in parts or "\0" in name:
        raise ModelFileError(f"{where}: a tensor is named {name!r}; names that lead out of a folder are refused")


def _port(info: Any, where: str) -> Port:
    onnx = onnx_package()
    if not info.type.HasField("tensor_type"):
        raise ModelFileError(f"{where}: {info.name!r} is no tensor; sequences, maps and optionals are not supported")
    tensor = info.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type or onnx.TensorProto.FLOAT))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{where}: {info.name!r} has data type {tensor.elem_type}, not supported") from error
    if not tensor.HasField("shape"):
        return Port(info.name, dtype, None)
    dims: list[int | str | None] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
        else:
            dims.append(dim.dim_param or None)
    return Port(info.name, dtype, tuple(dims))


def _node(node: Any, where: str, folder: Folder | None, depth: int = 0) -> OnnxNode:
    onnx = onnx_package()
    kinds = onnx.AttributeProto
    attributes: dict[str, Any] = {}
    for item in node.attribute:
        if item.type == kinds.TENSOR:
            attributes[item.name] = tensor_array(item.t, where, folder)
        elif item.type in (kinds.INT, kinds.FLOAT):
            attributes[item.name] = item.i if item.type == kinds.INT else item.f
        elif item.type == kinds.STRING:
            attributes[item.name] = item.s.decode("utf-8", "replace")
        elif item.type in (kinds.INTS, kinds.FLOATS):
            attributes[item.name] = tuple(item.ints if item.type == kinds.INTS else item.floats)
        elif item.type == kinds.STRINGS:
            attributes[item.name] = tuple(s.decode("utf-8", "replace") for s in item.strings)
        elif item.type == kinds.GRAPH and node.op_type == "If":
            attributes[item.name] = _branch(item.g, where, folder, depth + 1)
        else:
            attributes[item.name] = None  # what no converter takes
    inputs = tuple(node.input)
    if node.op_type == "Gradient":  # reads one more value, which it names in an attribute
        inputs = (*inputs, str(attributes.get("y", "")))
    for value in attributes.values():
        if isinstance(value, Branch):
            inputs = (*inputs, *value.captured)
    return OnnxNode(node.op_type, node.domain, node.name, inputs, tuple(node.output), attributes)


def _branch(graph: Any, where: str, folder: Folder | None, depth: int) -> Branch:
    if depth > MAX_DEPTH:
        raise ModelFileError(f"{where}: conditions are nested more than {MAX_DEPTH} deep")
    arrays = {tensor.name: tensor_array(tensor, where, folder) for tensor in graph.initializer}
    nodes = [_node(node, where, folder, depth) for node in graph.node]
    own = {*arrays, *(name for node in nodes for name in node.outputs)}
    outputs = [info.name for info in graph.output]
    captured = [name for names in (*(n.inputs for n in nodes), outputs) for name in names if name and name not in own]
    return Branch(_sorted(nodes, {*arrays, *captured}, outputs, where), arrays, outputs, captured)


def _sorted(nodes: Sequence[OnnxNode], known: set[str], wanted: Sequence[str], where: str) -> list[OnnxNode]:
    """The nodes that the outputs need, each behind all that it reads.

    Raises:
        ModelFileError: a cycle, a value that nobody makes, or one that two make.
    """
    maker: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in maker or name in known:
                raise ModelFileError(f"{where}: {name!r} is made twice, the second time by node {node.label!r}")
            maker[name] = position
    order: list[OnnxNode] = []
    state = dict.fromkeys(range(len(nodes)), "new")
    for name in wanted:
        stack: list[int | None] = [_make(name, maker, known, where, "an output")]
        while stack:
            if (i := stack[-1]) is None or state[i] == "done":
                stack.pop()
            elif state[i] == "open":
                state[i] = "done"
                order.append(nodes[i])
                stack.pop()
            else:
                state[i] = "open"
                label = f"node {nodes[i].label!r}"
                before = [_make(n, maker, known, where, label) for n in nodes[i].inputs if n]
                if any(j is not None and state[j] == "open" for j in before):
                    raise ModelFileError(f"{where}: the graph is cyclic: {label} needs its own output")
                stack.extend(before)
    return _as_written(nodes, order, known)


def _as_written(nodes: Sequence[OnnxNode], order: list[OnnxNode], known: set[str]) -> list[OnnxNode]:
    """The same nodes in the file's order, if they can run in it, as they should; else as they are."""
    live, made = set(map(id, order)), set(known)
    written = [node for node in nodes if id(node) in live]
    for node in written:
        if any(name and name not in made for name in node.inputs):
            return order
        made.update(node.outputs)
    return written


def _make(name: str, maker: Mapping[str, int], known: set[str], where: str, reader: str) -> int | None:
    """Which node makes a value; None for inputs and initializers."""
    if name in known:
        return None
    if name not in maker:
        raise ModelFileError(f"{where}: {reader} reads {name!r}, which nothing makes")
    return maker[name]
