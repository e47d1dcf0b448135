"""What a public layer is: a frozen description that can be put into a graph, and called on symbols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import reference
from ..errors import ArgumentError
from ..graph import Graph, Operand, Parameter, Value
from ..shapes import TensorSpec

if TYPE_CHECKING:
    from .symbol import Symbol

IntPair = int | tuple[int, int]
PadLike = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]

LAYERS: dict[str, type[Layer]] = {}  # public layers by class name; files and patterns find them here


class Build:
    """Puts one layer into a graph.

    Attributes:
        train: which of the two modes is built. index: of the layer in its network; dropout's random
            numbers depend on it. shapes: public shapes of the layer's parameters and state, by name.
    """

    def __init__(
        self, graph: Graph, name: str, *, train: bool, index: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.graph = graph
        self.name = name
        self.train = train
        self.index = index
        self.shapes = shapes

    def add(self, layer: Any, *inputs: Operand) -> Value:
        """Adds an operator and returns its first output."""
        return self.graph.add(layer, inputs, self.name)[0]

    def param(
        self,
        name: str,
        spec: TensorSpec | None = None,
        *,
        init: str = "zeros",
        fans: tuple[int, int] = (1, 1),
        swap: bool = False,
        role: str = "param",
    ) -> Value:
        """The persistent value `layer.name`.

        Args:
            spec: how it is stored; left out, one value per channel. init: "zeros", "ones" or "weight", for
                which `fans` (fan-in, fan-out) count. swap: see `Parameter`. role: "param" or "state".
        """
        shape = self.shapes[name]
        spec = spec or TensorSpec((1, *shape, 1, 1))
        return self.graph.persist(f"{self.name}.{name}", spec, role, Parameter(shape, init, *fans, swap))


@dataclass(frozen=True)
class Layer:
    """Base of the public layers. Arguments and shapes are checked against the layer's reference.

    Every layer takes `name`; left out, it is the layer's kind and a number: "conv1", "conv2", "fc1".
    """

    name: str | None = field(default=None, kw_only=True)

    kind: ClassVar[str] = "layer"  # stem of default names

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        LAYERS[cls.__name__] = cls

    def __post_init__(self) -> None:
        for name, value in self.arguments.items():
            object.__setattr__(self, name, plain(value))
        _ = self.settings

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}

    @property
    def reference(self) -> reference.Layer:
        """The formula that the layer has to agree with."""
        return reference.LAYERS[type(self).__name__]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, checked and normalised: numbers as pairs, paddings as `pads`."""
        return self.reference.settings(self.arguments)

    def build(self, b: Build, *xs: Value) -> Value:
        """Adds the layer's operators to a graph; returns its output."""
        raise NotImplementedError

    def apply(self, graph: Graph, name: str, *xs: Value, train: bool, index: int = 0) -> Value:
        """Checks the inputs, adds the layer to a graph under a name and returns its output.

        Raises:
            ShapeError, ArgumentError: the inputs do not fit; the message begins with the layer's kind.
        """
        shapes = [x.spec.shape for x in xs]
        expected = self.reference.output_shape(self.arguments, shapes)
        if train:
            self.reference.check_training(self.arguments, shapes)
        stored = {
            **self.reference.parameters(self.arguments, shapes),
            **self.reference.state(self.arguments, shapes),
        }
        y = self.build(Build(graph, name, train=train, index=index, shapes=stored), *xs)
        assert y.spec.shape == expected, (name, y.spec, expected)
        return y

    def __call__(self, *symbols: Symbol) -> Symbol:
        """Applies the layer to symbols: how networks that are no chains are written."""
        from .symbol import Symbol

        return Symbol.of(self, symbols)

    def describe(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, fit for JSON."""
        defaults = {f.name: f.default for f in fields(self)}
        return {
            name: value
            for name, value in self.arguments.items()
            if defaults[name] is MISSING or value != defaults[name]
        }


def layer_from(kind: str, arguments: Mapping[str, Any], name: str | None = None) -> Layer:
    """The inverse of `describe`.

    Raises:
        ArgumentError: there is no such layer, or it does not take these arguments.
    """
    if kind not in LAYERS:
        raise ArgumentError(f"there is no layer {kind!r}; there are {', '.join(sorted(LAYERS))}")
    known = {f.name for f in fields(LAYERS[kind])}
    unknown = sorted(set(arguments) - known)
    if unknown:
        raise ArgumentError(f"{kind}: it has no argument {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    return LAYERS[kind](**arguments, name=name)


def plain(value: Any) -> Any:
    """An argument as Python writes it: NumPy's numbers as Python's, lists and arrays as tuples."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(plain(v) for v in value) if isinstance(value, list | tuple) else value
