"""Square convolution by Winograd's method, F(4x4, 3x3) for most, the weight gradient for 3x3, transformed filters."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.conv import launch_sum
from clconv._core.conv_winograd_gemm import record_filter, record_winograd, winograd_choices
from clconv._core.conv_winograd_tiles import (
    POINTS, SIDE, TILE, frugal_ways, gradient_blocks, tile_count, way, winograd_ways,
)
from clconv._core.layer import Choice, Cost, Layer, Residual, output_args, piece_args, residual_args, weight_defines
from clconv._core.optimizer import WeightGradient
from clconv._core.window import Window

_AGAIN = 0.2  # of the time from memory, for what is read again


class WinogradFilter(Layer):
    """u = G w G^T, (K, C, 3, 3) to (K, C, side, side), for GPUs; `flip` reverses the taps, for the input gradient."""

    inputs = ("w",)
    accepts = {"w": ("filter",)}

    def __init__(self, flip=False, side=SIDE):
        self.flip = flip
        self.side = side

    def infer(self, specs):
        k, c, _, _ = specs[0].shape
        return (TensorSpec((k, c, self.side, self.side), layout="winograd"),)

    def record(self, rec, ins, outs, work, choice):
        record_filter(rec, ins[0], outs[0], self.flip)


class WinogradConv2d(Residual):
    """y = f(b + x * w) at stride 1 for filters (K, C/g, taps, taps), for the GPU class transformed before
    (K, C, side, side).

    Args:
        taps: 3 to 5 a side; for the GPU class 3. flip: the taps are reversed, as an input gradient has them, unless the
            filters are transformed. side: of a tile's inputs, 6, or 8 for 4 and 5 taps, or for the GPU class 4.
    """

    accepts = {"w": ("filter", "winograd")}
    pieces = ("x",)
    activates = True
    slices = True
    halves = ("w",)

    def __init__(self, pads, flip=False, taps=3, side=SIDE):
        self.pads = pads
        self.flip = flip
        self.taps = taps
        self.side = side

    @property
    def tile(self):
        """Outputs per side of a tile."""
        return self.side + 1 - self.taps

    @property
    def strips(self):
        return self.tile if self.pool == "none" else self.tile // 2

    @property
    def bands(self):
        return self.strips

    def infer(self, specs):
        n, _, h, w = specs[0].shape
        more = 1 - self.taps
        return self.pooled(
            TensorSpec((n, specs[1].shape[0], h + sum(self.pads[0]) + more, w + sum(self.pads[1]) + more))
        )

    def strip(self, rows, heights, axis=0):
        begin, end = self.unpooled_rows(rows)
        if self.pool != "none" and end % self.tile:  # the last tiles: a row that pooling drops counts in them
            end = heights["x"] + sum(self.pads[axis]) + 1 - self.taps
        window, needed = Window((self.taps, self.taps), pads=self.pads).strip((begin, end), heights["x"], axis)
        return self.with_(pads=window.pads), {**dict.fromkeys(heights, rows), "x": needed}

    def cost(self, specs, outs, facts):
        """Operations of the direct method, so that rates compare; bytes as they are."""
        tensors = [s for s in (*specs, *outs) if s is not None]
        operations = 2 * self.taps**2 * self.unpooled(outs[0]).values * specs[1].shape[1]
        return Cost(operations, sum(s.nbytes(facts.block) for s in tensors))

    def choices(self, facts, specs, outs):
        if facts.kernels == "gpu":
            return winograd_choices(facts, specs[1].shape, tile_count(outs[0].shape, 3, self.side))
        return self._chosen(winograd_ways(*self._problem(facts, specs, outs)))

    def frugal(self, facts, specs, outs):
        if facts.kernels == "gpu":
            return []
        return self._chosen(frugal_ways(*self._problem(facts, specs, outs)))

    def effort(self, specs, outs, facts, choice):
        cost = self.cost(specs, outs, facts)
        if facts.kernels == "gpu":
            # Products, and as many again for the transforms.
            return Cost(2 * cost.flops * self.side**2 // (9 * self.strips**2), cost.traffic_bytes)
        problem = self._problem(facts, specs, outs)
        settings = dict(choice.tiles)
        price, _, _ = way(*problem, *(settings[name] for name in ("WT", "tiles", "shares", "workers", "FEW")))
        # Each block of tiles reads the filters, from a cache of the machine if not from one of the unit.
        again = (-(-problem[0] // settings["tiles"]) - 1) * specs[1].nbytes(facts.block) * _AGAIN
        return Cost(int(price * facts.compute_units * 2 * facts.block), int(cost.traffic_bytes + again))

    def record(self, rec, ins, outs, work, choice):
        n, k, p, q = self.unpooled(outs[0].spec).shape
        grid = [-(-extent // self.tile) for extent in (p, q)]
        if rec.facts.kernels == "gpu":
            record_winograd(rec, ins, outs[0], work, choice, self.pads, grid, self.activation_args())
            return
        x, w, b = ins[:3]
        tiles = dict(choice.tiles)
        whole = (x[0] if isinstance(x, tuple) else x).spec
        c = w.spec.shape[1]
        count = n * grid[0] * grid[1]
        few = tiles["FEW"]
        defines = {
            "WT": tiles["WT"], "FEW": few, "FLIP": int(self.flip), "PREFETCH": int(rec.facts.prefetches),
            "TAPS": self.taps, "SIDE": self.side, **weight_defines(w), **self.pool_defines(),
        }
        args = [
            *piece_args(x, rec.facts.block, defines), w, b, *residual_args(ins[3:]),
            *output_args(outs[0], rec.facts.block), outs[1] if self.places else None, work, count, *grid,
            c * w.spec.groups, c, k // w.spec.groups, *whole.shape[2:], k, p, q, self.pads[0][0], self.pads[1][0],
            -(-count // tiles["tiles"]), tiles["tiles"], tiles["shares"], tiles["chunk"], *self.activation_args(),
        ]
        rec.launch("conv_winograd.cl", "winograd_conv", (tiles["workers"],), args, defines=defines, local_size=(1,))

    def _problem(self, facts, specs, outs):
        """What the ways to share it out depend on."""
        k, c_group, taps, _ = specs[1].shape
        groups = specs[1].groups
        tiles = tile_count(self.unpooled(outs[0]).shape, taps, self.side)
        units = facts.compute_units
        return tiles, k, c_group * groups, taps, groups, facts.block, units, facts.accumulators, self.side

    def _chosen(self, ways):
        return [Choice(f"winograd {self.tile}x{self.tile}", settings, nbytes) for _, nbytes, settings in ways]


class WinogradGradW(WeightGradient):
    """dw of a 3x3 convolution at stride 1, from x and dy; `spec` is w's."""

    def __init__(self, pads, spec):
        self.pads = pads
        self.spec = spec

    def cost(self, specs, outs, facts):
        """Operations of the direct method, so that rates compare."""
        return Cost(2 * 9 * specs[1].values * self.spec.shape[1], sum(s.nbytes(facts.block) for s in (*specs, *outs)))

    def choices(self, facts, specs, outs):
        (k, c), block = self.spec.shape[:2], facts.block
        chunks, per_chunk, per_block = gradient_blocks(tile_count(specs[1].shape), k, c, block)
        workers = min(chunks * blocks(k, 2 * block), facts.compute_units)
        scratch = workers * POINTS * ((per_block | 1) * (blocks(c, block) + 2) + 2 * block + 1) * block * 4
        whole = chunks == 1 and per_chunk == per_block
        settings = ("chunks", chunks), ("tiles", per_block), ("workers", workers), ("WHOLE", int(whole))
        return [Choice("winograd 3x3", settings, scratch + (0 if whole else chunks * self.spec.nbytes(block)))]

    def record(self, rec, ins, outs, work, choice):
        x, dy = ins[:2]
        block, settings = rec.facts.block, dict(choice.tiles)
        chunks, whole = settings["chunks"], settings["WHOLE"]
        _, k, p, q = dy.spec.shape
        count = tile_count(dy.spec.shape)
        total, defines = self.result(ins, outs)
        parts_bytes = 0 if whole else chunks * self.spec.nbytes(block)
        parts = None if whole else work.part(0, parts_bytes, None)
        args = [
            x, dy, work.part(parts_bytes, work.nbytes - parts_bytes, None), count, -(-p // TILE), -(-q // TILE),
            self.spec.shape[1], *x.spec.shape[2:], k, p, q, self.pads[0][0], self.pads[1][0], chunks,
            -(-count // chunks), settings["tiles"], *(total if whole else [parts]),
        ]
        rec.launch("conv_winograd_grad.cl", "winograd_grad_w", (settings["workers"],), args,
                   defines={"WHOLE": whole, "PREFETCH": int(rec.facts.prefetches), **(defines if whole else {})},
                   local_size=(1,))
        if not whole:
            launch_sum(rec, parts, total, self.spec.elements(block) // block, chunks, defines)
