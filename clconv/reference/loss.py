"""Losses: the value for each image, and the gradient of the mean over the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ClconvError, DataError, ShapeError
from .layer import Array, Shape

Loss = Callable[[Array, NDArray[Any]], tuple[Array, Array]]


def softmax(scores: Array, labels: NDArray[Any]) -> tuple[Array, Array]:
    """Cross entropy after softmax: log(sum of exp(s)) - s[label].

    Args:
        scores: (N, classes) or (N, classes, 1, 1).
        labels: (N,), whole numbers from 0.

    Returns:
        The value for each image (N,), and d(mean value)/d(scores), shaped like the scores.

    Raises:
        ArgumentError: labels that are not whole numbers.
        DataError: a label that is no class.
        ShapeError: scores or labels of another shape.
    """
    flat = check_labels(scores, labels, "softmax")
    each = np.arange(len(flat))
    shifted = flat - flat.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    dscores = np.exp(shifted) / total[:, None]
    dscores[each, labels] -= 1
    return np.log(total) - shifted[each, labels], (dscores / len(flat)).reshape(scores.shape)


def svm(scores: Array, labels: NDArray[Any]) -> tuple[Array, Array]:
    """Multi-class hinge: sum over the wrong classes j of max(0, s[j] - s[label] + 1), as in CS231n.

    PyTorch's multi_margin_loss divides this by the number of classes. Arguments, results and errors as
    `softmax`; at the hinge the gradient is 0.
    """
    flat = check_labels(scores, labels, "svm")
    each = np.arange(len(flat))
    margins = np.maximum(0, flat - flat[each, labels][:, None] + 1)
    margins[each, labels] = 0
    dscores = (margins > 0).astype(np.float64)
    dscores[each, labels] = -dscores.sum(axis=1)
    return margins.sum(axis=1), (dscores / len(flat)).reshape(scores.shape)


def mse(scores: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
    """Mean of (score - target)^2 over each image's elements; scores and targets of one shape (N, ...)."""
    if scores.shape != targets.shape:
        raise ShapeError(f"mse: targets {targets.shape} differ from scores {scores.shape}; equal shapes would fit")
    difference = scores - targets
    values: Array = np.square(difference).reshape(len(scores), -1).mean(axis=1)
    return values, 2 * difference / scores.size


LOSSES: dict[str, Loss] = {"softmax": softmax, "svm": svm, "mse": mse}
"""The losses by public name."""


def check_labels(scores: Array, labels: NDArray[Any], who: str) -> Array:
    """The scores as (N, classes), once scores and labels are found to fit."""
    if scores.ndim < 2 or any(extent != 1 for extent in scores.shape[2:]):
        raise ShapeError(f"{who}: scores {scores.shape} are not (N, classes)")
    n, classes = scores.shape[:2]
    if labels.shape != (n,):
        raise ShapeError(f"{who}: labels {labels.shape} do not fit scores {scores.shape}; ({n},) would fit")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ArgumentError(f"{who}: labels of type {labels.dtype} are not whole numbers")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{who}: label {labels[wrong[0]]} of image {wrong[0]} is not one of the {classes} classes 0..{classes - 1}"
        )
    return scores.reshape(n, classes)


@dataclass(frozen=True)
class LossCase:
    """Scores that a loss must get right."""

    name: str
    loss: str  # a key of LOSSES
    shape: Shape  # of the scores

    def values(self, seed: int = 0) -> tuple[Array, NDArray[Any]]:
        """Seeded scores (float64 of float32 values) and labels, or targets for "mse"."""
        rng = np.random.default_rng(seed)
        scores = (3 * rng.standard_normal(self.shape)).astype(np.float32).astype(np.float64)
        if self.loss == "mse":
            return scores, rng.standard_normal(self.shape).astype(np.float32).astype(np.float64)
        return scores, rng.integers(0, self.shape[1], self.shape[0])

    def __str__(self) -> str:
        return f"{self.loss}: {self.name}"


@dataclass(frozen=True)
class LossRefusal:
    """Scores and labels that a loss must refuse, and what its message must match."""

    loss: str
    shape: Shape
    labels: NDArray[Any]
    error: type[ClconvError]
    message: str

    def __str__(self) -> str:
        return f"{self.loss}: {self.message}"


LOSS_CASES = [
    LossCase(name, loss, shape)
    for loss in LOSSES
    for name, shape in (
        ("two classes", (1, 2)),
        ("ten classes", (5, 10)),
        ("channels fill blocks", (3, 16)),
        ("channel tail", (2, 17, 1, 1)),
        ("odd batch", (37, 33)),
        ("many classes", (3, 1000)),
    )
] + [LossCase("map", "mse", (2, 5, 3, 7))]

LOSS_REFUSED = [
    refusal
    for loss in ("softmax", "svm")
    for refusal in (
        LossRefusal(
            loss,
            (3, 10),
            np.array([0, 9, 10]),
            DataError,
            rf"^{loss}: label 10 of image 2 is not one of the 10 classes 0\.\.9$",
        ),
        LossRefusal(loss, (2, 3), np.array([0, -1]), DataError, rf"^{loss}: label -1 of image 1 is not one of"),
        LossRefusal(
            loss,
            (2, 3),
            np.array([0.0, 1.0]),
            ArgumentError,
            rf"^{loss}: labels of type float64 are not whole",
        ),
        LossRefusal(
            loss,
            (2, 3),
            np.array([0, 1, 2]),
            ShapeError,
            rf"^{loss}: labels \(3,\) do not fit scores \(2, 3\); \(2,\) would fit$",
        ),
        LossRefusal(
            loss,
            (2, 3, 4, 4),
            np.array([0, 1]),
            ShapeError,
            rf"^{loss}: scores \(2, 3, 4, 4\) are not \(N, classes\)$",
        ),
    )
] + [LossRefusal("mse", (2, 3), np.zeros((2, 4)), ShapeError, r"^mse: targets \(2, 4\) differ from scores \(2, 3\);")]
