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
    def strip(self, rows: tuple[int, int], height: int) -> tuple[Window, tuple[int, int]]: ...
