"""Pictures: the filters of a convolution, the curves of a training run."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import ArgumentError
from .files import replacing
from .packing import Array
from .train.history import History

if TYPE_CHECKING:
    from .net import Net

GAP = 1  # pixels between two maps, before enlarging
TILE = 48  # pixels that a map should have at least, after enlarging
LARGEST = 2048  # pixels per side that a picture should not pass
MOST = 64  # filters, and input channels of each, that are shown


def plot_filters(net: Net, layer: str, path: str | os.PathLike[str]) -> None:
    """Writes the filters of a convolution as a picture; the file's ending says its format.

    Filters that read a grey or colour image are drawn as images in a grid; of others, each row is a filter and
    each column an input channel, in grey, at most 64 of both. Each filter is scaled to its largest weight: grey
    is 0.

    Raises:
        ArgumentError: the network has no such layer, or it has no filters; the layers that have are named.
        OSError: the file cannot be written; what was there before is intact.
    """
    _write(filter_image(_filters(net, layer)), path)


def _filters(net: Net, layer: str) -> Array:
    """Weights of a convolution as (K, C, R, S)."""
    kinds = {entry.name: type(entry.layer).__name__ for entry in net.network.entries}
    drawable = [name for name, kind in kinds.items() if kind in ("Conv", "ConvTranspose")]
    if layer not in drawable:
        what = (
            f"has no layer {layer!r}" if layer not in kinds else f"{layer} is {kinds[layer]}, without filters to draw"
        )
        some = ", ".join(drawable[:6]) + (", ..." if len(drawable) > 6 else "") if drawable else "none"
        raise ArgumentError(f"plot_filters: the network: {what}; convolutions are {some}")
    weight = net.get_weights()[f"{layer}.weight"]
    return weight.swapaxes(0, 1) if kinds[layer] == "ConvTranspose" else weight


def filter_image(weight: Array) -> Image.Image:
    """A picture of filters (K, C, R, S); see `plot_filters`."""
    weight = np.asarray(weight, np.float64)[:MOST, :MOST]
    largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    pixels = (127.5 + 127.5 * weight / np.where(largest > 0, largest, 1)).round().astype(np.uint8)
    k, c, r, s = pixels.shape
    if c == 3:
        tiles, columns = pixels.transpose(0, 2, 3, 1), math.ceil(math.sqrt(k))
    else:
        tiles, columns = pixels.reshape(k * c, r, s, 1), c if c > 1 else math.ceil(math.sqrt(k))
    return _grid(tiles, columns)


def _grid(tiles: Array, columns: int) -> Image.Image:
    """Tiles (count, R, S, 1 or 3) row by row with white gaps, each pixel enlarged to a square."""
    count, r, s, channels = tiles.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (r + GAP) + GAP, columns * (s + GAP) + GAP, channels), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = (index // columns) * (r + GAP) + GAP, (index % columns) * (s + GAP) + GAP
        sheet[top : top + r, left : left + s] = tile
    scale = max(1, min(math.ceil(TILE / max(r, s)), LARGEST // max(sheet.shape)))
    enlarged = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(enlarged if channels == 3 else enlarged[:, :, 0])


def _write(image: Image.Image, path: str | os.PathLike[str]) -> None:
    ending = Path(path).suffix.lower()
    if ending not in Image.registered_extensions():
        raise ArgumentError(f"plot: {path}: the ending {ending!r} names no image format; .png would fit")
    with replacing(Path(path)) as temporary:
        image.save(temporary, format=Image.registered_extensions()[ending])


def plot_history(history: History, path: str | os.PathLike[str]) -> None:
    """Draws losses and accuracies over the epochs; the file's ending says its format (.png, .svg, .pdf).

    Raises:
        ArgumentError: matplotlib is not installed, or the history is empty.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ArgumentError('plot_history: needs matplotlib; pip install "clconv[plot]" brings it') from error
    if not history.loss:
        raise ArgumentError("plot_history: the history has no epochs; train for at least one")
    epochs = range(1, len(history.loss) + 1)
    scored = any(history.accuracy)  # there are no right answers in a regression
    figure = Figure(figsize=(9 if scored else 5, 3.5), layout="constrained")
    panels = [("loss", history.loss, history.val_loss)]
    if scored:
        panels.append(("accuracy", history.accuracy, history.val_accuracy))
    for number, (title, training, validation) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        axes.plot(epochs, training, marker=".", label="training")
        if validation:
            axes.plot(epochs[: len(validation)], validation, marker=".", label="validation")
        axes.set(title=title, xlabel="epoch", ylim=(0, None) if title == "loss" else None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=150)
