from typing import Any

from .layer import Layer

HYPERS: int
RATE: int
WEIGHT_DECAY: int
MOMENTUM: int
BETA2: int
EPSILON: int
CORRECTION1: int
CORRECTION2: int
ENABLED: int
RULES: Any
FLOPS_PER_VALUE: Any
CPU_RUN: int

class Update(Layer):
    rule: Any
    def __init__(self, rule: Any) -> None: ...

class Finite(Layer): ...
