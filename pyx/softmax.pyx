"""Softmax over the channels, and its gradient."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Cost, Layer, looped


class Softmax(Layer):
    """y = exp(x) / sum of exp(x) over the channels of each pixel."""

    keeps = ("y",)
    inplace = {"y": ("x",)}

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def cost(self, specs, outs, facts):
        return Cost(5 * outs[0].values, 5 * outs[0].nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(SoftmaxGrad(), dy["y"], values["y"])}

    def record(self, rec, ins, outs, work, choice):
        _record(rec, "softmax", [ins[0], outs[0]], outs[0].spec)


class SoftmaxGrad(Layer):
    """dx = y (dy - sum of y dy over the channels), from the output y."""

    inputs = ("dy", "y")
    outputs = ("dx",)
    inplace = {"dx": ("dy",)}

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def cost(self, specs, outs, facts):
        return Cost(4 * outs[0].values, 5 * outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        _record(rec, "softmax_grad", [*ins, outs[0]], outs[0].spec)


def _record(rec, kernel, tensors, spec):
    n, c, h, w = spec.shape
    items = n * h * w
    block = rec.facts.block
    rec.launch("softmax.cl", kernel, (items,), [*tensors, items, c, h * w],
               iterations=3 * looped(blocks(c, block)) + 2 * looped(block))
