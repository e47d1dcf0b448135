from typing import Any

from .layer import Layer

class FullyConnected(Layer): ...
class RowSwap(Layer): ...

class FullyConnectedGradX(Layer):
    spec: Any
    def __init__(self, spec: Any) -> None: ...

class FullyConnectedGradW(Layer):
    spec: Any
    def __init__(self, spec: Any) -> None: ...
