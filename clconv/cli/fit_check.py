"""`clconv fit-check`: the largest batches and images that fit into a budget."""

from __future__ import annotations

import json

import click

from ..fits import fits
from ..planner import budget_bytes, format_bytes
from ..terms import Terms
from .display import device_line, stop
from .networks import find
from .options import bn_option, device_option, json_option, means_options, memory_option, network_argument


@click.command("fit-check")
@network_argument
@memory_option("The budget, such as 2GB. Default: CLCONV_MEMORY, else all that the device has.")
@means_options
@bn_option
@json_option("The same as JSON; sizes in bytes.")
@device_option
def fit_check(
    network: str,
    memory: int | None,
    spill: str | None,
    storage: str | None,
    bn: str | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Say what fits into a budget: images per prediction, images per training step, pixels of an image.

    NETWORK is a .safetensors or .onnx file, a pattern as in the CS231n notes, or the name of a known network. Nothing
    is allocated or run. "At full speed" is computed as without a budget; "at all" in smaller parts and more time.
    Exit code 1: nothing fits.

    \b
    Examples
        clconv fit-check resnet50 --memory 2GB
        clconv fit-check model.safetensors --memory 64MiB --json
    """
    with find(network).open(device=device) as net:
        limit = budget_bytes(memory) or net.device.facts.global_bytes
        found = fits(net, limit, bn=bn, terms=Terms(spill=spill, storage=storage))
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=2))
        else:
            click.echo(device_line(net.device))
            click.echo(f"{network} in {format_bytes(limit)}")
            click.echo()
            click.echo(str(found))
    stop(0 if found else 1)
