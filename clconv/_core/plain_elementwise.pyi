from collections.abc import Callable, Sequence
from typing import Any

from .layer import Layer

UNARY: tuple[str, ...]
UNARY_KEEPS: dict[str, tuple[str, ...]]
BINARY: tuple[str, ...]

class Unary(Layer):
    op: str
    a: float
    b: float
    def __init__(self, op: str, a: float = 0.0, b: float = 0.0) -> None: ...

class UnaryGrad(Layer):
    def __init__(self, op: str, a: float, b: float) -> None: ...

class Binary(Layer):
    op: str
    def __init__(self, op: str) -> None: ...

def broadcast(who: str, a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]: ...
def broadcast_strides(shape: Sequence[int], target: Sequence[int]) -> list[int]: ...
def sum_to(emit: Callable[..., Any], value: Any, shape: Sequence[int]) -> Any: ...
