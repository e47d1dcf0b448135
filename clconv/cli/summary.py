"""`clconv summary`: a network layer by layer, with the memory that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from .. import report
from ..device import Device, choose
from ..io.onnx_file import read_onnx
from ..io.onnx_network import OnnxNetwork, model_notes
from ..net import Net
from ..planner import format_bytes
from .display import device_line
from .networks import find
from .options import device_option, given_size, memory_option


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
@click.option("--size", callback=given_size, metavar="N|WxH", help="Pixels of the image. Default: the network's own.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON; sizes in bytes.")
@device_option
def summary(
    network: str,
    batch: int,
    memory: int | None,
    mode: str,
    size: tuple[int, int] | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Show a network layer by layer, with the memory that it takes; nothing is run.

    NETWORK is a .safetensors or .onnx file, a pattern as in the CS231n notes, or the name of a known network.

    \b
    Examples
        clconv summary vgg16 --memory 600MB
        clconv summary "INPUT 32x32x3 -> [CONV 3x3x32 -> RELU -> POOL]*2 -> FC 10" --batch 128 --mode train
        clconv summary model.safetensors --json
        clconv summary model.onnx --size 640x480
    """
    source = find(network)
    model = read_onnx(network) if source.kind == "file" and network.lower().endswith(".onnx") else None
    if model is not None and len(model.inputs) > 1:
        chosen = choose(device)
        _print(report.model_report(model, chosen.facts, batch), chosen, model_notes(model), as_json=as_json)
        return
    with Net(OnnxNetwork(model), device=device) if model is not None else source.open(device=device) as net:
        if size is not None:
            net.network = net.network.with_image(size)
        batch = net.network.fixed_batch or batch
        _print(report.report(net, batch, mode), net.device, net.network.notes, as_json=as_json)
        for each in ("test", "train"):
            if memory is not None and mode in (each, "both"):
                plan = net.plan(batch, each, memory)
                what = "test-time mode" if each == "test" else "training"
                click.echo(f"{what} takes {format_bytes(plan.peak_bytes)} and fits {format_bytes(memory)}", err=True)
                for line in plan.told:
                    click.echo(f"  {line}", err=True)


def _print(made: report.Report, device: Device, notes: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(made.to_dict(), indent=2))
        return
    click.echo(device_line(device))
    for note in notes:
        click.echo(note)
    click.echo(str(made))
