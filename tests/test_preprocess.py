"""Pictures on their way into a network, and a network's pictures on their way out."""

import io

import numpy as np
import pytest
from PIL import Image

from clconv.data import Normalization, open_picture, preprocessing
from clconv.data.preprocess import SCALES, described_scale
from clconv.errors import ArgumentError, DataError, ShapeError
from clconv.io.pictures import class_palette, mask_image, write_picture

RNG = np.random.default_rng(0)


def picture(width, height, channels=3):
    pixels = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)


def numbers(scale, **more):
    """What becomes of one pixel (200, 100, 50)."""
    prepare = preprocessing(scale, **more)
    return prepare.numbers(prepare.pixels(Image.new("RGB", (1, 1), (200, 100, 50)))[None]).ravel()


def test_scales():
    x = np.array([200, 100, 50])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(numbers("imagenet"), (x / 255 - mean) / std, rtol=1e-6)
    np.testing.assert_array_equal(numbers("caffe"), [50 - 104, 100 - 117, 200 - 123])
    np.testing.assert_allclose(numbers("unit"), x / 255, rtol=1e-6)
    np.testing.assert_allclose(numbers("signed"), x / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(numbers("none"), x)
    np.testing.assert_array_equal(numbers("none", bgr=True), x[::-1])
    np.testing.assert_allclose(numbers(Normalization((0.5,), (2.0,), 1.0)), (x - 0.5) / 2, rtol=1e-6)
    with pytest.raises(ArgumentError, match="'keras' is none of imagenet, caffe, unit, signed, none"):
        preprocessing("keras")
    with pytest.raises(ShapeError, match="imagenet is for 3 channels, the network reads 1; unit, signed and none"):
        preprocessing("imagenet", channels=1)


@pytest.mark.parametrize("scale", SCALES)
def test_what_comes_back_is_what_went_in(scale):
    prepare = preprocessing(scale)
    original = picture(7, 5)
    y = prepare.numbers(prepare.pixels(original)[None])[0]
    np.testing.assert_array_equal(prepare.restored(y), np.asarray(original))
    assert prepare.restored(y + 1e6).min() == 255 and prepare.restored(y - 1e6).max() == 0
    with pytest.raises(DataError, match="not finite"):
        prepare.restored(y * np.nan)


@pytest.mark.parametrize("extent", [(500, 375), (375, 500), (97, 64), (64, 64), (30, 301)])
def test_crop_is_that_of_torchvision(extent):
    """Resize the short side, the long one rounded down, then cut out the centre."""
    original = picture(*extent)
    short = min(extent)
    resized = original.resize([int(64 * side / short) for side in extent], Image.Resampling.BILINEAR)
    left, top = (round((side - 56) / 2) for side in resized.size)
    expected = np.asarray(resized.crop((left, top, left + 56, top + 56)))
    np.testing.assert_array_equal(preprocessing("unit", size=56, crop=64).pixels(original), expected)


def test_thin_pictures_do_not_become_huge():
    with pytest.raises(DataError, match="200000x1 pixels with a short side of 256 would be 51200000x256"):
        preprocessing("unit", size=224, crop=256).pixels(Image.new("L", (200_000, 1)))


def test_sizes():
    original = picture(20, 10)
    assert preprocessing("unit").pixels(original).shape == (10, 20, 3)
    assert preprocessing("unit", size=(6, 8), channels=1).pixels(original).shape == (6, 8, 1)
    stretched = preprocessing("unit", size=(5, 5), stretch=True).pixels(original)
    np.testing.assert_array_equal(stretched, np.asarray(original.resize((5, 5), Image.Resampling.BILINEAR)))
    with pytest.raises(ArgumentError, match="30x20 pixels cannot be cut out of a picture whose short side has 25"):
        preprocessing("unit", size=(20, 30), crop=25)
    with pytest.raises(ArgumentError, match="the size that is cut out is missing"):
        preprocessing("unit", crop=25)
    with pytest.raises(ArgumentError, match="one of them at a time"):
        preprocessing("unit", size=5, crop=25, stretch=True)


def test_metadata_of_the_onnx_standard():
    said = {"Image.NominalPixelRange": "NominalRange_0_255", "Image.BitmapPixelFormat": "Bgr8"}
    assert described_scale(said) == ("none", True)
    assert described_scale({"Image.BitmapPixelFormat": "Rgb8"}) == (None, False)
    assert described_scale({"other": "thing"}) == (None, None)


def test_batches(tmp_path):
    for name, size in (("a", (20, 10)), ("b", (8, 8))):
        picture(*size).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    x = preprocessing("unit", size=6).batch(paths)
    assert x.shape == (2, 3, 6, 6) and x.dtype == np.float32 and 0 <= x.min() <= x.max() <= 1
    with pytest.raises(ShapeError, match="these have 8x8, 20x10; give a size"):
        preprocessing("unit").batch(paths)
    with pytest.raises(DataError, match="none.png: No such file"):
        preprocessing("unit").batch([tmp_path / "none.png"])


MODES = {
    "1": (Image.new("1", (3, 2), 1), "L", 255),
    "L": (Image.new("L", (3, 2), 77), "L", 77),
    "LA": (Image.new("LA", (3, 2), (77, 0)), "L", 77),
    "P": (Image.new("RGB", (3, 2), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE), "RGB", (10, 200, 30)),
    "RGBA": (Image.new("RGBA", (3, 2), (10, 200, 30, 0)), "RGB", (10, 200, 30)),
    "I;16": (Image.fromarray(np.full((2, 3), 0x4D12, np.uint16)), "L", 0x4D),
}


@pytest.mark.parametrize("mode", MODES)
def test_any_mode_becomes_rgb_or_grey(mode, tmp_path):
    image, kind, colour = MODES[mode]
    image.save(tmp_path / "x.png")
    found = open_picture(tmp_path / "x.png")
    assert (found.mode, found.getpixel((1, 1))) == (kind, colour)


def test_inks_and_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (30, 20), (0, 255, 255, 0)).save(tmp_path / "x.jpg", exif=exif)
    found = open_picture(tmp_path / "x.jpg")
    assert (found.mode, found.size) == ("RGB", (20, 30))
    assert found.getpixel((5, 5))[0] > 200 and found.getpixel((5, 5))[1] < 60


def test_pictures_from_memory_and_broken_ones(tmp_path):
    content = io.BytesIO()
    picture(6, 4).save(content, "PNG")
    assert open_picture(io.BytesIO(content.getvalue()), name="it").size == (6, 4)
    with pytest.raises(DataError, match="^it: .*truncated"):
        open_picture(io.BytesIO(content.getvalue()[:-30]), name="it")
    with pytest.raises(DataError, match="6x4 pixels are more than the limit of 20"):
        open_picture(io.BytesIO(content.getvalue()), max_pixels=20)
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"x\.jpg: not an image that Pillow can identify"):
        open_picture(tmp_path / "x.jpg")


def test_masks_keep_their_classes(tmp_path):
    classes = np.array([[0, 1, 2], [15, 255, 0]])
    write_picture(tmp_path / "new" / "m.png", mask_image(classes))
    with Image.open(tmp_path / "new" / "m.png") as found:
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), classes)
        assert [found.convert("RGB").getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    colours = class_palette()
    assert len({tuple(colours[3 * i : 3 * i + 3]) for i in range(256)}) == 256
    with pytest.raises(ArgumentError, match="classes 0 to 256; a picture holds 0 to 255"):
        mask_image(np.array([[0, 256]]))


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_picture(tmp_path / "file" / "m.png", picture(2, 2))
