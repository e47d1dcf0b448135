"""Searches the fastest choice of each operator on a device, inside a time budget.

Candidates are built, verified and timed in a child process: one that hangs is ended, one that takes the process down
is noted, and the search goes on in a new one. What is found is stored after each operator (`tuned`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import Pipe
from typing import Any

from . import probe, tuned
from ._core.layer import Choice
from .device import Device
from .errors import ClconvError
from .graph import Operand
from .inference import OUTPUT, Inference
from .nn.network import Network
from .plan import Plan
from .shapes import TensorSpec
from .train import SGD
from .train.trainer import Trainer
from .trial import Job, Outcome, tunable

LIMIT_S = 30.0  # for one candidate, building included
START_S = 60.0  # for a new process, and for verifying the default
SAMPLING_S = 0.05  # of timing, for each candidate
CONFIRMING_S = 0.3  # of timing, for the best
LEAST_GAIN = 1.03  # below it the default stays: measurements differ by as much
CHILD = "import sys; sys.path[:] = {path!r}\nfrom multiprocessing.connection import Connection\n"
CHILD += "from clconv.trial import serve\nserve(Connection({handle}), {identity!r}, {index})"


class Lost(Exception):
    """The child process hung or ended; says which."""


@dataclass
class Target:
    """Operators of a plan that are one shape class.

    Attributes:
        name: the class (`tuned.shape_class`). layers: the user's layers that have it. flops: of all of them.
        choices: the default first.
    """

    name: str
    job: Job
    choices: list[Choice]
    layers: list[str] = field(default_factory=list)
    flops: int = 0


@dataclass(frozen=True)
class Found:
    """What the search found for a target.

    Attributes:
        choice: the fastest. gain: the default's time over its own, 1 for the default itself.
        seconds: of one run. tried: how many candidates. notes: (candidate, what is wrong with it).
        complete: all candidates were tried.
    """

    target: Target
    choice: Choice
    gain: float
    seconds: float
    tried: int
    notes: tuple[tuple[str, str], ...]
    complete: bool


@dataclass(frozen=True)
class Progress:
    """Where the search is: operator `index` of `count`, candidate `tried` of `candidates`, and the best so far."""

    layer: str
    index: int
    count: int
    tried: int
    candidates: int
    gain: float


Report = Callable[[Progress], None]


def plan_of(network: Network, device: Device, batch: int, mode: str) -> Plan:
    """The plan whose operators are tuned: of a prediction ("test") or of a training step ("train")."""
    if mode == "train":
        loss = "softmax" if network.flat_output else "mse"
        return Trainer(network, device, loss, SGD(0.01, momentum=0.9)).plan("train", batch)
    return Inference(network, device).plan(OUTPUT, batch)


def targets(plan: Plan) -> list[Target]:
    """The shape classes of a plan that have something to choose and a reference, those that compute most first."""
    found: dict[str, Target] = {}
    for node in plan.graph.nodes:
        specs, outs = node.input_specs(), [value.spec for value in node.outputs]
        choices = node.layer.choices(plan.facts, specs, outs)
        job = tunable(node.layer, [_specs(operand) for operand in node.inputs])
        if job is None or len(choices) < 2:
            continue
        name = tuned.shape_class(node.layer, specs, outs)
        target = found.setdefault(name, Target(name, job, choices))
        target.layers.append(node.name)
        target.flops += plan.costs[node].flops
    return sorted(found.values(), key=lambda target: -target.flops)


def _specs(operand: Operand) -> TensorSpec | tuple[TensorSpec, ...] | None:
    if isinstance(operand, tuple):
        return tuple(piece.spec for piece in operand)
    return None if operand is None else operand.spec


def describe(choice: Choice) -> str:
    """A choice in a few words."""
    return " ".join([choice.name, *(f"{name}={value}" for name, value in choice.tiles)])


def search(
    device: Device,
    wanted: list[Target],
    seconds: float,
    *,
    fresh: bool = False,
    report: Report | None = None,
    limit_s: float = LIMIT_S,
) -> list[Found]:
    """Searches for `seconds`, about; stores and returns what was found.

    Args:
        wanted: see `targets`; each gets an equal share of the time that is left, and what others leave over.
        fresh: forget what was found earlier; else the search goes on from there.
        report: called after each candidate. limit_s: how long a candidate may take.

    Raises:
        ModelFileError: what was found cannot be stored.
    """
    end = time.monotonic() + seconds
    with contextlib.closing(_Child(device)) as child:
        running = [_Search(child, target, i, len(wanted), report, limit_s) for i, target in enumerate(wanted)]
        if not fresh:
            for each in running:
                each.resume(tuned.own_entries(device.facts).get(each.target.name))
        while (open_ := [each for each in running if not each.over]) and time.monotonic() < end:
            for place, each in enumerate(open_):
                left = end - time.monotonic()
                if left > 0:
                    each.run(time.monotonic() + left / (len(open_) - place))
                    each.store(device)
    return [each.found for each in running if each.tried or each.over]


class _Search:
    """The search for one target, which can be interrupted and gone on with."""

    def __init__(
        self, child: _Child, target: Target, index: int, count: int, report: Report | None, limit_s: float
    ) -> None:
        self.child, self.target, self.limit_s = child, target, limit_s
        self.index, self.count, self.report = index, count, report
        self.notes: list[tuple[str, str]] = []
        self.tried = 0
        self.failed = False
        self.best, self.gain, self.seconds = target.choices[0], 1.0, 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is left to try."""
        return self.failed or self.tried == len(self.target.choices) - 1

    @property
    def found(self) -> Found:
        """What was found so far."""
        complete = self.over and not self.failed
        return Found(self.target, self.best, self.gain, self.seconds, self.tried, tuple(self.notes), complete)

    def resume(self, entry: tuned.Entry | None) -> None:
        """Goes on where an earlier search ended."""
        for choice in self.target.choices:
            if entry is not None and entry.fits(choice):
                self.best, self.gain, self.tried = choice, entry.gain, min(entry.tried, len(self.target.choices) - 1)

    def run(self, end: float) -> None:
        """Tries candidates, the most promising first, until all are tried or the time is over."""
        before = self.best
        candidates = self.target.choices[1:]
        while not self.over and time.monotonic() < end:
            outcome = self._attempt(candidates[self.tried], SAMPLING_S)
            if outcome is not None and outcome.default_s / outcome.seconds > max(self.gain, LEAST_GAIN):
                self.best, self.gain = candidates[self.tried], outcome.default_s / outcome.seconds
                self.seconds = outcome.seconds
            self.tried += 1
            if self.report is not None:
                layer = self.target.layers[0]
                self.report(Progress(layer, self.index, self.count, self.tried, len(candidates), self.gain))
        if self.best is not before:
            self._confirm()

    def store(self, device: Device) -> None:
        """Keeps what was found, the default too, so that it is known to be the best."""
        if not self.failed and self.tried:
            entry = tuned.Entry(self.best.name, dict(self.best.tiles), round(self.gain, 4), self.tried)
            tuned.store(device.facts, {self.target.name: entry})

    def _confirm(self) -> None:
        """Times the best once more, for longer: the best of many is often only the luckiest."""
        outcome = self._attempt(self.best, CONFIRMING_S)
        gain = outcome.default_s / outcome.seconds if outcome is not None else 0.0
        if gain < LEAST_GAIN:
            self.best, self.gain, self.seconds = self.target.choices[0], 1.0, 0.0
        elif outcome is not None:
            self.gain, self.seconds = gain, outcome.seconds

    def _attempt(self, choice: Choice, seconds: float) -> Outcome | None:
        """What became of a candidate; None, with a note, where it is no good."""
        try:
            if problem := self.child.take(self.target.job):
                self.failed = True
                self.notes.append((describe(self.target.choices[0]), problem))
                return None
            outcome: Outcome = self.child.ask(("try", choice, seconds), self.limit_s)
        except Lost as lost:
            # A child that is lost with the job itself would be lost again and again.
            self.failed = self.child.job is not self.target.job
            self.notes.append((describe(self.target.choices[0] if self.failed else choice), str(lost)))
            self.child.close()
            return None
        if outcome.problem:
            self.notes.append((describe(choice), outcome.problem))
            return None
        return outcome


class _Child:
    """The process in which candidates run; it is started when it is needed."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.job: Job | None = None  # that the process holds
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Any = None

    def take(self, job: Job) -> str:
        """Gives the process a job, unless it holds it already; what is wrong with its default choice, or nothing.

        Raises:
            Lost: the process hung, or ended.
        """
        if self._process is None:
            self._start()
        if self.job is job:
            return ""
        self.job = None
        problem: str = self.ask(("job", job), START_S)
        if not problem:
            self.job = job
        return problem

    def ask(self, message: tuple[Any, ...], limit_s: float) -> Any:
        """The process's answer.

        Raises:
            Lost: it did not come within `limit_s` seconds, or never will.
        """
        assert self._process is not None
        try:
            self._connection.send(message)
            if not self._connection.poll(limit_s):
                raise Lost(f"it did not end within {limit_s:g} s")
            return self._connection.recv()
        except (EOFError, OSError) as error:
            try:
                code = self._process.wait(5)
            except subprocess.TimeoutExpired:
                raise Lost("its process does not answer") from error
            how = probe.signal_name(-code) if code < 0 else f"code {code}"
            raise Lost(f"its process ended ({how})") from error

    def _start(self) -> None:
        ours, theirs = Pipe()
        index = int(self.device.key.split(":")[1])
        path, identity = list(sys.path), self.device.facts.identity
        script = CHILD.format(path=path, handle=theirs.fileno(), identity=identity, index=index)
        try:
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-c", script],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),), start_new_session=True, cwd=os.getcwd(),
            )  # fmt: skip
        except OSError as error:
            raise ClconvError(f"tune: a process could not be started: {error}") from error
        finally:
            theirs.close()
        self._connection = ours

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._connection.close()
            probe.end(self._process)
        self._process, self._connection, self.job = None, None, None
