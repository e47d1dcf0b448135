from typing import Any

from .layer import Layer
from .optimizer import WeightGradient

class FullyConnected(Layer): ...

class FullyConnectedGradX(Layer):
    spec: Any
    def __init__(self, spec: Any) -> None: ...

class FullyConnectedGradW(WeightGradient):
    spec: Any
    def __init__(self, spec: Any) -> None: ...
