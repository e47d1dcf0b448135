"""Where every tensor lives, decided before anything is allocated: pure functions of specs and costs."""

from .arena import ALIGN, Arena, Placement, place
from .budget import format_bytes, parse_bytes
from .lifetimes import Interval, lifetimes, live_bytes

__all__ = [
    "ALIGN",
    "Arena",
    "Interval",
    "Placement",
    "format_bytes",
    "lifetimes",
    "live_bytes",
    "parse_bytes",
    "place",
]
