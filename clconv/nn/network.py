"""A network as a description: named layers and what each reads. Every graph is made from it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._core.activation import Activation
from ..errors import ArgumentError, ClconvError, ModelFileError, ShapeError
from ..graph import Graph, Node, Parameter, Value
from ..packing import Array
from ..shapes import TensorSpec
from .base import Layer, layer_from
from .symbol import Input, Symbol

FORMAT = 1  # of the JSON description


@dataclass(frozen=True)
class Entry:
    """One layer of a network: its name and the names that it reads ("input" is the image)."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """Layers in execution order; the last one's output is the network's. `input_shape` is (C, H, W)."""

    input_shape: tuple[int, int, int]
    entries: tuple[Entry, ...]

    @classmethod
    def chain(cls, layers: Iterable[Layer], input_shape: Sequence[int]) -> Network:
        """Layers one behind the other."""
        items = list(layers)
        for i, layer in enumerate(items):
            if not isinstance(layer, Layer):
                raise ArgumentError(f"Net: item {i} of the list is {type(layer).__name__}; layers are expected")
        shape = tuple(int(n) for n in input_shape)
        if len(shape) != 3:
            raise ShapeError(f"Net: input_shape {shape} is not (C, H, W)")
        symbol = Input(*shape)
        for layer in items:
            symbol = layer(symbol)
        return cls.of(symbol)

    @classmethod
    def of(cls, output: Symbol) -> Network:
        """The network that computes a symbol.

        Raises:
            ArgumentError: no layer, several inputs, or a name used twice.
        """
        order: list[Symbol] = []
        seen: set[Symbol] = set()
        stack = [(output, False)]
        while stack:
            symbol, done = stack.pop()
            if done:
                order.append(symbol)
            elif symbol not in seen:
                seen.add(symbol)
                stack.append((symbol, True))
                stack.extend((s, False) for s in reversed(symbol.inputs))
        sources = [symbol for symbol in order if symbol.layer is None]
        if len(sources) != 1 or len(order) < 2:
            raise ArgumentError(f"Net: {len(sources)} inputs and {len(order) - len(sources)} layers; "
                                "a network has one input and at least one layer")
        names = _names([symbol.layer for symbol in order if symbol.layer is not None])
        labels = {sources[0]: "input"}
        entries = []
        for symbol in order:
            if symbol.layer is not None:
                labels[symbol] = names.pop(0)
                entries.append(Entry(labels[symbol], symbol.layer, tuple(labels[s] for s in symbol.inputs)))
        return cls(sources[0].shape, tuple(entries))

    def graph(self, batch: int, *, train: bool) -> Graph:
        """A fresh graph for `batch` images; its input is "x" (planar), its output "y".

        Raises:
            ShapeError, ArgumentError: from the layer that does not fit; its name comes first.
        """
        graph = Graph()
        values = {"input": graph.input("x", TensorSpec((batch, *self.input_shape), layout="plain"))}
        for index, entry in enumerate(self.entries):
            try:
                values[entry.name] = entry.layer.apply(
                    graph, entry.name, *(values[name] for name in entry.inputs), train=train, index=index
                )
            except ClconvError as error:
                raise type(error)(f"layer {entry.name}: {error}") from error
        graph.outputs["y"] = values[self.entries[-1].name]
        return graph

    def with_input(self, input_shape: tuple[int, int, int]) -> Network:
        """The same layers for images of another size."""
        return replace(self, input_shape=input_shape)

    def initial(self, seed: int) -> dict[str, Array]:
        """Public arrays of all parameters and state, by name: He where a ReLU follows, else Xavier.

        Each array depends on the seed and its name only (Glorot and Bengio 2010; He et al. 2015).
        """
        graph = self.graph(1, train=True) if self._trains_alone() else self.graph(2, train=True)
        readers = graph.readers()
        arrays = {}
        for name, value in graph.persistent.items():
            assert value.parameter is not None
            rectified = any(_feeds_relu(node, readers) for node in readers.get(value, []))
            arrays[name] = _draw(name, value.parameter, seed, rectified)
        return arrays

    def _trains_alone(self) -> bool:
        """Whether training accepts a single image (batch normalisation over 1x1 images does not)."""
        try:
            self.graph(1, train=True)
        except ClconvError:
            return False
        return True

    def to_json(self) -> str:
        """The description as JSON."""
        layers = [
            {"name": e.name, "kind": type(e.layer).__name__, "inputs": e.inputs, "arguments": e.layer.describe()}
            for e in self.entries
        ]
        return json.dumps({"format": FORMAT, "input_shape": self.input_shape, "layers": layers})

    @classmethod
    def from_json(cls, text: str, where: str) -> Network:
        """The inverse of `to_json`; `where` names the file in messages.

        Raises:
            ModelFileError: the text is no description of a network that this version knows.
        """
        try:
            described = json.loads(text)
            if described["format"] > FORMAT:
                raise ModelFileError(f"{where}: format {described['format']} is newer than this clconv reads ({FORMAT})")
            entries = tuple(_entry(item) for item in described["layers"])
            network = cls(tuple(described["input_shape"]), entries)
            network._check_names()
            network.graph(1, train=False)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{where}: not a network description: {error}") from error
        return network

    def _check_names(self) -> None:
        known = {"input"}
        for entry in self.entries:
            missing = [name for name in entry.inputs if name not in known]
            if missing or entry.name in known:
                raise ArgumentError(f"layer {entry.name} reads {missing} before they exist, or its name is used twice")
            known.add(entry.name)


def _entry(item: Mapping[str, Any]) -> Entry:
    return Entry(item["name"], layer_from(item["kind"], item["arguments"], item["name"]), tuple(item["inputs"]))


def _names(layers: list[Layer]) -> list[str]:
    """The given names, and "kind" + number for the rest."""
    given = [layer.name for layer in layers if layer.name is not None]
    taken = set(given) | {"input"}
    if len(taken) != len(given) + 1:
        twice = sorted(name for name in set(given) if given.count(name) > 1 or name == "input")
        raise ArgumentError(f"Net: the name {', '.join(twice)} is used more than once, or reserved")
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        name = layer.name
        while name is None or (layer.name is None and name in taken):
            counts[layer.kind] = counts.get(layer.kind, 0) + 1
            name = f"{layer.kind}{counts[layer.kind]}"
        taken.add(name)
        names.append(name)
    return names


# Layers that pass a distribution on about as it is: what follows them decides the initialisation.
_TRANSPARENT = ("BatchNorm", "Dropout", "Pool", "Flatten", "Add", "LRN")
_RECTIFIERS = ("relu", "leaky_relu", "relu6")


def _feeds_relu(node: Node, readers: Mapping[Value, list[Node]]) -> bool:
    for reader in readers.get(node.outputs[0], []):
        if type(reader.layer) is Activation:
            return reader.layer.activation in _RECTIFIERS
        if type(reader.layer).__name__.startswith(_TRANSPARENT) and _feeds_relu(reader, readers):
            return True
    return False


def _draw(name: str, parameter: Parameter, seed: int, rectified: bool) -> Array:
    if parameter.init == "zeros":
        return np.zeros(parameter.public_shape, np.float32)
    if parameter.init == "ones":
        return np.ones(parameter.public_shape, np.float32)
    if rectified:
        deviation = np.sqrt(2 / parameter.fan_in)
    else:
        deviation = np.sqrt(2 / (parameter.fan_in + parameter.fan_out))
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return rng.standard_normal(parameter.public_shape, np.float32) * np.float32(deviation)
