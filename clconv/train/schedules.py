"""Learning-rate schedules: functions of the step, so that nothing is recorded again when the rate changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from ..errors import ArgumentError


@dataclass(frozen=True)
class Constant:
    """The optimizer's rate throughout.

    Args:
        warmup: over how many steps the rate first rises linearly from 0; all schedules take it.
    """

    warmup: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.warmup, Integral) or self.warmup < 0:
            raise ArgumentError(f"{type(self).__name__}: warmup {self.warmup!r} is not a number of steps from 0 on")

    def factor(self, step: int, steps: int) -> float:
        """What the rate is multiplied with at `step` (from 0) of `steps` in all."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.decay(step - self.warmup, max(steps - self.warmup, 1))

    def decay(self, step: int, steps: int) -> float:
        """The factor after the warm-up."""
        return 1.0


@dataclass(frozen=True)
class Step(Constant):
    """Multiplied with `gamma` at each of the given shares of the run: Step((0.5, 0.75)) divides by 10 twice."""

    at: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        several = isinstance(self.at, (tuple, list))
        if not (several and all(isinstance(share, Real) and 0 < float(share) < 1 for share in self.at)):
            raise ArgumentError(f"Step: at={self.at!r} is no tuple of shares of the run between 0 and 1")
        if not (isinstance(self.gamma, Real) and 0 < self.gamma < np.inf):
            raise ArgumentError(f"Step: gamma {self.gamma!r} is not a number above 0")

    def decay(self, step: int, steps: int) -> float:
        return float(self.gamma ** sum(step >= share * steps for share in self.at))


@dataclass(frozen=True)
class Cosine(Constant):
    """Half a cosine from the full rate down to `last` of it (Loshchilov and Hutter, 2017)."""

    last: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.last, Real) and 0 <= self.last <= 1):
            raise ArgumentError(f"Cosine: last {self.last!r} is not a number from 0 to 1")

    def decay(self, step: int, steps: int) -> float:
        return self.last + (1 - self.last) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
