"""Slices of weights that the host holds: blocks of output channels, brought to the device and computed in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..graph import Node, Value
from ..packing import slice_blocks
from ..shapes import TensorSpec, blocks

Channels = tuple[int, int]  # (begin, end)


@dataclass(frozen=True)
class Slicing:
    """How the weights of a node come apart.

    Attributes:
        weight: what does. channels, nbytes, count: output channels and bytes of the smallest slice, and how many of
            these there are.
        group: output channels that read the same input channels; `depth`: how many input channels those are.
    """

    weight: Value
    channels: int
    nbytes: int
    count: int
    group: int
    depth: int

    def spec(self, channels: int) -> TensorSpec:
        """The spec of a slice of so many output channels."""
        whole = self.weight.spec
        return TensorSpec((channels, *whole.shape[1:]), whole.dtype, whole.layout)

    def size(self, nbytes: int) -> int:
        """Output channels of slices of at most so many bytes, as few and as even as may be; else of the smallest."""
        units, most = -(-self.group // self.channels), max(1, nbytes // self.nbytes)
        return min(-(-units // -(-units // most)) * self.channels, self.group)

    def slices(self, size: int) -> Iterator[tuple[Channels, Channels | None]]:
        """All slices of so many output channels, with the input channels that each reads (None: all)."""
        k = self.weight.spec.shape[0]
        for first in range(0, k, self.group):
            inputs = first // self.group * self.depth
            for begin in range(first, first + self.group, size):
                end = min(begin + size, first + self.group)
                yield (begin, end), (None if self.group == k else (inputs, inputs + self.depth))

    def counted(self, nbytes: int) -> int:
        """How many slices of at most so many bytes there are."""
        return self.weight.spec.shape[0] // self.group * -(-self.group // self.size(nbytes))


def slicing(node: Node, block: int) -> Slicing | None:
    """How the weights of a node come apart; None where they do not, or are a single slice."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if not (node.layer.slices and isinstance(weight, Value) and weight.persistent):
        return None
    spec, (x, *_) = weight.spec, node.inputs
    unit = slice_blocks(spec, block) * block
    if not unit or (spec.groups > 1 and not (isinstance(x, Value) and _single_image(x.spec))):
        return None
    count = blocks(spec.shape[0], unit)
    if count == 1:
        return None
    return Slicing(weight, unit, spec.nbytes(block) // count, count, spec.shape[0] // spec.groups, spec.shape[1])


def _single_image(spec: TensorSpec) -> bool:
    """Whether some of its channels can be shown apart."""
    return spec.layout == "block" and spec.shape[0] == 1


@dataclass
class Staging:
    """Where slices of one node's weights lie on the device: in two places by turns, so that one can be brought while
    the other is used. What is not is not alive, so that a single place serves where nothing is brought early.
    """

    slicing: Slicing
    size: int  # output channels of a slice
    _places: list[Value] = field(default_factory=list)
    _count: int = 0

    def turn(self) -> Value:
        """The place of the next slice."""
        if len(self._places) < 2:
            name = f"{self.slicing.weight.name} staged"
            self._places.append(Value(name, self.slicing.spec(self.size)))
        self._count += 1
        return self._places[(self._count - 1) % 2]
