from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..device import DeviceFacts
from ..shapes import TensorSpec

ACTIVATIONS: tuple[str, ...]

@dataclass(frozen=True)
class Choice:
    name: str
    tiles: tuple[tuple[str, int], ...] = ()
    workspace_bytes: int = 0

@dataclass(frozen=True)
class Cost:
    flops: int
    traffic_bytes: int

L = TypeVar("L", bound=Layer)

class Layer:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keeps: tuple[str, ...]
    updates: tuple[str, ...]
    inplace: Mapping[str, tuple[str, ...]]
    accepts: Mapping[str, tuple[str, ...]]
    pieces: tuple[str, ...]
    reinterprets: bool
    activates: bool
    slices: bool
    halves: tuple[str, ...]
    strips: int
    eager: bool
    bands: int
    activation: str
    slope: float
    @property
    def differentiable(self) -> bool: ...
    def infer(self, specs: Sequence[TensorSpec | None]) -> tuple[TensorSpec, ...]: ...
    def choices(
        self, facts: DeviceFacts, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec]
    ) -> list[Choice]: ...
    def offered(
        self, facts: DeviceFacts, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec]
    ) -> list[Choice]: ...
    def cost(self, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec], facts: DeviceFacts) -> Cost: ...
    def frugal(
        self, facts: DeviceFacts, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec]
    ) -> list[Choice]: ...
    def effort(
        self, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec], facts: DeviceFacts, choice: Choice
    ) -> Cost: ...
    def strip(
        self, rows: tuple[int, int], heights: Mapping[str, int], axis: int = ...
    ) -> tuple[Layer, dict[str, tuple[int, int]]]: ...
    def gradient(
        self, emit: Callable[..., Any], values: Mapping[str, Any], dy: Mapping[str, Any], wanted: set[str]
    ) -> dict[str, Any]: ...
    def record(self, rec: Any, ins: Sequence[Any], outs: Sequence[Any], work: Any, choice: Choice) -> None: ...
    def with_(self: L, **attributes: Any) -> L: ...
    def with_activation(self: L, activation: str, slope: float) -> L: ...
    def activation_args(self) -> tuple[int, float]: ...

class Residual(Layer):
    adds: bool

def looped(times: int, inside: int = 0) -> int: ...
def same_shape(who: str, specs: Sequence[TensorSpec]) -> TensorSpec: ...
def piece_args(x: Any, block: int, defines: dict[str, int]) -> list[Any]: ...
def weight_defines(w: Any) -> dict[str, int]: ...
def plane_of(tensor: Any) -> int: ...
def output_args(y: Any, block: int) -> list[Any]: ...
def residual_args(tensors: Sequence[Any]) -> list[Any]: ...
