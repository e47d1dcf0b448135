"""Sizes and layouts: the only place where an output extent or a storage size is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ArgumentError, ShapeError

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # ((top, bottom), (left, right))

LARGEST = 1 << 24  # of a stride, a dilation, an extent of a window: what kernels compute from them stays in 32 bits
ROUNDINGS = ("exact", "floor", "ceil")
ITEM_BYTES = {"float32": 4, "float16": 2, "int32": 4, "uint8": 1}
ALIGN = 64  # bytes; every tensor in memory starts at a multiple
LAYOUTS = ("block", "plain", "filter", "local", "winograd")


@dataclass(frozen=True)
class TensorSpec:
    """Shape, type and layout of one tensor.

    Layouts, for a channel block of B values (a device fact):

        block    (N, C, H, W) stored as [N][ceil(C/B)][H][W][B]; channel tails are zero
        plain    row-major, any rank
        filter   (K, C/g, R, S) stored as [ceil(K/B)][J][R][S][B of c][B of k], J input blocks per
                 output block (see `filter_blocks`); what no channel pair owns is zero
        winograd (K, C, S, S) stored as [ceil(K/2B)][S*S][ceil(C/B)*B][2][B of k]: a transformed filter
        local    (K, C, R, S, P, Q) stored as [ceil(K/B)][P][Q][ceil(C/B)][R][S][B of c][B of k]
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "block"
    groups: int = 1

    def __post_init__(self) -> None:
        assert self.layout in LAYOUTS and self.dtype in ITEM_BYTES, self
        if min(self.shape, default=1) <= 0:
            raise ShapeError(f"a tensor of shape {self.shape} has no elements; extents from 1 on are supported")

    def storage_shape(self, block: int) -> tuple[int, ...]:
        """The stored array's shape for channel blocks of `block` values."""
        if self.layout == "plain":
            return self.shape
        if self.layout == "block":
            n, c, h, w = self.shape
            return (n, blocks(c, block), h, w, block)
        if self.layout == "local":
            k, c, r, s, p, q = self.shape
            return (blocks(k, block), p, q, blocks(c, block), r, s, block, block)
        k, c, r, s = self.shape
        if self.layout == "winograd":
            return (blocks(k, 2 * block), r * s, blocks(c, block) * block, 2, block)
        j = filter_blocks(k, c * self.groups, self.groups, block)
        return (blocks(k, block), j, r, s, block, block)

    def elements(self, block: int) -> int:
        """Stored elements, layout padding included."""
        return math.prod(self.storage_shape(block))

    def nbytes(self, block: int) -> int:
        """Stored bytes, layout padding included."""
        return self.elements(block) * ITEM_BYTES[self.dtype]

    @property
    def values(self) -> int:
        """Elements without padding."""
        return math.prod(self.shape)

    def __str__(self) -> str:
        return "x".join(map(str, self.shape))


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to a multiple of `ALIGN`."""
    return -(-nbytes // ALIGN) * ALIGN


def blocks(channels: int, block: int) -> int:
    """How many channel blocks hold `channels` channels."""
    return -(-channels // block)


def filter_start(k_block: int, k: int, c: int, groups: int, block: int) -> int:
    """First input channel block that output channel block `k_block` reads (0 when groups == 1)."""
    first_group = k_block * block // (k // groups)
    return first_group * (c // groups) // block


def filter_blocks(k: int, c: int, groups: int, block: int) -> int:
    """Input channel blocks per output channel block, the most that any of them needs.

    Args:
        k, c: output and input channels in all. groups: how many groups share them.
    """
    if groups == 1:
        return blocks(c, block)
    most = 0
    for k_block in range(blocks(k, block)):
        last_k = min((k_block + 1) * block, k) - 1
        end = (last_k // (k // groups) + 1) * (c // groups)
        most = max(most, blocks(end, block) - filter_start(k_block, k, c, groups, block))
    return most


def window_count(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: Pair = (0, 0),
    dilation: int = 1,
    rounding: str = "exact",
    who: str = "window",
) -> int:
    """How many windows fit along one axis: the output extent of conv and pool.

    Every layer that slides a window asks here; no other code computes an output size.

    Args:
        size: input length, in elements.
        kernel: window length, in taps.
        stride: distance between windows, in elements.
        pad: elements added before and after; may differ.
        dilation: distance between taps, in elements.
        rounding: what happens to a last, incomplete window: "exact" (an error), "floor" (dropped)
            or "ceil" (kept, as long as it starts inside the input or the padding before it).
        who: the layer, for the message.

    Raises:
        ShapeError: the window is longer than the padded input, or windows do not tile it exactly.
    """
    reach = (kernel - 1) * dilation + 1
    room = size + pad[0] + pad[1] - reach
    if room < 0:
        raise ShapeError(
            f"{who}: window reaches over {reach} elements but only {pad[0]}+{size}+{pad[1]} are there "
            f"(kernel={kernel}, dilation={dilation}); enlarge the input or the padding"
        )
    if room % stride and rounding == "exact":
        raise ShapeError(
            f"{who}: windows of {reach} at stride {stride} do not tile {pad[0]}+{size}+{pad[1]} elements: "
            f"({size} - {reach} + {pad[0] + pad[1]})/{stride} + 1 = {room / stride + 1:g}; "
            f"{_what_fits(size, reach, stride, pad)}"
        )
    count = room // stride + 1
    if rounding == "ceil" and room % stride and count * stride < size + pad[0]:
        count += 1
    return count


def _what_fits(size: int, reach: int, stride: int, pad: Pair) -> str:
    """Paddings and strides near the given ones for which the windows tile exactly."""
    total = pad[0] + pad[1]
    pads = [p for p in range(reach) if (size + 2 * p - reach) >= 0 and (size + 2 * p - reach) % stride == 0]
    strides = [s for s in range(1, reach + 1) if (size + total - reach) % s == 0]
    fits = []
    if pads:
        fits.append("pad=" + " or ".join(str(p) for p in sorted(pads, key=lambda p: abs(2 * p - total))[:3]))
    fits.append("stride=" + " or ".join(str(s) for s in sorted(strides, key=lambda s: abs(s - stride))[:3]))
    return ", or ".join(fits) + ' would fit, or ask for rounding="floor" or "ceil"'


def transposed_count(
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: Pair = (0, 0),
    dilation: int = 1,
    output_pad: int = 0,
    who: str,
) -> int:
    """The output extent of a transposed convolution: the input extent that `window_count` maps to `size`."""
    count = (size - 1) * stride + (kernel - 1) * dilation + 1 - pad[0] - pad[1] + output_pad
    if count < 1:
        raise ShapeError(
            f"{who}: {size} inputs of kernel {kernel} at stride {stride} minus the padding "
            f"{pad[0]}+{pad[1]} leave {count} outputs; lessen the padding"
        )
    return count


def is_whole(value: object) -> bool:
    """Whether a value is a number without fraction; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def pair(value: int | Sequence[int], who: str, *, least: int = 1) -> Pair:
    """An int or (rows, cols) as (rows, cols), checked to be at least `least` and at most LARGEST."""
    items = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(items) != 2 or not all(is_whole(v) and v >= least for v in items):
        raise ArgumentError(f"{who}: {value!r} is not a whole number >= {least}, or two of them (rows, cols)")
    if max(items) > LARGEST:
        raise ArgumentError(f"{who}: {value!r} is more than {LARGEST}, which no image needs")
    return items[0], items[1]


def pads(value: int | Sequence[int] | Sequence[Sequence[int]], who: str) -> Pads:
    """An int, (rows, cols) or ((top, bottom), (left, right)) as the last of these."""
    items: Sequence[object] = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(items) != 2:
        raise ArgumentError(
            f"{who}: {value!r} is not a padding: an int, (rows, cols) or ((top, bottom), (left, right))"
        )
    rows, cols = (pair(v, f"{who}: pad", least=0) for v in items)  # type: ignore[arg-type]
    return rows, cols
