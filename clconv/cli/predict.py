"""`clconv predict`: what a network makes of pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..data import Preprocessing
from ..errors import ArgumentError, BudgetError, ClconvError, ModelFileError, ShapeError
from ..net import Net, load
from ..program import Progress
from . import answers as show
from .display import console, counting_built, device_line, stop
from .memory import memory_line
from .options import Limits, device_option, given_size, limit_options
from .outcome import KINDS, Answer, Output, Picture, find_output, finish
from .prepare import SCALE_NAMES, Wishes, output_names, prepared
from .sources import Source, ahead, expand, read, with_targets

GROUP = 32  # pictures that are computed together
THREADS = min(8, (os.cpu_count() or 1) + 1)  # decoding and writing


@dataclass(frozen=True)
class Job:
    """What is done with each picture.

    Attributes:
        group: most pictures computed together. batch, limits, building: for `Net.predict`.
    """

    net: Net
    output: Output
    prepare: Preprocessing
    top: int
    group: int
    batch: int | None
    limits: Limits
    building: Progress | None = None


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, in the order of the help."""
    for option in reversed(
        (
            click.option("--top", default=5, type=click.IntRange(1), metavar="N", show_default=True,
                         help="Classes to name for each picture."),
            click.option("--labels", metavar="FILE",
                         help="Names of the classes: one a line, or a JSON list. Default: those kept in the model."),
            click.option("--preprocess", type=click.Choice(SCALE_NAMES),
                         help="How pixels become numbers. imagenet: 0..1, minus ImageNet's mean, by its deviation "
                              "(PyTorch's networks); caffe: blue first, 0..255 minus 104,117,123; unit: 0..1; signed: "
                              "-1..1 (TensorFlow's); none: 0..255. Default: what the model says, else unit."),
            click.option("--order", type=click.Choice(["rgb", "bgr"]),
                         help="Order of the colours. Default: rgb; bgr with caffe."),
            click.option("--size", callback=given_size, metavar="N|WxH",
                         help="Pixels that the network reads, where its file leaves that open."),
            click.option("--crop", type=click.IntRange(1), metavar="N",
                         help="Resize the short side to N, then cut out the centre (torchvision's rule: 256 for 224)."),
            click.option("--stretch", is_flag=True, help="Resize to the network's size whatever the proportions."),
            click.option("--out", type=click.Path(), metavar="DIR",
                         help="Where the pictures go that a network returns: one PNG for each, of the same name."),
            click.option("--overwrite", is_flag=True, help="Replace files that are in DIR already."),
            click.option("--as", "kind", type=click.Choice(KINDS),
                         help="What the output is, where its shape leaves that open."),
            click.option("--output", metavar="NAME", help="Which output of several. Default: the first."),
            limit_options("Budget on the device, such as 64MB; the batch is made to fit it. Default: CLCONV_MEMORY."),
            click.option("--batch", type=click.IntRange(1), metavar="N",
                         help="Pictures per run. Default: up to 32; 1 where pictures come back."),
            device_option,
            click.option("--json", "style", flag_value="json", help="One JSON object on standard output."),
            click.option("--csv", "style", flag_value="csv", help="Comma-separated rows, as the answers come."),
            click.option("--verbose", is_flag=True, help="Name the device and its memory, planned and measured."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@_options
def predict(
    model: str,
    images: tuple[str, ...],
    top: int,
    labels: str | None,
    preprocess: str | None,
    order: str | None,
    size: tuple[int, int] | None,
    crop: int | None,
    stretch: bool,
    out: str | None,
    overwrite: bool,
    kind: str | None,
    output: str | None,
    limits: Limits,
    batch: int | None,
    device: str | None,
    style: str | None,
    verbose: bool,
) -> None:
    """Say what is on pictures, or let a network change them.

    MODEL is a file that `clconv train` wrote, or an ONNX file. Each IMAGE is a picture, a folder (all pictures in it
    and below), a pattern such as "photos/*.jpg", or - for standard input.

    \b
    Examples
        clconv predict model.safetensors cat.jpg
        clconv predict squeezenet.onnx photos/ --preprocess imagenet --crop 256 --labels names.txt
        clconv predict model.safetensors photos/ --top 1 --csv > answers.csv
        clconv predict super_resolution.onnx small.png --out large/
        curl -s https://example.com/cat.jpg | clconv predict model.onnx -

    Pictures are turned upright, resized until they cover the network's input, and their centre is cut out; --crop and
    --stretch are other ways. A network that returns pictures or masks gets the whole picture: as it is where the model
    takes any size, else stretched, and the result is stretched back. A picture that cannot be read is named, the others
    are done; the exit code is 1 then.
    """
    errors = console(stderr=True)
    with _open(model, device) as net:
        shown = find_output(net, output, kind, size)
        sources = _sources(images, out, shown, overwrite=overwrite)
        names = output_names(net, shown, labels)
        wishes = Wishes(preprocess, order, size, crop, stretch, model.lower().endswith(".onnx"))
        net, prepare, note = prepared(net, shown.kind, wishes)
        if note:
            click.echo(f"note: {note}", err=True)
        if verbose:
            errors.print(device_line(net.device))
        group = batch or (GROUP if shown.kind == "classes" else 1)
        rows = show.CsvWriter(shown, names) if style == "csv" else None
        answers: list[Answer] = []
        with counting_built(errors, "predicting") as (progress, building):
            job = Job(net, shown, prepare, min(top, shown.classes or top), group, batch, limits, building)
            progress(0, len(sources))
            for answer in run(job, sources):
                answers.append(answer)
                if answer.error:
                    errors.print(answer.error)
                if rows is not None:
                    rows.add(answer)
                progress(len(answers), len(sources))
        if style == "json":
            click.echo(json.dumps(show.content(answers, shown, names, net), indent=2))
        elif rows is None:
            show.print_table(answers, shown, names)
        if verbose:
            errors.print(memory_line(net))
    stop(1 if any(answer.error for answer in answers) else 0)


def _open(model: str, device: str | None) -> Net:
    path = Path(model)
    if not os.path.exists(path):
        raise ModelFileError(f"{model}: there is no such file; MODEL is a file of clconv train, or an ONNX file")
    if path.suffix.lower() not in (".safetensors", ".onnx") and path.is_file() and _is_picture(path):
        raise ModelFileError(f"{model}: a picture, not a model; the model comes first: clconv predict MODEL IMAGE...")
    return load(model, device=device)


def _is_picture(path: Path) -> bool:
    try:
        read(Source(str(path), path, path))
    except ClconvError:
        return False
    return True


def _sources(images: Sequence[str], out: str | None, shown: Output, *, overwrite: bool) -> list[Source]:
    sources = expand(images)
    if shown.kind == "classes":
        if out is not None:
            raise ArgumentError(
                "--out: the network gives one score per class, no pictures; leave --out away, or write the answers "
                "with --csv > FILE"
            )
        return sources
    if out is None:
        made = "masks" if shown.kind == "mask" else "pictures"
        raise ArgumentError(f"predict: the network returns {made}; --out DIR says where they go")
    return with_targets(sources, Path(out), overwrite=overwrite)


def run(job: Job, sources: Sequence[Source]) -> Iterator[Answer]:
    """Answers in the order of the sources. Pictures are decoded, and results written, while the device computes."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = ahead(pool, lambda source: _read(job, source), sources, 2 * max(job.group, THREADS))
        group: list[tuple[Source, Picture | str]] = []
        pending: list[Callable[[], Answer]] = []
        for source, picture in zip(sources, found, strict=True):
            if not _joins(group, picture, job.group):
                started = _computed(job, group, pool)
                yield from (answer() for answer in pending)
                group, pending = [], started
            group.append((source, picture))
        started = _computed(job, group, pool)
        yield from (answer() for answer in (*pending, *started))


def _read(job: Job, source: Source) -> Picture | str:
    """A picture as the network takes it, or why it cannot be read."""
    try:
        whole = read(source)
    except ClconvError as error:
        return str(error)
    try:
        colours = whole.mode == "RGB" and job.prepare.channels == 1 and job.output.kind == "image"
        return Picture(job.prepare.pixels(whole), whole.size, job.prepare.placed(whole) if colours else None)
    except ClconvError as error:
        return f"{source.name}: {error}"


def _joins(group: Sequence[tuple[Source, Picture | str]], picture: Picture | str, most: int) -> bool:
    """Whether a picture can be computed together with those in the group."""
    shapes = [each.pixels.shape for _, each in group if isinstance(each, Picture)]
    if len(group) >= 2 * most:
        return False
    return isinstance(picture, str) or not shapes or (len(shapes) < most and shapes[0] == picture.pixels.shape)


def _computed(job: Job, group: Sequence[tuple[Source, Picture | str]], pool: Executor) -> list[Callable[[], Answer]]:
    """Calls that wait for the answers of a group, whose outputs are computed."""
    outputs = iter(_outputs(job, [picture for _, picture in group if isinstance(picture, Picture)]))
    calls: list[Callable[[], Answer]] = []
    for source, picture in group:
        y = next(outputs) if isinstance(picture, Picture) else ""
        if isinstance(picture, str) or isinstance(y, str):
            failed = Answer(source.name, error=picture if isinstance(picture, str) else f"{source.name}: {y}")
            calls.append(lambda answer=failed: answer)  # type: ignore[misc]
        else:
            calls.append(pool.submit(finish, source, picture, y, job.output, job.prepare, job.top).result)
    return calls


def _outputs(job: Job, pictures: Sequence[Picture]) -> Iterable[Any]:
    """The output for each picture; where pictures have sizes of their own, why there is none."""
    if not pictures:
        return []
    x = job.prepare.numbers(np.stack([picture.pixels for picture in pictures]))
    if job.net.network.channels_last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    try:
        limits = job.limits
        how: dict[str, Any] = {"memory": limits.memory, **asdict(limits.terms), "build_progress": job.building}
        return job.output.of(job.net.predict(x, batch_size=job.batch, **how))
    except (BudgetError, ModelFileError, ShapeError) as error:
        if job.prepare.size is not None:
            raise
        return [str(error)] * len(pictures)
