"""`clconv predict` as a new user tries it: networks that return pictures, ONNX files, the obvious mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from helpers import run as command
from PIL import Image

from clconv.cli.sources import ahead, expand, with_targets
from clconv.errors import ArgumentError
from clconv.net import Net


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return command("predict", *arguments, input=stdin)


def png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def saved(path: Path, pattern: str, weight: np.ndarray, **metadata: object) -> Path:
    """A network of one convolution without bias."""
    net = Net(pattern)
    weights = net.get_weights()
    net.set_weights({name: weight if name.endswith("weight") else 0 * a for name, a in weights.items()})
    net.metadata.update(metadata)
    net.save(path)
    return path


@pytest.fixture
def inverts(tmp_path: Path) -> Path:
    """A network of 12x8 pixels that exchanges red and blue."""
    weight = np.eye(3, dtype=np.float32)[::-1].reshape(3, 3, 1, 1)
    return saved(tmp_path / "inverts.safetensors", "INPUT 12x8x3 -> CONV 1x1x3", np.ascontiguousarray(weight))


@pytest.fixture
def brightest(tmp_path: Path) -> Path:
    """A mask of which channel is the brightest, or 0."""
    weight = np.concatenate([np.full((1, 3), 0.4), np.eye(3)]).astype(np.float32).reshape(4, 3, 1, 1)
    return saved(
        tmp_path / "brightest.safetensors",
        "INPUT 12x8x3 -> CONV 1x1x4",
        weight,
        classes=["grey", "red", "green", "blue"],
    )


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.safetensors"
    Net("INPUT 6x4x3 -> GAP -> FC 3").save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Image.new("RGB", (24, 16), (250, 60, 10)).save(folder / "a.png")
    Image.new("RGB", (12, 8), (20, 30, 200)).save(folder / "b.png")
    Image.new("RGB", (7, 30), (20, 230, 20)).save(folder / "sub" / "a.png")
    return folder


def test_pictures_come_back_in_their_own_size(inverts: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(inverts, photos, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    images = json.loads(result.stdout)["images"]
    assert [(Path(each["file"]).relative_to(out).as_posix(), each["width"], each["height"]) for each in images] == [
        ("a.png", 24, 16),
        ("b.png", 12, 8),
        ("sub/a.png", 7, 30),
    ]
    with Image.open(out / "a.png") as found:
        assert (found.size, found.getpixel((5, 5))) == ((24, 16), (10, 60, 250))
    with Image.open(out / "sub" / "a.png") as found:
        assert found.size == (7, 30)
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.png", "a.png", "b.png"]  # nothing temporary


def test_cropped_pictures_stay_cropped(inverts: Path, photos: Path, tmp_path: Path) -> None:
    result = run(inverts, photos / "a.png", "--out", tmp_path / "out", "--crop", "14", "--csv")
    assert result.stdout == f"image,file,width,height\n{photos / 'a.png'},{tmp_path / 'out' / 'a.png'},12,8\n"


def test_masks_have_colours_and_shares(brightest: Path, photos: Path, tmp_path: Path) -> None:
    half = Image.new("RGB", (24, 16), (250, 10, 10))
    half.paste((10, 10, 250), (0, 0, 6, 16))
    half.save(photos / "half.png")
    result = run(brightest, photos / "half.png", "--out", tmp_path / "out", "--json")
    (found,) = json.loads(result.stdout)["images"]
    assert [(each["class"], each["index"], each["share"]) for each in found["classes"]] == [
        ("red", 1, 0.75),
        ("blue", 3, 0.25),
    ]
    with Image.open(tmp_path / "out" / "half.png") as mask:
        assert (mask.mode, mask.size) == ("P", (24, 16))
        values = np.asarray(mask)
        assert (values[:, :6] == 3).all() and (values[:, 6:] == 1).all()
        assert mask.convert("RGB").getpixel((20, 3)) == (128, 0, 0)
    table = run(brightest, photos / "half.png", "--out", tmp_path / "out", "--overwrite").stdout
    assert "red" in table and "75.00 %" in table and "24x16" in table
    rows = list(csv.DictReader(io.StringIO(run(brightest, photos, "--out", tmp_path / "new", "--csv").stdout)))
    assert [(row["class"], row["rank"]) for row in rows[:2]] == [("red", "1"), ("blue", "1")]


def test_results_never_replace_each_other(inverts: Path, photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (12, 8)).save(photos / "a.bmp")
    images = [photos / "a.png", photos / "a.bmp", photos / "sub" / "a.png", photos / "a.png"]
    result = run(inverts, *images, "--out", tmp_path / "out", "--csv")
    names = [Path(row["file"]).name for row in csv.DictReader(io.StringIO(result.stdout))]
    assert names == ["a.png", "a-2.png", "a-3.png", "a-4.png"]
    again = run(inverts, photos / "a.png", "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "a.png is there already; --overwrite replaces it, another folder leaves it" in again.stderr
    assert run(inverts, photos / "a.png", "--out", tmp_path / "out", "--overwrite").exit_code == 0
    own = run(inverts, photos / "a.png", "--out", photos, "--overwrite")
    assert own.exit_code == 2 and "a.png is one of the pictures to read" in own.stderr
    onto = run(inverts, photos / "a.png", "--out", photos / "b.png")
    assert onto.exit_code == 2 and "a file; results go into a folder" in onto.stderr


def test_names_that_meet_again() -> None:
    sources = with_targets(expand(["x/a.png", "y/A.png", "z/a-2.png"]), Path("nowhere"), overwrite=False)
    assert [source.target.name for source in sources if source.target] == ["a.png", "A-2.png", "a-2-2.png"]


def test_standard_input(classifier: Path, inverts: Path, tmp_path: Path) -> None:
    content = png(Image.new("RGB", (30, 20), (200, 10, 10)))
    result = run(classifier, "-", "--csv", stdin=content)
    assert result.exit_code == 0 and result.stdout.count("standard input,") == 3
    assert run(inverts, "-", "--out", tmp_path / "out", stdin=content).exit_code == 0
    assert (tmp_path / "out" / "stdin.png").is_file()
    empty = run(classifier, "-", stdin=b"")
    assert empty.exit_code == 1
    assert "standard input: empty; send a picture: clconv predict MODEL - < cat.jpg" in empty.stderr
    assert "standard input: not an image" in run(classifier, "-", stdin=b"hello").stderr
    twice = run(classifier, "-", "-", stdin=content)
    assert twice.exit_code == 2 and "it is named twice" in twice.stderr


MISTAKES = {
    "no model": (["{none}.onnx", "{a}"], 2, "none.onnx: there is no such file; MODEL is a file of clconv"),
    "a network without weights": (["zoo:vgg16", "{a}"], 2, "zoo:vgg16: there is no such file; MODEL is"),
    "the model last": (["{a}", "{classifier}"], 2, "a picture, not a model; the model comes first"),
    "no picture": (["{classifier}"], 2, "Missing argument 'IMAGE...'"),
    "missing picture": (["{classifier}", "{none}.jpg"], 1, "none.jpg: there is no such file"),
    "an empty folder": (["{classifier}", "{empty}"], 1, "empty: a folder without pictures (.bmp, .gif"),
    "a text file": (["{classifier}", "{text}"], 1, "text.txt: not an image that Pillow can identify"),
    "a model as text": (["{text}", "{a}"], 2, "text.txt: not a readable safetensors file"),
    "no size": (["{classifier}", "{a}", "--size", "big"], 2, "'big' is neither a number of pixels, such as 224"),
    "crop too small": (["{classifier}", "{a}", "--crop", "5"], 2, "6x4 pixels cannot be cut out"),
    "out on a classifier": (["{classifier}", "{a}", "--out", "x"], 2, "one score per class, no pictures; leave --out"),
    "pictures without out": (["{inverts}", "{a}"], 2, "the network returns pictures; --out DIR says where they go"),
    "labels too few": (["{classifier}", "{a}", "--labels", "{two}"], 2, "2 names, one a line; the network has 3"),
    "labels missing": (["{classifier}", "{a}", "--labels", "{none}"], 2, "none: cannot be read: No such file"),
    "labels for pictures": (["{inverts}", "{a}", "--out", "x", "--labels", "{two}"], 2, "which have no classes"),
    "no such output": (["{classifier}", "{a}", "--output", "z"], 2, "--output z: the network has y"),
    "not a mask": (["{classifier}", "{a}", "--as", "mask"], 2, "(--as mask was asked for)"),
    "three channels are no mask": (["{inverts}", "{a}", "--as", "mask", "--out", "x"], 2, "a picture has 1 or 3"),
    "fixed size": (["{onnx}", "{a}", "--size", "9"], 2, "the network reads pictures of 6x4; leave --size away"),
    "grey": (["{grey}", "{a}", "--preprocess", "imagenet"], 2, "imagenet is for 3 channels, the network reads 1"),
    "five channels": (["{five}", "{a}"], 2, "reads 5 channels; pictures have 3 (RGB) or 1 (grey)"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(
    name: str, classifier: Path, inverts: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no picture and no model")
    (tmp_path / "two").write_text("one\n\ntwo\n")
    places = {"classifier": classifier, "inverts": inverts, "a": photos / "a.png", "text": tmp_path / "text.txt"}
    for key, pattern in (("grey", "INPUT 6x4x1 -> FC 3"), ("five", "INPUT 6x4x5 -> FC 3")):
        places[key] = tmp_path / f"{key}.safetensors"
        Net(pattern).save(places[key])
    arguments, code, message = MISTAKES[name]
    if "{onnx}" in arguments:
        pytest.importorskip("onnx")
        places["onnx"] = tmp_path / "fixed.onnx"
        Net("INPUT 6x4x3 -> CONV 3x3x3 -> FC 3").save(places["onnx"])
    places |= {key: tmp_path / key for key in ("none", "empty", "two")}
    result = run(*(each.format(**places) for each in arguments))
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert not (tmp_path / "x").exists()


def test_odd_names(classifier: Path, inverts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe9.png", "[x] ünïcode.png".encode()):
        (folder / os.fsdecode(name)).write_bytes(png(Image.new("RGB", (6, 4))))
    result = run(classifier, folder, "--csv", "--top", "1")
    assert result.exit_code == 0, result.output
    assert "caf\ufffd.png" in result.stdout and "[x] ünïcode.png" in result.stdout
    assert run(classifier, folder / "[x] ünïcode.png").exit_code == 0  # a name, not a pattern
    assert run(inverts, folder, "--out", tmp_path / "out").exit_code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    long = run(classifier, "a" * 300)
    assert long.exit_code == 1 and "there is no such file" in long.stderr


def test_another_size_where_the_weights_allow_it(inverts: Path, photos: Path, tmp_path: Path) -> None:
    result = run(inverts, photos / "a.png", "--out", tmp_path / "out", "--size", "20x10", "--crop", "20")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "out" / "a.png") as found:
        assert found.size == (20, 10)


def test_labels_as_json(classifier: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["red", "green", "blue, or so"]')
    result = run(classifier, photos / "a.png", "--labels", tmp_path / "names.json", "--csv")
    assert '"blue, or so"' in result.stdout
    (tmp_path / "names.json").write_text('["red", "green"')
    assert "a list that JSON cannot read" in run(classifier, photos, "--labels", tmp_path / "names.json").stderr
    (tmp_path / "names.txt").write_text("red\ngreen")
    assert "class 0 may be the background" in run(classifier, photos, "--labels", tmp_path / "names.txt").stderr


def test_decoding_runs_ahead_but_not_far() -> None:
    """Results keep the order; at most so many are begun beforehand."""
    from concurrent.futures import ThreadPoolExecutor

    begun: list[str] = []

    def work(source: object) -> str:
        begun.append(str(source))
        return str(source)

    sources = expand([f"{i}.png" for i in range(50)])
    with ThreadPoolExecutor(4) as pool:
        for i, result in enumerate(ahead(pool, work, sources, 7)):
            assert result == str(sources[i]) and len(begun) <= i + 7
    assert len(begun) == 50


def test_sources_are_expanded_in_order(photos: Path) -> None:
    found = expand([str(photos / "sub"), str(photos / "?.png"), str(photos / "b.png")])
    assert [Path(source.name).name for source in found] == ["a.png", "a.png", "b.png", "b.png"]
    with pytest.raises(ArgumentError, match="named twice"):
        expand(["-", "x", "-"])
