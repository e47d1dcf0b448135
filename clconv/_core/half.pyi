from .layer import Layer

class HalfCopy(Layer):
    kernel: str
    dtype: str

class ToHalf(HalfCopy): ...
class ToFloat(HalfCopy): ...
