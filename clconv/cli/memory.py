"""Device memory, planned beside measured."""

from __future__ import annotations

from rich.table import Table

from ..engine import Usage
from ..net import Net
from ..plan import Plan
from ..planner import format_bytes

ROWS = {
    "weights": "weights",
    "optimizer": "optimizer state",
    "gradients": "gradients of parts of a batch",
    "arena": "activations, gradients, workspace",
    "control": "counters",
    "peak": "peak",
}


def planned(plan: Plan) -> dict[str, int]:
    """Bytes by tag as a plan has them, and the "peak"."""
    tags = {tag: plan.residence.nbytes(tag) for tag in plan.residence.slab_bytes}
    return {**tags, "arena": plan.arena_bytes, "peak": plan.peak_bytes}


def measured(usage: Usage) -> dict[str, int]:
    """Bytes by tag as the allocator counted them in runs, and the "peak"."""
    return {**usage.by_tag, "peak": usage.measured_bytes}


def used(net: Net, mode: str) -> Usage | None:
    """The memory of the network's runs in a mode, "test" or "train"; None before the first."""
    return next((usage for usage in net.usages if usage.mode == mode), None)


def memory_line(net: Net) -> str:
    """The peak of each mode that ran, planned and measured."""
    names = {"test": "test-time mode", "train": "training"}
    parts = [
        f"{names[u.mode]} {format_bytes(u.planned_bytes)} planned, {format_bytes(u.measured_bytes)} measured"
        for u in net.usages
    ]
    return "peak device memory: " + "; ".join(parts)


def memory_bytes(net: Net) -> dict[str, dict[str, int]]:
    """The same for scripts: {"train": {"planned": ..., "measured": ...}, ...}."""
    return {u.mode: {"planned": u.planned_bytes, "measured": u.measured_bytes} for u in net.usages}


def memory_table(columns: dict[str, tuple[dict[str, int], dict[str, int]]]) -> Table:
    """A column for what was planned and one for what was measured, for each mode."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("device memory")
    for mode in columns:
        table.add_column(f"{mode}\nplanned", justify="right")
        table.add_column("\nmeasured", justify="right")
    for tag, title in ROWS.items():
        cells = [figures.get(tag, 0) for pair in columns.values() for figures in pair]
        if any(cells):
            table.add_row(title, *map(format_bytes, cells), style="bold" if tag == "peak" else None)
    return table
