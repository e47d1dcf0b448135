"""The locally-connected layer: a convolution whose every place has its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..shapes import ROUNDINGS, pads, pair
from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Gradients, LinearLayer, Shape, one_of, register, truth, whole
from .windows import Windows, windows


@register
class Local(LinearLayer):
    """y[n,k,p,q] = bias[k,p,q] + sum over c, r, s of x[n, c, p*stride + r - pad, ...] * weight[k,c,r,s,p,q].

    Weight (K, C, R, S, P, Q), bias (K, P, Q).
    """

    who = "local"
    required = ("filters", "kernel")
    defaults: ClassVar[Attrs] = {"stride": 1, "pad": 0, "bias": True, "rounding": "exact"}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        return {
            "filters": whole(given["filters"], "local: filters"),
            "kernel": pair(given["kernel"], "local: kernel"),
            "stride": pair(given["stride"], "local: stride"),
            "pads": pads(given["pad"], "local"),
            "bias": truth(given["bias"], "local: bias"),
            "rounding": one_of(given["rounding"], ROUNDINGS, "local: rounding"),
        }

    def windows(self, attrs: Attrs, shapes: Sequence[Shape]) -> Windows:
        """The windows over the input."""
        given = self.settings(attrs)
        ((_, _, h, w),) = self.check_inputs(shapes)
        return windows((h, w), given["kernel"], given["stride"], given["pads"], rounding=given["rounding"], who="local")

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        count = self.windows(attrs, shapes).count
        return (shapes[0][0], attrs["filters"], *count)

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        given, (_, k, p, q) = self.settings(attrs), self.output_shape(attrs, shapes)
        weight: dict[str, Shape] = {"weight": (k, shapes[0][1], *given["kernel"], p, q)}
        return weight | ({"bias": (k, p, q)} if given["bias"] else {})

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        _, c, r, s, _, _ = self.parameters(attrs, shapes)["weight"]
        return c * r * s

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        k, _, r, s, _, _ = self.parameters(attrs, shapes)["weight"]
        return [k * r * s], dict.fromkeys(self.parameters(attrs, shapes), shapes[0][0])

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        taps = self.windows(attrs, [inputs[0].shape]).taps(inputs[0])
        y: Array = np.einsum("ncrspq,kcrspq->nkpq", taps, params["weight"])
        return y + params["bias"] if "bias" in params else y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        over = self.windows(attrs, [inputs[0].shape])
        dparams = {"weight": np.einsum("ncrspq,nkpq->kcrspq", over.taps(inputs[0]), dy)}
        if "bias" in params:
            dparams["bias"] = dy.sum(axis=0)
        return [over.scatter(np.einsum("kcrspq,nkpq->ncrspq", params["weight"], dy))], dparams


def _local(name: str, shape: Shape, filters: int, kernel: Any, **attrs: Any) -> Case:
    return Case(name, "Local", {"filters": filters, "kernel": kernel, **attrs}, (shape,))


def _refused(message: str, shape: Shape = (1, 3, 4, 4), **attrs: Any) -> Refusal:
    return Refusal("Local", {"filters": 4, "kernel": 3, **attrs}, (shape,), message)


CASES = [
    _local("one pixel", (1, 1, 1, 1), 1, 1),
    _local("one channel", (2, 1, 4, 5), 3, 3),
    _local("odd everything", (2, 3, 6, 7), 5, 3, stride=2, pad=((1, 0), (1, 1))),
    _local("same size", (2, 5, 4, 7), 15, 3, pad=1),
    _local("no bias", (3, 3, 5, 4), 4, (2, 3), bias=False),
    _local("channels fill blocks", (1, 16, 4, 5), 32, 3, pad=1),
    _local("channel tails", (2, 17, 3, 4), 33, (1, 2)),
    _local("1x1", (2, 31, 3, 2), 17, 1),
    _local("wide and flat", (1, 2, 1, 57), 3, (1, 3), stride=(1, 2)),
    _local("kernel is the image", (2, 5, 3, 4), 16, (3, 4)),
    _local("padding beyond half", (1, 3, 3, 2), 2, 3, pad=2),
    _local("floor", (1, 3, 8, 7), 5, 3, stride=(2, 3), rounding="floor"),
    _local("ceil", (1, 3, 8, 7), 5, 3, stride=(2, 3), rounding="ceil"),
    _local("long sum", (1, 512, 4, 4), 2, 3),
]

REFUSED = [
    _refused(r"^local: window reaches over 5 elements but only 0\+4\+0 are there", kernel=5),
    _refused(r"^local: windows of 3 at stride 2 do not tile 0\+4\+0 elements", stride=2),
    _refused(r"^local: filters: 0 is not a whole number >= 1$", filters=0),
    _refused(r"^local: kernel: 0 is not a whole number >= 1", kernel=0),
    _refused(r"^local: stride: 0 is not a whole number >= 1", stride=0),
    _refused(r"^local: pad: -1 is not a whole number >= 0", pad=-1),
    _refused(r"""^local: rounding: 'up' is not "exact", "floor" or "ceil"$""", rounding="up"),
    _refused(r"^local: input shape \(3, 4\) is not \(N, C, H, W\)", (3, 4)),
]
