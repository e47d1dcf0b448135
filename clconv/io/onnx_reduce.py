"""ONNX reductions over axes, and the index of the largest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._core.pool import GlobalAvgPool
from ..packing import Array
from .onnx_elementwise import combine, unary
from .onnx_shape import axis_of, reread
from .onnx_table import operator
from .onnx_values import FLOAT32_MAX, Builder, Device, Host, Op, Tensor, known


def _log_sum_exp(x: Array, **how: Any) -> Any:
    with np.errstate(divide="ignore"):
        most = np.max(x, initial=-np.inf, **{**how, "keepdims": True})
        most = np.where(np.isfinite(most), most, 0)
        total = np.log(np.sum(np.exp(x - most), **how))
        return total + (most if how["keepdims"] else np.squeeze(most, how["axis"]))


def _extreme(least: bool) -> Callable[..., Any]:
    def reduced(x: Array, **how: Any) -> Any:
        if x.dtype.kind == "f":
            start: Any = np.inf if least else -np.inf
        elif x.dtype.kind == "b":
            start = least
        else:
            limits = np.iinfo(x.dtype)
            start = limits.max if least else limits.min
        return (np.min if least else np.max)(x, initial=start, **how)

    return reduced


# ONNX name -> function on the host, name of the operator on the device.
REDUCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "ReduceSum": (np.sum, "sum"),
    "ReduceMean": (np.mean, "mean"),
    "ReduceMax": (_extreme(False), "max"),
    "ReduceMin": (_extreme(True), "min"),
    "ReduceProd": (np.prod, "prod"),
    "ReduceL1": (lambda x, **how: np.sum(np.abs(x), **how), "l1"),
    "ReduceL2": (lambda x, **how: np.sqrt(np.sum(np.square(x), **how)), "l2"),
    "ReduceSumSquare": (lambda x, **how: np.sum(np.square(x), **how), "sumsq"),
    "ReduceLogSum": (lambda x, **how: np.log(np.sum(x, **how)), "log_sum"),
    "ReduceLogSumExp": (_log_sum_exp, ""),
}


@operator(*REDUCTIONS)
def reduction(b: Builder, n: Op) -> Tensor:
    """A reduction over some axes, or all."""
    x, axes = n.x(), n.ints("axes", 1)
    if not axes and n.get("noop_with_empty_axes"):
        axes = ()
    elif not axes:
        axes = tuple(range(len(x.shape)))
    chosen = tuple(sorted(axis_of(a, len(x.shape)) for a in axes)) if x.shape else ()
    return reduced(b, n.node.op, x, chosen, bool(n.get("keepdims", 1)))


def reduced(b: Builder, op: str, x: Tensor, axes: Sequence[int], keepdims: bool) -> Tensor:
    """`x` reduced over `axes`; see `REDUCTIONS`."""
    compute, name = REDUCTIONS[op]
    kept = tuple(1 if i in axes else extent for i, extent in enumerate(x.shape))
    shape = kept if keepdims else tuple(extent for i, extent in enumerate(x.shape) if i not in axes)
    if isinstance(x, Host):
        with np.errstate(divide="ignore"):
            return b.fold(np.asarray(compute(x.array, axis=tuple(axes), keepdims=keepdims)).astype(x.dtype), x)
    if not name:
        # Of infinite values the difference to the largest would be NaN.
        most = unary(b, reduced(b, "ReduceMax", x, axes, True), "clip", -FLOAT32_MAX, FLOAT32_MAX)
        powers = unary(b, combine(b, "Sub", x, most), "exp")
        total = unary(b, reduced(b, "ReduceSum", powers, axes, True), "log")
        return reread(b, combine(b, "Add", total, most), shape)
    if name == "mean" and tuple(axes) == (2, 3) and len(x.shape) == 4 and x.blocked:
        return b.made(b.add(GlobalAvgPool(), b.image(x)), kept, x).viewed(shape)
    from .._core.plain_reduce import Reduce

    y = b.add(Reduce(name, axes, True), b.plain(x))
    return b.made(y, kept or x.shape, x).viewed(shape)


@operator("ArgMax", "ArgMin")
def arg_most(b: Builder, n: Op) -> Tensor:
    """The index of the largest or smallest value along an axis, of equals the first or the last."""
    x = n.x()
    axis, keep = axis_of(int(n.get("axis", 0)), len(x.shape)), bool(n.get("keepdims", 1))
    last, least = bool(n.get("select_last_index")), n.node.op == "ArgMin"
    shape = (*x.shape[:axis], *((1,) if keep else ()), *x.shape[axis + 1 :])
    if isinstance(x, Host):
        array = np.flip(x.array, axis) if last else x.array
        found = (np.argmin if least else np.argmax)(array, axis)
        return b.fold((x.shape[axis] - 1 - found if last else found).reshape(shape), x)
    from .._core.plain_reduce import ArgMax

    y = b.add(ArgMax(axis, keep, last, least), b.plain(x))
    return b.made(y, shape, x, dtype=np.int64)


@operator("TopK")
def top_k(b: Builder, n: Op) -> list[Tensor | None]:
    """The largest or smallest along an axis, in order, and their indices."""
    x, k = n.x(), (n.ints("k", 1) or (0,))[0]
    axis, largest = axis_of(int(n.get("axis", -1)), len(x.shape)), bool(n.get("largest", 1))
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    if isinstance(x, Host) or x.dtype.kind != "f":
        array = known(x, "input of whole numbers").array
        order = np.argsort(np.flip(array, axis) if largest else array, axis, kind="stable")
        order = x.shape[axis] - 1 - np.flip(order, axis) if largest else order
        order = order.take(np.arange(k), axis)
        return [b.fold(np.take_along_axis(array, order, axis), x), b.fold(order.astype(np.int64), x)]
    from .._core.plain_sort import TopK

    values, indices = b.graph.add(TopK(k, axis, largest), [b.plain(x)], b.label)
    return [b.made(values, shape, x), b.made(indices, shape, x, dtype=np.int64)]


def mean_of_all(b: Builder, x: Device) -> Tensor:
    """The mean of all elements, as a single number."""
    return reread(b, reduced(b, "ReduceMean", x.viewed((math.prod(x.shape),)), (0,), True), ())
