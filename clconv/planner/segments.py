"""Which layers run in strips so that a graph fits into an arena: dynamic programming over runs of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._core.layer import Cost
from ..device import DeviceFacts
from ..graph import Graph, Node, Value
from .prices import Offer, fitting_offer, offers, price_of
from .steps import with_rows
from .strips import Chain, Rows, Segment, can_strip

LONGEST = 40  # nodes of a segment
# Of all strips these are looked at; what is between them repeats.
FIRST_STRIPS, LAST_STRIPS = 4, 3
# How many strips a segment may be cut into; each strip of a layer is a launch, which takes kilobytes of the host.
STRIPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
HEIGHTS = 3  # of strips are priced, the tallest that fit: lower ones leave more room for workspaces
SQUEEZED = 1.05  # a layer that takes so much longer for lack of workspace may run in strips for it


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        segments: in order. price: of the whole run. peak_bytes: the most that is alive at a time, at least.
        rooms: what is left for the workspace of each node.
    """

    segments: tuple[Segment, ...]
    price: float
    peak_bytes: int
    rooms: Mapping[Node, int]


@dataclass(frozen=True)
class _Frame:
    """What a segment has alive besides workspaces.

    Attributes:
        total, passing: bytes throughout, and at each node. kept: rows of each node's output that are stored at a time,
            where some are kept from strip to strip.
    """

    total: int
    passing: tuple[int, ...]
    kept: tuple[int, ...]


class Search:
    """Looks for segments of one graph; what was computed for one limit serves the next.

    Args:
        live_bytes: what is alive at each node when all run whole, without workspaces.
        staged_bytes: of weights that are brought to the device before a node's first strip.
    """

    def __init__(
        self, graph: Graph, facts: DeviceFacts, live_bytes: Sequence[int], staged_bytes: Mapping[Node, int]
    ) -> None:
        self.graph, self.facts, self.block = graph, facts, facts.block
        self.live = live_bytes
        self.offers = [
            offers(facts, node.layer, node.input_specs(), [value.spec for value in node.outputs])
            for node in graph.nodes
        ]
        self.least_work = [found[-1].workspace_bytes for found in self.offers]
        self.staged = [staged_bytes.get(node, 0) for node in graph.nodes]
        self.able = [can_strip(node) for node in graph.nodes]
        self._spans = _spans(graph)
        self._frames: dict[Segment, _Frame] = {}
        self._chains: dict[tuple[int, int], Chain] = {}
        self._needed: dict[tuple[Node, str, int, int], Rows] = {}
        self._strip_offers: dict[tuple[Node, int], list[Offer]] = {}

    def within(self, limit: int, *, priced: bool = True) -> Found | None:
        """The cheapest way with at most `limit` bytes alive at a time, or None.

        Args:
            priced: else any way; this takes less time.
        """
        count = len(self.graph.nodes)
        best: list[tuple[float, int, Segment | None]] = [(math.inf, 0, None)] * (count + 1)
        best[0] = (0.0, 0, None)
        over = [self._over(i, limit, priced) for i in range(count)]
        for i in range(count):
            price = best[i][0]
            if price == math.inf:
                continue
            if (whole := self._whole_price(i, limit)) < math.inf:
                best[i + 1] = min(best[i + 1], (price + whole, i, None), key=lambda found: found[0])
            for j in range(i + 1, min(i + LONGEST, count) + 1):
                if not self.able[j - 1]:
                    break
                if any(over[i:j]) and (priced or best[j][0] == math.inf):
                    found = self._segment(i, j, limit, priced)
                    if found is not None:
                        total = price + found[1]
                        best[j] = min(best[j], (total, i, found[0]), key=lambda entry: entry[0])
        return None if best[count][0] == math.inf else self._trace(best, limit)

    def least(self) -> Found:
        """The way with the fewest bytes alive at a time."""
        low, high = 0, max(live + work for live, work in zip(self.live, self.least_work, strict=True))
        found = self.within(high, priced=False)
        assert found is not None
        while high - low > max(high // 128, 64):
            middle = (low + high) // 2
            attempt = self.within(middle, priced=False)
            if attempt is None:
                low = middle
            else:
                found, high = attempt, min(attempt.peak_bytes, middle)
        return found

    def _over(self, place: int, limit: int, priced: bool) -> bool:
        """Whether a node does not fit whole, or loses much for lack of workspace."""
        price = self._whole_price(place, limit)
        return price == math.inf or (priced and price > SQUEEZED * self.offers[place][0].price)

    def _whole_price(self, place: int, limit: int) -> float:
        room = limit - self.live[place]
        return math.inf if room < self.least_work[place] else fitting_offer(self.offers[place], room).price

    def _trace(self, best: list[tuple[float, int, Segment | None]], limit: int) -> Found:
        segments, peak, at, rooms = [], 0, len(best) - 1, {}
        nodes = self.graph.nodes
        while at:
            _, start, segment = best[at]
            if segment is None:
                peak = max(peak, self.live[start] + self.least_work[start])
                rooms[nodes[start]] = limit - self.live[start]
            else:
                segments.append(segment)
                peak = max(peak, self._peak(segment))
                frame = self._frame(segment)
                for node, passing in zip(nodes[start:at], frame.passing, strict=True):
                    rooms[node] = limit - frame.total - passing
            at = start
        return Found(tuple(reversed(segments)), best[-1][0], peak, rooms)

    def _segment(self, start: int, stop: int, limit: int, priced: bool) -> tuple[Segment, float] | None:
        """The cheapest segment that fits, of those with tall strips, and its price; None if even the lowest do not."""
        sizes = self._sizes(stop)
        low, high = 0, len(sizes)  # sizes fall: the first that fits is looked for
        if not sizes or self._crossing(start, stop) > limit or self._peak(Segment(start, stop, sizes[-1])) > limit:
            return None
        if not priced:
            return Segment(start, stop, sizes[-1]), 0.0
        while low < high:
            middle = (low + high) // 2
            if self._peak(Segment(start, stop, sizes[middle])) <= limit:
                high = middle
            else:
                low = middle + 1
        found = [Segment(start, stop, rows) for rows in sizes[low : low + HEIGHTS]]
        return min(((each, self._price(each, limit)) for each in found), key=lambda pair: pair[1])

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
        """The most bytes alive in a segment, with the least workspaces."""
        frame = self._frame(segment)
        return frame.total + max(map(int.__add__, frame.passing, self.least_work[segment.start : segment.stop]))

    def _frame(self, segment: Segment) -> _Frame:
        if segment not in self._frames:
            chain, count = self._chain(segment)
            numbers = sorted({*range(min(FIRST_STRIPS, count)), *range(max(count - LAST_STRIPS, 0), count)})
            strips = chain.strips(segment.rows, numbers)
            total = self._crossing(segment.start, segment.stop) + sum(self.staged[segment.start : segment.stop])
            passing, kept = [0] * len(chain.nodes), [0] * len(chain.nodes)
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
                    kept[place] = rows
            self._frames[segment] = _Frame(total, tuple(passing), tuple(kept))
        return self._frames[segment]

    def _chain(self, segment: Segment) -> tuple[Chain, int]:
        """The nodes of a segment, and how many strips it has."""
        span = (segment.start, segment.stop)
        if span not in self._chains:
            self._chains[span] = Chain(self.graph.nodes[segment.start : segment.stop], self._needed)
        chain = self._chains[span]
        return chain, -(-int(chain.nodes[-1].outputs[0].spec.shape[2]) // segment.rows)

    def _price(self, segment: Segment, limit: int) -> float:
        """The modelled price of a segment: each node computes as many rows at a time as its share of a strip has."""
        chain, count = self._chain(segment)
        frame = self._frame(segment)
        price = 0.0
        for node, passing, kept in zip(chain.nodes, frame.passing, frame.kept, strict=True):
            value, grid = node.outputs[0], node.layer.strips
            height = value.spec.shape[2]
            rows = min(height, grid * max(1, round(height / count / grid)))
            runs = height / rows
            price += runs * fitting_offer(self._offers(chain, node, rows), limit - frame.total - passing).price
            if kept > rows:
                row_bytes = value.spec.nbytes(self.block) // height
                price += runs * price_of(Cost(0, 2 * (kept - rows) * row_bytes), self.facts)
        return price

    def _offers(self, chain: Chain, node: Node, rows: int) -> list[Offer]:
        """Ways to compute so many rows of a node, somewhere in the middle."""
        if (node, rows) not in self._strip_offers:
            height, grid = node.outputs[0].spec.shape[2], node.layer.strips
            begin = (height - rows) // 2 // grid * grid
            layer, needed = node.layer.strip((begin, begin + rows), chain.heights[node])
            specs = [
                with_rows(spec, needed[name][1] - needed[name][0]) if spec is not None and name in needed else spec
                for name, spec in zip(node.layer.inputs, node.input_specs(), strict=True)
            ]
            out = with_rows(node.outputs[0].spec, rows)
            self._strip_offers[node, rows] = offers(self.facts, layer, specs, [out])
        return self._strip_offers[node, rows]


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
