from collections.abc import Sequence
from fractions import Fraction

from .layer import Layer

NEAREST_MODES: tuple[str, ...]
COORDINATE_MODES: tuple[str, ...]

class Resize(Layer):
    mode: str
    sizes: tuple[int, ...] | None
    scales: tuple[Fraction, ...] | None
    coordinate_mode: str
    nearest_mode: str
    def __init__(
        self,
        mode: str,
        sizes: Sequence[int] | None = None,
        scales: Sequence[float] | None = None,
        coordinate_mode: str = "half_pixel",
        nearest_mode: str = "round_prefer_floor",
    ) -> None: ...
