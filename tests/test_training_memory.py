"""Training in less memory: what is rewritten changes no bits, and what fits is known beforehand."""

import numpy as np
import pytest

import clconv as cc
from clconv import passes
from clconv.train import step
from clconv.train.trainer import Trainer

# Pooling behind activations whose slope is 0 or 1, overlapping windows, and a fire module in front of one.
POOLED = (
    "INPUT 12x12x3 -> CONV 3x3x16 -> RELU -> POOL 3x3/2 p1 floor -> CONV 3x3x24 -> RELU6 -> POOL -> [FC 20 -> RELU] "
    "-> FC 5"
)


def fire():
    """Two activated branches, joined and pooled: what SqueezeNet is made of."""
    x = cc.Input(3, 12, 12)
    squeezed = cc.ReLU()(cc.Conv(16, 1)(x))
    left = cc.ReLU()(cc.Conv(16, 1)(squeezed))
    right = cc.ReLU()(cc.Conv(32, 3, pad=1)(squeezed))
    joined = cc.MaxPool(3, 2, rounding="ceil")(cc.Concat()(left, right))
    return cc.Net(cc.FC(5)(joined)).network


def batch(network, n=6, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *network.input_shape), dtype=np.float32)
    return x, rng.integers(0, network.output_shape[0], n).astype(np.int32)


def trained(device, network, optimizer, x, y, steps=2, **settings):
    """Losses and all arrays, optimizer state included, after some steps on the same images."""
    trainer = Trainer(network, device, "softmax", optimizer, seed=4, **settings)
    try:
        trainer.prepare(network.initial(1), {"train": {len(x)}})
        losses = [trainer.step(x, y, optimizer.rate)[0] for _ in range(steps)]
        assert trainer.session.allocator.peak_bytes == trainer.peak_bytes
        return losses, {**trainer.arrays(), **trainer.optimizer_arrays()}
    finally:
        trainer.release()


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        assert np.array_equal(found[1][name], array), name


OPTIMIZERS = [
    cc.SGD(0.05),
    cc.SGD(0.05, 0.01, momentum=0.9),
    cc.SGD(0.05, momentum=0.9, nesterov=True),
    cc.Adagrad(0.01),
    cc.RMSProp(0.001, 0.01),
    cc.Adam(0.001),
]


@pytest.mark.parametrize("network", [cc.Net(POOLED).network, fire()], ids=["pooled", "fire"])
def test_slopes_are_taken_elsewhere_with_the_same_bits(device, monkeypatch, network):
    x, y = batch(network)
    peak = step_peak(device, network)
    found = trained(device, network, cc.SGD(0.05, momentum=0.9), x, y)
    monkeypatch.setattr(passes, "move_masks", lambda graph: None)
    assert step_peak(device, network) > peak
    assert_same(found, trained(device, network, cc.SGD(0.05, momentum=0.9), x, y))


def step_peak(device, network):
    return Trainer(network, device, "softmax", cc.SGD(0.05, momentum=0.9)).plan("train", 64).peak_bytes


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.rule)
def test_a_step_from_the_sums_has_the_bits_of_a_step_from_the_gradient(device, monkeypatch, optimizer):
    network = cc.Net(POOLED).network
    x, y = batch(network)
    nodes = step.training_graph(network, len(x), "softmax", optimizer).nodes
    assert sum(node.layer.outputs == () and "dy" in node.layer.inputs for node in nodes) == 4  # all four weights
    found = trained(device, network, optimizer, x, y, 3)
    monkeypatch.setattr(passes, "fuse_updates", lambda graph: None)
    assert_same(found, trained(device, network, optimizer, x, y, 3))
