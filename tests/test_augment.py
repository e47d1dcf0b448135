"""Augmentation and normalisation against a plain NumPy reading of their definition."""

from __future__ import annotations

import numpy as np
import pytest

from clconv._core import augment
from clconv.data import Augmentation, Normalization
from clconv.data.dataset import SHUFFLE_STREAM, SPLIT_STREAM
from clconv.errors import ArgumentError, ShapeError

AUGMENT_STREAM = 0x61756700

# Known answers of the Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
KNOWN = [
    (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (2**64 - 1, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        0x299F31D0A4093822,
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("key", "counter", "words"), KNOWN)
def test_philox_gives_the_known_answers(key: int, counter: tuple[int, ...], words: tuple[int, ...]) -> None:
    assert augment.philox4x32(key, counter) == words


def pictures(n: int, h: int, w: int, c: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def words_of(seed: int, epoch: int, index: int, stream: int) -> tuple[int, ...]:
    return augment.philox4x32(seed, (index & 0xFFFFFFFF, index >> 32, epoch, stream))


def moved(x: np.ndarray, words: tuple[int, ...], pad: int, flip: bool, mode: str) -> np.ndarray:
    """The crop that the words choose, then the flip, of one HWC image."""
    h, w, _ = x.shape
    padded = np.pad(x, ((pad, pad), (pad, pad), (0, 0)), mode)
    top, left = (word * (2 * pad + 1) >> 32 for word in words[:2])
    if not (flip and words[2] >> 31):
        return padded[top : top + h, left : left + w]
    return padded[top : top + h, left : left + w][:, ::-1]


def coloured(x: np.ndarray, words: tuple[int, ...], strengths: tuple[float, ...]) -> np.ndarray:
    """Brightness, contrast and saturation of one HWC image, in float64."""
    low = [max(0.0, 1 - s) for s in strengths]
    b, k, s = (
        a + (1 + strength - a) * word / 2**32 for a, strength, word in zip(low, strengths, words[:3], strict=True)
    )

    def grey(x: np.ndarray) -> np.ndarray:
        weights = np.array([0.299, 0.587, 0.114]) if x.shape[2] == 3 else np.full(x.shape[2], 1 / x.shape[2])
        return x @ weights

    x = (x * b).clip(0, 255)
    x = (k * x + (1 - k) * grey(x).mean()).clip(0, 255)
    return (s * x + (1 - s) * grey(x)[..., None]).clip(0, 255)


SHAPES = [(1, 1, 1, 1), (3, 5, 7, 3), (2, 33, 17, 1), (4, 9, 6, 5), (2, 20, 40, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_normalize_rounds_the_exact_value_once(shape: tuple[int, int, int, int]) -> None:
    x = pictures(*shape)
    mean, std = np.linspace(0.4, 0.6, shape[3]), np.linspace(0.2, 0.3, shape[3])
    y = Normalization(tuple(mean), tuple(std)).apply(x)
    gain, offset = (1 / 255) / std, -mean / std
    assert y.dtype == np.float32 and y.flags.c_contiguous
    np.testing.assert_array_equal(y, (x * gain + offset).astype(np.float32).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(y, ((x / 255 - mean) / std).transpose(0, 3, 1, 2), atol=3e-7)


@pytest.mark.parametrize("shape", SHAPES[1:])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_crop_and_flip_are_exact(shape: tuple[int, int, int, int], flip: bool, padding: str) -> None:
    x = np.repeat(pictures(*shape), 8, axis=0)
    indices = np.arange(len(x)) * 1_000_003_000  # some of them need more than 32 bits
    seed, epoch, pad = 2**63 + 11, 7, 4
    y = Augmentation(pad, flip, padding=padding).apply(x, indices, seed=seed, epoch=epoch)
    mode = "constant" if padding == "zero" else "reflect"
    for image, index, got in zip(x, indices.tolist(), y, strict=True):
        wanted = moved(image, words_of(seed, epoch, index, AUGMENT_STREAM), pad, flip, mode)
        np.testing.assert_array_equal(got, Normalization().apply(wanted[None])[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_colour_jitter_follows_its_definition(shape: tuple[int, int, int, int]) -> None:
    x = np.repeat(pictures(*shape), 5, axis=0)
    strengths = (0.4, 1.7, 0.9)
    norm = Normalization(0.45, 0.25)
    y = Augmentation(0, True, strengths).apply(x, np.arange(len(x)), seed=3, epoch=2, normalization=norm)
    for index, (image, got) in enumerate(zip(x, y, strict=True)):
        wanted = moved(image, words_of(3, 2, index, AUGMENT_STREAM), 0, True, "constant")
        wanted = coloured(wanted, words_of(3, 2, index, AUGMENT_STREAM + 1), strengths)
        # Each of six roundings is within half a unit of the last place of 255 times the largest factor.
        np.testing.assert_allclose(got, ((wanted / 255 - 0.45) / 0.25).transpose(2, 0, 1), atol=6 * 2.7 * 2**-24 / 0.25)


def test_an_image_is_changed_alike_wherever_it_stands_in_a_batch() -> None:
    x = pictures(12, 8, 8, 3)
    change = Augmentation(3, True, (0.2, 0.3, 0.4))
    whole = change.apply(x, np.arange(12), seed=5, epoch=1)
    order = np.array([7, 2, 11, 0])
    np.testing.assert_array_equal(change.apply(x[order], order, seed=5, epoch=1), whole[order])
    for other in ({"seed": 6, "epoch": 1}, {"seed": 5, "epoch": 2}):
        assert (change.apply(x, np.arange(12), **other) != whole).any()


def test_every_offset_occurs_and_half_are_flipped() -> None:
    n, pad = 4000, 2
    x = np.zeros((n, 5, 5, 1), np.uint8)
    x[:, 2, 2] = 255  # the middle pixel is never cropped away and shows the offset
    y = Augmentation(pad, False).apply(x, np.arange(n), seed=1, epoch=0)
    seen = y.reshape(n, 25).sum(axis=0)
    assert seen.sum() == n and seen.min() > 100 and seen.max() < 220  # 160 expected, 5 sigma are 63
    x = np.zeros((n, 1, 2, 1), np.uint8)
    x[:, 0, 0] = 255
    flipped = Augmentation(flip=True).apply(x, np.arange(n), seed=1, epoch=0)[:, 0, 0, 1].sum()
    assert abs(flipped - n / 2) < 5 * np.sqrt(n / 4)


def test_nothing_around_the_result_is_touched() -> None:
    x, guard = pictures(3, 6, 5, 3), np.float32(-77)
    held = np.full((5, 3, 6, 5), guard)
    table = Normalization().table(3)
    for run in (
        lambda: augment.normalize(x, held[1:4], table),
        lambda: augment.augment_normalize(x, held[1:4], table, np.arange(3), 0, 0, crop_pad=4, flip=True),
        lambda: augment.augment_normalize(x, held[1:4], table, np.arange(3), 0, 0, jitter=(1, 1, 1)),
    ):
        held[1:4] = np.nan
        run()
        assert np.isfinite(held[1:4]).all()
        assert (held[0] == guard).all() and (held[4] == guard).all()


def test_random_keys_differ_by_seed_epoch_and_stream() -> None:
    def keys(seed: int, epoch: int, stream: int) -> np.ndarray:
        out = np.empty(50, np.uint64)
        augment.random_keys(out, seed, epoch, stream)
        return out

    rows = [(1, 0, SHUFFLE_STREAM), (2, 0, SHUFFLE_STREAM), (1, 1, SHUFFLE_STREAM), (1, 0, SPLIT_STREAM)]
    assert len(np.unique(np.concatenate([keys(*row) for row in rows]))) == 200
    np.testing.assert_array_equal(keys(*rows[0]), keys(*rows[0]))


def test_arrays_that_do_not_fit_are_refused() -> None:
    x, table = pictures(2, 4, 5, 3), Normalization().table(3)
    with pytest.raises(ShapeError, match=r"out is \(2, 3, 5, 4\); images \(2, 4, 5, 3\) \(NHWC\) need"):
        augment.normalize(x, np.empty((2, 3, 5, 4), np.float32), table)
    with pytest.raises(ShapeError, match=r"table is .* 3 channels need"):
        augment.normalize(x, np.empty((2, 3, 4, 5), np.float32), table[:2])
    with pytest.raises(ShapeError, match="3 indices for 2 images"):
        augment.augment_normalize(x, np.empty((2, 3, 4, 5), np.float32), table, np.arange(3), 0, 0)


def test_arguments_out_of_range_are_refused() -> None:
    x = pictures(1, 4, 6, 3)
    with pytest.raises(ArgumentError, match="crop_pad=4 does not fit images of 4x6; use 0 to 3"):
        Augmentation(4).apply(x, np.arange(1), seed=0, epoch=0)
    with pytest.raises(ArgumentError, match="crop_pad=-1"):
        Augmentation(-1)
    with pytest.raises(ArgumentError, match="three strengths"):
        Augmentation(jitter=(0.1, 0.2))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="'zero' or 'reflect'"):
        Augmentation(padding="edge")
    with pytest.raises(ArgumentError, match=r"float64 .*uint8 \(N, H, W, C\) is accepted"):
        Augmentation().apply(x.astype(float), np.arange(1), seed=0, epoch=0)
