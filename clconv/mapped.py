"""Packed weights in files: kernels read them where the file is mapped, and the next process finds them packed.

A file is named by its content: shapes, layout and the weights themselves. It is written once, atomically; the folder
is kept under a limit, the files used least recently go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import settings
from .errors import DataError
from .files import replacing
from .graph import Value
from .packing import Array
from .plan import Residence
from .storing import stored_parts

FOLDER_BYTES = 8 << 30  # of all files together, but for the one in use
FORMAT = 1  # of the files; part of their names


def packed_weights(
    values: Mapping[str, Value], arrays: Mapping[str, Array], residence: Residence, tag: str, block: int
) -> list[Array]:
    """The bytes of each slab of a tag, mapped from files that are made where they are missing.

    Args:
        values, arrays: persistent values, and the public arrays by name. residence: where each of them lives.

    Raises:
        DataError: a file cannot be written; says how many bytes it takes.
    """
    folder = settings.cache_folder() / "weights"
    slabs = []
    for number, size in enumerate(residence.slab_bytes[tag]):
        held = {name: place[2] for name, place in residence.places.items() if place[:2] == (tag, number)}
        path = folder / f"{_key(held, values, arrays, block)}.bin"
        if not (path.is_file() and path.stat().st_size == size):
            _write(path, size, held, values, arrays, block)
        with contextlib.suppress(OSError):
            os.utime(path)
        slabs.append(_mapped(path, size))
    return slabs


def _key(held: Mapping[str, int], values: Mapping[str, Value], arrays: Mapping[str, Array], block: int) -> str:
    """A name for the content: what it is made of."""
    digest = hashlib.sha256(f"{FORMAT} {block}".encode())
    for name, offset in held.items():
        value = values[name]
        digest.update(f"{name} {offset} {value.spec!r} {value.parameter and value.parameter.swap}".encode())
    # Derived values depend on any of the arrays.
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).view(np.uint8).data)
    return digest.hexdigest()[:32]


def _write(
    path: Path,
    size: int,
    held: Mapping[str, int],
    values: Mapping[str, Value],
    arrays: Mapping[str, Array],
    block: int,
) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _trim(path.parent, FOLDER_BYTES - size)
        with replacing(path) as temporary, open(temporary, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size) if hasattr(os, "posix_fallocate") else file.truncate(size)
            for name, offset in held.items():
                file.seek(offset)
                for part in stored_parts(values[name], arrays, block):
                    file.write(part.data)
    except OSError as error:
        raise DataError(
            f"{path}: packed weights of {size} bytes cannot be kept there: {error.strerror or error}; "
            "CLCONV_CACHE names another folder, CLCONV_MAP_WEIGHTS=0 does without"
        ) from error


def _trim(folder: Path, limit: int) -> None:
    """Removes the files used least recently until all together take at most `limit` bytes."""
    found = []
    for path in folder.glob("*.bin"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def _mapped(path: Path, size: int) -> Array:
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    return np.frombuffer(content, np.uint8)
