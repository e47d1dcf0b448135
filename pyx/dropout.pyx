"""Dropout, with random numbers that depend on nothing but seed, step, layer and element."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec

from clconv._core.layer import Cost, Layer

FLOPS_PER_VALUE = 70  # ten rounds of Philox: two wide products and four exclusive ors each


class Dropout(Layer):
    """y = x / (1 - rate) where the element is kept, else 0. Its gradient is the same operator: no mask is stored.

    Operands: x in blocks; counters, plain int32 (4,): the seed's low and high half, the step, and how many images of
    the batch come before x: parts of a batch have the masks of the whole.
    """

    inputs = ("x", "counters")
    accepts = {"counters": ("plain",)}
    keeps = ("counters",)
    inplace = {"y": ("x",)}

    def __init__(self, rate, layer_id):
        self.rate = rate
        self.layer_id = layer_id

    def infer(self, specs):
        if specs[1].shape != (4,) or specs[1].dtype != "int32":
            raise ShapeError(f"dropout: counters {specs[1]} of {specs[1].dtype} must be 4 of int32")
        return (TensorSpec(specs[0].shape),)

    def cost(self, specs, outs, facts):
        return Cost(FLOPS_PER_VALUE * outs[0].values, 2 * outs[0].nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(Dropout(self.rate, self.layer_id), dy["y"], values["counters"])}

    def record(self, rec, ins, outs, work, choice):
        _, c, h, w = outs[0].spec.shape
        items = outs[0].spec.elements(rec.facts.block) // rec.facts.block
        threshold = int(self.rate * 2**32)
        args = [
            *ins, outs[0], items, c, h * w, _as_int32(self.layer_id), _as_int32(threshold), 1.0 / (1.0 - self.rate),
        ]
        rec.launch("dropout.cl", "dropout", (items,), args)


def _as_int32(word):
    """The 32-bit word as the signed number of the same bits."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word
