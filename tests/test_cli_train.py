"""`clconv train`: files in, a model out; interruptions; what is refused."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from clconv.cli import main
from clconv.io.model_file import read_model
from clconv.net import load

ROOT = Path(__file__).resolve().parent.parent
NET = "INPUT 8x8x1 -> CONV 3x3x8 -> RELU -> POOL -> FC 3"
CLASSES = ["across", "down", "slanted"]


def bars(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Grey images of a line across, down or slanted, with noise."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.integers(0, 60, (count, 8, 8, 1)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        place = rng.integers(1, 7)
        if label == 0:
            image[place] = 255
        elif label == 1:
            image[:, place] = 255
        else:
            image[range(8), np.arange(8)] = 255
    return x, y.astype(np.int32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .npz file with a test set."""
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    (x, y), (x_test, y_test) = bars(300, 1), bars(60, 2)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test, classes=CLASSES)
    return path


def train(data: Path, out: Path, *more: str, net: str = NET) -> Result:
    arguments = ["train", str(data), "--net", net, "--out", str(out), "--batch", "32", *more]
    return CliRunner().invoke(main, arguments)


def test_a_model_comes_out(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    result = train(data, out, "--epochs", "4")
    assert result.exit_code == 0, result.output
    assert "epoch 4/4  loss" in result.output
    assert "test accuracy 100.00 %" in result.output
    assert f"model written to {out}" in result.output
    net = load(out)
    assert net.metadata["classes"] == CLASSES
    assert net.normalization is not None and net.normalization.mean != (0.0,)


def test_json_is_all_of_standard_output(data: Path, tmp_path: Path) -> None:
    options = "--epochs 2 --json --validation 0.2 --optimizer adam --schedule step --warmup 3 --loss svm"
    result = train(data, tmp_path / "m.safetensors", *options.split(), "--crop", "1", "--jitter", "0.1,0.1,0")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert len(content["history"]["val_accuracy"]) == 2
    assert 0 <= content["test"]["accuracy"] <= 1
    for mode in ("train", "test"):
        assert content["bytes"][mode]["planned"] == content["bytes"][mode]["measured"] > 0
    assert "epoch 2/2" in result.stderr


def test_a_disk_without_room_is_seen_before(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**6, 10**6 - 3000, 3000))
    arrays = 4 * (80 + 387)
    result = train(data, tmp_path / "m.safetensors", "--checkpoint", str(tmp_path / "c.safetensors"))
    assert result.exit_code == 2 and "epoch" not in result.output
    assert f"c.safetensors: the file takes {2 * arrays} bytes, but the disk has 3000 left; nothing" in result.output
    assert train(data, tmp_path / "m.safetensors", "--epochs", "1").exit_code == 0


def test_a_model_is_trained_further(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert train(data, first, "--epochs", "1").exit_code == 0
    assert train(data, second, "--epochs", "1", net=str(first)).exit_code == 0
    assert load(second).normalization == load(first).normalization


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of class folders, with one damaged file."""
    folder = tmp_path_factory.mktemp("pictures")
    x, y = bars(60, 3)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        (folder / CLASSES[label]).mkdir(exist_ok=True)
        Image.fromarray(image[:, :, 0]).resize((20, 16)).save(folder / CLASSES[label] / f"{i}.png")
    (folder / CLASSES[0] / "broken.png").write_bytes(b"no picture")
    return folder


def test_pictures_are_brought_to_the_size_of_the_network(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    refused = train(pictures, out, "--epochs", "1")
    assert refused.exit_code == 2 and not out.exists()
    assert "broken.png: not an image that Pillow can identify; --damaged skip leaves such files out" in refused.output
    result = train(pictures, out, "--epochs", "1", "--damaged", "skip", "--validation", "0.2", "--flip")
    assert result.exit_code == 0, result.output
    assert "skipped" in result.output and "broken.png" in result.output
    assert "validation accuracy" in result.output
    assert load(out).metadata["classes"] == CLASSES


def test_a_network_of_the_zoo_takes_size_and_classes_from_the_data(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = train(pictures, out, "--epochs", "0", "--damaged", "skip", "--size", "16", net="mobilenetv2")
    assert result.exit_code == 0, result.output
    assert (load(out).network.input_shape, load(out).network.output_shape) == ((3, 16, 16), (3, 1, 1))


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        ("INPUT 9x9x1 -> FC 3", [], "a network for INPUT 8x8x1 would fit"),
        ("INPUT 8x8x1 -> FC 4", [], "4 outputs but .* has 3 classes; a network that ends in FC 3"),
        ("INPUT 8x8x1 -> CONV 3x3x3", [], "not one score per class"),
        (NET, ["--memory", "10KB"], r"does not fit 10000 bytes .* at least \d+ "),
        (NET, ["--momentum", "0.5", "--optimizer", "adam"], "--momentum is for"),
        (NET, ["--resume"], "need --checkpoint FILE"),
        (NET, ["--jitter", "1,2"], "is not three numbers"),
        (NET, ["--validation", "1"], "0<x<1"),
        (NET, ["--crop", "8"], "crop_pad=8 does not fit images of 8x8"),
        (NET, ["--rate", "0"], "not a number above 0"),
        (NET, ["--out", "model.onnx"], "model.safetensors would fit"),
        (NET, ["--out", "nowhere/model.safetensors"], "nothing was trained"),
    ],
)
def test_what_does_not_fit_is_refused(data: Path, tmp_path: Path, net: str, options: list[str], message: str) -> None:
    result = train(data, tmp_path / "m.safetensors", *options, net=net)
    assert result.exit_code == 2
    assert re.search(message, " ".join(result.output.split())), result.output
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_at_once_comes_in_parts(data: Path, tmp_path: Path) -> None:
    """With batch normalisation only where that is asked for."""
    net, out = "INPUT 8x8x1 -> [CONV 3x3x32 -> BN -> RELU]*3 -> POOL -> FC 3", tmp_path / "m.safetensors"
    refused = train(data, out, "--memory", "1.2MB", "--batch", "32", net=net)
    assert refused.exit_code == 2
    assert 'With bn="per_micro_batch"' in " ".join(refused.output.split())
    result = train(data, out, "--memory", "1.2MB", "--batch", "32", "--bn", "per_micro_batch", "--epochs", "1", net=net)
    assert result.exit_code == 0, result.output
    assert out.exists()


def test_missing_data_is_refused(tmp_path: Path) -> None:
    result = train(tmp_path / "none", tmp_path / "m.safetensors")
    assert result.exit_code == 2 and "does not exist" in result.output


def interrupted(data: Path, folder: Path, *more: str) -> tuple[int, str]:
    """A run that gets Ctrl-C after its first epoch: exit code and output."""
    arguments = [str(data), "--net", NET, "--out", str(folder / "m.safetensors"), "--batch", "8", *more]
    command = [sys.executable, "-m", "clconv", "train", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where this process ignores it
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("epoch "):
            time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            break
    lines += process.stdout.readlines()
    return process.wait(timeout=60), "".join(lines)


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    options = ["--epochs", "400", "--schedule", "constant", "--checkpoint", str(checkpoint)]
    code, output = interrupted(data, tmp_path, *options)
    assert code == 130, output
    assert "with --resume goes on" in output
    assert not (tmp_path / "m.safetensors").exists()
    done = len(load_history(checkpoint)["loss"])
    assert 1 <= done < 400
    rest = [str(done + 1), "--schedule", "constant", "--checkpoint", str(checkpoint), "--resume", "--json"]
    resumed = train(data, tmp_path / "m.safetensors", "--batch", "8", "--epochs", *rest)
    assert resumed.exit_code == 0, resumed.output
    history = json.loads(resumed.stdout)["history"]
    assert len(history["loss"]) == done + 1 and not history["interrupted"]
    straight = train(
        data, tmp_path / "s.safetensors", "--batch", "8", "--epochs", str(done + 1), "--schedule", "constant"
    )
    assert straight.exit_code == 0
    a, b = load(tmp_path / "m.safetensors").get_weights(), load(tmp_path / "s.safetensors").get_weights()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def load_history(checkpoint: Path) -> dict[str, Any]:
    history: dict[str, Any] = read_model(checkpoint).training["position"]["history"]
    return history


def test_ctrl_c_without_a_checkpoint_keeps_the_model(data: Path, tmp_path: Path) -> None:
    code, output = interrupted(data, tmp_path, "--epochs", "400")
    assert code == 130, output
    kept = tmp_path / "m.interrupted.safetensors"
    assert str(kept) in output
    assert load(kept).metadata["classes"] == CLASSES
