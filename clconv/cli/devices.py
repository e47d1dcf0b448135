"""`clconv devices`: what is there, what works, what would be chosen."""

from __future__ import annotations

import dataclasses
import json
import sys

import click
from rich.console import Console
from rich.table import Table

from .. import settings
from ..device import DeviceInfo, Survey, pick, survey
from ..errors import DeviceError
from .options import json_option


@click.command()
@json_option("Print everything known as JSON instead of a table.")
@click.option("--fresh", is_flag=True, help="Probe every device again, whatever is remembered of it.")
def devices(as_json: bool, fresh: bool) -> None:
    """List the OpenCL devices: what is there, what works, what would be chosen.

    Each device is tried in a process of its own, so that a broken driver does no harm; the verdicts are
    remembered. Choose a device with CLCONV_DEVICE=KEY, or a part of its platform's or its own name.

    Exit code 1: no device works, or CLCONV_DEVICE names none that does.
    """
    found = survey(fresh=fresh)
    chosen: DeviceInfo | None = None
    problem = ""
    try:
        chosen = pick(found, settings.get("CLCONV_DEVICE"))
    except DeviceError as error:
        problem = str(error)
    if as_json:
        click.echo(json.dumps(_content(found, chosen, problem), indent=2))
    else:
        _print_table(found, chosen, problem)
    sys.exit(0 if chosen else 1)


def _content(found: Survey, chosen: DeviceInfo | None, problem: str) -> dict[str, object]:
    """What --json prints; sizes in bytes."""
    rows = []
    for info in found.devices:
        facts = dataclasses.asdict(info.facts) | {"extensions": sorted(info.facts.extensions)}
        rows.append({"key": info.key, "works": info.works, "reason": info.reason, **facts})
    return {
        "devices": rows,
        "chosen": chosen.key if chosen else None,
        "problem": problem,
        "platforms_without_devices": [{"platform": name, "reason": reason} for name, reason in found.empty],
        "notes": list(found.notes),
    }


def _print_table(found: Survey, chosen: DeviceInfo | None, problem: str) -> None:
    console = Console(highlight=False)
    if found.devices:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in ("key", "platform", "device"):
            table.add_column(title, overflow="fold", no_wrap=title == "key")
        for title in ("kind", "memory", "largest\nbuffer", "units", "block", "works"):
            table.add_column(title, justify="left" if title in ("kind", "works") else "right", no_wrap=title != "kind")
        for info in found.devices:
            table.add_row(*_cells(info), style="green" if info is chosen else None if info.works else "dim")
        console.print(table)
    for info in found.devices:
        if not info.works:
            click.echo(f"{info.label()}: {info.reason}")
    if problem:
        click.echo(problem, err=True)
        return
    for name, reason in found.empty:
        click.echo(f"{name}: {reason}")
    for note in found.notes:
        click.echo(note)
    if chosen:
        named = settings.get("CLCONV_DEVICE")
        why = "as CLCONV_DEVICE says" if named else "the default; CLCONV_DEVICE changes it"
        click.echo(f"Used: {chosen.label()} ({why})")


def _cells(info: DeviceInfo) -> list[str]:
    facts = info.facts
    kind = facts.kind + (", simulated" if facts.simulator else "")
    if facts.kind == "gpu":
        kind += ", shared memory" if facts.integrated else ", own memory"
    return [
        info.key,
        facts.platform_name,
        facts.name,
        kind,
        _size(facts.global_bytes),
        _size(facts.max_alloc_bytes),
        str(facts.compute_units),
        str(facts.block),
        "yes" if info.works else "no",
    ]


def _size(nbytes: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.0f} MiB"
