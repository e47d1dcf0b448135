"""Inverted residuals as one operator: the bits of three, and nothing stored between them."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import in_class
from helpers import least, streaming
from test_bounds import facts
from test_fuse_pools import operators

import clconv as cc
from clconv import fitting, passes
from clconv._core.activation import Activation
from clconv.graph import Graph
from clconv.nn import zoo
from clconv.nn.base import LAYERS
from clconv.passes import halve, invert
from clconv.plan import make_plan
from clconv.report import plan_table, report
from clconv.selftest import run_guarded
from clconv.shapes import TensorSpec

# Shape of x, channels of the expansion (0: none), the depthwise window, channels of y, the three activations, and what
# is added.
CASES = {
    "odd": ((2, 19, 9, 11), 37, dict(kernel=3, pad=1), 21, ("relu6", "relu6", None), None),
    "added": ((1, 24, 30, 28), 144, dict(kernel=3, pad=1), 24, ("relu6", "relu6", None), "x"),
    "stride, 5x5": (
        (1, 16, 15, 17),
        40,
        dict(kernel=5, pad=2, stride=2),
        70,
        ("hard_swish", "silu", "relu"),
        "another",
    ),
    "no padding": ((3, 8, 6, 5), 16, dict(kernel=3), 48, ("relu", "leaky_relu", "sigmoid"), None),
    "two alone": (
        (2, 33, 7, 8),
        0,
        dict(kernel=3, pad=1, stride=2, rounding="floor"),
        20,
        (None, "relu6", "relu"),
        None,
    ),
    "pieces": ((2, 32, 5, 6), 40, dict(kernel=3, pad=1), 16, ("relu", "relu", None), None),
}
QUICK = "odd", "two alone"


@pytest.fixture
def wide(device, monkeypatch):
    """A device with persistent work-items, and the class of kernels that has them."""
    if not device.facts.workers:
        pytest.skip("this device has no persistent work-items")
    return in_class(device, "cpu", monkeypatch)


@pytest.fixture
def apart(monkeypatch):
    """Makes the convolutions stay operators of their own."""
    return lambda: monkeypatch.setattr(invert, "_fuse", lambda parts, facts: False)


def block_of(graph, case):
    """Adds the layers of a case; x is in channel blocks, and may be the joint of two."""
    shape, expanded, window, filters, activations, added = CASES[case]

    def then(name, x, activation):
        return graph.add(Activation(activation, 0.1), [x], name)[0] if activation else x

    given = graph.input("x", TensorSpec(shape, layout="plain"))
    x = LAYERS["LeakyReLU"]().apply(graph, "first", given, train=False)
    if case == "pieces":
        other = LAYERS["Sigmoid"]().apply(graph, "other", x, train=False)
        x = LAYERS["Concat"]().apply(graph, "joint", x, other, train=False)
    y, channels = x, x.spec.shape[1]
    if expanded:
        y = LAYERS["Conv"](expanded, 1).apply(graph, "expand", y, train=False)
        y, channels = then("expand", y, activations[0]), expanded
    y = LAYERS["Conv"](channels, groups=channels, **window).apply(graph, "depthwise", y, train=False)
    y = then("depthwise", y, activations[1])
    y = LAYERS["Conv"](filters, 1, bias=case != "added").apply(graph, "project", y, train=False)
    if added:
        term = (
            x if added == "x" else then("term", graph.input("term", TensorSpec(y.spec.shape, layout="plain")), "tanh")
        )
        y = LAYERS["Add"]().apply(graph, "sum", y, term, train=False)
    graph.outputs["y"] = then("project", y, activations[2])


def computed(case, device, pick=lambda choices: choices[0]):
    """y of a case, between guard bands, and the operators."""
    graph = Graph()
    block_of(graph, case)
    passes.for_inference(graph, device.facts.block)
    passes.fuse_inverted(graph, device.facts)
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(v.parameter.public_shape, np.float32) for n, v in graph.persistent.items()}
    feeds = {name: rng.standard_normal(value.spec.shape, np.float32) for name, value in graph.inputs.items()}
    return operators(graph), run_guarded(graph, device, feeds, arrays, pick=pick)["y"]


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
def test_the_bits_are_those_of_three(wide, case, apart):
    names, got = computed(case, wide)
    assert names.count("InvertedResidual") == 1 and not {"Conv2d", "DepthwiseConv2d"} & set(names)
    if case in QUICK:
        _, other = computed(case, wide, lambda choices: choices[-1])
        assert other.tobytes() == got.tobytes(), "the bits depend on the tile"
    apart()
    names, expected = computed(case, wide)
    assert "InvertedResidual" not in names and "DepthwiseConv2d" in names
    assert np.isfinite(expected).all() and np.abs(expected).max() > 0
    assert got.tobytes() == expected.tobytes()


def network():
    """Three blocks behind a convolution, one of them with a residual."""
    layers = [cc.Conv(16, 3, stride=2, pad=1), cc.ReLU6()]
    for channels, filters, stride in ((16, 24, 1), (72, 24, 1), (96, 40, 2)):
        if channels > 16:
            layers += [cc.Conv(channels, 1), cc.ReLU6()]
        layers += [
            cc.Conv(channels, 3, stride=stride, pad=1, groups=channels, rounding="floor"),
            cc.ReLU6(),
            cc.Conv(filters, 1),
        ]
    return [*layers, cc.GlobalAvgPool(), cc.FC(5)]


@pytest.mark.shared
@pytest.mark.parametrize("storage", [None, "float16"])
def test_strips_and_weights_elsewhere_give_the_same_bits(wide, monkeypatch, apart, storage):
    """From the smallest budget on, with weights in a file and with weights that are brought to the device."""
    monkeypatch.setattr(fitting, "SMALL_BYTES", (1 << 10, 256))
    monkeypatch.setattr(halve, "SMALL_BYTES", 1 << 10)
    x = np.random.default_rng(0).standard_normal((2, 3, 31, 29), np.float32)
    how = {"exact": True} if storage is None else {"storage": storage}
    ways, found = set(), []
    for place in (wide, streaming(wide)):
        with cc.Net(network(), input_shape=(3, 31, 29), device=place, seed=1) as net:
            peak, low = net.plan(2, **({} if storage is None else how)).peak_bytes, least(net, batch=2, **how)
            for budget in np.linspace(low, peak, 4 if storage is None else 2).astype(int):
                plan = net.plan(2, memory=int(budget), **how)
                if storage is None:
                    assert operators(plan.graph).count("InvertedResidual") == 3
                ways |= {type(step.layer).__name__ for step in plan.schedule.steps} | {bool(plan.segments)}
                found.append(net.predict(x, memory=int(budget), batch_size=2, **how))
    assert {True, "Upload", "InvertedResidual"} <= ways
    apart()
    with cc.Net(network(), input_shape=(3, 31, 29), device=wide, seed=1) as net:
        expected = net.predict(x, **({} if storage is None else how))
    assert all(y.tobytes() == expected.tobytes() for y in found)


def planned(name, units=2, batch=1):
    """A plan of one of the zoo's networks for a processor of so many units."""
    graph = getattr(zoo, name)().graph(batch, train=False)
    there = replace(facts(16), compute_units=units)
    passes.for_inference(graph, 16)
    passes.fuse_inverted(graph, there)
    return make_plan(graph, there)


def test_what_is_between_is_never_stored():
    plan = planned("mobilenetv2")
    names = operators(plan.graph)
    assert names.count("InvertedResidual") == 17 and "DepthwiseConv2d" not in names
    # The largest: what the first convolution makes of 224x224 pixels, and the first block.
    assert max(value.spec.values for node in plan.graph.nodes for value in node.outputs) == 112 * 112 * 32
    work = [plan.choices[node].workspace_bytes for node in plan.graph.nodes]
    assert max(work) < 4 * 112 * 112 * 16


def test_many_work_items_for_few_rows_stay_apart():
    """Each would compute rows of the expansion that others compute, too."""
    few = operators(planned("mobilenetv2", units=64).graph).count("InvertedResidual")
    many = operators(planned("mobilenetv2", units=64, batch=64).graph).count("InvertedResidual")
    assert few < 10 and many == 17


UNFUSED = {
    "a window of 7x7": [cc.Conv(16, 1), cc.Conv(16, 7, pad=3, groups=16), cc.Conv(8, 3)],
    "a reader in between": [cc.Conv(16, 1), cc.Conv(16, 3, pad=1, groups=16), cc.LRN(), cc.Conv(8, 1)],
    "groups": [cc.Conv(16, 1), cc.Conv(16, 3, pad=1, groups=16), cc.Conv(8, 1, groups=2)],
    "a stride": [cc.Conv(16, 1), cc.Conv(16, 3, pad=1, groups=16), cc.Conv(8, 1, stride=2, rounding="floor")],
}


@pytest.mark.parametrize("why", UNFUSED)
def test_others_stay_apart(why):
    with cc.Net(UNFUSED[why], input_shape=(16, 8, 8)) as net:
        assert "InvertedResidual" not in operators(net.plan().graph)


def test_gpus_keep_them_apart(monkeypatch):
    monkeypatch.setenv("CLCONV_KERNELS", "gpu")
    with cc.Net(network(), input_shape=(3, 31, 29)) as net:
        assert "InvertedResidual" not in operators(net.plan().graph)


def test_tables_name_where_it_is_done():
    with cc.Net(network(), input_shape=(3, 31, 29)) as net:
        rows = {row.name: row for row in report(net).rows}
        assert rows["conv2"].algorithm == rows["conv4"].algorithm == "fused"
        assert rows["conv5"].algorithm == rows["conv6"].algorithm == rows["relu64"].algorithm == "in conv4"
        assert "InvertedResidual" in plan_table(net.plan())
