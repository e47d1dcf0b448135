"""What a data set is, data sets held in arrays, and parts of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core.augment import random_keys
from ..errors import ArgumentError, DataError, ShapeError

# Last counter words of the generator: each use of one seed has its own (see pyx/augment.pyx).
SHUFFLE_STREAM = 0x73687566
SPLIT_STREAM = 0x73706C74
SAMPLE_STREAM = 0x736D706C

_CHANNELS = (1, 3, 4)  # what makes an axis of uint8 images look like the channels


class Dataset(ABC):
    """Images and what they should become; `images` reads any of them.

    Attributes:
        labels: int32 (N,): the class of each image; or float32 (N, ...): targets of a regression.
        classes: names of the classes, or None where they have none.
        shape: (C, H, W) of every image.
        dtype: of the batches that `images` returns: uint8 (N, H, W, C) or float32 (N, C, H, W).
    """

    labels: NDArray[Any]
    classes: list[str] | None
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def images(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The images with these indices, as a new C-contiguous batch: uint8 NHWC or float32 NCHW."""

    @property
    def class_count(self) -> int:
        """The number of classes: named ones, else the largest label plus one; 0 for regression targets."""
        if self.classes is not None:
            return len(self.classes)
        return int(self.labels.max()) + 1 if self.labels.dtype == np.int32 else 0


class ArrayDataset(Dataset):
    """Images and labels in memory; arrays are not copied where their layout allows it.

    The layout follows from the type and the shape, or is given as `layout`:
    * float32 is NCHW: (N, C, H, W); (N, H, W) has one channel;
    * uint8 is NHWC when only the last axis has 1, 3 or 4 elements, NCHW when only the second has; when both
      or neither have, `layout` must be given. (N, H, W) has one channel.

    Args:
        x: float32 or uint8 images.
        y: integers (N,), the class of each image; or float32 (N, ...), targets of a regression.
        classes: names of the classes; labels must be below their number.
        layout: "NCHW" or "NHWC".

    Raises:
        ArgumentError: a type, rank or layout that is not one of these.
        ShapeError: different numbers of images and labels.
        DataError: no images, or a label out of range.
    """

    def __init__(
        self,
        x: NDArray[Any],
        y: NDArray[Any] | Sequence[int],
        *,
        classes: Sequence[str] | None = None,
        layout: str | None = None,
        name: str = "data",
    ) -> None:
        x = np.asarray(x)
        if x.dtype not in (np.float32, np.uint8):
            raise ArgumentError(
                f"{name}: images are {x.dtype}; float32 (N, C, H, W) or uint8 (N, H, W, C) is accepted, "
                "for example x.astype(np.float32)"
            )
        if x.ndim not in (3, 4):
            raise ArgumentError(
                f"{name}: images have shape {x.shape}; four axes are accepted, (N, C, H, W) or (N, H, W, C), "
                "or three for one channel, (N, H, W)"
            )
        self.dtype = x.dtype
        self.classes = list(classes) if classes is not None else None
        self.labels = check_labels(y, None if classes is None else len(classes), name)
        if len(x) != len(self.labels):
            raise ShapeError(f"{name}: {len(x)} images but {len(self.labels)} labels; each image needs one")
        if x.ndim == 3:
            x = x[:, :, :, None] if x.dtype == np.uint8 else x[:, None]
        else:
            given = _layout(x, layout, name)
            wanted = "NHWC" if x.dtype == np.uint8 else "NCHW"
            if given != wanted:
                x = x.transpose((0, 2, 3, 1) if wanted == "NHWC" else (0, 3, 1, 2))
        self._x = x
        size = x.shape[1:]
        self.shape = (size[2], size[0], size[1]) if x.dtype == np.uint8 else (size[0], size[1], size[2])
        if 0 in size:
            raise DataError(f"{name}: the images are empty: (C, H, W) = {self.shape}")

    def images(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        return np.ascontiguousarray(self._x[indices])


class Subset(Dataset):
    """The images of `dataset` with these indices, in their order."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.int64] | Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = np.asarray(indices)
        if self.indices.ndim != 1 or self.indices.dtype.kind not in "iu":
            raise ArgumentError(
                f"subset: indices are {self.indices.dtype} {self.indices.shape}; integers (N,) are accepted"
            )
        self.indices = self.indices.astype(np.int64)
        if not len(self.indices):
            raise DataError("subset: no indices; a data set needs at least one image")
        bad = np.flatnonzero((self.indices < 0) | (self.indices >= len(dataset)))
        if len(bad):
            raise ArgumentError(
                f"subset: index {self.indices[bad[0]]} at position {bad[0]} is out of range; "
                f"the data set has 0 to {len(dataset) - 1}"
            )
        self.labels = dataset.labels[self.indices]
        self.classes = dataset.classes
        self.shape = dataset.shape
        self.dtype = dataset.dtype

    @property
    def class_count(self) -> int:
        return self.dataset.class_count

    def images(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        return self.dataset.images(self.indices[indices])


def check_labels(y: NDArray[Any] | Sequence[int], class_count: int | None = None, name: str = "data") -> NDArray[Any]:
    """Labels as int32 (N,), or targets as float32 (N, ...), checked.

    Args:
        y: any integers (N,), or float32 (N, ...).
        class_count: labels must be below it; None means any int32 that is not negative.
        name: what the messages call the data.

    Raises:
        ArgumentError: another type or rank.
        DataError: empty, or a label out of range; the message names its index.
    """
    y = np.asarray(y)
    if y.shape[:1] == (0,):
        raise DataError(f"{name}: there are no images; at least one is needed")
    if y.dtype == np.float32 and y.ndim >= 1:
        return y
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise ArgumentError(
            f"{name}: labels are {y.dtype} with shape {y.shape}; integers (N,) are accepted, "
            "or float32 (N, ...) as targets of a regression"
        )
    limit = class_count if class_count is not None else 2**31
    bad = np.flatnonzero((y < 0) | (y >= limit))
    if len(bad):
        why = f" ({class_count} classes)" if class_count is not None else ""
        raise DataError(
            f"{name}: label {y[bad[0]]} of image {bad[0]} is out of range; 0 to {limit - 1} is allowed{why}"
        )
    return y.astype(np.int32)


def check_seed(seed: int, who: str) -> int:
    """The seed itself.

    Raises:
        ArgumentError: it is not an integer of 64 bits.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ArgumentError(f"{who}: seed={seed!r}; an integer from 0 to 2^64 - 1 is accepted")
    return int(seed)


def shuffled(count: int, seed: int, epoch: int, stream: int) -> NDArray[np.int64]:
    """A permutation of 0 ... count-1: a function of its arguments, the same with every version of NumPy."""
    keys = np.empty(count, np.uint64)
    random_keys(keys, seed, epoch, stream)
    return np.argsort(keys, kind="stable").astype(np.int64)


def split(dataset: Dataset, share: float, seed: int = 0) -> tuple[Subset, Subset]:
    """Two disjoint parts that together are the whole; the second has about `share` of every class.

    The second part has round(share * N) images as far as no class loses its last image to it. Targets of a
    regression are split without regard to their values. Same arguments, same parts.

    Args:
        dataset: what to split.
        share: of the second part, above 0 and below 1.
        seed: of the choice.

    Raises:
        ArgumentError: `share` or `seed` out of range.
        DataError: one of the parts would be empty.
    """
    if not 0 < share < 1:
        raise ArgumentError(f"split: share={share}; more than 0 and less than 1 is accepted")
    order = shuffled(len(dataset), check_seed(seed, "split"), 0, SPLIT_STREAM)
    labels = dataset.labels if dataset.labels.dtype == np.int32 else np.zeros(len(dataset), np.int32)
    kinds, counts = np.unique(labels, return_counts=True)
    taken = np.floor(share * counts).astype(np.int64)
    missing = round(share * len(dataset)) - int(taken.sum())
    # The largest remainders get the images that rounding down left over; ties go to the lower class.
    by_remainder = np.argsort(-(share * counts - taken), kind="stable")
    for kind in by_remainder[:missing]:
        taken[kind] += taken[kind] + 1 < counts[kind]
    by_class = np.split(order[np.argsort(labels[order], kind="stable")], np.cumsum(counts)[:-1])
    second = np.concatenate([members[:count] for members, count in zip(by_class, taken, strict=True)])
    if not len(second):
        raise DataError(
            f"split: {share} of {len(dataset)} images in {len(kinds)} classes leaves no image for the second "
            "part; use a larger share"
        )
    chosen = np.zeros(len(dataset), bool)
    chosen[second] = True
    return Subset(dataset, np.flatnonzero(~chosen)), Subset(dataset, np.flatnonzero(chosen))


def _layout(x: NDArray[Any], layout: str | None, name: str) -> str:
    """The layout of a four-axis array, by the rule that `ArrayDataset` states."""
    if layout is not None:
        if layout not in ("NCHW", "NHWC"):
            raise ArgumentError(f"{name}: layout={layout!r}; 'NCHW' or 'NHWC' is accepted")
        return layout
    if x.dtype == np.float32:
        return "NCHW"
    second, last = x.shape[1] in _CHANNELS, x.shape[3] in _CHANNELS
    if second == last:
        raise ArgumentError(
            f"{name}: uint8 images of shape {x.shape} can be read in two ways; say layout='NHWC' or layout='NCHW'"
        )
    return "NHWC" if last else "NCHW"
