"""Finds, probes and chooses OpenCL devices, and holds what is known about each.

    devices()        every device of every platform, with a verdict
    choose(name)     the device to use: argument, CLCONV_DEVICE, else the best that works

No other module looks at platforms.
"""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import drivers, probe, settings, tuning
from .errors import DeviceChoiceError, NoDeviceError, OpenCLError, StateError

if TYPE_CHECKING:
    import pyopencl

KINDS = ("gpu", "accelerator", "cpu")
# Atomics with acquire and release at the scope of the device: CL_DEVICE_ATOMIC_ORDER_ACQ_REL, _SCOPE_DEVICE.
ORDERED_ATOMICS = 1 << 1 | 1 << 5
FINE_GRAINED = 1 << 1  # CL_DEVICE_SVM_FINE_GRAIN_BUFFER
INSTALL_HINT = (
    'on x86-64 Linux, pip install "clconv[cpu]" brings a driver for the processor; '
    "elsewhere install the OpenCL driver of the device, or PoCL"
)


@dataclass(frozen=True)
class DeviceFacts:
    """What the planner and the kernels may know about a device; all sizes in bytes.

    Attributes:
        kind: "gpu", "cpu" or "accelerator".
        integrated: the device shares the host's memory.
        lanes: native vector width, in float32 values.
        block: channels per block of the layout (B).
        accumulators: vectors of one block that a work-item may hold as its register tile.
        rank: among devices of one kind the lowest is preferred.
        simulator: never chosen unless named.
        work_group: work-items per group of kernels whose items do not work together.
        kernels: class of kernels, "cpu" or "gpu" (tuning.py: CLASSES).
        workers: persistent work-items per compute unit of kernels with a scratch each: 1, or 0: none of these.
        build_threads: programs that its compiler may build at once; 0: as many as there are processors.
        keeps_programs: its driver caches compiled kernels itself.
        loop_limit: loop iterations after which a work-item's results are silently wrong; 0: no such limit.
        prefetches: its compiler has __builtin_prefetch.
        maps_files: it reads host memory in place, so that weights can stay in a mapped file.
        joins: kernels of the processor class can be joined into one launch (joined.py), and are, unasked, where a
            launch computes so many MFLOP or fewer in the mean; 0: they cannot.
        watches: waiting for it takes longer than looking whether it is done, where that is soon.
        has_local: local memory is memory of its own, not a part of global memory.
        subgroup: work-items of its subgroups, as it says; 0: none that kernels could use.
        shares_memory: the host may read and write buffers where they are (fine-grained shared memory).
        base_align_bytes: alignment of a buffer's start.
    """

    name: str
    vendor: str
    platform_name: str
    platform_version: str
    driver_version: str
    kind: str
    integrated: bool
    compute_units: int
    lanes: int
    block: int
    accumulators: int
    rank: int
    simulator: bool
    work_group: int
    kernels: str
    workers: int
    build_threads: int
    keeps_programs: bool
    loop_limit: int
    prefetches: bool
    maps_files: bool
    joins: int
    watches: bool
    max_alloc_bytes: int
    global_bytes: int
    local_bytes: int
    has_local: bool
    shares_memory: bool
    max_work_group: int
    base_align_bytes: int
    extensions: frozenset[str]
    subgroup: int = 0

    @property
    def identity(self) -> str:
        """What measured figures hold for: device, driver and version, and how much of the device there is."""
        parts = (self.platform_name, self.platform_version, self.name, self.driver_version)
        return " | ".join((*parts, f"{self.compute_units} units", f"block {self.block}", self.kernels))


@dataclass(frozen=True)
class DeviceInfo:
    """A listed device: its key "platform:device", its facts, and whether it works.

    `works` is None when the device was not probed; `reason` says why it does not.
    """

    key: str
    facts: DeviceFacts
    works: bool | None = None
    reason: str = ""

    def label(self) -> str:
        """The device as messages name it."""
        return f"{self.key} {self.facts.platform_name}: {self.facts.name}"

    def text(self) -> str:
        """What a name is looked for in, in lower case."""
        facts = self.facts
        return f"{facts.platform_name} {facts.platform_version} {facts.name}".lower()


class Device:
    """One physical device, its context and its queue; `choose` makes one per device and process."""

    def __init__(self, key: str, facts: DeviceFacts, cl_device: pyopencl.Device) -> None:
        self.key = key
        self.facts = facts
        self.cl_device = cl_device
        self.pid = os.getpid()
        self._context: pyopencl.Context | None = None
        self._queue: pyopencl.CommandQueue | None = None
        self._copy_queue: pyopencl.CommandQueue | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<clconv.Device {self.key} {self.facts.platform_name}: {self.facts.name}>"

    @property
    def context(self) -> pyopencl.Context:
        """The context, created on first use."""
        self.check_alive()
        with self._lock:
            if self._context is None:
                self._context = self._create("clCreateContext", lambda cl: cl.Context([self.cl_device]))
            return self._context

    @property
    def queue(self) -> pyopencl.CommandQueue:
        """The in-order queue, created on first use."""
        context = self.context
        with self._lock:
            if self._queue is None:
                self._queue = self._create("clCreateCommandQueue", lambda cl: cl.CommandQueue(context))
            return self._queue

    @property
    def copy_queue(self) -> pyopencl.CommandQueue:
        """A second in-order queue, for copies beside kernels; created on first use."""
        context = self.context
        with self._lock:
            if self._copy_queue is None:
                self._copy_queue = self._create("clCreateCommandQueue", lambda cl: cl.CommandQueue(context))
            return self._copy_queue

    def _create(self, call: str, make: Any) -> Any:
        cl = drivers.opencl()
        try:
            return make(cl)
        except cl.Error as error:
            raise OpenCLError(error.code, f"device {self.key} ({self.facts.name}): {call}") from error

    def check_alive(self) -> None:
        """Refuse a device that was opened before a fork: no driver survives one.

        Raises:
            StateError: this process was forked from the one that opened the device.
        """
        if os.getpid() != self.pid:
            raise StateError(
                f"device {self.key} ({self.facts.name}): forked after first use: process {os.getpid()} "
                f"inherited it from {self.pid}; start workers before the first use, or with "
                'multiprocessing.get_context("spawn")'
            )


@dataclass(frozen=True)
class Survey:
    """Everything found: devices, platforms without one (name, reason), and notes to the user."""

    devices: tuple[DeviceInfo, ...]
    empty: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


_opened: dict[tuple[str, int, str], Device] = {}  # by key, channel block and class of kernels
_opened_lock = threading.Lock()


def devices(probe: bool = True, *, fresh: bool = False) -> list[DeviceInfo]:
    """Every device of every platform.

    Args:
        probe: find out whether each works, in a child process (verdicts are remembered).
        fresh: probe again, whatever is remembered.
    """
    return list(survey(probe=probe, fresh=fresh).devices)


def survey(*, probe: bool = True, fresh: bool = False) -> Survey:
    """`devices`, with the platforms that list none and what may explain an absence."""
    found: list[DeviceInfo] = []
    empty: list[tuple[str, str]] = []
    platforms = _platforms()
    for number, platform in enumerate(platforms):
        name = f"{platform.name} {platform.version}".strip()
        try:
            listed = platform.get_devices()
        except Exception as error:  # a driver's own failure must not hide the other platforms
            empty.append((name, f"listing its devices failed: {error}"))
            continue
        if not listed:
            empty.append((name, "it lists no device"))
        for index, cl_device in enumerate(listed):
            found.append(DeviceInfo(f"{number}:{index}", read_facts(platform, cl_device)))
    if probe and found:
        with ThreadPoolExecutor(len(found)) as pool:
            found = list(pool.map(lambda info: _probed(info, fresh), found))
    late = drivers.register().note
    notes = [late] if late else drivers.unloadable({platform.name.strip() for platform in platforms})
    return Survey(tuple(found), tuple(empty), tuple(notes))


def _platforms() -> list[Any]:
    """All platforms; none where the loader finds no driver."""
    cl = drivers.opencl()
    try:
        return list(cl.get_platforms())
    except cl.LogicError:
        return []


def _probed(info: DeviceInfo, fresh: bool = False) -> DeviceInfo:
    if info.works is not None:
        return info
    facts, index = info.facts, int(info.key.split(":")[1])
    subject = probe.Subject(facts.platform_name, facts.platform_version, index, facts.name, facts.driver_version)
    found = probe.verdict(subject, fresh=fresh)
    return replace(info, works=found.works, reason=found.reason)


def read_facts(platform: Any, cl_device: Any) -> DeviceFacts:
    """Ask a PyOpenCL device for its facts; a query that fails gets the least that OpenCL allows."""

    def ask(name: str, otherwise: Any) -> Any:
        try:
            return getattr(cl_device, name)
        except Exception:  # broken drivers fail single queries; the probe decides whether the device works
            return otherwise

    kind = _kind(int(ask("type", 0)))
    name, vendor = str(ask("name", "unnamed")).strip(), str(ask("vendor", "")).strip()
    lanes = max(1, int(ask("native_vector_width_float", 1)))
    traits = tuning.Traits(kind, vendor, platform.name.strip(), name, lanes)
    forced = settings.get("CLCONV_KERNELS")
    values = tuning.device_values(traits, settings.get("CLCONV_BLOCK"), forced)
    return DeviceFacts(
        name=name,
        vendor=vendor,
        platform_name=platform.name.strip(),
        platform_version=platform.version.strip(),
        driver_version=str(ask("driver_version", "")).strip(),
        kind=kind,
        integrated=bool(ask("host_unified_memory", kind == "cpu")),
        compute_units=int(ask("max_compute_units", 1)),
        lanes=lanes,
        block=values["block"],
        accumulators=values["accumulators"],
        rank=values["rank"],
        simulator=bool(values["simulator"]),
        work_group=values["work_group"],
        kernels=tuning.kernel_class(traits, forced),
        workers=values["workers"],
        build_threads=values["build_threads"],
        keeps_programs=bool(values["keeps_programs"]),
        loop_limit=values["loop_limit"],
        prefetches=bool(values["prefetches"]),
        maps_files=bool(ask("host_unified_memory", kind == "cpu"))
        and bool(values["maps_files"])
        and settings.get("CLCONV_MAP_WEIGHTS") != "0",
        joins=values["joins"]
        if tuning.kernel_class(traits, forced) == "cpu"
        and str(ask("version", "")) >= "OpenCL 3"
        and int(ask("atomic_memory_capabilities", 0)) & ORDERED_ATOMICS == ORDERED_ATOMICS
        else 0,
        watches=bool(values["watches"]),
        max_alloc_bytes=int(ask("max_mem_alloc_size", 1 << 27)),
        global_bytes=int(ask("global_mem_size", 1 << 27)),
        local_bytes=int(ask("local_mem_size", 1 << 15)),
        has_local=int(ask("local_mem_type", 2)) == 1,
        shares_memory=kind == "cpu" and bool(int(ask("svm_capabilities", 0)) & FINE_GRAINED),
        max_work_group=int(ask("max_work_group_size", 1)),
        base_align_bytes=max(1, int(ask("mem_base_addr_align", 1024)) // 8),
        extensions=frozenset(str(ask("extensions", "")).split()),
        subgroup=drivers.subgroup(cl_device),
    )


def _kind(bits: int) -> str:
    """OpenCL's device type bits as a word; a simulator sets several, of which CPU says most."""
    return "cpu" if bits & 2 else "gpu" if bits & 4 else "accelerator" if bits & 8 else "cpu"


def preference(info: DeviceInfo) -> tuple[int, int, int]:
    """Sort key: discrete GPU, integrated GPU, accelerator, CPU; then the rank; then the larger device."""
    facts = info.facts
    kind = KINDS.index(facts.kind) + (1 if facts.kind != "gpu" or facts.integrated else 0)
    return kind, facts.rank, -facts.compute_units


def choose(name: str | None = None) -> Device:
    """The device to use.

    Args:
        name: part of "platform version device" in any case, or "platform:device" as `clconv devices`
            lists them; None takes CLCONV_DEVICE, else the first that works of discrete GPUs, integrated
            GPUs, accelerators and CPUs.

    Raises:
        NoDeviceError: no platform, no device that works, or the one that was named does not.
        DeviceChoiceError: the name fits no device, or several.
        StateError: this process was forked after a device had been used.
    """
    with _opened_lock:
        for device in _opened.values():
            device.check_alive()
    wanted = name or settings.get("CLCONV_DEVICE")
    return open_device(pick(survey(probe=False), wanted))


def open_device(info: DeviceInfo) -> Device:
    """The process's one `Device` for a listed device."""
    with _opened_lock:
        key = info.key, info.facts.block, info.facts.kernels
        device = _opened.get(key)
        if device is None:
            platform, index = (int(part) for part in info.key.split(":"))
            device = Device(info.key, info.facts, _platforms()[platform].get_devices()[index])
            _opened[key] = device
        device.check_alive()
        return device


def pick(found: Survey, wanted: str | None) -> DeviceInfo:
    """The device that `wanted` names, or the most preferred that works; probes no more than it must."""
    if not found.devices:
        what = "no OpenCL platform lists a device" if found.empty else "no OpenCL platform was found"
        raise NoDeviceError(_nothing(what, [], found))
    if wanted:
        return _named(found, wanted)
    refused = []
    for info in sorted(found.devices, key=preference):
        if info.facts.simulator:
            refused.append(replace(info, works=False, reason="a simulator; it is used only when named"))
            continue
        probed = _probed(info)
        if probed.works:
            return probed
        refused.append(probed)
    raise NoDeviceError(_nothing("no OpenCL device works", refused, found))


def _named(found: Survey, wanted: str) -> DeviceInfo:
    wanted = wanted.strip()
    if re.fullmatch(r"\d+:\d+", wanted):
        matches = [info for info in found.devices if info.key == wanted]
    else:
        matches = [info for info in found.devices if wanted.lower() in info.text()]
    if not matches:
        listed = "; ".join(info.label() for info in found.devices)
        raise DeviceChoiceError(
            "\n    ".join([f"device: no device is called {wanted!r}; there are: {listed}", *found.notes])
        )
    matches = [_probed(info) for info in matches]
    working = [info for info in matches if info.works]
    if len(working) == 1:
        return working[0]
    if not working:
        listed = "; ".join(f"{info.label()} ({info.reason})" for info in matches)
        raise NoDeviceError(f"device: {wanted!r} does not work: {listed}; `clconv devices` lists what does")
    listed = "; ".join(info.label() for info in working)
    raise DeviceChoiceError(
        f"device: {wanted!r} fits {len(working)} devices: {listed}; name one by its key, as {working[0].key}"
    )


def _nothing(what: str, refused: list[DeviceInfo], found: Survey) -> str:
    """An error's text: what is missing, each device and platform with its reason, and what would help."""
    lines = [f"{info.label()}: {info.reason}" for info in refused]
    lines += [f"{name}: {reason}" for name, reason in found.empty]
    return "\n    ".join([f"device: {what}", *lines, *found.notes, INSTALL_HINT])
