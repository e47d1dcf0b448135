"""Data sets in arrays, subsets, splits, label checks, normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from clconv import data
from clconv.data import ArrayDataset, Normalization, Subset, split
from clconv.errors import ArgumentError, DataError, ShapeError

ZERO = np.zeros(2, np.int64)
ALL = np.arange(2)


def counted(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def test_the_public_names_are_sorted_and_there() -> None:
    assert data.__all__ == sorted(data.__all__)
    assert all(hasattr(data, name) for name in data.__all__)


@pytest.mark.parametrize(
    ("x", "layout", "shape", "nhwc"),
    [
        (counted(2, 8, 9, 3), None, (3, 8, 9), counted(2, 8, 9, 3)),
        (counted(2, 3, 8, 9), None, (3, 8, 9), counted(2, 3, 8, 9).transpose(0, 2, 3, 1)),
        (counted(2, 8, 9), None, (1, 8, 9), counted(2, 8, 9)[..., None]),
        (counted(2, 3, 8, 3), "NHWC", (3, 3, 8), counted(2, 3, 8, 3)),
        (counted(2, 5, 8, 9), "NCHW", (5, 8, 9), counted(2, 5, 8, 9).transpose(0, 2, 3, 1)),
    ],
)
def test_uint8_images_come_as_nhwc(x: np.ndarray, layout: str | None, shape: tuple[int, ...], nhwc: np.ndarray) -> None:
    dataset = ArrayDataset(x, ZERO, layout=layout)
    assert dataset.shape == shape and dataset.dtype == np.uint8 and len(dataset) == 2
    got = dataset.images(np.array([1, 0, 1]))
    assert got.flags.c_contiguous and got.dtype == np.uint8
    np.testing.assert_array_equal(got, nhwc[[1, 0, 1]])


def test_float32_images_come_as_nchw() -> None:
    x = counted(2, 7, 5, 3, dtype=np.float32)
    np.testing.assert_array_equal(ArrayDataset(x, ZERO).images(ALL), x)
    turned = ArrayDataset(x, ZERO, layout="NHWC")
    assert turned.shape == (3, 7, 5)
    np.testing.assert_array_equal(turned.images(ALL), x.transpose(0, 3, 1, 2))
    assert turned.images(ALL).flags.c_contiguous
    assert ArrayDataset(x[..., 0], ZERO).shape == (1, 7, 5)


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 8, 9, 5)])
def test_an_ambiguous_layout_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="two ways; say layout='NHWC' or layout='NCHW'"):
        ArrayDataset(counted(*shape), ZERO)


def test_wrong_types_say_what_is_accepted() -> None:
    x = counted(2, 8, 8, 3)
    with pytest.raises(ArgumentError, match=r"images are float64; float32 .* or uint8 .* is accepted"):
        ArrayDataset(x.astype(float), ZERO)
    with pytest.raises(ArgumentError, match=r"labels are float64 .*integers \(N,\) are accepted"):
        ArrayDataset(x, np.zeros(2))
    with pytest.raises(ArgumentError, match="labels are bool"):
        ArrayDataset(x, np.zeros(2, bool))
    with pytest.raises(ArgumentError, match=r"labels are int64 with shape \(2, 1\)"):
        ArrayDataset(x, np.zeros((2, 1), np.int64))
    with pytest.raises(ArgumentError, match="four axes are accepted"):
        ArrayDataset(x.reshape(2, -1), ZERO)
    with pytest.raises(ArgumentError, match="layout='HWC'"):
        ArrayDataset(x, ZERO, layout="HWC")


@pytest.mark.parametrize("value", [3, -1, 300])
def test_a_label_out_of_range_is_named(value: int) -> None:
    with pytest.raises(DataError, match=rf"label {value} of image 1 is out of range; 0 to 2 is .*\(3 classes\)"):
        ArrayDataset(counted(2, 8, 8, 3), np.array([2, value]), classes=["a", "b", "c"])


def test_a_label_that_needs_more_than_31_bits_is_refused() -> None:
    with pytest.raises(DataError, match="label 4294967296 of image 0 is out of range; 0 to 2147483647"):
        ArrayDataset(counted(1, 8, 8, 3), np.array([2**32]))


def test_empty_and_unequal_data_are_refused() -> None:
    with pytest.raises(DataError, match="there are no images"):
        ArrayDataset(counted(0, 8, 8, 3), np.zeros(0, np.int64))
    with pytest.raises(ShapeError, match="3 images but 2 labels"):
        ArrayDataset(counted(3, 8, 8, 3), ZERO)
    with pytest.raises(DataError, match="the images are empty"):
        ArrayDataset(counted(2, 0, 8, 3), ZERO)


def test_labels_become_int32_and_targets_stay_float32() -> None:
    x = counted(2, 8, 8, 3)
    for dtype in (np.uint8, np.int64, np.uint64):
        dataset = ArrayDataset(x, np.array([4, 1], dtype))
        assert dataset.labels.dtype == np.int32 and dataset.class_count == 5
    regression = ArrayDataset(x, np.ones((2, 6), np.float32))
    assert regression.labels.shape == (2, 6) and regression.class_count == 0


def test_a_subset_reads_its_own_images() -> None:
    x = counted(5, 6, 6, 3)
    part = Subset(ArrayDataset(x, np.arange(5), classes=list("abcde")), [4, 1, 3])
    assert part.labels.tolist() == [4, 1, 3] and part.class_count == 5
    np.testing.assert_array_equal(part.images(np.array([2, 0])), x[[3, 4]])
    with pytest.raises(ArgumentError, match="index 5 at position 1 is out of range; the data set has 0 to 4"):
        Subset(part.dataset, [0, 5])
    with pytest.raises(DataError, match="no indices"):
        Subset(part.dataset, np.zeros(0, int))


def labelled(counts: list[int]) -> ArrayDataset:
    y = np.repeat(np.arange(len(counts)), counts)
    y = np.random.default_rng(0).permutation(y)
    return ArrayDataset(np.zeros((len(y), 2, 2, 1), np.uint8), y, layout="NHWC")


def test_a_split_is_stratified_seeded_and_complete() -> None:
    dataset = labelled([100, 50, 10, 1])
    rest, part = split(dataset, 0.2, seed=3)
    assert np.bincount(part.labels, minlength=4).tolist() == [20, 10, 2, 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([rest.indices, part.indices])), np.arange(161))
    np.testing.assert_array_equal(split(dataset, 0.2, seed=3)[1].indices, part.indices)
    assert (split(dataset, 0.2, seed=4)[1].indices != part.indices).any()


def test_a_split_gives_left_over_images_to_the_largest_remainders() -> None:
    _, part = split(labelled([7, 8, 9]), 0.25)  # 1.75, 2, 2.25 of 6
    assert np.bincount(part.labels).tolist() == [2, 2, 2]
    _, part = split(labelled([1, 1, 4]), 0.5)
    assert np.bincount(part.labels).tolist() == [0, 0, 2]


def test_a_split_that_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match="share=1"):
        split(labelled([4]), 1)
    with pytest.raises(DataError, match=r"0.1 of 3 images in 1 classes leaves no image"):
        split(labelled([3]), 0.1)
    with pytest.raises(ArgumentError, match="seed=-1"):
        split(labelled([4]), 0.5, seed=-1)


def test_statistics_are_those_of_the_data() -> None:
    x = np.random.default_rng(1).integers(0, 256, (700, 5, 4, 3), dtype=np.uint8)
    x[..., 2] = 9
    norm = Normalization.of(ArrayDataset(x, np.zeros(700, int), layout="NHWC"))
    np.testing.assert_allclose(norm.mean, (x / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(norm.std[:2], (x / 255).std(axis=(0, 1, 2))[:2], rtol=1e-12)
    assert norm.std[2] == 1  # a constant channel
    y = norm.apply(x)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), [1, 1, 0], atol=1e-5)


def test_statistics_of_float32_images_and_of_a_sample() -> None:
    x = np.random.default_rng(1).normal(5, 3, (400, 2, 4, 4)).astype(np.float32)
    dataset = ArrayDataset(x, np.zeros(400, int))
    norm = Normalization.of(dataset)
    assert norm.scale == 1
    np.testing.assert_allclose(norm.apply(x).std(axis=(0, 2, 3)), 1, atol=1e-5)
    sampled = Normalization.of(dataset, sample=100)
    assert sampled == Normalization.of(dataset, sample=100) != norm
    np.testing.assert_allclose(sampled.mean, norm.mean, atol=0.5)


def test_a_sample_does_not_follow_a_period_of_the_data() -> None:
    x = np.zeros((3000, 2, 2, 1), np.uint8)
    x[::6] = 240
    norm = Normalization.of(ArrayDataset(x, np.zeros(3000, int), layout="NHWC"), sample=500)
    assert abs(norm.mean[0] - 40 / 255) < 0.07  # 4 sigma


def test_normalizations_that_cannot_be_are_refused() -> None:
    with pytest.raises(ArgumentError, match="each must be above 0"):
        Normalization(0.5, (0.2, 0.0))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="2 means but 3 stds"):
        Normalization((0.5, 0.5), (1, 1, 1))
    with pytest.raises(ArgumentError, match=r"mean=.*finite"):
        Normalization(float("nan"))  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="made for 3 channels, the images have 1"):
        Normalization((0.1, 0.2, 0.3)).apply(counted(2, 4, 4, 1))
