"""What every reference layer answers, and the table of them by public name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError, ShapeError
from ..shapes import is_whole

Array = NDArray[np.float64]
Shape = tuple[int, ...]
Attrs = Mapping[str, Any]
Arrays = Mapping[str, Array]
Gradients = tuple[list[Array], dict[str, Array]]  # of each input, of each parameter


@dataclass(frozen=True)
class Context:
    """What dropout's random numbers depend on, besides the element's index."""

    seed: int = 0
    step: int = 0
    layer_id: int = 0


class Layer:
    """A layer as a formula: float64, NCHW, no device, no layout.

    `attrs` are the public layer's arguments in any accepted form; those left out take their defaults.
    `shapes` are the shapes (N, C, H, W) of the inputs, `params` and `state` dicts of arrays by name.
    """

    who: ClassVar[str]  # the prefix of messages
    defaults: ClassVar[Attrs] = {}
    required: ClassVar[tuple[str, ...]] = ()
    least_inputs: ClassVar[int] = 1
    most_inputs: ClassVar[int] = 1
    exact: ClassVar[bool] = False  # small whole numbers in give exact float32 results, forward and gradient
    spread: ClassVar[int] = 1  # how far the cases' inputs reach; more where the formula bends further out

    def output_shape(self, attrs: Attrs, shapes: Sequence[Shape]) -> Shape:
        """Shape (N, C, H, W) of the output.

        Raises:
            ArgumentError: an argument that no input could make right.
            ShapeError: arguments and input shapes that do not fit together.
        """
        self.settings(attrs)
        return self.check_inputs(shapes)[0]

    def check_training(self, attrs: Attrs, shapes: Sequence[Shape]) -> None:
        """Refuses, with a ShapeError, shapes that only training cannot work with."""

    def parameters(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        """Shapes of what is learnt, by name."""
        return {}

    def state(self, attrs: Attrs, shapes: Sequence[Shape]) -> dict[str, Shape]:
        """Shapes of what is carried from one training step to the next without being learnt."""
        return {}

    def products(self, attrs: Attrs, shapes: Sequence[Shape]) -> int:
        """How many terms are summed for one output value, at most: the K of the tolerance."""
        return 1

    def gradient_products(self, attrs: Attrs, shapes: Sequence[Shape]) -> tuple[list[int], dict[str, int]]:
        """The same for one value of each input's and each parameter's gradient."""
        return [self.products(attrs, shapes)] * len(shapes), {}

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
        """The output and the state after it (the given one, unless the layer says otherwise)."""
        return self.compute(attrs, inputs, params), dict(state)

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
        """Gradients of sum(y * dy) with respect to each input and each parameter."""
        return self.compute_gradient(attrs, inputs, params, dy)

    def compute(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays) -> Array:
        """The output of a layer that knows neither state nor mode; others override `forward`."""
        raise NotImplementedError

    def compute_gradient(self, attrs: Attrs, inputs: Sequence[Array], params: Arrays, dy: Array) -> Gradients:
        """The gradients of such a layer; others override `gradient`."""
        raise NotImplementedError

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
        """Sum of the absolute values of the terms of each output: what rounding errors are relative to."""
        y, _ = self.forward(attrs, inputs, params, state or {}, train=train, context=context)
        return np.abs(y)

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
        """The same for each value of `gradient`."""
        # where several terms meet in one value, each is a factor >= 0 times its dy
        size = np.abs(dy)
        dx, dparams = self.gradient(attrs, inputs, params, state or {}, size, train=train, context=context)
        return [np.abs(d) for d in dx], {name: np.abs(d) for name, d in dparams.items()}

    def settings(self, attrs: Attrs) -> dict[str, Any]:
        """`attrs` with the defaults filled in, refusing wrong values; layers normalise more of them."""
        missing = [name for name in self.required if name not in attrs]
        unknown = [name for name in attrs if name not in self.defaults and name not in self.required]
        if missing or unknown:
            raise ArgumentError(f"{self.who}: missing arguments {missing}, unknown arguments {unknown}")
        return {**self.defaults, **attrs}

    def check_inputs(self, shapes: Sequence[Shape]) -> list[tuple[int, int, int, int]]:
        """The input shapes, refusing a wrong number of them and what is not (N, C, H, W)."""
        if not self.least_inputs <= len(shapes) <= self.most_inputs:
            takes = f"{self.least_inputs} or more inputs" if self.most_inputs > self.least_inputs else "1 input"
            raise ArgumentError(f"{self.who}: takes {takes}, not {len(shapes)}")
        for shape in shapes:
            if len(shape) != 4 or min(shape) < 1:
                raise ShapeError(f"{self.who}: input shape {tuple(shape)} is not (N, C, H, W), each at least 1")
        return [(n, c, h, w) for n, c, h, w in shapes]


class LinearLayer(Layer):
    """A layer whose output is linear in its inputs, and in its parameters: magnitudes are |x| through |w|."""

    exact: ClassVar[bool] = True

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
        return self.forward(attrs, _absolute(inputs), _absolutes(params), {}, train=train, context=context)[0]

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
        return self.gradient(attrs, _absolute(inputs), _absolutes(params), {}, np.abs(dy), train=train, context=context)


LAYERS: dict[str, Layer] = {}
"""The layers by public name: LAYERS["Conv"]."""

LayerType = TypeVar("LayerType", bound=type[Layer])


def register(cls: LayerType) -> LayerType:
    """Enters a layer in `LAYERS` under its class name, which is the public layer's."""
    LAYERS[cls.__name__] = cls()
    return cls


def whole(value: object, who: str, *, least: int = 1) -> int:
    """`value`, refused unless it is an int, and no bool, of at least `least`."""
    if not isinstance(value, int) or not is_whole(value) or value < least:
        raise ArgumentError(f"{who}: {value!r} is not a whole number >= {least}")
    return value


def truth(value: object, who: str) -> bool:
    """`value`, refused unless it is True or False."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{who}: {value!r} is not True or False")
    return value


def one_of(value: object, allowed: Sequence[str], who: str) -> str:
    """`value`, refused unless it is one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        quoted = [f'"{word}"' for word in allowed]
        raise ArgumentError(f"{who}: {value!r} is not {', '.join(quoted[:-1])} or {quoted[-1]}")
    return value


def number(value: object, who: str, allowed: Callable[[float], bool], text: str) -> float:
    """`value` as a float, refused unless it is finite and allowed; `text` says what is: ">= 0"."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or not allowed(value):
        raise ArgumentError(f"{who}: {value!r} is not a number {text}")
    return float(value)


def _absolute(arrays: Sequence[Array]) -> list[Array]:
    return [np.abs(array) for array in arrays]


def _absolutes(arrays: Arrays) -> dict[str, Array]:
    return {name: np.abs(array) for name, array in arrays.items()}
