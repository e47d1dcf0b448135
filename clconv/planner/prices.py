"""What steps of a plan cost in time, by one model for all of planning: operations, bytes moved, launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .._core.layer import Choice, Cost, Layer
from ..device import DeviceFacts
from ..shapes import TensorSpec

Specs = Sequence["TensorSpec | None"]


@dataclass(frozen=True)
class Prices:
    """Operations, as `Layer.effort` counts them, that a device does in the time of moving a byte, of a launch.

    Attributes:
        brought: likewise of bringing a byte from the host. overlaps: whether it computes as fast meanwhile.
    """

    byte: float
    launch: float
    per_second: float
    brought: float
    overlaps: bool


# Fitted to launches timed one by one: two cores with AVX-512 and their OpenCL runtimes; a data centre's GPU, whose
# bytes from the host are taken to come at 25 GB/s. On a processor those who copy are those who compute.
PRICES = {"cpu": Prices(12, 2.5e6, 3.75e11, 24, False), "gpu": Prices(12, 1e8, 4e13, 1600, True)}


@dataclass(frozen=True)
class Offer:
    """A way to run a layer: its price in operations, launch included."""

    choice: Choice
    price: float

    @property
    def workspace_bytes(self) -> int:
        """What it takes besides operands."""
        return self.choice.workspace_bytes


def price_of(cost: Cost, facts: DeviceFacts) -> float:
    """The price of one launch that takes so much."""
    prices = PRICES[facts.kernels]
    return cost.flops + prices.byte * cost.traffic_bytes + prices.launch


def upload_price(nbytes: int, count: int, facts: DeviceFacts) -> float:
    """The price of bringing so many bytes from the host in so many parts."""
    prices = PRICES[facts.kernels]
    return prices.brought * nbytes + prices.launch * count


def offers(facts: DeviceFacts, layer: Layer, specs: Specs, outs: Sequence[TensorSpec]) -> list[Offer]:
    """The ways to run a layer that are worth it: the best first, each next one with less workspace.

    What `Layer.offered` has first is the best, whatever the model has of it: it may have been measured.
    """
    given = layer.offered(facts, specs, outs)
    known = [Offer(choice, price_of(layer.effort(specs, outs, facts, choice), facts)) for choice in given]
    if not known[0].workspace_bytes:
        return known[:1]
    known += [
        Offer(choice, price_of(layer.effort(specs, outs, facts, choice), facts))
        for choice in layer.frugal(facts, specs, outs)
    ]
    found = [known[0]]
    for offer in sorted(known[1:], key=lambda each: (each.price, each.workspace_bytes)):
        if offer.workspace_bytes < found[-1].workspace_bytes:
            found.append(offer)
    return found


def fitting_offer(found: Sequence[Offer], room: float) -> Offer:
    """The best of offers that takes at most so much workspace, or else the one that takes least."""
    return next((offer for offer in found if offer.workspace_bytes <= room), found[-1])
