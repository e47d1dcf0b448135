"""Finds out what kind of data set a path holds."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import ClconvError, DataError
from ..files import ARCHIVE_ERRORS
from .cifar import Cifar10Dataset, training_files
from .dataset import ArrayDataset, Dataset
from .folder import ImageFolder, class_folders, image_files, split_folders
from .idx import find_idx, mnist

_LOOKED_FOR = (
    "train-images-idx3-ubyte[.gz] (MNIST), data_batch_1.bin (CIFAR-10 binary), "
    "folders of images (CLASS/IMAGE or train/CLASS/IMAGE), or a .npz file"
)


def open_dataset(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] | None = None,
    channels: int = 3,
    damaged: str = "refuse",
    keep_bytes: int = 512 << 20,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Dataset, Dataset | None]:
    """The training set and, where there is one, the test set at a path.

    Recognised: a folder with MNIST's IDX files; a folder with CIFAR-10's binary files; a folder of class
    folders, or of train/ and test/ (or val/) with class folders inside; a .npz file with x and y, or x_train,
    y_train, x_test and y_test, and perhaps classes.

    Args:
        path: the folder or file.
        size, channels, damaged, keep_bytes, progress: for class folders, see `ImageFolder`.

    Raises:
        DataError: nothing there that is known, with what was looked for and what was found; or damaged files.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise DataError(f"{path}: does not exist")
        if path.is_dir():
            os.scandir(path).close()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if path.is_file():
        return _open_npz(path)
    if find_idx(path, "train", "images-idx3"):
        has_test = find_idx(path, "t10k", "images-idx3") is not None
        return mnist(path), mnist(path, train=False) if has_test else None
    if training_files(path):
        has_test = (path / "test_batch.bin").is_file()
        return Cifar10Dataset(path), Cifar10Dataset(path, train=False) if has_test else None
    train_folder, test_folder = split_folders(path)
    if not any(image_files(each) for each in class_folders(train_folder)):
        raise DataError(f"{path}: no data set that is known here; looked for {_LOOKED_FOR}; found {_contents(path)}")

    def read(folder: Path, size: int | tuple[int, int] | None, classes: list[str] | None) -> ImageFolder:
        return ImageFolder(
            folder,
            size,
            channels=channels,
            damaged=damaged,
            classes=classes,
            keep_bytes=keep_bytes,
            progress=progress,
        )

    train = read(train_folder, size, None)
    if test_folder is None:
        return train, None
    # Without a size the training images have one; test images of another are refused with the reason.
    test = read(test_folder, size, train.classes)
    if test.shape != train.shape:
        raise DataError(
            f"{test_folder}: images of {test.shape[1]}x{test.shape[2]} pixels, those in {train_folder} have "
            f"{train.shape[1]}x{train.shape[2]}; give a size to which all are brought"
        )
    return train, test


def _open_npz(path: Path) -> tuple[Dataset, Dataset | None]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a .npz file, nor a folder; looked for {_LOOKED_FOR}")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            keys = ("x", "y") if {"x", "y"} <= names else ("x_train", "y_train")
            if not set(keys) <= names:
                found = ", ".join(sorted(names)) or "nothing"
                raise DataError(f"{path}: looked for x and y, or x_train and y_train; found {found}")
            classes = list(map(str, np.atleast_1d(file["classes"]))) if "classes" in names else None
            train = ArrayDataset(file[keys[0]], file[keys[1]], classes=classes, name=str(path))
            if not {"x_test", "y_test"} <= names:
                return train, None
            return train, ArrayDataset(file["x_test"], file["y_test"], classes=classes, name=f"{path} (test)")
    except ClconvError:
        raise
    except ARCHIVE_ERRORS as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _contents(folder: Path) -> str:
    """The first few names in a folder, for a message."""
    names = sorted(each.name + ("/" if each.is_dir() else "") for each in folder.iterdir())
    if not names:
        return "an empty folder"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
