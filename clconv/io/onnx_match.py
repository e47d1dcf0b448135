"""Compositions of ONNX operators that are one operator here, recognised at their last node.

Exporters write some layers as many nodes. When the last of them is converted, its inputs are followed back to what
made them; reshaping between them counts for nothing. What only led to the composition is read by nobody any more
and disappears with `Graph.prune`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .._core.norm import LocalResponse, Response
from .onnx_values import Builder, Device, Host, Op, Tensor


def maker(b: Builder, x: Tensor | None, *ops: str) -> Op | None:
    """The node that computed a tensor on the device, if it is one of `ops`."""
    found = b.origin.get(x.value) if isinstance(x, Device) else None
    return found if found is not None and found.node.op in ops else None


def same(x: Tensor | None, y: Tensor | None) -> bool:
    """Whether two tensors are the same elements, in whatever shape."""
    return isinstance(x, Device) and isinstance(y, Device) and x.value is y.value


def with_number(op: Op | None) -> tuple[Device, float] | None:
    """The operands of an operation between a tensor and one known number, in either order."""
    if op is None or len(op.inputs) != 2:
        return None
    for x, number in (op.inputs, op.inputs[::-1]):
        if isinstance(x, Device) and isinstance(number, Host) and number.array.size == 1:
            return x, float(number.array.reshape(()))
    return None


def _ordered(op: Op | None) -> tuple[Device, float] | None:
    """The operands of an operation between a tensor and one known number behind it."""
    return with_number(op) if op is not None and isinstance(op.inputs[0], Device) else None


def squared(b: Builder, x: Tensor | None) -> Device | None:
    """v where x is v * v, or v to the power of 2."""
    op = maker(b, x, "Mul", "Pow")
    if op is None:
        return None
    first = op.inputs[0]
    if op.node.op == "Mul":
        return first if isinstance(first, Device) and same(first, op.inputs[1]) else None
    raised = _ordered(op)
    return raised[0] if raised is not None and raised[1] == 2 else None


# -------------------------------------------------------------------- local response normalisation


def local_response(b: Builder, x: Tensor, divisor: Tensor) -> Device | None:
    """x / (bias + alpha mean)^beta with the mean of x^2 over a window of channels, as PyTorch writes it.

    The window must lie as ONNX's LRN has it, of even sizes the larger half behind; PyTorch's lies the other way.
    """
    raised = _ordered(maker(b, divisor, "Pow"))
    added = with_number(maker(b, raised[0], "Add")) if raised else None
    scaled = with_number(maker(b, added[0], "Mul")) if added else None
    pool = maker(b, scaled[0], "AveragePool") if scaled else None
    if not (raised and added and scaled and pool) or not isinstance(x, Device) or len(x.shape) < 2:
        return None
    size = _window_over_channels(b, x, pool)
    if size is None:
        return None
    response = Response(size, scaled[1] / size, raised[1], added[1], across=True)
    return b.made(b.add(LocalResponse(response), b.image(x)), x.shape, x)


def _window_over_channels(b: Builder, x: Device, pool: Op) -> int | None:
    """The window of an average over channels of x^2, read as (N, 1, C, ...), zeros outside; None if it is not that."""
    kernel = pool.ints("kernel_shape") or ()
    size, axes = (kernel or (0,))[0], len(kernel)
    simple = (
        kernel[1:] == (1,) * (axes - 1)
        and set(pool.ints("strides") or (1,)) == {1}
        and set(pool.ints("dilations") or (1,)) == {1}
        and pool.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )
    if not simple:
        return None
    own = pool.ints("pads") or (0,) * (2 * axes)
    if any(own) and not pool.get("count_include_pad"):
        return None
    around = [(0, 0), (0, 0), *zip(own[:axes], own[axes:], strict=True)]
    inner = pool.inputs[0]
    pad = maker(b, inner, "Pad")
    if pad is not None:
        more = _zeros_around(pad)
        if more is None or len(more) != len(around):
            return None
        around = [(p + r, q + s) for (p, q), (r, s) in zip(around, more, strict=True)]
        inner = pad.inputs[0]
    expected: list[tuple[int, int]] = [(0, 0)] * len(around)
    expected[2] = ((size - 1) // 2, size // 2)
    read = (x.shape[0], 1, x.shape[1])
    if around != expected or not isinstance(inner, Device) or inner.shape[:3] != read or not same(squared(b, inner), x):
        return None
    return size


def _zeros_around(pad: Op) -> Sequence[tuple[int, int]] | None:
    """How many zeros a Pad adds before and behind each axis; None where it adds something else."""
    flat = pad.ints("pads", 1) or ()
    zero = pad.number(2, "constant_value") == 0 if pad.optional(2) is not None else pad.get("value", 0.0) == 0
    if pad.get("mode", "constant") != "constant" or not zero or pad.optional(3) is not None:
        return None
    half = len(flat) // 2
    return list(zip(flat[:half], flat[half:], strict=True))


# -------------------------------------------------------------------- gates


Gate = Callable[[Builder, Tensor | None], Tensor | None]


def gate_of(b: Builder, n: Op) -> tuple[Device, str] | None:
    """x and which it is: "silu" x sigmoid(x), "hard_swish" x clip(x/6 + 1/2, 0, 1), "mish" x tanh(softplus(x)).

    Hard swish may be written as x clip(x + 3, 0, 6) / 6, with the division behind the product or in front of it.
    """
    if n.node.op == "Div":
        divided = _ordered(n)
        product = maker(b, divided[0], "Mul") if divided and divided[1] == 6 else None
        x = None if product is None else _times(b, product, _clipped)
        return None if x is None else (x, "hard_swish")
    gates: tuple[tuple[Gate, str], ...] = ((_sigmoid, "silu"), (_hard_sigmoid, "hard_swish"), (_softplus_tanh, "mish"))
    for gate, name in gates:
        if (x := _times(b, n, gate)) is not None:
            return x, name
    return None


def _times(b: Builder, product: Op, gate: Gate) -> Device | None:
    """x where a product is x gate(x)."""
    for x, other in (product.inputs, product.inputs[::-1]):
        if isinstance(x, Device) and isinstance(other, Device) and x.shape == other.shape and same(gate(b, other), x):
            return x
    return None


def _softplus_tanh(b: Builder, y: Tensor | None) -> Tensor | None:
    """x where y is tanh(softplus(x))."""
    outer = maker(b, y, "Tanh")
    op = maker(b, outer.inputs[0], "Softplus") if outer else None
    return None if op is None else op.inputs[0]


def _sigmoid(b: Builder, y: Tensor | None) -> Tensor | None:
    """x where y is sigmoid(x)."""
    op = maker(b, y, "Sigmoid")
    return None if op is None else op.inputs[0]


def _hard_sigmoid(b: Builder, y: Tensor | None) -> Tensor | None:
    """x where y is x/6 + 1/2 clipped to 0..1."""
    op = maker(b, y, "HardSigmoid", "Div")
    if op is None:
        return None
    if op.node.op == "Div":
        divided = _ordered(op)
        return _clipped(b, divided[0]) if divided and divided[1] == 6 else None
    sixth = math.isclose(float(op.get("alpha", 0.2)), 1 / 6, rel_tol=1e-6)
    return op.inputs[0] if sixth and float(op.get("beta", 0.5)) == 0.5 else None


def _clipped(b: Builder, y: Tensor | None) -> Tensor | None:
    """x where y is x + 3 clipped to 0..6."""
    op = maker(b, y, "Clip")
    if op is None:
        return None
    bounds = [op.number(i, "bound") if op.optional(i) else op.get(name) for i, name in ((1, "min"), (2, "max"))]
    added = with_number(maker(b, op.inputs[0], "Add")) if bounds == [0, 6] else None
    return added[0] if added and added[1] == 3 else None


def gelu_of(b: Builder, n: Op) -> Device | None:
    """x where a product is x (1 + erf(x / sqrt(2))) / 2, in whatever order it is written; else None."""
    factors, number = _factors(b, n, 1.0)
    if len(factors) != 2 or not math.isclose(number, 0.5, rel_tol=1e-5):
        return None
    for x, other in (factors, factors[::-1]):
        added = with_number(maker(b, other, "Add"))
        erf = maker(b, added[0], "Erf") if added and added[1] == 1 else None
        inner = maker(b, erf.inputs[0], "Div", "Mul") if erf else None
        scaled = None if inner is None else _ordered(inner) if inner.node.op == "Div" else with_number(inner)
        if inner is None or scaled is None or not same(scaled[0], x) or x.shape != scaled[0].shape:
            continue
        factor = 1 / scaled[1] if inner.node.op == "Div" and scaled[1] else scaled[1]
        if math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5):
            return x
    return None


def _factors(b: Builder, n: Op, number: float) -> tuple[list[Device], float]:
    """Tensors and the number that a product of products multiplies, at most two deep."""
    factors: list[Device] = []
    for tensor in n.inputs:
        if isinstance(tensor, Host) and tensor.array.size == 1:
            number *= float(tensor.array.reshape(()))
        elif isinstance(tensor, Device):
            inner = maker(b, tensor, "Mul", "Div") if len(factors) < 2 else None
            scaled = _ordered(inner) if inner and inner.node.op == "Div" else with_number(inner)
            if scaled is not None and inner is not None and scaled[1]:
                factors.append(scaled[0])
                number *= 1 / scaled[1] if inner.node.op == "Div" else scaled[1]
            elif inner is not None and inner.node.op == "Mul" and n.node.op == "Mul":
                factors += [t for t in inner.inputs if isinstance(t, Device)]
            else:
                factors.append(tensor)
    return factors, number


# -------------------------------------------------------------------- normalisation over axes


def centred_of(b: Builder, n: Op) -> tuple[Device, tuple[int, ...], float] | None:
    """(x, axes, eps) where a quotient is (x - mean) / sqrt(mean of (x - mean)^2 + eps), means over `axes`."""
    divisor = maker(b, n.inputs[1], "Sqrt")
    added = with_number(maker(b, divisor.inputs[0], "Add")) if divisor else None
    var = maker(b, added[0], "ReduceMean") if added else None
    apart = squared(b, var.inputs[0]) if var else None
    centre = maker(b, apart, "Sub")
    mean = maker(b, centre.inputs[1], "ReduceMean") if centre else None
    if not (added and var and centre and mean) or not same(apart, n.inputs[0]):
        return None
    x = centre.inputs[0]
    rank = 0 if x is None else len(x.shape)
    axes = [tuple(sorted(a % rank for a in op.ints("axes", 1) or ())) for op in (mean, var)]
    kept = all(op.get("keepdims", 1) for op in (mean, var))
    if not isinstance(x, Device) or not same(mean.inputs[0], x) or axes[0] != axes[1] or not axes[0] or not kept:
        return None
    return x, axes[0], added[1]
