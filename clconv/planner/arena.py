"""Offsets in the arena: greedy by size over lifetimes (Pisarchyk and Lee, 2020), or whatever order packs tightest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import OutOfMemoryError
from ..shapes import ALIGN, aligned
from .lifetimes import Interval, live_bytes


@dataclass(frozen=True)
class Placement:
    """Where an interval lives: slab number and byte offset in it."""

    slab: int
    offset: int


@dataclass
class Arena:
    """Sizes of the slabs in bytes, and the placement of each interval, in the intervals' order."""

    slab_bytes: list[int]
    placements: list[Placement]

    @property
    def nbytes(self) -> int:
        """All slabs together."""
        return sum(self.slab_bytes)


# What is placed first: the largest; what is alive when most is; what is born first.
ORDERS: tuple[Callable[[Interval, list[int]], tuple[int, ...]], ...] = (
    lambda interval, live: (-interval.nbytes, interval.start),
    lambda interval, live: (-max(max(live[a : b + 1]) for a, b in interval.lives), -interval.nbytes),
    lambda interval, live: (interval.start, -interval.nbytes),
    lambda interval, live: (interval.start - interval.end, -interval.nbytes),
)


def place(intervals: list[Interval], max_slab_bytes: int) -> Arena:
    """Offsets such that no two intervals that are alive together overlap; no slab passes `max_slab_bytes`.

    The largest tensors are placed first, each into the tightest gap that holds it; where that takes more than what is
    alive at a time, other orders are tried. One slab is the rule; more are opened only where a single one would be
    larger than the device allows.

    Raises:
        OutOfMemoryError: one tensor alone is larger than a slab may be.
    """
    steps = max((interval.end for interval in intervals), default=0)
    if not intervals:
        return Arena([], [])
    live = live_bytes(intervals, steps)
    alive = [interval.alive() for interval in intervals]
    best: Arena | None = None
    for key in ORDERS:
        ranks = [key(interval, live) for interval in intervals]
        order = sorted(range(len(intervals)), key=ranks.__getitem__)
        arena = _in_order(intervals, alive, order, max_slab_bytes)
        best = arena if best is None or arena.nbytes < best.nbytes else best
        if best.nbytes <= max(live) + ALIGN:
            break
    assert best is not None
    return best


def _in_order(intervals: list[Interval], alive: list[int], order: list[int], max_slab_bytes: int) -> Arena:
    """The arena when intervals, which are alive at these steps, are placed in this order."""
    slabs: list[list[tuple[int, int, int]]] = [[]]  # begin, end, steps of what is placed
    placements: list[Placement] = [Placement(0, 0)] * len(intervals)
    for index in order:
        interval = intervals[index]
        size = aligned(interval.nbytes)
        if size > max_slab_bytes:
            what = interval.values[0].name if interval.values else "a workspace"
            raise OutOfMemoryError(
                f"{what}: {size} bytes in one piece, but the device allows at most {max_slab_bytes} per allocation"
            )
        for slab, placed in enumerate(slabs):  # noqa: B007 (used after the loop)
            offset = _gap(placed, alive[index], size)
            if offset + size <= max_slab_bytes:
                break
        else:
            slab, offset = len(slabs), 0
            slabs.append([])
        slabs[slab].append((offset, offset + size, alive[index]))
        placements[index] = Placement(slab, offset)
    return Arena([max((end for _, end, _ in placed), default=0) for placed in slabs], placements)


def _gap(placed: list[tuple[int, int, int]], steps: int, size: int) -> int:
    """Offset of the tightest gap of at least `size` between tensors alive at one of these steps."""
    busy = sorted([(begin, end) for begin, end, others in placed if others & steps])
    cursor, best, best_room = 0, -1, 0
    for start, end in busy:
        room = start - cursor
        if room >= size and (best < 0 or room < best_room):
            best, best_room = cursor, room
        cursor = max(cursor, end)
    return best if best >= 0 else cursor
