"""Pictures that networks make, written as files: colours, and masks with a palette."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ArgumentError, DataError
from ..files import replacing

MAX_CLASSES = 256  # of a mask: one byte per pixel


def class_palette() -> list[int]:
    """256 colours as r, g, b, r, ...: black for class 0, the bits of a number spread over its channels.

    Those of the Pascal VOC segmentation masks, so that other tools show the same.
    """
    numbers = np.arange(MAX_CLASSES)
    colours = np.zeros((MAX_CLASSES, 3), np.int64)
    for bit in range(8):
        colours[:, bit % 3] |= ((numbers >> bit) & 1) << (7 - bit // 3)
    return [int(value) for value in colours.ravel()]


def mask_image(classes: NDArray[np.integer]) -> Image.Image:
    """A mask (H, W) of class numbers as a picture with a palette: a pixel's value is its class.

    Raises:
        ArgumentError: a class beyond 255, or below 0.
    """
    if classes.size and (classes.min() < 0 or classes.max() >= MAX_CLASSES):
        raise ArgumentError(f"mask: classes {classes.min()} to {classes.max()}; a picture holds 0 to {MAX_CLASSES - 1}")
    image = Image.fromarray(classes.astype(np.uint8))
    image.putpalette(class_palette())
    return image


def write_picture(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Writes a PNG atomically, making its folder where needed.

    Raises:
        DataError: the file cannot be written; what was there before is intact.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            image.save(temporary, "PNG")
    except OSError as error:
        raise DataError(f"{target}: the picture cannot be written: {error.strerror or error}") from error
