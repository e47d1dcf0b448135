from typing import Any

from .layer import Layer

class Response:
    size: Any
    share: Any
    beta: Any
    k: Any
    across: Any
    def __init__(self, size: Any, share: Any, beta: Any, k: Any, across: Any) -> None: ...

class LocalResponse(Layer):
    response: Any
    def __init__(self, response: Any) -> None: ...

class LocalResponseGrad(Layer):
    response: Any
    def __init__(self, response: Any) -> None: ...
