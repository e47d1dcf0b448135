"""ONNX operators that only say how a tensor is read: shapes, constants, casts; most cost nothing on the device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..packing import Array
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Shape, Tensor, Unsupported


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the start.

    Raises:
        Unsupported: there is no such axis.
    """
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise Unsupported(f"axis {axis} of a tensor with {rank} axes")
    return axis % max(rank, 1)


def reread(b: Builder, x: Tensor, shape: Shape) -> Tensor:
    """The same elements, row by row, in another shape."""
    if math.prod(shape) != math.prod(x.shape):
        raise Unsupported(f"{x.shape} has not as many elements as {shape}")
    return b.fold(x.array.reshape(shape), x) if isinstance(x, Host) else x.viewed(shape)


@operator("Reshape")
def reshape(b: Builder, n: Op) -> Tensor:
    """0 keeps an extent, -1 is what is left."""
    x, wanted = n.x(), list(n.ints("shape", 1) or ())
    for i, extent in enumerate(wanted):
        if extent == 0 and not n.get("allowzero"):
            if i >= len(x.shape):
                raise Unsupported(f"extent {i} of {tuple(wanted)} is to be kept, but the input is {x.shape}")
            wanted[i] = x.shape[i]
    if wanted.count(-1) > 1 or any(extent < -1 for extent in wanted):
        raise Unsupported(f"the shape {tuple(wanted)} has more than one unknown extent")
    if -1 in wanted:
        rest = -math.prod(wanted)
        if rest == 0 or math.prod(x.shape) % rest:
            raise Unsupported(f"{x.shape} cannot be read as {tuple(wanted)}")
        wanted[wanted.index(-1)] = math.prod(x.shape) // rest
    return reread(b, x, tuple(wanted))


@operator("Flatten")
def flatten(b: Builder, n: Op) -> Tensor:
    """A matrix: the axes before `axis`, and the others."""
    x = n.x()
    axis = int(n.get("axis", 1))
    axis = axis if axis == len(x.shape) else axis_of(axis, len(x.shape))
    return reread(b, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(b: Builder, n: Op) -> Tensor:
    """Drops axes of extent 1."""
    x, axes = n.x(), n.ints("axes", 1)
    rank = len(x.shape)
    gone = {i for i, extent in enumerate(x.shape) if extent == 1} if axes is None else {axis_of(a, rank) for a in axes}
    return reread(b, x, tuple(extent for i, extent in enumerate(x.shape) if i not in gone))


@operator("Unsqueeze")
def unsqueeze(b: Builder, n: Op) -> Tensor:
    """Adds axes of extent 1."""
    x, axes = n.x(), n.ints("axes", 1) or ()
    rank = len(x.shape) + len(axes)
    new, old = {axis_of(a, rank) for a in axes}, iter(x.shape)
    if len(new) < len(axes):
        raise Unsupported(f"axes {axes} name one twice")
    return reread(b, x, tuple(1 if i in new else next(old) for i in range(rank)))


@operator("Identity")
def identity(b: Builder, n: Op) -> Tensor:
    """The input."""
    return n.x()


@operator("Shape")
def shape_of(b: Builder, n: Op) -> Tensor:
    """The extents, or some of them. They are static where the tensor itself is."""
    x = n.x()
    return b.fold(np.array(x.shape[slice(n.get("start"), n.get("end"))], np.int64), x)


@operator("Size")
def size_of(b: Builder, n: Op) -> Tensor:
    """How many elements there are."""
    return b.fold(np.array(math.prod(n.x().shape), np.int64), n.x())


@operator("Constant")
def constant(b: Builder, n: Op) -> Tensor:
    """A tensor, a number or numbers in the file."""
    for name, dtype in (("value", None), ("value_float", np.float32), ("value_floats", np.float32),
                        ("value_int", np.int64), ("value_ints", np.int64)):  # fmt: skip
        if n.get(name) is not None:
            return b.fold(np.asarray(n.get(name), dtype))
    raise Unsupported("a constant of strings or sparse is not supported")


@operator("ConstantOfShape")
def constant_of_shape(b: Builder, n: Op) -> Tensor:
    """One number everywhere."""
    shape = n.ints("shape", 0) or ()
    value = n.get("value")
    if min(shape, default=0) < 0:
        raise Unsupported(f"a constant of shape {shape}")
    b.check_room(math.prod(shape))
    number: Array = np.zeros(1, np.float32) if value is None else np.asarray(value).reshape(1)
    return b.fold(np.broadcast_to(number.reshape(()), shape), n.x())


@operator("Range")
def arrange(b: Builder, n: Op) -> Tensor:
    """start, start + step, ... up to the limit."""
    start, limit, step = (n.host(i, name) for i, name in enumerate(("start", "limit", "delta")))
    if step == 0:
        raise Unsupported("a range with steps of 0")
    b.check_room(max(0, int((limit - start) / step)))
    return b.fold(np.arange(start.item(), limit.item(), step.item(), dtype=start.dtype), *n.inputs)


@operator("Cast")
def cast(b: Builder, n: Op) -> Tensor:
    """Another type; between floating-point types, the device computes in float32 all the same."""
    from .onnx_file import onnx_package

    to = int(n.get("to"))
    try:
        dtype = np.dtype(onnx_package().helper.tensor_dtype_to_np_dtype(to))
    except (KeyError, TypeError, ValueError) as error:
        raise Unsupported(f"casting to data type {to} is not supported") from error
    return cast_to(b, n.x(), dtype)


def cast_to(b: Builder, x: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """A tensor as another type."""
    if isinstance(x, Host):
        return b.fold(x.array.astype(dtype), x)
    if not (is_float(x.dtype) and is_float(dtype)) and x.dtype != dtype:
        raise Unsupported(f"casting {x.dtype} to {dtype} on the device is not supported")
    return Device(x.value, x.shape, dtype, x.roots)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether float32 stands for it on the device: float16, bfloat16, float32, float64."""
    return dtype.name in ("float16", "bfloat16", "float32", "float64")
