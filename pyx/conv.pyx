"""Convolution and its transpose, with their gradients."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks, filter_blocks

from clconv._core.activation import unactivated
from clconv._core.conv_gemm import conv_choices, forward_phase, record_conv, transposed_phases
from clconv._core.conv_gemm_grad import channel_sum_choices, conv_grad_choices, record_channel_sum, record_conv_grad
from clconv._core.conv_tiles import ceil_div, direct_effort, gradient_tile, is_pointwise, launch_direct, register_tiles
from clconv._core.conv_tiles import blocks_at_once, rows_at_once, rows_gathered, rows_of, stays_near
from clconv._core.layer import Choice, Cost, Layer, Residual, looped
from clconv._core.layout import FilterSwap
from clconv._core.optimizer import WeightGradient
from clconv._core.window import Window, set_axis


class Conv2d(Residual):
    """y[n,k,p,q] = f(b[k] + sum over c,r,s of w[k,c,r,s] x[n, c, p*stride - pad + r*dilation, ...]).

    Operands: x (N, C, H, W) in channel blocks or planar; w a filter (K, C/g, R, S); b (1, K, 1, 1) or None.
    """

    accepts = {"x": ("block", "plain"), "w": ("filter",)}
    pieces = ("x",)
    activates = slices = True
    halves = ("w",)
    strips = bands = 1
    who = "conv"

    def __init__(self, window):
        self.window = window

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w = specs[:2]
        _check_channels(self.who, x, w, w.shape[1] * w.groups)
        return self.pooled(TensorSpec((x.shape[0], w.shape[0], *self.window.output(self.who, x.shape))))

    def strip(self, rows, heights, axis=0):
        window, needed = self.window.strip(self.unpooled_rows(rows), heights["x"], axis)
        return self.with_(window=window), {**dict.fromkeys(heights, rows), "x": needed}

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, facts, self.unpooled(outs[0]).values * specs[1].shape[1])

    def choices(self, facts, specs, outs):
        found = [] if self.pool != "none" else conv_choices(facts, specs[1], outs[0])
        return found or register_tiles(facts, specs[1], *rows_of(self.window, outs[0], self.pool), self.pool != "none")

    def effort(self, specs, outs, facts, choice):
        rows = rows_of(self.window, outs[0], self.pool)
        return direct_effort(self.cost(specs, outs, facts), choice, facts, specs[1], *rows)

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        # dw first: x, which may be computed again for it, need not be there beside dx; w may be stepped already then.
        swapped = emit(FilterSwap(), values["w"]) if "x" in wanted else None
        if "w" in wanted:
            found["w"] = emit(ConvGradW(self.window, values["w"].spec), values["x"], grad)
        if "b" in wanted:
            found["b"] = emit(ChannelSum(), grad)
        if "x" in wanted:
            found["x"] = emit(ConvTranspose2d(self.window, values["x"].spec.shape[2:]), grad, swapped, None)
        return found

    def record(self, rec, ins, outs, work, choice):
        x = ins[0]
        if choice.name != "direct":
            phases = [forward_phase(self.window, outs[0].spec.shape[2:])]
            record_conv(rec, phases, ins, outs[0], work, choice, self.activation_args())
            return
        whole = (x[0] if isinstance(x, tuple) else x).spec
        window, (p, q) = self.window, outs[0].spec.shape[2:]
        extents = (*whole.shape[2:], p, q if self.pool == "none" else 2 * q)
        tiles = dict(choice.tiles)
        if is_pointwise(window) and self.pool == "none":
            h, wd, p, q = extents
            extents = (1, h * wd, 1, p * q)
        defines = {**tiles, "SW": window.stride[1], "PLANAR": int(whole.layout == "plain"), **self.pool_defines()}
        if defines["PLANAR"]:
            defines["REACH"] = (window.kernel[1] - 1) * window.dilation[1] + 1
        per_row = ceil_div(extents[3], tiles["WT"])
        launch_direct(rec, self, ins, outs, extents, per_row, defines)


class ConvTranspose2d(Layer):
    """y[n,k,h,w] = f(b[k] + sum of w[k,c,r,s] x[n,c,p,q] over all p*stride - pad + r*dilation = h, likewise w).

    The gradient of a convolution with respect to its input, and a layer of its own. Operands as Conv2d's, with
    w as (K, C/g, R, S) where C are the channels of x.

    Args:
        window: the window that slides over y. size: (rows, cols) of y.
    """

    inputs = ("x", "w", "b")
    accepts = {"w": ("filter",)}
    activates = slices = True
    halves = ("w",)
    strips = bands = 1
    who = "convtranspose"

    def __init__(self, window, size):
        self.window = window
        self.size = size

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w, _ = specs
        _check_channels(self.who, x, w, w.shape[1] * w.groups)
        return (TensorSpec((x.shape[0], w.shape[0], *self.size)),)

    def strip(self, rows, heights, axis=0):
        window = self.window
        (top, _), stride = window.pads[axis], window.stride[axis]
        reach = (window.kernel[axis] - 1) * window.dilation[axis]
        begin = min(max(ceil_div(rows[0] + top - reach, stride), 0), heights["x"] - 1)
        end = max(min((rows[1] - 1 + top) // stride + 1, heights["x"]), begin + 1)
        pads = set_axis(window.pads, axis, (top + rows[0] - begin * stride, 0))
        moved = Window(window.kernel, window.stride, pads, window.dilation, window.rounding)
        return self.with_(window=moved, size=set_axis(self.size, axis, rows[1] - rows[0])), {"x": (begin, end)}

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, facts, specs[0].values * specs[1].shape[0] // specs[1].groups)

    def choices(self, facts, specs, outs):
        found = conv_choices(facts, specs[1], outs[0], self.window.stride)
        return found or register_tiles(facts, specs[1], *rows_gathered(self.window, outs[0]))

    def effort(self, specs, outs, facts, choice):
        cost = self.cost(specs, outs, facts)
        return direct_effort(cost, choice, facts, specs[1], *rows_gathered(self.window, outs[0]))

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        swapped_spec = FilterSwap().infer([values["w"].spec])[0]
        # Output padding can leave rows that no window reaches: floor drops them.
        window = Window(
            self.window.kernel, self.window.stride, self.window.pads, self.window.dilation, rounding="floor"
        )
        if "w" in wanted:
            found["w"] = emit(FilterSwap(), emit(ConvGradW(window, swapped_spec), grad, values["x"]))
        if "b" in wanted:
            found["b"] = emit(ChannelSum(), grad)
        if "x" in wanted:
            found["x"] = emit(Conv2d(window), grad, emit(FilterSwap(), values["w"]), None)
        return found

    def record(self, rec, ins, outs, work, choice):
        if choice.name != "direct":
            phases, stride = transposed_phases(self.window, self.size), self.window.stride
            record_conv(rec, phases, ins, outs[0], work, choice, self.activation_args(), stride)
            return
        tiles = dict(choice.tiles)
        _, columns = rows_gathered(self.window, outs[0].spec)
        if is_pointwise(self.window):  # a convolution, whose filter is the given one
            extents, per_row, defines = (1, columns, 1, columns), ceil_div(columns, tiles["WT"]), {**tiles, "SW": 1}
        else:
            extents = (*ins[0].spec.shape[2:], *self.size)
            per_row, defines = self.window.stride[1] * ceil_div(columns, tiles["WT"]), {**tiles, "TRANSPOSED": 1}
        launch_direct(rec, self, ins, outs, extents, per_row, defines)


class ConvGradW(WeightGradient):
    """dw[k,c,r,s] = sum over n,p,q of dy[n,k,p,q] x[n, c, p*stride - pad + r*dilation, ...]; `spec` is w's."""

    accepts = {"x": ("block", "plain")}

    def __init__(self, window, spec):
        self.window = window
        self.spec = spec

    def cost(self, specs, outs, facts):
        return _cost(specs, outs, facts, specs[1].values * self.spec.shape[1] * self.spec.shape[2] * self.spec.shape[3])

    def choices(self, facts, specs, outs):
        block = facts.block
        if found := conv_grad_choices(facts, self.spec, specs[1]):
            return found
        x, dy = specs[:2]
        _, _, r, s = self.spec.shape
        tile = gradient_tile(facts, self.spec, x.layout == "plain")
        items = self.spec.elements(block) // (r * s * block * block * tile["KB"])
        chunks = split_rows(dy.shape[0] * dy.shape[2], items, facts)
        parts = Choice("direct", (("chunks", chunks),), chunks * self.spec.nbytes(block))
        if chunks == 1 and self.spec.groups == 1 and not tile["PLANAR"] and block % tile["CT"] == 0:
            return [Choice("whole"), parts][:: 1 if stays_near(x, dy, block, tile["KB"]) else -1]
        return [parts]

    def record(self, rec, ins, outs, work, choice):
        x, dy = ins[:2]
        block = rec.facts.block
        total, defines = self.result(ins, outs)
        if choice.name not in ("direct", "whole"):
            chunks = record_conv_grad(rec, self.window, self.spec, x, dy, total, defines, work, choice)
            if chunks > 1:
                launch_sum(rec, work, total, self.spec.elements(block) // block, chunks, defines)
            return
        (k, c_group, r, s), groups = self.spec.shape, self.spec.groups
        c, (n, _, p, q) = c_group * groups, dy.spec.shape
        depth = filter_blocks(k, c, groups, block)
        tile = gradient_tile(rec.facts, self.spec, x.spec.layout == "plain")
        geometry = [n, c, *x.spec.shape[2:], k, p, q, *self.window.args()]
        steps = ceil_div(min(c, block), tile["CT"]) * ceil_div(s, tile.get("ST", 1))
        pairs = blocks(k, block) // tile["KB"]
        if choice.name == "whole":
            images = looped(n, looped(p, looped(q)))
            rec.launch("conv_grad.cl", "conv_grad_whole", (1, depth, pairs), [x, dy, *total, *geometry],
                       defines={**tile, **defines}, local_size=(1, 1, 1), iterations=looped(r, looped(steps, images)))
            return
        chunks = dict(choice.tiles)["chunks"]
        rows = -(-n * p // chunks)
        once = rows_at_once(self.window, x.spec, dy.spec, block, tile["KB"])
        depths, spans = blocks_at_once(self.spec, rec.facts, chunks, pairs)
        pieces = ceil_div(rows, once) + ceil_div(rows, p) + 1
        rec.launch(
            "conv_grad.cl", "conv_grad_w", (chunks, ceil_div(depth, depths), ceil_div(pairs, spans)),
            [x, dy, work, *geometry, depth, k // groups, c_group, rows, once, depths, spans], defines=tile,
            local_size=(1, 1, 1),
            # Rows are read once per tap; columns come in up to three loops.
            iterations=2 * looped(spans, looped(depths, looped(tile["KB"], looped(r * s * block))))
            + looped(pieces, looped(spans, looped(depths, looped(r, looped(steps, 1)))))
            + depths * spans * r * steps * rows * (6 + looped(q)),
        )
        launch_sum(rec, work, total, self.spec.elements(block) // block, chunks, defines)


class ChannelSum(Layer):
    """db[k] = sum over n,p,q of dy[n,k,p,q]: the gradient of a bias."""

    inputs = ("dy",)
    outputs = ("db",)

    def infer(self, specs):
        return (TensorSpec((1, specs[0].shape[1], 1, 1)),)

    def choices(self, facts, specs, outs):
        n, k, p, _ = specs[0].shape
        if found := channel_sum_choices(facts, specs[0], outs[0]):
            return found
        chunks = split_rows(n * p, blocks(k, facts.block), facts)
        return [Choice("direct", (("chunks", chunks),), chunks * outs[0].nbytes(facts.block))]

    def record(self, rec, ins, outs, work, choice):
        n, k, p, q = ins[0].spec.shape
        chunks = dict(choice.tiles)["chunks"]
        k_blocks = blocks(k, rec.facts.block)
        if choice.name != "direct":
            record_channel_sum(rec, ins[0], work, chunks)
        else:
            rows = ceil_div(n * p, chunks)
            args = [ins[0], work, n, k_blocks, p, q, rows]
            rec.launch("conv_grad.cl", "channel_sum", (chunks, k_blocks), args, local_size=(1, 1),
                       iterations=looped(rows, looped(q // 4) + looped(q % 4)))
        launch_sum(rec, work, [outs[0]], k_blocks, chunks)


def launch_sum(rec, parts, total, items, chunks, defines=None):
    """Records the sum of `chunks` partial sums of `items` vectors each.

    Args:
        total, defines: where it goes, see `WeightGradient.result`; a tensor alone is given as [tensor].
    """
    rec.launch(
        "conv_grad.cl", "sum_parts", (items,), [parts, *total, items, chunks], defines=defines,
        iterations=looped(chunks),
    )


# Work-items that keep a large device of a class busy.
_ITEMS = {"cpu": 64, "gpu": 4096}


def split_rows(rows, parallel, facts):
    """Into how many chunks a sum over `rows` is split, for as many work-items as the class of kernels wants beside
    `parallel` others.

    Within a class a function of the shape alone: the order of the sum, and so its bits, must not depend on the device.
    """
    return max(1, min(rows, -(-_ITEMS[facts.kernels] // parallel)))


def _check_channels(who, x, w, wanted):
    if x.shape[1] != wanted:
        raise ShapeError(f"{who}: the input {x} has {x.shape[1]} channels but the weights {w} read {wanted}")


def _cost(specs, outs, facts, products):
    tensors = [s for s in (*specs, *outs) if s is not None]
    taps = specs[1].shape[2] * specs[1].shape[3] if specs[1].layout == "filter" else 1
    return Cost(2 * products * taps, sum(s.nbytes(facts.block) for s in tensors))
