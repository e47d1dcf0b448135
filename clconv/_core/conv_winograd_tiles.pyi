from typing import Any

Way = tuple[float, int, tuple[tuple[str, int], ...]]

TILE: int
SIDE: int
POINTS: int

def winograd_ways(
    tiles: int, k: int, c: int, taps: int, groups: int, block: int, units: int, accumulators: int, side: int = ...
) -> tuple[Way, ...]: ...
def frugal_ways(
    tiles: int, k: int, c: int, taps: int, groups: int, block: int, units: int, accumulators: int, side: int = ...
) -> tuple[Way, ...]: ...
def way(
    tiles: int,
    k: int,
    c: int,
    taps: int,
    groups: int,
    block: int,
    units: int,
    accumulators: int,
    side: int,
    width: int,
    per_block: int,
    shares: int,
    workers: int,
    few: int,
) -> Way: ...
def gradient_blocks(tiles: int, k: int, c: int, block: int) -> tuple[int, int, int]: ...
def gradient_operations(tiles: int, k: int, c: int, block: int) -> float: ...
def tile_count(shape: Any, taps: int = ..., side: int = ...) -> int: ...
