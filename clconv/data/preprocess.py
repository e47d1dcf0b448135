"""From pictures to what a network reads, and from a network's pictures back to pixels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..errors import ArgumentError, DataError, ShapeError
from .image import MAX_PIXELS, image_size, open_picture
from .transform import Normalization

IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = Normalization((104.0, 117.0, 123.0), (1.0,), 1.0)
# How pixels become numbers, by the names that people know: the arithmetic, and whether blue comes first.
SCALES: dict[str, tuple[Normalization, bool]] = {
    "imagenet": (IMAGENET, False),  # torchvision and most networks trained with PyTorch
    "caffe": (CAFFE, True),  # Caffe's networks and their descendants
    "unit": (Normalization(), False),  # 0 ... 1
    "signed": (Normalization((0.5,), (0.5,)), False),  # -1 ... 1: TensorFlow's networks
    "none": (Normalization(scale=1.0), False),  # 0 ... 255
}
# What the ONNX standard's own metadata say ("Metadata of image models").
_RANGES = {"NominalRange_0_255": "none", "Normalized_0_1": "unit", "Normalized_1_1": "signed"}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a network's input.

    Attributes:
        normalization: how uint8 pixels become numbers, in the order of the network's channels.
        bgr: the network reads blue, green, red.
        channels: 3 (RGB) or 1 (grey).
        size: None for the picture's own, or (H, W). Without `crop` and `stretch` a picture is resized until it
            covers the size, and its centre is cut out, as `clconv train` does.
        crop: the short side is resized to so many pixels first (proportions kept, as torchvision's Resize does),
            then the centre of `size` is cut out.
        stretch: the picture is resized to `size` whatever its proportions.

    Raises:
        ArgumentError: sizes that do not go together. ShapeError: a normalisation for other channels.
    """

    normalization: Normalization = field(default_factory=Normalization)
    bgr: bool = False
    channels: int = 3
    size: tuple[int, int] | None = None
    crop: int | None = None
    stretch: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", image_size(self.size))
        self.normalization.affine(self.channels)
        if self.crop is not None and self.size is None:
            raise ArgumentError(f"crop {self.crop}: the size that is cut out is missing")
        if self.crop is not None and self.size is not None and self.crop < max(self.size):
            height, width = self.size
            raise ArgumentError(
                f"crop {self.crop}: {width}x{height} pixels cannot be cut out of a picture whose short side has "
                f"{self.crop}; {max(self.size)} or more would do"
            )
        if self.crop is not None and self.stretch:
            raise ArgumentError("crop and stretch: one of them at a time")

    def placed(self, picture: Image.Image) -> Image.Image:
        """The picture in the network's size.

        Raises:
            DataError: it is so thin that it would become huge on the way.
        """
        if self.size is None:
            return picture
        target = (self.size[1], self.size[0])
        if self.crop is not None:
            return _cropped(picture, self.crop, target)
        if picture.size == target:
            return picture
        if self.stretch:
            return picture.resize(target, Image.Resampling.BILINEAR)
        return ImageOps.fit(picture, target, Image.Resampling.BILINEAR)

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """uint8 (H, W, C), channels in the network's order."""
        picture = self.placed(picture.convert("RGB" if self.channels == 3 else "L"))
        array: NDArray[np.uint8] = np.array(picture, np.uint8).reshape(picture.height, picture.width, self.channels)
        if self.bgr and self.channels == 3:
            array = array[:, :, ::-1]
        return array

    def numbers(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) to what the network reads, float32 (N, C, H, W)."""
        return self.normalization.apply(np.ascontiguousarray(x))

    def batch(self, paths: Iterable[str | os.PathLike[str]]) -> NDArray[np.float32]:
        """Pictures from files as the network reads them, float32 (N, C, H, W).

        Raises:
            DataError: one that cannot be read, and why. ShapeError: pictures of several sizes, and no `size`.
        """
        found = [self.pixels(open_picture(path)) for path in paths]
        sizes = sorted({(each.shape[1], each.shape[0]) for each in found})
        if len(sizes) != 1:
            listed = ", ".join(f"{width}x{height}" for width, height in sizes) or "none"
            raise ShapeError(f"preprocess: pictures of one size go together, these have {listed}; give a size")
        return self.numbers(np.stack(found))

    def restored(self, y: NDArray[np.float32]) -> NDArray[np.uint8]:
        """What a network that returns pictures means, in the numbers that it reads: (C, P, Q) to RGB or grey pixels.

        Returns:
            uint8 (P, Q, C); rounded, values out of range cut off.

        Raises:
            DataError: values that are not finite.
        """
        if not np.isfinite(y).all():
            raise DataError("the network returned values that are not finite numbers")
        gain, offset = self.normalization.affine(len(y))
        pixels = (y - offset[:, None, None]) / gain[:, None, None]
        rounded: NDArray[np.uint8] = np.rint(pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        if self.bgr and len(y) == 3:
            rounded = rounded[:, :, ::-1]
        return rounded


def preprocessing(
    scale: str | Normalization = "unit",
    *,
    bgr: bool | None = None,
    channels: int = 3,
    size: int | tuple[int, int] | None = None,
    crop: int | None = None,
    stretch: bool = False,
) -> Preprocessing:
    """How a network reads pictures, from what people know about it.

    Args:
        scale: "imagenet" (0..1, minus ImageNet's mean, by its deviation), "caffe" (blue first, 0..255 minus 104, 117,
            123), "unit" (0..1), "signed" (-1..1), "none" (0..255), or a `Normalization`.
        bgr: blue comes first; left out, as the scale has it. channels, size, crop, stretch: see `Preprocessing`.

    Raises:
        ArgumentError, ShapeError: another scale, or one for other channels; sizes that do not go together.
    """
    if isinstance(scale, str) and scale not in SCALES:
        raise ArgumentError(f"preprocess: {scale!r} is none of {', '.join(SCALES)}")
    normalization, first = SCALES[scale] if isinstance(scale, str) else (scale, False)
    if len(normalization.mean) not in (1, channels):
        raise ShapeError(
            f"preprocess: {scale if isinstance(scale, str) else 'the normalisation'} is for "
            f"{len(normalization.mean)} channels, the network reads {channels}; unit, signed and none suit any"
        )
    return Preprocessing(normalization, first if bgr is None else bgr, channels, image_size(size), crop, stretch)


def described_scale(metadata: Mapping[str, Any]) -> tuple[str | None, bool | None]:
    """What an ONNX file's standard metadata say: the scale's name, and whether blue comes first; None for nothing."""
    scale = _RANGES.get(str(metadata.get("Image.NominalPixelRange")))
    order = str(metadata.get("Image.BitmapPixelFormat", ""))
    return scale, order.startswith("Bgr") if order else None


def _cropped(picture: Image.Image, short: int, size: tuple[int, int]) -> Image.Image:
    """The centre of the picture whose short side was resized."""
    width, height = picture.size
    least = min(width, height)
    target = (int(short * width / least), int(short * height / least))
    if target[0] * target[1] > MAX_PIXELS:
        raise DataError(
            f"{width}x{height} pixels with a short side of {short} would be {target[0]}x{target[1]}, more than the "
            f"limit of {MAX_PIXELS}"
        )
    resized = picture if picture.size == target else picture.resize(target, Image.Resampling.BILINEAR)
    left, top = (round((have - want) / 2) for have, want in zip(target, size, strict=True))
    return resized.crop((left, top, left + size[0], top + size[1]))
