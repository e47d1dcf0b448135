from typing import Any

from .layer import Layer

FLOPS_PER_VALUE: int

class Dropout(Layer):
    rate: Any
    layer_id: Any
    def __init__(self, rate: Any, layer_id: Any) -> None: ...
