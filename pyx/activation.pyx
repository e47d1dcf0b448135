"""Activations as layers of their own; where they can, convolutions and sums apply them in their epilogue."""

from clconv.shapes import blocks

from clconv._core.layer import Layer, plane_of


# Not monotone, so that y does not tell the slope: for test-time mode; `UnaryBlocks` has their gradient.
FROM_INPUT = ("silu", "hard_swish")


class Activation(Layer):
    """y = f(x); f by name, see `ACTIVATIONS` in layer.pyx. `slope` is the leaky ReLU's."""

    keeps = ("y",)
    inplace = {"y": ("x",)}
    strips = bands = 1

    def __init__(self, activation, slope=0.0):
        self.activation = activation
        self.slope = slope

    @property
    def differentiable(self):
        return self.activation not in FROM_INPUT

    def gradient(self, emit, values, dy, wanted):
        return {"x": unactivated(self, emit, values["y"], dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = outs[0].spec.shape
        args = [ins[0], plane_of(ins[0]), outs[0], plane_of(outs[0]), h * w, c, *self.activation_args()]
        rec.launch("activation.cl", "activation", (h * w, n * blocks(c, rec.facts.block)), args)


class ActivationGrad(Layer):
    """dx = dy * f'(x), from the output y."""

    inputs = ("dy", "y")
    outputs = ("dx",)
    inplace = {"dx": ("dy",)}

    def __init__(self, activation, slope):
        self.activation = activation
        self.slope = slope

    def record(self, rec, ins, outs, work, choice):
        items = outs[0].spec.elements(rec.facts.block) // rec.facts.block
        args = [*ins, outs[0], items, *self.activation_args()]
        rec.launch("activation.cl", "activation_grad", (items,), args)


def unactivated(layer, emit, y, dy):
    """The gradient in front of a layer's activation, from the one behind it; dy itself where there is none."""
    return dy if layer.activation == "none" else emit(ActivationGrad(layer.activation, layer.slope), dy, y)
