"""`clconv bench`: operators measured beside the device's peak, as a table, as JSON, as a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import run as command

import clconv as cc
from clconv import bench, limits
from clconv.device import Device
from clconv.errors import BudgetError
from clconv.limits import Limits

PATTERN = "INPUT 12x12x3 -> CONV 3x3x20 -> RELU -> POOL -> FC 10"
PEAK = Limits(1e9, 1e8)


@pytest.fixture(autouse=True)
def peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks that take no time to measure."""
    monkeypatch.setattr(bench, "limits", lambda device: PEAK)


def measured(device: Device, **how: Any) -> bench.Benchmark:
    with cc.Net(PATTERN, device=device) as net:
        return bench.measure(net.network, device, net.get_weights(), seconds=0, **how)


@pytest.mark.parametrize("mode", ["test", "train"])
def test_every_operator_is_measured(device: Device, mode: str) -> None:
    made = measured(device, mode=mode, batch=2)
    with cc.Net(PATTERN, device=device) as net:
        plan = net.plan(2, mode)
    assert [step.operator for step in made.steps] == [node.layer.operator for node in plan.graph.nodes]
    assert sum(step.flops for step in made.steps) == plan.flops
    assert made.peak_bytes == plan.peak_bytes and list(made.live_bytes) == plan.live_bytes
    assert sum(step.launches for step in made.steps) == len(made.timeline)
    assert all(step.seconds > 0 for step in made.steps if step.launches)
    assert 0 < made.run_least_s <= made.run_s <= made.run_most_s and made.replays >= bench.LEAST_REPLAYS
    assert made.sum_s == pytest.approx(sum(step.seconds for step in made.steps))
    assert {"conv1", "fc1"} <= {step.layer for step in made.steps}


def test_replays_of_training_compute_what_a_step_does(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inputs are there in each, though a run overwrites them; the weights stay as they are."""
    seen = []
    finish = bench._replay

    def replay(session: Any, plan: Any, feeds: Any, seconds: float) -> Any:
        before = {name: session.read(name) for name in session.names if session.role(name) == "param"}
        found = finish(session, plan, feeds, seconds)
        executable = session.prepare(plan)
        loss = np.empty(2, np.float32)
        executable.outputs["loss"].read(loss)
        seen.append(loss)
        assert all(np.array_equal(before[name], session.read(name)) for name in before)
        assert any(session.read(name).any() for name in session.names if session.role(name) == "optimizer"), (
            "updates ran"
        )
        return found

    monkeypatch.setattr(bench, "_replay", replay)
    measured(device, mode="train", batch=2)
    assert np.isfinite(seen[0]).all()


def test_shares_of_the_peak() -> None:
    step = bench.Step("conv1", "Conv2d", "direct", 1, 2.0, 10**9, 10**7)
    assert step.share(PEAK) == (0.5, "compute")
    assert bench.Step("pool", "Pool2d", "", 1, 2.0, 10**6, 10**8).share(PEAK) == (0.5, "memory")
    assert bench.Step("cut", "Flatten", "", 0, 0.0, 0, 0).share(PEAK)[0] == 0
    assert PEAK.floor_s(2e9, 1e8) == 2 and PEAK.floor_s(1e9, 5e8) == 5


def test_more_than_the_budget_is_refused(device: Device) -> None:
    for mode in ("test", "train"):
        with pytest.raises(BudgetError, match="Nothing was allocated"):
            measured(device, mode=mode, budget=1000)


def test_the_trace_shows_the_queue_and_the_bytes_alive(device: Device) -> None:
    made = measured(device, mode="train", batch=2, name="small")
    trace = json.loads(json.dumps(made.to_trace()))
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    assert any(event["args"] == {"name": "queue"} for event in events)
    launches = [event for event in events if event["ph"] == "X"]
    assert len(launches) == len(made.timeline)
    for event, launch in zip(launches, made.timeline, strict=True):
        assert event["name"] == launch.label and event["cat"] == made.steps[launch.step].operator
        assert event["ts"] == pytest.approx(1e6 * launch.start_s) and event["dur"] >= 0
    starts = [event["ts"] for event in launches]
    assert starts[0] == 0 and starts == sorted(starts), "the queue is in order"
    counters = [event for event in events if event["ph"] == "C"]
    ran = [i for i, step in enumerate(made.steps) if step.launches]
    assert [event["args"]["arena"] for event in counters] == [made.live_bytes[i] for i in ran]
    assert {event["args"]["persistent"] for event in counters} == {made.persistent_bytes}


def run(*arguments: str) -> Result:
    return command("bench", *arguments, env={"COLUMNS": "100"})


def test_the_table_fits_a_terminal(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = run("lenet", "--batch", "2", "--seconds", "0", "--trace", str(trace))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("lenet, 2 images, on ")
    table = lines[2 : lines.index("", 3)]
    assert table[0].split()[:3] == ["layer", "operator", "algorithm"] and max(map(len, table)) <= 100
    assert [line.split()[0] for line in table[1:3]] == ["conv1", "conv2"]
    for title in ("all launches", "whole run", "device's peak", "device memory"):
        assert any(line.startswith(title) for line in lines)
    assert json.loads(trace.read_text())["traceEvents"]


def test_json_and_training() -> None:
    content = json.loads(run("lenet", "--batch", "2", "--train", "--seconds", "0", "--json").stdout)
    assert (
        content["mode"] == "train"
        and content["batch"] == 2
        and content["peak"]
        == {
            "flops": 1e9,
            "bytes_per_s": 1e8,
        }
    )
    assert content["launches"] == sum(step["launches"] for step in content["steps"])
    assert {"layer", "seconds", "flops_per_s", "bytes_per_s", "share_of_peak", "bound"} <= set(content["steps"][0])


def test_what_is_refused(tmp_path: Path) -> None:
    result = run("lenet", "--memory", "1KB")
    assert result.exit_code == 2 and "Nothing was allocated" in result.output
    (tmp_path / "file").write_text("")
    result = run("lenet", "--seconds", "0", "--trace", str(tmp_path / "file" / "trace.json"))
    assert result.exit_code == 2 and "cannot be written" in result.output


class TestLimits:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
        monkeypatch.setattr(limits, "SPENT_S", 0.0)
        monkeypatch.setattr(limits, "LEAST_RUN_S", 1e-4)
        monkeypatch.setattr(limits, "COPIED_BYTES", 1 << 16)
        yield

    def test_they_are_plausible(self, device: Device) -> None:
        found = limits.limits(device)
        # Mesa's processor computes fma in software, 5e7 a second; 8e11 were seen where nothing waited for it.
        least, most = (1e6, 1e10) if device.facts.loop_limit else (1e8, 1e15)
        assert least < found.flops < most and 1e6 < found.bytes_per_s < 1e14

    def test_the_best_is_remembered(self, device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for flops, rate, best in ((5.0, 7.0, (5, 7)), (6.0, 1.0, (6, 7)), (1.0, 9.0, (6, 9))):
            monkeypatch.setattr(limits, "_flops", lambda device, value=flops: value)
            monkeypatch.setattr(limits, "_bytes_per_s", lambda device, value=rate: value)
            assert limits.limits(device) == Limits(*best)
        assert list(json.loads((tmp_path / "limits.json").read_text())) == [device.facts.identity]

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"KEY": 1}', '{"KEY": {"flops": "no", "bytes_per_s": 1}}', '{"KEY": {}}']
    )
    def test_a_damaged_file_is_measured_anew(
        self, device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
    ) -> None:
        monkeypatch.setattr(limits, "_flops", lambda device: 2.0)
        monkeypatch.setattr(limits, "_bytes_per_s", lambda device: 3.0)
        key = json.dumps(device.facts.identity)[1:-1]
        (tmp_path / "limits.json").write_text(text.replace("KEY", key))
        assert limits.limits(device) == Limits(2, 3)
        assert limits._read() == {device.facts.identity: Limits(2, 3)}

    def test_a_folder_that_cannot_be_written_costs_time_only(
        self, device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("CLCONV_CACHE", str(tmp_path / "file"))
        monkeypatch.setattr(limits, "_flops", lambda device: 2.0)
        monkeypatch.setattr(limits, "_bytes_per_s", lambda device: 3.0)
        assert limits.limits(device) == Limits(2, 3)
