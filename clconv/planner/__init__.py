"""Where every tensor lives, decided before anything is allocated: pure functions of specs and costs."""

from ..shapes import ALIGN
from .arena import Arena, Placement, place
from .budget import NO_LIMIT, budget_bytes, format_bytes, parse_bytes
from .early import hasten
from .lifetimes import Interval, lifetimes, live_bytes
from .segments import Found, Search
from .steps import Reads, Schedule, Step, View, schedule
from .strips import Segment

__all__ = [
    "ALIGN",
    "NO_LIMIT",
    "Arena",
    "Found",
    "Interval",
    "Placement",
    "Reads",
    "Schedule",
    "Search",
    "Segment",
    "Step",
    "View",
    "budget_bytes",
    "format_bytes",
    "hasten",
    "lifetimes",
    "live_bytes",
    "parse_bytes",
    "place",
    "schedule",
]
