"""Folders of class folders, and single images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clconv.data import ImageFolder, Loader, open_dataset, read_image, split_folders
from clconv.errors import ArgumentError, DataError


def picture(h: int = 6, w: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(["cat", "dog", "eel"]):
        for i in range(4):
            save(tmp_path / "animals" / name / f"{i}.png", picture(seed=10 * label + i))
    return tmp_path / "animals"


def test_a_folder_of_class_folders(folder: Path) -> None:
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / "cat" / ".hidden.png").write_text("nor this")
    (folder / "cat" / "old").mkdir()
    (folder / ".git").mkdir()
    (folder / "__MACOSX").mkdir()
    seen: list[tuple[int, int]] = []
    data = ImageFolder(folder, progress=lambda done, total: seen.append((done, total)))
    assert data.classes == ["cat", "dog", "eel"] and data.shape == (3, 6, 8) and not data.skipped
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert seen == [(i + 1, 12) for i in range(12)]
    got = data.images(np.array([5, 0]))
    np.testing.assert_array_equal(got, [picture(seed=11), picture(seed=0)])


def test_decoding_on_demand_and_once_give_the_same(folder: Path) -> None:
    kept, demanded = ImageFolder(folder, 5), ImageFolder(folder, 5, keep_bytes=0)
    order = np.random.default_rng(0).permutation(12)
    np.testing.assert_array_equal(kept.images(order), demanded.images(order))
    for path in demanded.paths:
        path.unlink()
    np.testing.assert_array_equal(kept.images(order[:3]), kept.images(order)[:3])
    with pytest.raises(DataError, match=r"cat/0\.png: No such file"):
        next(Loader(demanded, 12, shuffle=False).epoch(0))


@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_a_damaged_file_is_refused_or_skipped(folder: Path, keep_bytes: int) -> None:
    path = folder / "dog" / "2.png"
    path.write_bytes(b"\x89PNG nonsense")
    (folder / "eel" / "1.jpg").touch()
    with pytest.raises(DataError, match=r"dog/2\.png: not an image that Pillow can identify"):
        ImageFolder(folder, keep_bytes=keep_bytes)
    with pytest.raises(DataError, match='can identify; damaged="skip" leaves such files out'):
        ImageFolder(folder, keep_bytes=1 << 30)
    data = ImageFolder(folder, damaged="skip", keep_bytes=keep_bytes)
    assert [(p.name, p.parent.name) for p, _ in data.skipped] == [("2.png", "dog"), ("1.jpg", "eel")]
    assert data.skipped[0][1] == "not an image that Pillow can identify"
    assert len(data) == 11 == len(data.paths) and data.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 4
    np.testing.assert_array_equal(data.images(np.array([6])), [picture(seed=13)])


def test_a_file_cut_off_behind_its_header(folder: Path) -> None:
    path = folder / "cat" / "0.png"
    save(path, picture(50, 50))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"cat/0\.png: image file is truncated"):
        ImageFolder(folder, 8)
    late = ImageFolder(folder, 8, keep_bytes=0)  # the header is fine, so this shows when it is decoded
    with pytest.raises(DataError, match=r"cat/0\.png: image file is truncated"):
        list(Loader(late, 4).epoch(0))
    assert len(ImageFolder(folder, 8, keep_bytes=0, damaged="skip")) == 11


def test_different_sizes_need_a_size(folder: Path) -> None:
    save(folder / "dog" / "9.png", picture(20, 10))
    for keep_bytes in (0, 1 << 20):
        with pytest.raises(DataError, match=r"dog/9\.png: 20x10 pixels, others have 6x8; give a size"):
            ImageFolder(folder, keep_bytes=keep_bytes)
    assert ImageFolder(folder, (5, 4)).images(np.arange(13)).shape == (13, 5, 4, 3)
    assert ImageFolder(folder, 7, channels=1).shape == (1, 7, 7)
    assert len(ImageFolder(folder, damaged="skip")) == 12


def test_empty_folders_are_reported(folder: Path, tmp_path: Path) -> None:
    (folder / "fox" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"fox: a class folder without images; it holds folders, such as train"):
        ImageFolder(folder)
    with pytest.raises(DataError, match="no class folders; images are expected as cat/CLASS/IMAGE"):
        ImageFolder(folder / "cat")
    (tmp_path / "none" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no images in 1 class folders"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(DataError, match="nowhere: cannot be read: No such file"):
        ImageFolder(tmp_path / "nowhere")


def test_a_class_whose_files_are_all_damaged_is_reported(folder: Path) -> None:
    for path in (folder / "cat").iterdir():
        path.write_bytes(b"?")
    with pytest.raises(DataError, match=r"cat: a class folder without images \(4 damaged files skipped"):
        ImageFolder(folder, damaged="skip")
    for path in folder.glob("*/*"):
        path.write_bytes(b"?")
    with pytest.raises(DataError, match="none of 12 image files can be read"):
        ImageFolder(folder, damaged="skip")


def test_classes_of_another_set_keep_their_numbers(folder: Path) -> None:
    data = ImageFolder(folder, classes=["ant", "cat", "dog", "eel"])
    assert data.class_count == 4 and sorted(set(data.labels.tolist())) == [1, 2, 3]
    with pytest.raises(DataError, match="eel: not one of the 2 classes: cat, dog"):
        ImageFolder(folder, classes=["cat", "dog"])


def test_train_and_test_folders(folder: Path) -> None:
    root = folder.parent / "root"
    root.mkdir()
    assert split_folders(folder) == (folder, None)
    folder.rename(root / "train")
    assert split_folders(root) == (root / "train", None)
    save(root / "val" / "dog" / "0.png", picture())
    assert split_folders(root) == (root / "train", root / "val")
    train, test = open_dataset(root)
    assert test is not None and len(train) == 12 and test.labels.tolist() == [1]
    assert test.classes == train.classes
    save(root / "test" / "dog" / "0.png", picture(9, 9))
    with pytest.raises(DataError, match=r"test: images of 9x9 pixels, those in .*train have 6x8; give a size"):
        open_dataset(root)
    assert all(part is not None and part.shape == (1, 4, 4) for part in open_dataset(root, size=4, channels=1))


def test_arguments_out_of_range_are_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="'refuse' or 'skip' is accepted"):
        ImageFolder(folder, damaged="ignore")
    with pytest.raises(ArgumentError, match="size=0"):
        ImageFolder(folder, 0)
    with pytest.raises(ArgumentError, match="channels=2; 3"):
        ImageFolder(folder, 4, channels=2)


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_rgb_or_grey(tmp_path: Path, mode: str, channels: int) -> None:
    grey = np.repeat(picture()[..., :1], 3, axis=2) // 128 * 255
    if mode.startswith("I"):
        image = Image.fromarray((grey[..., 0].astype(np.uint16) * 257).astype("u2" if mode == "I;16" else "i4"))
    else:
        image = Image.fromarray(grey).convert("L").convert(mode.replace("PA", "LA")).convert(mode)
    path = tmp_path / "x.tif"
    image.save(path)
    got = read_image(path, channels=channels)
    assert got.dtype == np.uint8 and got.shape == (6, 8, channels)
    np.testing.assert_allclose(got, grey[..., :channels], atol=1)


def test_a_palette_with_transparency_is_read_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    image = Image.fromarray(picture()).quantize(16)
    image.save(tmp_path / "x.png", transparency=bytes(range(16)))
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), np.asarray(image.convert("RGB")))
    assert not len(recwarn)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(tmp_path: Path, orientation: int) -> None:
    upright = picture()
    # How the camera stored it: row and column order for each value of the tag (Exif 2.32, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name / "x.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a" / "x.png"), upright)
    assert ImageFolder(tmp_path, keep_bytes=0).shape == (3, 6, 8)


def test_resizing_covers_and_cuts_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = (200, 100, 50)
    for name in ("x.png", "x.jpg"):
        save(tmp_path / name, pixels)
        got = read_image(tmp_path / name, 10)
        assert got.shape == (10, 10, 3)
        np.testing.assert_allclose(got[:, 1:-1].astype(int), np.broadcast_to([200, 100, 50], (10, 8, 3)), atol=8)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png", (40, 100)), pixels)


def test_pictures_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png", picture(30, 40))
    with pytest.raises(DataError, match=r"x\.png: 40x30 pixels are more than the limit of 1199"):
        read_image(tmp_path / "a" / "x.png", max_pixels=1199)
    with pytest.raises(DataError, match="more than the limit"):
        ImageFolder(tmp_path, 4, max_pixels=1199, keep_bytes=0)
    header = (tmp_path / "a" / "x.png").read_bytes()
    huge = header[:16] + (60000).to_bytes(4, "big") * 2 + header[24:]  # a header that announces 3.6e9 pixels
    (tmp_path / "huge.png").write_bytes(huge)
    with pytest.raises(DataError, match=r"huge\.png: "):
        read_image(tmp_path / "huge.png")


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "x.tif", np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match=r"x\.tif: floating-point pixels have no known range"):
        read_image(tmp_path / "x.tif")


@pytest.mark.real_data
def test_cifar_10_as_jpeg_folders(data_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(data_folder / "data" / "cifar10" / "cifar10_jpeg.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::500]
        archive.extractall(tmp_path, names)
    train, test = open_dataset(tmp_path / "cifar10_jpeg")
    assert test is not None and len(train) + len(test) == len(names) == 120
    assert train.shape == (3, 32, 32) and train.class_count == 10 == len(np.unique(train.labels))
    batch = next(Loader(train, 32).epoch(0))
    assert batch.x.shape == (32, 3, 32, 32) and 0.3 < batch.x.mean() < 0.6


@pytest.mark.real_data
def test_photographs_are_brought_to_one_size(data_folder: Path, tmp_path: Path) -> None:
    files = sorted((data_folder / "data" / "imagenet_samples").glob("*.JPEG"))[:6]
    for i, path in enumerate(files):
        target = tmp_path / f"class{i % 2}" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    data = ImageFolder(tmp_path, 96, keep_bytes=0)
    images = data.images(np.arange(6))
    assert images.shape == (6, 96, 96, 3) and images.std(axis=(1, 2, 3)).min() > 10
