"""The optimizers on every working device, 20 steps against float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from clconv._core import optimizer as operators
from clconv.device import Device
from clconv.engine import Session
from clconv.errors import ShapeError
from clconv.graph import Graph
from clconv.packing import pack
from clconv.plan import make_plan
from clconv.reference import OPTIMIZERS
from clconv.selftest import EPS
from clconv.shapes import TensorSpec

STEPS = 20
SPECS = {
    "channels": TensorSpec((1, 17, 1, 1)),
    "filter": TensorSpec((21, 3, 3, 5), layout="filter"),
    "groups": TensorSpec((12, 2, 3, 3), layout="filter", groups=3),
    "local": TensorSpec((3, 5, 2, 2, 3, 3), layout="local"),
    "row-major": TensorSpec((1000, 3), layout="plain"),
    "one value": TensorSpec((1,), layout="plain"),
}
HYPER = {"weight_decay": 0.01, "momentum": 0.9, "decay": 0.9, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}


class Updated:
    """A weight on a device with its gradient, states and settings."""

    def __init__(self, session: Session, rule: str, spec: TensorSpec) -> None:
        self.session = session
        self.rule = rule
        self.states = operators.RULES[rule]
        self.hyper = {name: HYPER[name] for name in OPTIMIZERS[rule].hyper if name != "rate"}
        graph = Graph()
        (ok,) = graph.add(operators.Finite(), [graph.input("loss", TensorSpec((3,), layout="plain"))], "loss")
        values = [graph.persist("g", spec, "state"), graph.persist("w", spec, "param")]
        values += [graph.persist(name, spec, "optimizer") for name in self.states]
        values.append(graph.persist("hyper", TensorSpec((operators.HYPERS,), layout="plain"), "control"))
        graph.add(operators.Update(operators.Step(rule)), [*values, ok], "update")
        graph.prune()
        self.plan = make_plan(graph, session.device.facts)
        self.values = graph.persistent

    def rounded(self, rate: float) -> dict[str, float]:
        """The settings as float32 holds them: what the device computes with."""
        return {name: float(np.float32(value)) for name, value in {**self.hyper, "rate": rate}.items()}

    def step(self, g: Any, number: int, rate: float, loss: float = 1.0, enabled: float = 1.0) -> None:
        hyper, settings = self.rounded(rate), np.zeros(operators.HYPERS, np.float32)
        beta1, beta2 = hyper.get("beta1", 0), hyper.get("beta2", 0)
        settings[operators.RATE] = rate
        settings[operators.WEIGHT_DECAY] = hyper["weight_decay"]
        settings[operators.MOMENTUM] = hyper.get("momentum", hyper.get("decay", beta1))
        settings[operators.BETA2] = beta2
        settings[operators.EPSILON] = hyper.get("eps", 0)
        settings[operators.CORRECTION1] = 1 - beta1**number
        settings[operators.CORRECTION2] = 1 - beta2**number
        settings[operators.ENABLED] = enabled
        settings[[operators.FIRST_PART, operators.LAST_PART]] = 1
        self.session.write("hyper", settings)
        self.session.write("g", g)
        self.session.run(self.plan, {"loss": np.array([1, loss, 1], np.float32)})

    def stored(self, name: str) -> Any:
        """A value as the device stores it."""
        value, block = self.values[name], self.session.device.facts.block
        array = np.empty(value.spec.storage_shape(block), np.float32)
        self.session.tensor(value).read(array, name)
        return array


@contextmanager
def updated(device: Device, rule: str, spec: TensorSpec, w: Any) -> Iterator[Updated]:
    session = Session(device)
    made = Updated(session, rule, spec)
    try:
        session.load(made.values, {"w": w})
        yield made
    finally:
        session.release()


def step_size(rule: str, g: Any, sums: dict[str, Any], state: Any, hyper: Any, number: int) -> Any:
    """Magnitude of one step: the update with the absolute values of all that is added up in numerators.

    `g` is |gradient| + decay |w|; `sums`, of magnitudes, go with the states and are brought up to date.
    """
    rate = hyper["rate"]
    if rule == "sgd":
        return rate * g
    if rule in ("momentum", "nesterov"):
        sums["velocity"] = hyper["momentum"] * sums["velocity"] + g
        return rate * (g + sums["velocity"])
    decay = {"adagrad": 1.0, "rmsprop": hyper.get("decay"), "adam": hyper.get("beta2")}[rule]
    sums["squares"] = decay * sums["squares"] + (1 if rule == "adagrad" else 1 - decay) * np.square(g)
    if rule != "adam":
        return rate * g / (np.sqrt(state["squares"]) + hyper["eps"])
    sums["mean"] = hyper["beta1"] * sums["mean"] + (1 - hyper["beta1"]) * g
    mean, squares = sums["mean"] / (1 - hyper["beta1"] ** number), state["squares"] / (1 - decay**number)
    return rate * mean / (np.sqrt(squares) + hyper["eps"])


def random(rng: np.random.Generator, spec: TensorSpec) -> Any:
    return rng.standard_normal(spec.shape).astype(np.float32)


@pytest.mark.parametrize("rule", operators.RULES)
@pytest.mark.parametrize("layout", SPECS)
def test_twenty_steps(device: Device, rule: str, layout: str) -> None:
    """Weights and states stay within the rounding errors that float32 must make.

    A state is off by at most eps times its sum of magnitudes for each step that went into it, and for each
    operation behind it (at most 12 with what OpenCL allows division and square root); a weight by eps |w|
    for each step, and by the steps' errors. The rate changes from step to step.
    """
    spec, rng = SPECS[layout], np.random.default_rng(1)
    w = random(rng, spec)
    expected, state = w.astype(np.float64), OPTIMIZERS[rule].initial(spec.shape)
    sums, allowed = OPTIMIZERS[rule].initial(spec.shape), np.zeros(spec.shape)
    with updated(device, rule, spec, w) as got:
        recorded = got.session.prepare(got.plan)
        for number in range(1, STEPS + 1):
            g, rate = random(rng, spec), 0.1 / number
            hyper = got.rounded(rate)
            size = np.abs(g.astype(np.float64)) + hyper["weight_decay"] * np.abs(expected)
            expected, state = OPTIMIZERS[rule].update(expected, g.astype(np.float64), state, hyper, number)
            step = step_size(rule, size, sums, state, hyper, number)
            allowed += EPS * (np.abs(expected) + (number + 12) * step)
            got.step(g, number, rate)
        assert got.session.prepare(got.plan) is recorded  # nothing was recorded anew
        assert (np.abs(got.session.read("w") - expected) <= allowed).all()
        for name in got.states:
            error = np.abs(got.session.read(name) - state[name])
            assert (error <= EPS * (STEPS + 12) * sums[name]).all(), name
        for name in ("w", *got.states):
            clean = pack(got.session.read(name), spec, device.facts.block)
            assert np.array_equal(got.stored(name), clean)  # the padding is still zero


@pytest.mark.parametrize("rule", operators.RULES)
def test_nothing_changes_without_a_finite_loss(device: Device, rule: str) -> None:
    spec, rng = SPECS["filter"], np.random.default_rng(2)
    with updated(device, rule, spec, random(rng, spec)) as got:
        got.step(random(rng, spec), 1, 0.1)
        before = {name: got.stored(name).tobytes() for name in ("w", *got.states)}
        bad = np.full(spec.shape, np.nan, np.float32)
        for loss in (np.nan, np.inf, -np.inf):
            got.step(bad, 2, 0.1, loss=loss)
        got.step(bad, 2, 0.1, enabled=0)
        assert {name: got.stored(name).tobytes() for name in before} == before
        got.step(random(rng, spec), 2, 0.1)
        assert got.stored("w").tobytes() != before["w"]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_many_blocks(device: Device, count: int) -> None:
    """Every block is updated once, however many a work-item takes: w = 0 - 0.5 * g, exactly."""
    spec = TensorSpec((1, count * device.facts.block, 1, 1))
    g = np.arange(spec.values, dtype=np.float32).reshape(spec.shape)
    with updated(device, "sgd", spec, np.zeros(spec.shape, np.float32)) as got:
        got.step(g, 1, 0.5)
        assert np.array_equal(got.session.read("w"), -0.5 * g)


def test_states_are_those_of_the_reference() -> None:
    assert {rule: optimizer.state for rule, optimizer in OPTIMIZERS.items()} == operators.RULES


def test_refused() -> None:
    w = TensorSpec((1, 3, 1, 1))
    one, hyper = TensorSpec((1,), layout="plain"), TensorSpec((16,), layout="plain")
    with pytest.raises(ShapeError, match=r"^momentum: state0 1x4x1x1 \(block\) does not fit the weight 1x3"):
        operators.Update(operators.Step("momentum")).infer([w, w, TensorSpec((1, 4, 1, 1)), hyper, one])
    with pytest.raises(ShapeError, match=r"^sgd: hyper 1 and ok 16 must hold 16 values and 1$"):
        operators.Update(operators.Step("sgd")).infer([w, w, one, hyper])


@pytest.mark.parametrize("rule", operators.RULES)
def test_cost_counts_what_is_read_and_written(device: Device, rule: str) -> None:
    update, spec = operators.Update(operators.Step(rule)), SPECS["filter"]
    states = [spec] * len(operators.RULES[rule])
    cost = update.cost([spec, spec, *states, None, None], [], device.facts)
    assert cost.traffic_bytes == (3 + 2 * len(states)) * spec.nbytes(device.facts.block)
