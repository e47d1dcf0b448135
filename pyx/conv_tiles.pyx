"""Register tiles of the direct convolution and of its weight gradient, and the launch of the former."""

from clconv.shapes import blocks, filter_blocks

from clconv._core.layer import Choice, Cost, looped, output_args, piece_args, residual_args, weight_defines


def ceil_div(a, b):
    """a / b rounded up."""
    return -(-a // b)


def is_pointwise(window):
    """1x1, stride 1, no padding: the image is one long row."""
    return _single_tap(window) and window.stride == (1, 1)


def _single_tap(window):
    return window.kernel == (1, 1) and window.pads == ((0, 0), (0, 0))


def rows_of(window, y, pool="none"):
    """(rows, outputs in a row) as tiles see an output; `pool`: of `Residual`, rows of windows are tiles' then."""
    n, _, p, q = y.shape
    if pool != "none":
        return n * p, 2 * q
    return (n, p * q) if is_pointwise(window) else (n * p, q)


def rows_gathered(window, y):
    """`rows_of` for an output of a transposed convolution: the columns of one phase."""
    n, _, h, wd = y.shape
    stride = window.stride[1]
    return rows_of(window, y) if is_pointwise(window) else (n * h * stride, ceil_div(wd, stride))


# Widths of a register tile: few, so that networks share programs.
_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 28)


def register_tiles(facts, w, rows, columns, even=False):
    """Register tiles WT x KB for `rows` rows of `columns` outputs, best first: least waste, then most reuse.

    Args:
        even: WT is, as pooling needs it.
    """
    k_blocks = blocks(w.shape[0], facts.block)
    whole = w.groups > 1 and w.shape[0] // w.groups % facts.block == 0 and w.shape[1] % facts.block == 0
    shared = k_blocks if w.groups == 1 else (k_blocks // w.groups if whole else 1)
    priced = []
    for kb in range(1, 5):
        if kb > shared or (w.groups > 1 and shared % kb):
            continue
        for wt in _WIDTHS:
            # Besides the tile, registers hold kb weights and a broadcast value.
            if wt > min((facts.accumulators + 3 - kb) // kb, columns):
                break
            if even and wt % 2:
                continue
            priced.append((tile_price(wt, kb, rows, columns, k_blocks, facts.compute_units), wt, kb))
    return [Choice("direct", (("WT", wt), ("KB", kb))) for _, wt, kb in sorted(priced)]


def direct_effort(cost, choice, facts, w, rows, columns):
    """The effort of a direct convolution with weights of spec w; see `register_tiles`."""
    if choice.name != "direct":
        return cost
    tiles = dict(choice.tiles)
    k_blocks = blocks(w.shape[0], facts.block)
    price = tile_price(tiles["WT"], tiles["KB"], rows, columns, k_blocks, facts.compute_units)
    return Cost(int(cost.flops * price), cost.traffic_bytes)


def tile_price(wt, kb, rows, columns, k_blocks, units):
    """Time of a multiply-add in a register tile, over that of one without loads, waste and idle units."""
    across, deep = ceil_div(columns, wt), ceil_div(k_blocks, kb)
    items = rows * across * deep
    waste = (across * wt / columns) * (deep * kb / k_blocks) * (ceil_div(items, units) * units / items)
    # Per step of c: kb * wt multiply-adds (at least 8 in flight), kb weights, mostly from the second cache, each as
    # dear as a multiply-add, and loads of them and of wt values to broadcast, mostly beside those.
    return waste * (max(kb * wt, 8) + kb + 0.2 * (kb + wt)) / (kb * wt)


def launch_direct(rec, layer, ins, outs, extents, per_row, defines):
    """Records conv_direct.

    Args:
        layer: a convolution or its transpose. ins: x or its pieces, w, b and the residual. outs: y and, where it is
            pooled so, places of maxima.
        extents: (h, w, p, q), rows and columns of x and y as the kernel walks them; of a pooled y as many columns as in
            front of the pooling. per_row: tiles in a row of y.
    """
    (x, w, b), y, window = ins[:3], outs[0], layer.window
    k, c_group, r, s = w.spec.shape
    groups = w.spec.groups
    block, group = rec.facts.block, rec.facts.work_group
    items = y.spec.shape[0] * extents[2] * per_row
    depth = filter_blocks(k, c_group * groups, groups, block)
    args = [
        *piece_args(x, block, defines), w, b, *residual_args(ins[3:]), *output_args(y, block),
        outs[1] if len(outs) > 1 else None, items, c_group * groups, *extents[:2], k, *extents[2:], *window.args(),
        depth, k // groups, c_group, per_row, *layer.activation_args(),
    ]
    # A tap inside the image and one beyond its edge are two loops: items that run together may take both, a single one
    # passes the other by. Planar pixels are copied in a third.
    loops, channels = (1 if group == 1 else 2), min(block, c_group * groups)
    blocked = not defines.get("PLANAR") and not defines.get("TRANSPOSED")
    if blocked and _single_tap(window) and defines["WT"] <= extents[3]:
        defines = {**defines, "POINTWISE": 1}
        row = looped(channels)
    elif defines.get("PLANAR"):
        line = (defines["WT"] - 1) * defines["SW"] + defines["REACH"]
        row = looped(channels, loops * looped(s) + looped(line))
    else:
        row = looped(s, loops * looped(channels) + 1)
    per_item = looped(depth, looped(r, row)) + looped(defines["KB"], 7 * looped(defines["WT"]))
    rec.launch(
        "conv_direct.cl", "conv_direct", (items, ceil_div(blocks(k, block), defines["KB"])), args,
        defines={**defines, **weight_defines(w), "WG": group, "PREFETCH": int(rec.facts.prefetches)},
        local_size=(group, 1),
        iterations=looped(2, per_item) if "KIND" in defines else per_item,
    )


# What the nearest cache of a processor holds besides sums, and what a share of the next one does.
_NEAREST_BYTES = 40 << 10
_NEAR_BYTES = 256 << 10
_ITEMS_PER_UNIT = 2  # that still share the work out evenly


def gradient_tile(facts, w, planar):
    """Build definitions of conv_grad_w for weights of spec w: what a work-item sums at a time."""
    k_blocks, channels, kernel_w = blocks(w.shape[0], facts.block), w.shape[1] * w.groups, w.shape[3]
    most = facts.accumulators
    # Two blocks of outputs share what is loaded of x: a load for two multiply-adds.
    pair = facts.kernels == "cpu" and w.groups == 1 and k_blocks % 2 == 0 and 1 < facts.block <= 2 * most // 3
    kb = 2 if pair else 1
    if not planar:
        sums = facts.block // kb if pair else min(channels, facts.block)
        return {"PLANAR": 0, "KB": kb, "CT": sums, "TAPS": sums}
    columns = max(n for n in range(1, kernel_w + 1) if kernel_w % n == 0 and n * kb <= most)
    together = channels if channels <= facts.block and channels * columns * kb <= most else 1
    return {"PLANAR": 1, "KB": kb, "CT": together, "ST": columns, "TAPS": together * columns}


def rows_at_once(window, x, dy, block, kb):
    """Rows of dy that an item of conv_grad_w takes through all taps, so that they and those of x stay near."""
    row = 4 * block * (window.stride[0] * x.shape[3] + kb * dy.shape[3])
    return max(1, min(dy.shape[2], _NEAREST_BYTES // row))


def blocks_at_once(w, facts, chunks, pairs):
    """(input blocks, pairs of output blocks) that an item of conv_grad_w takes: of a single tap as many as keep the
    units busy, as rows of x and dy would else come from memory for each; more taps read what is near anyway."""
    if w.groups > 1 or w.shape[2] * w.shape[3] > 1 or not facts.workers:
        return 1, 1
    items = ceil_div(_ITEMS_PER_UNIT * facts.compute_units, chunks)
    return blocks(w.shape[1], facts.block), ceil_div(pairs, min(items, pairs))


def stays_near(x, dy, block, kb):
    """Whether all images of a block of x and kb blocks of dy stay in a near cache."""
    n, _, h, w = x.shape
    return n * 4 * block * (h * w + kb * dy.shape[2] * dy.shape[3]) <= _NEAR_BYTES
