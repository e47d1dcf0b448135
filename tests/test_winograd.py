"""Winograd's method against the float64 reference: its stated accuracy, forward and input gradient."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import in_class
from helpers import streaming

import clconv as cc
from clconv import fitting, passes
from clconv.autodiff import differentiate
from clconv.engine import Session
from clconv.graph import Graph
from clconv.nn.base import LAYERS
from clconv.passes import winograd
from clconv.plan import make_plan
from clconv.reference import Case
from clconv.selftest import EPS
from clconv.shapes import TensorSpec

AMPLIFICATION = {6: 16, 4: 4, 8: 16}  # of the direct kernel's bound, by the side of a tile: cl/conv_winograd*.cl

CASES = [
    Case("one tile", "Conv", dict(filters=16, kernel=3, pad=1), ((1, 16, 4, 4),)),
    Case("ragged tiles", "Conv", dict(filters=32, kernel=3, pad=1), ((2, 32, 7, 9),)),
    Case("no padding", "Conv", dict(filters=48, kernel=3), ((1, 20, 11, 6),)),
    Case("uneven padding", "Conv", dict(filters=17, kernel=3, pad=((2, 0), (1, 2))), ((3, 33, 5, 6),)),
    Case("many tiles", "Conv", dict(filters=40, kernel=3, pad=1, bias=False), ((2, 16, 30, 31),)),
    Case("long sum", "Conv", dict(filters=64, kernel=3, pad=1), ((1, 512, 14, 14),)),
    Case("many filters", "Conv", dict(filters=200, kernel=3, pad=1), ((1, 24, 8, 8),)),
]
# Of the processors' kernels alone.
SQUARES = [
    Case("5x5", "Conv", dict(filters=48, kernel=5, pad=2), ((2, 33, 9, 13),)),
    Case("5x5, few tiles", "Conv", dict(filters=32, kernel=5, pad=((1, 2), (0, 4))), ((1, 40, 4, 4),)),
    Case("4x4", "Conv", dict(filters=33, kernel=4, pad=1), ((1, 32, 12, 7),)),
    Case("groups", "Conv", dict(filters=64, kernel=3, pad=1, groups=2), ((2, 64, 9, 12),)),
    Case("groups of 5x5, few tiles", "Conv", dict(filters=64, kernel=5, pad=2, groups=2), ((1, 64, 4, 3),)),
]
PORTIONS = Case("channels in portions", "Conv", dict(filters=24, kernel=3, pad=1), ((3, 72, 24, 24),))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(winograd, "_sides", lambda *_: (6,))


@pytest.fixture(params=["cpu", "cpu 8x8", "gpu", "gpu 2x2"])
def either(request, device, monkeypatch):
    """Each working device with kernels of each class, where the method has some; by two sizes of tiles."""
    either = in_class(device, request.param[:3], monkeypatch)
    side = {"gpu 2x2": 4, "cpu 8x8": 8}.get(request.param, 6)
    monkeypatch.setattr(winograd, "_sides", lambda *_: (side,))
    if not winograd.usable(either.facts):
        pytest.skip("this device does not use the method")
    return either


def run(graph, device, values, pick=lambda choices: choices[0], segments=()):
    plan = make_plan(graph, device.facts, pick=pick, segments=segments)
    session = Session(device)
    try:
        session.load(graph.persistent, {f"conv.{name}": a.astype(np.float32) for name, a in values.params.items()})
        feeds = {"x": values.inputs[0].astype(np.float32), "dy": values.dy.astype(np.float32)}
        results = session.run(plan, {name: feeds[name] for name in graph.inputs})
        assert session.allocator.peak_bytes == plan.peak_bytes
        return results
    finally:
        session.release()


def blocked_input(graph, case):
    """The case's input, read through a sum so that the convolution gets channel blocks."""
    x = graph.input("x", TensorSpec(case.shapes[0], layout="plain"))
    return x, cc.ReLU().apply(graph, "relu", x, train=False)


def check(got, expected, size, products, side=6):
    bound = AMPLIFICATION[side] * 2 * EPS * np.sqrt(products) * size.max() + np.finfo(np.float32).tiny
    assert np.abs(got - expected).max() <= bound


def side_of(graph):
    """The side of the tiles of a graph's one convolution; 0: it is computed by the direct method."""
    return max(getattr(node.layer, "side", 0) for node in graph.nodes)


def only_some(either, case):
    """Skips a case that there are no kernels for, and every second one by the smaller tiles, which share the code."""
    if either.facts.kernels == "gpu" and case not in CASES:
        pytest.skip("there are no kernels for it")
    if winograd._sides() == (8,) and case.attrs["kernel"] == 3:
        pytest.skip("there are no kernels for it")
    if winograd._sides() == (4,) and case not in CASES[1::2]:
        pytest.skip("other cases have tiles of this size")


def methods(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


def by_winograd(device, case):
    """The graph of a case's convolution, computed by Winograd's method."""
    graph = Graph()
    _, x = blocked_input(graph, case)
    graph.outputs["y"] = LAYERS["Conv"](**case.attrs).apply(graph, "conv", x, train=False)
    passes.for_inference(graph, device.facts.block)
    winograd.use_winograd(graph, device.facts, train=False)
    graph.prune()
    return graph


@pytest.mark.parametrize("case", [*CASES, PORTIONS, *SQUARES], ids=lambda c: c.name)
def test_forward(either, case):
    only_some(either, case)
    values = case.values()
    values.inputs[0][:] = np.abs(values.inputs[0])  # what the ReLU passes on
    graph = by_winograd(either, case)
    assert "WinogradConv2d" in methods(graph)
    arguments = (case.attrs, values.inputs, values.params, {})
    expected, _ = case.reference.forward(*arguments)
    size = case.reference.magnitude(*arguments)
    outputs = [run(graph, either, values, pick)["y"] for pick in (lambda c: c[0], lambda c: c[-1])]
    check(outputs[0], expected, size, case.reference.products(case.attrs, case.shapes), side_of(graph))
    assert outputs[0].tobytes() == outputs[1].tobytes(), "the bits depend on the tile"


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_whole_numbers_are_exact(either, kernel):
    """The transforms have whole factors up to the last one: small whole numbers give whole results."""
    if (kernel > 3 and either.facts.kernels == "gpu") or (kernel == 3 and winograd._sides() == (8,)):
        pytest.skip("there are no kernels for it")
    case = Case("whole", "Conv", dict(filters=32, kernel=kernel, pad=1), ((1, 16, 9, 10),))
    values, rng = case.values(), np.random.default_rng(3)
    values.inputs[0][:] = rng.integers(0, 2, values.inputs[0].shape)
    for array in values.params.values():
        array[:] = rng.integers(-1, 2, array.shape)
    graph = by_winograd(either, case)
    expected, _ = case.reference.forward(case.attrs, values.inputs, values.params, {})
    assert np.array_equal(run(graph, either, values)["y"], expected)


@pytest.mark.parametrize(
    ("size", "batch", "train", "side"),
    [(28, 1, False, 6), (14, 1, False, 4), (14, 8, False, 6), (28, 1, True, 4), (7, 1, False, 0), (14, 1, True, 0)],
)
def test_gpus_take_small_tiles_where_large_ones_are_few(size, batch, train, side, device, monkeypatch):
    """And where filters are transformed in every run: they have less than half of the bytes then."""
    monkeypatch.undo()
    facts = {"has_local": True, "local_bytes": 48 << 10, "max_work_group": 1024, "compute_units": 132, "subgroup": 0}
    gpu = in_class(device, "gpu", monkeypatch, **facts, accumulators=16, loop_limit=0)
    case = Case("size", "Conv", dict(filters=512, kernel=3, pad=1), ((batch, 512, size, size),))
    graph = Graph()
    _, x = blocked_input(graph, case)
    graph.outputs["y"] = LAYERS["Conv"](**case.attrs).apply(graph, "conv", x, train=False)
    passes.convert_layouts(graph)
    winograd.use_winograd(graph, gpu.facts, train=train)
    assert side_of(graph) == side


def test_gpus_take_the_tiles_that_there_is_room_for(device, monkeypatch):
    monkeypatch.setattr(winograd, "_sides", lambda *_: (6, 4))
    gpu = in_class(device, "gpu", monkeypatch)

    def side(scratch):
        graph = Graph()
        _, x = blocked_input(graph, CASES[5])
        graph.outputs["y"] = LAYERS["Conv"](**CASES[5].attrs).apply(graph, "conv", x, train=False)
        passes.convert_layouts(graph)
        winograd.use_winograd(graph, gpu.facts, train=True, scratch=scratch)
        return side_of(graph)

    assert [side(scratch) for scratch in (None, 7_000_000, 5_000_000, 1_000_000)] == [6, 6, 4, 0]


@pytest.mark.parametrize("kernel, side", [(3, 6), (5, 8)])
def test_processors_take_large_tiles_for_large_filters(kernel, side, device, monkeypatch):
    if not device.facts.workers:
        pytest.skip("this device does not use the method")
    monkeypatch.undo()
    case = Case("large", "Conv", dict(filters=192, kernel=kernel, pad=kernel // 2), ((1, 64, 27, 27),))
    assert side_of(by_winograd(device, case)) == side


def test_slices_of_tiles_change_no_bits(device, monkeypatch):
    """A workspace for few tiles, used in turn, gives what one for all of them gives."""
    gpu = in_class(device, "gpu", monkeypatch)
    case = Case("slices", "Conv", dict(filters=8, kernel=3, pad=1), ((3, 8, 13, 10),))
    values = case.values()
    graph = by_winograd(gpu, case)

    def sliced(choices):
        if not choices[0].name.startswith("winograd"):
            return choices[0]
        name, whole = choices[0].tiles[-1]
        size = choices[0].workspace_bytes // whole
        return replace(choices[0], tiles=(*choices[0].tiles[:-1], (name, 10)), workspace_bytes=10 * size)

    assert run(graph, gpu, values, sliced)["y"].tobytes() == run(graph, gpu, values)["y"].tobytes()


@pytest.mark.parametrize("case", [*CASES, SQUARES[0], SQUARES[-1]], ids=lambda c: c.name)
def test_input_gradient(either, case):
    only_some(either, case)
    values = case.values()
    graph = Graph()
    x = graph.input("x", TensorSpec(case.shapes[0], layout="plain"))
    y = LAYERS["Conv"](**case.attrs).apply(graph, "conv", x, train=True)
    dy = graph.input("dy", TensorSpec(y.spec.shape, layout="plain"))
    half = cc.ReLU().apply(graph, "relu", dy, train=True)
    graph.outputs["dx"] = differentiate(graph, {y: half}, [x])[x]
    passes.convert_layouts(graph)
    winograd.use_winograd(graph, either.facts, train=True)
    graph.prune()
    assert "WinogradConv2d" in methods(graph)
    assert ("WinogradFilter" in methods(graph)) == (either.facts.kernels == "gpu")
    values.dy[:] = np.abs(values.dy)
    arguments = (case.attrs, values.inputs, values.params, {}, values.dy)
    (expected,), _ = case.reference.gradient(*arguments)
    (size,), _ = case.reference.gradient_magnitude(*arguments)
    products = case.reference.gradient_products(case.attrs, case.shapes)[0][0]
    check(run(graph, either, values)["dx"], expected, size, products, side_of(graph))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_weight_gradient(device, case, monkeypatch):
    if not device.facts.workers:
        pytest.skip("this device does not use the method")
    monkeypatch.setattr(winograd, "GAIN", 100.0)
    values = case.values()
    values.inputs[0][:] = np.abs(values.inputs[0])
    graph = Graph()
    _, x = blocked_input(graph, case)
    y = LAYERS["Conv"](**case.attrs).apply(graph, "conv", x, train=True)
    dy = graph.input("dy", TensorSpec(y.spec.shape, layout="plain"))
    weight = graph.persistent["conv.weight"]
    graph.outputs["dw"] = differentiate(graph, {y: dy}, [weight])[weight]
    passes.convert_layouts(graph)
    winograd.use_winograd(graph, device.facts, train=True)
    assert "WinogradGradW" in methods(graph)
    arguments = (case.attrs, values.inputs, values.params, {}, values.dy)
    _, expected = case.reference.gradient(*arguments)
    _, size = case.reference.gradient_magnitude(*arguments)
    products = case.reference.gradient_products(case.attrs, case.shapes)[1]["weight"]
    check(run(graph, device, values)["dw"], expected["weight"], size["weight"], products)


def test_a_small_budget_takes_the_direct_method(device, monkeypatch):
    """Transformed filters take four times the memory: inside a budget that forbids them the result is near the same.

    Where neither they nor their parts can stay in a file.
    """
    if not device.facts.workers:
        pytest.skip("this device does not use the method")
    monkeypatch.setattr(fitting.Fitting, "_streamed", lambda self, variant, limit: None)
    device = streaming(device)
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    with cc.Net("INPUT 16x16x3 -> [CONV 3x3x32 -> RELU]*2 -> FC 5", device=device) as net:
        fast = net.plan(batch=1)
        assert "WinogradConv2d" in methods(fast.graph)
        small = net.plan(batch=1, memory=fast.peak_bytes - 64)
        assert small.peak_bytes < fast.peak_bytes and "WinogradConv2d" not in methods(small.graph)
        expected = net.predict(x)
        np.testing.assert_allclose(net.predict(x, memory=small.peak_bytes), expected, rtol=1e-3, atol=1e-4)
