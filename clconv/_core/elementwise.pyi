from typing import Any

from .layer import Layer

class Add(Layer):
    count: Any
    def __init__(self, count: Any = ...) -> None: ...

class Concat(Layer):
    count: Any
    def __init__(self, count: Any) -> None: ...

class TakeChannels(Layer):
    first: Any
    count: Any
    def __init__(self, first: Any, count: Any) -> None: ...
