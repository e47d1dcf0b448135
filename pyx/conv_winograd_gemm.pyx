"""Winograd's F(4x4, 3x3) and F(2x2, 3x3) of the GPU class: transform, 36 or 16 matrix products at once, transform back.

The transformed tiles of all channels lie in memory between the three. So they are computed in slices of tiles, as many
as a large cache holds; the slices take turns in one workspace.
"""

from clconv.shapes import blocks

from clconv._core.conv_gemm import (
    BYTES_PER_CYCLE, LAUNCH_CYCLES, Phase, Product, conv_cycles, gemm_choices, gemm_cycles, record_gemm,
)
from clconv._core.conv_winograd_tiles import tile_count
from clconv._core.layer import Choice, looped, output_args, piece_args, residual_args

_SLICE_BYTES = 32 << 20
_LEAST_TILES = 128  # of a slice: the products need rows for their tiles
_GROUP = 64  # work-items per group of the transforms


def winograd_cycles(facts, w, y, sides, passes=1):
    """Modelled cycles of a 3x3 convolution: {0: by the direct method, and for each side of a tile: by Winograd's}.

    Args:
        w, y: specs of its filter and its output. passes: of transformed filters through the memory.
    """
    per_byte = 1 / (BYTES_PER_CYCLE * facts.compute_units)
    found = {0: conv_cycles(facts, w, y) + w.nbytes(facts.block) * per_byte}
    for side in sides:
        u = w.shape[0], w.shape[1], side, side
        tiles = tile_count(y.shape, 3, side)
        slices, count = _slices(u, tiles, facts.block)
        moved = 2 * tiles * _tile_bytes(u, facts.block) + passes * side * side * w.nbytes(facts.block) // 9
        products = slices * (gemm_cycles(facts, _product(u, count, facts.block)) + 2 * LAUNCH_CYCLES)
        found[side] = products + moved * per_byte
    return found


def winograd_choices(facts, u, tiles):
    """Ways to compute so many tiles from transformed filters of shape u, (K, C, side, side), best first."""
    _, count = _slices(u, tiles, facts.block)
    found, out = gemm_choices(facts, _product(u, count, facts.block)), u[2] - 2
    return [
        Choice(f"winograd {out}x{out}, {choice.name}", (*choice.tiles, ("slice", count)),
               count * _tile_bytes(u, facts.block))
        for choice in found
    ]


def record_filter(rec, w, u, flip):
    """Records the transform of filters."""
    block, (k, c, side, _) = rec.facts.block, u.spec.shape
    k_blocks, c_blocks = blocks(k, block), blocks(c, block)
    items = 2 * blocks(k, 2 * block) * c_blocks * block
    rec.launch(
        "conv_winograd_gemm.cl", "winograd_filter", (items,), [w, u, items, k_blocks, c_blocks],
        defines={"FLIP": int(flip), "WG": _GROUP, "SIDE": side}, local_size=(_GROUP,),
    )


def record_winograd(rec, ins, y, work, choice, pads, grid, activation):
    """Records what `winograd_choices` chose.

    Args:
        ins: x, u, b and perhaps a residual. grid: (rows, cols) of an image's tiles. activation: code and slope.
    """
    x, u, b = ins[:3]
    block, settings = rec.facts.block, dict(choice.tiles)
    size = settings.pop("slice")
    gemm = Choice(choice.name, tuple(settings.items()))
    k, c, side, _ = u.spec.shape
    points = side * side
    c_blocks, k_blocks, pairs = blocks(c, block), blocks(k, block), blocks(k, 2 * block)
    whole = (x[0] if isinstance(x, tuple) else x).spec
    defines = {"WG": _GROUP, "SIDE": side}
    x_args = piece_args(x, block, defines)
    ends = [b, *residual_args(ins[3:]), *output_args(y, block)]
    tiles = y.spec.shape[0] * grid[0] * grid[1]
    for first in range(0, tiles, size):
        count = min(size, tiles - first)
        v_bytes = points * count * c_blocks * block * 4
        v, m = work.part(0, v_bytes, None), work.part(v_bytes, count * _tile_bytes(u.spec.shape, block) - v_bytes, None)
        rec.launch(
            "conv_winograd_gemm.cl", "winograd_input", (count * c_blocks,),
            [*x_args, v, first, count, c_blocks, *grid, *whole.shape[2:], pads[0][0], pads[1][0]],
            defines=defines, local_size=(_GROUP,), iterations=2 * looped(side, looped(side)),
        )
        row = Phase((1, count), (1, 1), (0, 0), (1, 1), (1, 1), (0, 1, 1), (0, count, 1))
        record_gemm(
            rec, _product(u.spec.shape, count, block), [row], [v, points * c_blocks, count],
            {"PAIRED": 1, "POINTS": points}, points * c_blocks * block, (1, count), u,
            [None, None, 0, m, count, 2 * points * pairs], None, gemm, (0, 0.0),
        )
        rec.launch(
            "conv_winograd_gemm.cl", "winograd_output", (count * k_blocks,),
            [m, *ends, first, count, k, pairs, *grid, *y.spec.shape[2:], *activation],
            defines={"WG": _GROUP, "SIDE": side}, local_size=(_GROUP,),
            iterations=looped(side) + looped(side - 2, looped(side - 2)) + looped((side - 2) ** 2),
        )


def _slices(u, tiles, block):
    """Into how many slices so many tiles are cut, and the tiles of one."""
    slices = -(-tiles // max(_LEAST_TILES, _SLICE_BYTES // _tile_bytes(u, block)))
    return slices, -(-tiles // slices)


def _product(u, count, block):
    """The product of `count` tiles for each of the points; output blocks come in pairs, as u stores them."""
    k, c, side, _ = u
    k_padded = blocks(k, 2 * block) * 2 * block
    return Product(1, count, count, k_padded, c, side * side, 1, block, pointwise=True, whole=True)


def _tile_bytes(u, block):
    """Bytes of a tile's transformed inputs and products."""
    k, c, side, _ = u
    return side * side * (blocks(c, block) + 2 * blocks(k, 2 * block)) * block * 4
