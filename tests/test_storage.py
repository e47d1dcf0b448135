"""Weights stored as float16: the bits of rounded weights in float32, half the bytes, clear refusals."""

import re

import numpy as np
import pytest
from conftest import in_class
from helpers import least, run, streaming

import clconv as cc
from clconv import fitting
from clconv.errors import ArgumentError, BudgetError

LAYERS = [
    cc.Conv(24, 5, pad=2), cc.ReLU(), cc.Conv(40, 1), cc.Sigmoid(), cc.MaxPool(2),
    cc.ConvTranspose(32, 4, stride=2, pad=1), cc.Conv(32, 3, pad=1),
    cc.Conv(36, 5, stride=2, pad=2, groups=2, rounding="floor"), cc.Conv(40, 5, pad=2),
    cc.AvgPool(2), cc.FC(130), cc.ReLU(), cc.FC(10),
]  # fmt: skip


@pytest.fixture(params=["cpu", "gpu", "streamed"])
def place(request, device, monkeypatch):
    """Each device with kernels of both classes, and as one that must be brought its weights in parts."""
    if device.facts.loop_limit and request.param != "cpu":
        pytest.skip("its compiler takes minutes; one of the three runs")
    if request.param != "streamed":
        return in_class(device, request.param, monkeypatch, has_local=True)
    monkeypatch.setattr(fitting, "PART_BYTES", (16 << 10, 4 << 10))
    return streaming(device)


@pytest.fixture
def net(place):
    layers = [*LAYERS[:5], *LAYERS[-3:]] if place.facts.loop_limit else LAYERS  # its compiler takes seconds for each
    with cc.Net(layers, input_shape=(16, 20, 20), seed=1, device=place) as net:
        yield net


def halved(net):
    """Names of what is stored as float16."""
    values = net.plan(storage="float16").graph.persistent
    return {name for name, value in values.items() if value.spec.dtype == "float16"}


def rounded(net):
    """The network with weights that were rounded on the host, all in float32."""
    names = halved(net)
    arrays = {n: a.astype(np.float16).astype(np.float32) if n in names else a for n, a in net.get_weights().items()}
    return cc.Net(net.network, device=net.device, weights=arrays)


def test_the_bits_of_rounded_weights(net, place):
    """Without a budget, in one, and with weights mapped or streamed; planned and measured are equal."""
    large = {"conv1.weight", "convtranspose1.weight", "conv4.weight", "conv5.weight", "fc1.weight"}
    assert large.intersection(net.get_weights()) <= halved(net)
    in_a_class = fitting.PART_BYTES[0] > 16 << 10
    assert "fc2.weight" not in halved(net), "small ones stay"
    x = np.random.default_rng(0).standard_normal((2, 16, 20, 20), np.float32)
    with rounded(net) as other:
        expected = other.predict(x)
        np.testing.assert_array_equal(net.predict(x, storage="float16"), expected)
        whole = net.plan(2, storage="float16")
        low = whole.peak_bytes - 64 if in_a_class else least(net, storage="float16")
        budget = (low + whole.peak_bytes) // 2
        got = net.predict(x, memory=budget, storage="float16")
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        (usage,) = net.usages
        assert usage.planned_bytes == usage.measured_bytes <= budget
    full = net.plan(2)
    saved = sum(full.graph.persistent[n].spec.nbytes(place.facts.block) // 2 for n in halved(net))
    assert abs(full.weight_bytes - whole.weight_bytes - saved) < 64 * len(halved(net)), "but for alignment"


def test_smaller_parts_fit_smaller_budgets(net, place):
    """What is brought to the device in parts is half as large, and a refusal says so."""
    if place.facts.maps_files or fitting.PART_BYTES[0] > 16 << 10:
        pytest.skip("mapped weights take nothing of a budget; parts are larger than these")
    low = least(net, storage="float16")
    assert low < least(net)
    with pytest.raises(BudgetError, match=r', (\d+) or less will do with storage="float16"') as refusal:
        net.plan(memory=64)
    told = int(re.search(r"(\d+) or less", str(refusal.value))[1])
    assert low <= told < least(net)


def test_what_float16_does_not_hold(device):
    """A weight beyond its range is refused by name; one that may be infinite or NaN stays so; tiny ones become zero."""
    with cc.Net("INPUT 8x8x16 -> FC 40", device=device) as net:
        x = np.ones((1, 16, 8, 8), np.float32)
        weights = net.get_weights()["fc1.weight"]
        weights.flat[:3] = -65504, 2.0**-24, 1e-12
        net.set_weights({"fc1.weight": weights})
        assert np.isfinite(net.predict(x, storage="float16")).all()
        weights.flat[0] = -70000
        net.set_weights({"fc1.weight": weights})
        with pytest.raises(ArgumentError, match=r"storage: fc1.weight holds 70000, beyond the 65504 of float16"):
            net.predict(x, storage="float16")
        weights.flat[0] = np.inf
        net.set_weights({"fc1.weight": weights})
        assert np.isinf(net.predict(x, storage="float16")[0, 0])
        assert np.isfinite(net.predict(x, storage="float16")[0, 1:]).all()


def test_wrong_words(net):
    with pytest.raises(ArgumentError, match=r"storage: 'int8' is no type to store in; \"float16\" would fit"):
        net.plan(storage="int8")
    with pytest.raises(ArgumentError, match=r'storage: "float16" changes results, which exact forbids'):
        net.predict(np.zeros((1, 16, 20, 20), np.float32), exact=True, storage="float16")
    with pytest.raises(ArgumentError, match=r"storage: 'half' is no type to store in"):
        net.fit(np.zeros((1, 16, 20, 20), np.float32), np.zeros(1, int), storage="half")


def test_people_see_it(device, tmp_path):
    command = ["summary", "INPUT 8x8x16 -> FC 100 -> RELU -> FC 10", "--mode", "test", "--device", device.key]
    shown = run(*command, "--storage", "float16", "--explain").stdout
    assert "of weights are float16" in shown
    refused = run(*command, "--storage", "float16", "--exact")
    assert refused.exit_code == 2
    assert "exact forbids" in refused.stderr
    wrong = run("bench", *command[1:2], "--storage", "int8")
    assert wrong.exit_code == 2
    assert "'int8' is not 'float16'" in wrong.stderr
