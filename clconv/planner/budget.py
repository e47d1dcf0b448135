"""Memory budgets as people write them."""

from __future__ import annotations

import re
from fractions import Fraction

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


def parse_bytes(text: str | int | None, who: str = "memory") -> int | None:
    """Bytes from "64MB" (64,000,000), "64MiB" (67,108,864), "1.2GB" or a number; None stays None.

    Raises:
        ArgumentError: it is no positive amount; `who` says where it stands.
    """
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in _UNITS:
        raise ArgumentError(f"{who}: {text!r} is no amount; 64MB, 64MiB, 1.2GB or a number of bytes would fit")
    amount = int(Fraction(match[1]) * _UNITS[match[2].upper()])
    if amount < 1:
        raise ArgumentError(f"{who}: {text!r} is no amount; at least one byte is needed")
    return amount


def format_bytes(amount: int) -> str:
    """Bytes in MiB with two digits, the way tables print them; small amounts in bytes."""
    return f"{amount / 2**20:.2f} MiB" if amount >= 10**4 else f"{amount} B"
