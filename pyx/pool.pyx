"""Pooling over windows and over whole images, with their gradients."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.conv import split_rows
from clconv._core.conv_tiles import ceil_div
from clconv._core.layer import POOLS, Choice, Cost, Layer, looped, output_args, piece_args

GLOBAL_KIND = len(POOLS)
GRADIENT_READS = {"max": ("argmax",), "avg": (), "l2": ("x", "y")}  # beside dy
SHARE = 32  # pixels that a work-item of a processor computes at least, so that starting it does not count


class Pool2d(Layer):
    """y[n,c,p,q] = the largest, the mean or the Euclidean norm of x[n,c,h,w] over the window of (p, q).

    Args:
        kind: one of `POOLS`. window: a `Window` without dilation. count_pad: a mean counts padding as zeros.
        places: (for "max") a second output holds the place r*S + s of each maximum, which the gradient
            needs: bytes where windows of R x S have at most 256 places, else 32-bit integers.
    """

    pieces = ("x",)

    def __init__(self, kind, window, count_pad=False, places=False):
        assert not places or kind == "max"
        self.kind = kind
        self.window = window
        self.count_pad = count_pad
        self.places = places

    @property
    def strips(self):
        return int(not self.places)

    @property
    def bands(self):
        return self.strips

    def strip(self, rows, heights, axis=0):
        window, needed = self.window.strip(rows, heights["x"], axis)
        return self.with_(window=window), {"x": needed}

    @property
    def outputs(self):
        return ("y", "argmax") if self.places else ("y",)

    @property
    def keeps(self):
        return GRADIENT_READS[self.kind]

    def infer(self, specs):
        shape = (*specs[0].shape[:2], *self.window.output(f"{self.kind}pool", specs[0].shape))
        y = TensorSpec(shape)
        return (y, TensorSpec(shape, self._place_type())) if self.places else (y,)

    def choices(self, facts, specs, outs):
        return [_rectangle(facts, outs[0])]

    def cost(self, specs, outs, facts):
        return _cost(self.window, outs[0], (*specs, *outs), facts)

    def gradient(self, emit, values, dy, wanted):
        layer = Pool2dGrad(self.kind, self.window, self.count_pad, values["x"].spec.shape)
        return {"x": emit(layer, dy["y"], *(values[name] for name in self.keeps))}

    def record(self, rec, ins, outs, work, choice):
        y = outs[0]
        size = (ins[0][0] if isinstance(ins[0], tuple) else ins[0]).spec.shape[2:]
        n, c, p, q = y.spec.shape
        tiles = dict(choice.tiles)
        c_blocks = blocks(c, rec.facts.block)
        items = n * c_blocks * ceil_div(p, tiles["rows"]) * ceil_div(q, tiles["cols"])
        places = outs[1] if self.places else None
        defines = _defines(self.kind, self.window, places)
        args = [
            *piece_args(ins[0], rec.facts.block, defines), *output_args(y, rec.facts.block), places, items, c_blocks,
            *size, p, q, *self.window.undilated_args(), *_counted(self.window, size, self.count_pad), tiles["rows"],
            tiles["cols"],
        ]
        # Whole windows and those at an edge are two loops.
        per_output = looped(self.window.kernel[0], 2 * looped(self.window.kernel[1]))
        _launch(rec, "pool", items, args, defines, looped(tiles["rows"], looped(tiles["cols"], per_output)))

    def _place_type(self):
        return "uint8" if self.window.kernel[0] * self.window.kernel[1] <= 256 else "int32"


class Pool2dGrad(Layer):
    """dx of `Pool2d`, gathered from the windows that cover each pixel; `shape` is x's."""

    outputs = ("dx",)

    def __init__(self, kind, window, count_pad, shape):
        self.kind = kind
        self.window = window
        self.count_pad = count_pad
        self.shape = shape

    @property
    def inputs(self):
        return ("dy", *GRADIENT_READS[self.kind])

    def infer(self, specs):
        return (TensorSpec(self.shape),)

    def choices(self, facts, specs, outs):
        return [_rectangle(facts, outs[0])]

    def cost(self, specs, outs, facts):
        return _cost(self.window, specs[0], (*specs, *outs), facts)

    def record(self, rec, ins, outs, work, choice):
        given = dict(zip(self.inputs, ins))
        dy, places = given["dy"], given.get("argmax")
        n, c, h, w = self.shape
        tiles = dict(choice.tiles)
        items = n * blocks(c, rec.facts.block) * ceil_div(h, tiles["rows"]) * ceil_div(w, tiles["cols"])
        args = [
            dy, places, given.get("x"), given.get("y"), outs[0], items, h, w, *dy.spec.shape[2:],
            *self.window.undilated_args(), *_counted(self.window, (h, w), self.count_pad), tiles["rows"], tiles["cols"],
        ]
        defines = _defines(self.kind, self.window, places)
        (r, s), (down, across) = self.window.kernel, self.window.stride
        per_row = looped(ceil_div(tiles["cols"], across) + 1, looped(across, looped(ceil_div(s, across))))
        iterations = looped(tiles["rows"], looped(tiles["cols"]) + looped(ceil_div(r, down), per_row))
        _launch(rec, "pool_grad", items, args, defines, iterations)


class GlobalAvgPool(Layer):
    """y[n,c,0,0] = mean of x[n,c] over the image."""

    pieces = ("x",)

    def infer(self, specs):
        return (TensorSpec((*specs[0].shape[:2], 1, 1)),)

    def choices(self, facts, specs, outs):
        _, c, h, w = specs[0].shape
        # Images of few channels are split, so that there is work for all: into chunks of 64 pixels or more. How many
        # images there are does not count: each has the same bits alone.
        chunks = split_rows(h * w // 64, blocks(c, facts.block), facts)
        workspace = chunks * outs[0].nbytes(facts.block) if chunks > 1 else 0
        return [Choice("plain", (("chunks", chunks),), workspace)]

    def cost(self, specs, outs, facts):
        return Cost(specs[0].values, sum(s.nbytes(facts.block) for s in (*specs, *outs)))

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(GlobalAvgPoolGrad(values["x"].spec.shape), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        h, w = (ins[0][0] if isinstance(ins[0], tuple) else ins[0]).spec.shape[2:]
        n, c = outs[0].spec.shape[:2]
        chunks, c_blocks = dict(choice.tiles)["chunks"], blocks(c, rec.facts.block)
        items = n * c_blocks
        defines = {"KIND": GLOBAL_KIND}
        source = piece_args(ins[0], rec.facts.block, defines)
        if chunks > 1:
            args = [*source, work, items * chunks, c_blocks, h * w, chunks, 1]
            _launch(rec, "global_mean", items * chunks, args, defines, _summed(ceil_div(h * w, chunks)))
            args = [work, c_blocks, chunks, outs[0], items, c_blocks, chunks, 1, h * w]
            _launch(rec, "global_mean", items, args, {"KIND": GLOBAL_KIND}, _summed(chunks))
        else:
            args = [*source, outs[0], items, c_blocks, h * w, 1, h * w]
            _launch(rec, "global_mean", items, args, defines, _summed(h * w))


class GlobalAvgPoolGrad(Layer):
    """dx[n,c,h,w] = dy[n,c] / (H*W); `shape` is x's."""

    inputs = ("dy",)
    outputs = ("dx",)

    def __init__(self, shape):
        self.shape = shape

    def infer(self, specs):
        return (TensorSpec(self.shape),)

    def choices(self, facts, specs, outs):
        plane = self.shape[2] * self.shape[3]
        return [Choice("plain", (("span", 1 if facts.kernels == "gpu" else min(plane, 8 * SHARE)),))]

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = self.shape
        span = dict(choice.tiles)["span"]
        items = n * blocks(c, rec.facts.block) * ceil_div(h * w, span)
        args = [ins[0], outs[0], items, h * w, span]
        _launch(rec, "global_mean_grad", items, args, {"KIND": GLOBAL_KIND}, looped(span))


def _rectangle(facts, spec):
    """What one work-item computes of an image: a pixel on a GPU, else whole rows."""
    if facts.kernels == "gpu":
        return Choice("pixels", (("rows", 1), ("cols", 1)))
    h, w = spec.shape[2:]
    return Choice("rows", (("rows", min(h, ceil_div(SHARE, w))), ("cols", w)))


def _counted(window, size, count_pad):
    """Rows and columns that a mean counts, (first, end) each: the image, or the image and its padding."""
    ranges = []
    for extent, (before, after) in zip(size, window.pads):
        ranges += [-before, extent + after] if count_pad else [0, extent]
    return ranges


def _defines(kind, window, places):
    """What a program is built for. Usual windows are constants in it, so that its loops over columns unroll."""
    defines = {"KIND": POOLS.index(kind), "ARGMAX": 0}
    if places is not None:
        defines["ARGMAX"] = {"uint8": 1, "int32": 4}[places.spec.dtype]
    width, step = window.kernel[1], window.stride[1]
    if step <= width <= 3:
        defines.update(KW=width, SW=step)
    return defines


def _cost(window, y, tensors, facts):
    taps = window.kernel[0] * window.kernel[1]
    return Cost(y.values * taps, sum(s.nbytes(facts.block) for s in tensors))


def _summed(count):
    """Loop iterations of a sum, four at a time."""
    return looped(count // 4) + looped(3)


def _launch(rec, kernel, items, args, defines, iterations):
    group = rec.facts.work_group
    rec.launch("pool.cl", kernel, (items,), args, defines={**defines, "WG": group}, local_size=(group,),
               iterations=iterations)
