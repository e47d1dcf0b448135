"""Pictures that a user names: files, folders, patterns, standard input; decoded while the device computes."""

from __future__ import annotations

import glob
import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ..data import open_picture
from ..data.image import SUFFIXES
from ..errors import ArgumentError, DataError

STANDARD_INPUT = "-"
MAX_BYTES = 1 << 28  # of standard input

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """One picture to read.

    Attributes:
        name: as messages and answers name it. path: None for standard input. below: where it lies below the folder
            that was named, without its ending. target: the file for its result.
    """

    name: str
    path: Path | None
    below: Path
    target: Path | None = None


def expand(images: Sequence[str]) -> list[Source]:
    """The pictures that arguments name, in their order; those of folders (and below) and patterns sorted.

    Raises:
        ArgumentError: standard input is named twice.
    """
    if images.count(STANDARD_INPUT) > 1:
        raise ArgumentError("predict: - is standard input, which holds one picture; it is named twice")
    found: list[Source] = []
    for each in images:
        path = Path(each)
        if each == STANDARD_INPUT:
            found.append(Source("standard input", None, Path("stdin")))
        elif os.path.isdir(path):  # pathlib's raises where a name is too long
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            found += [Source(printable(p), p, p.relative_to(path).with_suffix("")) for p in inside]
            if not inside:
                found.append(_named(each))  # is reported as what it is: no picture
        elif not os.path.exists(path) and glob.has_magic(each):
            found += [_named(name) for name in sorted(glob.glob(each, recursive=True)) or [each]]
        else:
            found.append(_named(each))
    return found


def _named(name: str) -> Source:
    path = Path(name)
    return Source(printable(path), path, Path(path.stem or "picture"))


def printable(path: Path) -> str:
    """The name; bytes in it that are no UTF-8, which no output would take, as replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def read(source: Source) -> Image.Image:
    """The picture, upright, RGB or grey.

    Raises:
        DataError: there is none, and why.
    """
    if source.path is None:
        return open_picture(io.BytesIO(_standard_input()), name=source.name)
    if os.path.isdir(source.path):
        raise DataError(f"{source.name}: a folder without pictures ({', '.join(sorted(SUFFIXES))})")
    if not os.path.exists(source.path):
        what = "no file fits the pattern" if glob.has_magic(source.name) else "there is no such file"
        raise DataError(f"{source.name}: {what}")
    return open_picture(source.path, name=source.name)


def _standard_input() -> bytes:
    stream = sys.stdin.buffer
    if stream.isatty():
        raise DataError("standard input: a terminal; send a picture: clconv predict MODEL - < cat.jpg")
    content = stream.read(MAX_BYTES + 1)
    if not content:
        raise DataError("standard input: empty; send a picture: clconv predict MODEL - < cat.jpg")
    if len(content) > MAX_BYTES:
        raise DataError(f"standard input: more than {MAX_BYTES} bytes; name the file instead")
    return content


def ahead(pool: Executor, work: Callable[[Source], T], sources: Sequence[Source], most: int) -> Iterator[T]:
    """`work` on each source in order, done by the pool, at most `most` of them beforehand."""
    queue: deque[Future[T]] = deque()
    rest = iter(sources)
    try:
        for source in rest:
            queue.append(pool.submit(work, source))
            if len(queue) >= most:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        for future in queue:
            future.cancel()


def with_targets(sources: Sequence[Source], folder: Path, *, overwrite: bool) -> list[Source]:
    """The sources, each with a file of its own for its result: its name, with a number where another one has it.

    Raises:
        ArgumentError: a file is there already and `overwrite` is False, or it is one of the pictures to read.
    """
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"--out {folder}: a file; results go into a folder")
    inputs = {source.path.resolve() for source in sources if source.path is not None}
    taken: set[str] = set()
    found: list[Source] = []
    for source in sources:
        name, number = source.below, 1
        while str(name).casefold() in taken:  # some file systems do not tell A from a
            number += 1
            name = source.below.with_name(f"{source.below.name}-{number}")
        taken.add(str(name).casefold())
        target = folder / name.with_name(f"{name.name}.png")
        if target.resolve() in inputs:
            raise ArgumentError(f"--out {folder}: {target} is one of the pictures to read; another folder would do")
        if target.exists() and not overwrite:
            raise ArgumentError(
                f"--out {folder}: {target} is there already; --overwrite replaces it, another folder leaves it"
            )
        found.append(replace(source, target=target))
    return found
