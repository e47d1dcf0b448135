"""The locally-connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core.local import Local2d
from .._core.window import Window
from ..graph import Value
from ..shapes import TensorSpec
from .base import Build, IntPair, Layer, PadLike


@dataclass(frozen=True)
class Local(Layer):
    """Locally-connected: a convolution whose every place has its own weights, (N, C, H, W) -> (N, K, P, Q).

    Args:
        filters: output channels K.
        kernel: window (rows, cols), or one number for both.
        stride: distance between windows, likewise.
        pad: zeros around the image: one number, (rows, cols) or ((top, bottom), (left, right)).
        bias: whether there is a b, one per output.
        rounding: "exact" (windows must tile the padded image, the rule of the CS231n notes), "floor" or "ceil".

    Parameters: weight (K, C, R, S, P, Q), bias (K, P, Q).

    Raises:
        ArgumentError: an argument that no input could make right.
        ShapeError: sizes that do not fit the input.
    """

    filters: int
    kernel: IntPair
    stride: IntPair = 1
    pad: PadLike = 0
    bias: bool = True
    rounding: str = "exact"

    kind: ClassVar[str] = "local"

    def build(self, b: Build, *xs: Value) -> Value:
        given = self.settings
        window = Window(given["kernel"], given["stride"], given["pads"], rounding=given["rounding"])
        k, c, r, s, p, q = b.shapes["weight"]
        weight = b.param(
            "weight",
            TensorSpec((k, c, r, s, p, q), layout="local"),
            init="weight",
            fans=(c * r * s, k * r * s),
        )
        bias = b.param("bias", TensorSpec((1, k, p, q))) if self.bias else None
        return b.add(Local2d(window), *xs, weight, bias)
