"""A process whose memory is looked at from outside: `python memory_child.py JOB`, JSON on standard output.

count: predictions and a training run on a device behind `memory_layer.c`, its count beside clconv's own.
grow: a network from a file predicts inside budgets; how far the process's anonymous memory grows meanwhile.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import clconv as cc

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))  # no part of the package

from anonymous import growth


def counted(layer: ctypes.CDLL, name: str) -> int:
    function = getattr(layer, f"counted_{name}")
    function.restype = ctypes.c_size_t
    return int(function())


def noted(layer: ctypes.CDLL, net: cc.Net, mode: str) -> dict[str, int]:
    """What the layer counted, and what the network says about the same run."""
    usage = next(usage for usage in net.usages if usage.mode == mode)
    names = ("live", "peak", "mapped", "calls", "kernels")
    found = {name: counted(layer, name) for name in names}
    own = {"planned": usage.planned_bytes, "measured": usage.measured_bytes}
    return {**found, **own, "own_mapped": usage.by_tag.get("mapped", 0)}


def left(layer: ctypes.CDLL) -> int:
    """Bytes that are still there, once the driver's threads have let go of the last command."""
    for _ in range(500):  # not by the clock: a process that stands still lets go of nothing
        if not (bytes_left := counted(layer, "live") + counted(layer, "mapped")):
            break
        time.sleep(0.01)
    return bytes_left


def opened(net: str) -> cc.Net:
    """From a file, or made of a pattern."""
    return cc.load(net) if net.endswith(".safetensors") else cc.Net(net)


def count(job: dict[str, Any]) -> list[dict[str, int]]:
    layer = ctypes.CDLL(os.environ["OPENCL_LAYERS"])
    found = []
    for terms in job["predictions"]:
        with opened(job["net"]) as net:
            x = np.ones((3, *net.network.input_shape), np.float32)
            layer.counted_reset()
            net.predict(x, **terms)
            found.append(noted(layer, net, "test"))
        found[-1]["left"] = left(layer)
    for terms in job["trainings"]:
        with opened(job["net"]) as net:
            x = np.ones((job["batch"], *net.network.input_shape), np.float32)
            y = np.zeros((len(x), *net.network.output_shape), np.float32)
            layer.counted_reset()
            net.fit(x, y, loss="mse", batch_size=len(x), verbose=False, **terms)
            found.append(noted(layer, net, "train"))
        found[-1]["left"] = left(layer)
    return found


def grow(job: dict[str, Any]) -> list[dict[str, int]]:
    found = []
    for memory in job["budgets"]:
        run(job, memory, lambda work: work())  # builds the kernels
        grown, measured = run(job, memory, growth)
        found.append({"budget": memory, "growth": grown, "measured": measured})
    return found


def run(job: dict[str, Any], memory: int, how: Callable[[Callable[[], None]], Any]) -> tuple[Any, int]:
    """Opens the file, plans, and predicts in `how`'s hands; what that returns, and the measured device bytes."""
    with cc.load(job["file"]) as net:
        x = np.zeros((1, *net.network.input_shape), np.float32)
        net.plan(memory=memory)

        def predict() -> None:
            for _ in range(job["times"]):
                net.predict(x, memory=memory)

        return how(predict), net.usages[0].measured_bytes


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"count": count, "grow": grow}[asked["what"]](asked)))
