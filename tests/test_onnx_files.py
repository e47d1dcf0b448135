"""Damaged and hostile ONNX files: a clear error, soon, without memory, and nothing else is opened."""

import builtins
import contextlib
import resource
import sys
import time

import numpy as np
import pytest

import clconv as cc
from clconv.errors import ModelFileError
from clconv.io.onnx_file import parse_model, read_onnx
from clconv.io.onnx_network import OnnxNetwork

onnx = pytest.importorskip("onnx")
helper, F, I64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def model(nodes, initializers=(), inputs=None, outputs=None, opset=17):
    inputs = inputs or [helper.make_tensor_value_info("x", F, ["N", 3, 8, 8])]
    outputs = outputs or [helper.make_tensor_value_info("y", F, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def tensor(name, dims, data_type=F, raw=None):
    found = onnx.TensorProto(name=name, dims=dims, data_type=data_type)
    if raw is not None:
        found.raw_data = raw
    return found


def external(name, dims, location, **more):
    found = tensor(name, dims)
    found.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        found.external_data.add(key=key, value=str(value))
    return found


CONV = helper.make_node("Conv", ["x", "w"], ["y"])
RELU = helper.make_node("Relu", ["x"], ["y"])
WEIGHT = onnx.numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
GOOD = model([CONV], [WEIGHT]).SerializeToString()

BROKEN = {
    "garbage": (b"\x93\x01garbage" * 99, "not an ONNX file"),
    "empty": (b"", "not an ONNX model"),
    "zeros": (bytes(1000), "not an ONNX file"),
    "cut off": (GOOD[: len(GOOD) * 2 // 3], "not an ONNX file, or cut off"),
    "text": (b"<html>404</html>", "not an ONNX"),
    "cyclic": (
        model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
               helper.make_node("Relu", ["b"], ["y"])]),
        "cyclic",
    ),
    "its own input": (model([helper.make_node("Relu", ["y"], ["y"])]), "cyclic"),
    "nothing makes it": (model([helper.make_node("Relu", ["z"], ["y"])]), "reads 'z', which nothing makes"),
    "made twice": (model([RELU, RELU]), "made twice"),
    "2^40 elements": (model([CONV], [tensor("w", [1 << 20, 1 << 20], raw=b"1234")]), "larger than 2 GiB"),
    "2^40 elements without data": (model([CONV], [tensor("w", [1 << 40])]), "larger than 2 GiB"),
    "overflowing size": (model([CONV], [tensor("w", [1 << 62, 1 << 62], raw=b"")]), "larger than 2 GiB"),
    "negative size": (model([CONV], [tensor("w", [4, -3, 3, 3], raw=b"1234")]), "negative"),
    "too little data": (model([CONV], [tensor("w", [4, 3, 3, 3], raw=b"1234")]), "needs 432 bytes"),
    "no data": (model([CONV], [tensor("w", [4, 3, 3, 3])]), "do not agree"),
    "unknown type": (model([CONV], [tensor("w", [4], 99, raw=b"1234")]), "data type 99"),
    "constant of 2^40": (
        model([helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])],
              [onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20], np.int64), "s")]),
        "ConstantOfShape",
    ),
    "range of 2^40": (
        model([helper.make_node("Range", ["a", "b", "c"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
              [onnx.numpy_helper.from_array(np.array(v, np.int64), n)
               for n, v in (("a", 0), ("b", 1 << 40), ("c", 1))]),
        "Range",
    ),
    "expanded to 2^40": (
        model([helper.make_node("Expand", ["x", "s"], ["y"])],
              [onnx.numpy_helper.from_array(np.array([1 << 20, 1, 1 << 10, 1 << 10], np.int64), "s")]),
        "Expand",
    ),
    "padded to 2^40": (
        model([helper.make_node("Pad", ["x", "p"], ["y"])],
              [onnx.numpy_helper.from_array(np.array([0, 0, 1 << 20, 1 << 20, 0, 0, 0, 0], np.int64), "p")]),
        "Pad",
    ),
    "tiled to 2^40": (
        model([helper.make_node("Tile", ["c", "s"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])],
              [onnx.numpy_helper.from_array(np.ones(1, np.float32), "c"),
               onnx.numpy_helper.from_array(np.array([1 << 40], np.int64), "s")]),
        "Tile",
    ),
    "input of 2^40": (  # of one row: it does not come in strips
        model([RELU], inputs=[helper.make_tensor_value_info("x", F, ["N", 1 << 20, 1, 1 << 20])]),
        "4398046511104 bytes",
    ),
    "old": (model([RELU], opset=3), "opset 3 is not supported"),
    "climbing name": (model([CONV], [tensor("../../w", [1], raw=b"1234")]), "lead out of a folder"),
    "climbing name, other slashes": (model([CONV], [tensor("..\\w", [1], raw=b"1234")]), "lead out of a folder"),
    "outside": (model([CONV], [external("w", [4, 3, 3, 3], "../secret.bin")]), "only files in the model's folder"),
    "absolute": (model([CONV], [external("w", [4, 3, 3, 3], "/etc/passwd")]), "only files in the model's folder"),
    "drive": (model([CONV], [external("w", [4, 3, 3, 3], "C:\\secret")]), "only files in the model's folder"),
    "missing data": (model([CONV], [external("w", [4, 3, 3, 3], "gone.bin")]), "are missing"),
    "a folder as data": (model([CONV], [external("w", [4, 3, 3, 3], "sub")]), "are missing"),
    "a link out": (model([CONV], [external("w", [4, 3, 3, 3], "link.bin")]), "lead out of the model's folder"),
    "short data": (model([CONV], [external("w", [4, 3, 3, 3], "short.bin")]), "432 bytes are needed"),
    "far offset": (model([CONV], [external("w", [4], "short.bin", offset=1 << 60)]), "16 bytes are needed"),
    "negative offset": (model([CONV], [external("w", [4], "short.bin", offset=-8)]), "16 bytes are needed"),
    "odd offset": (model([CONV], [external("w", [4], "short.bin", offset="x")]), "no numbers"),
    "a sequence": (
        model([RELU], inputs=[helper.make_tensor_sequence_value_info("x", F, None)]), "no tensor"),
    "several inputs": (
        model([helper.make_node("Add", ["x", "z"], ["y"])],
              inputs=[helper.make_tensor_value_info(n, F, [1, 3]) for n in "xz"]),
        "has one input, the model 2",
    ),
    "whole numbers": (model([RELU], inputs=[helper.make_tensor_value_info("x", I64, [1, 3])]), "int64"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (inside / "short.bin").write_bytes(bytes(100))
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    return inside


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, folder, monkeypatch):
    found, message = BROKEN[name]
    path = folder / "m.onnx"
    path.write_bytes(found if isinstance(found, bytes) else found.SerializeToString())
    opened = []
    real = builtins.open

    def spying(file, *args, **kwargs):
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", spying)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(cc.ClconvError, match=message) as caught:
        cc.load(path).plan()
    assert time.perf_counter() - start < 1
    assert str(path) in str(caught.value) or not isinstance(caught.value, ModelFileError)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert not any("secret" in file or "passwd" in file for file in opened)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such file"):
        cc.load(tmp_path / "m.onnx")
    (tmp_path / "d.onnx").mkdir()
    with pytest.raises(ModelFileError, match="not a file"):
        cc.load(tmp_path / "d.onnx")


def test_random_damage_never_escapes(tmp_path):
    """Any file gives a network or a ClconvError."""
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    for _ in range(200):
        content = bytearray(GOOD)
        for at in rng.integers(0, len(content), 4):
            content[at] = rng.integers(0, 256)
        path.write_bytes(content[: rng.integers(1, len(content) + 1)])
        with contextlib.suppress(cc.ClconvError):
            cc.load(path).network.array_shapes()


def test_external_data_in_the_folder(folder):
    weight = np.arange(108, dtype=np.float32)
    (folder / "sub" / "w.bin").write_bytes(bytes(64) + weight.tobytes())
    (folder / "m.onnx").write_bytes(
        model([CONV], [external("w", [4, 3, 3, 3], "sub/w.bin", offset=64, length=432)]).SerializeToString()
    )
    np.testing.assert_array_equal(read_onnx(folder / "m.onnx").arrays["w"].ravel(), weight)


def test_nodes_in_any_order():
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    assert [node.op for node in parse_model(model(nodes), "m").nodes] == ["Neg", "Relu"]


def test_dead_nodes_do_not_matter():
    nodes = [RELU, helper.make_node("NoSuchOperator", ["x"], ["z"])]
    assert [node.op for node in parse_model(model(nodes), "m").nodes] == ["Relu"]


def test_what_is_missing_is_named_at_once(tmp_path):
    nodes = [
        helper.make_node("NonMaxSuppression", ["x"], ["a"], name="nms"),
        helper.make_node("Loop", ["a"], ["b"], name="loop"),
        helper.make_node("Loop", ["b"], ["y"]),
    ]
    onnx.save(model(nodes), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError) as caught:
        cc.load(tmp_path / "m.onnx")
    text = str(caught.value)
    assert "NonMaxSuppression (opset 17), 1 times, first in node 'nms'" in text
    assert "Loop (opset 17), 2 times, first in node 'loop'" in text


def test_arguments_that_are_not_supported_are_named_at_once(tmp_path):
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a", "places"], kernel_shape=[2, 2], name="pool"),
        helper.make_node("Neg", ["places"], ["z"]),
        helper.make_node("Resize", ["x", "", "s"], ["b"], mode="strange", name="grow"),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["c", "z"], ["y"]),
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    onnx.save(model(nodes, [scales]), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=r"(?s)MaxPool.*node 'pool'.*places.*Resize.*node 'grow'.*'strange'"):
        cc.load(tmp_path / "m.onnx").plan()


def known(name, *shape):
    return onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)


def node(op, *inputs, **attributes):
    return helper.make_node(op, ["x", *inputs], ["y"], **attributes)


WEIGHT, SIZES = known("w", 4, 3, 3, 3), onnx.numpy_helper.from_array(np.array([1, 3, 1 << 40, 8]), "s")
ODD = {
    "no elements": (node("Conv", "w"), [known("w", 4, 0, 3, 3)], r"shape \(4, 0, 3, 3\) has no elements"),
    "weights of volumes": (node("Conv", "w"), [known("w", 4, 3, 1, 3, 3)], "do not fit an input of 4 axes"),
    "no group": (node("Conv", "w", group=0), [WEIGHT], "group 0: 1 or more is expected"),
    "no stride": (node("MaxPool", kernel_shape=[2, 2], strides=[0, 1]), [], r"strides \(0, 1\): numbers from 1 to"),
    "a backward stride": (node("ConvTranspose", "w", strides=[1, -2]), [known("w", 3, 4, 3, 3)], r"strides \(1, -2\)"),
    "a huge window": (node("AveragePool", kernel_shape=[1 << 31, 1], auto_pad="SAME_UPPER"), [], "numbers from 1 to"),
    "a wide window": (node("Conv", "w", dilations=[1 << 24, 1]), [WEIGHT], "reaches over 33554433 elements"),
    "statistics": (node("BatchNormalization", *"abcd"), [known(i, 2) for i in "abcd"],
                   r"array of shape \(2,\) where 3 numbers are expected"),
    "no response": (node("LRN", size=0), [], "size 0: 1 or more is expected"),
    "no blocks": (node("DepthToSpace", blocksize=0), [], "blocksize 0"),
    "an axis beyond": (node("Softmax", axis=4), [], "axis 4 of a tensor with 4 axes"),
    "flattened beyond": (node("Flatten", axis=-5), [], "axis -5 of a tensor with 4 axes"),
    "an axis twice": (node("Unsqueeze", "a"), [onnx.numpy_helper.from_array(np.array([0, 0]), "a")], "name one twice"),
    "an unknown norm": (node("LpNormalization", p=3), [], "p 3: 1 and 2 are supported"),
    "an unknown way to round": (node("Resize", "", "", "s", mode="cubic", nearest_mode="up"), [SIZES],
                                "nearest_mode 'up' is unknown; round_prefer_floor, "),
    "an unknown edge": (node("Pad", "p", mode="mean"), [onnx.numpy_helper.from_array(np.ones(8, np.int64), "p")],
                        "mode 'mean' is unknown; constant, reflect"),
    "nothing to add": (helper.make_node("Sum", [], ["y"]), [], "input 0 is missing"),
    "a huge picture": (node("Resize", "", "", "s", mode="cubic"), [SIZES], "makes an array of 8796093022208 elements"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_numbers_are_refused_by_node(name):
    at_work, arrays, message = ODD[name]
    with pytest.raises(ModelFileError, match=message):
        cc.Net(OnnxNetwork(parse_model(model([at_work], arrays), "m.onnx"))).plan()


def test_a_window_of_channels_wider_than_all(device):
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    made = parse_model(model([node("LRN", size=10**9, alpha=1e9)]), "m.onnx")
    with cc.Net(OnnxNetwork(made), device=device) as net:
        expected = x / (1 + (x**2).sum(1, keepdims=True)) ** 0.75
        np.testing.assert_allclose(net.predict(x), expected, rtol=1e-5)
    with cc.Net([cc.LRN(10**9, alpha=1e9)], input_shape=(3, 8, 8), device=device) as net:
        np.testing.assert_allclose(net.predict(x), expected, rtol=1e-5)


def test_weights_that_are_computed_are_refused(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"], name="odd")]
    onnx.save(model(nodes), tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match="weight is computed while the network runs"):
        cc.load(tmp_path / "m.onnx").plan()


def test_without_the_package(monkeypatch, tmp_path):
    (tmp_path / "m.onnx").write_bytes(GOOD)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelFileError, match=r'pip install "clconv\[onnx\]"'):
        cc.load(tmp_path / "m.onnx")
