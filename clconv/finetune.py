"""Fine-tuning: which parameters stay as they are, and another last layer for other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np

from .errors import ArgumentError, some_of
from .io.onnx_head import onnx_with_head
from .io.onnx_network import OnnxNetwork
from .nn import FC, Conv
from .nn.network import Network
from .packing import Array

# Layers behind the last one with weights that a new number of classes passes through.
PASSING = ("Softmax", "Dropout", "Flatten", "GlobalAvgPool", "AvgPool", "ReLU", "Add")


def frozen(network: Network, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the parameters that patterns mean: "conv1", "conv1.weight" or "conv*".

    Raises:
        ArgumentError: a pattern that means none.
    """
    names: set[str] = set()
    known = list(network.array_shapes())
    for pattern in patterns:
        found = {n for n in known if fnmatchcase(n, pattern) or fnmatchcase(n.rpartition(".")[0], pattern)}
        if not found:
            raise ArgumentError(f"freeze: {pattern!r} means no parameter; there are {some_of(known)}")
        names |= found
    return frozenset(names)


def with_head(
    network: Network, arrays: Mapping[str, Array], classes: int, seed: int
) -> tuple[Network, dict[str, Array]]:
    """The network with `classes` outputs, and its arrays: those of the last layer with weights are drawn anew.

    Raises:
        ArgumentError: the network does not end in a fully-connected layer or a convolution, or `classes` is less
            than 1.
    """
    if not isinstance(classes, int) or classes < 1:
        raise ArgumentError(f"replace_head: {classes!r} is no number of classes from 1 on")
    if isinstance(network, OnnxNetwork):
        return onnx_with_head(network, arrays, classes, np.random.default_rng(seed))
    for i in range(len(network.entries) - 1, -1, -1):
        layer = network.entries[i].layer
        if isinstance(layer, FC | Conv):
            changed = replace(layer, units=classes) if isinstance(layer, FC) else replace(layer, filters=classes)
            entry = replace(network.entries[i], layer=changed)
            other = replace(network, entries=(*network.entries[:i], entry, *network.entries[i + 1 :]))
            fresh, name = other.initial(seed), entry.name
            return other, {n: fresh[n] if n.rpartition(".")[0] == name else arrays[n] for n in fresh}
        if type(layer).__name__ not in PASSING:
            break
    raise ArgumentError("replace_head: the network does not end in FC or Conv, perhaps with a softmax behind it")
