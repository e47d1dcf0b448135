from typing import Any

import numpy.typing as npt

from ..device import Device
from ..shapes import TensorSpec

class Slab:
    nbytes: int
    tag: str
    @property
    def released(self) -> bool: ...
    def release(self) -> None: ...

class Allocator:
    device: Device
    budget: int | None
    live_bytes: int
    peak_bytes: int
    by_tag: dict[str, int]
    def __init__(self, device: Device, budget: int | None = None) -> None: ...
    def allocate(self, nbytes: int, tag: str, who: str = "memory") -> Slab: ...
    def wrap(self, content: Any, tag: str, who: str = "memory", writable: bool = False) -> Slab: ...
    def fill(self, slab: Slab, byte: int = 0) -> None: ...

class Tensor:
    slab: Slab
    offset_bytes: int
    nbytes: int
    spec: TensorSpec
    plane: int
    depth: int
    def __init__(
        self, slab: Slab, offset_bytes: int, spec: TensorSpec | None, nbytes: int, plane: int = 0, depth: int = 0
    ) -> None: ...
    @property
    def offset(self) -> int: ...
    def part(self, offset_bytes: int, nbytes: int, spec: TensorSpec | None) -> Tensor: ...
    def write(self, array: npt.NDArray[Any], who: str = "upload", wait: bool = True) -> None: ...
    def read(self, array: npt.NDArray[Any], who: str = "download") -> None: ...
    def fill(self, byte: int = 0) -> None: ...
