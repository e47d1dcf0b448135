"""A network that an ONNX file describes: the same face as `nn.Network`, graphs made from the file's nodes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, ModelFileError, ShapeError
from ..graph import Graph, Value
from ..nn.network import Network
from ..packing import Array
from ..recent import Recent
from .onnx_convert import Built, Converter
from .onnx_file import OnnxModel, Port, onnx_package, parse_model
from .onnx_head import model_with_head
from .onnx_values import Device, NeedsConstant, Shape
from .onnx_write import filled_model, updated_model

FORMAT_KEY = "onnx"  # of the JSON description
MAX_KEPT = 16  # graphs by batch, and networks by image size
FREE_SIZE = 224  # of a dimension that the file leaves open, until an image says more


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
        own["_built"], own["_others"], own["_shapes"] = Recent(MAX_KEPT), Recent(MAX_KEPT), None

    model: OnnxModel
    port: Port
    sizes: Shape
    converter: Converter
    _built: Recent[int, Built]
    _others: Recent[Shape, OnnxNetwork]
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
            self._freeze(built.graph, train)
        else:
            self._built.get(batch, lambda: built)
        return built.graph

    def results(self, batch: int) -> Built:
        """What the outputs of a graph for `batch` images in test-time mode are."""
        return self._built.get(batch, lambda: self.built(batch, train=False))

    @property
    def notes(self) -> list[str]:
        """What the file says about itself, for people."""
        return model_notes(self.model, self.sizes if self.open_size else None)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, whatever the order of the input's axes."""
        a, b, c = self.input_shape
        return (c, a, b) if self.channels_last else (a, b, c)

    def with_image(self, size: tuple[int, int]) -> OnnxNetwork:
        """The same network for images of (H, W) pixels.

        Raises:
            ShapeError: the file insists on others.
        """
        channels = self.image_shape[0]
        return self.fitted((self.batch, *((*size, channels) if self.channels_last else (channels, *size))), "size")

    @property
    def open_size(self) -> bool:
        """Whether the file leaves height and width open."""
        dims = self.port.dims
        if dims is None or len(dims) != 4:
            return dims is None
        return not any(isinstance(d, int) for d in (dims[1:3] if self.channels_last else dims[2:]))

    @property
    def channels_last(self) -> bool:
        """Whether the input is (N, H, W, C), as Keras has it."""
        dims = self.port.dims
        return dims is not None and len(dims) == 4 and dims[3] in (1, 3) and dims[1] not in (1, 3)

    def output_types(self, batch: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each output by its name in the file, for `batch` images."""
        found = self.results(batch).outputs
        return {port.name: (tuple(found[port.name].shape), found[port.name].dtype) for port in self.model.outputs}

    def outputs(self, results: Mapping[str, Array], batch: int) -> dict[str, Array]:
        """The outputs by name, from what a run of the graph for `batch` images returned."""
        return self.results(batch).arrays(results)

    @property
    def _first_output(self) -> Shape:
        return tuple(self.results(self.batch).outputs[self.model.outputs[0].name].shape)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(K, P, Q) of the first output."""
        return _three(self._first_output[1:])

    @property
    def flat_output(self) -> bool:
        """Whether the first output is one vector per image."""
        return len(self._first_output) == 2

    @property
    def final(self) -> str:
        """The operator of the first output, read in another shape or not."""
        makers = {name: node for node in self.converter.nodes for name in node.outputs}
        node = makers.get(self.model.outputs[0].name)
        while node is not None and node.op in ("Flatten", "Identity", "Reshape", "Squeeze"):
            node = makers.get(node.inputs[0])
        return "" if node is None else node.op

    @property
    def contents(self) -> str:
        """What it is made of, in a few words."""
        return str(self.model)

    def fitted(self, shape: Sequence[int], who: str = "net") -> OnnxNetwork:
        """The network for images (N, ...) of this shape.

        Raises:
            ShapeError: the file does not take them.
        """
        if tuple(shape[1:]) == self.sizes:
            return self
        dims = self.port.dims
        wanted = dims[1:] if dims is not None else (None,) * (len(shape) - 1)
        if len(shape) != len(wanted) + 1 or any(
            isinstance(d, int) and d != n for d, n in zip(wanted, shape[1:], strict=True)
        ):
            text = ", ".join(str(d or "any") for d in wanted)
            raise ShapeError(f"{who}: images of shape {tuple(shape)} where (N, {text}) is expected")
        return self.with_input(tuple(shape[1:]))

    def with_input(self, input_shape: Shape) -> OnnxNetwork:
        """The same network for images of another size."""
        if input_shape == self.sizes:
            return self
        return self._others.get(input_shape, lambda: OnnxNetwork(self.model, input_shape, self.converter))

    def with_frozen(self, names: frozenset[str]) -> OnnxNetwork:
        """The same network with other parameters that training leaves as they are."""
        other = OnnxNetwork(self.model, self.sizes, self.converter)
        other.__dict__["frozen"] = names
        return other

    def with_head(self, arrays: Mapping[str, Array], classes: int, seed: int) -> tuple[OnnxNetwork, dict[str, Array]]:
        """The network with `classes` outputs; see `Network.with_head`."""
        model, drawn = model_with_head(self.model, classes, np.random.default_rng(seed))
        changed = OnnxNetwork(model, self.sizes)
        fresh = changed.initial(seed)
        return changed, {name: fresh[name] if name in drawn else arrays[name] for name in fresh}

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
        public = {name: a.T if name in self.converter.transposed else a for name, a in arrays.items()}
        ranks = {name: len(tensor.shape) for name, tensor in self.results(self.batch).outputs.items()}
        return updated_model(self.model.skeleton, self.model.arrays, public, metadata, ranks)

    def to_json(self) -> str:
        """The file's graph as JSON, with the arrays that no training changes."""
        public = set(self.array_shapes())
        held = {name: array for name, array in self.model.arrays.items() if name not in public}
        content = filled_model(self.model.skeleton, held).SerializeToString(deterministic=True)
        absent = sorted(public & set(self.model.arrays))
        return json.dumps({FORMAT_KEY: base64.b64encode(content).decode(), "absent": absent, "sizes": self.sizes})

    @classmethod
    def from_json(cls, text: str, where: str) -> OnnxNetwork:
        """The inverse of `to_json`; `where` names the file in messages.

        Raises:
            ModelFileError: the text is no description of an ONNX graph, or the graph is not supported.
        """
        try:
            found = json.loads(text)
            proto = onnx_package().ModelProto.FromString(base64.b64decode(found[FORMAT_KEY], validate=True))
            absent, sizes = frozenset(map(str, found["absent"])), tuple(map(int, found["sizes"]))
        except Exception as error:  # protobuf's DecodeError, whose class depends on its implementation
            if isinstance(error, ModelFileError):
                raise
            raise ModelFileError(f"{where}: not a network description: {error}") from error
        return cls(parse_model(proto, where, absent=absent), sizes)


def model_notes(model: OnnxModel, sizes: Shape | None = None) -> list[str]:
    """Version, inputs and outputs of a model; `sizes`: of an image that figures are for, where the file leaves them
    open."""

    def ports(found: Sequence[Port]) -> str:
        shapes = [", ".join(str(dim or "?") for dim in port.dims) if port.dims is not None else "?" for port in found]
        return "; ".join(f"{port.name} ({shape}) {port.dtype}" for port, shape in zip(found, shapes, strict=True))

    notes = [f"{model}, opset {model.opset}", f"reads {ports(model.inputs)}", f"gives {ports(model.outputs)}"]
    if sizes is not None:
        notes.append(f"any size; the figures are for images of {' x '.join(map(str, sizes))}")
    return notes


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


def _as_images(built: Built) -> Value:
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
