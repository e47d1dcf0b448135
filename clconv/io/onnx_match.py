"""Compositions of ONNX operators that are one operator here, recognised at their last node.

Exporters write some layers as many nodes. When the last of them is converted, its inputs are followed back to what
made them; reshaping between them counts for nothing. What only led to the composition is read by nobody any more
and disappears with `Graph.prune`.
"""

from __future__ import annotations

from collections.abc import Sequence

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
