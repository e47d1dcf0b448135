"""A convolution with candidates that hang, crash, and compute wrongly; the child process imports it by name."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clconv._core.conv import Conv2d
from clconv._core.layer import Choice
from clconv.device import DeviceFacts
from clconv.shapes import TensorSpec


class Fake(Conv2d):
    """Offers `names` behind its two best choices; the first runs twice over, so that the second is the fastest."""

    def __init__(self, window: Any, names: tuple[str, ...]) -> None:
        super().__init__(window)
        self.names = names

    def choices(
        self, facts: DeviceFacts, specs: Sequence[TensorSpec | None], outs: Sequence[TensorSpec]
    ) -> list[Choice]:
        slow, fast = super().choices(facts, specs, outs)[:2]
        fakes = [replace(slow, name=f"{name}, {slow.name}") for name in self.names]
        return [replace(slow, name=f"slow, {slow.name}"), *fakes, replace(fast, name=f"fast, {fast.name}")]

    def record(self, rec: Any, ins: Sequence[Any], outs: Sequence[Any], work: Any, choice: Choice) -> None:
        kind, _, algorithm = choice.name.partition(", ")
        if kind == "hangs":
            time.sleep(1000)
        if kind == "crashes":
            os.abort()
        if kind == "leaves":
            os._exit(3)
        if kind == "writes nothing":
            return
        if kind == "is wrong":
            ins = [ins[0], ins[1], None, *ins[3:]]  # the bias is forgotten
        for _ in range(20 if kind == "slow" else 1):
            super().record(rec, ins, outs, work, replace(choice, name=algorithm))
