"""Arrays that lie in a file: pages come from the disk when they are read, and go when memory is short."""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from ..packing import Array


def map_file(path: Path) -> mmap.mmap:
    """A file's bytes, read-only.

    Raises:
        OSError: it cannot be read. ValueError: it is empty.
    """
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def array_in(data: mmap.mmap, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> Array:
    """A read-only array over bytes of a mapped file, little-endian there, from any offset; it keeps the map alive."""
    count = math.prod(shape)
    if count == 0:
        return np.zeros(shape, dtype)
    return np.frombuffer(data, dtype.newbyteorder("<"), count, offset).reshape(shape)
