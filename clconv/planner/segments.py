"""Which layers run in strips so that a graph fits into an arena: dynamic programming over runs of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .._core.layer import Cost
from ..graph import Graph, Node, Value
from .strips import Chain, Rows, Segment, can_strip

LONGEST = 40  # nodes of a segment
# Prices in floating-point operations, of a processor's order: a launch, a byte moved.
LAUNCH_PRICE = 5e6
BYTE_PRICE = 10.0
# Of all strips these are looked at; what is between them repeats.
FIRST_STRIPS, LAST_STRIPS = 4, 3
# How many strips a segment may be cut into; each strip of a layer is a launch, which takes kilobytes of the host.
STRIPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)


@dataclass(frozen=True)
class Found:
    """Segments in order, the modelled price of the run, and the most bytes alive at a time."""

    segments: tuple[Segment, ...]
    price: float
    peak_bytes: int


class Search:
    """Looks for segments of one graph; what was computed for one limit serves the next.

    Args:
        live_bytes: what is alive at each node when all run whole, workspace included.
        strip_bytes: what each node needs besides while it runs in strips: at most so much workspace, and so many
            bytes of weights that are brought to the device before the first strip.
    """

    def __init__(
        self,
        graph: Graph,
        block: int,
        live_bytes: Sequence[int],
        costs: dict[Node, Cost],
        strip_bytes: dict[Node, tuple[int, int]],
    ) -> None:
        self.graph, self.block = graph, block
        self.whole = live_bytes
        self.price = [max(c.flops, BYTE_PRICE * c.traffic_bytes) for c in (costs[node] for node in graph.nodes)]
        self.workspace = [strip_bytes[node][0] for node in graph.nodes]
        self.weights = [strip_bytes[node][1] for node in graph.nodes]
        self.able = [can_strip(node) for node in graph.nodes]
        self._spans = _spans(graph)
        self._peaks: dict[Segment, int] = {}
        self._chains: dict[tuple[int, int], Chain] = {}
        self._needed: dict[tuple[Node, str, int, int], Rows] = {}

    def within(self, limit: int) -> Found | None:
        """The cheapest way with at most `limit` bytes alive at a time, or None."""
        count = len(self.graph.nodes)
        best: list[tuple[float, int, Segment | None]] = [(math.inf, 0, None)] * (count + 1)
        best[0] = (0.0, 0, None)
        over = [live > limit for live in self.whole]
        for i in range(count):
            price = best[i][0]
            if price == math.inf:
                continue
            if not over[i]:
                best[i + 1] = min(best[i + 1], (price + self.price[i], i, None), key=lambda found: found[0])
            for j in range(i + 1, min(i + LONGEST, count) + 1):
                if not self.able[j - 1]:
                    break
                if any(over[i:j]):
                    found = self._segment(i, j, limit)
                    if found is not None:
                        total = price + found[1]
                        best[j] = min(best[j], (total, i, found[0]), key=lambda entry: entry[0])
        if best[count][0] == math.inf:
            return None
        return self._trace(best)

    def least(self) -> Found:
        """The way with the fewest bytes alive at a time."""
        low, high = 0, max(self.whole)
        found = self.within(high)
        assert found is not None
        while high - low > max(high // 128, 64):
            middle = (low + high) // 2
            attempt = self.within(middle)
            if attempt is None:
                low = middle
            else:
                found, high = attempt, min(attempt.peak_bytes, middle)
        return found

    def _trace(self, best: list[tuple[float, int, Segment | None]]) -> Found:
        segments, peak, at = [], 0, len(best) - 1
        price = best[-1][0]
        while at:
            _, start, segment = best[at]
            if segment is None:
                peak = max(peak, self.whole[start])
            else:
                segments.append(segment)
                peak = max(peak, self._peak(segment))
            at = start
        return Found(tuple(reversed(segments)), price, peak)

    def _segment(self, start: int, stop: int, limit: int) -> tuple[Segment, float] | None:
        """The segment with the tallest strips that fit, and its price; None if even the lowest do not."""
        sizes = self._sizes(stop)
        low, high = 0, len(sizes)  # sizes fall: the first that fits is looked for
        if not sizes or self._crossing(start, stop) > limit or self._peak(Segment(start, stop, sizes[-1])) > limit:
            return None
        while low < high:
            middle = (low + high) // 2
            if self._peak(Segment(start, stop, sizes[middle])) <= limit:
                high = middle
            else:
                low = middle + 1
        segment = Segment(start, stop, sizes[low])
        height = self.graph.nodes[stop - 1].outputs[0].spec.shape[2]
        launches = -(-height // segment.rows) * 2 * (stop - start)
        return segment, sum(self.price[start:stop]) + launches * LAUNCH_PRICE

    def _sizes(self, stop: int) -> list[int]:
        """Heights of strips worth trying, from tall to low, on the grid of the last node."""
        node = self.graph.nodes[stop - 1]
        height, grid = node.outputs[0].spec.shape[2], node.layer.strips
        counts = [n for n in STRIPS if n < height] + [min(height, STRIPS[-1])]
        sizes = {grid * math.ceil(math.ceil(height / n) / grid) for n in counts}
        return sorted((size for size in sizes if size < height), reverse=True)

    def _crossing(self, start: int, stop: int) -> int:
        """Bytes of values that are stored whole and alive in a segment."""
        total = 0
        for value, (first, last) in self._spans.items():
            inner = first >= start and last < stop
            if first < stop and last >= start and not inner:
                total += value.spec.nbytes(self.block)
        return total

    def _peak(self, segment: Segment) -> int:
        if segment not in self._peaks:
            span = (segment.start, segment.stop)
            if span not in self._chains:
                self._chains[span] = Chain(self.graph.nodes[segment.start : segment.stop], self._needed)
            chain = self._chains[span]
            height = chain.nodes[-1].outputs[0].spec.shape[2]
            count = -(-height // segment.rows)
            numbers = sorted({*range(min(FIRST_STRIPS, count)), *range(max(count - LAST_STRIPS, 0), count)})
            strips = chain.strips(segment.rows, numbers)
            total = self._crossing(*span) + sum(self.weights[segment.start : segment.stop])
            passing = list(self.workspace[segment.start : segment.stop])  # bytes at each node, for one strip
            for place, node in enumerate(chain.nodes):
                (value,) = node.outputs
                if value.hosted or self._spans[value][1] >= segment.stop:
                    continue
                rows = max(strip.ends[value] - strip.kept[value] for strip in strips)
                size = value.spec.nbytes(self.block) // value.spec.shape[2] * rows
                if all(strip.passes(value) for strip in strips):
                    for reader in range(place, self._spans[value][1] - segment.start + 1):
                        passing[reader] += size
                else:
                    total += size
            self._peaks[segment] = total + max(passing)
        return self._peaks[segment]


def _spans(graph: Graph) -> dict[Value, tuple[int, int]]:
    """Steps of the first write and the last read of each value, when all nodes run whole."""
    spans = dict.fromkeys(graph.inputs.values(), (-1, -1))
    for step, node in enumerate(graph.nodes):
        for value in node.outputs:
            if not value.hosted:
                spans[value] = (step, step)
        for value in node.reads:
            if not (value.persistent or value.hosted):
                spans[value] = (spans[value][0], step)
    for value in graph.outputs.values():
        spans[value] = (spans[value][0], len(graph.nodes))
    return spans
