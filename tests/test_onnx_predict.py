"""`clconv predict` with ONNX files, real ones among them: the answers of ONNX Runtime."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from helpers import onnx_runtime, run
from PIL import Image
from test_onnx_network import write

from clconv.data import mnist

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
RNG = np.random.default_rng(0)


def noise(path, width, height, channels=3):
    pixels = RNG.integers(0, 256, (height, width, channels)).astype(np.uint8)
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path)
    return pixels


def test_pictures_of_any_size_as_they_are(tmp_path):
    """A network that enlarges twice by repetition, and a note where nothing is known about its pixels."""
    nodes = [("Resize", ["x", "", "scales"], ["y"], {"mode": "nearest"})]
    model = write(tmp_path / "m.onnx", nodes, {"scales": np.float32([1, 1, 2, 2])})
    pixels = {name: noise(tmp_path / f"{name}.png", *size) for name, size in (("a", (9, 5)), ("b", (4, 7)))}
    result = run("predict", model, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "the model does not say how it reads pixels; 0..1 is taken (--preprocess imagenet, caffe" in result.stderr
    assert "note" not in run("predict", model, tmp_path, "--out", tmp_path / "new", "--preprocess", "imagenet").stderr
    for out in ("out", "new"):
        for name, expected in pixels.items():
            with Image.open(tmp_path / out / f"{name}.png") as found:
                np.testing.assert_array_equal(np.asarray(found), expected.repeat(2, 0).repeat(2, 1))


def test_a_size_that_fails_is_reported_and_others_done(tmp_path):
    """Half the size and back: odd sizes do not meet themselves again."""
    nodes = [
        ("AveragePool", ["x"], ["half"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Resize", ["half", "", "scales"], ["back"], {"mode": "nearest"}),
        ("Max", ["x", "back"], ["y"], {}),
    ]
    model = write(tmp_path / "m.onnx", nodes, {"scales": np.float32([1, 1, 2, 2])})
    noise(tmp_path / "a.png", 5, 6)
    Image.new("RGB", (8, 6), (10, 20, 30)).save(tmp_path / "b.png")
    result = run("predict", model, tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "a.png: " in result.stderr and "Max" in result.stderr
    with Image.open(tmp_path / "out" / "b.png") as found:
        assert found.getpixel((7, 5)) == (10, 20, 30)
    assert not (tmp_path / "out" / "a.png").exists()


def test_a_size_that_the_file_does_not_tell(tmp_path):
    model = write(tmp_path / "m.onnx", [("MatMul", ["x", "w"], ["y"], {})], {"w": np.eye(8, dtype=np.float32)})
    expected = noise(tmp_path / "a.png", 8, 6)
    result = run("predict", model, tmp_path / "a.png", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "rows of 224 values, of which the matrix takes 8" in result.stderr
    assert "Pictures of 224x224 were tried; --size says which the network reads" in result.stderr
    assert run("predict", model, tmp_path / "a.png", "--out", tmp_path / "out", "--size", "8x6").exit_code == 0
    with Image.open(tmp_path / "out" / "a.png") as found:
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_brightness_alone_leaves_the_colours(tmp_path):
    nodes = [("Mul", ["x", "half"], ["y"], {})]
    model = write(tmp_path / "m.onnx", nodes, {"half": np.float32(0.5)}, (("x", ["N", 1, "H", "W"]),))
    Image.new("RGB", (8, 6), (200, 100, 100)).save(tmp_path / "colour.png")
    Image.new("L", (8, 6), 100).save(tmp_path / "grey.png")
    assert run("predict", model, tmp_path, "--out", tmp_path / "out").exit_code == 0
    with Image.open(tmp_path / "out" / "colour.png") as found:
        y, blue, red = Image.new("RGB", (1, 1), (200, 100, 100)).convert("YCbCr").getpixel((0, 0))
        expected = Image.new("YCbCr", (1, 1), (round(y / 2), blue, red)).convert("RGB").getpixel((0, 0))
        assert np.abs(np.subtract(found.getpixel((3, 3)), expected)).max() <= 1
    with Image.open(tmp_path / "out" / "grey.png") as found:
        assert (found.mode, found.getpixel((3, 3))) == ("L", 50)


def test_channels_last(tmp_path):
    """As Keras writes them: the same picture, and the same classes."""
    back = [("Transpose", ["x"], ["t"], {"perm": [0, 3, 1, 2]})]
    picture = write(
        tmp_path / "picture.onnx",
        [*back, ("Neg", ["t"], ["n"], {}), ("Transpose", ["n"], ["y"], {"perm": [0, 2, 3, 1]})],
        {},
        (("x", ["N", 6, 9, 3]),),
    )
    pixels = noise(tmp_path / "a.png", 9, 6)
    assert (
        run("predict", picture, tmp_path / "a.png", "--out", tmp_path / "out", "--preprocess", "signed").exit_code == 0
    )
    with Image.open(tmp_path / "out" / "a.png") as found:
        np.testing.assert_array_equal(np.asarray(found), 255 - pixels)
    scores = write(
        tmp_path / "scores.onnx",
        [*back, ("GlobalAveragePool", ["t"], ["g"], {}), ("Flatten", ["g"], ["y"], {})],
        {},
        (("x", ["N", "H", "W", 3]),),
    )
    result = run("predict", scores, tmp_path / "a.png", "--json", "--size", "9x6", "--preprocess", "none")
    (found,) = json.loads(result.stdout)["images"]
    means = pixels.reshape(-1, 3).mean(0)
    shares = {each["index"]: each["probability"] for each in found["predictions"]}
    expected = np.exp(means - means.max()) / np.exp(means - means.max()).sum()
    np.testing.assert_allclose([shares[k] for k in range(3)], expected, rtol=1e-3)


def test_several_outputs_and_a_mask_of_numbers(tmp_path):
    nodes = [("ArgMax", ["x"], ["classes"], {"axis": 1, "keepdims": 0}), ("Relu", ["x"], ["y"], {})]
    model = write(tmp_path / "m.onnx", nodes, {}, outputs=("classes", "y"))
    pixels = noise(tmp_path / "a.png", 9, 5)
    (tmp_path / "names.txt").write_text("red\ngreen\n")  # a mask may have more classes than names
    result = run("predict", model, tmp_path / "a.png", "--out", tmp_path / "1", "--labels", tmp_path / "names.txt")
    assert result.exit_code == 0 and "green" in result.stdout, result.output
    with Image.open(tmp_path / "1" / "a.png") as found:
        np.testing.assert_array_equal(np.asarray(found), pixels.argmax(2))
    assert run("predict", model, tmp_path / "a.png", "--out", tmp_path / "2", "--output", "y").exit_code == 0
    with Image.open(tmp_path / "2" / "a.png") as found:
        np.testing.assert_array_equal(np.asarray(found), pixels)


def test_outputs_that_are_neither_scores_nor_pictures(tmp_path):
    nodes = [("Reshape", ["x", "shape"], ["boxes"], {})]
    model = write(tmp_path / "m.onnx", nodes, {"shape": np.int64([0, -1, 4])}, (("x", ["N", 3, 8, 8]),), ("boxes",))
    result = run("predict", model, tmp_path)
    assert result.exit_code == 2
    assert "'boxes' of (N, 48, 4) float32 is neither scores, one per class, nor a picture or mask" in result.stderr


def test_names_and_pixels_that_the_file_tells(tmp_path):
    onnx = pytest.importorskip("onnx")
    nodes = [("GlobalAveragePool", ["x"], ["g"], {}), ("Flatten", ["g"], ["y"], {})]
    model = write(tmp_path / "m.onnx", nodes, {}, (("x", ["N", 3, 8, 8]),))
    proto = onnx.load(model)
    texts = {"Image.NominalPixelRange": "Normalized_1_1", "Image.BitmapPixelFormat": "Bgr8"}
    onnx.helper.set_model_props(proto, {**texts, "names": "{0: 'blue', 1: 'green', 2: 'red'}"})
    onnx.save(proto, model)
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    result = run("predict", model, tmp_path / "a.png", "--csv", "--top", "1")
    assert result.stderr == ""
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["class"] == "red"
    assert float(row["probability"]) == pytest.approx(np.exp(1) / (np.exp(1) + 2 * np.exp(-1)), rel=1e-4)


# ---------------------------------------------------------------- real models


def real(data_folder, name):
    folder = next((f for f in (data_folder / "models", data_folder.parent / "models") if f.is_dir()), None)
    if folder is None:
        pytest.skip("no folder of models")
    photos = next(f for f in (data_folder / "data", data_folder) if (f / "imagenet_samples").is_dir())
    return folder / f"{name}.onnx", photos / "imagenet_samples", photos / "images"


def squeezenet(image):
    """Short side to 256, centre of 224; blue first, 0 ... 255 minus Caffe's means."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(256 * width / short), int(256 * height / short)), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    x = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32)[:, :, ::-1]
    return x - np.float32([104, 117, 123])


def mobilenet(image):
    x = np.asarray(image.resize((128, 128), Image.Resampling.BILINEAR), np.float32)
    return x / np.float32(127.5) - 1


REAL = {
    "squeezenet1.1_f32": (squeezenet, ["--preprocess", "caffe", "--crop", "256"]),
    "mobilenet_v1_0.25_128_f32": (mobilenet, ["--preprocess", "signed", "--stretch"]),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_classifiers_answer_as_onnx_runtime(name, data_folder, device, monkeypatch):
    """On every photograph: the same first class, the five best and their scores within 1e-3."""
    if device.facts.loop_limit:
        pytest.skip("this driver cuts long loops short, so layers of real networks are refused there")
    model, photos, _ = real(data_folder, name)
    prepare, options = REAL[name]
    result = run("predict", model, photos, *options, "--json", "--device", device.key)
    assert result.exit_code == 0, result.output
    paths = sorted(photos.glob("*.JPEG"))
    images = json.loads(result.stdout)["images"]
    assert [each["image"] for each in images] == [str(path) for path in paths] and len(paths) >= 40
    x = np.stack([prepare(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])
    scores = onnx_runtime(model, x.astype(np.float32))[0].reshape(len(x), -1)
    for each, expected in zip(images, scores, strict=True):
        found = each["predictions"]
        assert found[0]["index"] == expected.argmax()
        np.testing.assert_allclose([f["probability"] for f in found], [expected[f["index"]] for f in found], atol=1e-3)
        np.testing.assert_allclose([f["probability"] for f in found], np.sort(expected)[:-6:-1], atol=1e-3)


@pytest.mark.real_data
def test_real_pictures_equal_those_of_onnx_runtime(data_folder, device, tmp_path):
    """Super-resolution, style transfer and segmentation, in grey levels out of 255."""
    if device.facts.loop_limit:
        pytest.skip("this driver cuts long loops short, so layers of real networks are refused there")
    model, _, images = real(data_folder, "super_resolution_espcn_x3")
    picture = images / "Set5" / "woman_GT.bmp"
    where = ("--device", device.key)
    assert run("predict", model, picture, "--out", tmp_path / "sr", *where).exit_code == 0
    grey = np.asarray(Image.open(picture).convert("L"), np.float32)[None, None] / 255
    expected = onnx_runtime(model, grey)[0][0, 0] * 255
    found = Image.open(tmp_path / "sr" / "woman_GT.png")
    assert found.size == (684, 1032) and found.mode == "RGB"
    assert np.abs(np.asarray(found.convert("L")) - expected.clip(0, 255)).mean() < 1  # colours out of range are cut

    model, _, images = real(data_folder, "faststyle_udnie_f32")
    small = tmp_path / "small.png"
    Image.open(picture).resize((112, 172)).save(small)
    assert run("predict", model, small, "--out", tmp_path / "style", "--preprocess", "none", *where).exit_code == 0
    expected = onnx_runtime(model, np.asarray(Image.open(small), np.float32).transpose(2, 0, 1)[None])[0][0]
    found = np.asarray(Image.open(tmp_path / "style" / "small.png")).transpose(2, 0, 1)
    assert np.abs(found - expected).max() < 0.6

    model, _, images = real(data_folder, "deeplabv3_mnv2_dm05_pascal_513_f32")
    picture = images / "bird_segmentation.bmp"
    result = run("predict", model, picture, "--out", tmp_path / "mask", "--preprocess", "signed", "--json", *where)
    x = np.asarray(Image.open(picture), np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    expected = onnx_runtime(model, x)[0][0]
    found = np.asarray(Image.open(tmp_path / "mask" / "bird_segmentation.png"))
    assert (found == expected).mean() > 0.9995
    assert [each["index"] for each in json.loads(result.stdout)["images"][0]["classes"][:2]] == [0, 3]


@pytest.mark.real_data
def test_a_style_that_reads_blue_first(data_folder, tmp_path):
    """Pictures of one size, transposed convolutions, reflected borders; in grey levels out of 255, colours in order."""
    model, _, images = real(data_folder, "fns_candy_720")
    Image.open(images / "Set5" / "woman_GT.bmp").resize((720, 720)).save(tmp_path / "a.png")
    options = ("--preprocess", "none", "--order", "bgr", "--out", tmp_path / "out")
    assert run("predict", model, tmp_path / "a.png", *options).exit_code == 0
    pixels = np.asarray(Image.open(tmp_path / "a.png"), np.float32)
    expected = onnx_runtime(model, pixels[:, :, ::-1].transpose(2, 0, 1)[None].copy())[0][0, ::-1].transpose(1, 2, 0)
    found = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.abs(found - expected.clip(0, 255)).max() < 0.6


@pytest.mark.real_data
def test_boxes_of_a_detector_are_left_to_python(data_folder):
    model, photos, _ = real(data_folder, "ultraface_rfb320")
    result = run("predict", model, photos)
    assert result.exit_code == 2
    assert "'scores' of (N, 4420, 2) float32 is neither scores, one per class, nor a picture or mask" in result.stderr
    assert "in Python, net.predict returns it (--output names another one: boxes)" in result.stderr


def digits(folder, data_folder):
    """The first twenty of MNIST's test set as pictures."""
    for i, pixels in enumerate(mnist(data_folder / "mnist", train=False).images(np.arange(20))):
        Image.fromarray(pixels[:, :, 0]).save(folder / f"{i:03}.png")


def objects(folder, data_folder):
    """The first two pictures of each class of CIFAR-10's test set, JPEG files."""
    with zipfile.ZipFile(data_folder / "cifar10" / "cifar10_jpeg.zip") as archive:
        names = sorted(name for name in archive.namelist() if "/test/" in name and name.endswith(".jpg"))
        for kind in sorted({name.split("/")[-2] for name in names}):
            for name in [each for each in names if each.split("/")[-2] == kind][:2]:
                (folder / f"{kind}-{name.split('/')[-1]}").write_bytes(archive.read(name))


def imagenet(x):
    return (x / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])


SMALL = {
    "mnist_cntk_opset8": (digits, "L", lambda x: x / 255, ["--preprocess", "unit"]),
    "cifar10_resnet20_akamaster": (objects, "RGB", imagenet, ["--preprocess", "imagenet"]),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", SMALL)
def test_small_real_classifiers_answer_as_onnx_runtime(name, data_folder, device, tmp_path):
    """Scores that are no shares in the file become some; one file insists on batches of one."""
    if device.facts.loop_limit:
        pytest.skip("this driver cuts long loops short, so layers of real networks are refused there")
    model, photos, _ = real(data_folder, name)
    write_pictures, mode, prepare, options = SMALL[name]
    write_pictures(tmp_path, photos.parent)
    result = run("predict", model, tmp_path, *options, "--json", "--device", device.key)
    assert result.exit_code == 0, result.output
    images = json.loads(result.stdout)["images"]
    assert len(images) == 20
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    for each in images:
        pixels = np.asarray(Image.open(each["image"]).convert(mode), np.float32)
        x = prepare(pixels.reshape(*pixels.shape[:2], -1)).transpose(2, 0, 1)[None].astype(np.float32)
        scores = session.run(None, {port.name: x})[0][0].astype(np.float64)
        expected = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        found = each["predictions"]
        assert found[0]["index"] == expected.argmax()
        np.testing.assert_allclose([f["probability"] for f in found], [expected[f["index"]] for f in found], atol=1e-3)
