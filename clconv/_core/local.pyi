from typing import Any

from .layer import Layer

class Local2d(Layer):
    window: Any
    def __init__(self, window: Any) -> None: ...

class LocalGradX(Layer):
    window: Any
    shape: Any
    def __init__(self, window: Any, shape: Any) -> None: ...

class LocalGradW(Layer):
    window: Any
    spec: Any
    def __init__(self, window: Any, spec: Any) -> None: ...

class ImageSum(Layer): ...
