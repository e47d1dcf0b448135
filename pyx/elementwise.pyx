"""Sums and concatenation."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.layer import Layer, looped, plane_of, same_shape
from clconv._core.plain_index import run_length


class Add(Layer):
    """y = f(a + b + ...), all of one shape; the activation f is applied to the whole sum."""

    activates = True
    strips = bands = 1

    def __init__(self, count=2):
        self.inputs = tuple(f"x{i}" for i in range(count))
        # In place of the first only, where the order of the sum would change the bits.
        self.inplace = {"y": self.inputs if count == 2 else ("x0",)}

    @property
    def keeps(self):
        return () if self.activation == "none" else ("y",)

    def infer(self, specs):
        return (same_shape("add", specs),)

    def gradient(self, emit, values, dy, wanted):
        from clconv._core.activation import unactivated

        gradient = unactivated(self, emit, values["y"], dy["y"])
        return dict.fromkeys(wanted, gradient)

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = outs[0].spec.shape
        size = (h * w, n * blocks(c, rec.facts.block))
        last = len(ins) - 1
        y, total = [outs[0], plane_of(outs[0])], [ins[0], plane_of(ins[0])]
        for i, term in enumerate(ins[1:], start=1):
            kind, slope = self.activation_args() if i == last else (0, 0.0)
            rec.launch("elementwise.cl", "add", size, [*total, term, plane_of(term), *y, h * w, c, kind, slope])
            total = y


class Concat(Layer):
    """Joins tensors along the channels."""

    def __init__(self, count):
        self.inputs = tuple(f"x{i}" for i in range(count))

    def infer(self, specs):
        first = specs[0].shape
        for spec in specs[1:]:
            if spec.shape[0] != first[0] or spec.shape[2:] != first[2:]:
                raise ShapeError(
                    f"concat: {' and '.join(str(s) for s in specs)} differ in more than their channels; "
                    "batch, height and width must be equal"
                )
        return (TensorSpec((first[0], sum(s.shape[1] for s in specs), *first[2:])),)

    def gradient(self, emit, values, dy, wanted):
        gradients, first = {}, 0
        for name in self.inputs:
            count = values[name].spec.shape[1]
            if name in wanted:
                gradients[name] = emit(TakeChannels(first, count), dy["y"])
            first += count
        return gradients

    def record(self, rec, ins, outs, work, choice):
        at = 0
        for i, tensor in enumerate(ins):
            count = tensor.spec.shape[1]
            last = i == len(ins) - 1
            _copy_channels(rec, tensor, outs[0], 0, at, count, tail=last)
            at += count


class TakeChannels(Layer):
    """Channels first .. first + count - 1."""

    def __init__(self, first, count):
        self.first = first
        self.count = count

    def infer(self, specs):
        n, _, h, w = specs[0].shape
        return (TensorSpec((n, self.count, h, w)),)

    def record(self, rec, ins, outs, work, choice):
        _copy_channels(rec, ins[0], outs[0], self.first, 0, self.count, tail=True)


def _copy_channels(rec, source, target, first, at, count, tail):
    """Channels first.. of source to channels at.. of target; `tail` zeroes the rest of the last block."""
    block = rec.facts.block
    n, c, h, w = source.spec.shape
    to = target.spec.shape[1]
    written = blocks(at + count, block) * block - at if tail else count
    run, runs = run_length(rec.facts, h * w)
    touched = (at + written - 1) // block - at // block + 1
    items = n * touched * runs
    args = [source, target, items, c, to, h * w, run, runs, first, at, count, written]
    loops = looped(block) + looped(run, looped(block))
    rec.launch("elementwise.cl", "copy_channels", (items,), args, iterations=loops)
