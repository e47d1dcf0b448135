"""When the launches of a plan are joined: once it has run often, and a process beside has compiled the kernel.

Nobody waits for that: until then every launch goes alone, and in a new process the kernel is there from the first
run. The process beside ends with this one. A few runs of each kind are then compared, and where the one launch is
slower, again and again, launches go alone for good. CLCONV_JOIN=0 leaves launches alone, 1 joins them at once, of
larger networks, too: they are joined in later processes as well.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from . import device as devices
from . import drivers, program, settings
from ._core.executor import Recording
from ._core.memory import Allocator
from ._core.recorder import Copy, Launch, Recorder
from .device import Device
from .joined import STANDARD, JoinedLaunch, joinable, kinds_of, summary
from .program import ProgramKey

OFTEN = 20  # runs of a plan
TRIED = 8  # runs of each kind that are compared
# Kernels with their definitions. More take a compiler up to half a minute, in which PoCL's threads, which sleep between
# launches, share their processors with it: only where CLCONV_JOIN=1 asks for it, once.
FEW_KINDS = 10
LOSSES = 3  # of so many trials, and it is not tried again
SLOWER = 1.05  # times the median of the others: less is noise
CHILD = "import sys; sys.path[:] = {path!r}\nfrom clconv.joining import serve\nserve(sys.stdin.buffer)"

_children: dict[ProgramKey, subprocess.Popen[bytes]] = {}  # by what they compile; kept: what failed is not tried again
_lock = threading.Lock()


@dataclass
class _Trial:
    """Runs of the launches one by one and as one, in turn, so that what else the machine does slows both; seconds."""

    apart: Recording
    joined: Recording
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})

    @property
    def lost(self) -> bool:
        """Whether the one launch is clearly slower; first runs, in which drivers still compile, do not count."""
        return statistics.median(self.seconds[True][1:]) > SLOWER * statistics.median(self.seconds[False][1:])


class Joining:
    """Launches of a plan that may become one.

    Args:
        launches: as recorded. flops: of all of them. allocator: of their tensors.

    Attributes:
        joined: they are, from the first run on or since `ran` or `join` gave the recording. possible: they may be.
    """

    def __init__(self, device: Device, launches: Sequence[Launch | Copy], flops: int, allocator: Allocator) -> None:
        mode = settings.get("CLCONV_JOIN")
        self.device = device
        self.possible = mode != "0" and joinable(device.facts, launches)
        self.joined = False
        self._trial: _Trial | None = None
        if self.possible:
            self.launches = [launch for launch in launches if isinstance(launch, Launch)]
            self._allocator = allocator
            # Not by its source, which is made only where it is wanted.
            self._note = ProgramKey("joined.cl", (), summary(self.launches), STANDARD)
            self._lost = replace(self._note, defines=(("SLOWER", "1"),))
            few = len(kinds_of(launches)) <= FEW_KINDS
            self._pays = few and flops < device.facts.joins * 1e6 * len(launches)
            self._runs = self._losses = 0
            self.possible = mode == "1" or not program.kept(device, self._lost)
            self.joined = mode == "1" or (self.possible and program.kept(device, self._note))

    def launch(self) -> JoinedLaunch:
        """The one launch, which takes some milliseconds to make."""
        return JoinedLaunch(self.device.facts, self.launches, self._allocator)

    def ran_first(self) -> None:
        """Notes that the kernel, where it is one, has been compiled to the end, as it has with its first run."""
        if self.joined:
            program.keep(self.device, self._note)

    def ran(self, recording: Recording, seconds: float | None) -> Recording:
        """Notes a run of a recording and how long it took, None where nothing waited for it; what to replay next."""
        if self._trial is not None:
            return self._tried(self._trial, seconds)
        if not self.joined and self.possible and self._pays:
            self._runs += 1
            if self._runs >= OFTEN and self._compiled():
                self._trial = _Trial(recording, self._recording())
        return recording

    def _tried(self, trial: _Trial, seconds: float | None) -> Recording:
        """The next run of a trial; without times the launches are joined untried."""
        if seconds is not None:
            trial.seconds[self.joined].append(seconds)
            if len(trial.seconds[True]) <= TRIED:
                self.joined = not self.joined
                return trial.joined if self.joined else trial.apart
        self._trial = None
        self.joined = seconds is None or not trial.lost
        if self.joined:
            return trial.joined
        # A busy machine may have slowed it: it is tried again after ten times as many runs.
        self._losses += 1
        self._runs = OFTEN - OFTEN * 10**self._losses
        if self._losses == LOSSES:
            program.keep(self.device, self._lost)
            self.possible = False
        return trial.apart

    def join(self) -> Recording | None:
        """The recording of the one launch, where the kernel is there already and not in use yet."""
        there = self.possible and not self.joined and program.kept(self.device, self._note)
        if not there:
            return None
        self._trial, self.joined = None, True
        return self._recording()

    def apart(self) -> Recording:
        """A recording of the launches one by one."""
        return _recorded(self.device, self.launches)

    def _recording(self) -> Recording:
        return _recorded(self.device, [self.launch()])

    def _compiled(self) -> bool:
        """Whether the kernel is there; starts a process that compiles it, one at a time."""
        with _lock:
            child = _children.get(self._note)
            if child is None and not program.kept(self.device, self._note):
                if all(each.poll() is not None for each in _children.values()):
                    self._start()
                return False
            if child is not None and child.poll() is None:
                return False
            self.possible = program.kept(self.device, self._note)
            return self.possible

    def _start(self) -> None:
        if getattr(sys, "frozen", False):  # the executable is a program of the user's, which would run once more
            self.possible = False
            return
        script = CHILD.format(path=list(sys.path))
        index = int(self.device.key.split(":")[1])
        key = ProgramKey(*self.launch().program)
        message = pickle.dumps((self.device.facts.identity, index, key, self._note))
        try:
            # In the same session: Linux shares processors out by session first, and only then by priority, so that
            # the process would take half of them in one of its own, idle priority or not.
            child = subprocess.Popen(
                [sys.executable or "python3", "-c", script],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            self.possible = False
            return
        _children[self._note] = child
        assert child.stdin is not None
        threading.Thread(target=_tell, args=(child.stdin, message), daemon=True).start()


def _tell(stream: IO[bytes], message: bytes) -> None:
    """Writes the message; the stream stays open as long as this process lives, by which the other one knows."""
    with contextlib.suppress(OSError):
        stream.write(message)
        stream.flush()


def _recorded(device: Device, launches: Sequence[Launch]) -> Recording:
    recorder = Recorder(device.facts)
    recorder.launches = list(launches)
    keys = {each: ProgramKey(*each) for each in recorder.programs()}
    built = program.build_programs(device, keys.values())
    return recorder.finish(device, {each: built[key] for each, key in keys.items()})


def serve(stream: IO[bytes]) -> None:
    """In a process of its own: compiles what the stream names, to the end, and notes that it is kept."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program, with which this process ends
    if hasattr(os, "SCHED_IDLE"):  # compiling takes up to a minute: only of what nobody else wants of the processor
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    elif hasattr(os, "nice"):
        os.nice(19)
    identity, index, key, note = pickle.load(stream)
    threading.Thread(target=_end_with, args=(stream,), daemon=True).start()
    listed = devices.devices(probe=False)
    found = [info for info in listed if info.facts.identity == identity and info.key.endswith(f":{index}")]
    device = devices.open_device(found[0])
    compile_joined(device, key)
    program.keep(device, note)


def _end_with(stream: IO[bytes]) -> None:
    """Ends this process when the other end of the stream is gone: nothing works on for a program that has ended."""
    while os.read(stream.fileno(), 1):  # not stream.read: it would hold a lock when the interpreter ends
        pass
    os._exit(1)


def compile_joined(device: Device, key: ProgramKey) -> None:
    """Builds a joined program and launches it without a step, as some drivers compile only then."""
    import numpy as np

    cl = drivers.opencl()
    built = program.build_programs(device, [key])[key]
    kernel = cl.Kernel(built, "joined")
    for i in range(kernel.num_args - 1):
        kernel.set_arg(i, np.uint64(0) if i % 2 else None)
    kernel.set_arg(kernel.num_args - 1, np.int32(0))
    cl.enqueue_nd_range_kernel(device.queue, kernel, (device.facts.compute_units,), (1,))
    device.queue.finish()
