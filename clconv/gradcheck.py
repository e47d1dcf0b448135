"""Gradient checks as the CS231n notes teach them: what the device computes against central differences.

The device computes in float32, whose rounding would drown a difference quotient. So the numerical side is the
float64 specification of every layer (`clconv.reference`), run over the same network in training mode: batch
normalisation takes the batch's statistics, dropout drops the same elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import passes
from .autodiff import differentiate
from .device import Device
from .engine import Session
from .errors import ArgumentError, ShapeError
from .graph import from_storage
from .inputs import targets
from .nn.network import Entry, Network
from .packing import Array
from .plan import make_plan
from .reference import LOSSES, Context
from .train.step import add_loss

if TYPE_CHECKING:
    from .net import Net

WRONG, DOUBTFUL = 1e-2, 1e-4  # relative errors above which the notes call a gradient wrong, or wonder
# Float32 leaves about 1e-6 of a layer's largest gradient uncertain; smaller gradients are measured by this share
# of the largest, so that rounding alone stays below DOUBTFUL.
FLOOR = 1e-2
SHORTER_STEPS = (1.0, 0.1, 0.01)  # tried in turn where a step crosses a kink


@dataclass(frozen=True)
class ParameterCheck:
    """What was found for one parameter array.

    Attributes:
        checked: samples compared. kinks: samples left out because every step crossed a kink.
        error: the worst |analytic - numerical| / max(|analytic|, |numerical|); `index` is where, with both values.
    """

    name: str
    checked: int
    kinks: int
    error: float
    index: tuple[int, ...]
    analytic: float
    numerical: float

    @property
    def verdict(self) -> str:
        """By the notes' rules of thumb: "good", "doubtful", "wrong"; "not checked" where kinks left nothing."""
        if not self.checked:
            return "not checked"
        return "good" if self.error <= DOUBTFUL else "doubtful" if self.error <= WRONG else "wrong"


@dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradients`; prints as a table.

    Attributes:
        loss: mean loss on the device. reference_loss: the same in float64.
    """

    parameters: tuple[ParameterCheck, ...]
    loss: float
    reference_loss: float

    @property
    def ok(self) -> bool:
        """Whether no gradient is wrong."""
        return all(check.verdict != "wrong" for check in self.parameters)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.parameters), default=9)
        lines = [
            f"{'parameter':{width}}  checked  kinks  worst error     analytic    numerical  verdict",
            "-" * (width + 67),
        ]
        for c in self.parameters:
            figures = f"{c.error:11.1e}  {c.analytic:11.4e}  {c.numerical:11.4e}" if c.checked else " " * 37
            lines.append(f"{c.name:{width}}  {c.checked:7}  {c.kinks:5}  {figures}  {c.verdict}")
        lines.append(f"loss {self.loss:.6f} on the device, {self.reference_loss:.6f} in float64")
        return "\n".join(lines)


def check_gradients(
    net: Net, x: Array, y: NDArray[Any], loss: str = "softmax", *, samples: int = 8, step: float = 1e-6, seed: int = 0
) -> GradientCheck:
    """Compares the device's gradients of the loss with central differences (f(w + h) - f(w - h)) / 2h.

    Args:
        x: float32 (N, C, H, W); a few small images are enough, and each sample costs two forward runs on the host.
        y: labels (N,), or targets of the output's shape for "mse". loss: "softmax", "svm" or "mse".
        samples: weights drawn at random from each parameter array. step: h, shortened where it crosses a kink.
        seed: of the samples and of dropout.

    A kink is crossed where a ReLU changes sides, a maximum changes its winner, or a hinge opens, between w - h and
    w + h: the loss is not differentiable there, and the sample is left out.

    Raises:
        ShapeError: images or targets that do not fit. ArgumentError: an argument out of range.
        DataError: a label that is no class.
    """
    if samples < 1 or not step > 0:
        raise ArgumentError(f"check_gradients: samples={samples} and step={step} must be above 0")
    if loss not in LOSSES:
        raise ArgumentError(f"check_gradients: loss {loss!r} is not one of {', '.join(LOSSES)}")
    network, arrays = net.network, net.get_weights()
    x = _images(x, network)
    labels = np.asarray(y)
    if loss == "mse":
        labels = targets(network, labels, "check_gradients")
    if len(labels) != len(x):
        raise ShapeError(f"check_gradients: {len(x)} images but {len(labels)} labels; each image needs one")
    run = ReferenceRun(network, arrays, x, train=True, seed=seed)
    objective = _Objective(run, labels, loss)
    device_loss, gradients = device_gradients(network, net.device, arrays, x, labels, loss, seed=seed)
    rng = np.random.default_rng(seed)
    checks = []
    for name, gradient in gradients.items():
        layer = name.rpartition(".")[0]
        largest = max(
            float(np.nanmax(np.abs(g), initial=0)) for n, g in gradients.items() if n.rpartition(".")[0] == layer
        )
        chosen = rng.choice(gradient.size, min(samples, gradient.size), replace=False)
        checks.append(_check(name, gradient, chosen, objective, step, FLOOR * largest))
    return GradientCheck(tuple(checks), device_loss, objective.value)


def _images(x: Array, network: Network) -> Array:
    x = np.asarray(x, np.float32)
    if x.ndim != 4 or x.shape[1:] != network.input_shape or not len(x):
        expected = ", ".join(map(str, network.input_shape))
        raise ShapeError(f"check_gradients: images of shape {x.shape} where (N, {expected}) is expected")
    return x


def _check(
    name: str, gradient: Array, chosen: NDArray[np.int64], objective: _Objective, step: float, floor: float
) -> ParameterCheck:
    worst: tuple[float, tuple[int, ...], float, float] = (-1.0, (), 0.0, 0.0)
    kinks = 0
    for flat in chosen:
        index = tuple(int(i) for i in np.unravel_index(flat, gradient.shape))
        numerical = objective.slope(name, index, step)
        if numerical is None:
            kinks += 1
            continue
        analytic = float(gradient[index])
        error = np.inf
        if np.isfinite(analytic):
            size = max(abs(analytic), abs(numerical), floor)
            error = abs(analytic - numerical) / size if size > 0 else 0.0
        worst = max(worst, (error, index, analytic, numerical))
    error, index, analytic, numerical = worst
    return ParameterCheck(name, len(chosen) - kinks, kinks, max(error, 0.0), index, analytic, numerical)


class _Objective:
    """The loss in float64 as a function of one weight."""

    def __init__(self, run: ReferenceRun, labels: NDArray[Any], loss: str) -> None:
        self.run = run
        self.labels = labels
        self.loss = loss
        self.value = float(np.mean(self._losses(run.outputs)))

    def _losses(self, outputs: Mapping[str, Array]) -> Array:
        return LOSSES[self.loss](outputs[self.run.network.entries[-1].name], self.labels)[0]

    def slope(self, name: str, index: tuple[int, ...], step: float) -> float | None:
        """The central difference along one weight, or None where even the shortest step crosses a kink."""
        for factor in SHORTER_STEPS:
            above, winners_above = self._moved(name, index, factor * step)
            below, winners_below = self._moved(name, index, -factor * step)
            if all(np.array_equal(winners_above[layer], winners_below[layer]) for layer in winners_above):
                return float(np.mean(above - below)) / (2 * factor * step)
        return None

    def _moved(self, name: str, index: tuple[int, ...], distance: float) -> tuple[Array, dict[str, NDArray[Any]]]:
        """The losses with one weight moved, and what each kinked layer behind it decided."""
        array = self.run.arrays[name].copy()
        array[index] += distance
        outputs, winners = self.run.again(name, array)
        losses = self._losses({**self.run.outputs, **outputs})
        if self.loss == "svm":
            winners["loss"] = _open_hinges(outputs[self.run.network.entries[-1].name], self.labels)
        return losses, winners


class ReferenceRun:
    """A network run in float64 by the specification of its layers.

    Args:
        arrays: parameters and state by name. train: which mode. seed, step: what dropout's numbers depend on.

    Attributes:
        outputs: (N, C, H, W) of each layer, and of "input".
    """

    def __init__(
        self, network: Network, arrays: Mapping[str, Array], x: Array, *, train: bool, seed: int = 0, step: int = 0
    ) -> None:
        self.network = network
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        self.train, self.seed, self.step = train, seed, step
        self.outputs: dict[str, Array] = {"input": np.asarray(x, np.float64)}
        for number, entry in enumerate(network.entries):
            self.outputs[entry.name] = self._apply(number, entry, self.outputs, self.arrays)

    def again(self, name: str, array: Array) -> tuple[dict[str, Array], dict[str, NDArray[Any]]]:
        """The outputs that change when the array `name` does, and what the layers with kinks among them decide."""
        arrays = {**self.arrays, name: array}
        changed: dict[str, Array] = {}
        winners: dict[str, NDArray[Any]] = {}
        for number, entry in enumerate(self.network.entries):
            if entry.name != name.rpartition(".")[0] and not any(source in changed for source in entry.inputs):
                continue
            outputs = {**self.outputs, **changed}
            changed[entry.name] = self._apply(number, entry, outputs, arrays)
            decided = _winners(entry, outputs[entry.inputs[0]])
            if decided is not None:
                winners[entry.name] = decided
        return changed, winners

    def _apply(self, number: int, entry: Entry, outputs: Mapping[str, Array], arrays: Mapping[str, Array]) -> Array:
        layer, arguments = entry.layer.reference, entry.layer.arguments
        inputs = [outputs[name] for name in entry.inputs]
        shapes = [x.shape for x in inputs]
        params = {name: arrays[f"{entry.name}.{name}"] for name in layer.parameters(arguments, shapes)}
        state = {name: arrays[f"{entry.name}.{name}"] for name in layer.state(arguments, shapes)}
        context = Context(self.seed, self.step, number)
        return layer.forward(arguments, inputs, params, state, train=self.train, context=context)[0]


def reference_forward(
    network: Network, arrays: Mapping[str, Array], x: Array, *, train: bool = False, seed: int = 0, step: int = 0
) -> Array:
    """The network's output (N, K, P, Q) in float64, by the specification of its layers; arguments as `ReferenceRun`."""
    return ReferenceRun(network, arrays, x, train=train, seed=seed, step=step).outputs[network.entries[-1].name]


def _winners(entry: Entry, x: Array) -> NDArray[Any] | None:
    """Which side of each kink the layer is on; None for a smooth layer."""
    kind, arguments = type(entry.layer).__name__, entry.layer.arguments
    if kind in ("ReLU", "LeakyReLU"):
        return x > 0
    if kind == "ReLU6":
        return np.digitize(x, (0.0, 6.0), right=True)
    if kind == "MaxPool":
        taps = entry.layer.reference.windows(arguments, [x.shape]).taps(x, fill=-np.inf)  # type: ignore[attr-defined]
        n, c, r, s, p, q = taps.shape
        first: NDArray[Any] = taps.reshape(n, c, r * s, p, q).argmax(axis=2)
        return first
    return None


def _open_hinges(scores: Array, labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Which wrong classes come within the margin of the right one."""
    flat = scores.reshape(len(scores), -1)
    return np.asarray(flat - flat[np.arange(len(flat)), labels][:, None] + 1 > 0)


def device_gradients(
    network: Network,
    device: Device,
    arrays: Mapping[str, Array],
    x: Array,
    labels: NDArray[Any],
    loss: str,
    *,
    seed: int = 0,
    step: int = 0,
) -> tuple[float, dict[str, Array]]:
    """The mean loss and its gradient by parameter name, computed on a device in training mode.

    Args:
        labels: int (N,), or float32 targets of the output's shape for "mse".
    """
    graph = network.graph(len(x), train=True)
    passes.fuse_activations(graph)
    scores = graph.outputs.pop("y")
    losses, _, dscores = add_loss(graph, scores, loss)
    weights = [value for value in graph.persistent.values() if value.role == "param"]
    found = differentiate(graph, {scores: dscores}, weights)
    graph.outputs = {"loss": losses, **{value.name: found[value] for value in weights}}
    passes.convert_layouts(graph)
    graph.prune()
    counters = np.array([seed & 0xFFFFFFFF, seed >> 32, step, 0], np.uint32).view(np.int32)
    session = Session(device)
    try:
        session.load(graph.persistent, {**arrays, "counters": counters})
        stored = labels if loss == "mse" else labels.astype(np.int32)
        results = session.run(make_plan(graph, device.facts), {"x": x, "labels": stored})
    finally:
        session.release()
    gradients = {value.name: from_storage(results[value.name], value) for value in weights}
    return float(np.mean(results["loss"], dtype=np.float64)), gradients
