"""Which layers run in strips so that a graph fits into an arena: dynamic programming over runs of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from .._core.layer import Cost
from .._core.layout import CopyColumns
from ..device import DeviceFacts
from ..graph import Graph, Node, Value
from ..recent import Recent
from .prices import Offer, fitting_offer, offers, price_of
from .steps import with_rows
from .strips import Chain, Needed, Segment, can_strip
from .tiles import bands, can_tile, make_band

LONGEST = 40  # nodes of a segment
# Of all strips these are looked at; what is between them repeats.
FIRST_STRIPS, LAST_STRIPS = 4, 3
# How many strips a segment may be cut into; each strip of a layer is a launch, which takes kilobytes of the host.
STRIPS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)
HEIGHTS = 3  # of strips are priced, the tallest that fit: lower ones leave more room for workspaces
# How many bands of columns are tried where strips alone do not fit, but need no more than some times what there is;
# those that hardly need less end it.
BANDS, MOST_CUT, NARROWER = (2, 3, 4, 6, 8, 12, 16, 24, 32), 8, 0.97
MOST_STEPS = 12_000  # of a segment in bands, about: launches take host memory
MOST_CHAINS = 8  # that are kept: each takes tens of kilobytes of the host, and is asked about for a while only
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
        total, passing: bytes throughout, and at each node of the chain. kept: rows of each node's output that are
            stored at a time, where some are kept from strip to strip.
        peak: the most bytes alive, with the least workspaces.
    """

    total: int
    passing: tuple[int, ...]
    kept: tuple[int, ...]
    peak: int


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
        self._tileable = [can_tile(node) for node in graph.nodes]
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        self._spans = _spans(graph)
        self._crossings: dict[int, list[int]] = {}
        self._frames: dict[Segment, _Frame] = {}
        self._chains: Recent[tuple[int, int, int], Chain] = Recent(MOST_CHAINS)
        self._needed: Needed = {}
        self._refused: dict[tuple[bool, bool], int] = {}  # what was too little
        self._rows: dict[object, list[tuple[int, bool]]] = {}
        self._strip_offers: dict[tuple[Node, int, int], list[Offer]] = {}

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

    def least(self) -> Found:
        """The way with the fewest bytes alive at a time."""
        high = max(live + work for live, work in zip(self.live, self.least_work, strict=True))
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
                frame, (chain, _) = self._frame(segment), self._chain(segment)
                for node, passing in zip(chain.nodes, frame.passing, strict=True):
                    if not isinstance(node.layer, CopyColumns):
                        rooms[chain.owners.get(node, node)] = limit - frame.total - passing
            at = start
        return Found(tuple(reversed(segments)), best[-1][0], peak, rooms)

    def _segment(self, start: int, stop: int, limit: int, priced: bool) -> tuple[Segment, float] | None:
        """The cheapest segment that fits, of those with tall strips, and its price; None if even the lowest do not."""
        sizes = self._sizes(stop)
        if not sizes or self._fixed(start, stop) + max(self.least_work[start:stop]) > limit:
            return None
        lowest = self._peak(Segment(start, stop, sizes[-1]))
        if lowest <= limit:
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
            if self._peak(Segment(start, stop, sizes[middle], columns)) <= limit:
                high = middle
            else:
                low = middle + 1
        found = [Segment(start, stop, rows, columns) for rows in sizes[low : low + HEIGHTS]]
        return min(((each, self._price(each, limit)) for each in found), key=lambda pair: pair[1])

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
        fixed, work = self._fixed(start, stop), max(self.least_work[start:stop])
        found: list[tuple[Segment, float]] = []
        for count in BANDS if priced else BANDS[::2]:
            columns = grid * math.ceil(math.ceil(width / count) / grid)
            known = [rows for rows in sizes if -(-height // rows) * count * (stop - start) <= MOST_STEPS]
            if not known or columns * (count - 1) >= width:
                break
            if fixed + (peak - fixed - work) * columns // width > limit:
                continue  # bands overlap: they need no less than their share
            least = self._peak(Segment(start, stop, known[-1], columns))
            if least <= limit:
                found.append(self._tallest(start, stop, known, columns, limit, priced))
            if len(found) == (2 if priced else 1) or (least > NARROWER * peak and least > limit):
                break
            peak = least
        return min(found, key=lambda pair: pair[1], default=None)

    def _sizes(self, stop: int) -> list[int]:
        """Heights of strips worth trying, from tall to low, on the grid of the last node."""
        node = self.graph.nodes[stop - 1]
        height, grid = node.outputs[0].spec.shape[2], node.layer.strips
        counts = [n for n in STRIPS if n < height] + [min(height, STRIPS[-1])]
        sizes = {grid * math.ceil(math.ceil(height / n) / grid) for n in counts}
        return sorted((size for size in sizes if size < height), reverse=True)

    def _fixed(self, start: int, stop: int) -> int:
        """Bytes alive throughout a segment, however it is cut: values that are stored whole, and staged weights."""
        if start not in self._crossings:
            self._crossings[start] = self._crossing(start)
        return self._crossings[start][stop - start] + sum(self.staged[start:stop])

    def _crossing(self, start: int) -> list[int]:
        """Bytes of values that are stored whole and alive in a segment, by how many nodes it has from `start` on."""
        changes = [0] * (LONGEST + 2)
        for value, (first, last) in self._spans.items():
            if last >= start and first < start + LONGEST:
                size = value.spec.nbytes(self.block)
                changes[max(first - start, 0) + 1] += size
                if first >= start:
                    changes[min(last - start, LONGEST) + 1] -= size
        return list(accumulate(changes))

    def _peak(self, segment: Segment) -> int:
        """The most bytes alive in a segment, with the least workspaces."""
        return self._frame(segment).peak

    def _frame(self, segment: Segment) -> _Frame:
        if segment not in self._frames:
            chain, _ = self._chain(segment)
            total = self._fixed(segment.start, segment.stop)
            passing, kept = [0] * len(chain.nodes), [0] * len(chain.nodes)
            for place, (rows, passes) in enumerate(self._stored(segment)):
                (value,) = chain.nodes[place].outputs
                if value not in chain.inner:
                    continue
                size = value.spec.nbytes(self.block) // value.spec.shape[2] * rows
                if passes:
                    for reader in range(place, chain.last_read[value] + 1):
                        passing[reader] += size
                else:
                    total += size
                    kept[place] = rows
            work = (0 if isinstance(node.layer, CopyColumns) else self._least(chain, node) for node in chain.nodes)
            peak = total + max(map(int.__add__, passing, work))
            self._frames[segment] = _Frame(total, tuple(passing), tuple(kept), peak)
        return self._frames[segment]

    def _stored(self, segment: Segment) -> list[tuple[int, bool]]:
        """How many rows of each output of a chain are stored, and whether no strip keeps any for the next."""
        chain, count = self._chain(segment)
        # Bands of other widths have the same rows.
        key = (segment.start, segment.stop, segment.rows, *map(chain.owners.get, chain.nodes))
        if key not in self._rows:
            numbers = sorted({*range(min(FIRST_STRIPS, count)), *range(max(count - LAST_STRIPS, 0), count)})
            strips = chain.strips(segment.rows, numbers)
            made = [node.outputs[0] for node in chain.nodes]
            self._rows[key] = [
                (max(strip.ends[v] - strip.kept[v] for strip in strips), all(strip.passes(v) for strip in strips))
                for v in made
            ]
        return self._rows[key]

    def _least(self, chain: Chain, node: Node) -> int:
        """Bytes of the least workspace of a node of a chain."""
        return self.least_work[self._places[chain.owners.get(node, node)]]

    def _chain(self, segment: Segment) -> tuple[Chain, int]:
        """The nodes of a segment, or of the band in its middle, and how many strips it has."""
        span = (segment.start, segment.stop, segment.columns)
        chain = self._chains.get(span, lambda: self._make_chain(*span))
        return chain, -(-int(chain.nodes[-1].outputs[0].spec.shape[2]) // segment.rows)

    def _make_chain(self, start: int, stop: int, columns: int) -> Chain:
        nodes = self.graph.nodes[start:stop]
        made = (node.outputs[0] for node in nodes)
        inner = {value for value in made if not value.hosted and self._spans[value][1] < stop}
        if not columns:
            return Chain(nodes, inner, self._needed)
        every = bands(nodes[-1].outputs[0].spec.shape[3], columns)
        band = make_band(nodes, inner, every[len(every) // 2])
        return Chain(band.nodes, set(band.inner), self._needed, band.owners)

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
            row_bytes = value.spec.nbytes(self.block) // height
            if isinstance(node.layer, CopyColumns):
                price += runs * price_of(Cost(0, 2 * rows * row_bytes), self.facts)
            else:
                price += runs * fitting_offer(self._offers(chain, node, rows), limit - frame.total - passing).price
            if kept > rows:
                price += runs * price_of(Cost(0, 2 * (kept - rows) * row_bytes), self.facts)
        width = self.graph.nodes[segment.stop - 1].outputs[0].spec.shape[3]
        return price * (-(-width // segment.columns) if segment.columns else 1)

    def _offers(self, chain: Chain, node: Node, rows: int) -> list[Offer]:
        """Ways to compute so many rows of a node, somewhere in the middle."""
        (value,) = node.outputs
        key = (chain.owners.get(node, node), rows, value.spec.shape[3])
        if key not in self._strip_offers:
            height, grid = value.spec.shape[2], node.layer.strips
            begin = (height - rows) // 2 // grid * grid
            layer, needed = node.layer.strip((begin, begin + rows), chain.heights[node])
            specs = [
                with_rows(spec, needed[name][1] - needed[name][0]) if spec is not None and name in needed else spec
                for name, spec in zip(node.layer.inputs, node.input_specs(), strict=True)
            ]
            self._strip_offers[key] = offers(self.facts, layer, specs, [with_rows(value.spec, rows)])
        return self._strip_offers[key]


def _spans(graph: Graph) -> dict[Value, tuple[int, int]]:
    """Steps of the first write and the last read of each value, when all nodes run whole."""
    spans = {value: (-1, -1) for value in graph.inputs.values() if not value.hosted}
    for step, node in enumerate(graph.nodes):
        for value in node.outputs:
            if not value.hosted:
                spans[value] = (step, step)
        for value in node.reads:
            if not (value.persistent or value.hosted):
                spans[value] = (spans[value][0], step)
    for value in graph.outputs.values():
        if not value.hosted:
            spans[value] = (spans[value][0], len(graph.nodes))
    return spans
