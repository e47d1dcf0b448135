"""Checkpoints: a model file that also holds optimizer state, counters and history."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ModelFileError
from ..io.model_file import ModelFile, read_model, write_model
from ..nn.network import Network
from ..packing import Array
from .fit import Position
from .history import History
from .trainer import Trainer


def save_checkpoint(
    path: str | os.PathLike[str],
    network: Network,
    trainer: Trainer,
    position: Position,
    recipe: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> None:
    """Writes where a run stands, atomically. `recipe` is what a resumed run must have in common with it."""
    training = {"position": asdict(position), "steps_done": trainer.steps_done, "recipe": dict(recipe)}
    write_model(path, ModelFile(network, trainer.arrays(), dict(metadata), training, trainer.optimizer_arrays()))


def load_checkpoint(
    path: str | os.PathLike[str], network: Network, recipe: Mapping[str, Any]
) -> tuple[Position, int, dict[str, Array], dict[str, Array]] | None:
    """Position, steps done, arrays and optimizer state of a run; None where there is no file yet.

    Raises:
        ModelFileError: the file is no checkpoint, or of another network or recipe: the difference is named.
    """
    if not Path(path).exists():
        return None
    model = read_model(path)
    if not model.training:
        raise ModelFileError(f"{path}: a model without training state; a run can only resume from a checkpoint")
    if model.network.to_json() != network.to_json():
        raise ModelFileError(f"{path}: the checkpoint is of another network")
    stored = model.training["recipe"]
    for name, value in recipe.items():
        if stored.get(name) != value:
            raise ModelFileError(f"{path}: the checkpoint was made with {name}={stored.get(name)}, not {value}")
    fields = dict(model.training["position"])
    position = Position(**{**fields, "history": History(**fields["history"])})
    return position, model.training["steps_done"], model.arrays, model.optimizer
