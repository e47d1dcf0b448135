"""Parameters as data: what differs between devices is a row here, never an `if` in code.

A table is a list of rows from general to special: kind of device, then vendor, then architecture, then
device. Every row that fits is applied in turn, so each level has the default of the level above.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

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
DEVICE_ROWS = (
    Row(
        {
            "block": 4,
            "rank": 50,
            "simulator": 0,
            "work_group": 64,
            "workers": 0,
            "build_threads": 0,
            "loop_limit": 0,
            "maps_files": 1,
            "joins": 0,
            "watches": 0,
        }
    ),
    Row({"keeps_programs": 0, "prefetches": 0}),
    Row({"block": 8, "work_group": 1, "workers": 1, "joins": 300}, kind="cpu"),
    Row({"block": 16}, kind="cpu", least_lanes=16),
    Row({"rank": 0, "prefetches": 1, "joins": 10}, kind="cpu", platform="intel(r) opencl"),
    Row({"rank": 10, "prefetches": 1}, kind="cpu", platform="portable computing language"),
    Row({"keeps_programs": 1, "watches": 1}, platform="portable computing language"),
    Row({"rank": 60}, kind="gpu", platform="portable computing language"),
    Row({"rank": 80}, platform="clover"),
    Row({"rank": 70}, platform="rusticl"),
    # Mesa ends every loop of a work-item for good after 65535 iterations (LP_MAX_TGSI_LOOP_ITERATIONS; seen in 22.3.6);
    # a margin is left for what its compiler makes of loops. Persistent work-items have no bound. Loops over register
    # tiles are written out (cl/common.h), which takes it seconds unless they are small.
    Row(
        {"rank": 90, "loop_limit": 65000, "maps_files": 0, "workers": 0, "joins": 0, "accumulators": 4},
        device="llvmpipe",
    ),
    Row({"rank": 100, "simulator": 1, "build_threads": 1, "maps_files": 0}, platform="oclgrind"),
)

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
    """The values of DEVICE_ROWS and accumulators for a device.

    Args:
        block: overrides the channel block, as text. kernels: forces a class, whose values then apply.

    Raises:
        ArgumentError: `block` is not one of 16, 8, 4 and 1; `kernels` is no class.
    """
    values = lookup(DEVICE_ROWS, traits)
    if kernel_class(traits, kernels) != kernel_class(traits):
        traits = replace(traits, kind=kernel_class(traits, kernels))
        shaped = lookup(DEVICE_ROWS, traits)
        values.update({name: shaped[name] for name in CLASS_VALUES if name in shaped})
    if block is not None:
        if block not in {str(b) for b in BLOCKS}:
            raise ArgumentError(f"CLCONV_BLOCK: {block!r} is no channel block size; 16, 8, 4 or 1 would fit")
        values["block"] = int(block)
    values.setdefault("accumulators", ACCUMULATORS.get((traits.kind, values["block"]), ACCUMULATORS_ELSE))
    return values
