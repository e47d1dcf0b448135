"""Activations that wait as float16 (cl/half.cl): out of the way and back, one pass over them each."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Cost, Layer, plane_of


class HalfCopy(Layer):
    """Base of conversions between float32 and float16: the same shape and layout, whole or rows of it."""

    strips = 1
    kernel = ""
    dtype = ""

    def infer(self, specs):
        return (TensorSpec(specs[0].shape, self.dtype, specs[0].layout),)

    def cost(self, specs, outs, facts):
        return Cost(0, specs[0].nbytes(facts.block) + outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        spec = outs[0].spec
        plain = spec.layout == "plain"
        if len(spec.shape) == 4:
            n, c, h, w = spec.shape
            pixels, rows = h * w, n * (c if plain else blocks(c, rec.facts.block))
            planes = plane_of(ins[0]), plane_of(outs[0])
        else:
            pixels, rows = spec.elements(rec.facts.block), 1
            planes = pixels, pixels
        args = [ins[0], planes[0], outs[0], planes[1]]
        rec.launch("half.cl", self.kernel, (pixels, rows), args, defines={"PLAIN": 1} if plain else {})


class ToHalf(HalfCopy):
    """Keeps a tensor as float16, rounded so that no slope taken from it changes; readers get it from `ToFloat`."""

    outputs = ("held",)
    accepts = {"x": ("block", "plain")}
    eager = True
    kernel = "to_half"
    dtype = "float16"


class ToFloat(HalfCopy):
    """A tensor that waited as float16, as float32 again; exact."""

    inputs = ("held",)
    accepts = {"held": ("block", "plain")}
    kernel = "to_float"
    dtype = "float32"
