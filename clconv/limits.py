"""What a device can do at most: multiply-adds in registers, and bytes copied, measured and remembered.

A figure is taken as the best of all times that it was measured: whatever ran beside can only have made it smaller.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from . import settings
from ._core.executor import Recording
from ._core.layer import looped
from ._core.memory import Allocator, Tensor
from ._core.recorder import Recorder
from .device import Device
from .files import write_atomically
from .program import ProgramKey, build_programs

COPIED_BYTES = 128 << 20  # beyond any cache, where the device has as much
SPENT_S = 0.3  # on each of the two
LEAST_RUN_S = 0.01
MOST_TIMES = 20_000
_file_lock = threading.Lock()


@dataclass(frozen=True)
class Limits:
    """A device's peaks.

    Attributes:
        flops: float32 operations per second, a multiply-add being two.
        bytes_per_s: of a copy, bytes read and bytes written together.
    """

    flops: float
    bytes_per_s: float

    def floor_s(self, flops: float, nbytes: float) -> float:
        """The least seconds that so many operations and bytes from memory take."""
        return max(flops / self.flops, nbytes / self.bytes_per_s)


def limits(device: Device) -> Limits:
    """The peaks of a device: measured now, or earlier in this version of its driver where that was more."""
    now = Limits(_flops(device), _bytes_per_s(device))
    with _file_lock:
        known = _read()
        key = device.facts.identity
        before = known.get(key, now)
        best = Limits(max(now.flops, before.flops), max(now.bytes_per_s, before.bytes_per_s))
        if best != known.get(key):
            content = {name: asdict(each) for name, each in {**known, key: best}.items()}
            with contextlib.suppress(OSError):  # it is measured again, next time
                write_atomically(_file(), json.dumps(content, indent=1).encode())
    return best


def _file() -> Path:
    return settings.cache_folder() / "limits.json"


def _read() -> dict[str, Limits]:
    """All that is remembered; what is missing or damaged is not."""
    try:
        content = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    found = {}
    for key, entry in content.items() if isinstance(content, dict) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            one = Limits(float(entry["flops"]), float(entry["bytes_per_s"]))
            if one.flops > 0 and one.bytes_per_s > 0:
                found[key] = one
    return found


def _flops(device: Device) -> float:
    facts = device.facts
    items = facts.compute_units * (1 if facts.kind == "cpu" else 32) * facts.work_group
    sums = min(facts.accumulators, 16)
    most = min(MOST_TIMES, facts.loop_limit // 2 or MOST_TIMES)

    def record(times: int) -> Recording:
        recorder = Recorder(facts)
        y = Tensor(slab, 0, None, slab.nbytes)
        recorder.launch(
            "limits.cl", "multiply_adds", (items,), [y, times, 0.5, 0.5], defines={"ACC": sums},
            local_size=(facts.work_group,), iterations=looped(times) + 2 * looped(sums),
        )  # fmt: skip
        return _finished(recorder, device)

    allocator = Allocator(device)
    slab = allocator.allocate(4 * facts.block * items, "arena", "limits")
    try:
        times = min(1000, most)
        while (seconds := _best_s(record(times), 0)) < LEAST_RUN_S and times < most:
            times = min(most, 4 * times)
        seconds = min(seconds, _best_s(record(times), SPENT_S))
    finally:
        slab.release()
    return 2 * facts.block * items * sums * times / seconds


def _bytes_per_s(device: Device) -> float:
    facts = device.facts
    size = min(COPIED_BYTES, facts.max_alloc_bytes, facts.global_bytes // 8) // 64 * 64
    count = size // (4 * facts.block)
    # A processor reads on and on, neighbours elsewhere read together.
    items = 4 * facts.compute_units if facts.kind == "cpu" else 1024 * facts.compute_units * facts.work_group
    if facts.loop_limit:
        items = max(items, -(-count // (facts.loop_limit // 8)))
    items = -(-items // facts.work_group) * facts.work_group
    each = -(-count // items)
    start, step = (each, 1) if facts.kind == "cpu" else (1, items)
    allocator = Allocator(device)
    slabs = []
    try:
        for _ in range(2):
            slabs.append(allocator.allocate(size, "arena", "limits"))
            allocator.fill(slabs[-1])
        x, y = (Tensor(slab, 0, None, size) for slab in slabs)
        recorder = Recorder(facts)
        recorder.launch(
            "limits.cl", "copy", (items,), [x, y, count, start, step, each],
            local_size=(facts.work_group,), iterations=looped(each),
        )  # fmt: skip
        return 2 * size / _best_s(_finished(recorder, device), SPENT_S)
    finally:
        for slab in slabs:
            slab.release()


def _finished(recorder: Recorder, device: Device) -> Recording:
    keys = {program: ProgramKey(*program) for program in recorder.programs()}
    built = build_programs(device, keys.values())
    return recorder.finish(device, {program: built[key] for program, key in keys.items()})


def _best_s(recording: Recording, spent_s: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """The least seconds of several runs, the first left out."""
    recording.run()
    recording.wait()
    best, start = float("inf"), clock()
    while best == float("inf") or clock() - start < spent_s:
        before = clock()
        recording.run()
        recording.wait()
        best = min(best, clock() - before)
    return best
