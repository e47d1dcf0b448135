"""The locally-connected layer, a convolution whose every place has its own weights, and its gradients."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.activation import unactivated
from clconv._core.conv import launch_sum
from clconv._core.conv_tiles import ceil_div
from clconv._core.layer import Choice, Cost, Layer, looped


class Local2d(Layer):
    """y[n,k,p,q] = f(b[k,p,q] + sum over c,r,s of w[k,c,r,s,p,q] x[n, c, p*stride - pad + r, ...]).

    Operands: x (N, C, H, W) in channel blocks; w (K, C, R, S, P, Q) of layout "local"; b (1, K, P, Q) or None.
    """

    inputs = ("x", "w", "b")
    accepts = {"w": ("local",)}
    activates = True

    def __init__(self, window):
        self.window = window

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w, _ = specs
        p, q = self.window.output("local", x.shape)
        expected = (w.shape[0], x.shape[1], *self.window.kernel, p, q)
        if w.shape != expected:
            raise ShapeError(
                f"local: the weights {w} do not fit the input {x}: {'x'.join(map(str, expected))} expected"
            )
        return (TensorSpec((x.shape[0], w.shape[0], p, q)),)

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, specs[1], specs[0].shape[0], facts)

    def choices(self, facts, specs, outs):
        return [Choice("direct", (("NT", _images(specs[0].shape[0], min(14, facts.accumulators))),))]

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        if "x" in wanted:
            found["x"] = emit(LocalGradX(self.window, values["x"].spec.shape), grad, values["w"])
        if "w" in wanted:
            found["w"] = emit(LocalGradW(self.window, values["w"].spec), values["x"], grad)
        if "b" in wanted:
            found["b"] = emit(ImageSum(), grad)
        return found

    def record(self, rec, ins, outs, work, choice):
        x, w, b = ins
        n, k, p, q = outs[0].spec.shape
        defines = dict(choice.tiles)
        tiles = ceil_div(n, defines["NT"])
        items = blocks(k, rec.facts.block) * p * q * tiles
        sizes = [*x.spec.shape, k, p, q, *self.window.undilated_args(), tiles]
        r, s = self.window.kernel
        c = x.spec.shape[1]
        per_block = looped(r, looped(s, looped(min(c, rec.facts.block))))
        _launch(rec, "local_forward", [x, w, b, outs[0], items, *sizes, *self.activation_args()], items, defines,
                2 * looped(defines["NT"]) + looped(blocks(c, rec.facts.block), per_block))


class LocalGradX(Layer):
    """dx[n,c,h,w]: dy times the weights, over every window and output channel that reads it; `shape` is x's."""

    inputs = ("dy", "w")
    outputs = ("dx",)
    accepts = {"w": ("local",)}

    def __init__(self, window, shape):
        self.window = window
        self.shape = shape

    def infer(self, specs):
        return (TensorSpec(self.shape),)

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, specs[1], self.shape[0], facts)

    def choices(self, facts, specs, outs):
        ct = min(facts.block, 8 if facts.accumulators >= 24 else 4)
        nt = _images(self.shape[0], max(1, facts.accumulators // ct))
        return [Choice("direct", (("CT", ct), ("NT", nt)))]

    def record(self, rec, ins, outs, work, choice):
        dy, w = ins
        n, c, h, wd = self.shape
        defines = dict(choice.tiles)
        tiles = ceil_div(n, defines["NT"])
        parts = rec.facts.block // defines["CT"]
        items = blocks(c, rec.facts.block) * h * wd * parts * tiles
        sizes = [n, c, h, wd, *dy.spec.shape[1:], *self.window.undilated_args(), tiles]
        r, s = self.window.kernel
        per_block = looped(r, looped(s, looped(defines["CT"])))
        _launch(rec, "local_grad_x", [dy, w, outs[0], items, *sizes], items, defines,
                2 * looped(defines["CT"] + defines["NT"], looped(max(defines.values())))
                + looped(blocks(dy.spec.shape[1], rec.facts.block), per_block))


class LocalGradW(Layer):
    """dw[k,c,r,s,p,q] = sum over n of dy[n,k,p,q] x[n, c, p*stride - pad + r, ...]; `spec` is w's."""

    inputs = ("x", "dy")
    outputs = ("dw",)

    def __init__(self, window, spec):
        self.window = window
        self.spec = spec

    def infer(self, specs):
        return (self.spec,)

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, self.spec, specs[0].shape[0], facts)

    def record(self, rec, ins, outs, work, choice):
        x, dy = ins
        n, k, p, q = dy.spec.shape
        block = rec.facts.block
        items = blocks(k, block) * p * q * blocks(x.spec.shape[1], block)
        sizes = [*x.spec.shape, k, p, q, *self.window.undilated_args()]
        r, s = self.window.kernel
        _launch(rec, "local_grad_w", [x, dy, outs[0], items, *sizes], items, {},
                looped(r, looped(s, 2 * looped(block) + looped(n))))


class ImageSum(Layer):
    """db[k,p,q] = sum over n of dy[n,k,p,q]: the gradient of a bias that every place has for itself."""

    inputs = ("dy",)
    outputs = ("db",)

    def infer(self, specs):
        return (TensorSpec((1, *specs[0].shape[1:])),)

    def record(self, rec, ins, outs, work, choice):
        items = outs[0].spec.elements(rec.facts.block) // rec.facts.block
        launch_sum(rec, ins[0], [outs[0]], items, ins[0].spec.shape[0])


def _cost(specs, outs, weights, batch, facts):
    tensors = [s for s in (*specs, *outs) if s is not None]
    return Cost(2 * batch * weights.values, sum(s.nbytes(facts.block) for s in tensors))


def _images(batch, most):
    """NT images per item: as few tiles as `most` allows, of even size."""
    return ceil_div(batch, ceil_div(batch, most))


def _launch(rec, kernel, args, items, defines, iterations):
    group = rec.facts.work_group
    rec.launch("local.cl", kernel, (items,), args, defines={**defines, "WG": group}, local_size=(group,),
               iterations=iterations)
