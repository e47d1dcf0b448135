from typing import Any

class GradProduct:
    pixels: Any
    k: Any
    groups: Any
    block: Any
    depth: Any
    group_blocks: Any
    pairs: Any
    rows: Any
    def __init__(self, pixels: Any, k: Any, c: Any, groups: Any, taps: Any, block: Any) -> None: ...
    @property
    def chunks(self) -> int: ...
    def part_bytes(self) -> int: ...

def grad_choices(facts: Any, product: GradProduct) -> list[Any]: ...
def conv_grad_choices(facts: Any, spec: Any, dy: Any) -> list[Any]: ...
def record_conv_grad(
    rec: Any, window: Any, spec: Any, x: Any, dy: Any, total: Any, update: Any, work: Any, choice: Any
) -> int: ...
def record_grad(
    rec: Any,
    product: GradProduct,
    x_args: Any,
    defines: Any,
    c_total: Any,
    size: Any,
    dy: Any,
    total: Any,
    update: Any,
    work: Any,
    choice: Any,
    window_args: Any,
    out_size: Any,
) -> int: ...
def channel_sum_choices(facts: Any, dy: Any, total: Any) -> list[Any]: ...
def record_channel_sum(rec: Any, dy: Any, work: Any, chunks: Any) -> None: ...
