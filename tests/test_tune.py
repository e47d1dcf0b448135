"""`clconv tune`: candidates that hang, crash or compute wrongly cost time only; what is fastest is kept and used."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import run as command
from tune_fakes import Fake

import clconv as cc
from clconv import trial, tune, tuned
from clconv._core.window import Window
from clconv.device import Device, choose
from clconv.errors import ClconvError
from clconv.shapes import TensorSpec
from clconv.trial import Bench, Job
from clconv.tune import Found, Target

X, W, BIAS = TensorSpec((2, 20, 9, 9)), TensorSpec((40, 20, 3, 3), layout="filter"), TensorSpec((1, 40, 1, 1))


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Nothing tuned yet; kernels stay cached."""
    monkeypatch.setattr(tuned, "file", lambda facts: tmp_path / "tuned.json")
    monkeypatch.setenv("CLCONV_TUNING", "1")
    yield tmp_path
    tuned._read.clear()


def target(device: Device, *names: str) -> Target:
    job = Job(Fake(Window((3, 3), pads=((1, 1), (1, 1))), names), (X, W, BIAS))
    node = job.graph().nodes[0]
    specs, outs = node.input_specs(), [value.spec for value in node.outputs]
    choices = job.layer.choices(device.facts, specs, outs)
    return Target(tuned.shape_class(job.layer, specs, outs), job, choices, ["conv1"])


def search(device: Device, wanted: Target, seconds: float = 60, limit_s: float = 20) -> tuple[Found, list[Any]]:
    told: list[Any] = []
    (found,) = tune.search(device, [wanted], seconds, report=told.append, limit_s=limit_s)
    return found, told


def test_the_fastest_is_found_and_kept(device: Device) -> None:
    if device.facts.loop_limit:
        pytest.skip("its compiler takes longer than the search")
    wanted = target(device)
    found, told = search(device, wanted)
    assert found.choice.name.startswith("fast") and found.gain > 1.5 and found.notes == () and found.complete
    entry = tuned.entries(device.facts)[wanted.name]
    assert entry.algorithm == found.choice.name and entry.gain == pytest.approx(found.gain, rel=1e-3)
    assert [(now.layer, now.tried, now.candidates) for now in told] == [("conv1", 1, 1)]
    layer, node = wanted.job.layer, wanted.job.graph().nodes[0]
    assert layer.offered(device.facts, node.input_specs(), [v.spec for v in node.outputs])[0] == found.choice


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hangs", "it did not end within 2 s"),
        ("crashes", "its process ended (SIGABRT)"),
        ("leaves", "its process ended (code 3)"),
        ("is wrong", "it computes wrong results: off by"),
        ("writes nothing", "it leaves outputs unwritten"),
    ],
)
def test_a_bad_candidate_is_left_out_and_named(name: str, reason: str) -> None:
    device = choose()
    found, told = search(device, target(device, name), limit_s=2 if name == "hangs" else 20)
    ((candidate, why),) = found.notes
    assert candidate.startswith(name) and reason in why
    assert found.choice.name.startswith("fast") and found.complete, "the search went on"
    assert [now.tried for now in told] == [1, 2]


def test_a_wrong_default_ends_the_search_of_its_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    device = choose()
    wanted = target(device, "is wrong")
    wanted.job.layer.__class__ = WrongFirst
    found, _ = search(device, wanted)
    assert "the default choice: it computes wrong results" in found.notes[0][1] and not found.complete
    assert tuned.entries(device.facts) == {}


class WrongFirst(Fake):
    def choices(self, *arguments: Any) -> list[Any]:
        return super().choices(*arguments)[1:]


def test_the_time_is_kept() -> None:
    device = choose()
    started = time.monotonic()
    assert tune.search(device, [target(device)], 0) == []
    found, _ = search(device, target(device, *["hangs"] * 5), seconds=3, limit_s=2)
    assert time.monotonic() - started < 20 and found.tried < 6 and not found.complete


def test_a_search_goes_on_where_the_last_one_ended() -> None:
    device = choose()
    wanted = target(device, "writes nothing", "is wrong")
    fast = wanted.choices[-1]
    tuned.store(device.facts, {wanted.name: tuned.Entry(fast.name, dict(fast.tiles), 1e6, tried=2)})
    found, told = search(device, wanted)
    assert [now.tried for now in told] == [3] and found.notes == () and found.complete
    assert found.choice == fast and found.gain == 1e6 and tuned.entries(device.facts)[wanted.name].tried == 3
    again, told = search(device, wanted)
    assert told == [] and again.choice == fast


CONV = Window((3, 3), stride=(2, 1), pads=((1, 0), (1, 1)), dilation=(1, 2), rounding="floor")
POINT = TensorSpec((40, 20, 1, 1), layout="filter")


def jobs() -> dict[str, Job]:
    from clconv._core.conv import Conv2d, ConvTranspose2d
    from clconv._core.conv_depthwise import DepthwiseConv2d
    from clconv._core.conv_winograd import WinogradConv2d
    from clconv._core.fc import FullyConnected

    adds = Conv2d(Window((1, 1))).with_(adds=True)
    halves = TensorSpec((2, 16, 9, 9)), TensorSpec((2, 4, 9, 9))
    grouped = TensorSpec((40, 10, 3, 3), layout="filter", groups=2)
    made = {
        "conv": (Conv2d(CONV), (X, W, BIAS)),
        "no bias": (Conv2d(CONV), (X, W, None)),
        "residual": (adds, (X, POINT, BIAS, TensorSpec((2, 40, 9, 9)))),
        "pieces": (Conv2d(CONV), (halves, W, BIAS)),
        "planar": (Conv2d(CONV), (TensorSpec((2, 20, 9, 9), layout="plain"), W, BIAS)),
        "groups": (Conv2d(CONV), (X, grouped, BIAS)),
        "transpose": (
            ConvTranspose2d(Window((3, 3), stride=(2, 2), pads=((1, 1), (1, 1)), rounding="floor"), (18, 18)),
            (X, W, BIAS),
        ),
        "winograd": (WinogradConv2d(((1, 1), (1, 1))), (X, W, BIAS)),
        "pooled": (Conv2d(CONV).with_(pool="max"), (X, W, BIAS)),
        "winograd, pooled": (WinogradConv2d(((1, 1), (1, 1))).with_(pool="avg"), (X, W, BIAS)),
        "depthwise": (DepthwiseConv2d(CONV), (X, TensorSpec((1, 20, 3, 3)), TensorSpec((1, 20, 1, 1)))),
        "fc": (FullyConnected(), (X, TensorSpec((40, 20, 9, 9), layout="filter"), BIAS)),
    }
    return {name: Job(layer, inputs) for name, (layer, inputs) in made.items()}


@pytest.mark.parametrize("name", jobs())
def test_each_kind_of_operator_agrees_with_its_reference(device: Device, name: str) -> None:
    if name.startswith("winograd") and not device.facts.workers:
        pytest.skip("this device does not use the method")
    if name not in ("conv", "fc") and device.facts.loop_limit:
        pytest.skip("its compiler takes many seconds")
    job = jobs()[name]
    bench = Bench(device, job)
    try:
        choices = bench.choices
        for choice in {choices[0], choices[len(choices) // 2], choices[-1]}:
            assert bench.verify(choice) == ""
        (y,) = bench.verified.values()
        for image in {0, len(y) - 1}:  # an error anywhere in the first and the last image is seen
            wrong = y.copy()
            wrong[image, -1, -1, -1] += 0.1
            assert "wrong results" in bench.expected.problem(wrong)
    finally:
        bench.release()


def test_other_bits_are_no_tuning(device: Device) -> None:
    """Budgets and strips rely on it: a tile never changes a result."""
    bench = Bench(device, jobs()["conv"])
    try:
        (name,) = bench.verified
        bench.verified[name] = np.nextafter(bench.verified[name], np.float32(np.inf), dtype=np.float32)
        assert bench.verify(bench.choices[0]) == "its results have other bits than the default's"
    finally:
        bench.release()


def test_what_the_reference_refuses_is_an_error(device: Device) -> None:
    job = Job(trial.Conv2d(Window((3, 3), pads=((-1, 0), (0, 0)))), (X, W, BIAS))
    with pytest.raises(ClconvError):
        Bench(device, job)


def test_targets_are_what_can_be_chosen_the_largest_first(device: Device) -> None:
    with cc.Net("INPUT 16x16x20 -> [CONV 3x3x32 -> RELU]*4 -> POOL -> FC 10", device=device) as net:
        for mode in ("test", "train"):
            plan = tune.plan_of(net.network, device, 2, mode)
            found = tune.targets(plan)
            assert [each.flops for each in found] == sorted((each.flops for each in found), reverse=True)
            assert all(len(each.choices) > 1 for each in found)
            names = [name for each in found for name in each.layers]
            assert {"conv1", "conv2", "conv3"} <= set(names)
            assert any({"conv2", "conv3"} <= set(each.layers) for each in found), "one class, tuned once"


def run(*arguments: str) -> Result:
    return command("tune", *arguments, env={"COLUMNS": "100"})


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "SAMPLING_S", 0)
    monkeypatch.setattr(tune, "CONFIRMING_S", 0)
    pattern = "INPUT 8x8x20 -> FC 40"
    result = run(pattern, "--seconds", "30")
    assert result.exit_code == 0, result.output
    assert "1 kind of operator to tune" in result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["layers", "default", "faster", "speed", "tried"] and lines[1].startswith("fc1")
    assert max(map(len, lines[:2])) <= 100 and "are faster than their default; kept in" in lines[-1]
    again = run(pattern)
    assert "nothing to tune: 1 kind of operator tuned earlier; --fresh does it again" in again.stderr
    content = json.loads(run(pattern, "--seconds", "30", "--fresh", "--json").stdout)
    assert content["kinds"] == 1 and content["found"][0]["layers"] == ["fc1"] and content["found"][0]["tried"] > 0
    assert "no operator of the network leaves a choice" in run("INPUT 8x8x3 -> POOL").stderr


def test_ctrl_c_ends_the_search_and_its_process(folder: Path) -> None:
    script = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_tune
from clconv import tune
from clconv.device import choose
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent in the background hands on that it is ignored
started = tune._Child._start
def start(child):
    started(child)
    print(child._process.pid, flush=True)
    threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()
tune._Child._start = start
device = choose()
try:
    tune.search(device, [test_tune.target(device, "hangs")], 60)
except KeyboardInterrupt:
    print("interrupted")
"""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, timeout=60)
    pid, said = done.stdout.split()
    assert said == "interrupted", done.stderr
    assert not Path("/proc", pid).exists()


def test_a_network_computes_the_same_bits_tuned_or_not(device: Device) -> None:
    if not device.facts.workers:
        pytest.skip("slow")
    x = np.random.default_rng(0).standard_normal((2, 20, 16, 16), np.float32)
    outputs = []
    for which in (0, -1):
        with cc.Net("INPUT 16x16x20 -> [CONV 3x3x32 -> RELU]*2 -> POOL -> FC 10", device=device) as net:
            for each in tune.targets(tune.plan_of(net.network, device, 2, "test")):
                choice = each.choices[which]
                tuned.store(device.facts, {each.name: tuned.Entry(choice.name, dict(choice.tiles), 1.0)})
            outputs.append(net.predict(x))
    assert outputs[0].tobytes() == outputs[1].tobytes()
