"""What a run of `fit` has measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class History:
    """One entry per epoch; validation lists are empty without validation data.

    Attributes:
        loss: mean training loss. accuracy: share of right answers while training (0 for "mse").
        val_loss, val_accuracy: the same on the validation data after the epoch, in test-time mode.
        rate: learning rate of the epoch's last step. seconds: wall time of the epoch.
        interrupted: the run was stopped from the keyboard, after saving its checkpoint if it had one.
        peak_bytes: device memory that the run took, as planned and as measured.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_accuracy: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False
    peak_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


@dataclass
class Callback:
    """Base of callbacks: override what is needed. Returning True from a method stops the run after it."""

    def on_step(self, epoch: int, step: int, loss: float) -> bool | None:
        """After each step; `step` counts within the epoch from 0."""
        return None

    def on_epoch(self, epoch: int, history: History) -> bool | None:
        """After each epoch, counted from 0, with its figures in `history`."""
        return None


class PrintEpochs(Callback):
    """One line per epoch on standard output."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, epoch: int, history: History) -> None:
        line = f"epoch {epoch + 1}/{self.epochs}  loss {history.loss[-1]:.4f}  accuracy {history.accuracy[-1]:.4f}"
        if history.val_loss:
            line += f"  validation loss {history.val_loss[-1]:.4f}  accuracy {history.val_accuracy[-1]:.4f}"
        print(f"{line}  ({history.seconds[-1]:.1f} s)", flush=True)
