"""Activations that wait as float16: rounded as is said, less on the device, true numbers."""

import re

import numpy as np
import pytest
from helpers import hourglass, least, run
from test_training_memory import batch, planned, stepped

import clconv as cc
from clconv import passes
from clconv._core.half import ToFloat, ToHalf
from clconv._core.layout import ToBlocks, ToPlain
from clconv.engine import Session
from clconv.errors import BudgetError
from clconv.graph import Graph
from clconv.plan import make_plan
from clconv.shapes import TensorSpec
from clconv.train.method import Method
from clconv.train.trainer import Trainer

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
    with hourglass(device) as net:
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
    assert low < 1.05 * bare  # where small weights are streamed, what rounds them may take a little more
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
    shown = run(*command, "--explain", "--trace", str(drawn)).stdout
    assert "as float16 wait: relu1" in shown
    assert "activations as float16" in drawn.read_text()


LEVELS = "INPUT 24x24x3 -> CONV 3x3x16 p1 -> {} -> CONV 3x3x16 p1 -> RELU -> POOL -> CONV 3x3x24 -> RELU -> FC 5"


def steps(one, monkeypatch, network, x, y, method, count=2):
    """Losses and arrays after some steps by a method, and the bytes that they took."""
    optimizer = cc.SGD(0.05, momentum=0.9)
    trainer = Trainer(network, one, "softmax", optimizer, seed=4)
    monkeypatch.setattr(trainer, "plan_within", lambda batches, budget: planned(trainer, batches, method))
    losses, arrays = stepped(trainer, optimizer, x, y, count)
    return losses, arrays, trainer.peak_bytes


@pytest.mark.parametrize("activation", ["RELU", "RELU6"])
def test_gradients_see_rounded_values_and_true_slopes(one, monkeypatch, activation):
    """The loss of the first step and what is told by slopes alone keep their bits, whatever is tiny or near 6."""
    network = cc.Net(LEVELS.format(activation), device=one).network
    x, y = batch(network, 6)
    x[:2] *= 1e-9
    x[2:4] *= 20
    whole = steps(one, monkeypatch, network, x, y, Method(scratch=0), 1)
    half = steps(one, monkeypatch, network, x, y, Method(halved=True, scratch=0), 1)
    assert half[0] == whole[0]
    assert half[2] < whole[2]
    changed = {name for name, array in whole[1].items() if not np.array_equal(half[1][name], array)}
    assert "conv2.weight" in changed, "its gradient reads what waited"
    assert not any(name.startswith("conv1") or "bias" in name for name in changed)
    largest = np.abs(whole[1]["conv2.weight.velocity"]).max()
    difference = half[1]["conv2.weight.velocity"] - whole[1]["conv2.weight.velocity"]
    assert np.abs(difference).max() < 2.0**-10 * largest


@pytest.mark.parametrize("cuts", [(), (3, 7)], ids=len)
def test_a_step_repeats_its_bits(one, monkeypatch, cuts):
    """With normalised batches, shortcuts and dropout, what is computed again from rounded values, and parts."""
    x = cc.ReLU()(cc.BatchNorm()(cc.Conv(16, 3, pad=1)(cc.Input(3, 24, 24))))
    for _ in range(2):
        x = cc.ReLU()(cc.Add()(x, cc.BatchNorm()(cc.Conv(16, 3, pad=1)(x))))
    network = cc.Net(cc.FC(5)(cc.Dropout(0.3)(cc.MaxPool(2)(x)))).network
    x, y = batch(network, 6)
    method = Method(3, cuts=cuts, halved=True, scratch=0)
    first, second = (steps(one, monkeypatch, network, x, y, method) for _ in range(2))
    assert first[0] == second[0]
    assert all(np.array_equal(second[1][name], array) for name, array in first[1].items())
    whole = steps(one, monkeypatch, network, x, y, Method(3, cuts=cuts, scratch=0))
    np.testing.assert_allclose(first[0], whole[0], rtol=1e-3)
    assert first[2] <= whole[2]


def deep(one):
    return cc.Net("INPUT 24x24x3 -> [CONV 3x3x16 p1 -> BN -> RELU]*4 -> FC 5", device=one)


def test_training_in_the_least(one):
    """A refusal names it, with the bytes that it needs; it runs there, 64 bytes less are refused."""
    net = deep(one)
    x, y = batch(net.network, 12)
    with pytest.raises(BudgetError, match=r'With storage="float16", (\d+) \(.*\) would do') as refused:
        net.plan(12, "train", memory=1000)
    bare, low = (int(n) for n in re.search(r'at least (\d+) .*float16", (\d+)', str(refused.value)).groups())
    assert low < bare
    with pytest.raises(BudgetError, match=f"at least {low} "):
        net.plan(12, "train", memory=low - 64, storage="float16")
    history = net.fit(x, y, batch_size=12, memory=low, storage="float16", verbose=False)
    assert np.isfinite(history.loss).all() and history.peak_bytes <= low
    (usage,) = net.usages
    assert usage.planned_bytes == usage.measured_bytes
    assert net.plan(12, "train", storage="float16").told == ()
    assert "activations wait for their gradients as float16" in net.plan(12, "train", low, storage="float16").told


def test_a_run_goes_on_with_the_same_bits(one, tmp_path):
    net = deep(one)
    x, y = batch(net.network, 12)
    with pytest.raises(BudgetError) as refused:
        net.plan(12, "train", memory=1000, storage="float16")
    low = refused.value.needed_bytes or int(re.search(r"at least (\d+) ", str(refused.value))[1])
    how = {"batch_size": 12, "memory": low, "storage": "float16", "verbose": False}
    runs = []
    for name, epochs in (("whole", (2,)), ("parts", (1, 2))):
        for number in epochs:
            with deep(one) as net:
                net.fit(x, y, epochs=number, checkpoint=tmp_path / f"{name}.safetensors", resume=True, **how)
                runs.append(net.get_weights())
    assert all(np.array_equal(runs[-1][name], array) for name, array in runs[0].items())
