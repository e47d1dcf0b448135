"""The training loop: batches, schedule, validation, callbacks, checkpoints."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from ..data import Loader
from ..packing import Array
from .history import Callback, History
from .schedules import Constant
from .trainer import Trainer


@dataclass
class Progress:
    """Position of a run, for progress displays: counted from 0; `loss` is the epoch's mean so far."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_s: float


@dataclass
class Position:
    """Where a run stands: what a checkpoint stores besides weights and optimizer state."""

    epoch: int = 0
    step: int = 0  # steps done in the epoch
    loss_sum: float = 0.0
    right: int = 0
    seen: int = 0
    history: History = field(default_factory=History)


@dataclass
class Run:
    """Everything that `run` needs.

    Attributes:
        save: called with the position to write a checkpoint, or None. every: steps between checkpoints.
        report: called with the progress after each step, or None.
    """

    trainer: Trainer
    loader: Loader
    epochs: int
    rate: float
    schedule: Constant = field(default_factory=Constant)
    validation: Loader | None = None
    callbacks: Sequence[Callback] = ()
    save: Callable[[Position], None] | None = None
    every: int = 0
    report: Callable[[Progress], None] | None = None
    position: Position = field(default_factory=Position)


def run(r: Run) -> History:
    """Trains from `r.position` to the end of the last epoch.

    Ctrl-C ends the run after the step in hand, saves a checkpoint if there is one to save, and is noted in
    the history.

    Raises:
        NonFiniteError: the loss is not finite; the last checkpoint and the weights before the step remain.
    """
    p = r.position
    steps = r.loader.steps_per_epoch
    p.history.interrupted = False  # the checkpoint of an interrupted run says otherwise
    with _Interrupt() as interrupt:
        while p.epoch < r.epochs and not interrupt.wanted:
            if _epoch(r, p, steps, interrupt):
                break
    if interrupt.wanted:
        p.history.interrupted = True
        if r.save is not None:
            r.save(p)
    p.history.peak_bytes = r.trainer.session.allocator.peak_bytes
    return p.history


class _Interrupt:
    """Turns the first Ctrl-C into a wish that is granted between two steps; a second one interrupts at once.

    Where Ctrl-C is ignored, as in what a script starts in the background, it stays so; so does a handler that another
    language has installed.
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        found = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and found not in (signal.SIG_IGN, None):
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _epoch(r: Run, p: Position, steps: int, interrupt: _Interrupt) -> bool:
    """The rest of an epoch; True when a callback or Ctrl-C stops the run."""
    started, first_seen, rate = time.perf_counter(), p.seen, r.rate
    stop = False
    for batch in r.loader.epoch(p.epoch, p.step):
        rate = r.rate * r.schedule.factor(r.trainer.steps_done, r.epochs * steps)
        loss, right = r.trainer.step(batch.x, batch.y, rate)
        p.step += 1
        p.loss_sum += loss * len(batch.x)
        p.right += right
        p.seen += len(batch.x)
        if r.report is not None:
            per_s = (p.seen - first_seen) / (time.perf_counter() - started)
            mean, share = p.loss_sum / p.seen, p.right / p.seen
            r.report(Progress(p.epoch, r.epochs, p.step - 1, steps, mean, share, per_s))
        stop = _any([c.on_step(p.epoch, p.step - 1, loss) for c in r.callbacks])
        if stop or (interrupt.wanted and p.step < steps):
            return True
        if r.save is not None and r.every and r.trainer.steps_done % r.every == 0 and p.step < steps:
            r.save(p)
    history = p.history
    history.loss.append(p.loss_sum / p.seen)
    history.accuracy.append(p.right / p.seen)
    history.rate.append(rate)
    if r.validation is not None:
        loss, accuracy = evaluate(r.trainer.evaluate, r.validation)
        history.val_loss.append(loss)
        history.val_accuracy.append(accuracy)
    history.seconds.append(time.perf_counter() - started)
    stop = _any([c.on_epoch(p.epoch, history) for c in r.callbacks])
    p.epoch, p.step, p.loss_sum, p.right, p.seen = p.epoch + 1, 0, 0.0, 0, 0
    if r.save is not None:
        r.save(p)
    return stop


def evaluate(run: Callable[[Array, Array], tuple[Array, Array]], loader: Loader) -> tuple[float, float]:
    """Mean loss and share of right answers over a loader's images.

    Args:
        run: from images and labels to the loss and the correctness (0 or 1) of each image, in test-time mode.
    """
    losses, right, count = 0.0, 0, 0
    for batch in loader.epoch(0):
        loss, correct = run(batch.x, batch.y)
        losses += float(np.sum(loss, dtype=np.float64))
        right += int(np.sum(correct))
        count += len(batch.x)
    return losses / count, right / count


def _any(answers: Sequence[bool | None]) -> bool:
    return any(bool(answer) for answer in answers)
