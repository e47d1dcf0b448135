"""What converters of ONNX operators work with: tensors known on the host or computed on the device, and the
builder that puts operators into a graph.

A tensor on the device is a value of the graph read row by row in a shape of its own, so that Reshape, Flatten,
Squeeze and Unsqueeze cost nothing until somebody needs the elements elsewhere. Tensors of up to four axes have a
form as images, `image_shape`, in which the operators on channel blocks read them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ClconvError, ShapeError
from ..graph import Graph, Operand, Parameter, Value
from ..packing import Array
from ..shapes import TensorSpec
from .onnx_file import OnnxNode

Shape = tuple[int, ...]
FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_HOST_VALUES = 1 << 28  # elements that folding may make in all: 1 GiB of float32


class Unsupported(ClconvError):
    """A node that cannot be converted; the message says what about it."""


class NeedsConstant(Unsupported):
    """A node needs a number beforehand which depends on the model's inputs named in `roots`."""

    def __init__(self, message: str, roots: frozenset[str]) -> None:
        self.roots = roots
        super().__init__(message)


@dataclass(frozen=True)
class Host:
    """An array known when the graph is made. `static`: it depends on no input, not even on the inputs' shapes."""

    array: Array
    name: str
    static: bool

    @property
    def shape(self) -> Shape:
        """The array's shape."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's type."""
        return self.array.dtype

    @property
    def roots(self) -> frozenset[str]:
        """Inputs whose contents it depends on: none."""
        return frozenset()


@dataclass(frozen=True)
class Device:
    """A tensor that the device computes: `value` read row by row in `shape`.

    Attributes:
        dtype: what ONNX says that it is; stored are float32 (or int32). roots: inputs that it depends on.
    """

    value: Value
    shape: Shape
    dtype: np.dtype[Any]
    roots: frozenset[str]

    def viewed(self, shape: Shape) -> Device:
        """The same elements, row by row, in another shape."""
        assert math.prod(shape) == math.prod(self.shape), (self.shape, shape)
        return replace(self, shape=shape)

    @property
    def blocked(self) -> bool:
        """Whether it lies in channel blocks in its form as an image."""
        return self.value.spec.layout == "block" and self.value.spec.shape == image_shape(self.shape)


Tensor = Host | Device


def image_shape(shape: Shape) -> Shape:
    """The form of a tensor as images: (N, C) is (N, C, 1, 1), (N, C, L) is (N, C, 1, L); more axes join the last."""
    if len(shape) == 4:
        return shape
    if len(shape) < 2:
        return (1, *shape, *(1,) * (3 - len(shape)))
    if len(shape) <= 3:
        return (*shape[:2], 1, *shape[2:], *(1,) * (3 - len(shape)))
    return (*shape[:3], math.prod(shape[3:]))


@dataclass
class Op:
    """One node while it is converted: its tensors (None where left out) and attributes."""

    node: OnnxNode
    inputs: list[Tensor | None]
    opset: int

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        found = self.node.attributes.get(name)
        return default if found is None else found

    def one_of(self, name: str, *known: str) -> str:
        """An attribute that is one of these words; the first where it is left out.

        Raises:
            Unsupported: it is another.
        """
        found = str(self.get(name, known[0]))
        if found not in known:
            raise Unsupported(f"{name} {found!r} is unknown; {', '.join(known)} are supported")
        return found

    def x(self, i: int = 0) -> Tensor:
        """An input that must be there.

        Raises:
            Unsupported: it is left out.
        """
        found = self.optional(i)
        if found is None:
            raise Unsupported(f"input {i} is missing")
        return found

    def optional(self, i: int) -> Tensor | None:
        """An input, None where it is left out."""
        return self.inputs[i] if i < len(self.inputs) else None

    def host(self, i: int, what: str) -> Array:
        """An input as an array known beforehand.

        Raises:
            NeedsConstant: it is computed.
        """
        return known(self.x(i), what).array

    def number(self, i: int, what: str) -> float:
        """An input that is one number known beforehand.

        Raises:
            Unsupported: it is computed, or several numbers.
        """
        array = self.host(i, what)
        if array.size != 1:
            raise Unsupported(f"its {what} has the shape {array.shape}; one number is expected")
        return float(array.reshape(()))

    def ints(self, name: str, i: int | None = None) -> tuple[int, ...] | None:
        """Whole numbers from an attribute or, in newer opsets, from input `i`; None where neither is there."""
        if name in self.node.attributes:
            value = self.node.attributes[name]
            return tuple(value) if isinstance(value, tuple) else (int(value),)
        if i is None or self.optional(i) is None:
            return None
        return tuple(int(v) for v in np.atleast_1d(self.host(i, name)))


def known(tensor: Tensor, what: str) -> Host:
    """A tensor as an array known beforehand.

    Raises:
        NeedsConstant: the device computes it.
    """
    if isinstance(tensor, Host):
        return tensor
    raise NeedsConstant(f"its {what} is computed while the network runs, which is not supported", tensor.roots)


class Builder:
    """Puts operators into a graph.

    Attributes:
        train: which mode is built. users: how often each ONNX value is read. label: of the node at work.
        transposed: arrays whose two axes the network keeps exchanged: (units, values) for all that `fc` reads.
    """

    def __init__(self, *, train: bool, users: Mapping[str, int], transposed: frozenset[str]) -> None:
        self.graph = Graph()
        self.train = train
        self.users = users
        self.transposed = transposed
        self.label = ""
        self.index = 0
        self.folded = 0  # elements of arrays made on the host
        self.born: dict[Value, str] = {}  # the first ONNX name of each value
        self.origin: dict[Value, Op] = {}  # the node that made it
        self.last: dict[Value, Device] = {}  # row-major with channels last -> the same as images in channel blocks

    def add(self, layer: Any, *inputs: Operand) -> Value:
        """Adds an operator; returns its first output."""
        return self.graph.add(layer, inputs, self.label)[0]

    def made(self, value: Value, shape: Shape, *sources: Tensor | None, dtype: Any = None) -> Device:
        """The tensor that an operator made from `sources`; its type is theirs unless given."""
        tensors = [t for t in sources if t is not None]
        roots = frozenset[str]().union(*(t.roots for t in tensors))
        return Device(value, shape, np.dtype(dtype or tensors[0].dtype), roots)

    def fold(self, array: Any, *sources: Tensor | None) -> Host:
        """A tensor computed on the host from `sources`.

        Raises:
            Unsupported: it is too large.
        """
        result: Array = np.asarray(array)
        self.check_room(result.size)
        self.folded += result.size if result.base is None else 0
        return Host(result, "", all(isinstance(t, Host) and t.static for t in sources if t is not None))

    def check_room(self, size: int) -> None:
        """Raises Unsupported where an array of `size` elements is more than the host should hold."""
        if self.folded + size > MAX_HOST_VALUES:
            raise Unsupported(f"it makes an array of {size} elements; {MAX_HOST_VALUES} are allowed in all")

    def behind(self, tensor: Tensor) -> Device | None:
        """The images in channel blocks that a tensor (N, H, W, C) is, with its axes in another order; else None."""
        if not isinstance(tensor, Device) or tensor.shape != tensor.value.spec.shape:
            return None
        return self.last.get(tensor.value)

    # ---------------------------------------------------------------- operands

    def image(self, tensor: Tensor) -> Value:
        """A tensor as images (N, C, H, W), for operators on channel blocks."""
        wanted = image_shape(tensor.shape)
        if isinstance(tensor, Host):
            return self.constant(tensor, TensorSpec(wanted))
        _check_float(tensor)
        if tensor.value.spec.shape == wanted:
            return tensor.value
        if tensor.value.spec.layout == "block" and wanted[2:] == (1, 1):
            n, c, h, w = tensor.value.spec.shape
            if wanted[:2] == (n, c * h * w):
                from .._core.layout import Flatten

                return self.add(Flatten(), tensor.value)
        return self._reshaped(tensor.value, wanted)

    def plain(self, tensor: Tensor) -> Value:
        """A tensor row by row in its own shape; a single number has one axis."""
        wanted = tensor.shape or (1,)
        if isinstance(tensor, Host):
            return self.constant(tensor, TensorSpec(wanted, layout="plain"))
        return tensor.value if tensor.value.spec.shape == wanted else self._reshaped(tensor.value, wanted)

    def _reshaped(self, value: Value, shape: Shape) -> Value:
        from .._core.plain_move import Reshape

        return self.add(Reshape(shape), value)

    def constant(self, host: Host, spec: TensorSpec) -> Value:
        """An array that no training changes, as a persistent value of `spec.shape`."""
        return self._held(host, spec, Parameter(spec.shape))

    # ---------------------------------------------------------------- persistent values

    def param(self, host: Host, spec: TensorSpec, *, role: str = "param", swap: bool = False) -> Value:
        """The persistent value of an array that training may change, under the array's own name.

        An array that is read in a second form, or depends on the inputs' shapes, is copied and stays as it is.
        """
        public = host.shape
        if spec.shape == (1, host.array.size, 1, 1):
            public = (host.array.size,)  # one number per channel, whatever axes the file gives it
        if host.array.size != spec.values:
            raise ShapeError(f"an array of shape {host.shape} where {spec.values} numbers are expected")
        if swap and len(public) != 4:
            k, c, r, s = spec.shape
            public = (c * spec.groups, k // spec.groups, r, s)
        parameter = Parameter(public, "weight" if len(public) > 1 else "zeros", swap=swap)
        if not host.static or not host.name:
            return self._held(host, spec, parameter)
        found = self.graph.persistent.get(host.name)
        if found is None:
            return self.graph.persist(host.name, spec, role, parameter)
        if found.spec == spec and found.parameter is not None and found.parameter.swap == swap:
            return found
        return self._copy(host, spec, parameter)

    def _copy(self, host: Host, spec: TensorSpec, parameter: Parameter) -> Value:
        """A second form of a parameter, which follows it at test time."""
        if self.train:
            raise Unsupported(f"{host.name!r} is read in two forms, so that it cannot be trained")
        name = host.name
        follow = replace(parameter, derive=lambda arrays: np.asarray(arrays[name], np.float32))
        return self._persist(f"{name}/{spec}/{spec.layout}/{spec.groups}", spec, follow)

    def channels(self, array: Array) -> Value:
        """One number per channel that no training changes, as (1, C, 1, 1)."""
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        return self._held(Host(flat, "", False), TensorSpec((1, flat.size, 1, 1)), Parameter(flat.shape))

    def _held(self, host: Host, spec: TensorSpec, parameter: Parameter) -> Value:
        """An array as it is now, whose public shape is that of `parameter`; made once for each array and form."""
        array = np.asarray(host.array, np.float32).reshape(parameter.public_shape)
        if host.static and host.name:
            key = host.name
        else:
            key = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:24]
        name = f"constant/{key}/{spec}/{spec.layout}/{spec.groups}{'/swapped' if parameter.swap else ''}"
        return self._persist(name, spec, replace(parameter, derive=lambda _: array))

    def _persist(self, name: str, spec: TensorSpec, parameter: Parameter) -> Value:
        if name in self.graph.persistent:
            return self.graph.persistent[name]
        return self.graph.persist(name, spec, "state", parameter)


def _check_float(tensor: Device) -> None:
    if tensor.value.spec.dtype != "float32":
        raise Unsupported(f"computing with {tensor.dtype} on the device is not supported")
