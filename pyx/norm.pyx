"""Normalisation: by the neighbours' squares (LRN), by the batch's statistics or by running ones."""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.activation import unactivated
from clconv._core.layer import Choice, Cost, Layer, looped, plane_of


class Response:
    """The constants of an LRN: window, s = k + share * (sum of squares), y = x * s^-beta; across or within maps."""

    def __init__(self, size, share, beta, k, across):
        self.size = size
        self.share = share
        self.beta = beta
        self.k = k
        self.across = across

    def args(self):
        """Kernel arguments: k, share, beta."""
        return [float(self.k), float(self.share), float(self.beta)]

    def choice(self, facts, width, workspace_bytes=0):
        """RUN pixels per work-item: many where items run one after the other, one where they run side by side."""
        run = 1 if facts.work_group > 1 and self.across else min(8, width)
        return Choice("across" if self.across else "within", (("RUN", run), ("SIZE", self.size)), workspace_bytes)

    def cost(self, specs, outs, facts, passes):
        """Costs of so many passes over windows, each summed over channels or over rows and then columns."""
        terms = self.size if self.across else 2 * self.size
        traffic = sum(s.nbytes(facts.block) for s in (*specs, *outs))
        return Cost(passes * outs[0].values * (terms + 6), traffic)

    def launch(self, rec, kernel, tensors, constants, choice):
        """Records a kernel of norm_lrn.cl for tensors of one shape."""
        spec = tensors[0].spec
        n, c, h, w = spec.shape
        tiles = dict(choice.tiles)
        group, rows = rec.facts.work_group, n * blocks(c, rec.facts.block)
        if self.across:
            runs = -(-h * w // tiles["RUN"])
            items, sizes = n * runs, [blocks(c, rec.facts.block), h * w, runs]
        else:
            runs = -(-w // tiles["RUN"])
            items, sizes = rows * h * runs, [h, w, runs]
        rec.launch("norm_lrn.cl", kernel, (items,), [*tensors, items, *sizes, *constants],
                   defines={**tiles, "WG": group}, local_size=(group,),
                   iterations=self._iterations(tiles["RUN"], blocks(c, rec.facts.block), rec.facts.block))

    def _iterations(self, run, count, block):
        """At most so many loop iterations of a work-item, of any of the kernels, with `count` channel blocks."""
        size = self.size
        if not self.across:
            return looped(run + size - 1, looped(size)) + looped(run, looped(size)) + looped(run)
        reach = -(-(size // 2) // block)
        ring = looped(2 * reach + 1)
        # Per block: squares move on, terms move on and are made of sums, and are summed themselves.
        per_block = looped(run, ring) + looped(run, ring + looped(size)) + looped(run, looped(size))
        return looped(run, ring) + looped(count + 2 * reach, per_block)


class LocalResponse(Layer):
    """y = x * (k + share * sum of x^2 over a window)^-beta."""

    keeps = ("x",)

    def __init__(self, response):
        self.response = response
        # Across channels, a work-item reads all that it needs before it overwrites it.
        self.inplace = {"y": ("x",)} if response.across else {}
        self.strips = int(response.across)

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def choices(self, facts, specs, outs):
        return [self.response.choice(facts, specs[0].shape[3])]

    def cost(self, specs, outs, facts):
        return self.response.cost(specs, outs, facts, 1)

    def gradient(self, emit, values, dy, wanted):
        return {"x": emit(LocalResponseGrad(self.response), values["x"], dy["y"])}

    def record(self, rec, ins, outs, work, choice):
        x, y = ins[0], outs[0]
        if self.response.across:
            tensors = [x, plane_of(x), y, plane_of(y)]
            self.response.launch(rec, "lrn_across", tensors, self.response.args(), choice)
        else:
            self.response.launch(rec, "lrn_within", [x, y], self.response.args(), choice)


class LocalResponseGrad(Layer):
    """dx of `LocalResponse`; s is computed again from x. Within maps a workspace of the size of x holds its terms."""

    inputs = ("x", "dy")
    outputs = ("dx",)
    inplace = {"dx": ("dy",)}

    def __init__(self, response):
        self.response = response

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def choices(self, facts, specs, outs):
        workspace = 0 if self.response.across else outs[0].nbytes(facts.block)
        return [self.response.choice(facts, specs[0].shape[3], workspace)]

    def cost(self, specs, outs, facts):
        return self.response.cost(specs, outs, facts, 2)

    def record(self, rec, ins, outs, work, choice):
        response = self.response
        x, dy = ins
        if response.across:
            response.launch(rec, "lrn_across_grad", [x, dy, outs[0]], response.args(), choice)
            return
        response.launch(rec, "lrn_within_terms", [x, dy, outs[0], work], response.args(), choice)
        response.launch(rec, "lrn_within_grad", [x, work, outs[0]], response.args()[1:], choice)


class BatchNormTrain(Layer):
    """y = f(weight * (x - mean) * inverse + bias) with the batch's mean and inverse = 1 / sqrt(variance + eps).

    Mean and inverse are kept for the gradient, which reads x again. The running statistics move by the share
    `momentum` towards the batch's, the variance towards the unbiased one. All but x and y are (1, C, 1, 1).
    """

    inputs = ("x", "weight", "bias", "running_mean", "running_var")
    outputs = ("y", "mean", "inverse")
    updates = ("running_mean", "running_var")
    inplace = {"y": ("x",)}
    activates = True

    def __init__(self, momentum, eps):
        self.momentum = momentum
        self.eps = eps

    @property
    def keeps(self):
        kept = ("x", "weight", "mean", "inverse")
        return kept if self.activation == "none" else (*kept, "y")

    def infer(self, specs):
        per_channel = _check_channels(specs)
        n, _, h, w = specs[0].shape
        if n * h * w < 2:
            raise ShapeError(f"bn: training needs 2 or more values per channel; the input {specs[0]} has 1")
        return (TensorSpec(specs[0].shape), per_channel, per_channel)

    def choices(self, facts, specs, outs):
        return [_chunked(facts, specs[0])]

    def cost(self, specs, outs, facts):
        x = specs[0]
        return Cost(8 * x.values, 3 * x.nbytes(facts.block))

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        mean, inverse = values["mean"], values["inverse"]
        dweight, dbias = emit(BatchNormGradSums(), values["x"], grad, mean, inverse)
        found = {"weight": dweight, "bias": dbias}
        if "x" in wanted:
            found["x"] = emit(BatchNormGradX(), values["x"], grad, values["weight"], mean, inverse, dweight, dbias)
        return found

    def record(self, rec, ins, outs, work, choice):
        x, weight, bias, running_mean, running_var = ins
        y, mean, inverse = outs
        c = x.spec.shape[1]
        total, chunks, per_chunk = _split(x.spec)
        _launch_chunks(rec, "bn_parts", [x, work], x.spec)
        args = [
            work, mean, inverse, running_mean, running_var, blocks(c, rec.facts.block), c, chunks, total, per_chunk,
            float(self.eps), float(1 - self.momentum), float(self.momentum),
        ]
        _launch(rec, "bn_statistics", (blocks(c, rec.facts.block),), args, 2 * looped(chunks))
        _launch_apply(rec, self, [x, weight, bias, mean, inverse, y], inverted=1)


class BatchNormInfer(Layer):
    """y = f(weight * (x - mean) / sqrt(var + eps) + bias) with the running statistics.

    `inverted`: var is 1 / sqrt(variance + eps) already; y of `BatchNormTrain` again, bit for bit, from what it kept.
    """

    inputs = ("x", "weight", "bias", "mean", "var")
    inplace = {"y": ("x",)}
    activates = True

    def __init__(self, eps, inverted=False):
        self.eps = eps
        self.inverted = inverted

    def infer(self, specs):
        _check_channels(specs)
        return (TensorSpec(specs[0].shape),)

    def record(self, rec, ins, outs, work, choice):
        _launch_apply(rec, self, [*ins, outs[0]], inverted=int(self.inverted))


class BatchNormGradSums(Layer):
    """dweight = sum of dy * (x - mean) * inverse, dbias = sum of dy, per channel."""

    inputs = ("x", "dy", "mean", "inverse")
    outputs = ("dweight", "dbias")

    def infer(self, specs):
        return (specs[2], specs[2])

    def choices(self, facts, specs, outs):
        return [_chunked(facts, specs[0])]

    def record(self, rec, ins, outs, work, choice):
        x, dy, mean, inverse = ins
        _launch_chunks(rec, "bn_grad_parts", [x, dy, mean, work], x.spec)
        count = blocks(x.spec.shape[1], rec.facts.block)
        chunks = _split(x.spec)[1]
        _launch(rec, "bn_grad_total", (count,), [work, inverse, *outs, count, chunks], looped(chunks))


class BatchNormGradX(Layer):
    """dx = weight * inverse * (dy - dbias / M - (x - mean) * inverse * dweight / M), M values per channel."""

    inputs = ("x", "dy", "weight", "mean", "inverse", "dweight", "dbias")
    outputs = ("dx",)
    inplace = {"dx": ("dy", "x")}

    def infer(self, specs):
        return (TensorSpec(specs[0].shape),)

    def record(self, rec, ins, outs, work, choice):
        n, c, h, w = ins[0].spec.shape
        run, runs = _runs(rec.facts, h * w)
        count = blocks(c, rec.facts.block)
        args = [*ins, outs[0], n * count * runs, count, h * w, run, runs, float(n * h * w)]
        _launch(rec, "bn_grad_x", (n * count * runs,), args, looped(run))


# A chunk holds at least so many pixels, so that its two sums are small beside it; there are at most so many.
_LEAST_PIXELS = 256
_MOST_CHUNKS = 256
TILE = 128  # of cl/norm_batch.cl


def _split(spec):
    """(pixels, chunks, pixels per chunk) of sums over all images; a function of the shape alone, as are the bits."""
    n, _, h, w = spec.shape
    total = n * h * w
    per_chunk = max(_LEAST_PIXELS, -(-total // _MOST_CHUNKS))
    return total, -(-total // per_chunk), per_chunk


def _chunked(facts, spec):
    """The choice of a layer with two sums per chunk and channel as workspace."""
    per_channel = TensorSpec((1, spec.shape[1], 1, 1))
    return Choice("chunks", (), 2 * _split(spec)[1] * per_channel.nbytes(facts.block))


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


def _launch_chunks(rec, kernel, tensors, spec):
    _, c, h, w = spec.shape
    total, chunks, per_chunk = _split(spec)
    count = blocks(c, rec.facts.block)
    # Two passes over pieces that end with a tile or an image: sums in steps of four pixels, then of two.
    pieces = per_chunk // TILE + per_chunk // (h * w) + 2
    steps = pieces + 2 * per_chunk // 4 * (1 + looped(4)) + 2 * pieces * looped(4)
    _launch(rec, kernel, (chunks, count), [*tensors, chunks, total, count, h * w, per_chunk], steps)


def _launch_apply(rec, layer, tensors, inverted):
    n, c, h, w = tensors[0].spec.shape
    run, runs = _runs(rec.facts, h * w)
    items = n * blocks(c, rec.facts.block) * runs
    args = [*tensors, items, c, h * w, run, runs, float(layer.eps), *layer.activation_args()]
    _launch(rec, "bn_apply", (items,), args, looped(run), INVERTED=inverted)
