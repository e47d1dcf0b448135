"""The fully-connected layer."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from .._core.fc import FullyConnected
from .._core.layout import Flatten as FlattenOperator
from ..graph import Value
from ..shapes import TensorSpec
from .base import Build, Layer


@dataclass(frozen=True)
class FC(Layer):
    """Fully-connected: y[n,k] = b[k] + sum over all values of image n, (N, C, H, W) -> (N, units, 1, 1).

    Args:
        units: outputs per image.
        bias: whether there is a b.

    Parameters: weight (units, C*H*W), in the order of C, H, W; bias (units,).
    """

    units: int
    bias: bool = True

    kind: ClassVar[str] = "fc"

    def build(self, b: Build, *xs: Value) -> Value:
        (x,) = xs
        if x.producer is not None and type(x.producer.layer) is FlattenOperator:
            (x,) = x.producer.reads  # the weights' order is that of the flattened image already
        _, c, h, w = x.spec.shape
        weight = b.param(
            "weight",
            TensorSpec((self.units, c, h, w), layout="filter"),
            init="weight",
            fans=(prod((c, h, w)), self.units),
        )
        bias = b.param("bias") if self.bias else None
        return b.add(FullyConnected(), x, weight, bias)
