"""Fixtures: every working device in turn, and the folder of real data.

`device` runs a test once per working device; where the test is marked "shared", each of its cases runs on one of them,
in turn: for what is the same on all, and whose kernels have tests of their own. Oclgrind takes part when the tests run
under it (`oclgrind python -m pytest`). CLCONV_REQUIRE_DRIVERS=3 makes fewer than three working drivers a failure.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RUSTICL_ENABLE", "llvmpipe")  # read by Mesa when the loader first looks for drivers
os.environ.setdefault("CLCONV_TUNING", "0")  # what somebody tuned here must not decide what is tested
os.environ.setdefault("CLCONV_JOIN", "0")  # no compilers in the background; tests/test_joined.py joins
UNDER_OCLGRIND = "oclgrind" in os.environ.get("LD_PRELOAD", "")
if UNDER_OCLGRIND:
    os.environ.setdefault("CLCONV_DEVICE", "oclgrind")

import pytest  # noqa: E402

from clconv import device as devices_module  # noqa: E402
from clconv import settings  # noqa: E402
from clconv.device import Device, DeviceInfo  # noqa: E402


def working() -> list[DeviceInfo]:
    """The devices that tests run on, or none where the loader finds none."""
    return [info for info in devices_module.devices() if info.works]


def _name(info: DeviceInfo) -> str:
    """A short, stable test id: the platform's first word, with the key where two devices share it."""
    return info.facts.platform_name.split("(")[0].split(" ")[0].lower()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_data: needs the folder that CLCONV_TEST_DATA names")
    config.addinivalue_line("markers", "shared: the devices share the cases, each runs on one")
    config.addinivalue_line("markers", "small: fit for a simulator of a device")
    config.stash[DEVICES] = working()
    required = int(settings.get("CLCONV_REQUIRE_DRIVERS") or 0)
    if len(config.stash[DEVICES]) < required:
        listed = "; ".join(f"{i.label()}: {i.reason or 'works'}" for i in devices_module.devices())
        raise pytest.UsageError(
            f"CLCONV_REQUIRE_DRIVERS asks for {required} working drivers, "
            f"{len(config.stash[DEVICES])} work: {listed or 'no device is listed'}"
        )


DEVICES = pytest.StashKey[list[DeviceInfo]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        found = metafunc.config.stash[DEVICES]
        names = [_name(info) for info in found]
        ids = [n if names.count(n) == 1 else f"{n}-{info.key}" for n, info in zip(names, found, strict=True)]
        metafunc.parametrize("device", found, ids=ids, indirect=True, scope="session")


SELDOM = 8  # how many cases of a shared test are one for a driver that compiles slowly


def takes(info: DeviceInfo, number: int, devices: list[DeviceInfo]) -> bool:
    """Whether a device takes the case of this number: they take turns; a renderer of software takes a few besides."""
    if info.facts.loop_limit:
        return number % SELDOM == 0
    quick = [each for each in devices if not each.facts.loop_limit]
    return number % len(quick) == quick.index(info)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a shared test's cases, those stay that their device takes."""
    seen: Counter[tuple[str, DeviceInfo]] = Counter()  # cases by test and device
    kept, left = [], []
    for item in items:
        info = item.callspec.params.get("device") if hasattr(item, "callspec") else None
        if info is None or item.get_closest_marker("shared") is None:
            kept.append(item)
            continue
        test = item.nodeid.partition("[")[0], info
        (kept if takes(info, seen[test], config.stash[DEVICES]) else left).append(item)
        seen[test] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> Device:
    """Each working device in turn."""
    return devices_module.open_device(request.param)


@pytest.fixture(scope="session")
def one() -> Device:
    """The default device, for what does not depend on the driver."""
    return devices_module.choose()


def in_class(device: Device, kernels: str, monkeypatch: pytest.MonkeyPatch, **facts: Any) -> Device:
    """The device with kernels of a class, and with other facts."""
    monkeypatch.setenv("CLCONV_KERNELS", kernels)
    (info,) = (info for info in devices_module.devices(probe=False) if info.key == device.key)
    assert info.facts.kernels == kernels
    return Device(device.key, replace(info.facts, **facts), device.cl_device)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data sets and models; skips where CLCONV_TEST_DATA does not name one."""
    name = settings.get("CLCONV_TEST_DATA")
    if not name:
        pytest.skip("CLCONV_TEST_DATA is not set; it names the folder with real data sets and models")
    folder = Path(name)
    assert folder.is_dir(), f"CLCONV_TEST_DATA names {name}, which is no folder"
    return folder
