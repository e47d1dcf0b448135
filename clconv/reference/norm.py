"""Normalisation: by the neighbours' squares (LRN), or by the batch's statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import ShapeError
from .case import Case, Refusal
from .layer import Array, Arrays, Attrs, Context, Gradients, Layer, Shape, number, one_of, register, whole

REGIONS = ("across", "within")


def _neighbours(values: Array, size: int, axes: Sequence[int], *, mirrored: bool = False) -> Array:
    """Sum over the window i - floor((size-1)/2) .. i + ceil((size-1)/2) along each of the axes.

    `mirrored` sums over all i whose window holds the element instead: the transpose.
    """
    before, after = (size - 1) // 2, size // 2
    for axis in axes:
        around = [(0, 0)] * values.ndim
        around[axis] = (after, before) if mirrored else (before, after)
        values = sliding_window_view(np.pad(values, around), size, axis=axis).sum(axis=-1)
    return values


@register
class LRN(Layer):
    """y = x * scale^-beta, scale = k + alpha / M * (sum of x^2 over M neighbours, 0 outside).

    "across": M = size neighbouring channels. "within": M = size^2, a square of the same map. As in ONNX and
    PyTorch, alpha is divided by M; in Krizhevsky et al. (2012) it is not.
    """

    who = "lrn"
    defaults: ClassVar[Attrs] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0, "region": "across"}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        size = whole(given["size"], "lrn: size")
        region = one_of(given["region"], REGIONS, "lrn: region")
        return {
            "size": size,
            "alpha": number(given["alpha"], "lrn: alpha", lambda v: v >= 0, ">= 0"),
            "beta": number(given["beta"], "lrn: beta", lambda v: v >= 0, ">= 0"),
            "k": number(given["k"], "lrn: k", lambda v: v > 0, "> 0"),
            "axes": (1,) if region == "across" else (2, 3),
            "terms": size if region == "across" else size * size,
        }

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        terms: int = self.settings(attrs)["terms"]
        return terms

    def _scale(self, given: dict[str, Any], x: Array) -> Array:
        squares = _neighbours(np.square(x), given["size"], given["axes"])
        return np.asarray(given["k"] + given["alpha"] / given["terms"] * squares)

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        given = self.settings(attrs)
        y: Array = inputs[0] * self._scale(given, inputs[0]) ** -given["beta"]
        return y

    def _terms(self, attrs: Attrs, x: Array, dy: Array) -> tuple[Array, Array]:
        """The two terms of dx: through the element itself, and through its neighbours' scales."""
        given = self.settings(attrs)
        scale, beta = self._scale(given, x), given["beta"]
        pulled = _neighbours(dy * x * scale ** (-beta - 1), given["size"], given["axes"], mirrored=True)
        return dy * scale**-beta, 2 * beta * given["alpha"] / given["terms"] * x * pulled

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        itself, others = self._terms(attrs, inputs[0], dy)
        return [itself - others], {}

    def gradient_magnitude(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays | None,
        dy: Array,
        *,
        train: bool = True,
        context: Context | None = None,
    ) -> Gradients:
        itself, others = self._terms(attrs, np.abs(inputs[0]), np.abs(dy))
        return [itself + others], {}


@register
class BatchNorm(Layer):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, per channel.

    In training, mean and (biased) variance are the batch's, over N, H and W, and the running ones move
    towards them: running = (1 - momentum) * running + momentum * batch's, where the running variance takes
    the unbiased one. Otherwise mean and variance are the running ones. All parameters and states (C,).
    """

    who = "bn"
    defaults: ClassVar[Attrs] = {"momentum": 0.1, "eps": 1e-5}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        given = super().settings(attrs)
        return {
            "momentum": number(given["momentum"], "bn: momentum", lambda v: 0 <= v <= 1, "in [0, 1]"),
            "eps": number(given["eps"], "bn: eps", lambda v: v > 0, "> 0"),
        }

    def check_training(self, attrs: Attrs, shapes: Sequence[Shape]) -> None:
        n, _, h, w = shapes[0]
        if n * h * w < 2:
            raise ShapeError(
                "bn: training normalises over 1 value per channel (N*H*W = 1*1*1), which leaves nothing; "
                "a batch of 2 or more would fit"
            )

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (shapes[0][1],), "bias": (shapes[0][1],)}

    def state(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        return {"running_mean": (shapes[0][1],), "running_var": (shapes[0][1],)}

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        n, _, h, w = shapes[0]
        return n * h * w

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        terms = self.products(attrs, shapes)
        return [terms], {"weight": terms, "bias": terms}

    def _statistics(self, attrs: Attrs, x: Array, state: Arrays, train: bool) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation that x is normalised with, (C, 1, 1) each."""
        if train:
            self.check_training(attrs, [x.shape])
            mean, var = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
        else:
            mean, var = state["running_mean"], state["running_var"]
        return mean[:, None, None], 1 / np.sqrt(var[:, None, None] + self.settings(attrs)["eps"])

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
        x, share = inputs[0], self.settings(attrs)["momentum"]
        mean, inverse = self._statistics(attrs, x, state, train)
        y = params["weight"][:, None, None] * (x - mean) * inverse + params["bias"][:, None, None]
        if not train:
            return y, dict(state)
        batch = {"running_mean": x.mean(axis=(0, 2, 3)), "running_var": x.var(axis=(0, 2, 3), ddof=1)}
        return y, {name: (1 - share) * state[name] + share * batch[name] for name in batch}

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
        mean, inverse = self._statistics(attrs, inputs[0], state, train)
        normal, scale = (inputs[0] - mean) * inverse, params["weight"][:, None, None] * inverse
        dparams = {"weight": (dy * normal).sum(axis=(0, 2, 3)), "bias": dy.sum(axis=(0, 2, 3))}
        if not train:
            return [scale * dy], dparams
        shift = dy.mean(axis=(0, 2, 3), keepdims=True)
        tilt = (dy * normal).mean(axis=(0, 2, 3), keepdims=True)
        return [scale * (dy - shift - normal * tilt)], dparams

    def magnitude(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays | None = None,
        *,
        train: bool = False,
        context: Context | None = None,
    ) -> Array:
        mean, inverse = self._statistics(attrs, inputs[0], state or {}, train)
        weight, bias = np.abs(params["weight"])[:, None, None], np.abs(params["bias"])[:, None, None]
        size: Array = weight * (np.abs(inputs[0]) + np.abs(mean)) * inverse + bias
        return size

    def gradient_magnitude(
        self,
        attrs: Attrs,
        inputs: Sequence[Array],
        params: Arrays,
        state: Arrays | None,
        dy: Array,
        *,
        train: bool = True,
        context: Context | None = None,
    ) -> Gradients:
        mean, inverse = self._statistics(attrs, inputs[0], state or {}, train)
        normal, scale = (np.abs(inputs[0]) + np.abs(mean)) * inverse, np.abs(params["weight"])[:, None, None]
        size = np.abs(dy)
        dparams = {"weight": (size * normal).sum(axis=(0, 2, 3)), "bias": size.sum(axis=(0, 2, 3))}
        shift = size.mean(axis=(0, 2, 3), keepdims=True)
        tilt = (size * normal).mean(axis=(0, 2, 3), keepdims=True)
        return [scale * inverse * (size + (shift + normal * tilt if train else 0))], dparams


STRONG: Attrs = {"alpha": 0.5, "k": 2.0}  # with the default alpha, an LRN hardly differs from y = x

CASES = [
    Case("one pixel", "LRN", {}, ((1, 1, 1, 1),)),
    Case("default", "LRN", {}, ((2, 17, 3, 5),)),
    Case("strong", "LRN", STRONG, ((2, 16, 3, 4),)),
    Case("window beyond the channels", "LRN", STRONG, ((1, 3, 5, 6),)),
    Case("window of 1", "LRN", {**STRONG, "size": 1}, ((1, 5, 2, 3),)),
    Case("even window", "LRN", {**STRONG, "size": 4}, ((2, 33, 2, 7),)),
    Case("window beyond a block", "LRN", {**STRONG, "size": 19}, ((1, 48, 3, 3),)),
    Case("beta 0.5", "LRN", {**STRONG, "beta": 0.5}, ((3, 15, 4, 4),)),
    Case("larger image", "LRN", {"alpha": 1e-2, "k": 2.0}, ((2, 31, 14, 29),)),
    Case("one pixel, within", "LRN", {"region": "within"}, ((1, 1, 1, 1),)),
    Case("default, within", "LRN", {"region": "within"}, ((1, 5, 6, 7),)),
    Case("strong, within", "LRN", {**STRONG, "region": "within", "size": 3}, ((2, 17, 5, 4),)),
    Case("even window, within", "LRN", {**STRONG, "region": "within", "size": 4}, ((1, 3, 7, 9),)),
    Case("window beyond the image", "LRN", {**STRONG, "region": "within", "size": 7}, ((1, 16, 3, 2),)),
    Case("wide and flat, within", "LRN", {**STRONG, "region": "within", "size": 3}, ((1, 2, 1, 57),)),
    Case("larger image, within", "LRN", {**STRONG, "region": "within"}, ((2, 33, 13, 15),)),
    Case("two values", "BatchNorm", {}, ((2, 1, 1, 1),)),
    Case("odd everything", "BatchNorm", {}, ((3, 5, 3, 7),)),
    Case("one image", "BatchNorm", {}, ((1, 3, 5, 4),)),
    Case("flat", "BatchNorm", {}, ((5, 33, 1, 1),)),
    Case("channels fill blocks", "BatchNorm", {}, ((2, 16, 4, 4),)),
    Case("channel tail", "BatchNorm", {}, ((2, 17, 2, 13),)),
    Case("momentum", "BatchNorm", {"momentum": 0.5, "eps": 1e-3}, ((2, 15, 3, 3),)),
    Case("momentum 1", "BatchNorm", {"momentum": 1}, ((3, 31, 2, 2),)),
    Case("wide", "BatchNorm", {}, ((1, 3, 1, 57),)),
    Case("long sum", "BatchNorm", {}, ((5, 17, 29, 31),)),  # 4495 values per channel
]

REFUSED = [
    Refusal("LRN", {"size": 0}, ((1, 3, 4, 4),), r"^lrn: size: 0 is not a whole number >= 1$"),
    Refusal("LRN", {"region": "same"}, ((1, 3, 4, 4),), r"""^lrn: region: 'same' is not "across" or "within"$"""),
    Refusal("LRN", {"alpha": -1.0}, ((1, 3, 4, 4),), r"^lrn: alpha: -1\.0 is not a number >= 0$"),
    Refusal("LRN", {"beta": -0.5}, ((1, 3, 4, 4),), r"^lrn: beta: -0\.5 is not a number >= 0$"),
    Refusal("LRN", {"k": 0}, ((1, 3, 4, 4),), r"^lrn: k: 0 is not a number > 0$"),
    Refusal("LRN", {}, ((3, 4),), r"^lrn: input shape \(3, 4\) is not \(N, C, H, W\)"),
    Refusal("BatchNorm", {"momentum": 1.5}, ((2, 3, 4, 4),), r"^bn: momentum: 1\.5 is not a number in \[0, 1\]$"),
    Refusal("BatchNorm", {"eps": 0}, ((2, 3, 4, 4),), r"^bn: eps: 0 is not a number > 0$"),
    Refusal("BatchNorm", {}, ((3, 4),), r"^bn: input shape \(3, 4\) is not \(N, C, H, W\)"),
    Refusal(
        "BatchNorm",
        {},
        ((1, 3, 1, 1),),
        r"^bn: training normalises over 1 value per channel .*; a batch of 2 or more would fit$",
        train=True,
    ),
]
