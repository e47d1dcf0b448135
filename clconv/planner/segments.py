"""Which layers run in strips so that a graph fits into an arena: dynamic programming over runs of layers."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from .._core.layout import CopyColumns
from ..device import DeviceFacts
from ..graph import Graph, Node, Value
from .budget import NO_LIMIT
from .frames import LONGEST, Frames
from .prices import fitting_offer
from .staging import NOTHING, InSlices, in_slices
from .strips import Segment, can_strip
from .tiles import can_tile

# How many strips a segment may be cut into; each strip of a layer is a launch, which takes kilobytes of the host.
STRIPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
HEIGHTS = 3  # of strips are priced, the tallest that fit: lower ones leave more room for workspaces
# How many bands of columns are tried where strips alone do not fit, but need no more than some times what there is;
# those that hardly need less end it.
BANDS, MOST_CUT, NARROWER = (2, 3, 4, 6, 8, 12, 16, 24, 32), 8, 0.97
MOST_STEPS = 12_000  # of a segment in bands, about: launches take host memory
MOST_SLICES = 4_000  # of weights that a segment is brought again and again, for the same reason
SQUEEZED = 1.05  # a layer that takes so much longer for lack of workspace may run in strips for it


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        segments: in order. price: of the whole run. peak_bytes: the most that is alive at a time, at least.
        rooms: what is left for the workspace of each node. streams: bytes of weights that are brought at a time.
    """

    segments: tuple[Segment, ...]
    price: float
    peak_bytes: int
    rooms: Mapping[Node, int]
    streams: Mapping[Value, int]


class Search:
    """Looks for segments of one graph; what was computed for one limit serves the next.

    Args:
        live_bytes: what is alive at each node when all run whole, without workspaces and streamed weights.
        streamed: weights that are brought to the device when they are needed.
    """

    def __init__(
        self, graph: Graph, facts: DeviceFacts, live_bytes: Sequence[int], streamed: Container[Value] = ()
    ) -> None:
        self.graph, self.facts, self.block = graph, facts, facts.block
        self.live = live_bytes
        self.frames = Frames(graph, facts, streamed)
        self.least = [a + b.least for a, b in zip(self.frames.least_work, self.frames.demands, strict=True)]
        self.able = [can_strip(node) for node in graph.nodes]
        self._tileable = [can_tile(node) for node in graph.nodes]
        self._heights: dict[int, list[int]] = {}
        self._refused: dict[tuple[bool, bool], int] = {}  # what was too little

    def within(self, limit: int, *, priced: bool = True, tiles: bool = True) -> Found | None:
        """The cheapest way with at most `limit` bytes alive at a time, or None.

        Args:
            priced: else any way; this takes less time. tiles: strips may be cut into bands of columns.
        """
        if limit <= self._refused.get((priced, tiles), 0):
            return None
        self._cuts = tiles
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
        if best[count][0] < math.inf:
            return self._trace(best, limit)
        self._refused[priced, tiles] = limit
        return None

    def smallest(self) -> Found:
        """The way with the fewest bytes alive at a time."""
        high = max(map(int.__add__, self.live, self.least))
        found = self.within(high, priced=False)
        assert found is not None
        for tiles in (False, True):
            low, high = 0, min(found.peak_bytes, high)
            while high - low > max(high // 128, 64):
                middle = (low + high) // 2
                attempt = self.within(middle, priced=False, tiles=tiles)
                if attempt is None:
                    low = middle
                else:
                    found, high = attempt, min(attempt.peak_bytes, middle)
        return found

    def _over(self, place: int, limit: int, priced: bool) -> bool:
        """Whether a node does not fit whole, or loses much for lack of memory."""
        price = self._whole_price(place, limit)
        return price == math.inf or (priced and price > SQUEEZED * self._whole_price(place, NO_LIMIT))

    def _whole_price(self, place: int, limit: int) -> float:
        if limit < self.live[place] + self.least[place]:
            return math.inf
        wanted, room = self.frames.demands[place], limit - self.live[place]
        if wanted is NOTHING:
            return fitting_offer(self.frames.offers[place], room).price
        if wanted.slicing is None:
            return fitting_offer(self.frames.offers[place], room - wanted.fixed_bytes).price + wanted.price(self.facts)
        return self._whole_slices(place, room).price

    def _whole_slices(self, place: int, room: int) -> InSlices:
        """How a node runs whose weights come in slices, with so much room beside what is alive."""
        node, wanted = self.graph.nodes[place], self.frames.demands[place]
        x_bytes = sum(value.spec.nbytes(self.block) for value in node.reads if not value.persistent)
        return in_slices(self.frames.offers[place], wanted, x_bytes, room - wanted.fixed_bytes, self.facts)

    def _trace(self, best: list[tuple[float, int, Segment | None]], limit: int) -> Found:
        segments, peak, at = [], 0, len(best) - 1
        rooms: dict[Node, int] = {}
        streams: dict[Value, int] = {}
        while at:
            _, start, segment = best[at]
            if segment is None:
                peak = max(peak, self.live[start] + self.least[start])
                self._trace_whole(start, limit - self.live[start], rooms, streams)
            else:
                segments.append(segment)
                peak = max(peak, self.frames.peak(segment))
                self._trace_segment(segment, limit, rooms, streams)
            at = start
        return Found(tuple(reversed(segments)), best[-1][0], peak, rooms, streams)

    def _trace_whole(self, place: int, room: int, rooms: dict[Node, int], streams: dict[Value, int]) -> None:
        """Notes what is left for the workspace of a whole node, and how its weights come."""
        node, wanted = self.graph.nodes[place], self.frames.demands[place]
        streams.update(wanted.fixed)
        rooms[node] = room - wanted.fixed_bytes
        if wanted.slicing is not None:
            found = self._whole_slices(place, room)
            rooms[node], streams[wanted.slicing.weight] = found.room, found.nbytes

    def _trace_segment(self, segment: Segment, limit: int, rooms: dict[Node, int], streams: dict[Value, int]) -> None:
        """Notes what is left for the workspace of each node of a segment, and how their weights come."""
        frame, (chain, count) = self.frames.frame(segment), self.frames.chain(segment)
        sliced, total = self.frames.sliced(segment, limit)
        for place, node in enumerate(chain.nodes):
            if isinstance(node.layer, CopyColumns):
                continue
            wanted, room = self.frames.demand(chain, node), limit - total - frame.passing[place]
            streams.update(wanted.fixed)
            rooms[chain.owners.get(node, node)] = room
            if wanted.slicing is not None and place in sliced:
                found = self.frames.strip_slices(chain, node, count, room)
                rooms[chain.owners.get(node, node)] = found.room
                streams[wanted.slicing.weight] = found.nbytes
            elif wanted.slicing is not None:
                streams[wanted.slicing.weight] = wanted.whole

    def _segment(self, start: int, stop: int, limit: int, priced: bool) -> tuple[Segment, float] | None:
        """The cheapest segment that fits, of those with tall strips, and its price; None if even the lowest do not."""
        sizes = self._sizes(stop)
        if not sizes or self.frames.fixed(start, stop) + max(self.frames.loads[start:stop]) > limit:
            return None
        lowest = self.frames.peak(Segment(start, stop, sizes[-1]))
        if lowest <= limit and (sizes := self._affordable(start, stop, sizes, 0, limit)):
            return self._tallest(start, stop, sizes, 0, limit, priced)
        return self._tiles(start, stop, sizes, lowest, limit, priced)

    def _tallest(
        self, start: int, stop: int, sizes: list[int], columns: int, limit: int, priced: bool
    ) -> tuple[Segment, float]:
        """The cheapest segment of those with the tallest strips that fit; the lowest do."""
        if not priced:
            return Segment(start, stop, sizes[-1], columns), 0.0
        low, high = 0, len(sizes) - 1  # sizes fall: the first that fits is looked for
        while low < high:
            middle = (low + high) // 2
            if self.frames.peak(Segment(start, stop, sizes[middle], columns)) <= limit:
                high = middle
            else:
                low = middle + 1
        found = [Segment(start, stop, rows, columns) for rows in sizes[low : low + HEIGHTS]]
        return min(((each, self.frames.price(each, limit)) for each in found), key=lambda pair: pair[1])

    def _tiles(
        self, start: int, stop: int, sizes: list[int], peak: int, limit: int, priced: bool
    ) -> tuple[Segment, float] | None:
        """The cheapest segment in the fewest bands that fit, or one number more; None if no number does.

        Args:
            peak: bytes alive in one band of the lowest strips.
        """
        if not self._cuts or peak > MOST_CUT * limit or not all(self._tileable[start:stop]):
            return None
        (value,) = self.graph.nodes[stop - 1].outputs
        height, width, grid = *value.spec.shape[2:], self.graph.nodes[stop - 1].layer.bands
        fixed, work = self.frames.fixed(start, stop), max(self.frames.loads[start:stop])
        found: list[tuple[Segment, float]] = []
        for count in BANDS if priced else BANDS[::2]:
            columns = grid * math.ceil(math.ceil(width / count) / grid)
            known = [rows for rows in sizes if -(-height // rows) * count * (stop - start) <= MOST_STEPS]
            if not known or columns * (count - 1) >= width:
                break
            if fixed + (peak - fixed - work) * columns // width > limit:
                continue  # bands overlap: they need no less than their share
            least = self.frames.peak(Segment(start, stop, known[-1], columns))
            if least <= limit and (known := self._affordable(start, stop, known, columns, limit)):
                found.append(self._tallest(start, stop, known, columns, limit, priced))
            if len(found) == (2 if priced else 1) or (least > NARROWER * peak and least > limit):
                break
            peak = least
        return min(found, key=lambda pair: pair[1], default=None)

    def _affordable(self, start: int, stop: int, sizes: list[int], columns: int, limit: int) -> list[int]:
        """Heights of strips that fit, of which slices of weights, which come again for each, make not too many steps.

        Args:
            sizes: from tall to low; the lowest fits.
        """
        while self.frames.streams and sizes:
            segment = Segment(start, stop, sizes[-1], columns)
            if self.frames.peak(segment) > limit:
                return []
            count = self.frames.slices(segment, limit)
            if count <= MOST_SLICES:
                break
            # Taller strips leave no more room: each has as many slices, and more.
            lowest = sizes[-1] * count / MOST_SLICES
            sizes = [rows for rows in sizes[:-1] if rows >= lowest]
        return sizes

    def _sizes(self, stop: int) -> list[int]:
        """Heights of strips worth trying, from tall to low, on the grid of the last node."""
        if stop not in self._heights:
            node = self.graph.nodes[stop - 1]
            height, grid = node.outputs[0].spec.shape[2], node.layer.strips
            counts = [n for n in STRIPS if n < height] + [min(height, STRIPS[-1])]
            sizes = {grid * math.ceil(math.ceil(height / n) / grid) for n in counts}
            self._heights[stop] = sorted((size for size in sizes if size < height), reverse=True)
        return self._heights[stop]
