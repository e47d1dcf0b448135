"""ONNX activations and arithmetic: in channel blocks where an image goes through, else row by row."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from .._core import elementwise
from .._core.activation import Activation
from .._core.layer import ACTIVATIONS
from .._core.norm_batch import BatchNormInfer
from ..packing import Array
from ..shapes import TensorSpec
from .onnx_match import centred_of, gate_of, gelu_of, local_response
from .onnx_move import FROM_LAST, channels_last
from .onnx_shape import reread
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Shape, Tensor, Unsupported

# ONNX name -> activation that the operators on channel blocks apply.
BLOCK_ACTIVATIONS = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}


def activation(b: Builder, x: Tensor, name: str, slope: float = 0.0) -> Tensor:
    """An activation that convolutions can apply in their epilogue; tensors that are no images go row by row."""
    if isinstance(x, Device) and (x.value.spec.layout == "block" or len(x.value.spec.shape) == 4):
        return b.made(b.add(Activation(name, slope), x.value), x.shape, x)
    return b.made(b.add(Activation(name, slope), b.image(x)), x.shape, x)


def unary(b: Builder, x: Tensor, name: str, first: float = 0.0, second: float = 0.0) -> Tensor:
    """y = f(x; first, second) element by element."""
    if (image := b.behind(x)) is not None:
        return channels_last(b, unary(b, image, name, first, second))
    if isinstance(x, Device) and x.value.spec.layout == "block":
        from .._core.blockwise import UnaryBlocks

        return b.made(b.add(UnaryBlocks(name, first, second), x.value), x.shape, x)
    from .._core.plain_elementwise import Unary

    if isinstance(x, Device) and x.value.spec.layout == "plain":
        return b.made(b.add(Unary(name, first, second), x.value), x.shape, x)
    return b.made(b.add(Unary(name, first, second), b.plain(x)), x.shape, x)


def gated(b: Builder, x: Tensor, name: str) -> Tensor:
    """x times a gate: SiLU and hard swish in a convolution's epilogue where nothing asks for their gradient."""
    if (image := b.behind(x)) is not None:
        return channels_last(b, gated(b, image, name))
    if b.train or name not in ACTIVATIONS or not isinstance(x, Device) or x.value.spec.layout != "block":
        return unary(b, x, name, 1.0)
    return activation(b, x, name)


@operator("Relu", "Sigmoid", "Tanh")
def block_activation(b: Builder, n: Op) -> Tensor:
    """Relu, Sigmoid, Tanh."""
    x = n.x()
    if isinstance(x, Host) and n.node.op == "Relu":
        return b.fold(np.maximum(x.array, 0), x)
    return activation(b, x, BLOCK_ACTIVATIONS[n.node.op])


@operator("LeakyRelu")
def leaky_relu(b: Builder, n: Op) -> Tensor:
    """x where x >= 0, else alpha x."""
    return activation(b, n.x(), "leaky_relu", float(n.get("alpha", 0.01)))


@operator("Clip")
def clip(b: Builder, n: Op) -> Tensor:
    """x between two bounds, either of which may be missing."""
    x, bounds = n.x(), [-np.inf, np.inf]
    for i, name in enumerate(("min", "max")):
        given = n.optional(i + 1)
        if given is not None:
            bounds[i] = n.number(i + 1, name)
        elif n.get(name) is not None:
            bounds[i] = float(n.get(name))
    if isinstance(x, Host):
        kept = x.array if np.isinf(bounds[0]) else np.maximum(x.array, x.dtype.type(bounds[0]))
        return b.fold(kept if np.isinf(bounds[1]) else np.minimum(kept, x.dtype.type(bounds[1])), x)
    if bounds == [0.0, 6.0]:
        return activation(b, x, "relu6")
    if bounds[0] == 0 and bounds[1] > np.finfo(np.float32).max:
        return activation(b, x, "relu")
    return unary(b, x, "clip", *bounds)


# ONNX name -> name of the operator and its two numbers: attribute names with defaults, or numbers.
Number = float | tuple[str, float]
UNARY: dict[str, tuple[str, Number, Number]] = {
    "Elu": ("elu", ("alpha", 1.0), 0.0),
    "Selu": ("selu", ("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
    "Celu": ("celu", ("alpha", 1.0), 0.0),
    "ThresholdedRelu": ("thresholded_relu", ("alpha", 1.0), 0.0),
    "HardSigmoid": ("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "Softplus": ("softplus", 0.0, 0.0),
    "Softsign": ("softsign", 0.0, 0.0),
    "Mish": ("mish", 0.0, 0.0),
    "Abs": ("abs", 0.0, 0.0),
    "Neg": ("neg", 0.0, 0.0),
    "Sqrt": ("sqrt", 0.0, 0.0),
    "Exp": ("exp", 0.0, 0.0),
    "Log": ("log", 0.0, 0.0),
    "Reciprocal": ("reciprocal", 0.0, 0.0),
    "Floor": ("floor", 0.0, 0.0),
    "Ceil": ("ceil", 0.0, 0.0),
    "Round": ("round", 0.0, 0.0),
    "Sign": ("sign", 0.0, 0.0),
    "Erf": ("erf", 0.0, 0.0),
}

HOST_UNARY: dict[str, Callable[[Array], Any]] = {
    "Abs": np.abs,
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.rint,
    "Sign": np.sign,
    "Reciprocal": np.reciprocal,
    "Not": np.logical_not,
}


@operator(*UNARY)
def unary_operator(b: Builder, n: Op) -> Tensor:
    """The functions of one value in `UNARY`."""
    x = n.x()
    if isinstance(x, Host) and n.node.op in HOST_UNARY:
        return b.fold(HOST_UNARY[n.node.op](x.array).astype(x.dtype, copy=False), x)
    name, *numbers = UNARY[n.node.op]
    first, second = (float(n.get(*v)) if isinstance(v, tuple) else v for v in numbers)
    return unary(b, x, name, first, second)


@operator("HardSwish")
def hard_swish(b: Builder, n: Op) -> Tensor:
    """x times x/6 + 1/2 clipped to 0..1."""
    return gated(b, n.x(), "hard_swish")


@operator("Not")
def logical_not(b: Builder, n: Op) -> Tensor:
    """The opposite."""
    x = n.x()
    return b.fold(np.logical_not(x.array), x) if isinstance(x, Host) else unary(b, x, "affine", -1.0, 1.0)


# -------------------------------------------------------------------- two operands and more


def _host_div(a: Array, w: Array) -> Array:
    """Whole numbers are divided towards zero, as ONNX wants it."""
    if a.dtype.kind == "f":
        quotient: Array = a / w
        return quotient
    q, rest = np.divmod(a, w)
    return np.asarray(q + ((rest != 0) & (q < 0)), a.dtype)


def _host_pow(a: Array, w: Array) -> Array:
    return np.asarray(np.power(a.astype(np.result_type(a, w)), w)).astype(a.dtype)


def _host_mod(a: Array, w: Array) -> Array:
    return np.asarray(np.mod(a, w))


# ONNX name -> function on the host, name of the operator on the device ("" where there is none).
BINARY: dict[str, tuple[Callable[[Array, Array], Any], str]] = {
    "Add": (np.add, "add"),
    "Sub": (np.subtract, "sub"),
    "Mul": (np.multiply, "mul"),
    "Div": (_host_div, "div"),
    "Pow": (_host_pow, "pow"),
    "Mod": (_host_mod, ""),
    "Equal": (np.equal, "equal"),
    "Greater": (np.greater, "greater"),
    "GreaterOrEqual": (np.greater_equal, "greater_equal"),
    "Less": (np.less, "greater"),
    "LessOrEqual": (np.less_equal, "greater_equal"),
    "And": (np.logical_and, "mul"),
    "Or": (np.logical_or, "max"),
    "Xor": (np.logical_xor, ""),
}
MIRRORED = ("Less", "LessOrEqual")  # a < w is w > a
COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor")


@operator(*BINARY)
def binary_operator(b: Builder, n: Op) -> Tensor:
    """Arithmetic of two tensors, broadcast against each other."""
    a, w = n.x(0), n.x(1)
    if n.get("broadcast") and n.get("axis") is not None:  # before opset 7: where the axes of w begin
        w = reread(b, w, (*w.shape, *(1,) * (len(a.shape) - int(n.get("axis")) - len(w.shape))))
    if n.node.op == "Add":
        for x, known, name in ((a, w, n.node.inputs[0]), (w, a, n.node.inputs[1])):
            if isinstance(x, Device) and isinstance(known, Host) and _becomes_bias(b, x, known, name):
                return x
    found = composed(b, n)
    if found is not None:
        return found
    return combine(b, n.node.op, a, w)


def composed(b: Builder, n: Op) -> Tensor | None:
    """The one operator that a composition which ends in this node is; None where it ends none."""
    a, w = n.x(0), n.x(1)
    if n.node.op == "Div":
        return local_response(b, a, w) or _normed_by_channels(b, n) or _gated_by(b, n)
    if n.node.op != "Mul":
        return None
    inner = gelu_of(b, n)
    return unary(b, inner, "gelu") if inner is not None else _gated_by(b, n)


def _normed_by_channels(b: Builder, n: Op) -> Tensor | None:
    found = centred_of(b, n)
    if found is None:
        return None
    x, axes, eps = found
    return channel_norm(b, x, axes[0], eps) if len(axes) == 1 else None


def channel_norm(
    b: Builder, x: Tensor, axis: int, eps: float, weight: Tensor | None = None, shift: Tensor | None = None
) -> Tensor | None:
    """(x - mean) / deviation over the channels of each pixel, where the images lie in channel blocks."""
    image = b.behind(x) if axis == len(x.shape) - 1 else x if axis == 1 else None
    if not isinstance(image, Device) or not image.blocked or not 3 <= len(image.shape) <= 4 or b.train:
        return None
    from .._core.norm_group import ChannelNorm

    c = image.shape[1]
    numbers = [weight or b.fold(np.ones(c, np.float32)), shift or b.fold(np.zeros(c, np.float32))]
    if any(not isinstance(t, Host) or t.array.size != c for t in numbers):
        return None
    own = [b.param(t, TensorSpec((1, c, 1, 1))) for t in numbers if isinstance(t, Host)]
    y = b.made(b.add(ChannelNorm(eps), b.image(image), *own), image.shape, image)
    return y if image is x else channels_last(b, y)


def _gated_by(b: Builder, n: Op) -> Tensor | None:
    found = gate_of(b, n)
    return None if found is None else gated(b, *found)


def _becomes_bias(b: Builder, x: Device, number: Host, name: str) -> bool:
    """Gives the layer that makes `x` a bias, where it has none and nobody else reads `x`; says whether it did."""
    node = x.value.producer
    if b.users.get(name) != 1 or b.born.get(x.value) != name:
        return False
    if node is None or node.layer.inputs != ("x", "w", "b"):
        return False
    channels = x.value.spec.shape[1]
    fits = x.blocked and number.static and number.array.size == channels and _aligned(x, number) is not None
    if not fits or node.inputs[2] is not None or node.layer.activation != "none":
        return False
    node.inputs = (*node.inputs[:2], b.param(number, TensorSpec((1, channels, 1, 1))))
    return True


def _aligned(x: Device, number: Host) -> Shape | None:
    """The shape of one number per channel of `x`, or of one for all, with as many axes as `x`; None if it is not."""
    aligned = (1,) * (len(x.shape) - len(number.shape)) + number.shape
    fits = len(aligned) == len(x.shape) > 1 and number.array.size in (1, aligned[1])
    return aligned if fits and aligned[1] in (1, x.shape[1]) else None


def combine(b: Builder, op: str, a: Tensor, w: Tensor) -> Tensor:
    """a op w; see `BINARY`."""
    compute, name = BINARY[op]
    if isinstance(a, Host) and isinstance(w, Host):
        return b.fold(compute(a.array, w.array), a, w)
    images = [_turned(b, t, max(len(a.shape), len(w.shape))) for t in (a, w)]
    if any(b.behind(t) is not None for t in (a, w)) and images[0] is not None and images[1] is not None:
        return channels_last(b, combine(b, op, images[0], images[1]))
    if op in ("Add", "Sub", "Mul", "Div"):
        found = _per_channel(b, op, a, w)
        if found is not None:
            return found
    both = isinstance(a, Device) and isinstance(w, Device) and a.shape == w.shape
    if op == "Add" and both and (a.blocked or w.blocked):  # type: ignore[union-attr]
        return b.made(b.add(elementwise.Add(2), b.image(a), b.image(w)), a.shape, a, w)
    if not name:
        raise Unsupported(f"{op} of values that are computed while the network runs is not supported")
    first, second = (w, a) if op in MIRRORED else (a, w)
    return of_two(b, name, first, second, np.bool_ if op in COMPARISONS else None)


def _turned(b: Builder, x: Tensor, rank: int) -> Tensor | None:
    """An operand (N, H, W, C), or what is broadcast to that, as (N, C, H, W), if it is known or lies so already."""
    if isinstance(x, Host) and rank == 4:
        array = x.array.reshape((1,) * (4 - len(x.shape)) + x.shape).transpose(FROM_LAST)
        return b.fold(array, x)
    return b.behind(x)


def of_two(b: Builder, name: str, a: Tensor, w: Tensor, dtype: Any = None) -> Tensor:
    """f(a, w) element by element, broadcast: in channel blocks where an operand of the full shape lies there."""
    shape = np.broadcast_shapes(a.shape, w.shape)
    whole = any(isinstance(t, Device) and t.blocked and t.shape == shape for t in (a, w))
    if whole and 2 <= len(shape) <= 4:
        from .._core.blockwise import BinaryBlocks

        operands = [b.image(reread(b, t, (1,) * (len(shape) - len(t.shape)) + t.shape)) for t in (a, w)]
        return b.made(b.add(BinaryBlocks(name), *operands), shape, a, w, dtype=dtype)
    from .._core.plain_elementwise import Binary

    return b.made(b.add(Binary(name), b.plain(a), b.plain(w)), shape, a, w, dtype=dtype)


def _per_channel(b: Builder, op: str, a: Tensor, w: Tensor) -> Tensor | None:
    """Arithmetic of an image in channel blocks with one known number per channel, or one for all, if it is that."""
    x, known = (a, w) if isinstance(a, Device) else (w, a)
    if b.train or not (isinstance(x, Device) and isinstance(known, Host)) or not x.blocked or known.dtype.kind != "f":
        return None
    if _aligned(x, known) is None:
        return None
    number = known.array.astype(np.float32)
    if op == "Add":
        return scale_shift(b, x, 1, number)
    if op == "Mul":
        return scale_shift(b, x, number, 0)
    if op == "Sub":
        return scale_shift(b, x, 1, -number) if x is a else scale_shift(b, x, -1, number)
    return scale_shift(b, x, 1 / number, 0) if x is a else None


def scale_shift(b: Builder, x: Device, scale: object, shift: object) -> Tensor:
    """x * scale + shift with one number per channel, or one for all: a normalisation of mean 0, variance 0 and eps 1.

    With variance 1 and eps 0 the factor would be infinite in channel tails, which hold zeros.
    """
    value = b.image(x)
    c = value.spec.shape[1]
    factors = [b.channels(np.broadcast_to(np.asarray(v, np.float32).reshape(-1), (c,))) for v in (scale, shift)]
    zeros = b.channels(np.zeros(c, np.float32))
    y = b.add(BatchNormInfer(1.0), value, *factors, zeros, zeros)
    return b.made(y, x.shape, x)


@operator("Sum", "Max", "Min", "Mean")
def several(b: Builder, n: Op) -> Tensor:
    """Any number of tensors, broadcast against each other."""
    tensors = [n.x(i) for i in range(max(1, len(n.inputs)))]
    op = {"Sum": "Add", "Mean": "Add"}.get(n.node.op, n.node.op)
    if all(isinstance(t, Device) and t.shape == tensors[0].shape and t.blocked for t in tensors) and op == "Add":
        y = b.add(elementwise.Add(len(tensors)), *(b.image(t) for t in tensors)) if len(tensors) > 1 else None
        total: Tensor = tensors[0] if y is None else b.made(y, tensors[0].shape, *tensors)
    elif op == "Add":
        total = reduce(lambda a, w: combine(b, "Add", a, w), tensors)
    else:
        total = reduce(lambda a, w: extreme(b, op, a, w), tensors)
    if n.node.op != "Mean" or len(tensors) == 1:
        return total
    return combine(b, "Mul", total, b.fold(np.asarray(1 / len(tensors), total.dtype)))


def extreme(b: Builder, op: str, a: Tensor, w: Tensor) -> Tensor:
    """The larger ("Max") or smaller ("Min") of two."""
    if isinstance(a, Host) and isinstance(w, Host):
        return b.fold((np.maximum if op == "Max" else np.minimum)(a.array, w.array), a, w)
    return of_two(b, op.lower(), a, w)


@operator("PRelu")
def prelu(b: Builder, n: Op) -> Tensor:
    """x where x >= 0, else slope x; the slope is broadcast."""
    x, slope = n.x(0), n.x(1)
    if n.opset < 7 and len(slope.shape) == 1 and slope.shape != (1,):  # one number per channel
        slope = reread(b, slope, (*slope.shape, *(1,) * (len(x.shape) - 2)))
    if isinstance(slope, Host) and slope.array.size == 1 and len(slope.shape) <= len(x.shape) and not b.train:
        return activation(b, x, "leaky_relu", float(slope.array.reshape(())))
    return of_two(b, "prelu", x, slope)


@operator("Where")
def where(b: Builder, n: Op) -> Tensor:
    """x where the condition holds, else y."""
    condition, x, y = n.x(0), n.x(1), n.x(2)
    if isinstance(condition, Host) and isinstance(x, Host) and isinstance(y, Host):
        return b.fold(np.where(condition.array, x.array, y.array), condition, x, y)
    if isinstance(condition, Host):
        holds: Tensor = b.fold(condition.array.astype(np.float32), condition)
        fails: Tensor = b.fold(1 - condition.array.astype(np.float32), condition)
    else:
        holds, fails = condition, unary(b, condition, "affine", -1.0, 1.0)
    dtype = x.dtype
    return of_two(b, "add", of_two(b, "keep", x, holds, dtype), of_two(b, "keep", y, fails, dtype), dtype)
