"""3x3 convolution by Winograd's F(4x4, 3x3), and the transform of its filters."""

from clconv.shapes import TensorSpec, blocks

from clconv._core.conv import launch_sum
from clconv._core.conv_winograd_gemm import record_winograd, winograd_choices
from clconv._core.layer import Choice, Cost, Layer, Residual, output_args, piece_args, residual_args
from clconv._core.optimizer import WeightGradient
from clconv._core.window import Window

TILE = 4  # outputs per side of a tile
POINTS = 36  # products per tile and pair of channels
KC = 4  # output blocks between two transforms back
GRADIENT_TB, GRADIENT_KG = 28, 4  # tiles and output blocks at a time, in the weight gradient
EVEN = 0.05  # gain in evenness that is worth transforming a block again
_MANY = 64  # blocks of tiles for each unit: however they are shared out, the rest does not count
_WIDTHS = (14, 7, 8, 4, 2)  # of a register tile: few, each is a program
_MOST_TILES = 28  # of a block of tiles: their transforms stay in a cache
_SHARES = (1, 2, 3, 4)
# For estimates: operations of the transforms per point, tile and channel; filters up to so many bytes stay in the
# cache of a unit; larger ones, read again, come at this share of the time from memory, plus their size over a cache's.
_TRANSFORM = 16
_CACHED, _AGAIN, _CACHE = 1 << 20, 0.2, 128 << 20


class WinogradFilter(Layer):
    """u = G w G^T: filter (K, C, 3, 3) -> (K, C, 6, 6); `flip` reverses the taps, for the input gradient."""

    inputs = ("w",)
    accepts = {"w": ("filter",)}

    def __init__(self, flip=False):
        self.flip = flip

    def infer(self, specs):
        k, c, _, _ = specs[0].shape
        return (TensorSpec((k, c, 6, 6), layout="winograd"),)

    def record(self, rec, ins, outs, work, choice):
        k, c = ins[0].spec.shape[:2]
        k_blocks, c_blocks = blocks(k, rec.facts.block), blocks(c, rec.facts.block)
        items = 2 * ((k_blocks + 1) // 2) * c_blocks * rec.facts.block
        args = [ins[0], outs[0], items, k_blocks, c_blocks]
        # A driver that chose large groups could pass its stack with their private values.
        rec.launch("conv_winograd.cl", "winograd_filter", (items,), args, defines={"FLIP": int(self.flip)},
                   local_size=(rec.facts.work_group,))


class WinogradConv2d(Residual):
    """y = f(b + x * w) for 3x3 filters at stride 1; w are transformed filters (K, C, 6, 6)."""

    accepts = {"w": ("winograd",)}
    pieces = ("x",)
    activates = True
    slices = True
    strips = TILE

    def __init__(self, pads):
        self.pads = pads

    def infer(self, specs):
        n, _, h, w = specs[0].shape
        return (TensorSpec((n, specs[1].shape[0], h + sum(self.pads[0]) - 2, w + sum(self.pads[1]) - 2)),)

    def strip(self, rows, heights):
        window, needed = Window((3, 3), pads=self.pads).strip(rows, heights["x"])
        return self.with_(pads=window.pads), {**dict.fromkeys(heights, rows), "x": needed}

    def cost(self, specs, outs, facts):
        """Operations of the direct method, so that rates compare; bytes as they are."""
        tensors = [s for s in (*specs, *outs) if s is not None]
        return Cost(2 * 9 * outs[0].values * specs[1].shape[1], sum(s.nbytes(facts.block) for s in tensors))

    def choices(self, facts, specs, outs):
        u, y = specs[1], outs[0]
        tiles = tile_count(y.shape)
        if facts.kernels == "gpu":
            return winograd_choices(facts, u, tiles)
        pairs = (blocks(u.shape[0], facts.block) + 1) // 2
        found, others = [], []
        for width in _WIDTHS:
            if 2 * width > facts.accumulators:
                continue
            waste = -(-tiles // width) * width / tiles
            price = waste * (2 * width + 0.5 * (2 + width)) / (2 * width)
            most = max(1, min(_MOST_TILES, -(-tiles // width) * width) // width)
            modelled = 0
            for per_block in (width * count for count in range(most, 0, -1)):
                whole = 1, min(-(-tiles // per_block), facts.workers * facts.compute_units)
                for shares, workers in dict.fromkeys((_split(tiles, per_block, pairs, facts), whole)):
                    priced = price, _choice(width, per_block, shares, workers, u, facts)
                    # The first of a width is the model's; others may be measured, if they keep as many units at work.
                    if not modelled:
                        found.append(priced)
                        modelled = workers
                    elif workers >= modelled:
                        others.append(priced)
        return [choice for each in (found, others) for _, choice in sorted(each, key=lambda item: item[0])]

    def frugal(self, facts, specs, outs):
        """One work-item for each unit, or a single one, with small blocks of tiles."""
        if facts.kernels == "gpu":
            return []
        tiles = tile_count(outs[0].shape)
        return [
            _choice(width, per_block, shares, workers, specs[1], facts)
            for width in _WIDTHS if 2 * width <= facts.accumulators
            for per_block in range(width, min(_MOST_TILES, -(-tiles // width) * width) + 1, width)
            for workers in dict.fromkeys((facts.compute_units, 1))
            for shares in (_SHARES if workers > 1 else _SHARES[:1])
            if shares <= blocks(specs[1].shape[0], 2 * facts.block)
        ]  # fmt: skip

    def effort(self, specs, outs, facts, choice):
        cost = self.cost(specs, outs, facts)
        if facts.kernels == "gpu":
            return Cost(cost.flops // 2, cost.traffic_bytes)
        u, settings = specs[1], dict(choice.tiles)
        width, per_block, shares, workers = (settings[name] for name in ("WT", "tiles", "shares", "workers"))
        k, c = (blocks(n, 2 * facts.block) * 2 * facts.block for n in u.shape[:2])
        tiles = tile_count(outs[0].shape)
        whole, rest = divmod(tiles, per_block)
        count = whole + bool(rest)
        padded = whole * per_block + -(-rest // width) * width
        products = 2 * POINTS * padded * c * k * (1 + 0.25 * (2 + width) / width)
        transforms = _TRANSFORM * POINTS * tiles * (c * min(shares, -(-workers // count)) + k)
        # The unit that has most to do.
        units = min(facts.compute_units, workers)
        idle = -(-count * shares // units) * facts.compute_units / (count * shares)
        size = u.nbytes(facts.block)
        again = min(1.0, _AGAIN + size / _CACHE) * (count - 1) if size > _CACHED else 0
        return Cost(int((products + transforms) * idle), int(cost.traffic_bytes + again * size))

    def record(self, rec, ins, outs, work, choice):
        if rec.facts.kernels == "gpu":
            grid = [-(-extent // TILE) for extent in outs[0].spec.shape[2:]]
            record_winograd(rec, ins, outs[0], work, choice, self.pads, grid, self.activation_args())
            return
        x, u, b = ins[:3]
        tiles = dict(choice.tiles)
        whole = (x[0] if isinstance(x, tuple) else x).spec
        _, k, p, q = outs[0].spec.shape
        count = tile_count(outs[0].spec.shape)
        defines = {"WT": tiles["WT"], "KC": KC}
        args = [
            *piece_args(x, rec.facts.block, defines), u, b, *residual_args(ins[3:]),
            *output_args(outs[0], rec.facts.block), work, count, -(-p // TILE), -(-q // TILE), u.spec.shape[1],
            *whole.shape[2:], k, p, q, self.pads[0][0], self.pads[1][0], -(-count // tiles["tiles"]), tiles["tiles"],
            tiles["shares"], *self.activation_args(),
        ]
        rec.launch("conv_winograd.cl", "winograd_conv", (tiles["workers"],), args, defines=defines, local_size=(1,))


class WinogradGradW(WeightGradient):
    """dw of a 3x3 convolution at stride 1, from x and dy; `spec` is w's."""

    def __init__(self, pads, spec):
        self.pads = pads
        self.spec = spec

    def cost(self, specs, outs, facts):
        """Operations of the direct method, so that rates compare."""
        return Cost(2 * 9 * specs[1].values * self.spec.shape[1], sum(s.nbytes(facts.block) for s in (*specs, *outs)))

    def choices(self, facts, specs, outs):
        block = facts.block
        k_blocks, c_blocks = blocks(self.spec.shape[0], block), blocks(self.spec.shape[1], block)
        tiles = tile_count(specs[1].shape)
        # Chunks depend on the shape alone: about 32 work units, each of several blocks of tiles.
        groups = -(-k_blocks // GRADIENT_KG)
        chunks = max(1, min(-(-32 // groups), tiles // (4 * GRADIENT_TB)))
        workers = min(chunks * groups, facts.workers * facts.compute_units)
        values = GRADIENT_TB * (c_blocks + GRADIENT_KG) + GRADIENT_KG * c_blocks * block
        scratch = workers * POINTS * values * block * 4
        parts = chunks * self.spec.nbytes(block)
        return [Choice("winograd 3x3", (("chunks", chunks), ("workers", workers)), parts + scratch)]

    def record(self, rec, ins, outs, work, choice):
        x, dy = ins[:2]
        block = rec.facts.block
        chunks, workers = (dict(choice.tiles)[name] for name in ("chunks", "workers"))
        _, k, p, q = dy.spec.shape
        count = tile_count(dy.spec.shape)
        parts_bytes = chunks * self.spec.nbytes(block)
        parts = work.part(0, parts_bytes, None)
        scratch = work.part(parts_bytes, work.nbytes - parts_bytes, None)
        args = [
            x, dy, parts, scratch, count, -(-p // TILE), -(-q // TILE), self.spec.shape[1], *x.spec.shape[2:],
            k, p, q, self.pads[0][0], self.pads[1][0], chunks, -(-count // chunks),
        ]
        rec.launch("conv_winograd_grad.cl", "winograd_grad_w", (workers,), args,
                   defines={"TB": GRADIENT_TB, "KG": GRADIENT_KG}, local_size=(1,))
        items = self.spec.elements(block) // block
        total, step_defines = self.result(ins, outs)
        launch_sum(rec, parts, total, items, chunks, step_defines)


def _choice(width, per_block, shares, workers, u, facts):
    """The choice with these settings, and its scratch."""
    scratch = workers * POINTS * per_block * (blocks(u.shape[1], facts.block) + KC) * facts.block * 4
    return Choice(
        "winograd 4x4", (("WT", width), ("tiles", per_block), ("shares", shares), ("workers", workers)), scratch
    )


def _split(tiles, per_block, pairs, facts):
    """(shares of the output channels, work-items): the fewest shares that keep all units busy to the end.

    Each work-item takes consecutive shares of blocks of tiles, as `winograd_conv` does, and transforms a block once.
    """
    if tiles // per_block >= _MANY * facts.compute_units:
        return 1, facts.workers * facts.compute_units
    best = (0, 1, 1)
    for shares in range(1, pairs + 1):
        costs = [min(per_block, tiles - first) for first in range(0, tiles, per_block) for _ in range(shares)]
        workers = min(len(costs), facts.workers * facts.compute_units)
        busy = [0] * facts.compute_units
        for i in range(workers):
            own = costs[len(costs) * i // workers : len(costs) * (i + 1) // workers]
            busy[busy.index(min(busy))] += sum(own)
        even = sum(costs) / (max(busy) * len(busy))
        if even > best[0] + EVEN:
            best = (even, shares, workers)
        if best[0] + EVEN >= 1:
            break  # nothing can be so much better
    return best[1:]


def tile_count(shape):
    """Tiles of 4x4 outputs that cover (N, K, P, Q)."""
    n, _, p, q = shape
    return n * -(-p // TILE) * -(-q // TILE)
