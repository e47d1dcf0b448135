"""Resizing axes of row-major tensors, as ONNX's Resize and Upsample do."""

import math
import struct
from dataclasses import dataclass
from fractions import Fraction

from clconv.errors import ArgumentError, ShapeError

from clconv._core.layer import Choice, Cost, Layer
from clconv._core.plain_index import aligned, floats, plain, run_length

NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")  # codes 1.. of cl/plain_resize.cl
COORDINATE_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "align_corners",
    "asymmetric",
)
LARGEST = 2**62  # that the kernel's whole numbers may become
TABLE_ITEM_BYTES = 12


@dataclass(frozen=True)
class _Axis:
    """One axis of a pass: n inputs, `count` outputs, output i at (slope i + first) / divisor."""

    n: int
    count: int
    slope: int = 0
    first: int = 0
    divisor: int = 1

    @property
    def table_bytes(self):
        return aligned(TABLE_ITEM_BYTES * self.count)


@dataclass(frozen=True)
class _Pass:
    """Two axes resized at once: extents before, between and behind them, and the axes; elements of the result."""

    outer: int
    rows: _Axis
    mid: int
    columns: _Axis
    inner: int

    @property
    def values(self):
        return self.outer * self.rows.count * self.mid * self.columns.count * self.inner


class Resize(Layer):
    """x resized along any axes: the "nearest" value, or "linear" between neighbours; beyond the edge the edge value.

    Args:
        mode: "nearest" or "linear".
        sizes: extents of y, one per axis; None: floor(extent * scale).
        scales: one per axis (float32 as in ONNX), which say where an output lies; None: the ratio of the extents.
        coordinate_mode, nearest_mode: as ONNX names them; see `COORDINATE_MODES`, `NEAREST_MODES`.
    """

    accepts = {"x": ("plain",)}

    def __init__(
        self, mode, sizes=None, scales=None, coordinate_mode="half_pixel", nearest_mode="round_prefer_floor"
    ):
        if mode not in ("nearest", "linear"):
            raise ArgumentError(f"resize: unknown mode {mode!r}; known are nearest and linear")
        if coordinate_mode not in COORDINATE_MODES:
            raise ArgumentError(
                f"resize: unknown coordinates {coordinate_mode!r}; known are {', '.join(COORDINATE_MODES)}"
            )
        if nearest_mode not in NEAREST_MODES:
            raise ArgumentError(f"resize: unknown rounding {nearest_mode!r}; known are {', '.join(NEAREST_MODES)}")
        if sizes is None and scales is None:
            raise ArgumentError("resize: neither sizes nor scales; one of them is needed")
        if scales is not None and not all(0 < s < math.inf for s in scales):
            raise ArgumentError(f"resize: scales {tuple(scales)}; each must be positive and finite")
        self.mode = mode
        self.sizes = None if sizes is None else tuple(sizes)
        self.scales = None if scales is None else tuple(_exactly(s) for s in scales)
        self.coordinate_mode = coordinate_mode
        self.nearest_mode = nearest_mode

    def infer(self, specs):
        floats("resize", specs)
        return (plain(self._shape(specs[0].shape), who="resize"),)

    def _shape(self, shape):
        for what, given in (("sizes", self.sizes), ("scales", self.scales)):
            if given is not None and len(given) != len(shape):
                raise ShapeError(f"resize: {len(given)} {what} for the {len(shape)} axes of {shape}")
        if self.sizes is not None:
            return self.sizes
        return tuple(math.floor(n * scale) for n, scale in zip(shape, self.scales))

    def _passes(self, shape):
        """The axes that change, two by two."""
        target = self._shape(shape)
        ratios = self.scales or [Fraction(m, n) for n, m in zip(shape, target)]
        changing = [i for i, (n, m) in enumerate(zip(shape, target)) if n != m or ratios[i] != 1]
        axes = {i: self._axis(shape[i], target[i], ratios[i]) for i in changing}
        now, passes = list(shape), []
        for i in range(0, max(len(changing), 1), 2):
            pair = changing[i : i + 2]
            if len(pair) == 2:
                (a, b), rows, columns = pair, axes[pair[0]], axes[pair[1]]
                mid = math.prod(now[a + 1 : b])
            else:
                a = b = pair[0] if pair else len(now) - 1
                rows, mid = _Axis(1, 1), 1
                columns = axes[b] if pair else _Axis(math.prod(now[b:]), math.prod(now[b:]), slope=1)
            passes.append(_Pass(math.prod(now[: max(a, 0)]), rows, mid, columns, math.prod(now[b + 1 :])))
            for axis in pair:
                now[axis] = target[axis]
        return passes

    def _axis(self, n, count, ratio):
        slope, first = _place(n, count, ratio, self.coordinate_mode)
        divisor = math.lcm(slope.denominator, first.denominator)
        if max(abs(slope) * count * divisor + abs(first) * divisor, 2 * divisor) >= LARGEST:
            slope, first = slope.limit_denominator(2**20), first.limit_denominator(2**20)
            divisor = math.lcm(slope.denominator, first.denominator)
        return _Axis(n, count, int(slope * divisor), int(first * divisor), divisor)

    def choices(self, facts, specs, outs):
        passes = self._passes(specs[0].shape)
        tables = sum(p.rows.table_bytes + p.columns.table_bytes for p in passes)
        return [Choice("plain", (), tables + sum(aligned(4 * p.values) for p in passes[:-1]))]

    def cost(self, specs, outs, facts):
        taps = 1 if self.mode == "nearest" else 9
        return Cost(taps * outs[0].values, specs[0].nbytes(facts.block) + outs[0].nbytes(facts.block))

    def record(self, rec, ins, outs, work, choice):
        linear = self.mode == "linear"
        code = 0 if linear else 1 + NEAREST_MODES.index(self.nearest_mode)
        x, at = ins[0], 0
        passes = self._passes(x.spec.shape)
        for one in passes:
            tables = []
            for axis in (one.rows, one.columns):
                tables.append(work.part(at, TABLE_ITEM_BYTES * axis.count, None))
                at += axis.table_bytes
                whole = [*_halves(axis.slope), *_halves(axis.first), *_halves(axis.divisor)]
                rec.launch(
                    "plain_resize.cl", "resize_table", (axis.count,), [tables[-1], axis.count, axis.n, code, *whole]
                )
            y = outs[0]
            if one is not passes[-1]:
                y = work.part(at, 4 * one.values, None)
                at += aligned(4 * one.values)
            length = one.columns.count * one.inner
            run, runs = run_length(rec.facts, length)
            items = one.outer * one.rows.count * one.mid * runs
            extents = [one.rows.n, one.rows.count, one.mid, one.columns.n, one.columns.count, one.inner]
            rec.launch(
                "plain_resize.cl", "resize", (items,), [x, *tables, y, items, run, runs, int(linear), *extents]
            )
            x = y


def _place(n, count, ratio, mode):
    """(slope, first): output i of `count` lies at slope i + first of n inputs; size is what the scale makes of n."""
    half, size = Fraction(1, 2), ratio * n
    if mode == "align_corners":
        return (Fraction(0) if size == 1 else (n - 1) / (size - 1)), Fraction(0)
    if mode == "asymmetric":
        return 1 / ratio, Fraction(0)
    if mode == "tf_half_pixel_for_nn":
        return 1 / ratio, half / ratio
    if mode == "pytorch_half_pixel" and size == 1:
        return Fraction(0), -half
    shift = Fraction(n, 2) * (1 - count / size) if mode == "half_pixel_symmetric" else 0
    return 1 / ratio, shift + half / ratio - half


def _exactly(scale):
    """The float32 that a scale is, as a fraction."""
    return Fraction(struct.unpack("<f", struct.pack("<f", scale))[0])


def _halves(value):
    """A 64-bit whole number as two kernel arguments of 32 bits, the lower first."""
    return struct.unpack("<ii", struct.pack("<q", value))
