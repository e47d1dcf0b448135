"""Devices: facts, choice by preference and by name, forks, the command that lists them, and the errors."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from clconv import device as dev
from clconv import drivers, probe, tuning
from clconv.cli.devices import devices as devices_command
from clconv.device import Device, DeviceInfo
from clconv.errors import ArgumentError, DeviceChoiceError, NoDeviceError, StateError

CPU, GPU, ACCELERATOR = 2, 4, 8


def fake_device(name: str, kind: int = CPU, **more: object) -> SimpleNamespace:
    facts = {
        "name": name,
        "type": kind,
        "vendor": "V",
        "driver_version": "1.0",
        "host_unified_memory": kind == CPU,
        "max_compute_units": 4,
        "native_vector_width_float": 8,
        "mem_base_addr_align": 1024,
        "local_mem_type": 1,
        "extensions": "cl_khr_fp16 cl_khr_icd ",
    }
    return SimpleNamespace(**(facts | more))


def fake_platform(name: str, *listed: SimpleNamespace, error: Exception | None = None) -> SimpleNamespace:
    def get_devices() -> list[SimpleNamespace]:
        if error:
            raise error
        return list(listed)

    return SimpleNamespace(name=name, version="OpenCL 3.0 ", get_devices=get_devices)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """pretend(platforms, broken={name: reason}) replaces what is found; records which devices were probed."""
    monkeypatch.setenv("CLCONV_CACHE", str(tmp_path))
    monkeypatch.delenv("CLCONV_DEVICE", raising=False)
    for name in ("CLCONV_BLOCK", "CLCONV_KERNELS"):
        monkeypatch.delenv(name, raising=False)

    def install(platforms: list[SimpleNamespace], broken: dict[str, str] | None = None) -> list[str]:
        probed: list[str] = []

        def verdict(subject: probe.Subject, *, fresh: bool = False) -> probe.Verdict:
            probed.append(subject.device)
            reason = (broken or {}).get(subject.device, "")
            return probe.Verdict(not reason, reason)

        monkeypatch.setattr(dev, "_platforms", lambda: platforms)
        monkeypatch.setattr(probe, "verdict", verdict)
        monkeypatch.setattr(dev, "_opened", {})
        return probed

    return install


# --- facts


def test_facts_of_real_device(device: Device) -> None:
    facts = device.facts
    assert facts.block in tuning.BLOCKS and facts.accumulators >= 4
    assert 1 << 27 <= facts.max_alloc_bytes <= facts.global_bytes
    assert facts.base_align_bytes in (64, 128, 256, 512)
    assert facts.max_work_group >= 1 and facts.compute_units >= 1
    assert device.queue is device.queue and device.context is device.context


@pytest.mark.parametrize("kind, svm, shared", [(CPU, 3, True), (CPU, 1, False), (CPU, 0, False), (GPU, 3, False)])
def test_memory_shared_with_the_host(pretend, kind: int, svm: int, shared: bool) -> None:
    pretend([fake_platform("P", fake_device("d", kind, svm_capabilities=svm))])
    assert dev.devices(probe=False)[0].facts.shares_memory is shared


def test_buffers_start_where_the_facts_say(device: Device) -> None:
    cl = drivers.opencl()
    x = np.arange(17, dtype=np.float32)
    buffer = cl.Buffer(device.context, cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR, hostbuf=x)
    y = np.empty_like(x)
    cl.enqueue_copy(device.queue, y, buffer)
    assert np.array_equal(x, y)


@pytest.mark.parametrize(
    "kind, lanes, block, accumulators",
    [("cpu", 16, 16, 28), ("cpu", 8, 8, 12), ("cpu", 1, 8, 12), ("gpu", 1, 4, 16), ("accelerator", 1, 4, 16)],
)
def test_block_by_device(kind: str, lanes: int, block: int, accumulators: int) -> None:
    values = tuning.device_values(tuning.Traits(kind, lanes=lanes))
    assert (values["block"], values["accumulators"]) == (block, accumulators)


def test_block_from_environment(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend([fake_platform("P", fake_device("d"))])
    monkeypatch.setenv("CLCONV_BLOCK", "1")
    assert dev.choose().facts.block == 1
    monkeypatch.setenv("CLCONV_BLOCK", "5")
    with pytest.raises(ArgumentError, match=r"CLCONV_BLOCK: '5' is no channel block size; 16, 8, 4 or 1"):
        dev.choose()


def test_the_class_of_kernels_brings_its_shapes() -> None:
    traits = tuning.Traits("cpu", platform="Intel(R) OpenCL", lanes=16)
    own, forced = tuning.device_values(traits), tuning.device_values(traits, kernels="gpu")
    assert (tuning.kernel_class(traits), tuning.kernel_class(traits, "gpu")) == ("cpu", "gpu")
    assert {name: forced[name] for name in tuning.CLASS_VALUES} == {
        "block": 4, "work_group": 64, "workers": 0, "accumulators": 16,
    }  # fmt: skip
    assert forced["rank"] == own["rank"], "which device is preferred is no matter of its kernels"
    assert tuning.device_values(traits, "8", "gpu")["block"] == 8


def test_rows_of_ones_own_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.json"
    path.write_text(
        '[{"kind": "gpu", "device": "Some Card", "values": {"accumulators": 12, "rank": 7}, "why": "tried"}]'
    )
    monkeypatch.setenv("CLCONV_DEVICE_ROWS", str(path))
    values = tuning.device_values(tuning.Traits("gpu", "Arm", device="some card 9"))
    assert (values["accumulators"], values["rank"], values["block"]) == (12, 7, 4)
    assert tuning.device_values(tuning.Traits("gpu", "Arm"))["accumulators"] == 8
    assert tuning.device_values(tuning.Traits("gpu", "nobody"))["accumulators"] == 16


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "cannot be read"),
        ("{}", "holds no list of rows"),
        ('[{"kind": "gpu"}]', 'row 1 has no "values"'),
        ('[{"values": {}}, {"name": "x", "values": {}}]', "row 2: 'name': 'x' is not known; there are device, kind"),
        ('[{"values": {"lanes": 4}}]', "row 1: 'lanes': 4 is no value; whole numbers of accumulators, block"),
        ('[{"values": {"block": "4"}}]', "'block': '4' is no value"),
    ],
)
def test_rows_that_cannot_be_used_are_named(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    monkeypatch.setenv("CLCONV_DEVICE_ROWS", str(path))
    with pytest.raises(ArgumentError, match=re.escape(reason)) as caught:
        tuning.device_values(tuning.Traits("gpu"))
    assert str(path) in str(caught.value)


def test_kernels_from_environment(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend([fake_platform("P", fake_device("d"))])
    monkeypatch.setenv("CLCONV_KERNELS", "gpu")
    assert (dev.choose().facts.kernels, dev.choose().facts.block) == ("gpu", 4)
    monkeypatch.setenv("CLCONV_KERNELS", "tpu")
    with pytest.raises(ArgumentError, match=r"CLCONV_KERNELS: 'tpu' is no class of kernels; cpu or gpu would fit"):
        dev.choose()


def test_queries_that_fail_leave_the_least(pretend) -> None:
    pretend([fake_platform("P", SimpleNamespace(name="bare", type=GPU))])
    facts = dev.devices()[0].facts
    assert (facts.max_alloc_bytes, facts.local_bytes, facts.max_work_group) == (1 << 27, 1 << 15, 1)
    assert facts.extensions == frozenset() and not facts.has_local and not facts.integrated


# --- choice

ALL_KINDS = [
    fake_platform("Oclgrind", fake_device("Simulator", CPU | GPU | ACCELERATOR)),
    fake_platform("rusticl", fake_device("llvmpipe (LLVM 15)")),
    fake_platform("Portable Computing Language", fake_device("pthread-zen")),
    fake_platform("Intel(R) OpenCL", fake_device("Zen")),
    fake_platform("A", fake_device("fpga", ACCELERATOR), fake_device("igpu", GPU, host_unified_memory=1)),
    fake_platform("N", fake_device("card", GPU), fake_device("big card", GPU, max_compute_units=99)),
]


def test_order_of_choice(pretend) -> None:
    order = ["big card", "card", "igpu", "fpga", "Zen", "pthread-zen", "llvmpipe (LLVM 15)"]
    for count in range(len(order)):
        probed = pretend(ALL_KINDS, broken=dict.fromkeys(order[:count], "broken"))
        assert dev.choose().facts.name == order[count]
        assert probed == order[: count + 1], "no more devices are probed than needed"


def test_simulator_only_by_name(pretend) -> None:
    pretend(ALL_KINDS[:1])
    with pytest.raises(NoDeviceError, match=r"0:0 Oclgrind: Simulator: a simulator; it is used only when"):
        dev.choose()
    assert dev.choose("oclgrind").facts.simulator


@pytest.mark.parametrize(
    "name, key",
    [
        ("5:1", "5:1"),
        ("BIG", "5:1"),
        ("pthread", "2:0"),
        ("intel(r) opencl opencl 3.0 zen", "3:0"),
        (" 4:1 ", "4:1"),
    ],
)
def test_by_name(pretend, monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    pretend(ALL_KINDS)
    assert dev.choose(name).key == key
    monkeypatch.setenv("CLCONV_DEVICE", name)
    assert dev.choose().key == key
    assert dev.choose("1:0").key == "1:0", "the argument goes before the variable"


def test_one_object_per_device(pretend) -> None:
    pretend(ALL_KINDS)
    assert dev.choose("big") is dev.choose("5:1") is dev.choose()


def test_unknown_name(pretend) -> None:
    pretend(ALL_KINDS[2:4])
    with pytest.raises(
        DeviceChoiceError,
        match=r"no device is called 'radeon'; there are: 0:0 Portable.*: pthread-zen; 1:0 Intel",
    ):
        dev.choose("radeon")
    with pytest.raises(DeviceChoiceError, match="no device is called '7:0'"):
        dev.choose("7:0")


def test_ambiguous_name(pretend) -> None:
    pretend(ALL_KINDS[2:4])
    with pytest.raises(
        DeviceChoiceError,
        match=r"'zen' fits 2 devices: 0:0 Portable.*; 1:0 Intel.*; name one by its key, as 0:0",
    ):
        dev.choose("zen")


def test_ambiguous_name_with_one_that_works(pretend) -> None:
    pretend(ALL_KINDS[2:4], broken={"pthread-zen": "unknown target CPU 'generic'"})
    assert dev.choose("zen").key == "1:0"
    with pytest.raises(NoDeviceError, match=r"'pthread' does not work: 0:0 .*unknown target CPU 'generic'"):
        dev.choose("pthread")


def test_no_platform(pretend) -> None:
    pretend([])
    with pytest.raises(NoDeviceError, match=r'no OpenCL platform was found\n(.|\n)*pip install "clconv\[cpu\]"'):
        dev.choose()


def test_platforms_without_a_device(pretend) -> None:
    pretend([fake_platform("Clover"), fake_platform("Bad", error=RuntimeError("out of luck"))])
    with pytest.raises(NoDeviceError) as caught:
        dev.choose()
    text = str(caught.value)
    assert "no OpenCL platform lists a device" in text
    assert "Clover OpenCL 3.0: it lists no device" in text
    assert "Bad OpenCL 3.0: listing its devices failed: out of luck" in text


def test_no_working_device(pretend) -> None:
    pretend([*ALL_KINDS[2:4], fake_platform("Clover")], broken={"pthread-zen": "it hangs", "Zen": "it crashed"})
    with pytest.raises(NoDeviceError) as caught:
        dev.choose()
    lines = str(caught.value).split("\n    ")
    assert lines[0] == "device: no OpenCL device works"
    assert lines[1:4] == [
        "1:0 Intel(R) OpenCL: Zen: it crashed",
        "0:0 Portable Computing Language: pthread-zen: it hangs",
        "Clover OpenCL 3.0: it lists no device",
    ]
    assert 'pip install "clconv[cpu]"' in lines[-1]


def test_fork_is_refused(pretend) -> None:
    pretend(ALL_KINDS[2:4])
    chosen = dev.choose()
    chosen.check_alive()
    chosen.pid -= 1
    for call in (chosen.check_alive, dev.choose, lambda: chosen.context, lambda: chosen.queue):
        with pytest.raises(StateError, match=r"forked after first use: process \d+ inherited it from \d+"):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_real_fork_is_refused(device: Device) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        try:
            dev.choose(device.key)
        except StateError as error:
            answers.put(str(error))
        else:
            answers.put("not refused")

    process = context.Process(target=child)
    process.start()
    process.join(30)
    assert process.exitcode == 0 and "forked after first use" in answers.get()


# --- the command


def test_command_table(pretend) -> None:
    pretend([*ALL_KINDS[2:4], fake_platform("Clover")], broken={"Zen": "unknown target CPU"})
    result = CliRunner().invoke(devices_command, [])
    assert result.exit_code == 0, result.output
    assert "1:0 Intel(R) OpenCL: Zen: unknown target CPU" in result.output
    assert "Clover OpenCL 3.0: it lists no device" in result.output
    assert "Used: 0:0 Portable Computing Language: pthread-zen (the default" in result.output


def test_command_json(pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(ALL_KINDS)
    monkeypatch.setenv("CLCONV_DEVICE", "llvmpipe")
    result = CliRunner().invoke(devices_command, ["--json"])
    content = json.loads(result.output)
    assert result.exit_code == 0 and content["chosen"] == "1:0"
    assert [row["key"] for row in content["devices"]] == [i.key for i in dev.devices(probe=False)]
    assert content["devices"][0]["extensions"] == ["cl_khr_fp16", "cl_khr_icd"]


def test_command_without_a_working_device(pretend) -> None:
    pretend(ALL_KINDS[2:3], broken={"pthread-zen": "it hangs"})
    result = CliRunner().invoke(devices_command, [])
    assert result.exit_code == 1 and "device: no OpenCL device works" in result.output
    content = json.loads(CliRunner().invoke(devices_command, ["--json"]).output)
    assert content["chosen"] is None and "it hangs" in content["problem"]


def test_listing_without_probing(pretend) -> None:
    probed = pretend(ALL_KINDS)
    found = dev.devices(probe=False)
    assert not probed and all(isinstance(i, DeviceInfo) and i.works is None for i in found)
