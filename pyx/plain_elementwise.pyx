"""Functions of one value and of two, on row-major tensors of any rank."""

import math

from clconv.errors import ArgumentError, ShapeError

from clconv._core.layer import Layer
from clconv._core.plain_index import filled, floats, merged, plain, strides_of

# Codes of cl/functions.h and cl/plain_gradient.cl, in their order, with what a and b are.
UNARY = (
    "identity",
    "affine",  # a x + b
    "relu",
    "leaky_relu",  # a: slope below zero
    "elu",  # a (exp x - 1) below zero
    "selu",  # b elu(x; a)
    "celu",  # a (exp(x / a) - 1) below zero
    "thresholded_relu",  # x where x > a, else 0
    "sigmoid",
    "hard_sigmoid",  # a x + b, clipped to 0..1
    "hard_swish",  # x times x/6 + 1/2 clipped to 0..1
    "tanh",
    "softplus",
    "softsign",
    "mish",
    "clip",  # from a to b
    "abs",
    "neg",
    "sqrt",
    "exp",
    "log",
    "reciprocal",
    "floor",
    "ceil",
    "round",  # to even
    "sign",
    "erf",
    "silu",  # x sigmoid(a x)
    "gelu",  # x times the normal distribution function at x
    "gelu_tanh",  # the same by tanh
)
# What the gradient reads instead of x: functions whose slope follows from y, or is the same everywhere.
UNARY_KEEPS = {
    **dict.fromkeys(("relu", "sigmoid", "tanh", "sqrt", "exp", "reciprocal"), ("y",)),
    **dict.fromkeys(("identity", "affine", "neg", "floor", "ceil", "round", "sign"), ()),
}

BINARY = (
    "add",
    "sub",
    "mul",
    "div",
    "pow",
    "min",
    "max",
    "prelu",  # a where a >= 0, else a b
    "greater",  # 1 where a > b, else 0
    "greater_equal",
    "prelu_slope",  # 1 where a >= 0, else b
    "equal",
    "keep",  # a where b is not zero, else 0
)
BINARY_KEEPS = {"add": (), "sub": (), "div": ("b", "y"), "pow": ("a", "b", "y"), "keep": ("b",)}  # others: "a", "b"
CONSTANT = ("greater", "greater_equal", "prelu_slope", "equal")  # their slope is zero almost everywhere


def _code(who, op, table):
    if op not in table:
        raise ArgumentError(f"{who}: unknown operation {op!r}; known are {', '.join(table)}")
    return table.index(op)


class Unary(Layer):
    """y = f(x; a, b), value by value; see `UNARY` for what a and b are."""

    inplace = {"y": ("x",)}
    accepts = {"x": ("plain",)}

    def __init__(self, op, a=0.0, b=0.0):
        self.code = _code("unary", op, UNARY)
        self.op = op
        self.a = float(a)
        self.b = float(b)

    @property
    def keeps(self):
        return UNARY_KEEPS.get(self.op, ("x",))

    def infer(self, specs):
        floats(self.op, specs)
        return (plain(specs[0].shape, who=self.op),)

    def gradient(self, emit, values, dy, wanted):
        dy = dy["y"]
        if self.op == "identity":
            return {"x": dy}
        if not self.keeps:
            factor = {"affine": self.a, "neg": -1.0}.get(self.op, 0.0)
            return {"x": emit(Unary("affine", factor), dy)}
        return {"x": emit(UnaryGrad(self.op, self.a, self.b), dy, values[self.keeps[0]])}

    def record(self, rec, ins, outs, work, choice):
        count = outs[0].spec.values
        items = -(-count // rec.facts.block)
        args = [ins[0], outs[0], items, count, self.code, self.a, self.b]
        rec.launch("plain_elementwise.cl", "unary", (items,), args)


class UnaryGrad(Layer):
    """dx = dy f'(v); v is the function's input x, or its output y for those that keep it."""

    inputs = ("dy", "v")
    outputs = ("dx",)
    inplace = {"dx": ("dy",)}
    accepts = {"dy": ("plain",), "v": ("plain",)}

    def __init__(self, op, a, b):
        self.code = UNARY.index(op)
        self.a = a
        self.b = b

    def infer(self, specs):
        return (plain(specs[0].shape),)

    def record(self, rec, ins, outs, work, choice):
        count = outs[0].spec.values
        items = -(-count // rec.facts.block)
        args = [*ins, outs[0], items, count, self.code, self.a, self.b]
        rec.launch("plain_gradient.cl", "unary_grad", (items,), args)


class Binary(Layer):
    """y = f(a, b), broadcast as NumPy does. Of equals, min and max send the gradient to a."""

    inputs = ("a", "b")
    inplace = {"y": ("a", "b")}
    accepts = {"a": ("plain",), "b": ("plain",)}

    def __init__(self, op):
        self.code = _code("binary", op, BINARY)
        self.op = op

    @property
    def keeps(self):
        return BINARY_KEEPS.get(self.op, ("a", "b"))

    @property
    def differentiable(self):
        return self.op not in CONSTANT

    def infer(self, specs):
        floats(self.op, specs)
        shape = broadcast(self.op, specs[0].shape, specs[1].shape)
        self._axes(specs[0].shape, specs[1].shape, shape)
        return (plain(shape, who=self.op),)

    def _axes(self, a, b, shape):
        """Merged extents of y and strides of a and b."""
        return merged(self.op, shape, broadcast_strides(a, shape), broadcast_strides(b, shape))

    def gradient(self, emit, values, dy, wanted):
        found = {}
        for name in wanted:
            slope = self._slope(emit, values, dy["y"], name)
            found[name] = sum_to(emit, slope, values[name].spec.shape)
        return found

    def _slope(self, emit, values, dy, name):
        """dy times the slope along one input, in the shape of y."""
        a, b, y = values["a"], values["b"], values["y"]
        first = name == "a"
        if self.op == "add":
            return dy
        if self.op == "sub":
            return dy if first else emit(Unary("neg"), dy)
        if self.op == "mul":
            return emit(Binary("mul"), dy, b if first else a)
        if self.op == "keep":
            return emit(Binary("keep"), dy, b) if first else emit(Unary("affine"), dy)
        if self.op == "div":
            over = emit(Binary("div"), dy, b)
            return over if first else emit(Unary("neg"), emit(Binary("mul"), over, y))
        if self.op == "pow" and first:
            lower = emit(Binary("pow"), a, emit(Unary("affine", 1.0, -1.0), b))
            return emit(Binary("mul"), dy, emit(Binary("mul"), lower, b))
        if self.op == "pow":
            return emit(Binary("mul"), dy, emit(Binary("mul"), y, emit(Unary("log"), a)))
        if self.op == "prelu":
            below = emit(Binary("prelu_slope"), a, b) if first else emit(Unary("clip", -math.inf, 0.0), a)
            return emit(Binary("mul"), dy, below)
        low, high = (a, b) if self.op == "min" else (b, a)
        mask = emit(Binary("greater_equal" if first else "greater"), *((high, low) if first else (low, high)))
        return emit(Binary("mul"), dy, mask)

    def record(self, rec, ins, outs, work, choice):
        shape = outs[0].spec.shape
        extents, a, b = self._axes(ins[0].spec.shape, ins[1].spec.shape, shape)
        inner = extents[-1]
        chunks = -(-inner // rec.facts.block)
        items = math.prod(extents[:-1]) * chunks
        outer = filled(extents, 1)[1:5]  # the outermost is never needed, the innermost is the row
        args = [*ins, outs[0], items, self.code, chunks, inner, *outer, *filled(a, 0), *filled(b, 0)]
        rec.launch("plain_elementwise.cl", "binary", (items,), args)


def broadcast(who, a, b):
    """The shape that NumPy gives an operation on a and b."""
    rank = max(len(a), len(b))
    pairs = list(zip(filled(a, 1, rank), filled(b, 1, rank)))
    if any(m != n and m != 1 and n != 1 for m, n in pairs):
        raise ShapeError(f"{who}: shapes {a} and {b} do not fit; from the last on, extents must be equal or 1")
    return tuple(max(pair) for pair in pairs)


def broadcast_strides(shape, target):
    """Strides of a row-major array over the axes of what it is broadcast to; 0 where it repeats."""
    strides = [0 if n == 1 else s for n, s in zip(shape, strides_of(shape))]
    return filled(strides, 0, len(target))


def sum_to(emit, value, shape):
    """Emits the sum of `value` over the axes along which `shape` was broadcast to it."""
    from clconv._core.plain_move import Reshape
    from clconv._core.plain_reduce import Reduce

    full = value.spec.shape
    if full == tuple(shape):
        return value
    padded = filled(shape, 1, len(full))
    axes = [i for i, (n, m) in enumerate(zip(full, padded)) if n != m]
    if axes:
        value = emit(Reduce("sum", axes, True), value)
    return value if value.spec.shape == tuple(shape) else emit(Reshape(shape), value)
