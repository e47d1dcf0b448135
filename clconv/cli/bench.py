"""`clconv bench`: where the time of a network goes, layer by layer."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ..bench import Benchmark, measure
from ..errors import ModelFileError
from ..files import write_atomically
from ..planner import format_bytes
from .display import busy, console, counting_built
from .networks import find
from .options import (
    Limits,
    batch_option,
    device_option,
    json_option,
    limit_options,
    network_argument,
    step_option,
    trace_option,
)

NAME_WIDTH = 22


@click.command()
@network_argument
@batch_option
@step_option
@limit_options("Budget on the device, such as 64MB; exit code 2 where it does not suffice. Default: CLCONV_MEMORY.")
@click.option(
    "--seconds",
    default=2.0,
    type=click.FloatRange(0),
    show_default=True,
    metavar="S",
    help="How long to measure.",
)
@trace_option("Write a timeline for ui.perfetto.dev.")
@json_option("The same as JSON: seconds, bytes, operations per second.")
@device_option
def bench(
    network: str,
    batch: int,
    train: bool,
    limits: Limits,
    seconds: float,
    trace: str | None,
    as_json: bool,
    device: str | None,
) -> None:
    """Measure a network layer by layer, beside what the device can do.

    NETWORK is a .safetensors or .onnx file, a pattern as in the CS231n notes, or the name of a known network.
    Operations are counted as the direct method takes them, so that Winograd's may pass the peak.

    \b
    Examples
        clconv bench resnet18
        clconv bench "INPUT 32x32x3 -> [CONV 3x3x32 -> RELU -> POOL]*2 -> FC 10" --batch 128 --train
        clconv bench model.onnx --batch 8 --trace timeline.json
    """
    with find(network).open(device=device) as net, counting_built(console(stderr=True), "") as (_, building):
        made = measure(
            net.network,
            net.device,
            net.get_weights(),
            mode="train" if train else "test",
            batch=batch,
            budget=limits.memory,
            terms=limits.terms,
            seconds=seconds,
            name=network,
            progress=building,
        )
    if trace:
        _write(trace, made)
    if note := busy():
        console(stderr=True).print(note)
    if as_json:
        click.echo(json.dumps(made.to_dict(), indent=2))
    else:
        _print(console(), made)


def _write(path: str, made: Benchmark) -> None:
    try:
        write_atomically(Path(path), json.dumps(made.to_trace()).encode())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written: {error.strerror}") from error


def _print(out: Console, made: Benchmark) -> None:
    images = "1 image" if made.batch == 1 else f"{made.batch} images"
    what = f"training step of {images}" if made.mode == "train" else images
    out.print(f"{made.network}, {what}, on {made.device} ({made.driver})")
    out.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("layer", "operator", "algorithm"):
        table.add_column(title, no_wrap=True, overflow="ellipsis", max_width=NAME_WIDTH)
    for title in ("ms", "%", "GFLOP/s", "GB/s", "of peak"):
        table.add_column(title, justify="right", no_wrap=True)
    for step in made.steps:
        if not step.launches:
            continue
        share, bound = step.share(made.peak)
        table.add_row(
            *(step.layer, step.operator, step.algorithm),
            *(f"{1e3 * step.seconds:.3f}", f"{100 * step.seconds / (made.sum_s or 1):.1f}"),
            *(_rate(step.flops, step.seconds), _rate(step.traffic_bytes, step.seconds)),
            "in caches" if bound == "memory" and share > 1 else f"{100 * share:.0f} % {bound}",
        )
    out.print(table)
    flops, sum_s, run_s = sum(step.flops for step in made.steps), made.sum_s, made.run_s
    how = " as one launch" if made.joined else ""
    lines = {
        "all launches": f"{1e3 * sum_s:.3f} ms in {len(made.timeline)}, {flops / 1e9:.3f} GFLOP, "
        f"{flops / 1e9 / (sum_s or 1):.0f} GFLOP/s",
        "whole run": f"{1e3 * run_s:.3f} ms ({1e3 * made.run_least_s:.3f} to {1e3 * made.run_most_s:.3f}, "
        f"{made.replays} replays{how}), {made.batch / run_s:.1f} images/s",
        "device's peak": f"{made.peak.flops / 1e9:.0f} GFLOP/s, {made.peak.bytes_per_s / 1e9:.1f} GB/s, measured; "
        f"at these rates, from memory: {1e3 * made.floor_s:.3f} ms",
        "device memory": f"{format_bytes(made.peak_bytes)}, {format_bytes(made.persistent_bytes)} of it persistent",
    }
    out.print()
    for title, text in lines.items():
        out.print(f"{title:14} {text}")


def _rate(amount: int, seconds: float) -> str:
    """Billions per second, with three digits or so."""
    value = amount / 1e9 / seconds if seconds else 0.0
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
