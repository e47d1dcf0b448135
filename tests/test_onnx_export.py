"""Networks written as ONNX files: the checker accepts them, and ONNX Runtime computes the same."""

import numpy as np
import pytest
from helpers import close, images, onnx_runtime

import clconv as cc
from clconv import errors

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

BEFORE = [cc.Conv(8, 3, stride=2, pad=1, rounding="ceil"), cc.ReLU()]
NETWORKS = {
    "max pool, rounded up": [cc.MaxPool(3, 2, pad=1, rounding="ceil")],
    "average pool, rounded up": [cc.AvgPool(3, 2, rounding="ceil")],
    "average pool that counts padding, rounded up": [cc.AvgPool(3, 2, pad=1, rounding="ceil", count_pad=True)],
    "average pool that counts padding": [cc.AvgPool(3, 2, pad=1, rounding="floor", count_pad=True)],
    "average pool": [cc.AvgPool((3, 2), 2, pad=((1, 0), (0, 1)), rounding="floor")],
    "l2 pool": [cc.L2Pool(2, rounding="ceil")],
    "global average, batch norm of vectors": [cc.GlobalAvgPool(), cc.FC(4), cc.BatchNorm(), cc.Softmax()],
    "batch norm": [cc.BatchNorm(eps=1e-3), cc.ReLU()],
    "lrn": [cc.LRN(5, alpha=0.5)],
    "lrn of an even size": [cc.LRN(4, alpha=0.5)],
    "lrn within maps": [cc.LRN(4, alpha=0.5, region="within")],
    "local": [cc.Local(5, 3, stride=2, rounding="ceil")],
    "local without bias": [cc.Local(5, 3, pad=1, bias=False)],
    "transposed": [cc.ConvTranspose(6, 3, stride=2, pad=1, output_pad=1, groups=2)],
    "transposed depthwise": [cc.ConvTranspose(8, 3, stride=2, groups=8)],
    "depthwise, activations, dropout": [
        cc.Conv(8, 3, pad=1, groups=8), cc.LeakyReLU(0.1), cc.Sigmoid(), cc.Tanh(), cc.ReLU6(), cc.Dropout(0.3)],
    "dilated groups": [cc.Conv(4, 3, dilation=2, groups=2, bias=False)],
    "vector to image": [cc.Flatten(), cc.FC(7), cc.ReLU(), cc.Conv(3, 1)],
    "flat at the end": [cc.FC(7), cc.Flatten()],
    "softmax of pixels": [cc.Softmax()],
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name, tmp_path, device):
    net = cc.Net([*BEFORE, *NETWORKS[name]], input_shape=(3, 15, 17), device=device, seed=3)
    x = images(net, 2)
    net.save(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    (expected,) = onnx_runtime(tmp_path / "m.onnx", x)
    close(net.predict(x), expected)
    close(cc.load(tmp_path / "m.onnx", device=device).predict(x), expected)


def test_graph(tmp_path, device):
    x = cc.Input(3, 8, 8)
    a, b = cc.Conv(4, 3, pad=1, name="x")(x), cc.Conv(4, 1, name="y")(x)
    flat = cc.Add()(cc.GlobalAvgPool()(a), cc.FC(4)(b), cc.FC(4)(a))
    for output in (cc.Concat()(a + b, a, b), flat, cc.Concat()(flat, cc.FC(2)(b)), a + a):
        net = cc.Net(output, device=device)
        net.save(tmp_path / "m.onnx")
        (expected,) = onnx_runtime(tmp_path / "m.onnx", images(net, 2))
        close(net.predict(images(net, 2)), expected)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["lenet", "resnet18", "squeezenet", "mobilenetv2"])
def test_zoo(name, tmp_path, device):
    net = getattr(cc.zoo, name)(**({} if name == "lenet" else {"size": 64}), device=device)
    net.save(tmp_path / "m.onnx")
    (expected,) = onnx_runtime(tmp_path / "m.onnx", images(net, 2))
    close(net.predict(images(net, 2)), expected)


def test_trained_networks_predict_the_same(tmp_path, device):
    net = cc.Net("INPUT 8x8x1 -> CONV 3x3x8 -> BN -> RELU -> POOL -> DROPOUT 0.3 -> FC 4", device=device)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 1, 8, 8)).astype(np.float32), rng.integers(0, 4, 64)
    net.fit(x, y, epochs=3, verbose=False)
    net.save(tmp_path / "m.onnx")
    (expected,) = onnx_runtime(tmp_path / "m.onnx", x)
    close(net.predict(x), expected)


def test_softmax_and_preprocessing(tmp_path, device):
    net = cc.Net([cc.Conv(4, 3), cc.FC(5)], input_shape=(3, 8, 8), device=device)
    net.normalization = cc.Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    net.metadata = {"classes": list("abcde")}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8)).astype(np.uint8)
    powers = np.exp(net.predict(pixels))
    net.save(tmp_path / "m.onnx", softmax=True, preprocessing=True)
    (shares,) = onnx_runtime(tmp_path / "m.onnx", pixels.astype(np.float32))
    close(shares, powers / powers.sum(1, keepdims=True))
    again = cc.load(tmp_path / "m.onnx", device=device)
    close(again.predict(pixels), shares)
    assert again.metadata == net.metadata
    net.save(tmp_path / "plain.onnx")
    again = cc.load(tmp_path / "plain.onnx", device=device)
    assert again.normalization == net.normalization
    close(again.predict(pixels), net.predict(pixels))


def test_refusals(tmp_path, monkeypatch):
    net = cc.Net([cc.FC(5)], input_shape=(3, 8, 8))
    with pytest.raises(errors.ArgumentError, match="softmax and preprocessing are for"):
        net.save(tmp_path / "m.safetensors", softmax=True)
    path = tmp_path / "m.onnx"
    path.write_text("precious")
    monkeypatch.setattr("clconv.io.onnx_write.LIMIT_BYTES", 1 << 20)
    with pytest.raises(errors.ModelFileError, match="2 GiB or more"):
        net.save(path)
    assert path.read_text() == "precious"
    monkeypatch.undo()
    with pytest.raises(errors.ModelFileError, match="cannot be written"):
        net.save(tmp_path / "nowhere" / "m.onnx")
