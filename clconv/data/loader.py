"""Shuffled, augmented, prefetched batches whose bits depend on the seed and the epoch alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ArgumentError
from .dataset import SHUFFLE_STREAM, Dataset, check_seed, shuffled
from .transform import Augmentation, Normalization


class Batch(NamedTuple):
    """What a step of training reads.

    Attributes:
        x: float32 (N, C, H, W), C-contiguous, owned by the receiver.
        y: int32 (N,), or float32 (N, ...) where the data set holds targets of a regression.
        indices: int64 (N,), the images' indices in the data set.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]
    indices: NDArray[np.int64]


class Loader:
    """Cuts a data set into batches, in an order and with an augmentation that (seed, epoch) decide.

    Args:
        dataset: where the images come from.
        batch_size: images per batch; the last batch of an epoch may have fewer.
        seed: of order and augmentation.
        shuffle: a new order every epoch, or the order of the data set.
        augmentation: for uint8 data sets.
        normalization: None takes uint8 images to 0 ... 1 and leaves float32 ones as they are.
        drop_last: leave out a last batch that is not full.
        prefetch: batches made ahead in a background thread; 0 makes each when asked for, without a thread.

    Raises:
        ArgumentError: a value out of range, an augmentation of float32 images, or no full batch with
            `drop_last`.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        augmentation: Augmentation | None = None,
        normalization: Normalization | None = None,
        drop_last: bool = False,
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"loader: batch_size={batch_size}; at least 1 is needed")
        if prefetch < 0:
            raise ArgumentError(f"loader: prefetch={prefetch}; 0 or more batches are accepted")
        if augmentation is not None:
            _check_augmentation(augmentation, dataset)
        if normalization is not None:
            normalization.affine(dataset.shape[0])
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = check_seed(seed, "loader")
        self.shuffle = shuffle
        self.augmentation = augmentation
        self.normalization = normalization
        self.drop_last = drop_last
        self.prefetch = prefetch
        if self.steps_per_epoch == 0:
            raise ArgumentError(
                f"loader: {len(dataset)} images make no full batch of {batch_size}; "
                "use a smaller batch_size or drop_last=False"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def batch_sizes(self) -> set[int]:
        """The sizes of its batches: `batch_size`, and that of a smaller last one."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return ({self.batch_size} if full else set()) | ({rest} if rest and not self.drop_last else set())

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of all images in the order in which this epoch visits them."""
        if not self.shuffle:
            return np.arange(len(self.dataset), dtype=np.int64)
        return shuffled(len(self.dataset), self.seed, epoch, SHUFFLE_STREAM)

    def epoch(self, epoch: int, start_batch: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch, from `start_batch` on.

        Leaving the loop early, by whatever way, stops the background thread; so does `close()` on the result.
        An exception while a batch is made reaches the receiver where that batch would have.

        Args:
            epoch: 0 ... 2^32 - 1.
            start_batch: where to begin; the batches are those that a full epoch would have given.

        Raises:
            ArgumentError: `epoch` or `start_batch` out of range.
        """
        if not 0 <= epoch < 2**32:
            raise ArgumentError(f"loader: epoch={epoch}; 0 to 2^32 - 1 is accepted")
        if not 0 <= start_batch <= self.steps_per_epoch:
            raise ArgumentError(f"loader: start_batch={start_batch}; an epoch has {self.steps_per_epoch} batches")
        order = self.order(epoch)

        def make(step: int) -> Batch:
            return self._batch(order[step * self.batch_size : (step + 1) * self.batch_size], epoch)

        steps = range(start_batch, self.steps_per_epoch)
        return _ahead(make, steps, self.prefetch) if self.prefetch else _in_turn(make, steps)

    def _batch(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        images = self.dataset.images(indices)
        if self.augmentation is not None:
            x = self.augmentation.apply(images, indices, seed=self.seed, epoch=epoch, normalization=self.normalization)
        elif self.normalization is not None or images.dtype == np.uint8:
            x = (self.normalization or Normalization()).apply(images)
        else:
            x = images
        return Batch(x, self.dataset.labels[indices], indices)


def _check_augmentation(augmentation: Augmentation, dataset: Dataset) -> None:
    if dataset.dtype != np.uint8:
        raise ArgumentError(
            f"loader: augmentation works on uint8 images, these are {dataset.dtype}; "
            "give the images as uint8 (N, H, W, C) and a normalization"
        )
    if augmentation.crop_pad >= min(dataset.shape[1:]):
        raise ArgumentError(
            f"loader: crop_pad={augmentation.crop_pad} does not fit images of "
            f"{dataset.shape[1]}x{dataset.shape[2]}; use 0 to {min(dataset.shape[1:]) - 1}"
        )
    if augmentation.moves and dataset.labels.ndim > 2:
        raise ArgumentError(
            f"loader: targets of shape {dataset.labels.shape} would not follow crop and flip; use colour jitter alone"
        )


def _in_turn(make: Callable[[int], Batch], steps: range) -> Generator[Batch, None, None]:
    for step in steps:
        yield make(step)


def _ahead(make: Callable[[int], Batch], steps: range, depth: int) -> Generator[Batch, None, None]:
    """Makes batches in a thread, at most `depth` before they are asked for."""
    ready: SimpleQueue[Batch | BaseException | None] = SimpleQueue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for step in steps:
                room.acquire()
                if stop.is_set():
                    return
                ready.put(make(step))
            ready.put(None)
        except BaseException as error:  # whatever it is, it belongs to the receiver
            ready.put(error)

    thread = threading.Thread(target=work, name="clconv-loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            room.release()
            yield item
    finally:
        stop.set()
        room.release()
        if not sys.is_finalizing():  # by then the interpreter has frozen the thread
            thread.join()
