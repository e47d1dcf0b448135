"""The comparison with other engines: figures, file, picture; a short run where ONNX Runtime is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import clconv as cc
from clconv.errors import OutOfMemoryError
from clconv.limits import Limits

sys.path.append(str(Path(__file__).resolve().parent.parent))  # benchmarks/ is no part of the package

from benchmarks import __main__ as benchmarks
from benchmarks import engines, gpu, networks

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "limits", lambda device: Limits(1e9, 1e9))


def test_a_quick_run_writes_figures_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "new" / "quick"
    assert benchmarks.main(["infer", "--quick", "--seconds", "0.1", "--out", str(out)]) == 0
    content = json.loads(out.with_suffix(".json").read_text())
    (row,) = content["rows"]
    assert row["network"] == networks.SMALLEST and set(row["engines"]) == {"onnxruntime", "clconv"}
    assert row["speed_over_best"] > 0 and row["best"] == "onnxruntime" and row["notes"] == {}
    assert max(row["relative_error"].values()) < 1e-5
    assert {"machine", "device", "versions", "commit", "peak", "load_average", "date"} <= set(content)
    assert f"{networks.SMALLEST}, 2: onnxruntime" in capsys.readouterr().out
    if importlib.util.find_spec("matplotlib"):
        assert out.with_suffix(".png").stat().st_size > 10_000
        out.with_suffix(".png").unlink()
        assert benchmarks.main(["plot", str(out.with_suffix(".json"))]) == 0 and out.with_suffix(".png").exists()


def test_runs_take_turns_in_a_rotating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "BURST_S", 0)
    monkeypatch.setattr(benchmarks, "PAUSE_S", 0)
    monkeypatch.setattr(benchmarks, "SHORT_S", 0)
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = benchmarks.interleave(runs, 0, 3)
    assert "".join(order) == "abcbcacab" and [len(spent) for spent in times.values()] == [3, 3, 3]


def test_short_runs_fill_a_burst_and_are_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "BURST_S", 0.02)
    calls: list[int] = []
    times = benchmarks.interleave({"a": lambda: (calls.append(1), time.sleep(0.001))}, 0, 2)
    assert len(times["a"]) >= 10 and len(calls) == len(times["a"]) + 1, "one before the second burst is not counted"


def test_what_fails_or_differs_is_named_and_the_others_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(task: engines.Task) -> engines.Run:
        raise RuntimeError("no such engine")

    fakes = {"onnxruntime": fails, "openvino": lambda task: lambda: np.ones((1, 10)), "clconv": engines._clconv}
    monkeypatch.setattr(benchmarks, "INFERENCE", fakes)
    row = benchmarks.infer(networks.SMALLEST, 1, ["clconv", "onnxruntime", "openvino"], 0, None)
    assert row["notes"]["onnxruntime"] == "RuntimeError: no such engine"
    assert "its outputs differ by" in row["notes"]["openvino"]
    assert set(row["engines"]) == {"clconv"} and "speed_over_best" not in row


@needs_torch
@pytest.mark.parametrize("name", ["lenet", "squeezenet", "mobilenetv2"])
def test_pytorch_has_the_same_network(name: str) -> None:
    import torch

    with cc.Net(networks.NETWORKS[name]()) as net:
        size = net.network.input_shape
        x = np.random.default_rng(0).standard_normal((1, *size), np.float32)
        with torch.inference_mode():
            got = networks.torch_network(net).eval()(torch.from_numpy(x)).numpy()
        expected = net.predict(x)
        assert np.linalg.norm(got.reshape(expected.shape) - expected) < 1e-4 * np.linalg.norm(expected)


@needs_torch
def test_training_steps_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "LEAST_ROUNDS", 1)
    row = benchmarks.train(networks.SMALLEST, 4, ["torch", "clconv"], 0, None)
    assert set(row["engines"]) == {"torch", "torch channels-last", "clconv"} and row["notes"] == {}


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in ((["plot"], "plot needs the file"), (["infer", "--networks", "resnet16"], "invalid choice")):
        with pytest.raises(SystemExit):
            benchmarks.main(arguments)
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("with_torch", [pytest.param(True, marks=needs_torch), False])
def test_the_comparison_on_a_gpu_runs_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], with_torch: bool
) -> None:
    monkeypatch.setattr("clconv.bench.limits", lambda device: Limits(1e9, 1e9))
    if not with_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    out = tmp_path / "gpu"
    assert gpu.main(["--quick", "--out", str(out)]) == 0
    content = json.loads(out.with_suffix(".json").read_text())
    rows = content["rows"]
    assert [row.get("layer") or row["network"] for row in rows[1:]] == ["1x1/1, 32 -> 10 at 1", "lenet", "lenet"]
    assert set(rows[0]["clconv"]) == {"forward", "gradients"} and rows[0]["clconv"]["gradients"]["ms"] > 0
    assert len(rows[0]["clconv"]["gradients"]["algorithms"]) >= 2  # of the input and of the weights
    assert rows[-1]["clconv"]["train"]["ms"] > rows[-2]["clconv"]["infer"]["ms"] > 0
    assert with_torch == ("float32" in rows[0]["torch"])
    table = out.with_suffix(".md").read_text()
    told = capsys.readouterr()
    assert "| lenet, train | 2 |" in table and table in told.out and "4/4  lenet, train, batch of 2" in told.err
    assert ("* PyTorch is not installed" in table) == (not with_torch)
    assert "is no GPU: the figures show only that the script works" in told.err or content["device"]["kernels"] == "gpu"
    if importlib.util.find_spec("matplotlib"):
        assert out.with_suffix(".png").stat().st_size > 10_000


def test_what_cannot_be_measured_on_a_gpu_is_named_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clconv.bench.limits", lambda device: Limits(1e9, 1e9))
    monkeypatch.setitem(sys.modules, "torch", None)

    def fails(*_: object) -> dict[str, object]:
        raise OutOfMemoryError("network: too large")

    monkeypatch.setattr(gpu, "network_row", fails)
    monkeypatch.setattr(gpu, "verify", lambda case, device: ["y differs"])
    assert gpu.main(["--quick", "--out", str(tmp_path / "gpu")]) == 1
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert len(content["rows"]) == 2 and "lenet, train, batch of 2: clconv: network: too large" in content["notes"]
    assert f"{gpu.CASES[0]}: y differs" in content["notes"]


def test_a_device_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--quick", "--device", "no such card"]) == 1
    assert "no device is called 'no such card'" in capsys.readouterr().err


@needs_torch
def test_outputs_that_differ_on_a_gpu_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clconv.bench.limits", lambda device: Limits(1e9, 1e9))
    monkeypatch.setattr(gpu, "check", lambda *_: 0.5)
    assert gpu.main(["--quick", "--out", str(tmp_path / "gpu")]) == 1
    assert "lenet: the outputs differ from PyTorch's by 0.5 of their norm" in (tmp_path / "gpu.md").read_text()
