"""`clconv train`: a network trained on a folder of images, on MNIST's or CIFAR-10's files, or on a .npz file."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from ..data import Augmentation, Dataset, Normalization, open_dataset, split
from ..errors import DataError, ModelFileError, ShapeError
from ..io.model_file import check_ending
from ..net import Net
from ..train import SGD, Adagrad, Adam, Constant, Cosine, History, Optimizer, RMSProp, Step
from ..train.method import PER_PART
from .display import TrainingDisplay, console, counting, device_line, number, percent, stop
from .memory import memory_bytes, memory_line
from .networks import Source, check_vector, find, image_text
from .options import device_option, json_option, memory_option, storage_option

RATES = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02, "adagrad": 0.01, "rmsprop": 0.001, "adam": 0.001}
MOMENTUM = 0.9
SCHEDULES: dict[str, Callable[..., Constant]] = {"constant": Constant, "step": Step, "cosine": Cosine}


def _strengths(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    """Three numbers with commas between them."""
    try:
        strengths = tuple(float(part) for part in value.split(","))
    except ValueError:
        strengths = ()
    if len(strengths) != 3:
        raise click.BadParameter(
            f"{value!r} is not three numbers (brightness, contrast, saturation), as 0.2,0.2,0.2 is"
        )
    return strengths


@dataclass(frozen=True)
class Settings:
    """The options of the command, by their names."""

    data: str
    net: str
    out: str
    epochs: int
    batch: int
    optimizer: str
    rate: float | None
    momentum: float | None
    weight_decay: float
    loss: str
    schedule: str
    warmup: int | None
    crop: int
    flip: bool
    jitter: tuple[float, float, float]
    size: int | None
    validation: float | None
    seed: int
    device: str | None
    memory: int | None
    bn: str | None
    storage: str | None
    checkpoint: str | None
    checkpoint_steps: int
    resume: bool
    damaged: str
    as_json: bool

    def check(self) -> None:
        """Refuses options that do not go together, before anything is read.

        Raises:
            click.UsageError: they contradict each other. ModelFileError: a file could not be written in the end.
        """
        if self.momentum is not None and self.optimizer not in ("momentum", "nesterov"):
            raise click.UsageError(f"--momentum is for the optimizers momentum and nesterov, not {self.optimizer}")
        if (self.resume or self.checkpoint_steps) and self.checkpoint is None:
            raise click.UsageError("--resume and --checkpoint-steps need --checkpoint FILE")
        for path in filter(None, (self.out, self.checkpoint)):
            _check_target(Path(path))
        self.make_optimizer()

    def check_room(self, net: Net) -> None:
        """Refuses to train what could not be kept: the file beside an earlier one, until it takes its place.

        Raises:
            ModelFileError: the disk has less room than the arrays of a file take.
        """
        shapes = net.network.array_shapes().values()
        arrays = 4 * sum(math.prod(shape) for shape in shapes)
        states = len(self.make_optimizer().states)
        for path, needed in ((self.out, arrays), (self.checkpoint, arrays * (1 + states))):
            if path is not None and (free := shutil.disk_usage(Path(path).parent).free) < needed:
                raise ModelFileError(
                    f"{path}: the file takes {needed} bytes, but the disk has {free} left; nothing was trained"
                )

    def make_optimizer(self) -> Optimizer:
        """The optimizer with its rate."""
        rate = RATES[self.optimizer] if self.rate is None else self.rate
        if self.optimizer in ("sgd", "momentum", "nesterov"):
            momentum = MOMENTUM if self.momentum is None else self.momentum
            momentum = 0.0 if self.optimizer == "sgd" else momentum
            return SGD(rate, self.weight_decay, momentum, self.optimizer == "nesterov")
        rules: dict[str, Callable[..., Optimizer]] = {"adagrad": Adagrad, "rmsprop": RMSProp, "adam": Adam}
        return rules[self.optimizer](rate, self.weight_decay)

    @property
    def augmentation(self) -> Augmentation | None:
        """What happens to training images, or None."""
        made = Augmentation(self.crop, self.flip, self.jitter)
        return None if made == Augmentation() else made


def _check_target(path: Path) -> None:
    check_ending(path, "models and checkpoints")
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        why = "is a folder" if path.is_dir() else f"{folder} is no folder that can be written"
        raise ModelFileError(f"{path}: {why}; nothing was trained")


@click.command()
@click.argument("data", type=click.Path())
@click.option(
    "--net", required=True, metavar="NETWORK", help="Pattern, network of the zoo, or model file to go on from."
)
@click.option("--out", default="model.safetensors", metavar="FILE", show_default=True, help="The trained model.")
@click.option(
    "--epochs", default=10, type=click.IntRange(0), metavar="N", show_default=True, help="Passes over the data."
)
@click.option("--batch", default=128, type=click.IntRange(1), metavar="N", show_default=True, help="Images per step.")
@click.option("--optimizer", default="nesterov", type=click.Choice(list(RATES)), show_default=True)
@click.option("--rate", type=float, metavar="R", help="Learning rate. Default: by optimizer, 0.02 for nesterov.")
@click.option("--momentum", type=float, metavar="M", help="Of momentum and nesterov. Default: 0.9.")
@click.option("--weight-decay", default=0.0, metavar="D", show_default=True, help="L2 penalty, such as 5e-4.")
@click.option("--loss", default="softmax", type=click.Choice(["softmax", "svm"]), show_default=True)
@click.option(
    "--schedule", default="cosine", type=click.Choice(list(SCHEDULES)), show_default=True, help="How the rate falls."
)
@click.option(
    "--warmup",
    type=click.IntRange(0),
    metavar="STEPS",
    help="Steps over which the rate first rises.  [default: a fifth of an epoch, at most 100]",
)
@click.option("--crop", default=0, type=click.IntRange(0), metavar="PAD", help="Shift images by up to PAD pixels.")
@click.option("--flip", is_flag=True, help="Mirror half of the images left to right.")
@click.option(
    "--jitter", default="0,0,0", callback=_strengths, help="Change brightness, contrast, saturation: 0.2,0.2,0.2."
)
@click.option("--size", type=click.IntRange(1), metavar="N", help="Bring the images of a folder to NxN pixels.")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="Hold out this share of the training data, such as 0.1.",
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0),
    metavar="N",
    show_default=True,
    help="Same seed, same device: same bits.",
)
@device_option
@memory_option(
    "Budget for all of training, such as 512MB: what does not fit is computed twice, or the batch in parts. "
    "Default: CLCONV_MEMORY."
)
@click.option(
    "--bn",
    type=click.Choice([PER_PART]),
    help="Allow parts of a batch with batch normalisation, each by its own statistics.",
)
@storage_option("Lets activations wait for their gradients as float16 where the budget asks for it.")
@click.option("--checkpoint", metavar="FILE", help="Keep the state of the run here: each epoch, and on Ctrl-C.")
@click.option("--checkpoint-steps", default=0, type=click.IntRange(0), metavar="N", help="... and every N steps.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint if it is there.")
@click.option(
    "--damaged", default="refuse", type=click.Choice(["skip", "refuse"]), show_default=True, help="Broken images."
)
@json_option("One JSON object on standard output; progress on standard error.")
def train(**options: Any) -> None:
    """Train a network on the images at DATA.

    DATA is a folder of class folders (CLASS/IMAGE.jpg, or train/CLASS/... and test/CLASS/...), a folder with
    the files of MNIST or of CIFAR-10's binary version, or a .npz file with x and y. A test set, where there is
    one, is evaluated after each epoch and at the end; with --validation only at the end.

    NETWORK is a pattern as in the CS231n notes, the name of a known network (such as resnet18 or zoo:lenet),
    or a .safetensors file to train further. The model file keeps the names of the classes and how images are
    normalised, so that `clconv predict` needs nothing else.

    \b
    Examples
        clconv train mnist/ --net "INPUT 28x28x1 -> [CONV 5x5x16 -> RELU -> POOL]*2 -> FC 10"
        clconv train photos/ --net resnet18 --size 128 --flip --crop 8 --validation 0.1
        clconv train cifar10/ --net cifar_net --checkpoint run.safetensors --resume

    Ctrl-C ends the run after the step in hand and saves the checkpoint, or the model as it is. Exit code 130.
    """
    settings = Settings(**options)
    settings.check()
    _run(settings, console(stderr=settings.as_json))


def _run(settings: Settings, out: Console) -> None:
    source = find(settings.net)
    net = None if source.takes_size else source.open(device=settings.device, seed=settings.seed)
    data, test = _read(settings, net, out)
    if source.kind == "zoo":
        net = source.open(
            classes=data.class_count, size=_side(data, source), device=settings.device, seed=settings.seed
        )
    assert net is not None
    with net:
        out.print(device_line(net.device))
        _check_fit(net, data, settings)
        settings.check_room(net)
        _describe(net, data)
        shown = f"{len(data)} images in {data.class_count} classes, {len(test) if test else 'no'} test images"
        out.print(f"{shown}; {net.parameter_count:,} parameters")
        history = _fit(net, data, test, settings, out)
        _finish(net, test, history, settings, out)


def _read(settings: Settings, net: Net | None, out: Console) -> tuple[Dataset, Dataset | None]:
    """Training and test data; images of folders are brought to the size that was given, or to the network's."""
    size: int | tuple[int, int] | None = settings.size
    channels = 3
    if net is not None:
        channels = net.network.input_shape[0] if net.network.input_shape[0] in (1, 3) else 3
        size = size or net.network.input_shape[1:]
    with counting(out, "reading images") as progress:
        try:
            data, test = open_dataset(
                settings.data, size=size, channels=channels, damaged=settings.damaged, progress=progress
            )
        except DataError as error:
            hint = "give a size to which all are brought"
            text = str(error).replace(hint, "--size N brings all to NxN").replace('damaged="skip"', "--damaged skip")
            raise DataError(text) from error
    for each in (data, test):
        for path, why in getattr(each, "skipped", []):
            click.echo(f"skipped {path}: {why}", err=True)
    if data.labels.dtype != np.int32:
        raise DataError(f"{settings.data}: the labels are numbers to be approximated; classes are needed here")
    return data, test


def _side(data: Dataset, source: Source) -> int | None:
    """The size of the data's images for a network that takes any."""
    _, height, width = data.shape
    if source.takes_size and height != width:
        raise ShapeError(
            f"train: {source.text} takes square images, those of the data have {height}x{width}; use --size N"
        )
    return height


def _check_fit(net: Net, data: Dataset, settings: Settings) -> None:
    """Refuses data that the network is not made for, saying what would fit."""
    if data.shape != net.network.input_shape:
        wanted, found = image_text(net.network.input_shape), image_text(data.shape)
        raise ShapeError(
            f"train: the network takes images of {wanted} (width x height x channels), those of {settings.data} are "
            f"{found}; a network for INPUT {found} would fit"
        )
    check_vector(net, "train")
    outputs, classes = net.network.output_shape[0], data.class_count
    if outputs != classes:
        raise ShapeError(
            f"train: the network has {outputs} outputs but {settings.data} has {classes} classes; "
            f"a network that ends in FC {classes} would fit"
        )


def _describe(net: Net, data: Dataset) -> None:
    """Keeps with the model what predicting needs; a model that is trained further keeps its normalisation."""
    net.metadata["classes"] = data.classes or [str(i) for i in range(data.class_count)]
    if net.normalization is None and data.dtype == np.uint8:
        net.normalization = Normalization.of(data)


def _fit(net: Net, data: Dataset, test: Dataset | None, settings: Settings, out: Console) -> History:
    held_out, name = test, "test"
    if settings.validation is not None:
        data, held_out = split(data, settings.validation, settings.seed)
        name = "validation"
    warmup = settings.warmup
    if warmup is None:  # the first steps after the initialisation are the largest
        warmup = min(100, len(data) // settings.batch // 5)
    with TrainingDisplay(out, settings.epochs, name) as display:
        return net.fit(
            data,
            epochs=settings.epochs,
            batch_size=settings.batch,
            loss=settings.loss,
            optimizer=settings.make_optimizer(),
            schedule=SCHEDULES[settings.schedule](warmup=warmup),
            validation=held_out,
            augmentation=settings.augmentation,
            memory=settings.memory,
            bn=settings.bn,
            storage=settings.storage,
            seed=settings.seed,
            callbacks=[display],
            checkpoint=settings.checkpoint,
            checkpoint_steps=settings.checkpoint_steps,
            resume=settings.resume,
            verbose=False,
            report=display.report,
            build_progress=display.building,
        )


def _finish(net: Net, test: Dataset | None, history: History, settings: Settings, out: Console) -> None:
    """Saves, evaluates, and says what came out."""
    saved = _save(net, history, settings, out)
    result: dict[str, Any] = {
        "device": net.device.key,
        "interrupted": history.interrupted,
        "saved": saved,
        "history": history.to_dict(),
        "classes": net.metadata["classes"],
    }
    if test is not None and not history.interrupted:
        found = net.evaluate(
            test, loss=settings.loss, batch_size=min(settings.batch, len(test)), memory=settings.memory
        )
        result["test"] = found
        out.print(f"test accuracy {percent(found['accuracy'])}, loss {number(found['loss'])}, {len(test)} images")
    elif history.val_accuracy and not history.interrupted:
        out.print(f"validation accuracy {percent(history.val_accuracy[-1])}; {settings.data} has no test set")
    out.print(memory_line(net))
    if settings.as_json:
        click.echo(json.dumps({**result, "bytes": memory_bytes(net)}))
    if history.interrupted:
        stop(130)


def _save(net: Net, history: History, settings: Settings, out: Console) -> str:
    """Writes the model; an interrupted run leaves an earlier model alone."""
    if not history.interrupted:
        net.save(settings.out)
        out.print(f"model written to {settings.out}")
        return settings.out
    if settings.checkpoint is not None:
        out.print(f"interrupted; the run is saved in {settings.checkpoint}: the same command with --resume goes on")
        return settings.checkpoint
    path = Path(settings.out)
    path = path.with_name(f"{path.stem}.interrupted{path.suffix}")
    net.save(path)
    out.print(f"interrupted; the model as it is was written to {path} (--checkpoint keeps what --resume needs)")
    return str(path)
