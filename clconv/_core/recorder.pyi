from collections.abc import Mapping, Sequence
from typing import Any

from ..device import Device, DeviceFacts
from ..shapes import TensorSpec
from .executor import Recording

Program = tuple[str, tuple[tuple[str, str], ...]]

class Launch:
    file: str
    kernel: str
    defines: tuple[tuple[str, str], ...]
    global_size: tuple[int, ...]
    local_size: tuple[int, ...] | None
    args: Sequence[Any]
    label: str
    waits: bool
    def __init__(
        self,
        file: str,
        kernel: str,
        defines: Mapping[str, object],
        global_size: Sequence[int],
        local_size: Sequence[int] | None,
        args: Sequence[Any],
        label: str,
        waits: bool = False,
    ) -> None: ...
    @property
    def program(self) -> Program: ...

class HostTensor:
    content: Any
    spec: TensorSpec
    plane: int
    def __init__(self, content: Any, spec: TensorSpec, plane: int = ...) -> None: ...

class Copy:
    host: Any
    tensor: Any
    label: str
    down: bool
    row_bytes: int
    rows: int
    planes: int
    pitches: tuple[int, int]
    host_pitches: tuple[int, int]
    def extent(self, pitches: tuple[int, int]) -> int: ...

class Recorder:
    facts: DeviceFacts
    label: str
    launches: list[Launch | Copy]
    def __init__(self, facts: DeviceFacts) -> None: ...
    def launch(
        self,
        file: str,
        kernel: str,
        global_size: Sequence[int],
        args: Sequence[Any],
        *,
        defines: Mapping[str, object] | None = None,
        local_size: Sequence[int] | None = None,
        iterations: int = 0,
    ) -> None: ...
    def copy(self, source: Any, target: Any) -> None: ...
    def move(self, host: HostTensor, tensor: Any, *, down: bool, column: int = ...) -> None: ...
    def settle(self) -> None: ...
    def programs(self) -> list[Program]: ...
    def finish(self, device: Device, programs: Mapping[Program, Any]) -> Recording: ...
