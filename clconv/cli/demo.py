"""`clconv demo`: a small network on scikit-learn's handwritten digits, from nothing to predictions."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.console import Console

from ..data import ArrayDataset, Augmentation, Dataset, Normalization, Subset, split
from ..errors import DataError
from ..net import Net
from ..train import SGD, Cosine, History
from .display import TrainingDisplay, console, device_line, percent, stop
from .memory import measured, memory_table, planned, used
from .options import device_option
from .picture import choose_shown, draw_predictions, save_picture

PATTERN = (
    "INPUT 8x8x1 -> [CONV 3x3x32 -> BN -> RELU]*2 -> POOL -> [CONV 3x3x64 -> BN -> RELU]*2 -> DROPOUT 0.5 -> FC 10"
)
OPTIMIZER = SGD(0.1, weight_decay=2e-3, momentum=0.9, nesterov=True)
BATCH = 64
HELD_OUT = 0.2
SHOWN = 48  # digits in the picture


@click.command()
@click.option("--out", default="demo.png", show_default=True, metavar="FILE", help="The picture of predictions.")
@click.option(
    "--epochs", default=40, type=click.IntRange(1), show_default=True, metavar="N", help="Passes over the data."
)
@click.option(
    "--seed", default=0, type=click.IntRange(0), show_default=True, metavar="N", help="Of split and training."
)
@device_option
def demo(out: str, epochs: int, seed: int, device: str | None) -> None:
    """Train on handwritten digits, here and now, and show what it took.

    The data are scikit-learn's 1797 digits of 8x8 pixels; a fifth is held out. The demo trains a network of
    four convolutions, reads the fifth in test-time mode, prints how much device memory was planned and taken,
    and writes a picture of some predictions.
    """
    picture = Path(out)
    if picture.suffix.lower() != ".png":
        raise DataError(f"{out}: the picture is a .png file; {picture.with_suffix('.png').name} would fit")
    if not picture.parent.is_dir():
        raise DataError(f"{out}: {picture.parent} is no folder; the picture could not be written")
    screen = console()
    training, held_out = split(_digits(), HELD_OUT, seed)
    with Net(PATTERN, device=device, seed=seed) as net:
        screen.print(device_line(net.device))
        screen.print(f"{len(training)} digits to learn from, {len(held_out)} held out")
        screen.print(f"{PATTERN}: {net.parameter_count:,} parameters")
        net.normalization = Normalization.of(training)
        if _train(net, training, held_out, epochs, seed, screen).interrupted:
            screen.print("interrupted")
            stop(130)
        images = held_out.images(np.arange(len(held_out)))
        answers = net.predict(images, batch_size=BATCH).argmax(axis=1)
        accuracy = float((answers == held_out.labels).mean())
        wrong = int((answers != held_out.labels).sum())
        screen.print(f"\naccuracy {percent(accuracy)}: {wrong} of {len(held_out)} held-out digits are read wrongly\n")
        _print_memory(net, screen)
    chosen = choose_shown(held_out.labels, answers, SHOWN)
    title = f"clconv demo: {percent(accuracy)} of {len(held_out)} digits that it had not seen"
    save_picture(draw_predictions(images[chosen], held_out.labels[chosen], answers[chosen], title), out)
    screen.print(f"\nsome predictions: {out}")


def _digits() -> Dataset:
    """The digits as uint8 images."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError(
            "demo: the digits come with scikit-learn, which is not installed; "
            'pip install "clconv[demo]" or pip install scikit-learn brings it'
        ) from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # their values go from 0 to 16
    return ArrayDataset(images, digits.target.astype(np.int32), classes=[str(i) for i in range(10)], name="digits")


def _train(net: Net, training: Subset, held_out: Subset, epochs: int, seed: int, screen: Console) -> History:
    with TrainingDisplay(screen, epochs, "held-out") as display:
        return net.fit(
            training,
            epochs=epochs,
            batch_size=BATCH,
            optimizer=OPTIMIZER,
            schedule=Cosine(),
            validation=held_out,
            augmentation=Augmentation(crop_pad=1),
            seed=seed,
            callbacks=[display],
            verbose=False,
            report=display.report,
            build_progress=display.building,
        )


def _print_memory(net: Net, screen: Console) -> None:
    """What was planned beside what the allocator counted, for both modes."""
    columns = {}
    for mode, name in (("train", "training"), ("test", "test-time mode")):
        usage = used(net, mode)
        assert usage is not None
        plan = net.plan(usage.batch, mode, optimizer=OPTIMIZER)
        columns[name] = (planned(plan), measured(usage))
    screen.print(memory_table(columns))
    equal = all(before["peak"] == after["peak"] for before, after in columns.values())
    screen.print("the peaks are as planned, to the byte" if equal else "the peaks are NOT as planned")
