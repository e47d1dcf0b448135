"""Weights of an ONNX model that lie in files beside it: mapped, and only from the model's own folder."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..errors import ModelFileError
from ..packing import Array
from .mapped import array_in, map_file


class Folder:
    """The folder of a model, and the files in it that were mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._maps: dict[Path, mmap.mmap] = {}

    def mapped(self, path: Path) -> mmap.mmap:
        """A file's bytes; every file is mapped once."""
        if path not in self._maps:
            self._maps[path] = map_file(path)
        return self._maps[path]


def external_array(
    given: Mapping[str, str], label: str, shape: tuple[int, ...], dtype: np.dtype[Any], folder: Folder | None
) -> Array:
    """A tensor whose data lie in a file beside the model, read-only.

    Args:
        given: location, offset and length, as the TensorProto has them. label: of the tensor, in messages.

    Raises:
        ModelFileError: there is no such file in the folder, or it does not hold as much.
    """
    location = given.get("location", "")
    if folder is None or not location:
        raise ModelFileError(f"{label}: its data lie in another file ({location!r}); load the model from its file")
    path = _inside(folder.path, location, label)
    try:
        offset, needed = int(given.get("offset", 0)), math.prod(shape) * dtype.itemsize
        length = int(given.get("length", needed))
    except ValueError as error:
        raise ModelFileError(f"{label}: offset or length of its external data are no numbers") from error
    there = path.stat().st_size
    if length != needed or offset < 0 or offset + length > there:
        raise ModelFileError(
            f"{label}: {needed} bytes are needed from offset {offset} of {location!r}; "
            f"{length} are announced and the file has {there}"
        )
    try:
        return array_in(folder.mapped(path), dtype, shape, offset) if needed else np.zeros(shape, dtype)
    except OSError as error:
        raise ModelFileError(f"{label}: {location!r} cannot be read: {error.strerror}") from error


def _inside(folder: Path, location: str, label: str) -> Path:
    """The file that external data name, if it lies in the model's folder, links followed."""
    windows = PureWindowsPath(location)
    if windows.is_absolute() or windows.drive or location.startswith("/") or ".." in windows.parts or "\0" in location:
        raise ModelFileError(f"{label}: external data at {location!r}: only files in the model's folder are read")
    path, root = (folder / location).resolve(), folder.resolve()
    if not path.is_relative_to(root):
        raise ModelFileError(f"{label}: external data at {location!r} lead out of the model's folder")
    if not path.is_file():
        raise ModelFileError(f"{label}: its external data {location!r} are missing")
    return path
