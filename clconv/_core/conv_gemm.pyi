from typing import Any

LAUNCH_CYCLES: int
BYTES_PER_CYCLE: int

class Phase:
    size: Any
    scale: Any
    shift: Any
    step: Any
    taps: Any
    tap: Any
    out: Any
    def __init__(self, size: Any, scale: Any, shift: Any, step: Any, taps: Any, tap: Any, out: Any) -> None: ...
    def args(self) -> list[Any]: ...

class Product:
    batch: Any
    plane: Any
    width: Any
    k: Any
    groups: Any
    taps: Any
    block: Any
    depth: Any
    group_blocks: Any
    reduction: Any
    def __init__(
        self,
        batch: Any,
        plane: Any,
        width: Any,
        k: Any,
        c: Any,
        groups: Any,
        taps: Any,
        block: Any,
        linear: Any = ...,
        pointwise: Any = ...,
        whole: Any = ...,
    ) -> None: ...
    @property
    def chunks(self) -> int: ...
    def part_bytes(self) -> int: ...

def forward_phase(window: Any, size: Any) -> Phase: ...
def transposed_phases(window: Any, size: Any) -> list[Phase]: ...
def gemm_choices(facts: Any, product: Product, split: Any = ...) -> list[Any]: ...
def conv_choices(facts: Any, w: Any, y: Any, stride: Any = ...) -> list[Any]: ...
def conv_cycles(facts: Any, w: Any, y: Any) -> float: ...
def gemm_cycles(facts: Any, product: Product) -> float: ...
def record_conv(
    rec: Any, phases: Any, ins: Any, y: Any, work: Any, choice: Any, activation: Any, stride: Any = ...
) -> None: ...
def record_gemm(
    rec: Any,
    product: Product,
    phases: Any,
    x_args: Any,
    defines: Any,
    c_total: Any,
    size: Any,
    w: Any,
    out: Any,
    work: Any,
    choice: Any,
    activation: Any,
) -> None: ...
def record_sum(rec: Any, product: Product, out: Any, work: Any, parts: Any, activation: Any) -> None: ...
