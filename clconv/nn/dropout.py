"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core import dropout
from ..graph import Value
from ..shapes import TensorSpec
from .base import Build, Layer


@dataclass(frozen=True)
class Dropout(Layer):
    """In training, drops each element with probability `rate` and divides the others by 1 - rate; else y = x.

    Which elements depends on seed, step, layer and element alone: neither on the device nor on the batch's
    neighbours (Philox4x32-10, Salmon et al., 2011).

    Args:
        rate: share of elements that are dropped, in [0, 1).
    """

    rate: float = 0.5

    kind: ClassVar[str] = "dropout"

    def build(self, b: Build, *xs: Value) -> Value:
        if not b.train:
            return xs[0]
        graph = b.graph
        counters = graph.persistent.get("counters") or graph.persist(
            "counters", TensorSpec((4,), "int32", "plain"), "control"
        )
        return b.add(dropout.Dropout(self.settings["rate"], b.index), *xs, counters)
