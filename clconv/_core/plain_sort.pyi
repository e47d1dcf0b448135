from .layer import Layer

class TopK(Layer):
    k: int
    axis: int
    largest: bool
    def __init__(self, k: int, axis: int = -1, largest: bool = True) -> None: ...
