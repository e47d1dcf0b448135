from .layer import Layer

class TakePixels(Layer):
    stride: tuple[int, int]
    size: tuple[int, int]
    def __init__(self, stride: tuple[int, int], size: tuple[int, int]) -> None: ...

class SpreadPixels(Layer):
    stride: tuple[int, int]
    size: tuple[int, int]
    adds: bool
    def __init__(self, stride: tuple[int, int], size: tuple[int, int]) -> None: ...
