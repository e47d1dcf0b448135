"""What weights that the host holds take on the device where they are used, and what bringing them costs."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from .._core.layer import Cost
from ..device import DeviceFacts
from ..graph import Node, Value
from .prices import PRICES, Offer, fitting_offer, price_of, upload_price
from .slices import Slicing, slicing

MOST_SLICE = 4 << 20  # bytes: larger slices save next to nothing


@dataclass(frozen=True)
class Demand:
    """What the streamed weights of a node take on the device.

    Attributes:
        fixed: those that always come whole, and their bytes. slicing: how the weights come apart that may come in
            slices; None where there are none.
        whole: bytes of these.
    """

    fixed: tuple[tuple[Value, int], ...] = ()
    slicing: Slicing | None = None
    whole: int = 0

    @property
    def fixed_bytes(self) -> int:
        """Bytes of what always comes whole."""
        return sum(nbytes for _, nbytes in self.fixed)

    @property
    def slice_bytes(self) -> int:
        """Bytes of the smallest slice."""
        return self.slicing.nbytes if self.slicing is not None else 0

    @property
    def least(self) -> int:
        """The fewest bytes that they take while the node computes."""
        return self.fixed_bytes + self.slice_bytes

    def price(self, facts: DeviceFacts) -> float:
        """The price of bringing all of them once, whole."""
        parts = len(self.fixed) + (self.slicing is not None)
        return upload_price(self.fixed_bytes + self.whole, parts, facts)


@dataclass(frozen=True)
class InSlices:
    """How a node, or a strip of it, runs whose weights come in slices: what it costs, bytes of a slice, and what is
    left for workspace.
    """

    price: float
    nbytes: int
    room: int


NOTHING = Demand()


def demand(node: Node, streamed: Container[Value], block: int) -> Demand:
    """What the weights of a node take of which some are streamed."""
    reads = [value for value in dict.fromkeys(node.reads) if value in streamed]
    if not reads:
        return NOTHING
    way = slicing(node, block)
    if way is not None and way.weight not in reads:
        way = None
    fixed = tuple((value, value.spec.nbytes(block)) for value in reads if way is None or value is not way.weight)
    return Demand(fixed, way, way.weight.spec.nbytes(block) if way is not None else 0)


def in_slices(found: Sequence[Offer], wanted: Demand, x_bytes: int, room: int, facts: DeviceFacts) -> InSlices:
    """How a node runs in the best of some ways with `room` bytes for workspace and slices of its weights.

    Args:
        x_bytes: of its input, which each slice reads.
    """
    assert wanted.slicing is not None
    offer = fitting_offer(found, room - wanted.slice_bytes)
    left = room - offer.workspace_bytes
    turns = 2 if left >= 2 * wanted.slice_bytes else 1  # one is brought while the other is used, where that fits
    nbytes = max(wanted.slice_bytes, min(left // turns, wanted.whole // turns, MOST_SLICE, facts.max_alloc_bytes))
    count = wanted.slicing.counted(nbytes)
    price = offer.price + (count - 1) * price_of(Cost(0, x_bytes), facts)
    bringing = upload_price(wanted.whole, count, facts)
    overlapped = min(price, bringing) if turns == 2 and PRICES[facts.kernels].overlaps else 0
    return InSlices(price + bringing - overlapped, nbytes, room - turns * nbytes)
