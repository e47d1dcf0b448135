"""Large weights in an ONNX file without reading them: where they lie in the file, and the rest as a small message.

A protobuf message is a row of fields: a key (field number and kind) as a varint, then a varint, 4 or 8 bytes, or a
length and as many bytes, which may be a message again. So a walk over the keys of three levels finds the contents of
the initializers: ModelProto.graph.initializer.raw_data.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

GRAPH, INITIALIZER = 7, 5  # of ModelProto, of GraphProto
DATA_TYPE, RAW_DATA = 2, 9  # of TensorProto
FLOAT = 1  # TensorProto.DataType
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
LARGE_BYTES = 1 << 16  # contents from here on are left where they are
MAX_FIELDS = 1 << 18  # that are walked, in a fraction of a second; no model has as many


class Span(NamedTuple):
    """Bytes first .. last - 1 of a file."""

    first: int
    last: int


class _Field(NamedTuple):
    number: int
    kind: int
    start: int  # of the key
    first: int  # of the contents
    last: int


def without_large(data: mmap.mmap) -> tuple[bytes, dict[int, Span]]:
    """A serialised ModelProto without the contents of its large float32 initializers, and where those lie.

    Returns:
        The message, and {position among the initializers: span in `data`}.

    Raises:
        ValueError: `data` are no message, or cut off.
    """
    walk = _Walk(data)
    parts = []
    for field in walk.fields(0, len(data)):
        if field.number == GRAPH and field.kind == BYTES:
            parts.append(walk.message(GRAPH, walk.graph(field)))
        else:
            parts.append(data[field.start : field.last])
    return b"".join(parts), walk.spans


class _Walk:
    """One walk over a message. spans: found so far. initializers: counted so far. seen: fields so far."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.spans: dict[int, Span] = {}
        self.initializers = 0
        self.seen = 0

    def graph(self, graph: _Field) -> list[bytes]:
        """The fields of a GraphProto."""
        parts, copied = [], graph.first
        for field in self.fields(graph.first, graph.last):
            if field.number != INITIALIZER or field.kind != BYTES:
                continue
            if field.last - field.first >= LARGE_BYTES:
                parts += [self.data[copied : field.start], self.message(INITIALIZER, self.tensor(field))]
                copied = field.last
            self.initializers += 1
        parts.append(self.data[copied : graph.last])
        return parts

    def tensor(self, tensor: _Field) -> list[bytes]:
        """The fields of a TensorProto, but for the contents where they are large floats."""
        fields = list(self.fields(tensor.first, tensor.last))
        types = [field for field in fields if field.number == DATA_TYPE and field.kind == VARINT]
        raw = [field for field in fields if field.number == RAW_DATA and field.kind == BYTES]
        is_float = bool(types) and self._varint(types[-1].first, types[-1].last)[0] == FLOAT
        if not is_float or len(raw) != 1 or raw[0].last - raw[0].first < LARGE_BYTES:
            return [self.data[tensor.first : tensor.last]]
        self.spans[self.initializers] = Span(raw[0].first, raw[0].last)
        return [self.data[tensor.first : raw[0].start], self.data[raw[0].last : tensor.last]]

    @staticmethod
    def message(number: int, parts: list[bytes]) -> bytes:
        """A field that is a message."""
        left, length = sum(map(len, parts)), b""
        while left >= 0x80:
            length += bytes([left & 0x7F | 0x80])
            left >>= 7
        return b"".join([bytes([number << 3 | BYTES]), length, bytes([left]), *parts])

    def fields(self, at: int, end: int) -> Iterator[_Field]:
        """The fields between two places of the file."""
        while at < end:
            self.seen += 1
            if self.seen > MAX_FIELDS:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            start = at
            key, at = self._varint(at, end)
            first = at
            if key & 7 == VARINT:
                _, at = self._varint(at, end)
            elif key & 7 == BYTES:
                length, first = self._varint(at, end)
                at = first + length
            elif key & 7 in (FIXED32, FIXED64):
                at += 4 if key & 7 == FIXED32 else 8
            if key < 8 or key & 7 not in (VARINT, FIXED64, BYTES, FIXED32):
                raise ValueError(f"no field begins at byte {start}")
            if at > end:
                raise ValueError(f"the field at byte {start} ends {at - end} bytes behind what holds it")
            yield _Field(key >> 3, key & 7, start, first, at)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """(number, place behind it): 7 bits a byte, the lowest first, the eighth bit set on all but the last."""
        number = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.data[at]
            number |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                return number, at
        raise ValueError(f"a number is cut off at byte {at}")
