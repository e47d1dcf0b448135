"""What plans may do, and must not, besides keeping to a budget."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ArgumentError

SPILLS = ("host",)
STORAGES = ("float16",)


@dataclass(frozen=True)
class Terms:
    """What is asked of plans.

    Attributes:
        exact: (test-time mode) only the algorithms of the fastest plan: the same bits at every budget.
        spill: (test-time mode) "host": activations may wait in host memory while nobody reads them; None: they may not.
        storage: "float16": activations may wait so while nobody reads them, in training too; in test-time mode weights
            are stored so. Arithmetic stays float32. None: all is float32.

    Raises:
        ArgumentError: another place or type, or float16 with `exact`.
    """

    exact: bool = False
    spill: str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        if self.spill is not None and self.spill not in SPILLS:
            raise ArgumentError(f'spill: {self.spill!r} is no place for activations to wait; "host" would fit')
        if self.storage is not None and self.storage not in STORAGES:
            raise ArgumentError(f'storage: {self.storage!r} is no type to store in; "float16" would fit')
        if self.storage is not None and self.exact:
            raise ArgumentError(f'storage: "{self.storage}" changes results, which exact forbids; leave out either')

    def for_training(self, who: str) -> None:
        """Raises ArgumentError where they ask for what training does not do."""
        if self.spill is not None:
            raise ArgumentError(
                f'{who}: spill="{self.spill}" is for predictions; in training what does not fit is computed again'
            )


DEFAULT = Terms()
