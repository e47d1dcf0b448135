"""Activations that wait as float16: rounded as is said, less on the device, true numbers."""

import numpy as np
import pytest
from click.testing import CliRunner
from test_spill import hourglass, least

from clconv import passes, planner
from clconv._core.half import ToFloat, ToHalf
from clconv._core.layout import ToBlocks, ToPlain
from clconv.cli import main
from clconv.engine import Session
from clconv.errors import BudgetError
from clconv.graph import Graph
from clconv.plan import make_plan
from clconv.shapes import TensorSpec

LEAST, BELOW_SIX = 2.0**-24, 5.99609375


def rounded(x):
    """What `ToHalf` makes of float32 values."""
    half = np.where(np.isfinite(x), np.clip(x, -65504, 65504), x).astype(np.float16).astype(np.float32)
    half = np.where((half == 0) & (x != 0), np.copysign(np.float32(LEAST), x), half)
    return np.where((np.abs(half) == 6) & (np.abs(x) < 6), np.copysign(np.float32(BELOW_SIX), x), half)


def ran(device, x, layout):
    """x on its way out and back, in this layout."""
    graph = Graph()
    value = graph.input("x", TensorSpec(x.shape, layout="plain"))
    layers = [ToHalf(), ToFloat()] if layout == "plain" else [ToBlocks(), ToHalf(), ToFloat(), ToPlain()]
    for layer in layers:
        (value,) = graph.add(layer, [value], type(layer).__name__)
    graph.outputs = {"y": value}
    session = Session(device)
    try:
        session.load({}, {})
        return session.run(make_plan(graph, device.facts), {"x": x})["y"]
    finally:
        session.release()


@pytest.mark.parametrize("layout", ["plain", "block"])
def test_rounding(device, layout):
    """Every float16 and its neighbours in float32, halfway cases, what overflows, and any bits at all."""
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = exact[np.isfinite(exact)]
    between = (exact[1:] + exact[:-1]) / 2
    near = [np.nextafter(each, np.float32(to)) for each in (exact, between) for to in (np.inf, -np.inf)]
    edges = np.float32([1e-45, 1e-40, 2**-25, 65519, 65520, 3e38, np.inf, np.nan, 6, 5.998, 5.9999])
    anything = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    values = np.concatenate([exact, between, *near, edges, -edges, anything])
    x = np.resize(values, (2, 20, 100, -(-values.size // 4000)))
    y, expected = ran(device, x, layout), rounded(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(x))
    assert (y[x > 0] > 0).all() and (y[(x > 0) & (x < 6)] < 6).all()


@pytest.fixture
def net(device):
    with hourglass() as net:
        net._device = device
        yield net


def whole_numbers(net):
    """Weights and images whose activations are whole numbers that float16 holds."""
    rng = np.random.default_rng(1)
    arrays = net.get_weights().items()
    net.set_weights({n: rng.integers(-1, 2, a.shape) * (rng.random(a.shape) < 0.1) for n, a in arrays})
    return rng.integers(-2, 3, (1, *net.network.input_shape)).astype(np.float32)


def test_what_float16_holds_is_not_changed(net):
    """Whole, and strip by strip at the least that is possible; planned and measured bytes are equal."""
    x = whole_numbers(net)
    expected = net.predict(x)
    low, bare = least(net, storage="float16"), least(net)
    assert low < bare
    for budget in (low, bare) if not net.device.facts.loop_limit else ():  # its compiler takes minutes
        got = net.predict(x, memory=budget, storage="float16")
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-3)
        (usage,) = net.usages
        assert usage.planned_bytes == usage.measured_bytes <= budget
        assert any("as float16 wait: relu" in told for told in net.plan(memory=budget, storage="float16").told)
    graph = net.network.graph(1, train=False)
    passes.for_inference(graph, net.device.facts.block)
    passes.wait(graph, net.device.facts.block, 0, 9)
    assert [type(node.layer) for node in graph.nodes].count(ToHalf) == 2
    plan = make_plan(graph, net.device.facts)
    assert np.mean(plan.live_bytes) < np.mean(make_plan(plain(net), net.device.facts).live_bytes)
    session = Session(net.device)
    session.load(graph.persistent, net.get_weights(), plan.residence)
    session.prepare(plan)
    session.fill_arena(0xFF)
    np.testing.assert_array_equal(session.run(plan, {"x": x})["y"], expected)
    assert session.allocator.peak_bytes == plan.peak_bytes
    session.release()


def plain(net):
    graph = net.network.graph(1, train=False)
    passes.for_inference(graph, net.device.facts.block)
    return graph


@pytest.mark.shared
def test_only_where_the_budget_asks(net):
    whole = net.plan(storage="float16")
    assert not any("wait" in told for told in whole.told)
    assert net.plan(memory=whole.peak_bytes, storage="float16").peak_bytes == whole.peak_bytes


@pytest.mark.shared
def test_a_refusal_says_what_it_would_bring(net):
    low = least(net, storage="float16")
    with pytest.raises(BudgetError, match=rf'{low} with storage="float16".* Nothing was allocated'):
        net.plan(memory=64)
    with pytest.raises(BudgetError, match=f"at least {low} bytes"):
        net.plan(memory=low - planner.ALIGN, storage="float16")
    assert net.plan(memory=low, storage="float16").peak_bytes == low
    with pytest.raises(BudgetError) as refusal:
        net.plan(memory=64, exact=True)
    assert "storage" not in str(refusal.value)


@pytest.mark.shared
def test_beside_what_waits_in_host_memory(net):
    """Both together go lower than each, or as low; what waits where is told."""
    both = least(net, storage="float16", spill="host")
    assert both <= min(least(net, storage="float16"), least(net, spill="host"))
    graph = plain(net)
    passes.wait(graph, net.device.facts.block, 1, 1)
    told = make_plan(graph, net.device.facts).told
    assert any("as float16 wait: relu3" in line for line in told)
    assert any("wait in host memory meanwhile: relu1" in line for line in told)


@pytest.mark.shared
def test_people_see_it(net, tmp_path):
    path, drawn = str(tmp_path / "net.safetensors"), tmp_path / "plan.json"
    net.save(path)
    low = str(least(net, storage="float16"))
    command = ["summary", path, "--mode", "test", "--memory", low, "--storage", "float16", "--device", net.device.key]
    shown = CliRunner().invoke(main, [*command, "--explain", "--trace", str(drawn)]).stdout
    assert "as float16 wait: relu1" in shown
    assert "activations as float16" in drawn.read_text()
