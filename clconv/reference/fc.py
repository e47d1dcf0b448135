"""The fully-connected layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Gradients, LinearLayer, Shape, register, truth, whole


@register
class FC(LinearLayer):
    """y = weight @ x + bias for each image, flattened in (C, H, W) order.

    Weight (units, C*H*W), bias (units,); output (N, units, 1, 1).
    """

    who = "fc"
    required = ("units",)
    defaults: ClassVar[Attrs] = {"bias": True}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        return {"units": whole(given["units"], "fc: units"), "bias": truth(given["bias"], "fc: bias")}

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        units: int = self.settings(attrs)["units"]
        return self.check_inputs(shapes)[0][0], units, 1, 1

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        given = self.settings(attrs)
        weight: dict[str, Shape] = {"weight": (given["units"], math.prod(shapes[0][1:]))}
        return weight | ({"bias": (given["units"],)} if given["bias"] else {})

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        return math.prod(shapes[0][1:])

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        return [attrs["units"]], dict.fromkeys(self.parameters(attrs, shapes), shapes[0][0])

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        y: Array = inputs[0].reshape(len(inputs[0]), -1) @ params["weight"].T
        y = y + params["bias"] if "bias" in params else y
        return y[:, :, None, None]

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        x, dy = inputs[0].reshape(len(inputs[0]), -1), dy[:, :, 0, 0]
        dparams = {"weight": dy.T @ x}
        if "bias" in params:
            dparams["bias"] = dy.sum(axis=0)
        return [(dy @ params["weight"]).reshape(inputs[0].shape)], dparams


CASES = [
    Case("one value", "FC", {"units": 1}, ((1, 1, 1, 1),)),
    Case("odd everything", "FC", {"units": 7}, ((3, 5, 3, 2),)),
    Case("flat input", "FC", {"units": 10}, ((2, 33, 1, 1),)),
    Case("no bias", "FC", {"units": 17, "bias": False}, ((2, 15, 1, 3),)),
    Case("channels fill blocks", "FC", {"units": 32}, ((5, 16, 4, 4),)),
    Case("channel tail", "FC", {"units": 48}, ((1, 17, 5, 5),)),
    Case("many units", "FC", {"units": 1000}, ((1, 31, 2, 2),)),
    Case("wide image", "FC", {"units": 3}, ((2, 1, 1, 57),)),
    Case("long sum", "FC", {"units": 15}, ((2, 128, 7, 7),)),  # 6272 products
    Case("odd batch", "FC", {"units": 31}, ((37, 16, 2, 2),)),
]

REFUSED = [
    Refusal("FC", {"units": 0}, ((1, 3, 4, 4),), r"^fc: units: 0 is not a whole number >= 1$"),
    Refusal("FC", {"units": 2.5}, ((1, 3, 4, 4),), r"^fc: units: 2\.5 is not a whole number >= 1$"),
    Refusal("FC", {"units": 3, "bias": 1}, ((1, 3, 4, 4),), r"^fc: bias: 1 is not True or False$"),
    Refusal("FC", {"units": 3}, ((5, 3),), r"^fc: input shape \(5, 3\) is not \(N, C, H, W\)"),
]
