"""The pattern language: what it reads, what it prints, and where its errors point."""

import random
import re

import pytest

from clconv.errors import ArgumentError, PatternError
from clconv.nn import (
    FC,
    LRN,
    Add,
    AvgPool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Input,
    L2Pool,
    LeakyReLU,
    Local,
    MaxPool,
    Network,
    ReLU,
    ReLU6,
    Sigmoid,
    Softmax,
    Tanh,
)
from clconv.nn.pattern import MAX_LAYERS, parse, to_pattern


def read(items, size="32x32x4"):
    """The network of some items behind an input."""
    return parse(f"INPUT {size} -> {items}")


def chain(*layers, shape=(4, 32, 32)):
    return Network.chain(layers, shape)


LAYERS = [
    ("CONV 3x3x8", Conv(8, 3, pad=1)),
    ("CONV 1x1x8", Conv(8, 1)),
    ("CONV 5x3x8", Conv(8, (5, 3), pad=(2, 1))),
    ("CONV 2x2x8/2 p0", Conv(8, 2, stride=2)),
    ("CONV 4x4x8/2 p1", Conv(8, 4, stride=2, pad=1)),
    ("CONV 3x4x8/1x2 p1", Conv(8, (3, 4), stride=(1, 2), pad=1)),
    ("CONV 3x3x8 p1x0", Conv(8, 3, pad=(1, 0))),
    ("CONV 3x2x8 p0:1x2:3", Conv(8, (3, 2), pad=((0, 1), (2, 3)))),
    ("CONV 3x3x8 d2", Conv(8, 3, pad=2, dilation=2)),
    ("CONV 2x2x8 d2", Conv(8, 2, pad=1, dilation=2)),
    ("CONV 3x3x8 d2x1", Conv(8, 3, pad=(2, 1), dilation=(2, 1))),
    ("CONV 3x3x8 g4 nobias", Conv(8, 3, pad=1, groups=4, bias=False)),
    ("CONV 3x3x8/2 floor", Conv(8, 3, stride=2, pad=1, rounding="floor")),
    ("CONV 3x3x8/2 ceil", Conv(8, 3, stride=2, pad=1, rounding="ceil")),
    ("DECONV 2x2x8/2", ConvTranspose(8, 2, stride=2)),
    ("DECONV 4x4x8/2", ConvTranspose(8, 4, stride=2, pad=1)),
    ("DECONV 3x3x8", ConvTranspose(8, 3, pad=1)),
    (
        "DECONV 3x3x8/2 p1 output_pad=1 g2 nobias",
        ConvTranspose(8, 3, stride=2, pad=1, output_pad=1, groups=2, bias=False),
    ),
    ("POOL", MaxPool()),
    ("POOL 2x2/1", MaxPool(2, 1)),
    ("POOL 4x4", MaxPool(4)),
    ("POOL 3x3/2 p1 floor", MaxPool(3, 2, pad=1, rounding="floor")),
    ("POOL 2x4", MaxPool((2, 4))),
    ("POOL avg", AvgPool()),
    ("POOL avg 3x3/1 p1 countpad", AvgPool(3, 1, pad=1, count_pad=True)),
    ("POOL l2 2x2/1", L2Pool(2, 1)),
    ("GAP", GlobalAvgPool()),
    ("FC 10", FC(10)),
    ("FC 10 nobias", FC(10, bias=False)),
    ("LOCAL 3x3x2", Local(2, 3, pad=1)),
    ("LOCAL 2x2x2/2 p0 nobias", Local(2, 2, stride=2, bias=False)),
    ("RELU", ReLU()),
    ("LEAKYRELU", LeakyReLU()),
    ("LEAKYRELU 0.1", LeakyReLU(0.1)),
    ("RELU6", ReLU6()),
    ("SIGMOID", Sigmoid()),
    ("TANH", Tanh()),
    ("LRN", LRN()),
    ("LRN size=3 alpha=1e-05 beta=0.5 k=2.0 within", LRN(3, 1e-5, 0.5, 2.0, "within")),
    ("BN", BatchNorm()),
    ("BN momentum=0.2 eps=0.001", BatchNorm(0.2, 1e-3)),
    ("DROPOUT", Dropout()),
    ("DROPOUT 0.25", Dropout(0.25)),
    ("FLATTEN", Flatten()),
    ("SOFTMAX", Softmax()),
    ("RELU name=a-1.b", ReLU(name="a-1.b")),
]


@pytest.mark.parametrize(("text", "layer"), LAYERS, ids=[text for text, _ in LAYERS])
def test_layer_is_read_and_printed(text, layer):
    network = chain(layer)
    assert read(text) == network
    assert to_pattern(network) == f"INPUT 32x32x4 -> {text}"


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("conv3X3x8/2 FLOOR", "CONV 3x3x8/2 floor"),
        ("conv 3 x 3 x 8 / 2 p 1 floor", "CONV 3x3x8/2 floor"),
        ("CONV 3x3x8 rounding=floor stride=2 pad=1", "CONV 3x3x8/2 floor"),
        ('CONV 3x3x8 rounding="floor" stride=2', "CONV 3x3x8/2 floor"),
        ("CONV 3x3x8 bias=false", "CONV 3x3x8 nobias"),
        ("MAXPOOL 2x2", "POOL"),
        ("POOL max 2x2/2", "POOL"),
        ("Pool avg2x2", "POOL avg"),
        ("L2POOL", "POOL l2"),
        ("POOL global", "GAP"),
        ("globalavgpool", "GAP"),
        ("BatchNorm", "BN"),
        ("ConvTranspose 2x2x4/2", "DECONV 2x2x4/2"),
        ("FC10", "FC 10"),
        ("DROPOUT .25", "DROPOUT 0.25"),
        ("LRN region=within", "LRN within"),
        ("RELU\n  ->\n\tTANH", "RELU -> TANH"),
        ("[RELU]", "RELU"),
        ("[RELU]*1 -> [TANH]*0", "RELU"),
        ("[RELU -> [TANH]*2]*2", "RELU -> TANH -> TANH -> RELU -> TANH -> TANH"),
    ],
)
def test_spellings(text, means):
    assert read(text) == read(means)


def test_input_is_width_height_channels():
    assert parse("input 30x20x3 -> FC 1").input_shape == (3, 20, 30)
    assert to_pattern(chain(FC(1), shape=(3, 20, 30))) == "INPUT 30x20x3 -> FC 1"


def filters(network):
    return [entry.layer.filters for entry in network.entries if isinstance(entry.layer, Conv)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[CONV 3x3x{32,64,128} -> RELU]*2 -> POOL]*3", [32, 32, 64, 64, 128, 128]),
        ("[[CONV 3x3x{1,2} -> RELU]*2 -> POOL]*3", [1, 2, 1, 2, 1, 2]),
        ("[[CONV 3x3x{1,2}]*2]*2", [1, 2, 1, 2]),  # the nearest
        ("[[CONV 3x3x{1,2,3}]*{1,2,0} -> RELU]*3", [1, 2, 2]),
        ("[CONV {1,3}x{1,5}x{7,8}]*2", [7, 8]),
        ("[CONV 1x1x{ 5 }]", [5]),
    ],
)
def test_lists_belong_to_the_nearest_group_with_as_many(text, expected):
    assert filters(read(text)) == expected


def test_lists_stand_for_any_number():
    network = read("[CONV 3x3x4 p{0,1} -> LEAKYRELU {0.1,0.2} -> LRN size={3,5} -> DROPOUT {0.1,0.5}]*2 -> FC 3")
    assert [entry.layer.pad for entry in network.entries if isinstance(entry.layer, Conv)] == [0, 1]
    assert [e.layer.slope for e in network.entries if isinstance(e.layer, LeakyReLU)] == [0.1, 0.2]


def test_the_notes_pattern():
    network = parse("INPUT 32x32x3 -> [[CONV 3x3x{32,64,128} -> RELU]*2 -> POOL]*3 -> [FC 256 -> RELU] -> FC 10")
    assert [entry.name for entry in network.entries][:6] == "conv1 relu1 conv2 relu2 pool1 conv3".split()
    assert network.entries[-1].name == "fc2" and len(network.entries) == 18


# The pattern with "^" in front of the character that the error points at, and a part of its message.
WRONG = [
    ("^", "there is nothing; a pattern begins with INPUT WxHxD"),
    ("  ^", "there is nothing"),
    ("^CONV 3x3x8", "a pattern begins with INPUT WxHxD, as in INPUT 32x32x3"),
    ("INPUT^", r"the width (a whole number) is expected; the pattern ends here"),
    ("INPUT 32x32 ^-> FC 1", '"x" and the number of channels are expected (INPUT WxHxD)'),
    ("INPUT 32x32x3^", '"->" is expected after the input'),
    ("INPUT 32x32x3 ^RELU", '"->" is expected after the input; "RELU" stands here'),
    ("INPUT ^0x32x3 -> RELU", "width, height and channels are whole numbers from 1"),
    ("INPUT ^{3}x32x3 -> RELU", "the input has one size"),
    ("INPUT 8x8x3 ->^", "a layer or a group in brackets is expected; the pattern ends here"),
    ("INPUT 8x8x3 -> RELU -> ^-> RELU", 'is expected; "->" stands here'),
    ("INPUT 8x8x3 -> RELU -> ^INPUT 8x8x3", "INPUT comes once, and first"),
    ("INPUT 8x8x3 -> ^CONVV 3x3x8", "there is no layer CONVV; CONV or"),
    ("INPUT 8x8x3 -> ^DROPUOT", "there is no layer DROPUOT; DROPOUT"),
    ("INPUT 8x8x3 -> ^QQQQ", "there is no layer QQQQ; there are ADD, AVGPOOL"),
    ("INPUT 8x8x3 -> ^ADD", "ADD joins several inputs, but a pattern is a chain"),
    ("INPUT 8x8x3 -> CONV^", "the window's rows (a whole number) is expected"),
    ("INPUT 8x8x3 -> CONV 3x3 ^-> RELU", '"x" and the number of filters are expected (CONV FxFxK'),
    ("INPUT 8x8x3 -> CONV 3x3x^-8", 'the number of filters (a whole number) is expected; "-" stands here'),
    ("INPUT 8x8x3 -> CONV 3x3x^8.5", "the number of filters must be a whole number"),
    ("INPUT 8x8x3 -> FC ^1234567890123456", "FC's units: 1234567890123456 is too large"),
    ("INPUT 8x8x3 -> ^CONV 3x3x0", "conv: filters: 0 is not a whole number >= 1"),
    ("INPUT 8x8x3 -> ^CONV 2x2x8", "with a 2x2 window no padding, alike on all sides, keeps the size; give one"),
    ("INPUT 8x8x3 -> ^DECONV 3x3x8/2", "makes the size S times as large; give one"),
    ("INPUT 8x8x3 -> CONV 3x3x8 p1 ^p2", "CONV's pad is given twice"),
    ("INPUT 8x8x3 -> CONV 3x3x8 ^q2", '"q" is no option here; CONV FxFxK [/S] [pP] [dD] [gG] [nobias]'),
    ("INPUT 8x8x3 -> CONV 3x3x8 ^RELU", '"->" is expected between layers; "RELU" stands here'),
    ("INPUT 8x8x3 -> FC 10^/2", "FC takes no stride: FC K [nobias]"),
    ("INPUT 8x8x3 -> RELU ^floor", "RELU takes no rounding: RELU"),
    ("INPUT 8x8x3 -> FC 10 ^size=3", "FC has no argument size; it takes bias, name, units"),
    ("INPUT 8x8x3 -> RELU ^5", '"->" is expected between layers; "5" stands here'),
    ("INPUT 8x8x3 -> LRN size=^2.5", "the size must be a whole number"),
    ('INPUT 8x8x3 -> POOL rounding="floor ^', "a quotation mark is expected"),
    ("INPUT 8x8x3 -> ^POOL rounding=up", '\'up\' is not "exact", "floor" or "ceil"'),
    ("INPUT 8x8x3 -> ^DROPOUT 1.5", "dropout: rate: 1.5 is not a number in [0, 1)"),
    ("INPUT 8x8x3 -> POOL^? -> RELU", '"?" (optional, in the notes) is to be decided'),
    ("INPUT 8x8x3 -> RELU ^*2", "only groups are repeated: write [...]*N"),
    ("INPUT 8x8x3 -> [RELU]*^x", 'how often (a whole number) is expected; "x" stands here'),
    ("INPUT 8x8x3 -> [^] -> RELU", "a layer or a group in brackets is expected"),
    ("INPUT 8x8x3 -> [[RELU]*2 -> TANH^", '"]" is missing'),
    ("INPUT 8x8x3 -> [RELU]^]*2", 'this "]" closes no "["'),
    ("INPUT 8x8x3 -> [RELU]*0^", "no layer is left: every group is repeated 0 times"),
    ("INPUT 8x8x3 -> FC ^{1,2,3}", "a list of 3 needs a group around it that is repeated 3 times; there is no group"),
    ("INPUT 8x8x3 -> [[FC ^{1,2,3}]*2]*4", "those around it are repeated 2 times and 4 times"),
    ("INPUT 8x8x3 -> [FC {1,2^", '"," or "}" is expected in the list'),
    ("INPUT 8x8x3 -> [^RELU name=a]*2", "the name a is used twice, or reserved"),
    ("INPUT 8x8x3 -> ^RELU name=input", "the name input is used twice, or reserved"),
    ("INPUT 9x9x3 -> ^POOL", "windows of 2 at stride 2 do not tile 0+9+0 elements: (9 - 2 + 0)/2 + 1 = 4.5; stride="),
    (
        "INPUT 8x8x3 -> [[CONV 3x3x4 -> RELU]*2 -> ^POOL]*5",
        "only 0+1+0 are there (kernel=2, dilation=1); enlarge the input or the padding (repetition 4 of 5)",
    ),
    ("INPUT 8x8x3 -> [[^CONV 3x3x4 p0]*3 -> RELU]*2", "(repetition 2 of 2, in it 1 of 3)"),
    ("INPUT 8x8x3 -> [^RELU]*99999", f"more than {MAX_LAYERS} layers"),
    ("INPUT 8x8x3 -> [^[RELU]*0]*99999", f"more than {MAX_LAYERS} layers"),
    ("INPUT 8x8x3 -> " + "[" * 30 + "^[" + "]" * 31, "groups are nested more than 30 deep"),
]


@pytest.mark.parametrize(("marked", "message"), WRONG, ids=[text or "nothing" for text, _ in WRONG])
def test_errors_point_at_the_character(marked, message):
    position, text = marked.index("^"), marked.replace("^", "")
    with pytest.raises(PatternError, match=re.escape(message)) as caught:
        parse(text)
    assert caught.value.position == position
    assert caught.value.pattern == text
    *_, shown, caret = str(caught.value).split("\n")
    assert caret.endswith("^") and shown[len(caret) - 1 :][:1] == text[position : position + 1]


def test_what_is_no_string_is_refused():
    with pytest.raises(ArgumentError, match="pattern: list is not a string"):
        parse(["RELU"])


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("[CONV 3x3x8 -> RELU]*3 -> FC 10", "[CONV 3x3x8 -> RELU]*3 -> FC 10"),
        ("[[CONV 3x3x8 -> RELU]*2 -> POOL]*3 -> FC 10", "[[CONV 3x3x8 -> RELU]*2 -> POOL]*3 -> FC 10"),
        ("RELU -> RELU", "[RELU]*2"),
        ("FC 1 -> FC 1", "[FC 1]*2"),
        ("[CONV 1x1x{1,2}]*2 -> RELU", "CONV 1x1x1 -> CONV 1x1x2 -> RELU"),
    ],
)
def test_repetitions_are_printed_as_groups(text, printed):
    network = read(text)
    assert to_pattern(network) == f"INPUT 32x32x4 -> {printed}"
    assert parse(to_pattern(network)) == network


def test_only_chosen_names_are_printed():
    network = chain(Conv(4, 1, name="first"), ReLU(), Conv(4, 1))
    assert to_pattern(network) == "INPUT 32x32x4 -> CONV 1x1x4 name=first -> RELU -> CONV 1x1x4"
    assert [entry.name for entry in network.entries] == ["first", "relu1", "conv1"]
    swapped = chain(ReLU(name="relu2"), ReLU(name="relu1"))
    assert parse(to_pattern(swapped)) == swapped


def test_what_is_no_chain_is_not_printed():
    x = Input(4, 8, 8)
    y = ReLU()(x)
    assert to_pattern(Network.of(Add()(y, Tanh()(y)))) is None
    assert to_pattern(Network.of(Add()(y, x))) is None


def test_damaged_patterns_give_pattern_errors():
    rng = random.Random(5)
    whole = "INPUT 32x32x3 -> [[CONV 3x3x{8,16,32}/1 p1 nobias -> RELU]*2 -> POOL avg 2x2]*3 -> FC 10 name=last"
    refused = 0
    for _ in range(500):
        text = list(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(2)] = rng.choice(["", "x", "3", "->", "[", "]*", "{", "p", "=", '"', "Ä", "."])
        try:
            parse("".join(text))
        except PatternError as error:
            refused += 1
            assert 0 <= error.position <= len("".join(text))
    assert refused > 300
