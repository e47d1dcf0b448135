"""Batches: order, resumption, prefetching, and the end of the thread."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from clconv.data import ArrayDataset, Augmentation, Dataset, Loader, Normalization, Subset
from clconv.errors import ArgumentError, DataError


def dataset(n: int = 23) -> ArrayDataset:
    x = np.random.default_rng(0).integers(0, 256, (n, 8, 6, 3), dtype=np.uint8)
    return ArrayDataset(x, np.arange(n) % 5)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "clconv-loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> object:
    yield
    gc.collect()
    assert not threads()


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_epoch_visits_every_image_once(prefetch: int) -> None:
    loader = Loader(dataset(), 5, seed=1, prefetch=prefetch)
    batches = list(loader.epoch(0))
    assert len(batches) == loader.steps_per_epoch == 5
    assert [len(batch.x) for batch in batches] == [5, 5, 5, 5, 3]
    indices = np.concatenate([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(23)) != indices.tolist()
    for batch in batches:
        assert batch.x.dtype == np.float32 and batch.x.flags.c_contiguous and batch.y.dtype == np.int32
        raw = loader.dataset.images(batch.indices)
        np.testing.assert_array_equal(batch.x, Normalization().apply(raw))
        np.testing.assert_array_equal(batch.y, loader.dataset.labels[batch.indices])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    loader = Loader(dataset(), 5, seed=1)
    np.testing.assert_array_equal(loader.order(3), Loader(dataset(), 7, seed=1, prefetch=0).order(3))
    assert (loader.order(3) != loader.order(4)).any()
    assert (loader.order(3) != Loader(dataset(), 5, seed=2).order(3)).any()
    # Checkpoints of earlier versions rely on this order.
    assert Loader(dataset(8), 5, seed=1).order(0).tolist() == [2, 6, 5, 0, 3, 4, 1, 7]
    assert Loader(dataset(8), 5, seed=1, shuffle=False).order(9).tolist() == list(range(8))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_epoch_resumed_in_the_middle_has_the_same_bits(prefetch: int) -> None:
    change = Augmentation(2, True, (0.2, 0.2, 0.2))
    whole = list(Loader(dataset(), 4, seed=9, augmentation=change, prefetch=prefetch).epoch(2))
    again = list(Loader(dataset(), 4, seed=9, augmentation=change, prefetch=2).epoch(2, start_batch=3))
    assert len(again) == len(whole) - 3
    for one, other in zip(whole[3:], again, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not list(Loader(dataset(), 4).epoch(0, start_batch=6))


def test_drop_last_and_float32_images() -> None:
    x = np.random.default_rng(0).normal(size=(7, 2, 3, 3)).astype(np.float32)
    loader = Loader(ArrayDataset(x, np.zeros(7, int)), 3, drop_last=True, shuffle=False)
    batches = list(loader.epoch(0))
    assert loader.steps_per_epoch == len(batches) == 2
    np.testing.assert_array_equal(batches[1].x, x[3:6])
    targets = Loader(ArrayDataset(x, x), 4, shuffle=False)
    np.testing.assert_array_equal(next(targets.epoch(0)).y, x[:4])


class Watched(Dataset):
    """A data set that counts its reads and fails at one of them."""

    def __init__(self, fail_at: int = -1) -> None:
        self.labels = np.zeros(100, np.int32)
        self.classes = None
        self.shape = (1, 2, 2)
        self.dtype = np.dtype(np.uint8)
        self.reads = 0
        self.fail_at = fail_at

    def images(self, indices: np.ndarray) -> np.ndarray:
        self.reads += 1
        if self.reads == self.fail_at:
            raise DataError("photo.jpg: broken data stream")
        return np.zeros((len(indices), 2, 2, 1), np.uint8)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_exception_arrives_where_its_batch_would_have(prefetch: int) -> None:
    batches = Loader(Watched(fail_at=4), 5, prefetch=prefetch).epoch(0)
    for _ in range(3):
        next(batches)
    with pytest.raises(DataError, match=r"photo\.jpg: broken data stream"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_no_more_is_read_ahead_than_asked_for() -> None:
    watched = Watched()
    batches = Loader(watched, 5, prefetch=3).epoch(0)
    assert watched.reads == 0 and not threads()
    next(batches)
    deadline = time.monotonic() + 5
    while watched.reads < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert watched.reads == 4
    batches.close()


def test_leaving_early_stops_the_thread() -> None:
    loader = Loader(Watched(), 5)
    start = time.monotonic()
    for _ in loader.epoch(0):
        assert len(threads()) == 1
        break
    assert not threads()
    with pytest.raises(ZeroDivisionError):
        for _ in loader.epoch(0):
            1 / 0  # noqa: B018
    assert not threads()
    batches = loader.epoch(0)
    next(batches)
    batches.close()
    assert not threads()
    assert time.monotonic() - start < 2


def test_an_iterator_left_open_does_not_keep_python_from_ending() -> None:
    code = (
        "import numpy as np; from clconv.data import *\n"
        "data = ArrayDataset(np.zeros((100, 8, 8, 3), np.uint8), np.zeros(100, int))\n"
        "batches = Loader(data, 5).epoch(0); next(batches); print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="batch_size=0"):
        Loader(dataset(), 0)
    with pytest.raises(ArgumentError, match="23 images make no full batch of 24"):
        Loader(dataset(), 24, drop_last=True)
    with pytest.raises(ArgumentError, match="prefetch=-1"):
        Loader(dataset(), 1, prefetch=-1)
    with pytest.raises(ArgumentError, match=r"seed=1.5"):
        Loader(dataset(), 1, seed=1.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="start_batch=6; an epoch has 5 batches"):
        Loader(dataset(), 5).epoch(0, start_batch=6)
    with pytest.raises(ArgumentError, match="epoch=-1"):
        Loader(dataset(), 5).epoch(-1)
    with pytest.raises(ArgumentError, match="crop_pad=6 does not fit images of 8x6; use 0 to 5"):
        Loader(dataset(), 5, augmentation=Augmentation(6))


def test_augmentation_needs_uint8_images_and_targets_that_need_not_move() -> None:
    x = np.zeros((4, 3, 6, 6), np.float32)
    with pytest.raises(ArgumentError, match="works on uint8 images, these are float32"):
        Loader(ArrayDataset(x, np.zeros(4, int)), 2, augmentation=Augmentation(flip=True))
    pictures = ArrayDataset(x.astype(np.uint8), x)
    with pytest.raises(ArgumentError, match="would not follow crop and flip"):
        Loader(pictures, 2, augmentation=Augmentation(flip=True))
    assert len(list(Loader(pictures, 2, augmentation=Augmentation(jitter=(0.1, 0, 0))).epoch(0))) == 2


def test_a_subset_loads_like_any_data_set() -> None:
    part = Subset(dataset(), [3, 9, 20])
    batch = next(Loader(part, 3, shuffle=False).epoch(0))
    np.testing.assert_array_equal(batch.x, Normalization().apply(dataset().images(np.array([3, 9, 20]))))
    assert batch.indices.tolist() == [0, 1, 2]
