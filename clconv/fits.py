"""What fits into a budget: the largest batches, and the largest image, found over plans; nothing is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, BudgetError, ModelFileError, OutOfMemoryError, ShapeError
from .inference import OUTPUT, Inference
from .plan import Plan
from .planner import NO_LIMIT
from .report import training_plan
from .tables import table
from .terms import DEFAULT, Terms
from .train.method import normalises

if TYPE_CHECKING:
    from .net import Net

MOST_BATCH = 1024  # images; more at a time bring nothing
MOST_SIDE = 16384  # pixels
GRIDS = (1, 2, 4, 8, 16, 32, 64)  # sizes of images that are tried: the network's own and steps of so many pixels
CLOSE = 32  # a side is found to one part in so many
SMALLER = (0.75, 0.5, 0.25, 0.125)  # of the network's own size, where that does not fit


@dataclass(frozen=True)
class Fit:
    """The largest of something that fits.

    Attributes:
        what: "batch" or "image" (side in pixels). mode: "test" or "train".
        at_once: the largest that is computed as without a budget; 0: not even one. at_all: about the
            largest that fits in more time; None: any, in parts; 0: nothing.
        capped: `at_once` could be larger than was looked for. peak_bytes: of the plan at `at_once`, or else `at_all`.
    """

    what: str
    mode: str
    at_once: int
    at_all: int | None
    capped: bool
    peak_bytes: int
    note: str = ""


@dataclass(frozen=True)
class Fits:
    """What `fits` found for a budget in bytes."""

    budget: int
    device: str
    found: tuple[Fit, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        names = {
            ("batch", "test"): "images at a time, predicting",
            ("batch", "train"): "images per training step",
            ("image", "test"): "pixels per side, predicting",
        }
        rows = [
            (
                names[fit.what, fit.mode],
                ("from " if fit.capped else "") + str(fit.at_once) if fit.at_once else "none",
                "any" if fit.at_all is None else str(fit.at_all) if fit.at_all else "none",
                f"{fit.peak_bytes / 2**20:,.2f}" if fit.peak_bytes else "",
            )
            for fit in self.found
        ]
        lines = table(("largest", "at full speed", "at all", "takes MiB"), rows, right=(1, 2, 3))
        notes = [f"{names[fit.what, fit.mode]}: {fit.note}" for fit in self.found if fit.note]
        return "\n".join([*lines, *([""] if notes else []), *notes])

    def __bool__(self) -> bool:
        """Whether anything fits."""
        return any(fit.at_all != 0 for fit in self.found)


def fits(net: Net, memory: int, *, bn: str | None = None, terms: Terms = DEFAULT) -> Fits:
    """The largest batches for predicting and training that fit into a budget, and image where sizes are free.

    Args:
        memory: bytes. bn: as for `Net.fit`. terms: of predictions; of training, its storage.

    Raises:
        ArgumentError: the network's batch is fixed.
    """
    if net.network.fixed_batch is not None:
        raise ArgumentError(
            f"fit-check: the file fixes the batch at {net.network.fixed_batch}; clconv summary shows it"
        )
    found = [_test_batch(net, memory, terms), _train_batch(net, memory, bn, terms.storage)]
    largest = _image(net, memory, terms)
    return Fits(memory, net.device.facts.name, (*found, *([largest] if largest is not None else [])))


def _largest(bytes_of: Callable[[int], float], limit: int, most: int) -> int:
    """The largest number up to `most` whose bytes pass no limit; they grow about evenly. 0: not even one."""
    known = {1: bytes_of(1)}
    low, high, guess = 0, most + 1, 2
    if known[1] > limit:
        return 0
    low = 1
    while high - low > 1:
        known[guess] = bytes_of(guess)
        low, high = (guess, high) if known[guess] <= limit else (low, guess)
        a, b = low, high if high in known and known[high] < math.inf else max(known)
        a = a if a != b else sorted(n for n in known if n != b and known[n] < math.inf)[-1]
        slope = (known[b] - known[a]) / (b - a) if known[b] < math.inf else 0
        guess = int(a + (limit - known[a]) / slope) if slope > 0 else 2 * low
        guess = min(max(guess, low + 1), high - 1)
    return low


def _bytes(make: Callable[[], Plan]) -> float:
    """What a plan without a budget takes at least: weights may stay in a file where the device reads them there."""
    try:
        plan = make()
    except (OutOfMemoryError, BudgetError):
        return math.inf
    return plan.arena_bytes if plan.facts.maps_files and not plan.optimizer_bytes else plan.peak_bytes


def _test_batch(net: Net, memory: int, terms: Terms) -> Fit:
    batch = _largest(lambda n: _bytes(lambda: net.plan(n, memory=NO_LIMIT)), memory, MOST_BATCH)
    try:
        plan = net.plan(max(batch, 1), memory=memory, **asdict(terms))
    except (BudgetError, OutOfMemoryError) as error:
        return Fit("batch", "test", 0, 0, False, 0, str(error))
    return Fit("batch", "test", batch, None, batch == MOST_BATCH, plan.peak_bytes)


def _train_batch(net: Net, memory: int, bn: str | None, storage: str | None) -> Fit:
    try:
        batch = _largest(lambda n: _bytes(lambda: training_plan(net, n, NO_LIMIT, bn)), memory, MOST_BATCH)
        plan = training_plan(net, max(batch, 1), memory, bn, storage)
    except (ArgumentError, ModelFileError, ShapeError, BudgetError) as error:
        return Fit("batch", "train", 0, 0, False, 0, str(error))
    capped, note = batch == MOST_BATCH, "; ".join(plan.told)
    if bn is not None or not normalises(net.network, 2):
        return Fit("batch", "train", batch, None, capped, plan.peak_bytes, note)
    more = "larger batches may fit in more time: clconv summary --mode train says so"
    return Fit("batch", "train", batch, max(batch, 1), capped, plan.peak_bytes, note or more)


def _image(net: Net, memory: int, terms: Terms) -> Fit | None:
    """The largest square image; None where the network takes no other sizes."""
    grid, base = _grid(net), max(net.network.input_shape[1:])
    if grid is None:
        return None

    def sized(side: int) -> Inference:
        return Inference(net.network.with_image((side, side)), net.device)

    def at_once(side: int) -> bool:
        return _bytes(lambda: sized(side).plan(OUTPUT, 1, budget=NO_LIMIT)) <= memory

    def at_all(side: int) -> bool:
        return sized(side).feasible(memory, terms)

    def plan(side: int) -> Plan:
        return sized(side).plan(OUTPUT, 1, budget=memory, terms=terms)

    once = _largest_side(at_once, base, grid)
    most = max(once, _largest_side(at_all, once or base, grid))
    while most > once and not _made(plan, most):
        most = max(once, most - max(grid, most // CLOSE // grid * grid))
    peak = plan(once or most).peak_bytes if most else 0
    return Fit("image", "test", once, most, False, peak)


def _made(make: Callable[[int], object], side: int) -> bool:
    """Whether it can be made: images may be too small for a network, too."""
    try:
        return make(side) is not False
    except (ArgumentError, BudgetError, OutOfMemoryError, ShapeError):
        return False


def _largest_side(fits: Callable[[int], bool], start: int, grid: int) -> int:
    """About the largest side that fits, on the grid on which `start` lies; 0: none that was looked at."""
    step, low, high = max(1, start // grid), 0, 0  # in units of the grid, from `start`
    if _made(fits, start):
        while start + (low + step) * grid <= MOST_SIDE and _made(fits, start + (low + step) * grid):
            low, step = low + step, 2 * step
        high = low + step
    else:
        for part in SMALLER:
            low = -int((1 - part) * start // grid)
            if _made(fits, start + low * grid):
                break
            high = low
        else:
            return 0
    while high - low > max(1, (start // grid + low) // CLOSE):
        middle = (low + high) // 2
        low, high = (middle, high) if _made(fits, start + middle * grid) else (low, middle)
    return start + low * grid


def _grid(net: Net) -> int | None:
    """The step between sizes of images that the network takes; None where it takes its own only."""
    height, width = net.network.input_shape[1:]
    side = max(height, width)
    for grid in GRIDS:
        try:
            network = net.network.with_image((side + grid, side + grid))
            network.graph(1, train=False)
            if network.array_shapes() == net.network.array_shapes():
                return grid
        except (ArgumentError, ModelFileError, ShapeError):
            continue
    return None
