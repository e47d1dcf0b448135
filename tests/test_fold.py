"""Batch normalisation disappears into the weights in front of it, and computes the same."""

import numpy as np
import pytest

from clconv import passes
from clconv.engine import Session
from clconv.graph import Graph
from clconv.nn import FC, Add, BatchNorm, Conv, ConvTranspose, LeakyReLU, ReLU
from clconv.passes.fold import scale_filter
from clconv.plan import make_plan
from clconv.shapes import TensorSpec

FOLDED = {
    "conv": (Conv(17, 3, pad=1), (2, 5, 6, 7)),
    "conv without bias": (Conv(4, 1, bias=False), (2, 3, 4, 5)),
    "groups": (Conv(12, 3, groups=3), (1, 6, 5, 5)),
    "depthwise": (Conv(20, 3, groups=20, pad=1), (2, 20, 5, 5)),
    "depthwise, more outputs": (Conv(10, 3, groups=5), (1, 5, 4, 4)),
    "transposed": (ConvTranspose(6, 3, stride=2), (2, 5, 4, 3)),
    "transposed, groups": (ConvTranspose(6, 2, groups=2, bias=False), (1, 8, 3, 3)),
    "fc": (FC(19), (3, 4, 2, 2)),
}


def _chain(shape, *layers, train=False):
    """The graph of layers one after the other, and all values between them."""
    graph = Graph()
    values = [graph.input("x", TensorSpec(shape, layout="plain"))]
    for i, layer in enumerate(layers):
        values.append(layer.apply(graph, f"{layer.kind}{i}", values[-1], train=train))
    graph.outputs["y"] = values[-1]
    return graph, values


def _arrays(graph, seed=0):
    """Random public arrays for all persistent values; variances are positive."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, value in graph.persistent.items():
        drawn = rng.standard_normal(value.parameter.public_shape)
        arrays[name] = (np.abs(drawn) + 0.5 if name.endswith("var") else drawn).astype(np.float32)
    return arrays


def _kinds(graph):
    return [type(node.layer).__name__ for node in graph.nodes]


def _run(graph, arrays, x, device):
    session = Session(device)
    try:
        session.load(graph.persistent, arrays)
        return session.run(make_plan(graph, device.facts), {"x": x})["y"]
    finally:
        session.release()


def _reference(layers, arrays, x):
    """Output of a chain in float64, and the size of the terms that its last sum adds up."""
    y, size = x.astype(np.float64), np.abs(x.astype(np.float64))
    for i, layer in enumerate(layers):
        prefix = f"{layer.kind}{i}."
        own = {k[len(prefix) :]: a.astype(np.float64) for k, a in arrays.items() if k.startswith(prefix)}
        shapes = [y.shape]
        params = {k: own[k] for k in layer.reference.parameters(layer.arguments, shapes)}
        state = {k: own[k] for k in layer.reference.state(layer.arguments, shapes)}
        size = layer.reference.magnitude(layer.arguments, [size], params, state)
        y, _ = layer.reference.forward(layer.arguments, [y], params, state)
    return y, size


def _check(shape, layers, device, *, fold=True):
    """Runs a chain in test-time mode against the reference; returns its graph."""
    graph, _ = _chain(shape, *layers)
    arrays = _arrays(graph)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    passes.for_inference(graph, device.facts.block, fold=fold)
    got = _run(graph, arrays, x, device)
    expected, size = _reference(layers, arrays, x)
    products = max(layers[0].reference.products(layers[0].arguments, [shape]), 4)
    assert np.all(np.abs(got - expected) <= 4 * np.finfo(np.float32).eps * np.sqrt(products) * size)
    return graph


@pytest.mark.parametrize("name", FOLDED)
def test_what_is_folded_computes_the_same(device, name):
    layer, shape = FOLDED[name]
    graph = _check(shape, (layer, BatchNorm()), device)
    assert "BatchNormInfer" not in _kinds(graph)
    assert sorted(graph.persistent) == [f"{layer.kind}0.bias.folded", f"{layer.kind}0.weight.folded"]


def test_two_in_a_row_and_an_activation_become_one_layer(device):
    layers = (Conv(5, 3), BatchNorm(), BatchNorm(eps=1e-3), ReLU())
    graph = _check((2, 3, 5, 5), layers, device)
    assert _kinds(graph) == ["Conv2d", "ToPlain"]
    assert graph.nodes[0].layer.activation == "relu"


def test_one_that_follows_something_else_stays_and_takes_the_activation(device):
    graph = _check((2, 17, 3, 3), (BatchNorm(), LeakyReLU(0.1)), device)
    assert _kinds(graph) == ["ToBlocks", "BatchNormInfer", "ToPlain"]
    graph = _check((2, 3, 5, 5), (Conv(5, 3), ReLU(), BatchNorm()), device)
    assert _kinds(graph) == ["Conv2d", "BatchNormInfer", "ToPlain"]


def test_nothing_is_folded_where_training_holds_the_weights(device):
    graph = _check((2, 3, 5, 5), (Conv(5, 3), BatchNorm()), device, fold=False)
    assert "BatchNormInfer" in _kinds(graph)
    graph, _ = _chain((2, 3, 5, 5), Conv(5, 3), BatchNorm(), train=True)
    passes.fold_batchnorm(graph)
    assert _kinds(graph) == ["Conv2d", "BatchNormTrain"]


def test_nothing_is_folded_where_others_read_what_is_between():
    graph, (_, between, normal) = _chain((1, 3, 4, 4), Conv(3, 1), BatchNorm())
    graph.outputs["y"] = Add().apply(graph, "add", between, normal, train=False)
    passes.fold_batchnorm(graph)
    assert _kinds(graph) == ["Conv2d", "BatchNormInfer", "Add"]
    graph, (_, between, _) = _chain((1, 3, 4, 4), Conv(3, 1), BatchNorm())
    graph.outputs["between"] = between
    passes.fold_batchnorm(graph)
    assert _kinds(graph) == ["Conv2d", "BatchNormInfer"]


def test_factors_of_a_transposed_filter_run_along_its_second_axis_group_by_group():
    scaled = scale_filter(np.ones((4, 3, 1, 1)), np.arange(6.0), groups=2, swap=True)
    assert scaled[:, :, 0, 0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]


def test_statistics_hold_where_the_mean_is_large(device):
    """Variance 1 around 1000, in 2 x 12000 values: sums of squares would lose all of it in float32."""
    shape = (2, 3, 100, 120)
    x = (1000 + np.random.default_rng(0).standard_normal(shape)).astype(np.float32)
    layer = BatchNorm(momentum=1.0)
    graph, _ = _chain(shape, layer, ReLU(), train=True)
    passes.for_inference(graph, device.facts.block, fold=False)
    assert _kinds(graph) == ["ToBlocks", "BatchNormTrain", "ToPlain"]
    session = Session(device)
    try:
        session.load(graph.persistent, {"bn0.weight": np.ones(3, np.float32)})
        y = session.run(make_plan(graph, device.facts), {"x": x})["y"]
        mean, var = session.read("bn0.running_mean"), session.read("bn0.running_var")
    finally:
        session.release()
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=2e-7)
    np.testing.assert_allclose(var, wide.var(axis=(0, 2, 3), ddof=1), rtol=2e-6)
    normal = (wide - wide.mean(axis=(0, 2, 3), keepdims=True)) / wide.std(axis=(0, 2, 3), keepdims=True)
    np.testing.assert_allclose(y, np.maximum(normal, 0), atol=1.5e-4)  # the mean is rounded to 6e-5
