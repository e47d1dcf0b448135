"""How Winograd's tiles are shared out on a processor: blocks of tiles and shares of the output channels, by a model.

The model counts vector operations that take the place of a multiply-add; what is the same for all ways is left out.
"""

import functools

from clconv.shapes import blocks

TILE = 4  # outputs per side of a tile, for 3x3 filters
SIDE = 6  # products per side of a tile, for most
POINTS = SIDE * SIDE  # products per tile and pair of channels
_WIDTHS = (14, 8, 7, 6, 4, 2)  # of a register tile: few, each is a program
_FEW = (1, 2, 4)  # of one whose transformed filters stay in registers
_INPUT, _OUTPUT = 440, 400  # transforms of a tile of 36 products: of a channel block in, of one out
_LARGER = 1.3  # times as long for each product, where a tile has more of them: registers do not hold it
_FILTER, _FILTER_FEW = 115, 54  # transform of a filter's vector: through the cache, in registers
_IN_FLIGHT = 8  # multiply-adds that do not wait for one another
_MOST_FRUGAL = 28  # tiles in a block, of ways with little workspace
_SCRATCH_BYTES = 4 << 20  # of a work-item, at most
_CACHE_BYTES = 7 << 18  # of a core: what is larger comes from behind it
_LINE = 8  # a sum from there and back; inputs, which are read in order, come ahead
_MANY_TILES, _CHUNK = 32, 4  # with so many tiles in a block, sums pass through memory every so many channel blocks

# Of weight gradients: units of work, tiles of a chunk and of a block at least, values of a point and block at most.
_UNITS, _CHUNK_TILES, _LEAST_TILES, _VALUES = 16, 64, 16, 16384


@functools.lru_cache(maxsize=4096)
def winograd_ways(tiles, k, c, taps, groups, block, units, accumulators, side=SIDE):
    """Ways to compute so many tiles of side^2 products of a (K, C/groups, taps, taps) filter, on `units` compute units.

    Returns:
        (operations of the unit that does most, workspace bytes, settings) of each, best first. The settings are pairs
        (name, value), of `winograd_conv`.
    """
    problem = tiles, k, c, taps, groups, block, units, accumulators, side
    found = set()
    few = next((width for width in _FEW if width >= tiles), 0)
    if few and side == SIDE and SIDE * few <= accumulators:
        found |= {way(*problem, few, few, shares, units, 1) for shares in _shares(blocks(k, block), units)}
    for width in _widths(accumulators):
        for count in _counts(tiles, width, blocks(c, block), block, units, side):
            per_block = _round_up(-(-tiles // count), width)
            shared = _shares(blocks(k, 2 * block), units)
            found |= {way(*problem, width, per_block, shares, units, 0) for shares in shared}
    ways = sorted(found)
    busy = _workers(ways[0])
    return tuple(each for each in ways if _workers(each) >= busy)


@functools.lru_cache(maxsize=4096)
def frugal_ways(tiles, k, c, taps, groups, block, units, accumulators, side=SIDE):
    """Ways with small blocks of tiles, and with one work-item instead of one for each unit; as `winograd_ways`, those
    left out that need more workspace than a better one."""
    problem = tiles, k, c, taps, groups, block, units, accumulators, side
    ways = {
        way(*problem, width, min(per_block, _round_up(tiles, width)), shares, workers, 0)
        for width in _widths(accumulators)
        for per_block in range(width, _MOST_FRUGAL + 1, width)
        for workers in (units, 1)
        for shares in (_shares(blocks(k, 2 * block), units) if workers > 1 else (1,))
    }
    found = []
    for each in sorted(ways):
        if not found or each[1] < found[-1][1]:
            found.append(each)
    return tuple(found)


def way(tiles, k, c, taps, groups, block, units, accumulators, side, width, per_block, shares, workers, few):
    """One of `winograd_ways`: register tiles of `width`, blocks of tiles, shares of the output channels, at most so
    many work-items; `few`: transformed filters stay in registers."""
    together = 1 if few else 2
    k_units, c_blocks = blocks(k, together * block), blocks(c, block)
    count = -(-tiles // per_block)
    works = count * shares
    workers = min(works, workers)
    each = -(-works // workers)
    chunk = min(blocks(c // groups, block), _CHUNK if per_block >= _MANY_TILES else 1)
    planes = c_blocks * (per_block | 1)
    points = side * side
    nbytes = (points * (planes + 2 * per_block) + side * (2 * block * chunk + 1)) * block * 4
    transforms = points / POINTS * (1 if side == SIDE else _LARGER)
    more_taps, more_outputs = (1 + taps) / 4 * transforms, (1 + (side + 1 - taps) / TILE) / 2 * transforms
    if few:
        products = c // groups * (6 * max(6 * width, _IN_FLIGHT) + _FILTER_FEW * more_taps)
    else:
        # Loads of two weights and of the values do not always hide behind the multiply-adds.
        register_tile = max(2 * width + 0.25 * (2 + width), _IN_FLIGHT)
        products = c // groups * (points * per_block // width * register_tile + 2 * _FILTER * more_taps)
        if nbytes > _CACHE_BYTES:
            products += _LINE * points * 2 * per_block
    transformed = each // shares if each % shares == 0 else 1 if shares % each == 0 else min(count, each // shares + 2)
    price = transformed * per_block * c_blocks * _INPUT * transforms
    price += each * -(-k_units // shares) * (products + per_block * together * _OUTPUT * more_outputs)
    settings = (
        ("WT", width), ("FEW", few), ("tiles", per_block), ("shares", shares), ("chunk", chunk), ("workers", workers),
    )
    return price, workers * nbytes, settings


def _workers(one):
    return dict(one[2])["workers"]


def _widths(accumulators):
    return [width for width in _WIDTHS if 2 * width <= accumulators]


def gradient_blocks(tiles, k, c, block):
    """(chunks, tiles per chunk, tiles per block) of a weight gradient's sum: by the shape alone, so that its order is.

    Chunks keep some processors busy; the transformed inputs of a block of tiles stay near a processor.
    """
    chunks = max(1, min(-(-_UNITS // blocks(k, 2 * block)), tiles // _CHUNK_TILES))
    per_chunk = -(-tiles // chunks)
    most = max(_LEAST_TILES, _VALUES // (blocks(c, block) * block))
    return chunks, per_chunk, -(-per_chunk // -(-per_chunk // most))


def gradient_operations(tiles, k, c, block):
    """Vector operations of a weight gradient for each pair of blocks, as multiply-adds."""
    chunks, per_chunk, per_block = gradient_blocks(tiles, k, c, block)
    products = POINTS * block + _INPUT / blocks(k, block) + _OUTPUT / blocks(c, block)
    return tiles * products + chunks * -(-per_chunk // per_block) * block * _FILTER


def tile_count(shape, taps=3, side=SIDE):
    """Tiles that cover (N, K, P, Q), the outputs of filters with so many taps a side: of 4x4 outputs for 3."""
    n, _, p, q = shape
    out = side + 1 - taps
    return n * -(-p // out) * -(-q // out)


def _counts(tiles, width, c_blocks, block, units, side):
    """Into how many blocks of tiles of a register tile's width it may be cut."""
    most = max(1, _SCRATCH_BYTES // (side * side * (c_blocks + 2) * block * 4 * width)) * width
    fewest = -(-tiles // most)
    even = _round_up(fewest, units)
    least = -(-tiles // width)
    return sorted({min(n, least) for n in (fewest, fewest + 1, even, even + units, 2 * even, 4 * even, least)})


def _shares(parts, units):
    """Into how many shares the output channels may be cut."""
    return sorted({min(n, parts) for n in (1, 2, 4, 8, units, 2 * units, parts)})


def _round_up(value, multiple):
    return -(-value // multiple) * multiple
