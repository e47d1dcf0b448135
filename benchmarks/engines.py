"""What is compared: each engine makes a function of no arguments that runs once, with THREADS threads in float32."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clconv as cc

from .networks import torch_network

THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
STEPS = 4  # training steps in one run
RATE = 1e-4
DISTRIBUTIONS = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch", "clconv": "clconv"}
Run = Callable[[], Any]


@dataclass(frozen=True)
class Task:
    """A network with its weights, the ONNX file of it, a batch of images; for training STEPS batches with labels."""

    net: cc.Net
    file: Path
    x: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


def _onnxruntime(task: Task) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(task.file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: task.x})[0]


def _openvino(task: Task) -> Run:
    import openvino

    core = openvino.Core()
    model = core.read_model(task.file)
    model.reshape(list(task.x.shape))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda: request.infer({0: task.x})[compiled.output(0)]


def _torch(task: Task) -> Run:
    import torch

    torch.set_num_threads(THREADS)
    module = torch_network(task.net).eval().to(memory_format=torch.channels_last)
    x = torch.from_numpy(task.x).to(memory_format=torch.channels_last)

    def run() -> Any:
        with torch.inference_mode():
            return module(x).numpy()

    return run


def _clconv(task: Task) -> Run:
    net = cc.load(task.file, device=task.net.device)
    return lambda: net.predict(task.x, batch_size=len(task.x))


INFERENCE: dict[str, Callable[[Task], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "clconv": _clconv,
}


def _torch_steps(layout: str) -> Callable[[Task], Run]:
    def make(task: Task) -> Run:
        import torch

        torch.set_num_threads(THREADS)
        memory = getattr(torch, layout)
        module = torch_network(task.net).train().to(memory_format=memory)
        optimizer = torch.optim.SGD(module.parameters(), RATE, momentum=0.9)
        assert task.labels is not None
        x, labels = torch.from_numpy(task.x), torch.from_numpy(task.labels)
        batches = list(zip(x.chunk(STEPS), labels.chunk(STEPS), strict=True))

        def run() -> None:
            for some, wanted in batches:
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(module(some.to(memory_format=memory)), wanted)
                loss.backward()
                optimizer.step()

        return run

    return make


def _clconv_steps(task: Task) -> Run:
    net = cc.Net(task.net.network, device=task.net.device, weights=task.net.get_weights())
    batch, optimizer = len(task.x) // STEPS, cc.SGD(RATE, momentum=0.9)
    return lambda: net.fit(task.x, task.labels, batch_size=batch, optimizer=optimizer, shuffle=False, verbose=False)


TRAINING: dict[str, Callable[[Task], Run]] = {
    "torch": _torch_steps("contiguous_format"),
    "torch channels-last": _torch_steps("channels_last"),
    "clconv": _clconv_steps,
}


def versions() -> dict[str, str]:
    """The engines that are installed."""
    found = {}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    found.setdefault("clconv", cc.__version__)
    return found
