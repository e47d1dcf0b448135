"""Tiles: a segment in bands of columns, each of which runs in strips like a narrow network of its own.

A band is computed from the columns of the segment's inputs that it needs, which are copied; what neighbours need, too,
is computed once for each. Every part of a node begins on the node's grid, so that no bit is different.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from .._core.layer import Layer
from .._core.layout import Crop, Paste
from ..graph import Node, Operand, Value
from ..shapes import TensorSpec
from .strips import can_strip, heights

Columns = tuple[int, int]  # (begin, end)


@dataclass(frozen=True)
class Band:
    """What computes a band of columns of a segment, in order.

    Attributes:
        nodes: copies of columns, and parts of the segment's nodes. owners: the segment's node that each serves.
        inner: what they make and only they read.
    """

    nodes: list[Node]
    owners: dict[Node, Node]
    inner: list[Value]


def can_tile(node: Node) -> bool:
    """Whether columns of its output can be computed apart, strip by strip."""
    return (
        bool(node.layer.bands)
        and can_strip(node)
        and node.outputs[0].spec.shape[3] > 1
        and all(value.persistent or value.spec.dtype == "float32" for value in node.reads)
    )


def with_columns(spec: TensorSpec, columns: int) -> TensorSpec:
    """The spec of an image with so many columns."""
    return TensorSpec((*spec.shape[:3], columns), spec.dtype, spec.layout, spec.groups)


def bands(width: int, columns: int) -> list[Columns]:
    """Bands of so many columns, the last of fewer."""
    return [(begin, min(begin + columns, width)) for begin in range(0, width, columns)]


def make_band(nodes: Sequence[Node], inner: Container[Value], columns: Columns) -> Band:
    """The band that computes these columns of the last node's output.

    Args:
        nodes: of a segment. inner: values that only they read; of others the band's share is computed, too.
    """
    return _Maker(nodes, inner, columns).band


class _Maker:
    def __init__(self, nodes: Sequence[Node], inner: Container[Value], columns: Columns) -> None:
        self.band = Band([], {}, [])
        self._spans: dict[Value, Columns] = {}
        self._wanted: dict[Value, dict[Columns, None]] = {}  # what is read of each value, in the readers' order
        self._images: dict[tuple[Value, Columns], Value] = {}
        parts = self._needed(nodes, inner, columns)
        for node in nodes:
            self._add(node, *parts[node], value_inner=node.outputs[0] in inner)

    def _needed(
        self, nodes: Sequence[Node], inner: Container[Value], columns: Columns
    ) -> dict[Node, tuple[Layer, dict[str, Columns]]]:
        """For each node what computes its columns, and the columns of each input that this needs, by name."""
        width = nodes[-1].outputs[0].spec.shape[3]
        spans, found = self._spans, {}
        for node in nodes:
            (value,) = node.outputs
            if value not in inner:
                own = value.spec.shape[3]
                spans[value] = columns[0] * own // width, -(-columns[1] * own // width)
        for node in reversed(nodes):
            (value,) = node.outputs
            grid, (begin, end) = node.layer.bands, spans[value]
            spans[value] = begin // grid * grid, min(-(-end // grid) * grid, value.spec.shape[3])
            found[node] = node.layer.strip(spans[value], heights(node, 1), 1)
            for name, operand in zip(node.layer.inputs, node.inputs, strict=True):
                if name in found[node][1]:
                    for each in _pieces(operand):
                        self._want(each, found[node][1][name])
        return found

    def _want(self, value: Value, span: Columns) -> None:
        known = self._spans.get(value, span)
        self._spans[value] = min(known[0], span[0]), max(known[1], span[1])
        self._wanted[value] = {span: None, **self._wanted.get(value, {})}

    def _add(self, node: Node, layer: Layer, needed: dict[str, Columns], *, value_inner: bool) -> None:
        """Adds a node's part, and the copies around it."""
        (value,) = node.outputs
        span = self._spans[value]

        def part(name: str, operand: Operand) -> Operand:
            if name not in needed:
                return operand
            images = tuple(self._image(node, each, needed[name]) for each in _pieces(operand))
            return images if isinstance(operand, tuple) else images[0] if images else None

        operands = zip(node.layer.inputs, node.inputs, strict=True)
        inputs = tuple(part(name, operand) for name, operand in operands)
        if value.hosted:  # its columns are copied to their place
            self._append(node, layer, inputs, value, None)
            return
        twin = self._append(node, layer, inputs, value, span)
        self._images[value, span] = twin
        for wanted in self._wanted.get(value, {}):
            self._image(node, value, wanted)
        if not value_inner:
            self._append(node, Paste(span[0]), (twin,), value, None)

    def _image(self, node: Node, value: Value, wanted: Columns) -> Value:
        """What shows these columns of a value alone; of the host's, whose copies take columns, itself."""
        if value.hosted:
            return value
        if (value, wanted) not in self._images:
            twin = self._images.get((value, self._spans[value]))
            source, begin = (value, 0) if twin is None else (twin, self._spans[value][0])
            if wanted == (0, value.spec.shape[3]):
                self._images[value, wanted] = value
            else:
                self._images[value, wanted] = self._append(node, Crop(wanted[0] - begin), (source,), value, wanted)
        return self._images[value, wanted]

    def _append(
        self, owner: Node, layer: Layer, inputs: tuple[Operand, ...], value: Value, span: Columns | None
    ) -> Value:
        """A node that makes columns of a value apart or, without a span, in place; what it writes."""
        node = Node(layer, inputs, (value,), owner.name)
        if span is not None:
            node.outputs = (Value(value.name, with_columns(value.spec, span[1] - span[0]), producer=node),)
            self.band.inner.append(node.outputs[0])
        self.band.nodes.append(node)
        self.band.owners[node] = owner
        return node.outputs[0]


def _pieces(operand: Operand) -> tuple[Value, ...]:
    if isinstance(operand, tuple):
        return operand
    return () if operand is None else (operand,)
