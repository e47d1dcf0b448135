"""Activations: ReLU, leaky ReLU, ReLU6, sigmoid, tanh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core.activation import Activation
from ..graph import Value
from .base import Build, Layer


@dataclass(frozen=True)
class ReLU(Layer):
    """y = max(0, x)."""

    kind: ClassVar[str] = "relu"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(Activation("relu"), *xs)


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """y = x where x > 0, else slope * x."""

    slope: float = 0.01

    kind: ClassVar[str] = "leakyrelu"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(Activation("leaky_relu", self.slope), *xs)


@dataclass(frozen=True)
class ReLU6(Layer):
    """y = min(max(0, x), 6)."""

    kind: ClassVar[str] = "relu6"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(Activation("relu6"), *xs)


@dataclass(frozen=True)
class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x))."""

    kind: ClassVar[str] = "sigmoid"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(Activation("sigmoid"), *xs)


@dataclass(frozen=True)
class Tanh(Layer):
    """y = tanh(x)."""

    kind: ClassVar[str] = "tanh"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(Activation("tanh"), *xs)
