"""Answers about pictures, for people and for scripts."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from ..net import Net
from .display import console, percent
from .memory import memory_bytes
from .outcome import Answer, Output

HEADS = {
    "classes": ("image", "rank", "class", "index", "probability"),
    "image": ("image", "file", "width", "height"),
    "mask": ("image", "file", "rank", "class", "index", "share"),
}


def name_of(names: Sequence[str], k: int) -> str:
    """A class's name, or its number where it has none."""
    return names[k] if k < len(names) else str(k)


class CsvWriter:
    """Rows on standard output as the answers come; those of pictures with errors have none."""

    def __init__(self, output: Output, names: Sequence[str]) -> None:
        self.output = output
        self.names = names
        self._rows = csv.writer(sys.stdout, lineterminator="\n")
        self._rows.writerow(HEADS[output.kind])

    def add(self, answer: Answer) -> None:
        """The rows of one picture."""
        if answer.error:
            return
        file = [answer.file] if answer.file else []
        if self.output.kind == "image":
            self._rows.writerow((answer.image, *file, *answer.extent))
        for rank, (k, share) in enumerate(answer.top, start=1):
            self._rows.writerow((answer.image, *file, rank, name_of(self.names, k), k, f"{share:.6f}"))


def content(answers: Sequence[Answer], output: Output, names: Sequence[str], net: Net) -> dict[str, Any]:
    """Everything as plain data, for JSON."""
    return {
        "device": net.device.key,
        "bytes": memory_bytes(net),
        "images": [_item(answer, output, names) for answer in answers],
    }


def _item(answer: Answer, output: Output, names: Sequence[str]) -> dict[str, Any]:
    if answer.error:
        return {"image": answer.image, "error": answer.error}
    what = "probability" if output.kind == "classes" else "share"
    top = [{"class": name_of(names, k), "index": k, what: share} for k, share in answer.top]
    if output.kind == "classes":
        return {"image": answer.image, "predictions": top}
    width, height = answer.extent
    item = {"image": answer.image, "file": answer.file, "width": width, "height": height}
    return {**item, "classes": top} if output.kind == "mask" else item


def print_table(answers: Sequence[Answer], output: Output, names: Sequence[str]) -> None:
    """A table for people; pictures with errors are left out."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("image", overflow="fold")
    if output.kind != "classes":
        table.add_column("written to", overflow="fold")
        table.add_column("size", justify="right", no_wrap=True)
    if output.kind != "image":
        table.add_column("class", overflow="fold")
        table.add_column("probability" if output.kind == "classes" else "share", justify="right", no_wrap=True)
    for cells, first in _lines(answers, output, names):
        table.add_row(*cells, style="bold" if first else "dim")
    if table.row_count:
        console().print(table)


def _lines(answers: Sequence[Answer], output: Output, names: Sequence[str]) -> Iterator[tuple[list[str], bool]]:
    """Cells of each row, and whether it is the first one of a picture."""
    for answer in answers:
        if answer.error:
            continue
        head = [answer.image]
        if output.kind != "classes":
            head += [answer.file, f"{answer.extent[0]}x{answer.extent[1]}"]
        if output.kind == "image":
            yield head, True
        for rank, (k, share) in enumerate(answer.top):
            yield [*(head if rank == 0 else [""] * len(head)), name_of(names, k), percent(share)], rank == 0
