"""`clconv summary` of ONNX files: open sizes, several inputs, parameters as they are in the file."""

import json

import numpy as np
import pytest
from helpers import run
from test_onnx_network import I64, F, floats, helper, onnx, write

import clconv as cc


@pytest.fixture
def enlarges(tmp_path):
    """Any size; a window that is transformed for Winograd's method."""
    nodes = [
        ("Conv", ["x", "w", "b"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Relu", ["c"], ["r"], {}),
        ("Resize", ["r", "", "scales"], ["y"], {"mode": "nearest"}),
    ]
    arrays = {"w": floats(16, 16, 3, 3), "b": floats(16), "scales": np.float32([1, 1, 2, 2])}
    return write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 16, "H", "W"]),))


def test_open_sizes(enlarges):
    text = run("summary", enlarges).stdout
    assert "ONNX, 3 nodes, opset 17\nreads x (N, 16, H, W) float32\ngives y (?) float32\n" in text
    assert "any size; the figures are for images of 16 x 224 x 224" in text
    found = json.loads(run("summary", enlarges, "--size", "40x30", "--batch", "2", "--json").stdout)
    assert (found["rows"][0]["shape"], found["rows"][-1]["shape"]) == ([2, 16, 30, 40], [2, 16, 60, 80])


def test_parameters_are_those_of_the_file(enlarges):
    """Not those of transformed weights, which are more, nor constants of arithmetic."""
    found = json.loads(run("summary", enlarges, "--size", "64", "--json").stdout)
    assert found["parameters"] == 16 * 16 * 9 + 16 == cc.load(enlarges).parameter_count


def test_several_inputs(tmp_path):
    nodes = [("Add", ["x", "z"], ["y"], {}), ("Conv", ["y", "w"], ["v"], {})]
    inputs = (("x", ["N", 3, 8, 8]), ("z", [1, 3, 8, 8]))
    model = write(tmp_path / "m.onnx", nodes, {"w": floats(4, 3, 3, 3)}, inputs, ("v",))
    text = run("summary", model).stdout
    assert "reads x (N, 3, 8, 8) float32; z (1, 3, 8, 8) float32" in text
    found = json.loads(run("summary", model, "--batch", "5", "--json").stdout)
    assert [(row["name"], row["shape"]) for row in found["rows"][:2]] == [("x", [5, 3, 8, 8]), ("z", [1, 3, 8, 8])]
    assert found["parameters"] == 108 and found["batch"] == 5


def test_sizes_that_an_input_decides_are_refused(tmp_path):
    infos = [helper.make_tensor_value_info("x", F, [1, 3, 8, 8]), helper.make_tensor_value_info("s", I64, [4])]
    node = helper.make_node("Reshape", ["x", "s"], ["y"])
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", F, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "m.onnx")
    result = run("summary", tmp_path / "m.onnx")
    assert result.exit_code == 2 and "its sizes depend on the values of an input" in result.stderr


def test_sizes_that_do_not_fit(tmp_path):
    nodes = [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w"], ["y"], {})]
    model = write(tmp_path / "m.onnx", nodes, {"w": floats(3 * 64, 10)})
    result = run("summary", model)
    assert result.exit_code == 2 and "rows of 150528 values, of which the matrix takes 192" in result.stderr
    assert run("summary", model, "--size", "8").exit_code == 0
    fixed = write(tmp_path / "f.onnx", [("Relu", ["x"], ["y"], {})], {}, (("x", ["N", 3, 8, 8]),))
    result = run("summary", fixed, "--size", "9x7")
    assert (
        result.exit_code == 2 and "size: images of shape (1, 3, 7, 9) where (N, 3, 8, 8) is expected" in result.stderr
    )


def test_the_image_of_layers_may_have_another_size():
    found = json.loads(run("summary", "INPUT 8x8x3 -> CONV 3x3x4 -> FC 2", "--size", "6x4", "--json").stdout)
    assert found["rows"][0]["shape"] == [1, 3, 4, 6]
