"""The largest values along an axis, against NumPy."""

import numpy as np
import pytest

from clconv._core.plain_sort import TopK
from clconv.errors import ShapeError
from clconv.graph import Graph
from clconv.selftest import run_guarded
from clconv.shapes import TensorSpec


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("shape, axis, k", [((40,), 0, 5), ((3, 9, 4), 1, 9), ((2, 70), -1, 1), ((1, 1), 1, 1)])
def test_the_first_in_order(shape, axis, k, largest, device):
    """Whole numbers with many equals, zeros of both signs, infinities."""
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    x[x == 3] = np.inf
    x[(x == 0) & (np.random.default_rng(1).random(shape) < 0.5)] = -0.0
    graph = Graph()
    value = graph.input("x", TensorSpec(shape, layout="plain"))
    graph.outputs["y"], graph.outputs["indices"] = graph.add(TopK(k, axis, largest), [value], "top")
    found = run_guarded(graph, device, {"x": x}, {})
    expected = np.argsort(-x if largest else x, axis, kind="stable").take(np.arange(k), axis)
    np.testing.assert_array_equal(found["indices"], expected)
    np.testing.assert_array_equal(found["y"], np.take_along_axis(x, expected, axis))


def test_more_than_there_are():
    with pytest.raises(ShapeError, match="10 of the 9 values along axis 1; 1 to 9 would fit"):
        TopK(10, 1).infer([TensorSpec((3, 9), layout="plain")])
