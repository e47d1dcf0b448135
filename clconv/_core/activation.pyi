from typing import Any

from .layer import Layer

class Activation(Layer):
    activation: Any
    slope: Any
    def __init__(self, activation: Any, slope: Any = ...) -> None: ...

class ActivationGrad(Layer):
    activation: Any
    slope: Any
    def __init__(self, activation: Any, slope: Any) -> None: ...

def unactivated(layer: Any, emit: Any, y: Any, dy: Any) -> Any: ...
