"""CIFAR-10 in its binary version (https://www.cs.toronto.edu/~kriz/cifar.html)."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .dataset import ArrayDataset

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
_RECORD_BYTES = 1 + 3 * 32 * 32


class Cifar10Dataset(ArrayDataset):
    """The training part (data_batch_1.bin, ...) or the test part (test_batch.bin) of a folder.

    A record is a label byte, then 32x32 red, green and blue values. The names of the classes come from
    batches.meta.txt where it is there. Fewer than five training files are accepted, gaps in their numbers
    are not.

    Raises:
        DataError: a file that is missing, damaged or cut off; the message names it.
    """

    def __init__(self, folder: str | os.PathLike[str], train: bool = True) -> None:
        paths = training_files(Path(folder)) if train else [Path(folder) / "test_batch.bin"]
        if not paths:
            raise DataError(f"{folder}: no data_batch_1.bin")
        classes = _class_names(Path(folder))
        parts = [_read(path, len(classes)) for path in paths]
        x = np.concatenate([images for images, _ in parts])
        y = np.concatenate([labels for _, labels in parts])
        super().__init__(x, y, classes=classes, layout="NHWC", name=str(folder))


def training_files(folder: Path) -> list[Path]:
    """data_batch_1.bin and its successors.

    Raises:
        DataError: a number is missing before the last one.
    """
    numbers = sorted(
        int(match[1])
        for path in folder.glob("data_batch_*.bin")
        if (match := re.fullmatch(r"data_batch_([1-9]\d*)\.bin", path.name))
    )
    for wanted, number in enumerate(numbers, start=1):
        if wanted != number:
            raise DataError(f"{folder}: data_batch_{wanted}.bin is missing, data_batch_{numbers[-1]}.bin is there")
    return [folder / f"data_batch_{number}.bin" for number in numbers]


def _class_names(folder: Path) -> list[str]:
    path = folder / "batches.meta.txt"
    if not path.is_file():
        return CLASSES
    names = path.read_text(encoding="utf-8", errors="replace").split()
    if len(names) != len(CLASSES):
        raise DataError(f"{path}: {len(names)} class names; CIFAR-10 has {len(CLASSES)}")
    return names


def _read(path: Path, class_count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 32, 32, 3) and labels (N,) of one file."""
    try:
        values = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if len(values) == 0 or len(values) % _RECORD_BYTES:
        raise DataError(
            f"{path}: {len(values)} bytes; a CIFAR-10 file has a positive multiple of {_RECORD_BYTES} "
            f"(this one was cut off in image {len(values) // _RECORD_BYTES}, or is another format)"
        )
    records = values.reshape(-1, _RECORD_BYTES)
    labels = records[:, 0].copy()
    bad = np.flatnonzero(labels >= class_count)
    if len(bad):
        raise DataError(
            f"{path}: label {labels[bad[0]]} of image {bad[0]} is out of range; 0 to {class_count - 1} is allowed"
        )
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
