"""What a device stores of persistent values, made of the user's arrays in parts: no weights exist twice on the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from .errors import ArgumentError
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


MOST_HALF = 65504  # the largest finite float16


def _check_range(array: Array, value: Value) -> None:
    """Raises ArgumentError for what float16 does not hold; infinities and NaN it does."""
    if value.spec.dtype == "float16":
        most = max(float(array.max()), -float(array.min()))
        if MOST_HALF < most < np.inf:
            raise ArgumentError(
                f'storage: {value.name} holds {most:g}, beyond the {MOST_HALF} of float16; leave out storage="float16"'
            )


def stored_parts(value: Value, arrays: Mapping[str, Array], block: int) -> Iterator[Array]:
    """What is stored of a value, in parts one behind the other; nothing where no array is there for it.

    Raises:
        ArgumentError: it is stored as float16 and holds more than that does.
    """
    spec, unit = value.spec, slice_blocks(value.spec, block) * block
    by_rows = value.parameter is not None and value.parameter.derived_by_rows and spec.groups == 1
    if not (by_rows and unit and spec.nbytes(block) > CHUNK_BYTES):
        array = public_array(value, arrays)
        if array is not None:
            _check_range(array, value)
            yield from pack_parts(to_storage(array, value), spec, block)
        return
    k = spec.shape[0]
    step = max(1, CHUNK_BYTES * blocks(k, unit) // spec.nbytes(block)) * unit
    for begin in range(0, k, step):
        part = public_array(value, Rows(arrays, begin, begin + step))
        assert part is not None
        _check_range(part, value)
        yield from pack_parts(part, TensorSpec((len(part), *spec.shape[1:]), spec.dtype, spec.layout), block)
