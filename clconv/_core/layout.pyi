from typing import Any

from .layer import Layer

class ToBlocks(Layer): ...
class ToPlain(Layer): ...

class Flatten(Layer):
    inverse_of: Any
    def __init__(self, inverse_of: Any = ...) -> None: ...

class FilterSwap(Layer): ...

class ShiftRows(Layer):
    start: int
    rows: int
    def __init__(self, start: int, rows: int) -> None: ...
