"""Pictures: the filters of a convolution, the curves of a training run, the memory of a plan."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .errors import ArgumentError, some_of
from .files import replacing
from .packing import Array
from .plan import Plan
from .timeline import Timeline, timeline
from .train.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
            f"{layer} is {kinds[layer]}, without filters to draw" if layer in kinds else f"there is no layer {layer!r}"
        )
        some = some_of(drawable) or "none"
        raise ArgumentError(f"plot_filters: {what}; convolutions are {some}")
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
    figure_of = _matplotlib("plot_history")
    from matplotlib.ticker import MaxNLocator

    if not history.loss:
        raise ArgumentError("plot_history: the history has no epochs; train for at least one")
    epochs = range(1, len(history.loss) + 1)
    scored = any(history.accuracy)  # there are no right answers in a regression
    figure = figure_of(figsize=(9 if scored else 5, 3.5), layout="constrained")
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
    _save(figure, path)


def _matplotlib(who: str) -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(f'{who}: needs matplotlib; pip install "clconv[plot]" brings it') from error
    return Figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    ending = Path(path).suffix.lower().lstrip(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if ending not in known:
        raise ArgumentError(f"plot: {path}: the ending .{ending} names no picture format; .png or .svg would fit")
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)


COLOURS = {
    "weights": "#4c72b0",
    "optimizer state": "#8172b3",
    "gradients of parts of a batch": "#937860",
    "counters": "#222222",
    "activations as float16": "#2e6b3e",
    "activations": "#55a868",
    "gradients": "#dd8452",
    "workspace": "#ccb974",
    "staging": "#64b5cd",
}
FAR = 4  # a plan so many times larger is drawn in a panel of its own
MOST_NAMES = 40  # layers that are named below a picture
VISIBLE = 500  # a kind below one part in so many of what is drawn has no colour in the legend


def plot_plan(
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    budget: int | None = None,
    unlimited: Plan | None = None,
    title: str = "",
) -> None:
    """Draws the bytes alive over the steps of a plan, by kind; the file's ending says its format (.png, .svg, .pdf).

    Args:
        budget: in bytes, drawn as a line. unlimited: the plan of the same network without a budget, drawn in grey
            behind; where it has other nodes, stretched to the same width.

    Raises:
        ArgumentError: matplotlib is not installed, or the ending names no format.
    """
    figure = _matplotlib("plot_plan")(figsize=(11, 5), layout="constrained")
    line = timeline(plan)
    other = None if unlimited is None else timeline(unlimited)
    most = max(line.held_bytes, budget or 0)
    all_of_it = max(most, max(other.totals)) if other is not None else most
    if other is not None and all_of_it > FAR * most:
        upper, axes = figure.subplots(2, height_ratios=[1, 2], sharex=True)
        _draw(upper, line, all_of_it, budget, other.places, other.totals, f"all without a budget, {_mib(all_of_it)}")
        upper.set(ylim=(0, 1.05 * all_of_it / 2**20), ylabel="MiB")
        upper.tick_params(bottom=False)
        behind, label = other.transient, "without a budget, weights left out"
        most = max(most, *behind)
    else:
        axes, most = figure.add_subplot(), all_of_it
        behind, label = (other.totals, f"without a budget, {_mib(max(other.totals))}") if other else ([], "")
    _draw(axes, line, most, budget, other.places if other else (), behind, label)
    _name_layers(axes, plan)
    axes.set(ylabel="MiB", xlim=(0, line.places[-1]), ylim=(0, 1.05 * most / 2**20))
    subtitle = f"peak {_mib(line.held_bytes)}"
    for nbytes, how in ((line.mapped_bytes, "are read from a mapped file"), (line.streamed_bytes, "come in parts")):
        subtitle += f"; {_mib(nbytes)} of weights {how}" if nbytes else ""
    subtitle += f"; {_mib(line.host_bytes)} of activations wait in host memory" if line.host_bytes else ""
    figure.suptitle(f"{title}\n{subtitle}" if title else subtitle, fontsize=10)
    pairs = [pair for each in figure.axes for pair in zip(*each.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in pairs}
    figure.legend(named.values(), named.keys(), frameon=False, fontsize=8, loc="outside right upper")
    _save(figure, path)


def _draw(
    axes: Axes,
    line: Timeline,
    most: int,
    budget: int | None,
    places: Sequence[float],
    behind: Sequence[int],
    label: str,
) -> None:
    """One panel: grey behind, kinds, lines; `places` and `behind` are of the plan behind."""
    if behind:
        across = np.array(places) * (line.places[-1] / places[-1])
        heights = np.array([*behind, behind[-1]]) / 2**20
        axes.fill_between(across, heights, step="post", color="#d9d9d9", lw=0, label=label)
    _draw_kinds(axes, line, most)
    axes.axhline(line.held_bytes / 2**20, color="black", linewidth=0.8, linestyle=":", label="held on the device")
    if budget is not None:
        axes.axhline(budget / 2**20, color="#c44e52", linewidth=1.5, label=f"budget, {_mib(budget)}")


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.2f} MiB"


def _draw_kinds(axes: Axes, line: Timeline, most: int) -> None:
    """Stacked areas, one for each kind."""
    below = np.zeros(len(line.labels))
    for kind, amounts in line.bytes.items():
        above = below + np.array(amounts) / 2**20
        label = kind if max(amounts) * VISIBLE > most else None
        low, high = (np.append(each, each[-1]) for each in (below, above))
        axes.fill_between(line.places, low, high, step="post", color=COLOURS.get(kind, "#8c8c8c"), lw=0, label=label)
        below = above


def _name_layers(axes: Axes, plan: Plan) -> None:
    """Names of layers on the axis, as many as there is room for; borders of what runs in strips."""
    nodes = [node for stage in plan.stages for node in stage.graph.nodes]
    every = -(-len(nodes) // MOST_NAMES)
    shown = range(0, len(nodes), every)
    axes.set_xticks([i + 0.5 for i in shown], [nodes[i].name for i in shown], rotation=90, fontsize=7)
    for segment in plan.segments:
        axes.axvspan(segment.start, segment.stop, ymin=0.985, color="black", lw=0)
    if plan.segments:
        axes.fill_between([], [], color="black", label="in strips or tiles")
