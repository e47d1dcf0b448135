"""Operators on row-major tensors of any rank, in NumPy float64: what clconv/_core/plain_*.pyx must compute.

Each function is the definition of the operator of the same name; gradients are given where the operator has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .layer import Array

_erf = np.vectorize(math.erf, otypes=[np.float64])

SELU_ALPHA, SELU_GAMMA = 1.67326319217681884765625, 1.05070102214813232421875  # ONNX's defaults


def _sigmoid(x: Array) -> Array:
    below = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, below) / (1 + below)
    return y


def _elu(x: Array, a: float) -> Array:
    y: Array = np.where(x < 0, a * np.expm1(np.minimum(x, 0)), x)
    return y


def _mish_slope(x: Array) -> Array:
    t = np.tanh(np.logaddexp(0, x))
    y: Array = t + x * (1 - t * t) * _sigmoid(x)
    return y


def _normal(x: Array) -> Array:
    """The normal distribution function."""
    y: Array = (1 + _erf(x / math.sqrt(2))) / 2
    return y


_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_slope(x: Array) -> Array:
    t = np.tanh(_GELU_SCALE * (x + _GELU_CUBE * x**3))
    y: Array = (1 + t + x * (1 - t * t) * _GELU_SCALE * (1 + 3 * _GELU_CUBE * x * x)) / 2
    return y


_UnaryFormula = Callable[[Array, float, float], Any]

UNARY: dict[str, _UnaryFormula] = {
    "identity": lambda x, a, b: x,
    "affine": lambda x, a, b: a * x + b,
    "relu": lambda x, a, b: np.maximum(x, 0),
    "leaky_relu": lambda x, a, b: np.where(x < 0, a * x, x),
    "elu": lambda x, a, b: _elu(x, a),
    "selu": lambda x, a, b: b * _elu(x, a),
    "celu": lambda x, a, b: np.where(x < 0, a * np.expm1(np.minimum(x, 0) / a), x),
    "thresholded_relu": lambda x, a, b: np.where(x > a, x, 0),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "hard_sigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "hard_swish": lambda x, a, b: x * np.clip(x / 6 + 0.5, 0, 1),
    "tanh": lambda x, a, b: np.tanh(x),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "mish": lambda x, a, b: x * np.tanh(np.logaddexp(0, x)),
    "clip": lambda x, a, b: np.clip(x, a, b),
    "abs": lambda x, a, b: np.abs(x),
    "neg": lambda x, a, b: -x,
    "sqrt": lambda x, a, b: np.sqrt(x),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: np.log(x),
    "reciprocal": lambda x, a, b: 1 / x,
    "floor": lambda x, a, b: np.floor(x),
    "ceil": lambda x, a, b: np.ceil(x),
    "round": lambda x, a, b: np.rint(x),
    "sign": lambda x, a, b: np.sign(x),
    "erf": lambda x, a, b: _erf(x),
    "silu": lambda x, a, b: x * _sigmoid(a * x),
    "gelu": lambda x, a, b: x * _normal(x),
    "gelu_tanh": lambda x, a, b: x * (1 + np.tanh(_GELU_SCALE * (x + _GELU_CUBE * x**3))) / 2,
}

UNARY_SLOPE: dict[str, _UnaryFormula] = {
    "identity": lambda x, a, b: np.ones_like(x),
    "affine": lambda x, a, b: np.full_like(x, a),
    "relu": lambda x, a, b: np.where(x > 0, 1, 0),
    "leaky_relu": lambda x, a, b: np.where(x > 0, 1, a),
    "elu": lambda x, a, b: np.where(x < 0, a * np.exp(x), 1),
    "selu": lambda x, a, b: b * np.where(x < 0, a * np.exp(x), 1),
    "celu": lambda x, a, b: np.where(x < 0, np.exp(x / a), 1),
    "thresholded_relu": lambda x, a, b: np.where(x > a, 1, 0),
    "sigmoid": lambda x, a, b: _sigmoid(x) * _sigmoid(-x),
    "hard_sigmoid": lambda x, a, b: np.where((a * x + b > 0) & (a * x + b < 1), a, 0),
    "hard_swish": lambda x, a, b: np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5)),
    "tanh": lambda x, a, b: 1 - np.tanh(x) ** 2,
    "softplus": lambda x, a, b: _sigmoid(x),
    "softsign": lambda x, a, b: 1 / (1 + np.abs(x)) ** 2,
    "mish": lambda x, a, b: _mish_slope(x),
    "clip": lambda x, a, b: np.where((x >= a) & (x <= b), 1, 0),
    "abs": lambda x, a, b: np.sign(x),
    "neg": lambda x, a, b: -np.ones_like(x),
    "sqrt": lambda x, a, b: 0.5 / np.sqrt(x),
    "exp": lambda x, a, b: np.exp(x),
    "log": lambda x, a, b: 1 / x,
    "reciprocal": lambda x, a, b: -1 / x**2,
    "floor": lambda x, a, b: np.zeros_like(x),
    "ceil": lambda x, a, b: np.zeros_like(x),
    "round": lambda x, a, b: np.zeros_like(x),
    "sign": lambda x, a, b: np.zeros_like(x),
    "erf": lambda x, a, b: 2 / math.sqrt(math.pi) * np.exp(-x * x),
    "silu": lambda x, a, b: _sigmoid(a * x) * (1 + a * x * _sigmoid(-a * x)),
    "gelu": lambda x, a, b: _normal(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi),
    "gelu_tanh": lambda x, a, b: _gelu_tanh_slope(x),
}

_BinaryFormula = Callable[[Array, Array], Any]

BINARY: dict[str, _BinaryFormula] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "prelu": lambda a, b: np.where(a < 0, a * b, a),
    "greater": lambda a, b: (a > b).astype(np.float64),
    "greater_equal": lambda a, b: (a >= b).astype(np.float64),
    "prelu_slope": lambda a, b: np.where(a < 0, b, 1),
    "equal": lambda a, b: (a == b).astype(np.float64),
    "keep": lambda a, b: np.where(b != 0, a, 0),
}

# Slopes along a and along b; of equals, min and max send the gradient to a.
BINARY_SLOPES: dict[str, tuple[_BinaryFormula, _BinaryFormula]] = {
    "add": (lambda a, b: 1, lambda a, b: 1),
    "sub": (lambda a, b: 1, lambda a, b: -1),
    "mul": (lambda a, b: b, lambda a, b: a),
    "div": (lambda a, b: 1 / b, lambda a, b: -a / b**2),
    "pow": (lambda a, b: b * a ** (b - 1), lambda a, b: a**b * np.log(a)),
    "min": (lambda a, b: a <= b, lambda a, b: b < a),
    "max": (lambda a, b: a >= b, lambda a, b: b > a),
    "prelu": (lambda a, b: np.where(a < 0, b, 1), lambda a, b: np.minimum(a, 0)),
    "keep": (lambda a, b: b != 0, lambda a, b: 0),
}


def binary_gradient(op: str, a: Array, b: Array, dy: Array) -> tuple[Array, Array]:
    """Gradients of a binary operation, summed over the axes along which an operand was broadcast."""
    to_a, to_b = BINARY_SLOPES[op]
    return sum_to(dy * to_a(a, b), a.shape), sum_to(dy * to_b(a, b), b.shape)


def sum_to(array: Array, shape: Sequence[int]) -> Array:
    """The sum of `array` over the axes along which `shape` is broadcast to it."""
    padded = (1,) * (array.ndim - len(shape)) + tuple(shape)
    axes = tuple(i for i, (n, m) in enumerate(zip(array.shape, padded, strict=True)) if n != m)
    summed: Array = array.sum(axis=axes, keepdims=True).reshape(tuple(shape))
    return summed


def reduce(op: str, x: Array, axes: Sequence[int] | None, keepdims: bool) -> Array:
    """sum, mean, max, min, prod, l1, l2, sumsq or log_sum of x over `axes` (None: all)."""
    axis = None if axes is None else tuple(axes)
    if op in ("sum", "mean", "max", "min", "prod"):
        return np.asarray(getattr(np, op)(x, axis=axis, keepdims=keepdims))
    terms = {"l1": np.abs(x), "l2": x * x, "sumsq": x * x, "log_sum": x}[op]
    total = np.asarray(terms.sum(axis=axis, keepdims=keepdims))
    return np.sqrt(total) if op == "l2" else np.log(total) if op == "log_sum" else total


def argmax(x: Array, axis: int, keepdims: bool, last: bool, least: bool) -> Array:
    """The index of the largest (`least`: smallest) value along an axis; of equals the first, or the `last`."""
    signed = -x if least else x
    if last:
        found = x.shape[axis] - 1 - np.argmax(np.flip(signed, axis), axis)
    else:
        found = np.argmax(signed, axis)
    return np.asarray(np.expand_dims(found, axis) if keepdims else found)


def softmax(x: Array, axes_from: int, axes_to: int, log: bool) -> Array:
    """exp(x) / sum of exp(x) over axes axes_from .. axes_to - 1 together, or its logarithm."""
    axes = tuple(range(axes_from, axes_to))
    centred = x - x.max(axis=axes, keepdims=True)
    offset = np.log(np.exp(centred).sum(axis=axes, keepdims=True))
    y: Array = centred - offset if log else np.exp(centred - offset)
    return y


def softmax_gradient(y: Array, dy: Array, axes_from: int, axes_to: int, log: bool) -> Array:
    """The gradient of `softmax` from its output."""
    axes = tuple(range(axes_from, axes_to))
    if log:
        return np.asarray(dy - np.exp(y) * dy.sum(axis=axes, keepdims=True))
    return np.asarray(y * (dy - (y * dy).sum(axis=axes, keepdims=True)))


def instance_norm(x: Array, scale: Array, bias: Array, eps: float) -> Array:
    """scale (x - mean) / sqrt(var + eps) + bias over the pixels of each image's channel; x (N, C, ...)."""
    axes = tuple(range(2, x.ndim))
    shape = (1, -1, *(1 for _ in axes))
    centred = x - x.mean(axis=axes, keepdims=True)
    var = (centred**2).mean(axis=axes, keepdims=True)
    return np.asarray(scale.reshape(shape) * centred / np.sqrt(var + eps) + bias.reshape(shape))


def slice_(x: Array, starts: Sequence[int], steps: Sequence[int], shape: Sequence[int]) -> Array:
    """y[i] = x[starts + i steps]."""
    taken = [first + step * np.arange(n) for first, step, n in zip(starts, steps, shape, strict=True)]
    return np.asarray(x[np.ix_(*taken)] if taken else x)


def pad(x: Array, before: Sequence[int], after: Sequence[int], mode: str, value: float) -> Array:
    """x with elements added along each axis, or taken away where negative."""
    source: Array = np.ones(x.shape, bool)
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        index = np.arange(-b, x.shape[axis] + a)
        n = x.shape[axis]
        inside = (index >= 0) & (index < n)
        mapped = {
            "constant": np.clip(index, 0, n - 1),
            "edge": np.clip(index, 0, n - 1),
            "reflect": np.where(index < 0, -index, np.where(index >= n, 2 * (n - 1) - index, index)),
            "wrap": index % n,
        }[mode]
        x, source = np.take(x, mapped, axis), np.take(source, mapped, axis)
        if mode == "constant":
            source = source & inside.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return np.where(source, x, value)


def space_to_depth(x: Array, block: int) -> Array:
    """(N, C, H, W) -> (N, block^2 C, H/block, W/block), channels (row, column, c)."""
    n, c, h, w = x.shape
    split = x.reshape(n, c, h // block, block, w // block, block)
    return np.asarray(split.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // block, w // block))


def depth_to_space(x: Array, block: int, mode: str) -> Array:
    """(N, C, H, W) -> (N, C/block^2, block H, block W); channels (row, column, c) or, mode CRD, (c, row, column)."""
    n, _, h, w = x.shape
    if mode == "DCR":
        moved = x.reshape(n, block, block, -1, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        moved = x.reshape(n, -1, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return np.asarray(moved.reshape(n, -1, h * block, w * block))


def gemm(a: Array, b: Array, c: Array | None, alpha: float, beta: float, trans_a: bool, trans_b: bool) -> Array:
    """alpha a' b' + beta c."""
    product = alpha * ((a.T if trans_a else a) @ (b.T if trans_b else b))
    return np.asarray(product if c is None else product + beta * c)


def coordinates(n: int, out: int, scale: float | None, mode: str) -> list[Fraction]:
    """Where each of `out` outputs of a resized axis of n lies in the input, exactly; ONNX's transformation modes."""
    ratio = Fraction(out, n) if scale is None else Fraction(scale)
    size = ratio * n
    half = Fraction(1, 2)
    if mode == "align_corners":
        return [Fraction(0) if size == 1 else i * (n - 1) / (size - 1) for i in range(out)]
    if mode == "asymmetric":
        return [i / ratio for i in range(out)]
    if mode == "tf_half_pixel_for_nn":
        return [(i + half) / ratio for i in range(out)]
    if mode == "pytorch_half_pixel" and size == 1:
        return [-half] * out
    shift = Fraction(n, 2) * (1 - out / size) if mode == "half_pixel_symmetric" else Fraction(0)
    return [shift + (i + half) / ratio - half for i in range(out)]


def nearest(at: Fraction, mode: str) -> int:
    """The whole number that ONNX's nearest_mode takes for a coordinate."""
    if mode in ("floor", "ceil"):
        return math.floor(at) if mode == "floor" else math.ceil(at)
    half = Fraction(1, 2)
    return math.ceil(at - half) if mode == "round_prefer_floor" else math.floor(at + half)


def resize(
    x: Array,
    mode: str,
    shape: Sequence[int],
    scales: Sequence[float] | None,
    coordinate_mode: str,
    nearest_mode: str,
) -> Array:
    """x resized to `shape`, axis by axis; what lies outside is the edge value."""
    for axis, out in enumerate(shape):
        n = x.shape[axis]
        scale = None if scales is None else scales[axis]
        if n == out and scale in (None, 1):
            continue
        places = coordinates(n, out, scale, coordinate_mode)
        if mode == "nearest":
            x = np.take(x, [min(max(nearest(at, nearest_mode), 0), n - 1) for at in places], axis)
            continue
        low = [math.floor(at) for at in places]
        weight = np.array([float(at - i) for at, i in zip(places, low, strict=True)])
        weight = weight.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        left = np.take(x, np.clip(low, 0, n - 1), axis)
        right = np.take(x, np.clip(np.array(low) + 1, 0, n - 1), axis)
        x = (1 - weight) * left + weight * right
    return x
