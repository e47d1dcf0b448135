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
FIRST_PART: int
LAST_PART: int
RULES: Any
FLOPS_PER_VALUE: Any
CPU_RUN: int

class Step:
    rule: Any
    summed: Any
    def __init__(self, rule: Any, summed: Any = ...) -> None: ...
    @property
    def inputs(self) -> Any: ...
    @property
    def states(self) -> Any: ...
    def check(self, specs: Any, gradient: Any) -> None: ...
    def args(self, tensors: Any) -> Any: ...
    @property
    def defines(self) -> Any: ...

class Update(Layer):
    step: Any
    def __init__(self, step: Any) -> None: ...

class WeightGradient(Layer):
    reads: Any
    step: Any
    spec: Any
    def stepping(self, step: Any) -> WeightGradient: ...
    def result(self, ins: Any, outs: Any) -> Any: ...

class Finite(Layer): ...
