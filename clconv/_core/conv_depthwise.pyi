from typing import Any

from .layer import Layer

class DepthwiseConv2d(Layer):
    window: Any
    def __init__(self, window: Any) -> None: ...

class DepthwiseTranspose2d(Layer):
    window: Any
    size: Any
    def __init__(self, window: Any, size: Any) -> None: ...

class DepthwiseGradW(Layer):
    window: Any
    spec: Any
    def __init__(self, window: Any, spec: Any) -> None: ...
