from typing import Any

from .layer import Layer

class InvertedResidual(Layer):
    window: Any
    inner: tuple[tuple[str, float], ...]
    expands: bool
    adds: bool
    def __init__(
        self, window: Any, inner: tuple[tuple[str, float], ...], expands: bool = True, adds: bool = False
    ) -> None: ...

def inverted_residual(expand: Layer | None, depthwise: Layer, project: Layer) -> InvertedResidual | None: ...
