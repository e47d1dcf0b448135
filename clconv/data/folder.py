"""A folder that holds one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, DataError, some_of
from .dataset import Dataset
from .image import MAX_PIXELS, SUFFIXES, image_extent, image_size, read_image

_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_SURVEYED_AT_ONCE = 1024  # each waiting file costs memory, and time after a failure
_THREADS = min(8, os.cpu_count() or 1)  # decoding runs without the GIL


class ImageFolder(Dataset):
    """Images in class folders: folder/CLASS/anything.jpg. Classes are the folders' names in sorted order.

    Hidden files, files without an image's suffix and folders inside class folders are ignored. When all
    images fit in `keep_bytes` they are decoded at once and kept as uint8; otherwise each is decoded, by
    several threads, whenever it is asked for.

    Args:
        folder: the folder of class folders.
        size: (H, W) or one number; an image of another size is resized until it covers it, and its centre
            is cut out. None takes the first image's size and refuses any other.
        channels: 3 for RGB, 1 for grey.
        damaged: "refuse" a folder with a file that cannot be read, or "skip" the file. Skipping reads every
            file once at the start. What is found only while decoding on demand is refused then.
        classes: the classes and their order, for instance those of the training set; a class may then have no
            images. None takes the folders' names, and refuses one that holds no image.
        keep_bytes: see above.
        max_pixels: a larger picture counts as damaged.
        progress: called with (images read, images in all) while the folder is read.

    Attributes:
        paths: the file of each image.
        skipped: (path, reason) of each file that was skipped.

    Raises:
        DataError: no images, an empty class folder, a damaged file, or different sizes without `size`.
        ArgumentError: an argument out of range.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int | tuple[int, int] | None = None,
        *,
        channels: int = 3,
        damaged: str = "refuse",
        classes: Sequence[str] | None = None,
        keep_bytes: int = 512 << 20,
        max_pixels: int = MAX_PIXELS,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if damaged not in ("refuse", "skip"):
            raise ArgumentError(f"image folder: damaged={damaged!r}; 'refuse' or 'skip' is accepted")
        self.folder = Path(folder)
        self.skipped: list[tuple[Path, str]] = []
        self._channels = channels
        self._max_pixels = max_pixels
        self._skip = damaged == "skip"
        self._size = image_size(size)
        self.classes, paths, labels = _scan(self.folder, classes)
        extent = self._size or self._first_extent(paths)
        self.shape = (channels, *extent)
        self.dtype = np.dtype(np.uint8)
        keep = len(paths) * channels * extent[0] * extent[1] <= keep_bytes
        self._kept: NDArray[np.uint8] | None = None
        good = self._survey(paths, keep, progress)
        self.paths = [paths[i] for i in good]
        self.labels = labels[good]
        if len(good) < len(paths):
            if self._kept is not None:
                self._kept = self._kept[good]
            _check_filled(self.folder, self.labels, self.classes, classes is not None, self.skipped)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (N, H, W, C).

        Raises:
            DataError: a file that can no longer be read.
        """
        if self._kept is not None:
            return self._kept[indices]
        out = np.empty((len(indices), *self.shape[1:], self.shape[0]), np.uint8)

        def fill(position: int) -> None:
            out[position] = self._decode(self.paths[indices[position]])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(fill, range(len(indices))))
        return out

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        pixels = read_image(path, self._size, channels=self._channels, max_pixels=self._max_pixels)
        self._check_extent(path, (pixels.shape[0], pixels.shape[1]))
        return pixels

    def _check_extent(self, path: Path, extent: tuple[int, int]) -> None:
        if self._size is None and extent != self.shape[1:]:
            raise DataError(
                f"{path}: {extent[0]}x{extent[1]} pixels, others have {self.shape[1]}x{self.shape[2]}; "
                "give a size to which all are brought"
            )

    def _first_extent(self, paths: list[Path]) -> tuple[int, int]:
        """(H, W) of the first image that can be read."""
        for path in paths:
            try:
                return image_extent(path, max_pixels=self._max_pixels)
            except DataError as error:
                if not self._skip:
                    raise _refusal(error) from error
        raise DataError(f"{self.folder}: none of {len(paths)} image files can be read; the first is {paths[0]}")

    def _survey(self, paths: list[Path], keep: bool, progress: Callable[[int, int], None] | None) -> NDArray[np.int64]:
        """Reads every file, as far as is needed; the indices of the good ones."""
        if keep:
            self._kept = np.empty((len(paths), *self.shape[1:], self.shape[0]), np.uint8)

        def read(i: int) -> str | None:
            try:
                if self._kept is not None:
                    self._kept[i] = self._decode(paths[i])
                elif self._skip:
                    self._decode(paths[i])
                else:
                    self._check_extent(paths[i], image_extent(paths[i], max_pixels=self._max_pixels))
            except DataError as error:
                if not self._skip:
                    raise _refusal(error) from error
                return str(error).removeprefix(f"{paths[i]}: ")
            return None

        good = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(paths), _SURVEYED_AT_ONCE):
                chunk = range(first, min(first + _SURVEYED_AT_ONCE, len(paths)))
                for i, why in zip(chunk, pool.map(read, chunk), strict=True):
                    if why is None:
                        good.append(i)
                    else:
                        self.skipped.append((paths[i], why))
                    if progress is not None:
                        progress(i + 1, len(paths))
        return np.array(good, np.int64)


def _refusal(error: DataError) -> DataError:
    """The error about an image, with what helps against damage; that of another size has no cause."""
    return error if error.__cause__ is None else DataError(f'{error}; damaged="skip" leaves such files out')


def split_folders(folder: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """Where the training and the test images are: (folder/train, folder/test), or (folder, None).

    "training" does for "train"; "testing", "val", "valid" and "validation" do for "test". Either counts only
    when it holds folders.
    """
    folder = Path(folder)
    train = _first_holding_folders(folder, _TRAIN_NAMES)
    if train is None:
        return folder, None
    return train, _first_holding_folders(folder, _TEST_NAMES)


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder that may be classes: not hidden, not an archive's rubbish; sorted by name."""
    return [each for each in _listed(folder) if each.is_dir() and not each.name.startswith("__MACOSX")]


def image_files(folder: Path) -> list[Path]:
    """The files of a folder with an image's suffix, not hidden; sorted by name."""
    return [each for each in _listed(folder) if each.suffix.lower() in SUFFIXES and each.is_file()]


def _listed(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, sorted by name."""
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _first_holding_folders(folder: Path, names: Sequence[str]) -> Path | None:
    for name in names:
        if (folder / name).is_dir() and class_folders(folder / name):
            return folder / name
    return None


def _scan(folder: Path, classes: Sequence[str] | None) -> tuple[list[str], list[Path], NDArray[np.int32]]:
    """Classes, files and labels of a folder of class folders."""
    folders = class_folders(folder)
    if not folders:
        raise DataError(f"{folder}: no class folders; images are expected as {folder.name}/CLASS/IMAGE")
    names = list(classes) if classes is not None else [each.name for each in folders]
    number = {name: label for label, name in enumerate(names)}
    paths: list[Path] = []
    labels: list[int] = []
    for each in folders:
        if each.name not in number:
            raise DataError(f"{each}: not one of the {len(names)} classes: {some_of(names, 10)}")
        files = image_files(each)
        paths += files
        labels += [number[each.name]] * len(files)
    found = np.array(labels, np.int32)
    _check_filled(folder, found, names, classes is not None, [])
    return names, paths, found


def _check_filled(
    folder: Path,
    labels: NDArray[np.int32],
    names: list[str],
    given: bool,
    skipped: list[tuple[Path, str]],
) -> None:
    """Refuses a folder without images, and a class without any unless the caller named the classes."""
    left = f" ({len(skipped)} damaged files skipped, the first {skipped[0][0]})" if skipped else ""
    if not len(labels):
        raise DataError(f"{folder}: no images in {len(names)} class folders{left}")
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    if not empty or given:
        return
    message = f"{folder / empty[0]}: a class folder without images{left}"
    if len(empty) > 1:
        message += f"; {len(empty) - 1} more are empty"
    inner = class_folders(folder / empty[0])
    if inner:
        message += f"; it holds folders, such as {inner[0].name}: is {folder / empty[0]} the folder you mean?"
    raise DataError(message)
