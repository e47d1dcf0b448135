"""Depthwise convolution (every channel by itself) and its transpose, with their gradients.

Weights are (1, C, R, S) in channel blocks, [C/B][R][S][B]: a vector of B channels per tap.
"""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.activation import unactivated
from clconv._core.conv import ChannelSum, launch_sum, split_rows
from clconv._core.conv_tiles import ceil_div
from clconv._core.layer import Choice, Cost, Layer, looped, output_args, piece_args
from clconv._core.window import Window


class DepthwiseConv2d(Layer):
    """y[n,c,p,q] = f(b[c] + sum over r,s of w[c,r,s] x[n, c, p*stride - pad + r*dilation, ...]).

    Operands: x (N, C, H, W); w (1, C, R, S); b (1, C, 1, 1) or None; all in channel blocks.
    """

    inputs = ("x", "w", "b")
    pieces = ("x",)
    activates = True
    strips = bands = 1

    def __init__(self, window):
        self.window = window

    def strip(self, rows, heights, axis=0):
        window, needed = self.window.strip(rows, heights["x"], axis)
        return self.with_(window=window), {"x": needed}

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w, _ = specs
        _check_channels("conv", x, w)
        return (TensorSpec((*x.shape[:2], *self.window.output("conv", x.shape))),)

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, facts, outs[0].values)

    def choices(self, facts, specs, outs):
        return depthwise_tiles(facts, outs[0].shape[3])

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        if "w" in wanted:
            found["w"] = emit(DepthwiseGradW(self.window, values["w"].spec), values["x"], grad)
        if "b" in wanted:
            found["b"] = emit(ChannelSum(), grad)
        if "x" in wanted:
            transpose = DepthwiseTranspose2d(self.window, values["x"].spec.shape[2:])
            found["x"] = emit(transpose, grad, values["w"], None)
        return found

    def record(self, rec, ins, outs, work, choice):
        _launch_stencil(rec, self, ins, outs[0], self.window, choice, flip=0)


class DepthwiseTranspose2d(Layer):
    """y[n,c,h,w] = f(b[c] + sum of w[c,r,s] x[n,c,p,q] over all p*stride - pad + r*dilation = h, likewise w).

    The gradient of a depthwise convolution with respect to its input, and a layer of its own.

    Args:
        window: the window that slides over y. size: (rows, cols) of y.
    """

    inputs = ("x", "w", "b")
    activates = True

    def __init__(self, window, size):
        self.window = window
        self.size = size

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w, _ = specs
        _check_channels("convtranspose", x, w)
        return (TensorSpec((*x.shape[:2], *self.size)),)

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, facts, specs[0].values)

    def choices(self, facts, specs, outs):
        return depthwise_tiles(facts, ceil_div(outs[0].shape[3], self.window.stride[1]))

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        given = self.window
        # Output padding can leave rows that no window reaches: floor drops them.
        window = Window(given.kernel, given.stride, given.pads, given.dilation, rounding="floor")
        if "w" in wanted:
            found["w"] = emit(DepthwiseGradW(window, values["w"].spec), grad, values["x"])
        if "b" in wanted:
            found["b"] = emit(ChannelSum(), grad)
        if "x" in wanted:
            found["x"] = emit(DepthwiseConv2d(window), grad, values["w"], None)
        return found

    def record(self, rec, ins, outs, work, choice):
        window = self.window
        if window.stride == (1, 1):
            # The same as a convolution with the taps backwards; a negative padding crops.
            pads = tuple((d * (k - 1) - p, 0) for k, d, (p, _) in zip(window.kernel, window.dilation, window.pads))
            flipped = Window(window.kernel, pads=pads, dilation=window.dilation)
            _launch_stencil(rec, self, ins, outs[0], flipped, choice, flip=1)
            return
        x, w, b = ins
        _, c, h, wd = x.spec.shape
        tiles, stride = dict(choice.tiles), window.stride
        tile_count = stride[1] * ceil_div(ceil_div(self.size[1], stride[1]), tiles["WT"])
        r, s = window.kernel
        per_tile = 2 * looped(tiles["WT"]) + looped(r, looped(s))
        items, walk, iterations = _walk(rec.facts, outs[0].spec, tile_count, per_tile)
        args = [
            x, w, b, outs[0], items, c, h, wd, *self.size, *window.kernel, window.pads[0][0], window.pads[1][0],
            *window.dilation, *walk, *self.activation_args(),
        ]
        group = rec.facts.work_group
        rec.launch("conv_depthwise.cl", "conv_depthwise_gather", (items,), args, local_size=(group,),
                   defines={**tiles, "STRIDE_H": stride[0], "STRIDE_W": stride[1], "WG": group}, iterations=iterations)


class DepthwiseGradW(Layer):
    """dw[c,r,s] = sum over n,p,q of dy[n,c,p,q] x[n, c, p*stride - pad + r*dilation, ...]; `spec` is w's."""

    inputs = ("x", "dy")
    outputs = ("dw",)

    def __init__(self, window, spec):
        self.window = window
        self.spec = spec

    def infer(self, specs):
        return (self.spec,)

    def cost(self, specs, outs, facts):
        return Cost(
            2 * specs[1].values * self.spec.shape[2] * self.spec.shape[3],
            sum(s.nbytes(facts.block) for s in (*specs, *outs)),
        )

    def choices(self, facts, specs, outs):
        n, c, p, _ = specs[1].shape
        chunks = split_rows(n * p, blocks(c, facts.block), facts)
        return [Choice("stencil", (("chunks", chunks),), chunks * self.spec.nbytes(facts.block))]

    def record(self, rec, ins, outs, work, choice):
        x, dy = ins
        n, c, p, q = dy.spec.shape
        chunks = dict(choice.tiles)["chunks"]
        c_blocks = blocks(c, rec.facts.block)
        rows, taps = ceil_div(n * p, chunks), kept_taps(self.window)
        r, s = self.window.kernel
        args = [x, dy, work, c, n, *x.spec.shape[2:], p, q, *self.window.args(), chunks, rows]
        group = rec.facts.work_group
        if taps:
            iterations = looped(rows, 2 + looped(q, looped(taps))) + 2 * looped(taps * taps)
        else:
            iterations = looped(r, looped(s, looped(rows, looped(q // 4) + looped(3))))
        rec.launch("conv_depthwise.cl", "conv_depthwise_grad_w", (chunks, c_blocks), args,
                   defines={"TAPS": taps, "WG": group}, local_size=(group, 1), iterations=iterations)
        launch_sum(rec, work, [outs[0]], c_blocks * r * s, chunks)


def _check_channels(who, x, w):
    if x.shape[1] != w.shape[1]:
        raise ShapeError(
            f"{who}: the input {x} has {x.shape[1]} channels but the depthwise weights {w} are for {w.shape[1]}"
        )


def _cost(specs, outs, facts, products):
    tensors = [s for s in (*specs, *outs) if s is not None]
    return Cost(2 * products * specs[1].shape[2] * specs[1].shape[3], sum(s.nbytes(facts.block) for s in tensors))


# Widths of a tile: few, so that networks share programs.
_WIDTHS = (8, 7, 5, 4, 3, 2, 1)


def depthwise_tiles(facts, columns):
    """WT outputs per tile, best first: least waste at the end of the row, then the widest."""
    fits = [wt for wt in _WIDTHS if wt <= facts.accumulators and (wt <= columns or wt == 1)]
    return [Choice("stencil", (("WT", wt),)) for wt in sorted(fits, key=lambda wt: ceil_div(columns, wt) * (wt + 0.5))]


def kept_taps(window):
    """The size of a window that the kernels keep in registers, or 0."""
    square = window.kernel in ((3, 3), (5, 5)) and window.dilation == (1, 1)
    return window.kernel[0] if square else 0


# Work-items that a CPU is given: enough to balance a few dozen cores, few enough to be cheap to start.
_CPU_ITEMS = 64


def _walk(facts, y, tiles, per_tile):
    """How the outputs are cut into work-items: their number, the kernel's chunks, rows, spans and tiles, and the loop
    iterations of one with `per_tile` in each tile.

    In the CPU class an item takes several whole rows, as many as a limit of iterations allows, elsewhere one tile.
    """
    n, c, p, _ = y.shape
    planes = n * blocks(c, facts.block)
    if facts.kernels != "cpu":
        return planes * p * tiles, [p, 1, tiles, tiles, 1], looped(1, looped(1, per_tile))
    rows = ceil_div(p, min(p, ceil_div(_CPU_ITEMS, planes)))
    per_row = looped(tiles, per_tile)
    if facts.loop_limit:
        rows = max(1, min(rows, facts.loop_limit // (1 + per_row) - 1))
    chunks = ceil_div(p, rows)
    return planes * chunks, [chunks, rows, 1, tiles, tiles], looped(rows, per_row)


def _launch_stencil(rec, layer, ins, y, window, choice, flip):
    x, w, b = ins
    h, wd = (x[0] if isinstance(x, tuple) else x).spec.shape[2:]
    _, c, p, q = y.spec.shape
    tiles, group = dict(choice.tiles), rec.facts.work_group
    r, s = window.kernel
    taps = kept_taps(window)
    per_row = looped((tiles["WT"] - 1) * window.stride[1] + taps) + looped(taps) if taps else looped(s)
    # Tiles inside the image and those at an edge are two loops.
    per_tile = 2 * looped(tiles["WT"]) + looped(r, 2 * per_row)
    items, walk, iterations = _walk(rec.facts, y.spec, ceil_div(q, tiles["WT"]), per_tile)
    defines = {**tiles, "TAPS": taps, "STRIDE_W": window.stride[1], "WG": group}
    args = [
        *piece_args(x, rec.facts.block, defines), w, b, *output_args(y, rec.facts.block), items, c, h, wd, p, q,
        *window.kernel, window.stride[0],
        window.pads[0][0], window.pads[1][0], *window.dilation, flip, *walk, *layer.activation_args(),
    ]
    rec.launch("conv_depthwise.cl", "conv_depthwise", (items,), args, defines=defines, local_size=(group,),
               iterations=looped(taps * taps) + iterations)
