"""The specification: every layer, loss and optimizer in plain NumPy float64, with the cases that test it.

    LAYERS       public layer name -> formula: output_shape, parameters, forward, gradient, magnitude
    CASES        arguments and input shapes that every implementation must get right
    REFUSED      arguments and input shapes that it must refuse, with the message
    LOSSES       name -> function(scores, labels): value per image, gradient of the mean
    OPTIMIZERS   name -> update rule, states, default settings

Tests, `clconv selftest` and benchmarks run from these tables.
"""

from __future__ import annotations

from . import activation, conv, dropout, elementwise, fc, local, norm, pool
from .case import Case, Refusal, Values
from .layer import LAYERS, Context, Layer
from .loss import LOSS_CASES, LOSS_REFUSED, LOSSES, LossCase, LossRefusal
from .optimizer import OPTIMIZERS, Optimizer

_FAMILIES = (conv, pool, fc, local, activation, norm, dropout, elementwise)

CASES: list[Case] = [case for family in _FAMILIES for case in family.CASES]
REFUSED: list[Refusal] = [refusal for family in _FAMILIES for refusal in family.REFUSED]

__all__ = [
    "CASES",
    "LAYERS",
    "LOSSES",
    "LOSS_CASES",
    "LOSS_REFUSED",
    "OPTIMIZERS",
    "REFUSED",
    "Case",
    "Context",
    "Layer",
    "LossCase",
    "LossRefusal",
    "Optimizer",
    "Refusal",
    "Values",
]
