"""Pooling in the convolution in front of it: the bits of both apart, and nothing stored between them."""

import numpy as np
import pytest
from conftest import in_class
from helpers import least, streaming
from test_bounds import facts

import clconv as cc
from clconv import fitting, passes
from clconv.graph import Graph
from clconv.nn import zoo
from clconv.nn.base import LAYERS
from clconv.passes import fuse, winograd
from clconv.plan import make_plan
from clconv.report import plan_table, report
from clconv.selftest import run_guarded
from clconv.shapes import TensorSpec
from clconv.train.trainer import Trainer

FLOOR = {"rounding": "floor"}
# The method, shape of x, the convolution, the pooling, and whether x comes in channel blocks.
CASES = {
    "odd": ("direct", (1, 16, 13, 15), dict(filters=17, kernel=3, pad=1), FLOOR, True),
    "planar, few channels": ("direct", (1, 3, 11, 10), dict(filters=5, kernel=5, pad=2), FLOOR, False),
    "pointwise": ("direct", (2, 33, 6, 34), dict(filters=24, kernel=1), {}, True),
    "groups": ("direct", (1, 32, 15, 16), dict(filters=32, kernel=3, pad=1, stride=2, groups=2, **FLOOR), FLOOR, True),
    "one window": ("direct", (1, 4, 2, 3), dict(filters=3, kernel=1), FLOOR, False),
    "odd tiles": ("winograd", (1, 16, 13, 15), dict(filters=17, kernel=3, pad=1), FLOOR, True),
    "no padding": ("winograd", (2, 16, 9, 11), dict(filters=16, kernel=3), FLOOR, True),
    "many tiles": ("winograd", (1, 16, 40, 46), dict(filters=32, kernel=3, pad=1), {}, True),
    "5x5": ("winograd", (2, 16, 10, 13), dict(filters=24, kernel=5, pad=2, bias=False), FLOOR, True),
}
MODES = [("MaxPool", "ReLU"), ("AvgPool", None), ("MaxPool", None), ("MaxPool", "Sigmoid")]


def operators(graph):
    return [node.layer.operator for node in graph.nodes]


@pytest.fixture
def apart(monkeypatch):
    """Makes pooling stay a layer of its own."""
    return lambda: monkeypatch.setattr(fuse, "_side_by_side", lambda node: False)


def computed(case, device, pick=lambda choices: choices[0], pool="MaxPool", activation="ReLU"):
    """A convolution with pooling behind it, between guard bands; the graph and y."""
    method, shape, conv, pooling, blocked = CASES[case]
    graph = Graph()
    x = graph.input("x", TensorSpec(shape, layout="plain"))
    if blocked:
        x = LAYERS["LeakyReLU"]().apply(graph, "first", x, train=False)
    y = LAYERS["Conv"](**conv).apply(graph, "conv", x, train=False)
    if activation:
        y = LAYERS[activation]().apply(graph, "f", y, train=False)
    graph.outputs["y"] = LAYERS[pool](2, **pooling).apply(graph, "pool", y, train=False)
    passes.for_inference(graph, device.facts.block)
    passes.fuse_pools(graph, device.facts)
    if method == "winograd":
        winograd.use_winograd(graph, device.facts, train=False)
        assert any(name.startswith("Winograd") for name in operators(graph))
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(v.parameter.public_shape, np.float32) for n, v in graph.persistent.items()}
    feeds = {"x": rng.standard_normal(shape, np.float32)}
    return operators(graph), run_guarded(graph, device, feeds, arrays, pick=pick)["y"]


@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_both_apart(device, case, monkeypatch, apart):
    if CASES[case][0] == "winograd" and not winograd.usable(device.facts):
        pytest.skip("this device does not use the method")
    if device.facts.loop_limit and case != "one window":
        pytest.skip("its compiler takes many seconds")
    monkeypatch.setattr(winograd, "_sides", lambda *_: (8 if case == "5x5" else 6,))
    device = in_class(device, "cpu", monkeypatch)
    modes = MODES if case.startswith("odd") else MODES[:1]
    together = [computed(case, device, pool=pool, activation=f) for pool, f in modes]
    assert all(any("pooled" in name for name in names) and "Pool2d" not in names for names, _ in together)
    if case == "odd" or case == "many tiles":
        _, other = computed(case, device, lambda choices: choices[-1])
        assert other.tobytes() == together[0][1].tobytes(), "the bits depend on the tile"
    apart()
    for (pool, f), (_, got) in zip(modes, together, strict=True):
        names, expected = computed(case, device, pool=pool, activation=f)
        assert "Pool2d" in names and np.isfinite(expected).all() and np.abs(expected).max() > 0
        assert got.tobytes() == expected.tobytes(), (pool, f)


NETWORK = "INPUT 26x23x3 -> CONV 5x5x20 -> RELU -> POOL floor -> [CONV 3x3x32 -> RELU -> POOL floor]*2 -> FC 5"


@pytest.fixture
def wide(device):
    if device.facts.loop_limit:
        pytest.skip("its compiler takes many seconds")
    return device


@pytest.mark.parametrize("storage", [None, "float16"])
def test_strips_and_parts_of_weights_give_the_same_bits(wide, monkeypatch, apart, storage):
    """From the smallest budget on, with weights in a file and with weights that come in parts."""
    monkeypatch.setattr(fitting, "PART_BYTES", (16 << 10, 4 << 10))
    monkeypatch.setattr(fitting, "SMALL_BYTES", (1 << 10, 256))
    monkeypatch.setattr(winograd, "_sides", lambda *_: (6,))
    x = np.random.default_rng(0).standard_normal((1, 3, 23, 26), np.float32)
    how = {"exact": True} if storage is None else {"storage": storage}
    ways, found = set(), []
    for place in (wide, streaming(wide)):
        with cc.Net(NETWORK, device=place, seed=1) as net:
            peak, low = net.plan(**({} if storage is None else how)).peak_bytes, least(net, **how)
            for budget in np.linspace(low, peak, 5 if storage is None else 2).astype(int):
                plan = net.plan(memory=int(budget), **how)
                assert sum("pooled" in name for name in operators(plan.graph)) == 3
                ways |= {type(step.layer).__name__ for step in plan.schedule.steps} | {bool(plan.segments)}
                if storage is None or "WinogradConv2d, pooled" in operators(plan.graph):
                    found.append(net.predict(x, memory=int(budget), **how))
    assert {True, "Upload"} <= ways
    apart()
    with cc.Net(NETWORK, device=wide, seed=1) as net:
        expected = net.predict(x, **({} if storage is None else how))
    assert found and all(y.tobytes() == expected.tobytes() for y in found)


def step_on(device, x, labels):
    """Losses and arrays after two training steps, and the graph of a step."""
    network = cc.Net(
        "INPUT 13x14x3 -> [CONV 3x3x16 -> RELU -> POOL floor]*2 -> CONV 3x3x16 -> POOL avg floor -> FC 4"
    ).network
    optimizer = cc.SGD(0.05, momentum=0.9)
    trainer = Trainer(network, device, "softmax", optimizer, seed=4)
    try:
        trainer.prepare(network.initial(1), {"train": {len(x)}})
        trainer.session.fill_arena(0xFF)
        losses = [trainer.step(x, labels, optimizer.rate)[0] for _ in range(2)]
        assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        return losses, {**trainer.arrays(), **trainer.optimizer_arrays()}, trainer.plan("train", len(x)).graph
    finally:
        trainer.release()


@pytest.mark.parametrize("whole", [False, True])
def test_training_keeps_places_and_gives_the_same_bits(wide, apart, whole, monkeypatch):
    """With ties, whose first place has the gradient: small whole numbers; nothing in front of a pool is stored."""
    monkeypatch.setattr(winograd, "_sides", lambda *_: (6,) if whole else ())
    rng = np.random.default_rng(2)
    x, labels = rng.integers(-1, 2, (5, 3, 14, 13)).astype(np.float32), rng.integers(0, 4, 5).astype(np.int32)
    losses, arrays, graph = step_on(wide, x, labels)
    names = operators(graph)
    assert sum("pooled" in name for name in names) == 3 and "Pool2d" not in names and names.count("Pool2dGrad") == 3
    forward = graph.nodes[: [node.name for node in graph.nodes].index("loss")]
    assert {v.spec.shape[2] for node in forward for v in node.outputs if len(v.spec.shape) == 4} <= {7, 3, 1}
    apart()
    expected = step_on(wide, x, labels)
    assert losses == expected[0] and "Pool2d" in operators(expected[2])
    assert all(np.array_equal(arrays[name], array) for name, array in expected[1].items())


def test_not_a_number_is_the_maximum(wide):
    """As in the pooling alone, wherever in the window it is; infinite values too."""
    x = np.random.default_rng(0).standard_normal((1, 1, 6, 8), np.float32)
    x[0, 0, 1, 2], x[0, 0, 2, 5], x[0, 0, 3, 0] = np.nan, -np.inf, np.inf
    x[0, 0, 4:, :2] = -np.inf
    with cc.Net([cc.Conv(1, 1, bias=False), cc.MaxPool(2)], input_shape=(1, 6, 8), device=wide) as net:
        net.set_weights({"conv1.weight": np.ones((1, 1, 1, 1), np.float32)})
        assert operators(net.plan().graph)[0] == "Conv2d, pooled"
        found = net.predict(x)
    expected = x.reshape(1, 1, 3, 2, 4, 2).max(axis=(3, 5))
    assert np.array_equal(found, expected, equal_nan=True)


UNFUSED = {
    "overlapping windows": "INPUT 9x9x3 -> CONV 3x3x8 -> RELU -> POOL 3x3/2 -> FC 2",
    "padding": "INPUT 8x8x3 -> CONV 3x3x8 -> RELU -> POOL 2x2/2 p1 -> FC 2",
    "a last window in part": "INPUT 9x9x3 -> CONV 3x3x8 -> RELU -> POOL ceil -> FC 2",
    "a norm": "INPUT 8x8x3 -> CONV 3x3x8 -> RELU -> POOL l2 -> FC 2",
    "something between": "INPUT 8x8x3 -> CONV 3x3x8 -> LRN -> POOL -> FC 2",
}


@pytest.mark.parametrize("why", UNFUSED)
def test_other_pooling_stays_apart(why):
    with cc.Net(UNFUSED[why]) as net:
        assert "Pool2d" in operators(net.plan().graph)


def test_what_others_read_is_stored_and_gpus_pool_apart(monkeypatch):
    network = zoo.unet(size=32, base=8)
    with cc.Net(network) as net:
        assert operators(net.plan().graph).count("Pool2d") == 4, "skips"
    monkeypatch.setenv("CLCONV_KERNELS", "gpu")
    with cc.Net("INPUT 8x8x3 -> CONV 3x3x8 -> RELU -> POOL -> FC 2") as net:
        assert "Pool2d" in operators(net.plan().graph)


@pytest.mark.parametrize("name, mib", [("vgg16", 15.3), ("vgg19", 15.3)])
def test_the_bound_of_networks_in_which_nothing_in_front_of_a_pool_is_stored(name, mib):
    graph = getattr(zoo, name)().graph(1, train=False)
    passes.for_inference(graph, 16)
    passes.fuse_pools(graph, facts(16))
    plan = make_plan(graph, facts(16))
    assert plan.arena_bytes == plan.activation_bytes == 4 * 64 * (224 * 224 + 112 * 112)
    assert f"{plan.arena_bytes / 2**20:.3g}" == f"{mib}"


def test_tables_name_where_it_is_done():
    with cc.Net("INPUT 8x8x3 -> CONV 3x3x8 -> RELU -> POOL -> FC 2") as net:
        made = report(net)
        rows = {row.name: row for row in made.rows}
        assert rows["pool1"].algorithm == "in conv1" and rows["pool1"].values == 8 * 4 * 4
        assert rows["conv1"].values == 8 * 8 * 8 and "Conv2d, pooled" in plan_table(net.plan())
