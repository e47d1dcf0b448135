"""Every so many pixels of an image, taken out of it and put back (cl/pixels.cl)."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Cost, Layer, looped


class TakePixels(Layer):
    """y[n,c,p,q] = x[n, c, p*stride, q*stride], of `size` (rows, columns): what a window of one tap sees."""

    def __init__(self, stride, size):
        self.stride = stride
        self.size = size

    def infer(self, specs):
        n, c, h, w = specs[0].shape
        if any((count - 1) * step >= extent for count, step, extent in zip(self.size, self.stride, (h, w))):
            raise ShapeError(
                f"pixels: {self.size[0]}x{self.size[1]} of them, {self.stride[0]}x{self.stride[1]} apart, are more "
                f"than {specs[0]} has"
            )
        return (TensorSpec((n, c, *self.size)),)

    def cost(self, specs, outs, facts):
        return Cost(0, 2 * outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        n, c, rows, columns = outs[0].spec.shape
        args = [ins[0], outs[0], rows, columns, *ins[0].spec.shape[2:], *self.stride]
        rec.launch("pixels.cl", "take_pixels", (n * blocks(c, rec.facts.block) * rows,), args, local_size=(1,),
                   iterations=looped(columns))


class SpreadPixels(Layer):
    """The gradient of `TakePixels`, of `size`: y[n, c, p*stride, q*stride] = x[n,c,p,q], zero elsewhere.

    With `adds` onto what another path gave, which is where y may be.
    """

    adds = False

    def __init__(self, stride, size):
        self.stride = stride
        self.size = size

    @property
    def inputs(self):
        return ("x", "onto") if self.adds else ("x",)

    @property
    def inplace(self):
        return {"y": ("onto",)} if self.adds else {}

    def infer(self, specs):
        y = TensorSpec((*specs[0].shape[:2], *self.size))
        if self.adds and specs[1].shape != y.shape:
            raise ShapeError(f"pixels: {y} cannot be added to {specs[1]}; their shapes must be equal")
        return (y,)

    def cost(self, specs, outs, facts):
        return Cost(specs[0].values, outs[0].nbytes(facts.block) + specs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        n, c, rows, columns = outs[0].spec.shape
        args = [ins[0], ins[1] if self.adds else None, outs[0], rows, columns, *ins[0].spec.shape[2:], *self.stride]
        rec.launch("pixels.cl", "spread_pixels", (n * blocks(c, rec.facts.block) * rows,), args, local_size=(1,),
                   iterations=2 * looped(columns))
