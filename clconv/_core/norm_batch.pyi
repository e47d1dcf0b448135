from typing import Any

from .layer import Layer

class BatchNorm(Layer):
    adds: bool

class BatchNormTrain(BatchNorm):
    momentum: Any
    eps: Any
    def __init__(self, momentum: Any, eps: Any) -> None: ...

class BatchNormInfer(BatchNorm):
    eps: Any
    inverted: Any
    def __init__(self, eps: Any, inverted: Any = ...) -> None: ...

class BatchNormGrad(Layer):
    activation: str
    slope: float
    def __init__(self, activation: str = ..., slope: float = ...) -> None: ...

class BatchNormGradSums(BatchNormGrad): ...
