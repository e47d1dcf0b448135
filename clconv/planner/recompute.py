"""Which values of the forward pass to keep, and which to compute again: cuts of a chain of nodes.

What crosses a cut is kept; between two cuts everything is computed again before its gradients are, and behind the last
cut everything is kept (Chen et al., 2016; Gruslys et al., 2016). Branches are allowed: more values cross a cut then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_LABELS = 16  # partial solutions that are followed further at each cut


@dataclass(frozen=True)
class Chain:
    """A training step as the search sees it; sizes in bytes, entry i for forward node i.

    Attributes:
        kept: values made here that gradients read. passing: what this node reads and makes that gradients do not.
        gradient: the most that gradients and workspace take while the gradients of this node are computed.
        incoming: what they take before that.
        cost: of running the node once more.
        crossing: for each value that a later forward node reads: (maker, last reader, bytes that its maker is kept
            with).
        needs: for each node, the makers of values that it reads.
    """

    kept: Sequence[int]
    passing: Sequence[int]
    gradient: Sequence[int]
    incoming: Sequence[int]
    cost: Sequence[float]
    crossing: Sequence[tuple[int, int, int]]
    needs: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.kept)


class Search:
    """The tables of a chain: peaks, costs and bytes of every segment [a, b)."""

    def __init__(self, chain: Chain) -> None:
        n = self.count = len(chain)
        self.peak = [[0] * (n + 1) for _ in range(n + 1)]
        self.cost = [[0.0] * (n + 1) for _ in range(n + 1)]
        self.added = [[0] * (n + 1) for _ in range(n + 1)]
        for a in range(n):
            kept = most = 0
            for b in range(a + 1, n + 1):
                kept += chain.kept[b - 1]
                most = max(most, kept + chain.gradient[b - 1])
                self.peak[a][b] = most
        for b in range(1, n):
            self._fill(chain, b)

    def _fill(self, chain: Chain, b: int) -> None:
        """Costs and added bytes of the segments that end at `b`, the shortest first."""
        crosses: dict[int, int] = {}
        for maker, last, nbytes in chain.crossing:
            if maker < b <= last:
                crosses[maker] = crosses.get(maker, 0) + nbytes
        missing = {i for i in range(b) if chain.kept[i] and i not in crosses}
        cost, added, most = 0.0, 0, 0
        for a in range(b - 1, -1, -1):
            added += crosses.get(a, 0)
            # The most that is alive while the segment runs again: what was made of it before, and what passes.
            most += chain.kept[a]
            if a in missing:
                cost += chain.cost[a]
                missing.update(i for i in chain.needs[a] if i not in crosses)
                most = max(most, chain.kept[a] + chain.passing[a])
                self.peak[a][b] = max(self.peak[a][b], most + chain.incoming[b - 1])
            self.cost[a][b], self.added[a][b] = cost, added

    def cuts(self, limit: int) -> tuple[float, tuple[int, ...]] | None:
        """The cheapest cuts whose modelled peak is within `limit` bytes: (cost, cuts); None where there are none."""
        n = self.count
        labels: list[list[tuple[int, float, tuple[int, ...]]]] = [[] for _ in range(n + 1)]
        labels[0] = [(0, 0.0, ())]
        best: tuple[float, tuple[int, ...]] | None = None
        for b in range(1, n + 1):
            found: list[tuple[int, float, tuple[int, ...]]] = []
            for a in range(b):
                room = limit - self.peak[a][b]
                for stored, cost, cuts in labels[a]:
                    if stored > room:
                        continue
                    if b == n:
                        if best is None or cost < best[0]:
                            best = cost, cuts
                    else:
                        found.append((stored + self.added[a][b], cost + self.cost[a][b], (*cuts, b)))
            labels[b] = _undominated(found)
        return best

    def least(self) -> int:
        """The smallest limit for which there are cuts, to a thousandth."""
        low, high = 0, self.peak[0][self.count]
        while high - low > max(64, high >> 10):
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(middle) else (middle, high)
        return high

    def _fits(self, limit: int) -> bool:
        n = self.count
        stored: list[int | None] = [None] * (n + 1)
        stored[0] = 0
        for b in range(1, n + 1):
            fits = [
                s + self.added[a][b] for a, s in enumerate(stored[:b]) if s is not None and s + self.peak[a][b] <= limit
            ]
            stored[b] = min(fits, default=None)
        return stored[n] is not None


def _undominated(labels: list[tuple[int, float, tuple[int, ...]]]) -> list[tuple[int, float, tuple[int, ...]]]:
    """Those for which no other is at most as large and as costly, at most `MOST_LABELS` of them evenly spread."""
    kept: list[tuple[int, float, tuple[int, ...]]] = []
    for label in sorted(labels, key=lambda x: (x[0], x[1], len(x[2]))):
        if not kept or label[1] < kept[-1][1]:
            kept.append(label)
    if len(kept) > MOST_LABELS:
        step = (len(kept) - 1) / (MOST_LABELS - 1)
        kept = [kept[round(i * step)] for i in range(MOST_LABELS)]
    return kept
