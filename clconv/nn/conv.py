"""Convolution and transposed convolution."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from .._core.conv import Conv2d, ConvTranspose2d
from .._core.conv_depthwise import DepthwiseConv2d, DepthwiseTranspose2d
from .._core.window import Window
from ..graph import Value
from ..shapes import TensorSpec
from .base import Build, IntPair, Layer, PadLike


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution: y[n,k] = b[k] + sum over c of w[k,c] * x[n,c], (N, C, H, W) -> (N, K, P, Q).

    Args:
        filters: output channels K.
        kernel: window (rows, cols), or one number for both.
        stride: distance between windows, likewise.
        pad: zeros around the image: one number, (rows, cols) or ((top, bottom), (left, right)).
        dilation: distance between taps.
        groups: input and output channels are split into so many groups that do not mix; C makes it depthwise.
        bias: whether there is a b.
        rounding: "exact" (windows must tile the padded image, the rule of the CS231n notes), "floor" or "ceil".

    Parameters: weight (K, C/groups, R, S), bias (K,).

    Raises:
        ArgumentError: an argument that no input could make right.
        ShapeError: sizes that do not fit the input.
    """

    filters: int
    kernel: IntPair
    stride: IntPair = 1
    pad: PadLike = 0
    dilation: IntPair = 1
    groups: int = 1
    bias: bool = True
    rounding: str = "exact"

    kind: ClassVar[str] = "conv"

    def build(self, b: Build, *xs: Value) -> Value:
        given = self.settings
        window = Window(given["kernel"], given["stride"], given["pads"], given["dilation"], given["rounding"])
        k, c_group, r, s = b.shapes["weight"]
        if depthwise := _is_depthwise(self.groups, c_group, k):
            spec = TensorSpec((1, k, r, s))
        else:
            spec = TensorSpec((k, c_group, r, s), layout="filter", groups=self.groups)
        fans = (c_group * r * s, k // self.groups * r * s)
        weight = b.param("weight", spec, init="weight", fans=fans)
        bias = b.param("bias") if self.bias else None
        return b.add(DepthwiseConv2d(window) if depthwise else Conv2d(window), *xs, weight, bias)


@dataclass(frozen=True)
class ConvTranspose(Layer):
    """Transposed convolution, the gradient of `Conv` as a layer: (N, C, P, Q) -> (N, K, H, W).

    H = (P - 1) * stride + (R - 1) * dilation + 1 - padding + output_pad. Arguments as for `Conv`;
    output_pad adds rows and columns at the end, where a floor in the matching `Conv` would drop some.

    Parameters: weight (C, K/groups, R, S), bias (K,).
    """

    filters: int
    kernel: IntPair
    stride: IntPair = 1
    pad: PadLike = 0
    output_pad: IntPair = 0
    dilation: IntPair = 1
    groups: int = 1
    bias: bool = True

    kind: ClassVar[str] = "convtranspose"

    def build(self, b: Build, *xs: Value) -> Value:
        given = self.settings
        window = Window(given["kernel"], given["stride"], given["pads"], given["dilation"])
        size = self.reference.output_shape(self.arguments, [xs[0].spec.shape])[2:]
        c, k_group, r, s = b.shapes["weight"]
        if depthwise := _is_depthwise(self.groups, k_group, c):
            spec = TensorSpec((1, c, r, s))
        else:
            spec = TensorSpec((k_group * self.groups, c // self.groups, r, s), layout="filter", groups=self.groups)
        # An output gets a product from every stride-th tap only.
        fans = (max(1, c // self.groups * r * s // prod(given["stride"])), k_group * r * s)
        weight = b.param("weight", spec, init="weight", fans=fans, swap=not depthwise)
        bias = b.param("bias") if self.bias else None
        operator = DepthwiseTranspose2d(window, size) if depthwise else ConvTranspose2d(window, size)
        return b.add(operator, *xs, weight, bias)


def _is_depthwise(groups: int, per_group: int, channels: int) -> bool:
    """Whether each channel is convolved by itself; a lone channel is not: its image may come row-major."""
    return groups == channels > 1 and per_group == 1
