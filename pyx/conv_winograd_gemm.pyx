"""Winograd's F(4x4, 3x3) of the GPU class: transform, 36 matrix products at once, transform back.

The transformed tiles of all channels lie in memory between the three. So they are computed in slices of tiles, as many
as a large cache holds; the slices take turns in one workspace.
"""

from clconv.shapes import blocks

from clconv._core.conv_gemm import Phase, Product, gemm_choices, record_gemm
from clconv._core.layer import Choice, looped, output_args, piece_args, residual_args

_POINTS = 36
_SLICE_BYTES = 32 << 20
_LEAST_TILES = 128  # of a slice: the products need rows for their tiles
_GROUP = 64  # work-items per group of the transforms


def winograd_choices(facts, u, tiles):
    """Ways to compute so many tiles from filters u (K, C, 6, 6), best first."""
    per_tile = _tile_bytes(u, facts.block)
    slices = -(-tiles // max(_LEAST_TILES, _SLICE_BYTES // per_tile))
    count = -(-tiles // slices)
    found = gemm_choices(facts, _product(u, count, facts.block))
    return [
        Choice(f"winograd 4x4, {choice.name}", (*choice.tiles, ("slice", count)), count * per_tile) for choice in found
    ]


def record_winograd(rec, ins, y, work, choice, pads, grid, activation):
    """Records what `winograd_choices` chose.

    Args:
        ins: x, u, b and perhaps a residual. grid: (rows, cols) of an image's tiles. activation: code and slope.
    """
    x, u, b = ins[:3]
    block, settings = rec.facts.block, dict(choice.tiles)
    size = settings.pop("slice")
    gemm = Choice(choice.name, tuple(settings.items()))
    k, c = u.spec.shape[:2]
    c_blocks, k_blocks, pairs = blocks(c, block), blocks(k, block), blocks(k, 2 * block)
    whole = (x[0] if isinstance(x, tuple) else x).spec
    defines = {"WG": _GROUP}
    x_args = piece_args(x, block, defines)
    ends = [b, *residual_args(ins[3:]), *output_args(y, block)]
    tiles = y.spec.shape[0] * grid[0] * grid[1]
    for first in range(0, tiles, size):
        count = min(size, tiles - first)
        v_bytes = _POINTS * count * c_blocks * block * 4
        v, m = work.part(0, v_bytes, None), work.part(v_bytes, count * _tile_bytes(u.spec, block) - v_bytes, None)
        rec.launch(
            "conv_winograd_gemm.cl", "winograd_input", (count * c_blocks,),
            [*x_args, v, first, count, c_blocks, *grid, *whole.shape[2:], pads[0][0], pads[1][0]],
            defines=defines, local_size=(_GROUP,), iterations=2 * looped(6, looped(6)),
        )
        row = Phase((1, count), (1, 1), (0, 0), (1, 1), (1, 1), (0, 1, 1), (0, count, 1))
        record_gemm(
            rec, _product(u.spec, count, block), [row], [v, _POINTS * c_blocks, count],
            {"PAIRED": 1, "POINTS": _POINTS}, _POINTS * c_blocks * block, (1, count), u,
            [None, None, 0, m, count, 2 * _POINTS * pairs], None, gemm, (0, 0.0),
        )
        rec.launch(
            "conv_winograd_gemm.cl", "winograd_output", (count * k_blocks,),
            [m, *ends, first, count, k, pairs, *grid, *y.spec.shape[2:], *activation],
            defines={"WG": _GROUP}, local_size=(_GROUP,), iterations=looped(6) + looped(4, looped(4)),
        )


def _product(u, count, block):
    """The product of `count` tiles for each of the points; output blocks come in pairs, as u stores them."""
    k, c = u.shape[:2]
    return Product(1, count, count, blocks(k, 2 * block) * 2 * block, c, _POINTS, 1, block, pointwise=True, whole=True)


def _tile_bytes(u, block):
    """Bytes of a tile's transformed inputs and products."""
    return _POINTS * (blocks(u.shape[1], block) + 2 * blocks(u.shape[0], 2 * block)) * block * 4
