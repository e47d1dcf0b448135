from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..device import Device, DeviceFacts

Program = tuple[str, tuple[tuple[str, str], ...]]

class Launch:
    file: str
    kernel: str
    defines: tuple[tuple[str, str], ...]
    global_size: tuple[int, ...]
    local_size: tuple[int, ...] | None
    args: Sequence[Any]
    label: str
    @property
    def program(self) -> Program: ...

class Recorder:
    facts: DeviceFacts
    label: str
    launches: list[Launch]
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
    def programs(self) -> list[Program]: ...
    def finish(self, device: Device, programs: Mapping[Program, Any]) -> Recording: ...

class Recording:
    labels: list[str]
    def __len__(self) -> int: ...
    def run(self) -> None: ...
    def run_stepwise(self, progress: Callable[[int, int], None]) -> None: ...
    def wait(self) -> None: ...
    def profile(self, queue: Any) -> list[tuple[str, float, float]]: ...
