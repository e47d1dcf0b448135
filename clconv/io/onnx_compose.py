"""ONNX operators that are made of others on the device."""

from __future__ import annotations

import math

import numpy as np

from .onnx_elementwise import channel_norm, combine, gated, unary
from .onnx_norm import normed_by_groups
from .onnx_reduce import reduced
from .onnx_shape import axis_of, reread
from .onnx_table import operator
from .onnx_values import Builder, Host, Op, Tensor, Unsupported


def batch_statistics(b: Builder, n: Op) -> list[Tensor | None]:
    """BatchNormalization with the batch's statistics, and the running ones after it."""
    x = n.x()
    axes = tuple(i for i in range(len(x.shape)) if i != 1)
    line = (x.shape[1], *(1,) * (len(x.shape) - 2))
    mean = reduced(b, "ReduceMean", x, axes, True)
    centred = combine(b, "Sub", x, mean)
    var = reduced(b, "ReduceMean", combine(b, "Mul", centred, centred), axes, True)
    deviation = unary(b, combine(b, "Add", var, b.fold(np.float32(n.get("epsilon", 1e-5)))), "sqrt")
    y = combine(b, "Mul", combine(b, "Div", centred, deviation), reread(b, n.x(1), line))
    outputs: list[Tensor | None] = [combine(b, "Add", y, reread(b, n.x(2), line))]
    share = float(n.get("momentum", 0.9))
    for running, batch in ((n.x(3), mean), (n.x(4), var)):
        kept = combine(b, "Mul", running, b.fold(np.float32(share)))
        new = combine(b, "Mul", reread(b, batch, (x.shape[1],)), b.fold(np.float32(1 - share)))
        outputs.append(combine(b, "Add", kept, new))
    return outputs


@operator("MeanVarianceNormalization")
def mean_variance_normalization(b: Builder, n: Op) -> Tensor:
    """(x - mean) / deviation over some axes."""
    x = n.x()
    axes = tuple(axis_of(a, len(x.shape)) for a in (n.ints("axes") or (0, 2, 3)))
    centred = combine(b, "Sub", x, reduced(b, "ReduceMean", x, axes, True))
    var = reduced(b, "ReduceMean", combine(b, "Mul", centred, centred), axes, True)
    return combine(b, "Div", centred, combine(b, "Add", unary(b, var, "sqrt"), b.fold(np.float32(1e-9))))


@operator("LayerNormalization")
def layer_normalization(b: Builder, n: Op) -> list[Tensor | None]:
    """(x - mean) / deviation over the last axes, scaled and shifted element by element."""
    x = n.x()
    axes = tuple(range(axis_of(int(n.get("axis", -1)), len(x.shape)), len(x.shape)))
    if len(axes) == 1 and len(n.node.outputs) == 1:
        found = channel_norm(b, x, axes[0], float(n.get("epsilon", 1e-5)), n.x(1), n.optional(2))
        if found is not None:
            return [found]
    mean = reduced(b, "ReduceMean", x, axes, True)
    centred = combine(b, "Sub", x, mean)
    var = reduced(b, "ReduceMean", combine(b, "Mul", centred, centred), axes, True)
    raised = combine(b, "Add", var, b.fold(np.float32(n.get("epsilon", 1e-5))))
    inverse = unary(b, unary(b, raised, "sqrt"), "reciprocal")
    y = combine(b, "Mul", combine(b, "Mul", centred, inverse), n.x(1))
    given = n.optional(2)
    return [y if given is None else combine(b, "Add", y, given), mean, inverse]


@operator("GroupNormalization")
def group_normalization(b: Builder, n: Op) -> Tensor:
    """Each group of channels of each image by its own mean and variance."""
    x, groups = n.x(), int(n.get("num_groups"))
    weight, bias, eps = n.x(1), n.x(2), float(n.get("epsilon", 1e-5))
    if isinstance(weight, Host) and isinstance(bias, Host):
        found = normed_by_groups(b, x, groups, weight, bias, eps)
        if found is not None:
            return found
    rows = reread(b, x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
    centred = combine(b, "Sub", rows, reduced(b, "ReduceMean", rows, (2,), True))
    var = reduced(b, "ReduceMean", combine(b, "Mul", centred, centred), (2,), True)
    deviation = unary(b, combine(b, "Add", var, b.fold(np.float32(n.get("epsilon", 1e-5)))), "sqrt")
    y = reread(b, combine(b, "Div", centred, deviation), x.shape)
    line = (x.shape[1], *(1,) * (len(x.shape) - 2))
    scale, shift = n.x(1), n.x(2)
    if scale.shape == (groups,) != (x.shape[1],):  # opset 18: one number per group
        y = reread(b, y, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
        line = (groups, 1, *(1,) * (len(x.shape) - 2))
    y = combine(b, "Add", combine(b, "Mul", y, reread(b, scale, line)), reread(b, shift, line))
    return reread(b, y, x.shape)


@operator("Gelu")
def gelu(b: Builder, n: Op) -> Tensor:
    """x times the normal distribution function at x, exact or by tanh."""
    return unary(b, n.x(), "gelu_tanh" if n.one_of("approximate", "none", "tanh") == "tanh" else "gelu")


@operator("Shrink")
def shrink(b: Builder, n: Op) -> Tensor:
    """Towards zero by `bias`; what is nearer than `lambd` becomes zero."""
    x, lambd, bias = n.x(), float(n.get("lambd", 0.5)), float(n.get("bias", 0.0))
    far = unary(b, x, "thresholded_relu", lambd)
    near = unary(b, unary(b, x, "neg"), "thresholded_relu", lambd)
    kept = combine(b, "Sub", far, near)
    return combine(b, "Sub", kept, combine(b, "Mul", unary(b, kept, "sign"), b.fold(np.float32(bias))))


@operator("LpNormalization")
def lp_normalization(b: Builder, n: Op) -> Tensor:
    """x over its norm along an axis; where the norm is 0, so is x."""
    x = n.x()
    axis = axis_of(int(n.get("axis", -1)), len(x.shape))
    if (p := n.get("p", 2)) not in (1, 2):
        raise Unsupported(f"p {p}: 1 and 2 are supported")
    norm = reduced(b, f"ReduceL{p}", x, (axis,), True)
    return combine(b, "Div", x, unary(b, norm, "clip", float(np.finfo(np.float32).tiny), math.inf))


@operator("Swish")
def swish(b: Builder, n: Op) -> Tensor:
    """x sigmoid(alpha x)."""
    alpha = float(n.get("alpha", 1.0))
    return gated(b, n.x(), "silu") if alpha == 1 else unary(b, n.x(), "silu", alpha)
