"""Activations: one value in, one value out; and softmax, over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Context, Gradients, Layer, number, register


@register
class ReLU(Layer):
    """y = max(x, 0); the gradient at 0 is 0."""

    who = "relu"
    exact = True

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.maximum(inputs[0], 0)

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [np.where(inputs[0] > 0, dy, 0)], {}


@register
class LeakyReLU(Layer):
    """y = x where x > 0, else slope * x; the gradient at 0 is the slope, which is not negative, so that the
    sign of y tells that of x.
    """

    who = "leakyrelu"
    defaults: ClassVar[Attrs] = {"slope": 0.01}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        return {"slope": number(super().settings(attrs)["slope"], "leakyrelu: slope", lambda v: v >= 0, ">= 0")}

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.where(inputs[0] > 0, inputs[0], self.settings(attrs)["slope"] * inputs[0])

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [np.where(inputs[0] > 0, dy, self.settings(attrs)["slope"] * dy)], {}


@register
class ReLU6(Layer):
    """y = min(max(x, 0), 6); the gradient at 0 and at 6 is 0."""

    who = "relu6"
    spread = 3
    exact = True

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.clip(inputs[0], 0, 6)

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [np.where((inputs[0] > 0) & (inputs[0] < 6), dy, 0)], {}


@register
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)); dx = y (1 - y) dy."""

    who = "sigmoid"
    spread = 3

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        below = np.exp(-np.abs(inputs[0]))  # never overflows
        y: Array = np.where(inputs[0] >= 0, 1, below) / (1 + below)
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        y = self.compute(attrs, inputs, params)
        return [y * (1 - y) * dy], {}

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
    ) -> Gradients:
        return [self.compute(attrs, inputs, params) * np.abs(dy)], {}  # 1 - y cancels where y is near 1


@register
class Tanh(Layer):
    """y = tanh x; dx = (1 - y^2) dy."""

    who = "tanh"
    spread = 3

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.tanh(inputs[0])

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [(1 - np.square(np.tanh(inputs[0]))) * dy], {}

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
    ) -> Gradients:
        return [np.abs(dy)], {}  # 1 - y^2 cancels where y is near 1


@register
class Softmax(Layer):
    """y = exp(x) / sum of exp(x) over the channels; dx = y (dy - sum of y dy over the channels)."""

    who = "softmax"
    spread = 3

    def products(self, attrs: Attrs, shapes: Sequence[tuple[int, ...]]) -> int:
        return shapes[0][1]

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        powers = np.exp(inputs[0] - inputs[0].max(axis=1, keepdims=True))
        y: Array = powers / powers.sum(axis=1, keepdims=True)
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        y = self.compute(attrs, inputs, params)
        return [y * (dy - (y * dy).sum(axis=1, keepdims=True))], {}

    def magnitude(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays | None = None,
        *,
        train: bool = False,
        context: Context | None = None,
    ) -> Array:
        y = self.compute(attrs, inputs, params)
        below = inputs[0].max(axis=1, keepdims=True) - inputs[0]  # its rounding error is a factor of exp
        size: Array = y * (1 + below + (y * below).sum(axis=1, keepdims=True))
        return size

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
    ) -> Gradients:
        y, size = self.compute(attrs, inputs, params), np.abs(dy)
        y_size = self.magnitude(attrs, inputs, params)
        sums = [(factor * size).sum(axis=1, keepdims=True) for factor in (y, y_size)]
        return [y_size * (size + sums[0]) + y * sums[1]], {}


SHAPES = [
    ("one pixel", (1, 1, 1, 1)),
    ("odd everything", (2, 5, 3, 7)),
    ("channel tail", (1, 17, 2, 13)),
    ("flat", (3, 33, 1, 1)),
    ("channels fill blocks", (2, 16, 4, 4)),
    ("wide", (1, 3, 1, 57)),
    ("large", (5, 31, 29, 15)),
]
ONE_TO_ONE: list[tuple[str, Attrs]] = [
    ("ReLU", {}),
    ("LeakyReLU", {}),
    ("ReLU6", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
]

CASES = [Case(name, layer, attrs, (shape,)) for layer, attrs in ONE_TO_ONE for name, shape in SHAPES] + [
    Case("slope 0.25", "LeakyReLU", {"slope": 0.25}, ((2, 17, 3, 5),)),
    Case("slope 0", "LeakyReLU", {"slope": 0}, ((2, 3, 3, 5),)),
    Case("one class", "Softmax", {}, ((2, 1, 1, 1),)),
    Case("ten classes", "Softmax", {}, ((3, 10, 1, 1),)),
    Case("channels fill blocks", "Softmax", {}, ((1, 16, 1, 1),)),
    Case("channel tail", "Softmax", {}, ((2, 17, 1, 1),)),
    Case("map", "Softmax", {}, ((2, 5, 3, 7),)),
    Case("map, channel tail", "Softmax", {}, ((1, 33, 2, 13),)),
    Case("many classes", "Softmax", {}, ((5, 1000, 1, 1),)),
]

REFUSED = [
    Refusal("LeakyReLU", {"slope": "x"}, ((1, 3, 4, 4),), r"^leakyrelu: slope: 'x' is not a number >= 0$"),
    Refusal("LeakyReLU", {"slope": -0.5}, ((1, 3, 4, 4),), r"^leakyrelu: slope: -0\.5 is not a number >= 0$"),
    Refusal("LeakyReLU", {"slope": float("nan")}, ((1, 3, 4, 4),), r"^leakyrelu: slope: nan is not a number"),
    *(
        Refusal(layer, {}, ((3, 4),), rf"^{layer.lower()}: input shape \(3, 4\) is not \(N, C, H, W\)")
        for layer in ("ReLU", "LeakyReLU", "ReLU6", "Sigmoid", "Tanh", "Softmax")
    ),
]
