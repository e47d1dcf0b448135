"""Index arithmetic that the operators on row-major tensors share: strides, merged axes, kernel arguments."""

import math

from clconv.errors import ArgumentError, ShapeError
from clconv.shapes import TensorSpec

MAX_AXES = 6  # that a kernel's arguments hold
MAX_ELEMENTS = 2**31 - 1  # of a tensor: kernels count work-items and strides in 32 bits


def plain(shape, dtype="float32", who="plain"):
    """A row-major spec, checked to be one that the kernels can count."""
    shape = tuple(int(n) for n in shape)
    if any(n < 1 for n in shape):
        raise ShapeError(f"{who}: the result {shape} has no elements; every extent must be at least 1")
    if math.prod(shape) > MAX_ELEMENTS:
        raise ShapeError(f"{who}: the result {shape} has {math.prod(shape)} elements; at most {MAX_ELEMENTS} fit")
    return TensorSpec(shape, dtype, "plain")


def floats(who, specs):
    """Raises ArgumentError where an input is not float32."""
    for spec in specs:
        if spec is not None and spec.dtype != "float32":
            raise ArgumentError(f"{who}: {spec.dtype} input of shape {spec.shape}; float32 is needed")


def axis_of(who, axis, rank):
    """An axis counted from the end as one counted from the start."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{who}: axis {axis} of {rank}; {-rank} to {rank - 1} would fit")
    return axis % rank


def strides_of(shape):
    """Elements between neighbours along each axis of a row-major array."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def merged(who, extents, *strides):
    """(extents, strides...) with as few axes as name the same elements, at least one.

    Axes of extent 1 go; neighbours become one where all strides allow it.

    Raises:
        ShapeError: more than `MAX_AXES` are left.
    """
    kept = [i for i, n in enumerate(extents) if n > 1]
    out, walks = [], [[] for _ in strides]
    for i in kept:
        if out and all(w[-1] == s[i] * extents[i] for w, s in zip(walks, strides)):
            out[-1] *= extents[i]
            for walk, s in zip(walks, strides):
                walk[-1] = s[i]
        else:
            out.append(extents[i])
            for walk, s in zip(walks, strides):
                walk.append(s[i])
    if len(out) > MAX_AXES:
        raise ShapeError(f"{who}: {len(out)} axes are left of {tuple(extents)} after merging; at most {MAX_AXES} fit")
    if not out:
        out, walks = [1], [[1] for _ in strides]
    return (out, *walks)


def filled(values, fill, count=MAX_AXES):
    """`values` with `fill` in front, `count` in all."""
    return [fill] * (count - len(values)) + list(values)


def run_length(facts, inner):
    """(values of a row per work-item, work-items per row): items that run side by side take neighbouring values."""
    run = 1 if facts.work_group > 1 else min(64, inner)
    return run, -(-inner // run)


def aligned(nbytes):
    """Rounded up to where a piece of workspace may start."""
    return -(-nbytes // 64) * 64
