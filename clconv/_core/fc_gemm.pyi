from typing import Any

def rows_choices(facts: Any, batch: Any, length: Any, k: Any, swapped: Any = ...) -> list[Any]: ...
def record_rows(
    rec: Any,
    batch: Any,
    length: Any,
    k: Any,
    x: Any,
    w: Any,
    b: Any,
    y: Any,
    work: Any,
    choice: Any,
    activation: Any,
    swapped: Any = ...,
) -> None: ...
def rows_grad_choices(facts: Any, batch: Any, length: Any, k: Any) -> list[Any]: ...
def record_rows_grad(
    rec: Any, batch: Any, length: Any, k: Any, x: Any, dy: Any, total: Any, update: Any, work: Any, choice: Any
) -> int: ...
