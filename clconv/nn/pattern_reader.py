"""Reads the text of a pattern into items and groups; sizes are not looked at here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from .. import reference
from ..errors import PatternError
from .pattern_words import FLAGS, LEADING, POOLS, SHORT, WHOLE, WORDS, closest, usage
from .symbol import Input, Symbol

MAX_DEPTH = 30
INTEGER = re.compile(r"\d+")
DECIMAL = re.compile(r"\d+(\.\d*)?(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?", re.IGNORECASE)
RUN = re.compile(r"[a-z_]+", re.IGNORECASE)
WORD = re.compile(r"[a-z]\w*", re.IGNORECASE)
MODE = re.compile(r"l2|[a-z]+", re.IGNORECASE)
NAME = re.compile(r"([\w.]|-(?!>))+")
PAIRS = ("kernel", "stride", "dilation", "output_pad")


@dataclass(frozen=True)
class Braces:
    """A list of numbers, one for each repetition of a group."""

    values: tuple[int | float, ...]
    position: int


@dataclass(frozen=True)
class Item:
    """A layer as written: class name and arguments, in which `Braces` may stand for numbers."""

    kind: str
    word: str
    arguments: dict[str, Any]
    position: int


@dataclass(frozen=True)
class Group:
    """Items in brackets, `count` times."""

    items: tuple[Item | Group, ...]
    count: Any
    position: int


class Reader:
    """Recursive descent over the text; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def error(self, message: str, position: int | None = None) -> PatternError:
        return PatternError(message, self.text, self.at if position is None else position)

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, token: str) -> bool:
        """Whether the token comes next, which is then skipped."""
        self.peek()
        found = self.text[self.at : self.at + len(token)].lower() == token
        self.at += len(token) * found
        return found

    def found(self) -> str:
        """What stands here, for messages."""
        if not self.peek():
            return "the pattern ends here"
        rest = self.text[self.at :]
        run = re.match(r"\w+|->|.", rest)
        return f'"{run.group() if run else rest}" stands here'

    def match(self, expression: re.Pattern[str], what: str) -> str:
        self.peek()
        match = expression.match(self.text, self.at)
        if match is None:
            raise self.error(f"{what} is expected; {self.found()}")
        self.at = match.end()
        return match.group()

    # ---- numbers

    def number(self, what: str, *, whole: bool = True) -> Any:
        """A number or a list of them in braces."""
        if self.peek() != "{":
            return self.plain(what, whole)
        position = self.at
        self.at += 1
        values = [self.plain(what, whole)]
        while self.take(","):
            values.append(self.plain(what, whole))
        if not self.take("}"):
            raise self.error(f'"," or "}}" is expected in the list; {self.found()}')
        return Braces(tuple(values), position)

    def plain(self, what: str, whole: bool) -> int | float:
        start = self.at
        digits = self.match(INTEGER if whole else DECIMAL, f"{what} (a {'whole ' * whole}number)")
        if whole and self.text[self.at : self.at + 1] == ".":
            raise self.error(f"{what} must be a whole number", start)
        if len(digits) > 15 and digits.isdigit():
            raise self.error(f"{what}: {digits} is too large", start)
        return int(digits) if digits.isdigit() else float(digits)

    def product(self, parts: tuple[str, ...], usage: str) -> list[Any]:
        """Numbers joined by x."""
        values = [self.number(parts[0])]
        for part in parts[1:]:
            if not self.take("x"):
                raise self.error(f'"x" and {part} are expected ({usage}); {self.found()}')
            values.append(self.number(part))
        return values

    def pair(self, what: str) -> Any:
        """A number, or two joined by x."""
        first = self.number(what)
        return (first, self.number(what)) if self.take("x") else first

    def padding(self) -> Any:
        """P, PxP, or top:bottom x left:right."""

        def side() -> Any:
            before = self.number("a padding")
            return (before, self.number("a padding")) if self.take(":") else before

        rows = side()
        if self.take("x"):
            cols = side()
        else:
            cols = rows
        if isinstance(rows, tuple) or isinstance(cols, tuple):
            return tuple(v if isinstance(v, tuple) else (v, v) for v in (rows, cols))
        return rows, cols

    # ---- structure

    def input(self) -> Symbol:
        """INPUT WxHxD and the arrow behind it."""
        example = "a pattern begins with INPUT WxHxD, as in INPUT 32x32x3 -> CONV 3x3x16 -> RELU -> FC 10"
        if not self.peek():
            raise self.error(f"there is nothing; {example}")
        if not self.take("input"):
            raise self.error(example)
        self.peek()
        position = self.at
        width, height, channels = self.product(("the width", "the height", "the number of channels"), "INPUT WxHxD")
        if any(isinstance(n, Braces) for n in (width, height, channels)):
            raise self.error("the input has one size; a list makes no sense", position)
        if 0 in (width, height, channels):
            raise self.error("width, height and channels are whole numbers from 1", position)
        if not self.take("->"):
            raise self.error(f'"->" is expected after the input; {self.found()}')
        return Input(channels, height, width)

    def sequence(self, depth: int) -> tuple[Item | Group, ...]:
        """Items joined by ->, up to the end or the closing bracket."""
        items: list[Item | Group] = []
        while True:
            items.append(self.group(depth) if self.peek() == "[" else self.item())
            if self.take("->"):
                continue
            here = self.peek()
            if here == ("]" if depth else ""):
                return tuple(items)
            if not here:
                raise self.error('"]" is missing')
            if here == "]":
                raise self.error('this "]" closes no "["')
            raise self.error(self._no_arrow(here))

    def _no_arrow(self, here: str) -> str:
        if here == "*":
            return "only groups are repeated: write [...]*N"
        if here == "?":
            return '"?" (optional, in the notes) is to be decided: keep the layer, or leave it out'
        return f'"->" is expected between layers; {self.found()}'

    def group(self, depth: int) -> Group:
        position = self.at
        if depth >= MAX_DEPTH:
            raise self.error(f"groups are nested more than {MAX_DEPTH} deep")
        self.at += 1
        items = self.sequence(depth + 1)
        if not self.take("]"):
            raise self.error('"]" is missing')
        return Group(items, self.number("how often") if self.take("*") else 1, position)

    # ---- layers

    def item(self) -> Item:
        """A layer's name and its arguments."""
        position = self.at
        run = WORD.match(self.text, self.at)
        if run is None:
            raise self.error(f"a layer or a group in brackets is expected; {self.found()}")
        word = run.group().upper()
        if word not in WORDS:
            short = RUN.match(word)
            word = short.group() if short and short.group() in WORDS else word  # CONV3x3x32
        if word not in WORDS:
            unknown = f"there is no layer {word}; {closest(word)}"
            raise self.error("INPUT comes once, and first" if word.startswith("INPUT") else unknown)
        self.at += len(word)
        kind = WORDS[word]
        if reference.LAYERS[kind].most_inputs > 1:
            raise self.error(
                f"{word} joins several inputs, but a pattern is a chain; call layers on symbols instead: "
                f"{kind}()(a, b)",
                position,
            )
        if word == "POOL":
            kind = self.pool()
        arguments = self.leading(kind, word)
        self.options(kind, word, arguments)
        return Item(kind, word, arguments, position)

    def pool(self) -> str:
        """POOL's kind, max when none is named."""
        self.peek()
        run = MODE.match(self.text, self.at)
        name = run.group().lower() if run else ""
        if name in POOLS:
            self.at += len(name)
            return POOLS[name]
        return POOLS["max"]

    def leading(self, kind: str, word: str) -> dict[str, Any]:
        """What stands behind the name: FxFxK, FxF, or a number."""
        takes = LEADING.get(kind, ())
        required = reference.LAYERS[kind].required
        if not takes or (not required and not (self.peek().isdigit() or self.peek() in (".", "{"))):
            return {}
        if takes == ("kernel", "filters"):
            parts = ("the window's rows", "the window's columns", "the number of filters")
            rows, cols, filters = self.product(parts, usage(kind))
            return {"kernel": (rows, cols), "filters": filters}
        if takes == ("kernel",):
            return {"kernel": tuple(self.product(("the window's rows", "the window's columns"), usage(kind)))}
        (name,) = takes
        return {name: self.number(f"{word}'s {name}", whole=name in WHOLE)}

    def options(self, kind: str, word: str, arguments: dict[str, Any]) -> None:
        """Everything behind that, in any order."""
        known = {*reference.LAYERS[kind].required, *reference.LAYERS[kind].defaults, "name"}
        while True:
            here = self.peek()
            position = self.at
            if here == "/":
                self.at += 1
                found = {"stride": self.pair("the stride")}
            elif here.isalpha():
                found = self.option(known, kind)
            else:
                return
            for name in found:
                if name not in known:
                    raise self.error(f"{word} takes no {name}: {usage(kind)}", position)
                if name in arguments:
                    raise self.error(f"{word}'s {name} is given twice", position)
            arguments.update(found)

    def option(self, known: set[str], kind: str) -> dict[str, Any]:
        """A switch, pP, dD, gG, or key=value."""
        position = self.at
        run = self.match(RUN, "an option").lower()
        if self.take("="):
            if run not in known:
                takes = ", ".join(sorted(known))
                raise self.error(f"{kind} has no argument {run}; it takes {takes}", position)
            return {run: self.value(run)}
        if run in FLAGS:
            return dict([FLAGS[run]])
        if run in SHORT and self.peek() and self.peek() in "0123456789{":
            name = SHORT[run]
            return {name: self.padding() if name == "pad" else self.pair(f"the {name}")}
        self.at = position
        if run.upper() in WORDS or run == "input":
            raise self.error(f'"->" is expected between layers; {self.found()}')
        raise self.error(f'"{run}" is no option here; {usage(kind)}')

    def value(self, name: str) -> Any:
        """What follows key=."""
        if name == "name":
            return self.match(NAME, "a name")
        if name == "pad":
            return self.padding()
        quoted = self.take('"')
        if self.peek().isalpha():
            word = self.match(RUN, "a word").lower()
            value: Any = {"true": True, "false": False, "none": None}.get(word, word)
        else:
            what = f"the {name}"
            value = self.pair(what) if name in PAIRS else self.number(what, whole=name in WHOLE)
        if quoted and not self.take('"'):
            raise self.error(f"a quotation mark is expected; {self.found()}")
        return value
