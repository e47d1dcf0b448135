"""What was made last is kept, so much of it and no more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Recent(Generic[Key, Made]):
    """Things by their keys, at most so many: what was asked for the longest ago goes first.

    Args:
        most: how many are kept, from 1 on. dropped: called with what is let go.
    """

    def __init__(self, most: int, dropped: Callable[[Made], object] | None = None) -> None:
        self._most = most
        self._dropped = dropped
        self._held: OrderedDict[Key, Made] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key, make: Callable[[], Made]) -> Made:
        """What is kept under a key, made now where it is not there. `make` may itself ask for other keys."""
        made = self._held.pop(key) if key in self._held else make()
        self._held[key] = made
        while len(self._held) > self._most:
            self._drop(self._held.popitem(last=False)[1])
        return made

    def values(self) -> list[Made]:
        """All that is kept, the one used last at the end."""
        return list(self._held.values())

    def clear(self) -> None:
        """Lets go of everything."""
        while self._held:
            self._drop(self._held.popitem()[1])

    def _drop(self, made: Made) -> None:
        if self._dropped is not None:
            self._dropped(made)
