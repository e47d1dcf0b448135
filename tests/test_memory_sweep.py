"""Random networks in random budgets: plans are kept to, what is measured was planned, minima are true."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from helpers import images, least, streaming

import clconv as cc
from clconv import fitting
from clconv.device import Device
from clconv.errors import BudgetError, ClconvError
from clconv.packing import Array
from clconv.planner import ALIGN
from clconv.train.trainer import Trainer

SEEDS = (5, 6, 7, 8)  # of some hundreds that were tried, a few that are quick
TERMS: list[dict[str, Any]] = [
    {}, {"exact": True}, {"spill": "host"}, {"spill": "host", "exact": True}, {"storage": "float16"},
    {"storage": "float16", "spill": "host"},
]  # fmt: skip


def step(draw: random.Random, x: cc.Symbol, channels: int) -> tuple[cc.Symbol, int]:
    """Random layers behind x, and how many channels they make."""
    filters, relu = draw.choice([3, 8, 16, 20, 33]), cc.ReLU()
    made = {
        "conv": lambda: (relu(cc.Conv(filters, draw.choice([1, 3, 3, 7]), pad=1, rounding="floor")(x)), filters),
        "five": lambda: (cc.Tanh()(cc.Conv(filters, 5, pad=2)(x)), filters),
        "strided": lambda: (cc.Conv(filters, 3, stride=draw.choice([2, (1, 2)]), pad=1, rounding="floor")(x), filters),
        "dilated": lambda: (cc.Sigmoid()(cc.Conv(filters, 3, dilation=2, pad=2)(x)), filters),
        "depthwise": lambda: (cc.ReLU6()(cc.BatchNorm()(cc.Conv(channels, 3, pad=1, groups=channels)(x))), channels),
        "grouped": lambda: (cc.Conv(32, 3, pad=1, groups=2)(cc.Conv(16, 1)(x)), 32),
        "pooled": lambda: (cc.MaxPool(2, rounding="floor")(relu(cc.Conv(filters, 3, pad=1)(x))), filters),
        "pool": lambda: (cc.MaxPool(3, stride=2, pad=1, rounding="ceil")(x), channels),
        "mean": lambda: (cc.AvgPool(3, stride=1, pad=1, count_pad=draw.random() < 0.5)(x), channels),
        "residual": lambda: (relu(cc.Conv(channels, 3, pad=1)(relu(cc.Conv(16, 3, pad=1)(x))) + x), channels),
        "branches": lambda: (cc.Concat()(cc.Conv(16, 1)(x), relu(cc.Conv(filters, 3, pad=1)(x))), 16 + filters),
        "up": lambda: (cc.ConvTranspose(filters, draw.choice([2, 4]), stride=2)(x), filters),
        "lrn": lambda: (cc.LRN(size=3, region=draw.choice(["across", "within"]))(x), channels),
        "plain": lambda: (cc.Softmax()(x), channels),
    }
    return made[draw.choice(list(made))]()


def drawn(seed: int) -> tuple[cc.Net, random.Random]:
    """A random network, and the generator that drew it."""
    draw = random.Random(seed)
    while True:
        channels = draw.choice([1, 3, 16])
        x = cc.Input(channels, draw.randint(16, 48), draw.randint(16, 48))
        try:
            for _ in range(draw.randint(4, 8)):
                x, channels = step(draw, x, channels)
            return cc.Net(ending(draw, x), seed=seed), draw
        except ClconvError:  # its image got too small
            continue


def ending(draw: random.Random, x: cc.Symbol) -> cc.Symbol:
    kind = draw.choice(["classes", "mean", "picture"])
    if kind == "picture":
        return cc.Conv(3, 3, pad=1)(x)
    return cc.FC(7)(cc.ReLU()(cc.FC(60)(x)) if kind == "classes" else cc.GlobalAvgPool()(x))


@pytest.fixture(params=SEEDS)
def sweep(
    request: pytest.FixtureRequest, device: Device, monkeypatch: pytest.MonkeyPatch
) -> tuple[cc.Net, random.Random]:
    """A random network on the device, in turn as it is and as one that does not map files."""
    if device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for these networks")
    monkeypatch.setattr(fitting, "PART_BYTES", (16 << 10, 4 << 10))
    monkeypatch.setattr(fitting, "SMALL_BYTES", (1 << 10, 256))
    net, draw = drawn(request.param)
    place = streaming(device) if request.param // 2 % 2 else device
    return cc.Net(net.network, device=place, weights=net.get_weights()), draw


def twice(net: cc.Net, x: Array, **how: Any) -> Array:
    """A prediction, the same again from memory that holds NaN; within its budget, as planned."""
    y: Array = net.predict(x, **how)
    assert net._test is not None and net._test._session is not None and net._test.usage is not None
    assert net._test.usage.planned_bytes == net._test.usage.measured_bytes <= how["memory"]
    net._test._session.fill_arena(0xFF)
    np.testing.assert_array_equal(net.predict(x, **how), y)
    return y


@pytest.mark.shared
def test_predictions(sweep: tuple[cc.Net, random.Random]) -> None:
    net, draw = sweep
    x = images(net, 3)
    expected, exact = net.predict(x), net.predict(x[:1], exact=True)
    for terms in TERMS:
        low = least(net, **terms)
        with pytest.raises(BudgetError, match=f"at least {low} bytes .* Nothing was allocated"):
            net.plan(memory=low - ALIGN, **terms)
        for budget in (low, draw.randint(low, max(low, net.plan(**terms).peak_bytes))):
            count = 1 if "exact" in terms else draw.randint(1, 3)
            y = twice(net, x[:count], memory=budget, **terms)
            if "exact" in terms:
                np.testing.assert_array_equal(y, exact)
            else:
                off = 2e-2 if "storage" in terms else 1e-3
                np.testing.assert_allclose(y, expected[:count], rtol=0, atol=off * np.abs(expected).max())


@pytest.mark.shared
def test_training(sweep: tuple[cc.Net, random.Random]) -> None:
    net, draw = sweep
    shape = net.network.output_shape
    x, y = images(net, 4), np.random.default_rng(1).standard_normal((4, *shape)).astype(np.float32)
    storage, batches = draw.choice([None, "float16"]), {"train": {4}, "test": {4}}

    def trainer(budget: int | None = None) -> Trainer:
        optimizer = cc.SGD(0.01, momentum=0.9)
        return Trainer(net.network, net.device, "mse", optimizer, budget=budget, bn="per_micro_batch", storage=storage)

    with pytest.raises(BudgetError, match="Nothing was allocated") as refusal:
        trainer().plan_within(batches, 1000)
    low = refusal.value.needed_bytes
    assert low is not None
    with pytest.raises(BudgetError, match=f"at least {low} "):
        trainer().plan_within(batches, low - ALIGN)
    losses = []
    for budget in (None, low):
        each = trainer(budget)
        try:
            each.prepare(net.get_weights(), batches)
            assert budget is None or each.peak_bytes <= budget
            each.session.fill_arena(0xFF)
            losses.append(float(each.evaluate(x, y)[0].mean()))
            each.step(x, y, 0.001)
            assert each.session.allocator.peak_bytes == each.peak_bytes
        finally:
            each.release()
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
