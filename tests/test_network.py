"""Networks as descriptions: order, names, files, initial weights and what is refused."""

import json

import numpy as np
import pytest

from clconv.errors import ArgumentError, ModelFileError, ShapeError
from clconv.nn import (
    FC,
    Add,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    GlobalAvgPool,
    Input,
    LeakyReLU,
    MaxPool,
    Network,
    ReLU,
    Tanh,
    zoo,
)


def names(network):
    return [entry.name for entry in network.entries]


def residual():
    x = Input(3, 8, 8)
    y = ReLU()(Conv(4, 3, pad=1)(x))
    z = Conv(4, 3, pad=1, name="last")(y)
    return Network.of(FC(5)(Add()(z, y)))


def test_default_names_are_kind_and_number():
    network = Network.chain([Conv(4, 1), ReLU(), Conv(4, 1), MaxPool(2), FC(3)], (3, 8, 8))
    assert names(network) == ["conv1", "relu1", "conv2", "pool1", "fc1"]
    assert [entry.layer.name for entry in network.entries] == names(network)


def test_default_names_avoid_given_ones():
    network = Network.chain([Conv(4, 1), Conv(4, 1, name="conv1"), Conv(4, 1)], (3, 8, 8))
    assert names(network) == ["conv2", "conv1", "conv3"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("a", "a"), "Net: the name a is used more than once, or reserved"),
        (("input", "a"), "Net: the name input is used more than once, or reserved"),
        (("a b", "a"), r"layer name 'a b': letters, digits, '_', '-' and '.' are allowed"),
        (("", "a"), "layer name ''"),
        ((3, "a"), "layer name 3"),
    ],
)
def test_wrong_names_are_refused(chosen, message):
    with pytest.raises(ArgumentError, match=message):
        Network.chain([ReLU(name=name) for name in chosen], (3, 8, 8))


def test_each_call_of_a_layer_is_a_layer():
    conv = Conv(3, 3, pad=1)
    network = Network.of(conv(conv(Input(3, 8, 8))))
    assert names(network) == ["conv1", "conv2"]
    assert len(network.array_shapes()) == 4


def test_layers_run_after_what_they_read():
    x = Input(3, 8, 8)
    left = ReLU(name="left")(x)
    right = Tanh(name="right")(Tanh(name="before")(x))
    both = Concat(name="both")(right, left)
    network = Network.of(Add(name="sum")(both, Concat(name="again")(left, right)))
    assert names(network) == ["before", "right", "left", "both", "again", "sum"]
    assert network.entries[3].inputs == ("right", "left") and network.entries[0].inputs == ("input",)
    known = {"input"}
    for entry in zoo.mobilenetv2().entries:
        assert known.issuperset(entry.inputs)
        known.add(entry.name)


def test_a_long_chain_is_no_problem():
    assert len(Network.chain([ReLU()] * 5000, (1, 1, 1)).entries) == 5000


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Conv(4, 3, pad=1), Conv(4, (3, 3), stride=(1, 1), pad=((1, 1), (1, 1)))),
        (Conv(4, 3, pad=(1, 0)), Conv(4, 3, pad=((1, 1), (0, 0)))),
        (Conv(4, [3, 3], pad=[1, 0]), Conv(4, 3, pad=(1, 0))),
        (Conv(np.int64(4), np.array([3, 3]), pad=np.int32(1)), Conv(4, 3, pad=1)),
        (MaxPool(2), MaxPool(2, 2)),
        (MaxPool((2, 4)), MaxPool((2, 4), (2, 4))),
    ],
)
def test_spelling_of_arguments_does_not_matter(a, b):
    assert Network.chain([a], (3, 8, 8)) == Network.chain([b], np.array((3, 8, 8)))
    assert hash(a) and Network.from_json(Network.chain([a], (3, 8, 8)).to_json(), "here").entries


def test_uneven_padding_stays():
    uneven = Network.chain([Conv(4, 2, pad=((0, 1), (0, 1)))], (3, 8, 8))
    assert uneven != Network.chain([Conv(4, 2, pad=(0, 1))], (3, 8, 8))
    assert uneven.graph(1, train=False).outputs["y"].spec.shape == (1, 4, 8, 8)


@pytest.mark.parametrize("network", [residual(), zoo.lenet(), zoo.squeezenet(), zoo.unet(size=32)])
def test_json_round_trip(network):
    text = network.to_json()
    assert Network.from_json(text, "file") == network
    assert Network.from_json(text, "file").to_json() == text


def described(**changes):
    return json.dumps({**json.loads(residual().to_json()), **changes})


def with_layer(index=0, **changes):
    layers = json.loads(residual().to_json())["layers"]
    layers[index].update(changes)
    return described(layers=layers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m: not a network description"),
        ("[]", "m: not a network description"),
        ("7", "m: not a network description"),
        ("{}", "m: not a network description: 'format'"),
        (described(format=2), r"^m: format 2 is newer than this clconv reads \(1\)$"),
        (described(format="x"), "m: not a network description"),
        (described(input_shape=[3, 8]), r"input_shape \[3, 8\] is not \(C, H, W\)"),
        (described(input_shape=[3, 0, 8]), r"\(3, 0, 8\) is no image shape"),
        (described(input_shape=[3, 8.5, 8]), r"\(3, 8.5, 8\) is no image shape"),
        (described(input_shape=None), "m: not a network description"),
        (described(layers=[]), "there is no layer"),
        (described(layers=[1]), "m: not a network description"),
        (described(layers={}), "there is no layer"),
        (with_layer(kind="Magic"), "there is no layer 'Magic'; there are Add, AvgPool"),
        (with_layer(kind=["Conv"]), "m: not a network description"),
        (with_layer(arguments={"filters": 4, "kernel": 3, "speed": 1}), "it has no argument speed"),
        (with_layer(arguments={"filters": 4}), "missing"),
        (with_layer(arguments=[]), "m: not a network description"),
        (with_layer(arguments={"filters": 0, "kernel": 3}), "filters: 0 is not a whole number"),
        (with_layer(arguments={"filters": 4, "kernel": 9}), "layer conv1: conv: window reaches over 9"),
        (with_layer(name="relu1"), "layer relu1: the name is used twice, or reserved"),
        (with_layer(name="input"), "layer input: the name is used twice, or reserved"),
        (with_layer(name=None), "layer name None"),
        (with_layer(inputs=["last"]), "layer conv1: reads last, made by no layer before it"),
        (with_layer(inputs=[]), "layer conv1: reads nothing"),
    ],
)
def test_damaged_descriptions_are_refused(text, message):
    with pytest.raises(ModelFileError, match=message):
        Network.from_json(text, "m")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Network.chain([], (3, 8, 8)), ArgumentError, "1 inputs and 0 layers; a network has one input and at"),
        (lambda: Network.chain([ReLU(), "RELU"], (3, 8, 8)), ArgumentError, "item 1 of the list is str, not a layer"),
        (lambda: Network.chain([ReLU()], (3, 8)), ShapeError, r"input_shape \(3, 8\) is not \(C, H, W\)"),
        (lambda: Network.chain([ReLU()], 3), ShapeError, r"input_shape 3 is not \(C, H, W\)"),
        (lambda: Network.chain([ReLU()], (3, 8, -8)), ShapeError, r"\(3, 8, -8\) is no image shape"),
        (
            lambda: Network.chain([Conv(4, 3), MaxPool(2), MaxPool(2)], (3, 8, 8)),
            ShapeError,
            r"layer pool2: maxpool: windows of 2 at stride 2 do not tile 0\+3\+0 elements",
        ),
        (lambda: Network.chain([Add()], (3, 8, 8)), ArgumentError, "layer add1: add: takes 2 or more inputs, not 1"),
        (lambda: Network.of(Input(3, 8, 8)), ArgumentError, "1 inputs and 0 layers"),
        (
            lambda: Network.of(Add()(ReLU()(Input(3, 8, 8)), Input(3, 8, 8))),
            ArgumentError,
            "2 inputs and 2 layers; a network has one input",
        ),
        (lambda: Network.of(ReLU()), ArgumentError, "Net: ReLU is not the output of a layer"),
        (lambda: Conv(4, 3)(), ArgumentError, "conv: called on nothing; it takes the outputs of layers"),
        (lambda: ReLU()("x"), ArgumentError, "relu: called on str; it takes the outputs of layers"),
        (lambda: Input(3, 8, 8) + 1, ArgumentError, "add: called on int"),
        (
            lambda: Input(3, 8, 8) + Conv(3, 3)(Input(3, 8, 8)),
            ShapeError,
            r"add: input shapes \(1, 3, 8, 8\) and \(1, 3, 6, 6\) differ",
        ),
        (lambda: residual().graph(0, train=False), ArgumentError, "batch: 0 images; at least 1 is needed"),
        (
            lambda: residual().with_input((3, 8, 0)).graph(1, train=False),
            ShapeError,
            r"Input: \(3, 8, 0\) is no image shape",
        ),
        (
            lambda: Network.chain([GlobalAvgPool(), BatchNorm()], (3, 8, 8)).graph(1, train=True),
            ShapeError,
            "layer bn1: bn: training normalises over 1 value per channel",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_another_input_size():
    network = residual().with_input((3, 10, 12))
    assert network.input_shape == (3, 10, 12)
    assert network.array_shapes()["fc1.weight"] == (5, 4 * 10 * 12)


def deviation(network, name, seed=0):
    return float(network.initial(seed)[name].std())


WIDE = 64  # channels, so that the sample's deviation is close


@pytest.mark.parametrize(
    ("layers", "variance"),
    [
        ([ReLU()], 2 / (9 * WIDE)),
        ([LeakyReLU(0.5)], 2 / 1.25 / (9 * WIDE)),
        ([BatchNorm(), MaxPool(2), Dropout(), ReLU()], 2 / (9 * WIDE)),
        ([Tanh()], 2 / (9 * WIDE + 9 * WIDE)),
        ([], 2 / (9 * WIDE + 9 * WIDE)),
        ([Tanh(), ReLU()], 2 / (9 * WIDE + 9 * WIDE)),
    ],
)
def test_initial_weights_are_he_in_front_of_rectifiers_and_xavier_elsewhere(layers, variance):
    network = Network.chain([Conv(WIDE, 3, pad=1, name="w"), *layers], (WIDE, 8, 8))
    assert deviation(network, "w.weight") == pytest.approx(variance**0.5, rel=0.02)


def test_a_residual_branch_is_rectified_behind_the_sum():
    x = Input(WIDE, 8, 8)
    y = Conv(WIDE, 1, name="branch")(x)
    assert deviation(Network.of(ReLU()(y + x)), "branch.weight") == pytest.approx((2 / WIDE) ** 0.5, rel=0.05)


def test_initial_state_and_biases():
    network = Network.chain([Conv(4, 1, name="c"), BatchNorm(name="b"), ReLU()], (3, 8, 8))
    arrays = network.initial(0)
    assert {name: array.shape for name, array in arrays.items()} == network.array_shapes()
    assert (arrays["b.weight"] == 1).all() and (arrays["b.running_var"] == 1).all()
    assert not arrays["b.bias"].any() and not arrays["b.running_mean"].any() and not arrays["c.bias"].any()
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_initial_weights_depend_on_seed_and_name_only():
    short = Network.chain([Conv(4, 3, name="c"), ReLU()], (3, 8, 8))
    long = Network.chain([Conv(4, 3, name="c"), ReLU(), ConvTranspose(3, 2, name="d")], (3, 8, 8))
    first, second = short.initial(7), long.initial(7)
    assert (first["c.weight"] == second["c.weight"]).all()
    assert (first["c.weight"] != short.initial(8)["c.weight"]).any()
    renamed = Network.chain([Conv(4, 3, name="e"), ReLU()], (3, 8, 8))
    assert (first["c.weight"] != renamed.initial(7)["e.weight"]).any()


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(ArgumentError, match=r"seed: .* is not a whole number >= 0"):
        residual().initial(seed)
