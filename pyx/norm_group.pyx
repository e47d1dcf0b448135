"""Normalisation by groups of channels of each image, and by all channels of each pixel, in channel blocks."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Choice, Cost, Layer, looped
from clconv._core.plain_index import aligned, run_length

PIXELS = 256  # of a chunk (cl/norm_group.cl): sums are split by shape alone


class GroupNorm(Layer):
    """y = f(weight * (x - mean) / sqrt(var + eps) + bias), mean and variance over a group of channels of one image.

    As many groups as channels make instance normalisation. It has no gradient.
    """

    inputs = ("x", "weight", "bias")
    inplace = {"y": ("x",)}
    activates = True

    def __init__(self, groups, eps):
        self.groups = groups
        self.eps = float(eps)

    def infer(self, specs):
        c = specs[0].shape[1]
        if c % self.groups:
            raise ShapeError(f"group norm: {c} channels in {self.groups} groups; it must be a multiple")
        return (_checked("group norm", specs),)

    def choices(self, facts, specs, outs):
        return [Choice("chunks", (), sum(_sizes(specs[0], facts.block)))]

    def cost(self, specs, outs, facts):
        return Cost(8 * outs[0].values, 2 * specs[0].nbytes(facts.block) + outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        x, weight, bias = ins
        n, c, h, w = x.spec.shape
        depth, plane = blocks(c, rec.facts.block), h * w
        chunks = -(-plane // PIXELS)
        size, more = _sizes(x.spec, rec.facts.block)
        parts, stats = work.part(0, size, None), work.part(size, more, None)
        items = n * depth * chunks
        loops = looped(PIXELS) + looped(PIXELS)
        _launch(rec, "group_parts", items, [x, parts, items, plane, chunks], loops)
        items = n * self.groups
        loops = looped(c // self.groups, looped(chunks)) + looped(c // self.groups)
        args = [parts, stats, items, c, plane, chunks, self.groups, self.eps]
        _launch(rec, "group_total", items, args, loops)
        run, runs = run_length(rec.facts, plane)
        items = n * depth * runs
        args = [x, weight, bias, stats, outs[0], items, c, plane, run, runs, *self.activation_args()]
        _launch(rec, "group_apply", items, args, looped(run))


class ChannelNorm(Layer):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, mean and variance over the channels of one pixel.

    It has no gradient.
    """

    inputs = ("x", "weight", "bias")
    inplace = {"y": ("x",)}

    def __init__(self, eps):
        self.eps = float(eps)

    def infer(self, specs):
        return (_checked("channel norm", specs),)

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = ins[0].spec.shape
        args = [*ins, outs[0], n * h * w, c, h * w, self.eps]
        _launch(rec, "channel_norm", n * h * w, args, 3 * looped(blocks(c, rec.facts.block)))


def _checked(who, specs):
    """The spec of the first input; the others must have one value per channel."""
    c = specs[0].shape[1]
    for spec in specs[1:]:
        if spec.shape != (1, c, 1, 1):
            raise ShapeError(f"{who}: the input {specs[0]} needs 1x{c}x1x1 values per channel, not {spec}")
    return TensorSpec(specs[0].shape)


def _sizes(spec, block):
    """Bytes of the chunks' sums and of the groups' numbers."""
    n, c, h, w = spec.shape
    per_chunk = 2 * 4 * block * n * blocks(c, block)
    return aligned(per_chunk * -(-h * w // PIXELS)), aligned(per_chunk)


def _launch(rec, kernel, items, args, iterations):
    rec.launch("norm_group.cl", kernel, (items,), args, defines={"PIXELS": PIXELS}, iterations=iterations)
