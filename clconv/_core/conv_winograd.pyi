from typing import Any

from .layer import Layer, Residual
from .optimizer import WeightGradient

class WinogradFilter(Layer):
    flip: Any
    side: Any
    def __init__(self, flip: Any = ..., side: Any = ...) -> None: ...

class WinogradConv2d(Residual):
    pads: Any
    flip: Any
    taps: Any
    side: Any
    def __init__(self, pads: Any, flip: Any = ..., taps: Any = ..., side: Any = ...) -> None: ...

class WinogradGradW(WeightGradient):
    pads: Any
    spec: Any
    def __init__(self, pads: Any, spec: Any) -> None: ...
