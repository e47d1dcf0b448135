"""Convolutions of one tap with a stride, in training, over the pixels that they see."""

import numpy as np
import pytest
from test_winograd import methods

import clconv as cc
from clconv import passes
from clconv._core.pixels import SpreadPixels, TakePixels
from clconv.errors import ShapeError
from clconv.shapes import TensorSpec
from clconv.train.trainer import Trainer

IMAGES = 3


def network():
    """A residual block with a stride and odd sizes, a strided tap whose gradient meets no other, and channel tails."""
    x = cc.ReLU()(cc.Conv(20, 3, pad=1)(cc.Input(5, 13, 10)))
    main = cc.BatchNorm()(cc.Conv(24, 3, stride=2, pad=1, rounding="floor")(x))
    short = cc.Conv(24, 1, stride=2, rounding="floor", bias=False)(x)
    both = cc.ReLU()(cc.Add()(main, short))
    return cc.FC(6)(cc.Flatten()(cc.Conv(40, 1, stride=(3, 2), rounding="floor")(both)))


def trained(device):
    """What three steps leave of the weights, and the operators of a step."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((IMAGES, 5, 13, 10), np.float32)
    labels = rng.integers(0, 6, IMAGES).astype(np.int32)
    with cc.Net(network(), device=device, seed=2) as net:
        optimizer = cc.SGD(0.05, momentum=0.9)
        trainer = Trainer(net.network, device, "softmax", optimizer)
        trainer.prepare(net.get_weights(), {"train": {IMAGES}})
        for _ in range(3):
            trainer.step(x, labels, 0.05)
        operators = methods(trainer.plan("train", IMAGES).graph)
        weights = trainer.arrays()
        trainer.release()
    return weights, operators


def test_the_bits_are_the_same(device, monkeypatch):
    if device.facts.kernels != "cpu":
        pytest.skip("for kernels of the CPU class")
    taken, operators = trained(device)
    assert operators.count("TakePixels") == 4, "in front of two convolutions, and of their weight gradients"
    assert operators.count("SpreadPixels") == 2
    assert "Add" not in operators, "gradients of two paths are summed where the pixels are put back"
    monkeypatch.setattr(passes, "take_pixels", lambda *_: None)
    direct, operators = trained(device)
    assert "TakePixels" not in operators and "Add" in operators
    for name, array in taken.items():
        np.testing.assert_array_equal(array, direct[name], err_msg=name)


def test_what_does_not_fit_is_refused():
    x = TensorSpec((2, 3, 8, 9))
    assert TakePixels((2, 3), (4, 3)).infer([x])[0].shape == (2, 3, 4, 3)
    with pytest.raises(ShapeError, match=r"pixels: 5x3 of them, 2x3 apart, are more than .*8"):
        TakePixels((2, 3), (5, 3)).infer([x])
    spread = SpreadPixels((2, 3), (8, 9)).with_(adds=True)
    with pytest.raises(ShapeError, match="cannot be added to"):
        spread.infer([TensorSpec((2, 3, 4, 3)), TensorSpec((2, 3, 8, 8))])
