"""Networks back into the pattern language."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .base import Layer
from .network import Network
from .pattern_words import FLAGS, LEADING, SHORT, default_pad, word_of


def candidates(network: Network) -> Iterator[str]:
    """Patterns that may describe a network, the shorter first: none where it is no chain."""
    before = "input"
    for entry in network.entries:
        if entry.inputs != (before,):
            return
        before = entry.name
    layers = [entry.layer for entry in network.entries]
    chosen = [not re.fullmatch(rf"{entry.layer.kind}\d+", entry.name) for entry in network.entries]
    for named in (chosen, [True] * len(chosen)):
        items = map(_item, layers, named)
        yield " -> ".join([_input(network), *_grouped(list(items))])


def _input(network: Network) -> str:
    channels, height, width = network.input_shape
    return f"INPUT {width}x{height}x{channels}"


def _item(layer: Layer, named: bool) -> str:
    """A layer as the pattern language writes it."""
    kind, defaults = type(layer).__name__, layer.reference.defaults
    given = layer.arguments
    lead = LEADING.get(kind, ())
    said = _lead(given, lead, defaults)
    rest = {key: value for key, value in given.items() if key not in lead}
    usual = _simple(default_pad(layer)) if "filters" in lead else 0
    if rest.get("pad") == usual:
        rest.pop("pad", None)
    stride = rest.pop("stride", None)
    if stride is not None and stride != defaults["stride"]:
        said += f"/{_product(stride)}"
    words = [word_of(kind) + said]
    for key, value in rest.items():
        if key == "pad" or value != defaults[key]:
            words.append(_option(key, value))
    return " ".join(words + [f"name={layer.name}"] * named)


def _lead(given: Mapping[str, Any], lead: tuple[str, ...], defaults: Mapping[str, Any]) -> str:
    """What stands right behind the name; nothing where the defaults say it."""
    usual = all(name in defaults and given[name] == defaults[name] for name in lead)
    if usual and given.get("stride") is None:
        return ""
    sizes = [given[name] for name in lead]
    if lead[0] == "kernel":
        rows, cols = sizes[0] if isinstance(sizes[0], tuple) else (sizes[0], sizes[0])
        sizes = [rows, cols, *sizes[1:]]
    return " " + "x".join(map(_number, sizes))


def _option(key: str, value: Any) -> str:
    for flag, meaning in FLAGS.items():
        if meaning == (key, value):
            return flag
    for short, name in SHORT.items():
        if name == key:
            return short + _product(value)
    return f"{key}={_product(value)}"


def _product(value: Any) -> str:
    """2, (1, 2) or ((0, 1), (2, 3)) as 2, 1x2, 0:1x2:3."""
    if not isinstance(value, tuple):
        return _number(value)
    return "x".join(":".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)


def _number(value: Any) -> str:
    return str(value).lower()


def _simple(pads: tuple[int, int] | None) -> Any:
    return pads[0] if pads and pads[0] == pads[1] else pads


def _grouped(items: list[str]) -> list[str]:
    """Neighbouring equal runs as "[...]*N", the shortest first, so that groups nest."""
    period = 1
    while 2 * period <= len(items):
        grouped = _repeats(items, period)
        period = period + 1 if len(grouped) == len(items) else 1
        items = grouped
    return items


def _repeats(items: list[str], period: int) -> list[str]:
    """Groups runs of `period` items, from left to right, where that is shorter."""
    kept: list[str] = []
    start = 0
    while start < len(items):
        run = items[start : start + period]
        count = 1
        while items[start + count * period : start + (count + 1) * period] == run:
            count += 1
        group = f"[{' -> '.join(run)}]*{count}"
        if count > 1 and len(group) < len(" -> ".join(run * count)):
            kept.append(group)
            start += count * period
        else:
            kept.append(items[start])
            start += 1
    return kept
