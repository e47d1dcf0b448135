"""Functions of one value and of two in channel blocks, and what moves values without leaving them.

Gradients are those of the row-major operators of the same name.
"""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Cost, Layer, looped, plane_of
from clconv._core.plain_elementwise import Binary, Unary, broadcast
from clconv._core.plain_index import floats, run_length
from clconv._core.plain_move import DepthToSpace, PadTo, Slice
from clconv._core.plain_resize import Resize


class UnaryBlocks(Unary):
    """y = f(x; a, b), value by value; see `UNARY`."""

    accepts = {}

    def infer(self, specs):
        floats(self.op, specs)
        return (TensorSpec(specs[0].shape),)

    def record(self, rec, ins, outs, work, choice):
        _launch_unary(rec, ins[0], outs[0], self.code, self.a, self.b)


def _launch_unary(rec, x, y, code, a, b):
    _, c, h, w = y.spec.shape
    items = y.spec.elements(rec.facts.block) // rec.facts.block
    rec.launch("blockwise.cl", "unary_blocks", (items,), [x, y, items, c, h * w, code, a, b])


class BinaryBlocks(Binary):
    """y = f(a, b), broadcast as NumPy does; both have four axes."""

    accepts = {}

    def infer(self, specs):
        floats(self.op, specs)
        return (TensorSpec(broadcast(self.op, specs[0].shape, specs[1].shape)),)

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = shape = outs[0].spec.shape
        walks = [_walk(tensor.spec.shape, shape, rec.facts.block) for tensor in ins]
        if all(walk[2] == walk[3] * w for walk in walks):  # rows follow each other everywhere: one long row
            h, w = 1, h * w
        run, runs = run_length(rec.facts, w)
        items = n * blocks(c, rec.facts.block) * h * runs
        args = [*ins, outs[0], items, self.code, c, h, w, run, runs, *walks[0], *walks[1]]
        rec.launch("blockwise.cl", "binary_blocks", (items,), args, iterations=looped(run))


def _walk(shape, target, block):
    """Strides in vectors along images, blocks, rows and pixels of `target`, and 1 where one channel serves all."""
    _, c, h, w = shape
    strides = (blocks(c, block) * h * w, h * w, w, 1)
    single = int(c == 1 < target[1])
    return [*(0 if extent == 1 else stride for extent, stride in zip(shape, strides)), single]


class ChannelShuffle(Layer):
    """(N, C, H, W) with channel (group, member) at (member, group): group `groups` of them, as ShuffleNet does."""

    def __init__(self, groups):
        self.groups = groups

    def infer(self, specs):
        c = specs[0].shape[1]
        if c % self.groups:
            raise ShapeError(f"shuffle: {c} channels in {self.groups} groups; it must be a multiple")
        return (TensorSpec(specs[0].shape),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(ChannelShuffle(values["x"].spec.shape[1] // self.groups), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        c = outs[0].spec.shape[1]
        _launch_between(rec, ins[0], outs[0], 1, self.groups, c // self.groups, 1, 0)


class DepthToSpaceBlocks(DepthToSpace):
    """(N, C, H, W) -> (N, C/block^2, block H, block W); see `DepthToSpace`."""

    accepts = {}

    @property
    def strips(self):
        return self.block

    bands = strips

    def infer(self, specs):
        (y,) = super().infer(specs)
        return (TensorSpec(y.shape),)

    def strip(self, rows, heights, axis=0):
        return self, {"x": (rows[0] // self.block, -(-rows[1] // self.block))}

    def record(self, rec, ins, outs, work, choice):
        near, step = (1, outs[0].spec.shape[1]) if self.mode == "DCR" else (self.block * self.block, 1)
        _launch_between(rec, ins[0], outs[0], self.block, 1, 0, near, step)


class PadChannels(Layer):
    """(N, C, H, W) with `before` and `after` channels of `value` added; negative numbers take channels away."""

    def __init__(self, before, after, value=0.0):
        self.before = before
        self.after = after
        self.value = float(value)

    def infer(self, specs):
        n, c, h, w = specs[0].shape
        if c + self.before + self.after < 1:
            raise ShapeError(f"pad: {self.before} and {self.after} added to {c} channels leave none")
        return (TensorSpec((n, c + self.before + self.after, h, w)),)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(PadChannels(-self.before, -self.after), dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        _launch_between(rec, ins[0], outs[0], 1, 1, 0, 1, 0, self.before, self.value)


def _launch_between(rec, x, y, size, groups, far, near, step, before=0, fill=0.0):
    n, x_channels, h, w = x.spec.shape
    channels, block = y.spec.shape[1], rec.facts.block
    if size == 1:  # rows follow each other in both
        h, w = 1, h * w
    run, runs = run_length(rec.facts, w)
    items = n * blocks(channels, block) * h * size * size * runs
    args = [x, plane_of(x), y, plane_of(y), items, x_channels, channels, h, w, run, runs, size, groups, far, near, step,
            before, fill]
    loops = looped(block) + looped(run, looped(block))
    rec.launch("blockwise.cl", "between_depth", (items,), args, iterations=loops)


# ------------------------------------------------------------------------ row-major operators on the stored form


class Stored(Layer):
    """A row-major operator that leaves images and channels alone, on the form [N][C/B][H][W][B] in which they lie.

    Args:
        layer: `Slice`, `PadTo` or `Resize` of four axes, the first two unchanged.
    """

    def __init__(self, layer):
        self.layer = layer

    @property
    def differentiable(self):
        return self.layer.differentiable

    def infer(self, specs):
        (y,) = self.layer.infer([TensorSpec(specs[0].shape, layout="plain")])
        if y.shape[:2] != specs[0].shape[:2]:
            raise ShapeError(f"stored: {specs[0].shape} became {y.shape}; images and channels must stay")
        return (TensorSpec(y.shape),)

    def choices(self, facts, specs, outs):
        return self._inner(facts, outs[0]).choices(facts, [_stored(specs[0], facts)], [_stored(outs[0], facts)])

    def cost(self, specs, outs, facts):
        return Cost(outs[0].values, specs[0].nbytes(facts.block) + outs[0].nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        return self.layer.gradient(emit, values, dy, wanted)

    def record(self, rec, ins, outs, work, choice):
        x, y = (tensor.part(0, tensor.nbytes, _stored(tensor.spec, rec.facts)) for tensor in (ins[0], outs[0]))
        self._inner(rec.facts, outs[0].spec).record(rec, [x], [y], work, choice)
        if type(self.layer) is PadTo and self.layer.value and outs[0].spec.shape[1] % rec.facts.block:
            _launch_unary(rec, outs[0], outs[0], 0, 0.0, 0.0)  # what was filled with a number has it in the tail too

    def _inner(self, facts, y):
        """The operator on five axes."""
        layer = self.layer
        if type(layer) is Slice:
            extents = _stored(y, facts).shape
            return Slice((*layer.starts, 0), (*layer.steps, 1), extents)
        if type(layer) is PadTo:
            return PadTo((*layer.before, 0), (*layer.after, 0), layer.mode, layer.value)
        assert type(layer) is Resize, layer
        scales = None if layer.scales is None else (*layer.scales, 1.0)
        return Resize(layer.mode, _stored(y, facts).shape, scales, layer.coordinate_mode, layer.nearest_mode)


def _stored(spec, facts):
    """The row-major array that holds a tensor in channel blocks."""
    return TensorSpec(spec.storage_shape(facts.block), spec.dtype, "plain")
