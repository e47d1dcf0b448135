"""Tables of plain text."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 110  # columns that a table may take


def mib(nbytes: int) -> str:
    """MiB with two digits, without the unit."""
    return f"{nbytes / 2**20:,.2f}"


def mega(count: int) -> str:
    """Millions with two digits."""
    return f"{count / 1e6:,.2f}"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int], flexible: Sequence[int] = ()
) -> list[str]:
    """Aligned lines under a header, at most `WIDTH` wide: columns in `flexible` are cut where that is needed."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    room = WIDTH - gap * (len(widths) - 1)
    while sum(widths) > room and any(widths[i] > 8 for i in flexible):
        widths[max(flexible, key=lambda i: widths[i])] -= 1

    def line(cells: Sequence[str]) -> str:
        cut = [c if len(c) <= w else c[: w - 1] + "…" for c, w in zip(cells, widths, strict=True)]
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cut, widths, strict=True))]
        return (" " * gap).join(padded).rstrip()

    return [line(header), "-" * (sum(widths) + gap * (len(widths) - 1)), *(line(row) for row in rows)]
