"""The fully-connected layer and its gradients: matrix products over whole images.

A filter as large as the image is a fully-connected layer, so weights have the layout of a filter
(K, C, H, W): one row of L = ceil(C/B)*H*W*B values per output channel, in the order of the image's blocks.
"""

from clconv.errors import ShapeError
from clconv.shapes import TensorSpec, blocks

from clconv._core.activation import unactivated
from clconv._core.conv import ChannelSum, launch_sum
from clconv._core.fc_gemm import record_rows, record_rows_grad, rows_choices, rows_grad_choices
from clconv._core.layer import Choice, Cost, Layer, looped, output_args, weight_defines
from clconv._core.optimizer import WeightGradient


class FullyConnected(Layer):
    """y[n,k] = f(b[k] + sum over c,h,w of w[k,c,h,w] x[n,c,h,w]); w a filter (K, C, H, W); y (N, K, 1, 1)."""

    inputs = ("x", "w", "b")
    accepts = {"w": ("filter",)}
    activates = True
    slices = True
    halves = ("w",)

    @property
    def keeps(self):
        return ("x", "w") if self.activation == "none" else ("x", "w", "y")

    def infer(self, specs):
        x, w, _ = specs
        if x.shape[1:] != w.shape[1:]:
            expected = w.values // w.shape[0]
            raise ShapeError(f"fc: the input {x} does not match the weights {w}: {expected} values expected")
        return (TensorSpec((x.shape[0], w.shape[0], 1, 1)),)

    def cost(self, specs, outs, facts):
        return _cost(specs[0], specs[1], outs[0], facts)

    def choices(self, facts, specs, outs):
        batch, k = specs[0].shape[0], specs[1].shape[0]
        found = rows_choices(facts, batch, _length(specs[1], facts.block), k)
        return found or _tiles(facts, batch, blocks(k, facts.block))

    def gradient(self, emit, values, dy, wanted):
        grad = unactivated(self, emit, values["y"], dy["y"])
        found = {}
        if "x" in wanted:
            found["x"] = emit(FullyConnectedGradX(TensorSpec(values["x"].spec.shape)), grad, values["w"])
        if "w" in wanted:
            found["w"] = emit(FullyConnectedGradW(values["w"].spec), values["x"], grad)
        if "b" in wanted:
            found["b"] = emit(ChannelSum(), grad)
        return found

    def record(self, rec, ins, outs, work, choice):
        x, w, b = ins
        length, k, activation = _length(w.spec, rec.facts.block), w.spec.shape[0], self.activation_args()
        if choice.name == "direct":
            tensors = [x, w, b, *output_args(outs[0], rec.facts.block)]
            _launch_fc(rec, tensors, x.spec.shape[0], length, k, activation, choice, weight_defines(w))
        else:
            record_rows(rec, x.spec.shape[0], length, k, x, w, b, outs[0], work, choice, activation)


class FullyConnectedGradX(Layer):
    """dx[n,c,h,w] = sum over k of dy[n,k] w[k,c,h,w]; `spec` is x's."""

    inputs = ("dy", "w")
    outputs = ("dx",)
    accepts = {"w": ("filter",)}

    def __init__(self, spec):
        self.spec = spec

    def infer(self, specs):
        return (self.spec,)

    def cost(self, specs, outs, facts):
        return _cost(specs[0], specs[1], outs[0], facts)

    def choices(self, facts, specs, outs):
        batch, k = specs[0].shape[:2]
        found = rows_choices(facts, batch, k, self.spec.elements(facts.block) // batch, swapped=True)
        if found:
            return found
        # Neighbouring items of a GPU read neighbouring vectors; elsewhere one item reads several.
        columns = 1 if facts.work_group > 1 else min(4, facts.block)
        images = max(1, min(7, batch, facts.accumulators // columns))
        return [Choice("direct", (("NT", images), ("LX", columns)))]

    def record(self, rec, ins, outs, work, choice):
        block, tiles = rec.facts.block, dict(choice.tiles)
        batch, k = ins[0].spec.shape[:2]
        length, k_blocks = self.spec.elements(block) // batch, blocks(k, block)
        if choice.name != "direct":
            record_rows(rec, batch, k, length, *ins, None, outs[0], work, choice, (0, 0.0), swapped=True)
            return
        items, group = length // tiles["LX"], rec.facts.work_group
        rec.launch("fc.cl", "fc_grad_x", (items,), [*ins, outs[0], items, batch, length, k_blocks],
                   defines={**tiles, "WG": group}, local_size=(group,),
                   iterations=looped(-(-batch // tiles["NT"]), looped(k_blocks)
                                     + 2 * looped(tiles["NT"], looped(tiles["LX"]))))


class FullyConnectedGradW(WeightGradient):
    """dw[k,l] = sum over n of dy[n,k] x[n,l]; `spec` is w's."""

    def __init__(self, spec):
        self.spec = spec

    def cost(self, specs, outs, facts):
        return _cost(specs[0], specs[1], self.spec, facts)

    def choices(self, facts, specs, outs):
        k, length = self.spec.shape[0], _length(self.spec, facts.block)
        if found := rows_grad_choices(facts, specs[0].shape[0], length, k):
            return found
        kb = 2 if blocks(k, facts.block) > 1 and facts.block > 4 else 1
        lt = max(n for n in (1, 2, 4, 8, 16) if n <= facts.block and n * kb <= facts.accumulators)
        return [Choice("direct", (("KB", kb), ("LT", lt)))]

    def record(self, rec, ins, outs, work, choice):
        block = rec.facts.block
        k_blocks = blocks(self.spec.shape[0], block)
        length = _length(self.spec, block)
        result, defines = self.result(ins, outs)
        if choice.name != "direct":
            batch, k = ins[0].spec.shape[0], self.spec.shape[0]
            chunks = record_rows_grad(rec, batch, length, k, *ins[:2], result, defines, work, choice)
            if chunks > 1:
                launch_sum(rec, work, result, k_blocks * length, chunks, defines)
            return
        tiles = dict(choice.tiles)
        items, group = length // tiles["LT"], rec.facts.work_group
        args = [*ins[:2], *result, items, ins[0].spec.shape[0], length, k_blocks]
        rec.launch("fc.cl", "fc_grad_w", (items, -(-k_blocks // tiles["KB"])), args,
                   defines={**tiles, **defines, "WG": group}, local_size=(group, 1),
                   iterations=looped(ins[0].spec.shape[0]) + 2 * looped(tiles["KB"], looped(tiles["LT"])))


def _cost(a, b, c, facts):
    batch = a.shape[0]
    weights = next(s.values for s in (a, b, c) if s.layout == "filter")
    return Cost(2 * batch * weights, sum(s.nbytes(facts.block) for s in (a, b, c)))


def _length(w, block):
    """Values per row of a filter that is as large as the image, channel tails included."""
    return w.elements(block) // (blocks(w.shape[0], block) * block)


def _tiles(facts, batch, k_blocks):
    """NT images x KB output blocks, best first: the weights are read once per NT images.

    At most 8 images: their rows may lie a power of two apart, and a cache keeps few lines of one such set.
    """
    priced = []
    for kb in range(1, min(4, k_blocks) + 1):
        for nt in range(1, min(8, batch, (facts.accumulators + 3 - kb) // kb) + 1):
            waste = (-(-batch // nt) * nt / batch) * (-(-k_blocks // kb) * kb / k_blocks)
            price = waste * max(kb * nt + 0.5 * (kb + nt), 8) / (kb * nt)
            priced.append((price, nt, kb))
    return [Choice("direct", (("NT", nt), ("KB", kb))) for _, nt, kb in sorted(priced)]


def _launch_fc(rec, tensors, batch, length, k, activation, choice, defines):
    tiles = dict(choice.tiles)
    items, group = -(-batch // tiles["NT"]), rec.facts.work_group
    groups = -(-blocks(k, rec.facts.block) // tiles["KB"])
    args = [*tensors, items, batch, length, k, *activation]
    defines = {**tiles, **defines, "WG": group, "PREFETCH": int(rec.facts.prefetches)}
    rec.launch("fc.cl", "fc", (items, groups), args, defines=defines, local_size=(group, 1),
               iterations=looped(length) + 2 * looped(tiles["KB"], looped(tiles["NT"])))
