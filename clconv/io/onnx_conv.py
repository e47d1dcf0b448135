"""ONNX convolution, pooling and matrix products, in terms of the operators on channel blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .._core import pool
from .._core.conv import Conv2d, ConvTranspose2d
from .._core.conv_depthwise import DepthwiseConv2d, DepthwiseTranspose2d
from .._core.fc import FullyConnected
from .._core.window import Window
from ..errors import ShapeError
from ..graph import Value
from ..shapes import LARGEST, TensorSpec
from .onnx_move import channels_last
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Shape, Tensor, Unsupported, known

Pads = tuple[tuple[int, int], ...]


def spatial(n: Op, name: str, rank: int, default: int) -> tuple[int, ...]:
    """An attribute with one number from 1 on for each of the `rank` axes behind the channels."""
    found = n.ints(name) or (default,) * rank
    if len(found) != rank:
        raise Unsupported(f"{name} {found} does not fit {rank} axes behind the channels")
    if not all(0 < number <= LARGEST for number in found):
        raise Unsupported(f"{name} {found}: numbers from 1 to {LARGEST} are supported")
    return found


def groups_of(n: Op, x: Tensor, w: Host) -> int:
    """Into how many groups a convolution's channels are divided.

    Raises:
        Unsupported: none, or the weights have other axes than the input.
    """
    if len(w.shape) != len(x.shape):
        raise Unsupported(f"weights of shape {w.shape} do not fit an input of {len(x.shape)} axes")
    if (groups := int(n.get("group", 1))) < 1:
        raise Unsupported(f"group {groups}: 1 or more is expected")
    return groups


def padding(n: Op, size: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Pads:
    """(before, after) for each axis, from `pads` or `auto_pad`."""
    rank, auto = len(size), n.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pairs = []
        for extent, k, s, d in zip(size, kernel, stride, dilation, strict=True):
            total = max((-(-extent // s) - 1) * s + (k - 1) * d + 1 - extent, 0)
            less, more = total // 2, total - total // 2
            pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
        return tuple(pairs)
    if auto not in ("NOTSET", "VALID"):
        raise Unsupported(f"auto_pad {auto!r} is unknown")
    flat = (n.ints("pads") if auto == "NOTSET" else None) or (0,) * (2 * rank)
    if len(flat) != 2 * rank or min(flat) < 0:
        raise Unsupported(f"pads {flat}: two numbers from 0 on for each of {rank} axes are supported")
    return tuple(zip(flat[:rank], flat[rank:], strict=True))


def window(kernel: Shape, stride: Shape, pads: Pads, dilation: Shape, rounding: str = "floor") -> Window:
    """The window over images; a single axis slides along rows of height 1."""
    if (reach := max((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))) > LARGEST:
        raise Unsupported(f"a window that reaches over {reach} elements; up to {LARGEST} are supported")
    if len(kernel) == 1:
        kernel, stride, dilation, pads = (1, *kernel), (1, *stride), (1, *dilation), ((0, 0), *pads)
    return Window(kernel, stride, pads, dilation, rounding)


def restored(b: Builder, value: Value, n: Op, rank: int, *sources: Tensor | None) -> Device:
    """What an operator on images made, as a tensor of `rank` axes."""
    batch, c, h, w = value.spec.shape
    return b.made(value, (batch, c, w) if rank == 3 else (batch, c, h, w), *sources)


def axes_of_images(n: Op, x: Tensor) -> int:
    """How many axes lie behind the channels: 1 or 2 are supported."""
    rank = len(x.shape) - 2
    if rank not in (1, 2):
        raise Unsupported(f"an input of {len(x.shape)} axes is not supported; (N, C, L) and (N, C, H, W) are")
    return rank


@operator("Conv")
def conv(b: Builder, n: Op) -> Tensor:
    """Convolution of sequences and images; volumes are in onnx_volume.py."""
    x, w = n.x(), known(n.x(1), "weight")
    if len(x.shape) == 5:
        from .onnx_volume import conv3d

        return conv3d(b, n, x, w)
    rank = axes_of_images(n, x)
    kernel, groups = w.shape[2:], groups_of(n, x, w)
    stride, dilation = spatial(n, "strides", rank, 1), spatial(n, "dilations", rank, 1)
    over = window(kernel, stride, padding(n, x.shape[2:], kernel, stride, dilation), dilation)
    k, c_group = w.shape[:2]
    value = b.image(x)
    if groups == k == x.shape[1] > 1 and c_group == 1:
        weight = b.param(w, TensorSpec((1, k, *over.kernel)))
        y = b.add(DepthwiseConv2d(over), value, weight, bias(b, n, 2, k))
    else:
        weight = b.param(w, TensorSpec((k, c_group, *over.kernel), layout="filter", groups=groups))
        y = b.add(Conv2d(over), value, weight, bias(b, n, 2, k))
    return restored(b, y, n, len(x.shape), x)


def bias(b: Builder, n: Op, i: int, k: int) -> Value | None:
    """One number per output channel, or None."""
    given = n.optional(i)
    return None if given is None else b.param(known(given, "bias"), TensorSpec((1, k, 1, 1)))


@operator("ConvTranspose")
def conv_transpose(b: Builder, n: Op) -> Tensor:
    """Transposed convolution of sequences and images; volumes are in onnx_volume.py."""
    x, w = n.x(), known(n.x(1), "weight")
    if len(x.shape) == 5:
        from .onnx_volume import conv_transpose3d

        return conv_transpose3d(b, n, x, w)
    rank = axes_of_images(n, x)
    kernel, groups = w.shape[2:], groups_of(n, x, w)
    stride, dilation = spatial(n, "strides", rank, 1), spatial(n, "dilations", rank, 1)
    pads, size = transposed_padding(n, x.shape[2:], kernel, stride, dilation)
    over = window(kernel, stride, pads, dilation)
    rows_cols = size if rank == 2 else (1, *size)
    c, k_group = w.shape[:2]
    k = k_group * groups
    value = b.image(x)
    if groups == c > 1 and k_group == 1:
        weight = b.param(w, TensorSpec((1, c, *over.kernel)))
        y = b.add(DepthwiseTranspose2d(over, rows_cols), value, weight, bias(b, n, 2, k))
    else:
        spec = TensorSpec((k, c // groups, *over.kernel), layout="filter", groups=groups)
        y = b.add(ConvTranspose2d(over, rows_cols), value, b.param(w, spec, swap=True), bias(b, n, 2, k))
    return restored(b, y, n, len(x.shape), x)


def transposed_padding(
    n: Op, size: Shape, kernel: Shape, stride: Shape, dilation: Shape
) -> tuple[Pads, tuple[int, ...]]:
    """Padding and output size, from `output_shape`, `auto_pad` or `pads`."""
    rank, auto = len(size), n.get("auto_pad", "NOTSET")
    extra = n.ints("output_padding") or (0,) * rank
    full = [
        (extent - 1) * s + (k - 1) * d + 1 + e
        for extent, k, s, d, e in zip(size, kernel, stride, dilation, extra, strict=True)
    ]
    wanted = n.ints("output_shape")
    if wanted is not None:
        wanted = wanted[-rank:]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(extent * s for extent, s in zip(size, stride, strict=True))
    else:
        flat = (n.ints("pads") if auto == "NOTSET" else None) or (0,) * (2 * rank)
        pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
        return pads, tuple(f - sum(p) for f, p in zip(full, pads, strict=True))
    pairs = []
    for f, out in zip(full, wanted, strict=True):
        total = max(f - out, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return tuple(pairs), tuple(wanted)


# -------------------------------------------------------------------- pooling


def _pool(b: Builder, n: Op, kind: str, x: Tensor, count_pad: bool = False) -> Tensor:
    if len(x.shape) == 5:
        from .onnx_volume import pool3d

        return pool3d(b, n, kind, x, count_pad)
    rank = axes_of_images(n, x)
    kernel, stride = spatial(n, "kernel_shape", rank, 1), spatial(n, "strides", rank, 1)
    dilation = spatial(n, "dilations", rank, 1)
    if max(dilation) > 1:
        from .onnx_volume import dilated_pool

        return dilated_pool(b, n, kind, x, count_pad)
    pads = padding(n, x.shape[2:], kernel, stride, dilation)
    over = window(kernel, stride, pads, dilation, "ceil" if n.get("ceil_mode") else "floor")
    y = b.add(pool.Pool2d(kind, over, count_pad, places=b.train and kind == "max"), b.image(x))
    return restored(b, y, n, len(x.shape), x)


@operator("MaxPool")
def max_pool(b: Builder, n: Op) -> Tensor:
    """The largest element of each window; the places of the maxima are not given."""
    if len(n.node.outputs) > 1 and n.node.outputs[1]:
        raise Unsupported("its second output, the places of the maxima, is not supported")
    return _pool(b, n, "max", n.x())


@operator("AveragePool")
def average_pool(b: Builder, n: Op) -> Tensor:
    """The mean of each window."""
    return _pool(b, n, "avg", n.x(), bool(n.get("count_include_pad")))


@operator("LpPool")
def lp_pool(b: Builder, n: Op) -> Tensor:
    """The p-norm of each window, p = 2 where nothing is said."""
    x, p = n.x(), int(n.get("p", 2))
    rank = len(x.shape) - 2
    if p == 2 and max(spatial(n, "dilations", rank, 1)) == 1:
        return _pool(b, n, "l2", x)
    from .onnx_volume import norm_pool, powers, windows_of

    return norm_pool(b, p, _pool(b, n, "avg", powers(b, x, p)), windows_of(n, x))


def _whole(b: Builder, n: Op, kind: str, x: Tensor) -> Tensor:
    value = b.image(x)
    size = value.spec.shape[2:]
    layer = pool.Pool2d(kind, Window(size, size), places=b.train and kind == "max") if kind != "avg" else None
    y = b.add(layer or pool.GlobalAvgPool(), value)
    return b.made(y, (*x.shape[:2], *(1,) * (len(x.shape) - 2)), x)


@operator("GlobalAveragePool")
def global_average_pool(b: Builder, n: Op) -> Tensor:
    """The mean of each channel's image."""
    return _whole(b, n, "avg", n.x())


@operator("GlobalMaxPool")
def global_max_pool(b: Builder, n: Op) -> Tensor:
    """The largest value of each channel's image."""
    return _whole(b, n, "max", n.x())


@operator("GlobalLpPool")
def global_lp_pool(b: Builder, n: Op) -> Tensor:
    """The p-norm of each channel's image."""
    if (p := int(n.get("p", 2))) == 2:
        return _whole(b, n, "l2", n.x())
    from .onnx_volume import norm_pool, powers

    counts = np.full((), math.prod(n.x().shape[2:]), np.float32)
    return norm_pool(b, p, _whole(b, n, "avg", powers(b, n.x(), p)), counts)


# -------------------------------------------------------------------- matrix products


def fully_connected(b: Builder, x: Tensor, w: Host, units: int, given: Tensor | None) -> Value:
    """Rows of `x`, (N, L), times an array that the network keeps as (units, L), plus one number per unit."""
    value = _rows(b, x)
    weight = b.param(w, TensorSpec((units, *value.spec.shape[1:]), layout="filter"))
    start = None
    if given is not None:
        array = known(given, "bias")
        whole = array.array.size == units
        start = b.param(array, TensorSpec((1, units, 1, 1))) if whole else b.channels(np.full(units, array.array))
    return b.add(FullyConnected(), value, weight, start)


def _rows(b: Builder, x: Tensor) -> Value:
    """(N, L) as images in the form in which they lie, so that flattening is left to the weights."""
    if isinstance(x, Device):
        spec = x.value.spec
        if len(spec.shape) == 4 and spec.shape[0] == x.shape[0] and spec.dtype == "float32":
            return x.value
    return b.image(x)


@operator("Gemm")
def gemm(b: Builder, n: Op) -> Tensor:
    """alpha A B + beta C; a fully-connected layer where B is known and C is one number per column."""
    a, w, c = n.x(), n.x(1), n.optional(2)
    alpha, beta = float(n.get("alpha", 1.0)), float(n.get("beta", 1.0))
    units = w.shape[0 if n.get("transB") or (isinstance(w, Host) and w.name in b.transposed) else 1]
    if (
        isinstance(w, Host)
        and (n.get("transB") or w.name in b.transposed)
        and not n.get("transA")
        and alpha == beta == 1
        and (c is None or (isinstance(c, Host) and _per_unit(c, units)))
    ):
        _check_length(a, w.shape[1])
        return b.made(fully_connected(b, a, w, units, c), (a.shape[0], units), a)
    return _general_gemm(b, n, a, untransposed(b, w), c, alpha, beta)


def _check_length(a: Tensor, length: int) -> None:
    if a.shape[-1] != length:
        raise ShapeError(f"rows of {a.shape[-1]} values, of which the matrix takes {length}")


def _per_unit(c: Host, units: int) -> bool:
    """Whether it holds one number, or one per unit in a row."""
    return c.array.size == 1 or (c.array.size == units and c.shape[-1] == units)


def _general_gemm(b: Builder, n: Op, a: Tensor, w: Tensor, c: Tensor | None, alpha: float, beta: float) -> Tensor:
    from .._core.plain_matmul import Gemm

    trans = int(n.get("transA", 0)), int(n.get("transB", 0))
    y = b.add(Gemm(alpha, beta, *trans), b.plain(a), b.plain(w), None if c is None else b.plain(c))
    return b.made(y, (a.shape[1 if trans[0] else 0], w.shape[0 if trans[1] else 1]), a)


def untransposed(b: Builder, tensor: Tensor) -> Tensor:
    """An array as it stands in the file."""
    if isinstance(tensor, Host) and tensor.name in b.transposed:
        return Host(np.ascontiguousarray(tensor.array.T), f"{tensor.name}^T", tensor.static)
    return tensor


@operator("MatMul")
def matmul(b: Builder, n: Op) -> Tensor:
    """A B; a fully-connected layer where B is a known matrix."""
    a, w = n.x(), n.x(1)
    if isinstance(a, Host) and isinstance(w, Host):
        return b.fold(np.matmul(a.array, untransposed(b, w).array), a, w)  # type: ignore[union-attr]
    if isinstance(w, Host) and w.name in b.transposed and len(a.shape) >= 2:
        units, length = w.shape
        _check_length(a, length)
        if (image := b.behind(a)) is not None:  # a product over channels that come last is a 1x1 convolution
            weight = b.param(w, TensorSpec((units, length, 1, 1), layout="filter"))
            y = b.add(Conv2d(Window((1, 1))), b.image(image), weight, None)
            return channels_last(b, b.made(y, y.spec.shape, a))
        rows: Any = a.viewed((math.prod(a.shape[:-1]), length)) if isinstance(a, Device) else a
        return b.made(fully_connected(b, rows, w, units, None), (*a.shape[:-1], units), a)
    from .._core.plain_matmul import MatMulPlain

    w = untransposed(b, w)
    y = b.add(MatMulPlain(), b.plain(a), b.plain(w))
    return b.made(y, matmul_shape(a.shape, w.shape), a, w)


def matmul_shape(a: Shape, w: Shape) -> Shape:
    """The shape of a product as NumPy defines it; a vector counts as a row in front and as a column behind."""
    wide, tall = (1, *a) if len(a) == 1 else a, (*w, 1) if len(w) == 1 else w
    batch = np.broadcast_shapes(wide[:-2], tall[:-2])
    rows, cols = (wide[-2],) * (len(a) > 1), (tall[-1],) * (len(w) > 1)
    return (*batch, *rows, *cols)
