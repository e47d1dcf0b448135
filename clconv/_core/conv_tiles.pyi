from collections.abc import Sequence
from typing import Any

from ..device import DeviceFacts
from ..shapes import TensorSpec
from .layer import Choice
from .recorder import Recorder

def ceil_div(a: int, b: int) -> int: ...
def is_pointwise(window: Any) -> bool: ...
def columns_of(window: Any, x: TensorSpec, y: TensorSpec) -> int: ...
def register_tiles(facts: DeviceFacts, w: TensorSpec, columns: int) -> list[Choice]: ...
def launch_direct(
    rec: Recorder,
    window: Any,
    ins: Sequence[Any],
    y: Any,
    extents: tuple[int, int, int, int],
    per_row: int,
    defines: dict[str, int],
    activation: Sequence[Any],
) -> None: ...
def gradient_tile(facts: DeviceFacts, channels: int, kernel_w: int, planar: bool) -> dict[str, int]: ...
