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
        cut = [_cut(c, w) for c, w in zip(cells, widths, strict=True)]
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cut, widths, strict=True))]
        return (" " * gap).join(padded).rstrip()

    return [line(header), "-" * (sum(widths) + gap * (len(widths) - 1)), *(line(row) for row in rows)]


def _cut(cell: str, width: int) -> str:
    """A cell in so many columns; of "first .. last" both keep their ends, by which layers' names differ."""
    if len(cell) <= width:
        return cell
    first, between, last = cell.partition(" .. ")
    room = width - len(between)
    if not last or room < 4:
        return cell[: width - 1] + "…"
    left = min(len(first), max(room // 2, room - len(last)))
    return _end(first, left) + between + _end(last, room - left)


def _end(name: str, width: int) -> str:
    return name if len(name) <= width else "…" + name[len(name) - width + 1 :]
