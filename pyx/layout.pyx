"""Conversions between layouts: into and out of channel blocks, flattening, swapping a filter's channels."""

from clconv.shapes import TensorSpec, blocks, filter_blocks

from clconv._core.layer import Cost, Layer, looped, plane_of
from clconv._core.window import Window


def _pixels(spec, block):
    """Work-items of one pixel and channel block each."""
    return spec.elements(block) // block


def _planes(spec, block):
    """How many planes of rows an image has, of channel blocks or values; with the definitions of kernels for them."""
    n, c = spec.shape[:2]
    defines = {"ROW_HALF": 1} if spec.dtype == "float16" else {}
    return (n * blocks(c, block), defines) if spec.layout == "block" else (n * c, {**defines, "ROW_PLAIN": 1})


class ToBlocks(Layer):
    """(N, C, H, W) row-major -> channel blocks."""

    accepts = {"x": ("plain",)}
    strips = bands = 1

    def infer(self, specs):
        return (TensorSpec(specs[0].shape, specs[0].dtype, "block"),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(ToPlain(), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        _, c, h, w = outs[0].spec.shape
        items = _pixels(outs[0].spec, rec.facts.block)
        args = [ins[0], plane_of(ins[0]), outs[0], plane_of(outs[0]), items, c, h * w]
        rec.launch("layout.cl", "to_blocks", (items,), args)


class ToPhases(Layer):
    """(N, C, H, W) row-major -> channel blocks (N, C*sh*sw, *size) of the phases of a stride (sh, sw).

    Channel (c*sh + r)*sw + s of pixel (p, q) is x[n, c, p*sh + r - top, q*sw + s - left], zero beside the image. A
    convolution with that stride is one with stride 1 over them.

    Args:
        pads: (top, left). size: rows and columns.
    """

    accepts = {"x": ("plain",)}
    strips = 1

    def __init__(self, stride, pads, size):
        self.stride = stride
        self.pads = pads
        self.size = size

    def infer(self, specs):
        n, c, _, _ = specs[0].shape
        return (TensorSpec((n, c * self.stride[0] * self.stride[1], *self.size)),)

    def strip(self, rows, heights):
        top, left = self.pads
        window, needed = Window(self.stride, self.stride, ((top, 0), (left, 0))).strip(rows, heights["x"])
        moved = self.with_(pads=(window.pads[0][0], left), size=(rows[1] - rows[0], self.size[1]))
        return moved, {"x": needed}

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = ins[0].spec.shape
        block, (rows, columns) = rec.facts.block, self.size
        items = n * blocks(outs[0].spec.shape[1], block) * rows
        args = [ins[0], plane_of(ins[0]), outs[0], plane_of(outs[0]), items, c, h, w, rows, columns, *self.stride,
                *self.pads]
        across = self.stride[1] if self.stride[1] in (2, 4) and block % self.stride[1] == 0 else 1
        group = rec.facts.work_group
        defines = {"ACROSS": across, "WG": group}
        rec.launch("layout.cl", "to_phases", (items,), args, defines=defines, local_size=(group,),
                   iterations=looped(columns, looped(block)) + looped(block))


class ToPlain(Layer):
    """Channel blocks -> (N, C, H, W) row-major."""

    strips = bands = 1

    def infer(self, specs):
        return (TensorSpec(specs[0].shape, specs[0].dtype, "plain"),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(ToBlocks(), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        _, c, h, w = ins[0].spec.shape
        items = _pixels(ins[0].spec, rec.facts.block)
        args = [ins[0], plane_of(ins[0]), outs[0], plane_of(outs[0]), items, c, h * w]
        rec.launch("layout.cl", "to_plain", (items,), args)


class Flatten(Layer):
    """(N, C, H, W) -> (N, C*H*W, 1, 1), in NCHW order; `inverse_of` (C, H, W) makes it the way back."""

    def __init__(self, inverse_of=None):
        self.inverse_of = inverse_of

    def infer(self, specs):
        n, c, h, w = specs[0].shape
        return (TensorSpec((n, *self.inverse_of) if self.inverse_of else (n, c * h * w, 1, 1)),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(Flatten(None if self.inverse_of else values["x"].spec.shape[1:]), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        _, c, h, w = (outs if self.inverse_of else ins)[0].spec.shape
        items = outs[0].spec.elements(rec.facts.block)
        kernel = "unflatten" if self.inverse_of else "flatten"
        rec.launch("layout.cl", kernel, (items,), [ins[0], outs[0], items, c, h * w])


class FilterSwap(Layer):
    """Filter (K, C/g, R, S) -> (C, K/g, R, S): what the input gradient convolves with."""

    inputs = ("w",)
    accepts = {"w": ("filter",)}

    def infer(self, specs):
        k, c_group, r, s = specs[0].shape
        groups = specs[0].groups
        return (TensorSpec((c_group * groups, k // groups, r, s), layout="filter", groups=groups),)

    def record(self, rec, ins, outs, work, choice):
        spec, block = ins[0].spec, rec.facts.block
        k, c_group, r, s = spec.shape
        groups = spec.groups
        c = c_group * groups
        if groups == 1:
            k_blocks, c_blocks = blocks(k, block), blocks(c, block)
            items = k_blocks * c_blocks * r * s
            rec.launch("layout.cl", "filter_turn", (items,), [ins[0], outs[0], items, k_blocks, c_blocks, r * s],
                       iterations=2 * looped(block)
                       + looped(block.bit_length(), looped(block // 2) + looped(block)))
            return
        depth, swapped_depth = filter_blocks(k, c, groups, block), filter_blocks(c, k, groups, block)
        items = outs[0].spec.elements(block) // block
        args = [ins[0], outs[0], items, k, c, k // groups, c_group, r * s, depth, swapped_depth]
        rec.launch("layout.cl", "filter_swap", (items,), args)


class ShiftRows(Layer):
    """Moves rows of every plane of what is stored to its front, in place, to make room behind them.

    Args:
        start: the first row that is moved. rows: how many are.
    """

    updates = ("x",)
    outputs = ()

    def __init__(self, start, rows):
        self.start = start
        self.rows = rows

    def infer(self, specs):
        return ()

    def record(self, rec, ins, outs, work, choice):
        planes, defines = _planes(ins[0].spec, rec.facts.block)
        w = ins[0].spec.shape[3]
        args = [ins[0], planes * w, w, plane_of(ins[0]), self.start, 0, self.rows]
        rec.launch("layout.cl", "shift_rows", (planes * w,), args, defines=defines, iterations=looped(self.rows))


class CopyColumns(Layer):
    """Base of copies of an image's columns, all of its rows that are given.

    Args:
        begin: the column of the wider image at which the narrower one begins.
    """

    accepts = {"x": ("block", "plain")}
    strips = 1

    def __init__(self, begin):
        self.begin = begin

    def cost(self, specs, outs, facts):
        return Cost(0, 2 * min(specs[0].nbytes(facts.block), outs[0].nbytes(facts.block)))

    def _copy(self, rec, x, y, x_begin, y_begin):
        _, _, h, w = x.spec.shape
        planes, defines = _planes(x.spec, rec.facts.block)
        width = min(w, y.spec.shape[3])
        args = [x, plane_of(x), w, x_begin, y, plane_of(y), y.spec.shape[3], y_begin, width, h]
        rec.launch("layout.cl", "copy_columns", (width, h * planes), args, defines=defines)


class Crop(CopyColumns):
    """Columns of an image, to a narrower one."""

    eager = True

    def record(self, rec, ins, outs, work, choice):
        self._copy(rec, ins[0], outs[0], self.begin, 0)


class Paste(CopyColumns):
    """An image, to columns of a wider one; the others stay as they are."""

    def record(self, rec, ins, outs, work, choice):
        self._copy(rec, ins[0], outs[0], 0, self.begin)


class HostCopy(Layer):
    """Base of copies between the device and host memory, whole or rows of a tensor.

    Args:
        begin: the column of what the host has at which what the device has begins.
        lent: the host's is an array of the caller's: every plan copies it once, whoever does that.
    """

    strips = bands = 1

    def __init__(self, begin=0, lent=False):
        self.begin = begin
        self.lent = lent

    def infer(self, specs):
        return (specs[0],)

    def cost(self, specs, outs, facts):
        return Cost(0, 0 if self.lent else 2 * min(specs[0].nbytes(facts.block), outs[0].nbytes(facts.block)))

    def strip(self, rows, heights, axis=0):
        return (self.with_(begin=rows[0]) if axis else self), dict.fromkeys(heights, rows)


class Spill(HostCopy):
    """Copies a tensor, or rows of it, to host memory; the device's copy may be overwritten behind a `Settle`."""

    outputs = ("held",)
    accepts = {"x": ("block", "plain")}
    eager = True

    def record(self, rec, ins, outs, work, choice):
        rec.move(outs[0], ins[0], down=True, column=self.begin)
        if ins[0].plane:  # the next strip may take these rows' place
            rec.settle()


class Restore(HostCopy):
    """Copies what was spilled, or rows of it, back to the device."""

    inputs = ("held",)
    accepts = {"held": ("block", "plain")}

    def record(self, rec, ins, outs, work, choice):
        rec.move(ins[0], outs[0], down=False, column=self.begin)


class Settle(Layer):
    """Lets what comes next wait for the copies so far: until then what is spilled lives."""

    updates = ("x",)
    outputs = ()

    def infer(self, specs):
        return ()

    def record(self, rec, ins, outs, work, choice):
        rec.settle()


class Upload(Layer):
    """Copies blocks of output channels of weights from the host to where they are staged."""

    inputs = ("w",)
    outputs = ("staged",)

    def record(self, rec, ins, outs, work, choice):
        rec.copy(ins[0], outs[0])
