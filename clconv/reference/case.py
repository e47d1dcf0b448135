"""A case is data: a layer, its arguments and input shapes; or arguments and shapes that it refuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .layer import LAYERS, Array, Layer, Shape

SMALL_WORK = 50_000
"""Products that a simulator of a device gets through in a moment."""


@dataclass(frozen=True)
class Values:
    """Float64 arrays of float32 values, so that a device computes from the very same numbers."""

    inputs: list[Array]
    params: dict[str, Array]
    state: dict[str, Array]
    dy: Array


@dataclass(frozen=True)
class Case:
    """Arguments and input shapes that a layer must get right."""

    name: str
    layer: str  # public name, a key of LAYERS
    attrs: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ((1, 1, 1, 1),)

    @property
    def reference(self) -> Layer:
        """The formula that the layer has to agree with."""
        return LAYERS[self.layer]

    @property
    def work(self) -> int:
        """Products summed in the forward pass, or values read and written where these are more."""
        outputs = math.prod(self.reference.output_shape(self.attrs, self.shapes))
        touched = sum(math.prod(shape) for shape in self.shapes) + outputs
        touched += sum(map(math.prod, self.reference.parameters(self.attrs, self.shapes).values()))
        return max(touched, outputs * self.reference.products(self.attrs, self.shapes))

    @property
    def small(self) -> bool:
        """Fit for a slow simulator."""
        return self.work < SMALL_WORK

    def values(self, seed: int = 0, *, whole: bool = False) -> Values:
        """Seeded inputs, parameters, state and output gradient.

        Args:
            whole: whole numbers -3..3, many of them equal (ties!), else normally distributed ones;
                the inputs of some layers spread further.
        """
        rng = np.random.default_rng([seed, whole])

        def draw(shape: Shape, spread: int = 1) -> Array:
            most = 3 * spread
            drawn = rng.integers(-most, most + 1, shape) if whole else spread * rng.standard_normal(shape)
            return drawn.astype(np.float32).astype(np.float64)

        shapes = self.reference.parameters(self.attrs, self.shapes)
        states = self.reference.state(self.attrs, self.shapes)
        return Values(
            inputs=[draw(shape, self.reference.spread) for shape in self.shapes],
            params={name: draw(shape) for name, shape in shapes.items()},
            # a running variance is not negative; 0.5 and more also keeps 1/sqrt of it of order 1
            state={n: np.abs(draw(s)) + 0.5 if n.endswith("var") else draw(s) for n, s in states.items()},
            dy=draw(self.reference.output_shape(self.attrs, self.shapes)),
        )

    def __str__(self) -> str:
        return f"{self.layer}: {self.name}"


@dataclass(frozen=True)
class Refusal:
    """Arguments and input shapes that a layer must refuse, and what its message must match."""

    layer: str
    attrs: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    message: str  # a regular expression, for re.search
    train: bool = False  # only training refuses it

    def __str__(self) -> str:
        return f"{self.layer}: {self.message}"
