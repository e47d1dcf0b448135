"""Weights that come while the step before them computes, where there is room for them beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .._core.layout import Settle, Upload
from .steps import Schedule, Step


def hasten(schedule: Schedule, live: Sequence[int], room: int, block: int) -> Schedule:
    """A schedule whose uploads begin one step that computes earlier, where no more than `room` bytes are alive then.

    Args:
        live: bytes alive at each step.
    """
    steps: list[Step] = []
    alive: list[int] = []
    for step, nbytes in zip(schedule.steps, live, strict=False):
        at = len(steps)
        if isinstance(step.layer, Upload):
            while at and isinstance(steps[at - 1].layer, Settle):
                at -= 1
            size = step.outputs[0].value.spec.nbytes(block)
            most = max(alive[at - 1 :], default=room) + size
            if at and not isinstance(steps[at - 1].layer, Upload) and most <= room:
                at -= 1
                alive[at:] = [each + size for each in alive[at:]]
                nbytes = alive[at]
            else:
                at = len(steps)
        steps.insert(at, step)
        alive.insert(at, nbytes)
    return replace(schedule, steps=steps)
