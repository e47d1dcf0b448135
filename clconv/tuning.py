"""Parameters as data: what differs between devices is a row of devices.json, never an `if` in code.

Rows go from general to special: kind of device, then vendor, then architecture, then device. Every row that fits is
applied in turn, so each level has the default of the level above. Those of a user's own file (CLCONV_DEVICE_ROWS) come
last. A row is an object with some of the names to match (`Row`), its "values", and "why".
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from . import settings
from .errors import ArgumentError


@dataclass(frozen=True)
class Traits:
    """What rows are matched against. `lanes` is the native vector width in float32 values."""

    kind: str
    vendor: str = ""
    platform: str = ""
    device: str = ""
    lanes: int = 1


@dataclass(frozen=True)
class Row:
    """Values for the devices that fit: substrings of names, case-insensitive; "" fits all."""

    values: dict[str, int] = field(default_factory=dict)
    kind: str = ""
    vendor: str = ""
    platform: str = ""
    device: str = ""
    least_lanes: int = 0

    def fits(self, traits: Traits) -> bool:
        """Whether the row applies to a device."""
        return (
            self.kind in ("", traits.kind)
            and self.vendor.lower() in traits.vendor.lower()
            and self.platform.lower() in traits.platform.lower()
            and self.device.lower() in traits.device.lower()
            and traits.lanes >= self.least_lanes
        )


# block          channels per block of the layout
# rank           among devices of one kind the lowest is preferred
# simulator      1: never chosen unless named
# workers        persistent work-items per compute unit of kernels with a scratch each: 1, or 0: no such kernels
# work_group     work-items per group of kernels whose items do not work together
# build_threads  programs that its compiler may build at once; 0: as many as there are processors
# keeps_programs 1: its driver keeps compiled kernels on disk itself, and hands out a program's binary only after
#                compiling all its kernels once more
# prefetches     1: its compiler has __builtin_prefetch, and makes an instruction of it
# maps_files     0: its driver copies host memory that a buffer is made of, even where both are one memory
# joins          MFLOP of a launch, in the mean, up to which a plan's are joined into one unasked where the device can:
#                so few that waking its threads for each takes more than a hundredth; 0: never
# watches        1: its driver lets a thread sleep at once that waits for it, longer than a small network takes
# loop_limit     loop iterations, of all loops together, after which a work-item's results are silently wrong; 0: none
NAMES = {
    "block", "rank", "simulator", "workers", "work_group", "build_threads", "keeps_programs", "prefetches",
    "maps_files", "joins", "watches", "loop_limit", "accumulators",
}  # fmt: skip
FIELDS = {"kind": str, "vendor": str, "platform": str, "device": str, "least_lanes": int, "why": str, "values": dict}
SHIPPED = Path(__file__).with_name("devices.json")

# accumulators: vectors of one block that a work-item may hold as its register tile, by kind and block, unless a row
# says it.
# 28 of AVX-512's 32 registers, 12 of AVX2's 16: the rest hold two weights and a broadcast input.
ACCUMULATORS = {("cpu", 16): 28, ("cpu", 8): 12, ("cpu", 4): 12, ("cpu", 1): 12}
ACCUMULATORS_ELSE = 16

BLOCKS = (16, 8, 4, 1)

# A class of kernels by kind of device: "cpu" keeps a tile in the registers of one work-item and counts on caches, "gpu"
# lets the items of a group work together through local memory. The class brings its shapes with it. A GPU's block is 4:
# each item then loads 16 bytes and its neighbour the next 16, in every kernel; with blocks of 16 values neighbours were
# 64 bytes apart, and layers of few channels mostly padding.
CLASSES = ("cpu", "gpu")
CLASS_VALUES = ("block", "work_group", "workers", "accumulators")


def device_rows() -> tuple[Row, ...]:
    """The rows that are shipped, and behind them the user's own.

    Raises:
        ArgumentError: the user's file cannot be read, or is no list of rows.
    """
    own = settings.get("CLCONV_DEVICE_ROWS")
    return (*read_rows(SHIPPED), *(read_rows(Path(own)) if own else ()))


@cache
def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a file; see `device_rows`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"device rows: {path} cannot be read: {error}") from error
    if not isinstance(content, list):
        raise ArgumentError(f"device rows: {path} holds no list of rows")
    return tuple(_row(each, f"device rows: {path}: row {number}") for number, each in enumerate(content, start=1))


def _row(given: Any, who: str) -> Row:
    if not isinstance(given, dict) or not isinstance(given.get("values"), dict):
        raise ArgumentError(f'{who} has no "values"')
    for name, value in given.items():
        if name not in FIELDS or not isinstance(value, FIELDS[name]):
            raise ArgumentError(f"{who}: {name!r}: {value!r} is not known; there are {', '.join(sorted(FIELDS))}")
    for name, value in given["values"].items():
        if name not in NAMES or not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ArgumentError(
                f"{who}: {name!r}: {value!r} is no value; whole numbers of {', '.join(sorted(NAMES))} are"
            )
    return Row(**{name: value for name, value in given.items() if name != "why"})


def lookup(rows: Iterable[Row], traits: Traits) -> dict[str, int]:
    """The values of a table for one device."""
    values: dict[str, int] = {}
    for row in rows:
        if row.fits(traits):
            values.update(row.values)
    return values


def kernel_class(traits: Traits, forced: str | None = None) -> str:
    """The class of kernels for a device, one of CLASSES.

    Raises:
        ArgumentError: `forced` is none of them.
    """
    if forced is not None and forced not in CLASSES:
        raise ArgumentError(f"CLCONV_KERNELS: {forced!r} is no class of kernels; cpu or gpu would fit")
    return forced or ("cpu" if traits.kind == "cpu" else "gpu")


def device_values(traits: Traits, block: str | None = None, kernels: str | None = None) -> dict[str, int]:
    """The values of `device_rows` and accumulators for a device.

    Args:
        block: overrides the channel block, as text. kernels: forces a class, whose values then apply.

    Raises:
        ArgumentError: `block` is not one of 16, 8, 4 and 1; `kernels` is no class; see `device_rows`.
    """
    rows = device_rows()
    values = lookup(rows, traits)
    if kernel_class(traits, kernels) != kernel_class(traits):
        traits = replace(traits, kind=kernel_class(traits, kernels))
        shaped = lookup(rows, traits)
        values.update({name: shaped[name] for name in CLASS_VALUES if name in shaped})
    if block is not None:
        if block not in {str(b) for b in BLOCKS}:
            raise ArgumentError(f"CLCONV_BLOCK: {block!r} is no channel block size; 16, 8, 4 or 1 would fit")
        values["block"] = int(block)
    values.setdefault("accumulators", ACCUMULATORS.get((traits.kind, values["block"]), ACCUMULATORS_ELSE))
    return values
