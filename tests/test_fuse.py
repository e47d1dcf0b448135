"""Sums that convolutions take into their epilogue."""

import numpy as np
import pytest

import clconv as cc
from clconv import passes
from clconv.passes import winograd


def terms(filters, stride):
    """The two branches of a residual block."""
    x = cc.Input(8, 12, 12)
    main = cc.ReLU()(cc.Conv(filters, 3, stride=stride, pad=1, rounding="floor", name="a")(x))
    main = cc.Conv(filters, 3, pad=1, name="b")(main)
    short = x if filters == 8 else cc.Conv(filters, 1, stride=stride, rounding="floor", name="c")(x)
    return main, short


@pytest.mark.parametrize("filters, stride", [(8, 1), (24, 2), (40, 1)])
def test_residual_blocks_run_as_convolutions_alone(device, filters, stride):
    main, short = terms(filters, stride)
    net = cc.Net(cc.ReLU()(cc.Add()(main, short)), device=device, seed=3)
    kinds = [type(node.layer).__name__ for node in net.plan(batch=2).graph.nodes]
    assert not {"Add", "Activation"} & set(kinds)
    x = np.random.default_rng(1).standard_normal((2, 8, 12, 12), np.float32)
    weights, branches = net.get_weights(), []
    for symbol in (main, short):
        if symbol is short and filters == 8:
            branches.append(x)
            continue
        names = ("a.", "b.") if symbol is main else ("c.",)
        part = cc.Net(symbol, device=device)
        part.set_weights({name: array for name, array in weights.items() if name.startswith(names)})
        branches.append(part.predict(x))
    np.testing.assert_array_equal(net.predict(x), np.maximum(branches[0] + branches[1], 0))


def test_gradients_are_summed_by_the_convolution_that_comes_last(device, monkeypatch):
    """In training, where two paths meet backwards, Winograd's kernel adds the gradient of the other: same bits."""
    if not winograd.usable(device.facts):
        pytest.skip("this device does not use the method")
    monkeypatch.setattr(winograd, "_sides", lambda *_: (6,))
    x = cc.Input(16, 10, 10)
    short = cc.Conv(16, 3, pad=1, name="a")(x)
    both = cc.Add()(cc.Conv(16, 3, pad=1, name="b")(short), short)
    symbol = cc.FC(3, name="c")(both)
    images = np.random.default_rng(1).standard_normal((4, 16, 10, 10), np.float32)
    trained = []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(passes, "fuse_sums", lambda graph, **_: None)
        net = cc.Net(symbol, device=device, seed=3)
        kinds = [type(node.layer).__name__ for node in net.plan(batch=4, mode="train").graph.nodes]
        assert ("Add" in kinds) is not fused
        net.fit(images, np.array([0, 1, 2, 0]), epochs=1, batch_size=4, verbose=False)
        trained.append(net.get_weights())
    assert all(array.tobytes() == trained[1][name].tobytes() for name, array in trained[0].items())
