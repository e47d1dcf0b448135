"""Dropout, with random numbers that depend on nothing but (seed, step, layer, element)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Context, Gradients, Layer, Shape, number, register

WORD = 0xFFFFFFFF


def philox(counter: Sequence[NDArray[np.uint64] | int], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    """Philox4x32-10: four random 32-bit words for each counter of four 32-bit words.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). All words are held in uint64.
    """
    words = [np.asarray(word, np.uint64) for word in counter]
    (k0, k1), low, shift = key, np.uint64(WORD), np.uint64(32)
    for _ in range(10):
        first = words[0] * np.uint64(0xD2511F53)
        second = words[2] * np.uint64(0xCD9E8D57)
        words = [
            (second >> shift) ^ words[1] ^ np.uint64(k0),
            second & low,
            (first >> shift) ^ words[3] ^ np.uint64(k1),
            first & low,
        ]
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return words


def kept(rate: float, shape: Shape, context: Context) -> NDArray[np.bool_]:
    """Which elements of an NCHW array dropout keeps: those whose random word is at least floor(rate * 2^32).

    Element i (in NCHW order) has the first word for the key (seed's low and high half) and the counter (i's
    low and high half, step, layer_id).
    """
    index = np.arange(math.prod(shape), dtype=np.uint64)
    counter = (index & np.uint64(WORD), index >> np.uint64(32), context.step & WORD, context.layer_id & WORD)
    word = philox(counter, (context.seed & WORD, context.seed >> 32 & WORD))[0]
    return np.asarray(word >= np.uint64(math.floor(rate * 2**32))).reshape(shape)


@register
class Dropout(Layer):
    """In training, y = x / (1 - rate) where `kept`, else 0; otherwise y = x."""

    who = "dropout"
    defaults: ClassVar[Attrs] = {"rate": 0.5}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        rate = super().settings(attrs)["rate"]
        return {"rate": number(rate, "dropout: rate", lambda v: 0 <= v < 1, "in [0, 1)")}

    def _masked(self, attrs: Attrs, values: Array, train: bool, context: Context | None) -> Array:
        if not train:
            return np.array(values)
        assert context is not None, "dropout in training needs a context"
        rate = self.settings(attrs)["rate"]
        masked: Array = np.where(kept(rate, values.shape, context), values / (1 - rate), 0)
        return masked

    def forward(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays,
        *,
        train: bool = False,
        context: Context | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        return self._masked(attrs, inputs[0], train, context), dict(state)

    def gradient(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays,
        dy: Array,
        *,
        train: bool = True,
        context: Context | None = None,
    ) -> Gradients:
        return [self._masked(attrs, dy, train, context)], {}


CASES = [
    Case("one pixel", "Dropout", {}, ((1, 1, 1, 1),)),
    Case("odd everything", "Dropout", {}, ((2, 5, 3, 7),)),
    Case("rate 0", "Dropout", {"rate": 0}, ((2, 3, 4, 5),)),
    Case("rate 0.2", "Dropout", {"rate": 0.2}, ((2, 16, 5, 5),)),
    Case("rate 0.9", "Dropout", {"rate": 0.9}, ((1, 31, 7, 9),)),
    Case("channel tail", "Dropout", {"rate": 0.3}, ((3, 17, 2, 13),)),
    Case("flat", "Dropout", {}, ((5, 33, 1, 1),)),
    Case("large", "Dropout", {"rate": 0.25}, ((5, 48, 29, 15),)),
]

REFUSED = [
    Refusal("Dropout", {"rate": 1}, ((1, 3, 4, 4),), r"^dropout: rate: 1 is not a number in \[0, 1\)$"),
    Refusal("Dropout", {"rate": -0.1}, ((1, 3, 4, 4),), r"^dropout: rate: -0\.1 is not a number in \[0, 1\)$"),
    Refusal("Dropout", {"rate": float("nan")}, ((1, 3, 4, 4),), r"^dropout: rate: nan is not a number in"),
    Refusal("Dropout", {}, ((3, 4),), r"^dropout: input shape \(3, 4\) is not \(N, C, H, W\)"),
]
