"""Weight gradients as tiled matrix products over pixels (cl/conv_gemm_grad.cl): the GPU class."""

from clconv.shapes import blocks

from clconv._core.layer import Choice, looped, piece_args

# Work-items per side MT x NT, rows and output channels per item, pixels per step.
_SHAPES = ((16, 16, 8, 8, 8), (8, 8, 8, 8, 16), (8, 8, 4, 4, 16))
_GROUPS = 512  # work-groups that keep a large device busy
_CHUNK = 512  # pixels in a chunk, at least
_SUM_ITEMS = 64  # work-items that sum up a chunk of a channel's pixels: the default MT * NT


class GradProduct:
    """Sizes of a weight gradient. pixels: of dy, all images. rows: input channels of a group, times taps."""

    def __init__(self, pixels, k, c, groups, taps, block):
        self.pixels, self.k, self.groups, self.block = pixels, k, groups, block
        self.depth, self.group_blocks = blocks(c, block), blocks(k, block)
        self.pairs, self.rows = blocks(c, block) * taps, c * taps

    @property
    def chunks(self):
        """Chunks of each sum, by the shape alone."""
        tiles = -(-self.rows // 64) * -(-self.k // 64) * self.groups
        return max(1, min(_GROUPS // tiles, self.pixels // _CHUNK))

    def part_bytes(self):
        """Bytes of the gradient."""
        return self.groups * self.group_blocks * self.pairs * self.block * self.block * 4


def grad_choices(facts, product):
    """Ways to compute a gradient, best first; none where the device has no room for a tile."""
    found, block = [], facts.block
    work = product.chunks * product.part_bytes() if product.chunks > 1 else 0
    for mt, nt, rows, channels, pixels in _SHAPES:
        rt, tb = max(block, rows), min(4, max(1, channels // block))
        for local in (1, 0):
            tiles = {"MT": mt, "NT": nt, "RT": rt, "TB": tb, "BP": pixels, "LOCAL": local}
            need = 8 * pixels * block * (mt * rt // block + nt * tb + 2) if local else 0
            if mt * nt > facts.max_work_group or rt * tb > facts.accumulators or need > facts.local_bytes:
                continue
            bm, bn = mt * rt, nt * tb * block
            groups = -(-product.pairs * block // bm) * product.groups * -(-product.group_blocks // (nt * tb))
            waves = -(-groups * product.chunks // facts.compute_units)
            price = max(waves * bm * bn / 128, rt * tb * block) * (1 + 16 / bm + 16 / bn)
            name = "gemm" if local else "gemm in registers"
            found.append(((local != facts.has_local, price), Choice(name, tuple(tiles.items()), work)))
    return [choice for _, choice in sorted(found, key=lambda item: item[0])]


def conv_grad_choices(facts, spec, dy):
    """`grad_choices` of a convolution's gradient of spec w and the gradient dy of its output; none unless the device is
    of the GPU class and no channel block belongs to two groups.
    """
    groups, block = spec.groups, facts.block
    fills = groups == 1 or (spec.shape[0] // groups % block == 0 and spec.shape[1] % block == 0)
    return grad_choices(facts, _conv_product(facts, spec, dy)) if facts.kernels == "gpu" and fills else []


def record_conv_grad(rec, window, spec, x, dy, total, update, work, choice):
    """Records what `conv_grad_choices` chose; returns the chunks that are left to be added up, see `record_grad`."""
    defines = {"PLANAR": int(x.spec.layout == "plain")}
    return record_grad(
        rec, _conv_product(rec.facts, spec, dy.spec), piece_args(x, rec.facts.block, defines), defines,
        spec.shape[1] * spec.groups, x.spec.shape[2:], dy, total, update, work, choice, window.args(),
        dy.spec.shape[2:],
    )


def _conv_product(facts, spec, dy):
    k, c_group, r, s = spec.shape
    n, _, p, q = dy.shape
    return GradProduct(n * p * q, k // spec.groups, c_group, spec.groups, r * s, facts.block)


def record_grad(rec, product, x_args, defines, c_total, size, dy, total, update, work, choice, window_args, out_size):
    """Records the product; returns the chunks that are left in `work` to be added up, 1 if nothing is left.

    Args:
        x_args, defines: kernel arguments of x, and definitions that it needs. c_total: channels of x.
        size, out_size: (rows, cols) of x and of dy. window_args: `Window.args`.
        total, update: where the sums go, see `WeightGradient.result`.
    """
    tiles, block, chunks = dict(choice.tiles), rec.facts.block, product.chunks
    items, tr = tiles["MT"] * tiles["NT"], tiles["RT"] // block
    group_tiles = -(-product.group_blocks // (tiles["NT"] * tiles["TB"]))
    chunk_pixels = -(-product.pixels // chunks)
    args = [
        *x_args, dy, *([work] if chunks > 1 else total), c_total, *size,
        product.groups * product.group_blocks, *out_size,
        product.group_blocks, group_tiles, product.depth, *window_args, product.pixels, chunk_pixels,
    ]
    per_pixel = looped(tr) + looped(tiles["TB"])
    if tiles["LOCAL"]:
        x_loads, dy_loads = -(-tr * tiles["BP"] // tiles["NT"]), -(-tiles["TB"] * tiles["BP"] // tiles["MT"])
        per_round = 2 * looped(x_loads) + 2 * looped(dy_loads) + looped(tiles["BP"], per_pixel)
        iterations = looped(-(-chunk_pixels // tiles["BP"]) + 1, per_round)
    else:
        iterations = looped(chunk_pixels, per_pixel)
    rec.launch(
        "conv_gemm_grad.cl", "conv_gemm_grad",
        (items * -(-product.pairs // (tiles["MT"] * tr)), product.groups * group_tiles, chunks), args,
        defines={**tiles, **defines, **({} if chunks > 1 else update)}, local_size=(items, 1, 1),
        iterations=iterations + 2 * looped(tiles["RT"], looped(tiles["TB"])),
    )
    return chunks


def channel_sum_choices(facts, dy, total):
    """Ways to compute the gradient of a bias, of spec `total`; none as of `conv_grad_choices`."""
    if facts.kernels != "gpu" or facts.max_work_group < _SUM_ITEMS:
        return []
    n, k, p, q = dy.shape
    chunks = max(1, min(_GROUPS // -(-k // 4), n * p * q // (16 * _SUM_ITEMS)))
    return [Choice("group", (("chunks", chunks),), chunks * total.nbytes(facts.block))]


def record_channel_sum(rec, dy, work, chunks):
    """Records the sums of each chunk of pixels."""
    n, k, p, q = dy.spec.shape
    k_blocks, chunk_pixels = blocks(k, rec.facts.block), -(-n * p * q // chunks)
    args = [dy, work, k_blocks, p * q, n * p * q, chunk_pixels]
    rec.launch("conv_gemm_grad.cl", "channel_sums", (_SUM_ITEMS * chunks, k_blocks), args, local_size=(_SUM_ITEMS, 1),
               iterations=looped(-(-chunk_pixels // _SUM_ITEMS)) + looped(_SUM_ITEMS))
