"""First layers with a stride, as convolutions over the phases of the stride."""

import numpy as np
import pytest
from test_winograd import AMPLIFICATION, methods, run

import clconv as cc
from clconv import passes
from clconv.graph import Graph
from clconv.nn.base import LAYERS
from clconv.passes import strides, winograd
from clconv.planner import Segment
from clconv.reference import Case
from clconv.selftest import EPS
from clconv.shapes import TensorSpec

CASES = [
    Case("7x7 by 2", "Conv", dict(filters=32, kernel=7, stride=2, pad=3, rounding="floor"), ((2, 3, 22, 27),)),
    Case("11x11 by 4", "Conv", dict(filters=24, kernel=11, stride=4, pad=2, rounding="floor"), ((1, 3, 35, 40),)),
    Case("5x5 by 2", "Conv", dict(filters=16, kernel=5, stride=2, pad=((0, 1), (2, 0)), bias=False), ((1, 4, 14, 13),)),
    Case("9x9 by 3", "Conv", dict(filters=17, kernel=9, stride=3, rounding="floor"), ((1, 1, 27, 31),)),
]


@pytest.fixture(autouse=True)
def always(monkeypatch, device):
    if device.facts.kernels != "cpu" or not winograd.usable(device.facts):
        pytest.skip("this device does not use the method")
    monkeypatch.setattr(strides, "_pays", lambda *_: True)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_forward(device, case):
    values, graph = case.values(), Graph()
    x = graph.input("x", TensorSpec(case.shapes[0], layout="plain"))
    graph.outputs["y"] = LAYERS["Conv"](**case.attrs).apply(graph, "conv", x, train=False)
    passes.for_inference(graph, device.facts.block)
    winograd.use_winograd(graph, device.facts, train=False)
    assert methods(graph)[:2] == ["ToPhases", "WinogradConv2d"]
    arguments = (case.attrs, values.inputs, values.params, {})
    expected, _ = case.reference.forward(*arguments)
    size = case.reference.magnitude(*arguments).max()
    bound = AMPLIFICATION[6] * 2 * EPS * np.sqrt(case.reference.products(case.attrs, case.shapes)) * size
    outputs = [run(graph, device, values, pick)["y"] for pick in (lambda c: c[0], lambda c: c[-1])]
    assert np.abs(outputs[0] - expected).max() <= bound
    outputs.append(run(graph, device, values, segments=[Segment(0, 2, 8)])["y"])
    assert outputs[0].tobytes() == outputs[1].tobytes() == outputs[2].tobytes(), "bits depend on tiles or strips"


def test_where_it_does_not_pay(device, monkeypatch):
    monkeypatch.undo()
    with cc.Net("INPUT 64x64x3 -> CONV 3x3x16 /2 p1 floor -> CONV 7x7x8 /2 p3 floor -> FC 5", device=device) as net:
        assert "ToPhases" not in methods(net.plan(batch=1).graph)
