from typing import Any

class Window:
    kernel: Any
    stride: Any
    pads: Any
    dilation: Any
    rounding: Any
    def __init__(
        self, kernel: Any, stride: Any = ..., pads: Any = ..., dilation: Any = ..., rounding: Any = ...
    ) -> None: ...
    def strip(self, rows: tuple[int, int], height: int, axis: int = ...) -> tuple[Window, tuple[int, int]]: ...

def set_axis(pair: tuple[Any, Any], axis: int, item: Any) -> tuple[Any, Any]: ...
