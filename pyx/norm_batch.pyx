"""Batch normalisation: by the batch's statistics, with its gradient, or by running ones.

The kernels are in cl/norm_batch.cl, in norm_batch_whole.cl where all units have channel blocks of their own.
"""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.activation import unactivated
from clconv._core.layer import ACTIVATIONS, Choice, Cost, Layer, looped


class BatchNorm(Layer):
    """Base of what writes y = f(weight * (x - mean) * inverse + bias + residual), the last with `adds` only.

    All but x, residual and y are (1, C, 1, 1).
    """

    activates = True
    adds = False
    operands = ()

    @property
    def inputs(self):
        return (*self.operands, "residual") if self.adds else self.operands

    @property
    def inplace(self):
        return {"y": ("x", "residual") if self.adds else ("x",)}

    def check(self, specs):
        """The spec of one value per channel; raises ShapeError where the operands do not fit."""
        specs = list(specs)
        if self.adds and (residual := specs.pop()).shape != specs[0].shape:
            raise ShapeError(f"bn: {residual} cannot be added to {specs[0]}; their shapes must be equal")
        return _check_channels(specs)

    def launch(self, rec, ins, statistics, y, inverted):
        """Records bn_apply: the operands are ins, with statistics (mean, spread) in the place of their own."""
        x, weight, bias = ins[:3]
        residual = ins[-1] if self.adds else None
        n, c, h, w = x.spec.shape
        run, runs = _runs(rec.facts, h * w)
        items = n * blocks(c, rec.facts.block) * runs
        args = [x, weight, bias, *statistics, residual, y, items, c, h * w, run, runs, float(self.eps)]
        _launch(rec, "bn_apply", (items,), [*args, *self.activation_args()], looped(run), INVERTED=inverted)


class BatchNormTrain(BatchNorm):
    """y with the batch's mean and inverse = 1 / sqrt(variance + eps).

    Mean and inverse are kept for the gradient, which reads x again, and takes the slope of f from it; with `adds`, from
    y. The running statistics move by the share `momentum` towards the batch's, the variance towards the unbiased one.
    """

    operands = ("x", "weight", "bias", "running_mean", "running_var")
    outputs = ("y", "mean", "inverse")
    updates = ("running_mean", "running_var")

    def __init__(self, momentum, eps):
        self.momentum = momentum
        self.eps = eps

    @property
    def keeps(self):
        kept = ("x", "weight", "bias", "mean", "inverse")
        return (*kept, "y") if self.adds and self.activation != "none" else kept

    def infer(self, specs):
        per_channel = self.check(specs)
        n, _, h, w = specs[0].shape
        if n * h * w < 2:
            raise ShapeError(f"bn: training needs 2 or more values per channel; the input {specs[0]} has 1")
        return (TensorSpec(specs[0].shape), per_channel, per_channel)

    def choices(self, facts, specs, outs):
        return _choices(facts, specs[0])

    def cost(self, specs, outs, facts):
        x = specs[0]
        return Cost(8 * x.values, (3 + self.adds) * x.nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        grad, activation, slope = dy["y"], self.activation, self.slope
        if self.adds:
            grad, activation = unactivated(self, emit, values["y"], grad), "none"
        operands = (values["x"], grad, *(values[name] for name in ("weight", "bias", "mean", "inverse")))
        found = {"residual": grad}
        if "x" in wanted:
            found["x"], found["weight"], found["bias"] = emit(BatchNormGrad(activation, slope), *operands)
        else:
            found["weight"], found["bias"] = emit(BatchNormGradSums(activation, slope), *operands)
        return found

    def record(self, rec, ins, outs, work, choice):
        x, weight, bias, running_mean, running_var = ins[:5]
        y, mean, inverse = outs
        _, c, h, w = x.spec.shape
        count, (total, chunks, per_chunk) = blocks(c, rec.facts.block), _split(x.spec)
        statistics = [mean, inverse, running_mean, running_var]
        settings = [float(self.eps), float(1 - self.momentum), float(self.momentum)]
        if choice.name == "whole":
            args = [x, weight, bias, ins[-1] if self.adds else None, work, *statistics, y, count, c, h * w, chunks]
            _launch_whole(rec, "bn_train", count, [*args, total, per_chunk, *settings, *self.activation_args()])
            return
        _launch_chunks(rec, "bn_parts", [x, work], x.spec)
        args = [work, *statistics, count, c, chunks, total, per_chunk, *settings]
        _launch(rec, "bn_statistics", (count,), args, 2 * looped(chunks))
        self.launch(rec, ins, [mean, inverse], y, inverted=1)


class BatchNormInfer(BatchNorm):
    """y with the running statistics: inverse = 1 / sqrt(var + eps).

    `inverted`: var is 1 / sqrt(variance + eps) already; y of `BatchNormTrain` again, bit for bit, from what it kept.
    """

    operands = ("x", "weight", "bias", "mean", "var")

    def __init__(self, eps, inverted=False):
        self.eps = eps
        self.inverted = inverted

    def infer(self, specs):
        self.check(specs)
        return (TensorSpec(specs[0].shape),)

    def record(self, rec, ins, outs, work, choice):
        self.launch(rec, ins, ins[3:5], outs[0], inverted=int(self.inverted))


class BatchNormGrad(Layer):
    """dweight = sum of g * (x - mean) * inverse, dbias = sum of g, per channel, and
    dx = weight * inverse * (g - dbias / M - (x - mean) * inverse * dweight / M), M values per channel.

    g = dy * f', where dy is that of f's output; the slope of f is taken from x again.
    """

    inputs = ("x", "dy", "weight", "bias", "mean", "inverse")
    outputs = ("dx", "dweight", "dbias")
    inplace = {"dx": ("dy", "x")}

    def __init__(self, activation="none", slope=0.0):
        self.activation = activation
        self.slope = slope

    @property
    def defines(self):
        """Build definitions: f, which is computed in the innermost loops."""
        return {"ACTIVATION": ACTIVATIONS.index(self.activation)}

    def infer(self, specs):
        return (TensorSpec(specs[0].shape), specs[2], specs[2])

    def choices(self, facts, specs, outs):
        return _choices(facts, specs[0])

    def cost(self, specs, outs, facts):
        x = specs[0]
        return Cost(10 * x.values, 5 * x.nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        dx, *sums = outs
        n, c, h, w = ins[0].spec.shape
        count = blocks(c, rec.facts.block)
        if choice.name == "whole":
            total, chunks, per_chunk = _split(ins[0].spec)
            args = [*ins, work, *outs, count, h * w, chunks, total, per_chunk, float(self.slope)]
            _launch_whole(rec, "bn_grad", count, args, **self.defines)
            return
        self.record_sums(rec, ins, sums, work)
        run, runs = _runs(rec.facts, h * w)
        args = [*ins, *sums, dx, n * count * runs, count, h * w, run, runs, float(n * h * w), float(self.slope)]
        _launch(rec, "bn_grad_x", (n * count * runs,), args, looped(run), **self.defines)

    def record_sums(self, rec, ins, sums, work):
        """Records what computes dweight and dbias."""
        x, inverse = ins[0], ins[5]
        _launch_chunks(rec, "bn_grad_parts", [*ins, work], x.spec, [self.slope], **self.defines)
        count = blocks(x.spec.shape[1], rec.facts.block)
        chunks = _split(x.spec)[1]
        _launch(rec, "bn_grad_total", (count,), [work, inverse, *sums, count, chunks], looped(chunks))


class BatchNormGradSums(BatchNormGrad):
    """`BatchNormGrad` without dx."""

    outputs = ("dweight", "dbias")
    inplace = {}

    def infer(self, specs):
        return (specs[2], specs[2])

    def choices(self, facts, specs, outs):
        return [_chunked(facts, specs[0])]

    def cost(self, specs, outs, facts):
        x = specs[0]
        return Cost(5 * x.values, 2 * x.nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        self.record_sums(rec, ins, outs, work)


# A chunk holds at least so many pixels, so that its two sums are small beside it; there are at most so many.
_LEAST_PIXELS = 512
_MOST_CHUNKS = 256
_IDLE = 1.25  # times the work of units that never wait, at most, where a unit takes whole channel blocks
TILE = 128  # of cl/norm_batch.cl


def _split(spec):
    """(pixels, chunks, pixels per chunk) of sums over all images; a function of the shape alone, as are the bits."""
    n, _, h, w = spec.shape
    total = n * h * w
    per_chunk = max(_LEAST_PIXELS, -(-total // _MOST_CHUNKS))
    return total, -(-total // per_chunk), per_chunk


def _choices(facts, spec):
    """Where the units are busy with channel blocks of their own, the choice of `norm_batch_whole.cl` comes first."""
    chunked = _chunked(facts, spec)
    count, units = blocks(spec.shape[1], facts.block), facts.compute_units
    whole = facts.kernels == "cpu" and facts.workers and -(-count // units) * units <= _IDLE * count
    return [Choice("whole", (), chunked.workspace_bytes), chunked] if whole else [chunked]


def _chunked(facts, spec):
    """The choice of a layer with two sums per chunk and channel as workspace."""
    per_channel = TensorSpec((1, spec.shape[1], 1, 1))
    return Choice("chunks", (), 2 * _split(spec)[1] * per_channel.nbytes(facts.block))


def _launch_whole(rec, kernel, count, args, **defines):
    """Records a kernel with a work-item for each channel block."""
    rec.launch("norm_batch_whole.cl", kernel, (count,), args, defines=defines, local_size=(1,))


def _check_channels(specs):
    """The spec of one value per channel, which all but the first must have."""
    per_channel = TensorSpec((1, specs[0].shape[1], 1, 1))
    for spec in specs[1:]:
        if spec.shape != per_channel.shape:
            raise ShapeError(f"bn: the input {specs[0]} needs {per_channel} values per channel, not {spec}")
    return per_channel


def _runs(facts, plane):
    """(pixels per work-item, items per plane): items that run side by side take neighbouring pixels."""
    run = 1 if facts.work_group > 1 else min(64, plane)
    return run, -(-plane // run)


def _launch(rec, kernel, size, args, iterations, **defines):
    group = rec.facts.work_group
    rec.launch("norm_batch.cl", kernel, size, args, defines={**defines, "WG": group},
               local_size=(group, *(1 for _ in size[1:])), iterations=iterations)


def _launch_chunks(rec, kernel, tensors, spec, settings=(), **defines):
    """Records a sum over chunks: a group of items for each chunk and channel block."""
    _, c, h, w = spec.shape
    total, chunks, per_chunk = _split(spec)
    count, group = blocks(c, rec.facts.block), rec.facts.work_group
    args = [*tensors, chunks, total, count, h * w, per_chunk, *map(float, settings)]
    if group > 1:
        steps = 2 * looped(-(-per_chunk // group)) + 4 * looped(group.bit_length())
    else:
        # Two passes over pieces that end with a tile or an image: sums in steps of four pixels, then of two.
        pieces = per_chunk // TILE + per_chunk // (h * w) + 2
        steps = pieces + 2 * per_chunk // 4 * (1 + looped(4)) + 2 * pieces * looped(4)
    _launch(rec, kernel, (chunks * group, count), args, steps, **defines)
