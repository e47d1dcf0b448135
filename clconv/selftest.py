"""Every layer against its reference on one device: what `clconv selftest` and the tests run.

Tolerances are derived, not tuned: a float32 sum of K products is within 2 * eps * sqrt(K) * sum(|x| |w|) of
the exact one for random roundings (measured worst: 0.37 of eps * sqrt(K) * S).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import passes
from .autodiff import differentiate
from .device import Device
from .engine import Session, from_storage, make_plan
from .graph import Graph, Value
from .nn.base import LAYERS
from .packing import Array
from .reference import Case, Context, Values
from .shapes import TensorSpec

EPS = float(np.finfo(np.float32).eps)
CONTEXT = Context(seed=0x1234567890ABCDEF, step=7, layer_id=0)
COUNTERS = np.array([CONTEXT.seed & 0xFFFFFFFF, CONTEXT.seed >> 32, CONTEXT.step, 0], np.uint32).view(np.int32)


@dataclass(frozen=True)
class Outcome:
    """What a device computed for a case: output, gradients by input index, gradients by parameter, state."""

    y: Array
    dx: list[Array]
    dparams: dict[str, Array]


def compute(case: Case, values: Values, device: Device, *, gradient: bool = True) -> Outcome:
    """Runs a case on a device: the forward graph alone, and the one with its gradient."""
    forward, _ = _graph(case, values, device, gradient=False)
    y = _run(forward, values, device)["y"]
    if not gradient:
        return Outcome(y, [], {})
    backward, params = _graph(case, values, device, gradient=True)
    results = _run(backward, values, device)
    dx = [results[f"d{i}"] for i in range(len(values.inputs))]
    return Outcome(y, dx, {name: from_storage(results[f"d{name}"], value) for name, value in params.items()})


def _graph(case: Case, values: Values, device: Device, *, gradient: bool) -> tuple[Graph, dict[str, Value]]:
    """The graph of a case, and its parameters by name."""
    layer = LAYERS[case.layer](**case.attrs)
    graph = Graph()
    xs = [
        graph.input(f"x{i}", TensorSpec(tuple(x.shape), layout="plain")) for i, x in enumerate(values.inputs)
    ]
    y = layer.apply(graph, "layer", *xs, train=gradient)
    if not gradient:
        graph.outputs["y"] = y
        passes.for_inference(graph, device.facts.block)
        return graph, {}
    dy = graph.input("dy", TensorSpec(tuple(values.dy.shape), layout="plain"))
    params = {name: graph.persistent[f"layer.{name}"] for name in values.params}
    found = differentiate(graph, {y: dy}, [*xs, *params.values()])
    for i, x in enumerate(xs):
        graph.outputs[f"d{i}"] = found[x]
    for name, value in params.items():
        graph.outputs[f"d{name}"] = found[value]
    passes.convert_layouts(graph)
    graph.prune()
    return graph, params


def _run(graph: Graph, values: Values, device: Device) -> dict[str, Array]:
    plan = make_plan(graph, device.facts)
    session = Session(device)
    arrays = {f"layer.{name}": a.astype(np.float32) for name, a in (*values.params.items(), *values.state.items())}
    arrays["counters"] = COUNTERS
    try:
        session.load(graph.persistent, arrays)
        feeds = {f"x{i}": x.astype(np.float32) for i, x in enumerate(values.inputs)}
        feeds["dy"] = values.dy.astype(np.float32)
        results = session.run(plan, {name: feeds[name] for name in graph.inputs})
        assert session.allocator.peak_bytes == plan.peak_bytes
    finally:
        session.release()
    return results


@dataclass(frozen=True)
class Difference:
    """How far one result is from its reference; `share` is the error over what is allowed (at most 1)."""

    what: str
    share: float
    error: float


def differences(case: Case, values: Values, got: Outcome, *, exact: bool = False) -> list[Difference]:
    """Compares a device's results with the float64 reference, in order: y, dx, dparams."""
    layer, attrs, shapes = case.reference, case.attrs, case.shapes
    y, _ = layer.forward(attrs, values.inputs, values.params, values.state, train=False, context=CONTEXT)
    size = layer.magnitude(attrs, values.inputs, values.params, values.state, train=False, context=CONTEXT)
    found = [_compare("y", got.y, y, size, layer.products(attrs, shapes), exact)]
    if not got.dx:
        return found
    arguments = (attrs, values.inputs, values.params, values.state, values.dy)
    dx, dparams = layer.gradient(*arguments, train=True, context=CONTEXT)
    dx_size, dparams_size = layer.gradient_magnitude(*arguments, train=True, context=CONTEXT)
    dx_products, dparams_products = layer.gradient_products(attrs, shapes)
    for i, expected in enumerate(dx):
        found.append(_compare(f"dx{i}", got.dx[i], expected, dx_size[i], dx_products[i], exact))
    for name, expected in dparams.items():
        found.append(
            _compare(f"d{name}", got.dparams[name], expected, dparams_size[name], dparams_products[name], exact)
        )
    return found


def _compare(what: str, got: Array, expected: Array, size: Array, products: int, exact: bool) -> Difference:
    if got.shape != expected.shape:
        raise AssertionError(f"{what}: shape {got.shape} instead of {expected.shape}")
    error = np.abs(got.astype(np.float64) - expected)
    worst = float(error.max(initial=0.0))
    if not np.isfinite(got).all():
        return Difference(what, float("inf"), float("inf"))
    if exact:
        return Difference(what, 0.0 if worst == 0 else float("inf"), worst)
    # One more rounding of the result itself, and the smallest normal number where all is about zero.
    allowed = 2 * EPS * np.sqrt(products) * size + EPS * np.abs(expected) + np.finfo(np.float32).tiny
    return Difference(what, float((error / allowed).max(initial=0.0)), worst)


def verify(case: Case, device: Device, *, seed: int = 0) -> list[str]:
    """All checks of one case: what is wrong, in words; empty when nothing is.

    Small whole numbers must come out exactly where the layer allows it; random values within the derived
    bound; two runs must give the same bits.
    """
    problems: list[str] = []
    for whole in (True, False):
        if whole and not case.reference.exact:
            continue
        values = case.values(seed, whole=whole)
        got = compute(case, values, device)
        kind = "whole numbers" if whole else "random values"
        for difference in differences(case, values, got, exact=whole):
            if not difference.share <= 1:
                problems.append(
                    f"{case}: {difference.what} of {kind} is off by {difference.error:.3g}, "
                    f"{difference.share:.3g} of what is allowed"
                )
    return problems


def same_bits(a: Outcome, b: Outcome) -> bool:
    """Whether two outcomes agree in every bit."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(_arrays(a), _arrays(b), strict=True))


def _arrays(outcome: Outcome) -> Sequence[Array]:
    gradients: Mapping[str, Array] = outcome.dparams
    return [outcome.y, *outcome.dx, *gradients.values()]
