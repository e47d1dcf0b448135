from collections.abc import Sequence
from typing import Any

from ..device import DeviceFacts
from ..shapes import TensorSpec
from .layer import Choice, Cost
from .recorder import Recorder

def ceil_div(a: int, b: int) -> int: ...
def is_pointwise(window: Any) -> bool: ...
def rows_of(window: Any, y: TensorSpec) -> tuple[int, int]: ...
def register_tiles(facts: DeviceFacts, w: TensorSpec, rows: int, columns: int) -> list[Choice]: ...
def direct_effort(cost: Cost, choice: Choice, facts: DeviceFacts, w: TensorSpec, rows: int, columns: int) -> Cost: ...
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
