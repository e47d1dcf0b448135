"""Products of row-major matrices."""

import math

from clconv.errors import ShapeError

from clconv._core.layer import Cost, Layer, looped
from clconv._core.plain_elementwise import Unary, broadcast, broadcast_strides, sum_to
from clconv._core.plain_index import filled, floats, merged, plain, strides_of

OPERANDS = ("a", "b")
BATCH_AXES = 4  # of the kernels, after merging
FEW_ROWS = 2  # up to here a work-item has one row
DOT_COLUMNS = 4  # TN of cl/plain_matmul.cl


class _Product:
    """y = a' b' with the shapes sorted out.

    Attributes:
        shape: of y. batch: extents that the product runs over; a_walk, b_walk: strides along them.
        m, n, depth: rows, columns, products per element. a_step, b_step: strides along (m, depth), (depth, n).
    """

    def __init__(self, who, a, b, trans_a, trans_b):
        if not a or not b:
            raise ShapeError(f"{who}: {a} times {b}; a scalar is no matrix")
        rows, columns = len(a) > 1, len(b) > 1
        # As in NumPy: a vector on the left is a row, on the right a column, and the axis goes again.
        a, b = a if rows else (1, *a), b if columns else (*b, 1)
        (m, depth), self.a_step = self._turned(a, trans_a and rows)
        (depth_b, n), self.b_step = self._turned(b, trans_b and columns)
        if depth != depth_b:
            raise ShapeError(f"{who}: {m}x{depth} times {depth_b}x{n}; the inner extents must be equal")
        batch = broadcast(who, a[:-2], b[:-2])
        self.shape = (*batch, *((m,) if rows else ()), *((n,) if columns else ()))
        self.m, self.n, self.depth = m, n, depth
        self.batch, self.a_walk, self.b_walk = merged(
            who, batch, self._batch_strides(a, batch), self._batch_strides(b, batch)
        )
        if self.b_walk == [0] * len(self.b_walk) and self.a_step[0] * m == self.a_walk[-1] and len(self.batch) == 1:
            # One matrix on the right for all: the batch is more rows.
            self.m *= self.batch[0]
            self.batch, self.a_walk, self.b_walk = [1], [0], [0]
        if len(self.batch) > BATCH_AXES:
            raise ShapeError(f"{who}: {len(self.batch)} batch axes are left of {batch}; at most {BATCH_AXES} fit")

    @staticmethod
    def _turned(shape, turn):
        """Extents and strides of the last two axes, exchanged where the matrix is transposed."""
        extents, strides = shape[-2:], (shape[-1], 1)
        return (extents[::-1], strides[::-1]) if turn else (extents, strides)

    @staticmethod
    def _batch_strides(shape, batch):
        strides = strides_of(shape)[:-2]
        return filled([0 if n == 1 else s for n, s in zip(shape, strides)], 0, len(batch))

    @property
    def flops(self):
        return 2 * math.prod(self.batch) * self.m * self.n * self.depth

    def record(self, rec, a, b, c, y, c_step=(0, 0), alpha=1.0, beta=0.0):
        """One launch: y = alpha a' b' + beta c."""
        # Either rows or columns of b are contiguous.
        dots = self.b_step[0] == 1 and (self.n == 1 or self.b_step[1] != 1)
        few = self.m <= FEW_ROWS
        defines = {"TM": 1, "TV": 1} if few else {"TM": 4, "TV": 2}
        width = DOT_COLUMNS if dots else defines["TV"] * rec.facts.block
        row_tiles, column_tiles = -(-self.m // defines["TM"]), -(-self.n // width)
        items = math.prod(self.batch) * row_tiles * column_tiles
        args = [
            a, b, c, y, items, self.m, self.n, self.depth, *self.a_step, self.b_step[1 if dots else 0], *c_step,
            alpha, beta, row_tiles, column_tiles, *filled(self.batch, 1, BATCH_AXES)[1:],
            *filled(self.a_walk, 0, BATCH_AXES), *filled(self.b_walk, 0, BATCH_AXES),
        ]  # fmt: skip
        kernel = "multiply_dots" if dots else "multiply_rows"
        count = looped(self.depth, 2 * defines["TM"] * (1 + defines["TV"]))
        rec.launch("plain_matmul.cl", kernel, (items,), args, defines=defines, iterations=count)


class MatMulPlain(Layer):
    """y = a b as NumPy's matmul: batches are broadcast, vectors allowed; trans_*: the last two axes are exchanged."""

    inputs = ("a", "b")
    keeps = ("a", "b")
    accepts = {"a": ("plain",), "b": ("plain",)}

    def __init__(self, trans_a=False, trans_b=False):
        self.trans_a = bool(trans_a)
        self.trans_b = bool(trans_b)

    def _product(self, a, b):
        return _Product("matmul", a.shape, b.shape, self.trans_a, self.trans_b)

    def infer(self, specs):
        floats("matmul", specs)
        return (plain(self._product(*specs).shape, who="matmul"),)

    def cost(self, specs, outs, facts):
        return Cost(self._product(*specs).flops, sum(s.nbytes(facts.block) for s in (*specs, *outs)))

    def gradient(self, emit, values, dy, wanted):
        from clconv._core.plain_move import Reshape

        shapes = {name: values[name].spec.shape for name in OPERANDS}
        # Vectors as matrices, so that the rules below hold.
        full = {name: s if len(s) > 1 else (1, *s) if name == "a" else (*s, 1) for name, s in shapes.items()}
        a, b = (values[n] if full[n] == shapes[n] else emit(Reshape(full[n]), values[n]) for n in OPERANDS)
        turns = self._turns(shapes, "a"), self._turns(shapes, "b")
        product = _Product("matmul", full["a"], full["b"], *turns)
        dy = dy["y"]
        if dy.spec.shape != product.shape:
            dy = emit(Reshape(product.shape), dy)
        found = _operand_gradients(lambda ta, tb, left, right: emit(MatMulPlain(ta, tb), left, right), a, b, dy, *turns)
        gradients = {}
        for name in wanted:
            summed = sum_to(emit, found[name](), full[name])
            gradients[name] = summed if full[name] == shapes[name] else emit(Reshape(shapes[name]), summed)
        return gradients

    def _turns(self, shapes, name):
        """Whether an operand is transposed: vectors never are."""
        return len(shapes[name]) > 1 and (self.trans_a if name == "a" else self.trans_b)

    def record(self, rec, ins, outs, work, choice):
        self._product(ins[0].spec, ins[1].spec).record(rec, *ins, None, outs[0])


class Gemm(Layer):
    """y = alpha a' b' + beta c of matrices; trans_*: a' or b' is the transpose. c is broadcast to y, or absent."""

    inputs = ("a", "b", "c")
    keeps = ("a", "b")
    accepts = {"a": ("plain",), "b": ("plain",), "c": ("plain",)}

    def __init__(self, alpha=1.0, beta=1.0, trans_a=False, trans_b=False):
        self.alpha = float(alpha)
        self.beta = float(beta)
        self.trans_a = bool(trans_a)
        self.trans_b = bool(trans_b)

    def _product(self, a, b):
        if len(a.shape) != 2 or len(b.shape) != 2:
            raise ShapeError(f"gemm: {a.shape} times {b.shape}; two matrices are needed")
        return _Product("gemm", a.shape, b.shape, self.trans_a, self.trans_b)

    def infer(self, specs):
        a, b, c = specs
        floats("gemm", specs)
        shape = self._product(a, b).shape
        if c is not None and broadcast("gemm", c.shape, shape) != shape:
            raise ShapeError(f"gemm: c is {c.shape}, which is not broadcast to {shape}")
        return (plain(shape, who="gemm"),)

    def cost(self, specs, outs, facts):
        traffic = sum(s.nbytes(facts.block) for s in (*specs, *outs) if s is not None)
        return Cost(self._product(*specs[:2]).flops, traffic)

    def gradient(self, emit, values, dy, wanted):
        dy = dy["y"]

        def times(trans_a, trans_b, left, right):
            return emit(Gemm(self.alpha, 0.0, trans_a, trans_b), left, right, None)

        found = _operand_gradients(times, values["a"], values["b"], dy, self.trans_a, self.trans_b)
        gradients = {name: found[name]() for name in OPERANDS if name in wanted}
        if "c" in wanted:
            scaled = dy if self.beta == 1 else emit(Unary("affine", self.beta), dy)
            gradients["c"] = sum_to(emit, scaled, values["c"].spec.shape)
        return gradients

    def record(self, rec, ins, outs, work, choice):
        a, b, c = ins
        shape = outs[0].spec.shape
        c_step = (0, 0) if c is None else broadcast_strides(c.spec.shape, shape)
        beta = 0.0 if c is None else self.beta
        self._product(a.spec, b.spec).record(rec, a, b, c, outs[0], c_step, self.alpha, beta)


def _operand_gradients(times, a, b, dy, trans_a, trans_b):
    """{"a": ..., "b": ...}: what emits the gradient of y = a' b'; times(trans, trans, left, right) emits a product."""
    return {
        "a": lambda: times(trans_b, True, b, dy) if trans_a else times(False, not trans_b, dy, b),
        "b": lambda: times(True, trans_a, dy, a) if trans_b else times(not trans_a, False, a, dy),
    }
