"""What commands have in common on the screen: consoles, progress, figures."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ..device import Device
from ..program import PATIENCE_S
from ..train import Callback, History, Progress

BUSY = 0.5  # load per processor from which on measurements suffer
PLAIN_EVERY_S = 30.0  # between two lines within an epoch, where there is no terminal
PLAIN_WIDTH = 110  # columns where there is no terminal


def console(*, stderr: bool = False) -> Console:
    """Where a command writes; wide enough for tables where it is no terminal."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not made.is_terminal:
        made.width = max(made.width, PLAIN_WIDTH)
    return made


def device_line(device: Device) -> str:
    """The device as commands name it."""
    return f"device {device.key}  {device.facts.platform_name}: {device.facts.name}"


def busy() -> str:
    """A remark where so much runs beside that measurements suffer, else nothing."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= BUSY * (os.cpu_count() or 1):
        return ""
    return f"the machine is busy (load {load:.1f}): what is measured now may not hold later"


def percent(share: float) -> str:
    """0.98611 -> "98.61 %"."""
    return f"{100 * share:.2f} %"


def number(value: float) -> str:
    """A loss with four decimals, a large one in powers of ten."""
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.3e}"


@contextmanager
def counting(out: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for (done, total) calls, where `out` is a terminal; it is gone afterwards."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        task = bars.add_task(what, total=None, visible=False)
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


@contextmanager
def counting_built(out: Console, what: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[int, int], None]]]:
    """`counting` images and how many a second, with a bar for the kernels that are built first, if that takes long."""
    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    started = time.monotonic()
    first: list[tuple[float, int]] = []  # when some were done; those waited for kernels
    with Bars(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        kernels = bars.add_task("building kernels (kept for the next time)", total=None, visible=False, speed="")
        task = bars.add_task(what, total=None, visible=False, speed="")

        def building(done: int, total: int) -> None:
            late = time.monotonic() - started > PATIENCE_S
            bars.update(kernels, completed=done, total=total, visible=late and done < total)

        def show(done: int, total: int) -> None:
            now = time.monotonic()
            if done and not first:
                first.append((now, done))
            count, spent = (done - first[0][1], now - first[0][0]) if first else (0, 0.0)
            text = f"{count / spent:.1f} images/s" if count and spent else ""
            bars.update(task, completed=done, total=total, visible=True, speed=text)

        yield show, building


class TrainingDisplay(Callback):
    """A run of `fit` as it goes: one bar on a terminal, plain lines elsewhere, a line after each epoch.

    Args:
        out: where to. epochs: of the run. held_out: what the validation images are called.
    """

    def __init__(self, out: Console, epochs: int, held_out: str = "validation") -> None:
        self.out = out
        self.epochs = epochs
        self.held_out = held_out
        figures = TextColumn("{task.fields[figures]}")
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), figures, TimeRemainingColumn())
        self.bars = Bars(
            *columns, TextColumn("{task.fields[left]}"), console=out, transient=True, disable=not out.is_terminal
        )
        self._build: TaskID | None = None
        self._run: TaskID | None = None
        self._images_per_s = 0.0

    def __enter__(self) -> TrainingDisplay:
        self.bars.start()
        self._started = self._said = time.monotonic()
        self._build = self.bars.add_task("building kernels", total=None, visible=False, figures="", left="")
        self._timer = threading.Timer(PATIENCE_S, self._show_building)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        self.bars.stop()

    def _show_building(self) -> None:
        if self._build is not None:
            self.bars.update(self._build, visible=True)
            if not self.out.is_terminal:
                self.out.print("building kernels ... (kept for the next time)")

    def building(self, done: int, total: int) -> None:
        """For `fit(build_progress=...)`."""
        if self._build is not None:
            self.bars.update(self._build, completed=done, total=total, figures=f"{done}/{total}")

    def report(self, now: Progress) -> None:
        """For `fit(report=...)`."""
        total = now.epochs * now.steps
        if self._run is None:
            self._end_building()
            self._run = self.bars.add_task(
                "", total=total, completed=now.epoch * now.steps + now.step, figures="", left="left"
            )
        self._images_per_s = now.images_per_s
        where = f"epoch {now.epoch + 1}/{now.epochs}  step {now.step + 1}/{now.steps}"
        figures = f"loss {number(now.loss)}  accuracy {percent(now.accuracy)}  {now.images_per_s:.0f} images/s"
        self.bars.update(self._run, completed=now.epoch * now.steps + now.step + 1, description=where, figures=figures)
        if not self.out.is_terminal and time.monotonic() - self._said > PLAIN_EVERY_S:
            self._say(f"{where}  {figures}")

    def _end_building(self) -> None:
        self._timer.cancel()
        spent = time.monotonic() - self._started
        if self._build is not None:
            self.bars.remove_task(self._build)
        self._build = None
        if spent > PATIENCE_S:
            self._say(f"prepared in {spent:.1f} s")

    def on_epoch(self, epoch: int, history: History) -> None:
        """One line with the epoch's figures."""
        width = len(str(self.epochs))
        loss, share = number(history.loss[-1]), percent(history.accuracy[-1])
        line = f"epoch {epoch + 1:{width}}/{self.epochs}  loss {loss}  accuracy {share}"
        if history.val_loss:
            line += (
                f"  {self.held_out} loss {number(history.val_loss[-1])}  accuracy {percent(history.val_accuracy[-1])}"
            )
        self._say(f"{line}  {self._images_per_s:.0f} images/s  {history.seconds[-1]:.1f} s")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        self.out.print(line)


def stop(code: int) -> None:
    """Ends the command with an exit code."""
    click.get_current_context().exit(code)
