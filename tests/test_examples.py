"""Every example runs, on a few generated images."""

import runpy
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clconv as cc

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example with arguments in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def execute(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return execute


def idx_folder(folder: Path, **counts: int) -> Path:
    """IDX files of grey squares on black whose corner tells the digit."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for part, count in counts.items():
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 9, 6:20] = 220
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes())
    return folder


def class_folders(folder: Path, count: int, size: int, classes=("blue", "green", "red")) -> Path:
    """Folders of pictures in the colour that their name says."""
    rng = np.random.default_rng(1)
    for channel, name in enumerate(reversed(classes)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 90, (size, size, 3), np.uint8)
            image[:, :, channel] += 150
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return folder


def test_they_are_short():
    assert all(len(path.read_text().splitlines()) < 60 for path in EXAMPLES.glob("*.py"))


def test_mnist(run, tmp_path):
    folder = idx_folder(tmp_path / "digits", train=80, t10k=20)
    printed = run("mnist.py", folder, "--images", 64, "--epochs", 2)
    assert "test accuracy" in printed and "ran so far" in printed
    assert Image.open("filters.png").mode == "L"
    with cc.load("mnist.safetensors") as net:
        assert net.metadata["classes"] == [str(digit) for digit in range(10)]
        assert net.normalization is not None


def test_cifar10(run, tmp_path):
    for part, count in (("train", 14), ("test", 2)):
        class_folders(tmp_path / "images" / part, count, 32)
    printed = run("cifar10.py", tmp_path / "images", "--images", 32, "--epochs", 2)
    assert "epoch 2/2" in printed and "wrote cifar10.safetensors" in printed
    again = run("cifar10.py", tmp_path / "images", "--images", 32, "--epochs", 2, "--resume")
    assert "epoch" not in again.replace("epochs", "")  # nothing was left to do
    assert cc.load("cifar10.safetensors").network.output_shape == (3, 1, 1)


def test_finetune_folder(run, tmp_path):
    trained = cc.Net("INPUT 16x16x3 -> CONV 3x3x8 -> BN -> RELU -> POOL -> [FC 16 -> RELU] -> FC 10", seed=3)
    trained.normalization = cc.Normalization((0.5,), (0.25,))
    trained.save(tmp_path / "trained.safetensors")
    folder = class_folders(tmp_path / "photos", 10, 20)
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    printed = run("finetune_folder.py", "trained.safetensors", folder, "--epochs", 8)
    assert printed.splitlines()[-1] == "3 classes: blue, green, red; wrote finetuned.safetensors"
    with cc.load("finetuned.safetensors") as net:
        assert net.network.output_shape == (3, 1, 1) and net.normalization == trained.normalization
        pictures = cc.data.ImageFolder(folder, 16, damaged="skip")
        assert net.evaluate(pictures)["accuracy"] > 0.8
        before, after = trained.get_weights()["conv1.weight"], net.get_weights()["conv1.weight"]
        assert 0 < np.abs(after - before).max() < 0.3  # it began with the trained weights


def test_residual_network(run, tmp_path):
    folder = class_folders(tmp_path / "images", 14, 32)
    printed = run("residual_network.py", folder, "--depth", 1, "--images", 32, "--epochs", 1)
    assert "epoch 1/1" in printed and "Add" in printed
    network = cc.load("residual.safetensors").network
    assert sum(isinstance(entry.layer, cc.Conv) for entry in network.entries) == 1 + 3 * 2 + 2
