"""Fine-tuning: frozen parameters stay, a new head has as many outputs as asked for."""

import numpy as np
import pytest

import clconv as cc
from clconv import errors

RNG = np.random.default_rng(0)
PATTERN = "INPUT 8x8x1 -> CONV 3x3x8 -> BN -> RELU -> POOL -> FC 16 -> RELU -> FC 4"


def data(classes=4):
    return RNG.standard_normal((16, 1, 8, 8)).astype(np.float32), RNG.integers(0, classes, 16)


@pytest.fixture(params=["pattern", "onnx"])
def net(request, tmp_path, device):
    made = cc.Net(PATTERN, device=device)
    if request.param == "pattern":
        return made
    pytest.importorskip("onnx")
    made.save(tmp_path / "m.onnx")
    return cc.load(tmp_path / "m.onnx", device=device)


def test_frozen_parameters_stay(net):
    x, y = data()
    before = net.get_weights()
    net.freeze("conv1", "fc1.weight")
    net.fit(x, y, epochs=2, verbose=False)
    after = net.get_weights()
    same = {name for name in before if (before[name] == after[name]).all()}
    assert same == {"conv1.weight", "conv1.bias", "fc1.weight"}
    net.freeze()
    net.fit(x, y, verbose=False)
    assert not any((after[name] == array).all() for name, array in net.get_weights().items())


def test_new_head(net, tmp_path):
    x, y = data(7)
    before = net.get_weights()
    net.metadata["classes"] = list("abcd")
    net.replace_head(7, seed=3)
    after = net.get_weights()
    assert net.network.output_shape == (7, 1, 1) and "classes" not in net.metadata
    assert after["fc2.weight"].shape == (7, 16) and after["fc2.bias"].shape == (7,)
    assert all((before[name] == after[name]).all() for name in before if not name.startswith("fc2"))
    net.freeze("conv*", "bn*")
    net.fit(x, y, epochs=2, verbose=False)
    assert net.predict(x).shape == (16, 7)
    net.save(tmp_path / "new.safetensors")
    np.testing.assert_array_equal(cc.load(tmp_path / "new.safetensors", device=net.device).predict(x), net.predict(x))
    pytest.importorskip("onnx")
    net.save(tmp_path / "new.onnx")
    np.testing.assert_allclose(cc.load(tmp_path / "new.onnx", device=net.device).predict(x), net.predict(x), rtol=1e-5)


def test_refusals():
    net = cc.Net(PATTERN)
    with pytest.raises(errors.ArgumentError, match="'conv9' means no parameter"):
        net.freeze("conv9")
    for classes in (0, True, 2.0):
        with pytest.raises(errors.ArgumentError, match=rf"{classes} is no number of classes"):
            net.replace_head(classes)
    net.replace_head(np.int64(3))
    assert net.network.output_shape == (3, 1, 1)
    with pytest.raises(errors.ArgumentError, match="does not end in FC or Conv"):
        cc.Net("INPUT 8x8x1 -> CONV 3x3x8 -> BN").replace_head(3)
