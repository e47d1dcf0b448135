"""Sums that convolutions take into their epilogue."""

import numpy as np
import pytest

import clconv as cc


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
