"""Memory budgets as people write them."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction

import numpy as np

from .. import settings
from ..errors import ArgumentError

NO_LIMIT = 1 << 62  # bytes: a budget that everything fits
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def budget_bytes(memory: str | int | None) -> int | None:
    """Bytes from an amount, where there is none from CLCONV_MEMORY; None: no budget.

    Raises:
        ArgumentError: it is no positive amount.
    """
    if memory is not None:
        return parse_bytes(memory)
    return parse_bytes(settings.get("CLCONV_MEMORY"), "CLCONV_MEMORY")


def parse_bytes(text: str | float | None, who: str = "memory") -> int | None:
    """Bytes from "64MB" (64,000,000), "64MiB" (67,108,864), "1.2GB" or a number; None stays None.

    Raises:
        ArgumentError: it is no positive amount; `who` says where it stands.
    """
    if text is None:
        return None
    amount = _written(text) if isinstance(text, str) else _number(text)
    if amount is None:
        raise ArgumentError(f"{who}: {text!r} is no amount; 64MB, 64MiB, 1.2GB or a number of bytes would fit")
    if amount < 1:
        raise ArgumentError(f"{who}: {text!r} is no amount; at least one byte is needed")
    return amount


def _written(text: str) -> int | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    return int(Fraction(match[1]) * unit) if match and unit else None


def _number(value: object) -> int | None:
    """A number's whole bytes; None: it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number, Fraction)):
        return None
    with contextlib.suppress(OverflowError, ValueError, TypeError):
        return int(value) if value >= 0 else None
    return None


def format_bytes(amount: int) -> str:
    """Bytes in MiB with two digits, the way tables print them; what that would hide in KiB or bytes."""
    if amount >= 2**20:
        return f"{amount / 2**20:.2f} MiB"
    return f"{amount / 2**10:.1f} KiB" if amount >= 10**4 else f"{amount} B"
