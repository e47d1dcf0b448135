"""Host side of the layouts: public arrays to what the device stores, and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .shapes import TensorSpec, blocks, filter_blocks, filter_start

Array = npt.NDArray[Any]


def pack(array: Array, spec: TensorSpec, block: int) -> Array:
    """`array` of shape `spec.shape` as a C-contiguous array of `spec.storage_shape(block)`, padding zero."""
    assert array.shape == spec.shape, (array.shape, spec)
    array = array.astype(spec.dtype, copy=False)
    if spec.layout == "plain":
        return np.ascontiguousarray(array)
    if spec.layout == "block":
        n, c, h, w = spec.shape
        padded = _pad_axes(array, {1: blocks(c, block) * block})
        return np.ascontiguousarray(padded.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2))
    if spec.layout == "local":
        k, c, r, s, p, q = spec.shape
        padded = _pad_axes(array, {0: blocks(k, block) * block, 1: blocks(c, block) * block})
        split = padded.reshape(blocks(k, block), block, blocks(c, block), block, r, s, p, q)
        return np.ascontiguousarray(split.transpose(0, 6, 7, 2, 4, 5, 3, 1))
    if spec.layout == "winograd":
        k, c, r, s = spec.shape
        pairs, padded_c = blocks(k, 2 * block), blocks(c, block) * block
        padded = _pad_axes(array, {0: pairs * 2 * block, 1: padded_c})
        split = padded.reshape(pairs, 2, block, padded_c, r * s)
        return np.ascontiguousarray(split.transpose(0, 4, 3, 1, 2))
    return _pack_filter(array, spec, block)


def slice_blocks(spec: TensorSpec, block: int) -> int:
    """How many blocks of output channels lie together in stored weights; 0: they cannot be taken apart.

    Those of groups can where no block belongs to two of them; each slice is one of a filter without groups then.
    """
    if spec.groups > 1 and (spec.shape[0] // spec.groups % block or spec.shape[1] % block):
        return 0
    return {"filter": 1, "winograd": 2}.get(spec.layout, 0)


CHUNK_BYTES = 512 << 10  # of packed weights at a time, about


def pack_parts(array: Array, spec: TensorSpec, block: int) -> Iterator[Array]:
    """What `pack` gives in parts one behind the other: large weights never exist twice."""
    k = spec.shape[0]
    unit = slice_blocks(spec, block) * block
    if not unit or spec.groups > 1 or spec.nbytes(block) <= CHUNK_BYTES:
        yield pack(array, spec, block)
        return
    step = max(1, CHUNK_BYTES * blocks(k, unit) // spec.nbytes(block)) * unit
    for first in range(0, k, step):
        part = array[first : first + step]
        yield pack(part, TensorSpec((len(part), *spec.shape[1:]), spec.dtype, spec.layout), block)


def unpack(stored: Array, spec: TensorSpec, block: int) -> Array:
    """The inverse of `pack`: padding dropped, shape `spec.shape`, C-contiguous."""
    if spec.layout == "plain":
        return stored.reshape(spec.shape)
    stored = stored.reshape(spec.storage_shape(block))
    if spec.layout == "block":
        n, c, h, w = spec.shape
        return np.ascontiguousarray(stored.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c])
    if spec.layout == "local":
        k, c, r, s, p, q = spec.shape
        joined = stored.transpose(0, 7, 3, 6, 4, 5, 1, 2).reshape(blocks(k, block) * block, -1, r, s, p, q)
        return np.ascontiguousarray(joined[:k, :c])
    if spec.layout == "winograd":
        k, c, r, s = spec.shape
        joined = stored.transpose(0, 3, 4, 2, 1).reshape(blocks(k, 2 * block) * 2 * block, -1, r, s)
        return np.ascontiguousarray(joined[:k, :c])
    return _unpack_filter(stored, spec, block)


def _pad_axes(array: Array, sizes: dict[int, int]) -> Array:
    widths = [(0, sizes.get(axis, n) - n) for axis, n in enumerate(array.shape)]
    return np.pad(array, widths) if any(after for _, after in widths) else array


def _pack_filter(array: Array, spec: TensorSpec, block: int) -> Array:
    k, c_group, r, s = spec.shape
    if spec.groups == 1:
        padded = _pad_axes(array, {0: blocks(k, block) * block, 1: blocks(c_group, block) * block})
        split = padded.reshape(blocks(k, block), block, blocks(c_group, block), block, r, s)
        return np.ascontiguousarray(split.transpose(0, 2, 4, 5, 3, 1))
    stored = np.zeros(spec.storage_shape(block), spec.dtype)
    for channel, k_block, lanes in _group_lanes(spec, block):
        j, lane = lanes // block, lanes % block
        stored[k_block, j, :, :, lane, channel % block] = array[channel]
    return stored


def _unpack_filter(stored: Array, spec: TensorSpec, block: int) -> Array:
    k, c_group, r, s = spec.shape
    if spec.groups == 1:
        joined = stored.transpose(0, 5, 1, 4, 2, 3).reshape(blocks(k, block) * block, -1, r, s)
        return np.ascontiguousarray(joined[:k, :c_group])
    array = np.empty(spec.shape, spec.dtype)
    for channel, k_block, lanes in _group_lanes(spec, block):
        j, lane = lanes // block, lanes % block
        array[channel] = stored[k_block, j, :, :, lane, channel % block]
    return array


def _group_lanes(spec: TensorSpec, block: int) -> list[tuple[int, int, Array]]:
    """For each output channel: its block, and where its input channels sit among the blocks stored for it."""
    k, c_group, _, _ = spec.shape
    c = c_group * spec.groups
    assert filter_blocks(k, c, spec.groups, block) == spec.storage_shape(block)[1]
    rows = []
    for channel in range(k):
        k_block = channel // block
        first = channel // (k // spec.groups) * c_group
        start = filter_start(k_block, k, c, spec.groups, block) * block
        rows.append((channel, k_block, np.arange(first, first + c_group) - start))
    return rows


def swap_filter(array: Array, groups: int) -> Array:
    """(A, B/g, R, S) as (B, A/g, R, S): input and output channels change places within each group."""
    a, b_group, r, s = array.shape
    split = array.reshape(groups, a // groups, b_group, r, s).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(split.reshape(groups * b_group, a // groups, r, s))
