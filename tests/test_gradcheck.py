"""The gradient check: it passes on right gradients and fails on wrong ones."""

import numpy as np
import pytest

from clconv import gradcheck
from clconv.errors import ArgumentError, DataError, ShapeError
from clconv.gradcheck import check_gradients, reference_forward
from clconv.net import Net
from clconv.nn import (
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    GlobalAvgPool,
    Input,
    L2Pool,
    LeakyReLU,
    Local,
    ReLU6,
    Sigmoid,
    Tanh,
)

CHAIN = "INPUT 10x8x3 -> [CONV 3x3x8 -> BN -> RELU]*2 -> POOL -> DROPOUT 0.4 -> [FC 12 -> RELU] -> FC 5"


def branching():
    """Every kind of layer that `CHAIN` has not, in a network that is no chain."""
    x = Input(3, 8, 8)
    a = ReLU6()(BatchNorm()(Conv(6, 3, pad=1, bias=False)(x)))
    b = Add()(a, Conv(6, 1)(x))
    c = Concat()(b, LeakyReLU(0.1)(Conv(5, 3, pad=1, dilation=1)(b)))
    y = ConvTranspose(4, 2, stride=2)(AvgPool(2)(LRN(alpha=0.5)(c)))
    y = L2Pool(2)(Conv(4, 3, pad=1, groups=4)(Tanh()(y)))
    return GlobalAvgPool()(Sigmoid()(Local(3, 2)(y)))


def images(net, count=4, seed=1):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, *net.network.input_shape)).astype(np.float32)
    return x, rng.integers(0, net.network.output_shape[0], count)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
@pytest.mark.parametrize("network", [CHAIN, branching()], ids=["chain", "branching"])
def test_gradients_of_all_layers_are_right(device, network, loss):
    if device.facts.loop_limit and (network != CHAIN or loss == "svm"):
        pytest.skip("slow; each layer's gradient is checked by its cases")
    net = Net(network, device=device)
    found = check_gradients(net, *images(net), loss, samples=4, seed=5)
    assert found.ok and all(c.error <= gradcheck.DOUBTFUL for c in found.parameters), str(found)
    assert [c.name for c in found.parameters] == [n for n in net.get_weights() if "running" not in n]
    assert found.loss == pytest.approx(found.reference_loss, rel=1e-5)
    assert sum(c.checked for c in found.parameters) >= 3 * len(found.parameters)


def test_squared_error_on_maps(device):
    net = Net([Conv(4, 3, pad=1), Tanh(), Conv(2, 1)], input_shape=(2, 5, 7), device=device)
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 7)).astype(np.float32)
    assert check_gradients(net, x, x[:, :, ::-1], "mse").ok


@pytest.fixture
def wrong_by(monkeypatch):
    """Makes the device's gradient of one parameter wrong by a factor."""
    right = gradcheck.device_gradients

    def arrange(name, factor):
        def wrong(*args, **kwargs):
            loss, gradients = right(*args, **kwargs)
            return loss, {**gradients, name: gradients[name] * np.float32(factor)}

        monkeypatch.setattr(gradcheck, "device_gradients", wrong)

    return arrange


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.001, "doubtful"), (1.05, "wrong"), (-1, "wrong"), (0, "wrong"), (np.nan, "wrong")]
)
def test_wrong_gradients_are_found(device, wrong_by, factor, verdict):
    net = Net(CHAIN, device=device)
    wrong_by("fc1.weight", factor)
    found = check_gradients(net, *images(net))
    verdicts = {c.name: c.verdict for c in found.parameters}
    assert verdicts.pop("fc1.weight") == verdict
    assert found.ok == (verdict == "doubtful")
    assert set(verdicts.values()) == {"good"}


def test_kinks_are_left_out(device):
    net = Net("INPUT 1x1x1 -> CONV 1x1x3 -> RELU -> FC 2", device=device)
    net.set_weights({"conv1.weight": np.array([1, -1, 0.5], np.float32).reshape(3, 1, 1, 1)})
    net.set_weights({"conv1.bias": np.array([-1, 1, 0.5], np.float32)})  # the first two sit on the kink
    found = check_gradients(net, np.ones((1, 1, 1, 1), np.float32), np.array([0]))
    kinks = {c.name: (c.checked, c.kinks) for c in found.parameters}
    assert kinks["conv1.weight"] == kinks["conv1.bias"] == (1, 2)
    assert found.ok


def test_a_step_over_a_kink_is_shortened(device):
    net = Net("INPUT 1x1x1 -> CONV 1x1x1 -> RELU -> FC 2", device=device)
    net.set_weights({"conv1.weight": np.full((1, 1, 1, 1), 2e-5, np.float32)})
    x, y = np.ones((1, 1, 1, 1), np.float32), np.array([1])
    kept = check_gradients(net, x, y, step=1e-4).parameters[0]
    assert (kept.checked, kept.kinks, kept.verdict) == (1, 0, "good")


def test_the_reference_agrees_with_predict(device):
    for network in (CHAIN, branching()):
        net = Net(network, device=device, seed=3)
        x, _ = images(net, 3)
        y = reference_forward(net.network, net.get_weights(), x)
        np.testing.assert_allclose(net.predict(x), y[:, :, 0, 0], rtol=1e-4, atol=1e-5)


def test_training_mode_depends_on_the_seed():
    net = Net(CHAIN)
    x, _ = images(net)
    runs = [reference_forward(net.network, net.get_weights(), x, train=True, seed=seed) for seed in (0, 0, 1)]
    assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).any()


def test_prints_a_table(device):
    net = Net("INPUT 4x4x2 -> CONV 3x3x4 -> RELU -> FC 3", device=device)
    lines = str(check_gradients(net, *images(net))).splitlines()
    assert lines[0].startswith("parameter") and lines[2].startswith("conv1.weight")
    assert all(line.endswith("good") for line in lines[2:6])
    assert lines[6].startswith("loss ") and max(map(len, lines)) <= 110


def test_refusals():
    net = Net("INPUT 4x4x2 -> FC 3")
    x = np.zeros((2, 2, 4, 4), np.float32)
    with pytest.raises(ShapeError, match=r"^check_gradients: images of shape \(2, 4, 4\) where \(N, 2, 4, 4\)"):
        check_gradients(net, x[0], np.array([0]))
    with pytest.raises(DataError, match=r"^softmax: label 3 of image 1 is not one of the 3 classes 0\.\.2$"):
        check_gradients(net, x, np.array([0, 3]))
    with pytest.raises(ShapeError, match=r"^check_gradients: 2 images but 1 labels; each image needs one$"):
        check_gradients(net, x, np.array([0]))
    with pytest.raises(ShapeError, match=r"targets of shape \(2, 4\) where the output has \(2, 3, 1, 1\)"):
        check_gradients(net, x, np.zeros((2, 4)), "mse")
    with pytest.raises(ArgumentError, match=r"^check_gradients: loss 'l1' is not one of softmax, svm, mse$"):
        check_gradients(net, x, np.array([0, 1]), "l1")
    with pytest.raises(ArgumentError, match=r"^check_gradients: samples=0 and step=1e-06 must be above 0$"):
        check_gradients(net, x, np.array([0, 1]), samples=0)
