"""One operator on the device, by several choices: verified against the reference, then timed.

`serve` runs it in a process of its own, which `clconv tune` can end when a candidate hangs or takes the driver down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import device as devices
from . import reference
from ._core.conv import Conv2d, ConvTranspose2d
from ._core.conv_depthwise import DepthwiseConv2d
from ._core.conv_winograd import WinogradConv2d
from ._core.fc import FullyConnected
from ._core.layer import Choice, Layer
from .device import Device
from .engine import Session
from .errors import ClconvError
from .graph import Graph, Operand, Parameter
from .packing import Array, swap_filter
from .passes.winograd import transformed_filters
from .plan import make_plan
from .selftest import EPS, run_guarded
from .shapes import TensorSpec

Operands = tuple[TensorSpec | tuple[TensorSpec, ...] | None, ...]
VERIFIED = (Conv2d, ConvTranspose2d, DepthwiseConv2d, FullyConnected, WinogradConv2d)
WINOGRAD_AMPLIFICATION = 16  # of the direct kernel's bound, by the method's constants; of the largest output
LEAST_SAMPLE_S = 1e-3
LEAST_SAMPLES = 7


@dataclass(frozen=True)
class Job:
    """An operator to tune: the layer, without activation, and the specs of its inputs (a tuple: pieces)."""

    layer: Layer
    inputs: Operands

    def arrays(self) -> dict[str, Array]:
        """Random operands by name, pieces one by one."""
        rng = np.random.default_rng(1)
        found: dict[str, Array] = {}
        for name, spec in zip(self.layer.inputs, self.inputs, strict=True):
            for i, piece in enumerate(spec if isinstance(spec, tuple) else (spec,)):
                if piece is not None:
                    found[f"{name}{i}"] = rng.standard_normal(piece.shape, np.float32)
        return found

    def graph(self) -> Graph:
        """The operator alone; its operands are persistent, so that they may have any layout."""
        graph = Graph()
        operands: list[Operand] = []
        for name, spec in zip(self.layer.inputs, self.inputs, strict=True):
            pieces = tuple(
                graph.persist(f"{name}{i}", piece, "param", Parameter(piece.shape))
                for i, piece in enumerate(spec if isinstance(spec, tuple) else (spec,))
                if piece is not None
            )
            operands.append(pieces if isinstance(spec, tuple) else pieces[0] if pieces else None)
        graph.outputs["y"] = graph.add(self.layer, operands, "tuned")[0]
        return graph


@dataclass(frozen=True)
class Expected:
    """What some outputs must be: y[images][:, channels], and how far off they may be."""

    images: tuple[int, ...]
    channels: Array
    y: Array
    allowed: Array

    def pooled(self, kind: str) -> Expected:
        """What is expected behind pooling: no maximum and no mean is farther off than one of its values."""
        if kind == "none":
            return self
        n, k, p, q = self.y.shape
        y, allowed = (
            a[:, :, : p // 2 * 2, : q // 2 * 2].reshape(n, k, p // 2, 2, q // 2, 2) for a in (self.y, self.allowed)
        )
        most = allowed.max(axis=(3, 5))
        return replace(self, y=y.max(axis=(3, 5)) if kind == "max" else y.mean(axis=(3, 5)), allowed=most)

    def problem(self, got: Array) -> str:
        """What is wrong with an output, or nothing."""
        some = got[list(self.images)][:, self.channels].astype(np.float64)
        if not np.isfinite(some).all():
            return "it leaves outputs unwritten, or computes what is not finite"
        share = float((np.abs(some - self.y) / self.allowed).max(initial=0.0))
        return "" if share <= 1 else f"it computes wrong results: off by {share:.3g} times what is allowed"


def expected(job: Job, arrays: Mapping[str, Array], y: TensorSpec, block: int) -> Expected:
    """The reference for the first and the last image, and a channel of each block, each another lane.

    Raises:
        ClconvError: the reference does not know the operator with these settings.
    """
    layer = job.layer
    images = tuple(sorted({0, y.shape[0] - 1}))
    x = np.concatenate([a for name, a in arrays.items() if name.startswith("x")], axis=1)[list(images)]
    w, k = arrays["w0"].astype(np.float64), y.shape[1]
    channels = np.array([min(i * block + i % block, k - 1) for i in range(-(-k // block))] + [k - 1])
    if _grouped(job):
        channels = np.arange(k)
    elif not isinstance(layer, DepthwiseConv2d):
        w = w[channels]
    bias = arrays["b0"].reshape(-1)[channels].astype(np.float64) if "b0" in arrays else None
    residual = arrays["residual0"][list(images)][:, channels] if "residual0" in arrays else np.zeros(1)
    if isinstance(layer, DepthwiseConv2d):
        x, w = x[:, channels], w[:, channels]
    x = x.astype(np.float64)
    exact = _computed(job, x, w, bias) + residual
    size = _computed(job, np.abs(x), np.abs(w), None if bias is None else np.abs(bias)) + np.abs(residual)
    products = math.prod(arrays["w0"].shape[1:]) if not isinstance(layer, DepthwiseConv2d) else math.prod(w.shape[2:])
    bound = 2 * EPS * np.sqrt(products + 2)
    if isinstance(layer, WinogradConv2d):
        size, bound = np.full_like(size, size.max()), WINOGRAD_AMPLIFICATION * bound
    return Expected(images, channels, exact, bound * size + EPS * np.abs(exact) + np.finfo(np.float32).tiny)


def _grouped(job: Job) -> bool:
    w = job.inputs[1]
    return isinstance(w, TensorSpec) and w.groups > 1


def _computed(job: Job, x: Array, w: Array, bias: Array | None) -> Array:
    """The operator by the reference, in float64; Winograd's weights are given as they were before."""
    layer = job.layer
    params = {} if bias is None else {"bias": bias}
    if isinstance(layer, FullyConnected):
        attrs: dict[str, Any] = {"units": len(w), "bias": bias is not None}
        rows = {"weight": w.reshape(len(w), -1), **params}
        return reference.LAYERS["FC"].forward(attrs, [x], rows, {})[0]
    if isinstance(layer, WinogradConv2d):
        filters = job.inputs[1]
        assert isinstance(filters, TensorSpec)
        attrs = {"filters": len(w), "kernel": w.shape[2], "pad": layer.pads, "groups": filters.groups}
        attrs["bias"] = bias is not None
        return reference.LAYERS["Conv"].forward(attrs, [x], {"weight": w, **params}, {})[0]
    window = layer.window  # type: ignore[attr-defined]
    spec = job.inputs[1]
    assert isinstance(spec, TensorSpec)
    attrs = {"kernel": window.kernel, "stride": window.stride, "pad": window.pads, "dilation": window.dilation}
    attrs |= {"rounding": window.rounding, "groups": spec.groups}
    conv = reference.LAYERS["Conv"]
    if isinstance(layer, ConvTranspose2d):
        swapped = swap_filter(w, spec.groups)
        inside = np.zeros((len(x), swapped.shape[1] * spec.groups, *layer.size))
        of = attrs | {"filters": x.shape[1], "bias": False}
        ((y,), _) = conv.gradient(of, [inside], {"weight": swapped}, {}, x)
        return np.asarray(y if bias is None else y + bias[:, None, None])
    if isinstance(layer, DepthwiseConv2d):
        w = w.reshape(-1, 1, *w.shape[2:])
        attrs |= {"groups": len(w)}
    return conv.forward(attrs | {"filters": len(w), "bias": bias is not None}, [x], {"weight": w, **params}, {})[0]


@dataclass(frozen=True)
class Outcome:
    """What became of a choice: what is wrong with it, or its seconds and those of the default beside it."""

    problem: str = ""
    seconds: float = 0.0
    default_s: float = 0.0


class Bench:
    """An operator with its data on a device.

    Raises:
        ClconvError: the default choice is wrong, or nothing can be said about it.
    """

    def __init__(self, device: Device, job: Job) -> None:
        self.device = device
        self.graph = job.graph()
        self.arrays = job.arrays()
        node = self.graph.nodes[0]
        self.specs, self.out = node.input_specs(), node.outputs[0].spec
        self.choices = job.layer.choices(device.facts, self.specs, [self.out])
        raw = dict(self.arrays)
        weights = job.inputs[1]
        if isinstance(weights, TensorSpec) and weights.layout == "winograd":
            raw["w0"] = np.random.default_rng(2).standard_normal((*weights.shape[:2], 3, 3), np.float32)
            self.arrays["w0"] = transformed_filters(raw["w0"], weights.shape[2])
        self.expected = expected(job, raw, self.out, device.facts.block).pooled(getattr(job.layer, "pool", "none"))
        self.verified: dict[str, Array] = {}  # outputs by algorithm
        self.session = Session(device)
        if problem := self.verify(self.choices[0]):
            raise ClconvError(f"the default choice: {problem}")
        self.session.load(self.graph.persistent, self.arrays)
        self.default = make_plan(self.graph, device.facts, pick=lambda choices: self.choices[0])

    def verify(self, choice: Choice) -> str:
        """What is wrong with a choice, or nothing; of one algorithm all choices must have the same bits."""
        try:
            y = run_guarded(self.graph, self.device, {}, self.arrays, pick=lambda choices: choice)["y"]
        except AssertionError as error:
            return f"it writes where it must not: {error}"
        except ClconvError as error:
            return str(error).splitlines()[0]
        if choice.name in self.verified:
            same = y.tobytes() == self.verified[choice.name].tobytes()
            return "" if same else self.expected.problem(y) or "its results have other bits than the default's"
        problem = self.expected.problem(y)
        if not problem:
            self.verified[choice.name] = y
        return problem

    def attempt(self, choice: Choice, seconds: float) -> Outcome:
        """Verifies a choice, then times it in turn with the default for about `seconds`."""
        if problem := self.verify(choice):
            return Outcome(problem)
        plan = make_plan(self.graph, self.device.facts, pick=lambda choices: choice)
        for each in (self.default, plan, self.default):  # the larger arena drops what was recorded in the smaller
            self.session.run(each, {})
        recordings = [self.session.prepare(each).recording for each in (self.default, plan)]
        best, repeats = [math.inf, math.inf], 1
        started, samples = time.perf_counter(), 0
        while samples < LEAST_SAMPLES or time.perf_counter() - started < seconds:
            for which, recording in enumerate(recordings):
                before = time.perf_counter()
                for _ in range(repeats):
                    recording.run()
                recording.wait()
                spent = time.perf_counter() - before
                best[which] = min(best[which], spent / repeats)
            repeats = max(1, min(100, int(LEAST_SAMPLE_S / min(best))))
            samples += 1
        return Outcome("", best[1], best[0])

    def release(self) -> None:
        """Frees the device memory."""
        self.session.release()


def serve(connection: Any, identity: str, index: int) -> None:
    """Answers ("job", Job) with a problem or none, and ("try", Choice, seconds) with an `Outcome`, until the end.

    Args:
        identity, index: of the device: its facts' identity, its place among those of its platform.
    """
    device, bench = _device(identity, index), None
    while True:
        try:
            what, *message = connection.recv()
        except EOFError:
            return
        if what == "job":
            if bench is not None:
                bench.release()
            try:
                bench, problem = Bench(device, message[0]), ""
            except ClconvError as error:
                bench, problem = None, str(error)
            connection.send(problem)
        else:
            assert bench is not None
            connection.send(bench.attempt(*message))


def _device(identity: str, index: int) -> Device:
    listed = devices.devices(probe=False)
    found = [info for info in listed if info.facts.identity == identity and info.key.endswith(f":{index}")]
    return devices.open_device(found[0])


def tunable(layer: Layer, inputs: Sequence[TensorSpec | tuple[TensorSpec, ...] | None]) -> Job | None:
    """The job of tuning an operator, if there is a reference for it."""
    if not isinstance(layer, VERIFIED):
        return None
    return Job(layer.with_(activation="none", slope=0.0), tuple(inputs))
