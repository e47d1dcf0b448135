"""ONNX normalisation, softmax and dropout."""

from __future__ import annotations

import math

import numpy as np

from .._core.dropout import Dropout
from .._core.norm import LocalResponse, Response
from .._core.norm_batch import BatchNormInfer, BatchNormTrain
from .._core.softmax import Softmax
from ..shapes import TensorSpec
from .onnx_elementwise import combine
from .onnx_shape import axis_of
from .onnx_table import operator
from .onnx_values import Builder, Device, Host, Op, Tensor, Unsupported, known


@operator("BatchNormalization")
def batch_normalization(b: Builder, n: Op) -> Tensor | list[Tensor | None]:
    """With the running statistics or, in a network that trains, with the batch's."""
    x = n.x()
    if n.get("training_mode"):
        from .onnx_compose import batch_statistics

        return batch_statistics(b, n)
    weight, shift, mean, var = (known(n.x(i), "statistics") for i in range(1, 5))
    channels = TensorSpec((1, x.shape[1] if len(x.shape) > 1 else 1, 1, 1))
    stored = [
        b.param(weight, channels),
        b.param(shift, channels),
        b.param(mean, channels, role="state"),
        b.param(var, channels, role="state"),
    ]
    eps = float(n.get("epsilon", 1e-5))
    layer = BatchNormTrain(1 - float(n.get("momentum", 0.9)), eps) if b.train else BatchNormInfer(eps)
    return b.made(b.add(layer, b.image(x), *stored), x.shape, x)


@operator("LRN")
def lrn(b: Builder, n: Op) -> Tensor:
    """Local response normalisation across channels; alpha is divided by the size."""
    size, x = int(n.get("size", 0)), n.x()
    if size < 1:
        raise Unsupported(f"size {size}: 1 or more is expected")
    share = float(n.get("alpha", 1e-4)) / size
    size = min(size, 2 * x.shape[1] + 1)  # such a window reaches over all channels from each
    response = Response(size, share, float(n.get("beta", 0.75)), float(n.get("bias", 1.0)), across=True)
    return b.made(b.add(LocalResponse(response), b.image(x)), x.shape, x)


@operator("InstanceNormalization")
def instance_normalization(b: Builder, n: Op) -> Tensor:
    """Each channel of each image by its own mean and variance."""
    from .._core.plain_reduce import InstanceNorm

    x = n.x()
    weight, shift = known(n.x(1), "scale"), known(n.x(2), "bias")
    if (found := normed_by_groups(b, x, x.shape[1], weight, shift, float(n.get("epsilon", 1e-5)))) is not None:
        return found
    layer = InstanceNorm(float(n.get("epsilon", 1e-5)))
    spec = TensorSpec((x.shape[1],), layout="plain")
    y = b.add(layer, b.plain(x), b.param(weight, spec), b.param(shift, spec))
    return b.made(y, x.shape, x)


def normed_by_groups(b: Builder, x: Tensor, groups: int, weight: Host, shift: Host, eps: float) -> Tensor | None:
    """Normalisation by groups of channels, of images in channel blocks as they are or read as (N, groups, ...).

    Args:
        weight, shift: one number per channel, or one per group.
    """
    if not isinstance(x, Device) or x.value.spec.layout != "block" or x.value.spec.shape[0] != x.shape[0]:
        return None
    channels = x.value.spec.shape[1]
    if channels % groups or channels % weight.array.size:
        return None
    from .._core.norm_group import GroupNorm

    spec = TensorSpec((1, channels, 1, 1))
    own = [
        b.param(given, spec) if given.array.size == channels
        else b.channels(np.repeat(given.array.reshape(-1), channels // given.array.size))
        for given in (weight, shift)
    ]  # fmt: skip
    return b.made(b.add(GroupNorm(groups, eps), x.value, *own), x.shape, x)


@operator("Softmax", "LogSoftmax")
def softmax(b: Builder, n: Op) -> Tensor:
    """Over one axis; before opset 13 over all axes from that one on."""
    x, log = n.x(), n.node.op == "LogSoftmax"
    rank = len(x.shape)
    axis = axis_of(int(n.get("axis", -1 if n.opset >= 13 else 1)), rank)
    to = axis + 1 if n.opset >= 13 else rank
    over_channels = axis == 1 and math.prod(x.shape[2:to]) == 1 and rank <= 4
    if not log and over_channels and isinstance(x, Device) and (x.blocked or rank == 2):
        return b.made(b.add(Softmax(), b.image(x)), x.shape, x)
    from .._core.plain_reduce import SoftmaxAxis

    return b.made(b.add(SoftmaxAxis(axis, to, log), b.plain(x)), x.shape, x)


@operator("Dropout")
def dropout(b: Builder, n: Op) -> list[Tensor | None]:
    """Nothing at test time; in a network that trains, Philox random numbers as in `clconv.Dropout`."""
    x = n.x()
    training = n.optional(2)
    if training is not None and bool(known(training, "training_mode").array) and _rate(n) > 0:
        return _seeded_dropout(b, n, x)
    mask = None
    if len(n.node.outputs) > 1 and n.node.outputs[1]:
        mask = b.fold(np.ones(x.shape, bool), None)
    if not b.train or _rate(n) == 0:
        return [x, mask]
    b.index += 1
    counters = b.graph.persistent.get("counters") or b.graph.persist(
        "counters", TensorSpec((4,), "int32", "plain"), "control"
    )
    return [b.made(b.add(Dropout(_rate(n), b.index), b.image(x), counters), x.shape, x), mask]


def _seeded_dropout(b: Builder, n: Op, x: Tensor) -> list[Tensor | None]:
    """Dropout that the file itself asks for, with the random numbers of ONNX's reference implementation."""
    if n.get("seed") is None:
        raise Unsupported("training_mode is set without a seed, so that its random numbers are not defined")
    kept = np.random.RandomState(int(n.get("seed"))).uniform(0, 1, x.shape) >= _rate(n)
    scaled = kept.astype(np.float32) / np.float32(1 - _rate(n))
    return [combine(b, "Mul", x, b.fold(scaled)), b.fold(kept)]


def _rate(n: Op) -> float:
    if n.optional(1) is not None:
        return n.number(1, "ratio")
    return float(n.get("ratio", 0.5))
