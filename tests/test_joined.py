"""The launches of a plan as one kernel: the same bits, in any number of groups, and nobody waits for its compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clconv as cc
from clconv import engine, joining, program
from clconv._core.memory import Allocator
from clconv._core.recorder import Copy, Launch
from clconv.device import Device, DeviceFacts
from clconv.joined import MOST_KINDS, JoinedLaunch, joinable
from clconv.program import ProgramKey

TINY = "INPUT 6x6x3 -> CONV 3x3x4 -> RELU -> FC 5"


def many_kinds() -> cc.Symbol:
    """A network of most kinds of kernels."""
    x = cc.Input(3, 19, 21)
    y = cc.ReLU()(cc.Conv(32, 3, pad=1)(x))
    y = cc.Sigmoid()(cc.Conv(24, 3, pad=1)(y))
    y = cc.BatchNorm()(cc.Conv(24, 3, pad=1, groups=24)(y))
    y = cc.Add()(cc.LRN()(y), cc.Conv(24, 3, pad=1, groups=4)(y))
    left = cc.MaxPool(2, rounding="floor")(y)
    right = cc.AvgPool(2, rounding="floor")(y)
    y = cc.Conv(20, 1)(cc.Concat()(left, right))
    y = cc.Tanh()(cc.FC(33)(y))
    return cc.Softmax()(cc.FC(10)(y))


def joins(device: Device) -> Device:
    if not device.facts.joins:
        pytest.skip("the device lacks what joined launches need")
    return device


def state(net: cc.Net) -> joining.Joining:
    """Of the plan that a network ran last."""
    assert net._test is not None and net._test._session is not None
    return net._test._session._executables.values()[-1].joining


def test_a_joined_plan_has_the_bits_of_its_launches(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many groups there are beside the device's threads."""
    x = np.random.default_rng(1).standard_normal((2, 3, 19, 21), np.float32)
    with cc.Net(many_kinds(), device=joins(device), seed=2) as net:
        expected = net.predict(x)
        assert not state(net).joined
    monkeypatch.setenv("CLCONV_JOIN", "1")
    for groups in (1, 7):

        def made(facts: DeviceFacts, *rest: Any, groups: int = groups) -> JoinedLaunch:
            return JoinedLaunch(replace(facts, compute_units=groups), *rest)

        monkeypatch.setattr(joining, "JoinedLaunch", made)
        with cc.Net(many_kinds(), device=device, seed=2) as net:
            for _ in range(30):
                assert net.predict(x).tobytes() == expected.tobytes()
            assert state(net).joined
            (usage,) = net.usages
            assert usage.planned_bytes == usage.measured_bytes == net.plan(batch=2).peak_bytes
            assert set(usage.by_tag) <= {"weights", "arena"}


def test_a_run_that_is_watched_is_a_run(device: Device) -> None:
    x = np.random.default_rng(5).standard_normal((1, 3, 6, 6), np.float32)
    with cc.Net(TINY, device=device, seed=1) as net:
        expected = net.predict(x)
        assert net._test is not None and net._test._session is not None
        session = net._test._session
        executable = session._executables.values()[-1]
        session.fill_arena(0xFF)
        for name in executable.inputs:
            executable.inputs[name].write(x, name)
        executable.recording.run(True)
        for tensor in executable.outputs.values():
            y = np.empty(tensor.spec.storage_shape(device.facts.block), np.float32)
            tensor.read(y)
            assert y.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("watches", "joined", "watched"), [(1, 0, True), (1, 1, False), (0, 0, False)])
def test_which_runs_are_watched(
    device: Device, watches: int, joined: int, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a plan between the two bounds: launch by launch, where the driver lets a waiting thread sleep."""
    with cc.Net(TINY, device=device, seed=1) as net:
        net.predict(np.ones((1, 3, 6, 6), np.float32))
        assert net._test is not None and net._test._session is not None
        executable = net._test._session._executables.values()[-1]
        found: list[bool] = []

        class Recording:
            def run(self, short: bool) -> None:
                found.append(short)

            def give_back(self) -> None:
                pass

        facts = replace(device.facts, watches=bool(watches))
        monkeypatch.setattr(engine, "SHORT_FLOPS", {True: 0, False: 1e8})
        stand_in: Any = replace(executable, plan=replace(executable.plan, facts=facts), recording=Recording())
        stand_in.joining.joined = bool(joined)
        stand_in.run()
        assert found == [watched]


def test_training_joins_too(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((8, 3, 6, 6), np.float32), rng.integers(0, 5, 8)
    found = []
    for mode in "01":
        monkeypatch.setenv("CLCONV_JOIN", mode)
        with cc.Net(TINY, device=joins(device), seed=4) as net:
            net.fit(x, y, epochs=3, batch_size=4, optimizer=cc.SGD(0.1, momentum=0.9), verbose=False)
            found.append(net.get_weights())
    assert all(found[0][name].tobytes() == found[1][name].tobytes() for name in found[0])


def test_a_process_beside_compiles_what_ran_often(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.delenv("CLCONV_JOIN")
    x = np.ones((1, 3, 6, 6), np.float32)
    with cc.Net(TINY, device=joins(device), seed=1) as net:
        expected = net.predict(x)
        for _ in range(joining.OFTEN - 2):
            net.predict(x)
        assert not joining._children
        net.predict(x)
        (child,) = joining._children.values()
        if hasattr(os, "getsid"):  # or its idle priority would hold among its like only
            assert os.getsid(child.pid) == os.getsid(0)
        deadline = time.monotonic() + 120
        while not state(net).joined and time.monotonic() < deadline:
            assert net.predict(x).tobytes() == expected.tobytes()
            time.sleep(0.02)  # it gets what nobody else wants of the processors
        assert state(net).joined and program.kept(device, state(net)._note)
        assert net.predict(x).tobytes() == expected.tobytes()
    assert [child.returncode for child in joining._children.values()] == [0]
    with cc.Net(TINY, device=device, seed=1) as again:
        assert again.predict(x).tobytes() == expected.tobytes()
        assert state(again).joined, "from the first run on"


def test_the_process_beside_ends_with_the_program() -> None:
    script = (
        "import sys, threading, time; from clconv import joining; "
        "threading.Thread(target=joining._end_with, args=(sys.stdin.buffer,), daemon=True).start(); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(b"message")
    child.stdin.close()
    assert child.wait(30) == 1


@pytest.fixture(autouse=True)
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_children", {})


@pytest.mark.parametrize("trouble", ["the compiler fails", "no process", "no Python"])
def test_what_does_not_compile_stays_as_it_is(
    device: Device, trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.delenv("CLCONV_JOIN")
    monkeypatch.setattr(joining, "CHILD", "raise SystemExit(3) # {path}")
    if trouble == "no Python":
        monkeypatch.setattr(joining.sys, "frozen", True, raising=False)
    if trouble == "no process":
        monkeypatch.setattr(joining.sys, "executable", "/nowhere/python")
    with cc.Net(TINY, device=joins(device), seed=1) as net:
        deadline = time.monotonic() + 60
        net.predict(np.ones((1, 3, 6, 6), np.float32))
        while state(net).possible and time.monotonic() < deadline:
            net.predict(np.ones((1, 3, 6, 6), np.float32))
        assert not state(net).possible and not state(net).joined


def test_large_layers_are_left_alone(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started for them; what was compiled when somebody asked is used."""
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.delenv("CLCONV_JOIN")
    monkeypatch.setattr(device, "facts", replace(joins(device).facts, joins=1e-3))
    monkeypatch.setattr(joining, "OFTEN", 1)
    made: list[Any] = []
    monkeypatch.setattr(joining, "JoinedLaunch", lambda *given: made.append(given) or JoinedLaunch(*given))
    with cc.Net(TINY, device=device, seed=1) as net:
        for _ in range(3):
            net.predict(np.ones((1, 3, 6, 6), np.float32))
        assert not joining._children and not made
        monkeypatch.setattr(program, "kept", lambda _, key: not key.defines)
    with cc.Net(TINY, device=device, seed=1) as net:
        net.predict(np.ones((1, 3, 6, 6), np.float32))
        assert state(net).joined and made


@pytest.mark.parametrize("factor", [2.0, 1.0])
def test_what_is_slower_as_one_goes_back_for_good(
    device: Device, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.delenv("CLCONV_JOIN")
    monkeypatch.setattr(joining, "OFTEN", 2)
    monkeypatch.setattr(joining, "TRIED", 3)
    monkeypatch.setattr(joining, "LOSSES", 2)
    monkeypatch.setattr(joining.Joining, "_compiled", lambda _: True)
    x = np.ones((1, 3, 6, 6), np.float32)
    now, ran = 0.0, []

    def clock() -> float:
        nonlocal now
        joined = state(net).joined
        now += factor if joined else 1.0
        ran.append(joined)
        return now

    monkeypatch.setattr(engine, "clock", clock)
    with cc.Net(TINY, device=joins(device), seed=1) as net:
        outputs = {net.predict(x).tobytes() for _ in range(40)}
        lost, trial = factor > joining.SLOWER, [False, True] * 4  # three of each and one that compiles
        again = [*[False] * 20, *trial] if lost else [True] * 28
        assert ran[::2] == [*[False] * 2, *trial, *again, *[not lost] * 2]
        assert len(outputs) == 1 and state(net).joined is not lost and state(net).possible is not lost
    with cc.Net(TINY, device=device, seed=1) as net:
        net.predict(x)
        assert state(net).possible is not lost


def test_runs_that_nothing_waits_for_are_joined_untried(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLCONV_JOIN")
    monkeypatch.setattr(program, "kept", lambda *_: False)
    monkeypatch.setattr(joining, "OFTEN", 1)
    monkeypatch.setattr(joining, "_recorded", lambda _, launches: len(launches))
    monkeypatch.setattr(joining.Joining, "_compiled", lambda _: True)
    monkeypatch.setattr(joining.Joining, "launch", lambda _: None)
    several: Any = 2
    found = joining.Joining(joins(device), [launch(), launch()], 0, Allocator(device))
    assert [found.ran(several, None) for _ in range(2)] == [2, 1]
    assert found.ran(several, None) == several and found.joined


def launch(**how: Any) -> Launch:
    given = {"file": "fc.cl", "kernel": "fc", "defines": {}, "global_size": (4,), "local_size": (1,), "args": []}
    return Launch(**{**given, **how}, label="fc1: fc")


@pytest.mark.parametrize(
    "launches",
    [
        [launch()],
        [launch(), launch(local_size=(64,))],
        [launch(), launch(global_size=(0,))],
        [launch(), launch(global_size=(1 << 16, 1 << 15))],
        [launch(), Copy(b"", None, "fc1: upload", row_bytes=0)],
        [launch(defines={"NT": i}) for i in range(MOST_KINDS + 1)],
    ],
    ids=["one", "items that work together", "no items", "too many items", "a copy", "too many kinds"],
)
def test_what_cannot_be_joined(device: Device, launches: list[Any]) -> None:
    able = replace(device.facts, joins=1)
    assert joinable(able, [launch(), launch(local_size=None)])
    assert not joinable(able, launches)
    assert not joinable(replace(able, joins=0), [launch(), launch()])


def test_only_a_program_compiled_to_the_end_is_kept(
    tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    key, other = ProgramKey("fc.cl"), ProgramKey("fc.cl", text="__kernel void f() {}")
    assert not program.kept(device, key)
    program.keep(device, key)
    assert program.kept(device, key) and not program.kept(device, other)
