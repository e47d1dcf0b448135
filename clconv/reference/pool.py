"""Pooling: the largest, the mean or the Euclidean norm of each window, or the mean of the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..errors import ArgumentError
from ..shapes import ROUNDINGS, pads, pair
from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Context, Gradients, Layer, LinearLayer, Shape, one_of, register, truth
from .windows import Windows, windows


class Pool(Layer):
    """What the pooling layers share: windows of each channel."""

    defaults: ClassVar[Attrs] = {"kernel": 2, "stride": None, "pad": 0, "rounding": "exact"}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        kernel = pair(given["kernel"], f"{self.who}: kernel")
        around = pads(given["pad"], self.who)
        for size, before_after in zip(kernel, around, strict=True):
            if max(before_after) >= size:
                raise ArgumentError(
                    f"{self.who}: padding of {max(before_after)} is not less than the window's {size} "
                    f"elements, so a window would see nothing but padding; at most {size - 1} would fit"
                )
        stride = kernel if given["stride"] is None else pair(given["stride"], f"{self.who}: stride")
        rounding = one_of(given["rounding"], ROUNDINGS, f"{self.who}: rounding")
        return {**given, "kernel": kernel, "stride": stride, "pads": around, "rounding": rounding}

    def windows(self, attrs: Attrs, shapes: Sequence[Shape]) -> Windows:
        """The windows over the input."""
        given = self.settings(attrs)
        ((_, _, h, w),) = self.check_inputs(shapes)
        return windows(
            (h, w), given["kernel"], given["stride"], given["pads"], rounding=given["rounding"], who=self.who
        )

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        return (*shapes[0][:2], *self.windows(attrs, shapes).count)

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        r, s = self.settings(attrs)["kernel"]
        return int(r * s)


@register
class MaxPool(Pool):
    """The largest element of each window; the gradient goes to the first of equals, in scan order.

    Padding is -inf: it is never the largest.
    """

    who = "maxpool"
    exact = True

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        taps = self.windows(attrs, [inputs[0].shape]).taps(inputs[0], fill=-np.inf)
        y: Array = taps.max(axis=(2, 3))
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        over = self.windows(attrs, [inputs[0].shape])
        n, c, r, s, p, q = (taps := over.taps(inputs[0], fill=-np.inf)).shape
        first = taps.reshape(n, c, r * s, p, q).argmax(axis=2)
        dtaps = np.zeros((n, c, r * s, p, q))
        np.put_along_axis(dtaps, first[:, :, None], dy[:, :, None], axis=2)
        return [over.scatter(dtaps.reshape(taps.shape))], {}


@register
class AvgPool(Pool, LinearLayer):
    """The mean of each window over the elements that are in the image, or, with `count_pad`, over those
    in the image and its padding (as 0). What a last window of rounding="ceil" reaches beyond the padding
    never counts: PyTorch's rule.
    """

    who = "avgpool"
    exact = False  # a mean is rarely a whole number
    defaults: ClassVar[Attrs] = {**Pool.defaults, "count_pad": False}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        return {**given, "count_pad": truth(given["count_pad"], "avgpool: count_pad")}

    def _divisors(self, attrs: Attrs, over: Windows) -> Array:
        """How many elements each window counts, (1, 1, 1, 1, P, Q)."""
        counted = np.ones((1, 1, *over.size))
        if self.settings(attrs)["count_pad"]:
            size = (sum(over.pads[0]) + over.size[0], sum(over.pads[1]) + over.size[1])
            counted = np.ones((1, 1, *size))
            over = Windows(size, over.kernel, over.stride, ((0, 0), (0, 0)), over.dilation, over.count)
        divisors: Array = over.taps(counted).sum(axis=(2, 3), keepdims=True)
        return divisors

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        over = self.windows(attrs, [inputs[0].shape])
        y: Array = (over.taps(inputs[0]) / self._divisors(attrs, over)).sum(axis=(2, 3))
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        over = self.windows(attrs, [inputs[0].shape])
        spread = np.ones((1, 1, *over.kernel, 1, 1)) / self._divisors(attrs, over)
        return [over.scatter(dy[:, :, None, None] * spread)], {}


@register
class L2Pool(Pool):
    """y = sqrt(sum of x^2 over the window); dx = x / y * dy, and 0 where the norm y is 0."""

    who = "l2pool"

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        taps = self.windows(attrs, [inputs[0].shape]).taps(inputs[0])
        y: Array = np.sqrt(np.square(taps).sum(axis=(2, 3)))
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        over = self.windows(attrs, [inputs[0].shape])
        y = self.compute(attrs, inputs, params)
        per_norm = np.divide(dy, y, out=np.zeros_like(y), where=y != 0)
        return [over.scatter(over.taps(inputs[0]) * per_norm[:, :, None, None])], {}

    def gradient_magnitude(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays | None,
        dy: Array,
        *,
        train: bool = True,
        context: Context | None = None,
    ) -> tuple[list[Array], dict[str, Array]]:
        return self.gradient(attrs, [np.abs(inputs[0])], params, {}, np.abs(dy))


@register
class GlobalAvgPool(LinearLayer):
    """The mean of each channel's image, (N, C, 1, 1)."""

    who = "gap"
    exact = False

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        self.settings(attrs)
        ((n, c, _, _),) = self.check_inputs(shapes)
        return n, c, 1, 1

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        return shapes[0][2] * shapes[0][3]

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        return [1], {}

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        y: Array = inputs[0].mean(axis=(2, 3), keepdims=True)
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        h, w = inputs[0].shape[2:]
        return [np.broadcast_to(dy / (h * w), inputs[0].shape).copy()], {}


WINDOWS: list[tuple[str, Shape, Attrs]] = [
    ("one pixel", (1, 1, 1, 1), {"kernel": 1}),
    ("default", (2, 3, 6, 4), {}),
    ("channel tail", (1, 17, 8, 14), {}),
    ("overlapping 3x3/2", (2, 5, 7, 9), {"kernel": 3, "stride": 2}),
    ("overlapping 3x3/2, pad 1", (1, 16, 13, 7), {"kernel": 3, "stride": 2, "pad": 1}),
    ("overlapping 5x5/3", (1, 33, 14, 11), {"kernel": 5, "stride": 3}),
    ("same size", (3, 15, 5, 6), {"kernel": 3, "stride": 1, "pad": 1}),
    ("gaps", (1, 4, 10, 6), {"kernel": 2, "stride": 4}),
    ("uneven", (2, 3, 9, 13), {"kernel": (2, 3), "stride": (1, 2), "pad": ((1, 0), (0, 2))}),
    ("padding beyond half", (1, 5, 4, 7), {"kernel": 3, "stride": 2, "pad": ((2, 1), (2, 2))}),
    ("floor", (1, 5, 7, 31), {"kernel": 3, "stride": 3, "rounding": "floor"}),
    ("ceil", (2, 31, 8, 6), {"kernel": 3, "stride": 2, "rounding": "ceil"}),
    ("ceil, pad", (1, 3, 6, 15), {"kernel": 3, "stride": (2, 4), "pad": 1, "rounding": "ceil"}),
    ("wide and flat", (1, 2, 1, 57), {"kernel": (1, 3), "stride": (1, 2)}),
    ("window is the image", (2, 48, 7, 5), {"kernel": (7, 5)}),
    ("window of 17x17", (1, 3, 17, 29), {"kernel": 17, "stride": (1, 4)}),  # 289 places, more than a byte
    ("batch 5", (5, 32, 29, 15), {"kernel": 3, "stride": 2}),
]

CASES = [
    Case(name, layer, attrs, (shape,)) for layer in ("MaxPool", "AvgPool", "L2Pool") for name, shape, attrs in WINDOWS
] + [
    Case("count_pad", "AvgPool", {"kernel": 3, "stride": 2, "pad": 1, "count_pad": True}, ((2, 17, 7, 9),)),
    Case(
        "count_pad, ceil",
        "AvgPool",
        {"kernel": 3, "stride": (2, 4), "pad": 1, "count_pad": True, "rounding": "ceil"},
        ((1, 3, 6, 15),),
    ),
    Case(
        "count_pad, uneven",
        "AvgPool",
        {"kernel": (3, 2), "stride": (2, 1), "pad": ((2, 0), (0, 1)), "count_pad": True},
        ((1, 5, 5, 6),),
    ),
    Case("one pixel", "GlobalAvgPool", {}, ((1, 1, 1, 1),)),
    Case("odd everything", "GlobalAvgPool", {}, ((2, 5, 3, 7),)),
    Case("channels fill blocks", "GlobalAvgPool", {}, ((1, 32, 7, 7),)),
    Case("channel tail", "GlobalAvgPool", {}, ((3, 17, 2, 13),)),
    Case("wide and flat", "GlobalAvgPool", {}, ((1, 3, 1, 57),)),
    Case("long sum", "GlobalAvgPool", {}, ((1, 33, 57, 61),)),  # 3477 terms
]

REFUSED = [
    refusal
    for layer in ("MaxPool", "AvgPool", "L2Pool")
    for refusal in (
        Refusal(
            layer,
            {"kernel": 5},
            ((1, 3, 4, 4),),
            rf"^{layer.lower()}: window reaches over 5 elements but only 0\+4\+0 are there \(kernel=5",
        ),
        Refusal(
            layer,
            {},
            ((1, 3, 8, 7),),
            rf"^{layer.lower()}: windows of 2 at stride 2 do not tile 0\+7\+0 .* = 3\.5; stride=1 would fit",
        ),
        Refusal(
            layer,
            {"kernel": 3, "pad": 3},
            ((1, 3, 8, 8),),
            rf"^{layer.lower()}: padding of 3 is not less than the window's 3 .*; at most 2 would fit$",
        ),
        Refusal(layer, {"kernel": 0}, ((1, 3, 8, 8),), rf"^{layer.lower()}: kernel: 0 is not a whole number >= 1"),
        Refusal(layer, {"stride": 0}, ((1, 3, 8, 8),), rf"^{layer.lower()}: stride: 0 is not a whole number >= 1"),
        Refusal(layer, {"pad": -1}, ((1, 3, 8, 8),), rf"^{layer.lower()}: pad: -1 is not a whole number >= 0"),
        Refusal(
            layer,
            {"rounding": "up"},
            ((1, 3, 8, 8),),
            rf"^{layer.lower()}: rounding: 'up' is not \"exact\", \"floor\"",
        ),
        Refusal(layer, {}, ((3, 8, 8),), rf"^{layer.lower()}: input shape \(3, 8, 8\) is not \(N, C, H, W\)"),
    )
] + [Refusal("GlobalAvgPool", {}, ((3, 8),), r"^gap: input shape \(3, 8\) is not \(N, C, H, W\)")]
