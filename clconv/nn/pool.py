"""Pooling: the largest, the mean or the Euclidean norm of each window, or the mean of the whole image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core import pool
from .._core.window import Window
from ..graph import Value
from .base import Build, IntPair, Layer, PadLike


def _window(layer: Layer) -> Window:
    given = layer.settings
    return Window(given["kernel"], given["stride"], given["pads"], rounding=given["rounding"])


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest element of each window, (N, C, H, W) -> (N, C, P, Q); padding is never the largest.

    Args:
        kernel: window (rows, cols), or one number for both.
        stride: distance between windows, likewise; left out, that of windows side by side (= kernel).
        pad: elements around the image: one number, (rows, cols) or ((top, bottom), (left, right)); less than
            the window.
        rounding: "exact" (windows must tile the padded image), "floor" or "ceil".

    The gradient goes to the first of equals, in scan order. Training keeps a byte per output for it (four
    where a window has more than 256 elements), and neither the input nor the output.

    Raises:
        ArgumentError: an argument that no input could make right.
        ShapeError: sizes that do not fit the input.
    """

    kernel: IntPair = 2
    stride: IntPair | None = None
    pad: PadLike = 0
    rounding: str = "exact"

    kind: ClassVar[str] = "pool"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(pool.Pool2d("max", _window(self), places=b.train), *xs)


@dataclass(frozen=True)
class AvgPool(Layer):
    """The mean of each window; arguments as for `MaxPool`.

    A window counts its elements in the image or, with `count_pad`, in the image and its padding (as zeros).
    What a last window of rounding="ceil" reaches beyond the padding never counts.
    """

    kernel: IntPair = 2
    stride: IntPair | None = None
    pad: PadLike = 0
    rounding: str = "exact"
    count_pad: bool = False

    kind: ClassVar[str] = "pool"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(pool.Pool2d("avg", _window(self), self.count_pad), *xs)


@dataclass(frozen=True)
class L2Pool(Layer):
    """The Euclidean norm of each window, y = sqrt(sum of x^2); arguments as for `MaxPool`.

    Where the norm is 0, so is the gradient.
    """

    kernel: IntPair = 2
    stride: IntPair | None = None
    pad: PadLike = 0
    rounding: str = "exact"

    kind: ClassVar[str] = "pool"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(pool.Pool2d("l2", _window(self)), *xs)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """The mean of each channel's image, (N, C, H, W) -> (N, C, 1, 1)."""

    kind: ClassVar[str] = "gap"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(pool.GlobalAvgPool(), *xs)
