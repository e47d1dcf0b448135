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
        most: how many are kept, from 1 on.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Key, Made] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key, make: Callable[[], Made]) -> Made:
        """What is kept under a key, made now where it is not there. `make` may itself ask for other keys."""
        made = self._held.pop(key) if key in self._held else make()
        self._held[key] = made
        while len(self._held) > self._most:
            self._held.popitem(last=False)
        return made
