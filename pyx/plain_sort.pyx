"""The largest or smallest values along an axis of a row-major tensor."""

import math

from clconv.errors import ShapeError

from clconv._core.layer import Cost, Layer, looped
from clconv._core.plain_index import axis_of, floats, plain


class TopK(Layer):
    """The `k` largest (or smallest) values along an axis, in order, and their int32 indices; of equals the first."""

    outputs = ("y", "indices")
    accepts = {"x": ("plain",)}

    def __init__(self, k, axis=-1, largest=True):
        self.k = k
        self.axis = axis
        self.largest = largest

    def infer(self, specs):
        floats("top k", specs)
        shape = list(specs[0].shape)
        axis = axis_of("top k", self.axis, len(shape))
        n = shape[axis]
        if not 1 <= self.k <= n:
            raise ShapeError(f"top k: {self.k} of the {n} values along axis {axis}; 1 to {n} would fit")
        shape[axis] = self.k
        return plain(shape, who="top k"), plain(shape, "int32", "top k")

    def cost(self, specs, outs, facts):
        shape = specs[0].shape
        return Cost(specs[0].values * shape[self.axis], sum(s.nbytes(facts.block) for s in (specs[0], *outs)))

    def record(self, rec, ins, outs, work, choice):
        shape = ins[0].spec.shape
        axis = self.axis % len(shape)
        n, inner, items = shape[axis], math.prod(shape[axis + 1 :]), ins[0].spec.values
        args = [ins[0], *outs, items, n, inner, self.k, int(self.largest)]
        rec.launch("plain_sort.cl", "top", (items,), args, iterations=looped(n))
