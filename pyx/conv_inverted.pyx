"""Inverted residuals: expansion, depthwise convolution and projection as one operator, in test-time mode."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.conv_depthwise import depthwise_tiles, kept_taps
from clconv._core.conv_tiles import ceil_div, is_pointwise, register_tiles, tile_price
from clconv._core.layer import ACTIVATIONS, Choice, Cost, Layer, output_args, piece_args, residual_args, weight_defines

# Tiles that fit most sizes, so that networks share programs: taken where they need at most so much longer than the best
_USUAL, _USUAL_STENCIL, _SLOWER = (("WT", 14), ("KB", 2)), 7, 1.12
_PIXELS = 28  # of a strip, at least: so often a weight that was loaded is used
_STENCIL = 2  # times as long as in a register tile takes a multiply-add of the depthwise convolution
_SPARE = 2  # register tiles that are offered for each product


class InvertedResidual(Layer):
    """y = f(residual + b + w * d), d = g(bd + depthwise(e)), e = h(be + we * x): e and d are never stored whole.

    Operands: x (N, C, H, W); we (T, C, 1, 1), be (1, T, 1, 1); wd (1, T, R, R), bd (1, T, 1, 1); w (K, T, 1, 1),
    b (1, K, 1, 1); residual (N, K, P, Q). Biases may be None; without `expands` there are no we and be, and e is x.

    Args:
        window: of the depthwise convolution. inner: (activation, slope) of e and d. adds: there is a residual.
    """

    accepts = {"we": ("filter",), "w": ("filter",)}
    pieces = ("x",)
    halves = ("we", "w")
    strips = bands = 1

    def __init__(self, window, inner, expands=True, adds=False):
        self.window = window
        self.inner = inner
        self.expands = expands
        self.adds = adds

    @property
    def inputs(self):
        before, behind = ("we", "be") if self.expands else (), ("residual",) if self.adds else ()
        return ("x", *before, "wd", "bd", "w", "b", *behind)

    def infer(self, specs):
        x, w = specs[0], specs[self.inputs.index("w")]
        return (TensorSpec((x.shape[0], w.shape[0], *self.window.output("inverted residual", x.shape))),)

    def strip(self, rows, heights, axis=0):
        window, needed = self.window.strip(rows, heights["x"], axis)
        return self.with_(window=window), {**dict.fromkeys(heights, rows), "x": needed}

    def cost(self, specs, outs, facts):
        (n, _, h, wd), given = specs[0].shape, [s for s in (*specs, *outs) if s is not None]
        expansion, pixels = self._expansion(specs), n * outs[0].shape[2] * outs[0].shape[3]
        taps = self.window.kernel[0] * self.window.kernel[1]
        products = n * h * wd * (expansion.values if expansion else 0)
        products += pixels * (taps * self._filter(specs).shape[1] + self._filter(specs).values)
        return Cost(2 * products, sum(s.nbytes(facts.block) for s in given))

    def choices(self, facts, specs, outs):
        p, q = outs[0].shape[2:]
        return self._ways(facts, specs, outs, facts.compute_units, min(p, ceil_div(_PIXELS, q)))

    def frugal(self, facts, specs, outs):
        return self._ways(facts, specs, outs, facts.compute_units, 1) + self._ways(facts, specs, outs, 1, 1)

    def effort(self, specs, outs, facts, choice):
        tiles, (n, k, p, q), (_, c, h, wd) = dict(choice.tiles), outs[0].shape, specs[0].shape
        w, expansion, block = self._filter(specs), self._expansion(specs), facts.block
        taps, stride = self.window.kernel[0], self.window.stride[0]
        t = w.shape[1]
        rows = ceil_div(n * p, tiles["workers"])
        price = tile_price(tiles["WP"], tiles["KP"], 1, tiles["strip"] * q, blocks(k, block), 1)
        products = rows * q * (t * block * blocks(k, block) * price + _STENCIL * taps * taps * block * blocks(t, block))
        if expansion:
            # Where a work-item's share begins and ends within an image it computes rows that others compute, too.
            inside = 0 if rows % p == 0 else 1 if 2 * rows >= p else 2
            expanded = min(rows * stride + inside * (taps - stride) / 2, ceil_div(rows, p) * h)
            price = tile_price(tiles["WT"], tiles["KB"], 1, wd, blocks(t, block), 1)
            products += expanded * wd * c * block * blocks(t, block) * price
        return Cost(int(2 * products * facts.compute_units), self.cost(specs, outs, facts).traffic_bytes)

    def record(self, rec, ins, outs, work, choice):
        named, tiles, block = dict(zip(self.inputs, ins)), dict(choice.tiles), rec.facts.block
        x, y, w = named["x"], outs[0], named["w"]
        (n, k, p, q), (h, wd) = y.spec.shape, (x[0] if isinstance(x, tuple) else x).spec.shape[2:]
        t = w.spec.shape[1]
        c = named["we"].spec.shape[1] if self.expands else t
        (act_e, slope_e), (act_d, slope_d) = self.inner
        defines = {
            **{name: tiles[name] for name in ("WT", "KB", "WP", "KP", "WD")}, "TAPS": self.window.kernel[0],
            "STRIDE_W": self.window.stride[1], "EXPAND": int(self.expands), "ACT_E": ACTIVATIONS.index(act_e),
            "ACT_D": ACTIVATIONS.index(act_d), "ACT_Y": ACTIVATIONS.index(self.activation),
            "PREFETCH": int(rec.facts.prefetches), **weight_defines(w),
        }
        args = [
            *piece_args(x, block, defines), named.get("we"), named.get("be"), named["wd"], named["bd"], w, named["b"],
            *residual_args(ins[-1:] if self.adds else []), *output_args(y, block), work, n, c, t, k, h, wd, p, q,
            self.window.stride[0], self.window.pads[0][0], self.window.pads[1][0], self._ring(tiles["strip"]),
            tiles["strip"], float(slope_e), float(slope_d), float(self.slope),
        ]
        rec.launch("conv_inverted.cl", "conv_inverted", (tiles["workers"],), args, defines=defines, local_size=(1,))

    def _filter(self, specs):
        """The spec of w."""
        return specs[self.inputs.index("w")]

    def _expansion(self, specs):
        """The spec of we, None without."""
        return specs[1] if self.expands else None

    def _ring(self, strip):
        """Rows of e for so many rows of d."""
        return (strip - 1) * self.window.stride[0] + self.window.kernel[0]

    def _ways(self, facts, specs, outs, units, strip):
        (n, _, h, wd), (_, _, p, q), w = specs[0].shape, outs[0].shape, self._filter(specs)
        workers, expansion = min(units, n * p), self._expansion(specs)
        columns = (self._ring(strip) * wd if expansion else 0) + strip * q
        nbytes = workers * blocks(w.shape[1], facts.block) * columns * facts.block * 4
        first = _tiles(facts, expansion, n * h, wd) if expansion else [(("WT", 1), ("KB", 1))]
        second = _tiles(facts, w, ceil_div(n * p, strip), strip * q)
        best = dict(depthwise_tiles(facts, q)[0].tiles)["WT"]
        stencil = _USUAL_STENCIL if q % _USUAL_STENCIL == 0 and best > _USUAL_STENCIL else best
        found = []
        for one in first:
            for (_, wp), (_, kp) in second:
                tiles = *one, ("WP", wp), ("KP", kp), ("WD", stencil), ("strip", strip), ("workers", workers)
                found.append(Choice("fused", tiles, nbytes))
        return found


def _tiles(facts, w, rows, columns):
    """A few register tiles, the usual one first unless it is much slower."""
    found = [choice.tiles for choice in register_tiles(facts, w, rows, columns)]
    deep, units = blocks(w.shape[0], facts.block), facts.compute_units

    def price(tiles):
        return tile_price(*(size for _, size in tiles), rows, columns, deep, units)

    if _USUAL in found and price(_USUAL) <= _SLOWER * price(found[0]):
        found = [_USUAL, *(tiles for tiles in found if tiles != _USUAL)]
    return found[:_SPARE]


def inverted_residual(expand, depthwise, project):
    """The operator for three others, the first of which may be missing (None); None where there is no kernel.

    Args:
        expand, depthwise, project: layers, one behind the other.
    """
    if not kept_taps(depthwise.window) or not all(layer is None or _is_product(layer) for layer in (expand, project)):
        return None
    if expand is not None and expand.adds:
        return None
    inner = tuple((layer.activation, layer.slope) for layer in (expand or Layer(), depthwise))
    found = InvertedResidual(depthwise.window, inner, expand is not None, project.adds)
    return found.with_(activation=project.activation, slope=project.slope)


def _is_product(layer):
    return is_pointwise(layer.window) and layer.pool == "none"
