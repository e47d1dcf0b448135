"""What segments take and cost: rows that are stored, weights that are brought, workspaces; by what the search asks."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from itertools import accumulate

from .._core.layer import Cost
from .._core.layout import CopyColumns
from ..device import DeviceFacts
from ..graph import Graph, Node, Value
from ..recent import Recent
from .prices import Offer, fitting_offer, offers, price_of, upload_price
from .staging import NOTHING, Demand, InSlices, demand, in_slices
from .steps import with_rows
from .strips import Chain, Needed, Segment
from .tiles import bands, make_band

LONGEST = 40  # nodes of a segment
MOST_CHAINS = 8  # that are kept: each takes tens of kilobytes of the host, and is asked about for a while only
# Of all strips these are looked at; what is between them repeats.
FIRST_STRIPS, LAST_STRIPS = 4, 3


@dataclass(frozen=True)
class Frame:
    """What a segment has alive besides workspaces, and weights that may come in slices.

    Attributes:
        total, passing: bytes throughout, and at each node of the chain. kept: rows of each node's output that are
            stored at a time, where some are kept from strip to strip.
        work: bytes of the least workspace of each node.
        heavy: of weights that may come in slices, the largest first: the node's place, bytes of all and of a slice.
        peak: the most bytes alive with the least workspaces and slices.
    """

    total: int
    passing: tuple[int, ...]
    kept: tuple[int, ...]
    work: tuple[int, ...]
    heavy: tuple[tuple[int, int, int], ...]
    peak: int


class Frames:
    """What segments of one graph take and cost, each computed once.

    Args:
        streamed: weights that are brought to the device when they are needed.
    """

    def __init__(self, graph: Graph, facts: DeviceFacts, streamed: Container[Value]) -> None:
        self.graph, self.facts, self.block = graph, facts, facts.block
        self.offers = [
            offers(facts, node.layer, node.input_specs(), [value.spec for value in node.outputs])
            for node in graph.nodes
        ]
        self.least_work = [found[-1].workspace_bytes for found in self.offers]
        self.demands = [demand(node, streamed, self.block) for node in graph.nodes]
        # The least workspace and slice of each node.
        self.loads = [a + b.slice_bytes for a, b in zip(self.least_work, self.demands, strict=True)]
        self.streams = any(each is not NOTHING for each in self.demands)
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        self._spans = _spans(graph)
        self._crossings: dict[int, list[int]] = {}
        self._brought = [0, *accumulate(each.fixed_bytes for each in self.demands)]
        self._frames: dict[Segment, Frame] = {}
        self._chains: Recent[tuple[int, int, int], Chain] = Recent(MOST_CHAINS)
        self._needed: Needed = {}
        self._rows: dict[object, list[tuple[int, bool]]] = {}
        self._strip_offers: dict[tuple[Node, int, int], list[Offer]] = {}

    def across(self, segment: Segment) -> int:
        """How many bands a segment has."""
        width = self.graph.nodes[segment.stop - 1].outputs[0].spec.shape[3]
        return -(-width // segment.columns) if segment.columns else 1

    def fixed(self, start: int, stop: int) -> int:
        """Bytes alive throughout a segment, however it is cut: values that are stored whole, and weights that are."""
        if start not in self._crossings:
            self._crossings[start] = self._crossing(start)
        return self._crossings[start][stop - start] + self._brought[stop] - self._brought[start]

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

    def peak(self, segment: Segment) -> int:
        """The most bytes alive in a segment, with the least workspaces."""
        return self.frame(segment).peak

    def frame(self, segment: Segment) -> Frame:
        if segment not in self._frames:
            chain, _ = self.chain(segment)
            total = self.fixed(segment.start, segment.stop)
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
            work, heavy = self._loads(chain)
            most = [*map(int.__add__, passing, work)]
            for place, _, part in heavy:
                most[place] += part
            self._frames[segment] = Frame(total, tuple(passing), tuple(kept), work, heavy, total + max(most))
        return self._frames[segment]

    def _stored(self, segment: Segment) -> list[tuple[int, bool]]:
        """How many rows of each output of a chain are stored, and whether no strip keeps any for the next."""
        chain, count = self.chain(segment)
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

    def _loads(self, chain: Chain) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
        """`work` and `heavy` of a frame."""
        copies = [isinstance(node.layer, CopyColumns) for node in chain.nodes]
        places = [self._places[chain.owners.get(node, node)] for node in chain.nodes]
        work = tuple(0 if copy else self.least_work[i] for copy, i in zip(copies, places, strict=True))
        if not self.streams:
            return work, ()
        wanted = [NOTHING if copy else self.demands[i] for copy, i in zip(copies, places, strict=True)]
        heavy = [(i, each.whole, each.slice_bytes) for i, each in enumerate(wanted) if each.slicing]
        return work, tuple(sorted(heavy, key=lambda each: -each[1]))

    def demand(self, chain: Chain, node: Node) -> Demand:
        """What the weights of a node of a chain take that are streamed."""
        if isinstance(node.layer, CopyColumns):
            return NOTHING
        return self.demands[self._places[chain.owners.get(node, node)]]

    def sliced(self, segment: Segment, limit: int) -> tuple[set[int], int]:
        """Places of nodes whose weights come in slices, again for each strip, and what is alive throughout.

        All others' weights are there from the first strip to the last. The largest come in slices first.
        """
        frame = self.frame(segment)
        total = frame.total + sum(whole for _, whole, _ in frame.heavy)
        sliced: set[int] = set()
        least = [*map(int.__add__, frame.passing, frame.work)] if frame.heavy else []
        for place, whole, part in frame.heavy:
            if whole <= self.facts.max_alloc_bytes and total + max(least) <= limit:
                break
            total -= whole
            least[place] += part
            sliced.add(place)
        return sliced, total

    def slices(self, segment: Segment, limit: int) -> int:
        """How many slices of weights are brought in all, if they are the smallest."""
        chain, count = self.chain(segment)
        sliced = (self.demand(chain, chain.nodes[place]).slicing for place in self.sliced(segment, limit)[0])
        return self.across(segment) * count * sum(each.count for each in sliced if each is not None)

    def strip_slices(self, chain: Chain, node: Node, count: int, room: int) -> InSlices:
        """How a strip of a node runs, one of `count`, whose weights come in slices, with so much room."""
        rows = self._share(node, count)
        inputs = (value.spec for value in node.reads if not value.persistent)
        x_bytes = sum(spec.nbytes(self.block) for spec in inputs) // count
        return in_slices(self._offers(chain, node, rows), self.demand(chain, node), x_bytes, room, self.facts)

    @staticmethod
    def _share(node: Node, count: int) -> int:
        """Rows of a node's output in each of `count` strips, about."""
        height, grid = node.outputs[0].spec.shape[2], node.layer.strips
        return min(height, grid * max(1, round(height / count / grid)))

    def chain(self, segment: Segment) -> tuple[Chain, int]:
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

    def price(self, segment: Segment, limit: int) -> float:
        """The modelled price of a segment: each node computes as many rows at a time as its share of a strip has."""
        chain, count = self.chain(segment)
        frame = self.frame(segment)
        sliced, total = self.sliced(segment, limit)
        price = once = 0.0
        for place, node in enumerate(chain.nodes):
            value, kept, room = node.outputs[0], frame.kept[place], limit - total - frame.passing[place]
            height, rows = value.spec.shape[2], self._share(node, count)
            runs = height / rows
            row_bytes = value.spec.nbytes(self.block) // height
            wanted = self.demand(chain, node)
            if isinstance(node.layer, CopyColumns):
                price += runs * price_of(Cost(0, 2 * rows * row_bytes), self.facts)
            elif place in sliced:
                price += runs * self.strip_slices(chain, node, count, room).price
                once += upload_price(wanted.fixed_bytes, len(wanted.fixed), self.facts)
            else:
                price += runs * fitting_offer(self._offers(chain, node, rows), room).price
                once += wanted.price(self.facts)
            if kept > rows:
                price += runs * price_of(Cost(0, 2 * (kept - rows) * row_bytes), self.facts)
        return once + price * self.across(segment)

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
