"""What happens to images on their way to the network: normalisation and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import augment
from ..errors import ArgumentError, ShapeError
from .dataset import SAMPLE_STREAM, Dataset, shuffled

_CHUNK = 256  # images read at a time for statistics


@dataclass(frozen=True)
class Normalization:
    """y = (scale * x - mean) / std for each channel.

    The default takes uint8 images to 0 ... 1. One number for `mean` or `std` holds for every channel.

    Args:
        mean: subtracted after scaling.
        std: divided by; above 0.
        scale: multiplied first; 1/255 for uint8 images.

    Raises:
        ArgumentError: values that are not finite, or a `std` or `scale` of 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        mean, std = _numbers(self.mean, "mean"), _numbers(self.std, "std")
        if len(mean) != len(std) and 1 not in (len(mean), len(std)):
            raise ArgumentError(f"normalization: {len(mean)} means but {len(std)} stds; give as many of each")
        if min(std) <= 0:
            raise ArgumentError(f"normalization: std={std}; each must be above 0")
        if not np.isfinite(self.scale) or self.scale == 0:
            raise ArgumentError(f"normalization: scale={self.scale}; a finite number other than 0 is accepted")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)
        object.__setattr__(self, "scale", float(self.scale))

    @classmethod
    def of(cls, dataset: Dataset, sample: int | None = 10_000) -> Normalization:
        """The normalisation that gives `dataset` mean 0 and standard deviation 1 in each channel.

        Sums are exact integers for uint8 images and float64 for float32 ones. A constant channel gets std 1.

        Args:
            dataset: the training images.
            sample: how many images to look at, chosen at random, always the same; None looks at all.
        """
        if sample is not None and sample < 1:
            raise ArgumentError(f"normalization: sample={sample}; at least 1, or None for all images")
        total = len(dataset)
        count = total if sample is None else min(sample, total)
        # Not evenly spaced: files are periodic. Every sixth MNIST image is 6 % darker than the average.
        picked = np.sort(shuffled(total, 0, 0, SAMPLE_STREAM)[:count])
        exact = dataset.dtype == np.uint8
        sums = np.zeros((2, dataset.shape[0]), np.uint64 if exact else np.float64)
        for first in range(0, count, _CHUNK):
            x = dataset.images(picked[first : first + _CHUNK])
            wide: NDArray[Any] = x.astype(np.uint32 if exact else np.float64)
            axes = (0, 1, 2) if exact else (0, 2, 3)
            sums[0] += wide.sum(axis=axes, dtype=sums.dtype)
            sums[1] += (wide * wide).sum(axis=axes, dtype=sums.dtype)
        scale = 1 / 255 if exact else 1.0
        values = count * dataset.shape[1] * dataset.shape[2]
        mean = sums[0].astype(np.float64) / values
        variance = np.maximum(sums[1].astype(np.float64) / values - mean * mean, 0)
        # Below the rounding of the subtraction the channel is constant as far as can be told.
        std = np.where(variance > 1e-12 * mean * mean, np.sqrt(variance), 1 / scale)
        return cls(tuple((mean * scale).tolist()), tuple((std * scale).tolist()), scale)

    def affine(self, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(gain, offset), each (channels,), with y = gain * x + offset.

        Raises:
            ShapeError: it was made for another number of channels.
        """
        made_for = max(len(self.mean), len(self.std))
        if made_for not in (1, channels):
            raise ShapeError(f"normalization: made for {made_for} channels, the images have {channels}")
        std = np.broadcast_to(np.asarray(self.std), channels)
        mean = np.broadcast_to(np.asarray(self.mean), channels)
        return self.scale / std, -mean / std

    def table(self, channels: int) -> NDArray[np.float32]:
        """float32 (channels, 256): what each value of uint8 becomes, rounded once."""
        gain, offset = self.affine(channels)
        return (np.arange(256) * gain[:, None] + offset[:, None]).astype(np.float32)

    def apply(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """uint8 (N, H, W, C) or float32 (N, C, H, W) to a new float32 (N, C, H, W)."""
        if x.ndim != 4 or x.dtype not in (np.uint8, np.float32):
            raise ArgumentError(
                f"normalization: images are {x.dtype} {x.shape}; uint8 (N, H, W, C) or float32 (N, C, H, W) is accepted"
            )
        if x.dtype == np.float32:
            gain, offset = (each.astype(np.float32)[:, None, None] for each in self.affine(x.shape[1]))
            return np.ascontiguousarray(x * gain + offset)
        n, h, w, c = x.shape
        out = np.empty((n, c, h, w), np.float32)
        augment.normalize(np.ascontiguousarray(x), out, self.table(c))
        return out


@dataclass(frozen=True)
class Augmentation:
    """Random changes to uint8 training images: crop, then flip, then colour.

    Brightness, contrast and saturation come in this order, each clamped to 0 ... 255: the pixel times the
    factor; away from the mean grey of the image; away from the grey of the pixel (luma of ITU-R BT.601; the
    mean of the channels when they are not three). Each factor is uniform in
    [max(0, 1 - strength), 1 + strength].

    Args:
        crop_pad: pixels added on each side before a random crop back to the size; below height and width.
        flip: mirror left to right with probability 1/2.
        jitter: strengths of brightness, contrast and saturation.
        padding: "zero" (the value 0) or "reflect" (at the edge pixel, which is not repeated).

    Raises:
        ArgumentError: a value out of range.
    """

    crop_pad: int = 0
    flip: bool = False
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)
    padding: str = "zero"

    def __post_init__(self) -> None:
        if not isinstance(self.crop_pad, (int, np.integer)) or self.crop_pad < 0:
            raise ArgumentError(f"augmentation: crop_pad={self.crop_pad!r}; an integer from 0 up is accepted")
        jitter = _numbers(self.jitter, "jitter")
        if len(jitter) != 3 or min(jitter) < 0:
            raise ArgumentError(
                f"augmentation: jitter={self.jitter!r}; three strengths from 0 up are accepted: "
                "brightness, contrast, saturation"
            )
        if self.padding not in ("zero", "reflect"):
            raise ArgumentError(f"augmentation: padding={self.padding!r}; 'zero' or 'reflect' is accepted")
        object.__setattr__(self, "jitter", jitter)

    @property
    def moves(self) -> bool:
        """Whether pixels change places, which targets that are images would have to follow."""
        return self.crop_pad > 0 or self.flip

    def apply(
        self,
        x: NDArray[np.uint8],
        indices: NDArray[np.int64],
        *,
        seed: int,
        epoch: int,
        normalization: Normalization | None = None,
    ) -> NDArray[np.float32]:
        """Augments uint8 (N, H, W, C) and normalises to a new float32 (N, C, H, W), in one pass.

        What happens to an image depends on (seed, epoch, its index) alone, not on its place in the batch.

        Args:
            x: the images.
            indices: (N,), each image's index in its data set.
            seed: 64 bits.
            epoch: 32 bits.
            normalization: applied last; None takes 0 ... 255 to 0 ... 1.
        """
        if x.ndim != 4 or x.dtype != np.uint8:
            raise ArgumentError(f"augmentation: images are {x.dtype} {x.shape}; uint8 (N, H, W, C) is accepted")
        n, h, w, c = x.shape
        out = np.empty((n, c, h, w), np.float32)
        augment.augment_normalize(
            np.ascontiguousarray(x),
            out,
            (normalization or Normalization()).table(c),
            np.ascontiguousarray(indices, np.int64),
            seed,
            epoch,
            crop_pad=self.crop_pad,
            reflect=self.padding == "reflect",
            flip=self.flip,
            jitter=self.jitter,
        )
        return out


def _numbers(value: float | Sequence[float], what: str) -> tuple[float, ...]:
    """One number or several as a tuple of finite floats."""
    try:
        numbers = tuple(float(each) for each in np.atleast_1d(np.asarray(value, np.float64)))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not np.isfinite(numbers).all():
        raise ArgumentError(f"{what}={value!r}; one finite number or one for each channel is accepted")
    return numbers
