"""What users hand to a network, checked and in the form that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .data import ArrayDataset, Dataset, Normalization, check_labels
from .errors import ArgumentError, ShapeError, some_of
from .nn import pattern
from .nn.base import Layer
from .nn.network import Network
from .nn.symbol import Symbol
from .packing import Array


def network_of(description: Any, input_shape: Sequence[int] | None) -> Network:
    """The network that a pattern, layers or a symbol describe; see `Net`."""
    if isinstance(description, Network):
        return description
    if isinstance(description, str):
        return pattern.parse(description)
    if isinstance(description, Symbol):
        return Network.of(description)
    if isinstance(description, Layer):
        description = [description]
    if not isinstance(description, Sequence):
        raise ArgumentError(
            f"Net: {type(description).__name__} describes no network; a pattern, a list of layers or a symbol would"
        )
    if input_shape is None:
        raise ArgumentError("Net: a list of layers needs input_shape=(C, H, W)")
    return Network.chain(description, input_shape)


def images(network: Network, normalization: Normalization | None, x: Array, who: str) -> Array:
    """Images as float32 (N, C, H, W); uint8 ones are normalised, or divided by 255.

    Raises:
        ArgumentError: another type. ShapeError: not the network's input shape.
    """
    x = np.asarray(x)
    if x.dtype == np.uint8:
        x = ArrayDataset(x, np.zeros(len(x), np.int32), name=who).images(np.arange(len(x)))
        x = (normalization or Normalization()).apply(x)
    if x.dtype != np.float32:
        raise ArgumentError(f"{who}: images of type {x.dtype}; float32 (N, C, H, W) or uint8 are accepted")
    network.fitted(x.shape, who)
    return x


def labelled(network: Network, x: Array | Dataset, y: Array | None, loss: str, who: str) -> Dataset:
    """Labelled images as a data set that fits the network and the loss.

    Raises:
        ArgumentError: labels missing or given twice. ShapeError: not the network's input shape.
        DataError: empty, or a label that is no class of the network.
    """
    if isinstance(x, Dataset):
        if y is not None:
            raise ArgumentError(f"{who}: a Dataset has its labels; y must not be given")
        dataset = x
    else:
        if y is None:
            raise ArgumentError(f"{who}: labels y are missing")
        dataset = ArrayDataset(np.asarray(x), targets(network, y, who) if loss == "mse" else np.asarray(y), name=who)
    if tuple(dataset.shape) != network.input_shape:
        raise ShapeError(f"{who}: images of {dataset.shape} where {network.input_shape} is expected")
    if loss != "mse":
        check_labels(dataset.labels, network.output_shape[0], who)
    return dataset


def targets(network: Network, y: Array, who: str) -> Array:
    """Targets of "mse" as float32 of the output's shape; axes of length 1 may be left out.

    Raises:
        ShapeError: another shape.
    """
    given = np.asarray(y, np.float32)
    shape = (len(given), *network.output_shape)
    if given.size != np.prod(shape):
        raise ShapeError(f"{who}: targets of shape {given.shape} where the output has {shape}")
    return given.reshape(shape)


def replacements(network: Network, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of arrays that may replace some of a network's, as float32.

    Raises:
        ArgumentError: a name or shape that the network does not have, or no numbers.
    """
    if not isinstance(arrays, Mapping):
        raise ArgumentError(f"set_weights: {type(arrays).__name__} is no dictionary of arrays by name")
    shapes, found = network.array_shapes(), {}
    for name, array in arrays.items():
        if name not in shapes:
            raise ArgumentError(f"set_weights: the network has no {name!r}; it has {some_of(shapes)}")
        if np.shape(array) != shapes[name]:
            raise ArgumentError(f"set_weights: {name} has shape {shapes[name]}, not {np.shape(array)}")
        if np.asarray(array).dtype.kind not in "fiub":
            raise ArgumentError(f"set_weights: {name} holds {np.asarray(array).dtype}, not numbers")
        with np.errstate(over="ignore"):
            found[name] = np.array(array, np.float32)
        if np.isinf(found[name]).any() and not np.isinf(array).any():
            raise ArgumentError(f"set_weights: {name} holds numbers beyond {np.finfo(np.float32).max:.3g}, float32's")
    return found
