"""Segments in tiles: bands of columns in strips of rows, with the bits of the whole, in memory that holds NaN."""

import random
from itertools import takewhile

import numpy as np
import pytest

import clconv as cc
from clconv import passes, planner
from clconv._core.layout import Crop, Paste
from clconv.engine import Session
from clconv.errors import BudgetError
from clconv.explain import explain
from clconv.plan import make_plan
from clconv.planner import Search, Segment
from clconv.planner.tiles import can_tile
from clconv.pricing import plan_flops

WIDE = "INPUT 200x24x3 -> [CONV 3x3x16 -> RELU]*3 -> POOL -> [CONV 3x3x16 -> RELU]*2 -> CONV 3x3x2"


def step(draw, x, channels):
    """One to three random layers behind x, and how many channels they make."""
    filters = draw.choice([3, 16, 20])
    kind = draw.choice(["conv", "strided", "dilated", "depthwise", "grouped", "pool", "mean", "add", "concat", "up"])
    if kind == "conv":
        return cc.ReLU()(cc.Conv(filters, draw.choice([1, 3, 5]), pad=draw.choice([1, 2]))(x)), filters
    if kind == "strided":
        return cc.Conv(filters, (3, 2), stride=(1, 2), pad=1, rounding="floor")(x), filters
    if kind == "dilated":
        return cc.Sigmoid()(cc.Conv(filters, 3, dilation=2, pad=draw.choice([1, 2]))(x)), filters
    if kind == "depthwise":
        return cc.LRN()(cc.Conv(channels, 3, pad=1, groups=channels)(x)), channels
    if kind == "grouped":
        return cc.Conv(32, 3, pad=1, groups=2)(cc.Conv(16, 1)(x)), 32
    if kind == "pool":
        return cc.MaxPool(3, stride=2, pad=1, rounding="ceil")(x), channels
    if kind == "mean":
        return cc.AvgPool(3, stride=1, pad=1, count_pad=draw.random() < 0.5)(x), channels
    if kind == "add":
        return cc.ReLU()(cc.Add()(x, cc.Conv(channels, 3, pad=1)(cc.Conv(16, 3, pad=1)(x)))), channels
    if kind == "concat":
        return cc.Concat()(cc.Conv(16, 1)(x), cc.Conv(filters, 3, pad=1)(x)), 16 + filters
    return cc.ConvTranspose(filters, draw.choice([2, 4]), stride=2, pad=draw.choice([0, 1]))(x), filters


def drawn(seed):
    """A random network, and the generator that drew it."""
    draw = random.Random(seed)
    channels = draw.choice([3, 16])
    x = cc.Input(channels, draw.randint(24, 40), draw.randint(24, 48))
    for _ in range(5):
        x, channels = step(draw, x, channels)
    return cc.Net(cc.Conv(3, 3, pad=1)(x), seed=seed), draw


def graph_of(net, winograd=True):
    graph = net.network.graph(1, train=False)
    passes.for_inference(graph, net.device.facts.block)
    if winograd:
        passes.use_winograd(graph, net.device.facts, train=False, images=1, least_rows=0)
    return graph


def longest(graph):
    """The longest run of nodes that run in tiles."""
    runs = [(place, sum(1 for _ in takewhile(can_tile, graph.nodes[place:]))) for place in range(len(graph.nodes))]
    place, length = max(runs, key=lambda run: run[1])
    assert length >= 5
    return place, place + length


def results(net, graph, x, segments=()):
    plan = make_plan(graph, net.device.facts, segments=segments)
    session = Session(net.device)
    session.load(plan.persistent, net.get_weights(), plan.residence)
    session.prepare(plan)
    for _ in range(2):
        session.fill_arena(0xFF)
        found = session.run(plan, {"x": x})
    session.release()
    return found["y"]


@pytest.mark.parametrize("seed", [0, 3, 9])
def test_tiles_change_no_bit(device, seed):
    if device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for these networks")
    net, draw = drawn(seed)
    net._device = device
    graph = graph_of(net, winograd=seed % 2 == 0)
    x = np.random.default_rng(seed).standard_normal((1, *net.network.input_shape), np.float32)
    expected = results(net, graph, x)
    assert not np.isnan(expected).any()
    begin, stop = longest(graph)
    start = begin + draw.randint(1, 2)
    for first, last in ((begin, stop), (start, draw.randint(start + 2, stop))):
        h, w = graph.nodes[last - 1].outputs[0].spec.shape[2:]
        grid = graph.nodes[last - 1].layer.bands
        segment = Segment(first, last, grid * draw.randint(1, -(-h // grid)), grid * draw.randint(1, w // grid // 2))
        np.testing.assert_array_equal(results(net, graph, x, (segment,)), expected, err_msg=str(segment))


def test_the_planner_cuts_columns_where_strips_do_not_fit(device):
    if device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for this network")
    with cc.Net(WIDE, device=device, seed=1) as net:
        x = np.random.default_rng(0).standard_normal((1, *net.network.input_shape), np.float32)
        with pytest.raises(BudgetError, match=r"weights read \d+\.\d times, \+[1-9]\d* % operations") as refusal:
            net.plan(memory=64, exact=True)
        low = refusal.value.needed_bytes
        plan = net.plan(memory=low, exact=True)
        assert any(segment.columns for segment in plan.segments)
        expected = net.predict(x)
        np.testing.assert_array_equal(net.predict(x, memory=low, exact=True), expected)
        assert net._test.usage.measured_bytes <= low
        copies = [step for step in plan.schedule.steps if isinstance(step.layer, Crop | Paste)]
        assert copies and plan_flops(plan) > plan.flops
        told = str(explain(plan, net.plan()))
        segment = next(segment for segment in plan.segments if segment.columns)
        assert f"{plan.cut(segment)} of {segment.rows} x {segment.columns}" in told and " x " in plan.cut(segment)


def test_strips_alone_need_more(device):
    with cc.Net(WIDE, device=device) as net:
        graph = graph_of(net)
        search = Search(graph, net.device.facts, make_plan(graph, net.device.facts).kept_bytes, {})
        least = search.smallest().peak_bytes
        assert search.within(least, priced=False) is not None
        assert search.within(least, priced=False, tiles=False) is None


def test_a_refusal_examines_few_segments_and_packs_few_plans(device, monkeypatch):
    frames, within, packed, place = {}, Search.within, [], planner.place

    def counted(search, *args, **kwargs):
        found = within(search, *args, **kwargs)
        frames[search] = len(search.frames._frames)
        return found

    monkeypatch.setattr(Search, "within", counted)
    monkeypatch.setattr(planner, "place", lambda *args: packed.append(args) or place(*args))
    with cc.zoo.squeezenet(device=device) as net, pytest.raises(BudgetError):
        net.plan(memory=64)
    assert len(frames) <= 4
    assert sum(frames.values()) <= 1500
    assert len(packed) <= 80


def test_a_layer_that_has_no_columns_apart_is_not_cut(device):
    net = cc.Net([cc.Conv(16, 3, pad=1), cc.ReLU(), cc.Conv(16, 3, pad=1)], input_shape=(16, 24, 24), device=device)
    graph = graph_of(net, winograd=False)
    assert can_tile(graph.nodes[0])
    graph.nodes[0].layer = graph.nodes[0].layer.with_(bands=0)
    assert not can_tile(graph.nodes[0])
