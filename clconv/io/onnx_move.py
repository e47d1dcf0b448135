"""ONNX operators that move elements: on the host for what is known, else row by row on the device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from .._core import elementwise
from .onnx_shape import axis_of, reread
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Shape, Tensor, Unsupported

TO_LAST, FROM_LAST = (0, 2, 3, 1), (0, 3, 1, 2)


@operator("Transpose")
def transpose(b: Builder, n: Op) -> Tensor:
    """Axes in another order; free where only axes of extent 1 change places."""
    x = n.x()
    rank = len(x.shape)
    perm = n.ints("perm") or tuple(range(rank))[::-1]
    if sorted(perm) != list(range(rank)):
        raise Unsupported(f"the order {perm} does not name each of {rank} axes once")
    return permuted(b, x, perm)


def permuted(b: Builder, x: Tensor, perm: Sequence[int]) -> Tensor:
    """Axis i of the result is axis perm[i] of x."""
    if isinstance(x, Host):
        return b.fold(x.array.transpose(perm), x)
    shape = tuple(x.shape[i] for i in perm)
    moved = [i for i in perm if x.shape[i] != 1]
    if moved == sorted(moved):
        return x.viewed(shape)
    if tuple(perm) == FROM_LAST and (image := b.behind(x)) is not None:
        return image
    groups = _shuffled(x, perm)
    if groups is not None and isinstance(x, Device):
        from .._core.blockwise import ChannelShuffle

        return b.made(b.add(ChannelShuffle(groups), x.value), shape, x)
    from .._core.plain_move import Permute

    moved_to = b.made(b.add(Permute(perm), b.plain(x)), shape, x)
    if tuple(perm) == TO_LAST and x.blocked and not b.train:
        b.last[moved_to.value] = x
    return moved_to


def channels_last(b: Builder, image: Tensor) -> Tensor:
    """Images as (N, H, W, C). Operators that stay in channel blocks read what is behind it; else it is made."""
    return permuted(b, image, TO_LAST)


def _shuffled(x: Tensor, perm: Sequence[int]) -> int | None:
    """Groups of channels where images in channel blocks, read as (N, groups, members, ...), become (N, members, groups,
    ...); else None.
    """
    rest = len(perm) - 3
    if not isinstance(x, Device) or rest < 0 or tuple(perm) != (0, 2, 1, *range(3, rest + 3)):
        return None
    spec = x.value.spec
    n, groups, members = x.shape[:3]
    whole = spec.layout == "block" and spec.shape[:2] == (n, groups * members)
    return groups if whole and math.prod(spec.shape[2:]) == math.prod(x.shape[3:]) else None


@operator("Concat")
def concat(b: Builder, n: Op) -> Tensor:
    """Images in channel blocks are joined there, which mostly is no work at all. What is empty adds nothing."""
    xs = [n.x(i) for i in range(len(n.inputs))]
    filled = [x for x in xs if math.prod(x.shape)]
    return joined(b, filled or xs, axis_of(int(n.get("axis", 1)), len(n.x().shape)))


def joined(b: Builder, xs: Sequence[Tensor], axis: int) -> Tensor:
    """Tensors one behind the other along an axis."""
    if all(isinstance(x, Host) for x in xs):
        return b.fold(np.concatenate([x.array for x in xs if isinstance(x, Host)], axis), *xs)
    if len(xs) == 1:
        return xs[0]
    first = xs[0].shape
    shape = (*first[:axis], sum(x.shape[axis] for x in xs), *first[axis + 1 :])
    if axis == 1 and all(isinstance(x, Device) and x.blocked for x in xs):
        return b.made(b.add(elementwise.Concat(len(xs)), *(b.image(x) for x in xs)), shape, *xs)
    from .._core.plain_move import ConcatPlain

    return b.made(b.add(ConcatPlain(axis, len(xs)), *(b.plain(x) for x in xs)), shape, *xs)


def sliced(b: Builder, x: Tensor, starts: Sequence[int], steps: Sequence[int], shape: Shape) -> Tensor:
    """x[starts + i steps] for i below shape."""
    if tuple(shape) == x.shape and all(s == 1 for s in steps):
        return x
    if isinstance(x, Host) or math.prod(shape) == 0:
        array = np.zeros(x.shape, np.float32) if isinstance(x, Device) else x.array
        for axis, (start, step, count) in enumerate(zip(starts, steps, shape, strict=True)):
            array = array.take(start + step * np.arange(count), axis)
        return b.fold(array, x)
    from .._core.plain_move import Slice

    if in_pixels(x, shape):
        from .._core.blockwise import Stored

        return b.made(b.add(Stored(Slice(starts, steps, shape)), x.value), shape, x)
    if in_channels(x, shape) and steps[1] == 1:
        from .._core.blockwise import PadChannels

        left = PadChannels(-starts[1], starts[1] + shape[1] - x.shape[1])
        return b.made(b.add(left, x.value), shape, x)
    return b.made(b.add(Slice(starts, steps, shape), b.plain(x)), shape, x)


def in_pixels(x: Tensor, shape: Shape) -> TypeGuard[Device]:
    """Whether images in channel blocks change in height and width alone."""
    return isinstance(x, Device) and x.blocked and len(x.shape) == len(shape) == 4 and shape[:2] == x.shape[:2]


def in_channels(x: Tensor, shape: Shape) -> TypeGuard[Device]:
    """Whether images in channel blocks change in their channels alone."""
    here, there = (*x.shape[:1], *x.shape[2:]), (*shape[:1], *shape[2:])
    return isinstance(x, Device) and x.blocked and 2 < len(x.shape) == len(shape) <= 4 and here == there


@operator("Slice")
def slice_operator(b: Builder, n: Op) -> Tensor:
    """Parts of axes, as Python's slices."""
    x = n.x()
    first, last = n.ints("starts", 1) or (), n.ints("ends", 2) or ()
    axes = n.ints("axes", 3) or tuple(range(len(first)))
    strides = n.ints("steps", 4) or (1,) * len(first)
    starts, steps, shape = [0] * len(x.shape), [1] * len(x.shape), list(x.shape)
    for axis, start, end, step in zip(axes, first, last, strides, strict=True):
        i = axis_of(axis, len(x.shape))
        if step == 0:
            raise Unsupported("a slice of step 0")
        starts[i], stop, steps[i] = slice(start, _end(end, step), step).indices(x.shape[i])
        shape[i] = len(range(starts[i], stop, step))
    return sliced(b, x, starts, steps, tuple(shape))


def _end(end: int, step: int) -> int | None:
    """ONNX writes the end of a backward slice that takes all as a very negative number."""
    return None if step < 0 and end <= -(1 << 31) + 1 else end


@operator("Split")
def split(b: Builder, n: Op) -> list[Tensor | None]:
    """Parts along an axis, of given or of equal sizes."""
    x = n.x()
    axis = axis_of(int(n.get("axis", 0)), len(x.shape))
    count, extent = len(n.node.outputs), x.shape[axis]
    sizes = n.ints("split", 1)
    if sizes is None:
        each = -(-extent // int(n.get("num_outputs", count)))
        sizes = tuple(max(0, min(each, extent - i * each)) for i in range(count))
    if sum(sizes) != extent or len(sizes) != count:
        raise Unsupported(f"parts {sizes} of an axis of {extent}")
    parts: list[Tensor | None] = []
    for start, size in zip(itertools.accumulate((0, *sizes)), sizes, strict=False):
        starts = [start if i == axis else 0 for i in range(len(x.shape))]
        shape = tuple(size if i == axis else e for i, e in enumerate(x.shape))
        parts.append(sliced(b, x, starts, [1] * len(x.shape), shape))
    return parts


@operator("Pad")
def pad(b: Builder, n: Op) -> Tensor:
    """Elements around a tensor."""
    x, flat = n.x(), n.ints("pads", 1) or ()
    rank = len(x.shape)
    axes = tuple(axis_of(a, rank) for a in (n.ints("axes", 3) or range(rank)))
    value = n.number(2, "constant_value") if n.optional(2) is not None else float(n.get("value", 0.0))
    before, after = [0] * rank, [0] * rank
    for axis, start, end in zip(axes, flat[: len(axes)], flat[len(axes) :], strict=True):
        before[axis], after[axis] = start, end
    if not any(before) and not any(after):
        return x
    return padded(b, x, before, after, n.one_of("mode", "constant", "reflect", "edge", "wrap"), value)


def padded(
    b: Builder, x: Tensor, before: Sequence[int], after: Sequence[int], mode: str = "constant", value: float = 0.0
) -> Tensor:
    """x with elements added along each axis."""
    shape = tuple(e + p + q for e, p, q in zip(x.shape, before, after, strict=True))
    if isinstance(x, Host) and min(*before, *after) >= 0:
        b.check_room(math.prod(shape))
        pairs = list(zip(before, after, strict=True))
        if mode == "constant":
            return b.fold(np.pad(x.array, pairs, constant_values=x.dtype.type(value)), x)
        return b.fold(np.pad(x.array, pairs, mode=mode), x)  # type: ignore[call-overload]
    from .._core.plain_move import PadTo

    layer = PadTo(before, after, mode, value)
    if in_pixels(x, shape) and not any((*before[:2], *after[:2])):
        from .._core.blockwise import Stored

        return b.made(b.add(Stored(layer), x.value), shape, x)
    if in_channels(x, shape) and mode == "constant":
        from .._core.blockwise import PadChannels

        return b.made(b.add(PadChannels(before[1], after[1], value), x.value), shape, x)
    return b.made(b.add(layer, b.plain(x)), shape, x)


@operator("Gather")
def gather(b: Builder, n: Op) -> Tensor:
    """Elements at known indices along an axis."""
    x, indices = n.x(), n.host(1, "indices")
    axis = axis_of(int(n.get("axis", 0)), len(x.shape))
    if isinstance(x, Host):
        return b.fold(x.array.take(indices, axis), x, n.x(1))
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    flat = indices.reshape(-1) % x.shape[axis]
    if flat.size and (np.diff(flat) == 1).all():
        starts = [int(flat[0]) if i == axis else 0 for i in range(len(x.shape))]
        some = tuple(flat.size if i == axis else e for i, e in enumerate(x.shape))
        part = sliced(b, x, starts, [1] * len(x.shape), some)
        assert isinstance(part, Device)
        return part.viewed(shape)
    from .._core.plain_move import GatherPlain

    return b.made(b.add(GatherPlain(axis, indices), b.plain(x)), shape, x)


@operator("Expand")
def expand(b: Builder, n: Op) -> Tensor:
    """Broadcast to a shape."""
    return expanded(b, n.x(), np.broadcast_shapes(n.x().shape, n.ints("shape", 1) or ()))


def expanded(b: Builder, x: Tensor, shape: Shape) -> Tensor:
    """x broadcast to `shape`."""
    if shape == x.shape:
        return x
    if isinstance(x, Host):
        b.check_room(math.prod(shape))
        return b.fold(np.broadcast_to(x.array, shape), x)
    from .._core.plain_move import Expand

    return b.made(b.add(Expand(shape), b.plain(x)), shape, x)


@operator("Tile")
def tile(b: Builder, n: Op) -> Tensor:
    """Repetitions along each axis."""
    x, repeats = n.x(), n.ints("repeats", 1) or ()
    shape = tuple(e * r for e, r in zip(x.shape, repeats, strict=True))
    if isinstance(x, Host):
        b.check_room(math.prod(shape))
        return b.fold(np.tile(x.array, repeats), x)
    from .._core.plain_move import Tile

    return b.made(b.add(Tile(repeats), b.plain(x)), shape, x)


@operator("DepthToSpace", "SpaceToDepth")
def between_depth_and_space(b: Builder, n: Op) -> Tensor:
    """Blocks of pixels as channels, and back."""
    from .._core.plain_move import DepthToSpace, SpaceToDepth

    x, size, mode = n.x(), int(n.get("blocksize", 0)), n.one_of("mode", "DCR", "CRD")
    if size < 1:
        raise Unsupported(f"blocksize {size}: 1 or more is expected")
    if n.node.op == "SpaceToDepth" and mode == "CRD":
        batch, c, h, w = x.shape
        split = reread(b, x, (batch, c, h // size, size, w // size, size))
        return reread(b, permuted(b, split, (0, 1, 3, 5, 2, 4)), (batch, c * size * size, h // size, w // size))
    if n.node.op == "DepthToSpace" and isinstance(x, Device) and x.blocked:
        from .._core.blockwise import DepthToSpaceBlocks

        value = b.add(DepthToSpaceBlocks(size, mode), x.value)
        return b.made(value, value.spec.shape, x)
    layer: object = DepthToSpace(size, mode) if n.node.op == "DepthToSpace" else SpaceToDepth(size)
    y = b.add(layer, b.plain(x))
    return b.made(y, y.spec.shape, x)
