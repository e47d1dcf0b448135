"""The specification: every layer, loss and optimizer in plain NumPy float64, with the cases that test it.

    LAYERS     public layer name -> formula: output_shape, parameters, forward, gradient, magnitude
    CASES      arguments and input shapes that every implementation must get right
    REFUSED    arguments and input shapes that it must refuse, with the message

Tests, `clconv selftest` and benchmarks run from these tables.
"""

from __future__ import annotations

from . import activation, conv, fc, pool
from .case import Case, Refusal, Values
from .layer import LAYERS, Context, Layer

_FAMILIES = (conv, pool, fc, activation)

CASES: list[Case] = [case for family in _FAMILIES for case in family.CASES]
REFUSED: list[Refusal] = [refusal for family in _FAMILIES for refusal in family.REFUSED]

__all__ = ["CASES", "LAYERS", "REFUSED", "Case", "Context", "Layer", "Refusal", "Values"]
