"""The memory promise seen from outside: by a layer between the loader and the driver, and by the system's own count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import hourglass, least

import clconv as cc
from clconv.device import Device

HERE = Path(__file__).parent
PATTERN = "INPUT 32x32x3 -> CONV 3x3x32 -> RELU -> CONV 3x3x16 -> RELU -> POOL -> FC 10"
MOST_KERNELS = 48
BESIDES = 2 << 20  # bytes that a process may take beside the budget: launches, results


def child(job: dict[str, Any], device: Device, **variables: str) -> Any:
    where = str(Path(cc.__file__).parent.parent)
    environment = {**os.environ, "CLCONV_DEVICE": device.key, "PYTHONPATH": where, **variables}
    command = [sys.executable, str(HERE / "memory_child.py"), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled layer."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    made = tmp_path_factory.mktemp("layer") / "memory_layer.so"
    command = [compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), str(HERE / "memory_layer.c")]
    subprocess.run([*command, "-lpthread"], check=True)
    return str(made)


def test_a_layer_in_the_loader_counts_the_same(device: Device, layer: str) -> None:
    """Every buffer, from the driver's side: budgets of predictions and of training, and nothing left behind."""
    if "llvmpipe" in device.facts.name:
        pytest.skip("a rasteriser takes minutes to compile this in a new process")
    with cc.Net(PATTERN, device=device) as net:
        whole, low = net.plan(3).peak_bytes, least(net)
        training = net.plan(16, "train").peak_bytes - 64
        launches = len(net.plan(memory=low).schedule.steps)
    budgets = [None, whole, (whole + low) // 2, low]
    halves = {"memory": least(net, storage="float16"), "storage": "float16"}
    steps = [{"memory": training}, {"memory": least(net, 16, mode="train", storage="float16"), "storage": "float16"}]
    found = counts(device, layer, PATTERN, [*({"memory": budget} for budget in budgets), halves], steps)
    assert bool(found[3]["mapped"]) == device.facts.maps_files
    # A kernel object takes kilobytes of the host: of many launches, as strips make, all but some share theirs.
    assert found[3]["kernels"] < MOST_KERNELS < launches


def test_the_layer_counts_the_same_where_activations_wait_elsewhere(device: Device, layer: str, tmp_path: Path) -> None:
    """In host memory, which is none of the device's, or as float16."""
    if "llvmpipe" in device.facts.name:
        pytest.skip("a rasteriser takes minutes to compile this in a new process")
    with hourglass(device) as net:
        net.save(tmp_path / "net.safetensors")
        low = least(net, spill="host")
        assert net.plan(memory=low, spill="host").host_bytes > 0
        budgets = {"memory": low, "spill": "host"}, {"memory": net.plan().peak_bytes - 64, "storage": "float16"}
    counts(device, layer, str(tmp_path / "net.safetensors"), list(budgets), [])


def counts(
    device: Device, layer: str, net: str, predictions: list[dict[str, Any]], trainings: list[dict[str, Any]]
) -> list[dict[str, int]]:
    """What the layer counted in runs on these terms: the same as clconv, no more than the budgets."""
    job = {"what": "count", "net": net, "predictions": predictions, "batch": 16, "trainings": trainings}
    found: list[dict[str, int]] = child(job, device, OPENCL_LAYERS=layer)
    if not any(seen["calls"] for seen in found):
        pytest.skip("this OpenCL loader knows no layers")
    for seen, terms in zip(found, [*predictions, *trainings], strict=True):
        assert seen["live"] == seen["peak"] == seen["measured"] == seen["planned"], (seen, terms)
        assert seen["mapped"] == seen["own_mapped"]
        assert terms["memory"] is None or seen["peak"] <= terms["memory"]
        assert seen["left"] == 0, "closing frees everything"
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of 22 MB of weights and 2 MB of activations in a file."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    with cc.Net("INPUT 96x96x3 -> [CONV 3x3x32 -> RELU -> POOL]*3 -> FC 1200 -> FC 10") as net:
        net.save(path)
    return path


def test_a_process_grows_by_no_more_than_the_budget(device: Device, file: Path, tmp_path: Path) -> None:
    """Memory that no file backs, launches and results included, once kernels are built."""
    if not device.facts.maps_files:
        pytest.skip(f"{device.facts.name} keeps copies of what it reads")
    with cc.load(file, device=device) as net:
        low, whole = least(net), net.plan().peak_bytes
    budgets = [low, 2 * low, whole]
    found = child({"what": "grow", "file": str(file), "budgets": budgets, "times": 3}, device)
    for seen, budget in zip(found, budgets, strict=True):
        assert seen["measured"] <= budget
        assert seen["growth"] <= budget + BESIDES, seen
