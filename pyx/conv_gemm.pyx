"""Convolution, its transpose and products of rows as tiled matrix products (cl/conv_gemm.cl): the GPU class.

A launch computes a `Phase`: outputs that read the same taps. A convolution is one; a transposed convolution of
stride s has s*s of them, and multiplies no zeros.
"""

from clconv.shapes import blocks

from clconv._core.layer import Choice, looped, output_args, piece_args, residual_args, weight_defines

# Work-items per side MT x NT, pixels and output channels per item. Few, so that networks share programs.
_SHAPES = ((16, 16, 8, 8), (16, 8, 8, 8), (8, 16, 8, 8), (8, 8, 8, 8), (8, 8, 4, 8), (8, 8, 4, 4))
_SUBGROUP_SHAPES = (4, 16), (4, 8)  # pixels and output channels per item where subgroups share weights
_SUBGROUP_ITEMS = 64  # of a work-group then
_ROWS = 8  # input channels of a tap per step: as many as local memory hides the loads of
_LANES = 128  # multiply-adds that a compute unit starts per cycle, about
LAUNCH_CYCLES = 5000  # of a second pass
BYTES_PER_CYCLE = 16  # of memory traffic, per compute unit
_CROWDED = 1.5  # times as long with twice the registers, about
_CHUNK = 512  # products in a chunk, at least
_CHUNKS = 16  # at most


class Phase:
    """Outputs (first + i*row + j*col) of an image and the taps that they read.

    Attributes:
        size: (rows, cols) of outputs. scale, shift, step: of rows and of columns: tap (r, s) of output (p, q) reads
            row p*scale + shift + r*step. taps: how many, as (rows, cols). tap, out: (first, row, col) of the taps
            within the filter and of the outputs within the image.
    """

    def __init__(self, size, scale, shift, step, taps, tap, out):
        self.size, self.scale, self.shift, self.step = size, scale, shift, step
        self.taps, self.tap, self.out = taps, tap, out

    def args(self):
        """Kernel arguments; a phase without taps counts one that is never read."""
        taps = [max(1, count) for count in self.taps]
        return [*self.size, *self.scale, *self.shift, *self.step, *taps, *self.tap, *self.out]


def forward_phase(window, size):
    """The one phase of a convolution with outputs of (rows, cols)."""
    return Phase(
        size, window.stride, (-window.pads[0][0], -window.pads[1][0]), window.dilation, window.kernel,
        (0, window.kernel[1], 1), (0, size[1], 1),
    )


def transposed_phases(window, size):
    """The phases of a transposed convolution with outputs of (rows, cols); none of them is empty."""
    axes = []
    for axis in (0, 1):
        stride, pad, dilation = window.stride[axis], window.pads[axis][0], window.dilation[axis]
        found = []
        for start in range(min(stride, size[axis])):
            taps = [t for t in range(window.kernel[axis]) if (start + pad - t * dilation) % stride == 0]
            first, apart = taps[0] if taps else 0, taps[1] - taps[0] if len(taps) > 1 else 0
            found.append((start, -(-(size[axis] - start) // stride), (start + pad - first * dilation) // stride,
                          -(apart * dilation // stride), len(taps), first, apart))
        axes.append(found)
    return [
        Phase(
            (rows, cols), (1, 1), (row_shift, col_shift), (row_step, col_step), (taps_h, taps_w),
            (r * window.kernel[1] + s, r_apart * window.kernel[1], s_apart),
            (p * size[1] + q, window.stride[0] * size[1], window.stride[1]),
        )
        for p, rows, row_shift, row_step, taps_h, r, r_apart in axes[0]
        for q, cols, col_shift, col_step, taps_w, s, s_apart in axes[1]
    ]


class Product:
    """Sizes of a product: what the choice of a tile needs, and what its launches have in common.

    Attributes:
        batch, plane: images and outputs of each. width: columns of an image of outputs. k, c: output and input
            channels of a group. groups: as the layer's; blocks do not straddle them. taps: of the filter.
        whole: no sum is cut into chunks.
    """

    def __init__(self, batch, plane, width, k, c, groups, taps, block, linear=False, pointwise=False,
                 whole=False):
        self.batch, self.plane, self.width, self.groups = batch, plane, width, groups
        self.taps, self.block, self.k = taps, block, k
        self.depth, self.group_blocks = blocks(c, block), blocks(k, block)
        self.linear, self.pointwise, self.whole = linear, pointwise, whole
        self.reduction = c * taps

    @property
    def chunks(self):
        """Chunks of each sum: more for images of few outputs, which alone would keep few work-groups busy.

        It depends neither on the tile nor on how many images, rows and output channels are computed at once.
        """
        if self.whole:
            return 1
        tiles = -(-self.width * self.width // 64)
        return max(1, min(_CHUNKS // tiles, self.reduction // _CHUNK))

    def part_bytes(self):
        """Bytes of the outputs, channel tails included."""
        return self.batch * self.plane * self.groups * self.group_blocks * self.block * 4


def _conv_product(facts, w, y, stride):
    n, k, p, q = y.shape
    taps = w.shape[2] * w.shape[3]
    product = Product(n, p * q, q, k // w.groups, w.shape[1], w.groups, taps, facts.block, pointwise=taps == 1)
    product.reduction = max(1, product.reduction // (stride[0] * stride[1]))
    return product


def gemm_choices(facts, product, split=True):
    """Ways to compute a product, best first by a model of their time; none where the device has no room for a tile."""
    found = []
    for tiles, kind, late in _ways(facts, product):
        for parts in {1, product.chunks if split else 1}:
            name = kind + (" split" if parts > 1 else "")
            work = parts * product.part_bytes() if parts > 1 else 0
            price = _price(facts, product, tiles, parts)
            place = late, bool(facts.loop_limit) and parts == 1, price
            found.append((place, Choice(name, (*tiles.items(), ("parts", parts)), work)))
    return [choice for _, choice in sorted(found, key=lambda item: item[0])]


def _ways(facts, product):
    """Tiles that the device has room for: (definitions, name, how late they come). Local memory comes first where it is
    memory of its own, else what subgroups share, then registers alone.
    """
    for mt, nt, tm, channels in _SHAPES:
        tb = min(4, max(1, channels // facts.block))
        kd = max(1, _ROWS // facts.block) * (2 if product.linear else 1)
        tiles = {"MT": mt, "NT": nt, "TM": tm, "TB": tb, "KD": kd}
        if not _fits(facts, tiles):
            continue
        if _local_bytes(tiles, facts.block) <= facts.local_bytes:
            yield {**tiles, "LOCAL": 1}, "gemm", 0 if facts.has_local else 3
        # Without local memory an item has all places of its pixels in registers: fewer pixels.
        if tm <= 4:
            yield {**tiles, "LOCAL": 0}, "gemm in registers", 2
    for tm, channels in _SUBGROUP_SHAPES if facts.subgroup else ():
        mt, tb = min(_SUBGROUP_ITEMS, max(16, facts.subgroup)), min(4, max(1, channels // facts.block))
        tiles = {"MT": mt, "NT": _SUBGROUP_ITEMS // mt, "TM": tm, "TB": tb, "KD": 1, "LOCAL": 0}
        if _fits(facts, tiles):
            yield {**tiles, "SUBGROUP": facts.subgroup}, "gemm in subgroups", 1


def _fits(facts, tiles):
    """Whether a device has the work-items and registers of a tile."""
    return tiles["MT"] * tiles["NT"] <= facts.max_work_group and tiles["TM"] * tiles["TB"] <= facts.accumulators


def conv_choices(facts, w, y, stride=(1, 1)):
    """`gemm_choices` of a convolution with filter w and output y, or of a transposed one with a stride; none unless
    the device is of the GPU class and no channel block belongs to two groups.
    """
    fills = w.groups == 1 or (w.shape[0] // w.groups % facts.block == 0 and w.shape[1] % facts.block == 0)
    return gemm_choices(facts, _conv_product(facts, w, y, stride)) if facts.kernels == "gpu" and fills else []


def conv_cycles(facts, w, y):
    """Modelled cycles of a convolution at stride 1."""
    return gemm_cycles(facts, _conv_product(facts, w, y, (1, 1)))


def gemm_cycles(facts, product):
    """Modelled cycles of the way that comes first."""
    best = dict(gemm_choices(facts, product)[0].tiles)
    return _price(facts, product, best, best["parts"])


def record_conv(rec, phases, ins, y, work, choice, activation, stride=(1, 1)):
    """Records what `conv_choices` chose. ins: x, w, b and perhaps a residual; activation: code and slope."""
    x, w, b = ins[:3]
    spec = (x[0] if isinstance(x, tuple) else x).spec
    defines = {"PLANAR": int(spec.layout == "plain")}
    x_args = piece_args(x, rec.facts.block, defines)
    product, c_total = _conv_product(rec.facts, w.spec, y.spec, stride), w.spec.shape[1] * w.spec.groups
    out = [b, *residual_args(ins[3:]), *output_args(y, rec.facts.block)]
    record_gemm(rec, product, phases, x_args, defines, c_total, spec.shape[2:], w, out, work, choice, activation)


def record_gemm(rec, product, phases, x_args, defines, c_total, size, w, out, work, choice, activation):
    """Records a product's launches: one for each phase, and the sum of their chunks where these are parts.

    Args:
        x_args, defines: kernel arguments of x, and definitions that it needs. c_total, size: channels and (rows, cols)
            of x. out: kernel arguments of bias, residual and y. activation: code and slope.
    """
    tiles = dict(choice.tiles)
    parts, block = tiles.pop("parts"), rec.facts.block
    bm, bn = tiles["MT"] * tiles["TM"], tiles["NT"] * tiles["TB"]
    chunks = parts if parts > 1 else product.chunks
    defines = {
        **tiles, **defines, **weight_defines(w), "LINEAR": int(product.linear), "POINTWISE": int(product.pointwise),
        "CHUNKED": int(parts == 1 and chunks > 1),
    }
    group_tiles = -(-product.group_blocks // bn)
    k_total = product.groups * product.k
    for phase in phases:
        length = product.depth * phase.taps[0] * phase.taps[1]
        chunk_length = -(-length // chunks)
        args = [
            *x_args, w, *(_parts(product, work) if parts > 1 else out), product.batch, c_total, *size, k_total,
            product.group_blocks, group_tiles, product.depth, product.taps, *phase.args(), length,
            chunk_length, chunks, *((0, 0.0) if parts > 1 else activation),
        ]
        items = tiles["MT"] * tiles["NT"]
        pixel_tiles = -(-product.batch * phase.size[0] * phase.size[1] // bm)
        rec.launch(
            "conv_gemm.cl", "conv_gemm", (items * pixel_tiles, product.groups * group_tiles, parts), args,
            defines=defines, local_size=(items, 1, 1),
            iterations=looped(chunks if parts == 1 else 1, _iterations(tiles, block, chunk_length))
            + looped(tiles["TM"] * tiles["TB"]),
        )
    if parts > 1:
        record_sum(rec, product, out, work, parts, activation)


def record_sum(rec, product, out, work, parts, activation):
    """Records the sum of `parts` chunks in `work`; see `record_gemm`."""
    count, k_total = product.part_bytes() // (product.block * 4), product.groups * product.k
    args = [work, *out, count, parts, k_total, product.plane, *activation]
    rec.launch("conv_gemm.cl", "sum_chunks", (count,), args, iterations=looped(parts))


def _parts(product, work):
    """Kernel arguments of an output of single chunks."""
    return [None, None, 0, work, product.plane, product.groups * product.group_blocks]


def _local_bytes(tiles, block):
    """Local memory of a tile (cl/conv_gemm.cl)."""
    rows = tiles["KD"] * block
    return 8 * rows * (tiles["MT"] * tiles["TM"] + 4 + (tiles["NT"] * tiles["TB"] + 1) * block)


def _price(facts, product, tiles, parts):
    """Modelled cycles. A unit computes its groups one after the other, but an item of one takes its own time too."""
    bm, bn = tiles["MT"] * tiles["TM"], tiles["NT"] * tiles["TB"]
    groups = -(-product.batch * product.plane // bm) * product.groups * -(-product.group_blocks // bn) * parts
    channels = bn * facts.block
    busy = -(-groups // facts.compute_units) * bm * channels / _LANES
    per_row = max(busy, tiles["TM"] * tiles["TB"] * facts.block) * (1 + 16 / bm + 16 / channels)
    if parts == 1 and product.chunks > 1 and 2 * tiles["TM"] * tiles["TB"] > facts.accumulators:
        per_row *= _CROWDED  # the sum of the chunks and that of one: too many registers
    passes = LAUNCH_CYCLES + 2 * parts * product.part_bytes() / (BYTES_PER_CYCLE * facts.compute_units)
    return per_row * product.reduction / parts + (passes if parts > 1 else 0)


def _iterations(tiles, block, length):
    """Loop iterations of an item for one chunk, those of unrolled loops included."""
    tm, tb, rows = tiles["TM"], tiles["TB"], tiles["KD"] * block
    if not tiles["LOCAL"]:
        size = tiles.get("SUBGROUP", 0)
        passed_on = looped(block) if size else 0
        loads = looped(tm) + (looped(-(-tb * block // size)) if size else 0)
        return looped(length, loads + looped(block, looped(tm) + looped(tb, passed_on))) + looped(tm, looped(tb))
    x_loads, w_loads = -(-tm * tiles["KD"] // tiles["NT"]), -(-tb * rows // tiles["MT"])
    moves = looped(x_loads) + looped(x_loads, looped(block)) + 2 * looped(w_loads)
    per_round = moves + looped(rows, looped(tm // 4) + looped(tb))
    return looped(-(-length // tiles["KD"]) + 1, per_round) + 3 * looped(tm, looped(tb))
