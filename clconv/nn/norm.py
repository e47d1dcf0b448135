"""Normalisation: of a value by its neighbours, of a channel by the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .._core.norm import LocalResponse, Response
from .._core.norm_batch import BatchNormInfer, BatchNormTrain
from ..graph import Value
from .base import Build, Layer


@dataclass(frozen=True)
class LRN(Layer):
    """Local response normalisation: y = x * (k + alpha / M * sum of x^2 over M neighbours)^-beta.

    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks" (2012);
    as in ONNX and PyTorch, alpha is divided by the number of neighbours, which the paper does not do.

    Args:
        size: neighbours: (size - 1) / 2 before and behind; an even size has one more behind.
        alpha: weight of the squares, at least 0.
        beta: exponent, at least 0.
        k: what is added to the sum, above 0.
        region: "across": the neighbours are M = size channels; "within": M = size^2 pixels of the same map.
            Those outside count as zeros.

    Raises:
        ArgumentError: an argument out of range.
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0
    region: str = "across"

    kind: ClassVar[str] = "lrn"

    def build(self, b: Build, *xs: Value) -> Value:
        given = self.settings
        share = given["alpha"] / given["terms"]
        _, c, h, w = xs[0].spec.shape
        across = self.region == "across"
        size = min(given["size"], 2 * (c if across else max(h, w)) + 1)  # wider windows reach over nothing more
        response = Response(size, share, given["beta"], given["k"], across=across)
        return b.add(LocalResponse(response), *xs)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation: y = weight * (x - mean) / sqrt(var + eps) + bias, per channel.

    Ioffe and Szegedy, "Batch normalization" (2015). In training, mean and (biased) variance are those of the
    batch, over N, H and W, and the running statistics move towards them; otherwise the running ones count.

    Args:
        momentum: share of the batch in the new running statistics, 0 to 1.
        eps: added to the variance, above 0.

    Parameters: weight (C,), bias (C,). State: running_mean (C,), running_var (C,), which takes the unbiased
    variance.

    Raises:
        ArgumentError: an argument out of range.
        ShapeError: training with one value per channel.
    """

    momentum: float = 0.1
    eps: float = 1e-5

    kind: ClassVar[str] = "bn"

    def build(self, b: Build, *xs: Value) -> Value:
        given = self.settings
        weight, bias = b.param("weight", init="ones"), b.param("bias")
        mean = b.param("running_mean", role="state")
        var = b.param("running_var", init="ones", role="state")
        layer = BatchNormTrain(given["momentum"], given["eps"]) if b.train else BatchNormInfer(given["eps"])
        return b.add(layer, *xs, weight, bias, mean, var)
