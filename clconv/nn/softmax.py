"""Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core import softmax
from ..graph import Value
from .base import Build, Layer


@dataclass(frozen=True)
class Softmax(Layer):
    """y = exp(x) / sum of exp(x) over the channels of each pixel.

    Not needed before the loss "softmax", which takes scores.
    """

    kind: ClassVar[str] = "softmax"

    def build(self, b: Build, *xs: Value) -> Value:
        return b.add(softmax.Softmax(), *xs)
