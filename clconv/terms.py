"""What the plan of a prediction may do, and must not, besides keeping to a budget."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ArgumentError

SPILLS = ("host",)


@dataclass(frozen=True)
class Terms:
    """What is asked of plans in test-time mode.

    Attributes:
        exact: only the algorithms of the fastest plan: the same bits at every budget.
        spill: "host": activations may wait in host memory while nobody reads them; None: they may not.

    Raises:
        ArgumentError: another place.
    """

    exact: bool = False
    spill: str | None = None

    def __post_init__(self) -> None:
        if self.spill is not None and self.spill not in SPILLS:
            raise ArgumentError(f'spill: {self.spill!r} is no place for activations to wait; "host" would fit')

    def for_training(self, who: str) -> None:
        """Raises ArgumentError where they ask for what training does not do."""
        if self.spill is not None:
            raise ArgumentError(
                f'{who}: spill="{self.spill}" is for predictions; in training what does not fit is computed again'
            )


DEFAULT = Terms()
