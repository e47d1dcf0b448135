"""ONNX convolution and pooling of volumes, dilated pooling and other norms: made of operators on images.

A volume (N, C, D, H, W) is convolved as N D images whose channels are those of all depths that a window reaches.
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from .._core import pool
from .._core.conv import Conv2d, ConvTranspose2d
from ..packing import Array, swap_filter
from ..shapes import TensorSpec, window_count
from .onnx_conv import Pads, bias, groups_of, padding, spatial, transposed_padding, window
from .onnx_elementwise import combine, extreme, unary
from .onnx_move import joined, padded, permuted, sliced
from .onnx_shape import reread
from .onnx_values import Builder, Host, Op, Shape, Tensor, Unsupported


def conv3d(b: Builder, n: Op, x: Tensor, w: Host) -> Tensor:
    """Convolution of volumes."""
    kernel, groups = w.shape[2:], groups_of(n, x, w)
    stride, dilation = spatial(n, "strides", 3, 1), spatial(n, "dilations", 3, 1)
    pads = padding(n, x.shape[2:], kernel, stride, dilation)
    batch, c, d, h, width = x.shape
    depth = window_count(
        d, kernel[0], stride=stride[0], pad=pads[0], dilation=dilation[0], rounding="floor", who="conv"
    )
    deep = padded(b, x, [0, 0, pads[0][0], 0, 0], [0, 0, pads[0][1], 0, 0])
    slices = [
        reread(b, _depths(b, deep, tap * dilation[0], stride[0], depth), (batch, c, 1, depth, h, width))
        for tap in range(kernel[0])
    ]
    stacked = permuted(b, joined(b, slices, 2), (0, 3, 1, 2, 4, 5))
    images = reread(b, stacked, (batch * depth, c * kernel[0], h, width))
    k = w.shape[0]
    spec = TensorSpec((k, w.shape[1] * kernel[0], *kernel[1:]), layout="filter", groups=groups)
    over = window(kernel[1:], stride[1:], pads[1:], dilation[1:])
    y = b.add(Conv2d(over), b.image(images), b.param(w, spec), bias(b, n, 2, k))
    made = b.made(y, (batch, depth, *y.spec.shape[1:]), x)
    return permuted(b, made, (0, 2, 1, 3, 4))


def _depths(b: Builder, x: Tensor, start: int, step: int, count: int) -> Tensor:
    """`count` of the depths of a volume, from `start` on."""
    shape = (*x.shape[:2], count, *x.shape[3:])
    return sliced(b, x, (0, 0, start, 0, 0), (1, 1, step, 1, 1), shape)


def conv_transpose3d(b: Builder, n: Op, x: Tensor, w: Host) -> Tensor:
    """Transposed convolution of volumes: of images for each depth of the window, added up where they come to lie."""
    kernel, groups = w.shape[2:], groups_of(n, x, w)
    stride, dilation = spatial(n, "strides", 3, 1), spatial(n, "dilations", 3, 1)
    pads, size = transposed_padding(n, x.shape[2:], kernel, stride, dilation)
    batch, c, d, h, width = x.shape
    k = w.shape[1] * groups
    images = reread(b, permuted(b, x, (0, 2, 1, 3, 4)), (batch * d, c, h, width))
    over = window(kernel[1:], stride[1:], pads[1:], dilation[1:])
    total: Tensor | None = None
    for tap in range(kernel[0]):
        spec = TensorSpec((k, c // groups, *kernel[1:]), layout="filter", groups=groups)
        value = b.constant(Host(swap_filter(w.array[:, :, tap], groups), "", False), spec)
        y = b.add(ConvTranspose2d(over, size[1:]), b.image(images), value, None)
        part = permuted(b, b.made(y, (batch, d, k, *size[1:]), x), (0, 2, 1, 3, 4))
        part = _placed(b, part, stride[0], tap * dilation[0] - pads[0][0], size[0])
        total = part if total is None else combine(b, "Add", total, part)
    assert total is not None
    given = n.optional(2)
    return total if given is None else combine(b, "Add", total, reread(b, given, (k, 1, 1, 1)))


def _placed(b: Builder, x: Tensor, step: int, first: int, size: int) -> Tensor:
    """Depths `step` apart from `first` on, in a volume of `size` depths; what comes to lie outside is dropped."""
    batch, k, d, h, w = x.shape
    if step > 1:
        apart = reread(b, x, (batch, k, d, 1, h * w))
        x = reread(b, padded(b, apart, (0,) * 5, (0, 0, 0, step - 1, 0)), (batch, k, d * step, h, w))
    behind = size - first - x.shape[2]
    grown = padded(b, x, (0, 0, max(first, 0), 0, 0), (0, 0, max(behind, 0), 0, 0))
    return _depths(b, grown, max(-first, 0), 1, size)


def pool3d(b: Builder, n: Op, kind: str, x: Tensor, count_pad: bool) -> Tensor:
    """Pooling of volumes: of rows and columns, then of depths."""
    kernel, stride = spatial(n, "kernel_shape", 3, 1), spatial(n, "strides", 3, 1)
    dilation = spatial(n, "dilations", 3, 1)
    if max(dilation) > 1:
        return dilated_pool(b, n, kind, x, count_pad)
    pads = padding(n, x.shape[2:], kernel, stride, dilation)
    rounding = "ceil" if n.get("ceil_mode") else "floor"
    batch, c, d, h, w = x.shape
    flat = b.image(reread(b, x, (batch, c * d, h, w)))
    over = window(kernel[1:], stride[1:], pads[1:], (1, 1), rounding)
    y = b.add(pool.Pool2d(kind, over, count_pad, places=b.train and kind == "max"), flat)
    p, q = y.spec.shape[2:]
    columns = b.image(b.made(y, (batch, c, d, p * q), x))
    over = window((kernel[0], 1), (stride[0], 1), (pads[0], (0, 0)), (1, 1), rounding)
    y = b.add(pool.Pool2d(kind, over, count_pad, places=b.train and kind == "max"), columns)
    return b.made(y, (batch, c, y.spec.shape[2], p, q), x)


def dilated_pool(b: Builder, n: Op, kind: str, x: Tensor, count_pad: bool) -> Tensor:
    """Pooling with gaps in the window: tap by tap."""
    rank = len(x.shape) - 2
    kernel, stride = spatial(n, "kernel_shape", rank, 1), spatial(n, "strides", rank, 1)
    dilation = spatial(n, "dilations", rank, 1)
    pads = padding(n, x.shape[2:], kernel, stride, dilation)
    size = _windows(n, x.shape[2:], kernel, stride, pads, dilation)
    edges = [
        max(p[1], (m - 1) * s + (k - 1) * d + 1 - e - p[0])
        for e, m, s, k, d, p in zip(x.shape[2:], size, stride, kernel, dilation, pads, strict=True)
    ]
    fill = -math.inf if kind == "max" else 0.0
    if kind == "l2":
        raise Unsupported("the norm of a window with gaps is not supported")
    wide = padded(b, x, (0, 0, *(p[0] for p in pads)), (0, 0, *edges), "constant", fill)
    taps = []
    for tap in np.ndindex(*kernel):
        starts = (0, 0, *(t * d for t, d in zip(tap, dilation, strict=True)))
        taps.append(sliced(b, wide, starts, (1, 1, *stride), (*x.shape[:2], *size)))
    if kind == "max":
        return reduce(lambda a, w: extreme(b, "Max", a, w), taps)
    counts = window_counts(x.shape[2:], kernel, stride, pads, dilation, size, count_pad)
    return combine(b, "Mul", reduce(lambda a, w: combine(b, "Add", a, w), taps), b.fold(1 / counts))


def _windows(n: Op, size: Shape, kernel: Shape, stride: Shape, pads: Pads, dilation: Shape) -> tuple[int, ...]:
    rounding = "ceil" if n.get("ceil_mode") else "floor"
    return tuple(
        window_count(e, k, stride=s, pad=p, dilation=d, rounding=rounding, who="pool")
        for e, k, s, p, d in zip(size, kernel, stride, pads, dilation, strict=True)
    )


def window_counts(
    size: Shape, kernel: Shape, stride: Shape, pads: Pads, dilation: Shape, count: Shape, count_pad: bool
) -> Array:
    """How many elements of the image (with `count_pad`: and of its padding) each window has, float32."""
    total: Array = np.ones((), np.float32)
    for e, k, s, p, d, m in zip(size, kernel, stride, pads, dilation, count, strict=True):
        places = np.arange(m)[:, None] * s - p[0] + np.arange(k)[None] * d
        low, high = (-p[0], e + p[1]) if count_pad else (0, e)
        line = ((places >= low) & (places < high)).sum(1)
        total = total[..., None] * line.astype(np.float32)
    return total


def norm_pool(b: Builder, p: int, mean: Tensor, counts: Array) -> Tensor:
    """(sum of |x|^p over each window)^(1/p), from the mean of |x|^p."""
    total = combine(b, "Mul", mean, b.fold(counts))
    return combine(b, "Pow", total, b.fold(np.float32(1 / p)))


def powers(b: Builder, x: Tensor, p: int) -> Tensor:
    """|x|^p."""
    size = unary(b, x, "abs")
    return size if p == 1 else combine(b, "Pow", size, b.fold(np.float32(p)))


def windows_of(n: Op, x: Tensor) -> Array:
    """How many elements of the image each window of a pooling operator has."""
    rank = len(x.shape) - 2
    kernel, stride = spatial(n, "kernel_shape", rank, 1), spatial(n, "strides", rank, 1)
    dilation = spatial(n, "dilations", rank, 1)
    pads = padding(n, x.shape[2:], kernel, stride, dilation)
    size = _windows(n, x.shape[2:], kernel, stride, pads, dilation)
    return window_counts(x.shape[2:], kernel, stride, pads, dilation, size, False)
