from .layer import Layer

PIXELS: int

class GroupNorm(Layer):
    groups: int
    eps: float
    def __init__(self, groups: int, eps: float) -> None: ...

class ChannelNorm(Layer):
    eps: float
    def __init__(self, eps: float) -> None: ...
