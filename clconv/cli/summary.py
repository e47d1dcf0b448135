"""`clconv summary`: a network layer by layer, with the memory that it takes."""

from __future__ import annotations

import json

import click

from .. import report
from ..planner import format_bytes
from .display import device_line
from .networks import find
from .options import device_option, memory_option


@click.command()
@click.argument("network", metavar="NETWORK")
@click.option("--batch", default=1, type=click.IntRange(1), show_default=True, metavar="N", help="Images per run.")
@memory_option("Say whether it fits this budget, such as 64MB; exit code 2 if not.")
@click.option(
    "--mode",
    default="both",
    type=click.Choice(["test", "train", "both"]),
    show_default=True,
    help="Test time, training.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON; sizes in bytes.")
@device_option
def summary(network: str, batch: int, memory: int | None, mode: str, as_json: bool, device: str | None) -> None:
    """Show a network layer by layer, with the memory that it takes; nothing is run.

    NETWORK is a .safetensors file, a pattern as in the CS231n notes, or the name of a known network.

    \b
    Examples
        clconv summary vgg16 --memory 600MB
        clconv summary "INPUT 32x32x3 -> [CONV 3x3x32 -> RELU -> POOL]*2 -> FC 10" --batch 128 --mode train
        clconv summary model.safetensors --json
    """
    with find(network).open(device=device) as net:
        made = report.report(net, batch, mode)
        if as_json:
            click.echo(json.dumps(made.to_dict(), indent=2))
        else:
            click.echo(device_line(net.device))
            click.echo(str(made))
        for each in ("test", "train"):
            if memory is not None and mode in (each, "both"):
                plan = net.plan(batch, each, memory)
                what = "test-time mode" if each == "test" else "training"
                click.echo(f"{what} takes {format_bytes(plan.peak_bytes)} and fits {format_bytes(memory)}", err=True)
                for line in plan.told:
                    click.echo(f"  {line}", err=True)
