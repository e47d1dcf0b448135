"""Activations that wait in host memory: the same bits, true numbers, less on the device."""

import json
import re

import numpy as np
import pytest
from helpers import hourglass, images, least, run

import clconv as cc
from clconv import passes, planner
from clconv._core.layout import Restore, Settle, Spill
from clconv.engine import Session
from clconv.errors import ArgumentError, BudgetError
from clconv.plan import make_plan


@pytest.fixture
def net(device):
    with hourglass(device) as net:
        yield net


def spilled(net, count):
    graph = net.network.graph(1, train=False)
    passes.for_inference(graph, net.device.facts.block)
    passes.wait(graph, net.device.facts.block, count, 0)
    return graph


def test_copies_beside_kernels_change_no_bit(net):
    """Whole, with what waits in memory that holds NaN; run after run, at last on two queues."""
    x = images(net)
    expected = net.predict(x)
    graph = spilled(net, 9)
    plan = make_plan(graph, net.device.facts)
    layers = [type(step.layer) for step in plan.schedule.steps]
    assert layers.count(Spill) == layers.count(Restore) == layers.count(Settle) == 2
    assert plan.host_bytes == sum(step.outputs[0].spec.nbytes(plan.facts.block) for step in plan.schedule.steps
                                  if isinstance(step.layer, Spill))  # fmt: skip
    session = Session(net.device)
    session.load(graph.persistent, net.get_weights(), plan.residence)
    for _ in range(3):
        session.prepare(plan)
        session.fill_arena(0xFF)
        np.testing.assert_allclose(session.run(plan, {"x": x})["y"], expected, rtol=1e-4, atol=1e-5)
    assert session.allocator.peak_bytes == plan.peak_bytes
    session.release()


def test_what_is_spilled_lives_until_it_is_copied(net):
    """It is kept for the step beside the copy, and not longer; what comes back lives no earlier than a step before."""
    plan = make_plan(spilled(net, 9), net.device.facts)
    steps = plan.schedule.steps
    for number, step in enumerate(steps):
        if isinstance(step.layer, Spill):
            value = step.inputs[0].value
            (interval,) = [each for each in plan.intervals if value in each.values]
            settled = next(i for i, other in enumerate(steps) if isinstance(other.layer, Settle)
                           and other.inputs[0].value is value)  # fmt: skip
            assert number < interval.end == settled


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_budgets_below_the_least_without_it(net, share):
    """Strip by strip, with the bits of no budget at all; planned and measured bytes are equal."""
    if net.device.facts.loop_limit and share:
        pytest.skip("its compiler takes minutes; one of them runs")
    x = images(net)
    expected = net.predict(x, exact=True)
    low, high = least(net, exact=True, spill="host"), least(net, exact=True)
    assert low < high
    budget = int(low + share * (high - low))
    got = net.predict(x, memory=budget, exact=True, spill="host")
    np.testing.assert_array_equal(got, expected)
    (usage,) = net.usages
    assert usage.planned_bytes == usage.measured_bytes <= budget
    plan = net.plan(memory=budget, exact=True, spill="host")
    assert plan.host_bytes > 0
    assert plan.peak_bytes == usage.measured_bytes


@pytest.mark.parametrize("how", [{"spill": "host"}, {"storage": "float16"}], ids="".join)
@pytest.mark.shared
def test_only_where_the_budget_asks(how, net):
    whole, allowed = net.plan(), net.plan(**how)
    assert whole.host_bytes == allowed.host_bytes == 0
    assert not any("wait" in told for told in allowed.told)
    assert net.plan(memory=allowed.peak_bytes, **how).peak_bytes == allowed.peak_bytes


@pytest.mark.parametrize("how", [{"spill": "host"}, {"storage": "float16"}], ids="".join)
@pytest.mark.shared
def test_a_refusal_says_what_it_would_bring(how, net):
    """Terms that save more than next to nothing are named, with what runs; the least that they need is true, too."""
    low, ((word, value),) = least(net, **how), how.items()
    with pytest.raises(BudgetError, match="Nothing was allocated") as refusal:
        net.plan(memory=64)
    told = re.search(rf'(\d+) or less will do with {word}="{value}"', str(refusal.value))
    if told is None:
        assert word == "storage" and low > 0.9 * least(net)
    else:
        assert low <= net.plan(memory=int(told[1]), **how).peak_bytes <= int(told[1]) < least(net)
    with pytest.raises(BudgetError, match=f"at least {low} bytes"):
        net.plan(memory=low - planner.ALIGN, **how)
    assert net.plan(memory=low, **how).peak_bytes == low


@pytest.mark.shared
def test_a_refusal_offers_nothing_that_exact_forbids(net):
    with pytest.raises(BudgetError) as refusal:
        net.plan(memory=64, exact=True)
    assert "storage" not in str(refusal.value)


def test_nothing_to_spill(device):
    """A chain has nothing that waits: the same plans, the same refusal."""
    with cc.Net("INPUT 16x16x3 -> CONV 3x3x16 -> RELU -> POOL -> FC 10", device=device) as net:
        assert least(net, spill="host") == least(net)
        with pytest.raises(BudgetError) as refusal:
            net.plan(memory=64)
        assert "spill" not in str(refusal.value)


def test_a_value_that_waits_twice(device):
    """It goes out once and comes back twice."""
    x = cc.Conv(16, 3, pad=1)(cc.Input(3, 32, 32))
    y = x
    for _ in range(2):
        for _ in range(5):
            y = cc.ReLU()(cc.Conv(16, 3, pad=1)(y))
        y = cc.Add()(y, x)
    with cc.Net(cc.Conv(4, 1)(y), seed=1, device=device) as net:
        layers = [type(node.layer) for node in spilled(net, 9).nodes]
        assert (layers.count(Spill), layers.count(Restore)) == (1, 2)
        x = images(net)
        low = least(net, exact=True, spill="host")
        if device.facts.loop_limit:
            return  # its compiler takes minutes for the rest
        got = net.predict(x, memory=low, exact=True, spill="host")
        np.testing.assert_array_equal(got, net.predict(x, exact=True))


def test_wrong_words(net):
    with pytest.raises(ArgumentError, match=r"spill: 'disk' is no place .* \"host\" would fit"):
        net.plan(spill="disk")
    with pytest.raises(ArgumentError, match=r'plan: spill="host" is for predictions'):
        net.plan(mode="train", spill="host")
    with pytest.raises(ArgumentError, match=r'summary: spill="host" is for predictions'):
        cc.report.report(net, mode="train", terms=cc.terms.Terms(spill="host"))


def test_people_see_it(net, tmp_path):
    """The command line: the table, the explanation, JSON."""
    path = str(tmp_path / "net.safetensors")
    net.save(path)
    low = least(net, spill="host")
    command = ["summary", path, "--mode", "test", "--memory", str(low), "--spill", "host", "--device", net.device.key]
    shown = run(*command, "--explain").stdout
    assert "in the host" in shown and "together with the host's" in shown
    assert "wait in host memory meanwhile: relu1, relu3" in shown
    (total,) = json.loads(run(*command, "--json").stdout)["totals"]
    assert total["peak_bytes"] == low and total["host_bytes"] > 0
    wrong = run(*command[:4], "--spill", "disk")
    assert wrong.exit_code == 2
    assert "'disk' is not 'host'" in wrong.stderr
