"""`clconv predict`, `demo` and `selftest`."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run
from PIL import Image

from clconv import reference
from clconv.data import Normalization
from clconv.net import Net


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that names the brightest of three channels."""
    net = Net("INPUT 6x4x3 -> GAP -> FC 3")
    weights = net.get_weights()
    net.set_weights({"fc1.weight": 4 * np.eye(3, dtype=np.float32), "fc1.bias": 0 * weights["fc1.bias"]})
    net.metadata["classes"] = ["red", "green", "blue"]
    net.normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    path = tmp_path_factory.mktemp("model") / "colours.safetensors"
    net.save(path)
    return path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name, colour in (("a", (250, 10, 10)), ("b", (10, 250, 10)), ("c", (10, 10, 250))):
        Image.new("RGB", (13, 17), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def test_answers_keep_the_order(model: Path, pictures: Path) -> None:
    result = run("predict", str(model), str(pictures / "c.png"), str(pictures / "a.png"), "--json")
    assert result.exit_code == 0, result.output
    images = json.loads(result.stdout)["images"]
    assert [each["predictions"][0]["class"] for each in images] == ["blue", "red"]
    shares = [each["probability"] for each in images[0]["predictions"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-6)
    scores = 4 * (np.array([10, 10, 250]) / 255 - 0.5) / 0.25
    expected = np.exp(scores) / np.exp(scores).sum()
    assert shares[0] == pytest.approx(expected[2], rel=1e-5)


def test_folders_and_patterns_are_expanded(model: Path, pictures: Path) -> None:
    for what in (str(pictures), str(pictures / "*.png")):
        result = run("predict", str(model), what, "--csv", "--top", "1", "--batch", "2")
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        assert [(Path(row["image"]).name, row["class"]) for row in rows] == [
            ("a.png", "red"),
            ("b.png", "green"),
            ("c.png", "blue"),
        ]


def test_broken_pictures_are_named_and_the_others_done(model: Path, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"\x89PNG and then nothing")
    images = [str(pictures / name) for name in ("broken.png", "a.png", "none.png", "n*ne.png")]
    result = run("predict", str(model), *images, "--verbose")
    assert result.exit_code == 1
    assert "broken.png: not an image" in result.stderr
    assert "none.png: there is no such file" in result.stderr
    assert "n*ne.png: no file fits the pattern" in result.stderr
    assert "red" in result.stdout
    assert "planned" in result.stderr and "measured" in result.stderr


def test_labels_from_a_file(model: Path, pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("rot\ngrün\nblau\n", encoding="utf-8")
    assert "grün" in run("predict", str(model), str(pictures / "b.png"), "--labels", str(labels)).output
    labels.write_text("one\ntwo\n")
    result = run("predict", str(model), str(pictures / "b.png"), "--labels", str(labels))
    assert result.exit_code == 2 and "2 names, one a line; the network has 3 outputs" in result.output


def test_a_budget_that_is_too_small_is_refused(model: Path, pictures: Path) -> None:
    result = run("predict", str(model), str(pictures), "--memory", "100B")
    assert result.exit_code == 2 and "Nothing was allocated" in result.output


def test_damaged_models_are_refused(model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:-10])
    result = run("predict", str(cut), "a.png")
    assert result.exit_code == 2 and f"{cut}: not a readable safetensors file, or cut off" in result.output


def test_the_demo_draws_and_counts(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    out = tmp_path / "digits.png"
    result = run("demo", "--epochs", "2", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "held-out digits are read wrongly" in result.output
    assert "the peaks are as planned, to the byte" in result.output
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.width > 500


def test_the_demo_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = run("demo", "--out", str(tmp_path / "x.png"))
    assert result.exit_code == 2 and 'pip install "clconv[demo]"' in result.output
    result = run("demo", "--out", "x.txt")
    assert result.exit_code == 2 and "the picture is a .png file; x.png would fit" in result.output


def test_the_verdict_of_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case for case in reference.CASES if case.layer in ("FC", "MaxPool") and case.small][:6]
    monkeypatch.setattr("clconv.cli.selftest.CASES", cases)
    result = run("selftest")
    assert result.exit_code == 0, result.output
    assert f"all {len(cases)} cases pass" in result.output
    assert "driver_version" in result.output


def test_a_failing_case_is_a_failing_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    from clconv.cli import selftest

    def check(case: reference.Case, device: object) -> object:
        raise RuntimeError("the driver is on fire")

    monkeypatch.setattr(selftest, "check", check)
    monkeypatch.setattr(selftest, "CASES", reference.CASES[:20])
    result = run("selftest", "--json")
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["failed"] == 20 and "the driver is on fire" in content["layers"][0]["problems"][0]
    assert "20 of 20 cases FAIL" in run("selftest").output
