from typing import Any

from .layer import Layer

GLOBAL_KIND: Any
GRADIENT_READS: Any
SHARE: int

class Pool2d(Layer):
    kind: Any
    window: Any
    count_pad: Any
    places: Any
    def __init__(self, kind: Any, window: Any, count_pad: Any = ..., places: Any = ...) -> None: ...

class Pool2dGrad(Layer):
    kind: Any
    window: Any
    count_pad: Any
    shape: Any
    def __init__(self, kind: Any, window: Any, count_pad: Any, shape: Any) -> None: ...

class GlobalAvgPool(Layer): ...

class GlobalAvgPoolGrad(Layer):
    shape: Any
    def __init__(self, shape: Any) -> None: ...
