"""What networks say about pictures: scores of classes, a mask of classes, or another picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data import Preprocessing
from ..data.image import MAX_PIXELS
from ..errors import ArgumentError, ClconvError, DataError, ModelFileError, ShapeError
from ..io.pictures import mask_image, write_picture
from ..net import Net
from ..nn.network import Network
from .sources import Source, printable

KINDS = ("classes", "image", "mask")
ALIKE = 0.1  # how far a picture's proportions may be off those of the network's input


@dataclass(frozen=True)
class Picture:
    """A picture in the form that the network reads.

    Attributes:
        pixels: uint8 (H, W, C). extent: (W, H) of the original. colours: of a colour picture for a grey network,
            in the network's size.
    """

    pixels: NDArray[np.uint8]
    extent: tuple[int, int]
    colours: Image.Image | None = None


@dataclass(frozen=True)
class Answer:
    """What came out for a picture, or why nothing did.

    Attributes:
        top: (output, probability) pairs, or (class, share of the pixels) of a mask, the largest first.
        file, extent: the picture that was written, and its (W, H).
    """

    image: str
    top: tuple[tuple[int, float], ...] = ()
    file: str = ""
    extent: tuple[int, int] = (0, 0)
    error: str = ""


@dataclass(frozen=True)
class Output:
    """The output of a network that is looked at.

    Attributes:
        name: None where there is only one. kind: one of `KINDS`. classes: how many, where the network says;
            0 for a mask of class numbers. channels_last, shares: of the values.
    """

    name: str | None
    kind: str
    classes: int
    channels_last: bool
    shares: bool

    def of(self, result: Any) -> NDArray[Any]:
        """This output from what `Net.predict` returned."""
        array: NDArray[Any] = result if self.name is None else result[self.name]
        return array


def find_output(net: Net, wanted: str | None, kind: str | None, size: tuple[int, int] | None = None) -> Output:
    """What the network's output is: by name, or the first; of the kind given, or of the kind that its shape says.

    Args:
        size: (H, W) of a picture to look at, where the network leaves it open.

    Raises:
        ArgumentError: there is no such output. ShapeError: it is neither scores, nor a mask, nor a picture.
    """
    network = net.network.with_image(size) if size is not None and net.network.open_size else net.network
    try:
        types = network.output_types(network.batch)
    except (ModelFileError, ShapeError) as error:
        if not network.open_size:
            raise
        _, height, width = network.image_shape
        raise ShapeError(
            f"{error}\nPictures of {width}x{height} were tried; --size says which the network reads"
        ) from error
    if wanted is not None and wanted not in types:
        raise ArgumentError(f"--output {wanted}: the network has {', '.join(types)}")
    name = wanted or next(iter(types))
    shape, dtype = types[name]
    last = network.channels_last
    found, classes = _kind(network, net.metadata.get("classes"), shape[1:], dtype)
    if kind is not None and kind != found and {kind, found} <= {"image", "mask"} and dtype.kind == "f":
        channels = _channels(shape[1:], last)
        if (kind == "image") != (channels in (1, 3)):
            raise ShapeError(f"--as {kind}: the output has {channels} channels; a picture has 1 or 3, a mask others")
        found, classes = kind, channels
    if not found or kind not in (None, found):
        text = ", ".join(map(str, shape[1:]))
        others = ", ".join(each for each in types if each != name)
        raise ShapeError(
            f"predict: output {name!r} of (N, {text}) {dtype} is neither scores, one per class, nor a picture or mask"
            + (f" (--as {kind} was asked for)" if kind and found else "")
            + "; in Python, net.predict returns it"
            + (f" (--output names another one: {others})" if others else "")
        )
    shares = network.final in ("Softmax", "Sigmoid") and name == next(iter(types))
    return Output(name if len(types) > 1 else None, found, classes, last, shares)


def _channels(shape: Sequence[int], last: bool) -> int:
    return shape[-1] if last else shape[0]


def _kind(network: Network, named: object, shape: Sequence[int], dtype: np.dtype[Any]) -> tuple[str, int]:
    """Kind and classes of an output from the shape of one image's part; "" where it is nothing that is known."""
    whole = dtype.kind in "iu"
    if sum(n != 1 for n in shape) <= 1:
        return ("", 0) if whole else ("classes", math.prod(shape))
    if len(shape) == 3 and whole and 1 in (shape[0], shape[2]):
        shape = shape[1:] if shape[0] == 1 else shape[:2]
    elif len(shape) == 3 and network.channels_last:
        shape = [shape[2], shape[0], shape[1]]
    _, height, width = network.image_shape
    down, across = (shape[-2] / height, shape[-1] / width)
    if len(shape) not in (2, 3) or (whole and len(shape) == 3) or abs(down - across) > ALIKE * max(down, across):
        return "", 0
    if len(shape) == 2:
        return ("mask", 0) if whole else ("image", 1)
    if shape[0] not in (1, 3) or (isinstance(named, list) and len(named) == shape[0] > 1):
        return "mask", shape[0]
    return "image", shape[0]


def finish(
    source: Source, picture: Picture, y: NDArray[Any], output: Output, prepare: Preprocessing, top: int
) -> Answer:
    """The answer from the output for one picture; writes what is to be written."""
    try:
        if output.kind == "classes":
            return Answer(source.name, _best(_probabilities(y.ravel(), output.shares), top))
        if output.kind == "mask":
            classes = _classes(y, output)
            shares = np.bincount(classes.ravel().clip(0)) / classes.size
            made = mask_image(classes)
            size = picture.extent if prepare.stretch else (picture.pixels.shape[1], picture.pixels.shape[0])
            made = made if made.size == size else made.resize(size, Image.Resampling.NEAREST)
            best = tuple(pair for pair in _best(shares, top) if pair[1] > 0)
        else:
            made, best = _drawn(picture, y, output, prepare), ()
        assert source.target is not None
        write_picture(source.target, made)
        return Answer(source.name, best, printable(source.target), made.size)
    except ClconvError as error:
        return Answer(source.name, error=f"{source.name}: {error}")


def _probabilities(scores: NDArray[Any], shares: bool) -> NDArray[np.float64]:
    wide = scores.astype(np.float64)
    if shares:
        return wide
    powers = np.exp(wide - wide.max())
    divided: NDArray[np.float64] = powers / powers.sum()
    return divided


def _best(shares: NDArray[np.float64], top: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(k), float(shares[k])) for k in np.argsort(-shares, kind="stable")[:top])


def _classes(y: NDArray[Any], output: Output) -> NDArray[np.int64]:
    """(P, Q), the class of each pixel."""
    if not output.classes:
        whole: NDArray[np.int64] = y.reshape(y.shape[1:] if y.ndim == 3 and y.shape[0] == 1 else y.shape[:2])
        return whole
    best: NDArray[np.int64] = y.argmax(axis=-1 if output.channels_last else 0)
    return best


def _drawn(picture: Picture, y: NDArray[Any], output: Output, prepare: Preprocessing) -> Image.Image:
    """The picture that a network returned, as a picture."""
    planes = y[None] if y.ndim == 2 else y.transpose(2, 0, 1) if output.channels_last else y
    pixels = prepare.restored(planes.astype(np.float32, copy=False))
    made = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if picture.colours is not None and made.mode == "L":
        _, blue, red = picture.colours.convert("YCbCr").split()
        planes_of_colour = [each.resize(made.size, Image.Resampling.BICUBIC) for each in (blue, red)]
        made = Image.merge("YCbCr", (made, *planes_of_colour)).convert("RGB")
    if prepare.stretch:
        height, width = picture.pixels.shape[:2]
        size = (round(picture.extent[0] * made.width / width), round(picture.extent[1] * made.height / height))
        if size[0] * size[1] > MAX_PIXELS:
            raise DataError(f"the result would have {size[0]}x{size[1]} pixels, more than {MAX_PIXELS}")
        made = made if made.size == size else made.resize(size, Image.Resampling.BICUBIC)
    return made
