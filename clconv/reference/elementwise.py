"""What joins branches or only reshapes: add, concatenate, flatten."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Gradients, LinearLayer, Shape, register


@register
class Add(LinearLayer):
    """The sum of two or more inputs of one shape."""

    who = "add"
    least_inputs = 2
    most_inputs = sys.maxsize

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        self.settings(attrs)
        first, *others = self.check_inputs(shapes)
        for shape in others:
            if shape != first:
                raise ShapeError(f"add: input shapes {first} and {shape} differ; equal ones would fit")
        return first

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        return len(shapes)

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.asarray(sum(inputs))

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [dy.copy() for _ in inputs], {}


@register
class Concat(LinearLayer):
    """The channels of two or more inputs, one input after the other."""

    who = "concat"
    least_inputs = 2
    most_inputs = sys.maxsize

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        self.settings(attrs)
        first, *others = self.check_inputs(shapes)
        for shape in others:
            if (shape[0], *shape[2:]) != (first[0], *first[2:]):
                raise ShapeError(
                    f"concat: input shapes {first} and {shape} differ in more than the channels; "
                    f"({first[0]}, any, {first[2]}, {first[3]}) would fit"
                )
        return (first[0], sum(shape[1] for shape in shapes), *first[2:])

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        y: Array = np.concatenate(inputs, axis=1)
        return y

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        ends = np.cumsum([x.shape[1] for x in inputs])
        return [piece.copy() for piece in np.split(dy, ends[:-1], axis=1)], {}


@register
class Flatten(LinearLayer):
    """(N, C, H, W) as (N, C*H*W, 1, 1), in (C, H, W) order."""

    who = "flatten"

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        n, *image = super().output_shape(attrs, shapes)
        return n, math.prod(image), 1, 1

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        return np.array(inputs[0]).reshape(len(inputs[0]), -1, 1, 1)

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        return [dy.reshape(inputs[0].shape).copy()], {}


def _concat(name: str, n: int, channels: Sequence[int], h: int, w: int) -> Case:
    return Case(name, "Concat", {}, tuple((n, c, h, w) for c in channels))


CASES = [
    Case("one pixel", "Add", {}, ((1, 1, 1, 1),) * 2),
    Case("odd everything", "Add", {}, ((2, 5, 3, 7),) * 2),
    Case("three", "Add", {}, ((2, 17, 2, 13),) * 3),
    Case("channels fill blocks", "Add", {}, ((1, 32, 4, 4),) * 2),
    Case("flat", "Add", {}, ((3, 33, 1, 1),) * 5),
    Case("large", "Add", {}, ((5, 31, 29, 15),) * 2),
    _concat("one pixel", 1, (1, 1), 1, 1),
    _concat("two odd pieces", 2, (3, 5), 3, 7),
    _concat("three pieces that fill blocks", 1, (16, 32, 16), 5, 4),
    _concat("three uneven pieces", 2, (5, 17, 3), 4, 3),
    _concat("full block, then a tail", 2, (16, 15), 2, 13),
    _concat("tail, then full blocks", 1, (1, 48), 7, 2),
    _concat("flat", 3, (33, 10), 1, 1),
    _concat("five pieces", 1, (1, 2, 3, 4, 31), 3, 5),
    _concat("large", 5, (31, 17), 29, 15),
    Case("one pixel", "Flatten", {}, ((1, 1, 1, 1),)),
    Case("odd everything", "Flatten", {}, ((2, 5, 3, 7),)),
    Case("channels fill blocks", "Flatten", {}, ((2, 16, 4, 4),)),
    Case("channel tail", "Flatten", {}, ((3, 17, 2, 13),)),
    Case("already flat", "Flatten", {}, ((2, 33, 1, 1),)),
    Case("wide", "Flatten", {}, ((1, 3, 1, 57),)),
    Case("large", "Flatten", {}, ((5, 48, 14, 15),)),
]

REFUSED = [
    Refusal("Add", {}, ((1, 3, 4, 4),), r"^add: takes 2 or more inputs, not 1$"),
    Refusal(
        "Add",
        {},
        ((1, 3, 4, 4), (1, 3, 4, 5)),
        r"^add: input shapes \(1, 3, 4, 4\) and \(1, 3, 4, 5\) differ; equal ones would fit$",
    ),
    Refusal(
        "Add",
        {},
        ((1, 3, 4, 4), (1, 1, 4, 4)),
        r"^add: input shapes \(1, 3, 4, 4\) and \(1, 1, 4, 4\) differ",
    ),
    Refusal("Concat", {}, ((1, 3, 4, 4),), r"^concat: takes 2 or more inputs, not 1$"),
    Refusal(
        "Concat",
        {},
        ((1, 3, 4, 4), (1, 5, 4, 4), (1, 3, 5, 4)),
        r"^concat: input shapes \(1, 3, 4, 4\) and \(1, 3, 5, 4\) differ in more than the channels; "
        r"\(1, any, 4, 4\) would fit$",
    ),
    Refusal("Concat", {}, ((1, 3, 4, 4), (2, 3, 4, 4)), r"^concat: input shapes .* differ in more than the"),
    Refusal("Flatten", {}, ((1, 3, 4, 4), (1, 3, 4, 4)), r"^flatten: takes 1 input, not 2$"),
    Refusal("Flatten", {}, ((1, 3, 4),), r"^flatten: input shape \(1, 3, 4\) is not \(N, C, H, W\)"),
]
