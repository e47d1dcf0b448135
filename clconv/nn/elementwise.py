"""Layers that join or reshape: add, concatenate, flatten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core import elementwise, layout
from ..graph import Value
from .base import Build, Layer


@dataclass(frozen=True)
class Add(Layer):
    """y = a + b + ..., all of one shape. `a + b` of two symbols means the same."""

    kind: ClassVar[str] = "add"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(elementwise.Add(len(xs)), *xs)


@dataclass(frozen=True)
class Concat(Layer):
    """Joins its inputs along the channels; batch, height and width must be equal."""

    kind: ClassVar[str] = "concat"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(elementwise.Concat(len(xs)), *xs)


@dataclass(frozen=True)
class Flatten(Layer):
    """(N, C, H, W) -> (N, C*H*W, 1, 1), in the order of C, H, W. `FC` needs none in front of it."""

    kind: ClassVar[str] = "flatten"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(layout.Flatten(), *xs)
