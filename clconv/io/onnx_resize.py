"""ONNX Resize and Upsample: nearest and linear by the device's operator, all else as products with matrices.

Resizing is linear and goes axis by axis: an axis of n elements that becomes m is multiplied by an (m, n) matrix,
which is computed on the host as the ONNX specification defines it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..packing import Array
from .onnx_elementwise import combine
from .onnx_move import in_pixels, permuted
from .onnx_shape import axis_of
from .onnx_table import operator
from .onnx_values import Builder, Host, Op, Shape, Tensor, Unsupported

NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@operator("Upsample")
def upsample(b: Builder, n: Op) -> Tensor:
    """Resize as it was before opset 10: an output lies at its index divided by the scale."""
    scales = n.get("scales") or tuple(float(s) for s in n.host(1, "scales"))
    x = n.x()
    sizes = tuple(math.floor(e * s) for e, s in zip(x.shape, scales, strict=True))
    return _on_device(b, x, _mode(n), sizes, scales, "asymmetric", "floor")


def _mode(n: Op) -> str:
    mode = str(n.get("mode", "nearest"))
    return {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)


def _on_device(
    b: Builder, x: Tensor, mode: str, sizes: Shape, scales: Sequence[float] | None, coordinates: str, nearest: str
) -> Tensor:
    from .._core.plain_resize import Resize

    if sizes == x.shape and (scales is None or all(s == 1 for s in scales)):
        return x
    layer = Resize(mode, sizes, scales, coordinates, nearest)
    if in_pixels(x, sizes) and (scales is None or all(s == 1 for s in scales[:2])):
        from .._core.blockwise import Stored

        return b.made(b.add(Stored(layer), x.value), sizes, x)
    return b.made(b.add(layer, b.plain(x)), sizes, x)


@operator("Resize")
def resize(b: Builder, n: Op) -> Tensor:
    """Another size along any axes."""
    x, mode = n.x(), _mode(n)
    if n.opset < 11:
        scales = tuple(float(s) for s in n.host(1, "scales"))
        sizes = tuple(math.floor(e * s) for e, s in zip(x.shape, scales, strict=True))
        return _on_device(b, x, mode, sizes, scales, "asymmetric", "floor")
    axes = tuple(axis_of(a, len(x.shape)) for a in (n.ints("axes") or range(len(x.shape))))
    sizes, given = _sizes(n, x.shape, axes)
    coordinates = str(n.get("coordinate_transformation_mode", "half_pixel"))
    nearest = n.one_of("nearest_mode", *NEAREST)
    simple = mode in ("nearest", "linear") and not n.get("antialias") and not n.get("exclude_outside")
    if simple and coordinates != "tf_crop_and_resize":
        return _on_device(b, x, mode, sizes, given, coordinates, nearest)
    roi = n.host(1, "roi") if coordinates == "tf_crop_and_resize" else np.zeros(2 * len(axes))
    total: Tensor | None = x
    inside = np.ones((1,) * len(x.shape), np.float32)
    for i, axis in enumerate(axes):
        scale = given[axis] if given is not None else sizes[axis] / x.shape[axis]
        line = _Line(n, mode, coordinates, x.shape[axis], sizes[axis], scale, (roi[i], roi[i + len(axes)]))
        b.check_room(x.shape[axis] * sizes[axis])
        matrix, valid = line.matrix()
        if sizes[axis] != x.shape[axis] or not np.array_equal(matrix, np.eye(sizes[axis])):
            total = _multiplied(b, total, axis, matrix.astype(np.float32))  # type: ignore[arg-type]
        inside = inside * valid.reshape([-1 if j == axis else 1 for j in range(len(x.shape))])
    assert total is not None
    outside = (1 - inside) * float(n.get("extrapolation_value", 0.0))
    return combine(b, "Add", total, b.fold(outside.astype(np.float32))) if outside.any() else total


def _sizes(n: Op, shape: Shape, axes: Sequence[int]) -> tuple[Shape, list[float] | None]:
    """Extents of the result, and the scales that say where its elements lie (None: their ratio)."""
    sizes, scales = list(shape), [1.0] * len(shape)
    given = n.optional(2)
    if given is not None and given.shape != (0,):
        for axis, scale in zip(axes, n.host(2, "scales"), strict=True):
            scales[axis] = float(scale)
            sizes[axis] = math.floor(shape[axis] * float(scale))
        return tuple(sizes), scales
    wanted = [int(s) for s in n.host(3, "sizes")]
    policy = n.one_of("keep_aspect_ratio_policy", "stretch", "not_larger", "not_smaller")
    if policy != "stretch":
        ratios = [w / shape[axis] for w, axis in zip(wanted, axes, strict=True)]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        wanted = [math.floor(ratio * shape[axis] + 0.5) for axis in axes]
        for axis in axes:
            scales[axis] = ratio
    for axis, size in zip(axes, wanted, strict=True):
        sizes[axis] = size
    return tuple(sizes), scales if policy != "stretch" else None


def _multiplied(b: Builder, x: Tensor, axis: int, matrix: Array) -> Tensor:
    """x with one axis multiplied by a matrix."""
    from .._core.plain_matmul import MatMulPlain

    rank = len(x.shape)
    order = [*(i for i in range(rank) if i != axis), axis]
    moved = permuted(b, x, order)
    weight = Host(np.ascontiguousarray(matrix.T), "", False)
    shape = (*moved.shape[:-1], len(matrix))
    product = b.made(b.add(MatMulPlain(), b.plain(moved), b.plain(weight)), shape, x)
    return permuted(b, product, [order.index(i) for i in range(rank)])


@dataclass(frozen=True)
class _Line:
    """One axis of n elements that becomes one of m."""

    op: Op
    mode: str
    coordinates: str
    n: int
    m: int
    scale: float
    roi: tuple[float, float]

    def matrix(self) -> tuple[Array, Array]:
        """(m, n) weights, and for each output 1 where it lies inside (0: the extrapolation value counts)."""
        matrix, valid = np.zeros((self.m, self.n)), np.ones(self.m, np.float32)
        for i in range(self.m):
            place = self._place(i)
            if self.coordinates == "tf_crop_and_resize" and not 0 <= place <= self.n - 1:
                valid[i] = 0
                continue
            first, weights = self._weights(place)
            indices = np.arange(first, first + len(weights))
            if self.op.get("exclude_outside"):
                weights = np.where((indices >= 0) & (indices < self.n), weights, 0)
                weights = weights / weights.sum()
            np.add.at(matrix[i], np.clip(indices, 0, self.n - 1), weights)
        return matrix, valid

    def _place(self, i: int) -> float:
        """Where output i lies on the input axis."""
        length = self.scale * self.n
        if self.coordinates == "align_corners":
            return 0.0 if length == 1 else i * (self.n - 1) / (length - 1)
        if self.coordinates == "asymmetric":
            return i / self.scale
        if self.coordinates == "tf_crop_and_resize":
            start, end = self.roi
            span = (end - start) * (self.n - 1)
            return start * (self.n - 1) + (span / 2 if length == 1 else i * span / (length - 1))
        if self.coordinates == "half_pixel_symmetric":
            return self.n / 2 * (1 - self.m / length) + (i + 0.5) / self.scale - 0.5
        if self.coordinates == "pytorch_half_pixel" and length == 1:
            return -0.5
        if self.coordinates in ("half_pixel", "pytorch_half_pixel"):
            return (i + 0.5) / self.scale - 0.5
        raise Unsupported(f"coordinates {self.coordinates!r} are unknown")

    def _weights(self, place: float) -> tuple[int, Array]:
        """(first index, weights of it and its followers)."""
        if self.mode == "nearest":
            return self._nearest(place), np.ones(1)
        below = math.floor(place)
        # As the specification: a whole number lies at the end of the step before it.
        ratio = place - below if place != below else 1.0
        below = below if place != below else below - 1
        shrink = min(self.scale, 1.0) if self.op.get("antialias") else 1.0
        reach = {"linear": 1, "cubic": 2}.get(self.mode)
        if reach is None:
            raise Unsupported(f"mode {self.mode!r} is unknown")
        first = math.floor(-reach / shrink) + 1
        offsets = np.arange(first, reach + 1 - first if shrink < 1 else reach + 1)
        distance = np.abs((offsets - ratio) * shrink)
        if self.mode == "linear":
            weights = np.clip(1 - distance, 0, 1)
        else:
            weights = _cubic(distance, float(self.op.get("cubic_coeff_a", -0.75)))
        return below + first, weights / weights.sum() if shrink < 1 else weights

    def _nearest(self, place: float) -> int:
        how = self.op.one_of("nearest_mode", *NEAREST)
        if how == "round_prefer_ceil":
            return math.floor(place + 0.5)
        if how == "round_prefer_floor":
            return math.ceil(place - 0.5)
        return math.floor(place) if how == "floor" else math.ceil(place)


def _cubic(x: Array, a: float) -> Array:
    """The cubic convolution kernel at distances x (Keys, 1981)."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
