"""How a model wants its pictures, from what it says and from what the user says."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import Preprocessing, preprocessing
from ..data.preprocess import SCALES, described_scale
from ..errors import ArgumentError, ModelFileError, ShapeError
from ..net import Net
from .outcome import Output

SCALE_NAMES = tuple(SCALES)
CLASSIFIER_SIZE = (224, 224)  # what nearly all networks for photographs were trained with


@dataclass(frozen=True)
class Wishes:
    """What a user asks for; None and False leave it to the model.

    Attributes:
        size: (H, W). foreign: the model is a file of another program, which may want its pixels otherwise.
    """

    scale: str | None = None
    order: str | None = None
    size: tuple[int, int] | None = None
    crop: int | None = None
    stretch: bool = False
    foreign: bool = False


def prepared(net: Net, kind: str, wishes: Wishes) -> tuple[Net, Preprocessing, str]:
    """The network for the size wanted, how pictures are prepared for it, and a note for the user, or "".

    Raises:
        ShapeError: channels that pictures do not have, or a size that the network does not take.
    """
    channels, height, width = net.network.image_shape
    if channels not in (1, 3):
        raise ShapeError(f"predict: the network reads {channels} channels; pictures have 3 (RGB) or 1 (grey)")
    size, stretch = wishes.size, wishes.stretch
    if net.network.open_size:
        if size is None and (kind == "classes" or wishes.crop or stretch):
            size = CLASSIFIER_SIZE
    else:
        if size not in (None, (height, width)):
            net = _resized(net, size)
        size = size or (height, width)
        stretch = stretch or (kind != "classes" and wishes.crop is None)
    scale, bgr, note = _scale(net, wishes)
    made = preprocessing(scale, bgr=bgr, channels=channels, size=size, crop=wishes.crop, stretch=stretch)
    return net, made, note


def _scale(net: Net, wishes: Wishes) -> tuple[Any, bool | None, str]:
    """Scale, whether blue comes first, and a note where both are guessed."""
    told, bgr = described_scale(net.metadata)
    if wishes.order is not None:
        bgr = wishes.order == "bgr"
    if wishes.scale is not None:
        return wishes.scale, bgr if wishes.order is not None else None, ""
    if net.normalization is not None:
        return net.normalization, bgr, ""
    if told is not None or not wishes.foreign:
        return told or "unit", bgr, ""
    others = ", ".join(name for name in SCALES if name != "unit")
    return "unit", bgr, f"the model does not say how it reads pixels; 0..1 is taken (--preprocess {others}: others)"


def _resized(net: Net, size: tuple[int, int]) -> Net:
    """The same layers and weights for images of another size."""
    try:
        other = Net(net.network.with_image(size), device=net.device, weights=net.get_weights())
    except (ModelFileError, ShapeError) as error:
        _, height, width = net.network.image_shape
        raise ShapeError(
            f"--size {size[1]}x{size[0]}: the network reads pictures of {width}x{height}; leave --size away, they are "
            "resized"
        ) from error
    other.metadata, other.normalization = net.metadata, net.normalization
    return other


def output_names(net: Net, output: Output, labels: str | None) -> Sequence[str]:
    """Names of the classes: of a file, else the model's own, else numbers.

    Raises:
        ModelFileError: the file cannot be read. ArgumentError: it has not as many names as there are classes.
    """
    if labels is None:
        own = _own_names(net)
        fits = own and output.classes in (0, len(own))
        return own if fits else list(map(str, range(output.classes)))
    if output.kind == "image":
        raise ArgumentError("--labels: the network returns pictures, which have no classes")
    names = _read_names(labels)
    if output.classes and len(names) != output.classes:
        hint = ""
        if len(names) == output.classes - 1:
            hint = "; class 0 may be the background, and its name missing in the first line"
        raise ArgumentError(f"{labels}: {len(names)} names, one a line; the network has {output.classes} outputs{hint}")
    return names


def _own_names(net: Net) -> list[str]:
    """The names that a model file holds: a list, or a dictionary by number, perhaps written as text."""
    for key in ("classes", "names", "labels"):
        held = net.metadata.get(key)
        if isinstance(held, str):
            try:
                held = ast.literal_eval(held)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
        if isinstance(held, dict) and set(held) == set(range(len(held))):
            held = [held[k] for k in range(len(held))]
        if isinstance(held, list | tuple):
            return [str(name) for name in held]
    return []


def _read_names(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        found = json.loads(text) if text.lstrip().startswith("[") else text.splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8, or a list that JSON cannot read"
        raise ModelFileError(f"{path}: cannot be read: {reason}") from error
    return [name.strip() for name in map(str, found) if name.strip()]
