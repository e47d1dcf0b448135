"""What fits into a budget: the largest batches, and the largest image, found over plans; nothing is allocated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .errors import ArgumentError, BudgetError, ModelFileError, OutOfMemoryError, ShapeError
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
CLOSE = 64  # steps of an image's area, in squares of the grid
FACTORS = (1, 2, 4)  # how far beyond what fits at full speed is looked


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


def fits(net: Net, memory: int, *, bn: str | None = None, image: bool = False, terms: Terms = DEFAULT) -> Fits:
    """The largest batches for predicting and training that fit into a budget.

    Args:
        memory: bytes. bn: as for `Net.fit`. image: also the largest image, where the network takes several sizes;
            plans in strips for large images take a while. terms: of predictions.

    Raises:
        ArgumentError: the network's batch is fixed.
    """
    if net.network.fixed_batch is not None:
        raise ArgumentError(
            f"fit-check: the file fixes the batch at {net.network.fixed_batch}; clconv summary shows it"
        )
    found = [_test_batch(net, memory, terms), _train_batch(net, memory, bn)]
    largest = _image(net, memory, terms) if image else None
    return Fits(memory, net.device.facts.name, (*found, *([largest] if largest is not None else [])))


def _largest(bytes_of: Callable[[int], float], limit: int, most: int, share: int = 0) -> int:
    """The largest number up to `most` whose bytes pass no limit; they grow about evenly. 0: not even one.

    Args:
        share: to one part in so many; 0: exactly.
    """
    known = {1: bytes_of(1)}
    low, high, guess = 0, most + 1, 2
    if known[1] > limit:
        return 0
    low = 1
    while high - low > max(1, low // share if share else 0):
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


def _farthest(fits: Callable[[int], bool], once: int) -> int:
    """About the largest number that fits in more time: steps of halves from what fits at once."""
    found = once
    for number in sorted({max(1, int(once * factor)) for factor in FACTORS}):
        if number > found:
            if not fits(number):
                break
            found = number
    return found


def _fits(make: Callable[[], Plan]) -> bool:
    try:
        make()
    except (BudgetError, OutOfMemoryError, ShapeError):
        return False
    return True


def _test_batch(net: Net, memory: int, terms: Terms) -> Fit:
    batch = _largest(lambda n: _bytes(lambda: net.plan(n, memory=NO_LIMIT)), memory, MOST_BATCH)
    try:
        plan = net.plan(max(batch, 1), memory=memory, **asdict(terms))
    except (BudgetError, OutOfMemoryError) as error:
        return Fit("batch", "test", 0, 0, False, 0, str(error))
    return Fit("batch", "test", batch, None, batch == MOST_BATCH, plan.peak_bytes)


def _train_batch(net: Net, memory: int, bn: str | None) -> Fit:
    try:
        batch = _largest(lambda n: _bytes(lambda: training_plan(net, n, NO_LIMIT, bn)), memory, MOST_BATCH)
        plan = training_plan(net, max(batch, 1), memory, bn)
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
    from .net import Net as Opened

    def plan(area: int, limit: int) -> Plan:
        side = _side(area, base, grid)
        with Opened(net.network.with_image((side, side)), device=net.device) as sized:
            return sized.plan(memory=limit, **asdict(terms))

    unit = grid * grid
    area = _largest(
        lambda n: _bytes(lambda: plan(n * unit * CLOSE, NO_LIMIT)), memory, MOST_SIDE**2 // unit // CLOSE, 32
    )
    once = area * unit * CLOSE
    most = _farthest(lambda n: _fits(lambda: plan(n, memory)), once or base * base)
    sides = [_side(n, base, grid) if n else 0 for n in (once, most if once or _fits(lambda: plan(most, memory)) else 0)]
    peak = plan(once or most, memory).peak_bytes if sides[1] else 0
    return Fit("image", "test", sides[0], sides[1], False, peak)


def _side(area: int, base: int, grid: int) -> int:
    """Pixels per side of about so many pixels, on the grid of sizes that the network takes."""
    return max(int(area**0.5) - base, grid - base) // grid * grid + base


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
