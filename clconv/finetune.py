"""Fine-tuning: which parameters stay as they are, and another last layer for other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np

from .errors import ArgumentError, some_of
from .nn.network import Network
from .packing import Array


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
    if not isinstance(classes, (int, np.integer)) or isinstance(classes, bool) or classes < 1:
        raise ArgumentError(f"replace_head: {classes!r} is no number of classes from 1 on")
    return network.with_head(arrays, int(classes), seed)
