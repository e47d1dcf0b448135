"""A picture of some predictions: each image enlarged, with what the network made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import DataError
from ..files import replacing

SIDE, GAP, CAPTION, MARGIN, TITLE = 80, 14, 26, 24, 62  # pixels
PAPER, INK, QUIET = (250, 249, 246), (32, 34, 38), (120, 124, 130)
RIGHT, WRONG = (24, 110, 82), (196, 48, 43)


def draw_predictions(
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    answers: NDArray[np.int64],
    title: str,
    *,
    columns: int = 8,
) -> Image.Image:
    """A grid of grey images with the answers under them; a wrong one is framed and says what is right.

    Args:
        images: (N, H, W, 1), bright strokes on black; drawn dark on white.
        labels: (N,), what is right. answers: (N,), what the network says.
    """
    rows = -(-len(images) // columns)
    width = 2 * MARGIN + columns * (SIDE + GAP) - GAP
    height = TITLE + rows * (SIDE + CAPTION + GAP) + MARGIN - GAP
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    pen.text((MARGIN, TITLE // 2), title, INK, ImageFont.load_default(20), anchor="lm")
    for i, (image, label, answer) in enumerate(zip(images, labels, answers, strict=True)):
        row, column = divmod(i, columns)
        left, top = MARGIN + column * (SIDE + GAP), TITLE + row * (SIDE + CAPTION + GAP)
        tile = Image.fromarray(255 - image[:, :, 0]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        page.paste(tile, (left, top))
        good = label == answer
        frame = (left - 1, top - 1, left + SIDE, top + SIDE)
        pen.rectangle(frame, outline=(222, 220, 214) if good else WRONG, width=1 if good else 3)
        text = str(answer) if good else f"{answer}, is {label}"
        middle = (left + SIDE // 2, top + SIDE + CAPTION // 2)
        pen.text(middle, text, RIGHT if good else WRONG, ImageFont.load_default(17), anchor="mm")
    return page


def choose_shown(labels: NDArray[np.int32], answers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Which of N predictions to show: all wrong ones as far as they fit, and the first right ones, in order."""
    wrong = np.flatnonzero(labels != answers)[:count]
    right = np.flatnonzero(labels == answers)[: count - len(wrong)]
    return np.sort(np.concatenate([wrong, right]))


def save_picture(page: Image.Image, path: str | Path) -> None:
    """Writes a PNG, atomically.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with replacing(Path(path)) as temporary:
            page.save(temporary, "PNG")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be written: {error.strerror or error}") from error
