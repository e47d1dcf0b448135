"""A network as a description: named layers and what each reads. Every graph is made from it.

Two networks are equal when they compute the same with the same names: `of` and `from_json` store each layer
with its final name and its arguments in their simplest form (kernel=3 for (3, 3)).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ArgumentError, ModelFileError, ShapeError
from ..graph import Graph, Parameter
from ..packing import Array
from ..shapes import TensorSpec
from .base import Layer, layer_from, plain
from .symbol import Input, Symbol

FORMAT = 1  # of the JSON description

RECTIFIERS = ("ReLU", "LeakyReLU", "ReLU6")
# Layers whose output has the shape of their first input.
SAME_SHAPE = (*RECTIFIERS, "Add", "BatchNorm", "Dropout", "LRN", "Sigmoid", "Softmax", "Tanh")
# Layers that pass a distribution on about as it is: what follows them decides the initialisation.
TRANSPARENT = (
    *("Add", "Concat", "BatchNorm", "LRN", "Dropout", "Flatten"),
    *("MaxPool", "AvgPool", "L2Pool", "GlobalAvgPool"),
)
# Layers whose outputs may be classes, with the argument that counts them; layers behind them that keep the classes.
HEADS = {"FC": "units", "Conv": "filters"}
PASSING = ("Softmax", "Dropout", "Flatten", "GlobalAvgPool", "AvgPool", "ReLU", "Add")


@dataclass(frozen=True)
class Entry:
    """One layer of a network: its name and the names that it reads ("input" is the image)."""

    name: str
    layer: Layer
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """Layers in execution order; the last one's output is the network's. `input_shape` is (C, H, W).

    `frozen`: names of parameters that training leaves as they are.
    """

    input_shape: tuple[int, int, int]
    entries: tuple[Entry, ...]
    frozen: frozenset[str] = frozenset()

    @classmethod
    def chain(cls, layers: Iterable[Layer], input_shape: Sequence[int]) -> Network:
        """Layers one behind the other.

        Raises:
            ArgumentError: what is listed is no layer, or a name is used twice.
            ShapeError: `input_shape` is not (C, H, W), or a layer does not fit; its name comes first.
        """
        items = list(layers)
        for i, layer in enumerate(items):
            if not isinstance(layer, Layer):
                raise ArgumentError(f"Net: item {i} of the list is {type(layer).__name__}, not a layer")
        input_shape = plain(input_shape)
        if not isinstance(input_shape, Sequence) or len(input_shape) != 3:
            raise ShapeError(f"Net: input_shape {input_shape!r} is not (C, H, W)")
        symbol = Input(*input_shape)
        for name, layer in zip(_names(items), items, strict=True):
            try:
                symbol = layer(symbol)
            except (ShapeError, ArgumentError) as error:
                raise type(error)(f"layer {name}: {error}") from error
        return cls.of(symbol)

    @classmethod
    def of(cls, output: Symbol) -> Network:
        """The network that computes a symbol.

        Layers run in the order of a walk from the output that finishes one input before it begins the next.

        Raises:
            ArgumentError: no layer, several inputs, or a name used twice.
        """
        if not isinstance(output, Symbol):
            raise ArgumentError(f"Net: {type(output).__name__} is not the output of a layer")
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
            raise ArgumentError(
                f"Net: {len(sources)} inputs and {len(order) - len(sources)} layers; "
                "a network has one input and at least one layer"
            )
        names = _names([symbol.layer for symbol in order if symbol.layer is not None])
        labels = {sources[0]: "input"}
        entries = []
        for symbol in order:
            if symbol.layer is not None:
                labels[symbol] = names.pop(0)
                inputs = tuple(labels[s] for s in symbol.inputs)
                entries.append(Entry(labels[symbol], _settled(symbol.layer, labels[symbol]), inputs))
        return cls(sources[0].shape, tuple(entries))

    def graph(self, batch: int, *, train: bool) -> Graph:
        """A fresh graph for `batch` images; its input is "x" (planar), its output "y".

        Raises:
            ShapeError, ArgumentError: from the layer that does not fit; its name comes first.
        """
        if batch < 1:
            raise ArgumentError(f"batch: {batch} images; at least 1 is needed")
        graph = Graph()
        values = {"input": graph.input("x", TensorSpec((batch, *self.input_shape), layout="plain"))}
        for index, entry in enumerate(self.entries):
            try:
                values[entry.name] = entry.layer.apply(
                    graph, entry.name, *(values[name] for name in entry.inputs), train=train, index=index
                )
            except (ShapeError, ArgumentError) as error:
                raise type(error)(f"layer {entry.name}: {error}") from error
        graph.outputs["y"] = values[self.entries[-1].name]
        self._freeze(graph, train)
        return graph

    def _freeze(self, graph: Graph, train: bool) -> None:
        """In a graph for training, makes frozen parameters state, which no update touches."""
        for name in self.frozen & graph.persistent.keys() if train else ():
            graph.persistent[name].role = "state"

    @property
    def fixed_batch(self) -> int | None:
        """The only number of images that the network takes at once; None where any will do."""
        return None

    @property
    def notes(self) -> list[str]:
        """What its file says about itself, for people."""
        return []

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image, whatever the order of the input's axes."""
        return self.input_shape

    def with_image(self, size: tuple[int, int]) -> Network:
        """The same network for images of (H, W) pixels."""
        return self.with_input((self.image_shape[0], *size))

    @property
    def open_size(self) -> bool:
        """Whether images of any height and width are taken."""
        return False

    @property
    def channels_last(self) -> bool:
        """Whether the input is (N, H, W, C)."""
        return False

    @property
    def batch(self) -> int:
        """Images for a look at shapes."""
        return self.fixed_batch or 1

    def fitted(self, shape: Sequence[int], who: str = "net") -> Network:
        """The network for images (N, ...) of this shape.

        Raises:
            ShapeError: it does not take them.
        """
        if tuple(shape[1:]) != self.input_shape:
            wanted = ", ".join(map(str, self.input_shape))
            raise ShapeError(f"{who}: images of shape {tuple(shape)} where (N, {wanted}) is expected")
        return self

    def output_types(self, batch: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shape and type of each output by name for `batch` images, the first one first."""
        shape = (batch, *self.output_shape)
        return {"y": (shape[:2] if self.flat_output else shape, np.dtype(np.float32))}

    def outputs(self, results: Mapping[str, Array], batch: int) -> dict[str, Array]:
        """The outputs by name, from what a run of the graph for `batch` images returned."""
        y = results["y"]
        return {"y": y.reshape(y.shape[:2]) if self.flat_output else y}

    @property
    def final(self) -> str:
        """What the first output is the result of: "Softmax", "Sigmoid" or another layer's kind."""
        return type(self.entries[-1].layer).__name__

    @property
    def contents(self) -> str:
        """What it is made of, in a few words."""
        return f"{len(self.entries)} layers"

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(K, P, Q) of the output."""
        return self.graph(1, train=False).outputs["y"].spec.shape[1:]  # type: ignore[return-value]

    @property
    def flat_output(self) -> bool:
        """Whether the output is one vector per image: (N, C) outside, (N, C, 1, 1) inside."""
        by_name = {entry.name: entry for entry in self.entries}
        entry = self.entries[-1]
        while type(entry.layer).__name__ in SAME_SHAPE and entry.inputs[0] != "input":
            entry = by_name[entry.inputs[0]]
        return type(entry.layer).__name__ in ("FC", "Flatten", "GlobalAvgPool")

    def with_input(self, input_shape: tuple[int, int, int]) -> Network:
        """The same layers for images of another size."""
        return replace(self, input_shape=_image_shape(input_shape))

    def with_frozen(self, names: frozenset[str]) -> Network:
        """The same network with other parameters that training leaves as they are."""
        return replace(self, frozen=names)

    def with_head(self, arrays: Mapping[str, Array], classes: int, seed: int) -> tuple[Network, dict[str, Array]]:
        """The network with `classes` outputs, and its arrays: those of the last layer with weights are drawn anew.

        Raises:
            ArgumentError: it does not end in a layer whose outputs are classes.
        """
        for i in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[i]
            kind = type(entry.layer).__name__
            if kind in HEADS:
                count: dict[str, Any] = {HEADS[kind]: classes}
                changed = replace(entry, layer=replace(entry.layer, **count))
                other = replace(self, entries=(*self.entries[:i], changed, *self.entries[i + 1 :]))
                fresh = other.initial(seed)
                return other, {n: fresh[n] if n.rpartition(".")[0] == entry.name else arrays[n] for n in fresh}
            if kind not in PASSING:
                break
        raise ArgumentError("replace_head: the network does not end in FC or Conv, perhaps with a softmax behind it")

    def array_shapes(self) -> dict[str, tuple[int, ...]]:
        """Public shapes of all parameters and state, by name."""
        values = self.graph(1, train=False).persistent
        return {name: value.parameter.public_shape for name, value in values.items() if value.parameter}

    def initial(self, seed: int) -> dict[str, Array]:
        """Public arrays of all parameters and state, by name: He where a rectifier follows, else Xavier.

        A weight's variance is 2 / (1 + slope^2) / fan-in in front of a ReLU, leaky or not (He et al. 2015),
        and 2 / (fan-in + fan-out) elsewhere (Glorot and Bengio 2010). Each array depends on the seed and
        its name only.

        Raises:
            ArgumentError: the seed is no whole number from 0.
        """
        if not isinstance(seed, int) or seed < 0:
            raise ArgumentError(f"seed: {seed!r} is not a whole number >= 0")
        slopes = self._rectified()
        arrays = {}
        for name, value in self.graph(1, train=False).persistent.items():
            assert value.parameter is not None
            layer = name.rpartition(".")[0]
            arrays[name] = _draw(name, value.parameter, seed, slopes.get(layer))
        return arrays

    def _rectified(self) -> dict[str, float]:
        """The slope below zero of the rectifier behind each layer; `TRANSPARENT` ones may be in between."""
        slopes: dict[str, float] = {}
        for entry in reversed(self.entries):
            kind = type(entry.layer).__name__
            slope = entry.layer.arguments.get("slope", 0.0) if kind in RECTIFIERS else None
            if kind in TRANSPARENT:
                slope = slopes.get(entry.name)
            if slope is not None:
                for name in entry.inputs:
                    slopes.setdefault(name, slope)
        return slopes

    def to_json(self) -> str:
        """The description as JSON."""
        layers = [
            {
                "name": entry.name,
                "kind": type(entry.layer).__name__,
                "inputs": entry.inputs,
                "arguments": entry.layer.describe(),
            }
            for entry in self.entries
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
            newer = described["format"] > FORMAT
            if not newer:
                network = cls(_image_shape(described["input_shape"]), tuple(map(_entry, described["layers"])))
                network._check_names()
                network.graph(1, train=False)
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{where}: not a network description: {error}") from error
        if newer:
            found = described["format"]
            raise ModelFileError(f"{where}: format {found} is newer than this clconv reads ({FORMAT})")
        return network

    def _check_names(self) -> None:
        known = {"input"}
        for entry in self.entries:
            if entry.name in known:
                raise ArgumentError(f"layer {entry.name}: the name is used twice, or reserved")
            missing = ", ".join(name for name in entry.inputs if name not in known)
            if missing or not entry.inputs:
                reads = f"{missing}, made by no layer before it" if missing else "nothing"
                raise ArgumentError(f"layer {entry.name}: reads {reads}")
            known.add(entry.name)
        if not self.entries:
            raise ArgumentError("there is no layer")


def _image_shape(sizes: Sequence[int]) -> tuple[int, int, int]:
    if len(sizes) != 3:
        raise ShapeError(f"input_shape {sizes} is not (C, H, W)")
    return Input(*sizes).shape


def _entry(item: Mapping[str, Any]) -> Entry:
    name = item["name"]
    layer = layer_from(item["kind"], item["arguments"], name)
    _check_name(name)
    return Entry(name, _settled(layer, name), tuple(item["inputs"]))


def _settled(layer: Layer, name: str) -> Layer:
    """The layer with its final name and its arguments in their simplest form."""
    simple = {key: _simplest(value) for key, value in layer.arguments.items()}
    if simple.get("stride") == simple.get("kernel") and layer.reference.defaults.get("stride", 1) is None:
        simple["stride"] = None  # pooling: windows that touch
    return replace(layer, **simple, name=name)


def _simplest(value: Any) -> Any:
    """(3, 3) -> 3, ((1, 1), (2, 2)) -> (1, 2); ((0, 1), (0, 1)) stays; lists become tuples."""
    if not isinstance(value, list | tuple):
        return value
    parts = tuple(tuple(part) if isinstance(part, list | tuple) else part for part in value)
    if all(isinstance(part, tuple) and len(set(part)) == 1 for part in parts):
        parts = tuple(part[0] for part in parts)
    flat = not any(isinstance(part, tuple) for part in parts)
    return parts[0] if flat and len(parts) == 2 and parts[0] == parts[1] else parts


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[\w.\-]+", name):
        raise ArgumentError(f"layer name {name!r}: letters, digits, '_', '-' and '.' are allowed")


def _names(layers: Sequence[Layer]) -> list[str]:
    """The given names, and "kind" + number for the rest."""
    given = [layer.name for layer in layers if layer.name is not None]
    for chosen in given:
        _check_name(chosen)
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


def _draw(name: str, parameter: Parameter, seed: int, slope: float | None) -> Array:
    """An initial array; `slope` is that of the rectifier behind it, None without one."""
    if parameter.init == "zeros":
        return np.zeros(parameter.public_shape, np.float32)
    if parameter.init == "ones":
        return np.ones(parameter.public_shape, np.float32)
    if slope is not None:
        variance = 2 / (1 + slope**2) / parameter.fan_in
    else:
        variance = 2 / (parameter.fan_in + parameter.fan_out)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    drawn: Array = rng.standard_normal(parameter.public_shape, np.float32)
    drawn *= np.float32(np.sqrt(variance))
    return drawn
