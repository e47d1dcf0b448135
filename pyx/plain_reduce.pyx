"""Reductions of row-major tensors over any axes, the index of the largest, softmax, instance normalisation."""

import math

from clconv.errors import ArgumentError, ShapeError

from clconv._core.layer import Choice, Cost, Layer, looped
from clconv._core.plain_elementwise import Binary, Unary
from clconv._core.plain_index import aligned, axis_of, filled, floats, plain, strides_of

# What cl/plain_reduce.cl accumulates, in the order of its codes; and how a reduction finishes.
ACCUMULATED = ("sum", "max", "min", "prod", "sum_abs", "sum_squares", "sum_squared_deviations")
AS_IS, SCALED, ROOT, LOGARITHM = range(4)
OPERATIONS = {
    "sum": ("sum", AS_IS),
    "mean": ("sum", SCALED),
    "max": ("max", AS_IS),
    "min": ("min", AS_IS),
    "prod": ("prod", AS_IS),
    "l1": ("sum_abs", AS_IS),
    "l2": ("sum_squares", ROOT),
    "sumsq": ("sum_squares", AS_IS),
    "log_sum": ("sum", LOGARITHM),
}
PARALLEL = 64  # work-items that a reduction is split into at least, where it is long enough
MOST_CHUNKS = 64
LEAST_VALUES = {"rows": 2048, "columns": 128}  # per chunk


class _Walk:
    """How a reduction runs through an array: merged axes, and how the reduced ones are split.

    The split depends on the shape alone, so that the order of a sum does not depend on the device's size.

    Attributes:
        kept, reduced: lists of (extent, stride), outermost first.
        by_rows: whether the innermost axis is reduced (asked for: it is, or has one element).
        total, outputs: values per output, outputs. per_chunk, chunks: the split of `total`.
    """

    def __init__(self, shape, axes, by_rows=False):
        groups = []
        for axis, (n, stride) in enumerate(zip(shape, strides_of(shape))):
            if n == 1:
                continue
            reduced = axis in axes
            if groups and groups[-1][2] is reduced:
                groups[-1] = (groups[-1][0] * n, stride, reduced)
            else:
                groups.append((n, stride, reduced))
        self.by_rows = by_rows or not groups or groups[-1][2]
        self.kept = [(n, s) for n, s, reduced in groups if not reduced]
        self.reduced = [(n, s) for n, s, reduced in groups if reduced]
        self.total = math.prod(n for n, _ in self.reduced)
        self.outputs = math.prod(n for n, _ in self.kept)
        parallel = self.outputs if self.by_rows else -(-self.outputs // 16)
        least = LEAST_VALUES["rows" if self.by_rows else "columns"]
        wanted = max(1, min(-(-PARALLEL // parallel), self.total // least, MOST_CHUNKS))
        self.per_chunk = -(-self.total // wanted)
        self.chunks = -(-self.total // self.per_chunk)

    @property
    def workspace_bytes(self):
        """Partial results, where there is more than one chunk."""
        return 4 * self.chunks * self.outputs if self.chunks > 1 else 0

    def record(self, rec, x, y, work, op, finish, scale=1.0, shift=None):
        """Launches: y = finished accumulation of x; `shift` holds a value per output for deviations."""
        block, code = rec.facts.block, ACCUMULATED.index(op)
        target, how = (y, finish) if self.chunks == 1 else (work, AS_IS)
        (_, rs0), (r1, rs1), (r2, rs2) = filled(self.reduced, (1, 0), 3)
        reduced = [self.total, self.per_chunk, r1, r2, rs0, rs1, rs2]
        if self.by_rows:
            (_, ks0), (k1, ks1), (k2, ks2) = filled(self.kept, (1, 0), 3)
            items = self.outputs * self.chunks
            args = [x, shift, target, items, code, how, scale, k1, k2, ks0, ks1, ks2, *reduced]
            rec.launch("plain_reduce.cl", "reduce_rows", (items,), args, iterations=looped(self.per_chunk, 1))
        else:
            columns = self.kept[-1][0]
            rows, groups = self.outputs // columns, -(-columns // block)
            (_, ks0), (k1, ks1) = filled(self.kept[:-1], (1, 0), 2)
            items = groups * rows * self.chunks
            args = [x, target, items, code, how, scale, columns, groups, rows, k1, ks0, ks1, *reduced]
            rec.launch("plain_reduce.cl", "reduce_columns", (items,), args, iterations=looped(self.per_chunk, 1))
        if self.chunks > 1:
            items = -(-self.outputs // block)
            args = [work, y, items, code, finish, scale, self.chunks, self.outputs]
            rec.launch("plain_reduce.cl", "reduce_parts", (items,), args, iterations=looped(self.chunks))


class Reduce(Layer):
    """y = sum, mean, max, ... (see `OPERATIONS`) of x over `axes`; None: over all; (): over none, value by value."""

    accepts = {"x": ("plain",)}

    def __init__(self, op, axes=None, keepdims=True):
        if op not in OPERATIONS:
            raise ArgumentError(f"reduce: unknown operation {op!r}; known are {', '.join(OPERATIONS)}")
        self.op = op
        self.axes = None if axes is None else tuple(axes)
        self.keepdims = bool(keepdims)

    def _axes(self, shape):
        axes = range(len(shape)) if self.axes is None else self.axes
        return {axis_of(f"reduce {self.op}", axis, len(shape)) for axis in axes}

    def _walk(self, shape):
        walk = _Walk(shape, self._axes(shape))
        if max(len(walk.kept), len(walk.reduced)) > 3:
            raise ShapeError(f"reduce {self.op}: axes {self.axes} of {shape} do not merge into three or fewer")
        return walk

    def infer(self, specs):
        floats(f"reduce {self.op}", specs)
        shape = specs[0].shape
        axes = self._axes(shape)
        self._walk(shape)
        kept = [1 if i in axes else n for i, n in enumerate(shape) if self.keepdims or i not in axes]
        return (plain(kept, who="reduce"),)

    def choices(self, facts, specs, outs):
        return [Choice("plain", (), self._walk(specs[0].shape).workspace_bytes)]

    def cost(self, specs, outs, facts):
        return Cost(specs[0].values, specs[0].nbytes(facts.block) + outs[0].nbytes(facts.block))

    @property
    def differentiable(self):
        return self.op in ("sum", "mean")

    def gradient(self, emit, values, dy, wanted):
        from clconv._core.plain_move import Expand, Reshape

        shape = values["x"].spec.shape
        axes = self._axes(shape)
        dx = dy["y"]
        if self.op == "mean":
            dx = emit(Unary("affine", 1 / math.prod(shape[i] for i in axes)), dx)
        if not self.keepdims:
            dx = emit(Reshape([1 if i in axes else n for i, n in enumerate(shape)]), dx)
        return {"x": emit(Expand(shape), dx)}

    def record(self, rec, ins, outs, work, choice):
        walk = self._walk(ins[0].spec.shape)
        op, finish = OPERATIONS[self.op]
        walk.record(rec, ins[0], outs[0], work, op, finish, 1 / walk.total)


class ArgMax(Layer):
    """y = index of the largest (`least`: smallest) value along an axis, int32; of equals the first, or the `last`."""

    accepts = {"x": ("plain",)}

    def __init__(self, axis=0, keepdims=True, last=False, least=False):
        self.axis = axis
        self.keepdims = bool(keepdims)
        self.last = bool(last)
        self.least = bool(least)

    def infer(self, specs):
        floats("argmax", specs)
        shape = specs[0].shape
        axis = axis_of("argmax", self.axis, len(shape))
        middle = (1,) if self.keepdims else ()
        return (plain((*shape[:axis], *middle, *shape[axis + 1 :]), "int32"),)

    def record(self, rec, ins, outs, work, choice):
        shape = ins[0].spec.shape
        axis = self.axis % len(shape)
        items, inner = outs[0].spec.values, math.prod(shape[axis + 1 :])
        args = [ins[0], outs[0], items, shape[axis], inner, -1.0 if self.least else 1.0, int(self.last)]
        rec.launch("plain_reduce.cl", "arg_most", (items,), args, iterations=looped(shape[axis]))


class SoftmaxAxis(Layer):
    """y = exp(x) / sum of exp(x) over axes axes_from .. axes_to - 1 together, or its logarithm.

    One axis a is (a, a + 1); ONNX before opset 13 takes all axes from a on: (a, rank).
    """

    keeps = ("y",)
    inplace = {"y": ("x",)}
    accepts = {"x": ("plain",)}

    def __init__(self, axes_from, axes_to, log=False):
        self.axes_from = axes_from
        self.axes_to = axes_to
        self.log = bool(log)

    def infer(self, specs):
        floats("softmax", specs)
        rank = len(specs[0].shape)
        if not 0 <= self.axes_from < self.axes_to <= rank:
            raise ShapeError(f"softmax: axes {self.axes_from} up to {self.axes_to} of {rank}")
        return (plain(specs[0].shape, who="softmax"),)

    def cost(self, specs, outs, facts):
        return Cost(5 * outs[0].values, 4 * outs[0].nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        y, dy = values["y"], dy["y"]
        axes = range(self.axes_from, self.axes_to)
        if self.log:
            total = emit(Reduce("sum", axes, True), dy)
            return {"x": emit(Binary("sub"), dy, emit(Binary("mul"), emit(Unary("exp"), y), total))}
        total = emit(Reduce("sum", axes, True), emit(Binary("mul"), y, dy))
        return {"x": emit(Binary("mul"), y, emit(Binary("sub"), dy, total))}

    def record(self, rec, ins, outs, work, choice):
        shape = outs[0].spec.shape
        outer, inner = math.prod(shape[: self.axes_from]), math.prod(shape[self.axes_to :])
        n = math.prod(shape[self.axes_from : self.axes_to])
        args = [ins[0], outs[0], outer, n, int(self.log)]
        if inner == 1:
            rec.launch("plain_reduce.cl", "softmax_rows", (outer,), args, iterations=looped(n, 3))
            return
        groups = -(-inner // rec.facts.block)
        args[2] = outer * groups
        args += [inner, groups]
        rec.launch("plain_reduce.cl", "softmax_columns", (outer * groups,), args, iterations=looped(n, 3))


class InstanceNorm(Layer):
    """y = scale (x - mean) / sqrt(var + eps) + bias, mean and variance of each image's channel; x (N, C, ...)."""

    inputs = ("x", "scale", "bias")
    inplace = {"y": ("x",)}
    accepts = {"x": ("plain",), "scale": ("plain",), "bias": ("plain",)}

    def __init__(self, eps=1e-5):
        self.eps = float(eps)

    def infer(self, specs):
        floats("instance norm", specs)
        shape = specs[0].shape
        if len(shape) < 3 or any(spec.shape != shape[1:2] for spec in specs[1:]):
            raise ShapeError(
                f"instance norm: x {shape}, scale {specs[1].shape}, bias {specs[2].shape}; "
                "(N, C, ...) and twice (C,) are needed"
            )
        return (plain(shape, who="instance norm"),)

    def _walk(self, shape):
        return _Walk((shape[0] * shape[1], math.prod(shape[2:])), {1}, by_rows=True)

    def choices(self, facts, specs, outs):
        shape = specs[0].shape
        rows_bytes = aligned(4 * shape[0] * shape[1])
        return [Choice("plain", (), 2 * rows_bytes + self._walk(shape).workspace_bytes)]

    def cost(self, specs, outs, facts):
        return Cost(6 * outs[0].values, 4 * outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        x, scale, bias = ins
        shape = x.spec.shape
        walk = self._walk(shape)
        rows, plane = shape[0] * shape[1], math.prod(shape[2:])
        size = aligned(4 * rows)
        mean, var = (work.part(i * size, 4 * rows, None) for i in range(2))
        parts = work.part(2 * size, walk.workspace_bytes, None) if walk.chunks > 1 else None
        walk.record(rec, x, mean, parts, "sum", SCALED, 1 / plane)
        walk.record(rec, x, var, parts, "sum_squared_deviations", SCALED, 1 / plane, shift=mean)
        groups = -(-plane // rec.facts.block)
        items = rows * groups
        args = [x, mean, var, scale, bias, outs[0], items, groups, shape[1], plane, self.eps]
        rec.launch("plain_reduce.cl", "instance_norm", (items,), args)
