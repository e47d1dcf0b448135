"""Rows of strips: which rows each layer of a segment computes in turn, and which it must keep for the next strip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from .._core.layout import CopyColumns
from ..graph import Graph, Node, Value

Rows = tuple[int, int]  # (begin, end)
Needed = dict[tuple[Node, str, int, int], Rows]  # of an input of a node, by its name, for rows of the output
FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class Segment:
    """Nodes start..stop - 1, run in strips of `rows` rows of the last one's output, of `columns` columns (0: all)."""

    start: int
    stop: int
    rows: int
    columns: int = 0


@dataclass(frozen=True)
class Strip:
    """The state of each value of a segment in one strip.

    Attributes:
        before, ends: rows that are computed when the strip begins, and when it is done.
        kept: the first row that is still needed when it begins.
    """

    before: dict[Value, int]
    ends: dict[Value, int]
    kept: dict[Value, int]

    def passes(self, value: Value) -> bool:
        """Whether no rows from before are needed."""
        return self.kept[value] == self.before[value]


def can_strip(node: Node) -> bool:
    """Whether its output can be computed strip by strip."""
    return (
        bool(node.layer.strips)
        and len(node.outputs) == 1
        and all(len(value.spec.shape) == 4 and value.spec.dtype in FLOATS for value in node.reads)
        and len(node.outputs[0].spec.shape) == 4
        and node.outputs[0].spec.shape[2] > 1
    )


def heights(node: Node, axis: int = 0) -> dict[str, int]:
    """Rows, or with axis 1 columns, of each input that is no weight, by name."""
    found = {}
    for name, operand in zip(node.layer.inputs, node.inputs, strict=True):
        first = operand[0] if isinstance(operand, tuple) else operand
        if first is not None and not first.persistent:
            found[name] = first.spec.shape[2 + axis]
    return found


def inner_values(graph: Graph, segment: Segment) -> list[Value]:
    """What only the segment itself reads: never stored whole."""
    nodes = graph.nodes[segment.start : segment.stop]
    outside = {value for node in (*graph.nodes[: segment.start], *graph.nodes[segment.stop :]) for value in node.reads}
    outside.update(graph.outputs.values())
    made = [node.outputs[0] for node in nodes]
    return [value for value in made if value not in outside and not value.hosted]


class Chain:
    """The nodes of a segment, or of a band of it, with who reads whom, for questions about rows.

    Args:
        inner: of what they make, values that only they read. known: answers that chains of the same nodes share.
        owners: of nodes of a band, those that they are parts of.
    """

    def __init__(
        self,
        nodes: list[Node],
        inner: Set[Value] = frozenset(),
        known: Needed | None = None,
        owners: Mapping[Node, Node] | None = None,
    ) -> None:
        self.nodes, self.inner = nodes, inner
        self.owners = owners or {}
        self._ends: dict[int, dict[Value, int]] = {}
        self._needed = {} if known is None else known
        self.heights = {node: heights(node) for node in nodes}
        self.readers: dict[Value, list[tuple[Node, str]]] = {node.outputs[0]: [] for node in nodes}
        self.last_read = {
            node.outputs[0]: place for place, node in enumerate(nodes)
        }  # the place of a value's last reader
        for place, node in enumerate(nodes):
            for name, operand in zip(node.layer.inputs, node.inputs, strict=True):
                for value in operand if isinstance(operand, tuple) else (operand,):
                    if value in self.readers:
                        self.readers[value].append((node, name))
                        self.last_read[value] = place
        self._order = [
            (node.outputs[0], node.outputs[0].spec.shape[2], node.layer.strips, self.readers[node.outputs[0]])
            for node in reversed(nodes)
        ]
        eager = ((node.outputs[0], node.reads[0]) for node in nodes if node.layer.eager)
        self._at_once = [(copy, value) for copy, value in eager if value in self.readers]

    def needed(self, node: Node, name: str, rows: Rows) -> Rows:
        """Rows of an input that output rows read."""
        if isinstance(node.layer, CopyColumns):
            return rows
        key = (self.owners.get(node, node), name, *rows)
        found = self._needed.get(key)
        if found is None:
            found = self._needed[key] = node.layer.strip(rows, self.heights[node])[1][name]
        return found

    def ends(self, last_end: int) -> dict[Value, int]:
        """Rows of each value that are computed when so many of the last one are."""
        if last_end in self._ends:
            return self._ends[last_end]
        ends = self._ends[last_end] = {}
        height = self._order[0][1]
        if last_end == height:
            ends.update((value, full) for value, full, _, _ in self._order)
            return ends
        for value, full, grid, readers in self._order:
            # What nobody here reads keeps pace, as the last one does.
            end = 0 if readers else -(-full * last_end // height)
            for node, name in readers:
                end = max(end, self.needed(node, name, (0, ends[node.outputs[0]]))[1])
            ends[value] = min(-(-end // grid) * grid, full)
        ends.update((copy, ends[value]) for copy, value in self._at_once)
        return ends

    def kept(self, before: dict[Value, int]) -> dict[Value, int]:
        """The first row of each value that is needed by what comes after `before`."""
        kept: dict[Value, int] = {}
        for node in self.nodes:
            (value,) = node.outputs
            first = before[value]
            for reader, name in self.readers[value]:
                done = before[reader.outputs[0]]
                if done < reader.outputs[0].spec.shape[2]:
                    first = min(first, self.needed(reader, name, (done, done + 1))[0])
            kept[value] = first
        return kept

    def strips(self, rows: int, indices: Iterable[int]) -> list[Strip]:
        """The strips with these numbers."""
        height = self.nodes[-1].outputs[0].spec.shape[2]
        found = []
        for i in indices:
            before = self.ends(i * rows) if i else dict.fromkeys(self.readers, 0)
            found.append(Strip(before, self.ends(min((i + 1) * rows, height)), self.kept(before)))
        return found


def strip_rows(chain: Chain, rows: int) -> list[Strip]:
    """All strips of the nodes of a segment, or of a band of it, in order."""
    height = chain.nodes[-1].outputs[0].spec.shape[2]
    return chain.strips(rows, range(-(-height // rows)))
