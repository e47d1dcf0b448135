"""IDX files, the format of MNIST and Fashion-MNIST, gzipped or not.

Format: two zero bytes, a type code, the number of axes, each axis as a big-endian 32-bit integer, then the
values, big-endian, the last axis fastest (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .dataset import ArrayDataset

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PIECE_BYTES = 1 << 20


class IdxDataset(ArrayDataset):
    """A file of images (N, H, W), uint8, and a file of their labels (N,).

    Raises:
        DataError: a file that is missing, damaged, or not of this kind; the message names it.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        labels: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
    ) -> None:
        x, y = read_idx(images), read_idx(labels)
        if x.ndim != 3 or x.dtype != np.uint8:
            raise DataError(f"{images}: holds {x.dtype} {x.shape}; a file of images has uint8 (N, H, W)")
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise DataError(f"{labels}: holds {y.dtype} {y.shape}; a file of labels has integers (N,)")
        if len(x) != len(y):
            raise DataError(f"{images} holds {len(x)} images but {labels} holds {len(y)} labels")
        super().__init__(x, y, classes=classes, name=str(labels))


def read_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array in an IDX file, in the byte order of this machine.

    Gzip is recognised by its first bytes, not by the name.

    Raises:
        DataError: missing, damaged, cut off, too long, or not an IDX file; the message names the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            return _read(cast(BinaryIO, file), path)
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(f"{path}: cannot be read: {reason}") from error


def mnist(folder: str | os.PathLike[str], train: bool = True) -> IdxDataset:
    """The training or test part of a folder with the four files of MNIST, or of Fashion-MNIST.

    The file names are those of the originals (train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ...), with or
    without .gz; a dot instead of the dash before "idx" is accepted too. Classes are named "0" to "9".

    Raises:
        DataError: a file is missing or damaged.
    """
    part = "train" if train else "t10k"
    images, labels = find_idx(folder, part, "images-idx3"), find_idx(folder, part, "labels-idx1")
    if images is None or labels is None:
        lacking = "images-idx3" if images is None else "labels-idx1"
        raise DataError(f"{folder}: no file {part}-{lacking}-ubyte or {part}-{lacking}-ubyte.gz")
    return IdxDataset(images, labels, [str(digit) for digit in range(10)])


def find_idx(folder: str | os.PathLike[str], part: str, kind: str) -> Path | None:
    """The file of MNIST's name for this part ("train", "t10k") and kind ("images-idx3", "labels-idx1")."""
    for name in (f"{part}-{kind}-ubyte", f"{part}-{kind.replace('-', '.')}-ubyte"):
        for suffix in ("", ".gz"):
            path = Path(folder) / (name + suffix)
            if path.is_file():
                return path
    return None


def _read(file: BinaryIO, path: Path) -> NDArray[Any]:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or head[3] == 0:
        raise DataError(f"{path}: not an IDX file: it begins with {head.hex(' ') or 'nothing'}; 00 00 08 03 is usual")
    dtype = np.dtype(_TYPES[head[2]])
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path}: cut off in its header, which announces {head[3]} axes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    expected = math.prod(shape) * dtype.itemsize
    # Piece by piece: a damaged header may announce more than memory holds.
    body = bytearray()
    while len(body) <= expected and (piece := file.read(min(_PIECE_BYTES, expected + 1 - len(body)))):
        body += piece
    if len(body) != expected:
        found = f"only {len(body)}" if len(body) < expected else "more"
        raise DataError(f"{path}: {shape} {dtype.name} values are {expected} bytes, the file holds {found}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
