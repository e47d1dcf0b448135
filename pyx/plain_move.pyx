"""Operators that only move values of row-major tensors: no arithmetic, any type of 32 bits."""

import math
import struct

from clconv.errors import ArgumentError, ShapeError

from clconv._core.layer import Cost, Layer
from clconv._core.plain_elementwise import broadcast, broadcast_strides, sum_to
from clconv._core.plain_index import MAX_AXES, axis_of, filled, merged, plain, run_length, strides_of

PAD_MODES = ("constant", "reflect", "edge", "wrap")  # codes of cl/plain_move.cl


class Move(Layer):
    """Base: an operator without arithmetic."""

    accepts = {"x": ("plain",)}

    def cost(self, specs, outs, facts):
        return Cost(0, 2 * sum(s.nbytes(facts.block) for s in outs))


def _copy(rec, x, y, extents, x_strides, y_strides, x_first=0, y_first=0):
    """y[y_first + i . y_strides] = x[x_first + i . x_strides] for all i below extents."""
    extents, xs, ys = merged("copy", extents, x_strides, y_strides)
    inner = extents[-1]
    run, runs = run_length(rec.facts, inner)
    items = math.prod(extents[:-1]) * runs
    outer = filled(extents, 1)[1:5]
    args = [x, y, items, run, runs, inner, *outer, *filled(xs, 0), *filled(ys, 0), x_first, y_first]
    rec.launch("plain_move.cl", "copy", (items,), args)


class Reshape(Move):
    """The same values in another shape; free where x is not needed afterwards."""

    inplace = {"y": ("x",)}
    reinterprets = True

    def __init__(self, shape):
        self.shape = tuple(shape)

    def infer(self, specs):
        if math.prod(self.shape) != specs[0].values:
            raise ShapeError(
                f"reshape: {specs[0].shape} has {specs[0].values} elements, {self.shape} {math.prod(self.shape)}; "
                "they must be as many"
            )
        return (plain(self.shape, specs[0].dtype, "reshape"),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(Reshape(values["x"].spec.shape), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        x, y = ins[0], outs[0]
        if x.slab is not y.slab or x.offset_bytes != y.offset_bytes:
            _copy(rec, x, y, [x.spec.values], [1], [1])


class Permute(Move):
    """Axis i of y is axis perm[i] of x."""

    def __init__(self, perm):
        self.perm = tuple(perm)
        if sorted(self.perm) != list(range(len(self.perm))):
            raise ArgumentError(f"permute: {self.perm} does not name each of {len(self.perm)} axes once")

    def infer(self, specs):
        shape = specs[0].shape
        if len(shape) != len(self.perm):
            raise ShapeError(f"permute: {shape} has {len(shape)} axes, {self.perm} {len(self.perm)}")
        y = tuple(shape[i] for i in self.perm)
        merged("permute", y, self._strides(shape))
        return (plain(y, specs[0].dtype),)

    def _strides(self, shape):
        strides = strides_of(shape)
        return [strides[i] for i in self.perm]

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(Permute(sorted(range(len(self.perm)), key=self.perm.__getitem__)), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        shape = outs[0].spec.shape
        _copy(rec, ins[0], outs[0], shape, self._strides(ins[0].spec.shape), strides_of(shape))


class Slice(Move):
    """y[i] = x[starts + i steps] for i below shape; steps may be negative, all that is read must be there."""

    def __init__(self, starts, steps, shape):
        self.starts = tuple(starts)
        self.steps = tuple(steps)
        self.shape = tuple(shape)

    def infer(self, specs):
        _check_slice(self, specs[0].shape, "slice")
        return (plain(self.shape, specs[0].dtype, "slice"),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(SliceGrad(self, values["x"].spec.shape), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        strides, first = _walk(self, ins[0].spec.shape)
        _copy(rec, ins[0], outs[0], self.shape, strides, strides_of(self.shape), x_first=first)


class SliceGrad(Move):
    """Zeros of `shape` with x where the slice reads: the gradient of `Slice`."""

    def __init__(self, part, shape):
        self.part = part
        self.shape = tuple(shape)

    def infer(self, specs):
        _check_slice(self.part, self.shape, "slice")
        return (plain(self.shape, specs[0].dtype),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(self.part, dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        strides, first = _walk(self.part, self.shape)
        items = outs[0].spec.values
        if items != ins[0].spec.values:
            rec.launch("plain_move.cl", "fill", (items,), [outs[0], items, 0])
        shape = self.part.shape
        _copy(rec, ins[0], outs[0], shape, strides_of(shape), strides, y_first=first)


def _check_slice(part, shape, who):
    if not len(shape) == len(part.starts) == len(part.steps) == len(part.shape):
        raise ShapeError(
            f"{who}: {shape} has {len(shape)} axes, but there are {len(part.starts)} starts, "
            f"{len(part.steps)} steps and {len(part.shape)} extents; one of each per axis"
        )
    for axis, (n, start, step, count) in enumerate(zip(shape, part.starts, part.steps, part.shape)):
        last = start + (count - 1) * step
        if count < 1 or step == 0 or not (0 <= start < n and 0 <= last < n):
            raise ShapeError(
                f"{who}: axis {axis} of {n} elements, but {count} from {start} at step {step} are asked for; "
                f"0 to {n - 1} are there, at least one must be taken and the step must not be 0"
            )


def _walk(part, shape):
    """Strides and first element of a slice of an array of `shape`."""
    strides = strides_of(shape)
    first = sum(start * s for start, s in zip(part.starts, strides))
    return [step * s for step, s in zip(part.steps, strides)], first


class PadTo(Move):
    """x with `before` and `after` elements added along each axis; negative ones are taken away.

    Modes: "constant" (`value`), "reflect" (mirrored at the edge value), "edge", "wrap" (periodic).
    """

    def __init__(self, before, after, mode="constant", value=0.0):
        if mode not in PAD_MODES:
            raise ArgumentError(f"pad: unknown mode {mode!r}; known are {', '.join(PAD_MODES)}")
        self.before = tuple(before)
        self.after = tuple(after)
        self.mode = mode
        self.value = value

    @property
    def differentiable(self):
        return self.mode == "constant"

    def infer(self, specs):
        shape = specs[0].shape
        if not len(shape) == len(self.before) == len(self.after):
            raise ShapeError(
                f"pad: {shape} has {len(shape)} axes, the padding {len(self.before)} and {len(self.after)}"
            )
        most = max((p for n, b, a in zip(shape, self.before, self.after) for p in (b - n + 1, a - n + 1)), default=0)
        if self.mode == "reflect" and most > 0:
            raise ShapeError(
                f"pad: {self.before} and {self.after} around {shape}: mirroring reaches {most} beyond the other edge; "
                "each must be less than the extent"
            )
        _merged_padding(shape, self.before, self.after)
        y = [n + b + a for n, b, a in zip(shape, self.before, self.after)]
        return (plain(y, specs[0].dtype, "pad"),)

    def gradient(self, emit, values, dy, wanted):
        shape = values["x"].spec.shape
        kept = [n + min(b, 0) + min(a, 0) for n, b, a in zip(shape, self.before, self.after)]
        inner = Slice([max(b, 0) for b in self.before], [1] * len(shape), kept)
        dx = emit(inner, dy["y"])
        if tuple(kept) == shape:
            return {"x": dx}
        return {"x": emit(PadTo([max(-b, 0) for b in self.before], [max(-a, 0) for a in self.after]), dx)}

    def record(self, rec, ins, outs, work, choice):
        value = _bits(self.value, ins[0].spec.dtype)
        _pad(rec, ins[0], outs[0], self.before, self.after, PAD_MODES.index(self.mode), value)


class Tile(Move):
    """x repeated: repeats[i] times along axis i."""

    def __init__(self, repeats):
        self.repeats = tuple(repeats)

    def _after(self, shape):
        return [n * (r - 1) for n, r in zip(shape, self.repeats)]

    def infer(self, specs):
        shape = specs[0].shape
        if len(shape) != len(self.repeats):
            raise ShapeError(f"tile: {shape} has {len(shape)} axes, {self.repeats} {len(self.repeats)}")
        y = plain([n * r for n, r in zip(shape, self.repeats)], specs[0].dtype, "tile")
        _merged_padding(shape, [0] * len(shape), self._after(shape))
        return (y,)

    def record(self, rec, ins, outs, work, choice):
        shape = ins[0].spec.shape
        _pad(rec, ins[0], outs[0], [0] * len(shape), self._after(shape), PAD_MODES.index("wrap"), 0)


def _bits(value, dtype):
    """A value's 32 bits as the int that a kernel argument takes."""
    return struct.unpack("<i", struct.pack("<f" if dtype == "float32" else "<i", value))[0]


def _merged_padding(shape, before, after):
    """(extent, before, after) of merged axes: neighbours without padding become one."""
    axes = []
    for n, b, a in zip(shape, before, after):
        if axes and not (b or a or axes[-1][1] or axes[-1][2]):
            axes[-1] = (axes[-1][0] * n, 0, 0)
        elif n > 1 or b or a:
            axes.append((n, b, a))
    if len(axes) > MAX_AXES:
        raise ShapeError(f"pad: {len(axes)} axes are left of {shape} after merging; at most {MAX_AXES} fit")
    return axes or [(1, 0, 0)]


def _pad(rec, x, y, before, after, mode, value):
    axes = _merged_padding(x.spec.shape, before, after)
    from_extents, leading = [n for n, _, _ in axes], [b for _, b, _ in axes]
    extents = [sum(axis) for axis in axes]
    run, runs = run_length(rec.facts, extents[-1])
    items = math.prod(extents[:-1]) * runs
    args = [x, y, items, run, runs, mode, value, *filled(extents, 1), *filled(from_extents, 1), *filled(leading, 0)]
    rec.launch("plain_move.cl", "pad", (items,), args)


class ConcatPlain(Move):
    """Joins `count` tensors along an axis."""

    def __init__(self, axis, count):
        self.axis = axis
        self.inputs = tuple(f"x{i}" for i in range(count))
        self.accepts = dict.fromkeys(self.inputs, ("plain",))

    def infer(self, specs):
        first = specs[0].shape
        axis = axis_of("concat", self.axis, len(first))
        for spec in specs[1:]:
            rest = list(spec.shape)
            if len(rest) == len(first):
                rest[axis] = first[axis]
            if tuple(rest) != first or spec.dtype != specs[0].dtype:
                raise ShapeError(
                    f"concat: {' and '.join(f'{s.shape} {s.dtype}' for s in specs)} along axis {axis}; "
                    "everything but that extent must be equal"
                )
        total = sum(spec.shape[axis] for spec in specs)
        return (plain((*first[:axis], total, *first[axis + 1 :]), specs[0].dtype, "concat"),)

    def gradient(self, emit, values, dy, wanted):
        gradients, first = {}, 0
        for name in self.inputs:
            shape = values[name].spec.shape
            axis = self.axis % len(shape)
            if name in wanted:
                starts = [first if i == axis else 0 for i in range(len(shape))]
                gradients[name] = emit(Slice(starts, [1] * len(shape), shape), dy["y"])
            first += shape[axis]
        return gradients

    def record(self, rec, ins, outs, work, choice):
        strides = strides_of(outs[0].spec.shape)
        at = 0
        for x in ins:
            shape = x.spec.shape
            axis = self.axis % len(shape)
            _copy(rec, x, outs[0], shape, strides_of(shape), strides, y_first=at * strides[axis])
            at += shape[axis]


class Expand(Move):
    """x broadcast with `shape`, as ONNX does: the larger extent of the two wins."""

    def __init__(self, shape):
        self.shape = tuple(shape)

    def infer(self, specs):
        y = plain(broadcast("expand", specs[0].shape, self.shape), specs[0].dtype, "expand")
        merged("expand", y.shape, broadcast_strides(specs[0].shape, y.shape))
        return (y,)

    def gradient(self, emit, values, dy, wanted):
        return {"x": sum_to(emit, dy["y"], values["x"].spec.shape)}

    def record(self, rec, ins, outs, work, choice):
        shape = outs[0].spec.shape
        _copy(rec, ins[0], outs[0], shape, broadcast_strides(ins[0].spec.shape, shape), strides_of(shape))


class GatherPlain(Move):
    """y = x taken at `indices` along an axis; negative ones count from the end.

    Args:
        indices: whole numbers, nested to any depth; None: they come as a second input, int32, clamped to what is
            there.
    """

    def __init__(self, axis, indices=None):
        self.axis = axis
        self.fixed = indices is not None
        if self.fixed:
            self.shape, self.indices = _flat(indices)
            return
        self.inputs = ("x", "indices")
        self.accepts = dict.fromkeys(self.inputs, ("plain",))

    def infer(self, specs):
        shape = specs[0].shape
        axis = axis_of("gather", self.axis, len(shape))
        n = shape[axis]
        if self.fixed and not all(-n <= i < n for i in self.indices):
            raise ShapeError(f"gather: indices {min(self.indices)} to {max(self.indices)} along an axis of {n}")
        if not self.fixed and specs[1].dtype != "int32":
            raise ArgumentError(f"gather: {specs[1].dtype} indices; int32 is needed")
        taken = self.shape if self.fixed else specs[1].shape
        return (plain((*shape[:axis], *taken, *shape[axis + 1 :]), specs[0].dtype, "gather"),)

    def record(self, rec, ins, outs, work, choice):
        shape = ins[0].spec.shape
        axis = self.axis % len(shape)
        outer, n, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
        if self.fixed:
            count = len(self.indices)
            at = 0
            for first, step, length in _progressions([i % n for i in self.indices]):
                extents, ys = [outer, length, inner], [count * inner, inner, 1]
                xs = [n * inner, step * inner, 1]
                _copy(rec, ins[0], outs[0], extents, xs, ys, x_first=first * inner, y_first=at * inner)
                at += length
            return
        count = ins[1].spec.values
        run, runs = run_length(rec.facts, inner)
        items = outer * count * runs
        rec.launch("plain_move.cl", "gather", (items,), [*ins, outs[0], items, run, runs, n, count, inner])


def _flat(indices):
    """(shape, flat list) of nested sequences of whole numbers, or of an array."""
    if hasattr(indices, "tolist"):
        indices = indices.tolist()
    if isinstance(indices, int):
        return (), [indices]
    parts = [_flat(part) for part in indices]
    if not parts:
        raise ArgumentError("gather: no indices; at least one is needed")
    if len({shape for shape, _ in parts}) != 1:
        raise ArgumentError("gather: the indices are nested unevenly")
    return (len(parts), *parts[0][0]), [i for _, flat in parts for i in flat]


def _progressions(indices):
    """Splits indices into runs of equal steps: (first, step, count) each."""
    at = 0
    while at < len(indices):
        step = indices[at + 1] - indices[at] if at + 1 < len(indices) else 1
        end = at + 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        yield indices[at], step, end - at
        at = end


class SpaceToDepth(Move):
    """(N, C, H, W) -> (N, block^2 C, H/block, W/block); channel (row, column, c), as in ONNX."""

    def __init__(self, block):
        self.block = block

    def infer(self, specs):
        n, c, h, w = _four_axes("space to depth", specs[0].shape)
        size = self.block
        if h % size or w % size:
            raise ShapeError(f"space to depth: {h}x{w} pixels in blocks of {size}; both must be multiples")
        return (plain((n, c * size * size, h // size, w // size), specs[0].dtype),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(DepthToSpace(self.block, "DCR"), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = ins[0].spec.shape
        size = self.block
        split = (n, c, h // size, size, w // size, size)
        _permuted(rec, ins[0], outs[0], split, (0, 3, 5, 1, 2, 4))


class DepthToSpace(Move):
    """(N, C, H, W) -> (N, C/block^2, block H, block W); "DCR": channels are (row, column, c)."""

    def __init__(self, block, mode="DCR"):
        if mode not in ("DCR", "CRD"):
            raise ArgumentError(f"depth to space: unknown mode {mode!r}; known are DCR and CRD")
        self.block = block
        self.mode = mode

    def infer(self, specs):
        n, c, h, w = _four_axes("depth to space", specs[0].shape)
        size = self.block
        if c % (size * size):
            raise ShapeError(f"depth to space: {c} channels for blocks of {size}x{size}; it must be a multiple")
        return (plain((n, c // (size * size), h * size, w * size), specs[0].dtype),)

    def gradient(self, emit, values, dy, wanted):
        if self.mode == "DCR":
            return {"x": emit(SpaceToDepth(self.block), dy["y"])}
        n, c, h, w = values["x"].spec.shape
        size = self.block
        apart = emit(Reshape((n, c // (size * size), h, size, w, size)), dy["y"])
        return {"x": emit(Reshape((n, c, h, w)), emit(Permute((0, 1, 3, 5, 2, 4)), apart))}

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = ins[0].spec.shape
        size = self.block
        depth = c // (size * size)
        if self.mode == "DCR":
            _permuted(rec, ins[0], outs[0], (n, size, size, depth, h, w), (0, 3, 4, 1, 5, 2))
        else:
            _permuted(rec, ins[0], outs[0], (n, depth, size, size, h, w), (0, 1, 4, 2, 5, 3))


def _four_axes(who, shape):
    if len(shape) != 4:
        raise ShapeError(f"{who}: {shape} has {len(shape)} axes; (N, C, H, W) is needed")
    return shape


def _permuted(rec, x, y, split, perm):
    """y = x, seen in the shape `split`, with its axes permuted."""
    strides = strides_of(split)
    shape = [split[i] for i in perm]
    _copy(rec, x, y, shape, [strides[i] for i in perm], strides_of(shape))
