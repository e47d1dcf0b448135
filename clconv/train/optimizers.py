"""Optimizers as the user names them: a rule for the kernels and its hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np

from .._core import optimizer as kernels
from ..errors import ArgumentError
from ..packing import Array


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers.

    Args:
        rate: learning rate. weight_decay: L2 penalty; its gradient, weight_decay * w, is added to g.
    """

    rate: float
    weight_decay: float = 0.0

    rule: ClassVar[str] = ""
    shares: ClassVar[tuple[str, ...]] = ()  # names of hyper-parameters in [0, 1)
    positive: ClassVar[tuple[str, ...]] = ("rate",)

    def __post_init__(self) -> None:
        who = type(self).__name__
        for name in self.positive:
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 < float(value) < np.inf):
                raise ArgumentError(f"{who}: {name} {value!r} is not a number above 0")
        for name in self.shares:
            value = getattr(self, name)
            if not (isinstance(value, Real) and 0 <= float(value) < 1):
                raise ArgumentError(f"{who}: {name} {value!r} is not a number in [0, 1)")
        if not (isinstance(self.weight_decay, Real) and 0 <= self.weight_decay < np.inf):
            raise ArgumentError(f"{who}: weight_decay {self.weight_decay!r} is not a number from 0 on")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the state that each weight has."""
        return tuple(kernels.RULES[self.rule])

    def hyper(self, rate: float, step: int, *, first: bool = True, last: bool = True) -> Array:
        """What the kernels read at a step (counted from 1) with a rate.

        Args:
            first, last: which part of a batch that comes in parts; see cl/optimizer.h.
        """
        values = np.zeros(kernels.HYPERS, np.float32)
        values[kernels.RATE] = rate
        values[kernels.WEIGHT_DECAY] = self.weight_decay
        values[kernels.ENABLED] = 1
        values[kernels.FIRST_PART], values[kernels.LAST_PART] = first, last
        self._fill(values, step)
        if self.rule == "momentum":  # the velocity gathers the gradients
            if not first:
                values[kernels.MOMENTUM], values[kernels.WEIGHT_DECAY] = 1, 0
            if not last:
                values[kernels.RATE] = 0
        return values

    def _fill(self, values: Array, step: int) -> None:
        """Sets the hyper-parameters of the rule."""


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= rate * g; with momentum v = momentum * v + g, w -= rate * v; Nesterov: w -= rate * (g + momentum * v)."""

    momentum: float = 0.0
    nesterov: bool = False

    shares = ("momentum",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise ArgumentError("SGD: nesterov=True without momentum; momentum=0.9 would fit")

    @property
    def rule(self) -> str:  # type: ignore[override]
        return "nesterov" if self.nesterov else "momentum" if self.momentum else "sgd"

    def _fill(self, values: Array, step: int) -> None:
        values[kernels.MOMENTUM] = self.momentum


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """s += g^2; w -= rate * g / (sqrt(s) + epsilon) (Duchi et al., 2011)."""

    epsilon: float = 1e-8

    rule: ClassVar[str] = "adagrad"
    positive = ("rate", "epsilon")

    def _fill(self, values: Array, step: int) -> None:
        values[kernels.EPSILON] = self.epsilon


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """s = decay * s + (1 - decay) * g^2; w -= rate * g / (sqrt(s) + epsilon) (Hinton)."""

    decay: float = 0.99
    epsilon: float = 1e-8

    rule: ClassVar[str] = "rmsprop"
    shares = ("decay",)
    positive = ("rate", "epsilon")

    def _fill(self, values: Array, step: int) -> None:
        values[kernels.MOMENTUM] = self.decay
        values[kernels.EPSILON] = self.epsilon


@dataclass(frozen=True)
class Adam(Optimizer):
    """First and second moments with bias correction (Kingma and Ba, 2015)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    rule: ClassVar[str] = "adam"
    shares = ("beta1", "beta2")
    positive = ("rate", "epsilon")

    def _fill(self, values: Array, step: int) -> None:
        values[kernels.MOMENTUM] = self.beta1
        values[kernels.BETA2] = self.beta2
        values[kernels.EPSILON] = self.epsilon
        # From the float32 values that the kernels know, so that they match.
        values[kernels.CORRECTION1] = 1 - float(values[kernels.MOMENTUM]) ** step
        values[kernels.CORRECTION2] = 1 - float(values[kernels.BETA2]) ** step
