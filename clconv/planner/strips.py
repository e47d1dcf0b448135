"""Rows of strips: which rows each layer of a segment computes in turn, and which it must keep for the next strip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .._core.layout import CopyColumns, Crop
from ..graph import Graph, Node, Value

Rows = tuple[int, int]  # (begin, end)
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
        known: answers that chains of the same nodes share. owners: of nodes of a band, those that they are parts of.
    """

    def __init__(
        self,
        nodes: list[Node],
        known: dict[tuple[Node, str, int, int], Rows] | None = None,
        owners: Mapping[Node, Node] | None = None,
    ) -> None:
        self.nodes = nodes
        self.owners = owners or {}
        self._ends: dict[int, dict[Value, int]] = {}
        self._needed = {} if known is None else known
        self.heights = {node: heights(node) for node in nodes}
        self.readers: dict[Value, list[tuple[Node, str]]] = {node.outputs[0]: [] for node in nodes}
        for node in nodes:
            for name, operand in zip(node.layer.inputs, node.inputs, strict=True):
                for value in operand if isinstance(operand, tuple) else (operand,):
                    if value in self.readers:
                        self.readers[value].append((node, name))

    def needed(self, node: Node, name: str, rows: Rows) -> Rows:
        """Rows of an input that output rows read."""
        if isinstance(node.layer, CopyColumns):
            return rows
        key = (self.owners.get(node, node), name, *rows)
        if key not in self._needed:
            self._needed[key] = node.layer.strip(rows, self.heights[node])[1][name]
        return self._needed[key]

    def ends(self, last_end: int) -> dict[Value, int]:
        """Rows of each value that are computed when so many of the last one are."""
        if last_end in self._ends:
            return self._ends[last_end]
        ends = self._ends[last_end] = {}
        height = self.nodes[-1].outputs[0].spec.shape[2]
        for node in reversed(self.nodes):
            (value,) = node.outputs
            full = value.spec.shape[2]
            if node is self.nodes[-1]:
                end = last_end
            else:
                wanted = [self.needed(n, name, (0, ends[n.outputs[0]]))[1] for n, name in self.readers[value]]
                # What nobody here reads keeps pace.
                end = max(wanted, default=-(-full * last_end // height))
            if last_end == height:
                end = full
            ends[value] = min(-(-end // node.layer.strips) * node.layer.strips, full)
            for reader, _ in self.readers[value]:
                if reader.layer.eager:
                    ends[reader.outputs[0]] = ends[value]
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


def strip_rows(nodes: list[Node], rows: int) -> list[Strip]:
    """All strips of the nodes of a segment, or of a band of it, in order."""
    height = nodes[-1].outputs[0].spec.shape[2]
    return Chain(nodes).strips(rows, range(-(-height // rows)))
