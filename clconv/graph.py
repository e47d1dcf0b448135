"""The one graph: values, nodes in execution order, parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .packing import Array, swap_filter
from .shapes import TensorSpec

if TYPE_CHECKING:
    from ._core.layer import Layer

PERSISTENT = ("param", "state", "optimizer", "gradient", "control")


@dataclass(frozen=True)
class Parameter:
    """Where a persistent value comes from and what users see of it.

    Attributes:
        public_shape: shape of the array that users get and set.
        init: "weight", "zeros" or "ones".
        fan_in, fan_out: products summed per output, outputs that one input reaches; for the initialisation.
        swap: the public array has input and output channels exchanged (transposed convolution).
        derive: computes the public array from others by name (folded parameters), or None.
        derived_by_rows: `derive` makes a part of the array, along its first axis, from the same part of the others.
        whole: (name, first row) where the value is a part of what users see under that name.
    """

    public_shape: tuple[int, ...]
    init: str = "zeros"
    fan_in: int = 1
    fan_out: int = 1
    swap: bool = False
    derive: Callable[[Mapping[str, Array]], Array | None] | None = None
    derived_by_rows: bool = False
    whole: tuple[str, int] | None = None


@dataclass(eq=False)
class Value:
    """One tensor of the graph.

    Attributes:
        role: "input" (fed by the host), "activation" (made by `producer`), "host" (an activation that waits in host
            memory), "lent" (an input or output that stays in the caller's array), or persistent: "param", "state"
            (running statistics), "optimizer", "gradient" (gathered over parts of a batch), "control"
            (hyper-parameters and counters).
    """

    name: str
    spec: TensorSpec
    role: str = "activation"
    producer: Node | None = None
    parameter: Parameter | None = None

    @property
    def persistent(self) -> bool:
        """Whether it outlives a run."""
        return self.role in PERSISTENT

    @property
    def whole(self) -> tuple[str, int]:
        """Under which name users see it, and at which row of that."""
        return (self.parameter and self.parameter.whole) or (self.name, 0)

    @property
    def hosted(self) -> bool:
        """Whether it takes host memory, none of the device's."""
        return self.role in ("host", "lent")

    @property
    def lent(self) -> bool:
        """Whether it takes no memory but the caller's."""
        return self.role == "lent"

    def __repr__(self) -> str:
        return f"<{self.name} {self.spec}>"


Operand = Value | None | tuple[Value, ...]  # a tuple: pieces along the channels, read as one


@dataclass(eq=False)
class Node:
    """One layer applied to values. `name` is the user's layer it belongs to."""

    layer: Layer
    inputs: tuple[Operand, ...]
    outputs: tuple[Value, ...]
    name: str

    @property
    def reads(self) -> tuple[Value, ...]:
        """All values it reads, pieces one by one, absent operands left out."""
        flat: list[Value] = []
        for operand in self.inputs:
            if isinstance(operand, tuple):
                flat.extend(operand)
            elif operand is not None:
                flat.append(operand)
        return tuple(flat)

    def input_specs(self) -> list[TensorSpec | None]:
        """Specs of the inputs; pieces are given as the spec of the whole."""
        return [operand_spec(operand) for operand in self.inputs]

    def __repr__(self) -> str:
        return f"<{self.name}: {type(self.layer).__name__}>"


def operand_spec(operand: Operand) -> TensorSpec | None:
    """The spec of an operand: for pieces, with their channels added up."""
    if operand is None or isinstance(operand, Value):
        return None if operand is None else operand.spec
    n, _, h, w = operand[0].spec.shape
    return TensorSpec((n, sum(piece.spec.shape[1] for piece in operand), h, w))


@dataclass
class Graph:
    """Nodes in execution order, with the values that the host feeds and fetches."""

    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Value] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    persistent: dict[str, Value] = field(default_factory=dict)

    def input(self, name: str, spec: TensorSpec) -> Value:
        """A value that the host feeds before each run."""
        assert name not in self.inputs, name
        self.inputs[name] = Value(name, spec, "input")
        return self.inputs[name]

    def persist(self, name: str, spec: TensorSpec, role: str, parameter: Parameter | None = None) -> Value:
        """A value that outlives runs, by its unique name."""
        assert name not in self.persistent, name
        self.persistent[name] = Value(name, spec, role, parameter=parameter)
        return self.persistent[name]

    def add(self, layer: Layer, inputs: Iterable[Operand], name: str) -> tuple[Value, ...]:
        """Appends a layer and returns its outputs; raises ShapeError where shapes do not fit."""
        operands = tuple(inputs)
        specs = layer.infer([operand_spec(o) for o in operands])
        node = Node(layer, operands, (), name)
        labels = (f"{name}.{out}" if len(specs) > 1 else name for out in layer.outputs)
        node.outputs = tuple(Value(label, spec, producer=node) for label, spec in zip(labels, specs, strict=True))
        self.nodes.append(node)
        return node.outputs

    def readers(self) -> dict[Value, list[Node]]:
        """Which nodes read each value."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(node.reads):
                found.setdefault(value, []).append(node)
        return found

    def rewire(self, old: Value, new: Operand) -> None:
        """Makes every reader of `old`, and the graph's outputs, read `new` instead."""
        for node in self.nodes:
            if old in node.reads:
                node.inputs = tuple(replaced(operand, old, new) for operand in node.inputs)
        for name, value in self.outputs.items():
            if value is old:
                assert isinstance(new, Value)
                self.outputs[name] = new

    def prune(self) -> None:
        """Drops nodes whose outputs nobody reads and that update nothing, and values nobody uses."""
        needed = set(self.outputs.values())
        kept: list[Node] = []
        for node in reversed(self.nodes):
            if node.layer.updates or any(value in needed for value in node.outputs):
                kept.append(node)
                needed.update(node.reads)
        self.nodes = kept[::-1]
        self.persistent = {name: value for name, value in self.persistent.items() if value in needed}


def replaced(operand: Operand, old: Value, new: Operand) -> Operand:
    """An operand with another value, or its pieces, in place of one."""
    if isinstance(operand, tuple):
        flat: list[Value] = []
        for piece in operand:
            swapped = new if piece is old else piece
            flat.extend(swapped if isinstance(swapped, tuple) else [swapped])  # type: ignore[list-item]
        return tuple(flat)
    return new if operand is old else operand


def public_array(value: Value, arrays: Mapping[str, Array]) -> Array | None:
    """The public array of a persistent value: computed from others, or given by name; None where there is none."""
    if value.parameter and value.parameter.derive:
        return value.parameter.derive(arrays)
    return arrays.get(value.name)


def to_storage(array: Array, value: Value) -> Array:
    """A public array in the shape of the value's spec."""
    if value.parameter and value.parameter.swap:
        array = swap_filter(np.asarray(array).reshape(value.parameter.public_shape), value.spec.groups)
    # What is stored as float16 becomes so in parts, when it is packed.
    dtype = "float32" if value.spec.dtype == "float16" else value.spec.dtype
    return np.asarray(array, dtype).reshape(value.spec.shape)


def from_storage(array: Array, value: Value) -> Array:
    """The inverse of `to_storage`."""
    if value.parameter is None:
        return array
    if value.parameter.swap:
        array = swap_filter(array, value.spec.groups)
    return array.reshape(value.parameter.public_shape)
