"""Inference inside a budget: the same bits at every budget, minima that are true, refusals that help."""

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import least, streaming

import clconv as cc
from clconv import fitting
from clconv._core.conv import Conv2d
from clconv._core.layer import Choice
from clconv._core.layout import Upload
from clconv.errors import BudgetError
from clconv.graph import Node, Value
from clconv.planner import ALIGN, Schedule, Step, View, hasten
from clconv.pricing import plan_price
from clconv.shapes import TensorSpec
from clconv.terms import Terms


def chain():
    """Convolutions of all kinds, pooling and normalisation: everything that runs in strips."""
    return cc.Net(
        [
            cc.Conv(20, 3, pad=1), cc.ReLU(), cc.Conv(16, 3, pad=1), cc.ReLU(), cc.LRN(), cc.MaxPool(2),
            cc.Conv(16, 3, pad=1, groups=16), cc.BatchNorm(), cc.Sigmoid(),
            cc.Conv(40, 5, stride=2, pad=2, rounding="floor"), cc.ConvTranspose(17, 4, stride=2, pad=1), cc.Tanh(),
            cc.AvgPool(3, stride=2, pad=1, count_pad=True, rounding="floor"),
            cc.Conv(24, 3, dilation=2, pad=2), cc.L2Pool(3, stride=2),
            cc.FC(10),
        ],
        input_shape=(3, 52, 44), seed=1,
    )  # fmt: skip


def residual():
    """Sums and branches that join again, at two scales."""
    x = cc.Input(16, 40, 24)
    a = cc.ReLU()(cc.Conv(32, 3, pad=1)(x))
    b = cc.Conv(32, 3, pad=1)(cc.ReLU()(cc.Conv(32, 3, pad=1)(a)))
    c = cc.ReLU()(cc.Add()(a, b))
    d = cc.Conv(32, 3, stride=2, pad=1, rounding="floor")(c)
    e = cc.Conv(32, 1, stride=2, rounding="floor")(c)
    f = cc.ReLU()(cc.Add()(d, e))
    up = cc.ConvTranspose(16, 2, stride=2)(f)
    return cc.Net(cc.Conv(5, 3, pad=1)(cc.Concat()(up, c)), seed=2)


def pixels():
    """Pictures out of pictures: what goes in and what comes out are whole, row-major, and all in between in strips."""
    layers = [layer for filters in (16, 24, 16) for layer in (cc.Conv(filters, 3, pad=1), cc.ReLU())]
    return cc.Net([*layers, cc.Conv(3, 5, pad=2)], input_shape=(3, 60, 36), seed=5)


NETS = {"chain": chain, "residual": residual, "pixels": pixels}


@pytest.fixture(params=["mapped", "streamed"])
def place(request, device):
    """A device that reads weights where a file is mapped, and one that must be brought them in parts."""
    small = request.node.originalname == "test_the_announced_minimum_is_true" and "pixels-True" in request.node.name
    if device.facts.loop_limit and not small:
        pytest.skip("its compiler takes minutes for these networks; one of the tests runs")
    if request.param == "streamed" and device.facts.maps_files:
        device = streaming(device)
    elif request.param == "mapped" and not device.facts.maps_files:
        pytest.skip("its driver would copy mapped files")
    return device


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Weights of test networks are small."""
    monkeypatch.setattr(fitting, "PART_BYTES", (16 << 10, 4 << 10))
    monkeypatch.setattr(fitting, "SMALL_BYTES", (1 << 10, 256))


def open_net(name, place):
    net = NETS[name]()
    return cc.Net(net.network, device=place, weights=net.get_weights())


@pytest.mark.parametrize("name", NETS)
def test_every_budget_gives_the_same_bits(place, name):
    net = open_net(name, place)
    x = np.random.default_rng(0).standard_normal((3, *net.network.input_shape), np.float32)
    expected, most = net.predict(x), net.plan(3).peak_bytes
    low = least(net, exact=True)
    seen = set()
    for budget in np.linspace(low, 1.2 * most, 14).astype(int):
        np.testing.assert_array_equal(net.predict(x, memory=int(budget), exact=True), expected)
        usage = net._test.usage
        assert usage.planned_bytes == usage.measured_bytes <= budget
        seen.add(net._test.usage.planned_bytes)
    assert len(seen) >= 3, "the budgets made a difference"


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_the_announced_minimum_is_true(place, name, exact):
    net = open_net(name, place)
    x = np.random.default_rng(0).standard_normal((1, *net.network.input_shape), np.float32)
    low = least(net, exact=exact)
    np.testing.assert_allclose(net.predict(x, memory=low, exact=exact), net.predict(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(BudgetError, match=f"at least {low} bytes .* Nothing was allocated"):
        net.plan(memory=low - ALIGN, exact=exact)


def test_a_refusal_names_the_price_and_what_would_do(device):
    message = (
        r"at least \d+ bytes \(.* [KM]iB\) are needed \(about \d+\.\d x the time of the fastest run, weights read "
        r"\d+\.\d times, \+\d+ % operations\)(, \d+ with \w+=.\w+.)*, more than the 64 bytes of the budget; "
        r".* [KM]iB without extra work, .* [KM]iB for the fastest run. Nothing was allocated."
    )
    with pytest.raises(BudgetError, match=message):
        cc.Net(residual().network, device=device).plan(memory=64)


def test_more_memory_takes_no_longer():
    """Also where packing takes much more than what is alive, as with U-Net's skips."""
    prices = [plan_price(cc.zoo.unet().plan(memory=memory)) for memory in ("34MB", "90MB", "100MB")]
    assert prices[2] <= 1.05 * prices[1] <= 1.05 * prices[0]


@pytest.mark.parametrize("name", NETS)
def test_strips_are_there_and_save_memory(place, name):
    net = open_net(name, place)
    plan = net.plan(memory=least(net, exact=True), exact=True)
    assert plan.segments
    assert plan.peak_bytes < 0.7 * net.plan().peak_bytes
    assert all(live >= 0 for live in plan.live_bytes)


def test_weights_stay_in_a_file(place):
    net = open_net("chain", place)
    most = net.plan()
    plan = net.plan(memory=most.peak_bytes - 1, exact=True)
    assert not plan.segments
    if place.facts.maps_files:
        assert plan.mapped_bytes == most.weight_bytes and plan.weight_bytes == plan.streamed_bytes == 0
    else:
        assert plan.streamed_bytes + plan.weight_bytes == most.weight_bytes and plan.streamed_bytes > 0


def test_streamed_weights_come_in_parts(place):
    if place.facts.maps_files:
        pytest.skip("mapped weights are not streamed")
    net = open_net("chain", place)
    x = np.random.default_rng(0).standard_normal((4, *net.network.input_shape), np.float32)
    expected = net.predict(x)
    room = net.plan(4).arena_bytes + net.plan().weight_bytes // 2
    plan = net.plan(4, memory=room, exact=True)
    uploads = [step for step in plan.schedule.steps if isinstance(step.layer, Upload)]
    assert len(uploads) > len({step.inputs[0].value for step in uploads}), "some in several parts"
    for _ in range(3):
        np.testing.assert_array_equal(net.predict(x, memory=room, exact=True), expected)


def heavy():
    """Layers whose weights are larger than rows of what they compute, with and without groups."""
    layers = [
        cc.Conv(64, 1),
        cc.Conv(128, 3, pad=1, groups=2),
        cc.ReLU(),
        cc.Conv(64, 3, pad=1),
        cc.MaxPool(4),
        cc.FC(10),
    ]
    return cc.Net(layers, input_shape=(3, 48, 40), seed=6)


def test_weights_of_layers_in_strips_come_in_slices_for_each_strip(place):
    """Of layers with groups, too; at the least one slice at a time, with more room the next while one is used."""
    if place.facts.maps_files or place.facts.loop_limit:
        pytest.skip("mapped weights are not streamed, and a slow compiler is not asked for more")
    net = heavy()
    net = cc.Net(net.network, device=place, weights=net.get_weights())
    x = np.random.default_rng(0).standard_normal((1, 3, 48, 40), np.float32)
    expected, low = net.predict(x), least(net)
    for budget in (low, int(1.2 * low)):
        np.testing.assert_array_equal(net.predict(x, memory=budget, exact=True), expected)
        assert net._test.usage.measured_bytes <= budget
    plan = net.plan(memory=low, exact=True)
    uploads = [step for step in plan.schedule.steps if isinstance(step.layer, Upload)]
    sources = Counter(step.inputs[0] for step in uploads)
    cut = {view.value.name for view, count in sources.items() if view.channels is not None and count > 1}
    assert any(plan.graph.persistent[name].spec.groups == 2 for name in cut), cut


def test_weights_come_early_only_where_there_is_room():
    """A step before their layer computes, so that both go on together."""
    value = [Value(name, TensorSpec((1, 16, 4, 4))) for name in "abc"]
    weight = [Value(f"w{i}", TensorSpec((16, 16, 1, 1), layout="filter"), "param") for i in range(2)]
    place = [Value(f"w{i} staged", weight[i].spec) for i in range(2)]
    nodes = [Node(Conv2d(None), (x, w, None), (y,), y.name) for x, w, y in zip(value, weight, value[1:], strict=False)]
    steps = [
        step
        for node, there in zip(nodes, place, strict=True)
        for step in (
            Step(node, Upload(), Choice("upload"), (View(node.inputs[1]),), (View(there),)),
            Step(
                node, node.layer, Choice("direct"), (View(node.inputs[0]), View(there), None), (View(node.outputs[0]),)
            ),
        )
    ]
    size = weight[0].spec.nbytes(16)
    live = [10, 20, 30, 40]
    early = [steps[i] for i in (0, 2, 1, 3)]
    assert hasten(Schedule(steps), live, 20 + size, 16).steps == early
    assert hasten(Schedule(steps), live, 20 + size - 1, 16).steps == steps


@pytest.mark.parametrize(("name", "bound"), [("zfnet", 1.77), ("resnet18", 1.67)])
def test_the_least_with_streamed_weights_is_below_the_bound_on_paper(monkeypatch, name, bound):
    """MiB, with the image in host memory and weights in two slices of 256 KiB (docs/memory.md)."""
    monkeypatch.setenv("CLCONV_MAP_WEIGHTS", "0")
    assert least(getattr(cc.zoo, name)(), exact=False) <= bound * 2**20


def test_a_batch_shrinks_until_it_fits(place):
    net = open_net("chain", place)
    x = np.random.default_rng(0).standard_normal((5, *net.network.input_shape), np.float32)
    expected = net.predict(x)
    for wanted in (None, 5):
        np.testing.assert_array_equal(
            net.predict(x, batch_size=wanted, memory=least(net, exact=True), exact=True), expected
        )


def test_fully_connected_layers_take_the_whole_batch_where_the_others_cannot(place):
    """Their weights are read once; not a bit is different."""
    net = cc.Net("INPUT 40x40x3 -> [CONV 3x3x16 -> RELU -> POOL]*2 -> FC 300 -> RELU -> FC 10", device=place, seed=3)
    x = np.random.default_rng(0).standard_normal((7, 3, 40, 40), np.float32)
    expected = net.predict(x)
    budget = 260_000
    np.testing.assert_array_equal(net.predict(x, memory=budget, exact=True), expected)
    batch, plan = net._test.runs(7, None, budget, "y", terms=Terms(exact=True))
    assert [stage.graph.nodes[-2].layer.__class__.__name__ for stage in plan.stages] == ["Conv2d", "FullyConnected"]
    assert batch < 7 == plan.behind[0].graph.inputs["features"].spec.shape[0]
    assert any("fully-connected layers for 7 images at once" in line for line in plan.told)
    usage = net.usages[0]
    assert usage.planned_bytes == usage.measured_bytes == plan.peak_bytes <= budget


def test_weights_larger_than_an_allocation_come_in_parts(place):
    net = cc.Net([cc.FC(600), cc.ReLU(), cc.FC(10)], input_shape=(16, 10, 10), device=place, seed=4)
    x = np.random.default_rng(0).standard_normal((3, 16, 10, 10), np.float32)
    small = copy.copy(place)
    small.facts = replace(place.facts, max_alloc_bytes=1 << 20)
    limited = cc.Net(net.network, device=small, weights=net.get_weights())
    assert limited.plan(3).streamed_bytes >= 600 * 1600 * 4 > limited.plan(3).peak_bytes
    np.testing.assert_array_equal(limited.predict(x), net.predict(x))


def test_an_image_has_the_same_mean_in_any_batch(device):
    net = cc.Net([cc.GlobalAvgPool()], input_shape=(3, 56, 56), device=device)
    x = np.random.default_rng(0).standard_normal((9, 3, 56, 56), np.float32)
    np.testing.assert_array_equal(net.predict(x), np.concatenate([net.predict(x[i : i + 1]) for i in range(9)]))
