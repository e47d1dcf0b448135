"""`clconv predict`: what a trained network makes of pictures."""

from __future__ import annotations

import csv
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ..data import Normalization, read_image
from ..data.image import SUFFIXES
from ..errors import ArgumentError, DataError, ModelFileError, ShapeError
from ..net import Net, load
from ..program import Progress
from .display import console, counting_built, device_line, percent, stop
from .memory import memory_bytes, memory_line
from .networks import check_vector, class_names, gives_shares
from .options import device_option, memory_option

CHUNK = 64  # pictures decoded at a time


@dataclass(frozen=True)
class Answer:
    """What came out for a picture: (output, probability) pairs, the most probable first; or why nothing did."""

    image: str
    top: tuple[tuple[int, float], ...] = ()
    error: str = ""


@click.command()
@click.argument("model", type=click.Path())
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--top", default=5, type=click.IntRange(1), metavar="N", show_default=True, help="Classes to name for each picture."
)
@memory_option("Budget on the device, such as 64MB; the batch is made to fit it. Default: CLCONV_MEMORY.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Pictures per run. Default: up to 32.")
@click.option("--labels", metavar="FILE", help="Names of the classes, one a line. Default: those kept in the model.")
@device_option
@click.option("--json", "style", flag_value="json", help="One JSON object on standard output.")
@click.option("--csv", "style", flag_value="csv", help="image,rank,class,index,probability on standard output.")
@click.option("--verbose", is_flag=True, help="Name the device and its memory, planned and measured.")
def predict(
    model: str,
    images: tuple[str, ...],
    top: int,
    memory: int | None,
    batch: int | None,
    labels: str | None,
    device: str | None,
    style: str | None,
    verbose: bool,
) -> None:
    """Say what is on pictures, with a MODEL that `clconv train` wrote.

    Each IMAGE is a picture, a folder (all pictures in it and below), or a pattern such as "photos/*.jpg".
    Pictures are resized until they cover the network's input, and their centre is cut out.

    \b
    Examples
        clconv predict model.safetensors cat.jpg
        clconv predict model.safetensors photos/ --top 1 --csv > answers.csv

    A picture that cannot be read is named, the others are done; the exit code is 1 then.
    """
    errors = console(stderr=True)
    with load(model, device=device) as net:
        _check(net)
        names = _read_labels(labels, net) if labels else class_names(net)
        if verbose:
            errors.print(device_line(net.device))
        paths = list(_expand(images))
        answers: list[Answer] = []
        with counting_built(errors, "predicting") as (progress, building):
            for first in range(0, len(paths), CHUNK):
                answers += _answer(net, paths[first : first + CHUNK], min(top, len(names)), batch, memory, building)
                progress(len(answers), len(paths))
        for answer in answers:
            if answer.error:
                click.echo(answer.error, err=True)
        if style == "json":
            click.echo(json.dumps(_content(answers, names, net), indent=2))
        elif style == "csv":
            _write_csv(answers, names)
        else:
            _print_table(answers, names)
        if verbose:
            errors.print(memory_line(net))
    stop(1 if any(answer.error for answer in answers) else 0)


def _check(net: Net) -> None:
    check_vector(net, "predict")
    channels = net.network.input_shape[0]
    if channels not in (1, 3):
        raise ShapeError(f"predict: the network reads {channels} channels; pictures have 3 (RGB) or 1 (grey)")


def _read_labels(path: str, net: Net) -> list[str]:
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
        raise ModelFileError(f"{path}: cannot be read: {reason}") from error
    outputs = net.network.output_shape[0]
    if len(names) != outputs:
        raise ArgumentError(f"{path}: {len(names)} names, one a line; the network has {outputs} outputs")
    return names


def _expand(images: Sequence[str]) -> Iterator[str]:
    """The pictures that arguments name, in their order; those of folders and patterns sorted."""
    for each in images:
        path = Path(each)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            yield from map(str, found)
            if not found:
                yield each  # is reported as what it is: no picture
        elif not path.exists() and glob.has_magic(each):
            yield from sorted(glob.glob(each, recursive=True)) or [each]
        else:
            yield each


def _answer(
    net: Net, paths: list[str], top: int, batch: int | None, memory: int | None, building: Progress
) -> list[Answer]:
    """Answers for some pictures, in their order."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda path: _read(net, path), paths))
    pictures = [picture for picture in found if not isinstance(picture, str)]
    shares = iter(_probabilities(net, pictures, batch, memory, building))
    answers = []
    for path, picture in zip(paths, found, strict=True):
        if isinstance(picture, str):
            answers.append(Answer(path, error=picture))
        else:
            share = next(shares)
            best = np.argsort(-share, kind="stable")[:top]
            answers.append(Answer(path, tuple((int(k), float(share[k])) for k in best)))
    return answers


def _read(net: Net, path: str) -> NDArray[np.uint8] | str:
    """A picture as the network takes it, or why it cannot be read."""
    channels, height, width = net.network.input_shape
    if Path(path).is_dir():
        return f"{path}: a folder without pictures"
    if not Path(path).exists():
        return f"{path}: {'no file fits the pattern' if glob.has_magic(path) else 'there is no such file'}"
    try:
        return read_image(path, (height, width), channels=channels)
    except DataError as error:
        return str(error)


def _probabilities(
    net: Net, pictures: list[NDArray[np.uint8]], batch: int | None, memory: int | None, building: Progress
) -> NDArray[np.float64]:
    """(N, K) with rows that sum to 1."""
    if not pictures:
        return np.empty((0, net.network.output_shape[0]))
    x = np.stack(pictures)
    # Normalised here: as uint8, images three pixels wide could be read in two ways.
    scale = net.normalization or Normalization()
    raw: NDArray[np.float32] = net.predict(scale.apply(x), batch_size=batch, memory=memory, build_progress=building)
    scores: NDArray[np.float64] = raw.reshape(len(x), -1).astype(np.float64)
    if gives_shares(net.network):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _rows(answers: Sequence[Answer], names: Sequence[str]) -> Iterator[tuple[str, int, str, int, float]]:
    """image, rank from 1, class, output, probability."""
    for answer in answers:
        for rank, (k, share) in enumerate(answer.top, start=1):
            yield answer.image, rank, names[k], k, share


def _content(answers: Sequence[Answer], names: Sequence[str], net: Net) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    for answer in answers:
        if answer.error:
            images.append({"image": answer.image, "error": answer.error})
        else:
            top = [{"class": names[k], "index": k, "probability": share} for k, share in answer.top]
            images.append({"image": answer.image, "predictions": top})
    return {"device": net.device.key, "bytes": memory_bytes(net), "images": images}


def _write_csv(answers: Sequence[Answer], names: Sequence[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "index", "probability"))
    for image, rank, name, k, share in _rows(answers, names):
        writer.writerow((image, rank, name, k, f"{share:.6f}"))


def _print_table(answers: Sequence[Answer], names: Sequence[str]) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    for image, rank, name, _, share in _rows(answers, names):
        table.add_row(image if rank == 1 else "", name, percent(share), style="bold" if rank == 1 else "dim")
    if table.row_count:
        console().print(table)
