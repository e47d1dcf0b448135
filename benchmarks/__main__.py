"""Compares clconv with ONNX Runtime, OpenVINO and PyTorch on this machine's processor, in one run.

    python -m benchmarks infer --networks resnet18 vgg16 --batch 1 8
    python -m benchmarks train --networks cifar_net --batch 128
    python -m benchmarks infer --quick           a smoke test: the smallest network, ONNX Runtime alone
    python -m benchmarks plot results/FILE.json  draws the picture again

All engines get the same weights, the same random images, as many threads as there are processors, and float32. They
run in turn, in bursts, in an order that rotates, so that a machine whose speed drifts drifts for all; the figure is the
median. An engine whose results differ is not timed. Writes benchmarks/results/NAME.json and NAME.png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import clconv as cc
from clconv.cli.display import busy
from clconv.device import Device
from clconv.limits import limits

from .engines import INFERENCE, STEPS, THREADS, TRAINING, Run, Task, versions
from .networks import NETWORKS, SMALLEST, onnx_file
from .picture import draw

RESULTS = Path(__file__).parent / "results"
BURST_S = 0.05
PAUSE_S = 0.01  # while the threads of the one before stop spinning
SHORT_S = 0.02  # runs below it get an untimed one first
LEAST_ROUNDS = 5
TOLERANCE = 1e-3  # of the outputs' norm


def interleave(runs: Mapping[str, Run], seconds: float, least: int = LEAST_ROUNDS) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn in bursts of BURST_S at least, the order rotated each round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, started, rounds = list(runs), time.perf_counter(), 0
    while rounds < least or time.perf_counter() - started < seconds:
        for name in order:
            time.sleep(PAUSE_S)
            if times[name] and times[name][-1] < SHORT_S:
                runs[name]()
            burst = time.perf_counter()
            while True:
                before = time.perf_counter()
                runs[name]()
                times[name].append(time.perf_counter() - before)
                if time.perf_counter() - burst >= BURST_S:
                    break
        order = [*order[1:], order[0]]
        rounds += 1
    return times


def infer(name: str, batch: int, only: list[str], seconds: float, device: str | None) -> dict[str, Any]:
    """One row: a network's prediction of a batch by each engine."""
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder, cc.Net(NETWORKS[name](), device=device) as net:
        file = onnx_file(net, name, Path(folder), with_torch="torch" in only)
        task = Task(net, file, rng.standard_normal((batch, *net.network.input_shape), np.float32))
        runs, outputs, notes = _made(INFERENCE, only, task)
        reference = np.asarray(next(iter(outputs.values()), 0.0), np.float64)
        errors = {}
        for engine, output in outputs.items():
            difference = np.linalg.norm(np.asarray(output).reshape(reference.shape) - reference)
            errors[engine] = float(difference / np.linalg.norm(reference))
            if not errors[engine] <= TOLERANCE:
                notes[engine] = f"its outputs differ by {errors[engine]:.2g} of their norm"
                del runs[engine]
        times = interleave(runs, seconds * len(runs)) if runs else {}
    return _row(name, batch, times, notes, 1) | {"relative_error": errors}


def train(name: str, batch: int, only: list[str], seconds: float, device: str | None) -> dict[str, Any]:
    """One row: a training step of a network on a batch by each engine."""
    rng = np.random.default_rng(2)
    with cc.Net(NETWORKS[name](), device=device) as net:
        x = rng.standard_normal((STEPS * batch, *net.network.input_shape), np.float32)
        labels = rng.integers(0, net.network.output_shape[0], len(x))
        task = Task(net, Path(), x, labels)
        wanted = [engine for engine in TRAINING if engine.split()[0] in only]
        runs, _, notes = _made(TRAINING, wanted, task)
        times = interleave(runs, seconds * len(runs), 3) if runs else {}
    return _row(name, batch, times, notes, STEPS)


def _made(
    makers: Mapping[str, Any], only: list[str], task: Task
) -> tuple[dict[str, Run], dict[str, Any], dict[str, str]]:
    """The engines' functions, warmed up, with their first outputs; and what went wrong, by engine."""
    runs: dict[str, Run] = {}
    outputs: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for engine in only:
        try:
            run = makers[engine](task)
            outputs[engine] = run()
            run()
            runs[engine] = run
        except Exception as error:  # an engine that fails is a result, the others still count
            notes[engine] = f"{type(error).__name__}: {str(error)[:200]}"
    return runs, outputs, notes


def _row(name: str, batch: int, times: Mapping[str, list[float]], notes: dict[str, str], per: int) -> dict[str, Any]:
    """Medians in ms, ranges, and clconv's speed relative to the best of the others."""
    figures = {
        engine: {
            "ms": round(1e3 * statistics.median(spent) / per, 4),
            "least_ms": round(1e3 * min(spent) / per, 4),
            "most_ms": round(1e3 * max(spent) / per, 4),
            "runs": len(spent),
        }
        for engine, spent in times.items()
    }
    row: dict[str, Any] = {"network": name, "batch": batch, "engines": figures, "notes": notes}
    peers = {engine: figure["ms"] for engine, figure in figures.items() if engine != "clconv"}
    if peers and "clconv" in figures:
        row["best"] = min(peers, key=peers.__getitem__)
        row["speed_over_best"] = round(peers[row["best"]] / figures["clconv"]["ms"], 3)
    return row


def _line(row: Mapping[str, Any]) -> str:
    """A row for people."""
    times = ", ".join(f"{engine} {each['ms']:.3g} ms" for engine, each in row["engines"].items())
    notes = "".join(f"; {engine}: {note}" for engine, note in row["notes"].items())
    speed = f"; {row['speed_over_best']:.2f} times the speed of {row['best']}" if "best" in row else ""
    return f"{row['network']}, {row['batch']}: {times}{speed}{notes}"


def surroundings(device: Device) -> dict[str, Any]:
    """What a figure depends on: machine, device, driver, versions, commit, and how busy the machine was."""
    facts = device.facts
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "processor": _processor(), "threads": THREADS},
        "load_average": os.getloadavg(),
        "device": {"platform": facts.platform_name, "name": facts.name, "driver": facts.driver_version},
        "peak": asdict(limits(device)),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, **versions()},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _commit() -> str:
    """The commit of this source tree; "+" where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed.stdout.strip() else "")


def main(arguments: list[str]) -> int:
    """The command line; see the module's docstring. Exit code 1: an engine failed, or differed."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=["infer", "train", "plot"])
    parser.add_argument("file", nargs="?", type=Path, help="for plot: a file that was written before")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--only", nargs="+", choices=INFERENCE, help="engines (default: all that are installed)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine, network and batch")
    parser.add_argument("--device", help="as `clconv devices` lists it")
    parser.add_argument("--quick", action="store_true", help="the smallest network, for an instant")
    parser.add_argument("--out", type=Path, help="where to, without suffix (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)
    if given.what == "plot":
        if given.file is None:
            parser.error("plot needs the file to draw")
        draw(json.loads(given.file.read_text()), given.file.with_suffix(".png"))
        return 0
    if given.quick:
        given.networks, given.batch, given.seconds = [SMALLEST], [2], 0.1
        given.only = given.only or ["onnxruntime", "clconv"]
    installed = versions()
    only = [engine for engine in INFERENCE if engine in installed and engine in (given.only or INFERENCE)]
    device = cc.choose(given.device)
    assert device.queue  # before OpenVINO is loaded, whose TBB Intel's OpenCL runtime cannot share a process with
    if note := busy():
        print(note, file=sys.stderr)
    content = {"what": given.what, **surroundings(device), "rows": []}
    for name in given.networks:
        for batch in given.batch:
            row = (infer if given.what == "infer" else train)(name, batch, only, given.seconds, device.key)
            content["rows"].append(row)
            print(_line(row), flush=True)
    platform_name = content["device"]["platform"].split("(")[0].split()[0].lower()
    out = given.out or RESULTS / f"{given.what}-{content['date'][:10]}-{platform_name}"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    draw(content, out.with_suffix(".png"))
    print(f"written: {out.with_suffix('.json')} and .png", file=sys.stderr)
    return 1 if any(row["notes"] for row in content["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
