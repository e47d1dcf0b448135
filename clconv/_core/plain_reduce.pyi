from collections.abc import Mapping, Sequence

from .layer import Layer

OPERATIONS: Mapping[str, tuple[str, int]]

class Reduce(Layer):
    op: str
    axes: tuple[int, ...] | None
    keepdims: bool
    def __init__(self, op: str, axes: Sequence[int] | None = None, keepdims: bool = True) -> None: ...

class ArgMax(Layer):
    axis: int
    keepdims: bool
    last: bool
    least: bool
    def __init__(self, axis: int = 0, keepdims: bool = True, last: bool = False, least: bool = False) -> None: ...

class SoftmaxAxis(Layer):
    axes_from: int
    axes_to: int
    log: bool
    def __init__(self, axes_from: int, axes_to: int, log: bool = False) -> None: ...

class InstanceNorm(Layer):
    eps: float
    def __init__(self, eps: float = 1e-5) -> None: ...
