"""One image file as an array, with a reason for every file that is not one."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ArgumentError, DataError

MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB; a larger picture may be a decompression bomb
SUFFIXES = frozenset(
    f".{each}" for each in ("bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm")
) | {".tif", ".tiff", ".webp"}
GREY_MODES = ("1", "L", "LA", "La")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(
    path: str | os.PathLike[str],
    size: int | tuple[int, int] | None = None,
    *,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """The picture as uint8 (H, W, channels), turned upright as its EXIF data say.

    16-bit grey keeps its upper 8 bits; transparency is dropped; of an animation the first frame counts.

    Args:
        path: of the file.
        size: None for the picture's own, or (H, W), or one number for a square: a picture of another size is
            resized (bilinear, with antialiasing) until it covers the size, then its centre is cut out.
        channels: 3 for RGB, 1 for grey.
        max_pixels: a larger picture is refused.

    Raises:
        DataError: missing, damaged, too large or not an image; the message names the file and the reason.
        ArgumentError: `channels` or `size` out of range.
    """
    wanted = image_size(size)
    if channels not in (1, 3):
        raise ArgumentError(f"image: channels={channels}; 3 (RGB) or 1 (grey) is accepted")
    try:
        with Image.open(path) as image:
            _check_pixels(image.size, max_pixels)
            if wanted is not None:
                # JPEG decodes smaller straight away; twice the size leaves the rest to the better filter.
                longest = 2 * max(wanted)
                image.draft(None, (longest, longest))
            return _pixels(image, wanted, channels)
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything from struct.error up
        raise DataError(f"{path}: {reason(error)}") from error


def open_picture(
    source: str | os.PathLike[str] | IO[bytes], *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The whole picture, upright, as Pillow's RGB or, of a grey one, L; see `read_image` for what becomes of others.

    Args:
        source: a path, or an open file with the bytes of a picture. name: in messages; left out, the path.

    Raises:
        DataError: missing, damaged, too large or not an image; the message names it and the reason.
    """
    try:
        with Image.open(source) as image:
            _check_pixels(image.size, max_pixels)
            return _upright(image)
    except Exception as error:  # as in read_image
        raise DataError(f"{name or source}: {reason(error)}") from error


def image_extent(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(H, W) of the upright picture; reads the header alone.

    Raises:
        DataError: as `read_image`, as far as the header shows it.
    """
    try:
        with Image.open(path) as image:
            _check_pixels(image.size, max_pixels)
            width, height = image.size
            # The base class's method: that of PNG decodes the whole picture, for data behind the pixels.
            turned = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)  # the axes are exchanged
            return (width, height) if turned else (height, width)
    except Exception as error:  # as in read_image
        raise DataError(f"{path}: {reason(error)}") from error


def image_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """(H, W) from one number or two.

    Raises:
        ArgumentError: a number below 1, or not an integer.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or not all(isinstance(each, (int, np.integer)) and each >= 1 for each in pair):
        raise ArgumentError(f"image: size={size!r}; a number of pixels or (rows, columns) is accepted")
    return int(pair[0]), int(pair[1])


def reason(error: Exception) -> str:
    """Why a file could not be read, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can identify"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"too large, may be a decompression bomb: {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(f"{size[0]}x{size[1]} pixels are more than the limit of {max_pixels}")


def _upright(image: Image.Image) -> Image.Image:
    """RGB, or L of a grey picture, turned as its EXIF data say."""
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("floating-point pixels have no known range; convert the picture to 8 or 16 bits")
    if upright.mode in _WIDE_MODES:
        upright = Image.fromarray((np.asarray(upright).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if upright.mode == "P":  # by way of RGBA: Pillow warns about palettes with transparency otherwise
        upright = upright.convert("RGBA")
    return upright.convert("L" if upright.mode in GREY_MODES else "RGB")


def _pixels(image: Image.Image, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    upright = _upright(image).convert("RGB" if channels == 3 else "L")
    if size is not None and upright.size != (size[1], size[0]):
        upright = ImageOps.fit(upright, (size[1], size[0]), Image.Resampling.BILINEAR)
    pixels: NDArray[Any] = np.array(upright, np.uint8)
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels)
