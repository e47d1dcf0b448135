"""What users do with networks from ONNX files: predict at any size, train, save, exchange weights."""

import numpy as np
import pytest
from helpers import close, onnx_runtime

import clconv as cc
from clconv import errors
from clconv._core.norm_batch import BatchNormInfer
from clconv.io.onnx_network import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper, F, I64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RNG = np.random.default_rng(0)


def write(path, nodes, arrays, inputs=(("x", ["N", 3, "H", "W"]),), outputs=("y",), opset=17, ir=8):
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    graph = helper.make_graph(
        [helper.make_node(op, ins, outs, **more) for op, ins, outs, more in nodes],
        "g",
        [helper.make_tensor_value_info(name, F, dims) for name, dims in inputs],
        [helper.make_tensor_value_info(name, I64 if name == "classes" else F, None) for name in outputs],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir
    onnx.save(model, path)
    return path


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.fixture
def segments(tmp_path):
    """A network for images of any size with three outputs."""
    nodes = [
        ("Conv", ["x", "w", "b"], ["a"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["n"], {}),
        ("Relu", ["n"], ["r"], {}),
        ("Conv", ["r", "v"], ["s"], {"auto_pad": "SAME_UPPER"}),
        ("Shape", ["x"], ["size"], {}),
        ("Slice", ["size", "two", "four"], ["hw"], {}),
        ("Slice", ["size", "zero", "one"], ["batch"], {}),
        ("Concat", ["batch", "four", "hw"], ["sizes"], {"axis": 0}),
        ("Resize", ["s", "", "", "sizes"], ["y"], {"mode": "linear"}),
        ("ArgMax", ["y"], ["classes"], {"axis": 1, "keepdims": 0}),
        ("GlobalAveragePool", ["r"], ["g"], {}),
        ("Flatten", ["g"], ["vector"], {}),
    ]
    arrays = {
        "w": floats(8, 3, 3, 3), "b": floats(8), "scale": floats(8), "shift": floats(8), "mean": floats(8),
        "var": np.abs(floats(8)) + 0.5, "v": floats(4, 8, 3, 3),
        "zero": np.int64([0]), "one": np.int64([1]), "two": np.int64([2]), "four": np.int64([4]),
    }  # fmt: skip
    return write(tmp_path / "m.onnx", nodes, arrays, outputs=("y", "classes", "vector"))


def test_any_size_and_batch_with_several_outputs(segments, device):
    net = cc.load(segments, device=device)
    assert net.network.input_shape == (3, 224, 224) and "ONNX" in repr(net)
    for shape in ((1, 3, 16, 24), (5, 3, 9, 7), (1, 3, 16, 24)):
        x = floats(*shape)
        found = net.predict(x, batch_size=2)
        assert list(found) == ["y", "classes", "vector"]
        y, _, vector = onnx_runtime(segments, x)
        close(found["y"], y)
        close(found["vector"], vector)
        assert found["classes"].dtype == np.int64 and (found["classes"] == found["y"].argmax(1)).all()
    assert net.predict(floats(0, 3, 8, 8))["vector"].shape == (0, 8)
    with pytest.raises(errors.ShapeError, match=r"\(N, 3, H, W\) is expected"):
        net.predict(floats(1, 4, 8, 8))
    with pytest.raises(errors.ArgumentError, match="float64"):
        net.predict(np.zeros((1, 3, 8, 8)))


def test_pixels_are_normalised(segments, device):
    net = cc.load(segments, device=device)
    pixels = RNG.integers(0, 256, (2, 10, 12, 3)).astype(np.uint8)
    x = (pixels.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    close(net.predict(pixels)["y"], net.predict(x)["y"])


@pytest.fixture
def classifier(tmp_path):
    """Matrices as (values, units), a bias as a sum, arithmetic per channel, a batch norm."""
    nodes = [
        ("Sub", ["x", "m"], ["x0"], {}),
        ("Mul", ["x0", "i"], ["x1"], {}),
        ("Conv", ["x1", "w"], ["c"], {"pads": [1, 1, 1, 1]}),
        ("Add", ["c", "cb"], ["c1"], {}),
        ("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n"], {}),
        ("Mul", ["n", "half"], ["n1"], {}),
        ("Clip", ["n1", "low", "high"], ["r"], {}),
        ("MaxPool", ["r"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Reshape", ["p", "rows"], ["f"], {}),
        ("MatMul", ["f", "v"], ["h"], {}),
        ("Add", ["h", "hb"], ["h1"], {}),
        ("Relu", ["h1"], ["h2"], {}),
        ("Dropout", ["h2"], ["h3"], {}),
        ("Gemm", ["h3", "u", "ub"], ["y"], {}),
    ]
    arrays = {
        "m": floats(1, 3, 1, 1), "i": floats(3, 1, 1), "w": floats(8, 3, 3, 3), "cb": floats(8, 1, 1),
        "scale": floats(8), "shift": floats(8), "mean": floats(8), "var": np.abs(floats(8)) + 0.5,
        "half": np.float32(0.5), "low": np.float32(0), "high": np.float32(6), "rows": np.int64([0, -1]),
        "v": floats(8 * 16, 10), "hb": floats(10), "u": floats(10, 5), "ub": floats(5),
    }  # fmt: skip
    return write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 3, 8, 8]),))


def test_arithmetic_disappears_into_weights(classifier, device):
    net = cc.load(classifier, device=device)
    x = floats(4, 3, 8, 8)
    close(net.predict(x), onnx_runtime(classifier, x)[0])
    kinds = [type(node.layer) for node in net.plan(4).graph.nodes]
    assert kinds.count(BatchNormInfer) <= 2  # the two in front of the convolution


def test_weights_by_name(classifier, device):
    net = cc.load(classifier, device=device)
    weights = net.get_weights()
    assert set(weights) == {"w", "cb", "scale", "shift", "mean", "var", "v", "hb", "u", "ub"}
    assert weights["u"].shape == (5, 10)  # (units, values), as every fully-connected layer
    net.set_weights({"u": np.zeros((5, 10), np.float32), "ub": np.arange(5, dtype=np.float32)})
    np.testing.assert_array_equal(net.predict(floats(2, 3, 8, 8)), [range(5)] * 2)
    with pytest.raises(errors.ArgumentError, match="no 'z'"):
        net.set_weights({"z": np.zeros(1)})


def test_fine_tuning_and_round_trips(classifier, tmp_path, device):
    net = cc.load(classifier, device=device)
    x, y = floats(32, 3, 8, 8), RNG.integers(0, 5, 32)
    checkpoint = tmp_path / "c.safetensors"
    history = net.fit(x, y, epochs=8, optimizer=cc.Adam(0.02), checkpoint=checkpoint, verbose=False)
    assert history.loss[-1] < history.loss[0]
    expected = net.predict(x)
    net.save(tmp_path / "out.onnx")
    close(expected, onnx_runtime(tmp_path / "out.onnx", x)[0])
    net.save(tmp_path / "out.safetensors")
    for name in ("out.onnx", "out.safetensors", "c.safetensors"):
        close(cc.load(tmp_path / name, device=device).predict(x), expected)
    resumed = cc.load(classifier, device=device)
    resumed.fit(x, y, epochs=9, optimizer=cc.Adam(0.02), checkpoint=checkpoint, resume=True, verbose=False)
    with pytest.raises(errors.ArgumentError, match="keeps its nodes"):
        net.save(tmp_path / "out.onnx", softmax=True)


def test_one_step_is_that_of_the_formula(tmp_path, device):
    nodes = [("Flatten", ["x"], ["f"], {}), ("Gemm", ["f", "w", "b"], ["y"], {})]
    arrays = {"w": floats(12, 5), "b": floats(5)}
    path = write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 3, 2, 2]),))
    net = cc.load(path, device=device)
    x, targets = floats(4, 3, 2, 2), floats(4, 5)
    dy = 2 * (x.reshape(4, 12) @ arrays["w"] + arrays["b"] - targets) / targets.size
    net.fit(x, targets, batch_size=4, loss="mse", optimizer=cc.SGD(0.5), verbose=False)
    close(net.get_weights()["w"], (arrays["w"] - 0.5 * x.reshape(4, 12).T @ dy).T)
    close(net.get_weights()["b"], arrays["b"] - 0.5 * dy.sum(0))


def test_what_has_no_gradient_says_so(tmp_path):
    nodes = [("Conv", ["x", "w"], ["a"], {}), ("Floor", ["a"], ["b"], {}), ("ArgMax", ["b"], ["y"], {"axis": 1})]
    path = write(tmp_path / "m.onnx", nodes, {"w": floats(4, 3, 3, 3)}, (("x", ["N", 3, 4, 4]),))
    with pytest.raises(errors.ClconvError):
        cc.load(path).fit(floats(2, 3, 4, 4), np.array([0, 1]), verbose=False)


def test_a_bias_is_not_given_to_others(tmp_path, device):
    """The sum of a convolution and a constant may use the bias only if nobody else reads the convolution."""
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Identity", ["c"], ["i"], {}),
        ("Add", ["i", "b"], ["s"], {}),
        ("Relu", ["c"], ["r"], {}),
        ("Add", ["s", "r"], ["y"], {}),
    ]
    arrays = {"w": floats(4, 3, 3, 3), "b": floats(4, 1, 1)}
    path = write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 3, 8, 8]),))
    x = floats(2, 3, 8, 8)
    close(cc.load(path, device=device).predict(x), onnx_runtime(path, x)[0])


def test_one_array_read_in_two_ways(tmp_path, device):
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"pads": [1, 1, 1, 1]}),
        ("ConvTranspose", ["a", "w"], ["b"], {"pads": [1, 1, 1, 1]}),
        ("Conv", ["b", "w"], ["c"], {}),
        ("Reshape", ["w", "flat"], ["f"], {}),
        ("Conv", ["c", "f"], ["y"], {}),
    ]
    arrays = {"w": floats(3, 3, 3, 3), "flat": np.int64([27, 3, 1, 1])}
    path = write(tmp_path / "m.onnx", nodes, arrays, (("x", [2, 3, 8, 8]),))
    x = floats(2, 3, 8, 8)
    net = cc.load(path, device=device)
    close(net.predict(x), onnx_runtime(path, x)[0])
    net.set_weights({"w": 2 * net.get_weights()["w"]})
    net.save(path)
    close(cc.load(path, device=device).predict(x), onnx_runtime(path, x)[0])


def test_fixed_batch(tmp_path, device):
    path = write(tmp_path / "m.onnx", [("Relu", ["x"], ["y"], {})], {}, (("x", [2, 3, 4, 4]),))
    net = cc.load(path, device=device)
    x = floats(5, 3, 4, 4)
    np.testing.assert_array_equal(net.predict(x), np.maximum(x, 0))
    with pytest.raises(errors.ShapeError, match="batches of 2, not 3"):
        net.network.graph(3, train=False)


def test_sequences_and_vectors(tmp_path, device):
    nodes = [
        ("Conv", ["x", "w"], ["a"], {"strides": [2]}),
        ("AveragePool", ["a"], ["p"], {"kernel_shape": [3], "pads": [1, 1]}),
        ("PRelu", ["p", "s"], ["r"], {}),
        ("ReduceMean", ["r"], ["y"], {"axes": [2], "keepdims": 0}),
    ]
    arrays = {"w": floats(4, 3, 5), "s": floats(4, 1)}
    path = write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 3, 21]),))
    x = floats(3, 3, 21)
    close(cc.load(path, device=device).predict(x), onnx_runtime(path, x)[0])


def test_outputs_without_a_batch(tmp_path, device):
    path = write(tmp_path / "m.onnx", [("ReduceSum", ["x"], ["y"], {"keepdims": 0})], {}, (("x", ["N", 3]),))
    net = cc.load(path, device=device)
    x = floats(3, 3)
    np.testing.assert_allclose(net.predict(x), x.sum(), rtol=1e-5)
    with pytest.raises(errors.ShapeError, match="no part for each of"):
        net.predict(x, batch_size=1)


def test_conditions_known_beforehand(tmp_path, device):
    """PyTorch writes squeeze as a question about the shape."""

    def branch(*nodes):
        made = [helper.make_node(op, ins, outs, **more) for op, ins, outs, more in nodes]
        return helper.make_graph(made, "b", [], [helper.make_tensor_value_info(nodes[-1][2][0], F, None)])

    many = branch(("Neg", ["a"], ["n"], {}), ("Add", ["n", "a"], ["s"], {}), ("Sub", ["s", "b"], ["t"], {}))
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}),
        ("Shape", ["a"], ["size"], {}),
        ("Gather", ["size", "one"], ["channels"], {}),
        ("Equal", ["channels", "four"], ["is"], {}),
        ("If", ["is"], ["c"], {"then_branch": many, "else_branch": branch(("Identity", ["a"], ["i"], {}))}),
        ("Mul", ["c", "a"], ["y"], {}),
    ]
    arrays = {"w": floats(4, 3, 3, 3), "b": floats(4, 1, 1), "one": np.int64(1), "four": np.int64(4)}
    path = write(tmp_path / "m.onnx", nodes, arrays, (("x", ["N", 3, 8, 8]),))
    x = floats(2, 3, 8, 8)
    close(cc.load(path, device=device).predict(x), onnx_runtime(path, x)[0])


def test_equality_is_identity(segments):
    a, b = (cc.load(segments).network for _ in range(2))
    assert isinstance(a, OnnxNetwork) and a != b and a == a and len({a, b}) == 2


MODELS = [
    "cifar10_resnet20_akamaster", "deeplabv3_mnv2_dm05_pascal_513_f32", "faststyle_udnie_f32", "mnist_cntk_opset8",
    "mobilenet_v1_0.25_128_f32", "squeezenet1.1_f32", "super_resolution_espcn_x3", "ultraface_rfb320",
]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.parametrize("name", MODELS)
def test_real_models(name, data_folder, device):
    if device.facts.loop_limit:
        pytest.skip("this driver cuts long loops short, so layers of real networks are refused there")
    folder = next((f for f in (data_folder / "models", data_folder.parent / "models") if f.is_dir()), None)
    if folder is None:
        pytest.skip("no folder of models")
    golden = np.load(folder / "golden" / f"{name}.npz")
    net = cc.load(folder / f"{name}.onnx", device=device)
    found = net.predict(golden["x"])
    outputs = list(found.values()) if isinstance(found, dict) else [found]
    for i, y in enumerate(outputs):
        expected = golden[f"y{i}"]
        if expected.dtype.kind == "i":
            assert (y == expected).mean() > 0.9999
        else:
            close(y, expected, 1e-4)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2, 5, 4, 7), (2, 5, 9)])
def test_norms_over_whole_maps(p, shape, tmp_path, device):
    """GlobalLpPool, of which ONNX's suite has no case, against its definition; ONNX Runtime has it for images."""
    nodes = [("GlobalLpPool", ["x"], ["y"], {"p": p})]
    path = write(tmp_path / "m.onnx", nodes, {}, (("x", ["N", *shape[1:]]),))
    x = floats(*shape)
    axes = tuple(range(2, len(shape)))
    expected = (np.abs(x.astype(np.float64)) ** p).sum(axes, keepdims=True) ** (1 / p)
    close(cc.load(path, device=device).predict(x), expected.astype(np.float32))
    close(onnx_runtime(path, x)[0], expected.astype(np.float32))


@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_arithmetic_per_channel_leaves_tails_zero(op, tmp_path, device):
    """Channels that fill no block, behind what nothing folds into; the sum over channels sees what lies behind them."""
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        (op, ["b", "f"], ["c"], {}),
        ("Conv", ["c", "v"], ["y"], {}),
    ]
    arrays = {"w": floats(21, 3, 3, 3), "f": np.abs(floats(21, 1, 1)) + 0.5, "v": floats(4, 21, 1, 1)}
    path, x = write(tmp_path / "m.onnx", nodes, arrays), floats(2, 3, 6, 5)
    close(cc.load(path, device=device).predict(x), onnx_runtime(path, x)[0])
