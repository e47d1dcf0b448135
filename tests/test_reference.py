"""The specification is consistent: shapes, refusals, gradients against central differences."""

from __future__ import annotations

import ast
import math
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clconv import reference
from clconv.errors import ArgumentError, ClconvError, ShapeError
from clconv.reference import CASES, LAYERS, LOSS_CASES, LOSS_REFUSED, LOSSES, REFUSED, Case, Context
from clconv.reference.dropout import kept, philox

CONTEXT = Context(seed=0x1234_5678_9ABC, step=3, layer_id=7)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shapes_and_magnitudes(case: Case) -> None:
    layer, values = case.reference, case.values()
    arguments = (case.attrs, values.inputs, values.params, values.state)
    y, state = layer.forward(*arguments, train=True, context=CONTEXT)
    dx, dparams = layer.gradient(*arguments, values.dy, context=CONTEXT)
    assert y.dtype == np.float64
    assert y.shape == layer.output_shape(case.attrs, case.shapes)
    assert [d.shape for d in dx] == list(case.shapes)
    assert {name: d.shape for name, d in dparams.items()} == layer.parameters(case.attrs, case.shapes)
    assert {name: s.shape for name, s in state.items()} == layer.state(case.attrs, case.shapes)

    slack = 1 + 1e-12
    assert np.all(layer.magnitude(*arguments, train=True, context=CONTEXT) * slack >= np.abs(y))
    dx_size, dparams_size = layer.gradient_magnitude(*arguments, values.dy, context=CONTEXT)
    assert all(np.all(size * slack + 1e-15 >= np.abs(d)) for size, d in zip(dx_size, dx, strict=True))
    assert all(np.all(dparams_size[name] * slack + 1e-15 >= np.abs(d)) for name, d in dparams.items())
    dx_terms, dparams_terms = layer.gradient_products(case.attrs, case.shapes)
    assert len(dx_terms) == len(dx)
    assert dparams_terms.keys() == dparams.keys() and layer.products(case.attrs, case.shapes) >= 1


@pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
@pytest.mark.parametrize("case", [case for case in CASES if case.small], ids=str)
def test_gradient_is_the_central_difference(case: Case, train: bool) -> None:
    """Along random directions, in which every element takes part."""
    layer, values, rng = case.reference, case.values(seed=1), np.random.default_rng(2)
    dx, dparams = layer.gradient(
        case.attrs, values.inputs, values.params, values.state, values.dy, train=train, context=CONTEXT
    )

    def objective(inputs: list[np.ndarray], params: dict[str, np.ndarray]) -> float:
        y, _ = layer.forward(case.attrs, inputs, params, values.state, train=train, context=CONTEXT)
        return math.fsum((y * values.dy).ravel())

    step = 1e-6
    for i, d in enumerate(dx):
        direction = rng.standard_normal(d.shape)
        ends = []
        for side in (step, -step):
            inputs = list(values.inputs)
            inputs[i] = inputs[i] + side * direction
            ends.append(objective(inputs, values.params))
        assert_derivative(d, direction, (ends[0] - ends[1]) / (2 * step))
    for name, d in dparams.items():
        direction = rng.standard_normal(d.shape)
        moved = [{**values.params, name: values.params[name] + s * direction} for s in (step, -step)]
        ends = [objective(values.inputs, params) for params in moved]
        assert_derivative(d, direction, (ends[0] - ends[1]) / (2 * step))


def assert_derivative(gradient: np.ndarray, direction: np.ndarray, measured: float) -> None:
    """1e-6 relative to the root of the summed squares, as terms may cancel in their sum."""
    scale = max(float(np.linalg.norm(gradient * direction)), 1e-3)
    assert abs(measured - float((gradient * direction).sum())) <= 1e-6 * scale


@pytest.mark.parametrize("refusal", REFUSED, ids=str)
def test_refused(refusal: reference.Refusal) -> None:
    layer = LAYERS[refusal.layer]
    with pytest.raises((ShapeError, ArgumentError)) as caught:
        layer.output_shape(refusal.attrs, refusal.shapes)
        assert refusal.train
        layer.check_training(refusal.attrs, refusal.shapes)
    assert re.search(refusal.message, str(caught.value)), caught.value


@pytest.mark.parametrize("layer", LAYERS)
def test_unknown_arguments_are_refused(layer: str) -> None:
    with pytest.raises(ArgumentError, match="unknown arguments"):
        LAYERS[layer].settings({"colour": 3})


def test_tables_are_complete() -> None:
    counts, small = Counter(case.layer for case in CASES), Counter(case.layer for case in CASES if case.small)
    assert counts.keys() == LAYERS.keys() == {refusal.layer for refusal in REFUSED}
    assert min(small[name] for name in LAYERS) >= 5
    assert len({str(case) for case in CASES}) == len(CASES)
    assert {case.loss for case in LOSS_CASES} == LOSSES.keys() == {refusal.loss for refusal in LOSS_REFUSED}


def test_values_are_seeded_float32_with_ties_where_whole() -> None:
    case = next(case for case in CASES if case.layer == "Conv" and case.name == "odd everything")
    a, b = case.values(seed=5), case.values(seed=5)
    assert np.array_equal(a.inputs[0], b.inputs[0]) and np.array_equal(a.dy, b.dy)
    assert not np.array_equal(a.inputs[0], case.values(seed=6).inputs[0])
    assert np.array_equal(a.inputs[0], a.inputs[0].astype(np.float32))
    assert set(np.unique(case.values(whole=True).inputs[0])) == set(range(-3, 4))


@pytest.mark.parametrize("case", [case for case in CASES if case.reference.exact], ids=str)
def test_exact_layers_stay_whole(case: Case) -> None:
    values = case.values(whole=True)
    arguments = (case.attrs, values.inputs, values.params, values.state)
    y, _ = case.reference.forward(*arguments)
    dx, dparams = case.reference.gradient(*arguments, values.dy)
    for array in (y, *dx, *dparams.values()):
        assert np.array_equal(array, np.rint(array)) and np.abs(array).max() < 2**24
    assert case.reference.magnitude(*arguments).max() < 2**24


@pytest.mark.parametrize("case", [case for case in CASES if case.reference.exact], ids=str)
def test_products_count_the_terms(case: Case) -> None:
    """Ones everywhere sum to the number of terms; a bias is one more."""
    layer, values = case.reference, case.values()
    inputs, dy = [np.ones(shape) for shape in case.shapes], np.ones_like(values.dy)
    params = {name: np.ones_like(w) for name, w in values.params.items()}
    y, _ = layer.forward(case.attrs, inputs, params, {})
    dx, dparams = layer.gradient(case.attrs, inputs, params, {}, dy)
    dx_terms, dparams_terms = layer.gradient_products(case.attrs, case.shapes)
    assert y.max() <= layer.products(case.attrs, case.shapes) + ("bias" in params)
    assert all(d.max() <= terms for d, terms in zip(dx, dx_terms, strict=True))
    assert all(d.max() <= dparams_terms[name] for name, d in dparams.items())


def test_max_pool_ties_go_to_the_first() -> None:
    x = np.zeros((1, 1, 3, 4))
    (dx,), _ = LAYERS["MaxPool"].gradient({"kernel": (3, 2)}, [x], {}, {}, np.array([[[[5.0, 7.0]]]]))
    assert dx.tolist() == [[[[5, 0, 7, 0], [0] * 4, [0] * 4]]]


def test_max_pool_never_sees_its_padding() -> None:
    y, _ = LAYERS["MaxPool"].forward({"kernel": 3, "stride": 2, "pad": 1}, [np.full((1, 1, 3, 3), -5.0)], {}, {})
    assert np.all(y == -5)


def test_max_pool_finds_places_beyond_a_byte() -> None:
    x = np.zeros((1, 1, 17, 17))
    x[0, 0, 16, 15] = 1
    (dx,), _ = LAYERS["MaxPool"].gradient({"kernel": 17}, [x], {}, {}, np.full((1, 1, 1, 1), 3.0))
    assert dx[0, 0, 16, 15] == 3 and dx.sum() == 3


@pytest.mark.parametrize(
    ("layer", "attrs", "x", "dx"),
    [
        ("ReLU", {}, [-1, 0, 2], [0, 0, 1]),
        ("LeakyReLU", {"slope": 0.25}, [-1, 0, 2], [0.25, 0.25, 1]),
        ("ReLU6", {}, [0, 6, 3], [0, 0, 1]),
        ("L2Pool", {"kernel": (1, 3)}, [0, 0, 0], [0, 0, 0]),
        ("L2Pool", {"kernel": (1, 3)}, [3, 0, 4], [0.6, 0, 0.8]),
    ],
)
def test_gradient_at_corners(layer: str, attrs: dict, x: list[float], dx: list[float]) -> None:
    inputs = [np.array(x, float).reshape(1, 1, 1, 3)]
    dy = np.ones(LAYERS[layer].output_shape(attrs, [(1, 1, 1, 3)]))
    (found,), _ = LAYERS[layer].gradient(attrs, inputs, {}, {}, dy)
    assert found.ravel() == pytest.approx(dx, rel=1e-15, abs=0)


def test_average_counts_what_is_there() -> None:
    x, attrs = np.ones((1, 1, 4, 4)), {"kernel": 3, "stride": 2, "pad": 1, "rounding": "ceil"}
    y, _ = LAYERS["AvgPool"].forward(attrs, [x], {}, {})
    assert y.shape == (1, 1, 3, 3) and np.all(y == 1)
    y, _ = LAYERS["AvgPool"].forward({**attrs, "count_pad": True}, [x], {}, {})
    # the last window holds one element of the image, and padding up to index 4 but none beyond: 1 of 2
    assert y[0, 0].tolist() == [[4 / 9, 6 / 9, 2 / 6], [6 / 9, 1, 3 / 6], [2 / 6, 3 / 6, 1 / 4]]


def test_even_lrn_window_reaches_further_ahead() -> None:
    x = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1, 1)
    y, _ = LAYERS["LRN"].forward({"size": 2, "alpha": 2, "beta": 1, "k": 1}, [x], {}, {})
    assert y.ravel() == pytest.approx([1 / (1 + 5), 2 / (1 + 13), 3 / (1 + 25), 4 / (1 + 16)])


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # Random123's known answers, philox 4x32 10
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers(counter: list[int], key: list[int], words: list[int]) -> None:
    assert [int(word) for word in philox(counter, (key[0], key[1]))] == words


@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 0.9])
def test_dropout_keeps_its_share(rate: float) -> None:
    count = 200_000
    share = kept(rate, (2, 10, 100, 100), CONTEXT).mean()
    assert abs(share - (1 - rate)) <= 4 * math.sqrt(rate * (1 - rate) / count)


def test_dropout_depends_on_seed_step_and_layer_only() -> None:
    shape, base = (2, 5, 3, 7), Context(seed=1, step=2, layer_id=3)
    mask = kept(0.5, shape, base)
    assert np.array_equal(mask, kept(0.5, shape, base))
    assert np.array_equal(mask[:1], kept(0.5, (1, 5, 3, 7), base))  # an element's number is its index
    others = [Context(9, 2, 3), Context(1 + 2**40, 2, 3), Context(1, 9, 3), Context(1, 2, 9)]
    assert all(not np.array_equal(mask, kept(0.5, shape, other)) for other in others)


def test_dropout_is_the_identity_at_test_time() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    assert np.array_equal(LAYERS["Dropout"].forward({}, [x], {}, {})[0], x)
    y, _ = LAYERS["Dropout"].forward({"rate": 0.2}, [x], {}, {}, train=True, context=CONTEXT)
    (dx,), _ = LAYERS["Dropout"].gradient({"rate": 0.2}, [x], {}, {}, x, context=CONTEXT)
    assert np.array_equal(y, dx) and set(np.unique(np.round(y / x, 9))) == {0.0, 1.25}


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_loss_gradient_is_the_central_difference(case: reference.LossCase) -> None:
    loss, (scores, labels) = LOSSES[case.loss], case.values(seed=1)
    values, dscores = loss(scores, labels)
    assert values.shape == case.shape[:1] and dscores.shape == case.shape
    direction, step = np.random.default_rng(2).standard_normal(case.shape), 1e-6
    ends = [loss(scores + side * direction, labels)[0].mean() for side in (step, -step)]
    assert_derivative(dscores, direction, (ends[0] - ends[1]) / (2 * step))


@pytest.mark.parametrize("refusal", LOSS_REFUSED, ids=str)
def test_loss_refused(refusal: reference.LossRefusal) -> None:
    with pytest.raises(ClconvError, match=refusal.message) as caught:
        LOSSES[refusal.loss](np.zeros(refusal.shape), refusal.labels)
    assert type(caught.value) is refusal.error


def test_softmax_loss_survives_large_scores() -> None:
    values, dscores = LOSSES["softmax"](np.array([[1e4, -1e4], [-1e4, 1e4]]), np.array([0, 0]))
    assert values.tolist() == [0, 2e4] and dscores.tolist() == [[0, 0], [-0.5, 0.5]]


def test_reference_needs_numpy_only() -> None:
    allowed = {"numpy", "clconv.errors", "clconv.shapes", "clconv.reference"}
    folder = Path(reference.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = ["clconv", "reference"][: 3 - node.level] if node.level else []
                names = [".".join([*above, *(node.module or "").split(".")]).rstrip(".")]
            for name in names:
                root = name.split(".")[0]
                ours = any(name == a or name.startswith(a + ".") for a in allowed)
                standard = root in sys.stdlib_module_names
                assert ours or standard, f"{path.name} imports {name}"
