"""Compares clconv with PyTorch on a GPU: single layers and whole networks, by the clocks of the device.

    python -m benchmarks.gpu                     layers, inference and training steps: about ten minutes
    python -m benchmarks.gpu --networks resnet50 --batch 1 32
    python -m benchmarks.gpu --quick             does it run at all? (on any machine, with or without PyTorch)

PyTorch runs on CUDA (ROCm calls itself so too) in float32 with TF32 off and on, and in float16, each in the better of
its two memory layouts; where it finds no GPU, in float32 on the processor, which shows only that the script works.
Data and weights are random and on the device already; first runs are left out; a figure is the median. Every row has
the floor: its operations, as the direct method counts them, and its bytes at the device's measured peaks. Kernels are
checked against the float64 reference first, and outputs of networks against PyTorch's. Writes
benchmarks/results/gpu-DATE-DEVICE.json, .md and .png, anew after each row: what was measured outlives an interruption.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import clconv as cc
from clconv import reference
from clconv.bench import measure
from clconv.device import Device
from clconv.errors import ClconvError
from clconv.selftest import verify

from .__main__ import RESULTS, TOLERANCE, surroundings
from .networks import NETWORKS, SMALLEST, torch_network
from .picture import draw_gpu

MODES = {"float32": ("float32", False), "tf32": ("float32", True), "float16": ("float16", True)}
LEAST_RUNS = 5
CASES = [case for case in reference.CASES if case.layer in ("Conv", "ConvTranspose", "FC", "MaxPool", "BatchNorm")]
STEM = 4  # input channels in front of the layer that is measured


@dataclass(frozen=True)
class Shape:
    """A convolution: input channels and size, filters, kernel, stride, groups; size 1 and kernel 1: fully-connected."""

    c: int
    size: int
    k: int
    kernel: int
    stride: int = 1
    groups: int = 1

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{self.kernel}x{self.kernel}/{self.stride}, {self.c} -> {self.k} at {self.size}{groups}"

    def layer(self) -> Any:
        """The layer, called "layer"."""
        if self.size == self.kernel == 1:
            return cc.FC(self.k, name="layer")
        pad, rounding = self.kernel // 2, "floor"
        return cc.Conv(
            self.k, self.kernel, stride=self.stride, pad=pad, groups=self.groups, rounding=rounding, name="layer"
        )


# Of ResNet-50, VGG-16, MobileNetV2, AlexNet.
SHAPES = (
    Shape(3, 224, 64, 7, 2), Shape(64, 56, 64, 3), Shape(128, 28, 128, 3), Shape(256, 14, 256, 3),
    Shape(512, 7, 512, 3), Shape(256, 56, 64, 1), Shape(64, 56, 256, 1), Shape(1024, 14, 256, 1),
    Shape(2048, 7, 512, 1), Shape(128, 56, 128, 3, 2), Shape(64, 224, 64, 3), Shape(256, 56, 256, 3),
    Shape(512, 28, 512, 3), Shape(96, 27, 256, 5), Shape(144, 56, 144, 3, 1, 144), Shape(576, 14, 576, 3, 2, 576),
    Shape(4096, 1, 4096, 1), Shape(2048, 1, 1000, 1),
)  # fmt: skip
QUICK_SHAPES = (Shape(8, 10, 16, 3), Shape(32, 1, 10, 1))


def layer_row(shape: Shape, batch: int, device: Device, seconds: float) -> dict[str, Any]:
    """clconv's times of one layer: forward, and its share of a training step (both gradients)."""
    # In front stands a layer whose output the gradient of the input goes to.
    stem = cc.Conv(shape.c, 1, name="stem")
    row: dict[str, Any] = {"layer": str(shape), "batch": batch, "clconv": {}}
    with cc.Net([stem, shape.layer()], input_shape=(STEM, shape.size, shape.size), device=device) as net:
        for mode in ("test", "train"):
            found = measure(net.network, device, net.get_weights(), mode=mode, batch=batch, seconds=seconds)
            layers = [step.layer for step in found.steps]
            after = layers.index("loss") if mode == "train" else 0
            kept = [step for step in found.steps[after:] if step.layer == "layer" and step.operator != "Update"]
            spent = sum(step.seconds for step in kept)
            floor = sum(found.peak.floor_s(step.flops, step.traffic_bytes) for step in kept)
            row["clconv"]["gradients" if mode == "train" else "forward"] = {
                "ms": 1e3 * spent,
                "floor_ms": 1e3 * floor,
                "tflops": sum(step.flops for step in kept) / spent / 1e12 if spent else 0.0,
                "algorithms": [step.algorithm for step in kept if step.flops],
            }
    return row


def network_row(name: str, batch: int, what: str, device: Device, seconds: float) -> dict[str, Any]:
    """clconv's time of a network, or of a step of its training."""
    with cc.Net(NETWORKS[name](), device=device) as net:
        mode = "test" if what == "infer" else "train"
        found = measure(net.network, device, net.get_weights(), mode=mode, batch=batch, seconds=seconds)
    figures = {"ms": 1e3 * found.run_s, "launches_ms": 1e3 * found.sum_s, "floor_ms": 1e3 * found.floor_s}
    return {"network": name, "batch": batch, "what": what, "clconv": {what: figures}}


class Torch:
    """PyTorch on its GPU, or on the processor where it has none."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.cuda = torch.cuda.is_available()
        self.modes = MODES if self.cuda else {"float32": MODES["float32"]}
        self.name = torch.cuda.get_device_name() if self.cuda else "processor"

    def layer(self, shape: Shape, batch: int, seconds: float) -> dict[str, dict[str, float]]:
        """By mode: milliseconds of forward and of both gradients."""
        torch = self.torch
        if shape.size == shape.kernel == 1:
            module: Any = torch.nn.Linear(shape.c, shape.k)
            x = torch.randn(batch, shape.c)
        else:
            module = torch.nn.Conv2d(
                shape.c, shape.k, shape.kernel, shape.stride, shape.kernel // 2, groups=shape.groups
            )
            x = torch.randn(batch, shape.c, shape.size, shape.size)

        def runs(module: Any, x: Any) -> dict[str, Callable[[], Any]]:
            x = x.requires_grad_()
            y = module(x)
            dy, wanted = torch.randn_like(y), [x, *module.parameters()]

            def forward() -> None:
                with torch.inference_mode():
                    module(x)

            return {"forward": forward, "gradients": lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)}

        return self._best(module, x, runs, seconds)

    def network(self, net: cc.Net, batch: int, what: str, seconds: float) -> dict[str, dict[str, float]]:
        """By mode: milliseconds of a prediction, or of a training step with momentum."""
        torch = self.torch
        x = torch.randn(batch, *net.network.input_shape)

        def runs(module: Any, x: Any) -> dict[str, Callable[[], Any]]:
            def infer() -> None:
                with torch.inference_mode():
                    module(x)

            if what == "infer":
                module.eval()
                return {what: infer}
            optimizer = torch.optim.SGD(module.train().parameters(), 1e-4, momentum=0.9)
            labels = torch.zeros(batch, dtype=torch.long, device=x.device)

            def train() -> None:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x).float(), labels).backward()
                optimizer.step()

            return {what: train}

        return self._best(torch_network(net), x, runs, seconds)

    def output(self, net: cc.Net, x: Any) -> Any:
        """A network's output in float32 without TF32."""
        torch = self.torch
        self._precision(False)
        module = torch_network(net).eval()
        with torch.inference_mode():
            return module.to("cuda" if self.cuda else "cpu")(torch.from_numpy(x).to(self._device())).cpu().numpy()

    def _device(self) -> str:
        return "cuda" if self.cuda else "cpu"

    def _precision(self, tf32: bool) -> None:
        self.torch.backends.cuda.matmul.allow_tf32 = tf32
        self.torch.backends.cudnn.allow_tf32 = tf32
        self.torch.backends.cudnn.benchmark = True

    def _best(self, module: Any, x: Any, runs: Any, seconds: float) -> dict[str, dict[str, float]]:
        """By mode and kind of run, the better of two memory layouts."""
        torch, found = self.torch, {}
        for mode, (kind, tf32) in self.modes.items():
            self._precision(tf32)
            best: dict[str, float] = {}
            for layout in (
                (torch.contiguous_format, torch.channels_last) if x.dim() == 4 else (torch.contiguous_format,)
            ):
                to = {"device": self._device(), "dtype": getattr(torch, kind), "memory_format": layout}
                made = runs(module.to(**to), x.detach().to(**to))
                for name, run in made.items():
                    best[name] = min(best.get(name, float("inf")), self._milliseconds(run, seconds / 2))
            found[mode] = best
        return found

    def _milliseconds(self, run: Callable[[], Any], seconds: float) -> float:
        """The median of single runs, by CUDA's events; on the processor, by the clock."""
        for _ in range(3):
            run()
        times: list[float] = []
        started = time.perf_counter()
        while len(times) < LEAST_RUNS or time.perf_counter() - started < seconds:
            if self.cuda:
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end))
            else:
                before = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - before))
        return statistics.median(times)


def peer_network(
    peer: Torch, name: str, batch: int, what: str, device: Device, seconds: float
) -> dict[str, dict[str, float]]:
    """PyTorch's times of a network of this name."""
    with cc.Net(NETWORKS[name](), device=device) as net:
        return peer.network(net, batch, what, seconds)


def check(name: str, device: Device, peer: Torch) -> float:
    """The relative error of a network's outputs against PyTorch's in float32."""
    with cc.Net(NETWORKS[name](), device=device) as net:
        x = np.random.default_rng(1).standard_normal((2, *net.network.input_shape), np.float32)
        expected = np.asarray(peer.output(net, x), np.float64)
        got = net.predict(x).reshape(expected.shape)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def table(content: Mapping[str, Any]) -> str:
    """The rows as Markdown, with what they depend on."""
    device, modes, peak = content["device"], content["modes"], content["peak"]
    torch = f"PyTorch {content['versions'].get('torch')} on {content['torch_device']}" if modes else "Without PyTorch"
    peaks = f"{peak['flops'] / 1e12:.3g} TFLOP/s, {peak['bytes_per_s'] / 1e9:.4g} GB/s"
    lines = [
        f"# {device['name']}, {device['platform']} {device['driver']}, commit {content['commit'][:12]}",
        "",
        f"{torch}. Times in ms; floor: {peaks}, as measured.",
        "",
        f"| what | batch | clconv | of its floor | {' | '.join(f'PyTorch {mode}' for mode in modes)} |",
        f"|---|---:|---:|---:|{'---:|' * len(modes)}",
    ]
    for row in content["rows"]:
        for name, own in row["clconv"].items():
            what = f"{row.get('layer') or row['network']}, {name}"
            peers = " | ".join(f"{row['torch'][mode][name]:.4g}" if mode in row["torch"] else "-" for mode in modes)
            share = f"{own['floor_ms'] / own['ms']:.0%}" if own["ms"] else "-"
            lines.append(f"| {what} | {row['batch']} | {own['ms']:.4g} | {share} | {peers} |")
    return "\n".join([*lines, "", *(f"* {note}." for note in content["remarks"] + content["notes"]), ""])


def remarks(device: Device, peer: Torch | None) -> list[str]:
    """Sentences on what a comparison lacks on this machine."""
    facts, found = device.facts, []
    if facts.kind != "gpu":
        found.append(
            f"{facts.name} is no GPU: the figures show only that the script works; `clconv devices` lists devices"
        )
    if facts.kernels != "gpu":
        found.append("Kernels for processors were measured; CLCONV_KERNELS=gpu takes those for GPUs")
    if peer is None:
        found.append(
            "PyTorch is not installed: clconv's figures stand alone, and its networks' outputs were not compared"
        )
    elif not peer.cuda:
        found.append(
            "PyTorch finds no CUDA or ROCm device: its figures are the processor's, which say nothing of a GPU"
        )
    return found


def wrong_cases(device: Device, cases: list[reference.Case]) -> list[str]:
    """What differs from the float64 reference, case by case."""
    return [f"{case}: {problem}" for case in cases for problem in verify(case, device)]


def measured(
    shapes: tuple[Shape, ...],
    networks: list[str],
    batches: list[int],
    device: Device,
    peer: Torch | None,
    seconds: float,
) -> Iterator[dict[str, Any] | str]:
    """The rows one by one; a sentence where one could not be measured."""
    work: list[tuple[str, int, Callable[[], dict[str, Any]], Callable[[Torch], dict[str, Any]]]] = []
    for batch in batches:
        for shape in shapes:
            work.append((
                str(shape), batch, lambda shape=shape, batch=batch: layer_row(shape, batch, device, seconds),
                lambda torch, shape=shape, batch=batch: torch.layer(shape, batch, seconds),
            ))  # fmt: skip
        for name in networks:
            for what in ("infer", "train"):
                work.append((
                    f"{name}, {what}", batch,
                    lambda name=name, batch=batch, what=what: network_row(name, batch, what, device, seconds),
                    lambda torch, name=name, batch=batch, what=what: peer_network(
                        torch, name, batch, what, device, seconds),
                ))  # fmt: skip
    for place, (what, batch, own, other) in enumerate(work, start=1):
        print(f"{place}/{len(work)}  {what}, batch of {batch}", file=sys.stderr)
        try:
            row = own()
        except ClconvError as error:
            yield f"{what}, batch of {batch}: clconv: {str(error).splitlines()[0]}"
            continue
        row["torch"] = {}
        try:
            row["torch"] = other(peer) if peer else {}
        except RuntimeError as error:  # PyTorch's for all that goes wrong on a GPU, out of memory too
            yield f"{what}, batch of {batch}: PyTorch: {str(error).splitlines()[0]}"
        yield row


def write(content: dict[str, Any], out: Path) -> None:
    """The figures as JSON and as a table."""
    out.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{out}.json").write_text(json.dumps(content, indent=1) + "\n")
    Path(f"{out}.md").write_text(table(content))


def main(arguments: list[str]) -> int:
    """The command line; see the module's docstring. Exit code 1: something is wrong, or could not be measured."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=["resnet50", "vgg16", "mobilenetv2", "unet"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure")
    parser.add_argument("--device", help="as `clconv devices` lists it")
    parser.add_argument("--quick", action="store_true", help="two small layers, the smallest network, for an instant")
    parser.add_argument("--out", type=Path, help="where to, without suffix (default: benchmarks/results/...)")
    given = parser.parse_args(arguments)
    shapes, cases = SHAPES, CASES[::4]
    if given.quick:
        shapes, given.networks, given.batch, given.seconds, cases = QUICK_SHAPES, [SMALLEST], [2], 0.01, CASES[:2]
    try:
        device = cc.choose(given.device)
    except ClconvError as error:
        print(error, file=sys.stderr)
        return 1
    assert device.queue  # before PyTorch is loaded, which brings threads of its own
    try:
        peer = Torch()
    except ImportError:
        peer = None
    content: dict[str, Any] = {"what": "gpu", **surroundings(device), "notes": [], "rows": []}
    content["device"]["kernels"] = device.facts.kernels
    content |= {"torch_device": peer.name if peer else "", "modes": list(peer.modes) if peer else []}
    content["remarks"] = remarks(device, peer)
    print("\n".join([device.facts.name, *content["remarks"]]), file=sys.stderr)
    print(f"checking {len(cases)} cases against the reference", file=sys.stderr)
    content["notes"] += wrong_cases(device, cases)
    for name in given.networks if peer else []:
        print(f"comparing the outputs of {name}", file=sys.stderr)
        error = check(name, device, peer)
        if not error <= TOLERANCE:
            content["notes"].append(f"{name}: the outputs differ from PyTorch's by {error:.2g} of their norm")
    name = "-".join(content["device"]["name"].lower().split()[:4])
    out = given.out or RESULTS / f"gpu-{content['date'][:10]}-{name}"
    for row in measured(shapes, given.networks, given.batch, device, peer, given.seconds):
        content["notes" if isinstance(row, str) else "rows"].append(row)
        write(content, out)
    draw_gpu(content, Path(f"{out}.png"))
    print(table(content))
    print(f"written: {out}.json, .md and .png (with Matplotlib)", file=sys.stderr)
    return 1 if content["notes"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
