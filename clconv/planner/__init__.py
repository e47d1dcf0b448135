"""Where every tensor lives, decided before anything is allocated: pure functions of specs and costs."""

from .arena import ALIGN, Arena, Placement, place
from .lifetimes import Interval, lifetimes, live_bytes

__all__ = ["ALIGN", "Arena", "Interval", "Placement", "lifetimes", "live_bytes", "place"]
