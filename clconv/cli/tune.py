"""`clconv tune`: the fastest choices for a network's operators, measured on this device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from .. import tuned
from ..device import Device
from ..tune import Found, Progress, Target, describe, plan_of, search, targets
from .display import busy, console, device_line
from .networks import find
from .options import batch_option, device_option, json_option, network_argument, step_option

NAME_WIDTH = 44


@click.command()
@network_argument
@batch_option
@step_option
@click.option(
    "--seconds", default=60.0, type=click.FloatRange(1), show_default=True, metavar="S", help="How long to search."
)
@click.option("--fresh", is_flag=True, help="Search again, whatever earlier searches found.")
@json_option("What was found as JSON on standard output.")
@device_option
def tune(network: str, batch: int, train: bool, seconds: float, fresh: bool, as_json: bool, device: str | None) -> None:
    """Search the fastest way to run a network on this device.

    NETWORK is a .safetensors or .onnx file, a pattern as in the CS231n notes, or the name of a known network.
    Candidates run in a process of their own, are verified against the reference, and timed in turn with the default.
    What is found is kept for this device and its driver's version and used from then on; CLCONV_TUNING=0 turns it
    off. A search can be interrupted; the next one goes on with the operators that are left.

    \b
    Examples
        clconv tune resnet18 --seconds 120
        clconv tune cifar_net --batch 128 --train
    """
    out = console(stderr=True)
    with find(network).open(device=device) as net:
        chosen = net.device
        wanted = targets(plan_of(net.network, chosen, batch, "train" if train else "test"))
    known = {} if fresh else tuned.entries(chosen.facts)
    left = [each for each in wanted if each.name not in known or known[each.name].tried < len(each.choices) - 1]
    if not as_json:
        out.print(device_line(chosen))
        out.print(_intention(wanted, left))
        if left and (note := busy()):
            out.print(note)
    found = _search(chosen, left, seconds, fresh, out) if left else []
    if as_json:
        click.echo(json.dumps(_content(chosen, wanted, found), indent=2))
    elif found:
        _print(console(), chosen, found, len(left))


def _intention(wanted: Sequence[Target], left: Sequence[Target]) -> str:
    """What there is to do, in a line."""
    if not wanted:
        return "nothing to tune: no operator of the network leaves a choice"
    if not left:
        return f"nothing to tune: {_kinds(len(wanted))} tuned earlier; --fresh does it again"
    already = f", {len(wanted) - len(left)} more were tuned earlier" if len(left) < len(wanted) else ""
    candidates = sum(len(target.choices) for target in left)
    return f"{_kinds(len(left))} to tune, {candidates} candidates{already}"


def _kinds(count: int) -> str:
    return "1 kind of operator" if count == 1 else f"{count} kinds of operators"


def _search(device: Device, left: list[Target], seconds: float, fresh: bool, out: Console) -> list[Found]:
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.fields[best]}"), TimeElapsedColumn())
    total = sum(len(target.choices) - 1 for target in left)
    tried: dict[int, int] = {}
    with Bars(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        task = bars.add_task("verifying", total=total, best="")

        def report(now: Progress) -> None:
            tried[now.index] = now.tried
            what = f"{now.layer} ({now.index + 1}/{now.count}), candidate {now.tried} of {now.candidates}"
            best = f"{now.gain:.2f} times the default" if now.gain > 1 else "the default leads"
            bars.update(task, completed=sum(tried.values()), description=what, best=best)

        return search(device, left, seconds, fresh=fresh, report=report)


def _content(device: Device, wanted: Sequence[Target], found: Sequence[Found]) -> dict[str, Any]:
    rows = [
        {
            "operator": each.target.name,
            "layers": each.target.layers,
            "default": describe(each.target.choices[0]),
            "choice": asdict(each.choice),
            "gain": each.gain,
            "tried": each.tried,
            "candidates": len(each.target.choices) - 1,
            "rejected": [{"candidate": candidate, "reason": reason} for candidate, reason in each.notes],
        }
        for each in found
    ]
    return {"device": device.facts.identity, "file": str(tuned.file(device.facts)), "kinds": len(wanted), "found": rows}


def _print(out: Console, device: Device, found: Sequence[Found], wanted: int) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("layers", "default", "faster"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for title in ("speed", "tried"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in found:
        layers, default = each.target.layers, describe(each.target.choices[0])
        more = f" +{len(layers) - 1}" if len(layers) > 1 else ""
        better = each.choice != each.target.choices[0]
        table.add_row(
            layers[0] + more,
            default,
            _changed(each) if better else "the default",
            f"{each.gain:.2f} x" if better else "",
            f"{each.tried}/{len(each.target.choices) - 1}",
        )
    out.print(table)
    for each in found:
        for candidate, reason in each.notes:
            out.print(f"{each.target.layers[0]}: {candidate} was left out: {reason}")
    better_count = sum(each.choice != each.target.choices[0] for each in found)
    out.print(f"{better_count} of {len(found)} are faster than their default; kept in {tuned.file(device.facts)}")
    if len(found) < wanted or not all(each.complete for each in found):
        out.print("the time was over before all candidates were tried; the next search goes on from here")


def _changed(found: Found) -> str:
    """How the fastest choice differs from the default."""
    default, choice = found.target.choices[0], found.choice
    if choice.name != default.name:
        return describe(choice)
    before = dict(default.tiles)
    return " ".join(f"{name}={value}" for name, value in choice.tiles if before.get(name) != value)
