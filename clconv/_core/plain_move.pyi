from collections.abc import Sequence
from typing import Any

from .layer import Layer

PAD_MODES: tuple[str, ...]

class Move(Layer): ...

class Reshape(Move):
    shape: tuple[int, ...]
    def __init__(self, shape: Sequence[int]) -> None: ...

class Permute(Move):
    perm: tuple[int, ...]
    def __init__(self, perm: Sequence[int]) -> None: ...

class Slice(Move):
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    shape: tuple[int, ...]
    def __init__(self, starts: Sequence[int], steps: Sequence[int], shape: Sequence[int]) -> None: ...

class SliceGrad(Move):
    def __init__(self, part: Slice, shape: Sequence[int]) -> None: ...

class PadTo(Move):
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: float
    def __init__(
        self, before: Sequence[int], after: Sequence[int], mode: str = "constant", value: float = 0.0
    ) -> None: ...

class Tile(Move):
    repeats: tuple[int, ...]
    def __init__(self, repeats: Sequence[int]) -> None: ...

class ConcatPlain(Move):
    axis: int
    def __init__(self, axis: int, count: int) -> None: ...

class Expand(Move):
    shape: tuple[int, ...]
    def __init__(self, shape: Sequence[int]) -> None: ...

class GatherPlain(Move):
    axis: int
    def __init__(self, axis: int, indices: Any = None) -> None: ...

class SpaceToDepth(Move):
    block: int
    def __init__(self, block: int) -> None: ...

class DepthToSpace(Move):
    block: int
    mode: str
    def __init__(self, block: int, mode: str = "DCR") -> None: ...
