from .layer import Layer

class MatMulPlain(Layer):
    trans_a: bool
    trans_b: bool
    def __init__(self, trans_a: bool = False, trans_b: bool = False) -> None: ...

class Gemm(Layer):
    alpha: float
    beta: float
    trans_a: bool
    trans_b: bool
    def __init__(
        self, alpha: float = 1.0, beta: float = 1.0, trans_a: bool | int = False, trans_b: bool | int = False
    ) -> None: ...
