"""Options and types of arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..errors import ArgumentError
from ..planner import budget_bytes, parse_bytes
from ..terms import DEFAULT, SPILLS, STORAGES, Terms
from ..train.method import PER_PART


def _amount(ctx: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Bytes from an amount such as 64MB."""
    try:
        return parse_bytes(value)
    except ArgumentError as error:
        raise click.BadParameter(str(error).removeprefix("memory: ")) from error


def _json_file(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name of a file to write, if it says what is written."""
    if value is not None and Path(value).suffix.lower() != ".json":
        raise click.BadParameter(f"{value}: a timeline is a .json file; {Path(value).with_suffix('.json')} would fit")
    return value


network_argument = click.argument("network", metavar="NETWORK")
batch_option = click.option(
    "--batch", default=1, type=click.IntRange(1), show_default=True, metavar="N", help="Images per run."
)
step_option = click.option("--train", is_flag=True, help="A training step instead of a prediction.")
bn_option = click.option("--bn", type=click.Choice([PER_PART]), help="Training: as for `clconv train`.")


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--device, the same for all commands."""
    text = "Part of its name, or its key as `clconv devices` lists it. Default: CLCONV_DEVICE, else the best."
    return click.option("--device", metavar="NAME", help=text)(command)


def memory_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--memory; the default is CLCONV_MEMORY."""
    return click.option("--memory", callback=_amount, metavar="BYTES", help=text)


@dataclass(frozen=True)
class Limits:
    """What the plan of a prediction keeps to: `memory` in bytes, None for no budget; `terms` as for `Net.plan`."""

    memory: int | None = None
    terms: Terms = DEFAULT


def limit_options(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--memory with this help, --exact, --spill, --storage; a command gets all as `limits`, CLCONV_MEMORY included."""

    def adorn(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def limited(memory: int | None, exact: bool, spill: str | None, storage: str | None, **others: Any) -> Any:
            return command(limits=Limits(budget_bytes(memory), Terms(exact, spill, storage)), **others)

        bits = "Only the algorithms of the fastest run, so that every budget gives the same bits."
        return memory_option(text)(click.option("--exact", is_flag=True, help=bits)(means_options(limited)))

    return adorn


def means_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--spill and --storage, the same for all commands."""
    spill = "Predictions: lets activations wait in host memory where the budget asks for it."
    storage = "Activations that wait as float16 and, predicting, weights; arithmetic stays float32."
    return click.option("--spill", type=click.Choice(SPILLS), help=spill)(storage_option(storage)(command))


def storage_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--storage."""
    return click.option("--storage", type=click.Choice(STORAGES), help=text)


def trace_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--trace FILE.json."""
    kind = click.Path(dir_okay=False)
    return click.option("--trace", metavar="FILE.json", type=kind, callback=_json_file, help=text)


def json_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--json, given to the command as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def given_size(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """(H, W) from N or WxH."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        raise click.BadParameter(f"{value!r} is neither a number of pixels, such as 224, nor WIDTHxHEIGHT")
    return int(parts[-1]), int(parts[0])
