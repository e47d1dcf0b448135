from typing import Any

from .layer import Layer, Residual
from .optimizer import WeightGradient

class Conv2d(Residual):
    window: Any
    def __init__(self, window: Any) -> None: ...

class ConvTranspose2d(Layer):
    window: Any
    size: Any
    def __init__(self, window: Any, size: Any) -> None: ...

class ConvGradW(WeightGradient):
    window: Any
    spec: Any
    def __init__(self, window: Any, spec: Any) -> None: ...

class ChannelSum(Layer): ...

def split_rows(rows: Any, parallel: Any, facts: Any) -> Any: ...
