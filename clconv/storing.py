"""What a device stores of persistent values, made of the user's arrays in parts: no weights exist twice on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .graph import Value, public_array, to_storage
from .packing import CHUNK_BYTES, Array, pack_parts, slice_blocks
from .shapes import TensorSpec, blocks


class Rows(Mapping[str, Array]):
    """Arrays cut along their first axis, each when it is asked for."""

    def __init__(self, arrays: Mapping[str, Array], begin: int, end: int) -> None:
        self._arrays = arrays
        self._range = slice(begin, end)

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name][self._range]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def stored_parts(value: Value, arrays: Mapping[str, Array], block: int) -> Iterator[Array]:
    """What is stored of a value, in parts one behind the other; nothing where no array is there for it."""
    spec, unit = value.spec, slice_blocks(value.spec) * block
    by_rows = value.parameter is not None and value.parameter.derived_by_rows
    if not (by_rows and unit and spec.nbytes(block) > CHUNK_BYTES):
        array = public_array(value, arrays)
        if array is not None:
            yield from pack_parts(to_storage(array, value), spec, block)
        return
    k = spec.shape[0]
    step = max(1, CHUNK_BYTES * blocks(k, unit) // spec.nbytes(block)) * unit
    for begin in range(0, k, step):
        part = public_array(value, Rows(arrays, begin, begin + step))
        assert part is not None
        yield from pack_parts(part, TensorSpec((len(part), *spec.shape[1:]), spec.dtype, spec.layout), block)
