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
from .engine import Session
from .graph import Graph, Value, from_storage
from .nn.base import LAYERS
from .packing import Array
from .plan import Plan, first, make_plan
from .planner.steps import Pick
from .reference import Case, Context, Values
from .shapes import TensorSpec

GUARD_BYTES = 256  # behind each tensor
POISON = 0xFF  # of every byte before a run: NaN where a float is read that nobody wrote
EPS = float(np.finfo(np.float32).eps)
CONTEXT = Context(seed=0x1234567890ABCDEF, step=7, layer_id=0)
SEED_WORDS = (CONTEXT.seed & 0xFFFFFFFF, CONTEXT.seed >> 32)
COUNTERS = np.array([*SEED_WORDS, CONTEXT.step, 0], np.uint32).view(np.int32)  # what Dropout reads


@dataclass(frozen=True)
class Outcome:
    """What a device computed for a case.

    Attributes:
        y: output in test-time mode. dx, dparams: gradients by input index, by parameter.
        trained: of layers with state, the output "y" in training mode and the state after it by name.
    """

    y: Array
    dx: list[Array]
    dparams: dict[str, Array]
    trained: dict[str, Array]


def compute(case: Case, values: Values, device: Device, *, gradient: bool = True, pick: Pick = first) -> Outcome:
    """Runs a case on a device: the forward graph alone, and the one with its gradient.

    Args:
        pick: takes one of a layer's choices, to try variants.
    """
    forward, _ = _graph(case, values, device, train=False, gradient=False)
    y = _run(forward, values, device, pick)["y"]
    if not gradient:
        return Outcome(y, [], {}, {})
    backward, params = _graph(case, values, device, train=True, gradient=True)
    results = _run(backward, values, device, pick)
    dx = [results[f"d{i}"] for i in range(len(values.inputs))]
    dparams = {name: from_storage(results[f"d{name}"], value) for name, value in params.items()}
    if not values.state:
        return Outcome(y, dx, dparams, {})
    training, _ = _graph(case, values, device, train=True, gradient=False)
    return Outcome(y, dx, dparams, _run(training, values, device, pick))


def _graph(
    case: Case, values: Values, device: Device, *, train: bool, gradient: bool
) -> tuple[Graph, dict[str, Value]]:
    """The graph of a case, and its parameters by name."""
    layer = LAYERS[case.layer](**case.attrs)
    graph = Graph()
    xs = [graph.input(f"x{i}", TensorSpec(tuple(x.shape), layout="plain")) for i, x in enumerate(values.inputs)]
    y = layer.apply(graph, "layer", *xs, train=train)
    if not gradient:
        graph.outputs["y"] = y
        passes.for_inference(graph, device.facts.block, fold=not train)
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


def _run(graph: Graph, values: Values, device: Device, pick: Pick) -> dict[str, Array]:
    """The graph's outputs, and the layer's state after the run, by name."""
    stored = {**values.params, **values.state}
    arrays: dict[str, Array] = {f"layer.{name}": a.astype(np.float32) for name, a in stored.items()}
    arrays["counters"] = COUNTERS
    feeds = {f"x{i}": x.astype(np.float32) for i, x in enumerate(values.inputs)}
    feeds["dy"] = values.dy.astype(np.float32)
    kept = [f"layer.{name}" for name in values.state if f"layer.{name}" in graph.persistent]
    results = run_guarded(graph, device, feeds, arrays, read=kept, pick=pick)
    return {name.removeprefix("layer."): array for name, array in results.items()}


def run_guarded(
    graph: Graph,
    device: Device,
    feeds: Mapping[str, Array],
    arrays: Mapping[str, Array],
    *,
    read: Sequence[str] = (),
    pick: Pick = first,
) -> dict[str, Array]:
    """Runs a graph once in poisoned memory with guard bands; its outputs, and the persistent values in `read`.

    Args:
        feeds: the graph's inputs by name; others are left out. arrays: its persistent values by name.

    Raises:
        AssertionError: something was written to behind a tensor's end.
    """
    plan = make_plan(graph, device.facts, pick=pick, guard_bytes=GUARD_BYTES)
    session = Session(device)
    try:
        session.load(graph.persistent, arrays)
        session.prepare(plan)
        session.fill_arena(POISON)
        results = session.run(plan, {name: feeds[name] for name in graph.inputs})
        _check_guards(session, plan)
        assert session.allocator.peak_bytes == plan.peak_bytes
        return {**results, **{name: session.read(name) for name in read}}
    finally:
        session.release()


def _check_guards(session: Session, plan: Plan) -> None:
    """Raises AssertionError where the bytes behind a tensor or workspace were written to."""
    slabs = session.read_arena()
    for interval, placement in zip(plan.intervals, plan.arena.placements, strict=True):
        end = placement.offset + interval.nbytes
        if not (slabs[placement.slab][end - GUARD_BYTES : end] == POISON).all():
            what = interval.values[0].name if interval.values else f"the workspace of {interval.node}"
            raise AssertionError(f"{what}: written to behind its end")


@dataclass(frozen=True)
class Difference:
    """How far one result is from its reference; `share` is the error over what is allowed (at most 1)."""

    what: str
    share: float
    error: float


def differences(case: Case, values: Values, got: Outcome, *, exact: bool = False) -> list[Difference]:
    """Compares a device's results with the float64 reference, in order: y, dx, dparams, trained."""
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
        size, products = dparams_size[name], dparams_products[name]
        found.append(_compare(f"d{name}", got.dparams[name], expected, size, products, exact))
    return found + (_trained_differences(case, values, got.trained, exact) if got.trained else [])


def _trained_differences(case: Case, values: Values, got: Mapping[str, Array], exact: bool) -> list[Difference]:
    """Compares output and state in training mode; a state is a sum of terms, as large as |x| makes it or as it is."""
    layer, attrs = case.reference, case.attrs
    y, state = layer.forward(attrs, values.inputs, values.params, values.state, train=True, context=CONTEXT)
    size = layer.magnitude(attrs, values.inputs, values.params, values.state, train=True, context=CONTEXT)
    products = layer.products(attrs, case.shapes)
    found = [_compare("y in training", got["y"], y, size, products, exact)]
    inputs, before = [np.abs(x) for x in values.inputs], {n: np.abs(a) for n, a in values.state.items()}
    _, most = layer.forward(attrs, inputs, values.params, before, train=True, context=CONTEXT)
    for name, expected in state.items():
        size = np.maximum(np.abs(expected), most[name])
        found.append(_compare(f"{name} in training", got[name], expected, size, products, exact))
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


@dataclass(frozen=True)
class Verdict:
    """What `check` found: problems in words, and the largest error of random values as a share of what is allowed."""

    problems: list[str]
    worst: float


def verify(case: Case, device: Device, *, seed: int = 0) -> list[str]:
    """All checks of one case: what is wrong, in words; empty when nothing is."""
    return check(case, device, seed=seed).problems


def check(case: Case, device: Device, *, seed: int = 0) -> Verdict:
    """All checks of one case.

    Small whole numbers must come out exactly where the layer allows it; random values within the derived bound.
    """
    problems: list[str] = []
    worst = 0.0
    for whole in (True, False):
        if whole and not case.reference.exact:
            continue
        values = case.values(seed, whole=whole)
        got = compute(case, values, device)
        kind = "whole numbers" if whole else "random values"
        for difference in differences(case, values, got, exact=whole):
            worst = max(worst, difference.share)
            if not difference.share <= 1:
                problems.append(
                    f"{case}: {difference.what} of {kind} is off by {difference.error:.3g}, "
                    f"{difference.share:.3g} of what is allowed"
                )
    return Verdict(problems, worst)


def same_bits(a: Outcome, b: Outcome) -> bool:
    """Whether two outcomes agree in every bit."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(_arrays(a), _arrays(b), strict=True))


def _arrays(outcome: Outcome) -> Sequence[Array]:
    return [outcome.y, *outcome.dx, *outcome.dparams.values(), *outcome.trained.values()]
