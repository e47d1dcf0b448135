"""Images and results in the caller's arrays, of which the device holds strips or tiles: with the same bits."""

import gc
import random
import weakref

import numpy as np
import pytest
from helpers import images, least

import clconv as cc
from clconv import passes, planner
from clconv._core.blockwise import DepthToSpaceBlocks
from clconv._core.layout import Restore, Spill, ToBlocks
from clconv.engine import Session
from clconv.errors import BudgetError
from clconv.explain import explain
from clconv.graph import Graph
from clconv.plan import make_plan
from clconv.planner import Segment
from clconv.shapes import TensorSpec

CHAIN = "INPUT 40x160x3 -> CONV 3x3x16 -> RELU -> CONV 3x3x20 -> RELU -> POOL -> CONV 3x3x2"


def residual():
    """The image is read at the start and, added to what was made of it, at the end; of a stride, by a pool, too."""
    image = cc.Input(16, 72, 40)
    y = image
    for _ in range(5):
        y = cc.ReLU()(cc.Conv(16, 3, pad=1)(y))
    return cc.Net(cc.MaxPool(2)(cc.Add()(cc.Conv(16, 1)(y), image)), seed=2)


def lent(net, count=1):
    graph = net.network.graph(count, train=False)
    passes.for_inference(graph, net.device.facts.block)
    return passes.lend_ends(graph, net.device.facts.block)


def session_of(net, plan):
    session = Session(net.device)
    session.load(plan.persistent, net.get_weights(), plan.residence)
    session.prepare(plan)
    return session


@pytest.fixture(params=["chain", "residual"])
def net(request, device):
    with cc.Net(CHAIN, seed=1) if request.param == "chain" else residual() as net:
        net._device = device
        yield net


@pytest.mark.parametrize("columns", [0, 1])
def test_strips_and_tiles_change_no_bit(net, columns):
    """All layers at once, of batches, in memory that holds NaN, run after run; on two queues behind the first run."""
    if net.device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for these; pixels from channels are tried there")
    graph, draw = lent(net, 2), random.Random(4)
    x = images(net, 2)
    whole = make_plan(graph, net.device.facts)
    session = session_of(net, whole)
    expected = session.run(whole, {"x": x})["y"]
    (height, width), stop = graph.outputs["y"].spec.shape[2:], len(graph.nodes)
    segment = Segment(0, stop, draw.randint(3, height // 2), columns * draw.randint(5, width // 2))
    plan = make_plan(graph, net.device.facts, segments=(segment,))
    assert plan.peak_bytes < whole.peak_bytes and plan.host_bytes == 0
    for _ in range(2):
        session.prepare(plan)
        session.fill_arena(0xFF)
        np.testing.assert_array_equal(session.run(plan, {"x": x})["y"], expected)
    session.release()


@pytest.mark.parametrize("columns", [0, 30])
def test_pixels_from_channels(device, columns):
    """The end of networks that enlarge images, in strips and tiles."""
    graph = Graph()
    x = graph.input("x", TensorSpec((2, 12, 40, 36), layout="plain"))
    (graph.outputs["y"],) = graph.add(DepthToSpaceBlocks(2, "DCR"), graph.add(ToBlocks(), [x], "x"), "y")
    passes.for_inference(graph, device.facts.block)
    graph = passes.lend_ends(graph, device.facts.block)
    image = np.random.default_rng(1).standard_normal(x.spec.shape, np.float32)
    plan = make_plan(graph, device.facts, segments=(Segment(0, len(graph.nodes), 14, columns),))
    session = Session(device)
    session.load({}, {})
    session.prepare(plan)
    for _ in range(2):
        session.fill_arena(0xFF)
        got = session.run(plan, {"x": image})["y"]
        np.testing.assert_array_equal(got, pixels(image))
    session.release()


def pixels(x):
    """The reference: channel (2 i + j) 3 + c of (h, w) is channel c of (2 h + i, 2 w + j)."""
    n, c, h, w = x.shape
    return x.reshape(n, 2, 2, c // 4, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(n, c // 4, 2 * h, 2 * w)


def test_the_least_is_below_the_image(net):
    """It runs there, with the bits of no budget, and one unit less is refused; planned and measured bytes are equal."""
    x = images(net)
    low = least(net, exact=True)
    assert low < x.nbytes
    plan = net.plan(memory=low, exact=True)
    assert plan.peak_bytes == low
    assert "never whole on the device, copied from the host or to it in parts: x" in " ".join(plan.told)
    with pytest.raises(BudgetError, match=f"at least {low} bytes"):
        net.plan(memory=low - planner.ALIGN, exact=True)
    if net.device.facts.loop_limit:
        return  # its compiler takes minutes for the rest
    expected = net.predict(x, exact=True)
    np.testing.assert_array_equal(net.predict(x, memory=low, exact=True), expected)
    (usage,) = net.usages
    assert usage.planned_bytes == usage.measured_bytes == low


def test_any_number_of_images_of_any_type(device):
    """One after the other; uint8 images; arrays that are not contiguous."""
    if device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for this")
    with cc.Net(CHAIN, seed=1, device=device) as net:
        x = np.random.default_rng(0).integers(0, 256, (3, *net.network.input_shape), np.uint8)
        low = least(net, exact=True)
        wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), np.uint8)
        wide[..., ::2] = x
        got = net.predict(wide[..., ::2], memory=low, exact=True)
        np.testing.assert_array_equal(got, net.predict(x, exact=True, batch_size=1))


def test_a_late_reader_has_a_copy_of_its_own(device):
    with residual() as net:
        net._device = device
        graph = lent(net)
        copies = [node for node in graph.nodes if isinstance(node.layer, Restore)]
        assert [node.inputs[0] for node in copies] == [graph.inputs["x"]] * 2
        assert len({node.outputs[0] for node in copies}) == 2
        assert sum(isinstance(node.layer, Spill) for node in graph.nodes) == 1


def test_small_ends_stay_on_the_device(device):
    with cc.Net("INPUT 16x16x3 -> CONV 3x3x16 -> RELU -> FC 10", device=device) as net:
        graph = net.network.graph(1, train=False)
        passes.for_inference(graph, device.facts.block)
        assert passes.lend_ends(graph, device.facts.block) is graph


def test_whole_where_there_is_room(net):
    """Without a budget nothing is copied in parts, and with room for the ends neither."""
    whole = net.plan()
    assert not whole.told and not any(value.lent for value in whole.graph.inputs.values())
    assert net.plan(memory=whole.peak_bytes).peak_bytes == whole.peak_bytes


def test_arrays_are_given_back(device):
    """Nothing of the caller's is kept behind a run, and a run without it does not begin."""
    with cc.Net(CHAIN, device=device) as net:
        plan = make_plan(lent(net), device.facts)
        session = session_of(net, plan)
        x = images(net)
        found = session.run(plan, {"x": x})
        kept = weakref.ref(x), weakref.ref(found["y"])
        del x, found
        gc.collect()
        assert [each() for each in kept] == [None, None]
        with pytest.raises(AssertionError, match="x"):
            session.prepare(plan).run()
        assert session.run(plan, {"x": images(net)}, fetch=()) == {}
        session.release()


def test_evaluation_in_a_budget_below_the_image(device):
    """The loss of labelled images, whose network ends in a classifier."""
    if device.facts.loop_limit:
        pytest.skip("its compiler takes minutes for this")
    with cc.Net("INPUT 96x96x3 -> CONV 5x5x16 -> RELU -> POOL 8x8 -> FC 4", seed=1, device=device) as net:
        x, y = images(net, 3), np.array([0, 1, 3], np.int32)
        low = least(net)
        assert low < x[:1].nbytes
        expected = net.evaluate(x, y)
        assert net.evaluate(x, y, memory=2 * low)["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_people_see_it(device):
    with cc.Net(CHAIN, device=device) as net:
        low = least(net)
        told = str(explain(net.plan(memory=low), net.plan()))
        assert "never whole on the device" in told and "copied from the host" in told
