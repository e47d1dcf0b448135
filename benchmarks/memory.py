"""What an image takes on the host, and how long, inside budgets: clconv beside ONNX Runtime and OpenVINO.

    python benchmarks/memory.py FOLDER [--out FILE] [--only NETWORK]

FOLDER holds vgg16.onnx and the like. Every figure of memory comes from a process of its own: "first" is how far it
grows from the imports to the first result, "again" how far it grows when the file is opened once more and predicts in
the same process, where all code is compiled. Both are anonymous memory (no file backs it), the most that was seen,
looked at every millisecond or so. Times are ratios to clconv without a budget: rounds through all budgets in turn,
in one process, by wall clock (medians) and by processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from anonymous import growth

BUDGETS: dict[str, list[str]] = {
    "vgg16": ["320MB", "64MB", "16MB", "7.5MB"],
    "resnet50": ["16MB", "6MB"],
    "mobilenetv2": ["6MB", "1.3MB"],
    "squeezenet": ["3MB"],
    "unet": ["least"],
    "fcn": ["512MB"],
}
FCN = "INPUT 4096x4096x3 -> [[CONV 3x3x16 -> RELU]*2 -> POOL]*2 -> [CONV 3x3x32 -> RELU]*3 -> CONV 3x3x2"
ROUNDS = 5
LEAST = 64  # bytes: no network fits, so that the refusal names its minimum


def opened(file: str, budget: str | None) -> tuple[Any, Any]:
    """clconv's network and a prediction of it."""
    import clconv as cc

    net = cc.Net(FCN) if file.endswith("fcn.onnx") else cc.load(file)
    memory: str | int | None = budget
    if budget == "least":
        try:
            net.plan(memory=LEAST)
        except cc.errors.BudgetError as refusal:
            memory = refusal.needed_bytes
    x = np.full((1, *net.network.input_shape), 0.5, np.float32)
    return net, lambda: net.predict(x, memory=memory)


def clconv_once(file: str, budget: str | None) -> None:
    net, predict = opened(file, budget)
    with net:
        predict()


def onnxruntime_once(file: str, budget: str | None) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    shape = [1, *(n if isinstance(n, int) else 224 for n in port.shape[1:])]
    session.run(None, {port.name: np.full(shape, 0.5, np.float32)})


def openvino_once(file: str, budget: str | None) -> None:
    import openvino

    model = openvino.Core().compile_model(file, "CPU")
    shape = [n.get_length() if n.is_static else 1 for n in model.inputs[0].get_partial_shape()]
    model([np.full(shape, 0.5, np.float32)])


ENGINES = {"clconv": clconv_once, "onnxruntime": onnxruntime_once, "openvino": openvino_once}


def memory_of(engine: str, file: str, budget: str | None) -> dict[str, Any]:
    """In a child: how far it grows, at first and again."""
    __import__(engine)
    if engine == "clconv":
        clconv_once(file, budget)  # files of packed weights and compiled kernels are there, as at every later start
    found: dict[str, Any] = {"again" if engine == "clconv" else "first": growth(lambda: ENGINES[engine](file, budget))}
    if engine != "clconv":
        found["again"] = growth(lambda: ENGINES[engine](file, budget))
    return found


def first_of_clconv(file: str, budget: str | None) -> dict[str, Any]:
    """In a child whose caches are warm: from the imports to the first result, with what was planned and measured."""
    import clconv

    assert clconv
    facts: dict[str, Any] = {}

    def once() -> None:
        net, predict = opened(file, budget)
        with net:
            predict()
            usage = net.usages[0]
            facts.update(planned=usage.planned_bytes, measured=usage.measured_bytes)

    return {"first": growth(once), **facts}


def times_of(file: str, budgets: list[str]) -> dict[str, Any]:
    """In a child: seconds of predictions, budgets in turn."""
    nets = {budget: opened(file, budget) for budget in [None, *budgets]}
    for _, predict in nets.values():
        predict()
    wall: dict[str | None, list[float]] = {budget: [] for budget in nets}
    cpu: dict[str | None, list[float]] = {budget: [] for budget in nets}
    for _ in range(ROUNDS):
        for budget, (_, predict) in nets.items():
            begun, used = time.perf_counter(), time.process_time()
            predict()
            wall[budget].append(time.perf_counter() - begun)
            cpu[budget].append(time.process_time() - used)
    base, base_cpu = statistics.median(wall[None]), statistics.median(cpu[None])
    return {
        "unlimited_s": base,
        "ratios": {b: statistics.median(wall[b]) / base for b in budgets},
        "cpu_ratios": {b: statistics.median(cpu[b]) / base_cpu for b in budgets},
    }


def child(*arguments: str) -> dict[str, Any]:
    """What a process of its own found, or why it failed."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, timeout=900)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else str(done.returncode)}
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def network(folder: Path, name: str) -> dict[str, Any]:
    file, found = str(folder / f"{name}.onnx"), {}
    for engine in ("onnxruntime", "openvino") if name != "fcn" else ():
        found[engine] = child("--child", "memory", engine, file, "")
    for budget in ["", *BUDGETS[name]]:
        again = child("--child", "memory", "clconv", file, budget)
        first = {} if "error" in again else child("--child", "first", file, budget)
        found[budget or "unlimited"] = {**again, **first}
    fits = [budget for budget in BUDGETS[name] if "error" not in found[budget]]
    found["times"] = child("--child", "times", file, *fits)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        what, *rest = sys.argv[2:]
        if what == "memory":
            print(json.dumps(memory_of(rest[0], rest[1], rest[2] or None)))
        elif what == "first":
            print(json.dumps(first_of_clconv(rest[0], rest[1] or None)))
        else:
            print(json.dumps(times_of(rest[0], rest[1:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where vgg16.onnx and the like are")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    parser.add_argument("--only", action="append", choices=list(BUDGETS))
    given = parser.parse_args()
    content: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.only or BUDGETS:
        content[name] = network(given.folder, name)
        content[name]["load"] = os.getloadavg()[0]
        print(name, json.dumps(content[name], indent=1), flush=True)
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
