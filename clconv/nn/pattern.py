"""The pattern language: the notation of the CS231n notes, read and printed.

    INPUT 32x32x3 -> [[CONV 3x3x{32,64,128} -> RELU]*2 -> POOL]*3 -> [FC 256 -> RELU] -> FC 10

    pattern   INPUT WxHxD, then items joined by ->          (width, height, channels)
    item      a layer, or [items]*N: the items N times; N = 0 drops them, no *N means once
    layer     a name and what `usage` says of it; case and spaces do not matter
    number    or a list {a,b,c}: one value for each repetition of the nearest enclosing group with as many

Windows are FxF, or rows x columns; behind them
    /S        stride (POOL: the window's size when left out)
    pP        padding: p1, p1x2 for rows x columns, p0:1x2:3 for top:bottom x left:right; left out, the one
              that keeps the size (CONV, LOCAL), that makes it S times as large (DECONV), or none (POOL)
    dD, gG    dilation, groups
    nobias, floor, ceil, countpad, within       switches
    key=value                                   any argument of the layer by its name: alpha=1e-4, name=first
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, ClconvError, PatternError, ShapeError
from .base import LAYERS, Layer
from .network import Network
from .pattern_print import candidates
from .pattern_reader import Braces, Group, Item, Reader
from .pattern_words import default_pad, size_is_kept

MAX_LAYERS = 10_000


@dataclass(frozen=True)
class Turn:
    """Which repetition of a group, from 0."""

    index: int
    count: int


def parse(text: str) -> Network:
    """The network that a pattern describes.

    Raises:
        PatternError: the text is no pattern, or a layer does not fit; it points at the character.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"pattern: {type(text).__name__} is not a string")
    reader = Reader(text)
    symbol = reader.input()
    items = reader.sequence(0)
    names = {"input"}
    for item, turns in _Expansion(text).of(items, ()):
        try:
            layer = _layer(text, item, turns)
            symbol = layer(symbol)
        except (ShapeError, ArgumentError) as error:
            raise PatternError(f"{error}{_where(turns)}", text, item.position) from error
        if layer.name in names:
            raise PatternError(f"the name {layer.name} is used twice, or reserved", text, item.position)
        names.update([layer.name] if layer.name else [])
    if symbol.layer is None:
        raise PatternError("no layer is left: every group is repeated 0 times", text, len(text))
    return Network.of(symbol)


def to_pattern(network: Network) -> str | None:
    """The pattern of a network: `parse` makes an equal network of it. None where it is no chain.

    What repeats is put into groups: "[CONV 3x3x64 -> RELU]*2".
    """
    for text in candidates(network):
        try:
            if parse(text) == network:
                return text
        except ClconvError:
            continue
    return None


class _Expansion:
    """Repeats what groups repeat, within a limit."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0

    def of(self, items: tuple[Item | Group, ...], turns: tuple[Turn, ...]) -> Iterator[tuple[Item, tuple[Turn, ...]]]:
        """The layers, each with the repetitions that it is in, the outermost first."""
        for item in items:
            self.steps += 1
            if self.steps > MAX_LAYERS:
                raise PatternError(f"more than {MAX_LAYERS} layers", self.text, item.position)
            if isinstance(item, Item):
                yield item, turns
                continue
            count = _resolved(self.text, item.count, turns)
            for index in range(count):
                yield from self.of(item.items, (*turns, Turn(index, count)))


def _resolved(text: str, value: Any, turns: tuple[Turn, ...]) -> Any:
    """A value without braces: each list's element for the repetition at hand."""
    if isinstance(value, tuple):
        return tuple(_resolved(text, part, turns) for part in value)
    if not isinstance(value, Braces):
        return value
    for turn in reversed(turns):
        if turn.count == len(value.values):
            return value.values[turn.index]
    around = " and ".join(f"{turn.count} times" for turn in reversed(turns))
    raise PatternError(
        f"a list of {len(value.values)} needs a group around it that is repeated {len(value.values)} times; "
        + (f"those around it are repeated {around}" if around else "there is no group around it"),
        text,
        value.position,
    )


def _where(turns: tuple[Turn, ...]) -> str:
    """Which repetition, in words: " (repetition 3 of 3, in it 1 of 2)"."""
    said = [f"{turn.index + 1} of {turn.count}" for turn in turns if turn.count > 1]
    return f" (repetition {', in it '.join(said)})" if said else ""


def _layer(text: str, item: Item, turns: tuple[Turn, ...]) -> Layer:
    """The layer of an item in one repetition, its default padding computed."""
    arguments = {key: _resolved(text, value, turns) for key, value in item.arguments.items()}
    if "kernel" in arguments and "filters" in arguments and "pad" not in arguments:
        pads = default_pad(LAYERS[item.kind](**arguments))
        if pads is None:
            rows, cols = arguments["kernel"]
            raise PatternError(
                f"{item.word}: with a {rows}x{cols} window no padding, alike on all sides, "
                f"{size_is_kept(item.kind)}; give one: p0, p1, p0:1x0:1",
                text,
                item.position,
            )
        arguments["pad"] = pads
    return LAYERS[item.kind](**arguments)
