"""Offsets in the arena: greedy by size over lifetimes (Pisarchyk and Lee, 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OutOfMemoryError
from .lifetimes import Interval

ALIGN = 64  # bytes


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


def place(intervals: list[Interval], max_slab_bytes: int) -> Arena:
    """Offsets such that no two intervals that are alive together overlap; no slab passes `max_slab_bytes`.

    The largest tensors are placed first, each into the tightest gap that holds it. One slab is the rule;
    more are opened only where a single one would be larger than the device allows.

    Raises:
        OutOfMemoryError: one tensor alone is larger than a slab may be.
    """
    order = sorted(range(len(intervals)), key=lambda i: (-intervals[i].nbytes, intervals[i].start))
    slabs: list[list[tuple[int, int, Interval]]] = [[]]
    placements: list[Placement] = [Placement(0, 0)] * len(intervals)
    for index in order:
        interval = intervals[index]
        size = -(-interval.nbytes // ALIGN) * ALIGN
        if size > max_slab_bytes:
            what = interval.values[0].name if interval.values else "a workspace"
            raise OutOfMemoryError(
                f"{what}: {size} bytes in one piece, but the device allows at most {max_slab_bytes} per allocation"
            )
        for slab, placed in enumerate(slabs):  # noqa: B007 (used after the loop)
            offset = _gap(placed, interval, size)
            if offset + size <= max_slab_bytes:
                break
        else:
            slab, offset = len(slabs), 0
            slabs.append([])
        slabs[slab].append((offset, offset + size, interval))
        placements[index] = Placement(slab, offset)
    return Arena([max((end for _, end, _ in placed), default=0) for placed in slabs], placements)


def _gap(placed: list[tuple[int, int, Interval]], interval: Interval, size: int) -> int:
    """Offset of the tightest gap of at least `size` between tensors alive together with `interval`."""
    busy = sorted((a, b) for a, b, other in placed if other.start <= interval.end and interval.start <= other.end)
    cursor, best, best_room = 0, -1, 0
    for start, end in busy:
        room = start - cursor
        if room >= size and (best < 0 or room < best_room):
            best, best_room = cursor, room
        cursor = max(cursor, end)
    return best if best >= 0 else cursor
