"""Where the time of a network goes: each operator of its plan, measured on the device, beside what the device can do.

Launches are timed by the device, in replays that alternate with untimed ones of the whole network; every figure is
the median. The data is random: convolutional networks take the same time whatever they see.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from . import drivers
from .device import Device
from .engine import Session
from .errors import OpenCLError
from .graph import Node
from .inference import OUTPUT, Inference
from .limits import Limits, limits
from .nn.network import Network
from .packing import Array
from .plan import Plan
from .program import Progress
from .relay import batch_of
from .terms import DEFAULT, Terms
from .timeline import counter, named_process
from .train import SGD
from .train.trainer import Trainer

LEAST_REPLAYS = 5
WORDS = {"WT": "", "KB": "x"}  # the register tile, as 14x2


@dataclass(frozen=True)
class Step:
    """One operator of a plan as it ran.

    Attributes:
        layer: the user's layer. operator: what is computed. algorithm: how, with its parameters.
        launches: kernels. seconds: of all of them. flops: as the direct method counts them.
        traffic_bytes: of operands and results, each once.
    """

    layer: str
    operator: str
    algorithm: str
    launches: int
    seconds: float
    flops: int
    traffic_bytes: int

    def share(self, peak: Limits) -> tuple[float, str]:
        """Of the device's peak: the larger share of "compute" and "memory", and which it is."""
        if not self.seconds:
            return 0.0, "compute"
        shares = (
            (self.flops / self.seconds / peak.flops, "compute"),
            (self.traffic_bytes / self.seconds / peak.bytes_per_s, "memory"),
        )
        return max(shares)


@dataclass(frozen=True)
class Launch:
    """One launch on the queue's timeline: the step it belongs to, and seconds from the first launch's start."""

    step: int
    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Benchmark:
    """What `measure` found.

    Attributes:
        network, device: what ran, and where. mode: "test" or "train".
        steps: operators in order; those of a part of the batch as often as there are parts. timeline: the launches of
            one replay, of each stage where there are several. live_bytes: of the arena at each step.
        persistent_bytes: weights and the like. peak_bytes: of device memory.
        run_s: the whole replayed without timing its launches, median; run_least_s, run_most_s: its range.
        joined: the whole is replayed as one launch. replays: how many of each kind. peak: what the device can do.
    """

    network: str
    device: str
    driver: str
    mode: str
    batch: int
    steps: tuple[Step, ...]
    timeline: tuple[Launch, ...]
    live_bytes: tuple[int, ...]
    persistent_bytes: int
    peak_bytes: int
    run_s: float
    run_least_s: float
    run_most_s: float
    joined: bool
    replays: int
    peak: Limits

    @property
    def sum_s(self) -> float:
        """Seconds of all launches, one by one."""
        return sum(step.seconds for step in self.steps)

    @property
    def floor_s(self) -> float:
        """The least that the steps could take one by one, by the direct method."""
        return sum(self.peak.floor_s(step.flops, step.traffic_bytes) for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: everything but the timeline, with rates; bytes, seconds and operations per second."""
        content = asdict(self)
        del content["timeline"]
        for row, step in zip(content["steps"], self.steps, strict=True):
            rate = 1 / step.seconds if step.seconds else 0.0
            share, bound = step.share(self.peak)
            row |= {"flops_per_s": step.flops * rate, "bytes_per_s": step.traffic_bytes * rate}
            row |= {"share_of_peak": share, "bound": bound}
        flops = sum(step.flops for step in self.steps)
        totals = {"sum_s": self.sum_s, "floor_s": self.floor_s, "flops": flops}
        return content | totals | {"launches": len(self.timeline)}

    def to_trace(self) -> dict[str, Any]:
        """In the format of Chrome's and Perfetto's traces: launches on the queue's timeline, and bytes alive."""
        events = named_process(f"{self.network} on {self.device}", "queue")
        seen: set[int] = set()
        for launch in self.timeline:
            step = self.steps[launch.step]
            at = {"pid": 1, "tid": 1, "ts": 1e6 * launch.start_s}
            if launch.step not in seen:
                seen.add(launch.step)
                live = {"arena": self.live_bytes[launch.step], "persistent": self.persistent_bytes}
                events.append(counter("live bytes", 1e6 * launch.start_s, live))
            share, bound = step.share(self.peak)
            about = {"operator": step.operator, "algorithm": step.algorithm, "FLOP": step.flops}
            about |= {"bytes": step.traffic_bytes, f"share of {bound} peak": round(share, 4)}
            events.append(
                {
                    "ph": "X", "name": launch.label, "cat": step.operator, **at,
                    "dur": 1e6 * (launch.end_s - launch.start_s), "args": about,
                }
            )  # fmt: skip
        return {"traceEvents": events, "displayTimeUnit": "ms"}


def measure(
    network: Network,
    device: Device,
    arrays: Mapping[str, Array],
    *,
    mode: str = "test",
    batch: int = 1,
    budget: int | None = None,
    terms: Terms = DEFAULT,
    seconds: float = 2.0,
    name: str = "network",
    progress: Progress | None = None,
) -> Benchmark:
    """Runs a network, or a step of its training, for about `seconds`, and says where the time goes.

    Args:
        arrays: weights by name; they are not changed. mode: "test" or "train".
        batch: images per run. budget: of device memory, in bytes. progress: of building kernels.
        terms: of the plan in test-time mode.

    Raises:
        BudgetError: it needs more than the budget.
    """
    if mode == "train":
        terms.for_training("bench")
    peak = limits(device)
    session, plan, release = _opened(network, device, arrays, mode, batch, budget, terms, progress)
    parts = mode == "train"  # the batch may come in them
    try:
        stages = [
            _measured(session, stage, network.output_shape[0], seconds / len(plan.stages), batch if parts else None)
            for stage in plan.stages
        ]
        steps, timeline = _one_after_the_other(stages)
        return Benchmark(
            network=name,
            device=f"{device.facts.platform_name}: {device.facts.name}",
            driver=device.facts.driver_version,
            mode=mode,
            batch=batch,
            steps=steps,
            timeline=timeline,
            live_bytes=tuple(live for stage in plan.stages for live in stage.live_bytes),
            persistent_bytes=plan.residence.nbytes(),
            peak_bytes=session.allocator.peak_bytes,
            run_s=sum(stage.times * statistics.median(stage.runs) for stage in stages),
            run_least_s=sum(stage.times * min(stage.runs) for stage in stages),
            run_most_s=sum(stage.times * max(stage.runs) for stage in stages),
            joined=all(stage.joined for stage in stages),
            replays=min(len(stage.runs) for stage in stages),
            peak=peak,
        )
    finally:
        release()


@dataclass(frozen=True)
class _Stage:
    """A stage as it was replayed; `times`: how often a step on the whole batch runs it. `runs`: seconds of each."""

    times: float
    steps: tuple[Step, ...]
    timeline: tuple[Launch, ...]
    runs: tuple[float, ...]
    joined: bool


def _measured(session: Session, plan: Plan, classes: int, seconds: float, batch: int | None) -> _Stage:
    """Replays one stage of a plan; `batch`: images of the whole, of which it may take a part."""
    feeds = _feeds(plan, classes)
    session.run(plan, feeds)
    runs, replays = _replay(session, plan, feeds, seconds)
    executable = session.prepare(plan)
    nodes = list(plan.graph.nodes)
    index = {node: i for i, node in enumerate(nodes)}
    places = [index[node] for node in executable.nodes]
    spent, launches = [0.0] * len(nodes), [0] * len(nodes)
    for place, launch in zip(places, zip(*replays, strict=True), strict=True):
        spent[place] += statistics.median(end - start for _, start, end in launch)
        launches[place] += 1
    middle = sorted(replays, key=lambda replay: replay[-1][2] if replay else 0)[len(replays) // 2]
    times = 1.0 if batch is None else batch / batch_of(plan)
    return _Stage(
        times,
        tuple(_step(plan, *figures, times) for figures in zip(nodes, launches, spent, strict=True)),
        tuple(Launch(place, *entry) for place, entry in zip(places, middle, strict=True)),
        tuple(runs),
        executable.joining.joined,
    )


def _one_after_the_other(stages: Sequence[_Stage]) -> tuple[tuple[Step, ...], tuple[Launch, ...]]:
    """Steps and launches of all stages, numbered and timed as one sequence."""
    steps: list[Step] = []
    timeline: list[Launch] = []
    for stage in stages:
        at = timeline[-1].end_s if timeline else 0.0
        timeline += [Launch(len(steps) + n, label, at + a, at + b) for n, label, a, b in map(astuple, stage.timeline)]
        steps += stage.steps
    return tuple(steps), tuple(timeline)


def _step(plan: Plan, node: Node, launches: int, seconds: float, times: float) -> Step:
    """What ran of a node in a step that runs the plan so many times."""
    choice, cost = plan.choices[node], plan.costs[node]
    tile = "".join(f"{WORDS[name]}{value}" for name, value in choice.tiles if name in WORDS)
    algorithm = choice.name if choice.name != "plain" else ""
    return Step(
        node.name,
        node.layer.operator,
        f"{algorithm} {tile}".strip(),
        round(times * launches),
        times * seconds,
        int(times * cost.flops),
        int(times * cost.traffic_bytes),
    )


def _opened(
    network: Network,
    device: Device,
    arrays: Mapping[str, Array],
    mode: str,
    batch: int,
    budget: int | None,
    terms: Terms,
    progress: Progress | None,
) -> tuple[Session, Plan, Callable[[], None]]:
    """A session with the network loaded, the plan to run in it, and how to free it."""
    if mode == "train":
        # The rate is zero, so that the weights stay as they are.
        loss = "softmax" if network.flat_output else "mse"
        optimizer = SGD(0.01, momentum=0.9)
        trainer = Trainer(network, device, loss, optimizer, budget=budget)
        try:
            trainer.prepare(arrays, {"train": {batch}}, progress)
            trainer.session.write("hyper", optimizer.hyper(0.0, 1))
        except BaseException:
            trainer.release()
            raise
        return trainer.session, trainer.plan("train", batch), trainer.release
    inference = Inference(network, device)
    plan = inference.plan(OUTPUT, batch, budget=budget, terms=terms)
    session = inference.open(plan, arrays, budget)
    try:
        session.prepare(plan, progress)
    except BaseException:
        inference.release()
        raise
    return session, plan, inference.release


def _feeds(plan: Plan, classes: int) -> dict[str, Array]:
    """Random inputs; labels below `classes`."""
    rng = np.random.default_rng(1)
    feeds: dict[str, Array] = {}
    for name, value in plan.graph.inputs.items():
        if np.issubdtype(np.dtype(value.spec.dtype), np.integer):
            feeds[name] = rng.integers(0, classes, value.spec.shape).astype(value.spec.dtype)
        else:
            feeds[name] = rng.standard_normal(value.spec.shape).astype(value.spec.dtype)
    return feeds


def _replay(
    session: Session, plan: Plan, feeds: Mapping[str, Array], seconds: float
) -> tuple[list[float], list[list[tuple[str, float, float]]]]:
    """Seconds of whole replays, and (label, start, end) of each launch in others that alternated with them."""
    cl = drivers.opencl()
    device, executable = session.device, session.prepare(plan)
    executable.join()
    recording, apart = executable.recording, executable.apart()

    def feed() -> None:
        # A run may overwrite its inputs.
        for name, array in feeds.items():
            executable.feed(name, array)

    try:
        queue = cl.CommandQueue(device.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
    except cl.Error as error:
        raise OpenCLError(error.code, f"device {device.key}: a queue with profiling") from error
    executable.lend_outputs()
    runs: list[float] = []
    times: list[list[tuple[str, float, float]]] = []
    started = time.perf_counter()
    while len(runs) < LEAST_REPLAYS or time.perf_counter() - started < seconds:
        feed()
        before = time.perf_counter()
        recording.run()
        recording.wait()
        runs.append(time.perf_counter() - before)
        feed()
        times.append(apart.profile(queue))
    recording.give_back()
    return runs, times
