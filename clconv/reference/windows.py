"""Sliding windows: the values that each window sees, and the sum back onto the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..shapes import Pads, Pair, window_count
from .layer import Array


@dataclass(frozen=True)
class Windows:
    """P x Q windows of R x S taps over an image of H x W."""

    size: Pair  # H, W
    kernel: Pair  # R, S
    stride: Pair
    pads: Pads
    dilation: Pair
    count: Pair  # P, Q

    @property
    def reach(self) -> Pair:
        """Elements from a window's first tap to its last, both included."""
        return (self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1

    @property
    def after(self) -> Pair:
        """Elements added below and to the right: the padding, or more where a last window overhangs it."""
        needed = [(self.count[i] - 1) * self.stride[i] + self.reach[i] for i in (0, 1)]
        extra = [max(self.pads[i][1], needed[i] - self.size[i] - self.pads[i][0]) for i in (0, 1)]
        return extra[0], extra[1]

    def taps(self, x_nchw: Array, fill: float = 0.0) -> Array:
        """What each window sees, (N, C, R, S, P, Q); outside the image it sees `fill`."""
        around = [(0, 0), (0, 0)] + [(self.pads[i][0], self.after[i]) for i in (0, 1)]
        padded = np.pad(x_nchw, around, constant_values=fill)
        seen = sliding_window_view(padded, self.reach, axis=(2, 3))
        seen = seen[:, :, :: self.stride[0], :: self.stride[1], :: self.dilation[0], :: self.dilation[1]]
        taps: Array = seen[:, :, : self.count[0], : self.count[1]].transpose(0, 1, 4, 5, 2, 3)
        return taps

    def scatter(self, taps_ncrspq: Array) -> Array:
        """Adds each window's taps to the elements they came from: the transpose of `taps`, (N, C, H, W)."""
        n, c = taps_ncrspq.shape[:2]
        (top, left), (h, w) = (self.pads[0][0], self.pads[1][0]), self.size
        padded = np.zeros((n, c, top + h + self.after[0], left + w + self.after[1]))
        for r in range(self.kernel[0]):
            for s in range(self.kernel[1]):
                rows = slice(r * self.dilation[0], None, self.stride[0])
                cols = slice(s * self.dilation[1], None, self.stride[1])
                target = padded[:, :, rows, cols]
                target[:, :, : self.count[0], : self.count[1]] += taps_ncrspq[:, :, r, s]
        return padded[:, :, top : top + h, left : left + w]


def windows(
    size: Pair,
    kernel: Pair,
    stride: Pair,
    pads: Pads,
    *,
    dilation: Pair = (1, 1),
    rounding: str,
    who: str,
) -> Windows:
    """The windows that fit; ShapeError as `window_count` says."""
    rows, cols = (
        window_count(
            size[i],
            kernel[i],
            stride=stride[i],
            pad=pads[i],
            dilation=dilation[i],
            rounding=rounding,
            who=who,
        )
        for i in (0, 1)
    )
    return Windows(size, kernel, stride, pads, dilation, (rows, cols))
