"""`clconv selftest`: every layer against its reference on a device, with a verdict to paste into a bug report."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from .. import settings
from ..device import Device, choose
from ..reference import CASES, Case
from ..selftest import check
from .display import console, counting, stop
from .options import device_option, json_option

FACTS = (
    *("name", "vendor", "kind", "platform_name", "platform_version", "driver_version", "compute_units", "lanes"),
    *("block", "global_bytes", "max_alloc_bytes", "local_bytes", "max_work_group"),
)
LIBRARIES = ("numpy", "pyopencl")
MOST_PROBLEMS = 12  # printed for one layer


@dataclass
class Tally:
    """What came out for one layer; `worst` is the largest error as a share of what is allowed."""

    layer: str
    cases: int = 0
    passed: int = 0
    worst: float = 0.0
    problems: list[str] = field(default_factory=list)


@click.command()
@device_option
@click.option("--quick", is_flag=True, help="Small cases only: seconds instead of minutes on a slow device.")
@json_option("The same as JSON on standard output.")
def selftest(device: str | None, quick: bool, as_json: bool) -> None:
    """Check every layer against its reference on this device.

    Each case computes a layer and its gradients from whole numbers, which must come out exactly, and from
    random ones, which must come out within the rounding errors that float32 allows; the reference is plain
    NumPy in float64. Exit code 1: something is wrong with the device, its driver, or clconv; the output says
    all that a bug report needs.
    """
    chosen = choose(device)
    cases = [case for case in CASES if case.small] if quick else CASES
    tallies: dict[str, Tally] = {}
    with counting(console(stderr=True), "checking") as progress:
        for done, case in enumerate(cases, start=1):
            _add(tallies.setdefault(case.layer, Tally(case.layer)), case, chosen)
            progress(done, len(cases))
    failed = sum(tally.cases - tally.passed for tally in tallies.values())
    content = _content(chosen, list(tallies.values()), failed)
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        _print(console(), content, list(tallies.values()))
    stop(1 if failed else 0)


def _add(tally: Tally, case: Case, device: Device) -> None:
    """Runs a case and counts it."""
    tally.cases += 1
    try:
        found = check(case, device)
    except Exception as error:  # whatever a driver does in one case, the others are still worth knowing
        tally.problems.append(f"{case}: {type(error).__name__}: {error}")
        return
    tally.worst = max(tally.worst, found.worst)
    tally.problems += found.problems
    tally.passed += not found.problems


def _content(device: Device, tallies: list[Tally], failed: int) -> dict[str, Any]:
    facts = {name: getattr(device.facts, name) for name in FACTS}
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {
        "passed": not failed,
        "cases": sum(tally.cases for tally in tallies),
        "failed": failed,
        "device": {"key": device.key, **facts},
        "versions": {"clconv": settings.version(), "python": platform.python_version(), **libraries},
        "system": platform.platform(),
        "layers": [asdict(tally) for tally in tallies],
    }


def _print(out: Console, content: dict[str, Any], tallies: list[Tally]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer")
    for title in ("cases", "passed", "worst error, of what is allowed"):
        table.add_column(title, justify="right")
    for tally in tallies:
        style = "red" if tally.problems else None
        worst = f"{100 * tally.worst:.1f} %" if tally.worst < 1000 else "wrong"
        table.add_row(tally.layer, str(tally.cases), str(tally.passed), worst, style=style)
    out.print(table)
    for tally in tallies:
        for problem in tally.problems[:MOST_PROBLEMS]:
            out.print(problem)
        if len(tally.problems) > MOST_PROBLEMS:
            out.print(f"{tally.layer}: and {len(tally.problems) - MOST_PROBLEMS} more (--json has all)")
    out.print()
    for name, value in content["device"].items():
        out.print(f"{name:17} {value}")
    out.print(f"{'versions':17} " + ", ".join(f"{name} {number}" for name, number in content["versions"].items()))
    out.print(f"{'system':17} {content['system']}")
    if content["passed"]:
        out.print(f"verdict           all {content['cases']} cases pass")
    else:
        out.print(f"verdict           {content['failed']} of {content['cases']} cases FAIL")
