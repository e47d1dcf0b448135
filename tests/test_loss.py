"""The losses on every working device: values, what counts as correct, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from clconv import passes
from clconv._core import loss as operators
from clconv.device import Device
from clconv.engine import Session
from clconv.errors import ShapeError
from clconv.graph import Graph
from clconv.plan import make_plan
from clconv.reference import LOSS_CASES, LOSSES, LossCase
from clconv.selftest import EPS
from clconv.shapes import TensorSpec

OPERATORS = {"softmax": operators.SoftmaxLoss, "svm": operators.HingeLoss, "mse": operators.SquaredLoss}


def compute(device: Device, loss: str, scores: Any, labels: Any, *, keep_scores: bool = False) -> dict[str, Any]:
    """Loss, correct, dscores (public shapes) and "stored", dscores with their padding.

    The scores' memory becomes that of dscores, unless `keep_scores` asks for them as another output.
    """
    shape = (*scores.shape, 1, 1)[:4]
    labels = labels.astype(np.float32).reshape(shape) if loss == "mse" else labels.astype(np.int32)
    graph = Graph()
    fed = graph.input("scores", TensorSpec(shape, layout="plain"))
    wanted = graph.input("labels", TensorSpec(labels.shape, str(labels.dtype), "plain"))
    graph.outputs["loss"], graph.outputs["correct"], stored = graph.add(OPERATORS[loss](), [fed, wanted], "l")
    passes.convert_layouts(graph)
    graph.outputs["dscores"] = stored
    if keep_scores:
        graph.outputs["scores"] = next(node for node in graph.nodes if stored in node.outputs).inputs[0]
    session, plan = Session(device), make_plan(graph, device.facts)
    try:
        session.load({}, {})
        feeds = {"scores": scores.astype(np.float32).reshape(shape), "labels": labels}
        results = session.run(plan, feeds)
        tensor = session.prepare(plan).outputs["dscores"]
        results["stored"] = np.empty(stored.spec.storage_shape(device.facts.block), np.float32)
        tensor.read(results["stored"], "dscores")
        assert session.allocator.peak_bytes == plan.peak_bytes
    finally:
        session.release()
    results["dscores"] = results["dscores"].reshape(scores.shape)
    return results


def allowed(loss: str, scores: Any, labels: Any) -> tuple[Any, Any]:
    """What rounding may do to values and gradient.

    OpenCL allows exp and log 3 ulp, a division 2.5; a sum of K terms takes 2 eps sqrt(K) of their magnitudes,
    as everywhere in the tests. A difference d of scores is off by eps |d| / 2: relative, for exp(d).
    """
    values, gradient = LOSSES[loss](scores, labels)
    n = len(scores)
    terms = 2 * np.sqrt(scores[0].size)
    if loss == "mse":
        return EPS * values * (terms + 5), 3 * EPS * np.abs(gradient)
    flat = scores.reshape(n, -1)
    of_label = np.take_along_axis(flat, labels[:, None], axis=1)
    if loss == "svm":
        size = np.abs(flat - of_label).sum(axis=1) + values
        return EPS * (values * terms + size + np.abs(values)), 4 * EPS * np.abs(gradient)
    below = flat.max(axis=1, keepdims=True) - flat
    total = np.exp(-below).sum(axis=1, keepdims=True)
    share = np.exp(-below) / total
    total_error = 3 + (share * below).sum(axis=1, keepdims=True) / 2 + terms  # in eps, relative
    missed = flat.max(axis=1) - of_label[:, 0]
    value_error = total_error[:, 0] + 3 * np.log(total[:, 0]) + (missed + values) / 2
    share_error = share * (3 + below / 2 + total_error + 2.5)
    return EPS * value_error, EPS * (share_error.reshape(scores.shape) / n + 4 * np.abs(gradient))


def check(device: Device, loss: str, scores: Any, labels: Any) -> None:
    got = compute(device, loss, scores, labels)
    values, gradient = LOSSES[loss](scores, labels)
    value_error, gradient_error = allowed(loss, scores, labels)
    tiny = np.finfo(np.float32).tiny
    assert (np.abs(got["loss"] - values) <= value_error + tiny).all()
    assert (np.abs(got["dscores"] - gradient) <= gradient_error + tiny).all()
    right = scores.reshape(len(scores), -1).argmax(axis=1) == labels if loss != "mse" else np.zeros(len(scores))
    assert np.array_equal(got["correct"], right)
    assert np.count_nonzero(got["stored"]) == np.count_nonzero(got["dscores"])  # the channel tail is zero


@pytest.mark.parametrize("case", LOSS_CASES, ids=str)
def test_case(device: Device, case: LossCase) -> None:
    for seed in (0, 1):
        check(device, case.loss, *case.values(seed))


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_padding_takes_no_part(device: Device, loss: str) -> None:
    """Zeros behind the channels would be the largest scores."""
    scores, labels = LossCase("", loss, (7, 21)).values()
    labels[::2] = scores[::2].argmax(axis=1)
    check(device, loss, (scores - 1000).astype(np.float32).astype(np.float64), labels)


def test_softmax_of_scores_whose_powers_overflow(device: Device) -> None:
    scores, labels = LossCase("", "softmax", (5, 10)).values()
    check(device, "softmax", np.round(scores * 1000), labels)


@pytest.mark.parametrize("loss", ["svm", "mse"])
def test_whole_numbers_come_out_exactly(device: Device, loss: str) -> None:
    """Small whole numbers, many margins exactly at the hinge; 8 images of 32 classes: powers of two."""
    rng = np.random.default_rng(2)
    scores = rng.integers(-3, 4, (8, 32)).astype(np.float64)
    labels = rng.integers(-3, 4, (8, 32)).astype(np.float64) if loss == "mse" else rng.integers(0, 32, 8)
    got = compute(device, loss, scores, labels)
    values, gradient = LOSSES[loss](scores, labels)
    assert np.array_equal(got["loss"], values)
    assert np.array_equal(got["dscores"], gradient)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_the_first_of_equal_scores_is_the_answer(device: Device, loss: str) -> None:
    scores = np.zeros((34, 34))
    scores[:, 5] = scores[:, 20] = 1
    correct = compute(device, loss, scores, np.arange(34))["correct"]
    assert np.flatnonzero(correct).tolist() == [5]


@pytest.mark.parametrize("loss", OPERATORS)
def test_scores_may_stay(device: Device, loss: str) -> None:
    """The same bits, whether the gradient takes over the scores' memory or not."""
    scores, labels = LossCase("", loss, (5, 19)).values()
    apart, together = (compute(device, loss, scores, labels, keep_scores=keep) for keep in (True, False))
    assert np.array_equal(apart.pop("scores").reshape(scores.shape), scores)
    assert all(apart[name].tobytes() == together[name].tobytes() for name in together)


@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_labels_that_are_no_class_spoil_their_image_alone(device: Device, loss: str) -> None:
    """The host refuses them; should one slip through, nothing is accessed outside, and the loss is NaN."""
    scores, labels = LossCase("", loss, (5, 19)).values()
    expected = compute(device, loss, scores, labels)
    bad = labels.copy()
    bad[[0, 1, 4]] = -1, 19, 2**31 - 1
    got = compute(device, loss, scores, bad)
    assert np.isnan(got["loss"]).tolist() == [True, True, False, False, True]
    assert got["correct"][[0, 1, 4]].tolist() == [0, 0, 0]
    assert np.array_equal(got["dscores"][2:4], expected["dscores"][2:4])


@pytest.mark.parametrize("loss", OPERATORS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_show(device: Device, loss: str, wrong: float) -> None:
    scores, labels = LossCase("", loss, (3, 19)).values()
    scores[1, 18] = wrong
    if loss != "mse":
        labels[1] = 3
    got = compute(device, loss, scores, labels)
    assert np.isfinite(got["loss"]).tolist() == [True, False, True]
    assert got["correct"][1] == 0


@pytest.mark.parametrize(
    ("loss", "shape", "labels", "message"),
    [
        ("softmax", (2, 3, 4, 1), (2,), r"^softmax: scores 2x3x4x1 have rows and columns; 2 images x c"),
        ("svm", (2, 3, 1, 4), (2,), r"^svm: scores 2x3x1x4 have rows and columns; 2 images x c"),
        ("softmax", (2, 3, 1, 1), (3,), r"^softmax: labels 3 do not fit scores 2x3x1x1; 2 would fit"),
        ("mse", (2, 3, 1, 1), (2, 3, 1, 2), r"^mse: targets 2x3x1x2 differ from scores 2x3x1x1; equal"),
    ],
)
def test_refused(loss: str, shape: tuple[int, ...], labels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        OPERATORS[loss]().infer([TensorSpec(shape), TensorSpec(labels, "int32", "plain")])
