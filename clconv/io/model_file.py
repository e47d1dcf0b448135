"""Model files and checkpoints: one safetensors file with the network's description and its arrays.

Written beside the target and moved over it at the end, so that a full disk or a crash leaves the old file.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..errors import ModelFileError
from ..files import ARCHIVE_ERRORS, replacing
from ..nn.network import Network
from ..packing import Array
from .mapped import array_in, map_file
from .onnx_network import FORMAT_KEY, OnnxNetwork

MAPPED_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}
DESCRIPTION, METADATA, TRAINING = "clconv", "clconv.metadata", "clconv.training"
ENDING = ".safetensors"
_PYTORCH = "PyTorch's torch.onnx.export writes a network as .onnx"
_TENSORFLOW = "the package tf2onnx writes TensorFlow's and Keras's networks as .onnx"
ELSEWHERE = {  # whose files have other endings, and how they become such that can be read
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _PYTORCH),
    **dict.fromkeys((".h5", ".hdf5", ".keras", ".pb", ".tflite"), _TENSORFLOW),
    ".npz": "it may hold weights alone: net.load_weights(path) reads them into a network",
}
MISLEADING = (".pt", ".pth", ".h5", ".hdf5", ".keras", ".pb", ".tflite", ".npz", ".npy", ".onnx")


@dataclass
class ModelFile:
    """What a file holds.

    Attributes:
        arrays: public arrays of parameters and state by name. metadata: class names, normalisation.
        training, optimizer: a checkpoint's counters and settings, and optimizer state by name; empty otherwise.
    """

    network: Network
    arrays: dict[str, Array]
    metadata: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Array] = field(default_factory=dict)


OPTIMIZER_PREFIX = "optimizer/"


def check_ending(path: str | os.PathLike[str], what: str, *others: str) -> None:
    """Refuses to write a model under a name that says it were something else; unknown endings are the user's own.

    Args:
        what: is written, in the plural. others: endings that would do, too, in another format.

    Raises:
        ModelFileError: says which would fit.
    """
    if Path(path).suffix.lower() in MISLEADING:
        endings = " or ".join((ENDING, *others))
        raise ModelFileError(f"{path}: {what} are {endings} files; {Path(path).with_suffix(ENDING).name} would fit")


def write_model(path: str | os.PathLike[str], model: ModelFile) -> None:
    """Writes a model or checkpoint atomically, in safetensors' format whatever the name says.

    Raises:
        ModelFileError: the file cannot be written; what was there before is intact.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in model.arrays.items()}
    tensors.update({OPTIMIZER_PREFIX + name: np.ascontiguousarray(a) for name, a in model.optimizer.items()})
    texts = {DESCRIPTION: model.network.to_json(), METADATA: json.dumps(model.metadata)}
    if model.training:
        texts[TRAINING] = json.dumps(model.training)
    _replace(path, lambda temporary: save_file(tensors, temporary, texts))


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array]) -> None:
    """Writes arrays by name, atomically: .safetensors or .npz.

    Raises:
        ModelFileError: another ending, or the file cannot be written; what was there before is intact.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    kind = _array_format(path)
    if kind == ".npz":

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.savez(file, **tensors)  # type: ignore[arg-type]  # names are the user's

        _replace(path, write)
    else:
        _replace(path, lambda temporary: save_file(tensors, temporary))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Arrays by name from a .safetensors or .npz file; of a checkpoint, the weights.

    Raises:
        ModelFileError: missing, damaged, or another ending.
    """
    _check_is_file(path)
    if _array_format(path) == ".npz":
        if not zipfile.is_zipfile(path):
            raise ModelFileError(f"{path}: not a NumPy archive, or cut off")
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except ARCHIVE_ERRORS as error:
            raise ModelFileError(f"{path}: not a readable NumPy archive: {error}") from error
    tensors, _ = _read_tensors(path)
    return {name: array for name, array in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}


def _array_format(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix.lower()
    if ending not in (".npz", ".safetensors"):
        pickled = ending in (".pt", ".pth", ".bin", ".ckpt")
        hint = "; in PyTorch, safetensors.torch.save_file(torch.load(path), ...) writes one" if pickled else ""
        raise ModelFileError(f"{path}: weights are kept in .safetensors or .npz files{hint}")
    return ending


def _replace(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    target = Path(path)
    try:
        with replacing(target) as temporary:
            write(temporary)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelFileError(f"{target}: cannot be written: {reason}; what was there is unchanged") from error


def _check_is_file(path: str | os.PathLike[str]) -> None:
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: {'not a file' if Path(path).exists() else 'there is no such file'}")


def _read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """All tensors of a safetensors file, read-only where they lie in it, and its texts."""
    try:
        with safe_open(path, framework="numpy") as file:  # checks that all offsets lie in the file
            data = map_file(Path(path))
            start = 8 + int.from_bytes(data[:8], "little")
            places = json.loads(data[8:start])
            tensors = {}
            for name in file.keys():  # noqa: SIM118  # no dictionary
                dtype, at = places[name]["dtype"], start + places[name]["data_offsets"][0]
                mapped = MAPPED_TYPES.get(dtype)
                shape = tuple(places[name]["shape"])
                if mapped is not None:
                    tensors[name] = array_in(data, mapped, shape, at)
                elif dtype == "BF16":  # the upper half of float32, which NumPy does not know
                    upper = array_in(data, np.dtype(np.uint16), shape, at)
                    tensors[name] = (upper.astype(np.uint32) << 16).view(np.float32)
                else:
                    tensors[name] = file.get_tensor(name)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type that NumPy does not know
        raise ModelFileError(f"{path}: not a readable safetensors file, or cut off: {error}") from error


def read_model(path: str | os.PathLike[str]) -> ModelFile:
    """Reads what `write_model` wrote, and checks that arrays and description agree.

    Raises:
        ModelFileError: the file is missing, truncated, no clconv model, or its arrays do not match.
    """
    where = str(path)
    _check_is_file(path)
    try:
        tensors, texts = _read_tensors(path)
    except ModelFileError as error:
        if (how := ELSEWHERE.get(Path(path).suffix.lower())) is None:
            raise
        raise ModelFileError(f"{path}: networks are read from .safetensors and .onnx files; {how}") from error
    if DESCRIPTION not in texts:
        raise ModelFileError(
            f"{where}: a safetensors file without a clconv network; load its weights into a network "
            "with net.load_weights(path)"
        )
    kind = OnnxNetwork if texts[DESCRIPTION].startswith(f'{{"{FORMAT_KEY}"') else Network
    network = kind.from_json(texts[DESCRIPTION], where)
    arrays = {name: a for name, a in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}
    optimizer = {n.removeprefix(OPTIMIZER_PREFIX): a for n, a in tensors.items() if n.startswith(OPTIMIZER_PREFIX)}
    check_arrays(network, arrays, where)
    return ModelFile(
        network,
        arrays,
        _object(texts, METADATA, where),
        _object(texts, TRAINING, where),
        optimizer,
    )


def _object(texts: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """What the text under a key says, an object in JSON; nothing where there is none."""
    try:
        found = json.loads(texts.get(key, "{}"))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: damaged: {key} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{where}: damaged: {key} is not an object in JSON but {type(found).__name__}")
    return found


def check_arrays(network: Network, arrays: Mapping[str, Array], where: str) -> None:
    """Raises ModelFileError unless `arrays` are exactly the network's parameters and state, by name and shape."""
    check_shapes(network.array_shapes(), arrays, where)


def check_shapes(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, Array], where: str) -> None:
    """Raises ModelFileError unless `arrays` have exactly these names and shapes; names all kinds of difference."""
    missing = [f"{name} {shapes[name]}" for name in sorted(set(shapes) - set(arrays))]
    extra = [f"{name} {arrays[name].shape}" for name in sorted(set(arrays) - set(shapes))]
    others = [
        f"{name} has shape {arrays[name].shape} of {arrays[name].dtype} where the network has {shape} of float32"
        for name, shape in shapes.items()
        if name in arrays and (arrays[name].shape != shape or arrays[name].dtype.kind != "f")
    ]
    problems = [f"missing {_some(missing)}; not in the network {_some(extra)}"] if missing or extra else []
    problems += [_some(others)] if others else []
    if problems:
        raise ModelFileError(f"{where}: weights do not match the network: {'; '.join(problems)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"
