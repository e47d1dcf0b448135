"""Data sets in files: IDX, CIFAR-10 binary, .npz, and finding out which one a path holds."""

from __future__ import annotations

import errno
import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clconv.data import (
    Cifar10Dataset,
    IdxDataset,
    Loader,
    Normalization,
    mnist,
    open_dataset,
    read_idx,
    read_image,
)
from clconv.errors import ArgumentError, DataError

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(x: np.ndarray) -> bytes:
    head = bytes([0, 0, CODES[x.dtype.name], x.ndim]) + struct.pack(f">{x.ndim}I", *x.shape)
    return head + x.astype(x.dtype.newbyteorder(">")).tobytes()


def digits(n: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 5, 4), dtype=np.uint8), random.integers(0, 10, n, dtype=np.uint8)


def write_mnist(folder: Path, part: str = "train", packed: bool = True, n: int = 12) -> None:
    for kind, array in zip(("images-idx3", "labels-idx1"), digits(n), strict=True):
        raw = idx_bytes(array)
        name = f"{part}-{kind}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_every_type(tmp_path: Path, dtype: str, packed: bool) -> None:
    x = np.arange(-30, 30).reshape(3, 4, 5).astype(dtype)
    path = tmp_path / "misnamed.bin"
    path.write_bytes(gzip.compress(idx_bytes(x)) if packed else idx_bytes(x))
    got = read_idx(path)
    assert got.dtype == x.dtype and got.dtype.isnative and got.flags.writeable
    np.testing.assert_array_equal(got, x)


GOOD = idx_bytes(digits()[0])
PACKED = gzip.compress(GOOD)
DAMAGED = [
    (b"", "not an IDX file: it begins with nothing"),
    (b"\x89PNG\r\n", "not an IDX file: it begins with 89 50 4e 47"),
    (b"\0\0\x08\0", "not an IDX file"),
    (GOOD[:9], "cut off in its header, which announces 3 axes"),
    (GOOD[:-1], r"\(12, 5, 4\) uint8 values are 240 bytes, the file holds only 239"),
    (GOOD + b"\0", "240 bytes, the file holds more"),
    (bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"xyz", "the file holds only 3"),
    (PACKED[:-20], "cannot be read: Compressed file ended"),
    (PACKED[:20] + bytes([PACKED[20] ^ 255]) + PACKED[21:], "cannot be read"),
    (PACKED[:-8] + b"\0" * 8, "cannot be read: CRC check failed"),
]


@pytest.mark.parametrize(("content", "message"), DAMAGED)
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train-images: .*{message}"):
        read_idx(path)


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: cannot be read: No such file"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_like_mnist(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path, packed=packed)
    train, test = open_dataset(tmp_path)
    assert test is None and train.shape == (1, 5, 4) and train.classes == list("0123456789")
    np.testing.assert_array_equal(train.images(np.arange(12))[..., 0], digits()[0])
    np.testing.assert_array_equal(train.labels, digits()[1])
    with pytest.raises(DataError, match=r"no file t10k-images-idx3-ubyte or t10k-images-idx3-ubyte\.gz"):
        mnist(tmp_path, train=False)
    write_mnist(tmp_path, "t10k", n=5)
    assert len(open_dataset(tmp_path)[1] or ()) == 5


def test_idx_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    x, y = digits()
    for name, array in {"x": x, "y": y, "short": y[:5], "high": y + 90}.items():
        (tmp_path / name).write_bytes(idx_bytes(array))
    assert len(IdxDataset(tmp_path / "x", tmp_path / "y")) == 12
    with pytest.raises(DataError, match=r"x holds 12 images but .*short holds 5 labels"):
        IdxDataset(tmp_path / "x", tmp_path / "short")
    with pytest.raises(DataError, match=r"y: holds uint8 \(12,\); a file of images has uint8 \(N, H, W\)"):
        IdxDataset(tmp_path / "y", tmp_path / "x")
    with pytest.raises(DataError, match=r"high: label 9. of image 0 is out of range; 0 to 9 is allowed"):
        IdxDataset(tmp_path / "x", tmp_path / "high", [str(i) for i in range(10)])


def write_cifar(folder: Path, name: str, n: int = 6, top: int = 9) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(n)
    planes = random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    labels = np.linspace(0, top, n).astype(np.uint8)
    (folder / name).write_bytes(np.concatenate([labels[:, None], planes.reshape(n, -1)], axis=1).tobytes())
    return planes.transpose(0, 2, 3, 1), labels


def test_a_folder_of_cifar_10(tmp_path: Path) -> None:
    first, second = write_cifar(tmp_path, "data_batch_1.bin"), write_cifar(tmp_path, "data_batch_2.bin", 4)
    train, test = open_dataset(tmp_path)
    assert test is None and train.shape == (3, 32, 32) and len(train) == 10
    assert train.classes is not None and train.classes[3] == "cat"
    np.testing.assert_array_equal(train.images(np.arange(10)), np.concatenate([first[0], second[0]]))
    np.testing.assert_array_equal(train.labels, np.concatenate([first[1], second[1]]))
    write_cifar(tmp_path, "test_batch.bin", 3)
    (tmp_path / "batches.meta.txt").write_text("\n".join("qwertyuiop") + "\n\n")
    train, test = open_dataset(tmp_path)
    assert test is not None and len(test) == 3 and test.classes == list("qwertyuiop")


def test_damaged_cifar_10_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data_batch_1.bin"):
        Cifar10Dataset(tmp_path)
    write_cifar(tmp_path, "data_batch_1.bin", top=12)
    with pytest.raises(DataError, match=r"data_batch_1.bin: label 12 of image 5 is out of range; 0 to 9"):
        Cifar10Dataset(tmp_path)
    write_cifar(tmp_path, "data_batch_1.bin")
    write_cifar(tmp_path, "data_batch_3.bin")
    with pytest.raises(DataError, match=r"data_batch_2.bin is missing, data_batch_3.bin is there"):
        open_dataset(tmp_path)
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_1\.bin: 18437 bytes; .*multiple of 3073 .*image 5"):
        Cifar10Dataset(tmp_path)
    with pytest.raises(DataError, match=r"test_batch.bin: cannot be read: No such file"):
        Cifar10Dataset(tmp_path, train=False)
    (tmp_path / "batches.meta.txt").write_text("cat dog")
    with pytest.raises(DataError, match="2 class names; CIFAR-10 has 10"):
        Cifar10Dataset(tmp_path)


def test_npz_files(tmp_path: Path) -> None:
    x, y = np.zeros((6, 8, 8, 3), np.uint8), np.arange(6)
    np.savez(tmp_path / "a.npz", x=x, y=y, classes=list("abcdef"))
    train, test = open_dataset(tmp_path / "a.npz")
    assert test is None and train.classes == list("abcdef") and train.shape == (3, 8, 8)
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    assert len(open_dataset(tmp_path / "b.npz")[1] or ()) == 2


def test_damaged_npz_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros(3))
    with pytest.raises(DataError, match=r"a\.npz: looked for x and y, or x_train and y_train; found images"):
        open_dataset(path)
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), y=np.arange(6))
    raw = bytearray(path.read_bytes())
    raw[400] ^= 255
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.npz: cannot be read: "):
        open_dataset(path)
    path.write_bytes(raw[:-30])
    with pytest.raises(DataError, match=r"a\.npz: not a \.npz file, nor a folder"):
        open_dataset(path)
    np.savez(path, x=np.array([None, 1]), y=np.arange(2))  # needs pickle, which could run code
    with pytest.raises(DataError, match=r"a\.npz: cannot be read: .*pickle"):
        open_dataset(path)
    np.savez(path, x=np.zeros((2, 3, 8, 8)), y=np.arange(2))
    with pytest.raises(ArgumentError, match=r"a\.npz: images are float64"):
        open_dataset(path)


def test_what_is_not_a_data_set_is_described(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"looked for train-images-idx3-ubyte.* found an empty folder"):
        open_dataset(tmp_path)
    for i in range(9):
        (tmp_path / f"{i}.txt").touch()
    (tmp_path / "0").mkdir()
    with pytest.raises(DataError, match=r"found 0.txt, 0/, 1.txt, 2.txt, 3.txt, 4.txt and 4 more"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("locked", ["photos", "b"])
def test_folders_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "photos" / name / "1.png")

    def guarded(given: Callable[..., Any]) -> Callable[..., Any]:
        def opened(folder: Any) -> Any:
            if Path(folder).name == locked:
                raise PermissionError(errno.EACCES, "Permission denied", str(folder))
            return given(folder)

        return opened

    monkeypatch.setattr(Path, "iterdir", guarded(Path.iterdir))
    monkeypatch.setattr(os, "scandir", guarded(os.scandir))
    with pytest.raises(DataError, match=f"{locked}: cannot be read: Permission denied"):
        open_dataset(tmp_path / "photos")


@pytest.mark.real_data
def test_mnist_itself(data_folder: Path) -> None:
    train, test = open_dataset(data_folder / "data" / "mnist")
    assert test is not None and (len(train), len(test), train.shape) == (60000, 10000, (1, 28, 28))
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    norm = Normalization.of(train, sample=None)
    np.testing.assert_allclose((norm.mean[0], norm.std[0]), (0.1307, 0.3081), atol=5e-5)  # the usual figures
    x, y, indices = next(Loader(train, 256, normalization=norm).epoch(0))
    assert x.shape == (256, 1, 28, 28) and abs(x.mean()) < 0.1 and abs(x.std() - 1) < 0.1
    np.testing.assert_array_equal(y, train.labels[indices])


@pytest.mark.real_data
def test_lossless_cifar_10_images_in_an_npz_file(data_folder: Path) -> None:
    train, _ = open_dataset(data_folder / "data" / "cifar10" / "cifar10_lossless_train4000.npz")
    assert len(train) == 4000 and train.shape == (3, 32, 32) and train.class_count == 10
    np.testing.assert_allclose(Normalization.of(train).mean, (0.491, 0.482, 0.447), atol=0.01)


@pytest.mark.real_data
def test_a_picture_is_not_a_data_set(data_folder: Path) -> None:
    path = data_folder / "data" / "images" / "cat_1080p.jpg"
    with pytest.raises(DataError, match=r"cat_1080p\.jpg: not a \.npz file, nor a folder; looked for"):
        open_dataset(path)
    assert read_image(path).shape == (1080, 1920, 3)
    assert read_image(path, (90, 160), channels=1).shape == (90, 160, 1)
