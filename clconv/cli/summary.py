"""`clconv summary`: a network layer by layer, with the memory that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from .. import report
from ..device import Device, choose
from ..errors import ArgumentError, BudgetError, OutOfMemoryError, ShapeError
from ..explain import Explanation, explain, step_seconds
from ..files import write_atomically
from ..io.onnx_file import read_onnx
from ..io.onnx_network import OnnxNetwork, model_notes
from ..net import Net
from ..plan import Plan
from ..planner import NO_LIMIT, format_bytes
from ..plots import plot_plan
from ..timeline import trace as trace_of
from .display import device_line
from .networks import find
from .options import (
    Limits,
    batch_option,
    bn_option,
    device_option,
    given_size,
    json_option,
    limit_options,
    network_argument,
    trace_option,
)


@dataclass(frozen=True)
class How:
    """What plans keep to; `bn` as for `Net.fit`, for plans of training."""

    limits: Limits
    bn: str | None = None


@click.command()
@network_argument
@batch_option
@limit_options("Plan for this budget, such as 64MB; exit code 2 where nothing fits. Default: CLCONV_MEMORY.")
@bn_option
@click.option(
    "--mode",
    default="both",
    type=click.Choice(["test", "train", "both"]),
    show_default=True,
    help="Test time, training.",
)
@click.option("--size", callback=given_size, metavar="N|WxH", help="Pixels of the image. Default: the network's own.")
@click.option("--explain", "explained", is_flag=True, help="What was chosen for which layers, and what that costs.")
@click.option("--plot", metavar="FILE", type=click.Path(dir_okay=False), help="Draw the bytes alive in a run: .png.")
@trace_option("The same for ui.perfetto.dev: .json.")
@json_option("The same as JSON; sizes in bytes.")
@device_option
def summary(
    network: str,
    batch: int,
    limits: Limits,
    bn: str | None,
    mode: str,
    size: tuple[int, int] | None,
    explained: bool,
    plot: str | None,
    trace: str | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Show a network layer by layer, with the memory that it takes; nothing is run.

    NETWORK is a .safetensors or .onnx file, a pattern as in the CS231n notes, or the name of a known network.

    \b
    Examples
        clconv summary vgg16 --memory 16MB --explain
        clconv summary resnet50 --batch 32 --mode train --memory 3GB --plot plan.png
        clconv summary "INPUT 32x32x3 -> [CONV 3x3x32 -> RELU -> POOL]*2 -> FC 10" --batch 128 --mode train
        clconv summary model.safetensors --json
        clconv summary model.onnx --size 640x480

    --plot and --trace show test-time mode, or with --mode train a training step.
    """
    source = find(network)
    model = read_onnx(network) if source.kind == "file" and network.lower().endswith(".onnx") else None
    if model is not None and len(model.inputs) > 1:
        chosen = choose(device)
        _print(report.model_report(model, chosen.facts, batch), [], chosen, model_notes(model), as_json=as_json)
        return
    with Net(OnnxNetwork(model), device=device) if model is not None else source.open(device=device) as net:
        if size is not None:
            net.network = net.network.with_image(size)
        batch = net.network.fixed_batch or batch
        how = How(limits, bn)
        made = report.report(net, batch, mode, limits.memory, terms=limits.terms, bn=bn)
        first = "train" if mode == "train" else "test"
        told = [_explained(net, each, batch, how) for each in _modes(made)] if explained else []
        _print(made, told, net.device, net.network.notes, as_json=as_json)
        if limits.memory is not None:
            for total in made.totals:
                what = "test-time mode" if total.mode == "test" else "training"
                click.echo(
                    f"{what} takes {format_bytes(total.peak_bytes)} and fits {format_bytes(limits.memory)}", err=True
                )
                for line in () if explained else _plan(net, total.mode, batch, how).told:
                    click.echo(f"  {line}", err=True)
        if plot or trace:
            _draw(net, first, batch, how, network, plot, trace)


def _modes(made: report.Report) -> list[str]:
    return [total.mode for total in made.totals]


def _plan(net: Net, mode: str, batch: int, how: How) -> Plan:
    if mode == "train":
        return report.training_plan(net, batch, how.limits.memory, how.bn, how.limits.terms.storage)
    return net.plan(batch, "test", how.limits.memory, **asdict(how.limits.terms))


def _unlimited(net: Net, mode: str, batch: int) -> Plan | None:
    """The plan without a limit; None where the device allows no such thing."""
    try:
        return _plan(net, mode, batch, How(Limits(NO_LIMIT)))
    except (BudgetError, OutOfMemoryError, ShapeError):
        return None


def _explained(net: Net, mode: str, batch: int, how: How) -> Explanation:
    plan = _plan(net, mode, batch, how)
    return explain(plan, _unlimited(net, mode, batch) or plan, mode, batch)


def _draw(net: Net, mode: str, batch: int, how: How, name: str, plot: str | None, trace: str | None) -> None:
    plan = _plan(net, mode, batch, how)
    images = "1 image" if batch == 1 else f"{batch} images"
    title = f"{Path(name).name}, {images}" if mode == "test" else f"{Path(name).name}, training step on {images}"
    part = plan.graph.inputs["x"].spec.shape[0] if "x" in plan.graph.inputs else batch
    if part < batch:
        title += f", {part} at a time"
    try:
        if plot:
            unlimited = _unlimited(net, mode, batch) if how.limits.memory is not None else None
            plot_plan(plan, plot, budget=how.limits.memory, unlimited=unlimited, title=title)
            click.echo(f"{plot}: live bytes of {title}", err=True)
        if trace:
            write_atomically(Path(trace), json.dumps(trace_of(plan, title, step_seconds(plan))).encode())
            click.echo(f"{trace}: live bytes of {title}, for ui.perfetto.dev; times are modelled", err=True)
    except OSError as error:
        raise ArgumentError(f"{error.filename or plot or trace}: cannot be written: {error.strerror}") from error


def _print(
    made: report.Report, told: Sequence[Explanation], device: Device, notes: Sequence[str], *, as_json: bool
) -> None:
    if as_json:
        content: dict[str, Any] = made.to_dict()
        if told:
            content["plans"] = [explanation.to_dict() for explanation in told]
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(device_line(device))
    for note in notes:
        click.echo(note)
    click.echo(str(made))
    for explanation in told:
        click.echo()
        click.echo(str(explanation))
