"""A network that an ONNX file describes: the same face as `nn.Network`, graphs made from the file's nodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ArgumentError, ClconvError, ModelFileError, ShapeError
from ..graph import Graph, Value
from ..nn.network import Network
from ..packing import Array
from ..shapes import TensorSpec
from . import (  # noqa: F401  converters register themselves
    onnx_compose,
    onnx_conv,
    onnx_elementwise,
    onnx_loss,
    onnx_move,
    onnx_norm,
    onnx_reduce,
    onnx_resize,
    onnx_shape,
    onnx_volume,
)
from .onnx_file import DOMAINS, OnnxModel, OnnxNode, Port
from .onnx_table import CONVERTERS
from .onnx_values import Builder, Device, Host, NeedsConstant, Op, Shape, Tensor, Unsupported

MAX_KEPT = 16  # graphs by batch, and networks by image size
FREE_SIZE = 224  # of a dimension that the file leaves open, until an image says more


@dataclass
class Built:
    """A graph with what the model's outputs are in it.

    Attributes:
        outputs: by ONNX name; those on the device are outputs of the graph, the first as "y", others under
            their names with "y:" in front.
    """

    graph: Graph
    outputs: dict[str, Tensor]
    labels: dict[str, str]

    def arrays(self, results: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name, from what a run of the graph returned."""
        found = {}
        for name, tensor in self.outputs.items():
            if isinstance(tensor, Host):
                found[name] = tensor.array
            else:
                found[name] = results[self.labels[name]].reshape(tensor.shape).astype(tensor.dtype, copy=False)
        return found


class Converter:
    """Makes graphs of a model for concrete inputs. What depends on no input is computed once, here.

    Attributes:
        arrays: initializers and what follows from them, by name; those in `transposed` with their two axes
            exchanged.

    Raises:
        ModelFileError: operators that are not supported, all of them, by node and opset.
    """

    def __init__(self, model: OnnxModel) -> None:
        self.model = model
        check_operators(model)
        self.arrays: dict[str, Array] = dict(model.arrays)
        self.nodes = self._folded(model.nodes)
        self.users = Counter(name for node in self.nodes for name in node.inputs)
        self.users.update(port.name for port in model.outputs)
        self.transposed = self._transposable()
        for name in self.transposed:
            self.arrays[name] = np.ascontiguousarray(self.arrays[name].T)
            if name in model.arrays:
                model.arrays[name] = self.arrays[name].T  # a view: one copy is enough

    def _folded(self, nodes: Sequence[OnnxNode]) -> list[OnnxNode]:
        """The nodes that read something else than known arrays; the others are computed."""
        left = []
        for node in nodes:
            names = [name for name in node.inputs if name]
            if not all(name in self.arrays for name in names) or not self._fold(node):
                left.append(node)
        return left

    def _fold(self, node: OnnxNode) -> bool:
        b = Builder(train=False, users={}, transposed=frozenset())
        tensors = {name: Host(self.arrays[name], name, True) for name in node.inputs if name}
        try:
            results = _convert(b, node, tensors, self.model.opset)
        except (ClconvError, ImportError, ValueError):
            return False
        if not all(isinstance(r, Host) and r.static for r in results if r is not None):
            return False
        for name, result in zip(node.outputs, results, strict=False):
            if name and isinstance(result, Host):
                self.arrays[name] = result.array
        return True

    def _transposable(self) -> frozenset[str]:
        """Matrices that are read as (values, units) by matrix products alone."""
        found: set[str] = set()
        other: set[str] = set()
        for node in self.nodes:
            plain = node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB"))
            for i, name in enumerate(node.inputs):
                fits = plain and i == 1 and name in self.arrays and self.arrays[name].ndim == 2
                (found if fits and self.arrays[name].dtype == np.float32 else other).add(name)
        return frozenset(found - other - {port.name for port in self.model.outputs})

    def build(self, inputs: Mapping[str, Shape | Array], *, train: bool = False, first: str | None = None) -> Built:
        """The graph for inputs of known shape, or known altogether.

        Args:
            inputs: by name: a shape, for a float tensor that the host feeds, or an array.
            first: the input that the graph calls "x".

        Raises:
            NeedsConstant: an operator must know an input beforehand, of which only the shape was given.
            ModelFileError: operators whose arguments are not supported, all of them.
        """
        b = Builder(train=train, users=self.users, transposed=self.transposed)
        tensors: dict[str, Tensor] = {name: Host(array, name, True) for name, array in self.arrays.items()}
        for port in self.model.inputs:
            given = inputs[port.name]
            if isinstance(given, tuple):
                label = "x" if port.name == first else port.name
                value = b.graph.input(label, TensorSpec(given or (1,), layout="plain"))
                tensors[port.name] = Device(value, given, port.dtype, frozenset([port.name]))
            else:
                tensors[port.name] = Host(given, "", False)
        self._convert_all(b, tensors)
        return self._finish(b, tensors)

    def _convert_all(self, b: Builder, tensors: dict[str, Tensor]) -> None:
        problems: list[tuple[OnnxNode, str]] = []
        needs: list[NeedsConstant] = []
        for node in self.nodes:
            if any(name and name not in tensors for name in node.inputs):
                continue  # behind a node that failed
            b.label = node.label
            try:
                results = _convert(b, node, tensors, self.model.opsets.get(node.domain, self.model.opset))
            except NeedsConstant as error:
                needs.append(error)
                problems.append((node, str(error)))
                continue
            except (Unsupported, ShapeError, ArgumentError, NotImplementedError, ImportError) as error:
                problems.append((node, str(error)))
                continue
            except (ValueError, TypeError, IndexError, OverflowError) as error:
                problems.append((node, f"its inputs or attributes do not fit: {error}"))
                continue
            for name, result in zip(node.outputs, results, strict=False):
                if name and isinstance(result, Host) and not result.name:
                    result = replace(result, name=name)
                if name and result is not None:
                    tensors[name] = result
        if needs and len(needs) == len(problems) and all(error.roots for error in needs):
            raise NeedsConstant(str(needs[0]), frozenset().union(*(error.roots for error in needs)))
        if problems:
            raise ModelFileError(_listed(self.model, problems))

    def _finish(self, b: Builder, tensors: Mapping[str, Tensor]) -> Built:
        outputs, labels = {}, {}
        for i, port in enumerate(self.model.outputs):
            if port.name not in tensors:
                raise ModelFileError(f"{self.model.where}: output {port.name!r}: the node that makes it gives none")
            tensor = outputs[port.name] = tensors[port.name]
            if isinstance(tensor, Device):
                labels[port.name] = "y" if i == 0 else f"y:{port.name}"
                b.graph.outputs[labels[port.name]] = _computed(b, tensor.value)
        return Built(b.graph, outputs, labels)


def _computed(b: Builder, value: Value) -> Value:
    """A value that a run makes: a copy of what is on the device before."""
    if not value.persistent:
        return value
    from .._core.plain_elementwise import Unary

    return b.add(Unary("identity"), value)


def _convert(b: Builder, node: OnnxNode, tensors: Mapping[str, Tensor], opset: int) -> Sequence[Tensor | None]:
    op = Op(node, [tensors[name] if name else None for name in node.inputs], opset)
    made = CONVERTERS[node.op](b, op)
    return [made] if isinstance(made, Host | Device) else made


def check_operators(model: OnnxModel) -> None:
    """Raises ModelFileError that names all operators without a converter."""
    problems = [
        (node, "")
        for node in model.nodes
        if node.op not in CONVERTERS or node.domain not in DOMAINS
    ]
    if problems:
        raise ModelFileError(_listed(model, problems))


def _listed(model: OnnxModel, problems: Sequence[tuple[OnnxNode, str]]) -> str:
    """What is not supported: operators with opset, count, first node and reason."""
    groups: dict[tuple[str, str, str], list[OnnxNode]] = {}
    for node, reason in problems:
        groups.setdefault((node.domain, node.op, reason), []).append(node)
    lines = []
    for (domain, op, reason), nodes in groups.items():
        version = model.opsets.get(domain if domain != "ai.onnx" else "", "?")
        name = f"{domain}.{op}" if domain else op
        why = f": {reason}" if reason else ""
        lines.append(f"{name} (opset {version}), {len(nodes)} times, first in node {nodes[0].label!r}{why}")
    return f"{model.where}: not supported:\n  " + "\n  ".join(lines)


class OnnxNetwork(Network):
    """The network of an ONNX file. It has no layers of the network language (`entries`); graphs come from the file.

    Parameters and running statistics go by their names in the file. Weights that matrix products read as
    (values, units) are kept as (units, values), as every fully-connected layer's.

    Attributes:
        input_shape: sizes of the image behind the batch, as (C, H, W); what the file leaves open has the size
            that `with_input` gave, or 224.

    Raises:
        ModelFileError: operators or inputs that are not supported.
    """

    def __init__(self, model: OnnxModel, input_shape: Shape | None = None, converter: Converter | None = None) -> None:
        port = _image_port(model)
        sizes = input_shape if input_shape is not None else _default_sizes(port)
        super().__init__(_three(sizes), ())
        own = self.__dict__  # the base class is frozen
        own["model"], own["port"], own["sizes"] = model, port, sizes
        own["converter"] = converter or Converter(model)
        own["_built"], own["_others"], own["_shapes"] = {}, {}, None

    model: OnnxModel
    port: Port
    sizes: Shape
    converter: Converter
    _built: dict[int, Built]
    _others: dict[Shape, OnnxNetwork]
    _shapes: dict[str, tuple[int, ...]] | None

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def fixed_batch(self) -> int | None:
        """The number of images that the file insists on, or None."""
        first = self.port.dims[0] if self.port.dims else None
        return first if isinstance(first, int) else None

    def built(self, batch: int, *, train: bool) -> Built:
        """A fresh graph for `batch` images, with what its outputs are.

        Raises:
            ModelFileError: something in it is not supported. ShapeError: the file insists on another batch.
        """
        if batch < 1:
            raise ArgumentError(f"batch: {batch} images; at least 1 is needed")
        if self.fixed_batch not in (None, batch):
            raise ShapeError(f"{self.model.where}: the file is for batches of {self.fixed_batch}, not {batch}")
        shape = (batch, *self.sizes)
        try:
            return self.converter.build({self.port.name: shape}, train=train, first=self.port.name)
        except NeedsConstant as error:
            raise ModelFileError(f"{self.model.where}: not supported: {error}") from error

    def graph(self, batch: int, *, train: bool) -> Graph:
        """A fresh graph for `batch` images; its input is "x" (planar), its first output "y".

        In training mode it has the first output alone.
        """
        built = self.built(batch, train=train)
        if "y" not in built.graph.outputs:
            raise ModelFileError(f"{self.model.where}: the first output does not depend on the image")
        if train:
            built.graph.outputs = {"y": _as_images(built)}
        else:
            _remember(self._built, batch, built)
        return built.graph

    def results(self, batch: int) -> Built:
        """What the outputs of the last graph for `batch` images in test-time mode are."""
        if batch not in self._built:
            self.graph(batch, train=False)
        return self._built[batch]

    @property
    def batch(self) -> int:
        """Images for a look at shapes: what the file insists on, or 1."""
        return self.fixed_batch or 1

    @property
    def output_names(self) -> list[str]:
        """Names of all outputs."""
        return [port.name for port in self.model.outputs]

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(K, P, Q) of the first output."""
        return _three(self.results(self.batch).outputs[self.output_names[0]].shape[1:])

    @property
    def flat_output(self) -> bool:
        """Whether the first output is one vector per image."""
        return len(self.results(self.batch).outputs[self.output_names[0]].shape) == 2

    def fitted(self, shape: Sequence[int]) -> OnnxNetwork:
        """The network for images (N, ...) of this shape.

        Raises:
            ShapeError: the file does not take them.
        """
        dims = self.port.dims
        wanted = dims[1:] if dims is not None else (None,) * (len(shape) - 1)
        if len(shape) != len(wanted) + 1 or any(
            isinstance(d, int) and d != n for d, n in zip(wanted, shape[1:], strict=True)
        ):
            text = ", ".join(str(d or "any") for d in wanted)
            raise ShapeError(f"images of shape {tuple(shape)} where (N, {text}) is expected")
        return self.with_input(tuple(shape[1:]))

    def with_input(self, input_shape: Shape) -> OnnxNetwork:
        """The same network for images of another size."""
        if input_shape == self.sizes:
            return self
        if input_shape not in self._others:
            _remember(self._others, input_shape, OnnxNetwork(self.model, input_shape, self.converter))
        return self._others[input_shape]

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Public shapes of all parameters and state, by name."""
        if self._shapes is None:
            values = self.built(self.batch, train=False).graph.persistent
            self.__dict__["_shapes"] = {
                name: value.parameter.public_shape
                for name, value in values.items()
                if value.parameter and value.parameter.derive is None
            }
        assert self._shapes is not None
        return self._shapes

    def initial(self, seed: int) -> dict[str, Array]:
        """The file's arrays; no seed changes them."""
        arrays = self.converter.arrays
        return {name: np.asarray(arrays[name], np.float32).reshape(s) for name, s in self.array_shapes().items()}


    def updated(self, arrays: Mapping[str, Array], metadata: Mapping[str, Any]) -> Any:
        """The ModelProto of the file with other arrays."""
        from .onnx_export import updated_model

        public = {name: a.T if name in self.converter.transposed else a for name, a in arrays.items()}
        return updated_model(self.model.skeleton, self.model.arrays, public, metadata)


def _remember(table: dict[Any, Any], key: object, item: object) -> None:
    """Adds to a table that keeps the last few."""
    table[key] = item
    while len(table) > MAX_KEPT:
        table.pop(next(iter(table)))


def _image_port(model: OnnxModel) -> Port:
    """The one input, which must be of floats.

    Raises:
        ModelFileError: several inputs, or one of another kind.
    """
    if len(model.inputs) != 1:
        names = ", ".join(port.name for port in model.inputs[:6]) or "none"
        raise ModelFileError(
            f"{model.where}: a Net has one input, the model {len(model.inputs)} ({names}); "
            "clconv.onnx_backend runs models with any number"
        )
    (port,) = model.inputs
    if port.dtype.kind != "f" or port.dims == ():
        raise ModelFileError(f"{model.where}: input {port.name!r} is {port.dtype}; images of float32 are supported")
    return port


def _default_sizes(port: Port) -> Shape:
    dims = port.dims[1:] if port.dims is not None else (3, None, None)
    free = [dim if isinstance(dim, int) else FREE_SIZE for dim in dims]
    if len(dims) == 3 and not isinstance(dims[0], int):
        free[0] = 3
    return tuple(free)


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    """(C, H, W) of what one image is."""
    if len(shape) == 2:
        return shape[0], 1, shape[1]
    c, h, *rest = (*shape, 1, 1) if len(shape) < 3 else shape
    return c, h, math.prod(rest)


def _as_images(built: Built) -> Any:
    """The first output as (N, K, P, Q), which losses read."""
    name = next(iter(built.outputs))
    tensor = built.outputs[name]
    assert isinstance(tensor, Device)
    value = built.graph.outputs["y"]
    wanted = (tensor.shape[0], *_three(tensor.shape[1:]))
    if value.spec.shape != wanted:
        from .._core.plain_move import Reshape

        value = built.graph.add(Reshape(wanted), [value], name)[0]
    return value
