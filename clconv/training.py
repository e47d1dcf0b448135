"""Training a network's weights on a device: opens or reuses a trainer, resumes, saves checkpoints, runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .data import Dataset, Loader
from .device import Device
from .errors import ArgumentError
from .io.model_file import check_ending
from .nn.network import Network
from .packing import Array
from .program import Progress as BuildProgress
from .train import fit as loop
from .train.checkpoint import load_checkpoint, save_checkpoint
from .train.history import Callback, History
from .train.optimizers import Optimizer
from .train.schedules import Constant
from .train.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """What decides the bits of a run, besides data and weights."""

    loss: str
    optimizer: Optimizer
    schedule: Constant
    epochs: int
    seed: int
    bn: str | None = None  # see `Trainer`
    storage: str | None = None  # likewise; a run may go on with another, as in another budget

    def described(self, loader: Loader) -> dict[str, Any]:
        """What a resumed run must have in common with the one that wrote the checkpoint."""
        described = {
            "loss": self.loss,
            "optimizer": repr(self.optimizer),
            "schedule": repr(self.schedule),
            "seed": self.seed,
            "batch_size": loader.batch_size,
            "images": len(loader.dataset),
            "shuffle": loader.shuffle,
            "augmentation": repr(loader.augmentation),
            "bn": self.bn,
        }
        # A constant rate does not know the end of the run, so that such a run can be made longer.
        return described if type(self.schedule) is Constant else {**described, "epochs": self.epochs}


def check_fit(
    epochs: Any, batch_size: Any, optimizer: Any, schedule: Any, validation: Any, callbacks: Any, checkpoint_steps: Any
) -> None:
    """Refuses arguments of `Net.fit` of another kind.

    Raises:
        ArgumentError: says which, and what would fit.
    """
    whole = (int, np.integer)
    if not (isinstance(epochs, whole) and isinstance(batch_size, whole) and epochs >= 0 and batch_size >= 1):
        raise ArgumentError(f"fit: epochs {epochs!r} and batch_size {batch_size!r} must be integers from 0 and 1 on")
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"fit: {optimizer!r} is no optimizer; SGD(0.01, momentum=0.9) or Adam(0.001) would fit")
    if not isinstance(schedule, Constant):
        raise ArgumentError(f"fit: {schedule!r} is no schedule; Cosine(warmup=100) or Step(at=(0.5, 0.75)) would fit")
    if not isinstance(callbacks, (tuple, list)):
        raise ArgumentError(f"fit: callbacks is {type(callbacks).__name__}; a list of Callbacks would fit")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"fit: {callback!r} is no Callback; an object of a class derived from it would fit")
    if not isinstance(checkpoint_steps, whole) or checkpoint_steps < 0:
        raise ArgumentError(f"fit: checkpoint_steps {checkpoint_steps!r} is not an integer from 0 on")
    pair = isinstance(validation, (tuple, list)) and len(validation) == 2
    if not (validation is None or pair or isinstance(validation, Dataset)):
        raise ArgumentError(f"fit: validation is {type(validation).__name__}; (x, y) or a Dataset would fit")


@dataclass(frozen=True)
class Saving:
    """Where checkpoints go: after each epoch and every `steps` steps (0: epochs only). See `Net.fit`."""

    path: str | os.PathLike[str] | None
    steps: int
    resume: bool
    metadata: Mapping[str, Any]


class Training:
    """A network in training mode. The trainer stays on the device between runs of one kind."""

    def __init__(self, network: Network, device: Device) -> None:
        self.network = network
        self.device = device
        self.trainer: Trainer | None = None
        self._key: object = None

    def run(
        self,
        arrays: Mapping[str, Array],
        loader: Loader,
        held_out: Loader | None,
        recipe: Recipe,
        budget: int | None,
        saving: Saving,
        callbacks: Sequence[Callback],
        report: Callable[[loop.Progress], None] | None,
        build_progress: BuildProgress | None,
    ) -> History:
        """Trains from `arrays`, or from the weights that the trainer holds; see `Net.fit`."""
        if saving.path is not None:
            check_ending(saving.path, "checkpoints")
        described = recipe.described(loader)
        position, steps_done, optimizer_arrays = loop.Position(), 0, None
        if saving.resume:
            if saving.path is None:
                raise ArgumentError("fit: resume=True needs checkpoint=, the file to go on from")
            found = load_checkpoint(saving.path, self.network, described)
            if found is not None:
                self.release()
                position, steps_done, arrays, optimizer_arrays = found
        batches = {
            "train": loader.batch_sizes,
            "test": held_out.batch_sizes if held_out is not None else set(),
        }
        trainer = self._open(arrays, batches, recipe, budget, optimizer_arrays, build_progress)
        trainer.steps_done = steps_done

        def save(p: loop.Position) -> None:
            assert saving.path is not None
            save_checkpoint(saving.path, self.network, trainer, p, described, saving.metadata)

        return loop.run(
            loop.Run(
                trainer=trainer,
                loader=loader,
                epochs=recipe.epochs,
                rate=recipe.optimizer.rate,
                schedule=recipe.schedule,
                validation=held_out,
                callbacks=callbacks,
                save=save if saving.path is not None else None,
                every=saving.steps,
                report=report,
                position=position,
            )
        )

    def _open(
        self,
        arrays: Mapping[str, Array],
        batches: Mapping[str, set[int]],
        recipe: Recipe,
        budget: int | None,
        optimizer_arrays: Mapping[str, Array] | None,
        progress: BuildProgress | None,
    ) -> Trainer:
        """The trainer of the last run where it serves again, else a new one with `arrays` loaded."""
        key = (recipe.loss, recipe.optimizer.rule, budget, recipe.bn, recipe.storage)
        trainer = self.trainer if self._key == key else None
        if trainer is not None and trainer.restart(recipe.optimizer, recipe.seed, batches, progress):
            return trainer
        if self.trainer is not None:
            arrays = self.trainer.arrays()
            self.release()
        trainer = Trainer(
            self.network,
            self.device,
            recipe.loss,
            recipe.optimizer,
            seed=recipe.seed,
            budget=budget,
            bn=recipe.bn,
            storage=recipe.storage,
        )
        try:
            trainer.prepare(arrays, batches, progress, optimizer_arrays)
        except BaseException:
            trainer.release()
            raise
        self.trainer, self._key = trainer, key
        return trainer

    def release(self) -> None:
        """Frees the device memory; weights that were not read before are lost."""
        if self.trainer is not None:
            self.trainer.release()
        self.trainer = None
